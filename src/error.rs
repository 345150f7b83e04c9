//! The errors of subscribing and receiving. Knows nothing of the engine.

use std::error::Error;
use std::fmt;

/// The error of a receive that waits without end, such as
/// [`Subscriber::recv`](crate::Subscriber::recv).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecvError {
    /// The subscriber is closed and its inbox drained. Every later receive returns this too.
    Closed,
}

/// The error of a receive that does not wait, such as
/// [`Subscriber::try_recv`](crate::Subscriber::try_recv).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TryRecvError {
    /// There is nothing to read now.
    Empty,
    /// The subscriber is closed and its inbox drained. Every later receive returns this too.
    Closed,
}

/// The error of a receive that waits for a limited time, such as
/// [`Subscriber::recv_timeout`](crate::Subscriber::recv_timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecvTimeoutError {
    /// The time has passed and there was nothing to read.
    Timeout,
    /// The subscriber is closed and its inbox drained. Every later receive returns this too.
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

/// The error of [`Pattern::glob`](crate::Pattern::glob) for a text that is no shell glob.
///
/// No other function returns it: every string is a valid Redis glob.
///
/// # Examples
///
/// ```
/// use fanout::Pattern;
///
/// let error = Pattern::glob("sensors/{temp").unwrap_err();
/// assert_eq!(error.pattern(), "sensors/{temp");
/// println!("{error}"); // says what is wrong
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PatternError {
    pub(crate) glob: String,
    pub(crate) reason: String,
    pub(crate) offset: Option<usize>,
}

impl PatternError {
    /// Returns the text that was refused, as written.
    pub fn pattern(&self) -> &str {
        &self.glob
    }

    /// Returns the position of the fault in the text, in bytes, or `None` if it cannot be told.
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

/// The error of a subscribe. Nothing has changed when it is returned.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Pattern, Subscriber, SubscribeError};
///
/// fn sensors(bus: &Bus, glob: &str) -> Result<Subscriber, SubscribeError> {
///     bus.psubscribe(Pattern::glob(glob)?)
/// }
///
/// let bus: Bus = Bus::new();
/// assert!(matches!(sensors(&bus, "sensors/{temp"), Err(SubscribeError::Pattern(_))));
/// bus.close();
/// assert!(matches!(sensors(&bus, "sensors/*"), Err(SubscribeError::Closed)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The bus or the subscriber is closed.
    Closed,
    /// The channel's name is longer than
    /// [`Limits::max_channel_len`](crate::Limits::max_channel_len).
    #[non_exhaustive]
    ChannelTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The pattern's text is longer than
    /// [`Limits::max_pattern_len`](crate::Limits::max_pattern_len).
    #[non_exhaustive]
    PatternTooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The subscriber would hold more channels and patterns than
    /// [`Limits::max_subscriptions`](crate::Limits::max_subscriptions).
    #[non_exhaustive]
    TooManySubscriptions {
        /// The limit, in channels and patterns together.
        limit: usize,
    },
    /// The bus would have more subscribers than
    /// [`Limits::max_subscribers`](crate::Limits::max_subscribers).
    #[non_exhaustive]
    TooManySubscribers {
        /// The limit, in subscribers.
        limit: usize,
    },
    /// The bus would have more channels than [`Limits::max_channels`](crate::Limits::max_channels).
    #[non_exhaustive]
    TooManyChannels {
        /// The limit, in channels that have a subscriber of their own.
        limit: usize,
    },
    /// The bus would have more distinct patterns than
    /// [`Limits::max_patterns`](crate::Limits::max_patterns).
    #[non_exhaustive]
    TooManyPatterns {
        /// The limit, in distinct patterns.
        limit: usize,
    },
    /// The pattern does not parse; [`source`](std::error::Error::source) returns what is wrong with
    /// it.
    ///
    /// No method of this crate returns this. It is there for `?` in a function that calls both
    /// [`Pattern::glob`](crate::Pattern::glob) and a subscribe.
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
