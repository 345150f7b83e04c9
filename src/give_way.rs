//! Giving way to other tasks: an executor runs a task until its future is pending, and one that always finds something
//! to do would starve its neighbours. A leaf.

use std::cell::Cell;
use std::task::Context;

/// How many polls in a row may be ready. The next one gives way.
const MAX_IN_A_ROW: u8 = 32;

thread_local! {
    /// How many polls of this thread in a row have been ready.
    static IN_A_ROW: Cell<u8> = const { Cell::new(0) };
}

/// Returns `true` if a poll must be pending for the sake of other tasks; then its task has been woken. Otherwise
/// [`count_poll`] must be called with its outcome.
#[inline]
pub(crate) fn must_give_way(context: &Context<'_>) -> bool {
    let must = IN_A_ROW.get() >= MAX_IN_A_ROW;
    if must {
        IN_A_ROW.set(0);
        context.waker().wake_by_ref();
    }
    must
}

/// Counts a poll.
#[inline]
pub(crate) fn count_poll(is_ready: bool) {
    IN_A_ROW.set(if is_ready { IN_A_ROW.get() + 1 } else { 0 });
}
