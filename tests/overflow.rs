//! Full inboxes: each policy does what it says, the books balance, and no loss is silent.

mod common;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{WATCHDOG, assert_books, cases, drain, payloads, step, steps, text, watched};
use fanout::{
    Bus, CloseReason, Event, Overflow, Receipt, RecvError, RecvTimeoutError, SubscribeError,
    Subscriber, SubscriberBuilder, TryRecvError,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

type Outcome = Result<(), Box<dyn Error>>;

const BLOCK: Overflow = Overflow::Block { timeout: None };
const REFUSE: Overflow = Overflow::Block { timeout: Some(Duration::ZERO) };
const ALL: [Overflow; 5] =
    [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, BLOCK, REFUSE];

fn block(timeout: Duration) -> Overflow {
    Overflow::Block { timeout: Some(timeout) }
}

/// A builder of subscribers without lifecycle events.
fn silent<P: Clone + Send + 'static>(
    bus: &Bus<P>,
    capacity: usize,
    overflow: Overflow,
) -> SubscriberBuilder<P> {
    bus.subscriber_builder().capacity(capacity).overflow(overflow).lifecycle_events(false)
}

fn receipt(delivered: usize, dropped: usize) -> Receipt {
    Receipt { matched: delivered + dropped, delivered, dropped }
}

// ---- capacity --------------------------------------------------------------------------------------

#[test]
fn capacity_is_exactly_what_was_asked() -> Outcome {
    for capacity in [1, 2, 3, 5, 7, 8, 9, 100, 1_000] {
        for overflow in ALL {
            let bus: Bus<usize> = Bus::builder().capacity(capacity).overflow(overflow).build();
            // Lifecycle events take none of it.
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
fn a_bus_has_defaults_and_a_subscriber_its_own() -> Outcome {
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
        (bus.subscribe("a")?, silent(&bus, 2, Overflow::DropOldest).subscribe("a")?);
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

// ---- DropOldest, DropNewest ------------------------------------------------------------------------

#[test]
fn drop_oldest_evicts_and_delivers() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 3, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=5u32 {
        // The new one counts as delivered, whatever it evicts.
        assert_eq!(bus.publish("a", n), receipt(1, 0));
    }
    assert_eq!((sub.missed(), sub.len()), (2, 3));
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 5, 0, 2));
    assert_books(&sub, 5);
    assert_eq!(drain(&sub), ["lagged 2", "message a 3", "message a 4", "message a 5"]);
    assert_books(&sub, 5);
    assert_eq!(sub.info().received, 3);
    Ok(())
}

#[test]
fn drop_newest_refuses_and_keeps() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 3, Overflow::DropNewest).subscribe("a")?;
    for n in 1..=5u32 {
        assert_eq!(bus.publish("a", n), if n <= 3 { receipt(1, 0) } else { receipt(0, 1) });
    }
    assert_eq!((sub.missed(), sub.len()), (2, 3));
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 3, 2, 0));
    assert_books(&sub, 5);
    assert_eq!(drain(&sub), ["lagged 2", "message a 1", "message a 2", "message a 3"]);
    assert_books(&sub, 5);
    Ok(())
}

#[test]
fn a_publish_that_matches_an_inbox_often_can_evict_its_own_messages() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let oldest = silent(&bus, 1, Overflow::DropOldest).subscribe("ab")?;
    oldest.psubscribe_many(["a*", "*b"])?;
    assert_eq!(bus.publish("ab", 1u32), receipt(3, 0));
    assert_books(&oldest, 3);
    assert_eq!(drain(&oldest), ["lagged 2", "pmessage *b ab 1"]);

    let newest = silent(&bus, 2, Overflow::DropNewest).subscribe("ab")?;
    newest.psubscribe_many(["a*", "*b"])?;
    drop(oldest);
    assert_eq!(bus.publish("ab", 2u32), receipt(2, 1));
    assert_books(&newest, 3);
    assert_eq!(drain(&newest), ["lagged 1", "message ab 2", "pmessage a* ab 2"]);

    let gone = silent(&bus, 1, Overflow::Disconnect).subscribe("ab")?;
    gone.psubscribe_many(["a*", "*b"])?;
    drop(newest);
    assert_eq!(bus.publish("ab", 3u32), receipt(1, 2));
    assert_books(&gone, 3);
    assert_eq!(drain(&gone), ["lagged 2", "message ab 3", "closed"]);

    let refusing = silent(&bus, 1, REFUSE).subscribe("ab")?;
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
        .map(|overflow| silent(&bus, 1, overflow).subscribe("a").unwrap());
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
fn whichever_of_several_is_full_the_others_get_each_message_once() -> Outcome {
    const SUBSCRIBERS: usize = 4;
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        // Any of them may be full, and one of them may have left a gap.
        for (full, gap) in
            (0..1 << SUBSCRIBERS).flat_map(|full| [(full, None), (full, Some(full % 3))])
        {
            let bus: Bus<Arc<u32>> = Bus::new();
            let is_full = |at: usize| full >> at & 1 == 1;
            let subscribe = |at: usize| {
                silent(&bus, if is_full(at) { 1 } else { 9 }, overflow).subscribe("a").unwrap()
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

// ---- Lagged ----------------------------------------------------------------------------------------

#[test]
fn lagged_comes_before_the_next_message_read() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, Overflow::DropNewest).subscribe("a")?;
    for n in 1..=3u32 {
        bus.publish("a", n);
    }
    // 1 and 2 were there before 3 was refused: word of it comes first all the same.
    assert_eq!(text(&sub.recv()?), "lagged 1");
    assert_eq!(text(&sub.recv()?), "message a 1");
    // 4 enters; 5 and 6 are refused: one Lagged for both.
    for n in 4..=6u32 {
        bus.publish("a", n);
    }
    assert_eq!(drain(&sub), ["lagged 2", "message a 2", "message a 4"]);
    bus.publish("a", 7u32);
    assert_eq!(drain(&sub), ["message a 7"]);
    Ok(())
}

#[test]
fn drop_oldest_tells_of_a_loss_before_any_later_message() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=4u32 {
        bus.publish("a", n);
    }
    assert_eq!(text(&sub.recv()?), "lagged 2");
    assert_eq!(text(&sub.recv()?), "message a 3");
    bus.publish("a", 5u32);
    // 4 goes after Lagged and before the next message.
    bus.publish("a", 6u32);
    assert_eq!(text(&sub.recv()?), "lagged 1");
    // And another between Lagged and the message that it announced.
    bus.publish("a", 7u32);
    assert_eq!(drain(&sub), ["lagged 1", "message a 6", "message a 7"]);
    assert_books(&sub, 7);
    Ok(())
}

#[test]
fn lagged_comes_even_when_no_message_follows() -> Outcome {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, REFUSE] {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus, 1, overflow).subscribe("a")?;
        bus.publish("a", 1u32);
        bus.publish("a", 2u32);
        // The queue's reader sees messages only, and polls `missed`.
        assert_eq!(sub.receiver().len(), 1);
        sub.receiver().try_recv()?;
        assert_eq!((sub.missed(), sub.len()), (1, 0));
        assert_eq!(text(&sub.recv()?), "lagged 1", "{overflow:?}");
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        assert_books(&sub, 2);
    }
    Ok(())
}

#[test]
fn lagged_comes_before_closed() -> Outcome {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, REFUSE] {
        for by_bus in [false, true] {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus, 1, overflow).subscribe("a")?;
            bus.publish("a", 1u32);
            bus.publish("a", 2u32);
            sub.receiver().try_recv()?;
            if by_bus {
                bus.close();
            } else {
                sub.close();
            }
            assert_eq!(drain(&sub), ["lagged 1", "closed"], "{overflow:?}");
            assert_eq!(sub.recv(), Err(RecvError::Closed));
        }
    }
    Ok(())
}

#[test]
fn reading_messages_only_leaves_missed_to_tell() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    for n in 1..=5u32 {
        bus.publish("a", n);
    }
    assert_eq!(sub.recv_message()?.payload, 4);
    assert_eq!(sub.recv_message_timeout(WATCHDOG)?.payload, 5);
    assert_eq!(sub.try_recv_message(), Err(TryRecvError::Empty));
    assert_eq!(sub.missed(), 3);
    assert_books(&sub, 5);
    Ok(())
}

#[test]
fn clones_share_word_of_a_loss() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    let clone = sub.clone();
    for n in 1..=5u32 {
        bus.publish("a", n);
    }
    assert_eq!(text(&clone.recv()?), "lagged 3");
    assert_eq!(text(&sub.recv()?), "message a 4");
    assert_eq!(text(&clone.recv()?), "message a 5");
    assert_eq!((sub.missed(), clone.missed()), (3, 3));
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    Ok(())
}

// ---- Disconnect ------------------------------------------------------------------------------------

#[test]
fn disconnect_unsubscribes_everywhere_and_drains() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let other = silent(&bus, 9, Overflow::DropOldest).subscribe("a")?;
    let sub = silent(&bus, 2, Overflow::Disconnect).subscribe("a")?;
    sub.subscribe("b")?;
    sub.psubscribe("c*")?;
    let clone = sub.clone();
    assert_eq!(bus.publish("b", 1u32), receipt(1, 0));
    assert_eq!(bus.publish("c1", 2u32), receipt(1, 0));
    assert_eq!((sub.is_closed(), sub.close_reason()), (false, None));
    assert_eq!(bus.publish("a", 3u32), receipt(1, 1));

    assert_eq!((sub.is_closed(), sub.close_reason()), (true, Some(CloseReason::Overflow)));
    assert_eq!(clone.close_reason(), Some(CloseReason::Overflow));
    assert_eq!(["a", "b"].map(|name| bus.subscriber_count(name)), [1, 0]);
    assert_eq!(["a", "b", "c1"].map(|name| bus.match_count(name)), [1, 0, 0]);
    assert_eq!(bus.channels(), [Arc::from("a")]);
    assert_eq!((bus.pattern_count(), bus.subscribers().len()), (0, 1));
    assert_eq!((bus.stats().subscribers, bus.stats().channels, bus.stats().patterns), (1, 1, 0));
    assert_eq!((sub.channels().len(), sub.patterns().len()), (0, 0));
    assert_eq!(["a", "b", "c1"].map(|name| bus.publish(name, 4u32).matched), [1, 0, 0]);

    assert_eq!(sub.subscribe("d"), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe("d"), Err(SubscribeError::Closed));
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("c*"), sub.unsubscribe_all()), (0, 0, 0));
    assert!(matches!(sub.resubscribe(), Err(SubscribeError::Closed)));
    assert_books(&sub, 3);
    // No event tells of the end; Closed does, for good.
    assert_eq!(drain(&sub), ["lagged 1", "message b 1", "pmessage c* c1 2", "closed"]);
    assert_eq!(sub.recv(), Err(RecvError::Closed));
    assert_eq!(clone.recv_timeout(WATCHDOG), Err(RecvTimeoutError::Closed));
    assert_books(&sub, 3);
    // The reason stays the first one.
    sub.close();
    bus.close();
    assert_eq!(sub.close_reason(), Some(CloseReason::Overflow));
    assert_eq!(payloads(&other), [3, 4]);
    Ok(())
}

#[test]
fn disconnect_ends_a_blocked_clone_and_the_queues_reader() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 1, Overflow::Disconnect).subscribe("a")?;
    let seen = {
        let (bus, sub) = (bus.clone(), sub.clone());
        watched(move || {
            let reader = sub.clone();
            let reader = thread::spawn(move || reader.iter().map(|event| text(&event)).collect());
            let mut sent = 0;
            while !sub.is_closed() {
                sent += bus.publish("a", sent as u32).matched;
            }
            let seen: Vec<String> = reader.join().unwrap();
            (sent, seen)
        })
    };
    let (sent, seen) = seen;
    let messages = seen.iter().filter(|text| text.starts_with("message")).count();
    assert_eq!((messages + 1, seen.contains(&"lagged 1".to_owned())), (sent, true));
    let end = watched(move || sub.receiver().recv());
    assert!(end.is_err(), "the queue is disconnected");
    Ok(())
}

// ---- Block -----------------------------------------------------------------------------------------

/// A publisher that waits for `full`, of capacity 1, which holds 0. It publishes 1 on "ab".
struct Waiting {
    bus: Bus<u32>,
    full: Subscriber<u32>,
    /// Has room; it has been served.
    witness: Subscriber<u32>,
    publisher: JoinHandle<Receipt>,
}

fn waiting(overflow: Overflow, subscribe: impl FnOnce(&Subscriber<u32>)) -> Waiting {
    let bus: Bus<u32> = Bus::new();
    let full = silent(&bus, 1, overflow).subscribe("filler").unwrap();
    // First the full one: it comes before the witness in whatever order is by subscription.
    subscribe(&full);
    assert_eq!(bus.publish("filler", 0u32), receipt(1, 0));
    let witness = silent(&bus, 16, Overflow::DropNewest).subscribe("ab").unwrap();
    let publisher = {
        let bus = bus.clone();
        thread::spawn(move || bus.publish("ab", 1u32))
    };
    // Inboxes with room are served first.
    assert_eq!(witness.recv_message_timeout(WATCHDOG).unwrap().payload, 1);
    Waiting { bus, full, witness, publisher }
}

fn join(publisher: JoinHandle<Receipt>) -> Receipt {
    watched(|| publisher.join().unwrap())
}

#[test]
fn block_waits_until_there_is_room() -> Outcome {
    for overflow in [BLOCK, block(Duration::MAX), block(WATCHDOG)] {
        let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(overflow, |full| {
            full.subscribe("ab").unwrap();
        });
        assert!(!publisher.is_finished(), "nobody has made room");
        assert_eq!(full.recv_message_timeout(WATCHDOG)?.payload, 0);
        assert_eq!(join(publisher), receipt(2, 0));
        assert_eq!(payloads(&full), [1]);
        assert_eq!(full.missed(), 0);
        assert_books(&full, 2);
    }
    Ok(())
}

#[test]
fn block_waits_for_room_that_the_queues_reader_makes() -> Outcome {
    let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(BLOCK, |full| {
        full.psubscribe("a*").unwrap();
    });
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 0);
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 1);
    assert_eq!(join(publisher), receipt(2, 0));
    assert_books(&full, 2);
    Ok(())
}

#[test]
fn block_refuses_at_the_timeout_not_earlier() -> Outcome {
    let timeout = Duration::from_millis(50);
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 1, block(timeout)).subscribe("a")?;
    bus.publish("a", 1u32);
    for n in 1..=3 {
        let start = Instant::now();
        assert_eq!(bus.publish("a", 2u32), receipt(0, 1));
        assert!(start.elapsed() >= timeout);
        assert_eq!(sub.missed(), n);
    }
    assert_eq!(bus.topic("a").publish(3u32), receipt(0, 1));
    assert_books(&sub, 5);
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 1, 4, 0));
    assert_eq!(drain(&sub), ["lagged 4", "message a 1"]);
    Ok(())
}

#[test]
fn block_with_a_zero_timeout_takes_room_and_never_waits() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, REFUSE).subscribe("a")?;
    assert_eq!(
        [1, 2, 3].map(|n: u32| bus.publish("a", n)),
        [receipt(1, 0), receipt(1, 0), receipt(0, 1)]
    );
    assert_eq!(drain(&sub), ["lagged 1", "message a 1", "message a 2"]);
    assert_eq!(bus.publish("a", 4u32), receipt(1, 0));
    assert_eq!(drain(&sub), ["message a 4"]);
    assert_books(&sub, 4);
    Ok(())
}

/// Asserts that a publish with a timeout takes at least that timeout and less than so many `times` of it, whatever
/// the machine. A publish that waits too often takes all of them, always; one that is only delayed by others does
/// not, once the timeout is long enough.
#[track_caller]
fn assert_takes_less_than(times: u32, publish: impl Fn(Duration) -> Duration) {
    let mut taken = Vec::new();
    for timeout in [200, 800, 3_200, 12_800].map(Duration::from_millis) {
        let elapsed = publish(timeout);
        assert!(elapsed >= timeout, "{elapsed:?} for a timeout of {timeout:?}");
        if elapsed < times * timeout {
            return;
        }
        taken.push((timeout, elapsed));
    }
    panic!("timeouts, and what the publishes took: {taken:?}");
}

#[test]
fn timeouts_run_side_by_side() {
    // One after another, it would be the twelvefold.
    assert_takes_less_than(12, |timeout| {
        let bus: Bus<u32> = Bus::new();
        let full: Vec<_> =
            (0..12).map(|_| silent(&bus, 1, block(timeout)).subscribe("a").unwrap()).collect();
        assert_eq!(bus.publish("a", 1u32), receipt(12, 0));
        let start = Instant::now();
        assert_eq!(bus.publish("a", 2u32), receipt(0, 12));
        let elapsed = start.elapsed();
        for sub in &full {
            assert_eq!((sub.missed(), payloads(sub)), (1, vec![1]));
        }
        elapsed
    });
}

#[test]
fn full_inboxes_are_waited_for_one_after_another() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let full: Vec<_> =
        (0..3).map(|_| silent(&bus, 1, BLOCK).subscribe("a")).collect::<Result<_, _>>()?;
    bus.publish("a", 1u32);
    let publisher = {
        let bus = bus.clone();
        thread::spawn(move || bus.publish("a", 2u32))
    };
    // In whatever order room is made, all get it.
    for at in [1, 2, 0] {
        assert_eq!(full[at].recv_message_timeout(WATCHDOG)?.payload, 1);
    }
    assert_eq!(join(publisher), receipt(3, 0));
    for sub in &full {
        assert_eq!(payloads(sub), [2]);
        assert_books(sub, 2);
    }
    Ok(())
}

/// Ends the wait by `end` and asserts that the message counts as dropped.
fn ended_as_dropped(
    subscribe: impl FnOnce(&Subscriber<u32>),
    end: impl FnOnce(&Waiting),
    expected: &[&str],
) {
    let waiting = waiting(BLOCK, subscribe);
    end(&waiting);
    let Waiting { bus, full, publisher, witness } = waiting;
    assert_eq!(join(publisher), receipt(1, 1));
    assert_eq!(full.missed(), 1);
    assert_books(&full, 2);
    assert_books(&witness, 1);
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped), (3, 2, 1));
    assert_eq!(drain(&full), expected);
}

fn exact(full: &Subscriber<u32>) {
    full.subscribe("ab").unwrap();
}

fn pattern(full: &Subscriber<u32>) {
    full.psubscribe("a*").unwrap();
}

#[test]
fn closing_the_subscriber_ends_the_wait() {
    let expected = ["lagged 1", "message filler 0", "closed"];
    ended_as_dropped(exact, |waiting| waiting.full.close(), &expected);
    ended_as_dropped(pattern, |waiting| waiting.full.clone().close(), &expected);
}

#[test]
fn closing_the_bus_ends_the_wait() {
    let expected = ["lagged 1", "message filler 0", "closed"];
    ended_as_dropped(exact, |waiting| waiting.bus.close(), &expected);
    ended_as_dropped(pattern, |waiting| waiting.bus.clone().close(), &expected);
}

#[test]
fn unsubscribing_ends_the_wait() {
    let expected = ["lagged 1", "message filler 0"];
    ended_as_dropped(exact, |waiting| assert_eq!(waiting.full.unsubscribe("ab"), 1), &expected);
    ended_as_dropped(exact, |waiting| assert_eq!(waiting.full.unsubscribe_all(), 0), &expected);
    ended_as_dropped(pattern, |waiting| assert_eq!(waiting.full.punsubscribe("a*"), 1), &expected);
    ended_as_dropped(pattern, |waiting| assert_eq!(waiting.full.punsubscribe_all(), 1), &expected);
}

#[test]
fn a_new_subscription_to_the_name_does_not_take_over_the_wait() {
    ended_as_dropped(
        exact,
        |waiting| {
            waiting.full.unsubscribe("ab");
            waiting.full.subscribe("ab").unwrap();
        },
        &["lagged 1", "message filler 0"],
    );
}

#[test]
fn dropping_the_subscriber_ends_the_wait() {
    for subscribe in [exact, pattern] {
        let Waiting { bus, full, witness: _witness, publisher } = waiting(BLOCK, subscribe);
        drop(full);
        assert_eq!(join(publisher), receipt(1, 1));
        assert_eq!((bus.match_count("ab"), bus.subscriber_count("filler")), (1, 0));
        assert_eq!(bus.stats().dropped, 1);
    }
}

#[test]
fn giving_up_another_subscription_does_not_end_the_wait() -> Outcome {
    let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(BLOCK, |full| {
        full.subscribe_many(["ab", "x"]).unwrap();
        full.psubscribe_many(["x*", "*b"]).unwrap();
    });
    full.unsubscribe("x");
    full.unsubscribe("filler");
    full.punsubscribe("x*");
    full.unsubscribe("never held");
    // Of the two that wait, one ends; the other goes on and gets in.
    full.unsubscribe("ab");
    let ended = full.clone();
    watched(move || {
        while ended.missed() == 0 {
            thread::yield_now();
        }
    });
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 0);
    assert_eq!(join(publisher), receipt(2, 1));
    assert_eq!(drain(&full), ["lagged 1", "pmessage *b ab 1"]);
    assert_books(&full, 3);
    Ok(())
}

#[test]
fn a_waiting_publisher_stops_nobody_else() {
    watched(|| {
        let Waiting { bus, full, witness, publisher } = waiting(BLOCK, exact);
        // Another publisher on the channel reaches those that have room, then waits itself.
        let second = {
            let topic = bus.topic("ab");
            thread::spawn(move || topic.publish(2u32))
        };
        assert_eq!(witness.recv_message_timeout(WATCHDOG).unwrap().payload, 2);
        // Others come, go, look in, and publish elsewhere.
        let late = bus.subscribe("ab").unwrap();
        late.psubscribe("b*").unwrap();
        assert_eq!((bus.subscriber_count("ab"), bus.match_count("ab")), (3, 3));
        assert_eq!(bus.publish("bc", 3u32), receipt(1, 0));
        assert_eq!(late.recv_message().unwrap().payload, 3);
        assert_eq!(late.unsubscribe("ab"), 1);
        assert_eq!((bus.stats().subscribers, bus.subscribers().len()), (3, 3));
        assert_eq!(full.info().depth, 1);
        full.subscribe("more").unwrap();
        assert!(!publisher.is_finished() && !second.is_finished());
        // Room for one, then for the other.
        let mut seen: Vec<u32> =
            (0..3).map(|_| full.recv_message_timeout(WATCHDOG).unwrap().payload).collect();
        assert_eq!(seen.remove(0), 0);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!(
            (publisher.join().unwrap(), second.join().unwrap()),
            (receipt(2, 0), receipt(2, 0))
        );
        assert_books(&full, 3);
    });
}

#[test]
fn block_loses_nothing_and_keeps_each_publishers_order() {
    const EACH: u32 = 2_000;
    let (seen, books) = watched(|| {
        let bus: Bus<(u32, u32)> = Bus::new();
        let sub = silent(&bus, 2, BLOCK).subscribe("a").unwrap();
        sub.psubscribe("b*").unwrap();
        let publishers: Vec<_> = (0..3)
            .map(|publisher| {
                let bus = bus.clone();
                thread::spawn(move || {
                    for n in 0..EACH {
                        let channel = if n % 2 == 0 { "a" } else { "b" };
                        assert_eq!(bus.publish(channel, (publisher, n)), receipt(1, 0));
                    }
                })
            })
            .collect();
        let seen: Vec<_> =
            (0..3 * EACH).map(|_| sub.recv_message_timeout(WATCHDOG).unwrap().payload).collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        assert_books(&sub, u64::from(3 * EACH));
        (seen, sub.info())
    });
    assert_eq!(books.missed, 0);
    for publisher in 0..3 {
        let own = seen.iter().filter(|(by, _)| *by == publisher).map(|&(_, n)| n);
        assert!(own.eq(0..EACH), "publisher {publisher}");
    }
}

// ---- at the moment when a publish is in the middle of it -------------------------------------------

/// A payload that calls a function with the number of the copy each time it is cloned.
struct Copied {
    number: u32,
    copies: Arc<AtomicUsize>,
    at_copy: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Copied {
    fn new(number: u32, at_copy: impl Fn(usize) + Send + Sync + 'static) -> Self {
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

/// A payload whose copy with this number asks a question and waits for the answer: ends of both for
/// the other thread come with it.
fn asking(number: u32, at: usize) -> (Copied, mpsc::Receiver<()>, mpsc::Sender<()>) {
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

/// A full inbox of capacity 1 that matches "ab" three times, and a reader that empties it when the
/// publish of 1 on "ab" is about to deliver the second time. What the reader saw till then and later,
/// and the receipt.
fn emptied_in_the_middle(overflow: Overflow) -> (Vec<String>, Receipt, Subscriber<Copied>) {
    let bus: Bus<Copied> = Bus::new();
    let full = silent(&bus, 1, overflow).subscribe("filler").unwrap();
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

#[test]
fn block_keeps_the_order_of_one_publish_when_room_comes_in_the_middle() {
    let (seen, receipt, full) = watched(|| emptied_in_the_middle(BLOCK));
    assert_eq!(receipt, self::receipt(3, 0));
    assert_books(&full, 4);
    // 4.3: the exact one first, then the patterns in the order they were subscribed.
    let expected = ["message filler 0", "message ab 1", "pmessage a* ab 1", "pmessage *b ab 1"];
    assert_eq!(seen, expected);
}

#[test]
fn what_disconnect_delivered_can_be_read_when_room_comes_in_the_middle() {
    let (seen, receipt, full) = watched(|| emptied_in_the_middle(Overflow::Disconnect));
    assert_eq!(receipt.matched, 3);
    assert_books(&full, 4);
    assert_eq!(seen.last().map(String::as_str), Some("closed"));
    let messages = seen.iter().filter(|text| text.contains("message")).count();
    let lagged = seen.iter().filter_map(|text| text.strip_prefix("lagged "));
    let lagged: usize = lagged.map(|missed| missed.parse::<usize>().unwrap()).sum();
    // 4.3: when publish returns, what it delivered can be read; 4.5: no loss is silent.
    assert_eq!((messages, full.len()), (1 + receipt.delivered, 0), "{seen:?} but {receipt:?}");
    assert_eq!((lagged as u64, lagged), (full.missed(), receipt.dropped), "{seen:?}");
}

/// The bus is closed while a publisher has seen the inbox full and not begun to wait; the reader drains
/// it to the end before that.
#[test]
fn a_wait_that_closing_has_ended_delivers_nothing_behind_the_end() {
    for round in 0..20 {
        let (seen, receipt, full) = watched(|| {
            let bus: Bus<Copied> = Bus::new();
            let full = silent(&bus, 1, BLOCK).subscribe("ab").unwrap();
            let _roomy: Vec<_> =
                (0..2).map(|_| silent(&bus, 9, Overflow::DropNewest).psubscribe("a*")).collect();
            assert_eq!(bus.publish("ab", Copied::new(0, |_| {})).delivered, 3);
            let (payload, asked, answer) = asking(1, 2);
            let publisher = {
                let bus = bus.clone();
                thread::spawn(move || bus.publish("ab", payload))
            };
            asked.recv_timeout(WATCHDOG).unwrap();
            bus.close();
            let mut seen = drain(&full);
            answer.send(()).unwrap();
            let receipt = publisher.join().unwrap();
            seen.append(&mut drain(&full));
            (seen, receipt, full)
        });
        let messages = seen.iter().filter(|text| text.starts_with("message")).count();
        // 4.5: closing ends the wait, as dropped.
        assert_eq!((messages, full.len()), (1, 0), "round {round}: {seen:?} but {receipt:?}");
        assert_eq!(receipt.dropped, 1);
        assert_books(&full, 2);
        // And it is told of before the end, which the reader has come to while the publisher stood still.
        assert_eq!(seen.iter().filter(|text| *text == "lagged 1").count(), 1, "{seen:?}");
    }
}

/// A publisher waits for one inbox and has another's message still in hand. That one is closed, and told of
/// its loss before its end, though the publisher has yet to find out.
#[test]
fn a_wait_that_closing_ends_is_told_of_before_the_end() {
    let (seen, receipt, late) = watched(|| {
        let bus: Bus<u32> = Bus::new();
        let first = silent(&bus, 1, BLOCK).subscribe("a").unwrap();
        let second = silent(&bus, 1, BLOCK).subscribe("a").unwrap();
        assert_eq!(bus.publish("a", 0u32).delivered, 2);
        let publisher = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", 1u32))
        };
        // Both waits are entered before either is waited for: the turn is over when the channel can be
        // left.
        while bus.stats().published < 2 {
            thread::yield_now();
        }
        second.close();
        let mut seen = Vec::new();
        while let Ok(event) = second.recv() {
            seen.push(text(&event));
        }
        let late = second.missed();
        assert_eq!(first.recv_message().unwrap().payload, 0);
        let receipt = publisher.join().unwrap();
        assert_eq!(first.recv_message().unwrap().payload, 1);
        assert_books(&first, 2);
        assert_books(&second, 2);
        (seen, receipt, late)
    });
    assert_eq!(seen, ["lagged 1", "message a 0"]);
    assert_eq!((receipt, late), (self::receipt(1, 1), 1));
}

#[test]
fn timeouts_run_from_the_start_of_the_publish() {
    // The first delivery takes as long as a full inbox is to be waited for: if the timeout began after it, the
    // publish would take twice as long.
    assert_takes_less_than(2, |timeout| {
        let bus: Bus<Copied> = Bus::new();
        let _roomy = silent(&bus, 9, Overflow::DropNewest).subscribe("a").unwrap();
        let full = silent(&bus, 1, block(timeout)).subscribe("a").unwrap();
        bus.publish("a", Copied::new(0, |_| {}));
        let start = Instant::now();
        let slow = Copied::new(1, move |_| thread::sleep(timeout.saturating_sub(start.elapsed())));
        assert_eq!(bus.publish("a", slow), receipt(1, 1));
        assert_eq!(full.missed(), 1);
        start.elapsed()
    });
}

#[test]
fn waiting_for_the_turn_counts_towards_the_timeout() {
    assert_takes_less_than(2, |timeout| {
        let bus: Bus<Copied> = Bus::new();
        let _roomy = silent(&bus, 9, Overflow::DropNewest).subscribe("a").unwrap();
        let _full = silent(&bus, 1, block(timeout)).subscribe("a").unwrap();
        bus.publish("a", Copied::new(0, |_| {}));
        let (slow, asked, answer) = asking(1, 1);
        let first = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", slow))
        };
        asked.recv().unwrap();
        let start = Instant::now();
        let helper = thread::spawn(move || {
            thread::sleep(timeout.saturating_sub(start.elapsed()));
            answer.send(()).unwrap();
        });
        assert_eq!(bus.publish("a", Copied::new(2, |_| {})), receipt(1, 1));
        let elapsed = start.elapsed();
        helper.join().unwrap();
        first.join().unwrap();
        elapsed
    });
}

// ---- the books, against a model --------------------------------------------------------------------

struct Model {
    sub: Subscriber<u32>,
    overflow: Overflow,
    capacity: usize,
    /// What each publish comes by: the channel, patterns.
    by: Vec<&'static str>,
    queue: VecDeque<String>,
    closed: bool,
    ended: bool,
    unreported: u64,
    evicted: u64,
    refused: u64,
    matched: u64,
    received: u64,
    /// The largest depth that there was, and that a receive or an overflow has met.
    deepest: usize,
    sampled: usize,
}

impl Model {
    fn new(bus: &Bus<u32>, overflow: Overflow, capacity: usize, patterns: usize) -> Self {
        let sub = silent(bus, capacity, overflow).subscribe("a").unwrap();
        let by = [&["message a"], &["pmessage a* a", "pmessage ? a"][..patterns]].concat();
        sub.psubscribe_many(["a*", "?"].iter().take(patterns).copied()).unwrap();
        Self {
            sub,
            overflow,
            capacity,
            by,
            queue: VecDeque::new(),
            closed: false,
            ended: false,
            unreported: 0,
            evicted: 0,
            refused: 0,
            matched: 0,
            received: 0,
            deepest: 0,
            sampled: 0,
        }
    }

    /// How many messages of a publish enter and do not.
    fn publish(&mut self, payload: u32) -> (usize, usize) {
        if self.closed {
            return (0, 0);
        }
        let mut dropped = 0;
        for by in &self.by {
            self.matched += 1;
            let full = self.queue.len() == self.capacity;
            if full {
                self.sampled = self.capacity;
                self.unreported += 1;
            }
            if full && self.overflow == Overflow::DropOldest {
                self.queue.pop_front();
                self.evicted += 1;
            } else if full {
                self.refused += 1;
                dropped += 1;
                self.closed |= self.overflow == Overflow::Disconnect;
                continue;
            }
            self.queue.push_back(format!("{by} {payload}"));
            self.deepest = self.deepest.max(self.queue.len());
        }
        (self.by.len() - dropped, dropped)
    }

    fn recv(&mut self) -> Result<String, TryRecvError> {
        if self.unreported > 0 {
            return Ok(format!("lagged {}", std::mem::take(&mut self.unreported)));
        }
        self.sampled = self.sampled.max(self.queue.len());
        match self.queue.pop_front() {
            Some(message) => {
                self.received += 1;
                Ok(message)
            }
            None if self.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let info = self.sub.info();
        prop_assert_eq!(info.missed, self.evicted + self.refused);
        prop_assert_eq!(info.received, self.received);
        prop_assert_eq!(info.depth, self.queue.len());
        prop_assert_eq!(self.matched, info.received + info.missed + info.depth as u64);
        prop_assert_eq!(self.sub.missed(), info.missed);
        prop_assert_eq!((self.sub.len(), self.sub.is_empty()), (info.depth, info.depth == 0));
        let least = self.sampled - self.sampled / 8;
        prop_assert!(info.high_water >= least && info.high_water <= self.deepest);
        prop_assert_eq!(self.sub.is_closed(), self.closed);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Publish,
    Recv(Index),
    /// By `recv_message`, which skips `Lagged`.
    Message(Index),
    /// By the queue itself, which does not show it.
    Queue(Index),
    Close(Index),
    CloseBus,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        12 => Just(Call::Publish),
        8 => any::<Index>().prop_map(Call::Recv),
        3 => any::<Index>().prop_map(Call::Message),
        3 => any::<Index>().prop_map(Call::Queue),
        1 => any::<Index>().prop_map(Call::Close),
        1 => Just(Call::CloseBus),
    ]
}

fn policy() -> impl Strategy<Value = Overflow> {
    let never_waiting = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, REFUSE];
    select(never_waiting.to_vec())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn every_loss_is_accounted_for(
        inboxes in vec((policy(), 1..5usize, 0..3usize), 1..4),
        calls in vec(call(), 0..60),
    ) {
        let bus: Bus<u32> = Bus::new();
        let mut models: Vec<Model> = inboxes
            .into_iter()
            .map(|(overflow, capacity, patterns)| Model::new(&bus, overflow, capacity, patterns))
            .collect();
        let (mut delivered, mut dropped) = (0, 0);
        for (payload, call) in (0..).zip(calls) {
            match call {
                Call::Publish => {
                    let sums: Vec<_> = models.iter_mut().map(|model| model.publish(payload)).collect();
                    let entered: usize = sums.iter().map(|sum| sum.0).sum();
                    let refused: usize = sums.iter().map(|sum| sum.1).sum();
                    prop_assert_eq!(bus.publish("a", payload), receipt(entered, refused));
                    delivered += entered as u64;
                    dropped += refused as u64;
                }
                Call::Recv(at) => {
                    let model = at.get_mut(&mut models);
                    let seen = model.sub.try_recv().map(|event| text(&event));
                    prop_assert_eq!(&seen, &model.recv());
                    model.ended |= seen == Err(TryRecvError::Closed);
                }
                Call::Message(at) => {
                    let model = at.get_mut(&mut models);
                    model.unreported = 0;
                    let seen = model.sub.try_recv_message().map(|message| text(&message.into()));
                    prop_assert_eq!(seen, model.recv());
                }
                Call::Queue(at) => {
                    let model = at.get_mut(&mut models);
                    let seen = model.sub.receiver().try_recv().ok();
                    let expected = model.queue.pop_front();
                    model.received += u64::from(expected.is_some());
                    prop_assert_eq!(seen.map(|message| text(&Event::from(message))), expected);
                }
                Call::Close(at) => {
                    let model = at.get_mut(&mut models);
                    model.sub.close();
                    model.closed = true;
                }
                Call::CloseBus => {
                    bus.close();
                    models.iter_mut().for_each(|model| model.closed = true);
                }
            }
            for model in &models {
                model.check()?;
            }
        }
        let stats = bus.stats();
        prop_assert_eq!((stats.matched, stats.delivered, stats.dropped), (delivered + dropped, delivered, dropped));
        prop_assert_eq!(stats.evicted, models.iter().map(|model| model.evicted).sum::<u64>());
        // To the end: every loss has been told of, in sum.
        for model in &mut models {
            loop {
                let expected = model.recv();
                prop_assert_eq!(model.sub.try_recv().map(|event| text(&event)), expected.clone());
                if expected.is_err() {
                    break;
                }
            }
            model.check()?;
        }
    }
}

// ---- the books, under threads ----------------------------------------------------------------------

/// Two publishers on two channels, and one reader or several, of one small inbox, to the end.
fn race(overflow: Overflow, capacity: usize, readers: usize, each: u32) {
    watched(move || {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus, capacity, overflow).subscribe("a").unwrap();
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
        assert_eq!(lagged, sub.missed(), "{overflow:?}: every loss was told of");
        assert_eq!(messages, sub.info().received, "{overflow:?}");
        assert_eq!(messages + stats.evicted, stats.delivered, "{overflow:?}: delivered, so read");
        assert_books(&sub, stats.matched);
    });
}

#[test]
fn the_books_balance_when_the_oldest_go() {
    race(Overflow::DropOldest, 1, 1, 20_000);
    race(Overflow::DropOldest, 7, 3, 20_000);
}

#[test]
fn the_books_balance_when_the_newest_go() {
    race(Overflow::DropNewest, 1, 1, 20_000);
    race(Overflow::DropNewest, 7, 3, 20_000);
}

#[test]
fn the_books_balance_when_publishers_wait() {
    race(BLOCK, 1, 1, 3_000);
    race(BLOCK, 7, 3, 3_000);
    race(block(Duration::from_micros(20)), 2, 1, 3_000);
    race(REFUSE, 2, 1, 10_000);
}

#[test]
fn the_books_balance_when_the_reader_is_disconnected() {
    for round in 0..300 {
        race(Overflow::Disconnect, 1 + round % 3, 1 + round % 2, 50);
    }
}

#[test]
fn what_a_dropped_inbox_held_leaves_with_it() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 2, Overflow::DropOldest).subscribe("a")?;
    (0..3u32).for_each(|n| assert_eq!(bus.publish("a", n), receipt(1, 0)));
    drop(sub);
    assert!(bus.subscribers().is_empty());
    // What the bus has counted stays counted, and no discarded message becomes a loss.
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (3, 3, 0, 1));
    Ok(())
}

// ---- high_water ------------------------------------------------------------------------------------

#[test]
fn high_water_reaches_the_capacity_without_an_overflow() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 3, Overflow::DropOldest).subscribe("a")?;
    (0..2).for_each(|n| _ = bus.publish("a", n as u32));
    sub.recv()?;
    (0..2).for_each(|n| _ = bus.publish("a", n as u32));
    sub.recv()?;
    assert_eq!(sub.info().high_water, 3);
    Ok(())
}

#[test]
fn a_full_inbox_costs_no_copy_of_the_payload_more() -> Outcome {
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
            .map(|at| silent(&bus, capacity(at), Overflow::DropNewest).subscribe("a").unwrap())
            .collect();
        for copies in [3, 6] {
            let counted = Arc::new(AtomicUsize::new(copies - 3));
            bus.publish("a", Counted(Arc::clone(&counted)));
            assert_eq!(counted.load(Ordering::SeqCst), copies, "{full}");
        }
    }
    Ok(())
}

/// 4.5: whichever of several inboxes is full, and wherever others have left, in front, in between or at the end.
#[test]
fn books_are_right_whoever_is_full_and_whoever_has_left() -> Outcome {
    for policy in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        for full in 0..6 {
            for gone in 0..6 {
                let bus: Bus<u32> = Bus::new();
                let inbox =
                    |at| silent(&bus, if at == full { 1 } else { 9 }, policy).subscribe("a");
                let mut subs: Vec<_> = (0..6).map(inbox).collect::<Result<_, _>>()?;
                // The last two, too, so that there is more than one hole at the end.
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
fn high_water_is_the_largest_depth_seen() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus, 10, Overflow::DropOldest).subscribe("a")?;
    assert_eq!(sub.info().high_water, 0);
    for n in 0..4u32 {
        bus.publish("a", n);
    }
    sub.recv()?;
    assert_eq!(sub.info().high_water, 4);
    while sub.try_recv().is_ok() {}
    bus.publish("a", 4u32);
    sub.recv()?;
    assert_eq!((sub.info().depth, sub.info().high_water), (0, 4), "it does not sink");
    for n in 0..12u32 {
        bus.publish("a", n);
    }
    while sub.receiver().try_recv().is_ok() {}
    assert_eq!((sub.info().depth, sub.info().high_water), (0, 10), "an overflow was seen");
    Ok(())
}

/// 4.10: most receives do not look where there is much to be read; but little is overlooked.
#[test]
fn high_water_overlooks_less_than_an_eighth() -> Outcome {
    let mut random = 1_u64;
    for most in [3, 7, 8, 20, 100, 1000] {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus, 2000, Overflow::DropOldest).subscribe("a")?;
        let (mut depth, mut deepest) = (0, 0);
        for _ in 0..10_000 {
            // Bursts, and now and then all is read.
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let burst = (random >> 33) as usize % (most - depth + 1);
            (0..burst).for_each(|_| _ = bus.publish("a", 0u32));
            depth += burst;
            let reads = (random >> 45) as usize % (depth + 2);
            for _ in 0..reads.min(depth) {
                deepest = deepest.max(depth);
                sub.try_recv()?;
                depth -= 1;
            }
            // Asking looks, too.
            if random >> 60 == 0 {
                deepest = deepest.max(depth);
                let seen = sub.info().high_water;
                assert!(seen <= deepest && seen >= deepest - deepest / 8, "{seen} of {deepest}");
            }
        }
        assert!(deepest > most - most / 8 - 1);
    }
    Ok(())
}

/// 4.10, and capacity: no depth above the capacity was ever there to be seen.
#[test]
fn high_water_never_exceeds_the_capacity() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, BLOCK] {
        let high_water = watched(move || {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus, 1, overflow).subscribe("a").unwrap();
            let publisher = {
                let bus = bus.clone();
                thread::spawn(move || {
                    for n in 0..20_000u32 {
                        bus.publish("a", n);
                    }
                    bus.close();
                })
            };
            while sub.recv().is_ok() {
                step();
            }
            publisher.join().unwrap();
            sub.info().high_water
        });
        assert_eq!(high_water, 1, "{overflow:?}");
    }
}
