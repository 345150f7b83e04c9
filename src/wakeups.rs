//! Wake-ups of tasks that are put off until a thread holds no lock and no turn.
//!
//! A waker is user code: it may publish, or subscribe. But whoever finds a task in an inbox's list holds that inbox's
//! lock, and mostly a channel's turn. So a waker is put here, and called when the outermost call of this crate has let
//! go of them: at the end of a publish, of a subscribe, of a receive, of closing. A leaf: it takes no lock.

use std::cell::{Cell, RefCell};
use std::mem::{self, ManuallyDrop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::oversize::Oversize;
use crate::reentrancy;

thread_local! {
    /// The number of wakers in `PENDING`, which is cheaper to look at; and the bits `GROWN`, `LARGE` and `LOSSES`.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Not dropped when the thread ends, since the drop of some user's value may publish even then.
    static PENDING: ManuallyDrop<RefCell<Vec<Waker>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    static OVERSIZE: Cell<Oversize> = const { Cell::new(Oversize::NONE) };
    static FREE_AT_END: FreeAtEnd = const { FreeAtEnd };
}

/// Frees the memory of `PENDING` when the thread ends.
struct FreeAtEnd;

impl Drop for FreeAtEnd {
    fn drop(&mut self) {
        drop(PENDING.with(|pending| pending.take()));
    }
}

/// `PENDING` has allocated memory, which must be freed when the thread ends.
const GROWN: usize = 1 << (usize::BITS - 2);

/// `PENDING` has more memory than it may keep for ever: each call counts how much of it is used.
const LARGE: usize = 1 << (usize::BITS - 3);

/// There are losses to report, too.
#[cfg(feature = "tracing")]
const LOSSES: usize = 1 << (usize::BITS - 1);

/// Keeps `waker` until the calling thread calls [`call_pending`].
pub(crate) fn put_off(waker: Waker) {
    let grown = PENDING.with(|pending| {
        let mut pending = pending.borrow_mut();
        let grown = if pending.len() == pending.capacity() { GROWN } else { 0 };
        pending.push(waker);
        grown
    });
    COUNT.set((COUNT.get() + 1) | grown);
}

/// Tells the calling thread's next [`call_pending`] that there are losses to report.
#[cfg(feature = "tracing")]
pub(crate) fn put_off_losses() {
    COUNT.set(COUNT.get() | LOSSES);
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
    let count = COUNT.replace(0);
    if count == 1 {
        // As nearly always. The memory stays where it is.
        let waker = PENDING.with(|pending| pending.borrow_mut().pop());
        contain_panic(|| waker.map_or((), Waker::wake));
        return;
    }
    #[cfg(feature = "tracing")]
    if count & LOSSES != 0 {
        crate::trace::tell_losses();
    }
    // A waker can publish, and so put off and call others.
    let mut wakers = PENDING.with(|pending| pending.take());
    let used = wakers.len();
    wakers.drain(..).for_each(|waker| contain_panic(|| waker.wake()));
    // Their memory is kept for the next ones, unless it is far too much, or would never be freed.
    let room = wakers.capacity();
    if !is_oversized(used, room) && FREE_AT_END.try_with(|_| ()).is_ok() {
        PENDING.with(|pending| {
            let mut pending = pending.borrow_mut();
            if pending.is_empty() {
                *pending = mem::take(&mut wakers);
                if !Oversize::may_keep(room) {
                    COUNT.set(COUNT.get() | LARGE);
                }
            }
        });
    }
}

/// `true` if `PENDING`, with this `room` of which `used` was used, has long been much too large.
fn is_oversized(used: usize, room: usize) -> bool {
    let mut oversize = OVERSIZE.get();
    let is_oversized = oversize.is_lasting(used, room);
    OVERSIZE.set(oversize);
    is_oversized
}

/// Drops what holds a waker. The caller holds no lock and no turn.
pub(crate) fn drop_waker<T>(holder: T) {
    contain_panic(|| drop(holder));
}

/// Runs code of a waker, or of a tracing subscriber. A panic in it goes no further than the panic hook, which has
/// reported it: whatever it was called by did nothing wrong, and others must be woken.
pub(crate) fn contain_panic(code: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(code)) {
        reentrancy::discard(panic);
    }
}

/// Calls what was put off when it is dropped, also during unwinding. Declared before any lock is taken, so that it is
/// dropped last.
pub(crate) struct CallOnDrop;

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        call_pending();
    }
}
