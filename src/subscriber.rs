//! The receiving side: [`Subscriber`], its builder, and its iterators.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::engine::{Engine, check_capacity};
use crate::error::{RecvError, RecvTimeoutError, SubscribeError, TryRecvError};
use crate::event::{Event, Message};
use crate::inbox::{FastRecv, Settings, StopSignal, WaitError, WaitLimit};
use crate::limits::Overflow;
use crate::listener::Listener;
use crate::member::Member;
use crate::pattern::Pattern;
use crate::stats::{CloseReason, SubscriberInfo};
use crate::trie::{Channel, PatternEntry};

/// The receiving side of a bus: a set of channels and patterns that feed one inbox.
///
/// Clones share the inbox and compete for what it holds, each message and each lifecycle event going to
/// one of them: a worker group. [`resubscribe`](Self::resubscribe) makes one with an inbox of its own.
///
/// A subscriber can be changed while another thread receives from it. It does not keep the bus open.
/// When its last clone is dropped it is unsubscribed everywhere.
///
/// # What a receive yields
///
/// In this order: [`Event::Lagged`] if messages were lost, lifecycle events that are due, a message,
/// and `Closed` when it is closed and drained. It waits also while nothing is subscribed.
///
/// A lifecycle event stands among the messages where its call stood: behind all that were queued then, and before all
/// that are published later. A call that overlaps a receive on another thread may fall on either side of that one message;
/// but every message comes after the `Subscribe` of its subscription, and before its `Unsubscribe` (unless its publish
/// overlapped the unsubscribing). This is a promise to a single reader: clones each see a part of the stream.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Event};
///
/// let bus: Bus = Bus::new();
/// let sub = bus.subscriber();
/// assert_eq!(sub.subscribe("game:7:events")?, 1);
/// bus.publish("game:7:events", "start");
///
/// assert!(matches!(sub.recv()?, Event::Subscribe { count: 1, .. }));
/// let event = sub.recv()?;
/// assert_eq!(&*event.message().unwrap().payload, "start");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a subscriber is unsubscribed when it is dropped"]
pub struct Subscriber<P = Arc<str>> {
    member: Arc<Member<P>>,
}

impl<P: Clone + Send + 'static> Subscriber<P> {
    // ---- subscribing ---------------------------------------------------------------------------

    /// Subscribes to `channel`, and tells how many channels and patterns are held now.
    ///
    /// The subscription is live when this returns. Subscribing again to a channel that is held changes
    /// nothing and repeats the [`Event::Subscribe`].
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] where the subscriber or the bus is closed, or past a limit; nothing has
    /// changed then.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Constant, however many subscribers the channel and the bus have.
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<usize, SubscribeError> {
        self.member.subscribe::<Channel<P>>(&[channel.as_ref()])
    }

    /// Subscribes to all channels that match `pattern`, and tells how many channels and patterns are
    /// held now. A string is a Redis glob.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the pattern's length, however many patterns the bus has.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(&self, pattern: impl Into<Pattern>) -> Result<usize, SubscribeError> {
        self.member.subscribe::<PatternEntry<P>>(&[pattern.into()])
    }

    /// Subscribes to all of `channels`, in their order, or to none of them.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe_many<C: AsRef<str>>(
        &self,
        channels: impl IntoIterator<Item = C>,
    ) -> Result<usize, SubscribeError> {
        let channels: Vec<C> = channels.into_iter().collect();
        let names: Vec<&str> = channels.iter().map(AsRef::as_ref).collect();
        self.member.subscribe::<Channel<P>>(&names)
    }

    /// Subscribes to all of `patterns`, in their order, or to none of them.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe_many<T: Into<Pattern>>(
        &self,
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<usize, SubscribeError> {
        let patterns: Vec<Pattern> = patterns.into_iter().map(Into::into).collect();
        self.member.subscribe::<PatternEntry<P>>(&patterns)
    }

    /// Unsubscribes from `channel`, and tells how many channels and patterns are still held; 0 where it
    /// is closed.
    ///
    /// A publish that begins after this has returned does not reach the subscriber. Messages queued
    /// before stay, and precede the [`Event::Unsubscribe`]. As with Redis, there is such an event for a channel
    /// that is not held, too, with the count as before.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Logarithmic in the channel's subscribers.
    #[doc(alias = "UNSUBSCRIBE")]
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> usize {
        self.member.unsubscribe::<Channel<P>>(channel.as_ref())
    }

    /// Unsubscribes from `pattern`, and tells how many channels and patterns are still held; 0 where it
    /// is closed.
    ///
    /// A string is the Redis glob of that text. To end the subscription of a shell glob, pass that:
    /// [`Pattern::glob`] again, or the `Pattern` from [`patterns`](Self::patterns).
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PUNSUBSCRIBE")]
    pub fn punsubscribe(&self, pattern: impl Into<Pattern>) -> usize {
        self.member.unsubscribe::<PatternEntry<P>>(&pattern.into())
    }

    /// Unsubscribes from all channels, in the order they were subscribed, and tells how many patterns
    /// are still held.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "UNSUBSCRIBE")]
    pub fn unsubscribe_all(&self) -> usize {
        self.member.unsubscribe_all::<Channel<P>>()
    }

    /// Unsubscribes from all patterns, in the order they were subscribed, and tells how many channels
    /// are still held.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PUNSUBSCRIBE")]
    pub fn punsubscribe_all(&self) -> usize {
        self.member.unsubscribe_all::<PatternEntry<P>>()
    }

    /// A subscriber with the same settings and subscriptions and an inbox of its own, empty.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe). One without subscriptions on an open bus has none.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    pub fn resubscribe(&self) -> Result<Self, SubscribeError> {
        if self.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let settings = self.member.inbox.settings().clone();
        let other = Self { member: Member::new(&self.member.engine, settings) };
        other.subscribe_many(self.channels())?;
        other.psubscribe_many(self.patterns())?;
        Ok(other)
    }

    /// Closes the subscriber, for all its clones: it is unsubscribed everywhere without further events,
    /// drains what it holds, and then yields `Closed`.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "RESET")]
    #[doc(alias = "QUIT")]
    pub fn close(&self) {
        self.member.engine.check_reentrancy();
        self.member.close(CloseReason::Subscriber);
    }

    /// Hands every event to `handler`, on a thread of its own called `name`.
    ///
    /// The thread owns a clone of the subscriber, so that it goes on when this one is dropped, until it
    /// is stopped, or the subscriber or the bus is closed. The handler runs under no lock and may
    /// publish, subscribe, unsubscribe and close; to publish, let it own a
    /// [`WeakBus`](crate::WeakBus), else it keeps the bus open. A handler that panics ends its thread.
    ///
    /// # Panics
    ///
    /// If the operating system refuses a thread, or `name` has a NUL byte.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    ///
    /// let bus: Bus = Bus::new();
    /// let (seen, log) = std::sync::mpsc::channel();
    /// let listener = bus.subscribe("orders")?.spawn("orders", move |event| {
    ///     if let Some(message) = event.into_message() {
    ///         seen.send(message.payload).unwrap();
    ///     }
    /// });
    /// bus.publish("orders", "buy");
    /// assert_eq!(&*log.recv()?, "buy");
    /// bus.close();
    /// listener.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "run_in_thread")]
    pub fn spawn(
        &self,
        name: impl Into<String>,
        handler: impl FnMut(Event<P>) + Send + 'static,
    ) -> Listener {
        let subscriber = self.clone();
        let receive = move |ending: &StopSignal| subscriber.recv_until(ending);
        Listener::spawn(name.into(), receive, handler, self.unsubscriber())
    }
}

impl<P> Subscriber<P> {
    // ---- receiving -----------------------------------------------------------------------------

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] when it is closed and drained.
    #[inline]
    pub fn recv(&self) -> Result<Event<P>, RecvError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message.into());
        }
        // With no deadline, closing is all that ends the wait.
        self.wait(None).map_err(|_| RecvError::Closed)
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none; [`TryRecvError::Closed`] when it is closed and drained.
    #[inline]
    pub fn try_recv(&self) -> Result<Event<P>, TryRecvError> {
        self.member.inbox.try_recv()
    }

    /// Waits for the next event, at most for `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] after `timeout`, not earlier; [`RecvTimeoutError::Closed`] when it
    /// is closed and drained.
    #[inline]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event<P>, RecvTimeoutError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message.into());
        }
        self.wait(deadline_after(timeout))
    }

    /// Waits for the next event, at most until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Event<P>, RecvTimeoutError> {
        self.wait(Some(deadline))
    }

    /// Waits for the next message; other events are skipped.
    ///
    /// What was lost is told by [`missed`](Self::missed).
    ///
    /// # Errors
    ///
    /// [`RecvError::Closed`] when it is closed and drained.
    #[doc(alias = "ignore_subscribe_messages")]
    #[inline]
    pub fn recv_message(&self) -> Result<Message<P>, RecvError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message);
        }
        self.wait_for_message(None).map_err(|_| RecvError::Closed)
    }

    /// The next message, if there is one now; other events are skipped.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    // A message that comes back from a call, through memory, is read in other pieces than it was written in: half as long
    // again as the receive itself.
    #[inline(always)]
    pub fn try_recv_message(&self) -> Result<Message<P>, TryRecvError> {
        loop {
            match self.member.inbox.try_recv_fast() {
                FastRecv::Message(message) => return Ok(message),
                FastRecv::Empty => return Err(TryRecvError::Empty),
                FastRecv::Slow => {}
            }
            if let Some(message) = self.member.inbox.try_recv_slow()?.into_message() {
                return Ok(message);
            }
        }
    }

    /// Waits for the next message, at most for `timeout`; other events are skipped.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    #[doc(alias = "get_message")]
    #[inline]
    pub fn recv_message_timeout(&self, timeout: Duration) -> Result<Message<P>, RecvTimeoutError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message);
        }
        self.wait_for_message(deadline_after(timeout))
    }

    /// Waits for the next message, at most until `deadline`; other events are skipped.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_message_deadline(&self, deadline: Instant) -> Result<Message<P>, RecvTimeoutError> {
        self.wait_for_message(Some(deadline))
    }

    fn wait_for_message(&self, deadline: Option<Instant>) -> Result<Message<P>, RecvTimeoutError> {
        loop {
            if let Some(message) = self.wait(deadline)?.into_message() {
                return Ok(message);
            }
        }
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<Event<P>, RecvTimeoutError> {
        self.member.inbox.wait(WaitLimit { deadline, stop_signal: None }).map_err(|error| {
            match error {
                WaitError::TimedOut => RecvTimeoutError::Timeout,
                WaitError::Closed | WaitError::Stopped => RecvTimeoutError::Closed,
            }
        })
    }

    /// Waits for the next event, or until `ending` is set and the thread unparked; `None` for that, and
    /// when it is closed and drained.
    pub(crate) fn recv_until(&self, ending: &StopSignal) -> Option<Event<P>> {
        let limit = WaitLimit { deadline: None, stop_signal: Some(ending) };
        if !limit.is_stopped()
            && let FastRecv::Message(message) = self.member.inbox.try_recv_fast()
        {
            return Some(message.into());
        }
        self.member.inbox.wait(limit).ok()
    }

    /// What unsubscribes from everything, as long as there is a handle to the subscriber. It is none.
    pub(crate) fn unsubscriber(&self) -> impl Fn() + Send + Sync + use<P>
    where
        P: Send + 'static,
    {
        let member = Arc::downgrade(&self.member);
        move || {
            if let Some(member) = member.upgrade() {
                member.unsubscribe_all::<Channel<P>>();
                member.unsubscribe_all::<PatternEntry<P>>();
            }
        }
    }

    /// An iterator over events that waits for each; it ends when the subscriber is closed and drained,
    /// not when nothing is subscribed any more.
    #[doc(alias = "listen")]
    pub fn iter(&self) -> Iter<'_, P> {
        Iter { subscriber: self }
    }

    /// Returns an iterator over events that does not wait: it yields events until the inbox is empty,
    /// including any that arrive meanwhile.
    ///
    /// A loop over it that publishes to its own subscriber at every event never ends.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("countdown")?;
    /// bus.publish("countdown", 3_u32);
    /// let mut seen = Vec::new();
    /// for event in sub.try_iter() {
    ///     let n = event.into_message().unwrap().payload;
    ///     seen.push(n);
    ///     if n > 0 {
    ///         bus.publish("countdown", n - 1);
    ///     }
    /// }
    /// assert_eq!(seen, [3, 2, 1, 0]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn try_iter(&self) -> TryIter<'_, P> {
        TryIter { subscriber: self }
    }

    /// An iterator over messages that waits for each; it ends when the subscriber is closed and
    /// drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("numbers")?;
    /// for n in 1..=3_u32 {
    ///     bus.publish("numbers", n);
    /// }
    /// drop(bus);
    /// assert_eq!(sub.messages().map(|message| message.payload).sum::<u32>(), 6);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn messages(&self) -> Messages<'_, P> {
        Messages { subscriber: self }
    }

    /// Returns an iterator over messages that does not wait: it yields messages until the inbox is
    /// empty, including any that arrive meanwhile. Other events are skipped.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("numbers")?;
    /// bus.publish("numbers", 1_u32);
    /// bus.publish("numbers", 2_u32);
    /// assert_eq!(sub.try_messages().map(|message| message.payload).collect::<Vec<_>>(), [1, 2]);
    /// assert!(sub.try_messages().next().is_none());
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn try_messages(&self) -> TryMessages<'_, P> {
        TryMessages { subscriber: self }
    }

    /// Returns an iterator over messages that owns the subscriber and waits for each; it ends when the
    /// subscriber is closed and drained. Other events are skipped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::thread;
    ///
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let numbers = bus.subscribe("numbers")?.into_messages();
    /// let sum = thread::spawn(|| numbers.map(|message| message.payload).sum::<u32>());
    /// bus.publish("numbers", 2_u32);
    /// bus.publish("numbers", 3_u32);
    /// drop(bus);
    /// assert_eq!(sum.join().unwrap(), 5);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn into_messages(self) -> IntoMessages<P> {
        IntoMessages { subscriber: self }
    }

    /// The queue of messages itself, for `crossbeam_channel::select!`.
    ///
    /// It shows messages only. Its reader polls [`missed`](Self::missed) for losses, and should silence
    /// lifecycle events ([`SubscriberBuilder::lifecycle_events`]), which are kept until they are read
    /// otherwise. To the subscriber's own receives, messages taken here seem to be queued still: its events come late
    /// then, when nothing is queued any more at the latest. When the subscriber is closed and drained it is disconnected. It can be cloned; but what is unread
    /// when the last handle to the subscriber is dropped is dropped with it.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, crossbeam_channel::select};
    ///
    /// let bus: Bus = Bus::new();
    /// let silent = || bus.subscriber_builder().lifecycle_events(false);
    /// let (chat, news) = (silent().subscribe("chat")?, silent().subscribe("news")?);
    /// bus.publish("news", "hello");
    /// select! {
    ///     recv(chat.receiver()) -> _ => unreachable!(),
    ///     recv(news.receiver()) -> message => assert_eq!(message?.channel(), "news"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn receiver(&self) -> &Receiver<Message<P>> {
        self.member.inbox.queue()
    }

    // ---- looking in ----------------------------------------------------------------------------

    /// Messages waiting in the inbox; other events are not counted. It may change at any time.
    pub fn len(&self) -> usize {
        self.member.inbox.depth()
    }

    /// Whether no message waits in the inbox. It may change at any time.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages the inbox holds at most.
    pub fn capacity(&self) -> usize {
        self.member.inbox.settings().capacity
    }

    /// Messages lost so far: evicted by newer ones, or refused.
    pub fn missed(&self) -> u64 {
        self.member.inbox.missed()
    }

    /// Whether the subscriber or its bus is closed. It may still hold messages.
    pub fn is_closed(&self) -> bool {
        self.member.inbox.is_closed()
    }

    /// Why it was closed, if it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.member.inbox.close_reason()
    }

    /// The label given when it was built.
    pub fn label(&self) -> Option<&str> {
        self.member.inbox.settings().label.as_deref()
    }

    /// The channels held, in the order they were subscribed.
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.member.keys::<Channel<P>>()
    }

    /// The patterns held, in the order they were subscribed.
    pub fn patterns(&self) -> Vec<Pattern> {
        self.member.keys::<PatternEntry<P>>()
    }

    /// What it looks like from outside. The counts are exact at rest.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the subscriptions held.
    pub fn info(&self) -> SubscriberInfo {
        self.member.info()
    }
}

fn deadline_after(timeout: Duration) -> Option<Instant> {
    // A deadline beyond what the clock can say is none.
    Instant::now().checked_add(timeout)
}

impl<P> Clone for Subscriber<P> {
    fn clone(&self) -> Self {
        Self { member: Arc::clone(&self.member) }
    }
}

impl<P> fmt::Debug for Subscriber<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("label", &self.label())
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("missed", &self.missed())
            .field("closed", &self.close_reason())
            .finish_non_exhaustive()
    }
}

// A panic in user code leaves turns, locks and books in order: that is the contract, and tested.
impl<P> UnwindSafe for Subscriber<P> {}
impl<P> RefUnwindSafe for Subscriber<P> {}

/// Chooses the settings of a [`Subscriber`]; see [`Bus::subscriber_builder`](crate::Bus::subscriber_builder).
///
/// A clone of it makes another subscriber with the same settings.
#[must_use]
pub struct SubscriberBuilder<P = Arc<str>> {
    engine: Arc<Engine<P>>,
    settings: Settings,
}

impl<P: Clone + Send + 'static> SubscriberBuilder<P> {
    pub(crate) fn new(engine: &Arc<Engine<P>>) -> Self {
        let settings = Settings {
            capacity: engine.capacity,
            overflow: engine.overflow,
            label: None,
            lifecycle_events: true,
            dedupe: false,
        };
        Self { engine: Arc::clone(engine), settings }
    }

    /// How many messages the inbox holds. Its memory is taken when the subscriber is built.
    ///
    /// Lifecycle events are kept beside the messages: they take no room here.
    ///
    /// # Panics
    ///
    /// If it is 0. [`build`](Self::build) panics or aborts where there is no memory for so many.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.settings.capacity = check_capacity(messages);
        self
    }

    /// What the inbox does when it is full.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.settings.overflow = overflow;
        self
    }

    /// A name for logs and metrics: see [`SubscriberInfo::label`].
    #[doc(alias = "CLIENT SETNAME")]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.settings.label = Some(Arc::from(label.into()));
        self
    }

    /// Whether subscribing and unsubscribing yield events; they do by default.
    #[doc(alias = "ignore_subscribe_messages")]
    pub fn lifecycle_events(mut self, yes: bool) -> Self {
        self.settings.lifecycle_events = yes;
        self
    }

    /// Whether a message that several subscriptions match comes once, by the first of them: the channel
    /// itself, else the pattern subscribed first. By default it comes once for each, as with Redis.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber_builder().dedupe(true).psubscribe("game:*")?;
    /// sub.subscribe("game:7")?;
    /// assert_eq!(bus.publish("game:7", "start").matched, 1);
    /// assert_eq!(sub.recv_message()?.pattern(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dedupe(mut self, yes: bool) -> Self {
        self.settings.dedupe = yes;
        self
    }

    /// The subscriber, with nothing subscribed.
    pub fn build(self) -> Subscriber<P> {
        Subscriber { member: Member::new(&self.engine, self.settings) }
    }

    /// The subscriber, subscribed to `channel`.
    ///
    /// # Errors
    ///
    /// As [`Subscriber::subscribe`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe(self, channel: impl AsRef<str>) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.subscribe(channel)?;
        Ok(subscriber)
    }

    /// The subscriber, subscribed to `pattern`.
    ///
    /// # Errors
    ///
    /// As [`Subscriber::psubscribe`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(self, pattern: impl Into<Pattern>) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.psubscribe(pattern)?;
        Ok(subscriber)
    }

    /// Returns the subscriber, subscribed to all of `channels`.
    ///
    /// # Errors
    ///
    /// As [`Subscriber::subscribe_many`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber_builder().label("desk").subscribe_many(["news", "weather"])?;
    /// assert_eq!(sub.channels().len(), 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe_many<C: AsRef<str>>(
        self,
        channels: impl IntoIterator<Item = C>,
    ) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.subscribe_many(channels)?;
        Ok(subscriber)
    }

    /// Returns the subscriber, subscribed to all of `patterns`.
    ///
    /// # Errors
    ///
    /// As [`Subscriber::psubscribe_many`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe_many<T: Into<Pattern>>(
        self,
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.psubscribe_many(patterns)?;
        Ok(subscriber)
    }
}

impl<P> Clone for SubscriberBuilder<P> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), settings: self.settings.clone() }
    }
}

impl<P> fmt::Debug for SubscriberBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Waits for each event; see [`Subscriber::iter`].
pub struct Iter<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// Yields events until the inbox is empty; see [`Subscriber::try_iter`].
pub struct TryIter<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// Waits for each message; see [`Subscriber::messages`].
pub struct Messages<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// Yields messages until the inbox is empty; see [`Subscriber::try_messages`].
pub struct TryMessages<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// Waits for each message, owning the subscriber; see [`Subscriber::into_messages`].
pub struct IntoMessages<P = Arc<str>> {
    subscriber: Subscriber<P>,
}

/// Waits for each event, owning the subscriber; made by its `IntoIterator`.
pub struct IntoIter<P = Arc<str>> {
    subscriber: Subscriber<P>,
}

impl<P> Iterator for Iter<'_, P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.recv().ok()
    }
}

impl<P> Iterator for TryIter<'_, P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.try_recv().ok()
    }
}

impl<P> Iterator for Messages<'_, P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.recv_message().ok()
    }
}

impl<P> Iterator for TryMessages<'_, P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.try_recv_message().ok()
    }
}

impl<P> Iterator for IntoMessages<P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.recv_message().ok()
    }
}

impl<P> Iterator for IntoIter<P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.recv().ok()
    }
}

macro_rules! debug_without_payload {
    ($($name:ident $(<$lifetime:lifetime>)?),*) => {$(
        impl<P> fmt::Debug for $name<$($lifetime,)? P> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("subscriber", &self.subscriber).finish()
            }
        }
    )*};
}

debug_without_payload!(
    Iter<'_>,
    TryIter<'_>,
    Messages<'_>,
    TryMessages<'_>,
    IntoMessages,
    IntoIter
);

// Closed is for good. (`TryIter` and `TryMessages` end at an inbox that is empty, and go on when it is not.)
impl<P> std::iter::FusedIterator for Iter<'_, P> {}
impl<P> std::iter::FusedIterator for Messages<'_, P> {}
impl<P> std::iter::FusedIterator for IntoMessages<P> {}
impl<P> std::iter::FusedIterator for IntoIter<P> {}

impl<'a, P> IntoIterator for &'a Subscriber<P> {
    type Item = Event<P>;
    type IntoIter = Iter<'a, P>;

    fn into_iter(self) -> Iter<'a, P> {
        self.iter()
    }
}

impl<P> IntoIterator for Subscriber<P> {
    type Item = Event<P>;
    type IntoIter = IntoIter<P>;

    fn into_iter(self) -> IntoIter<P> {
        IntoIter { subscriber: self }
    }
}
