//! What a bridge tells of itself: events, and figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanout::{Bus, Pattern};

use crate::error::BridgeError;

/// What happened to a bridge; see [`BridgeBuilder::events`](crate::BridgeBuilder::events).
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum BridgeEvent {
    /// It is connected for the first time, and what was wanted then is subscribed upstream.
    Connected,
    /// An attempt to connect failed, or to subscribe after it. It tries again after a pause.
    Unreachable {
        /// How many have failed since the bridge was begun, or the server was lost.
        attempts: u32,
        /// The error of this one.
        error: String,
    },
    /// It lost the server. It tries to reach it again.
    Disconnected {
        /// What it saw.
        error: String,
    },
    /// It has reached the server again, and has subscribed upstream to what is wanted now.
    Resumed {
        /// The time since the server was last heard of, the pause before the last attempt included.
        away: Duration,
        /// `true` if something was subscribed upstream when the server was lost. What others published meanwhile is
        /// gone, and nobody knows how much it was: Redis Pub/Sub delivers at most once.
        maybe_missed: bool,
    },
    /// Messages of this process were not sent. The bridge's inbox was full and its overflow policy has chosen them; or
    /// the connection broke while they were on their way without an envelope, so that they may have arrived and cannot
    /// be sent again.
    NotSent {
        /// How many.
        messages: u64,
    },
    /// The server refused a message of this process, or the codec could not encode it.
    Refused {
        /// The channel.
        channel: Arc<str>,
        /// Why.
        error: String,
    },
    /// A message that came from outside could not be decoded. It was not published here.
    Undecodable {
        /// The channel.
        channel: Arc<str>,
        /// Why.
        error: String,
    },
    /// Somebody subscribed to a pattern, which a [`sharded`](crate::BridgeBuilder::sharded) bridge cannot fetch.
    NotFetched {
        /// The pattern.
        pattern: Pattern,
    },
}

/// Figures of a bridge, since it was begun; see [`BridgeHandle::stats`](crate::BridgeHandle::stats).
///
/// They are not among those of [`Bus::record_metrics`](fanout::Bus): hand them to your recorder beside it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct BridgeStats {
    /// Messages of this process that the server has confirmed.
    pub sent: u64,
    /// Messages of this process that were not sent: see [`BridgeEvent::NotSent`].
    pub not_sent: u64,
    /// Messages of this process that the server refused, or that could not be encoded.
    pub refused: u64,
    /// Messages from outside that were published here.
    pub received: u64,
    /// Messages from outside that could not be decoded.
    pub undecodable: u64,
    /// Messages that came back to this process, and were dropped.
    pub echoes: u64,
    /// Copies of messages that were published here already, and were dropped: one came for each of several
    /// subscriptions that match, or was sent again after the connection had broken.
    pub duplicates: u64,
    /// How often the server was lost.
    pub disconnects: u64,
    /// Channels and patterns subscribed upstream.
    pub subscriptions: u64,
}

macro_rules! counters {
    ($($field:ident),*) => {
        /// The figures, as they are written.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $field: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> BridgeStats {
                // Relaxed: figures, each of some recent moment.
                BridgeStats { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters!(
    sent,
    not_sent,
    refused,
    received,
    undecodable,
    echoes,
    duplicates,
    disconnects,
    subscriptions
);

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    // Relaxed: see `Counters::read`.
    counter.fetch_add(count, Ordering::Relaxed);
}

/// What the parts of a bridge write to.
pub(crate) struct Log {
    pub(crate) counters: Counters,
    /// The events go to its one channel.
    pub(crate) events: Bus<BridgeEvent>,
    /// Why the server could not be reached, or was lost. `None` while the bridge is connected.
    last_error: Mutex<Option<String>>,
}

impl Log {
    /// The channel of events, on a bus of their own.
    pub(crate) const CHANNEL: &str = "bridge";

    pub(crate) fn new() -> Self {
        Self { counters: Counters::default(), events: Bus::new(), last_error: Mutex::default() }
    }

    pub(crate) fn tell(&self, event: BridgeEvent) {
        match &event {
            BridgeEvent::Unreachable { error, .. } | BridgeEvent::Disconnected { error } => {
                *self.last_error() = Some(error.clone());
            }
            BridgeEvent::Connected | BridgeEvent::Resumed { .. } => *self.last_error() = None,
            _ => {}
        }
        self.events.publish(Self::CHANNEL, event);
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the error for a caller that would not wait any longer.
    pub(crate) fn not_ready(&self) -> BridgeError {
        BridgeError::NotReady { last_error: self.last_error().clone() }
    }

    pub(crate) fn not_sent(&self, messages: u64) {
        if messages > 0 {
            add(&self.counters.not_sent, messages);
            self.tell(BridgeEvent::NotSent { messages });
        }
    }

    pub(crate) fn refused(&self, channel: &str, error: String) {
        add(&self.counters.refused, 1);
        self.tell(BridgeEvent::Refused { channel: channel.into(), error });
    }
}
