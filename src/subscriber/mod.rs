//! The receiving side: [`Subscriber`]. Receiving is in [`receive`], its builder in [`builder`], its iterators in
//! [`iter`].

mod builder;
mod iter;
mod receive;
#[cfg(feature = "async")]
mod tasks;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};

use crate::error::SubscribeError;
use crate::event::Event;
use crate::inbox::{FastRecv, Inbox, StopSignal, WaitLimit};
use crate::listener::Listener;
use crate::member::Member;
use crate::pattern::Pattern;
use crate::router::Router;
use crate::stats::{CloseReason, SubscriberInfo};
use crate::trie::{Channel, PatternEntry};

pub use builder::SubscriberBuilder;
pub use iter::{IntoIter, IntoMessages, Iter, Messages, TryIter, TryMessages};
#[cfg(feature = "async")]
pub use tasks::{EventStream, MessageStream, Recv, RecvMessage};

/// The receiving side of a bus: a set of channels and patterns that feed one inbox.
///
/// A subscriber can be changed while another thread receives from it. It does not keep the bus
/// open.
///
/// # Clones
///
/// Clones share the subscriptions and the inbox, and compete for what the inbox holds: each message
/// and each lifecycle event goes to one of them. Use clones for a group of workers, and
/// [`resubscribe`](Self::resubscribe) for a second subscriber with an inbox of its own. When the
/// last clone is dropped, the subscriber is unsubscribed from everything and what it has not read
/// is dropped.
///
/// # What a receive yields
///
/// A receive yields, in this order: [`Event::Lagged`] if messages were lost, a lifecycle event that
/// is due, a message, and `Closed` once the subscriber is closed and its inbox drained. It also
/// waits while nothing is subscribed.
///
/// As with redis-server, a lifecycle event has its place among the messages: after all that were
/// queued when the call was made, and before all that are published later. The `Subscribe` event
/// always comes before the messages of its subscription, and the `Unsubscribe` event after them,
/// unless a publish overlapped the call. A call that overlaps a receive on another thread may fall
/// on either side of that one message. The order is a promise to a single reader; competing clones
/// each see a part of the stream.
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
///
/// Two workers share one inbox, so each job is done once:
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus<u32> = Bus::new();
/// let jobs = bus.subscribe("jobs")?;
/// let workers = [jobs.clone().into_messages(), jobs.into_messages()]
///     .map(|jobs| std::thread::spawn(|| jobs.count()));
/// (1..=10_u32).for_each(|n| _ = bus.publish("jobs", n));
/// bus.close();
/// assert_eq!(workers.map(|worker| worker.join().unwrap()).iter().sum::<usize>(), 10);
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
#[must_use = "a subscriber is unsubscribed when it is dropped"]
pub struct Subscriber<P = Arc<str>> {
    member: Arc<Member<P>>,
}

impl<P: Clone + Send + 'static> Subscriber<P> {
    // ---- subscribing ---------------------------------------------------------------------------

    /// Adds a subscription to `channel` and returns the number of channels and patterns now held.
    ///
    /// The subscription is live when this returns. Subscribing to a channel that is already held
    /// changes nothing and, as with Redis, repeats the [`Event::Subscribe`].
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the subscriber or the bus is closed, or the error of
    /// the [`Limits`](crate::Limits) that would be exceeded. Nothing has changed in that case.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the length of the name, however many subscribers the channel and the bus have. If
    /// the channel has no subscriber and no [`Topic`](crate::Topic) and was not published to
    /// recently, it is matched against the bus's patterns once, as by a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// assert_eq!(sub.subscribe("news")?, 1);
    /// assert_eq!(sub.subscribe(format!("game:{}", 7))?, 2);
    /// assert_eq!(bus.publish("game:7", "start").delivered, 1);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "SUBSCRIBE")]
    #[doc(alias = "SSUBSCRIBE")]
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<usize, SubscribeError> {
        self.member.subscribe::<Channel<P>>(&[channel.as_ref()])
    }

    /// Adds a subscription to all channels that `pattern` matches and returns the number of
    /// channels and patterns now held.
    ///
    /// A string is a Redis glob and matches as in redis-server. For a shell glob, pass
    /// [`Pattern::glob`]. The subscription is live when this returns. Subscribing to a pattern that
    /// is already held changes nothing and, as with Redis, repeats the [`Event::PSubscribe`].
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the subscriber or the bus is closed, or the error of
    /// the [`Limits`](crate::Limits) that would be exceeded. Nothing has changed in that case.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the length of the pattern, and in the number of patterns on the bus that have the
    /// same meaning and another text, as `*` and `**` do.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("game:7")?;
    /// assert_eq!(sub.psubscribe("game:*")?, 2);
    /// // One message for each subscription that matches.
    /// assert_eq!(bus.publish("game:7", "start").delivered, 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(&self, pattern: impl Into<Pattern>) -> Result<usize, SubscribeError> {
        self.member.subscribe::<PatternEntry<P>>(&[pattern.into()])
    }

    /// Adds subscriptions to all of `channels`, in their order, or to none of them.
    ///
    /// Returns the number of channels and patterns now held. There is one [`Event::Subscribe`] for
    /// each channel.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the subscriber or the bus is closed, or the error of
    /// the [`Limits`](crate::Limits) that would be exceeded. Nothing has changed in that case.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Limits};
    ///
    /// let bus: Bus = Bus::builder().limits(Limits::default().max_subscriptions(3)).build();
    /// let sub = bus.subscriber();
    /// assert_eq!(sub.subscribe_many(["news", "weather"])?, 2);
    /// assert!(sub.subscribe_many(["sports", "chess"]).is_err());
    /// assert_eq!(sub.channels(), ["news".into(), "weather".into()]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe_many<C: AsRef<str>>(
        &self,
        channels: impl IntoIterator<Item = C>,
    ) -> Result<usize, SubscribeError> {
        let channels: Vec<C> = channels.into_iter().collect();
        let names: Vec<&str> = channels.iter().map(AsRef::as_ref).collect();
        self.member.subscribe::<Channel<P>>(&names)
    }

    /// Adds subscriptions to all of `patterns`, in their order, or to none of them.
    ///
    /// Returns the number of channels and patterns now held. There is one [`Event::PSubscribe`] for
    /// each pattern.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the subscriber or the bus is closed, or the error of
    /// the [`Limits`](crate::Limits) that would be exceeded. Nothing has changed in that case.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// assert_eq!(sub.psubscribe_many(["user:*", "game:*"])?, 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe_many<T: Into<Pattern>>(
        &self,
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<usize, SubscribeError> {
        let patterns: Vec<Pattern> = patterns.into_iter().map(Into::into).collect();
        self.member.subscribe::<PatternEntry<P>>(&patterns)
    }

    /// Removes the subscription to `channel` and returns the number of channels and patterns still
    /// held.
    ///
    /// Returns 0 if the subscriber or the bus is closed. A publish that begins after this has
    /// returned does not reach the subscriber. Messages that are queued stay queued and come before
    /// the [`Event::Unsubscribe`]. As with Redis, unsubscribing from a channel that is not held
    /// yields the event as well, with the unchanged count.
    ///
    /// A publisher that waits for room in the inbox with a message of this subscription gives up,
    /// and the message counts as dropped.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// O(log n) in the number of subscribers of the channel, amortised.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "first");
    /// assert_eq!(sub.unsubscribe("news"), 0);
    /// assert_eq!(bus.publish("news", "second").matched, 0);
    /// assert_eq!(&*sub.try_recv_message()?.payload, "first");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "UNSUBSCRIBE")]
    #[doc(alias = "SUNSUBSCRIBE")]
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> usize {
        self.member.unsubscribe::<Channel<P>>(channel.as_ref())
    }

    /// Removes the subscription to `pattern` and returns the number of channels and patterns still
    /// held.
    ///
    /// A string is the Redis glob of that text. To remove a shell glob, pass that:
    /// [`Pattern::glob`] again, or the `Pattern` from [`patterns`](Self::patterns). Otherwise this
    /// is [`unsubscribe`](Self::unsubscribe) for patterns.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.psubscribe(Pattern::glob("sensors/*")?)?;
    /// assert_eq!(sub.punsubscribe("sensors/*"), 1); // the Redis glob, which is not held
    /// assert_eq!(sub.punsubscribe(Pattern::glob("sensors/*")?), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PUNSUBSCRIBE")]
    pub fn punsubscribe(&self, pattern: impl Into<Pattern>) -> usize {
        self.member.unsubscribe::<PatternEntry<P>>(&pattern.into())
    }

    /// Removes the subscriptions to all channels and returns the number of patterns still held.
    ///
    /// Returns 0 if the subscriber or the bus is closed. There is one [`Event::Unsubscribe`] for
    /// each channel, in the order in which they were subscribed, and none if no channel is held.
    /// (Redis replies once in that case, with a null name.) Subscriptions to patterns stay.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// sub.subscribe_many(["news", "weather"])?;
    /// sub.psubscribe("game:*")?;
    /// assert_eq!(sub.unsubscribe_all(), 1);
    /// assert_eq!(sub.punsubscribe_all(), 0);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "UNSUBSCRIBE")]
    pub fn unsubscribe_all(&self) -> usize {
        self.member.unsubscribe_all::<Channel<P>>()
    }

    /// Removes the subscriptions to all patterns and returns the number of channels still held.
    ///
    /// Returns 0 if the subscriber or the bus is closed. There is one [`Event::PUnsubscribe`] for
    /// each pattern, in the order in which they were subscribed, and none if no pattern is held.
    /// Subscriptions to channels stay.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "PUNSUBSCRIBE")]
    pub fn punsubscribe_all(&self) -> usize {
        self.member.unsubscribe_all::<PatternEntry<P>>()
    }

    /// Returns a new subscriber with the same settings and subscriptions and an empty inbox of its
    /// own.
    ///
    /// The new subscriber gets the messages of publishes that begin after this returns, and
    /// lifecycle events for its own subscriptions.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the subscriber or the bus is closed, or the error of
    /// the [`Limits`](crate::Limits) that would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let first = bus.subscribe("news")?;
    /// let second = first.resubscribe()?;
    /// assert_eq!(bus.publish("news", "hello").delivered, 2);
    /// assert_eq!((first.len(), second.len()), (1, 1));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn resubscribe(&self) -> Result<Self, SubscribeError> {
        let (channels, patterns) = self.member.all_keys().ok_or(SubscribeError::Closed)?;
        let settings = self.member.inbox.settings().clone();
        let other = Self { member: Member::new(&self.member.engine, settings) };
        other.subscribe_many(channels)?;
        other.psubscribe_many(patterns)?;
        Ok(other)
    }

    /// Closes the subscriber for all its clones.
    ///
    /// It is unsubscribed from everything, without lifecycle events. What the inbox holds can still
    /// be read; after that every receive returns `Closed`. A blocked receive wakes, and publishers
    /// that wait for room in the inbox give up.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, RecvError};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "hello");
    /// sub.close();
    /// assert_eq!(bus.subscriber_count("news"), 0);
    /// assert_eq!(&*sub.recv_message()?.payload, "hello");
    /// assert_eq!(sub.recv_message(), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "RESET")]
    #[doc(alias = "QUIT")]
    pub fn close(&self) {
        self.member.engine.check_reentrancy();
        self.member.close(CloseReason::Subscriber);
    }

    /// Returns a router: handlers for single channels and patterns of this subscriber.
    ///
    /// It owns a clone of the subscriber. See [`Router`].
    pub fn router(&self) -> Router<P> {
        Router::new(self.clone())
    }

    /// Starts a thread called `name` that hands every event to `handler`.
    ///
    /// The thread owns a clone of the subscriber, so it goes on when this handle is dropped. It
    /// ends when the [`Listener`] is stopped, drained or dropped, when the subscriber or the bus is
    /// closed and the inbox drained, or when `handler` panics.
    ///
    /// `handler` runs outside every lock. It can publish, subscribe, unsubscribe and close. A
    /// handler that publishes should own a [`WeakBus`](crate::WeakBus), since one that owns a
    /// [`Bus`](crate::Bus) or a [`Topic`](crate::Topic) keeps the bus open, and so itself running.
    ///
    /// # Panics
    ///
    /// Panics if the operating system does not start a thread, or if `name` contains a NUL byte.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
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
    pub(crate) fn inbox(&self) -> &Inbox<P> {
        &self.member.inbox
    }

    /// Waits for the next event. Returns `None` when the subscriber is closed and drained, or when `stop_signal` is
    /// set and the thread unparked.
    fn recv_until(&self, stop_signal: &StopSignal) -> Option<Event<P>> {
        let limit = WaitLimit { deadline: None, stop_signal: Some(stop_signal) };
        if !limit.is_stopped()
            && let FastRecv::Message(message) = self.member.inbox.try_recv_fast()
        {
            return Some(message.into());
        }
        self.member.inbox.wait(limit).ok()
    }

    /// Returns a closure that unsubscribes from everything. It does not keep the subscriber alive.
    fn unsubscriber(&self) -> impl Fn() + Send + Sync + use<P>
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

    // ---- looking in ----------------------------------------------------------------------------

    /// Returns the number of messages in the inbox.
    ///
    /// Other events are not counted. The number may change at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::builder().capacity(2).build();
    /// let sub = bus.subscribe("news")?;
    /// assert!(sub.is_empty());
    /// bus.publish("news", "hello");
    /// assert_eq!((sub.len(), sub.capacity()), (1, 2));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn len(&self) -> usize {
        self.member.inbox.depth()
    }

    /// `true` if the inbox holds no message.
    ///
    /// Other events are not counted. The answer may change at any time.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of messages that the inbox can hold.
    pub fn capacity(&self) -> usize {
        self.member.inbox.settings().capacity
    }

    /// Returns the number of messages lost so far.
    ///
    /// These are the messages that were evicted by newer ones and those that the inbox refused. The
    /// number never falls.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::builder().capacity(1).build();
    /// let sub = bus.subscribe("ticks")?;
    /// (1..=5_u32).for_each(|n| _ = bus.publish("ticks", n));
    /// assert_eq!(sub.missed(), 4);
    /// assert_eq!(sub.recv_message()?.payload, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn missed(&self) -> u64 {
        self.member.inbox.missed()
    }

    /// `true` if the subscriber or its bus is closed.
    ///
    /// The inbox may still hold messages.
    pub fn is_closed(&self) -> bool {
        self.member.inbox.is_closed()
    }

    /// Returns why the subscriber was closed, or `None` if it is open.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, CloseReason, Overflow};
    ///
    /// let bus: Bus<u32> = Bus::builder().capacity(1).overflow(Overflow::Disconnect).build();
    /// let sub = bus.subscribe("ticks")?;
    /// bus.publish("ticks", 1_u32);
    /// assert_eq!(sub.close_reason(), None);
    /// bus.publish("ticks", 2_u32);
    /// assert_eq!(sub.close_reason(), Some(CloseReason::Overflow));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.member.inbox.close_reason()
    }

    /// Returns a number that no other subscriber of the bus has, or ever had. Clones have the same.
    ///
    /// [`SubscriberInfo::id`] is this number: it tells apart subscribers with one label, in logs and metrics.
    pub fn id(&self) -> u64 {
        self.member.inbox.member_id()
    }

    /// Returns the label that was set by [`SubscriberBuilder::label`], if any.
    pub fn label(&self) -> Option<&str> {
        self.member.inbox.settings().label.as_deref()
    }

    /// Returns the channels held, in the order in which they were subscribed.
    ///
    /// A closed subscriber holds none.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// sub.psubscribe("game:*")?;
    /// assert_eq!(sub.channels(), ["news".into()]);
    /// assert_eq!(sub.patterns(), [Pattern::redis("game:*")]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "channel_names")]
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.member.keys::<Channel<P>>()
    }

    /// Returns the patterns held, in the order in which they were subscribed.
    ///
    /// A closed subscriber holds none.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "pattern_names")]
    pub fn patterns(&self) -> Vec<Pattern> {
        self.member.keys::<PatternEntry<P>>()
    }

    /// Returns a description of the subscriber: its label, subscriptions and counters.
    ///
    /// The counters are exact while nothing is published to the subscriber or received from it.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of subscriptions held.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "first");
    /// bus.publish("news", "second");
    /// sub.recv_message()?;
    /// let info = sub.info();
    /// assert_eq!((info.received, info.depth, info.high_water), (1, 1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn info(&self) -> SubscriberInfo {
        self.member.info()
    }
}

impl<P> Subscriber<P> {
    pub(crate) fn member(&self) -> &Member<P> {
        &self.member
    }

    /// Returns what it can be had from again, as long as another clone lives.
    pub(crate) fn downgrade(&self) -> Weak<Member<P>> {
        Arc::downgrade(&self.member)
    }

    pub(crate) fn upgrade(weak: &Weak<Member<P>>) -> Option<Self> {
        weak.upgrade().map(|member| Self { member })
    }
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

// A panic in user code leaves turns, locks and books in order: the crate's docs promise it, and tests check it.
impl<P> UnwindSafe for Subscriber<P> {}
impl<P> RefUnwindSafe for Subscriber<P> {}
