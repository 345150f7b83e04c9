//! What several test files share: a watchdog, gates, and payloads that report what becomes of them.

// Every test binary uses some of it.
#![allow(dead_code)]

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Subscriber, SubscriberBuilder};

mod waiting;

#[allow(unused_imports)]
pub use waiting::{WATCHDOG, linger, step, steps, watched, watched_for};

/// Waits until `done`; fails when that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !done() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::yield_now();
    }
}

/// Makes it likelier that a thread that is about to wait does wait. Nothing may depend on it.
pub fn let_it_wait() {
    thread::sleep(Duration::from_millis(15));
}

/// What `f` panics with, as text; fails when it does not panic.
#[track_caller]
pub fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not panic"),
        Err(panic) => panic_text(&*panic),
    }
}

pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a panic with a text")
}

/// A builder of subscribers without lifecycle events.
pub fn silent<P: Clone + Send + 'static>(bus: &Bus<P>) -> SubscriberBuilder<P> {
    bus.subscriber_builder().lifecycle_events(false)
}

/// The payloads that can be read now.
pub fn drain<P: Clone + Send + 'static>(sub: &Subscriber<P>) -> Vec<P> {
    std::iter::from_fn(|| sub.try_recv_message().ok()).map(|message| message.payload).collect()
}

/// The books of an inbox that is at rest, of which so many messages are known to have matched.
#[track_caller]
pub fn assert_books<P: Clone + Send + 'static>(sub: &Subscriber<P>, matched: u64) {
    let info = sub.info();
    assert_eq!(info.received + info.missed + info.depth as u64, matched, "{info:?}");
    assert_eq!((info.depth, info.missed), (sub.len(), sub.missed()), "{info:?}");
    assert!(info.depth <= info.capacity, "{info:?}");
}

/// Sorted, for what comes in no particular order.
pub fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

/// Whether `part` is what is left of `whole` when some of it is taken out.
pub fn is_subsequence<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|item| item == wanted))
}

/// A gate that threads wait at until it is opened, for good.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        self.state().open = true;
        self.0.1.notify_all();
    }

    /// Opens it when dropped: for a test that fails while others wait.
    pub fn open_at_last(&self) -> OpenAtLast {
        OpenAtLast(self.clone())
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let mut state = self.state();
        state.arrived += 1;
        self.0.1.notify_all();
        let (state, result) =
            self.0.1.wait_timeout_while(state, 2 * WATCHDOG, |state| !state.open).unwrap();
        drop(state);
        assert!(!result.timed_out(), "the gate was never opened");
    }

    /// Waits until so many threads have come to the gate.
    #[track_caller]
    pub fn await_arrivals(&self, count: usize) {
        let state = self.state();
        let (state, result) =
            self.0.1.wait_timeout_while(state, WATCHDOG, |state| state.arrived < count).unwrap();
        drop(state);
        assert!(!result.timed_out(), "nobody came to the gate");
    }

    fn state(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct OpenAtLast(Gate);

impl Drop for OpenAtLast {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Tells threads when to stop; when dropped, at the latest, so that a test that fails does not hang.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_near(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn at_last(&self) -> StopAtLast<'_> {
        StopAtLast(self)
    }
}

pub struct StopAtLast<'a>(&'a Stop);

impl Drop for StopAtLast<'_> {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// How many payloads live.
#[derive(Clone, Default)]
pub struct Census(Arc<AtomicIsize>);

impl Census {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn live(&self) -> isize {
        self.0.load(Ordering::SeqCst)
    }

    pub fn payload(&self, value: u64) -> Tracked {
        self.0.fetch_add(1, Ordering::SeqCst);
        Tracked { value, census: self.clone() }
    }
}

/// A payload that is counted while it lives.
pub struct Tracked {
    pub value: u64,
    census: Census,
}

impl Clone for Tracked {
    fn clone(&self) -> Self {
        self.census.payload(self.value)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        assert!(self.census.0.fetch_sub(1, Ordering::SeqCst) > 0, "dropped twice");
    }
}

/// User code that runs at most once, by whichever payload comes to it first.
#[derive(Clone, Default)]
pub struct Hook(Arc<Mutex<Option<UserCode>>>);

pub type UserCode = Box<dyn FnOnce() + Send>;

impl Hook {
    pub fn new(code: impl FnOnce() + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(code)))))
    }

    fn run(&self) {
        let code = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(code) = code {
            code();
        }
    }
}

/// A payload whose `Clone` and `Drop` run user code.
#[derive(Clone, Default)]
pub struct Hooked {
    pub value: u64,
    // Cloned in this order: the first clone runs the code.
    on_clone: CloneHook,
    on_drop: DropHook,
}

#[derive(Default)]
struct CloneHook(Hook);

impl Clone for CloneHook {
    fn clone(&self) -> Self {
        self.0.run();
        Self(self.0.clone())
    }
}

#[derive(Clone, Default)]
struct DropHook(Hook);

impl Drop for DropHook {
    fn drop(&mut self) {
        self.0.run();
    }
}

impl Hooked {
    pub fn plain(value: u64) -> Self {
        Self { value, ..Self::default() }
    }

    /// Runs `code` when it is first cloned.
    pub fn on_clone(value: u64, code: impl FnOnce() + Send + 'static) -> Self {
        Self { value, on_clone: CloneHook(Hook::new(code)), ..Self::default() }
    }

    /// Runs `code` when the first copy of it is dropped.
    pub fn on_drop(value: u64, code: impl FnOnce() + Send + 'static) -> Self {
        Self { value, on_drop: DropHook(Hook::new(code)), ..Self::default() }
    }
}

/// A small deterministic generator (xorshift64), so that a run can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}

/// The numbers of one publisher must come in its order.
#[track_caller]
pub fn assert_ascending<T: PartialOrd + Debug>(items: &[T]) {
    for pair in items.windows(2) {
        assert!(pair[0] < pair[1], "{:?} came before {:?}", pair[0], pair[1]);
    }
}
