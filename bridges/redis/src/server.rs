//! Where the server is.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisResult,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::gate::{Gate, Gated};

/// A server, or who knows where it is.
pub(crate) enum Server {
    At(Client),
    #[cfg(feature = "sentinel")]
    Sentinel(tokio::sync::Mutex<redis::sentinel::SentinelClient>),
}

impl Server {
    /// Returns the server at `url`, which has a certificate by `authority` if that is given, in PEM. Nothing is sent
    /// yet.
    pub(crate) fn at(url: &str, authority: Option<&[u8]>) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        // A message is not to wait for the next one.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        #[cfg(feature = "tls")]
        if let Some(authority) = authority {
            let root_cert = Some(authority.to_owned());
            let certificates = redis::TlsCertificates { client_tls: None, root_cert };
            return Ok(Self::At(Client::build_with_tls(info, certificates)?));
        }
        let _ = authority;
        Ok(Self::At(Client::open(info)?))
    }

    /// Returns the master `name`, which the sentinels at `urls` know.
    #[cfg(feature = "sentinel")]
    pub(crate) fn by_sentinel(urls: &[String], name: &str, url: &str) -> RedisResult<Self> {
        use redis::sentinel::{SentinelClientBuilder, SentinelServerType};

        let addresses: RedisResult<Vec<_>> = urls
            .iter()
            .map(|url| Ok(url.as_str().into_connection_info()?.addr().clone()))
            .collect();
        let info = url.into_connection_info()?;
        let settings = info.redis_settings();
        let mut builder = SentinelClientBuilder::new(addresses?, name, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(settings.db())
            .set_client_to_redis_tcp_settings(TcpSettings::default().set_nodelay(true));
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        Ok(Self::Sentinel(tokio::sync::Mutex::new(builder.build()?)))
    }

    /// Finds the server.
    pub(crate) async fn find(&self) -> RedisResult<Client> {
        match self {
            Self::At(client) => Ok(client.clone()),
            #[cfg(feature = "sentinel")]
            Self::Sentinel(client) => client.lock().await.async_get_client().await,
        }
    }
}

/// Connects to a server, through `gate` if that is possible: not with TLS.
pub(crate) async fn connect_gated(
    client: &Client,
    config: AsyncConnectionConfig,
    gate: &Arc<Gate>,
) -> RedisResult<MultiplexedConnection> {
    let info = client.get_connection_info();
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            let stream = TcpStream::connect((&**host, *port)).await?;
            stream.set_nodelay(true)?;
            begin(info, stream, config, gate).await
        }
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => {
            begin(info, UnixStream::connect(path).await?, config, gate).await
        }
        _ => client.get_multiplexed_async_connection_with_config(&config).await,
    }
}

async fn begin<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    info: &ConnectionInfo,
    stream: S,
    config: AsyncConnectionConfig,
    gate: &Arc<Gate>,
) -> RedisResult<MultiplexedConnection> {
    let stream = Gated::new(stream, Arc::clone(gate));
    let settings = info.redis_settings();
    let (connection, driver) =
        MultiplexedConnection::new_with_config(settings, stream, config).await?;
    // It ends with the last handle of the connection.
    tokio::spawn(driver);
    Ok(connection)
}
