//! A clock, as caches have it: a ring of places and a hand that goes around it, looking for one to be
//! taken. It knows its entries by hash and what they cost; all else is with its owner.

/// A place on the ring.
pub(super) type Slot = u32;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Clock {
    ring: Vec<Option<Entry>>,
    /// Places that are empty, to be filled first: mostly the one that the hand has just passed, which
    /// it comes to last.
    vacant: Vec<Slot>,
    hand: usize,
    cost: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    cost: usize,
}

impl Clock {
    /// What the entries cost, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.ring.len() - self.vacant.len()
    }

    /// Takes an entry in; `None` where there are more than a slot's number can say.
    pub(super) fn insert(&mut self, hash: u64, cost: usize) -> Option<Slot> {
        let slot = match self.vacant.pop() {
            Some(slot) => slot,
            None => {
                let slot = Slot::try_from(self.ring.len()).ok().filter(|&slot| slot < Slot::MAX)?;
                self.ring.push(None);
                slot
            }
        };
        self.ring[slot as usize] = Some(Entry { hash, cost });
        self.cost += cost;
        Some(slot)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.ring[slot as usize].take() else { return };
        self.vacant.push(slot);
        self.cost -= entry.cost;
        if self.len() == 0 {
            *self = Self::default();
        }
    }

    /// The next entry that the hand comes to, by its slot and hash.
    pub(super) fn advance(&mut self) -> Option<(Slot, u64)> {
        for _ in 0..self.ring.len() {
            let at = self.hand;
            self.hand = if at + 1 == self.ring.len() { 0 } else { at + 1 };
            if let Some(entry) = self.ring[at] {
                return Some((at as Slot, entry.hash));
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
        let (slot, hash) = clock.advance().unwrap();
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
        assert_eq!((clock.ring.capacity(), clock.vacant.capacity(), clock.cost()), (0, 0, 0));
        assert_eq!(clock.advance(), None);
    }
}
