//! One ring that all receivers share: a publish writes once, however many there are.
//!
//! In threads, tokio's ring is read by `blocking_recv`, and that of `async-broadcast` is written by
//! `broadcast_blocking` and read by `recv_blocking`; neither needs a runtime.

use std::sync::Mutex;

use anyhow::{Result, anyhow, bail};
use async_broadcast::{TryRecvError as AsyncTryError, TrySendError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError as TokioError, TryRecvError as TokioTryError};

use super::queues::Full;
use super::{Got, Payload, Peer, Publish, Receive, ReceiveAsync, WhenFull};

pub struct TokioBroadcast;

pub struct AsyncBroadcast(pub Full);

/// The crate `bus`.
pub struct BusCrate(pub Full);

impl Peer for TokioBroadcast {
    type Publisher = broadcast::Sender<Payload>;
    type Receiver = broadcast::Receiver<Payload>;

    fn name(&self) -> &'static str {
        "tokio broadcast"
    }

    fn when_full(&self) -> WhenFull {
        WhenFull::LosesOldest
    }

    /// The ring has a power of two of places: the shapes' capacities are such.
    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let sender = broadcast::Sender::new(capacity);
        let receivers = (0..receivers).map(|_| sender.subscribe()).collect();
        Ok((sender, receivers))
    }
}

impl Publish for broadcast::Sender<Payload> {
    fn publish(&self, payload: Payload) -> Result<()> {
        self.send(payload).map_err(|_| anyhow!("all receivers are gone"))?;
        Ok(())
    }
}

impl Receive for broadcast::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(match broadcast::Receiver::try_recv(self) {
            Ok(payload) => Got::Message(payload),
            Err(TokioTryError::Lagged(missed)) => Got::Lost(missed),
            Err(TokioTryError::Empty | TokioTryError::Closed) => Got::Nothing,
        })
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(match self.blocking_recv() {
            Ok(payload) => Got::Message(payload),
            Err(TokioError::Lagged(missed)) => Got::Lost(missed),
            Err(TokioError::Closed) => Got::Nothing,
        })
    }
}

impl ReceiveAsync for broadcast::Receiver<Payload> {
    async fn each(mut self, mut take: impl FnMut(Payload) + Send) {
        while let Ok(payload) = broadcast::Receiver::recv(&mut self).await {
            take(payload);
        }
    }
}

/// A sender of `async-broadcast`; `full` of a ring that overflows is [`Full::Refuses`].
pub struct AsyncSender {
    sender: async_broadcast::Sender<Payload>,
    full: Full,
}

impl Peer for AsyncBroadcast {
    type Publisher = AsyncSender;
    type Receiver = async_broadcast::Receiver<Payload>;

    fn name(&self) -> &'static str {
        match self.0 {
            Full::Waits => "async-broadcast",
            Full::Refuses => "async-broadcast (overflow)",
        }
    }

    fn when_full(&self) -> WhenFull {
        match self.0 {
            Full::Waits => WhenFull::Waits,
            Full::Refuses => WhenFull::LosesOldest,
        }
    }

    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let (mut sender, first) = async_broadcast::broadcast(capacity);
        sender.set_overflow(matches!(self.0, Full::Refuses));
        let receivers = (0..receivers).map(|_| first.new_receiver()).collect();
        Ok((AsyncSender { sender, full: self.0 }, receivers))
    }
}

impl Publish for AsyncSender {
    fn publish(&self, payload: Payload) -> Result<()> {
        match self.full {
            Full::Waits => {
                self.sender.broadcast_blocking(payload)?;
            }
            Full::Refuses => match self.sender.try_broadcast(payload) {
                Ok(_) => {}
                Err(TrySendError::Full(_)) => bail!("the ring was to overflow"),
                Err(_) => bail!("all receivers are gone"),
            },
        }
        Ok(())
    }
}

impl Receive for async_broadcast::Receiver<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(match async_broadcast::Receiver::try_recv(self) {
            Ok(payload) => Got::Message(payload),
            Err(AsyncTryError::Overflowed(missed)) => Got::Lost(missed),
            Err(AsyncTryError::Empty | AsyncTryError::Closed) => Got::Nothing,
        })
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(match self.recv_blocking() {
            Ok(payload) => Got::Message(payload),
            Err(async_broadcast::RecvError::Overflowed(missed)) => Got::Lost(missed),
            Err(async_broadcast::RecvError::Closed) => Got::Nothing,
        })
    }
}

impl ReceiveAsync for async_broadcast::Receiver<Payload> {
    async fn each(mut self, mut take: impl FnMut(Payload) + Send) {
        // Its `recv` allocates, for futures that are not just awaited.
        while let Ok(payload) = self.recv_direct().await {
            take(payload);
        }
    }
}

/// `bus::Bus` wants to be borrowed mutably by its one publisher; the lock, which nobody else takes, costs
/// it some nanoseconds for each publish.
pub struct BusSender {
    bus: Mutex<bus::Bus<Payload>>,
    full: Full,
}

impl Peer for BusCrate {
    type Publisher = BusSender;
    type Receiver = bus::BusReader<Payload>;

    fn name(&self) -> &'static str {
        "bus"
    }

    fn when_full(&self) -> WhenFull {
        match self.0 {
            Full::Waits => WhenFull::Waits,
            Full::Refuses => WhenFull::LosesNewest,
        }
    }

    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let mut bus = bus::Bus::new(capacity);
        let receivers = (0..receivers).map(|_| bus.add_rx()).collect();
        Ok((BusSender { bus: Mutex::new(bus), full: self.0 }, receivers))
    }
}

impl Publish for BusSender {
    fn publish(&self, payload: Payload) -> Result<()> {
        let mut bus = self.bus.lock().map_err(|_| anyhow!("a publisher panicked"))?;
        match self.full {
            Full::Waits => bus.broadcast(payload),
            // Refused: the receivers' counts show it.
            Full::Refuses => drop(bus.try_broadcast(payload)),
        }
        Ok(())
    }
}

impl Receive for bus::BusReader<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        Ok(Got::of(bus::BusReader::try_recv(self)))
    }

    fn recv(&mut self) -> Result<Got> {
        Ok(Got::of(bus::BusReader::recv(self)))
    }
}
