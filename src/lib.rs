//! An embeddable, in-process publish/subscribe engine: Redis Pub/Sub's model (channels, glob patterns,
//! lifecycle events, fire and forget) at the cost of a function call.
//!
//! - Publishing fans out without allocating, and without a lock that another channel's publish takes (a
//!   pattern that matches both apart, whose subscribers both publish to).
//! - A slow subscriber loses its own messages, and is told; or publishers wait for it, if it asked for that, when
//!   all others have got theirs.
//! - A publish to a channel in use does not feel how many patterns are on the bus.
//! - Every inbox sees the messages of a channel in the same order.
//! - No lock is held while user code runs.
//! - It opens no socket, writes no file, and persists nothing: what is published while nobody listens
//!   is gone.
//!
//! ```
//! use fanout::{Bus, Event};
//!
//! let bus: Bus = Bus::new();
//! let player = bus.subscribe("game:7:events")?;
//! let spectator = bus.psubscribe("game:*:events")?;
//!
//! let receipt = bus.publish("game:7:events", "checkmate");
//! assert_eq!((receipt.matched, receipt.delivered), (2, 2));
//!
//! assert!(matches!(player.recv()?, Event::Subscribe { count: 1, .. }));
//! assert_eq!(&*player.recv_message()?.payload, "checkmate");
//! assert_eq!(spectator.recv_message()?.pattern(), Some("game:*:events"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The parts
//!
//! A [`Bus`] is a handle to the engine, cloned freely. A [`Subscriber`] is a set of channels and
//! patterns that feed one bounded inbox; what it yields is an [`Event`]. A [`Topic`] is a publisher's
//! handle to one channel. A [`Receipt`] tells what a publish did.
//!
//! The payload is any `P: Clone + Send + 'static`, `Arc<str>` where nothing else is said. It is cloned
//! for every receiver but the last, so it should be cheap to clone: an `Arc`, a `Bytes`, a small event.
//!
//! # Patterns
//!
//! [`Bus::psubscribe`] takes a [`Pattern`] of either of two dialects. A string is a *Redis glob*,
//! matched exactly as redis-server does: over bytes, `*` any run of them, `?` one, `[...]` one of a
//! class, `\x` the byte `x`; no byte is a separator. [`Pattern::glob`] makes a *shell glob*, read by the
//! crate `globset`, with `/` between levels.
//!
//! A message that came by a pattern is an [`Event::PMessage`], and says which. A subscriber gets a
//! message once for each of its subscriptions that match: first by the channel itself, then by its
//! patterns in the order it subscribed them; once in all with [`SubscriberBuilder::dedupe`].
//!
//! # Ordering
//!
//! Messages of one publisher thread arrive in its order. All inboxes that get two messages of one
//! channel get them in the same order, whichever threads published them: a publish has the channel's
//! *turn* while it fans out, and a publisher waits for its channel's turn, never for a subscriber to
//! read. [`Overflow::Block`] gives up the second promise for inboxes that were full, and keeps the
//! first. Nothing is promised across channels of different publishers, or among clones of a subscriber.
//!
//! When `publish` returns, what it delivered can be read, and publishing happens-before receiving. A
//! subscription is live when `subscribe` returns; a publish that begins after `unsubscribe` has returned
//! does not reach it.
//!
//! # Slow subscribers
//!
//! An inbox has room for as many messages as was asked, and its own [`Overflow`] policy decides what
//! happens when it is full: lose the oldest, lose the newest, end the subscriber, or make the publisher
//! wait, after all others have been served.
//!
//! ```
//! use fanout::{Bus, Event};
//!
//! let bus: Bus<u32> = Bus::builder().capacity(2).build();
//! let slow = bus.subscriber_builder().lifecycle_events(false).subscribe("ticks")?;
//! for n in 1..=5_u32 {
//!     bus.publish("ticks", n);
//! }
//! assert!(matches!(slow.recv()?, Event::Lagged { missed: 3 }));
//! assert_eq!(slow.recv_message()?.payload, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The books balance, at rest, for every inbox: of the messages that matched,
//! `matched == received + missed + depth` (see [`SubscriberInfo`]); for every publish
//! `matched == delivered + dropped` (see [`Receipt`]); and for the bus, over all time,
//! `matched == received + missed + discarded + queued` (see [`Stats`]).
//!
//! # Closing
//!
//! [`Bus::close`], or dropping the last `Bus` and `Topic`, closes the bus: publishing matches nothing,
//! and each subscriber drains what it has and then gets `Closed`, for good. A subscriber does not keep a
//! bus open; a handler that owns a `Bus` does, which is what [`WeakBus`] is for. The last clone of a
//! subscriber dropped unsubscribes it everywhere, and what nobody holds any more is pruned.
//!
//! # Re-entrancy
//!
//! User code runs outside every lock and turn: handlers, closures, conversions, and the `Drop` of
//! payloads. It may publish, subscribe, unsubscribe, drop subscribers and close the bus, from anywhere.
//! The one exception is a payload's `Clone`, which runs in the turn of the channel: a call from it that can wait (any on
//! a bus, a receive that finds nothing, the `join` of a [`Listener`]) panics with a message that says so, and never
//! deadlocks. (Dropping a subscriber, a topic or a bus there is allowed; the subscriber is unsubscribed when the publish
//! has ended.) Waiting there by other means, as on [`Subscriber::receiver`], holds up the channel. A panic in user code
//! harms that call alone.
//!
//! # Complexity
//!
//! | what | cost |
//! | --- | --- |
//! | publish | linear in the messages delivered, plus a hash of the name unless by a [`Topic`] |
//! | publish to a name not seen of late | matching once: by the name's length and the patterns that match, see below |
//! | subscribe, unsubscribe (a channel) | O(1), O(log n) in the channel's subscribers |
//! | psubscribe, punsubscribe | linear in the pattern's length, and in patterns of the same meaning |
//! | memory of an inbox | capacity × message, taken when the subscriber is made |
//!
//! A publish does not allocate when its channel has a subscriber or a [`Topic`], or was published to
//! recently, and no new pattern that could match has been added since; otherwise a few times, for the
//! channel's entry and for each pattern that matches. Names recently published to are remembered
//! within 2 MiB for each bus, or 32 KiB for each of its stripes where that is more (see
//! [`BusBuilder::stripes`]).
//!
//! Patterns lie in a trie, by their literal runs, and one channel is matched against all of them at
//! once. In the worst case that is polynomial: the size of the patterns times the length of the name. No
//! pattern makes it exponential, and none overflows the stack.
//!
//! # Limits
//!
//! By default a bus bounds nothing but inboxes. [`Limits`] bounds the length of subscribed names and
//! patterns, the subscriptions of a subscriber, and the subscribers, channels and patterns of the bus.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod bus;
mod engine;
mod error;
mod event;
mod inbox;
mod limits;
mod listener;
mod member;
mod pattern;
mod prefetch;
mod publish;
mod reentrancy;
mod small_str;
mod source;
mod stats;
mod subscriber;
mod sync;
mod topic;
mod trie;

pub use crossbeam_channel;

pub use bus::{Bus, BusBuilder, WeakBus};
pub use error::{PatternError, RecvError, RecvTimeoutError, SubscribeError, TryRecvError};
pub use event::{Event, Message};
pub use limits::{Limits, Overflow};
pub use listener::Listener;
pub use pattern::Pattern;
pub use stats::{CloseReason, Receipt, Stats, SubscriberInfo};
pub use subscriber::{
    IntoIter, IntoMessages, Iter, Messages, Subscriber, SubscriberBuilder, TryIter, TryMessages,
};
pub use topic::Topic;

/// What the fuzz targets need to see of the inside.
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing {
    pub use crate::trie::fuzzing::{finds_glob, matches};
}

/// The Rust in the README, compiled and run.
#[cfg(all(doctest, feature = "glob"))]
#[doc = include_str!("../README.md")]
struct Readme;
