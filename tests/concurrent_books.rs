//! The books balance exactly after threads have published, read, subscribed and left at the same time.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Event, Overflow, Pattern, Receipt, RecvTimeoutError, Subscriber, TryRecvError};
use support::{
    Dice, ReceiptSum, Stop, assert_books, payloads, scaled, silent, sorted, step, steps, watched,
};

/// What a reader has received.
#[derive(Debug, Default, PartialEq)]
struct Read {
    messages: u64,
    lagged: u64,
}

/// Reads until told to stop, and then until the inbox is empty.
fn read(sub: &Subscriber<u64>, stop: &Stop) -> Read {
    let mut read = Read::default();
    loop {
        let stopping = stop.is_set();
        match sub.recv_timeout(Duration::from_millis(2)) {
            Ok(Event::Lagged { missed }) => read.lagged += missed,
            Ok(event) => read.messages += u64::from(event.message().is_some()),
            Err(RecvTimeoutError::Timeout) if stopping => return read,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Closed) => return read,
        }
    }
}

/// Subscribes and leaves in one of many ways, chosen at random.
fn churn(bus: &Bus<u64>, dice: &mut Dice, give_away: &mpsc::Sender<Subscriber<u64>>) {
    let channel = format!("c{}", dice.roll(4));
    let other = format!("c{}", dice.roll(4));
    let pattern = ["c*", "c?", "*0", "[c]1", "*"][dice.roll(5)];
    let policy = [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Conflate,
        Overflow::Disconnect,
        Overflow::Block { timeout: Some(Duration::ZERO) },
    ][dice.roll(5)];
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
            // A name that exists only here.
            let name = format!("c0{}", dice.roll(1_000_000));
            let sub = small().subscribe(&name).unwrap();
            sub.psubscribe(format!("{name}*")).unwrap();
        }
    }
}

fn dice_capacity(policy: Overflow) -> usize {
    usize::from(policy != Overflow::Disconnect) * 2
}

/// Hazards: stripes locked in two orders, receivers dropped during a send, counts that drift, live subscribers
/// pruned instead of dead ones, evictions counted wrong.
#[test]
fn the_books_balance_after_threads_publish_read_subscribe_and_leave() {
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
                let _stop = stop.set_on_drop();
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
                            let mut sum = ReceiptSum::default();
                            for n in 0..publishes {
                                steps.step();
                                let channel = n % 4;
                                let value = n as u64;
                                sum.add(match (n / 4 + publisher) % 3 {
                                    0 => topics[channel].publish(value),
                                    1 => bus.publish(&format!("c{channel}"), value),
                                    // It is counted whether or not its closure runs.
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
                // Subscribers are dropped by another thread than the one that made them.
                let dropper = scope.spawn(move || given.iter().for_each(drop));
                churners.into_iter().for_each(|thread| thread.join().unwrap());
                dropper.join().unwrap();
                let sum = publishers
                    .into_iter()
                    .fold(ReceiptSum::default(), |sum, thread| sum.plus(thread.join().unwrap()));
                stop.set();
                let reads: Vec<Read> = readers.into_iter().map(|t| t.join().unwrap()).collect();
                (sum, reads)
            });

            sum.assert_is_all_of(&bus);
            let channel = 3 * publishes as u64 / 4;
            assert_books(&exact, channel);
            assert_books(&newest, 4 * channel);
            assert_books(&once, 4 * channel);
            // Three subscriptions match c1, one matches each other channel.
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

/// Hazards: a name taken ahead whose entry is removed before its turn comes, names counted twice or not at all.
#[test]
fn the_books_balance_after_calls_for_many_channels_beside_subscribing_and_closing() {
    watched(|| {
        for round in 0..scaled(30) as u64 {
            step();
            let bus: Bus<u64> = Bus::builder().stripes(1 << (round % 3)).capacity(8).build();
            let sum = thread::scope(|scope| {
                let publishers = [0, 1].map(|publisher| {
                    let bus = &bus;
                    scope.spawn(move || {
                        let mut dice = Dice::new(3 * round + publisher);
                        let mut sum = ReceiptSum::default();
                        for call in 0..100_u64 {
                            let names: Vec<_> = (0..40).map(|_| name(&mut dice)).collect();
                            sum.add(if call % 2 == 0 {
                                bus.publish_many(&names, call)
                            } else {
                                bus.publish_each(names.iter().map(|name| (name, call)))
                            });
                            // One call is counted already.
                            sum.publishes += names.len() as u64 - 1;
                        }
                        sum
                    })
                });
                scope.spawn(|| {
                    let mut dice = Dice::new(3 * round + 2);
                    let mut subs = Vec::new();
                    for n in 0..300 {
                        let sub = bus.subscriber_builder().dedupe(n % 2 == 0).build();
                        // The bus may be closed.
                        _ = sub.subscribe(name(&mut dice));
                        if n % 3 == 0 {
                            _ = sub.psubscribe(format!("n{}*", dice.roll(6)));
                        }
                        subs.push(sub);
                        if subs.len() > 20 {
                            drop(subs.swap_remove(dice.roll(20)));
                        }
                        if n == 200 && round % 2 == 1 {
                            bus.close();
                        }
                    }
                });
                let sums = publishers.map(|publisher| publisher.join().unwrap());
                sums[0].plus(sums[1])
            });
            sum.assert_is_all_of(&bus);
            let stats = bus.stats();
            let found = stats.received + stats.discarded + stats.evicted + stats.dropped;
            assert_eq!(stats.matched, found, "{stats:?}");
            assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        }
    });
}

/// Returns one of 60 names.
fn name(dice: &mut Dice) -> String {
    format!("n{}", dice.roll(60))
}

/// Hazard: two publishers that both make room for the same message.
#[test]
fn concurrent_evictions_keep_the_inbox_full_and_are_counted_exactly() {
    for capacity in [1, 2, 5] {
        watched(move || {
            let each = scaled(4_000) as u64;
            // Several channels, so that the publishers do not wait for each other's turns.
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
            // Without a reader, all messages but those that fit are evicted.
            assert_eq!(sub.len(), capacity);
            assert_eq!(sub.missed(), 6 * each - capacity as u64);
            assert_eq!(bus.stats().evicted, sub.missed());
            assert_books(&sub, 6 * each);
            assert!(matches!(sub.recv(), Ok(Event::Lagged { missed }) if missed == sub.missed()));
            assert_eq!(payloads(&sub).len(), capacity);
            // The receiver sees the end although publishers took messages from the queue.
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
            let _stop = stop.set_on_drop();
            let reader = scope.spawn(|| read(&sub, &stop));
            let publishers: Vec<_> = ["a", "b", "a"]
                .map(|channel| {
                    let bus = &bus;
                    scope.spawn(move || (0..each).for_each(|n| _ = bus.publish(channel, n)))
                })
                .into_iter()
                .collect();
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            stop.set();
            reader.join().unwrap()
        });
        assert_eq!(read.messages + read.lagged, 3 * each);
        assert_eq!(read.lagged, sub.missed());
        assert_eq!(bus.stats().evicted, sub.missed());
        assert_books(&sub, 3 * each);
    });
}

#[test]
fn publishers_that_overflow_an_inbox_at_once_disconnect_it_once() {
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
                            let mut sum = ReceiptSum::default();
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
            assert_eq!(payloads(&sub).len(), 2);
            assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
            let stats = bus.stats();
            assert_eq!((stats.patterns, stats.subscribers), (0, 0));
            assert_eq!(bus.match_count("a"), 0);
        }
    });
}

/// Messages are counted however they are taken.
#[test]
fn receives_through_every_clone_and_method_are_counted() {
    watched(|| {
        let messages = scaled(6_000) as u64;
        let bus: Bus<u64> = Bus::builder().capacity(8).build();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("?").unwrap();
        let counted = AtomicU64::new(0);
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.set_on_drop();
            for way in 0..3 {
                let (sub, counted, stop) = (sub.clone(), &counted, &stop);
                scope.spawn(move || {
                    loop {
                        let stopping = stop.is_set();
                        let got = match way {
                            0 => sub.receiver().try_recv().is_ok(),
                            1 => sub.try_recv_message().is_ok(),
                            _ => sub.recv_message_timeout(Duration::from_micros(100)).is_ok(),
                        };
                        counted.fetch_add(u64::from(got), Ordering::Relaxed);
                        if stopping && !got {
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
            stop.set();
        });
        let info = sub.info();
        assert_eq!(info.received, counted.load(Ordering::Relaxed), "{info:?}");
        assert_books(&sub, 2 * messages);
        assert_eq!(info.missed, bus.stats().evicted);
        // The counts stay when the subscriptions are given up.
        sub.unsubscribe_all();
        sub.punsubscribe_all();
        assert_eq!(sub.info().received, info.received);
        assert_books(&sub, 2 * messages);
    });
}

/// A subscription of a thread of [`each_receipt_counts_the_subscriptions_that_its_thread_holds`].
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
fn each_receipt_counts_the_subscriptions_that_its_thread_holds() {
    // Only this thread subscribes to names with its letter, so it knows how many subscriptions match.
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
                        // Some names are so long that few of them fit into the memory of recent names.
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
                            // Only the other thread knows how many subscriptions match its names.
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
