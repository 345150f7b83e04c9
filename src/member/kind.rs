//! What differs between a member's channels and its patterns: limits, errors, lifecycle events.

use std::sync::Arc;

use super::Subscriptions;
use super::subscription_set::SubscriptionSet;
use crate::error::SubscribeError;
use crate::inbox::Change;
use crate::limits::Limits;
use crate::pattern::Pattern;
use crate::trie::{Channel, PatternEntry, Subscribable};

/// A kind of subscription: to [`Channel`]s, or to patterns by their [`PatternEntry`].
pub(crate) trait Kind: Subscribable {
    /// A key that can be kept: `Arc<str>` or [`Pattern`].
    type OwnedKey;

    /// What the lifecycle event of a new subscription tells.
    const SUBSCRIBED: fn(Self::OwnedKey) -> Change;
    /// What the lifecycle event of a subscription's end tells.
    const UNSUBSCRIBED: fn(Self::OwnedKey) -> Change;

    /// Returns this entry's key.
    fn key(&self) -> Self::OwnedKey;

    /// Returns this entry's key, borrowed.
    fn borrow_key(&self) -> &Self::Key;

    /// Returns a copy of `key`.
    fn to_owned(key: &Self::Key) -> Self::OwnedKey;

    /// Checks that `key` is not longer than `limits` allow.
    fn check_len(key: &Self::Key, limits: &Limits) -> Result<(), SubscribeError>;

    /// Returns the number of keys that can have a subscriber.
    fn max_count(limits: &Limits) -> usize;

    /// Returns the error of a subscribe by which more than `limit` keys would have a subscriber.
    fn too_many(limit: usize) -> SubscribeError;

    /// Returns the subscriptions of this kind.
    fn set(held: &Subscriptions<Self::Payload>) -> &SubscriptionSet<Self>;

    /// Returns the subscriptions of this kind.
    fn set_mut(held: &mut Subscriptions<Self::Payload>) -> &mut SubscriptionSet<Self>;
}

impl<P> Kind for Channel<P> {
    type OwnedKey = Arc<str>;

    const SUBSCRIBED: fn(Arc<str>) -> Change = Change::Subscribed;
    const UNSUBSCRIBED: fn(Arc<str>) -> Change = Change::Unsubscribed;

    fn key(&self) -> Arc<str> {
        Arc::clone(self.shared_name())
    }

    fn borrow_key(&self) -> &str {
        self.name()
    }

    fn to_owned(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn check_len(name: &str, limits: &Limits) -> Result<(), SubscribeError> {
        let limit = limits.max_channel_len;
        if name.len() > limit { Err(SubscribeError::ChannelTooLong { limit }) } else { Ok(()) }
    }

    fn max_count(limits: &Limits) -> usize {
        limits.max_channels
    }

    fn too_many(limit: usize) -> SubscribeError {
        SubscribeError::TooManyChannels { limit }
    }

    fn set(held: &Subscriptions<P>) -> &SubscriptionSet<Self> {
        &held.channels
    }

    fn set_mut(held: &mut Subscriptions<P>) -> &mut SubscriptionSet<Self> {
        &mut held.channels
    }
}

impl<P> Kind for PatternEntry<P> {
    type OwnedKey = Pattern;

    const SUBSCRIBED: fn(Pattern) -> Change = Change::PSubscribed;
    const UNSUBSCRIBED: fn(Pattern) -> Change = Change::PUnsubscribed;

    fn key(&self) -> Pattern {
        self.pattern.clone()
    }

    fn borrow_key(&self) -> &Pattern {
        &self.pattern
    }

    fn to_owned(pattern: &Pattern) -> Pattern {
        pattern.clone()
    }

    fn check_len(pattern: &Pattern, limits: &Limits) -> Result<(), SubscribeError> {
        let limit = limits.max_pattern_len;
        let is_too_long = pattern.as_str().len() > limit;
        if is_too_long { Err(SubscribeError::PatternTooLong { limit }) } else { Ok(()) }
    }

    fn max_count(limits: &Limits) -> usize {
        limits.max_patterns
    }

    fn too_many(limit: usize) -> SubscribeError {
        SubscribeError::TooManyPatterns { limit }
    }

    fn set(held: &Subscriptions<P>) -> &SubscriptionSet<Self> {
        &held.patterns
    }

    fn set_mut(held: &mut Subscriptions<P>) -> &mut SubscriptionSet<Self> {
        &mut held.patterns
    }
}
