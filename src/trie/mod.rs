//! The lock-striped topic trie: who has subscribed to what, and whom a publish reaches.
//!
//! It holds exact channels, striped by their whole names ([`stripe`]), those published once of late apart
//! ([`fresh`]) or not at all ([`once`]), those published more often until it is their turn to go ([`clock`]); for
//! each, its subscribers and the patterns that match it ([`channel`]); and the patterns ([`patterns`]) in a trie
//! ([`tree`]). The rest of the engine sees none of these locks, only [`Trie`] and what it hands out.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. a stripe: for a moment; under it, turns are only tried, never waited for;
//! 2. a channel's turn: for one publish, or for one joining or leaving;
//! 3. recipients of patterns, in the order of the patterns' numbers;
//! 4. a mailbox (in `inbox`).
//!
//! The locks of two pattern trees, at most, are taken one after the other, alone or in a turn to derive a route. Under
//! them, and in no turn then, the stripe of a name never seen is tried; nothing else is locked, and nobody who has a
//! stripe waits for a tree.
//!
//! User code runs under none of them, a payload's `Clone` excepted, which runs under a turn and the
//! recipients of patterns: every way in here panics when it comes from there ([`reentrancy::assert_not_in_clone`]).

mod channel;

mod patterns;
mod probe_table;
mod recent;
mod recipients;
mod stripe;

use std::mem::{self, ManuallyDrop};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;

pub(crate) use channel::{Channel, Counters, Counts, Derived, Route};
pub(crate) use patterns::PatternEntry;
pub(crate) use recipients::{Recipient, Recipients};

use crate::pattern::Pattern;
use crate::reentrancy::{self, for_each_then_resume};
use crate::source::{Handed, Label, Text};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, MutexGuard, Ordering, fence};
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
    /// The number that the next subscription gets.
    next: AtomicU64,
    /// Channels that have an exact subscriber.
    channels: AtomicUsize,
}

/// A subscription as its subscriber keeps it: where it stands, and its number there.
pub(crate) struct Joined<T> {
    pub(crate) at: Arc<T>,
    pub(crate) number: u64,
}

/// What became of a publish to a name that has no entry.
pub(crate) enum Passed<P> {
    /// Nobody is reached. It is counted.
    Nobody,
    /// One recipient, by this pattern. It is yet to be counted.
    One(Handed<PatternEntry<P>>),
    /// It is to have an entry, for which these patterns may be known.
    Entry(Option<Derived<P>>),
}

/// The bus is closed.
#[derive(Debug)]
pub(crate) struct Closed;

/// A channel's turn, held. When it is given up on a bus that was closed meanwhile, the channel's entry
/// is taken apart: the closing thread did not wait for it.
pub(crate) struct Turn<'a, P> {
    // Dropped in this order: the lock is free when `_after` looks.
    route: MutexGuard<'a, Route<P>>,
    _after: AfterTurn<'a, P>,
}

struct AfterTurn<'a, P> {
    trie: &'a Trie<P>,
    channel: &'a Arc<Channel<P>>,
}

/// The entry of a name that is published to. When it is let go, by unwinding too, the stripe puts a recent
/// name in its place again, if the patterns that match it have changed or it is not to stay.
pub(crate) struct Visited<'a, P> {
    trie: &'a Trie<P>,
    pub(crate) channel: Arc<Channel<P>>,
    /// How many patterns match it, once that is known.
    pub(crate) patterns: Option<usize>,
}

impl<P> Drop for Visited<'_, P> {
    fn drop(&mut self) {
        self.trie.settle(&self.channel, self.patterns);
    }
}

/// The same for an entry that somebody else keeps: what is dropped in the ordinary course is not looked after twice.
pub(crate) struct Visit<'a, P> {
    trie: &'a Trie<P>,
    channel: &'a Arc<Channel<P>>,
}

impl<P> Visit<'_, P> {
    /// Lets the entry go, which so many patterns match.
    #[inline(always)]
    pub(crate) fn end(self, patterns: usize) {
        let this = ManuallyDrop::new(self);
        this.trie.settle(this.channel, Some(patterns));
    }
}

impl<P> Drop for Visit<'_, P> {
    #[cold]
    fn drop(&mut self) {
        self.trie.settle(self.channel, None);
    }
}

/// A turn on its way from one function to another, which resumes it at once: one word.
pub(crate) struct Suspended<'a, P>(MutexGuard<'a, Route<P>>);

impl<'a, P> Turn<'a, P> {
    #[inline(always)]
    pub(crate) fn suspend(self) -> Suspended<'a, P> {
        let Self { route, _after } = self;
        mem::forget(_after);
        Suspended(route)
    }

    /// Gives the turn up.
    #[inline(always)]
    pub(crate) fn end(self) {
        let Self { route, _after } = self;
        drop(route);
        drop(_after);
    }
}

impl<P> Deref for Turn<'_, P> {
    type Target = Route<P>;

    #[inline]
    fn deref(&self) -> &Route<P> {
        &self.route
    }
}

impl<P> DerefMut for Turn<'_, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Route<P> {
        &mut self.route
    }
}

impl<P> Drop for AfterTurn<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.trie.is_closed() {
            self.trie.retire(self.channel);
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

    /// The entry of a name to publish to, if it has one; `None` where the bus is closed, too.
    #[inline(always)]
    pub(crate) fn to_publish(&self, name: &str, hash: u64) -> Option<Arc<Channel<P>>> {
        if self.is_closed() {
            return None;
        }
        self.stripes.find(name, hash, Purpose::Publish)
    }

    /// Begins a visit of an entry that is published to.
    #[inline(always)]
    pub(crate) fn visit<'a>(&'a self, channel: &'a Arc<Channel<P>>) -> Visit<'a, P> {
        Visit { trie: self, channel }
    }

    /// Has an entry put in its place again that was published to, if that is to be looked at.
    #[inline]
    fn settle(&self, channel: &Arc<Channel<P>>, patterns: Option<usize>) {
        if channel.is_unsettled(patterns) {
            self.stripes.weigh(channel);
        }
    }

    /// A publish to a name that was found to have no entry, as far as the trie has to do with it.
    #[inline]
    pub(crate) fn pass(&self, name: &str, hash: u64) -> Passed<P>
    where
        P: Send + 'static,
    {
        if self.is_closed() {
            return Passed::Entry(None);
        }
        let Some(label) = Label::new(name) else {
            return Passed::Entry(Some(Derived::new(name, &self.patterns)));
        };
        let mut asked = None;
        let derived = Derived::with(name, &self.patterns, |most| {
            // One that is to have an entry is not met. And nobody waits for a stripe here, with the locks of pattern
            // trees held: whoever subscribes a pattern waits for those, and everybody else for him.
            if most <= 1 {
                asked = self.stripes.try_meet(hash);
            }
        });
        let met = match asked {
            Some(met) => met,
            None if derived.is_light() => self.stripes.meet(hash),
            None => None,
        };
        let Some(met) = met else { return Passed::Entry(Some(derived)) };
        match met.pass(label, derived) {
            Ok(None) => Passed::Nobody,
            Ok(Some(handed)) => Passed::One(handed),
            Err(derived) => Passed::Entry(Some(derived)),
        }
    }

    /// The entry of a name to publish to, made where there is none; `None` where the bus is closed. `derived` is what
    /// `pass` gave.
    pub(crate) fn enter(
        &self,
        name: &str,
        hash: u64,
        derived: Option<Derived<P>>,
    ) -> Option<Visited<'_, P>>
    where
        P: Send + 'static,
    {
        reentrancy::assert_not_in_clone();
        if self.is_closed() {
            return None;
        }
        let channel = self.stripes.entry(name, hash, Purpose::Publish, &self.patterns, derived)?;
        Some(Visited { trie: self, channel, patterns: None })
    }

    /// Waits for the turn of `channel`. Its route may be detached.
    #[inline]
    pub(crate) fn turn<'a>(&'a self, channel: &'a Arc<Channel<P>>) -> Turn<'a, P> {
        reentrancy::assert_not_in_clone();
        Turn { route: channel.turn(), _after: AfterTurn { trie: self, channel } }
    }

    /// The turn of `channel`, if it is free.
    #[inline]
    pub(crate) fn try_turn<'a>(&'a self, channel: &'a Arc<Channel<P>>) -> Option<Turn<'a, P>> {
        reentrancy::assert_not_in_clone();
        let route = channel.try_turn()?;
        Some(Turn { route, _after: AfterTurn { trie: self, channel } })
    }

    /// Goes on with the turn of `channel`.
    #[inline(always)]
    pub(crate) fn resume<'a>(
        &'a self,
        channel: &'a Arc<Channel<P>>,
        Suspended(route): Suspended<'a, P>,
    ) -> Turn<'a, P> {
        Turn { route, _after: AfterTurn { trie: self, channel } }
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
        let turn = self.turn(channel);
        if turn.is_detached() {
            drop(turn);
            self.stripes.fold(channel.hash, counts);
        } else {
            channel.counters.add(counts);
        }
    }

    /// Counts what a publish did that had no entry, on a closed bus for one.
    pub(crate) fn count_unlisted(&self, hash: u64, counts: Counts) {
        self.stripes.fold(hash, counts);
    }

    /// The same for one that was delivered once.
    #[inline]
    pub(crate) fn count_passed(&self, hash: u64) {
        self.stripes.count_passed(hash);
    }

    /// The entry of a name, kept until `unpin`.
    pub(crate) fn pin(&self, name: &str) -> Arc<Channel<P>>
    where
        P: Send + 'static,
    {
        reentrancy::assert_not_in_clone();
        let hash = self.stripes.hash(name);
        self.stripes
            .entry(name, hash, Purpose::Topic, &self.patterns, None)
            .unwrap_or_else(|| Arc::new(Channel::detached(name, hash)))
    }

    pub(crate) fn unpin(&self, channel: &Arc<Channel<P>>) {
        self.stripes.unpin(channel);
    }

    // ---- subscribing ---------------------------------------------------------------------------

    /// Adds `recipient` to the channel `name`, whose hash is `hash`. `first` runs right before the subscription is live, in
    /// the turn.
    pub(crate) fn join(
        &self,
        name: &str,
        hash: u64,
        recipient: Recipient<P>,
        first: impl FnOnce(&Arc<str>),
    ) -> Result<Joined<Channel<P>>, Closed>
    where
        P: Send + 'static,
    {
        loop {
            let channel = self
                .stripes
                .entry(name, hash, Purpose::Subscribe, &self.patterns, None)
                .ok_or(Closed)?;
            let mut turn = self.turn(&channel);
            if turn.is_detached() {
                continue;
            }
            first(channel.shared_name());
            let number = self.next_number();
            if channel.join(&mut turn, number, recipient) {
                // Relaxed: a mere count.
                self.subscribing.channels.fetch_add(1, Ordering::Relaxed);
            }
            drop(turn);
            return Ok(Joined { at: channel, number });
        }
    }

    /// Ends a subscription. Its recipient comes back, to be dropped under no lock.
    pub(crate) fn leave(&self, joined: &Joined<Channel<P>>) -> Option<Recipient<P>> {
        let channel = &joined.at;
        let mut turn = self.turn(channel);
        let (recipient, last) = channel.leave(&mut turn, joined.number, || {
            // Relaxed: made visible by what follows it. Whoever is to be admitted under a limit counts a
            // channel with no subscriber as new, and must not find its place still taken.
            self.subscribing.channels.fetch_sub(1, Ordering::Relaxed);
        })?;
        drop(turn);
        recipient.settle();
        recipient.inbox.cancel_waits(joined.number);
        if last {
            self.stripes.prune(channel);
        }
        Some(recipient)
    }

    /// Adds `recipient` to `pattern`, whose hash is `hash`. `first` runs right before the subscription
    /// is live, under the lock of the pattern's recipients.
    pub(crate) fn join_pattern(
        &self,
        pattern: &Pattern,
        hash: u64,
        recipient: Recipient<P>,
        first: impl FnOnce(),
    ) -> Result<Joined<PatternEntry<P>>, Closed> {
        reentrancy::assert_not_in_clone();
        let entry = self.patterns.hold(pattern, hash);
        let mut recipients = entry.write();
        // Under the lock: who closes takes it after closing, and then sees this recipient; or before,
        // and then this sees that the bus is closed.
        if self.is_closed() {
            drop(recipients);
            self.released(&entry);
            self.patterns.release(&entry);
            return Err(Closed);
        }
        first();
        let number = self.next_number();
        recipients.push(number, recipient);
        entry.set_len(recipients.len());
        drop(recipients);
        self.released(&entry);
        Ok(Joined { at: entry, number })
    }

    /// Ends a subscription. Its recipient comes back, to be dropped under no lock.
    pub(crate) fn leave_pattern(&self, joined: &Joined<PatternEntry<P>>) -> Option<Recipient<P>> {
        reentrancy::assert_not_in_clone();
        let recipient = {
            let mut recipients = joined.at.write();
            let removed = recipients.remove(joined.number);
            joined.at.set_len(recipients.len());
            removed
        };
        self.released(&joined.at);
        self.patterns.release(&joined.at);
        let recipient = recipient?;
        recipient.settle();
        recipient.inbox.cancel_waits(joined.number);
        Some(recipient)
    }

    fn next_number(&self) -> u64 {
        // Relaxed: numbers of one list are drawn under its lock, which orders them.
        self.subscribing.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Messages that entered by a subscription.
    pub(crate) fn entered(&self, joined: &Joined<Channel<P>>) -> u64 {
        // Relaxed: read under the lock that it is written under.
        self.turn(&joined.at)
            .exact
            .get(joined.number)
            .map_or(0, |recipient| recipient.entered.load(Ordering::Relaxed))
    }

    /// Messages that entered by a subscription.
    pub(crate) fn entered_pattern(&self, joined: &Joined<PatternEntry<P>>) -> u64 {
        reentrancy::assert_not_in_clone();
        // Relaxed: a sum, exact at rest.
        let entered = joined
            .at
            .read()
            .get(joined.number)
            .map_or(0, |recipient| recipient.entered.load(Ordering::Relaxed));
        self.released(&joined.at);
        entered
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
        route.exact.places().iter().flatten().for_each(Recipient::settle);
        taken.push(mem::take(&mut route.exact));
        taken.extend(route.patterns.iter().filter_map(|known| self.shut(known.pattern())));
    }

    /// To be called by whoever has given up the lock of a pattern's recipients outside of a turn: one
    /// who closed the bus meanwhile has found it taken. (A turn's end sees to those held in it.)
    #[inline]
    pub(crate) fn released(&self, entry: &PatternEntry<P>) {
        if self.is_closed() {
            drop(self.shut(entry));
        }
    }

    /// Takes a pattern's recipients, unless someone holds them: then they do this at their end.
    fn shut(&self, entry: &PatternEntry<P>) -> Option<Recipients<P>> {
        let taken = mem::take(&mut *entry.try_write()?);
        taken.places().iter().flatten().for_each(Recipient::settle);
        Some(taken)
    }

    // ---- looking in ----------------------------------------------------------------------------

    /// The entry of a name, if it has one, for a look that brings its route up to date.
    pub(crate) fn find_to_look(&self, name: &str) -> Option<Visited<'_, P>> {
        let channel = self.find(name)?;
        Some(Visited { trie: self, channel, patterns: None })
    }

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
        Derived::new(name, &self.patterns).into_route(&Text::new(name))
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
        self.stripes.counts(|counts| {
            sum.published += counts.published;
            sum.delivered += counts.delivered;
            sum.dropped += counts.dropped;
            sum.evicted += counts.evicted;
        });
        sum
    }
}

/// The pattern tree alone, with its steps counted.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    use super::tree::{End, PatternTree};
    use crate::pattern::Pattern;

    /// A pattern, and which it is.
    #[derive(Clone)]
    struct Numbered(usize, Pattern);

    impl End for Numbered {
        fn code(&self) -> &[u8] {
            self.1.code()
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
        let effort = tree.matches(channel.as_bytes(), |end, unconfirmed| {
            assert!(!matched[end.0], "found twice");
            matched[end.0] = !unconfirmed || end.1.is_match_counting(channel, &mut confirming);
        });
        (matched, effort.steps + confirming)
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
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::bus::Bus;
    use crate::publish::before_waiting;
    use crate::stats::Receipt;
    use crate::subscriber::Subscriber;

    /// The entry of a name that is published to and needs one.
    fn visit<'a>(trie: &'a Trie<u32>, name: &str) -> Option<Visited<'a, u32>> {
        trie.enter(name, trie.hash(name), None)
    }

    /// What a publish does with an entry, the messages apart.
    fn publish(trie: &Trie<u32>, name: &str) -> Arc<Channel<u32>> {
        loop {
            let mut visited = visit(trie, name).unwrap();
            let channel = Arc::clone(&visited.channel);
            let mut turn = trie.turn(&channel);
            if turn.is_detached() {
                continue;
            }
            trie.refresh(&channel, &mut turn);
            visited.patterns = Some(turn.patterns.len());
            drop(turn);
            return channel;
        }
    }

    fn hold(trie: &Trie<u32>, pattern: &str) -> Arc<PatternEntry<u32>> {
        let pattern = Pattern::redis(pattern);
        trie.patterns.hold(&pattern, trie.pattern_hash(&pattern))
    }

    #[test]
    fn a_name_gets_its_entry_when_it_comes_again() {
        let trie = Trie::<u32>::new(4);
        let pass = |name: &str| trie.pass(name, trie.hash(name));
        for i in 0..100 {
            assert!(matches!(pass(&format!("name:{i}")), Passed::Nobody));
        }
        assert_eq!(trie.stripes.census(), (0, 0));
        // One without recipients.
        let entry = hold(&trie, "name:*");
        let Passed::Entry(Some(derived)) = pass("name:99") else { panic!("it came before") };
        drop(trie.enter("name:99", trie.hash("name:99"), Some(derived)).unwrap());
        assert_eq!(trie.stripes.census().0, 1);
        assert!(matches!(pass("name:100"), Passed::Entry(Some(_))), "nobody knows whom it reaches");
        // It has not been met, so it is a fresh name, and no spare entry is taken for it.
        drop(visit(&trie, "name:100").unwrap());
        assert!(trie.stripes.is_fresh("name:100") && !trie.stripes.is_fresh("name:99"));
        // The same where its stripe was locked while it was matched.
        let busy = |name: &str| {
            let _looking = trie.stripes.look(name);
            Derived::with(name, &trie.patterns, |most| {
                assert_eq!(most, 1);
                assert!(trie.stripes.try_meet(trie.hash(name)).is_none());
            })
        };
        assert!(!busy("name:103").is_light());
        entry.set_len(1);
        let Passed::One(handed) = pass("name:101") else { panic!("it is new") };
        assert!(std::ptr::eq(&*handed.pattern, &*entry));
        assert_eq!(handed.source.channel().as_str(), "name:101");
        assert!(matches!(pass("name:101"), Passed::Entry(Some(_))));
        let long = format!("name:{}", "n".repeat(Label::ROOM));
        assert!(matches!(pass(&long), Passed::Entry(Some(_))), "it does not fit into a source");
        trie.shut_down();
        assert!(matches!(pass("name:102"), Passed::Entry(None)));
        trie.take_down();
        // One that was under way when the bus was closed.
        assert!(trie.stripes.meet(trie.hash("name:102")).is_none());
        drop(handed);
        assert!(trie.patterns.release(&entry));
        assert_eq!(Arc::strong_count(&entry), 1, "kept by what came once");
    }

    #[test]
    fn a_visit_has_the_entry_weighed_by_unwinding_too() {
        for panics in [false, true] {
            let trie = Trie::<u32>::new(1);
            (0..3).for_each(|_| _ = publish(&trie, "name:1"));
            hold(&trie, "name:*");
            let channel = trie.to_publish("name:1", trie.hash("name:1")).unwrap();
            let weighed = || channel.weighed.load(Ordering::Relaxed);
            assert!(channel.slot().is_some() && weighed() == 0);
            let visiting = || {
                let visit = trie.visit(&channel);
                let mut turn = trie.turn(&channel);
                trie.refresh(&channel, &mut turn);
                drop(turn);
                if panics {
                    panic!("a payload's Clone");
                }
                visit.end(1);
            };
            let panicked = catch_unwind(AssertUnwindSafe(visiting)).is_err();
            assert_eq!((panicked, weighed()), (panics, 1));
        }
    }

    #[test]
    fn recent_names_are_bounded_in_bytes() {
        let trie = Trie::new(4);
        let most = stripe::RECENT_BYTES;
        for i in 0..100_000 {
            publish(&trie, &format!("once:{i}"));
        }
        let (entries, bytes) = trie.stripes.census();
        assert!(bytes <= most / 4, "{bytes}");
        assert_eq!(entries, recent::probation::NAMES);
        for i in 0..100_000 {
            publish(&trie, &format!("name:{i}"));
            publish(&trie, &format!("name:{i}"));
        }
        let (entries, bytes) = trie.stripes.census();
        assert!(bytes <= most && bytes > most / 2, "{bytes}");
        assert!(entries < 100_000, "{entries}");
        // Patterns that match count too.
        for i in 0..1_000 {
            hold(&trie, &format!("name:*{i}*"));
            hold(&trie, &format!("*{i}"));
        }
        for i in 0..100_000 {
            publish(&trie, &format!("name:{i}"));
        }
        let (fewer, bytes) = trie.stripes.census();
        assert!(bytes <= most, "{bytes}");
        assert!(fewer < entries, "{fewer}");
    }

    #[test]
    fn a_route_that_grows_is_weighed_anew() {
        let trie = Trie::new(1);
        publish(&trie, "name");
        let (_, light) = trie.stripes.census();
        let entries: Vec<_> =
            (0..100).map(|i| hold(&trie, &format!("n*{}", "*e".repeat(i)))).collect();
        publish(&trie, "name");
        let (_, heavy) = trie.stripes.census();
        assert!(heavy > light, "{light} {heavy}");
        for entry in &entries {
            assert!(trie.patterns.release(entry));
        }
    }

    #[test]
    fn a_flood_of_names_does_not_drive_out_those_in_use() {
        let trie = Trie::new(4);
        let hot: Vec<_> = (0..100).map(|i| format!("hot:{i}")).collect();
        (0..2).for_each(|_| hot.iter().for_each(|name| drop(publish(&trie, name))));
        for (i, name) in (0..300_000).zip(hot.iter().cycle()) {
            publish(&trie, &format!("once:{i}"));
            assert!(trie.find(name).is_some(), "after {i}");
            publish(&trie, name);
        }
    }

    #[test]
    fn names_in_use_stay_though_each_comes_late() {
        let trie = Trie::new(4);
        let names: Vec<_> = (0..3_000).map(|i| format!("name:{i}")).collect();
        // So many that each has gone before it comes again.
        (0..4).for_each(|_| names.iter().for_each(|name| drop(publish(&trie, name))));
        let stay = names.iter().filter(|name| trie.find(name).is_some()).count();
        assert!(stay > 2_000, "{stay}");
    }

    #[test]
    fn a_name_whose_room_is_taken_by_a_publish_under_way_is_published_to_at_once() {
        let trie = Trie::<u32>::new(1);
        let long = |c: char| c.to_string().repeat(stripe::RECENT_BYTES * 2 / 3);
        let first = publish(&trie, &long('a'));
        let under_way = trie.turn(&first);
        let second = visit(&trie, &long('b')).unwrap();
        assert!(!second.channel.turn().is_detached(), "taken by the clock before its publish");
        drop(under_way);
        drop(second);
        // The memory is within bounds again when another name comes.
        publish(&trie, "c");
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
    }

    #[test]
    fn names_that_are_all_published_to_at_once_have_their_entries() {
        let trie = Trie::<u32>::new(1);
        let names: Vec<_> =
            (0..2 * recent::probation::NAMES).map(|i| format!("name:{i}")).collect();
        let visited: Vec<_> = names.iter().map(|name| visit(&trie, name).unwrap()).collect();
        for (name, visited) in names.iter().zip(&visited) {
            // Another publisher of the name, and whoever looks it up, comes to the same turn.
            let other = visit(&trie, name).unwrap();
            assert!(Arc::ptr_eq(&other.channel, &visited.channel));
            assert!(Arc::ptr_eq(&trie.find(name).unwrap(), &visited.channel));
        }
        drop(visited);
        assert_eq!(trie.stripes.census().0, names.len());
        (0..100_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
    }

    #[test]
    fn a_fresh_name_is_subscribed_or_held_by_a_topic_as_it_is() {
        let trie = Trie::<u32>::new(1);
        let published = publish(&trie, "name");
        let pinned = trie.pin("name");
        assert!(Arc::ptr_eq(&published, &pinned));
        drop(published);
        // It does not go with those that came with it.
        (0..10_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
        assert!(Arc::ptr_eq(&trie.find("name").unwrap(), &pinned));
        trie.unpin(&pinned);
        assert!(trie.find("name").is_none());
    }

    #[test]
    fn closing_takes_fresh_names_too() {
        let trie = Trie::<u32>::new(4);
        hold(&trie, "name:*");
        let names: Vec<_> = (0..100).map(|i| format!("name:{i}")).collect();
        names.iter().for_each(|name| drop(publish(&trie, name)));
        let late = visit(&trie, "name:1").unwrap();
        let turn = trie.turn(&late.channel);
        trie.shut_down();
        trie.take_down();
        assert_eq!(trie.stripes.census().0, 1, "whose turn is taken");
        drop(turn);
        drop(late);
        assert_eq!(trie.stripes.census(), (0, 0));
        assert!(visit(&trie, "name:2").is_none());
    }

    #[test]
    fn a_name_beyond_the_budget_does_not_stay() {
        let trie = Trie::new(1);
        let name = "n".repeat(stripe::RECENT_BYTES + 1);
        publish(&trie, &name);
        assert_eq!(trie.stripes.census(), (0, 0));
    }

    #[test]
    fn a_route_that_outgrows_the_budget_does_not_stay() {
        let trie = Trie::new(16);
        let names: Vec<_> = (0..64).map(|i| format!("name{i}")).collect();
        names.iter().for_each(|name| drop(publish(&trie, name)));
        for i in 0..2_000 {
            hold(&trie, &format!("n*{}", "*".repeat(i)));
        }
        names.iter().for_each(|name| drop(publish(&trie, name)));
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
    }

    /// Recent names, many patterns that match them all, and `grow` for each: within bounds after that.
    fn names_with_routes_that_grow(grow: impl Fn(&Trie<u32>, &str)) {
        let trie = Trie::new(1);
        let names: Vec<_> = (0..100).map(|i| format!("name{i}")).collect();
        names.iter().for_each(|name| drop(publish(&trie, name)));
        (0..1_000).for_each(|i| drop(hold(&trie, &format!("n*{}", "*".repeat(i)))));
        names.iter().for_each(|name| grow(&trie, name));
        let routes: usize = names
            .iter()
            .filter_map(|name| trie.find(name))
            .map(|channel| channel.turn().patterns.len())
            .sum();
        assert!(routes > 0 && routes * size_of::<usize>() * 6 <= stripe::RECENT_BYTES, "{routes}");
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
    }

    #[test]
    fn a_look_at_what_matches_is_weighed_too() {
        names_with_routes_that_grow(|trie, name| {
            // One whose set was full has gone.
            let Some(mut visited) = trie.find_to_look(name) else { return };
            let channel = Arc::clone(&visited.channel);
            let mut turn = trie.turn(&channel);
            trie.refresh_to_look(&channel, &mut turn);
            visited.patterns = Some(turn.patterns.len());
            drop(turn);
        });
    }

    #[test]
    fn a_route_that_grows_in_a_publish_that_panics_is_weighed_too() {
        names_with_routes_that_grow(|trie, name| {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let visited = visit(trie, name).unwrap();
                let mut turn = trie.turn(&visited.channel);
                trie.refresh(&visited.channel, &mut turn);
                // As a payload's `Clone` does.
                std::panic::resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
        });
    }

    #[test]
    fn an_entry_that_is_out_of_the_table_does_not_come_into_the_clock() {
        let trie = Trie::<u32>::new(1);
        let pinned = trie.pin("x");
        let one = visit(&trie, "x").unwrap();
        let other = visit(&trie, "x").unwrap();
        trie.unpin(&pinned);
        assert_eq!(trie.stripes.census(), (0, 0));
        // Another publisher looks whether it is detached while the first one lets go of it.
        let looking = other.channel.turn();
        drop(one);
        drop(looking);
        assert_eq!(trie.stripes.census(), (0, 0));
        drop(other);
        // The hand goes around.
        (0..10_000).for_each(|i| drop(publish(&trie, &format!("name:{i}"))));
    }

    #[test]
    fn entries_whose_turn_is_taken_when_they_are_given_up_are_bounded_too() {
        let trie = Trie::<u32>::new(1);
        let give_up = |name: &str| {
            let pinned = trie.pin(name);
            let visited = visit(&trie, name).unwrap();
            let turn = visited.channel.turn();
            trie.unpin(&pinned);
            drop(turn);
        };
        (0..20_000).for_each(|i| give_up(&format!("topic:{i}")));
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
        // The last of those that are too large stays until another name comes, no more of them; one that is held
        // drives out nobody either.
        let long = "n".repeat(stripe::RECENT_BYTES);
        // Names in use, which are past the ring of the new ones.
        let names: Vec<_> = (0..100).map(|i| format!("name:{i}")).collect();
        (0..2).for_each(|_| names.iter().for_each(|name| drop(publish(&trie, name))));
        (0..5_000).for_each(|i| drop(publish(&trie, &format!("once:{i}"))));
        let before = trie.stripes.census().0;
        (0..20).for_each(|i| give_up(&format!("{i}{long}")));
        assert_eq!(trie.stripes.census().0, before + 1);
        assert!(names.iter().all(|name| trie.find(name).is_some()), "driven out by one too large");
        let held: Vec<_> = trie.find(&format!("19{long}")).into_iter().collect();
        assert_eq!(held.len(), 1);
        (0..5_000).for_each(|i| drop(publish(&trie, &format!("again:{i}"))));
        assert!(
            names.iter().all(|name| trie.find(name).is_some()),
            "driven out by one that is held"
        );
        drop(held);
        publish(&trie, "another");
        assert!(trie.stripes.census().1 <= stripe::RECENT_BYTES);
    }

    #[test]
    fn tables_follow_what_is_there() {
        let trie = Trie::<u32>::new(4);
        let topics: Vec<_> = (0..20_000).map(|i| trie.pin(&format!("topic:{i}"))).collect();
        assert!(trie.stripes.places() >= 20_000);
        topics.iter().for_each(|channel| trie.unpin(channel));
        assert!(trie.stripes.places() < 10_000, "{}", trie.stripes.places());
    }

    #[test]
    fn a_topic_leaves_nothing() {
        let trie = Trie::<u32>::new(4);
        for i in 0..1_000 {
            let channel = trie.pin(&format!("topic:{i}"));
            assert_eq!(trie.stripes.census().0, 1);
            trie.unpin(&channel);
        }
        assert_eq!(trie.stripes.census(), (0, 0));
    }

    #[test]
    fn a_pattern_of_another_beginning_spoils_no_route() {
        let trie = Trie::<u32>::new(4);
        let stamp = || trie.patterns.stamp(b"hot:channel");
        hold(&trie, "hot:*");
        let before = stamp();
        // A beginning whose row of counters is another's: with 64 rows, most are.
        let unrelated = (0..20).filter(|i| {
            let old = stamp();
            (0..500).for_each(|j| drop(hold(&trie, &format!("{i:02}churn:{j}:*"))));
            Patterns::<u32>::holds(old, stamp())
        });
        assert!(unrelated.count() > 10);
        assert!(!trie.patterns.unchanged_since(before));
        for related in ["*", "?ot*", "h*", "ho?", "hot:chan*", "hot:channel"] {
            let old = stamp();
            hold(&trie, related);
            assert!(!Patterns::<u32>::holds(old, stamp()), "{related}");
        }
    }

    /// A payload whose `Clone` panics if it is odd.
    struct Brittle(u32);

    impl Clone for Brittle {
        fn clone(&self) -> Self {
            assert!(self.0.is_multiple_of(2), "a clone");
            Self(self.0)
        }
    }

    /// A bus on which `name` has been published to recently.
    fn bus_with_recent(name: &str) -> Bus<Brittle> {
        let bus = Bus::builder().capacity(1).stripes(1).build();
        (0..3).for_each(|_| _ = bus.publish(name, Brittle(0)));
        assert_eq!(weighed(&bus, name), 0);
        bus
    }

    /// How many patterns the memory of a recent name is thought to take.
    fn weighed(bus: &Bus<Brittle>, name: &str) -> usize {
        let channel = bus.engine.trie.find(name).unwrap();
        assert!(channel.slot().is_some(), "not a recent name");
        channel.weighed.load(Ordering::Relaxed)
    }

    /// A subscriber of this number of patterns that match `name`.
    fn subscribe_patterns(bus: &Bus<Brittle>, count: usize) -> Subscriber<Brittle> {
        let sub = bus.subscriber();
        (0..count).for_each(|i| _ = sub.psubscribe(format!("n*{}", "*".repeat(i))).unwrap());
        sub
    }

    /// Calls `publish` while another thread has the turn of `name`, which gives it up once the publish has found it
    /// taken and has run `meanwhile`.
    fn publish_when_the_turn_is_taken<T>(
        bus: &Bus<Brittle>,
        name: &str,
        meanwhile: impl FnOnce() + 'static,
        publish: impl FnOnce() -> T,
    ) -> T {
        let channel = bus.engine.trie.find(name).unwrap();
        let ((taken, is_taken), (wanted, is_wanted)) = (mpsc::channel(), mpsc::channel::<()>());
        let holder = thread::spawn(move || {
            let turn = channel.turn();
            taken.send(()).unwrap();
            is_wanted.recv().unwrap();
            drop(turn);
        });
        is_taken.recv().unwrap();
        before_waiting::set(move || {
            meanwhile();
            wanted.send(()).unwrap();
        });
        let published = publish();
        assert!(before_waiting::has_run(), "the turn was not found taken");
        holder.join().unwrap();
        published
    }

    #[test]
    fn a_publish_by_name_weighs_the_patterns_that_have_come_and_gone_since_the_last() {
        type Publish = fn(&Bus<Brittle>);
        let publishes: [(&str, Publish); 5] = [
            ("plain", |bus| _ = bus.publish("name", Brittle(0))),
            ("into full inboxes", |bus| {
                (0..3).for_each(|_| _ = bus.publish("name", Brittle(0)));
            }),
            ("with a closure", |bus| _ = bus.publish_with("name", || Brittle(0))),
            ("when the turn is taken", |bus| {
                let publish = || bus.publish("name", Brittle(0));
                publish_when_the_turn_is_taken(bus, "name", || (), publish);
            }),
            ("not published, but counted", |bus| _ = bus.match_count("name")),
        ];
        for (how, publish) in publishes {
            for count in [1, 2, 7] {
                let bus = bus_with_recent("name");
                let sub = subscribe_patterns(&bus, count);
                publish(&bus);
                assert_eq!(weighed(&bus, "name"), count, "{how}");
                // Nothing has changed.
                publish(&bus);
                assert_eq!(weighed(&bus, "name"), count, "{how}");
                let other = subscribe_patterns(&bus, count + 1);
                publish(&bus);
                assert_eq!(weighed(&bus, "name"), count + 1, "{how}");
                drop((sub, other));
                publish(&bus);
                let holds = bus.engine.trie.find("name").unwrap().turn().patterns.len();
                assert_eq!(weighed(&bus, "name"), holds, "{how}: they have gone");
                // A publish that reaches nobody lets go of them.
                bus.publish("name", Brittle(0));
                publish(&bus);
                assert_eq!(weighed(&bus, "name"), 0, "{how}: they have been let go");
            }
        }
    }

    #[test]
    fn a_publish_weighs_patterns_that_its_closure_has_subscribed() {
        let bus = bus_with_recent("name");
        let _sub = subscribe_patterns(&bus, 1);
        let mut more = None;
        bus.publish_with("name", || {
            more = Some(subscribe_patterns(&bus, 5));
            Brittle(0)
        });
        assert_eq!(weighed(&bus, "name"), 5);
    }

    #[test]
    fn a_publish_whose_payload_s_clone_panics_weighs_the_patterns_too() {
        let bus = bus_with_recent("name");
        let _subs = [subscribe_patterns(&bus, 5), subscribe_patterns(&bus, 5)];
        let unwound = catch_unwind(AssertUnwindSafe(|| bus.publish("name", Brittle(1))));
        assert!(unwound.is_err());
        assert_eq!(weighed(&bus, "name"), 5);
    }

    #[test]
    fn a_publish_that_waits_for_its_turn_while_the_bus_is_closed_reaches_nobody_and_is_counted() {
        type Publish = fn(&Bus<Brittle>) -> Receipt;
        let publishes: [(&str, Publish); 2] = [
            ("by name", |bus| bus.publish("name", Brittle(0))),
            ("through a topic", |bus| bus.topic("name").publish(Brittle(0))),
        ];
        for (how, publish) in publishes {
            let bus = bus_with_recent("name");
            let sub = bus.subscribe("name").unwrap();
            let queue = sub.receiver().clone();
            let before = bus.stats().published;
            let closing = bus.clone();
            let meanwhile = move || closing.close();
            let receipt = publish_when_the_turn_is_taken(&bus, "name", meanwhile, || publish(&bus));
            assert_eq!(receipt, Receipt::default(), "{how}");
            assert!(bus.is_closed() && queue.is_empty());
            assert_eq!(bus.stats().published, before + 1, "{how}");
        }
    }

    #[test]
    fn a_publish_that_finds_the_turn_taken_on_a_closed_bus_does_not_wait_and_is_counted() {
        let bus = bus_with_recent("name");
        let topic = bus.topic("name");
        let channel = bus.engine.trie.find("name").unwrap();
        let before = bus.stats().published;
        let turn = channel.turn();
        bus.close();
        assert_eq!(topic.publish(Brittle(0)), Receipt::default());
        drop(turn);
        assert_eq!(bus.stats().published, before + 1);
    }

    #[test]
    fn whoever_has_the_turn_when_the_bus_is_closed_takes_the_entry_apart_at_its_end() {
        type End = fn(Turn<'_, Brittle>, &Trie<Brittle>, &Arc<Channel<Brittle>>);
        let ends: [(&str, End); 3] = [
            ("ended", |turn, _, _| turn.end()),
            ("dropped", |turn, _, _| drop(turn)),
            ("handed on, and ended", |turn, trie, channel| {
                trie.resume(channel, turn.suspend()).end();
            }),
        ];
        for (how, end) in ends {
            let bus: Bus<Brittle> = Bus::new();
            let trie = &bus.engine.trie;
            let sub = bus.subscribe("name").unwrap();
            let queue = sub.receiver().clone();
            let channel = trie.find("name").unwrap();
            let turn = trie.turn(&channel);
            bus.close();
            let is_disconnected =
                || matches!(queue.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
            assert!(!is_disconnected(), "{how}: closing waits for no turn");
            end(turn, trie, &channel);
            assert!(is_disconnected(), "{how}");
            assert_eq!(trie.stripes.census(), (0, 0), "{how}");
        }
    }
}
