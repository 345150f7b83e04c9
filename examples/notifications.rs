//! Notifications to half a million users, as a server would send them: every user has an inbox of its
//! own on `user:{id}:notifications`, publishers send follows, likes and comments as JSON to random
//! users at a set rate, workers read the inboxes, and one monitor sees everything through the pattern
//! `user:*:notifications`.
//!
//! At the end it prints what was sent and read, how long publishing took and how long a notification
//! was under way, and it audits the books: if one message is unaccounted for, it says so and exits 1.
//!
//! ```text
//! cargo run --release --example notifications
//! cargo run --release --example notifications -- --users 10000 --rate 200000 --seconds 2 --json
//! cargo run --release --example notifications -- --followers 1000     # one post to 1,000 users at a time
//! cargo run --release --example notifications -- --help
//! ```

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use fanout::crossbeam_channel::{Receiver, Sender, bounded};
use fanout::{Bus, Message, Stats, Subscriber};
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

/// Number of notifications that a user's inbox holds before it drops the oldest.
const INBOX_CAPACITY: usize = 16;

/// Capacity of the monitor, which gets what all users get together: enough for about a second.
const MONITOR_CAPACITY: usize = 65_536;

/// Every notification is for its user and for the monitor.
const MATCHES_EACH: u64 = 2;

/// Sends notifications to many users at a set rate, and audits what arrived.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
struct Args {
    /// Users, each with an inbox of its own
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,

    /// Users that each event goes to; with more than one, events are posts, sent to all followers in one call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    followers: u32,

    /// Notifications a second, of all publishers together
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,

    /// How long to publish
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,

    /// Threads that read the users' inboxes
    #[arg(long, default_value_t = default_workers(), value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    /// Threads that publish; each keeps a processor busy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    publishers: u16,

    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
}

/// One processor is the publisher's; more than a few workers would only wake each other's cores.
fn default_workers() -> u16 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(processors.saturating_sub(1).clamp(1, 4)).expect("at most 4")
}

// ---- what is sent --------------------------------------------------------------------------------

/// On the wire: `{"to":7,"sent":1500,"what":{"type":"like","by":42,"post":9}}`.
#[derive(Serialize, Deserialize)]
struct Notification<'a> {
    /// The user, unless it goes to several.
    to: Option<u32>,
    /// When, in nanoseconds since the run began.
    sent: u64,
    #[serde(borrow)]
    what: What<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum What<'a> {
    Follow {
        by: u32,
    },
    Like {
        by: u32,
        post: u32,
    },
    Comment {
        by: u32,
        post: u32,
        #[serde(borrow)]
        text: Cow<'a, str>,
    },
    Post {
        by: u32,
        post: u32,
    },
}

impl What<'_> {
    fn random(random: &mut Random, users: u32) -> Self {
        const TEXTS: [&str; 4] =
            ["Congratulations!", "So \"true\".", "Où était-ce ? 😍", "First\nsecond"];
        let (by, post) = (random.below(users), random.below(u32::MAX));
        match random.below(3) {
            0 => Self::Follow { by },
            1 => Self::Like { by, post },
            _ => Self::Comment { by, post, text: Cow::Borrowed(TEXTS[random.below(4) as usize]) },
        }
    }
}

/// SplitMix64: the same run each time, and no dependency.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (((bits >> 32) * u64::from(bound)) >> 32) as u32
    }
}

fn channel_of(user: u32, name: &mut String) {
    name.clear();
    write!(name, "user:{user}:notifications").expect("a String takes all");
}

// ---- users, and how their worker learns of mail --------------------------------------------------

/// A user's inbox, and the flag that wakes its worker.
///
/// A worker cannot block on 250,000 inboxes, and sweeping them takes milliseconds. A server has the
/// answer already: each user is a connection with a task, and mail wakes the task. `woken` and the
/// worker's queue of user numbers play that part here. A user is in the queue at most once, as a task
/// is in its executor's run queue, so that the queue never fills, and a publisher never waits for a
/// slow worker: then the inbox overflows, as it should, and `missed` tells.
struct Mailbox {
    inbox: Subscriber,
    woken: AtomicBool,
    /// Number of messages published to this user, for the audit.
    sent: AtomicU64,
}

impl Mailbox {
    fn join(bus: &Bus, name: &str) -> Result<Self, Box<dyn Error>> {
        // Nobody reads the lifecycle events of half a million inboxes, and kept events take memory.
        let builder = bus.subscriber_builder().capacity(INBOX_CAPACITY).lifecycle_events(false);
        Ok(Self {
            inbox: builder.subscribe(name)?,
            woken: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        })
    }

    /// Called after a publish: if `woken` was set already, the worker has yet to clear it, and it will
    /// find the message when it drains after that.
    fn wake(&self, user: u32, queue: &Sender<u32>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // Only fails when the worker has died; joining it tells why.
            let _ = queue.send(user);
        }
    }
}

// ---- the threads ---------------------------------------------------------------------------------

/// State that all threads of a run share.
struct Run<'a> {
    bus: &'a Bus,
    mailboxes: &'a [Mailbox],
    start: Instant,
    published: AtomicU64,
}

impl Run<'_> {
    fn nanos(&self) -> u64 {
        nanos(self.start.elapsed())
    }
}

/// The account of one publisher.
struct Sent {
    count: u64,
    matched: u64,
    delivered: u64,
    dropped: u64,
    /// Times of the publish alone, for each user that it goes to. If the monitor's thread sleeps the publish wakes it,
    /// a system call that costs more than the rest.
    publish: Histogram<u64>,
    /// Times by which each publish began behind its schedule.
    late: Histogram<u64>,
    finished: Instant,
}

/// Publishes every `publishers`-th event of the schedule, beginning with `first`.
fn publish(run: &Run<'_>, args: &Args, first: u64, queues: &[Sender<u32>]) -> Sent {
    let followers = u64::from(args.followers);
    let mut random = Random(first);
    let mut to = vec![0; args.followers as usize];
    let mut names = vec![String::new(); to.len()];
    let mut sent = Sent {
        count: 0,
        matched: 0,
        delivered: 0,
        dropped: 0,
        publish: histogram(),
        late: histogram(),
        finished: run.start,
    };
    for event in (first..events(args)).step_by(args.publishers.into()) {
        // The schedule is absolute: what is late does not delay what follows, so the rate cannot drift.
        let due = run.start + nth(event * followers, args.rate);
        wait_until(due);
        sent.late.saturating_record(nanos(due.elapsed()));

        for (user, name) in to.iter_mut().zip(&mut names) {
            *user = random.below(args.users);
            channel_of(*user, name);
        }
        let (one, what) = match to[..] {
            [user] => (Some(user), What::random(&mut random, args.users)),
            _ => (None, What::Post { by: random.below(args.users), post: random.below(u32::MAX) }),
        };
        let notification = Notification { to: one, sent: run.nanos(), what };
        let json = serde_json::to_string(&notification).expect("plain data");
        let payload: Arc<str> = Arc::from(json);

        let began = Instant::now();
        let receipt = match &names[..] {
            [name] => run.bus.publish(name, payload),
            names => run.bus.publish_many(names, payload),
        };
        sent.publish.saturating_record(nanos(began.elapsed()) / followers);

        for &user in &to {
            let mailbox = &run.mailboxes[user as usize];
            mailbox.sent.fetch_add(1, Ordering::Relaxed);
            mailbox.wake(user, &queues[user as usize % queues.len()]);
        }

        sent.count += followers;
        sent.matched += receipt.matched as u64;
        sent.delivered += receipt.delivered as u64;
        sent.dropped += receipt.dropped as u64;
        run.published.fetch_add(followers, Ordering::Relaxed);
    }
    // The last message's slot belongs to the run too, or the rate would seem higher than it was.
    wait_until(run.start + nth(total(args), args.rate));
    sent.finished = Instant::now();
    sent
}

/// Returns the time after the start at which message `number` is due, at `rate` messages a second.
fn nth(number: u64, rate: u32) -> Duration {
    let rate = u64::from(rate);
    let (whole, rest) = (number / rate, number % rate);
    Duration::from_secs(whole) + Duration::from_nanos(rest * 1_000_000_000 / rate)
}

fn wait_until(due: Instant) {
    // The operating system may wake a sleeper late by this much.
    const SLACK: Duration = Duration::from_micros(200);
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        } else if left > SLACK {
            thread::sleep(left - SLACK);
        } else {
            // Rather than spin: on a machine with few processors a worker may be waiting for this one.
            thread::yield_now();
        }
    }
}

/// The account of one reader: a worker, or the monitor.
struct Seen {
    count: u64,
    follows: u64,
    likes: u64,
    comments: u64,
    posts: u64,
    /// Payloads that did not parse, or were for another channel's user.
    bad: u64,
    /// Times from just before a notification was encoded until it was parsed.
    latency: Histogram<u64>,
}

impl Seen {
    fn new() -> Self {
        Self { count: 0, follows: 0, likes: 0, comments: 0, posts: 0, bad: 0, latency: histogram() }
    }

    fn read(&mut self, message: &Message, run: &Run<'_>) {
        self.count += 1;
        let Ok(notification) = serde_json::from_str::<Notification<'_>>(&message.payload) else {
            self.bad += 1;
            return;
        };
        self.latency.saturating_record(run.nanos().saturating_sub(notification.sent));
        let user = user_of(message.channel());
        if user.is_none() || notification.to.is_some() && notification.to != user {
            self.bad += 1;
        }
        match notification.what {
            What::Follow { .. } => self.follows += 1,
            What::Like { .. } => self.likes += 1,
            What::Comment { .. } => self.comments += 1,
            What::Post { .. } => self.posts += 1,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.follows += other.follows;
        self.likes += other.likes;
        self.comments += other.comments;
        self.posts += other.posts;
        self.bad += other.bad;
        self.latency += &other.latency;
    }
}

fn user_of(channel: &str) -> Option<u32> {
    channel.strip_prefix("user:")?.strip_suffix(":notifications")?.parse().ok()
}

/// Reads the inboxes of every `workers`-th user, beginning with `first`, until the publishers are gone.
fn work(run: &Run<'_>, args: &Args, first: usize, queue: &Receiver<u32>) -> Seen {
    let mut seen = Seen::new();
    let mut drain = |mailbox: &Mailbox| {
        while let Ok(message) = mailbox.inbox.try_recv_message() {
            seen.read(&message, run);
        }
    };
    for user in queue {
        let mailbox = &run.mailboxes[user as usize];
        // Before draining: a message that comes during it wakes again, if in vain.
        mailbox.woken.swap(false, Ordering::AcqRel);
        drain(mailbox);
    }
    run.mailboxes.iter().skip(first).step_by(args.workers.into()).for_each(drain);
    seen
}

/// Reads what all users get, until the monitor is closed.
fn watch(run: &Run<'_>, monitor: &Subscriber) -> Seen {
    let mut seen = Seen::new();
    for message in monitor.messages() {
        seen.read(&message, run);
    }
    seen
}

// ---- the run -------------------------------------------------------------------------------------

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) if report.imbalances.is_empty() => ExitCode::SUCCESS,
        Ok(report) => {
            for imbalance in report.imbalances {
                eprintln!("error: the books do not balance: {imbalance}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Report, Box<dyn Error>> {
    let bus: Bus = Bus::new();
    let monitor = bus
        .subscriber_builder()
        .label("monitor")
        .capacity(MONITOR_CAPACITY)
        .lifecycle_events(false)
        .psubscribe("user:*:notifications")?;

    let workers = usize::from(args.workers);
    let (queues, wakes): (Vec<_>, Vec<_>) =
        (0..workers).map(|_| bounded((args.users as usize).div_ceil(workers))).unzip();

    let before = resident_bytes();
    let began = Instant::now();
    let mailboxes = join_all(&bus, args.users)?;
    let joining = began.elapsed();
    // Memory comes in pages: of few users they tell nothing.
    let grown = before.zip(resident_bytes()).filter(|_| args.users >= 1_000);
    let bytes_per_user =
        grown.map(|(before, after)| (after as f64 - before as f64) / f64::from(args.users));

    let run = Run {
        bus: &bus,
        mailboxes: &mailboxes,
        // Far enough ahead that all threads are up by then.
        start: Instant::now() + Duration::from_millis(50),
        published: AtomicU64::new(0),
    };
    let (sent, users_saw, monitor_saw) = thread::scope(|scope| {
        let run = &run;
        let watcher = scope.spawn(|| watch(run, &monitor));
        let workers: Vec<_> = (0..)
            .zip(wakes)
            .map(|(first, queue)| scope.spawn(move || work(run, args, first, &queue)))
            .collect();
        let publishers: Vec<_> = (0..args.publishers.into())
            .map(|first| {
                let queues = queues.clone();
                scope.spawn(move || publish(run, args, first, &queues))
            })
            .collect();
        // The workers end when the publishers' clones are gone too.
        drop(queues);

        let bar = progress("publishing", total(args));
        while !publishers.iter().all(|publisher| publisher.is_finished()) {
            bar.set_position(run.published.load(Ordering::Relaxed));
            thread::sleep(Duration::from_millis(50));
        }
        bar.finish_and_clear();
        // It still reads what it holds. Before the joins: if one of them panics, the watcher ends too.
        monitor.close();

        let sent: Vec<Sent> = publishers.into_iter().map(join).collect();
        let mut users_saw = Seen::new();
        for worker in workers {
            users_saw.merge(&join(worker));
        }
        (sent, users_saw, join(watcher))
    });

    let report = Report::new(Outcome {
        args,
        joining,
        bytes_per_user,
        elapsed: sent.iter().map(|sent| sent.finished - run.start).max().unwrap_or_default(),
        sent,
        users_saw,
        monitor_saw,
        monitor_missed: monitor.missed(),
        mailboxes: &mailboxes,
        stats: bus.stats(),
    });
    let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
    writeln!(io::stdout(), "{text}")?;
    if !args.json && report.imbalances.is_empty() {
        let matched = HumanCount(report.matched);
        writeln!(
            io::stdout(),
            "audit: {matched} of {matched} messages accounted for, read or missed"
        )?;
    }
    Ok(report)
}

fn join_all(bus: &Bus, users: u32) -> Result<Vec<Mailbox>, Box<dyn Error>> {
    let bar = progress("joining", users.into());
    let mut mailboxes = Vec::with_capacity(users as usize);
    let mut name = String::new();
    for user in 0..users {
        channel_of(user, &mut name);
        mailboxes.push(Mailbox::join(bus, &name)?);
        if user % 1_024 == 0 {
            bar.set_position(user.into());
        }
    }
    bar.finish_and_clear();
    Ok(mailboxes)
}

/// Returns a progress bar on stderr; it is hidden if that is no terminal.
fn progress(what: &'static str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:>10} {wide_bar} {human_pos}/{human_len} {eta:>4}")
            .expect("a valid template");
    ProgressBar::new(total).with_style(style).with_message(what)
}

/// Returns a thread's result; its panic continues in this thread.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns how many notifications are sent, whole events of them.
fn total(args: &Args) -> u64 {
    events(args) * u64::from(args.followers)
}

fn events(args: &Args) -> u64 {
    (u64::from(args.rate) * u64::from(args.seconds) / u64::from(args.followers)).max(1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a histogram of nanoseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// Returns the bytes of memory that the process has, on Linux; elsewhere there is no such file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

// ---- the report ----------------------------------------------------------------------------------

/// The outcome of a run at rest: the threads have ended, nothing has been dropped yet.
struct Outcome<'a> {
    args: &'a Args,
    joining: Duration,
    bytes_per_user: Option<f64>,
    elapsed: Duration,
    sent: Vec<Sent>,
    users_saw: Seen,
    monitor_saw: Seen,
    monitor_missed: u64,
    mailboxes: &'a [Mailbox],
    stats: Stats,
}

#[derive(Serialize)]
struct Report {
    users: u32,
    followers: u32,
    publishers: u16,
    workers: u16,
    seconds: u32,
    joining_seconds: f64,
    published: u64,
    matched: u64,
    delivered: u64,
    dropped: u64,
    read_by_workers: u64,
    read_by_monitor: u64,
    missed_by_users: u64,
    missed_by_monitor: u64,
    target_rate: u32,
    achieved_rate: f64,
    rate_held: bool,
    publish: Quantiles,
    latency: Quantiles,
    monitor_latency: Quantiles,
    late: Quantiles,
    resident_bytes: Option<u64>,
    bytes_per_user: Option<f64>,
    imbalances: Vec<String>,
}

#[derive(Serialize)]
struct Quantiles {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(nanos: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        Self { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: micros(nanos.max()) }
    }
}

impl Report {
    fn new(outcome: Outcome<'_>) -> Self {
        let args = outcome.args;
        let sum = |of: fn(&Sent) -> u64| outcome.sent.iter().map(of).sum::<u64>();
        let merged = |of: fn(&Sent) -> &Histogram<u64>| {
            let mut all = histogram();
            for sent in &outcome.sent {
                all += of(sent);
            }
            Quantiles::from(&all)
        };
        let published = sum(|sent| sent.count);
        let achieved_rate = published as f64 / outcome.elapsed.as_secs_f64();
        let mut report = Self {
            users: args.users,
            followers: args.followers,
            publishers: args.publishers,
            workers: args.workers,
            seconds: args.seconds,
            joining_seconds: outcome.joining.as_secs_f64(),
            published,
            matched: sum(|sent| sent.matched),
            delivered: sum(|sent| sent.delivered),
            dropped: sum(|sent| sent.dropped),
            read_by_workers: outcome.users_saw.count,
            read_by_monitor: outcome.monitor_saw.count,
            missed_by_users: outcome.mailboxes.iter().map(|user| user.inbox.missed()).sum(),
            missed_by_monitor: outcome.monitor_missed,
            target_rate: args.rate,
            achieved_rate,
            rate_held: achieved_rate >= 0.99 * f64::from(args.rate),
            publish: merged(|sent| &sent.publish),
            latency: Quantiles::from(&outcome.users_saw.latency),
            monitor_latency: Quantiles::from(&outcome.monitor_saw.latency),
            late: merged(|sent| &sent.late),
            resident_bytes: resident_bytes(),
            bytes_per_user: outcome.bytes_per_user,
            imbalances: Vec::new(),
        };
        report.imbalances = report.audit(&outcome);
        report
    }

    /// Returns what does not add up: every message that a receipt counts was read, or is reported as missed.
    fn audit(&self, outcome: &Outcome<'_>) -> Vec<String> {
        let mut imbalances = Vec::new();
        let mut check = |what: &str, is: u64, should_be: u64| {
            if is != should_be {
                imbalances.push(format!("{what}: {is}, not {should_be}"));
            }
        };
        check("published, of rate × seconds", self.published, total(outcome.args));
        let read = |seen: &Seen| seen.follows + seen.likes + seen.comments + seen.posts + seen.bad;
        check("kinds of the users', of read", read(&outcome.users_saw), self.read_by_workers);
        check("matched, of two for each publish", self.matched, MATCHES_EACH * self.published);
        check("delivered + dropped, of matched", self.delivered + self.dropped, self.matched);
        let users = self.read_by_workers + self.missed_by_users;
        check("users' read + missed, of published", users, self.published);
        let monitor = self.read_by_monitor + self.missed_by_monitor;
        check("the monitor's read + missed, of published", monitor, self.published);
        check("bad payloads of users", outcome.users_saw.bad, 0);
        check("bad payloads of the monitor", outcome.monitor_saw.bad, 0);

        let stats = &outcome.stats;
        check("stats().published", stats.published, self.published);
        check("stats().matched", stats.matched, self.matched);
        check("stats().delivered", stats.delivered, self.delivered);
        check("stats().dropped", stats.dropped, self.dropped);
        let missed = self.missed_by_users + self.missed_by_monitor;
        check("stats().evicted + dropped, of missed", stats.evicted + stats.dropped, missed);
        check("stats().channels", stats.channels as u64, self.users.into());
        check("stats().subscribers", stats.subscribers as u64, self.users.into());

        // Each user by itself, because sums agree if two users' books are wrong in opposite ways.
        let mut received = 0;
        let mut wrong = (0..).zip(outcome.mailboxes).filter_map(|(user, mailbox)| {
            let (info, sent) = (mailbox.inbox.info(), mailbox.sent.load(Ordering::Relaxed));
            received += info.received;
            (info.received + info.missed != sent || info.depth != 0)
                .then(|| format!("user {user} was sent {sent}, but the inbox says {info:?}"))
        });
        let first_wrong: Option<String> = wrong.next();
        let more_wrong = wrong.count();
        check("info().received of all users, of read", received, self.read_by_workers);
        if let Some(first) = first_wrong {
            imbalances.push(format!("{first}, and {more_wrong} users more"));
        }
        imbalances
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |count: u64| HumanCount(count).to_string();
        let mut figures = Table::new();
        figures.load_preset(presets::UTF8_FULL_CONDENSED);
        let mut row = |what: &str, figure: String| {
            figures.add_row([what, &figure]);
        };
        row("users", count(self.users.into()));
        row("joined in", format!("{:.2} s", self.joining_seconds));
        row("published", count(self.published));
        row("delivered (user + monitor)", count(self.delivered));
        row("read by workers", count(self.read_by_workers));
        row("read by the monitor", count(self.read_by_monitor));
        row("missed by users", count(self.missed_by_users));
        row("missed by the monitor", count(self.missed_by_monitor));
        row("target rate", format!("{}/s", count(self.target_rate.into())));
        row("achieved rate", format!("{}/s", count(self.achieved_rate.round() as u64)));
        if !self.rate_held {
            row("WARNING", "the achieved rate is below 99 % of the target".to_owned());
        }
        let unknown = || "n/a".to_owned();
        let resident = self.resident_bytes.map(|bytes| HumanBytes(bytes).to_string());
        row("resident memory", resident.unwrap_or_else(unknown));
        let bytes_per_user = self.bytes_per_user.map(|bytes| format!("{bytes:.0} B"));
        row("memory a user", bytes_per_user.unwrap_or_else(unknown));

        let mut times = Table::new();
        times.load_preset(presets::UTF8_FULL_CONDENSED);
        times.set_header(["µs", "p50", "p99", "p99.9", "max"]);
        let publish = match self.followers {
            1 => "publish".to_owned(),
            followers => format!("publish to {}, each", count(followers.into())),
        };
        for (what, of) in [
            (&*publish, &self.publish),
            ("latency, to a user", &self.latency),
            ("latency, to the monitor", &self.monitor_latency),
            ("publisher behind schedule", &self.late),
        ] {
            let [p50, p99, p999, max] = [of.p50_us, of.p99_us, of.p999_us, of.max_us].map(micros);
            times.add_row([what.to_owned(), p50, p99, p999, max]);
        }

        for table in [&mut figures, &mut times] {
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{figures}\n{times}")
    }
}

/// Formats about three digits, the precision of the clock and the histogram.
fn micros(micros: f64) -> String {
    let decimals = match micros {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{micros:.decimals$}")
}
