//! The stripes: names to channel entries, each part under its own lock, and the bounded memory of
//! recently published names.
//!
//! A name that was published once is not in the table of its stripe: it has no entry at all ([`once`]), or one
//! among the few that are [`fresh`]. Only when it is published again, subscribed or held by a topic does it come
//! into the table. So names that come once and never again pass through memory that stays in a processor's cache,
//! and stir up nothing else.
//!
//! A stripe's lock is held for a look-up, an insertion or a removal, never while anyone waits: under
//! it, a channel's turn is only tried, and one pattern at most is looked at. So no publish, however long, holds up
//! another channel.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::channel::{Channel, Counters, Counts, Derived, Held, Route, Slot};
use super::patterns::{PatternEntry, Patterns};
use super::probe_table::{Hashed, ProbeTable};
use super::recent::clock::Clock;
use super::recent::ghosts::{Once, Room, Spare};
use super::recent::probation::{self, Fresh};
use crate::source::{Handed, Label, PatternSource, Prepaid, Text};
use crate::sync::{AtomicU64, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How much memory a bus spends on names that were published to and that nobody subscribed, in bytes.
pub(super) const RECENT_BYTES: usize = 2 << 20;

/// What each stripe may spend of it at least, in bytes: room for some fifty names.
const STRIPE_BYTES: usize = 32 << 10;

/// The part of it that remembers names by their hashes alone.
const REMEMBERED: usize = 32;

/// More stripes than this are of no use.
pub(super) const MOST_STRIPES: usize = 4096;

/// See the module's documentation.
pub(super) struct Stripes<P> {
    /// A power of two of them.
    stripes: Box<[CachePadded<Counted<P>>]>,
    budget: Budget,
    hasher: RandomState,
}

/// What a stripe spends on recent names, beside the fresh ones.
#[derive(Clone, Copy)]
struct Budget {
    /// Bytes for those in the clock.
    used: usize,
    /// For those that have no entry.
    once: Room,
}

/// A stripe, and what is counted without its lock.
struct Counted<P> {
    stripe: RwLock<Stripe<P>>,
    /// Publishes to names that had no entry, each of which was delivered once.
    passed: AtomicU64,
}

struct Stripe<P> {
    channels: ProbeTable<Listed<P>>,
    /// Entries of names published once, of late, which nobody needs.
    fresh: Fresh<P>,
    /// The other recent names: entries in the table that nobody may need any more. Some have since been
    /// subscribed.
    clock: Clock,
    once: Once<P>,
    /// What removed entries had counted, and publishes that had none.
    folded: Counters,
    closed: bool,
}

/// An entry in the table, with a part of its name's hash: nothing else is fetched for one that is another.
struct Listed<P> {
    hash: u32,
    channel: Arc<Channel<P>>,
}

impl<P> Listed<P> {
    fn new(channel: Arc<Channel<P>>) -> Self {
        Self { hash: channel.hash as u32, channel }
    }
}

impl<P> Hashed for Listed<P> {
    #[inline]
    fn hash(&self) -> u32 {
        self.hash
    }
}

/// Why an entry is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is one of the recent names then.
    Publish,
    /// It is pinned.
    Topic,
    /// The caller adds a subscriber in its turn.
    Subscribe,
}

impl<P> Stripes<P> {
    pub(super) fn new(count: usize, hasher: RandomState) -> Self {
        let count = count.clamp(1, MOST_STRIPES).next_power_of_two();
        let names = probation::NAMES / count;
        let stripe = || Stripe {
            channels: ProbeTable::default(),
            fresh: Fresh::new(names),
            clock: Clock::default(),
            once: Once::default(),
            folded: Counters::default(),
            closed: false,
        };
        let counted = || Counted { stripe: RwLock::new(stripe()), passed: AtomicU64::new(0) };
        let bytes = (RECENT_BYTES / count).max(STRIPE_BYTES);
        let once = Room::new(count, bytes / REMEMBERED);
        let used =
            bytes - once.bytes::<P>() - probation::SET_BYTES * (names / probation::WAYS).max(1);
        Self {
            stripes: (0..count).map(|_| CachePadded::new(counted())).collect(),
            budget: Budget { used, once },
            hasher,
        }
    }

    #[inline]
    pub(super) fn hash(&self, name: &str) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write(name.as_bytes());
        state.finish()
    }

    /// The table below uses the lower half of the hash; the stripe is chosen by bits of the other.
    #[inline]
    fn counted(&self, hash: u64) -> &Counted<P> {
        &self.stripes[(hash >> 32) as usize & (self.stripes.len() - 1)]
    }

    #[inline]
    fn stripe(&self, hash: u64) -> &RwLock<Stripe<P>> {
        &self.counted(hash).stripe
    }

    #[inline]
    pub(super) fn get(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        stripe.find(name, hash).or_else(|| stripe.fresh.find(name, hash)).cloned()
    }

    /// The entry of `name`, if it has one.
    #[inline(always)]
    pub(super) fn find(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let stripe = self.stripe(hash).read();
        if let Some(channel) = stripe.find(name, hash) {
            channel.pin_for(purpose);
            return Some(Arc::clone(channel));
        }
        self.find_fresh(stripe, name, hash, purpose)
    }

    /// The same for a name that is not in the table of its stripe. Apart, so that the above stays in registers.
    #[inline(never)]
    fn find_fresh(
        &self,
        stripe: RwLockReadGuard<'_, Stripe<P>>,
        name: &str,
        hash: u64,
        purpose: Purpose,
    ) -> Option<Arc<Channel<P>>> {
        let is_fresh = stripe.fresh.find(name, hash).is_some();
        if !is_fresh {
            stripe.once.prefetch_name(hash);
        }
        drop(stripe);
        if is_fresh { self.promote(name, hash, purpose) } else { None }
    }

    /// The entry of `name`, made where there is none; `None` where the bus is closed. The patterns that match it may be
    /// known already.
    pub(super) fn entry(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        patterns: &Patterns<P>,
        derived: Option<Derived<P>>,
    ) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        if derived.is_none()
            && let Some(channel) = self.find(name, hash, purpose)
        {
            return Some(channel);
        }
        // Before the lock: matching takes its time, and the pattern trie's own lock.
        let derived = derived.unwrap_or_else(|| Derived::new(name, patterns));
        self.insert(name, hash, purpose, derived)
    }

    /// Remembers a name that was found to have no entry. `None` where it came before of late, and is to have one; and
    /// where the bus is closed.
    pub(super) fn meet(&self, hash: u64) -> Option<Met<'_, P>> {
        self.met(hash, self.stripe(hash).write())
    }

    /// The same, unless the stripe is locked: then `None`.
    #[inline]
    pub(super) fn try_meet(&self, hash: u64) -> Option<Option<Met<'_, P>>> {
        Some(self.met(hash, self.stripe(hash).try_write()?))
    }

    #[inline]
    fn met<'a>(
        &self,
        hash: u64,
        mut stripe: RwLockWriteGuard<'a, Stripe<P>>,
    ) -> Option<Met<'a, P>> {
        let room = self.budget.once;
        if stripe.closed || stripe.once.remembers(hash) {
            return None;
        }
        stripe.once.remember(hash, room);
        stripe.once.prefetch();
        Some(Met { stripe, hash, room })
    }

    /// Brings the entry of a fresh name into the table, if it is there still.
    #[cold]
    fn promote(&self, name: &str, hash: u64, purpose: Purpose) -> Option<Arc<Channel<P>>> {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(hash).write();
        let channel = stripe.promote(name, hash, purpose, self.budget, &mut removed);
        drop(stripe);
        channel
    }

    /// The entry of a name that was found nowhere. Another may have brought it in meanwhile.
    #[cold]
    fn insert(
        &self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        derived: Derived<P>,
    ) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        let mut removed = Removed::new();
        let mut held = Held::default();
        let mut stripe = self.stripe(hash).write();
        if stripe.closed {
            return None;
        }
        let known = match stripe.find(name, hash) {
            Some(channel) => {
                let channel = Arc::clone(channel);
                channel.pin_for(purpose);
                Some(channel)
            }
            None => stripe.promote(name, hash, purpose, self.budget, &mut removed),
        };
        // What was taken out, what the entry had held, and what is not needed, is dropped when the lock is free.
        match known {
            Some(channel) => {
                drop(stripe);
                Some(channel)
            }
            None => {
                let newcomer = Newcomer { name, hash, derived, purpose };
                let channel = stripe.take_in(newcomer, self.budget, &mut removed, &mut held);
                drop(stripe);
                Some(channel)
            }
        }
    }

    /// Counts a recent name at what it costs with the patterns that match it now. One that exceeds the whole
    /// budget does not stay.
    pub(super) fn weigh(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        if stripe.closed {
            return;
        }
        if channel.slot().is_some()
            // Where the turn is taken, whoever has it comes here, too.
            && let Some(patterns) = channel.try_turn().map(|route| route.patterns.len())
            // Relaxed: with the stripe's lock.
            && let before = channel.weighed.swap(patterns, Ordering::Relaxed)
            && patterns != before
        {
            let cost = Channel::<P>::cost(channel.name(), patterns);
            // A fresh one comes into the table then: it is looked for there when it is published again.
            stripe.put_in_table(channel);
            stripe.clock_out(channel);
            if cost <= self.budget.used {
                stripe.clock_in(channel, cost);
                // A publish that finds one pattern less is to make no allocation.
                let most = if patterns > before { usize::MAX } else { FEW };
                stripe.make_room(self.budget, 0, most, &mut removed);
            }
        }
        if channel.slot().is_none() {
            stripe.prune(channel, self.budget, &mut removed);
        }
        drop(stripe);
    }

    /// Removes the entry if nobody needs it; one whose turn is taken is left to the clock.
    pub(super) fn prune(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        stripe.prune(channel, self.budget, &mut removed);
        drop(stripe);
    }

    /// Gives up a topic's hold on an entry.
    pub(super) fn unpin(&self, channel: &Arc<Channel<P>>) {
        let mut removed = Removed::new();
        let mut stripe = self.stripe(channel.hash).write();
        // Relaxed: with the stripe's lock.
        channel.pins.fetch_sub(1, Ordering::Relaxed);
        stripe.prune(channel, self.budget, &mut removed);
        drop(stripe);
    }

    /// Adds to what removed entries had counted.
    pub(super) fn fold(&self, hash: u64, counts: Counts) {
        self.stripe(hash).write().folded.add(counts);
    }

    /// Counts a publish that had no entry and was delivered once.
    #[inline]
    pub(super) fn count_passed(&self, hash: u64) {
        // Relaxed: a sum, exact at rest.
        self.counted(hash).passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes the entry, whoever needs it: for a bus that is closed. What its route held comes back,
    /// unless the turn is taken: then its holder does this, when it is done.
    pub(super) fn retire(&self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        let mut stripe = self.stripe(channel.hash).write();
        stripe.detach(channel)
    }

    /// Refuses new entries from now on, and calls `retired` with what the routes had held, under no
    /// lock. Entries whose turn is taken stay until their holder is done.
    pub(super) fn close(&self, mut retired: impl FnMut(Route<P>)) {
        for Counted { stripe, .. } in self.stripes.iter().map(|stripe| &**stripe) {
            let mut stripe = stripe.write();
            stripe.closed = true;
            let once = std::mem::take(&mut stripe.once);
            let channels: Vec<_> = stripe.entries().cloned().collect();
            let routes: Vec<_> =
                channels.iter().filter_map(|channel| stripe.detach(channel)).collect();
            drop(stripe);
            drop(once);
            routes.into_iter().for_each(&mut retired);
        }
    }

    /// Calls `each` for every entry, with the stripe's lock held for reading.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Channel<P>)) {
        for Counted { stripe, .. } in self.stripes.iter().map(|stripe| &**stripe) {
            stripe.read().channels.iter().for_each(|listed| each(&listed.channel));
        }
    }

    /// Calls `each` for what every entry has counted, and for what removed ones had.
    pub(super) fn counts(&self, mut each: impl FnMut(Counts)) {
        for Counted { stripe, passed } in self.stripes.iter().map(|stripe| &**stripe) {
            // Relaxed: exact at rest.
            let passed = passed.load(Ordering::Relaxed);
            each(Counts { published: passed, delivered: passed, ..Counts::default() });
            let stripe = stripe.read();
            each(stripe.folded.read());
            let channels = stripe.entries();
            channels.for_each(|channel| each(channel.counters.read()));
        }
    }

    /// Places in the tables.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.stripe.read().channels.places()).sum()
    }

    /// Whether `name` is one of the fresh ones.
    #[cfg(test)]
    pub(super) fn is_fresh(&self, name: &str) -> bool {
        let hash = self.hash(name);
        self.stripe(hash).read().fresh.find(name, hash).is_some()
    }

    /// Has the stripe of `name` locked by somebody who looks in.
    #[cfg(test)]
    pub(super) fn look(&self, name: &str) -> impl Sized {
        self.stripe(self.hash(name)).read()
    }

    /// Entries, and what is counted for those that nobody may need, in bytes.
    #[cfg(test)]
    pub(super) fn census(&self) -> (usize, usize) {
        self.stripes.iter().fold((0, 0), |(entries, bytes), stripe| {
            let stripe = stripe.stripe.read();
            let cost = |channel: &Arc<Channel<P>>| {
                Channel::<P>::cost(channel.name(), channel.weighed.load(Ordering::Relaxed))
            };
            let fresh: usize = stripe.fresh.iter().map(cost).sum();
            let len = stripe.channels.len() + stripe.fresh.len();
            (entries + len, bytes + stripe.clock.cost() + fresh)
        })
    }
}

/// A name that has been met, and its stripe, held until it is known what matches: until one pattern at most has been
/// looked at, which takes no longer than an insertion.
pub(super) struct Met<'a, P> {
    stripe: RwLockWriteGuard<'a, Stripe<P>>,
    hash: u64,
    room: Room,
}

impl<P: Send + 'static> Met<'_, P> {
    /// A publish that needs no entry. If a pattern matches, one that has one recipient, what the message is to point to
    /// comes back, and the publish is yet to be counted. `Err` where it needs an entry.
    #[inline]
    pub(super) fn pass(
        mut self,
        name: Label,
        mut derived: Derived<P>,
    ) -> Result<Option<Handed<PatternEntry<P>>>, Derived<P>> {
        let stripe = &mut *self.stripe;
        if !derived.is_light() {
            stripe.once.recall(self.hash, self.room);
            return Err(derived);
        }
        if stripe.once.make_spare(self.room) {
            stripe.reserve(0);
        }
        let Some(pattern) = derived.pop() else {
            stripe.folded.add(Counts::of_one(0));
            return Ok(None);
        };
        let (handed, before) = stripe.once.hand_out(Text::Short(name), pattern, self.room);
        drop(self);
        // Not before: it may be the last of a pattern that is gone.
        drop(before);
        Ok(Some(handed))
    }
}

/// Entries taken out under the lock, to be dropped after it.
type Removed<P> = SmallVec<[Arc<Channel<P>>; FEW]>;

/// So many entries the clock takes out for a name that is published again, and no allocation is needed to hold
/// them. Where that is not enough, the next new name takes out the rest: what came in was among the fresh names
/// until now, and within their bounds.
const FEW: usize = 4;

/// A name that comes in.
struct Newcomer<'a, P> {
    name: &'a str,
    hash: u64,
    derived: Derived<P>,
    purpose: Purpose,
}

impl<P> Stripe<P> {
    /// All entries.
    fn entries(&self) -> impl Iterator<Item = &Arc<Channel<P>>> {
        self.channels.iter().map(|listed| &listed.channel).chain(self.fresh.iter())
    }

    #[inline]
    fn find(&self, name: &str, hash: u64) -> Option<&Arc<Channel<P>>> {
        let listed = self.channels.find(hash as u32, |listed| listed.channel.is(name, hash))?;
        Some(&listed.channel)
    }

    /// Whether the table has this very entry.
    fn has(&self, channel: &Arc<Channel<P>>) -> bool {
        self.find(channel.name(), channel.hash).is_some_and(|other| Arc::ptr_eq(other, channel))
    }

    /// Makes the entry of a name that has none.
    fn take_in(
        &mut self,
        newcomer: Newcomer<'_, P>,
        budget: Budget,
        removed: &mut Removed<P>,
        held: &mut Held<P>,
    ) -> Arc<Channel<P>>
    where
        P: Send + 'static,
    {
        let Newcomer { name, hash, derived, purpose } = newcomer;
        let patterns = derived.len();
        let cost = Channel::<P>::cost(name, patterns);
        let recent = purpose == Purpose::Publish;
        if self.clock.cost() > budget.used {
            // What could not go before, being in use, goes now.
            self.make_room(budget, 0, usize::MAX, removed);
        }
        let before = removed.len();
        let remembered = self.once.recall(hash, budget.once).filter(|_| recent);
        if recent
            && remembered.is_none()
            && cost <= probation::SET_BYTES
            && let Some(place) = self.fresh.make_room(hash, cost, |entry| {
                self.once.remember_gone(entry.hash, budget.once);
                self.folded.add(entry.counters.read());
                removed.push(entry);
            })
        {
            if removed.len() == before {
                self.reserve(1);
            }
            let channel = match removed.pop() {
                Some(mut spare) => {
                    let Some(entry) = Arc::get_mut(&mut spare) else {
                        unreachable!("nobody else holds an entry that gives way to another")
                    };
                    entry.renew(name, hash, derived, held);
                    spare
                }
                None => Arc::new(Channel::new(name, hash, derived)),
            };
            // Relaxed: with the stripe's lock.
            channel.weighed.store(patterns, Ordering::Relaxed);
            self.fresh.put(place, Arc::clone(&channel), cost);
            return channel;
        }
        // One that came of late gets a spare entry: then no allocation is made.
        let spare = if remembered == Some(true) { self.once.take_spare() } else { None };
        let spared = spare.is_some();
        let channel = Self::make_entry(name, hash, derived, spare);
        channel.pin_for(purpose);
        if recent {
            channel.weighed.store(patterns, Ordering::Relaxed);
            if cost <= budget.used {
                // Room first: the entry to come is the coldest, and its publish is yet to come.
                self.make_room(budget, cost, if spared { FEW } else { usize::MAX }, removed);
                self.clock_in(&channel, cost);
            }
        }
        self.channels.insert(Listed::new(Arc::clone(&channel)));
        if !spared {
            self.reserve(0);
        }
        channel
    }

    /// The entry of a name, made of a spare one where there is one.
    fn make_entry(
        name: &str,
        hash: u64,
        derived: Derived<P>,
        spare: Option<Spare<P>>,
    ) -> Arc<Channel<P>>
    where
        P: Send + 'static,
    {
        if let Some(Spare { mut entry, source }) = spare
            && let Some(blank) = Arc::get_mut(&mut entry)
        {
            blank.fill(name, hash, derived, source);
            return entry;
        }
        Arc::new(Channel::new(name, hash, derived))
    }

    /// Brings the entry of a fresh name into the table. No allocation is made.
    fn promote(
        &mut self,
        name: &str,
        hash: u64,
        purpose: Purpose,
        budget: Budget,
        removed: &mut Removed<P>,
    ) -> Option<Arc<Channel<P>>> {
        let channel = Arc::clone(self.fresh.find(name, hash)?);
        self.put_in_table(&channel);
        channel.pin_for(purpose);
        if purpose == Purpose::Publish {
            // Relaxed: with the stripe's lock.
            let patterns = channel.weighed.load(Ordering::Relaxed);
            let cost = Channel::<P>::cost(name, patterns);
            self.make_room(budget, cost, FEW, removed);
            self.clock_in(&channel, cost);
        }
        Some(channel)
    }

    /// Brings an entry into the table if it is one of a fresh name.
    fn put_in_table(&mut self, channel: &Arc<Channel<P>>) {
        if let Some(fresh) = self.fresh.remove(channel) {
            self.channels.insert(Listed::new(fresh));
        }
    }

    /// Has room ready in the table and in the clock for all names that are to come there with no allocation, and for
    /// so many more.
    fn reserve(&mut self, more: usize) {
        self.clock.trim();
        let names = self.fresh.len() + self.once.spares() + more;
        self.channels.reserve(names);
        self.clock.reserve(names);
    }

    fn clock_in(&mut self, channel: &Channel<P>, cost: usize) {
        channel.set_slot(self.clock.insert(channel.hash, cost).map(Slot::Clock));
    }

    fn clock_out(&mut self, channel: &Channel<P>) {
        if let Some(Slot::Clock(at)) = channel.slot() {
            self.clock.remove(at);
            channel.set_slot(None);
        }
    }

    /// Takes out the entries that were least used of late until there is room for one that costs so much, or
    /// so many are taken out.
    fn make_room(&mut self, budget: Budget, cost: usize, most: usize, removed: &mut Removed<P>) {
        // Twice around: once to take away second chances, once to take entries.
        let mut looks = 2 * self.clock.len();
        let most = removed.len().saturating_add(most);
        // One that is larger than all there is goes without a second chance; while it is held, it counts for nothing.
        let (mut goal, mut stuck) = (budget.used, None);
        while self.clock.cost() + cost > goal && looks > 0 && removed.len() < most {
            looks -= 1;
            let Some((at, hash, size)) = self.clock.advance() else { break };
            let is_it = |listed: &Listed<P>| listed.channel.slot() == Some(Slot::Clock(at));
            let Some(Listed { channel: found, .. }) = self.channels.find_mut(hash as u32, is_it)
            else {
                debug_assert!(false, "an entry leaves the clock before it leaves the table");
                self.clock.remove(at);
                continue;
            };
            match Arc::get_mut(found) {
                // In the table alone, where only readers who hold the stripe's lock can come by it: no publish is
                // on its way, no topic and no subscription holds it.
                Some(channel) => {
                    if (channel.cool() || size > budget.used)
                        && let Some(Listed { channel, .. }) =
                            self.channels.remove(hash as u32, is_it)
                    {
                        self.clock_out(&channel);
                        self.folded.add(channel.counters.read());
                        removed.push(channel);
                    }
                }
                None => {
                    let channel = Arc::clone(found);
                    if channel.is_needed() {
                        self.clock_out(&channel);
                    } else if size > budget.used && stuck.replace(at) != Some(at) {
                        goal += size;
                    }
                }
            }
        }
        if let Some(at) = stuck {
            self.clock.take_next(at);
        }
    }

    /// Removes the entry if nobody needs it.
    fn prune(&mut self, channel: &Arc<Channel<P>>, budget: Budget, removed: &mut Removed<P>) {
        match channel.try_turn() {
            // What decides stands still: pins are written under this stripe's lock, the other in the turn.
            Some(mut route) if !route.is_detached() && !channel.is_needed() => {
                route.mark_detached();
                drop(route);
                // What its route holds goes with it.
                self.forget(channel);
            }
            Some(_) => {}
            // Its turn is taken, by a publish that may be the last: the clock will come by.
            // (One that another thread has taken out of the table is no concern of the clock's.)
            None if !self.closed && channel.slot().is_none() && self.has(channel) => {
                let cost = Channel::<P>::cost(channel.name(), 0);
                // Relaxed, both: with the stripe's lock.
                if cost <= budget.used {
                    channel.weighed.store(0, Ordering::Relaxed);
                    self.make_room(budget, cost, usize::MAX, removed);
                    self.clock_in(channel, cost);
                } else {
                    // Too large to stay: whoever has its turn finds that it is to be weighed, or else it is the next to
                    // go. It drives out no other.
                    channel.weighed.store(usize::MAX, Ordering::Relaxed);
                    self.make_room(budget, 0, usize::MAX, removed);
                    self.clock_in(channel, cost);
                    if let Some(Slot::Clock(at)) = channel.slot() {
                        self.clock.take_next(at);
                    }
                }
                self.reserve(0);
            }
            None => {}
        }
    }

    fn detach(&mut self, channel: &Arc<Channel<P>>) -> Option<Route<P>> {
        let mut route = channel.try_turn()?;
        if route.is_detached() {
            return None;
        }
        let held = channel.detach(&mut route);
        drop(route);
        self.forget(channel);
        Some(held)
    }

    /// Takes an entry that is detached out of the table.
    fn forget(&mut self, channel: &Arc<Channel<P>>) {
        self.folded.add(channel.counters.read());
        self.fresh.remove(channel);
        self.clock_out(channel);
        self.clock.trim();
        self.channels.remove(channel.hash as u32, |other| Arc::ptr_eq(&other.channel, channel));
        self.channels.fit(self.fresh.len() + self.once.spares());
    }
}

impl<P> Channel<P> {
    /// Keeps the entry for a topic. The caller holds the stripe's lock.
    fn pin_for(&self, purpose: Purpose) {
        if purpose == Purpose::Topic {
            // Relaxed: with the stripe's lock. Who prunes holds it for writing.
            self.pins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether somebody would miss the entry.
    fn is_needed(&self) -> bool {
        // Relaxed: written under the stripe's lock.
        self.pins.load(Ordering::Relaxed) > 0 || self.subscribers() > 0
    }

    /// What the entry of a recent name costs that so many patterns match, in bytes: itself, its place in
    /// table and clock, and for each pattern what that pattern's messages point to.
    fn cost(name: &str, patterns: usize) -> usize {
        const PLACES: usize = 4 * size_of::<usize>();
        const COUNTS: usize = 2 * size_of::<usize>();
        let entry = size_of::<Self>() + 2 * COUNTS + name.len();
        let pattern = size_of::<PatternSource<PatternEntry<P>>>() + Prepaid::BYTES;
        entry + PLACES + patterns * pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_both_found_no_entry_come_to_one() {
        let hasher = RandomState::default();
        let stripes = Stripes::<u32>::new(1, hasher.clone());
        let patterns = Patterns::new(hasher);
        let purposes = [Purpose::Publish, Purpose::Topic, Purpose::Subscribe];
        for (i, first) in purposes.into_iter().enumerate() {
            for (j, second) in purposes.into_iter().enumerate() {
                let name = format!("{i}:{j}");
                let hash = stripes.hash(&name);
                let derived = || Derived::new(&name, &patterns);
                let [one, other] = [first, second]
                    .map(|purpose| stripes.insert(&name, hash, purpose, derived()).unwrap());
                assert!(Arc::ptr_eq(&one, &other));
                let topics =
                    usize::from(first == Purpose::Topic) + usize::from(second == Purpose::Topic);
                assert_eq!(one.pins.load(Ordering::Relaxed), topics);
            }
        }
        assert_eq!(stripes.census().0, 9);
    }
}
