//! Closing: from then on, publishing matches nothing, and every subscriber drains what it has and then gets
//! `Closed` for good.

mod support;

use std::sync::{Arc, mpsc};
use std::thread;

use fanout::{
    Bus, CloseReason, Event, Message, Overflow, Receipt, RecvError, SubscribeError, Subscriber,
};
use support::{
    assert_books, assert_ended, assert_holds_nothing, let_it_wait, payloads, silent, sorted,
    watched,
};

#[track_caller]
fn assert_bus_is_closed(bus: &Bus<u32>) {
    assert!(bus.is_closed());
    assert_eq!(bus.publish("c", 9u32), Receipt::default());
    assert_eq!(bus.publish_with("c", || panic!("it ran")), Receipt::default());
    assert_eq!(bus.try_publish_with("c", || Err("it ran")), Ok(Receipt::default()));
    assert_eq!(bus.match_count("c"), 0);
    assert_eq!(bus.subscriber_count("c"), 0);
    let topic = bus.topic("c");
    assert_eq!(topic.publish(9u32), Receipt::default());
    assert_eq!((topic.match_count(), topic.subscriber_count()), (0, 0));
    assert_eq!(bus.subscribe("c").err(), Some(SubscribeError::Closed));
    assert_eq!(bus.psubscribe("c*").err(), Some(SubscribeError::Closed));
    let refused = silent(bus).label("late").subscribe("c");
    assert_eq!(refused.err(), Some(SubscribeError::Closed));
    let late = bus.subscriber();
    assert!(late.is_closed());
    assert_eq!(late.close_reason(), Some(CloseReason::Bus));
    assert_ended(&late);
    assert_holds_nothing(&late);
}

// ---- by bus.close() -----------------------------------------------------------------------------

#[test]
fn closing_the_bus_closes_every_handle_and_subscriber() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let other = bus.clone();
        let topic = bus.topic("c");
        let exact = silent(&bus).subscribe("c").unwrap();
        let pattern = silent(&bus).psubscribe("c*").unwrap();
        let empty = silent(&bus).subscribe("c").unwrap();
        let nothing_subscribed = bus.subscriber();
        bus.publish("c", 1u32);
        topic.publish(2u32);
        payloads(&empty);
        assert!(!bus.is_closed());
        assert!(!exact.is_closed());
        assert_eq!(exact.close_reason(), None);

        bus.close();
        assert_bus_is_closed(&bus);
        assert_bus_is_closed(&other);
        assert_eq!(topic.publish(9u32), Receipt::default());
        assert_eq!(topic.publish_with(|| panic!("it ran")), Receipt::default());
        assert_eq!(topic.try_publish_with(|| Err("it ran")), Ok(Receipt::default()));
        assert_eq!((topic.match_count(), topic.subscriber_count()), (0, 0));
        assert_eq!(topic.channel(), "c");
        for sub in [&exact, &pattern, &empty, &nothing_subscribed] {
            assert!(sub.is_closed());
            assert!(sub.clone().is_closed());
            assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
            assert_holds_nothing(sub);
        }
        // The messages that were queued can still be read.
        assert_eq!((exact.len(), pattern.len(), empty.len()), (2, 2, 0));
        assert_eq!(payloads(&exact), [1, 2]);
        assert_eq!(pattern.messages().map(|message| message.payload).collect::<Vec<_>>(), [1, 2]);
        for sub in [&exact, &pattern, &empty, &nothing_subscribed] {
            assert_ended(sub);
        }
        assert_books(&exact, 2);
        assert_books(&pattern, 2);
    });
}

#[test]
fn closing_the_bus_removes_every_name_and_count() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    assert_eq!(sorted(bus.channels()), ["c".into()]);
    bus.publish("c", 1u32);
    bus.close();
    assert!(bus.channels().is_empty());
    assert!(bus.channels_matching("*").is_empty());
    assert_eq!((bus.subscriber_count("c"), bus.match_count("c"), bus.pattern_count()), (0, 0, 0));
    assert!(bus.subscribers().is_empty());
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    assert_eq!((stats.published, stats.matched, stats.delivered), (1, 2, 2));
}

#[test]
fn closing_emits_no_events_and_keeps_pending_ones() {
    watched(|| {
        let close_bus = |bus: &Bus<u32>, _: &Subscriber<u32>| bus.close();
        let close_sub = |_: &Bus<u32>, sub: &Subscriber<u32>| sub.close();
        for close in [close_bus, close_sub] {
            let bus: Bus<u32> = Bus::builder().capacity(2).build();
            let sub = bus.subscribe("c").unwrap();
            sub.psubscribe("c*").unwrap();
            sub.subscribe("d").unwrap();
            bus.publish("d", 1u32);
            bus.publish("d", 2u32);
            sub.unsubscribe("d");
            bus.publish("c", 3u32);
            close(&bus, &sub);
            let events: Vec<Event<u32>> = sub.iter().collect();
            assert_eq!(
                events,
                [
                    // 1 and 2 made room for 3, which came once for each matching subscription.
                    Event::Lagged { missed: 2 },
                    Event::Subscribe { channel: "c".into(), count: 1 },
                    Event::PSubscribe { pattern: "c*".into(), count: 2 },
                    Event::Subscribe { channel: "d".into(), count: 3 },
                    Event::Unsubscribe { channel: "d".into(), count: 2 },
                    Event::Message(Message::new("c", 3)),
                    Event::PMessage(Message::new("c", 3).with_pattern("c*")),
                ]
            );
            assert_ended(&sub);
        }
    });
}

#[test]
fn lagged_comes_before_closed_even_when_no_message_follows() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(1).overflow(Overflow::DropNewest).subscribe("c").unwrap();
    bus.publish("c", 1u32);
    bus.publish("c", 2u32);
    bus.publish("c", 3u32);
    assert_eq!(sub.receiver().recv().unwrap().payload, 1);
    bus.close();
    assert_eq!(sub.recv(), Ok(Event::Lagged { missed: 2 }));
    assert_ended(&sub);
}

#[test]
fn closing_again_does_nothing() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", 1u32);
        bus.close();
        bus.clone().close();
        sub.close();
        bus.close();
        assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
        assert_eq!(payloads(&sub), [1]);
        assert_ended(&sub);
        drop(bus);
        assert_ended(&sub);
    });
}

#[test]
fn closing_one_bus_leaves_another_open() {
    let one: Bus<u32> = Bus::new();
    let other: Bus<u32> = Bus::new();
    let subs = [one.subscribe("c").unwrap(), other.subscribe("c").unwrap()];
    one.close();
    assert!(subs[0].is_closed());
    assert!(!subs[1].is_closed());
    assert_eq!(other.publish("c", 1u32).delivered, 1);
}

// ---- by dropping handles to the bus -------------------------------------------------------------

#[test]
fn dropping_the_last_bus_and_topic_closes_the_bus() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let other = bus.clone();
        let weak = bus.downgrade();
        let sub = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", 1u32);
        drop(bus);
        assert!(!sub.is_closed());
        other.publish("c", 2u32);
        let topic = other.topic("c");
        drop(other);
        // A topic of any channel keeps the bus open, and so do its clones.
        assert!(!sub.is_closed());
        assert_eq!(topic.publish(3u32).delivered, 1);
        let copy = topic.clone();
        drop(topic);
        assert_eq!(copy.publish(4u32).delivered, 1);
        assert_eq!(sub.subscribe("d"), Ok(2));
        assert!(!sub.is_closed());
        let found = weak.upgrade().expect("a topic keeps the bus open");
        assert_eq!(found.publish("d", 5u32).delivered, 1);
        drop(copy);
        assert!(!sub.is_closed(), "what was upgraded keeps it open");
        drop(found);

        assert!(sub.is_closed());
        assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
        assert!(weak.upgrade().is_none());
        assert!(weak.clone().upgrade().is_none());
        assert_holds_nothing(&sub);
        assert_eq!(payloads(&sub), [1, 2, 3, 4, 5]);
        assert_ended(&sub);
    });
}

#[test]
fn subscribers_builders_listeners_and_weak_handles_do_not_keep_the_bus_open() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let weak = bus.downgrade();
        let sub = silent(&bus).subscribe("c").unwrap();
        let copy = sub.clone();
        let builder = bus.subscriber_builder();
        let (tell, told) = mpsc::channel();
        let listener = sub.spawn("listens", move |event| tell.send(event).unwrap());
        drop(bus);
        assert!(copy.is_closed());
        assert!(weak.upgrade().is_none());
        listener.join().unwrap();
        assert!(told.recv().is_err());
        let late = builder.build();
        assert!(late.is_closed());
        assert_ended(&late);
    });
}

#[test]
fn a_handler_that_owns_a_bus_keeps_it_open_and_one_with_a_weak_handle_does_not() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let replies = silent(&bus).subscribe("replies").unwrap();
        let owned = bus.clone();
        let strong = silent(&bus).subscribe("strong").unwrap().spawn("strong", move |event| {
            owned.publish("replies", event.into_message().unwrap().payload);
        });
        let weak = bus.downgrade();
        let weak = silent(&bus).subscribe("weak").unwrap().spawn("weak", move |event| {
            let bus = weak.upgrade().expect("still open");
            bus.publish("replies", event.into_message().unwrap().payload);
        });
        bus.publish("weak", 1u32);
        assert_eq!(replies.recv_message().unwrap().payload, 1);
        let topic = bus.topic("strong");
        drop(bus);
        topic.publish(2u32);
        assert_eq!(replies.recv_message().unwrap().payload, 2);
        drop(topic);
        // Only the handle of the strong handler is left.
        assert!(!replies.is_closed());
        strong.stop();
        strong.join().unwrap();
        assert_eq!(replies.recv_message(), Err(RecvError::Closed));
        weak.join().unwrap();
    });
}

#[test]
fn a_weak_handle_upgrades_to_a_closed_bus_while_that_is_held() {
    let bus: Bus<u32> = Bus::new();
    let weak = bus.downgrade();
    bus.close();
    assert!(weak.upgrade().is_some_and(|bus| bus.is_closed()));
    drop(bus);
    assert!(weak.upgrade().is_none());
}

// ---- one subscriber -----------------------------------------------------------------------------

#[test]
fn closing_a_subscriber_unsubscribes_it_everywhere_for_all_its_clones() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        let copy = sub.clone();
        let other = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", 1u32);
        copy.close();
        assert!(sub.is_closed() && copy.is_closed());
        assert_eq!(sub.close_reason(), Some(CloseReason::Subscriber));
        assert_holds_nothing(&sub);
        assert_eq!((bus.subscriber_count("c"), bus.pattern_count()), (1, 0));
        assert_eq!(bus.stats().subscribers, 1);
        assert_eq!(bus.publish("c", 2u32).matched, 1);
        assert_eq!(payloads(&sub), [1, 1]);
        assert_ended(&sub);
        assert_ended(&copy);
        assert_books(&sub, 2);

        assert!(!bus.is_closed());
        assert!(!other.is_closed());
        assert_eq!(payloads(&other), [1, 2]);
        // Closing it again, or its bus, changes nothing.
        sub.close();
        bus.close();
        assert_eq!(sub.close_reason(), Some(CloseReason::Subscriber));
        assert_eq!(other.close_reason(), Some(CloseReason::Bus));
    });
}

#[test]
fn dropping_the_last_clone_unsubscribes_it_everywhere() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    sub.subscribe("d").unwrap();
    let clones: Vec<_> = (0..5).map(|_| sub.clone()).collect();
    drop(sub);
    for copy in clones {
        assert_eq!(bus.match_count("c"), 2);
        assert_eq!(bus.channels().len(), 2);
        assert_eq!(bus.stats().subscribers, 1);
        drop(copy);
    }
    assert_eq!(bus.match_count("c"), 0);
    assert_eq!(bus.publish("c", 1u32), Receipt::default());
    assert!(bus.channels().is_empty());
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    assert!(bus.subscribers().is_empty());
}

#[test]
fn a_receiver_that_outlives_its_subscriber_is_disconnected() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        bus.publish("c", 1u32);
        let receiver = sub.receiver().clone();
        let blocked = thread::spawn(move || receiver.iter().count());
        let_it_wait();
        drop(sub);
        assert!(blocked.join().unwrap() <= 2);
        assert_eq!(bus.publish("c", 2u32), Receipt::default());
    });
}

#[test]
fn a_topic_keeps_its_channel_without_listing_it() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let topic = bus.topic("c");
        assert!(bus.channels().is_empty());
        assert_eq!(bus.stats().channels, 0);
        for n in 0..100 {
            let sub = silent(&bus).subscribe("c").unwrap();
            assert_eq!(topic.publish(n).delivered, 1);
            assert_eq!(bus.publish("c", n).delivered, 1);
            assert_eq!(bus.channels().len(), 1);
            assert_eq!(payloads(&sub), [n, n]);
            drop(sub);
            assert!(bus.channels().is_empty());
            assert_eq!(topic.publish(n), Receipt::default());
        }
        assert_eq!(bus.stats().published, 300);
    });
}

/// A thread may keep names of messages that it dropped recently, but not names as long as these.
#[test]
fn long_names_are_freed_with_their_last_holder() -> Result<(), Box<dyn std::error::Error>> {
    let bus: Bus<u32> = Bus::new();
    let name = format!("a{}", "b".repeat(1 << 11));
    let pattern = format!("a*{}", "*b".repeat(1 << 10));
    let builder = || bus.subscriber_builder().lifecycle_events(false);
    let (exact, matching) = (builder().subscribe(&name)?, builder().psubscribe(pattern.as_str())?);
    (0..4).for_each(|n| _ = bus.publish(&name, n as u32));
    let (channel, _, _) = exact.recv_message()?.into_parts();
    let (_, pattern, _) = matching.recv_message()?.into_parts();
    for _ in 0..3 {
        exact.recv_message()?;
        matching.recv_message()?;
    }
    let weak = (Arc::downgrade(&channel), pattern.as_ref().map(Arc::downgrade));
    drop((channel, pattern, exact, matching, bus));
    assert_eq!((weak.0.strong_count(), weak.1.map(|weak| weak.strong_count())), (0, Some(0)));
    Ok(())
}
