//! `fanout` itself, with its defaults unless stated otherwise: lifecycle events are on, and a full inbox loses its
//! oldest message.

use std::future::poll_fn;

use anyhow::Result;
use fanout::{Bus, Event, Message, Overflow, Subscriber, Topic};

use super::{Got, Payload, Peer, Publish, Receive, ReceiveAsync, WhenFull};

const CHANNEL: &str = "user:42:notifications";

/// Publishing by a [`Topic`], the handle for a channel that is published to often.
pub struct Fanout {
    name: &'static str,
    overflow: Overflow,
    when_full: WhenFull,
}

/// A full inbox loses its oldest message, the default.
pub const DROPS: Fanout =
    Fanout { name: "fanout", overflow: Overflow::DropOldest, when_full: WhenFull::LosesOldest };

/// A full inbox makes the publisher wait.
pub const WAITS: Fanout = Fanout {
    name: "fanout (Block)",
    overflow: Overflow::Block { timeout: None },
    when_full: WhenFull::Waits,
};

/// Publishing by the channel's name.
pub struct FanoutByName;

pub struct Named(Bus<Payload>);

fn subscribe(
    bus: &Bus<Payload>,
    receivers: usize,
    capacity: usize,
    overflow: Overflow,
) -> Result<Vec<Subscriber<Payload>>> {
    (0..receivers)
        .map(|_| {
            let builder = bus.subscriber_builder().capacity(capacity).overflow(overflow);
            Ok(builder.subscribe(CHANNEL)?)
        })
        .collect()
}

impl Peer for Fanout {
    type Publisher = Topic<Payload>;
    type Receiver = Subscriber<Payload>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn when_full(&self) -> WhenFull {
        self.when_full
    }

    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let bus = Bus::new();
        let subscribers = subscribe(&bus, receivers, capacity, self.overflow)?;
        Ok((bus.topic(CHANNEL), subscribers))
    }
}

impl Peer for FanoutByName {
    type Publisher = Named;
    type Receiver = Subscriber<Payload>;

    fn name(&self) -> &'static str {
        "fanout (by name)"
    }

    fn when_full(&self) -> WhenFull {
        WhenFull::LosesOldest
    }

    fn open(
        &self,
        receivers: usize,
        capacity: usize,
    ) -> Result<(Self::Publisher, Vec<Self::Receiver>)> {
        let bus = Bus::new();
        let subscribers = subscribe(&bus, receivers, capacity, Overflow::DropOldest)?;
        Ok((Named(bus), subscribers))
    }
}

impl Publish for Topic<Payload> {
    fn publish(&self, payload: Payload) -> Result<()> {
        Topic::publish(self, payload);
        Ok(())
    }
}

impl Publish for Named {
    fn publish(&self, payload: Payload) -> Result<()> {
        self.0.publish(CHANNEL, payload);
        Ok(())
    }
}

impl Receive for Subscriber<Payload> {
    fn try_recv(&mut self) -> Result<Got> {
        // A lifecycle event is no message: what follows it counts.
        while let Ok(event) = Subscriber::try_recv(self) {
            if let Some(got) = read(event) {
                return Ok(got);
            }
        }
        Ok(Got::Nothing)
    }

    fn recv(&mut self) -> Result<Got> {
        while let Ok(event) = Subscriber::recv(self) {
            if let Some(got) = read(event) {
                return Ok(got);
            }
        }
        Ok(Got::Nothing)
    }
}

impl ReceiveAsync for Subscriber<Payload> {
    async fn each(self, mut take: impl FnMut(Payload) + Send) {
        let mut messages = self.into_message_stream();
        // What `StreamExt::next` does.
        while let Some(message) = poll_fn(|context| messages.poll_recv(context)).await {
            take(message.payload);
        }
    }
}

fn read(event: Event<Payload>) -> Option<Got> {
    match event {
        Event::Lagged { missed } => Some(Got::Lost(missed)),
        event => event.into_message().map(|Message { payload, .. }| Got::Message(payload)),
    }
}
