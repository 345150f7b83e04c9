//! The recipients of a route in the order in which a publish serves them: the exact ones, then those of the patterns,
//! by the ids of their subscriptions.
//!
//! Ids grow with each subscription on the bus, so every inbox gets the messages of its patterns in the order it
//! subscribed them, whatever the order in which others did.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;

use super::after_turn::AfterTurn;
use super::scratch::Scratch;
use crate::batch_arc::BatchArc;
use crate::source::{PatternSource, Source};
use crate::sync::RwLockReadGuard;
use crate::trie::{PatternEntry, Recipient, Recipients, Totals};

/// Recipients that follow one another and get messages of one source.
pub(super) struct Segment<'a, P> {
    pub(super) slots: &'a [Option<Recipient<P>>],
    /// The ids of their subscriptions.
    pub(super) ids: &'a [u64],
    pub(super) source: &'a BatchArc<Source>,
    /// Publishes on other channels deliver by the same subscriptions at the same time.
    pub(super) is_shared: bool,
}

impl<'a, P> Segment<'a, P> {
    pub(super) fn new(
        recipients: &'a Recipients<P>,
        source: &'a BatchArc<Source>,
        is_shared: bool,
    ) -> Self {
        Self { slots: recipients.slots(), ids: recipients.ids(), source, is_shared }
    }
}

type Known<P> = PatternSource<PatternEntry<P>>;

type Guard<'a, P> = RwLockReadGuard<'a, Recipients<P>>;

/// The recipients of a route's patterns, locked.
pub(super) enum PatternSegments<'a, P> {
    None,
    /// One pattern is served as it is, without the buffers that several need.
    One(Guard<'a, P>, &'a BatchArc<Source>),
    Several(Merge<'a, P>, &'a [Known<P>]),
}

impl<'a, P: 'static> PatternSegments<'a, P> {
    /// Locks the recipients of `patterns`. Several patterns are merged in the buffers of `after`.
    #[inline]
    pub(super) fn lock(patterns: &'a [Known<P>], after: &mut AfterTurn<'_, P>) -> Self {
        match patterns {
            [] => Self::None,
            [known] => Self::One(known.entry().read(), known.source()),
            _ => Self::lock_several(patterns, after.scratch()),
        }
    }

    /// Locks the recipients of `patterns`, however many, in the buffers of `scratch`.
    #[inline(never)]
    pub(super) fn lock_several(patterns: &'a [Known<P>], scratch: &mut Scratch<P>) -> Self {
        let mut merge = mem::take(&mut scratch.merge).recycled();
        merge.lock(patterns);
        Self::Several(merge, patterns)
    }

    /// Returns how many recipients there are.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.lists().for_each(|recipients| totals += recipients.totals());
        totals
    }

    /// Returns an iterator over the lists of recipients.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Recipients<P>> {
        let (one, several) = match self {
            Self::None => (None, None),
            Self::One(recipients, _) => (Some(&**recipients), None),
            Self::Several(merge, _) => (None, Some(merge.lists())),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }

    /// Calls `each` for the segments, in the order in which they are served.
    #[inline]
    pub(super) fn for_each_segment(&mut self, mut each: impl FnMut(&Segment<'_, P>)) {
        match self {
            Self::None => {}
            Self::One(recipients, source) => each(&Segment::new(recipients, source, true)),
            Self::Several(merge, patterns) => {
                while let Some(segment) = merge.next(patterns) {
                    each(&segment);
                }
            }
        }
    }

    /// Unlocks the recipients. Returns the buffers, if there are any, to be used again.
    pub(super) fn unlock<'b>(self) -> Option<Merge<'b, P>> {
        match self {
            Self::None | Self::One(..) => None,
            Self::Several(merge, _) => Some(merge.recycled()),
        }
    }
}

/// The recipients of all patterns of a route, locked, merged by the ids of their subscriptions.
pub(super) struct Merge<'a, P> {
    guards: Vec<Guard<'a, P>>,
    /// For each guard, its first slot that is not served yet.
    cursors: Vec<usize>,
    /// Guards that have slots left, by the id at their cursor.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<P> Default for Merge<'_, P> {
    fn default() -> Self {
        Self { guards: Vec::new(), cursors: Vec::new(), heads: BinaryHeap::new() }
    }
}

impl<'a, P> Merge<'a, P> {
    /// Returns the buffers, empty, for the patterns of another route.
    #[inline(never)]
    fn recycled<'b>(mut self) -> Merge<'b, P> {
        self.heads.clear();
        self.cursors.clear();
        self.guards.clear();
        // Collected from what it is made of, the vector keeps its memory: only its type changes.
        let guards = self.guards.into_iter().map(|_| unreachable!("cleared")).collect();
        Merge { guards, cursors: self.cursors, heads: self.heads }
    }

    /// Locks the recipients of `patterns`, which come in the order in which such locks are taken.
    fn lock(&mut self, patterns: &'a [Known<P>]) {
        for (at, known) in patterns.iter().enumerate() {
            let guard = known.entry().read();
            if let Some(&first) = guard.ids().first() {
                self.heads.push(Reverse((first, at)));
            }
            self.guards.push(guard);
            self.cursors.push(0);
        }
    }

    fn lists(&self) -> impl Iterator<Item = &Recipients<P>> {
        self.guards.iter().map(|guard| &**guard)
    }

    /// Returns the recipients that come next: as many as follow one another under one pattern.
    fn next<'b>(&'b mut self, patterns: &'b [Known<P>]) -> Option<Segment<'b, P>> {
        let Reverse((_, at)) = self.heads.pop()?;
        let ids = self.guards[at].ids();
        let from = self.cursors[at];
        let to = match self.heads.peek() {
            None => ids.len(),
            Some(&Reverse((next, _))) => from + ids[from..].partition_point(|&id| id < next),
        };
        self.cursors[at] = to;
        if let Some(&id) = ids.get(to) {
            self.heads.push(Reverse((id, at)));
        }
        Some(Segment {
            slots: &self.guards[at].slots()[from..to],
            ids: &ids[from..to],
            source: patterns[at].source(),
            is_shared: true,
        })
    }
}
