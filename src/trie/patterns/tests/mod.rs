//! Tests of pattern trees: helpers, and the trie as a whole against a linear scan.

mod literals;
mod tree;
mod walk;

use std::cell::Cell;

use foldhash::fast::RandomState;

use super::tree::{Entry, PatternTree};
use crate::pattern::Pattern;
use crate::pattern::program::Steps;

type Tree = PatternTree<Pattern>;

thread_local! {
    /// The bits of a literal's hash that count. Tests clear most of them, so that literals collide.
    pub(super) static HASH_MASK: Cell<u32> = const { Cell::new(u32::MAX) };
}

impl Entry for Pattern {
    fn program(&self) -> &[u8] {
        Pattern::program(self)
    }

    fn text_len(&self) -> usize {
        self.as_str().len()
    }
}

fn tree_of(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Tree {
    let mut tree = Tree::new(RandomState::default());
    for pattern in patterns {
        let pattern = Pattern::redis(pattern.as_ref());
        tree.insert(&pattern, &pattern);
    }
    tree
}

fn remove(tree: &mut Tree, pattern: &str) -> Option<Pattern> {
    let pattern = Pattern::redis(pattern);
    tree.remove(&pattern, |other| *other == pattern)
}

/// Returns the patterns that match, sorted, and the steps taken, including those of confirming.
fn matches(tree: &Tree, channel: &str) -> (Vec<String>, usize) {
    let mut found = Vec::new();
    let mut confirming = Steps::default();
    let steps = tree.matches(channel.as_bytes(), |pattern, unconfirmed| {
        if !unconfirmed || pattern.is_match_counting(channel, &mut confirming) {
            found.push(pattern.as_str().to_owned());
        }
    });
    found.sort();
    (found, steps + confirming.count())
}

/// Returns what [`matches`] must find, by asking each of `patterns`.
fn scan<'a>(patterns: &'a [impl AsRef<str>], channel: &str) -> Vec<&'a str> {
    let mut expected: Vec<&str> = patterns
        .iter()
        .map(AsRef::as_ref)
        .filter(|text| Pattern::redis(text).is_match(channel))
        .collect();
    expected.sort_unstable();
    expected
}

/// Returns the maximum number of steps of a walk, as the documentation of `walk` promises: one visit for each node and
/// position, with each byte of a literal counted as a node.
fn bound(patterns: &[String], channel: &str) -> usize {
    let nodes: usize = patterns.iter().map(|pattern| pattern.len() + 1).sum();
    2 * (nodes + 1) * (channel.len() + 1)
}

/// Units of long patterns, each with a text that it matches.
const UNITS: [(&str, &str); 9] = [
    ("a?", "ab"),
    ("?*", "a"),
    ("[ab]", "b"),
    ("a*", "ab"),
    ("*[ac]", "bc"),
    ("ab", "ab"),
    ("?", "c"),
    ("[]", "a"),
    ("\\a", "a"),
];

proptest::proptest! {
    /// The tree finds what asking each pattern finds, whatever patterns came and went before.
    #[test]
    fn agrees_with_a_linear_scan(
        patterns in proptest::collection::vec("[ab*?\\[\\]^\\\\-]{0,7}", 1..40),
        literals in proptest::collection::vec("[*?]{0,1}[abc]{1,4}([*?]|[*][abc]|\\[ab\\]c?){0,2}", 0..60),
        long in proptest::collection::vec((0..UNITS.len(), 0..3_usize, "[abc*?]{0,2}"), 0..12),
        repeats in proptest::sample::select(vec![3_usize, 12, 31, 33, 130]),
        removed in proptest::collection::vec(proptest::num::u32::ANY, 112),
        channels in proptest::collection::vec("[abc\\]^-]{0,9}", 8),
        hash_mask in proptest::sample::select(vec![0, 1, 3, 7, 31, 0x8000_0001, u32::MAX]),
    ) {
        HASH_MASK.set(hash_mask);
        let (mut patterns, mut channels) = (patterns, channels);
        patterns.extend(literals);
        // Many share a long beginning, and reach the maximum depth at the same branch or near it.
        for (unit, more, end) in long {
            let (pattern, literal) = UNITS[unit];
            patterns.push(pattern.repeat(repeats + more) + &end);
            channels.push(literal.repeat(repeats + more) + &end.replace(['*', '?'], "b"));
        }
        patterns.sort();
        patterns.dedup();
        let mut tree = tree_of(&patterns);
        let mut order: Vec<(u32, String)> = removed.into_iter().zip(patterns).collect();
        order.sort();
        let half = order.len() / 2;
        for (at, (_, pattern)) in order.iter().enumerate() {
            if at == 0 || at == half {
                let kept: Vec<String> =
                    order[at..].iter().map(|(_, pattern)| pattern.clone()).collect();
                for channel in &channels {
                    let (found, steps) = matches(&tree, channel);
                    proptest::prop_assert_eq!(found, scan(&kept, channel));
                    proptest::prop_assert!(steps <= bound(&kept, channel));
                }
            }
            proptest::prop_assert!(remove(&mut tree, pattern).is_some());
        }
        proptest::prop_assert!(tree.is_empty() && tree.root.rare.is_none());
    }
}
