//! A subscriber's inbox: the bounded crossbeam queue, what happens when it is full, the account of what
//! was lost, lifecycle events, and the waking of who waits.
//!
//! Publishers reach an inbox through the `Sender` in their route and touch nothing here while it has
//! room. Receivers read one word, [`Inbox::attention`], before each message; all else is off that path.
//!
//! One lock is taken in this module, the mailbox's. It is the innermost of the engine: whoever holds it
//! takes no other and runs no user code.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, bounded, never, select_biased};

use crate::error::TryRecvError;
use crate::event::{Event, Message};
use crate::limits::Overflow;
use crate::stats::CloseReason;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// Lifecycle events wait in the mailbox.
const EVENTS: u32 = 1;
/// Messages were lost that no `Lagged` has told of.
const LAGGED: u32 = 1 << 1;
/// Nothing is to come any more.
const CLOSED: u32 = 1 << 2;
/// Some receive has returned `Closed`, and so must all that follow.
const ENDED: u32 = 1 << 3;

/// The choices made when a subscriber was built.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) lifecycle_events: bool,
    pub(crate) dedupe: bool,
}

/// See the module's documentation.
pub(crate) struct Inbox<P> {
    /// The number of its member in the registry.
    member: u64,
    queue: Receiver<Message<P>>,
    /// `EVENTS | LAGGED | CLOSED | ENDED`; 0 while a receiver has nothing to do but take messages.
    attention: AtomicU32,
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
    /// Messages taken or evicted while `events` was not empty: what `Pending::due` counts in.
    passed: u64,
    /// Messages that left the queue before the `Subscribe` they follow was seen.
    aside: VecDeque<Message<P>>,
    /// Wakes receivers that wait; made when one first does. Dropping the sender wakes all of them.
    bell: Option<(Sender<()>, Receiver<()>)>,
    /// Publishers that wait for room, each with the subscription it serves.
    waiting: Vec<Waiting>,
}

impl<P> Default for Rare<P> {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            passed: 0,
            aside: VecDeque::new(),
            bell: None,
            waiting: Vec::new(),
        }
    }
}

struct Pending {
    event: Lifecycle,
    /// The event is due when so many messages have passed, or none is queued.
    due: u64,
}

struct Waiting {
    subscription: u64,
    /// Dropped to end the wait. Nothing is sent.
    _cancel: Sender<()>,
    /// Tells the waits apart.
    cancelled: Receiver<()>,
}

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

/// What became of a message that found the inbox full.
pub(crate) enum Overflowed<P> {
    /// It entered after all; so many older ones were evicted.
    Entered { evicted: u64 },
    /// It was refused.
    Refused(Message<P>),
    /// It was refused, and its subscriber is closed for it: the caller must unsubscribe it.
    Disconnected(Message<P>),
    /// It must wait, outside the turn.
    Wait(Wait<P>),
}

/// A message that waits for room in an inbox.
///
/// Dropped unfinished (by unwinding), it counts as refused.
pub(crate) struct Wait<P> {
    inbox: Arc<Inbox<P>>,
    to: Sender<Message<P>>,
    message: Option<Message<P>>,
    timeout: Option<Duration>,
    cancelled: Receiver<()>,
}

/// How a waiting receive is ended from outside.
pub(crate) struct Until<'a> {
    /// `None` is without end.
    pub(crate) deadline: Option<Instant>,
    /// Readable, or disconnected, when the receive is to give up.
    pub(crate) stop: Option<&'a Receiver<()>>,
}

impl<P> Inbox<P> {
    pub(crate) fn new(member: u64, settings: Settings) -> Self {
        let (sender, queue) = bounded(settings.capacity);
        Self {
            member,
            queue,
            attention: AtomicU32::new(0),
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

    #[inline]
    fn sample_depth(&self) {
        let depth = self.queue.len();
        // Relaxed: a mere statistic. The load spares the write, which is rare.
        if depth > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(depth, Ordering::Relaxed);
        }
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
        // Release: whoever reads the bit sees what was sent before the close. Under the lock, so that
        // a receiver about to wait sees it or is woken.
        self.attention.fetch_or(CLOSED, Ordering::Release);
        if let Some(rare) = &mut mailbox.rare {
            rare.bell = None;
            rare.waiting = Vec::new();
        }
        true
    }

    // ---- publishing to a full inbox ------------------------------------------------------------

    /// Applies the policy to `message`, which `to` has just refused as full. Runs in the turn: it waits
    /// for nobody and drops no payload; evicted ones go to `evicted`.
    #[cold]
    pub(crate) fn overflow(
        self: &Arc<Self>,
        to: &Sender<Message<P>>,
        mut message: Message<P>,
        subscription: u64,
        evicted: &mut Vec<Message<P>>,
    ) -> Overflowed<P> {
        self.sample_depth();
        match self.settings.overflow {
            Overflow::DropOldest => {
                let mut count = 0;
                loop {
                    if let Some(oldest) = self.evict() {
                        evicted.push(oldest);
                        count += 1;
                    }
                    // A send with a deadline that is over, and not `try_send`, whose one call site is
                    // in the fan-out: a second one would keep the compiler from inlining it there.
                    match to.send_deadline(message, over()) {
                        Ok(()) => break,
                        Err(error) if error.is_disconnected() => {
                            self.lose(&self.evicted, count);
                            self.lose(&self.refused, 1);
                            return Overflowed::Refused(error.into_inner());
                        }
                        Err(error) => message = error.into_inner(),
                    }
                }
                self.lose(&self.evicted, count);
                Overflowed::Entered { evicted: count }
            }
            Overflow::DropNewest => {
                self.lose(&self.refused, 1);
                Overflowed::Refused(message)
            }
            Overflow::Disconnect => {
                self.lose(&self.refused, 1);
                self.close(CloseReason::Overflow);
                Overflowed::Disconnected(message)
            }
            Overflow::Block { timeout } => {
                let mut mailbox = self.mailbox.lock();
                if mailbox.close_reason.is_some() {
                    drop(mailbox);
                    self.lose(&self.refused, 1);
                    return Overflowed::Refused(message);
                }
                // Entered in the turn: whoever takes the subscription out of the route after this
                // finds the wait and ends it.
                let (cancel, cancelled) = bounded(0);
                let rare = mailbox.rare.get_or_insert_default();
                rare.waiting.push(Waiting {
                    subscription,
                    _cancel: cancel,
                    cancelled: cancelled.clone(),
                });
                Overflowed::Wait(Wait {
                    inbox: Arc::clone(self),
                    to: to.clone(),
                    message: Some(message),
                    timeout,
                    cancelled,
                })
            }
        }
    }

    /// Counts a message that did not enter after all.
    fn refuse(&self) {
        self.lose(&self.refused, 1);
    }

    fn evict(&self) -> Option<Message<P>> {
        // Acquire: with the mailbox's lock below; a stale 0 is a message that no pending event counts.
        if self.attention.load(Ordering::Acquire) & EVENTS == 0 {
            return self.queue.recv_deadline(over()).ok();
        }
        let mut mailbox = self.mailbox.lock();
        let oldest = self.queue.recv_deadline(over()).ok()?;
        self.passed_one(&mut mailbox);
        Some(oldest)
    }

    fn lose(&self, counter: &AtomicU64, messages: u64) {
        if messages == 0 {
            return;
        }
        // Relaxed: read as sums at rest.
        counter.fetch_add(messages, Ordering::Relaxed);
        self.unreported.fetch_add(messages, Ordering::Relaxed);
        // Release: partner of the Acquire in `poll`; a receiver that sees the bit sees the count.
        if self.attention.fetch_or(LAGGED, Ordering::Release) & LAGGED == 0 {
            Self::ring(&mut self.mailbox.lock());
        }
    }

    /// Ends the waits of publishers for `subscription`, as refused.
    pub(crate) fn cancel_waits(&self, subscription: u64) {
        if let Some(rare) = &mut self.mailbox.lock().rare {
            rare.waiting.retain(|waiting| waiting.subscription != subscription);
        }
    }

    fn forget_wait(&self, cancelled: &Receiver<()>) {
        if let Some(rare) = &mut self.mailbox.lock().rare {
            rare.waiting.retain(|waiting| !waiting.cancelled.same_channel(cancelled));
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
        let due = match event.kind {
            Kind::Subscribe | Kind::PSubscribe => {
                // It is due at once, and the order of calls holds: so is all that precedes it.
                for pending in &mut rare.events {
                    pending.due = 0;
                }
                0
            }
            Kind::Unsubscribe | Kind::PUnsubscribe => {
                rare.passed + (self.queue.len() + rare.aside.len()) as u64
            }
        };
        rare.events.push_back(Pending { event, due });
        // Release: partner of the Acquire in `poll`. The events themselves are under the lock.
        self.attention.fetch_or(EVENTS, Ordering::Release);
        Self::ring(&mut mailbox);
    }

    fn ring(mailbox: &mut Mailbox<P>) {
        if let Some((bell, _)) = mailbox.rare.as_ref().and_then(|rare| rare.bell.as_ref()) {
            // Full means that a call is on its way already.
            let _ = bell.try_send(());
        }
    }

    /// Counts a message that left the queue while events were pending, and wakes a receiver that
    /// sleeps through what has become due by it.
    fn passed_one(&self, mailbox: &mut Mailbox<P>) {
        let Some(rare) = &mut mailbox.rare else { return };
        if let Some(first) = rare.events.front() {
            rare.passed += 1;
            if first.due <= rare.passed || self.queue.is_empty() {
                Self::ring(mailbox);
            }
        }
    }

    // ---- receiving -----------------------------------------------------------------------------

    /// What is there to be read, in the order: losses, lifecycle events that are due, a message.
    #[inline(never)]
    pub(crate) fn poll(&self) -> Result<Event<P>, TryRecvError> {
        loop {
            // Held across the take where events wait for messages to pass: neither may overtake.
            let mut mailbox = None;
            // Acquire: partner of the Releases in `lose`, `tell` and `close`.
            let attention = self.attention.load(Ordering::Acquire);
            if attention != 0 {
                match self.attend(attention) {
                    Attended::Yield(event) => return Ok(event),
                    Attended::Ended => return Err(TryRecvError::Closed),
                    Attended::Take(guard) => mailbox = guard,
                }
            }
            // The one call site of `try_recv`: with a second one the compiler would not inline it.
            match self.queue.try_recv() {
                Ok(message) => {
                    if let Some(mut mailbox) = mailbox {
                        self.passed_one(&mut mailbox);
                        return Ok(message.into());
                    }
                    if let Some(event) = self.taken(message) {
                        return Ok(event);
                    }
                }
                // Another reader took what events were waiting for: now they are due.
                Err(_) if mailbox.is_some() => {}
                Err(_) if attention & CLOSED != 0 => {
                    // Relaxed: the bit alone is what the next receive reads.
                    self.attention.fetch_or(ENDED, Ordering::Relaxed);
                    return Err(TryRecvError::Closed);
                }
                Err(_) => return Err(TryRecvError::Empty),
            }
        }
    }

    /// Dresses a message that has just left the queue; `None` where an event must come first.
    #[inline]
    fn taken(&self, message: Message<P>) -> Option<Event<P>> {
        let depth = self.queue.len() + 1;
        // Relaxed: a mere statistic.
        if depth > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(depth, Ordering::Relaxed);
        }
        // Acquire: partner of the Release in `tell`. A subscription is told of before the first message
        // it can bring is sent, so whoever took that message sees the bit.
        if self.attention.load(Ordering::Acquire) & EVENTS != 0 {
            return self.reconcile(message).map(Event::from);
        }
        Some(message.into())
    }

    /// Sets `message` aside where the `Subscribe` that it follows has been told of since this receive
    /// looked.
    #[cold]
    fn reconcile(&self, message: Message<P>) -> Option<Message<P>> {
        let mut mailbox = self.mailbox.lock();
        let Some(rare) = &mut mailbox.rare else { return Some(message) };
        if rare.events.iter().any(|pending| pending.event.announces(&message)) {
            rare.aside.push_back(message);
            return None;
        }
        self.passed_one(&mut mailbox);
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
        let due = |pending: &Pending, passed| pending.due <= passed || none_queued;
        let event = if rare.events.front().is_some_and(|first| due(first, rare.passed)) {
            let event = rare.events.pop_front().map(|pending| pending.event.into());
            if rare.events.front().is_some_and(|next| due(next, rare.passed)) {
                // For another clone that waits: this one's caller may be long.
                Self::ring(&mut mailbox);
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
    pub(crate) fn wait(&self, until: &Until<'_>) -> Result<Event<P>, Waited> {
        let silent = never();
        let stop = until.stop.unwrap_or(&silent);
        loop {
            if !stop.is_empty() {
                return Err(Waited::Stopped);
            }
            match self.poll() {
                Ok(event) => return Ok(event),
                Err(TryRecvError::Closed) => return Err(Waited::Closed),
                Err(TryRecvError::Empty) => {}
            }
            let bell = {
                let mut mailbox = self.mailbox.lock();
                // Under the lock: what is told after this look rings the bell that is taken here.
                if self.attention.load(Ordering::Acquire) != 0 {
                    continue;
                }
                let rare = mailbox.rare.get_or_insert_default();
                rare.bell.get_or_insert_with(|| bounded(1)).1.clone()
            };
            let left = until.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let message = match left {
                None => select_biased! {
                    recv(stop) -> _ => return Err(Waited::Stopped),
                    recv(bell) -> _ => None,
                    recv(self.queue) -> message => message.ok(),
                },
                Some(Duration::ZERO) => return Err(Waited::TimedOut),
                Some(left) => select_biased! {
                    recv(stop) -> _ => return Err(Waited::Stopped),
                    recv(bell) -> _ => None,
                    recv(self.queue) -> message => message.ok(),
                    default(left) => None,
                },
            };
            if let Some(event) = message.and_then(|message| self.taken(message)) {
                return Ok(event);
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

    /// Waits for room until `deadline`, without end where there is none; whether the message entered.
    pub(crate) fn finish(mut self, deadline: Option<Instant>) -> bool {
        let Some(message) = self.message.take() else { return false };
        let mut select = Select::new();
        let cancelled = select.recv(&self.cancelled);
        select.send(&self.to);
        let ready = match deadline {
            Some(deadline) => select.select_deadline(deadline).ok(),
            None => Some(select.select()),
        };
        let left = match ready {
            None => Some(message),
            Some(operation) if operation.index() == cancelled => {
                let _ = operation.recv(&self.cancelled);
                Some(message)
            }
            Some(operation) => operation.send(&self.to, message).err().map(|error| error.0),
        };
        if left.is_none() {
            self.inbox.add_entered(1);
        }
        // Put back where it was not sent: dropping the wait counts it, then it is dropped itself.
        self.message = left;
        self.message.is_none()
    }
}

impl<P> Drop for Wait<P> {
    fn drop(&mut self) {
        if self.message.is_some() {
            self.inbox.refuse();
        }
        self.inbox.forget_wait(&self.cancelled);
    }
}

/// A deadline that is over: for sends and takes that do not wait.
fn over() -> Instant {
    static OVER: LazyLock<Instant> = LazyLock::new(Instant::now);
    *OVER
}
