//! The patterns of a bus: pattern trees under their locks, and the entries that routes point to.
//!
//! Patterns lie in parts, chosen by the first byte of their literal prefix, each with a lock of its own. A channel
//! looks into two of them: its own, and that of the patterns which can begin with any byte.
//!
//! A channel's route remembers which patterns match it. [`Patterns::unchanged_since`] and [`Patterns::generation`] tell
//! whether that is still true.

mod generation;
mod literals;
#[cfg(test)]
mod tests;
pub(super) mod tree;
mod walk;

use std::hash::BuildHasher;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::pattern::Pattern;
use crate::prefetch::prefetch;
use crate::small_str::InlineBytes;
use crate::source::HasPattern;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::trie::probe_table::{Hashed, ProbeTable};
use crate::trie::recipients::Recipients;
pub(crate) use generation::Generation;
use generation::Generations;
use tree::{Entry, PatternTree};
use walk::Walk;

/// Maximum length of a short pattern's text, in bytes. Longer ones have an index of their own.
const MAX_SHORT_TEXT: usize = 256;

/// Maximum length of a program that is copied into its pattern's entry, in bytes. The copy takes three words.
const MAX_INLINE_PROGRAM: usize = 22;

const _: () = assert!(size_of::<Option<InlineBytes<MAX_INLINE_PROGRAM>>>() == 24);

/// `true` if the text of `pattern` is longer than [`MAX_SHORT_TEXT`].
fn is_long(pattern: &Pattern) -> bool {
    pattern.as_str().len() > MAX_SHORT_TEXT
}

/// A pattern on the bus, shared by its subscribers and by the routes that it matches.
///
/// The order of the fields matters. A publish to a name never seen touches only the first ones, mostly two cache lines
/// with the `Arc`'s counters in front. Of a million patterns, none of these is in a cache.
#[repr(C)]
pub(crate) struct PatternEntry<P> {
    /// A copy of the pattern's program, if it is short: what the pattern points to is one cache miss further away.
    program: Option<InlineBytes<MAX_INLINE_PROGRAM>>,
    recipients: RwLock<Recipients<P>>,
    /// The number of subscriptions. Incremented under the lock of the pattern's part, decremented under its lock for
    /// writing. At 0 the part no longer holds the entry.
    holders: AtomicUsize,
    /// Publishers lock entries in ascending order of their ids, so that they cannot deadlock.
    pub(crate) id: u64,
    pub(crate) pattern: Pattern,
    /// The text of `pattern`, within reach of messages, which point to the entry.
    text: Arc<str>,
    /// The hash of `pattern` under the bus's seed, for the subscribers' own tables.
    pub(crate) hash: u64,
}

impl<P> Entry for Arc<PatternEntry<P>> {
    #[inline]
    fn program(&self) -> &[u8] {
        match &self.program {
            Some(program) => program.as_bytes(),
            None => self.pattern.program(),
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

impl<P: Send + 'static> HasPattern for PatternEntry<P> {
    fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    fn text(&self) -> &Arc<str> {
        &self.text
    }
}

// A panic in user code leaves the recipients consistent. The crate's docs promise it, and tests check it.
impl<P> UnwindSafe for PatternEntry<P> {}
impl<P> RefUnwindSafe for PatternEntry<P> {}

impl<P> PatternEntry<P> {
    /// Locks the recipients for a publish.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Recipients<P>> {
        self.recipients.read()
    }

    /// Locks the recipients to join or leave.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Recipients<P>> {
        self.recipients.write()
    }

    /// Locks the recipients to join or leave, unless someone has locked them.
    pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, Recipients<P>>> {
        self.recipients.try_write()
    }

    /// `true` if nobody holds the pattern any more. A later subscriber of it gets a new entry.
    pub(crate) fn is_dead(&self) -> bool {
        // Relaxed: a late answer costs one more look at an empty list.
        self.holders.load(Ordering::Relaxed) == 0
    }
}

/// The number of parts for patterns with a literal prefix, chosen by its first byte.
const ANCHORED_PARTS: usize = 16;

/// A part of the bus's patterns.
struct Part<P> {
    /// The number of patterns. An empty part need not be locked.
    len: AtomicUsize,
    patterns: RwLock<PartPatterns<P>>,
}

/// The patterns of a part.
struct PartPatterns<P> {
    tree: PatternTree<Arc<PatternEntry<P>>>,
    /// Finds long patterns by dialect and text: comparing texts along a list of the tree takes as long as they are.
    /// Short patterns are found in the tree; for them, an index would cost `psubscribe` one more cache miss.
    long: ProbeTable<Indexed<P>>,
}

/// An entry with half of its hash. The half is kept so that neither a search nor a growing index fetches anything else
/// for the other entries.
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
    /// Locks the patterns, if there are any.
    #[inline]
    fn read(&self) -> Option<RwLockReadGuard<'_, PartPatterns<P>>> {
        // Relaxed: whoever has read a generation sees the lengths that preceded it.
        (self.len.load(Ordering::Relaxed) > 0).then(|| self.patterns.read())
    }
}

impl<P> PartPatterns<P> {
    /// Returns the entry of `pattern`, whose hash is `hash`. Texts are compared only if the hashes are equal.
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
            self.long.shrink(0);
        }
    }
}

/// Patterns whose beginning matches.
pub(super) type Unconfirmed<P> = SmallVec<[Arc<PatternEntry<P>>; 4]>;

/// The patterns of a bus. See the module's documentation.
pub(crate) struct Patterns<P> {
    generations: Generations,
    /// The first one is for patterns that can begin with any byte, or with one of several.
    parts: Box<[CachePadded<Part<P>>]>,
    count: AtomicUsize,
    next_id: AtomicU64,
    hasher: RandomState,
    /// The hasher of the literals in all trees.
    literal_hasher: foldhash::fast::RandomState,
}

impl<P> Patterns<P> {
    pub(crate) fn new(hasher: RandomState) -> Self {
        let literal_hasher = foldhash::fast::RandomState::default();
        let part = || Part {
            len: AtomicUsize::new(0),
            patterns: RwLock::new(PartPatterns {
                tree: PatternTree::new(literal_hasher.clone()),
                long: ProbeTable::default(),
            }),
        };
        Self {
            generations: Generations::new(),
            parts: (0..=ANCHORED_PARTS).map(|_| CachePadded::new(part())).collect(),
            count: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            hasher,
            literal_hasher,
        }
    }

    /// Returns the number of distinct patterns.
    pub(crate) fn count(&self) -> usize {
        // Relaxed: a count at some recent moment.
        self.count.load(Ordering::Relaxed)
    }

    /// `true` if no pattern has been added since `generation`. Reads one word.
    #[inline]
    pub(crate) fn unchanged_since(&self, generation: Generation) -> bool {
        self.generations.unchanged_since(generation)
    }

    /// Returns the generation of a route of `channel` that is derived after this call.
    pub(crate) fn generation(&self, channel: &[u8]) -> Generation {
        self.generations.current(channel)
    }

    /// Calls `found` for every pattern that matches `channel`, in no particular order.
    ///
    /// Patterns that the walk reports as unconfirmed are confirmed after the locks have been released.
    #[inline]
    pub(crate) fn matching(&self, channel: &str, mut found: impl FnMut(&Arc<PatternEntry<P>>)) {
        let mut unconfirmed = Unconfirmed::new();
        {
            let unanchored = self.parts[0].read();
            let anchored =
                channel.as_bytes().first().and_then(|&byte| self.parts[Self::part_of(byte)].read());
            let mut walk = Walk::new(channel.as_bytes(), &self.literal_hasher);
            let mut report = |entry: &Arc<PatternEntry<P>>, is_unconfirmed: bool| {
                if is_unconfirmed {
                    unconfirmed.push(Arc::clone(entry));
                } else {
                    found(entry);
                }
            };
            if let Some(part) = &unanchored {
                walk.collect(&part.tree, &mut report);
            }
            if let Some(part) = &anchored {
                walk.collect(&part.tree, &mut report);
            }
            walk.verify(&mut report);
        }
        let confirmed = unconfirmed.iter().filter(|entry| entry.pattern.is_match(channel));
        confirmed.for_each(found);
    }

    /// Returns the hash of `pattern` under the bus's seed.
    pub(crate) fn hash(&self, pattern: &Pattern) -> u64 {
        self.hasher.hash_one(pattern)
    }

    /// Returns the entry of `pattern`, made if there is none, held once more. [`release`](Self::release) undoes it.
    pub(crate) fn acquire(&self, pattern: &Pattern, hash: u64) -> Arc<PatternEntry<P>> {
        let acquire = |entry: &Arc<PatternEntry<P>>| {
            // Relaxed: under the part's lock, which also excludes the last `release`.
            entry.holders.fetch_add(1, Ordering::Relaxed);
            Arc::clone(entry)
        };
        let part = self.part(pattern);
        // Comparing equal texts takes as long as they are. Long ones are compared while publishers need not wait.
        if is_long(pattern)
            && let Some(entry) = part.read().and_then(|part| part.find(pattern, hash).map(acquire))
        {
            return entry;
        }
        let mut patterns = part.patterns.write();
        if let Some(entry) = patterns.find(pattern, hash) {
            return acquire(entry);
        }
        let entry = Arc::new(PatternEntry {
            program: InlineBytes::new(pattern.program()),
            pattern: pattern.clone(),
            text: Arc::clone(pattern.text()),
            hash,
            // Relaxed: ids only have to be different.
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            holders: AtomicUsize::new(1),
            recipients: RwLock::default(),
        });
        patterns.insert(&entry);
        // Relaxed, both: `advance` makes them visible to whoever reads a generation.
        part.len.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        // Under the lock: whoever finds the entry returns from `psubscribe` after this, and a publish that begins after
        // that must not trust a route that misses the entry.
        self.generations.advance(pattern);
        entry
    }

    /// Undoes one [`acquire`](Self::acquire). Returns `true` if that was the last one, and the entry has been removed.
    pub(crate) fn release(&self, entry: &Arc<PatternEntry<P>>) -> bool {
        let part = self.part(&entry.pattern);
        let mut patterns = part.patterns.write();
        // Relaxed: written under the part's lock.
        if entry.holders.fetch_sub(1, Ordering::Relaxed) > 1 {
            return false;
        }
        patterns.remove(entry);
        // Relaxed, both: mere counts. Routes keep the dead entry until they are used next.
        part.len.fetch_sub(1, Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// `true` if anyone holds `pattern`.
    pub(crate) fn contains(&self, pattern: &Pattern) -> bool {
        let hash = self.hash(pattern);
        // Under the lock, even if the part seems empty: whoever subscribes under a limit counts a pattern that is not
        // here as a new one, and must not find it counted still.
        self.part(pattern).patterns.read().find(pattern, hash).is_some()
    }

    /// Returns the patterns that someone holds, in no particular order.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        let mut patterns = Vec::with_capacity(self.count());
        for part in &self.parts {
            part.patterns.read().tree.for_each(|entry| patterns.push(entry.pattern.clone()));
        }
        // A shell glob stands in the tree once for each of its literal prefixes.
        patterns.sort_unstable();
        patterns.dedup();
        patterns
    }

    /// Calls `each` for the entry of every pattern, with no lock held.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&PatternEntry<P>)) {
        for part in &self.parts {
            let mut entries = Vec::new();
            part.patterns.read().tree.for_each(|entry| entries.push(Arc::clone(entry)));
            entries.iter().for_each(|entry| each(entry));
        }
    }

    /// Returns the part that holds `pattern`. A shell glob that can begin with one of several bytes lies with the
    /// patterns that can begin with any.
    fn part(&self, pattern: &Pattern) -> &Part<P> {
        let mut firsts = pattern.prefixes().into_iter().map(|prefix| prefix.first().copied());
        let part = match firsts.next() {
            Some(Some(first)) if firsts.all(|other| other == Some(first)) => Self::part_of(first),
            _ => 0,
        };
        &self.parts[part]
    }

    fn part_of(first: u8) -> usize {
        1 + usize::from(first) % ANCHORED_PARTS
    }
}
