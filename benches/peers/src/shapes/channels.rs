//! Many channels with one receiver each, published to in random order by their names.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fanout::{Bus, Topic};

use super::polled::drain;
use super::{Effort, Redis, join_redis, nanos};
use crate::measure::{Contender, Line, Random, Sample, Sampler, in_turns};
use crate::peers::actors::{self, Actors};
use crate::peers::queues::{Crossbeam, Flume, Full, TokioMpsc};
use crate::peers::rings::{AsyncBroadcast, TokioBroadcast};
use crate::peers::{Payload, Peer, Publish, Receive, payload, redis};

/// The columns of a [`Sample`].
pub const PUBLISH: usize = 0;
pub const PUBLISH_AND_DRAIN: usize = 1;

/// Capacity of each receiver, in messages.
pub const CAPACITY: usize = 16;

/// Publishes in one pipeline of redis.
const PIPELINE: usize = 500;

/// Publishes of the broker of actors in one sample: each looks at all its patterns.
const BROKER_PUBLISHES: usize = 50;

pub fn channels(effort: Effort) -> usize {
    effort.scaled(10_000, 100)
}

/// The names, and the order in which they are published to.
struct Plan {
    names: Vec<String>,
    order: Vec<usize>,
    /// Number of times that the order is gone through in one sample.
    passes: usize,
}

pub fn run(effort: Effort, server: &Redis<'_>) -> Result<Vec<Line>> {
    let channels = channels(effort);
    let plan = Arc::new(Plan {
        names: (0..channels).map(|user| format!("user:{user}:notifications")).collect(),
        order: Random(1).permutation(channels),
        passes: effort.scaled(5, 1),
    });
    let contenders = vec![
        Contender::new("fanout (by name)", "loses oldest", by_name(&plan)?),
        Contender::new("fanout (by Topic)", "loses oldest", by_topic(&plan)?),
        by_hand("raw: HashMap of crossbeam", &Crossbeam(Full::Refuses), &plan)?,
        by_hand("HashMap of flume", &Flume(Full::Refuses), &plan)?,
        by_hand("HashMap of tokio mpsc", &TokioMpsc(Full::Refuses), &plan)?,
        by_hand("HashMap of tokio broadcast", &TokioBroadcast, &plan)?,
        by_hand("HashMap of async-broadcast", &AsyncBroadcast(Full::Refuses), &plan)?,
        // Each `Bus` starts a thread.
        Contender::absent("bus", "publisher waits", "thread each"),
        Contender::new(actors::NAME, actors::WHEN_FULL, by_broker(&plan)?),
        join_redis(server, |server| by_redis(server, &plan))?,
    ];
    in_turns(effort.scaled(15, 2), contenders)
}

/// `publish` gets the channel's index, its name and the payload.
fn sampler<'a, R: Receive + 'a>(
    plan: &Arc<Plan>,
    mut inboxes: Vec<R>,
    publish: impl Fn(usize, &str, Payload) -> Result<()> + 'a,
) -> Sampler<'a> {
    let (plan, payload) = (Arc::clone(plan), payload());
    let (passes, messages) = (plan.passes, plan.order.len());
    let pass = move || -> Result<(Duration, Duration)> {
        let start = Instant::now();
        for &channel in &plan.order {
            publish(channel, &plan.names[channel], payload.clone())?;
        }
        let published = start.elapsed();
        let mut received = 0;
        for inbox in &mut inboxes {
            received += drain(inbox, 1)?;
        }
        let drained = start.elapsed();
        ensure!(received == messages, "{received} of {messages} messages arrived");
        Ok((published, drained))
    };
    repeat(passes, messages, pass)
}

/// A first pass to warm up, then as many as count.
fn repeat<'a>(
    passes: usize,
    messages: usize,
    mut pass: impl FnMut() -> Result<(Duration, Duration)> + 'a,
) -> Sampler<'a> {
    Box::new(move || {
        pass()?;
        let (mut published, mut drained) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..passes {
            let (publish, drain) = pass()?;
            published += publish;
            drained += drain;
        }
        let messages = passes * messages;
        Ok(Sample { times: vec![nanos(published, messages), nanos(drained, messages)], lost: 0.0 })
    })
}

fn subscribers(bus: &Bus<Payload>, plan: &Plan) -> Result<Vec<fanout::Subscriber<Payload>>> {
    let subscribe =
        |name: &String| Ok(bus.subscriber_builder().capacity(CAPACITY).subscribe(name)?);
    plan.names.iter().map(subscribe).collect()
}

fn by_name(plan: &Arc<Plan>) -> Result<Sampler<'static>> {
    let bus = Bus::new();
    let inboxes = subscribers(&bus, plan)?;
    Ok(sampler(plan, inboxes, move |_, name, payload| {
        bus.publish(name, payload);
        Ok(())
    }))
}

fn by_topic(plan: &Arc<Plan>) -> Result<Sampler<'static>> {
    let bus = Bus::new();
    let inboxes = subscribers(&bus, plan)?;
    let topics: Vec<Topic<Payload>> = plan.names.iter().map(|name| bus.topic(name)).collect();
    Ok(sampler(plan, inboxes, move |channel, _, payload| {
        topics[channel].publish(payload);
        Ok(())
    }))
}

/// The map that a user would build: from names to senders, of the standard library, under its lock, because
/// channels come and go.
fn by_hand<P>(name: &'static str, peer: &P, plan: &Arc<Plan>) -> Result<Contender<'static>>
where
    P: Peer,
    P::Publisher: Sync + 'static,
    P::Receiver: 'static,
{
    let (mut map, mut inboxes) = (HashMap::new(), Vec::new());
    for name in &plan.names {
        let (publisher, receivers) = peer.open(1, CAPACITY)?;
        map.insert(name.clone(), publisher);
        inboxes.extend(receivers);
    }
    let map = RwLock::new(map);
    let sampler = sampler(plan, inboxes, move |_, name, payload| {
        let map = map.read().unwrap_or_else(PoisonError::into_inner);
        map.get(name).context("an unknown channel")?.publish(payload)
    });
    Ok(Contender::new(name, peer.when_full().text(), sampler))
}

/// Another part of the channels at each sample.
fn by_broker(plan: &Arc<Plan>) -> Result<Sampler<'static>> {
    let actors = Actors::new(&plan.names, CAPACITY)?;
    let (plan, payload) = (Arc::clone(plan), payload());
    let mut offset = 0;
    Ok(Box::new(move || {
        let publishes = BROKER_PUBLISHES.min(plan.order.len());
        let indices = plan.order.iter().cycle().skip(offset).take(publishes);
        let names = indices.map(|&channel| &plan.names[channel]);
        offset = (offset + publishes) % plan.order.len();
        let start = Instant::now();
        let handled = actors.publish(names, &payload, publishes)?;
        let taken = start.elapsed();
        ensure!(handled == publishes, "{handled} of {publishes} messages handled");
        Ok(Sample { times: vec![f64::NAN, nanos(taken, publishes)], lost: 0.0 })
    }))
}

/// One connection holds all subscriptions: thousands of connections would measure the kernel.
fn by_redis(server: &redis::Server, plan: &Arc<Plan>) -> Result<Sampler<'static>> {
    let mut inbox = server.subscribe(&plan.names)?;
    let publisher = server.publisher()?;
    let (plan, payload) = (Arc::clone(plan), payload());
    let messages = plan.order.len();
    Ok(repeat(1, messages, move || {
        let start = Instant::now();
        for part in plan.order.chunks(PIPELINE) {
            for &channel in part {
                publisher.publish_to(&plan.names[channel], &payload);
            }
            publisher.flush()?;
        }
        let published = start.elapsed();
        let received = drain(&mut inbox, messages)?;
        let drained = start.elapsed();
        ensure!(received == messages, "{received} of {messages} messages arrived");
        Ok((published, drained))
    }))
}
