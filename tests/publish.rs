//! Publishing: what a name is, whom a publish reaches and when, how payloads are made, and what a message
//! carries.

mod support;

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use fanout::{
    Bus, Event, Message, Pattern, Receipt, Stats, SubscribeError, Subscriber, Topic, TryRecvError,
};
use proptest::prelude::*;
use support::{WATCHDOG, assert_books, cases, drain, payloads, step, watched};

type Outcome = Result<(), Box<dyn Error>>;

fn receipt(delivered: usize) -> Receipt {
    Receipt { matched: delivered, delivered, dropped: 0 }
}

// ---- channels --------------------------------------------------------------------------------------

/// Names that trimming, case folding, splitting or normalising would confuse.
const NAMES: &[&str] = &[
    "",
    " ",
    "  ",
    "a",
    "A",
    "a ",
    " a",
    "a\0",
    "\0",
    "a\n",
    "user:1",
    "user:1:",
    "user::1",
    ":user:1",
    "user/1",
    "user.1",
    "user:01",
    "é",
    "e\u{301}",
    "É",
    "ß",
    "ss",
    "\u{feff}a",
    "日本",
    "日本\u{200b}",
    "🦀",
    "*",
    "?",
    "[a]",
    "\\a",
    "\\*",
    "a*",
    "{a,b}",
];

#[test]
fn a_channel_is_any_text_compared_as_bytes() -> Outcome {
    let bus: Bus<usize> = Bus::new();
    let subs: Vec<Subscriber<usize>> =
        NAMES.iter().map(|name| bus.subscribe(name)).collect::<Result<_, _>>()?;
    assert_eq!(bus.channels().len(), NAMES.len());
    for (at, name) in NAMES.iter().enumerate() {
        assert_eq!((bus.subscriber_count(name), bus.match_count(name)), (1, 1), "{name:?}");
        assert_eq!(bus.publish(name, at), receipt(1), "{name:?}");
        assert_eq!(bus.topic(name).publish(at), receipt(1), "{name:?}");
    }
    for (at, (sub, name)) in subs.iter().zip(NAMES).enumerate() {
        assert_eq!(sub.recv()?, Event::Subscribe { channel: Arc::from(*name), count: 1 });
        let message = Message::new(name, at);
        assert_eq!(sub.recv()?, Event::Message(message.clone()));
        assert_eq!(sub.recv()?, Event::Message(message));
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty), "{name:?} got another's");
    }
    Ok(())
}

#[test]
fn a_channel_can_be_given_as_any_text_type() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let user = 42;
    let made = bus.subscribe(format!("user:{user}"))?;
    let owned = String::from("user:42");
    let shared: Arc<str> = Arc::from("user:42");
    let subs = [
        bus.subscribe(&owned)?,
        bus.subscribe(&shared)?,
        bus.subscribe(Cow::from("user:42"))?,
        bus.subscriber_builder().subscribe(Box::<str>::from("user:42"))?,
    ];
    assert_eq!(bus.subscriber_count("user:42"), 5);
    assert_eq!(made.subscribe(format!("user:{}", user + 1))?, 2);
    assert_eq!(made.subscribe(shared.clone())?, 2);
    assert_eq!(made.unsubscribe(format!("user:{}", user + 1)), 1);
    assert_eq!(made.unsubscribe(shared), 0);
    assert_eq!(subs[0].unsubscribe(&owned), 0);
    assert_eq!(bus.subscriber_count("user:42"), 3);
    Ok(())
}

#[test]
fn an_arc_of_any_type_is_published_without_copying() -> Outcome {
    type Payload = Arc<dyn Any + Send + Sync>;
    let bus: Bus<Payload> = Bus::new();
    let sub = bus.subscribe("c")?;
    let number: Arc<u32> = Arc::new(7);
    bus.publish("c", Arc::clone(&number) as Payload);
    bus.topic("c").publish(Arc::new("text") as Payload);
    let first = sub.recv_message()?.payload.downcast::<u32>().unwrap();
    assert!(Arc::ptr_eq(&first, &number), "the same, not a box around it");
    assert_eq!(sub.recv_message()?.payload.downcast_ref::<&str>(), Some(&"text"));
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn the_empty_channel_is_a_channel() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let exact = bus.subscribe("")?;
    let empty = bus.psubscribe("")?;
    let star = bus.psubscribe("*")?;
    assert_eq!(bus.publish("", 1u32), receipt(2));
    assert_eq!(bus.channels_matching(""), [Arc::from("")]);
    assert!(bus.channels_matching("*").is_empty());
    assert_eq!(drain(&exact), ["subscribe  1", "message  1"]);
    assert_eq!(drain(&empty), ["psubscribe  1", "pmessage   1"]);
    assert_eq!(drain(&star), ["psubscribe * 1"]);
    let glob = bus.psubscribe(Pattern::glob("*")?)?;
    let expected = usize::from(Pattern::glob("*")?.is_match(""));
    assert_eq!(bus.publish("", 2u32).delivered, 2 + expected);
    drop(glob);
    assert_eq!(exact.unsubscribe(""), 0);
    assert_eq!(bus.subscriber_count(""), 0);
    Ok(())
}

#[test]
fn a_channel_name_may_be_long() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let long = "x".repeat(100_000);
    let longer = format!("{long}y");
    let (sub, other) = (bus.subscribe(&long)?, bus.psubscribe("x*y")?);
    assert_eq!(bus.publish(&long, 1u32), receipt(1));
    assert_eq!(bus.publish(&longer, 2u32), receipt(1));
    assert_eq!(sub.recv_message()?.channel(), long);
    assert_eq!(other.recv_message()?.channel(), longer);
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_publish_reaches_only_subscribers_of_its_own_name(left in any::<String>(), right in any::<String>()) {
        let bus: Bus<u32> = Bus::builder().stripes(1).build();
        let (a, b) = (bus.subscribe(&left).unwrap(), bus.subscribe(&right).unwrap());
        let same = usize::from(left == right);
        prop_assert_eq!(bus.publish(&left, 1u32), receipt(1 + same));
        prop_assert_eq!(payloads(&a), vec![1]);
        prop_assert_eq!(payloads(&b), vec![1; same]);
    }
}

// ---- recipients ---------------------------------------------------------------------

#[test]
fn an_inbox_gets_one_message_per_matching_subscription() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber_builder().lifecycle_events(false).build();
    sub.psubscribe("*:7")?;
    sub.subscribe("game:7")?;
    sub.psubscribe("game:*")?;
    sub.psubscribe("chess:*")?;
    let once = bus.subscriber_builder().lifecycle_events(false).dedupe(true).build();
    once.psubscribe("*:7")?;
    once.subscribe("game:7")?;
    once.psubscribe("game:*")?;
    assert_eq!(bus.match_count("game:7"), 4);
    assert_eq!(bus.publish("game:7", 1u32), receipt(4), "one alone where it is taken once");
    let exact_first = ["message game:7 1", "pmessage *:7 game:7 1", "pmessage game:* game:7 1"];
    assert_eq!(drain(&sub), exact_first);
    assert_eq!(drain(&once), ["message game:7 1"]);
    once.unsubscribe("game:7");
    assert_eq!(bus.publish("game:7", 2u32), receipt(4));
    assert_eq!(drain(&once), ["pmessage *:7 game:7 2"]);
    assert_books(&sub, 6);
    assert_books(&once, 2);
    Ok(())
}

#[test]
fn subscribing_twice_is_one_subscription() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("a")?;
    assert_eq!((sub.subscribe("a")?, sub.subscribe_many(["a", "a"])?), (1, 1));
    assert_eq!((sub.psubscribe("a")?, sub.psubscribe_many(["a", "a"])?), (2, 2));
    assert_eq!((bus.subscriber_count("a"), bus.match_count("a")), (1, 2));
    assert_eq!(bus.publish("a", 1u32), receipt(2));
    // One call gives the subscription up.
    assert_eq!((sub.unsubscribe("a"), sub.punsubscribe("a")), (1, 0));
    assert_eq!(bus.publish("a", 2u32), receipt(0));
    Ok(())
}

#[test]
fn publishing_to_nobody_returns_a_receipt_of_zeros() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    assert_eq!(bus.publish("a", 1u32), Receipt::default());
    assert_eq!(bus.topic("a").publish(1u32), Receipt::default());
    // Messages that were published while nobody listened are gone.
    let sub = bus.subscribe("a")?;
    assert_eq!(drain(&sub), ["subscribe a 1"]);
    bus.close();
    assert_eq!(bus.publish("a", 1u32), Receipt::default());
    assert_eq!(bus.topic("a").publish(1u32), Receipt::default());
    assert_eq!(bus.stats().published, 4);
    Ok(())
}

/// One thread subscribes and unsubscribes, another publishes, each after the other's call has returned.
#[test]
fn a_subscription_is_live_when_subscribe_returns_and_gone_when_unsubscribe_does() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscriber_builder().lifecycle_events(false).build();
        let (ask, asked) = mpsc::channel::<(&str, u32)>();
        let (answer, answered) = mpsc::channel();
        let publisher = {
            let bus = bus.clone();
            let topic = bus.topic("ab");
            thread::spawn(move || {
                for (how, payload) in asked {
                    let receipt = match how {
                        "topic" => topic.publish(payload),
                        _ => bus.publish("ab", payload),
                    };
                    answer.send(receipt).unwrap();
                }
            })
        };
        let publish = |how, payload| {
            ask.send((how, payload)).unwrap();
            answered.recv_timeout(WATCHDOG).unwrap()
        };
        for round in 0..500 {
            step();
            let how = ["name", "topic"][round as usize % 2];
            sub.subscribe("ab").unwrap();
            assert_eq!(publish(how, 4 * round), receipt(1));
            sub.psubscribe("a*").unwrap();
            assert_eq!(publish(how, 4 * round + 1), receipt(2));
            sub.unsubscribe("ab");
            assert_eq!(publish(how, 4 * round + 2), receipt(1));
            sub.punsubscribe("a*");
            assert_eq!(publish(how, 4 * round + 3), receipt(0));
            // When a publish returns, what it delivered can be read.
            assert_eq!(payloads(&sub), [0, 1, 1, 2].map(|n| 4 * round + n));
        }
        drop(ask);
        publisher.join().unwrap();
    });
}

#[test]
fn a_dropped_subscriber_is_no_longer_reached() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("a")?;
    let clone = sub.clone();
    drop(sub);
    assert_eq!(bus.publish("a", 1u32), receipt(1));
    drop(clone);
    assert_eq!(bus.publish("a", 2u32), receipt(0));
    Ok(())
}

/// A payload that asks another thread a question each time it is cloned, and waits for the answer.
struct Asking {
    number: u32,
    ask: Option<mpsc::Sender<()>>,
    answered: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Clone for Asking {
    fn clone(&self) -> Self {
        if let Some(ask) = &self.ask {
            ask.send(()).unwrap();
            self.answered.lock().unwrap().recv().unwrap();
        }
        Self { number: self.number, ask: None, answered: Arc::clone(&self.answered) }
    }
}

/// The bus is closed during a publish, and a reader drains its inbox to the end before the message enters.
#[test]
fn delivered_messages_can_be_read_after_the_bus_closed_during_the_publish() {
    let (before, after, receipt) = watched(|| {
        let bus: Bus<Asking> = Bus::new();
        let quiet = || bus.subscriber_builder().lifecycle_events(false);
        let subs = [quiet().subscribe("a").unwrap(), quiet().subscribe("a").unwrap()];
        let (ask, asked) = mpsc::channel();
        let (answer, answered) = mpsc::channel();
        let payload =
            Asking { number: 1, ask: Some(ask), answered: Arc::new(Mutex::new(answered)) };
        let publisher = {
            let bus = bus.clone();
            thread::spawn(move || bus.publish("a", payload))
        };
        asked.recv_timeout(WATCHDOG).unwrap();
        // Closing does not wait for the publish.
        bus.close();
        let read = || -> Vec<u32> {
            let numbers = |sub| payloads(sub).into_iter().map(|payload: Asking| payload.number);
            subs.iter().flat_map(numbers).collect()
        };
        let before = read();
        answer.send(()).unwrap();
        let receipt = publisher.join().unwrap();
        (before, read(), receipt)
    });
    // An inbox whose end has been read is no longer reached.
    assert_eq!(receipt.matched, receipt.delivered + receipt.dropped);
    assert_eq!(before.len() + after.len(), receipt.delivered, "{receipt:?}");
}

// ---- payloads --------------------------------------------------------------------------------------

/// Converts into a payload and counts its conversions.
struct Counting<'a>(&'a Cell<u32>);

impl From<Counting<'_>> for u32 {
    fn from(counting: Counting<'_>) -> Self {
        counting.0.set(counting.0.get() + 1);
        counting.0.get()
    }
}

#[test]
fn into_runs_even_if_nothing_matches() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("a");
    let runs = Cell::new(0);
    bus.publish("a", Counting(&runs));
    topic.publish(Counting(&runs));
    assert_eq!(runs.get(), 2);
    let _left = bus.subscribe("a")?;
    let sub = bus.subscribe("a")?;
    // It runs once, whatever the number of receivers.
    bus.publish("a", Counting(&runs));
    topic.publish(Counting(&runs));
    assert_eq!(payloads(&sub), [3, 4]);
    bus.close();
    bus.publish("a", Counting(&runs));
    topic.publish(Counting(&runs));
    assert_eq!(runs.get(), 6);
    Ok(())
}

#[test]
fn whatever_converts_into_the_payload_can_be_published() -> Outcome {
    let bus: Bus = Bus::new();
    let sub = bus.subscribe("a")?;
    bus.publish("a", "text");
    bus.publish("a", "string".to_owned());
    bus.publish("a", Arc::from("shared"));
    bus.publish("a", Box::from("boxed"));
    assert_eq!(payloads(&sub).join(" "), "text string shared boxed");

    // A payload that is neither Debug nor Eq nor Sync.
    #[derive(Clone)]
    struct Opaque(Cell<u8>);
    let bus: Bus<Opaque> = Bus::new();
    let sub = bus.subscribe("a")?;
    bus.publish("a", Opaque(Cell::new(7)));
    assert_eq!(sub.recv_message()?.payload.0.get(), 7);
    Ok(())
}

/// Calls `publish_with` in one of its four ways. Returns the receipt and how often the closure ran.
fn with(bus: &Bus<u32>, topic: &Topic<u32>, way: usize, payload: u32) -> (Receipt, u32) {
    let mut runs = 0;
    let f = || {
        runs += 1;
        payload
    };
    let receipt = match way {
        0 => bus.publish_with("ab", f),
        1 => topic.publish_with(f),
        2 => bus.try_publish_with("ab", move || -> Result<u32, ()> { Ok(f_once(f)) }).unwrap(),
        _ => topic.try_publish_with(move || -> Result<u32, ()> { Ok(f_once(f)) }).unwrap(),
    };
    (receipt, runs)
}

fn f_once(f: impl FnOnce() -> u32) -> u32 {
    f()
}

#[test]
fn publish_with_runs_its_closure_only_if_something_matched() -> Outcome {
    for way in 0..4 {
        let bus: Bus<u32> = Bus::new();
        let topic = bus.topic("ab");
        let expect = |payload, delivered| {
            let expected = (receipt(delivered), u32::from(delivered > 0));
            assert_eq!(with(&bus, &topic, way, payload), expected, "way {way}");
        };
        expect(1, 0);
        let pattern = bus.psubscribe("a*")?;
        expect(2, 1);
        let exact = bus.subscribe("ab")?;
        let other = bus.subscribe("abc")?;
        expect(3, 2);
        pattern.punsubscribe("a*");
        expect(4, 1);
        drop(exact);
        expect(5, 0);
        #[cfg(feature = "glob")]
        let last = Pattern::glob("{ab,x}")?;
        #[cfg(not(feature = "glob"))]
        let last = Pattern::redis("a[b]");
        pattern.psubscribe(last)?;
        expect(6, 1);
        assert_eq!(payloads(&pattern), [2, 3, 6]);
        assert_eq!(payloads(&other), [0; 0]);
        let Stats { published, matched, delivered, dropped, .. } = bus.stats();
        assert_eq!((published, matched, delivered, dropped), (6, 5, 5, 0), "way {way}");
        bus.close();
        expect(7, 0);
        assert_eq!(bus.stats().published, 7);
    }
    Ok(())
}

#[test]
fn try_publish_with_publishes_nothing_on_an_error() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("a");
    // Nothing matches: the closure does not run, so it cannot fail.
    assert_eq!(bus.try_publish_with("a", || "x".parse::<u32>()), Ok(Receipt::default()));
    assert_eq!(topic.try_publish_with(|| "x".parse::<u32>()), Ok(Receipt::default()));
    let sub = bus.subscribe("a")?;
    let before = bus.stats();
    assert_eq!(bus.try_publish_with("a", || Err("no")), Err("no"));
    assert_eq!(topic.try_publish_with(|| Err("nor")), Err("nor"));
    assert_eq!((sub.len(), bus.stats()), (0, before));
    assert_books(&sub, 0);
    assert_eq!(bus.try_publish_with("a", || "1".parse::<u32>())?, receipt(1));
    assert_eq!(topic.try_publish_with(|| "2".parse::<u32>())?, receipt(1));
    assert_eq!(payloads(&sub), [1, 2]);
    Ok(())
}

/// The closure runs outside every turn: messages that it publishes come first, and subscriptions that it
/// changes count.
#[test]
fn a_publish_with_closure_may_use_the_bus() -> Outcome {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscribe("a").unwrap();
        let topic = bus.topic("a");
        let late = Cell::new(None);
        let done = bus.publish_with("a", || {
            assert_eq!(topic.publish(1u32), receipt(1));
            assert_eq!(
                topic.publish_with(|| bus.publish("a", 2u32).delivered as u32 + 2),
                receipt(1)
            );
            late.set(Some(bus.subscribe("a").unwrap()));
            4
        });
        assert_eq!(done, receipt(2));
        assert_eq!(payloads(&sub), [1, 2, 3, 4]);
        assert_eq!(payloads(&late.take().unwrap()), [4]);
        // The closure drops the only subscriber, so the publish matches nothing.
        let gone = Cell::new(Some(sub));
        let nothing = topic.publish_with(|| {
            drop(gone.take());
            5
        });
        assert_eq!(nothing, receipt(0));
    });
    Ok(())
}

// ---- topics ----------------------------------------------------------------------------------------

#[cfg(feature = "glob")]
#[test]
fn a_topic_publishes_as_the_bus_does() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("game:7");
    assert_eq!((topic.channel(), topic.subscriber_count(), topic.match_count()), ("game:7", 0, 0));
    let sub = bus.subscriber_builder().lifecycle_events(false).build();
    for step in 0..6u32 {
        match step {
            1 => drop(sub.subscribe("game:7")?),
            2 => drop(sub.psubscribe("game:*")?),
            3 => drop(sub.psubscribe(Pattern::glob("{game,chess}:?")?)?),
            4 => drop(sub.unsubscribe("game:7")),
            5 => drop(sub.punsubscribe_all()),
            _ => {}
        }
        let by_name = bus.publish("game:7", step);
        let by_name = (by_name, drain(&sub));
        let by_topic = topic.publish(step);
        assert_eq!((by_topic, drain(&sub)), by_name, "step {step}");
        assert_eq!(topic.clone().publish(step), by_topic);
        drain(&sub);
        assert_eq!(topic.match_count(), by_topic.matched);
        assert_eq!(topic.match_count(), bus.match_count("game:7"));
        assert_eq!(topic.subscriber_count(), bus.subscriber_count("game:7"));
        // Another handle to the same channel.
        assert_eq!(bus.topic("game:7").match_count(), by_topic.matched);
    }
    Ok(())
}

#[test]
fn a_topic_counts_neither_as_a_subscriber_nor_as_a_channel() -> Outcome {
    let limits = fanout::Limits::default().max_channels(1).max_subscribers(1);
    let bus: Bus<u32> = Bus::builder().limits(limits).build();
    let topics: Vec<Topic<u32>> = (0..10).map(|n| bus.topic(&format!("t{n}"))).collect();
    topics.iter().for_each(|topic| assert_eq!(topic.publish(1u32), receipt(0)));
    assert!(bus.channels().is_empty());
    assert_eq!((bus.stats().channels, bus.stats().subscribers), (0, 0));
    let sub = bus.subscribe("t3")?;
    assert_eq!(bus.channels(), [Arc::from("t3")]);
    assert_eq!(topics[3].publish(2u32), receipt(1));
    sub.unsubscribe("t3");
    assert!(bus.channels().is_empty(), "pinned, and not listed");
    assert_eq!(topics[3].publish(3u32), receipt(0));
    sub.subscribe("t4")?;
    assert_eq!((topics[3].publish(4u32), topics[4].publish(5u32)), (receipt(0), receipt(1)));
    assert_eq!(payloads(&sub), [2, 5]);
    Ok(())
}

#[test]
fn a_topic_creates_subscribers_of_its_channel() -> Outcome {
    let limits = fanout::Limits::default().max_subscribers(1);
    let bus: Bus<u32> = Bus::builder().capacity(3).limits(limits).build();
    let topic = bus.topic("game:7");
    let sub = topic.subscribe()?;
    assert_eq!((sub.capacity(), sub.channels()), (3, vec![Arc::from("game:7")]));
    assert_eq!(topic.subscriber_count(), 1);
    assert_eq!(topic.publish(1u32), receipt(1));
    assert_eq!(drain(&sub), ["subscribe game:7 1", "message game:7 1"]);
    let error = topic.subscribe().unwrap_err();
    assert!(matches!(error, SubscribeError::TooManySubscribers { limit: 1, .. }));
    bus.close();
    assert_eq!(topic.subscribe().unwrap_err(), SubscribeError::Closed);
    Ok(())
}

#[test]
fn a_topic_keeps_its_bus_open() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("a")?;
    let topic = bus.topic("a");
    let again = topic.clone();
    drop((bus, topic));
    assert_eq!(again.publish(1u32), receipt(1));
    drop(again);
    assert_eq!(drain(&sub), ["subscribe a 1", "message a 1", "closed"]);
    Ok(())
}

// ---- messages --------------------------------------------------------------------------------------

#[test]
fn a_message_carries_its_channel_and_pattern() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("a:b")?;
    sub.psubscribe("a:*")?;
    bus.publish("a:b", 7u32);
    let exact = sub.recv_message()?;
    assert_eq!((exact.channel(), exact.pattern(), exact.payload), ("a:b", None, 7));
    let (channel, pattern, payload) = exact.into_parts();
    assert_eq!((&*channel, pattern, payload), ("a:b", None, 7));
    let by_pattern = sub.recv_message()?;
    assert_eq!((by_pattern.channel(), by_pattern.pattern()), ("a:b", Some("a:*")));
    let copy = by_pattern.clone();
    let (channel, pattern, payload) = by_pattern.into_parts();
    assert_eq!((&*channel, pattern.as_deref(), payload), ("a:b", Some("a:*"), 7));
    assert_eq!(copy.pattern(), Some("a:*"));
    // The payload can be moved out by itself: a message has no Drop.
    let payload = copy.payload;
    assert_eq!(payload, 7);
    Ok(())
}

#[test]
fn a_message_can_be_constructed_for_a_mock() {
    let message = Message::new("a", "payload");
    assert_eq!((message.channel(), message.pattern(), message.payload), ("a", None, "payload"));
    let message = message.with_pattern("a*");
    assert_eq!(
        (message.channel(), message.pattern(), message.payload),
        ("a", Some("a*"), "payload")
    );
    let message = message.with_pattern("b*");
    assert_eq!(message.pattern(), Some("b*"));
    let (channel, pattern, payload) = message.into_parts();
    assert_eq!((&*channel, pattern.as_deref(), payload), ("a", Some("b*"), "payload"));
    let default: Message = Message::new("", Arc::from("x"));
    assert_eq!((default.channel(), &*default.payload), ("", "x"));
}

#[test]
#[allow(clippy::mutable_key_type)] // A glob's regex has a cache inside; dialect and text have not.
fn messages_and_events_are_equal_by_text() -> Outcome {
    let bus: Bus<u32> = Bus::new();
    let (left, right) = (bus.subscribe("a")?, bus.psubscribe("a")?);
    bus.publish("a", 1u32);
    let (exact, by_pattern) = (left.recv_message()?, right.recv_message()?);
    let made = Message::new("a", 1);
    // Not equal by pointer: this one never was on the bus.
    assert_eq!(exact, made);
    assert_eq!(by_pattern, made.clone().with_pattern("a"));
    assert_ne!(exact, by_pattern, "a pattern of the channel's text is no channel");
    let other_bus: Bus<u32> = Bus::new();
    let sub = other_bus.subscribe("a")?;
    other_bus.publish("a", 1u32);
    assert_eq!(sub.recv_message()?, exact);

    let different = [
        made.clone(),
        Message::new("a", 2),
        Message::new("b", 1),
        made.clone().with_pattern("a"),
        made.clone().with_pattern("a*"),
        Message::new("", 1).with_pattern("a"),
    ];
    for (at, one) in different.iter().enumerate() {
        for (other_at, other) in different.iter().enumerate() {
            assert_eq!(one == other, at == other_at, "{one:?} and {other:?}");
        }
    }
    let hasher = RandomState::new();
    assert_eq!(hasher.hash_one(&exact), hasher.hash_one(&made));
    assert_eq!(hasher.hash_one(&by_pattern), hasher.hash_one(made.clone().with_pattern("a")));
    let set: HashSet<Message<u32>> = different.iter().cloned().chain([exact, by_pattern]).collect();
    assert_eq!(set.len(), different.len());

    let subscribe = |name: &str, count| Event::<u32>::Subscribe { channel: Arc::from(name), count };
    assert_eq!(left.resubscribe()?.recv()?, subscribe("a", 1));
    let events = [
        subscribe("a", 1),
        subscribe("a", 2),
        subscribe("b", 1),
        Event::Unsubscribe { channel: Arc::from("a"), count: 1 },
        Event::PSubscribe { pattern: Pattern::redis("a"), count: 1 },
        Event::PUnsubscribe { pattern: Pattern::redis("a"), count: 1 },
        Event::Lagged { missed: 1 },
        Event::Lagged { missed: 2 },
        Event::Message(made.clone()),
        Event::PMessage(made.with_pattern("a")),
    ];
    let set: HashSet<Event<u32>> = events.iter().cloned().chain(events.clone()).collect();
    assert_eq!(set.len(), events.len());
    assert_eq!(hasher.hash_one(subscribe("a", 1)), hasher.hash_one(subscribe("a", 1)));
    Ok(())
}

#[test]
fn an_event_returns_its_message_however_it_matched() {
    let exact = Message::new("a", 1);
    let by_pattern = Message::new("a", 1).with_pattern("*");
    let event = Event::Message(exact.clone());
    assert_eq!(
        (event.message(), event.clone().into_message()),
        (Some(&exact), Some(exact.clone()))
    );
    let event = Event::PMessage(by_pattern.clone());
    let expected = (Some(&by_pattern), Some(by_pattern.clone()));
    assert_eq!((event.message(), event.clone().into_message()), expected);
    let (name, count): (Arc<str>, _) = (Arc::from("a"), 1);
    for event in [
        Event::<u32>::Subscribe { channel: Arc::clone(&name), count },
        Event::Unsubscribe { channel: Arc::clone(&name), count },
        Event::PSubscribe { pattern: Pattern::from(&name), count },
        Event::PUnsubscribe { pattern: Pattern::from(name), count },
        Event::Lagged { missed: 1 },
    ] {
        assert_eq!((event.message(), event.clone().into_message()), (None, None));
    }
}

#[test]
fn debug_shows_what_messages_and_events_hold() {
    let message = Message::new("chan", 42).with_pattern("pat*");
    for shown in [format!("{message:?}"), format!("{:?}", Event::PMessage(message.clone()))] {
        assert!(["chan", "pat*", "42"].iter().all(|part| shown.contains(part)), "{shown}");
    }
    assert!(format!("{:?}", Event::<u32>::Lagged { missed: 3 }).contains('3'));
}
