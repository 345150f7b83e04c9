//! The ghost list: names that left probation, remembered by a part of their hashes alone.
//!
//! A name that comes again while it is remembered has proved itself, and skips probation.

/// Names in a set.
const WAYS: usize = 8;

/// Sets of names, chosen by hash. A stripe allocates its sets when it first remembers a name.
pub(in crate::trie) struct Ghosts {
    /// A power of two, or none yet.
    sets: Box<[Set]>,
    /// How many sets to make.
    capacity: usize,
}

/// A part of each name's hash, the newest first; 0 for none.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Set([u32; WAYS]);

impl Ghosts {
    /// An empty list that takes `bytes` at most.
    pub(in crate::trie) fn new(bytes: usize) -> Self {
        Self { sets: Box::default(), capacity: 1 << (bytes / size_of::<Set>()).max(1).ilog2() }
    }

    /// The set for a hash. (The stripe was chosen by other bits of it.)
    fn set(&mut self, hash: u64) -> Option<&mut Set> {
        let mask = self.sets.len().checked_sub(1)?;
        Some(&mut self.sets[hash as usize & mask])
    }

    /// Bits that chose neither the stripe nor the set: one name passes for another once in hundreds of millions of
    /// look-ups.
    fn mark(hash: u64) -> u32 {
        (hash >> 44 << 12 | hash >> 16 & 0xfff) as u32 | 1
    }

    /// Remembers a name, in place of the one remembered longest in its set.
    pub(in crate::trie) fn remember(&mut self, hash: u64) {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); self.capacity].into();
        }
        if let Some(Set(marks)) = self.set(hash) {
            marks.copy_within(..WAYS - 1, 1);
            marks[0] = Self::mark(hash);
        }
    }

    /// Forgets a name. Returns `true` if it was remembered.
    pub(in crate::trie) fn take(&mut self, hash: u64) -> bool {
        let Some(Set(marks)) = self.set(hash) else { return false };
        let Some(way) = marks.iter().position(|&mark| mark == Self::mark(hash)) else {
            return false;
        };
        marks.copy_within(way + 1.., way);
        marks[WAYS - 1] = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_remembered_name_is_taken_once() {
        let mut ghosts = Ghosts::new(1 << 10);
        assert!(!ghosts.take(7));
        for n in (0..10_000).map(hash) {
            ghosts.remember(n);
            assert!(!ghosts.take(!n));
            assert!(ghosts.take(n));
            assert!(!ghosts.take(n));
        }
    }

    #[test]
    fn a_set_remembers_its_newest_names() {
        let mut ghosts = Ghosts::new(1 << 10);
        // All in one set.
        let hash = |n| hash(n) & !0xff;
        (0..100).for_each(|n| ghosts.remember(hash(n)));
        assert!((92..100).all(|n| ghosts.take(hash(n))));
        assert!((0..100).all(|n| !ghosts.take(hash(n))));
    }
}
