//! The recipients of a route in the order in which a publish serves them: the exact ones, then those
//! of the patterns, by the numbers of their subscriptions.
//!
//! The numbers grow with each subscription on the bus, so every inbox gets the messages of its patterns
//! in the order it subscribed them, whatever the order in which others did.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::source::Prepaid;
use crate::trie::{PatternEntry, Recipient, Recipients, RecipientsGuard};

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
}

/// The recipients of all patterns of a route, locked, merged by number.
pub(super) struct Merge<P> {
    guards: Vec<RecipientsGuard<P>>,
    /// For each guard, the first place not served yet.
    cursors: Vec<usize>,
    /// Guards that are not done, by the number at their cursor.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<P> Default for Merge<P> {
    fn default() -> Self {
        Self { guards: Vec::new(), cursors: Vec::new(), heads: BinaryHeap::new() }
    }
}

impl<P> Merge<P> {
    /// Locks the recipients of `patterns`, which come in the order of their numbers.
    pub(super) fn lock(&mut self, patterns: &[(Arc<PatternEntry<P>>, Prepaid)]) {
        self.clear();
        for (at, (entry, _)) in patterns.iter().enumerate() {
            let guard = entry.read_owned();
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

    /// Gives the locks back.
    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.cursors.clear();
        self.guards.clear();
    }

    /// The recipients that come next, as many as follow one another under one pattern.
    pub(super) fn next<'a>(
        &'a mut self,
        patterns: &'a [(Arc<PatternEntry<P>>, Prepaid)],
    ) -> Option<Segment<'a, P>> {
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
            source: &patterns[at].1,
            shared: true,
        })
    }
}
