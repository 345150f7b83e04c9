//! Measures receiving and publishing in tasks, in one process and run with tokio's own channels.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Better, Number, Pair, Payload, Random, in_turns, is_test, median, nanos, payload,
    print_numbers, quiet, resident, scaled,
};
use fanout::{Bus, Overflow, Subscriber, Topic};
use futures::StreamExt;
use globset::{Glob, GlobSetBuilder};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, mpsc};
use tokio::task::yield_now;

/// Room in each queue, in messages: more than is published before the tasks run.
const CAPACITY: usize = 64;

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Tasks on a runtime of one thread, and a publisher among them.
struct Side {
    runtime: Runtime,
    publish: Box<dyn FnMut()>,
    /// Messages that the tasks have received.
    received: Arc<AtomicUsize>,
    tasks: usize,
    expected: usize,
}

impl Side {
    /// Returns the nanoseconds of a delivery, from the publish to the task that has received it, in bursts of `burst`.
    fn round(&mut self, burst: usize) -> f64 {
        let bursts = (scaled(2_000, 1) / (self.tasks * burst)).max(1);
        let deliveries = bursts * burst * self.tasks;
        nanos(deliveries, || {
            self.runtime.block_on(async {
                for _ in 0..bursts {
                    (0..burst).for_each(|_| (self.publish)());
                    self.expected += burst * self.tasks;
                    while self.received.load(Ordering::Relaxed) < self.expected {
                        yield_now().await;
                    }
                }
            });
        })
    }
}

fn side(tasks: usize, make: impl FnOnce(&Runtime, &Arc<AtomicUsize>) -> Box<dyn FnMut()>) -> Side {
    let runtime = current_thread();
    let received = Arc::new(AtomicUsize::new(0));
    let publish = make(&runtime, &received);
    Side { runtime, publish, received, tasks, expected: 0 }
}

/// Starts a task that reads a subscriber's messages.
fn read_inbox(runtime: &Runtime, received: &Arc<AtomicUsize>, subscriber: Subscriber<Payload>) {
    let (mut messages, received) = (subscriber.into_message_stream(), Arc::clone(received));
    runtime.spawn(async move {
        while let Some(message) = messages.next().await {
            black_box(message);
            received.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Starts a task that reads a channel of tokio's.
fn read_mpsc(
    runtime: &Runtime,
    received: &Arc<AtomicUsize>,
    capacity: usize,
) -> mpsc::Sender<Payload> {
    let (sender, mut receiver) = mpsc::channel::<Payload>(capacity);
    let received = Arc::clone(received);
    runtime.spawn(async move {
        while let Some(payload) = receiver.recv().await {
            black_box(payload);
            received.fetch_add(1, Ordering::Relaxed);
        }
    });
    sender
}

fn ours(tasks: usize) -> Side {
    side(tasks, |runtime, received| {
        let bus: Bus<Payload> = Bus::new();
        for _ in 0..tasks {
            read_inbox(runtime, received, quiet(&bus, CAPACITY).subscribe("c").unwrap());
        }
        let (topic, payload) = (bus.topic("c"), payload());
        Box::new(move || _ = black_box(topic.publish(Arc::clone(&payload))))
    })
}

fn mpscs(tasks: usize) -> Side {
    side(tasks, |runtime, received| {
        let senders: Vec<_> = (0..tasks).map(|_| read_mpsc(runtime, received, CAPACITY)).collect();
        let payload = payload();
        Box::new(move || {
            senders.iter().for_each(|sender| sender.try_send(Arc::clone(&payload)).unwrap());
        })
    })
}

fn broadcasts(tasks: usize) -> Side {
    side(tasks, |runtime, received| {
        let (sender, _) = broadcast::channel::<Payload>(CAPACITY);
        for _ in 0..tasks {
            let mut receiver = sender.subscribe();
            let received = Arc::clone(received);
            runtime.spawn(async move {
                while let Ok(payload) = receiver.recv().await {
                    black_box(payload);
                    received.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let payload = payload();
        Box::new(move || _ = black_box(sender.send(Arc::clone(&payload)).unwrap()))
    })
}

/// Many channels with a task each, of which one burst goes to many at random.
fn many(
    channels: usize,
    make: impl FnOnce(&Runtime, &Arc<AtomicUsize>) -> Box<dyn FnMut(usize)>,
) -> Side {
    side(1, |runtime, received| {
        let (mut publish, mut random) = (make(runtime, received), Random(7));
        Box::new(move || publish(random.below(channels)))
    })
}

fn channel(number: usize) -> String {
    format!("user:{number}:notifications")
}

fn our_channels(channels: usize, by_name: bool) -> Side {
    many(channels, |runtime, received| {
        let bus: Bus<Payload> = Bus::new();
        let mut topics: Vec<Topic<Payload>> = Vec::new();
        for number in 0..channels {
            let name = channel(number);
            read_inbox(runtime, received, quiet(&bus, CAPACITY).subscribe(&name).unwrap());
            if !by_name {
                topics.push(bus.topic(&name));
            }
        }
        let payload = payload();
        if by_name {
            Box::new(move |number| _ = bus.publish(&channel(number), Arc::clone(&payload)))
        } else {
            Box::new(move |number| {
                // The name is made here too, as for the map.
                black_box(channel(number));
                topics[number].publish(Arc::clone(&payload));
            })
        }
    })
}

fn map_of_mpscs(channels: usize) -> Side {
    many(channels, |runtime, received| {
        let senders: HashMap<String, mpsc::Sender<Payload>> = (0..channels)
            .map(|number| (channel(number), read_mpsc(runtime, received, CAPACITY)))
            .collect();
        let payload = payload();
        Box::new(move |number| senders[&channel(number)].try_send(Arc::clone(&payload)).unwrap())
    })
}

/// Patterns with a task each.
fn our_patterns(patterns: usize) -> Side {
    many(patterns, |runtime, received| {
        let bus: Bus<Payload> = Bus::new();
        for number in 0..patterns {
            let subscriber = quiet(&bus, CAPACITY).build();
            subscriber.psubscribe(pattern(number)).unwrap();
            read_inbox(runtime, received, subscriber);
        }
        let payload = payload();
        Box::new(move |number| _ = bus.publish(&channel(number), Arc::clone(&payload)))
    })
}

/// One `GlobSet` of all patterns, and a channel of tokio's for each.
fn globs_of_mpscs(patterns: usize) -> Side {
    many(patterns, |runtime, received| {
        let mut globs = GlobSetBuilder::new();
        let mut senders = Vec::new();
        for number in 0..patterns {
            globs.add(Glob::new(&pattern(number)).unwrap());
            senders.push(read_mpsc(runtime, received, CAPACITY));
        }
        let (globs, payload) = (globs.build().unwrap(), payload());
        let mut matching = Vec::new();
        Box::new(move |number| {
            globs.matches_into(channel(number), &mut matching);
            for &at in &matching {
                senders[at].try_send(Arc::clone(&payload)).unwrap();
            }
        })
    })
}

fn pattern(number: usize) -> String {
    format!("user:{number}:*")
}

/// Bytes of memory that each of many readers takes that have nothing to read.
struct Memory {
    /// What a subscriber takes more once it is waited for.
    waiting: f64,
    /// A subscriber, and a task that waits for it.
    our_task: f64,
    /// A channel of tokio's, and a task that waits for it.
    their_task: f64,
}

fn memory() -> Memory {
    const ROOM: usize = 16;
    let readers = scaled(100_000, 100);
    let grown = |since: f64| (resident() - since) / readers as f64;
    let (runtime, received) = (current_thread(), Arc::default());
    let let_them_wait = || runtime.block_on(yield_now());

    let bus: Bus<Payload> = Bus::new();
    let subscribers = |channels: &str| -> Vec<Subscriber<Payload>> {
        let name = |number| format!("{channels}:{number}");
        (0..readers).map(|number| quiet(&bus, ROOM).subscribe(name(number)).unwrap()).collect()
    };
    let polled = subscribers("polled");
    let mut streams: Vec<_> = polled.iter().map(Subscriber::message_stream).collect();
    let before = resident();
    let mut context = Context::from_waker(Waker::noop());
    assert!(streams.iter_mut().all(|stream| stream.poll_recv(&mut context).is_pending()));
    let waiting = grown(before);

    let before = resident();
    for subscriber in subscribers("read") {
        read_inbox(&runtime, &received, subscriber);
    }
    let_them_wait();
    let our_task = grown(before);

    let before = resident();
    let senders: Vec<_> = (0..readers).map(|_| read_mpsc(&runtime, &received, ROOM)).collect();
    let_them_wait();
    let their_task = grown(before);
    drop(senders);
    Memory { waiting, our_task, their_task }
}

/// Returns the median nanoseconds from a send on a thread to an idle task on another, of both ways.
fn latency(samples: usize) -> Pair {
    /// Runs a task on a thread of its own, which puts what it receives and when into a channel.
    fn idle_task<F: Future<Output = ()>>(
        task: impl FnOnce(mpsc::UnboundedSender<f64>) -> F + Send + 'static,
    ) -> mpsc::UnboundedReceiver<f64> {
        let (seen, times) = mpsc::unbounded_channel();
        thread::spawn(move || current_thread().block_on(task(seen)));
        times
    }
    let since = |sent: Instant| sent.elapsed().as_nanos() as f64;
    let bus: Bus<Instant> = Bus::new();
    let subscriber = bus.subscriber_builder().lifecycle_events(false).subscribe("c").unwrap();
    let mut our_times = idle_task(move |seen| async move {
        let mut messages = subscriber.into_message_stream();
        while let Some(message) = messages.next().await {
            seen.send(since(message.payload)).unwrap();
        }
    });
    let (sender, mut receiver) = mpsc::channel::<Instant>(CAPACITY);
    let mut their_times = idle_task(move |seen| async move {
        while let Some(sent) = receiver.recv().await {
            seen.send(since(sent)).unwrap();
        }
    });
    let topic = bus.topic("c");
    // Long enough for the task's thread to sleep.
    let rest = || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(200) {
            spin_loop();
        }
    };
    in_turns(
        samples,
        || {
            rest();
            topic.publish(Instant::now());
            our_times.blocking_recv().unwrap()
        },
        || {
            rest();
            sender.try_send(Instant::now()).unwrap();
            their_times.blocking_recv().unwrap()
        },
    )
}

/// Returns by how many milliseconds a timer of 1 ms is late beside a reader that never runs dry, on one thread.
fn lateness() -> f64 {
    let bus: Bus<Payload> = Bus::new();
    let mut messages = quiet(&bus, 1_024).subscribe("c").unwrap().into_message_stream();
    let (topic, payload) = (bus.topic("c"), payload());
    (0..512).for_each(|_| _ = topic.publish(Arc::clone(&payload)));
    let mut late = current_thread().block_on(async {
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                black_box(message);
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(1) {}
                topic.publish(Arc::clone(&payload));
            }
        });
        let mut late = Vec::new();
        for _ in 0..scaled(200, 3) {
            let start = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            late.push(start.elapsed().as_secs_f64() * 1e3 - 1.0);
        }
        late
    });
    bus.close();
    median(&mut late)
}

/// Returns the nanoseconds of a delivery with none lost, to readers of 16 messages each.
fn lossless(readers: usize) -> Pair {
    const MESSAGES: usize = 5_000;
    let messages = scaled(MESSAGES, 20);
    let ours = || {
        let bus: Bus<Payload> = Bus::new();
        let policy = Overflow::Block { timeout: None };
        let subscribers: Vec<_> = (0..readers)
            .map(|_| quiet(&bus, 16).overflow(policy).subscribe("c").unwrap())
            .collect();
        let (runtime, payload) = (current_thread(), payload());
        nanos(messages * readers, || {
            runtime.block_on(async {
                let tasks: Vec<_> = subscribers
                    .into_iter()
                    .map(|subscriber| tokio::spawn(subscriber.into_message_stream().count()))
                    .collect();
                let topic = bus.topic("c");
                for _ in 0..messages {
                    assert_eq!(topic.publish_async(Arc::clone(&payload)).await.delivered, readers);
                }
                bus.close();
                for task in tasks {
                    assert_eq!(task.await.unwrap(), messages);
                }
            });
        })
    };
    let theirs = || {
        let (runtime, payload) = (current_thread(), payload());
        nanos(messages * readers, || {
            runtime.block_on(async {
                let (senders, tasks): (Vec<_>, Vec<_>) = (0..readers)
                    .map(|_| {
                        let (sender, mut receiver) = mpsc::channel::<Payload>(16);
                        let task = tokio::spawn(async move {
                            let mut count = 0;
                            while receiver.recv().await.is_some() {
                                count += 1;
                            }
                            count
                        });
                        (sender, task)
                    })
                    .unzip();
                for _ in 0..messages {
                    for sender in &senders {
                        sender.send(Arc::clone(&payload)).await.unwrap();
                    }
                }
                drop(senders);
                for task in tasks {
                    assert_eq!(task.await.unwrap(), messages);
                }
            });
        })
    };
    in_turns(scaled(31, 1), ours, theirs)
}

fn ratio(name: &'static str, what: String, reach: f64, aim: f64, pair: Pair) -> Number {
    let against = format!("{:.0} over {:.0} ns", pair.ours, pair.floor);
    Number { name, what, figure: pair.ratio, reach, aim, unit: "×", better: Better::Less, against }
}

fn main() {
    if common::is_filtered() {
        return;
    }
    // First: later, memory that was used and freed would hide it.
    let memory = memory();
    let mut numbers = Vec::new();
    for (tasks, reach) in [(1, 1.15), (10, 1.15), (100, 1.15), (1_000, 1.25)] {
        for burst in [1, 32] {
            let rounds = scaled(if tasks == 1_000 { 101 } else { 401 }, 1);
            let (mut us, mut them) = (ours(tasks), mpscs(tasks));
            let pair = in_turns(rounds, || us.round(burst), || them.round(burst));
            let what = format!("tasks: {tasks}, bursts of {burst}, over a Vec of mpsc");
            numbers.push(match burst {
                1 => ratio("A1", what, reach, 1.0, pair),
                _ => ratio("A2", what, 0.9, 0.7, pair),
            });
            let (mut us, mut them) = (ours(tasks), broadcasts(tasks));
            let pair = in_turns(rounds, || us.round(burst), || them.round(burst));
            let what = format!("tasks: {tasks}, bursts of {burst}, over broadcast");
            let (reach, aim) = if burst == 1 { (1.25, 1.0) } else { (1.6, 1.1) };
            numbers.push(ratio("A3", what, reach, aim, pair));
        }
    }
    let what = "from a thread to an idle task, over mpsc".to_owned();
    numbers.push(ratio("A5", what, 1.1, 1.0, latency(scaled(2_001, 3))));
    for channels in [10_000, 100_000] {
        let channels = if is_test() { channels / 1_000 } else { channels };
        for by_name in [false, true] {
            let (mut us, mut them) = (our_channels(channels, by_name), map_of_mpscs(channels));
            let burst = scaled(500, 5);
            let pair = in_turns(scaled(101, 1), || us.round(burst), || them.round(burst));
            let way = if by_name { "by name" } else { "by Topic" };
            let what = format!("{channels} channels, {way}, over a map of mpsc");
            let (reach, aim) = if by_name { (2.0, 1.5) } else { (1.5, 1.15) };
            numbers.push(ratio("A7", what, reach, aim, pair));
        }
    }
    numbers.push(Number {
        name: "A8",
        what: "memory of a subscriber once it is waited for".to_owned(),
        // A page more or less is of the allocator's doing.
        figure: memory.waiting.round(),
        reach: 0.0,
        aim: 0.0,
        unit: "B",
        better: Better::Less,
        against: "absolute".to_owned(),
    });
    numbers.push(Number {
        name: "A9",
        what: "a timer of 1 ms beside a reader that never runs dry, late by".to_owned(),
        figure: lateness(),
        reach: 2.0,
        aim: 1.4,
        unit: "ms",
        better: Better::Less,
        against: "absolute".to_owned(),
    });
    for (readers, reach, aim) in [(1, 2.0, 1.2), (10, 1.0, 0.7)] {
        let what = format!("publish_async, readers: {readers}, over a loop of send");
        numbers.push(ratio("A10", what, reach, aim, lossless(readers)));
    }
    print_numbers("Tasks", &numbers);

    let patterns = scaled(1_000, 10);
    let (mut us, mut them) = (our_patterns(patterns), globs_of_mpscs(patterns));
    let burst = scaled(500, 5);
    let pair = in_turns(scaled(101, 1), || us.round(burst), || them.round(burst));
    println!(
        "{patterns} patterns with a task each, by name: {:.0} ns a delivery, {:.2} × a GlobSet before mpsc ({:.0} ns)",
        pair.ours, pair.ratio, pair.floor
    );
    println!(
        "a subscriber with a task that waits for it takes {:.0} B, an mpsc with one {:.0} B",
        memory.our_task, memory.their_task
    );
}
