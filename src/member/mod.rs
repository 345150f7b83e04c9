//! A subscriber's membership of a bus: what it has subscribed to.
//!
//! A member keeps the two sides of each subscription in step: the recipient in the trie, and the lifecycle events in
//! the inbox. It does not deliver messages, and does not receive them.
//!
//! It owns one lock, that of its [`Subscriptions`]. All changes of one member happen in the order of its calls because
//! of it. The engine's `limit_check` and the trie's locks are taken under it. A publish never takes it in a turn.

mod kind;
mod subscription_set;

use std::borrow::Borrow;
use std::mem;
use std::sync::{Arc, Weak};

use hashbrown::HashSet;
use smallvec::SmallVec;

use crate::engine::{Engine, Registered, RetiredParts};
use crate::error::SubscribeError;
use crate::inbox::{Inbox, Settings};
use crate::pattern::Pattern;
use crate::reentrancy;
use crate::stats::{CloseReason, SubscriberInfo};
use crate::sync::Mutex;
use crate::trace;
use crate::trie::{Channel, PatternEntry, Recipient, Subscription};
use crate::wakeups;
pub(crate) use kind::Kind;
use subscription_set::SubscriptionSet;

/// See the module's documentation. The clones of a subscriber share one; it is dropped with the last of them.
pub(crate) struct Member<P> {
    pub(crate) engine: Arc<Engine<P>>,
    pub(crate) inbox: Arc<Inbox<P>>,
    subscriptions: Mutex<Subscriptions<P>>,
}

/// What a member has subscribed to.
pub(crate) struct Subscriptions<P> {
    channels: SubscriptionSet<Channel<P>>,
    patterns: SubscriptionSet<PatternEntry<P>>,
    /// `true` if the registry counts the member: from its first subscription until it is closed.
    is_counted: bool,
}

impl<P> Default for Subscriptions<P> {
    fn default() -> Self {
        Self {
            channels: SubscriptionSet::default(),
            patterns: SubscriptionSet::default(),
            is_counted: false,
        }
    }
}

impl<P> Subscriptions<P> {
    /// Returns the number of channels and patterns.
    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Returns which of `keys` are not subscribed, each once, in order.
    fn missing<'a, T: Kind<Payload = P>>(
        &self,
        keys: &[(&'a T::Key, u64)],
    ) -> SmallVec<[&'a T::Key; 1]> {
        let set = T::set(self);
        let is_missing = |&&(key, hash): &&(&T::Key, u64)| set.get(key, hash).is_none();
        let mut missing: SmallVec<[&T::Key; 1]> =
            keys.iter().filter(is_missing).map(|&(key, _)| key).collect();
        if missing.len() > 1 {
            let mut seen: HashSet<&T::Key, foldhash::fast::RandomState> = HashSet::default();
            missing.retain(|key| seen.insert(key));
        }
        missing
    }

    /// Returns the keys of one kind, in the order in which they were subscribed.
    fn keys<T: Kind<Payload = P>>(&self) -> Vec<T::OwnedKey> {
        T::set(self).in_order().into_iter().map(|subscription| subscription.entry.key()).collect()
    }

    /// Takes everything, to be released.
    fn retire(&mut self, inbox: &Arc<Inbox<P>>) -> RetiredParts<P> {
        RetiredParts {
            channels: self.channels.take(),
            patterns: self.patterns.take(),
            is_counted: mem::take(&mut self.is_counted),
            inbox: Arc::clone(inbox),
        }
    }
}

impl<P: Send + 'static> Member<P> {
    /// Returns a new member of the bus, which has subscribed to nothing.
    pub(crate) fn new(engine: &Arc<Engine<P>>, settings: Settings) -> Arc<Self> {
        let id = engine.registry.next_id();
        let inbox = Inbox::new(id, settings, Arc::clone(&engine.discarded));
        let member = Arc::new(Self {
            engine: Arc::clone(engine),
            inbox: Arc::new(inbox),
            subscriptions: Mutex::new(Subscriptions::default()),
        });
        let registered: Weak<Self> = Arc::downgrade(&member);
        engine.registry.insert(id, registered);
        // After it is registered: a thread that closes the bus finds it, or is noticed here.
        if engine.trie.is_closed() {
            member.close(CloseReason::Bus);
        }
        member
    }

    /// Subscribes to all of `keys`, in order, or to none of them. Returns the number of subscriptions held after it.
    pub(crate) fn subscribe<T: Kind<Payload = P>>(
        &self,
        keys: &[impl Borrow<T::Key>],
    ) -> Result<usize, SubscribeError> {
        self.subscribe_with::<T>(keys, || ())
    }

    /// Subscribes like [`subscribe`](Self::subscribe), and calls `before` for each key when nothing can fail any more,
    /// before its first message can come. `before` runs under locks: it may run no user code.
    pub(crate) fn subscribe_with<T: Kind<Payload = P>>(
        &self,
        keys: &[impl Borrow<T::Key>],
        mut before: impl FnMut(),
    ) -> Result<usize, SubscribeError> {
        let engine = &*self.engine;
        engine.check_reentrancy();
        for key in keys {
            T::check_len(key.borrow(), &engine.limits)?;
        }
        let _wakeups = wakeups::CallOnDrop;
        let mut held = self.subscriptions.lock();
        let sender = self.inbox.sender().ok_or(SubscribeError::Closed)?;
        let with_hash = |key: &T::Key| T::hash_key(&engine.trie, key);
        let hashed: SmallVec<[(&T::Key, u64); 1]> =
            keys.iter().map(Borrow::borrow).map(|key| (key, with_hash(key))).collect();
        let missing = held.missing::<T>(&hashed);
        let limit_check = engine.limits.span_subscribers().then(|| engine.limit_check.lock());
        if !missing.is_empty() {
            self.check_limits::<T>(&held, &missing)?;
            if !mem::replace(&mut held.is_counted, true) {
                engine.registry.count_subscriber();
            }
        }
        let mut has_begun = false;
        for (key, hash) in hashed {
            let count = held.count();
            if let Some(subscription) = T::set(&held).get(key, hash) {
                before();
                self.inbox.push_event(|| T::SUBSCRIBED(subscription.entry.key()), count);
                has_begun = true;
                continue;
            }
            let recipient = Recipient::new(sender.clone(), Arc::clone(&self.inbox));
            let tell = |entry: &T| {
                before();
                self.inbox.push_event(|| T::SUBSCRIBED(entry.key()), count + 1);
            };
            match engine.trie.join(key, hash, recipient, tell) {
                Ok(subscription) => T::set_mut(&mut held).insert(subscription),
                Err(_) if !has_begun => return Err(SubscribeError::Closed),
                // The bus is being closed. The first event cannot be taken back, so all of this came before it.
                Err(_) => break,
            }
            has_begun = true;
        }
        // Held until all are counted.
        drop(limit_check);
        let count = held.count();
        drop(held);
        for key in keys {
            let key: &T::Key = key.borrow();
            trace::subscribed(self.inbox.member_id(), self.inbox.settings(), &key, count);
        }
        Ok(count)
    }

    /// Checks that no limit on counts forbids to subscribe to the keys `missing`, of which there is at least one.
    fn check_limits<T: Kind<Payload = P>>(
        &self,
        held: &Subscriptions<P>,
        missing: &[&T::Key],
    ) -> Result<(), SubscribeError> {
        let Engine { trie, limits, registry, .. } = &*self.engine;
        let limit = limits.max_subscriptions;
        if held.count() + missing.len() > limit {
            return Err(SubscribeError::TooManySubscriptions { limit });
        }
        let limit = limits.max_subscribers;
        if !held.is_counted && registry.subscribers() >= limit {
            return Err(SubscribeError::TooManySubscribers { limit });
        }
        let limit = T::max_count(limits);
        if limit != usize::MAX {
            let new = missing.iter().filter(|key| !T::is_subscribed(trie, key)).count();
            if T::count(trie) + new > limit {
                return Err(T::too_many(limit));
            }
        }
        Ok(())
    }
}

impl<P> Member<P> {
    /// Unsubscribes from `key`. Returns the number of subscriptions held after it; 0 if the member is closed.
    pub(crate) fn unsubscribe<T: Kind<Payload = P>>(&self, key: &T::Key) -> usize {
        self.unsubscribe_with::<T>(key, || ())
    }

    /// Unsubscribes like [`unsubscribe`](Self::unsubscribe), and calls `then`, also if the member is closed. `then` runs
    /// under the lock of the subscriptions: it may run no user code.
    pub(crate) fn unsubscribe_with<T: Kind<Payload = P>>(
        &self,
        key: &T::Key,
        then: impl FnOnce(),
    ) -> usize {
        self.engine.check_reentrancy();
        let _wakeups = wakeups::CallOnDrop;
        let mut held = self.subscriptions.lock();
        if self.inbox.is_closed() {
            then();
            return 0;
        }
        let hash = T::hash_key(&self.engine.trie, key);
        match T::set_mut(&mut held).remove(key, hash) {
            Some(subscription) => self.leave(&subscription, held.count()),
            None => self.inbox.push_event(|| T::UNSUBSCRIBED(T::to_owned(key)), held.count()),
        }
        then();
        let count = held.count();
        drop(held);
        trace::unsubscribed(self.inbox.member_id(), self.inbox.settings(), &key, count);
        count
    }

    /// Ends all subscriptions of one kind, in the order in which they were made. Returns the number of subscriptions of
    /// the other kind; 0 if the member is closed.
    pub(crate) fn unsubscribe_all<T: Kind<Payload = P>>(&self) -> usize {
        self.engine.check_reentrancy();
        let _wakeups = wakeups::CallOnDrop;
        let mut held = self.subscriptions.lock();
        if self.inbox.is_closed() {
            return 0;
        }
        let all = T::set_mut(&mut held).take();
        let kept = held.count();
        for (at, subscription) in all.iter().enumerate() {
            self.leave(subscription, kept + all.len() - 1 - at);
        }
        drop(held);
        for subscription in &all {
            let key = T::borrow_key(&subscription.entry);
            trace::unsubscribed(self.inbox.member_id(), self.inbox.settings(), &key, kept);
        }
        kept
    }

    /// Ends a subscription that has been taken out of the set; `count` of them are still held.
    fn leave<T: Kind<Payload = P>>(&self, subscription: &Subscription<T>, count: usize) {
        self.engine.trie.leave(subscription);
        self.inbox.push_event(|| T::UNSUBSCRIBED(subscription.entry.key()), count);
    }

    /// Closes the inbox and ends all subscriptions, without lifecycle events. Returns `true` if it was open.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let _wakeups = wakeups::CallOnDrop;
        let was_open = self.inbox.close(reason);
        let mut held = self.subscriptions.lock();
        self.engine.release(held.retire(&self.inbox));
        drop(held);
        if was_open {
            trace::closed(self.inbox.member_id(), self.inbox.settings(), reason);
        }
        was_open
    }

    /// Returns the channels or the patterns held, in the order in which they were subscribed.
    pub(crate) fn keys<T: Kind<Payload = P>>(&self) -> Vec<T::OwnedKey> {
        self.engine.check_reentrancy();
        let held = self.subscriptions.lock();
        if self.inbox.is_closed() { Vec::new() } else { held.keys::<T>() }
    }

    /// Returns the channels and the patterns held at the same time; `None` if the member is closed.
    pub(crate) fn all_keys(&self) -> Option<(Vec<Arc<str>>, Vec<Pattern>)> {
        self.engine.check_reentrancy();
        let held = self.subscriptions.lock();
        let is_open = !self.inbox.is_closed();
        is_open.then(|| (held.keys::<Channel<P>>(), held.keys::<PatternEntry<P>>()))
    }

    /// Returns what the subscriber looks like from outside.
    pub(crate) fn info(&self) -> SubscriberInfo {
        self.engine.check_reentrancy();
        let held = self.subscriptions.lock();
        let inbox = &self.inbox;
        let trie = &self.engine.trie;
        let entered = inbox.entered()
            + held.channels.iter().map(|channel| trie.entered(channel)).sum::<u64>()
            + held.patterns.iter().map(|pattern| trie.entered(pattern)).sum::<u64>();
        let is_closed = inbox.is_closed();
        let (depth, conflated) = (inbox.depth(), inbox.conflated());
        SubscriberInfo {
            id: inbox.member_id(),
            label: inbox.settings().label.clone(),
            channels: if is_closed { 0 } else { held.channels.len() },
            patterns: if is_closed { 0 } else { held.patterns.len() },
            depth,
            capacity: inbox.settings().capacity,
            overflow: inbox.settings().overflow,
            high_water: inbox.high_water(),
            // Saturating: a message that is on its way may be counted at one end only.
            received: entered.saturating_sub(inbox.evicted() + conflated + depth as u64),
            missed: inbox.missed(),
            conflated,
        }
    }
}

impl<P: Send + 'static> Registered<P> for Member<P> {
    fn inbox(&self) -> &Inbox<P> {
        &self.inbox
    }

    fn close(&self, reason: CloseReason) -> bool {
        Member::close(self, reason)
    }

    fn is_counted(&self) -> bool {
        self.subscriptions.lock().is_counted
    }

    fn info(&self) -> SubscriberInfo {
        Member::info(self)
    }
}

impl<P> Drop for Member<P> {
    fn drop(&mut self) {
        let _wakeups = wakeups::CallOnDrop;
        let was_open = self.inbox.close(CloseReason::Subscriber);
        self.engine.registry.remove(self.inbox.member_id());
        let parts = self.subscriptions.get_mut().retire(&self.inbox);
        if reentrancy::is_in_clone() {
            // Leaving a channel could wait for the turn that this thread has.
            self.engine.defer(parts);
        } else {
            self.engine.release(parts);
            if was_open {
                trace::closed(
                    self.inbox.member_id(),
                    self.inbox.settings(),
                    CloseReason::Subscriber,
                );
            }
        }
    }
}
