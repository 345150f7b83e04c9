//! Giving way: a task that always finds something to do does not starve its neighbours, nor they it.
#![cfg(feature = "async")]

mod support;

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use fanout::{Bus, MessageStream, Overflow, Subscriber};
use futures::{FutureExt, StreamExt};
use support::{Counting, receipt, silent, step, watched};
use tokio::task::{LocalSet, yield_now};

/// A stream with 100 messages, which never runs dry if [`refill`] follows each that is taken.
fn full_stream(bus: &Bus<u32>, name: &str) -> MessageStream<'static, u32> {
    let stream = silent(bus).subscribe(name).unwrap().into_message_stream();
    (0..100).for_each(|_| refill(bus, name));
    stream
}

fn refill(bus: &Bus<u32>, name: &str) {
    assert_eq!(bus.publish(name, 1_u32), receipt(1, 0));
}

/// Full streams, with their names.
fn full_streams(bus: &Bus<u32>, count: usize) -> Vec<(String, MessageStream<'static, u32>)> {
    let names = (0..count).map(|n| format!("c{n}"));
    names.map(|name| (name.clone(), full_stream(bus, &name))).collect()
}

/// A subscriber with a backlog of `count` messages.
fn backlog(bus: &Bus<u32>, count: u32) -> Subscriber<u32> {
    let sub = silent(bus).capacity(count as usize).subscribe("backlog").unwrap();
    (0..count).for_each(|n| _ = bus.publish("backlog", n));
    sub
}

// ---- what a future and its task see -------------------------------------------------------------

#[test]
fn a_task_that_never_runs_dry_gives_way() {
    let bus: Bus<u32> = Bus::builder().capacity(1_000).build();
    let sub = silent(&bus).subscribe("c").unwrap();
    (0..1_000_u32).for_each(|n| _ = bus.publish("c", n));
    let (woken, waker) = Counting::new(|| ());
    let mut context = Context::from_waker(&waker);
    let mut messages = pin!(sub.message_stream());
    let (mut in_a_row, mut read, mut was_pending) = (0, 0, false);
    while read < 1_000 {
        match messages.as_mut().poll_next_unpin(&mut context) {
            Poll::Ready(Some(message)) => {
                assert_eq!(message.payload, read);
                (in_a_row, read) = (in_a_row + 1, read + 1);
            }
            Poll::Ready(None) => panic!("it is open"),
            Poll::Pending => {
                assert!(!was_pending, "once is enough");
                in_a_row = 0;
            }
        }
        was_pending = in_a_row == 0;
        assert!(in_a_row <= 32);
    }
    assert!(woken.calls() >= 1_000 / 33, "each time, it wakes its task");
    // Futures of one message each give way, too.
    (0..100_u32).for_each(|n| _ = bus.publish("c", n));
    let refused = (0..100).filter(|_| sub.recv_message_async().now_or_never().is_none()).count();
    assert!((1..=12).contains(&refused), "{refused}");
}

#[test]
fn a_stream_that_had_to_wait_is_not_pending_beside_a_message() {
    // After 32, it is about to give way.
    for count in [20_u32, 32] {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let mut messages = sub.message_stream();
        let (woken, waker) = Counting::new(|| ());
        let mut context = Context::from_waker(&waker);
        for round in 0..100 {
            assert!(messages.poll_recv(&mut context).is_pending());
            assert_eq!(woken.calls(), round, "by messages only");
            (0..count).for_each(|n| _ = bus.publish("c", n));
            assert!((0..count).all(|_| messages.poll_recv(&mut context).is_ready()));
        }
    }
}

#[test]
fn tasks_that_had_to_wait_are_not_pending_beside_a_message_however_many_they_are() {
    let bus: Bus<u32> = Bus::new();
    let subs: Vec<_> = (0..200).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
    let mut tasks: Vec<_> =
        subs.iter().map(|sub| (sub.message_stream(), Counting::new(|| ()).1)).collect();
    for n in 0..10_u32 {
        for (stream, waker) in &mut tasks {
            assert!(stream.poll_recv(&mut Context::from_waker(waker)).is_pending());
        }
        bus.publish("c", n);
        for (stream, waker) in &mut tasks {
            assert!(stream.poll_recv(&mut Context::from_waker(waker)).is_ready());
        }
    }
}

#[test]
fn when_a_task_has_given_way_the_next_gets_its_share_at_once() {
    for had_to_wait in [false, true] {
        let bus: Bus<u32> = Bus::new();
        let mut tasks = ["a", "b"].map(|name| {
            let mut stream = silent(&bus).subscribe(name).unwrap().into_message_stream();
            let waker = Counting::new(|| ()).1;
            if had_to_wait {
                assert!(stream.poll_recv(&mut Context::from_waker(&waker)).is_pending());
            }
            (0..100).for_each(|_| refill(&bus, name));
            (name, stream, waker)
        });
        for _ in 0..10 {
            for (name, stream, waker) in &mut tasks {
                let mut context = Context::from_waker(waker);
                for _ in 0..32 {
                    assert!(stream.poll_recv(&mut context).is_ready());
                    refill(&bus, name);
                }
                assert!(stream.poll_recv(&mut context).is_pending());
            }
        }
    }
}

/// Tasks that receive one message each, and then do something else: they seldom have to give way.
#[test]
fn most_tasks_of_one_receive_are_not_pending() {
    let bus: Bus<u32> = Bus::new();
    let sub = backlog(&bus, 1_000);
    let tasks: Vec<_> = (0..1_000).map(|_| Counting::new(|| ()).1).collect();
    let mut receives: Vec<_> = tasks.iter().map(|_| sub.recv_message_async()).collect();
    let mut ready = 0;
    for (receive, waker) in receives.iter_mut().zip(&tasks) {
        let polled = receive.poll_unpin(&mut Context::from_waker(waker));
        ready += usize::from(polled.is_ready());
    }
    assert!(ready >= 600, "{ready} of 1,000");
}

#[test]
fn a_watch_that_had_to_wait_is_not_pending_beside_a_change() {
    let bus: Bus<u32> = Bus::new();
    let (watch, sub) = (bus.watch_interest(), bus.subscriber());
    let (woken, waker) = Counting::new(|| ());
    let mut context = Context::from_waker(&waker);
    for round in 0..100 {
        let mut first = watch.recv_async();
        assert!(first.poll_unpin(&mut context).is_pending());
        assert_eq!(woken.calls(), round, "by changes only");
        if round % 2 == 0 {
            sub.subscribe_many((0..32).map(|n| format!("c{n}"))).unwrap();
        } else {
            sub.unsubscribe_all();
        }
        assert!(first.poll_unpin(&mut context).is_ready());
        assert!((1..32).all(|_| watch.recv_async().poll_unpin(&mut context).is_ready()));
    }
}

/// A publish that had to wait has given its neighbours their turn.
#[test]
fn a_publish_that_had_to_wait_is_ready_when_there_is_room() {
    let bus: Bus<u32> = Bus::new();
    let small = silent(&bus).capacity(1).overflow(Overflow::Block { timeout: None });
    let sub = small.subscribe("c").unwrap();
    bus.publish("c", 0_u32);
    let mut context = Context::from_waker(Waker::noop());
    for n in 1..=100_u32 {
        let mut publish = bus.publish_async("c", n);
        assert!(publish.poll_unpin(&mut context).is_pending());
        assert_eq!(sub.try_recv_message().unwrap().payload, n - 1);
        assert_eq!(publish.poll_unpin(&mut context), Poll::Ready(receipt(1, 0)));
    }
}

/// Giving way must not hit the same future each time, though the task works in batches of 32.
#[test]
fn a_receive_polled_once_after_every_32_others_mostly_succeeds() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let data = backlog(&bus, 10_000);
        let control = silent(&bus).capacity(500).subscribe("control").unwrap();
        (0..500_u32).for_each(|n| _ = bus.publish("control", n));
        let mut received = 0;
        gives_way(async |n| {
            data.recv_message_async().await.unwrap();
            if n % 32 == 31 {
                received += usize::from(futures::poll!(control.recv_message_async()).is_ready());
            }
        });
        assert!(received >= 200, "{received} of 312");
    });
}

#[test]
fn a_waker_that_panics_while_a_future_gives_way_harms_nobody() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    (0..200_u32).for_each(|n| _ = bus.publish("c", n));
    let (woken, waker) = Counting::new(|| panic!("a waker"));
    let mut messages = sub.message_stream();
    let mut read = 0;
    while read < 200 {
        if let Poll::Ready(message) = messages.poll_recv(&mut Context::from_waker(&waker)) {
            assert_eq!(message.unwrap().payload, read);
            read += 1;
        }
    }
    assert!(woken.calls() >= 5);
}

// ---- a neighbour --------------------------------------------------------------------------------

/// Runs `task` on one thread with a neighbour, and returns how often the neighbour had its turn.
fn turns_beside(task: impl Future<Output = ()>) -> usize {
    let turns = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let its_turns = Arc::clone(&turns);
        let neighbour = tokio::spawn(async move {
            loop {
                its_turns.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
            }
        });
        task.await;
        neighbour.abort();
    });
    turns.load(Ordering::SeqCst)
}

/// Runs a task that calls `step` 10,000 times, beside a neighbour that must get its turn.
#[track_caller]
fn gives_way(mut step: impl AsyncFnMut(u32)) {
    let turns = turns_beside(async {
        for n in 0..10_000 {
            step(n).await;
        }
    });
    assert!((100..5_000).contains(&turns), "{turns} turns");
}

#[test]
fn a_task_that_awaits_several_futures_gives_way() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (topic, stop) = (bus.topic("c"), bus.subscriber());
        // Beside one that never comes.
        gives_way(async |n| {
            _ = futures::future::select(stop.recv_async(), topic.publish_async(n)).await;
        });
        // Beside one that is ready, too.
        let busy = || {
            let sub = silent(&bus).capacity(20_000).subscribe("busy").unwrap();
            (0..20_000_u32).for_each(|n| _ = bus.publish("busy", n));
            sub
        };
        let subs = [busy(), busy()];
        let [one, other] = &subs;
        gives_way(async |_| {
            _ = futures::future::select(one.recv_async(), other.recv_message_async()).await;
        });
        let mut all = futures::stream::select_all(subs.each_ref().map(Subscriber::message_stream));
        gives_way(async |_| _ = all.next().await);
    });
}

#[test]
fn a_select_of_one_that_waits_and_one_that_never_runs_dry_gives_way() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let mut busy = full_stream(&bus, "busy");
        let mut waits = silent(&bus).subscribe("waits").unwrap().into_message_stream();
        gives_way(async |n| {
            tokio::select! {
                biased;
                _ = waits.next() => {}
                _ = busy.next() => {
                    refill(&bus, "busy");
                    if n % 20 == 0 {
                        refill(&bus, "waits");
                    }
                }
            }
        });
    });
}

/// Polls them in this order, as a `select!` does.
async fn first_ready(streams: &mut [(String, MessageStream<'_, u32>)]) -> usize {
    poll_fn(|context| {
        let mut streams = streams.iter_mut();
        let ready = streams.position(|(_, stream)| stream.poll_recv(context).is_ready());
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[test]
fn a_select_over_any_number_of_streams_gives_way() {
    watched(|| {
        for count in [1, 4, 5, 12, 32, 33, 300] {
            let bus: Bus<u32> = Bus::new();
            let mut streams = full_streams(&bus, count);
            gives_way(async |_| {
                let at = first_ready(&mut streams).await;
                refill(&bus, &streams[at].0);
            });
        }
    });
}

#[test]
fn select_all_gives_way() {
    watched(|| {
        for count in [2, 5, 20] {
            let bus: Bus<u32> = Bus::new();
            let streams = full_streams(&bus, count).into_iter().map(|(_, stream)| stream);
            let mut all = futures::stream::select_all(streams);
            gives_way(async |_| refill(&bus, all.next().await.unwrap().channel()));
        }
    });
}

/// The waker of a stream in a combinator: it remembers that the stream is to be polled.
struct Inner {
    is_woken: AtomicBool,
    outer: Waker,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        self.outer.wake_by_ref();
    }
}

/// Some combinators give each stream a waker of its own, and poll those that were woken in turns.
#[test]
fn a_select_in_which_each_stream_has_its_own_waker_gives_way() {
    watched(|| {
        for count in [2, 5, 20] {
            let bus: Bus<u32> = Bus::new();
            let mut streams = full_streams(&bus, count);
            let mut inners: Vec<Arc<Inner>> = Vec::new();
            gives_way(async |n| {
                let ready = poll_fn(|context| {
                    inners.resize_with(count, || {
                        let outer = context.waker().clone();
                        Arc::new(Inner { is_woken: AtomicBool::new(true), outer })
                    });
                    let mut order = (n as usize..).take(count).map(|n| n % count);
                    let ready = order.find(|&at| {
                        let inner = &inners[at];
                        let waker = Waker::from(Arc::clone(inner));
                        let mut context = Context::from_waker(&waker);
                        let is_ready = inner.is_woken.swap(false, Ordering::SeqCst)
                            && streams[at].1.poll_recv(&mut context).is_ready();
                        inner.is_woken.fetch_or(is_ready, Ordering::SeqCst);
                        is_ready
                    });
                    ready.map_or(Poll::Pending, Poll::Ready)
                });
                let ready = ready.await;
                refill(&bus, &streams[ready].0);
            });
        }
    });
}

/// Each of the two has to wait after each message, but their task never has.
#[test]
fn a_task_with_two_streams_that_feed_each_other_gives_way() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let stream = |name: &str| silent(&bus).subscribe(name).unwrap().into_message_stream();
        let (mut ping, mut pong) = (stream("ping"), stream("pong"));
        refill(&bus, "ping");
        let mut read = 0;
        let turns = turns_beside(poll_fn(|context| {
            let mut read_before = usize::MAX;
            while read < 10_000 && read != read_before {
                read_before = read;
                while ping.poll_recv(context).is_ready() {
                    read += 1;
                    refill(&bus, "pong");
                }
                while pong.poll_recv(context).is_ready() {
                    read += 1;
                    refill(&bus, "ping");
                }
            }
            if read < 10_000 { Poll::Pending } else { Poll::Ready(()) }
        }));
        assert!((100..5_000).contains(&turns), "{turns} turns");
    });
}

#[test]
fn a_publish_to_nobody_gives_way() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        gives_way(async |n| _ = bus.publish_async("nobody", n).await);
        gives_way(async |n| _ = bus.publish_many_async(["nobody"], n).await);
        let names = (0..10_000).map(|n| format!("nobody:{n}"));
        let turns = turns_beside(async { _ = bus.publish_many_async(names, 1_u32).await });
        assert!((100..5_000).contains(&turns), "{turns} turns");
    });
}

/// Makes a change of interest: subscribes to a name, or unsubscribes from it.
fn change_interest(sub: &Subscriber<u32>) {
    if sub.channels().is_empty() {
        sub.subscribe("news").unwrap();
    } else {
        sub.unsubscribe("news");
    }
}

#[test]
fn a_task_that_reads_a_watch_which_never_runs_dry_gives_way() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (watch, sub) = (bus.watch_interest(), bus.subscriber());
        gives_way(async |_| {
            change_interest(&sub);
            watch.recv_async().await.unwrap();
        });
    });
}

// ---- tasks among each other ---------------------------------------------------------------------

/// Runs tasks on one thread, one for each of `states`, which call `step` again and again. When the first has done that
/// 1,000 times, the others must not be far behind.
#[track_caller]
fn get_equal_shares<T: 'static>(states: Vec<T>, step: impl AsyncFn(&mut T) + Clone + 'static) {
    let done: Rc<[Cell<usize>]> = states.iter().map(|_| Cell::new(0)).collect();
    // What all have done when the first has done its part.
    let shares: Rc<OnceCell<Vec<usize>>> = Rc::default();
    let tasks = LocalSet::new();
    for (at, mut state) in states.into_iter().enumerate() {
        let (done, shares, step) = (Rc::clone(&done), Rc::clone(&shares), step.clone());
        tasks.spawn_local(async move {
            while done[at].get() < 1_000 {
                step(&mut state).await;
                done[at].set(done[at].get() + 1);
            }
            shares.get_or_init(|| done.iter().map(Cell::get).collect());
        });
    }
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(tasks);
    let shares = shares.get().unwrap();
    assert!(shares.iter().all(|&share| share >= 800), "{shares:?}");
}

#[test]
fn tasks_whose_streams_never_run_dry_get_equal_shares() {
    watched(|| {
        for count in 2..=40 {
            step();
            let bus: Bus<u32> = Bus::new();
            let streams = full_streams(&bus, count);
            get_equal_shares(streams, async move |(name, stream)| {
                stream.next().await.unwrap();
                refill(&bus, name);
            });
        }
    });
}

#[test]
fn tasks_that_read_a_backlog_message_by_message_get_equal_shares() {
    watched(|| {
        for count in [2, 3, 5, 33] {
            let bus: Bus<u32> = Bus::new();
            let subs: Vec<_> = (0..count).map(|_| backlog(&bus, 1_000)).collect();
            get_equal_shares(subs, async |sub| _ = sub.recv_message_async().await.unwrap());
        }
    });
}

#[test]
fn tasks_that_read_watches_which_never_run_dry_get_equal_shares() {
    watched(|| {
        for count in [2, 5, 33] {
            let buses: Vec<Bus<u32>> = (0..count).map(|_| Bus::new()).collect();
            let watches = buses.iter().map(|bus| (bus.watch_interest(), bus.subscriber()));
            get_equal_shares(watches.collect(), async |(watch, sub)| {
                change_interest(sub);
                watch.recv_async().await.unwrap();
            });
        }
    });
}

/// Giving way must not hit the same one each time.
#[test]
fn no_task_starves_among_tasks_that_can_always_run() {
    watched(|| {
        for tasks in [1, 2, 31, 32, 33, 34, 66, 96] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bus: Bus<u32> = Bus::new();
            let done: Vec<_> = (0..tasks).map(|_| Arc::new(AtomicUsize::new(0))).collect();
            for done in &done {
                let (topic, done) = (bus.topic("c"), Arc::clone(done));
                runtime.spawn(async move {
                    loop {
                        topic.publish_async(1_u32).await;
                        done.fetch_add(1, Ordering::SeqCst);
                        // Unlike tokio's `yield_now`, it goes to the end of the queue at once.
                        let mut is_polled = false;
                        std::future::poll_fn(|context| {
                            context.waker().wake_by_ref();
                            let is_ready = std::mem::replace(&mut is_polled, true);
                            if is_ready { Poll::Ready(()) } else { Poll::Pending }
                        })
                        .await;
                    }
                });
            }
            runtime.block_on(async {
                while done.iter().all(|done| done.load(Ordering::SeqCst) < 1_000) {
                    tokio::task::yield_now().await;
                }
            });
            let least = done.iter().map(|done| done.load(Ordering::SeqCst)).min().unwrap();
            assert!(least >= 100, "{tasks} tasks: {least} beside 1,000");
        }
    });
}
