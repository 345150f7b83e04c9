//! Measures the time from a publish to a receiver on another thread (N13) that sleeps or polls.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Better, Number, in_turns, scaled};
use criterion::Criterion;
use fanout::Bus;
use fanout::crossbeam_channel::{TryRecvError, bounded};
use hdrhistogram::Histogram;

const CAPACITY: usize = 16;

/// The receiver's last measurement in nanoseconds; 0 until there is one.
type Answer = Arc<AtomicU64>;

/// A receiver on a thread of its own, and a way to send it a point in time.
struct Line {
    send: Box<dyn Fn(Instant)>,
    answer: Answer,
    parks: bool,
    receiver: Option<JoinHandle<()>>,
}

impl Line {
    /// Sends through the engine.
    fn ours(parks: bool) -> Self {
        let bus: Bus<Instant> = Bus::new();
        let inbox = bus
            .subscriber_builder()
            .capacity(CAPACITY)
            .lifecycle_events(false)
            .subscribe("user:42:notifications")
            .expect("the bus is open and has no limits");
        let topic = bus.topic("user:42:notifications");
        let send = move |moment| {
            assert_eq!(topic.publish(moment).delivered, 1);
        };
        Self::start(parks, send, move |answer| {
            if parks {
                while let Ok(message) = inbox.recv_message() {
                    tell(answer, message.payload);
                }
            } else {
                loop {
                    match inbox.try_recv_message() {
                        Ok(message) => tell(answer, message.payload),
                        Err(fanout::TryRecvError::Empty) => std::hint::spin_loop(),
                        Err(fanout::TryRecvError::Closed) => return,
                    }
                }
            }
        })
    }

    /// Sends through a plain crossbeam channel.
    fn raw(parks: bool) -> Self {
        let (sender, receiver) = bounded(CAPACITY);
        let send = move |moment| sender.try_send(moment).expect("there is room and a receiver");
        Self::start(parks, send, move |answer| {
            if parks {
                while let Ok(moment) = receiver.recv() {
                    tell(answer, moment);
                }
            } else {
                loop {
                    match receiver.try_recv() {
                        Ok(moment) => tell(answer, moment),
                        Err(TryRecvError::Empty) => std::hint::spin_loop(),
                        Err(TryRecvError::Disconnected) => return,
                    }
                }
            }
        })
    }

    fn start(
        parks: bool,
        send: impl Fn(Instant) + 'static,
        receive: impl FnOnce(&AtomicU64) + Send + 'static,
    ) -> Self {
        let answer = Answer::default();
        let told = Arc::clone(&answer);
        let receiver = thread::spawn(move || receive(&told));
        Self { send: Box::new(send), answer, parks, receiver: Some(receiver) }
    }

    /// Returns the nanoseconds that one message takes.
    fn one_way(&self) -> u64 {
        if self.parks {
            // Long enough for the receiver to have gone to sleep.
            thread::sleep(Duration::from_micros(150));
        }
        self.answer.store(0, Ordering::Relaxed);
        (self.send)(Instant::now());
        loop {
            match self.answer.load(Ordering::Acquire) {
                // A sleeping receiver may need this core to wake on.
                0 if self.parks => thread::yield_now(),
                0 => std::hint::spin_loop(),
                nanoseconds => return nanoseconds,
            }
        }
    }

    /// Returns the median of `messages` messages, and adds each of them to `all`.
    fn median(&self, messages: usize, all: &mut Histogram<u64>) -> f64 {
        let mut some = histogram();
        for _ in 0..messages {
            some.saturating_record(self.one_way());
        }
        all.add(&some).expect("both have the same bounds");
        some.value_at_quantile(0.5) as f64
    }
}

/// Returns a histogram of times up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn tell(answer: &AtomicU64, sent: Instant) {
    answer.store(sent.elapsed().as_nanos().max(1) as u64, Ordering::Release);
}

impl Drop for Line {
    fn drop(&mut self) {
        // Drops the last sender, or the bus: the receiver ends.
        self.send = Box::new(|_| ());
        if let Some(receiver) = self.receiver.take() {
            receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

fn with_criterion(criterion: &mut Criterion) {
    for (name, line) in [
        ("parked/ours", Line::ours as fn(bool) -> Line),
        ("parked/raw", Line::raw),
        ("polling/ours", Line::ours),
        ("polling/raw", Line::raw),
    ] {
        let line = line(name.starts_with("parked"));
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                Duration::from_nanos((0..iterations).map(|_| line.one_way()).sum())
            });
        });
    }
}

fn main() {
    if !common::run(with_criterion) {
        return;
    }
    let header = ["receiver", "through", "p50 µs", "p90", "p99", "p99.9", "messages"];
    let mut table = common::table(header, 2);
    let mut numbers = Vec::new();
    for (receiver, parks, rounds, messages) in [
        ("parked", true, scaled(41, 1), scaled(200, 5)),
        ("polling", false, scaled(41, 1), scaled(2_000, 5)),
    ] {
        let mut ours = histogram();
        let mut raw = ours.clone();
        // One after the other: two receivers that poll would take each other's core.
        let pair = in_turns(
            rounds,
            || Line::ours(parks).median(messages, &mut ours),
            || Line::raw(parks).median(messages, &mut raw),
        );
        if parks {
            numbers.push(Number {
                name: "N13",
                what: format!("publish to a {receiver} thread, one way, median"),
                figure: pair.ratio,
                reach: 1.2,
                aim: 1.0,
                unit: "×",
                better: Better::Less,
                against: format!("{:.1} over {:.1} µs", pair.ours / 1e3, pair.floor / 1e3),
            });
        }
        for (through, all) in [("fanout", &ours), ("crossbeam", &raw)] {
            let at = |quantile| format!("{:.2}", all.value_at_quantile(quantile) as f64 / 1e3);
            table.add_row([
                receiver.to_owned(),
                through.to_owned(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                all.len().to_string(),
            ]);
        }
    }
    common::print_numbers("Latency", &numbers);
    println!("{table}");
}
