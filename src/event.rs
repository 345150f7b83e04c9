//! What a subscriber reads: messages and events.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::pattern::Pattern;
use crate::source::{Source, SourceRef, Text};

/// A published payload, with the channel it was published to and the pattern that matched, if one did.
///
/// It is the payload and one pointer. A thread that drops messages of one channel in a row keeps the names of channel and
/// pattern, if they are short, though not the payloads, until it drops a message of another, or ends.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Event};
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
// In this order, and with a pointer that has no invalid value, for what crossbeam does with it: it copies a message in
// halves of 16 and 8 bytes, and reads the copy again by what the compiler takes to tell `Ok` from `Err`, the first word that
// has an invalid value, and by what lies before and behind that. If that were the first word, what lies behind it would
// be 16 bytes written by two stores, for which a processor waits until they have reached its cache: with a payload
// of two words, as an `Arc<str>` is, half the time of a receive.
#[derive(Clone)]
#[repr(C)]
pub struct Message<P = Arc<str>> {
    pub(crate) source: SourceRef,
    /// What was published.
    pub payload: P,
}

impl<P> Message<P> {
    /// A message as if published to `channel`: for mocks and tests of handlers.
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
        Self { payload, source: SourceRef::new(Source::new(Text::new(channel), None)) }
    }

    /// Returns the message as if it had come by `pattern`; a string is a Redis pattern.
    #[must_use]
    pub fn with_pattern(self, pattern: impl Into<Pattern>) -> Self {
        let pattern = pattern.into();
        let channel = self.source.channel().clone();
        let source = Source::new(channel, Some(Arc::new(pattern)));
        Self { payload: self.payload, source: SourceRef::new(source) }
    }

    /// The channel it was published to.
    pub fn channel(&self) -> &str {
        self.source.channel().as_str()
    }

    /// Returns the text of the pattern that brought the message, as written, or `None` if a subscription to the
    /// channel itself did.
    ///
    /// The same text can be a pattern of either dialect: [`matched_by`](Self::matched_by) tells them apart.
    pub fn pattern(&self) -> Option<&str> {
        self.source.pattern_text().map(|text| &**text)
    }

    /// Returns the pattern that brought the message, or `None` if a subscription to the channel itself did.
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

    /// Channel, pattern and payload. It may copy the channel's name if that is short; no other text.
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

/// What an inbox yields: a message, a lifecycle event, or word of a loss.
///
/// The lifecycle events are Redis's own; `count` is the number of channels and patterns that the
/// subscriber holds after the call. A call that changes nothing yields one too, with the count as before: a second
/// `subscribe` to a channel, an `unsubscribe` from one that is not held. They have no bound: kept until they are read, as
/// many as the subscriber's own calls caused. Closing a subscriber or its bus yields none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<P = Arc<str>> {
    /// A channel was subscribed. It follows every message that was queued at the call, and precedes every message
    /// of the subscription.
    Subscribe {
        /// The channel.
        channel: Arc<str>,
        /// Subscriptions held after it.
        count: usize,
    },
    /// A channel was unsubscribed. It follows every message that was queued at the call, and precedes what is
    /// published after it.
    Unsubscribe {
        /// The channel.
        channel: Arc<str>,
        /// Subscriptions held after it.
        count: usize,
    },
    /// A pattern was subscribed. It follows every message that was queued at the call, and precedes every message
    /// of the subscription.
    PSubscribe {
        /// The pattern.
        pattern: Pattern,
        /// Subscriptions held after it.
        count: usize,
    },
    /// A pattern was unsubscribed. It follows every message that was queued at the call, and precedes what is
    /// published after it.
    PUnsubscribe {
        /// The pattern.
        pattern: Pattern,
        /// Subscriptions held after it.
        count: usize,
    },
    /// A message of a subscribed channel.
    Message(Message<P>),
    /// A message that came by a pattern.
    PMessage(Message<P>),
    /// Messages were lost since the last `Lagged`. The sum of all of them is exact.
    ///
    /// It is what the next receive after the loss yields, though older messages may be queued: it says how many are
    /// missing, not where, nor of which channel.
    Lagged {
        /// How many messages.
        missed: u64,
    },
}

impl<P> Event<P> {
    /// The message, whichever way it came; `None` for every other event.
    pub fn message(&self) -> Option<&Message<P>> {
        match self {
            Self::Message(message) | Self::PMessage(message) => Some(message),
            _ => None,
        }
    }

    /// The message, whichever way it came; `None` for every other event.
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
