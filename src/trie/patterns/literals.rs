//! The edges of literal bytes: a single node, or a hash table from the literal to what it leads to.
//!
//! A table is searched once for each length that occurs among its literals. These searches are independent of each
//! other, and two small filters (the bytes that literals begin and end with) skip most of those that would fail.
//!
//! A pattern that is alone after its literal has no node. Its slot takes 16 bytes: the hash, and the entry, whose
//! program holds both the literal and the rest. A million such patterns make a table small enough for a cache to hold
//! much of it, and a match fetches only the entries that it has to look at.

use std::hash::{BuildHasher, Hasher};
use std::mem;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::tree::{Entry, Lookahead, Node, Subtree, is_shell_glob};
use crate::pattern::ByteSet;
use crate::pattern::program::{Op, Ops};
use crate::trie::probe_table::{Hashed, ProbeTable};

/// Edges of literal bytes.
pub(super) enum LiteralEdges<E> {
    None,
    /// The literal's first byte and its node. In most cases the byte tells that the node need not be fetched.
    One(u8, Box<Node<E>>),
    Many(Box<LiteralTable<E>>),
}

/// Two literals or more, found by their hash.
pub(super) struct LiteralTable<E> {
    pub(super) slots: ProbeTable<LiteralSlot<E>>,
    /// Where the literal begins in the program of each pattern, in bytes.
    pub(super) offset: usize,
    /// The lengths that occur, ascending.
    pub(super) lengths: SmallVec<[Length; 4]>,
    /// The bytes that literals begin with. It does not shrink while the table lives.
    pub(super) first_bytes: ByteSet,
    /// The lookahead of all nodes, where they agree: a literal that leads nowhere need not be looked up.
    pub(super) lookahead: Lookahead,
}

/// A literal in a table, with its hash. The hash is kept so that neither a search nor a growing table fetches anything
/// else for the other literals.
pub(super) enum LiteralSlot<E> {
    /// Only one pattern goes on here; its program holds the literal and the rest. No other literal in the table has
    /// this hash.
    SinglePattern(u32, E),
    Node(u32, Box<Node<E>>),
}

/// What an edge leads to.
pub(super) enum Child<'a, E> {
    /// Only one pattern goes on: its entry, and the rest of its program.
    SinglePattern(&'a E, &'a [u8]),
    Node(&'a Node<E>),
}

/// The literals of one length in a table.
pub(super) struct Length {
    /// The length, in bytes.
    pub(super) bytes: usize,
    /// The number of literals of this length.
    literals: usize,
    /// The bytes that they begin and end with, as filters of 64 bits: four bytes share one. They do not shrink while
    /// there is a literal of this length.
    first: u64,
    last: u64,
}

impl Length {
    fn bit(byte: u8) -> u64 {
        1 << (byte & 63)
    }

    /// `false` if no literal of this length can be equal to `bytes`, which must have this length.
    #[inline]
    pub(super) fn may_contain(&self, bytes: &[u8]) -> bool {
        match bytes {
            [] => false,
            [first, .., last] => {
                self.first & Self::bit(*first) != 0 && self.last & Self::bit(*last) != 0
            }
            [only] => self.first & Self::bit(*only) != 0,
        }
    }
}

impl<E: Entry> LiteralSlot<E> {
    /// Returns the literal and what it leads to. `offset` is that of the table.
    #[inline]
    fn read(&self, offset: usize) -> (&[u8], Child<'_, E>) {
        match self {
            Self::SinglePattern(_, entry) => {
                let (literal, rest) = split_literal(entry, offset);
                (literal, Child::SinglePattern(entry, rest))
            }
            Self::Node(_, node) => (node.literal(), Child::Node(node)),
        }
    }

    /// Turns a single pattern into a node.
    fn make_node(&mut self, offset: usize) {
        if let Self::SinglePattern(hash, entry) = self {
            *self = Self::Node(*hash, Box::new(Node::single_pattern(entry.clone(), offset)));
        }
    }
}

impl<E> Hashed for LiteralSlot<E> {
    #[inline]
    fn hash(&self) -> u32 {
        match self {
            Self::SinglePattern(hash, _) | Self::Node(hash, _) => *hash,
        }
    }
}

impl<E> LiteralEdges<E> {
    /// The edge to `node`, whose literal is not empty.
    fn one(node: Box<Node<E>>) -> Self {
        Self::One(node.literal()[0], node)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(table) => table.slots.len(),
        }
    }

    /// Adds all nodes to `nodes`, and calls `each` for the entries that have no node.
    pub(super) fn push_all<'a>(&'a self, nodes: &mut Vec<&'a Node<E>>, mut each: impl FnMut(&E)) {
        match self {
            Self::None => {}
            Self::One(_, node) => nodes.push(node),
            Self::Many(table) => table.slots.iter().for_each(|slot| match slot {
                LiteralSlot::SinglePattern(_, entry) => each(entry),
                LiteralSlot::Node(_, node) => nodes.push(node),
            }),
        }
    }

    /// Moves all nodes to `nodes`.
    pub(super) fn take_all(self, nodes: &mut Vec<Node<E>>) {
        match self {
            Self::None => {}
            Self::One(_, node) => nodes.push(*node),
            Self::Many(table) => {
                nodes.extend(table.slots.into_iter().filter_map(|slot| match slot {
                    LiteralSlot::SinglePattern(..) => None,
                    LiteralSlot::Node(_, node) => Some(*node),
                }));
            }
        }
    }
}

impl<E: Entry> LiteralEdges<E> {
    pub(super) fn get(&self, literal: &[u8], hasher: &RandomState) -> Option<Child<'_, E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (node.literal() == literal).then_some(Child::Node(node)),
            Self::Many(table) => table.find(literal, hash_literal(hasher, literal)),
        }
    }

    /// Returns the node of `literal`, if it has one.
    pub(super) fn get_mut(&mut self, literal: &[u8], hasher: &RandomState) -> Option<&mut Node<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (node.literal() == literal).then_some(node),
            Self::Many(table) => match table.find_mut(literal, hasher)? {
                LiteralSlot::SinglePattern(..) => None,
                LiteralSlot::Node(_, node) => Some(node),
            },
        }
    }

    /// Returns the node of `literal`, made if there is none. The literal begins at `offset` in the program of its
    /// patterns.
    pub(super) fn get_or_insert(
        &mut self,
        literal: &[u8],
        offset: usize,
        lookahead: Lookahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        let needs_table = match self {
            Self::None => {
                *self = Self::one(Box::new(Node::new(literal, lookahead)));
                false
            }
            Self::One(_, node) => node.literal() != literal,
            Self::Many(_) => false,
        };
        if needs_table && let Self::One(_, node) = mem::replace(self, Self::None) {
            let mut table = LiteralTable::new(offset, node.lookahead);
            table.insert_node(node, hasher);
            *self = Self::Many(Box::new(table));
        }
        let node = match self {
            Self::None => unreachable!("filled above"),
            Self::One(_, node) => node,
            Self::Many(table) => {
                table.lookahead.keep_common(lookahead);
                table.node_or_insert(literal, lookahead, hasher)
            }
        };
        node.lookahead.keep_common(lookahead);
        node
    }

    /// Removes `literal` and returns what it led to.
    pub(super) fn remove(
        &mut self,
        literal: &[u8],
        hasher: &RandomState,
    ) -> Option<LiteralSlot<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) if node.literal() != literal => None,
            Self::One(..) => match mem::replace(self, Self::None) {
                Self::One(_, node) => Some(LiteralSlot::Node(hash_literal(hasher, literal), node)),
                _ => None,
            },
            Self::Many(table) => {
                let removed = table.remove(literal, hasher);
                if table.slots.len() == 1 {
                    let last = table.take_last();
                    *self = last.map_or(Self::None, Self::one);
                }
                removed
            }
        }
    }
}

impl<E: Entry> LiteralTable<E> {
    fn new(offset: usize, lookahead: Lookahead) -> Self {
        Self {
            slots: ProbeTable::default(),
            offset,
            lengths: SmallVec::new(),
            first_bytes: ByteSet::default(),
            lookahead,
        }
    }

    /// Returns what `literal`, whose hash is `hash`, leads to.
    #[inline]
    pub(super) fn find(&self, literal: &[u8], hash: u32) -> Option<Child<'_, E>> {
        self.slots.find_map(hash, |_, slot| {
            let (own, child) = slot.read(self.offset);
            (own == literal).then_some(child)
        })
    }

    fn find_mut(&mut self, literal: &[u8], hasher: &RandomState) -> Option<&mut LiteralSlot<E>> {
        let hash = hash_literal(hasher, literal);
        let offset = self.offset;
        self.slots.find_mut(hash, |slot| slot.read(offset).0 == literal)
    }

    /// Returns the node of `literal`, made if there is none or only a single pattern.
    fn node_or_insert(
        &mut self,
        literal: &[u8],
        lookahead: Lookahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        let hash = hash_literal(hasher, literal);
        if self.find(literal, hash).is_none() {
            let node = Box::new(Node::new(literal, lookahead));
            self.insert(literal, LiteralSlot::Node(hash, node));
        }
        let offset = self.offset;
        let Some(slot) = self.find_mut(literal, hasher) else { unreachable!("inserted above") };
        slot.make_node(offset);
        match slot {
            LiteralSlot::Node(_, node) => node,
            LiteralSlot::SinglePattern(..) => unreachable!("made a node above"),
        }
    }

    /// Adds a node whose literal is not in the table yet.
    fn insert_node(&mut self, mut node: Box<Node<E>>, hasher: &RandomState) {
        let literal: SmallVec<[u8; 32]> = SmallVec::from_slice(node.literal());
        let hash = hash_literal(hasher, &literal);
        let slot = match mem::replace(&mut node.subtree, Subtree::Empty) {
            Subtree::SinglePattern(entry) if !is_shell_glob(&entry) => {
                LiteralSlot::SinglePattern(hash, entry)
            }
            subtree => {
                node.subtree = subtree;
                LiteralSlot::Node(hash, node)
            }
        };
        self.insert(&literal, slot);
    }

    /// Adds `literal`, which is not in the table yet.
    pub(super) fn insert(&mut self, literal: &[u8], mut slot: LiteralSlot<E>) {
        // A single pattern must be the only slot of its hash: a walk that sees one looks no further.
        if let Some(collision) = self.slots.find_mut(slot.hash(), |_| true) {
            collision.make_node(self.offset);
            slot.make_node(self.offset);
        }
        let (first, last) = (literal[0], literal[literal.len() - 1]);
        self.first_bytes.insert(first);
        let (first, last) = (Length::bit(first), Length::bit(last));
        match self.lengths.binary_search_by_key(&literal.len(), |length| length.bytes) {
            Ok(at) => {
                let length = &mut self.lengths[at];
                length.literals += 1;
                length.first |= first;
                length.last |= last;
            }
            Err(at) => {
                self.lengths.insert(at, Length { bytes: literal.len(), literals: 1, first, last });
            }
        }
        self.slots.insert(slot);
    }

    fn remove(&mut self, literal: &[u8], hasher: &RandomState) -> Option<LiteralSlot<E>> {
        let hash = hash_literal(hasher, literal);
        let offset = self.offset;
        let removed = self.slots.remove(hash, |slot| slot.read(offset).0 == literal)?;
        self.slots.shrink(0);
        if let Ok(at) = self.lengths.binary_search_by_key(&literal.len(), |length| length.bytes) {
            self.lengths[at].literals -= 1;
            if self.lengths[at].literals == 0 {
                self.lengths.remove(at);
                self.lengths.shrink_to_fit();
            }
        }
        Some(removed)
    }

    /// Removes the only literal left, and returns it as a node.
    fn take_last(&mut self) -> Option<Box<Node<E>>> {
        Some(match mem::take(&mut self.slots).into_iter().next()? {
            LiteralSlot::SinglePattern(_, entry) => {
                Box::new(Node::single_pattern(entry, self.offset))
            }
            LiteralSlot::Node(_, node) => node,
        })
    }
}

/// Returns the literal that begins at `offset` in the program of `entry`, and what follows it.
#[inline]
pub(super) fn split_literal<E: Entry>(entry: &E, offset: usize) -> (&[u8], &[u8]) {
    let mut ops = Ops::new(&entry.program()[offset..]);
    match ops.next() {
        Some(Op::Literal(literal)) => (literal, ops.rest()),
        _ => unreachable!("the patterns of a table have a literal there"),
    }
}

/// Returns the hash under which a table keeps `literal`. Names can come from outside, so `hasher` is seeded.
#[inline]
pub(super) fn hash_literal(hasher: &RandomState, literal: &[u8]) -> u32 {
    let mut state = hasher.build_hasher();
    state.write(literal);
    let hash = state.finish() as u32;
    #[cfg(test)]
    let hash = hash & super::tests::HASH_MASK.get();
    hash
}
