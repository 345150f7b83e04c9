//! Buffers that a thread uses again from publish to publish, so that none of them allocates.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use hashbrown::HashSet;

use super::merge::Merge;
use crate::event::Message;
use crate::inbox::Wait;
use crate::reentrancy::for_each_then_resume;
use crate::trie::Recipient;

thread_local! {
    /// The buffers of this thread, one set for each payload type that is not in use right now.
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// What a publish may need beyond its stack.
pub(super) struct Scratch<P: 'static> {
    /// Messages to be dropped after the turn: evicted and refused ones.
    pub(super) dead: Vec<Message<P>>,
    /// The recipients of several patterns, in one order.
    pub(super) merge: Merge<'static, P>,
    /// Inboxes served by this publish, by address, of those that take a message once.
    pub(super) seen: HashSet<usize, foldhash::fast::RandomState>,
    /// Subscribers that were full and are to be ended, by number.
    pub(super) disconnected: Vec<u64>,
    /// Messages that wait for room, each with whom it is for.
    pub(super) waits: VecDeque<(Recipient<P>, Wait<P>)>,
    /// Inboxes that get nothing more in the turn, by address.
    pub(super) barred: HashSet<usize, foldhash::fast::RandomState>,
}

impl<P> Default for Scratch<P> {
    fn default() -> Self {
        Self {
            dead: Vec::new(),
            merge: Merge::default(),
            seen: HashSet::default(),
            disconnected: Vec::new(),
            waits: VecDeque::new(),
            barred: HashSet::default(),
        }
    }
}

impl<P> Scratch<P> {
    /// Drops the messages that are to be dropped, each of them though a payload's `Drop` panics.
    pub(super) fn drop_dead(&mut self) {
        if !self.dead.is_empty() {
            for_each_then_resume(self.dead.drain(..), drop);
        }
    }
}

/// A thread's buffers for payloads of one type, empty, given back when dropped. A publish within a
/// publish (from a payload's `Drop`) gets others.
pub(super) struct Lease<P: 'static>(Option<Box<Scratch<P>>>);

impl<P> Lease<P> {
    pub(super) fn take() -> Self {
        let kept = KEPT.try_with(|kept| {
            let mut kept = kept.try_borrow_mut().ok()?;
            let at = kept.iter().position(|scratch| scratch.is::<Scratch<P>>())?;
            kept.swap_remove(at).downcast().ok()
        });
        // The thread's own storage is gone while it ends: a new one then, as for the first publish.
        Self(Some(kept.ok().flatten().unwrap_or_default()))
    }
}

impl<P> Drop for Lease<P> {
    fn drop(&mut self) {
        let Some(mut scratch) = self.0.take() else { return };
        scratch.seen.clear();
        scratch.barred.clear();
        scratch.drop_dead();
        let _ = KEPT.try_with(|kept| kept.try_borrow_mut().map(|mut kept| kept.push(scratch)));
    }
}

impl<P> Deref for Lease<P> {
    type Target = Scratch<P>;

    fn deref(&self) -> &Scratch<P> {
        self.0.as_ref().unwrap_or_else(|| unreachable!("taken in `drop` alone"))
    }
}

impl<P> DerefMut for Lease<P> {
    fn deref_mut(&mut self) -> &mut Scratch<P> {
        self.0.as_mut().unwrap_or_else(|| unreachable!("taken in `drop` alone"))
    }
}
