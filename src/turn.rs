//! Whether this thread is inside a turn: the one place where user code (a payload's `Clone`) runs
//! under a lock, and where a call on a bus must therefore panic, not wait. A leaf.

use std::cell::Cell;
use std::marker::PhantomData;

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
