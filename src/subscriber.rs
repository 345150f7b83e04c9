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
        if self.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let settings = self.member.inbox.settings().clone();
        let other = Self { member: Member::new(&self.member.engine, settings) };
        other.subscribe_many(self.channels())?;
        other.psubscribe_many(self.patterns())?;
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
    // ---- receiving -----------------------------------------------------------------------------

    /// Waits for the next event and returns it.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("ticks")?;
    /// bus.publish("ticks", 7_u32);
    /// assert!(matches!(sub.recv()?, Event::Subscribe { count: 1, .. }));
    /// assert!(matches!(sub.recv()?, Event::Message(message) if message.payload == 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv(&self) -> Result<Event<P>, RecvError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message.into());
        }
        // With no deadline, closing is all that ends the wait.
        self.wait(None).map_err(|_| RecvError::Closed)
    }

    /// Returns the next event if there is one now.
    ///
    /// # Errors
    ///
    /// Returns [`TryRecvError::Empty`] if there is none, and [`TryRecvError::Closed`] when the
    /// subscriber is closed and its inbox drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event, TryRecvError};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// assert!(matches!(sub.try_recv(), Ok(Event::Subscribe { .. })));
    /// assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    /// bus.close();
    /// assert_eq!(sub.try_recv(), Err(TryRecvError::Closed));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[inline]
    pub fn try_recv(&self) -> Result<Event<P>, TryRecvError> {
        self.member.inbox.try_recv()
    }

    /// Waits for the next event, for `timeout` at most, and returns it.
    ///
    /// An event that is there already is returned even if `timeout` is zero.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::Timeout`] when `timeout` has passed, never earlier, and
    /// [`RecvTimeoutError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fanout::{Bus, Event, RecvTimeoutError};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// let patience = Duration::from_millis(1);
    /// assert!(matches!(sub.recv_timeout(patience)?, Event::Subscribe { .. }));
    /// assert_eq!(sub.recv_timeout(patience), Err(RecvTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event<P>, RecvTimeoutError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message.into());
        }
        self.wait(deadline_after(timeout))
    }

    /// Waits for the next event, until `deadline` at most, and returns it.
    ///
    /// An event that is there already is returned even if `deadline` has passed.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::Timeout`] when `deadline` has passed, and
    /// [`RecvTimeoutError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Event<P>, RecvTimeoutError> {
        self.wait(Some(deadline))
    }

    /// Waits for the next message and returns it, skipping all other events.
    ///
    /// A skipped [`Event::Lagged`] is not reported again; [`missed`](Self::missed) counts all
    /// losses.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.psubscribe("game:*")?;
    /// bus.publish("game:7", "start");
    /// let message = sub.recv_message()?;
    /// assert_eq!((message.channel(), &*message.payload), ("game:7", "start"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "ignore_subscribe_messages")]
    #[inline]
    pub fn recv_message(&self) -> Result<Message<P>, RecvError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message);
        }
        self.wait_for_message(None).map_err(|_| RecvError::Closed)
    }

    /// Returns the next message if there is one now, skipping all other events.
    ///
    /// # Errors
    ///
    /// Returns [`TryRecvError::Empty`] if there is none, and [`TryRecvError::Closed`] when the
    /// subscriber is closed and its inbox drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, TryRecvError};
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("ticks")?;
    /// bus.publish("ticks", 7_u32);
    /// assert_eq!(sub.try_recv_message()?.payload, 7);
    /// assert_eq!(sub.try_recv_message(), Err(TryRecvError::Empty));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Waits for the next message, for `timeout` at most, and returns it, skipping all other
    /// events.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::Timeout`] when `timeout` has passed, never earlier, and
    /// [`RecvTimeoutError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fanout::{Bus, RecvTimeoutError};
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("ticks")?;
    /// bus.publish("ticks", 7_u32);
    /// assert_eq!(sub.recv_message_timeout(Duration::from_secs(1))?.payload, 7);
    /// let nothing = sub.recv_message_timeout(Duration::ZERO);
    /// assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "get_message")]
    #[inline]
    pub fn recv_message_timeout(&self, timeout: Duration) -> Result<Message<P>, RecvTimeoutError> {
        if let FastRecv::Message(message) = self.member.inbox.try_recv_fast() {
            return Ok(message);
        }
        self.wait_for_message(deadline_after(timeout))
    }

    /// Waits for the next message, until `deadline` at most, and returns it, skipping all other
    /// events.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::Timeout`] when `deadline` has passed, and
    /// [`RecvTimeoutError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish and it would have to wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("ticks")?;
    /// (1..=3_u32).for_each(|n| _ = bus.publish("ticks", n));
    /// let deadline = Instant::now() + Duration::from_millis(5);
    /// let mut sum = 0;
    /// while let Ok(message) = sub.recv_message_deadline(deadline) {
    ///     sum += message.payload;
    /// }
    /// assert_eq!(sum, 6);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
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

    /// Returns an iterator over events that waits for each of them.
    ///
    /// It ends when the subscriber is closed and its inbox drained. Unlike redis-py's `listen`, it
    /// does not end when nothing is subscribed any more.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "hello");
    /// bus.close();
    /// for event in &sub {
    ///     match event {
    ///         Event::Message(message) => assert_eq!(&*message.payload, "hello"),
    ///         other => assert!(matches!(other, Event::Subscribe { .. })),
    ///     }
    /// }
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "listen")]
    pub fn iter(&self) -> Iter<'_, P> {
        Iter { subscriber: self }
    }

    /// Returns an iterator over events that does not wait.
    ///
    /// It yields events until the inbox is empty, including any that arrive meanwhile. A loop over
    /// it that publishes to its own subscriber at every event never ends.
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

    /// Returns an iterator over messages that waits for each of them, skipping all other events.
    ///
    /// It ends when the subscriber is closed and its inbox drained.
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

    /// Returns an iterator over messages that does not wait, skipping all other events.
    ///
    /// It yields messages until the inbox is empty, including any that arrive meanwhile.
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

    /// Returns an iterator over messages that owns the subscriber and waits for each message.
    ///
    /// It skips all other events, and ends when the subscriber is closed and its inbox drained.
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

    /// Returns the queue of messages itself, for `crossbeam_channel::select!`.
    ///
    /// It is disconnected when the subscriber is closed and its inbox drained. It shows messages
    /// only:
    ///
    /// - Losses are not reported. Poll [`missed`](Self::missed).
    /// - Lifecycle events stay in the inbox until a receive of the subscriber reads them. Silence
    ///   them with [`SubscriberBuilder::lifecycle_events`].
    /// - If the subscriber is also read by its own methods, lifecycle events come late there,
    ///   though no later than when the queue is empty: a message that was taken here counts as
    ///   still queued.
    /// - A publisher that waits for room ([`Overflow::Block`]) is not woken at once. It looks again
    ///   within about a millisecond.
    ///
    /// The receiver can be cloned. What is unread when the last handle to the subscriber is dropped
    /// is dropped with it, whoever still has a receiver.
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

/// A builder for a [`Subscriber`], returned by
/// [`Bus::subscriber_builder`](crate::Bus::subscriber_builder).
///
/// It begins with the bus's settings. A clone of the builder makes another subscriber with the same
/// settings.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Overflow};
///
/// let bus: Bus = Bus::new();
/// let small = bus.subscriber_builder().capacity(16).overflow(Overflow::DropNewest);
/// let first = small.clone().subscribe("news")?;
/// let second = small.subscribe_many(["news", "weather"])?;
/// assert_eq!((first.capacity(), second.capacity()), (16, 16));
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
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

    /// Sets the number of messages that the inbox holds.
    ///
    /// The default is the bus's: see [`BusBuilder::capacity`](crate::BusBuilder::capacity).
    /// Lifecycle events are kept apart and take no capacity. The memory for all messages is
    /// allocated when the subscriber is built.
    ///
    /// # Panics
    ///
    /// Panics if `messages` is 0. Building the subscriber panics or aborts if the memory is not to
    /// be had.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.settings.capacity = check_capacity(messages);
        self
    }

    /// Sets what the inbox does when it is full.
    ///
    /// The default is the bus's: see [`BusBuilder::overflow`](crate::BusBuilder::overflow).
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.settings.overflow = overflow;
        self
    }

    /// Sets a name for logs and metrics.
    ///
    /// [`Subscriber::label`] and [`SubscriberInfo::label`] return it. By default there is none.
    #[doc(alias = "CLIENT SETNAME")]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.settings.label = Some(Arc::from(label.into()));
        self
    }

    /// Sets whether subscribing and unsubscribing yield events.
    ///
    /// They do by default, as with Redis. With `false`, the subscriber yields messages and
    /// [`Event::Lagged`] only.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, TryRecvError};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("news")?;
    /// assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "ignore_subscribe_messages")]
    pub fn lifecycle_events(mut self, yes: bool) -> Self {
        self.settings.lifecycle_events = yes;
        self
    }

    /// Sets whether a publish that several subscriptions match comes as a single message.
    ///
    /// By default, as with Redis, the subscriber gets one message for each of its subscriptions
    /// that matches. With `true` it gets the first of them only: that of the channel itself if it
    /// is subscribed, otherwise that of the matching pattern that was subscribed first.
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

    /// Returns a subscriber that has subscribed to nothing yet.
    pub fn build(self) -> Subscriber<P> {
        Subscriber { member: Member::new(&self.engine, self.settings) }
    }

    /// Returns a subscriber of `channel`.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the
    /// [`Limits`](crate::Limits) that would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe(self, channel: impl AsRef<str>) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.subscribe(channel)?;
        Ok(subscriber)
    }

    /// Returns a subscriber of every channel that `pattern` matches.
    ///
    /// A string is a Redis glob.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the
    /// [`Limits`](crate::Limits) that would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(self, pattern: impl Into<Pattern>) -> Result<Subscriber<P>, SubscribeError> {
        let subscriber = self.build();
        subscriber.psubscribe(pattern)?;
        Ok(subscriber)
    }

    /// Returns a subscriber of all `channels`.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the
    /// [`Limits`](crate::Limits) that would be exceeded.
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

    /// Returns a subscriber of every channel that one of `patterns` matches.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the
    /// [`Limits`](crate::Limits) that would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
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

/// An iterator over events that waits for each of them; see [`Subscriber::iter`].
pub struct Iter<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// An iterator over the events that can be read without waiting; see [`Subscriber::try_iter`].
pub struct TryIter<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// An iterator over messages that waits for each of them; see [`Subscriber::messages`].
pub struct Messages<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// An iterator over the messages that can be read without waiting; see
/// [`Subscriber::try_messages`].
pub struct TryMessages<'a, P = Arc<str>> {
    subscriber: &'a Subscriber<P>,
}

/// An iterator over messages that owns the subscriber and waits for each message; see
/// [`Subscriber::into_messages`].
pub struct IntoMessages<P = Arc<str>> {
    subscriber: Subscriber<P>,
}

/// An iterator over events that owns the subscriber and waits for each event.
///
/// Returned by `into_iter` of a [`Subscriber`]. It ends when the subscriber is closed and its inbox
/// drained.
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
