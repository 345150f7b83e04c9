//! What the handles of a bus share: the trie, the registry of subscribers, and the choices made when
//! the bus was built.

use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use hashbrown::HashMap;

use crate::inbox::Inbox;
use crate::limits::{Limits, Overflow};
use crate::member::{Held, Member, release};
use crate::reentrancy::{self, Panics, for_each_then_resume};
use crate::stats::{CloseReason, Stats, SubscriberInfo};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::trie::Trie;

/// See the module's documentation.
pub(crate) struct Engine<P> {
    pub(crate) trie: Trie<P>,
    pub(crate) limits: Limits,
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    /// Whether `deferred` holds anything. Read at every publish, hardly ever written.
    has_deferred: AtomicBool,
    /// What subscribers dropped in a turn had held, and their inboxes.
    deferred: Mutex<Vec<Left<P>>>,
    /// Whether closing is done. (It has begun when the trie is closed.)
    closed: AtomicBool,
    /// Taken by whoever subscribes on a bus whose limits span subscribers.
    pub(crate) admission: Mutex<()>,
    members: CachePadded<Members>,
    /// Messages that were unread when their inbox was dropped.
    pub(crate) discarded: Arc<AtomicU64>,
    registry: Box<[CachePadded<Mutex<Shard<P>>>]>,
}

/// What a subscriber dropped in a turn leaves to be given up after it.
struct Left<P> {
    held: Held<P>,
    inbox: Arc<Inbox<P>>,
}

/// Subscribers by number. They are not kept alive by it.
type Shard<P> = HashMap<u64, Weak<Member<P>>, foldhash::fast::RandomState>;

/// Shards of the registry, so that subscribers can come and go on many threads.
const SHARDS: usize = 16;

/// What only making and dropping subscribers writes, on cache lines of its own.
#[derive(Default)]
struct Members {
    next: AtomicU64,
    /// Those that have subscribed to something and are not closed.
    counted: AtomicUsize,
    /// Those that were ended because their inbox was full.
    disconnected: AtomicU64,
}

impl<P> Engine<P> {
    pub(crate) fn new(stripes: usize, limits: Limits, capacity: usize, overflow: Overflow) -> Self {
        Self {
            trie: Trie::new(stripes),
            limits,
            capacity,
            overflow,
            has_deferred: AtomicBool::new(false),
            deferred: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            admission: Mutex::new(()),
            members: CachePadded::default(),
            discarded: Arc::default(),
            registry: (0..SHARDS).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Where every call begins that waits for a lock: panics in a payload's `Clone`, and does what one
    /// has left to be done.
    #[inline]
    pub(crate) fn check_reentrancy(&self) {
        reentrancy::assert_not_in_clone();
        self.catch_up();
    }

    // ---- the registry --------------------------------------------------------------------------

    pub(crate) fn next_member(&self) -> u64 {
        // Relaxed: only that they differ matters.
        self.members.next.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, member: u64) -> &Mutex<Shard<P>> {
        &self.registry[member as usize % SHARDS]
    }

    pub(crate) fn register(&self, member: &Arc<Member<P>>) {
        let number = member.inbox.member();
        self.shard(number).lock().insert(number, Arc::downgrade(member));
    }

    pub(crate) fn unregister(&self, member: u64) {
        let mut shard = self.shard(member).lock();
        shard.remove(&member);
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }

    /// The subscribers that there are. Whoever drops the last handle to one drops what was not read.
    fn live_members(&self) -> Vec<Arc<Member<P>>> {
        let mut members = Vec::new();
        for shard in &self.registry {
            members.extend(shard.lock().values().filter_map(Weak::upgrade));
        }
        members
    }

    /// Calls `each` for every subscriber, under no lock.
    fn for_each_member(&self, mut each: impl FnMut(&Member<P>)) {
        let members = self.live_members();
        members.iter().for_each(|member| each(member));
        for_each_then_resume(members, drop);
    }

    pub(crate) fn subscribers(&self) -> usize {
        // Relaxed: a count at some recent moment; exact under `admission`.
        self.members.counted.load(Ordering::Relaxed)
    }

    pub(crate) fn count_subscriber(&self) {
        // Relaxed: a mere count.
        self.members.counted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uncount_subscriber(&self) {
        // Relaxed: a mere count.
        self.members.counted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends a subscriber whose inbox was full.
    pub(crate) fn disconnect(&self, member: u64) {
        let found = self.shard(member).lock().get(&member).and_then(Weak::upgrade);
        if let Some(member) = found
            && member.close(CloseReason::Overflow)
        {
            // Relaxed: a mere count.
            self.members.disconnected.fetch_add(1, Ordering::Relaxed);
        }
    }

    // ---- what was left to be done --------------------------------------------------------------

    pub(crate) fn defer(&self, held: Held<P>, inbox: Arc<Inbox<P>>) {
        self.deferred.lock().push(Left { held, inbox });
        // Release: partner of the Acquire in `catch_up`.
        self.has_deferred.store(true, Ordering::Release);
    }

    /// Gives up what subscribers that were dropped in a turn had held.
    #[inline]
    pub(crate) fn catch_up(&self) {
        if self.has_deferred.load(Ordering::Acquire) {
            self.release_deferred();
        }
    }

    #[cold]
    fn release_deferred(&self) {
        let deferred = {
            let mut deferred = self.deferred.lock();
            // Relaxed: under the lock.
            self.has_deferred.store(false, Ordering::Relaxed);
            std::mem::take(&mut *deferred)
        };
        for_each_then_resume(deferred, |Left { mut held, inbox }| {
            release(self, &mut held);
            drop(inbox);
        });
    }

    // ---- closing and looking in ----------------------------------------------------------------

    pub(crate) fn close(&self) {
        // Relaxed: a second closer that does not see it does all again, which changes nothing.
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        self.trie.shut_down();
        // The inboxes alone: what they had subscribed to, the trie lets go of.
        let members = self.live_members();
        for member in &members {
            member.inbox.close(CloseReason::Bus);
        }
        let recipients = self.trie.take_down();
        self.closed.store(true, Ordering::Relaxed);
        // Only now what may run user code: the last of a subscriber drops payloads that were not read.
        let mut panics = Panics::default();
        panics.for_each(members, drop);
        panics.for_each(recipients, drop);
        panics.resume();
    }

    pub(crate) fn stats(&self) -> Stats {
        self.check_reentrancy();
        let counts = self.trie.counts();
        let mut queued = 0;
        self.for_each_member(|member| queued += member.inbox.depth() as u64);
        // Relaxed: a sum, exact at rest.
        let discarded = self.discarded.load(Ordering::Relaxed);
        let open = !self.trie.is_closed();
        let live = |count: usize| if open { count } else { 0 };
        Stats {
            published: counts.published,
            matched: counts.delivered + counts.dropped,
            delivered: counts.delivered,
            dropped: counts.dropped,
            evicted: counts.evicted,
            // While messages come and go, what is read one after another may not fit together.
            received: counts.delivered.saturating_sub(counts.evicted + discarded + queued),
            discarded,
            // Relaxed: a count at some recent moment.
            disconnected: self.members.disconnected.load(Ordering::Relaxed),
            channels: live(self.trie.channel_count()),
            patterns: live(self.trie.pattern_count()),
            subscribers: live(self.subscribers()),
        }
    }

    pub(crate) fn infos(&self) -> Vec<SubscriberInfo> {
        self.check_reentrancy();
        let mut infos = Vec::new();
        if !self.trie.is_closed() {
            self.for_each_member(|member| {
                if member.is_counted() {
                    infos.push(member.info());
                }
            });
        }
        infos
    }
}

impl<P> Drop for Engine<P> {
    fn drop(&mut self) {
        // The bus is closed, and has let go of their recipients.
        for_each_then_resume(self.deferred.get_mut().drain(..), drop);
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
            let shards = bus.engine.registry.iter().map(|shard| shard.lock());
            shards.fold((0, 0), |(len, room), shard| (len + shard.len(), room + shard.capacity()))
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
        let (len, room) = registered();
        assert_eq!(len, 1);
        assert!(room <= 64 * SHARDS, "the room of those that have gone is kept: {room}");
        drop(stays);
        assert_eq!(registered().0, 0);
    }
}
