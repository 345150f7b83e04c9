//! Payloads whose `Drop` panics: other messages of the inbox are dropped nevertheless, and closing closes
//! everyone.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use fanout::{Bus, CloseReason, Overflow, Subscriber, TryRecvError};
#[cfg(feature = "async")]
use futures::executor::block_on;
use support::{Census, Tracked, panic_of, silent, step, watched};

/// A payload that is counted while it lives. Some panic when they are dropped, and are not counted afterwards
/// either.
#[derive(Clone)]
struct Brittle {
    _tracked: Tracked,
    panics: bool,
}

impl Drop for Brittle {
    fn drop(&mut self) {
        assert!(!self.panics, "a brittle payload");
    }
}

fn brittle(census: &Census, panics: bool) -> Brittle {
    Brittle { _tracked: census.payload(0), panics }
}

#[test]
fn an_inbox_drops_every_unread_message_even_if_some_drops_panic() {
    for panicking in [vec![0], vec![99], vec![3, 50, 98], (0..100).collect()] {
        let census = Census::new();
        let bus: Bus<Brittle> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        for n in 0..100 {
            bus.publish("c", brittle(&census, panicking.contains(&n)));
        }
        assert_eq!(census.live(), 100);
        assert!(panic_of(|| drop(sub)).contains("brittle"));
        assert_eq!(census.live(), 0, "{panicking:?}");
        let stats = bus.stats();
        assert_eq!((stats.discarded, stats.received, stats.subscribers), (100, 0, 0));
    }
}

#[test]
fn an_inbox_of_a_closed_bus_drops_every_unread_message_even_if_some_drops_panic() {
    let census = Census::new();
    let bus: Bus<Brittle> = Bus::new();
    let subs: Vec<Subscriber<Brittle>> =
        (0..10).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
    (0..10).for_each(|n| _ = bus.publish("c", brittle(&census, n == 5)));
    bus.close();
    for sub in subs {
        assert!(panic_of(|| drop(sub)).contains("brittle"));
    }
    assert_eq!(census.live(), 0);
    assert_eq!(bus.stats().discarded, 100);
}

/// One thread drops subscribers whose unread messages panic while another drops the last handle to the bus.
/// Whichever of the two drops an inbox, all remaining ones must be closed and unsubscribed.
#[test]
fn closing_closes_every_subscriber_while_others_are_dropped_and_panic() {
    const TRIALS: usize = 3_000;
    watched(|| {
        let census = Census::new();
        for trial in 0..TRIALS {
            step();
            let bus: Bus<Brittle> = Bus::new();
            let make = |_| {
                let sub = silent(&bus).capacity(4).subscribe("c").unwrap();
                sub.psubscribe("c*").unwrap();
                sub
            };
            let (going, staying): (Vec<_>, Vec<_>) =
                ((0..8).map(make).collect(), (0..24).map(make).collect());
            bus.publish("c", brittle(&census, true));
            for sub in &staying {
                sub.try_iter().filter_map(|event| event.into_message()).for_each(|message| {
                    let mut payload = message.into_parts().2;
                    payload.panics = false;
                });
            }
            let start = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    for sub in going {
                        _ = catch_unwind(AssertUnwindSafe(|| drop(sub)));
                    }
                });
                start.wait();
                _ = catch_unwind(AssertUnwindSafe(|| drop(bus)));
            });
            for sub in staying {
                assert_eq!(sub.close_reason(), Some(CloseReason::Bus), "trial {trial}");
                assert!(matches!(sub.try_recv(), Err(TryRecvError::Closed)));
            }
            assert_eq!(census.live(), 0, "trial {trial}");
        }
    });
}

/// A publish that was running when the bus closed takes its channel's entry apart at its end, and with it the
/// last handles to several inboxes, of channels and of patterns.
#[test]
fn a_publish_that_outlives_the_bus_releases_every_inbox_even_if_some_drops_panic() {
    watched(|| {
        for _ in 0..200 {
            step();
            let census = Census::new();
            let bus: Bus<Brittle> = Bus::new();
            let full = silent(&bus).capacity(1).overflow(Overflow::Block { timeout: None });
            let full = full.subscribe("c").unwrap();
            let others: Vec<_> = (0..4)
                .map(|n| {
                    let sub = silent(&bus).subscribe("c").unwrap();
                    sub.psubscribe(if n % 2 == 0 { "c*" } else { "?" }).unwrap();
                    sub
                })
                .collect();
            bus.publish("c", brittle(&census, true));
            let start = Arc::new(Barrier::new(2));
            let publisher = {
                let (weak, start, payload) =
                    (bus.downgrade(), Arc::clone(&start), brittle(&census, true));
                let topic = bus.topic("c");
                thread::spawn(move || {
                    start.wait();
                    _ = catch_unwind(AssertUnwindSafe(|| topic.publish(payload)));
                    drop((weak, topic));
                })
            };
            start.wait();
            bus.close();
            for sub in others {
                _ = catch_unwind(AssertUnwindSafe(|| drop(sub)));
            }
            _ = catch_unwind(AssertUnwindSafe(|| drop(full)));
            publisher.join().unwrap();
            _ = catch_unwind(AssertUnwindSafe(|| drop(bus)));
            assert_eq!(census.live(), 0);
        }
    });
}

/// A payload whose drop panics, and whose first clone calls something.
struct Calling(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Calling {
    fn new(call: Option<Box<dyn FnOnce() + Send>>) -> Self {
        Self(Mutex::new(call))
    }
}

impl Clone for Calling {
    fn clone(&self) -> Self {
        if let Some(call) = self.0.lock().unwrap().take() {
            call();
        }
        Self::new(None)
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        // Without the panic hook, which would print thousands of them.
        resume_unwind(Box::new("a payload"));
    }
}

/// A publish that has the turn when its bus is closed may be the one who drops the last handles to inboxes, and the
/// messages in them. Their panics must not meet that of the payload, which the publish still has: a panic of a drop
/// during unwinding aborts.
#[test]
fn a_payload_may_panic_when_it_is_dropped_after_the_messages_of_closed_inboxes() {
    type Publish = fn(&Bus<Calling>, Calling);
    let publishes: &[Publish] = &[
        |bus, payload| _ = bus.publish("c", payload),
        |bus, payload| _ = bus.publish_many(["c", "d"], payload),
        #[cfg(feature = "async")]
        |bus, payload| _ = block_on(bus.publish_async("c", payload)),
        #[cfg(feature = "async")]
        |bus, payload| _ = block_on(bus.publish_many_async(["c", "d"], payload)),
    ];
    for publish in publishes.iter().cycle().take(5 * publishes.len()) {
        let bus: Bus<Calling> = Bus::new();
        let subscribe = |_| silent(&bus).dedupe(true).subscribe("c").unwrap();
        let subs: Vec<Subscriber<Calling>> = (0..1_000).map(subscribe).collect();
        bus.publish("c", Calling::new(None));
        // The last recipient gets nothing from here on, so that the payload remains with the publish.
        subs.iter().for_each(|sub| _ = sub.psubscribe("c*").unwrap());
        let closed = Arc::new(Barrier::new(2));
        let (ask, asked) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn({
                let (bus, closed) = (&bus, Arc::clone(&closed));
                move || {
                    asked.recv().unwrap();
                    bus.close();
                    closed.wait();
                    // While the publish, from the first one on, lets go of them, too.
                    for sub in subs.into_iter().rev() {
                        _ = catch_unwind(AssertUnwindSafe(|| drop(sub)));
                    }
                }
            });
            let call = move || {
                ask.send(()).unwrap();
                closed.wait();
            };
            let panicked = panic_of(|| publish(&bus, Calling::new(Some(Box::new(call)))));
            assert_eq!(panicked, "a payload");
        });
        let stats = bus.stats();
        assert_eq!((stats.subscribers, stats.discarded), (0, stats.delivered), "{stats:?}");
    }
}

/// A panic payload whose drop panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("what it panicked with");
        }
        // If the thread is unwinding, this is the second panic.
        resume_unwind(Box::new("what it panicked with"));
    }
}

#[derive(Clone)]
struct Bombed;

impl Drop for Bombed {
    fn drop(&mut self) {
        std::panic::panic_any(Bomb);
    }
}

/// A panic thrown while the thread unwinds is dropped. If that drop panics in turn, the process must go on.
#[test]
fn a_panic_payload_whose_drop_panics_does_not_abort() {
    let bus: Bus<Bombed> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    (0..3).for_each(|_| _ = bus.publish("c", Bombed));
    let unwound = panic_of(|| {
        let _sub = sub;
        panic!("the first one");
    });
    assert_eq!(unwound, "the first one");
    assert_eq!(bus.stats().discarded, 3);
}
