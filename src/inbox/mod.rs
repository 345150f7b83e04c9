//! A subscriber's inbox: the bounded crossbeam queue, what happens when it is full, the account of what
//! was lost, lifecycle events, and the waking of who waits.
//!
//! Publishers reach an inbox through the `Sender` in their route, and while it has room they only read
//! one word here, [`Inbox::attention`], to see whether a receiver sleeps. Receivers read the same word
//! before and after each message, and look now and then how full the queue is; all else is off that path.
//!
//! One lock is taken in this module, the mailbox's. It is the innermost of the engine: whoever holds it
//! takes no other and runs no user code.

mod waiter;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_utils::Backoff;

use crate::error::TryRecvError;
use crate::event::{Event, Message};
use crate::limits::Overflow;
use crate::prefetch::prefetch;
use crate::stats::CloseReason;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};
use waiter::{Waiter, park};

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
pub(crate) struct Inbox<P> {
    /// The number of its member in the registry.
    member: u64,
    queue: Receiver<Message<P>>,
    /// The bits above; 0 while publishers have nothing to do but send, and receivers but to take.
    attention: AtomicU32,
    /// So many receives need not look how many messages there are.
    spared: AtomicU32,
    settings: Settings,
    /// Messages that made room for newer ones.
    evicted: AtomicU64,
    /// Messages that did not enter.
    refused: AtomicU64,
    /// Messages lost since the last `Lagged`.
    unreported: AtomicU64,
    /// Messages that entered, as far as no route counts them: those of subscriptions given up, and
    /// those that waited in `Block`.
    entered: AtomicU64,
    high_water: AtomicUsize,
    mailbox: Mutex<Mailbox<P>>,
}

/// What is rarely there: made when first used, so that an idle inbox does not pay for it.
struct Mailbox<P> {
    /// What new subscriptions send to; gone when closed, so that `receiver()` sees the end.
    sender: Option<Sender<Message<P>>>,
    close_reason: Option<CloseReason>,
    rare: Option<Box<Rare<P>>>,
}

struct Rare<P> {
    /// In the order of the calls that caused them.
    events: VecDeque<Pending>,
    /// How many of them, from the first, are due whatever they say: up to the last `Subscribe`.
    at_once: usize,
    /// Messages taken or evicted while `events` was not empty: what `Pending::due` counts in.
    passed: u64,
    /// Messages that left the queue before the `Subscribe` they follow was seen.
    aside: VecDeque<Message<P>>,
    /// Receivers that sleep, the first to be woken first. `PARKED` is set while there are any.
    parked: VecDeque<Arc<Waiter>>,
    /// Publishers that wait for room. `CROWDED` is set while there are any.
    waiting: Vec<Waiting>,
}

impl<P> Default for Rare<P> {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            at_once: 0,
            passed: 0,
            aside: VecDeque::new(),
            parked: VecDeque::new(),
            waiting: Vec::new(),
        }
    }
}

impl<P> Rare<P> {
    /// Whether there is an event that is due though messages are queued.
    fn is_first_due(&self) -> bool {
        self.events.front().is_some_and(|first| self.at_once > 0 || first.due <= self.passed)
    }
}

struct Pending {
    event: Lifecycle,
    /// The event is due when so many messages have passed, or none is queued.
    due: u64,
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
    kind: Kind,
    name: Arc<str>,
    count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Subscribe,
    Unsubscribe,
    PSubscribe,
    PUnsubscribe,
}

impl<P> From<Lifecycle> for Event<P> {
    fn from(Lifecycle { kind, name, count }: Lifecycle) -> Self {
        match kind {
            Kind::Subscribe => Self::Subscribe { channel: name, count },
            Kind::Unsubscribe => Self::Unsubscribe { channel: name, count },
            Kind::PSubscribe => Self::PSubscribe { pattern: name, count },
            Kind::PUnsubscribe => Self::PUnsubscribe { pattern: name, count },
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
    /// Set, and then the thread unparked, when the receive is to give up.
    pub(crate) stop: Option<&'a AtomicBool>,
}

impl<P> Inbox<P> {
    pub(crate) fn new(member: u64, settings: Settings) -> Self {
        let (sender, queue) = bounded(settings.capacity);
        Self {
            member,
            queue,
            attention: AtomicU32::new(0),
            spared: AtomicU32::new(0),
            settings,
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            high_water: AtomicUsize::new(0),
            mailbox: Mutex::new(Mailbox { sender: Some(sender), close_reason: None, rare: None }),
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
        if let Some(rare) = &mut mailbox.rare {
            // Before the bit: what is lost by this is told of before the end.
            self.cancel(rare, |_| true);
        }
        // Release: whoever reads the bit sees what was sent before the close. Under the lock, so that
        // a receiver about to sleep sees it or is woken.
        self.attention.fetch_or(CLOSED, Ordering::Release);
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
                let evicted = self.take(true).ok().and_then(Event::into_message);
                if evicted.is_some() {
                    if self.attention.load(Ordering::Relaxed) & EVENTS != 0 {
                        self.passed_one(&mut mailbox);
                    }
                    let before = self.count_lost(&self.evicted);
                    if before & LAGGED == 0
                        && let Some(rare) = &mut mailbox.rare
                    {
                        self.wake_next(rare);
                    }
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

    /// Counts a lost message, unless its end has been read and nobody can be told of it.
    fn lose(&self, counter: &AtomicU64) -> bool {
        if self.attention.load(Ordering::Acquire) & CLOSED != 0 {
            // Under the lock, as in `end`: this comes before the end and is told of, or it is not counted.
            let _mailbox = self.mailbox.lock();
            if self.attention.load(Ordering::Relaxed) & ENDED != 0 {
                return false;
            }
            self.count_lost(counter);
            return true;
        }
        let before = self.count_lost(counter);
        if before & ENDED != 0 {
            // It was closed and read to its end in this very moment.
            // Relaxed, both: as in `count_lost`.
            counter.fetch_sub(1, Ordering::Relaxed);
            self.unreported.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if before & LAGGED == 0 {
            self.wake_one();
        }
        true
    }

    /// Counts a lost message; the bits of `attention` before that come back.
    fn count_lost(&self, counter: &AtomicU64) -> u32 {
        // Relaxed, both: read as sums at rest, and made visible by the bit below.
        counter.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
        // Release: partner of the Acquire in `take`; a receiver that sees the bit sees the count. One word
        // with `ENDED`: either this comes first, and there is a `Lagged` before the end, or that.
        self.attention.fetch_or(LAGGED, Ordering::AcqRel)
    }

    /// Ends the waits of publishers for `subscription`, as refused.
    pub(crate) fn cancel_waits(&self, subscription: u64) {
        if let Some(rare) = &mut self.mailbox.lock().rare {
            self.cancel(rare, |waiting| waiting.subscription == subscription);
        }
    }

    fn cancel(&self, rare: &mut Rare<P>, which: impl Fn(&Waiting) -> bool) {
        let mut lost = false;
        rare.waiting.retain(|waiting| {
            let cancel = which(waiting);
            if cancel {
                // AcqRel: partner of the operations in `Wait::finish`.
                if waiting.state.fetch_or(CANCELLED, Ordering::AcqRel) & SENDING == 0 {
                    self.count_lost(&self.refused);
                    lost = true;
                }
                waiting.publisher.unpark();
            }
            !cancel
        });
        self.uncrowd(rare);
        if lost {
            self.wake_next(rare);
        }
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

    /// Queues an event, unless the subscriber asked for none.
    pub(crate) fn tell(&self, kind: Kind, name: &Arc<str>, count: usize) {
        if !self.settings.lifecycle_events {
            return;
        }
        let event = Lifecycle { kind, name: Arc::clone(name), count };
        let mut mailbox = self.mailbox.lock();
        let rare = mailbox.rare.get_or_insert_default();
        let subscribes = matches!(event.kind, Kind::Subscribe | Kind::PSubscribe);
        let due = rare.passed + (self.queue.len() + rare.aside.len()) as u64;
        rare.events.push_back(Pending { event, due });
        if subscribes {
            // It is due at once, and the order of calls holds: so is all that precedes it.
            rare.at_once = rare.events.len();
        }
        // Release: partner of the Acquire in `take`. The events themselves are under the lock.
        self.attention.fetch_or(EVENTS, Ordering::Release);
        self.wake_next(rare);
    }

    /// Counts a message that left the queue while events were pending, and wakes a receiver that
    /// sleeps through what has become due by it.
    fn passed_one(&self, mailbox: &mut Mailbox<P>) {
        let Some(rare) = &mut mailbox.rare else { return };
        if !rare.events.is_empty() {
            rare.passed += 1;
            if rare.is_first_due() || self.queue.is_empty() {
                self.wake_next(rare);
            }
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
        // SeqCst: partner of the store in `sleep`. This one has sent (crossbeam moves the tail by a
        // SeqCst exchange) and then reads here; the other writes here and then looks at the queue: one
        // of them must see the other. The same holds for closing.
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
                return self.take(true).ok().and_then(Event::into_message);
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
        if self.attention.load(Ordering::Acquire) & FIRST != 0 {
            return Glance::More;
        }
        // Relaxed, all: a mere statistic. Once it has been full, there is nothing left to be seen. Nor does every receive
        // look, since that asks a processor that publishes for what it writes: those in between take out, together, an
        // eighth of the largest depth at most, so that no more of it is overlooked.
        let high_water = self.high_water.load(Ordering::Relaxed);
        if high_water < self.settings.capacity {
            let spared = self.spared.load(Ordering::Relaxed);
            if spared > 0 {
                self.spared.store(spared - 1, Ordering::Relaxed);
            } else {
                let depth = self.queue.len();
                if depth == 0 {
                    return Glance::Nothing;
                }
                self.sample(depth);
                self.spared.store((high_water / 8) as u32, Ordering::Relaxed);
            }
        }
        // Taken apart at once, so that it stays in registers; no call comes between.
        let Ok(Message { payload, source }) = self.queue.try_recv() else {
            return Glance::Nothing;
        };
        // SeqCst: as in `take` and in `made_room`.
        if self.attention.load(Ordering::SeqCst) & (EVENTS | CROWDED) != 0 {
            return match self.attended(Message { payload, source }) {
                Some(message) => Glance::Message(message),
                None => Glance::More,
            };
        }
        Glance::Message(Message { payload, source })
    }

    /// Goes on with a message that was taken while events were told, or publishers wait for room. It is gone where it is
    /// set aside.
    #[cold]
    fn attended(&self, message: Message<P>) -> Option<Message<P>> {
        if self.attention.load(Ordering::SeqCst) & EVENTS != 0 {
            return self.reconcile(message);
        }
        self.made_room();
        Some(message)
    }

    /// What there is beside messages that may come first, or a message after all.
    #[cold]
    pub(crate) fn more(&self) -> Result<Event<P>, TryRecvError> {
        self.take(false)
    }

    /// What is there to be read; where `evicting`, the oldest message and nothing else, and the mailbox is
    /// locked by the caller.
    fn take(&self, evicting: bool) -> Result<Event<P>, TryRecvError> {
        loop {
            // Held across the take where events wait for messages to pass: neither may overtake.
            let mut mailbox = None;
            // Acquire: partner of the Releases in `lose`, `tell` and `close`.
            let attention = self.attention.load(Ordering::Acquire);
            if attention & FIRST != 0 && !evicting {
                match self.attend(attention) {
                    Attended::Yield(event) => return Ok(event),
                    Attended::Ended => return Err(TryRecvError::Closed),
                    Attended::Take(guard) => mailbox = guard,
                }
            }
            match self.queue.try_recv() {
                Ok(message) => {
                    if evicting {
                        return Ok(message.into());
                    }
                    if let Some(mut mailbox) = mailbox {
                        self.passed_one(&mut mailbox);
                    } else if self.attention.load(Ordering::SeqCst) & EVENTS != 0 {
                        // A subscription is told of before the first message that it can bring is sent,
                        // so whoever took that message sees the bit.
                        match self.reconcile(message) {
                            Some(message) => return Ok(message.into()),
                            None => continue,
                        }
                    }
                    self.taken();
                    return Ok(message.into());
                }
                // Another reader took what events were waiting for: now they are due.
                Err(_) if mailbox.is_some() => {}
                Err(_) if attention & CLOSED != 0 && !evicting => {
                    if self.end() {
                        return Err(TryRecvError::Closed);
                    }
                }
                Err(_) => return Err(TryRecvError::Empty),
            }
        }
    }

    /// Marks that the end has been read, unless there is something to read after all.
    #[cold]
    fn end(&self) -> bool {
        // Under the lock, as in `sent`.
        let _mailbox = self.mailbox.lock();
        let last = |attention| (attention & (LAGGED | EVENTS) == 0).then_some(attention | ENDED);
        // AcqRel: see `lose`.
        self.queue.is_empty()
            && self.attention.fetch_update(Ordering::AcqRel, Ordering::Acquire, last).is_ok()
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
        // SeqCst: partner of the store in `overflow`; crossbeam moves the head by a SeqCst exchange.
        if self.attention.load(Ordering::SeqCst) & CROWDED != 0 {
            self.make_way();
        }
    }

    /// Sets `message` aside where the `Subscribe` that it follows has been told of since this receive
    /// looked.
    #[cold]
    fn reconcile(&self, message: Message<P>) -> Option<Message<P>> {
        let mut mailbox = self.mailbox.lock();
        let Some(rare) = &mut mailbox.rare else { return Some(message) };
        if rare.events.iter().any(|pending| pending.event.announces(&message)) {
            rare.aside.push_back(message);
            drop(mailbox);
            self.taken();
            return None;
        }
        // Whether an event that has come meanwhile counts on this message cannot be told. It is not
        // counted: such an event comes one message later, never one too early. But where nothing is queued any more
        // it is due, and whoever sleeps is to read it.
        if !rare.events.is_empty() && (rare.is_first_due() || self.queue.is_empty()) {
            self.wake_next(rare);
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
        let Some(rare) = &mut mailbox.rare else { return Attended::Take(None) };
        let none_queued = self.queue.is_empty() && rare.aside.is_empty();
        let is_due = |rare: &Rare<P>| rare.is_first_due() || none_queued && !rare.events.is_empty();
        let event = if is_due(rare) {
            let event = rare.events.pop_front().map(|pending| pending.event.into());
            rare.at_once = rare.at_once.saturating_sub(1);
            if is_due(rare) {
                // For another clone that sleeps: this one's caller may be long.
                self.wake_next(rare);
            }
            event
        } else if let Some(message) = rare.aside.pop_front() {
            self.passed_one(&mut mailbox);
            Some(message.into())
        } else {
            None
        };
        if let Some(rare) = &mut mailbox.rare
            && rare.events.is_empty()
            && rare.aside.is_empty()
        {
            // The room is given back: most subscribers see a few events and then none.
            rare.events = VecDeque::new();
            rare.aside = VecDeque::new();
            rare.passed = 0;
            // Relaxed: set and cleared under the lock.
            self.attention.fetch_and(!EVENTS, Ordering::Relaxed);
        }
        match event {
            Some(event) => Attended::Yield(event),
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
                Err(TryRecvError::Empty) => {}
            }
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
        while self.has_nothing() && !waiter.is_woken() && !until.is_stopped() && !until.is_over() {
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
    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire: what was done before stopping is seen by who was stopped.
        self.stop.is_some_and(|stop| stop.load(Ordering::Acquire))
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl Lifecycle {
    /// Whether this is the `Subscribe` that `message` must not precede.
    fn announces<P>(&self, message: &Message<P>) -> bool {
        match self.kind {
            Kind::Subscribe => message.pattern().is_none() && message.channel() == &*self.name,
            Kind::PSubscribe => message.pattern() == Some(&*self.name),
            Kind::Unsubscribe | Kind::PUnsubscribe => false,
        }
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
    use super::*;

    #[test]
    fn an_event_that_falls_due_by_a_receive_that_looked_before_it_wakes_a_sleeper() {
        let settings = Settings {
            label: None,
            capacity: 4,
            overflow: Overflow::DropOldest,
            lifecycle_events: true,
            dedupe: false,
        };
        let inbox = Inbox::<u32>::new(0, settings);
        let sender = inbox.sender().unwrap();
        let wait = || {
            let (started, patience) = (Instant::now(), Duration::from_secs(20));
            let until = Until { deadline: Some(started + patience), stop: None };
            // At its deadline it would find the event by itself.
            inbox.wait(until).ok().filter(|_| started.elapsed() < patience)
        };
        thread::scope(|scope| {
            let sleepers = [1, 2].map(|count| {
                let sleeper = scope.spawn(wait);
                let parked =
                    || inbox.mailbox.lock().rare.as_ref().map_or(0, |rare| rare.parked.len());
                while parked() < count {
                    thread::yield_now();
                }
                sleeper
            });
            // Two messages, of which nobody is told; then an event, of which the first sleeper is.
            (1..=2).for_each(|n| sender.try_send(Message::new("c", n)).unwrap());
            inbox.tell(Kind::Unsubscribe, &Arc::from("c"), 0);
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
}
