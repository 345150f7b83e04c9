//! Lifecycle events come in the stream as Redis sends them: in the order of the calls, among the messages that
//! they concern. They are never lost and take no capacity.

#![cfg_attr(not(feature = "glob"), allow(unused_imports))]

mod support;

use std::error::Error;
use std::time::{Duration, Instant};

use fanout::{
    Bus, Event, Message, Overflow, Pattern, RecvError, RecvTimeoutError, SubscribeError,
    Subscriber, TryRecvError,
};
use support::{WATCHDOG, assert_books, drain, text};

type Outcome = Result<(), Box<dyn Error>>;

fn bus() -> Bus<u32> {
    Bus::new()
}

fn small(bus: &Bus<u32>, capacity: usize, overflow: Overflow) -> Subscriber<u32> {
    bus.subscriber_builder().capacity(capacity).overflow(overflow).build()
}

// ---- counts and order ---------------------------------------------------------------------------

#[test]
fn a_session_yields_the_events_that_redis_sends() -> Outcome {
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
    // An `Unsubscribe` stands behind everything that was queued when it was called.
    assert_eq!(drain(&sub), expected);
    Ok(())
}

#[test]
fn counts_include_channels_and_patterns() -> Outcome {
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
fn a_new_subscriber_yields_the_event_of_its_first_subscription() -> Outcome {
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
fn repeated_calls_emit_events_with_the_unchanged_count() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    // Names that are not held, first when nothing is held and then when something is.
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("a*")), (0, 0));
    assert_eq!((sub.subscribe("a")?, sub.subscribe("a")?), (1, 1));
    assert_eq!((sub.psubscribe("a*")?, sub.psubscribe("a*")?), (2, 2));
    assert_eq!((sub.unsubscribe("b"), sub.punsubscribe("b*")), (2, 2));
    assert_eq!(sub.subscribe_many(["b", "a", "b"])?, 3);
    assert_eq!(sub.psubscribe_many(["b*", "a*", "b*"])?, 4);
    // A channel is not the pattern of the same text.
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
fn unsubscribing_from_all_emits_one_event_per_name_in_the_order_subscribed() -> Outcome {
    let bus = bus();
    let sub = bus.subscriber();
    assert_eq!((sub.unsubscribe_all(), sub.punsubscribe_all()), (0, 0));
    assert_eq!(drain(&sub), [""; 0], "none where none is held");

    // Many names in an unsorted order, one of which is given up and subscribed again.
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
fn one_text_in_two_dialects_emits_an_event_for_each() -> Outcome {
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

#[cfg(feature = "glob")]
#[test]
fn events_distinguish_two_dialects_of_one_text() -> Outcome {
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
fn a_refused_subscribe_emits_nothing() -> Outcome {
    let limits = fanout::Limits::default().max_channel_len(3).max_subscriptions(2);
    let bus: Bus<u32> = Bus::builder().limits(limits).build();
    let sub = bus.subscribe("a")?;
    assert!(matches!(sub.subscribe("long"), Err(SubscribeError::ChannelTooLong { limit: 3, .. })));
    let refused = sub.subscribe_many(["b", "c"]);
    assert!(matches!(refused, Err(SubscribeError::TooManySubscriptions { limit: 2, .. })));
    assert_eq!(drain(&sub), ["subscribe a 1"]);
    Ok(())
}

#[test]
fn a_clone_subscribes_for_all_clones() -> Outcome {
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

// ---- between messages ---------------------------------------------------------------------------

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
fn unsubscribe_follows_the_messages_that_were_queued() -> Outcome {
    let bus = bus();
    let sub = bus.subscribe("a")?;
    sub.subscribe("b")?;
    bus.publish("a", 1u32);
    bus.publish("b", 2u32);
    sub.unsubscribe("a");
    // Queued behind the `Unsubscribe`.
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
fn unsubscribe_does_not_wait_for_evicted_messages() -> Outcome {
    let bus = bus();
    let sub = small(&bus, 2, Overflow::DropOldest);
    sub.subscribe_many(["a", "b"])?;
    assert_eq!(drain(&sub).len(), 2);
    bus.publish("a", 1u32);
    bus.publish("a", 2u32);
    sub.unsubscribe("a");
    // a1 is evicted: only a2 has to precede the event.
    bus.publish("b", 3u32);
    assert_eq!(drain(&sub), ["lagged 1", "message a 2", "unsubscribe a 1", "message b 3"]);

    sub.subscribe("a")?;
    bus.publish("a", 4u32);
    bus.publish("a", 5u32);
    sub.unsubscribe("a");
    bus.publish("b", 6u32);
    bus.publish("b", 7u32);
    // None of the messages that preceded the event is left.
    let expected = ["lagged 2", "subscribe a 2", "unsubscribe a 1", "message b 6", "message b 7"];
    assert_eq!(drain(&sub), expected);
    assert_books(&sub, 7);
    Ok(())
}

#[test]
fn subscribe_follows_the_messages_that_were_queued() -> Outcome {
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
    // The messages that preceded the events are evicted, so the events are due at once.
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
fn events_of_patterns_and_repeated_calls_stand_where_they_were_called() -> Outcome {
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
fn unsubscribing_and_subscribing_again_emits_both_events_in_place() -> Outcome {
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
fn receives_yield_lagged_events_messages_and_closed_in_this_order() -> Outcome {
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

// ---- no capacity taken, none lost -------------------------------------------------------------------

#[test]
fn events_take_no_capacity_and_are_never_lost() -> Outcome {
    let policies =
        [Overflow::DropOldest, Overflow::DropNewest, Overflow::Conflate, Overflow::Disconnect];
    for overflow in policies {
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
fn events_survive_overflow_and_disconnection() -> Outcome {
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
fn closing_emits_no_events() -> Outcome {
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
        // Calls after the close emit nothing either.
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
fn silenced_events_are_not_emitted() -> Outcome {
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

// ---- ways to receive -----------------------------------------------------

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
    // The iterator found the inbox empty, and can continue.
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
fn recv_message_skips_events() -> Outcome {
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
    // Events that were skipped are gone.
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
fn receiver_yields_messages_only_and_events_are_kept() -> Outcome {
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
    // The iterators end when the subscriber is closed and drained, not when nothing is subscribed any more.
    sub.unsubscribe("a");
    sub.subscribe("b")?;
    bus.close();
    assert_eq!((&sub).into_iter().count(), 2);
    assert_eq!(sub.into_iter().count(), 0);
    Ok(())
}
