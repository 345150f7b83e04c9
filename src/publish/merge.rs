//! The recipients of a route in the order in which a publish serves them: the exact ones, then those
//! of the patterns, by the numbers of their subscriptions.
//!
//! The numbers grow with each subscription on the bus, so every inbox gets the messages of its patterns
//! in the order it subscribed them, whatever the order in which others did.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::source::{PatternSource, Prepaid};
use crate::sync::RwLockReadGuard;
use crate::trie::{PatternEntry, Recipient, Recipients};

/// Recipients that follow one another and get messages of one source.
pub(super) struct Segment<'a, P> {
    pub(super) places: &'a [Option<Recipient<P>>],
    pub(super) numbers: &'a [u64],
    pub(super) source: &'a Prepaid,
    /// Whether publishes on other channels count deliveries here at the same time.
    pub(super) shared: bool,
}

impl<'a, P> Segment<'a, P> {
    /// All of `recipients`.
    pub(super) fn of(recipients: &'a Recipients<P>, source: &'a Prepaid, shared: bool) -> Self {
        Self { places: recipients.places(), numbers: recipients.numbers(), source, shared }
    }

    /// The same without the first so many places.
    pub(super) fn past(self, places: usize) -> Self {
        Self { places: &self.places[places..], numbers: &self.numbers[places..], ..self }
    }
}

/// The recipients of all patterns of a route, locked, merged by number.
pub(super) struct Merge<'a, P> {
    guards: Vec<RwLockReadGuard<'a, Recipients<P>>>,
    /// For each guard, the first place not served yet.
    cursors: Vec<usize>,
    /// Guards that are not done, by the number at their cursor.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<P> Default for Merge<'_, P> {
    fn default() -> Self {
        Self { guards: Vec::new(), cursors: Vec::new(), heads: BinaryHeap::new() }
    }
}

impl<'a, P> Merge<'a, P> {
    /// The buffers, empty, for the patterns of another route.
    pub(super) fn recycled<'b>(mut self) -> Merge<'b, P> {
        self.heads.clear();
        self.cursors.clear();
        self.guards.clear();
        // Collected from what it is made of, the vector keeps its memory: only its type changes.
        let guards = self.guards.into_iter().map(|_| unreachable!("cleared")).collect();
        Merge { guards, cursors: self.cursors, heads: self.heads }
    }

    /// Locks the recipients of `patterns`, which come in the order of their numbers.
    pub(super) fn lock(&mut self, patterns: &'a [PatternSource<PatternEntry<P>>]) {
        for (at, known) in patterns.iter().enumerate() {
            let guard = known.pattern().read();
            if let Some(&first) = guard.numbers().first() {
                self.heads.push(Reverse((first, at)));
            }
            self.guards.push(guard);
            self.cursors.push(0);
        }
    }

    /// The recipients locked, a list for each pattern.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Recipients<P>> {
        self.guards.iter().map(|guard| &**guard)
    }

    /// The recipients that come next, as many as follow one another under one pattern.
    pub(super) fn next<'b>(
        &'b mut self,
        patterns: &'b [PatternSource<PatternEntry<P>>],
    ) -> Option<Segment<'b, P>> {
        let Reverse((_, at)) = self.heads.pop()?;
        let numbers = self.guards[at].numbers();
        let from = self.cursors[at];
        let to = match self.heads.peek() {
            None => numbers.len(),
            Some(&Reverse((next, _))) => {
                from + numbers[from..].partition_point(|&number| number < next)
            }
        };
        self.cursors[at] = to;
        if let Some(&number) = numbers.get(to) {
            self.heads.push(Reverse((number, at)));
        }
        Some(Segment {
            places: &self.guards[at].places()[from..to],
            numbers: &numbers[from..to],
            source: patterns[at].prepaid(),
            shared: true,
        })
    }
}
