//! The probation queue: entries of names published once, until they are published again or give way.
//!
//! Entries lie in sets, chosen by hash. A new entry takes an empty slot of its set, or the slot of an old entry, or
//! those of several if it is large. There is no list in order of arrival and no table of positions: a set is searched
//! whole.

use std::sync::Arc;

use crate::sync::{Ordering, fence};
use crate::trie::channel::{Channel, Position};

/// Names in probation on a bus, at least one set for each stripe.
pub(in crate::trie) const NAMES: usize = 256;

/// Names in a set.
pub(in crate::trie) const WAYS: usize = 8;

const _: () = assert!(WAYS == u8::BITS as usize, "each has a bit");

/// What the entries of a set may cost together, in bytes.
pub(in crate::trie) const SET_BYTES: usize = 8 << 10;

/// See the module's documentation.
pub(in crate::trie) struct Probation<P> {
    /// A power of two.
    sets: Box<[Set<P>]>,
    len: usize,
}

struct Set<P> {
    /// A part of each entry's hash, so that entries of other names are not looked at.
    marks: [u32; WAYS],
    entries: [Option<Arc<Channel<P>>>; WAYS],
    /// What each entry costs, in bytes.
    costs: [u32; WAYS],
    /// The sum of `costs`.
    cost: usize,
    /// The empty slots, as bits.
    vacant: u8,
    /// The slot whose entry is evicted next.
    next: usize,
}

/// An empty slot.
#[derive(Clone, Copy)]
pub(in crate::trie) struct Vacancy {
    set: usize,
    way: usize,
}

impl<P> Probation<P> {
    /// An empty queue of `names` names, rounded to sets.
    pub(in crate::trie) fn new(names: usize) -> Self {
        let sets = (names / WAYS).max(1).next_power_of_two();
        let set = || Set {
            marks: [0; WAYS],
            entries: [const { None }; WAYS],
            costs: [0; WAYS],
            cost: 0,
            vacant: u8::MAX,
            next: 0,
        };
        Self { sets: (0..sets).map(|_| set()).collect(), len: 0 }
    }

    /// Returns the number of entries.
    pub(in crate::trie) fn len(&self) -> usize {
        self.len
    }

    /// The set for a hash. (The stripe was chosen by other bits of it.)
    fn set_of(&self, hash: u64) -> usize {
        (hash >> 16) as usize & (self.sets.len() - 1)
    }

    fn mark(hash: u64) -> u32 {
        hash as u32
    }

    pub(in crate::trie) fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        if self.len == 0 {
            return None;
        }
        let set = &self.sets[self.set_of(hash)];
        let marked =
            set.marks.iter().zip(&set.entries).filter(|(mark, _)| **mark == Self::mark(hash));
        marked.filter_map(|(_, entry)| entry.as_ref()).find(|entry| entry.is(name, hash))
    }

    /// Takes `channel` out, if it is in probation.
    pub(in crate::trie) fn remove(&mut self, channel: &Channel<P>) -> Option<Arc<Channel<P>>> {
        let Some(Position::Probation(at)) = channel.position() else { return None };
        self.take(at as usize / WAYS, at as usize % WAYS)
    }

    fn take(&mut self, set: usize, way: usize) -> Option<Arc<Channel<P>>> {
        let set = &mut self.sets[set];
        let taken = set.entries[way].take()?;
        set.cost -= set.costs[way] as usize;
        set.vacant |= 1 << way;
        taken.set_position(None);
        self.len -= 1;
        Some(taken)
    }

    /// Finds a slot for an entry that costs `cost`, which must be `SET_BYTES` at most. Entries that nobody else holds
    /// are evicted for it. Returns `None` if too many are held. The caller holds the stripe's lock.
    pub(in crate::trie) fn make_room(
        &mut self,
        hash: u64,
        cost: usize,
        mut evict: impl FnMut(Arc<Channel<P>>),
    ) -> Option<Vacancy> {
        let at = self.set_of(hash);
        for _ in 0..=WAYS {
            let set = &mut self.sets[at];
            if set.vacant != 0 && set.cost + cost <= SET_BYTES {
                return Some(Vacancy { set: at, way: set.vacant.trailing_zeros() as usize });
            }
            let way = set.next;
            set.next = (way + 1) % WAYS;
            // Held by this set alone: whoever else could get it needs the stripe's lock first. (There are no weak
            // pointers to entries.)
            if set.entries[way].as_ref().is_some_and(|entry| Arc::strong_count(entry) == 1)
                && let Some(entry) = self.take(at, way)
            {
                // Acquire: partner of the Release in dropping an `Arc`. The caller reads what a publisher counted.
                fence(Ordering::Acquire);
                evict(entry);
            }
        }
        None
    }

    /// Puts an entry that costs `cost` where `make_room` found room for it.
    pub(in crate::trie) fn insert(&mut self, at: Vacancy, channel: Arc<Channel<P>>, cost: usize) {
        channel.set_position(Some(Position::Probation((at.set * WAYS + at.way) as u32)));
        let set = &mut self.sets[at.set];
        set.marks[at.way] = Self::mark(channel.hash);
        // `SET_BYTES` at most.
        set.costs[at.way] = cost as u32;
        set.cost += cost;
        set.vacant &= !(1 << at.way);
        set.entries[at.way] = Some(channel);
        self.len += 1;
    }

    pub(in crate::trie) fn iter(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.sets.iter().flat_map(|set| &set.entries).flatten()
    }
}
