//! The contenders behind one face: a channel with a publisher and some receivers.

pub mod actors;
pub mod engine;
pub mod queues;
pub mod redis;
pub mod rings;

use std::sync::Arc;

use anyhow::Result;

/// The payload of all contenders, cloned for each publish as by an application that keeps its own.
pub type Payload = Arc<[u8]>;

/// Bytes of a payload.
pub const PAYLOAD: usize = 64;

pub fn payload() -> Payload {
    Arc::from([0x5a; PAYLOAD])
}

/// The sending end of one channel.
///
/// By shared reference, so that it can lie in a map under a read lock, as it would in an application.
pub trait Publish: Send {
    /// Sends a message to all receivers.
    fn publish(&self, payload: Payload) -> Result<()>;

    /// Makes sure that all that was published has been sent.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// The result of a receive.
pub enum Got {
    Message(Payload),
    /// The number of messages that were lost, as the receiver is told.
    Lost(u64),
    /// There is no message, and for [`Receive::recv`]: there will be none.
    Nothing,
}

impl Got {
    /// The result of a receive by a receiver that is told of no losses.
    pub fn of<E>(received: Result<Payload, E>) -> Self {
        received.map_or(Self::Nothing, Self::Message)
    }
}

/// The receiving end.
pub trait Receive: Send {
    fn try_recv(&mut self) -> Result<Got>;

    /// Blocks the thread until there is something, or the publisher is gone.
    fn recv(&mut self) -> Result<Got>;
}

/// A receiver for a task of its own.
pub trait ReceiveAsync: Receive + 'static {
    /// Calls `take` with each message, in the loop that its crate's user would write. A loss need not show: it
    /// is for the caller to count.
    fn each(self, take: impl FnMut(Payload) + Send) -> impl Future<Output = ()> + Send;
}

/// A way to send from one to many.
pub trait Peer: Sync {
    type Publisher: Publish;
    type Receiver: Receive;

    fn name(&self) -> &'static str;

    /// Returns what a full queue means.
    fn when_full(&self) -> WhenFull;

    /// A new channel; each receiver, or the ring they share, has room for `capacity` messages.
    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)>;
}

/// The meaning of a full queue for the publisher and the receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The receiver loses its oldest messages, and is told.
    LosesOldest,
    /// The receiver loses the new message; only the publisher could know.
    LosesNewest,
    /// The publisher waits.
    Waits,
    /// Another process keeps it.
    ServerBuffers,
}

impl WhenFull {
    pub fn text(self) -> &'static str {
        match self {
            Self::LosesOldest => "loses oldest",
            Self::LosesNewest => "loses newest",
            Self::Waits => "publisher waits",
            Self::ServerBuffers => "server buffers",
        }
    }

    /// `true` if the receivers are told of every loss, so that what they read and what they are told must
    /// add up to what was published.
    pub fn is_told(self) -> bool {
        self != Self::LosesNewest
    }
}
