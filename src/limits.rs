//! What a bus admits: bounds on names and counts, and what a full inbox does. A leaf.

use std::time::Duration;

/// Bounds on what can be subscribed on a bus; past one, a subscribe is a
/// [`SubscribeError`](crate::SubscribeError) that carries the limit, and nothing has changed.
///
/// By default nothing is bounded (every limit is `usize::MAX`). Publishing has no limits: a name of
/// any length can be published to.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Limits, SubscribeError};
///
/// let bus: Bus = Bus::builder().limits(Limits::default().max_channel_len(8)).build();
/// assert!(bus.subscribe("short").is_ok());
/// let refused = bus.subscribe("much too long").unwrap_err();
/// assert!(matches!(refused, SubscribeError::ChannelTooLong { limit: 8, .. }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    pub(crate) max_channel_len: usize,
    pub(crate) max_pattern_len: usize,
    pub(crate) max_subscriptions: usize,
    pub(crate) max_subscribers: usize,
    pub(crate) max_channels: usize,
    pub(crate) max_patterns: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_channel_len: usize::MAX,
            max_pattern_len: usize::MAX,
            max_subscriptions: usize::MAX,
            max_subscribers: usize::MAX,
            max_channels: usize::MAX,
            max_patterns: usize::MAX,
        }
    }
}

impl Limits {
    /// Bounds the length of a subscribed channel's name, in bytes.
    #[must_use]
    pub fn max_channel_len(mut self, bytes: usize) -> Self {
        self.max_channel_len = bytes;
        self
    }

    /// Bounds the length of a pattern's text, in bytes.
    #[must_use]
    pub fn max_pattern_len(mut self, bytes: usize) -> Self {
        self.max_pattern_len = bytes;
        self
    }

    /// Bounds how many channels and patterns, together, one subscriber holds.
    #[must_use]
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.max_subscriptions = subscriptions;
        self
    }

    /// Bounds how many subscribers the bus has, each counted from its first subscription until it
    /// is closed or dropped.
    #[must_use]
    pub fn max_subscribers(mut self, subscribers: usize) -> Self {
        self.max_subscribers = subscribers;
        self
    }

    /// Bounds how many channels have a subscriber of their own.
    #[must_use]
    pub fn max_channels(mut self, channels: usize) -> Self {
        self.max_channels = channels;
        self
    }

    /// Bounds how many distinct patterns are subscribed.
    #[must_use]
    pub fn max_patterns(mut self, patterns: usize) -> Self {
        self.max_patterns = patterns;
        self
    }

    /// Returns `true` if a limit spans subscribers. Subscribe calls must then be admitted one at a time.
    pub(crate) fn bound_the_bus(&self) -> bool {
        self.max_subscribers != usize::MAX
            || self.max_channels != usize::MAX
            || self.max_patterns != usize::MAX
    }
}

/// What a full inbox does with the next message. Each subscriber has its own.
///
/// Whatever the policy, nothing is lost silently: see [`Event::Lagged`](crate::Event::Lagged) and
/// [`Subscriber::missed`](crate::Subscriber::missed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest message makes room for the new one, which counts as delivered. The publisher never
    /// waits.
    #[default]
    DropOldest,
    /// The new message is refused. The publisher never waits.
    DropNewest,
    /// The new message is refused and the subscriber is unsubscribed everywhere: it reads what it
    /// holds, then `Closed`. The publisher never waits.
    Disconnect,
    /// The publisher waits for room, after every other inbox has been served.
    ///
    /// The message is refused at the timeout, which runs from the start of the publish, and as soon as the subscriber is
    /// closed or unsubscribed from what brought it.
    ///
    /// With no timeout, a thread that publishes to a full inbox of which it is the only reader waits
    /// for itself, for ever.
    Block {
        /// How long to wait; `None` is without end.
        timeout: Option<Duration>,
    },
}
