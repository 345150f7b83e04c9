//! Which of the recent names are to go: two clocks, as caches have them, one for names that are new and one for
//! those that were used again.
//!
//! A clock is a ring of places with a hand that goes around it, looking for an entry to be taken. Names that
//! are published once each pass through the small ring alone, and write over memory that is in a processor's
//! cache; they drive out none that is in use. Entries are known here by hash and by what they cost; all else is
//! with their owner.

/// A place: on which ring, and where on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) ring: Ring,
    pub(super) at: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ring {
    New,
    Used,
}

impl Slot {
    const USED: u32 = 1 << 31;

    /// As a number other than `u32::MAX`.
    pub(super) fn to_bits(self) -> u32 {
        match self.ring {
            Ring::New => self.at,
            Ring::Used => self.at | Self::USED,
        }
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        let ring = if bits & Self::USED == 0 { Ring::New } else { Ring::Used };
        Self { ring, at: bits & !Self::USED }
    }
}

/// The two clocks, and the names that were new and have gone.
#[derive(Default)]
pub(super) struct Clocks {
    new: Clock,
    used: Clock,
    gone: Gone,
}

/// Names that have gone before they were used again, by hash, those of late: a name among them is in use
/// after all, more rarely than new ones come. Each has one place where it can be, and is forgotten when
/// another takes that.
#[derive(Default)]
struct Gone(Box<[u32]>);

impl Gone {
    /// The place of a hash. (The stripe was chosen by other bits of it.)
    fn place(&mut self, hash: u64) -> Option<&mut u32> {
        let place = (hash as usize).checked_rem(self.0.len())?;
        Some(&mut self.0[place])
    }

    /// What stands in its place for it.
    fn mark(hash: u64) -> u32 {
        (hash >> 16) as u32 | 1
    }

    fn remember(&mut self, hash: u64, bytes: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; bytes / size_of::<u32>()].into();
        }
        if let Some(place) = self.place(hash) {
            *place = Self::mark(hash);
        }
    }

    fn recall(&mut self, hash: u64) -> bool {
        self.place(hash)
            .is_some_and(|place| *place == Self::mark(hash) && std::mem::take(place) != 0)
    }
}

impl Clocks {
    pub(super) fn on(&mut self, ring: Ring) -> &mut Clock {
        match ring {
            Ring::New => &mut self.new,
            Ring::Used => &mut self.used,
        }
    }

    /// What all entries cost, in bytes.
    #[cfg(test)]
    pub(super) fn cost(&self) -> usize {
        self.new.cost + self.used.cost
    }

    /// Takes an entry in; `None` where there are more than a slot's number can say.
    pub(super) fn insert(&mut self, ring: Ring, hash: u64, cost: usize) -> Option<Slot> {
        self.on(ring).insert(hash, cost).map(|at| Slot { ring, at })
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.on(slot.ring).remove(slot.at);
    }

    /// Has the hand come to an entry next.
    pub(super) fn take_next(&mut self, slot: Slot) {
        self.on(slot.ring).hand = slot.at as usize;
    }

    /// Remembers a name that goes before it was used again, in a memory of so many bytes.
    pub(super) fn remember(&mut self, hash: u64, bytes: usize) {
        self.gone.remember(hash, bytes);
    }

    /// Whether such a name went of late: it is forgotten by that.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        self.gone.recall(hash)
    }
}

/// One ring, and its hand.
#[derive(Default)]
pub(super) struct Clock {
    ring: Vec<Option<Entry>>,
    /// Places that are empty, to be filled first: mostly the one that the hand has just passed, which
    /// it comes to last.
    vacant: Vec<u32>,
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

    fn insert(&mut self, hash: u64, cost: usize) -> Option<u32> {
        let at = match self.vacant.pop() {
            Some(at) => at,
            None => {
                let most = Slot::USED - 1;
                let at = u32::try_from(self.ring.len()).ok().filter(|&at| at < most)?;
                self.ring.push(None);
                at
            }
        };
        self.ring[at as usize] = Some(Entry { hash, cost });
        self.cost += cost;
        Some(at)
    }

    fn remove(&mut self, at: u32) {
        let Some(entry) = self.ring[at as usize].take() else { return };
        self.vacant.push(at);
        self.cost -= entry.cost;
        if self.len() == 0 {
            *self = Self::default();
        }
    }

    /// The next entry that the hand comes to, by its place and hash.
    pub(super) fn advance(&mut self) -> Option<(u32, u64)> {
        for _ in 0..self.ring.len() {
            let at = self.hand;
            self.hand = if at + 1 == self.ring.len() { 0 } else { at + 1 };
            if let Some(entry) = self.ring[at] {
                return Some((at as u32, entry.hash));
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
    fn those_that_have_gone_are_recalled_once() {
        let mut gone = Gone::default();
        assert!(!gone.recall(7));
        for n in 0..10_u64 {
            let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            gone.remember(hash, 1 << 10);
            assert!(!gone.recall(!hash));
            assert!(gone.recall(hash) && !gone.recall(hash));
        }
    }

    #[test]
    fn a_slot_is_a_number() {
        for ring in [Ring::New, Ring::Used] {
            for at in [0, 1, Slot::USED - 2] {
                let slot = Slot { ring, at };
                assert_eq!(Slot::from_bits(slot.to_bits()), slot);
                assert_ne!(slot.to_bits(), u32::MAX);
            }
        }
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
