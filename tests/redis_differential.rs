//! The engine and a real redis-server give the same answers: which channels a pattern matches, and
//! which events a script of subscribing, publishing and unsubscribing yields.
//!
//! Needs `redis-server` on the path and starts its own on a free loopback port. Without one it fails;
//! leave it out by name: `cargo test -- --skip redis_server`.
//!
//! `FANOUT_SEED` sets the seed, which is printed.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fanout::{Bus, Event, Pattern, Subscriber};
use redis::{Connection, RedisResult, Value, cmd};
use support::eventually;

/// A redis-server of our own, stopped when dropped.
struct Server {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("fanout-redis-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "redis-server does not start ({error}): install it (Debian's package \
                     `redis-server`), or leave this test out with `--skip redis_server`"
                )
            });
        let server = Self { process, port, folder };
        eventually("redis-server answers", || server.try_connect().is_ok());
        server
    }

    /// Waits until the server has forgotten the subscriptions of closed connections, which takes it a moment.
    fn await_no_subscriptions(&self) {
        let mut asking = self.connect();
        eventually("redis-server has forgotten all subscriptions", || {
            // Without a pattern it lists all channels, including the empty one.
            let channels: Vec<String> = cmd("PUBSUB").arg("CHANNELS").query(&mut asking).unwrap();
            let patterns: usize = cmd("PUBSUB").arg("NUMPAT").query(&mut asking).unwrap();
            channels.is_empty() && patterns == 0
        });
    }

    fn try_connect(&self) -> RedisResult<Connection> {
        let mut connection =
            redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?.get_connection()?;
        cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }

    fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn seeded(what: &str) -> Self {
        let seed = match std::env::var("FANOUT_SEED") {
            Ok(seed) => seed.parse().expect("FANOUT_SEED is a number"),
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.unwrap().as_nanos() as u64
            }
        };
        println!("{what}: FANOUT_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn text(&mut self, pieces: &[&str], most: usize) -> String {
        (0..self.below(most + 1)).map(|_| pieces[self.below(pieces.len())]).collect()
    }
}

/// Pieces of names: few letters, so that patterns match, bytes that have a meaning in patterns, and characters
/// of two, three and four bytes, some with common bytes.
const LETTERS: [&str; 16] =
    ["a", "b", "c", "a", "b", "-", "]", "[", "^", "\\", "*", "?", "é", "è", "€", "𝄞"];

/// Pieces of patterns: mostly wildcards, and the beginnings, ends and negations of classes.
const PATTERN_PIECES: [&str; 30] = [
    "a", "b", "c", "-", "é", "€", "*", "*", "*", "?", "?", "[", "[", "[^", "]", "]", "]", "^",
    "\\", "a-c", "c-a", "[^a", "[a-", "[]", "[^]", "[\\]", "\\*", "\\\\", "[é-", "𝄞",
];

/// Names subscribed on the server and on the bus.
const NAMES: usize = 500;
/// Patterns that are subscribed on one bus together.
const TOGETHER: usize = 500;
const ROUNDS: usize = 5;

fn matched_names(names: &[String], matches: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    names.iter().map(String::as_str).filter(|name| matches(name)).collect()
}

#[test]
fn patterns_agree_with_redis_server() {
    let server = Server::start();
    let mut random = Random::seeded("patterns_agree_with_redis_server");
    let mut asking = server.connect();
    let mut verdicts = 0_usize;
    let mut matches = 0_usize;
    for _ in 0..ROUNDS {
        let mut names = BTreeSet::from([String::new()]);
        while names.len() < NAMES {
            names.insert(random.text(&LETTERS, 6));
        }
        let names: Vec<String> = names.into_iter().collect();
        let mut patterns = BTreeSet::new();
        while patterns.len() < TOGETHER {
            patterns.insert(random.text(&PATTERN_PIECES, 7));
        }

        server.await_no_subscriptions();
        let mut subscribed = server.connect();
        subscribe_all(&mut subscribed, &names);
        let bus: Bus<()> = Bus::new();
        let holder = bus.subscriber_builder().lifecycle_events(false).capacity(1).build();
        holder.subscribe_many(&names).unwrap();

        // All patterns on one bus, each with its own subscriber, whose messages show what the pattern matched.
        let crowd: Bus<()> = Bus::builder().capacity(NAMES).build();
        let crowded: BTreeMap<&str, Subscriber<()>> =
            patterns.iter().map(|text| (&text[..], crowd.psubscribe(text).unwrap())).collect();
        for name in &names {
            crowd.publish(name, ());
        }

        for text in &patterns {
            let theirs: BTreeSet<String> = channels(&mut asking, text);
            let theirs: BTreeSet<&str> = theirs.iter().map(String::as_str).collect();
            verdicts += names.len();
            matches += theirs.len();

            let listed: BTreeSet<String> =
                bus.channels_matching(text).iter().map(|name| name.to_string()).collect();
            let listed = listed.iter().map(String::as_str).collect();
            compare(&server, "Bus::channels", text, &theirs, &listed, |pattern, name| {
                let bus: Bus<()> = Bus::new();
                let _holder = bus.subscribe(name).unwrap();
                !bus.channels_matching(pattern).is_empty()
            });

            let alone: Bus<()> = Bus::builder().capacity(NAMES).build();
            let _one = alone.psubscribe(text).unwrap();
            let one = matched_names(&names, |name| alone.publish(name, ()).matched == 1);
            compare(&server, "a publish past one pattern", text, &theirs, &one, |pattern, name| {
                let bus: Bus<()> = Bus::new();
                let _sub = bus.psubscribe(pattern).unwrap();
                bus.publish(name, ()).matched == 1
            });

            let messages: Vec<_> =
                crowded[&text[..]].try_iter().filter_map(|event| event.into_message()).collect();
            let many = messages.iter().map(|message| message.channel()).collect();
            let what = "a publish past 500 patterns";
            compare(&server, what, text, &theirs, &many, |pattern, name| {
                let bus: Bus<()> = Bus::new();
                let _others: Vec<_> =
                    patterns.iter().map(|text| bus.psubscribe(text).unwrap()).collect();
                let sub = bus.psubscribe(pattern).unwrap();
                bus.publish(name, ());
                sub.try_recv_message().is_ok()
            });
        }
    }
    println!(
        "{verdicts} verdicts of redis-server ({matches} matches), each compared three ways: none different"
    );
    assert!(verdicts >= 1_000_000);
    // If nearly all or nearly no pairs matched, the test would show little.
    assert!(matches > verdicts / 100 && matches < verdicts / 2, "{matches} of {verdicts}");
}

fn subscribe_all(connection: &mut Connection, names: &[String]) {
    let mut subscribe = cmd("SUBSCRIBE");
    names.iter().for_each(|name| {
        subscribe.arg(name);
    });
    connection.send_packed_command(&subscribe.get_packed_command()).unwrap();
    for _ in names {
        connection.recv_response().unwrap();
    }
}

fn channels(connection: &mut Connection, pattern: &str) -> BTreeSet<String> {
    cmd("PUBSUB").arg("CHANNELS").arg(pattern).query(connection).unwrap()
}

/// Fails if `ours` differ from `theirs`, and reports the smallest pair that shows it. `verdict` returns our
/// answer for any pair.
fn compare(
    server: &Server,
    what: &str,
    pattern: &str,
    theirs: &BTreeSet<&str>,
    ours: &BTreeSet<&str>,
    verdict: impl Fn(&str, &str) -> bool,
) {
    let Some(name) = theirs.symmetric_difference(ours).next() else { return };
    let mut asking = server.connect();
    let mut differ = |pattern: &str, name: &str| {
        let mut subscribed = server.connect();
        subscribe_all(&mut subscribed, &[name.to_owned()]);
        channels(&mut asking, pattern).contains(name) != verdict(pattern, name)
    };
    let (mut pattern, mut name) = (pattern.to_owned(), (*name).to_owned());
    assert!(
        differ(&pattern, &name),
        "{what}: {pattern:?} and {name:?} differed, but not when alone"
    );
    while let Some(smaller) = shorter(&pattern, &name).find(|(p, n)| differ(p, n)) {
        (pattern, name) = smaller;
    }
    let server_says = !verdict(&pattern, &name);
    panic!("{what}: redis-server says {server_says} to {pattern:?} matching {name:?}");
}

/// Returns the pairs with one character removed.
fn shorter(pattern: &str, name: &str) -> impl Iterator<Item = (String, String)> + use<> {
    let without = |text: &str| -> Vec<String> {
        text.char_indices()
            .map(|(at, c)| format!("{}{}", &text[..at], &text[at + c.len_utf8()..]))
            .collect()
    };
    let (pattern, name) = (pattern.to_owned(), name.to_owned());
    let patterns: Vec<_> = without(&pattern).into_iter().map(|less| (less, name.clone())).collect();
    let names: Vec<_> = without(&name).into_iter().map(|less| (pattern.clone(), less)).collect();
    patterns.into_iter().chain(names)
}

/// An event in a form that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// Kind, name and count.
    Lifecycle(&'static str, String, usize),
    /// Channel and payload.
    Message(String, String),
    /// Pattern, channel and payload.
    PMessage(String, String, String),
}

/// A call of a script.
#[derive(Clone, Debug)]
enum Call {
    Subscribe(String),
    PSubscribe(String),
    Unsubscribe(String),
    PUnsubscribe(String),
    UnsubscribeAll,
    PUnsubscribeAll,
    Publish(String, String),
}

/// The channels and patterns that scripts choose from.
const CHANNELS: [&str; 6] = ["game:1:events", "game:2:events", "user:1", "user:é", "", "*"];
const PATTERNS: [&str; 8] =
    ["game:*", "game:?:events", "*", "user:[1-9]", "user:1", "[^g]*", "user:??", ""];

fn random_call(random: &mut Random, serial: usize) -> Call {
    let channel = CHANNELS[random.below(CHANNELS.len())].to_owned();
    let pattern = PATTERNS[random.below(PATTERNS.len())].to_owned();
    match random.below(20) {
        0..=3 => Call::Subscribe(channel),
        4..=7 => Call::PSubscribe(pattern),
        8..=9 => Call::Unsubscribe(channel),
        10..=11 => Call::PUnsubscribe(pattern),
        12 => Call::UnsubscribeAll,
        13 => Call::PUnsubscribeAll,
        _ => Call::Publish(channel, format!("payload {serial} …")),
    }
}

/// One subscriber on the server.
struct Theirs {
    subscribed: Connection,
    publishing: Connection,
}

impl Theirs {
    fn call(&mut self, call: &Call) -> (Vec<Seen>, usize) {
        let (name, argument) = match call {
            Call::Subscribe(channel) => ("SUBSCRIBE", Some(channel)),
            Call::PSubscribe(pattern) => ("PSUBSCRIBE", Some(pattern)),
            Call::Unsubscribe(channel) => ("UNSUBSCRIBE", Some(channel)),
            Call::PUnsubscribe(pattern) => ("PUNSUBSCRIBE", Some(pattern)),
            Call::UnsubscribeAll => ("UNSUBSCRIBE", None),
            Call::PUnsubscribeAll => ("PUNSUBSCRIBE", None),
            Call::Publish(channel, payload) => {
                let publish = cmd("PUBLISH").arg(channel).arg(payload).clone();
                let received = publish.query(&mut self.publishing).unwrap();
                return (self.events(), received);
            }
        };
        let mut command = cmd(name);
        argument.iter().for_each(|argument| {
            command.arg(argument);
        });
        self.subscribed.send_packed_command(&command.get_packed_command()).unwrap();
        (self.events(), 0)
    }

    /// Returns the events that precede the answer to a ping.
    fn events(&mut self) -> Vec<Seen> {
        self.subscribed.send_packed_command(&cmd("PING").arg("now").get_packed_command()).unwrap();
        let mut events = Vec::new();
        loop {
            let fields = match self.subscribed.recv_response().unwrap() {
                Value::Array(fields) => fields,
                // Outside subscribed mode, the answer is only the word.
                _ => return events,
            };
            let text = |at: usize| redis::from_redis_value_ref::<String>(&fields[at]).unwrap();
            let count = || redis::from_redis_value_ref::<usize>(&fields[2]).unwrap();
            let kind = match &text(0)[..] {
                "pong" => return events,
                "message" => {
                    events.push(Seen::Message(text(1), text(2)));
                    continue;
                }
                "pmessage" => {
                    events.push(Seen::PMessage(text(1), text(2), text(3)));
                    continue;
                }
                "subscribe" => "subscribe",
                "psubscribe" => "psubscribe",
                "unsubscribe" => "unsubscribe",
                "punsubscribe" => "punsubscribe",
                other => panic!("an answer of another kind: {other}"),
            };
            // If nothing is held, the server answers an UNSUBSCRIBE from all with an event without a name; the
            // bus emits nothing.
            if fields[1] != Value::Nil {
                events.push(Seen::Lifecycle(kind, text(1), count()));
            }
        }
    }
}

/// One subscriber on a bus.
struct Ours {
    bus: Bus,
    subscriber: Subscriber,
}

impl Ours {
    /// Makes a call. Returns the number of messages of a publish.
    fn call(&self, call: &Call) -> usize {
        let sub = &self.subscriber;
        match call {
            Call::Subscribe(channel) => drop(sub.subscribe(channel).unwrap()),
            Call::PSubscribe(pattern) => drop(sub.psubscribe(pattern).unwrap()),
            Call::Unsubscribe(channel) => drop(sub.unsubscribe(channel)),
            Call::PUnsubscribe(pattern) => drop(sub.punsubscribe(pattern)),
            Call::UnsubscribeAll => drop(sub.unsubscribe_all()),
            Call::PUnsubscribeAll => drop(sub.punsubscribe_all()),
            Call::Publish(channel, payload) => {
                return self.bus.publish(channel, payload.as_str()).matched;
            }
        }
        0
    }

    /// Returns the events that can be read now.
    fn events(&self) -> impl Iterator<Item = Seen> {
        self.subscriber.try_iter().map(|event| match event {
            Event::Subscribe { channel, count } => lifecycle("subscribe", &channel, count),
            Event::Unsubscribe { channel, count } => lifecycle("unsubscribe", &channel, count),
            Event::PSubscribe { pattern, count } => {
                lifecycle("psubscribe", pattern.as_str(), count)
            }
            Event::PUnsubscribe { pattern, count } => {
                lifecycle("punsubscribe", pattern.as_str(), count)
            }
            Event::Message(message) => {
                assert_eq!(message.pattern(), None);
                Seen::Message(message.channel().to_owned(), message.payload.to_string())
            }
            Event::PMessage(message) => {
                let pattern = message.pattern().unwrap().to_owned();
                Seen::PMessage(pattern, message.channel().to_owned(), message.payload.to_string())
            }
            other => panic!("an event of another kind: {other:?}"),
        })
    }
}

fn lifecycle(kind: &'static str, name: &str, count: usize) -> Seen {
    Seen::Lifecycle(kind, name.to_owned(), count)
}

/// Sorts the events of one call where the server's order is that of its hash tables: the messages of several
/// patterns, and the names when all are unsubscribed. The counts stay in place.
fn in_one_order(call: &Call, mut events: Vec<Seen>) -> Vec<Seen> {
    match call {
        Call::UnsubscribeAll | Call::PUnsubscribeAll => {
            let name_and_count = |event: &Seen| match event {
                Seen::Lifecycle(kind, name, count) => (*kind, name.clone(), *count),
                // Unsubscribing does not yield messages: the comparison will fail.
                Seen::Message(..) | Seen::PMessage(..) => ("message", String::new(), 0),
            };
            let all: Vec<_> = events.iter().map(name_and_count).collect();
            let mut names: Vec<_> =
                all.iter().map(|(kind, name, _)| (*kind, name.clone())).collect();
            names.sort();
            names
                .into_iter()
                .zip(all)
                .map(|((kind, name), (_, _, count))| Seen::Lifecycle(kind, name, count))
                .collect()
        }
        _ => {
            let patterns = events.iter().position(|event| matches!(event, Seen::PMessage(..)));
            if let Some(first) = patterns {
                events[first..].sort();
            }
            events
        }
    }
}

const SCRIPTS: usize = 3_000;

/// Random scripts of one subscriber, which reads a random number of events after each call. The whole stream
/// must equal the server's, event for event.
#[test]
fn events_agree_with_redis_server() {
    let server = Server::start();
    let mut random = Random::seeded("events_agree_with_redis_server");
    let mut theirs = Theirs { subscribed: server.connect(), publishing: server.connect() };
    let (mut compared, mut read_late) = (0, 0);
    for script in 0..SCRIPTS {
        let bus: Bus = Bus::new();
        let ours = Ours { subscriber: bus.subscriber(), bus };
        let (mut calls, mut expected, mut stream) = (Vec::new(), Vec::new(), Vec::new());
        // Some scripts read everything after every call, some only at the end.
        let eagerness = random.below(5);
        for serial in 0..10 + random.below(40) {
            let call = random_call(&mut random, serial);
            let (events, received) = theirs.call(&call);
            calls.push(call.clone());
            assert_eq!(ours.call(&call), received, "script {script}: {calls:#?}");
            expected.push((call, events));
            let most = random.below(3 * eagerness + 1);
            stream.extend(ours.events().take(most));
        }
        read_late += ours.subscriber.len();
        stream.extend(ours.events());
        let mut rest = &stream[..];
        for (call, events) in expected {
            compared += events.len();
            let (ours, behind) = rest.split_at(events.len().min(rest.len()));
            rest = behind;
            assert_eq!(
                in_one_order(&call, ours.to_vec()),
                in_one_order(&call, events),
                "script {script}, ours before theirs at {call:?}: {calls:#?}, {stream:#?}"
            );
        }
        assert_eq!(rest, [], "script {script}: {calls:#?}");
        // On the same connection: once the answers have arrived, the server has forgotten the script.
        theirs.call(&Call::UnsubscribeAll);
        theirs.call(&Call::PUnsubscribeAll);
    }
    println!("{SCRIPTS} scripts, {compared} events of redis-server: none different");
    assert!(compared > 20 * SCRIPTS && read_late > SCRIPTS, "{compared}, {read_late}");
}

/// The comparison itself must be able to fail.
#[test]
fn a_difference_from_redis_server_is_shrunk_before_it_is_reported() {
    let server = Server::start();
    let wrong = |pattern: &str, name: &str| {
        // A matcher that takes `[^` literally.
        if pattern.contains("[^") { false } else { Pattern::redis(pattern).is_match(name) }
    };
    let theirs = BTreeSet::from(["xxbyy"]);
    let reported = std::panic::catch_unwind(|| {
        compare(&server, "a wrong matcher", "*x[^a]y*", &theirs, &BTreeSet::new(), wrong);
    });
    let message = *reported.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("says true"), "{message}");
    // The smallest such pattern is `[^`, which matches any byte.
    assert!(message.contains("\"[^\" matching \""), "{message}");
}
