//! A subscriber's inbox: the bounded crossbeam queue, what happens when it is full, the account of what
//! was lost, lifecycle events, and the waking of who waits.
//!
//! Publishers reach an inbox through the `Sender` in their route, and while it has room they only read
//! one word here, [`Inbox::attention`], to see whether a receiver sleeps. Receivers read the same word
//! before and after each message, and look now and then how full the queue is; all else is off that path.
//!
//! One lock is taken in this module, the mailbox's. It is the innermost of the engine: whoever holds it
//! takes no other and runs no user code.
//!
//! # What the orderings lean on
//!
//! A sender and a receiver that is about to sleep, to close or to wait for room each write one word and then look at
//! what the other writes: one of the two must see the other, so all four accesses are `SeqCst`. Two of them are
//! crossbeam's: its bounded channel moves `tail` and `head` by `SeqCst` exchanges, and reads them so in `len` and
//! `is_empty` (`src/flavors/array.rs`; its documentation does not promise it). A test names the versions that were read
//! for it. To be independent of them, a publish would need a fence for each message.

mod waiters;
#[cfg(test)]
#[path = "../../tests/support/waiting.rs"]
#[allow(unreachable_pub)]
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::compiler_fence;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::{iter, mem};

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_utils::Backoff;

use crate::error::TryRecvError;
use crate::event::{Event, Message};
use crate::limits::Overflow;
use crate::pattern::Pattern;
use crate::prefetch::prefetch;
use crate::reentrancy::{self, Panics};
use crate::stats::CloseReason;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};
use waiters::{Waiter, park};

/// Lifecycle events wait in the mailbox.
const EVENTS: u32 = 1;
/// Messages were lost that no `Lagged` has told of.
const LAGGED: u32 = 1 << 1;
/// Nothing is to come any more.
const CLOSED: u32 = 1 << 2;
/// Some receive has returned `Closed`, and so must all that follow.
const ENDED: u32 = 1 << 3;
/// Receivers sleep, or are about to: whoever brings something to read wakes one.
const PARKED: u32 = 1 << 4;
/// Publishers wait for room: whoever takes a message wakes them.
const CROWDED: u32 = 1 << 5;
/// There are no lifecycle events, and never will be: no receive need mark its take for them. Set from the beginning.
const SILENT: u32 = 1 << 6;

/// What a publisher must look at after it has sent a message.
const AFTER: u32 = PARKED | CLOSED;

/// What a receiver must look at before it takes a message.
const FIRST: u32 = EVENTS | LAGGED | CLOSED | ENDED;

/// How long a publisher that waits for room sleeps at most before it looks itself, at first and at last.
/// It is woken at once by whoever receives through a `Subscriber`; who takes messages from its
/// `receiver()` wakes nobody.
const LOOKS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(1));

/// The choices made when a subscriber was built.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) lifecycle_events: bool,
    pub(crate) dedupe: bool,
}

impl Settings {
    /// Whether publishers wait when the inbox is full.
    pub(crate) fn blocks(&self) -> bool {
        matches!(self.overflow, Overflow::Block { .. })
    }
}

/// See the module's documentation.
///
/// In this order, so that what a publish reads lies apart from what each receive writes.
#[repr(C)]
pub(crate) struct Inbox<P> {
    queue: Receiver<Message<P>>,
    /// The bits above; none but `SILENT` while publishers have nothing to do but send, and receivers but to take.
    attention: AtomicU32,
    settings: Settings,
    /// The number of its member in the registry.
    member: u64,
    mailbox: Mutex<Mailbox<P>>,
    /// Messages that were unread when their inbox was dropped, of all inboxes of the bus.
    discarded: Arc<AtomicU64>,
    /// Twice the number of messages that were taken without the mailbox's lock; odd while one is being taken. Exact
    /// for one reader: see [`Rare::passed`].
    takes: AtomicU32,
    /// What `takes` is when a receive looks again how many messages there are.
    sample_at: AtomicU32,
    high_water: AtomicUsize,
    /// Messages that made room for newer ones.
    evicted: AtomicU64,
    /// Messages that did not enter.
    refused: AtomicU64,
    /// Messages lost since the last `Lagged`.
    unreported: AtomicU64,
    /// Messages that entered, as far as no route counts them: those of subscriptions given up, and
    /// those that waited in `Block`.
    entered: AtomicU64,
}

/// What is rarely there: made when first used, so that an idle inbox does not pay for it.
struct Mailbox<P> {
    /// What new subscriptions send to; gone when closed, so that `receiver()` sees the end.
    sender: Option<Sender<Message<P>>>,
    close_reason: Option<CloseReason>,
    rare: Option<Box<Rare<P>>>,
}

struct Rare<P> {
    /// Lifecycle events to come, in the order of the calls that caused them. `EVENTS` is set while there are any, or
    /// messages in `aside`.
    events: VecDeque<Pending>,
    /// The position in the stream of the next message that leaves the queue: one more for each that was taken or
    /// evicted since `EVENTS` was set. Events and messages are put in order by it.
    ///
    /// While `EVENTS` is set, messages are taken under the mailbox's lock and counted here. But a receive that has
    /// looked just before it was set takes one without. It marks that in `takes`, before it looks and when it has taken,
    /// so that whoever has the lock can wait for the time between the two to pass, and knows then, when it counts what is
    /// queued, whether that message was among it. (No fence keeps the look behind the first mark, which every receive
    /// would pay for. So a receive can go on unseen for as long as a processor keeps a store to itself; nobody comes to
    /// tell of two events and to evict a message in that time.)
    passed: u64,
    /// The position of the last message taken without the lock, or 0 if that was before `EVENTS` was set.
    unlocked: u64,
    /// The part of `takes` that `passed` contains.
    counted_takes: u32,
    /// Messages taken without the lock that come after an event that had not been seen then, and their positions.
    aside: VecDeque<(u64, Message<P>)>,
    /// Receivers that sleep, the first to be woken first. `PARKED` is set while there are any.
    parked: VecDeque<Arc<Waiter>>,
    /// Publishers that wait for room. `CROWDED` is set while there are any.
    waiting: Vec<Waiting>,
}

impl<P> Default for Rare<P> {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            passed: 0,
            unlocked: 0,
            counted_takes: 0,
            aside: VecDeque::new(),
            parked: VecDeque::new(),
            waiting: Vec::new(),
        }
    }
}

impl<P> Rare<P> {
    /// `true` if nothing is pending, so that positions need not be counted.
    fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.aside.is_empty()
    }

    /// `true` if an event comes before the next message.
    fn is_event_due(&self) -> bool {
        let next = self.aside.front().map_or(self.passed, |(position, _)| *position);
        self.events.front().is_some_and(|first| first.position <= next)
    }

    /// Counts the messages taken without the lock, when `takes` was `takes`.
    fn count_takes(&mut self, takes: u32) {
        let takes = takes & !1;
        // Not more than one, for one reader; clones that read at once can make `takes` go back.
        let taken = (takes.wrapping_sub(self.counted_takes) as i32 / 2).max(0);
        self.counted_takes = takes;
        if taken > 0 {
            self.unlocked = self.passed;
            self.passed += taken as u64;
        }
    }
}

struct Pending {
    event: Lifecycle,
    /// It comes before the message at this position, or when none is queued.
    position: u64,
}

struct Waiting {
    /// The number of the subscription that the message came by.
    subscription: u64,
    publisher: Thread,
    /// Its address tells the waits apart.
    state: Arc<AtomicU32>,
}

/// The state of a wait: neither bit while its publisher sleeps. It is trying to send.
const SENDING: u32 = 1;
/// The wait is over. Whoever ends it while the publisher sleeps counts the message as lost, so that there is
/// a `Lagged` for it before the end of the stream.
const CANCELLED: u32 = 1 << 1;

/// A lifecycle event before it is dressed as an [`Event`].
struct Lifecycle {
    change: Change,
    /// Subscriptions held after it.
    count: usize,
}

/// What a lifecycle event tells.
pub(crate) enum Change {
    Subscribed(Arc<str>),
    Unsubscribed(Arc<str>),
    PSubscribed(Pattern),
    PUnsubscribed(Pattern),
}

impl<P> From<Lifecycle> for Event<P> {
    fn from(Lifecycle { change, count }: Lifecycle) -> Self {
        match change {
            Change::Subscribed(channel) => Self::Subscribe { channel, count },
            Change::Unsubscribed(channel) => Self::Unsubscribe { channel, count },
            Change::PSubscribed(pattern) => Self::PSubscribe { pattern, count },
            Change::PUnsubscribed(pattern) => Self::PUnsubscribe { pattern, count },
        }
    }
}

/// What there is to read, at first sight.
pub(crate) enum Glance<P> {
    Message(Message<P>),
    Nothing,
    /// That is for `more` to say.
    More,
}

/// What is to be done with a message that found the inbox full.
pub(crate) enum Overflowed<P> {
    /// An older one has been evicted: send it again.
    Retry { message: Message<P>, evicted: Option<Message<P>> },
    /// It is refused.
    Refused(Message<P>),
    /// Its subscriber has been told that it is closed: the message concerns nobody.
    Void(Message<P>),
    /// It is refused, and its subscriber is to be closed for it.
    Disconnected(Message<P>),
    /// It must wait, outside the turn.
    Wait(Wait<P>),
}

/// A message that waits for room in an inbox. It must be finished, or given up.
pub(crate) struct Wait<P> {
    inbox: Arc<Inbox<P>>,
    message: Option<Message<P>>,
    timeout: Option<Duration>,
    state: Arc<AtomicU32>,
}

/// How a waiting receive is ended from outside.
#[derive(Clone, Copy)]
pub(crate) struct Until<'a> {
    /// `None` is without end.
    pub(crate) deadline: Option<Instant>,
    /// Set, and then the thread unparked, when the receive must give up.
    pub(crate) ending: Option<&'a Ending>,
}

/// Whether a listener must end, and how.
#[derive(Default)]
pub(crate) struct Ending(AtomicU8);

impl Ending {
    /// As soon as nothing is left to read.
    const DRAIN: u8 = 1;
    /// At once.
    const STOP: u8 = 2;

    pub(crate) fn drain(&self) {
        // Release, this and the other: partners of the Acquire in `get`. What was done before is seen by who ends.
        self.0.fetch_or(Self::DRAIN, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.0.fetch_or(Self::STOP, Ordering::Release);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

impl<P> Inbox<P> {
    pub(crate) fn new(member: u64, settings: Settings, discarded: Arc<AtomicU64>) -> Self {
        let (sender, queue) = bounded(settings.capacity);
        Self {
            member,
            queue,
            attention: AtomicU32::new(if settings.lifecycle_events { 0 } else { SILENT }),
            takes: AtomicU32::new(0),
            sample_at: AtomicU32::new(0),
            settings,
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            high_water: AtomicUsize::new(0),
            mailbox: Mutex::new(Mailbox { sender: Some(sender), close_reason: None, rare: None }),
            discarded,
        }
    }

    pub(crate) fn member(&self) -> u64 {
        self.member
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn queue(&self) -> &Receiver<Message<P>> {
        &self.queue
    }

    pub(crate) fn missed(&self) -> u64 {
        // Relaxed: sums, each exact at rest.
        self.evicted.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn evicted(&self) -> u64 {
        // Relaxed: see `missed`.
        self.evicted.load(Ordering::Relaxed)
    }

    /// Messages that entered and that no route counts.
    pub(crate) fn entered(&self) -> u64 {
        // Relaxed: see `missed`.
        self.entered.load(Ordering::Relaxed)
    }

    pub(crate) fn add_entered(&self, messages: u64) {
        // Relaxed: see `missed`.
        self.entered.fetch_add(messages, Ordering::Relaxed);
    }

    /// The largest depth seen; looks once more.
    pub(crate) fn high_water(&self) -> usize {
        self.sample_depth();
        // Relaxed: a mere statistic.
        self.high_water.load(Ordering::Relaxed)
    }

    fn sample_depth(&self) {
        self.sample(self.queue.len());
    }

    /// What a subscription sends to; `None` where the inbox is closed.
    pub(crate) fn sender(&self) -> Option<Sender<Message<P>>> {
        self.mailbox.lock().sender.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.attention.load(Ordering::Acquire) & CLOSED != 0
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.mailbox.lock().close_reason
    }

    /// Ends the inbox: receivers drain it, publishers that wait give up. Whether this was the first.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.close_reason.is_some() {
            return false;
        }
        mailbox.close_reason = Some(reason);
        mailbox.sender = None;
        // Before the bit: what is lost by this is told of before the end.
        self.cancel(&mut mailbox, |_| true);
        // SeqCst: partner of the load in `asks_after`; see the module's documentation. Under the lock, so that a receiver
        // about to sleep sees it or is woken.
        self.attention.fetch_or(CLOSED, Ordering::SeqCst);
        if let Some(rare) = &mut mailbox.rare {
            while self.wake_next(rare) {}
        }
        true
    }

    // ---- publishing to a full inbox ------------------------------------------------------------

    /// Applies the policy to `message`, which the queue has just refused as full. Runs in the turn: it
    /// waits for nobody and drops no payload.
    #[cold]
    pub(crate) fn overflow(
        self: &Arc<Self>,
        message: Message<P>,
        subscription: u64,
    ) -> Overflowed<P> {
        self.sample_depth();
        match self.settings.overflow {
            Overflow::DropOldest => {
                // The lock is held from before the message leaves the queue until it is counted: the end of
                // the stream cannot be read in between.
                let mut mailbox = self.mailbox.lock();
                // Relaxed, both: under the lock.
                let attention = self.attention.load(Ordering::Relaxed);
                if attention & ENDED != 0 {
                    return Overflowed::Void(message);
                }
                let evicted = self.evict(&mut mailbox);
                if evicted.is_some() {
                    self.count_lost(&self.evicted, &mut mailbox);
                }
                Overflowed::Retry { message, evicted }
            }
            Overflow::DropNewest => self.refuse(message),
            // It is closed after the turn, so that whatever this publish has for it is refused and told
            // of before the end.
            Overflow::Disconnect => match self.refuse(message) {
                Overflowed::Refused(message) => Overflowed::Disconnected(message),
                void => void,
            },
            Overflow::Block { timeout } => {
                let mut mailbox = self.mailbox.lock();
                if mailbox.close_reason.is_some() {
                    drop(mailbox);
                    return self.refuse(message);
                }
                // Entered in the turn: whoever takes the subscription out of the route after this
                // finds the wait and ends it.
                let state = Arc::new(AtomicU32::new(0));
                mailbox.rare.get_or_insert_default().waiting.push(Waiting {
                    subscription,
                    publisher: thread::current(),
                    state: Arc::clone(&state),
                });
                // SeqCst: partner of the load in `taken`. This writes here and then tries to send; the
                // other takes and then reads here: one of them must see the other.
                self.attention.fetch_or(CROWDED, Ordering::SeqCst);
                let inbox = Arc::clone(self);
                Overflowed::Wait(Wait { inbox, message: Some(message), timeout, state })
            }
        }
    }

    fn refuse(&self, message: Message<P>) -> Overflowed<P> {
        if self.lose(&self.refused) {
            Overflowed::Refused(message)
        } else {
            Overflowed::Void(message)
        }
    }

    /// Takes the oldest message out of the queue, under the mailbox's lock.
    fn evict(&self, mailbox: &mut Mailbox<P>) -> Option<Message<P>> {
        // Relaxed: under the lock.
        let pending = self.attention.load(Ordering::Relaxed) & EVENTS != 0;
        let Some(rare) = mailbox.rare.as_mut().filter(|_| pending) else {
            return self.pop();
        };
        self.count_queued(rare);
        #[cfg(test)]
        tests::interfere(tests::Moment::Evicting);
        let evicted = self.pop()?;
        // One that was taken in this very moment counts as older.
        self.count_queued(rare);
        self.pass_one(rare);
        Some(evicted)
    }

    /// Counts a lost message, unless the end has been read and nobody can be told of it.
    ///
    /// Under the lock, as in `end`: either this comes before the end and is told of, or it is not counted.
    fn lose(&self, counter: &AtomicU64) -> bool {
        let mut mailbox = self.mailbox.lock();
        // Relaxed: under the lock.
        if self.attention.load(Ordering::Relaxed) & ENDED != 0 {
            return false;
        }
        self.count_lost(counter, &mut mailbox);
        true
    }

    /// Counts a lost message, under the mailbox's lock, and has a receiver told.
    fn count_lost(&self, counter: &AtomicU64, mailbox: &mut Mailbox<P>) {
        // Relaxed, both: read as sums at rest, and made visible by the bit below.
        counter.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
        // Release: partner of the Acquire in `more`; a receiver that sees the bit sees the count.
        let before = self.attention.fetch_or(LAGGED, Ordering::Release);
        if before & LAGGED == 0
            && let Some(rare) = &mut mailbox.rare
        {
            self.wake_next(rare);
        }
    }

    /// Ends the waits of publishers for `subscription`, as refused.
    pub(crate) fn cancel_waits(&self, subscription: u64) {
        self.cancel(&mut self.mailbox.lock(), |waiting| waiting.subscription == subscription);
    }

    fn cancel(&self, mailbox: &mut Mailbox<P>, which: impl Fn(&Waiting) -> bool) {
        let Some(rare) = &mut mailbox.rare else { return };
        let mut lost = 0;
        rare.waiting.retain(|waiting| {
            let cancel = which(waiting);
            if cancel {
                // AcqRel: partner of the operations in `Wait::finish`.
                if waiting.state.fetch_or(CANCELLED, Ordering::AcqRel) & SENDING == 0 {
                    lost += 1;
                }
                waiting.publisher.unpark();
            }
            !cancel
        });
        self.uncrowd(rare);
        (0..lost).for_each(|_| self.count_lost(&self.refused, mailbox));
    }

    fn uncrowd(&self, rare: &mut Rare<P>) {
        if rare.waiting.is_empty() {
            rare.waiting = Vec::new();
            // Relaxed: set and cleared under the lock.
            self.attention.fetch_and(!CROWDED, Ordering::Relaxed);
        }
    }

    /// Wakes all publishers that wait for room: a thread can wait in several inboxes, one after
    /// another, and the first in the list need not wait in this one yet.
    #[cold]
    fn make_way(&self) {
        if let Some(rare) = &self.mailbox.lock().rare {
            rare.waiting.iter().for_each(|waiting| waiting.publisher.unpark());
        }
    }

    // ---- lifecycle events ----------------------------------------------------------------------

    /// Queues an event behind all messages that are queued now, unless the subscriber asked for none.
    pub(crate) fn tell(&self, change: impl FnOnce() -> Change, count: usize) {
        if !self.settings.lifecycle_events {
            return;
        }
        let event = Lifecycle { change: change(), count };
        let mut mailbox = self.mailbox.lock();
        let rare = mailbox.rare.get_or_insert_default();
        if rare.is_quiet() {
            // SeqCst, and before the count below: partner of the load in `glance` and in `take`. A receive that
            // has taken a message and does not see the bit had taken it before the count.
            self.attention.fetch_or(EVENTS, Ordering::SeqCst);
            // What is over by now came before all that is pending.
            rare.counted_takes = self.takes.load(Ordering::Acquire) & !1;
            (rare.passed, rare.unlocked) = (1, 0);
        }
        let position = self.count_queued(rare);
        rare.events.push_back(Pending { event, position });
        self.wake_next(rare);
    }

    /// Counts what is queued, under the mailbox's lock while `EVENTS` is set: the position of the next message that
    /// is sent comes back.
    fn count_queued(&self, rare: &mut Rare<P>) -> u64 {
        let backoff = Backoff::new();
        loop {
            // Acquire: partner of the Release in `end_take`. If a take is seen to be over, so is that it left the queue.
            let takes = self.takes.load(Ordering::Acquire);
            #[cfg(test)]
            tests::interfere(tests::Moment::Counting);
            if takes & 1 == 0 {
                // Whoever is seen here to have taken a message, by an exchange of crossbeam's that is at least
                // a release, has written to `takes` before.
                let queued = self.queue.len();
                if self.takes.load(Ordering::Acquire) == takes {
                    rare.count_takes(takes);
                    return rare.passed + queued as u64;
                }
            }
            // For a few instructions of the reader's, in which it runs no user code and waits for nothing. It may have
            // been preempted there, by this very thread if that has a higher priority.
            if backoff.is_completed() {
                thread::sleep(LOOKS.0);
            } else {
                backoff.snooze();
            }
        }
    }

    /// Counts a message that was taken under the lock while events are pending, and wakes a receiver that sleeps
    /// through what has become due by it.
    fn pass_one(&self, rare: &mut Rare<P>) {
        rare.passed += 1;
        self.wake_if_due(rare);
    }

    /// Wakes a receiver that sleeps, if there is an event to be read.
    fn wake_if_due(&self, rare: &mut Rare<P>) {
        if rare.is_event_due() || !rare.events.is_empty() && self.queue.is_empty() {
            self.wake_next(rare);
        }
    }

    // ---- waking receivers ----------------------------------------------------------------------

    /// Has what `asks_after` reads brought into the cache.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(&self.attention);
    }

    /// Whether `sent` must be called for a message that has just been sent.
    #[inline]
    pub(crate) fn asks_after(&self) -> bool {
        // SeqCst: partner of the stores in `sleep` and `close`; see the module's documentation.
        self.attention.load(Ordering::SeqCst) & AFTER != 0
    }

    /// Wakes a receiver for a message that has just been sent. Where the inbox was closed meanwhile and
    /// its end has been read, a message comes back: it concerns nobody, and was not delivered.
    #[cold]
    pub(crate) fn sent(&self) -> Option<Message<P>> {
        if self.attention.load(Ordering::Relaxed) & CLOSED != 0 {
            // Under the lock, as in `end`: whoever reads the end after this sees the message first.
            let _mailbox = self.mailbox.lock();
            if self.attention.load(Ordering::Relaxed) & ENDED != 0 {
                // As many are taken back as were sent too late, whichever of them.
                return self.pop();
            }
        }
        self.wake_one();
        None
    }

    /// Wakes the receiver that has slept longest.
    #[cold]
    fn wake_one(&self) {
        if let Some(rare) = &mut self.mailbox.lock().rare {
            self.wake_next(rare);
        }
    }

    /// Wakes the receiver that has slept longest; whether there was one.
    fn wake_next(&self, rare: &mut Rare<P>) -> bool {
        let Some(waiter) = rare.parked.pop_front() else { return false };
        if rare.parked.is_empty() {
            // Relaxed: set and cleared under the lock.
            self.attention.fetch_and(!PARKED, Ordering::Relaxed);
        }
        waiter.wake();
        true
    }

    // ---- receiving -----------------------------------------------------------------------------

    /// What is there to be read, in the order: losses, lifecycle events that are due, a message.
    #[inline]
    pub(crate) fn poll(&self) -> Result<Event<P>, TryRecvError> {
        match self.glance() {
            Glance::Message(message) => Ok(message.into()),
            Glance::Nothing => Err(TryRecvError::Empty),
            Glance::More => self.more(),
        }
    }

    /// The next message, where there is nothing else, which is nearly always.
    ///
    /// It is done right here, in the caller's code: what a call hands back in memory, or what is one of several things
    /// that have different shapes, is read in other pieces than it was written in, for which the processor waits, at
    /// every receive, until they have reached its cache.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Glance<P> {
        // Acquire and SeqCst: as in `take`.
        let attention = self.attention.load(Ordering::Acquire);
        if attention & FIRST != 0 {
            return Glance::More;
        }
        // Relaxed, both: written by readers alone, and read by others as in `count_queued`.
        let takes = self.takes.load(Ordering::Relaxed) & !1;
        let until_look = self.sample_at.load(Ordering::Relaxed).wrapping_sub(takes) as i32;
        if until_look <= 0 && !self.look(takes) {
            return Glance::Nothing;
        }
        if attention & SILENT != 0 {
            // Nothing but the count is wanted.
            self.takes.store(takes.wrapping_add(2), Ordering::Relaxed);
        } else if !self.begin_take(takes) {
            return Glance::More;
        }
        // Taken apart at once, so that it stays in registers; no call comes between.
        let Ok(Message { payload, source }) = self.queue.try_recv() else {
            self.found_none();
            return Glance::Nothing;
        };
        // SeqCst: partner of the store in `tell`, and as in `made_room`.
        let attention = self.attention.load(Ordering::SeqCst);
        if attention & (EVENTS | CROWDED) != 0 {
            return match self.attended(Message { payload, source }) {
                Some(message) => Glance::Message(message),
                None => Glance::More,
            };
        }
        if attention & SILENT == 0 {
            self.end_take();
        }
        Glance::Message(Message { payload, source })
    }

    /// Marks that a message is about to be taken without the mailbox's lock, when `takes` was as given; `false` if there
    /// is an event to be read first.
    ///
    /// A function of its own, since `glance` must be small enough to be inlined.
    #[inline(never)]
    fn begin_take(&self, takes: u32) -> bool {
        // Relaxed: crossbeam's exchange, which is at least a release, comes behind it.
        self.takes.store(takes.wrapping_add(1), Ordering::Relaxed);
        // Once more, behind the mark: whoever tells of an event waits for a receive that is seen to be at work, also
        // where its thread is preempted here. See [`Rare::passed`].
        compiler_fence(Ordering::SeqCst);
        let is_clear = self.attention.load(Ordering::Acquire) & FIRST == 0;
        if !is_clear {
            self.cancel_take();
        }
        is_clear
    }

    /// Marks that it has been taken. `takes` is even after that, also where other readers have written to it meanwhile.
    #[inline]
    fn end_take(&self) {
        // Relaxed: as in `glance`.
        let takes = self.takes.load(Ordering::Relaxed);
        // Release: partner of the Acquires in `count_queued`.
        self.takes.store((takes.wrapping_add(1)) & !1, Ordering::Release);
    }

    /// Marks that there was none to take, and has the next receive look first, which is cheaper than to try in vain.
    #[inline(never)]
    fn found_none(&self) {
        self.cancel_take();
        // Relaxed, both: a mere statistic.
        self.sample_at.store(self.takes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Marks that there was none to take.
    fn cancel_take(&self) {
        // Relaxed, both: as in `glance`; nothing left the queue.
        let takes = self.takes.load(Ordering::Relaxed);
        self.takes.store(takes & !1, Ordering::Relaxed);
    }

    /// Looks how many messages there are, for `high_water`; `false` if there is none.
    ///
    /// Not every receive looks, since that asks a processor that publishes for what it writes: those in between take
    /// out, together, an eighth of the largest depth at most, so that no more of it is overlooked. Once the inbox has
    /// been full, there is nothing left to be seen.
    #[inline(never)]
    fn look(&self, takes: u32) -> bool {
        let depth = self.queue.len();
        if depth == 0 {
            return false;
        }
        // Relaxed, all: a mere statistic.
        let high_water = self.high_water.load(Ordering::Relaxed);
        if high_water >= self.settings.capacity {
            self.sample_at.store(takes.wrapping_add(1 << 30), Ordering::Relaxed);
        } else {
            self.sample(depth);
            // Below 8, every receive looks.
            if high_water >= 8 {
                let spared = 2 * (high_water / 8).min(1 << 28) as u32;
                self.sample_at.store(takes.wrapping_add(2 + spared), Ordering::Relaxed);
            }
        }
        true
    }

    /// Goes on with a message that was taken while events were told, or publishers wait for room. It is gone where it is
    /// set aside.
    #[cold]
    fn attended(&self, message: Message<P>) -> Option<Message<P>> {
        self.end_take();
        if self.attention.load(Ordering::SeqCst) & EVENTS != 0 {
            return self.reconcile(message);
        }
        self.made_room();
        Some(message)
    }

    /// What there is beside messages that may come first, or a message after all.
    #[cold]
    pub(crate) fn more(&self) -> Result<Event<P>, TryRecvError> {
        loop {
            // Acquire: partner of the Releases in `count_lost`, `tell` and `close`.
            let attention = self.attention.load(Ordering::Acquire);
            // Held across the take where events wait for messages to pass: neither may overtake.
            let mailbox = match self.attend(attention) {
                Attended::Yield(event) => return Ok(event),
                Attended::Ended => return Err(TryRecvError::Closed),
                Attended::Take(mailbox) => mailbox,
            };
            let Some(message) = self.take(mailbox.is_some()) else {
                // Where events are pending, they have come meanwhile, or another reader took what they were waiting for.
                let pending = self.attention.load(Ordering::Acquire) & EVENTS != 0;
                if mailbox.is_none() && !pending && self.queue.is_empty() {
                    if attention & CLOSED == 0 {
                        return Err(TryRecvError::Empty);
                    }
                    if self.end() {
                        return Err(TryRecvError::Closed);
                    }
                }
                continue;
            };
            match mailbox {
                Some(mut mailbox) => {
                    if let Some(rare) = &mut mailbox.rare {
                        self.pass_one(rare);
                    }
                    drop(mailbox);
                }
                // SeqCst: partner of the store in `tell`.
                None if self.attention.load(Ordering::SeqCst) & EVENTS != 0 => {
                    match self.reconcile(message) {
                        Some(message) => return Ok(message.into()),
                        None => continue,
                    }
                }
                None => {}
            }
            self.taken();
            return Ok(message.into());
        }
    }

    /// Takes the oldest message out of the queue, for all but `glance`: with one caller more, crossbeam's code is no
    /// longer inlined there.
    #[inline(never)]
    fn pop(&self) -> Option<Message<P>> {
        self.queue.try_recv().ok()
    }

    /// Takes a message, marking it in `takes` if the mailbox is not `locked`: see `glance`. `None` if there is none, or
    /// an event has been told.
    fn take(&self, locked: bool) -> Option<Message<P>> {
        if locked {
            return self.pop();
        }
        let takes = self.takes.load(Ordering::Relaxed) & !1;
        self.takes.store(takes.wrapping_add(1), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        if self.attention.load(Ordering::Acquire) & EVENTS != 0 {
            self.cancel_take();
            return None;
        }
        let message = self.pop();
        if message.is_some() {
            self.end_take()
        } else {
            self.cancel_take()
        }
        message
    }

    /// Marks that the end has been read, unless there is something to read after all.
    #[cold]
    fn end(&self) -> bool {
        // Under the lock, as in `sent`.
        let _mailbox = self.mailbox.lock();
        // Relaxed, both: set under the lock, all of them.
        let more = self.attention.load(Ordering::Relaxed) & (LAGGED | EVENTS) != 0;
        let ended = !more && self.queue.is_empty();
        if ended {
            self.attention.fetch_or(ENDED, Ordering::Relaxed);
        }
        ended
    }

    /// What follows the taking of a message.
    fn taken(&self) {
        // What came since the message was taken may have filled its place.
        self.sample((self.queue.len() + 1).min(self.settings.capacity));
        self.made_room();
    }

    /// Looks how many messages there are, as a statistic does.
    #[inline]
    fn sample(&self, depth: usize) {
        // Relaxed, both. The load spares the write, which is rare.
        if depth > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(depth, Ordering::Relaxed);
        }
    }

    /// Wakes publishers that wait for the room that has been made.
    #[inline]
    fn made_room(&self) {
        // SeqCst: partner of the store in `overflow`; see the module's documentation.
        if self.attention.load(Ordering::SeqCst) & CROWDED != 0 {
            self.make_way();
        }
    }

    /// Finds the position of `message`, which was taken without the lock while an event was told. It is set aside
    /// where that event comes first.
    #[cold]
    fn reconcile(&self, message: Message<P>) -> Option<Message<P>> {
        let mut mailbox = self.mailbox.lock();
        if let Some(rare) = mailbox.rare.as_mut().filter(|rare| !rare.is_quiet()) {
            // Relaxed: what this thread has written is all that is asked for.
            rare.count_takes(self.takes.load(Ordering::Relaxed));
            let position = rare.unlocked;
            if rare.events.front().is_some_and(|first| first.position <= position) {
                rare.aside.push_back((position, message));
                drop(mailbox);
                self.taken();
                return None;
            }
            self.wake_if_due(rare);
        }
        drop(mailbox);
        self.taken();
        Some(message)
    }

    #[cold]
    fn attend(&self, attention: u32) -> Attended<'_, P> {
        if attention & ENDED != 0 {
            return Attended::Ended;
        }
        if attention & LAGGED != 0 {
            // The bit goes before the count is taken: a loss in between sets it again.
            self.attention.fetch_and(!LAGGED, Ordering::AcqRel);
            // Relaxed: the bit's Acquire has made the count visible.
            let missed = self.unreported.swap(0, Ordering::Relaxed);
            if missed != 0 {
                return Attended::Yield(Event::Lagged { missed });
            }
        }
        if attention & EVENTS == 0 {
            return Attended::Take(None);
        }
        let mut mailbox = self.mailbox.lock();
        let Some(rare) = mailbox.rare.as_mut().filter(|rare| !rare.is_quiet()) else {
            return Attended::Take(None);
        };
        let none_queued = self.queue.is_empty() && rare.aside.is_empty();
        let next = if rare.is_event_due() || none_queued {
            let event = rare.events.pop_front().map(|pending| pending.event.into());
            // For another clone that sleeps: this one's caller may be long.
            self.wake_if_due(rare);
            event
        } else {
            let message = rare.aside.pop_front().map(|(_, message)| message.into());
            self.wake_if_due(rare);
            message
        };
        if rare.is_quiet() {
            // The room is given back: most subscribers see a few events and then none.
            rare.events = VecDeque::new();
            rare.aside = VecDeque::new();
            // Relaxed: set and cleared under the lock.
            self.attention.fetch_and(!EVENTS, Ordering::Relaxed);
        }
        match next {
            Some(next) => Attended::Yield(next),
            None => Attended::Take(Some(mailbox)),
        }
    }

    /// Waits until there is something to be read.
    pub(crate) fn wait(&self, until: Until<'_>) -> Result<Event<P>, Waited> {
        loop {
            if until.is_stopped() {
                // What is queued stays queued for the others. One of them must be told, if this thread has
                // been woken for it.
                if !self.has_nothing() {
                    self.wake_one();
                }
                return Err(Waited::Stopped);
            }
            match self.poll() {
                Ok(event) => return Ok(event),
                Err(TryRecvError::Closed) => return Err(Waited::Closed),
                Err(TryRecvError::Empty) if until.is_over() => return Err(Waited::TimedOut),
                Err(TryRecvError::Empty) if until.is_ending() => return Err(Waited::Stopped),
                Err(TryRecvError::Empty) => {}
            }
            reentrancy::assert_not_in_clone();
            let backoff = Backoff::new();
            while self.has_nothing() && !backoff.is_completed() {
                backoff.snooze();
            }
            if self.has_nothing() {
                self.sleep(until);
            }
        }
    }

    /// Whether there seems to be nothing to read.
    fn has_nothing(&self) -> bool {
        // Acquire: as in `take`.
        self.queue.is_empty() && self.attention.load(Ordering::Acquire) & FIRST == 0
    }

    /// Sleeps until there may be something to read, or `until` is over.
    fn sleep(&self, until: Until<'_>) {
        let waiter = Waiter::current();
        {
            let mut mailbox = self.mailbox.lock();
            mailbox.rare.get_or_insert_default().parked.push_back(Arc::clone(&waiter));
            // SeqCst: see `asks_after`.
            self.attention.fetch_or(PARKED, Ordering::SeqCst);
        }
        while self.has_nothing() && !waiter.is_woken() && !until.is_ending() && !until.is_over() {
            park(until.deadline);
        }
        if waiter.is_woken() {
            return;
        }
        let mut mailbox = self.mailbox.lock();
        if let Some(rare) = &mut mailbox.rare {
            rare.parked.retain(|other| !Arc::ptr_eq(other, &waiter));
            if rare.parked.is_empty() {
                // Relaxed: set and cleared under the lock.
                self.attention.fetch_and(!PARKED, Ordering::Relaxed);
            }
        }
    }

    /// Messages that can be read.
    pub(crate) fn depth(&self) -> usize {
        let aside = if self.attention.load(Ordering::Acquire) & EVENTS == 0 {
            0
        } else {
            self.mailbox.lock().rare.as_ref().map_or(0, |rare| rare.aside.len())
        };
        self.queue.len() + aside
    }
}

enum Attended<'a, P> {
    Yield(Event<P>),
    /// Nothing comes before the next message. Where events wait for messages to pass, their lock.
    Take(Option<MutexGuard<'a, Mailbox<P>>>),
    Ended,
}

/// Why a wait ended with nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Closed,
    TimedOut,
    Stopped,
}

impl Until<'_> {
    /// `true` if the receive must give up, whatever is queued.
    pub(crate) fn is_stopped(&self) -> bool {
        self.ending.is_some_and(|ending| ending.get() & Ending::STOP != 0)
    }

    /// `true` if the receive must give up where nothing is left to read.
    fn is_ending(&self) -> bool {
        self.ending.is_some_and(|ending| ending.get() != 0)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Drops what nobody has read, each message in spite of the panics of others.
impl<P> Drop for Inbox<P> {
    fn drop(&mut self) {
        let mut unread = 0_u64;
        let aside = match &mut self.mailbox.get_mut().rare {
            Some(rare) => mem::take(&mut rare.aside),
            None => VecDeque::new(),
        };
        let aside = aside.into_iter().map(|(_, message)| message);
        // Not by crossbeam, which leaks all that is queued behind a message whose drop panics.
        let queued = iter::from_fn(|| self.pop());
        let mut panics = Panics::default();
        panics.for_each(aside.chain(queued), |message| {
            unread += 1;
            drop(message);
        });
        // Most have nothing to add: they do not contend for the counter's cache line.
        if unread > 0 {
            // Relaxed: a sum, exact at rest.
            self.discarded.fetch_add(unread, Ordering::Relaxed);
        }
        panics.resume();
    }
}

impl<P> Wait<P> {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Tries to `send` until the message is gone, the wait is ended, or `deadline` is over; then it comes
    /// back, with whether it counts as lost. `send` gives back what did not enter.
    pub(crate) fn finish(
        mut self,
        deadline: Option<Instant>,
        mut send: impl FnMut(Message<P>) -> Option<Message<P>>,
    ) -> Option<(Message<P>, bool)> {
        let mut look = LOOKS.0;
        loop {
            // AcqRel, here and below: partner of `Inbox::cancel`. One of the two counts the loss.
            if self.state.fetch_or(SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return Some((self.message.take()?, true));
            }
            self.message = send(self.message.take()?);
            let now = Instant::now();
            let over = deadline.is_some_and(|deadline| now >= deadline);
            // Still as one that sends: nobody else counts what is counted here.
            if self.message.is_none() || over || self.is_cancelled() {
                return self.lost();
            }
            if self.state.fetch_and(!SENDING, Ordering::AcqRel) & CANCELLED != 0 {
                return self.lost();
            }
            let next = now + look;
            park(Some(deadline.map_or(next, |deadline| deadline.min(next))));
            look = LOOKS.1.min(look * 2);
        }
    }

    /// Gives up: the message comes back, with whether it counts as lost.
    pub(crate) fn give_up(self) -> Option<(Message<P>, bool)> {
        if self.state.fetch_or(SENDING, Ordering::AcqRel) & CANCELLED != 0 {
            let mut this = self;
            return Some((this.message.take()?, true));
        }
        self.lost()
    }

    fn lost(mut self) -> Option<(Message<P>, bool)> {
        let message = self.message.take()?;
        let counts = self.inbox.lose(&self.inbox.refused);
        Some((message, counts))
    }

    fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCELLED != 0
    }
}

impl<P> Drop for Wait<P> {
    fn drop(&mut self) {
        if let Some(rare) = &mut self.inbox.mailbox.lock().rare {
            rare.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.state, &self.state));
            self.inbox.uncrowd(rare);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Read `src/flavors/array.rs` of a new version, for what the module's documentation says of it, and add it here.
    #[test]
    fn crossbeam_is_of_a_version_whose_orderings_have_been_read() {
        const READ: [&str; 1] = ["0.5.17"];
        let lock = include_str!("../../Cargo.lock");
        let (_, rest) = lock.split_once("name = \"crossbeam-channel\"\nversion = \"").unwrap();
        let version = rest.split('"').next().unwrap();
        assert!(READ.contains(&version), "crossbeam-channel {version}");
    }

    type Code = Box<dyn FnOnce()>;

    thread_local! {
        /// What another thread does at some moment of this one's.
        static INTERFERENCE: RefCell<Option<(Moment, Code)>> = const { RefCell::new(None) };
    }

    /// A moment at which another thread can take a message.
    #[derive(PartialEq, Eq)]
    pub(super) enum Moment {
        /// What is queued is about to be counted.
        Counting,
        /// It has been counted, and the oldest is about to be evicted.
        Evicting,
    }

    pub(super) fn interfere(now: Moment) {
        let due = INTERFERENCE.with_borrow_mut(|set| set.take_if(|(moment, _)| *moment == now));
        if let Some((_, code)) = due {
            code();
        }
    }

    /// Has a message taken at that moment, by a receive that has looked before there was an event and goes on when
    /// `reconcile` is called.
    fn take_at(moment: Moment, inbox: &Arc<Inbox<u32>>) -> Arc<Mutex<Option<Message<u32>>>> {
        let taken = Arc::new(Mutex::new(None));
        let (inbox, takes) = (Arc::clone(inbox), Arc::clone(&taken));
        let code = move || {
            mark_take(&inbox);
            *takes.lock() = inbox.pop();
            inbox.end_take();
        };
        INTERFERENCE.set(Some((moment, Box::new(code))));
        taken
    }

    #[test]
    fn an_event_that_falls_due_by_a_receive_that_looked_before_it_wakes_a_sleeper() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        let wait = || {
            let (started, patience) = (Instant::now(), Duration::from_secs(20));
            let until = Until { deadline: Some(started + patience), ending: None };
            // At its deadline it would find the event by itself.
            inbox.wait(until).ok().filter(|_| started.elapsed() < patience)
        };
        thread::scope(|scope| {
            let sleepers = [1, 2].map(|count| {
                let sleeper = scope.spawn(wait);
                while inbox.parked() < count {
                    thread::yield_now();
                }
                sleeper
            });
            // Two messages, of which nobody is told; then an event, of which the first sleeper is.
            (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            inbox.tell(|| Change::Unsubscribed(Arc::from("c")), 0);
            let [first, second] = sleepers;
            assert_eq!(first.join().unwrap().and_then(Event::into_message).unwrap().payload, 1);
            // A receive that had looked before there was the event takes the last message.
            let message = inbox.attended(inbox.queue.try_recv().unwrap());
            assert_eq!(message.unwrap().payload, 2);
            assert!(
                matches!(second.join().unwrap(), Some(Event::Unsubscribe { .. })),
                "it sleeps on"
            );
        });
    }

    /// An inbox of one message, which is queued, and a publisher that waits for its room: this thread.
    fn crowded(lifecycle_events: bool) -> (Arc<Inbox<u32>>, Wait<u32>) {
        let overflow = Overflow::Block { timeout: None };
        let settings =
            Settings { label: None, capacity: 1, overflow, lifecycle_events, dedupe: false };
        let inbox = Arc::new(Inbox::new(0, settings, Arc::default()));
        inbox.sender().unwrap().try_send(Message::new("c", 1)).unwrap();
        let Overflowed::Wait(wait) = inbox.overflow(Message::new("c", 2), 0) else {
            panic!("it does not wait")
        };
        (inbox, wait)
    }

    #[test]
    fn whoever_takes_a_message_wakes_a_publisher_that_waits_for_its_room() {
        fn message(taken: Result<Event<u32>, TryRecvError>) -> Option<Message<u32>> {
            taken.ok().and_then(Event::into_message)
        }
        type Take = fn(&Inbox<u32>) -> Option<Message<u32>>;
        let takes: [(&str, bool, Take); 5] = [
            ("nothing else is there", true, |inbox| message(inbox.poll())),
            ("there never are lifecycle events", false, |inbox| message(inbox.poll())),
            ("an event comes after the message", true, |inbox| {
                tell(inbox);
                message(inbox.poll())
            }),
            ("an event was told between the look and the take", true, |inbox| {
                tell(inbox);
                take_unlocked(inbox)
            }),
            ("the message comes after such an event", true, |inbox| {
                let sent = inbox.pop().unwrap();
                tell(inbox);
                inbox.sender().unwrap().try_send(sent).unwrap();
                assert!(take_unlocked(inbox).is_none(), "it is set aside");
                assert!(matches!(inbox.poll(), Ok(Event::Unsubscribe { .. })));
                message(inbox.poll())
            }),
        ];
        for (how, lifecycle_events, take) in takes {
            let woken = move || {
                let (inbox, wait) = crowded(lifecycle_events);
                assert_eq!(take(&inbox).unwrap().payload, 1, "{how}");
                // As its publisher does, but without looking for room from time to time: it returns because this
                // thread has been woken before.
                thread::park();
                let entered = wait.finish(None, |message| {
                    let sent = inbox.sender().unwrap().try_send(message);
                    sent.err().map(|refused| refused.into_inner())
                });
                assert!(entered.is_none(), "{how}");
            };
            waiting::watched(woken);
        }
    }

    /// An inbox of four messages, with lifecycle events.
    fn inbox_of_four() -> (Arc<Inbox<u32>>, Arc<AtomicU64>) {
        let settings = Settings {
            label: None,
            capacity: 4,
            overflow: Overflow::DropOldest,
            lifecycle_events: true,
            dedupe: false,
        };
        let discarded = Arc::default();
        (Arc::new(Inbox::new(0, settings, Arc::clone(&discarded))), discarded)
    }

    fn tell(inbox: &Inbox<u32>) {
        inbox.tell(|| Change::Unsubscribed(Arc::from("c")), 0);
    }

    /// Marks a take as a receive does that has looked before there was an event.
    fn mark_take(inbox: &Inbox<u32>) {
        inbox.takes.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a message as a receive does that has looked before there was an event; `None` if the event comes first.
    fn take_unlocked(inbox: &Inbox<u32>) -> Option<Message<u32>> {
        mark_take(inbox);
        inbox.attended(inbox.pop().unwrap())
    }

    #[test]
    fn a_message_that_an_event_has_overtaken_counts_as_queued_and_is_discarded_with_the_inbox() {
        let (inbox, discarded) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        tell(&inbox);
        (1..=3).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        assert!(take_unlocked(&inbox).is_none(), "the event comes first");
        assert_eq!((inbox.queue().len(), inbox.depth()), (2, 3));
        drop((sender, inbox));
        assert_eq!(discarded.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn the_end_is_not_read_before_what_has_come_since_the_queue_was_found_empty() {
        type Come = fn(&Inbox<u32>, Sender<Message<u32>>);
        let comes: [(&str, Come); 3] = [
            ("a message", |_, sender| sender.try_send(Message::new("c", 1)).unwrap()),
            ("a loss", |inbox, _| assert!(inbox.lose(&inbox.refused))),
            ("a lifecycle event", |inbox, _| tell(inbox)),
        ];
        for (what, come) in comes {
            let (inbox, _) = inbox_of_four();
            // As a publish under way has one.
            let sender = inbox.sender().unwrap();
            inbox.close(CloseReason::Subscriber);
            // A receive finds nothing queued here, and then:
            come(&inbox, sender);
            assert!(!inbox.end(), "{what}");
            assert!(inbox.poll().is_ok(), "{what}");
            assert_eq!(inbox.poll(), Err(TryRecvError::Closed), "{what}");
        }
    }

    #[test]
    fn a_message_taken_while_a_later_one_is_evicted_still_comes_before_the_event_behind_it() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        sender.try_send(Message::new("c", 1)).unwrap();
        tell(&inbox);
        (2..=4).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let taken = take_at(Moment::Evicting, &inbox);
        let Overflowed::Retry { message, evicted } = inbox.overflow(Message::new("c", 5), 0) else {
            panic!("nothing is evicted")
        };
        assert_eq!((message.payload, evicted.unwrap().payload), (5, 2));
        let taken = taken.lock().take().unwrap();
        assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(1));
        assert_eq!(inbox.poll(), Ok(Event::Lagged { missed: 1 }));
        assert!(matches!(inbox.poll(), Ok(Event::Unsubscribe { .. })));
        let rest = iter::from_fn(|| inbox.poll().ok().and_then(Event::into_message));
        assert_eq!(rest.map(|message| message.payload).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_message_taken_right_before_an_event_is_told_comes_before_that_event() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        for n in 1..=3 {
            sender.try_send(Message::new("c", n)).unwrap();
            mark_take(&inbox);
            let taken = inbox.pop().unwrap();
            inbox.end_take();
            tell(&inbox);
            // The receive goes on, and sees that there is an event.
            assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(n));
            assert!(matches!(inbox.poll(), Ok(Event::Unsubscribe { .. })));
            assert_eq!(inbox.poll(), Err(TryRecvError::Empty));
        }
    }

    #[test]
    fn a_receive_that_is_stopped_when_it_is_woken_for_a_message_wakes_the_next_in_its_place() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let ending = Arc::new(Ending::default());
            let sleeper = |ending: Option<Arc<Ending>>| {
                let already = inbox.parked();
                let waiting = Arc::clone(&inbox);
                let sleeper = thread::spawn(move || {
                    waiting.wait(Until { deadline: None, ending: ending.as_deref() })
                });
                while inbox.parked() == already {
                    thread::yield_now();
                }
                sleeper
            };
            let (first, second) = (sleeper(Some(Arc::clone(&ending))), sleeper(None));
            // It learns of this when it is woken.
            ending.stop();
            inbox.sender().unwrap().try_send(Message::new("c", 1)).unwrap();
            assert!(inbox.sent().is_none());
            assert_eq!(first.join().unwrap(), Err(Waited::Stopped));
            assert_eq!(second.join().unwrap(), Ok(Message::new("c", 1).into()));
        });
    }

    #[test]
    fn a_loss_wakes_a_receiver_that_sleeps() {
        waiting::watched(|| {
            let (inbox, _) = inbox_of_four();
            let waiting = Arc::clone(&inbox);
            let sleeper =
                thread::spawn(move || waiting.wait(Until { deadline: None, ending: None }));
            while inbox.parked() == 0 {
                thread::yield_now();
            }
            // Others have read what filled the inbox meanwhile.
            assert!(inbox.lose(&inbox.refused));
            assert_eq!(sleeper.join().unwrap(), Ok(Event::Lagged { missed: 1 }));
        });
    }

    #[test]
    fn a_receive_that_has_timed_out_is_not_woken_in_place_of_one_that_sleeps() {
        let (inbox, _) = inbox_of_four();
        inbox.sleep(Until { deadline: Some(Instant::now()), ending: None });
        assert_eq!(inbox.parked(), 0);
        assert!(!inbox.asks_after());
    }

    #[test]
    fn a_receive_with_lifecycle_events_pending_sees_the_depth_it_found() {
        type Take = fn(&Inbox<u32>) -> Option<Message<u32>>;
        let takes: [Take; 2] = [take_unlocked, |inbox| inbox.poll().unwrap().into_message()];
        for take in takes {
            let (inbox, _) = inbox_of_four();
            let sender = inbox.sender().unwrap();
            (1..=3).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            tell(&inbox);
            assert_eq!(take(&inbox).unwrap().payload, 1);
            assert_eq!((inbox.depth(), inbox.high_water()), (2, 3));
        }
    }

    #[test]
    fn an_event_told_while_a_message_is_taken_comes_behind_all_that_were_queued() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let taken = take_at(Moment::Counting, &inbox);
        tell(&inbox);
        sender.try_send(Message::new("c", 3)).unwrap();
        let taken = taken.lock().take().unwrap();
        assert_eq!(inbox.reconcile(taken).map(|message| message.payload), Some(1));
        assert_eq!(inbox.poll(), Ok(Message::new("c", 2).into()));
        assert!(matches!(inbox.poll(), Ok(Event::Unsubscribe { .. })));
        assert_eq!(inbox.poll(), Ok(Message::new("c", 3).into()));
    }

    #[test]
    fn a_wait_that_closing_ends_counts_as_one_loss_whatever_its_publisher_does() {
        for is_sending in [false, true] {
            let (inbox, wait) = crowded(false);
            let close = || assert!(inbox.close(CloseReason::Subscriber));
            if !is_sending {
                close();
            }
            let lost = wait.finish(None, |message| {
                close();
                Some(message)
            });
            let lost = lost.map(|(message, counts)| (message.payload, counts));
            assert_eq!((lost, inbox.missed()), (Some((2, true)), 1), "is sending: {is_sending}");
        }
    }

    #[test]
    fn nothing_is_evicted_once_the_end_has_been_read() {
        let (inbox, _) = inbox_of_four();
        let sender = inbox.sender().unwrap();
        inbox.close(CloseReason::Subscriber);
        assert_eq!(inbox.poll(), Err(TryRecvError::Closed));
        // Publishers that were under way.
        (1..=4).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
        let overflowed = inbox.overflow(Message::new("c", 5), 0);
        assert!(matches!(overflowed, Overflowed::Void(message) if message.payload == 5));
        assert_eq!((inbox.missed(), inbox.queue().len()), (0, 4));
        assert_eq!(inbox.poll(), Err(TryRecvError::Closed));
    }

    impl<P> Inbox<P> {
        /// Receivers that sleep.
        fn parked(&self) -> usize {
            self.mailbox.lock().rare.as_ref().map_or(0, |rare| rare.parked.len())
        }
    }
}
