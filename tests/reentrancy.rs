//! User code runs outside every lock and turn: wherever it runs, it may use the bus as it likes.
//!
//! The exception, a payload's `Clone`, is tested in `reentrancy_in_clone.rs`, and panics in user code are in
//! `user_code_panics.rs`.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use fanout::{Bus, CloseReason, Overflow, Pattern, Receipt};
use support::{
    Act, Converted, Gate, Hooked, UserCode, World, eventually, full_inbox, panic_text, payloads,
    silent, watched,
};

// ---- every call, from everywhere that user code runs --------------------------------------------

const ACTS: [(&str, Act); 24] = [
    // Publishing.
    ("publish to the same channel", |world| _ = world.bus.publish("c", Hooked::plain(1))),
    ("publish to another channel", |world| _ = world.bus.publish("ccc", Hooked::plain(1))),
    ("publish_with", |world| _ = world.bus.publish_with("c", || Hooked::plain(1))),
    ("publish through a topic", |world| _ = world.topic.publish(Hooked::plain(1))),
    ("publish on another bus", |world| _ = world.other_bus.publish("c", Hooked::plain(1))),
    // Topics and subscriptions.
    ("make a topic", |world| _ = world.bus.topic("fresh")),
    ("subscribe the channel anew", |world| _ = world.bus.subscribe("c")),
    ("psubscribe the pattern anew", |world| _ = world.bus.psubscribe("c*")),
    ("psubscribe a new pattern", |world| _ = world.bus.psubscribe("?")),
    ("subscribe more", |world| _ = world.sub.subscribe("more")),
    ("psubscribe more", |world| _ = world.sub.psubscribe("[c]")),
    ("subscribe many", |world| _ = world.sub.subscribe_many(["c", "d", "e"])),
    // Unsubscribing, dropping and closing subscribers.
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
    // Receiving, and listeners.
    ("resubscribe", |world| _ = world.sub.resubscribe()),
    ("receive", |world| while world.sub.try_recv().is_ok() {}),
    ("spawn a listener", |world| {
        let listener = world.sub.spawn("made by user code", |_| ());
        listener.stop();
        listener.join().unwrap();
    }),
    // Introspection.
    ("introspect", |world| {
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
    // Closing.
    ("close the bus", |world| world.bus.close()),
    ("drop the last handle of a bus", |_| {
        let bus: Bus<Hooked> = Bus::new();
        let sub = bus.subscribe("c").unwrap();
        bus.publish("c", Hooked::plain(1));
        drop(bus);
        assert!(sub.is_closed());
    }),
];

/// A channel name or pattern that runs user code when it is converted.
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

/// Makes the engine run the given user code.
type Occasion = fn(&World, UserCode);

const OCCASIONS: [(&str, Occasion); 31] = [
    // Handlers.
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
    // Conversions into the payload.
    ("a conversion", |world, code| _ = world.bus.publish("c", Converted(code))),
    ("a conversion for a topic", |world, code| _ = world.topic.publish(Converted(code))),
    ("a conversion that nobody needs", |world, code| {
        world.bus.publish("nobody", Converted(code));
    }),
    // Closures that make the payload.
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
    // Drops of payloads that were evicted.
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
    // Drops of payloads that did not enter an inbox.
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
    ("the drop of a payload that a newer one of its channel replaces", |world, code| {
        let _newest = full_inbox(&world.bus, Overflow::Conflate, Hooked::on_drop(1, code));
        world.bus.publish("full", Hooked::plain(2));
    }),
    ("the drop of a payload that another channel's evicts", |world, code| {
        let newest = full_inbox(&world.bus, Overflow::Conflate, Hooked::on_drop(1, code));
        newest.subscribe("other").unwrap();
        world.bus.publish("other", Hooked::plain(2));
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
    // Drops of payloads that matched nothing.
    ("the drop of a payload that nobody gets", |world, code| {
        world.bus.publish("nobody", Hooked::on_drop(2, code));
    }),
    ("the drop of a payload on a closed bus", |_, code| {
        let bus: Bus<Hooked> = Bus::new();
        let topic = bus.topic("c");
        bus.close();
        topic.publish(Hooked::on_drop(2, code));
    }),
    // Drops of payloads that are discarded with their inbox.
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
    // Conversions of names and patterns.
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
fn user_code_may_make_any_call_from_anywhere() {
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

// ---- one place each -----------------------------------------------------------------------------

#[test]
fn evicted_payloads_are_dropped_after_the_turn_by_the_publishing_thread() {
    watched(|| {
        let bus: Bus<Hooked> = Bus::new();
        let (tell, told) = mpsc::channel();
        let full = silent(&bus).capacity(1).subscribe("c").unwrap();
        let last = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", Hooked::plain(0));
        payloads(&full);
        payloads(&last);
        let seen = last.clone();
        bus.publish(
            "c",
            Hooked::on_drop(1, move || {
                // The publish that evicts this payload has served everyone.
                tell.send((thread::current().id(), seen.len())).unwrap();
            }),
        );
        // Only one copy runs the code, that of `full`.
        let kept = last.try_recv_message().unwrap();
        bus.publish("c", Hooked::plain(2));
        assert_eq!(told.try_recv().unwrap(), (thread::current().id(), 1));
        drop(kept);
        assert_eq!(full.try_recv_message().unwrap().payload.value, 2);
    });
}

/// Publishes from within publishes, 50 deep.
#[test]
fn the_drop_of_an_evicted_payload_may_publish_recursively() {
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

/// Hazard: a conversion under a lock. It must run before the look-up, even if nothing matches.
#[test]
fn a_conversion_may_subscribe_to_the_channel_it_is_published_to() {
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
fn a_publish_with_closure_may_change_who_matches() {
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

#[test]
fn a_waiting_handler_holds_up_nobody() {
    watched(|| {
        let bus: Bus<u32> = Bus::builder().capacity(2).build();
        let slow = silent(&bus).subscribe("c").unwrap();
        let fast = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_on_drop();
        let passing = gate.clone();
        let listener = slow.spawn("waits", move |_| passing.pass());
        bus.publish("c", 0u32);
        gate.await_arrivals(1);
        for n in 0..100u32 {
            assert_eq!(bus.publish("c", n).delivered, 2);
            payloads(&fast);
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
