//! Messages a second from one process to another, through a server of our own: by two bridges, and by the crate `redis`
//! alone, which publishes in pipelines of 256 and reads pushes. The two take turns, and each round is their ratio.
//!
//! ```text
//! cargo bench --bench throughput
//! cargo bench --bench throughput -- --test      # in a second, to see that it works
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use fanout::{Bus, Overflow};
use fanout_redis::Bridge;
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use support::Server;

const CHANNELS: u64 = 16;
const BATCH: u64 = 256;
const PAYLOAD: usize = 64;
const WAITING: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum By {
    Bridge,
    Redis,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Redis => "redis alone",
        }
    }
}

fn main() {
    if let Ok(by) = env::var("FANOUT_BENCH_READS") {
        let url = env::var("FANOUT_BENCH_URL").expect("set by the parent");
        let count = env::var("FANOUT_BENCH_COUNT").expect("set by the parent").parse().unwrap();
        return if by == By::Bridge.name() {
            read_by_bridge(&url, count)
        } else {
            read_by_redis(&url, count)
        };
    }
    let is_test = env::args().any(|argument| argument == "--test");
    let (messages, rounds) = if is_test { (20_000, 1) } else { (1_000_000, 7) };
    let server = Server::start();
    // What is measured is not how much the server can hold for a reader that is behind.
    let limit = ["SET", "client-output-buffer-limit", "pubsub 0 0 0"];
    redis::cmd("CONFIG").arg(&limit).query::<()>(&mut server.client()).unwrap();
    let mut seconds: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (by, seconds) in [By::Bridge, By::Redis].into_iter().zip(&mut seconds) {
            seconds.push(run(by, &server.url(), messages));
        }
    }
    let mut ratios: Vec<_> =
        seconds[0].iter().zip(&seconds[1]).map(|(bridge, redis)| bridge / redis).collect();
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "messages a second", "time, over redis alone"]);
    let rate = |seconds: &mut Vec<f64>| format!("{:.0} k", messages as f64 / median(seconds) / 1e3);
    let [bridge, redis] = &mut seconds;
    table.add_row([By::Bridge.name(), &rate(bridge), &format!("{:.2} x", median(&mut ratios))]);
    table.add_row([By::Redis.name(), &rate(redis), ""]);
    println!(
        "{messages} messages of {PAYLOAD} bytes on {CHANNELS} channels, median of {rounds} rounds\n{table}"
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the seconds from the first publish until the reader has the last message.
fn run(by: By, url: &str, messages: u64) -> f64 {
    let mut reader = Reader::start(by, url, messages);
    reader.expect("ready");
    let began = Instant::now();
    match by {
        By::Bridge => publish_by_bridge(url, messages, &mut reader),
        By::Redis => publish_by_redis(url, messages, &mut reader),
    }
    let seconds = began.elapsed().as_secs_f64();
    assert!(reader.child.wait().unwrap().success());
    seconds
}

/// A process that reads.
struct Reader {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(by: By, url: &str, messages: u64) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .env("FANOUT_BENCH_READS", by.name())
            .env("FANOUT_BENCH_URL", url)
            .env("FANOUT_BENCH_COUNT", messages.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { output, child }
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // If the other side has panicked, it would read for ever.
        let _ = self.child.kill();
    }
}

fn say(word: &str) {
    println!("{word}");
    std::io::stdout().flush().unwrap();
}

fn channel(number: u64) -> String {
    format!("channel:{number}")
}

// ---- by bridges ----------------------------------------------------------------------------------

fn publish_by_bridge(url: &str, messages: u64, reader: &mut Reader) {
    let bus: Bus<Arc<[u8]>> = Bus::new();
    // Nothing may be lost: who publishes waits.
    let bridge = Bridge::builder(&bus, url)
        .forward("channel:*")
        .overflow(Overflow::Block { timeout: None })
        .spawn()
        .unwrap();
    bridge.wait_ready(WAITING).unwrap();
    let topics: Vec<_> = (0..CHANNELS).map(|number| bus.topic(&channel(number))).collect();
    let payload: Arc<[u8]> = vec![7; PAYLOAD].into();
    for number in 0..messages {
        topics[(number % CHANNELS) as usize].publish(Arc::clone(&payload));
    }
    reader.expect("done");
}

fn read_by_bridge(url: &str, messages: u64) {
    let bus: Bus<Arc<[u8]>> = Bus::new();
    let bridge = Bridge::builder(&bus, url).accept("channel:*").spawn().unwrap();
    let sub = bus
        .subscriber_builder()
        .capacity(65_536)
        .overflow(Overflow::Block { timeout: None })
        .lifecycle_events(false)
        .psubscribe("channel:*")
        .unwrap();
    bridge.wait_ready(WAITING).unwrap();
    wait_until_subscribed(url);
    say("ready");
    let mut bytes = 0;
    (0..messages).for_each(|_| bytes += sub.recv_message().unwrap().payload.len());
    assert_eq!(bytes as u64, messages * PAYLOAD as u64);
    say("done");
}

fn wait_until_subscribed(url: &str) {
    let mut client = redis::Client::open(url).unwrap().get_connection().unwrap();
    while redis::cmd("PUBSUB").arg("NUMPAT").query::<u64>(&mut client).unwrap() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

// ---- by the crate alone --------------------------------------------------------------------------

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn publish_by_redis(url: &str, messages: u64, reader: &mut Reader) {
    let payload = [7_u8; PAYLOAD];
    let channels: Vec<_> = (0..CHANNELS).map(channel).collect();
    runtime().block_on(async {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut number = 0;
        while number < messages {
            let mut pipeline = redis::Pipeline::with_capacity(BATCH as usize);
            for _ in 0..BATCH.min(messages - number) {
                let channel = &channels[(number % CHANNELS) as usize];
                pipeline.cmd("PUBLISH").arg(channel).arg(&payload[..]);
                number += 1;
            }
            let _: Vec<u64> = pipeline.query_async(&mut connection).await.unwrap();
        }
    });
    reader.expect("done");
}

fn read_by_redis(url: &str, messages: u64) {
    runtime().block_on(async {
        let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel::<PushInfo>();
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let client = redis::Client::open(format!("{url}/?protocol=resp3")).unwrap();
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        connection.psubscribe("channel:*").await.unwrap();
        say("ready");
        let (mut count, mut bytes) = (0, 0);
        while count < messages {
            let push = pushes.recv().await.expect("connected");
            if push.kind == PushKind::PMessage {
                count += 1;
                if let Some(redis::Value::BulkString(payload)) = push.data.get(2) {
                    bytes += payload.len();
                }
            }
        }
        assert_eq!(bytes as u64, messages * PAYLOAD as u64);
    });
    say("done");
}
