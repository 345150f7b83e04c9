//! The pattern tree: nodes, branches and edges, and how patterns enter and leave them. `walk` matches channels against
//! it.
//!
//! It is a pure data structure: it takes no lock and knows nothing of subscribers. `E` is what the caller keeps for
//! each pattern.
//!
//! # Edges are whole ops
//!
//! An edge stands for a whole op of a pattern's program (see [`program`]), mostly a literal. The literals of a branch
//! lie in a hash table, which a channel searches once for each length that occurs. A million patterns `user:{i}:*` cost
//! a channel one look-up for each number of digits that `i` can have, and these are independent of each other. In a
//! tree with an edge for each byte, a node must be fetched before the next one is known: for these patterns that makes
//! seven dependent cache misses, where this tree has two.
//!
//! # Single patterns
//!
//! Where only one pattern goes on, the rest of it takes no nodes, whatever its length. In a table of literals it has no
//! node at all (see `literals`); elsewhere, the node of its last shared edge keeps the rest of the program; if the rest
//! is long, it keeps only that the pattern itself must be asked. When a second pattern arrives, the rest is spread out,
//! edge by edge, until the two part.
//!
//! # Bounds
//!
//! A pattern has at most [`max_depth`] edges of at most [`program::MAX_LITERAL`] bytes. So it costs little more memory
//! than its program, and adding or removing it takes a bounded number of steps, however long it is. Patterns that have
//! not parted by then share one list of the branch that they reach, and are asked one by one. `walk` tells what bounds
//! a match.

use std::mem;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::literals::{Child, LiteralEdges, LiteralSlot, hash_literal, split_literal};
#[cfg(any(test, fuzzing))]
use super::walk::Walk;
use crate::pattern::program::{self, Op, Ops};
use crate::pattern::{ByteSet, Pattern};

/// Maximum length of the rest of a program that a node keeps and the walk matches, in bytes.
pub(super) const MAX_REST: usize = 256;

/// Stands for the rest of a program that the walk does not match: the pattern must be asked.
const CONFIRM_PROGRAM: &[u8] = &[program::CONFIRM];

/// The length of a `*` in a program, in bytes.
const STAR_BYTES: usize = 1;

/// Returns the maximum number of edges to a pattern of `text_len` bytes.
///
/// An edge that only two patterns share takes a few hundred bytes, so short patterns may have only a few. Each edge is
/// a step under the tree's lock, so long patterns may not have many.
pub(super) fn max_depth(text_len: usize) -> usize {
    (12 + text_len / 16).min(32)
}

/// What a tree keeps for a pattern.
pub(crate) trait Entry: Clone {
    /// Returns the program of a Redis glob; empty for a shell glob.
    fn program(&self) -> &[u8];

    /// Returns the length of the pattern's text, in bytes.
    fn text_len(&self) -> usize;

    /// Prefetches what a match is going to need.
    fn prefetch(&self) {}
}

/// `true` if `entry`, which lies after an edge, is that of a shell glob. Its own program is empty: the programs by
/// which the tree finds it are made anew each time.
pub(super) fn is_shell_glob<E: Entry>(entry: &E) -> bool {
    entry.program().is_empty()
}

/// Entries in one place: one for each pattern text that compiles to the same program.
pub(super) type Entries<E> = SmallVec<[E; 1]>;

/// A tree of patterns. See the module's documentation.
pub(crate) struct PatternTree<E> {
    pub(super) root: Branch<E>,
    pub(super) hasher: RandomState,
}

/// What an edge leads to. One cache line, if the bytes fit into it.
#[repr(align(64))]
pub(super) struct Node<E> {
    /// The literal of the edge that leads here; empty if the edge is not a literal. For a single pattern, the rest of
    /// its program follows, or [`CONFIRM_PROGRAM`] instead.
    pub(super) bytes: SmallVec<[u8; 32]>,
    /// The length of the literal, in bytes.
    literal_len: u32,
    /// What all patterns that go through here have in common.
    pub(super) lookahead: Lookahead,
    pub(super) subtree: Subtree<E>,
}

pub(super) enum Subtree<E> {
    /// Only while a pattern is being added or removed.
    Empty,
    /// Only one pattern goes on: its entry; the rest of its program lies in the node.
    SinglePattern(E),
    Branch(Box<Branch<E>>),
}

/// Where patterns part, or end.
pub(super) struct Branch<E> {
    pub(super) rare: Option<Box<RareEdges<E>>>,
    pub(super) literals: LiteralEdges<E>,
    /// Patterns whose last op is a `*`, directly after this branch.
    pub(super) star_entries: Entries<E>,
    /// Patterns that end here.
    pub(super) entries: Entries<E>,
}

/// What most branches lack.
pub(super) struct RareEdges<E> {
    /// By number of bytes, ascending.
    pub(super) any: Vec<(usize, Node<E>)>,
    pub(super) classes: Vec<(ByteSet, Node<E>)>,
    pub(super) star: Option<Star<E>>,
    /// Patterns of which only the beginning leads here: shell globs, and patterns that reach the maximum depth here.
    pub(super) unconfirmed: Entries<E>,
}

/// A `*` that is not a pattern's last op.
pub(super) struct Star<E> {
    pub(super) literals: LiteralEdges<E>,
    pub(super) classes: Vec<(ByteSet, Node<E>)>,
    /// Literals that are their pattern's last op: only the end of the channel must be compared.
    pub(super) suffixes: LiteralEdges<E>,
}

/// A byte that must follow at some distance, if all patterns agree on one.
///
/// Most nodes lead on to one literal. Knowing its first byte in advance saves following edges that lead nowhere: with
/// patterns `[a-f]{i}?:*` for all `i`, the name `c123456z:` matches one and shares its beginning with five more.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Lookahead(Option<(u8, u8)>);

impl Lookahead {
    /// Returns what `program` requires of the bytes that follow.
    fn of(program: &[u8]) -> Self {
        let mut distance = 0_usize;
        // Only a few ops: this is called for each edge to a pattern.
        for op in Ops::new(program).take(4) {
            match op {
                Op::Literal(literal) => {
                    return Self(
                        u8::try_from(distance).ok().map(|distance| (distance, literal[0])),
                    );
                }
                Op::Any(count) => distance += count,
                Op::Class(_) | Op::Range(..) => distance += 1,
                Op::Star | Op::Confirm => return Self(None),
            }
        }
        Self(None)
    }

    /// Keeps what both require: for one that stands for the patterns of both.
    pub(super) fn keep_common(&mut self, other: Self) {
        if *self != other {
            *self = Self(None);
        }
    }

    /// `false` if no pattern can match `remaining`.
    #[inline]
    pub(super) fn allows(self, remaining: &[u8]) -> bool {
        self.0.is_none_or(|(distance, byte)| remaining.get(usize::from(distance)) == Some(&byte))
    }
}

impl<E> Default for Branch<E> {
    fn default() -> Self {
        Self {
            entries: SmallVec::new(),
            star_entries: SmallVec::new(),
            literals: LiteralEdges::None,
            rare: None,
        }
    }
}

impl<E> Default for RareEdges<E> {
    fn default() -> Self {
        Self { any: Vec::new(), classes: Vec::new(), star: None, unconfirmed: SmallVec::new() }
    }
}

impl<E> Default for Star<E> {
    fn default() -> Self {
        Self { literals: LiteralEdges::None, classes: Vec::new(), suffixes: LiteralEdges::None }
    }
}

/// An edge, as a program asks for it.
#[derive(Clone, Copy)]
enum Edge<'a> {
    Literal(&'a [u8]),
    Any(usize),
    Class(ByteSet),
    /// A `*`, then a literal that is not the pattern's last op.
    StarLiteral(&'a [u8]),
    StarClass(ByteSet),
    /// A `*`, then a literal that ends the pattern.
    Suffix(&'a [u8]),
}

impl<'a> Edge<'a> {
    fn literal(self) -> Option<&'a [u8]> {
        match self {
            Self::Literal(literal) | Self::StarLiteral(literal) | Self::Suffix(literal) => {
                Some(literal)
            }
            Self::Any(_) | Self::Class(_) | Self::StarClass(_) => None,
        }
    }
}

/// One of a branch's lists of entries.
#[derive(Clone, Copy)]
enum EntryList {
    Exact,
    Star,
    Unconfirmed,
}

/// Where a program goes on from a branch.
enum PathStep<'a> {
    /// The pattern ends, in this list.
    End(EntryList),
    /// Along an edge; the rest of the program follows it.
    Edge(Edge<'a>, &'a [u8]),
}

impl<'a> PathStep<'a> {
    /// Returns where `program` goes on if the pattern may have `edges_left` more edges.
    #[inline]
    fn within(edges_left: usize, program: &'a [u8]) -> Self {
        match Self::of(program) {
            Self::Edge(..) if edges_left == 0 => Self::End(EntryList::Unconfirmed),
            step => step,
        }
    }

    #[inline]
    fn of(program: &'a [u8]) -> Self {
        let mut ops = Ops::new(program);
        let edge = match ops.next() {
            None => return Self::End(EntryList::Exact),
            Some(Op::Confirm) => return Self::End(EntryList::Unconfirmed),
            Some(Op::Literal(literal)) => Edge::Literal(literal),
            Some(Op::Any(count)) => Edge::Any(count),
            Some(Op::Class(set)) => Edge::Class(set),
            Some(Op::Range(first, last)) => Edge::Class(ByteSet::range(first, last)),
            Some(Op::Star) => match ops.next() {
                None => return Self::End(EntryList::Star),
                Some(Op::Literal(literal)) if ops.rest().is_empty() => Edge::Suffix(literal),
                Some(Op::Literal(literal)) => Edge::StarLiteral(literal),
                Some(Op::Class(set)) => Edge::StarClass(set),
                Some(Op::Range(first, last)) => Edge::StarClass(ByteSet::range(first, last)),
                Some(Op::Star | Op::Any(_) | Op::Confirm) => {
                    unreachable!("programs are in normal form, and a shell glob's has no star")
                }
            },
        };
        Self::Edge(edge, ops.rest())
    }
}

impl<E: Entry> PatternTree<E> {
    /// Creates an empty tree. `hasher` spreads the literals; names can come from outside, so it must be seeded.
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { root: Branch::default(), hasher }
    }

    /// Returns the entry of `pattern` for which `is_it` holds, if the tree has it.
    ///
    /// # Complexity
    ///
    /// As for [`remove`](Self::remove).
    pub(crate) fn get(&self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<&E> {
        let mut edges_left = max_depth(pattern.as_str().len());
        let programs = pattern.programs();
        let mut program: &[u8] = programs.first()?;
        let mut branch = &self.root;
        loop {
            let (edge, rest) = match PathStep::within(edges_left, program) {
                PathStep::End(list) => return branch.list(list).iter().find(|entry| is_it(entry)),
                PathStep::Edge(edge, rest) => (edge, rest),
            };
            edges_left -= 1;
            match branch.child(edge, &self.hasher)? {
                Child::SinglePattern(entry, _) => return Some(entry).filter(|entry| is_it(entry)),
                Child::Node(node) => match &node.subtree {
                    Subtree::Empty => return None,
                    Subtree::SinglePattern(entry) => {
                        return Some(entry).filter(|entry| is_it(entry));
                    }
                    Subtree::Branch(subtree) => branch = subtree,
                },
            }
            program = rest;
        }
    }

    /// Adds `entry` for `pattern`. The tree must not hold it yet.
    ///
    /// # Complexity
    ///
    /// A bounded number of edges; at each of them, linear in the different classes, or lengths of `?`, that stand
    /// there. The number of patterns does not matter.
    pub(crate) fn insert(&mut self, pattern: &Pattern, entry: &E) {
        let max_edges = max_depth(entry.text_len());
        for program in pattern.programs() {
            self.root.insert(&program, 0, max_edges, entry.clone(), &self.hasher);
        }
    }

    /// Removes the entry of `pattern` for which `is_it` holds, with the nodes that only this pattern needed.
    ///
    /// # Complexity
    ///
    /// As for [`insert`](Self::insert); and linear in the patterns that compile to the same program, and in those that
    /// are unconfirmed in the same place.
    pub(crate) fn remove(&mut self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let mut removed = None;
        let max_edges = max_depth(pattern.as_str().len());
        for program in pattern.programs() {
            removed = self.remove_program(&program, max_edges, &is_it).or(removed);
        }
        removed
    }

    fn remove_program(
        &mut self,
        program: &[u8],
        mut edges_left: usize,
        is_it: impl Fn(&E) -> bool,
    ) -> Option<E> {
        // The rest of the program at the last branch that other patterns need, too.
        let mut kept = program;
        let mut rest_here = program;
        let mut branch = &mut self.root;
        let removed = loop {
            let (edge, rest) = match PathStep::within(edges_left, rest_here) {
                PathStep::End(list) => {
                    let removed = branch.take_entry(list, is_it)?;
                    if branch.len() > 0 {
                        return Some(removed);
                    }
                    break removed;
                }
                PathStep::Edge(edge, rest) => (edge, rest),
            };
            edges_left -= 1;
            if let Child::SinglePattern(entry, _) = branch.child(edge, &self.hasher)? {
                // A table holds two literals or more: the branch stays.
                return if is_it(entry) { branch.take_single(edge, &self.hasher) } else { None };
            }
            if branch.len() > 1 {
                kept = rest_here;
            }
            let node = branch.child_mut(edge, &self.hasher)?;
            match &mut node.subtree {
                Subtree::Branch(subtree) => branch = subtree,
                Subtree::SinglePattern(entry) if !is_it(entry) => return None,
                subtree => match mem::replace(subtree, Subtree::Empty) {
                    Subtree::SinglePattern(entry) => break entry,
                    _ => return None,
                },
            }
            rest_here = rest;
        };
        self.root.cut(program, kept.len(), &self.hasher);
        Some(removed)
    }

    /// Calls `each` for every entry, once for each place where it stands.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&E)) {
        let mut branches = vec![&self.root];
        let mut nodes = Vec::new();
        while let Some(branch) = branches.pop() {
            branch.entries.iter().chain(&branch.star_entries).for_each(&mut each);
            branch.literals.push_all(&mut nodes, &mut each);
            if let Some(rare) = &branch.rare {
                rare.unconfirmed.iter().for_each(&mut each);
                nodes.extend(rare.any.iter().map(|(_, node)| node));
                nodes.extend(rare.classes.iter().map(|(_, node)| node));
                if let Some(star) = &rare.star {
                    nodes.extend(star.classes.iter().map(|(_, node)| node));
                    star.literals.push_all(&mut nodes, &mut each);
                    star.suffixes.push_all(&mut nodes, &mut each);
                }
            }
            for node in nodes.drain(..) {
                match &node.subtree {
                    Subtree::Empty => {}
                    Subtree::SinglePattern(entry) => each(entry),
                    Subtree::Branch(subtree) => branches.push(subtree),
                }
            }
        }
    }

    /// Calls `found` once for each pattern that matches `channel`, with `true` if it is unconfirmed. Returns the
    /// steps of the [`Walk`].
    #[cfg(any(test, fuzzing))]
    pub(crate) fn matches(&self, channel: &[u8], mut found: impl FnMut(&E, bool)) -> usize {
        let mut walk = Walk::new(channel, &self.hasher);
        walk.collect(self, &mut found);
        walk.verify(&mut found);
        walk.steps()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.len() == 0
    }
}

impl<E: Entry> Node<E> {
    /// Creates the node of a literal after which only one pattern goes on. The literal begins at `offset` in the
    /// program of `entry`.
    pub(super) fn single_pattern(entry: E, offset: usize) -> Self {
        let (literal, rest) = split_literal(&entry, offset);
        let mut node = Self::new(literal, Lookahead::of(rest));
        node.keep(rest);
        node.subtree = Subtree::SinglePattern(entry);
        node
    }

    /// Gives the single pattern that goes on here a branch of its own. The rest of its program begins at `offset`, and
    /// `depth` edges lead here.
    fn spread(&mut self, offset: usize, depth: usize, hasher: &RandomState) {
        let mut branch = Box::<Branch<E>>::default();
        if let Subtree::SinglePattern(entry) = mem::replace(&mut self.subtree, Subtree::Empty) {
            let edges_left = max_depth(entry.text_len()) - depth;
            if is_shell_glob(&entry) {
                branch.insert(CONFIRM_PROGRAM, offset, edges_left, entry, hasher);
            } else {
                let owner = entry.clone();
                branch.insert(&owner.program()[offset..], offset, edges_left, entry, hasher);
            }
        }
        self.subtree = Subtree::Branch(branch);
        self.bytes.truncate(self.literal_len as usize);
        self.bytes.shrink_to_fit();
    }
}

impl<E> Node<E> {
    pub(super) fn new(literal: &[u8], lookahead: Lookahead) -> Self {
        debug_assert!(literal.len() <= program::MAX_LITERAL);
        let bytes = SmallVec::from_slice(literal);
        Self { bytes, literal_len: literal.len() as u32, lookahead, subtree: Subtree::Empty }
    }

    /// Returns the literal of the edge that leads here.
    #[inline]
    pub(super) fn literal(&self) -> &[u8] {
        &self.bytes[..self.literal_len as usize]
    }

    /// Keeps the rest of the program of the single pattern that goes on here.
    fn keep(&mut self, rest: &[u8]) {
        self.bytes.extend_from_slice(if rest.len() > MAX_REST { CONFIRM_PROGRAM } else { rest });
    }

    /// Returns what [`keep`](Self::keep) has kept.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.literal_len as usize..]
    }
}

impl<E: Entry> Branch<E> {
    /// Adds `entry` for the pattern whose program goes on with `program` here, at `offset`. It may have `edges_left`
    /// more edges.
    fn insert(
        &mut self,
        mut program: &[u8],
        mut offset: usize,
        mut edges_left: usize,
        entry: E,
        hasher: &RandomState,
    ) {
        let max_edges = max_depth(entry.text_len());
        let mut branch = self;
        loop {
            let (edge, rest) = match PathStep::within(edges_left, program) {
                PathStep::End(list) => return branch.list_mut(list).push(entry),
                PathStep::Edge(edge, rest) => (edge, rest),
            };
            edges_left -= 1;
            let lookahead = Lookahead::of(rest);
            if !is_shell_glob(&entry)
                && let Some(literal) = edge.literal()
                && let Some(LiteralEdges::Many(table)) = branch.literals_of(edge)
            {
                let hash = hash_literal(hasher, literal);
                if table.find(literal, hash).is_none() {
                    table.lookahead.keep_common(lookahead);
                    table.insert(literal, LiteralSlot::SinglePattern(hash, entry));
                    return;
                }
            }
            let node = branch.child_or_insert(edge, offset, lookahead, hasher);
            offset += program.len() - rest.len();
            match &node.subtree {
                Subtree::Branch(_) => {}
                // This recurses once: the branch that it inserts into has no other pattern.
                Subtree::SinglePattern(_) => node.spread(offset, max_edges - edges_left, hasher),
                Subtree::Empty => {
                    node.keep(rest);
                    node.subtree = Subtree::SinglePattern(entry);
                    return;
                }
            }
            let Subtree::Branch(subtree) = &mut node.subtree else { unreachable!("made above") };
            branch = subtree;
            program = rest;
        }
    }

    /// Removes the edge of `program` at which `kept_len` bytes of it are left, with everything after it.
    fn cut(&mut self, program: &[u8], kept_len: usize, hasher: &RandomState) {
        let mut branch = self;
        let mut rest_here = program;
        while let PathStep::Edge(edge, rest) = PathStep::of(rest_here) {
            if rest_here.len() == kept_len {
                branch.remove_child(edge, hasher);
                break;
            }
            match branch.child_mut(edge, hasher).map(|node| &mut node.subtree) {
                Some(Subtree::Branch(subtree)) => branch = subtree,
                _ => break,
            }
            rest_here = rest;
        }
    }

    fn list(&self, list: EntryList) -> &[E] {
        match list {
            EntryList::Exact => &self.entries,
            EntryList::Star => &self.star_entries,
            EntryList::Unconfirmed => self.rare.as_ref().map_or(&[], |rare| &rare.unconfirmed),
        }
    }

    fn list_mut(&mut self, list: EntryList) -> &mut Entries<E> {
        match list {
            EntryList::Exact => &mut self.entries,
            EntryList::Star => &mut self.star_entries,
            EntryList::Unconfirmed => &mut self.rare.get_or_insert_default().unconfirmed,
        }
    }

    fn take_entry(&mut self, list: EntryList, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let at = self.list(list).iter().position(is_it)?;
        let entries = self.list_mut(list);
        let entry = entries.swap_remove(at);
        if entries.len() < entries.capacity() / 4 {
            entries.shrink_to_fit();
        }
        self.drop_rare_if_empty();
        Some(entry)
    }

    /// Returns the number of entries and edges of this branch.
    fn len(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let star = rare.star.as_ref().map_or(0, |star| star.len());
            rare.any.len() + rare.classes.len() + rare.unconfirmed.len() + star
        });
        self.entries.len() + self.star_entries.len() + self.literals.len() + rare
    }

    fn child(&self, edge: Edge<'_>, hasher: &RandomState) -> Option<Child<'_, E>> {
        let rare = || self.rare.as_deref();
        let star = || rare()?.star.as_ref();
        match edge {
            Edge::Literal(literal) => self.literals.get(literal, hasher),
            Edge::Any(count) => {
                let any = &rare()?.any;
                let at = any.binary_search_by_key(&count, |(count, _)| *count).ok()?;
                Some(Child::Node(&any[at].1))
            }
            Edge::Class(set) => find_class(&rare()?.classes, set).map(Child::Node),
            Edge::StarLiteral(literal) => star()?.literals.get(literal, hasher),
            Edge::StarClass(set) => find_class(&star()?.classes, set).map(Child::Node),
            Edge::Suffix(literal) => star()?.suffixes.get(literal, hasher),
        }
    }

    /// Returns the literals among which `edge` is or would be.
    fn literals_of(&mut self, edge: Edge<'_>) -> Option<&mut LiteralEdges<E>> {
        match edge {
            Edge::Literal(_) => Some(&mut self.literals),
            Edge::StarLiteral(_) => Some(&mut self.star_mut()?.literals),
            Edge::Suffix(_) => Some(&mut self.star_mut()?.suffixes),
            Edge::Any(_) | Edge::Class(_) | Edge::StarClass(_) => None,
        }
    }

    /// Removes the entry of the single pattern that goes on along `edge`, a literal in a table.
    fn take_single(&mut self, edge: Edge<'_>, hasher: &RandomState) -> Option<E> {
        let literal = edge.literal()?;
        match self.literals_of(edge)?.remove(literal, hasher)? {
            LiteralSlot::SinglePattern(_, entry) => Some(entry),
            LiteralSlot::Node(..) => unreachable!("seen to be a single pattern"),
        }
    }

    /// Returns the node that `edge` leads to, if it leads to one.
    fn child_mut(&mut self, edge: Edge<'_>, hasher: &RandomState) -> Option<&mut Node<E>> {
        match edge {
            Edge::Literal(literal) | Edge::StarLiteral(literal) | Edge::Suffix(literal) => {
                self.literals_of(edge)?.get_mut(literal, hasher)
            }
            Edge::Any(count) => {
                let any = &mut self.rare.as_mut()?.any;
                let at = any.binary_search_by_key(&count, |(count, _)| *count).ok()?;
                Some(&mut any[at].1)
            }
            Edge::Class(set) => find_class_mut(&mut self.rare.as_mut()?.classes, set),
            Edge::StarClass(set) => find_class_mut(&mut self.star_mut()?.classes, set),
        }
    }

    fn star_mut(&mut self) -> Option<&mut Star<E>> {
        self.rare.as_mut()?.star.as_mut()
    }

    /// Returns the node that `edge` leads to, made if there is none, for a pattern that requires `lookahead` after it.
    /// The edge begins at `offset` in the pattern's program.
    fn child_or_insert(
        &mut self,
        edge: Edge<'_>,
        offset: usize,
        lookahead: Lookahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        if let Edge::Literal(literal) = edge {
            return self.literals.get_or_insert(literal, offset, lookahead, hasher);
        }
        let rare = self.rare.get_or_insert_default();
        match edge {
            Edge::Any(count) => {
                let at = rare.any.binary_search_by_key(&count, |(count, _)| *count);
                let at = at.unwrap_or_else(|at| {
                    reserve_one(&mut rare.any);
                    rare.any.insert(at, (count, Node::new(&[], lookahead)));
                    at
                });
                let node = &mut rare.any[at].1;
                node.lookahead.keep_common(lookahead);
                node
            }
            Edge::Class(set) => class_or_insert(&mut rare.classes, set, lookahead),
            Edge::Literal(_) => unreachable!("returned above"),
            Edge::StarLiteral(literal) => {
                let star = rare.star.get_or_insert_default();
                star.literals.get_or_insert(literal, offset + STAR_BYTES, lookahead, hasher)
            }
            Edge::StarClass(set) => {
                class_or_insert(&mut rare.star.get_or_insert_default().classes, set, lookahead)
            }
            Edge::Suffix(literal) => {
                let star = rare.star.get_or_insert_default();
                star.suffixes.get_or_insert(literal, offset + STAR_BYTES, lookahead, hasher)
            }
        }
    }

    fn remove_child(&mut self, edge: Edge<'_>, hasher: &RandomState) {
        match edge {
            Edge::Literal(literal) | Edge::StarLiteral(literal) | Edge::Suffix(literal) => {
                if let Some(literals) = self.literals_of(edge) {
                    literals.remove(literal, hasher);
                }
            }
            Edge::Any(count) => {
                if let Some(rare) = &mut self.rare {
                    rare.any.retain(|(other, _)| *other != count);
                    shrink(&mut rare.any);
                }
            }
            Edge::Class(set) => {
                if let Some(rare) = &mut self.rare {
                    remove_class(&mut rare.classes, set);
                }
            }
            Edge::StarClass(set) => {
                if let Some(star) = self.star_mut() {
                    remove_class(&mut star.classes, set);
                }
            }
        }
        if let Some(rare) = &mut self.rare {
            rare.star.take_if(|star| star.len() == 0);
        }
        self.drop_rare_if_empty();
    }
}

impl<E> Branch<E> {
    fn drop_rare_if_empty(&mut self) {
        let is_empty = |rare: &mut Box<RareEdges<E>>| {
            rare.any.is_empty()
                && rare.classes.is_empty()
                && rare.unconfirmed.is_empty()
                && rare.star.is_none()
        };
        self.rare.take_if(is_empty);
    }

    /// Moves the nodes of all edges to `nodes`.
    fn take_children(&mut self, nodes: &mut Vec<Node<E>>) {
        mem::replace(&mut self.literals, LiteralEdges::None).take_all(nodes);
        if let Some(mut rare) = self.rare.take() {
            nodes.extend(rare.any.drain(..).map(|(_, node)| node));
            nodes.extend(rare.classes.drain(..).map(|(_, node)| node));
            if let Some(mut star) = rare.star.take() {
                nodes.extend(star.classes.drain(..).map(|(_, node)| node));
                mem::replace(&mut star.literals, LiteralEdges::None).take_all(nodes);
                mem::replace(&mut star.suffixes, LiteralEdges::None).take_all(nodes);
            }
        }
    }
}

/// Drops the subtree level by level: its depth must not reach the stack.
impl<E> Drop for Branch<E> {
    fn drop(&mut self) {
        if matches!(self.literals, LiteralEdges::None) && self.rare.is_none() {
            return;
        }
        let mut doomed = Vec::new();
        self.take_children(&mut doomed);
        while let Some(node) = doomed.pop() {
            if let Subtree::Branch(mut branch) = node.subtree {
                branch.take_children(&mut doomed);
            }
        }
    }
}

impl<E> Star<E> {
    fn len(&self) -> usize {
        self.literals.len() + self.classes.len() + self.suffixes.len()
    }
}

fn find_class<E>(classes: &[(ByteSet, Node<E>)], set: ByteSet) -> Option<&Node<E>> {
    classes.iter().find(|(other, _)| *other == set).map(|(_, node)| node)
}

fn find_class_mut<E>(classes: &mut [(ByteSet, Node<E>)], set: ByteSet) -> Option<&mut Node<E>> {
    classes.iter_mut().find(|(other, _)| *other == set).map(|(_, node)| node)
}

fn class_or_insert<E>(
    classes: &mut Vec<(ByteSet, Node<E>)>,
    set: ByteSet,
    lookahead: Lookahead,
) -> &mut Node<E> {
    let at = classes.iter().position(|(other, _)| *other == set).unwrap_or_else(|| {
        reserve_one(classes);
        classes.push((set, Node::new(&[], lookahead)));
        classes.len() - 1
    });
    let node = &mut classes[at].1;
    node.lookahead.keep_common(lookahead);
    node
}

fn remove_class<E>(classes: &mut Vec<(ByteSet, Node<E>)>, set: ByteSet) {
    classes.retain(|(other, _)| *other != set);
    shrink(classes);
}

/// Makes room for exactly one item in an empty list: most lists have one.
fn reserve_one<T>(items: &mut Vec<T>) {
    if items.capacity() == 0 {
        items.reserve_exact(1);
    }
}

fn shrink<T>(items: &mut Vec<T>) {
    if items.len() < items.capacity() / 4 {
        items.shrink_to(items.len() * 2);
    }
}
