//! The subscriptions of one kind that a member holds. It takes no lock.

use std::mem;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::trie::{Subscribable, Subscription};

/// A short list, or a table if there are many.
pub(crate) enum SubscriptionSet<T> {
    Few(SmallVec<[Subscription<T>; 1]>),
    Many(Box<HashTable<Subscription<T>>>),
}

/// The length of the longest list. A list is searched from end to end.
const FEW: usize = 8;

impl<T> Default for SubscriptionSet<T> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<T: Subscribable> SubscriptionSet<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    /// Returns the subscription to `key`, whose hash is `hash`.
    pub(super) fn get(&self, key: &T::Key, hash: u64) -> Option<&Subscription<T>> {
        match self {
            Self::Few(few) => few.iter().find(|subscription| subscription.entry.is(key)),
            Self::Many(many) => many.find(hash, |subscription| subscription.entry.is(key)),
        }
    }

    /// Adds a subscription; there is none to its key.
    pub(super) fn insert(&mut self, subscription: Subscription<T>) {
        match self {
            Self::Few(few) if few.len() < FEW => few.push(subscription),
            Self::Few(few) => {
                let mut many = HashTable::with_capacity(2 * FEW);
                for subscription in few.drain(..).chain([subscription]) {
                    many.insert_unique(hash_of(&subscription), subscription, hash_of);
                }
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => {
                many.insert_unique(hash_of(&subscription), subscription, hash_of);
            }
        }
    }

    /// Takes the subscription to `key`, whose hash is `hash`.
    pub(super) fn remove(&mut self, key: &T::Key, hash: u64) -> Option<Subscription<T>> {
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|subscription| subscription.entry.is(key))?;
                Some(few.remove(at))
            }
            Self::Many(many) => {
                let found = many.find_entry(hash, |subscription| subscription.entry.is(key));
                let (subscription, _) = found.ok()?.remove();
                if many.is_empty() {
                    *self = Self::default();
                } else if many.len() < many.capacity() / 4 {
                    let capacity = many.len() * 2;
                    many.shrink_to(capacity, hash_of);
                }
                Some(subscription)
            }
        }
    }

    /// Returns the subscriptions, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription<T>> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few.iter()), None),
            Self::Many(many) => (None, Some(many.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// Returns the subscriptions, in the order in which they were made.
    pub(super) fn in_order(&self) -> Vec<&Subscription<T>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|subscription| subscription.id);
        all
    }

    /// Takes all subscriptions, in the order in which they were made.
    pub(super) fn take(&mut self) -> SmallVec<[Subscription<T>; 1]> {
        let mut all = match mem::take(self) {
            Self::Few(few) => few,
            Self::Many(mut many) => many.drain().collect(),
        };
        all.sort_unstable_by_key(|subscription| subscription.id);
        all
    }
}

fn hash_of<T: Subscribable>(subscription: &Subscription<T>) -> u64 {
    subscription.entry.hash()
}
