//! The books of a whole bus: every message that matched was received, missed or discarded, or is still queued.

mod support;

use std::sync::Barrier;
use std::thread;

use fanout::{Bus, Event, Overflow, Stats, Subscriber, TryRecvError};
use proptest::prelude::*;
use proptest::sample::select;
use support::{receipt, silent, step, steps, watched};

/// Asserts that the books of a bus at rest balance. Its subscribers hold `queued` messages.
#[track_caller]
fn assert_balance(stats: Stats, queued: usize) {
    assert_eq!(stats.matched, stats.delivered + stats.dropped, "{stats:?}");
    assert_eq!(
        stats.matched,
        stats.received
            + stats.dropped
            + stats.evicted
            + stats.conflated
            + stats.discarded
            + queued as u64,
        "{queued} queued: {stats:?}"
    );
}

#[test]
fn read_and_unread_messages_of_a_dropped_subscriber_stay_in_the_books() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(4).subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    (0..5u32).for_each(|n| _ = bus.publish("c", n));
    // Ten messages matched and four are left; one of these is taken through the queue itself.
    assert!(sub.receiver().try_recv().is_ok());
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.received, stats.evicted, stats.discarded), (10, 1, 6, 0));
    assert_balance(stats, 3);
    drop(sub);
    let stats = bus.stats();
    assert_eq!((stats.received, stats.evicted, stats.discarded), (1, 6, 3));
    assert_balance(stats, 0);
}

#[test]
fn discarding_a_dropped_inbox_counts_no_further_loss() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(2).subscribe("a").unwrap();
    (0..3u32).for_each(|n| assert_eq!(bus.publish("a", n), receipt(1, 0)));
    drop(sub);
    assert!(bus.subscribers().is_empty());
    // The counts of the bus stay, and no discarded message becomes a loss.
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (3, 3, 0, 1));
}

#[test]
fn disconnected_counts_each_subscriber_ended_by_overflow_once() {
    let bus: Bus<u32> = Bus::new();
    let strict = || silent(&bus).capacity(1).overflow(Overflow::Disconnect);
    let (twice, once) = (strict().subscribe("c").unwrap(), strict().subscribe("d").unwrap());
    twice.psubscribe("c*").unwrap();
    for _ in 0..3 {
        bus.publish("c", 1u32);
    }
    assert_eq!(bus.stats().disconnected, 1);
    (0..2).for_each(|_| _ = bus.publish("d", 1u32));
    // A subscriber that was closed in another way is not counted.
    once.close();
    strict().subscribe("e").unwrap().close();
    assert_eq!(bus.stats().disconnected, 2);
    assert_balance(bus.stats(), twice.len() + once.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_after_every_call(
        calls in proptest::collection::vec((0..6usize, 0..8usize, 0..3usize), 0..120),
        overflow in select(vec![
            Overflow::DropOldest,
            Overflow::DropNewest,
            Overflow::Conflate,
            Overflow::Disconnect,
        ]),
    ) {
        let bus: Bus<u32> = Bus::builder().stripes(2).build();
        let mut subs: Vec<Subscriber<u32>> = Vec::new();
        for (call, at, channel) in calls {
            let name = ["a", "b", "ab"][channel];
            let at = at % subs.len().max(1);
            match call {
                0 => subs.push(silent(&bus).capacity(1 + channel).overflow(overflow).build()),
                1 | 2 => _ = bus.publish(name, 1_u32),
                _ if subs.is_empty() => {}
                3 => {
                    let pattern = ["a*", "*b", "*"][channel];
                    _ = subs[at].subscribe(name).and_then(|_| subs[at].psubscribe(pattern));
                }
                4 if channel == 0 => drop(subs.swap_remove(at)),
                4 if channel == 1 => subs[at].close(),
                4 => _ = subs[at].unsubscribe_all(),
                _ => _ = subs[at].try_recv(),
            }
            assert_balance(bus.stats(), subs.iter().map(Subscriber::len).sum());
        }
        bus.close();
        assert_balance(bus.stats(), subs.iter().map(Subscriber::len).sum());
        subs.clear();
        assert_balance(bus.stats(), 0);
    }
}

/// Receives until the stream ends, and returns the sum of its `Lagged` events.
fn sum_of_lagged(sub: &Subscriber<u32>) -> u64 {
    let mut told = 0;
    loop {
        match sub.try_recv() {
            Ok(Event::Lagged { missed }) => told += missed,
            Ok(_) => {}
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Closed) => return told,
        }
    }
}

/// Two publishers flood an inbox of capacity 1 while it is closed and drained; three such trials run at once.
/// Each loss is either reported before the end or not counted at all.
fn assert_lagged_is_exact_at_the_end(overflow: Overflow, close: fn(&Bus<u32>, &Subscriber<u32>)) {
    const TRIALS: usize = 1_000;
    watched(move || {
        let steps = steps();
        thread::scope(|scope| {
            for _ in 0..3 {
                let steps = steps.clone();
                scope.spawn(move || {
                    for trial in 0..TRIALS {
                        steps.step();
                        let bus: Bus<u32> = Bus::new();
                        let sub = silent(&bus).capacity(1).overflow(overflow).subscribe("c");
                        let sub = sub.unwrap();
                        let start = Barrier::new(3);
                        thread::scope(|scope| {
                            for _ in 0..2 {
                                let (topic, start, sub) = (bus.topic("c"), &start, &sub);
                                scope.spawn(move || {
                                    start.wait();
                                    while !sub.is_closed() {
                                        topic.publish(1_u32);
                                    }
                                    (0..4).for_each(|_| _ = topic.publish(1_u32));
                                });
                            }
                            start.wait();
                            (0..trial % 64 * 8).for_each(|_| std::hint::spin_loop());
                            close(&bus, &sub);
                            assert_eq!(sum_of_lagged(&sub), sub.missed(), "trial {trial}");
                        });
                        assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
                        let info = sub.info();
                        assert_eq!((info.depth, bus.stats().discarded), (0, 0));
                        assert_balance(bus.stats(), 0);
                    }
                });
            }
        });
    });
    step();
}

#[test]
fn lagged_sums_to_missed_when_refusals_meet_the_closing_of_the_bus() {
    assert_lagged_is_exact_at_the_end(Overflow::DropNewest, |bus, _| bus.close());
}

#[test]
fn lagged_sums_to_missed_when_refusals_meet_the_closing_of_the_subscriber() {
    assert_lagged_is_exact_at_the_end(Overflow::DropNewest, |_, sub| sub.close());
}

#[test]
fn lagged_sums_to_missed_when_waits_that_time_out_meet_the_closing() {
    let block = Overflow::Block { timeout: Some(std::time::Duration::ZERO) };
    assert_lagged_is_exact_at_the_end(block, |_, sub| sub.close());
}

#[test]
fn lagged_sums_to_missed_when_evictions_meet_the_closing() {
    assert_lagged_is_exact_at_the_end(Overflow::DropOldest, |bus, _| bus.close());
}
