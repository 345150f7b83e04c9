//! Threads that publish, subscribe, leave, receive and drop at once: the books balance exactly
//! afterwards, nobody sleeps through what is there, nothing deadlocks and nothing leaks.

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Event, Overflow, Pattern, Receipt, RecvTimeoutError, Subscriber, TryRecvError};
use support::{
    Census, Dice, Gate, Stop, Tracked, WATCHDOG, assert_ascending, assert_books, drain,
    let_it_wait, linger, silent, sorted, step, steps, watched,
};

/// Enough to meet a race, in a build without optimisation and in one with it.
const fn scaled(count: usize) -> usize {
    if cfg!(debug_assertions) { count } else { 5 * count }
}

/// What all receipts of a thread add up to.
#[derive(Clone, Copy, Default)]
struct Sum {
    publishes: u64,
    matched: u64,
    delivered: u64,
    dropped: u64,
}

impl Sum {
    #[track_caller]
    fn add(&mut self, receipt: Receipt) {
        assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
        self.publishes += 1;
        self.matched += receipt.matched as u64;
        self.delivered += receipt.delivered as u64;
        self.dropped += receipt.dropped as u64;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            publishes: self.publishes + other.publishes,
            matched: self.matched + other.matched,
            delivered: self.delivered + other.delivered,
            dropped: self.dropped + other.dropped,
        }
    }

    #[track_caller]
    fn assert_is_all_of<P: Clone + Send + 'static>(self, bus: &Bus<P>) {
        let stats = bus.stats();
        assert_eq!(
            (stats.published, stats.matched, stats.delivered, stats.dropped),
            (self.publishes, self.matched, self.delivered, self.dropped),
            "{stats:?}"
        );
    }
}

/// What a reader has read.
#[derive(Debug, Default, PartialEq)]
struct Read {
    messages: u64,
    lagged: u64,
}

/// Reads until told to stop, and then until nothing is left.
fn read(sub: &Subscriber<u64>, stop: &Stop) -> Read {
    let mut read = Read::default();
    loop {
        let near = stop.is_near();
        match sub.recv_timeout(Duration::from_millis(2)) {
            Ok(Event::Lagged { missed }) => read.lagged += missed,
            Ok(event) => read.messages += u64::from(event.message().is_some()),
            Err(RecvTimeoutError::Timeout) if near => return read,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Closed) => return read,
        }
    }
}

/// Comes and goes in every way there is.
fn churn(bus: &Bus<u64>, dice: &mut Dice, give_away: &mpsc::Sender<Subscriber<u64>>) {
    let channel = format!("c{}", dice.roll(4));
    let other = format!("c{}", dice.roll(4));
    let pattern = ["c*", "c?", "*0", "[c]1", "*"][dice.roll(5)];
    let policy = [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Disconnect,
        Overflow::Block { timeout: Some(Duration::ZERO) },
    ][dice.roll(4)];
    let small = || bus.subscriber_builder().capacity(1 + dice_capacity(policy)).overflow(policy);
    match dice.roll(12) {
        0 => _ = small().subscribe(&channel).unwrap(),
        1 => _ = small().psubscribe(pattern).unwrap(),
        2 => {
            let sub = small().dedupe(true).subscribe(&channel).unwrap();
            // A full inbox that disconnects may be closed by now.
            let _ = sub.psubscribe(pattern);
            let _ = sub.subscribe(&other);
            sub.unsubscribe(&channel);
            sub.punsubscribe(pattern);
        }
        3 => {
            let sub = small().build();
            let _ = sub.subscribe_many(["c0", "c1", "c2", "c3"]);
            sub.unsubscribe_all();
        }
        4 => {
            let sub = small().build();
            let _ = sub.subscribe_many(["c3", "c2", "c1", "c0"]);
            let _ = sub.psubscribe_many(["*0", "c?", "c*"]);
            sub.punsubscribe_all();
        }
        5 => {
            let sub = small().psubscribe(pattern).unwrap();
            let copy = sub.clone();
            drop(sub);
            copy.close();
        }
        6 => give_away.send(small().subscribe(&channel).unwrap()).unwrap(),
        7 => give_away.send(small().psubscribe(pattern).unwrap()).unwrap(),
        8 => {
            let sub = silent(bus).psubscribe(pattern).unwrap();
            let _ = sub.resubscribe().unwrap();
            while sub.try_recv().is_ok() {}
        }
        9 => {
            let topic = bus.topic(&channel);
            drop(bus.topic("never subscribed"));
            topic.match_count();
            topic.subscriber_count();
        }
        10 => {
            bus.stats();
            bus.subscribers();
            bus.channels_matching("c*");
            bus.match_count("c0");
            bus.match_count("seen by nobody");
            bus.subscriber_count(&channel);
        }
        _ => {
            // A name that only exists now.
            let name = format!("c0{}", dice.roll(1_000_000));
            let sub = small().subscribe(&name).unwrap();
            sub.psubscribe(format!("{name}*")).unwrap();
        }
    }
}

fn dice_capacity(policy: Overflow) -> usize {
    usize::from(policy != Overflow::Disconnect) * 2
}

/// Hazards: stripes locked in two orders, receivers that drop during a send, counts that drift, live
/// subscribers pruned in place of dead ones, evictions counted wrong.
#[test]
fn the_books_balance_exactly_after_everybody_came_and_went() {
    for stripes in [1, 64] {
        watched(move || {
            let publishes = scaled(3_000);
            let rounds = scaled(1_500);
            let bus: Bus<u64> = Bus::builder().stripes(stripes).build();
            let small = |capacity| silent(&bus).capacity(capacity);
            let exact = small(4).subscribe("c0").unwrap();
            let newest = small(3).overflow(Overflow::DropNewest).psubscribe("c*").unwrap();
            let once = small(2).dedupe(true).subscribe("c1").unwrap();
            once.psubscribe_many(["c*", "c?", "*1"]).unwrap();
            let often = small(5).subscribe("c1").unwrap();
            often.psubscribe_many(["c*", "*1"]).unwrap();
            let waiting = small(1)
                .overflow(Overflow::Block { timeout: Some(Duration::from_micros(50)) })
                .subscribe("c2")
                .unwrap();
            let unread = small(7).subscribe("c3").unwrap();
            let all = [&exact, &newest, &once, &often, &waiting, &unread];

            let stop = Stop::default();
            let (give_away, given) = mpsc::channel();
            let (sum, reads) = thread::scope(|scope| {
                let _stop = stop.at_last();
                let (bus, stop) = (&bus, &stop);
                let readers = all[..5]
                    .iter()
                    .map(|sub| scope.spawn(move || read(sub, stop)))
                    .collect::<Vec<_>>();
                let publishers: Vec<_> = (0..3)
                    .map(|publisher| {
                        let steps = steps();
                        scope.spawn(move || {
                            let topics = [0, 1, 2, 3].map(|n| bus.topic(&format!("c{n}")));
                            let mut sum = Sum::default();
                            for n in 0..publishes {
                                steps.step();
                                let channel = n % 4;
                                let value = n as u64;
                                sum.add(match (n / 4 + publisher) % 3 {
                                    0 => topics[channel].publish(value),
                                    1 => bus.publish(&format!("c{channel}"), value),
                                    // It is counted whether its closure runs or not.
                                    _ => bus.publish_with(&format!("c{channel}"), || value),
                                });
                            }
                            sum
                        })
                    })
                    .collect();
                let churners: Vec<_> = (0..2)
                    .map(|seed| {
                        let give_away = give_away.clone();
                        scope.spawn(move || {
                            let mut dice = Dice::new(seed + 1);
                            for _ in 0..rounds {
                                churn(bus, &mut dice, &give_away);
                            }
                        })
                    })
                    .collect();
                drop(give_away);
                // Dropped by another thread than the one that made them.
                let dropper = scope.spawn(move || given.iter().for_each(drop));
                churners.into_iter().for_each(|thread| thread.join().unwrap());
                dropper.join().unwrap();
                let sum = publishers
                    .into_iter()
                    .fold(Sum::default(), |sum, thread| sum.plus(thread.join().unwrap()));
                stop.now();
                let reads: Vec<Read> = readers.into_iter().map(|t| t.join().unwrap()).collect();
                (sum, reads)
            });

            sum.assert_is_all_of(&bus);
            let channel = 3 * publishes as u64 / 4;
            assert_books(&exact, channel);
            assert_books(&newest, 4 * channel);
            assert_books(&once, 4 * channel);
            // Thrice on c1, once elsewhere.
            assert_books(&often, 6 * channel);
            assert_books(&waiting, channel);
            assert_books(&unread, channel);
            for (sub, read) in all.iter().zip(&reads) {
                let info = sub.info();
                assert_eq!(info.depth, 0);
                assert_eq!((info.received, info.missed), (read.messages, read.lagged), "{info:?}");
            }
            assert_eq!((unread.len(), unread.info().received), (7, 0));
            let stats = bus.stats();
            assert_eq!((stats.channels, stats.patterns, stats.subscribers), (4, 3, 6));
            assert_eq!(bus.pattern_count(), 3);
            assert_eq!(bus.subscribers().len(), 6);
            assert_eq!(sorted(bus.channels()), ["c0", "c1", "c2", "c3"].map(Into::into));
            assert_eq!([0, 1, 2, 3].map(|n| bus.subscriber_count(&format!("c{n}"))), [1, 2, 1, 1]);
            assert_eq!([0, 1, 2, 3].map(|n| bus.match_count(&format!("c{n}"))), [4, 5, 4, 4]);

            drop((exact, newest, once, often, waiting, unread));
            let stats = bus.stats();
            assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
            assert_eq!(bus.publish("c1", 1u64), Receipt::default());
        });
    }
}

/// Hazard: drop-oldest by popping from the publisher's side, two publishers popping for one push.
#[test]
fn publishers_that_evict_at_once_keep_the_inbox_full_and_count_exactly() {
    for capacity in [1, 2, 5] {
        watched(move || {
            let each = scaled(4_000) as u64;
            // Of several channels, so that they do not take turns.
            let bus: Bus<u64> = Bus::new();
            let sub = silent(&bus).capacity(capacity).build();
            sub.subscribe_many(["a", "b", "c"]).unwrap();
            sub.psubscribe("?").unwrap();
            let topics = ["a", "b", "c"].map(|channel| bus.topic(channel));
            let start = Barrier::new(3);
            thread::scope(|scope| {
                for topic in &topics {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        for n in 0..each {
                            let receipt = topic.publish(n);
                            assert_eq!(receipt, Receipt { matched: 2, delivered: 2, dropped: 0 });
                        }
                    });
                }
            });
            // With no reader, what was evicted is all but what fits.
            assert_eq!(sub.len(), capacity);
            assert_eq!(sub.missed(), 6 * each - capacity as u64);
            assert_eq!(bus.stats().evicted, sub.missed());
            assert_books(&sub, 6 * each);
            assert!(matches!(sub.recv(), Ok(Event::Lagged { missed }) if missed == sub.missed()));
            assert_eq!(drain(&sub).len(), capacity);
            // The end is seen though publishers took from the queue.
            drop(topics);
            drop(bus);
            assert!(sub.receiver().recv().is_err());
        });
    }
}

#[test]
fn a_reader_and_evicting_publishers_account_for_every_message() {
    watched(|| {
        let each = scaled(4_000) as u64;
        let bus: Bus<u64> = Bus::builder().capacity(2).build();
        let sub = silent(&bus).psubscribe("*").unwrap();
        let stop = Stop::default();
        let read = thread::scope(|scope| {
            let _stop = stop.at_last();
            let reader = scope.spawn(|| read(&sub, &stop));
            let publishers: Vec<_> = ["a", "b", "a"]
                .map(|channel| {
                    let bus = &bus;
                    scope.spawn(move || (0..each).for_each(|n| _ = bus.publish(channel, n)))
                })
                .into_iter()
                .collect();
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            stop.now();
            reader.join().unwrap()
        });
        assert_eq!(read.messages + read.lagged, 3 * each);
        assert_eq!(read.lagged, sub.missed());
        assert_eq!(bus.stats().evicted, sub.missed());
        assert_books(&sub, 3 * each);
    });
}

#[test]
fn publishers_that_meet_a_full_inbox_at_once_end_it_once() {
    watched(|| {
        for _ in 0..scaled(300) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub =
                silent(&bus).capacity(2).overflow(Overflow::Disconnect).psubscribe("*").unwrap();
            let start = Barrier::new(2);
            let sums = thread::scope(|scope| {
                ["a", "b"]
                    .map(|channel| {
                        let (bus, start) = (&bus, &start);
                        scope.spawn(move || {
                            start.wait();
                            let mut sum = Sum::default();
                            (0..4u64).for_each(|n| sum.add(bus.publish(channel, n)));
                            sum
                        })
                    })
                    .map(|thread| thread.join().unwrap())
            });
            let sum = sums[0].plus(sums[1]);
            assert_eq!(sum.delivered, 2);
            assert!(sum.dropped == 1 || sum.dropped == 2);
            sum.assert_is_all_of(&bus);
            assert_books(&sub, sum.matched);
            assert_eq!(drain(&sub).len(), 2);
            assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
            let stats = bus.stats();
            assert_eq!((stats.patterns, stats.subscribers), (0, 0));
            assert_eq!(bus.match_count("a"), 0);
        }
    });
}

/// Hazard: counts that underflow, and a channel that is dead when it is opened again.
#[test]
fn a_channel_and_a_pattern_opened_and_closed_by_many_are_gone_in_the_end_and_can_be_opened_again() {
    watched(|| {
        let rounds = scaled(2_000);
        let bus: Bus<u64> = Bus::builder().stripes(1).build();
        let topic = bus.topic("c");
        thread::scope(|scope| {
            for n in 0..4 {
                let bus = &bus;
                scope.spawn(move || {
                    let own = silent(bus).build();
                    for round in 0..rounds {
                        if n % 2 == 0 {
                            own.subscribe("c").unwrap();
                            assert!(bus.subscriber_count("c") >= 1);
                            assert!(bus.publish("c", round as u64).delivered >= 1);
                            own.unsubscribe("c");
                        } else {
                            own.psubscribe("c*").unwrap();
                            assert!(bus.pattern_count() >= 1);
                            assert!(bus.publish("cc", round as u64).delivered >= 1);
                            own.punsubscribe("c*");
                        }
                    }
                });
            }
        });
        assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (0, 0));
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert!(bus.channels().is_empty());
        assert_eq!(topic.publish(1u64), Receipt::default());
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        assert_eq!(topic.publish(1u64).delivered, 2);
        assert_eq!(bus.publish("c", 1u64).delivered, 2);
    });
}

/// A subscription is live when `subscribe` returns, and dead when `unsubscribe` does, whoever else
/// comes, goes and publishes.
#[test]
fn a_subscription_begins_and_ends_exactly_whoever_else_publishes() {
    watched(|| {
        let rounds = scaled(1_500) as u64;
        let bus: Bus<u64> = Bus::new();
        thread::scope(|scope| {
            for thread in 0..3u64 {
                let bus = &bus;
                scope.spawn(move || {
                    // Room for all that the others publish.
                    let sub = silent(bus).capacity(8 * rounds as usize).build();
                    let topic = bus.topic("c");
                    for round in 0..rounds {
                        let own = thread << 32 | round << 1;
                        let publish = |value| match round % 2 {
                            0 => topic.publish(value),
                            _ => bus.publish("c", value),
                        };
                        match thread {
                            0 => sub.subscribe("c").unwrap(),
                            1 => sub.psubscribe("c*").unwrap(),
                            _ => sub.psubscribe(format!("[c{round}]")).unwrap(),
                        };
                        assert!(publish(own).delivered >= 1);
                        match thread {
                            0 => sub.unsubscribe("c"),
                            1 => sub.punsubscribe("c*"),
                            _ => sub.punsubscribe(format!("[c{round}]")),
                        };
                        publish(own | 1);
                        let values = drain(&sub);
                        assert!(values.contains(&own), "published while it was subscribed");
                        assert!(!values.contains(&(own | 1)), "published when it was not any more");
                    }
                });
            }
        });
    });
}

/// Hazard: the message is in, the receiver sleeps on.
#[test]
fn no_wake_up_is_lost_between_two_that_answer_each_other() {
    let rounds = scaled(5_000) as u64;
    type Receive = fn(&Subscriber<u64>) -> u64;
    let receives: [(&str, Receive); 4] = [
        ("recv", |sub| sub.recv().unwrap().into_message().unwrap().payload),
        ("recv_timeout", |sub| {
            sub.recv_timeout(2 * WATCHDOG).unwrap().into_message().unwrap().payload
        }),
        ("messages", |sub| sub.messages().next().unwrap().payload),
        ("receiver", |sub| sub.receiver().recv().unwrap().payload),
    ];
    for (what, receive) in receives {
        watched(move || {
            let bus: Bus<u64> = Bus::builder().capacity(1).build();
            let ping = silent(&bus).subscribe("ping").unwrap();
            let pong = silent(&bus).psubscribe("po*").unwrap();
            let other = thread::spawn({
                let bus = bus.clone();
                move || {
                    for n in 0..rounds {
                        assert_eq!(receive(&ping), n, "{what}");
                        assert_eq!(bus.publish("pong", n).delivered, 1);
                    }
                }
            });
            let topic = bus.topic("ping");
            for n in 0..rounds {
                step();
                assert_eq!(topic.publish(n).delivered, 1);
                assert_eq!(receive(&pong), n, "{what}");
            }
            other.join().unwrap();
        });
    }
}

#[test]
fn every_event_wakes_a_blocked_recv() {
    watched(|| {
        let rounds = scaled(2_000);
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber();
        let (tell, told) = mpsc::channel();
        let copy = sub.clone();
        let reader = thread::spawn(move || copy.iter().for_each(|event| tell.send(event).unwrap()));
        for n in 0..rounds {
            step();
            // A thread that wants the next event waits for it, or is about to.
            let name = format!("c{n}");
            match n % 4 {
                0 => _ = sub.subscribe(&name).unwrap(),
                1 => _ = sub.unsubscribe(&name),
                2 => _ = sub.psubscribe(name.as_str()).unwrap(),
                _ => _ = sub.punsubscribe(name.as_str()),
            }
            let event = told.recv_timeout(WATCHDOG).expect("the event wakes it");
            match (n % 4, event) {
                (0, Event::Subscribe { channel: at, .. })
                | (1, Event::Unsubscribe { channel: at, .. }) => assert_eq!(*at, *name),
                (2, Event::PSubscribe { pattern, .. })
                | (3, Event::PUnsubscribe { pattern, .. }) => {
                    assert_eq!(pattern.as_str(), name);
                }
                (_, event) => panic!("{n}: {event:?}"),
            }
        }
        bus.close();
        reader.join().unwrap();
    });
}

/// Three things are there and three clones wait, each for one: whatever the order in which they come
/// and wake, nobody sleeps on.
#[test]
fn as_many_waiting_clones_wake_as_there_are_things_to_read() {
    watched(|| {
        for round in 0..scaled(400) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = bus.subscriber_builder().capacity(1).subscribe("c").unwrap();
            sub.recv().unwrap();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_at_last();
            let clones: Vec<_> = (0..3)
                .map(|_| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        tell.send(sub.recv().unwrap()).unwrap();
                        // One each: it does not come back for more.
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(300));
            // The second evicts the first, or a clone has it by then: then there is no `Lagged`.
            bus.publish("c", 1u64);
            bus.publish("c", 2u64);
            sub.subscribe("d").unwrap();
            let mut got = Vec::new();
            for _ in 0..3 {
                match told.recv_timeout(WATCHDOG) {
                    Ok(event) => got.push(event),
                    Err(_) => panic!(
                        "round {round}: one sleeps on; woken were those for {got:?}; {:?}",
                        sub.info()
                    ),
                }
            }
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
            assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        }
    });
}

/// The same with several events for as many clones.
#[test]
fn several_events_wake_several_clones() {
    watched(|| {
        for _ in 0..scaled(300) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = bus.subscriber();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_at_last();
            let clones: Vec<_> = (0..4)
                .map(|_| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        tell.send(sub.recv().unwrap()).unwrap();
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(300));
            sub.subscribe("a").unwrap();
            sub.psubscribe("b").unwrap();
            sub.unsubscribe("a");
            bus.publish("b", 1u64);
            for _ in 0..4 {
                told.recv_timeout(WATCHDOG).expect("nobody sleeps on");
            }
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
        }
    });
}

/// Clones that wait each in its own way, by `receiver()` too: as many messages come as there are of
/// them, and each gets one.
#[test]
fn whatever_way_clones_wait_each_gets_its_message() {
    watched(|| {
        for _ in 0..scaled(300) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_at_last();
            let clones: Vec<_> = (0..4)
                .map(|way| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        let message = match way {
                            0 => sub.receiver().recv().unwrap(),
                            1 => sub.recv().unwrap().into_message().unwrap(),
                            2 => sub.recv_message_timeout(2 * WATCHDOG).unwrap(),
                            _ => sub.receiver().recv_timeout(2 * WATCHDOG).unwrap(),
                        };
                        tell.send(message.payload).unwrap();
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(200));
            (0..4u64).for_each(|n| _ = bus.publish("c", n));
            let got = (0..4).map(|_| told.recv_timeout(WATCHDOG).expect("nobody sleeps on"));
            assert_eq!(sorted(got), [0, 1, 2, 3]);
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
        }
    });
}

#[test]
fn a_worker_group_gets_each_message_once() {
    watched(|| {
        let messages = scaled(8_000) as u64;
        let bus: Bus<u64> =
            Bus::builder().capacity(16).overflow(Overflow::Block { timeout: None }).build();
        let group = bus.subscribe("work").unwrap();
        let audit = silent(&bus).capacity(2 * messages as usize).psubscribe("wo*").unwrap();
        let workers: Vec<_> = (0..4)
            .map(|way| {
                let worker = group.clone();
                thread::spawn(move || {
                    let mut events = 0;
                    let mut values = Vec::new();
                    match way {
                        0 => values.extend(worker.messages().map(|message| message.payload)),
                        1 => {
                            // Events are for those who ask for them.
                            values.extend(worker.receiver().iter().map(|message| message.payload));
                        }
                        _ => {
                            while let Ok(event) = worker.recv() {
                                match event.into_message() {
                                    Some(message) => values.push(message.payload),
                                    None => events += 1,
                                }
                            }
                        }
                    }
                    assert_ascending(&values);
                    (events, values)
                })
            })
            .collect();
        for n in 0..messages {
            step();
            assert_eq!(bus.publish("work", n).delivered, 2);
        }
        bus.close();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let all = results.iter().flat_map(|(_, values)| values.iter().copied());
        assert_eq!(sorted(all), (0..messages).collect::<Vec<_>>());
        assert!(results.iter().map(|(events, _)| events).sum::<u64>() <= 1);
        assert_eq!(group.info().received, messages);
        assert_books(&group, messages);
        assert_eq!(drain(&audit).len() as u64, messages);
    });
}

/// Hazard: subscribing while another thread receives is impossible, or waits for the next message.
#[test]
fn a_subscriber_is_changed_while_another_thread_waits_on_it() {
    watched(|| {
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber();
        let (tell, told) = mpsc::channel();
        let copy = sub.clone();
        let reader = thread::spawn(move || copy.iter().for_each(|event| tell.send(event).unwrap()));
        for n in 0..200u64 {
            if n % 50 == 0 {
                let_it_wait();
            }
            // No message comes, and none of these waits for one.
            assert_eq!(sub.subscribe("c"), Ok(1));
            assert_eq!(sub.psubscribe("c*"), Ok(2));
            assert_eq!(sub.channels().len() + sub.patterns().len(), 2);
            assert_eq!(bus.publish("c", n).delivered, 2);
            assert_eq!(sub.unsubscribe("c"), 1);
            assert_eq!(sub.punsubscribe("c*"), 0);
            let names: Vec<&str> = (0..6)
                .map(|_| match told.recv_timeout(WATCHDOG).expect("it is woken") {
                    Event::Subscribe { .. } => "subscribe",
                    Event::PSubscribe { .. } => "psubscribe",
                    Event::Message(message) if message.payload == n => "message",
                    Event::PMessage(message) if message.payload == n => "pmessage",
                    Event::Unsubscribe { .. } => "unsubscribe",
                    Event::PUnsubscribe { .. } => "punsubscribe",
                    event => panic!("{event:?}"),
                })
                .collect();
            let wanted =
                ["subscribe", "psubscribe", "message", "pmessage", "unsubscribe", "punsubscribe"];
            assert_eq!(names, wanted);
        }
        bus.close();
        reader.join().unwrap();
    });
}

/// Hazard: a receiver that wakes early and reports a timeout. Clones are woken for messages that others
/// then take.
#[test]
fn nobody_reports_a_timeout_early() {
    watched(|| {
        let timeout = Duration::from_millis(60);
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber_builder().capacity(4).subscribe("c").unwrap();
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.at_last();
            for way in 0..4 {
                let (sub, stop) = (sub.clone(), &stop);
                scope.spawn(move || {
                    let mut timeouts = 0;
                    while timeouts < 3 || !stop.is_near() {
                        let begun = Instant::now();
                        let deadline = begun + timeout;
                        let outcome = match way {
                            0 => sub.recv_timeout(timeout).map(drop),
                            1 => sub.recv_deadline(deadline).map(drop),
                            2 => sub.recv_message_deadline(deadline).map(drop),
                            _ => sub.recv_message_timeout(timeout).map(drop),
                        };
                        if outcome == Err(RecvTimeoutError::Timeout) {
                            assert!(begun.elapsed() >= timeout, "early: {:?}", begun.elapsed());
                            timeouts += 1;
                        }
                    }
                });
            }
            for n in 0..60 {
                match n % 6 {
                    0 => _ = sub.subscribe("d").unwrap(),
                    1 => _ = sub.unsubscribe("d"),
                    // More than fit, so that there are losses to tell of.
                    2 => (0..8u64).for_each(|n| _ = bus.publish("c", n)),
                    _ => _ = bus.publish("c", n),
                }
                thread::sleep(Duration::from_millis(n % 7));
            }
            stop.now();
        });
    });
}

#[test]
fn a_timeout_of_nothing_still_takes_what_is_there() {
    let bus: Bus<u64> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    bus.publish("c", 1u64);
    assert!(sub.recv_timeout(Duration::ZERO).is_ok());
    assert_eq!(sub.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    bus.publish("c", 2u64);
    assert!(sub.recv_deadline(Instant::now() - Duration::from_secs(1)).is_ok());
    bus.publish("c", 3u64);
    assert!(sub.recv_message_timeout(Duration::ZERO).is_ok());
    let past = Instant::now() - Duration::from_secs(1);
    bus.publish("c", 4u64);
    assert!(sub.recv_message_deadline(past).is_ok());
    assert_eq!(sub.recv_message_deadline(past), Err(RecvTimeoutError::Timeout));
}

/// Time this thread has spent on a processor, where the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Hazard: a receiver that spins while idle.
#[test]
fn who_waits_does_not_spin() {
    watched(|| {
        let bus: Bus<u64> = Bus::new();
        let plain = silent(&bus).subscribe("c").unwrap();
        // With an event that was read, a loss that was told, and one that nothing is subscribed to.
        let busy = bus.subscriber_builder().capacity(1).subscribe("c").unwrap();
        bus.publish("c", 1u64);
        bus.publish("c", 2u64);
        busy.unsubscribe("c");
        while busy.try_recv().is_ok() {}
        drain(&plain);
        let clone = busy.clone();
        let waits = [plain, busy, clone].map(|sub| {
            thread::spawn(move || {
                let before = processor_time();
                let begun = Instant::now();
                assert_eq!(
                    sub.recv_timeout(Duration::from_millis(400)),
                    Err(RecvTimeoutError::Timeout)
                );
                let waited = begun.elapsed();
                // No figure, no verdict.
                before.zip(processor_time()).map(|(before, after)| (after - before, waited))
            })
        });
        for wait in waits {
            if let Some((used, waited)) = wait.join().unwrap() {
                assert!(used < waited / 10, "used {used:?} of {waited:?}");
            }
        }
        // A listener and a blocked publisher.
        let block = Overflow::Block { timeout: Some(Duration::from_millis(400)) };
        let full = silent(&bus).capacity(1).overflow(block).subscribe("full").unwrap();
        bus.publish("full", 1u64);
        let before = processor_time();
        let begun = Instant::now();
        assert_eq!(bus.publish("full", 2u64).dropped, 1);
        if let Some((before, after)) = before.zip(processor_time()) {
            assert!(after - before < begun.elapsed() / 10, "a blocked publisher spins");
        }
        drop(full);
    });
}

/// Whatever way messages are taken, they are counted.
#[test]
fn receives_are_counted_through_every_clone_and_way() {
    watched(|| {
        let messages = scaled(6_000) as u64;
        let bus: Bus<u64> = Bus::builder().capacity(8).build();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("?").unwrap();
        let counted = AtomicU64::new(0);
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.at_last();
            for way in 0..3 {
                let (sub, counted, stop) = (sub.clone(), &counted, &stop);
                scope.spawn(move || {
                    loop {
                        let near = stop.is_near();
                        let got = match way {
                            0 => sub.receiver().try_recv().is_ok(),
                            1 => sub.try_recv_message().is_ok(),
                            _ => sub.recv_message_timeout(Duration::from_micros(100)).is_ok(),
                        };
                        counted.fetch_add(u64::from(got), Ordering::Relaxed);
                        if near && !got {
                            break;
                        }
                        if !got {
                            thread::yield_now();
                        }
                    }
                });
            }
            for n in 0..messages {
                step();
                bus.publish("c", n);
                if n % 16 == 0 {
                    thread::yield_now();
                }
            }
            stop.now();
        });
        let info = sub.info();
        assert_eq!(info.received, counted.load(Ordering::Relaxed), "{info:?}");
        assert_books(&sub, 2 * messages);
        assert_eq!(info.missed, bus.stats().evicted);
        // They stay when the subscriptions go.
        sub.unsubscribe_all();
        sub.punsubscribe_all();
        assert_eq!(sub.info().received, info.received);
        assert_books(&sub, 2 * messages);
    });
}

/// Hazards: locks taken in two orders by two threads; a recursive read with a writer queued between.
#[test]
fn subscribing_to_the_same_names_in_opposite_orders_does_not_deadlock() {
    watched(|| {
        let rounds = scaled(300);
        let bus: Bus<u64> = Bus::builder().stripes(2).capacity(1).build();
        let channels: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
        let patterns: Vec<String> = (0..12).map(|n| format!("*{n}")).chain(["c*".into()]).collect();
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for backwards in [false, true] {
                let (bus, channels, patterns, done) = (&bus, &channels, &patterns, &done);
                scope.spawn(move || {
                    let order = |names: &Vec<String>| -> Vec<String> {
                        let mut names = names.clone();
                        if backwards {
                            names.reverse();
                        }
                        names
                    };
                    let (channels, patterns) = (order(channels), order(patterns));
                    for _ in 0..rounds {
                        let sub = bus.subscriber_builder().dedupe(backwards).build();
                        sub.subscribe_many(&channels).unwrap();
                        sub.psubscribe_many(&patterns).unwrap();
                        sub.info();
                        match backwards {
                            true => _ = sub.unsubscribe_all() + sub.punsubscribe_all(),
                            false => drop(sub),
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            for forwards in [false, true] {
                let (bus, channels, done) = (&bus, &channels, &done);
                scope.spawn(move || {
                    while done.load(Ordering::SeqCst) < 2 {
                        for n in 0..channels.len() {
                            let n = if forwards { n } else { channels.len() - 1 - n };
                            bus.publish(&channels[n], 1u64);
                            bus.match_count(&channels[n]);
                        }
                        bus.stats();
                        bus.subscribers();
                        bus.channels();
                    }
                });
            }
        });
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert_eq!(stats.matched, stats.delivered + stats.dropped);
    });
}

/// Hazard: a message freed twice, or leaked, when the receiver drops during a send.
#[test]
fn every_payload_is_dropped_once_also_when_subscribers_drop_during_sends() {
    for policy in [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Disconnect,
        Overflow::Block { timeout: Some(Duration::from_micros(20)) },
    ] {
        watched(move || {
            let census = Census::new();
            let rounds = scaled(1_000);
            let bus: Bus<Tracked> = Bus::builder().capacity(2).overflow(policy).build();
            let kept = silent(&bus).subscribe("c").unwrap();
            thread::scope(|scope| {
                let done = Arc::new(AtomicUsize::new(0));
                for n in 0..2 {
                    let (bus, census, done) = (&bus, &census, Arc::clone(&done));
                    scope.spawn(move || {
                        let topic = bus.topic("c");
                        let mut value = 0;
                        while done.load(Ordering::SeqCst) < 2 {
                            value += 1;
                            match n {
                                0 => topic.publish(census.payload(value)),
                                _ => bus.publish("c", census.payload(value)),
                            };
                        }
                    });
                }
                for n in 0..2 {
                    let bus = &bus;
                    let done = Arc::clone(&done);
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let sub = match n {
                                0 => silent(bus).subscribe("c").unwrap(),
                                _ => silent(bus).psubscribe("c*").unwrap(),
                            };
                            match round % 4 {
                                0 => drop(sub),
                                1 => {
                                    let _ = sub.try_recv();
                                }
                                2 => sub.close(),
                                _ => {
                                    let receiver = sub.receiver().clone();
                                    drop(sub);
                                    let _ = receiver.try_recv();
                                }
                            }
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
            // At rest, what lives is what the inbox holds.
            assert_eq!(census.live(), kept.len() as isize, "{policy:?}");
            let books = kept.info();
            assert!(books.received + books.missed + books.depth as u64 <= bus.stats().published);
            drop(bus);
            assert_eq!(
                census.live(),
                kept.len() as isize,
                "closing drops nothing that can be read"
            );
            drop(kept);
            assert_eq!(census.live(), 0, "{policy:?}");
        });
    }
}

#[test]
fn every_payload_is_dropped_when_the_bus_closes_during_sends() {
    watched(|| {
        let census = Census::new();
        for round in 0..scaled(200) {
            step();
            let bus: Bus<Tracked> = Bus::builder().capacity(3).build();
            let subs =
                [silent(&bus).subscribe("c").unwrap(), silent(&bus).psubscribe("c*").unwrap()];
            thread::scope(|scope| {
                for _ in 0..2 {
                    let (bus, census) = (bus.clone(), &census);
                    scope.spawn(move || {
                        let topic = bus.topic("c");
                        for n in 0.. {
                            if topic.publish(census.payload(n)).matched == 0 {
                                break;
                            }
                        }
                    });
                }
                linger(round % 16);
                match round % 2 {
                    0 => bus.close(),
                    _ => subs.iter().for_each(Subscriber::close),
                }
            });
            let held: usize = subs.iter().map(Subscriber::len).sum();
            assert_eq!(census.live(), held as isize);
            drop(bus);
            drop(subs);
            assert_eq!(census.live(), 0);
        }
    });
}

#[test]
fn handles_may_be_dropped_in_any_order_on_any_thread() {
    watched(|| {
        let census = Census::new();
        for round in 0..scaled(200) {
            step();
            let bus: Bus<Tracked> = Bus::new();
            let weak = bus.downgrade();
            let sub = bus.subscribe("c").unwrap();
            sub.psubscribe("c*").unwrap();
            let topic = bus.topic("c");
            let listener = sub.spawn("listens", drop);
            topic.publish(census.payload(round as u64));
            let mut threads: Vec<Box<dyn FnOnce() + Send>> = vec![
                Box::new(move || drop(bus)),
                Box::new(move || drop(sub)),
                Box::new(move || drop(topic)),
                Box::new(move || drop(weak.upgrade())),
                Box::new(move || {
                    listener.stop();
                    listener.join().unwrap();
                }),
            ];
            threads.rotate_left(round % 5);
            thread::scope(|scope| {
                threads.into_iter().for_each(|work| _ = scope.spawn(work));
            });
            assert_eq!(census.live(), 0);
        }
    });
}

#[test]
fn a_channel_comes_and_goes_under_its_publishers_while_names_never_seen_pass_by() {
    watched(|| {
        // One stripe, whose memory of recent names is full: all meet there.
        let bus: Bus<u64> = Bus::builder().stripes(1).capacity(4).build();
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.at_last();
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.is_near() {
                        bus.publish("x", 1_u64);
                    }
                });
            }
            scope.spawn(|| {
                while !stop.is_near() {
                    drop(bus.topic("x"));
                    drop(silent(&bus).subscribe("x").unwrap());
                }
            });
            for i in 0..scaled(100_000) {
                step();
                assert_eq!(bus.publish(&format!("never:{i}"), 1_u64).matched, 0);
            }
        });
    });
}

#[test]
fn a_publish_wakes_a_receiver_that_sleeps_whichever_way_it_comes() {
    type Ways = [(&'static str, fn(&Bus<u64>) -> Receipt); 2];
    const WAYS: Ways = [
        ("by name", |bus| bus.publish("c", 1_u64)),
        ("by topic", |bus| bus.topic("c").publish(1_u64)),
    ];
    for others in [0, 1, 20] {
        for pattern in [false, true] {
            for (way, publish) in WAYS {
                let what = format!("{way}, pattern: {pattern}, {others} others");
                watched(move || {
                    let bus: Bus<u64> = Bus::new();
                    let subscribe = || {
                        let builder = silent(&bus);
                        if pattern { builder.psubscribe("?") } else { builder.subscribe("c") }
                            .unwrap()
                    };
                    let sub = subscribe();
                    let _others: Vec<_> = (0..others).map(|_| subscribe()).collect();
                    thread::scope(|scope| {
                        let sleeper =
                            scope.spawn(|| sub.recv_message().map(|message| message.payload));
                        let_it_wait();
                        assert_eq!(publish(&bus).delivered, others + 1, "{what}");
                        assert_eq!(sleeper.join().unwrap(), Ok(1), "{what}");
                    });
                });
            }
        }
    }
}

/// What a thread of [`receipts_say_what_each_thread_knows`] subscribes: a channel, or a pattern.
enum Held {
    Channel(String),
    Pattern(Pattern),
}

impl Held {
    fn matches(&self, channel: &str) -> bool {
        match self {
            Self::Channel(name) => name == channel,
            Self::Pattern(pattern) => pattern.is_match(channel),
        }
    }
}

#[test]
fn receipts_say_what_each_thread_knows() {
    // Names of a thread begin with its letter, and it alone subscribes them: so it knows how many match.
    const LETTERS: [char; 4] = ['a', 'b', 'c', 'd'];
    watched(|| {
        let bus: Bus<u64> = Bus::builder().stripes(2).capacity(3).build();
        thread::scope(|scope| {
            for (seed, letter) in (1..).zip(LETTERS) {
                let (bus, steps) = (&bus, steps());
                scope.spawn(move || {
                    let mut dice = Dice::new(seed);
                    let mut held: Vec<Option<(Subscriber<u64>, Held)>> = Vec::new();
                    held.resize_with(16, || None);
                    for turn in 0..scaled(20_000) as u64 {
                        steps.step();
                        let number = [10, 200, 5_000][dice.roll(3)];
                        let number = dice.roll(number);
                        // Some are so long that few of them fit into the memory of recent names.
                        let tail = if number.is_multiple_of(97) { 5_000 } else { number % 40 };
                        let name = format!("{letter}:{number}:{}", "x".repeat(tail));
                        let digit = number % 10;
                        match dice.roll(16) {
                            0 => {
                                let sub = silent(bus).subscribe(&name).unwrap();
                                let at = dice.roll(held.len());
                                held[at] = Some((sub, Held::Channel(name)));
                            }
                            1 => {
                                let pattern = Pattern::redis(&match dice.roll(6) {
                                    0 => format!("{letter}:*"),
                                    1 => format!("{letter}:{digit}*"),
                                    2 => format!("{letter}?{digit}:*"),
                                    3 => format!("[{letter}]:{digit}{digit}:*"),
                                    4 => format!("{letter}*{digit}:x*"),
                                    _ => format!("{letter}:1{digit}:x*"),
                                });
                                let sub = silent(bus).psubscribe(&pattern).unwrap();
                                let at = dice.roll(held.len());
                                held[at] = Some((sub, Held::Pattern(pattern)));
                            }
                            2 => {
                                let at = dice.roll(held.len());
                                held[at] = None;
                            }
                            3 => drop(bus.topic(&name)),
                            // Another thread's names: how many match is for it to know.
                            4 | 5 => {
                                let other = LETTERS[dice.roll(LETTERS.len())];
                                bus.publish(&format!("{other}:{digit}:"), turn);
                            }
                            way => {
                                let known = held.iter().flatten();
                                let known = known.filter(|(_, held)| held.matches(&name)).count();
                                let receipt = match way {
                                    6 => bus.topic(&name).publish(turn),
                                    7 => bus.publish_with(&name, || turn),
                                    _ => bus.publish(&name, turn),
                                };
                                assert_eq!(receipt.matched, known, "{name}");
                            }
                        }
                    }
                });
            }
        });
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    });
}
