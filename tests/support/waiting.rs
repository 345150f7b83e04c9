//! How tests wait on a machine of any speed. The watchdog fails a test that would hang, and none that is slow:
//! what counts is how long nothing has moved, not how long the test takes.

// Every test binary uses some of it.
#![allow(dead_code)]

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long nothing may move before it counts as a deadlock: far longer than a step of any test takes on a
/// machine that is twenty times slower, and busy.
pub const WATCHDOG: Duration = Duration::from_secs(120);

/// How often the watchdog looks. It counts its own looks rather than reading a clock, so that time in which the
/// whole process stands still does not count.
const LOOK: Duration = Duration::from_millis(100);

thread_local! {
    /// Steps of the test that this thread runs under [`watched`].
    static STEPS: RefCell<Steps> = const { RefCell::new(Steps(None)) };
}

/// Counts the steps of a test, for its watchdog.
#[derive(Clone)]
pub struct Steps(Option<Arc<AtomicU64>>);

impl Steps {
    /// Tells the watchdog that the test goes on.
    pub fn step(&self) {
        if let Some(steps) = &self.0 {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns the counter of the test that this thread runs under [`watched`], for threads that it starts. On any
/// other thread, it counts nothing.
pub fn steps() -> Steps {
    STEPS.with_borrow(Steps::clone)
}

/// Tells the watchdog that the test goes on: to be called once a round by tests of many rounds, on the thread
/// that [`watched`] runs them on. On other threads it does nothing; they get [`steps`].
pub fn step() {
    STEPS.with_borrow(Steps::step);
}

/// Runs `test` on a thread of its own. Fails, where it would hang otherwise, when it has made no [`step`] for
/// [`WATCHDOG`].
#[track_caller]
pub fn watched<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    watched_for(WATCHDOG, test)
}

/// Runs `test` like [`watched`], and fails when it has made no [`step`] for `patience`.
#[track_caller]
pub fn watched_for<T: Send + 'static>(
    patience: Duration,
    test: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, finished) = mpsc::channel::<()>();
    let steps = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&steps);
    let thread = thread::spawn(move || {
        // Dropped by unwinding too.
        let _done = done;
        STEPS.set(Steps(Some(counted)));
        test()
    });
    let (mut seen, mut idle) = (0, Duration::ZERO);
    while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(LOOK) {
        let now = steps.load(Ordering::Relaxed);
        idle = if now == seen { idle + LOOK } else { Duration::ZERO };
        assert!(idle < patience, "nothing moved for {patience:?} after {now} steps: deadlock");
        seen = now;
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Lets a little time pass, so that other threads get further with what they do meanwhile: more of it for a greater
/// `amount`. It is work, rather than yielding: beside busy processes, a thread that yields is back only after the
/// time slices of all of them.
pub fn linger(amount: usize) {
    for _ in 0..amount * 1_000 {
        std::hint::spin_loop();
    }
}
