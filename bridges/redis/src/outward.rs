//! From the bus to the server.

use std::sync::Arc;

use fanout::{Event, Message, Subscriber};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult};

use crate::codec::Codec;
use crate::envelope::{Envelope, Stream};
use crate::error::with_causes;
use crate::event::{Log, add};
use crate::life::Life;

/// Messages that go in one round trip, at most.
const BATCH: usize = 256;

/// Bytes that go in one round trip, at most, and one message.
const BATCH_BYTES: usize = 1 << 20;

/// See the module's documentation.
pub(crate) struct Outward<P, C> {
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
        if self.is_sent && self.stream.is_none() {
            // What has no number cannot be sent twice.
            self.give_up();
        }
        loop {
            while self.channels.is_empty() {
                match self.own.recv_async().await {
                    Ok(event) => self.take(event),
                    Err(_) => return Ok(()),
                }
            }
            while self.channels.len() < BATCH && self.bytes < BATCH_BYTES {
                match self.own.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            self.is_sent = true;
            // The messages stay here until they are confirmed, also if this is dropped while it waits.
            let replies: Vec<RedisResult<u64>> = self.batch.query_async(&mut connection).await?;
            life.heard();
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

    /// Counts what is left as not sent: the bridge ends.
    pub(crate) fn give_up(&mut self) {
        self.log.not_sent(self.channels.len() as u64);
        self.clear();
    }

    /// Counts what is left in the inbox as not sent, too.
    pub(crate) fn give_up_all(&mut self) {
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
