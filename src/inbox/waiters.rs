//! Threads that wait, and the waking of them.
//!
//! crossbeam's own waiting would do, by `select!` over the queue and a second channel for all that is no
//! message. But it needs a second caller of crossbeam's `start_recv`, which then is inlined nowhere, and
//! every receive pays for it: 24 ns in place of 16.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Instant;

use crate::sync::{AtomicBool, Ordering};

thread_local! {
    /// A thread waits for one thing at a time: one waiter does for all of them.
    static CURRENT: Arc<Waiter> = Arc::new(Waiter::new());
}

/// A thread that waits, or is about to.
pub(super) struct Waiter {
    thread: Thread,
    woken: AtomicBool,
}

impl Waiter {
    fn new() -> Self {
        Self { thread: thread::current(), woken: AtomicBool::new(false) }
    }

    /// The calling thread's, not woken.
    pub(super) fn current() -> Arc<Self> {
        // The thread's own storage is gone while it ends: a new one then.
        let waiter = CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Self::new()));
        // Relaxed: whoever wakes it finds it through a lock that is taken after this.
        waiter.woken.store(false, Ordering::Relaxed);
        waiter
    }

    /// Ends the wait of its thread.
    pub(super) fn wake(&self) {
        // Release: partner of the Acquire below.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

/// Lets the calling thread sleep until it is woken, or until `deadline`; it may wake earlier.
pub(super) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
