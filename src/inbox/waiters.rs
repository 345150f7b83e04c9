//! Receivers that wait, threads and tasks, and waking them.
//!
//! This file owns the inbox's list of waiting receivers and the `PARKED` bit. It may not hold the lock while a receiver
//! sleeps, while a task's waker is cloned or dropped, or while it is called. A receiver that was woken and gives up, or
//! leaves something to read, wakes the next.
//!
//! crossbeam could wait by itself, with `select!` over the queue and a second channel for everything that is not a
//! message. But that needs a second caller of its `start_recv`, which would then be inlined nowhere: a receive takes 24
//! ns instead of 16 (see "Inlining" in the module docs).

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::{AFTER_SEND, Inbox, Inner, PARKED, TERMINATED};
use crate::event::Message;
use crate::prefetch::prefetch;
use crate::sync::{AtomicU8, Ordering};
use crate::wait_list::{SleepingThread, Ticket, WaitList, park};
use crate::wakeups;

/// What there is to do for a message that has just been sent.
pub(crate) enum Attention<P> {
    Nothing,
    /// Call the wake-ups that were put off, after the turn.
    TaskWoken,
    /// Drop this message, which counts as not delivered: a receive has already returned `Closed`.
    Undeliverable(Message<P>),
}

/// What ends a wait with no event, other than closing.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimit<'a> {
    /// `None` for no deadline.
    pub(crate) deadline: Option<Instant>,
    /// A thread that sets it must unpark the waiting thread afterwards.
    pub(crate) stop_signal: Option<&'a StopSignal>,
}

impl WaitLimit<'_> {
    /// Returns `true` if the wait must end at once, whatever is queued.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop_signal.is_some_and(|signal| signal.get() & StopSignal::STOP != 0)
    }

    /// Returns `true` if the wait must end when nothing is left to read.
    pub(super) fn is_draining(&self) -> bool {
        self.stop_signal.is_some_and(|signal| signal.get() != 0)
    }

    pub(super) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Tells a listener's thread to end.
#[derive(Default)]
pub(crate) struct StopSignal(AtomicU8);

impl StopSignal {
    /// End when nothing is left to read.
    const DRAIN: u8 = 1;
    /// End at once.
    const STOP: u8 = 2;

    pub(crate) fn drain(&self) {
        // Release, here and in `stop`: partner of the Acquire in `get`. The thread that ends sees what was done before.
        self.0.fetch_or(Self::DRAIN, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.0.fetch_or(Self::STOP, Ordering::Release);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

impl<P> Inbox<P> {
    // ---- after a send --------------------------------------------------------------------------

    /// Prefetches what `needs_attention` reads.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.state);
    }

    /// `true` if `after_send` must be called for a message that has just been sent.
    #[inline]
    pub(crate) fn needs_attention(&self) -> bool {
        // SeqCst: partner of the writes in `sleep` and `close`; see "Orderings" in the module docs.
        self.state.load(Ordering::SeqCst) & AFTER_SEND != 0
    }

    /// Wakes a receiver for a message that has just been sent.
    #[inline(never)]
    pub(crate) fn after_send(&self) -> Attention<P> {
        let mut inner = self.inner.lock();
        // Relaxed, both: the lock orders this and `try_terminate`: a receive that sets `TERMINATED` after this sees the
        // message first.
        if self.state.load(Ordering::Relaxed) & TERMINATED != 0 {
            // Not necessarily the message just sent, but each send that came too late takes one back.
            return self.pop().map_or(Attention::Nothing, Attention::Undeliverable);
        }
        match inner.waiting.pop() {
            None => Attention::Nothing,
            Some(waiting) => {
                self.update_parked(&inner.waiting);
                drop(inner);
                let is_thread = waiting.is_thread();
                waiting.wake();
                if is_thread { Attention::Nothing } else { Attention::TaskWoken }
            }
        }
    }

    // ---- waking --------------------------------------------------------------------------------

    /// Wakes the receiver that has waited longest, if there is one.
    #[cold]
    pub(super) fn wake_receiver(&self) {
        self.wake_receiver_locked(&mut self.inner.lock().waiting);
    }

    /// Wakes the receiver that has waited longest. Returns `false` if there is none.
    pub(super) fn wake_receiver_locked(&self, list: &mut WaitList) -> bool {
        let Some(waiting) = list.pop() else { return false };
        self.update_parked(list);
        waiting.wake();
        true
    }

    /// Clears `PARKED` if no receiver waits any more.
    pub(super) fn update_parked(&self, list: &WaitList) {
        if list.is_empty() {
            // Relaxed: set and cleared under the lock.
            self.state.fetch_and(!PARKED, Ordering::Relaxed);
        }
    }

    /// Adds a receiver to the list.
    pub(super) fn enlist(&self, inner: &mut Inner<P>, waker: Waker, is_thread: bool) -> Ticket {
        let ticket = inner.waiting.push(waker, is_thread);
        // SeqCst: partner of the load in `needs_attention`.
        self.state.fetch_or(PARKED, Ordering::SeqCst);
        ticket
    }

    // ---- threads -------------------------------------------------------------------------------

    /// Sleeps until something may be readable, or `limit` ends the wait. Returns `true` if it was woken: then it must
    /// [pass on](Self::pass_on) its wake-up if it leaves something to read.
    pub(super) fn sleep(&self, limit: WaitLimit<'_>) -> bool {
        let sleeping = SleepingThread::current();
        let waker = Waker::from(Arc::clone(&sleeping));
        let ticket = self.enlist(&mut self.inner.lock(), waker, true);
        while self.seems_empty()
            && !sleeping.is_woken()
            && !limit.is_draining()
            && !limit.is_past_deadline()
        {
            park(limit.deadline);
        }
        // The list tells whether it was woken. The flag does not: a waker that was taken out of the list in an earlier
        // wait may be called only now. Acquire: as in `leave`.
        if self.state.load(Ordering::Acquire) & PARKED == 0 {
            return true;
        }
        let mut inner = self.inner.lock();
        let is_woken = inner.waiting.remove(ticket).is_none();
        self.update_parked(&inner.waiting);
        is_woken
    }

    /// Wakes the next receiver if there is something left to read.
    pub(super) fn pass_on(&self) {
        if self.state.load(Ordering::Acquire) & PARKED != 0 && !self.seems_empty() {
            self.wake_receiver();
            wakeups::call_pending();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::event::Event;
    use crate::inbox::WaitError;
    use crate::inbox::testing::{inbox_of_four, push_event, waiting};

    #[test]
    fn each_receive_that_leaves_something_wakes_the_next_sleeper() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        let wait = || {
            let (started, patience) = (Instant::now(), Duration::from_secs(20));
            let limit = WaitLimit { deadline: Some(started + patience), stop_signal: None };
            // At its deadline it would find what is there by itself.
            inbox.wait(limit).ok().filter(|_| started.elapsed() < patience)
        };
        thread::scope(|scope| {
            let sleepers = [1, 2, 3].map(|count| {
                let sleeper = scope.spawn(wait);
                while inbox.parked() < count {
                    thread::yield_now();
                }
                sleeper
            });
            // Nobody is woken for the two messages, and the first sleeper for the event.
            (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            push_event(&inbox);
            let received = sleepers.map(|sleeper| sleeper.join().unwrap().expect("it is woken"));
            let mut messages: Vec<_> =
                received.into_iter().filter_map(Event::into_message).collect();
            messages.sort_unstable_by_key(|message| message.payload);
            // The third has got the event.
            assert!(messages.iter().map(|message| message.payload).eq(1..=2));
        });
    }

    #[test]
    fn a_receive_that_is_stopped_after_being_woken_for_a_message_wakes_another() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let signal = Arc::new(StopSignal::default());
            let sleeper = |signal: Option<Arc<StopSignal>>| {
                let already = inbox.parked();
                let receiving = Arc::clone(&inbox);
                let sleeper = thread::spawn(move || {
                    receiving.wait(WaitLimit { deadline: None, stop_signal: signal.as_deref() })
                });
                while inbox.parked() == already {
                    thread::yield_now();
                }
                sleeper
            };
            let (first, second) = (sleeper(Some(Arc::clone(&signal))), sleeper(None));
            // It is not unparked, so it sees the signal when it is woken for the message.
            signal.stop();
            inbox.sender().unwrap().try_send(Message::new("c", 1)).unwrap();
            assert!(matches!(inbox.after_send(), Attention::Nothing));
            assert_eq!(first.join().unwrap(), Err(WaitError::Stopped));
            assert_eq!(second.join().unwrap(), Ok(Message::new("c", 1).into()));
        });
    }

    #[test]
    fn a_wake_up_that_comes_late_ends_a_later_sleep_and_leaves_no_place_in_the_list() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let await_sleeper = || {
                while inbox.parked() == 0 {
                    thread::yield_now();
                }
            };
            thread::scope(|scope| {
                let sleeper = scope.spawn(|| {
                    let until =
                        |deadline| WaitLimit { deadline: Some(deadline), stop_signal: None };
                    let is_woken = inbox.sleep(until(Instant::now() + Duration::from_secs(1)));
                    (is_woken, inbox.sleep(until(Instant::now() + Duration::from_secs(3600))))
                });
                await_sleeper();
                // As a publisher does that is preempted before it calls the waker.
                let mut inner = inbox.inner.lock();
                let late = inner.waiting.pop().unwrap();
                inbox.update_parked(&inner.waiting);
                drop(inner);
                await_sleeper();
                late.wake();
                assert_eq!(sleeper.join().unwrap(), (true, false));
            });
            assert_eq!(inbox.parked(), 0);
            assert!(!inbox.needs_attention());
        });
    }

    #[test]
    fn a_woken_thread_that_leaves_a_message_wakes_the_next_receiver() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let sender = inbox.sender().unwrap();
            thread::scope(|scope| {
                let wait = || inbox.wait(WaitLimit { deadline: None, stop_signal: None });
                let first = scope.spawn(wait);
                while inbox.parked() < 1 {
                    thread::yield_now();
                }
                let second = scope.spawn(wait);
                while inbox.parked() < 2 {
                    thread::yield_now();
                }
                // Two messages, and one wake-up: as if the first had come before anybody was in the list.
                (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
                inbox.after_send();
                assert!(first.join().unwrap().is_ok() && second.join().unwrap().is_ok());
            });
        });
    }

    #[test]
    fn a_receive_that_timed_out_is_no_longer_woken() {
        let (inbox, _) = inbox_of_four();
        inbox.sleep(WaitLimit { deadline: Some(Instant::now()), stop_signal: None });
        assert_eq!(inbox.parked(), 0);
        assert!(!inbox.needs_attention());
    }
}
