//! Interest: what a watch tells of names that get and lose subscriptions.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{
    Bus, Interest, InterestWatch, Pattern, RecvError, RecvTimeoutError, Subscriber, TryRecvError,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Dice, cases, eventually, panic_of, scaled};

/// What a watch told, as text: `channel news` or `pattern game:*`, and whether it is wanted.
fn told(interest: Interest) -> (String, bool) {
    match interest {
        Interest::Channel { name, wanted, .. } => (format!("channel {name}"), wanted),
        Interest::Pattern { pattern, wanted, .. } => (format!("{pattern:?}"), wanted),
        other => panic!("{other:?}"),
    }
}

fn drain(watch: &InterestWatch) -> Vec<(String, bool)> {
    std::iter::from_fn(|| watch.try_recv().ok().map(told)).collect()
}

/// What is wanted, as a receiver knows it. Each change must be one.
#[derive(Default)]
struct Known(BTreeMap<String, ()>);

impl Known {
    fn learn(&mut self, interest: Interest) {
        let (name, wanted) = told(interest);
        let was_wanted =
            if wanted { self.0.insert(name.clone(), ()) } else { self.0.remove(&name) }.is_some();
        assert_ne!(was_wanted, wanted, "{name} was told twice");
    }

    fn learn_all(&mut self, watch: &InterestWatch) {
        while let Ok(interest) = watch.try_recv() {
            self.learn(interest);
        }
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// What is wanted, as the bus knows it. Every subscription counts.
fn wanted(bus: &Bus<u32>) -> Vec<String> {
    let channels = bus.channels().into_iter().map(|name| format!("channel {name}"));
    let patterns = bus.patterns().into_iter().map(|pattern| format!("{pattern:?}"));
    let mut wanted: Vec<_> = channels.chain(patterns).collect();
    wanted.sort_unstable();
    wanted
}

#[test]
fn a_watch_tells_what_is_there_and_then_what_changes() {
    let bus: Bus = Bus::new();
    let early = bus.subscribe("early").unwrap();
    early.psubscribe("e*").unwrap();
    let watch = bus.watch_interest();
    let mut first = drain(&watch);
    first.sort_unstable();
    let pattern = format!("{:?}", Pattern::redis("e*"));
    let mut expected = [("channel early".to_owned(), true), (pattern.clone(), true)];
    expected.sort_unstable();
    assert_eq!(first, expected);

    let late = bus.subscribe("late").unwrap();
    // Neither a first subscription nor a last one.
    late.subscribe("early").unwrap();
    early.unsubscribe("early");
    late.subscribe("late").unwrap();
    early.punsubscribe("e*");
    drop(late);
    // `late` came and went before anything was received.
    let gone = |name: &str| (name.to_owned(), false);
    assert_eq!(drain(&watch), [gone(&pattern), gone("channel early")]);
}

#[test]
fn what_a_change_undoes_before_it_is_received_is_not_told() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    let sub = bus.subscriber();
    sub.subscribe_many(["a", "b", "c"]).unwrap();
    sub.unsubscribe("a");
    // It differs anew, later than the others.
    sub.subscribe("a").unwrap();
    sub.unsubscribe("c");
    let order: Vec<_> = drain(&watch).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["channel b", "channel a"]);
}

#[test]
fn both_dialects_of_a_text_are_told_apart() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    let sub = bus.psubscribe("a*").unwrap();
    let glob = Pattern::redis("a?");
    sub.psubscribe(&glob).unwrap();
    sub.punsubscribe("a*");
    assert_eq!(drain(&watch), [(format!("{glob:?}"), true)]);
}

#[test]
fn subscriptions_without_interest_are_not_told() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    let onlooker = bus.subscriber_builder().interest(false).subscribe("news").unwrap();
    onlooker.psubscribe("*").unwrap();
    assert_eq!(watch.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(bus.watch_interest().try_recv(), Err(TryRecvError::Empty));
    let reader = bus.subscribe("news").unwrap();
    assert_eq!(drain(&watch), [("channel news".to_owned(), true)]);
    assert_eq!(drain(&bus.watch_interest()), [("channel news".to_owned(), true)]);
    drop(reader);
    assert_eq!(drain(&watch), [("channel news".to_owned(), false)]);
    // The same settings come with `resubscribe`.
    let another = onlooker.resubscribe().unwrap();
    assert_eq!(another.channels(), onlooker.channels());
    assert_eq!(watch.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn topics_and_publishes_are_no_interest() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    let topic = bus.topic("news");
    topic.publish("one");
    bus.publish("weather", "two");
    assert_eq!(watch.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn closing_the_bus_ends_a_watch_after_what_is_left() {
    let bus: Bus = Bus::new();
    let (watch, unread) = (bus.watch_interest(), bus.watch_interest());
    let _sub = bus.subscribe("news").unwrap();
    assert!(watch.recv().is_ok());
    bus.close();
    assert_eq!(watch.recv(), Err(RecvError::Closed));
    assert_eq!(watch.try_recv(), Err(TryRecvError::Closed));
    assert_eq!(watch.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Closed));
    assert_eq!(unread.iter().map(told).collect::<Vec<_>>(), [("channel news".to_owned(), true)]);
    assert_eq!(bus.watch_interest().try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn a_watch_does_not_keep_the_bus_open() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    drop(bus);
    assert_eq!(watch.recv(), Err(RecvError::Closed));
}

#[test]
fn a_disconnected_subscriber_wants_nothing_any_more() {
    let bus: Bus<u32> = Bus::builder().capacity(1).overflow(fanout::Overflow::Disconnect).build();
    let _sub = bus.subscribe("news").unwrap();
    let watch = bus.watch_interest();
    assert_eq!(drain(&watch), [("channel news".to_owned(), true)]);
    bus.publish_many(["news", "news"], 1_u32);
    assert_eq!(drain(&watch), [("channel news".to_owned(), false)]);
}

#[test]
fn a_waiting_receiver_is_woken_by_a_change_and_by_closing() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| watch.iter().map(told).collect::<Vec<_>>());
        // A change that is undone before it is received is not told.
        let all_received = || format!("{watch:?}") == "InterestWatch { changes: 0, .. }";
        thread::sleep(Duration::from_millis(20));
        let sub = bus.subscribe("news").unwrap();
        eventually("the first is received", all_received);
        drop(sub);
        eventually("the second is received", all_received);
        bus.close();
        let news = |wanted| ("channel news".to_owned(), wanted);
        assert_eq!(receiver.join().unwrap(), [news(true), news(false)]);
    });
}

#[test]
fn a_receive_with_a_timeout_ends_at_it() {
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    let (started, timeout) = (Instant::now(), Duration::from_millis(30));
    assert_eq!(watch.recv_timeout(timeout), Err(RecvTimeoutError::Timeout));
    assert!(started.elapsed() >= timeout);
    let _sub = bus.subscribe("news").unwrap();
    assert!(watch.recv_timeout(Duration::MAX).is_ok());
}

#[test]
fn receivers_share_the_changes_and_all_are_ended_by_closing() {
    const NAMES: usize = 2_000;
    let bus: Bus = Bus::new();
    let watch = bus.watch_interest();
    thread::scope(|scope| {
        let receivers = [(); 3].map(|()| scope.spawn(|| watch.iter().count()));
        let subs: Vec<_> = (0..NAMES).map(|n| bus.subscribe(format!("c{n}")).unwrap()).collect();
        bus.close();
        let received: usize = receivers.into_iter().map(|it| it.join().unwrap()).sum();
        assert_eq!(received, NAMES);
        drop(subs);
    });
}

/// A watch that is begun while others subscribe and unsubscribe tells each name in turns, beginning with `wanted`, and
/// in the end has told exactly what is subscribed.
#[test]
fn a_watch_begun_in_the_middle_of_changes_is_exact() {
    for round in 0..scaled(60) {
        let bus: Bus<u32> = Bus::builder().stripes(1 << (round % 4)).build();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let changers: Vec<_> = (0..2_u64)
                .map(|thread| {
                    let (bus, is_over) = (&bus, &is_over);
                    scope.spawn(move || {
                        let sub = bus.subscriber();
                        let mut dice = Dice::new(round as u64 * 2 + thread);
                        while !is_over.load(Ordering::Relaxed) {
                            change(&sub, dice.roll(128) as u64);
                        }
                        sub
                    })
                })
                .collect();
            let watches: Vec<_> = (0..3)
                .map(|_| {
                    thread::sleep(Duration::from_micros(200));
                    (bus.watch_interest(), Known::default())
                })
                .collect();
            let mut watches = watches;
            for (watch, known) in &mut watches {
                known.learn_all(watch);
                thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            let subs: Vec<_> = changers.into_iter().map(|it| it.join().unwrap()).collect();
            for (watch, known) in &mut watches {
                known.learn_all(watch);
                assert_eq!(known.names(), wanted(&bus));
            }
            drop(subs);
            for (watch, known) in &mut watches {
                known.learn_all(watch);
                assert_eq!(known.names(), [""; 0]);
            }
        });
    }
}

/// Subscribes or unsubscribes one of a few names.
fn change(sub: &Subscriber<u32>, random: u64) {
    const NAMES: [&str; 4] = ["a", "b", "user:*", "[xy]"];
    let name = NAMES[random as usize % NAMES.len()];
    let is_pattern = random & 64 != 0;
    match (is_pattern, random & 32 != 0) {
        (false, true) => _ = sub.subscribe(name).unwrap(),
        (false, false) => _ = sub.unsubscribe(name),
        (true, true) => _ = sub.psubscribe(name).unwrap(),
        (true, false) => _ = sub.punsubscribe(name),
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Change(usize, u64),
    Receive(usize, usize),
    Watch(usize),
    Drop(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3_usize, any::<u64>()).prop_map(|(sub, random)| Op::Change(sub, random)),
        2 => (0..2_usize, 0..4_usize).prop_map(|(watch, count)| Op::Receive(watch, count)),
        1 => (0..2_usize).prop_map(Op::Watch),
        1 => (0..3_usize).prop_map(Op::Drop),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    /// The names that a watch holds are those whose state differs from what it told last.
    #[test]
    fn what_was_told_and_what_was_not_add_up_to_what_is_subscribed(ops in vec(op(), 0..60)) {
        let bus: Bus<u32> = Bus::new();
        let mut subs = [(); 3].map(|()| bus.subscriber());
        let mut watches = [(); 2].map(|()| (bus.watch_interest(), Known::default()));
        for op in ops {
            match op {
                Op::Change(sub, random) => change(&subs[sub], random),
                Op::Receive(watch, count) => {
                    let (watch, known) = &mut watches[watch];
                    (0..count).for_each(|_| _ = watch.try_recv().map(|it| known.learn(it)));
                }
                Op::Watch(watch) => watches[watch] = (bus.watch_interest(), Known::default()),
                Op::Drop(sub) => subs[sub] = bus.subscriber(),
            }
            for (watch, known) in &watches {
                let wanted = wanted(&bus);
                let told = known.names();
                let differ = wanted.iter().filter(|name| !told.contains(&name.as_str())).count()
                    + told.iter().filter(|told| !wanted.iter().any(|name| name == *told)).count();
                let shown = format!("InterestWatch {{ changes: {differ}, .. }}");
                prop_assert_eq!(format!("{:?}", watch), shown);
            }
        }
        for (watch, known) in &mut watches {
            known.learn_all(watch);
            prop_assert_eq!(known.names(), wanted(&bus));
        }
    }
}

#[cfg(feature = "async")]
mod tasks {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    use futures::executor::block_on;
    use futures::future::FusedFuture;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F, wakes: &Arc<Wakes>) -> Option<F::Output> {
        let waker = Waker::from(Arc::clone(wakes));
        match std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    fn count(wakes: &Wakes) -> usize {
        wakes.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_task_is_woken_for_a_change_once_and_for_closing() {
        let bus: Bus = Bus::new();
        let watch = bus.watch_interest();
        let wakes = Arc::new(Wakes::default());
        let mut next = watch.recv_async();
        assert!(poll(&mut next, &wakes).is_none());
        assert!(poll(&mut next, &wakes).is_none());
        let sub = bus.subscribe("news").unwrap();
        sub.subscribe("weather").unwrap();
        assert_eq!(count(&wakes), 1);
        assert!(!next.is_terminated());
        assert_eq!(told(poll(&mut next, &wakes).unwrap().unwrap()), ("channel news".into(), true));
        assert!(next.is_terminated());
        assert!(watch.try_recv().is_ok());
        let mut next = watch.recv_async();
        assert!(poll(&mut next, &wakes).is_none());
        bus.close();
        assert_eq!(count(&wakes), 2);
        assert_eq!(poll(&mut next, &wakes), Some(Err(RecvError::Closed)));
    }

    #[test]
    fn a_dropped_future_hands_its_wake_up_to_the_next() {
        let bus: Bus = Bus::new();
        let watch = bus.watch_interest();
        let wakes = [(); 3].map(|()| Arc::new(Wakes::default()));
        let mut futures = [(); 3].map(|()| watch.recv_async());
        for (future, wakes) in futures.iter_mut().zip(&wakes) {
            assert!(poll(future, wakes).is_none());
        }
        let _sub = bus.subscribe("news").unwrap();
        let [first, second, mut third] = futures;
        assert_eq!(wakes.each_ref().map(|it| count(it)), [1, 0, 0]);
        drop(second);
        drop(first);
        assert_eq!(wakes.each_ref().map(|it| count(it)), [1, 0, 1]);
        assert!(poll(&mut third, &wakes[2]).unwrap().is_ok());
    }

    #[test]
    fn a_thread_and_a_task_wait_for_one_watch() {
        const NAMES: usize = 500;
        let bus: Bus = Bus::new();
        let watch = bus.watch_interest();
        thread::scope(|scope| {
            let thread = scope.spawn(|| watch.iter().count());
            let task = scope.spawn(|| {
                block_on(async {
                    let mut count = 0;
                    while watch.recv_async().await.is_ok() {
                        count += 1;
                    }
                    count
                })
            });
            let subs: Vec<_> =
                (0..NAMES).map(|n| bus.subscribe(format!("c{n}")).unwrap()).collect();
            bus.close();
            assert_eq!(thread.join().unwrap() + task.join().unwrap(), NAMES);
            drop(subs);
        });
    }
}

#[test]
fn a_clone_of_a_builder_without_interest_has_none_either() {
    let bus: Bus<u32> = Bus::new();
    let watch = bus.watch_interest();
    let builder = bus.subscriber_builder().interest(false);
    let _sub = builder.clone().subscribe("news").unwrap();
    assert_eq!(watch.try_recv(), Err(TryRecvError::Empty));
}

struct CallsInClone(Option<Arc<dyn Fn() + Send + Sync>>);

impl Clone for CallsInClone {
    fn clone(&self) -> Self {
        self.0.iter().for_each(|call| call());
        Self(None)
    }
}

#[test]
fn a_clone_that_waits_for_a_watch_panics_and_says_so() {
    let bus: Bus<CallsInClone> = Bus::new();
    let watch = bus.watch_interest();
    let _subs = [bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap()];
    assert!(watch.try_recv().is_ok());
    let (tell, told) = mpsc::channel();
    let same_bus = bus.downgrade();
    let calls = move || {
        let timeout = Duration::from_secs(1);
        tell.send(panic_of(|| drop(watch.recv_timeout(timeout)))).unwrap();
        tell.send(panic_of(|| drop(same_bus.upgrade().unwrap().watch_interest()))).unwrap();
    };
    bus.publish("c", CallsInClone(Some(Arc::new(calls))));
    let panics: Vec<String> = told.iter().take(2).collect();
    assert!(panics.iter().all(|text| text.contains("Clone")), "{panics:?}");
}

#[cfg(feature = "async")]
#[test]
fn a_receiver_that_timed_out_keeps_no_place_among_those_that_wait() {
    use std::pin::pin;
    use std::task::Context;

    use support::Counting;

    let bus: Bus<u32> = Bus::new();
    let watch = bus.watch_interest();
    let early = watch.recv_timeout(Duration::from_millis(1));
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    let (woken, waker) = Counting::new(|| ());
    let mut next = pin!(watch.recv_async());
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let _sub = bus.subscribe("news").unwrap();
    assert_eq!(woken.calls(), 1);
}

/// A future that is kept after it has resolved does not take the next wake-up.
#[cfg(feature = "async")]
#[test]
fn a_future_that_has_resolved_waits_no_longer() {
    use std::pin::pin;
    use std::task::Context;

    use support::Counting;

    let bus: Bus<u32> = Bus::new();
    let watch = bus.watch_interest();
    let (woken, waker) = Counting::new(|| ());
    let (stale, stale_waker) = Counting::new(|| ());
    let (context, stale_context) =
        (&mut Context::from_waker(&waker), &mut Context::from_waker(&stale_waker));
    let (mut first, mut second) = (pin!(watch.recv_async()), pin!(watch.recv_async()));
    assert!(first.as_mut().poll(context).is_pending());
    assert!(second.as_mut().poll(stale_context).is_pending());
    // The first is woken, but the second, still in the list, takes the change.
    let _news = bus.subscribe("news").unwrap();
    assert!(second.as_mut().poll(stale_context).is_ready());
    assert!(first.as_mut().poll(context).is_pending());
    let _more = bus.subscribe("more").unwrap();
    assert_eq!((woken.calls(), stale.calls()), (2, 0));
}
