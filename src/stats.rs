//! What the engine tells of itself. A leaf.

use std::sync::Arc;

/// What one publish did. `matched == delivered + dropped`.
///
/// A publish that nobody listens to is a receipt of zeros, never an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Subscriptions that matched, in messages.
    pub matched: usize,
    /// Messages that entered an inbox, those that evicted an older one included.
    pub delivered: usize,
    /// Messages of this publish that did not enter an inbox.
    pub dropped: usize,
}

/// Counters of a whole bus since it was built; see [`Bus::stats`](crate::Bus::stats).
///
/// Exact at rest. While publishes are under way the counters are read one after another.
///
/// The books of a bus at rest, over all time: `matched == received + dropped + evicted + discarded + queued`, where
/// *queued* is what all inboxes hold ([`Subscriber::len`](crate::Subscriber::len)), those of closed subscribers too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Stats {
    /// Publishes, those that matched nothing included.
    pub published: u64,
    /// Messages that publishes were to deliver: `delivered + dropped`.
    pub matched: u64,
    /// Messages that entered an inbox.
    pub delivered: u64,
    /// Messages that did not enter an inbox.
    pub dropped: u64,
    /// Messages that had entered an inbox and made room for a newer one, unread.
    pub evicted: u64,
    /// Messages taken from inboxes, through `receiver()` too.
    pub received: u64,
    /// Messages that were unread when their inbox was dropped.
    pub discarded: u64,
    /// Subscribers that were ended because their inbox was full: see
    /// [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    pub disconnected: u64,
    /// Channels that have a subscriber of their own.
    pub channels: usize,
    /// Distinct patterns.
    pub patterns: usize,
    /// Subscribers that have subscribed to something and are not closed.
    pub subscribers: usize,
}

/// What one subscriber looks like from outside; see [`Subscriber::info`](crate::Subscriber::info).
///
/// At rest, of the messages that matched: `matched == received + missed + depth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SubscriberInfo {
    /// The label given at building, for logs and metrics.
    pub label: Option<Arc<str>>,
    /// Channels held.
    pub channels: usize,
    /// Patterns held.
    pub patterns: usize,
    /// Messages waiting in the inbox.
    pub depth: usize,
    /// Messages the inbox can hold.
    pub capacity: usize,
    /// The largest depth seen, sampled at receives and on overflow. Not every receive looks: of what one reader finds, an
    /// eighth at most is overlooked; of what clones find that read at once, it can be more.
    pub high_water: usize,
    /// Messages taken from the inbox, through `receiver()` too.
    pub received: u64,
    /// Messages lost: evicted by newer ones, or refused.
    pub missed: u64,
}

/// Why a subscriber was closed; see [`Subscriber::close_reason`](crate::Subscriber::close_reason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// [`Subscriber::close`](crate::Subscriber::close) was called.
    Subscriber,
    /// The bus was closed, or its last handle dropped.
    Bus,
    /// The inbox was full and its policy is [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    Overflow,
}
