//! The lock-striped topic trie: who has subscribed to what, and whom a publish reaches.
//!
//! It holds the entries of exact channels, striped by their whole names ([`stripes`]); those of recently published
//! names within bounds ([`recent`]); for each channel its subscribers and the patterns that match it ([`channel`],
//! [`route`], [`recipients`]); and the patterns ([`patterns`]). The rest of the engine sees none of these locks, only
//! [`Trie`] and what it hands out.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. a stripe, for a moment: under it, turns are only tried, never waited for;
//! 2. a channel's turn, for one publish, or for one joining or leaving;
//! 3. the recipients of patterns, in the order of the patterns' ids;
//! 4. an inbox's lock (in `inbox`), or those of the watches of interest (in `interest`).
//!
//! A route is derived under the locks of at most two pattern trees, alone or in a turn. Nothing else is locked under
//! them.
//!
//! User code runs under none of these locks, except a payload's `Clone`, which runs in a turn and under the
//! recipients of patterns: every way in that can wait panics when it comes from there
//! ([`assert_not_in_clone`](reentrancy::assert_not_in_clone)).

mod channel;
mod closing;
mod entry_guard;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod introspection;
mod patterns;
mod probe_table;
mod recent;
mod recipients;
mod route;
mod stripe;
mod stripes;
mod subscription;

use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;

pub(crate) use channel::{Channel, Counters, Counts};
pub(crate) use entry_guard::EntryGuard;
pub(crate) use patterns::PatternEntry;
pub(crate) use recipients::{Recipient, Recipients, Totals};
pub(crate) use route::{Route, Turn};
pub(crate) use subscription::{Subscribable, Subscription};

use crate::interest::Watchers;
use crate::reentrancy;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use {patterns::Patterns, stripe::Purpose, stripes::Stripes};

/// See the module's documentation.
pub(crate) struct Trie<P> {
    /// Read at every publish, written once.
    closed: AtomicBool,
    stripes: Stripes<P>,
    patterns: Patterns<P>,
    subscribing: CachePadded<Subscribing>,
}

/// What only subscribing needs, on cache lines of its own.
#[derive(Default)]
struct Subscribing {
    /// The id that the next subscription gets.
    next_id: AtomicU64,
    /// Channels that have an exact subscriber.
    channels: AtomicUsize,
    /// Told which names have subscriptions.
    watchers: Arc<Watchers>,
}

impl<P> Trie<P> {
    pub(crate) fn new(stripes: usize) -> Self {
        let hasher = RandomState::default();
        Self {
            closed: AtomicBool::new(false),
            stripes: Stripes::new(stripes, hasher.clone()),
            patterns: Patterns::new(hasher),
            subscribing: CachePadded::default(),
        }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        // SeqCst: partner of the store in `begin_closing`. Closing writes here and then tries a turn; a
        // publish releases its turn and then reads here. One of them must see the other: see "Closing and turns"
        // in the internals.
        self.closed.load(Ordering::SeqCst)
    }

    // ---- publishing ----------------------------------------------------------------------------

    /// Returns the entry of a name to publish to, made if there is none; `None` if the bus is closed.
    #[inline(always)]
    pub(crate) fn entry_for_publish(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        if self.is_closed() {
            return None;
        }
        self.stripes.entry(name, hash, Purpose::Publish, &self.patterns)
    }

    /// Returns the address where the entry of a name of this hash is looked up, to prefetch it.
    pub(crate) fn slot_address(&self, hash: u64) -> *const u8 {
        self.stripes.slot_address(hash)
    }

    /// Returns the address of the entry of a name of this hash, to prefetch it; null if there is none.
    pub(crate) fn entry_address(&self, hash: u64) -> *const Channel<P> {
        self.stripes.entry_address(hash)
    }

    /// Brings the patterns of a route up to date.
    #[inline]
    pub(crate) fn refresh(&self, channel: &Channel<P>, route: &mut Route<P>)
    where
        P: Send + 'static,
    {
        route.refresh(channel, &self.patterns);
    }

    /// Counts what happened on `channel` outside its turn.
    pub(crate) fn count(&self, channel: &Arc<Channel<P>>, counts: Counts) {
        let entry = self.guard(channel);
        let turn = entry.turn();
        if turn.is_detached() {
            drop(turn);
            self.stripes.fold(channel.hash, counts);
        } else {
            channel.counters.add(counts);
        }
    }

    /// Counts what happened on `channel` outside its turn, and even if the calling thread has another turn.
    #[cfg(feature = "async")]
    pub(crate) fn count_late(&self, channel: &Arc<Channel<P>>, counts: Counts) {
        if reentrancy::is_in_clone() {
            // Under a stripe's lock nobody waits for a turn.
            self.stripes.fold(channel.hash, counts);
        } else {
            self.count(channel, counts);
        }
    }

    /// Counts a publish on a closed bus, which reaches nobody.
    pub(crate) fn count_unreached(&self, hash: u64) {
        self.stripes.fold(hash, Counts::of_one(0));
    }

    /// The entry of a name, kept until `unpin`.
    pub(crate) fn pin(&self, name: &str) -> Arc<Channel<P>>
    where
        P: Send + 'static,
    {
        reentrancy::assert_not_in_clone();
        let hash = self.stripes.hash(name);
        self.stripes
            .entry(name, hash, Purpose::Topic, &self.patterns)
            .unwrap_or_else(|| Arc::new(Channel::detached(name, hash)))
    }

    pub(crate) fn unpin(&self, channel: &Arc<Channel<P>>) {
        self.stripes.unpin(channel);
    }
}

#[cfg(test)]
mod tests;
