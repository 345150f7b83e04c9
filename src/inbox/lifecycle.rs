//! Lifecycle events, and their positions among the messages.
//!
//! This file owns the pending events and the order in which events and messages are read. It may not slow down a
//! receive while no events are pending: positions are counted only while `PENDING` is set.
//!
//! # Positions
//!
//! While `PENDING` is set, each queued message has a position, starting at 1 with the message that was next when the
//! bit was set. [`LazyState::head`] is the position of the next message that leaves the queue. An event has the
//! position of the first message sent after it, and comes before that message.
//!
//! # Takes without the lock
//!
//! While `PENDING` is set, receives take messages under the lock, and count them in `head`. But a receive that read
//! `state` just before the bit was set takes its message without the lock. It marks such a take: it makes `take_seq`
//! odd, reads `state` again, takes, and makes `take_seq` even. A thread that holds the lock waits until `take_seq` is
//! even before it counts the queued messages, and so knows if the message of that take is among them. The receive sees
//! the bit when it has taken the message, and finds out in `reconcile` if an event comes first. In that case it defers
//! the message, which is read after the event.
//!
//! No fence stands between the mark and the second look, because every receive would pay for it. So a take can stay
//! unseen for as long as a processor holds back a store. It would do harm only if two events were pushed and a message
//! evicted within that time, which is too short for that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_utils::Backoff;

use super::receive::Next;
use super::{Inbox, Inner, LazyState, PENDING};
use crate::event::{Event, Message};
use crate::pattern::Pattern;
use crate::sync::Ordering;
use crate::wait_list::WaitList;

/// How long to sleep for a receiver that was preempted in the middle of a take.
const PREEMPTED: Duration = Duration::from_micros(50);

/// The change of a subscription that a lifecycle event reports.
pub(crate) enum Change {
    Subscribed(Arc<str>),
    Unsubscribed(Arc<str>),
    PSubscribed(Pattern),
    PUnsubscribed(Pattern),
}

/// A lifecycle event that has not been read. It becomes an [`Event`] when it is.
pub(super) struct PendingEvent {
    change: Change,
    /// The number of subscriptions held after the change.
    count: usize,
    /// The position of the message that the event precedes. The event is also due when no message is queued.
    pub(super) position: u64,
}

impl<P> From<PendingEvent> for Event<P> {
    fn from(PendingEvent { change, count, .. }: PendingEvent) -> Self {
        match change {
            Change::Subscribed(channel) => Self::Subscribe { channel, count },
            Change::Unsubscribed(channel) => Self::Unsubscribe { channel, count },
            Change::PSubscribed(pattern) => Self::PSubscribe { pattern, count },
            Change::PUnsubscribed(pattern) => Self::PUnsubscribe { pattern, count },
        }
    }
}

impl<P> LazyState<P> {
    /// Returns `true` if neither events nor messages outside of the queue are pending, so that positions need not be
    /// counted.
    fn nothing_pending(&self) -> bool {
        self.events.is_empty() && self.messages() == 0
    }

    /// Returns `true` if an event comes before the next message.
    fn is_event_due(&self) -> bool {
        let next = match &self.conflation {
            Some(conflation) => conflation.first_position().unwrap_or(u64::MAX),
            None => self.deferred.front().map_or(self.head, |(position, _)| *position),
        };
        self.events.front().is_some_and(|first| first.position <= next)
    }

    /// Adds to `head` the messages taken without the lock up to `take_seq`.
    fn count_unlocked_takes(&mut self, take_seq: u32) {
        let take_seq = take_seq & !1;
        // At most one for a single reader. Clones that read at the same time can set `take_seq` back.
        let taken = (take_seq.wrapping_sub(self.counted_seq) as i32 / 2).max(0);
        self.counted_seq = take_seq;
        if taken > 0 {
            self.last_unlocked = self.head;
            self.head += taken as u64;
        }
    }
}

impl<P> Inbox<P> {
    /// Queues an event behind all messages that are queued now, unless the subscriber has lifecycle events disabled.
    pub(crate) fn push_event(&self, change: impl FnOnce() -> Change, count: usize) {
        if !self.settings.lifecycle_events {
            return;
        }
        let change = change();
        let mut inner = self.inner.lock();
        let Inner { lazy, waiting, .. } = &mut *inner;
        let lazy = lazy.get_or_insert_default();
        if lazy.nothing_pending() {
            // SeqCst, and before the queue is counted: partner of the loads in `try_recv_fast` and `try_recv_slow`. A
            // receive that has taken a message and does not see the bit took it before the count.
            self.state.fetch_or(PENDING, Ordering::SeqCst);
            // Takes that have ended by now precede everything that is pending.
            lazy.counted_seq = self.take_seq.load(Ordering::Acquire) & !1;
            (lazy.head, lazy.last_unlocked) = (1, 0);
        }
        let position = match &lazy.conflation {
            Some(conflation) => conflation.next_position(),
            None => self.settle_takes(lazy),
        };
        lazy.events.push_back(PendingEvent { change, count, position });
        self.wake_receiver_locked(waiting);
    }

    /// Waits for a take that is under way, and counts the takes so far. Returns the position of the next message that
    /// will be sent. The caller holds the lock, and `PENDING` is set.
    pub(super) fn settle_takes(&self, lazy: &mut LazyState<P>) -> u64 {
        let backoff = Backoff::new();
        loop {
            // Acquire: partner of the Release in `end_take`. If the take is seen to have ended, its message is seen to
            // have left the queue.
            let take_seq = self.take_seq.load(Ordering::Acquire);
            #[cfg(test)]
            super::testing::sync_point(super::testing::SyncPoint::BeforeCount);
            if take_seq & 1 == 0 {
                // A receive that is seen here to have taken a message wrote to `take_seq` before: crossbeam's exchange
                // is at least a release.
                let queued = self.queue.len();
                if self.take_seq.load(Ordering::Acquire) == take_seq {
                    lazy.count_unlocked_takes(take_seq);
                    return lazy.head + queued as u64;
                }
            }
            // A take lasts a few instructions, in which the receiver runs no user code and waits for nothing. But it
            // can be preempted there, even by this thread if this one has a higher priority.
            if backoff.is_completed() {
                thread::sleep(PREEMPTED);
            } else {
                backoff.snooze();
            }
        }
    }

    /// Counts a message that left the queue under the lock while `PENDING` is set, and wakes a receiver if that makes
    /// an event due.
    pub(super) fn advance_head(&self, lazy: &mut LazyState<P>, waiting: &mut WaitList) {
        lazy.head += 1;
        self.wake_receiver_if_due(lazy, waiting);
    }

    /// Wakes a receiver that waits if an event can be read.
    fn wake_receiver_if_due(&self, lazy: &LazyState<P>, waiting: &mut WaitList) {
        if lazy.is_event_due() || !lazy.events.is_empty() && self.queue.is_empty() {
            self.wake_receiver_locked(waiting);
        }
    }

    /// Returns the pending event or the deferred message that comes before the next queued message, if there is one.
    /// Called when `PENDING` was seen.
    pub(super) fn next_pending(&self) -> Next<'_, P> {
        let mut guard = self.inner.lock();
        let Inner { lazy, waiting, .. } = &mut *guard;
        let Some(lazy) = lazy.as_mut().filter(|lazy| !lazy.nothing_pending()) else {
            return Next::Queued(None);
        };
        let none_readable = self.queue.is_empty() && lazy.messages() == 0;
        let next = if lazy.is_event_due() || none_readable {
            lazy.events.pop_front().map(Event::from)
        } else {
            lazy.take_first_message().map(Event::from)
        };
        // Another clone may sleep, and the caller may be busy with `next` for long.
        self.wake_receiver_if_due(lazy, waiting);
        if lazy.nothing_pending() {
            // Frees the memory too: most subscribers get a few events and then none.
            lazy.events = VecDeque::new();
            lazy.deferred = VecDeque::new();
            // Relaxed: set and cleared under the lock.
            self.state.fetch_and(!PENDING, Ordering::Relaxed);
        }
        match next {
            Some(next) => Next::Event(next),
            None => Next::Queued(Some(guard)),
        }
    }

    /// Finds the position of `message`, which was taken without the lock while `PENDING` was being set. Returns the
    /// message, or defers it and returns `None` if an event comes first.
    #[cold]
    pub(super) fn reconcile(&self, message: Message<P>) -> Option<Message<P>> {
        let mut inner = self.inner.lock();
        let Inner { lazy, waiting, .. } = &mut *inner;
        if let Some(lazy) = lazy.as_mut().filter(|lazy| !lazy.nothing_pending()) {
            // Relaxed: only this thread's own writes must be seen.
            lazy.count_unlocked_takes(self.take_seq.load(Ordering::Relaxed));
            let position = lazy.last_unlocked;
            if lazy.events.front().is_some_and(|first| first.position <= position) {
                lazy.deferred.push_back((position, message));
                drop(inner);
                self.after_take();
                return None;
            }
            self.wake_receiver_if_due(lazy, waiting);
        }
        // `after_take` locks it again.
        drop(inner);
        self.after_take();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TryRecvError;
    use crate::inbox::testing::{
        SyncPoint, inbox_of_four, mark_take, push_event, take_at, take_unlocked,
    };

    #[test]
    fn a_message_taken_right_before_an_event_is_pushed_precedes_it() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        for n in 1..=3 {
            sender.try_send(Message::new("c", n)).unwrap();
            mark_take(&inbox);
            let taken = inbox.pop().unwrap();
            inbox.end_take();
            push_event(&inbox);
            // The receive goes on, and sees that there is an event.
            assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(n));
            assert!(matches!(inbox.try_recv(), Ok(Event::Unsubscribe { .. })));
            assert_eq!(inbox.try_recv(), Err(TryRecvError::Empty));
        }
    }

    #[test]
    fn an_event_pushed_during_a_take_follows_all_queued_messages() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let taken = take_at(SyncPoint::BeforeCount, &inbox);
        push_event(&inbox);
        sender.try_send(Message::new("c", 3)).unwrap();
        let taken = taken.lock().take().unwrap();
        assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(1));
        assert_eq!(inbox.try_recv(), Ok(Message::new("c", 2).into()));
        assert!(matches!(inbox.try_recv(), Ok(Event::Unsubscribe { .. })));
        assert_eq!(inbox.try_recv(), Ok(Message::new("c", 3).into()));
    }

    #[test]
    fn a_deferred_message_counts_as_queued_and_is_discarded_with_the_inbox() {
        let (inbox, discarded) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        push_event(&inbox);
        (1..=3).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        assert!(take_unlocked(&inbox).is_none(), "the event comes first");
        assert_eq!((inbox.queue().len(), inbox.depth()), (2, 3));
        drop((sender, inbox));
        assert_eq!(discarded.load(Ordering::Relaxed), 3);
    }
}
