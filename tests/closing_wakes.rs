//! Every way to close a subscriber wakes every way to wait for it.

mod support;

use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fanout::crossbeam_channel::{self, Select, select};
use fanout::{Bus, Overflow, Receipt, Subscriber};
use support::{
    HOUR, assert_books, assert_ended, eventually, let_it_wait, payloads, silent, step, watched,
};

/// A way to receive until the stream ends. Returns the number of messages.
type Waiter = fn(Subscriber<u32>) -> usize;

const WAITERS: [(&str, Waiter); 16] = [
    ("recv", |sub| std::iter::from_fn(|| sub.recv().ok()).count()),
    ("recv_timeout", |sub| std::iter::from_fn(|| sub.recv_timeout(HOUR).ok()).count()),
    ("recv_deadline", |sub| {
        std::iter::from_fn(|| sub.recv_deadline(Instant::now() + HOUR).ok()).count()
    }),
    ("endless recv_timeout", |sub| {
        std::iter::from_fn(|| sub.recv_timeout(Duration::MAX).ok()).count()
    }),
    ("recv_message", |sub| std::iter::from_fn(|| sub.recv_message().ok()).count()),
    ("recv_message_timeout", |sub| {
        std::iter::from_fn(|| sub.recv_message_timeout(HOUR).ok()).count()
    }),
    ("recv_message_deadline", |sub| {
        std::iter::from_fn(|| sub.recv_message_deadline(Instant::now() + HOUR).ok()).count()
    }),
    ("iter", |sub| sub.iter().count()),
    ("messages", |sub| sub.messages().count()),
    ("into_messages", |sub| sub.into_messages().count()),
    ("into_iter", |sub| sub.into_iter().count()),
    ("receiver().recv()", |sub| std::iter::from_fn(|| sub.receiver().recv().ok()).count()),
    ("receiver().recv_timeout()", |sub| {
        std::iter::from_fn(|| sub.receiver().recv_timeout(HOUR).ok()).count()
    }),
    ("select!", |sub| {
        let never = crossbeam_channel::never::<()>();
        let mut messages = 0;
        loop {
            select! {
                recv(sub.receiver()) -> message => match message {
                    Ok(_) => messages += 1,
                    Err(_) => return messages,
                },
                recv(never) -> _ => unreachable!(),
            }
        }
    }),
    ("Select", |sub| {
        let mut select = Select::new();
        select.recv(sub.receiver());
        std::iter::from_fn(|| select.select().recv(sub.receiver()).ok()).count()
    }),
    ("a listener", |sub| {
        let (tell, told) = mpsc::channel();
        sub.spawn("waits", move |event| tell.send(event).unwrap()).join().unwrap();
        told.iter().count()
    }),
];

/// A way to close a subscriber, which stays alive meanwhile.
type Closer = fn(Bus<u32>, &Subscriber<u32>);

const CLOSERS: [(&str, Closer); 4] = [
    ("bus.close()", |bus, _| {
        bus.close();
        // Not closed by being dropped.
        std::mem::forget(bus);
    }),
    ("the last bus dropped", |bus, _| drop(bus)),
    ("the last topic dropped", |bus, _| {
        let topic = bus.topic("c");
        drop(bus);
        drop(topic);
    }),
    ("sub.close()", |bus, sub| {
        sub.close();
        std::mem::forget(bus);
    }),
];

#[test]
fn closing_wakes_every_blocked_receive_which_drains_and_ends() {
    for (waiter, wait) in WAITERS {
        watched(move || {
            for (closer, close) in CLOSERS {
                for messages in [0u32, 1, 3] {
                    step();
                    for subscribe in ["exact", "pattern", "nothing"] {
                        let bus: Bus<u32> = Bus::new();
                        let sub = silent(&bus).build();
                        match subscribe {
                            "exact" => _ = sub.subscribe("c").unwrap(),
                            "pattern" => _ = sub.psubscribe("c*").unwrap(),
                            _ if messages > 0 => continue,
                            _ => {}
                        }
                        let copy = sub.clone();
                        let (begin, begun) = mpsc::channel();
                        let thread = thread::spawn(move || {
                            begin.send(()).unwrap();
                            wait(copy)
                        });
                        begun.recv().unwrap();
                        if messages != 1 {
                            // Once with a thread that most likely sleeps already, once in a race.
                            let_it_wait();
                        }
                        for n in 0..messages {
                            bus.publish("c", n);
                        }
                        close(bus, &sub);
                        let got = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                        let what = (waiter, closer, subscribe);
                        assert_eq!(got, messages as usize, "{what:?}");
                        assert!(sub.is_closed(), "{what:?}");
                        assert_ended(&sub);
                    }
                }
            }
        });
    }
}

#[test]
fn closing_wakes_all_clones_that_wait() {
    watched(|| {
        for (_, close) in CLOSERS {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let waiters: Vec<_> = WAITERS
                .into_iter()
                .map(|(_, wait)| {
                    let sub = sub.clone();
                    thread::spawn(move || wait(sub))
                })
                .collect();
            let_it_wait();
            bus.publish("c", 1u32);
            close(bus, &sub);
            let got: usize = waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum();
            assert_eq!(got, 1);
        }
    });
}

#[test]
fn a_handler_may_close_its_subscriber_or_its_bus() {
    for (_, close) in CLOSERS {
        watched(move || {
            let bus: Bus<u32> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let other = silent(&bus).subscribe("c").unwrap();
            let (tell, told) = mpsc::channel();
            let copy = sub.clone();
            let mut owned = Some(bus.clone());
            let listener = sub.spawn("closes", move |event| {
                if let Some(bus) = owned.take() {
                    close(bus, &copy);
                }
                tell.send(event.into_message().unwrap().payload).unwrap();
            });
            for n in 0..3u32 {
                bus.publish("c", n);
            }
            drop(bus);
            // It drains its inbox and ends.
            listener.join().unwrap();
            let told: Vec<u32> = told.iter().collect();
            assert!(told.starts_with(&[0]), "{told:?}");
            assert_ended(&sub);
            sub.close();
            payloads(&other);
        });
    }
}

#[test]
fn closing_ends_a_publish_that_waits_for_room() {
    watched(|| {
        for (closer, close) in CLOSERS {
            if closer.starts_with("the last") {
                // The publisher still uses its handle.
                continue;
            }
            let bus: Bus<u32> = Bus::new();
            let block = Overflow::Block { timeout: None };
            let sub = silent(&bus).capacity(1).overflow(block).subscribe("c").unwrap();
            let pattern = silent(&bus).psubscribe("c*").unwrap();
            bus.publish("c", 1u32);
            let publisher = thread::spawn({
                let bus = bus.clone();
                move || bus.publish("c", 2u32)
            });
            // Inboxes with room are served first.
            eventually("the second message has come", || pattern.len() == 2);
            let_it_wait();
            close(bus, &sub);
            let receipt = publisher.join().unwrap();
            assert_eq!(receipt, Receipt { matched: 2, delivered: 1, dropped: 1 }, "{closer}");
            assert_eq!(payloads(&sub), [1]);
            assert_eq!(sub.missed(), 1);
            assert_ended(&sub);
            assert_books(&sub, 2);
        }
    });
}
