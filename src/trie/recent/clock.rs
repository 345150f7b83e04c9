//! Which of the recent names are to go: a clock, as caches have them.
//!
//! A clock is a ring of places with a hand that goes around it, looking for an entry to be taken. Entries are
//! known here by hash and by what they cost; all else is with their owner.

/// A ring, and its hand.
#[derive(Default)]
pub(in crate::trie) struct Clock {
    ring: Vec<Option<Entry>>,
    /// Places that are empty, to be filled first: mostly the one that the hand has just passed, which
    /// it comes to last.
    vacant: Vec<u32>,
    hand: usize,
    cost: usize,
    /// For how many entries more there is room already.
    ready: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    cost: usize,
}

/// More places than this there are not.
pub(in crate::trie) const MAX_ENTRIES: u32 = 1 << 31;

impl Clock {
    /// What the entries cost, in bytes.
    pub(in crate::trie) fn cost(&self) -> usize {
        self.cost
    }

    /// Entries.
    pub(in crate::trie) fn len(&self) -> usize {
        self.ring.len() - self.vacant.len()
    }

    /// Makes room for so many entries more, so that they come and go with no allocation.
    pub(in crate::trie) fn reserve(&mut self, entries: usize) {
        self.ready = entries;
        self.ring.reserve(entries);
        self.vacant.reserve(self.ring.len() + entries - self.vacant.len());
    }

    /// Takes an entry in; `None` where there are more than a place's number can say.
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

    /// Takes an entry out.
    pub(in crate::trie) fn remove(&mut self, at: u32) {
        let Some(entry) = self.ring[at as usize].take() else { return };
        self.vacant.push(at);
        self.cost -= entry.cost;
    }

    /// Gives back memory that an empty one does not need.
    pub(in crate::trie) fn trim(&mut self) {
        if self.len() == 0 && !self.ring.is_empty() {
            self.ring.clear();
            self.ring.shrink_to(self.ready);
            self.vacant.clear();
            self.vacant.shrink_to(self.ready);
            self.hand = 0;
        }
    }

    /// Has the hand come to an entry next.
    pub(in crate::trie) fn take_next(&mut self, at: u32) {
        self.hand = at as usize;
    }

    /// The next entry that the hand comes to, by its place, its hash and what it costs.
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
    fn the_hand_comes_to_every_entry_and_to_the_newest_last() {
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
    fn an_empty_one_keeps_no_memory() {
        let mut clock = Clock::default();
        let slots: Vec<_> = (0..100).map(|hash| clock.insert(hash, 1).unwrap()).collect();
        slots.into_iter().rev().for_each(|slot| clock.remove(slot));
        clock.trim();
        assert_eq!((clock.ring.capacity(), clock.vacant.capacity(), clock.cost()), (0, 0, 0));
        assert_eq!(clock.advance(), None);
    }
}
