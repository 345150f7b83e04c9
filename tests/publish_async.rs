//! Publishing in tasks: waiting for room, its order and its books, and what ends a wait.
#![cfg(feature = "async")]

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use fanout::{Bus, Overflow, Publish, Receipt, Subscriber};
use futures::StreamExt;
use support::{assert_books, receipt, silent, step, watched};

const LOSSLESS: Overflow = Overflow::Block { timeout: None };

/// A waker that counts its calls.
#[derive(Default)]
struct Calls(AtomicUsize);

impl Calls {
    fn new() -> (Arc<Self>, Waker) {
        let calls = Arc::new(Self::default());
        (Arc::clone(&calls), Waker::from(calls))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(publish: &mut Publish<'_, u32>, waker: &Waker) -> Poll<Receipt> {
    Pin::new(publish).poll(&mut Context::from_waker(waker))
}

/// A bus and an inbox for one message that is full, and whose publishers wait.
fn full() -> (Bus<u32>, Subscriber<u32>) {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(1).overflow(LOSSLESS).subscribe("c").unwrap();
    assert_eq!(bus.publish("c", 0_u32), receipt(1, 0));
    (bus, sub)
}

#[test]
fn nothing_is_published_before_the_first_poll() {
    let (bus, sub) = full();
    assert_eq!(sub.try_recv_message().unwrap().payload, 0);
    let (_, waker) = Calls::new();
    let mut publish = bus.publish_async("c", 1_u32);
    assert!(sub.is_empty());
    assert_eq!(poll(&mut publish, &waker), Poll::Ready(receipt(1, 0)));
    drop(bus.publish_async("c", 2_u32));
    assert_eq!((sub.len(), bus.stats().published), (1, 2));
    assert!(support::panic_of(|| poll(&mut publish, &waker)).contains("completed"));
}

#[test]
fn inboxes_with_room_are_served_at_the_first_poll() {
    let (bus, sub) = full();
    let witness = silent(&bus).psubscribe("c*").unwrap();
    let topic = bus.topic("c");
    let (woken, waker) = Calls::new();
    let mut publish = topic.publish_async(1_u32);
    assert!(poll(&mut publish, &waker).is_pending());
    assert_eq!(witness.try_recv_message().unwrap().payload, 1);
    assert!(poll(&mut publish, &waker).is_pending());
    assert_eq!((woken.count(), sub.try_recv_message().unwrap().payload), (0, 0));
    assert_eq!(woken.count(), 1);
    assert_eq!(poll(&mut publish, &waker), Poll::Ready(receipt(2, 0)));
    assert_eq!(sub.try_recv_message().unwrap().payload, 1);
    assert_books(&sub, 2);
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.dropped), (2, 3, 0));
}

#[test]
fn one_waiting_publisher_is_woken_for_each_message_taken_in_the_order_in_which_they_came() {
    let (bus, sub) = full();
    let tasks: Vec<_> = (0..3).map(|_| Calls::new()).collect();
    let mut publishes: Vec<_> = (1..=3_u32).map(|n| bus.publish_async("c", n)).collect();
    for (publish, (_, waker)) in publishes.iter_mut().zip(&tasks) {
        assert!(poll(publish, waker).is_pending());
    }
    let calls = || tasks.iter().map(|(calls, _)| calls.count()).collect::<Vec<_>>();
    for n in 0..3 {
        assert_eq!(sub.try_recv_message().unwrap().payload, n);
        assert!(sub.try_recv_message().is_err(), "taken once");
        assert_eq!(calls().iter().sum::<usize>(), n as usize + 1);
        let at = n as usize;
        assert_eq!(calls()[at], 1);
        assert_eq!(poll(&mut publishes[at], &tasks[at].1), Poll::Ready(receipt(1, 0)));
    }
}

#[test]
fn a_publish_dropped_after_its_wake_up_hands_it_to_the_next_one() {
    let (bus, sub) = full();
    let tasks: Vec<_> = (0..3).map(|_| Calls::new()).collect();
    let mut publishes: Vec<_> = (1..=3_u32).map(|n| bus.publish_async("c", n)).collect();
    for (publish, (_, waker)) in publishes.iter_mut().zip(&tasks) {
        assert!(poll(publish, waker).is_pending());
    }
    // Before its wake-up: it leaves its waker nowhere.
    drop(publishes.remove(1));
    assert_eq!(Arc::strong_count(&tasks[1].0), 2);
    assert_eq!(sub.try_recv_message().unwrap().payload, 0);
    assert_eq!((tasks[0].0.count(), tasks[2].0.count()), (1, 0));
    drop(publishes.remove(0));
    assert_eq!(tasks[2].0.count(), 1);
    assert_eq!(poll(&mut publishes[0], &tasks[2].1), Poll::Ready(receipt(1, 0)));
    assert_eq!(sub.try_recv_message().unwrap().payload, 3);
    // What was dropped while it waited counts as dropped.
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.dropped), (4, 2, 2));
    assert_eq!(sub.missed(), 2);
    assert_books(&sub, 4);
}

#[test]
fn a_wait_ends_with_what_it_waits_for() {
    type End = fn(&Bus<u32>, &Subscriber<u32>);
    let ends: [(&str, End); 3] = [
        ("the bus is closed", |bus, _| bus.close()),
        ("the subscriber is closed", |_, sub| sub.close()),
        ("the subscription is removed", |_, sub| _ = sub.unsubscribe("c")),
    ];
    for (what, end) in ends {
        let (bus, sub) = full();
        let topic = bus.topic("c");
        let (woken, waker) = Calls::new();
        let mut publish = topic.publish_async(1_u32);
        assert!(poll(&mut publish, &waker).is_pending());
        end(&bus, &sub);
        assert_eq!(woken.count(), 1, "{what}");
        assert_eq!(poll(&mut publish, &waker), Poll::Ready(receipt(0, 1)), "{what}");
        assert_eq!(sub.missed(), 1, "{what}");
    }
    let (bus, sub) = full();
    let (woken, waker) = Calls::new();
    let mut publish = bus.publish_async("c", 1_u32);
    assert!(poll(&mut publish, &waker).is_pending());
    drop(sub);
    assert_eq!(woken.count(), 1);
    assert_eq!(poll(&mut publish, &waker), Poll::Ready(receipt(0, 1)));
}

#[test]
fn a_publish_on_a_closed_bus_reaches_nobody() {
    let (bus, _sub) = full();
    let topic = bus.topic("c");
    bus.close();
    let (_, waker) = Calls::new();
    assert_eq!(poll(&mut bus.publish_async("c", 1_u32), &waker), Poll::Ready(receipt(0, 0)));
    assert_eq!(poll(&mut topic.publish_async(1_u32), &waker), Poll::Ready(receipt(0, 0)));
    assert_eq!(bus.stats().published, 3);
}

/// Several publishers and two inboxes of four messages, on a runtime. All arrives, in each publisher's order.
fn all_arrives(runtime: &tokio::runtime::Runtime, publishers: u32, threads: u32) {
    const EACH: u32 = 500;
    let bus: Bus<u32> = Bus::new();
    let lossless = || silent(&bus).capacity(4).overflow(LOSSLESS).subscribe("c").unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut messages = lossless().into_message_stream();
            runtime.spawn(async move {
                let mut next = vec![0; 16];
                while let Some(message) = messages.next().await {
                    let (publisher, n) = (message.payload / EACH, message.payload % EACH);
                    assert_eq!(n, next[publisher as usize]);
                    next[publisher as usize] += 1;
                    if n % 100 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                next.into_iter().sum::<u32>()
            })
        })
        .collect();
    let tasks: Vec<_> = (0..publishers)
        .map(|publisher| {
            let (bus, topic) = (bus.clone(), bus.topic("c"));
            runtime.spawn(async move {
                for n in publisher * EACH..(publisher + 1) * EACH {
                    let receipt = if n % 2 == 0 {
                        topic.publish_async(n).await
                    } else {
                        bus.publish_async("c", n).await
                    };
                    assert_eq!((receipt.delivered, receipt.dropped), (2, 0));
                }
            })
        })
        .collect();
    let threads: Vec<_> = (publishers..publishers + threads)
        .map(|publisher| {
            let topic = bus.topic("c");
            thread::spawn(move || {
                for n in publisher * EACH..(publisher + 1) * EACH {
                    assert_eq!(topic.publish(n).delivered, 2);
                }
            })
        })
        .collect();
    let total = (publishers + threads.len() as u32) * EACH;
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
            step();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(bus);
        for reader in readers {
            assert_eq!(reader.await.unwrap(), total);
        }
    });
}

#[test]
fn all_arrives_on_a_current_thread_runtime() {
    watched(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        all_arrives(&runtime, 4, 0);
    });
}

#[test]
fn all_arrives_on_a_multi_thread_runtime_beside_threads() {
    watched(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        all_arrives(&runtime, 4, 2);
    });
}

/// What has room is delivered at the first poll, even where that gives way.
#[test]
fn a_task_that_publishes_without_end_gives_way_to_its_readers() {
    watched(|| {
        const MESSAGES: usize = 10_000;
        let bus: Bus<u32> = Bus::new();
        let topic = bus.topic("c");
        let subs: Vec<_> =
            (0..2).map(|_| silent(&bus).capacity(64).subscribe("c").unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let read =
                |sub: &Subscriber<u32>| tokio::spawn(sub.clone().into_message_stream().count());
            let readers: Vec<_> = subs.iter().map(read).collect();
            for n in 0..MESSAGES as u32 {
                let receipt = if n % 2 == 0 {
                    topic.publish_async(n).await
                } else {
                    bus.publish_async("c", n).await
                };
                assert_eq!(receipt.delivered, 2);
            }
            bus.close();
            for reader in readers {
                assert_eq!(reader.await.unwrap(), MESSAGES);
            }
        });
        let (_, waker) = Calls::new();
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        for n in 0..100_u32 {
            let mut publish = bus.publish_async("c", n);
            let ready = poll(&mut publish, &waker).is_ready();
            assert_eq!(sub.try_recv_message().unwrap().payload, n);
            assert!(ready || poll(&mut publish, &waker).is_ready(), "once in a row");
        }
    });
}

#[test]
fn every_publish_on_a_closed_bus_completes() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("c");
    bus.close();
    let (_, waker) = Calls::new();
    for n in 0..1_000_u32 {
        for mut publish in [bus.publish_async("c", n), topic.publish_async(n)] {
            let first = poll(&mut publish, &waker);
            assert!(first.is_ready() || poll(&mut publish, &waker) == Poll::Ready(receipt(0, 0)));
        }
    }
}
