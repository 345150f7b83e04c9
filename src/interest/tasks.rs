//! Awaiting a change.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::FusedFuture;

use super::{Interest, InterestWatch};
use crate::error::{RecvError, TryRecvError};
use crate::give_way::GiveWay;
use crate::wait_list::Ticket;
use crate::wakeups;

impl InterestWatch {
    /// Returns a future of the next change.
    ///
    /// It may be dropped at any point: nothing is lost. It resolves to [`RecvError::Closed`] if the bus is closed and
    /// nothing is left. A thread's polls give way to other tasks now and then, as those of
    /// [`Subscriber::recv_async`](crate::Subscriber::recv_async) do.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Interest};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let bus: Bus = Bus::new();
    /// let watch = bus.watch_interest();
    /// let _sub = bus.psubscribe("game:*:events")?;
    /// let Interest::Pattern { pattern, wanted, .. } = watch.recv_async().await? else { panic!() };
    /// assert_eq!((pattern.as_str(), wanted), ("game:*:events", true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn recv_async(&self) -> RecvInterest<'_> {
        RecvInterest { watch: self, ticket: None, give_way: GiveWay::default(), is_done: false }
    }
}

/// A future of the next change, returned by [`InterestWatch::recv_async`].
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct RecvInterest<'a> {
    watch: &'a InterestWatch,
    ticket: Option<Ticket>,
    give_way: GiveWay,
    is_done: bool,
}

impl RecvInterest<'_> {
    /// Leaves the list of those that wait. If it was woken and leaves something, it wakes the next.
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut state = self.watch.watch.state.lock();
        let removed = state.waiting.remove(ticket);
        if removed.is_none() && !state.changes.order.is_empty() {
            state.wake_one();
        }
        drop(state);
        // A waker is dropped under no lock, and called under none.
        wakeups::drop_waker(removed);
        wakeups::call_pending();
    }
}

impl Future for RecvInterest<'_> {
    type Output = Result<Interest, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let watch = &this.watch.watch;
        if this.give_way.must_give_way(context, || !watch.state.lock().is_empty()) {
            return Poll::Pending;
        }
        // Cloned under no lock.
        let waker = context.waker().clone();
        let mut state = watch.state.lock();
        let received = match state.try_recv() {
            Ok(interest) => Ok(interest),
            Err(TryRecvError::Closed) => Err(RecvError::Closed),
            Err(TryRecvError::Empty) => {
                let listed = this.ticket.and_then(|ticket| state.waiting.get_mut(ticket));
                let replaced = match listed {
                    Some(waiting) => Some(mem::replace(&mut waiting.waker, waker)),
                    None => {
                        this.ticket = Some(state.waiting.push(waker, false));
                        None
                    }
                };
                drop(state);
                wakeups::drop_waker(replaced);
                this.give_way.was_pending();
                return Poll::Pending;
            }
        };
        drop(state);
        wakeups::drop_waker(waker);
        this.leave();
        this.give_way.was_ready(context);
        this.is_done = true;
        Poll::Ready(received)
    }
}

impl FusedFuture for RecvInterest<'_> {
    fn is_terminated(&self) -> bool {
        self.is_done
    }
}

impl Drop for RecvInterest<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for RecvInterest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvInterest").finish_non_exhaustive()
    }
}
