//! Handlers by channel and pattern.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, mpsc};

#[cfg(feature = "glob")]
use fanout::Pattern;
use fanout::{Bus, Event, Limits, Overflow, Router, RouterHandle, SubscribeError};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Hooked, cases, eventually, panic_text, scaled, step, watched};

/// What handlers saw, as `handler channel payload`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn handler(&self, name: &'static str) -> impl FnMut(fanout::Message<u32>) + Send + use<> {
        let log = self.clone();
        move |message| log.add(format!("{name} {} {}", message.channel(), message.payload))
    }

    fn otherwise(&self) -> impl FnMut(Event<u32>) + Send + use<> {
        let log = self.clone();
        move |event| {
            log.add(match event {
                Event::Message(message) | Event::PMessage(message) => {
                    format!("otherwise {} {}", message.channel(), message.payload)
                }
                Event::Subscribe { channel, .. } => format!("subscribed {channel}"),
                Event::Lagged { missed } => format!("missed {missed}"),
                _ => return,
            });
        }
    }

    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn silent(bus: &Bus<u32>) -> fanout::Subscriber<u32> {
    bus.subscriber_builder().lifecycle_events(false).build()
}

#[test]
fn a_message_goes_to_the_handler_of_the_subscription_that_brought_it() {
    let (bus, log) = (Bus::new(), Log::default());
    let sub = silent(&bus);
    sub.subscribe("plain").unwrap();
    let router = sub
        .router()
        .on("a:1", log.handler("exact"))
        .unwrap()
        .on_pattern("a:*", log.handler("pattern"))
        .unwrap()
        .on_pattern("a:?", log.handler("other"))
        .unwrap()
        .otherwise(log.otherwise());
    bus.publish("a:1", 1_u32);
    bus.publish("a:22", 2_u32);
    bus.publish("plain", 3_u32);
    bus.publish("a:1", 4_u32);
    bus.close();
    router.run();
    assert_eq!(
        log.take(),
        [
            "exact a:1 1",
            "pattern a:1 1",
            "other a:1 1",
            "pattern a:22 2",
            "otherwise plain 3",
            "exact a:1 4",
            "pattern a:1 4",
            "other a:1 4",
        ]
    );
}

#[cfg(feature = "glob")]
#[test]
fn both_dialects_of_a_text_have_handlers_of_their_own() {
    let (bus, log) = (Bus::new(), Log::default());
    let router = silent(&bus)
        .router()
        .on_pattern(Pattern::redis("a/*"), log.handler("redis"))
        .unwrap()
        .on_pattern(Pattern::glob("a/*").unwrap(), log.handler("glob"))
        .unwrap();
    bus.publish("a/1", 1_u32);
    bus.publish("a/b/c", 2_u32);
    bus.close();
    router.run();
    assert_eq!(log.take(), ["redis a/1 1", "glob a/1 1", "redis a/b/c 2"]);
}

#[test]
fn lifecycle_events_and_losses_go_elsewhere() {
    let (bus, log) = (Bus::<u32>::builder().capacity(2).build(), Log::default());
    let router = bus.subscriber().router().on("a", log.handler("a")).unwrap();
    let router = router.otherwise(log.otherwise());
    (1..=3_u32).for_each(|n| _ = bus.publish("a", n));
    bus.close();
    router.run();
    assert_eq!(log.take(), ["missed 1", "subscribed a", "a a 2", "a a 3"]);
}

#[test]
fn a_later_handler_replaces_the_one_before() {
    let (bus, log) = (Bus::new(), Log::default());
    let sub = silent(&bus);
    let router = sub.router().on("a", log.handler("first")).unwrap();
    let router = router.on("a", log.handler("second")).unwrap();
    let handle = router.handle();
    bus.publish("a", 1_u32);
    handle.on("a", log.handler("third")).unwrap();
    bus.publish("a", 2_u32);
    bus.close();
    router.run();
    assert_eq!(log.take(), ["third a 1", "third a 2"]);
    assert_eq!(handle.on("a", log.handler("fourth")), Err(SubscribeError::Closed));
}

#[test]
fn handlers_come_and_go_while_the_router_runs() {
    watched(|| {
        let (bus, log) = (Bus::new(), Log::default());
        let router = silent(&bus).router().otherwise(log.otherwise());
        let handle = router.handle();
        let listener = router.spawn("router");
        assert_eq!(handle.on("a", log.handler("a")), Ok(1));
        assert_eq!(handle.on_pattern("b*", log.handler("b")), Ok(2));
        bus.publish("a", 1_u32);
        bus.publish("b1", 2_u32);
        let mut lines = Vec::new();
        eventually("all are handled", || {
            lines.extend(log.take());
            lines.len() == 2
        });
        assert_eq!(lines, ["a a 1", "b b1 2"]);
        assert_eq!(handle.remove("a"), 1);
        assert_eq!(handle.remove_pattern("b*"), 0);
        assert_eq!(bus.publish("a", 3_u32).matched, 0);
        // Anew: the name's entry may lie elsewhere now.
        assert_eq!(handle.on("a", log.handler("again")), Ok(1));
        bus.publish("a", 4_u32);
        drop(bus);
        listener.join().unwrap();
        assert_eq!(log.take(), ["again a 4"]);
    });
}

#[test]
fn a_subscription_made_anew_elsewhere_is_still_found() {
    let (bus, log) = (Bus::new(), Log::default());
    let sub = silent(&bus);
    let router = sub.router().on("a", log.handler("a")).unwrap();
    for n in 0..200_u32 {
        bus.publish("a", n);
        sub.unsubscribe("a");
        sub.subscribe("a").unwrap();
    }
    bus.close();
    router.run();
    assert!(log.take().into_iter().eq((0..200).map(|n| format!("a a {n}"))));
}

#[test]
fn a_handler_may_change_the_router_it_is_called_by() {
    let (bus, log) = (Bus::new(), Log::default());
    let router = silent(&bus).router().otherwise(log.otherwise());
    let handle = router.handle();
    let own: RouterHandle<u32> = handle.clone();
    let (weak, its_log) = (bus.downgrade(), log.clone());
    handle
        .on("once", move |message| {
            its_log.add(format!("once {}", message.payload));
            own.remove("once");
            own.on("next", its_log.handler("next")).unwrap();
            weak.upgrade().unwrap().publish("next", message.payload + 1);
        })
        .unwrap();
    bus.publish("once", 1_u32);
    bus.publish("once", 2_u32);
    let listener = router.spawn("router");
    let mut lines = Vec::new();
    eventually("all are handled", || {
        lines.extend(log.take());
        lines.len() == 3
    });
    assert_eq!(lines, ["once 1", "otherwise once 2", "next next 2"]);
    bus.close();
    listener.join().unwrap();
}

#[test]
fn a_handler_that_was_not_taken_up_is_dropped_when_it_is_removed_or_replaced() {
    let bus: Bus<u32> = Bus::new();
    let router = silent(&bus).router();
    let handle = router.handle();
    let alive = Arc::new(());
    let add = |channel: &str| {
        let alive = Arc::clone(&alive);
        handle.on(channel, move |_| _ = &alive).unwrap();
    };
    let come_and_go = || {
        for n in 0..100 {
            let channel = format!("user:{n}");
            add(&channel);
            handle.remove(&channel);
        }
        (0..100).for_each(|_| add("again"));
        Arc::strong_count(&alive) - 1
    };
    assert_eq!(come_and_go(), 1);
    let listener = router.spawn("router");
    // Nothing has the router take up its handlers.
    assert_eq!(come_and_go(), 1);
    listener.stop();
    listener.join().unwrap();
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_router_that_has_ended_holds_nothing() {
    type End = fn(Router<u32>, &Bus<u32>);
    let ends: [(&str, End); 5] = [
        ("not run", |router, _| drop(router)),
        ("stopped", |router, _| {
            let listener = router.spawn("router");
            listener.stop();
            listener.join().unwrap();
        }),
        ("a panic", |router, bus| {
            let listener = router.spawn("router");
            bus.publish("panics", 1_u32);
            listener.join().unwrap_err();
        }),
        ("a panic here", |router, bus| {
            bus.publish("panics", 1_u32);
            catch_unwind(AssertUnwindSafe(|| router.run())).unwrap_err();
        }),
        ("cancelled", |router, _| {
            #[cfg(feature = "async")]
            drop(Box::pin(router.run_async()));
            #[cfg(not(feature = "async"))]
            drop(router);
        }),
    ];
    for (what, end) in ends {
        let bus: Bus<u32> = Bus::new();
        let alive = Arc::new(());
        let kept = Arc::clone(&alive);
        let router = silent(&bus).router().on("a", move |_| _ = &kept).unwrap();
        let router = router.on("panics", |_| panic!("in a handler")).unwrap();
        let handle = router.handle();
        let kept = Arc::clone(&alive);
        handle.on_pattern("b*", move |_| _ = &kept).unwrap();
        assert!(!handle.is_finished() && handle.subscriber().is_some(), "{what}");
        end(router, &bus);
        assert!(handle.is_finished() && handle.subscriber().is_none(), "{what}");
        assert_eq!(Arc::strong_count(&alive), 1, "{what}");
        assert_eq!(bus.stats().subscribers, 0, "{what}");
        let kept = Arc::clone(&alive);
        assert_eq!(handle.on("c", move |_| _ = &kept), Err(SubscribeError::Closed), "{what}");
        assert_eq!((handle.remove("a"), handle.remove_pattern("b*")), (0, 0), "{what}");
        assert_eq!(Arc::strong_count(&alive), 1, "{what}");
    }
}

/// Another clone of the subscriber keeps the subscriptions, but no handlers.
#[test]
fn a_router_that_has_ended_takes_no_handler_even_if_its_subscriber_lives() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus);
    let router = sub.clone().router().on("a", |_| ()).unwrap();
    let handle = router.handle();
    drop(router);
    assert_eq!(bus.publish("a", 1_u32).delivered, 1);
    let alive = Arc::new(());
    let kept = Arc::clone(&alive);
    assert_eq!(handle.on("b", move |_| _ = &kept), Err(SubscribeError::Closed));
    assert_eq!((Arc::strong_count(&alive), bus.publish("b", 1_u32).matched), (1, 0));
    assert_eq!(handle.remove("a"), 0);
    assert_eq!(bus.publish("a", 1_u32).matched, 0);
}

/// Runs code when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn brittle() -> OnDrop<impl FnMut()> {
    OnDrop(|| panic!("in a drop"))
}

#[test]
fn drops_of_handlers_may_panic_when_the_router_ends() {
    for fails in [false, true] {
        let bus: Bus<u32> = Bus::new();
        let (one, two, last) = (brittle(), brittle(), brittle());
        let router = silent(&bus).router().on("a", move |_| _ = &one).unwrap();
        let router = router.on("b", move |_| _ = &two).unwrap();
        let router = router.on("c", move |_| assert!(!fails, "in a handler")).unwrap();
        let router = router.otherwise(move |_| _ = &last);
        bus.publish_many(["a", "c"], 1_u32);
        bus.close();
        let panic = catch_unwind(AssertUnwindSafe(|| router.run())).unwrap_err();
        assert_eq!(panic_text(&*panic), if fails { "in a handler" } else { "in a drop" });
    }
}

#[test]
fn a_router_that_keeps_going_survives_the_drop_of_a_removed_handler() {
    let (bus, log) = (Bus::new(), Log::default());
    let brittle = brittle();
    let router = silent(&bus).router().keep_going(true).on("a", move |_| _ = &brittle).unwrap();
    let handle = router.handle();
    let own = handle.clone();
    let router = router.on("remove", move |_| _ = own.remove("a")).unwrap();
    let router = router.on("b", log.handler("b")).unwrap();
    bus.publish_many(["remove", "b", "b"], 1_u32);
    bus.close();
    router.run();
    assert_eq!((log.take(), handle.panics()), (vec!["b b 1".to_owned(); 2], 1));
}

/// Removed by the drop of the handler before, or by another thread: there is no subscription without a handler.
#[test]
fn a_handler_and_its_subscription_are_set_and_removed_together() {
    let (bus, log) = (Bus::new(), Log::default());
    let router = silent(&bus).router().otherwise(log.otherwise());
    let handle = router.handle();
    let own = handle.clone();
    let removes = OnDrop(move || _ = own.remove("a"));
    handle.on("a", move |_| _ = &removes).unwrap();
    assert_eq!(handle.on("a", log.handler("second")), Ok(1));
    assert_eq!(bus.publish("a", 1_u32).matched, 0);

    let listener = router.spawn("router");
    watched(move || {
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        let rounds = scaled(3_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds {
                    start.wait();
                    handle.remove("a");
                    end.wait();
                }
            });
            for _ in 0..rounds {
                step();
                start.wait();
                handle.on("a", log.handler("a")).unwrap();
                end.wait();
                let delivered = bus.publish("a", 1_u32).delivered;
                eventually("it is handled", || log.len() == delivered);
                assert_eq!(log.take(), vec!["a a 1"; delivered]);
                handle.remove("a");
            }
        });
        bus.close();
        listener.join().unwrap();
    });
}

#[test]
fn a_handler_that_cannot_be_set_leaves_the_one_before() {
    type Prevent = fn(&Bus<u32>, &fanout::Subscriber<u32>);
    let ways: [Prevent; 3] = [
        |_, sub| sub.close(),
        |bus, _| bus.close(),
        |_, sub| {
            // Its place is taken, at the limit.
            sub.unsubscribe("a");
            sub.subscribe("b").unwrap();
        },
    ];
    for prevent in ways {
        let log = Log::default();
        let bus: Bus<u32> = Bus::builder().limits(Limits::default().max_subscriptions(1)).build();
        let sub = silent(&bus);
        let router = sub.clone().router().on("a", log.handler("first")).unwrap();
        let handle = router.handle();
        bus.publish("a", 1_u32);
        prevent(&bus, &sub);
        handle.on("a", log.handler("second")).unwrap_err();
        bus.close();
        router.run();
        assert_eq!(log.take(), ["first a 1"]);
    }

    // From a payload's `Clone`, where it panics.
    let bus: Bus<Hooked> = Bus::new();
    let log = Log::default();
    let (first, second) = (log.clone(), log.clone());
    let router = bus.subscriber_builder().lifecycle_events(false).build().router();
    let router = router.on("a", move |_| first.add("first".to_owned())).unwrap();
    let _other = bus.subscribe("a").unwrap();
    let handle = router.handle();
    let payload = Hooked::on_clone(1, move || {
        handle.on("a", move |_| second.add("second".to_owned())).unwrap();
    });
    catch_unwind(AssertUnwindSafe(|| bus.publish("a", payload))).unwrap_err();
    bus.publish("a", Hooked::plain(2));
    bus.close();
    router.run();
    assert_eq!(log.take(), ["first"]);
}

#[test]
fn a_router_may_be_looked_at_while_it_is_formatted() {
    struct Looks(RouterHandle<u32>);
    impl std::fmt::Write for Looks {
        fn write_str(&mut self, _: &str) -> std::fmt::Result {
            assert!(!self.0.is_finished());
            Ok(())
        }
    }
    watched(|| {
        let router = silent(&Bus::new()).router();
        let mut looks = Looks(router.handle());
        std::fmt::Write::write_fmt(&mut looks, format_args!("{router:?} {:?}", router.handle()))
            .unwrap();
    });
}

#[test]
fn a_limit_that_is_reached_adds_no_handler() {
    let bus: Bus<u32> = Bus::builder().limits(Limits::default().max_subscriptions(1)).build();
    let log = Log::default();
    let router = silent(&bus).router().on("a", log.handler("a")).unwrap();
    let handle = router.handle();
    let error = handle.on("b", log.handler("b")).unwrap_err();
    assert!(matches!(error, SubscribeError::TooManySubscriptions { limit: 1, .. }));
    assert_eq!(router.on("b", log.handler("b")).unwrap_err(), error);
}

#[test]
fn a_panic_ends_the_router() {
    let bus: Bus<u32> = Bus::new();
    let router = silent(&bus).router().on("a", |_| panic!("in a handler")).unwrap();
    let listener = router.spawn("router");
    bus.publish("a", 1_u32);
    assert_eq!(panic_text(&*listener.join().unwrap_err()), "in a handler");

    let router = silent(&bus).router().on("a", |_| panic!("in a handler")).unwrap();
    bus.publish("a", 1_u32);
    let panic = catch_unwind(AssertUnwindSafe(|| router.run())).unwrap_err();
    assert_eq!(panic_text(&*panic), "in a handler");
}

#[test]
fn a_router_that_keeps_going_counts_panics_and_passes_the_messages_on() {
    let (bus, log) = (Bus::new(), Log::default());
    let mut calls = log.handler("a");
    let router = silent(&bus)
        .router()
        .on("a", move |message| {
            assert!(message.payload % 2 == 0, "odd");
            calls(message);
        })
        .unwrap()
        .otherwise(log.otherwise())
        .keep_going(true);
    let handle = router.handle();
    (1..=4_u32).for_each(|n| _ = bus.publish("a", n));
    bus.close();
    router.run();
    assert_eq!(log.take(), ["otherwise a 1", "a a 2", "otherwise a 3", "a a 4"]);
    assert_eq!(handle.panics(), 2);
}

#[test]
fn a_router_is_stopped_and_drained_like_any_listener() {
    let bus: Bus<u32> = Bus::new();
    let (seen, log) = mpsc::channel();
    let router = silent(&bus).router();
    let router = router.on("a", move |message| seen.send(message.payload).unwrap()).unwrap();
    let listener = router.spawn("router");
    (0..100_u32).for_each(|n| _ = bus.publish("a", n));
    listener.drain();
    listener.join().unwrap();
    assert!(log.iter().eq(0..100));
    assert_eq!(bus.publish("a", 100_u32).matched, 0);
}

#[cfg(feature = "async")]
#[test]
fn a_router_runs_in_a_task_and_leaves_what_it_has_not_handled() {
    let (bus, log) = (Bus::new(), Log::default());
    let sub: fanout::Subscriber<u32> = silent(&bus);
    let router = sub.router().on("a", log.handler("a")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let task = runtime.spawn(router.run_async());
    (0..100_u32).for_each(|n| _ = bus.publish("a", n));
    runtime.block_on(async {
        // It gives way before it has handled all.
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    let handled = log.take().len();
    assert!(handled > 0 && handled + sub.len() == 100);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(&'static str),
    Add(usize),
    Remove(usize),
    Resubscribe(usize),
    Run,
}

const ROUTES: [&str; 6] = ["a", "b", "*a", "a*", "?", "[ab]"];

fn op() -> impl Strategy<Value = Op> {
    let route = 0..ROUTES.len();
    prop_oneof![
        6 => prop::sample::select(&["a", "b", "ab", "ba"][..]).prop_map(Op::Publish),
        2 => route.clone().prop_map(Op::Add),
        1 => route.clone().prop_map(Op::Remove),
        1 => route.prop_map(Op::Resubscribe),
        2 => Just(Op::Run),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    /// A router does what a look-up by `matched_by` and `channel` does.
    #[test]
    fn a_router_agrees_with_a_map_by_name(ops in vec(op(), 0..60)) {
        let (bus, log) = (Bus::<u32>::new(), Log::default());
        let (sub, model) = (silent(&bus), silent(&bus));
        let mut handlers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut expected = Vec::new();
        let router = sub.router().otherwise(log.otherwise());
        let handle = router.handle();
        // The router runs when this sends, and says so.
        let (run, orders) = mpsc::channel::<()>();
        let (ran, done) = mpsc::channel::<()>();
        handle.on("run", move |_| {
            ran.send(()).unwrap();
            orders.recv().unwrap();
        }).unwrap();
        let listener = router.spawn("router");
        bus.publish("run", 0_u32);
        done.recv().unwrap();
        let is_exact = |at: usize| at < 2;
        for (number, op) in (0_u32..).zip(ops.into_iter().chain([Op::Run])) {
            match op {
                Op::Publish(channel) => _ = bus.publish(channel, number),
                Op::Add(at) => {
                    handlers.insert(ROUTES[at], at);
                    if is_exact(at) {
                        handle.on(ROUTES[at], log.handler(ROUTES[at])).unwrap();
                        model.subscribe(ROUTES[at]).unwrap();
                    } else {
                        handle.on_pattern(ROUTES[at], log.handler(ROUTES[at])).unwrap();
                        model.psubscribe(ROUTES[at]).unwrap();
                    }
                }
                Op::Remove(at) => {
                    handlers.remove(ROUTES[at]);
                    if is_exact(at) {
                        handle.remove(ROUTES[at]);
                        model.unsubscribe(ROUTES[at]);
                    } else {
                        handle.remove_pattern(ROUTES[at]);
                        model.punsubscribe(ROUTES[at]);
                    }
                }
                Op::Resubscribe(at) if is_exact(at) => {
                    for sub in [&sub, &model] {
                        sub.unsubscribe(ROUTES[at]);
                        sub.subscribe(ROUTES[at]).unwrap();
                    }
                }
                Op::Resubscribe(at) => {
                    for sub in [&sub, &model] {
                        sub.punsubscribe(ROUTES[at]);
                        sub.psubscribe(ROUTES[at]).unwrap();
                    }
                }
                Op::Run => {
                    // All that is queued is handled by the handlers of now.
                    for message in model.try_messages() {
                        let by = message.pattern().unwrap_or(message.channel());
                        let name = if handlers.contains_key(by) { by } else { "otherwise" };
                        expected.push(format!("{name} {} {}", message.channel(), message.payload));
                    }
                    bus.publish("run", number);
                    run.send(()).unwrap();
                    done.recv().unwrap();
                    prop_assert_eq!(log.take(), std::mem::take(&mut expected));
                }
            }
        }
        bus.close();
        run.send(()).unwrap();
        prop_assert!(listener.join().is_ok());
    }
}

#[test]
fn a_full_inbox_keeps_its_policy() {
    let bus: Bus<u32> = Bus::builder().capacity(1).overflow(Overflow::Disconnect).build();
    let log = Log::default();
    let router = silent(&bus).router().on("a", log.handler("a")).unwrap();
    (0..2_u32).for_each(|n| _ = bus.publish("a", n));
    router.run();
    assert_eq!(log.take(), ["a a 0"]);
}
