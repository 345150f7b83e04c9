//! Whether this thread is inside a turn: the one place where user code (a payload's `Clone`) runs
//! under a lock, and where a call on a bus must therefore panic, not wait. And how user code that panics
//! is kept from harming what is not its own. A leaf.

use std::cell::Cell;
use std::marker::PhantomData;
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
        "a payload's Clone called the bus while a publish was copying it: it could wait for itself"
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

/// Calls `each` for every item, those behind one for which it panics too, and panics as the first did.
///
/// Where the thread is unwinding already, its panic is the one that goes on.
pub(crate) fn each_in_spite_of_panics<T>(
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(T),
) {
    let mut first = None;
    for item in items {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| each(item))) {
            first.get_or_insert(panic);
        }
    }
    if let Some(panic) = first
        && !thread::panicking()
    {
        resume_unwind(panic);
    }
}
