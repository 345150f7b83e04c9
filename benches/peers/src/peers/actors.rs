//! The message broker of `kameo_actors`: an actor that keeps glob patterns with their recipients, which
//! are actors too.
//!
//! Of the brokers with wildcards that crates.io has for use inside a process, it is the one that is kept
//! and delivers: others match and leave the queues to their user (`quill-pubsub`), know a topic's ancestors
//! but no wildcards (`tiny-pubsub`), or only one `*` that stands for everything (`agent-event-bus`). Its
//! patterns are those of the crate `glob`. An actor is a task, so it runs on a current-thread runtime here,
//! and what is measured is publishing and handling together. It is asked to deliver all
//! (`DeliveryStrategy::Guaranteed`), by mailboxes of the shape's capacity.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use glob::Pattern;
use kameo::mailbox;
use kameo::prelude::*;
use kameo_actors::DeliveryStrategy;
use kameo_actors::broker::{Broker, Publish, Subscribe};
use tokio::runtime::{Builder, Runtime};
use tokio::task;

use super::Payload;

pub const NAME: &str = "kameo_actors broker";
pub const WHEN_FULL: &str = "broker waits";

/// After so long, what has not been handled will not be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, its recipients, and the runtime that they live on.
pub struct Actors {
    runtime: Runtime,
    broker: ActorRef<Broker<Payload>>,
    handled: Arc<AtomicUsize>,
}

/// An actor that counts what it gets.
#[derive(Actor)]
struct Sink(Arc<AtomicUsize>);

impl Message<Payload> for Sink {
    type Reply = ();

    async fn handle(&mut self, _: Payload, _: &mut Context<Self, Self::Reply>) {
        // A count; nothing is read through it.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Actors {
    /// One actor for each of `patterns`.
    pub fn new<S: AsRef<str>>(patterns: &[S], capacity: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().build().context("a tokio runtime")?;
        let handled = Arc::new(AtomicUsize::new(0));
        let broker = runtime.block_on(async {
            let broker = Broker::new(DeliveryStrategy::Guaranteed);
            let broker = Broker::spawn_with_mailbox(broker, mailbox::bounded(capacity));
            for pattern in patterns {
                let sink = Sink(Arc::clone(&handled));
                let sink = Sink::spawn_with_mailbox(sink, mailbox::bounded(capacity));
                let topic = Pattern::new(pattern.as_ref())?;
                let subscribe = Subscribe { topic, recipient: sink.recipient() };
                broker.ask(subscribe).await.map_err(|error| anyhow!("{error}"))?;
            }
            anyhow::Ok(broker)
        })?;
        Ok(Self { runtime, broker, handled })
    }

    /// Publishes to each of `channels` and waits until they are handled; returns the number of messages handled.
    pub fn publish<S: AsRef<str>>(
        &self,
        channels: impl Iterator<Item = S>,
        payload: &Payload,
        expected: usize,
    ) -> Result<usize> {
        let before = self.handled.load(Ordering::Relaxed);
        let handled = || self.handled.load(Ordering::Relaxed) - before;
        self.runtime.block_on(async {
            for channel in channels {
                let topic = channel.as_ref().to_owned();
                let message = Payload::clone(payload);
                let publish = Publish { topic, message };
                self.broker.tell(publish).await.map_err(|error| anyhow!("{error}"))?;
            }
            let deadline = Instant::now() + PATIENCE;
            while handled() < expected {
                ensure!(Instant::now() < deadline, "{} of {expected} messages handled", handled());
                task::yield_now().await;
            }
            anyhow::Ok(())
        })?;
        Ok(handled())
    }
}
