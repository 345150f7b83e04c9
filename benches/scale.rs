//! Measures up to a million subscribers: each on a channel of its own (N9, N11, N15, N16), and all on one (N10).
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;

use common::{
    Better, Number, Pair, Payload, Random, Rounds, is_test, iterate, median, nanos, payload, quiet,
    resident, scaled,
};
use criterion::{BenchmarkId, Criterion};
use dashmap::DashMap;
use fanout::crossbeam_channel::{Receiver, Sender, bounded};
use fanout::{Bus, Message, Subscriber, Topic};

const CAPACITY: usize = 16;

/// Returns the number of publishes of one measurement, each to one of `channels` drawn at random: so few that no inbox
/// fills up.
fn batch(channels: usize) -> usize {
    (channels / 2).min(5_000)
}

fn subscribers() -> usize {
    scaled(500_000, 1_000)
}

fn subscriber(bus: &Bus<Payload>) -> Subscriber<Payload> {
    quiet(bus, CAPACITY).build()
}

fn name(number: usize) -> String {
    format!("user:{number}:notifications")
}

/// Writes a name as a publisher does who has a buffer for it.
fn format_name(buffer: &mut String, number: usize) {
    buffer.clear();
    write!(buffer, "user:{number}:notifications").expect("a String takes all");
}

/// Returns the nanoseconds of each of a batch of publishes to channels drawn at random below `count`. `publish` gets
/// their numbers and names; `drain` returns how many messages a receiver had.
fn publishing(
    count: usize,
    random: &mut Random,
    publish: impl FnOnce(&[usize], &[String]),
    drain: impl Fn(usize) -> usize,
) -> f64 {
    let drawn: Vec<usize> = (0..batch(count)).map(|_| random.below(count)).collect();
    let names: Vec<String> = drawn.iter().map(|&number| name(number)).collect();
    let taken = nanos(drawn.len(), || publish(&drawn, &names));
    let read: usize = drawn.iter().map(|&number| drain(number)).sum();
    assert_eq!(read, drawn.len());
    taken
}

/// Subscribers, each on a channel of its own.
struct Own {
    bus: Bus<Payload>,
    topics: Vec<Topic<Payload>>,
    inboxes: Vec<Subscriber<Payload>>,
}

/// How to publish to many channels.
#[derive(Clone, Copy)]
enum Way {
    /// By names from a list.
    List,
    /// By names formatted into a buffer.
    Format,
    Topic,
    /// By names from a list, in one call.
    Many,
}

impl Own {
    fn new(count: usize) -> Self {
        let bus: Bus<Payload> = Bus::new();
        let inboxes = (0..count)
            .map(|number| {
                let inbox = subscriber(&bus);
                inbox.subscribe(name(number)).expect("the bus is open and has no limits");
                inbox
            })
            .collect();
        Self { bus, topics: Vec::new(), inboxes }
    }

    fn with_topics(mut self) -> Self {
        self.topics = (0..self.inboxes.len()).map(|number| self.bus.topic(&name(number))).collect();
        self
    }

    fn publishing(&self, random: &mut Random, way: Way) -> f64 {
        let payload = payload();
        let copy = || black_box(Arc::clone(&payload));
        let publish = |drawn: &[usize], names: &[String]| match way {
            Way::List => {
                names.iter().for_each(|name| _ = black_box(self.bus.publish(name, copy())));
            }
            Way::Format => {
                let mut buffer = String::new();
                for &number in drawn {
                    format_name(&mut buffer, number);
                    black_box(self.bus.publish(&buffer, copy()));
                }
            }
            Way::Topic => {
                drawn.iter().for_each(|&at| _ = black_box(self.topics[at].publish(copy())));
            }
            Way::Many => _ = black_box(self.bus.publish_many(names, copy())),
        };
        let drain = |number: usize| self.inboxes[number].try_messages().count();
        publishing(self.inboxes.len(), random, publish, drain)
    }
}

/// A plain crossbeam channel for each subscriber, by index and in the maps that one makes by hand.
struct ByHand {
    senders: Vec<Sender<Payload>>,
    receivers: Vec<Receiver<Payload>>,
    std: RwLock<HashMap<String, Sender<Payload>>>,
    hashbrown: RwLock<hashbrown::HashMap<String, Sender<Payload>, foldhash::fast::RandomState>>,
    dashmap: DashMap<String, Sender<Payload>>,
}

impl ByHand {
    fn new(count: usize) -> Self {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| bounded(CAPACITY)).unzip();
        let named = || (0..count).map(name).zip(senders.iter().cloned());
        let std = RwLock::new(named().collect());
        let hashbrown = RwLock::new(named().collect());
        let dashmap = named().collect();
        Self { senders, receivers, std, hashbrown, dashmap }
    }

    fn sending(&self, random: &mut Random, send: impl Fn(&Self, &[usize], &[String])) -> f64 {
        let drain = |number: usize| self.receivers[number].try_iter().count();
        let send = |drawn: &[usize], names: &[String]| send(self, drawn, names);
        publishing(self.receivers.len(), random, send, drain)
    }

    fn by_index(&self, random: &mut Random) -> f64 {
        let payload = payload();
        self.sending(random, |this, drawn, _| {
            for &number in drawn {
                let payload = black_box(Arc::clone(&payload));
                this.senders[number].try_send(payload).expect("there is room");
            }
        })
    }

    /// Sends by `send_to`, which looks a sender up.
    fn by_name(
        &self,
        random: &mut Random,
        way: Way,
        send_to: impl Fn(&Self, &str, Payload),
    ) -> f64 {
        let payload = payload();
        let copy = || black_box(Arc::clone(&payload));
        self.sending(random, |this, drawn, names| match way {
            Way::Format => {
                let mut buffer = String::new();
                for &number in drawn {
                    format_name(&mut buffer, number);
                    send_to(this, &buffer, copy());
                }
            }
            _ => names.iter().for_each(|name| send_to(this, name, copy())),
        })
    }

    fn by_std(&self, name: &str, payload: Payload) {
        let senders = self.std.read().expect("nobody panics");
        if let Some(sender) = senders.get(name) {
            sender.try_send(payload).expect("there is room");
        }
    }

    fn by_hashbrown(&self, name: &str, payload: Payload) {
        let senders = self.hashbrown.read().expect("nobody panics");
        if let Some(sender) = senders.get(name) {
            sender.try_send(payload).expect("there is room");
        }
    }

    fn by_dashmap(&self, name: &str, payload: Payload) {
        if let Some(sender) = self.dashmap.get(name) {
            sender.try_send(payload).expect("there is room");
        }
    }
}

/// The medians of all ways to publish to one of many channels.
struct Channels {
    count: usize,
    by_name: Pair,
    formatted: Pair,
    topic: Pair,
    /// `publish_many` over as many single publishes, and over the best map.
    many: [Pair; 2],
    best_map: &'static str,
}

fn compare(own: &Own, by_hand: &ByHand) -> Channels {
    type Map = (&'static str, fn(&ByHand, &str, Payload));
    type Timed<'a> = Box<dyn Fn(&mut Random) -> f64 + 'a>;
    const MAPS: [Map; 3] = [
        ("std", ByHand::by_std),
        ("hashbrown", ByHand::by_hashbrown),
        ("dashmap", ByHand::by_dashmap),
    ];
    let mut ways: Vec<Timed<'_>> = Vec::new();
    for way in [Way::List, Way::Format, Way::Topic, Way::Many] {
        ways.push(Box::new(move |random| own.publishing(random, way)));
    }
    ways.push(Box::new(|random| by_hand.by_index(random)));
    for way in [Way::List, Way::Format] {
        for (_, send_to) in MAPS {
            ways.push(Box::new(move |random| by_hand.by_name(random, way, send_to)));
        }
    }
    let mut random = Random(1);
    let rounds = Rounds::take(scaled(61, 1), ways.len(), |way| ways[way](&mut random));
    let best = |first: usize| rounds.fastest(first..first + MAPS.len());
    let (listed, formatted) = (best(5), best(5 + MAPS.len()));
    Channels {
        count: own.inboxes.len(),
        by_name: rounds.compare(0, listed),
        formatted: rounds.compare(1, formatted),
        topic: rounds.compare(2, 4),
        many: [rounds.compare(3, 0), rounds.compare(3, listed)],
        best_map: MAPS[listed - 5].0,
    }
}

/// Returns the numbers below `count` in random order.
fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = Random(3);
    for at in (1..count).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

/// Returns the nanoseconds that joining one channel and leaving it take, each, with `count` subscribers.
fn join_and_leave(count: usize) -> (f64, f64) {
    let bus: Bus<Payload> = Bus::new();
    let inboxes: Vec<_> = (0..count).map(|_| subscriber(&bus)).collect();
    let joining = nanos(count, || {
        for inbox in &inboxes {
            black_box(inbox.subscribe("game:1:events")).expect("the bus is open and has no limits");
        }
    });
    assert_eq!(bus.subscriber_count("game:1:events"), count);
    let order = shuffled(count);
    let leaving = nanos(count, || {
        for &at in &order {
            black_box(inboxes[at].unsubscribe("game:1:events"));
        }
    });
    assert_eq!(bus.subscriber_count("game:1:events"), 0);
    (joining, leaving)
}

/// Returns the bytes that an idle subscriber with one channel takes, those of a plain crossbeam channel with the same
/// slots, and the subscribers.
fn memory(count: usize) -> (f64, f64, Own) {
    let start = resident();
    let plain: Vec<_> = (0..count).map(|_| bounded::<Message<Payload>>(CAPACITY)).collect();
    let between = resident();
    let own = Own::new(count);
    let end = resident();
    black_box(&plain);
    let each = |bytes: f64| bytes / count as f64;
    (each(end - between), each(between - start), own)
}

/// Returns the nanoseconds that a publish to one inbox takes, alone and while another thread publishes to a crowd
/// without pause (medians), and the milliseconds that one publish to the crowd takes.
fn beside_a_crowd(count: usize, rounds: usize) -> (Pair, f64) {
    let bus: Bus<Payload> = Bus::new();
    let crowd: Vec<_> = (0..count).map(|_| subscriber(&bus)).collect();
    for inbox in &crowd {
        inbox.subscribe("crowd").expect("the bus is open and has no limits");
    }
    let inbox = subscriber(&bus);
    inbox.subscribe("user:1").expect("the bus is open and has no limits");
    let (busy, stop, published) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let (mut alone, mut beside, mut each) = (Vec::new(), Vec::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if busy.load(Ordering::Relaxed) {
                    black_box(bus.publish("crowd", payload()));
                    published.fetch_add(1, Ordering::Relaxed);
                } else {
                    std::hint::spin_loop();
                }
            }
        });
        for round in 0..2 * rounds {
            busy.store(round % 2 == 1, Ordering::Relaxed);
            let before = published.load(Ordering::Relaxed);
            let mut publishes = Vec::new();
            let whole = nanos(1, || {
                // At least as many as warm the caches up.
                while publishes.len() < 1_000
                    || round % 2 == 1 && published.load(Ordering::Relaxed) < before + 2
                {
                    publishes.push(nanos(CAPACITY, || {
                        for _ in 0..CAPACITY {
                            black_box(bus.publish("user:1", payload()));
                        }
                    }));
                    assert_eq!(inbox.try_iter().count(), CAPACITY);
                }
            });
            if round % 2 == 1 {
                beside.push(median(&mut publishes));
                each.push(whole / (published.load(Ordering::Relaxed) - before) as f64 / 1e6);
            } else {
                alone.push(median(&mut publishes));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    (Pair::of(&mut beside, &mut alone), median(&mut each))
}

fn with_criterion(criterion: &mut Criterion) {
    let counts = if is_test() { [1_000, 2_000] } else { [10_000, 500_000] };
    for count in counts {
        let (own, by_hand) = (Own::new(count).with_topics(), ByHand::new(count));
        let mut random = Random(1);
        let mut group = criterion.benchmark_group("a channel each");
        let mut measure = |name: &str, one: &mut dyn FnMut() -> f64| {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                iterate(bencher, batch(count), &mut *one);
            });
        };
        measure("by name", &mut || own.publishing(&mut random, Way::List));
        measure("topic", &mut || own.publishing(&mut random, Way::Topic));
        measure("many", &mut || own.publishing(&mut random, Way::Many));
        measure("raw", &mut || by_hand.by_index(&mut random));
        group.finish();
    }
}

fn main() {
    let count = subscribers();
    // First of all, while the allocator has no freed memory: allocations that have come and gone in a process scatter
    // later ones.
    let young = (!common::is_filtered()).then(|| {
        let (ours, plain, own) = memory(count);
        (ours, plain, compare(&own.with_topics(), &ByHand::new(count)))
    });
    let tables = common::run(with_criterion);
    let Some((ours, plain, young)) = young.filter(|_| tables) else { return };

    let mut numbers = Vec::new();
    let number = |name, what: &str, figure, reach, aim, unit, against| Number {
        name,
        what: what.to_owned(),
        figure,
        reach,
        aim,
        unit,
        better: Better::Less,
        against,
    };
    let absolute = || "absolute".to_owned();
    let others = [10_000, 100_000, 1_000_000].map(|other| {
        let other = if is_test() { other / 1_000 } else { other };
        compare(&Own::new(other).with_topics(), &ByHand::new(other))
    });
    for channels in [&young].into_iter().chain(&others) {
        let Channels { count, best_map, .. } = channels;
        for (name, what, pair, reach, aim) in [
            ("N9", format!("by name, over a map ({best_map})"), &channels.by_name, 1.25, 1.0),
            ("N9", "by name formatted, over a map".to_owned(), &channels.formatted, 1.25, 1.0),
            ("N9t", "by Topic, over raw by index".to_owned(), &channels.topic, 2.0, 1.3),
            ("N15", "publish_many, over as many publish".to_owned(), &channels.many[0], 0.45, 0.3),
            ("N16", "publish_many, over a map".to_owned(), &channels.many[1], 0.7, 0.4),
        ] {
            let what = format!("{count} channels, {what}");
            let against = format!("{:.0} over {:.0} ns", pair.ours, pair.floor);
            numbers.push(number(name, &what, pair.ratio, reach, aim, "×", against));
        }
    }
    let rounds = scaled(5, 1);
    let (mut joining, mut leaving): (Vec<f64>, Vec<f64>) =
        (0..rounds).map(|_| join_and_leave(count)).unzip();
    for (what, figure) in [("joining", median(&mut joining)), ("leaving", median(&mut leaving))] {
        let what = format!("{count} on one channel, {what}");
        numbers.push(number("N10", &what, figure, 3_000.0, 1_000.0, "ns", absolute()));
    }
    let against = format!("{ours:.0} over {plain:.0} B");
    let what = format!("{count} idle subscribers, memory of each");
    numbers.push(number("N11", &what, ours - plain, 700.0, 300.0, "B", against));
    common::print_numbers("Scale", &numbers);
    let (pair, crowd) = beside_a_crowd(count, scaled(21, 1));
    println!(
        "A publish to one inbox: {:.0} ns; while another thread publishes to {count} full ones ({crowd:.1} ms \
         each): {:.0} ns ({:.2} ×)",
        pair.floor, pair.ours, pair.ratio
    );
}
