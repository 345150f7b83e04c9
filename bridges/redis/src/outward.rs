//! From the bus to the server.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use fanout::{Event, Message, Subscriber};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use crate::codec::Codec;
use crate::envelope::{Envelope, Stream};
use crate::error::with_causes;
use crate::event::{Log, add};
use crate::life::{self, Life};

/// Messages that go in one round trip, at most.
const BATCH: usize = 256;

/// Bytes that go in one round trip, at most, and one message.
const BATCH_BYTES: usize = 1 << 20;

/// How often in a row the connection may break over one message that is sent alone, until that is given up.
const MOST_BREAKS: u32 = 5;

/// A message on its way.
struct Outgoing {
    channel: Arc<str>,
    command: Cmd,
    /// The length of its body.
    bytes: usize,
}

/// See the module's documentation.
pub(crate) struct Outward<P: Clone + Send + 'static, C: Codec<P>> {
    own: Subscriber<P>,
    codec: Arc<C>,
    /// `None` if messages go without an envelope.
    stream: Option<Stream>,
    /// The number of the last message.
    number: u64,
    command: &'static str,
    /// Messages that the server has not confirmed, and their bytes.
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// The number of those, from the first, that have been sent and may have arrived.
    sent: usize,
    /// Bytes that go in one round trip, at most, and one message: no more than the server confirms in good time.
    limit: usize,
    /// How often in a row the connection broke over the first message, when it was sent alone.
    breaks: u32,
    log: Arc<Log>,
}

impl<P: Clone + Send + 'static, C: Codec<P>> Outward<P, C> {
    pub(crate) fn new(
        own: Subscriber<P>,
        codec: Arc<C>,
        stream: Option<Stream>,
        is_sharded: bool,
        log: Arc<Log>,
    ) -> Self {
        Self {
            own,
            codec,
            stream,
            number: 0,
            command: if is_sharded { "SPUBLISH" } else { "PUBLISH" },
            waiting: VecDeque::new(),
            bytes: 0,
            sent: 0,
            limit: BATCH_BYTES,
            breaks: 0,
            log,
        }
    }

    /// Sends what comes. Returns when the bridge's subscriber is closed and drained, or if the connection is of no use
    /// any more.
    pub(crate) async fn run(
        &mut self,
        mut connection: MultiplexedConnection,
        life: &Life,
    ) -> Result<(), RedisError> {
        if self.sent > 0 {
            self.broke();
        }
        loop {
            while self.waiting.is_empty() {
                match self.next(&mut connection, life).await? {
                    Some(event) => self.take(event),
                    None => return Ok(()),
                }
            }
            while self.waiting.len() < BATCH && self.bytes < self.limit {
                match self.own.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            let batch = self.batch();
            let began = Instant::now();
            // The messages stay here until they are confirmed, also if this is dropped while it waits. `life` is not
            // told: it is about the other connection.
            let replies: Vec<RedisResult<u64>> = batch.query_async(&mut connection).await?;
            self.adapt(began.elapsed(), life.patience());
            self.confirmed(replies);
        }
    }

    /// `true` if there is nothing to send now.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.own.is_empty()
    }

    /// Waits for something to send. Returns `None` if there will be nothing any more.
    async fn next(
        &self,
        connection: &mut MultiplexedConnection,
        life: &Life,
    ) -> RedisResult<Option<Event<P>>> {
        loop {
            if let Ok(event) = timeout(life.ping_every(), self.own.recv_async()).await {
                return Ok(event.ok());
            }
            // The server would close it when it has been idle for long; and a loss is seen before it matters.
            life::ping(connection).await?;
        }
    }

    /// Returns the first messages, as many as go at a time.
    fn batch(&mut self) -> Pipeline {
        let mut batch = Pipeline::with_capacity(self.waiting.len());
        batch.ignore_errors();
        let mut bytes = 0;
        self.sent = 0;
        for outgoing in &self.waiting {
            bytes += outgoing.bytes;
            if self.sent > 0 && bytes > self.limit {
                break;
            }
            batch.add_command(outgoing.command.clone());
            self.sent += 1;
        }
        batch
    }

    /// Takes in what the server replied to a batch.
    fn confirmed(&mut self, replies: Vec<RedisResult<u64>>) {
        self.breaks = 0;
        self.sent = 0;
        let mut sent = 0;
        for reply in replies {
            let Some(Outgoing { channel, .. }) = self.pop() else { break };
            match reply {
                Ok(_) => sent += 1,
                Err(error) => self.log.refused(&channel, with_causes(&error)),
            }
        }
        add(&self.log.counters.sent, sent);
    }

    /// Sets the size of batches by how long one took.
    fn adapt(&mut self, took: Duration, patience: Duration) {
        if took > patience / 4 {
            self.limit = (self.limit / 2).max(1);
        } else if took < patience / 16 {
            self.limit = (self.limit * 2).min(BATCH_BYTES);
        }
    }

    /// Takes in that the connection broke while a batch was on its way.
    fn broke(&mut self) {
        let sent = mem::take(&mut self.sent);
        if self.stream.is_none() {
            // What has no number cannot be sent twice.
            (0..sent).for_each(|_| _ = self.pop());
            return self.log.not_sent(sent as u64);
        }
        // It may have been too much for the line or for the server: less at a time, down to single messages.
        let bytes: usize = self.waiting.iter().take(sent).map(|outgoing| outgoing.bytes).sum();
        self.limit = (self.limit.min(bytes) / 4).max(1);
        self.breaks += u32::from(sent == 1);
        if self.breaks == MOST_BREAKS {
            self.breaks = 0;
            self.pop();
            self.log.not_sent(1);
        }
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.waiting.pop_front()?;
        self.bytes -= outgoing.bytes;
        Some(outgoing)
    }

    /// Leaves the bus, and counts what was not sent.
    fn give_up(&mut self) {
        // First, so that nobody waits for room here for ever, and nothing comes that is never sent.
        self.own.close();
        let mut messages = self.waiting.len() as u64;
        self.waiting.clear();
        while let Ok(event) = self.own.try_recv() {
            match event {
                Event::Message(_) | Event::PMessage(_) => messages += 1,
                Event::Lagged { missed } => messages += missed,
                _ => {}
            }
        }
        self.log.not_sent(messages);
    }

    fn take(&mut self, event: Event<P>) {
        match event {
            Event::Message(message) | Event::PMessage(message) => self.encode(&message),
            Event::Lagged { missed } => self.log.not_sent(missed),
            _ => {}
        }
    }

    fn encode(&mut self, message: &Message<P>) {
        let mut body = Vec::new();
        if let Some(stream) = self.stream {
            Envelope { stream, number: self.number + 1 }.write(&mut body);
        }
        if let Err(error) = self.codec.encode(&message.payload, &mut body) {
            return self.log.refused(message.channel(), error.to_string());
        }
        self.number += 1;
        let bytes = body.len();
        self.bytes += bytes;
        let mut command = Cmd::with_capacity(3, body.len() + message.channel().len() + 16);
        command.arg(self.command).arg(message.channel()).arg(&body);
        self.waiting.push_back(Outgoing { channel: message.channel().into(), command, bytes });
    }
}

impl<P: Clone + Send + 'static, C: Codec<P>> Drop for Outward<P, C> {
    /// However the bridge ends: also by a panic, or with its runtime.
    fn drop(&mut self) {
        self.give_up();
    }
}
