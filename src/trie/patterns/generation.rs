//! Generations: how a route learns that a new pattern could match its channel.
//!
//! One counter for all patterns would make every `psubscribe` invalidate every route. So there are many: a new pattern
//! advances one that its literal prefix selects, and a channel reads those that its own prefixes select. A counter
//! of all patterns comes first: while it stands still, no other need be read.
//!
//! Only patterns new to the bus advance a counter. A subscriber that joins a pattern enters the list to which routes
//! already point. A pattern that nobody holds any more leaves an empty list behind, which the next publish notices.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState;

use crate::pattern::Pattern;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The patterns that a route was derived from. The default is before all of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Generation {
    /// The number of patterns ever added to the bus.
    all: u64,
    /// The number of those that could match the channel: the sum of its counters, which only grow.
    relevant: u64,
}

impl Generation {
    /// `true` if a route of this generation is still valid in the generation `now` of the same channel.
    pub(crate) fn is_valid_in(self, now: Self) -> bool {
        self.relevant == now.relevant
    }
}

/// The lengths of literal prefix that have counters of their own, in bytes. A pattern advances the counter of the
/// longest that it has; a channel reads the counters of all that it has.
const PREFIX_LENGTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Prefixes whose first bytes differ have rows of counters of their own, as far as there are rows. However many
/// patterns of one prefix come and go, they meet no route of another.
const ROWS: usize = 64;
const COLUMNS: usize = 64;

/// The counters of a bus.
pub(super) struct Generations {
    /// Advanced by each new pattern, last.
    all: CachePadded<AtomicU64>,
    /// Advanced by patterns without a literal prefix.
    unanchored: CachePadded<AtomicU64>,
    /// The `PREFIX_LENGTHS` that have ever been advanced, as bits: the others need not be read.
    used_lengths: AtomicU32,
    /// `ROWS * COLUMNS` counters, made by the first pattern with a literal prefix.
    anchored: OnceLock<Box<[AtomicU64]>>,
    /// Chooses a counter in a row.
    hasher: RandomState,
}

impl Generations {
    pub(super) fn new() -> Self {
        Self {
            all: CachePadded::new(AtomicU64::new(0)),
            unanchored: CachePadded::new(AtomicU64::new(0)),
            used_lengths: AtomicU32::new(0),
            anchored: OnceLock::new(),
            hasher: RandomState::default(),
        }
    }

    /// `true` if no pattern has been added since `generation`.
    #[inline]
    pub(super) fn unchanged_since(&self, generation: Generation) -> bool {
        // Acquire: pairs with the Release in `advance`. Whoever sees the new count sees the pattern.
        self.all.load(Ordering::Acquire) == generation.all
    }

    /// Returns the generation of a route of `channel` that is derived after this call.
    pub(super) fn current(&self, channel: &[u8]) -> Generation {
        // Acquire, and before the other counters: if one of them is read too early, `all` advances after it.
        let all = self.all.load(Ordering::Acquire);
        // Acquire, this and the counters below: pair with the Releases in `advance`. Whoever sees a counter that is
        // ahead of `all` sees the size of the part that the pattern went to, and does not skip that part.
        let mut relevant = self.unanchored.load(Ordering::Acquire);
        // Relaxed: if a new length is missed, `all` advances after it.
        let lengths = self.used_lengths.load(Ordering::Relaxed);
        if let Some(anchored) = self.anchored.get() {
            self.for_each_counter(channel, lengths, |counter| {
                relevant += anchored[counter].load(Ordering::Acquire);
            });
        }
        Generation { all, relevant }
    }

    /// Counts `pattern`, which is new to the bus and in the trie already.
    pub(super) fn advance(&self, pattern: &Pattern) {
        for prefix in pattern.prefixes() {
            match PREFIX_LENGTHS.iter().rposition(|&length| length <= prefix.len()) {
                // Release, this and the other: pair with the Acquires in `current`.
                None => {
                    self.unanchored.fetch_add(1, Ordering::Release);
                }
                Some(index) => {
                    let anchored = self
                        .anchored
                        .get_or_init(|| (0..ROWS * COLUMNS).map(|_| AtomicU64::new(0)).collect());
                    let bit = 1 << index;
                    // Not written if it is set: publishers read this cache line.
                    if self.used_lengths.load(Ordering::Relaxed) & bit == 0 {
                        self.used_lengths.fetch_or(bit, Ordering::Relaxed);
                    }
                    self.for_each_counter(prefix, bit, |counter| {
                        anchored[counter].fetch_add(1, Ordering::Release);
                    });
                }
            };
        }
        // Release: pairs with the Acquires in `unchanged_since` and `current`. The trie and the counters come first.
        self.all.fetch_add(1, Ordering::Release);
    }

    /// Calls `each` with the index of a counter for each of the `lengths` (as bits) that `bytes` are long enough for.
    #[inline]
    fn for_each_counter(&self, bytes: &[u8], lengths: u32, mut each: impl FnMut(usize)) {
        self.counter::<0, { PREFIX_LENGTHS[0] }>(bytes, lengths, &mut each);
        self.counter::<1, { PREFIX_LENGTHS[1] }>(bytes, lengths, &mut each);
        self.counter::<2, { PREFIX_LENGTHS[2] }>(bytes, lengths, &mut each);
        self.counter::<3, { PREFIX_LENGTHS[3] }>(bytes, lengths, &mut each);
        self.counter::<4, { PREFIX_LENGTHS[4] }>(bytes, lengths, &mut each);
        self.counter::<5, { PREFIX_LENGTHS[5] }>(bytes, lengths, &mut each);
    }

    /// Calls `each` for one length. It is constant, because hashing a constant number of bytes is cheap.
    #[inline(always)]
    fn counter<const INDEX: u32, const BYTES: usize>(
        &self,
        bytes: &[u8],
        lengths: u32,
        each: &mut impl FnMut(usize),
    ) {
        if lengths & 1 << INDEX != 0
            && let Some(prefix) = bytes.first_chunk::<BYTES>()
        {
            // Unseeded: whoever chooses prefixes that share a row only invalidates routes more often.
            let first = u32::from(prefix[0]);
            let second = prefix.get(1).map_or(0, |&byte| u32::from(byte));
            let row = (first << 8 | second).wrapping_mul(0x9e37_79b9) >> 26;
            let mut hasher = self.hasher.build_hasher();
            hasher.write(prefix);
            each(row as usize % ROWS * COLUMNS + (hasher.finish() >> 32) as usize % COLUMNS);
        }
    }
}
