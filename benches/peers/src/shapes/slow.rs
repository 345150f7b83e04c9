//! One slow receiver among ten, in threads: the losses and delays of the nine others, and the delay of the
//! publisher.

use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use super::{CAPACITY, Effort, Redis};
use crate::measure::Random;
use crate::peers::engine::{DROPS, WAITS};
use crate::peers::queues::{Crossbeam, Flume, Full, TokioMpsc};
use crate::peers::redis;
use crate::peers::rings::{AsyncBroadcast, BusCrate, TokioBroadcast};
use crate::peers::{Got, PAYLOAD, Payload, Peer, Publish, Receive, WhenFull, actors};

pub const RECEIVERS: usize = 10;

/// Index of the slow receiver: in the middle, so that in any order some come before it and some after.
const SLOW: usize = 4;

/// Time that the slow receiver sleeps after each message.
pub const SLEEP: Duration = Duration::from_millis(1);

/// Ten threads to wake for each message leave two cores no faster pace.
pub const PACE: Duration = Duration::from_micros(100);

/// A publisher that waits for the slow one would take ten times as long as its pace asks; it stops here.
pub const LIMIT: Duration = Duration::from_secs(2);

pub struct SlowLine {
    pub name: &'static str,
    pub when_full: &'static str,
    pub outcome: Result<SlowOutcome, String>,
}

/// Sums of all rounds.
pub struct SlowOutcome {
    pub planned: u64,
    pub published: u64,
    /// Part of the published messages that the nine others should have got and did not.
    pub fast_lost: f64,
    pub slow_lost: f64,
    /// Nanoseconds from the call of publish to the return of recv, of the nine others.
    pub latency: Histogram<u64>,
    /// Time by which the publisher was behind its schedule at its last message.
    pub behind: Duration,
}

pub fn messages(effort: Effort) -> u64 {
    effort.scaled(5_000, 500) as u64
}

pub fn run(effort: Effort, server: &Redis<'_>) -> Result<Vec<SlowLine>> {
    let messages = messages(effort);
    let rounds = effort.scaled(4, 1);
    let mut entries = vec![
        Entry::new(&DROPS),
        Entry::new(&WAITS),
        Entry::new(&Crossbeam(Full::Waits)),
        Entry::new(&Crossbeam(Full::Refuses)),
        Entry::new(&Flume(Full::Waits)),
        Entry::new(&TokioMpsc(Full::Waits)),
        Entry::new(&TokioBroadcast),
        Entry::new(&AsyncBroadcast(Full::Waits)),
        Entry::new(&AsyncBroadcast(Full::Refuses)),
        Entry::new(&BusCrate(Full::Waits)),
        Entry::absent(actors::NAME, actors::WHEN_FULL, "actors only"),
        match server {
            Ok(server) => Entry::new(*server),
            Err(why) => Entry::absent(redis::NAME, WhenFull::ServerBuffers.text(), why),
        },
    ];
    let mut random = Random(1);
    for _ in 0..rounds {
        for index in random.permutation(entries.len()) {
            let entry = &mut entries[index];
            if let Ok(sample) = &mut entry.sample {
                let once = sample(messages).with_context(|| format!("measuring {}", entry.name))?;
                entry.rounds.push(once);
            }
        }
    }
    entries.into_iter().map(|entry| entry.summary(messages)).collect()
}

type Sampler<'a> = Box<dyn FnMut(u64) -> Result<Round> + 'a>;

struct Entry<'a> {
    name: &'static str,
    when_full: &'static str,
    sample: Result<Sampler<'a>, String>,
    rounds: Vec<Round>,
}

/// The outcome of one contender in one round.
struct Round {
    published: u64,
    behind: Duration,
    fast_received: u64,
    slow_received: u64,
    latency: Histogram<u64>,
}

impl<'a> Entry<'a> {
    fn new<P: Peer>(peer: &'a P) -> Self {
        Self {
            name: peer.name(),
            when_full: peer.when_full().text(),
            sample: Ok(Box::new(move |messages| sample(peer, messages))),
            rounds: Vec::new(),
        }
    }

    fn absent(name: &'static str, when_full: &'static str, why: &str) -> Self {
        Self { name, when_full, sample: Err(why.to_owned()), rounds: Vec::new() }
    }

    fn summary(self, messages: u64) -> Result<SlowLine> {
        let outcome = match self.sample {
            Err(why) => Err(why),
            Ok(_) => Ok(sum(&self.rounds, messages)?),
        };
        Ok(SlowLine { name: self.name, when_full: self.when_full, outcome })
    }
}

fn sum(rounds: &[Round], messages: u64) -> Result<SlowOutcome> {
    let mut latency = histogram()?;
    for round in rounds {
        latency.add(&round.latency)?;
    }
    let total = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
    let published = total(|round| round.published);
    let lost =
        |received: u64, receivers: u64| 1.0 - received as f64 / (published * receivers) as f64;
    Ok(SlowOutcome {
        planned: messages * rounds.len() as u64,
        published,
        fast_lost: lost(total(|round| round.fast_received), RECEIVERS as u64 - 1),
        slow_lost: lost(total(|round| round.slow_received), 1),
        latency,
        behind: rounds.iter().map(|round| round.behind).sum::<Duration>() / rounds.len() as u32,
    })
}

/// Returns a histogram of nanoseconds up to a minute, to three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// A payload that says when it was published, in nanoseconds since `start`.
fn stamped(start: Instant) -> Payload {
    let mut bytes = [0; PAYLOAD];
    let (stamp, _) = bytes.split_at_mut(size_of::<u64>());
    stamp.copy_from_slice(&nanos_since(start).to_le_bytes());
    Arc::from(bytes)
}

fn stamp(payload: &Payload) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The account of one receiver.
struct Seen {
    received: u64,
    told: u64,
    latency: Histogram<u64>,
}

fn sample<P: Peer>(peer: &P, messages: u64) -> Result<Round> {
    let (publisher, inboxes) = peer.open(RECEIVERS, CAPACITY)?;
    let ready = Barrier::new(RECEIVERS + 1);
    // Once the publisher has ended, the slow one need not be slow any more.
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (ready, over) = (&ready, &over);
    let (published, behind, seen) = thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(inboxes)
            .map(|(index, inbox)| {
                scope.spawn(move || {
                    ready.wait();
                    receive(inbox, index == SLOW, messages, start, over)
                })
            })
            .collect();
        ready.wait();
        // Receivers of a server learn of no end but by count, and it makes no publisher wait for them.
        let limit = if peer.when_full() == WhenFull::ServerBuffers { Duration::MAX } else { LIMIT };
        let outcome = publish(&publisher, messages, start, limit);
        over.store(true, Ordering::Relaxed);
        drop(publisher);
        let seen: Result<Vec<Seen>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a receiver panicked"))?)
            .collect();
        let (published, behind) = outcome?;
        anyhow::Ok((published, behind, seen?))
    })?;

    let mut latency = histogram()?;
    let (mut fast_received, mut slow_received) = (0, 0);
    for (index, seen) in seen.into_iter().enumerate() {
        ensure!(
            !peer.when_full().is_told() || seen.received + seen.told == published,
            "receiver {index} read {} messages and was told of {} lost, of {published}",
            seen.received,
            seen.told,
        );
        if index == SLOW {
            slow_received += seen.received;
        } else {
            fast_received += seen.received;
            latency.add(&seen.latency)?;
        }
    }
    Ok(Round { published, behind, fast_received, slow_received, latency })
}

/// Publishes at the pace, or later where it is held up; how many messages, and how far behind the last was.
fn publish(
    publisher: &impl Publish,
    messages: u64,
    start: Instant,
    limit: Duration,
) -> Result<(u64, Duration)> {
    let first = start.elapsed();
    for n in 0..messages {
        let due = first + PACE * n as u32;
        while start.elapsed() < due {
            thread::yield_now();
        }
        publisher.publish(stamped(start))?;
        publisher.flush()?;
        if start.elapsed() - first > limit {
            return Ok((n + 1, start.elapsed() - due));
        }
    }
    Ok((messages, start.elapsed().saturating_sub(first + PACE * (messages - 1) as u32)))
}

fn receive(
    mut inbox: impl Receive,
    is_slow: bool,
    messages: u64,
    start: Instant,
    over: &AtomicBool,
) -> Result<Seen> {
    let mut seen = Seen { received: 0, told: 0, latency: histogram()? };
    while seen.received + seen.told < messages {
        match inbox.recv()? {
            Got::Message(payload) => {
                let sent = stamp(&payload).context("a payload without a stamp")?;
                seen.latency.saturating_record(nanos_since(start).saturating_sub(sent));
                seen.received += 1;
                if is_slow && !over.load(Ordering::Relaxed) {
                    thread::sleep(SLEEP);
                }
            }
            Got::Lost(missed) => seen.told += missed,
            Got::Nothing => break,
        }
    }
    Ok(seen)
}
