//! The patterns of a bus: the pattern trie under its locks, and word of what has changed.
//!
//! A channel's route remembers which patterns match it. It is valid while [`Patterns::stamp`] says the
//! same as when it was derived. One counter for all patterns would make every `psubscribe` spoil every
//! route, so there are many: a new pattern advances the one that its literal beginning leads to, and a
//! channel looks at those that its own beginnings lead to. Only patterns new to the bus advance one.
//! A subscriber that joins a pattern enters the list that routes already point to, and a pattern that
//! nobody holds any more leaves an empty one behind, which the next publish notices.

mod tree;

use std::hash::{BuildHasher, Hasher};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::pattern::Pattern;
use crate::prefetch::prefetch;
use crate::small_str::Inline;
use crate::source::Named;
use crate::sync::{
    AtomicU32, AtomicU64, AtomicUsize, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use crate::trie::probe_table::{Hashed, ProbeTable};
use crate::trie::recipients::Recipients;
use tree::{End, PatternTree, Walk};

/// The longest text of a pattern that is found in the tree alone, in bytes: an index finds longer ones.
const SMALL: usize = 256;

/// The longest code that is copied into a pattern's entry, in bytes. With this, the copy takes three words.
const SHORT: usize = 22;

const _: () = assert!(size_of::<Option<Inline<SHORT>>>() == 24);

/// `true` if the text of `pattern` is longer than `SMALL`.
fn is_long(pattern: &Pattern) -> bool {
    pattern.as_str().len() > SMALL
}

/// A pattern on the bus, shared by all who subscribed it and by the routes that it matches.
///
/// In this order, so that a publish to a name never seen touches the first part alone, two cache lines mostly, with
/// the `Arc`'s own counter in front: of a million patterns, it finds none of that in a cache.
#[repr(C)]
pub(crate) struct PatternEntry<P> {
    /// A copy of the pattern's code, if that is short: of a million patterns, what the pattern points to is in no
    /// cache.
    code: Option<Inline<SHORT>>,
    recipients: RwLock<Recipients<P>>,
    /// Subscriptions; incremented under the lock of the pattern's part, decremented under that lock for writing. At 0 the
    /// entry is out of the part.
    holders: AtomicUsize,
    /// Entries are locked in the order of these, so that publishers cannot wait in a circle.
    pub(crate) number: u64,
    pub(crate) pattern: Pattern,
    /// The pattern's text: the same as it has, for those that messages point to this.
    text: Arc<str>,
    /// Under the bus's seed: for the subscribers' own tables.
    pub(crate) hash: u64,
}

impl<P> End for Arc<PatternEntry<P>> {
    #[inline]
    fn code(&self) -> &[u8] {
        match &self.code {
            Some(code) => code.as_bytes(),
            None => self.pattern.code(),
        }
    }

    #[inline]
    fn text_len(&self) -> usize {
        self.pattern.as_str().len()
    }

    #[inline]
    fn prefetch(&self) {
        let at = Arc::as_ptr(self).cast::<u8>();
        prefetch(at.wrapping_sub(16));
        prefetch(at.wrapping_add(48));
        prefetch(at.wrapping_add(100));
    }
}

impl<P: Send + 'static> Named for PatternEntry<P> {
    fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    fn text(&self) -> &Arc<str> {
        &self.text
    }
}

// A panic in user code leaves the recipients in order: that is the contract, and tested.
impl<P> UnwindSafe for PatternEntry<P> {}
impl<P> RefUnwindSafe for PatternEntry<P> {}

impl<P> PatternEntry<P> {
    /// The recipients, for a publish.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Recipients<P>> {
        self.recipients.read()
    }

    /// The recipients, to join or leave.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Recipients<P>> {
        self.recipients.write()
    }

    /// The recipients, unless a publish holds them.
    pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, Recipients<P>>> {
        self.recipients.try_write()
    }

    /// Whether nobody holds the pattern any more. It stays so: who subscribes it anew gets a new entry.
    pub(crate) fn is_dead(&self) -> bool {
        // Relaxed: a late answer costs one more look at an empty list.
        self.holders.load(Ordering::Relaxed) == 0
    }
}

/// Which patterns a route was derived from. 0 is before all of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// All patterns ever added to the bus.
    epoch: u64,
    /// Those of them that could concern the channel: the sum of its counters, which only grow.
    relevant: u64,
}

/// The lengths of literal beginning, in bytes, that have counters of their own. A pattern advances the
/// one of the longest that it has; a channel looks at all that it has.
const LEVELS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Counters lie in rows, and patterns whose first bytes differ in rows of their own (as far as there
/// are rows), so that however many of them come and go, they meet no route of another beginning.
const ROWS: usize = 64;
const ROW: usize = 64;

/// Parts for patterns with a literal beginning, chosen by its first byte.
const PARTS: usize = 16;

/// A part of the pattern trie.
struct Part<P> {
    /// How many patterns it holds: an empty part need not be locked to be passed.
    size: AtomicUsize,
    patterns: RwLock<PartPatterns<P>>,
}

/// The patterns of a part.
struct PartPatterns<P> {
    tree: PatternTree<Arc<PatternEntry<P>>>,
    /// Finds the long ones by dialect and text: to compare texts along a list in the tree would take as long as they
    /// are. The short ones are found in the tree; an index of them would be one more cache miss to subscribe one.
    long: ProbeTable<Indexed<P>>,
}

/// An entry with a part of its hash, so that nothing else is fetched for one that is another, nor when the index grows.
struct Indexed<P>(u32, Arc<PatternEntry<P>>);

impl<P> Hashed for Indexed<P> {
    #[inline]
    fn hash(&self) -> u32 {
        self.0
    }
}

impl<P> Indexed<P> {
    fn hash_of(hash: u64) -> u32 {
        (hash >> 32) as u32
    }
}

impl<P> Part<P> {
    /// The patterns, if there are any.
    #[inline]
    fn read(&self) -> Option<RwLockReadGuard<'_, PartPatterns<P>>> {
        // Relaxed: whoever has seen a stamp has seen the sizes that preceded it.
        (self.size.load(Ordering::Relaxed) > 0).then(|| self.patterns.read())
    }
}

impl<P> PartPatterns<P> {
    /// The entry of `pattern`, whose hash is `hash`. Texts are compared only where the hashes are equal.
    fn find(&self, pattern: &Pattern, hash: u64) -> Option<&Arc<PatternEntry<P>>> {
        let is_it = |entry: &Arc<PatternEntry<P>>| entry.hash == hash && entry.pattern == *pattern;
        if is_long(pattern) {
            return self
                .long
                .find(Indexed::<P>::hash_of(hash), |item| is_it(&item.1))
                .map(|item| &item.1);
        }
        self.tree.get(pattern, is_it)
    }

    fn insert(&mut self, entry: &Arc<PatternEntry<P>>) {
        self.tree.insert(&entry.pattern, entry);
        if is_long(&entry.pattern) {
            self.long.insert(Indexed(Indexed::<P>::hash_of(entry.hash), Arc::clone(entry)));
        }
    }

    fn remove(&mut self, entry: &Arc<PatternEntry<P>>) {
        self.tree.remove(&entry.pattern, |other| Arc::ptr_eq(other, entry));
        if is_long(&entry.pattern) {
            let hash = Indexed::<P>::hash_of(entry.hash);
            self.long.remove(hash, |item| Arc::ptr_eq(&item.1, entry));
            self.long.fit(0);
        }
    }
}

/// Patterns of which a beginning has been found.
pub(super) type Unconfirmed<P> = SmallVec<[Arc<PatternEntry<P>>; 4]>;

/// See the module's documentation.
pub(crate) struct Patterns<P> {
    /// Bumped at each new pattern: while it stands still, no route needs to look further.
    epoch: CachePadded<AtomicU64>,
    /// For patterns without a literal beginning.
    unanchored: CachePadded<AtomicU64>,
    /// Which of `LEVELS` have been advanced ever, as bits: the others need not be looked at.
    levels: AtomicU32,
    /// `ROWS * ROW` counters; made at the first pattern.
    anchored: OnceLock<Box<[AtomicU64]>>,
    /// The first one is for patterns without a literal beginning.
    parts: Box<[CachePadded<Part<P>>]>,
    count: AtomicUsize,
    next: AtomicU64,
    hasher: RandomState,
    /// Of the counters in a row.
    columns: foldhash::fast::RandomState,
    /// Of the literal runs in the trees.
    runs: foldhash::fast::RandomState,
}

impl<P> Patterns<P> {
    pub(crate) fn new(hasher: RandomState) -> Self {
        let runs = foldhash::fast::RandomState::default();
        let part = || Part {
            size: AtomicUsize::new(0),
            patterns: RwLock::new(PartPatterns {
                tree: PatternTree::new(runs.clone()),
                long: ProbeTable::default(),
            }),
        };
        Self {
            epoch: CachePadded::new(AtomicU64::new(0)),
            unanchored: CachePadded::new(AtomicU64::new(0)),
            levels: AtomicU32::new(0),
            anchored: OnceLock::new(),
            parts: (0..=PARTS).map(|_| CachePadded::new(part())).collect(),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            hasher,
            columns: foldhash::fast::RandomState::default(),
            runs,
        }
    }

    /// Distinct patterns.
    pub(crate) fn count(&self) -> usize {
        // Relaxed: a count at some recent moment.
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a route derived at `stamp` may have missed a pattern, by a look at one word.
    #[inline]
    pub(crate) fn unchanged_since(&self, stamp: Stamp) -> bool {
        // Acquire: partner of the Release in `advance`. Who sees the new epoch sees the pattern.
        self.epoch.load(Ordering::Acquire) == stamp.epoch
    }

    /// What a route of `channel` derived from now on is valid for.
    pub(crate) fn stamp(&self, channel: &[u8]) -> Stamp {
        // Acquire, and before the others: a counter read too early is one that a later epoch follows.
        let epoch = self.epoch.load(Ordering::Acquire);
        // Acquire, this and the counters below: partners of the Releases in `advance`. Who sees a counter that
        // is ahead of the epoch sees the size of the part that the pattern went to, and so does not pass it by.
        let mut relevant = self.unanchored.load(Ordering::Acquire);
        // Relaxed: a level that is missed is one that a later epoch follows.
        let levels = self.levels.load(Ordering::Relaxed);
        if let Some(anchored) = self.anchored.get() {
            self.counters(channel, levels, |counter| {
                relevant += anchored[counter].load(Ordering::Acquire);
            });
        }
        Stamp { epoch, relevant }
    }

    /// Whether a route of `channel` derived at `stamp` still holds at the stamp `now`.
    pub(crate) fn holds(stamp: Stamp, now: Stamp) -> bool {
        stamp.relevant == now.relevant
    }

    /// Calls `found` for every pattern that matches `channel`, in no particular order.
    ///
    /// Patterns whose match takes more than a bounded number of steps are verified after the locks have been released.
    #[inline]
    pub(crate) fn matching(&self, channel: &str, mut found: impl FnMut(&Arc<PatternEntry<P>>)) {
        let mut unconfirmed = Unconfirmed::new();
        {
            let free = self.parts[0].read();
            let anchored =
                channel.as_bytes().first().and_then(|&byte| self.parts[Self::part_of(byte)].read());
            let mut walk = Walk::new(channel.as_bytes(), &self.runs);
            let mut report = |entry: &Arc<PatternEntry<P>>, is_unconfirmed: bool| {
                if is_unconfirmed {
                    unconfirmed.push(Arc::clone(entry));
                } else {
                    found(entry);
                }
            };
            if let Some(part) = &free {
                walk.scout(&part.tree, &mut report);
            }
            if let Some(part) = &anchored {
                walk.scout(&part.tree, &mut report);
            }
            walk.finish(&mut report);
        }
        let confirmed = unconfirmed.iter().filter(|entry| entry.pattern.is_match(channel));
        confirmed.for_each(found);
    }

    /// The hash of a pattern, under the bus's seed.
    pub(crate) fn hash(&self, pattern: &Pattern) -> u64 {
        self.hasher.hash_one(pattern)
    }

    /// The entry of `pattern`, made where there is none, held once more. Undone by `release`.
    pub(crate) fn hold(&self, pattern: &Pattern, hash: u64) -> Arc<PatternEntry<P>> {
        let hold = |entry: &Arc<PatternEntry<P>>| {
            // Relaxed: under the part's lock, which also excludes the last `release`.
            entry.holders.fetch_add(1, Ordering::Relaxed);
            Arc::clone(entry)
        };
        let part = self.part(pattern);
        // Equal texts take as long to compare as they are: long ones are looked for where publishers do not wait.
        if is_long(pattern)
            && let Some(held) = part.read().and_then(|part| part.find(pattern, hash).map(hold))
        {
            return held;
        }
        let mut patterns = part.patterns.write();
        if let Some(other) = patterns.find(pattern, hash) {
            return hold(other);
        }
        let entry = Arc::new(PatternEntry {
            code: Inline::new(pattern.code()),
            pattern: pattern.clone(),
            text: Arc::clone(pattern.text()),
            hash,
            // Relaxed: only that they differ matters.
            number: self.next.fetch_add(1, Ordering::Relaxed),
            holders: AtomicUsize::new(1),
            recipients: RwLock::default(),
        });
        patterns.insert(&entry);
        // Relaxed, both: `advance` makes them visible to whoever looks at a stamp.
        part.size.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        // Under the lock: who finds the entry from now on returns from subscribing after this, and a
        // publish that begins after that must not trust a route that misses the entry.
        self.advance(pattern);
        entry
    }

    /// Gives back what `hold` gave. Whether `pattern` is out of the trie now.
    pub(crate) fn release(&self, entry: &Arc<PatternEntry<P>>) -> bool {
        let part = self.part(&entry.pattern);
        let mut patterns = part.patterns.write();
        // Relaxed: written under the part's lock.
        if entry.holders.fetch_sub(1, Ordering::Relaxed) > 1 {
            return false;
        }
        patterns.remove(entry);
        // Relaxed, both: mere counts. Routes keep the dead entry until they are next used.
        part.size.fetch_sub(1, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// `true` if anyone holds `pattern`.
    pub(crate) fn contains(&self, pattern: &Pattern) -> bool {
        let hash = self.hash(pattern);
        self.part(pattern).read().is_some_and(|part| part.find(pattern, hash).is_some())
    }

    /// Returns the patterns that someone holds, in no particular order.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        let mut patterns = Vec::with_capacity(self.count());
        for part in &self.parts {
            part.patterns.read().tree.for_each(|entry| patterns.push(entry.pattern.clone()));
        }
        // A shell glob stands in a place for each beginning that its matches can have.
        patterns.sort_unstable();
        patterns.dedup();
        patterns
    }

    /// Calls `each` for every pattern, under no lock.
    pub(crate) fn close(&self, mut each: impl FnMut(&PatternEntry<P>)) {
        for part in &self.parts {
            let mut entries = Vec::new();
            part.patterns.read().tree.for_each(|entry| entries.push(Arc::clone(entry)));
            entries.iter().for_each(|entry| each(entry));
        }
    }

    fn advance(&self, pattern: &Pattern) {
        for prefix in pattern.prefixes() {
            match LEVELS.iter().rposition(|&level| level <= prefix.len()) {
                // Release, this and the other: partners of the Acquires in `stamp`.
                None => {
                    self.unanchored.fetch_add(1, Ordering::Release);
                }
                Some(level) => {
                    let anchored = self
                        .anchored
                        .get_or_init(|| (0..ROWS * ROW).map(|_| AtomicU64::new(0)).collect());
                    let bit = 1 << level;
                    // Not written where it is set: publishers read this line.
                    if self.levels.load(Ordering::Relaxed) & bit == 0 {
                        self.levels.fetch_or(bit, Ordering::Relaxed);
                    }
                    self.counters(prefix, bit, |counter| {
                        anchored[counter].fetch_add(1, Ordering::Release);
                    });
                }
            };
        }
        // Release: partner of the Acquires above; the counter and the trie come first.
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Calls `each` for the counter of each of the `levels` that `bytes` are long enough for.
    #[inline]
    fn counters(&self, bytes: &[u8], levels: u32, mut each: impl FnMut(usize)) {
        self.counter::<0, { LEVELS[0] }>(bytes, levels, &mut each);
        self.counter::<1, { LEVELS[1] }>(bytes, levels, &mut each);
        self.counter::<2, { LEVELS[2] }>(bytes, levels, &mut each);
        self.counter::<3, { LEVELS[3] }>(bytes, levels, &mut each);
        self.counter::<4, { LEVELS[4] }>(bytes, levels, &mut each);
        self.counter::<5, { LEVELS[5] }>(bytes, levels, &mut each);
    }

    /// The same for one level: bytes whose number is known here are hashed at little cost.
    #[inline(always)]
    fn counter<const LEVEL: u32, const BYTES: usize>(
        &self,
        bytes: &[u8],
        levels: u32,
        each: &mut impl FnMut(usize),
    ) {
        if levels & 1 << LEVEL != 0
            && let Some(beginning) = bytes.first_chunk::<BYTES>()
        {
            // Who chooses beginnings that share a row gains nothing but that they spoil each other's routes.
            let first = u32::from(beginning[0]);
            let second = beginning.get(1).map_or(0, |&byte| u32::from(byte));
            let row = (first << 8 | second).wrapping_mul(0x9e37_79b9) >> 26;
            let mut hasher = self.columns.build_hasher();
            hasher.write(beginning);
            each(row as usize % ROWS * ROW + (hasher.finish() >> 32) as usize % ROW);
        }
    }

    /// The part that holds `pattern`. One that can begin with different bytes (a glob's choice) lies
    /// with those that can begin with any.
    fn part(&self, pattern: &Pattern) -> &Part<P> {
        let mut firsts = pattern.prefixes().into_iter().map(|prefix| prefix.first().copied());
        let part = match firsts.next() {
            Some(Some(first)) if firsts.all(|other| other == Some(first)) => Self::part_of(first),
            _ => 0,
        };
        &self.parts[part]
    }

    fn part_of(first: u8) -> usize {
        1 + usize::from(first) % PARTS
    }
}
