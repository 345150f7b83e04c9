//! Closing: whoever closes, publishing matches nothing from then on, every subscriber drains what it has
//! and then gets `Closed` for good, every waiting receive wakes up, and nobody waits for a publish.

mod support;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::crossbeam_channel::{self, Select, select};
use fanout::{
    Bus, CloseReason, Event, Message, Overflow, Receipt, RecvError, RecvTimeoutError,
    SubscribeError, Subscriber, TryRecvError, WeakBus,
};
use support::{
    Gate, Hooked, Stop, WATCHDOG, assert_books, drain, eventually, let_it_wait, linger, silent,
    sorted, step, watched,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// It is closed and drained, whichever way it is asked, and however often.
#[track_caller]
fn assert_ended<P: Clone + Send + 'static>(sub: &Subscriber<P>) {
    for _ in 0..2 {
        assert_eq!(sub.try_recv().err(), Some(TryRecvError::Closed));
        assert_eq!(sub.recv().err(), Some(RecvError::Closed));
        assert_eq!(sub.recv_timeout(HOUR).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_timeout(Duration::ZERO).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_deadline(Instant::now()).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_message().err(), Some(RecvError::Closed));
        assert_eq!(sub.try_recv_message().err(), Some(TryRecvError::Closed));
        assert_eq!(sub.recv_message_timeout(HOUR).err(), Some(RecvTimeoutError::Closed));
        let deadline = Instant::now() + HOUR;
        assert_eq!(sub.recv_message_deadline(deadline).err(), Some(RecvTimeoutError::Closed));
        assert!(sub.iter().next().is_none());
        assert!(sub.try_iter().next().is_none());
        assert!(sub.messages().next().is_none());
        assert!(sub.try_messages().next().is_none());
        assert!(sub.clone().into_messages().next().is_none());
        assert!(sub.into_iter().next().is_none());
        assert!(sub.clone().into_iter().next().is_none());
    }
}

/// The end is seen by `receiver()` too, when nobody publishes any more: no sender is left.
#[track_caller]
fn assert_disconnected(sub: &Subscriber<u32>, what: &str) {
    let receiver = sub.receiver();
    while receiver.try_recv().is_ok() {}
    let end = receiver.try_recv();
    assert_eq!(end, Err(crossbeam_channel::TryRecvError::Disconnected), "{what}");
}

/// Nothing can be subscribed any more, and nothing is held.
#[track_caller]
fn assert_holds_nothing<P: Clone + Send + 'static>(sub: &Subscriber<P>) {
    assert_eq!(sub.subscribe("more"), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe("more*"), Err(SubscribeError::Closed));
    assert_eq!(sub.subscribe_many(["more", "and more"]), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe_many(["more*", "and more*"]), Err(SubscribeError::Closed));
    assert_eq!(sub.resubscribe().err(), Some(SubscribeError::Closed));
    assert_eq!(sub.unsubscribe("c"), 0);
    assert_eq!(sub.unsubscribe("never held"), 0);
    assert_eq!(sub.punsubscribe("c*"), 0);
    assert_eq!(sub.unsubscribe_all(), 0);
    assert_eq!(sub.punsubscribe_all(), 0);
    assert!(sub.channels().is_empty());
    assert!(sub.patterns().is_empty());
    assert_eq!((sub.info().channels, sub.info().patterns), (0, 0));
}

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

#[test]
fn closing_the_bus_ends_everything_for_all_its_handles() {
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
        drain(&empty);
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
        // What was there can still be read.
        assert_eq!((exact.len(), pattern.len(), empty.len()), (2, 2, 0));
        assert_eq!(drain(&exact), [1, 2]);
        assert_eq!(pattern.messages().map(|message| message.payload).collect::<Vec<_>>(), [1, 2]);
        for sub in [&exact, &pattern, &empty, &nothing_subscribed] {
            assert_ended(sub);
        }
        assert_books(&exact, 2);
        assert_books(&pattern, 2);
    });
}

#[test]
fn closing_emits_no_events_and_keeps_those_that_are_pending() {
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
                    // 1 and 2 made room for 3, which came once for each subscription.
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
fn a_loss_is_told_of_before_closed_even_when_no_message_follows() {
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
fn the_last_bus_and_topic_dropped_close_it() {
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
        // A topic keeps it open, of another channel too, and so do its clones.
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
        assert_eq!(drain(&sub), [1, 2, 3, 4, 5]);
        assert_ended(&sub);
    });
}

#[test]
fn subscribers_builders_listeners_and_weak_handles_do_not_keep_it_open() {
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
        // The strong handler's bus is all that is left.
        assert!(!replies.is_closed());
        strong.stop();
        strong.join().unwrap();
        assert_eq!(replies.recv_message(), Err(RecvError::Closed));
        weak.join().unwrap();
    });
}

#[test]
fn a_weak_handle_to_a_closed_bus_that_is_still_held_gives_it_closed() {
    let bus: Bus<u32> = Bus::new();
    let weak = bus.downgrade();
    bus.close();
    assert!(weak.upgrade().is_some_and(|bus| bus.is_closed()));
    drop(bus);
    assert!(weak.upgrade().is_none());
}

#[test]
fn upgrading_while_the_last_handle_goes_is_all_or_nothing() {
    watched(|| {
        for _ in 0..500 {
            step();
            let bus: Bus<u32> = Bus::new();
            let weak = bus.downgrade();
            let sub = silent(&bus).subscribe("c").unwrap();
            let start = Barrier::new(2);
            thread::scope(|scope| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    drop(bus);
                });
                start.wait();
                if let Some(bus) = weak.upgrade() {
                    assert!(!bus.is_closed());
                    assert_eq!(bus.publish("c", 1u32).delivered, 1);
                }
            });
            assert!(weak.upgrade().is_none());
            drain(&sub);
            assert_ended(&sub);
        }
    });
}

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
        assert_eq!(drain(&sub), [1, 1]);
        assert_ended(&sub);
        assert_ended(&copy);
        assert_books(&sub, 2);

        assert!(!bus.is_closed());
        assert!(!other.is_closed());
        assert_eq!(drain(&other), [1, 2]);
        // Again, and by the bus: nothing changes.
        sub.close();
        bus.close();
        assert_eq!(sub.close_reason(), Some(CloseReason::Subscriber));
        assert_eq!(other.close_reason(), Some(CloseReason::Bus));
    });
}

#[test]
fn the_last_clone_dropped_unsubscribes_it_everywhere() {
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
fn a_topic_pins_its_channel_and_does_not_list_it() {
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
            assert_eq!(drain(&sub), [n, n]);
            drop(sub);
            assert!(bus.channels().is_empty());
            assert_eq!(topic.publish(n), Receipt::default());
        }
        assert_eq!(bus.stats().published, 300);
    });
}

/// A way to wait for what a subscriber yields until its end; gives the number of messages.
type Waiter = fn(Subscriber<u32>) -> usize;

const WAITERS: [(&str, Waiter); 16] = [
    ("recv", |sub| std::iter::from_fn(|| sub.recv().ok()).count()),
    ("recv_timeout", |sub| std::iter::from_fn(|| sub.recv_timeout(HOUR).ok()).count()),
    ("recv_deadline", |sub| {
        std::iter::from_fn(|| sub.recv_deadline(Instant::now() + HOUR).ok()).count()
    }),
    ("endless recv_timeout", |sub| {
        std::iter::from_fn(|| sub.recv_timeout(Duration::MAX).ok()).count()
    }),
    ("recv_message", |sub| std::iter::from_fn(|| sub.recv_message().ok()).count()),
    ("recv_message_timeout", |sub| {
        std::iter::from_fn(|| sub.recv_message_timeout(HOUR).ok()).count()
    }),
    ("recv_message_deadline", |sub| {
        std::iter::from_fn(|| sub.recv_message_deadline(Instant::now() + HOUR).ok()).count()
    }),
    ("iter", |sub| sub.iter().count()),
    ("messages", |sub| sub.messages().count()),
    ("into_messages", |sub| sub.into_messages().count()),
    ("into_iter", |sub| sub.into_iter().count()),
    ("receiver().recv()", |sub| std::iter::from_fn(|| sub.receiver().recv().ok()).count()),
    ("receiver().recv_timeout()", |sub| {
        std::iter::from_fn(|| sub.receiver().recv_timeout(HOUR).ok()).count()
    }),
    ("select!", |sub| {
        let never = crossbeam_channel::never::<()>();
        let mut messages = 0;
        loop {
            select! {
                recv(sub.receiver()) -> message => match message {
                    Ok(_) => messages += 1,
                    Err(_) => return messages,
                },
                recv(never) -> _ => unreachable!(),
            }
        }
    }),
    ("Select", |sub| {
        let mut select = Select::new();
        select.recv(sub.receiver());
        std::iter::from_fn(|| select.select().recv(sub.receiver()).ok()).count()
    }),
    ("a listener", |sub| {
        let (tell, told) = mpsc::channel();
        sub.spawn("waits", move |event| tell.send(event).unwrap()).join().unwrap();
        told.iter().count()
    }),
];

/// A way to end it. The subscriber given keeps living meanwhile.
type Closer = fn(Bus<u32>, &Subscriber<u32>);

const CLOSERS: [(&str, Closer); 4] = [
    ("bus.close()", |bus, _| {
        bus.close();
        // Not by being dropped.
        std::mem::forget(bus);
    }),
    ("the last bus dropped", |bus, _| drop(bus)),
    ("the last topic dropped", |bus, _| {
        let topic = bus.topic("c");
        drop(bus);
        drop(topic);
    }),
    ("sub.close()", |bus, sub| {
        sub.close();
        std::mem::forget(bus);
    }),
];

#[test]
fn every_waiting_receive_wakes_drains_and_ends() {
    for (waiter, wait) in WAITERS {
        watched(move || {
            for (closer, close) in CLOSERS {
                for messages in [0u32, 1, 3] {
                    step();
                    for subscribe in ["exact", "pattern", "nothing"] {
                        let bus: Bus<u32> = Bus::new();
                        let sub = silent(&bus).build();
                        match subscribe {
                            "exact" => _ = sub.subscribe("c").unwrap(),
                            "pattern" => _ = sub.psubscribe("c*").unwrap(),
                            _ if messages > 0 => continue,
                            _ => {}
                        }
                        let copy = sub.clone();
                        let (begin, begun) = mpsc::channel();
                        let thread = thread::spawn(move || {
                            begin.send(()).unwrap();
                            wait(copy)
                        });
                        begun.recv().unwrap();
                        if messages != 1 {
                            // Once with a thread that most likely sleeps, once in a race.
                            let_it_wait();
                        }
                        for n in 0..messages {
                            bus.publish("c", n);
                        }
                        close(bus, &sub);
                        let got = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                        let what = (waiter, closer, subscribe);
                        assert_eq!(got, messages as usize, "{what:?}");
                        assert!(sub.is_closed(), "{what:?}");
                        assert_ended(&sub);
                    }
                }
            }
        });
    }
}

#[test]
fn all_clones_that_wait_wake_up() {
    watched(|| {
        for (_, close) in CLOSERS {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let waiters: Vec<_> = WAITERS
                .into_iter()
                .map(|(_, wait)| {
                    let sub = sub.clone();
                    thread::spawn(move || wait(sub))
                })
                .collect();
            let_it_wait();
            bus.publish("c", 1u32);
            close(bus, &sub);
            let got: usize = waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum();
            assert_eq!(got, 1);
        }
    });
}

/// What is delivered is drained, then `Closed` is for good, while publishers go on.
#[test]
fn closed_is_for_good_under_concurrent_publishers() {
    watched(|| {
        let mut reached = 0;
        for round in 0..48 {
            step();
            let bus: Bus<u32> = Bus::builder().capacity(8).build();
            let overflow = [Overflow::DropOldest, Overflow::DropNewest][round % 2];
            let sub = match round % 4 {
                0 | 1 => silent(&bus).overflow(overflow).subscribe("c"),
                _ => silent(&bus).overflow(overflow).psubscribe("c*"),
            }
            .unwrap();
            let stop = Stop::default();
            thread::scope(|scope| {
                let _stop = stop.at_last();
                let publishers: Vec<_> = (0..2)
                    .map(|publisher| {
                        let (bus, stop) = (&bus, &stop);
                        scope.spawn(move || {
                            let topic = bus.topic("c");
                            let mut matched = 0;
                            while !stop.is_near() {
                                let receipt = match publisher {
                                    0 => topic.publish(7u32),
                                    _ => bus.publish("c", 7u32),
                                };
                                assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
                                matched += receipt.matched as u64;
                            }
                            matched
                        })
                    })
                    .collect();
                let reader = scope.spawn(|| {
                    let received = sub.messages().count() as u64;
                    for _ in 0..1_000 {
                        assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
                    }
                    assert_ended(&sub);
                    received
                });
                match round % 5 {
                    0 => eventually("a publish is matched", || bus.stats().matched > 0),
                    amount => linger(amount),
                }
                match round % 3 {
                    0 => sub.close(),
                    _ => bus.close(),
                }
                let received = reader.join().unwrap();
                stop.now();
                let matched = publishers.into_iter().map(|thread| thread.join().unwrap()).sum();
                reached += matched;
                // What entered behind the end is in the depth, if anything is.
                assert_eq!(sub.info().received, received);
                assert_books(&sub, matched);
                let stats = bus.stats();
                assert_eq!(stats.matched, matched);
                assert_eq!(stats.matched, stats.delivered + stats.dropped);
            });
        }
        assert!(reached > 0, "no publish came before its close");
    });
}

/// Everything that was published before the close, by a thread that the closing one has heard from, is
/// drained.
#[test]
fn what_was_published_before_is_drained() {
    watched(|| {
        for _ in 0..200 {
            step();
            let bus: Bus<u32> = Bus::new();
            let subs =
                [silent(&bus).subscribe("c").unwrap(), silent(&bus).psubscribe("c").unwrap()];
            thread::scope(|scope| {
                let readers = subs.each_ref().map(|sub| scope.spawn(|| sub.messages().count()));
                for n in 0..20u32 {
                    bus.publish("c", n);
                }
                bus.close();
                for reader in readers {
                    assert_eq!(reader.join().unwrap(), 20);
                }
            });
        }
    });
}

/// A publish that stands still in its turn, the payload's `Clone` waiting for something.
#[test]
fn closing_waits_for_no_publish() {
    watched(|| {
        // Who is served by it: `first` before the clone that waits, `last` after it. `aside` is reached
        // by the pattern that the waiting publish holds, on another channel.
        for by_pattern in [false, true] {
            for last_handle in [false, true] {
                let bus: Bus<Hooked> = Bus::new();
                let subscribe = || match by_pattern {
                    false => silent(&bus).subscribe("c").unwrap(),
                    true => silent(&bus).psubscribe("c*").unwrap(),
                };
                let (first, last) = (subscribe(), subscribe());
                let aside = silent(&bus).subscribe("cc").unwrap();
                aside.psubscribe("c*").unwrap();
                let gate = Gate::new();
                let _open = gate.open_at_last();
                let publisher = thread::spawn({
                    let (bus, gate) = (bus.clone(), gate.clone());
                    move || {
                        let passing = gate.clone();
                        bus.publish("c", Hooked::on_clone(1, move || passing.pass()))
                    }
                });
                gate.await_arrivals(1);

                let raw: Vec<_> = [&first, &last, &aside]
                    .map(|sub| {
                        let receiver = sub.receiver().clone();
                        thread::spawn(move || receiver.iter().count())
                    })
                    .into_iter()
                    .collect();
                let closer = thread::spawn({
                    let bus = bus.clone();
                    move || {
                        bus.close();
                        // All this waits for nothing either.
                        assert_eq!(bus.publish("c", Hooked::plain(2)), Receipt::default());
                        assert_eq!(bus.publish("cc", Hooked::plain(2)), Receipt::default());
                        assert_eq!(bus.match_count("c"), 0);
                        assert_eq!(bus.subscribe("c").err(), Some(SubscribeError::Closed));
                    }
                });
                // Nothing but the gate holds the publisher, and it is shut.
                closer.join().unwrap_or_else(|panic| resume_unwind(panic));
                assert!(!publisher.is_finished());
                for sub in [&first, &last, &aside] {
                    assert!(sub.is_closed());
                }
                if last_handle {
                    drop(bus);
                }

                gate.open();
                let receipt = publisher.join().unwrap();
                assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
                let mut read = 0;
                for thread in raw {
                    // Disconnected: no sender is left.
                    read += thread.join().unwrap();
                }
                for sub in [first, last, aside] {
                    read += sub.messages().count();
                    assert_ended(&sub);
                    read += sub.len();
                }
                assert_eq!(read, receipt.delivered);
            }
        }
    });
}

#[test]
fn a_closed_bus_holds_nothing_though_a_publish_still_stands_in_its_turn() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let subs = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
        subs[1].psubscribe("c*").unwrap();
        let topic = bus.topic("c");
        let gate = Gate::new();
        let _open = gate.open_at_last();
        let publisher = thread::spawn({
            let (bus, gate) = (bus.clone(), gate.clone());
            move || bus.publish("c", Hooked::on_clone(1, move || gate.pass()))
        });
        gate.await_arrivals(1);
        bus.close();
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert!(bus.subscribers().is_empty());
        assert_eq!((bus.match_count("c"), bus.pattern_count()), (0, 0));
        assert_eq!(bus.channels(), []);
        assert_eq!(bus.subscriber_count("c"), 0);
        assert_eq!(topic.subscriber_count(), 0);
        for sub in &subs {
            assert!(sub.channels().is_empty() && sub.patterns().is_empty());
        }
        gate.open();
        publisher.join().unwrap();
    });
}

#[test]
fn a_close_while_a_publish_waits_in_its_turn_lets_recv_end_at_once() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let first = silent(&bus).subscribe("c").unwrap();
        let last = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_at_last();
        let publisher = thread::spawn({
            let (bus, gate) = (bus.clone(), gate.clone());
            move || bus.publish("c", Hooked::on_clone(1, move || gate.pass()))
        });
        gate.await_arrivals(1);
        let blocked = thread::spawn({
            let last = last.clone();
            move || last.recv().is_err()
        });
        let_it_wait();
        bus.close();
        // The gate is still shut.
        assert!(blocked.join().unwrap());
        assert!(first.recv().is_err());
        gate.open();
        publisher.join().unwrap();
        assert_ended(&first);
        assert_ended(&last);
    });
}

/// Raw receivers of pattern subscribers are disconnected however many look in while the bus closes.
#[test]
fn receivers_are_disconnected_though_others_look_in_while_the_bus_closes() {
    type Look = fn(&Bus<u32>, &[Subscriber<u32>]);
    let looks: [(&str, Look); 4] = [
        ("match_count", |bus, _| assert!(bus.match_count("card never seen") <= 2_000)),
        ("publish", |bus, _| assert!(bus.publish("card", 1u32).matched <= 2_000)),
        ("subscribers", |bus, _| drop(bus.subscribers())),
        ("info", |_, subs| subs.iter().for_each(|sub| drop(sub.info()))),
    ];
    for (what, look) in looks {
        watched(move || {
            for round in 0..20 {
                step();
                let bus: Bus<u32> = Bus::builder().capacity(1).build();
                let subs: Vec<_> = (0..2_000)
                    .map(|_| silent(&bus).dedupe(true).psubscribe("car*").unwrap())
                    .collect();
                let stop = Stop::default();
                let begun = Barrier::new(2);
                thread::scope(|scope| {
                    let _stop = stop.at_last();
                    scope.spawn(|| {
                        begun.wait();
                        while !stop.is_near() {
                            look(&bus, &subs);
                        }
                    });
                    begun.wait();
                    linger(round);
                    bus.close();
                    stop.now();
                });
                for sub in &subs {
                    assert_disconnected(sub, what);
                }
            }
        });
    }
}

/// The same while subscribers of the pattern come and go.
#[test]
fn receivers_are_disconnected_though_others_come_and_go_while_the_bus_closes() {
    watched(|| {
        for round in 0..100 {
            step();
            let bus: Bus<u32> = Bus::builder().capacity(1).build();
            let steady: Vec<_> = (0..200)
                .map(|n| match n % 2 {
                    0 => silent(&bus).psubscribe("car*").unwrap(),
                    _ => silent(&bus).subscribe("card").unwrap(),
                })
                .collect();
            let begun = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    begun.wait();
                    while !bus.is_closed() {
                        let many: Vec<_> =
                            (0..20).map_while(|_| silent(&bus).psubscribe("car*").ok()).collect();
                        drop(many);
                    }
                });
                begun.wait();
                linger(round);
                bus.close();
            });
            for sub in &steady {
                assert_disconnected(sub, "others came and went");
            }
        }
    });
}

/// A subscribe that overlaps the close is refused, or it is closed like those before.
#[test]
fn subscribing_while_the_bus_closes_ends_closed_either_way() {
    watched(|| {
        for round in 0..100 {
            step();
            let bus: Bus<u32> = Bus::builder().capacity(1).build();
            let start = Barrier::new(3);
            let (keep, kept) = mpsc::channel();
            thread::scope(|scope| {
                for way in 0..2 {
                    let (bus, start, keep) = (&bus, &start, keep.clone());
                    scope.spawn(move || {
                        let held = silent(bus).build();
                        start.wait();
                        for n in 0.. {
                            let one = match way {
                                0 => bus.subscribe("c"),
                                _ => bus.psubscribe("c*"),
                            };
                            let again = match way {
                                0 => held.subscribe(format!("c{n}")),
                                _ => held.psubscribe(format!("c{n}*")),
                            };
                            match one {
                                Ok(sub) => keep.send(sub).unwrap(),
                                Err(error) => assert_eq!(error, SubscribeError::Closed),
                            }
                            if again == Err(SubscribeError::Closed) {
                                break;
                            }
                            again.unwrap();
                        }
                        keep.send(held).unwrap();
                    });
                }
                start.wait();
                linger(round % 8);
                bus.close();
            });
            drop(keep);
            for sub in kept {
                assert!(sub.is_closed());
                assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
                assert!(sub.messages().next().is_none());
                assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
                assert_disconnected(&sub, "subscribed while it closed");
                assert_eq!(sub.subscribe("c"), Err(SubscribeError::Closed));
                assert_eq!((sub.unsubscribe_all(), sub.punsubscribe_all()), (0, 0));
            }
            let stats = bus.stats();
            assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
            assert_eq!(bus.match_count("c"), 0);
        }
    });
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
        assert_eq!(drain(&sub), [1]);
        assert_ended(&sub);
        drop(bus);
        assert_ended(&sub);
    });
}

#[test]
fn many_may_close_at_once() {
    watched(|| {
        for _ in 0..100 {
            step();
            let bus: Bus<u32> = Bus::new();
            let subs: Vec<_> = (0..10).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
            bus.publish("c", 1u32);
            thread::scope(|scope| {
                for n in 0..4 {
                    let (bus, subs) = (&bus, &subs);
                    scope.spawn(move || match n {
                        0 | 1 => bus.close(),
                        _ => subs.iter().for_each(Subscriber::close),
                    });
                }
            });
            for sub in &subs {
                assert!(sub.close_reason().is_some());
                assert_eq!(drain(sub), [1]);
                assert_ended(sub);
            }
        }
    });
}

/// A bus that is large takes a moment to close. Whoever closes it meanwhile finds it closed when that
/// returns.
#[test]
fn the_second_of_two_that_close_at_once_finds_it_closed_too() {
    watched(|| {
        for _ in 0..3 {
            let bus: Bus<u32> = Bus::builder().capacity(1).build();
            let many = silent(&bus).build();
            many.subscribe_many((0..30_000).map(|n| n.to_string())).unwrap();
            let others: Vec<_> = (0..1_000).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
            thread::scope(|scope| {
                scope.spawn(|| bus.close());
                eventually("the first has begun", || bus.is_closed());
                bus.close();
                for n in 0..500 {
                    let late = bus.subscribe(format!("late {n}"));
                    assert_eq!(late.err(), Some(SubscribeError::Closed));
                }
                for sub in &others {
                    assert_eq!(sub.subscribe("late"), Err(SubscribeError::Closed));
                    assert!(sub.is_closed());
                }
            });
        }
    });
}

#[test]
fn a_handler_may_close_its_subscriber_or_its_bus() {
    for (_, close) in CLOSERS {
        watched(move || {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let other = silent(&bus).subscribe("c").unwrap();
            let (tell, told) = mpsc::channel();
            let copy = sub.clone();
            let mut owned = Some(bus.clone());
            let listener = sub.spawn("closes", move |event| {
                if let Some(bus) = owned.take() {
                    close(bus, &copy);
                }
                tell.send(event.into_message().unwrap().payload).unwrap();
            });
            for n in 0..3u32 {
                bus.publish("c", n);
            }
            drop(bus);
            // It drains what it had, and ends.
            listener.join().unwrap();
            let told: Vec<u32> = told.iter().collect();
            assert!(told.starts_with(&[0]), "{told:?}");
            assert_ended(&sub);
            sub.close();
            drain(&other);
        });
    }
}

#[test]
fn closing_ends_a_publish_that_waits_for_room() {
    watched(|| {
        for (closer, close) in CLOSERS {
            if closer.starts_with("the last") {
                // A handle in use is not dropped.
                continue;
            }
            let bus: Bus<u32> = Bus::new();
            let block = Overflow::Block { timeout: None };
            let sub = silent(&bus).capacity(1).overflow(block).subscribe("c").unwrap();
            let pattern = silent(&bus).psubscribe("c*").unwrap();
            bus.publish("c", 1u32);
            let publisher = thread::spawn({
                let bus = bus.clone();
                move || bus.publish("c", 2u32)
            });
            // Those with room are served first.
            eventually("the second message has come", || pattern.len() == 2);
            let_it_wait();
            close(bus, &sub);
            let receipt = publisher.join().unwrap();
            assert_eq!(receipt, Receipt { matched: 2, delivered: 1, dropped: 1 }, "{closer}");
            assert_eq!(drain(&sub), [1]);
            assert_eq!(sub.missed(), 1);
            assert_ended(&sub);
            assert_books(&sub, 2);
        }
    });
}

#[test]
fn the_bus_of_another_payload_or_instance_stays_open() {
    let one: Bus<u32> = Bus::new();
    let other: Bus<u32> = Bus::new();
    let subs = [one.subscribe("c").unwrap(), other.subscribe("c").unwrap()];
    one.close();
    assert!(subs[0].is_closed());
    assert!(!subs[1].is_closed());
    assert_eq!(other.publish("c", 1u32).delivered, 1);
}

#[test]
fn every_name_and_count_is_gone_after_it() {
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
fn closing_returns_while_publishers_hammer() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let subs: Vec<_> = (0..10).map(|_| silent(&bus).psubscribe("*").unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let topic = bus.topic("c");
                    while topic.publish(1u32).matched > 0 {}
                });
            }
            let_it_wait();
            bus.close();
        });
        for sub in &subs {
            sub.messages().for_each(drop);
            assert_ended(sub);
            assert_disconnected(sub, "publishers hammered");
        }
    });
}

/// Says that a copy is being made, and waits until it may be.
type Gates = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// A payload whose first copy waits, once. When one is dropped, another thread looks whether the channel's turn is free.
struct Held {
    gate: Arc<Mutex<Option<Gates>>>,
    bus: WeakBus<Held>,
    in_turn: Arc<AtomicBool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade() else { return };
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            bus.match_count("a");
            _ = done.send(());
        });
        if is_done.recv_timeout(WATCHDOG).is_err() {
            self.in_turn.store(true, Ordering::SeqCst);
        }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        if let Some((reached, go)) = self.gate.lock().unwrap().take() {
            reached.send(()).unwrap();
            go.recv().unwrap();
        }
        let in_turn = Arc::clone(&self.in_turn);
        Self { gate: Arc::clone(&self.gate), bus: self.bus.clone(), in_turn }
    }
}

#[test]
fn one_of_several_that_is_closed_and_read_to_its_end_meanwhile_gets_nothing_and_counts_for_nothing()
{
    for subscribers in 2..5 {
        for ended in 1..subscribers {
            let bus: Bus<Held> = Bus::new();
            let subs: Vec<_> = (0..subscribers)
                .map(|_| bus.subscriber_builder().lifecycle_events(false).subscribe("a").unwrap())
                .collect();
            let ((reached, has_reached), (go, may_go)) = (mpsc::channel(), mpsc::channel());
            let gate = Arc::new(Mutex::new(Some((reached, may_go))));
            let in_turn = Arc::new(AtomicBool::new(false));
            let held = Held {
                gate: Arc::clone(&gate),
                bus: bus.downgrade(),
                in_turn: Arc::clone(&in_turn),
            };
            let receipt = thread::scope(|scope| {
                let publisher = scope.spawn(|| bus.publish("a", held));
                has_reached.recv().unwrap();
                // It is closed at once, and leaves the channel when the turn is over.
                let closer = scope.spawn(|| subs[ended].close());
                assert!(subs[ended].recv().is_err());
                go.send(()).unwrap();
                closer.join().unwrap();
                publisher.join().unwrap()
            });
            let reached = subscribers - 1;
            assert_eq!(
                (receipt.matched, receipt.delivered, receipt.dropped),
                (reached, reached, 0),
                "{ended} of {subscribers}"
            );
            let read: Vec<usize> = subs.iter().map(|sub| sub.try_iter().count()).collect();
            let expected: Vec<usize> =
                (0..subscribers).map(|at| usize::from(at != ended)).collect();
            assert_eq!(read, expected);
            let received: Vec<u64> = subs.iter().map(|sub| sub.info().received).collect();
            assert_eq!(received.iter().map(|&n| n as usize).collect::<Vec<_>>(), expected);
            assert!(!in_turn.load(Ordering::SeqCst), "the copy that concerned nobody");
            assert_eq!(bus.stats().delivered, reached as u64);
            // The copies are gone, the one that concerned nobody as well.
            assert_eq!(Arc::strong_count(&gate), 1);
        }
    }
}

/// A thread may keep the names of the messages that it dropped last, but not such as these.
#[test]
fn long_names_go_with_the_last_who_holds_them() -> Result<(), Box<dyn std::error::Error>> {
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
