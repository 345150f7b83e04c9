//! A stripe: a part of the names, with their channels' entries.
//!
//! Its table has the entries of names that somebody subscribed or holds by a topic, and of names that are published to
//! repeatedly. A name that is published to for the first time is on probation instead; see [`recent`].

use std::sync::Arc;

use super::channel::{Channel, Counters, NewEntry};
use super::probe_table::{Hashed, ProbeTable};
use super::recent::clock::Clock;
use super::recent::ghosts::Ghosts;
use super::recent::probation::{self, Probation};
use super::recent::{self, Removed};
use super::route::Route;

/// See the module's documentation.
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

impl<P> Stripe<P> {
    /// One of `count` stripes.
    pub(super) fn new(count: usize) -> Self {
        let names = probation::NAMES / count;
        let bytes = (recent::BYTES / count).max(recent::MIN_STRIPE_BYTES);
        let ghosts = bytes / recent::GHOST_SHARE;
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

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.channels.iter().map(|listed| &listed.channel).chain(self.probation.iter())
    }

    #[inline]
    pub(super) fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        let listed = self.channels.find(hash as u32, |listed| listed.channel.is(name, hash))?;
        Some(&listed.channel)
    }

    /// Returns the entry of `name`, and moves it to the table if it is on probation.
    pub(super) fn find_and_promote(
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

    /// Adds the entry of a name that has none. The caller drops what is left in `new` after unlocking.
    #[inline]
    pub(super) fn insert(
        &mut self,
        new: &mut NewEntry<P>,
        purpose: Purpose,
        removed: &mut Removed<P>,
    ) -> Arc<Channel<P>> {
        if self.clock.cost() > self.budget {
            // Over the budget, as entries were in use when the last name came.
            self.make_room(0, usize::MAX, removed);
        }
        let was_recent = self.ghosts.take(new.hash);
        let patterns = new.route().patterns.len();
        let cost = Channel::<P>::cost(new.name.as_str(), patterns);
        if purpose == Purpose::Publish {
            if was_recent {
                // This publish is the second: the ghost stands for the first. So the CLOCK gives the entry a second
                // chance.
                new.route().count_use();
            } else if let Some(channel) = self.put_on_probation(new, cost, removed) {
                return channel;
            }
        }
        let channel = Arc::new(new.build());
        channel.pin_for(purpose);
        if purpose == Purpose::Publish {
            if cost <= self.budget {
                // Room is made first: the new entry has not been used yet, and would be evicted itself.
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
            // A publish is under way, perhaps the last: the publisher will ask for the cost, and the CLOCK may evict
            // the entry.
            self.leave_to_clock(channel, removed);
        }
    }

    /// Ends an entry and takes it out, unless its turn is taken. Returns what its route held.
    pub(super) fn detach(&mut self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
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
