//! The bounded memory of recently published names that nobody subscribes to or holds by a topic: S3-FIFO over the
//! entries of a stripe.
//!
//! A name that is published to for the first time goes on [`probation`]. If it is published to again there, its entry
//! moves to the stripe's table, and the CLOCK ([`clock`]) evicts it when it is not used any more; otherwise it gives
//! way to the next new name, and a ghost ([`ghosts`]) remembers its hash. A name that comes again while its ghost is
//! there skips probation. So names published once pass through memory that stays in a processor's cache, and displace
//! nothing else.
//!
//! All of this is accounted for in bytes, by what an entry costs with the patterns that match it. An entry that
//! somebody holds is never evicted.

pub(super) mod clock;
pub(super) mod ghosts;
pub(super) mod probation;

use std::sync::Arc;

use smallvec::SmallVec;

use super::channel::{Channel, NewEntry, Position};
use super::patterns::PatternEntry;
use super::stripe::{Listed, Purpose, Stripe};
use crate::batch_arc::BatchArc;
use crate::source::{PatternSource, Source};
use crate::sync::Ordering;

/// What a bus spends on recent names, in bytes.
pub(super) const BYTES: usize = 2 << 20;

/// What each stripe may spend of it at least, in bytes: room for some fifty names.
pub(super) const MIN_STRIPE_BYTES: usize = 32 << 10;

/// The ghost list gets one part in this many of it.
pub(super) const GHOST_SHARE: usize = 32;

/// How many entries the CLOCK evicts for a name that is published to again: as many as fit without an allocation. What
/// is over the budget then is evicted when the next name comes: no more than what was on probation before.
const FEW_EVICTIONS: usize = 4;

/// Entries removed under the stripe's lock, to be dropped after unlocking.
pub(super) type Removed<P> = SmallVec<[Arc<Channel<P>>; FEW_EVICTIONS]>;

impl<P> Stripe<P> {
    /// Puts a name on probation; its entry takes the memory of one that was evicted, if any was. Returns `None` if the
    /// entry is too large, or if too many entries there are in use.
    pub(in crate::trie) fn put_on_probation(
        &mut self,
        new: &mut NewEntry<P>,
        cost: usize,
        removed: &mut Removed<P>,
    ) -> Option<Arc<Channel<P>>> {
        if cost > probation::SET_BYTES {
            return None;
        }
        let before = self.probation.len();
        let vacancy = self.probation.make_room(new.hash, cost, |evicted| {
            self.ghosts.remember(evicted.hash);
            self.folded.add(evicted.counters.read());
            removed.push(evicted);
        })?;
        // Held by nobody else, or it would not have been evicted.
        let reused = removed.pop().and_then(|mut evicted| {
            new.build_in(Arc::get_mut(&mut evicted)?);
            Some(evicted)
        });
        let channel = reused.unwrap_or_else(|| Arc::new(new.build()));
        self.probation.insert(vacancy, Arc::clone(&channel), cost);
        if self.probation.len() > before {
            self.reserve();
        }
        Some(channel)
    }

    /// Moves the entry of a name from probation to the table. Does not allocate.
    pub(in crate::trie) fn promote(
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
            self.make_room(cost, FEW_EVICTIONS, removed);
            self.clock_in(&channel, cost);
        }
        Some(channel)
    }

    /// Moves an entry to the table if it is on probation.
    pub(in crate::trie) fn leave_probation(&mut self, channel: &Arc<Channel<P>>) {
        if let Some(entry) = self.probation.remove(channel) {
            self.channels.insert(Listed::new(entry));
        }
    }

    /// Reserves slots in the table and in the CLOCK for the names on probation, so that promoting them does not
    /// allocate.
    pub(in crate::trie) fn reserve(&mut self) {
        self.clock.trim();
        self.channels.reserve(self.probation.len());
        self.clock.reserve(self.probation.len());
    }

    pub(in crate::trie) fn clock_in(&mut self, channel: &Channel<P>, cost: usize) {
        channel.set_position(self.clock.insert(channel.hash, cost).map(Position::Clock));
    }

    pub(in crate::trie) fn clock_out(&mut self, channel: &Channel<P>) {
        if let Some(Position::Clock(at)) = channel.position() {
            self.clock.remove(at);
            channel.set_position(None);
        }
    }

    pub(in crate::trie) fn reaccount(
        &mut self,
        channel: &Arc<Channel<P>>,
        removed: &mut Removed<P>,
    ) {
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
                let max_evicted = if patterns > before { usize::MAX } else { FEW_EVICTIONS };
                self.make_room(0, max_evicted, removed);
            }
        }
        if channel.position().is_none() {
            self.prune(channel, removed);
        }
    }

    /// Evicts the entries least used recently until there is room for one that costs `cost`, or `max_evicted` have
    /// gone.
    pub(in crate::trie) fn make_room(
        &mut self,
        cost: usize,
        max_evicted: usize,
        removed: &mut Removed<P>,
    ) {
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
            // In the table alone: whoever else could get it needs the stripe's lock first. No publish is under way,
            // no topic and no subscription holds it.
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

    /// Leaves an entry that is in use now to the CLOCK, to be evicted.
    pub(in crate::trie) fn leave_to_clock(
        &mut self,
        channel: &Arc<Channel<P>>,
        removed: &mut Removed<P>,
    ) {
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
}

impl<P> Channel<P> {
    /// Returns what the entry of a recent name costs if `patterns` patterns match it, in bytes: itself, its slots in
    /// the table and the CLOCK, and what the messages of each pattern point to.
    pub(super) fn cost(name: &str, patterns: usize) -> usize {
        const SLOT_BYTES: usize = 4 * size_of::<usize>();
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry = size_of::<Self>() + 2 * COUNTS + name.len();
        let pattern = size_of::<PatternSource<PatternEntry<P>>>() + BatchArc::<Source>::BYTES;
        entry + SLOT_BYTES + patterns * pattern
    }
}
