//! The engine: what all handles of one bus share.
//!
//! It owns the trie, the registry of subscribers, and the settings that the bus was built with. It closes the bus, sums
//! up its statistics, and releases what dropped subscribers leave behind. It does not publish and does not subscribe:
//! `publish` and `member` do, and it knows neither of them.

mod registry;
mod retired;

use std::sync::Arc;

pub(crate) use registry::{Registered, Registry};
pub(crate) use retired::RetiredParts;

use crate::limits::{Limits, Overflow};
use crate::reentrancy::{self, Panics, for_each_then_resume};
use crate::stats::{CloseReason, Stats, SubscriberInfo};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::trace;
use crate::trie::Trie;
use crate::wakeups;
use retired::Deferred;

/// See the module's documentation.
pub(crate) struct Engine<P> {
    pub(crate) trie: Trie<P>,
    pub(crate) limits: Limits,
    /// The capacity of an inbox whose subscriber does not choose one, in messages.
    pub(crate) capacity: usize,
    /// The policy of an inbox whose subscriber does not choose one.
    pub(crate) overflow: Overflow,
    deferred: Deferred<P>,
    /// `true` if closing has ended. (It has begun when the trie is closed.)
    is_closed: AtomicBool,
    /// Taken by whoever subscribes on a bus that bounds the number of its subscribers, channels or patterns, from the
    /// check until the subscriptions are counted. Taken under the lock of the subscriber's subscriptions, and before
    /// the trie's.
    pub(crate) limit_check: Mutex<()>,
    pub(crate) registry: Registry<P>,
    /// Messages that were unread when their inbox was dropped.
    pub(crate) discarded: Arc<AtomicU64>,
}

/// Keeps a bus open: its `Bus` and `Topic` handles share one, and the last of them closes the bus.
pub(crate) struct OpenGuard<P> {
    engine: Arc<Engine<P>>,
}

impl<P> OpenGuard<P> {
    pub(crate) fn new(engine: &Arc<Engine<P>>) -> Self {
        Self { engine: Arc::clone(engine) }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine<P>> {
        &self.engine
    }
}

impl<P> Drop for OpenGuard<P> {
    fn drop(&mut self) {
        self.engine.close();
    }
}

/// Returns `messages`, the capacity of an inbox.
///
/// # Panics
///
/// If it is 0.
#[track_caller]
pub(crate) fn check_capacity(messages: usize) -> usize {
    assert!(messages > 0, "the capacity of an inbox must be at least 1 message, not 0");
    messages
}

impl<P> Engine<P> {
    pub(crate) fn new(stripes: usize, limits: Limits, capacity: usize, overflow: Overflow) -> Self {
        Self {
            trie: Trie::new(stripes),
            limits,
            capacity,
            overflow,
            deferred: Deferred::new(),
            is_closed: AtomicBool::new(false),
            limit_check: Mutex::new(()),
            registry: Registry::new(),
            discarded: Arc::default(),
        }
    }

    /// Begins a call that can wait for a lock, and releases what was deferred.
    ///
    /// # Panics
    ///
    /// If a payload's `Clone` makes the call.
    #[inline]
    pub(crate) fn check_reentrancy(&self) {
        reentrancy::assert_not_in_clone();
        self.release_deferred();
    }

    /// `true` if [`check_reentrancy`](Self::check_reentrancy) would do anything.
    #[inline]
    pub(crate) fn must_check_reentrancy(&self) -> bool {
        reentrancy::is_in_clone() || self.deferred.is_pending()
    }

    // ---- what subscribers leave behind ---------------------------------------------------------

    /// Ends all subscriptions in `parts`.
    pub(crate) fn release(&self, parts: RetiredParts<P>) {
        let RetiredParts { channels, patterns, is_counted, inbox } = parts;
        for subscription in channels {
            self.trie.leave(&subscription);
        }
        for subscription in patterns {
            self.trie.leave(&subscription);
        }
        if is_counted {
            self.registry.uncount_subscriber();
        }
        drop(inbox);
    }

    /// Keeps `parts` until [`release_deferred`](Self::release_deferred) is called outside of a payload's `Clone`.
    pub(crate) fn defer(&self, parts: RetiredParts<P>) {
        self.deferred.push(parts);
    }

    /// Releases what was deferred.
    #[inline]
    pub(crate) fn release_deferred(&self) {
        if self.deferred.is_pending() {
            self.release_pending();
        }
    }

    #[cold]
    fn release_pending(&self) {
        let _wakeups = wakeups::CallOnDrop;
        for_each_then_resume(self.deferred.take(), |parts| self.release(parts));
    }

    // ---- closing -------------------------------------------------------------------------------

    /// Closes the subscriber `id`, whose inbox was full for a message of `channel`.
    pub(crate) fn disconnect(&self, id: u64, channel: &str) {
        if let Some(subscriber) = self.registry.get(id)
            && subscriber.close(CloseReason::Overflow)
        {
            self.registry.count_disconnected();
            trace::disconnected(id, subscriber.inbox().settings(), channel);
        }
    }

    /// Closes the bus. Waits for no publish.
    pub(crate) fn close(&self) {
        // Relaxed: a second thread that does not see it closes once more, which changes nothing.
        if self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let _wakeups = wakeups::CallOnDrop;
        self.trie.begin_closing();
        // Only the inboxes are closed here: the trie itself lets go of their subscriptions.
        let subscribers = self.registry.live();
        for subscriber in &subscribers {
            subscriber.inbox().close(CloseReason::Bus);
        }
        self.trie.watchers().close();
        let recipients = self.trie.finish_closing();
        self.is_closed.store(true, Ordering::Relaxed);
        trace::bus_closed();
        // The last handle to an inbox drops its messages, and so runs user code: that comes when all is closed.
        let mut panics = Panics::default();
        panics.for_each(subscribers, drop);
        panics.for_each(recipients, drop);
        panics.resume();
    }

    // ---- looking in ----------------------------------------------------------------------------

    /// Returns the counters of the whole bus.
    pub(crate) fn stats(&self) -> Stats {
        self.check_reentrancy();
        let counts = self.trie.counts();
        let mut queued = 0;
        self.registry.for_each(|subscriber| queued += subscriber.inbox().depth() as u64);
        // Relaxed: a sum, exact at rest.
        let discarded = self.discarded.load(Ordering::Relaxed);
        let left = counts.evicted + counts.conflated + discarded + queued;
        let is_open = !self.trie.is_closed();
        let if_open = |count: usize| if is_open { count } else { 0 };
        Stats {
            published: counts.published,
            matched: counts.delivered + counts.dropped,
            delivered: counts.delivered,
            dropped: counts.dropped,
            evicted: counts.evicted,
            conflated: counts.conflated,
            // Saturating: while messages come and go, counters that are read one after another may not fit together.
            received: counts.delivered.saturating_sub(left),
            discarded,
            disconnected: self.registry.disconnected(),
            channels: if_open(self.trie.channel_count()),
            patterns: if_open(self.trie.pattern_count()),
            subscribers: if_open(self.registry.subscribers()),
        }
    }

    /// Returns what each subscriber looks like, of those that are counted.
    pub(crate) fn infos(&self) -> Vec<SubscriberInfo> {
        self.check_reentrancy();
        let mut infos = Vec::new();
        if !self.trie.is_closed() {
            self.registry.for_each(|subscriber| {
                if subscriber.is_counted() {
                    infos.push(subscriber.info());
                }
            });
        }
        infos
    }
}

impl<P> Drop for Engine<P> {
    fn drop(&mut self) {
        // Dropped without unsubscribing: the bus is closed, and the trie has let go of their recipients.
        for_each_then_resume(self.deferred.take_mut(), drop);
    }
}
