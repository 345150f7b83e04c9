//! [`Overflow::Conflate`](crate::Overflow::Conflate): the newest message of each channel, in the order in which the
//! channels first changed since they were read.
//!
//! This file owns what such an inbox holds. It neither drops a message nor runs other user code: the inbox's lock is
//! held, and perhaps a channel's turn.
//!
//! Publishers cannot replace what lies in a crossbeam queue, so the queue of such an inbox stays empty: its
//! subscriptions get a `Sender` of another channel, which takes nothing. To a publisher, the inbox always looks full,
//! and its overflow policy puts the message here. Inboxes of other policies pay nothing for that.
//!
//! To a receive, these messages are pending, as lifecycle events are: while there are any, `PENDING` is set, and each
//! has a position (see `lifecycle`). A message keeps the position of the one that it replaces, unless an event that has
//! not been read stands behind that: then it takes a position behind the event, which must not be overtaken.

use crossbeam_channel::{Sender, bounded};
use hashbrown::HashTable;

use super::overflow::Overflowed;
use super::{Inbox, LazyState, PENDING, TERMINATED};
use crate::event::Message;
use crate::sync::Ordering;

/// The messages of such an inbox: a hash table of slots that form a list, in the order of their positions.
pub(super) struct Conflation<P> {
    /// What publishers send through: it returns every message.
    sender: Sender<Message<P>>,
    /// The slots that hold a message, by the hashes of their channels.
    by_channel: HashTable<usize>,
    slots: Vec<Slot<P>>,
    /// The first and the last slot of the list; `NONE` if it is empty.
    first: usize,
    last: usize,
    /// The first slot that holds no message; `NONE` if there is none. The others follow by `next`.
    free: usize,
    /// The position of the next message that replaces none.
    next_position: u64,
    /// Messages that newer ones have replaced.
    replaced: u64,
}

struct Slot<P> {
    message: Option<Message<P>>,
    hash: u64,
    position: u64,
    previous: usize,
    next: usize,
}

/// No slot.
const NONE: usize = usize::MAX;

impl<P> Conflation<P> {
    pub(super) fn new() -> Self {
        // Its receiver is gone, so it is disconnected from the beginning. Of capacity 1, since a send through a channel
        // of capacity 0 takes a lock to see that.
        let (sender, _) = bounded(1);
        Self {
            sender,
            by_channel: HashTable::new(),
            slots: Vec::new(),
            first: NONE,
            last: NONE,
            free: NONE,
            next_position: 1,
            replaced: 0,
        }
    }

    /// Returns the sender for a new subscription.
    pub(super) fn sender(&self) -> Sender<Message<P>> {
        self.sender.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.by_channel.len()
    }

    /// Returns the position of the oldest message.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.slots.get(self.first).map(|slot| slot.position)
    }

    /// Returns the position of the next message that replaces none.
    pub(super) fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Puts `message` in the place of the one of its channel, or behind all others if there is none or if that stands
    /// before the position `barrier`. Returns what it replaces. `hash` is the hash of its channel.
    ///
    /// # Complexity
    ///
    /// O(1), amortised. Allocates nothing unless more channels have a message than ever before.
    fn put(&mut self, message: Message<P>, hash: u64, barrier: u64) -> Option<Message<P>> {
        let (by_channel, slots) = (&self.by_channel, &self.slots);
        let is_it = |&at: &usize| {
            let other = slots[at].message.as_ref();
            slots[at].hash == hash
                && other.is_some_and(|other| other.channel() == message.channel())
        };
        let Some(&at) = by_channel.find(hash, is_it) else {
            self.add(message, hash);
            return None;
        };
        self.replaced += 1;
        if self.slots[at].position < barrier {
            self.unlink(at);
            self.link(at);
        }
        self.slots[at].message.replace(message)
    }

    /// Takes the oldest message.
    pub(super) fn take_first(&mut self) -> Option<Message<P>> {
        let at = self.first;
        let slot = self.slots.get(at)?;
        let found = self.by_channel.find_entry(slot.hash, |&other| other == at);
        debug_assert!(found.is_ok(), "a slot of the list is in the table");
        if let Ok(found) = found {
            found.remove();
        }
        self.unlink(at);
        let slot = &mut self.slots[at];
        slot.next = self.free;
        self.free = at;
        slot.message.take()
    }

    /// Adds a message of a channel that has none.
    fn add(&mut self, message: Message<P>, hash: u64) {
        let at = self.free;
        let at = if let Some(slot) = self.slots.get_mut(at) {
            self.free = slot.next;
            (slot.message, slot.hash) = (Some(message), hash);
            at
        } else {
            let message = Some(message);
            self.slots.push(Slot { message, hash, position: 0, previous: NONE, next: NONE });
            let slots = &self.slots;
            // At most half full, hashbrown cleans up after removals in place; otherwise it would grow in time.
            let room = 2 * slots.len();
            if self.by_channel.capacity() < room {
                let additional = room - self.by_channel.len();
                self.by_channel.reserve(additional, |&other| slots[other].hash);
            }
            slots.len() - 1
        };
        let slots = &self.slots;
        self.by_channel.insert_unique(hash, at, |&other| slots[other].hash);
        self.link(at);
    }

    /// Puts the slot `at`, which is in no list, at the end of the list.
    fn link(&mut self, at: usize) {
        let last = self.last;
        let slot = &mut self.slots[at];
        (slot.previous, slot.next, slot.position) = (last, NONE, self.next_position);
        self.next_position += 1;
        match self.slots.get_mut(last) {
            Some(before) => before.next = at,
            None => self.first = at,
        }
        self.last = at;
    }

    /// Takes the slot `at` out of the list.
    fn unlink(&mut self, at: usize) {
        let Slot { previous, next, .. } = self.slots[at];
        match self.slots.get_mut(previous) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
        match self.slots.get_mut(next) {
            Some(after) => after.previous = previous,
            None => self.last = previous,
        }
    }
}

impl<P> LazyState<P> {
    /// Returns the messages of a conflating inbox. Its first subscription makes room for them.
    pub(super) fn conflation(&mut self) -> &mut Conflation<P> {
        self.conflation.get_or_insert_with(|| Box::new(Conflation::new()))
    }
}

impl<P> Inbox<P> {
    /// Returns the number of messages that newer ones of their channel have replaced.
    pub(crate) fn conflated(&self) -> u64 {
        if !self.settings.conflates() {
            return 0;
        }
        let inner = self.inner.lock();
        let conflation = inner.lazy.as_ref().and_then(|lazy| lazy.conflation.as_ref());
        conflation.map_or(0, |conflation| conflation.replaced)
    }

    /// Puts a message into the inbox. `hash` is the hash of its channel.
    pub(super) fn conflate(&self, message: Message<P>, hash: u64) -> Overflowed<P> {
        let mut inner = self.inner.lock();
        // Relaxed: set under the lock.
        if self.state.load(Ordering::Relaxed) & TERMINATED != 0 {
            return Overflowed::Undeliverable(message);
        }
        let lazy = &mut **inner.lazy.get_or_insert_default();
        let barrier = lazy.events.back().map_or(0, |event| event.position);
        let conflation = lazy.conflation();
        let replaced = conflation.put(message, hash, barrier);
        if replaced.is_some() {
            return Overflowed::Conflated { replaced, evicted: None };
        }
        let evicted =
            if conflation.len() > self.settings.capacity { conflation.take_first() } else { None };
        self.record_depth(conflation.len());
        // SeqCst: as in `push_event`.
        self.state.fetch_or(PENDING, Ordering::SeqCst);
        if let Some(evicted) = &evicted {
            self.record_loss_locked(&self.evicted, Some(evicted), &mut inner);
        }
        self.wake_receiver_locked(&mut inner.waiting);
        Overflowed::Conflated { replaced: None, evicted }
    }
}
