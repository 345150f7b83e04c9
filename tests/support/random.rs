//! Random choices that can be repeated, and how much of them a test makes.

use proptest::test_runner::Config;

/// Returns the settings of a property that is tested with `cases` inputs. A failure prints its smallest input; no file
/// is written.
pub fn cases(cases: u32) -> Config {
    Config { failure_persistence: None, ..Config::with_cases(cases) }
}

/// Returns `count` in a build without optimisation and five times as many in one with it: enough to meet a race.
pub const fn scaled(count: usize) -> usize {
    if cfg!(debug_assertions) { count } else { 5 * count }
}

/// A small deterministic generator (xorshift64), so that a run can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Returns a number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}
