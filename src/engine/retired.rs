//! What a subscriber leaves behind when it is dropped or closed, and the list of what must wait to be released.
//!
//! A payload's `Clone` runs in a channel's turn. A subscriber that it drops cannot leave its channels there: leaving
//! one could wait for the very turn that the thread has. So its parts go into the list [`Deferred`], and whoever comes
//! to the bus next, or ends that publish, releases them.

use std::mem;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::inbox::Inbox;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::trie::{Channel, PatternEntry, Subscription};

/// What a subscriber held that is dropped or closed. [`Engine::release`](super::Engine::release) takes it out of the
/// bus.
pub(crate) struct RetiredParts<P> {
    /// In the order in which they were subscribed, as are the patterns.
    pub(crate) channels: SmallVec<[Subscription<Channel<P>>; 1]>,
    pub(crate) patterns: SmallVec<[Subscription<PatternEntry<P>>; 1]>,
    /// `true` if the registry counts the subscriber.
    pub(crate) is_counted: bool,
    /// Kept until the subscriptions have ended: its last handle drops messages, and so runs user code.
    pub(crate) inbox: Arc<Inbox<P>>,
}

/// Parts that are yet to be released.
pub(super) struct Deferred<P> {
    /// `true` if there are any. Every publish reads it, and hardly anything writes it.
    is_pending: AtomicBool,
    parts: Mutex<Vec<RetiredParts<P>>>,
}

impl<P> Deferred<P> {
    pub(super) fn new() -> Self {
        Self { is_pending: AtomicBool::new(false), parts: Mutex::new(Vec::new()) }
    }

    pub(super) fn push(&self, parts: RetiredParts<P>) {
        self.parts.lock().push(parts);
        // Release: synchronizes with the Acquire in `is_pending`.
        self.is_pending.store(true, Ordering::Release);
    }

    /// `true` if there are any.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    /// Takes all that there are.
    pub(super) fn take(&self) -> Vec<RetiredParts<P>> {
        let mut parts = self.parts.lock();
        // Relaxed: under the lock. A `push` that is between its lock and its store sets it again; then the next look
        // finds an empty list.
        self.is_pending.store(false, Ordering::Relaxed);
        mem::take(&mut *parts)
    }

    /// Takes all that there are.
    pub(super) fn take_mut(&mut self) -> Vec<RetiredParts<P>> {
        mem::take(self.parts.get_mut())
    }
}
