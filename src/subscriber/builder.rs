//! The builder of subscribers.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::Subscriber;
use crate::engine::{Engine, check_capacity};
use crate::error::SubscribeError;
use crate::inbox::Settings;
use crate::limits::Overflow;
use crate::member::Member;
use crate::pattern::Pattern;

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
            interest: true,
        };
        Self { engine: Arc::clone(engine), settings }
    }

    /// Sets the number of messages that the inbox holds.
    ///
    /// The default is the bus's: see [`BusBuilder::capacity`](crate::BusBuilder::capacity).
    /// Lifecycle events are kept apart and take no capacity. The memory for all messages is
    /// allocated when the subscriber is built, or as it is needed under
    /// [`Overflow::Conflate`](crate::Overflow::Conflate), whose capacity bounds the channels.
    ///
    /// # Panics
    ///
    /// Panics if `messages` is 0. Building the subscriber panics or aborts if the memory cannot be
    /// allocated.
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
    /// [`Subscriber::label`] and [`SubscriberInfo::label`](crate::SubscriberInfo::label) return it. By default there
    /// is none.
    #[doc(alias = "CLIENT SETNAME")]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.settings.label = Some(Arc::from(label.into()));
        self
    }

    /// Sets whether subscribing and unsubscribing yield events.
    ///
    /// They do by default, as with Redis. With `false`, the subscriber yields messages and
    /// [`Event::Lagged`](crate::Event::Lagged) only.
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

    /// Sets whether the subscriptions count for an [`InterestWatch`](crate::InterestWatch).
    ///
    /// They do by default. With `false`, nothing is produced or fetched from elsewhere for the sake of this
    /// subscriber: for one that only looks on, or one that passes messages on to where they are fetched from.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, TryRecvError};
    ///
    /// let bus: Bus = Bus::new();
    /// let watch = bus.watch_interest();
    /// let log = bus.subscriber_builder().interest(false).psubscribe("*")?;
    /// assert_eq!(watch.try_recv(), Err(TryRecvError::Empty));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn interest(mut self, yes: bool) -> Self {
        self.settings.interest = yes;
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

// As for `Subscriber`.
impl<P> UnwindSafe for SubscriberBuilder<P> {}
impl<P> RefUnwindSafe for SubscriberBuilder<P> {}

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
