//! A channel's entry: its subscribers, the patterns that match it, its counters, and its turn.
//!
//! The turn is the lock of a channel's route. One publish at a time has it, which gives every inbox the
//! same order. Whoever holds it takes only the locks of patterns' recipients (in the order of their
//! numbers) and an inbox's mailbox.

use std::sync::{Arc, OnceLock};
use std::thread;

use smallvec::SmallVec;

use super::patterns::{PatternEntry, Patterns, Stamp, Unconfirmed};
use super::recent::clock;
use super::recipients::{Recipient, Recipients};
use crate::source::{Label, PatternSource, Prepaid, Renewed, Source, Text};
use crate::sync::{
    AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, add_exclusively,
};

/// See the module's documentation.
///
/// In this order, so that of half a million channels, of which a publish finds nothing in a cache, it touches the
/// first part alone, what it needs to find the entry beside what it needs then.
#[repr(C)]
pub(crate) struct Channel<P> {
    /// Under the bus's seed.
    pub(crate) hash: u64,
    /// The name, if it is short: where it is looked up, one kept elsewhere would be one more cache miss.
    label: Option<Label>,
    /// Where in the stripe it is, if nobody may need it. Written under the stripe's lock.
    slot: AtomicU32,
    /// Exact subscribers. Written in the turn.
    subscribers: AtomicUsize,
    pub(crate) counters: Counters,
    turn: Mutex<Route<P>>,
    /// How many patterns are counted in what it costs. Written under the stripe's lock.
    pub(super) weighed: AtomicUsize,
    /// Topics that hold the entry. Written under the stripe's lock; read under it to prune.
    pub(super) pins: AtomicUsize,
    /// The name; where it is short, only when somebody has wanted it so.
    name: OnceLock<Arc<str>>,
}

/// Counters of publishes and messages. Written in the turn of the channel that they belong to, or under
/// the lock of the stripe.
#[derive(Default)]
pub(crate) struct Counters {
    published: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    evicted: AtomicU64,
}

/// So much happened.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
    pub(crate) evicted: u64,
}

impl Counts {
    /// A publish that was delivered so often.
    #[inline]
    pub(crate) fn of_one(delivered: usize) -> Self {
        Self { published: 1, delivered: delivered as u64, ..Self::default() }
    }
}

impl Counters {
    /// Adds `counts`; the caller holds the lock that the counters are written under.
    #[inline]
    pub(crate) fn add(&self, counts: Counts) {
        add_exclusively(&self.published, counts.published);
        add_exclusively(&self.delivered, counts.delivered);
        if counts.dropped | counts.evicted != 0 {
            add_exclusively(&self.dropped, counts.dropped);
            add_exclusively(&self.evicted, counts.evicted);
        }
    }

    pub(crate) fn read(&self) -> Counts {
        // Relaxed: exact at rest.
        Counts {
            published: self.published.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}

/// Patterns that match a channel, each with what its messages on it point to.
pub(crate) type Matching<P> = SmallVec<[PatternSource<PatternEntry<P>>; 1]>;

/// Whom a publish on the channel reaches. Behind the channel's turn.
#[repr(C)]
pub(crate) struct Route<P> {
    /// The entry is out of its stripe: a publish must look the name up anew.
    detached: bool,
    /// Publishes since the clock last looked, as far as it asks: 0, 1, or 2 for more. The one that made
    /// the entry counts, so that a name published once does not pass for one in use.
    uses: u8,
    /// Which patterns `patterns` was derived from.
    stamp: Stamp,
    /// What messages of exact subscriptions point to; made for the first of them.
    pub(crate) source: Option<Prepaid>,
    /// The patterns that match, by ascending number, each with what its messages point to.
    pub(crate) patterns: Matching<P>,
    pub(crate) exact: Recipients<P>,
}

/// The patterns that match a channel, by ascending number, and what says how long that holds.
pub(crate) struct Derived<P> {
    stamp: Stamp,
    patterns: SmallVec<[Arc<PatternEntry<P>>; 1]>,
    /// Whether one recipient is reached at most, and it is not better to know the patterns for the next time.
    light: bool,
}

impl<P: Send + 'static> Derived<P> {
    pub(super) fn new(name: &str, patterns: &Patterns<P>) -> Self {
        Self::with(name, patterns, |_| ())
    }

    /// The same, with something to be done while patterns are fetched from memory: see `Patterns::matching`.
    #[inline]
    pub(super) fn with(name: &str, patterns: &Patterns<P>, meanwhile: impl FnOnce(usize)) -> Self {
        let stamp = patterns.stamp(name.as_bytes());
        let mut all = SmallVec::new();
        let mut one = true;
        let matched = patterns.matching(name, meanwhile, |entry| {
            one = one && all.is_empty() && entry.is_small() && entry.seems_to_have_one();
            all.push(Arc::clone(entry));
        });
        if let Some(confirmed) = matched.confirmed {
            one &= Self::add(&mut all, confirmed);
        }
        if all.len() > 1 {
            all.sort_unstable_by_key(|entry: &Arc<PatternEntry<P>>| entry.number);
        }
        Self { stamp, patterns: all, light: one && !matched.dear }
    }

    /// Adds `confirmed` to `all`. Returns whether one recipient is reached at most.
    #[cold]
    fn add(all: &mut SmallVec<[Arc<PatternEntry<P>>; 1]>, confirmed: Unconfirmed<P>) -> bool {
        let cheap = |entry: &Arc<PatternEntry<P>>| entry.is_small() && entry.seems_to_have_one();
        all.extend(confirmed);
        all.is_empty() || (all.len() == 1 && cheap(&all[0]))
    }

    /// Whether it is worth no entry to publish to it, as far as can be seen: one recipient is reached at most, by a
    /// pattern that is not long, and what matches was found at once.
    pub(super) fn is_light(&self) -> bool {
        self.light
    }

    /// How many patterns match.
    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }

    /// One of the patterns, if there is one.
    pub(super) fn pop(&mut self) -> Option<Arc<PatternEntry<P>>> {
        self.patterns.pop()
    }

    /// The route of the channel `name`, which nobody has subscribed.
    pub(super) fn into_route(self, name: &Text) -> Route<P> {
        let new = |entry| PatternSource::new(name.clone(), entry);
        let patterns = self.patterns.into_iter().map(new).collect();
        Route { stamp: self.stamp, patterns, ..Route::empty() }
    }
}

impl<P> Route<P> {
    /// Ends an entry that nobody needs. What it holds goes with it.
    pub(super) fn mark_detached(&mut self) {
        self.detached = true;
    }

    fn ended() -> Self {
        Self { detached: true, ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            detached: false,
            uses: 0,
            stamp: Stamp::default(),
            exact: Recipients::default(),
            source: None,
            patterns: SmallVec::new(),
        }
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Sees to it that `self.patterns` are those that match now, for a publish.
    #[inline]
    pub(crate) fn refresh(&mut self, channel: &Channel<P>, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        self.uses = 2.min(self.uses + 1);
        self.update(channel, patterns);
    }

    /// Sees to it that `self.patterns` are those that match now.
    #[inline]
    pub(crate) fn update(&mut self, channel: &Channel<P>, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        if !patterns.unchanged_since(self.stamp) {
            self.check(channel, patterns);
        }
    }

    #[cold]
    fn check(&mut self, channel: &Channel<P>, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        let name = channel.name();
        let now = patterns.stamp(name.as_bytes());
        if Patterns::<P>::holds(self.stamp, now) {
            self.stamp = now;
            return;
        }
        // New ones join those that are here; one that is here and no longer matches is dead, having been
        // taken out of the trie. Mostly there is neither: a pattern that only begins like the name.
        let mut fresh = SmallVec::<[Arc<PatternEntry<P>>; 4]>::new();
        let number = |known: &PatternSource<PatternEntry<P>>| known.pattern().number;
        let mut add = |entry: &Arc<PatternEntry<P>>| {
            if self.patterns.binary_search_by_key(&entry.number, number).is_err() {
                fresh.push(Arc::clone(entry));
            }
        };
        let matched = patterns.matching(name, |_| (), &mut add);
        matched.confirmed.iter().flatten().for_each(add);
        self.stamp = now;
        self.sweep();
        if !fresh.is_empty() {
            let new = |entry| PatternSource::new(channel.text(), entry);
            self.patterns.extend(fresh.into_iter().map(new));
            self.patterns.sort_unstable_by_key(number);
        }
    }

    /// Lets go of patterns that nobody holds any more.
    #[inline]
    pub(crate) fn sweep(&mut self) {
        if self.patterns.iter().any(|known| known.pattern().is_dead()) {
            self.patterns.retain(|known| !known.pattern().is_dead());
            self.patterns.shrink_to_fit();
        }
    }
}

/// What an entry held, there only to be dropped.
pub(super) struct Held<P> {
    name: Option<Arc<str>>,
    source: Option<Prepaid>,
    patterns: SmallVec<[Renewed; 1]>,
    surplus: Matching<P>,
}

impl<P> Default for Held<P> {
    fn default() -> Self {
        Self { name: None, source: None, patterns: SmallVec::new(), surplus: SmallVec::new() }
    }
}

/// Where an entry is that nobody may need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// Among the fresh names.
    Fresh(u32),
    /// In the clock.
    Clock(u32),
}

/// No slot.
const NO_SLOT: u32 = u32::MAX;

/// What tells a fresh name's slot.
const FRESH: u32 = clock::MOST;

impl Slot {
    fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            NO_SLOT => None,
            FRESH.. => Some(Self::Fresh(bits - FRESH)),
            _ => Some(Self::Clock(bits)),
        }
    }

    fn to_bits(self) -> u32 {
        match self {
            Self::Fresh(at) => FRESH + at,
            Self::Clock(at) => at,
        }
    }
}

impl<P> Channel<P> {
    /// The entry of a name, in no stripe yet.
    pub(super) fn new(name: &str, hash: u64, derived: Derived<P>) -> Self
    where
        P: Send + 'static,
    {
        let name = Text::new(name);
        let route = derived.into_route(&name);
        Self::with_route(name, hash, route)
    }

    /// An entry that is no name's yet.
    pub(super) fn blank() -> Self {
        Self::with_route(Text::new(""), 0, Route::empty())
    }

    /// Makes of a blank entry that of a name. No allocation is made if the name is short and one pattern at most
    /// matches.
    pub(super) fn fill(&mut self, name: &str, hash: u64, derived: Derived<P>, source: Prepaid)
    where
        P: Send + 'static,
    {
        let name = Text::new(name);
        let mut source = Some(source);
        let route = self.turn.get_mut();
        route.stamp = derived.stamp;
        route.patterns.extend(derived.patterns.into_iter().map(|entry| match source.take() {
            Some(source) => PatternSource::of(source, name.clone(), entry),
            None => PatternSource::new(name.clone(), entry),
        }));
        self.hash = hash;
        (self.label, self.name) = Self::kept(name);
    }

    fn with_route(name: Text, hash: u64, route: Route<P>) -> Self {
        let (label, name) = Self::kept(name);
        Self {
            label,
            name,
            hash,
            pins: AtomicUsize::new(0),
            subscribers: AtomicUsize::new(0),
            slot: AtomicU32::new(NO_SLOT),
            weighed: AtomicUsize::new(0),
            counters: Counters::default(),
            turn: Mutex::new(route),
        }
    }

    /// A name as an entry keeps it.
    fn kept(name: Text) -> (Option<Label>, OnceLock<Arc<str>>) {
        match name {
            Text::Short(label) => (Some(label), OnceLock::new()),
            Text::Shared(name) => (None, OnceLock::from(name)),
        }
    }

    /// The name.
    #[inline]
    pub(crate) fn name(&self) -> &str {
        match &self.label {
            Some(label) => label.as_str(),
            None => self.shared_name(),
        }
    }

    /// The name, shared.
    pub(crate) fn shared_name(&self) -> &Arc<str> {
        self.name.get_or_init(|| match &self.label {
            Some(label) => Arc::from(label.as_str()),
            None => unreachable!("one that is not short is there from the beginning"),
        })
    }

    /// The name for messages to point to.
    fn text(&self) -> Text {
        match (self.name.get(), self.label) {
            (None, Some(label)) => Text::Short(label),
            _ => Text::Shared(Arc::clone(self.shared_name())),
        }
    }

    /// Makes of a recent name's entry, which is out of its stripe and nobody else holds, that of another name,
    /// as far as possible with no allocation. What it held goes to `held`, to be dropped where no lock is.
    pub(super) fn renew(&mut self, name: &str, hash: u64, derived: Derived<P>, held: &mut Held<P>)
    where
        P: Send + 'static,
    {
        let route = self.turn.get_mut();
        debug_assert!(!route.detached && route.exact.len() == 0);
        route.uses = 0;
        route.stamp = derived.stamp;
        held.source = route.source.take();
        self.hash = hash;
        self.counters = Counters::default();
        let patterns = &mut route.patterns;
        let name = Text::new(name);
        if derived.len() < patterns.len() {
            held.surplus.extend(patterns.drain(derived.len()..));
        }
        for (at, entry) in derived.patterns.into_iter().enumerate() {
            let channel = name.clone();
            match patterns.get_mut(at) {
                Some(source) => held.patterns.push(source.renew(channel, entry)),
                None => patterns.push(PatternSource::new(channel, entry)),
            }
        }
        if patterns.capacity() > 4 * patterns.len() + 4 {
            // What is counted is those that are there, not the room for more.
            patterns.shrink_to_fit();
        }
        let (label, name) = Self::kept(name);
        self.label = label;
        held.name = std::mem::replace(&mut self.name, name).into_inner();
    }

    /// Whether it is the entry of `name`, whose hash is `hash`.
    #[inline]
    pub(crate) fn is(&self, name: &str, hash: u64) -> bool {
        self.hash == hash
            && match &self.label {
                Some(label) => label.as_bytes() == name.as_bytes(),
                None => **self.shared_name() == *name,
            }
    }

    /// An entry that is in no stripe, pinned: for a topic of a bus that is closed.
    pub(super) fn detached(name: &str, hash: u64) -> Self {
        let channel = Self::with_route(Text::new(name), hash, Route::ended());
        // Relaxed: nobody else has it yet.
        channel.pins.store(1, Ordering::Relaxed);
        channel
    }

    /// Where in the stripe it is, if nobody may need it.
    #[inline]
    pub(super) fn slot(&self) -> Option<Slot> {
        // Relaxed: written under the stripe's lock.
        Slot::from_bits(self.slot.load(Ordering::Relaxed))
    }

    /// Says where in the stripe it is; the caller holds the stripe's lock.
    pub(super) fn set_slot(&self, slot: Option<Slot>) {
        self.slot.store(slot.map_or(NO_SLOT, Slot::to_bits), Ordering::Relaxed);
    }

    /// Whether the clock may take the entry; one in use gets a second chance.
    pub(super) fn cool(&mut self) -> bool {
        let route = self.turn.get_mut();
        let cool = route.uses < 2;
        route.uses = 1;
        cool
    }

    /// Whether a stripe must look at the entry: the patterns that match it are not those that it was
    /// weighed with, or nothing holds it in the stripe.
    #[inline]
    pub(super) fn is_unsettled(&self, patterns: Option<usize>) -> bool {
        // Relaxed, all: a late answer is put right by the next publish.
        if self.slot().is_some() {
            match patterns {
                Some(patterns) => patterns != self.weighed.load(Ordering::Relaxed),
                // Nobody knows where a payload's `Clone` has panicked.
                None => thread::panicking(),
            }
        } else {
            self.subscribers() == 0 && self.pins.load(Ordering::Relaxed) == 0
        }
    }

    /// Exact subscribers.
    pub(crate) fn subscribers(&self) -> usize {
        // A count at some recent moment. Acquire: who sees that there is none sees what came before that.
        self.subscribers.load(Ordering::Acquire)
    }

    /// Waits for the channel's turn.
    #[inline]
    pub(crate) fn turn(&self) -> MutexGuard<'_, Route<P>> {
        self.turn.lock()
    }

    /// The channel's turn, unless it is taken.
    #[inline]
    pub(crate) fn try_turn(&self) -> Option<MutexGuard<'_, Route<P>>> {
        self.turn.try_lock()
    }

    /// Adds an exact subscriber; `route` is this channel's. Whether it is the first.
    pub(crate) fn join(&self, route: &mut Route<P>, number: u64, recipient: Recipient<P>) -> bool {
        route.source.get_or_insert_with(|| {
            Prepaid::new(Source::new(Text::Shared(Arc::clone(self.shared_name())), None))
        });
        route.exact.push(number, recipient);
        // Relaxed: written in the turn.
        self.subscribers.store(route.exact.len(), Ordering::Relaxed);
        route.exact.len() == 1
    }

    /// Takes an exact subscriber out; whether it was the last comes with it. Where it was, `emptied` runs
    /// before anyone can see that the channel has none.
    pub(crate) fn leave(
        &self,
        route: &mut Route<P>,
        number: u64,
        emptied: impl FnOnce(),
    ) -> Option<(Recipient<P>, bool)> {
        let recipient = route.exact.remove(number)?;
        let last = route.exact.len() == 0;
        if last {
            emptied();
        }
        // Release: partner of the Acquire in `subscribers`.
        self.subscribers.store(route.exact.len(), Ordering::Release);
        Some((recipient, last))
    }

    /// Ends the entry: publishers that still hold it look the name up anew. What it held comes back, to
    /// be dropped where no lock is held.
    pub(crate) fn detach(&self, route: &mut Route<P>) -> Route<P> {
        // Relaxed: written in the turn.
        self.subscribers.store(0, Ordering::Relaxed);
        std::mem::replace(route, Route::ended())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn an_entry_is_told_by_its_whole_name() {
        for len in [0, 1, 30, 31, 32, 254, 255, 256, 300] {
            let name = "n".repeat(len);
            let entry = Channel::<u32>::with_route(Text::new(&name), 7, Route::empty());
            assert!(entry.is(&name, 7));
            assert!(!entry.is(&name, 8));
            assert!(!entry.is(&"n".repeat(len + 1), 7));
            assert!(!entry.is(&format!("{}m", "n".repeat(len)), 7));
            assert!(len == 0 || !entry.is(&format!("{}m", "n".repeat(len - 1)), 7), "{len}");
        }
    }

    #[test]
    fn what_a_publish_touches_lies_together() {
        assert!(offset_of!(Channel<Arc<str>>, weighed) <= 4 * 64);
    }
}
