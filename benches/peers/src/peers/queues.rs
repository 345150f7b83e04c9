//! A queue for each receiver, in a hand-made `Vec` of their sending ends.
//!
//! That of crossbeam's channels is the floor: `fanout` keeps such a channel for each of its inboxes. Where
//! a receiver polls or is a task, sending does not wait; in threads it does, by each crate's own blocking call
//! (`blocking_send` and `blocking_recv` for tokio's).

use anyhow::{Result, bail};
use tokio::sync::mpsc;

use super::{Got, Payload, Peer, Publish, Receive, ReceiveAsync, WhenFull};

/// The way in which sending treats a full queue.
#[derive(Clone, Copy)]
pub enum Full {
    Waits,
    Refuses,
}

impl Full {
    fn means(self) -> WhenFull {
        match self {
            Self::Waits => WhenFull::Waits,
            Self::Refuses => WhenFull::LosesNewest,
        }
    }
}

/// A queue with one sending and one receiving end.
pub trait Queue: Sync {
    type Sender: Enqueue;
    type Receiver: Receive;

    fn name(&self) -> &'static str;
    fn full(&self) -> Full;
    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver);
}

pub struct Crossbeam(pub Full);
pub struct Flume(pub Full);
pub struct TokioMpsc(pub Full);
pub struct AsyncChannel(pub Full);

/// A sender for each receiver.
pub struct Senders<S> {
    senders: Vec<S>,
    full: Full,
}

/// The sending end of one queue.
pub trait Enqueue: Send {
    /// `Ok(false)`: the queue is full.
    fn try_send(&self, payload: Payload) -> Result<bool>;
    fn send(&self, payload: Payload) -> Result<()>;
}

impl<S: Enqueue> Publish for Senders<S> {
    fn publish(&self, payload: Payload) -> Result<()> {
        let Some((last, others)) = self.senders.split_last() else { return Ok(()) };
        match self.full {
            Full::Waits => {
                for sender in others {
                    sender.send(Payload::clone(&payload))?;
                }
                last.send(payload)
            }
            Full::Refuses => {
                for sender in others {
                    sender.try_send(Payload::clone(&payload))?;
                }
                last.try_send(payload).map(|_| ())
            }
        }
    }
}

impl<Q: Queue> Peer for Q {
    type Publisher = Senders<Q::Sender>;
    type Receiver = Q::Receiver;

    fn name(&self) -> &'static str {
        Queue::name(self)
    }

    fn when_full(&self) -> WhenFull {
        self.full().means()
    }

    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let (senders, receivers) = (0..receivers).map(|_| Q::bounded(capacity)).unzip();
        Ok((Senders { senders, full: self.full() }, receivers))
    }
}

impl Queue for Crossbeam {
    type Sender = crossbeam_channel::Sender<Payload>;
    type Receiver = crossbeam_channel::Receiver<Payload>;

    fn name(&self) -> &'static str {
        match self.0 {
            Full::Waits => "raw: Vec of crossbeam (send)",
            Full::Refuses => "raw: Vec of crossbeam (try_send)",
        }
    }

    fn full(&self) -> Full {
        self.0
    }

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        crossbeam_channel::bounded(capacity)
    }
}

impl Enqueue for crossbeam_channel::Sender<Payload> {
    fn try_send(&self, payload: Payload) -> Result<bool> {
        match self.try_send(payload) {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(_) => bail!("the receiver is gone"),
        }
    }

    fn send(&self, payload: Payload) -> Result<()> {
        Ok(self.send(payload)?)
    }
}

impl Receive for crossbeam_channel::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(Got::of(crossbeam_channel::Receiver::try_recv(self)))
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(Got::of(crossbeam_channel::Receiver::recv(self)))
    }
}

impl Queue for Flume {
    type Sender = flume::Sender<Payload>;
    type Receiver = flume::Receiver<Payload>;

    fn name(&self) -> &'static str {
        "Vec of flume"
    }

    fn full(&self) -> Full {
        self.0
    }

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        flume::bounded(capacity)
    }
}

impl Enqueue for flume::Sender<Payload> {
    fn try_send(&self, payload: Payload) -> Result<bool> {
        match self.try_send(payload) {
            Ok(()) => Ok(true),
            Err(flume::TrySendError::Full(_)) => Ok(false),
            Err(flume::TrySendError::Disconnected(_)) => bail!("the receiver is gone"),
        }
    }

    fn send(&self, payload: Payload) -> Result<()> {
        Ok(self.send(payload)?)
    }
}

impl Receive for flume::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(Got::of(flume::Receiver::try_recv(self)))
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(Got::of(flume::Receiver::recv(self)))
    }
}

impl ReceiveAsync for flume::Receiver<Payload> {
    async fn each(self, mut take: impl FnMut(Payload) + Send) {
        while let Ok(payload) = self.recv_async().await {
            take(payload);
        }
    }
}

impl Queue for TokioMpsc {
    type Sender = mpsc::Sender<Payload>;
    type Receiver = mpsc::Receiver<Payload>;

    fn name(&self) -> &'static str {
        "Vec of tokio mpsc"
    }

    fn full(&self) -> Full {
        self.0
    }

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        mpsc::channel(capacity)
    }
}

impl Enqueue for mpsc::Sender<Payload> {
    fn try_send(&self, payload: Payload) -> Result<bool> {
        match self.try_send(payload) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => bail!("the receiver is gone"),
        }
    }

    fn send(&self, payload: Payload) -> Result<()> {
        Ok(self.blocking_send(payload)?)
    }
}

impl Receive for mpsc::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(Got::of(mpsc::Receiver::try_recv(self)))
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(self.blocking_recv().map_or(Got::Nothing, Got::Message))
    }
}

impl ReceiveAsync for mpsc::Receiver<Payload> {
    async fn each(mut self, mut take: impl FnMut(Payload) + Send) {
        while let Some(payload) = mpsc::Receiver::recv(&mut self).await {
            take(payload);
        }
    }
}

impl Queue for AsyncChannel {
    type Sender = async_channel::Sender<Payload>;
    type Receiver = async_channel::Receiver<Payload>;

    fn name(&self) -> &'static str {
        "Vec of async-channel"
    }

    fn full(&self) -> Full {
        self.0
    }

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        async_channel::bounded(capacity)
    }
}

impl Enqueue for async_channel::Sender<Payload> {
    fn try_send(&self, payload: Payload) -> Result<bool> {
        match self.try_send(payload) {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(_) => bail!("the receiver is gone"),
        }
    }

    fn send(&self, payload: Payload) -> Result<()> {
        Ok(self.send_blocking(payload)?)
    }
}

impl Receive for async_channel::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(Got::of(async_channel::Receiver::try_recv(self)))
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(Got::of(self.recv_blocking()))
    }
}

impl ReceiveAsync for async_channel::Receiver<Payload> {
    async fn each(self, mut take: impl FnMut(Payload) + Send) {
        while let Ok(payload) = async_channel::Receiver::recv(&self).await {
            take(payload);
        }
    }
}
