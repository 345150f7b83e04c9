//! Compares one publish with a bare loop of `try_send`: N1 to N4.
//!
//! The floor (`raw`) is a plain crossbeam channel for each inbox, of the same capacity, that carries the payload alone.
#![allow(missing_docs)]

mod common;
mod symbols;

use std::hint::black_box;
use std::sync::Arc;

use common::{Better, Number, Payload, in_turns, iterate, nanos, payload, quiet, scaled};
use criterion::{Criterion, Throughput};
use fanout::crossbeam_channel::{Receiver, Sender, bounded};
use fanout::{Bus, Subscriber, Topic};

const CHANNEL: &str = "user:42:notifications";
/// Small enough for the slots of a thousand inboxes to stay in a processor's cache, so that the work is measured and
/// not the memory. With the default of 256, a thousand inboxes have 8 MB of slots, or 6 MB if they hold the payload
/// alone.
const CAPACITY: usize = 16;

const DEFAULT_CAPACITY: usize = 256;

/// Number of deliveries between two readings of the clock, roughly.
const DELIVERIES: usize = 2_000;

/// Returns the number of publishes after which the inboxes are drained: enough for `DELIVERIES`, if they fit.
fn batch(inboxes: usize, capacity: usize) -> usize {
    (DELIVERIES / inboxes).clamp(1, capacity / 2)
}

/// A way to send a payload to many receivers.
trait Way {
    fn publish(&self, payload: Payload);
    /// Takes all that was sent; returns the number of messages.
    fn drain(&self) -> usize;
    fn inboxes(&self) -> usize;
    fn capacity(&self) -> usize;

    /// Returns the nanoseconds that a publish takes.
    fn publishing(&self) -> f64 {
        let (batch, payload) = (batch(self.inboxes(), self.capacity()), payload());
        let taken = nanos(batch, || {
            for _ in 0..batch {
                self.publish(black_box(Arc::clone(&payload)));
            }
        });
        assert_eq!(self.drain(), batch * self.inboxes());
        taken
    }

    /// Returns the nanoseconds that a publish takes together with receiving what it sent.
    fn publishing_and_draining(&self) -> f64 {
        let (batch, payload) = (batch(self.inboxes(), self.capacity()), payload());
        let mut drained = 0;
        let taken = nanos(batch, || {
            for _ in 0..batch {
                self.publish(black_box(Arc::clone(&payload)));
            }
            drained = self.drain();
        });
        assert_eq!(drained, batch * self.inboxes());
        taken
    }
}

/// A message of a plain channel.
trait Carried {
    fn new(payload: Payload) -> Self;
}

impl Carried for Payload {
    fn new(payload: Payload) -> Self {
        payload
    }
}

/// A payload and a pointer, as in fanout's messages: crossbeam hands it over in memory.
type Pointed = (Payload, &'static u64);

impl Carried for Pointed {
    fn new(payload: Payload) -> Self {
        (payload, &0)
    }
}

/// Plain crossbeam channels.
struct Raw<T = Payload> {
    senders: Vec<Sender<T>>,
    receivers: Vec<Receiver<T>>,
}

impl<T> Raw<T> {
    fn new(inboxes: usize, capacity: usize) -> Self {
        let (senders, receivers) = (0..inboxes).map(|_| bounded(capacity)).unzip();
        Self { senders, receivers }
    }
}

impl<T: Carried> Way for Raw<T> {
    #[inline(never)]
    fn publish(&self, payload: Payload) {
        let Some((last, others)) = self.senders.split_last() else { return };
        let mut sent = 0_usize;
        for sender in others {
            sent += usize::from(sender.try_send(T::new(Arc::clone(&payload))).is_ok());
        }
        sent += usize::from(last.try_send(T::new(payload)).is_ok());
        black_box(sent);
    }

    #[inline(never)]
    fn drain(&self) -> usize {
        let mut taken = 0;
        for receiver in &self.receivers {
            while let Ok(payload) = receiver.try_recv() {
                black_box(payload);
                taken += 1;
            }
        }
        taken
    }

    fn inboxes(&self) -> usize {
        self.senders.len()
    }

    fn capacity(&self) -> usize {
        self.senders[0].capacity().unwrap_or(usize::MAX)
    }
}

/// The engine, through a `Topic` or by name.
struct Ours {
    bus: Bus<Payload>,
    topic: Topic<Payload>,
    inboxes: Vec<Subscriber<Payload>>,
    by_name: bool,
    /// `true` if all events are read, not messages alone.
    events: bool,
}

impl Ours {
    fn new(inboxes: usize, capacity: usize, by_name: bool) -> Self {
        let bus: Bus<Payload> = Bus::new();
        let inbox = || {
            let builder = quiet(&bus, capacity);
            builder.subscribe(CHANNEL).expect("the bus is open and has no limits")
        };
        let inboxes = (0..inboxes).map(|_| inbox()).collect();
        Self { topic: bus.topic(CHANNEL), bus, inboxes, by_name, events: false }
    }
}

impl Way for Ours {
    #[inline(never)]
    fn publish(&self, payload: Payload) {
        if self.by_name {
            black_box(self.bus.publish(black_box(CHANNEL), payload));
        } else {
            black_box(self.topic.publish(payload));
        }
    }

    #[inline(never)]
    fn drain(&self) -> usize {
        let mut taken = 0;
        for inbox in &self.inboxes {
            if self.events {
                while let Ok(event) = inbox.try_recv() {
                    black_box(event);
                    taken += 1;
                }
            } else {
                while let Ok(message) = inbox.try_recv_message() {
                    black_box(message.payload);
                    taken += 1;
                }
            }
        }
        taken
    }

    fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    fn capacity(&self) -> usize {
        self.inboxes[0].capacity()
    }
}

fn with_criterion(criterion: &mut Criterion) {
    for (question, drains) in [("publish", false), ("publish and drain", true)] {
        for inboxes in [1, 10, 100, 1_000] {
            let mut group = criterion.benchmark_group(format!("{question}/{inboxes}"));
            group.throughput(Throughput::Elements(inboxes as u64));
            let ways: [(&str, Box<dyn Way>); 3] = [
                ("topic", Box::new(Ours::new(inboxes, CAPACITY, false))),
                ("by name", Box::new(Ours::new(inboxes, CAPACITY, true))),
                ("raw", Box::new(Raw::<Payload>::new(inboxes, CAPACITY))),
            ];
            for (name, way) in ways {
                group.bench_function(name, |bencher| {
                    iterate(bencher, batch(inboxes, CAPACITY), || {
                        if drains { way.publishing_and_draining() } else { way.publishing() }
                    });
                });
            }
        }
    }
}

fn main() {
    if !common::run(with_criterion) {
        return;
    }
    symbols::check();

    let mut numbers = Vec::new();
    let rounds = scaled(801, 1);
    let wide = [10, 100, 1_000].map(|inboxes| (scaled(inboxes, inboxes.min(10)), CAPACITY));
    let widest = (wide[2].0, DEFAULT_CAPACITY);
    for (name, what, reach, aim, events) in [
        ("N1", "Topic::publish", 1.35, 1.1, false),
        ("N2", "publish and drain", 1.5, 1.15, false),
        ("N2", "the same, as events", 1.5, 1.15, true),
    ] {
        for (inboxes, capacity) in wide.into_iter().chain([widest]) {
            let ours = Ours { events, ..Ours::new(inboxes, capacity, false) };
            let raw = Raw::<Payload>::new(inboxes, capacity);
            let pair = match name {
                "N1" => in_turns(rounds, || ours.publishing(), || raw.publishing()),
                _ => in_turns(
                    rounds,
                    || ours.publishing_and_draining(),
                    || raw.publishing_and_draining(),
                ),
            };
            let each = inboxes as f64;
            numbers.push(Number {
                name,
                what: format!("{what}, {inboxes} inboxes of {capacity}"),
                figure: pair.ratio,
                reach,
                aim,
                unit: "×",
                better: Better::Less,
                against: format!(
                    "{:.1} over {:.1} ns a delivery",
                    pair.ours / each,
                    pair.floor / each
                ),
            });
        }
    }
    let topic = Ours::new(1, DEFAULT_CAPACITY, false);
    let by_name = Ours::new(1, DEFAULT_CAPACITY, true);
    let raw = Raw::<Payload>::new(1, DEFAULT_CAPACITY);
    for (name, what, reach, aim, ours, floor) in [
        ("N3", "Topic::publish, one inbox", 12.0, 5.0, &topic as &dyn Way, &raw as &dyn Way),
        ("N4", "bus.publish(&str), one hot channel", 20.0, 8.0, &by_name, &topic),
    ] {
        let pair = in_turns(rounds, || ours.publishing(), || floor.publishing());
        numbers.push(Number {
            name,
            what: what.to_owned(),
            figure: pair.difference,
            reach,
            aim,
            unit: "ns",
            better: Better::Less,
            against: format!("{:.1} over {:.1} ns", pair.ours, pair.floor),
        });
    }
    common::print_numbers("Fan-out", &numbers);
    let floors = wide.map(|(inboxes, capacity)| {
        let (pointed, raw) =
            (Raw::<Pointed>::new(inboxes, capacity), Raw::<Payload>::new(inboxes, capacity));
        let pair = in_turns(
            rounds,
            || pointed.publishing_and_draining(),
            || raw.publishing_and_draining(),
        );
        format!("{:.2}", pair.ratio)
    });
    println!(
        "Plain channels that carry a pointer beside the payload, publish and drain, 10 / 100 / 1,000: {} × those \
         that do not\n",
        floors.join(" / ")
    );
}
