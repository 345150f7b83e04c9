//! `Overflow::Block`: a publisher waits for a full inbox until there is room, the timeout is over, or the wait
//! is ended.

mod support;

use std::error::Error;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fanout::{Bus, Overflow, Receipt, Subscriber, TryRecvError};
use support::{
    BLOCK, Copied, REFUSE, WATCHDOG, asking, assert_books, assert_books_after_race, block, bounded,
    drain, emptied_during_a_publish, payloads, receipt, text, watched,
};

type Outcome = Result<(), Box<dyn Error>>;

/// A publisher of 1 on "ab" that waits for `full`, an inbox of capacity 1 which holds 0.
struct Waiting {
    bus: Bus<u32>,
    full: Subscriber<u32>,
    /// Has room, and has been served.
    witness: Subscriber<u32>,
    publisher: JoinHandle<Receipt>,
}

fn waiting(overflow: Overflow, subscribe: impl FnOnce(&Subscriber<u32>)) -> Waiting {
    let bus: Bus<u32> = Bus::new();
    let full = bounded(&bus, 1, overflow).subscribe("filler").unwrap();
    // Before the witness, so that the publish comes to the full inbox first.
    subscribe(&full);
    assert_eq!(bus.publish("filler", 0u32), receipt(1, 0));
    let witness = bounded(&bus, 16, Overflow::DropNewest).subscribe("ab").unwrap();
    let publisher = {
        let bus = bus.clone();
        thread::spawn(move || bus.publish("ab", 1u32))
    };
    // A publish waits when its turn is over: by then, the witness has its message.
    assert_eq!(witness.recv_message_timeout(WATCHDOG).unwrap().payload, 1);
    Waiting { bus, full, witness, publisher }
}

fn join(publisher: JoinHandle<Receipt>) -> Receipt {
    watched(|| publisher.join().unwrap())
}

// ---- waiting for room ---------------------------------------------------------------------------

#[test]
fn block_waits_until_there_is_room() -> Outcome {
    for overflow in [BLOCK, block(Duration::MAX), block(WATCHDOG)] {
        let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(overflow, |full| {
            full.subscribe("ab").unwrap();
        });
        assert!(!publisher.is_finished(), "nobody has made room");
        assert_eq!(full.recv_message_timeout(WATCHDOG)?.payload, 0);
        assert_eq!(join(publisher), receipt(2, 0));
        assert_eq!(payloads(&full), [1]);
        assert_eq!(full.missed(), 0);
        assert_books(&full, 2);
    }
    Ok(())
}

#[test]
fn block_waits_for_room_made_through_receiver() -> Outcome {
    let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(BLOCK, |full| {
        full.psubscribe("a*").unwrap();
    });
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 0);
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 1);
    assert_eq!(join(publisher), receipt(2, 0));
    assert_books(&full, 2);
    Ok(())
}

#[test]
fn full_inboxes_are_waited_for_one_after_another() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let full: Vec<_> =
        (0..3).map(|_| bounded(&bus, 1, BLOCK).subscribe("a")).collect::<Result<_, _>>()?;
    bus.publish("a", 1u32);
    let publisher = {
        let bus = bus.clone();
        thread::spawn(move || bus.publish("a", 2u32))
    };
    // All inboxes get the message, in whatever order they make room.
    for at in [1, 2, 0] {
        assert_eq!(full[at].recv_message_timeout(WATCHDOG)?.payload, 1);
    }
    assert_eq!(join(publisher), receipt(3, 0));
    for sub in &full {
        assert_eq!(payloads(sub), [2]);
        assert_books(sub, 2);
    }
    Ok(())
}

#[test]
fn a_blocked_publisher_holds_up_nobody_else() {
    watched(|| {
        let Waiting { bus, full, witness, publisher } = waiting(BLOCK, exact);
        // Another publisher on the channel reaches the inboxes with room, then waits itself.
        let second = {
            let topic = bus.topic("ab");
            thread::spawn(move || topic.publish(2u32))
        };
        assert_eq!(witness.recv_message_timeout(WATCHDOG).unwrap().payload, 2);
        // Other threads can subscribe, leave, inspect, and publish elsewhere.
        let late = bus.subscribe("ab").unwrap();
        late.psubscribe("b*").unwrap();
        assert_eq!((bus.subscriber_count("ab"), bus.match_count("ab")), (3, 3));
        assert_eq!(bus.publish("bc", 3u32), receipt(1, 0));
        assert_eq!(late.recv_message().unwrap().payload, 3);
        assert_eq!(late.unsubscribe("ab"), 1);
        assert_eq!((bus.stats().subscribers, bus.subscribers().len()), (3, 3));
        assert_eq!(full.info().depth, 1);
        full.subscribe("more").unwrap();
        assert!(!publisher.is_finished() && !second.is_finished());
        // There is room for one message, then for the other.
        let mut seen: Vec<u32> =
            (0..3).map(|_| full.recv_message_timeout(WATCHDOG).unwrap().payload).collect();
        assert_eq!(seen.remove(0), 0);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!(
            (publisher.join().unwrap(), second.join().unwrap()),
            (receipt(2, 0), receipt(2, 0))
        );
        assert_books(&full, 3);
    });
}

#[test]
fn block_loses_nothing_and_keeps_each_publishers_order() {
    const EACH: u32 = 2_000;
    let (seen, books) = watched(|| {
        let bus: Bus<(u32, u32)> = Bus::new();
        let sub = bounded(&bus, 2, BLOCK).subscribe("a").unwrap();
        sub.psubscribe("b*").unwrap();
        let publishers: Vec<_> = (0..3)
            .map(|publisher| {
                let bus = bus.clone();
                thread::spawn(move || {
                    for n in 0..EACH {
                        let channel = if n % 2 == 0 { "a" } else { "b" };
                        assert_eq!(bus.publish(channel, (publisher, n)), receipt(1, 0));
                    }
                })
            })
            .collect();
        let seen: Vec<_> =
            (0..3 * EACH).map(|_| sub.recv_message_timeout(WATCHDOG).unwrap().payload).collect();
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        assert_books(&sub, u64::from(3 * EACH));
        (seen, sub.info())
    });
    assert_eq!(books.missed, 0);
    for publisher in 0..3 {
        let own = seen.iter().filter(|(by, _)| *by == publisher).map(|&(_, n)| n);
        assert!(own.eq(0..EACH), "publisher {publisher}");
    }
}

#[test]
fn block_keeps_the_order_of_one_publish_when_room_comes_during_it() {
    let (seen, receipt, full) = watched(|| emptied_during_a_publish(BLOCK));
    assert_eq!(receipt, support::receipt(3, 0));
    assert_books(&full, 4);
    // 4.3: the exact message first, then the patterns in the order they were subscribed.
    let expected = ["message filler 0", "message ab 1", "pmessage a* ab 1", "pmessage *b ab 1"];
    assert_eq!(seen, expected);
}

#[test]
fn the_books_balance_while_publishers_wait() {
    assert_books_after_race(BLOCK, 1, 1, 3_000);
    assert_books_after_race(BLOCK, 7, 3, 3_000);
    assert_books_after_race(block(Duration::from_micros(20)), 2, 1, 3_000);
    assert_books_after_race(REFUSE, 2, 1, 10_000);
}

// ---- timeouts -----------------------------------------------------------------------------------

#[test]
fn block_refuses_at_the_timeout_not_earlier() -> Outcome {
    let timeout = Duration::from_millis(50);
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 1, block(timeout)).subscribe("a")?;
    bus.publish("a", 1u32);
    for n in 1..=3 {
        let start = Instant::now();
        assert_eq!(bus.publish("a", 2u32), receipt(0, 1));
        assert!(start.elapsed() >= timeout);
        assert_eq!(sub.missed(), n);
    }
    assert_eq!(bus.topic("a").publish(3u32), receipt(0, 1));
    assert_books(&sub, 5);
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped, stats.evicted), (5, 1, 4, 0));
    assert_eq!(drain(&sub), ["lagged 4", "message a 1"]);
    Ok(())
}

#[test]
fn block_with_a_zero_timeout_takes_room_and_never_waits() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bounded(&bus, 2, REFUSE).subscribe("a")?;
    assert_eq!(
        [1, 2, 3].map(|n: u32| bus.publish("a", n)),
        [receipt(1, 0), receipt(1, 0), receipt(0, 1)]
    );
    assert_eq!(drain(&sub), ["lagged 1", "message a 1", "message a 2"]);
    assert_eq!(bus.publish("a", 4u32), receipt(1, 0));
    assert_eq!(drain(&sub), ["message a 4"]);
    assert_books(&sub, 4);
    Ok(())
}

/// Asserts that a publish with a timeout takes at least the timeout and less than `times` of it, on any
/// machine. A publish that waits more than once always takes all of them. One that is only delayed by other
/// processes does not, once the timeout is long enough.
#[track_caller]
fn assert_takes_less_than(times: u32, publish: impl Fn(Duration) -> Duration) {
    let mut taken = Vec::new();
    for timeout in [200, 800, 3_200, 12_800].map(Duration::from_millis) {
        let elapsed = publish(timeout);
        assert!(elapsed >= timeout, "{elapsed:?} for a timeout of {timeout:?}");
        if elapsed < times * timeout {
            return;
        }
        taken.push((timeout, elapsed));
    }
    panic!("timeouts, and what the publishes took: {taken:?}");
}

#[test]
fn timeouts_of_several_full_inboxes_run_side_by_side() {
    // One after another, the waits would take twelve times as long.
    assert_takes_less_than(12, |timeout| {
        let bus: Bus<u32> = Bus::new();
        let full: Vec<_> =
            (0..12).map(|_| bounded(&bus, 1, block(timeout)).subscribe("a").unwrap()).collect();
        assert_eq!(bus.publish("a", 1u32), receipt(12, 0));
        let start = Instant::now();
        assert_eq!(bus.publish("a", 2u32), receipt(0, 12));
        let elapsed = start.elapsed();
        for sub in &full {
            assert_eq!((sub.missed(), payloads(sub)), (1, vec![1]));
        }
        elapsed
    });
}

#[test]
fn timeouts_run_from_the_start_of_the_publish() {
    // The first delivery takes as long as the timeout. If the timeout began after it, the publish would take
    // twice as long.
    assert_takes_less_than(2, |timeout| {
        let bus: Bus<Copied> = Bus::new();
        let _roomy = bounded(&bus, 9, Overflow::DropNewest).subscribe("a").unwrap();
        let full = bounded(&bus, 1, block(timeout)).subscribe("a").unwrap();
        bus.publish("a", Copied::new(0, |_| {}));
        let start = Instant::now();
        let slow = Copied::new(1, move |_| thread::sleep(timeout.saturating_sub(start.elapsed())));
        assert_eq!(bus.publish("a", slow), receipt(1, 1));
        assert_eq!(full.missed(), 1);
        start.elapsed()
    });
}

#[test]
fn waiting_for_the_turn_counts_towards_the_timeout() {
    assert_takes_less_than(2, |timeout| {
        let bus: Bus<Copied> = Bus::new();
        let _roomy = bounded(&bus, 9, Overflow::DropNewest).subscribe("a").unwrap();
        let _full = bounded(&bus, 1, block(timeout)).subscribe("a").unwrap();
        bus.publish("a", Copied::new(0, |_| {}));
        let (slow, asked, answer) = asking(1, 1);
        let first = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", slow))
        };
        asked.recv().unwrap();
        let start = Instant::now();
        let helper = thread::spawn(move || {
            thread::sleep(timeout.saturating_sub(start.elapsed()));
            answer.send(()).unwrap();
        });
        assert_eq!(bus.publish("a", Copied::new(2, |_| {})), receipt(1, 1));
        let elapsed = start.elapsed();
        helper.join().unwrap();
        first.join().unwrap();
        elapsed
    });
}

// ---- ending the wait ----------------------------------------------------------------------------

/// Ends the wait by `end`, and asserts that the message counts as dropped.
fn assert_ends_as_dropped(
    subscribe: impl FnOnce(&Subscriber<u32>),
    end: impl FnOnce(&Waiting),
    expected: &[&str],
) {
    let waiting = waiting(BLOCK, subscribe);
    end(&waiting);
    let Waiting { bus, full, publisher, witness } = waiting;
    assert_eq!(join(publisher), receipt(1, 1));
    assert_eq!(full.missed(), 1);
    assert_books(&full, 2);
    assert_books(&witness, 1);
    let stats = bus.stats();
    assert_eq!((stats.matched, stats.delivered, stats.dropped), (3, 2, 1));
    assert_eq!(drain(&full), expected);
}

fn exact(full: &Subscriber<u32>) {
    full.subscribe("ab").unwrap();
}

fn pattern(full: &Subscriber<u32>) {
    full.psubscribe("a*").unwrap();
}

#[test]
fn closing_the_subscriber_ends_a_blocked_publish() {
    let expected = ["lagged 1", "message filler 0", "closed"];
    assert_ends_as_dropped(exact, |waiting| waiting.full.close(), &expected);
    assert_ends_as_dropped(pattern, |waiting| waiting.full.clone().close(), &expected);
}

#[test]
fn closing_the_bus_ends_a_blocked_publish() {
    let expected = ["lagged 1", "message filler 0", "closed"];
    assert_ends_as_dropped(exact, |waiting| waiting.bus.close(), &expected);
    assert_ends_as_dropped(pattern, |waiting| waiting.bus.clone().close(), &expected);
}

#[test]
fn unsubscribing_ends_a_blocked_publish() {
    let expected = ["lagged 1", "message filler 0"];
    assert_ends_as_dropped(
        exact,
        |waiting| assert_eq!(waiting.full.unsubscribe("ab"), 1),
        &expected,
    );
    assert_ends_as_dropped(
        exact,
        |waiting| assert_eq!(waiting.full.unsubscribe_all(), 0),
        &expected,
    );
    assert_ends_as_dropped(
        pattern,
        |waiting| assert_eq!(waiting.full.punsubscribe("a*"), 1),
        &expected,
    );
    assert_ends_as_dropped(
        pattern,
        |waiting| assert_eq!(waiting.full.punsubscribe_all(), 1),
        &expected,
    );
}

#[test]
fn resubscribing_to_the_name_does_not_resume_an_ended_wait() {
    assert_ends_as_dropped(
        exact,
        |waiting| {
            waiting.full.unsubscribe("ab");
            waiting.full.subscribe("ab").unwrap();
        },
        &["lagged 1", "message filler 0"],
    );
}

#[test]
fn dropping_the_subscriber_ends_a_blocked_publish() {
    for subscribe in [exact, pattern] {
        let Waiting { bus, full, witness: _witness, publisher } = waiting(BLOCK, subscribe);
        drop(full);
        assert_eq!(join(publisher), receipt(1, 1));
        assert_eq!((bus.match_count("ab"), bus.subscriber_count("filler")), (1, 0));
        assert_eq!(bus.stats().dropped, 1);
    }
}

#[test]
fn giving_up_another_subscription_does_not_end_a_blocked_publish() -> Outcome {
    let Waiting { bus: _bus, full, witness: _witness, publisher } = waiting(BLOCK, |full| {
        full.subscribe_many(["ab", "x"]).unwrap();
        full.psubscribe_many(["x*", "*b"]).unwrap();
    });
    full.unsubscribe("x");
    full.unsubscribe("filler");
    full.punsubscribe("x*");
    full.unsubscribe("never held");
    // Of the two waiting messages, one is dropped and the other gets in.
    full.unsubscribe("ab");
    let ended = full.clone();
    watched(move || {
        while ended.missed() == 0 {
            thread::yield_now();
        }
    });
    assert_eq!(full.receiver().recv_timeout(WATCHDOG)?.payload, 0);
    assert_eq!(join(publisher), receipt(2, 1));
    assert_eq!(drain(&full), ["lagged 1", "pmessage *b ab 1"]);
    assert_books(&full, 3);
    Ok(())
}

/// A publisher has found the inbox full but does not wait yet. The bus is closed, and the reader drains the
/// inbox to its end.
#[test]
fn a_wait_that_closing_ended_delivers_nothing_after_closed() {
    for round in 0..20 {
        let (seen, receipt, full) = watched(|| {
            let bus: Bus<Copied> = Bus::new();
            let full = bounded(&bus, 1, BLOCK).subscribe("ab").unwrap();
            let _roomy: Vec<_> =
                (0..2).map(|_| bounded(&bus, 9, Overflow::DropNewest).psubscribe("a*")).collect();
            assert_eq!(bus.publish("ab", Copied::new(0, |_| {})).delivered, 3);
            let (payload, asked, answer) = asking(1, 2);
            let publisher = {
                let bus = bus.clone();
                thread::spawn(move || bus.publish("ab", payload))
            };
            asked.recv_timeout(WATCHDOG).unwrap();
            bus.close();
            let mut seen = drain(&full);
            answer.send(()).unwrap();
            let receipt = publisher.join().unwrap();
            seen.append(&mut drain(&full));
            (seen, receipt, full)
        });
        let messages = seen.iter().filter(|text| text.starts_with("message")).count();
        // 4.5: closing ends the wait, as dropped.
        assert_eq!((messages, full.len()), (1, 0), "round {round}: {seen:?} but {receipt:?}");
        assert_eq!(receipt.dropped, 1);
        assert_books(&full, 2);
        // The loss is reported before the end, which the reader reached while the publisher stood still.
        assert_eq!(seen.iter().filter(|text| *text == "lagged 1").count(), 1, "{seen:?}");
    }
}

/// A publisher waits for one inbox while it still has the message of another. That other inbox is closed, and
/// its loss must be reported before its end, before the publisher notices.
#[test]
fn the_loss_of_a_wait_that_closing_ended_is_reported_before_closed() {
    let (seen, receipt, late) = watched(|| {
        let bus: Bus<u32> = Bus::new();
        let first = bounded(&bus, 1, BLOCK).subscribe("a").unwrap();
        let second = bounded(&bus, 1, BLOCK).subscribe("a").unwrap();
        assert_eq!(bus.publish("a", 0u32).delivered, 2);
        let publisher = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", 1u32))
        };
        // Both waits are registered before the publisher waits for either: it has left its turn by then.
        while bus.stats().published < 2 {
            thread::yield_now();
        }
        second.close();
        let mut seen = Vec::new();
        while let Ok(event) = second.recv() {
            seen.push(text(&event));
        }
        let late = second.missed();
        assert_eq!(first.recv_message().unwrap().payload, 0);
        let receipt = publisher.join().unwrap();
        assert_eq!(first.recv_message().unwrap().payload, 1);
        assert_books(&first, 2);
        assert_books(&second, 2);
        (seen, receipt, late)
    });
    assert_eq!(seen, ["lagged 1", "message a 0"]);
    assert_eq!((receipt, late), (support::receipt(1, 1), 1));
}
