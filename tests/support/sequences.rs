//! Comparing sequences.

use std::fmt::Debug;

/// Returns `items` in ascending order, for what comes in no particular order.
pub fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

/// `true` if `part` is what is left of `whole` when some of it is taken out.
pub fn is_subsequence<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|item| item == wanted))
}

/// Asserts that each item is greater than the one before it, as the numbers of one publisher must be.
#[track_caller]
pub fn assert_ascending<T: PartialOrd + Debug>(items: &[T]) {
    for pair in items.windows(2) {
        assert!(pair[0] < pair[1], "{:?} came before {:?}", pair[0], pair[1]);
    }
}
