//! The stripes: names to channel entries, each part under its own lock, and the bounded memory of
//! recently published names.
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under
//! it, a channel's turn is only tried. So no publish, however long, holds up another channel.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::mem;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::channel::{Channel, Counters, Derived, Held, Route, Tally};
use super::patterns::{PatternEntry, Patterns};
use crate::source::{Prepaid, Source};
use crate::sync::{Ordering, RwLock};

/// How much memory a bus spends on names that were published to and that nobody subscribed, in bytes: so
/// little that it stays in a processor's cache, since each new name writes over the oldest.
pub(super) const RECENT_BYTES: usize = 1 << 20;

/// What each stripe may spend of it at least, in bytes: room for some forty names.
const STRIPE_BYTES: usize = 16 << 10;

/// More stripes than this are of no use.
pub(super) const MOST_STRIPES: usize = 4096;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two of them.
    stripes: Box<[CachePadded<RwLock<Stripe<P>>>]>,
    /// Bytes that each stripe spends on recent names.
    budget: usize,
    hasher: RandomState,
}

struct Stripe<P> {
    channels: HashTable<Arc<Channel<P>>>,
    /// Entries that nobody may need any more, oldest first; some have since been subscribed or removed.
    clock: VecDeque<Arc<Channel<P>>>,
    /// What the entries in `clock` cost.
    clocked: usize,
    /// The entry that the clock took last, detached: the next one is made of it.
    spare: Option<Arc<Channel<P>>>,
    /// What removed entries had counted.
    folded: Counters,
    closed: bool,
}

/// Why an entry is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is one of the recent names then.
    Publish,
    /// It is pinned.
    Topic,
    /// The caller adds a subscriber in its turn.
    Subscribe,
}

impl<P> Stripes<P> {
    pub(super) fn new(count: usize, hasher: RandomState) -> Self {
        let count = count.clamp(1, MOST_STRIPES).next_power_of_two();
        let stripe = || Stripe {
            channels: HashTable::new(),
            clock: VecDeque::new(),
            clocked: 0,
            spare: None,
            folded: Counters::default(),
            closed: false,
        };
        Self {
            stripes: (0..count).map(|_| CachePadded::new(RwLock::new(stripe()))).collect(),
            budget: (RECENT_BYTES / count).max(STRIPE_BYTES),
            hasher,
        }
    }

    #[inline]
    pub(super) fn hash(&self, name: &str) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write(name.as_bytes());
        state.finish()
    }

    /// The table below uses the lowest and the highest bits; the stripe is chosen by others.
    #[inline]
    fn stripe(&self, hash: u64) -> &RwLock<Stripe<P>> {
        &self.stripes[(hash >> 32) as usize & (self.stripes.len() - 1)]
    }

    #[inline]
    pub(super) fn get(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>> {
        self.stripe(hash).read().find(name, hash).cloned()
    }
}

impl<P: Send + 'static> Stripes<P> {
    /// The entry of `name`, made where there is none; `None` where the bus is closed.
    #[inline]
    pub(super) fn entry(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        patterns: &Patterns<P>,
    ) -> Option<Arc<Channel<P>>> {
        {
            let stripe = self.stripe(hash).read();
            if let Some(channel) = stripe.find(name, hash) {
                if purpose == Purpose::Topic {
                    // Relaxed: with the stripe's lock. Who prunes holds it for writing.
                    channel.pins.fetch_add(1, Ordering::Relaxed);
                }
                return Some(Arc::clone(channel));
            }
        }
        self.insert(name, hash, purpose, patterns)
    }

    #[cold]
    fn insert(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        patterns: &Patterns<P>,
    ) -> Option<Arc<Channel<P>>> {
        // Before the lock: matching takes its time, and the pattern trie's own lock.
        let name: Arc<str> = Arc::from(name);
        let derived = Derived::new(&name, patterns);
        let patterns = derived.len();
        let mut removed = Removed::new();
        let mut held = None;
        let mut stripe = self.stripe(hash).write();
        if stripe.closed {
            return None;
        }
        let channel = match stripe.find(&name, hash) {
            Some(channel) => Arc::clone(channel),
            None => {
                let channel = stripe.make(name, hash, derived, &mut held);
                stripe.channels.insert_unique(hash, Arc::clone(&channel), |channel| channel.hash);
                let cost = channel.cost(patterns);
                if purpose == Purpose::Publish && cost <= self.budget {
                    // Room first: the entry just made is the coldest, and its publish is yet to come.
                    stripe.turn_clock(self.budget - cost, &mut removed);
                    stripe.clock_in(&channel, patterns);
                }
                channel
            }
        };
        if purpose == Purpose::Topic {
            channel.pins.fetch_add(1, Ordering::Relaxed);
        }
        // What the clock took, and what the spare entry had held, is dropped after this.
        drop(stripe);
        drop(held);
        Some(channel)
    }
}

impl<P> Stripes<P> {
    /// Counts a recent name at what it costs now that so many `patterns` match it. One that exceeds the whole
    /// budget does not stay.
    pub(super) fn weigh(&self, channel: &Arc<Channel<P>>, patterns: Option<usize>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        if stripe.closed {
            return;
        }
        // Relaxed, both: written under the stripe's lock.
        if !channel.clocked.load(Ordering::Relaxed) {
            stripe.prune(channel);
        } else if let Some(patterns) = patterns {
            stripe.clocked -= channel.clocked_cost();
            channel.weighed.store(patterns, Ordering::Relaxed);
            stripe.clocked += channel.clocked_cost();
            stripe.turn_clock(self.budget, &mut removed);
        }
        drop(stripe);
    }

    /// Removes the entry if nobody needs it; one whose turn is taken is left to the clock.
    pub(super) fn prune(&self, channel: &Arc<Channel<P>>) {
        self.stripe(channel.hash).write().prune(channel);
    }

    /// Gives up a topic's hold on an entry.
    pub(super) fn unpin(&self, channel: &Arc<Channel<P>>) {
        let mut stripe = self.stripe(channel.hash).write();
        // Relaxed: with the stripe's lock.
        channel.pins.fetch_sub(1, Ordering::Relaxed);
        stripe.prune(channel);
    }

    /// Adds to what removed entries had counted.
    pub(super) fn fold(&self, hash: u64, tally: Tally) {
        self.stripe(hash).write().folded.add(tally);
    }

    /// Removes the entry, whoever needs it: for a bus that is closed. What its route held comes back,
    /// unless the turn is taken: then its holder does this, when it is done.
    pub(super) fn retire(&self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        let mut stripe = self.stripe(channel.hash).write();
        stripe.detach(channel)
    }

    /// Refuses new entries from now on, and calls `retired` with what the routes had held, under no
    /// lock. Entries whose turn is taken stay until their holder is done.
    pub(super) fn close(&self, mut retired: impl FnMut(Route<P>)) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            stripe.closed = true;
            let clock = (mem::take(&mut stripe.clock), stripe.spare.take());
            stripe.clocked = 0;
            let channels: Vec<_> = stripe.channels.iter().cloned().collect();
            let routes: Vec<_> =
                channels.iter().filter_map(|channel| stripe.detach(channel)).collect();
            drop(stripe);
            drop(clock);
            routes.into_iter().for_each(&mut retired);
        }
    }

    /// Calls `each` for every entry, with the stripe's lock held for reading.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Channel<P>)) {
        for stripe in &self.stripes {
            stripe.read().channels.iter().for_each(|channel| each(channel));
        }
    }

    /// Calls `each` for what every entry has counted, and for what removed ones had.
    pub(super) fn tally(&self, mut each: impl FnMut(Tally)) {
        for stripe in &self.stripes {
            let stripe = stripe.read();
            each(stripe.folded.read());
            stripe.channels.iter().for_each(|channel| each(channel.counters.read()));
        }
    }

    /// Entries, and what the clocks count for those in them, in bytes.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize) {
        self.stripes.iter().fold((0, 0), |(entries, bytes), stripe| {
            let stripe = stripe.read();
            (entries + stripe.channels.len(), bytes + stripe.clocked)
        })
    }
}

/// Entries taken out under the lock, to be dropped after it.
type Removed<P> = SmallVec<[Arc<Channel<P>>; 1]>;

impl<P> Stripe<P> {
    #[inline]
    fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        self.channels.find(hash, |channel| channel.hash == hash && *channel.name == *name)
    }

    /// An entry for `name`, of the spare one where there is one.
    fn make(
        &mut self,
        name: Arc<str>,
        hash: u64,
        derived: Derived<P>,
        held: &mut Option<Held<P>>,
    ) -> Arc<Channel<P>> {
        if let Some(mut spare) = self.spare.take()
            && let Some(entry) = Arc::get_mut(&mut spare)
        {
            *held = Some(entry.renew(name, hash, derived));
            return spare;
        }
        // None, or a publisher holds it that has yet to find that it is detached.
        Arc::new(Channel::new(name, hash, derived.into()))
    }

    fn clock_in(&mut self, channel: &Arc<Channel<P>>, patterns: usize) {
        // Relaxed, both: with the stripe's lock.
        channel.clocked.store(true, Ordering::Relaxed);
        channel.weighed.store(patterns, Ordering::Relaxed);
        self.clocked += channel.clocked_cost();
        self.clock.push_back(Arc::clone(channel));
    }

    /// Lets go of the entries that were least used of late until the others cost at most `budget`.
    fn turn_clock(&mut self, budget: usize, removed: &mut Removed<P>) {
        // Twice around: once to take away second chances, once to take entries.
        let mut looks = 2 * self.clock.len();
        while self.clocked > budget && looks > 0 {
            looks -= 1;
            let Some(channel) = self.clock.pop_front() else { return };
            let again = match channel.try_turn() {
                // A publish is on its way.
                None => true,
                Some(route) if route.is_detached() => false,
                Some(route) if self.is_needed(&channel, &route) => false,
                Some(mut route) => {
                    let cool = route.cool();
                    if cool {
                        route.mark_detached();
                        drop(route);
                        self.forget(&channel);
                    }
                    !cool
                }
            };
            if again {
                self.clock.push_back(channel);
                continue;
            }
            // Relaxed: with the stripe's lock.
            channel.clocked.store(false, Ordering::Relaxed);
            self.clocked -= channel.clocked_cost();
            // One that is still needed, or held by a publisher, is no spare.
            if Arc::strong_count(&channel) == 1
                && let Some(before) = self.spare.replace(channel)
            {
                removed.push(before);
            }
        }
    }

    /// Whether somebody would miss the entry. Both numbers stand still: the one is written under this
    /// stripe's lock, the other in the turn.
    fn is_needed(&self, channel: &Channel<P>, route: &Route<P>) -> bool {
        channel.pins.load(Ordering::Relaxed) > 0 || route.exact.len() > 0
    }

    /// Removes the entry if nobody needs it.
    fn prune(&mut self, channel: &Arc<Channel<P>>) {
        match channel.try_turn() {
            Some(mut route) if !route.is_detached() && !self.is_needed(channel, &route) => {
                route.mark_detached();
                drop(route);
                // What its route holds goes with it.
                self.forget(channel);
            }
            Some(_) => {}
            // Its turn is taken, by a publish that may be the last: the clock will come by.
            None if !self.closed && !channel.clocked.load(Ordering::Relaxed) => {
                self.clock_in(channel, 0);
            }
            None => {}
        }
    }

    fn detach(&mut self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        let mut route = channel.try_turn()?;
        if route.is_detached() {
            return None;
        }
        let held = channel.detach(&mut route);
        drop(route);
        self.forget(channel);
        Some(held)
    }

    /// Takes an entry that is detached out of the table.
    fn forget(&mut self, channel: &Arc<Channel<P>>) {
        self.folded.add(channel.counters.read());
        if let Ok(entry) =
            self.channels.find_entry(channel.hash, |other| Arc::ptr_eq(other, channel))
        {
            entry.remove();
        }
        if self.channels.capacity() > 64 && self.channels.len() < self.channels.capacity() / 4 {
            let room = self.channels.len() * 2;
            self.channels.shrink_to(room, |channel| channel.hash);
        }
    }
}

impl<P> Channel<P> {
    /// What the entry costs as a recent name that so many patterns match, in bytes: itself, its place
    /// in table and clock, and for each pattern what that pattern's messages point to.
    fn cost(&self, patterns: usize) -> usize {
        const PLACES: usize = 4 * size_of::<usize>();
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry = size_of::<Self>() + 2 * COUNTS + self.name.len();
        let pattern = size_of::<(Arc<PatternEntry<P>>, Prepaid)>() + size_of::<Source>() + COUNTS;
        entry + PLACES + patterns * pattern
    }

    /// What the clock counts for it.
    fn clocked_cost(&self) -> usize {
        // Relaxed: written under the stripe's lock.
        self.cost(self.weighed.load(Ordering::Relaxed))
    }
}
