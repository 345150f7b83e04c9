//! Where a bridge stands, for threads and tasks that wait for it.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::BridgeError;

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Connecting,
    Ready,
    Away,
    Ended(Result<(), BridgeError>),
}

/// See the module's documentation.
pub(crate) struct Status {
    phase: watch::Sender<Phase>,
    /// For threads: notified after each change.
    lock: Mutex<()>,
    changed: Condvar,
}

impl Status {
    pub(crate) fn new() -> Self {
        let (phase, _) = watch::channel(Phase::Connecting);
        Self { phase, lock: Mutex::default(), changed: Condvar::new() }
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
        drop(self.lock.lock());
        self.changed.notify_all();
    }

    pub(crate) fn get(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits in a task until `of_phase` returns something.
    pub(crate) async fn reached<T>(&self, of_phase: impl Fn(&Phase) -> Option<T>) -> T {
        let mut phase = self.phase.subscribe();
        loop {
            if let Some(result) = of_phase(&phase.borrow_and_update()) {
                return result;
            }
            if phase.changed().await.is_err() {
                unreachable!("the sender is borrowed from `self`");
            }
        }
    }

    /// Waits on the thread until `of_phase` returns something, or `deadline` has passed.
    pub(crate) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        of_phase: impl Fn(&Phase) -> Option<T>,
    ) -> Option<T> {
        let mut lock = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            if let Some(result) = of_phase(&self.phase.borrow()) {
                return Some(result);
            }
            let left = match deadline {
                None => Duration::MAX,
                Some(deadline) => deadline.checked_duration_since(Instant::now())?,
            };
            lock = match self.changed.wait_timeout(lock, left) {
                Ok((lock, _)) => lock,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}
