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
pub(crate) fn forbid() {
    if inside() {
        refuse();
    }
}

/// Whether the calling thread is cloning a payload for a publish.
#[inline]
pub(crate) fn inside() -> bool {
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

/// Calls `each` for every item, those behind one for which it panics too. The first panic comes back.
pub(crate) fn catch_each<T>(
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(T),
) -> Option<Box<dyn Any + Send>> {
    let mut first = None;
    for item in items {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| each(item))) {
            // Dropping what a later one panicked with can panic, too.
            match first {
                None => first = Some(panic),
                Some(_) => {
                    let dropped = catch_unwind(AssertUnwindSafe(|| drop(panic)));
                    dropped.unwrap_or_else(mem::forget);
                }
            }
        }
    }
    first
}

/// Goes on with a panic that was caught. Where the thread is unwinding already, that panic is the one that goes on.
pub(crate) fn resume(panic: Option<Box<dyn Any + Send>>) {
    if let Some(panic) = panic
        && !thread::panicking()
    {
        resume_unwind(panic);
    }
}

/// Calls `each` for every item, those behind one for which it panics too, and panics as the first did.
pub(crate) fn for_each_then_resume<T>(items: impl IntoIterator<Item = T>, each: impl FnMut(T)) {
    resume(catch_each(items, each));
}
