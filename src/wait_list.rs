//! Threads and tasks that wait in one list, first in, first out, each as a [`Waker`].
//!
//! A thread's waker only unparks it, and is called at once. A task's is user code, and is put off: see [`wakeups`].
//! Whoever wakes one takes it out of the list, so that one that has not looked yet is not woken again. The list has no
//! lock of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::sync::{AtomicBool, Ordering};
use crate::wakeups;

thread_local! {
    /// A thread waits in one list at a time, so one waiter per thread is enough.
    static CURRENT: Arc<SleepingThread> = Arc::new(SleepingThread::new());
}

/// A thread that sleeps, or is about to.
pub(crate) struct SleepingThread {
    thread: Thread,
    woken: AtomicBool,
}

impl SleepingThread {
    fn new() -> Self {
        Self { thread: thread::current(), woken: AtomicBool::new(false) }
    }

    /// Returns that of the calling thread, not woken.
    pub(crate) fn current() -> Arc<Self> {
        // While a thread ends, its local storage is gone: it gets a new one then.
        let current = CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Self::new()));
        // Relaxed: a thread that wakes it finds it in a list whose lock is taken after this. One that found it there in
        // an earlier wait may wake it now: then it looks once more than it must.
        current.woken.store(false, Ordering::Relaxed);
        current
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

impl Wake for SleepingThread {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release: partner of the Acquire in `is_woken`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// A place in a [`WaitList`]. No two are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// `true` if a thread waits there, and no task.
    fn is_thread(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Who waits in a [`WaitList`]: a thread or a task.
pub(crate) struct Waiting {
    ticket: Ticket,
    pub(crate) waker: Waker,
}

impl Waiting {
    pub(crate) fn is_thread(&self) -> bool {
        self.ticket.is_thread()
    }

    /// Wakes it: a thread at once, a task when the calling thread holds no lock.
    pub(crate) fn wake(self) {
        if self.is_thread() {
            self.waker.wake();
        } else {
            wakeups::put_off(self.waker);
        }
    }
}

/// Threads and tasks that wait, first in, first out.
#[derive(Default)]
pub(crate) struct WaitList {
    /// In place: most inboxes have one reader, whose wait then allocates nothing. Empty only if `later` is.
    first: Option<Waiting>,
    /// Boxed, since every inbox has it and few need it.
    #[expect(clippy::box_collection)]
    later: Option<Box<VecDeque<Waiting>>>,
    /// Tickets given so far.
    tickets: u64,
}

impl WaitList {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push(&mut self, waker: Waker, is_thread: bool) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets << 1 | u64::from(is_thread));
        let waiting = Waiting { ticket, waker };
        if self.first.is_none() {
            self.first = Some(waiting);
        } else {
            self.later.get_or_insert_default().push_back(waiting);
        }
        ticket
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let first = self.first.take()?;
        self.first = self.later.as_mut().and_then(|later| later.pop_front());
        Some(first)
    }

    #[cfg(feature = "async")]
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiting> {
        let later = self.later.iter_mut().flat_map(|later| later.iter_mut());
        self.first.iter_mut().chain(later).find(|waiting| waiting.ticket == ticket)
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        if self.first.as_ref()?.ticket == ticket {
            return self.pop();
        }
        let later = self.later.as_mut()?;
        let at = later.iter().position(|waiting| waiting.ticket == ticket)?;
        later.remove(at)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.first.iter().len() + self.later.as_ref().map_or(0, |later| later.len())
    }
}

/// Parks the calling thread until it is unparked or `deadline` has passed. It may return earlier.
pub(crate) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
