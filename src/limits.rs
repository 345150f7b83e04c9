//! Limits on what can be subscribed, and the policies of full inboxes. Knows nothing of the engine.

use std::time::Duration;

/// Limits on what can be subscribed on a bus, set by
/// [`BusBuilder::limits`](crate::BusBuilder::limits).
///
/// A subscribe that would exceed a limit returns a [`SubscribeError`](crate::SubscribeError) with
/// the limit's value, and nothing has changed.
///
/// By default nothing is limited: every limit is `usize::MAX`. Publishing has no limits; a name of
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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Limits {
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_channel_len: usize,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_pattern_len: usize,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_subscriptions: usize,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_subscribers: usize,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_channels: usize,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "is_unlimited"))]
    pub(crate) max_patterns: usize,
}

/// `true` for the default of all limits, which is left out of configuration files.
#[cfg(feature = "serde")]
fn is_unlimited(limit: &usize) -> bool {
    *limit == usize::MAX
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
    /// Limits the name of a subscribed channel to `bytes` bytes.
    #[must_use]
    pub fn max_channel_len(mut self, bytes: usize) -> Self {
        self.max_channel_len = bytes;
        self
    }

    /// Limits the text of a pattern to `bytes` bytes.
    #[must_use]
    pub fn max_pattern_len(mut self, bytes: usize) -> Self {
        self.max_pattern_len = bytes;
        self
    }

    /// Limits each subscriber to `subscriptions` channels and patterns together.
    #[must_use]
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.max_subscriptions = subscriptions;
        self
    }

    /// Limits the bus to `subscribers` subscribers.
    ///
    /// A subscriber counts from its first subscription until it is closed or dropped. Clones of it
    /// count as one.
    #[must_use]
    pub fn max_subscribers(mut self, subscribers: usize) -> Self {
        self.max_subscribers = subscribers;
        self
    }

    /// Limits the bus to `channels` channels that have a subscriber of their own.
    #[must_use]
    pub fn max_channels(mut self, channels: usize) -> Self {
        self.max_channels = channels;
        self
    }

    /// Limits the bus to `patterns` distinct patterns.
    #[must_use]
    pub fn max_patterns(mut self, patterns: usize) -> Self {
        self.max_patterns = patterns;
        self
    }

    /// Returns `true` if a limit spans subscribers. Subscribe calls must then be admitted one at a time.
    pub(crate) fn span_subscribers(&self) -> bool {
        self.max_subscribers != usize::MAX
            || self.max_channels != usize::MAX
            || self.max_patterns != usize::MAX
    }
}

/// What a full inbox does with the next message. The default is [`DropOldest`](Self::DropOldest).
///
/// The policy is set for all inboxes of a bus by [`BusBuilder::overflow`], and for a single one by
/// [`SubscriberBuilder::overflow`]. A full inbox never delays the others: with `Block`, all inboxes
/// that have room are served before the publisher waits.
///
/// No loss is silent: [`Event::Lagged`] reports it to the reader, [`Subscriber::missed`] counts it,
/// and [`Receipt::dropped`] tells the publisher of messages that did not enter an inbox. (An
/// eviction counts in [`Stats::evicted`] instead, since the new message was delivered.)
///
/// [`BusBuilder::overflow`]: crate::BusBuilder::overflow
/// [`SubscriberBuilder::overflow`]: crate::SubscriberBuilder::overflow
/// [`Event::Lagged`]: crate::Event::Lagged
/// [`Subscriber::missed`]: crate::Subscriber::missed
/// [`Receipt::dropped`]: crate::Receipt::dropped
/// [`Stats::evicted`]: crate::Stats::evicted
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Overflow};
///
/// let bus: Bus<u32> = Bus::builder().capacity(1).build();
/// let newest = bus.subscribe("ticks")?;
/// let oldest = bus.subscriber_builder().overflow(Overflow::DropNewest).subscribe("ticks")?;
/// bus.publish("ticks", 1_u32);
/// let receipt = bus.publish("ticks", 2_u32);
/// assert_eq!((receipt.delivered, receipt.dropped), (1, 1));
/// assert_eq!(newest.recv_message()?.payload, 2);
/// assert_eq!(oldest.recv_message()?.payload, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Overflow {
    /// Removes the oldest message to make room for the new one, which counts as delivered. This is
    /// the default.
    ///
    /// The publisher never waits.
    #[default]
    DropOldest,
    /// Refuses the new message.
    ///
    /// The publisher never waits.
    DropNewest,
    /// Keeps the newest message of each channel: a message replaces an unread one of its channel.
    ///
    /// This is for a reader that wants the newest state of many things, not each step: a display, a price board. The
    /// messages are read in the order in which their channels first changed since they were last read. Replaced
    /// messages count as [`conflated`](crate::SubscriberInfo::conflated), not as lost. The publisher never waits.
    ///
    /// The inbox's capacity bounds the channels that have a message: set it to the number of channels. If there are
    /// more, the message that has waited longest is removed. That is a loss, which
    /// [`missed`](crate::Subscriber::missed) counts and [`Lagged`](crate::Event::Lagged) reports. Memory is allocated
    /// as it is needed, and then kept.
    ///
    /// - A message replaces one of the same channel, whichever subscription brought it. Of a subscriber whose channel
    ///   and pattern both match, the pattern's message stays, and a [`Router`](crate::Router)'s handler of the channel
    ///   gets none.
    /// - A message may be read before an older one of another channel: it takes the place of the one it replaces.
    /// - A lifecycle event that has not been read keeps its place: a message that replaces one from before the event is
    ///   read after it.
    /// - [`receiver`](crate::Subscriber::receiver) shows nothing: the messages are in no queue.
    /// - A publish takes a lock of the inbox.
    /// - While channels go on changing, reading until the inbox is empty need not end. Read as many messages as
    ///   [`len`](crate::Subscriber::len) says.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Overflow};
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let board = bus.subscriber_builder().overflow(Overflow::Conflate).capacity(500);
    /// let board = board.psubscribe("price:*")?;
    /// bus.publish("price:A", 1_u32);
    /// bus.publish("price:B", 10_u32);
    /// bus.publish("price:A", 2_u32);
    /// let shown: Vec<_> =
    ///     board.try_messages().take(board.len()).map(|it| (it.channel().to_owned(), it.payload)).collect();
    /// assert_eq!(shown, [("price:A".to_owned(), 2), ("price:B".to_owned(), 10)]);
    /// assert_eq!((board.info().conflated, board.missed()), (1, 0));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    Conflate,
    /// Refuses the new message and closes the subscriber.
    ///
    /// The subscriber is unsubscribed from everything. It can read what its inbox holds and then
    /// gets `Closed`; [`close_reason`](crate::Subscriber::close_reason) returns
    /// [`CloseReason::Overflow`](crate::CloseReason::Overflow). redis-server does much the same to
    /// a client that exceeds its `client-output-buffer-limit pubsub`, but discards what is queued.
    /// The publisher never waits.
    Disconnect,
    /// Makes the publisher wait for room. In an async task, publish with
    /// [`publish_async`](crate::Bus::publish_async): `publish` to a full inbox blocks the thread of
    /// the runtime, and can hang it, as the reader may be a task which that thread should run.
    ///
    /// Two more waits can last for ever:
    ///
    /// - A reader that has panicked or stopped reading leaves its publishers waiting, as long as
    ///   any handle to the subscriber exists.
    /// - A thread that is the only reader of a full inbox and publishes to it waits for itself.
    ///
    /// With `timeout: None` such a wait ends only when the subscriber or the bus is closed, or the
    /// subscription is removed.
    ///
    /// The publisher waits once every other inbox has been served. It waits for the full inboxes
    /// with this policy one after another, for each until its timeout, which is counted from the
    /// start of the publish. The publisher's next message comes later for every subscriber. The
    /// wait ends early, and the message counts as dropped, when the subscriber or the bus is
    /// closed, or when the subscription that brought the message is removed.
    ///
    /// Messages of one publisher, a thread or a task, stay in order. Messages of several publishers may come in
    /// another order here than in other inboxes, once this inbox has been full.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fanout::{Bus, Overflow};
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let timeout = Some(Duration::from_millis(1));
    /// let policy = Overflow::Block { timeout };
    /// let sub = bus.subscriber_builder().capacity(1).overflow(policy).subscribe("jobs")?;
    /// assert_eq!(bus.publish("jobs", 1_u32).delivered, 1);
    /// assert_eq!(bus.publish("jobs", 2_u32).dropped, 1); // nobody reads
    /// assert_eq!(sub.recv_message()?.payload, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Block {
        /// The longest time that a thread waits, counted from the start of the publish; `None`
        /// waits without end. `publish_async` has no timer, and ignores it.
        ///
        /// In configuration files (feature `serde`) it is text such as `"250ms"` or `"2s"`.
        #[cfg_attr(feature = "serde", serde(default, with = "humantime_serde::option"))]
        timeout: Option<Duration>,
    },
}
