//! Measuring contenders in turns, so that a machine whose speed drifts drifts under all of them.

use anyhow::{Context, Result};

/// One measurement of one contender.
pub struct Sample {
    /// Times, one for each column of the shape; NaN where the contender has none.
    pub times: Vec<f64>,
    /// Part of the messages that did not arrive, from 0 to 1.
    pub lost: f64,
}

/// Takes one sample at each call.
pub type Sampler<'a> = Box<dyn FnMut() -> Result<Sample> + 'a>;

/// Something that takes part in a shape, or says in two words why it does not.
pub struct Contender<'a> {
    pub name: &'static str,
    /// The meaning of a full queue for the publisher and the receiver.
    pub when_full: &'static str,
    pub sampler: Result<Sampler<'a>, String>,
    /// The contender that it is compared with.
    pub base: usize,
}

impl<'a> Contender<'a> {
    pub fn new(name: &'static str, when_full: &'static str, sampler: Sampler<'a>) -> Self {
        Self { name, when_full, sampler: Ok(sampler), base: 0 }
    }

    pub fn absent(name: &'static str, when_full: &'static str, why: impl Into<String>) -> Self {
        Self { name, when_full, sampler: Err(why.into()), base: 0 }
    }

    /// Compares it with another contender than the first.
    pub fn against(self, base: usize) -> Self {
        Self { base, ..self }
    }
}

/// The medians of one column.
#[derive(Clone, Copy)]
pub struct Figure {
    pub time: f64,
    /// To the time of the contender's base, round by round.
    pub ratio: f64,
}

/// The outcome of a contender.
#[derive(Clone)]
pub struct Line {
    pub name: &'static str,
    pub when_full: &'static str,
    pub outcome: Result<Outcome, String>,
}

#[derive(Clone)]
pub struct Outcome {
    pub figures: Vec<Figure>,
    pub lost: f64,
}

/// Samples all contenders in turns, each round in another order, so that none always follows the same one
/// and finds its caches. The first round only warms up.
pub fn in_turns(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Line>> {
    let count = contenders.len();
    let mut taken: Vec<Vec<Sample>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    let mut random = Random(1);
    for round in 0..=rounds {
        for index in random.permutation(count) {
            let contender = &mut contenders[index];
            let Ok(sampler) = &mut contender.sampler else { continue };
            let sample = sampler().with_context(|| format!("measuring {}", contender.name))?;
            if round > 0 {
                taken[index].push(sample);
            }
        }
    }
    let lines = contenders.into_iter().zip(&taken).map(|(contender, samples)| {
        let outcome = contender.sampler.map(|_| summary(samples, &taken[contender.base]));
        Line { name: contender.name, when_full: contender.when_full, outcome }
    });
    Ok(lines.collect())
}

fn summary(samples: &[Sample], base: &[Sample]) -> Outcome {
    let columns = samples.first().map_or(0, |sample| sample.times.len());
    let figures = (0..columns).map(|column| Figure {
        time: median(samples.iter().map(|sample| sample.times[column])),
        ratio: median(
            samples.iter().zip(base).map(|(own, base)| own.times[column] / base.times[column]),
        ),
    });
    Outcome { figures: figures.collect(), lost: median(samples.iter().map(|sample| sample.lost)) }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A generator of pseudo-random numbers that is the same in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (((bits >> 32) * bound as u64) >> 32) as usize
    }

    /// All numbers below `bound`, in random order.
    pub fn permutation(&mut self, bound: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..bound).collect();
        for last in (1..bound).rev() {
            numbers.swap(last, self.below(last + 1));
        }
        numbers
    }
}
