//! All stripes of a trie, each under its own lock.
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under it, a channel's
//! turn is only tried. So no publish, however long, holds up another channel.

use std::hash::{BuildHasher, Hasher};
use std::ptr;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;

use super::channel::{Channel, Counts, NewEntry};
use super::patterns::Patterns;
use super::recent::Removed;
use super::route::Route;
use super::stripe::{Purpose, Stripe};
use crate::sync::{Ordering, RwLock, RwLockReadGuard};

/// Maximum number of stripes.
pub(super) const MAX_STRIPES: usize = 4096;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two.
    stripes: Box<[CachePadded<RwLock<Stripe<P>>>]>,
    hasher: RandomState,
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
    pub(super) fn for_each(&self, mut each: impl FnMut(&Arc<Channel<P>>)) {
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
