//! Why a bridge could not be built, or ended.

use std::error::Error;
use std::sync::Arc;

use fanout::SubscribeError;
use redis::{ErrorKind, RedisError};

/// Why a bridge could not be built, or ended by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The URL is not one of a Redis server.
    #[error("not a URL of a Redis server: {0}")]
    Url(#[source] Arc<RedisError>),
    /// The server does not know the user or the password, or asks for one and got none. The bridge does not try again.
    #[error("the Redis server refused the user name or the password: {0}")]
    Authentication(#[source] Arc<RedisError>),
    /// The user may not subscribe. The bridge does not try again.
    #[error("the Redis server forbids this user to subscribe: {0}")]
    Permission(#[source] Arc<RedisError>),
    /// The server does not speak RESP3, which Redis has since version 6. The bridge does not try again.
    #[error("the Redis server does not speak RESP3, the protocol of Redis 6 and later: {0}")]
    Protocol(#[source] Arc<RedisError>),
    /// The server could not be reached as often as [`attempts`](crate::BridgeBuilder::attempts) allows.
    #[error("the Redis server could not be reached (attempts: {attempts}): {error}")]
    Unreachable {
        /// Attempts since the connection was lost, or since the bridge was begun.
        attempts: u32,
        /// The error of the last one.
        #[source]
        error: Arc<RedisError>,
    },
    /// A bridge that is [`plain`](crate::BridgeBuilder::plain) must not accept what it forwards: it could not tell what
    /// comes back.
    #[error(
        "a plain bridge cannot forward {forward:?} and accept {accept:?}: something matches both"
    )]
    Loop {
        /// A pattern of [`forward`](crate::BridgeBuilder::forward).
        forward: String,
        /// A pattern of [`accept`](crate::BridgeBuilder::accept).
        accept: String,
    },
    /// The bus did not let the bridge subscribe to what it forwards.
    #[error("the bus refused the subscriptions of the bridge: {0}")]
    Subscribe(#[from] SubscribeError),
    /// It took longer than the caller would wait, and the bridge goes on; or the bridge has ended.
    #[error("the bridge is not ready{}", because(last_error))]
    NotReady {
        /// Why the server could not be reached, or was lost, if that is how it stands.
        last_error: Option<String>,
    },
    /// The bridge's inbox was full, and its policy is [`Overflow::Disconnect`](fanout::Overflow::Disconnect).
    #[error("the inbox of the bridge was full")]
    Overflow,
    /// The runtime in which the bridge ran was shut down.
    #[error("the runtime of the bridge was shut down")]
    Runtime,
    /// A codec or a callback panicked.
    #[error("a codec or a callback of the bridge panicked: {0}")]
    Panicked(String),
    /// The thread of the bridge could not be started.
    #[error("the bridge could not start a thread: {0}")]
    Thread(#[source] Arc<std::io::Error>),
}

impl BridgeError {
    /// Returns the error that ends a bridge, if another attempt to connect or to subscribe would fail like this one.
    pub(crate) fn of_connecting(error: &RedisError) -> Option<Self> {
        let kept = || Arc::new(error.clone());
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                Some(Self::Authentication(kept()))
            }
            // Up to version 4 the name is in other quotes than the `redis` crate looks for.
            _ if is_unknown_hello(error) => Some(Self::Protocol(kept())),
            (_, Some("NOPROTO")) | (ErrorKind::RESP3NotSupported, _) => {
                Some(Self::Protocol(kept()))
            }
            (_, Some("NOPERM")) => Some(Self::Permission(kept())),
            (ErrorKind::InvalidClientConfig, _) => Some(Self::Url(kept())),
            _ => None,
        }
    }

    pub(crate) fn of_panic(panic: Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "no text".to_owned()))
    }
}

fn because(error: &Option<String>) -> String {
    error.as_ref().map_or_else(String::new, |error| format!(": {error}"))
}

fn is_unknown_hello(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.starts_with("unknown command") && text.contains("HELLO"))
}

/// Returns an error and its causes, on one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
