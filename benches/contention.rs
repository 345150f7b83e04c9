//! Measures publishers on several threads, each on a channel of its own (N12) and all on one; readers of one channel on
//! several threads; and the cost of a pointer that all messages of a channel share.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::{Better, Number, Payload, in_turns, iterate, payload, quiet, scaled};
use criterion::{BenchmarkId, Criterion, Throughput};
use crossbeam_utils::CachePadded;
use fanout::crossbeam_channel::{Receiver, bounded};
use fanout::{Bus, Subscriber};

const CAPACITY: usize = 256;

/// Number of publishes after which a publisher empties its inbox.
const BATCH: usize = 128;

/// The channels that the publishers publish to, and by which handle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Apart,
    ApartByName,
    Together,
}

/// Time that publishers run before the measurement, so that the system has given each of them a core.
const START: Duration = Duration::from_millis(20);

/// Returns the nanoseconds that one publish takes when `threads` threads publish, on average over `window`.
///
/// Every publisher also reads one inbox: that of its own channel, or one of the inboxes of the common channel.
fn publishing(threads: usize, window: Duration, at: Where) -> f64 {
    let bus: Bus<Payload> = Bus::new();
    let name = |thread: usize| match at {
        Where::Together => "game:1:events".to_owned(),
        Where::Apart | Where::ApartByName => format!("user:{thread}:notifications"),
    };
    let inboxes: Vec<Subscriber<Payload>> = (0..threads)
        .map(|thread| {
            let builder = quiet(&bus, CAPACITY);
            builder.subscribe(name(thread)).expect("the bus is open and has no limits")
        })
        .collect();
    let batches: Vec<CachePadded<AtomicU64>> =
        (0..threads).map(|_| CachePadded::default()).collect();
    let stop = CachePadded::new(AtomicBool::new(false));
    thread::scope(|scope| {
        for ((thread, inbox), batches) in inboxes.iter().enumerate().zip(&batches) {
            let (bus, stop) = (&bus, &stop);
            scope.spawn(move || {
                let name = name(thread);
                let topic = bus.topic(&name);
                // Each thread has its own payload, whose counter must not be contended here.
                let payload = payload();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..BATCH {
                        let payload = Arc::clone(&payload);
                        if at == Where::ApartByName {
                            black_box(bus.publish(&name, payload));
                        } else {
                            black_box(topic.publish(payload));
                        }
                    }
                    while let Ok(event) = inbox.try_recv() {
                        black_box(&event);
                    }
                    batches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let done = || batches.iter().map(|batches| batches.load(Ordering::Relaxed)).sum::<u64>();
        thread::sleep(START);
        let (before, start) = (done(), Instant::now());
        thread::sleep(window);
        let (after, taken) = (done(), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        let publishes = (after - before) as f64 * BATCH as f64;
        taken.as_nanos() as f64 * threads as f64 / publishes
    })
}

/// Returns the nanoseconds that one message takes from one thread to four that wait, over plain crossbeam channels
/// whose messages carry a pointer beside the payload: to one allocation for all channels, or to one for each.
fn pointing(shared: bool, messages: usize) -> f64 {
    let common: Arc<str> = Arc::from("user:42:notifications");
    let payload = payload();
    let sources: Vec<Arc<Arc<str>>> = (0..4).map(|_| Arc::new(Arc::clone(&common))).collect();
    let sources: Vec<_> =
        (0..4).map(|at| Arc::clone(&sources[if shared { 0 } else { at }])).collect();
    thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..4).map(|_| bounded::<(Payload, Arc<Arc<str>>)>(CAPACITY)).unzip();
        let receivers: Vec<_> = receivers
            .into_iter()
            .map(|receiver| {
                scope.spawn(move || receiver.iter().map(|message| drop(black_box(message))).count())
            })
            .collect();
        let start = Instant::now();
        for _ in 0..messages {
            for (sender, source) in senders.iter().zip(&sources) {
                sender
                    .send((Arc::clone(&payload), Arc::clone(source)))
                    .expect("the receivers are there until the senders are gone");
            }
        }
        drop(senders);
        let received: usize =
            receivers.into_iter().map(|receiver| receiver.join().unwrap_or_default()).sum();
        assert_eq!(received, 4 * messages);
        start.elapsed().as_nanos() as f64 / (4 * messages) as f64
    })
}

/// A queue of one receiver among several of the same channel.
trait Read: Send {
    /// Reads one message; returns `true` if there was one.
    fn read(&self) -> bool;
}

impl Read for Subscriber<u64> {
    fn read(&self) -> bool {
        self.try_recv_message().is_ok_and(|message| black_box(message).payload < u64::MAX)
    }
}

/// A plain channel whose messages have an `Arc` beside the payload.
impl Read for Receiver<(u64, Arc<Arc<str>>)> {
    fn read(&self) -> bool {
        self.try_recv().is_ok_and(|message| black_box(message).0 < u64::MAX)
    }
}

/// Returns the nanoseconds that reading one message takes when each of `readers` is read by a thread of its own.
fn reading(readers: &[impl Read + Sync], messages: usize) -> f64 {
    let (ready, gone) = (Barrier::new(readers.len()), AtomicU64::new(0));
    let slowest = thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter()
            .map(|reader| {
                scope.spawn(|| {
                    ready.wait();
                    let start = Instant::now();
                    let read = (0..).take_while(|_| reader.read()).count();
                    let taken = start.elapsed();
                    gone.fetch_add(read as u64, Ordering::Relaxed);
                    taken
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).max()
    });
    assert_eq!(gone.into_inner(), (messages * readers.len()) as u64);
    slowest.unwrap_or_default().as_nanos() as f64 / messages as f64
}

/// Measures [`reading`] for subscribers of one channel, one on each of `threads` threads.
fn reading_ours(threads: usize, messages: usize) -> f64 {
    let bus: Bus<u64> = Bus::new();
    let inbox = || {
        let builder = bus.subscriber_builder().capacity(messages).lifecycle_events(false);
        builder.subscribe("game:1:events").expect("the bus is open and has no limits")
    };
    let inboxes: Vec<_> = (0..threads).map(|_| inbox()).collect();
    (0..messages).for_each(|n| _ = bus.publish("game:1:events", n as u64));
    reading(&inboxes, messages)
}

/// Measures [`reading`] for plain channels, one on each thread, whose messages all point to one allocation.
fn reading_plain(threads: usize, messages: usize) -> f64 {
    let source = Arc::new(Arc::from("game:1:events"));
    let receivers: Vec<_> = (0..threads)
        .map(|_| {
            let (sender, receiver) = bounded::<(u64, Arc<Arc<str>>)>(messages);
            for n in 0..messages {
                sender.send((n as u64, Arc::clone(&source))).expect("there is room");
            }
            receiver
        })
        .collect();
    reading(&receivers, messages)
}

fn window() -> Duration {
    Duration::from_millis(scaled(50, 5) as u64)
}

fn with_criterion(criterion: &mut Criterion) {
    for (what, at) in [
        ("channels apart, topic", Where::Apart),
        ("channels apart, by name", Where::ApartByName),
        ("one channel, topic", Where::Together),
    ] {
        let mut group = criterion.benchmark_group(what);
        for threads in [1, 2, 4] {
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
                // One window, however many publishes criterion asks for.
                iterate(bencher, usize::MAX, || publishing(threads, window(), at));
            });
        }
        group.finish();
    }
}

fn main() {
    if !common::run(with_criterion) {
        return;
    }
    let rounds = scaled(21, 1);
    let mut numbers = Vec::new();
    for (what, at) in [("Topic::publish", Where::Apart), ("bus.publish(&str)", Where::ApartByName)]
    {
        // The rate of two threads over the rate of one.
        let pair =
            in_turns(rounds, || 2.0 * publishing(1, window(), at), || publishing(2, window(), at));
        numbers.push(Number {
            name: "N12",
            what: format!("{what}, 2 threads on 2 channels, over 1"),
            figure: pair.ratio,
            reach: 1.7,
            aim: 1.95,
            unit: "×",
            better: Better::More,
            against: format!("{:.1} ns with 1, {:.1} with 2", pair.ours / 2.0, pair.floor),
        });
    }
    common::print_numbers("Contention", &numbers);
    let pair = in_turns(
        rounds,
        || publishing(2, window(), Where::Together),
        || publishing(1, window(), Where::Together),
    );
    println!(
        "One channel, a publish and a delivery to each publisher's inbox: 1 publisher {:.0} ns, 2 publishers \
         {:.0} ns for each of theirs ({:.2} ×)",
        pair.floor, pair.ours, pair.ratio
    );
    let messages = scaled(20_000, 100);
    let both = |what: &str, read: fn(usize, usize) -> f64| {
        let pair = in_turns(rounds, || read(2, messages), || read(1, messages));
        println!(
            "{what}, read to their end: one {:.1} ns a message, two on two threads {:.1} ns each ({:.2} ×)",
            pair.floor, pair.ours, pair.ratio
        );
    };
    both("Subscribers of one channel", reading_ours);
    both("Plain channels whose messages have an `Arc` of the same thing", reading_plain);
    let messages = scaled(50_000, 100);
    let pair = in_turns(rounds, || pointing(true, messages), || pointing(false, messages));
    println!(
        "Four waiting threads, bare channels, messages that point to something: to one thing each {:.0} ns, all to \
         the same {:.0} ns a message ({:.2} ×)",
        pair.floor, pair.ours, pair.ratio
    );
}
