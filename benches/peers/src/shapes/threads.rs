//! One channel to receivers that block in threads of their own, while the publisher sends as fast as it
//! can. Some make it wait for the slowest receiver, others lose messages: they are shown apart.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::{BATCH, CAPACITY, Effort, Redis, join_redis, nanos};
use crate::measure::{Contender, Line, Sample, Sampler, in_turns};
use crate::peers::engine::{DROPS, WAITS};
use crate::peers::queues::{Crossbeam, Flume, Full, TokioMpsc};
use crate::peers::rings::{AsyncBroadcast, BusCrate, TokioBroadcast};
use crate::peers::{Got, Peer, Publish, Receive, actors, payload};

/// The columns of a [`Sample`]: until all have what they get, and until the publisher is free.
pub const DELIVERY: usize = 0;
pub const PUBLISH: usize = 1;

/// Index of the first contender that loses messages rather than make the publisher wait. The time of a delivery
/// would flatter who waits and the time of a publish who loses, so they are compared among themselves.
pub const LOSSY: usize = 8;

/// A thousand threads would measure the kernel's scheduler.
pub fn receivers(effort: Effort) -> &'static [usize] {
    if effort.quick { &[1, 4] } else { &[1, 4, 16, 100] }
}

pub fn run(effort: Effort, receivers: usize, redis: &Redis<'_>) -> Result<Vec<Line>> {
    // With one receiver the publisher is what takes time, as much as for two. A flood that is lost is soon
    // over: it must outlast the scheduler's time slices.
    let messages = effort.scaled(200_000, 2_000) / receivers.max(2);
    let flood = effort.scaled(600_000, 4_000) / receivers.max(2);
    let contenders = vec![
        contender(&WAITS, receivers, messages),
        contender(&Crossbeam(Full::Waits), receivers, messages),
        contender(&Flume(Full::Waits), receivers, messages),
        contender(&TokioMpsc(Full::Waits), receivers, messages),
        contender(&BusCrate(Full::Waits), receivers, messages),
        contender(&AsyncBroadcast(Full::Waits), receivers, messages),
        Contender::absent(actors::NAME, actors::WHEN_FULL, "actors only"),
        join_redis(redis, |server| Ok(sampler(server, receivers, messages)))?,
        contender(&DROPS, receivers, flood).against(LOSSY),
        contender(&Crossbeam(Full::Refuses), receivers, flood).against(LOSSY),
        contender(&TokioBroadcast, receivers, flood).against(LOSSY),
        contender(&AsyncBroadcast(Full::Refuses), receivers, flood).against(LOSSY),
    ];
    in_turns(effort.scaled(11, 2), contenders)
}

fn contender<P: Peer>(peer: &P, receivers: usize, messages: usize) -> Contender<'_> {
    Contender::new(peer.name(), peer.when_full().text(), sampler(peer, receivers, messages))
}

/// The account of one receiver.
struct Seen {
    received: u64,
    told: u64,
    ended: Instant,
}

/// Each sample has threads and a channel of its own: the publisher's end is dropped to end the receivers.
fn sampler<P: Peer>(peer: &P, receivers: usize, messages: usize) -> Sampler<'_> {
    Box::new(move || sample(peer, receivers, messages))
}

fn sample<P: Peer>(peer: &P, receivers: usize, messages: usize) -> Result<Sample> {
    let (publisher, inboxes) = peer.open(receivers, CAPACITY)?;
    let payload = payload();
    let ready = Barrier::new(receivers + 1);
    let ready = &ready;
    let (start, published, seen) = thread::scope(|scope| {
        let threads: Vec<_> = inboxes
            .into_iter()
            .map(|inbox| {
                scope.spawn(move || {
                    ready.wait();
                    receive(inbox, messages as u64)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        // An error ends the receivers as well, by dropping the publisher.
        let publish = || {
            for n in 1..=messages {
                publisher.publish(payload.clone())?;
                if n % BATCH == 0 {
                    publisher.flush()?;
                }
            }
            publisher.flush()
        };
        let result: Result<()> = publish();
        let published = start.elapsed();
        drop(publisher);
        let seen: Result<Vec<Seen>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a receiver panicked"))?)
            .collect();
        result?;
        anyhow::Ok((start, published, seen?))
    })?;

    for (index, seen) in seen.iter().enumerate() {
        ensure!(
            !peer.when_full().is_told() || seen.received + seen.told == messages as u64,
            "receiver {index} read {} messages and was told of {} lost, of {messages}",
            seen.received,
            seen.told,
        );
    }
    let received: u64 = seen.iter().map(|seen| seen.received).sum();
    let ended = seen.iter().map(|seen| seen.ended).max().unwrap_or(start);
    let expected = messages * receivers;
    Ok(Sample {
        times: vec![nanos(ended - start, received as usize), nanos(published, messages)],
        lost: 1.0 - received as f64 / expected as f64,
    })
}

fn receive(mut inbox: impl Receive, messages: u64) -> Result<Seen> {
    let (mut received, mut told) = (0, 0);
    while received + told < messages {
        match inbox.recv()? {
            Got::Message(payload) => {
                black_box(payload);
                received += 1;
            }
            Got::Lost(missed) => told += missed,
            Got::Nothing => break,
        }
    }
    Ok(Seen { received, told, ended: Instant::now() })
}
