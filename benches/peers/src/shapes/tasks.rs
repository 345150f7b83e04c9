//! One channel to receivers that are tasks on a current-thread runtime, which the publisher shares: it publishes
//! a burst that fits, then gives way until the tasks have received it. They count it, so that nothing lost
//! passes for speed.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::task;

use super::{CAPACITY, Effort, nanos};
use crate::measure::{Contender, Line, Sample, Sampler, in_turns};
use crate::peers::engine::DROPS;
use crate::peers::queues::{AsyncChannel, Flume, Full, TokioMpsc};
use crate::peers::rings::{AsyncBroadcast, TokioBroadcast};
use crate::peers::{Payload, Peer, Publish, ReceiveAsync, payload};

/// The columns of a [`Sample`]: one message at a time, and [`BURST`].
pub const SINGLY: usize = 0;
pub const IN_BURSTS: usize = 1;

/// Messages that are published before the tasks run.
pub const BURST: usize = 32;

/// After so many turns of the runtime, what has not been received will not be. A look at the clock in each turn
/// would show in the figures.
const PATIENCE: usize = 100_000;

pub fn receivers(effort: Effort) -> &'static [usize] {
    if effort.quick { &[1, 10] } else { &[1, 10, 100, 1_000] }
}

/// All contenders, for one number of receivers.
pub fn run(effort: Effort, receivers: usize) -> Result<Vec<Line>> {
    let deliveries = effort.scaled(100_000, 1_000);
    let contenders = vec![
        contender(&DROPS, receivers, deliveries)?,
        contender(&TokioMpsc(Full::Refuses), receivers, deliveries)?,
        contender(&Flume(Full::Refuses), receivers, deliveries)?,
        contender(&AsyncChannel(Full::Refuses), receivers, deliveries)?,
        contender(&TokioBroadcast, receivers, deliveries)?,
        contender(&AsyncBroadcast(Full::Refuses), receivers, deliveries)?,
    ];
    in_turns(effort.scaled(25, 2), contenders)
}

fn contender<'a, P>(peer: &P, receivers: usize, deliveries: usize) -> Result<Contender<'a>>
where
    P: Peer,
    P::Publisher: 'a,
    P::Receiver: ReceiveAsync,
{
    Ok(Contender::new(peer.name(), peer.when_full().text(), sampler(peer, receivers, deliveries)?))
}

fn sampler<'a, P>(peer: &P, receivers: usize, deliveries: usize) -> Result<Sampler<'a>>
where
    P: Peer,
    P::Publisher: 'a,
    P::Receiver: ReceiveAsync,
{
    let tasks = Tasks::start(peer, receivers)?;
    Ok(Box::new(move || {
        let times = vec![tasks.run(deliveries, 1)?, tasks.run(deliveries, BURST)?];
        Ok(Sample { times, lost: 0.0 })
    }))
}

/// A publisher, and its receivers on the runtime that they share.
struct Tasks<P> {
    runtime: Runtime,
    publisher: P,
    receivers: usize,
    received: Arc<AtomicUsize>,
    payload: Payload,
}

impl<P: Publish> Tasks<P> {
    fn start<R>(peer: &impl Peer<Publisher = P, Receiver = R>, receivers: usize) -> Result<Self>
    where
        R: ReceiveAsync,
    {
        let (publisher, inboxes) = peer.open(receivers, CAPACITY)?;
        let runtime = Builder::new_current_thread().build().context("a tokio runtime")?;
        let received = Arc::new(AtomicUsize::new(0));
        for inbox in inboxes {
            let received = Arc::clone(&received);
            runtime.spawn(inbox.each(move |payload| {
                black_box(payload);
                // A count; nothing is read through it.
                received.fetch_add(1, Ordering::Relaxed);
            }));
        }
        Ok(Self { runtime, publisher, receivers, received, payload: payload() })
    }

    /// Returns the nanoseconds of each of about as many deliveries, in bursts of `messages`.
    fn run(&self, deliveries: usize, messages: usize) -> Result<f64> {
        let bursts = (deliveries / (messages * self.receivers)).max(1);
        self.runtime.block_on(async {
            // The others' turns have taken the caches.
            self.burst(messages).await?;
            let start = Instant::now();
            for _ in 0..bursts {
                self.burst(messages).await?;
            }
            Ok(nanos(start.elapsed(), bursts * messages * self.receivers))
        })
    }

    async fn burst(&self, messages: usize) -> Result<()> {
        let before = self.received.load(Ordering::Relaxed);
        let received = || self.received.load(Ordering::Relaxed) - before;
        for _ in 0..messages {
            self.publisher.publish(self.payload.clone())?;
        }
        self.publisher.flush()?;
        let expected = messages * self.receivers;
        let mut turns = 0;
        while received() != expected {
            ensure!(turns < PATIENCE, "{} of {expected} messages arrived", received());
            turns += 1;
            task::yield_now().await;
        }
        Ok(())
    }
}
