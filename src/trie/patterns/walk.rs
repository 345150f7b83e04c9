//! Matching: a walk through pattern trees for the patterns that match one channel.
//!
//! # Two phases
//!
//! [`Walk::collect`] goes through one tree and reports what matches, except for *candidates*: patterns that are alone
//! after a literal, known so far by its hash only. Of a million patterns, a candidate's entry is in no cache.
//! `collect` prefetches it and goes on; [`Walk::verify`] compares the literal and matches the rest.
//!
//! # Unconfirmed patterns
//!
//! The rest of a single pattern is matched in the walk only if it is short, and if no `*` lies on the way to it: behind
//! a `*` it could have to be matched at every position. Otherwise, and where the tree's depth ends, the walk reports
//! the pattern as *unconfirmed*, once: the beginning matches, and the caller must ask the pattern itself, after it has
//! released its locks. That takes at most the product of the lengths of pattern and channel, and nothing if the channel
//! is shorter than the pattern's shortest match. Shell globs are always unconfirmed.
//!
//! # Bounds
//!
//! Every node is visited at most once for each position of the channel, whatever the patterns. A node is reached from
//! its only parent, by an edge of a fixed length, unless the parent is a `*`. A walk reaches a `*` once, at the
//! earliest position. From there its edges are tried at every later position, so to reach it again could find nothing
//! new.
//!
//! A walk keeps its own stack and does not recurse.

use std::mem;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use smallvec::SmallVec;

use super::literals::{
    Child, LiteralEdges, LiteralSlot, LiteralTable, hash_literal, split_literal,
};
use super::tree::{Branch, Entry, MAX_REST, Node, PatternTree, Star, Subtree};
use crate::pattern::ByteSet;
use crate::pattern::program::{self, Op, Ops, Steps};

/// The number of candidates that a walk keeps; further ones are verified at once. There is room for these without an
/// allocation.
const MAX_CANDIDATES: usize = 4;

enum Visit<'a, E> {
    Branch {
        branch: &'a Branch<E>,
        /// How many bytes of the channel have been consumed.
        at: usize,
        /// `true` if a `*` lies on the way here: the branch can be reached at other positions, too.
        after_star: bool,
    },
    /// A `*` whose edges must be tried at `at`, and then at every later position by a visit of its own.
    Star { star: &'a Star<E>, at: usize },
}

/// A walk through trees for the patterns that match `channel`. See the module's documentation.
///
/// [`collect`](Self::collect) and [`verify`](Self::verify) call `found` once for each pattern that matches; with `true`
/// if the pattern is unconfirmed.
///
/// # Complexity
///
/// In the worst case the product of the tree's size and the channel's length.
pub(crate) struct Walk<'a, E> {
    channel: &'a [u8],
    hasher: &'a RandomState,
    candidates: [Option<Candidate<'a, E>>; MAX_CANDIDATES],
    candidates_len: usize,
    /// The top of the stack. Most walks never need more.
    top: Option<Visit<'a, E>>,
    stack: SmallVec<[Visit<'a, E>; 64]>,
    seen: Seen,
    steps: Steps,
}

/// A single pattern after a literal that has the hash of `literal`.
struct Candidate<'a, E> {
    entry: &'a E,
    /// Where the literal begins in the pattern's program.
    offset: usize,
    /// The bytes of the channel that must be equal to the pattern's literal.
    literal: &'a [u8],
    /// Where they end in the channel.
    at: usize,
    after_star: bool,
}

/// The addresses of what can be reached at several positions and has been: branches with a `*`, single patterns, and
/// lists of unconfirmed ones. Few in most walks.
#[derive(Default)]
struct Seen {
    few: SmallVec<[usize; 16]>,
    many: Option<HashSet<usize, RandomState>>,
}

impl Seen {
    /// Returns `true` if `address` is new.
    fn insert(&mut self, address: usize) -> bool {
        if let Some(many) = &mut self.many {
            return many.insert(address);
        }
        if self.few.contains(&address) {
            return false;
        }
        if self.few.len() < self.few.inline_size() {
            self.few.push(address);
        } else {
            let many = self.many.insert(HashSet::default());
            many.extend(self.few.drain(..));
            many.insert(address);
        }
        true
    }
}

impl<'a, E: Entry> Walk<'a, E> {
    #[inline]
    pub(crate) fn new(channel: &'a [u8], hasher: &'a RandomState) -> Self {
        Self {
            channel,
            hasher,
            candidates: [const { None }; MAX_CANDIDATES],
            candidates_len: 0,
            top: None,
            stack: SmallVec::new(),
            seen: Seen::default(),
            steps: Steps::default(),
        }
    }

    /// Goes through `tree`, which must have the walk's hasher. May be called for several trees.
    pub(crate) fn collect(&mut self, tree: &'a PatternTree<E>, found: &mut impl FnMut(&E, bool)) {
        if self.channel.is_empty() {
            // Only the empty pattern matches the empty channel, as in redis-server. A shell glob decides for itself.
            self.steps.add(1);
            tree.root.entries.iter().for_each(|entry| found(entry, false));
            for entry in tree.root.rare.iter().flat_map(|rare| &rare.unconfirmed) {
                found(entry, true);
            }
            return;
        }
        self.visit_branch(&tree.root, 0, false, found);
        while let Some(visit) = self.top.take().or_else(|| self.stack.pop()) {
            match visit {
                Visit::Branch { branch, at, after_star } => {
                    self.visit_branch(branch, at, after_star, found);
                }
                Visit::Star { star, at } => self.visit_star(star, at, found),
            }
        }
    }

    /// Matches the candidates that `collect` has kept.
    #[inline]
    pub(crate) fn verify(&mut self, found: &mut impl FnMut(&E, bool)) {
        for index in 0..mem::take(&mut self.candidates_len) {
            let Some(Candidate { entry, offset, literal, at, after_star }) = self.candidates[index]
            else {
                break;
            };
            let (own, rest) = split_literal(entry, offset);
            if own == literal {
                self.visit_single_pattern(entry, rest, at, after_star, found);
            }
        }
    }

    /// Returns what the walk took: visits of a node, and bytes of literals compared.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn steps(&self) -> usize {
        self.steps.count()
    }

    #[inline]
    fn push(&mut self, visit: Visit<'a, E>) {
        if let Some(previous) = self.top.replace(visit) {
            self.stack.push(previous);
        }
    }

    /// Visits `node`, reached at position `at`.
    #[inline]
    fn visit_node(
        &mut self,
        node: &'a Node<E>,
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps.add(1);
        let remaining = &self.channel[at..];
        if !node.lookahead.allows(remaining) {
            return;
        }
        match &node.subtree {
            Subtree::Empty => {}
            Subtree::Branch(branch) => self.push(Visit::Branch { branch, at, after_star }),
            Subtree::SinglePattern(entry) => {
                let address = std::ptr::from_ref(node).addr();
                self.match_rest(entry, node.rest(), address, remaining, after_star, found);
            }
        }
    }

    /// Visits a single pattern that has no node, reached at position `at`. `rest` is what is left of its program.
    #[inline]
    fn visit_single_pattern(
        &mut self,
        entry: &E,
        rest: &[u8],
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps.add(1);
        // The program's address identifies the pattern: a table may move the entry, but the program stays.
        let address = entry.program().as_ptr().addr();
        self.match_rest(entry, rest, address, &self.channel[at..], after_star, found);
    }

    /// Matches `rest`, the end of a single pattern's program, against the `remaining` bytes of the channel. `address`
    /// identifies the pattern.
    #[inline]
    fn match_rest(
        &mut self,
        entry: &E,
        rest: &[u8],
        address: usize,
        remaining: &[u8],
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let mut ops = Ops::new(rest);
        match ops.next() {
            None => {
                if remaining.is_empty() {
                    found(entry, false);
                }
            }
            Some(Op::Star) if ops.rest().is_empty() => {
                if !after_star || self.seen.insert(address) {
                    found(entry, false);
                }
            }
            Some(Op::Confirm) => self.report_unconfirmed(entry, address, after_star, found),
            Some(_) if after_star || rest.len() > MAX_REST => {
                self.report_unconfirmed(entry, address, after_star, found);
            }
            Some(_) => {
                if program::matches(rest, remaining, &mut self.steps) {
                    found(entry, false);
                }
            }
        }
    }

    /// Reports a pattern whose beginning matches, unless that has been done.
    #[inline(never)]
    fn report_unconfirmed(
        &mut self,
        entry: &E,
        address: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        if !after_star || self.seen.insert(address) {
            found(entry, true);
        }
    }

    /// Visits the child of a literal, reached at position `at`.
    #[inline]
    fn visit_child(
        &mut self,
        child: Child<'a, E>,
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        match child {
            Child::Node(node) => self.visit_node(node, at, after_star, found),
            Child::SinglePattern(entry, rest) => {
                self.visit_single_pattern(entry, rest, at, after_star, found);
            }
        }
    }

    /// Visits what `literal`, which ends at position `at`, leads to in `table`, or keeps it as a candidate.
    #[inline]
    fn look_up(
        &mut self,
        table: &'a LiteralTable<E>,
        literal: &'a [u8],
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps.add(literal.len());
        let hash = hash_literal(self.hasher, literal);
        if let Some(candidate) = self.candidates.get_mut(self.candidates_len) {
            // The first slot of this hash. A single pattern is the only one; a node may share its hash with others.
            match table.slots.find_map(hash, |_, slot| Some(slot)) {
                None => return,
                Some(LiteralSlot::SinglePattern(_, entry)) => {
                    entry.prefetch();
                    let offset = table.offset;
                    *candidate = Some(Candidate { entry, offset, literal, at, after_star });
                    self.candidates_len += 1;
                    return;
                }
                Some(LiteralSlot::Node(..)) => {}
            }
        }
        if let Some(child) = table.find(literal, hash) {
            self.visit_child(child, at, after_star, found);
        }
    }

    /// Visits `branch`, reached at position `at`: reports the patterns that end there and follows its edges.
    fn visit_branch(
        &mut self,
        branch: &'a Branch<E>,
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps.add(1);
        let remaining = &self.channel[at..];
        if remaining.is_empty() {
            branch.entries.iter().for_each(|entry| found(entry, false));
        }
        let star = branch.rare.as_ref().and_then(|rare| rare.star.as_ref());
        if (star.is_some() || !branch.star_entries.is_empty())
            && (!after_star || self.seen.insert(std::ptr::from_ref(branch).addr()))
        {
            branch.star_entries.iter().for_each(|entry| found(entry, false));
            if let Some(star) = star {
                self.follow_suffixes(&star.suffixes, at, found);
                self.push(Visit::Star { star, at });
            }
        }
        if let Some(rare) = &branch.rare {
            if !rare.unconfirmed.is_empty()
                && (!after_star || self.seen.insert(std::ptr::from_ref(&**rare).addr()))
            {
                rare.unconfirmed.iter().for_each(|entry| found(entry, true));
            }
            for (count, node) in rare.any.iter().take_while(|(count, _)| *count <= remaining.len())
            {
                self.visit_node(node, at + count, after_star, found);
            }
            self.follow_classes(&rare.classes, at, after_star, found);
        }
        self.follow_literals(&branch.literals, at, after_star, found);
    }

    /// Tries the edges after a `*` at the first position where one of them can begin, and pushes a visit for the later
    /// ones. Positions are tried in order, each with all that follows from it, so every inner `*` is reached first at
    /// its earliest position.
    fn visit_star(&mut self, star: &'a Star<E>, mut at: usize, found: &mut impl FnMut(&E, bool)) {
        if star.classes.is_empty() {
            at += match &star.literals {
                LiteralEdges::None => return,
                // Without classes, an edge can begin only where a literal's first byte stands.
                &LiteralEdges::One(first, _) => {
                    match self.channel[at..].iter().position(|&byte| byte == first) {
                        Some(skipped) => skipped,
                        None => return,
                    }
                }
                LiteralEdges::Many(table) => {
                    let can_begin = |&byte: &u8| table.first_bytes.contains(byte);
                    match self.channel[at..].iter().position(can_begin) {
                        Some(skipped) => skipped,
                        None => return,
                    }
                }
            };
        }
        self.steps.add(1);
        if at < self.channel.len() {
            // Pushed before what follows from this position, so that it is visited after that.
            self.push(Visit::Star { star, at: at + 1 });
            self.follow_classes(&star.classes, at, true, found);
            self.follow_literals(&star.literals, at, true, found);
        }
    }

    fn follow_classes(
        &mut self,
        classes: &'a [(ByteSet, Node<E>)],
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let Some(&byte) = self.channel.get(at) else { return };
        for (set, node) in classes {
            self.steps.add(1);
            if set.contains(byte) {
                self.visit_node(node, at + 1, after_star, found);
            }
        }
    }

    /// Follows the literals that the channel has at position `at`.
    fn follow_literals(
        &mut self,
        literals: &'a LiteralEdges<E>,
        at: usize,
        after_star: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let remaining = &self.channel[at..];
        match literals {
            LiteralEdges::None => {}
            LiteralEdges::One(first, node) => {
                if remaining.first() != Some(first) {
                    return;
                }
                self.steps.add(node.literal().len());
                if remaining.starts_with(node.literal()) {
                    self.visit_node(node, at + node.literal().len(), after_star, found);
                }
            }
            LiteralEdges::Many(table) => {
                if !remaining.first().is_some_and(|&byte| table.first_bytes.contains(byte)) {
                    return;
                }
                for length in &table.lengths {
                    let Some((literal, rest)) = remaining.split_at_checked(length.bytes) else {
                        break;
                    };
                    if !length.may_contain(literal) || !table.lookahead.allows(rest) {
                        continue;
                    }
                    self.look_up(table, literal, at + literal.len(), after_star, found);
                }
            }
        }
    }

    /// Follows the suffixes that the channel ends with, from position `at` on at the earliest.
    fn follow_suffixes(
        &mut self,
        suffixes: &'a LiteralEdges<E>,
        at: usize,
        found: &mut impl FnMut(&E, bool),
    ) {
        let end = self.channel.len();
        let remaining = &self.channel[at..];
        match suffixes {
            LiteralEdges::None => {}
            LiteralEdges::One(_, node) => {
                self.steps.add(node.literal().len());
                if remaining.ends_with(node.literal()) {
                    self.visit_node(node, end, true, found);
                }
            }
            LiteralEdges::Many(table) => {
                for length in &table.lengths {
                    let Some(from) = remaining.len().checked_sub(length.bytes) else { break };
                    let literal = &remaining[from..];
                    if !length.may_contain(literal) {
                        continue;
                    }
                    self.look_up(table, literal, end, true, found);
                }
            }
        }
    }
}
