//! A payload's `Clone` runs in the turn: a call from it that would wait panics with an explanation, and never
//! deadlocks. What it drops is released after the turn.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, CloseReason, Overflow, Receipt, RecvTimeoutError, SubscribeError, Subscriber};
use support::{
    Act, Hooked, WATCHDOG, World, drop_in_clone, full_inbox, let_it_wait, panic_of, panic_text,
    payloads, silent, watched,
};

// ---- calls --------------------------------------------------------------------------------------

/// Calls that a payload's `Clone` must not make.
const FORBIDDEN: [(&str, Act); 53] = [
    // Publishing.
    ("publish", |world| _ = world.bus.publish("c", Hooked::plain(1))),
    ("publish to another channel", |world| _ = world.bus.publish("other", Hooked::plain(1))),
    ("publish to a channel never seen", |world| _ = world.bus.publish("new", Hooked::plain(1))),
    ("publish on another bus", |world| _ = world.other_bus.publish("c", Hooked::plain(1))),
    ("publish_with", |world| _ = world.bus.publish_with("c", || Hooked::plain(1))),
    ("try_publish_with", |world| _ = world.bus.try_publish_with("c", || Err(()))),
    ("publish through a topic", |world| _ = world.topic.publish(Hooked::plain(1))),
    ("a topic's publish_with", |world| _ = world.topic.publish_with(|| Hooked::plain(1))),
    ("publish_many", |world| _ = world.bus.publish_many(["c", "other"], Hooked::plain(1))),
    ("publish_many of one that nobody listens to", |world| {
        _ = world.bus.publish_many(["new"], Hooked::plain(1));
    }),
    ("publish_each", |world| _ = world.bus.publish_each([("c", Hooked::plain(1))])),
    ("publish_except", |world| {
        _ = world.bus.publish_except("c", Hooked::plain(1), &world.sub);
    }),
    // Topics and new subscribers.
    ("topic", |world| _ = world.bus.topic("c")),
    ("subscribe", |world| _ = world.bus.subscribe("c")),
    ("subscribe elsewhere", |world| _ = world.bus.subscribe("other")),
    ("psubscribe", |world| _ = world.bus.psubscribe("c*")),
    ("subscribe on another bus", |world| _ = world.other_bus.subscribe("c")),
    ("a topic's subscribe", |world| _ = world.topic.subscribe()),
    ("subscribe_many of a builder", |world| {
        _ = world.bus.subscriber_builder().subscribe_many(["c"]);
    }),
    // Changing subscriptions, and closing.
    ("sub.subscribe", |world| _ = world.sub.subscribe("other")),
    ("sub.psubscribe", |world| _ = world.sub.psubscribe("other*")),
    ("unsubscribe", |world| _ = world.sub.unsubscribe("c")),
    ("unsubscribe on another bus", |world| _ = world.other_sub.unsubscribe("c")),
    ("punsubscribe", |world| _ = world.sub.punsubscribe("c*")),
    ("unsubscribe_all", |world| _ = world.sub.unsubscribe_all()),
    ("punsubscribe_all", |world| _ = world.sub.punsubscribe_all()),
    ("sub.close", |world| world.sub.close()),
    ("resubscribe", |world| _ = world.sub.resubscribe()),
    // Introspection.
    ("channels", |world| _ = world.bus.channels()),
    ("channels_matching", |world| _ = world.bus.channels_matching("c*")),
    ("subscriber_count", |world| _ = world.bus.subscriber_count("c")),
    ("pattern_count", |world| _ = world.bus.pattern_count()),
    ("topic.match_count", |world| _ = world.topic.match_count()),
    ("topic.subscriber_count", |world| _ = world.topic.subscriber_count()),
    ("sub.channels", |world| _ = world.sub.channels()),
    ("sub.patterns", |world| _ = world.sub.patterns()),
    ("sub.info", |world| _ = world.sub.info()),
    ("topic.stats", |world| _ = world.topic.stats()),
    ("watch_interest", |world| _ = world.bus.watch_interest()),
    ("match_count", |world| _ = world.bus.match_count("c")),
    ("patterns", |world| _ = world.bus.patterns()),
    ("stats", |world| _ = world.bus.stats()),
    ("subscribers", |world| _ = world.bus.subscribers()),
    // Waiting for events, for room, and for threads.
    ("recv", |world| _ = world.idle.recv()),
    ("recv_timeout", |world| _ = world.idle.recv_timeout(WATCHDOG)),
    ("recv_deadline", |world| _ = world.idle.recv_deadline(Instant::now() + WATCHDOG)),
    ("recv_message", |world| _ = world.idle.recv_message()),
    ("recv_message_timeout", |world| _ = world.idle.recv_message_timeout(WATCHDOG)),
    ("a blocking iterator", |world| _ = world.idle.iter().next()),
    ("a blocking iterator of messages", |world| _ = world.idle.messages().next()),
    ("a publish that would wait for room", |world| {
        _ = world.other_bus.publish("full", Hooked::plain(1));
    }),
    ("join", |world| _ = world.take_listener().join()),
    ("join_timeout", |world| _ = world.take_listener().join_timeout(WATCHDOG)),
];

/// All other calls: they may work or panic, but must return.
const THE_REST: [(&str, Act); 11] = [
    ("subscriber", |world| _ = world.bus.subscriber()),
    ("sub.len and the like", |world| {
        _ = (world.sub.len(), world.sub.missed(), world.sub.is_closed(), world.sub.close_reason());
    }),
    ("Debug", |world| _ = format!("{:?} {:?} {:?}", world.bus, world.sub, world.topic)),
    // Receives that do not wait for long.
    ("try_recv", |world| _ = world.sub.try_recv()),
    ("recv_timeout", |world| _ = world.sub.recv_timeout(Duration::from_millis(1))),
    // Cloning, dropping and closing handles.
    ("clone and drop", |world| _ = (world.bus.clone(), world.sub.clone(), world.topic.clone())),
    ("downgrade and upgrade", |world| _ = world.bus.downgrade().upgrade()),
    ("drop a subscriber", |world| _ = world.take_spare()),
    ("drop a listener", |world| _ = world.sub.spawn("dropped", |_| ())),
    ("close another bus", |world| world.other_bus.close()),
    ("close", |world| world.bus.close()),
];

/// A receive that does not have to wait may be called from anywhere.
#[test]
fn a_clone_may_call_a_receive_that_does_not_wait() {
    watched(|| {
        let world = World::new();
        let (tell, told) = mpsc::channel();
        world.bus.publish("c", {
            let world = Arc::clone(&world);
            Hooked::on_clone(1, move || {
                let events = (world.sub.recv(), world.sub.recv_timeout(WATCHDOG));
                let nothing = world.idle.recv_timeout(Duration::ZERO).err();
                tell.send((events.0.is_ok(), events.1.is_ok(), nothing)).unwrap();
            })
        });
        assert_eq!(told.recv().unwrap(), (true, true, Some(RecvTimeoutError::Timeout)));
        world.assert_goes_on("receives");
    });
}

#[track_caller]
fn assert_says_so(call: &str, text: &str) {
    assert!(text.contains("Clone"), "{call}: the panic does not say why: {text}");
}

#[test]
fn a_clone_that_calls_the_bus_panics_with_an_explanation() {
    for (call, perform) in FORBIDDEN {
        watched(move || {
            let world = World::new();
            let before = (world.bus.stats(), world.other_bus.stats());
            // The clone itself sees the panic.
            let (tell, told) = mpsc::channel();
            let receipt = world.bus.publish("c", {
                let world = Arc::clone(&world);
                Hooked::on_clone(1, move || tell.send(panic_of(|| perform(&world))).unwrap())
            });
            assert_says_so(call, &told.recv().unwrap());
            assert_eq!(receipt.delivered, 4, "{call}");
            let after = (world.bus.stats(), world.other_bus.stats());
            assert_eq!(after.0.published, before.0.published + 1, "{call}");
            assert_eq!(after.0.channels, before.0.channels, "{call}");
            assert_eq!(after.0.patterns, before.0.patterns, "{call}");
            assert_eq!(after.0.subscribers, before.0.subscribers, "{call}");
            assert_eq!(after.1, before.1, "{call}");
            world.assert_goes_on(call);

            // The panic comes through the publish: by name, by a pattern and through a topic.
            for way in 0..3 {
                let world = World::new();
                let payload = {
                    let world = Arc::clone(&world);
                    Hooked::on_clone(1, move || perform(&world))
                };
                let text = panic_of(|| match way {
                    0 => world.bus.publish("c", payload),
                    1 => world.bus.publish("cc", payload),
                    _ => world.topic.publish(payload),
                });
                assert_says_so(call, &text);
                world.assert_goes_on(call);
            }
        });
    }
}

/// Hazard: one thread has the turn and wants a subscriber's lock, another has the lock and wants the turn.
#[test]
fn no_call_from_a_clone_deadlocks_with_a_call_of_another_thread() {
    type Other = fn(&World);
    let others: [(&str, Other); 5] = [
        ("unsubscribes", |world| _ = world.sub.unsubscribe("c")),
        ("subscribes again", |world| {
            let sub = world.sub.clone();
            sub.unsubscribe("c");
            drop(sub.subscribe("c"));
        }),
        ("punsubscribes", |world| _ = world.sub.punsubscribe("c*")),
        ("closes the subscriber", |world| world.sub.close()),
        ("asks for its info", |world| _ = world.sub.info()),
    ];
    let mut deadlocks = Vec::new();
    for (other, interfere) in others {
        for (call, perform) in THE_REST.into_iter().chain(FORBIDDEN) {
            if deadlocks.len() == 2 {
                // Two are enough to report, and each takes its time.
                break;
            }
            let what = format!("{call} while another thread {other}");
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                watched(move || {
                    let world = World::new();
                    let (enter, entered) = mpsc::channel();
                    let (begin, begun) = mpsc::channel();
                    thread::scope(|scope| {
                        let publisher = scope.spawn(|| {
                            let inside = Arc::clone(&world);
                            let payload = Hooked::on_clone(1, move || {
                                enter.send(()).unwrap();
                                begun.recv().unwrap();
                                let_it_wait();
                                let _ = catch_unwind(AssertUnwindSafe(|| perform(&inside)));
                            });
                            // To another channel for the pattern, so that the exact turn is free.
                            world.bus.publish("c", payload)
                        });
                        entered.recv().unwrap();
                        begin.send(()).unwrap();
                        interfere(&world);
                        publisher.join().unwrap();
                    });
                    world.assert_goes_on(call);
                });
            }));
            if let Err(panic) = outcome {
                deadlocks.push(format!("{what}: {}", panic_text(&*panic)));
            }
        }
    }
    assert!(deadlocks.is_empty(), "{deadlocks:#?}");
}

#[test]
fn clones_that_publish_to_each_others_channels_do_not_deadlock() {
    watched(|| {
        for caught in [false, true] {
            for pattern in [false, true] {
                let bus: Bus<Hooked> = Bus::new();
                let subs: Vec<_> = (0..2)
                    .map(|_| {
                        let sub = silent(&bus).build();
                        match pattern {
                            false => sub.subscribe_many(["a", "b"]).unwrap(),
                            true => sub.psubscribe_many(["[ab]", "?"]).unwrap(),
                        };
                        sub
                    })
                    .collect();
                let inside = Arc::new(Barrier::new(2));
                let threads = [("a", "b"), ("b", "a")].map(|(own, others)| {
                    let (bus, inside) = (bus.clone(), Arc::clone(&inside));
                    thread::spawn(move || {
                        let inner = bus.clone();
                        let payload = Hooked::on_clone(1, move || {
                            // Each thread has its channel's turn now.
                            inside.wait();
                            let publish = || inner.publish(others, Hooked::plain(2));
                            match caught {
                                true => drop(panic_of(publish)),
                                false => drop(publish()),
                            }
                        });
                        catch_unwind(AssertUnwindSafe(|| bus.publish(own, payload)))
                    })
                });
                for thread in threads {
                    let outcome = thread.join().unwrap();
                    assert_eq!(outcome.is_ok(), caught);
                }
                for channel in ["a", "b"] {
                    let matched = if pattern { 4 } else { 2 };
                    assert_eq!(bus.publish(channel, Hooked::plain(3)).delivered, matched);
                }
                assert_eq!(subs[0].missed(), 0);
            }
        }
    });
}

// ---- drops --------------------------------------------------------------------------------------

#[test]
fn a_subscriber_dropped_by_a_clone_is_unsubscribed_when_the_publish_returns() {
    watched(|| {
        for names in [&["c"][..], &["other"], &["c", "other"], &[]] {
            for patterns in [&[][..], &["c*"], &["other*"], &["c*", "?", "other*"]] {
                let bus: Bus<Hooked> = Bus::new();
                let stay =
                    [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
                let sub = bus.subscriber();
                sub.subscribe_many(names).unwrap();
                sub.psubscribe_many(patterns.iter().copied()).unwrap();
                drop_in_clone(&bus, "c", sub);
                let stats = bus.stats();
                assert_eq!((stats.subscribers, stats.patterns, stats.channels), (2, 0, 1));
                assert_eq!((bus.subscriber_count("c"), bus.match_count("c")), (2, 2));
                assert_eq!((bus.subscriber_count("other"), bus.match_count("other")), (0, 0));
                assert_eq!(bus.subscribers().len(), 2);
                assert_eq!(bus.publish("c", Hooked::plain(2)).matched, 2);
                assert_eq!(bus.publish("other", Hooked::plain(2)), Receipt::default());
                assert_eq!((stay[0].len(), stay[1].len()), (2, 2));
            }
        }
    });
}

#[test]
fn a_subscriber_of_another_bus_dropped_by_a_clone_is_unsubscribed_when_the_publish_returns() {
    watched(|| {
        let one: Bus<Hooked> = Bus::new();
        let _stay = [one.subscribe("c").unwrap(), one.subscribe("c").unwrap()];
        let other: Bus<Hooked> = Bus::new();
        let sub = other.subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        drop_in_clone(&one, "c", sub);
        assert_eq!(other.subscriber_count("c"), 0);
        assert!(other.channels().is_empty());
        assert_eq!(other.pattern_count(), 0);
        assert_eq!(other.stats().subscribers, 0);
        assert_eq!(other.match_count("c"), 0);
        assert_eq!(other.publish("c", Hooked::plain(1)), Receipt::default());
    });
}

#[test]
fn a_subscriber_dropped_by_a_clone_that_panics_is_still_unsubscribed() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let _stay = [bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap()];
        let sub = bus.subscribe("other").unwrap();
        sub.psubscribe("o*").unwrap();
        panic_of(|| {
            bus.publish(
                "c",
                Hooked::on_clone(1, move || {
                    drop(sub);
                    panic!("a clone");
                }),
            )
        });
        assert_eq!(bus.subscriber_count("other"), 0);
        assert_eq!(bus.pattern_count(), 0);
        assert_eq!(bus.match_count("other"), 0);
        assert_eq!(bus.publish("other", Hooked::plain(1)), Receipt::default());
    });
}

/// Discarded messages are dropped outside the turn, and may use the bus.
#[test]
fn messages_of_an_inbox_dropped_by_a_clone_are_dropped_after_the_turn() {
    type Before = fn(&Bus<Hooked>, &Subscriber<Hooked>);
    let befores: [(&str, Before); 4] = [
        ("subscribed", |_, _| ()),
        ("unsubscribed", |_, sub| _ = sub.unsubscribe("held")),
        ("closed", |_, sub| sub.close()),
        ("of another channel only", |_, sub| {
            sub.subscribe("apart").unwrap();
            sub.unsubscribe("held");
        }),
    ];
    for (state, prepare) in befores {
        watched(move || {
            let bus: Bus<Hooked> = Bus::new();
            let stay = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
            let sub = silent(&bus).subscribe("held").unwrap();
            let (tell, told) = mpsc::channel();
            let used = bus.clone();
            bus.publish(
                "held",
                Hooked::on_drop(1, move || {
                    let receipt =
                        catch_unwind(AssertUnwindSafe(|| used.publish("c", Hooked::plain(2))));
                    tell.send(receipt.map_err(|panic| panic_text(&*panic))).unwrap();
                }),
            );
            prepare(&bus, &sub);
            assert_eq!(drop_in_clone(&bus, "c", sub).delivered, 2, "{state}");
            let receipt = told.try_recv().expect("dropped when the publish returns");
            let delivered = receipt.map(|receipt| receipt.delivered);
            assert_eq!(delivered, Ok(2), "{state}");
            let values = payloads(&stay[1]).iter().map(|payload| payload.value).collect::<Vec<_>>();
            assert_eq!(values, [1, 2], "{state}: the turn was not over");
        });
    }
}

#[test]
fn an_inbox_dropped_by_a_clone_is_freed_before_the_publish_returns() {
    type Receivers = fn(&Bus<Hooked>) -> Vec<Subscriber<Hooked>>;
    fn subscribe(bus: &Bus<Hooked>) -> Subscriber<Hooked> {
        silent(bus).subscribe("c").unwrap()
    }
    let receivers: [(&str, Receivers); 5] = [
        ("two by the channel", |bus| vec![subscribe(bus), subscribe(bus)]),
        ("one by the channel, one by a pattern", |bus| {
            vec![subscribe(bus), silent(bus).psubscribe("c*").unwrap()]
        }),
        ("two by one pattern", |bus| {
            vec![silent(bus).psubscribe("c*").unwrap(), silent(bus).psubscribe("c*").unwrap()]
        }),
        ("two by two patterns", |bus| {
            vec![silent(bus).psubscribe("c*").unwrap(), silent(bus).psubscribe("?").unwrap()]
        }),
        ("two, of which the first is full", |bus| {
            let full = full_inbox(bus, Overflow::DropOldest, Hooked::plain(0));
            full.subscribe("c").unwrap();
            vec![full, subscribe(bus)]
        }),
    ];
    for (who, receivers) in receivers {
        for panics in [false, true] {
            watched(move || {
                let bus: Bus<Hooked> = Bus::new();
                let _receivers = receivers(&bus);
                let leaver = silent(&bus).subscribe("other").unwrap();
                let (tell, told) = mpsc::channel();
                bus.publish("other", Hooked::on_drop(0, move || tell.send(()).unwrap()));
                let payload = Hooked::on_clone(1, move || {
                    drop(leaver);
                    if panics {
                        panic!("a clone");
                    }
                });
                let unwound = catch_unwind(AssertUnwindSafe(|| bus.publish("c", payload))).is_err();
                // Without another call of the bus, the messages of its inbox are dropped by now.
                assert_eq!(told.try_recv(), Ok(()), "{who}, panics: {panics}");
                assert_eq!(unwound, panics, "{who}");
            });
        }
    }
}

#[test]
fn a_clone_may_drop_topics_and_listeners() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let stay = [silent(&bus).subscribe("c").unwrap(), silent(&bus).psubscribe("c*").unwrap()];
        for channel in ["c", "cc", "other"] {
            let topic = bus.topic(channel);
            assert_eq!(drop_in_clone(&bus, "c", topic).delivered, 2);
        }
        let topic = bus.topic("by pattern alone");
        let _other = silent(&bus).psubscribe("by*").unwrap();
        let _another = silent(&bus).psubscribe("b*").unwrap();
        assert_eq!(drop_in_clone(&bus, "by pattern alone", topic).delivered, 2);
        let listener = stay[0].spawn("dropped", |_| thread::yield_now());
        assert_eq!(drop_in_clone(&bus, "c", listener).delivered, 2);
        assert_eq!(drop_in_clone(&bus, "c", (bus.clone(), stay[0].clone())).delivered, 2);
        assert_eq!(bus.publish("c", Hooked::plain(2)).delivered, 2);
    });
}

#[test]
fn the_last_bus_handle_dropped_by_a_clone_closes_the_bus() {
    watched(|| {
        for with_topic in [false, true] {
            let one: Bus<Hooked> = Bus::new();
            let stay =
                [silent(&one).subscribe("c").unwrap(), silent(&one).psubscribe("c*").unwrap()];
            let other: Bus<Hooked> = Bus::new();
            let subs =
                [silent(&other).subscribe("c").unwrap(), silent(&other).psubscribe("c*").unwrap()];
            other.publish("c", Hooked::plain(1));
            let topic = other.topic("c");
            let receipt = match with_topic {
                true => {
                    drop(other);
                    drop_in_clone(&one, "c", topic)
                }
                false => {
                    drop(topic);
                    drop_in_clone(&one, "c", other)
                }
            };
            assert_eq!(receipt.delivered, 2);
            for sub in &subs {
                assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
                assert_eq!(sub.recv_message().unwrap().payload.value, 1);
                assert!(sub.recv().is_err());
                assert!(sub.receiver().recv().is_err());
                assert_eq!(sub.subscribe("more"), Err(SubscribeError::Closed));
            }
            assert_eq!(payloads(&stay[0]).len(), 1);
            assert_eq!(one.publish("c", Hooked::plain(2)).delivered, 2);
        }
    });
}
