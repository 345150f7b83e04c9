//! Receivers that sleep, and waking them.
//!
//! This file owns the list of parked receivers and the `PARKED` bit. It may not hold the lock while a thread sleeps.
//!
//! crossbeam could wait by itself, with `select!` over the queue and a second channel for everything that is not a
//! message. But that needs a second caller of its `start_recv`, which would then be inlined nowhere: a receive takes 24
//! ns instead of 16 (see "Inlining" in the module docs).

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use super::{AFTER_SEND, CLOSED, Inbox, LazyState, PARKED, TERMINATED};
use crate::event::Message;
use crate::prefetch::prefetch;
use crate::sync::{AtomicBool, AtomicU8, Ordering};

thread_local! {
    /// A thread waits for one inbox at a time, so one waiter per thread is enough.
    static CURRENT: Arc<Waiter> = Arc::new(Waiter::new());
}

/// A thread that sleeps, or is about to.
pub(super) struct Waiter {
    thread: Thread,
    woken: AtomicBool,
}

impl Waiter {
    fn new() -> Self {
        Self { thread: thread::current(), woken: AtomicBool::new(false) }
    }

    /// Returns the waiter of the calling thread, not woken.
    fn current() -> Arc<Self> {
        // While a thread ends, its local storage is gone: it gets a new waiter then.
        let waiter = CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Self::new()));
        // Relaxed: a thread that wakes it finds it in a list whose lock is taken after this.
        waiter.woken.store(false, Ordering::Relaxed);
        waiter
    }

    fn wake(&self) {
        // Release: partner of the Acquire in `is_woken`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

/// Parks the calling thread until it is unparked or `deadline` has passed. It may return earlier.
pub(super) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
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

    /// Returns `true` if `after_send` must be called for a message that has just been sent.
    #[inline]
    pub(crate) fn needs_attention(&self) -> bool {
        // SeqCst: partner of the writes in `sleep` and `close`; see "Orderings" in the module docs.
        self.state.load(Ordering::SeqCst) & AFTER_SEND != 0
    }

    /// Wakes a receiver for a message that has just been sent.
    ///
    /// If a receive has already returned `Closed`, this returns a message that was sent too late and counts as not
    /// delivered.
    #[cold]
    pub(crate) fn after_send(&self) -> Option<Message<P>> {
        if self.state.load(Ordering::Relaxed) & CLOSED != 0 {
            // The lock orders this and `try_terminate`: a receive that sets `TERMINATED` after this sees the message
            // first.
            let _inner = self.inner.lock();
            if self.state.load(Ordering::Relaxed) & TERMINATED != 0 {
                // Not necessarily the message just sent. But as many are taken back as were sent too late.
                return self.pop();
            }
        }
        self.wake_receiver();
        None
    }

    // ---- waking --------------------------------------------------------------------------------

    /// Wakes the receiver that has slept longest, if there is one.
    #[cold]
    pub(super) fn wake_receiver(&self) {
        if let Some(lazy) = &mut self.inner.lock().lazy {
            self.wake_receiver_locked(lazy);
        }
    }

    /// Wakes the receiver that has slept longest. Returns `false` if there is none.
    pub(super) fn wake_receiver_locked(&self, lazy: &mut LazyState<P>) -> bool {
        let Some(waiter) = lazy.parked.pop_front() else { return false };
        if lazy.parked.is_empty() {
            // Relaxed: set and cleared under the lock.
            self.state.fetch_and(!PARKED, Ordering::Relaxed);
        }
        waiter.wake();
        true
    }

    // ---- sleeping ------------------------------------------------------------------------------

    /// Sleeps until something may be readable, or `limit` ends the wait.
    pub(super) fn sleep(&self, limit: WaitLimit<'_>) {
        let waiter = Waiter::current();
        {
            let mut inner = self.inner.lock();
            inner.lazy.get_or_insert_default().parked.push_back(Arc::clone(&waiter));
            // SeqCst: partner of the load in `needs_attention`.
            self.state.fetch_or(PARKED, Ordering::SeqCst);
        }
        while self.seems_empty()
            && !waiter.is_woken()
            && !limit.is_draining()
            && !limit.is_past_deadline()
        {
            park(limit.deadline);
        }
        if waiter.is_woken() {
            return;
        }
        let mut inner = self.inner.lock();
        if let Some(lazy) = &mut inner.lazy {
            lazy.parked.retain(|other| !Arc::ptr_eq(other, &waiter));
            if lazy.parked.is_empty() {
                // Relaxed: set and cleared under the lock.
                self.state.fetch_and(!PARKED, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Event;
    use crate::inbox::WaitError;
    use crate::inbox::testing::{inbox_of_four, push_event, waiting};

    #[test]
    fn a_take_that_makes_an_event_due_wakes_a_sleeping_receiver() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        let wait = || {
            let (started, patience) = (Instant::now(), Duration::from_secs(20));
            let limit = WaitLimit { deadline: Some(started + patience), stop_signal: None };
            // At its deadline it would find the event by itself.
            inbox.wait(limit).ok().filter(|_| started.elapsed() < patience)
        };
        thread::scope(|scope| {
            let sleepers = [1, 2].map(|count| {
                let sleeper = scope.spawn(wait);
                while inbox.parked() < count {
                    thread::yield_now();
                }
                sleeper
            });
            // Nobody is woken for the two messages, and the first sleeper for the event.
            (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            push_event(&inbox);
            let [first, second] = sleepers;
            assert_eq!(first.join().unwrap().and_then(Event::into_message).unwrap().payload, 1);
            // A receive that looked before there was the event takes the last message.
            let message = inbox.finish_take(inbox.pop().unwrap());
            assert_eq!(message.unwrap().payload, 2);
            assert!(
                matches!(second.join().unwrap(), Some(Event::Unsubscribe { .. })),
                "it sleeps on"
            );
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
            assert!(inbox.after_send().is_none());
            assert_eq!(first.join().unwrap(), Err(WaitError::Stopped));
            assert_eq!(second.join().unwrap(), Ok(Message::new("c", 1).into()));
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
