//! A channel's entry: its name, its turn, and its counters.
//!
//! The turn is the lock of the channel's route. One publish at a time has it, which gives every inbox the same order.
//! Whoever has it takes only the locks of patterns' recipients, in the order of the patterns' ids, and an inbox's
//! lock.

use std::ops::AddAssign;
use std::sync::{Arc, OnceLock};
use std::{mem, ptr};

use super::patterns::Patterns;
use super::recent::clock;
use super::recipients::Recipient;
use super::route::{Route, Turn};
use super::stripe::Purpose;
use crate::batch_arc::BatchArc;
use crate::small_str::{InlineStr, SmallStr};
use crate::source::Source;
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, add_exclusively,
};

/// See the module's documentation.
///
/// The order of the fields matters: of half a million channels, none is in a cache. What a look-up reads comes first,
/// then what a publish reads.
#[repr(C)]
pub(crate) struct Channel<P> {
    /// The hash of the name, under the bus's seed.
    pub(crate) hash: u64,
    /// The name, if it is short. Elsewhere, it would cost a look-up one more cache miss.
    short_name: Option<InlineStr>,
    /// Where it lies among recent names. Written under the stripe's lock.
    position: AtomicU32,
    /// What the entry costs has changed, or it may not stay.
    needs_reaccount: AtomicBool,
    /// Exact subscribers. Written in the turn.
    subscribers: AtomicU32,
    pub(crate) counters: Counters,
    turn: Mutex<Route<P>>,
    /// The address of a subscriber's inbox, to prefetch it; the inbox may be gone. Written in the turn.
    inbox_address: AtomicUsize,
    /// Patterns included in the cost that the stripe has accounted for. Written under the stripe's lock.
    pub(super) accounted: AtomicUsize,
    /// Topics that hold the entry. Written under the stripe's lock; read under it to prune.
    pub(super) pins: AtomicUsize,
    /// The name, shared. A short one is copied here when it is first needed.
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
    conflated: AtomicU64,
}

/// What publishes did: publishes, and messages by what became of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
    pub(crate) evicted: u64,
    pub(crate) conflated: u64,
}

impl Counts {
    /// One publish, delivered to `delivered` inboxes.
    #[inline]
    pub(crate) fn of_one(delivered: usize) -> Self {
        Self { published: 1, delivered: delivered as u64, ..Self::default() }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
        self.evicted += other.evicted;
        self.conflated += other.conflated;
    }
}

impl Counters {
    /// Adds `counts`; the caller holds the lock that the counters are written under.
    #[inline(always)]
    pub(crate) fn add(&self, counts: Counts) {
        add_exclusively(&self.published, counts.published);
        add_exclusively(&self.delivered, counts.delivered);
        if counts.dropped | counts.evicted | counts.conflated != 0 {
            self.add_overflow(counts);
        }
    }

    /// Adds what happened to messages for full inboxes.
    #[inline(never)]
    fn add_overflow(&self, counts: Counts) {
        add_exclusively(&self.dropped, counts.dropped);
        add_exclusively(&self.evicted, counts.evicted);
        add_exclusively(&self.conflated, counts.conflated);
    }

    pub(crate) fn read(&self) -> Counts {
        // Relaxed: exact at rest.
        Counts {
            published: self.published.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            conflated: self.conflated.load(Ordering::Relaxed),
        }
    }
}

/// Where the entry of a recent name lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    Probation(u32),
    Clock(u32),
}

/// No position.
const NONE: u32 = u32::MAX;

/// Where the numbers of positions in probation begin.
const PROBATION: u32 = clock::MAX_ENTRIES;

impl Position {
    fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            NONE => None,
            PROBATION.. => Some(Self::Probation(bits - PROBATION)),
            _ => Some(Self::Clock(bits)),
        }
    }

    fn to_bits(self) -> u32 {
        match self {
            Self::Probation(at) => PROBATION + at,
            Self::Clock(at) => at,
        }
    }
}

/// What an entry is made of.
pub(super) struct NewEntry<P> {
    pub(super) name: SmallStr,
    pub(super) hash: u64,
    /// Until the entry is made.
    route: Option<Route<P>>,
}

impl<P> NewEntry<P> {
    /// To be derived.
    #[inline]
    pub(super) fn new(hash: u64) -> Self {
        Self { name: SmallStr::default(), hash, route: Some(Route::empty()) }
    }

    /// Sets the name, and finds the patterns that match it. In place: to move what has just been written costs a stall
    /// (see "Store forwarding" in `internals.md`).
    #[inline]
    pub(super) fn derive(&mut self, name: &str, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        self.name.set(name);
        if let Some(route) = &mut self.route {
            route.derive(&self.name, patterns);
        }
    }

    /// Returns the route; an empty one once the entry is made.
    pub(super) fn route(&mut self) -> &mut Route<P> {
        self.route.get_or_insert_with(Route::empty)
    }

    /// Makes the entry.
    #[inline]
    pub(super) fn build(&mut self) -> Channel<P> {
        let route = self.route.take().unwrap_or_else(Route::empty);
        Channel::new(self.name.clone(), self.hash, route)
    }

    /// Makes the entry in the memory of one that nobody holds, whose route is left in `self`: an allocation less, on
    /// cache lines that evicting has read anyway.
    #[inline]
    pub(super) fn build_in(&mut self, evicted: &mut Channel<P>) {
        // Each field by its name: one that is added later cannot be forgotten.
        let Channel {
            hash,
            short_name,
            position,
            needs_reaccount,
            subscribers,
            inbox_address,
            counters,
            turn,
            accounted,
            pins,
            name,
        } = evicted;
        let patterns = self.route().patterns.len();
        mem::swap(turn.get_mut(), self.route());
        *hash = self.hash;
        (*short_name, *name) = Channel::<P>::split_name(self.name.clone());
        *counters = Counters::default();
        // Relaxed: nobody else has the entry.
        position.store(NONE, Ordering::Relaxed);
        needs_reaccount.store(false, Ordering::Relaxed);
        subscribers.store(0, Ordering::Relaxed);
        inbox_address.store(0, Ordering::Relaxed);
        accounted.store(patterns, Ordering::Relaxed);
        pins.store(0, Ordering::Relaxed);
    }
}

impl<P> Channel<P> {
    /// The entry of a name, in no stripe yet.
    #[inline]
    pub(super) fn new(name: SmallStr, hash: u64, route: Route<P>) -> Self {
        let (short_name, name) = Self::split_name(name);
        Self {
            short_name,
            name,
            hash,
            pins: AtomicUsize::new(0),
            subscribers: AtomicU32::new(0),
            inbox_address: AtomicUsize::new(0),
            position: AtomicU32::new(NONE),
            needs_reaccount: AtomicBool::new(false),
            accounted: AtomicUsize::new(route.patterns.len()),
            counters: Counters::default(),
            turn: Mutex::new(route),
        }
    }

    fn split_name(name: SmallStr) -> (Option<InlineStr>, OnceLock<Arc<str>>) {
        match name {
            SmallStr::Inline(short) => (Some(short), OnceLock::new()),
            SmallStr::Shared(name) => (None, OnceLock::from(name)),
        }
    }

    /// An entry in no stripe, pinned: for a topic of a closed bus.
    pub(super) fn detached(name: &str, hash: u64) -> Self {
        let channel = Self::new(SmallStr::new(name), hash, Route::ended());
        // Relaxed: nobody else has it yet.
        channel.pins.store(1, Ordering::Relaxed);
        channel
    }

    /// Returns the name.
    #[inline]
    pub(crate) fn name(&self) -> &str {
        match &self.short_name {
            Some(short) => short.as_str(),
            None => self.shared_name(),
        }
    }

    /// Returns the name, shared.
    pub(crate) fn shared_name(&self) -> &Arc<str> {
        self.name.get_or_init(|| match &self.short_name {
            Some(short) => Arc::from(short.as_str()),
            None => unreachable!("a long name is shared from the beginning"),
        })
    }

    /// Returns the name for messages to point to.
    pub(super) fn text(&self) -> SmallStr {
        match (self.name.get(), self.short_name) {
            (None, Some(short)) => SmallStr::Inline(short),
            _ => SmallStr::Shared(Arc::clone(self.shared_name())),
        }
    }

    /// `true` if it is the entry of `name`, whose hash is `hash`.
    #[inline]
    pub(crate) fn is(&self, name: &str, hash: u64) -> bool {
        self.hash == hash
            && match &self.short_name {
                Some(short) => short.as_bytes() == name.as_bytes(),
                None => **self.shared_name() == *name,
            }
    }

    /// Returns where the entry of a recent name lies, or `None` if it is no recent name's.
    #[inline]
    pub(super) fn position(&self) -> Option<Position> {
        // Relaxed: written under the stripe's lock.
        Position::from_bits(self.position.load(Ordering::Relaxed))
    }

    /// Sets where the entry lies; the caller holds the stripe's lock.
    pub(super) fn set_position(&self, position: Option<Position>) {
        self.position.store(position.map_or(NONE, Position::to_bits), Ordering::Relaxed);
    }

    /// `true` if the CLOCK may evict the entry; one in use gets a second chance.
    pub(super) fn cool(&mut self) -> bool {
        self.turn.get_mut().cool()
    }

    /// Asks the next [`EntryGuard`](super::entry_guard::EntryGuard) that is dropped to have the stripe account for the
    /// entry again.
    pub(super) fn request_reaccount(&self) {
        // Relaxed: what changed is read in the turn. A publisher that does not see this leaves it to the next one.
        self.needs_reaccount.store(true, Ordering::Relaxed);
    }

    /// `true` if the stripe must account for the entry again.
    #[inline]
    pub(super) fn needs_reaccount(&self) -> bool {
        self.needs_reaccount.load(Ordering::Relaxed)
    }

    /// Returns how many patterns match, for accounting, unless the turn is taken: its holder then asks for this.
    pub(super) fn patterns_to_account(&self) -> Option<usize> {
        let route = self.try_turn()?;
        // Relaxed: in the turn, in which it is set too.
        self.needs_reaccount.store(false, Ordering::Relaxed);
        Some(route.patterns.len())
    }

    /// Returns the number of exact subscribers.
    pub(crate) fn subscribers(&self) -> usize {
        // A count at some recent moment. Acquire: who sees that there is none sees what came before that.
        self.subscribers.load(Ordering::Acquire) as usize
    }

    /// Returns an address where a subscriber's inbox is or was, to prefetch it.
    pub(crate) fn inbox_address(&self) -> *const u8 {
        // Relaxed: a hint.
        ptr::without_provenance(self.inbox_address.load(Ordering::Relaxed))
    }

    /// Keeps the entry for a topic. The caller holds the stripe's lock.
    pub(super) fn pin_for(&self, purpose: Purpose) {
        if purpose == Purpose::Topic {
            // Relaxed: under the stripe's lock. Who prunes holds it for writing.
            self.pins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `true` if a topic or a subscription holds the entry.
    pub(super) fn is_needed(&self) -> bool {
        // Relaxed: written under the stripe's lock.
        self.pins.load(Ordering::Relaxed) > 0 || self.subscribers() > 0
    }

    /// Waits for the channel's turn.
    #[inline]
    pub(crate) fn turn(&self) -> Turn<'_, P> {
        self.turn.lock()
    }

    /// Returns the channel's turn, unless it is taken.
    #[inline]
    pub(crate) fn try_turn(&self) -> Option<Turn<'_, P>> {
        self.turn.try_lock()
    }

    /// Adds an exact subscriber; `route` is this channel's. Returns `true` if it is the first.
    pub(crate) fn join(&self, route: &mut Route<P>, id: u64, recipient: Recipient<P>) -> bool {
        route.source.get_or_insert_with(|| {
            BatchArc::new(Source::new(SmallStr::Shared(Arc::clone(self.shared_name())), None))
        });
        // Relaxed: a hint.
        self.inbox_address.store(Arc::as_ptr(&recipient.inbox).addr(), Ordering::Relaxed);
        route.exact.push(id, recipient);
        // Relaxed: written in the turn.
        self.subscribers.store(route.exact.len() as u32, Ordering::Relaxed);
        route.exact.len() == 1
    }

    /// Removes an exact subscriber. Returns it, and `true` if it was the last; then `emptied` runs before anyone can
    /// see that the channel has none.
    pub(crate) fn leave(
        &self,
        route: &mut Route<P>,
        id: u64,
        emptied: impl FnOnce(),
    ) -> Option<(Recipient<P>, bool)> {
        let recipient = route.exact.remove(id)?;
        let is_last = route.exact.len() == 0;
        if is_last {
            emptied();
        }
        // Release: partner of the Acquire in `subscribers`.
        self.subscribers.store(route.exact.len() as u32, Ordering::Release);
        Some((recipient, is_last))
    }

    /// Ends the entry: publishers that still hold it look the name up again. Returns what it held, to be dropped after
    /// unlocking.
    pub(crate) fn detach(&self, route: &mut Route<P>) -> Route<P> {
        // Relaxed: written in the turn.
        self.subscribers.store(0, Ordering::Relaxed);
        mem::replace(route, Route::ended())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn an_entry_is_told_by_its_whole_name() {
        for len in [0, 1, 25, 26, 27, 28, 254, 255, 256, 300] {
            let name = "n".repeat(len);
            let entry = Channel::<u32>::new(SmallStr::new(&name), 7, Route::empty());
            assert!(entry.is(&name, 7));
            assert!(!entry.is(&name, 8));
            assert!(!entry.is(&"n".repeat(len + 1), 7));
            assert!(!entry.is(&format!("{}m", "n".repeat(len)), 7));
            assert!(len == 0 || !entry.is(&format!("{}m", "n".repeat(len - 1)), 7), "{len}");
        }
    }

    #[test]
    fn what_a_publish_touches_lies_together() {
        assert!(offset_of!(Channel<Arc<str>>, inbox_address) <= 4 * 64);
    }
}
