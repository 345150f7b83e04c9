//! Subscribing: how a recipient joins the list of a channel or of a pattern, and leaves it.
//!
//! A channel's list is changed in its turn, a pattern's under the lock of its recipients; see the trie's documentation
//! for the order of locks. Of a subscriber, nothing is known here but its inbox: which names it holds already, and
//! whether a limit lets it subscribe, is decided by the caller.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use super::stripe::Purpose;
use super::{Channel, PatternEntry, Recipient, Recipients, Trie};
use crate::interest::Name;
use crate::pattern::Pattern;
use crate::reentrancy;
use crate::sync::Ordering;

/// A subscription, as its subscriber keeps it.
pub(crate) struct Subscription<T> {
    /// What it is to.
    pub(crate) entry: Arc<T>,
    /// Finds the recipient in the entry's list. A later subscription has a greater id.
    pub(crate) id: u64,
}

/// The bus is closed.
#[derive(Debug)]
pub(crate) struct Closed;

/// What can be subscribed to: a [`Channel`], or a pattern by its [`PatternEntry`].
pub(crate) trait Subscribable: Sized {
    /// The bus's payload.
    type Payload;
    /// What is subscribed by: a channel's name, or a [`Pattern`].
    type Key: ?Sized + Debug + Eq + Hash;

    /// Returns the hash of `key`, under the bus's seed.
    fn hash_key(trie: &Trie<Self::Payload>, key: &Self::Key) -> u64;

    /// Returns the hash of this entry's key.
    fn hash(&self) -> u64;

    /// `true` if this is the entry of `key`.
    fn is(&self, key: &Self::Key) -> bool;

    /// `true` if `key` has a subscriber.
    fn is_subscribed(trie: &Trie<Self::Payload>, key: &Self::Key) -> bool;

    /// Returns the number of keys that have a subscriber.
    fn count(trie: &Trie<Self::Payload>) -> usize;

    /// Adds `recipient` to the list of `key`; see [`Trie::join`].
    fn join(
        trie: &Trie<Self::Payload>,
        key: &Self::Key,
        hash: u64,
        recipient: Recipient<Self::Payload>,
        before_live: impl FnOnce(&Self),
    ) -> Result<Subscription<Self>, Closed>
    where
        Self::Payload: Send + 'static;

    /// Takes the recipient of a subscription out of its list, and the entry out of the trie if nobody else needs it.
    fn leave(
        trie: &Trie<Self::Payload>,
        subscription: &Subscription<Self>,
    ) -> Option<Recipient<Self::Payload>>;

    /// Calls `look` with the entry's recipients, under their lock.
    fn with_recipients<R>(
        trie: &Trie<Self::Payload>,
        entry: &Arc<Self>,
        look: impl FnOnce(&Recipients<Self::Payload>) -> R,
    ) -> R;
}

impl<P> Trie<P> {
    /// Adds `recipient` to the list of `key`, whose hash is `hash`.
    ///
    /// Right before the subscription is live, `before_live` runs, under the lock of the list: in the channel's turn, or
    /// under the lock of the pattern's recipients.
    #[inline]
    pub(crate) fn join<T: Subscribable<Payload = P>>(
        &self,
        key: &T::Key,
        hash: u64,
        recipient: Recipient<P>,
        before_live: impl FnOnce(&T),
    ) -> Result<Subscription<T>, Closed>
    where
        P: Send + 'static,
    {
        T::join(self, key, hash, recipient, before_live)
    }

    /// Ends a subscription. Returns its recipient, to be dropped under no lock; `None` if closing the bus has taken it.
    pub(crate) fn leave<T: Subscribable<Payload = P>>(
        &self,
        subscription: &Subscription<T>,
    ) -> Option<Recipient<P>> {
        let recipient = T::leave(self, subscription)?;
        recipient.hand_over_count();
        recipient.inbox.cancel_waits(subscription.id);
        Some(recipient)
    }

    /// Returns the number of messages that entered the inbox by a subscription.
    pub(crate) fn entered<T: Subscribable<Payload = P>>(
        &self,
        subscription: &Subscription<T>,
    ) -> u64 {
        T::with_recipients(self, &subscription.entry, |recipients| {
            let recipient = recipients.get(subscription.id);
            // Relaxed: exact at rest. (A channel's is written under the lock that is held here, a pattern's is not.)
            recipient.map_or(0, |recipient| recipient.entered.load(Ordering::Relaxed))
        })
    }

    /// Returns the id of a new subscription.
    fn next_subscription_id(&self) -> u64 {
        // Relaxed: the ids in one list are drawn under its lock, which orders them.
        self.subscribing.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl<P> Subscribable for Channel<P> {
    type Payload = P;
    type Key = str;

    fn hash_key(trie: &Trie<P>, name: &str) -> u64 {
        trie.hash(name)
    }

    fn hash(&self) -> u64 {
        self.hash
    }

    fn is(&self, name: &str) -> bool {
        self.name() == name
    }

    fn is_subscribed(trie: &Trie<P>, name: &str) -> bool {
        trie.find(name).is_some_and(|channel| channel.subscribers() > 0)
    }

    fn count(trie: &Trie<P>) -> usize {
        trie.channel_count()
    }

    fn join(
        trie: &Trie<P>,
        name: &str,
        hash: u64,
        recipient: Recipient<P>,
        before_live: impl FnOnce(&Self),
    ) -> Result<Subscription<Self>, Closed>
    where
        P: Send + 'static,
    {
        loop {
            let entry =
                trie.stripes.entry(name, hash, Purpose::Subscribe, &trie.patterns).ok_or(Closed)?;
            let guard = trie.guard(&entry);
            let mut turn = guard.turn();
            if turn.is_detached() {
                // The entry was removed before its turn came: the name has a new one, or none.
                continue;
            }
            before_live(&entry);
            let id = trie.next_subscription_id();
            let counts = recipient.inbox.settings().interest;
            if entry.join(&mut turn, id, recipient) {
                // Relaxed: a count orders nothing.
                trie.subscribing.channels.fetch_add(1, Ordering::Relaxed);
            }
            if counts && turn.exact.interested() == 1 {
                trie.watchers().tell(true, || Name::Channel(Arc::clone(entry.shared_name())));
            }
            drop(turn);
            drop(guard);
            return Ok(Subscription { entry, id });
        }
    }

    fn leave(
        trie: &Trie<P>,
        Subscription { entry, id }: &Subscription<Self>,
    ) -> Option<Recipient<P>> {
        let guard = trie.guard(entry);
        let mut turn = guard.turn();
        let (recipient, is_last) = entry.leave(&mut turn, *id, || {
            // Relaxed: what follows it in `leave` makes it visible. Whoever subscribes under a limit counts a channel
            // without subscribers as a new one, and must not find it counted still.
            trie.subscribing.channels.fetch_sub(1, Ordering::Relaxed);
        })?;
        if recipient.inbox.settings().interest && turn.exact.interested() == 0 {
            trie.watchers().tell(false, || Name::Channel(Arc::clone(entry.shared_name())));
        }
        // Pruning takes the stripe's lock, which comes before a turn.
        drop(turn);
        drop(guard);
        if is_last {
            trie.stripes.prune(entry);
        }
        Some(recipient)
    }

    fn with_recipients<R>(
        trie: &Trie<P>,
        entry: &Arc<Self>,
        look: impl FnOnce(&Recipients<P>) -> R,
    ) -> R {
        let guard = trie.guard(entry);
        let turn = guard.turn();
        look(&turn.exact)
    }
}

impl<P> Subscribable for PatternEntry<P> {
    type Payload = P;
    type Key = Pattern;

    fn hash_key(trie: &Trie<P>, pattern: &Pattern) -> u64 {
        trie.pattern_hash(pattern)
    }

    fn hash(&self) -> u64 {
        self.hash
    }

    fn is(&self, pattern: &Pattern) -> bool {
        self.pattern == *pattern
    }

    fn is_subscribed(trie: &Trie<P>, pattern: &Pattern) -> bool {
        trie.has_pattern(pattern)
    }

    fn count(trie: &Trie<P>) -> usize {
        trie.pattern_count()
    }

    fn join(
        trie: &Trie<P>,
        pattern: &Pattern,
        hash: u64,
        recipient: Recipient<P>,
        before_live: impl FnOnce(&Self),
    ) -> Result<Subscription<Self>, Closed> {
        reentrancy::assert_not_in_clone();
        let entry = trie.patterns.acquire(pattern, hash);
        let mut recipients = entry.write();
        // Under the lock: a thread that closes the bus marks the trie as closed and then tries this lock. Either it
        // finds this recipient, or this finds the mark; if it finds the lock taken, `release_if_closed` below does its
        // work.
        if trie.is_closed() {
            drop(recipients);
            trie.release_if_closed(&entry);
            trie.patterns.release(&entry);
            return Err(Closed);
        }
        before_live(&entry);
        let id = trie.next_subscription_id();
        let counts = recipient.inbox.settings().interest;
        recipients.push(id, recipient);
        if counts && recipients.interested() == 1 {
            trie.watchers().tell(true, || Name::Pattern(pattern.clone()));
        }
        drop(recipients);
        trie.release_if_closed(&entry);
        Ok(Subscription { entry, id })
    }

    fn leave(
        trie: &Trie<P>,
        Subscription { entry, id }: &Subscription<Self>,
    ) -> Option<Recipient<P>> {
        reentrancy::assert_not_in_clone();
        let mut recipients = entry.write();
        let recipient = recipients.remove(*id);
        let counts = recipient.as_ref().is_some_and(|left| left.inbox.settings().interest);
        if counts && recipients.interested() == 0 {
            trie.watchers().tell(false, || Name::Pattern(entry.pattern.clone()));
        }
        drop(recipients);
        trie.release_if_closed(entry);
        trie.patterns.release(entry);
        recipient
    }

    fn with_recipients<R>(
        trie: &Trie<P>,
        entry: &Arc<Self>,
        look: impl FnOnce(&Recipients<P>) -> R,
    ) -> R {
        reentrancy::assert_not_in_clone();
        let result = look(&entry.read());
        trie.release_if_closed(entry);
        result
    }
}
