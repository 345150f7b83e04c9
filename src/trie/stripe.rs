//! The stripes: names to channel entries, each part under its own lock.
//!
//! The table of a stripe has the entries of names that somebody subscribed or holds by a topic, and of names that are
//! published to repeatedly. A name that is published to for the first time is on probation instead; see [`recent`].
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under it, a channel's
//! turn is only tried. So no publish, however long, holds up another channel.

use std::hash::{BuildHasher, Hasher};
use std::ptr;
use std::sync::Arc;

use super::channel::{Channel, Counters, Counts, NewEntry};
use super::patterns::Patterns;
use super::probe_table::{Hashed, ProbeTable};
use super::recent::clock::Clock;
use super::recent::ghosts::Ghosts;
use super::recent::probation::{self, Probation};
use super::recent::{self, Removed};
use super::route::Route;
use crate::sync::{Ordering, RwLock, RwLockReadGuard};
use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;

/// Maximum number of stripes.
pub(super) const MAX_STRIPES: usize = 4096;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two.
    stripes: Box<[CachePadded<RwLock<Stripe<P>>>]>,
    hasher: RandomState,
}

pub(super) struct Stripe<P> {
    pub(super) channels: ProbeTable<Listed<P>>,
    pub(super) probation: Probation<P>,
    /// Recent names whose entries are in the table. Some have since been subscribed.
    pub(super) clock: Clock,
    pub(super) ghosts: Ghosts,
    /// What the entries in the CLOCK may cost together, in bytes.
    pub(super) budget: usize,
    /// What removed entries had counted.
    pub(super) folded: Counters,
    pub(super) closed: bool,
}

/// An entry in the table, with a part of its name's hash, so that entries of other names are not looked at.
pub(super) struct Listed<P> {
    pub(super) hash: u32,
    pub(super) channel: Arc<Channel<P>>,
}

impl<P> Listed<P> {
    pub(super) fn new(channel: Arc<Channel<P>>) -> Self {
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

    /// Returns the entry of `name`, if it has one, and leaves it where it is.
    pub(super) fn peek(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        stripe.find(name, hash).or_else(|| stripe.probation.find(name, hash)).cloned()
    }

    /// Returns the address where the entry of a name of this hash is looked up, to prefetch it.
    pub(super) fn slot_address(&self, hash: u64) -> *const u8 {
        self.stripe(hash).read().channels.address(hash as u32)
    }

    /// Returns the address of the entry of a name of this hash, to prefetch it; null if it is not in the table.
    pub(super) fn entry_address(&self, hash: u64) -> *const Channel<P> {
        let stripe = self.stripe(hash).read();
        let listed = stripe.channels.find(hash as u32, |_| true);
        listed.map_or(ptr::null(), |listed| Arc::as_ptr(&listed.channel))
    }

    /// Returns the entry of `name`, if it has one.
    #[inline(always)]
    fn find(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        if let Some(channel) = stripe.find(name, hash) {
            channel.pin_for(purpose);
            return Some(Arc::clone(channel));
        }
        self.find_on_probation(stripe, name, hash, purpose)
    }

    /// Returns the entry of a name that is not in the table of its `stripe`, if it is on probation.
    #[inline(never)]
    fn find_on_probation(
        &self,
        stripe: RwLockReadGuard<'_, Stripe<P>>,
        name: &str,
        hash: u64,
        purpose: Purpose,
    ) -> Option<Arc<Channel<P>>> {
        stripe.probation.find(name, hash)?;
        drop(stripe);
        self.promote(name, hash, purpose)
    }

    /// Returns the entry of `name`, made if there is none; `None` if the bus is closed.
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
        match self.find(name, hash, purpose) {
            Some(channel) => Some(channel),
            None => self.make_entry(name, hash, purpose, patterns),
        }
    }

    #[inline(never)]
    fn make_entry(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        patterns: &Patterns<P>,
    ) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        // Before locking: matching takes its time, and the locks of the pattern trie.
        let mut new = NewEntry::new(hash);
        new.derive(name, patterns);
        self.insert(&mut new, purpose)
    }

    /// Returns the entry of `name`, which was on probation a moment ago, and moves it to the table.
    fn promote(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(hash).write();
        let found = stripe.find_and_promote(name, hash, purpose, &mut removed);
        drop(stripe);
        found
    }

    /// Adds an entry, unless another thread has added one for its name meanwhile: returns the one that is there.
    pub(super) fn insert(
        &self,
        new: &mut NewEntry<P>,
        purpose: Purpose,
    ) -> Option<Arc<Channel<P>>> {
        // What is removed or not needed is dropped after unlocking.
        let mut removed = Removed::new();
        let (name, hash) = (new.name.as_str(), new.hash);
        let mut stripe = self.stripe(hash).write();
        if stripe.closed {
            return None;
        }
        let known = stripe.find_and_promote(name, hash, purpose, &mut removed);
        let channel = known.unwrap_or_else(|| stripe.insert(new, purpose, &mut removed));
        drop(stripe);
        Some(channel)
    }

    /// Accounts for a recent name at what it costs with the patterns that match it now. One that exceeds the whole
    /// budget does not stay.
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

    /// Removes the entry, whoever needs it: for a bus that is closed. Returns what its route held, unless the turn is
    /// taken: then its holder calls this when it is done.
    pub(super) fn detach(&self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        self.stripe(channel.hash).write().detach(channel)
    }

    /// Refuses new entries from now on, and calls `detached` with what the routes held, after unlocking. Entries whose
    /// turn is taken stay until their holder is done.
    pub(super) fn close(&self, mut detached: impl FnMut(Route<P>)) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            stripe.closed = true;
            let channels: Vec<_> = stripe.entries().cloned().collect();
            let routes: Vec<_> =
                channels.iter().filter_map(|channel| stripe.detach(channel)).collect();
            drop(stripe);
            routes.into_iter().for_each(&mut detached);
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
        let bytes = (recent::BYTES / count).max(recent::MIN_STRIPE_BYTES);
        let ghosts = bytes / recent::GHOSTS;
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

    /// Returns the entry of `name`, and moves it to the table if it is on probation.
    fn find_and_promote(
        &mut self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        removed: &mut Removed<P>,
    ) -> Option<Arc<Channel<P>>> {
        match self.find(name, hash) {
            Some(channel) => {
                channel.pin_for(purpose);
                Some(Arc::clone(channel))
            }
            None => self.promote(name, hash, purpose, removed),
        }
    }

    /// `true` if the table has this very entry.
    fn has(&self, channel: &Arc<Channel<P>>) -> bool {
        self.find(channel.name(), channel.hash).is_some_and(|other| Arc::ptr_eq(other, channel))
    }

    /// Adds the entry of a name that has none. What is left in `new` is to be dropped after unlocking.
    #[inline]
    fn insert(
        &mut self,
        new: &mut NewEntry<P>,
        purpose: Purpose,
        removed: &mut Removed<P>,
    ) -> Arc<Channel<P>> {
        if self.clock.cost() > self.budget {
            // What was in use before, and could not go, goes now.
            self.make_room(0, usize::MAX, removed);
        }
        let was_recent = self.ghosts.take(new.hash);
        let patterns = new.route().patterns.len();
        let cost = Channel::<P>::cost(new.name.as_str(), patterns);
        if purpose == Purpose::Publish {
            if was_recent {
                // With the publish to come, the one that the ghost stands for makes two: the CLOCK gives the entry a
                // second chance.
                new.route().count_use();
            } else if let Some(channel) = self.put_on_probation(new, cost, removed) {
                return channel;
            }
        }
        let channel = Arc::new(new.build());
        channel.pin_for(purpose);
        if purpose == Purpose::Publish {
            if cost <= self.budget {
                // First room: the entry to come is the coldest, and its publish is yet to come.
                self.make_room(cost, usize::MAX, removed);
                self.clock_in(&channel, cost);
            } else {
                // Its publisher has it removed when it is done.
                channel.request_reaccount();
            }
        }
        self.channels.insert(Listed::new(Arc::clone(&channel)));
        self.reserve();
        channel
    }

    /// Removes the entry if nobody needs it.
    pub(super) fn prune(&mut self, channel: &Arc<Channel<P>>, removed: &mut Removed<P>) {
        if self.closed {
            // Whoever has the turn detaches the entry and takes all that its route holds: it must find the route.
            return;
        }
        if let Some(mut route) = channel.try_turn() {
            // What decides stands still: pins are written under this stripe's lock, subscribers in the turn.
            if !route.is_detached() && !channel.is_needed() {
                route.mark_detached();
                drop(route);
                // What its route holds goes with it.
                self.remove(channel);
            }
        } else if channel.position().is_none() && self.has(channel) {
            // A publish is under way, perhaps the last: the CLOCK will come by, and the publisher ask for the cost.
            self.leave_to_clock(channel, removed);
        }
    }

    /// Ends an entry and takes it out, unless its turn is taken. Returns what its route held.
    fn detach(&mut self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        let mut route = channel.try_turn()?;
        if route.is_detached() {
            return None;
        }
        let held = channel.detach(&mut route);
        drop(route);
        self.remove(channel);
        Some(held)
    }

    /// Takes out an entry that is detached.
    fn remove(&mut self, channel: &Arc<Channel<P>>) {
        self.folded.add(channel.counters.read());
        self.probation.remove(channel);
        self.clock_out(channel);
        self.clock.trim();
        self.channels.remove(channel.hash as u32, |other| Arc::ptr_eq(&other.channel, channel));
        self.channels.shrink(self.probation.len());
    }
}
