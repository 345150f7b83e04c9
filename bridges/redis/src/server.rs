//! Where the server is.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, RedisResult};

/// A server, or who knows where it is.
pub(crate) enum Server {
    At(Client),
    #[cfg(feature = "sentinel")]
    Sentinel(tokio::sync::Mutex<redis::sentinel::SentinelClient>),
}

impl Server {
    /// Returns the server at `url`. Nothing is sent yet.
    pub(crate) fn at(url: &str) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        // A message is not to wait for the next one.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
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
        let mut builder =
            SentinelClientBuilder::new(addresses?, name.to_owned(), SentinelServerType::Master)?
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

    pub(crate) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::At(client) => client.get_multiplexed_async_connection_with_config(config).await,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(config).await
            }
        }
    }
}
