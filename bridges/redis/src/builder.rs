//! The builder of a bridge.

use std::error::Error;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow, Pattern, Subscriber};
use futures_util::FutureExt;
use redis::RedisResult;
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use crate::codec::{Codec, Raw};
use crate::envelope::{Origin, Stream};
use crate::error::BridgeError;
use crate::event::{BridgeEvent, Log};
use crate::glob::Glob;
use crate::handle::{self, BridgeHandle};
use crate::inward::{Inward, OnUndecodable};
use crate::outward::Outward;
use crate::server::Server;
use crate::status::{Phase, Status};
use crate::upstream::{Accepted, Upstream};
use crate::worker::{Order, Reaching, Worker};

/// Bridges a [`Bus`] to a Redis server; see the [crate's documentation](crate).
#[derive(Debug)]
pub enum Bridge {}

impl Bridge {
    /// Returns the builder of a bridge between `bus` and the server at `url`.
    ///
    /// A URL is `redis://[user[:password]@]host[:port][/db]`; with feature `tls` also `rediss://…`; or
    /// `unix:///path/to/socket`. The protocol is always RESP3, so the server must be Redis 6 or later.
    pub fn builder<P: Clone + Send + 'static>(
        bus: &Bus<P>,
        url: impl Into<String>,
    ) -> BridgeBuilder<P, Raw> {
        BridgeBuilder {
            bus: bus.clone(),
            url: url.into(),
            #[cfg(feature = "sentinel")]
            sentinel: None,
            authority: None,
            codec: Raw,
            forward: Vec::new(),
            accept: Vec::new(),
            capacity: 65_536,
            overflow: Overflow::DropOldest,
            is_plain: false,
            has_own_origin: false,
            is_sharded: false,
            linger: Duration::from_secs(5),
            reaching: Reaching {
                attempts: None,
                first_pause: Duration::from_millis(100),
                longest_pause: Duration::from_secs(10),
                patience: Duration::from_secs(3),
            },
            on_undecodable: None,
            log: Arc::new(Log::new()),
        }
    }
}

/// A builder of a bridge, returned by [`Bridge::builder`].
///
/// # Examples
///
/// ```no_run
/// use fanout::Bus;
/// use fanout_redis::Bridge;
///
/// let bus: Bus = Bus::new();
/// let bridge = Bridge::builder(&bus, "redis://127.0.0.1:6379")
///     .forward("game:*:events")
///     .accept("game:*:events")
///     .spawn()?;
/// bridge.wait_ready(std::time::Duration::from_secs(5))?;
/// // Also comes from other processes.
/// let player = bus.subscribe("game:7:events")?;
/// // Also goes to other processes.
/// bus.publish("game:7:events", "checkmate");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a bridge begins with `spawn`"]
pub struct BridgeBuilder<P, C> {
    bus: Bus<P>,
    url: String,
    #[cfg(feature = "sentinel")]
    sentinel: Option<(Vec<String>, String)>,
    /// A certificate authority, in PEM.
    authority: Option<Vec<u8>>,
    codec: C,
    forward: Vec<Pattern>,
    accept: Vec<String>,
    capacity: usize,
    overflow: Overflow,
    is_plain: bool,
    has_own_origin: bool,
    is_sharded: bool,
    linger: Duration,
    reaching: Reaching,
    on_undecodable: Option<OnUndecodable>,
    log: Arc<Log>,
}

impl<P: Clone + Send + 'static, C> BridgeBuilder<P, C> {
    /// Forwards what is published on the bus on channels that `pattern` matches. May be called several times; a message
    /// that several patterns match is forwarded once.
    ///
    /// The bridge is a subscriber of the pattern, though one without [interest](fanout::SubscriberBuilder::interest):
    /// the receipts of publishes count it, and [`patterns`](fanout::Bus::patterns) lists the pattern.
    pub fn forward(mut self, pattern: impl Into<Pattern>) -> Self {
        self.forward.push(pattern.into());
        self
    }

    /// Publishes on the bus what the server sends for channels that the Redis pattern `pattern` matches, as far as
    /// somebody has subscribed to it there. May be called several times; a message that several patterns match is
    /// published once.
    ///
    /// Subscribed upstream is what somebody wants: a channel, or a pattern. If the pattern matches more than is
    /// accepted, or is a shell glob, the accepted patterns that share something with it are subscribed instead.
    pub fn accept(mut self, pattern: impl Into<String>) -> Self {
        self.accept.push(pattern.into());
        self
    }

    /// Sets how payloads become bytes and bytes payloads. The default is [`Raw`], for bytes and text.
    pub fn codec<D: Codec<P>>(self, codec: D) -> BridgeBuilder<P, D> {
        // Every field by its name: only the type of one changes.
        BridgeBuilder {
            codec,
            bus: self.bus,
            url: self.url,
            #[cfg(feature = "sentinel")]
            sentinel: self.sentinel,
            authority: self.authority,
            forward: self.forward,
            accept: self.accept,
            capacity: self.capacity,
            overflow: self.overflow,
            is_plain: self.is_plain,
            has_own_origin: self.has_own_origin,
            is_sharded: self.is_sharded,
            linger: self.linger,
            reaching: self.reaching,
            on_undecodable: self.on_undecodable,
            log: self.log,
        }
    }

    /// Sets how many messages wait to be sent, at most. The default is 65,536.
    ///
    /// They wait while the server is away, or slower than they come.
    ///
    /// # Panics
    ///
    /// If `messages` is 0.
    pub fn capacity(mut self, messages: usize) -> Self {
        assert!(messages > 0, "the capacity of a bridge must be at least 1 message, not 0");
        self.capacity = messages;
        self
    }

    /// Sets what happens to messages that find no room. The default is [`Overflow::DropOldest`].
    ///
    /// Losses are told as [`BridgeEvent::NotSent`]. With [`Overflow::Block`], publishers on the bus wait while the
    /// server is away. With [`Overflow::Conflate`], the newest message of each channel is sent when it is back, and
    /// those before are not told. With [`Overflow::Disconnect`], the bridge ends.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets whether messages go without an envelope, for other clients of the server to read. The default is `false`.
    ///
    /// Without an envelope nobody can tell what comes back to the process that sent it, so such a bridge must not
    /// accept what it forwards: [`spawn`](Self::spawn) checks that no forwarded pattern shares anything with an
    /// accepted one. And a message that was on its way when the connection broke is not sent again, since it may have
    /// arrived.
    ///
    /// What comes from other clients without an envelope is accepted in any case.
    pub fn plain(mut self, yes: bool) -> Self {
        self.is_plain = yes;
        self
    }

    /// Sets whether the bus counts as a process of its own. The default is `false`.
    ///
    /// What comes back to the process that sent it is dropped, so two buses of one process do not get each other's
    /// messages by way of the server. With `true`, they do.
    ///
    /// Either way, a bus should have one bridge: see [`when`](crate::when).
    pub fn own_origin(mut self, yes: bool) -> Self {
        self.has_own_origin = yes;
        self
    }

    /// Sets whether sharded channels are used: `SPUBLISH` and `SSUBSCRIBE`, which Redis has since version 7. The
    /// default is `false`.
    ///
    /// Sharded channels have no patterns: subscriptions to patterns on the bus are not fetched, and
    /// [`BridgeEvent::NotFetched`] tells them.
    pub fn sharded(mut self, yes: bool) -> Self {
        self.is_sharded = yes;
        self
    }

    /// Sets how long a channel or pattern stays subscribed upstream that nobody on the bus wants any more. The default
    /// is 5 seconds: whoever comes back within them costs the server nothing.
    pub fn linger(mut self, pause: Duration) -> Self {
        self.linger = pause;
        self
    }

    /// Sets how often the bridge tries to reach the server in a row, before it ends with
    /// [`BridgeError::Unreachable`]. The default is `None`: for ever.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn attempts(mut self, limit: Option<u32>) -> Self {
        assert_ne!(limit, Some(0), "a bridge must try to reach its server at least once");
        self.reaching.attempts = limit;
        self
    }

    /// Sets the pauses between attempts. The first is `first`, each is twice as long as the one before, and none is
    /// longer than `longest`; a random part of up to a half is taken off. The default is from 100 milliseconds to 10
    /// seconds.
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.reaching.first_pause = first;
        self.reaching.longest_pause = longest;
        self
    }

    /// Sets how long the server may be silent until it counts as lost. The default is 3 seconds. The bridge asks it for
    /// a sign of life three times as often.
    pub fn patience(mut self, silence: Duration) -> Self {
        self.reaching.patience = silence;
        self
    }

    /// Asks the sentinels at `urls` for the master `name`, anew for each connection. The bridge's own URL then gives
    /// the user, the password and the database on the master; its host does not matter.
    #[cfg(feature = "sentinel")]
    pub fn sentinel(
        mut self,
        urls: impl IntoIterator<Item = impl Into<String>>,
        name: impl Into<String>,
    ) -> Self {
        self.sentinel = Some((urls.into_iter().map(Into::into).collect(), name.into()));
        self
    }

    /// Trusts servers whose certificate was issued by `authority`, in PEM, for `rediss://` URLs. By default, the
    /// authorities that the operating system trusts are trusted. Does not go with sentinels.
    #[cfg(feature = "tls")]
    pub fn certificate_authority(mut self, authority: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Has `callback` called with the channel, the bytes and the error of each message from outside that cannot be
    /// decoded. It runs in the bridge's task, and a panic in it ends the bridge.
    pub fn on_undecodable(
        mut self,
        callback: impl FnMut(&str, &[u8], &(dyn Error + Send + Sync)) + Send + 'static,
    ) -> Self {
        self.on_undecodable = Some(Box::new(callback));
        self
    }

    /// Returns a subscriber of what happens to the bridge, from its beginning.
    pub fn events(&self) -> Subscriber<BridgeEvent> {
        handle::subscribe(&self.log)
    }

    fn server(&self) -> RedisResult<Server> {
        #[cfg(feature = "tls")]
        // An error means that the process has chosen a provider itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[cfg(feature = "sentinel")]
        if let Some((urls, name)) = &self.sentinel {
            return Server::by_sentinel(urls, name, &self.url);
        }
        Server::at(&self.url, self.authority.as_deref())
    }

    /// Checks that nothing comes back to a plain bridge.
    fn check_loops(&self) -> Result<(), BridgeError> {
        for forward in self.forward.iter().filter(|_| self.is_plain) {
            let glob = Glob::of(forward);
            if let Some(accept) =
                self.accept.iter().find(|accept| Glob::new(accept).overlaps(&glob))
            {
                let forward = forward.as_str().to_owned();
                return Err(BridgeError::Loop { forward, accept: accept.clone() });
            }
        }
        Ok(())
    }

    /// Begins the bridge, and returns at once: it connects by and by. See [`BridgeHandle::ready`].
    ///
    /// Called in a tokio runtime, the bridge is a task of it. Otherwise it gets a thread of its own, with a small
    /// runtime.
    ///
    /// # Errors
    ///
    /// Returns [`BridgeError::Url`], [`BridgeError::Loop`], [`BridgeError::Subscribe`] or [`BridgeError::Thread`]; all
    /// else comes from the handle.
    pub fn spawn(self) -> Result<BridgeHandle, BridgeError>
    where
        C: Codec<P>,
    {
        self.check_loops()?;
        let server = self.server().map_err(|error| BridgeError::Url(Arc::new(error)))?;
        let Self { bus, log, capacity, overflow, is_plain, is_sharded, reaching, .. } = self;
        let own = bus
            .subscriber_builder()
            .label("redis bridge")
            .capacity(capacity)
            .overflow(overflow)
            .dedupe(true)
            .lifecycle_events(false)
            .interest(false)
            .psubscribe_many(self.forward)?;
        let closing = bus.subscriber_builder().capacity(1).build();
        let accepted: Vec<_> = self.accept.iter().map(|text| Accepted::new(text)).collect();
        let codec = Arc::new(self.codec);
        let origin = if self.has_own_origin { Origin::new() } else { Origin::of_process() };
        let stream = (!is_plain).then(|| Stream::new(origin));
        let (orders, its_orders) = watch::channel(Order::Run);
        let (requests, its_requests) = mpsc::unbounded_channel();
        let status = Arc::new(Status::new());
        let worker = Worker {
            server,
            inward: Inward::new(
                bus.downgrade(),
                own.clone(),
                accepted.clone(),
                Arc::clone(&codec),
                origin,
                self.on_undecodable,
                Arc::clone(&log),
            ),
            outward: Outward::new(own.clone(), codec, stream, is_sharded, Arc::clone(&log)),
            upstream: Upstream::new(
                bus.watch_interest(),
                accepted,
                is_sharded,
                self.linger,
                its_requests,
                Arc::clone(&log),
            ),
            reaching,
            own: own.clone(),
            closing,
            orders: its_orders,
            status: Arc::clone(&status),
            log: Arc::clone(&log),
        };
        drop(bus);
        let ending = Ending { status: Arc::clone(&status), log: Arc::clone(&log), result: None };
        let task = AssertUnwindSafe(worker.run()).catch_unwind().map(move |result| {
            ending.with(result.unwrap_or_else(|panic| Err(BridgeError::of_panic(panic))));
        });
        let thread_error = |error| BridgeError::Thread(Arc::new(error));
        match runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(task)),
            Err(_) => {
                let runtime = runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(thread_error)?;
                let thread = thread::Builder::new().name("redis bridge".to_owned());
                thread.spawn(move || runtime.block_on(task)).map_err(thread_error)?;
            }
        }
        Ok(BridgeHandle::new(Box::new(move || own.close()), orders, requests, status, log))
    }
}

/// Tells that the bridge has ended when it is dropped: also with the runtime, before there is a result.
struct Ending {
    status: Arc<Status>,
    log: Arc<Log>,
    result: Option<Result<(), BridgeError>>,
}

impl Ending {
    fn with(mut self, result: Result<(), BridgeError>) {
        self.result = Some(result);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or(Err(BridgeError::Runtime));
        self.status.set(Phase::Ended(result));
        // Whoever reads the events sees that there are no more.
        self.log.events.close();
    }
}

impl<P, C> fmt::Debug for BridgeBuilder<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it may hold a password.
        f.debug_struct("BridgeBuilder")
            .field("forward", &self.forward)
            .field("accept", &self.accept)
            .finish_non_exhaustive()
    }
}
