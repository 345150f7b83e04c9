//! One channel to many receivers that poll: one thread publishes a batch that fits, then takes it from each
//! receiver in turn. What it takes is counted, so that nothing lost passes for speed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{BATCH, CAPACITY, Effort, Redis, join_redis, nanos};
use crate::measure::{Contender, Line, Sample, Sampler, in_turns};
use crate::peers::actors::{self, Actors};
use crate::peers::engine::{DROPS, FanoutByName};
use crate::peers::queues::{Crossbeam, Flume, Full, TokioMpsc};
use crate::peers::rings::{AsyncBroadcast, BusCrate, TokioBroadcast};
use crate::peers::{Got, Peer, Publish, Receive, payload};

const CHANNEL: &str = "user:42:notifications";

/// The columns of a [`Sample`]: publishing alone, and with taking what was sent.
pub const PUBLISH: usize = 0;
pub const PUBLISH_AND_DRAIN: usize = 1;

pub fn receivers(effort: Effort) -> &'static [usize] {
    if effort.quick { &[1, 10] } else { &[1, 10, 100, 1_000] }
}

/// All contenders, for one number of receivers.
pub fn run(effort: Effort, receivers: usize, redis: &Redis<'_>) -> Result<Vec<Line>> {
    let deliveries = effort.scaled(200_000, 2_000);
    let batches = (deliveries / (BATCH * receivers)).max(1);
    let slow_batches = (batches / 10).max(1);
    let contenders = vec![
        contender(&DROPS, receivers, batches)?,
        contender(&FanoutByName, receivers, batches)?,
        contender(&Crossbeam(Full::Refuses), receivers, batches)?,
        contender(&Flume(Full::Refuses), receivers, batches)?,
        contender(&TokioMpsc(Full::Refuses), receivers, batches)?,
        contender(&TokioBroadcast, receivers, batches)?,
        contender(&AsyncBroadcast(Full::Refuses), receivers, batches)?,
        contender(&BusCrate(Full::Refuses), receivers, batches)?,
        Contender::new(actors::NAME, actors::WHEN_FULL, actors_sampler(receivers, slow_batches)?),
        join_redis(redis, |server| sampler(server, receivers, slow_batches))?,
    ];
    in_turns(effort.scaled(25, 2), contenders)
}

fn contender<'a, P>(peer: &P, receivers: usize, batches: usize) -> Result<Contender<'a>>
where
    P: Peer,
    P::Publisher: 'a,
    P::Receiver: 'a,
{
    Ok(Contender::new(peer.name(), peer.when_full().text(), sampler(peer, receivers, batches)?))
}

fn sampler<'a, P>(peer: &P, receivers: usize, batches: usize) -> Result<Sampler<'a>>
where
    P: Peer,
    P::Publisher: 'a,
    P::Receiver: 'a,
{
    let (publisher, mut inboxes) = peer.open(receivers, CAPACITY)?;
    let payload = payload();
    let mut batch = move || -> Result<(Duration, Duration)> {
        let start = Instant::now();
        for _ in 0..BATCH {
            publisher.publish(payload.clone())?;
        }
        publisher.flush()?;
        let published = start.elapsed();
        let mut received = 0;
        for inbox in &mut inboxes {
            received += drain(inbox, BATCH)?;
        }
        let drained = start.elapsed();
        let expected = BATCH * receivers;
        ensure!(received == expected, "{received} of {expected} messages arrived");
        Ok((published, drained))
    };
    Ok(Box::new(move || {
        // The others' turns have taken the caches.
        batch()?;
        let (mut published, mut drained) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..batches {
            let (publish, drain) = batch()?;
            published += publish;
            drained += drain;
        }
        let deliveries = batches * BATCH * receivers;
        Ok(Sample {
            times: vec![nanos(published, deliveries), nanos(drained, deliveries)],
            lost: 0.0,
        })
    }))
}

/// Takes `expected` messages, or as many as there are.
pub fn drain(inbox: &mut impl Receive, expected: usize) -> Result<usize> {
    for received in 0..expected {
        match inbox.try_recv()? {
            Got::Message(payload) => drop(black_box(payload)),
            Got::Lost(_) | Got::Nothing => return Ok(received),
        }
    }
    Ok(expected)
}

fn actors_sampler<'a>(receivers: usize, batches: usize) -> Result<Sampler<'a>> {
    let actors = Actors::new(&vec![CHANNEL; receivers], CAPACITY)?;
    let payload = payload();
    Ok(Box::new(move || {
        let mut taken = Duration::ZERO;
        for batch in 0..=batches {
            let channels = (0..BATCH).map(|_| CHANNEL);
            let start = Instant::now();
            let handled = actors.publish(channels, &payload, BATCH * receivers)?;
            if batch > 0 {
                taken += start.elapsed();
            }
            ensure!(handled == BATCH * receivers, "{handled} messages handled");
        }
        let both = nanos(taken, batches * BATCH * receivers);
        Ok(Sample { times: vec![f64::NAN, both], lost: 0.0 })
    }))
}
