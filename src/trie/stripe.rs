//! The stripes: names to channel entries, each part under its own lock, and the bounded memory of
//! recently published names.
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under
//! it, a channel's turn is only tried. So no publish, however long, holds up another channel.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::channel::{Channel, Counters, Derived, Held, Route, Tally};
use super::clock::{Clocks, Ring, Slot};
use super::patterns::{PatternEntry, Patterns};
use crate::source::{PatternSource, Source};
use crate::sync::{Ordering, RwLock};

/// How much memory a bus spends on names that were published to and that nobody subscribed, in bytes.
pub(super) const RECENT_BYTES: usize = 2 << 20;

/// What each stripe may spend of it at least, in bytes: room for some eighty names.
const STRIPE_BYTES: usize = 32 << 10;

/// The part of it that is for names published once: so little that it stays in a processor's cache, since each
/// new name writes over the oldest. (A name never seen takes 720 ns when all of a MiB is for them, and 360 ns
/// when it is a quarter, beside a thousand inboxes.)
const NEW_NAMES: usize = 8;

/// The part of it that remembers names that have gone before they were used again.
const GONE_NAMES: usize = 32;

/// More stripes than this are of no use.
pub(super) const MOST_STRIPES: usize = 4096;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two of them.
    stripes: Box<[CachePadded<RwLock<Stripe<P>>>]>,
    budget: Budget,
    hasher: RandomState,
}

/// Bytes that a stripe spends on recent names.
#[derive(Clone, Copy)]
struct Budget {
    new: usize,
    used: usize,
    gone: usize,
}

impl Budget {
    fn on(self, ring: Ring) -> usize {
        match ring {
            Ring::New => self.new,
            Ring::Used => self.used,
        }
    }

    /// Where a new name goes that costs so much: with the used ones if it is large, nowhere if it is too large.
    fn ring(self, cost: usize) -> Option<Ring> {
        [Ring::New, Ring::Used].into_iter().find(|&ring| cost <= self.on(ring))
    }
}

struct Stripe<P> {
    channels: HashTable<Arc<Channel<P>>>,
    /// The recent names: entries that nobody may need any more. Some have since been subscribed.
    clocks: Clocks,
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
            clocks: Clocks::default(),
            folded: Counters::default(),
            closed: false,
        };
        let bytes = (RECENT_BYTES / count).max(STRIPE_BYTES);
        let (new, gone) = (bytes / NEW_NAMES, bytes / GONE_NAMES);
        Self {
            stripes: (0..count).map(|_| CachePadded::new(RwLock::new(stripe()))).collect(),
            budget: Budget { new, used: bytes - new - gone, gone },
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

    /// The entry of `name`, made where there is none; `None` where the bus is closed.
    #[inline]
    pub(super) fn entry(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        patterns: &Patterns<P>,
    ) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
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
    ) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        // Before the lock: matching takes its time, and the pattern trie's own lock.
        let derived = Derived::new(name, patterns);
        let patterns = derived.len();
        let new: Arc<str> = Arc::from(name);
        let mut removed = Removed::new();
        let mut held = Held::default();
        let mut stripe = self.stripe(hash).write();
        if stripe.closed {
            return None;
        }
        let channel = match stripe.find(name, hash) {
            Some(channel) => Arc::clone(channel),
            None => {
                let cost = Channel::<P>::cost(name, patterns);
                let recent = purpose == Purpose::Publish;
                let mut ring = self.budget.ring(cost).filter(|_| recent);
                if ring.is_some() && stripe.clocks.recall(hash) {
                    ring = Some(Ring::Used);
                }
                if let Some(ring) = ring {
                    // Room first: the entry to come is the coldest, and its publish is yet to come.
                    stripe.make_room(self.budget, ring, cost, &mut removed);
                }
                let channel = match removed.pop() {
                    Some(mut spare) => {
                        let Some(entry) = Arc::get_mut(&mut spare) else {
                            unreachable!("the clock takes entries that nobody else holds");
                        };
                        entry.renew(new, hash, derived, &mut held);
                        spare
                    }
                    None => {
                        let route = derived.into_route(&new);
                        Arc::new(Channel::new(new, hash, route))
                    }
                };
                stripe.channels.insert_unique(hash, Arc::clone(&channel), |channel| channel.hash);
                if let Some(ring) = ring {
                    stripe.clock_in(&channel, ring, patterns);
                }
                channel
            }
        };
        if purpose == Purpose::Topic {
            // Relaxed: with the stripe's lock.
            channel.pins.fetch_add(1, Ordering::Relaxed);
        }
        // What the clock took, and what the entry had held, is dropped after this.
        drop(stripe);
        drop(held);
        Some(channel)
    }

    /// Counts a recent name at what it costs now that so many `patterns` match it. One that exceeds the whole
    /// budget does not stay.
    pub(super) fn weigh(&self, channel: &Arc<Channel<P>>, patterns: Option<usize>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        if stripe.closed {
            return;
        }
        if let Some(slot) = channel.slot()
            && let Some(patterns) = patterns
        {
            stripe.clock_out(channel);
            let cost = Channel::<P>::cost(&channel.name, patterns);
            if let Some(ring) = self.budget.ring(cost) {
                let ring = if slot.ring == Ring::Used { Ring::Used } else { ring };
                stripe.clock_in(channel, ring, patterns);
                stripe.make_room(self.budget, ring, 0, &mut removed);
            }
        }
        if channel.slot().is_none() {
            stripe.prune(channel, self.budget, &mut removed);
        }
        drop(stripe);
    }

    /// Removes the entry if nobody needs it; one whose turn is taken is left to the clock.
    pub(super) fn prune(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        stripe.prune(channel, self.budget, &mut removed);
        drop(stripe);
    }

    /// Gives up a topic's hold on an entry.
    pub(super) fn unpin(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        // Relaxed: with the stripe's lock.
        channel.pins.fetch_sub(1, Ordering::Relaxed);
        stripe.prune(channel, self.budget, &mut removed);
        drop(stripe);
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
            let channels: Vec<_> = stripe.channels.iter().cloned().collect();
            let routes: Vec<_> =
                channels.iter().filter_map(|channel| stripe.detach(channel)).collect();
            drop(stripe);
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
            (entries + stripe.channels.len(), bytes + stripe.clocks.cost())
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

    /// Whether the table has this very entry.
    fn has(&self, channel: &Arc<Channel<P>>) -> bool {
        self.find(&channel.name, channel.hash).is_some_and(|other| Arc::ptr_eq(other, channel))
    }

    fn clock_in(&mut self, channel: &Channel<P>, ring: Ring, patterns: usize) {
        // Relaxed: with the stripe's lock.
        channel.weighed.store(patterns, Ordering::Relaxed);
        let cost = Channel::<P>::cost(&channel.name, patterns);
        channel.set_slot(self.clocks.insert(ring, channel.hash, cost));
    }

    fn clock_out(&mut self, channel: &Channel<P>) {
        if let Some(slot) = channel.slot() {
            self.clocks.remove(slot);
            channel.set_slot(None);
        }
    }

    /// Takes out the entries that were least used of late until there is room for one that costs so much on
    /// `ring`, within `budget`.
    fn make_room(&mut self, budget: Budget, ring: Ring, cost: usize, removed: &mut Removed<P>) {
        self.turn_clock(budget, ring, cost, removed);
        if ring == Ring::New {
            // Some of those that were new may be among the used ones now.
            self.turn_clock(budget, Ring::Used, 0, removed);
        }
    }

    fn turn_clock(&mut self, budget: Budget, ring: Ring, cost: usize, removed: &mut Removed<P>) {
        // Twice around: once to take away second chances, once to take entries.
        let mut looks = 2 * self.clocks.on(ring).len();
        while self.clocks.on(ring).cost() > budget.on(ring) - cost && looks > 0 {
            looks -= 1;
            let Some((at, hash)) = self.clocks.on(ring).advance() else { return };
            let slot = Slot { ring, at };
            let is_it = |channel: &Arc<Channel<P>>| channel.slot() == Some(slot);
            let Ok(mut found) = self.channels.find_entry(hash, is_it) else {
                debug_assert!(false, "an entry leaves the clock before it leaves the table");
                self.clocks.remove(slot);
                continue;
            };
            match Arc::get_mut(found.get_mut()) {
                // In the table alone, where only readers who hold the stripe's lock can come by it: no publish is
                // on its way, no topic and no subscription holds it.
                Some(channel) => {
                    if channel.cool() {
                        let channel = found.remove().0;
                        self.clock_out(&channel);
                        if ring == Ring::New {
                            self.clocks.remember(hash, budget.gone);
                        }
                        self.folded.add(channel.counters.read());
                        removed.push(channel);
                    } else if ring == Ring::New {
                        let channel = Arc::clone(found.get());
                        self.clock_out(&channel);
                        // Relaxed: with the stripe's lock.
                        let patterns = channel.weighed.load(Ordering::Relaxed);
                        self.clock_in(&channel, Ring::Used, patterns);
                    }
                }
                None => {
                    let channel = Arc::clone(found.get());
                    if channel.is_needed() {
                        self.clock_out(&channel);
                    }
                }
            }
        }
    }

    /// Removes the entry if nobody needs it.
    fn prune(&mut self, channel: &Arc<Channel<P>>, budget: Budget, removed: &mut Removed<P>) {
        match channel.try_turn() {
            // What decides stands still: pins are written under this stripe's lock, the other in the turn.
            Some(mut route) if !route.is_detached() && !channel.is_needed() => {
                route.mark_detached();
                drop(route);
                // What its route holds goes with it.
                self.forget(channel);
            }
            Some(_) => {}
            // Its turn is taken, by a publish that may be the last: the clock will come by.
            // (One that another thread has taken out of the table is no concern of the clock's.)
            None if !self.closed && channel.slot().is_none() && self.has(channel) => {
                let cost = Channel::<P>::cost(&channel.name, 0);
                match budget.ring(cost) {
                    Some(ring) => {
                        self.make_room(budget, ring, cost, removed);
                        self.clock_in(channel, ring, 0);
                    }
                    // Too large to stay: it is the next to go, and drives out no other.
                    None => {
                        self.make_room(budget, Ring::Used, 0, removed);
                        self.clock_in(channel, Ring::Used, 0);
                        if let Some(slot) = channel.slot() {
                            self.clocks.take_next(slot);
                        }
                    }
                }
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
        self.clock_out(channel);
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
    /// Whether somebody would miss the entry.
    fn is_needed(&self) -> bool {
        // Relaxed: written under the stripe's lock.
        self.pins.load(Ordering::Relaxed) > 0 || self.subscribers() > 0
    }

    /// What the entry of a recent name costs that so many patterns match, in bytes: itself, its place in
    /// table and clock, and for each pattern what that pattern's messages point to.
    fn cost(name: &str, patterns: usize) -> usize {
        const PLACES: usize = 4 * size_of::<usize>();
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry = size_of::<Self>() + 2 * COUNTS + name.len();
        let pattern = size_of::<PatternSource<PatternEntry<P>>>() + size_of::<Source>() + COUNTS;
        entry + PLACES + patterns * pattern
    }
}
