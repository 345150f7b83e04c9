//! Closing while other threads publish, receive, subscribe, inspect and close: it waits for no publish, and
//! everyone finds the bus closed afterwards.

mod support;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use fanout::{
    Bus, CloseReason, Overflow, Receipt, SubscribeError, Subscriber, TryRecvError, WeakBus,
};
use support::{
    Gate, Hooked, Stop, WATCHDOG, assert_books, assert_disconnected, assert_ended, eventually,
    let_it_wait, linger, payloads, silent, step, watched,
};

// ---- while others publish -----------------------------------------------------------------------

/// Delivered messages are drained, and after the first `Closed` there are only more, while publishers go on.
#[test]
fn a_closed_inbox_stays_closed_while_publishers_go_on() {
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
                let _stop = stop.set_on_drop();
                let publishers: Vec<_> = (0..2)
                    .map(|publisher| {
                        let (bus, stop) = (&bus, &stop);
                        scope.spawn(move || {
                            let topic = bus.topic("c");
                            let mut matched = 0;
                            while !stop.is_set() {
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
                stop.set();
                let matched = publishers.into_iter().map(|thread| thread.join().unwrap()).sum();
                reached += matched;
                // Messages that enter after the end has been read count in the depth.
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

/// Messages whose publish happened before the close are drained.
#[test]
fn messages_published_before_the_close_are_drained() {
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

#[test]
fn closing_returns_while_publishers_go_on() {
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
            assert_disconnected(sub, "publishers went on");
        }
    });
}

// ---- while a publish stands still ---------------------------------------------------------------

/// A publish stands still in its turn because its payload's `Clone` waits.
#[test]
fn closing_waits_for_no_publish() {
    watched(|| {
        // The waiting publish serves `first` before the clone that waits and `last` after it. `aside` is
        // reached on another channel by the pattern that the publish uses.
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
                let _open = gate.open_on_drop();
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
                        // These calls do not wait either.
                        assert_eq!(bus.publish("c", Hooked::plain(2)), Receipt::default());
                        assert_eq!(bus.publish("cc", Hooked::plain(2)), Receipt::default());
                        assert_eq!(bus.match_count("c"), 0);
                        assert_eq!(bus.subscribe("c").err(), Some(SubscribeError::Closed));
                    }
                });
                // Only the gate holds the publisher up, and it is shut.
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
                    // The thread ends when its receiver is disconnected: no sender is left.
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
fn a_closed_bus_holds_nothing_while_a_publish_is_still_in_its_turn() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let subs = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
        subs[1].psubscribe("c*").unwrap();
        let topic = bus.topic("c");
        let gate = Gate::new();
        let _open = gate.open_on_drop();
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
fn closing_ends_a_blocked_recv_while_a_publish_is_still_in_its_turn() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let first = silent(&bus).subscribe("c").unwrap();
        let last = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_on_drop();
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

/// Reports that a copy is being made, and waits until it may be.
type Gates = (mpsc::Sender<()>, mpsc::Receiver<()>);

/// A payload whose first copy waits. When a copy is dropped, another thread checks that the channel's turn is
/// free.
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
fn a_publish_neither_reaches_nor_counts_an_inbox_closed_and_drained_meanwhile() {
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
            // All copies are dropped, the one made for the closed inbox included.
            assert_eq!(Arc::strong_count(&gate), 1);
        }
    }
}

// ---- while others inspect, subscribe and leave --------------------------------------------------

/// Raw receivers of pattern subscribers are disconnected however many calls inspect the bus while it closes.
#[test]
fn closing_disconnects_receivers_while_others_inspect_the_bus() {
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
                    let _stop = stop.set_on_drop();
                    scope.spawn(|| {
                        begun.wait();
                        while !stop.is_set() {
                            look(&bus, &subs);
                        }
                    });
                    begun.wait();
                    linger(round);
                    bus.close();
                    stop.set();
                });
                for sub in &subs {
                    assert_disconnected(sub, what);
                }
            }
        });
    }
}

/// Raw receivers are disconnected while other subscribers of their pattern come and go.
#[test]
fn closing_disconnects_receivers_while_others_subscribe_and_leave() {
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

/// A subscribe that overlaps the close is refused, or its subscriber is closed like the others.
#[test]
fn subscribing_while_the_bus_closes_is_refused_or_closed() {
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

// ---- while others close -------------------------------------------------------------------------

#[test]
fn upgrading_while_the_last_handle_is_dropped_gives_an_open_bus_or_none() {
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
            payloads(&sub);
            assert_ended(&sub);
        }
    });
}

#[test]
fn many_threads_may_close_at_once() {
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
                assert_eq!(payloads(sub), [1]);
                assert_ended(sub);
            }
        }
    });
}

/// A large bus takes a moment to close. A second thread that closes it meanwhile finds it closed when its own
/// call returns.
#[test]
fn the_bus_is_closed_when_the_second_of_two_concurrent_closes_returns() {
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
