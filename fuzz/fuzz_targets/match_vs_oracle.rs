//! The matcher and the trie against a naive oracle, and against `globset` where the two dialects agree.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use fanout::{Bus, Pattern};
use globset::GlobBuilder;
use libfuzzer_sys::fuzz_target;

/// Texts over few characters, so that patterns match: bytes of the input choose among them.
const CHARACTERS: &[char] =
    &['a', 'b', 'c', '*', '*', '?', '[', ']', '^', '-', '\\', 'é', '€', ':', 'a', 'b'];

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
        let patterns = (0..count).map(|_| text(input, 10)).collect::<Result<_>>()?;
        Ok(Self { patterns, channel })
    }
}

/// The rules as they are written down, by recursion.
fn oracle(pattern: &[u8], channel: &[u8]) -> bool {
    match (pattern, channel) {
        ([], rest) => rest.is_empty(),
        ([b'*', more @ ..], rest) => {
            oracle(more, rest) || matches!(rest, [_, less @ ..] if oracle(pattern, less))
        }
        (_, []) => false,
        ([b'?', more @ ..], [_, rest @ ..]) => oracle(more, rest),
        ([b'[', more @ ..], [byte, rest @ ..]) => {
            let (hit, more) = class(more, *byte);
            hit && oracle(more, rest)
        }
        ([b'\\', literal, more @ ..] | [literal, more @ ..], [byte, rest @ ..]) => {
            literal == byte && oracle(more, rest)
        }
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
        .map(|pattern| (pattern, bus.psubscribe(pattern).unwrap()))
        .collect();
    loop {
        let matching =
            crowd.iter().filter(|(pattern, _)| expected(pattern, &channel)).count();
        assert_eq!(bus.match_count(&channel), matching);
        assert_eq!(bus.publish(&channel, ()).matched, matching);
        for (pattern, sub) in &crowd {
            let says = expected(pattern, &channel);
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
