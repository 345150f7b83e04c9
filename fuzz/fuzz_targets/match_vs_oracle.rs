//! The matcher and the trie against a naive oracle, and against `globset` where the two dialects agree.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use fanout::{Bus, Pattern};
use globset::GlobBuilder;
use libfuzzer_sys::fuzz_target;

/// Texts over few characters, so that patterns match: bytes of the input choose among them.
const CHARACTERS: &[char] =
    &['a', 'b', 'c', '*', '*', '?', '[', ']', '^', '-', '\\', 'é', '€', ':', 'a', 'b'];

/// What long patterns are made of, each with a text that it matches.
const UNITS: &[(&str, &str)] = &[
    ("a?", "ab"),
    ("?*", "a"),
    ("*a", "ba"),
    ("*[ab]", "b"),
    ("[^a]", "b"),
    ("[]", "a"),
    ("\\a", "a"),
    ("abc", "abc"),
    ("a*b?", "acbc"),
];

#[derive(Debug)]
struct Case {
    patterns: Vec<String>,
    channel: String,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let text = |input: &mut Unstructured<'a>, most: usize| -> Result<String> {
            let length = input.int_in_range(0..=most)?;
            (0..length).map(|_| Ok(*input.choose(CHARACTERS)?)).collect()
        };
        let channel = text(input, 12)?;
        let count = input.int_in_range(1..=12)?;
        let mut patterns: Vec<String> = (0..count).map(|_| text(input, 10)).collect::<Result<_>>()?;
        if !input.arbitrary()? {
            return Ok(Self { patterns, channel });
        }
        // Long ones that share a beginning of many steps, and a channel that begins like them.
        let (unit, literal) = *input.choose(UNITS)?;
        let times = input.int_in_range(1..=80)?;
        for pattern in &mut patterns {
            if input.arbitrary()? {
                *pattern = unit.repeat(times) + pattern;
            }
        }
        let times = times + input.int_in_range(0..=1)?;
        Ok(Self { patterns, channel: literal.repeat(times) + &channel })
    }
}

/// The rules as they are written down: which numbers of bytes of the channel each beginning of the pattern matches.
fn oracle(mut pattern: &[u8], channel: &[u8]) -> bool {
    let mut matched = vec![false; channel.len() + 1];
    matched[0] = true;
    loop {
        let (from, rest) = match pattern {
            [] => return matched[channel.len()],
            [b'*', rest @ ..] => {
                let first = matched.iter().position(|&matched| matched);
                matched[first.unwrap_or(channel.len() + 1)..].fill(true);
                pattern = rest;
                continue;
            }
            [b'[', rest @ ..] => (rest, class(rest, 0).1),
            [b'\\', _, rest @ ..] | [_, rest @ ..] => (pattern, rest),
        };
        let is_one = |byte: u8| match pattern {
            [b'?', ..] => true,
            [b'[', ..] => class(from, byte).0,
            [b'\\', literal, ..] | [literal, ..] => *literal == byte,
            [] => false,
        };
        for at in (0..channel.len()).rev() {
            matched[at + 1] = matched[at] && is_one(channel[at]);
        }
        matched[0] = false;
        pattern = rest;
    }
}

/// Whether a class, given from behind its `[`, has `byte`; and what follows the class.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut hit = false;
    loop {
        rest = match rest {
            [b'\\', literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => return (hit != negated, rest),
            [] => return (hit != negated, rest),
            [from, b'-', to, rest @ ..] => {
                let [from, to, byte] = [*from, *to, byte].map(|byte| byte as i8);
                hit |= from.min(to) <= byte && byte <= from.max(to);
                rest
            }
            [literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
        };
    }
}

fn expected(pattern: &str, channel: &str) -> bool {
    match channel {
        "" => pattern.is_empty(),
        _ => oracle(pattern.as_bytes(), channel.as_bytes()),
    }
}

fuzz_target!(|case: Case| {
    let Case { patterns, channel } = case;
    let bus: Bus<()> = Bus::builder().capacity(2).stripes(1).build();
    let mut crowd: Vec<_> = patterns
        .iter()
        .map(|pattern| (pattern, expected(pattern, &channel), bus.psubscribe(pattern).unwrap()))
        .collect();
    loop {
        let matching = crowd.iter().filter(|(_, says, _)| *says).count();
        assert_eq!(bus.match_count(&channel), matching);
        assert_eq!(bus.publish(&channel, ()).matched, matching);
        for &(pattern, says, ref sub) in &crowd {
            assert_eq!(Pattern::redis(pattern).is_match(&channel), says, "{pattern:?}");
            assert_eq!(sub.try_recv_message().is_ok(), says, "{pattern:?} through the trie");
        }
        // Again with one of them gone.
        if crowd.pop().is_none() {
            break;
        }
    }
    assert_eq!(bus.pattern_count(), 0);

    for pattern in &patterns {
        // In these the dialects agree, on channels that have a byte and no separator. (`**` is one `*`
        // here, and levels there.)
        let plain = pattern.bytes().all(|byte| byte.is_ascii_alphabetic() || b":*?".contains(&byte));
        if plain && !pattern.contains("**") && !channel.is_empty() {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build().unwrap();
            let says = glob.compile_matcher().is_match(&channel);
            assert_eq!(Pattern::redis(pattern).is_match(&channel), says, "{pattern:?}");
            assert_eq!(Pattern::glob(pattern).unwrap().is_match(&channel), says, "{pattern:?}");
        }
    }
});
