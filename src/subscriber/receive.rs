//! Receiving: with and without waiting, events and messages.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{IntoMessages, Iter, Messages, Subscriber, TryIter, TryMessages};
use crate::error::{RecvError, RecvTimeoutError, TryRecvError};
use crate::event::{Event, Message};
use crate::inbox::{FastRecv, WaitError, WaitLimit};

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
    // See "Inlining" in the docs of `inbox`.
    #[inline(always)]
    pub fn try_recv_message(&self) -> Result<Message<P>, TryRecvError> {
        self.member.inbox.try_recv_message()
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
    ///   them with [`SubscriberBuilder::lifecycle_events`](crate::SubscriberBuilder::lifecycle_events).
    /// - If the subscriber is also read by its own methods, lifecycle events come late there,
    ///   though no later than when the queue is empty: a message that was taken here counts as
    ///   still queued.
    /// - A publisher that waits for room ([`Overflow::Block`](crate::Overflow::Block)) is not woken at once. It looks
    ///   again within about a millisecond.
    /// - Under [`Overflow::Conflate`](crate::Overflow::Conflate) it shows nothing at all: the messages are in no queue.
    ///   It is disconnected as soon as the subscriber is closed.
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
}

fn deadline_after(timeout: Duration) -> Option<Instant> {
    // A deadline beyond what the clock can say is none.
    Instant::now().checked_add(timeout)
}
