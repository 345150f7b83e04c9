//! The trie of patterns gives every subscriber what a linear list of subscriptions would, in the same order.

mod support;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use fanout::{Bus, Pattern, Receipt, Subscriber, Topic, TryRecvError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::cases;

// ---- names and patterns ----------------------------------------------------------------------------

/// Returns names with many common prefixes and suffixes.
fn channel() -> impl Strategy<Value = String> {
    let pieces = select(vec!["a", "a", "b", "ab", ":", ":", "/", "é", "a:b", "user:", ":end", "*"]);
    vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
}

fn redis() -> impl Strategy<Value = Pattern> {
    let pieces = select(vec![
        "*", "*", "*", "?", "?", "a", "a", "b", "ab", ":", ":", "/", "é", "a:b", "user:", ":end",
        "[ab]", "[^a]", "[a-z]", "[]", "[^]", "\\*", "\\a", "\\", "[",
    ]);
    vec(pieces, 0..7).prop_map(|pieces| Pattern::redis(&pieces.concat()))
}

/// Returns a shell glob, or a Redis pattern if the text is not a valid glob.
fn glob() -> impl Strategy<Value = Pattern> {
    let pieces = select(vec![
        "*",
        "*",
        "?",
        "**",
        "**/",
        "/**",
        "/",
        "a",
        "a",
        "b",
        "ab",
        ":",
        "a:b",
        "user:",
        ":end",
        "{a,b}",
        "{ab,a:b*}",
        "{,a}",
        "[ab]",
        "[!a]",
        "\\*",
    ]);
    vec(pieces, 0..6).prop_map(|pieces| {
        let text = pieces.concat();
        #[cfg(feature = "glob")]
        let pattern = Pattern::glob(&text).unwrap_or_else(|_| Pattern::redis(&text));
        #[cfg(not(feature = "glob"))]
        let pattern = Pattern::redis(&text);
        pattern
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![3 => redis(), 1 => glob()]
}

// ---- the model -------------------------------------------------------------------------------------

/// Channel, pattern and payload, as received.
type Seen = (String, Option<String>, u32);

/// A subscriber, and the list of what it subscribed.
struct Listed {
    sub: Subscriber<u32>,
    dedupe: bool,
    /// Both in the order of subscription.
    channels: Vec<String>,
    patterns: Vec<Pattern>,
    expected: Vec<Seen>,
    received: u64,
}

impl Listed {
    fn new(bus: &Bus<u32>, dedupe: bool) -> Self {
        let sub = bus.subscriber_builder().dedupe(dedupe).lifecycle_events(false).build();
        let (channels, patterns, expected) = Default::default();
        Self { sub, dedupe, channels, patterns, expected, received: 0 }
    }

    fn held(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Returns how a message on `channel` matches: by the channel itself first, then by patterns.
    fn matching(&self, channel: &str) -> Vec<Option<String>> {
        let exact = self.channels.iter().any(|held| held == channel).then_some(None);
        let patterns = self.patterns.iter().filter(|pattern| pattern.is_match(channel));
        let all = exact.into_iter().chain(patterns.map(|pattern| Some(pattern.to_string())));
        all.take(if self.dedupe { 1 } else { usize::MAX }).collect()
    }

    fn publish(&mut self, channel: &str, payload: u32) -> usize {
        let matching = self.matching(channel);
        let matched = matching.len();
        self.expected.extend(matching.into_iter().map(|by| (channel.to_owned(), by, payload)));
        matched
    }

    /// Reads all messages and compares.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut seen: Vec<Seen> = Vec::new();
        while let Ok(message) = self.sub.try_recv_message() {
            let (channel, pattern, payload) = message.into_parts();
            seen.push((channel.to_string(), pattern.map(|pattern| pattern.to_string()), payload));
        }
        prop_assert_eq!(&seen, &self.expected);
        self.received += seen.len() as u64;
        self.expected.clear();
        let channels: Vec<String> =
            self.sub.channels().iter().map(|name| name.to_string()).collect();
        prop_assert_eq!(&channels, &self.channels);
        prop_assert_eq!(&self.sub.patterns(), &self.patterns);
        let info = self.sub.info();
        prop_assert_eq!((info.channels, info.patterns), (self.channels.len(), self.patterns.len()));
        prop_assert_eq!((info.received, info.missed, info.depth), (self.received, 0, 0));
        Ok(())
    }
}

struct Model {
    bus: Bus<u32>,
    subs: Vec<Listed>,
    /// Handles to some of the channels, kept until the end.
    topics: Vec<Topic<u32>>,
    published: u64,
    matched: u64,
}

impl Model {
    fn new(stripes: usize, dedupe: &[bool]) -> Self {
        // No inbox may overflow; other tests cover losses.
        let bus: Bus<u32> = Bus::builder().capacity(4_096).stripes(stripes).build();
        let subs = dedupe.iter().map(|&dedupe| Listed::new(&bus, dedupe)).collect();
        Self { bus, subs, topics: Vec::new(), published: 0, matched: 0 }
    }

    fn matched(&self, channel: &str) -> usize {
        self.subs.iter().map(|listed| listed.matching(channel).len()).sum()
    }

    fn publish(&mut self, channel: &str, how: How) -> Result<(), TestCaseError> {
        let payload = self.published as u32;
        let receipt = match how {
            How::ByName => self.bus.publish(channel, payload),
            How::With => self.bus.publish_with(channel, || payload),
            How::Topic => {
                let topic = self.topics.iter().find(|topic| topic.channel() == channel);
                let topic = topic.cloned().unwrap_or_else(|| self.bus.topic(channel));
                let receipt = topic.publish(payload);
                self.topics.push(topic);
                receipt
            }
        };
        self.published += 1;
        let matched = self.subs.iter_mut().map(|listed| listed.publish(channel, payload)).sum();
        self.matched += matched as u64;
        prop_assert_eq!(
            receipt,
            Receipt { matched, delivered: matched, dropped: 0 },
            "{:?}",
            channel
        );
        Ok(())
    }

    /// Compares everything that can be asked about these names and patterns.
    fn check(&mut self, channels: &[String], patterns: &[Pattern]) -> Result<(), TestCaseError> {
        for listed in &mut self.subs {
            listed.check()?;
        }
        let bus = &self.bus;
        for channel in channels {
            let matched = self.matched(channel);
            prop_assert_eq!(bus.match_count(channel), matched, "{:?}", channel);
            let exact = self.subs.iter().filter(|listed| listed.channels.contains(channel)).count();
            prop_assert_eq!(bus.subscriber_count(channel), exact, "{:?}", channel);
        }
        for topic in &self.topics {
            prop_assert_eq!(topic.match_count(), self.matched(topic.channel()));
            prop_assert_eq!(topic.subscriber_count(), bus.subscriber_count(topic.channel()));
        }
        let mut held: Vec<&Pattern> =
            self.subs.iter().flat_map(|listed| &listed.patterns).collect();
        held.sort_unstable();
        held.dedup();
        prop_assert_eq!(bus.pattern_count(), held.len());
        let held: BTreeSet<String> =
            self.subs.iter().flat_map(|listed| listed.channels.iter().cloned()).collect();
        prop_assert_eq!(sorted(bus.channels()), Vec::from_iter(held.clone()));
        for pattern in patterns.iter().map(|pattern| Pattern::redis(pattern.as_str())) {
            let matching: Vec<String> =
                held.iter().filter(|channel| pattern.is_match(channel)).cloned().collect();
            prop_assert_eq!(sorted(bus.channels_matching(pattern.as_str())), matching);
        }
        let stats = bus.stats();
        prop_assert_eq!((stats.published, stats.matched), (self.published, self.matched));
        prop_assert_eq!((stats.delivered, stats.dropped, stats.evicted), (self.matched, 0, 0));
        prop_assert_eq!((stats.channels, stats.patterns), (held.len(), bus.pattern_count()));
        Ok(())
    }
}

fn sorted(names: Vec<Arc<str>>) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    names.sort_unstable();
    names
}

#[derive(Clone, Copy, Debug)]
enum How {
    ByName,
    With,
    Topic,
}

/// A call. Its subscriber, channel and pattern are chosen from those of the case.
#[derive(Clone, Debug)]
enum Call {
    Subscribe(Index, Index),
    SubscribeMany(Index, Vec<Index>),
    PSubscribe(Index, Index),
    PSubscribeMany(Index, Vec<Index>),
    Unsubscribe(Index, Index),
    PUnsubscribe(Index, Index),
    UnsubscribeAll(Index),
    PUnsubscribeAll(Index),
    /// Drops the subscriber and makes another.
    Replace(Index),
    /// Replaces the subscriber by its `resubscribe`.
    Resubscribe(Index),
    Publish(Index, How),
    DropTopics,
    Check,
}

fn call() -> impl Strategy<Value = Call> {
    let at = any::<Index>;
    let how = select(vec![How::ByName, How::ByName, How::With, How::Topic]);
    prop_oneof![
        6 => (at(), at()).prop_map(|(sub, channel)| Call::Subscribe(sub, channel)),
        1 => (at(), vec(at(), 0..12)).prop_map(|(sub, channels)| Call::SubscribeMany(sub, channels)),
        8 => (at(), at()).prop_map(|(sub, pattern)| Call::PSubscribe(sub, pattern)),
        2 => (at(), vec(at(), 0..12)).prop_map(|(sub, patterns)| Call::PSubscribeMany(sub, patterns)),
        4 => (at(), at()).prop_map(|(sub, channel)| Call::Unsubscribe(sub, channel)),
        6 => (at(), at()).prop_map(|(sub, pattern)| Call::PUnsubscribe(sub, pattern)),
        1 => at().prop_map(Call::UnsubscribeAll),
        1 => at().prop_map(Call::PUnsubscribeAll),
        1 => at().prop_map(Call::Replace),
        1 => at().prop_map(Call::Resubscribe),
        14 => (at(), how).prop_map(|(channel, how)| Call::Publish(channel, how)),
        1 => Just(Call::DropTopics),
        2 => Just(Call::Check),
    ]
}

/// Adds `new` unless it is held.
fn add<T: PartialEq + Clone>(held: &mut Vec<T>, new: &T) {
    if !held.contains(new) {
        held.push(new.clone());
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_bus_agrees_with_a_list_of_subscriptions(
        stripes in 1..4usize,
        dedupe in vec(any::<bool>(), 1..4),
        channels in vec(channel(), 2..10),
        patterns in vec(pattern(), 2..14),
        calls in vec(call(), 1..80),
    ) {
        let mut model = Model::new(stripes, &dedupe);
        for call in calls {
            let subs = &mut model.subs;
            match call {
                Call::Subscribe(sub, channel) => {
                    let (listed, channel) = (sub.get_mut(subs), channel.get(&channels));
                    add(&mut listed.channels, channel);
                    prop_assert_eq!(listed.sub.subscribe(channel), Ok(listed.held()));
                }
                Call::SubscribeMany(sub, names) => {
                    let listed = sub.get_mut(subs);
                    let names: Vec<&String> = names.iter().map(|name| name.get(&channels)).collect();
                    names.iter().for_each(|name| add(&mut listed.channels, name));
                    prop_assert_eq!(listed.sub.subscribe_many(&names), Ok(listed.held()));
                }
                Call::PSubscribe(sub, pattern) => {
                    let (listed, pattern) = (sub.get_mut(subs), pattern.get(&patterns));
                    add(&mut listed.patterns, pattern);
                    prop_assert_eq!(listed.sub.psubscribe(pattern), Ok(listed.held()));
                }
                Call::PSubscribeMany(sub, texts) => {
                    let listed = sub.get_mut(subs);
                    let texts: Vec<&Pattern> = texts.iter().map(|text| text.get(&patterns)).collect();
                    texts.iter().for_each(|text| add(&mut listed.patterns, text));
                    prop_assert_eq!(listed.sub.psubscribe_many(texts), Ok(listed.held()));
                }
                Call::Unsubscribe(sub, channel) => {
                    let (listed, channel) = (sub.get_mut(subs), channel.get(&channels));
                    listed.channels.retain(|held| held != channel);
                    prop_assert_eq!(listed.sub.unsubscribe(channel), listed.held());
                }
                Call::PUnsubscribe(sub, pattern) => {
                    let (listed, pattern) = (sub.get_mut(subs), pattern.get(&patterns));
                    listed.patterns.retain(|held| held != pattern);
                    prop_assert_eq!(listed.sub.punsubscribe(pattern), listed.held());
                }
                Call::UnsubscribeAll(sub) => {
                    let listed = sub.get_mut(subs);
                    listed.channels.clear();
                    prop_assert_eq!(listed.sub.unsubscribe_all(), listed.held());
                }
                Call::PUnsubscribeAll(sub) => {
                    let listed = sub.get_mut(subs);
                    listed.patterns.clear();
                    prop_assert_eq!(listed.sub.punsubscribe_all(), listed.held());
                }
                Call::Replace(sub) => {
                    let listed = sub.get_mut(subs);
                    listed.check()?;
                    *listed = Listed::new(&model.bus, !listed.dedupe);
                }
                Call::Resubscribe(sub) => {
                    let listed = sub.get_mut(subs);
                    listed.check()?;
                    listed.sub = listed.sub.resubscribe().unwrap();
                    listed.received = 0;
                }
                Call::Publish(channel, how) => {
                    let channel: &String = channel.get(&channels);
                    model.publish(channel, how)?;
                }
                Call::DropTopics => model.topics.clear(),
                Call::Check => model.check(&channels, &patterns)?,
            }
        }
        for channel in &channels {
            model.publish(channel, How::ByName)?;
        }
        model.check(&channels, &patterns)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Many patterns at once, which leave the trie in another order than they came.
    #[test]
    fn many_patterns_agree_with_a_list_while_they_come_and_go(
        patterns in vec((pattern(), any::<u32>()), 100..300),
        channels in vec(channel(), 10..30),
    ) {
        let mut patterns: Vec<(Pattern, u32)> = patterns;
        let mut model = Model::new(1, &[false, true]);
        let names: Vec<Pattern> = patterns.iter().take(5).map(|(pattern, _)| pattern.clone()).collect();
        for (at, (pattern, _)) in patterns.iter().enumerate() {
            let listed = &mut model.subs[at % 2];
            add(&mut listed.patterns, pattern);
            prop_assert_eq!(listed.sub.psubscribe(pattern), Ok(listed.held()));
            if at % 16 == 0 {
                model.publish(&channels[at / 16 % channels.len()], How::ByName)?;
            }
        }
        for channel in &channels {
            model.publish(channel, How::ByName)?;
        }
        model.check(&channels, &names)?;
        patterns.sort_by_key(|&(_, order)| order);
        for (at, (pattern, _)) in patterns.iter().enumerate() {
            for listed in &mut model.subs {
                listed.patterns.retain(|held| held != pattern);
                prop_assert_eq!(listed.sub.punsubscribe(pattern), listed.held());
            }
            if at % 16 == 0 {
                model.publish(&channels[at / 16 % channels.len()], How::ByName)?;
            }
            if at % 64 == 0 {
                model.check(&channels, &names)?;
            }
        }
        for channel in &channels {
            model.publish(channel, How::Topic)?;
        }
        model.check(&channels, &names)?;
        prop_assert_eq!(model.bus.pattern_count(), 0);
    }
}

// ---- by example ------------------------------------------------------------------------------------

/// Receives all messages and returns how each matched: `None` for the channel itself, else the pattern.
fn matched_by(sub: &Subscriber<u32>) -> Vec<Option<String>> {
    let mut all = Vec::new();
    loop {
        match sub.try_recv_message() {
            Ok(message) => all.push(message.pattern().map(str::to_owned)),
            Err(TryRecvError::Empty) => return all,
            Err(TryRecvError::Closed) => panic!("closed"),
        }
    }
}

fn names(all: &[&str]) -> Vec<Option<String>> {
    all.iter().map(|name| (!name.is_empty()).then(|| (*name).to_owned())).collect()
}

#[test]
fn each_subscriber_has_its_own_order_of_the_same_patterns() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let (left, right, third) = (bus.subscriber(), bus.subscriber(), bus.subscriber());
    left.psubscribe("a*")?;
    right.psubscribe("*b")?;
    third.psubscribe("?b")?;
    left.psubscribe("*b")?;
    right.psubscribe("a*")?;
    third.psubscribe_many(["*b", "a*"])?;
    left.psubscribe("?b")?;
    right.subscribe("ab")?;
    for _ in 0..2 {
        assert_eq!(bus.publish("ab", 1u32).delivered, 9);
        assert_eq!(matched_by(&left), names(&["a*", "*b", "?b"]));
        assert_eq!(matched_by(&right), names(&["", "*b", "a*"]));
        assert_eq!(matched_by(&third), names(&["?b", "*b", "a*"]));
    }
    // Subscribing again to a held name keeps the order; unsubscribing first changes it.
    left.psubscribe("a*")?;
    right.punsubscribe("*b");
    right.psubscribe("*b")?;
    bus.publish("ab", 2u32);
    assert_eq!(matched_by(&left), names(&["a*", "*b", "?b"]));
    assert_eq!(matched_by(&right), names(&["", "a*", "*b"]));
    assert_eq!(matched_by(&third), names(&["?b", "*b", "a*"]));
    Ok(())
}

#[test]
fn dedupe_delivers_only_the_first_matching_subscription() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let once = || bus.subscriber_builder().dedupe(true);
    let (left, right) = (once().psubscribe("a*")?, once().psubscribe("*b")?);
    let all = bus.psubscribe("a*")?;
    left.psubscribe("*b")?;
    right.psubscribe("a*")?;
    all.psubscribe("*b")?;
    let receipt = bus.publish("ab", 1u32);
    assert_eq!(receipt, Receipt { matched: 4, delivered: 4, dropped: 0 });
    assert_eq!(matched_by(&left), names(&["a*"]));
    assert_eq!(matched_by(&right), names(&["*b"]));
    assert_eq!(matched_by(&all), names(&["a*", "*b"]));
    right.subscribe("ab")?;
    left.punsubscribe("a*");
    assert_eq!(bus.match_count("ab"), 4);
    assert_eq!(bus.publish("ab", 2u32).matched, 4);
    assert_eq!(matched_by(&left), names(&["*b"]));
    assert_eq!(matched_by(&right), names(&[""]));
    Ok(())
}

#[test]
fn a_channel_named_like_a_pattern_is_a_channel() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("a*")?;
    assert_eq!(sub.psubscribe("a*")?, 2);
    assert_eq!(bus.publish("ab", 1u32).matched, 1);
    assert_eq!(matched_by(&sub), names(&["a*"]));
    assert_eq!(bus.publish("a*", 2u32).matched, 2);
    assert_eq!(matched_by(&sub), names(&["", "a*"]));
    assert_eq!(sub.unsubscribe("a*"), 1);
    assert_eq!((sub.channels().len(), sub.patterns().len()), (0, 1));
    Ok(())
}
