//! Redis patterns match what a real redis-server matched, in the matcher and in the trie.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use fanout::{Bus, Pattern, Subscriber};

const VERDICTS: usize = 6_723;

struct Vector {
    pattern: String,
    channel: String,
    matches: bool,
}

fn vectors() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/redis_glob_vectors.tsv");
    let file = fs::read_to_string(path).unwrap();
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [pattern, channel, verdict] = fields[..] else { panic!("not a vector: {line}") };
            let matches = match verdict {
                "1" => true,
                "0" => false,
                other => panic!("not a verdict: {other}"),
            };
            let name = |json| serde_json::from_str(json).unwrap();
            Vector { pattern: name(pattern), channel: name(channel), matches }
        })
        .collect()
}

/// Returns the distinct values of one column.
fn column(vectors: &[Vector], of: impl Fn(&Vector) -> &str) -> BTreeSet<String> {
    vectors.iter().map(|vector| of(vector).to_owned()).collect()
}

/// Subscribes to each pattern with a subscriber of its own.
fn subscribe_all(bus: &Bus<u32>, patterns: &BTreeSet<String>) -> Vec<(String, Subscriber<u32>)> {
    patterns
        .iter()
        .map(|pattern| {
            let silent = bus.subscriber_builder().capacity(1).lifecycle_events(false);
            (pattern.clone(), silent.psubscribe(pattern).unwrap())
        })
        .collect()
}

/// Publishes to every channel and asserts that exactly the right subscribers receive it. Returns the number of
/// verdicts.
fn compare_on_the_bus(
    vectors: &[Vector],
    subscribers: &[(String, Subscriber<u32>)],
    bus: &Bus<u32>,
) -> usize {
    let verdicts: HashMap<(&str, &str), bool> = vectors
        .iter()
        .map(|vector| ((&*vector.pattern, &*vector.channel), vector.matches))
        .collect();
    let mut compared = 0;
    for (payload, channel) in (0..).zip(&column(vectors, |vector| &vector.channel)) {
        let expected =
            subscribers.iter().filter(|(pattern, _)| verdicts[&(&**pattern, &**channel)]);
        let expected = expected.count();
        assert_eq!(bus.match_count(channel), expected, "{channel:?}");
        let receipt = bus.publish(channel, payload);
        assert_eq!((receipt.matched, receipt.delivered), (expected, expected), "{channel:?}");
        for (pattern, subscriber) in subscribers {
            let message = subscriber.try_recv_message().ok();
            let matches = verdicts[&(&**pattern, &**channel)];
            assert_eq!(message.is_some(), matches, "pattern {pattern:?}, channel {channel:?}");
            if let Some(message) = message {
                assert_eq!(message.pattern(), Some(&**pattern));
                assert_eq!((message.channel(), message.payload), (&**channel, payload));
            }
            assert!(subscriber.try_recv().is_err(), "it came twice");
            compared += 1;
        }
    }
    compared
}

#[test]
fn the_matcher_and_the_trie_agree_with_the_recorded_verdicts() {
    let vectors = vectors();
    let mut matcher = 0;
    for Vector { pattern, channel, matches } in &vectors {
        let verdict = Pattern::redis(pattern).is_match(channel);
        assert_eq!(verdict, *matches, "pattern {pattern:?}, channel {channel:?}");
        matcher += 1;
    }
    let bus: Bus<u32> = Bus::new();
    let subscribers = subscribe_all(&bus, &column(&vectors, |vector| &vector.pattern));
    assert_eq!(bus.pattern_count(), subscribers.len());
    let trie = compare_on_the_bus(&vectors, &subscribers, &bus);
    println!("{matcher} verdicts through the matcher, {trie} through the trie");
    assert_eq!((matcher, trie), (VERDICTS, VERDICTS));
}

/// The channels have entries before the patterns are subscribed, and keep them when half of the patterns are
/// gone.
#[test]
fn channels_made_before_the_patterns_agree_with_the_recorded_verdicts() {
    let vectors = vectors();
    let bus: Bus<u32> = Bus::new();
    let topics: Vec<_> =
        column(&vectors, |vector| &vector.channel).iter().map(|name| bus.topic(name)).collect();
    for topic in &topics {
        assert_eq!(topic.publish(0u32).matched, 0);
    }
    let patterns = column(&vectors, |vector| &vector.pattern);
    let mut subscribers = subscribe_all(&bus, &patterns);
    assert_eq!(compare_on_the_bus(&vectors, &subscribers, &bus), VERDICTS);
    let mut at = 0;
    subscribers.retain(|_| {
        at += 1;
        at % 2 == 0
    });
    let half = compare_on_the_bus(&vectors, &subscribers, &bus);
    assert_eq!(half, VERDICTS / patterns.len() * subscribers.len());
    drop(subscribers);
    for topic in &topics {
        assert_eq!((topic.publish(0u32).matched, topic.match_count()), (0, 0));
    }
    assert_eq!(bus.pattern_count(), 0);
}
