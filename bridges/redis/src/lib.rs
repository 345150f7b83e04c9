//! Bridges a [`fanout`] bus to a Redis server: one event bus across processes.
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
