//! A subscriber's inbox: a bounded crossbeam queue of messages, and all that goes with it.
//!
//! This file owns the [`Inbox`], its state bits, its lock, its counters and its end. The rest is in:
//!
//! - `overflow`: messages that find the queue full, and the count of lost messages.
//! - `conflation`: the newest message of each channel, in place of the queue.
//! - `lifecycle`: lifecycle events, and their positions among the messages.
//! - `receive`: the fast path and the slow path of a receive, and waiting for something to read.
//! - `waiters`: receivers that wait, threads and tasks, and waking them.
//! - `tasks`: polling, for tasks that wait to read or for room.
//!
//! A publisher sends through the `Sender` in its route. While the queue has room, the publisher reads only one word of
//! the inbox, [`Inbox::state`], to see if a receiver sleeps. A receiver reads the same word before and after it takes a
//! message, and samples the depth of the queue now and then. Everything else is off that path.
//!
//! # Locking
//!
//! Each inbox has one lock, [`Inbox::inner`]. It is the innermost lock of the engine: a thread that holds it takes no
//! other lock and runs no user code.
//!
//! # Orderings
//!
//! Three races have the same shape. A sender races against a receiver that is about to sleep, against a thread that
//! closes the inbox, and, if it waits for room, against a receiver that makes room. In each, both threads write one
//! word and then read the word that the other writes. At least one of them must see the other's write, so all four
//! accesses are `SeqCst`.
//!
//! Two of the four are crossbeam's. Its bounded channel moves `tail` and `head` by `SeqCst` exchanges, and reads them
//! with `SeqCst` in `len` and `is_empty` (`src/flavors/array.rs`). Its documentation does not promise this, so a test
//! lists the versions whose source was read. Otherwise every send would need a fence.
//!
//! # Inlining
//!
//! A receive is fast only if the compiler inlines it, crossbeam's `try_recv` included, into the caller's code. Two
//! costs matter:
//!
//! - *Store forwarding.* A function that is not inlined returns a message, or an enum whose variants differ in shape,
//!   through memory. The caller reads it in pieces of other sizes than it was written in. The processor cannot forward
//!   such stores, and waits until they have reached its cache, at every receive.
//! - *Callers.* crossbeam's `try_recv` is inlined only while it has few callers. In this crate it must have exactly
//!   two: `try_recv_fast` and `pop`. With a third, or with more code in `try_recv_fast`, a receive takes 1.4 times as
//!   long.
//!
//! Therefore `try_recv_fast` is `#[inline(always)]`. Parts of it are functions of their own and `#[inline(never)]`,
//! which keeps it small. All other code takes messages by `pop`, which is `#[inline(never)]`, too.

mod conflation;
mod lifecycle;
mod overflow;
mod receive;
#[cfg(feature = "async")]
mod tasks;
#[cfg(test)]
mod testing;
mod waiters;

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::event::Message;
use crate::limits::Overflow;
use crate::reentrancy::Panics;
use crate::stats::CloseReason;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::wait_list::WaitList;
use conflation::Conflation;
pub(crate) use lifecycle::Change;
use lifecycle::PendingEvent;
use overflow::WaitingSender;
pub(crate) use overflow::{BlockedSend, Overflowed};
pub(crate) use receive::{FastRecv, WaitError};
pub(crate) use waiters::{Attention, StopSignal, WaitLimit};

// The bits of `Inbox::state`, which documents them.
const PENDING: u32 = 1;
const LAGGED: u32 = 1 << 1;
const CLOSED: u32 = 1 << 2;
const TERMINATED: u32 = 1 << 3;
const PARKED: u32 = 1 << 4;
const SENDERS_WAITING: u32 = 1 << 5;
const EVENTS_DISABLED: u32 = 1 << 6;

/// The bits that a publisher must handle after it has sent a message.
const AFTER_SEND: u32 = PARKED | CLOSED;

/// The bits that send a receive down the slow path.
const SLOW_RECV: u32 = PENDING | LAGGED | CLOSED | TERMINATED;

/// The choices made when a subscriber was built.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) lifecycle_events: bool,
    pub(crate) dedupe: bool,
    /// Its subscriptions count for an [`InterestWatch`](crate::InterestWatch).
    pub(crate) interest: bool,
}

impl Settings {
    /// Returns `true` if publishers wait when the inbox is full.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self.overflow, Overflow::Block { .. })
    }

    /// Returns `true` if the inbox keeps the newest message of each channel.
    pub(crate) fn conflates(&self) -> bool {
        self.overflow == Overflow::Conflate
    }
}

/// A subscriber's inbox; see the module's documentation.
///
/// The order of the fields keeps what a publish reads apart from what each receive writes.
#[repr(C)]
pub(crate) struct Inbox<P> {
    queue: Receiver<Message<P>>,
    /// The bits that a publisher or a receiver must look at besides the queue:
    ///
    /// | bit | meaning while it is set | changed |
    /// | --- | --- | --- |
    /// | `PENDING` | Lifecycle events, or deferred or conflated messages, are pending. | under the lock |
    /// | `LAGGED` | Messages were lost that no `Lagged` event has reported. | set under the lock, cleared without |
    /// | `CLOSED` | The inbox is closed. | set once, under the lock |
    /// | `TERMINATED` | A receive has returned `Closed`, and all later ones must, too. | set once, under the lock |
    /// | `PARKED` | Receivers wait, or are about to. A new message, event or loss wakes one. | under the lock |
    /// | `SENDERS_WAITING` | Publishers wait for room, not woken yet. A take wakes some. | under the lock |
    /// | `EVENTS_DISABLED` | There will never be lifecycle events, so takes need not be marked. | never |
    ///
    /// Usually no bit but `EVENTS_DISABLED` is set: publishers have nothing to do but send, and receivers but take.
    state: AtomicU32,
    settings: Settings,
    /// The id of the inbox's member in the registry.
    member_id: u64,
    inner: Mutex<Inner<P>>,
    /// Messages that were unread when their inbox was dropped, of all inboxes of the bus.
    discarded: Arc<AtomicU64>,
    /// Twice the number of messages that were taken without the lock; odd while one is being taken. It is exact while
    /// one thread receives. Without lifecycle events, takes that found the queue empty count, too. See "Takes without
    /// the lock" in the docs of `lifecycle`.
    take_seq: AtomicU32,
    /// The value of `take_seq` at which a receive samples the depth of the queue again.
    sample_at: AtomicU32,
    /// The largest depth sampled, in messages.
    high_water: AtomicUsize,
    /// Messages that were removed to make room for newer ones.
    evicted: AtomicU64,
    /// Messages that did not enter.
    refused: AtomicU64,
    /// Messages lost since the last `Lagged` event.
    unreported: AtomicU64,
    /// Messages that entered and that no route counts: those of ended subscriptions, and those that waited under
    /// `Overflow::Block`.
    entered: AtomicU64,
}

/// The part of an inbox that its lock guards.
struct Inner<P> {
    /// New subscriptions send through a clone of it. `None` once closed, so that `receiver()` sees the end.
    sender: Option<Sender<Message<P>>>,
    close_reason: Option<CloseReason>,
    /// Receivers that wait. `PARKED` is set while there are any.
    waiting: WaitList,
    /// Allocated at first use, so that an idle inbox does not pay for it.
    lazy: Option<Box<LazyState<P>>>,
}

/// The state that most inboxes need rarely or never.
struct LazyState<P> {
    /// Pending lifecycle events, in the order of the calls that caused them.
    events: VecDeque<PendingEvent>,
    /// The position of the next message that leaves the queue: it grows by one for each message that was taken or
    /// evicted since `PENDING` was set.
    head: u64,
    /// The position of the last message taken without the lock, or 0 if that was before `PENDING` was set.
    last_unlocked: u64,
    /// The part of `take_seq` that `head` includes.
    counted_seq: u32,
    /// Messages, with their positions, that were taken without the lock and that come after an event which their
    /// receive had not seen.
    deferred: VecDeque<(u64, Message<P>)>,
    /// Publishers that wait for room. `SENDERS_WAITING` is set while one of them is asleep.
    waiting_senders: Vec<WaitingSender>,
    /// What a conflating inbox has in place of a queue.
    conflation: Option<Box<Conflation<P>>>,
}

impl<P> Default for LazyState<P> {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            head: 0,
            last_unlocked: 0,
            counted_seq: 0,
            deferred: VecDeque::new(),
            waiting_senders: Vec::new(),
            conflation: None,
        }
    }
}

impl<P> LazyState<P> {
    /// Returns the number of messages outside of the queue.
    fn messages(&self) -> usize {
        let kept = self.conflation.as_ref().map_or(0, |conflation| conflation.len());
        self.deferred.len() + kept
    }

    /// Takes the first message outside of the queue: there are either deferred or conflated ones.
    fn take_first_message(&mut self) -> Option<Message<P>> {
        match &mut self.conflation {
            Some(conflation) => conflation.take_first(),
            None => self.deferred.pop_front().map(|(_, message)| message),
        }
    }
}

impl<P> Inbox<P> {
    pub(crate) fn new(member_id: u64, settings: Settings, discarded: Arc<AtomicU64>) -> Self {
        // A conflating inbox does not use its queue.
        let (sender, queue) = bounded(if settings.conflates() { 0 } else { settings.capacity });
        Self {
            member_id,
            queue,
            state: AtomicU32::new(if settings.lifecycle_events { 0 } else { EVENTS_DISABLED }),
            take_seq: AtomicU32::new(0),
            sample_at: AtomicU32::new(0),
            settings,
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            high_water: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                sender: Some(sender),
                close_reason: None,
                waiting: WaitList::default(),
                lazy: None,
            }),
            discarded,
        }
    }

    pub(crate) fn member_id(&self) -> u64 {
        self.member_id
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn queue(&self) -> &Receiver<Message<P>> {
        &self.queue
    }

    // ---- counters ------------------------------------------------------------------------------

    /// Returns the number of messages lost, evicted or refused.
    pub(crate) fn missed(&self) -> u64 {
        // Relaxed: a sum of counters, exact when nothing is under way.
        self.evicted.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn evicted(&self) -> u64 {
        // Relaxed: see `missed`.
        self.evicted.load(Ordering::Relaxed)
    }

    /// Returns the number of messages that entered and that no route counts.
    pub(crate) fn entered(&self) -> u64 {
        // Relaxed: see `missed`.
        self.entered.load(Ordering::Relaxed)
    }

    pub(crate) fn add_entered(&self, messages: u64) {
        // Relaxed: see `missed`.
        self.entered.fetch_add(messages, Ordering::Relaxed);
    }

    /// Returns the number of messages that can be read.
    pub(crate) fn depth(&self) -> usize {
        let pending = if self.state.load(Ordering::Acquire) & PENDING == 0 {
            0
        } else {
            self.inner.lock().lazy.as_ref().map_or(0, |lazy| lazy.messages())
        };
        self.queue.len() + pending
    }

    /// Samples the depth of the queue, and returns the largest depth sampled so far.
    pub(crate) fn high_water(&self) -> usize {
        self.sample_depth();
        // Relaxed: a statistic, which orders nothing.
        self.high_water.load(Ordering::Relaxed)
    }

    fn sample_depth(&self) {
        self.record_depth(self.queue.len());
    }

    #[inline]
    fn record_depth(&self, depth: usize) {
        // Relaxed, both: see `high_water`. The load avoids most of the writes.
        if depth > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(depth, Ordering::Relaxed);
        }
    }

    // ---- closing -------------------------------------------------------------------------------

    /// Returns the sender for a new subscription, or `None` if the inbox is closed.
    pub(crate) fn sender(&self) -> Option<Sender<Message<P>>> {
        let mut inner = self.inner.lock();
        let sender = inner.sender.as_ref()?;
        if self.settings.conflates() {
            return Some(inner.lazy.get_or_insert_default().conflation().sender());
        }
        Some(sender.clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLOSED != 0
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.inner.lock().close_reason
    }

    /// Closes the inbox: receivers drain it, and publishers that wait for room give up. Returns `true` if it was open.
    ///
    /// The caller must call the [wake-ups](crate::wakeups) that this puts off.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let mut inner = self.inner.lock();
        if inner.close_reason.is_some() {
            return false;
        }
        inner.close_reason = Some(reason);
        inner.sender = None;
        // Before `CLOSED` is set, so that the losses which this causes are reported before the end.
        self.cancel_where(&mut inner, |_| true);
        // SeqCst: partner of the load in `needs_attention`; see "Orderings" in the module docs. Under the lock, so that
        // a receiver which is about to sleep either sees the bit or is woken.
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
        while self.wake_receiver_locked(&mut inner.waiting) {}
        true
    }
}

/// Drops the unread messages, each of them even if the drop of another panics.
impl<P> Drop for Inbox<P> {
    fn drop(&mut self) {
        let mut unread = 0_u64;
        let mut lazy = self.inner.get_mut().lazy.take();
        let pending = iter::from_fn(|| lazy.as_mut()?.take_first_message());
        // crossbeam would leak all messages behind one whose drop panics.
        let queued = iter::from_fn(|| self.pop());
        let mut panics = Panics::default();
        panics.for_each(pending.chain(queued), |message| {
            unread += 1;
            drop(message);
        });
        // Most inboxes have none unread, and must not contend for the cache line of the counter.
        if unread > 0 {
            // Relaxed: a sum, exact when nothing is under way.
            self.discarded.fetch_add(unread, Ordering::Relaxed);
        }
        panics.resume();
    }
}

#[cfg(test)]
mod tests {
    /// Before you add a version here, check in its `src/flavors/array.rs` what the module docs say under "Orderings".
    #[test]
    fn crossbeam_channel_is_a_version_whose_orderings_were_read() {
        const READ: [&str; 1] = ["0.5.17"];
        let lock = include_str!("../../Cargo.lock");
        let (_, rest) = lock.split_once("name = \"crossbeam-channel\"\nversion = \"").unwrap();
        let version = rest.split('"').next().unwrap();
        assert!(READ.contains(&version), "crossbeam-channel {version}");
    }
}
