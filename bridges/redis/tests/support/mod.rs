//! Servers, proxies and waiting, for the tests.

// Each test binary uses only some of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Subscriber};
use fanout_redis::{Bridge, BridgeBuilder, BridgeEvent, Raw};

/// Longer than anything takes that goes well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A real redis-server on a free port of the loopback, killed when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    arguments: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        Self { child: run(port, &arguments), port, arguments }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same port, after `kill`.
    pub fn restart(&mut self) {
        self.child = run(self.port, &self.arguments);
    }

    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Publishes as any other client does. Returns the number of receivers.
    pub fn publish(&self, channel: &str, body: impl redis::ToRedisArgs) -> usize {
        redis::cmd("PUBLISH").arg(channel).arg(body).query(&mut self.client()).unwrap()
    }

    /// Returns the channels and the number of patterns that somebody has subscribed at the server.
    pub fn subscriptions(&self) -> (Vec<String>, usize) {
        let mut client = self.client();
        let mut channels: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").query(&mut client).unwrap();
        channels.sort_unstable();
        (channels, redis::cmd("PUBSUB").arg("NUMPAT").query(&mut client).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be stopped, or killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sentinel that knows a server by a name, killed when dropped.
pub struct Sentinel {
    child: Child,
    port: u16,
}

impl Sentinel {
    pub fn of(server: &Server, name: &str) -> Self {
        let port = free_port();
        let directory = env!("CARGO_TARGET_TMPDIR");
        let config = format!("{directory}/sentinel-{port}.conf");
        let monitor = format!("sentinel monitor {name} 127.0.0.1 {} 1", server.port);
        let lines = format!("port {port}\nbind 127.0.0.1\ndir {directory}\n{monitor}\n");
        std::fs::write(&config, lines).unwrap();
        let child = Command::new("redis-server")
            .args([&config, "--sentinel"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the sentinel listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(port: u16, arguments: &[String]) -> Child {
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(["--dir", env!("CARGO_TARGET_TMPDIR")])
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server, of Debian's package of that name");
    eventually("redis-server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `is_so`.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a proxy does with the bytes that the server sends.
#[derive(Default)]
struct Flow {
    /// Pass no more than this many bytes, then cut the connection.
    left: Mutex<Option<usize>>,
    is_paused: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// A proxy in front of a server.
pub struct Proxy {
    pub port: u16,
    flow: Arc<Flow>,
}

impl Proxy {
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let flow = Arc::new(Flow::default());
        let its_flow = Arc::clone(&flow);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let mut streams = its_flow.streams.lock().unwrap();
                streams.push(client.try_clone().unwrap());
                streams.push(upstream.try_clone().unwrap());
                let (mut from, mut to) =
                    (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let flow = Arc::clone(&its_flow);
                thread::spawn(move || pass(upstream, client, &flow));
            }
        });
        Self { port, flow }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Passes `bytes` more of what the server sends, and then cuts the connection that they were on.
    pub fn cut_after(&self, bytes: usize) {
        *self.flow.left.lock().unwrap() = Some(bytes);
    }

    /// `true` if the cut has been made.
    pub fn has_cut(&self) -> bool {
        self.flow.left.lock().unwrap().is_none()
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        for stream in self.flow.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Passes nothing on from the server, as if the client did not read.
    pub fn pause(&self) {
        self.flow.is_paused.store(true, Ordering::SeqCst);
    }

    pub fn resume(&self) {
        self.flow.is_paused.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, flow: &Flow) {
    let mut buffer = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        while flow.is_paused.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let mut left = flow.left.lock().unwrap();
        let passed = left.map_or(read, |left| left.min(read));
        let is_cut = left.is_some_and(|left| left < read);
        *left = left.filter(|_| !is_cut).map(|left| left - passed);
        drop(left);
        if to.write_all(&buffer[..passed]).is_err() || is_cut {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// How long a [`steady`] bridge lets the server be silent.
pub const SILENCE: Duration = Duration::from_secs(3);

/// Returns a builder that is quick to come back, and takes no server for lost because the machine is busy.
#[allow(dead_code)]
pub fn steady<P: Clone + Send + 'static>(bus: &Bus<P>, url: &str) -> BridgeBuilder<P, Raw> {
    quick(bus, url).patience(SILENCE)
}

/// Returns a builder that is quick to come back, and quick to see that the server is silent. On a busy machine it may
/// take a server for lost that is not.
pub fn impatient<P: Clone + Send + 'static>(bus: &Bus<P>, url: &str) -> BridgeBuilder<P, Raw> {
    quick(bus, url).patience(Duration::from_millis(600))
}

/// Returns a builder that is quick to come back.
pub fn quick<P: Clone + Send + 'static>(bus: &Bus<P>, url: &str) -> BridgeBuilder<P, Raw> {
    Bridge::builder(bus, url)
        .patience(Duration::from_secs(20))
        .back_off(Duration::from_millis(10), Duration::from_millis(50))
        .linger(Duration::ZERO)
}

/// Returns a subscriber that yields messages alone, and has room for `capacity` of them.
pub fn subscribe<P: Clone + Send + 'static>(
    bus: &Bus<P>,
    capacity: usize,
    patterns: &[&str],
) -> Subscriber<P> {
    bus.subscriber_builder()
        .lifecycle_events(false)
        .capacity(capacity)
        .psubscribe_many(patterns)
        .unwrap()
}

/// Waits for the next event that `is_it`. Returns all until then.
#[track_caller]
pub fn await_event(
    events: &Subscriber<BridgeEvent>,
    is_it: impl Fn(&BridgeEvent) -> bool,
) -> Vec<BridgeEvent> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let Ok(message) = events.recv_message_deadline(deadline) else {
            panic!("not in time; seen: {seen:?}");
        };
        let found = is_it(&message.payload);
        seen.push(message.payload);
        if found {
            return seen;
        }
    }
}
