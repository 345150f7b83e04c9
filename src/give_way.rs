//! Giving way to other tasks: an executor runs a task until its future is pending, and one that always finds something
//! to do would starve its neighbours.
//!
//! A thread counts the polls that were ready, anew from one that had to wait. After [`MAX_READY`] of them begins a
//! round, in which each future gives way once: the task may poll several, as in a `select!`, and is pending only if all
//! of them are. The round ends when one that has given way is polled again, since then its task has been pending; or
//! after [`MAX_TOGETHER`], since some are polled once and dropped.

use std::cell::Cell;
use std::task::Context;

use crate::wakeups;

/// Ready polls of a thread until it gives way.
const MAX_READY: u8 = 32;

/// Futures that give way in one round, at most.
const MAX_TOGETHER: u8 = 4;

/// The round in which a future has given way last; the default is none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Round(u32);

#[derive(Clone, Copy)]
struct State {
    ready: u8,
    together: u8,
    round: Round,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State { ready: 0, together: 0, round: Round(1) }) };
}

/// Returns `true` if a poll must be pending for the sake of other tasks; then its task is woken. `gave_way` is the
/// future's own.
#[inline]
pub(crate) fn must_give_way(context: &Context<'_>, gave_way: &mut Round) -> bool {
    STATE.get().ready >= MAX_READY && take_part(context, gave_way)
}

#[cold]
fn take_part(context: &Context<'_>, gave_way: &mut Round) -> bool {
    let State { ready, together, round } = STATE.get();
    if *gave_way == round || together == MAX_TOGETHER {
        let next = Round(round.0.wrapping_add(1).max(1));
        STATE.set(State { ready: 0, together: 0, round: next });
        return false;
    }
    STATE.set(State { ready, together: together + 1, round });
    *gave_way = round;
    wakeups::put_off(context.waker().clone());
    wakeups::call_pending();
    true
}

/// Begins to count anew: a task has waited.
#[inline]
pub(crate) fn begin_anew() {
    let state = STATE.get();
    STATE.set(State { ready: 0, together: 0, ..state });
}

/// Counts a poll that was ready.
#[inline]
pub(crate) fn count_ready() {
    let state = STATE.get();
    // A waker that is called in a poll may poll.
    STATE.set(State { ready: state.ready.saturating_add(1), ..state });
}
