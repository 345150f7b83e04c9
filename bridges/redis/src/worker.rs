//! The task of a bridge: it connects, runs the three parts of a session, and connects again.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanout::{CloseReason, Subscriber};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, RedisError, RedisResult};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::codec::Codec;
use crate::error::{BridgeError, with_causes};
use crate::event::{BridgeEvent, Log, add};
use crate::gate::{self, Gate};
use crate::inward::Inward;
use crate::life::Life;
use crate::outward::Outward;
use crate::server::{Server, connect_gated};
use crate::status::{Phase, Status};
use crate::upstream::Upstream;

/// Bytes from the server that wait to be published here, if there is no gate (see `gate`). More than this means that
/// this process cannot keep up.
const MAX_WAITING: usize = 256 << 20;

/// How a bridge reaches its server.
#[derive(Clone, Debug)]
pub(crate) struct Reaching {
    /// Attempts in a row; `None` for no end.
    pub(crate) attempts: Option<u32>,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
    /// Silence of this length means that the server is lost.
    pub(crate) patience: Duration,
}

impl Reaching {
    /// Returns the pause before the attempt number `attempt`: twice as long each time, up to the longest; of that, a
    /// random half to whole, so that many processes that lost one server do not come back all at once.
    fn pause(&self, attempt: u32) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << attempt.min(20));
        doubled.min(self.longest_pause).mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.patience))
            .set_response_timeout(Some(self.patience))
    }
}

/// What a bridge is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Run,
    /// The bridge's subscriber has been closed: end when it is drained, or if that is not possible now.
    Drain,
    Stop,
}

/// See the module's documentation.
pub(crate) struct Worker<P: Clone + Send + 'static, C: Codec<P>> {
    pub(crate) server: Server,
    pub(crate) reaching: Reaching,
    pub(crate) inward: Inward<P, C>,
    pub(crate) outward: Outward<P, C>,
    pub(crate) upstream: Upstream,
    /// The bridge's own subscriber, which `outward` reads.
    pub(crate) own: Subscriber<P>,
    /// A subscriber without subscriptions, which tells when the bus is closed.
    pub(crate) closing: Subscriber<P>,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) status: Arc<Status>,
    pub(crate) log: Arc<Log>,
}

struct Connected {
    listening: MultiplexedConnection,
    pushes: UnboundedReceiver<PushInfo>,
    gate: Arc<Gate>,
    life: Arc<Life>,
    /// Notified if this process cannot keep up.
    overrun: Arc<Notify>,
    publishing: MultiplexedConnection,
}

/// How a session ended.
enum End {
    /// The bus was closed, or the handle says so.
    Over,
    /// The server was lost before the bridge was ready.
    Lost(RedisError),
    /// The server was lost after that.
    LostReady,
}

/// What is remembered of a lost session until the next.
struct Gap {
    since: Instant,
    was_subscribed: bool,
}

impl<P: Clone + Send + 'static, C: Codec<P>> Worker<P, C> {
    /// Runs the bridge until it is over.
    pub(crate) async fn run(mut self) -> Result<(), BridgeError> {
        let result = self.run_sessions().await;
        if result.is_ok() && self.own_overflowed() {
            return Err(BridgeError::Overflow);
        }
        result
    }

    fn own_overflowed(&self) -> bool {
        self.own.close_reason() == Some(CloseReason::Overflow)
    }

    async fn run_sessions(&mut self) -> Result<(), BridgeError> {
        // Those that failed since the bridge was ready.
        let mut attempts = 0;
        // By how much the next pause is longer than the first: it begins anew after a session that has lasted.
        let mut step = 0;
        let mut gap = None;
        loop {
            if self.own_overflowed() {
                return Ok(());
            }
            let began = Instant::now();
            let over_and_empty = async {
                over(&self.orders, &self.closing).await;
                if !self.outward.is_empty() {
                    // Whether the server can be reached will soon be known.
                    std::future::pending().await
                }
            };
            let connected = tokio::select! {
                biased;
                () = ordered(&self.orders, |order| order == Order::Stop) => return Ok(()),
                () = over_and_empty => return Ok(()),
                connected = connect(&self.server, &self.reaching) => connected,
            };
            let error = match connected {
                Ok(connected) => match self.session(connected, &mut gap).await {
                    End::Over => return Ok(()),
                    End::LostReady => {
                        attempts = 0;
                        None
                    }
                    End::Lost(error) => Some(error),
                },
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                if let Some(fatal) = BridgeError::of_connecting(&error) {
                    return Err(fatal);
                }
                attempts += 1;
                let text = with_causes(&error);
                self.log.tell(BridgeEvent::Unreachable { attempts, error: text });
                if self.reaching.attempts.is_some_and(|limit| attempts >= limit) {
                    return Err(BridgeError::Unreachable { attempts, error: Arc::new(error) });
                }
            }
            let pause = sleep(self.reaching.pause(step));
            let has_lasted = began.elapsed() > self.reaching.longest_pause;
            step = if has_lasted { 0 } else { step + 1 };
            if unless_over(&self.orders, &self.closing, pause).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn session(&mut self, connected: Connected, gap: &mut Option<Gap>) -> End {
        let life = Arc::clone(&connected.life);
        let mut is_ready = false;
        let result = self.run_session(connected, gap, &mut is_ready).await;
        let was_subscribed = self.upstream.is_subscribed();
        self.upstream.end();
        let error = match result {
            Ok(()) => return End::Over,
            Err(error) => error,
        };
        if !is_ready || BridgeError::of_connecting(&error).is_some() {
            return End::Lost(error);
        }
        add(&self.log.counters.disconnects, 1);
        self.log.tell(BridgeEvent::Disconnected { error: with_causes(&error) });
        *gap = Some(Gap { since: life.last_heard(), was_subscribed });
        self.status.set(Phase::Away);
        End::LostReady
    }

    /// Runs a session until the bridge is over, or the server lost.
    async fn run_session(
        &mut self,
        connected: Connected,
        gap: &mut Option<Gap>,
        is_ready: &mut bool,
    ) -> RedisResult<()> {
        let Connected { listening, pushes, gate, life, overrun, publishing } = connected;
        self.inward.begin();
        let (log, status) = (&self.log, &self.status);
        let ready = || {
            *is_ready = true;
            let event = match gap.take() {
                None => BridgeEvent::Connected,
                Some(Gap { since, was_subscribed: maybe_missed }) => {
                    BridgeEvent::Resumed { away: since.elapsed(), maybe_missed }
                }
            };
            log.tell(event);
            status.set(Phase::Ready);
        };
        let mut inward = pin!(self.inward.run(pushes, &gate, &life));
        let lost = |text: &'static str| RedisError::from((redis::ErrorKind::Io, text));
        let error = tokio::select! {
            biased;
            () = ordered(&self.orders, |order| order == Order::Stop) => return Ok(()),
            () = overrun.notified() => lost("more messages came than this process could take"),
            () = &mut inward => return Err(lost("the server closed the connection")),
            error = self.upstream.run(listening, &life, ready) => error,
            result = self.outward.run(publishing, &life) => match result {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
        };
        // The connections have been dropped with the other parts. What has come already is still published.
        let _ = timeout(life.patience(), inward).await;
        Err(error)
    }
}

/// Waits for `future`, which needs no server. Returns `None` if the bridge is to end meanwhile, drained or not.
async fn unless_over<P, T>(
    orders: &watch::Receiver<Order>,
    closing: &Subscriber<P>,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        result = future => Some(result),
        () = over(orders, closing) => None,
    }
}

/// Waits until the bridge is to end, drained or not.
async fn over<P>(orders: &watch::Receiver<Order>, closing: &Subscriber<P>) {
    tokio::select! {
        () = ordered(orders, |order| order != Order::Run) => {}
        _ = closing.recv_async() => {}
    }
}

/// Waits for an order that `is_meant`. Without a handle there are none any more.
async fn ordered(orders: &watch::Receiver<Order>, is_meant: impl Fn(Order) -> bool) {
    if orders.clone().wait_for(|&order| is_meant(order)).await.is_err() {
        std::future::pending().await
    }
}

async fn connect(server: &Server, reaching: &Reaching) -> RedisResult<Connected> {
    let (sender, pushes) = mpsc::unbounded_channel();
    let (gate, overrun) = (Arc::new(Gate::default()), Arc::new(Notify::new()));
    let life = Arc::new(Life::new(reaching.patience, Arc::clone(&gate)));
    let (entered, full, its_life) = (Arc::clone(&gate), Arc::clone(&overrun), Arc::clone(&life));
    let push = move |push: PushInfo| {
        its_life.heard();
        if entered.enter(gate::weight(&push)) > MAX_WAITING {
            full.notify_one();
            return Ok(());
        }
        sender.send(push)
    };
    let connecting = async {
        let client = server.find().await?;
        let config = reaching.config().set_push_sender(push);
        let listening = connect_gated(&client, config, &gate).await?;
        let publishing =
            client.get_multiplexed_async_connection_with_config(&reaching.config()).await?;
        RedisResult::Ok((listening, publishing))
    };
    let (listening, publishing) = timeout(reaching.patience, connecting)
        .await
        .map_err(|_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))??;
    Ok(Connected { listening, pushes, gate, life, overrun, publishing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let reaching = Reaching {
            attempts: None,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
            patience: Duration::from_secs(1),
        };
        for (attempt, whole) in [(0, 100), (1, 200), (4, 1600), (5, 2000), (1000, 2000)] {
            let pauses: Vec<_> = (0..200).map(|_| reaching.pause(attempt)).collect();
            let whole = Duration::from_millis(whole);
            assert!(pauses.iter().all(|pause| (whole / 2..=whole).contains(pause)));
            let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            assert!(*longest - *shortest > whole / 4);
        }
    }
}
