//! Many patterns, of which one matches what is published.
//!
//! The channel is either always the same one, or each time one that was never seen, as names with a
//! request's or a session's number in them are.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crossbeam_channel::bounded;
use fanout::Bus;
use globset::{Candidate, Glob, GlobMatcher, GlobSet};

use super::polled::drain;
use super::{BATCH, CAPACITY, Effort, Redis, join_redis, nanos};
use crate::measure::{Contender, Line, Sample, Sampler, in_turns};
use crate::peers::actors::{self, Actors};
use crate::peers::{Payload, Publish, Receive, payload, redis};

/// The columns of a [`Sample`].
pub const HOT: usize = 0;
pub const NEW: usize = 1;

pub fn patterns(effort: Effort) -> usize {
    effort.scaled(1_000, 50)
}

/// Forms of the patterns, in which `{i}` is the number of each: with a literal beginning, which is the best case of a
/// `GlobSet`, and without.
pub const FORMS: [&str; 2] = ["user:{i}:*", "*:{i}:*"];

pub fn run(effort: Effort, form: &str, server: &Redis<'_>) -> Result<Vec<Line>> {
    let patterns: Vec<String> =
        (0..patterns(effort)).map(|user| form.replace("{i}", &user.to_string())).collect();
    let batches = effort.scaled(40, 2);
    let few = effort.scaled(2, 1);
    let none = "no patterns";
    let contenders = vec![
        Contender::new("fanout", "loses oldest", by_fanout(&patterns, batches)?),
        Contender::new("by hand: GlobSet", "loses newest", by_glob_set(&patterns, few)?),
        Contender::new("by hand: GlobMatcher scan", "loses newest", by_scan(&patterns, few)?),
        Contender::new(actors::NAME, actors::WHEN_FULL, by_broker(&patterns, few)?),
        join_redis(server, |server| by_redis(server, &patterns, few))?,
        Contender::absent("tokio broadcast", "loses oldest", none),
        Contender::absent("async-broadcast", "either", none),
        Contender::absent("bus", "either", none),
        Contender::absent("flume, tokio mpsc", "either", none),
    ];
    in_turns(effort.scaled(15, 2), contenders)
}

/// Channels that one pattern in the middle matches.
struct Names {
    user: usize,
    request: u64,
}

impl Names {
    fn new(patterns: &[String]) -> Self {
        Self { user: patterns.len() / 2, request: 0 }
    }

    fn hot(&self) -> Vec<String> {
        vec![format!("user:{}:requests", self.user); BATCH]
    }

    fn new_ones(&mut self) -> Vec<String> {
        let first = self.request;
        self.request += BATCH as u64;
        (first..self.request).map(|request| format!("user:{}:{request:08}", self.user)).collect()
    }
}

/// `batch` publishes to each of the names, and says how long that took; afterwards the inbox of the one
/// pattern that matches has all, and the others have nothing, which `batch` sees to.
fn sampler<'a>(
    patterns: &[String],
    batches: usize,
    mut batch: impl FnMut(&[String]) -> Result<Duration> + 'a,
) -> Sampler<'a> {
    let mut names = Names::new(patterns);
    Box::new(move || {
        let hot = names.hot();
        batch(&hot)?;
        let mut taken = [Duration::ZERO; 2];
        for _ in 0..batches {
            taken[HOT] += batch(&hot)?;
        }
        for _ in 0..batches {
            taken[NEW] += batch(&names.new_ones())?;
        }
        let times = taken.map(|taken| nanos(taken, batches * BATCH));
        Ok(Sample { times: times.to_vec(), lost: 0.0 })
    })
}

/// Drains all inboxes; fails unless what was published was in the one in the middle, and nowhere else.
fn check<R: Receive>(inboxes: &mut [R], published: usize) -> Result<()> {
    let matching = inboxes.len() / 2;
    for (index, inbox) in inboxes.iter_mut().enumerate() {
        let expected = if index == matching { published } else { 0 };
        let received = drain(inbox, CAPACITY)?;
        ensure!(received == expected, "pattern {index} got {received} messages, not {expected}");
    }
    Ok(())
}

fn by_fanout(patterns: &[String], batches: usize) -> Result<Sampler<'static>> {
    let bus: Bus<Payload> = Bus::new();
    let mut inboxes =
        patterns.iter().map(|pattern| bus.psubscribe(pattern)).collect::<Result<Vec<_>, _>>()?;
    let payload = payload();
    Ok(sampler(patterns, batches, move |names| {
        let start = Instant::now();
        for name in names {
            bus.publish(name, payload.clone());
        }
        let taken = start.elapsed();
        check(&mut inboxes, names.len())?;
        Ok(taken)
    }))
}

fn by_scan(patterns: &[String], batches: usize) -> Result<Sampler<'static>> {
    let (mut routes, mut inboxes) = (Vec::new(), Vec::new());
    for pattern in patterns {
        let matcher: GlobMatcher = Glob::new(pattern)?.compile_matcher();
        let (sender, receiver) = bounded(CAPACITY);
        routes.push((matcher, sender));
        inboxes.push(receiver);
    }
    let payload = payload();
    Ok(sampler(patterns, batches, move |names| {
        let start = Instant::now();
        for name in names {
            // Taken apart once for all of them.
            let candidate = Candidate::new(name);
            for (matcher, sender) in &routes {
                if matcher.is_match_candidate(&candidate) {
                    sender.try_send(payload.clone())?;
                }
            }
        }
        let taken = start.elapsed();
        check(&mut inboxes, names.len())?;
        Ok(taken)
    }))
}

fn by_glob_set(patterns: &[String], batches: usize) -> Result<Sampler<'static>> {
    let mut set = GlobSet::builder();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    let set = set.build()?;
    let (senders, mut inboxes): (Vec<_>, Vec<_>) =
        patterns.iter().map(|_| bounded(CAPACITY)).unzip();
    let payload = payload();
    let mut matching = Vec::new();
    Ok(sampler(patterns, batches, move |names| {
        let start = Instant::now();
        for name in names {
            set.matches_into(name, &mut matching);
            for &index in &matching {
                senders[index].try_send(payload.clone())?;
            }
        }
        let taken = start.elapsed();
        check(&mut inboxes, names.len())?;
        Ok(taken)
    }))
}

/// Publishing and handling together.
fn by_broker(patterns: &[String], batches: usize) -> Result<Sampler<'static>> {
    let actors = Actors::new(patterns, CAPACITY)?;
    let payload = payload();
    Ok(sampler(patterns, batches, move |names| {
        let start = Instant::now();
        let handled = actors.publish(names.iter(), &payload, names.len())?;
        let taken = start.elapsed();
        ensure!(handled == names.len(), "{handled} of {} messages handled", names.len());
        Ok(taken)
    }))
}

/// One connection holds all patterns. The replies to a pipeline come when all of it has been matched.
fn by_redis(
    server: &redis::Server,
    patterns: &[String],
    batches: usize,
) -> Result<Sampler<'static>> {
    let mut inbox = server.psubscribe(patterns)?;
    let publisher = server.publisher()?;
    let payload = payload();
    Ok(sampler(patterns, batches, move |names| {
        let start = Instant::now();
        for name in names {
            publisher.publish_to(name, &payload);
        }
        publisher.flush()?;
        let taken = start.elapsed();
        let received = drain(&mut inbox, names.len())?;
        ensure!(received == names.len(), "{received} of {} messages arrived", names.len());
        Ok(taken)
    }))
}
