//! Patterns: corner cases of Redis's rules, a matcher written straight from these rules, shell globs as
//! `globset` reads them, and the traits of the type.

#![cfg_attr(not(feature = "glob"), allow(unused_imports))]

mod support;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;

use fanout::{Bus, Event, Message, Pattern, PatternError, SubscribeError};
use proptest::prelude::*;
use proptest::sample::select;

// ---- Redis patterns --------------------------------------------------------------------------------

/// Asserts a verdict of the matcher, and of the trie for a name that was never published and for an entry that
/// existed before the pattern.
#[track_caller]
fn assert_verdict(pattern: &Pattern, channel: &str, expected: bool) {
    assert_eq!(pattern.is_match(channel), expected, "{pattern:?} on {channel:?}");
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic(channel);
    topic.publish(0u32);
    let sub = bus.psubscribe(pattern).unwrap();
    assert_eq!(topic.publish(1u32).matched, usize::from(expected), "{pattern:?} on {channel:?}");
    drop(topic);
    drop(sub);
    let _sub = bus.psubscribe(pattern).unwrap();
    assert_eq!(bus.match_count(channel), usize::from(expected), "{pattern:?} on {channel:?}");
    assert_eq!(bus.publish(channel, 2u32).matched, usize::from(expected));
}

/// Pattern, channels that match, channels that do not match.
type Corner = (&'static str, &'static [&'static str], &'static [&'static str]);

const CORNERS: &[Corner] = &[
    // Both ends are anchored; there is no separator; only * ? [ \ have a meaning.
    ("news", &["news"], &["news.uk", "the news", "New", "new", ""]),
    ("user:*", &["user:", "user:1", "user:1:posts", "user:/a.b"], &["user", "xuser:1"]),
    ("*:events", &[":events", "a:b:events"], &["a:events:", "events"]),
    ("a*b*c", &["abc", "a/b.c", "abbcc", "acbc"], &["ab", "acb", "abcd"]),
    ("{a,b}", &["{a,b}"], &["a", "b", "{a}"]),
    ("a,b!", &["a,b!"], &["a", "b"]),
    ("!a", &["!a"], &["b", "a"]),
    // ? matches one byte, and so does a class.
    ("h?llo", &["hallo", "h?llo", "h/llo"], &["héllo", "hllo", "haallo"]),
    ("h??llo", &["héllo", "haallo"], &["hallo", "h€llo"]),
    ("h???llo", &["h€llo"], &["héllo"]),
    ("?", &["a", "*", "/"], &["", "é", "ab"]),
    ("[é][é]", &["é"], &["a", "e"]),
    ("[é]", &[], &["é", "e"]),
    ("caf[^a][^a]", &["café", "cafxy"], &["cafax", "cafx"]),
    ("*é", &["é", "xé", "éé"], &["e", "éx"]),
    // A run of * is one *.
    ("a**b", &["ab", "axb", "a*b"], &["a", "b", "abx"]),
    ("***", &["a", "***"], &[""]),
    ("a*?*b", &["axb", "axxb"], &["ab"]),
    // Escapes.
    ("\\*", &["*"], &["a", "\\*", ""]),
    ("\\a\\b", &["ab"], &["\\a\\b"]),
    ("\\\\", &["\\"], &["\\\\", ""]),
    ("\\[a]", &["[a]"], &["a", "\\a"]),
    ("\\é", &["é"], &["\\é", "e"]),
    ("a\\", &["a\\"], &["a", "a\\\\"]),
    ("\\", &["\\"], &["", "a"]),
    ("*\\", &["\\", "a\\"], &["a", "\\a"]),
    // ^ negates only right after [.
    ("[^a]", &["b", "^", "]"], &["a", "", "bb"]),
    ("[a^]", &["a", "^"], &["b"]),
    ("[^^]", &["a"], &["^"]),
    ("[\\^a]", &["^", "a"], &["b", "\\"]),
    ("[!a]", &["!", "a"], &["b"]),
    // \ plus a byte adds that byte, and never begins a range.
    ("[\\]]", &["]"], &["\\", "a"]),
    ("[\\\\]", &["\\"], &["]", "a"]),
    ("[\\a-c]", &["a", "-", "c"], &["b", "\\"]),
    ("[\\", &["\\"], &["a", ""]),
    ("[a\\", &["a", "\\"], &["b"]),
    ("[\\]", &["]"], &["\\"]),
    // ] closes, even first.
    ("[]", &[], &["", "]", "[", "a", "[]"]),
    ("[]a]", &[], &["a", "]", "a]", "]a]"]),
    ("x[]", &[], &["x", "x]", "xa"]),
    ("[^]", &["a", "]", "^"], &["", "ab", "é"]),
    ("[^]a]", &["xa]", "]a]"], &["a", "x", "a]"]),
    ("[^][^]", &["é", "ab"], &["a"]),
    ("[a]]", &["a]"], &["a", "]"]),
    // The end of the pattern closes.
    ("[", &[], &["", "[", "a"]),
    ("[^", &["a", "["], &["", "ab"]),
    ("[abc", &["a", "b", "c"], &["d", "[abc", "[", "abc"]),
    ("[^abc", &["d", "["], &["a", "dd"]),
    ("x[a-", &["xa", "x-"], &["x", "xb"]),
    ("[a-c", &["a", "b", "c"], &["-", "d"]),
    ("*[a", &["a", "xa"], &["x", "ax"]),
    // a-b is a range where three bytes remain: its end is taken raw, and the ends may be swapped.
    ("[a-c]", &["a", "b", "c"], &["d", "-", "A"]),
    ("[c-a]", &["a", "b", "c"], &["d", "-"]),
    ("[a-a]", &["a"], &["-", "b"]),
    ("[a-]", &["a", "]", "^", "_", "`"], &["-", "b", "\\", "a]"]),
    ("[a-]z", &["a", "]", "z"], &["-", "az", "]z"]),
    ("[a-\\]", &["a", "\\", "]", "^"], &["-", "b", "["]),
    ("[a-\\]]", &["a]", "\\]", "]]"], &["a", "]", "-]"]),
    ("[-a]", &["-", "a"], &["b", "."]),
    ("[--0]", &["-", ".", "/", "0"], &["1", ","]),
    ("[^-z]", &["a", "."], &["-", "z", "^z"]),
    ("[a-c-e]", &["a", "b", "c", "-", "e"], &["d"]),
    ("[+--]", &["+", ",", "-"], &[".", "*"]),
    ("[[-a]", &["[", "\\", "]", "`", "a"], &["b", "-", "Z"]),
    ("[?]", &["?"], &["a"]),
    ("[*]", &["*"], &["a", ""]),
    // Only the empty pattern matches the empty channel.
    ("", &[""], &["a", " "]),
    ("*", &["a", "é", "*", "user:1", " "], &[""]),
    ("*?", &["a", "ab"], &[""]),
    ("*a*", &["a", "bab"], &["", "b"]),
    ("\\*\\?", &["*?"], &["", "*", "ab"]),
];

#[test]
fn redis_patterns_match_as_redis_does_in_corner_cases() {
    for &(text, matching, others) in CORNERS {
        let pattern = Pattern::redis(text);
        for channel in matching {
            assert_verdict(&pattern, channel, true);
        }
        for channel in others {
            assert_verdict(&pattern, channel, false);
        }
    }
}

/// Bytes compare as signed, on every target, as redis-server does on x86-64: `[~-é]`, whose last byte is 0xC3,
/// ranges from -61 to 0x7E. Its own verdicts are in `tests/redis_differential.rs`.
#[test]
fn ranges_compare_bytes_as_signed_numbers() {
    for (text, channel, expected) in [
        ("[~-é]", "~", true),
        ("[~-é]", "a", true),
        ("[~-é][~-é]", "é", true),
        ("[a-é][a-é]", "zz", false),
        ("[a-é][a-é]", "AA", true),
        ("*[é-]", "€", true),
    ] {
        assert_verdict(&Pattern::redis(text), channel, expected);
    }
}

#[test]
fn corner_cases_agree_with_the_rules_as_written() {
    let channels = CORNERS.iter().flat_map(|(_, matching, others)| [*matching, *others].concat());
    let channels: BTreeSet<&str> = channels.collect();
    for (text, ..) in CORNERS {
        for channel in &channels {
            let expected = by_the_rules(text, channel);
            assert_eq!(Pattern::redis(text).is_match(channel), expected, "{text:?} on {channel:?}");
        }
    }
}

#[test]
fn every_string_is_a_redis_pattern() {
    // Long ones too; what they match is bounded in time.
    let many = 5_000;
    for unit in ["*", "?", "[", "]", "\\", "[^", "a*", "*?", "[]", "[a-", "{", "é", "\0", "**/"] {
        let text = unit.repeat(many);
        let pattern = Pattern::redis(&text);
        assert_eq!(pattern.as_str(), text);
        pattern.is_match(&"a".repeat(100));
        let bus: Bus<u32> = Bus::new();
        let sub = bus.psubscribe(&pattern).unwrap();
        assert_eq!(sub.patterns(), [pattern]);
        bus.publish(&"a".repeat(100), 1u32);
    }
}

#[test]
fn a_pattern_without_wildcards_is_still_a_pattern() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.psubscribe("news")?;
    assert_eq!((bus.subscriber_count("news"), bus.match_count("news")), (0, 1));
    assert_eq!((bus.pattern_count(), bus.channels().len()), (1, 0));
    bus.publish("news", 1u32);
    assert_eq!(sub.recv()?, Event::PSubscribe { pattern: "news".into(), count: 1 });
    let Event::PMessage(message) = sub.recv()? else { panic!("no PMessage") };
    assert_eq!((message.channel(), message.pattern()), ("news", Some("news")));
    // As written, not as understood.
    let sub = bus.psubscribe("n\\ew**")?;
    bus.publish("news", 2u32);
    let message = sub.recv_message()?;
    assert_eq!((message.channel(), message.pattern()), ("news", Some("n\\ew**")));
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn equal_text_in_two_dialects_is_two_patterns() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber();
    assert_eq!(sub.psubscribe("a/*")?, 1);
    assert_eq!(sub.psubscribe(Pattern::glob("a/*")?)?, 2);
    assert_eq!(bus.pattern_count(), 2);
    assert_eq!(sub.patterns(), [Pattern::redis("a/*"), Pattern::glob("a/*")?]);
    assert_eq!(bus.publish("a/b", 1u32).matched, 2);
    assert_eq!(bus.publish("a/b/c", 2u32).matched, 1);
    assert_eq!(sub.punsubscribe("a/*"), 1);
    assert_eq!(sub.patterns(), [Pattern::glob("a/*")?]);
    assert_eq!(bus.publish("a/b", 3u32).matched, 1);
    assert_eq!(bus.publish("a/b/c", 4u32).matched, 0);
    assert_eq!(sub.punsubscribe(Pattern::glob("a/*")?), 0);
    assert_eq!(bus.pattern_count(), 0);
    Ok(())
}

/// The contract's rules for Redis patterns, one after another.
fn by_the_rules(pattern: &str, channel: &str) -> bool {
    if channel.is_empty() {
        pattern.is_empty()
    } else {
        rules(pattern.as_bytes(), channel.as_bytes())
    }
}

fn rules(pattern: &[u8], channel: &[u8]) -> bool {
    let one_byte = |matches: bool, rest| matches && rules(rest, &channel[1..]);
    match pattern {
        [] => channel.is_empty(),
        [b'*', rest @ ..] => (0..=channel.len()).any(|at| rules(rest, &channel[at..])),
        [b'?', rest @ ..] => one_byte(!channel.is_empty(), rest),
        [b'[', class @ ..] => {
            let (members, rest) = class_by_the_rules(class);
            one_byte(channel.first().is_some_and(|&byte| members[usize::from(byte)]), rest)
        }
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
            one_byte(channel.first() == Some(byte), rest)
        }
    }
}

/// A class, given from behind its `[`: its members, and what follows it.
fn class_by_the_rules(class: &[u8]) -> ([bool; 256], &[u8]) {
    let (negated, mut left) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut members = [negated; 256];
    let mut add = |byte: u8| members[usize::from(byte)] = !negated;
    loop {
        left = match left {
            [b'\\', byte, rest @ ..] => {
                add(*byte);
                rest
            }
            [b']', rest @ ..] => return (members, rest),
            [] => return (members, left),
            [from, b'-', to, rest @ ..] => {
                // Signed, on every target, like redis-server on x86-64.
                let [from, to] = [*from, *to].map(|byte| byte as i8);
                (from.min(to)..=from.max(to)).for_each(|byte| add(byte as u8));
                rest
            }
            [byte, rest @ ..] => {
                add(*byte);
                rest
            }
        };
    }
}

/// Short texts of pattern characters, few letters, and letters of two and three bytes.
fn pattern_text() -> impl Strategy<Value = String> {
    let pieces = select(vec![
        "*", "*", "?", "?", "[", "[^", "]", "]", "-", "^", "\\", "a", "a", "b", "c", "é", "€",
        "[a", "[ab]", "[^a]", "[a-c]", "a-c", "\\]", ",", "!", "{",
    ]);
    prop::collection::vec(pieces, 0..9).prop_map(|pieces| pieces.concat())
}

fn channel_text() -> impl Strategy<Value = String> {
    let pieces =
        select(vec!["a", "a", "a", "b", "b", "c", "é", "€", "]", "-", "^", "\\", "*", "["]);
    prop::collection::vec(pieces, 0..7).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(support::cases(1_000))]

    #[test]
    fn the_matcher_agrees_with_the_rules_as_written(
        pattern in pattern_text(),
        channels in prop::collection::vec(channel_text(), 8),
    ) {
        let compiled = Pattern::redis(&pattern);
        for channel in channels {
            let expected = by_the_rules(&pattern, &channel);
            prop_assert_eq!(compiled.is_match(&channel), expected, "{:?} on {:?}", pattern, channel);
        }
    }

    #[test]
    fn an_escaped_text_matches_only_itself(
        text in pattern_text(),
        others in prop::collection::vec(pattern_text(), 4),
        change in any::<(prop::sample::Index, char)>(),
    ) {
        let escaped = Pattern::redis(&Pattern::escape(&text));
        prop_assert!(escaped.is_match(&text), "{:?} as {:?}", text, escaped);
        let (at, letter) = change;
        let boundaries: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
        let at = boundaries[at.index(boundaries.len())];
        let mut near = vec![text[..at].to_owned(), text[at..].to_owned(), text.replace('\\', "")];
        for letter in [letter, '\\', '*', 'a'] {
            near.push(format!("{}{letter}{}", &text[..at], &text[at..]));
        }
        near.push(Pattern::escape(&text));
        for other in others.into_iter().chain(near).filter(|other| *other != text) {
            prop_assert!(!escaped.is_match(&other), "{:?} as {:?} on {:?}", text, escaped, other);
        }
        // As a part of a longer pattern, too.
        let within = format!("x:{}:*", Pattern::escape(&text));
        let channel = format!("x:{text}:y");
        prop_assert!(Pattern::redis(&within).is_match(&channel));
    }
}

// ---- shell globs -----------------------------------------------------------------------------------

#[cfg(feature = "glob")]
#[test]
fn globs_match_as_documented() -> Result<(), PatternError> {
    const GLOBS: &[Corner] = &[
        ("sensors/*/temp", &["sensors/a/temp"], &["sensors/a/b/temp", "sensors/temp"]),
        ("a?c", &["abc", "a.c"], &["a/c", "ac"]),
        ("sensors/**", &["sensors/a", "sensors/a/b"], &["sensor/a", "xsensors/a"]),
        ("**/temp", &["temp", "a/temp", "a/b/temp"], &["a/temps", "atemp"]),
        ("sensors/**/temp", &["sensors/temp", "sensors/a/b/temp"], &["sensors/a", "sensorstemp"]),
        ("{temp,hum}", &["temp", "hum"], &["{temp,hum}", "temphum", "t"]),
        (
            "sensors/**/{temp,hum}",
            &["sensors/temp", "sensors/eu/attic/hum"],
            &["sensors/eu/x", "sensors/eu/temp/x"],
        ),
        ("x{a,b*}y", &["xay", "xby", "xbcy"], &["xy", "xb/y", "xacy"]),
        ("[ab]", &["a", "b"], &["c", "ab", ""]),
        ("[!a]", &["b", "!"], &["a", ""]),
        ("[^a]", &["b"], &["a"]),
        ("[a-c]x", &["ax", "cx"], &["dx", "-x"]),
        ("\\*", &["*"], &["a", "\\*"]),
        ("a\\?", &["a?"], &["ab"]),
        ("news", &["news"], &["new", "news/a", "a/news"]),
        ("", &[""], &["a"]),
    ];
    for &(text, matching, others) in GLOBS {
        let pattern = Pattern::glob(text)?;
        for channel in matching {
            assert_verdict(&pattern, channel, true);
        }
        for channel in others {
            assert_verdict(&pattern, channel, false);
        }
    }
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn a_glob_error_names_the_pattern_and_the_offset() {
    for (text, offset) in [
        ("ab[c", 2),
        ("a{b,c", 1),
        ("a}b", 1),
        ("abc\\", 3),
        ("[z-a]", 1),
        ("é/[b-a]", 4),
        ("{a}{", 3),
    ] {
        let error = Pattern::glob(text).expect_err(text);
        assert_eq!((error.pattern(), error.offset()), (text, Some(offset)), "{error}");
        let shown = error.to_string();
        assert!(shown.contains(&format!("{text:?}")), "{shown}");
        assert!(shown.contains(&offset.to_string()), "{shown}");
        // It behaves like other errors.
        assert_eq!(error.clone(), error);
        let wrapped = SubscribeError::from(error.clone());
        assert_eq!(wrapped, SubscribeError::Pattern(error.clone()));
        assert!(wrapped.source().is_some_and(|source| source.to_string() == shown));
        // The text of the source is not repeated: a report of the error chain prints both.
        assert_eq!(wrapped.to_string(), "invalid pattern");
    }
}

#[cfg(feature = "glob")]
fn glob_text() -> impl Strategy<Value = String> {
    let pieces = select(vec![
        "*", "?", "**", "/**/", "**/", "/**", "/", "/", "a", "a", "b", "é", "{a,b}", "{a,", "}",
        ",", "{", "[ab]", "[!a]", "[^b]", "[a-é]", "\\*", "\\", "]", "!", "{a*,b/}", "{,a}", "{}",
        "[]",
    ]);
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

#[cfg(feature = "glob")]
fn path_text() -> impl Strategy<Value = String> {
    let pieces = select(vec!["a", "a", "b", "/", "/", "é", "*", "}", ","]);
    prop::collection::vec(pieces, 0..7).prop_map(|pieces| pieces.concat())
}

#[cfg(feature = "glob")]
proptest! {
    #![proptest_config(support::cases(300))]

    #[test]
    fn globs_agree_with_globset(
        text in glob_text(),
        channels in prop::collection::vec(path_text(), 8),
    ) {
        let reference = globset::GlobBuilder::new(&text).literal_separator(true).build();
        match (Pattern::glob(&text), reference) {
            (Ok(pattern), Ok(reference)) => {
                let reference = reference.compile_matcher();
                let bus: Bus<u32> = Bus::builder().stripes(1).build();
                let _sub = bus.psubscribe(&pattern).unwrap();
                for channel in channels {
                    let expected = reference.is_match(&channel);
                    prop_assert_eq!(pattern.is_match(&channel), expected, "{:?} on {:?}", text, channel);
                    let matched = bus.match_count(&channel);
                    prop_assert_eq!(matched, usize::from(expected), "{:?} on {:?}", text, channel);
                }
            }
            (Err(error), Err(_)) => {
                prop_assert_eq!(error.pattern(), &text);
                if let Some(offset) = error.offset() {
                    prop_assert!(text.is_char_boundary(offset), "{}", error);
                }
            }
            (ours, theirs) => prop_assert!(false, "{:?}: {:?} but {:?}", text, ours, theirs),
        }
    }
}

// ---- the type --------------------------------------------------------------------------------------

#[cfg(feature = "glob")]
#[test]
#[allow(clippy::mutable_key_type)] // A glob's regex has a cache inside; dialect and text have not.
fn patterns_are_equal_when_dialect_and_text_are() -> Result<(), PatternError> {
    let (redis, glob) = (Pattern::redis("a*"), Pattern::glob("a*")?);
    assert_eq!(redis, Pattern::redis("a*"));
    assert_eq!(glob, Pattern::glob("a*")?);
    assert_ne!(redis, glob);
    // These match the same, but their texts differ.
    assert_ne!(Pattern::redis("a*"), Pattern::redis("a**"));
    assert_ne!(Pattern::redis("a"), Pattern::redis("\\a"));

    let mut names = HashMap::new();
    names.insert(redis.clone(), "redis");
    names.insert(glob.clone(), "glob");
    assert_eq!(names.insert(Pattern::redis("a*"), "again"), Some("redis"));
    assert_eq!(names.len(), 2);
    assert_eq!(names[&Pattern::glob("a*")?], "glob");

    let all = [
        Pattern::glob("a*")?,
        Pattern::redis("b"),
        Pattern::redis("a*"),
        Pattern::glob("b")?,
        Pattern::redis("a*"),
    ];
    let sorted: BTreeSet<Pattern> = all.iter().cloned().collect();
    let distinct: HashSet<Pattern> = all.iter().cloned().collect();
    assert_eq!((sorted.len(), distinct.len()), (4, 4));
    // Patterns of one dialect are ordered by text, and the order agrees with equality.
    assert!(Pattern::redis("a") < Pattern::redis("b"));
    assert!(Pattern::glob("a")? < Pattern::glob("b")?);
    for left in &all {
        for right in &all {
            assert_eq!(left == right, left.cmp(right).is_eq());
            assert_eq!(left.cmp(right), right.cmp(left).reverse());
            assert_eq!(left.partial_cmp(right), Some(left.cmp(right)));
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_string_becomes_a_redis_pattern() {
    let expected = Pattern::redis("us[e]r:*");
    let text = "us[e]r:*";
    let string = text.to_owned();
    let shared: Arc<str> = Arc::from(text);
    let all = [
        Pattern::from(text),
        Pattern::from(string.clone()),
        Pattern::from(&string),
        Pattern::from(Arc::clone(&shared)),
        Pattern::from(&shared),
        Pattern::from(Cow::Borrowed(text)),
        Pattern::from(Cow::<str>::Owned(string.clone())),
        Pattern::from(&expected),
        expected.clone(),
        text.parse::<Pattern>().unwrap(),
    ];
    for pattern in &all {
        assert_eq!(*pattern, expected);
        assert_eq!(pattern.as_str(), text);
        assert!(pattern.is_match("user:1"));
    }
    let parsed: Result<Pattern, Infallible> = Pattern::from_str("[");
    assert_eq!(parsed, Ok(Pattern::redis("[")));

    // Every type that converts into a pattern can be subscribed.
    let bus: Bus<u32> = Bus::new();
    let sub = bus.psubscribe(text).unwrap();
    for held in [
        sub.psubscribe(text),
        sub.psubscribe(string.clone()),
        sub.psubscribe(&string),
        sub.psubscribe(Arc::clone(&shared)),
        sub.psubscribe(&shared),
        sub.psubscribe(Cow::Borrowed(text)),
        sub.psubscribe(&expected),
        sub.psubscribe(expected.clone()),
        sub.psubscribe_many([text]),
        sub.psubscribe_many([&string]),
        sub.psubscribe_many(&all),
    ] {
        assert_eq!(held, Ok(1));
    }
    assert_eq!(sub.punsubscribe(&shared), 0);
}

#[cfg(feature = "glob")]
#[test]
fn converting_a_glob_keeps_its_dialect() -> Result<(), PatternError> {
    let glob = Pattern::glob("a/*")?;
    assert_eq!(Pattern::from(&glob), glob);
    assert!(!Pattern::from(&glob).is_match("a/b/c"));
    Ok(())
}

#[cfg(feature = "glob")]
#[test]
fn display_and_debug_show_the_text_of_a_pattern() -> Result<(), PatternError> {
    for text in ["", "a*", "[^a]\\", "é/{x}"] {
        for pattern in [Pattern::redis(text), Pattern::glob(&text.replace('\\', ""))?] {
            let reference: &str = pattern.as_ref();
            assert_eq!(reference, pattern.as_str());
            assert_eq!(pattern.to_string(), pattern.as_str());
            assert!(format!("{pattern:?}").contains(&format!("{:?}", pattern.as_str())));
        }
    }
    assert_eq!(format!("{:>4}|{:<4}|", Pattern::redis("a*"), Pattern::redis("b")), "  a*|b   |");
    assert_ne!(format!("{:?}", Pattern::redis("a")), format!("{:?}", Pattern::glob("a")?));
    Ok(())
}

#[test]
fn escape_changes_only_special_characters() {
    assert_eq!(Pattern::escape(""), "");
    assert_eq!(Pattern::escape("user:42/é{a,b}!^-"), "user:42/é{a,b}!^-");
    assert_eq!(Pattern::escape("*?[\\"), "\\*\\?\\[\\\\");
}

/// The first cell of a row in the documentation's table of pattern syntax, and an example of it: a pattern, a channel
/// that matches and one that does not.
#[cfg(feature = "glob")]
type Shown = (&'static str, [&'static str; 3]);

#[cfg(feature = "glob")]
#[test]
fn every_row_of_the_table_of_dialects_is_true() {
    const REDIS: [Shown; 9] = [
        ("any run of bytes", ["sensors/*/temp", "sensors/eu/attic/temp", "sensors/temp"]),
        ("one byte (`é` is two)", ["level/?", "level//", "level/12"]),
        ("one byte (`é` is two)", ["h??llo", "héllo", "hello"]),
        ("one byte of a class", ["[abc][a-f]", "be", "bg"]),
        ("one byte outside a class", ["[^abc]", "!", "a"]),
        ("one byte outside a class", ["[^abc]", "/", "c"]),
        ("one byte outside a class", ["[!abc]", "!", "d"]),
        ("the character itself", ["\\*x", "*x", "ax"]),
        ("a choice", ["{temp,hum}", "{temp,hum}", "hum"]),
    ];
    const SHELL: [Shown; 14] = [
        ("any run of bytes", ["sensors/*/temp", "sensors/eu/temp", "sensors/eu/attic/temp"]),
        ("any run of bytes", ["sensors/**/temp", "sensors/eu/attic/temp", "sensors/eu/hum"]),
        ("any run of bytes", ["a**b", "axxb", "a/b"]),
        ("one byte (`é` is two)", ["level/?", "level/1", "level//"]),
        ("any run of bytes", ["sensors/**/temp", "sensors/temp", "sensors/x"]),
        ("one byte of a class", ["[abc][a-f]", "be", "bg"]),
        ("one byte of a class", ["x[.-0]y", "x.y", "x/y"]),
        ("one byte outside a class", ["[!abc]", "d", "a"]),
        ("one byte outside a class", ["[^abc]", "d", "a"]),
        ("one byte outside a class", ["x[!a]y", "xby", "x/y"]),
        ("the empty channel", ["*", "", "a/b"]),
        ("a choice", ["{temp,hum}", "hum", "{temp,hum}"]),
        ("the character itself", ["\\*x", "*x", "ax"]),
        ("a choice", ["{a,b}/x", "b/x", "c/x"]),
    ];
    let parsed = REDIS.iter().map(|&(_, [text, ..])| Pattern::redis(text));
    let globs = SHELL.iter().map(|&(_, [text, ..])| Pattern::glob(text).unwrap());
    for (pattern, (row, [_, matching, other])) in
        parsed.chain(globs).zip(REDIS.iter().chain(&SHELL))
    {
        assert!(pattern.is_match(matching), "{row}: {pattern:?} on {matching}");
        assert!(!pattern.is_match(other), "{row}: {pattern:?} on {other}");
    }
    // The statements below the table.
    for pattern in [Pattern::redis("game:*:events"), Pattern::glob("game:*:events").unwrap()] {
        assert!(pattern.is_match("game:7:x:events"), "{pattern:?}");
    }
    assert!(Pattern::redis("").is_match("") && !Pattern::redis("*").is_match(""));
    assert!(Pattern::glob("**").unwrap().is_match(""));
    assert_ne!(Pattern::redis("sensors/*"), Pattern::glob("sensors/*").unwrap());
    // The row "a text that does not parse".
    assert_eq!(Pattern::glob("a[b").unwrap_err().offset(), Some(1));

    let docs = include_str!("../src/docs/patterns.md");
    let table = docs.split("| | Redis glob: any `&str` |").nth(1).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').nth(1).unwrap().trim())
        .collect();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let shown = SHELL.iter().any(|(shown, _)| *shown == row);
        assert!(shown || row == "a text that does not parse", "a row that nothing shows: {row}");
    }
}

#[cfg(feature = "glob")]
#[test]
fn matched_by_distinguishes_two_dialects_of_one_text() -> Result<(), Box<dyn Error>> {
    let bus: Bus<u32> = Bus::new();
    let (redis, glob) = (Pattern::redis("a/*"), Pattern::glob("a/*")?);
    let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("a/b")?;
    sub.psubscribe(&glob)?;
    sub.psubscribe(&redis)?;
    // By name and by topic; the name is new at first, and has been published to later.
    let topic = bus.topic("a/b");
    for _ in 0..3 {
        for publish in
            [&|| bus.publish("a/b", 1_u32), &|| topic.publish(1_u32)] as [&dyn Fn() -> _; 2]
        {
            assert_eq!(publish().delivered, 3);
            let matched: Vec<_> =
                sub.try_messages().map(|message| message.matched_by().cloned()).collect();
            assert_eq!(matched, [None, Some(glob.clone()), Some(redis.clone())]);
        }
    }
    bus.publish("a/c/d", 1_u32);
    assert_eq!(sub.recv_message()?.matched_by(), Some(&redis), "`/` is no separator to it");
    sub.punsubscribe(&redis);
    bus.publish("a/e", 1_u32);
    let message = sub.recv_message()?;
    assert_eq!((message.matched_by(), message.pattern()), (Some(&glob), Some("a/*")));
    // A message made by hand: the dialect takes part in the comparison.
    let made = Message::new("a/e", 1).with_pattern(&glob);
    assert_eq!(made, message);
    assert_ne!(Message::new("a/e", 1).with_pattern("a/*"), message);
    Ok(())
}

#[test]
#[allow(clippy::needless_borrows_for_generic_args, clippy::useless_format)] // They are what is tested.
fn every_text_type_accepted_as_a_channel_is_accepted_as_a_pattern() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber();
    let (string, boxed, shared): (String, Box<str>, Arc<str>) =
        ("a*".into(), "a*".into(), "a*".into());
    let cow = Cow::Borrowed("a*");
    for text in &["a*", "a*"] {
        assert_eq!(sub.psubscribe(text), Ok(1));
    }
    assert_eq!(sub.psubscribe_many(&["a*", "a*"]), Ok(1));
    assert_eq!(sub.psubscribe_many([&string, &string]), Ok(1));
    assert_eq!((sub.psubscribe(&boxed), sub.psubscribe(boxed)), (Ok(1), Ok(1)));
    assert_eq!((sub.psubscribe(&cow), sub.psubscribe(cow)), (Ok(1), Ok(1)));
    assert_eq!((sub.psubscribe(&shared), sub.psubscribe(shared)), (Ok(1), Ok(1)));
    assert_eq!(sub.psubscribe(format!("{string}")), Ok(1));
    assert_eq!(bus.pattern_count(), 1);
}
