//! Receiving: the fast path, the slow path, and waiting for something to read.
//!
//! This file owns the marks of takes, `take_seq`, and the end of the stream. Its fast path may not take the lock, and
//! may not grow: see "Inlining" in the module docs.
//!
//! The fast path takes a message while nothing else can come first. As soon as a bit of `SLOW_RECV` is set, receives go
//! down the slow path, which yields losses, then lifecycle events that are due, then messages, and `Closed` at the end.

use std::sync::atomic::compiler_fence;

use crossbeam_utils::Backoff;

use super::{
    CLOSED, EVENTS_DISABLED, Inbox, Inner, LAGGED, PENDING, SENDERS_WAITING, SLOW_RECV, TERMINATED,
    WaitLimit,
};
use crate::error::TryRecvError;
use crate::event::{Event, Message};
use crate::reentrancy;
use crate::sync::{MutexGuard, Ordering};
use crate::wakeups;

/// The result of the fast path.
pub(crate) enum FastRecv<P> {
    Message(Message<P>),
    Empty,
    /// Call `try_recv_slow`.
    Slow,
}

/// What comes next in the stream, as far as it is known before the queue is looked at.
pub(super) enum Next<'a, P> {
    Event(Event<P>),
    /// The next queued message, if there is one. While events or deferred messages are pending, it must be taken under
    /// the lock.
    Queued(Option<MutexGuard<'a, Inner<P>>>),
    Closed,
}

/// The reason why a wait returned no event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WaitError {
    Closed,
    TimedOut,
    Stopped,
}

impl<P> Inbox<P> {
    /// Returns what comes next in the stream, without waiting.
    #[inline]
    pub(crate) fn try_recv(&self) -> Result<Event<P>, TryRecvError> {
        match self.try_recv_fast() {
            FastRecv::Message(message) => Ok(message.into()),
            FastRecv::Empty => Err(TryRecvError::Empty),
            FastRecv::Slow => self.try_recv_slow(),
        }
    }

    /// Returns the next message, without waiting, skipping all other events.
    #[inline(always)] // See "Inlining" in the module docs.
    pub(crate) fn try_recv_message(&self) -> Result<Message<P>, TryRecvError> {
        loop {
            match self.try_recv_fast() {
                FastRecv::Message(message) => return Ok(message),
                FastRecv::Empty => return Err(TryRecvError::Empty),
                FastRecv::Slow => {}
            }
            if let Some(message) = self.try_recv_slow()?.into_message() {
                return Ok(message);
            }
        }
    }

    // ---- the fast path -------------------------------------------------------------------------

    /// Returns the next message, if nothing else can come first.
    #[inline(always)] // See "Inlining" in the module docs.
    pub(crate) fn try_recv_fast(&self) -> FastRecv<P> {
        // Acquire: partner of the writes to `state` by those who set a bit of `SLOW_RECV`.
        let state = self.state.load(Ordering::Acquire);
        if state & SLOW_RECV != 0 {
            return FastRecv::Slow;
        }
        // Relaxed, both: only receivers write them; for others that read `take_seq`, see `settle_takes`.
        let seq = self.take_seq.load(Ordering::Relaxed) & !1;
        let until_sample = self.sample_at.load(Ordering::Relaxed).wrapping_sub(seq) as i32;
        if until_sample <= 0 && !self.sample_nonempty(seq) {
            return FastRecv::Empty;
        }
        if state & EVENTS_DISABLED != 0 {
            // The take needs no mark: `take_seq` only counts here.
            self.take_seq.store(seq.wrapping_add(2), Ordering::Relaxed);
        } else if !self.begin_take(seq) {
            return FastRecv::Slow;
        }
        // Destructured at once, with no call in between, so that it stays in registers.
        let Ok(Message { payload, source }) = self.queue.try_recv() else {
            self.cancel_take_on_empty();
            return FastRecv::Empty;
        };
        // SeqCst: partner of the writes in `push_event` and `block`.
        let state = self.state.load(Ordering::SeqCst);
        if state & (PENDING | SENDERS_WAITING) != 0 {
            return match self.finish_take(Message { payload, source }) {
                Some(message) => FastRecv::Message(message),
                None => FastRecv::Slow,
            };
        }
        if state & EVENTS_DISABLED == 0 {
            self.end_take();
        }
        FastRecv::Message(Message { payload, source })
    }

    /// Ends a take that found `PENDING` or `SENDERS_WAITING` set. Returns the message, or `None` if it was deferred.
    #[cold]
    pub(super) fn finish_take(&self, message: Message<P>) -> Option<Message<P>> {
        let _wakeups = wakeups::CallOnDrop;
        self.end_take();
        if self.state.load(Ordering::SeqCst) & PENDING != 0 {
            return self.reconcile(message);
        }
        self.wake_waiting_senders();
        Some(message)
    }

    /// Samples the depth of the queue and sets when the next receive will. Returns `false` if the queue is empty.
    ///
    /// Most receives skip it, since it reads what a publisher on another processor writes. The receives between two
    /// samples take at most an eighth of the largest depth out of the queue, so at most that much of a peak is missed.
    /// Once the inbox has been full, there is no greater depth to be found.
    #[inline(never)] // See "Inlining" in the module docs.
    fn sample_nonempty(&self, seq: u32) -> bool {
        let depth = self.queue.len();
        if depth == 0 {
            return false;
        }
        // Relaxed, all: a statistic, which orders nothing.
        let high_water = self.high_water.load(Ordering::Relaxed);
        if high_water >= self.settings.capacity {
            self.sample_at.store(seq.wrapping_add(1 << 30), Ordering::Relaxed);
        } else {
            self.record_depth(depth);
            // Below 8, every receive samples.
            if high_water >= 8 {
                let samples_to_skip = (high_water / 8).min(1 << 28) as u32;
                self.sample_at.store(seq.wrapping_add(2 + 2 * samples_to_skip), Ordering::Relaxed);
            }
        }
        true
    }

    // ---- marking takes -------------------------------------------------------------------------
    //
    // See "Takes without the lock" in the docs of `lifecycle`.

    /// Marks a take of the fast path, with `take_seq` at `seq`. Returns `false`, and marks nothing, if the receive must
    /// go down the slow path.
    #[inline(never)] // See "Inlining" in the module docs.
    fn begin_take(&self, seq: u32) -> bool {
        self.mark_take(seq, SLOW_RECV)
    }

    /// Marks a take, with `take_seq` at `seq`. Returns `false`, and marks nothing, if one of the bits `unless` is set.
    #[inline(always)]
    fn mark_take(&self, seq: u32, unless: u32) -> bool {
        // Relaxed: crossbeam's exchange, at least a release, follows.
        self.take_seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        // The second look must come after the mark: a thread that pushes an event waits for a take that it sees marked,
        // even if the receiver is preempted here.
        compiler_fence(Ordering::SeqCst);
        let is_clear = self.state.load(Ordering::Acquire) & unless == 0;
        if !is_clear {
            self.cancel_take();
        }
        is_clear
    }

    /// Marks the end of a take. `take_seq` is even afterwards, even if other receivers have written to it meanwhile.
    #[inline]
    pub(super) fn end_take(&self) {
        // Relaxed: see `try_recv_fast`.
        let seq = self.take_seq.load(Ordering::Relaxed);
        // Release: partner of the Acquires in `settle_takes`.
        self.take_seq.store((seq.wrapping_add(1)) & !1, Ordering::Release);
    }

    /// Removes the mark of a take that took nothing.
    fn cancel_take(&self) {
        // Relaxed, both: nothing left the queue.
        let seq = self.take_seq.load(Ordering::Relaxed);
        self.take_seq.store(seq & !1, Ordering::Relaxed);
    }

    /// Removes the mark of a take that found the queue empty. The next receive will sample the depth first, which costs
    /// less than another attempt to take.
    #[inline(never)] // See "Inlining" in the module docs.
    fn cancel_take_on_empty(&self) {
        self.cancel_take();
        // Relaxed, both: a statistic, which orders nothing.
        self.sample_at.store(self.take_seq.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    // ---- the slow path -------------------------------------------------------------------------

    /// Returns what comes next in the stream, whatever it is.
    #[cold]
    pub(crate) fn try_recv_slow(&self) -> Result<Event<P>, TryRecvError> {
        let _wakeups = wakeups::CallOnDrop;
        loop {
            // Acquire: partner of the writes in `record_loss_locked`, `push_event` and `close`.
            let state = self.state.load(Ordering::Acquire);
            // While events are pending, the lock is held until the message is taken and counted.
            let inner = match self.next_before_queue(state) {
                Next::Event(event) => return Ok(event),
                Next::Closed => return Err(TryRecvError::Closed),
                Next::Queued(inner) => inner,
            };
            let message = if inner.is_some() { self.pop() } else { self.take_unlocked() };
            let Some(message) = message else {
                // If events are pending, they have come meanwhile, or another receiver has taken the messages before
                // them.
                let pending = self.state.load(Ordering::Acquire) & PENDING != 0;
                if inner.is_none() && !pending && self.queue.is_empty() {
                    if state & CLOSED == 0 {
                        return Err(TryRecvError::Empty);
                    }
                    if self.try_terminate() {
                        return Err(TryRecvError::Closed);
                    }
                }
                continue;
            };
            match inner {
                Some(mut inner) => {
                    let Inner { lazy, waiting, .. } = &mut *inner;
                    if let Some(lazy) = lazy {
                        self.advance_head(lazy, waiting);
                    }
                    // `after_take` locks it again.
                    drop(inner);
                }
                // SeqCst: partner of the write in `push_event`.
                None if self.state.load(Ordering::SeqCst) & PENDING != 0 => {
                    match self.reconcile(message) {
                        Some(message) => return Ok(message.into()),
                        None => continue,
                    }
                }
                None => {}
            }
            self.after_take();
            return Ok(message.into());
        }
    }

    /// Returns what comes before the queued messages, with `state` as it was read.
    #[cold]
    fn next_before_queue(&self, state: u32) -> Next<'_, P> {
        if state & TERMINATED != 0 {
            return Next::Closed;
        }
        if state & LAGGED != 0 {
            let missed = self.take_unreported();
            if missed != 0 {
                return Next::Event(Event::Lagged { missed });
            }
        }
        if state & PENDING == 0 {
            return Next::Queued(None);
        }
        self.next_pending()
    }

    /// Takes the oldest message out of the queue, for everything but the fast path.
    #[inline(never)] // See "Inlining" in the module docs.
    pub(super) fn pop(&self) -> Option<Message<P>> {
        self.queue.try_recv().ok()
    }

    /// Takes the oldest message without the lock, and marks the take. Returns `None` if there is none, or if `PENDING`
    /// is set.
    fn take_unlocked(&self) -> Option<Message<P>> {
        // Relaxed: see `try_recv_fast`.
        let seq = self.take_seq.load(Ordering::Relaxed) & !1;
        if !self.mark_take(seq, PENDING) {
            return None;
        }
        let message = self.pop();
        if message.is_some() {
            self.end_take();
        } else {
            self.cancel_take();
        }
        message
    }

    /// Does what must follow each take of the slow path.
    pub(super) fn after_take(&self) {
        // One more than is queued was there before the take, unless a message has arrived since.
        self.record_depth((self.queue.len() + 1).min(self.settings.capacity));
        self.wake_waiting_senders();
    }

    /// Sets `TERMINATED`, unless something can still be read. Returns `true` if it did.
    #[cold]
    fn try_terminate(&self) -> bool {
        // The lock orders this and `after_send`.
        let _inner = self.inner.lock();
        // Relaxed, both: all three bits are set under the lock.
        let pending = self.state.load(Ordering::Relaxed) & (LAGGED | PENDING) != 0;
        let terminated = !pending && self.queue.is_empty();
        if terminated {
            self.state.fetch_or(TERMINATED, Ordering::Relaxed);
        }
        terminated
    }

    // ---- waiting -------------------------------------------------------------------------------

    /// Waits for what comes next in the stream, within `limit`.
    pub(crate) fn wait(&self, limit: WaitLimit<'_>) -> Result<Event<P>, WaitError> {
        let mut is_woken = false;
        loop {
            if limit.is_stopped() {
                // What is queued is left to other receivers. This thread may have been woken for it.
                self.pass_on();
                return Err(WaitError::Stopped);
            }
            match self.try_recv() {
                Ok(event) => {
                    if is_woken {
                        self.pass_on();
                    }
                    return Ok(event);
                }
                Err(TryRecvError::Closed) => return Err(WaitError::Closed),
                Err(TryRecvError::Empty) if limit.is_past_deadline() => {
                    return Err(WaitError::TimedOut);
                }
                Err(TryRecvError::Empty) if limit.is_draining() => return Err(WaitError::Stopped),
                Err(TryRecvError::Empty) => {}
            }
            reentrancy::assert_not_in_clone();
            let backoff = Backoff::new();
            while self.seems_empty() && !backoff.is_completed() {
                backoff.snooze();
            }
            is_woken = self.seems_empty() && self.sleep(limit);
        }
    }

    /// Returns `true` if nothing could be read a moment ago.
    pub(crate) fn seems_empty(&self) -> bool {
        // Acquire: see `try_recv_slow`.
        self.queue.is_empty() && self.state.load(Ordering::Acquire) & SLOW_RECV == 0
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::Sender;

    use super::*;
    use crate::inbox::testing::{inbox_of_four, push_event, take_unlocked};
    use crate::stats::CloseReason;

    #[test]
    fn closed_is_not_returned_before_what_arrived_after_the_queue_was_found_empty() {
        type Arrive = fn(&Inbox<u32>, Sender<Message<u32>>);
        let cases: [(&str, Arrive); 3] = [
            ("a message", |_, sender| sender.try_send(Message::new("c", 1)).unwrap()),
            ("a loss", |inbox, _| {
                assert!(inbox.record_loss(&inbox.refused, &Message::new("c", 1)))
            }),
            ("a lifecycle event", |inbox, _| push_event(inbox)),
        ];
        for (what, arrive) in cases {
            let (inbox, _) = inbox_of_four();
            // As a publish that is under way has one.
            let sender = inbox.sender().unwrap();
            inbox.close(CloseReason::Subscriber);
            // Here a receive finds the queue empty.
            arrive(&inbox, sender);
            assert!(!inbox.try_terminate(), "{what}");
            assert!(inbox.try_recv().is_ok(), "{what}");
            assert_eq!(inbox.try_recv(), Err(TryRecvError::Closed), "{what}");
        }
    }

    #[test]
    fn a_receive_with_events_pending_records_the_depth_it_found() {
        type Take = fn(&Inbox<u32>) -> Option<Message<u32>>;
        let takes: [Take; 2] = [take_unlocked, |inbox| inbox.try_recv().unwrap().into_message()];
        for take in takes {
            let (inbox, _) = inbox_of_four();
            let sender = inbox.sender().unwrap();
            (1..=3).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            push_event(&inbox);
            assert_eq!(take(&inbox).unwrap().payload, 1);
            assert_eq!((inbox.depth(), inbox.high_water()), (2, 3));
        }
    }
}
