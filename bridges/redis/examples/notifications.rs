//! The main job across two processes: this one publishes notifications to random users at a set rate, a second one,
//! which it starts, has the users. Between them is a Redis server.
//!
//! ```text
//! redis-server
//! cargo run --release --example notifications -- --via-redis
//! cargo run --release --example notifications -- --via-redis redis://other:6379 --users 100000 --rate 20000
//! ```
//!
//! Without `--via-redis` the users are in this process, on the same bus, for comparison.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use fanout::{Bus, Subscriber};
use fanout_redis::{Bridge, BridgeHandle};
use hdrhistogram::Histogram;

/// Sends notifications to users at a set rate, and shows how long they took.
#[derive(Parser)]
struct Args {
    /// Have the users in another process, by way of the Redis server at this URL
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "redis://127.0.0.1:6379")]
    via_redis: Option<String>,

    /// Users, each with an inbox of its own
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,

    /// Notifications a second
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,

    /// How long to publish
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// Be the process that has the users
    #[arg(long, hide = true)]
    reads: bool,
}

type Payload = Arc<[u8]>;
type AnyError = Box<dyn std::error::Error>;

const PATTERN: &str = "user:*:notifications";

fn channel(user: u32) -> String {
    format!("user:{user}:notifications")
}

/// Nanoseconds since 1970: both processes have the same clock.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.via_redis {
        Some(url) if args.reads => read(&args, url),
        Some(url) => publish_to_other(&args, url),
        None => publish_here(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- publishing ----------------------------------------------------------------------------------

/// Publishes on schedule. Returns how many were published, and in what time.
fn publish(bus: &Bus<Payload>, args: &Args) -> (u64, Duration) {
    let began = Instant::now();
    let total = u64::from(args.rate) * u64::from(args.seconds);
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..total {
        let due = began + Duration::from_nanos(number * 1_000_000_000 / u64::from(args.rate));
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            if left > Duration::from_micros(200) {
                thread::sleep(left / 2)
            } else {
                thread::yield_now()
            }
        }
        let body = format!("{} user {number} likes your post", now());
        bus.publish(&channel(random.u32(..args.users)), body.into_bytes());
    }
    (total, began.elapsed())
}

fn publish_here(args: &Args) -> Result<(), AnyError> {
    let bus: Bus<Payload> = Bus::new();
    let users = Users::join(&bus, args.users)?;
    let is_over = AtomicBool::new(false);
    let (published, seen) = thread::scope(|scope| {
        let reader = scope.spawn(|| users.read(&is_over));
        let published = publish(&bus, args);
        is_over.store(true, Ordering::Release);
        (published, reader.join().expect("it does not panic"))
    });
    report(args, published, &seen);
    Ok(())
}

fn publish_to_other(args: &Args, url: &str) -> Result<(), AnyError> {
    let bus: Bus<Payload> = Bus::new();
    let bridge = Bridge::builder(&bus, url).forward(PATTERN).attempts(Some(3)).spawn()?;
    bridge.wait_ready(Duration::from_secs(10))?;
    let mut other = Other::start(url, args)?;
    let published = publish(&bus, args);
    bridge.drain();
    let sent = finished(bridge)?;
    drop(other.child.stdin.take());
    let seen = other.result()?;
    report(args, published, &seen);
    println!("{sent} were sent to the server");
    Ok(())
}

/// Waits until the bridge has sent what it had. Returns how many that were in all.
fn finished(bridge: BridgeHandle) -> Result<u64, AnyError> {
    while !bridge.is_finished() {
        thread::sleep(Duration::from_millis(5));
    }
    let sent = bridge.stats().sent;
    bridge.join()?;
    Ok(sent)
}

fn report(args: &Args, (published, took): (u64, Duration), seen: &Seen) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    let [median, most, longest] = seen.latency.map(|nanos| format!("{:.0} µs", nanos as f64 / 1e3));
    table.add_row(["users", &args.users.to_string()]);
    table.add_row(["published a second", &format!("{:.0}", published as f64 / took.as_secs_f64())]);
    table.add_row(["published", &published.to_string()]);
    table.add_row(["arrived", &seen.count.to_string()]);
    table.add_row(["missed by full inboxes", &seen.missed.to_string()]);
    table.add_row(["under way, median", &median]);
    table.add_row(["under way, 99 %", &most]);
    table.add_row(["under way, longest", &longest]);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

// ---- reading -------------------------------------------------------------------------------------

struct Users {
    inboxes: Vec<Subscriber<Payload>>,
}

/// What the users got.
struct Seen {
    count: u64,
    missed: u64,
    /// How long notifications were under way, in nanoseconds: the median, the 99th percentile, the longest.
    latency: [u64; 3],
}

impl Users {
    fn join(bus: &Bus<Payload>, count: u32) -> Result<Self, AnyError> {
        let builder = bus.subscriber_builder().capacity(64).lifecycle_events(false);
        let inboxes: Result<_, _> =
            (0..count).map(|user| builder.clone().subscribe(channel(user))).collect();
        Ok(Self { inboxes: inboxes? })
    }

    /// Sweeps the inboxes until nothing more will come. A server has a task for each of its users instead.
    fn read(&self, is_over: &AtomicBool) -> Seen {
        let mut latency =
            Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        let mut count = 0;
        loop {
            let is_last = is_over.load(Ordering::Acquire);
            let before = count;
            for message in self.inboxes.iter().flat_map(Subscriber::try_messages) {
                count += 1;
                let sent = message.payload.split(|&byte| byte == b' ').next().unwrap_or_default();
                let sent: Option<u64> =
                    std::str::from_utf8(sent).ok().and_then(|it| it.parse().ok());
                if let Some(sent) = sent {
                    latency.saturating_record(now().saturating_sub(sent));
                }
            }
            if is_last && count == before {
                break;
            }
            thread::yield_now();
        }
        let missed = self.inboxes.iter().map(Subscriber::missed).sum();
        let latency = [0.5, 0.99, 1.0].map(|quantile| latency.value_at_quantile(quantile));
        Seen { count, missed, latency }
    }
}

/// The other process: it says `ready`, reads until its input ends, and says what it saw.
fn read(args: &Args, url: &str) -> Result<(), AnyError> {
    let bus: Bus<Payload> = Bus::new();
    let users = Users::join(&bus, args.users)?;
    let bridge = Bridge::builder(&bus, url).accept(PATTERN).attempts(Some(3)).spawn()?;
    bridge.wait_ready(Duration::from_secs(60))?;
    println!("ready");
    std::io::stdout().flush()?;
    let is_over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            std::io::stdin().lock().lines().for_each(drop);
            // What is under way has half a second to arrive.
            thread::sleep(Duration::from_millis(500));
            is_over.store(true, Ordering::Release);
        });
        users.read(&is_over)
    });
    let [median, most, longest] = seen.latency;
    println!("{} {} {median} {most} {longest}", seen.count, seen.missed);
    Ok(())
}

struct Other {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Other {
    fn start(url: &str, args: &Args) -> Result<Self, AnyError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--reads", "--via-redis", url, "--users", &args.users.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the other process has no output")?;
        let mut other = Self { child, output: BufReader::new(output) };
        if other.line()? != "ready" {
            return Err("the other process did not get ready".into());
        }
        Ok(other)
    }

    fn line(&mut self) -> Result<String, AnyError> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn result(mut self) -> Result<Seen, AnyError> {
        let line = self.line()?;
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let Ok([count, missed, median, most, longest]) = <[u64; 5]>::try_from(numbers?) else {
            return Err("the other process did not say what it saw".into());
        };
        self.child.wait()?;
        Ok(Seen { count, missed, latency: [median, most, longest] })
    }
}
