//! `Overflow::Conflate`: the inbox keeps the newest message of each channel, in the order in which the channels first
//! changed since they were read.

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use fanout::{Bus, CloseReason, Event, Overflow, Subscriber, SubscriberBuilder, TryRecvError};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{
    Census, Copied, Gate, Hooked, Tracked, WATCHDOG, asking, assert_ascending, assert_books,
    assert_books_after_race, bounded, cases, drain, let_it_wait, payloads, receipt, scaled, steps,
    text, watched,
};

type Outcome = Result<(), Box<dyn Error>>;

fn board<P: Clone + Send + 'static>(bus: &Bus<P>, capacity: usize) -> SubscriberBuilder<P> {
    bounded(bus, capacity, Overflow::Conflate)
}

// ---- what is kept ---------------------------------------------------------------------------------

#[test]
fn the_newest_message_of_each_channel_is_read_where_the_channel_first_changed() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 8).psubscribe("p:*")?;
    for (channel, value) in [("p:a", 1_u32), ("p:b", 2), ("p:a", 3), ("p:c", 4), ("p:b", 5)] {
        assert_eq!(bus.publish(channel, value), receipt(1, 0));
    }
    assert_eq!(sub.len(), 3);
    assert_eq!(drain(&sub)[..1], ["pmessage p:* p:a 3"]);
    // A channel that was read takes its place anew.
    bus.publish("p:a", 6_u32);
    bus.publish("p:b", 7_u32);
    assert_eq!(drain(&sub), ["pmessage p:* p:a 6", "pmessage p:* p:b 7"]);
    assert_eq!((sub.info().conflated, sub.missed()), (2, 0));
    assert_books(&sub, 7);
    Ok(())
}

#[test]
fn a_channel_too_many_evicts_the_message_that_has_waited_longest() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 2).psubscribe("*")?;
    for (channel, value) in [("a", 1_u32), ("b", 2), ("a", 3), ("c", 4)] {
        assert_eq!(bus.publish(channel, value), receipt(1, 0));
    }
    // What is lost is the newest of `a`, and only that.
    assert_eq!((sub.missed(), sub.info().conflated, sub.len()), (1, 1, 2));
    assert_eq!((bus.stats().evicted, bus.stats().conflated), (1, 1));
    assert_books(&sub, 4);
    assert_eq!(drain(&sub), ["lagged 1", "pmessage * b 2", "pmessage * c 4"]);
    assert_books(&sub, 4);
    Ok(())
}

#[test]
fn subscriptions_that_match_the_same_publish_leave_its_last_message() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 8).subscribe("ab")?;
    sub.psubscribe_many(["a*", "*b"])?;
    assert_eq!(bus.publish("ab", 1_u32), receipt(3, 0));
    assert_eq!(drain(&sub), ["pmessage *b ab 1"]);
    assert_eq!(sub.info().conflated, 2);
    assert_books(&sub, 3);

    let once = board(&bus, 8).dedupe(true).subscribe("ab")?;
    once.psubscribe("a*")?;
    assert_eq!(bus.publish_except("ab", 2_u32, &sub), receipt(1, 0));
    assert_eq!((drain(&once), once.info().conflated), (vec!["message ab 2".to_owned()], 0));
    Ok(())
}

#[test]
fn names_of_any_length_and_however_published_are_the_same_channel() -> Outcome {
    for name in ["", "short", &"long ".repeat(40)] {
        let bus: Bus<u32> = Bus::new();
        let sub = board(&bus, 4).build();
        sub.psubscribe_many(["*", ""])?;
        bus.publish(name, 1_u32);
        let topic = bus.topic(name);
        topic.publish(2_u32);
        bus.publish_many([name], 3_u32);
        drop(topic);
        sub.subscribe(name)?;
        bus.publish_each([(name, 4_u32), (name, 5)]);
        assert_eq!(payloads(&sub), [5], "{name:?}");
    }
    Ok(())
}

/// Beside other inboxes, in one publish, with few and many recipients.
#[test]
fn other_inboxes_get_what_they_get_without_it() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let first = bounded(&bus, 4, Overflow::DropOldest).subscribe("a")?;
    let newest = board(&bus, 1).subscribe("a")?;
    let full = bounded(&bus, 1, Overflow::DropNewest).subscribe("a")?;
    let last = bounded(&bus, 4, Overflow::DropOldest).psubscribe("*")?;
    assert_eq!(bus.publish("a", 1_u32), receipt(4, 0));
    assert_eq!(bus.publish("a", 2_u32), receipt(3, 1));
    assert_eq!((payloads(&first), payloads(&last)), (vec![1, 2], vec![1, 2]));
    assert_eq!((payloads(&newest), payloads(&full)), (vec![2], vec![1]));
    for sub in [&first, &newest, &full, &last] {
        assert_books(sub, 2);
    }
    Ok(())
}

#[test]
fn a_message_that_was_queued_stays_readable_after_unsubscribing() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 4).subscribe("a")?;
    bus.publish("a", 1_u32);
    sub.unsubscribe("a");
    assert_eq!(bus.publish("a", 2_u32), receipt(0, 0));
    sub.subscribe("a")?;
    bus.publish("a", 3_u32);
    assert_eq!(payloads(&sub), [3]);
    assert_books(&sub, 2);
    Ok(())
}

#[test]
fn clones_share_the_messages_and_a_new_subscriber_has_its_own() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 4).subscribe("a")?;
    sub.subscribe("b")?;
    let (copy, other) = (sub.clone(), sub.resubscribe()?);
    bus.publish_many(["a", "b"], 1_u32);
    bus.publish("a", 2_u32);
    assert_eq!(sub.recv_message()?.payload, 2);
    assert_eq!(copy.recv_message()?.payload, 1);
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(payloads(&other), [2, 1]);
    Ok(())
}

// ---- lifecycle events -----------------------------------------------------------------------------

#[test]
fn a_replaced_message_does_not_overtake_a_lifecycle_event() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber_builder().overflow(Overflow::Conflate).subscribe("a")?;
    bus.publish("a", 1_u32);
    sub.subscribe("b")?;
    bus.publish("b", 2_u32);
    bus.publish("b", 3_u32);
    sub.unsubscribe("a");
    sub.subscribe("a")?;
    bus.publish("a", 4_u32);
    let expected =
        ["subscribe a 1", "subscribe b 2", "message b 3", "unsubscribe a 1", "subscribe a 2"];
    assert_eq!(drain(&sub)[..5], expected);
    assert_books(&sub, 4);
    Ok(())
}

// ---- the end --------------------------------------------------------------------------------------

#[test]
fn a_closed_inbox_is_drained_first() -> Outcome {
    type Close = fn(&Bus<u32>, &Subscriber<u32>);
    let ways: [(Close, CloseReason); 2] =
        [(|_, sub| sub.close(), CloseReason::Subscriber), (|bus, _| bus.close(), CloseReason::Bus)];
    for (close, reason) in ways {
        let bus: Bus<u32> = Bus::new();
        let sub = board(&bus, 1).subscribe("a")?;
        sub.subscribe("b")?;
        bus.publish_many(["a", "b", "b"], 1_u32);
        close(&bus, &sub);
        assert_eq!(bus.publish("a", 2_u32), receipt(0, 0));
        assert_eq!(drain(&sub), ["lagged 1", "message b 1", "closed"]);
        assert_eq!(sub.close_reason(), Some(reason));
        assert_books(&sub, 3);
    }
    Ok(())
}

#[test]
fn a_message_that_comes_after_the_end_was_read_is_not_delivered() {
    watched(|| {
        let bus: Bus<Copied> = Bus::new();
        let first = bounded(&bus, 1, Overflow::DropOldest).subscribe("a").unwrap();
        let newest = board(&bus, 4).subscribe("a").unwrap();
        // The publish is held up at its first recipient, when it has found both.
        let (payload, asked, answer) = asking(1, 1);
        let publisher = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", payload))
        };
        asked.recv_timeout(WATCHDOG).unwrap();
        // This waits for no publish.
        bus.close();
        assert_eq!(drain(&newest), ["closed"]);
        answer.send(()).unwrap();
        assert_eq!(publisher.join().unwrap(), receipt(1, 0));
        assert_eq!((first.len(), newest.len()), (1, 0));
        assert_books(&newest, 0);
    });
}

#[test]
fn the_receiver_shows_nothing_and_is_disconnected_when_the_subscriber_is_closed() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 4).subscribe("a")?;
    let receiver = sub.receiver().clone();
    // Nor does a publish hand its message to a thread that waits there.
    let waiting = thread::spawn({
        let receiver = receiver.clone();
        move || receiver.recv_timeout(Duration::from_millis(50)).is_ok()
    });
    while !waiting.is_finished() {
        bus.publish("a", 1_u32);
        thread::yield_now();
    }
    assert!(!waiting.join().unwrap());
    assert!(receiver.try_recv().is_err_and(|error| error.is_empty()));
    assert_eq!((receiver.len(), sub.len()), (0, 1));
    sub.close();
    assert!(receiver.try_recv().is_err_and(|error| error.is_disconnected()));
    assert_eq!(payloads(&sub), [1]);
    Ok(())
}

#[test]
fn the_books_of_the_bus_include_inboxes_that_were_dropped() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 1).psubscribe("*")?;
    bus.publish_many(["a", "a", "b", "b", "b"], 1_u32);
    let before = bus.stats();
    assert_eq!((before.conflated, before.evicted, before.discarded), (3, 1, 0));
    drop(sub);
    let after = bus.stats();
    assert_eq!((after.conflated, after.evicted, after.discarded, after.received), (3, 1, 1, 0));
    Ok(())
}

/// What a payload sees that publishes' figures when it is dropped with the inbox: nothing has been received.
#[test]
fn figures_of_the_bus_do_not_go_back_while_an_inbox_is_dropped() {
    let bus: Bus<Hooked> = Bus::new();
    let sub = board(&bus, 1).subscribe("a").unwrap();
    (0..100).for_each(|_| _ = bus.publish("a", Hooked::plain(1)));
    let (seen, in_drop) = std::sync::mpsc::channel();
    let weak = bus.downgrade();
    let look = move || seen.send(weak.upgrade().unwrap().stats()).unwrap();
    bus.publish("a", Hooked::on_drop(2, look));
    drop(sub);
    let stats = in_drop.recv().unwrap();
    assert_eq!((stats.conflated, stats.delivered), (100, 101));
    assert!(stats.received <= 1, "{stats:?}");
    assert_eq!((bus.stats().received, bus.stats().discarded), (0, 1));
    assert_eq!(bus.topic("a").stats().conflated, 0, "an entry of its own");
}

#[test]
fn the_figures_of_a_channel_say_what_was_replaced() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("a");
    let sub = board(&bus, 4).psubscribe("*").unwrap();
    (0..5_u32).for_each(|n| _ = topic.publish(n));
    bus.publish("b", 1_u32);
    bus.publish("b", 2_u32);
    assert_eq!((topic.stats().conflated, topic.stats().evicted), (4, 0));
    assert_eq!((bus.stats().conflated, sub.info().conflated), (5, 5));
}

#[test]
fn every_payload_is_dropped_once_and_outside_of_all_locks() {
    watched(|| {
        let census = Census::new();
        let bus: Bus<Tracked> = Bus::new();
        let sub = board(&bus, 2).psubscribe("*").unwrap();
        for value in 0..100 {
            bus.publish(["a", "b", "c"][value % 3], census.payload(value as u64));
        }
        drop(payloads(&sub));
        bus.publish("a", census.payload(1));
        drop((sub, bus));
        assert_eq!(census.live(), 0);

        // A payload that publishes to the same inbox when it is dropped.
        let bus: Bus<Hooked> = Bus::new();
        let sub = board(&bus, 1).psubscribe("*").unwrap();
        for channel in ["a", "b"] {
            let again = bus.clone();
            bus.publish("a", Hooked::on_drop(1, move || _ = again.publish("c", Hooked::plain(2))));
            bus.publish(channel, Hooked::plain(3));
        }
        assert!(sub.info().conflated + sub.missed() > 2);
        assert_books(&sub, 6);
    });
}

// ---- waiting --------------------------------------------------------------------------------------

#[test]
fn a_waiting_thread_is_woken() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = board(&bus, 4).subscribe("a").unwrap();
        sub.subscribe("b").unwrap();
        for round in 0..scaled(500) as u32 {
            thread::scope(|scope| {
                let readers = [sub.clone(), sub.clone()]
                    .map(|sub| scope.spawn(move || sub.recv_message().unwrap().payload));
                if round % 10 == 0 {
                    let_it_wait();
                }
                bus.publish("a", round);
                bus.publish("b", round);
                readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), round));
            });
        }
    });
}

#[cfg(feature = "async")]
#[test]
fn a_waiting_task_is_woken_once_for_what_it_finds() {
    use std::task::{Context, Poll};

    let bus: Bus<u32> = Bus::new();
    let sub = board(&bus, 4).subscribe("a").unwrap();
    let mut stream = sub.into_message_stream();
    let (woken, waker) = support::Counting::new(|| {});
    let mut context = Context::from_waker(&waker);
    for round in 1..4_u32 {
        assert!(stream.poll_recv(&mut context).is_pending());
        bus.publish("a", 0_u32);
        bus.publish("a", round);
        assert_eq!(woken.calls(), round as usize);
        let Poll::Ready(Some(message)) = stream.poll_recv(&mut context) else {
            panic!("nothing to read")
        };
        assert_eq!(message.payload, round);
    }
    assert!(stream.poll_recv(&mut context).is_pending());
    bus.close();
    assert!(matches!(stream.poll_recv(&mut context), Poll::Ready(None)));
}

// ---- many threads ---------------------------------------------------------------------------------

#[test]
fn the_books_balance_after_a_race() {
    for round in 0..scaled(40) {
        assert_books_after_race(Overflow::Conflate, 1 + round % 2, 1 + round % 2, 200);
    }
}

/// A reader sees each channel ascend, and its last value in the end.
#[test]
fn the_last_value_of_each_channel_is_never_replaced_by_an_older_one() {
    watched(|| {
        const CHANNELS: usize = 6;
        let last = scaled(3_000) as u32;
        let bus: Bus<u32> = Bus::new();
        let sub = board(&bus, CHANNELS).psubscribe("c?").unwrap();
        let start = Barrier::new(3);
        let seen = thread::scope(|scope| {
            for half in 0..2 {
                let (bus, start, steps) = (&bus, &start, steps());
                scope.spawn(move || {
                    let topics: Vec<_> = (0..CHANNELS / 2)
                        .map(|n| bus.topic(&format!("c{}", half + 2 * n)))
                        .collect();
                    start.wait();
                    for value in 1..=last {
                        steps.step();
                        topics.iter().for_each(|topic| _ = topic.publish(value));
                    }
                });
            }
            start.wait();
            let mut seen: HashMap<String, Vec<u32>> = HashMap::new();
            while seen.len() < CHANNELS || seen.values().any(|seen| seen.last() != Some(&last)) {
                let message = sub.recv_message().unwrap();
                seen.entry(message.channel().to_owned()).or_default().push(message.payload);
            }
            seen
        });
        seen.values().for_each(|values| assert_ascending(values));
        assert_eq!(sub.missed(), 0, "no more channels than the capacity");
        assert_books(&sub, u64::from(last) * CHANNELS as u64);
    });
}

/// Publishes go on while the inbox is closed and read to its end.
#[test]
fn nothing_is_read_or_counted_after_the_end() {
    watched(|| {
        for round in 0..scaled(1_500) {
            let bus: Bus<u32> = Bus::new();
            let sub = board(&bus, 1).psubscribe("*").unwrap();
            let gate = Gate::new();
            let receipts = thread::scope(|scope| {
                let publishers = ["a", "b"].map(|channel| {
                    let (bus, gate) = (&bus, &gate);
                    scope.spawn(move || {
                        gate.pass();
                        (0..20_u32).map(|n| bus.publish(channel, n).matched as u64).sum::<u64>()
                    })
                });
                gate.open();
                support::linger(round % 3);
                sub.close();
                let mut lagged = 0;
                loop {
                    match sub.try_recv() {
                        Ok(Event::Lagged { missed }) => lagged += missed,
                        Ok(_) => {}
                        Err(TryRecvError::Empty) => thread::yield_now(),
                        Err(TryRecvError::Closed) => break,
                    }
                }
                let receipts = publishers.map(|publisher| publisher.join().unwrap());
                assert_eq!(lagged, sub.missed());
                receipts
            });
            assert_eq!((sub.try_recv(), sub.len()), (Err(TryRecvError::Closed), 0));
            assert_books(&sub, receipts.iter().sum());
            support::step();
        }
    });
}

// ---- against a map and a list ---------------------------------------------------------------------

#[derive(Default)]
struct Model {
    newest: HashMap<&'static str, String>,
    changed: Vec<&'static str>,
    matched: u64,
    received: u64,
    conflated: u64,
    missed: u64,
    unreported: u64,
}

impl Model {
    fn put(&mut self, channel: &'static str, message: String, capacity: usize) {
        self.matched += 1;
        if self.newest.insert(channel, message).is_some() {
            self.conflated += 1;
            return;
        }
        self.changed.push(channel);
        if self.changed.len() > capacity {
            self.newest.remove(self.changed.remove(0));
            self.missed += 1;
            self.unreported += 1;
        }
    }

    fn recv(&mut self) -> Result<String, TryRecvError> {
        if self.unreported > 0 {
            return Ok(format!("lagged {}", std::mem::take(&mut self.unreported)));
        }
        if self.changed.is_empty() {
            return Err(TryRecvError::Empty);
        }
        self.received += 1;
        Ok(self.newest.remove(self.changed.remove(0)).unwrap())
    }
}

const NAMES: [&str; 8] = ["a", "b", "ab", "ba", "", "aa", "bb", "abab"];

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn it_holds_what_a_map_and_a_list_hold(
        capacity in 1..8_usize,
        subscribed in vec(any::<bool>(), NAMES.len()),
        patterns in 0..3_usize,
        calls in vec((0..2 * NAMES.len(), any::<bool>()), 0..200),
    ) {
        let bus: Bus<usize> = Bus::new();
        let sub = board(&bus, capacity).build();
        let held: Vec<_> = NAMES.into_iter().zip(subscribed).filter(|it| it.1).map(|it| it.0).collect();
        sub.subscribe_many(held.iter().copied()).unwrap();
        let patterns = &["a*", "*b"][..patterns];
        sub.psubscribe_many(patterns.iter().copied()).unwrap();
        let topics = NAMES.map(|name| bus.topic(name));
        let mut model = Model::default();
        for (value, (call, by_topic)) in calls.into_iter().enumerate() {
            let Some(&name) = NAMES.get(call) else {
                prop_assert_eq!(sub.try_recv().map(|event| text(&event)), model.recv());
                continue;
            };
            let exact = held.contains(&name).then(|| format!("message {name} {value}"));
            let matching = patterns.iter().filter(|it| match **it {
                "a*" => name.starts_with('a'),
                _ => name.ends_with('b'),
            });
            let matching = matching.map(|pattern| format!("pmessage {pattern} {name} {value}"));
            let messages: Vec<_> = exact.into_iter().chain(matching).collect();
            let seen = if by_topic { topics[call].publish(value) } else { bus.publish(name, value) };
            prop_assert_eq!(seen, receipt(messages.len(), 0));
            messages.into_iter().for_each(|message| model.put(name, message, capacity));

            let info = sub.info();
            prop_assert_eq!((info.depth, info.received), (model.changed.len(), model.received));
            prop_assert_eq!((info.conflated, info.missed), (model.conflated, model.missed));
            prop_assert!(info.high_water >= info.depth && info.high_water <= capacity);
            let counted = info.received + info.missed + info.conflated + info.depth as u64;
            prop_assert_eq!(model.matched, counted);
        }
        while let Ok(seen) = sub.try_recv() {
            prop_assert_eq!(Ok(text(&seen)), model.recv());
        }
        prop_assert_eq!(model.recv(), Err(TryRecvError::Empty));
    }
}
