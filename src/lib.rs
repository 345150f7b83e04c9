//! An embeddable, in-process publish/subscribe engine.

#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod bus;
mod core;
mod error;
mod event;
mod fanout;
mod inbox;
mod limits;
mod listener;
mod member;
mod pattern;
mod stats;
mod subscriber;
mod sync;
mod topic;
mod trie;
mod turn;

pub use crossbeam_channel;

pub use bus::{Bus, BusBuilder, WeakBus};
pub use error::{PatternError, RecvError, RecvTimeoutError, SubscribeError, TryRecvError};
pub use event::{Event, Message};
pub use limits::{Limits, Overflow};
pub use listener::Listener;
pub use pattern::Pattern;
pub use stats::{CloseReason, Receipt, Stats, SubscriberInfo};
pub use subscriber::{IntoIter, Iter, Messages, Subscriber, SubscriberBuilder, TryIter};
pub use topic::Topic;
