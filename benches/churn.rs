//! Measures how subscribers that come and go slow a publish down: on its own channel, on other channels, by patterns.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Payload, median, nanos, payload, quiet, scaled};
use criterion::Criterion;
use fanout::{Bus, Subscriber, Topic};

const CHANNEL: &str = "game:1:events";
const INBOXES: usize = 100;
const CAPACITY: usize = 256;
const BATCH: usize = 64;

/// The subscribers that come and go while a publisher publishes to a hundred inboxes.
#[derive(Clone, Copy)]
enum Who {
    /// Nobody. The other thread spins, so that the publisher shares the machine as in the other cases.
    Nobody,
    OnTheChannel,
    OnAnother,
    ByAPatternThatMatches,
    ByAPatternOfAnotherBeginning,
    /// Subscribers themselves, with their inboxes.
    Subscribers,
}

const ALL: [(&str, Who); 6] = [
    ("nobody", Who::Nobody),
    ("on the channel", Who::OnTheChannel),
    ("on other channels", Who::OnAnother),
    ("by a pattern that matches", Who::ByAPatternThatMatches),
    ("by patterns of another beginning", Who::ByAPatternOfAnotherBeginning),
    ("whole subscribers, on the channel", Who::Subscribers),
];

struct Audience {
    bus: Bus<Payload>,
    topic: Topic<Payload>,
    inboxes: Vec<Subscriber<Payload>>,
    payload: Payload,
}

impl Audience {
    fn new() -> Self {
        let bus: Bus<Payload> = Bus::new();
        let inboxes = (0..INBOXES).map(|_| subscriber(&bus)).collect();
        Self { topic: bus.topic(CHANNEL), bus, inboxes, payload: payload() }
    }

    /// Returns the nanoseconds that a delivery takes.
    fn publishing(&self) -> f64 {
        let taken = nanos(BATCH * INBOXES, || {
            for _ in 0..BATCH {
                black_box(self.topic.publish(Arc::clone(&self.payload)));
            }
        });
        let read: usize = self.inboxes.iter().map(|inbox| inbox.try_iter().count()).sum();
        assert_eq!(read, BATCH * INBOXES);
        taken
    }
}

fn subscriber(bus: &Bus<Payload>) -> Subscriber<Payload> {
    quiet(bus, CAPACITY).subscribe(CHANNEL).expect("the bus is open and has no limits")
}

/// Subscribes and unsubscribes once.
fn come_and_go(bus: &Bus<Payload>, guest: &Subscriber<Payload>, who: Who, turn: u64) {
    let open = "the bus is open and has no limits";
    match who {
        Who::Nobody => std::hint::spin_loop(),
        Who::OnTheChannel => {
            guest.subscribe(CHANNEL).expect(open);
            guest.unsubscribe(CHANNEL);
        }
        Who::OnAnother => {
            let channel = format!("user:{turn}:notifications");
            guest.subscribe(&channel).expect(open);
            guest.unsubscribe(&channel);
        }
        Who::ByAPatternThatMatches => {
            guest.psubscribe("game:*:events").expect(open);
            guest.punsubscribe("game:*:events");
        }
        Who::ByAPatternOfAnotherBeginning => {
            let pattern = format!("user:{turn}:*");
            guest.psubscribe(&pattern).expect(open);
            guest.punsubscribe(&pattern);
        }
        Who::Subscribers => drop(subscriber(bus)),
    }
}

/// Runs `measure` while another thread subscribes and unsubscribes. Returns its result, and how often the other thread
/// did so, in thousands a second.
fn beside<R>(audience: &Audience, who: Who, measure: impl FnOnce() -> R) -> (R, f64) {
    let (stop, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let bus = &audience.bus;
    // Built on this thread, so that the other one begins with subscribing.
    let guest = quiet(bus, CAPACITY).build();
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                come_and_go(bus, &guest, who, turn);
                turns.store(turn, Ordering::Relaxed);
            }
        });
        while turns.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
        let before = turns.load(Ordering::Relaxed);
        let mut result = None;
        let taken = nanos(1, || result = Some(measure()));
        let turns = turns.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        let result = result.unwrap_or_else(|| unreachable!("measured above"));
        (result, turns as f64 / taken * 1e6)
    })
}

fn with_criterion(criterion: &mut Criterion) {
    let audience = Audience::new();
    for (name, who) in ALL {
        criterion.bench_function(
            &format!("a delivery while others come and go/{name}"),
            |bencher| {
                bencher.iter_custom(|iterations| {
                    let batches = (iterations as usize).div_ceil(BATCH * INBOXES);
                    let measure = || {
                        (0..batches).map(|_| audience.publishing()).sum::<f64>() / batches as f64
                    };
                    let (each, _) = beside(&audience, who, measure);
                    Duration::from_nanos((each * iterations as f64) as u64)
                });
            },
        );
    }
}

fn main() {
    if !common::run(with_criterion) {
        return;
    }
    let audience = Audience::new();
    let mut taken = ALL.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..scaled(31, 1) {
        let mut calm = f64::NAN;
        for ((_, who), (times, ratios, rates)) in ALL.iter().zip(&mut taken) {
            let measure = || {
                let mut some: Vec<f64> =
                    (0..scaled(20, 1)).map(|_| audience.publishing()).collect();
                median(&mut some)
            };
            let (time, rate) = beside(&audience, *who, measure);
            if matches!(who, Who::Nobody) {
                calm = time;
            }
            times.push(time);
            ratios.push(time / calm);
            rates.push(rate);
        }
    }
    let header = ["who comes and goes", "times a second", "a delivery", "over nobody"];
    let mut table = common::table(header, 1);
    for ((name, who), (mut times, mut ratios, mut rates)) in ALL.into_iter().zip(taken) {
        let rate = match who {
            Who::Nobody => String::new(),
            _ => format!("{:.0} k", median(&mut rates)),
        };
        table.add_row([
            name.to_owned(),
            rate,
            format!("{:.1} ns", median(&mut times)),
            format!("{:.2} ×", median(&mut ratios)),
        ]);
    }
    println!("\nPublishing to {INBOXES} inboxes while others come and go (medians)\n{table}\n");
}
