//! Whether this thread is inside a turn: the one place where user code (a payload's `Clone`) runs
//! under a lock, and where a call on a bus must therefore panic, not wait. And how user code that panics
//! is kept from harming what is not its own. A leaf.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Panics where the calling thread is cloning a payload for a publish.
#[inline]
#[track_caller]
pub(crate) fn assert_not_in_clone() {
    if is_in_clone() {
        refuse();
    }
}

/// Whether the calling thread is cloning a payload for a publish.
#[inline]
pub(crate) fn is_in_clone() -> bool {
    IN_TURN.get()
}

#[cold]
#[track_caller]
fn refuse() -> ! {
    panic!(
        "a payload's Clone made a call that can wait, while a publish was copying it: it could wait for itself"
    )
}

/// Marks the calling thread as inside a turn until dropped, by unwinding too.
pub(crate) struct Mark(PhantomData<*const ()>);

impl Mark {
    #[inline]
    pub(crate) fn set() -> Self {
        IN_TURN.set(true);
        Self(PhantomData)
    }
}

impl Drop for Mark {
    #[inline]
    fn drop(&mut self) {
        IN_TURN.set(false);
    }
}

/// The first panic of several calls, each of which is made in spite of those before.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls `each` for every item, those behind one for which it panics too.
    pub(crate) fn for_each<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(T),
    ) {
        for item in items {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| each(item))) {
                match self.0 {
                    None => self.0 = Some(panic),
                    Some(_) => Self::discard(panic),
                }
            }
        }
    }

    /// Panics as the first call did, if one did. Where the thread is unwinding already, that panic is the one that
    /// goes on.
    pub(crate) fn resume(self) {
        match self.0 {
            Some(panic) if thread::panicking() => Self::discard(panic),
            Some(panic) => resume_unwind(panic),
            None => {}
        }
    }

    /// Drops what a call panicked with, which can panic itself.
    fn discard(panic: Box<dyn Any + Send>) {
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(panic)));
        dropped.unwrap_or_else(mem::forget);
    }
}

/// Calls `each` for every item, those behind one for which it panics too, and panics as the first did.
pub(crate) fn for_each_then_resume<T>(items: impl IntoIterator<Item = T>, each: impl FnMut(T)) {
    let mut panics = Panics::default();
    panics.for_each(items, each);
    panics.resume();
}
