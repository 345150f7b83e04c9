//! The pattern trie: a tree over the steps of patterns, walked as an automaton over a channel.
//!
//! It is a pure data structure: it takes no lock and knows nothing of subscribers. `E` is what stands
//! at a pattern's end.
//!
//! Edges are whole steps. A run of literal bytes is one edge, found by hash among its siblings: one
//! look-up for each length that occurs among them, so that the patterns `user:{i}:*` cost a channel as
//! many look-ups as there are different numbers of digits, independent of each other, and not a chain
//! of nodes that each must be fetched before the next is known. (A byte-wise radix trie over a million
//! of these costs seven dependent cache misses; this one costs two.)
//!
//! Where one pattern alone goes on, no nodes are made for the rest of it, whatever its length: it is matched as one
//! pattern against one channel is. Among many runs there is not even a node for the run, but 16 bytes that point to the
//! pattern's end, which says what its code is; so of a million patterns, a match fetches what it must to reach the one,
//! and the table is small enough for a cache to have much of it. Elsewhere a short rest is kept in the node. Only a
//! second pattern on the same way has the rest spread out, edge by edge until the two part.
//!
//! # Bounds
//!
//! A pattern has [`max_depth`] edges at most, and an edge is [`program::MAX_RUN`] bytes at most: so a pattern costs little
//! more than its code does, and adding or removing it takes a bounded number of steps, however long it is. Patterns that
//! have not parted by then end in one list of the branch that they reach.
//!
//! The walk is bounded whatever the patterns. A node is reached from its one parent, by an edge of a
//! fixed length, unless the parent is a `*`; and a `*` is entered once in a walk, at the earliest
//! position: it tries its edges at every later one itself, so a later entry could find nothing new.
//! Hence every node is visited at most once for each position of the channel.
//!
//! The rest of a pattern that is alone is matched in the walk only if it is short and no `*` lies on the way, so that it
//! is matched once. If it is long or lies behind a `*`, and where the depth ends, the walk reports the pattern as
//! *unconfirmed*, once: its beginning has been found, and whether the whole of it matches is for the caller to ask the
//! pattern (when it holds no lock any more). That takes the product of the lengths of pattern and channel at most, and
//! nothing for a pattern that is longer than the channel. Shell globs are always unconfirmed.

use std::hash::{BuildHasher, Hasher};
use std::mem;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use smallvec::SmallVec;

use crate::pattern::program::{self, Step, Steps};
use crate::pattern::{ByteSet, Pattern};
use crate::trie::probe_table::{Hashed, ProbeTable};

/// What stands at a pattern's end.
pub(crate) trait End: Clone {
    /// The code of the pattern, if it is a Redis glob; empty for a shell glob.
    fn code(&self) -> &[u8];

    /// The number of bytes of the pattern's text.
    fn text_len(&self) -> usize;

    /// Has what a match is going to need brought into the cache.
    fn prefetch(&self) {}
}

/// A trie of patterns. See the module's documentation.
pub(crate) struct PatternTree<E> {
    root: Branch<E>,
    hasher: RandomState,
}

/// What an edge leads to: one cache line, if the bytes fit into it.
#[repr(align(64))]
struct Node<E> {
    /// The literal bytes of the edge that leads here, none where it is no run; then, where one pattern alone
    /// goes on, the code of the rest of it, or [`CONFIRM`] in its stead.
    bytes: SmallVec<[u8; 32]>,
    /// How many of them are the edge's.
    run: u32,
    /// What all patterns that go through here ask of the bytes that follow.
    ahead: Ahead,
    below: Below<E>,
}

enum Below<E> {
    /// Only while a pattern is put in or taken out.
    Nothing,
    /// One pattern, of which nothing but its end and the code in the node is kept.
    Lone(E),
    Branch(Box<Branch<E>>),
}

/// Maximum length of a rest, in bytes of code, that is kept in a node and matched in the walk.
const MAX_REST: usize = 256;

/// The code of a rest that the walk does not match: the pattern is to be confirmed.
const CONFIRM: &[u8] = &[program::ASK];

/// Maximum number of edges on the way to a pattern of `text_len` bytes.
///
/// An edge is memory that two patterns share, if only two go that way, and takes a few hundred bytes: so that there are
/// few for short patterns. And each is a step under the lock of the tree: so that there are not many for long ones.
fn max_depth(text_len: usize) -> usize {
    (12 + text_len / 16).min(32)
}

/// How long the code of a `*` is.
const STAR_BYTES: usize = 1;

/// What stands where a pattern ends: one for each pattern text that compiles to the same code.
type Ends<E> = SmallVec<[E; 1]>;

/// Where patterns part, or end.
struct Branch<E> {
    rare: Option<Box<Rare<E>>>,
    runs: Runs<E>,
    /// Patterns that end in a `*` right behind this.
    star_ends: Ends<E>,
    /// Patterns that end here.
    ends: Ends<E>,
}

/// A byte that must follow at some distance, if there is one that all patterns agree on.
///
/// Most nodes have one way on, and most ways lead to a literal. To know its first byte in advance saves
/// following a way that leads nowhere: with `[a-f]{i}?:*` for all `i`, the name `c123456z:` begins like five
/// patterns more than it matches.
type Ahead = Option<(u8, u8)>;

/// What both ask.
fn agree(one: &mut Ahead, other: Ahead) {
    if *one != other {
        *one = None;
    }
}

/// Whether `rest` has what `ahead` asks for.
#[inline]
fn has_ahead(rest: &[u8], ahead: Ahead) -> bool {
    ahead.is_none_or(|(distance, byte)| rest.get(usize::from(distance)) == Some(&byte))
}

/// What `code` asks of the bytes that follow.
fn look_ahead(code: &[u8]) -> Ahead {
    let mut distance = 0_usize;
    // A few steps: it is called for each edge of a way.
    for step in Steps::new(code).take(4) {
        match step {
            Step::Run(run) => return Some((u8::try_from(distance).ok()?, run[0])),
            Step::Any(count) => distance += count,
            Step::Class(_) | Step::Range(..) => distance += 1,
            Step::Star | Step::Ask => return None,
        }
    }
    None
}

/// The edges that most branches lack.
struct Rare<E> {
    /// By number of bytes, ascending.
    any: Vec<(usize, Node<E>)>,
    classes: Vec<(ByteSet, Node<E>)>,
    star: Option<Star<E>>,
    /// Patterns of which only the beginning leads here: shell globs, and patterns that go on deeper than the tree does.
    unconfirmed: Ends<E>,
}

/// A `*` that is not a pattern's last step.
struct Star<E> {
    runs: Runs<E>,
    classes: Vec<(ByteSet, Node<E>)>,
    /// Runs that are their pattern's last step: the channel's own ending tells whether they match, no
    /// position need be tried.
    tails: Runs<E>,
}

/// Edges of literal bytes.
enum Runs<E> {
    None,
    /// The first byte of the run tells in most cases that the node need not be fetched.
    One(u8, Box<Node<E>>),
    Many(Box<RunTable<E>>),
}

struct RunTable<E> {
    table: ProbeTable<Twig<E>>,
    /// How much of the code of each pattern lies before the step that is the run.
    depth: usize,
    /// The lengths that occur, ascending.
    lengths: SmallVec<[Length; 4]>,
    /// The bytes that runs begin with; never shrinks while the table lives.
    first: ByteSet,
    /// What all of its nodes ask of the bytes that follow: where they agree, a run that leads nowhere need
    /// not be looked up.
    ahead: Ahead,
}

/// A run in a table, with its hash: nothing else is fetched for one that is another, nor when the table grows.
enum Twig<E> {
    /// One pattern goes on here, and its end knows run and rest. No other run in the table has its hash.
    Leaf(u32, E),
    Node(u32, Box<Node<E>>),
}

impl<E: End> Twig<E> {
    /// The run that leads here, and what it leads to; `depth` as its table has it.
    #[inline]
    fn read(&self, depth: usize) -> (&[u8], Child<'_, E>) {
        match self {
            Self::Leaf(_, end) => {
                let (run, rest) = run_of(end, depth);
                (run, Child::Leaf(end, rest))
            }
            Self::Node(_, node) => (node.run(), Child::Node(node)),
        }
    }

    /// Makes a node of a leaf.
    fn make_node(&mut self, depth: usize) {
        if let Self::Leaf(hash, end) = self {
            *self = Self::Node(*hash, Box::new(Node::lone(end.clone(), depth)));
        }
    }
}

impl<E> Hashed for Twig<E> {
    #[inline]
    fn hash(&self) -> u32 {
        match self {
            Self::Leaf(hash, _) | Self::Node(hash, _) => *hash,
        }
    }
}

/// What an edge leads to.
enum Child<'a, E> {
    /// One pattern goes on, and this is the rest of its code.
    Leaf(&'a E, &'a [u8]),
    Node(&'a Node<E>),
}

/// The runs of one length among those of a table.
struct Length {
    /// The length, in bytes.
    bytes: usize,
    /// How many runs have it.
    runs: usize,
    /// The bytes that they begin and end with, as bits that four bytes each share. They tell in most cases that
    /// none of them is there, without a look at the table. They never shrink while there is a run of this length.
    first: u64,
    last: u64,
}

impl Length {
    fn bit(byte: u8) -> u64 {
        1 << (byte & 63)
    }

    /// Whether one of the runs can be `run`, which has their length.
    #[inline]
    fn can_be(&self, run: &[u8]) -> bool {
        match run {
            [] => false,
            [first, .., last] => {
                self.first & Self::bit(*first) != 0 && self.last & Self::bit(*last) != 0
            }
            [only] => self.first & Self::bit(*only) != 0,
        }
    }
}

impl<E> Default for Branch<E> {
    fn default() -> Self {
        Self { ends: SmallVec::new(), star_ends: SmallVec::new(), runs: Runs::None, rare: None }
    }
}

impl<E> Default for Rare<E> {
    fn default() -> Self {
        Self { any: Vec::new(), classes: Vec::new(), star: None, unconfirmed: SmallVec::new() }
    }
}

impl<E> Default for Star<E> {
    fn default() -> Self {
        Self { runs: Runs::None, classes: Vec::new(), tails: Runs::None }
    }
}

/// One edge, as a pattern asks for it.
#[derive(Clone, Copy)]
enum Edge<'a> {
    Run(&'a [u8]),
    Any(usize),
    Class(ByteSet),
    /// A `*`, then a run that is not the pattern's last step.
    StarRun(&'a [u8]),
    StarClass(ByteSet),
    /// A `*`, then a run that ends the pattern.
    Tail(&'a [u8]),
}

/// Which of a branch's lists a pattern's end stands in.
#[derive(Clone, Copy)]
enum Place {
    Here,
    Star,
    Unconfirmed,
}

/// Where the code of a pattern leads.
enum Way<'a> {
    /// The pattern ends.
    End(Place),
    /// Along an edge, behind which there is the rest of the code.
    Along(Edge<'a>, &'a [u8]),
}

impl<'a> Way<'a> {
    /// Where `code` leads if the pattern may have `edges` more.
    #[inline]
    fn within(edges: usize, code: &'a [u8]) -> Self {
        match Self::of(code) {
            Self::Along(..) if edges == 0 => Self::End(Place::Unconfirmed),
            way => way,
        }
    }

    #[inline]
    fn of(code: &'a [u8]) -> Self {
        let mut steps = Steps::new(code);
        let edge = match steps.next() {
            None => return Self::End(Place::Here),
            Some(Step::Ask) => return Self::End(Place::Unconfirmed),
            Some(Step::Run(run)) => Edge::Run(run),
            Some(Step::Any(count)) => Edge::Any(count),
            Some(Step::Class(set)) => Edge::Class(set),
            Some(Step::Range(first, last)) => Edge::Class(ByteSet::range(first, last)),
            Some(Step::Star) => match steps.next() {
                None => return Self::End(Place::Star),
                Some(Step::Run(run)) if steps.rest().is_empty() => Edge::Tail(run),
                Some(Step::Run(run)) => Edge::StarRun(run),
                Some(Step::Class(set)) => Edge::StarClass(set),
                Some(Step::Range(first, last)) => Edge::StarClass(ByteSet::range(first, last)),
                Some(Step::Star | Step::Any(_) | Step::Ask) => {
                    unreachable!("code is in normal form, and a shell glob's has no star")
                }
            },
        };
        Self::Along(edge, steps.rest())
    }
}

impl<'a> Edge<'a> {
    /// The literal bytes.
    fn run(self) -> Option<&'a [u8]> {
        match self {
            Self::Run(run) | Self::StarRun(run) | Self::Tail(run) => Some(run),
            Self::Any(_) | Self::Class(_) | Self::StarClass(_) => None,
        }
    }
}

impl<E: End> PatternTree<E> {
    /// `hasher` decides how literal runs are spread; names can come from outside, so it is seeded.
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { root: Branch::default(), hasher }
    }

    /// Returns the end of `pattern` for which `is_it` holds, if the trie has it.
    ///
    /// # Complexity
    ///
    /// As for `remove`.
    pub(crate) fn get(&self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<&E> {
        let mut edges = max_depth(pattern.as_str().len());
        let codes = pattern.codes();
        let mut code: &[u8] = codes.first()?;
        let mut branch = &self.root;
        loop {
            let (edge, rest) = match Way::within(edges, code) {
                Way::End(place) => return branch.ends(place).iter().find(|end| is_it(end)),
                Way::Along(edge, rest) => (edge, rest),
            };
            edges -= 1;
            match branch.child(edge, &self.hasher)? {
                Child::Leaf(end, _) => return Some(end).filter(|end| is_it(end)),
                Child::Node(node) => match &node.below {
                    Below::Nothing => return None,
                    Below::Lone(end) => return Some(end).filter(|end| is_it(end)),
                    Below::Branch(below) => branch = below,
                },
            }
            code = rest;
        }
    }

    /// Adds an end to `pattern`, whose ends do not hold it yet.
    ///
    /// # Complexity
    ///
    /// A bounded number of edges; linear in the different classes, and numbers of `?`, that stand where the pattern has
    /// one. The length of the pattern and the number of patterns do not matter.
    pub(crate) fn insert(&mut self, pattern: &Pattern, end: &E) {
        let edges = max_depth(end.text_len());
        for code in pattern.codes() {
            self.root.insert(&code, 0, edges, end.clone(), &self.hasher);
        }
    }

    /// Takes out the end of `pattern` for which `is_it` holds, with the nodes that only it needed.
    ///
    /// # Complexity
    ///
    /// As for `insert`; and linear in the patterns that compile to the same code, and in those that are unconfirmed in
    /// the same place.
    pub(crate) fn remove(&mut self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let mut removed = None;
        let edges = max_depth(pattern.as_str().len());
        for code in pattern.codes() {
            removed = self.remove_code(&code, edges, &is_it).or(removed);
        }
        removed
    }

    fn remove_code(
        &mut self,
        code: &[u8],
        mut edges: usize,
        is_it: impl Fn(&E) -> bool,
    ) -> Option<E> {
        // What is left of the code where the last branch is that others need, too.
        let mut kept = code;
        let mut behind = code;
        let mut branch = &mut self.root;
        let removed = loop {
            let (edge, rest) = match Way::within(edges, behind) {
                Way::End(place) => {
                    let removed = branch.take_end(place, is_it)?;
                    if branch.fan() > 0 {
                        return Some(removed);
                    }
                    break removed;
                }
                Way::Along(edge, rest) => (edge, rest),
            };
            edges -= 1;
            if let Child::Leaf(end, _) = branch.child(edge, &self.hasher)? {
                // It is never the only one in its table: the branch stays.
                return if is_it(end) { branch.take_leaf(edge, &self.hasher) } else { None };
            }
            if branch.fan() > 1 {
                kept = behind;
            }
            let node = branch.child_mut(edge, &self.hasher)?;
            match &mut node.below {
                Below::Branch(below) => branch = below,
                Below::Lone(end) if !is_it(end) => return None,
                below => match mem::replace(below, Below::Nothing) {
                    Below::Lone(end) => break end,
                    _ => return None,
                },
            }
            behind = rest;
        };
        let mut branch = &mut self.root;
        let mut behind = code;
        while let Way::Along(edge, rest) = Way::of(behind) {
            if behind.len() == kept.len() {
                branch.remove_child(edge, &self.hasher);
                break;
            }
            match &mut branch.child_mut(edge, &self.hasher)?.below {
                Below::Branch(below) => branch = below,
                _ => break,
            }
            behind = rest;
        }
        Some(removed)
    }

    /// Calls `each` for every end, once for each place where it stands.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&E)) {
        let mut branches = vec![&self.root];
        let mut nodes = Vec::new();
        while let Some(branch) = branches.pop() {
            branch.ends.iter().chain(&branch.star_ends).for_each(&mut each);
            branch.runs.push_all(&mut nodes, &mut each);
            if let Some(rare) = &branch.rare {
                rare.unconfirmed.iter().for_each(&mut each);
                nodes.extend(rare.any.iter().map(|(_, node)| node));
                nodes.extend(rare.classes.iter().map(|(_, node)| node));
                if let Some(star) = &rare.star {
                    nodes.extend(star.classes.iter().map(|(_, node)| node));
                    star.runs.push_all(&mut nodes, &mut each);
                    star.tails.push_all(&mut nodes, &mut each);
                }
            }
            for node in nodes.drain(..) {
                match &node.below {
                    Below::Nothing => {}
                    Below::Lone(end) => each(end),
                    Below::Branch(below) => branches.push(below),
                }
            }
        }
    }

    /// Calls `found` for each pattern that matches `channel`, once: see [`Walk`], which tells what it took.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn matches(&self, channel: &[u8], mut found: impl FnMut(&E, bool)) -> Effort {
        let mut walk = Walk::new(channel, &self.hasher);
        walk.scout(self, &mut found);
        walk.finish(&mut found)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.fan() == 0
    }
}

/// What a match took.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Visits of a node, and bytes of literals looked at.
    #[cfg_attr(not(any(test, fuzzing)), expect(dead_code, reason = "a bound that tests look at"))]
    pub(crate) steps: usize,
    /// Whether more was to be kept in mind than there is room for without an allocation.
    pub(crate) allocated: bool,
}

enum Visit<'a, E> {
    Branch {
        branch: &'a Branch<E>,
        /// How many bytes of the channel have been consumed.
        at: usize,
        /// Whether a `*` lies on the way here, so that this branch can be reached at other positions.
        starred: bool,
    },
    /// A `*` to try its edges at `at` and everywhere after.
    Star { star: &'a Star<E>, at: usize },
}

/// A walk through tries, for the patterns that match a channel.
///
/// [`scout`](Self::scout) goes through one, and finds what matches, but for leads: patterns that are alone behind a run,
/// which is told by its hash alone. What such a pattern points to is in no cache, if there are very many, and is fetched
/// from now on. [`finish`](Self::finish) looks at them. Whoever has something to do does that in between.
///
/// Both call `found` for each pattern that matches, each once; with `true` for one that is unconfirmed, of which only a
/// beginning has been seen to match.
///
/// # Complexity
///
/// In the worst case the product of the trie's size and the channel's length. It does not recurse.
pub(crate) struct Walk<'a, E> {
    channel: &'a [u8],
    hasher: &'a RandomState,
    leads: [Option<Lead<'a, E>>; LEADS],
    /// How many leads there are.
    led: usize,
    /// What is on top of the stack; in most walks all that ever is.
    top: Option<Visit<'a, E>>,
    stack: SmallVec<[Visit<'a, E>; 64]>,
    entered: Entered,
    steps: usize,
}

/// So many leads are kept, and no allocation is needed for them. What is found beyond is looked at at once.
const LEADS: usize = 4;

/// A pattern that is alone behind a run with the hash of `run`.
struct Lead<'a, E> {
    end: &'a E,
    /// How much of its code lies before that run.
    depth: usize,
    run: &'a [u8],
    /// Where in the channel the run ends.
    at: usize,
    starred: bool,
}

/// What may be reached at several positions and has been: branches with a `*`, patterns that are alone, and lists of
/// unconfirmed ones, by address. Few in most walks.
#[derive(Default)]
struct Entered {
    few: SmallVec<[usize; 16]>,
    many: Option<HashSet<usize, RandomState>>,
}

impl Entered {
    /// Whether this is the first time.
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

impl<'a, E: End> Walk<'a, E> {
    #[inline]
    pub(crate) fn new(channel: &'a [u8], hasher: &'a RandomState) -> Self {
        Self {
            channel,
            hasher,
            leads: [const { None }; LEADS],
            led: 0,
            top: None,
            stack: SmallVec::new(),
            entered: Entered::default(),
            steps: 0,
        }
    }

    /// See the type's documentation. It may be called for several tries, of which all have the hasher of the walk.
    pub(crate) fn scout(&mut self, tree: &'a PatternTree<E>, found: &mut impl FnMut(&E, bool)) {
        if self.channel.is_empty() {
            // Only the empty pattern matches it, a quirk of redis-server; a shell glob says for itself.
            self.steps += 1;
            tree.root.ends.iter().for_each(|end| found(end, false));
            for end in tree.root.rare.iter().flat_map(|rare| &rare.unconfirmed) {
                found(end, true);
            }
            return;
        }
        self.branch(&tree.root, 0, false, found);
        while let Some(visit) = self.top.take().or_else(|| self.stack.pop()) {
            match visit {
                Visit::Branch { branch, at, starred } => self.branch(branch, at, starred, found),
                Visit::Star { star, at } => self.star(star, at, found),
            }
        }
    }

    /// How many leads are kept: patterns that may match, of which a few can be the same.
    #[inline]
    pub(crate) fn leads(&self) -> usize {
        self.led
    }

    /// See the type's documentation.
    #[inline]
    pub(crate) fn finish(&mut self, found: &mut impl FnMut(&E, bool)) -> Effort {
        for at in 0..mem::take(&mut self.led) {
            let Some(Lead { end, depth, run, at, starred }) = self.leads[at] else { break };
            let (own, rest) = run_of(end, depth);
            if own == run {
                self.leaf(end, rest, at, starred, found);
            }
        }
        let allocated = self.stack.spilled() || self.entered.many.is_some();
        Effort { steps: self.steps, allocated }
    }

    #[inline]
    fn push(&mut self, visit: Visit<'a, E>) {
        if let Some(below) = self.top.replace(visit) {
            self.stack.push(below);
        }
    }

    /// An edge has led to `node`, and to `at`.
    #[inline]
    fn node(
        &mut self,
        node: &'a Node<E>,
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps += 1;
        let behind = &self.channel[at..];
        if !has_ahead(behind, node.ahead) {
            return;
        }
        match &node.below {
            Below::Nothing => {}
            Below::Branch(branch) => self.push(Visit::Branch { branch, at, starred }),
            Below::Lone(end) => {
                let address = std::ptr::from_ref(node).addr();
                self.lone(end, node.rest(), address, behind, starred, found);
            }
        }
    }

    /// One pattern goes on with `rest`; its place is known by `address`.
    #[inline]
    fn lone(
        &mut self,
        end: &E,
        rest: &[u8],
        address: usize,
        behind: &[u8],
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let mut steps = Steps::new(rest);
        match steps.next() {
            None => {
                if behind.is_empty() {
                    found(end, false);
                }
            }
            Some(Step::Star) if steps.rest().is_empty() => {
                if !starred || self.entered.insert(address) {
                    found(end, false);
                }
            }
            Some(Step::Ask) => self.unconfirmed(end, address, starred, found),
            Some(_) if starred || rest.len() > MAX_REST => {
                self.unconfirmed(end, address, starred, found);
            }
            Some(_) => {
                if program::matches(rest, behind, &mut self.steps) {
                    found(end, false);
                }
            }
        }
    }

    /// The beginning of a pattern has been found, which is to be reported once.
    #[inline(never)]
    fn unconfirmed(
        &mut self,
        end: &E,
        address: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        if !starred || self.entered.insert(address) {
            found(end, true);
        }
    }

    /// A run has led to `child`, and to `at`.
    #[inline]
    fn child(
        &mut self,
        child: Child<'a, E>,
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        match child {
            Child::Node(node) => self.node(node, at, starred, found),
            Child::Leaf(end, rest) => self.leaf(end, rest, at, starred, found),
        }
    }

    /// A run has led to `end`, and to `at`.
    #[inline]
    fn leaf(
        &mut self,
        end: &E,
        rest: &[u8],
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps += 1;
        // Where its code is stands for it: a table may move it, but the code stays.
        let address = end.code().as_ptr().addr();
        self.lone(end, rest, address, &self.channel[at..], starred, found);
    }

    /// Follows a run, which ends at `at`, if it is among `many`.
    #[inline]
    fn follow(
        &mut self,
        many: &'a RunTable<E>,
        run: &'a [u8],
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps += run.len();
        let hash = hash(self.hasher, run);
        if let Some(lead) = self.leads.get_mut(self.led) {
            // The first that has the hash. If it is a leaf, there is no other; if it is a node, there may be.
            match many.table.find_map(hash, |_, twig| Some(twig)) {
                None => return,
                Some(Twig::Leaf(_, end)) => {
                    end.prefetch();
                    *lead = Some(Lead { end, depth: many.depth, run, at, starred });
                    self.led += 1;
                    return;
                }
                Some(Twig::Node(..)) => {}
            }
        }
        if let Some(child) = many.find(run, hash) {
            self.child(child, at, starred, found);
        }
    }

    fn branch(
        &mut self,
        branch: &'a Branch<E>,
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps += 1;
        let rest = &self.channel[at..];
        if rest.is_empty() {
            branch.ends.iter().for_each(|end| found(end, false));
        }
        let star = branch.rare.as_ref().and_then(|rare| rare.star.as_ref());
        if (star.is_some() || !branch.star_ends.is_empty())
            && (!starred || self.entered.insert(std::ptr::from_ref(branch).addr()))
        {
            branch.star_ends.iter().for_each(|end| found(end, false));
            if let Some(star) = star {
                self.tails(&star.tails, at, found);
                self.push(Visit::Star { star, at });
            }
        }
        if let Some(rare) = &branch.rare {
            if !rare.unconfirmed.is_empty()
                && (!starred || self.entered.insert(std::ptr::from_ref(&**rare).addr()))
            {
                rare.unconfirmed.iter().for_each(|end| found(end, true));
            }
            for (count, child) in rare.any.iter().take_while(|(count, _)| *count <= rest.len()) {
                self.node(child, at + count, starred, found);
            }
            self.classes(&rare.classes, at, starred, found);
        }
        self.runs(&branch.runs, at, starred, found);
    }

    /// Tries the edges behind a `*` from the first position on where one can begin, and comes back for
    /// the others. Positions are tried in order, each with all that follows from it: that is what
    /// makes the first entry of every inner `*` the earliest.
    fn star(&mut self, star: &'a Star<E>, mut at: usize, found: &mut impl FnMut(&E, bool)) {
        if star.classes.is_empty() {
            at += match &star.runs {
                Runs::None => return,
                // A run found here can be entered by its first byte alone.
                &Runs::One(first, _) => {
                    match self.channel[at..].iter().position(|&byte| byte == first) {
                        Some(skipped) => skipped,
                        None => return,
                    }
                }
                Runs::Many(many) => {
                    match self.channel[at..].iter().position(|&byte| many.first.contains(byte)) {
                        Some(skipped) => skipped,
                        None => return,
                    }
                }
            };
        }
        self.steps += 1;
        if at < self.channel.len() {
            self.push(Visit::Star { star, at: at + 1 });
            self.classes(&star.classes, at, true, found);
            self.runs(&star.runs, at, true, found);
        }
    }

    fn classes(
        &mut self,
        classes: &'a [(ByteSet, Node<E>)],
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let Some(&byte) = self.channel.get(at) else { return };
        for (set, child) in classes {
            self.steps += 1;
            if set.contains(byte) {
                self.node(child, at + 1, starred, found);
            }
        }
    }

    fn runs(
        &mut self,
        runs: &'a Runs<E>,
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        let rest = &self.channel[at..];
        match runs {
            Runs::None => {}
            Runs::One(first, node) => {
                if rest.first() != Some(first) {
                    return;
                }
                self.steps += node.run().len();
                if rest.starts_with(node.run()) {
                    self.node(node, at + node.run().len(), starred, found);
                }
            }
            Runs::Many(many) => {
                if !rest.first().is_some_and(|&byte| many.first.contains(byte)) {
                    return;
                }
                for length in &many.lengths {
                    let Some((run, behind)) = rest.split_at_checked(length.bytes) else { break };
                    if !length.can_be(run) || !has_ahead(behind, many.ahead) {
                        continue;
                    }
                    self.follow(many, run, at + run.len(), starred, found);
                }
            }
        }
    }

    fn tails(&mut self, tails: &'a Runs<E>, at: usize, found: &mut impl FnMut(&E, bool)) {
        let end = self.channel.len();
        let rest = &self.channel[at..];
        match tails {
            Runs::None => {}
            Runs::One(_, node) => {
                self.steps += node.run().len();
                if rest.ends_with(node.run()) {
                    self.node(node, end, true, found);
                }
            }
            Runs::Many(many) => {
                for length in &many.lengths {
                    let Some(from) = rest.len().checked_sub(length.bytes) else { break };
                    let run = &rest[from..];
                    if !length.can_be(run) {
                        continue;
                    }
                    self.follow(many, run, end, true, found);
                }
            }
        }
    }
}

impl<E: End> Node<E> {
    /// Makes a branch for the one pattern that goes on here. `depth` bytes of its code lie before this, and `edges` lead
    /// here.
    fn spread(&mut self, depth: usize, edges: usize, hasher: &RandomState) {
        let mut branch = Box::<Branch<E>>::default();
        if let Below::Lone(end) = mem::replace(&mut self.below, Below::Nothing) {
            let edges = max_depth(end.text_len()) - edges;
            if is_shell_glob(&end) {
                branch.insert(CONFIRM, depth, edges, end, hasher);
            } else {
                let code = end.clone();
                branch.insert(&code.code()[depth..], depth, edges, end, hasher);
            }
        }
        self.below = Below::Branch(branch);
        self.bytes.truncate(self.run as usize);
        self.bytes.shrink_to_fit();
    }

    /// The node of a run that one pattern alone goes on behind; so much of its code lies before the run.
    fn lone(end: E, depth: usize) -> Self {
        let (run, rest) = run_of(&end, depth);
        let mut node = Self::new(run, look_ahead(rest));
        node.keep(rest);
        node.below = Below::Lone(end);
        node
    }
}

/// `true` if `end`, which is behind an edge, is a shell glob's: it does not know the code by which it is found.
fn is_shell_glob<E: End>(end: &E) -> bool {
    end.code().is_empty()
}

impl<E> Node<E> {
    fn new(run: &[u8], ahead: Ahead) -> Self {
        debug_assert!(run.len() <= program::MAX_RUN);
        let bytes = SmallVec::from_slice(run);
        Self { bytes, run: run.len() as u32, ahead, below: Below::Nothing }
    }

    /// The literal bytes of the edge that leads here.
    #[inline]
    fn run(&self) -> &[u8] {
        &self.bytes[..self.run as usize]
    }

    /// Keeps what is left of the code of the one pattern that goes on here.
    fn keep(&mut self, rest: &[u8]) {
        self.bytes.extend_from_slice(if rest.len() > MAX_REST { CONFIRM } else { rest });
    }

    /// What is kept of the code of the one pattern that goes on here.
    #[inline]
    fn rest(&self) -> &[u8] {
        &self.bytes[self.run as usize..]
    }
}

impl<E: End> Branch<E> {
    /// Adds the pattern that `code` is the rest of; `depth` bytes of its code lie before that, and it may have `edges`
    /// more.
    fn insert(
        &mut self,
        mut code: &[u8],
        mut depth: usize,
        mut edges: usize,
        end: E,
        hasher: &RandomState,
    ) {
        let deepest = max_depth(end.text_len());
        let mut branch = self;
        loop {
            let (edge, rest) = match Way::within(edges, code) {
                Way::End(place) => return branch.ends_mut(place).push(end),
                Way::Along(edge, rest) => (edge, rest),
            };
            edges -= 1;
            let ahead = look_ahead(rest);
            if !is_shell_glob(&end)
                && let Some(run) = edge.run()
                && let Some(Runs::Many(many)) = branch.runs_of(edge)
            {
                let hash = hash(hasher, run);
                if many.find(run, hash).is_none() {
                    agree(&mut many.ahead, ahead);
                    many.insert(run, Twig::Leaf(hash, end));
                    return;
                }
            }
            let node = branch.child_or_insert(edge, depth, ahead, hasher);
            depth += code.len() - rest.len();
            match &node.below {
                Below::Branch(_) => {}
                // Itself in a branch that has no other pattern: this is as deep as it goes.
                Below::Lone(_) => node.spread(depth, deepest - edges, hasher),
                Below::Nothing => {
                    node.keep(rest);
                    node.below = Below::Lone(end);
                    return;
                }
            }
            let Below::Branch(below) = &mut node.below else { unreachable!("made above") };
            branch = below;
            code = rest;
        }
    }

    fn rare_mut(&mut self) -> &mut Rare<E> {
        self.rare.get_or_insert_default()
    }

    fn ends(&self, place: Place) -> &[E] {
        match place {
            Place::Here => &self.ends,
            Place::Star => &self.star_ends,
            Place::Unconfirmed => self.rare.as_ref().map_or(&[], |rare| &rare.unconfirmed),
        }
    }

    fn ends_mut(&mut self, place: Place) -> &mut Ends<E> {
        match place {
            Place::Here => &mut self.ends,
            Place::Star => &mut self.star_ends,
            Place::Unconfirmed => &mut self.rare_mut().unconfirmed,
        }
    }

    fn take_end(&mut self, place: Place, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let at = self.ends(place).iter().position(is_it)?;
        let ends = self.ends_mut(place);
        let end = ends.swap_remove(at);
        if ends.len() < ends.capacity() / 4 {
            ends.shrink_to_fit();
        }
        self.drop_rare_if_empty();
        Some(end)
    }

    /// How many things hang on this branch: ends and edges.
    fn fan(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let star = rare.star.as_ref().map_or(0, |star| star.fan());
            rare.any.len() + rare.classes.len() + rare.unconfirmed.len() + star
        });
        self.ends.len() + self.star_ends.len() + self.runs.len() + rare
    }

    fn child(&self, edge: Edge<'_>, hasher: &RandomState) -> Option<Child<'_, E>> {
        let rare = || self.rare.as_deref();
        let star = || rare()?.star.as_ref();
        match edge {
            Edge::Run(run) => self.runs.get(run, hasher),
            Edge::Any(count) => {
                let any = &rare()?.any;
                let at = any.binary_search_by_key(&count, |(count, _)| *count).ok()?;
                Some(Child::Node(&any[at].1))
            }
            Edge::Class(set) => find_class(&rare()?.classes, set).map(Child::Node),
            Edge::StarRun(run) => star()?.runs.get(run, hasher),
            Edge::StarClass(set) => find_class(&star()?.classes, set).map(Child::Node),
            Edge::Tail(run) => star()?.tails.get(run, hasher),
        }
    }

    /// The runs that `edge` is or is to be one of.
    fn runs_of(&mut self, edge: Edge<'_>) -> Option<&mut Runs<E>> {
        match edge {
            Edge::Run(_) => Some(&mut self.runs),
            Edge::StarRun(_) => Some(&mut self.star_mut()?.runs),
            Edge::Tail(_) => Some(&mut self.star_mut()?.tails),
            Edge::Any(_) | Edge::Class(_) | Edge::StarClass(_) => None,
        }
    }

    /// Takes out the end of the pattern that alone goes on along `edge`, one of many runs.
    fn take_leaf(&mut self, edge: Edge<'_>, hasher: &RandomState) -> Option<E> {
        let run = edge.run()?;
        match self.runs_of(edge)?.remove(run, hasher)? {
            Twig::Leaf(_, end) => Some(end),
            Twig::Node(..) => unreachable!("seen to be a leaf"),
        }
    }

    /// The node that `edge` leads to, if it is one.
    fn child_mut(&mut self, edge: Edge<'_>, hasher: &RandomState) -> Option<&mut Node<E>> {
        match edge {
            Edge::Run(run) | Edge::StarRun(run) | Edge::Tail(run) => {
                self.runs_of(edge)?.get_mut(run, hasher)
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

    /// The node that `edge` leads to, for a pattern that asks for `ahead` behind it. So much of its code lies before
    /// this branch.
    fn child_or_insert(
        &mut self,
        edge: Edge<'_>,
        depth: usize,
        ahead: Ahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        if let Edge::Run(run) = edge {
            return self.runs.get_or_insert(run, depth, ahead, hasher);
        }
        let rare = self.rare_mut();
        match edge {
            Edge::Any(count) => {
                let at = rare.any.binary_search_by_key(&count, |(count, _)| *count);
                let at = at.unwrap_or_else(|at| {
                    reserve(&mut rare.any);
                    rare.any.insert(at, (count, Node::new(&[], ahead)));
                    at
                });
                let node = &mut rare.any[at].1;
                agree(&mut node.ahead, ahead);
                node
            }
            Edge::Class(set) => class_or_insert(&mut rare.classes, set, ahead),
            Edge::Run(_) => unreachable!("returned above"),
            Edge::StarRun(run) => {
                let star = rare.star.get_or_insert_default();
                star.runs.get_or_insert(run, depth + STAR_BYTES, ahead, hasher)
            }
            Edge::StarClass(set) => {
                class_or_insert(&mut rare.star.get_or_insert_default().classes, set, ahead)
            }
            Edge::Tail(run) => {
                let star = rare.star.get_or_insert_default();
                star.tails.get_or_insert(run, depth + STAR_BYTES, ahead, hasher)
            }
        }
    }

    fn remove_child(&mut self, edge: Edge<'_>, hasher: &RandomState) {
        match edge {
            Edge::Run(run) | Edge::StarRun(run) | Edge::Tail(run) => {
                if let Some(runs) = self.runs_of(edge) {
                    runs.remove(run, hasher);
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
            rare.star.take_if(|star| star.fan() == 0);
        }
        self.drop_rare_if_empty();
    }
}

impl<E> Branch<E> {
    fn drop_rare_if_empty(&mut self) {
        let empty = |rare: &mut Box<Rare<E>>| {
            rare.any.is_empty()
                && rare.classes.is_empty()
                && rare.unconfirmed.is_empty()
                && rare.star.is_none()
        };
        self.rare.take_if(empty);
    }

    /// Moves all nodes below this one to `out`.
    fn take_children(&mut self, out: &mut Vec<Node<E>>) {
        mem::replace(&mut self.runs, Runs::None).take_all(out);
        if let Some(mut rare) = self.rare.take() {
            out.extend(rare.any.drain(..).map(|(_, node)| node));
            out.extend(rare.classes.drain(..).map(|(_, node)| node));
            if let Some(mut star) = rare.star.take() {
                out.extend(star.classes.drain(..).map(|(_, node)| node));
                mem::replace(&mut star.runs, Runs::None).take_all(out);
                mem::replace(&mut star.tails, Runs::None).take_all(out);
            }
        }
    }
}

/// A pattern is as deep as its author likes, and so is the tree: it is taken down level by level, not
/// by recursion.
impl<E> Drop for Branch<E> {
    fn drop(&mut self) {
        if matches!(self.runs, Runs::None) && self.rare.is_none() {
            return;
        }
        let mut doomed = Vec::new();
        self.take_children(&mut doomed);
        while let Some(node) = doomed.pop() {
            if let Below::Branch(mut branch) = node.below {
                branch.take_children(&mut doomed);
            }
        }
    }
}

impl<E> Star<E> {
    fn fan(&self) -> usize {
        self.runs.len() + self.classes.len() + self.tails.len()
    }
}

impl<E> Runs<E> {
    /// `node` has a run: an edge of literal bytes has one at least.
    fn one(node: Box<Node<E>>) -> Self {
        Self::One(node.run()[0], node)
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(many) => many.table.len(),
        }
    }

    /// Adds all nodes to `out`, and calls `each` for ends that have none.
    fn push_all<'a>(&'a self, out: &mut Vec<&'a Node<E>>, mut each: impl FnMut(&E)) {
        match self {
            Self::None => {}
            Self::One(_, node) => out.push(node),
            Self::Many(many) => many.table.iter().for_each(|twig| match twig {
                Twig::Leaf(_, end) => each(end),
                Twig::Node(_, node) => out.push(node),
            }),
        }
    }

    /// Moves all nodes to `out`.
    fn take_all(self, out: &mut Vec<Node<E>>) {
        match self {
            Self::None => {}
            Self::One(_, node) => out.push(*node),
            Self::Many(many) => out.extend(many.table.into_iter().filter_map(|twig| match twig {
                Twig::Leaf(..) => None,
                Twig::Node(_, node) => Some(*node),
            })),
        }
    }
}

impl<E: End> Runs<E> {
    fn get(&self, run: &[u8], hasher: &RandomState) -> Option<Child<'_, E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (node.run() == run).then_some(Child::Node(node)),
            Self::Many(many) => many.find(run, hash(hasher, run)),
        }
    }

    fn get_mut(&mut self, run: &[u8], hasher: &RandomState) -> Option<&mut Node<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (node.run() == run).then_some(node),
            Self::Many(many) => match many.find_mut(run, hasher)? {
                Twig::Leaf(..) => None,
                Twig::Node(_, node) => Some(node),
            },
        }
    }

    /// The node of `run`, made where there is none. So much of its patterns' code lies before the run.
    fn get_or_insert(
        &mut self,
        run: &[u8],
        depth: usize,
        ahead: Ahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        let one_more = match self {
            Self::None => {
                *self = Self::one(Box::new(Node::new(run, ahead)));
                false
            }
            Self::One(_, node) => node.run() != run,
            Self::Many(_) => false,
        };
        if one_more && let Self::One(_, node) = mem::replace(self, Self::None) {
            let mut many = RunTable::new(depth, node.ahead);
            many.insert_node(node, hasher);
            *self = Self::Many(Box::new(many));
        }
        let node = match self {
            Self::None => unreachable!("filled above"),
            Self::One(_, node) => node,
            Self::Many(many) => {
                agree(&mut many.ahead, ahead);
                many.node_or_insert(run, ahead, hasher)
            }
        };
        agree(&mut node.ahead, ahead);
        node
    }

    /// Takes out what `run` leads to.
    fn remove(&mut self, run: &[u8], hasher: &RandomState) -> Option<Twig<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) if node.run() != run => None,
            Self::One(..) => match mem::replace(self, Self::None) {
                Self::One(_, node) => Some(Twig::Node(hash(hasher, run), node)),
                _ => None,
            },
            Self::Many(many) => {
                let removed = many.remove(run, hasher);
                if many.table.len() == 1 {
                    let last = many.take_last();
                    *self = last.map_or(Self::None, Self::one);
                }
                removed
            }
        }
    }
}

impl<E: End> RunTable<E> {
    fn new(depth: usize, ahead: Ahead) -> Self {
        let first = ByteSet::default();
        Self { table: ProbeTable::default(), depth, lengths: SmallVec::new(), first, ahead }
    }

    #[inline]
    fn find(&self, run: &[u8], hash: u32) -> Option<Child<'_, E>> {
        self.table.find_map(hash, |_, twig| {
            let (own, child) = twig.read(self.depth);
            (own == run).then_some(child)
        })
    }

    fn find_mut(&mut self, run: &[u8], hasher: &RandomState) -> Option<&mut Twig<E>> {
        let hash = hash(hasher, run);
        let depth = self.depth;
        self.table.find_mut(hash, |twig| twig.read(depth).0 == run)
    }

    /// The node of `run`, made where there is none, or only its pattern's end.
    fn node_or_insert(&mut self, run: &[u8], ahead: Ahead, hasher: &RandomState) -> &mut Node<E> {
        if self.find(run, hash(hasher, run)).is_none() {
            let node = Box::new(Node::new(run, ahead));
            self.insert(run, Twig::Node(hash(hasher, run), node));
        }
        let depth = self.depth;
        let Some(twig) = self.find_mut(run, hasher) else { unreachable!("inserted above") };
        twig.make_node(depth);
        match twig {
            Twig::Node(_, node) => node,
            Twig::Leaf(..) => unreachable!("made a node above"),
        }
    }

    /// Adds a node whose run is not here yet.
    fn insert_node(&mut self, mut node: Box<Node<E>>, hasher: &RandomState) {
        let run: SmallVec<[u8; 32]> = SmallVec::from_slice(node.run());
        let hash = hash(hasher, &run);
        let twig = match mem::replace(&mut node.below, Below::Nothing) {
            Below::Lone(end) if !is_shell_glob(&end) => Twig::Leaf(hash, end),
            below => {
                node.below = below;
                Twig::Node(hash, node)
            }
        };
        self.insert(&run, twig);
    }

    /// Adds a run that is not here yet.
    fn insert(&mut self, run: &[u8], mut twig: Twig<E>) {
        if let Some(twin) = self.table.find_mut(twig.hash(), |_| true) {
            twin.make_node(self.depth);
            twig.make_node(self.depth);
        }
        let (first, last) = (run[0], run[run.len() - 1]);
        self.first.insert(first);
        let (first, last) = (Length::bit(first), Length::bit(last));
        match self.lengths.binary_search_by_key(&run.len(), |length| length.bytes) {
            Ok(at) => {
                let length = &mut self.lengths[at];
                length.runs += 1;
                length.first |= first;
                length.last |= last;
            }
            Err(at) => self.lengths.insert(at, Length { bytes: run.len(), runs: 1, first, last }),
        }
        self.table.insert(twig);
    }

    fn remove(&mut self, run: &[u8], hasher: &RandomState) -> Option<Twig<E>> {
        let hash = hash(hasher, run);
        let depth = self.depth;
        let removed = self.table.remove(hash, |twig| twig.read(depth).0 == run)?;
        self.table.fit(0);
        if let Ok(at) = self.lengths.binary_search_by_key(&run.len(), |length| length.bytes) {
            self.lengths[at].runs -= 1;
            if self.lengths[at].runs == 0 {
                self.lengths.remove(at);
                self.lengths.shrink_to_fit();
            }
        }
        Some(removed)
    }

    /// Takes out the last one, as a node.
    fn take_last(&mut self) -> Option<Box<Node<E>>> {
        Some(match mem::take(&mut self.table).into_iter().next()? {
            Twig::Leaf(_, end) => Box::new(Node::lone(end, self.depth)),
            Twig::Node(_, node) => node,
        })
    }
}

/// The run that the code of `end` has behind its first `depth` bytes, and the rest of it.
#[inline]
fn run_of<E: End>(end: &E, depth: usize) -> (&[u8], &[u8]) {
    let mut steps = Steps::new(&end.code()[depth..]);
    match steps.next() {
        Some(Step::Run(run)) => (run, steps.rest()),
        _ => unreachable!("all that are in a table of runs have one there"),
    }
}

#[inline]
fn hash(hasher: &RandomState, run: &[u8]) -> u32 {
    let mut state = hasher.build_hasher();
    state.write(run);
    let hash = state.finish() as u32;
    #[cfg(test)]
    let hash = hash & tests::HASHED.get();
    hash
}

/// Makes room for one more, and for the first no more than that: most have one.
fn reserve<T>(items: &mut Vec<T>) {
    if items.capacity() == 0 {
        items.reserve_exact(1);
    }
}

fn shrink<T>(items: &mut Vec<T>) {
    if items.len() < items.capacity() / 4 {
        items.shrink_to(items.len() * 2);
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
    ahead: Ahead,
) -> &mut Node<E> {
    let at = classes.iter().position(|(other, _)| *other == set).unwrap_or_else(|| {
        reserve(classes);
        classes.push((set, Node::new(&[], ahead)));
        classes.len() - 1
    });
    let node = &mut classes[at].1;
    agree(&mut node.ahead, ahead);
    node
}

fn remove_class<E>(classes: &mut Vec<(ByteSet, Node<E>)>, set: ByteSet) {
    classes.retain(|(other, _)| *other != set);
    shrink(classes);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tree = PatternTree<Pattern>;

    thread_local! {
        /// The bits of a run's hash that count: few of them, so that runs meet that have the same.
        pub(super) static HASHED: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
    }

    impl End for Pattern {
        fn code(&self) -> &[u8] {
            Pattern::code(self)
        }

        fn text_len(&self) -> usize {
            self.as_str().len()
        }
    }

    fn tree(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Tree {
        let mut tree = Tree::new(RandomState::default());
        for pattern in patterns {
            let pattern = Pattern::redis(pattern.as_ref());
            tree.insert(&pattern, &pattern);
        }
        tree
    }

    fn remove(tree: &mut Tree, pattern: &str) -> Option<Pattern> {
        let pattern = Pattern::redis(pattern);
        tree.remove(&pattern, |other| *other == pattern)
    }

    /// The patterns that match, sorted, and the steps it took, those of confirming some among them.
    fn matches(tree: &Tree, channel: &str) -> (Vec<String>, usize) {
        let mut found = Vec::new();
        let mut confirming = 0;
        let effort = tree.matches(channel.as_bytes(), |pattern, unconfirmed| {
            if !unconfirmed || pattern.is_match_counting(channel, &mut confirming) {
                found.push(pattern.as_str().to_owned());
            }
        });
        found.sort();
        (found, effort.steps + confirming)
    }

    /// Steps that any walk may take: what the module's documentation promises, with each byte of a run
    /// for a node.
    fn bound(patterns: &[String], channel: &str) -> usize {
        let nodes: usize = patterns.iter().map(|pattern| pattern.len() + 1).sum();
        2 * (nodes + 1) * (channel.len() + 1)
    }

    #[test]
    fn every_shape_is_found_once() {
        let patterns = [
            "", "*", "a*", "*a", "*a*", "a", "?", "??", "a?", "?a*", "[ab]*", "*[ab]", "a*b*",
            "*a*b", "*a*a*", "a*[ab]*b", "*?a", "\\a", "[a]", "**", "*ab", "*ab*", "ab*",
        ];
        let tree = tree(patterns);
        for channel in ["", "a", "b", "ab", "ba", "aa", "aab", "abab", "xaxbx", "bbb", "aaaa"] {
            let mut expected: Vec<_> =
                patterns.iter().filter(|text| Pattern::redis(text).is_match(channel)).collect();
            expected.sort();
            assert_eq!(
                matches(&tree, channel).0.iter().collect::<Vec<_>>(),
                expected,
                "{channel:?}"
            );
        }
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let patterns: Vec<String> = (0..500)
            .flat_map(|i| {
                [
                    format!("user:{i}:*"),
                    format!("*:s{i}"),
                    format!("user:*:s{i}"),
                    format!("*k{i}k*"),
                    format!("a{i}:*:b:*"),
                    format!("[a-f]{i}?:*"),
                    format!("{}{i}", "?".repeat(i % 7)),
                ]
            })
            .collect();
        let mut tree = tree(&patterns);
        assert_eq!(matches(&tree, "user:7:s12").0, ["*:s12", "user:*:s12", "user:7:*"]);
        // Every third, then the rest, so that tables shrink and single edges remain in between.
        for rest in [false, true] {
            for (at, pattern) in patterns.iter().enumerate() {
                if (at % 3 == 0) != rest {
                    assert!(remove(&mut tree, pattern).is_some());
                    assert!(remove(&mut tree, pattern).is_none(), "removed twice");
                }
            }
        }
        assert!(tree.is_empty() && tree.root.rare.is_none());
        assert_eq!(matches(&tree, "user:7:s12").0, [""; 0]);
    }

    #[test]
    fn a_table_of_runs_follows_what_is_there() {
        let texts: Vec<String> = (0..10_000).map(|i| format!("k{i}:*")).collect();
        let mut tree = tree(&texts);
        let places = |tree: &Tree| match &tree.root.runs {
            Runs::Many(many) => many.table.places(),
            _ => 0,
        };
        assert!(places(&tree) >= 10_000);
        texts[10..].iter().for_each(|text| assert!(remove(&mut tree, text).is_some()));
        assert!(places(&tree) <= 128, "{}", places(&tree));
    }

    #[test]
    fn patterns_that_compile_to_the_same_are_kept_apart() {
        let mut tree = tree(["a*b", "a**b", "[a]*b", "\\a*b"]);
        assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a**b", "a*b"]);
        assert!(remove(&mut tree, "a**b").is_some());
        assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a*b"]);
    }

    #[test]
    fn a_node_is_one_cache_line() {
        assert_eq!(size_of::<Node<Pattern>>(), 64);
        assert_eq!(size_of::<Option<Twig<Pattern>>>(), 16);
    }

    /// ProbeTable keep 32 bits of a run's hash: runs that have the same are told apart by what they are.
    #[test]
    fn runs_of_one_hash_are_kept_apart() {
        let hasher = RandomState::default();
        let mut seen = std::collections::HashMap::new();
        let mut pairs = Vec::new();
        for i in 100_000..500_000 {
            let run = format!("k{i}:");
            if let Some(other) = seen.insert(hash(&hasher, run.as_bytes()), run.clone()) {
                pairs.push([other, run]);
            }
        }
        assert!(!pairs.is_empty(), "of 400,000, some twenty pairs are to be expected");
        let mut tree = Tree { root: Branch::default(), hasher };
        // Some are alone behind their run, some are not.
        let texts = |run: &String| [format!("{run}*"), format!("{run}x")];
        for (at, pair) in pairs.iter().enumerate() {
            for text in pair.iter().flat_map(|run| texts(run).into_iter().take(1 + at % 2)) {
                tree.insert(&Pattern::redis(&text), &Pattern::redis(&text));
            }
        }
        for (at, pair) in pairs.iter().enumerate() {
            for run in pair {
                let expected = &texts(run)[..1 + at % 2];
                assert_eq!(matches(&tree, &format!("{run}x")).0, expected);
            }
            let [one, other] = pair;
            assert!(remove(&mut tree, &texts(one)[0]).is_some());
            assert!(remove(&mut tree, &texts(one)[0]).is_none());
            assert_eq!(matches(&tree, &format!("{other}x")).0, &texts(other)[..1 + at % 2]);
        }
    }

    #[test]
    fn more_leads_than_are_kept_are_all_followed() {
        let channel = "1234567890123456";
        // All in one table: leaves, and here and there a node, before and after a `*`.
        for (stars, node) in [("", 100), ("", 3), ("", 12), ("*", 100), ("*", 2), ("x*", 9)] {
            let mut patterns: Vec<String> =
                (1..=channel.len()).map(|end| format!("{stars}{}*", &channel[..end])).collect();
            if let Some(run) = channel.get(..node) {
                patterns.push(format!("{stars}{run}?"));
                patterns.push(format!("{stars}{run}[0-9]*6"));
            }
            let channel = stars.replace('*', "yy") + channel;
            let mut expected: Vec<&String> =
                patterns.iter().filter(|text| Pattern::redis(text).is_match(&channel)).collect();
            expected.sort();
            assert!(expected.len() >= 16);
            let found = matches(&tree(&patterns), &channel).0;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{stars} {node}");
        }
    }

    #[test]
    fn rests_are_spread_out_where_patterns_part_and_no_further() {
        // Longer than what a node keeps of one pattern; shorter; with a star early and late.
        let beginnings = ["[ab]".repeat(40), "a?".repeat(200), "?*a".into(), "a[b]c".into()];
        for beginning in beginnings {
            let patterns: Vec<String> = ["", "x", "?", "*", "[xy]", "x*", "x*y", "*x", "*[xy]z"]
                .iter()
                .map(|end| format!("{beginning}{end}"))
                .collect();
            let literal: String = beginning.replace(['[', ']', '*'], "").replace("ab", "a");
            let literal = literal.replace('?', "b");
            for kept in 1..patterns.len() {
                let mut tree = tree(&patterns);
                for pattern in &patterns[kept..] {
                    assert!(remove(&mut tree, pattern).is_some());
                    assert!(remove(&mut tree, pattern).is_none());
                }
                for end in ["", "x", "y", "xy", "xz", "yyz", "zx", "xzzy"] {
                    let channel = format!("{literal}{end}");
                    let mut expected: Vec<&String> = patterns[..kept]
                        .iter()
                        .filter(|text| Pattern::redis(text).is_match(&channel))
                        .collect();
                    expected.sort();
                    let found = matches(&tree, &channel).0;
                    assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{channel} {kept}");
                }
                for pattern in &patterns[..kept] {
                    assert!(remove(&mut tree, pattern).is_some());
                }
                assert!(tree.is_empty() && tree.root.rare.is_none());
            }
        }
    }

    #[test]
    fn many_stars_take_polynomial_steps() {
        let channel = "a".repeat(3_000);
        let patterns: Vec<String> =
            (1..200).map(|stars| format!("{}b", "*a".repeat(stars))).collect();
        let (found, steps) = matches(&tree(&patterns), &channel);
        assert_eq!(found, [""; 0]);
        assert!(steps <= bound(&patterns, &channel), "{steps}");

        let text = format!("{}*b", "*a".repeat(1_000));
        let (found, steps) = matches(&tree([&text]), &channel);
        assert_eq!(found, [""; 0]);
        assert!(steps <= bound(&[text], &channel), "{steps}");
    }

    #[test]
    fn long_runs_of_question_marks_are_one_edge() {
        let patterns: Vec<String> =
            (0..10_000).map(|i| format!("{}{}", "?".repeat(200 + i % 100), i)).collect();
        let channel = "x".repeat(290) + "77";
        let (_, steps) = matches(&tree(&patterns), &channel);
        assert!(steps <= 10_000, "{steps}");
        let starred: Vec<String> = patterns.iter().map(|text| format!("*{text}*")).collect();
        let (_, steps) = matches(&tree(&starred), &channel);
        assert!(steps <= bound(&starred, &channel), "{steps}");
    }

    #[test]
    fn classes_after_a_star_take_polynomial_steps() {
        let patterns: Vec<String> = (1..100)
            .map(|n| "*[ab]".repeat(n) + "c")
            .chain((1..100).map(|n| "*".to_owned() + &"[a-c]".repeat(n) + "d"))
            .collect();
        let channel = "ab".repeat(500);
        let (found, steps) = matches(&tree(&patterns), &channel);
        assert_eq!(found, [""; 0]);
        assert!(steps <= bound(&patterns, &channel), "{steps}");
    }

    #[test]
    fn a_last_literal_is_looked_for_at_the_end() {
        let end = format!("{}b", "a".repeat(200));
        let patterns: Vec<String> = (0..500).map(|i| format!("a{i}*{end}")).collect();
        let channel = format!("a1{}", "a".repeat(2_000));
        let (found, steps) = matches(&tree(&patterns), &channel);
        assert_eq!(found, [""; 0]);
        assert!(steps < 1_000, "{steps}");
        let found = matches(&tree(&patterns), &format!("{channel}b")).0;
        assert_eq!(found, [&*patterns[1]]);
    }

    #[test]
    fn literals_behind_a_star_are_tried_where_they_can_begin() {
        let patterns: Vec<String> = (0..10_000).map(|i| format!("*k{i}k*")).collect();
        let tree = tree(&patterns);
        let channel = format!("{}k77k{}", "x".repeat(1_000), "x".repeat(1_000));
        let (found, steps) = matches(&tree, &channel);
        assert_eq!(found, ["*k77k*"]);
        assert!(steps < 100, "{steps}");
    }

    #[test]
    fn depth_does_not_reach_the_stack() {
        // On a stack on which a recursion over the depth would overflow.
        let deep = || {
            let texts = [
                "?*".repeat(30_000),
                "[a]*".repeat(16_000),
                "[ab]".repeat(16_000),
                "*a?".repeat(20_000),
                "a*".repeat(32_000),
                "[".repeat(65_536),
            ];
            let mut tree = tree(&texts);
            let channel = "ab".repeat(1_000);
            matches(&tree, &channel);
            assert!(remove(&mut tree, &texts[3]).is_some());
            drop(tree);
        };
        std::thread::Builder::new().stack_size(64 << 10).spawn(deep).unwrap().join().unwrap();
    }

    /// Nodes and branches of a tree, and the bytes that these take, those of patterns and allocator apart.
    fn weight(tree: &Tree) -> (usize, usize) {
        type One = Node<Pattern>;
        fn heap(node: &One) -> usize {
            if node.bytes.spilled() { node.bytes.capacity() } else { 0 }
        }
        fn ends(ends: &Ends<Pattern>) -> usize {
            if ends.spilled() { ends.capacity() * size_of::<Pattern>() } else { 0 }
        }
        fn runs<'a>(runs: &'a Runs<Pattern>, nodes: &mut Vec<&'a One>) -> usize {
            match runs {
                Runs::None => 0,
                Runs::One(_, node) => {
                    nodes.push(node);
                    size_of::<One>()
                }
                Runs::Many(many) => {
                    let boxed = many.table.iter().filter_map(|twig| match twig {
                        Twig::Leaf(..) => None,
                        Twig::Node(_, node) => Some(&**node),
                    });
                    let before = nodes.len();
                    nodes.extend(boxed);
                    size_of::<RunTable<Pattern>>()
                        + many.table.places() * size_of::<Option<Twig<Pattern>>>()
                        + many.lengths.capacity() * size_of::<Length>()
                        + (nodes.len() - before) * size_of::<One>()
                }
            }
        }
        let (mut count, mut bytes) = (0, 0);
        let mut branches = vec![&tree.root];
        while let Some(branch) = branches.pop() {
            let mut nodes = Vec::new();
            count += 1;
            bytes += size_of::<Branch<Pattern>>() + ends(&branch.ends) + ends(&branch.star_ends);
            bytes += runs(&branch.runs, &mut nodes);
            if let Some(rare) = &branch.rare {
                bytes += size_of::<Rare<Pattern>>() + ends(&rare.unconfirmed);
                bytes += rare.any.capacity() * size_of::<(usize, One)>();
                bytes += rare.classes.capacity() * size_of::<(ByteSet, One)>();
                nodes.extend(rare.any.iter().map(|(_, node)| node));
                nodes.extend(rare.classes.iter().map(|(_, node)| node));
                if let Some(star) = &rare.star {
                    bytes += star.classes.capacity() * size_of::<(ByteSet, One)>();
                    nodes.extend(star.classes.iter().map(|(_, node)| node));
                    bytes += runs(&star.runs, &mut nodes) + runs(&star.tails, &mut nodes);
                }
            }
            count += nodes.len();
            for node in nodes {
                bytes += heap(node);
                if let Below::Branch(below) = &node.below {
                    branches.push(below);
                }
            }
        }
        (count, bytes)
    }

    #[test]
    fn a_pattern_of_any_shape_costs_a_bounded_number_of_nodes() {
        let shapes =
            ["?", "a?", "[ac]", "[^a]", "[]", "[]?", "*a", "*[ac]", "a?*", "\\a", "a", "[^a]?*b"];
        let (_, empty) = weight(&tree([""; 0]));
        for (shape, length) in shapes.iter().flat_map(|shape| [(shape, 1 << 10), (shape, 1 << 16)])
        {
            let long = shape.repeat(length / shape.len());
            let alone = vec![long.clone()];
            let with_other_ends: Vec<_> = (0..20).map(|i| format!("{long}{i}")).collect();
            let with_other_beginnings: Vec<_> = (0..20).map(|i| format!("{i}{long}")).collect();
            for texts in [alone, with_other_ends, with_other_beginnings] {
                let patterns: Vec<Pattern> = texts.iter().map(Pattern::from).collect();
                let mut tree = Tree::new(RandomState::default());
                patterns.iter().for_each(|pattern| tree.insert(pattern, pattern));
                let (nodes, bytes) = weight(&tree);
                let text: usize = texts.iter().map(String::len).sum();
                let code: usize = patterns.iter().map(|pattern| pattern.code().len()).sum();
                let each = (text + code + bytes) as f64 / text as f64;
                assert!(each <= 16.0, "{shape} of {length}, {}: {each} bytes", texts.len());
                // As many on the one way that all share as it may have, and those where they part.
                let most = 2 * max_depth(length) + 2 * texts.len() + 2;
                assert!(nodes <= most, "{shape} of {length}, {}: {nodes} nodes", texts.len());

                patterns.iter().rev().for_each(|pattern| {
                    assert!(tree.remove(pattern, |other| other == pattern).is_some());
                });
                assert!(tree.is_empty());
                assert!(weight(&tree).1 <= empty + size_of::<Branch<Pattern>>());
            }
        }
    }

    #[test]
    fn a_pattern_that_is_alone_is_one_node_however_long() {
        let kinds = ["?*", "a?", "*a", "[^a]*", "[ac]"];
        for text in kinds.iter().map(|kind| kind.repeat(1 << 14)) {
            // The root, and that node.
            assert_eq!(weight(&tree([&text])).0, 2, "{}", &text[..4]);
        }
    }

    #[test]
    fn patterns_that_part_beyond_the_greatest_depth_are_told_apart() {
        // Each unit with what it matches.
        for (unit, literal) in
            [("a?", "ab"), ("*a", "a"), ("[ac]", "c"), ("?*b", "ab"), ("[^a]?", "bb")]
        {
            for units in [1, 5, 6, 7, 8, 31, 32, 33, 200] {
                let beginning = unit.repeat(units);
                let ends = ["", "x", "y", "?", "*", "x*y", "[xy]", "*x"];
                let texts: Vec<String> =
                    ends.iter().map(|end| format!("{beginning}{end}")).collect();
                let mut tree = tree(&texts);
                for kept in (0..=texts.len()).rev() {
                    for end in ["", "x", "y", "xy", "xzy"] {
                        let channel = literal.repeat(units) + end;
                        let mut expected: Vec<&String> = texts[..kept]
                            .iter()
                            .filter(|text| Pattern::redis(text).is_match(&channel))
                            .collect();
                        expected.sort();
                        let found = matches(&tree, &channel).0;
                        assert_eq!(
                            found.iter().collect::<Vec<_>>(),
                            expected,
                            "{unit} {units} {end}"
                        );
                    }
                    if let Some(last) = kept.checked_sub(1) {
                        assert!(remove(&mut tree, &texts[last]).is_some());
                        assert!(remove(&mut tree, &texts[last]).is_none());
                    }
                }
                assert!(tree.is_empty());
            }
        }
    }

    #[test]
    fn an_unconfirmed_pattern_is_reported_once_however_often_it_is_reached() {
        let long = "?".repeat(300) + &"a?".repeat(300);
        let patterns = [format!("*a*b*{long}"), "*a*b".repeat(40) + "x", "*a*b".repeat(40) + "y"];
        for count in 1..=patterns.len() {
            let tree = tree(&patterns[..count]);
            let mut reports = std::collections::HashMap::new();
            tree.matches("ab".repeat(1_000).as_bytes(), |pattern, unconfirmed| {
                assert!(unconfirmed);
                *reports.entry(pattern.as_str().to_owned()).or_insert(0) += 1;
            });
            assert_eq!(reports.len(), count);
            assert!(reports.values().all(|&times| times == 1), "{count}");
        }
    }

    /// Pieces of long patterns, each with a text that it matches.
    const UNITS: [(&str, &str); 9] = [
        ("a?", "ab"),
        ("?*", "a"),
        ("[ab]", "b"),
        ("a*", "ab"),
        ("*[ac]", "bc"),
        ("ab", "ab"),
        ("?", "c"),
        ("[]", "a"),
        ("\\a", "a"),
    ];

    proptest::proptest! {
        /// The trie says what each pattern says for itself, whatever came and went before.
        #[test]
        fn agrees_with_a_linear_scan(
            patterns in proptest::collection::vec("[ab*?\\[\\]^\\\\-]{0,7}", 1..40),
            runs in proptest::collection::vec("[*?]{0,1}[abc]{1,4}([*?]|[*][abc]|\\[ab\\]c?){0,2}", 0..60),
            long in proptest::collection::vec((0..UNITS.len(), 0..3_usize, "[abc*?]{0,2}"), 0..12),
            repeats in proptest::sample::select(vec![3_usize, 12, 31, 33, 130]),
            removed in proptest::collection::vec(proptest::num::u32::ANY, 112),
            channels in proptest::collection::vec("[abc\\]^-]{0,9}", 8),
            hashed in proptest::sample::select(vec![0, 1, 3, 7, 31, 0x8000_0001, u32::MAX]),
        ) {
            HASHED.set(hashed);
            let (mut patterns, mut channels) = (patterns, channels);
            patterns.extend(runs);
            // Many share a long beginning, and reach the greatest depth at the same place or near it.
            for (unit, more, end) in long {
                let (pattern, literal) = UNITS[unit];
                patterns.push(pattern.repeat(repeats + more) + &end);
                channels.push(literal.repeat(repeats + more) + &end.replace(['*', '?'], "b"));
            }
            patterns.sort();
            patterns.dedup();
            let mut tree = tree(&patterns);
            let mut order: Vec<(u32, String)> = removed.into_iter().zip(patterns).collect();
            order.sort();
            let half = order.len() / 2;
            for (at, (_, pattern)) in order.iter().enumerate() {
                if at == 0 || at == half {
                    let mut kept: Vec<String> =
                        order[at..].iter().map(|(_, pattern)| pattern.clone()).collect();
                    kept.sort();
                    for channel in &channels {
                        let expected: Vec<_> = kept
                            .iter()
                            .filter(|pattern| Pattern::redis(pattern).is_match(channel))
                            .cloned()
                            .collect();
                        let (found, steps) = matches(&tree, channel);
                        proptest::prop_assert_eq!(found, expected);
                        proptest::prop_assert!(steps <= bound(&kept, channel));
                    }
                }
                proptest::prop_assert!(remove(&mut tree, pattern).is_some());
            }
            proptest::prop_assert!(tree.is_empty() && tree.root.rare.is_none());
        }
    }
}
