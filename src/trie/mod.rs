//! The lock-striped topic trie: who has subscribed to what, and whom a publish reaches.
//!
//! It holds the entries of exact channels, striped by their whole names ([`stripe`]); those of recently published names within
//! bounds ([`recent`]); for each channel its subscribers and the patterns that match it ([`channel`], [`route`],
//! [`recipients`]); and the patterns ([`patterns`]). The rest of the engine sees none of these locks, only [`Trie`] and what it
//! hands out.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. a stripe, for a moment: under it, turns are only tried, never waited for;
//! 2. a channel's turn, for one publish, or for one joining or leaving;
//! 3. the recipients of patterns, in the order of the patterns' ids;
//! 4. an inbox's lock (in `inbox`).
//!
//! The locks of two pattern trees at most are taken one after the other, alone or in a turn, to derive a route. Nothing else is
//! locked under them.
//!
//! User code runs under none of these locks, except a payload's `Clone`, which runs in a turn and under the recipients of
//! patterns: every way in here panics when it comes from there
//! ([`assert_not_in_clone`](reentrancy::assert_not_in_clone)).

mod channel;

mod patterns;
mod probe_table;
mod recent;
mod recipients;
mod stripe;
mod subscription;

use std::mem;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;

pub(crate) use channel::{Channel, Counters, Counts, Route, Turn};
pub(crate) use patterns::PatternEntry;
pub(crate) use recipients::{Recipient, Recipients, Totals};
pub(crate) use subscription::{Subscribable, Subscription};

use crate::pattern::Pattern;
use crate::reentrancy::{self, for_each_then_resume};
use crate::small_str::SmallStr;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use patterns::Patterns;
use stripe::{Purpose, Stripes};

/// See the module's documentation.
pub(crate) struct Trie<P> {
    /// Read at every publish, written once.
    closed: AtomicBool,
    stripes: Stripes<P>,
    patterns: Patterns<P>,
    subscribing: CachePadded<Subscribing>,
}

/// What only subscribing writes, on cache lines of its own.
#[derive(Default)]
struct Subscribing {
    /// The id that the next subscription gets.
    next_id: AtomicU64,
    /// Channels that have an exact subscriber.
    channels: AtomicUsize,
}

/// An entry in use: whoever takes its turn has one of these, and drops it after the turn.
///
/// It does what had to wait until the turn was free, by unwinding too: on a bus that was closed meanwhile, it takes the entry
/// apart, since closing does not wait for turns; and it has the stripe account for a recent name whose cost has changed.
pub(crate) struct EntryGuard<'a, P> {
    trie: &'a Trie<P>,
    channel: &'a Arc<Channel<P>>,
}

impl<P> EntryGuard<'_, P> {
    /// Waits for the channel's turn. Its route may be detached.
    pub(crate) fn turn(&self) -> Turn<'_, P> {
        reentrancy::assert_not_in_clone();
        self.channel.turn()
    }

    /// Returns the channel's turn, unless it is taken.
    #[inline(always)]
    pub(crate) fn try_turn(&self) -> Option<Turn<'_, P>> {
        self.channel.try_turn()
    }
}

impl<P> Drop for EntryGuard<'_, P> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.channel.needs_reaccount() || self.trie.is_closed() {
            self.trie.settle(self.channel);
        }
    }
}

impl<P> Trie<P> {
    pub(crate) fn new(stripes: usize) -> Self {
        let hasher = RandomState::default();
        Self {
            closed: AtomicBool::new(false),
            stripes: Stripes::new(stripes, hasher.clone()),
            patterns: Patterns::new(hasher),
            subscribing: CachePadded::default(),
        }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        // SeqCst: partner of the store in `shut_down`. The one writes here and then tries a turn, the other
        // gives up a turn and then reads here: one of them must see the other.
        self.closed.load(Ordering::SeqCst)
    }

    // ---- publishing ----------------------------------------------------------------------------

    /// Returns the entry of a name to publish to, made if there is none; `None` if the bus is closed.
    #[inline(always)]
    pub(crate) fn entry_for_publish(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>>
    where
        P: Send + 'static,
    {
        if self.is_closed() {
            return None;
        }
        match self.stripes.find(name, hash, Purpose::Publish) {
            Some(channel) => Some(channel),
            None => self.stripes.entry(name, hash, Purpose::Publish, &self.patterns),
        }
    }

    /// Begins to use an entry.
    #[inline(always)]
    pub(crate) fn guard<'a>(&'a self, channel: &'a Arc<Channel<P>>) -> EntryGuard<'a, P> {
        EntryGuard { trie: self, channel }
    }

    #[cold]
    fn settle(&self, channel: &Arc<Channel<P>>) {
        if self.is_closed() {
            self.retire(channel);
        } else {
            self.stripes.reaccount(channel);
        }
    }

    /// Brings the patterns of a route up to date, for a look at them.
    pub(crate) fn refresh_to_look(&self, channel: &Channel<P>, route: &mut Route<P>)
    where
        P: Send + 'static,
    {
        route.update(channel, &self.patterns);
    }

    /// Brings the patterns of a route up to date, for a publish.
    #[inline]
    pub(crate) fn refresh(&self, channel: &Channel<P>, route: &mut Route<P>)
    where
        P: Send + 'static,
    {
        route.refresh(channel, &self.patterns);
    }

    /// Counts what happened on `channel` outside its turn.
    pub(crate) fn count(&self, channel: &Arc<Channel<P>>, counts: Counts) {
        let entry = self.guard(channel);
        let turn = entry.turn();
        if turn.is_detached() {
            drop(turn);
            self.stripes.fold(channel.hash, counts);
        } else {
            channel.counters.add(counts);
        }
    }

    /// Counts a publish on a closed bus, which reaches nobody.
    pub(crate) fn count_unreached(&self, hash: u64) {
        self.stripes.fold(hash, Counts::of_one(0));
    }

    /// The entry of a name, kept until `unpin`.
    pub(crate) fn pin(&self, name: &str) -> Arc<Channel<P>>
    where
        P: Send + 'static,
    {
        reentrancy::assert_not_in_clone();
        let hash = self.stripes.hash(name);
        self.stripes
            .entry(name, hash, Purpose::Topic, &self.patterns)
            .unwrap_or_else(|| Arc::new(Channel::detached(name, hash)))
    }

    pub(crate) fn unpin(&self, channel: &Arc<Channel<P>>) {
        self.stripes.unpin(channel);
    }

    // ---- closing -------------------------------------------------------------------------------

    /// Closes the trie to publishing and subscribing.
    pub(crate) fn shut_down(&self) {
        // SeqCst: see `is_closed`.
        self.closed.store(true, Ordering::SeqCst);
        // A lock that is then tried and found taken is no SeqCst operation: the fence keeps that look behind
        // the store.
        fence(Ordering::SeqCst);
    }

    /// Lets go of all that a closed trie held, and of what publishes hold as soon as they are done. Waits
    /// for none of them. The recipients come back, to be dropped when everything is closed.
    pub(crate) fn take_down(&self) -> Vec<Recipients<P>> {
        let mut taken = Vec::new();
        self.stripes.close(|route| self.take_apart(route, &mut taken));
        self.patterns.close(|entry| taken.extend(self.shut(entry)));
        taken
    }

    fn retire(&self, channel: &Arc<Channel<P>>) {
        if let Some(route) = self.stripes.retire(channel) {
            let mut taken = Vec::new();
            self.take_apart(route, &mut taken);
            for_each_then_resume(taken, drop);
        }
    }

    /// Takes the recipients of a route that is out of the trie, to `taken`.
    fn take_apart(&self, mut route: Route<P>, taken: &mut Vec<Recipients<P>>) {
        if route.exact.len() > 0 {
            // Relaxed: a mere count.
            self.subscribing.channels.fetch_sub(1, Ordering::Relaxed);
        }
        route.exact.slots().iter().flatten().for_each(Recipient::settle);
        taken.push(mem::take(&mut route.exact));
        taken.extend(route.patterns.iter().filter_map(|known| self.shut(known.entry())));
    }

    /// Takes a pattern's recipients and drops them, if the trie has been closed.
    ///
    /// Whoever has held the lock of the recipients outside of a turn must call this after unlocking it: a thread that closed
    /// the trie meanwhile has found the lock taken. (The end of a turn does it for the locks that were held in it.)
    #[inline]
    pub(crate) fn shut_if_closed(&self, entry: &PatternEntry<P>) {
        if self.is_closed() {
            drop(self.shut(entry));
        }
    }

    /// Takes a pattern's recipients, unless someone holds them: then they do this at their end.
    fn shut(&self, entry: &PatternEntry<P>) -> Option<Recipients<P>> {
        let taken = mem::take(&mut *entry.try_write()?);
        taken.slots().iter().flatten().for_each(Recipient::settle);
        Some(taken)
    }

    // ---- looking in ----------------------------------------------------------------------------

    /// The entry of a name, if it has one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Channel<P>>> {
        reentrancy::assert_not_in_clone();
        self.stripes.get(name, self.stripes.hash(name))
    }

    pub(crate) fn hash(&self, name: &str) -> u64 {
        self.stripes.hash(name)
    }

    pub(crate) fn pattern_hash(&self, pattern: &Pattern) -> u64 {
        self.patterns.hash(pattern)
    }

    /// A route for a name that has no entry.
    pub(crate) fn derive(&self, name: &str) -> Route<P>
    where
        P: Send + 'static,
    {
        Route::derive(&SmallStr::new(name), &self.patterns)
    }

    /// Whether anyone holds `pattern`.
    pub(crate) fn has_pattern(&self, pattern: &Pattern) -> bool {
        self.patterns.contains(pattern)
    }

    /// Names of the channels that have an exact subscriber, those that `pattern` matches.
    pub(crate) fn channels(&self, pattern: Option<&Pattern>) -> Vec<Arc<str>> {
        reentrancy::assert_not_in_clone();
        let mut names = Vec::new();
        if self.is_closed() {
            return names;
        }
        self.stripes.for_each(|channel| {
            if channel.subscribers() > 0 {
                names.push(Arc::clone(channel.shared_name()));
            }
        });
        // Under no lock: a slow pattern holds up nobody.
        if let Some(pattern) = pattern {
            names.retain(|name| pattern.is_match(name));
        }
        names
    }

    /// Exact subscribers of a channel.
    pub(crate) fn subscriber_count(&self, channel: &Channel<P>) -> usize {
        if self.is_closed() { 0 } else { channel.subscribers() }
    }

    /// Channels that have an exact subscriber.
    pub(crate) fn channel_count(&self) -> usize {
        // Relaxed: a count at some recent moment.
        self.subscribing.channels.load(Ordering::Relaxed)
    }

    /// Distinct patterns.
    pub(crate) fn pattern_count(&self) -> usize {
        self.patterns.count()
    }

    /// Returns the distinct patterns, in no particular order; none once the trie is closed.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        reentrancy::assert_not_in_clone();
        if self.is_closed() { Vec::new() } else { self.patterns.patterns() }
    }

    /// All that was counted since the trie was made.
    pub(crate) fn counts(&self) -> Counts {
        reentrancy::assert_not_in_clone();
        let mut sum = Counts::default();
        self.stripes.counts(|counts| sum += counts);
        sum
    }
}

/// The pattern tree alone, with its steps counted.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use super::patterns::tree::{Entry, PatternTree};
    use crate::pattern::Pattern;

    /// A pattern, and which it is.
    #[derive(Clone)]
    struct Numbered(usize, Pattern);

    impl Entry for Numbered {
        fn program(&self) -> &[u8] {
            self.1.program()
        }

        fn text_len(&self) -> usize {
            self.1.as_str().len()
        }
    }

    /// Returns which of the Redis globs match `channel`, and how many steps that took.
    pub fn matches(patterns: &[&str], channel: &str) -> (Vec<bool>, usize) {
        let mut tree = PatternTree::new(Default::default());
        for (at, text) in patterns.iter().enumerate() {
            let pattern = Pattern::redis(text);
            tree.insert(&pattern, &Numbered(at, pattern.clone()));
        }
        let mut matched = vec![false; patterns.len()];
        let mut confirming = 0;
        let steps = tree.matches(channel.as_bytes(), |end, unconfirmed| {
            assert!(!matched[end.0], "found twice");
            matched[end.0] = !unconfirmed || end.1.is_match_counting(channel, &mut confirming);
        });
        (matched, steps + confirming)
    }

    /// Whether `glob` matches `channel`, and whether the tree finds it by its literal beginning.
    pub fn finds_glob(glob: &Pattern, channel: &str) -> (bool, bool) {
        let mut tree = PatternTree::new(Default::default());
        tree.insert(glob, &Numbered(0, glob.clone()));
        let mut found = 0;
        tree.matches(channel.as_bytes(), |_, _| found += 1);
        assert!(found <= 1, "found twice");
        (glob.is_match(channel), found == 1)
    }
}

#[cfg(test)]
mod tests;
