//! How tests wait, on a machine of any speed. The watchdog fails tests that hang, but not those that are slow:
//! it measures how long nothing has moved, not how long the test takes.

// Each test binary uses only some of it.
#![allow(dead_code)]

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// After this long without a step, a test counts as deadlocked: far longer than any step takes on a busy
/// machine that is twenty times slower.
pub const WATCHDOG: Duration = Duration::from_secs(120);

/// How often the watchdog checks. It counts its checks instead of reading a clock, so that time in which the
/// whole process stands still does not count.
const LOOK: Duration = Duration::from_millis(100);

thread_local! {
    /// The steps of the test that this thread runs under [`watched`].
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

/// Tells the watchdog that the test goes on. Tests of many rounds call it once a round, on the thread that
/// [`watched`] runs them on. On other threads it does nothing; they use [`steps`].
pub fn step() {
    STEPS.with_borrow(Steps::step);
}

/// Runs `test` on a thread of its own. Fails, instead of hanging, when it has made no [`step`] for
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
        // Unwinding drops it, too.
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

/// Spends some time, more for a greater `amount`, so that other threads advance meanwhile. It spins instead of
/// yielding: beside busy processes, a thread that yields is back only after the time slices of all of them.
pub fn linger(amount: usize) {
    for _ in 0..amount * 1_000 {
        std::hint::spin_loop();
    }
}

/// Waits until `done` returns `true`. Fails if that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !done() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::yield_now();
    }
}

/// Spawns a thread that calls `wait`, and returns once it sleeps. (Where there is no `/proc`, it most likely does.)
pub fn spawn_until_asleep<T: Send + 'static>(
    wait: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        tell.send(std::fs::read_link("/proc/thread-self")).unwrap();
        wait()
    });
    match told.recv().unwrap() {
        Ok(path) => eventually("the thread sleeps", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", path.display()));
            // "1234 (name) S", where S is for sleeping. It may also have ended.
            thread.is_finished() || stat.is_ok_and(|stat| stat.contains(") S "))
        }),
        Err(_) => thread::sleep(Duration::from_millis(100)),
    }
    thread
}

/// Makes it likelier that a thread that is about to wait does wait. Nothing may depend on it.
pub fn let_it_wait() {
    thread::sleep(Duration::from_millis(15));
}
