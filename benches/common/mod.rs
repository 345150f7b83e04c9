//! Code that the benches share: measuring in turns, and tables of figures with their goals.
#![allow(dead_code, missing_docs)]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use criterion::{Bencher, Criterion};
use fanout::{Bus, SubscriberBuilder};
use memory_stats::memory_stats;

pub type Payload = Arc<[u8]>;

pub fn payload() -> Payload {
    Arc::from(&b"ada follows you"[..])
}

/// Returns a builder of a subscriber whose inbox holds messages and nothing else.
pub fn quiet(bus: &Bus<Payload>, capacity: usize) -> SubscriberBuilder<Payload> {
    bus.subscriber_builder().capacity(capacity).lifecycle_events(false)
}

/// `true` if this run only tests that everything works (`cargo bench -- --test`).
pub fn is_test() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// `true` if benches were chosen by name, so that the tables at the end are not wanted.
pub fn is_filtered() -> bool {
    std::env::args().skip(1).any(|arg| !arg.starts_with('-') || arg == "--list")
}

/// Returns `full` in a real run, `tried` in a run that only tests.
pub fn scaled(full: usize, tried: usize) -> usize {
    if is_test() { tried } else { full }
}

/// Runs a file's benches. Returns `true` if the tables that follow them are wanted.
pub fn run(benches: impl FnOnce(&mut Criterion)) -> bool {
    // Short measurements: the benches have many points, and compare medians.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
    !is_filtered()
}

/// Makes criterion measure `one`, which does `batch` operations and returns the nanoseconds of each.
pub fn iterate(bencher: &mut Bencher<'_>, batch: usize, mut one: impl FnMut() -> f64) {
    bencher.iter_custom(|iterations| {
        let batches = (iterations as usize).div_ceil(batch);
        let each = (0..batches).map(|_| one()).sum::<f64>() / batches as f64;
        Duration::from_nanos((each * iterations as f64) as u64)
    });
}

/// Calls `work` once, and returns the nanoseconds of each of the `operations` in it.
pub fn nanos(operations: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / operations as f64
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of the times of two ways that were measured in turns, and of their ratio and difference round by round. A
/// drift of the machine's speed affects both alike.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub ours: f64,
    pub floor: f64,
    pub ratio: f64,
    pub difference: f64,
}

impl Pair {
    /// Compares the times of two ways that could not be measured in turns.
    pub fn of(ours: &mut [f64], floor: &mut [f64]) -> Self {
        let (ours, floor) = (median(ours), median(floor));
        Self { ours, floor, ratio: ours / floor, difference: ours - floor }
    }
}

/// Measures two ways in turns; each returns nanoseconds for one operation.
pub fn in_turns(
    rounds: usize,
    mut ours: impl FnMut() -> f64,
    mut floor: impl FnMut() -> f64,
) -> Pair {
    let (mut us, mut them, mut ratios, mut differences) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds + 2 {
        // Each way comes first as often as the other.
        let (a, b) = if round % 2 == 0 {
            let a = ours();
            (a, floor())
        } else {
            let b = floor();
            (ours(), b)
        };
        // Two rounds to warm up.
        if round >= 2 {
            us.push(a);
            them.push(b);
            ratios.push(a / b);
            differences.push(a - b);
        }
    }
    Pair {
        ours: median(&mut us),
        floor: median(&mut them),
        ratio: median(&mut ratios),
        difference: median(&mut differences),
    }
}

/// The times of several ways, taken in turns.
pub struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    /// Takes the time of each of `ways` ways in each round, every way as often first as the others.
    pub fn take(rounds: usize, ways: usize, mut time: impl FnMut(usize) -> f64) -> Self {
        let mut times = vec![Vec::new(); ways];
        // Two rounds to warm up.
        for round in 0..rounds + 2 {
            for turn in 0..ways {
                let way = (round + turn) % ways;
                let taken = time(way);
                if round >= 2 {
                    times[way].push(taken);
                }
            }
        }
        Self(times)
    }

    fn median(&self, way: usize) -> f64 {
        median(&mut self.0[way].clone())
    }

    /// Returns the way with the smallest median.
    pub fn fastest(&self, ways: Range<usize>) -> usize {
        let compare =
            |&one: &usize, &other: &usize| self.median(one).total_cmp(&self.median(other));
        ways.min_by(compare).expect("there are ways")
    }

    /// Compares two ways, round by round.
    pub fn compare(&self, ours: usize, floor: usize) -> Pair {
        let pairs = || self.0[ours].iter().zip(&self.0[floor]);
        Pair {
            ours: self.median(ours),
            floor: self.median(floor),
            ratio: median(&mut pairs().map(|(a, b)| a / b).collect::<Vec<_>>()),
            difference: median(&mut pairs().map(|(a, b)| a - b).collect::<Vec<_>>()),
        }
    }
}

/// The direction in which a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

impl Better {
    fn meets(self, figure: f64, mark: f64) -> bool {
        match self {
            Self::Less => figure <= mark,
            Self::More => figure >= mark,
        }
    }
}

/// A figure with its goals.
pub struct Number {
    pub name: &'static str,
    pub what: String,
    pub figure: f64,
    pub reach: f64,
    pub aim: f64,
    pub unit: &'static str,
    pub better: Better,
    /// The other side of the comparison, in words.
    pub against: String,
}

/// Returns a table whose columns from `figures` on hold figures.
pub fn table<const N: usize>(header: [&str; N], figures: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(header);
    for column in table.column_iter_mut().skip(figures) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints each figure beside its goals.
pub fn print_numbers(title: &str, numbers: &[Number]) {
    let mut table = table(["", "what", "measured", "reach", "aim", "", "against"], 2);
    for number in numbers {
        let Number { figure, reach, aim, unit, better, .. } = *number;
        let verdict = if better.meets(figure, aim) {
            "aim met".to_owned()
        } else if better.meets(figure, reach) {
            "reached".to_owned()
        } else {
            format!("missed by {:.0} %", (figure / reach - 1.0).abs() * 100.0)
        };
        table.add_row([
            number.name.to_owned(),
            number.what.clone(),
            format!("{figure:.2} {unit}"),
            format!("{reach} {unit}"),
            format!("{aim} {unit}"),
            verdict,
            number.against.clone(),
        ]);
    }
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    println!("\n{title} (medians)\n{table}\n");
}

/// Returns the bytes of memory that the process has; 0 if the system does not tell.
pub fn resident() -> f64 {
    memory_stats().map_or(0.0, |memory| memory.physical_mem as f64)
}

/// A generator of pseudo-random numbers that is the same in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
