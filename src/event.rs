//! Messages and events: all that a subscriber reads.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::pattern::Pattern;
use crate::small_str::SmallStr;
use crate::source::{Source, SourceRef};

/// A published payload, with the channel it was published to and the pattern that matched, if any.
///
/// A message is as large as the payload and one pointer. Two messages are equal if payload, channel
/// and pattern are.
///
/// A thread that drops messages may keep the names of the channel and pattern of the last one, up
/// to 512 bytes of text, until it drops a message of another channel or ends. It does not keep
/// payloads.
///
/// # Examples
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus = Bus::new();
/// let sub = bus.psubscribe("game:*:events")?;
/// bus.publish("game:7:events", "checkmate");
/// let message = sub.recv_message()?;
/// assert_eq!(message.channel(), "game:7:events");
/// assert_eq!(message.pattern(), Some("game:*:events"));
/// assert_eq!(&*message.payload, "checkmate");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// `source` comes first and every value of it is valid, so the first word with an invalid value, by which the compiler
// tells `Ok(message)` from `Err`, lies in the payload. crossbeam copies a message in pieces of 16 and 8 bytes. If the
// first word were the one to be tested, the two words behind it would be read at once though two stores wrote them: a
// store-forwarding stall, which takes half the time of a receive for a payload of two words, such as `Arc<str>`.
#[derive(Clone)]
#[repr(C)]
pub struct Message<P = Arc<str>> {
    pub(crate) source: SourceRef,
    /// The payload that was published.
    pub payload: P,
}

impl<P> Message<P> {
    /// Creates a message as if it had been published to `channel`.
    ///
    /// This is for mocks and for tests of handlers.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Message;
    ///
    /// let message = Message::new("user:1", 42).with_pattern("user:*");
    /// assert_eq!((message.channel(), message.pattern()), ("user:1", Some("user:*")));
    /// ```
    pub fn new(channel: &str, payload: P) -> Self {
        Self { payload, source: SourceRef::new(Source::new(SmallStr::new(channel), None)) }
    }

    /// Returns the message as if a subscription to `pattern` had brought it.
    ///
    /// A string is a Redis glob. The pattern need not match the channel.
    #[must_use]
    pub fn with_pattern(self, pattern: impl Into<Pattern>) -> Self {
        let pattern = pattern.into();
        let channel = self.source.channel().clone();
        let source = Source::new(channel, Some(Arc::new(pattern)));
        Self { payload: self.payload, source: SourceRef::new(source) }
    }

    /// Returns the name of the channel that the message was published to.
    pub fn channel(&self) -> &str {
        self.source.channel().as_str()
    }

    /// Returns the text of the pattern that brought the message, as written, or `None` if a
    /// subscription to the channel itself did.
    ///
    /// One text can be a pattern in either dialect; [`matched_by`](Self::matched_by) tells them
    /// apart.
    pub fn pattern(&self) -> Option<&str> {
        self.source.pattern_text().map(|text| &**text)
    }

    /// Returns the pattern that brought the message, or `None` if a subscription to the channel
    /// itself did.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.psubscribe("game/*")?;
    /// # #[cfg(feature = "glob")] {
    /// sub.psubscribe(Pattern::glob("game/*")?)?;
    /// bus.publish("game/7", "start");
    /// assert_eq!(sub.recv_message()?.matched_by(), Some(&Pattern::redis("game/*")));
    /// assert_eq!(sub.recv_message()?.matched_by(), Some(&Pattern::glob("game/*")?));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn matched_by(&self) -> Option<&Pattern> {
        self.source.pattern()
    }

    /// Returns the channel's name, the pattern's text if a pattern brought the message, and the
    /// payload.
    ///
    /// The name is copied if it is short and was not shared before; the text of the pattern never
    /// is.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Message;
    ///
    /// let (channel, pattern, payload) = Message::new("user:1", 42).into_parts();
    /// assert_eq!((&*channel, pattern, payload), ("user:1", None, 42));
    /// ```
    pub fn into_parts(self) -> (Arc<str>, Option<Arc<str>>, P) {
        (self.source.channel().to_shared(), self.source.pattern_text().cloned(), self.payload)
    }
}

impl<P: fmt::Debug> fmt::Debug for Message<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Message");
        out.field("channel", &self.channel());
        if let Some(pattern) = self.matched_by() {
            out.field("pattern", pattern);
        }
        out.field("payload", &self.payload).finish()
    }
}

impl<P: PartialEq> PartialEq for Message<P> {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload && self.source == other.source
    }
}

impl<P: Eq> Eq for Message<P> {}

impl<P: Hash> Hash for Message<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.payload.hash(state);
        self.source.hash(state);
    }
}

/// What a receive yields: a message, a lifecycle event, or the report of a loss.
///
/// The lifecycle events (`Subscribe`, `Unsubscribe`, `PSubscribe`, `PUnsubscribe`) are those of
/// Redis. Their `count` is the number of channels and patterns that the subscriber holds after the
/// call. As with Redis, a call that changes nothing yields its event too, with the unchanged count:
/// a second `subscribe` to a channel, or an `unsubscribe` from one that is not held. Closing a
/// subscriber or its bus yields none.
///
/// Lifecycle events take no capacity in the inbox. They are kept until they are read, as many as
/// the subscriber itself has caused; [`lifecycle_events(false)`] silences them.
///
/// [`lifecycle_events(false)`]: crate::SubscriberBuilder::lifecycle_events
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Event};
///
/// let bus: Bus = Bus::new();
/// let sub = bus.subscribe("news")?;
/// sub.psubscribe("n*")?;
/// bus.publish("news", "hello");
/// for event in sub.try_iter() {
///     match event {
///         Event::Message(m) => assert_eq!(m.pattern(), None),
///         Event::PMessage(m) => assert_eq!(m.pattern(), Some("n*")),
///         Event::Lagged { missed } => eprintln!("{missed} messages were lost"),
///         lifecycle => println!("{lifecycle:?}"),
///     }
/// }
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<P = Arc<str>> {
    /// A channel was subscribed.
    ///
    /// The event comes after every message that was queued at the call, and before every message of
    /// the subscription.
    Subscribe {
        /// The channel.
        channel: Arc<str>,
        /// The number of channels and patterns held after the call.
        count: usize,
    },
    /// A channel was unsubscribed.
    ///
    /// The event comes after every message that was queued at the call, and before those that are
    /// published later.
    Unsubscribe {
        /// The channel.
        channel: Arc<str>,
        /// The number of channels and patterns held after the call.
        count: usize,
    },
    /// A pattern was subscribed.
    ///
    /// The event comes after every message that was queued at the call, and before every message of
    /// the subscription.
    PSubscribe {
        /// The pattern.
        pattern: Pattern,
        /// The number of channels and patterns held after the call.
        count: usize,
    },
    /// A pattern was unsubscribed.
    ///
    /// The event comes after every message that was queued at the call, and before those that are
    /// published later.
    PUnsubscribe {
        /// The pattern.
        pattern: Pattern,
        /// The number of channels and patterns held after the call.
        count: usize,
    },
    /// A message that a subscription to its channel brought.
    Message(Message<P>),
    /// A message that a subscription to a pattern brought.
    PMessage(Message<P>),
    /// Messages were lost since the last `Lagged`: evicted by newer ones, or refused by the full
    /// inbox.
    ///
    /// It is what the next receive after the loss yields, though older messages may still be
    /// queued. It tells how many messages are missing, not which. Every loss is reported, before
    /// `Closed` at the latest; the sum of all reports is
    /// [`Subscriber::missed`](crate::Subscriber::missed).
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    ///
    /// let bus: Bus<u32> = Bus::builder().capacity(2).build();
    /// let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("ticks")?;
    /// (1..=5_u32).for_each(|n| _ = bus.publish("ticks", n));
    /// assert_eq!(sub.recv()?, Event::Lagged { missed: 3 });
    /// assert_eq!(sub.recv()?.into_message().unwrap().payload, 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Lagged {
        /// The number of messages lost since the last `Lagged`.
        missed: u64,
    },
}

impl<P> Event<P> {
    /// Returns the message of a `Message` or `PMessage`, and `None` for every other event.
    pub fn message(&self) -> Option<&Message<P>> {
        match self {
            Self::Message(message) | Self::PMessage(message) => Some(message),
            _ => None,
        }
    }

    /// Converts a `Message` or `PMessage` into its message, and every other event into `None`.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Event, Message};
    ///
    /// let event = Event::from(Message::new("news", 1));
    /// assert!(event.message().is_some());
    /// assert_eq!(event.into_message().map(|message| message.payload), Some(1));
    /// assert_eq!(Event::<u32>::Lagged { missed: 3 }.into_message(), None);
    /// ```
    pub fn into_message(self) -> Option<Message<P>> {
        match self {
            Self::Message(message) | Self::PMessage(message) => Some(message),
            _ => None,
        }
    }
}

impl<P> From<Message<P>> for Event<P> {
    fn from(message: Message<P>) -> Self {
        if message.source.has_pattern() { Self::PMessage(message) } else { Self::Message(message) }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_tells_a_message_from_none_is_not_its_first_word() {
        assert_eq!(offset_of!(Message, payload), size_of::<usize>());
        assert_eq!(size_of::<Option<Message>>(), size_of::<Message>(), "it is in the payload");
        assert!(size_of::<Option<SourceRef>>() > size_of::<SourceRef>());
        assert_eq!(size_of::<Message>(), 3 * size_of::<usize>());
    }
}
