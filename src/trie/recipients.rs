//! The recipients of one channel, or of one pattern: what a publish iterates over. It takes no lock.

use std::ops::AddAssign;
use std::sync::Arc;

use crossbeam_channel::Sender;
use smallvec::SmallVec;

use crate::event::Message;
use crate::inbox::Inbox;
use crate::reentrancy::for_each_then_resume;
use crate::sync::{AtomicU64, Ordering};

/// One subscription, as publishers see it.
pub(crate) struct Recipient<P> {
    /// The inbox's queue itself: of the inbox, a delivery that succeeds reads the state word alone.
    pub(crate) to: Sender<Message<P>>,
    pub(crate) inbox: Arc<Inbox<P>>,
    /// Messages that entered the inbox by this subscription.
    pub(crate) entered: AtomicU64,
}

impl<P> Recipient<P> {
    pub(crate) fn new(to: Sender<Message<P>>, inbox: Arc<Inbox<P>>) -> Self {
        Self { to, inbox, entered: AtomicU64::new(0) }
    }

    /// Adds its count to the inbox's: for a recipient that is no longer in a list.
    pub(crate) fn hand_over_count(&self) {
        // Relaxed: the lock of the list that it was in orders it after the last delivery.
        self.inbox.add_entered(self.entered.load(Ordering::Relaxed));
    }
}

/// A list of recipients, in the order they subscribed.
///
/// Joining is O(1) and leaving O(log n), both amortised: a slot that was left stays empty until half of them are, and a
/// subscription is found by its id, by which the list is sorted.
///
/// The fields are in the order in which a publish reads them.
#[repr(C)]
pub(crate) struct Recipients<P> {
    slots: SmallVec<[Option<Recipient<P>>; 1]>,
    live: u32,
    /// Recipients whose inboxes take each publish once.
    deduplicating: u32,
    /// Recipients whose inboxes make publishers wait when they are full.
    blocking: u32,
    /// Recipients whose subscriptions do not count for an [`InterestWatch`](crate::InterestWatch).
    passive: u32,
    /// The ids of the subscriptions, ascending, one for each slot. Apart from the slots, so that a search reads a
    /// quarter of the memory.
    ids: SmallVec<[u64; 1]>,
}

/// How many recipients there are, in one list or several.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) len: usize,
    /// Those whose inboxes make publishers wait when they are full.
    pub(crate) blocking: usize,
    /// Those whose inboxes take each publish once.
    pub(crate) deduplicating: usize,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.len += other.len;
        self.blocking += other.blocking;
        self.deduplicating += other.deduplicating;
    }
}

impl<P> Default for Recipients<P> {
    fn default() -> Self {
        Self {
            ids: SmallVec::new(),
            slots: SmallVec::new(),
            live: 0,
            deduplicating: 0,
            blocking: 0,
            passive: 0,
        }
    }
}

/// Drops each recipient in spite of the panics of others: the last one of an inbox drops the messages that were not
/// read.
impl<P> Drop for Recipients<P> {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            for_each_then_resume(self.slots.drain(..), drop);
        }
    }
}

impl<P> Recipients<P> {
    pub(crate) fn len(&self) -> usize {
        self.live as usize
    }

    /// Returns the number of subscriptions that count for an [`InterestWatch`](crate::InterestWatch).
    pub(crate) fn interested(&self) -> usize {
        (self.live - self.passive) as usize
    }

    #[inline]
    pub(crate) fn totals(&self) -> Totals {
        let (blocking, deduplicating) = (self.blocking as usize, self.deduplicating as usize);
        Totals { len: self.len(), blocking, deduplicating }
    }

    /// Returns all slots; an empty one is `None`.
    #[inline]
    pub(crate) fn slots(&self) -> &[Option<Recipient<P>>] {
        &self.slots
    }

    /// Returns the ids of the subscriptions, one for each slot.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Adds a recipient; `id` must be greater than all before.
    pub(crate) fn push(&mut self, id: u64, recipient: Recipient<P>) {
        debug_assert!(self.ids.last().is_none_or(|&last| last < id));
        self.deduplicating += u32::from(recipient.inbox.settings().dedupe);
        self.blocking += u32::from(recipient.inbox.settings().blocks());
        self.passive += u32::from(!recipient.inbox.settings().interest);
        self.live += 1;
        self.ids.push(id);
        self.slots.push(Some(recipient));
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Recipient<P>> {
        self.slots[self.ids.binary_search(&id).ok()?].as_ref()
    }

    /// Removes a recipient. The caller drops it after unlocking.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Recipient<P>> {
        let removed = self.slots[self.ids.binary_search(&id).ok()?].take()?;
        self.deduplicating -= u32::from(removed.inbox.settings().dedupe);
        self.blocking -= u32::from(removed.inbox.settings().blocks());
        self.passive -= u32::from(!removed.inbox.settings().interest);
        self.live -= 1;
        if self.slots.len() >= 2 * self.len() + 8 || self.live == 0 {
            self.compact();
        }
        Some(removed)
    }

    fn compact(&mut self) {
        let mut slots = self.slots.iter();
        self.ids.retain(|_| slots.next().is_some_and(Option::is_some));
        self.slots.retain(|slot| slot.is_some());
        self.ids.shrink_to_fit();
        self.slots.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Settings;
    use crate::limits::Overflow;

    fn recipient(dedupe: bool) -> Recipient<u32> {
        let settings = Settings {
            capacity: 1,
            overflow: Overflow::DropOldest,
            label: None,
            lifecycle_events: false,
            dedupe,
            interest: true,
        };
        let inbox = Inbox::new(0, settings, Arc::default());
        Recipient::new(inbox.sender().unwrap(), Arc::new(inbox))
    }

    #[test]
    fn leaving_in_any_order_keeps_the_rest_sorted_and_gives_memory_back() {
        let mut recipients = Recipients::default();
        for number in 0..100 {
            recipients.push(number * 3, recipient(number % 2 == 0));
        }
        assert_eq!((recipients.len(), recipients.totals().deduplicating), (100, 50));
        // A permutation: 37 and 100 have no common factor.
        for step in 0..100 {
            let number = step * 37 % 100 * 3;
            assert!(recipients.remove(number).is_some());
            assert!(recipients.remove(number).is_none(), "left twice");
            assert!(recipients.remove(number + 1).is_none(), "never joined");
            assert_eq!(recipients.len() as u64, 99 - step);
            assert!(recipients.slots().len() < 2 * recipients.len() + 8);
            let live: Vec<u64> = recipients
                .ids()
                .iter()
                .zip(recipients.slots())
                .filter_map(|(&id, slot)| slot.as_ref().map(|_| id))
                .collect();
            assert_eq!(live.len(), recipients.len());
            assert!(live.is_sorted());
            assert!(live.iter().all(|&number| recipients.get(number).is_some()));
        }
        assert_eq!(recipients.slots.capacity(), 1);
    }
}
