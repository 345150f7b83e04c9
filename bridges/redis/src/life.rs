//! If the server lives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::gate::Gate;

/// Asks the server for a sign of life. One that does not permit this user to ask, or is busy or loading, lives too.
pub(crate) async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    match redis::cmd("PING").query_async(connection).await {
        Err(error) if error.code().is_some() => Ok(()),
        result => result,
    }
}

/// When the server was last heard of by the connection that listens.
pub(crate) struct Life {
    heard: Mutex<Instant>,
    patience: Duration,
    gate: Arc<Gate>,
}

impl Life {
    /// `patience`: silence of this length means that the server is lost.
    pub(crate) fn new(patience: Duration, gate: Arc<Gate>) -> Self {
        Self { heard: Mutex::new(Instant::now()), patience, gate }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// How often the server is asked for a sign of life.
    pub(crate) fn ping_every(&self) -> Duration {
        (self.patience / 3).max(Duration::from_millis(1))
    }

    /// Notes that the server was heard of just now.
    pub(crate) fn heard(&self) {
        *self.lock() = Instant::now();
    }

    pub(crate) fn last_heard(&self) -> Instant {
        *self.lock()
    }

    /// Takes in the result of a command. A reply that did not come in time is no error if the server was heard of
    /// since, or if nothing is read from it now: the reply waits behind what it sends us.
    pub(crate) fn excuse(&self, result: RedisResult<()>) -> RedisResult<()> {
        match result {
            Err(error) if error.is_timeout() && self.may_wait() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.heard();
                Ok(())
            }
        }
    }

    fn may_wait(&self) -> bool {
        self.gate.is_closed() || self.last_heard().elapsed() < self.patience
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Instant> {
        // Nothing panics under it.
        self.heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
