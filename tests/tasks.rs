//! Receiving in tasks: order, the end, cancelling, wakers as user code, and event loops that are no runtime.
#![cfg(feature = "async")]

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fanout::{
    Bus, Event, EventStream, MessageStream, Overflow, Recv, RecvError, RecvMessage, Subscriber,
};
use futures::StreamExt;
use futures::future::FusedFuture;
use futures::stream::FusedStream;
use proptest::prelude::*;
use support::{Counting, WATCHDOG, eventually, silent, spawn_until_asleep, step, text, watched};

type Outcome = Result<(), Box<dyn Error>>;

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Reads a subscriber to its end, by each of the four ways.
async fn read_all(way: usize, sub: Subscriber<u32>) -> Vec<u32> {
    let payload = |event: Event<u32>| event.into_message().map(|message| message.payload);
    match way {
        0 => sub.into_message_stream().map(|message| message.payload).collect().await,
        1 => sub.into_stream().filter_map(|event| async move { payload(event) }).collect().await,
        2 => {
            let mut read = Vec::new();
            while let Ok(message) = sub.recv_message_async().await {
                read.push(message.payload);
            }
            read
        }
        _ => {
            let mut read = Vec::new();
            while let Ok(event) = sub.recv_async().await {
                read.extend(payload(event));
            }
            read
        }
    }
}

/// Publishes from a thread to four readers on `run`, and checks what they read.
fn all_arrives_in_order(
    run: impl FnOnce(Vec<Pin<Box<dyn Future<Output = Vec<u32>> + Send>>>) -> Vec<Vec<u32>>,
) {
    const MESSAGES: u32 = 5_000;
    let bus: Bus<u32> = Bus::builder().capacity(MESSAGES as usize).build();
    let readers: Vec<_> = (0..4)
        .map(|way| {
            let sub = bus.subscriber_builder().subscribe("numbers").unwrap();
            Box::pin(read_all(way, sub)) as Pin<Box<dyn Future<Output = Vec<u32>> + Send>>
        })
        .collect();
    let publisher = thread::spawn(move || {
        for n in 0..MESSAGES {
            assert_eq!(bus.publish("numbers", n).delivered, 4);
            if n % 7 == 0 {
                thread::yield_now();
            }
        }
        bus.close();
    });
    for read in run(readers) {
        assert!(read.iter().copied().eq(0..MESSAGES), "{} messages", read.len());
    }
    publisher.join().unwrap();
}

#[test]
fn all_arrives_in_order_on_a_current_thread_runtime() {
    watched(|| {
        all_arrives_in_order(|readers| {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let tasks: Vec<_> = readers.into_iter().map(tokio::spawn).collect();
                futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect()
            })
        });
    });
}

#[test]
fn all_arrives_in_order_on_a_multi_thread_runtime() {
    watched(|| {
        all_arrives_in_order(|readers| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
            runtime.unwrap().block_on(async {
                let tasks: Vec<_> = readers.into_iter().map(tokio::spawn).collect();
                futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect()
            })
        });
    });
}

#[test]
fn all_arrives_in_order_on_smol() {
    watched(|| {
        all_arrives_in_order(|readers| {
            let executor = smol::Executor::new();
            let tasks: Vec<_> = readers.into_iter().map(|reader| executor.spawn(reader)).collect();
            smol::block_on(executor.run(futures::future::join_all(tasks)))
        });
    });
}

#[test]
fn all_arrives_in_order_on_the_executor_of_futures() {
    watched(|| {
        all_arrives_in_order(|readers| {
            futures::executor::block_on(futures::future::join_all(readers))
        });
    });
}

#[test]
fn a_stream_yields_what_recv_returns_and_ends_for_good() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber_builder().capacity(2).subscribe("c")?;
    let mut events = sub.stream();
    sub.psubscribe("c*")?;
    (1..=2_u32).for_each(|n| _ = bus.publish("c", n));
    bus.close();
    let (_, waker) = Counting::new(|| ());
    let mut context = Context::from_waker(&waker);
    let mut read = Vec::new();
    while let Poll::Ready(Some(event)) = events.poll_recv(&mut context) {
        assert!(!events.is_terminated());
        read.push(text(&event));
    }
    assert_eq!(
        read,
        ["lagged 2", "subscribe c 1", "psubscribe c* 2", "message c 2", "pmessage c* c 2"]
    );
    for _ in 0..2 {
        assert!(events.is_terminated());
        assert!(matches!(events.poll_recv(&mut context), Poll::Ready(None)));
    }
    assert!(matches!(poll(&mut sub.recv_async(), &waker), Poll::Ready(Err(RecvError::Closed))));
    assert!(matches!(
        poll(&mut sub.recv_message_async(), &waker),
        Poll::Ready(Err(RecvError::Closed))
    ));
    Ok(())
}

#[test]
fn futures_and_streams_are_send_and_unpin() {
    fn check<T: Send + Unpin>() {}
    check::<Recv<'_, Arc<str>>>();
    check::<RecvMessage<'_, Arc<str>>>();
    check::<EventStream<'static, Arc<str>>>();
    check::<MessageStream<'static, Arc<str>>>();
}

// ---- wake-ups -----------------------------------------------------------------------------------

#[test]
fn a_task_that_was_woken_and_has_not_looked_is_not_woken_again() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c")?;
    let (woken, waker) = Counting::new(|| ());
    let mut messages = sub.message_stream();
    let mut context = Context::from_waker(&waker);
    for round in 1..=3 {
        assert!(messages.poll_recv(&mut context).is_pending());
        assert!(messages.poll_recv(&mut context).is_pending(), "a second poll changes nothing");
        (0..5_u32).for_each(|n| _ = bus.publish("c", n));
        assert_eq!(woken.calls(), round);
        for n in 0..5 {
            assert!(
                matches!(messages.poll_recv(&mut context), Poll::Ready(Some(message)) if message.payload == n)
            );
        }
    }
    Ok(())
}

#[test]
fn the_waker_of_the_last_poll_is_called() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c")?;
    let (first, second) = (Counting::new(|| ()), Counting::new(|| ()));
    let mut future = sub.recv_message_async();
    assert!(poll(&mut future, &first.1).is_pending());
    assert!(poll(&mut future, &second.1).is_pending());
    assert_eq!(Arc::strong_count(&first.0), 2, "the first waker is dropped");
    bus.publish("c", 1_u32);
    assert_eq!((first.0.calls(), second.0.calls()), (0, 1));
    assert!(poll(&mut future, &second.1).is_ready());
    Ok(())
}

#[test]
fn tasks_and_threads_are_woken_in_the_order_in_which_they_came() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (woken, waker) = Counting::new(|| ());
        let (mut first, mut third) = (sub.recv_message_async(), sub.recv_message_async());
        assert!(poll(&mut first, &waker).is_pending());
        let second = {
            let sub = sub.clone();
            spawn_until_asleep(move || sub.recv_message().map(|message| message.payload))
        };
        assert!(poll(&mut third, &waker).is_pending());
        bus.publish("c", 1_u32);
        assert_eq!(woken.calls(), 1);
        assert!(
            matches!(poll(&mut first, &waker), Poll::Ready(Ok(message)) if message.payload == 1)
        );
        bus.publish("c", 2_u32);
        assert_eq!(second.join().unwrap(), Ok(2));
        assert_eq!(woken.calls(), 1);
        bus.publish("c", 3_u32);
        assert_eq!(woken.calls(), 2);
        assert!(
            matches!(poll(&mut third, &waker), Poll::Ready(Ok(message)) if message.payload == 3)
        );
    });
}

#[test]
fn a_future_dropped_after_its_wake_up_hands_it_to_the_next_task_or_thread() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (woken, waker) = Counting::new(|| ());
        let (mut first, mut second) = (sub.recv_message_async(), sub.recv_message_async());
        assert!(poll(&mut first, &waker).is_pending());
        assert!(poll(&mut second, &waker).is_pending());
        let third = {
            let sub = sub.clone();
            spawn_until_asleep(move || sub.recv_message().map(|message| message.payload))
        };
        bus.publish("c", 1_u32);
        assert_eq!(woken.calls(), 1);
        drop(first);
        assert_eq!(woken.calls(), 2);
        drop(second);
        assert_eq!(third.join().unwrap(), Ok(1));
    });
}

#[test]
fn a_future_that_is_dropped_leaves_its_waker_nowhere() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c")?;
    let (woken, waker) = Counting::new(|| ());
    let mut futures: Vec<_> = (0..10).map(|_| sub.recv_message_async()).collect();
    futures.iter_mut().for_each(|future| assert!(poll(future, &waker).is_pending()));
    assert_eq!(Arc::strong_count(&woken), 12);
    // From the middle on.
    for _ in 0..10 {
        drop(futures.remove(futures.len() / 2));
    }
    assert_eq!(Arc::strong_count(&woken), 2);
    bus.publish("c", 1_u32);
    assert_eq!((woken.calls(), sub.len()), (0, 1));
    Ok(())
}

/// All that can make a receive return something.
#[test]
fn everything_that_can_be_read_wakes_a_task() {
    type Act = fn(&Bus<u32>, &Subscriber<u32>);
    let acts: [(&str, Act); 9] = [
        ("a publish to one inbox", |bus, _| _ = bus.publish("c", 1_u32)),
        ("a publish by a pattern", |bus, _| _ = bus.publish("p", 1_u32)),
        ("a publish by both", |bus, _| _ = bus.publish("pc", 1_u32)),
        ("subscribing", |_, sub| _ = sub.subscribe("d").unwrap()),
        ("subscribing to what is subscribed", |_, sub| _ = sub.subscribe("c").unwrap()),
        ("unsubscribing", |_, sub| _ = sub.unsubscribe("c")),
        ("unsubscribing from all patterns", |_, sub| _ = sub.punsubscribe_all()),
        ("closing the subscriber", |_, sub| sub.close()),
        ("closing the bus", |bus, _| bus.close()),
    ];
    for (what, act) in acts {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscribe("c").unwrap();
        sub.subscribe("pc").unwrap();
        sub.psubscribe("p*").unwrap();
        sub.try_iter().for_each(drop);
        // User code under no lock: it may use the subscriber and the bus as it likes.
        let (again, its_bus) = (sub.clone(), bus.clone());
        let (woken, waker) = Counting::new(move || {
            let other = its_bus.subscribe("c");
            its_bus.publish("c", 2_u32);
            its_bus.publish("pc", 2_u32);
            _ = again.subscribe("e");
            _ = again.len();
            drop(other);
        });
        watched(move || {
            let mut future = sub.recv_async();
            assert!(poll(&mut future, &waker).is_pending(), "{what}");
            act(&bus, &sub);
            assert_eq!(woken.calls(), 1, "{what}");
            assert!(poll(&mut future, &waker).is_ready(), "{what}");
        });
    }
}

#[test]
fn a_loss_wakes_a_task() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(1).overflow(Overflow::DropNewest).subscribe("c")?;
    let (woken, waker) = Counting::new(|| ());
    bus.publish("c", 1_u32);
    // One reader takes what filled the inbox while another enters the list.
    let mut waiting = sub.recv_async();
    let taken = sub.try_recv()?;
    assert!(poll(&mut waiting, &waker).is_pending());
    bus.publish("c", 2_u32);
    bus.publish("c", 3_u32);
    assert_eq!(woken.calls(), 1);
    assert_eq!(taken.message().map(|message| message.payload), Some(1));
    assert!(matches!(poll(&mut waiting, &waker), Poll::Ready(Ok(Event::Lagged { missed: 1 }))));
    Ok(())
}

#[test]
fn a_waker_that_panics_harms_nobody_else() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let subs: Vec<_> = (0..3).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
    let (panicking, waker) = Counting::new(|| panic!("a waker's"));
    let (woken, other) = Counting::new(|| ());
    let mut futures: Vec<_> = subs.iter().map(Subscriber::recv_message_async).collect();
    for (future, waker) in futures.iter_mut().zip([&other, &waker, &other]) {
        assert!(poll(future, waker).is_pending());
    }
    assert_eq!(bus.publish("c", 1_u32).delivered, 3);
    assert_eq!((panicking.calls(), woken.calls()), (1, 2));
    futures.iter_mut().for_each(|future| assert!(poll(future, &other).is_ready()));
    // By the path for one inbox, and by closing.
    let alone = silent(&bus).subscribe("d")?;
    assert!(poll(&mut alone.recv_message_async(), &waker).is_pending());
    let mut future = alone.recv_message_async();
    assert!(poll(&mut future, &waker).is_pending());
    assert_eq!(bus.publish("d", 1_u32).delivered, 1);
    assert_eq!(panicking.calls(), 2);
    assert!(poll(&mut future, &waker).is_ready());
    assert!(poll(&mut future, &waker).is_pending());
    bus.close();
    assert_eq!(panicking.calls(), 3);
    Ok(())
}

#[test]
fn a_publish_that_panics_wakes_the_tasks_that_it_delivered_to() -> Outcome {
    #[derive(Debug)]
    struct Fragile(Arc<AtomicUsize>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) == 0, "the second clone");
            Self(Arc::clone(&self.0))
        }
    }
    let bus: Bus<Fragile> = Bus::new();
    let subs: Vec<_> = (0..4).map(|_| silent(&bus).subscribe("c").unwrap()).collect();
    let (woken, waker) = Counting::new(|| ());
    let mut futures: Vec<_> = subs.iter().map(Subscriber::recv_message_async).collect();
    futures.iter_mut().for_each(|future| assert!(poll(future, &waker).is_pending()));
    support::panic_of(|| bus.publish("c", Fragile(Arc::default())));
    assert_eq!(woken.calls(), 1);
    assert!(poll(&mut futures[0], &waker).is_ready());
    Ok(())
}

// ---- random schedules ---------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    Publish,
    /// Poll the task at this place, woken or not.
    Poll(usize),
    /// Poll the tasks that were woken.
    PollWoken,
    /// Drop the future of the task at this place, and begin another.
    Cancel(usize),
    /// Take a message as a thread does.
    Take,
    Subscribe,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Publish),
        3 => (0..4_usize).prop_map(Op::Poll),
        1 => Just(Op::PollWoken),
        2 => (0..4_usize).prop_map(Op::Cancel),
        1 => Just(Op::Take),
        1 => Just(Op::Subscribe),
    ]
}

proptest! {
    #![proptest_config(support::cases(2_000))]

    /// After each step, if something can be read and tasks wait, one of them has been woken and has not looked yet.
    #[test]
    fn no_task_sleeps_on_a_readable_inbox(
        overflow in proptest::sample::select(vec![Overflow::DropOldest, Overflow::Conflate]),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscriber_builder().capacity(64).overflow(overflow).psubscribe("c*").unwrap();
        sub.try_iter().for_each(drop);
        let wakers: Vec<_> = (0..4).map(|_| Counting::new(|| ())).collect();
        // Calls that each task has seen, if it waits.
        let mut waits: HashMap<usize, usize> = HashMap::new();
        let mut futures: Vec<_> = (0..4).map(|_| sub.recv_async()).collect();
        let (mut published, mut read) = (0_u32, Vec::new());
        let mut events_due = 0;
        let poll_task = |at: usize, futures: &mut Vec<Recv<'_, u32>>, waits: &mut HashMap<usize, usize>, read: &mut Vec<u32>, events_due: &mut u32| {
            let seen = wakers[at].0.calls();
            match poll(&mut futures[at], &wakers[at].1) {
                Poll::Ready(event) => {
                    waits.remove(&at);
                    match event.unwrap().into_message() {
                        Some(message) => read.push(message.payload),
                        None => *events_due -= 1,
                    }
                }
                Poll::Pending => _ = waits.insert(at, seen),
            }
        };
        for op in ops {
            match op {
                Op::Publish if published - (read.len() as u32) < 60 => {
                    // Each on a channel of its own, so that nothing is replaced.
                    bus.publish(&format!("c{published}"), published);
                    published += 1;
                }
                Op::Publish => {}
                Op::Poll(at) => poll_task(at, &mut futures, &mut waits, &mut read, &mut events_due),
                Op::PollWoken => {
                    for (at, (woken, _)) in wakers.iter().enumerate() {
                        if waits.get(&at).is_some_and(|seen| woken.calls() > *seen) {
                            poll_task(at, &mut futures, &mut waits, &mut read, &mut events_due);
                        }
                    }
                }
                Op::Cancel(at) => {
                    futures[at] = sub.recv_async();
                    waits.remove(&at);
                }
                Op::Take => {
                    if let Ok(event) = sub.try_recv() {
                        match event.into_message() {
                            Some(message) => read.push(message.payload),
                            None => events_due -= 1,
                        }
                    }
                }
                Op::Subscribe => {
                    sub.subscribe("c").unwrap();
                    events_due += 1;
                }
            }
            let is_readable = !sub.is_empty() || events_due > 0;
            let is_woken = waits.iter().any(|(&at, seen)| wakers[at].0.calls() > *seen);
            prop_assert!(!is_readable || waits.is_empty() || is_woken);
        }
        drop(futures);
        read.extend(sub.try_messages().map(|message| message.payload));
        // One thread polls: the order is that of the publishes.
        prop_assert!(read.into_iter().eq(0..published));
    }
}

/// Tasks that give up now and then, threads, and one that selects, on one inbox at once.
#[test]
fn tasks_and_threads_that_come_and_go_read_each_message_once() {
    watched(|| {
        const MESSAGES: u32 = 20_000;
        let bus: Bus<u32> = Bus::builder().capacity(MESSAGES as usize).build();
        let sub = silent(&bus).subscribe("c").unwrap();
        let read = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (sub, read) = (sub.clone(), Arc::clone(&read));
                thread::spawn(move || {
                    sub.messages().for_each(|message| read.lock().unwrap().push(message.payload));
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|number| {
                let (sub, read) = (sub.clone(), Arc::clone(&read));
                runtime.spawn(async move {
                    loop {
                        let patience = Duration::from_micros(50 * (number + 1));
                        let received = if number % 2 == 0 {
                            match tokio::time::timeout(patience, sub.recv_message_async()).await {
                                Ok(received) => received,
                                Err(_) => continue,
                            }
                        } else {
                            tokio::select! {
                                received = sub.recv_message_async() => received,
                                received = sub.recv_message_async() => received,
                                () = tokio::task::yield_now() => continue,
                            }
                        };
                        match received {
                            Ok(message) => read.lock().unwrap().push(message.payload),
                            Err(RecvError::Closed) => return,
                        }
                    }
                })
            })
            .collect();
        for n in 0..MESSAGES {
            bus.publish("c", n);
            if n % 50 == 0 {
                step();
                thread::yield_now();
            }
        }
        eventually("the inbox is empty", || sub.is_empty());
        bus.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        runtime.block_on(futures::future::join_all(tasks)).into_iter().for_each(Result::unwrap);
        let mut read = read.lock().unwrap().clone();
        read.sort_unstable();
        assert!(read.iter().copied().eq(0..MESSAGES), "{} messages", read.len());
    });
}

// ---- runtimes and event loops -----------------------------------------------------------------

#[test]
fn futures_select_takes_them_all() {
    futures::executor::block_on(async {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let mut event = sub.recv_async();
        let mut message = sub.recv_message_async();
        let mut publish = bus.publish_async("c", 7_u32);
        assert!(!event.is_terminated() && !message.is_terminated() && !publish.is_terminated());
        let mut read = 0;
        while read == 0 {
            futures::select! {
                receipt = publish => assert_eq!(receipt.delivered, 1),
                event = event => read = event.unwrap().into_message().unwrap().payload,
                message = message => read = message.unwrap().payload,
            }
        }
        assert_eq!(read, 7);
        assert!(publish.is_terminated());
        assert!(event.is_terminated() != message.is_terminated());
    });
}

#[test]
fn a_receive_that_has_completed_receives_the_next_if_it_is_polled_again() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    (0..2_u32).for_each(|n| _ = bus.publish("c", n));
    let mut recv = sub.recv_message_async();
    for n in 0..2 {
        let received = poll(&mut recv, Waker::noop()).map(|received| received.unwrap().payload);
        assert_eq!(received, Poll::Ready(n));
        assert!(recv.is_terminated());
    }
    assert!(poll(&mut recv, Waker::noop()).is_pending());
    assert!(!recv.is_terminated());
}

#[test]
fn an_event_loop_on_mio_reads_what_threads_publish() {
    struct WakeLoop(mio::Waker);
    impl Wake for WakeLoop {
        fn wake(self: Arc<Self>) {
            self.0.wake().expect("the loop can be woken");
        }
    }
    watched(|| {
        const MESSAGES: u32 = 1_000;
        let bus: Bus<u32> = Bus::builder().capacity(MESSAGES as usize).build();
        let mut messages = silent(&bus).subscribe("c").unwrap().into_message_stream();
        let publisher = thread::spawn(move || {
            for n in 0..MESSAGES {
                bus.publish("c", n);
                if n % 10 == 0 {
                    thread::sleep(Duration::from_micros(100));
                }
            }
        });
        let mut poll = mio::Poll::new().unwrap();
        let wake = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let waker = Waker::from(Arc::new(WakeLoop(wake)));
        let mut context = Context::from_waker(&waker);
        let mut events = mio::Events::with_capacity(8);
        let mut read = Vec::new();
        'running: loop {
            loop {
                match messages.poll_recv(&mut context) {
                    Poll::Ready(Some(message)) => read.push(message.payload),
                    Poll::Ready(None) => break 'running,
                    Poll::Pending => break,
                }
            }
            poll.poll(&mut events, Some(WATCHDOG)).unwrap();
            assert!(!events.is_empty(), "nobody woke the loop");
        }
        assert!(read.into_iter().eq(0..MESSAGES));
        publisher.join().unwrap();
    });
}
