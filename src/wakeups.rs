//! Wake-ups of tasks that are put off until a thread holds no lock and no turn.
//!
//! A waker is user code: it may publish, or subscribe. But whoever finds a task in an inbox's list holds that inbox's
//! lock, and mostly a channel's turn. So a waker is put here, and called when the outermost call of this crate has let
//! go of them: at the end of a publish, of a subscribe, of a receive, of closing. A leaf: it takes no lock.

use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::reentrancy;

thread_local! {
    /// The number of wakers in `PENDING`. Apart from them, so that whoever looks need not ask whether these have been
    /// dropped.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static PENDING: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Keeps `waker` until the calling thread calls [`call_pending`].
pub(crate) fn put_off(waker: Waker) {
    let mut waker = Some(waker);
    // While a thread ends, its local storage is gone. It is then in the drop of some user's value, and rarely in a turn.
    _ = PENDING.try_with(|pending| pending.borrow_mut().extend(waker.take()));
    match waker {
        None => COUNT.set(COUNT.get() + 1),
        Some(waker) => call(waker),
    }
}

/// Calls the wakers that were put off by this thread. The caller holds no lock and no turn.
#[inline]
pub(crate) fn call_pending() {
    if COUNT.get() != 0 {
        call_all();
    }
}

#[inline(never)]
fn call_all() {
    if reentrancy::is_in_clone() {
        // A turn is held further up. The publish that holds it calls them.
        return;
    }
    // A waker can publish, and so put off and call others.
    let take =
        || PENDING.try_with(|pending| mem::take(&mut *pending.borrow_mut())).unwrap_or_default();
    COUNT.set(0);
    let mut wakers = take();
    wakers.drain(..).for_each(call);
    // Their memory is kept for the next ones.
    _ = PENDING.try_with(|pending| {
        let mut pending = pending.borrow_mut();
        if pending.is_empty() && wakers.capacity() <= MAX_KEPT {
            *pending = wakers;
        }
    });
}

/// Room for wakers that a thread keeps at most.
const MAX_KEPT: usize = 4_096;

/// Calls a waker. A panic in it goes no further than the panic hook, which has reported it: the publish, or whatever it
/// was called by, did nothing wrong, and others are to be woken.
fn call(waker: Waker) {
    let called = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    if let Err(panic) = called {
        reentrancy::discard(panic);
    }
}

/// Calls what was put off when it is dropped, by unwinding too. Declared before any lock is taken, so that it is
/// dropped last.
pub(crate) struct CallOnDrop;

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        call_pending();
    }
}
