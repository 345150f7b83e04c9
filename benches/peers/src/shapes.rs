//! The shapes of the comparison, one file each.

pub mod channels;
pub mod patterns;
pub mod polled;
pub mod slow;
pub mod tasks;
pub mod threads;

use std::time::Duration;

use anyhow::Result;

use crate::measure::{Contender, Sampler};
use crate::peers::WhenFull;
use crate::peers::redis::{self, Server};

/// Room for messages, of each receiver or of the ring that they share: `fanout`'s default, and a power of
/// two, which is what tokio's ring rounds up to.
pub const CAPACITY: usize = 256;

/// Publishes between two looks at the clock where receivers poll: half of what fits.
pub const BATCH: usize = CAPACITY / 2;

/// The amount of measuring.
#[derive(Clone, Copy)]
pub struct Effort {
    /// `true` if this run only tests that everything works.
    pub quick: bool,
}

impl Effort {
    pub fn scaled(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// The redis-server, or why there is none.
pub type Redis<'a> = Result<&'a Server, String>;

/// The server as a contender, or why it is none.
fn join_redis<'a>(
    server: &Redis<'a>,
    open: impl FnOnce(&'a Server) -> Result<Sampler<'a>>,
) -> Result<Contender<'a>> {
    let (name, when_full) = (redis::NAME, WhenFull::ServerBuffers.text());
    match server {
        Ok(server) => Ok(Contender::new(name, when_full, open(server)?)),
        Err(why) => Ok(Contender::absent(name, when_full, why.clone())),
    }
}

/// Nanoseconds for each of `count`.
fn nanos(taken: Duration, count: usize) -> f64 {
    taken.as_nanos() as f64 / count as f64
}
