//! Tasks that wait: to read, and for room.
//!
//! It owns no state: a task's waker lies in the list of `waiters` or of `overflow`. It may not clone or drop a waker,
//! nor call one, under the lock: wakers are user code.

use std::mem;
use std::task::{Context, Poll, Waker};

use super::overflow::{BlockedSend, CANCELLED, Publisher, SENDING, Unsent};
use super::{Inbox, PARKED, SENDERS_WAITING};
use crate::error::{RecvError, TryRecvError};
use crate::event::Message;
use crate::sync::Ordering;
use crate::wait_list::Ticket;
use crate::wakeups;

impl<P> Inbox<P> {
    /// Polls `try_recv` for a task, whose place in the list is kept in `ticket`. [`leave`](Self::leave) must be called
    /// before `ticket` is dropped.
    #[inline]
    pub(crate) fn poll<T>(
        &self,
        ticket: &mut Option<Ticket>,
        context: &mut Context<'_>,
        mut try_recv: impl FnMut() -> Result<T, TryRecvError>,
    ) -> Poll<Result<T, RecvError>> {
        loop {
            match try_recv() {
                Ok(received) => {
                    self.leave(ticket);
                    return Poll::Ready(Ok(received));
                }
                Err(TryRecvError::Closed) => {
                    self.leave(ticket);
                    return Poll::Ready(Err(RecvError::Closed));
                }
                Err(TryRecvError::Empty) => {}
            }
            // Looks again after it has entered the list: whoever brings something to read looks there afterwards.
            if self.stays_listed(ticket, context.waker()) || self.seems_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Puts the task into the list. Returns `true` if it was there already, with a waker that does.
    fn stays_listed(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        if let Some(ticket) = *ticket {
            let mut inner = self.inner.lock();
            if let Some(waiting) = inner.waiting.get_mut(ticket)
                && waiting.waker.will_wake(waker)
            {
                return true;
            }
        }
        // Cloned and dropped under no lock.
        let waker = waker.clone();
        let mut inner = self.inner.lock();
        if let Some(waiting) = ticket.and_then(|ticket| inner.waiting.get_mut(ticket)) {
            let replaced = mem::replace(&mut waiting.waker, waker);
            drop(inner);
            wakeups::drop_waker(replaced);
        } else {
            *ticket = Some(self.enlist(&mut inner, waker, false));
        }
        false
    }

    /// Takes a task out of the list. One that was woken, and leaves something to read, wakes the next receiver.
    #[inline]
    pub(crate) fn leave(&self, ticket: &mut Option<Ticket>) {
        if let Some(ticket) = ticket.take() {
            // Acquire: partner of the writes under the lock. If it is clear, the task was woken, and no other waits.
            if self.state.load(Ordering::Acquire) & PARKED != 0 {
                self.leave_list(ticket);
            }
        }
    }

    #[inline(never)]
    fn leave_list(&self, ticket: Ticket) {
        let mut inner = self.inner.lock();
        let removed = inner.waiting.remove(ticket);
        if removed.is_some() {
            self.update_parked(&inner.waiting);
        } else if !self.seems_empty() {
            self.wake_receiver_locked(&mut inner.waiting);
        }
        drop(inner);
        // A waker is dropped under no lock, and called under none.
        wakeups::drop_waker(removed);
        wakeups::call_pending();
    }
}

impl<P> BlockedSend<P> {
    /// Tries to send, as a task. Ready when the message has entered or the wait is cancelled; otherwise the task is
    /// woken when there may be room. Returns the message if it did not enter.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut send: impl FnMut(Message<P>) -> Option<Message<P>>,
    ) -> Poll<Option<Unsent<P>>> {
        let mut is_listed = false;
        loop {
            // AcqRel, here and below: as in `finish`.
            if self.state.fetch_or(SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return Poll::Ready(self.message.take().map(Unsent::lost));
            }
            let Some(message) = self.message.take() else { return Poll::Ready(None) };
            self.message = send(message);
            if self.message.is_none() {
                return Poll::Ready(None);
            }
            // `SENDING` is set when it is cancelled meanwhile, so no other thread counts the loss.
            if self.state.fetch_and(!SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return Poll::Ready(self.refuse_message());
            }
            // Looks again after its waker is there: whoever makes room looks for it afterwards.
            if is_listed {
                return Poll::Pending;
            }
            self.set_publisher(Publisher::Task(Some(context.waker().clone())));
            is_listed = true;
        }
    }

    /// Leaves the task asleep when messages are taken, until it polls this.
    pub(crate) fn turn_over_to_task(&self) {
        self.set_publisher(Publisher::Task(None));
    }

    fn set_publisher(&self, publisher: Publisher) {
        let mut publisher = publisher;
        let mut inner = self.inbox.inner.lock();
        if let Some(lazy) = &mut inner.lazy {
            if let Some(own) = lazy.waiting_senders.iter_mut().find(|sender| self.is(sender)) {
                mem::swap(&mut own.publisher, &mut publisher);
                // SeqCst: as in `Inbox::block`.
                self.inbox.state.fetch_or(SENDERS_WAITING, Ordering::SeqCst);
            }
            self.inbox.update_senders_waiting(lazy);
        }
        drop(inner);
        // A waker is dropped under no lock. (If it is not listed, the wait has been cancelled: the next look tells.)
        wakeups::drop_waker(publisher);
    }
}

/// The steps of a delivery, of a poll and of a cancelled wait, on a queue that is only a count, in all orders.
#[cfg(all(test, loom))]
mod model {
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    use loom::sync::Mutex;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
    use loom::thread;

    use crate::wait_list::{Ticket, WaitList};

    #[derive(Default)]
    struct Model {
        queued: AtomicUsize,
        is_parked: AtomicBool,
        waiting: Mutex<WaitList>,
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Model {
        fn is_empty(&self) -> bool {
            self.queued.load(Ordering::SeqCst) == 0
        }

        fn take(&self) -> bool {
            let take = |queued: usize| queued.checked_sub(1);
            self.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
        }

        fn update_parked(&self, list: &WaitList) {
            if list.is_empty() {
                self.is_parked.store(false, Ordering::SeqCst);
            }
        }

        fn wake_one(&self) {
            let mut list = self.waiting.lock().unwrap();
            let woken = list.pop();
            self.update_parked(&list);
            drop(list);
            if let Some(woken) = woken {
                woken.waker.wake();
            }
        }

        fn deliver(&self) {
            self.queued.fetch_add(1, Ordering::SeqCst);
            // loom's `SeqCst` accesses are weaker than the language's: the fences make up for it.
            fence(Ordering::SeqCst);
            if self.is_parked.load(Ordering::SeqCst) {
                self.wake_one();
            }
        }

        /// Returns `true` if the task got a message.
        fn poll(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
            loop {
                if self.take() {
                    self.leave(ticket);
                    return true;
                }
                let mut list = self.waiting.lock().unwrap();
                if ticket.is_some_and(|ticket| list.get_mut(ticket).is_some()) {
                    return false;
                }
                *ticket = Some(list.push(waker.clone(), false));
                self.is_parked.store(true, Ordering::SeqCst);
                drop(list);
                fence(Ordering::SeqCst);
                if self.is_empty() {
                    return false;
                }
            }
        }

        fn leave(&self, ticket: &mut Option<Ticket>) {
            if let Some(ticket) = ticket.take()
                && self.is_parked.load(Ordering::SeqCst)
            {
                let mut list = self.waiting.lock().unwrap();
                let removed = list.remove(ticket);
                self.update_parked(&list);
                drop(list);
                if removed.is_none() && !self.is_empty() {
                    self.wake_one();
                }
            }
        }
    }

    /// Runs `other` on a thread, while another thread delivers and this one polls. Returns what `other` returned, and
    /// `true` if the task has got the message or been woken for it.
    fn race<T: 'static>(other: impl FnOnce(&Model) -> T + 'static) -> (T, bool) {
        let model = Arc::new(Model::default());
        let its_model = Arc::clone(&model);
        let other = thread::spawn(move || other(&its_model));
        let its_model = Arc::clone(&model);
        let publisher = thread::spawn(move || its_model.deliver());
        let woken = Arc::new(Woken::default());
        let mut ticket = None;
        let got = model.poll(&mut ticket, &Waker::from(Arc::clone(&woken)));
        publisher.join().unwrap();
        (other.join().unwrap(), got || woken.0.load(Ordering::SeqCst))
    }

    #[test]
    fn a_task_is_woken_for_a_message_that_comes_while_it_enters_the_list() {
        loom::model(|| assert!(race(|_| ()).1));
    }

    #[test]
    fn a_task_that_gives_up_leaves_no_other_asleep_beside_a_message() {
        loom::model(|| {
            let (other_got, is_served) = race(|model| {
                let mut ticket = None;
                let got = model.poll(&mut ticket, &Waker::from(Arc::new(Woken::default())));
                model.leave(&mut ticket);
                got
            });
            assert!(other_got || is_served);
        });
    }
}
