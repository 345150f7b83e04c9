//! Lifecycle events come in the stream as Redis sends them: in the order of the calls, around the
//! messages that they concern, never lost, without taking room.

mod common;

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{WATCHDOG, assert_books, cases, drain, linger, step, text, watched};
use fanout::{
    Bus, Event, Message, Overflow, Pattern, RecvError, RecvTimeoutError, SubscribeError,
    Subscriber, TryRecvError,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

type Outcome = Result<(), Box<dyn Error>>;

fn bus() -> Bus<u32> {
    Bus::new()
}

fn small(bus: &Bus<u32>, capacity: usize, overflow: Overflow) -> Subscriber<u32> {
    bus.subscriber_builder().capacity(capacity).overflow(overflow).build()
}

// ---- counts and order ------------------------------------------------------------------------------

#[test]
fn a_session_reads_as_with_redis() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    assert_eq!(sub.subscribe("a")?, 1);
    assert_eq!(sub.subscribe("b")?, 2);
    assert_eq!(sub.psubscribe("*")?, 3);
    bus.publish("a", 1u32);
    assert_eq!(sub.unsubscribe("a"), 2);
    bus.publish("a", 2u32);
    bus.publish("b", 3u32);
    assert_eq!(sub.punsubscribe("*"), 1);
    bus.publish("b", 4u32);
    assert_eq!(sub.unsubscribe("b"), 0);
    bus.publish("b", 5u32);
    let expected = [
        "subscribe a 1",
        "subscribe b 2",
        "psubscribe * 3",
        "message a 1",
        "pmessage * a 1",
        "unsubscribe a 2",
        "pmessage * a 2",
        "message b 3",
        "pmessage * b 3",
        "punsubscribe * 1",
        "message b 4",
        "unsubscribe b 0",
    ];
    // Read at the end, an Unsubscribe stands behind all that was queued when it was called.
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn counts_are_of_channels_and_patterns_together() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    assert_eq!(sub.subscribe_many(["a", "b"])?, 2);
    assert_eq!(sub.psubscribe_many(["x*", "y*"])?, 4);
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("y*")), (3, 2));
    assert_eq!(sub.psubscribe("z*")?, 3);
    let expected = [
        "subscribe a 1",
        "subscribe b 2",
        "psubscribe x* 3",
        "psubscribe y* 4",
        "unsubscribe a 3",
        "punsubscribe y* 2",
        "psubscribe z* 3",
    ];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn a_new_subscriber_tells_of_its_first_subscription() -> Outcome {
    let bus = bus();
    assert_eq!(drain(&bus.subscribe("a")?), ["subscribe a 1"]);
    assert_eq!(drain(&bus.psubscribe("a*")?), ["psubscribe a* 1"]);
    assert_eq!(drain(&bus.subscriber_builder().subscribe("a")?), ["subscribe a 1"]);
    assert_eq!(drain(&bus.subscriber()), [""; 0]);
    let sub = bus.subscribe("b")?;
    sub.psubscribe("a*")?;
    sub.subscribe("a")?;
    sub.unsubscribe("b");
    let again = drain(&sub.resubscribe()?);
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(again[0].ends_with(" 1") && again[1].ends_with(" 2"), "{again:?}");
    Ok(())
}

#[test]
fn what_changes_nothing_is_repeated_with_the_same_count() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    // Not held: with nothing at all, and with something.
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("a*")), (0, 0));
    assert_eq!((sub.subscribe("a")?, sub.subscribe("a")?), (1, 1));
    assert_eq!((sub.psubscribe("a*")?, sub.psubscribe("a*")?), (2, 2));
    assert_eq!((sub.unsubscribe("b"), sub.punsubscribe("b*")), (2, 2));
    assert_eq!(sub.subscribe_many(["b", "a", "b"])?, 3);
    assert_eq!(sub.psubscribe_many(["b*", "a*", "b*"])?, 4);
    // A channel is not a pattern of its text.
    assert_eq!((sub.punsubscribe("a"), sub.unsubscribe("a*")), (4, 4));
    let expected = [
        "unsubscribe a 0",
        "punsubscribe a* 0",
        "subscribe a 1",
        "subscribe a 1",
        "psubscribe a* 2",
        "psubscribe a* 2",
        "unsubscribe b 2",
        "punsubscribe b* 2",
        "subscribe b 3",
        "subscribe a 3",
        "subscribe b 3",
        "psubscribe b* 4",
        "psubscribe a* 4",
        "psubscribe b* 4",
        "punsubscribe a 4",
        "unsubscribe a* 4",
    ];
    assert_eq!(drain(&sub), expected);
    assert_eq!(bus.publish("a", 1u32).matched, 2, "one subscription each");
    Ok(())
}

#[test]
fn all_emit_one_for_each_in_the_order_subscribed() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    assert_eq!((sub.unsubscribe_all(), sub.punsubscribe_all()), (0, 0));
    assert_eq!(drain(&sub), [""; 0], "none where none is held");

    // More than a few, in an order that is no other, some of them given up and taken again.
    let names: Vec<String> = (0..40u32).map(|n| format!("c{}", n * 27 % 40)).collect();
    sub.subscribe_many(&names)?;
    sub.psubscribe_many(["z*", "a*", "m*"])?;
    sub.unsubscribe("c27");
    sub.subscribe("c27")?;
    sub.punsubscribe("z*");
    sub.psubscribe("z*")?;
    let mut order: Vec<&String> = names.iter().filter(|name| *name != "c27").collect();
    let again = "c27".to_owned();
    order.push(&again);
    let held: Vec<String> = sub.channels().iter().map(|name| name.to_string()).collect();
    assert!(held.iter().eq(order.iter().copied()));
    drain(&sub);

    assert_eq!(sub.unsubscribe_all(), 3);
    let expected: Vec<String> = order
        .iter()
        .enumerate()
        .map(|(at, name)| format!("unsubscribe {name} {}", 42 - at))
        .collect();
    assert_eq!(drain(&sub), expected);
    assert_eq!(sub.punsubscribe_all(), 0);
    assert_eq!(drain(&sub), ["punsubscribe a* 2", "punsubscribe m* 1", "punsubscribe z* 0"]);
    assert_eq!((sub.unsubscribe_all(), sub.punsubscribe_all()), (0, 0));
    assert_eq!(drain(&sub), [""; 0]);
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn the_same_text_in_two_dialects_is_told_of_twice() -> Outcome {
    let bus = bus();
    let glob = Pattern::glob("a/*")?;
    let sub = bus.subscriber();
    sub.psubscribe("a/*")?;
    sub.psubscribe(&glob)?;
    bus.publish("a/b", 1u32);
    bus.publish("a/b/c", 2u32);
    assert_eq!((sub.punsubscribe(&glob), sub.punsubscribe(&glob)), (1, 1));
    assert_eq!(sub.punsubscribe_all(), 0);
    let expected = [
        "psubscribe a/* 1",
        "psubscribe a/* 2",
        "pmessage a/* a/b 1",
        "pmessage a/* a/b 1",
        "pmessage a/* a/b/c 2",
        "punsubscribe a/* 1",
        "punsubscribe a/* 1",
        "punsubscribe a/* 0",
    ];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn a_refused_subscribe_tells_nothing() -> Outcome {
    let limits = fanout::Limits::default().max_channel_len(3).max_subscriptions(2);
    let bus: Bus<u32> = Bus::builder().limits(limits).build();
    let sub = bus.subscribe("a")?;
    assert!(matches!(sub.subscribe("long"), Err(SubscribeError::ChannelTooLong { limit: 3, .. })));
    let refused = sub.subscribe_many(["b", "c"]);
    assert!(matches!(refused, Err(SubscribeError::TooManySubscriptions { limit: 2, .. })));
    assert_eq!(drain(&sub), ["subscribe a 1"]);
    Ok(())
}

// ---- around messages -------------------------------------------------------------------------------

#[test]
fn subscribe_precedes_every_message_of_its_subscription() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    sub.subscribe("a")?;
    bus.publish("a", 1u32);
    sub.psubscribe("b*")?;
    bus.publish("b", 2u32);
    bus.publish("a", 3u32);
    let expected =
        ["subscribe a 1", "message a 1", "psubscribe b* 2", "pmessage b* b 2", "message a 3"];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn unsubscribe_follows_what_was_queued() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    sub.subscribe("b")?;
    bus.publish("a", 1u32);
    bus.publish("b", 2u32);
    sub.unsubscribe("a");
    // Queued behind it.
    bus.publish("b", 3u32);
    sub.unsubscribe("b");
    let expected = [
        "subscribe a 1",
        "subscribe b 2",
        "message a 1",
        "message b 2",
        "unsubscribe a 1",
        "message b 3",
        "unsubscribe b 0",
    ];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn unsubscribe_with_nothing_queued_is_due_at_once() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    sub.subscribe("b")?;
    bus.publish("a", 1u32);
    assert_eq!(drain(&sub).len(), 3);
    sub.unsubscribe("a");
    bus.publish("b", 2u32);
    assert_eq!(drain(&sub), ["unsubscribe a 1", "message b 2"]);
    Ok(())
}

#[test]
fn evictions_count_towards_what_unsubscribe_follows() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 2, Overflow::DropOldest);
    sub.subscribe_many(["a", "b"])?;
    assert_eq!(drain(&sub).len(), 2);
    bus.publish("a", 1u32);
    bus.publish("a", 2u32);
    sub.unsubscribe("a");
    // a1 goes: a2 is all that it has to follow.
    bus.publish("b", 3u32);
    assert_eq!(drain(&sub), ["lagged 1", "message a 2", "unsubscribe a 1", "message b 3"]);

    sub.subscribe("a")?;
    bus.publish("a", 4u32);
    bus.publish("a", 5u32);
    sub.unsubscribe("a");
    bus.publish("b", 6u32);
    bus.publish("b", 7u32);
    // None of those queued is left.
    let expected = ["lagged 2", "subscribe a 2", "unsubscribe a 1", "message b 6", "message b 7"];
    assert_eq!(drain(&sub), expected);
    assert_books(&sub, 7);
    Ok(())
}

#[test]
fn subscribe_follows_what_was_queued() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 2, Overflow::DropOldest);
    sub.subscribe("a")?;
    assert_eq!(drain(&sub), ["subscribe a 1"]);
    bus.publish("a", 1u32);
    sub.unsubscribe("a");
    sub.subscribe("b")?;
    bus.publish("b", 2u32);
    let expected = ["message a 1", "unsubscribe a 0", "subscribe b 1", "message b 2"];
    assert_eq!(drain(&sub), expected);
    // What it had to follow is evicted: it is due at once.
    bus.publish("b", 3u32);
    bus.publish("b", 4u32);
    sub.unsubscribe("b");
    sub.subscribe("a")?;
    bus.publish("a", 5u32);
    bus.publish("a", 6u32);
    let expected = ["lagged 2", "unsubscribe b 0", "subscribe a 1", "message a 5", "message a 6"];
    assert_eq!(drain(&sub), expected);
    assert_books(&sub, 6);
    Ok(())
}

#[test]
fn patterns_and_repeated_calls_stand_where_they_were_called() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    sub.psubscribe("a*")?;
    drain(&sub);
    bus.publish("a", 1u32);
    sub.punsubscribe("a*");
    sub.unsubscribe("c");
    bus.publish("a", 2u32);
    sub.subscribe("a")?;
    sub.psubscribe("*")?;
    bus.publish("a", 3u32);
    sub.unsubscribe("d");
    let expected = [
        "message a 1",
        "pmessage a* a 1",
        "punsubscribe a* 1",
        "unsubscribe c 1",
        "message a 2",
        "subscribe a 1",
        "psubscribe * 2",
        "message a 3",
        "pmessage * a 3",
        "unsubscribe d 2",
    ];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn unsubscribing_and_subscribing_again_tells_both_in_their_places() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    sub.subscribe("a")?;
    bus.publish("a", 1u32);
    sub.unsubscribe("a");
    bus.publish("a", 2u32);
    sub.subscribe("a")?;
    bus.publish("a", 3u32);
    let expected =
        ["subscribe a 1", "message a 1", "unsubscribe a 0", "subscribe a 1", "message a 3"];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn events_tell_two_dialects_of_one_text_apart() -> Outcome {
    let bus = bus();
    let (redis, glob) = (Pattern::redis("a/*"), Pattern::glob("a/*")?);
    let sub = bus.psubscribe(&redis)?;
    sub.psubscribe(&glob)?;
    assert_eq!(sub.punsubscribe(&redis), 1);
    bus.publish("a/b", 1u32);
    assert_eq!(sub.recv()?, Event::PSubscribe { pattern: redis.clone(), count: 1 });
    assert_eq!(sub.recv()?, Event::PSubscribe { pattern: glob.clone(), count: 2 });
    assert_eq!(sub.recv()?, Event::PUnsubscribe { pattern: redis, count: 1 });
    assert_eq!(sub.recv_message()?.matched_by(), Some(&glob));
    Ok(())
}

#[test]
fn receives_yield_loss_events_messages_and_the_end_in_this_order() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 1, Overflow::DropNewest);
    sub.subscribe("a")?;
    bus.publish("a", 1u32);
    bus.publish("a", 2u32);
    sub.subscribe("b")?;
    sub.unsubscribe("a");
    bus.close();
    let expected =
        ["lagged 1", "subscribe a 1", "message a 1", "subscribe b 2", "unsubscribe a 1", "closed"];
    let by_recv: Vec<String> = sub.iter().map(|event| text(&event)).collect();
    assert_eq!(by_recv, expected[..5]);
    assert_eq!(sub.recv(), Err(RecvError::Closed));
    assert_eq!(drain(&sub), expected[5..]);
    Ok(())
}

// ---- never lost, no room ---------------------------------------------------------------------------

#[test]
fn events_take_no_capacity_and_are_never_lost() -> Outcome {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
        let bus = bus();
        let sub = small(&bus, 1, overflow);
        for n in 0..1_000 {
            assert_eq!(sub.subscribe(format!("c{n}"))?, n + 1);
        }
        assert_eq!((sub.len(), sub.is_empty(), sub.info().depth), (0, true, 0));
        assert_eq!(bus.publish("c7", 7u32).delivered, 1);
        assert_eq!((sub.len(), sub.missed()), (1, 0));
        for n in 0..1_000 {
            sub.unsubscribe(format!("c{n}"));
        }
        assert_eq!((sub.len(), sub.missed(), sub.info().high_water), (1, 0, 1));
        let subscribed = (0..1_000).map(|n| format!("subscribe c{n} {}", n + 1));
        let unsubscribed = (0..1_000).map(|n| format!("unsubscribe c{n} {}", 999 - n));
        let message = std::iter::once("message c7 7".to_owned());
        assert!(drain(&sub).into_iter().eq(subscribed.chain(message).chain(unsubscribed)));
        assert_books(&sub, 1);
    }
    Ok(())
}

#[test]
fn events_outlive_overflow_and_the_end() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 1, Overflow::Disconnect);
    sub.subscribe("a")?;
    sub.subscribe("b")?;
    bus.publish("a", 1u32);
    sub.unsubscribe("b");
    bus.publish("a", 2u32);
    let expected =
        ["lagged 1", "subscribe a 1", "subscribe b 2", "message a 1", "unsubscribe b 1", "closed"];
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn closing_emits_none() -> Outcome {
    for by_bus in [false, true] {
        let bus = bus();
        let sub = bus.subscribe("a")?;
        sub.psubscribe("a*")?;
        bus.publish("a", 1u32);
        if by_bus {
            bus.close()
        } else {
            sub.close()
        }
        // Nor does anything that comes after it.
        assert_eq!(
            (sub.unsubscribe("a"), sub.punsubscribe_all(), sub.unsubscribe_all()),
            (0, 0, 0)
        );
        assert_eq!(sub.subscribe("a"), Err(SubscribeError::Closed));
        let expected =
            ["subscribe a 1", "psubscribe a* 2", "message a 1", "pmessage a* a 1", "closed"];
        assert_eq!(drain(&sub), expected);
    }
    Ok(())
}

#[test]
fn silenced_events_do_not_come() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("a")?;
    assert_eq!((sub.psubscribe("a*")?, sub.subscribe("a")?), (2, 2));
    bus.publish("a", 1u32);
    assert_eq!((sub.unsubscribe("a"), sub.unsubscribe("b"), sub.punsubscribe_all()), (1, 1, 0));
    let same = sub.resubscribe()?;
    same.subscribe("c")?;
    assert_eq!(drain(&same), [""; 0], "the settings are the same");
    assert_eq!(drain(&sub), ["message a 1", "pmessage a* a 1"]);
    assert_eq!(drain(&bus.subscriber_builder().lifecycle_events(true).subscribe("a")?).len(), 1);
    Ok(())
}

#[test]
fn iterators_over_messages_skip_events() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 2, Overflow::DropOldest);
    sub.subscribe_many(["a", "b"])?;
    assert!(sub.try_messages().next().is_none(), "events are no messages");
    for n in 1..=3u32 {
        bus.publish("a", n);
        sub.unsubscribe("b");
    }
    let payload = |message: Message<u32>| message.payload;
    let mut now = sub.try_messages();
    assert_eq!(now.by_ref().map(payload).collect::<Vec<_>>(), [2, 3], "`Lagged` is skipped too");
    // It is empty, not at an end.
    bus.publish("a", 4u32);
    assert_eq!(now.next().map(payload), Some(4));
    assert!(now.next().is_none());
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));

    bus.publish("a", 5u32);
    sub.unsubscribe("a");
    bus.close();
    let mut all = sub.into_messages();
    assert_eq!(all.next().map(payload), Some(5));
    assert!(all.next().is_none());
    assert!(all.next().is_none());
    Ok(())
}

#[test]
fn receiving_messages_skips_events() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 2, Overflow::DropOldest);
    sub.subscribe_many(["a", "b"])?;
    for n in 1..=3u32 {
        bus.publish("a", n);
    }
    sub.unsubscribe("b");
    assert_eq!(sub.recv_message()?.payload, 2);
    sub.subscribe("b")?;
    assert_eq!(sub.try_recv_message()?.payload, 3);
    assert_eq!(sub.try_recv_message(), Err(TryRecvError::Empty));
    sub.unsubscribe("b");
    assert!(sub.recv_message_timeout(Duration::from_millis(1)).is_err());
    sub.subscribe("b")?;
    bus.publish("a", 4u32);
    assert_eq!(sub.recv_message_timeout(WATCHDOG)?.payload, 4);
    // What was skipped is gone.
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    sub.unsubscribe("c");
    let past = Instant::now();
    assert_eq!(sub.recv_message_deadline(past), Err(RecvTimeoutError::Timeout));
    sub.subscribe("b")?;
    bus.publish("a", 6u32);
    assert_eq!(sub.recv_message_deadline(Instant::now() + WATCHDOG)?.payload, 6);
    sub.unsubscribe("a");
    bus.publish("b", 5u32);
    bus.close();
    assert!(sub.messages().map(|message| message.payload).eq([5]));
    assert_eq!(sub.recv_message(), Err(RecvError::Closed));
    assert_eq!(sub.missed(), 1);
    Ok(())
}

#[test]
fn the_queues_reader_sees_messages_only_and_events_are_kept() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    bus.publish("a", 1u32);
    sub.unsubscribe("a");
    assert_eq!(sub.receiver().try_recv()?.payload, 1);
    assert!(sub.receiver().try_recv().is_err());
    assert_eq!(drain(&sub), ["subscribe a 1", "unsubscribe a 0"]);
    Ok(())
}

#[test]
fn iterators_yield_events() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    bus.publish("a", 1u32);
    let now: Vec<String> = sub.try_iter().map(|event| text(&event)).collect();
    assert_eq!(now, ["subscribe a 1", "message a 1"]);
    // They end when it is closed and drained, not when nothing is subscribed any more.
    sub.unsubscribe("a");
    sub.subscribe("b")?;
    bus.close();
    assert_eq!((&sub).into_iter().count(), 2);
    assert_eq!(sub.into_iter().count(), 0);
    Ok(())
}

// ---- waking ----------------------------------------------------------------------------------------

/// Each call of another thread wakes a reader that waits for it alone.
#[test]
fn events_wake_a_blocked_receive() {
    watched(|| {
        let bus = bus();
        let sub = bus.subscriber();
        let reader = sub.clone();
        let (seen, log) = mpsc::channel();
        // It waits also while nothing is subscribed.
        let thread = thread::spawn(move || {
            while let Ok(event) = reader.recv() {
                seen.send(text(&event)).unwrap();
            }
        });
        let next = || log.recv_timeout(WATCHDOG).unwrap();
        for round in 0..2_000u32 {
            step();
            if round % 64 == 0 {
                // So that it is asleep by now, most likely.
                thread::sleep(Duration::from_millis(1));
            }
            sub.subscribe("a").unwrap();
            assert_eq!(next(), "subscribe a 1");
            sub.psubscribe("b*").unwrap();
            assert_eq!(next(), "psubscribe b* 2");
            bus.publish("b", round);
            assert_eq!(next(), format!("pmessage b* b {round}"));
            sub.punsubscribe("b*");
            assert_eq!(next(), "punsubscribe b* 1");
            sub.unsubscribe("a");
            assert_eq!(next(), "unsubscribe a 0");
            sub.unsubscribe("a");
            assert_eq!(next(), "unsubscribe a 0");
        }
        drop(bus);
        thread.join().unwrap();
    });
}

/// With many waiting, there is one for each of many events.
#[test]
fn events_wake_as_many_clones_as_there_are_events() {
    watched(|| {
        const READERS: usize = 4;
        let bus = bus();
        let sub = bus.subscriber();
        let (seen, log) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(READERS + 1));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (sub, seen, barrier) = (sub.clone(), seen.clone(), Arc::clone(&barrier));
                thread::spawn(move || {
                    while let Ok(event) = sub.recv() {
                        seen.send(text(&event)).unwrap();
                        // Busy until each of the others has got one too.
                        barrier.wait();
                    }
                })
            })
            .collect();
        for round in 0..300 {
            step();
            if round % 32 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let names: Vec<String> = (0..READERS).map(|n| format!("{round}:{n}")).collect();
            let first = READERS * round;
            sub.subscribe_many(&names).unwrap();
            barrier.wait();
            let mut told: Vec<String> =
                (0..READERS).map(|_| log.recv_timeout(WATCHDOG).unwrap()).collect();
            told.sort_unstable();
            let expected: Vec<String> =
                (0..READERS).map(|n| format!("subscribe {round}:{n} {}", first + n + 1)).collect();
            assert_eq!(told, expected);
        }
        bus.close();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// An Unsubscribe that waits for a message to be taken wakes a clone when another has taken it.
#[test]
fn what_becomes_due_by_another_clone_wakes_a_blocked_receive() {
    watched(|| {
        let bus = bus();
        let sub = bus.subscribe("a").unwrap();
        drain(&sub);
        for round in 0..1_000u32 {
            step();
            bus.publish("a", round);
            sub.unsubscribe("a");
            let reader = sub.clone();
            let other = thread::spawn(move || text(&reader.recv().unwrap()));
            let mut both = [text(&sub.recv().unwrap()), other.join().unwrap()];
            both.sort_unstable();
            assert_eq!(both, [format!("message a {round}"), "unsubscribe a 0".to_owned()]);
            sub.subscribe("a").unwrap();
            assert_eq!(drain(&sub), ["subscribe a 1"]);
        }
    });
}

// ---- clones ----------------------------------------------------------------------------------------

#[test]
fn clones_share_events_each_to_exactly_one() {
    let all = watched(|| {
        let bus = bus();
        let sub = small(&bus, 1_000, Overflow::DropOldest);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let sub = sub.clone();
                thread::spawn(move || sub.iter().map(|event| text(&event)).collect::<Vec<_>>())
            })
            .collect();
        for n in 0..500u32 {
            let name = format!("c{n}");
            sub.subscribe(&name).unwrap();
            bus.publish(&name, n);
            sub.unsubscribe(&name);
        }
        bus.close();
        let mut all: Vec<String> =
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        all.sort_unstable();
        all
    });
    let mut expected: Vec<String> = (0..500)
        .flat_map(|n| {
            [
                format!("subscribe c{n} 1"),
                format!("message c{n} {n}"),
                format!("unsubscribe c{n} 0"),
            ]
        })
        .collect();
    expected.sort_unstable();
    assert_eq!(all.len(), expected.len());
    for (seen, expected) in all.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_clone_subscribes_for_all() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    let clone = sub.clone();
    assert_eq!(clone.subscribe("b")?, 2);
    assert_eq!(sub.unsubscribe("a"), 1);
    drop(clone);
    assert_eq!(bus.publish("b", 1u32).matched, 1, "the last one holds on");
    assert_eq!(drain(&sub), ["subscribe a 1", "subscribe b 2", "unsubscribe a 1", "message b 1"]);
    Ok(())
}

// ---- one reader under change -----------------------------------------------------------------------

/// Publishers go on without end while another thread subscribes and unsubscribes what they publish on;
/// each message carries the number of the last subscription that had begun before its publish. It
/// belongs to that one or a later one, whose `Subscribe` must be seen first.
fn no_message_before_its_subscribe(overflow: Overflow, capacity: usize, by_pattern: bool) {
    const ROUNDS: u32 = 300;
    let stream = watched(move || {
        let bus = bus();
        let sub = small(&bus, capacity, overflow);
        let begun = Arc::new(AtomicU32::new(0));
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let (bus, begun) = (bus.clone(), Arc::clone(&begun));
                thread::spawn(move || {
                    let topic = bus.topic("b");
                    while !bus.is_closed() {
                        topic.publish(begun.load(Ordering::SeqCst));
                    }
                })
            })
            .collect();
        let reader = sub.clone();
        let reader = thread::spawn(move || reader.iter().collect::<Vec<_>>());
        for round in 1..=ROUNDS {
            step();
            begun.store(round, Ordering::SeqCst);
            if by_pattern {
                sub.psubscribe("b*").unwrap();
            } else {
                sub.subscribe("b").unwrap();
            }
            linger(round as usize % 8);
            if by_pattern {
                sub.punsubscribe("b*");
            } else {
                sub.unsubscribe("b");
            }
        }
        bus.close();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        let stream = reader.join().unwrap();
        assert_eq!(sub.missed(), stream.iter().map(lost).sum::<u64>());
        stream
    });
    let (mut subscribed, mut unsubscribed) = (0, 0);
    for event in &stream {
        match event {
            Event::Subscribe { channel, count: 1 } if **channel == *"b" => subscribed += 1,
            Event::PSubscribe { pattern, count: 1 } if pattern.as_str() == "b*" => subscribed += 1,
            Event::Unsubscribe { count: 0, .. } | Event::PUnsubscribe { count: 0, .. } => {
                unsubscribed += 1;
                assert_eq!(unsubscribed, subscribed, "in the order of the calls");
            }
            Event::Message(message) | Event::PMessage(message) => {
                assert!(
                    subscribed >= message.payload.max(1),
                    "a message of subscription {} or later after {subscribed}",
                    message.payload
                );
            }
            Event::Lagged { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((subscribed, unsubscribed), (ROUNDS, ROUNDS), "none is lost");
}

fn lost(event: &Event<u32>) -> u64 {
    match event {
        Event::Lagged { missed } => *missed,
        _ => 0,
    }
}

#[test]
fn no_message_comes_before_its_subscribe_while_the_oldest_go() {
    no_message_before_its_subscribe(Overflow::DropOldest, 2, false);
    no_message_before_its_subscribe(Overflow::DropOldest, 64, true);
}

#[test]
fn no_message_comes_before_its_subscribe_while_the_newest_go() {
    no_message_before_its_subscribe(Overflow::DropNewest, 4, false);
    no_message_before_its_subscribe(Overflow::DropNewest, 1, true);
}

#[test]
fn no_message_comes_before_its_subscribe_while_publishers_wait() {
    no_message_before_its_subscribe(Overflow::Block { timeout: None }, 2, false);
    no_message_before_its_subscribe(Overflow::Block { timeout: None }, 2, true);
}

/// One thread subscribes, publishes and unsubscribes without a pause, always the same name; another reads as fast as it
/// can. Whatever the moment at which a call meets the reader, every message stands between the `Subscribe` and the
/// `Unsubscribe` of its own subscription.
fn messages_stand_in_their_subscription(
    rounds: u32,
    capacity: usize,
    overflow: Overflow,
    by_pattern: bool,
) {
    let stream = watched(move || {
        let bus = bus();
        let sub = small(&bus, capacity, overflow);
        let reader = sub.clone();
        let reader = thread::spawn(move || {
            let mut stream = Vec::new();
            loop {
                match reader.try_recv() {
                    Ok(event) => stream.push(event),
                    Err(TryRecvError::Empty) => std::hint::spin_loop(),
                    Err(TryRecvError::Closed) => return stream,
                }
            }
        });
        let topic = bus.topic("b");
        for round in 1..=rounds {
            _ = if by_pattern { sub.psubscribe("b*") } else { sub.subscribe("b") };
            (0..round % 4).for_each(|_| _ = topic.publish(round));
            _ = if by_pattern { sub.punsubscribe("b*") } else { sub.unsubscribe("b") };
            // So that the reader comes to the end of the stream now and then.
            (0..round % 32 / 28 * 100).for_each(|_| std::hint::spin_loop());
        }
        bus.close();
        let stream = reader.join().unwrap();
        assert_eq!(sub.missed(), stream.iter().map(lost).sum::<u64>());
        stream
    });
    let (mut subscribed, mut open, mut last) = (0, false, 0);
    for (at, event) in stream.iter().enumerate() {
        match event {
            Event::Subscribe { count: 1, .. } | Event::PSubscribe { count: 1, .. } if !open => {
                subscribed += 1;
                open = true;
            }
            Event::Unsubscribe { count: 0, .. } | Event::PUnsubscribe { count: 0, .. } if open => {
                open = false;
            }
            Event::Message(message) | Event::PMessage(message) => {
                let near = &stream[at.saturating_sub(3)..stream.len().min(at + 4)];
                assert!(
                    open && message.payload == subscribed,
                    "a message of subscription {} after {subscribed}, {open}: {near:?}",
                    message.payload
                );
                assert!(last <= message.payload, "out of order");
                last = message.payload;
            }
            Event::Lagged { .. } => {}
            other => panic!("{other:?} after {subscribed}, {open}"),
        }
    }
    assert_eq!((subscribed, open), (rounds, false), "none is lost");
}

#[test]
fn every_message_stands_in_its_own_subscription_while_the_oldest_go() {
    messages_stand_in_their_subscription(30_000, 1, Overflow::DropOldest, false);
    messages_stand_in_their_subscription(30_000, 3, Overflow::DropOldest, true);
}

#[test]
fn every_message_stands_in_its_own_subscription_while_the_newest_go() {
    messages_stand_in_their_subscription(30_000, 2, Overflow::DropNewest, false);
    messages_stand_in_their_subscription(30_000, 64, Overflow::DropNewest, true);
}

#[test]
fn every_message_stands_in_its_own_subscription_while_the_publisher_waits() {
    messages_stand_in_their_subscription(1_000, 1, Overflow::Block { timeout: None }, false);
    messages_stand_in_their_subscription(1_000, 4, Overflow::Block { timeout: None }, true);
}

/// One thread publishes and unsubscribes without a pause, from a name that is not held, which is told of
/// all the same; another reads as fast as it can. Whatever the moment at which `unsubscribe` meets the
/// reader, its event stands behind all that was published before.
fn unsubscribe_follows_all(
    rounds: u32,
    read: fn(&Subscriber<u32>) -> Result<Event<u32>, TryRecvError>,
) {
    let stream = watched(move || {
        let bus = bus();
        let sub = small(&bus, rounds as usize, Overflow::DropNewest);
        sub.subscribe("a").unwrap();
        let reader = sub.clone();
        let reader = thread::spawn(move || {
            let mut stream = Vec::new();
            loop {
                match read(&reader) {
                    Ok(event) => stream.push(event),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Closed) => return stream,
                }
            }
        });
        for round in 0..rounds {
            step();
            assert_eq!(bus.publish("a", round).delivered, 1);
            if round % 4 != 0 {
                sub.unsubscribe(round.to_string());
            }
        }
        bus.close();
        reader.join().unwrap()
    });
    let (mut messages, mut told) = (0, 0);
    for event in &stream {
        match event {
            Event::Message(message) => {
                assert_eq!(message.payload, messages);
                messages += 1;
            }
            Event::Unsubscribe { channel, count: 1 } => {
                told += 1;
                let last: u32 = channel.parse().unwrap();
                assert!(messages > last, "Unsubscribe({last}) came before message {last}");
            }
            Event::Subscribe { .. } => assert_eq!((messages, told), (0, 0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((messages, told), (rounds, rounds / 4 * 3));
}

#[test]
fn unsubscribe_follows_what_was_queued_while_it_is_being_read() {
    unsubscribe_follows_all(60_000, Subscriber::try_recv);
}

#[test]
fn unsubscribe_follows_what_was_queued_while_a_reader_waits() {
    unsubscribe_follows_all(60_000, |sub| Ok(sub.recv()?));
}

// ---- against a model -------------------------------------------------------------------------------

/// What a single reader must see: the queue, and the events each with how many of the messages that
/// were queued then still stand before it.
#[derive(Default)]
struct Model {
    queue: std::collections::VecDeque<String>,
    events: std::collections::VecDeque<(String, usize)>,
    channels: Vec<&'static str>,
    patterns: Vec<&'static str>,
    unreported: u64,
    matched: u64,
}

impl Model {
    fn held(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn told(&mut self, kind: &str, name: &str) {
        let event = format!("{kind} {name} {}", self.held());
        self.events.push_back((event, self.queue.len()));
    }

    fn left(&mut self) -> Option<String> {
        let message = self.queue.pop_front();
        self.events.iter_mut().for_each(|event| event.1 = event.1.saturating_sub(1));
        message
    }

    fn publish(&mut self, channel: &str, payload: u32, capacity: usize, overflow: Overflow) {
        let exact = self.channels.iter().filter(|held| **held == channel);
        let exact = exact.map(|held| format!("message {held} {payload}"));
        let patterns = self.patterns.iter().filter(|held| Pattern::redis(held).is_match(channel));
        let patterns = patterns.map(|held| format!("pmessage {held} {channel} {payload}"));
        let all: Vec<String> = exact.chain(patterns).collect();
        for message in all {
            self.matched += 1;
            if self.queue.len() == capacity {
                self.unreported += 1;
                if overflow == Overflow::DropNewest {
                    continue;
                }
                self.left();
            }
            self.queue.push_back(message);
        }
    }

    fn recv(&mut self) -> Option<String> {
        if self.unreported > 0 {
            return Some(format!("lagged {}", std::mem::take(&mut self.unreported)));
        }
        match self.events.front() {
            Some((_, before)) if *before == 0 || self.queue.is_empty() => {
                self.events.pop_front().map(|event| event.0)
            }
            _ => self.left(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    PSubscribe(&'static str),
    PUnsubscribe(&'static str),
    UnsubscribeAll,
    PUnsubscribeAll,
    Publish(&'static str),
    Recv,
}

fn call() -> impl Strategy<Value = Call> {
    let channel = || select(vec!["a", "b", "ab"]);
    let pattern = || select(vec!["a*", "*b", "*"]);
    prop_oneof![
        3 => channel().prop_map(Call::Subscribe),
        3 => channel().prop_map(Call::Unsubscribe),
        2 => pattern().prop_map(Call::PSubscribe),
        2 => pattern().prop_map(Call::PUnsubscribe),
        1 => Just(Call::UnsubscribeAll),
        1 => Just(Call::PUnsubscribeAll),
        8 => channel().prop_map(Call::Publish),
        8 => Just(Call::Recv),
    ]
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn the_stream_is_the_models(
        capacity in 1..5usize,
        overflow in select(vec![Overflow::DropOldest, Overflow::DropNewest]),
        calls in vec(call(), 0..80),
    ) {
        let bus = bus();
        let sub = small(&bus, capacity, overflow);
        let mut model = Model::default();
        for (payload, call) in (0..).zip(calls) {
            match call {
                Call::Subscribe(name) => {
                    if !model.channels.contains(&name) {
                        model.channels.push(name);
                    }
                    model.told("subscribe", name);
                    prop_assert_eq!(sub.subscribe(name), Ok(model.held()));
                }
                Call::PSubscribe(name) => {
                    if !model.patterns.contains(&name) {
                        model.patterns.push(name);
                    }
                    model.told("psubscribe", name);
                    prop_assert_eq!(sub.psubscribe(name), Ok(model.held()));
                }
                Call::Unsubscribe(name) => {
                    model.channels.retain(|held| *held != name);
                    model.told("unsubscribe", name);
                    prop_assert_eq!(sub.unsubscribe(name), model.held());
                }
                Call::PUnsubscribe(name) => {
                    model.patterns.retain(|held| *held != name);
                    model.told("punsubscribe", name);
                    prop_assert_eq!(sub.punsubscribe(name), model.held());
                }
                Call::UnsubscribeAll => {
                    while !model.channels.is_empty() {
                        let name = model.channels.remove(0);
                        model.told("unsubscribe", name);
                    }
                    prop_assert_eq!(sub.unsubscribe_all(), model.held());
                }
                Call::PUnsubscribeAll => {
                    while !model.patterns.is_empty() {
                        let name = model.patterns.remove(0);
                        model.told("punsubscribe", name);
                    }
                    prop_assert_eq!(sub.punsubscribe_all(), model.held());
                }
                Call::Publish(name) => {
                    model.publish(name, payload, capacity, overflow);
                    bus.publish(name, payload);
                }
                Call::Recv => {
                    prop_assert_eq!(sub.try_recv().ok().map(|event| text(&event)), model.recv());
                }
            }
            prop_assert_eq!(sub.len(), model.queue.len());
        }
        let rest: Vec<String> = std::iter::from_fn(|| model.recv()).collect();
        prop_assert_eq!(drain(&sub), rest);
        assert_books(&sub, model.matched);
    }
}
