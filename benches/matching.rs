//! Measures patterns: a publish to a channel never seen and to a hot one with many of them on the bus, subscribing and
//! unsubscribing them, and the code that a user would write instead.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Better, Number, Pair, Payload, Random, in_turns, is_test, iterate, median, nanos, payload,
    quiet, scaled,
};
use criterion::Criterion;
use fanout::{Bus, Pattern, Subscriber};
use globset::{Glob, GlobMatcher, GlobSet, GlobSetBuilder};
use memory_stats::memory_stats;

/// A family of patterns, numbered, and channels that match one of them and no other.
struct Shape {
    name: &'static str,
    pattern: fn(usize) -> String,
    /// Returns a channel that pattern `i` matches, a different one for each `n`.
    channel: fn(usize, usize) -> String,
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "user:{i}:*",
        pattern: |i| format!("user:{i}:*"),
        channel: |i, n| format!("user:{i}:login{n}"),
    },
    Shape { name: "*:s{i}", pattern: |i| format!("*:s{i}"), channel: |i, n| format!("u{n}:s{i}") },
    Shape {
        name: "user:*:s{i}",
        pattern: |i| format!("user:*:s{i}"),
        channel: |i, n| format!("user:{n}:s{i}"),
    },
    Shape {
        name: "*k{i}k*",
        pattern: |i| format!("*k{i}k*"),
        channel: |i, n| format!("x{n}k{i}ky"),
    },
    Shape {
        name: "a{i}:*:b:*",
        pattern: |i| format!("a{i}:*:b:*"),
        channel: |i, n| format!("a{i}:{n}:b:c"),
    },
    Shape {
        name: "[a-f]{i}?:*",
        pattern: |i| format!("[a-f]{i}?:*"),
        channel: |i, n| format!("c{i}z:{n}"),
    },
];

const SIZES: [usize; 4] = [10, 1_000, 100_000, 1_000_000];

/// Number of publishes after which the inbox, which has room for them, is drained.
const BATCH: usize = 500;

/// A bus with many patterns of one shape, all of one subscriber.
struct Crowd {
    bus: Bus<Payload>,
    subscriber: Subscriber<Payload>,
    shape: &'static Shape,
    size: usize,
    random: Random,
    /// Number of channels made so far.
    made: usize,
    payload: Payload,
}

impl Crowd {
    fn new(shape: &'static Shape, size: usize) -> Self {
        let bus: Bus<Payload> = Bus::new();
        let subscriber = quiet(&bus, 2 * BATCH).build();
        for from in (0..size).step_by(10_000) {
            let patterns = (from..size.min(from + 10_000)).map(shape.pattern);
            subscriber.psubscribe_many(patterns).unwrap();
        }
        Self { bus, subscriber, shape, size, random: Random(7), made: 0, payload: payload() }
    }

    /// Returns the nanoseconds that a publish takes to a channel that was never published to and that one pattern
    /// matches.
    fn never_seen(&mut self, publishes: usize) -> f64 {
        let names: Vec<String> = (0..publishes)
            .map(|_| {
                self.made += 1;
                (self.shape.channel)(self.random.below(self.size), self.made)
            })
            .collect();
        let mut total = 0.0;
        for batch in names.chunks(BATCH) {
            total += nanos(1, || {
                for name in batch {
                    black_box(self.bus.publish(name, Arc::clone(&self.payload)));
                }
            });
            let read = self.subscriber.try_iter().filter(|event| event.message().is_some()).count();
            assert_eq!(read, batch.len(), "each channel is matched by one pattern");
        }
        total / publishes as f64
    }

    /// Returns the nanoseconds that subscribing and unsubscribing a pattern takes.
    fn come_and_go(&mut self, times: usize) -> f64 {
        let patterns: Vec<String> =
            (0..times).map(|i| (self.shape.pattern)(self.size + i)).collect();
        nanos(times, || {
            for pattern in &patterns {
                self.subscriber.psubscribe(pattern).unwrap();
                black_box(self.subscriber.punsubscribe(pattern));
            }
        })
    }
}

/// A bus with one hot channel and its subscriber.
struct Hot {
    bus: Bus<Payload>,
    inbox: Subscriber<Payload>,
    payload: Payload,
}

impl Hot {
    fn on(bus: &Bus<Payload>) -> Self {
        let inbox = quiet(bus, 2 * BATCH).subscribe("hot:channel").unwrap();
        Self { bus: bus.clone(), inbox, payload: payload() }
    }

    fn publish(&self) -> f64 {
        let taken = nanos(BATCH, || {
            for _ in 0..BATCH {
                black_box(self.bus.publish("hot:channel", Arc::clone(&self.payload)));
            }
        });
        assert_eq!(self.inbox.try_iter().count(), BATCH);
        taken
    }
}

fn with_criterion(criterion: &mut Criterion) {
    for shape in &SHAPES {
        for size in SIZES.map(|size| if is_test() { size.min(1_000) } else { size }) {
            let mut crowd = Crowd::new(shape, size);
            let id = |what| format!("{what}/{}/{size}", shape.name);
            criterion.bench_function(&id("never seen"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let publishes = iterations as usize;
                    Duration::from_nanos((crowd.never_seen(publishes) * iterations as f64) as u64)
                });
            });
            let hot = Hot::on(&crowd.bus);
            criterion.bench_function(&id("hot channel"), |bencher| {
                iterate(bencher, BATCH, || hot.publish());
            });
            criterion.bench_function(&id("come and go"), |bencher| {
                bencher.iter_custom(|iterations| {
                    let times = iterations as usize;
                    Duration::from_nanos((crowd.come_and_go(times) * iterations as f64) as u64)
                });
            });
        }
    }
}

/// The code that a user would write instead: a scan over matchers, and one set of all patterns.
fn by_hand(criterion: &mut Criterion) {
    let shape = &SHAPES[0];
    for size in SIZES.map(|size| if is_test() { size.min(100) } else { size }) {
        let globs: Vec<Glob> = (0..size).map(|i| Glob::new(&(shape.pattern)(i)).unwrap()).collect();
        let channel = (shape.channel)(size / 2, 1);
        // A matcher holds a regular expression: a million of them would take all memory.
        if size <= 10_000 {
            let matchers: Vec<GlobMatcher> = globs.iter().map(Glob::compile_matcher).collect();
            let id = format!("by hand/scan of GlobMatchers/{size}");
            criterion.bench_function(&id, |bencher| {
                bencher
                    .iter(|| matchers.iter().filter(|matcher| matcher.is_match(&channel)).count());
            });
        }
        let built = Instant::now();
        match glob_set(&globs) {
            Ok(set) => {
                println!("GlobSet of {size}: built in {:?}", built.elapsed());
                let id = format!("by hand/GlobSet/{size}");
                criterion.bench_function(&id, |bencher| bencher.iter(|| set.matches(&channel)));
            }
            Err(error) => println!("GlobSet of {size}: does not build: {error}"),
        }
    }
}

fn glob_set(globs: &[Glob]) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        builder.add(glob.clone());
    }
    builder.build()
}

/// A publisher on 1,000 hot channels, alone and while another thread adds and removes patterns of an
/// unrelated beginning. Every hot channel is matched by a pattern, so each has a route to lose.
fn under_churn(rounds: usize) -> Pair {
    let bus: Bus<Payload> = Bus::new();
    let monitor = quiet(&bus, 2 * BATCH).psubscribe("hot:*").unwrap();
    let names: Vec<String> = (0..1_000).map(|i| format!("hot:{i}")).collect();
    let payload = payload();
    let mut at = 0;
    let mut publish = || {
        let taken = nanos(BATCH, || {
            for _ in 0..BATCH {
                at = (at + 1) % names.len();
                black_box(bus.publish(&names[at], Arc::clone(&payload)));
            }
        });
        assert_eq!(monitor.try_iter().count(), BATCH);
        taken
    };
    // One after the other and not in turns: a thread that is to stand still is still there. The other
    // thread runs in both: without churn it spins, so that both share the machine alike.
    let churn = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let (mut calm, mut stormy) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let churner = bus.subscriber_builder().lifecycle_events(false).build();
            let mut i = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                if churn.load(Ordering::Relaxed) {
                    i += 1;
                    let pattern = format!("churn:{i}:*");
                    churner.psubscribe(&pattern).unwrap();
                    churner.punsubscribe(&pattern);
                } else {
                    std::hint::spin_loop();
                }
            }
        });
        for round in 0..2 * rounds {
            let storm = round % 2 == 1;
            churn.store(storm, Ordering::Relaxed);
            publish();
            let taken: f64 = (0..10).map(|_| publish()).sum::<f64>() / 10.0;
            if storm { stormy.push(taken) } else { calm.push(taken) }
        }
        stop.store(true, Ordering::Relaxed);
    });
    Pair::of(&mut stormy, &mut calm)
}

/// Returns the nanoseconds that a publish takes to a channel that nothing matches, when each channel is published to
/// once.
fn once_each(channels: usize) -> f64 {
    let bus: Bus<Payload> = Bus::new();
    let payload = payload();
    let names: Vec<String> = (0..channels).map(|i| format!("once:{i}:only")).collect();
    nanos(channels, || {
        for name in &names {
            black_box(bus.publish(name, Arc::clone(&payload)));
        }
    })
}

/// Memory that no cache holds, to measure how long the machine takes to read it.
struct Memory {
    /// One cycle through all cache lines, in random order.
    lines: Vec<Line>,
    at: usize,
}

#[derive(Clone)]
#[repr(align(64))]
struct Line(u32);

impl Memory {
    fn new() -> Self {
        let count = scaled(4 << 20, 1 << 10);
        let mut order: Vec<u32> = (0..count as u32).collect();
        let mut random = Random(11);
        (1..count).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        let mut lines = vec![Line(0); count];
        for (&line, &next) in order.iter().zip(order.iter().cycle().skip(1)) {
            lines[line as usize] = Line(next);
        }
        Self { lines, at: 0 }
    }

    /// Returns the nanoseconds that a read takes that must wait for the one before it.
    fn read(&mut self) -> f64 {
        nanos(100, || (0..100).for_each(|_| self.at = self.lines[self.at].0 as usize))
    }
}

/// A publish to a channel never seen, for each shape.
fn never_seen(name: &'static str, size: usize, reach: f64, aim: f64) -> Vec<Number> {
    let mut memory = Memory::new();
    let number = |shape: &'static Shape| {
        let mut crowd = Crowd::new(shape, size);
        // Until the memory of recent names is full, so that each name drives another out.
        crowd.never_seen(scaled(200_000, 1_000));
        let pair = in_turns(scaled(41, 1), || crowd.never_seen(2_000), || memory.read());
        Number {
            name,
            what: format!("never seen, {size} × {}", shape.name),
            figure: pair.ours,
            reach,
            aim,
            unit: "ns",
            better: Better::Less,
            against: format!("a read from memory: {:.0} ns", pair.floor),
        }
    };
    SHAPES.iter().map(number).collect()
}

/// The content of long patterns.
const LONG: [&str; 9] = ["?", "a?", "[ac]", "[^a]", "[]?", "*a", "*[ac]", "\\a", "a"];

/// The length of a long pattern, in bytes of text.
fn long() -> usize {
    scaled(64 << 10, 1 << 10)
}

/// Bytes of memory that long patterns take for each byte of their text, for each of `LONG`; many patterns share all but
/// their end.
fn memory_of_long_patterns() -> Vec<(&'static str, f64)> {
    let resident = || memory_stats().map_or(0.0, |memory| memory.physical_mem as f64);
    let patterns = scaled(100, 2);
    // Kept until all have been measured, so that none takes what another has given back.
    let mut buses = Vec::new();
    // What is free when this begins goes to the first, which is measured again.
    let shapes = iter::once(&"[ac]").chain(&LONG);
    let each = shapes.map(|shape| {
        let bus: Bus<Payload> = Bus::new();
        let subscriber = quiet(&bus, 2).build();
        let mut text = format!("a{}", shape.repeat(long() / shape.len()));
        let end = text.len();
        let before = resident();
        for i in 0..patterns {
            text.truncate(end);
            text.push_str(&i.to_string());
            subscriber.psubscribe(&text).unwrap();
        }
        let taken = resident() - before;
        buses.push((bus, subscriber));
        (*shape, taken / (patterns * end) as f64)
    });
    each.skip(1).collect()
}

/// Publishes in a row: few enough for most bursts to be over before the system takes the core away.
const BURST: usize = 2_000;

/// The nanoseconds that publishes to names never seen take while another thread does something.
struct Delay {
    median: f64,
    /// The slowest of [`BURST`], in half of all bursts.
    slowest: f64,
}

/// Publishes while another thread does nothing, adds and removes short patterns, and adds and removes long ones, in
/// turns. All patterns, and all names, begin with the same byte, and so lie behind one lock.
fn delays(rounds: usize) -> [Delay; 3] {
    let bus: Bus<Payload> = Bus::new();
    // None is matched, so that a publish is a look at the patterns and no more.
    let _others = quiet(&bus, 2).psubscribe("a{}[x]").unwrap();
    let short: Vec<Pattern> = (0..20).map(|i| Pattern::redis(&format!("a{i}:*"))).collect();
    let beginning = "a?".repeat(long() / 2);
    let long = (0..20).map(|i| Pattern::redis(&format!("{beginning}{i}"))).collect();
    let kinds: [Vec<Pattern>; 3] = [Vec::new(), short, long];
    let kind = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let payload = payload();
    let mut taken: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let churner = quiet(&bus, 2).build();
            while !stop.load(Ordering::Relaxed) {
                let patterns = &kinds[kind.load(Ordering::Relaxed)];
                for pattern in patterns {
                    churner.psubscribe(pattern).unwrap();
                }
                for pattern in patterns {
                    churner.punsubscribe(pattern);
                }
                std::hint::spin_loop();
            }
        });
        for round in 0..3 * rounds {
            kind.store(round % 3, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
            let names: Vec<String> = (0..BURST).map(|i| format!("a:{round}:{i}")).collect();
            let publish = |name: &String| {
                nanos(1, || {
                    black_box(bus.publish(name, Arc::clone(&payload)));
                })
            };
            let mut burst: Vec<f64> = names.iter().map(publish).collect();
            let (medians, slowest) = &mut taken[round % 3];
            medians.push(median(&mut burst));
            slowest.push(burst[BURST - 1]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    taken.map(|(mut medians, mut slowest)| Delay {
        median: median(&mut medians),
        slowest: median(&mut slowest),
    })
}

fn main() {
    let benches = |criterion: &mut Criterion| {
        with_criterion(criterion);
        by_hand(criterion);
    };
    let million = scaled(1_000_000, 1_000);
    let few = || never_seen("N7", scaled(10_000, 100), 330.0, 120.0);
    // Before all else: allocations that have come and gone in a process scatter later ones.
    let young = (!common::is_filtered()).then(|| (few(), memory_of_long_patterns()));
    let wanted = common::run(benches);
    let Some((young, memory)) = young.filter(|_| wanted) else { return };

    let mut numbers = never_seen("N6", million, 1_000.0, 300.0);
    numbers.extend(young);
    {
        let crowd = Crowd::new(&SHAPES[0], million);
        let (with, without) = (Hot::on(&crowd.bus), Hot::on(&Bus::new()));
        let pair = in_turns(scaled(401, 1), || with.publish(), || without.publish());
        numbers.push(Number {
            name: "N8",
            what: format!("hot channel, {million} patterns"),
            figure: pair.difference,
            reach: 10.0,
            aim: 0.0,
            unit: "ns",
            better: Better::Less,
            against: format!("{:.1} ns with none", pair.floor),
        });
    }
    {
        let mut crowd = Crowd::new(&SHAPES[0], scaled(100_000, 1_000));
        crowd.come_and_go(1_000);
        let mut taken: Vec<f64> = (0..scaled(41, 1)).map(|_| crowd.come_and_go(1_000)).collect();
        numbers.push(Number {
            name: "N14",
            what: format!("psubscribe + punsubscribe, {} patterns", crowd.size),
            figure: median(&mut taken),
            reach: 3_000.0,
            aim: 1_000.0,
            unit: "ns",
            better: Better::Less,
            against: "absolute".to_owned(),
        });
    }
    numbers.extend(memory.into_iter().map(|(shape, bytes)| Number {
        name: "H1",
        what: format!("memory of patterns of {} bytes of {shape}, a byte", long()),
        figure: bytes,
        reach: 32.0,
        aim: 16.0,
        unit: "B",
        better: Better::Less,
        against: "absolute".to_owned(),
    }));
    common::print_numbers("Matching", &numbers);
    let old: Vec<String> = few().iter().map(|number| format!("{:.0}", number.figure)).collect();
    println!(
        "N7 again, now that millions of patterns have come and gone in the process: {} ns",
        old.join(" / ")
    );

    let pair = under_churn(scaled(101, 1));
    println!(
        "1,000 hot channels, one pattern matching: {:.0} ns a publish; while another thread adds and \
         removes patterns of an unrelated beginning: {:.0} ns ({:.2} ×)",
        pair.floor, pair.ours, pair.ratio
    );
    let [calm, short, long] = delays(scaled(101, 1));
    println!(
        "a name never seen, nothing matching: {:.0} ns a publish, the slowest of {BURST} {:.1} µs; while another \
         thread subscribes and unsubscribes short patterns of the same beginning: {:.0} ns, {:.1} µs; long ones: \
         {:.0} ns, {:.1} µs ({:+.1} µs over short ones; subscribing a short one may take 3 µs)",
        calm.median,
        calm.slowest / 1e3,
        short.median,
        short.slowest / 1e3,
        long.median,
        long.slowest / 1e3,
        (long.slowest - short.slowest) / 1e3,
    );
    let mut once: Vec<f64> = (0..scaled(5, 1)).map(|_| once_each(million)).collect();
    println!("{million} distinct channels, once each: {:.0} ns a publish", median(&mut once));
}
