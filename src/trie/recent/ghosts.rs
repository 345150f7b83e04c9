//! Names that were published once and have no entry: what is remembered of them, and what a publish to one needs.
//!
//! A name that comes once and never again is to leave as little behind as can be, for there may be very many of them.
//! So where at most one recipient is reached, there is no order to be kept among inboxes, and the publish needs no
//! entry: all that stays is a part of the name's hash. Only when the name comes again it gets an entry.
//!
//! That second publish is to make no allocation. So the first one sees to it that there is a spare entry for each of
//! the last few names that came. What its message points to is used again, too, when that message is gone.

use std::sync::Arc;

use crate::prefetch::prefetch;
use crate::source::{Handed, PatternSource, Prepaid, Renewed, Text};
use crate::sync::Mutex;
use crate::trie::channel::Channel;
use crate::trie::patterns::PatternEntry;

/// So many spare entries the stripes of a bus have together, if they are few: for as many names the second publish
/// makes no allocation.
const SPARES: usize = 256;

/// So many sources the stripes of a bus have together, if they are few: some for messages that wait to be read, and not
/// so many that what one had pointed to has left a processor's cache when it is used again.
const SOURCES: usize = 640;

/// How many names are in a set of those remembered.
const WAYS: usize = 8;

/// How much a stripe keeps.
#[derive(Clone, Copy)]
pub(in crate::trie) struct Room {
    /// A power of two.
    sets: usize,
    spares: usize,
    sources: usize,
}

impl Room {
    /// For one of so many stripes, which spends so many bytes on names remembered.
    pub(in crate::trie) fn new(stripes: usize, bytes: usize) -> Self {
        Self {
            sets: 1 << (bytes / size_of::<Set>()).max(1).ilog2(),
            // As many as there are in a set: those that came last are then always remembered.
            spares: (SPARES / stripes).max(WAYS),
            sources: (SOURCES / stripes).max(WAYS),
        }
    }

    /// What all of it takes, in bytes.
    pub(in crate::trie) fn bytes<P>(self) -> usize {
        let source = size_of::<PatternSource<PatternEntry<P>>>();
        self.sets * size_of::<Set>()
            + self.spares * (size_of::<Spare<P>>() + size_of::<Channel<P>>() + Prepaid::BYTES)
            + self.sources * (source + Prepaid::BYTES)
    }
}

/// See the module's documentation.
pub(in crate::trie) struct Once<P> {
    /// A power of two of them, or none yet.
    sets: Box<[Set]>,
    /// Names that came in, wrapping.
    arrivals: u32,
    /// Used by whoever has all of this for writing; never locked, the lock is there for the compiler.
    reused: Mutex<Reused<P>>,
}

/// What is used again.
struct Reused<P> {
    spares: Vec<Spare<P>>,
    /// What the messages of the last publishes pointed to.
    sources: Vec<PatternSource<PatternEntry<P>>>,
    /// The source that is to be used next.
    next: usize,
}

/// Some of the names remembered; which, their hashes say. Those that came last are in front.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    /// A part of each one's hash, and 0 for none.
    marks: [u32; WAYS],
    /// At which arrival it came.
    when: [u32; WAYS],
}

/// An entry that is no name's yet, and what messages that come by a pattern can point to.
pub(in crate::trie) struct Spare<P> {
    pub(in crate::trie) entry: Arc<Channel<P>>,
    pub(in crate::trie) source: Prepaid,
}

impl Set {
    #[inline]
    fn has(&self, mark: u32) -> bool {
        // All of them, and no early end: that is two instructions where a processor compares several at once.
        self.marks.iter().fold(false, |any, &other| any | (other == mark))
    }

    /// Puts a name in at `way`. What is there and behind it makes room, the last one goes.
    #[inline]
    fn insert(&mut self, way: usize, mark: u32, when: u32) {
        self.marks.copy_within(way..WAYS - 1, way + 1);
        self.when.copy_within(way..WAYS - 1, way + 1);
        self.marks[way] = mark;
        self.when[way] = when;
    }

    /// Takes a name out. When it came.
    fn remove(&mut self, mark: u32) -> Option<u32> {
        let way = self.marks.iter().position(|&other| other == mark)?;
        let when = self.when[way];
        self.marks.copy_within(way + 1.., way);
        self.when.copy_within(way + 1.., way);
        self.marks[WAYS - 1] = 0;
        Some(when)
    }
}

impl<P> Default for Once<P> {
    fn default() -> Self {
        let reused = Reused { spares: Vec::new(), sources: Vec::new(), next: 0 };
        Self { sets: Box::default(), arrivals: 0, reused: Mutex::new(reused) }
    }
}

impl<P> Once<P> {
    /// The set of a hash. (The stripe was chosen by other bits of it.)
    #[inline]
    fn set(&self, hash: u64) -> Option<usize> {
        Some(hash as usize & self.sets.len().checked_sub(1)?)
    }

    /// Of bits that chose neither the stripe nor the set: so a name passes for another once in thousands of millions.
    #[inline]
    fn mark(hash: u64) -> u32 {
        (hash >> 44 << 12 | hash >> 16 & 0xfff) as u32 | 1
    }

    /// Has what tells whether a name is remembered brought into the cache.
    #[inline]
    pub(in crate::trie) fn prefetch_name(&self, hash: u64) {
        if let Some(set) = self.set(hash) {
            prefetch(&self.sets[set]);
        }
    }

    /// Whether a name is remembered.
    #[inline]
    pub(in crate::trie) fn remembers(&self, hash: u64) -> bool {
        self.set(hash).is_some_and(|set| self.sets[set].has(Self::mark(hash)))
    }

    /// Remembers a name that comes in. In its set it takes the place of the one that came longest ago.
    #[inline]
    pub(in crate::trie) fn remember(&mut self, hash: u64, room: Room) {
        let when = self.arrive(room);
        if let Some(at) = self.set(hash) {
            self.sets[at].insert(0, Self::mark(hash), when);
        }
    }

    /// Remembers a name that has had an entry: no spare one is kept for it, as if it had come longer ago.
    pub(in crate::trie) fn remember_gone(&mut self, hash: u64, room: Room) {
        let when = self.arrive(room).wrapping_sub(room.spares as u32);
        if let Some(at) = self.set(hash) {
            let set = &mut self.sets[at];
            // Behind those for which a spare entry is kept.
            let has_spare = |way: usize| {
                set.marks[way] != 0
                    && self.arrivals.wrapping_sub(set.when[way]) < room.spares as u32
            };
            let way = (0..WAYS - 1).find(|&way| !has_spare(way)).unwrap_or(WAYS - 1);
            set.insert(way, Self::mark(hash), when);
        }
    }

    /// Counts an arrival.
    #[inline]
    fn arrive(&mut self, room: Room) -> u32 {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); room.sets].into();
        }
        self.arrivals = self.arrivals.wrapping_add(1);
        self.arrivals
    }

    /// Whether a name is remembered; it is forgotten by that. `true` comes with one for which a spare entry is
    /// kept.
    pub(in crate::trie) fn recall(&mut self, hash: u64, room: Room) -> Option<bool> {
        let at = self.set(hash)?;
        let set = &mut self.sets[at];
        let when = set.remove(Self::mark(hash))?;
        Some((self.arrivals.wrapping_sub(when) as usize) < room.spares)
    }

    /// Spare entries.
    pub(in crate::trie) fn spares(&mut self) -> usize {
        self.reused.get_mut().spares.len()
    }

    /// Makes a spare entry where there are fewer than there is room for. Whether one was made.
    ///
    /// By one for each name that comes in there are always enough: as many as there are names among the last ones
    /// that have no entry yet.
    #[inline]
    pub(in crate::trie) fn make_spare(&mut self, room: Room) -> bool {
        let spares = &mut self.reused.get_mut().spares;
        let short = spares.len() < room.spares;
        if short {
            spares.reserve_exact(room.spares - spares.len());
            let entry = Arc::new(Channel::blank());
            spares.push(Spare { entry, source: Prepaid::blank() });
        }
        short
    }

    /// Has what `hand_out` is going to touch brought into the cache.
    #[inline]
    pub(in crate::trie) fn prefetch(&mut self) {
        let Reused { sources, next, .. } = self.reused.get_mut();
        if let Some(source) = sources.get(*next) {
            source.prefetch();
        }
    }

    /// Takes a spare entry.
    pub(in crate::trie) fn take_spare(&mut self) -> Option<Spare<P>> {
        self.reused.get_mut().spares.pop()
    }
}

impl<P: Send + 'static> Once<P> {
    /// A source of messages that go to `channel` and come by `pattern`. What it was before, if it was used
    /// already, comes with it, to be dropped where no lock is held.
    #[inline]
    pub(in crate::trie) fn hand_out(
        &mut self,
        channel: Text,
        pattern: Arc<PatternEntry<P>>,
        room: Room,
    ) -> (Handed<PatternEntry<P>>, Option<Renewed>) {
        let Reused { sources, next, .. } = self.reused.get_mut();
        if sources.len() < room.sources {
            let source = PatternSource::passing(channel, pattern);
            let handed = source.hand_out();
            sources.push(source);
            return (handed, None);
        }
        let source = &mut sources[*next];
        *next = if *next + 1 == room.sources { 0 } else { *next + 1 };
        let before = source.renew(channel, pattern);
        (source.hand_out(), Some(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn names_are_recalled_once() {
        let room = Room::new(1, 1 << 10);
        let mut once = Once::<u32>::default();
        assert!(!once.remembers(7) && once.recall(7, room).is_none());
        for n in (0..10_000).map(hash) {
            once.remember(n, room);
            assert!(once.remembers(n) && !once.remembers(!n));
            assert_eq!(once.recall(n, room), Some(true));
            assert!(!once.remembers(n) && once.recall(n, room).is_none());
            once.remember_gone(n, room);
            assert_eq!(once.recall(n, room), Some(false), "it has had an entry");
        }
    }

    #[test]
    fn those_that_came_last_are_remembered() {
        // More stripes than spares: each has as many as a set has places.
        let room = Room::new(1_024, 1 << 10);
        let mut once = Once::<u32>::default();
        for n in 0..10_000 {
            // As many as are there fall into one set.
            let hash = |n| hash(n) & !0xff | (n & 0xf00);
            once.remember(hash(n), room);
            for back in 0..(WAYS as u64).min(n + 1) {
                assert!(once.remembers(hash(n - back)), "{n} - {back}");
            }
        }
    }

    #[test]
    fn one_that_is_gone_comes_behind_those_that_came_last() {
        let room = Room::new(1, 1 << 10);
        // All in one set.
        let hash = |n| hash(n) & !0xf;
        for gone in 1..WAYS as u64 {
            let mut once = Once::<u32>::default();
            let others = WAYS as u64 - gone;
            (100..100 + gone).for_each(|n| once.remember_gone(hash(n), room));
            (0..others).for_each(|n| once.remember(hash(n), room));
            // They take the places of one another.
            (200..220).for_each(|n| once.remember_gone(hash(n), room));
            (0..others).for_each(|n| assert!(once.remembers(hash(n)), "{gone}: {n} of {others}"));
            assert!(once.remembers(hash(219)));
        }
    }

    #[test]
    fn every_name_among_the_last_has_its_spare() {
        let room = Room::new(64, 1 << 10);
        let mut once = Once::<u32>::default();
        let mut random = 1_u64;
        let mut waiting = Vec::new();
        for n in (0..100_000).map(hash) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if random >> 33 & 1 == 0 {
                once.remember(n, room);
                once.make_spare(room);
                waiting.push(n);
            } else if let Some(at) = waiting.len().checked_sub(1 + (random >> 40) as usize % 20)
                && once.recall(waiting.remove(at), room) == Some(true)
            {
                assert!(once.take_spare().is_some());
            }
            assert!(once.spares() <= room.spares);
        }
    }
}
