//! The registry: which subscribers a bus has, and how many.
//!
//! It finds subscribers by id, so that a publish can end one whose inbox was full, the bus can close all of them, and
//! its statistics can sum over them. It keeps none of them alive, and knows of a subscriber only what [`Registered`]
//! says.
//!
//! Each shard has a lock, held for a moment. No other lock is taken under it, and no user code runs under it: a
//! subscriber that has been looked up is used, and dropped, when the lock is free.

use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use hashbrown::HashMap;

use crate::inbox::Inbox;
use crate::reentrancy::for_each_then_resume;
use crate::stats::{CloseReason, SubscriberInfo};
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// A subscriber, as the engine sees it.
pub(crate) trait Registered<P>: Send + Sync {
    /// Returns its inbox.
    fn inbox(&self) -> &Inbox<P>;

    /// Closes its inbox and ends its subscriptions, without lifecycle events. Returns `true` if it was open.
    fn close(&self, reason: CloseReason) -> bool;

    /// `true` if it is one of [`Registry::subscribers`].
    fn is_counted(&self) -> bool;

    /// Returns what it looks like from outside.
    fn info(&self) -> SubscriberInfo;
}

/// Subscribers by id.
type Shard<P> = HashMap<u64, Weak<dyn Registered<P>>, foldhash::fast::RandomState>;

/// The number of shards: subscribers are made and dropped on many threads at once.
const SHARDS: usize = 16;

/// See the module's documentation.
pub(crate) struct Registry<P> {
    counters: CachePadded<Counters>,
    shards: Box<[CachePadded<Mutex<Shard<P>>>]>,
}

/// What is written when a subscriber is made, dropped or closed, on cache lines that a publish does not read.
#[derive(Default)]
struct Counters {
    next_id: AtomicU64,
    /// Subscribers that have subscribed to something and are not closed.
    subscribers: AtomicUsize,
    /// Subscribers that were closed because their inbox was full.
    disconnected: AtomicU64,
}

impl<P> Registry<P> {
    pub(super) fn new() -> Self {
        Self {
            counters: CachePadded::default(),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Returns an id that no other subscriber of the bus has.
    pub(crate) fn next_id(&self) -> u64 {
        // Relaxed: the ids must differ, no more.
        self.counters.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, id: u64) -> &Mutex<Shard<P>> {
        &self.shards[id as usize % SHARDS]
    }

    pub(crate) fn insert(&self, id: u64, subscriber: Weak<dyn Registered<P>>) {
        self.shard(id).lock().insert(id, subscriber);
    }

    pub(crate) fn remove(&self, id: u64) {
        let mut shard = self.shard(id).lock();
        shard.remove(&id);
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            let capacity = shard.len() * 2;
            shard.shrink_to(capacity);
        }
    }

    /// Returns the subscriber `id`, unless it has been dropped.
    pub(super) fn get(&self, id: u64) -> Option<Arc<dyn Registered<P>>> {
        self.shard(id).lock().get(&id).and_then(Weak::upgrade)
    }

    /// Returns the subscribers that have not been dropped. Dropping one of these handles can drop the messages in its
    /// inbox, and so runs user code.
    pub(super) fn live(&self) -> Vec<Arc<dyn Registered<P>>> {
        let mut live = Vec::new();
        for shard in &self.shards {
            live.extend(shard.lock().values().filter_map(Weak::upgrade));
        }
        live
    }

    /// Calls `each` for every subscriber, under no lock.
    pub(super) fn for_each(&self, mut each: impl FnMut(&dyn Registered<P>)) {
        let live = self.live();
        live.iter().for_each(|subscriber| each(&**subscriber));
        for_each_then_resume(live, drop);
    }

    /// Returns the number of subscribers that have subscribed to something and are not closed.
    pub(crate) fn subscribers(&self) -> usize {
        // Relaxed: the count at some recent moment; exact under the engine's `limit_check`.
        self.counters.subscribers.load(Ordering::Relaxed)
    }

    /// Counts one more of [`subscribers`](Self::subscribers).
    pub(crate) fn count_subscriber(&self) {
        // Relaxed: a count orders nothing.
        self.counters.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less of [`subscribers`](Self::subscribers).
    pub(super) fn uncount_subscriber(&self) {
        // Relaxed: a count orders nothing.
        self.counters.subscribers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of subscribers that were closed because their inbox was full.
    pub(super) fn disconnected(&self) -> u64 {
        // Relaxed: the count at some recent moment.
        self.counters.disconnected.load(Ordering::Relaxed)
    }

    /// Counts one more of [`disconnected`](Self::disconnected).
    pub(super) fn count_disconnected(&self) {
        // Relaxed: a count orders nothing.
        self.counters.disconnected.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;

    #[test]
    fn subscribers_that_come_and_go_leave_nothing_in_the_registry() {
        let bus: Bus<u32> = Bus::new();
        let registered = || -> (usize, usize) {
            let shards = bus.engine.registry.shards.iter().map(|shard| shard.lock());
            shards.fold((0, 0), |(len, capacity), shard| {
                (len + shard.len(), capacity + shard.capacity())
            })
        };
        let stays = bus.subscribe("c").unwrap();
        for _ in 0..100 {
            let goes = bus.subscribe("c").unwrap();
            drop(bus.subscriber());
            assert_eq!(registered().0, 2);
            drop(goes);
            assert_eq!(registered().0, 1);
        }
        let many: Vec<_> = (0..200 * SHARDS).map(|_| bus.subscriber()).collect();
        assert_eq!(registered().0, 1 + many.len());
        drop(many);
        let (len, capacity) = registered();
        assert_eq!(len, 1);
        assert!(capacity <= 64 * SHARDS, "the tables did not shrink: {capacity}");
        drop(stays);
        assert_eq!(registered().0, 0);
    }
}
