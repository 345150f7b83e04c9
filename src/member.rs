//! A subscriber's membership on the bus: what it has subscribed to, and the keeping of both sides in
//! step, the trie's and the inbox's.
//!
//! One lock is taken in this module, that of what is held; the trie's are taken under it, and a
//! publish never takes it inside a turn. All changes of one subscriber are in the order of its calls
//! because of it.

use std::mem;
use std::sync::Arc;

use hashbrown::{HashSet, HashTable};
use smallvec::SmallVec;

use crate::engine::Engine;
use crate::error::SubscribeError;
use crate::inbox::{Change, Inbox, Settings};
use crate::pattern::Pattern;
use crate::reentrancy;
use crate::stats::{CloseReason, SubscriberInfo};
use crate::sync::Mutex;
use crate::trie::{Channel, Joined, PatternEntry, Recipient};

/// See the module's documentation. Shared by the clones of a subscriber; the last one ends it.
pub(crate) struct Member<P> {
    pub(crate) engine: Arc<Engine<P>>,
    pub(crate) inbox: Arc<Inbox<P>>,
    held: Mutex<Held<P>>,
}

/// What a subscriber holds.
pub(crate) struct Held<P> {
    channels: Subscriptions<Channel<P>>,
    patterns: Subscriptions<PatternEntry<P>>,
    /// Whether the bus counts it among its subscribers.
    counted: bool,
}

impl<P> Default for Held<P> {
    fn default() -> Self {
        Self {
            channels: Subscriptions::default(),
            patterns: Subscriptions::default(),
            counted: false,
        }
    }
}

impl<P> Held<P> {
    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

impl<P> Member<P> {
    /// A member of `core` that holds nothing, registered under the inbox's number.
    pub(crate) fn new(engine: &Arc<Engine<P>>, settings: Settings) -> Arc<Self> {
        let inbox = Inbox::new(engine.next_member(), settings, Arc::clone(&engine.discarded));
        let member = Arc::new(Self {
            engine: Arc::clone(engine),
            inbox: Arc::new(inbox),
            held: Mutex::new(Held::default()),
        });
        engine.register(&member);
        // After it is registered: who closes the bus either finds it or is seen here.
        if engine.trie.is_closed() {
            member.close(CloseReason::Bus);
        }
        member
    }
}

impl<P: Send + 'static> Member<P> {
    /// Subscribes to all of `names`, or to none.
    pub(crate) fn subscribe(&self, names: &[&str]) -> Result<usize, SubscribeError> {
        let engine = &*self.engine;
        engine.check_reentrancy();
        let limit = engine.limits.max_channel_len;
        if names.iter().any(|name| name.len() > limit) {
            return Err(SubscribeError::ChannelTooLong { limit });
        }
        let mut held = self.held.lock();
        let sender = self.inbox.sender().ok_or(SubscribeError::Closed)?;
        let hashes: Vec<u64> = names.iter().map(|name| engine.trie.hash(name)).collect();
        let mut fresh: SmallVec<[&str; 1]> = SmallVec::new();
        for (&name, &hash) in names.iter().zip(&hashes) {
            if held.channels.get(hash, |channel| channel.name() == name).is_none() {
                fresh.push(name);
            }
        }
        dedup(&mut fresh);
        let admission = engine.limits.bound_the_bus().then(|| engine.admission.lock());
        self.admit(&held, fresh.len())?;
        let limit = engine.limits.max_channels;
        if limit != usize::MAX {
            let taken =
                |name: &&&str| engine.trie.find(name).is_some_and(|at| at.subscribers() > 0);
            let new = fresh.iter().filter(|name| !taken(name)).count();
            if engine.trie.channel_count() + new > limit {
                return Err(SubscribeError::TooManyChannels { limit });
            }
        }
        self.count_in(&mut held, fresh.len());
        for (&name, &hash) in names.iter().zip(&hashes) {
            let count = held.count();
            if let Some(joined) = held.channels.get(hash, |channel| channel.name() == name) {
                self.inbox
                    .push_event(|| Change::Subscribed(Arc::clone(joined.at.shared_name())), count);
                continue;
            }
            let recipient = Recipient::new(sender.clone(), Arc::clone(&self.inbox));
            let joined = engine
                .trie
                .join(name, hash, recipient, |name| {
                    self.inbox.push_event(|| Change::Subscribed(Arc::clone(name)), count + 1);
                })
                .map_err(|_| SubscribeError::Closed)?;
            held.channels.insert(joined);
        }
        drop(admission);
        Ok(held.count())
    }
}

impl<P> Member<P> {
    /// Subscribes to all of `patterns`, or to none.
    pub(crate) fn psubscribe(&self, patterns: &[Pattern]) -> Result<usize, SubscribeError> {
        let engine = &*self.engine;
        engine.check_reentrancy();
        let limit = engine.limits.max_pattern_len;
        if patterns.iter().any(|pattern| pattern.as_str().len() > limit) {
            return Err(SubscribeError::PatternTooLong { limit });
        }
        let mut held = self.held.lock();
        let sender = self.inbox.sender().ok_or(SubscribeError::Closed)?;
        let hashes: SmallVec<[u64; 1]> =
            patterns.iter().map(|pattern| engine.trie.pattern_hash(pattern)).collect();
        let mut fresh: SmallVec<[&Pattern; 1]> = SmallVec::new();
        for (pattern, &hash) in patterns.iter().zip(&hashes) {
            if held.patterns.get(hash, |entry| entry.pattern == *pattern).is_none() {
                fresh.push(pattern);
            }
        }
        dedup(&mut fresh);
        let admission = engine.limits.bound_the_bus().then(|| engine.admission.lock());
        self.admit(&held, fresh.len())?;
        let limit = engine.limits.max_patterns;
        if limit != usize::MAX {
            let new = fresh.iter().filter(|pattern| !engine.trie.has_pattern(pattern)).count();
            if engine.trie.pattern_count() + new > limit {
                return Err(SubscribeError::TooManyPatterns { limit });
            }
        }
        self.count_in(&mut held, fresh.len());
        for (pattern, &hash) in patterns.iter().zip(&hashes) {
            let count = held.count();
            if let Some(joined) = held.patterns.get(hash, |entry| entry.pattern == *pattern) {
                self.inbox.push_event(|| Change::PSubscribed(joined.at.pattern.clone()), count);
                continue;
            }
            let recipient = Recipient::new(sender.clone(), Arc::clone(&self.inbox));
            let joined = engine
                .trie
                .join_pattern(pattern, hash, recipient, || {
                    self.inbox.push_event(|| Change::PSubscribed(pattern.clone()), count + 1);
                })
                .map_err(|_| SubscribeError::Closed)?;
            held.patterns.insert(joined);
        }
        drop(admission);
        Ok(held.count())
    }

    /// Checks the limits that are the same for channels and patterns.
    fn admit(&self, held: &Held<P>, fresh: usize) -> Result<(), SubscribeError> {
        let limit = self.engine.limits.max_subscriptions;
        if fresh > 0 && held.count() + fresh > limit {
            return Err(SubscribeError::TooManySubscriptions { limit });
        }
        let limit = self.engine.limits.max_subscribers;
        if fresh > 0 && !held.counted && self.engine.subscribers() >= limit {
            return Err(SubscribeError::TooManySubscribers { limit });
        }
        Ok(())
    }

    fn count_in(&self, held: &mut Held<P>, fresh: usize) {
        if fresh > 0 && !held.counted {
            held.counted = true;
            self.engine.count_subscriber();
        }
    }

    /// Unsubscribes from the channel `name`; how many subscriptions are still held.
    pub(crate) fn unsubscribe(&self, name: &str) -> usize {
        self.engine.check_reentrancy();
        let mut held = self.held.lock();
        if self.inbox.is_closed() {
            return 0;
        }
        let hash = self.engine.trie.hash(name);
        match held.channels.remove(hash, |channel| channel.name() == name) {
            Some(joined) => self.leave(&joined, held.count()),
            None => self.inbox.push_event(|| Change::Unsubscribed(Arc::from(name)), held.count()),
        }
        held.count()
    }

    /// Unsubscribes from `pattern`; how many subscriptions are still held.
    pub(crate) fn punsubscribe(&self, pattern: &Pattern) -> usize {
        self.engine.check_reentrancy();
        let mut held = self.held.lock();
        if self.inbox.is_closed() {
            return 0;
        }
        let hash = self.engine.trie.pattern_hash(pattern);
        match held.patterns.remove(hash, |entry| entry.pattern == *pattern) {
            Some(joined) => self.leave_pattern(&joined, held.count()),
            None => self.inbox.push_event(|| Change::PUnsubscribed(pattern.clone()), held.count()),
        }
        held.count()
    }

    /// Unsubscribes from all channels, in the order they were subscribed; how many patterns are left.
    pub(crate) fn unsubscribe_all(&self) -> usize {
        self.engine.check_reentrancy();
        let mut held = self.held.lock();
        if self.inbox.is_closed() {
            return 0;
        }
        let all = held.channels.take();
        let kept = held.count();
        for (at, joined) in all.iter().enumerate() {
            self.leave(joined, kept + all.len() - 1 - at);
        }
        kept
    }

    /// Unsubscribes from all patterns, in the order they were subscribed; how many channels are left.
    pub(crate) fn punsubscribe_all(&self) -> usize {
        self.engine.check_reentrancy();
        let mut held = self.held.lock();
        if self.inbox.is_closed() {
            return 0;
        }
        let all = held.patterns.take();
        let kept = held.count();
        for (at, joined) in all.iter().enumerate() {
            self.leave_pattern(joined, kept + all.len() - 1 - at);
        }
        kept
    }

    /// Ends a subscription that is no longer held; so many are.
    fn leave(&self, joined: &Joined<Channel<P>>, held: usize) {
        self.engine.trie.leave(joined);
        self.inbox.push_event(|| Change::Unsubscribed(Arc::clone(joined.at.shared_name())), held);
    }

    /// Ends a subscription that is no longer held; so many are.
    fn leave_pattern(&self, joined: &Joined<PatternEntry<P>>, held: usize) {
        self.engine.trie.leave_pattern(joined);
        self.inbox.push_event(|| Change::PUnsubscribed(joined.at.pattern.clone()), held);
    }

    /// Closes the inbox and gives up every subscription, without lifecycle events. `true` if it was open.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let was_open = self.inbox.close(reason);
        release(&self.engine, &mut self.held.lock());
        was_open
    }

    /// Channels held, in the order they were subscribed.
    pub(crate) fn channels(&self) -> Vec<Arc<str>> {
        self.engine.check_reentrancy();
        let held = self.held.lock();
        if self.inbox.is_closed() {
            return Vec::new();
        }
        held.channels.in_order().iter().map(|joined| Arc::clone(joined.at.shared_name())).collect()
    }

    /// Patterns held, in the order they were subscribed.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        self.engine.check_reentrancy();
        let held = self.held.lock();
        if self.inbox.is_closed() {
            return Vec::new();
        }
        held.patterns.in_order().iter().map(|joined| joined.at.pattern.clone()).collect()
    }

    /// Whether the bus counts it among its subscribers.
    pub(crate) fn is_counted(&self) -> bool {
        self.held.lock().counted
    }

    pub(crate) fn info(&self) -> SubscriberInfo {
        self.engine.check_reentrancy();
        let held = self.held.lock();
        let inbox = &self.inbox;
        let trie = &self.engine.trie;
        let entered = inbox.entered()
            + held.channels.iter().map(|joined| trie.entered(joined)).sum::<u64>()
            + held.patterns.iter().map(|joined| trie.entered_pattern(joined)).sum::<u64>();
        let closed = inbox.is_closed();
        let depth = inbox.depth();
        SubscriberInfo {
            label: inbox.settings().label.clone(),
            channels: if closed { 0 } else { held.channels.len() },
            patterns: if closed { 0 } else { held.patterns.len() },
            depth,
            capacity: inbox.settings().capacity,
            high_water: inbox.high_water(),
            // What is on its way may have been counted at one end only.
            received: entered.saturating_sub(inbox.evicted() + depth as u64),
            missed: inbox.missed(),
        }
    }
}

impl<P> Drop for Member<P> {
    fn drop(&mut self) {
        self.inbox.close(CloseReason::Subscriber);
        self.engine.unregister(self.inbox.member());
        let held = self.held.get_mut();
        if reentrancy::is_in_clone() {
            // Dropped by a payload's `Clone`: leaving a channel could wait for the very turn that this
            // thread is in.
            self.engine.defer(mem::take(held), Arc::clone(&self.inbox));
        } else {
            release(&self.engine, held);
        }
    }
}

/// Gives up all that `held` holds.
pub(crate) fn release<P>(engine: &Engine<P>, held: &mut Held<P>) {
    for joined in held.channels.take() {
        engine.trie.leave(&joined);
    }
    for joined in held.patterns.take() {
        engine.trie.leave_pattern(&joined);
    }
    if mem::take(&mut held.counted) {
        engine.uncount_subscriber();
    }
}

/// Keeps the first of equal names.
fn dedup<T: Copy + Eq + std::hash::Hash>(names: &mut SmallVec<[T; 1]>) {
    if names.len() > 1 {
        let mut seen: HashSet<T, foldhash::fast::RandomState> = HashSet::default();
        names.retain(|name| seen.insert(*name));
    }
}

/// What can be subscribed to, for the table below.
pub(crate) trait Subscribable {
    fn hash(&self) -> u64;
}

impl<P> Subscribable for Channel<P> {
    fn hash(&self) -> u64 {
        self.hash
    }
}

impl<P> Subscribable for PatternEntry<P> {
    fn hash(&self) -> u64 {
        self.hash
    }
}

/// A subscriber's subscriptions of one kind: a short list, and a table when they are many.
enum Subscriptions<T> {
    Few(SmallVec<[Joined<T>; 1]>),
    Many(Box<HashTable<Joined<T>>>),
}

/// How many subscriptions are searched one by one.
const FEW: usize = 8;

impl<T> Default for Subscriptions<T> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<T: Subscribable> Subscriptions<T> {
    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn get(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&Joined<T>> {
        match self {
            Self::Few(few) => few.iter().find(|joined| is_it(&joined.at)),
            Self::Many(many) => many.find(hash, |joined| is_it(&joined.at)),
        }
    }

    fn insert(&mut self, joined: Joined<T>) {
        if let Self::Few(few) = self {
            if few.len() < FEW {
                few.push(joined);
                return;
            }
            let mut many = HashTable::with_capacity(2 * FEW);
            for joined in few.drain(..) {
                many.insert_unique(joined.at.hash(), joined, |joined| joined.at.hash());
            }
            *self = Self::Many(Box::new(many));
        }
        if let Self::Many(many) = self {
            many.insert_unique(joined.at.hash(), joined, |joined| joined.at.hash());
        }
    }

    fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<Joined<T>> {
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|joined| is_it(&joined.at))?;
                Some(few.remove(at))
            }
            Self::Many(many) => {
                let entry = many.find_entry(hash, |joined| is_it(&joined.at)).ok()?;
                let (joined, _) = entry.remove();
                if many.is_empty() {
                    *self = Self::default();
                } else if many.len() < many.capacity() / 4 {
                    let room = many.len() * 2;
                    many.shrink_to(room, |joined| joined.at.hash());
                }
                Some(joined)
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Joined<T>> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few.iter()), None),
            Self::Many(many) => (None, Some(many.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// In the order they were subscribed.
    fn in_order(&self) -> Vec<&Joined<T>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|joined| joined.number);
        all
    }

    /// All of them, in the order they were subscribed.
    fn take(&mut self) -> SmallVec<[Joined<T>; 1]> {
        let mut all = match mem::take(self) {
            Self::Few(few) => few,
            Self::Many(mut many) => many.drain().collect(),
        };
        all.sort_unstable_by_key(|joined| joined.number);
        all
    }
}
