//! Messages that find the queue full.
//!
//! This file owns the overflow policies, eviction, the count of lost messages, and the publishers that wait for room
//! under [`Overflow::Block`]. What a publish calls here runs in the channel's turn, so it may not wait for a subscriber
//! to read, and drops no message: messages go back to the publish, which drops them after the turn. Only
//! [`BlockedSend`] waits, after the turn.

use std::sync::Arc;
use std::task::Waker;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{Inbox, Inner, LAGGED, LazyState, PENDING, SENDERS_WAITING, TERMINATED};
use crate::event::Message;
use crate::limits::Overflow;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::trace;
use crate::wait_list::park;
use crate::wakeups;

/// How long a publisher that waits for room sleeps at first before it tries again by itself. The time doubles up to
/// [`MAX_ROOM_POLL`].
///
/// A receive through a `Subscriber` wakes the publisher at once; a receive through its `receiver()` wakes nobody.
pub(super) const MIN_ROOM_POLL: Duration = Duration::from_micros(50);

/// How long a publisher that waits for room sleeps at most before it tries again by itself.
const MAX_ROOM_POLL: Duration = Duration::from_millis(1);

/// What a publish must do with a message that found the inbox full.
pub(crate) enum Overflowed<P> {
    /// Send it again: an older message was evicted, unless a receiver made room meanwhile.
    Retry { message: Message<P>, evicted: Option<Message<P>> },
    /// It has entered: drop what it replaces, or what was evicted for it.
    Conflated { replaced: Option<Message<P>>, evicted: Option<Message<P>> },
    /// Drop it and count it as lost.
    Refused(Message<P>),
    /// Drop it without counting it: a receive has already returned `Closed`.
    Undeliverable(Message<P>),
    /// Drop it, count it as lost, and close the subscriber.
    Disconnected(Message<P>),
    /// Wait for room, after the turn.
    Blocked(BlockedSend<P>),
}

/// A message that waits for room in an inbox. Its owner must finish it or give it up.
pub(crate) struct BlockedSend<P> {
    pub(super) inbox: Arc<Inbox<P>>,
    pub(super) message: Option<Message<P>>,
    timeout: Option<Duration>,
    /// Shared with its [`WaitingSender`].
    pub(super) state: Arc<AtomicU32>,
}

/// A message whose wait for room ended without its entering the inbox.
#[must_use = "a loss must be counted"]
pub(crate) struct Unsent<P> {
    pub(crate) message: Message<P>,
    /// It counts as lost: nobody has read the inbox's end yet.
    pub(crate) is_lost: bool,
}

impl<P> Unsent<P> {
    pub(super) fn lost(message: Message<P>) -> Self {
        Self { message, is_lost: true }
    }
}

/// The inbox's side of a [`BlockedSend`].
pub(super) struct WaitingSender {
    /// The id of the subscription that the message came by.
    subscription: u64,
    pub(super) publisher: Publisher,
    /// The bits `SENDING` and `CANCELLED`; neither is set while the publisher sleeps. Its address identifies the send.
    state: Arc<AtomicU32>,
}

/// Who waits for room.
pub(super) enum Publisher {
    Thread(Thread),
    /// `None` once the task has been woken: then it is not woken again before it has looked.
    #[cfg_attr(not(feature = "async"), expect(dead_code))]
    Task(Option<Waker>),
}

impl Publisher {
    /// Wakes a thread at once, and a task when the calling thread holds no lock. Returns `true` if it was a task that
    /// had not been woken.
    fn wake(&mut self) -> bool {
        match self {
            Self::Thread(thread) => {
                thread.unpark();
                false
            }
            Self::Task(waker) => waker.take().map(wakeups::put_off).is_some(),
        }
    }

    /// `true` if a take of a message must wake it.
    fn is_asleep(&self) -> bool {
        !matches!(self, Self::Task(None))
    }
}

/// The publisher is trying to send.
pub(super) const SENDING: u32 = 1;

/// The wait is over. A thread that cancels it while the publisher sleeps also counts the message as lost, so that the
/// loss is reported before the end of the stream.
pub(super) const CANCELLED: u32 = 1 << 1;

impl<P> Inbox<P> {
    // ---- policies ------------------------------------------------------------------------------

    /// Applies the overflow policy to `message`, which the queue has just refused as full. `hash` is the hash of its
    /// channel.
    #[cold]
    pub(crate) fn overflow(
        self: &Arc<Self>,
        message: Message<P>,
        subscription: u64,
        hash: u64,
    ) -> Overflowed<P> {
        // A conflating inbox records its depth itself: its queue is always empty.
        if !self.settings.conflates() {
            self.sample_depth();
        }
        match self.settings.overflow {
            Overflow::Conflate => self.conflate(message, hash),
            Overflow::DropOldest => self.evict_for(message),
            Overflow::DropNewest => self.refuse(message),
            // The publish closes the subscriber after its turn. Until then, whatever else it has for this inbox is
            // refused, and reported before the end.
            Overflow::Disconnect => match self.refuse(message) {
                Overflowed::Refused(message) => Overflowed::Disconnected(message),
                undeliverable => undeliverable,
            },
            Overflow::Block { timeout } => self.block(message, subscription, timeout),
        }
    }

    fn evict_for(&self, message: Message<P>) -> Overflowed<P> {
        // Held from before the oldest message leaves the queue until it is counted: otherwise the end of the stream
        // could be read in between.
        let mut inner = self.inner.lock();
        // Relaxed: set under the lock.
        if self.state.load(Ordering::Relaxed) & TERMINATED != 0 {
            return Overflowed::Undeliverable(message);
        }
        let evicted = self.evict(&mut inner);
        if let Some(evicted) = &evicted {
            self.record_loss_locked(&self.evicted, Some(evicted), &mut inner);
        }
        Overflowed::Retry { message, evicted }
    }

    /// Takes the oldest message out of the queue.
    fn evict(&self, inner: &mut Inner<P>) -> Option<Message<P>> {
        // Relaxed: set and cleared under the lock.
        let pending = self.state.load(Ordering::Relaxed) & PENDING != 0;
        let Inner { lazy, waiting, .. } = inner;
        let Some(lazy) = lazy.as_mut().filter(|_| pending) else {
            return self.pop();
        };
        self.settle_takes(lazy);
        #[cfg(test)]
        super::testing::sync_point(super::testing::SyncPoint::BeforeEvict);
        let evicted = self.pop()?;
        // A message that was taken between the two counts is older than the evicted one, and precedes it in `head`.
        self.settle_takes(lazy);
        self.advance_head(lazy, waiting);
        Some(evicted)
    }

    fn refuse(&self, message: Message<P>) -> Overflowed<P> {
        if self.record_loss(&self.refused, &message) {
            Overflowed::Refused(message)
        } else {
            Overflowed::Undeliverable(message)
        }
    }

    fn block(
        self: &Arc<Self>,
        message: Message<P>,
        subscription: u64,
        timeout: Option<Duration>,
    ) -> Overflowed<P> {
        let mut inner = self.inner.lock();
        if inner.close_reason.is_some() {
            // `refuse` locks it again.
            drop(inner);
            return self.refuse(message);
        }
        // Listed within the turn: a thread that removes the subscription from the route after this finds the sender in
        // the list and cancels it.
        let state = Arc::new(AtomicU32::new(0));
        inner.lazy.get_or_insert_default().waiting_senders.push(WaitingSender {
            subscription,
            publisher: Publisher::Thread(thread::current()),
            state: Arc::clone(&state),
        });
        // SeqCst: partner of the load in `wake_waiting_senders`. This thread writes the bit and then tries to send; a
        // receiver takes a message and then reads the bit. See "Orderings" in the module docs.
        self.state.fetch_or(SENDERS_WAITING, Ordering::SeqCst);
        let inbox = Arc::clone(self);
        Overflowed::Blocked(BlockedSend { inbox, message: Some(message), timeout, state })
    }

    // ---- losses --------------------------------------------------------------------------------

    /// Adds the message `lost` to `counter` and reports it to a receiver. Returns `false`, and counts nothing, if a
    /// receive has already returned `Closed`: nobody could be told of the loss.
    pub(super) fn record_loss(&self, counter: &AtomicU64, lost: &Message<P>) -> bool {
        // The lock orders this and `try_terminate`: the loss is either reported before the end or not counted.
        let mut inner = self.inner.lock();
        // Relaxed: set under the lock.
        if self.state.load(Ordering::Relaxed) & TERMINATED != 0 {
            return false;
        }
        self.record_loss_locked(counter, Some(lost), &mut inner);
        true
    }

    pub(super) fn record_loss_locked(
        &self,
        counter: &AtomicU64,
        lost: Option<&Message<P>>,
        inner: &mut Inner<P>,
    ) {
        // Relaxed, both: the bit below makes them visible to the receiver that reports them.
        counter.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
        // Release: partner of the AcqRel in `take_unreported`. A receiver that sees the bit sees the count.
        let before = self.state.fetch_or(LAGGED, Ordering::Release);
        if before & LAGGED == 0 {
            self.report_first_loss(lost, inner);
        }
    }

    /// Reports that a message is lost, the first since the last `Lagged` event.
    #[cold]
    fn report_first_loss(&self, lost: Option<&Message<P>>, inner: &mut Inner<P>) {
        trace::first_loss(self.member_id, &self.settings, lost.map(Message::channel));
        self.wake_receiver_locked(&mut inner.waiting);
    }

    /// Returns the number of messages lost since the last call, after `LAGGED` was seen.
    pub(super) fn take_unreported(&self) -> u64 {
        // Cleared before the count is read: a loss in between sets the bit again.
        self.state.fetch_and(!LAGGED, Ordering::AcqRel);
        // Relaxed: the bit's acquire has made the count visible.
        self.unreported.swap(0, Ordering::Relaxed)
    }

    // ---- publishers that wait for room ---------------------------------------------------------

    /// Cancels the waits of publishers for `subscription`. Their messages count as refused.
    pub(crate) fn cancel_waits(&self, subscription: u64) {
        self.cancel_where(&mut self.inner.lock(), |sender| sender.subscription == subscription);
    }

    /// Cancels the waits for which `condition` returns `true`.
    pub(super) fn cancel_where(
        &self,
        inner: &mut Inner<P>,
        condition: impl Fn(&WaitingSender) -> bool,
    ) {
        let Some(lazy) = &mut inner.lazy else { return };
        let mut lost = 0;
        lazy.waiting_senders.retain_mut(|sender| {
            let cancel = condition(sender);
            if cancel {
                // AcqRel: partner of the operations in `BlockedSend::finish`.
                if sender.state.fetch_or(CANCELLED, Ordering::AcqRel) & SENDING == 0 {
                    lost += 1;
                }
                sender.publisher.wake();
            }
            !cancel
        });
        self.update_senders_waiting(lazy);
        (0..lost).for_each(|_| self.record_loss_locked(&self.refused, None, inner));
    }

    /// Clears `SENDERS_WAITING` if no publisher waits any more that has not been woken.
    pub(super) fn update_senders_waiting(&self, lazy: &mut LazyState<P>) {
        if lazy.waiting_senders.is_empty() {
            // Frees the memory too.
            lazy.waiting_senders = Vec::new();
        }
        if !lazy.waiting_senders.iter().any(|sender| sender.publisher.is_asleep()) {
            // Relaxed: set and cleared under the lock.
            self.state.fetch_and(!SENDERS_WAITING, Ordering::Relaxed);
        }
    }

    /// Wakes the publishers that wait for room, if there are any, after a message was taken.
    #[inline]
    pub(super) fn wake_waiting_senders(&self) {
        // SeqCst: partner of the write in `block`; see "Orderings" in the module docs.
        if self.state.load(Ordering::SeqCst) & SENDERS_WAITING != 0 {
            self.wake_senders();
        }
    }

    /// Wakes all threads, and the task that has waited longest.
    ///
    /// A thread can wait for several inboxes, one after another, so the first in the list is not necessarily waiting
    /// for this one yet. A task that waits for another inbox first has no waker here. One that is woken makes way for
    /// the next when it has sent its message, or gives up.
    #[inline(never)]
    fn wake_senders(&self) {
        if let Some(lazy) = &mut self.inner.lock().lazy {
            let mut is_task_woken = false;
            for sender in &mut lazy.waiting_senders {
                if !is_task_woken || matches!(sender.publisher, Publisher::Thread(_)) {
                    is_task_woken |= sender.publisher.wake();
                }
            }
            self.update_senders_waiting(lazy);
        }
    }
}

impl<P> BlockedSend<P> {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Calls `send` until the message has entered, the wait is cancelled, or `deadline` has passed. `send` returns the
    /// message if there is still no room. Returns the message if it did not enter.
    pub(crate) fn finish(
        mut self,
        deadline: Option<Instant>,
        mut send: impl FnMut(Message<P>) -> Option<Message<P>>,
    ) -> Option<Unsent<P>> {
        let mut interval = MIN_ROOM_POLL;
        loop {
            // AcqRel, here and below: partner of `Inbox::cancel_where`. One of the two threads counts the loss.
            if self.state.fetch_or(SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return self.message.take().map(Unsent::lost);
            }
            self.message = send(self.message.take()?);
            let now = Instant::now();
            let timed_out = deadline.is_some_and(|deadline| now >= deadline);
            // `SENDING` is still set, so no other thread counts the loss.
            if self.message.is_none() || timed_out || self.is_cancelled() {
                return self.refuse();
            }
            if self.state.fetch_and(!SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return self.refuse();
            }
            let next = now + interval;
            park(Some(deadline.map_or(next, |deadline| deadline.min(next))));
            interval = MAX_ROOM_POLL.min(interval * 2);
        }
    }

    /// `true` if `sender` is the inbox's side of this.
    pub(super) fn is(&self, sender: &WaitingSender) -> bool {
        Arc::ptr_eq(&sender.state, &self.state)
    }

    /// Stops waiting. Returns the message.
    pub(crate) fn give_up(mut self) -> Option<Unsent<P>> {
        if self.state.fetch_or(SENDING, Ordering::AcqRel) & CANCELLED != 0 {
            return self.message.take().map(Unsent::lost);
        }
        self.refuse()
    }

    /// Counts the message as lost, unless it has entered or the inbox has terminated.
    fn refuse(mut self) -> Option<Unsent<P>> {
        self.refuse_message()
    }

    pub(super) fn refuse_message(&mut self) -> Option<Unsent<P>> {
        let message = self.message.take()?;
        let is_lost = self.inbox.record_loss(&self.inbox.refused, &message);
        Some(Unsent { message, is_lost })
    }

    fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCELLED != 0
    }
}

/// Removes the sender from the inbox's list. If there is room, the next one is woken: this one may have been woken for
/// it.
impl<P> Drop for BlockedSend<P> {
    fn drop(&mut self) {
        let mut removed = None;
        let mut inner = self.inbox.inner.lock();
        if let Some(lazy) = &mut inner.lazy {
            let at = lazy.waiting_senders.iter().position(|sender| self.is(sender));
            removed = at.map(|at| lazy.waiting_senders.remove(at));
            if !self.inbox.queue.is_full() {
                let mut senders = lazy.waiting_senders.iter_mut();
                _ = senders.any(|sender| sender.publisher.wake());
            }
            self.inbox.update_senders_waiting(lazy);
        }
        drop(inner);
        // Its waker is dropped under no lock.
        wakeups::drop_waker(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::{iter, thread};

    use super::*;
    use crate::error::TryRecvError;
    use crate::event::Event;
    use crate::inbox::WaitLimit;
    use crate::inbox::testing::{
        SyncPoint, blocked_send, inbox_of_four, push_event, take_at, take_unlocked, waiting,
    };
    use crate::stats::CloseReason;

    #[test]
    fn taking_a_message_wakes_a_publisher_that_waits_for_room() {
        fn message(received: Result<Event<u32>, TryRecvError>) -> Option<Message<u32>> {
            received.ok().and_then(Event::into_message)
        }
        type Take = fn(&Inbox<u32>) -> Option<Message<u32>>;
        let takes: [(&str, bool, Take); 5] = [
            ("nothing else is pending", true, |inbox| message(inbox.try_recv())),
            ("lifecycle events are disabled", false, |inbox| message(inbox.try_recv())),
            ("an event follows the message", true, |inbox| {
                push_event(inbox);
                message(inbox.try_recv())
            }),
            ("an event is pushed before an unlocked take", true, |inbox| {
                push_event(inbox);
                take_unlocked(inbox)
            }),
            ("the message follows such an event", true, |inbox| {
                let sent = inbox.pop().unwrap();
                push_event(inbox);
                inbox.sender().unwrap().try_send(sent).unwrap();
                assert!(take_unlocked(inbox).is_none(), "it is deferred");
                assert!(matches!(inbox.try_recv(), Ok(Event::Unsubscribe { .. })));
                message(inbox.try_recv())
            }),
        ];
        for (case, lifecycle_events, take) in takes {
            let woken = move || {
                let (inbox, blocked) = blocked_send(lifecycle_events);
                assert_eq!(take(&inbox).unwrap().payload, 1, "{case}");
                // As the publisher sleeps, but with no timeout: this returns because `take` has unparked this thread.
                thread::park();
                let unsent = blocked.finish(None, |message| {
                    let sent = inbox.sender().unwrap().try_send(message);
                    sent.err().map(|refused| refused.into_inner())
                });
                assert!(unsent.is_none(), "{case}");
            };
            waiting::watched(woken);
        }
    }

    #[test]
    fn a_blocked_send_ended_by_closing_counts_as_one_loss() {
        for is_sending in [false, true] {
            let (inbox, blocked) = blocked_send(false);
            let close = || assert!(inbox.close(CloseReason::Subscriber));
            if !is_sending {
                close();
            }
            let unsent = blocked.finish(None, |message| {
                close();
                Some(message)
            });
            let unsent = unsent.map(|unsent| (unsent.message.payload, unsent.is_lost));
            assert_eq!((unsent, inbox.missed()), (Some((2, true)), 1), "is sending: {is_sending}");
        }
    }

    #[test]
    fn a_loss_wakes_a_sleeping_receiver() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let receiving = Arc::clone(&inbox);
            let sleeper = thread::spawn(move || {
                receiving.wait(WaitLimit { deadline: None, stop_signal: None })
            });
            while inbox.parked() == 0 {
                thread::yield_now();
            }
            // As if others had read meanwhile the messages that filled the inbox.
            assert!(inbox.record_loss(&inbox.refused, &Message::new("c", 1)));
            assert_eq!(sleeper.join().unwrap(), Ok(Event::Lagged { missed: 1 }));
        });
    }

    #[test]
    fn a_message_taken_during_an_eviction_precedes_the_event_behind_it() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        sender.try_send(Message::new("c", 1)).unwrap();
        push_event(&inbox);
        (2..=4).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let taken = take_at(SyncPoint::BeforeEvict, &inbox);
        let Overflowed::Retry { message, evicted } = inbox.overflow(Message::new("c", 5), 0, 0)
        else {
            panic!("nothing is evicted")
        };
        assert_eq!((message.payload, evicted.unwrap().payload), (5, 2));
        let taken = taken.lock().take().unwrap();
        assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(1));
        assert_eq!(inbox.try_recv(), Ok(Event::Lagged { missed: 1 }));
        assert!(matches!(inbox.try_recv(), Ok(Event::Unsubscribe { .. })));
        let rest = iter::from_fn(|| inbox.try_recv().ok().and_then(Event::into_message));
        assert_eq!(rest.map(|message| message.payload).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn nothing_is_evicted_after_a_receive_has_returned_closed() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        inbox.close(CloseReason::Subscriber);
        assert_eq!(inbox.try_recv(), Err(TryRecvError::Closed));
        // Sent by publishers that were under way.
        (1..=4).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let overflowed = inbox.overflow(Message::new("c", 5), 0, 0);
        assert!(matches!(overflowed, Overflowed::Undeliverable(message) if message.payload == 5));
        assert_eq!((inbox.missed(), inbox.queue().len()), (0, 4));
        assert_eq!(inbox.try_recv(), Err(TryRecvError::Closed));
    }
}
