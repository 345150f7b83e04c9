//! The handle of a running bridge.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use fanout::Subscriber;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use crate::error::BridgeError;
use crate::event::{BridgeEvent, BridgeStats, Log};
use crate::status::{Phase, Status};
use crate::upstream::Told;
use crate::worker::Order;

/// A running bridge, returned by [`BridgeBuilder::spawn`](crate::BridgeBuilder::spawn).
///
/// Dropping it stops the bridge without waiting for its end, like [`stop`](Self::stop); [`detach`](Self::detach) lets
/// it run on. A bridge does not keep the bus open, except while it waits for room in a full
/// [`Block`](fanout::Overflow::Block) inbox: when the bus is closed, it sends what its inbox still holds and ends.
#[must_use = "a bridge stops when its handle is dropped"]
pub struct BridgeHandle {
    /// Closes the bridge's own subscriber.
    close_own: Box<dyn Fn() + Send + Sync>,
    orders: watch::Sender<Order>,
    requests: UnboundedSender<Told>,
    status: Arc<Status>,
    log: Arc<Log>,
    stops_when_dropped: bool,
}

impl BridgeHandle {
    pub(crate) fn new(
        close_own: Box<dyn Fn() + Send + Sync>,
        orders: watch::Sender<Order>,
        requests: UnboundedSender<Told>,
        status: Arc<Status>,
        log: Arc<Log>,
    ) -> Self {
        Self { close_own, orders, requests, status, log, stops_when_dropped: true }
    }

    /// Waits in a task until the bridge is connected, and what was wanted on the bus then is subscribed upstream. It
    /// does not wait for later subscriptions: [`subscribed`](Self::subscribed) does.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the bridge, at once; for instance
    /// [`Authentication`](BridgeError::Authentication). While the server cannot be reached, this waits as long as the
    /// bridge [tries](crate::BridgeBuilder::attempts).
    pub async fn ready(&self) -> Result<(), BridgeError> {
        self.status.reached(|phase| self.if_ready(phase)).await
    }

    /// Waits on the thread, for `timeout` at most, until the bridge is [`ready`](Self::ready).
    ///
    /// # Errors
    ///
    /// Returns the error that ended the bridge, or [`NotReady`](BridgeError::NotReady) after `timeout`.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), BridgeError> {
        let deadline = Instant::now().checked_add(timeout);
        let reached = self.status.wait(deadline, |phase| self.if_ready(phase));
        reached.unwrap_or_else(|| Err(self.log.not_ready()))
    }

    /// Waits in a task until all that is wanted on the bus now is subscribed upstream, as far as it is accepted.
    ///
    /// A subscription on the bus is live when `subscribe` returns; upstream it is so a little later. Whoever must not
    /// miss what others publish from now on waits for this.
    ///
    /// # Errors
    ///
    /// Returns the error that ended the bridge, or [`NotReady`](BridgeError::NotReady) if it has ended without one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(bus: fanout::Bus, bridge: fanout_redis::BridgeHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// let player = bus.subscribe("game:7:events")?;
    /// bridge.subscribed().await?;
    /// // What other processes publish from now on arrives.
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribed(&self) -> Result<(), BridgeError> {
        let (told, is_told) = oneshot::channel();
        // An error means that the bridge has ended.
        let _ = self.requests.send(Box::new(|| _ = told.send(())));
        match is_told.await {
            Ok(()) => Ok(()),
            Err(_) => self.status.reached(if_ended).await.and(Err(self.log.not_ready())),
        }
    }

    /// Waits on the thread, for `timeout` at most, like [`subscribed`](Self::subscribed).
    ///
    /// # Errors
    ///
    /// Returns the error that ended the bridge, or [`NotReady`](BridgeError::NotReady) after `timeout` or if the bridge
    /// has ended without an error.
    pub fn wait_subscribed(&self, timeout: Duration) -> Result<(), BridgeError> {
        let (told, is_told) = std::sync::mpsc::sync_channel(1);
        // An error means that the bridge has ended.
        let _ = self.requests.send(Box::new(move || _ = told.send(())));
        match is_told.recv_timeout(timeout) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(self.log.not_ready()),
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.status.wait(Instant::now().checked_add(timeout), if_ended);
                ended.unwrap_or(Ok(())).and(Err(self.log.not_ready()))
            }
        }
    }

    /// `true` if the bridge is connected, and not about to reconnect.
    pub fn is_connected(&self) -> bool {
        matches!(self.status.get(), Phase::Ready)
    }

    /// `true` if the bridge has ended.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.get(), Phase::Ended(_))
    }

    /// Returns the figures of the bridge.
    pub fn stats(&self) -> BridgeStats {
        self.log.counters.read()
    }

    /// Returns a new subscriber of what happens to the bridge from now on. See
    /// [`BridgeBuilder::events`](crate::BridgeBuilder::events) for one that misses nothing.
    pub fn events(&self) -> Subscriber<BridgeEvent> {
        subscribe(&self.log)
    }

    /// Ends the bridge now. What it has not sent counts as [`not_sent`](BridgeStats::not_sent).
    pub fn stop(&self) {
        self.orders.send_if_modified(|order| std::mem::replace(order, Order::Stop) != Order::Stop);
    }

    /// Ends the bridge when it has sent what it holds; at once if the server cannot be reached, and what it holds then
    /// counts as [`not_sent`](BridgeStats::not_sent). What is published from now on is not forwarded.
    pub fn drain(&self) {
        (self.close_own)();
        self.orders.send_if_modified(|order| {
            let is_first = *order == Order::Run;
            if is_first {
                *order = Order::Drain;
            }
            is_first
        });
    }

    /// Waits in a task until the bridge has ended.
    ///
    /// # Errors
    ///
    /// Returns the error that ended it.
    pub async fn finished(&self) -> Result<(), BridgeError> {
        self.status.reached(if_ended).await
    }

    /// Waits on the thread, for `timeout` at most, until the bridge has ended. Returns `true` if it has: then
    /// [`stats`](Self::stats) are the last ones, and [`join`](Self::join) returns at once.
    pub fn wait_finished(&self, timeout: Duration) -> bool {
        self.status.wait(Instant::now().checked_add(timeout), if_ended).is_some()
    }

    /// Waits on the thread until the bridge has ended.
    ///
    /// # Errors
    ///
    /// Returns the error that ended it.
    pub fn join(self) -> Result<(), BridgeError> {
        self.status.wait(None, if_ended).unwrap_or(Ok(()))
    }

    fn if_ready(&self, phase: &Phase) -> Option<Result<(), BridgeError>> {
        match phase {
            Phase::Ready => Some(Ok(())),
            Phase::Ended(Err(error)) => Some(Err(error.clone())),
            // It will never be.
            Phase::Ended(Ok(())) => Some(Err(self.log.not_ready())),
            Phase::Connecting | Phase::Away => None,
        }
    }

    /// Lets the bridge run until the bus is closed.
    pub fn detach(mut self) {
        self.stops_when_dropped = false;
    }
}

fn if_ended(phase: &Phase) -> Option<Result<(), BridgeError>> {
    if let Phase::Ended(result) = phase { Some(result.clone()) } else { None }
}

pub(crate) fn subscribe(log: &Log) -> Subscriber<BridgeEvent> {
    let subscriber = log.events.subscriber_builder().lifecycle_events(false).build();
    // An error means that the bridge has ended, and with it the events.
    let _ = subscriber.subscribe(Log::CHANNEL);
    subscriber
}

impl Drop for BridgeHandle {
    fn drop(&mut self) {
        if self.stops_when_dropped {
            self.stop();
        }
    }
}

impl fmt::Debug for BridgeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeHandle")
            .field("phase", &self.status.get())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
