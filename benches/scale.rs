//! Measures half a million subscribers: each on a channel of its own (N9, N11), and all on one (N10).
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{
    Better, Number, Pair, Payload, Random, in_turns, is_test, iterate, median, nanos, payload,
    quiet, resident, scaled,
};
use criterion::{BenchmarkId, Criterion};
use fanout::crossbeam_channel::{Receiver, Sender, bounded};
use fanout::{Bus, Message, Subscriber, Topic};

const CAPACITY: usize = 16;

/// Number of publishes of one measurement, each to a channel drawn at random.
const BATCH: usize = 2_000;

fn subscribers() -> usize {
    scaled(500_000, 1_000)
}

fn subscriber(bus: &Bus<Payload>) -> Subscriber<Payload> {
    quiet(bus, CAPACITY).build()
}

/// Subscribers, each on a channel of its own.
struct Own {
    bus: Bus<Payload>,
    names: Vec<String>,
    topics: Vec<Topic<Payload>>,
    inboxes: Vec<Subscriber<Payload>>,
    random: Random,
}

impl Own {
    fn new(count: usize) -> Self {
        let bus: Bus<Payload> = Bus::new();
        let names: Vec<String> = (0..count).map(|i| format!("user:{i}:notifications")).collect();
        let inboxes = names
            .iter()
            .map(|name| {
                let inbox = subscriber(&bus);
                inbox.subscribe(name).expect("the bus is open and has no limits");
                inbox
            })
            .collect();
        Self { bus, names, topics: Vec::new(), inboxes, random: Random(1) }
    }

    fn with_topics(mut self) -> Self {
        self.topics = self.names.iter().map(|name| self.bus.topic(name)).collect();
        self
    }

    /// Returns the nanoseconds that a publish to a channel drawn at random takes.
    fn publishing(&mut self, by_name: bool) -> f64 {
        let drawn = draw(&mut self.random, self.names.len());
        // Copied, because a publisher that has just made a name has it in its cache.
        let names: Vec<String> = drawn.iter().map(|&at| self.names[at].clone()).collect();
        let payload = payload();
        let taken = nanos(drawn.len(), || {
            for (&at, name) in drawn.iter().zip(&names) {
                let payload = black_box(Arc::clone(&payload));
                if by_name {
                    black_box(self.bus.publish(name, payload));
                } else {
                    black_box(self.topics[at].publish(payload));
                }
            }
        });
        let read: usize = drawn.iter().map(|&at| self.inboxes[at].try_iter().count()).sum();
        assert_eq!(read, drawn.len());
        taken
    }
}

/// A plain crossbeam channel for each subscriber.
struct Raw {
    senders: Vec<Sender<Payload>>,
    receivers: Vec<Receiver<Payload>>,
    random: Random,
}

impl Raw {
    fn new(count: usize) -> Self {
        let (senders, receivers) = (0..count).map(|_| bounded(CAPACITY)).unzip();
        Self { senders, receivers, random: Random(1) }
    }

    fn publishing(&mut self) -> f64 {
        let drawn = draw(&mut self.random, self.senders.len());
        let payload = payload();
        let mut sent = 0_usize;
        let taken = nanos(drawn.len(), || {
            for &at in &drawn {
                let payload = black_box(Arc::clone(&payload));
                sent += usize::from(self.senders[at].try_send(payload).is_ok());
            }
        });
        let read: usize = drawn.iter().map(|&at| self.receivers[at].try_iter().count()).sum();
        assert_eq!((sent, read), (drawn.len(), drawn.len()));
        taken
    }
}

fn draw(random: &mut Random, below: usize) -> Vec<usize> {
    (0..BATCH).map(|_| random.below(below)).collect()
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
    // The memory of the bench itself.
    let names: usize = own.names.iter().map(|name| name.capacity() + size_of::<String>()).sum();
    black_box(&plain);
    let each = |bytes: f64| bytes / count as f64;
    (each(end - between - names as f64), each(between - start), own)
}

/// Compares publishes to random channels, by name and through topics, with sends on plain crossbeam channels.
fn random(own: &mut Own, raw: &mut Raw) -> [Pair; 2] {
    [true, false]
        .map(|by_name| in_turns(scaled(201, 1), || own.publishing(by_name), || raw.publishing()))
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
        let mut own = Own::new(count).with_topics();
        let mut raw = Raw::new(count);
        let mut group = criterion.benchmark_group("a channel each");
        let mut measure = |name: &str, one: &mut dyn FnMut() -> f64| {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                iterate(bencher, BATCH, &mut *one);
            });
        };
        measure("by name", &mut || own.publishing(true));
        measure("topic", &mut || own.publishing(false));
        measure("raw", &mut || raw.publishing());
        group.finish();
    }
}

fn main() {
    let count = subscribers();
    // First of all, while the allocator has no freed memory: allocations that have come and gone in a process scatter
    // later ones.
    let young = (!common::is_filtered()).then(|| {
        let (ours, plain, own) = memory(count);
        (ours, plain, random(&mut own.with_topics(), &mut Raw::new(count)))
    });
    let tables = common::run(with_criterion);
    let Some((ours, plain, pairs)) = young.filter(|_| tables) else { return };

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
    for (what, pair) in ["by name", "through a Topic"].iter().zip(pairs) {
        let against = format!("{:.0} over {:.0} ns", pair.ours, pair.floor);
        let what = format!("{count} channels, random, {what}");
        numbers.push(number("N9", &what, pair.ratio, 2.0, 1.3, "×", against));
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
    {
        let (mut own, mut raw) = (Own::new(count).with_topics(), Raw::new(count));
        let [name, topic] = random(&mut own, &mut raw);
        println!(
            "N9 again, now that millions of channels have come and gone in the process: {:.2} × by name, {:.2} × \
             through a Topic",
            name.ratio, topic.ratio
        );
    }

    let (pair, crowd) = beside_a_crowd(count, scaled(21, 1));
    println!(
        "A publish to one inbox: {:.0} ns; while another thread publishes to {count} full ones ({crowd:.1} ms \
         each): {:.0} ns ({:.2} ×)",
        pair.floor, pair.ours, pair.ratio
    );
}
