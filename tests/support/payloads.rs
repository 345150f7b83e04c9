//! Payloads that are counted while they live, and payloads that run user code.

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the payloads that live.
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
    // Fields are cloned in this order: the first clone runs the code.
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

    /// Returns a payload that runs `code` when it is first cloned.
    pub fn on_clone(value: u64, code: impl FnOnce() + Send + 'static) -> Self {
        Self { value, on_clone: CloneHook(Hook::new(code)), ..Self::default() }
    }

    /// Returns a payload that runs `code` when the first copy of it is dropped.
    pub fn on_drop(value: u64, code: impl FnOnce() + Send + 'static) -> Self {
        Self { value, on_drop: DropHook(Hook::new(code)), ..Self::default() }
    }
}

/// Runs user code when it is converted into a payload.
pub struct Converted(pub UserCode);

impl From<Converted> for Hooked {
    fn from(Converted(code): Converted) -> Self {
        code();
        Self::plain(2)
    }
}
