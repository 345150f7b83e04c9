//! Entries of names that were published once, the last few of them.
//!
//! They lie in sets, chosen by hash; in a set, a new one takes the place of the oldest. No list is kept of when
//! they came, and no table of where they are: a set is looked through. Whether an entry is to stay when it is
//! used again is for their owner to say, who takes it out.

use std::sync::Arc;

use super::channel::{Channel, Slot};

/// So many names the stripes of a bus have together, if they are few.
pub(super) const NAMES: usize = 512;

/// So many are in a set. A stripe has one set at least.
pub(super) const WAYS: usize = 8;

/// See the module's documentation.
pub(super) struct Fresh<P> {
    /// A power of two of them.
    sets: Box<[Set<P>]>,
    len: usize,
}

struct Set<P> {
    /// A part of each entry's hash, to pass by those that are others without a look at them.
    marks: [u32; WAYS],
    entries: [Option<Arc<Channel<P>>>; WAYS],
    /// Where the next one goes.
    next: usize,
}

/// A place that is empty.
#[derive(Clone, Copy)]
pub(super) struct Place {
    set: usize,
    way: usize,
}

impl<P> Fresh<P> {
    /// Room for so many names, rounded to sets.
    pub(super) fn new(names: usize) -> Self {
        let sets = (names / WAYS).max(1).next_power_of_two();
        let set = || Set { marks: [0; WAYS], entries: [const { None }; WAYS], next: 0 };
        Self { sets: (0..sets).map(|_| set()).collect(), len: 0 }
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
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
        let at = self.set(hash);
        let set = &self.sets[at];
        let is_it = |entry: &Arc<Channel<P>>| entry.hash == hash && *entry.name == *name;
        let mark = Self::mark(hash);
        let way = (0..WAYS)
            .find(|&way| set.marks[way] == mark && set.entries[way].as_ref().is_some_and(is_it))?;
        Some(Place { set: at, way })
    }

    #[inline]
    pub(super) fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        let Place { set, way } = self.place(name, hash)?;
        self.sets[set].entries[way].as_ref()
    }

    /// Takes an entry out, if it is here.
    pub(super) fn remove(&mut self, channel: &Channel<P>) -> Option<Arc<Channel<P>>> {
        let Some(Slot::Fresh(at)) = channel.slot() else { return None };
        self.take_from(Place { set: at as usize / WAYS, way: at as usize % WAYS })
    }

    fn take_from(&mut self, place: Place) -> Option<Arc<Channel<P>>> {
        let taken = self.sets[place.set].entries[place.way].take()?;
        taken.set_slot(None);
        self.len -= 1;
        Some(taken)
    }

    /// Makes a place for a name: that of the oldest whose entry nobody else holds. The caller holds the stripe's lock. That entry comes with it, out
    /// of its place, if there was one.
    pub(super) fn make_room(&mut self, hash: u64) -> Option<(Place, Option<Arc<Channel<P>>>)> {
        let at = self.set(hash);
        let set = &mut self.sets[at];
        for _ in 0..WAYS {
            let place = Place { set: at, way: set.next };
            set.next = (set.next + 1) % WAYS;
            match &set.entries[place.way] {
                None => return Some((place, None)),
                // In this set alone, where only readers who hold the stripe's lock can come by it.
                Some(entry) if Arc::strong_count(entry) == 1 => {
                    return Some((place, self.take_from(place)));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// Puts an entry where there is room for it.
    pub(super) fn put(&mut self, place: Place, channel: Arc<Channel<P>>) {
        channel.set_slot(Some(Slot::Fresh((place.set * WAYS + place.way) as u32)));
        let set = &mut self.sets[place.set];
        set.marks[place.way] = Self::mark(channel.hash);
        set.entries[place.way] = Some(channel);
        self.len += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.sets.iter().flat_map(|set| &set.entries).flatten()
    }
}
