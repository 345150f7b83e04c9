//! Receipts, counters and close reasons. Knows nothing of the engine.

use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::sync::Arc;

use crate::limits::Overflow;

/// What one publish did: `matched == delivered + dropped`.
///
/// All three counts are exact. A publish that nobody listens to returns a receipt of zeros, never
/// an error. Subscriptions to patterns count, too: where a monitor or a bridge has one, ask
/// [`Bus::subscriber_count`](crate::Bus::subscriber_count) whether a channel has subscribers of its own.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Overflow};
///
/// let bus: Bus = Bus::new();
/// let ready = bus.subscribe("news")?;
/// let full = bus.subscriber_builder().capacity(1).overflow(Overflow::DropNewest);
/// let full = full.subscribe("news")?;
/// bus.publish("news", "first");
/// let receipt = bus.publish("news", "second");
/// assert_eq!((receipt.matched, receipt.delivered, receipt.dropped), (2, 1, 1));
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Receipt {
    /// Messages to deliver: one per matching subscription, or one per subscriber with
    /// [`dedupe`](crate::SubscriberBuilder::dedupe).
    pub matched: usize,
    /// Messages that entered an inbox, including those that evicted an older one.
    pub delivered: usize,
    /// Messages of this publish that did not enter an inbox.
    pub dropped: usize,
}

/// Sums what several publishes did.
impl Add for Receipt {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

/// Sums what several publishes did.
impl Sum for Receipt {
    fn sum<I: Iterator<Item = Self>>(receipts: I) -> Self {
        receipts.fold(Self::default(), Add::add)
    }
}

/// Sums what several publishes did.
impl AddAssign for Receipt {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
    }
}

/// Counters of a whole bus since it was created, returned by [`Bus::stats`](crate::Bus::stats).
///
/// All counters are exact while nothing is published or received. Otherwise they are read one after
/// another and may not add up. At rest, over all time, `matched == delivered + dropped` and
/// `delivered == received + evicted + conflated + discarded + queued`, where *queued* is the sum of
/// [`Subscriber::len`](crate::Subscriber::len) of all subscribers, closed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Publishes, including those that matched nothing.
    pub published: u64,
    /// Messages to deliver: one per matching subscription, or one per subscriber with
    /// [`dedupe`](crate::SubscriberBuilder::dedupe).
    pub matched: u64,
    /// Messages that entered an inbox.
    pub delivered: u64,
    /// Messages that did not enter an inbox.
    pub dropped: u64,
    /// Messages that had entered an inbox and were removed unread to make room for a newer one.
    pub evicted: u64,
    /// Messages that had entered an inbox and were replaced unread by a newer one of their channel, by
    /// [`Overflow::Conflate`](crate::Overflow::Conflate). They are not lost: `evicted` does not count them.
    pub conflated: u64,
    /// Messages taken from inboxes, including those taken through
    /// [`receiver`](crate::Subscriber::receiver).
    pub received: u64,
    /// Messages that were unread when their inbox was dropped.
    pub discarded: u64,
    /// Subscribers that were closed because their inbox was full, by
    /// [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    pub disconnected: u64,
    /// Channels that have a subscriber of their own now; 0 on a closed bus.
    pub channels: usize,
    /// Distinct patterns that are subscribed now; 0 on a closed bus.
    pub patterns: usize,
    /// Subscribers now, each counted from its first subscription until it is closed or dropped; 0
    /// on a closed bus.
    pub subscribers: usize,
}

/// A description of one subscriber, returned by [`Subscriber::info`](crate::Subscriber::info) and
/// [`Bus::subscribers`](crate::Bus::subscribers).
///
/// The counters are exact while nothing is published to the subscriber or received from it, except
/// `high_water`. At rest, of the messages that matched: `matched == received + missed + conflated + depth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SubscriberInfo {
    /// What tells the subscriber from all others that the bus has, or ever had; see
    /// [`Subscriber::id`](crate::Subscriber::id).
    pub id: u64,
    /// The label set by [`SubscriberBuilder::label`](crate::SubscriberBuilder::label), for logs and
    /// metrics.
    pub label: Option<Arc<str>>,
    /// Channels held.
    pub channels: usize,
    /// Patterns held.
    pub patterns: usize,
    /// Messages in the inbox.
    pub depth: usize,
    /// Messages that the inbox can hold.
    pub capacity: usize,
    /// What happens to messages that find the inbox full.
    pub overflow: Overflow,
    /// The largest number of messages that the inbox has held. Sampled; may understate the peak by
    /// up to one eighth.
    ///
    /// The samples are taken by the subscriber's receives, by a publish that finds the inbox full,
    /// and by the call that returns this. The bound holds for one reader that does not use
    /// [`receiver`](crate::Subscriber::receiver); otherwise more can be overlooked.
    pub high_water: usize,
    /// Messages taken from the inbox, including those taken through
    /// [`receiver`](crate::Subscriber::receiver).
    pub received: u64,
    /// Messages lost: evicted by newer ones, or refused by the full inbox.
    pub missed: u64,
    /// Messages replaced unread by a newer one of their channel, by
    /// [`Overflow::Conflate`](crate::Overflow::Conflate); otherwise 0.
    pub conflated: u64,
}

/// Counters of one channel, returned by [`Topic::stats`](crate::Topic::stats).
///
/// They count from when the bus began to keep the channel: at the latest, from its first topic or subscription. What
/// patterns delivered on the channel is included. They are exact while nothing is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TopicStats {
    /// Publishes, including those that matched nothing. Those on a closed bus count in
    /// [`Stats`] alone.
    pub published: u64,
    /// Messages to deliver.
    pub matched: u64,
    /// Messages that entered an inbox.
    pub delivered: u64,
    /// Messages that did not enter an inbox.
    pub dropped: u64,
    /// Messages that publishes on this channel removed from inboxes to make room.
    pub evicted: u64,
    /// Messages of this channel that newer ones replaced, by [`Overflow::Conflate`](crate::Overflow::Conflate).
    pub conflated: u64,
    /// Subscribers of the channel itself now; 0 on a closed bus.
    pub subscribers: usize,
}

/// Why a subscriber was closed, returned by
/// [`Subscriber::close_reason`](crate::Subscriber::close_reason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CloseReason {
    /// [`Subscriber::close`](crate::Subscriber::close) was called.
    Subscriber,
    /// The bus was closed, or its last `Bus` and `Topic` dropped.
    Bus,
    /// The inbox was full and its policy is [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    Overflow,
}
