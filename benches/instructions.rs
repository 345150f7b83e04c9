//! Counts the instructions and simulates the cache misses of the most important paths: figures that a busy machine
//! does not change. A figure that exceeds the committed one (`benches/results/instructions.md`) by more than 3 %
//! fails.
//!
//! Needs valgrind, and `gungraun-runner` of the version of `gungraun` in `Cargo.lock`.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Waker};

use fanout::{Bus, Event, Message, Overflow, Receipt, Subscriber, Topic};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};

type Payload = Arc<[u8]>;

/// Number of times that each path is taken.
const TIMES: usize = 100;

const CHANNEL: &str = "user:42:notifications";

/// Number of buses that a figure is taken over if it depends on the hashes of names, which differ from bus to bus.
const BUSES: usize = 4;

/// The committed figures, a row of a table for each: name, instructions, estimated cycles.
const COMMITTED: &str = include_str!("results/instructions.md");

/// Percentage by which a figure may exceed the committed one.
const ALLOWANCE: u64 = 3;

/// Returns a configuration that fails if the figures of `path` exceed the committed ones by more than `ALLOWANCE`.
///
/// # Panics
///
/// If no figures of `path` are committed.
fn held(path: &str) -> LibraryBenchmarkConfig {
    let row = COMMITTED
        .lines()
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .find(|row| row.get(1) == Some(&path))
        .unwrap_or_else(|| panic!("no figures of {path} in benches/results/instructions.md"));
    let limit = |column: usize| {
        let figure: u64 = row[column].replace(',', "").parse().expect("a figure is a number");
        figure + figure * ALLOWANCE / 100
    };
    let mut callgrind = Callgrind::default();
    callgrind
        .args(["--cache-sim=yes"])
        .hard_limits([(EventKind::Ir, limit(2)), (EventKind::EstimatedCycles, limit(3))]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn payload() -> Payload {
    Arc::from([7; 32])
}

fn quiet(bus: &Bus<Payload>, capacity: usize) -> Subscriber<Payload> {
    quiet_of(bus, capacity, Overflow::DropOldest)
}

fn quiet_of(bus: &Bus<Payload>, capacity: usize, overflow: Overflow) -> Subscriber<Payload> {
    let builder = bus.subscriber_builder().lifecycle_events(false);
    builder.capacity(capacity).overflow(overflow).build()
}

/// A channel that has been warmed up, whose inboxes have room for all that is published.
struct Fan {
    bus: Bus<Payload>,
    topic: Topic<Payload>,
    subscribers: Vec<Subscriber<Payload>>,
    payload: Payload,
}

fn fan(inboxes: usize) -> Fan {
    fan_of(inboxes, Overflow::DropOldest)
}

fn fan_of(inboxes: usize, overflow: Overflow) -> Fan {
    let bus: Bus<Payload> = Bus::new();
    let subscribers: Vec<_> = (0..inboxes)
        .map(|_| {
            let subscriber = quiet_of(&bus, 2 * TIMES, overflow);
            subscriber.subscribe(CHANNEL).unwrap();
            subscriber
        })
        .collect();
    let fan = Fan { topic: bus.topic(CHANNEL), bus, subscribers, payload: payload() };
    for _ in 0..10 {
        fan.topic.publish(Arc::clone(&fan.payload));
        fan.bus.publish(CHANNEL, Arc::clone(&fan.payload));
    }
    for subscriber in &fan.subscribers {
        let expected = if overflow == Overflow::Conflate { 1 } else { 20 };
        assert_eq!(subscriber.try_messages().count(), expected);
    }
    fan
}

/// Returns a channel with one inbox that holds `TIMES` messages.
fn filled() -> Fan {
    let fan = fan(1);
    (0..TIMES).for_each(|_| _ = fan.topic.publish(Arc::clone(&fan.payload)));
    fan
}

/// Returns a channel whose one inbox gets its messages by a pattern.
fn fan_by_pattern() -> Fan {
    let bus: Bus<Payload> = Bus::new();
    let subscriber = quiet(&bus, 2 * TIMES);
    subscriber.psubscribe("user:*").unwrap();
    let fan =
        Fan { topic: bus.topic(CHANNEL), bus, subscribers: vec![subscriber], payload: payload() };
    (0..10).for_each(|_| _ = fan.topic.publish(Arc::clone(&fan.payload)));
    assert_eq!(fan.subscribers[0].try_messages().count(), 10);
    fan
}

/// Returns a channel whose inboxes are full, so that each publish evicts a message of each.
fn full(inboxes: usize) -> Fan {
    let fan = fan(inboxes);
    (0..3 * TIMES).for_each(|_| _ = fan.topic.publish(Arc::clone(&fan.payload)));
    fan
}

/// Returns a channel whose inboxes keep the newest message, so that each publish replaces the one before.
fn conflating(inboxes: usize) -> Fan {
    let fan = fan_of(inboxes, Overflow::Conflate);
    fan.topic.publish(Arc::clone(&fan.payload));
    fan
}

#[library_benchmark]
#[bench::inboxes_1(args = (1), setup = fan, config = held("Topic::publish, 1 inbox"))]
#[bench::inboxes_10(args = (10), setup = fan, config = held("Topic::publish, 10 inboxes"))]
#[bench::inboxes_100(args = (100), setup = fan, config = held("Topic::publish, 100 inboxes"))]
#[bench::one_pattern(args = (), setup = fan_by_pattern, config = held("Topic::publish, 1 inbox by a pattern"))]
#[bench::full_10(args = (10), setup = full, config = held("Topic::publish, 10 full inboxes"))]
#[bench::conflating_10(args = (10), setup = conflating, config = held("Topic::publish, 10 conflating inboxes"))]
fn topic_publish(fan: Fan) -> Fan {
    for _ in 0..TIMES {
        black_box::<Receipt>(fan.topic.publish(Arc::clone(&fan.payload)));
    }
    fan
}

#[library_benchmark]
#[bench::hot(args = (1), setup = fan, config = held("by name, hot"))]
fn publish_by_name(fan: Fan) -> Fan {
    for _ in 0..TIMES {
        black_box::<Receipt>(fan.bus.publish(black_box(CHANNEL), Arc::clone(&fan.payload)));
    }
    fan
}

#[library_benchmark]
#[bench::messages(args = (), setup = filled, config = held("try_recv_message"))]
fn try_recv_message(fan: Fan) -> Fan {
    for _ in 0..TIMES {
        black_box::<Message<Payload>>(fan.subscribers[0].try_recv_message().unwrap());
    }
    fan
}

#[library_benchmark]
#[bench::events(args = (), setup = filled, config = held("try_recv"))]
fn try_recv(fan: Fan) -> Fan {
    for _ in 0..TIMES {
        black_box::<Event<Payload>>(fan.subscribers[0].try_recv().unwrap());
    }
    fan
}

// A task waits, a publish wakes it, and it reads the message.
#[library_benchmark]
#[bench::one(args = (1), setup = fan, config = held("Topic::publish to a waiting task, and its polls"))]
fn publish_to_task(fan: Fan) -> Fan {
    let mut messages = fan.subscribers[0].message_stream();
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..TIMES {
        assert!(messages.poll_recv(&mut context).is_pending());
        black_box::<Receipt>(fan.topic.publish(Arc::clone(&fan.payload)));
        assert!(black_box(messages.poll_recv(&mut context)).is_ready());
    }
    drop(messages);
    fan
}

/// A bus with its subscribers, and names that are used once each.
struct Names {
    bus: Bus<Payload>,
    subscriber: Subscriber<Payload>,
    names: Vec<String>,
    payload: Payload,
    _others: Vec<Subscriber<Payload>>,
}

/// Several buses with their names.
type Several = Vec<Names>;

fn several(buses: usize, make: fn() -> Names) -> Several {
    (0..buses).map(|_| make()).collect()
}

fn never_seen() -> Several {
    several(BUSES, || names_never_seen(TIMES))
}

/// Each name makes another give way.
fn never_seen_for_long() -> Several {
    several(BUSES, || names_never_seen(10 * TIMES))
}

/// 10,000 patterns of one subscriber, and names that have never been seen, of which each matches one, on a bus that has
/// seen `before` others.
fn names_never_seen(before: usize) -> Names {
    let bus: Bus<Payload> = Bus::new();
    let subscriber = quiet(&bus, 4 * TIMES);
    subscriber.psubscribe_many((0..10_000).map(|i| format!("user:{i}:*"))).unwrap();
    // The first names allocate, which must not be counted.
    (0..before).for_each(|i| _ = bus.publish(&format!("user:{i}:first"), payload()));
    assert!(subscriber.try_messages().count() >= TIMES);
    let names = (0..TIMES).map(|i| format!("user:{}:{i}", i * 97)).collect();
    Names { bus, subscriber, names, payload: payload(), _others: Vec::new() }
}

/// 500,000 channels with a subscriber each, and the names of some, far from each other.
fn half_a_million() -> Several {
    let bus: Bus<Payload> = Bus::new();
    let others = (0..500_000)
        .map(|user| {
            let subscriber = quiet(&bus, 1);
            subscriber.subscribe(format!("user:{user}:notifications")).unwrap();
            subscriber
        })
        .collect();
    let names = (0..TIMES).map(|i| format!("user:{}:notifications", i * 4_999 + 17)).collect();
    let subscriber = quiet(&bus, 1);
    vec![Names { bus, subscriber, names, payload: payload(), _others: others }]
}

#[library_benchmark]
#[bench::never_seen_10_000_patterns(args = (), setup = never_seen, config = held("never seen, 10,000 patterns"))]
#[bench::never_seen_for_long(args = (), setup = never_seen_for_long, config = held("never seen, 10,000 patterns, 1,000 names before"))]
#[bench::one_of_500_000(args = (), setup = half_a_million, config = held("by name, one of 500,000"))]
fn publish(several: Several) -> Several {
    for names in &several {
        for name in &names.names {
            black_box::<Receipt>(names.bus.publish(name, Arc::clone(&names.payload)));
        }
    }
    several
}

/// As many calls as on `BUSES` buses, on four times as many: how full a table is differs from bus to bus.
fn new_channels() -> Several {
    several(4 * BUSES, || {
        let bus: Bus<Payload> = Bus::new();
        let subscriber = quiet(&bus, 1);
        subscriber.subscribe_many((0..1_000).map(|i| format!("user:{i}"))).unwrap();
        let names: Vec<String> = (0..TIMES / 4).map(|i| format!("new:{i}:notifications")).collect();
        // Tables double at a number of names that depends on how these are hashed: not while it is measured. So below.
        subscriber.subscribe_many(&names).unwrap();
        names.iter().for_each(|name| _ = subscriber.unsubscribe(name));
        Names { bus, subscriber, names, payload: payload(), _others: Vec::new() }
    })
}

/// Like [`new_channels`], on ten times as many buses.
fn new_patterns() -> Several {
    several(10 * BUSES, || {
        let mut names = names_never_seen(TIMES);
        names.names = (0..TIMES / 10).map(|i| format!("user:{}:*", 10_000 + i)).collect();
        names.subscriber.psubscribe_many(&names.names).unwrap();
        names.names.iter().for_each(|name| _ = names.subscriber.punsubscribe(name));
        names
    })
}

#[library_benchmark]
#[bench::new_channel(args = (), setup = new_channels, config = held("subscribe"))]
fn subscribe(several: Several) -> Several {
    for names in &several {
        for name in &names.names {
            black_box(names.subscriber.subscribe(name).unwrap());
        }
    }
    several
}

#[library_benchmark]
#[bench::new_pattern(args = (), setup = new_patterns, config = held("psubscribe"))]
fn psubscribe(several: Several) -> Several {
    for names in &several {
        for name in &names.names {
            black_box(names.subscriber.psubscribe(name).unwrap());
        }
    }
    several
}

library_benchmark_group!(
    name = paths;
    benchmarks = topic_publish, publish_by_name, publish_to_task, try_recv_message, try_recv, publish, subscribe, psubscribe
);

main!(library_benchmark_groups = paths);
