//! The pattern tree alone, with its steps counted, for the fuzz targets.

use super::patterns::tree::{Entry, PatternTree};
use crate::pattern::Pattern;
use crate::pattern::program::Steps;

/// A pattern, and which it is.
#[derive(Clone)]
struct Numbered(usize, Pattern);

impl Entry for Numbered {
    fn program(&self) -> &[u8] {
        self.1.program()
    }

    fn text_len(&self) -> usize {
        self.1.as_str().len()
    }
}

/// Returns which of the Redis globs match `channel`, and how many steps that took.
pub fn matches(patterns: &[&str], channel: &str) -> (Vec<bool>, usize) {
    let mut tree = PatternTree::new(Default::default());
    for (at, text) in patterns.iter().enumerate() {
        let pattern = Pattern::redis(text);
        tree.insert(&pattern, &Numbered(at, pattern.clone()));
    }
    let mut matched = vec![false; patterns.len()];
    let mut confirming = Steps::default();
    let steps = tree.matches(channel.as_bytes(), |end, unconfirmed| {
        assert!(!matched[end.0], "found twice");
        matched[end.0] = !unconfirmed || end.1.is_match_counting(channel, &mut confirming);
    });
    (matched, steps + confirming.count())
}

/// Returns `true` if `glob` matches `channel`, and `true` if the tree finds it by its literal prefix.
pub fn finds_glob(glob: &Pattern, channel: &str) -> (bool, bool) {
    let mut tree = PatternTree::new(Default::default());
    tree.insert(glob, &Numbered(0, glob.clone()));
    let mut found = 0;
    tree.matches(channel.as_bytes(), |_, _| found += 1);
    assert!(found <= 1, "found twice");
    (glob.is_match(channel), found == 1)
}
