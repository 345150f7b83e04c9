//! Lifecycle events under threads: they wake waiting receives, go to one clone each, and enclose the messages
//! of their own subscription.

mod support;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Event, Overflow, Subscriber, TryRecvError};
use support::{WATCHDOG, assert_books, drain, linger, step, text, watched};

fn bus() -> Bus<u32> {
    Bus::new()
}

fn small(bus: &Bus<u32>, capacity: usize, overflow: Overflow) -> Subscriber<u32> {
    bus.subscriber_builder().capacity(capacity).overflow(overflow).build()
}

// ---- waking -------------------------------------------------------------------------------------

/// The reader waits for each event before the next call is made.
#[test]
fn each_event_wakes_a_blocked_recv() {
    watched(|| {
        let bus = bus();
        let sub = bus.subscriber();
        let reader = sub.clone();
        let (seen, log) = mpsc::channel();
        // It also waits while nothing is subscribed.
        let thread = thread::spawn(move || {
            while let Ok(event) = reader.recv() {
                seen.send(text(&event)).unwrap();
            }
        });
        let next = || log.recv_timeout(WATCHDOG).unwrap();
        for round in 0..2_000u32 {
            step();
            if round % 64 == 0 {
                // By now, the reader is most likely asleep.
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

/// Four clones wait, and four events come at once.
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
                        // Waits until each of the others has received an event.
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

/// An `Unsubscribe` that waits for a message to be taken wakes a clone when another clone has taken it.
#[test]
fn an_event_made_due_by_another_clone_wakes_a_blocked_recv() {
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

// ---- clones -------------------------------------------------------------------------------------

#[test]
fn each_event_goes_to_exactly_one_clone() {
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

/// Hazard: a receive meets an event that a clone reads at the same moment, and takes the inbox for empty
/// although there are messages.
///
/// A reader may call `try_recv` only for one of the messages that are queued already. A call that yields an
/// event leaves its message to the next call. So during every call there is a message that no other call takes.
#[test]
fn try_recv_never_reports_empty_while_a_message_is_queued_for_it() {
    const MESSAGES: u32 = 10_000;
    const READERS: usize = 3;
    watched(|| {
        let bus = bus();
        let sub = small(&bus, MESSAGES as usize, Overflow::DropNewest);
        sub.subscribe("a").unwrap();
        drain(&sub);
        let (unclaimed, received) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let events = thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|_| {
                    let (sub, unclaimed, received) = (sub.clone(), &unclaimed, &received);
                    let claim = |left: usize| left.checked_sub(1);
                    scope.spawn(move || {
                        let mut events = 0;
                        while received.load(Ordering::SeqCst) < MESSAGES as usize {
                            // A failed reader leaves its message unclaimed for ever.
                            if sub.is_closed() {
                                break;
                            }
                            let (order, claim) = (Ordering::SeqCst, &claim);
                            if unclaimed.fetch_update(order, order, claim).is_err() {
                                std::hint::spin_loop();
                                continue;
                            }
                            let event = sub.try_recv();
                            if event.is_err() {
                                sub.close();
                            }
                            match event.expect("a message is queued for this call").message() {
                                Some(_) => _ = received.fetch_add(1, order),
                                None => {
                                    events += 1;
                                    unclaimed.fetch_add(1, order);
                                }
                            }
                        }
                        events
                    })
                })
                .collect();
            for n in 0..MESSAGES {
                step();
                if bus.publish("a", n).delivered == 0 {
                    break;
                }
                unclaimed.fetch_add(1, Ordering::SeqCst);
                // Repeats its event, which stands behind the messages queued so far.
                sub.unsubscribe("not held");
                // Lets the readers catch up at times, so that few messages stand before the event.
                linger(n as usize % 4);
            }
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>()
        });
        assert_eq!(received.load(Ordering::SeqCst), MESSAGES as usize);
        assert_eq!(events + drain(&sub).len(), MESSAGES as usize, "an event for each call");
        assert_books(&sub, u64::from(MESSAGES));
    });
}

// ---- one reader, while subscriptions change -----------------------------------------------------

/// Publishers go on without pause while another thread subscribes and unsubscribes their channel. Each message
/// carries the number of the last subscription that had begun before its publish. It belongs to that
/// subscription or a later one, whose `Subscribe` must come first.
fn assert_no_message_before_its_subscribe(overflow: Overflow, capacity: usize, by_pattern: bool) {
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
fn no_message_comes_before_its_subscribe_under_drop_oldest() {
    assert_no_message_before_its_subscribe(Overflow::DropOldest, 2, false);
    assert_no_message_before_its_subscribe(Overflow::DropOldest, 64, true);
}

#[test]
fn no_message_comes_before_its_subscribe_under_drop_newest() {
    assert_no_message_before_its_subscribe(Overflow::DropNewest, 4, false);
    assert_no_message_before_its_subscribe(Overflow::DropNewest, 1, true);
}

#[test]
fn no_message_comes_before_its_subscribe_under_block() {
    assert_no_message_before_its_subscribe(Overflow::Block { timeout: None }, 2, false);
    assert_no_message_before_its_subscribe(Overflow::Block { timeout: None }, 2, true);
}

/// One thread subscribes to a name, publishes and unsubscribes without pause, while another reads as fast as it
/// can. Every message must stand between the `Subscribe` and the `Unsubscribe` of its own subscription.
fn assert_messages_stand_within_their_subscription(
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
            // The reader must reach the end of the stream now and then.
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
fn every_message_stands_within_its_subscription_under_drop_oldest() {
    assert_messages_stand_within_their_subscription(30_000, 1, Overflow::DropOldest, false);
    assert_messages_stand_within_their_subscription(30_000, 3, Overflow::DropOldest, true);
}

#[test]
fn every_message_stands_within_its_subscription_under_drop_newest() {
    assert_messages_stand_within_their_subscription(30_000, 2, Overflow::DropNewest, false);
    assert_messages_stand_within_their_subscription(30_000, 64, Overflow::DropNewest, true);
}

#[test]
fn every_message_stands_within_its_subscription_under_block() {
    assert_messages_stand_within_their_subscription(
        1_000,
        1,
        Overflow::Block { timeout: None },
        false,
    );
    assert_messages_stand_within_their_subscription(
        1_000,
        4,
        Overflow::Block { timeout: None },
        true,
    );
}

/// One thread publishes, and unsubscribes from names that are not held, which emits an event each, while
/// another reads as fast as it can. Each `Unsubscribe` must stand behind all messages published before it.
fn assert_unsubscribe_follows_queued_messages(
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
fn unsubscribe_follows_queued_messages_while_they_are_read() {
    assert_unsubscribe_follows_queued_messages(60_000, Subscriber::try_recv);
}

#[test]
fn unsubscribe_follows_queued_messages_while_a_reader_waits() {
    assert_unsubscribe_follows_queued_messages(60_000, |sub| Ok(sub.recv()?));
}
