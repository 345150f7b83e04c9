//! The CLOCK: which of the recent names in a stripe's table are evicted.
//!
//! A ring of slots, and a hand that goes around it. An entry is known here by its hash and its cost; whether it may
//! go is decided by the stripe.

/// See the module's documentation.
#[derive(Default)]
pub(in crate::trie) struct Clock {
    ring: Vec<Option<Entry>>,
    /// Empty slots, filled first. Mostly there is one, which the hand has just passed and comes to last.
    vacant: Vec<u32>,
    hand: usize,
    /// The sum of the entries' costs, in bytes.
    cost: usize,
    /// Entries that there is room for already.
    reserved: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    cost: usize,
}

/// Maximum number of slots.
pub(in crate::trie) const MAX_ENTRIES: u32 = 1 << 31;

impl Clock {
    /// Returns what the entries cost, in bytes.
    pub(in crate::trie) fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the number of entries.
    pub(in crate::trie) fn len(&self) -> usize {
        self.ring.len() - self.vacant.len()
    }

    /// Makes room for `entries` entries more, so that they come and go without an allocation.
    pub(in crate::trie) fn reserve(&mut self, entries: usize) {
        self.reserved = entries;
        self.ring.reserve(entries);
        self.vacant.reserve(self.ring.len() + entries - self.vacant.len());
    }

    /// Adds an entry and returns its slot, or `None` if there is none left.
    pub(in crate::trie) fn insert(&mut self, hash: u64, cost: usize) -> Option<u32> {
        let at = match self.vacant.pop() {
            Some(at) => at,
            None => {
                let at = u32::try_from(self.ring.len()).ok().filter(|&at| at < MAX_ENTRIES)?;
                self.ring.push(None);
                at
            }
        };
        self.ring[at as usize] = Some(Entry { hash, cost });
        self.cost += cost;
        Some(at)
    }

    /// Removes the entry in slot `at`.
    pub(in crate::trie) fn remove(&mut self, at: u32) {
        let Some(entry) = self.ring[at as usize].take() else { return };
        self.vacant.push(at);
        self.cost -= entry.cost;
    }

    /// Gives memory back if there is no entry.
    pub(in crate::trie) fn trim(&mut self) {
        if self.len() == 0 && !self.ring.is_empty() {
            self.ring.clear();
            self.ring.shrink_to(self.reserved);
            self.vacant.clear();
            self.vacant.shrink_to(self.reserved);
            self.hand = 0;
        }
    }

    /// Moves the hand to slot `at`.
    pub(in crate::trie) fn take_next(&mut self, at: u32) {
        self.hand = at as usize;
    }

    /// Moves the hand past the next entry, and returns its slot, hash and cost.
    pub(in crate::trie) fn advance(&mut self) -> Option<(u32, u64, usize)> {
        for _ in 0..self.ring.len() {
            let at = self.hand;
            self.hand = if at + 1 == self.ring.len() { 0 } else { at + 1 };
            if let Some(entry) = self.ring[at] {
                return Some((at as u32, entry.hash, entry.cost));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_passes_every_entry_and_the_newest_last() {
        let mut clock = Clock::default();
        assert_eq!(clock.advance(), None);
        let slots: Vec<_> = (0..4).map(|hash| clock.insert(hash, 10).unwrap()).collect();
        assert_eq!((clock.len(), clock.cost()), (4, 40));
        let (slot, hash, _) = clock.advance().unwrap();
        assert_eq!(hash, 0);
        clock.remove(slot);
        assert_eq!(clock.insert(9, 5), Some(slots[0]));
        let hashes: Vec<_> = (0..5).map(|_| clock.advance().unwrap().1).collect();
        assert_eq!(hashes, [1, 2, 3, 9, 1]);
        assert_eq!((clock.len(), clock.cost()), (4, 35));
    }

    #[test]
    fn an_empty_clock_keeps_no_memory() {
        let mut clock = Clock::default();
        let slots: Vec<_> = (0..100).map(|hash| clock.insert(hash, 1).unwrap()).collect();
        slots.into_iter().rev().for_each(|slot| clock.remove(slot));
        clock.trim();
        assert_eq!((clock.ring.capacity(), clock.vacant.capacity(), clock.cost()), (0, 0, 0));
        assert_eq!(clock.advance(), None);
    }
}
