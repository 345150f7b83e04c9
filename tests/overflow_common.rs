//! Full inboxes: rules that hold for all policies, and several policies in one publish.

mod support;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fanout::{Bus, Overflow, Subscriber};
use support::{BLOCK, QUEUEING, REFUSE, assert_books, bounded, drain, payloads, receipt};

type Outcome = Result<(), Box<dyn Error>>;

// ---- capacity -----------------------------------------------------------------------------------

#[test]
fn capacity_is_exactly_what_was_asked() -> Outcome {
    for capacity in [1, 2, 3, 5, 7, 8, 9, 100, 1_000] {
        for overflow in QUEUEING {
            let bus: Bus<usize> = Bus::builder().capacity(capacity).overflow(overflow).build();
            // Lifecycle events take no capacity.
            let sub = bus.subscribe("a")?;
            sub.subscribe_many(["b", "c", "d"])?;
            assert_eq!((sub.capacity(), sub.info().capacity), (capacity, capacity));
            for n in 0..capacity {
                assert_eq!(sub.len(), n);
                assert_eq!(bus.publish("a", n), receipt(1, 0), "{overflow:?}, {n} of {capacity}");
            }
            assert_eq!((sub.len(), sub.missed()), (capacity, 0), "{overflow:?}");
            if overflow != BLOCK {
                bus.publish("a", capacity);
                assert_eq!((sub.len(), sub.missed()), (capacity, 1), "{overflow:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_subscriber_uses_the_defaults_of_its_bus_or_its_own_settings() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    assert_eq!(bus.subscriber().capacity(), 256);
    assert_eq!(Overflow::default(), Overflow::DropOldest);
    let sub = bus.subscribe("a")?;
    for n in 0..257u32 {
        assert_eq!(bus.publish("a", n), receipt(1, 0));
    }
    assert_eq!(sub.recv_message()?.payload, 1, "the oldest went");

    let bus: Bus<u32> = Bus::builder().capacity(1).overflow(Overflow::DropNewest).build();
    let (newest, oldest) =
        (bus.subscribe("a")?, bounded(&bus, 2, Overflow::DropOldest).subscribe("a")?);
    assert_eq!(bus.publish("a", 1u32), receipt(2, 0));
    assert_eq!(bus.publish("a", 2u32), receipt(1, 1));
    assert_eq!(bus.publish("a", 3u32), receipt(1, 1));
    assert_eq!((payloads(&newest), payloads(&oldest)), (vec![1], vec![2, 3]));
    let same = oldest.resubscribe()?;
    assert_eq!(same.capacity(), 2);
    Ok(())
}

#[test]
#[should_panic(expected = "capacity of an inbox must be at least 1")]
fn a_bus_refuses_a_capacity_of_0() {
    drop(Bus::<u32>::builder().capacity(0));
}

#[test]
#[should_panic(expected = "capacity of an inbox must be at least 1")]
fn a_subscriber_refuses_a_capacity_of_0() {
    drop(Bus::<u32>::new().subscriber_builder().capacity(0));
}

// ---- one publish, several policies --------------------------------------------------------------

#[test]
fn a_publish_that_matches_an_inbox_several_times_can_evict_its_own_messages() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let oldest = bounded(&bus, 1, Overflow::DropOldest).subscribe("ab")?;
    oldest.psubscribe_many(["a*", "*b"])?;
    assert_eq!(bus.publish("ab", 1u32), receipt(3, 0));
    assert_books(&oldest, 3);
    assert_eq!(drain(&oldest), ["lagged 2", "pmessage *b ab 1"]);

    let newest = bounded(&bus, 2, Overflow::DropNewest).subscribe("ab")?;
    newest.psubscribe_many(["a*", "*b"])?;
    drop(oldest);
    assert_eq!(bus.publish("ab", 2u32), receipt(2, 1));
    assert_books(&newest, 3);
    assert_eq!(drain(&newest), ["lagged 1", "message ab 2", "pmessage a* ab 2"]);

    let gone = bounded(&bus, 1, Overflow::Disconnect).subscribe("ab")?;
    gone.psubscribe_many(["a*", "*b"])?;
    drop(newest);
    assert_eq!(bus.publish("ab", 3u32), receipt(1, 2));
    assert_books(&gone, 3);
    assert_eq!(drain(&gone), ["lagged 2", "message ab 3", "closed"]);

    let refusing = bounded(&bus, 1, REFUSE).subscribe("ab")?;
    refusing.psubscribe_many(["a*", "*b"])?;
    assert_eq!(bus.publish("ab", 4u32), receipt(1, 2));
    assert_books(&refusing, 3);
    assert_eq!(drain(&refusing), ["lagged 2", "message ab 4"]);
    Ok(())
}

#[test]
fn a_full_inbox_leaves_the_others_alone() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let roomy = bus.subscriber_builder().lifecycle_events(false).subscribe("a")?;
    let full = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, REFUSE]
        .map(|overflow| bounded(&bus, 1, overflow).subscribe("a").unwrap());
    let last = bus.subscriber_builder().lifecycle_events(false).psubscribe("*")?;
    assert_eq!(bus.publish("a", 1u32), receipt(6, 0));
    assert_eq!(bus.publish("a", 2u32), receipt(3, 3));
    assert_eq!(bus.publish("a", 3u32), receipt(3, 2), "one has been disconnected");
    for sub in [&roomy, &last] {
        assert_eq!((payloads(sub), sub.missed()), (vec![1, 2, 3], 0));
    }
    let left: Vec<Vec<u32>> = full.iter().map(payloads).collect();
    assert_eq!(left, [[3], [1], [1], [1]]);
    assert_eq!(full.each_ref().map(Subscriber::missed), [2, 2, 1, 2]);
    Ok(())
}

#[test]
fn inboxes_with_room_get_each_message_once_whichever_others_are_full() -> Outcome {
    const SUBSCRIBERS: usize = 4;
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        // Any of the inboxes may be full, and one of the subscribers may have left.
        for (full, gap) in
            (0..1 << SUBSCRIBERS).flat_map(|full| [(full, None), (full, Some(full % 3))])
        {
            let bus: Bus<Arc<u32>> = Bus::new();
            let is_full = |at: usize| full >> at & 1 == 1;
            let subscribe = |at: usize| {
                bounded(&bus, if is_full(at) { 1 } else { 9 }, overflow).subscribe("a").unwrap()
            };
            let mut subs: Vec<_> = (0..SUBSCRIBERS).map(|at| (at, subscribe(at))).collect();
            subs.retain(|&(at, _)| Some(at) != gap);
            let topic = bus.topic("a");
            let (first, second) = (Arc::new(1), Arc::new(2));
            assert_eq!(topic.publish(Arc::clone(&first)), receipt(subs.len(), 0));
            let refused = match overflow {
                Overflow::DropOldest => 0,
                _ => subs.iter().filter(|&&(at, _)| is_full(at)).count(),
            };
            let what = format!("{overflow:?} {full:04b} {gap:?}");
            assert_eq!(
                topic.publish(Arc::clone(&second)),
                receipt(subs.len() - refused, refused),
                "{what}"
            );
            assert_eq!(Arc::strong_count(&second), 1 + subs.len() - refused, "{what}");
            for (at, sub) in &subs {
                let left: Vec<u32> = payloads(sub).into_iter().map(|payload| *payload).collect();
                let expected: &[u32] = match overflow {
                    _ if !is_full(*at) => &[1, 2],
                    Overflow::DropOldest => &[2],
                    _ => &[1],
                };
                assert_eq!(left, expected, "{what}, {at}");
                assert_eq!(sub.missed(), u64::from(is_full(*at)), "{what}, {at}");
            }
            assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1), "{what}");
            let stats = bus.stats();
            let delivered = (2 * subs.len() - refused) as u64;
            assert_eq!((stats.published, stats.delivered), (2, delivered), "{what}");
            assert_eq!(stats.dropped, refused as u64, "{what}");
        }
    }
    Ok(())
}

/// 4.5: whichever inbox is full, and wherever in the list a subscriber has left.
#[test]
fn the_books_balance_whichever_inbox_is_full_or_has_left() -> Outcome {
    for policy in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        for full in 0..6 {
            for gone in 0..6 {
                let bus: Bus<u32> = Bus::new();
                let inbox =
                    |at| bounded(&bus, if at == full { 1 } else { 9 }, policy).subscribe("a");
                let mut subs: Vec<_> = (0..6).map(inbox).collect::<Result<_, _>>()?;
                // The last two leave as well, so that the list has more than one gap at its end.
                subs.truncate(if gone == 4 { 4 } else { 6 });
                if gone != 4 {
                    drop(subs.remove(gone));
                }
                let (mut delivered, mut dropped) = (0, 0);
                for n in 0..5_u32 {
                    let receipt = bus.publish("a", n);
                    assert!(receipt.matched <= subs.len());
                    assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
                    delivered += receipt.delivered;
                    dropped += receipt.dropped;
                }
                let stats = bus.stats();
                assert_eq!((stats.published, stats.delivered), (5, delivered as u64));
                assert_eq!(stats.dropped, dropped as u64);
                for info in subs.iter().map(Subscriber::info) {
                    let whole = info.capacity > 1;
                    assert_eq!(
                        (info.depth, info.missed == 0),
                        if whole { (5, true) } else { (1, false) }
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_full_inbox_causes_no_extra_clone_of_the_payload() -> Outcome {
    struct Counted(Arc<AtomicUsize>);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(&self.0))
        }
    }
    for full in 0..4 {
        let bus: Bus<Counted> = Bus::new();
        let capacity = |at| if at == full { 1 } else { 9 };
        let _subs: Vec<_> = (0..4)
            .map(|at| bounded(&bus, capacity(at), Overflow::DropNewest).subscribe("a").unwrap())
            .collect();
        for copies in [3, 6] {
            let counted = Arc::new(AtomicUsize::new(copies - 3));
            bus.publish("a", Counted(Arc::clone(&counted)));
            assert_eq!(counted.load(Ordering::SeqCst), copies, "{full}");
        }
    }
    Ok(())
}

#[test]
fn a_resubscribed_subscriber_has_the_label_and_the_dedupe_of_the_one_before() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let builder = bus.subscriber_builder().label("desk").dedupe(true);
    let sub = builder.overflow(Overflow::DropNewest).subscribe("a")?;
    sub.psubscribe("a*")?;
    let same = sub.resubscribe()?;
    drop(sub);
    assert_eq!((same.label(), same.info().overflow), (Some("desk"), Overflow::DropNewest));
    assert_eq!(bus.publish("a", 1u32), receipt(1, 0));
    Ok(())
}
