//! Overflow policies, and helpers for tests of several of them.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Event, Overflow, Receipt, Subscriber, SubscriberBuilder};

use super::events::{drain, text};
use super::inboxes::assert_books;
use super::waiting::{WATCHDOG, steps, watched};

pub const BLOCK: Overflow = Overflow::Block { timeout: None };
pub const REFUSE: Overflow = Overflow::Block { timeout: Some(Duration::ZERO) };
/// The policies of inboxes that are queues.
pub const QUEUEING: [Overflow; 5] =
    [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, BLOCK, REFUSE];

pub fn block(timeout: Duration) -> Overflow {
    Overflow::Block { timeout: Some(timeout) }
}

/// Returns a builder of subscribers of this capacity and policy, without lifecycle events.
pub fn bounded<P: Clone + Send + 'static>(
    bus: &Bus<P>,
    capacity: usize,
    overflow: Overflow,
) -> SubscriberBuilder<P> {
    bus.subscriber_builder().capacity(capacity).overflow(overflow).lifecycle_events(false)
}

/// A payload that calls a function each time it is cloned, with the number of the clone.
pub struct Copied {
    number: u32,
    copies: Arc<AtomicUsize>,
    at_copy: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Copied {
    pub fn new(number: u32, at_copy: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self { number, copies: Arc::default(), at_copy: Arc::new(at_copy) }
    }
}

impl Clone for Copied {
    fn clone(&self) -> Self {
        (self.at_copy)(self.copies.fetch_add(1, Ordering::SeqCst) + 1);
        let (copies, at_copy) = (Arc::clone(&self.copies), Arc::clone(&self.at_copy));
        Self { number: self.number, copies, at_copy }
    }
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// Returns a payload whose clone number `at` asks a question and waits for the answer, with the other thread's
/// ends of both channels.
pub fn asking(number: u32, at: usize) -> (Copied, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (ask, asked) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let answered = Mutex::new(answered);
    let payload = Copied::new(number, move |copy| {
        if copy == at {
            ask.send(()).unwrap();
            answered.lock().unwrap().recv().unwrap();
        }
    });
    (payload, asked, answer)
}

/// Fills an inbox of capacity 1 that matches "ab" three times, and drains it when a publish of 1 on "ab" is
/// about to deliver its second message. Returns everything that was received, the receipt and the subscriber.
pub fn emptied_during_a_publish(overflow: Overflow) -> (Vec<String>, Receipt, Subscriber<Copied>) {
    let bus: Bus<Copied> = Bus::new();
    let full = bounded(&bus, 1, overflow).subscribe("filler").unwrap();
    full.subscribe("ab").unwrap();
    full.psubscribe_many(["a*", "*b"]).unwrap();
    assert_eq!(bus.publish("filler", Copied::new(0, |_| {})).delivered, 1);
    let (payload, asked, answer) = asking(1, 2);
    let publisher = {
        let bus = bus.clone();
        thread::spawn(move || bus.publish("ab", payload))
    };
    asked.recv_timeout(WATCHDOG).unwrap();
    let mut seen = drain(&full);
    answer.send(()).unwrap();
    while !publisher.is_finished() {
        if let Ok(event) = full.recv_timeout(Duration::from_millis(1)) {
            seen.push(text(&event));
        }
    }
    seen.append(&mut drain(&full));
    (seen, publisher.join().unwrap(), full)
}

/// Runs two publishers on two channels against one small inbox with `readers` readers, to the end, and asserts
/// the books.
pub fn assert_books_after_race(overflow: Overflow, capacity: usize, readers: usize, each: u32) {
    watched(move || {
        let bus: Bus<u32> = Bus::new();
        let sub = bounded(&bus, capacity, overflow).subscribe("a").unwrap();
        sub.subscribe("b").unwrap();
        sub.psubscribe("b*").unwrap();
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                let sub = sub.clone();
                thread::spawn(move || {
                    let (mut messages, mut lagged) = (0, 0);
                    for event in &sub {
                        match event {
                            Event::Lagged { missed } => {
                                assert!(missed > 0);
                                lagged += missed;
                            }
                            event => messages += u64::from(event.message().is_some()),
                        }
                    }
                    (messages, lagged)
                })
            })
            .collect();
        let publishers: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|channel| {
                let (bus, steps) = (bus.clone(), steps());
                thread::spawn(move || {
                    let mut sum = Receipt::default();
                    for n in 0..each {
                        steps.step();
                        let receipt = bus.publish(channel, n);
                        assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
                        sum.matched += receipt.matched;
                        sum.delivered += receipt.delivered;
                        sum.dropped += receipt.dropped;
                    }
                    sum
                })
            })
            .collect();
        let receipts: Vec<Receipt> =
            publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect();
        let sum = |of: fn(&Receipt) -> usize| receipts.iter().map(of).sum::<usize>() as u64;
        let stats = bus.stats();
        bus.close();
        let read: Vec<(u64, u64)> =
            readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        let messages: u64 = read.iter().map(|read| read.0).sum();
        let lagged: u64 = read.iter().map(|read| read.1).sum();

        assert_eq!(stats.matched, sum(|receipt| receipt.matched));
        assert_eq!(stats.delivered, sum(|receipt| receipt.delivered));
        assert_eq!(stats.dropped, sum(|receipt| receipt.dropped));
        assert_eq!(stats.evicted + stats.dropped, sub.missed());
        assert_eq!(lagged, sub.missed(), "{overflow:?}: every loss was reported");
        assert_eq!(messages, sub.info().received, "{overflow:?}");
        let read = messages + stats.evicted + stats.conflated;
        assert_eq!(read, stats.delivered, "{overflow:?}: delivered, so read");
        assert_books(&sub, stats.matched);
    });
}
