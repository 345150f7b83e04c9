//! A channel's route: whom a publish reaches.
//!
//! The exact recipients are kept up to date in place. The patterns that match are derived from the pattern trie, and
//! derived again when a pattern has been added that could match.

use std::sync::Arc;

use smallvec::SmallVec;

use super::channel::Channel;
use super::patterns::{Generation, PatternEntry, Patterns};
use super::recipients::Recipients;
use crate::batch_arc::BatchArc;
use crate::small_str::SmallStr;
use crate::source::{PatternSource, Source};
use crate::sync::MutexGuard;

/// The turn of a channel, held.
pub(crate) type Turn<'a, P> = MutexGuard<'a, Route<P>>;

/// Patterns that match a channel, each with what its messages on that channel point to.
pub(crate) type Matching<P> = SmallVec<[PatternSource<PatternEntry<P>>; 1]>;

/// Whom a publish on the channel reaches. Protected by the channel's turn.
#[repr(C)]
pub(crate) struct Route<P> {
    /// The entry is out of its stripe: a publish must look the name up again.
    detached: bool,
    /// Publishes since the CLOCK's hand last passed: 0, 1, or 2 for more. The one that made the entry counts, so that a
    /// name published once does not pass for one in use.
    uses: u8,
    /// The generation that `patterns` was derived from.
    generation: Generation,
    /// What messages of exact subscriptions point to; made for the first of them.
    pub(crate) source: Option<BatchArc<Source>>,
    /// The patterns that match, by ascending id.
    pub(crate) patterns: Matching<P>,
    pub(crate) exact: Recipients<P>,
}

impl<P> Route<P> {
    pub(super) fn empty() -> Self {
        Self {
            detached: false,
            uses: 0,
            generation: Generation::default(),
            exact: Recipients::default(),
            source: None,
            patterns: SmallVec::new(),
        }
    }

    /// Finds the patterns for the empty route of a channel that nobody has subscribed to.
    pub(super) fn derive(&mut self, name: &SmallStr, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        self.generation = patterns.generation(name.as_str().as_bytes());
        patterns.matching(name.as_str(), |entry| {
            self.patterns.push(PatternSource::new(name.clone(), Arc::clone(entry)));
        });
        if self.patterns.len() > 1 {
            self.patterns.sort_unstable_by_key(|known| known.entry().id);
        }
    }

    pub(super) fn ended() -> Self {
        Self { detached: true, ..Self::empty() }
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Ends an entry that nobody needs. What it holds goes with it.
    pub(super) fn mark_detached(&mut self) {
        self.detached = true;
    }

    /// `true` if the channel is not in use; then the CLOCK may evict its entry. One in use gets a second chance.
    pub(super) fn cool(&mut self) -> bool {
        let is_cool = self.uses < 2;
        self.uses = 1;
        is_cool
    }

    /// Counts a publish.
    #[inline]
    pub(crate) fn count_use(&mut self) {
        self.uses = 2.min(self.uses + 1);
    }

    /// Brings `patterns` up to date.
    #[inline]
    pub(crate) fn refresh(&mut self, channel: &Channel<P>, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        if !patterns.unchanged_since(self.generation) {
            self.derive_again(channel, patterns);
        }
    }

    #[cold]
    fn derive_again(&mut self, channel: &Channel<P>, patterns: &Patterns<P>)
    where
        P: Send + 'static,
    {
        let name = channel.name();
        let now = patterns.generation(name.as_bytes());
        if self.generation.is_valid_in(now) {
            self.generation = now;
            return;
        }
        // New ones join those that are here. One that is here and no longer matches is dead: it was removed from the
        // trie. Mostly there is neither: a pattern that only begins like the name.
        let mut found = SmallVec::<[Arc<PatternEntry<P>>; 4]>::new();
        let id = |known: &PatternSource<PatternEntry<P>>| known.entry().id;
        patterns.matching(name, |entry| {
            if self.patterns.binary_search_by_key(&entry.id, id).is_err() {
                found.push(Arc::clone(entry));
            }
        });
        self.generation = now;
        self.remove_dead(channel);
        if !found.is_empty() {
            let new = |entry| PatternSource::new(channel.text(), entry);
            self.patterns.extend(found.into_iter().map(new));
            self.patterns.sort_unstable_by_key(id);
            channel.request_reaccount();
        }
    }

    /// Removes patterns that nobody holds any more.
    #[inline]
    pub(crate) fn remove_dead(&mut self, channel: &Channel<P>) {
        if self.patterns.iter().any(|known| known.entry().is_dead()) {
            self.patterns.retain(|known| !known.entry().is_dead());
            self.patterns.shrink_to_fit();
            channel.request_reaccount();
        }
    }
}
