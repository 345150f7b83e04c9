//! The stripes: names to channel entries, each part under its own lock, and the bounded memory of recently published
//! names.
//!
//! The entries of names that somebody subscribed or holds by a topic lie in the table of their stripe, and so do the
//! entries of names that are published to repeatedly, until the CLOCK evicts them. A name that is published to for the first
//! time goes on [`probation`] instead, so that names published once pass through memory that stays in a processor's cache
//! and displace nothing else. See [`recent`](super::recent).
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under it, a channel's turn is
//! only tried. So no publish, however long, holds up another channel.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::channel::{Channel, Counters, Counts, Position, Route};
use super::patterns::{PatternEntry, Patterns};
use super::probe_table::{Hashed, ProbeTable};
use super::recent::clock::Clock;
use super::recent::ghosts::Ghosts;
use super::recent::probation::{self, Probation};
use crate::batch_arc::BatchArc;
use crate::small_str::SmallStr;
use crate::source::{PatternSource, Source};
use crate::sync::{Ordering, RwLock};

/// What a bus spends on names that were published to and that nobody subscribed, in bytes.
pub(super) const RECENT_BYTES: usize = 2 << 20;

/// What each stripe may spend of it at least, in bytes: room for some fifty names.
const MIN_STRIPE_BYTES: usize = 32 << 10;

/// The fraction of it that goes to the ghost list.
const GHOSTS: usize = 32;

/// Maximum number of stripes.
pub(super) const MAX_STRIPES: usize = 4096;

/// How many entries the CLOCK evicts for a name that is published to again, so that none of that allocates. What is over the
/// budget after that goes when the next name comes: no more than what was on probation before.
const FEW: usize = 4;

/// Entries removed under the lock, to be dropped after unlocking.
type Removed<P> = SmallVec<[Arc<Channel<P>>; FEW]>;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two.
    stripes: Box<[CachePadded<RwLock<Stripe<P>>>]>,
    hasher: RandomState,
}

struct Stripe<P> {
    channels: ProbeTable<Listed<P>>,
    probation: Probation<P>,
    /// Recent names whose entries are in the table. Some have since been subscribed.
    clock: Clock,
    ghosts: Ghosts,
    /// What the entries in the CLOCK may cost together, in bytes.
    budget: usize,
    /// What removed entries had counted.
    folded: Counters,
    closed: bool,
}

/// An entry in the table, with a part of its name's hash, so that entries of other names are not looked at.
struct Listed<P> {
    hash: u32,
    channel: Arc<Channel<P>>,
}

impl<P> Listed<P> {
    fn new(channel: Arc<Channel<P>>) -> Self {
        Self { hash: channel.hash as u32, channel }
    }
}

impl<P> Hashed for Listed<P> {
    #[inline]
    fn hash(&self) -> u32 {
        self.hash
    }
}

/// Why an entry is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its name becomes a recent one, if it is not needed otherwise.
    Publish,
    /// It is pinned.
    Topic,
    /// The caller adds a subscriber in its turn.
    Subscribe,
}

impl<P> Stripes<P> {
    pub(super) fn new(count: usize, hasher: RandomState) -> Self {
        let count = count.clamp(1, MAX_STRIPES).next_power_of_two();
        let stripe = || CachePadded::new(RwLock::new(Stripe::new(count)));
        Self { stripes: (0..count).map(|_| stripe()).collect(), hasher }
    }

    #[inline]
    pub(super) fn hash(&self, name: &str) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write(name.as_bytes());
        state.finish()
    }

    /// Returns the stripe for a hash, by bits that the table in it does not use.
    #[inline]
    fn stripe(&self, hash: u64) -> &RwLock<Stripe<P>> {
        &self.stripes[(hash >> 32) as usize & (self.stripes.len() - 1)]
    }

    /// Returns the entry of `name`, if it has one.
    pub(super) fn get(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        stripe.find(name, hash).or_else(|| stripe.probation.find(name, hash)).cloned()
    }

    /// Returns the entry of `name`, if the table has one.
    #[inline(always)]
    pub(super) fn find(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        let channel = stripe.find(name, hash)?;
        channel.pin_for(purpose);
        Some(Arc::clone(channel))
    }

    /// Returns the entry of `name`, made if there is none; `None` if the bus is closed.
    #[inline(never)]
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
        if let Some(channel) = self.find(name, hash, purpose) {
            return Some(channel);
        }
        let is_on_probation = self.stripe(hash).read().probation.find(name, hash).is_some();
        if is_on_probation && let Some(channel) = self.promote(name, hash, purpose) {
            return Some(channel);
        }
        // Before locking: matching takes its time, and the locks of the pattern trie.
        let text = SmallStr::new(name);
        let route = Route::derive(&text, patterns);
        self.insert(Channel::new(text, hash, route), purpose)
    }

    /// Moves the entry of a name from probation to the table, if it is still there.
    fn promote(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(hash).write();
        let channel = stripe.promote(name, hash, purpose, &mut removed);
        drop(stripe);
        channel
    }

    /// Adds an entry, unless another thread has added one for its name meanwhile: returns the one that is there.
    fn insert(&self, entry: Channel<P>, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        // What is removed or not needed is dropped after unlocking.
        let mut removed = Removed::new();
        let entry = Arc::new(entry);
        let mut stripe = self.stripe(entry.hash).write();
        if stripe.closed {
            return None;
        }
        let known = match stripe.find(entry.name(), entry.hash) {
            Some(channel) => {
                channel.pin_for(purpose);
                Some(Arc::clone(channel))
            }
            None => stripe.promote(entry.name(), entry.hash, purpose, &mut removed),
        };
        let channel = known.unwrap_or_else(|| {
            stripe.insert(Arc::clone(&entry), purpose, &mut removed);
            Arc::clone(&entry)
        });
        drop(stripe);
        Some(channel)
    }

    /// Accounts for a recent name at what it costs with the patterns that match it now. One that exceeds the whole budget
    /// does not stay.
    pub(super) fn reaccount(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        if !stripe.closed {
            stripe.reaccount(channel, &mut removed);
        }
        drop(stripe);
    }

    /// Removes the entry if nobody needs it; one whose turn is taken is left to the CLOCK.
    pub(super) fn prune(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        stripe.prune(channel, &mut removed);
        drop(stripe);
    }

    /// Gives up a topic's hold on an entry.
    pub(super) fn unpin(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        // Relaxed: under the stripe's lock.
        channel.pins.fetch_sub(1, Ordering::Relaxed);
        stripe.prune(channel, &mut removed);
        drop(stripe);
    }

    /// Adds to what removed entries had counted.
    pub(super) fn fold(&self, hash: u64, counts: Counts) {
        self.stripe(hash).write().folded.add(counts);
    }

    /// Removes the entry, whoever needs it: for a bus that is closed. Returns what its route held, unless the turn is taken:
    /// then its holder calls this when it is done.
    pub(super) fn retire(&self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        self.stripe(channel.hash).write().detach(channel)
    }

    /// Refuses new entries from now on, and calls `retired` with what the routes held, after unlocking. Entries whose turn is
    /// taken stay until their holder is done.
    pub(super) fn close(&self, mut retired: impl FnMut(Route<P>)) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            stripe.closed = true;
            let channels: Vec<_> = stripe.entries().cloned().collect();
            let routes: Vec<_> =
                channels.iter().filter_map(|channel| stripe.detach(channel)).collect();
            drop(stripe);
            routes.into_iter().for_each(&mut retired);
        }
    }

    /// Calls `each` for every entry in the tables, with the stripe's lock held for reading.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Channel<P>)) {
        for stripe in &self.stripes {
            stripe.read().channels.iter().for_each(|listed| each(&listed.channel));
        }
    }

    /// Calls `each` with what every entry has counted, and with what removed ones had.
    pub(super) fn counts(&self, mut each: impl FnMut(Counts)) {
        for stripe in &self.stripes {
            let stripe = stripe.read();
            each(stripe.folded.read());
            stripe.entries().for_each(|channel| each(channel.counters.read()));
        }
    }

    /// Returns the number of slots in the tables.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().channels.capacity()).sum()
    }

    /// `true` if `name` is on probation.
    #[cfg(test)]
    pub(super) fn is_on_probation(&self, name: &str) -> bool {
        let hash = self.hash(name);
        self.stripe(hash).read().probation.find(name, hash).is_some()
    }

    /// Returns the number of entries, and what recent names are accounted for, in bytes.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize) {
        self.stripes.iter().fold((0, 0), |(entries, bytes), stripe| {
            let stripe = stripe.read();
            let cost = |channel: &Arc<Channel<P>>| {
                Channel::<P>::cost(channel.name(), channel.accounted.load(Ordering::Relaxed))
            };
            let on_probation: usize = stripe.probation.iter().map(cost).sum();
            let len = stripe.channels.len() + stripe.probation.len();
            (entries + len, bytes + stripe.clock.cost() + on_probation)
        })
    }
}

impl<P> Stripe<P> {
    /// One of `count` stripes.
    fn new(count: usize) -> Self {
        let names = probation::NAMES / count;
        let bytes = (RECENT_BYTES / count).max(MIN_STRIPE_BYTES);
        let ghosts = bytes / GHOSTS;
        let probation = probation::SET_BYTES * (names / probation::WAYS).max(1);
        Self {
            channels: ProbeTable::default(),
            probation: Probation::new(names),
            clock: Clock::default(),
            ghosts: Ghosts::new(ghosts),
            budget: bytes - ghosts - probation,
            folded: Counters::default(),
            closed: false,
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.channels.iter().map(|listed| &listed.channel).chain(self.probation.iter())
    }

    #[inline]
    fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        let listed = self.channels.find(hash as u32, |listed| listed.channel.is(name, hash))?;
        Some(&listed.channel)
    }

    /// `true` if the table has this very entry.
    fn has(&self, channel: &Arc<Channel<P>>) -> bool {
        self.find(channel.name(), channel.hash).is_some_and(|other| Arc::ptr_eq(other, channel))
    }

    /// Adds the entry of a name that has none.
    fn insert(&mut self, channel: Arc<Channel<P>>, purpose: Purpose, removed: &mut Removed<P>) {
        channel.pin_for(purpose);
        if self.clock.cost() > self.budget {
            // What was in use before, and could not go, goes now.
            self.make_room(0, usize::MAX, removed);
        }
        let was_recent = self.ghosts.take(channel.hash);
        if purpose == Purpose::Publish {
            let patterns = channel.patterns_to_account().unwrap_or(0);
            let cost = Channel::<P>::cost(channel.name(), patterns);
            // Relaxed: under the stripe's lock.
            channel.accounted.store(patterns, Ordering::Relaxed);
            if !was_recent && self.put_on_probation(&channel, cost, removed) {
                return;
            }
            if cost <= self.budget {
                // First room: the entry to come is the coldest, and its publish is yet to come.
                self.make_room(cost, usize::MAX, removed);
                self.clock_in(&channel, cost);
            } else {
                // Its publisher has it removed when it is done.
                channel.request_reaccount();
            }
        }
        self.channels.insert(Listed::new(channel));
        self.reserve();
    }

    /// Returns `false` if the entry is too large for probation, or too many there are in use.
    fn put_on_probation(
        &mut self,
        channel: &Arc<Channel<P>>,
        cost: usize,
        removed: &mut Removed<P>,
    ) -> bool {
        if cost > probation::SET_BYTES {
            return false;
        }
        let vacancy = self.probation.make_room(channel.hash, cost, |evicted| {
            self.ghosts.remember(evicted.hash);
            self.folded.add(evicted.counters.read());
            removed.push(evicted);
        });
        let Some(vacancy) = vacancy else { return false };
        self.probation.insert(vacancy, Arc::clone(channel), cost);
        self.reserve();
        true
    }

    /// Moves the entry of a name from probation to the table. Does not allocate.
    fn promote(
        &mut self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        removed: &mut Removed<P>,
    ) -> Option<Arc<Channel<P>>> {
        let channel = Arc::clone(self.probation.find(name, hash)?);
        self.leave_probation(&channel);
        channel.pin_for(purpose);
        if purpose == Purpose::Publish {
            // Relaxed: under the stripe's lock.
            let cost = Channel::<P>::cost(name, channel.accounted.load(Ordering::Relaxed));
            self.make_room(cost, FEW, removed);
            self.clock_in(&channel, cost);
        }
        Some(channel)
    }

    /// Moves an entry to the table if it is on probation.
    fn leave_probation(&mut self, channel: &Arc<Channel<P>>) {
        if let Some(entry) = self.probation.remove(channel) {
            self.channels.insert(Listed::new(entry));
        }
    }

    /// Reserves slots in the table and in the CLOCK for the names on probation, so that promoting them does not allocate.
    fn reserve(&mut self) {
        self.clock.trim();
        self.channels.reserve(self.probation.len());
        self.clock.reserve(self.probation.len());
    }

    fn clock_in(&mut self, channel: &Channel<P>, cost: usize) {
        channel.set_position(self.clock.insert(channel.hash, cost).map(Position::Clock));
    }

    fn clock_out(&mut self, channel: &Channel<P>) {
        if let Some(Position::Clock(at)) = channel.position() {
            self.clock.remove(at);
            channel.set_position(None);
        }
    }

    fn reaccount(&mut self, channel: &Arc<Channel<P>>, removed: &mut Removed<P>) {
        let Some(patterns) = channel.patterns_to_account() else { return };
        // Relaxed: under the stripe's lock.
        let before = channel.accounted.load(Ordering::Relaxed);
        if channel.position().is_some() && patterns != before {
            channel.accounted.store(patterns, Ordering::Relaxed);
            let cost = Channel::<P>::cost(channel.name(), patterns);
            self.leave_probation(channel);
            self.clock_out(channel);
            if cost <= self.budget {
                self.clock_in(channel, cost);
                // A publish that finds one pattern fewer must not allocate.
                let max_evicted = if patterns > before { usize::MAX } else { FEW };
                self.make_room(0, max_evicted, removed);
            }
        }
        if channel.position().is_none() {
            self.prune(channel, removed);
        }
    }

    /// Evicts the entries least used recently until there is room for one that costs `cost`, or `max_evicted` have gone.
    fn make_room(&mut self, cost: usize, max_evicted: usize, removed: &mut Removed<P>) {
        // Twice around: once to take away second chances, once to evict.
        let mut steps = 2 * self.clock.len();
        let max_removed = removed.len().saturating_add(max_evicted);
        // An entry larger than the whole budget gets no second chance. While it is in use, it counts for nothing.
        let (mut budget, mut oversized) = (self.budget, None);
        while self.clock.cost() + cost > budget && steps > 0 && removed.len() < max_removed {
            steps -= 1;
            let Some((at, hash, size)) = self.clock.advance() else { break };
            let is_oversized = size > self.budget;
            let is_it = |listed: &Listed<P>| listed.channel.position() == Some(Position::Clock(at));
            let Some(Listed { channel, .. }) = self.channels.find_mut(hash as u32, is_it) else {
                debug_assert!(false, "an entry leaves the CLOCK before it leaves the table");
                self.clock.remove(at);
                continue;
            };
            // In the table alone: whoever else could get it needs the stripe's lock first. No publish is under way, no topic
            // and no subscription holds it.
            if let Some(unused) = Arc::get_mut(channel) {
                if unused.cool() || is_oversized {
                    let evicted = self.channels.remove(hash as u32, is_it);
                    evicted.into_iter().for_each(|Listed { channel, .. }| {
                        self.clock_out(&channel);
                        self.folded.add(channel.counters.read());
                        removed.push(channel);
                    });
                }
                continue;
            }
            let channel = Arc::clone(channel);
            if channel.is_needed() {
                self.clock_out(&channel);
            } else if is_oversized && oversized.replace(at) != Some(at) {
                budget += size;
            }
        }
        if let Some(at) = oversized {
            self.clock.take_next(at);
        }
    }

    /// Removes the entry if nobody needs it.
    fn prune(&mut self, channel: &Arc<Channel<P>>, removed: &mut Removed<P>) {
        if let Some(mut route) = channel.try_turn() {
            // What decides stands still: pins are written under this stripe's lock, subscribers in the turn.
            if !route.is_detached() && !channel.is_needed() {
                route.mark_detached();
                drop(route);
                // What its route holds goes with it.
                self.forget(channel);
            }
        } else if !self.closed && channel.position().is_none() && self.has(channel) {
            // A publish is under way, perhaps the last: the CLOCK will come by, and the publisher ask for the cost.
            self.leave_to_clock(channel, removed);
        }
    }

    /// Has the CLOCK evict an entry that is in use now.
    fn leave_to_clock(&mut self, channel: &Arc<Channel<P>>, removed: &mut Removed<P>) {
        let cost = Channel::<P>::cost(channel.name(), 0);
        // Relaxed: under the stripe's lock.
        channel.accounted.store(0, Ordering::Relaxed);
        channel.request_reaccount();
        // One that is too large to stay evicts no other, and is the next to go.
        let is_oversized = cost > self.budget;
        self.make_room(if is_oversized { 0 } else { cost }, usize::MAX, removed);
        self.clock_in(channel, cost);
        if is_oversized && let Some(Position::Clock(at)) = channel.position() {
            self.clock.take_next(at);
        }
        self.reserve();
    }

    /// Ends an entry and takes it out, unless its turn is taken. Returns what its route held.
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

    /// Takes out an entry that is detached.
    fn forget(&mut self, channel: &Arc<Channel<P>>) {
        self.folded.add(channel.counters.read());
        self.probation.remove(channel);
        self.clock_out(channel);
        self.clock.trim();
        self.channels.remove(channel.hash as u32, |other| Arc::ptr_eq(&other.channel, channel));
        self.channels.shrink(self.probation.len());
    }
}

impl<P> Channel<P> {
    /// Keeps the entry for a topic. The caller holds the stripe's lock.
    fn pin_for(&self, purpose: Purpose) {
        if purpose == Purpose::Topic {
            // Relaxed: under the stripe's lock. Who prunes holds it for writing.
            self.pins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `true` if a topic or a subscription holds the entry.
    fn is_needed(&self) -> bool {
        // Relaxed: written under the stripe's lock.
        self.pins.load(Ordering::Relaxed) > 0 || self.subscribers() > 0
    }

    /// Returns what the entry of a recent name costs if `patterns` patterns match it, in bytes: itself, its place in the table
    /// and the CLOCK, and what the messages of each pattern point to.
    fn cost(name: &str, patterns: usize) -> usize {
        const PLACES: usize = 4 * size_of::<usize>();
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry = size_of::<Self>() + 2 * COUNTS + name.len();
        let pattern = size_of::<PatternSource<PatternEntry<P>>>() + BatchArc::<Source>::BYTES;
        entry + PLACES + patterns * pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_both_found_no_entry_come_to_one() {
        let hasher = RandomState::default();
        let stripes = Stripes::<u32>::new(1, hasher.clone());
        let patterns = Patterns::new(hasher);
        let purposes = [Purpose::Publish, Purpose::Topic, Purpose::Subscribe];
        for (i, first) in purposes.into_iter().enumerate() {
            for (j, second) in purposes.into_iter().enumerate() {
                let name = format!("{i}:{j}");
                let hash = stripes.hash(&name);
                let entry = || {
                    let text = SmallStr::new(&name);
                    let route = Route::derive(&text, &patterns);
                    Channel::new(text, hash, route)
                };
                let [one, other] =
                    [first, second].map(|purpose| stripes.insert(entry(), purpose).unwrap());
                assert!(Arc::ptr_eq(&one, &other));
                let topics =
                    usize::from(first == Purpose::Topic) + usize::from(second == Purpose::Topic);
                assert_eq!(one.pins.load(Ordering::Relaxed), topics);
            }
        }
        assert_eq!(stripes.census().0, 9);
    }
}
