//! Giving way to other tasks: an executor runs a task until its future is pending, and one that always finds something
//! to do would starve its neighbours.
//!
//! A thread counts the polls that were ready since another task polled, or since this task had to wait. After
//! [`MAX_READY`] of them begins a *round*: each future that would be ready is pending instead, once, and wakes its
//! task. The task may poll several, as in a `select!`, and is pending only if all of them are. The round ends when one
//! that has given way is polled again, since then its task has been pending; when another task polls, which so gets its
//! share; and when one that has given way is dropped, since then its task went on.
//!
//! A task is told by its waker. A combinator that gives each of its futures a waker of its own looks like many tasks,
//! so a second count, over all tasks of the thread, begins a round after [`MAX_OF_ALL`] ready polls. In that, tasks
//! give way that may have nothing to do with each other, so it ends after [`MAX_TOGETHER`] futures; and when one polls
//! that has given way before and has had nothing since.

use std::cell::Cell;
use std::ptr;
use std::task::Context;

use crate::wakeups;

/// Ready polls of a task in a row until it gives way.
const MAX_READY: u64 = 32;

/// Ready polls of a thread, whichever task polls, until whoever polls next gives way.
const MAX_OF_ALL: u64 = 2 * MAX_READY;

/// Futures with other wakers than the one before that give way in one round.
const MAX_TOGETHER: u8 = 32;

/// A future's part in giving way.
#[derive(Default)]
pub(crate) struct GiveWay {
    /// The round in which it has given way, if it has had nothing since; 0 for none.
    round: u32,
    /// The number of the thread's ready polls when it had to wait, if it was not ready since; 0 for none.
    waited_at: u64,
}

/// What a thread counts. A poll writes few of the fields.
struct State {
    /// Ready polls ever, counted from 1.
    total: Cell<u64>,
    /// The task that polled last, by its waker's data.
    task: Cell<*const ()>,
    /// The `total` at which a round begins.
    due_at: Cell<u64>,
    /// The `total` at which one begins whichever task polls.
    all_due_at: Cell<u64>,
    /// The number of the round. Never 0.
    round: Cell<u32>,
    /// Futures with other wakers that have given way in this round.
    together: Cell<u8>,
}

impl State {
    /// `true` if a round has begun.
    fn is_due(&self) -> bool {
        self.total.get() >= self.due_at.get()
    }

    /// Counts from here on.
    fn begin(&self) {
        self.due_at.set(self.total.get() + MAX_READY);
        self.all_due_at.set(self.total.get() + MAX_OF_ALL);
    }

    /// Ends the round: `task` polls.
    fn end_round(&self, task: *const ()) {
        self.task.set(task);
        self.begin();
        self.together.set(0);
        self.round.set(self.round.get().wrapping_add(1).max(1));
    }
}

thread_local! {
    static STATE: State = const {
        State {
            total: Cell::new(1),
            task: Cell::new(ptr::null()),
            due_at: Cell::new(1 + MAX_READY),
            all_due_at: Cell::new(1 + MAX_OF_ALL),
            round: Cell::new(1),
            together: Cell::new(0),
        }
    };
}

fn task_of(context: &Context<'_>) -> *const () {
    context.waker().data()
}

impl GiveWay {
    /// Returns `true` if a poll must be pending for the sake of other tasks; then its task is woken. `would_be_ready`
    /// tells whether it would be ready otherwise.
    #[inline]
    pub(crate) fn must_give_way(
        &mut self,
        context: &Context<'_>,
        would_be_ready: impl FnOnce() -> bool,
    ) -> bool {
        STATE.with(State::is_due)
            && !self.task_has_waited(context)
            && would_be_ready()
            && self.take_part(context)
    }

    #[cold]
    fn take_part(&mut self, context: &Context<'_>) -> bool {
        let task = task_of(context);
        let gives_way = STATE.with(|state| {
            let round = state.round.get();
            // If it has given way in this round, its task has been pending.
            let mut is_over = self.round == round;
            if !is_over && state.task.get() != task {
                let together = state.together.get();
                let is_owed = self.round != 0;
                let is_due = state.total.get() >= state.all_due_at.get();
                is_over = is_owed || !is_due || together == MAX_TOGETHER;
                state.together.set(together + u8::from(!is_over));
            }
            if is_over {
                state.end_round(task);
            } else {
                self.round = round;
            }
            !is_over
        });
        if gives_way {
            wakeups::put_off(context.waker().clone());
            wakeups::call_pending();
        }
        gives_way
    }

    /// `true` if the future had to wait, and its task with it: no future of the thread was ready since, or another task
    /// has polled.
    #[cold]
    fn task_has_waited(&self, context: &Context<'_>) -> bool {
        STATE.with(|state| {
            self.waited_at == state.total.get()
                || self.waited_at != 0 && state.task.get() != task_of(context)
        })
    }

    /// Notes that a poll was pending because there was nothing.
    #[inline]
    pub(crate) fn was_pending(&mut self) {
        self.waited_at = STATE.with(|state| state.total.get());
    }

    /// Counts a poll that was ready.
    #[inline]
    pub(crate) fn was_ready(&mut self, context: &Context<'_>) {
        let task = task_of(context);
        STATE.with(|state| {
            let total = state.total.get();
            if self.waited_at == total {
                state.task.set(task);
                state.begin();
            } else if state.task.get() != task {
                state.task.set(task);
                state.due_at.set(state.all_due_at.get().min(total + MAX_READY));
            }
            self.waited_at = 0;
            self.round = 0;
            state.total.set(total + 1);
        });
    }
}

impl Drop for GiveWay {
    #[inline]
    fn drop(&mut self) {
        if self.round != 0 {
            note_dropped(self.round);
        }
    }
}

/// Notes that a future is dropped that has given way in `round`.
#[cold]
fn note_dropped(round: u32) {
    STATE.with(|state| {
        if state.round.get() == round {
            state.end_round(state.task.get());
            // The next round begins a poll earlier: one that is polled after each `MAX_READY` others, and dropped, must
            // not be hit each time.
            state.due_at.set(state.due_at.get() - 1);
        }
    });
}
