//! What is subscribed upstream: what somebody on the bus wants, as far as the bridge accepts it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanout::{Interest, InterestWatch, Pattern, RecvError};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::event::{BridgeEvent, Log};
use crate::glob::{Glob, is_redis};
use crate::life::{self, Life};

/// Names that go upstream in one command.
const CHUNK: usize = 512;

/// A pattern of what is accepted.
#[derive(Clone)]
pub(crate) struct Accepted {
    pub(crate) text: Arc<str>,
    pub(crate) pattern: Pattern,
    pub(crate) glob: Glob,
}

impl Accepted {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), pattern: Pattern::redis(text), glob: Glob::new(text) }
    }
}

/// What can be subscribed upstream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Name {
    Channel(Arc<str>),
    Pattern(Arc<str>),
}

/// A name that somebody wants, or wanted until recently.
#[derive(Default)]
struct Wanted {
    /// Names on the bus that want it.
    by: usize,
    /// When it is let go, if nobody wants it.
    until: Option<Instant>,
}

/// See the module's documentation.
pub(crate) struct Upstream {
    watch: InterestWatch,
    accepted: Vec<Accepted>,
    is_sharded: bool,
    /// How long a name that nobody wants any more stays subscribed.
    linger: Duration,
    wanted: HashMap<Name, Wanted>,
    /// Names to let go, by time.
    leaving: VecDeque<(Instant, Name)>,
    /// What has been subscribed in this session.
    asked: HashSet<Name>,
    to_ask: Vec<Name>,
    to_leave: Vec<Name>,
    /// Who waits until what is wanted now is subscribed.
    requests: UnboundedReceiver<Told>,
    waiting: Vec<Told>,
    log: Arc<Log>,
}

/// Called when what was wanted is subscribed; dropped if that will never be.
pub(crate) type Told = Box<dyn FnOnce() + Send>;

impl Upstream {
    pub(crate) fn new(
        watch: InterestWatch,
        accepted: Vec<Accepted>,
        is_sharded: bool,
        linger: Duration,
        requests: UnboundedReceiver<Told>,
        log: Arc<Log>,
    ) -> Self {
        Self {
            watch,
            accepted,
            is_sharded,
            linger,
            wanted: HashMap::new(),
            leaving: VecDeque::new(),
            asked: HashSet::new(),
            to_ask: Vec::new(),
            to_leave: Vec::new(),
            requests,
            waiting: Vec::new(),
            log,
        }
    }

    /// `true` if anything is subscribed.
    pub(crate) fn is_subscribed(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Ends a session: nothing is subscribed any more.
    pub(crate) fn end(&mut self) {
        self.asked.clear();
        self.to_leave.clear();
        self.to_ask = self.wanted.keys().cloned().collect();
        self.count();
    }

    /// Keeps the connection subscribed to what is wanted, and checks that the server lives. Calls `ready` when all that
    /// was wanted at the beginning is subscribed. Returns only if the connection is of no use any more.
    pub(crate) async fn run(
        &mut self,
        mut connection: MultiplexedConnection,
        life: &Life,
        ready: impl FnOnce(),
    ) -> RedisError {
        match self.run_until_error(&mut connection, life, ready).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn run_until_error(
        &mut self,
        connection: &mut MultiplexedConnection,
        life: &Life,
        ready: impl FnOnce(),
    ) -> RedisResult<std::convert::Infallible> {
        let mut ready = Some(ready);
        let mut pinging = connection.clone();
        // A confirmation waits behind what the server sends us, however long that is. The pings tell if it lives.
        connection.set_response_timeout(Duration::MAX);
        // Beside all else: a reply may wait behind much that the server sends us.
        let mut pings = pin!(async move {
            let mut ping = interval(life.ping_every());
            ping.reset();
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ping.tick().await;
                if let Err(error) = life.excuse(life::ping(&mut pinging).await) {
                    return error;
                }
            }
        });
        loop {
            // Before looking at what is wanted: whoever asks has subscribed before.
            while let Ok(told) = self.requests.try_recv() {
                self.waiting.push(told);
            }
            while let Ok(interest) = self.watch.try_recv() {
                self.apply(&interest);
            }
            self.let_go(Instant::now());
            tokio::select! {
                sent = self.send(connection) => sent?,
                error = &mut pings => return Err(error),
            }
            if let Some(ready) = ready.take() {
                ready();
            }
            self.waiting.drain(..).for_each(|told| told());
            let next = self.leaving.front().map(|&(at, _)| at);
            tokio::select! {
                interest = self.watch.recv_async() => match interest {
                    Ok(interest) => self.apply(&interest),
                    // What was published before the bus was closed is still being sent.
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                Some(told) = self.requests.recv() => self.waiting.push(told),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                error = &mut pings => return Err(error),
            }
        }
    }

    /// Takes in a change of what is wanted.
    fn apply(&mut self, interest: &Interest) {
        let (names, is_wanted) = match interest {
            Interest::Channel { name, wanted, .. } => (self.for_channel(name), *wanted),
            Interest::Pattern { pattern, wanted, .. } => {
                if self.is_sharded && *wanted {
                    self.log.tell(BridgeEvent::NotFetched { pattern: pattern.clone() });
                }
                (self.for_pattern(pattern), *wanted)
            }
            _ => return,
        };
        for name in names {
            if is_wanted {
                self.want(name);
            } else {
                self.want_no_more(name);
            }
        }
    }

    /// Returns what to subscribe upstream for a channel that is wanted.
    fn for_channel(&self, name: &Arc<str>) -> Vec<Name> {
        let is_accepted = self.accepted.iter().any(|accepted| accepted.pattern.is_match(name));
        if is_accepted { vec![Name::Channel(Arc::clone(name))] } else { Vec::new() }
    }

    /// Returns what to subscribe upstream for a pattern that is wanted: the pattern itself if all that it matches is
    /// accepted, otherwise all accepted patterns that share something with it.
    fn for_pattern(&self, pattern: &Pattern) -> Vec<Name> {
        if self.is_sharded {
            return Vec::new();
        }
        let glob = Glob::of(pattern);
        if is_redis(pattern) && self.accepted.iter().any(|accepted| accepted.glob.covers(&glob)) {
            return vec![Name::Pattern(pattern.as_str().into())];
        }
        let overlapping = self.accepted.iter().filter(|accepted| accepted.glob.overlaps(&glob));
        overlapping.map(|accepted| Name::Pattern(Arc::clone(&accepted.text))).collect()
    }

    fn want(&mut self, name: Name) {
        let wanted = self.wanted.entry(name.clone()).or_default();
        wanted.by += 1;
        wanted.until = None;
        if wanted.by == 1 && !self.asked.contains(&name) {
            self.to_ask.push(name);
        }
    }

    fn want_no_more(&mut self, name: Name) {
        if let Some(wanted) = self.wanted.get_mut(&name) {
            wanted.by -= 1;
            if wanted.by == 0 {
                // One that cannot be represented never comes.
                if let Some(until) = Instant::now().checked_add(self.linger) {
                    wanted.until = Some(until);
                    self.leaving.push_back((until, name));
                }
            }
        }
    }

    /// Lets go of what nobody has wanted for long enough.
    fn let_go(&mut self, now: Instant) {
        while self.leaving.front().is_some_and(|&(at, _)| at <= now) {
            let Some((at, name)) = self.leaving.pop_front() else { return };
            // It may have been wanted again meanwhile, and be on the list once more.
            if self.wanted.get(&name).is_some_and(|wanted| wanted.until == Some(at)) {
                self.wanted.remove(&name);
                if self.asked.remove(&name) {
                    self.to_leave.push(name);
                }
            }
        }
    }

    /// Sends what is to be subscribed and unsubscribed.
    async fn send(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        if self.to_ask.is_empty() && self.to_leave.is_empty() {
            return Ok(());
        }
        let (wanted, asked) = (&self.wanted, &mut self.asked);
        // A name can be here twice, or be let go again already.
        let ask = |name: &Name| wanted.contains_key(name) && asked.insert(name.clone());
        let to_ask: Vec<Name> = self.to_ask.drain(..).filter(ask).collect();
        let commands = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"];
        send_all(connection, commands, self.is_sharded, &to_ask).await?;
        let to_leave: Vec<Name> =
            self.to_leave.drain(..).filter(|name| !self.asked.contains(name)).collect();
        let commands = ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"];
        send_all(connection, commands, self.is_sharded, &to_leave).await?;
        self.count();
        Ok(())
    }

    fn count(&self) {
        // Relaxed: see `Counters::read`.
        self.log.counters.subscriptions.store(self.asked.len() as u64, Ordering::Relaxed);
    }
}

/// Sends one command for each of `names`, of `commands` that for channels, for patterns or for sharded channels.
async fn send_all(
    connection: &mut MultiplexedConnection,
    [channels, patterns, sharded]: [&str; 3],
    is_sharded: bool,
    names: &[Name],
) -> RedisResult<()> {
    for chunk in names.chunks(CHUNK) {
        let mut pipeline = redis::Pipeline::with_capacity(chunk.len());
        // A command for each: the replies to one with several names would be counted wrongly.
        for name in chunk {
            match name {
                Name::Channel(name) if is_sharded => pipeline.cmd(sharded).arg(&**name),
                Name::Channel(name) => pipeline.cmd(channels).arg(&**name),
                Name::Pattern(text) => pipeline.cmd(patterns).arg(&**text),
            };
        }
        pipeline.query_async::<()>(connection).await?;
    }
    Ok(())
}
