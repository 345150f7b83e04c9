//! Bridges a [`fanout`] bus to a Redis server: one event bus across processes.
//!
//! Code that publishes and subscribes on the bus stays as it is. A bridge *forwards* what is published on some channels
//! to the server, and *accepts* what other processes, or any other Redis client, publish there.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use fanout::Bus;
//! use fanout_redis::Bridge;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus: Bus = Bus::new();
//! let bridge = Bridge::builder(&bus, "redis://127.0.0.1:6379")
//!     .forward("game:*:events")
//!     .accept("game:*:events")
//!     .spawn()?;
//! bridge.wait_ready(Duration::from_secs(5))?; // or `bridge.ready().await?`
//!
//! let player = bus.subscribe("game:7:events")?; // the bridge subscribes at the server shortly after
//! bridge.wait_subscribed(Duration::from_secs(5))?; // or `bridge.subscribed().await?`; it has
//! bus.publish("game:7:events", "checkmate"); // to `player` at once, and to other processes
//! # Ok(())
//! # }
//! ```
//!
//! - **Only what is wanted** is subscribed at the server: the channels and patterns that somebody on the bus has
//!   subscribed to, as far as they are accepted. What nobody wants any more is let go after a
//!   [pause](BridgeBuilder::linger).
//! - **Nothing loops and nothing is doubled.** Messages carry who sent them, and a number. A message that comes for
//!   several subscriptions is published once.
//! - **Payloads** are bytes or text, which go as they are, or of any type by a [`Codec`], such as [`Json`]. What does
//!   not decode is counted, told to a [callback](BridgeBuilder::on_undecodable), and left out.
//! - **The server may go away.** The bridge reconnects, with growing pauses. What is published meanwhile waits in its
//!   inbox, which has a [capacity](BridgeBuilder::capacity) and an [overflow policy](BridgeBuilder::overflow) like
//!   every inbox, and is sent when the bridge is back: only who is back by then gets it. No gap is silent: see
//!   [`BridgeEvent`], and [`when`], the page on what is promised and what is not.
//! - **Other clients** may publish to accepted channels without an envelope. To be read by them, a bridge is
//!   [`plain`](BridgeBuilder::plain).
//! - **In a tokio runtime** the bridge is a task. Elsewhere, it has a thread.
//!
//! # Payloads of any type
//!
//! ```no_run
//! use fanout::Bus;
//! use fanout_redis::{Bridge, Json};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! enum Notice {
//!     Follow { by: u32 },
//!     Like { by: u32, post: u32 },
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus: Bus<Notice> = Bus::new();
//! let bridge = Bridge::builder(&bus, "redis://127.0.0.1:6379")
//!     .codec(Json)
//!     .forward("user:*:notifications")
//!     .accept("user:*:notifications")
//!     .spawn()?;
//! bus.publish("user:7:notifications", Notice::Like { by: 2, post: 5 });
//! # Ok(())
//! # }
//! ```
//!
//! # What it sees
//!
//! ```no_run
//! use fanout::{Bus, Event};
//! use fanout_redis::{Bridge, BridgeEvent};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bus: Bus = Bus::new();
//! let builder = Bridge::builder(&bus, "redis://127.0.0.1:6379").accept("prices:*");
//! let events = builder.events().spawn("bridge", |event| {
//!     if let Event::Message(message) = event {
//!         match message.payload {
//!             BridgeEvent::Resumed { away, maybe_missed: true } => {
//!                 eprintln!("prices of {away:?} may be missing: fetching the newest");
//!             }
//!             other => eprintln!("{other:?}"),
//!         }
//!     }
//! });
//! events.detach(); // a listener that is dropped stops
//! builder.spawn()?.detach();
//! # Ok(())
//! # }
//! ```
//!
//! # Servers
//!
//! Redis 6 or later, or Valkey: the bridge speaks RESP3, since only there a server says at which place among the
//! messages a subscription begins and ends. TLS (`rediss://`, feature `tls`), users and passwords, Unix sockets,
//! Sentinel (feature `sentinel`) and sharded channels are tested against redis-server 7.0; one node of a cluster is
//! not.
//!
//! # Features
//!
//! `json` (default): [`Json`]. `sentinel`. `tls`: by rustls, with `ring`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

mod builder;
mod codec;
mod envelope;
mod error;
mod event;
mod gate;
mod glob;
mod handle;
mod inward;
mod life;
mod outward;
mod server;
mod status;
mod upstream;
mod worker;

pub use builder::{Bridge, BridgeBuilder};
#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{Codec, CodecError, Raw};
pub use error::BridgeError;
pub use event::{BridgeEvent, BridgeStats};
pub use handle::BridgeHandle;

pub use bytes;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc = include_str!("when.md")]
pub mod when {}
