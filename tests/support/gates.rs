//! Holding threads up, and telling them to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::waiting::WATCHDOG;

/// A gate that threads wait at until it is opened. It is not shut again.
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

    /// Returns a guard that opens the gate when it is dropped, for a test that fails while others wait.
    pub fn open_on_drop(&self) -> OpenOnDrop {
        OpenOnDrop(self.clone())
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        let mut state = self.state();
        state.arrived += 1;
        self.0.1.notify_all();
        let (state, result) =
            self.0.1.wait_timeout_while(state, 2 * WATCHDOG, |state| !state.open).unwrap();
        drop(state);
        assert!(!result.timed_out(), "the gate was never opened");
    }

    /// Waits until `count` threads have come to the gate.
    #[track_caller]
    pub fn await_arrivals(&self, count: usize) {
        let state = self.state();
        let (state, result) =
            self.0.1.wait_timeout_while(state, WATCHDOG, |state| state.arrived < count).unwrap();
        drop(state);
        assert!(!result.timed_out(), "nobody came to the gate");
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct OpenOnDrop(Gate);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Tells threads when to stop.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a guard that tells them to stop when it is dropped, so that a test that fails does not hang.
    pub fn set_on_drop(&self) -> SetOnDrop<'_> {
        SetOnDrop(self)
    }
}

pub struct SetOnDrop<'a>(&'a Stop);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}
