//! Subscriptions begin and end exactly, and without deadlock, while others publish, subscribe and leave.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fanout::{Bus, Pattern, Receipt, SubscribeError};
use support::{Stop, payloads, scaled, silent, step, watched};

/// Hazards: counts that underflow, and a channel that stays dead when it is subscribed again.
#[test]
fn names_that_many_threads_subscribe_and_leave_are_gone_in_the_end() {
    watched(|| {
        let rounds = scaled(2_000);
        let bus: Bus<u64> = Bus::builder().stripes(1).build();
        let topic = bus.topic("c");
        thread::scope(|scope| {
            for n in 0..4 {
                let bus = &bus;
                scope.spawn(move || {
                    let own = silent(bus).build();
                    for round in 0..rounds {
                        if n % 2 == 0 {
                            own.subscribe("c").unwrap();
                            assert!(bus.subscriber_count("c") >= 1);
                            assert!(bus.publish("c", round as u64).delivered >= 1);
                            own.unsubscribe("c");
                        } else {
                            own.psubscribe("c*").unwrap();
                            assert!(bus.pattern_count() >= 1);
                            assert!(bus.publish("cc", round as u64).delivered >= 1);
                            own.punsubscribe("c*");
                        }
                    }
                });
            }
        });
        assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (0, 0));
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert!(bus.channels().is_empty());
        assert_eq!(topic.publish(1u64), Receipt::default());
        let sub = silent(&bus).subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        assert_eq!(topic.publish(1u64).delivered, 2);
        assert_eq!(bus.publish("c", 1u64).delivered, 2);
    });
}

/// A subscription is live when `subscribe` returns, and no longer when `unsubscribe` does, whatever other
/// threads do.
#[test]
fn a_subscription_begins_and_ends_exactly_while_others_publish() {
    watched(|| {
        let rounds = scaled(1_500) as u64;
        let bus: Bus<u64> = Bus::new();
        thread::scope(|scope| {
            for thread in 0..3u64 {
                let bus = &bus;
                scope.spawn(move || {
                    // Room for everything that the other threads publish.
                    let sub = silent(bus).capacity(8 * rounds as usize).build();
                    let topic = bus.topic("c");
                    for round in 0..rounds {
                        let own = thread << 32 | round << 1;
                        let publish = |value| match round % 2 {
                            0 => topic.publish(value),
                            _ => bus.publish("c", value),
                        };
                        match thread {
                            0 => sub.subscribe("c").unwrap(),
                            1 => sub.psubscribe("c*").unwrap(),
                            _ => sub.psubscribe(format!("[c{round}]")).unwrap(),
                        };
                        assert!(publish(own).delivered >= 1);
                        match thread {
                            0 => sub.unsubscribe("c"),
                            1 => sub.punsubscribe("c*"),
                            _ => sub.punsubscribe(format!("[c{round}]")),
                        };
                        publish(own | 1);
                        let values = payloads(&sub);
                        assert!(values.contains(&own), "published while it was subscribed");
                        assert!(!values.contains(&(own | 1)), "published when it was not any more");
                    }
                });
            }
        });
    });
}

/// Hazards: two threads that take locks in opposite orders; a recursive read lock with a writer queued between.
#[test]
fn subscribing_to_the_same_names_in_opposite_orders_does_not_deadlock() {
    watched(|| {
        let rounds = scaled(300);
        let bus: Bus<u64> = Bus::builder().stripes(2).capacity(1).build();
        let channels: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
        let patterns: Vec<String> = (0..12).map(|n| format!("*{n}")).chain(["c*".into()]).collect();
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for backwards in [false, true] {
                let (bus, channels, patterns, done) = (&bus, &channels, &patterns, &done);
                scope.spawn(move || {
                    let order = |names: &Vec<String>| -> Vec<String> {
                        let mut names = names.clone();
                        if backwards {
                            names.reverse();
                        }
                        names
                    };
                    let (channels, patterns) = (order(channels), order(patterns));
                    for _ in 0..rounds {
                        let sub = bus.subscriber_builder().dedupe(backwards).build();
                        sub.subscribe_many(&channels).unwrap();
                        sub.psubscribe_many(&patterns).unwrap();
                        sub.info();
                        match backwards {
                            true => _ = sub.unsubscribe_all() + sub.punsubscribe_all(),
                            false => drop(sub),
                        }
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            for forwards in [false, true] {
                let (bus, channels, done) = (&bus, &channels, &done);
                scope.spawn(move || {
                    while done.load(Ordering::SeqCst) < 2 {
                        for n in 0..channels.len() {
                            let n = if forwards { n } else { channels.len() - 1 - n };
                            bus.publish(&channels[n], 1u64);
                            bus.match_count(&channels[n]);
                        }
                        bus.stats();
                        bus.subscribers();
                        bus.channels();
                    }
                });
            }
        });
        let stats = bus.stats();
        assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
        assert_eq!(stats.matched, stats.delivered + stats.dropped);
    });
}

#[test]
fn a_channel_comes_and_goes_while_it_and_new_names_are_published_to() {
    watched(|| {
        // With one stripe whose memory of recent names is full, all threads meet there.
        let bus: Bus<u64> = Bus::builder().stripes(1).capacity(4).build();
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.set_on_drop();
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.is_set() {
                        bus.publish("x", 1_u64);
                    }
                });
            }
            scope.spawn(|| {
                while !stop.is_set() {
                    drop(bus.topic("x"));
                    drop(silent(&bus).subscribe("x").unwrap());
                }
            });
            for i in 0..scaled(100_000) {
                step();
                assert_eq!(bus.publish(&format!("never:{i}"), 1_u64).matched, 0);
            }
        });
    });
}

/// Calls `one` and `other` at the same time, `other` a little later in each trial.
fn overlapping<T>(trial: usize, one: impl FnOnce() -> T, other: impl FnOnce() + Send) -> T {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            (0..trial % 60 * 20).for_each(|_| std::hint::spin_loop());
            other();
        });
        start.wait();
        one()
    })
}

#[test]
fn subscribing_to_many_names_while_the_bus_closes_is_done_or_leaves_no_trace() {
    let names: Vec<String> = (0..200).map(|i| format!("n{i}")).collect();
    watched(move || {
        for trial in 0..scaled(2_000) {
            step();
            let bus: Bus<u32> = Bus::new();
            let sub = bus.subscriber();
            let result = overlapping(trial, || sub.subscribe_many(&names), || bus.close());
            match result {
                Ok(count) => assert!((1..=names.len()).contains(&count)),
                Err(error) => {
                    assert_eq!(error, SubscribeError::Closed);
                    assert_eq!(sub.try_iter().count(), 0, "trial {trial}");
                }
            }
        }
    });
}

#[test]
fn a_resubscribe_while_the_subscriber_closes_has_all_subscriptions_or_fails() {
    watched(|| {
        for trial in 0..scaled(4_000) {
            step();
            let bus: Bus<u32> = Bus::new();
            let sub = bus.subscribe("a").unwrap();
            sub.psubscribe("b*").unwrap();
            match overlapping(trial, || sub.resubscribe(), || sub.close()) {
                Ok(same) => {
                    let held = (same.channels(), same.patterns());
                    assert_eq!(held, (vec!["a".into()], vec![Pattern::redis("b*")]), "{trial}");
                }
                Err(error) => assert_eq!(error, SubscribeError::Closed),
            }
        }
    });
}
