//! From the bus to the server.

use std::sync::Arc;

use fanout::{Event, Message, Subscriber};
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline, RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use crate::codec::Codec;
use crate::envelope::{Envelope, Stream};
use crate::error::with_causes;
use crate::event::{Log, add};
use crate::life::{self, Life};

/// Messages that go in one round trip, at most.
const BATCH: usize = 256;

/// How often the connection may break over one message alone until that is given up.
const MOST_BREAKS: u32 = 5;

/// Bytes that go in one round trip, at most, and one message.
const BATCH_BYTES: usize = 1 << 20;

/// See the module's documentation.
pub(crate) struct Outward<P: Clone + Send + 'static, C: Codec<P>> {
    own: Subscriber<P>,
    codec: Arc<C>,
    /// `None` if messages go without an envelope.
    stream: Option<Stream>,
    /// The number of the last message.
    number: u64,
    command: &'static str,
    /// Messages that the server has not confirmed.
    batch: Pipeline,
    channels: Vec<Arc<str>>,
    bytes: usize,
    /// The batch was sent, and may have arrived.
    is_sent: bool,
    /// Bytes that go in one round trip, at most: no more than the server confirms in good time.
    limit: usize,
    /// How often in a row the connection broke over the first message of the batch, when it was sent alone.
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
            batch: Pipeline::new(),
            channels: Vec::new(),
            bytes: 0,
            is_sent: false,
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
        if self.is_sent {
            self.broke();
        }
        loop {
            while self.channels.is_empty() {
                match self.next(&mut connection, life).await? {
                    Some(event) => self.take(event),
                    None => return Ok(()),
                }
            }
            while self.channels.len() < BATCH && self.bytes < self.limit {
                match self.own.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            self.is_sent = true;
            let began = Instant::now();
            // The messages stay here until they are confirmed, also if this is dropped while it waits. `life` is not
            // told: it is about the other connection.
            if self.channels.len() > 1 && self.bytes > self.limit {
                self.send_parts(&mut connection).await?;
                continue;
            }
            let replies: Vec<RedisResult<u64>> = self.batch.query_async(&mut connection).await?;
            self.breaks = 0;
            let took = began.elapsed();
            if took > life.patience() / 4 {
                self.limit = (self.limit / 2).max(1);
            } else if took < life.patience() / 16 {
                self.limit = (self.limit * 2).min(BATCH_BYTES);
            }
            let mut sent = 0;
            for (reply, channel) in replies.into_iter().zip(&self.channels) {
                match reply {
                    Ok(_) => sent += 1,
                    Err(error) => self.log.refused(channel, with_causes(&error)),
                }
            }
            add(&self.log.counters.sent, sent);
            self.clear();
        }
    }

    /// `true` if there is nothing to send now.
    pub(crate) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.own.is_empty()
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

    /// Takes in that the connection broke while the batch was on its way.
    fn broke(&mut self) {
        if self.stream.is_none() {
            // What has no number cannot be sent twice.
            return self.give_up();
        }
        // It may have been too much for the line or for the server: less at a time, down to single messages.
        self.limit = (self.limit.min(self.bytes) / 4).max(1);
        if self.limit == 1 || self.channels.len() == 1 {
            self.breaks += 1;
        }
        if self.breaks >= MOST_BREAKS {
            self.breaks = 0;
            self.log.not_sent(1);
            self.keep_from(1);
        }
    }

    /// Sends what is more than goes at a time, in parts.
    async fn send_parts(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        while !self.channels.is_empty() {
            let mut part = Pipeline::new();
            part.ignore_errors();
            let (mut count, mut bytes) = (0, 0);
            for command in self.batch.cmd_iter() {
                bytes += length(command);
                if count > 0 && bytes > self.limit {
                    break;
                }
                part.add_command(command.clone());
                count += 1;
            }
            let replies: Vec<RedisResult<u64>> = part.query_async(connection).await?;
            self.breaks = 0;
            let mut sent = 0;
            for (reply, channel) in replies.into_iter().zip(&self.channels) {
                match reply {
                    Ok(_) => sent += 1,
                    Err(error) => self.log.refused(channel, with_causes(&error)),
                }
            }
            add(&self.log.counters.sent, sent);
            self.keep_from(count);
        }
        self.clear();
        Ok(())
    }

    /// Forgets the first `count` messages of the batch.
    fn keep_from(&mut self, count: usize) {
        let mut rest = Pipeline::new();
        rest.ignore_errors();
        self.bytes = 0;
        for command in self.batch.cmd_iter().skip(count) {
            self.bytes += length(command);
            rest.add_command(command.clone());
        }
        self.batch = rest;
        self.channels.drain(..count);
        self.is_sent = !self.channels.is_empty();
    }

    /// Counts what is left as not sent: the bridge ends.
    fn give_up(&mut self) {
        self.log.not_sent(self.channels.len() as u64);
        self.clear();
    }

    /// Counts what is left in the inbox as not sent, too.
    fn give_up_all(&mut self) {
        // First, so that nobody waits for room here for ever, and nothing comes that is never sent.
        self.own.close();
        self.give_up();
        let mut messages = 0;
        while let Ok(event) = self.own.try_recv() {
            match event {
                Event::Message(_) | Event::PMessage(_) => messages += 1,
                Event::Lagged { missed } => messages += missed,
                _ => {}
            }
        }
        self.log.not_sent(messages);
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.channels.clear();
        self.bytes = 0;
        self.is_sent = false;
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
        self.bytes += body.len();
        let mut command = Cmd::with_capacity(3, body.len() + message.channel().len() + 16);
        command.arg(self.command).arg(message.channel()).arg(&body);
        if self.channels.is_empty() {
            self.batch.ignore_errors();
        }
        self.batch.add_command(command);
        self.channels.push(message.channel().into());
    }
}

/// Bytes of the body of a command.
fn length(command: &Cmd) -> usize {
    let body = command.args_iter().nth(2);
    body.map_or(0, |body| if let Arg::Simple(body) = body { body.len() } else { 0 })
}

impl<P: Clone + Send + 'static, C: Codec<P>> Drop for Outward<P, C> {
    /// However the bridge ends: also by a panic, or with its runtime.
    fn drop(&mut self) {
        self.give_up_all();
    }
}
