//! The errors of subscribing and receiving. A leaf: it knows nothing of the engine.

use std::error::Error;
use std::fmt;

/// The subscriber is closed and everything it held has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecvError {
    /// Closed and drained. It stays so for good.
    Closed,
}

/// Why a receive that does not wait returned nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TryRecvError {
    /// Nothing to read at the moment.
    Empty,
    /// Closed and drained. It stays so for good.
    Closed,
}

/// Why a receive that waits for a bounded time returned nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecvTimeoutError {
    /// The time is over and nothing came.
    Timeout,
    /// Closed and drained. It stays so for good.
    Closed,
}

const CLOSED: &str = "the subscriber is closed and drained";

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CLOSED)
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the subscriber has nothing to read",
            Self::Closed => CLOSED,
        })
    }
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timed out waiting for an event",
            Self::Closed => CLOSED,
        })
    }
}

impl Error for RecvError {}
impl Error for TryRecvError {}
impl Error for RecvTimeoutError {}

impl From<RecvError> for TryRecvError {
    fn from(_: RecvError) -> Self {
        Self::Closed
    }
}

impl From<RecvError> for RecvTimeoutError {
    fn from(_: RecvError) -> Self {
        Self::Closed
    }
}

impl From<crossbeam_channel::RecvError> for RecvError {
    fn from(_: crossbeam_channel::RecvError) -> Self {
        Self::Closed
    }
}

/// A shell glob that does not parse.
///
/// Only [`Pattern::glob`](crate::Pattern::glob) makes one: every string is a valid Redis pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PatternError {
    pub(crate) glob: String,
    pub(crate) reason: String,
    pub(crate) offset: Option<usize>,
}

impl PatternError {
    /// The text that was refused, as written.
    pub fn pattern(&self) -> &str {
        &self.glob
    }

    /// Where in the text the fault lies, in bytes from its beginning, where that can be told.
    pub fn offset(&self) -> Option<usize> {
        self.offset
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid glob {:?}", self.glob)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl Error for PatternError {}

/// Why a subscription was refused. Nothing has changed when one is returned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The bus or the subscriber is closed.
    Closed,
    /// The channel's name is longer than [`Limits::max_channel_len`](crate::Limits::max_channel_len).
    #[non_exhaustive]
    ChannelTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The pattern's text is longer than [`Limits::max_pattern_len`](crate::Limits::max_pattern_len).
    #[non_exhaustive]
    PatternTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The subscriber would hold more than [`Limits::max_subscriptions`](crate::Limits::max_subscriptions).
    #[non_exhaustive]
    TooManySubscriptions {
        /// The limit, in channels and patterns together.
        limit: usize,
    },
    /// The bus would have more than [`Limits::max_subscribers`](crate::Limits::max_subscribers).
    #[non_exhaustive]
    TooManySubscribers {
        /// The limit, in subscribers.
        limit: usize,
    },
    /// The bus would have more than [`Limits::max_channels`](crate::Limits::max_channels).
    #[non_exhaustive]
    TooManyChannels {
        /// The limit, in channels that have a subscriber.
        limit: usize,
    },
    /// The bus would have more than [`Limits::max_patterns`](crate::Limits::max_patterns).
    #[non_exhaustive]
    TooManyPatterns {
        /// The limit, in distinct patterns.
        limit: usize,
    },
    /// The pattern does not parse. What is wrong with it is the error's
    /// [`source`](std::error::Error::source).
    Pattern(PatternError),
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the bus or the subscriber is closed"),
            Self::ChannelTooLong { limit } => {
                write!(f, "the channel's name exceeds max_channel_len ({limit} bytes)")
            }
            Self::PatternTooLong { limit } => {
                write!(f, "the pattern exceeds max_pattern_len ({limit} bytes)")
            }
            Self::TooManySubscriptions { limit } => {
                write!(f, "the subscriber has reached max_subscriptions ({limit})")
            }
            Self::TooManySubscribers { limit } => {
                write!(f, "the bus has reached max_subscribers ({limit})")
            }
            Self::TooManyChannels { limit } => {
                write!(f, "the bus has reached max_channels ({limit})")
            }
            Self::TooManyPatterns { limit } => {
                write!(f, "the bus has reached max_patterns ({limit})")
            }
            Self::Pattern(_) => f.write_str("invalid pattern"),
        }
    }
}

impl Error for SubscribeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Pattern(error) => Some(error),
            _ => None,
        }
    }
}

impl From<PatternError> for SubscribeError {
    fn from(error: PatternError) -> Self {
        Self::Pattern(error)
    }
}
