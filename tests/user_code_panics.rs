//! A panic in user code harms only that call: turns and locks are released, the books balance, and the bus goes
//! on.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use fanout::{Bus, CloseReason, Event, Overflow, Receipt, Subscriber};
use support::{
    Converted, Hooked, assert_books, drop_in_clone, panic_of, panic_text, payloads, silent, watched,
};

// ---- in a payload's `Clone` ---------------------------------------------------------------------

/// A payload that panics at a given number of clones.
struct Fuse {
    value: u32,
    left: Arc<AtomicU32>,
}

impl Fuse {
    fn new(value: u32, clones: u32) -> Self {
        Self { value, left: Arc::new(AtomicU32::new(clones)) }
    }

    fn sound(value: u32) -> Self {
        Self::new(value, u32::MAX)
    }
}

impl Clone for Fuse {
    fn clone(&self) -> Self {
        assert_ne!(self.left.fetch_sub(1, Ordering::SeqCst), 0, "the fuse has blown");
        Self { value: self.value, left: Arc::clone(&self.left) }
    }
}

fn values(sub: &Subscriber<Fuse>) -> Vec<u32> {
    payloads(sub).iter().map(|payload| payload.value).collect()
}

#[test]
fn a_clone_that_panics_leaves_reached_inboxes_their_message_and_the_bus_working() {
    watched(|| {
        for pattern in [false, true] {
            for topic in [false, true] {
                for blows_at in 0..4 {
                    let bus: Bus<Fuse> = Bus::new();
                    let subs: Vec<_> = (0..5)
                        .map(|_| match pattern {
                            false => silent(&bus).subscribe("c").unwrap(),
                            true => silent(&bus).psubscribe("c*").unwrap(),
                        })
                        .collect();
                    let publish = |payload| match topic {
                        false => bus.publish("c", payload),
                        true => bus.topic("c").publish(payload),
                    };
                    let text = panic_of(|| publish(Fuse::new(1, blows_at)));
                    assert!(text.contains("the fuse has blown"));

                    for (at, sub) in subs.iter().enumerate() {
                        let reached = (at as u32) < blows_at;
                        assert_eq!(sub.len(), usize::from(reached));
                        assert_books(sub, u64::from(reached));
                    }
                    let stats = bus.stats();
                    assert_eq!(stats.delivered, u64::from(blows_at));
                    assert_eq!((stats.matched, stats.dropped), (stats.delivered, 0));
                    // Turns and locks are free, for other threads as well.
                    let copy = bus.clone();
                    thread::spawn(move || {
                        assert_eq!(copy.publish("c", Fuse::sound(2)).delivered, 5);
                        assert_eq!(copy.match_count("c"), 5);
                    })
                    .join()
                    .unwrap();
                    assert_eq!(publish(Fuse::sound(3)).delivered, 5);
                    for (at, sub) in subs.iter().enumerate() {
                        let reached = (at as u32) < blows_at;
                        assert_eq!(values(sub), if reached { &[1, 2, 3][..] } else { &[2, 3] });
                    }
                    let late = silent(&bus).subscribe("c").unwrap();
                    late.psubscribe("c*").unwrap();
                    drop(subs);
                    assert_eq!(bus.publish("c", Fuse::sound(4)).delivered, 2);
                    assert_eq!(bus.stats().subscribers, 1);
                }
            }
        }
    });
}

/// What full inboxes did before the panic counts: the sums over all inboxes are the bus's.
#[test]
fn a_clone_that_panics_keeps_the_books_of_full_inboxes() {
    watched(|| {
        for blows_at in 0..5 {
            let bus: Bus<Fuse> = Bus::builder().capacity(1).build();
            let policies = [
                Overflow::DropOldest,
                Overflow::DropNewest,
                Overflow::Block { timeout: None },
                Overflow::Block { timeout: Some(Duration::from_millis(1)) },
                Overflow::Disconnect,
                Overflow::DropOldest,
            ];
            let subs =
                policies.map(|overflow| silent(&bus).overflow(overflow).subscribe("c").unwrap());
            assert_eq!(bus.publish("c", Fuse::sound(1)).delivered, 6);
            // The last inbox would get the payload itself, so there are five clones.
            panic_of(|| bus.publish("c", Fuse::new(2, blows_at)));
            for (at, sub) in subs.iter().enumerate() {
                // Each lost one message, its oldest or the new one, if it was reached.
                let reached = (at as u32) < blows_at;
                assert_eq!((sub.len(), sub.missed()), (1, u64::from(reached)), "{blows_at} {at}");
                assert_books(sub, 1 + u64::from(reached));
            }
            let stats = bus.stats();
            assert_eq!(stats.matched, 6 + u64::from(blows_at), "{blows_at}: {stats:?}");
            assert_eq!(stats.evicted + stats.dropped, u64::from(blows_at), "{blows_at}: {stats:?}");
            assert_eq!(subs[4].is_closed(), blows_at > 4, "{blows_at}");
            for (at, sub) in subs.iter().enumerate() {
                let evicted = at == 0 && blows_at > 0;
                assert_eq!(values(sub), [if evicted { 2 } else { 1 }], "{blows_at} {at}");
            }
            let open = subs.iter().filter(|sub| !sub.is_closed()).count();
            assert_eq!(bus.publish("c", Fuse::sound(3)).delivered, open, "{blows_at}");
        }
    });
}

/// The original is dropped when the turn is over, even if a `Clone` has panicked.
#[test]
fn a_payload_whose_clone_panics_is_dropped_outside_the_turn() {
    watched(|| {
        for (subscribers, blows_at, full) in [(3, 0, 9), (3, 1, 9), (3, 1, 0), (3, 1, 1), (2, 0, 1)]
        {
            struct Payload {
                left: Arc<AtomicU32>,
                on_drop: Option<Bus<Payload>>,
            }
            impl Clone for Payload {
                fn clone(&self) -> Self {
                    assert_ne!(self.left.fetch_sub(1, Ordering::SeqCst), 0, "the fuse has blown");
                    Self { left: Arc::clone(&self.left), on_drop: None }
                }
            }
            impl Drop for Payload {
                fn drop(&mut self) {
                    if let Some(bus) = self.on_drop.take() {
                        bus.publish("c", Payload::plain());
                    }
                }
            }
            impl Payload {
                fn plain() -> Self {
                    Self { left: Arc::new(AtomicU32::new(u32::MAX)), on_drop: None }
                }
            }
            let bus: Bus<Payload> = Bus::new();
            let subs: Vec<_> = (0..subscribers)
                .map(|at| {
                    let capacity = if at == full { 1 } else { 9 };
                    let builder =
                        bus.subscriber_builder().lifecycle_events(false).capacity(capacity);
                    builder.subscribe("c").unwrap()
                })
                .collect();
            bus.publish("c", Payload::plain());
            let payload =
                Payload { left: Arc::new(AtomicU32::new(blows_at)), on_drop: Some(bus.clone()) };
            let text = panic_of(|| bus.publish("c", payload));
            assert!(text.contains("the fuse has blown"));
            // The message that its drop published has reached everyone.
            let last = subs.last().unwrap();
            assert_eq!(last.len(), if full == subscribers - 1 { 1 } else { 2 });
        }
    });
}

// ---- in a payload's `Drop` ----------------------------------------------------------------------

/// Returns a payload whose first drop panics.
fn brittle(value: u64) -> Hooked {
    Hooked::on_drop(value, || panic!("a drop"))
}

#[test]
fn a_drop_that_panics_harms_only_that_call() {
    watched(|| {
        for overflow in [
            Overflow::DropOldest,
            Overflow::DropNewest,
            Overflow::Disconnect,
            Overflow::Block { timeout: Some(Duration::from_millis(1)) },
        ] {
            let bus: Bus<Hooked> = Bus::new();
            let full = silent(&bus).capacity(1).overflow(overflow).subscribe("c").unwrap();
            let (old, new) = match overflow {
                Overflow::DropOldest => (brittle(1), Hooked::plain(2)),
                _ => (Hooked::plain(1), brittle(2)),
            };
            assert_eq!(bus.publish("c", old).delivered, 1);
            let text = panic_of(|| bus.publish("c", new));
            assert_eq!(text, "a drop", "{overflow:?}");
            let info = full.info();
            assert_eq!((info.received, info.depth, info.missed), (0, 1, 1), "{overflow:?}");
            let stats = bus.stats();
            assert_eq!(stats.matched, 2, "{overflow:?}");
            assert_eq!(stats.evicted + stats.dropped, 1, "{overflow:?}");
            assert!(matches!(full.try_recv(), Ok(Event::Lagged { missed: 1 })), "{overflow:?}");
            let value = payloads(&full)[0].value;
            assert_eq!(value, if overflow == Overflow::DropOldest { 2 } else { 1 });
            if overflow == Overflow::Disconnect {
                assert_eq!(full.close_reason(), Some(CloseReason::Overflow));
                assert_eq!((bus.subscriber_count("c"), bus.stats().subscribers), (0, 0));
            } else {
                assert_eq!(bus.publish("c", Hooked::plain(3)).delivered, 1);
            }
        }
    });
}

/// A payload of which every copy panics when it is dropped.
struct Explosive;

impl Clone for Explosive {
    fn clone(&self) -> Self {
        Self
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a drop of many");
        }
        // If the thread is unwinding, a second panic would abort the process: the engine must avoid that.
        DROPPED_WHILE_UNWINDING.store(true, Ordering::SeqCst);
    }
}

static DROPPED_WHILE_UNWINDING: AtomicBool = AtomicBool::new(false);

#[test]
fn no_payload_is_dropped_while_the_panic_of_another_unwinds() {
    watched(|| {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
            for subscribers in 1..4 {
                let bus: Bus<Explosive> = Bus::new();
                let subscribe = || {
                    bus.subscriber_builder().lifecycle_events(false).capacity(1).overflow(overflow)
                };
                let subs: Vec<_> =
                    (0..subscribers).map(|_| subscribe().subscribe("c").unwrap()).collect();
                assert_eq!(bus.publish("c", Explosive).delivered, subscribers);
                assert_eq!(
                    panic_of(|| bus.publish("c", Explosive)),
                    "a drop of many",
                    "{overflow:?}"
                );
                assert!(
                    !DROPPED_WHILE_UNWINDING.load(Ordering::SeqCst),
                    "{overflow:?} {subscribers}"
                );
                for sub in &subs {
                    while let Ok(message) = sub.try_recv_message() {
                        std::mem::forget(message);
                    }
                }
            }
        }
    });
}

/// The drop of an evicted payload panics while another full inbox of the same publish waits for room.
#[test]
fn a_drop_that_panics_keeps_the_books_of_inboxes_waited_for() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::builder().capacity(1).build();
        let oldest = silent(&bus).subscribe("a").unwrap();
        oldest.subscribe("c").unwrap();
        let block = Overflow::Block { timeout: Some(Duration::from_millis(1)) };
        let waits = silent(&bus).overflow(block).subscribe("b").unwrap();
        waits.subscribe("c").unwrap();
        let ends = silent(&bus).overflow(Overflow::Disconnect).subscribe("b").unwrap();
        ends.subscribe("c").unwrap();
        bus.publish("a", brittle(1));
        bus.publish("b", Hooked::plain(1));
        panic_of(|| bus.publish("c", Hooked::plain(2)));
        let infos = [oldest.info(), waits.info(), ends.info()];
        let stats = bus.stats();
        let sum: u64 = infos.iter().map(|i| i.received + i.missed + i.depth as u64).sum();
        assert_eq!(sum, stats.matched, "{stats:?}");
        let missed: u64 = infos.iter().map(|info| info.missed).sum();
        assert_eq!(missed, stats.evicted + stats.dropped, "{stats:?}");
        assert_eq!(ends.close_reason(), Some(CloseReason::Overflow));
        payloads(&waits);
        assert_eq!(bus.publish("c", Hooked::plain(3)).delivered, 2);
    });
}

#[test]
fn an_inbox_whose_messages_panic_when_dropped_is_still_unsubscribed() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        sub.subscribe("d").unwrap();
        bus.publish("d", brittle(1));
        assert_eq!(panic_of(|| drop(sub)), "a drop");
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert_eq!(bus.match_count("c") + bus.match_count("d"), 0);
        assert_eq!(bus.publish("d", Hooked::plain(2)), Receipt::default());
        assert!(bus.subscribe("c").is_ok());
    });
}

/// One clone drops several subscribers; a message of the first panics when it is dropped.
#[test]
fn a_drop_that_panics_leaves_no_other_dropped_subscriber_subscribed() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let _stay = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
        let subs: Vec<_> = (0..3)
            .map(|n| {
                let sub = silent(&bus).subscribe("d").unwrap();
                if n == 0 {
                    bus.publish("d", brittle(1));
                }
                sub.psubscribe("d*").unwrap();
                sub
            })
            .collect();
        let _ = catch_unwind(AssertUnwindSafe(|| drop_in_clone(&bus, "c", subs)));
        assert_eq!((bus.subscriber_count("d"), bus.match_count("d")), (0, 0));
        assert_eq!((bus.pattern_count(), bus.stats().subscribers), (0, 2));
        assert_eq!(bus.publish("d", Hooked::plain(2)), Receipt::default());
        assert_eq!(bus.publish("c", Hooked::plain(2)).delivered, 2);
    });
}

// ---- in conversions, closures and handlers ------------------------------------------------------

#[test]
fn a_conversion_or_closure_that_panics_publishes_nothing() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let topic = bus.topic("c");
        let bad = || Converted(Box::new(|| panic!("a conversion")));
        assert_eq!(panic_of(|| bus.publish("c", bad())), "a conversion");
        assert_eq!(panic_of(|| topic.publish(bad())), "a conversion");
        assert_eq!(panic_of(|| bus.publish_with("c", || panic!("a closure"))), "a closure");
        assert_eq!(panic_of(|| topic.publish_with(|| panic!("a closure"))), "a closure");
        let failing = || -> Result<Hooked, ()> { panic!("a closure") };
        assert_eq!(panic_of(|| bus.try_publish_with("c", failing)), "a closure");
        assert_eq!(panic_of(|| topic.try_publish_with(failing)), "a closure");
        assert!(sub.is_empty());
        assert_eq!(bus.stats().matched, 0);
        assert_eq!(bus.publish("c", Hooked::plain(1)).delivered, 1);
        assert_eq!(topic.publish_with(|| Hooked::plain(1)).delivered, 1);
        assert_books(&sub, 2);
    });
}

#[test]
fn a_panicking_handler_ends_its_listener_and_join_returns_the_panic() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let other = silent(&bus).subscribe("c").unwrap();
        let listener = sub.spawn("panics", |event| {
            let value = event.into_message().unwrap().payload;
            assert_ne!(value, 2, "a handler");
        });
        for n in 1..=4u32 {
            bus.publish("c", n);
        }
        let panic = listener.join().unwrap_err();
        assert!(panic_text(&*panic).contains("a handler"));
        // The messages that it did not handle are still queued, and the bus and other subscribers go on.
        assert_eq!(payloads(&sub), [3, 4]);
        assert_eq!(payloads(&other), [1, 2, 3, 4]);
        assert_eq!(bus.publish("c", 5u32).delivered, 2);
        assert_books(&sub, 5);
        // A subscriber that only its listener held is dropped with it.
        let listener =
            silent(&bus).subscribe("d").unwrap().spawn("panics", |_| panic!("another handler"));
        bus.publish("d", 1u32);
        assert!(panic_text(&*listener.join().unwrap_err()).contains("another handler"));
        assert_eq!(bus.subscriber_count("d"), 0);
        assert!(!bus.is_closed());
    });
}

#[test]
fn handles_are_unwind_safe() {
    // This must compile without `AssertUnwindSafe`.
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    let topic = bus.topic("c");
    let weak = bus.downgrade();
    assert_eq!(catch_unwind(|| bus.publish("c", 1u32)).unwrap().delivered, 1);
    assert_eq!(catch_unwind(|| topic.publish(2u32)).unwrap().delivered, 1);
    assert!(catch_unwind(|| sub.try_recv().is_ok()).unwrap());
    assert!(catch_unwind(|| weak.upgrade().is_some()).unwrap());
    assert!(catch_unwind(|| bus.publish_with("c", || panic!("a closure"))).is_err());
    let moved = catch_unwind(move || (bus.publish("c", 3u32), sub, topic, weak)).unwrap();
    assert_eq!(moved.0.delivered, 1);
}
