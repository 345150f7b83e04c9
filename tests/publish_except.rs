//! Publishing to all subscribers but one.

mod support;

use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow, Receipt};
use proptest::prelude::*;
use support::{cases, drain};

/// Publishes as if the last subscriber did not exist, and compares with a bus on which it does not.
#[derive(Clone, Debug)]
struct Setup {
    /// For each subscriber: subscribed to the channel, to how many patterns, and with `dedupe`.
    subscribers: Vec<(bool, usize, bool)>,
    except: usize,
    overflow: Overflow,
    by: By,
}

#[derive(Clone, Copy, Debug)]
enum By {
    Except,
    #[cfg(feature = "async")]
    ExceptAsync,
}

const PATTERNS: [&str; 3] = ["c*", "*", "?"];

fn setup() -> impl Strategy<Value = Setup> {
    let by = prop::sample::select(
        &[
            By::Except,
            #[cfg(feature = "async")]
            By::ExceptAsync,
        ][..],
    );
    let overflow = prop_oneof![Just(Overflow::DropOldest), Just(Overflow::DropNewest)];
    let subscriber = (any::<bool>(), 0..=PATTERNS.len(), any::<bool>());
    (proptest::collection::vec(subscriber, 1..6), any::<prop::sample::Index>(), overflow, by)
        .prop_map(|(subscribers, except, overflow, by)| {
            let except = except.index(subscribers.len());
            Setup { subscribers, except, overflow, by }
        })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn it_is_a_publish_as_if_one_had_not_subscribed(setup in setup()) {
        let Setup { subscribers, except, overflow, by } = setup;
        let run = |has_excepted: bool| {
            let bus: Bus<u32> = Bus::builder().capacity(2).overflow(overflow).build();
            let subs: Vec<_> = subscribers
                .iter()
                .enumerate()
                .map(|(at, &(exact, patterns, dedupe))| {
                    let sub =
                        bus.subscriber_builder().dedupe(dedupe).lifecycle_events(false).build();
                    if at != except || has_excepted {
                        if exact {
                            sub.subscribe("c").unwrap();
                        }
                        sub.psubscribe_many(&PATTERNS[..patterns]).unwrap();
                    }
                    sub
                })
                .collect();
            let receipts: Vec<Receipt> = (0..3_u32)
                .map(|n| match by {
                    By::Except => bus.publish_except("c", n, &subs[except]),
                    #[cfg(feature = "async")]
                    By::ExceptAsync => {
                        futures::executor::block_on(bus.publish_except_async("c", n, &subs[except]))
                    }
                })
                .collect();
            let mut stats = bus.stats();
            // The one has subscribed here, and there not.
            (stats.channels, stats.patterns, stats.subscribers) = (0, 0, 0);
            (receipts, stats, subs.iter().map(drain).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(true), run(false));
    }
}

#[test]
fn the_payload_itself_goes_to_the_last_of_the_others() {
    let bus: Bus<std::sync::Arc<str>> = Bus::new();
    let (first, last) = (bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap());
    let payload: std::sync::Arc<str> = "hello".into();
    assert_eq!(bus.publish_except("c", std::sync::Arc::clone(&payload), &first).delivered, 1);
    assert_eq!(std::sync::Arc::strong_count(&payload), 2);
    assert_eq!(bus.publish_except("c", std::sync::Arc::clone(&payload), &last).delivered, 1);
    assert_eq!(std::sync::Arc::strong_count(&payload), 3);
}

#[test]
fn a_clone_and_a_subscriber_of_another_bus_are_told_apart() {
    let (bus, other): (Bus, Bus) = (Bus::new(), Bus::new());
    let sub = bus.subscribe("c").unwrap();
    let stranger = other.subscribe("c").unwrap();
    assert_eq!(bus.publish_except("c", "x", &sub.clone()).matched, 0);
    assert_eq!(bus.publish_except("c", "x", &stranger).matched, 1);
}

#[test]
fn a_full_inbox_that_blocks_holds_up_nobody_who_publishes_past_it() {
    let bus: Bus<u32> =
        Bus::builder().capacity(1).overflow(Overflow::Block { timeout: None }).build();
    let (full, free) = (bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap());
    assert_eq!(bus.publish("c", 1_u32).delivered, 2);
    assert!(free.recv_message().is_ok());
    thread::scope(|scope| {
        let publisher = scope.spawn(|| bus.publish_except("c", 2_u32, &full).delivered);
        let message = free.recv_message_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((message.payload, publisher.join().unwrap()), (2, 1));
    });
    assert_eq!(full.len(), 1);
}

#[test]
fn a_closed_bus_has_nobody_to_publish_to() {
    let bus: Bus = Bus::new();
    let (sub, _other) = (bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap());
    bus.close();
    assert_eq!(bus.publish_except("c", "x", &sub), Receipt::default());
    assert_eq!(bus.stats().published, 1);
}
