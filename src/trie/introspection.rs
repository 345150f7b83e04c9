//! Looking into the trie: entries, names, counts.

use std::sync::Arc;

use super::{Channel, Counts, Route, Trie};
use crate::interest::{Name, Watchers};
use crate::pattern::Pattern;
use crate::reentrancy;
use crate::small_str::SmallStr;
use crate::sync::Ordering;

impl<P> Trie<P> {
    /// The entry of a name, if it has one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Channel<P>>> {
        reentrancy::assert_not_in_clone();
        self.stripes.peek(name, self.stripes.hash(name))
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
        let mut route = Route::empty();
        route.derive(&SmallStr::new(name), &self.patterns);
        route
    }

    /// `true` if `pattern` has a subscriber.
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

    /// Returns the watches of which names have subscriptions.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.subscribing.watchers
    }

    /// Calls `found` with every name whose subscriptions count for an
    /// [`InterestWatch`](crate::InterestWatch): in the turn of the channel, or under the lock of the pattern's
    /// recipients.
    pub(crate) fn for_each_wanted(&self, found: &dyn Fn(&Name)) {
        reentrancy::assert_not_in_clone();
        // All of them: whoever subscribes in an earlier turn than the one taken here may not have seen the watch.
        let mut channels = Vec::new();
        self.stripes.for_each(|channel| channels.push(Arc::clone(channel)));
        for channel in channels {
            let entry = self.guard(&channel);
            let turn = entry.turn();
            if turn.exact.interested() > 0 {
                found(&Name::Channel(Arc::clone(channel.shared_name())));
            }
        }
        self.patterns.for_each(|entry| {
            let recipients = entry.read();
            if recipients.interested() > 0 {
                found(&Name::Pattern(entry.pattern.clone()));
            }
            drop(recipients);
            self.release_if_closed(entry);
        });
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
