//! Calls from user code back into a bus, and panics of user code.
//!
//! A payload's `Clone` is the only user code that runs under a lock: in a channel's turn. A call from there that can
//! wait could wait for its own thread, so it panics. This module owns the mark of a thread that clones. It also makes
//! several calls of user code so that each is made even if an earlier one panics, and drops payloads while a thread
//! unwinds. A leaf: it takes no lock.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

thread_local! {
    /// `true` while the thread clones payloads for a publish.
    static IN_CLONE: Cell<bool> = const { Cell::new(false) };
}

/// Panics if the calling thread is cloning a payload for a publish.
#[inline]
#[track_caller]
pub(crate) fn assert_not_in_clone() {
    if is_in_clone() {
        refuse();
    }
}

/// `true` if the calling thread is cloning a payload for a publish.
#[inline]
pub(crate) fn is_in_clone() -> bool {
    IN_CLONE.get()
}

#[cold]
#[track_caller]
fn refuse() -> ! {
    panic!(
        "a payload's Clone made a call that can wait, while a publish was copying it: it could wait for itself"
    )
}

/// Marks the calling thread as one that clones payloads, until this is dropped, also during unwinding.
pub(crate) struct Mark(PhantomData<*const ()>);

impl Mark {
    #[inline]
    pub(crate) fn set() -> Self {
        IN_CLONE.set(true);
        Self(PhantomData)
    }
}

impl Drop for Mark {
    #[inline]
    fn drop(&mut self) {
        IN_CLONE.set(false);
    }
}

/// Collects the panics of several calls: keeps the first, drops the others.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls `each` for every item, even after it has panicked for one.
    pub(crate) fn for_each<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(T),
    ) {
        for item in items {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| each(item))) {
                match self.0 {
                    None => self.0 = Some(panic),
                    Some(_) => discard(panic),
                }
            }
        }
    }

    /// Resumes the first panic, if there was one. It is dropped if the thread is already unwinding, as a second panic
    /// would abort the process.
    pub(crate) fn resume(self) {
        match self.0 {
            Some(panic) if thread::panicking() => discard(panic),
            Some(panic) => resume_unwind(panic),
            None => {}
        }
    }
}

/// Holds a payload, or a message, until it is delivered. Dropped while the thread unwinds, it discards a panic of the
/// payload's `Drop`, which would abort the process.
pub(crate) struct Undelivered<P>(Option<P>);

impl<P> Undelivered<P> {
    #[inline]
    pub(crate) fn new(payload: P) -> Self {
        Self(Some(payload))
    }
}

impl<P> Deref for Undelivered<P> {
    type Target = Option<P>;

    #[inline]
    fn deref(&self) -> &Option<P> {
        &self.0
    }
}

impl<P> DerefMut for Undelivered<P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<P> {
        &mut self.0
    }
}

impl<P> Drop for Undelivered<P> {
    #[inline]
    fn drop(&mut self) {
        if let Some(payload) = self.0.take() {
            for_each_then_resume([payload], drop);
        }
    }
}

/// Drops the payload of a panic. Its own `Drop` may panic: what that panics with is leaked.
pub(crate) fn discard(panic: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    dropped.unwrap_or_else(mem::forget);
}

/// Calls `each` for every item, even after it has panicked for one, and then resumes the first panic.
pub(crate) fn for_each_then_resume<T>(items: impl IntoIterator<Item = T>, each: impl FnMut(T)) {
    let mut panics = Panics::default();
    panics.for_each(items, each);
    panics.resume();
}
