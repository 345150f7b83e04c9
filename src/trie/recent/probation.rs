//! Entries of names that were published once, the last few of them: those names that need one, see
//! [`once`](super::recent::ghosts).
//!
//! They lie in sets, chosen by hash. In a set a new one takes an empty place, or that of one which has come long
//! ago, and of more than one if it is large. No list is kept of when they came, and no table of where they are: a
//! set is looked through. Whether an entry is to stay when it is used again is for their owner to say, who takes
//! it out.

use std::sync::Arc;

use crate::trie::channel::{Channel, Slot};

/// So many names the stripes of a bus have together, if they are few.
pub(in crate::trie) const NAMES: usize = 256;

/// So many are in a set at most. A stripe has one set at least.
pub(in crate::trie) const WAYS: usize = 8;

const _: () = assert!(WAYS == u8::BITS as usize, "each has a bit");

/// What the entries of a set may cost together, in bytes.
pub(in crate::trie) const SET_BYTES: usize = 8 << 10;

/// See the module's documentation.
pub(in crate::trie) struct Fresh<P> {
    /// A power of two of them.
    sets: Box<[Set<P>]>,
    len: usize,
}

struct Set<P> {
    /// A part of each entry's hash, to pass by those that are others without a look at them.
    marks: [u32; WAYS],
    entries: [Option<Arc<Channel<P>>>; WAYS],
    /// What each costs, and all of them.
    costs: [u32; WAYS],
    cost: usize,
    /// The places that are empty, as bits.
    vacant: u8,
    /// The next to go.
    next: usize,
}

/// A place that is empty.
#[derive(Clone, Copy)]
pub(in crate::trie) struct Place {
    set: usize,
    way: usize,
}

impl<P> Fresh<P> {
    /// Room for so many names, rounded to sets.
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

    /// Entries.
    pub(in crate::trie) fn len(&self) -> usize {
        self.len
    }

    /// The set of a hash. (The stripe was chosen by other bits of it.)
    #[inline]
    fn set(&self, hash: u64) -> usize {
        (hash >> 16) as usize & (self.sets.len() - 1)
    }

    #[inline]
    fn mark(hash: u64) -> u32 {
        hash as u32
    }

    #[inline]
    fn place(&self, name: &str, hash: u64) -> Option<Place> {
        if self.len == 0 {
            return None;
        }
        let at = self.set(hash);
        let set = &self.sets[at];
        let is_it = |entry: &Arc<Channel<P>>| entry.is(name, hash);
        let mark = Self::mark(hash);
        let way = (0..WAYS)
            .find(|&way| set.marks[way] == mark && set.entries[way].as_ref().is_some_and(is_it))?;
        Some(Place { set: at, way })
    }

    #[inline]
    pub(in crate::trie) fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        let Place { set, way } = self.place(name, hash)?;
        self.sets[set].entries[way].as_ref()
    }

    /// Takes an entry out, if it is here.
    pub(in crate::trie) fn remove(&mut self, channel: &Channel<P>) -> Option<Arc<Channel<P>>> {
        let Some(Slot::Fresh(at)) = channel.slot() else { return None };
        self.take_from(Place { set: at as usize / WAYS, way: at as usize % WAYS })
    }

    fn take_from(&mut self, place: Place) -> Option<Arc<Channel<P>>> {
        let set = &mut self.sets[place.set];
        let taken = set.entries[place.way].take()?;
        set.cost -= set.costs[place.way] as usize;
        set.vacant |= 1 << place.way;
        taken.set_slot(None);
        self.len -= 1;
        Some(taken)
    }

    /// A place for a name that costs so much, `SET_BYTES` at most; where there is none, `out` gets entries that
    /// nobody else holds until there is one. `None` where too many are held. The caller holds the stripe's lock.
    pub(in crate::trie) fn make_room(
        &mut self,
        hash: u64,
        cost: usize,
        mut out: impl FnMut(Arc<Channel<P>>),
    ) -> Option<Place> {
        let at = self.set(hash);
        let mut looks = 0;
        loop {
            let set = &mut self.sets[at];
            if set.vacant != 0 && set.cost + cost <= SET_BYTES {
                return Some(Place { set: at, way: set.vacant.trailing_zeros() as usize });
            }
            if looks == WAYS {
                return None;
            }
            looks += 1;
            let way = set.next;
            set.next = (way + 1) % WAYS;
            // In this set alone, where only readers who hold the stripe's lock can come by it. (And what those who
            // had it have counted is seen from here on.)
            if set.entries[way].as_mut().is_some_and(|entry| Arc::get_mut(entry).is_some())
                && let Some(entry) = self.take_from(Place { set: at, way })
            {
                out(entry);
            }
        }
    }

    /// Puts an entry that costs so much where there is room for it.
    pub(in crate::trie) fn put(&mut self, place: Place, channel: Arc<Channel<P>>, cost: usize) {
        channel.set_slot(Some(Slot::Fresh((place.set * WAYS + place.way) as u32)));
        let set = &mut self.sets[place.set];
        set.marks[place.way] = Self::mark(channel.hash);
        // None costs more than a set may.
        set.costs[place.way] = cost as u32;
        set.cost += cost;
        set.vacant &= !(1 << place.way);
        set.entries[place.way] = Some(channel);
        self.len += 1;
    }

    pub(in crate::trie) fn iter(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.sets.iter().flat_map(|set| &set.entries).flatten()
    }
}
