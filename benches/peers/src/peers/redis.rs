//! A redis-server of our own over loopback, spoken to by the crate `redis`.
//!
//! Each receiver has a connection; publishes are pipelined. The server persists nothing.

use std::cell::RefCell;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis::{Client, Connection, Msg, Pipeline};

use super::{Got, Payload, Peer, Publish, Receive, WhenFull};

pub const NAME: &str = "redis-server (pipelined)";

const CHANNEL: &str = "user:42:notifications";

/// After so long without a message there will be none.
const PATIENCE: Duration = Duration::from_secs(10);

/// A redis-server that ends with this value.
pub struct Server {
    process: Child,
    client: Client,
    version: String,
}

impl Server {
    /// `Ok(None)`: redis-server is not installed.
    pub fn start() -> Result<Option<Self>> {
        let Ok(output) = Command::new("redis-server").arg("--version").output() else {
            return Ok(None);
        };
        let version = String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or("of unknown version")
            .to_owned();
        // The port is free again when the listener is dropped.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let client = Client::open(("127.0.0.1", port))?;
        let server = Self { process, client, version };
        let deadline = Instant::now() + PATIENCE;
        while server.client.get_connection().is_err() {
            ensure!(Instant::now() < deadline, "redis-server does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn publisher(&self) -> Result<Publisher> {
        let connection = self.client.get_connection()?;
        Ok(Publisher(RefCell::new(Pipelined { connection, pipeline: Pipeline::new() })))
    }

    /// One connection that is subscribed to all of `names`.
    pub fn subscribe<S: AsRef<str>>(&self, names: &[S]) -> Result<Inbox> {
        self.listen("SUBSCRIBE", names)
    }

    pub fn psubscribe<S: AsRef<str>>(&self, patterns: &[S]) -> Result<Inbox> {
        self.listen("PSUBSCRIBE", patterns)
    }

    fn listen<S: AsRef<str>>(&self, command: &str, names: &[S]) -> Result<Inbox> {
        let mut connection = self.client.get_connection()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        // In parts, so that neither side waits for the other to read.
        for names in names.chunks(500) {
            let mut subscribe = redis::cmd(command);
            for name in names {
                subscribe.arg(name.as_ref());
            }
            connection.send_packed_command(&subscribe.get_packed_command())?;
            for _ in names {
                connection.recv_response()?;
            }
        }
        Ok(Inbox(connection))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The sending end: a pipeline that `flush` sends, waiting for the replies.
pub struct Publisher(RefCell<Pipelined>);

struct Pipelined {
    connection: Connection,
    pipeline: Pipeline,
}

impl Publisher {
    pub fn publish_to(&self, channel: &str, payload: &[u8]) {
        self.0.borrow_mut().pipeline.cmd("PUBLISH").arg(channel).arg(payload).ignore();
    }
}

impl Publish for Publisher {
    fn publish(&self, payload: Payload) -> Result<()> {
        self.publish_to(CHANNEL, &payload);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let Pipelined { connection, pipeline } = &mut *self.0.borrow_mut();
        pipeline.exec(connection)?;
        pipeline.clear();
        Ok(())
    }
}

/// The receiving end: a connection in subscribed mode.
pub struct Inbox(Connection);

impl Receive for Inbox {
    /// A connection can only be read by waiting; the shapes know how many messages are under way.
    fn try_recv(&mut self) -> Result<Got> {
        self.recv()
    }

    fn recv(&mut self) -> Result<Got> {
        let answer = self.0.recv_response().context("waiting for a message of redis-server")?;
        match Msg::from_owned_value(answer) {
            Some(message) => Ok(Got::Message(Payload::from(message.get_payload_bytes()))),
            None => bail!("redis-server sent what is no message"),
        }
    }
}

impl Peer for Server {
    type Publisher = Publisher;
    type Receiver = Inbox;

    fn name(&self) -> &'static str {
        NAME
    }

    fn when_full(&self) -> WhenFull {
        WhenFull::ServerBuffers
    }

    fn open(
        &self,
        receivers: usize,
        _capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let inboxes = (0..receivers).map(|_| self.subscribe(&[CHANNEL])).collect::<Result<_>>()?;
        Ok((self.publisher()?, inboxes))
    }
}
