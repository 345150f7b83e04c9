//! Buffers that a thread uses again from publish to publish, so that none of them allocates.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};

use hashbrown::HashSet;

use super::after_turn::Waits;
use super::merge::Merge;
use crate::event::Message;
use crate::oversize::Oversize;
use crate::reentrancy::for_each_then_resume;
use crate::trie::Counts;

thread_local! {
    /// The buffers of this thread that are not in use right now, one set for each payload type.
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
    /// Members to close, by id: their inboxes were full.
    pub(super) disconnected: Vec<u64>,
    /// Messages that wait for room, each with whom it is for.
    pub(super) waits: Waits<P>,
    /// Messages that waited for room and are not counted yet.
    pub(super) waited: Counts,
    /// Inboxes that get nothing more in the turn, by address.
    pub(super) barred: HashSet<usize, foldhash::fast::RandomState>,
    /// The most messages that `dead` held in this publish.
    most_dead: usize,
    oversize: Oversize,
}

impl<P> Default for Scratch<P> {
    fn default() -> Self {
        Self {
            dead: Vec::new(),
            merge: Merge::default(),
            seen: HashSet::default(),
            disconnected: Vec::new(),
            waits: Waits::new(),
            waited: Counts::default(),
            barred: HashSet::default(),
            most_dead: 0,
            oversize: Oversize::default(),
        }
    }
}

impl<P> Scratch<P> {
    /// Drops the messages in `dead`, each of them even if the `Drop` of another panics.
    pub(super) fn drop_dead(&mut self) {
        if !self.dead.is_empty() {
            self.most_dead = self.most_dead.max(self.dead.len());
            for_each_then_resume(self.dead.drain(..), drop);
        }
    }
}

/// The buffers of this thread for payloads of one type, empty, returned when dropped. A publish within a
/// publish (from a payload's `Drop`) gets others.
pub(super) struct ScratchGuard<P: 'static>(Option<Box<Scratch<P>>>);

impl<P> ScratchGuard<P> {
    pub(super) fn borrow() -> Self {
        let kept = KEPT.try_with(|kept| {
            let mut kept = kept.try_borrow_mut().ok()?;
            let at = kept.iter().position(|scratch| scratch.is::<Scratch<P>>())?;
            kept.swap_remove(at).downcast().ok()
        });
        // The thread's own storage is gone while it ends: a new one then, as for the first publish.
        Self(Some(kept.ok().flatten().unwrap_or_default()))
    }
}

impl<P> Drop for ScratchGuard<P> {
    #[inline]
    fn drop(&mut self) {
        if let Some(scratch) = self.0.take() {
            give_back(scratch);
        }
    }
}

#[inline(never)]
fn give_back<P: 'static>(mut scratch: Box<Scratch<P>>) {
    scratch.drop_dead();
    let Scratch { dead, seen, waits, most_dead, barred, oversize, .. } = &mut *scratch;
    // Each inbox that has a message in `waits` is in `barred`.
    let used = seen.len().max(barred.len()).max(mem::take(most_dead));
    let room = seen.capacity().max(barred.capacity()).max(dead.capacity()).max(waits.capacity());
    if oversize.is_lasting(used, room) {
        // It is freed. To keep it would cost time, too: a set is cleared in the time that its room takes.
        return;
    }
    seen.clear();
    barred.clear();
    let _ = KEPT.try_with(|kept| kept.try_borrow_mut().map(|mut kept| kept.push(scratch)));
}

impl<P> Deref for ScratchGuard<P> {
    type Target = Scratch<P>;

    fn deref(&self) -> &Scratch<P> {
        self.0.as_ref().unwrap_or_else(|| unreachable!("taken in `drop` alone"))
    }
}

impl<P> DerefMut for ScratchGuard<P> {
    fn deref_mut(&mut self) -> &mut Scratch<P> {
        self.0.as_mut().unwrap_or_else(|| unreachable!("taken in `drop` alone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_one_publish_made_large_are_freed_in_the_long_run() {
        let room = || ScratchGuard::<u8>::borrow().seen.capacity();
        ScratchGuard::<u8>::borrow().seen.extend(0..100_000);
        assert!(room() >= 100_000);
        assert!((0..20_000).any(|_| room() == 0));
        ScratchGuard::<u8>::borrow().seen.extend(0..10);
        (0..20_000).for_each(|_| assert!(room() >= 10));
    }
}
