//! Publishes to names that nobody has subscribed: the first publish to a name, and later ones, treat
//! subscribers of matching patterns alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Event, Overflow, Receipt, Stats, Subscriber};

fn receipt(delivered: usize, dropped: usize) -> Receipt {
    Receipt { matched: delivered + dropped, delivered, dropped }
}

/// Returns a subscriber of `user:*` without lifecycle events.
fn monitor(bus: &Bus<u64>, capacity: usize, overflow: Overflow) -> Subscriber<u64> {
    let builder = bus.subscriber_builder().capacity(capacity).overflow(overflow);
    builder.lifecycle_events(false).psubscribe("user:*").unwrap()
}

/// Asserts the books of a bus and of its only inbox.
fn assert_books(sub: &Subscriber<u64>, stats: Stats, receipts: &[Receipt]) {
    let info = sub.info();
    let sum = |part: fn(&Receipt) -> usize| receipts.iter().map(part).sum::<usize>() as u64;
    assert_eq!(sum(|receipt| receipt.matched), info.received + info.missed + info.depth as u64);
    assert_eq!(stats.published, receipts.len() as u64);
    assert_eq!(
        (stats.matched, stats.delivered, stats.dropped),
        (
            sum(|receipt| receipt.matched),
            sum(|receipt| receipt.delivered),
            sum(|receipt| receipt.dropped)
        )
    );
    assert_eq!(info.missed, stats.evicted + stats.dropped);
}

#[test]
fn a_publish_to_a_name_that_nobody_subscribed_matches_nothing() {
    let bus: Bus<u64> = Bus::new();
    for n in 0..1_000_u64 {
        assert_eq!(bus.publish(&format!("user:{n}"), n), Receipt::default());
    }
    assert_eq!((bus.stats().published, bus.stats().matched), (1_000, 0));
}

#[test]
fn a_pattern_receives_each_message_with_its_channel_name() {
    let bus: Bus<u64> = Bus::new();
    let sub = monitor(&bus, 10_000, Overflow::default());
    let receipts: Vec<_> = (0..5_000_u64).map(|n| bus.publish(&format!("user:{n}"), n)).collect();
    assert!(receipts.iter().all(|&got| got == receipt(1, 0)));
    for n in 0..5_000 {
        let message = sub.try_recv_message().unwrap();
        assert_eq!((message.channel(), message.payload), (&*format!("user:{n}"), n));
        assert_eq!(message.pattern(), Some("user:*"));
    }
    assert_books(&sub, bus.stats(), &receipts);
}

/// Names short enough to be stored inline, and longer ones; of one and two bytes a letter.
#[test]
fn names_of_every_length_arrive_unchanged() {
    let bus: Bus<u64> = Bus::new();
    let sub = monitor(&bus, 1_000, Overflow::default());
    for n in 0..60 {
        for name in [format!("user:{}", "n".repeat(n)), format!("user:{}", "é".repeat(n))] {
            for _ in 0..3 {
                assert_eq!(bus.publish(&name, 1_u64), receipt(1, 0));
                let message = sub.try_recv_message().unwrap();
                assert_eq!(message.channel(), name);
                let (channel, pattern, _) = message.into_parts();
                assert_eq!((&*channel, pattern.as_deref()), (&*name, Some("user:*")));
            }
        }
    }
}

/// A full inbox is treated alike whether or not the name has been published to before.
#[test]
fn overflow_policies_treat_new_and_known_names_alike() {
    let at_once = Overflow::Block { timeout: Some(Duration::ZERO) };
    let policies = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, at_once];
    for overflow in policies {
        let run = |name: &dyn Fn(u64) -> String| {
            let bus: Bus<u64> = Bus::new();
            let sub = monitor(&bus, 3, overflow);
            let receipts: Vec<_> = (0..8).map(|n| bus.publish(&name(n), n)).collect();
            let (stats, missed) = (bus.stats(), sub.missed());
            let closed = sub.close_reason();
            if closed.is_none() {
                assert_books(&sub, stats, &receipts);
            }
            let events: Vec<_> = sub
                .try_iter()
                .map(|event| match event {
                    Event::PMessage(message) => Ok(message.payload),
                    Event::Lagged { missed } => Err(missed),
                    other => panic!("{other:?}"),
                })
                .collect();
            (receipts, events, missed, closed, stats)
        };
        let once = run(&|n| format!("user:{n}"));
        let same = run(&|_| "user:7".to_owned());
        assert_eq!(once, same, "{overflow:?}");
        assert!(once.2 > 0, "{overflow:?}");
    }
}

#[test]
fn block_waits_for_room_on_a_new_name() {
    let bus: Bus<u64> = Bus::new();
    let sub = monitor(&bus, 1, Overflow::Block { timeout: None });
    let mut receipts = vec![bus.publish("user:0", 0_u64)];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| bus.publish("user:1", 1_u64));
        thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        assert_eq!(sub.recv_message().unwrap().payload, 0);
        receipts.push(waiting.join().unwrap());
    });
    assert_eq!(sub.recv_message().unwrap().channel(), "user:1");
    // With a timeout, it does not wait for ever.
    let bus: Bus<u64> = Bus::new();
    let timeout = Duration::from_millis(30);
    let sub = monitor(&bus, 1, Overflow::Block { timeout: Some(timeout) });
    let mut receipts = vec![bus.publish("user:0", 0_u64)];
    let started = Instant::now();
    receipts.push(bus.publish("user:1", 1_u64));
    assert!(started.elapsed() >= timeout);
    assert_eq!(receipts, [receipt(1, 0), receipt(0, 1)]);
    assert_books(&sub, bus.stats(), &receipts);
}

#[cfg(feature = "glob")]
#[test]
fn each_publish_sees_the_subscriptions_of_its_moment() {
    let bus: Bus<u64> = Bus::new();
    let names: Vec<_> = (0..200).map(|n| format!("user:{n}")).collect();
    let all = |matched: usize| {
        for name in &names {
            assert_eq!(bus.match_count(name), matched, "{name}");
            assert_eq!(bus.publish(name, 0_u64).matched, matched, "{name}");
        }
    };
    all(0);
    let first = monitor(&bus, 1_000, Overflow::default());
    all(1);
    let second = monitor(&bus, 1_000, Overflow::default());
    all(2);
    drop(first);
    all(1);
    let exact = bus.subscribe("user:7").unwrap();
    assert_eq!(bus.publish("user:7", 0_u64).matched, 2);
    drop(exact);
    let other = bus.psubscribe("u*").unwrap();
    all(2);
    drop(second);
    all(1);
    other.punsubscribe("u*");
    all(0);
    let glob = bus.psubscribe(fanout::Pattern::glob("user:{7,8}").unwrap()).unwrap();
    for name in &names {
        let matched = usize::from(["user:7", "user:8"].contains(&&**name));
        assert_eq!(bus.publish(name, 0_u64).matched, matched, "{name}");
    }
    drop(glob);
    // A pattern whose first subscriber has left, so that the second is alone.
    let [first, second] = [(); 2].map(|()| monitor(&bus, 1_000, Overflow::default()));
    first.punsubscribe("user:*");
    for n in 0..100_u64 {
        assert_eq!(bus.publish(&format!("user:again{n}"), n).delivered, 1);
    }
    assert_eq!(second.len(), 100);
}

/// `publish_with` must find the matches before it makes the payload.
#[test]
fn publish_with_makes_the_payload_only_if_somebody_listens() {
    let bus: Bus<u64> = Bus::new();
    for n in 0..10 {
        bus.publish_with(&format!("user:{n}"), || unreachable!("nobody listens"));
    }
    let sub = monitor(&bus, 100, Overflow::default());
    for n in 0..10 {
        for _ in 0..2 {
            assert_eq!(bus.publish_with(&format!("user:{n}"), || n), receipt(1, 0));
            assert_eq!(bus.publish(&format!("user:{n}"), n), receipt(1, 0));
        }
    }
    assert_eq!((sub.len(), bus.stats().published), (40, 50));
}

#[test]
fn a_closed_bus_counts_publishes_to_new_names() {
    let bus: Bus<u64> = Bus::new();
    let sub = monitor(&bus, 100, Overflow::default());
    bus.publish("user:1", 1_u64);
    bus.close();
    assert_eq!(bus.publish("user:2", 2_u64), Receipt::default());
    assert_eq!(bus.publish("user:1", 3_u64), Receipt::default());
    assert_eq!(bus.stats().published, 3);
    assert_eq!(sub.iter().count(), 1);
}

/// Messages of several threads arrive in their order while subscribers come and go, and all counts are right in
/// the end.
#[test]
fn order_and_counts_hold_while_recipients_come_and_go() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let bus: Bus<u64> = Bus::builder().stripes(2).build();
        let sub = monitor(&bus, 64, overflow);
        let stop = AtomicBool::new(false);
        let (published, delivered, dropped) = Default::default();
        let read = thread::scope(|scope| {
            let publishers: Vec<_> = (0..3_u64)
                .map(|publisher| {
                    let (bus, published, delivered, dropped): (
                        _,
                        &AtomicU64,
                        &AtomicU64,
                        &AtomicU64,
                    ) = (&bus, &published, &delivered, &dropped);
                    scope.spawn(move || {
                        for n in 0..20_000_u64 {
                            // Some names come twice, some from several threads.
                            let name = match n % 4 {
                                0 => format!("user:{n}"),
                                1 => format!("user:{}", n - 1),
                                _ => format!("user:{publisher}:{n}"),
                            };
                            let receipt = bus.publish(&name, publisher << 32 | n);
                            published.fetch_add(1, Ordering::Relaxed);
                            delivered.fetch_add(receipt.delivered as u64, Ordering::Relaxed);
                            dropped.fetch_add(receipt.dropped as u64, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let churn = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let other = monitor(&bus, 8, Overflow::DropOldest);
                    thread::yield_now();
                    drop(other);
                    let other = bus.psubscribe("user:*5").unwrap();
                    thread::yield_now();
                    drop(other);
                }
            });
            let reader = scope.spawn(|| {
                let mut last = HashMap::new();
                let mut read = 0_u64;
                while let Ok(message) = sub.recv_message() {
                    read += 1;
                    let (publisher, n) = (message.payload >> 32, message.payload & 0xffff_ffff);
                    let before = last.insert(publisher, n);
                    assert!(before.is_none_or(|before| before < n), "{before:?} {n}");
                }
                read
            });
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            stop.store(true, Ordering::Relaxed);
            churn.join().unwrap();
            let info = sub.info();
            assert!(info.received + info.missed + info.depth as u64 >= 60_000);
            sub.close();
            reader.join().unwrap()
        });
        assert!(read > 0);
        let stats = bus.stats();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(
            (stats.published, stats.delivered, stats.dropped),
            (count(&published), count(&delivered), count(&dropped))
        );
    }
}

/// All inboxes that get two messages of one name get them in the same order, even when the name is new and its
/// publishers find one subscriber now and two later.
#[test]
fn inboxes_share_one_order_while_recipients_change() {
    for round in 0..300 {
        let bus: Bus<u64> = Bus::new();
        let first = monitor(&bus, 64, Overflow::default());
        let name = format!("user:{round}");
        let second = thread::scope(|scope| {
            for publisher in 0..2_u64 {
                let (bus, name) = (&bus, &name);
                scope.spawn(move || {
                    (0..10_u64).for_each(|n| _ = bus.publish(name, publisher * 100 + n))
                });
            }
            monitor(&bus, 64, Overflow::default())
        });
        let read = |sub: &Subscriber<u64>| -> Vec<u64> {
            sub.try_iter().filter_map(Event::into_message).map(|message| message.payload).collect()
        };
        let (all, some) = (read(&first), read(&second));
        assert_eq!(all.len(), 20);
        let mut rest = all.iter();
        assert!(some.iter().all(|payload| rest.any(|other| other == payload)), "{all:?} {some:?}");
    }
}

/// Names that were published to once keep no payload alive, and nothing survives the bus.
#[test]
fn payloads_are_freed_once_received() {
    let bus: Bus<Arc<u64>> = Bus::new();
    let sub = bus.subscriber_builder().lifecycle_events(false).psubscribe("user:*").unwrap();
    let payload = Arc::new(1);
    for n in 0..2_000 {
        bus.publish(&format!("user:{n}"), Arc::clone(&payload));
        assert!(sub.try_recv_message().is_ok());
    }
    assert_eq!(Arc::strong_count(&payload), 1);
    bus.publish("user:last", Arc::clone(&payload));
    drop(bus);
    drop(sub);
    assert_eq!(Arc::strong_count(&payload), 1);
}

/// Counters only grow, even while a full inbox refuses.
#[test]
fn counters_never_decrease() {
    let bus: Bus<u64> = Bus::builder().stripes(1).build();
    let _sub = monitor(&bus, 1, Overflow::DropNewest);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for n in 0..20_000_u64 {
                bus.publish(&format!("user:{n}"), n);
            }
        });
        let mut last = Stats::default();
        while !publisher.is_finished() {
            let now = bus.stats();
            assert!(now.delivered >= last.delivered && now.published >= last.published);
            last = now;
        }
    });
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.dropped), (20_000, 1, 19_999));
}

/// A long pattern is not kept for later messages.
#[test]
fn long_patterns_are_freed_with_their_subscribers() {
    let bus: Bus<u64> = Bus::new();
    let pattern: Arc<str> = format!("user:{}", "*".repeat(1_000)).into();
    let sub = bus.subscriber_builder().psubscribe(&pattern).unwrap();
    assert_eq!(bus.publish("user:1", 1_u64), receipt(1, 0));
    drop(sub);
    // The route of the name releases its patterns at the next publish.
    bus.publish("user:1", 1_u64);
    assert_eq!(Arc::strong_count(&pattern), 1);
}
