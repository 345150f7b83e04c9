//! Every payload is dropped once, whatever is dropped or closed while it is sent.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow, Subscriber};
use support::{Census, Tracked, linger, scaled, silent, step, watched};

/// Hazard: a message freed twice, or leaked, when the receiver is dropped during a send.
#[test]
fn every_payload_is_dropped_once_while_subscribers_are_dropped_during_sends() {
    for policy in [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Conflate,
        Overflow::Disconnect,
        Overflow::Block { timeout: Some(Duration::from_micros(20)) },
    ] {
        watched(move || {
            let census = Census::new();
            let rounds = scaled(1_000);
            let bus: Bus<Tracked> = Bus::builder().capacity(2).overflow(policy).build();
            let kept = silent(&bus).subscribe("c").unwrap();
            thread::scope(|scope| {
                let done = Arc::new(AtomicUsize::new(0));
                for n in 0..2 {
                    let (bus, census, done) = (&bus, &census, Arc::clone(&done));
                    scope.spawn(move || {
                        let topic = bus.topic("c");
                        let mut value = 0;
                        while done.load(Ordering::SeqCst) < 2 {
                            value += 1;
                            match n {
                                0 => topic.publish(census.payload(value)),
                                _ => bus.publish("c", census.payload(value)),
                            };
                        }
                    });
                }
                for n in 0..2 {
                    let bus = &bus;
                    let done = Arc::clone(&done);
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let sub = match n {
                                0 => silent(bus).subscribe("c").unwrap(),
                                _ => silent(bus).psubscribe("c*").unwrap(),
                            };
                            match round % 4 {
                                0 => drop(sub),
                                1 => {
                                    let _ = sub.try_recv();
                                }
                                2 => sub.close(),
                                _ => {
                                    let receiver = sub.receiver().clone();
                                    drop(sub);
                                    let _ = receiver.try_recv();
                                }
                            }
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
            // At rest, only the messages in the inbox are alive.
            assert_eq!(census.live(), kept.len() as isize, "{policy:?}");
            let books = kept.info();
            assert!(books.received + books.missed + books.depth as u64 <= bus.stats().published);
            drop(bus);
            assert_eq!(
                census.live(),
                kept.len() as isize,
                "closing drops nothing that can be read"
            );
            drop(kept);
            assert_eq!(census.live(), 0, "{policy:?}");
        });
    }
}

#[test]
fn every_payload_is_dropped_when_the_bus_closes_during_sends() {
    watched(|| {
        let census = Census::new();
        for round in 0..scaled(200) {
            step();
            let bus: Bus<Tracked> = Bus::builder().capacity(3).build();
            let subs =
                [silent(&bus).subscribe("c").unwrap(), silent(&bus).psubscribe("c*").unwrap()];
            thread::scope(|scope| {
                for _ in 0..2 {
                    let (bus, census) = (bus.clone(), &census);
                    scope.spawn(move || {
                        let topic = bus.topic("c");
                        for n in 0.. {
                            if topic.publish(census.payload(n)).matched == 0 {
                                break;
                            }
                        }
                    });
                }
                linger(round % 16);
                match round % 2 {
                    0 => bus.close(),
                    _ => subs.iter().for_each(Subscriber::close),
                }
            });
            let held: usize = subs.iter().map(Subscriber::len).sum();
            assert_eq!(census.live(), held as isize);
            drop(bus);
            drop(subs);
            assert_eq!(census.live(), 0);
        }
    });
}

#[test]
fn handles_may_be_dropped_in_any_order_on_any_thread() {
    watched(|| {
        let census = Census::new();
        for round in 0..scaled(200) {
            step();
            let bus: Bus<Tracked> = Bus::new();
            let weak = bus.downgrade();
            let sub = bus.subscribe("c").unwrap();
            sub.psubscribe("c*").unwrap();
            let topic = bus.topic("c");
            let listener = sub.spawn("listens", drop);
            topic.publish(census.payload(round as u64));
            let mut threads: Vec<Box<dyn FnOnce() + Send>> = vec![
                Box::new(move || drop(bus)),
                Box::new(move || drop(sub)),
                Box::new(move || drop(topic)),
                Box::new(move || drop(weak.upgrade())),
                Box::new(move || {
                    listener.stop();
                    listener.join().unwrap();
                }),
            ];
            threads.rotate_left(round % 5);
            thread::scope(|scope| {
                threads.into_iter().for_each(|work| _ = scope.spawn(work));
            });
            assert_eq!(census.live(), 0);
        }
    });
}
