//! An embeddable, in-process publish/subscribe engine: Redis Pub/Sub's model (channels, glob patterns,
//! lifecycle events, fire and forget) at the cost of a function call.
//!
//! - A publish to a channel in use allocates nothing, however many receivers it has, and costs the same
//!   however many patterns are on the bus.
//! - A slow subscriber delays nobody. It loses messages of its own, is told how many, or asks publishers to
//!   wait for it when all others have been served.
//! - All inboxes get the messages of a channel in the same order.
//! - No lock is held while user code runs, except a payload's `Clone`.
//! - It opens no socket, writes no file, and stores nothing: what is published while nobody listens is
//!   gone.
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
//! A [`Bus`] is a handle to the engine; clone it freely. A [`Subscriber`] is a set of channels and patterns
//! that feed one bounded inbox, and yields [`Event`]s. A [`Topic`] is a publisher's handle to one channel,
//! resolved once. A [`Receipt`] tells what a publish did.
//!
//! A payload is any `P: Clone + Send + 'static`, by default `Arc<str>`. It is cloned for every receiver but
//! the last, so it should be cheap to clone: an `Arc`, a `Bytes`, a small event.
//!
//! A handler can run on a thread of its own ([`Subscriber::spawn`]):
//!
//! ```
//! use fanout::{Bus, Event};
//!
//! #[derive(Clone)]
//! struct Move(&'static str);
//!
//! let bus: Bus<Move> = Bus::new();
//! let referee = bus.psubscribe("game:*:moves")?.spawn("referee", |event| match event {
//!     Event::PMessage(message) => println!("{}: {}", message.channel(), message.payload.0),
//!     Event::Lagged { missed } => eprintln!("{missed} moves were lost"),
//!     _ => {} // subscribed, unsubscribed
//! });
//! bus.topic("game:7:moves").publish(Move("e4"));
//! drop(bus); // the last handle: the bus closes, the referee drains its inbox and ends
//! referee.join().unwrap();
//! # Ok::<(), fanout::SubscribeError>(())
//! ```
//!
//! # Patterns
//!
//! [`Bus::psubscribe`] takes a [`Pattern`] of one of two dialects. A string is a *Redis glob*, which matches
//! exactly what it matches in redis-server: `*` is any run of bytes, `?` one byte, `[...]` one byte of a class,
//! `\x` the byte `x`; no byte is a separator. [`Pattern::glob`] makes a *shell glob*, read by the crate `globset`,
//! with `/` between levels.
//!
//! A message that came by a pattern is an [`Event::PMessage`], and names the pattern. A subscriber gets a
//! message once for each of its subscriptions that match: first for the channel itself, then for its
//! patterns in the order it subscribed them. With [`SubscriberBuilder::dedupe`] it gets the first of these
//! alone. More in [`docs::patterns`], and for users of Redis in [`docs::redis`].
//!
//! # Ordering
//!
//! - The messages of one publisher, a thread or a task, arrive in its order.
//! - All inboxes that get two messages of one channel get them in the same order, whoever published
//!   them. A publish has its channel's *turn* while it delivers. A publisher may wait for that turn, but not for a
//!   subscriber to read.
//! - [`Overflow::Block`] keeps the first promise and gives up the second for inboxes that were full.
//!   [`Overflow::Conflate`] keeps both for each channel, and gives up the first across channels: a newer message is
//!   read where the one stood that it has replaced.
//! - Nothing is promised across channels of different publishers, or among clones of a subscriber.
//! - A subscription is live when `subscribe` returns. A publish that begins after `unsubscribe` has returned does
//!   not reach it.
//! - When `publish` returns, what it delivered can be read. Publishing happens-before receiving.
//!
//! # Slow subscribers
//!
//! An inbox has a capacity, and an [`Overflow`] policy that decides what happens when it is full: it loses its
//! oldest message, loses the new one, ends its subscriber, or makes the publisher wait after all others have
//! been served (in a task, publish to such an inbox with `publish_async`). Or it keeps only the newest message of
//! each channel ([`Overflow::Conflate`]). No loss is silent:
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
//! At rest the books balance: for every publish `matched == delivered + dropped` (see [`Receipt`]), and for every
//! inbox `matched == received + missed + conflated + depth` (see [`SubscriberInfo`]). More in
//! [`docs::slow_subscribers`].
//!
//! # Closing
//!
//! [`Bus::close`] closes the bus, and so does dropping the last `Bus` and `Topic`. A publish then matches nothing,
//! and each subscriber drains what it has and gets `Closed`, for good. A subscriber does not keep a bus open. A
//! handler that owns a `Bus` does: let it own a [`WeakBus`]. When the last clone of a subscriber is dropped, it is
//! unsubscribed everywhere, and what nobody holds any more is removed.
//!
//! A [`Listener`] ends when its bus or subscriber is closed and drained. [`Listener::drain`] ends it alone: it
//! unsubscribes and handles what is queued. [`Listener::stop`], and dropping the listener, end it without that.
//! A subscriber that has unsubscribed from everything is still open, and may subscribe again.
//!
//! # Re-entrancy
//!
//! Handlers, closures, conversions and the `Drop` of payloads run outside every lock and turn. They may publish,
//! subscribe, unsubscribe, drop subscribers and close the bus, from anywhere. A panic in them harms that call
//! alone.
//!
//! The one exception is a payload's `Clone`, which runs in the turn of the channel. A call from it that can wait
//! (a publish, a subscribe, an unsubscribe, a look into the bus, a receive that finds nothing, [`Listener::join`])
//! panics with a message that says so, and never deadlocks. It may close the bus, and drop a subscriber, a topic or a
//! bus; the subscriber is unsubscribed when the publish has ended. If it waits by other means, as on
//! [`Subscriber::receiver`], it holds up the channel.
//!
//! # Complexity
//!
//! | what | cost |
//! | --- | --- |
//! | publish | linear in the messages delivered; by name, also a hash of the name |
//! | publish to a name not seen recently | in addition one match against all patterns |
//! | subscribe to a channel, unsubscribe | O(1), O(log n) in the channel's subscribers |
//! | psubscribe, punsubscribe | linear in the pattern's length, and in the number of equivalent patterns |
//! | memory of an inbox | capacity × message, allocated when the subscriber is made; under [`Overflow::Conflate`] as it is needed |
//!
//! A publish allocates nothing if its channel has a subscriber or a [`Topic`], or was published to recently, and
//! no new pattern that could match has been subscribed since its last publish. Otherwise, and when a name is
//! published to for the first time, it may allocate a few times: for the channel's entry and for each pattern
//! that matches, never for each receiver. (Conversion into the payload and its `Clone` are apart.) Names published
//! recently are remembered within 2 MiB for each bus, or 32 KiB for each of its stripes if that is more (see
//! [`BusBuilder::stripes`]).
//!
//! One channel is matched against all patterns at once, in time polynomial at worst: the size of the patterns times
//! the length of the name. No pattern makes it exponential, and none overflows the stack. Figures are in
//! [`docs::performance`]; many subscribers on few threads are the subject of [`docs::many_inboxes`].
//!
//! # Limits
//!
//! By default a bus bounds nothing but inboxes. [`Limits`] bounds the length of subscribed names and patterns, the
//! subscriptions of a subscriber, and the subscribers, channels and patterns of the bus. Past a limit a subscribe
//! is a [`SubscribeError`], and nothing has changed.
//!
//! # Cargo features
//!
//! - `async` (default): receiving and publishing in tasks, for any runtime: [`docs::tasks`]. It depends on the crate
//!   `futures-core`, which is small, and on no runtime.
//! - `glob` (default): shell globs, [`Pattern::glob`]. It depends on the crate `globset`, which takes 21 of the 28
//!   seconds of a first build.
//! - `metrics`: `Bus::record_metrics` writes the figures of a bus for Prometheus and others, by the crate `metrics`.
//! - `tracing`: the first loss of an inbox since its reader was told, so at most one line for each [`Event::Lagged`],
//!   and disconnects, at level *warn*; subscribing, unsubscribing and closing at *debug*. All have the target `fanout`,
//!   and the fields `id` and `label` of the subscriber. Losses and disconnects also have `policy`, and `channel`, that
//!   of the lost message; subscribing has `to` and `count`, unsubscribing `from` and `count`, closing `reason`. (A
//!   subscriber that is dropped has the reason `Subscriber`, as if it had been closed.) Of an inbox that is read by
//!   [`Subscriber::receiver`] alone, only the first loss is told: it never gets `Lagged`.
//! - `serde`: [`Overflow`], [`Limits`] and [`Pattern`] can be read from and written to configuration files; receipts,
//!   figures, messages and events can be written.
//!
//! With `serde`, a file can say `{"capacity": 32, "overflow": {"block": {"timeout": "250ms"}}, "limits":
//! {"max_channels": 10}, "watch": ["game:*", {"glob": "logs/**"}]}`. The policies without a timeout are
//! `"drop_oldest"`, `"drop_newest"`, `"conflate"` and `"disconnect"`; `{"block": {}}` waits without end. Events are
//! written as `{"type": "pmessage", "pattern": "game:*", "channel": "game:7", "payload": …}`, with redis-server's names
//! for the types. The struct around the settings is the program's own:
//!
//! ```
//! # #[cfg(feature = "serde")] {
//! #[derive(serde::Deserialize)]
//! struct Settings {
//!     capacity: std::num::NonZeroUsize,
//!     overflow: fanout::Overflow,
//!     #[serde(default)]
//!     limits: fanout::Limits,
//!     watch: Vec<fanout::Pattern>,
//! }
//! # let text = r#"{"capacity": 32, "overflow": {"block": {"timeout": "250ms"}}, "watch": ["game:*"]}"#;
//! # let settings: Settings = serde_json::from_str(text).unwrap();
//! # let bus: fanout::Bus =
//! #     fanout::Bus::builder().overflow(settings.overflow).capacity(settings.capacity.get()).build();
//! # bus.subscriber_builder().psubscribe_many(&settings.watch).unwrap();
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
// Without these, the docs speak of methods that are not there.
#![cfg_attr(not(all(feature = "async", feature = "glob")), allow(rustdoc::broken_intra_doc_links))]
#![deny(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod batch_arc;
mod bus;
#[cfg(any(doc, doctest))]
pub mod docs;
mod engine;
mod error;
mod event;
#[cfg(feature = "async")]
mod give_way;
mod inbox;
mod interest;
mod limits;
mod listener;
mod member;
#[cfg(feature = "metrics")]
mod metrics;
mod oversize;
mod pattern;
mod prefetch;
mod publish;
mod reentrancy;
mod router;
#[cfg(feature = "serde")]
mod serialize;
mod small_str;
mod source;
mod stats;
mod subscriber;
mod sync;
mod topic;
mod trace;
mod trie;
mod wait_list;
mod wakeups;

pub use crossbeam_channel;

pub use bus::{Bus, BusBuilder, WeakBus};
pub use error::{PatternError, RecvError, RecvTimeoutError, SubscribeError, TryRecvError};
pub use event::{Event, Message};
#[cfg(feature = "async")]
pub use interest::RecvInterest;
pub use interest::{Interest, InterestIter, InterestWatch};
pub use limits::{Limits, Overflow};
pub use listener::Listener;
pub use pattern::Pattern;
#[cfg(feature = "async")]
pub use publish::{Publish, PublishMany};
pub use router::{Router, RouterHandle};
pub use stats::{CloseReason, Receipt, Stats, SubscriberInfo, TopicStats};
#[cfg(feature = "async")]
pub use subscriber::{EventStream, MessageStream, Recv, RecvMessage};
pub use subscriber::{
    IntoIter, IntoMessages, Iter, Messages, Subscriber, SubscriberBuilder, TryIter, TryMessages,
};
pub use topic::Topic;

/// Internals that the fuzz targets check.
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing {
    pub use crate::trie::fuzzing::{finds_glob, matches};
}

/// Compiles and runs the Rust in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
