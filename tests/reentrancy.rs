//! User code runs outside every lock and turn: wherever it runs, it may use the bus as it likes. A
//! payload's `Clone` is the one exception, and told so by a panic; nothing ever deadlocks, and a panic in
//! user code harms that call alone.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{
    Bus, CloseReason, Event, Listener, Overflow, Pattern, Receipt, RecvTimeoutError,
    SubscribeError, Subscriber, Topic,
};
use support::{
    Gate, Hooked, UserCode, WATCHDOG, assert_books, drain, eventually, let_it_wait, panic_of,
    panic_text, silent, watched,
};

/// What user code gets hold of.
struct World {
    bus: Bus<Hooked>,
    /// Of `c` and `c*`.
    sub: Subscriber<Hooked>,
    /// The same, with messages queued, to be dropped.
    spare: Mutex<Option<Subscriber<Hooked>>>,
    topic: Topic<Hooked>,
    other_bus: Bus<Hooked>,
    other_sub: Subscriber<Hooked>,
    /// Of the other bus: it has nothing to read.
    idle: Subscriber<Hooked>,
    /// Of the other bus: publishers of `full` wait for room.
    _full: Subscriber<Hooked>,
    listener: Mutex<Option<Listener>>,
}

impl World {
    fn new() -> Arc<Self> {
        let bus: Bus<Hooked> = Bus::builder().capacity(4).build();
        let sub = bus.subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        let spare = bus.subscribe("c").unwrap();
        spare.psubscribe("c*").unwrap();
        bus.publish("c", Hooked::plain(0));
        let other_bus: Bus<Hooked> = Bus::new();
        let other_sub = other_bus.subscribe("c").unwrap();
        let topic = bus.topic("c");
        let spare = Mutex::new(Some(spare));
        let idle = silent(&other_bus).subscribe("idle").unwrap();
        let listener = Mutex::new(Some(idle.spawn("idle", |_| ())));
        let blocking = silent(&other_bus).capacity(1).overflow(Overflow::Block { timeout: None });
        let full = blocking.subscribe("full").unwrap();
        other_bus.publish("full", Hooked::plain(0));
        Arc::new(Self { bus, sub, spare, topic, other_bus, other_sub, idle, _full: full, listener })
    }

    fn take_listener(&self) -> Listener {
        self.listener.lock().unwrap().take().unwrap()
    }

    fn take_spare(&self) -> Option<Subscriber<Hooked>> {
        self.spare.lock().unwrap().take()
    }

    /// The bus goes on, unless it was closed.
    #[track_caller]
    fn assert_goes_on(&self, what: &str) {
        if self.bus.is_closed() {
            return;
        }
        let probe = silent(&self.bus).subscribe("c").unwrap();
        probe.psubscribe("c*").unwrap();
        assert!(self.bus.publish("c", Hooked::plain(7)).delivered >= 2, "{what}");
        assert!(self.topic.publish(Hooked::plain(8)).delivered >= 2, "{what}");
        let values: Vec<u64> = drain(&probe).iter().map(|payload| payload.value).collect();
        assert_eq!(values, [7, 7, 8, 8], "{what}");
        assert_books(&probe, 4);
        drop(probe);
        let stats = self.bus.stats();
        assert_eq!(stats.matched, stats.delivered + stats.dropped, "{what}");
    }
}

/// A call on the world.
type Act = fn(&World);

const ACTS: [(&str, Act); 24] = [
    ("publish to the same channel", |world| _ = world.bus.publish("c", Hooked::plain(1))),
    ("publish to another channel", |world| _ = world.bus.publish("ccc", Hooked::plain(1))),
    ("publish_with", |world| _ = world.bus.publish_with("c", || Hooked::plain(1))),
    ("publish through a topic", |world| _ = world.topic.publish(Hooked::plain(1))),
    ("publish on another bus", |world| _ = world.other_bus.publish("c", Hooked::plain(1))),
    ("make a topic", |world| _ = world.bus.topic("fresh")),
    ("subscribe the channel anew", |world| _ = world.bus.subscribe("c")),
    ("psubscribe the pattern anew", |world| _ = world.bus.psubscribe("c*")),
    ("psubscribe a new pattern", |world| _ = world.bus.psubscribe("?")),
    ("subscribe more", |world| _ = world.sub.subscribe("more")),
    ("psubscribe more", |world| _ = world.sub.psubscribe("[c]")),
    ("subscribe many", |world| _ = world.sub.subscribe_many(["c", "d", "e"])),
    ("unsubscribe", |world| _ = world.sub.unsubscribe("c")),
    ("punsubscribe", |world| _ = world.sub.punsubscribe("c*")),
    ("unsubscribe from all", |world| {
        _ = world.sub.unsubscribe_all() + world.sub.punsubscribe_all()
    }),
    ("drop a subscriber", |world| _ = world.take_spare()),
    ("close a subscriber", |world| world.sub.close()),
    ("close a subscriber and drop it", |world| {
        if let Some(spare) = world.take_spare() {
            spare.close();
        }
    }),
    ("resubscribe", |world| _ = world.sub.resubscribe()),
    ("receive", |world| while world.sub.try_recv().is_ok() {}),
    ("spawn a listener", |world| {
        let listener = world.sub.spawn("made by user code", |_| ());
        listener.stop();
        listener.join().unwrap();
    }),
    ("look in", |world| {
        world.bus.match_count("c");
        world.bus.subscriber_count("c");
        world.bus.channels_matching("*");
        world.bus.patterns();
        world.bus.pattern_count();
        world.bus.stats();
        world.bus.subscribers();
        world.sub.info();
        world.sub.channels();
        world.sub.patterns();
        world.topic.match_count();
        world.topic.subscriber_count();
        _ = format!("{:?} {:?} {:?}", world.bus, world.sub, world.topic);
    }),
    ("close the bus", |world| world.bus.close()),
    ("drop the last handle of a bus", |_| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = bus.subscribe("c").unwrap();
        bus.publish("c", Hooked::plain(1));
        drop(bus);
        assert!(sub.is_closed());
    }),
];

/// A payload made by a conversion that runs user code.
struct Converted(UserCode);

impl From<Converted> for Hooked {
    fn from(Converted(code): Converted) -> Self {
        code();
        Self::plain(2)
    }
}

/// A channel's name that runs user code when it is looked at, and a pattern made so.
struct Named(Mutex<Option<UserCode>>);

impl Named {
    fn run(&self) {
        let code = self.0.lock().unwrap().take();
        if let Some(code) = code {
            code();
        }
    }
}

impl AsRef<str> for Named {
    fn as_ref(&self) -> &str {
        self.run();
        "named"
    }
}

impl From<Named> for Pattern {
    fn from(named: Named) -> Self {
        named.run();
        Self::redis("named*")
    }
}

/// Brings about that the code runs, somewhere in the engine's hands.
type Occasion = fn(&World, UserCode);

fn full_inbox(bus: &Bus<Hooked>, overflow: Overflow, payload: Hooked) -> Subscriber<Hooked> {
    let full = silent(bus).capacity(1).overflow(overflow).subscribe("full").unwrap();
    bus.publish("full", payload);
    full
}

const OCCASIONS: [(&str, Occasion); 29] = [
    ("a handler", |world, code| {
        let mut code = Some(code);
        let (tell, told) = mpsc::channel();
        let listener = silent(&world.bus).subscribe("c").unwrap().spawn("handles", move |_| {
            if let Some(code) = code.take() {
                code();
                tell.send(()).unwrap();
            }
        });
        world.bus.publish("c", Hooked::plain(2));
        told.recv().unwrap();
        listener.stop();
        listener.join().unwrap();
    }),
    ("a conversion", |world, code| _ = world.bus.publish("c", Converted(code))),
    ("a conversion for a topic", |world, code| _ = world.topic.publish(Converted(code))),
    ("a conversion that nobody needs", |world, code| {
        world.bus.publish("nobody", Converted(code));
    }),
    ("a closure of publish_with", |world, code| {
        world.bus.publish_with("c", || Converted(code).into());
    }),
    ("a closure of try_publish_with", |world, code| {
        world.bus.try_publish_with("c", || Ok::<_, ()>(Converted(code).into())).unwrap();
    }),
    ("a closure of try_publish_with that fails", |world, code| {
        let fail = || {
            code();
            Err(())
        };
        world.bus.try_publish_with("c", fail).unwrap_err();
    }),
    ("a closure of a topic's publish_with", |world, code| {
        world.topic.publish_with(|| Converted(code).into());
    }),
    ("the drop of an evicted payload", |world, code| {
        let _full = full_inbox(&world.bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        world.bus.publish("full", Hooked::plain(2));
    }),
    ("the drop of one evicted by a topic", |world, code| {
        let _full = full_inbox(&world.bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        world.bus.topic("full").publish(Hooked::plain(2));
    }),
    ("the drop of one evicted by a pattern's message", |world, code| {
        let full = full_inbox(&world.bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        full.psubscribe("c?").unwrap();
        full.psubscribe("*a").unwrap();
        world.bus.publish("ca", Hooked::plain(2));
    }),
    ("the drop of one evicted while events are pending", |world, code| {
        let full = world.bus.subscriber_builder().capacity(1).subscribe("full").unwrap();
        world.bus.publish("full", Hooked::on_drop(1, code));
        full.unsubscribe("full");
        full.subscribe("full").unwrap();
        full.unsubscribe("other");
        world.bus.publish("full", Hooked::plain(2));
    }),
    ("the drop of a payload that DropNewest refuses", |world, code| {
        let _full = full_inbox(&world.bus, Overflow::DropNewest, Hooked::plain(1));
        world.bus.publish("full", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload that one of several refuses", |world, code| {
        let _first = silent(&world.bus).subscribe("full").unwrap();
        let _full = full_inbox(&world.bus, Overflow::DropNewest, Hooked::plain(1));
        let _last = silent(&world.bus).subscribe("full").unwrap();
        world.bus.publish("full", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload that the last of several refuses", |world, code| {
        let _first = silent(&world.bus).subscribe("full").unwrap();
        let _full = full_inbox(&world.bus, Overflow::DropNewest, Hooked::plain(1));
        world.bus.publish("full", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload that Disconnect refuses", |world, code| {
        let full = full_inbox(&world.bus, Overflow::Disconnect, Hooked::plain(1));
        world.bus.publish("full", Hooked::on_drop(2, code));
        assert_eq!(full.close_reason(), Some(CloseReason::Overflow));
    }),
    ("the drop of a payload that waited in vain", |world, code| {
        let block = Overflow::Block { timeout: Some(Duration::from_millis(1)) };
        let _full = full_inbox(&world.bus, block, Hooked::plain(1));
        world.bus.publish("full", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload whose wait was ended", |world, code| {
        let block = Overflow::Block { timeout: None };
        let full = full_inbox(&world.bus, block, Hooked::plain(1));
        let (begin, begun) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.send(()).unwrap();
                world.bus.publish("full", Hooked::on_drop(2, code));
            });
            begun.recv().unwrap();
            thread::yield_now();
            full.close();
        });
    }),
    ("the drop of a payload that nobody gets", |world, code| {
        world.bus.publish("nobody", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload on a closed bus", |_, code| {
        let bus: Bus<Hooked> = Bus::new();
        let topic = bus.topic("c");
        bus.close();
        topic.publish(Hooked::on_drop(2, code));
    }),
    ("the drop of what a dropped inbox holds", |world, code| {
        let full = full_inbox(&world.bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        full.psubscribe("full*").unwrap();
        drop(full);
    }),
    ("the drop of what a dropped inbox of patterns holds", |world, code| {
        let sub = silent(&world.bus).psubscribe("hel*").unwrap();
        world.bus.publish("held", Hooked::on_drop(1, code));
        drop(sub);
    }),
    ("the drop of what a closed inbox held", |world, code| {
        let full = full_inbox(&world.bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        full.close();
        drop(full);
    }),
    ("the drop of what is discarded with a closed bus", |_, code| {
        let bus: Bus<Hooked> = Bus::new();
        let full = full_inbox(&bus, Overflow::DropOldest, Hooked::on_drop(1, code));
        drop(bus);
        drop(full);
    }),
    ("the name of subscribe", |world, code| {
        let named = Named(Mutex::new(Some(code)));
        drop(world.bus.subscribe(&named));
        drop(world.sub.subscribe(&named));
    }),
    ("the name of unsubscribe", |world, code| {
        world.sub.unsubscribe(Named(Mutex::new(Some(code))));
    }),
    ("the pattern of channels_matching", |world, code| {
        world.bus.channels_matching(Named(Mutex::new(Some(code))));
    }),
    ("the names of subscribe_many", |world, code| {
        let named = Named(Mutex::new(Some(code)));
        drop(world.sub.subscribe_many([&named]));
    }),
    ("the patterns of psubscribe_many, and the iterator", |world, code| {
        let named = std::iter::once_with(|| Named(Mutex::new(Some(code))));
        drop(world.sub.psubscribe_many(named));
    }),
];

#[test]
fn user_code_may_do_anything_from_anywhere() {
    for (occasion, bring_about) in OCCASIONS {
        for (act, perform) in ACTS {
            let what = format!("{act}, from {occasion}");
            let name = what.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                watched(move || {
                    let world = World::new();
                    let ran = Arc::new(AtomicBool::new(false));
                    let code = Box::new({
                        let (world, ran) = (Arc::clone(&world), Arc::clone(&ran));
                        move || {
                            perform(&world);
                            ran.store(true, Ordering::SeqCst);
                        }
                    });
                    bring_about(&world, code);
                    assert!(ran.load(Ordering::SeqCst), "{what}: it did not run");
                    world.assert_goes_on(&what);
                });
            }));
            if let Err(panic) = outcome {
                panic!("{name}: {}", panic_text(&*panic));
            }
        }
    }
}

#[test]
fn evicted_payloads_are_dropped_after_the_turn_by_the_publishing_thread() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let (tell, told) = mpsc::channel();
        let full = silent(&bus).capacity(1).subscribe("c").unwrap();
        let last = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", Hooked::plain(0));
        drain(&full);
        drain(&last);
        let seen = last.clone();
        bus.publish(
            "c",
            Hooked::on_drop(1, move || {
                // The publish that evicts this has served everybody.
                tell.send((thread::current().id(), seen.len())).unwrap();
            }),
        );
        // One copy of it runs the code: that of `full`.
        let kept = last.try_recv_message().unwrap();
        bus.publish("c", Hooked::plain(2));
        assert_eq!(told.try_recv().unwrap(), (thread::current().id(), 1));
        drop(kept);
        assert_eq!(full.try_recv_message().unwrap().payload.value, 2);
    });
}

/// Publishes from within publishes, many deep.
#[test]
fn drops_may_publish_what_evicts_what_publishes() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let full = silent(&bus).capacity(1).subscribe("c").unwrap();
        let count = Arc::new(AtomicU32::new(0));
        fn chain(bus: &Bus<Hooked>, count: &Arc<AtomicU32>, depth: u64) -> Hooked {
            let (bus, count) = (bus.clone(), Arc::clone(count));
            Hooked::on_drop(depth, move || {
                count.fetch_add(1, Ordering::SeqCst);
                if depth > 0 {
                    bus.publish("c", chain(&bus, &count, depth - 1));
                }
            })
        }
        bus.publish("c", chain(&bus, &count, 50));
        for _ in 0..60 {
            bus.publish("c", Hooked::plain(9));
        }
        assert_eq!(count.load(Ordering::SeqCst), 51);
        let info = full.info();
        assert_eq!(info.received + info.missed + info.depth as u64, bus.stats().matched);
        assert_eq!(bus.stats().published, 61 + 50);
    });
}

/// Hazard: a conversion under a lock. It runs before the look-up, even if nothing matches.
#[test]
fn a_conversion_may_subscribe_what_it_is_published_to() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let (keep, kept) = mpsc::channel();
        let made = bus.clone();
        let receipt = bus.publish(
            "c",
            Converted(Box::new(move || keep.send(made.subscribe("c").unwrap()).unwrap())),
        );
        assert_eq!(receipt.delivered, 1);
        assert_eq!(kept.recv().unwrap().recv_message().unwrap().payload.value, 2);
    });
}

#[test]
fn a_closure_may_change_who_matches() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let receipt = bus.publish_with("c", || {
            sub.unsubscribe("c");
            Hooked::plain(1)
        });
        assert_eq!(receipt, Receipt::default());
        sub.subscribe("c").unwrap();
        let topic = bus.topic("c");
        let second = silent(&bus).build();
        let receipt = topic.publish_with(|| {
            second.subscribe("c").unwrap();
            Hooked::plain(1)
        });
        assert_eq!(receipt.delivered, 2);
        let receipt = topic.publish_with(|| {
            bus.close();
            Hooked::plain(1)
        });
        assert_eq!(receipt, Receipt::default());
    });
}

// ---- the exception ------------------------------------------------------------------------------

/// Calls that a payload's `Clone` must not make.
const FORBIDDEN: [(&str, Act); 38] = [
    ("publish", |world| _ = world.bus.publish("c", Hooked::plain(1))),
    ("publish to another channel", |world| _ = world.bus.publish("other", Hooked::plain(1))),
    ("publish to a channel never seen", |world| _ = world.bus.publish("new", Hooked::plain(1))),
    ("publish on another bus", |world| _ = world.other_bus.publish("c", Hooked::plain(1))),
    ("publish_with", |world| _ = world.bus.publish_with("c", || Hooked::plain(1))),
    ("try_publish_with", |world| _ = world.bus.try_publish_with("c", || Err(()))),
    ("publish through a topic", |world| _ = world.topic.publish(Hooked::plain(1))),
    ("a topic's publish_with", |world| _ = world.topic.publish_with(|| Hooked::plain(1))),
    ("topic", |world| _ = world.bus.topic("c")),
    ("subscribe", |world| _ = world.bus.subscribe("c")),
    ("subscribe elsewhere", |world| _ = world.bus.subscribe("other")),
    ("psubscribe", |world| _ = world.bus.psubscribe("c*")),
    ("subscribe on another bus", |world| _ = world.other_bus.subscribe("c")),
    ("a topic's subscribe", |world| _ = world.topic.subscribe()),
    ("subscribe_many of a builder", |world| {
        _ = world.bus.subscriber_builder().subscribe_many(["c"]);
    }),
    ("sub.subscribe", |world| _ = world.sub.subscribe("other")),
    ("sub.psubscribe", |world| _ = world.sub.psubscribe("other*")),
    ("unsubscribe", |world| _ = world.sub.unsubscribe("c")),
    ("unsubscribe on another bus", |world| _ = world.other_sub.unsubscribe("c")),
    ("punsubscribe", |world| _ = world.sub.punsubscribe("c*")),
    ("unsubscribe_all", |world| _ = world.sub.unsubscribe_all()),
    ("punsubscribe_all", |world| _ = world.sub.punsubscribe_all()),
    ("sub.close", |world| world.sub.close()),
    ("resubscribe", |world| _ = world.sub.resubscribe()),
    ("match_count", |world| _ = world.bus.match_count("c")),
    ("patterns", |world| _ = world.bus.patterns()),
    ("stats", |world| _ = world.bus.stats()),
    ("subscribers", |world| _ = world.bus.subscribers()),
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

/// A receive that need not wait may be called from anywhere.
#[test]
fn a_receive_that_finds_something_may_be_called_by_a_payload_s_clone() {
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
fn a_call_from_a_payload_s_clone_panics_and_says_so() {
    for (call, perform) in FORBIDDEN {
        watched(move || {
            let world = World::new();
            let before = (world.bus.stats(), world.other_bus.stats());
            // The panic that the clone itself sees.
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

            // The panic that comes through the publish; by a pattern and a topic as well.
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

/// Everything else that can be called from there: it may work or panic, but comes back.
const THE_REST: [(&str, Act); 20] = [
    ("channels", |world| _ = world.bus.channels()),
    ("channels_matching", |world| _ = world.bus.channels_matching("c*")),
    ("subscriber_count", |world| _ = world.bus.subscriber_count("c")),
    ("pattern_count", |world| _ = world.bus.pattern_count()),
    ("topic.match_count", |world| _ = world.topic.match_count()),
    ("topic.subscriber_count", |world| _ = world.topic.subscriber_count()),
    ("subscriber", |world| _ = world.bus.subscriber()),
    ("sub.channels", |world| _ = world.sub.channels()),
    ("sub.patterns", |world| _ = world.sub.patterns()),
    ("sub.info", |world| _ = world.sub.info()),
    ("sub.len and the like", |world| {
        _ = (world.sub.len(), world.sub.missed(), world.sub.is_closed(), world.sub.close_reason());
    }),
    ("Debug", |world| _ = format!("{:?} {:?} {:?}", world.bus, world.sub, world.topic)),
    ("try_recv", |world| _ = world.sub.try_recv()),
    ("recv_timeout", |world| _ = world.sub.recv_timeout(Duration::from_millis(1))),
    ("clone and drop", |world| _ = (world.bus.clone(), world.sub.clone(), world.topic.clone())),
    ("downgrade and upgrade", |world| _ = world.bus.downgrade().upgrade()),
    ("drop a subscriber", |world| _ = world.take_spare()),
    ("drop a listener", |world| _ = world.sub.spawn("dropped", |_| ())),
    ("close another bus", |world| world.other_bus.close()),
    ("close", |world| world.bus.close()),
];

/// Hazard: one thread has the turn and wants a subscriber's lock, another has the lock and wants the
/// turn.
#[test]
fn no_call_from_a_payload_s_clone_deadlocks_whatever_another_thread_is_in() {
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
                // Enough to look into, and each takes its time.
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
fn two_threads_whose_clones_publish_to_each_other_s_channel_do_not_deadlock() {
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
                            // Each has its channel's turn now.
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

// ---- dropped inside a clone ---------------------------------------------------------------------

/// Publishes on `bus` a payload whose first clone drops `what`.
fn drop_in_clone<T: Send + 'static>(bus: &Bus<Hooked>, channel: &str, what: T) -> Receipt {
    bus.publish(channel, Hooked::on_clone(1, move || drop(what)))
}

#[test]
fn a_subscriber_dropped_by_a_payload_s_clone_is_unsubscribed_after_the_publish() {
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
fn a_subscriber_of_another_bus_dropped_by_a_payload_s_clone_is_unsubscribed_after_the_publish() {
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
fn a_subscriber_dropped_by_a_clone_that_panics_is_unsubscribed_all_the_same() {
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

/// What is discarded with an inbox is dropped outside the turn, and may use the bus.
#[test]
fn what_an_inbox_held_that_a_payload_s_clone_drops_is_dropped_after_the_turn() {
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
            let values = drain(&stay[1]).iter().map(|payload| payload.value).collect::<Vec<_>>();
            assert_eq!(values, [1, 2], "{state}: the turn was not over");
        });
    }
}

#[test]
fn topics_and_listeners_may_be_dropped_by_a_payload_s_clone() {
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
fn the_last_bus_dropped_by_a_payload_s_clone_closes() {
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
            assert_eq!(drain(&stay[0]).len(), 1);
            assert_eq!(one.publish("c", Hooked::plain(2)).delivered, 2);
        }
    });
}

// ---- panics -------------------------------------------------------------------------------------

/// A payload whose clone of the given number panics.
struct Fuse {
    value: u32,
    left: Arc<AtomicU32>,
}

impl Fuse {
    fn new(value: u32, clones: u32) -> Self {
        Self { value, left: Arc::new(AtomicU32::new(clones)) }
    }

    fn sound(value: u32) -> Self {
        Self::new(value, u32::MAX)
    }
}

impl Clone for Fuse {
    fn clone(&self) -> Self {
        assert_ne!(self.left.fetch_sub(1, Ordering::SeqCst), 0, "the fuse has blown");
        Self { value: self.value, left: Arc::clone(&self.left) }
    }
}

fn values(sub: &Subscriber<Fuse>) -> Vec<u32> {
    drain(sub).iter().map(|payload| payload.value).collect()
}

#[test]
fn a_clone_that_panics_leaves_the_inboxes_reached_with_their_message_and_the_bus_at_work() {
    watched(|| {
        for pattern in [false, true] {
            for topic in [false, true] {
                for blows_at in 0..4 {
                    let bus: Bus<Fuse> = Bus::new();
                    let subs: Vec<_> = (0..5)
                        .map(|_| match pattern {
                            false => silent(&bus).subscribe("c").unwrap(),
                            true => silent(&bus).psubscribe("c*").unwrap(),
                        })
                        .collect();
                    let publish = |payload| match topic {
                        false => bus.publish("c", payload),
                        true => bus.topic("c").publish(payload),
                    };
                    let text = panic_of(|| publish(Fuse::new(1, blows_at)));
                    assert!(text.contains("the fuse has blown"));

                    for (at, sub) in subs.iter().enumerate() {
                        let reached = (at as u32) < blows_at;
                        assert_eq!(sub.len(), usize::from(reached));
                        assert_books(sub, u64::from(reached));
                    }
                    let stats = bus.stats();
                    assert_eq!(stats.delivered, u64::from(blows_at));
                    assert_eq!((stats.matched, stats.dropped), (stats.delivered, 0));
                    // Turns and locks are free, for other threads as well.
                    let copy = bus.clone();
                    thread::spawn(move || {
                        assert_eq!(copy.publish("c", Fuse::sound(2)).delivered, 5);
                        assert_eq!(copy.match_count("c"), 5);
                    })
                    .join()
                    .unwrap();
                    assert_eq!(publish(Fuse::sound(3)).delivered, 5);
                    for (at, sub) in subs.iter().enumerate() {
                        let reached = (at as u32) < blows_at;
                        assert_eq!(values(sub), if reached { &[1, 2, 3][..] } else { &[2, 3] });
                    }
                    let late = silent(&bus).subscribe("c").unwrap();
                    late.psubscribe("c*").unwrap();
                    drop(subs);
                    assert_eq!(bus.publish("c", Fuse::sound(4)).delivered, 2);
                    assert_eq!(bus.stats().subscribers, 1);
                }
            }
        }
    });
}

/// What full inboxes have decided before the panic counts: the sum of all inboxes is the bus's.
#[test]
fn a_clone_that_panics_keeps_the_books_of_full_inboxes() {
    watched(|| {
        for blows_at in 0..5 {
            let bus: Bus<Fuse> = Bus::builder().capacity(1).build();
            let policies = [
                Overflow::DropOldest,
                Overflow::DropNewest,
                Overflow::Block { timeout: None },
                Overflow::Block { timeout: Some(Duration::from_millis(1)) },
                Overflow::Disconnect,
                Overflow::DropOldest,
            ];
            let subs =
                policies.map(|overflow| silent(&bus).overflow(overflow).subscribe("c").unwrap());
            assert_eq!(bus.publish("c", Fuse::sound(1)).delivered, 6);
            // The last inbox would get the payload itself, so that there are five clones.
            panic_of(|| bus.publish("c", Fuse::new(2, blows_at)));
            for (at, sub) in subs.iter().enumerate() {
                // Each lost one message, its oldest or the new one, if it was reached.
                let reached = (at as u32) < blows_at;
                assert_eq!((sub.len(), sub.missed()), (1, u64::from(reached)), "{blows_at} {at}");
                assert_books(sub, 1 + u64::from(reached));
            }
            let stats = bus.stats();
            assert_eq!(stats.matched, 6 + u64::from(blows_at), "{blows_at}: {stats:?}");
            assert_eq!(stats.evicted + stats.dropped, u64::from(blows_at), "{blows_at}: {stats:?}");
            assert_eq!(subs[4].is_closed(), blows_at > 4, "{blows_at}");
            for (at, sub) in subs.iter().enumerate() {
                let evicted = at == 0 && blows_at > 0;
                assert_eq!(values(sub), [if evicted { 2 } else { 1 }], "{blows_at} {at}");
            }
            let open = subs.iter().filter(|sub| !sub.is_closed()).count();
            assert_eq!(bus.publish("c", Fuse::sound(3)).delivered, open, "{blows_at}");
        }
    });
}

/// A payload whose drop panics, once.
fn brittle(value: u64) -> Hooked {
    Hooked::on_drop(value, || panic!("a drop"))
}

#[test]
fn a_drop_that_panics_harms_that_call_alone() {
    watched(|| {
        for overflow in [
            Overflow::DropOldest,
            Overflow::DropNewest,
            Overflow::Disconnect,
            Overflow::Block { timeout: Some(Duration::from_millis(1)) },
        ] {
            let bus: Bus<Hooked> = Bus::new();
            let full = silent(&bus).capacity(1).overflow(overflow).subscribe("c").unwrap();
            let (old, new) = match overflow {
                Overflow::DropOldest => (brittle(1), Hooked::plain(2)),
                _ => (Hooked::plain(1), brittle(2)),
            };
            assert_eq!(bus.publish("c", old).delivered, 1);
            let text = panic_of(|| bus.publish("c", new));
            assert_eq!(text, "a drop", "{overflow:?}");
            let info = full.info();
            assert_eq!((info.received, info.depth, info.missed), (0, 1, 1), "{overflow:?}");
            let stats = bus.stats();
            assert_eq!(stats.matched, 2, "{overflow:?}");
            assert_eq!(stats.evicted + stats.dropped, 1, "{overflow:?}");
            assert!(matches!(full.try_recv(), Ok(Event::Lagged { missed: 1 })), "{overflow:?}");
            let value = drain(&full)[0].value;
            assert_eq!(value, if overflow == Overflow::DropOldest { 2 } else { 1 });
            if overflow == Overflow::Disconnect {
                assert_eq!(full.close_reason(), Some(CloseReason::Overflow));
                assert_eq!((bus.subscriber_count("c"), bus.stats().subscribers), (0, 0));
            } else {
                assert_eq!(bus.publish("c", Hooked::plain(3)).delivered, 1);
            }
        }
    });
}

/// A payload each of whose copies panics when it is dropped.
struct Explosive;

impl Clone for Explosive {
    fn clone(&self) -> Self {
        Self
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a drop of many");
        }
        // Where the thread is unwinding already, a second panic would end the process: that is the engine's to avoid.
        DROPPED_WHILE_UNWINDING.store(true, Ordering::SeqCst);
    }
}

static DROPPED_WHILE_UNWINDING: AtomicBool = AtomicBool::new(false);

#[test]
fn drops_that_panic_do_not_meet() {
    watched(|| {
        for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect] {
            for subscribers in 1..4 {
                let bus: Bus<Explosive> = Bus::new();
                let subscribe = || {
                    bus.subscriber_builder().lifecycle_events(false).capacity(1).overflow(overflow)
                };
                let subs: Vec<_> =
                    (0..subscribers).map(|_| subscribe().subscribe("c").unwrap()).collect();
                assert_eq!(bus.publish("c", Explosive).delivered, subscribers);
                assert_eq!(
                    panic_of(|| bus.publish("c", Explosive)),
                    "a drop of many",
                    "{overflow:?}"
                );
                assert!(
                    !DROPPED_WHILE_UNWINDING.load(Ordering::SeqCst),
                    "{overflow:?} {subscribers}"
                );
                for sub in &subs {
                    while let Ok(message) = sub.try_recv_message() {
                        std::mem::forget(message);
                    }
                }
            }
        }
    });
}

/// The original goes when the turn is over, where a `Clone` has panicked, too.
#[test]
fn a_payload_whose_clone_panics_is_dropped_outside_the_turn() {
    watched(|| {
        for (subscribers, blows_at, full) in [(3, 0, 9), (3, 1, 9), (3, 1, 0), (3, 1, 1), (2, 0, 1)]
        {
            struct Payload {
                left: Arc<AtomicU32>,
                on_drop: Option<Bus<Payload>>,
            }
            impl Clone for Payload {
                fn clone(&self) -> Self {
                    assert_ne!(self.left.fetch_sub(1, Ordering::SeqCst), 0, "the fuse has blown");
                    Self { left: Arc::clone(&self.left), on_drop: None }
                }
            }
            impl Drop for Payload {
                fn drop(&mut self) {
                    if let Some(bus) = self.on_drop.take() {
                        bus.publish("c", Payload::plain());
                    }
                }
            }
            impl Payload {
                fn plain() -> Self {
                    Self { left: Arc::new(AtomicU32::new(u32::MAX)), on_drop: None }
                }
            }
            let bus: Bus<Payload> = Bus::new();
            let subs: Vec<_> = (0..subscribers)
                .map(|at| {
                    let capacity = if at == full { 1 } else { 9 };
                    let builder =
                        bus.subscriber_builder().lifecycle_events(false).capacity(capacity);
                    builder.subscribe("c").unwrap()
                })
                .collect();
            bus.publish("c", Payload::plain());
            let payload =
                Payload { left: Arc::new(AtomicU32::new(blows_at)), on_drop: Some(bus.clone()) };
            let text = panic_of(|| bus.publish("c", payload));
            assert!(text.contains("the fuse has blown"));
            // What its drop published has reached all.
            let last = subs.last().unwrap();
            assert_eq!(last.len(), if full == subscribers - 1 { 1 } else { 2 });
        }
    });
}

/// The drop of an evicted payload panics while a full inbox of the same publish still waits for room.
#[test]
fn a_drop_that_panics_keeps_the_books_of_those_that_wait() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::builder().capacity(1).build();
        let oldest = silent(&bus).subscribe("a").unwrap();
        oldest.subscribe("c").unwrap();
        let block = Overflow::Block { timeout: Some(Duration::from_millis(1)) };
        let waits = silent(&bus).overflow(block).subscribe("b").unwrap();
        waits.subscribe("c").unwrap();
        let ends = silent(&bus).overflow(Overflow::Disconnect).subscribe("b").unwrap();
        ends.subscribe("c").unwrap();
        bus.publish("a", brittle(1));
        bus.publish("b", Hooked::plain(1));
        panic_of(|| bus.publish("c", Hooked::plain(2)));
        let infos = [oldest.info(), waits.info(), ends.info()];
        let stats = bus.stats();
        let sum: u64 = infos.iter().map(|i| i.received + i.missed + i.depth as u64).sum();
        assert_eq!(sum, stats.matched, "{stats:?}");
        let missed: u64 = infos.iter().map(|info| info.missed).sum();
        assert_eq!(missed, stats.evicted + stats.dropped, "{stats:?}");
        assert_eq!(ends.close_reason(), Some(CloseReason::Overflow));
        drain(&waits);
        assert_eq!(bus.publish("c", Hooked::plain(3)).delivered, 2);
    });
}

#[test]
fn a_drop_that_panics_with_its_inbox_leaves_nothing_subscribed() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        sub.subscribe("d").unwrap();
        bus.publish("d", brittle(1));
        assert_eq!(panic_of(|| drop(sub)), "a drop");
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert_eq!(bus.match_count("c") + bus.match_count("d"), 0);
        assert_eq!(bus.publish("d", Hooked::plain(2)), Receipt::default());
        assert!(bus.subscribe("c").is_ok());
    });
}

/// Several subscribers dropped by one clone; what the first held panics when it is dropped.
#[test]
fn a_drop_that_panics_keeps_no_other_subscriber_on_the_bus() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let _stay = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
        let subs: Vec<_> = (0..3)
            .map(|n| {
                let sub = silent(&bus).subscribe("d").unwrap();
                if n == 0 {
                    bus.publish("d", brittle(1));
                }
                sub.psubscribe("d*").unwrap();
                sub
            })
            .collect();
        let _ = catch_unwind(AssertUnwindSafe(|| drop_in_clone(&bus, "c", subs)));
        assert_eq!((bus.subscriber_count("d"), bus.match_count("d")), (0, 0));
        assert_eq!((bus.pattern_count(), bus.stats().subscribers), (0, 2));
        assert_eq!(bus.publish("d", Hooked::plain(2)), Receipt::default());
        assert_eq!(bus.publish("c", Hooked::plain(2)).delivered, 2);
    });
}

#[test]
fn a_conversion_or_closure_that_panics_publishes_nothing() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let topic = bus.topic("c");
        let bad = || Converted(Box::new(|| panic!("a conversion")));
        assert_eq!(panic_of(|| bus.publish("c", bad())), "a conversion");
        assert_eq!(panic_of(|| topic.publish(bad())), "a conversion");
        assert_eq!(panic_of(|| bus.publish_with("c", || panic!("a closure"))), "a closure");
        assert_eq!(panic_of(|| topic.publish_with(|| panic!("a closure"))), "a closure");
        let failing = || -> Result<Hooked, ()> { panic!("a closure") };
        assert_eq!(panic_of(|| bus.try_publish_with("c", failing)), "a closure");
        assert_eq!(panic_of(|| topic.try_publish_with(failing)), "a closure");
        assert!(sub.is_empty());
        assert_eq!(bus.stats().matched, 0);
        assert_eq!(bus.publish("c", Hooked::plain(1)).delivered, 1);
        assert_eq!(topic.publish_with(|| Hooked::plain(1)).delivered, 1);
        assert_books(&sub, 2);
    });
}

#[test]
fn a_panicking_handler_ends_its_listener_and_join_gives_the_panic() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let other = silent(&bus).subscribe("c").unwrap();
        let listener = sub.spawn("panics", |event| {
            let value = event.into_message().unwrap().payload;
            assert_ne!(value, 2, "a handler");
        });
        for n in 1..=4u32 {
            bus.publish("c", n);
        }
        let panic = listener.join().unwrap_err();
        assert!(panic_text(&*panic).contains("a handler"));
        // What it did not come to is still there, and the bus and everybody else go on.
        assert_eq!(drain(&sub), [3, 4]);
        assert_eq!(drain(&other), [1, 2, 3, 4]);
        assert_eq!(bus.publish("c", 5u32).delivered, 2);
        assert_books(&sub, 5);
        // A subscriber that only its listener held goes with it.
        let listener =
            silent(&bus).subscribe("d").unwrap().spawn("panics", |_| panic!("another handler"));
        bus.publish("d", 1u32);
        assert!(panic_text(&*listener.join().unwrap_err()).contains("another handler"));
        assert_eq!(bus.subscriber_count("d"), 0);
        assert!(!bus.is_closed());
    });
}

#[test]
fn handles_cross_catch_unwind_as_they_are() {
    // That this compiles is the point: no `AssertUnwindSafe` anywhere.
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    let topic = bus.topic("c");
    let weak = bus.downgrade();
    assert_eq!(catch_unwind(|| bus.publish("c", 1u32)).unwrap().delivered, 1);
    assert_eq!(catch_unwind(|| topic.publish(2u32)).unwrap().delivered, 1);
    assert!(catch_unwind(|| sub.try_recv().is_ok()).unwrap());
    assert!(catch_unwind(|| weak.upgrade().is_some()).unwrap());
    assert!(catch_unwind(|| bus.publish_with("c", || panic!("a closure"))).is_err());
    let moved = catch_unwind(move || (bus.publish("c", 3u32), sub, topic, weak)).unwrap();
    assert_eq!(moved.0.delivered, 1);
}

#[test]
fn a_waiting_handler_holds_up_nobody() {
    watched(|| {
        let bus: Bus<u32> = Bus::builder().capacity(2).build();
        let slow = silent(&bus).subscribe("c").unwrap();
        let fast = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_at_last();
        let passing = gate.clone();
        let listener = slow.spawn("waits", move |_| passing.pass());
        bus.publish("c", 0u32);
        gate.await_arrivals(1);
        for n in 0..100u32 {
            assert_eq!(bus.publish("c", n).delivered, 2);
            drain(&fast);
        }
        slow.subscribe("d").unwrap();
        slow.unsubscribe("c");
        slow.close();
        bus.close();
        gate.open();
        listener.join().unwrap();
        eventually("drained", || slow.is_empty());
    });
}

#[test]
fn what_a_payload_s_clone_drops_is_given_up_by_that_publish_before_any_other_call() {
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
                // The bus is not called again: what its inbox held has gone with it by now.
                assert_eq!(told.try_recv(), Ok(()), "{who}, panics: {panics}");
                assert_eq!(unwound, panics, "{who}");
            });
        }
    }
}
