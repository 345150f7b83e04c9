//! The pattern trie: a tree over the tokens of patterns, walked as an automaton over a channel.
//!
//! It is a pure data structure: it takes no lock and knows nothing of subscribers. `E` is what stands
//! at a pattern's end.
//!
//! Edges are whole tokens. A run of literal bytes is one edge, found by hash among its siblings: one
//! look-up for each length that occurs among them, so that the patterns `user:{i}:*` cost a channel as
//! many look-ups as there are different numbers of digits, independent of each other, and not a chain
//! of nodes that each must be fetched before the next is known. (A byte-wise radix trie over a million
//! of these costs seven dependent cache misses; this one costs three.)
//!
//! The walk is bounded whatever the patterns. A node is reached from its one parent, by an edge of a
//! fixed length, unless the parent is a `*`; and a `*` is entered once in a walk, at the earliest
//! position: it tries its edges at every later one itself, so a later entry could find nothing new.
//! Hence every node is visited at most once for each position of the channel.

use std::hash::{BuildHasher, Hasher};
use std::mem;

use foldhash::fast::RandomState;
use hashbrown::{HashSet, HashTable};
use smallvec::SmallVec;

use crate::pattern::{ByteSet, Pattern, Program, Token};

/// A trie of patterns. See the module's documentation.
pub(crate) struct PatternTree<E> {
    root: Node<E>,
    hasher: RandomState,
}

/// What stands where a pattern ends: one for each pattern text that compiles to the same tokens.
type Ends<E> = SmallVec<[E; 1]>;

// In the order in which a walk looks at them: the compiler's own order would save no byte.
#[repr(C)]
struct Node<E> {
    /// The literal bytes of the edge that leads here; empty where it is no run.
    run: SmallVec<[u8; 16]>,
    /// What all patterns that go through here ask of the bytes that follow.
    ahead: Ahead,
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
fn has_ahead(rest: &[u8], ahead: Ahead) -> bool {
    ahead.is_none_or(|(distance, byte)| rest.get(usize::from(distance)) == Some(&byte))
}

/// What the way along `edges` asks of the bytes that follow.
fn look_ahead(edges: &[Edge<'_>]) -> Ahead {
    let mut distance = 0_usize;
    for edge in edges {
        if distance > usize::from(u8::MAX) {
            return None;
        }
        match edge {
            Edge::Run(run) => return Some((u8::try_from(distance).ok()?, run[0])),
            Edge::Any(count) => distance = distance.saturating_add(*count),
            Edge::Class(_) => distance += 1,
            Edge::StarRun(_) | Edge::StarClass(_) | Edge::Tail(_) => return None,
        }
    }
    None
}

/// The edges that most nodes lack.
struct Rare<E> {
    /// By number of bytes, ascending. The first lies here, one cache miss nearer.
    any: SmallVec<[(usize, Node<E>); 1]>,
    classes: Vec<(ByteSet, Node<E>)>,
    star: Option<Star<E>>,
    /// Shell globs whose literal beginning ends here: whether they match is for them to say.
    globs: Vec<E>,
}

/// A `*` that is not a pattern's last token.
struct Star<E> {
    runs: Runs<E>,
    classes: Vec<(ByteSet, Node<E>)>,
    /// Runs that are their pattern's last token: the channel's own ending tells whether they match, no
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
    /// Nodes lie in the table itself: one cache miss less for each that is found, and no memory to be
    /// walked through when the table grows.
    table: HashTable<Node<E>>,
    /// The lengths that occur, ascending.
    lengths: SmallVec<[Length; 4]>,
    /// The bytes that runs begin with; never shrinks while the table lives.
    first: ByteSet,
    /// What all of its nodes ask of the bytes that follow: where they agree, a run that leads nowhere need
    /// not be looked up.
    ahead: Ahead,
}

/// The runs of one length among those of a table.
struct Length {
    /// The length, in bytes.
    bytes: usize,
    /// How many runs have it.
    runs: usize,
    /// The bytes that they begin and end with, as bits that four bytes each share. They tell in most cases that none of them is there, without a look at the table. They never shrink
    /// while there is a run of this length.
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

impl<E> Default for Node<E> {
    fn default() -> Self {
        Self {
            run: SmallVec::new(),
            ahead: None,
            ends: SmallVec::new(),
            star_ends: SmallVec::new(),
            runs: Runs::None,
            rare: None,
        }
    }
}

impl<E> Default for Rare<E> {
    fn default() -> Self {
        Self { any: SmallVec::new(), classes: Vec::new(), star: None, globs: Vec::new() }
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
    Class(&'a ByteSet),
    /// A `*`, then a run that is not the pattern's last token.
    StarRun(&'a [u8]),
    StarClass(&'a ByteSet),
    /// A `*`, then a run that ends the pattern.
    Tail(&'a [u8]),
}

/// Which of a node's lists a pattern's end stands in.
#[derive(Clone, Copy)]
enum Place {
    Here,
    Star,
    Glob,
}

/// A pattern as a path through the trie: its edges, and where on the last node its end stands.
struct Path<'a> {
    edges: SmallVec<[Edge<'a>; 8]>,
    place: Place,
}

/// The paths of a pattern: one, but for a shell glob with choices at its beginning.
fn paths(pattern: &Pattern) -> SmallVec<[Path<'_>; 1]> {
    let mut paths = SmallVec::new();
    match pattern.program() {
        Program::Redis(tokens) => {
            let text = pattern.as_str().as_bytes();
            paths.push(redis_path(tokens.as_slice(), tokens.literals(text)));
        }
        Program::Glob(glob) => {
            for prefix in glob.prefixes() {
                let mut edges = SmallVec::new();
                if !prefix.is_empty() {
                    edges.push(Edge::Run(prefix));
                }
                paths.push(Path { edges, place: Place::Glob });
            }
        }
    }
    paths
}

fn redis_path<'a>(mut tokens: &'a [Token], literals: &'a [u8]) -> Path<'a> {
    let mut edges = SmallVec::new();
    loop {
        let (edge, taken) = match tokens {
            [] => return Path { edges, place: Place::Here },
            [Token::Star] => return Path { edges, place: Place::Star },
            [Token::Star, Token::Run { start, end }] => (Edge::Tail(&literals[*start..*end]), 2),
            [Token::Star, Token::Run { start, end }, ..] => {
                (Edge::StarRun(&literals[*start..*end]), 2)
            }
            [Token::Star, Token::Class(set), ..] => (Edge::StarClass(set), 2),
            [Token::Star, Token::Star | Token::Any(_), ..] => {
                unreachable!("tokens are in normal form")
            }
            [Token::Run { start, end }, ..] => (Edge::Run(&literals[*start..*end]), 1),
            [Token::Any(count), ..] => (Edge::Any(*count), 1),
            [Token::Class(set), ..] => (Edge::Class(set), 1),
        };
        edges.push(edge);
        tokens = &tokens[taken..];
    }
}

impl<E> PatternTree<E> {
    /// `hasher` decides how literal runs are spread; names can come from outside, so it is seeded.
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { root: Node::default(), hasher }
    }

    /// The end of `pattern` for which `is_it` holds, if the trie has it.
    pub(crate) fn get(&self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<&E> {
        let path = paths(pattern).into_iter().next()?;
        let mut node = &self.root;
        for &edge in &path.edges {
            node = node.child(edge, &self.hasher)?;
        }
        node.ends(path.place).iter().find(|end| is_it(end))
    }

    /// Adds an end to `pattern`, whose ends do not hold it yet.
    ///
    /// # Complexity
    ///
    /// Linear in the pattern; the number of patterns does not matter.
    pub(crate) fn insert(&mut self, pattern: &Pattern, end: &E)
    where
        E: Clone,
    {
        for path in paths(pattern) {
            let mut node = &mut self.root;
            for (at, &edge) in path.edges.iter().enumerate() {
                let ahead = look_ahead(&path.edges[at + 1..]);
                node = node.child_or_insert(edge, ahead, &self.hasher);
            }
            match path.place {
                Place::Here => node.ends.push(end.clone()),
                Place::Star => node.star_ends.push(end.clone()),
                Place::Glob => node.rare_mut().globs.push(end.clone()),
            }
        }
    }

    /// Takes out the end of `pattern` for which `is_it` holds, with the nodes that only it needed.
    ///
    /// # Complexity
    ///
    /// Linear in the pattern, and in the globs that share its literal beginning.
    pub(crate) fn remove(&mut self, pattern: &Pattern, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let mut removed = None;
        for path in paths(pattern) {
            removed = self.remove_path(&path, &is_it).or(removed);
        }
        removed
    }

    fn remove_path(&mut self, path: &Path<'_>, is_it: impl Fn(&E) -> bool) -> Option<E> {
        // How many edges lead to the last node that is needed without this path.
        let mut keep = 0;
        let mut node = &mut self.root;
        for (depth, &edge) in path.edges.iter().enumerate() {
            if node.fan() > 1 {
                keep = depth;
            }
            node = node.child_mut(edge, &self.hasher)?;
        }
        let removed = node.take_end(path.place, is_it)?;
        if node.fan() == 0 {
            let mut node = &mut self.root;
            for &edge in path.edges.get(..keep)? {
                node = node.child_mut(edge, &self.hasher)?;
            }
            if let Some(&edge) = path.edges.get(keep) {
                node.remove_child(edge, &self.hasher);
            }
        }
        Some(removed)
    }

    /// Calls `found` for each pattern that matches `channel`, once; with `true` where the end is a
    /// shell glob's, of which only the literal beginning has been seen to match.
    ///
    /// Returns the steps taken, in visits of a node and bytes of literals looked at.
    ///
    /// # Complexity
    ///
    /// In the worst case the product of the trie's size and the channel's length. It does not recurse.
    pub(crate) fn matches(&self, channel: &[u8], mut found: impl FnMut(&E, bool)) -> usize {
        let mut walk = Walk {
            channel,
            hasher: &self.hasher,
            top: None,
            stack: SmallVec::new(),
            entered: Entered::default(),
            steps: 0,
        };
        if channel.is_empty() {
            // Only the empty pattern matches it, a quirk of redis-server; a glob says for itself.
            self.root.ends.iter().for_each(|end| found(end, false));
            for glob in self.root.rare.iter().flat_map(|rare| &rare.globs) {
                found(glob, true);
            }
            return 1;
        }
        walk.node(&self.root, 0, false, &mut found);
        while let Some(visit) = walk.top.take().or_else(|| walk.stack.pop()) {
            match visit {
                Visit::Node { node, at, starred } => walk.node(node, at, starred, &mut found),
                Visit::Star { star, at } => walk.star(star, at),
            }
        }
        walk.steps
    }

    /// Calls `each` for every end, once for each place where it stands.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&E)) {
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            node.ends.iter().chain(&node.star_ends).for_each(&mut each);
            node.runs.push_all(&mut nodes);
            let Some(rare) = &node.rare else { continue };
            rare.globs.iter().for_each(&mut each);
            nodes.extend(rare.any.iter().map(|(_, node)| node));
            nodes.extend(rare.classes.iter().map(|(_, node)| node));
            let Some(star) = &rare.star else { continue };
            nodes.extend(star.classes.iter().map(|(_, node)| node));
            star.runs.push_all(&mut nodes);
            star.tails.push_all(&mut nodes);
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.fan() == 0
    }
}

enum Visit<'a, E> {
    Node {
        node: &'a Node<E>,
        /// How many bytes of the channel have been consumed.
        at: usize,
        /// Whether a `*` lies on the way here, so that this node can be reached at other positions.
        starred: bool,
    },
    /// A `*` to try its edges at `at` and everywhere after.
    Star { star: &'a Star<E>, at: usize },
}

struct Walk<'a, E> {
    channel: &'a [u8],
    hasher: &'a RandomState,
    /// What is on top of the stack; in most walks all that ever is.
    top: Option<Visit<'a, E>>,
    stack: SmallVec<[Visit<'a, E>; 16]>,
    entered: Entered,
    steps: usize,
}

/// The nodes whose `*` has been entered, by address. Few in most walks.
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

impl<'a, E> Walk<'a, E> {
    #[inline]
    fn push(&mut self, visit: Visit<'a, E>) {
        if let Some(below) = self.top.replace(visit) {
            self.stack.push(below);
        }
    }

    fn node(
        &mut self,
        node: &'a Node<E>,
        at: usize,
        starred: bool,
        found: &mut impl FnMut(&E, bool),
    ) {
        self.steps += 1;
        let rest = &self.channel[at..];
        if !has_ahead(rest, node.ahead) {
            return;
        }
        if rest.is_empty() {
            node.ends.iter().for_each(|end| found(end, false));
        }
        let star = node.rare.as_ref().and_then(|rare| rare.star.as_ref());
        if (star.is_some() || !node.star_ends.is_empty())
            && (!starred || self.entered.insert(std::ptr::from_ref(node).addr()))
        {
            node.star_ends.iter().for_each(|end| found(end, false));
            if let Some(star) = star {
                self.tails(&star.tails, at, found);
                self.push(Visit::Star { star, at });
            }
        }
        if let Some(rare) = &node.rare {
            rare.globs.iter().for_each(|glob| found(glob, true));
            for (count, child) in rare.any.iter().take_while(|(count, _)| *count <= rest.len()) {
                self.steps += 1;
                self.push(Visit::Node { node: child, at: at + count, starred });
            }
            self.classes(&rare.classes, at, starred);
        }
        self.runs(&node.runs, at, starred);
    }

    /// Tries the edges behind a `*` from the first position on where one can begin, and comes back for
    /// the others. Positions are tried in order, each with all that follows from it: that is what
    /// makes the first entry of every inner `*` the earliest.
    fn star(&mut self, star: &'a Star<E>, mut at: usize) {
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
            self.classes(&star.classes, at, true);
            self.runs(&star.runs, at, true);
        }
    }

    fn classes(&mut self, classes: &'a [(ByteSet, Node<E>)], at: usize, starred: bool) {
        let Some(&byte) = self.channel.get(at) else { return };
        for (set, child) in classes {
            self.steps += 1;
            if set.contains(byte) {
                self.push(Visit::Node { node: child, at: at + 1, starred });
            }
        }
    }

    fn runs(&mut self, runs: &'a Runs<E>, at: usize, starred: bool) {
        let rest = &self.channel[at..];
        match runs {
            Runs::None => {}
            Runs::One(first, node) => {
                if rest.first() != Some(first) {
                    return;
                }
                self.steps += node.run.len();
                if rest.starts_with(&node.run) {
                    self.push(Visit::Node { node, at: at + node.run.len(), starred });
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
                    self.steps += run.len();
                    if let Some(node) = many.find(run, self.hasher) {
                        self.push(Visit::Node { node, at: at + run.len(), starred });
                    }
                }
            }
        }
    }

    fn tails(&mut self, tails: &'a Runs<E>, at: usize, found: &mut impl FnMut(&E, bool)) {
        let rest = &self.channel[at..];
        match tails {
            Runs::None => {}
            Runs::One(_, node) => {
                self.steps += node.run.len();
                if rest.ends_with(&node.run) {
                    node.ends.iter().for_each(|end| found(end, false));
                }
            }
            Runs::Many(many) => {
                for length in &many.lengths {
                    let Some(from) = rest.len().checked_sub(length.bytes) else { break };
                    let run = &rest[from..];
                    if !length.can_be(run) {
                        continue;
                    }
                    self.steps += run.len();
                    if let Some(node) = many.find(run, self.hasher) {
                        node.ends.iter().for_each(|end| found(end, false));
                    }
                }
            }
        }
    }
}

impl<E> Node<E> {
    fn with_run(run: &[u8], ahead: Ahead) -> Self {
        let mut node = Self::default();
        node.run = SmallVec::from_slice(run);
        node.ahead = ahead;
        node
    }

    fn rare_mut(&mut self) -> &mut Rare<E> {
        self.rare.get_or_insert_default()
    }

    fn ends(&self, place: Place) -> &[E] {
        match place {
            Place::Here => &self.ends,
            Place::Star => &self.star_ends,
            Place::Glob => self.rare.as_ref().map_or(&[], |rare| &rare.globs),
        }
    }

    fn take_end(&mut self, place: Place, is_it: impl Fn(&E) -> bool) -> Option<E> {
        let at = self.ends(place).iter().position(is_it)?;
        Some(match place {
            Place::Here => take_from_ends(&mut self.ends, at),
            Place::Star => take_from_ends(&mut self.star_ends, at),
            Place::Glob => {
                let rare = self.rare_mut();
                let end = rare.globs.swap_remove(at);
                shrink(&mut rare.globs);
                self.drop_rare_if_empty();
                end
            }
        })
    }

    /// How many things hang on this node: ends and edges.
    fn fan(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let star = rare.star.as_ref().map_or(0, |star| star.fan());
            rare.any.len() + rare.classes.len() + rare.globs.len() + star
        });
        self.ends.len() + self.star_ends.len() + self.runs.len() + rare
    }

    fn child(&self, edge: Edge<'_>, hasher: &RandomState) -> Option<&Node<E>> {
        let rare = || self.rare.as_deref();
        let star = || rare()?.star.as_ref();
        match edge {
            Edge::Run(run) => self.runs.get(run, hasher),
            Edge::Any(count) => {
                let any = &rare()?.any;
                let at = any.binary_search_by_key(&count, |(count, _)| *count).ok()?;
                Some(&any[at].1)
            }
            Edge::Class(set) => find_class(&rare()?.classes, set),
            Edge::StarRun(run) => star()?.runs.get(run, hasher),
            Edge::StarClass(set) => find_class(&star()?.classes, set),
            Edge::Tail(run) => star()?.tails.get(run, hasher),
        }
    }

    fn child_mut(&mut self, edge: Edge<'_>, hasher: &RandomState) -> Option<&mut Node<E>> {
        match edge {
            Edge::Run(run) => return self.runs.get_mut(run, hasher),
            Edge::Any(_) | Edge::Class(_) => {}
            Edge::StarRun(run) => return self.star_mut()?.runs.get_mut(run, hasher),
            Edge::StarClass(set) => return find_class_mut(&mut self.star_mut()?.classes, set),
            Edge::Tail(run) => return self.star_mut()?.tails.get_mut(run, hasher),
        }
        let rare = self.rare.as_deref_mut()?;
        match edge {
            Edge::Any(count) => {
                let at = rare.any.binary_search_by_key(&count, |(count, _)| *count).ok()?;
                Some(&mut rare.any[at].1)
            }
            Edge::Class(set) => find_class_mut(&mut rare.classes, set),
            _ => None,
        }
    }

    fn star_mut(&mut self) -> Option<&mut Star<E>> {
        self.rare.as_mut()?.star.as_mut()
    }

    /// The node that `edge` leads to, for a pattern that asks for `ahead` behind it.
    fn child_or_insert(
        &mut self,
        edge: Edge<'_>,
        ahead: Ahead,
        hasher: &RandomState,
    ) -> &mut Node<E> {
        if let Edge::Run(run) = edge {
            return self.runs.get_or_insert(run, ahead, hasher);
        }
        let rare = self.rare_mut();
        match edge {
            Edge::Any(count) => {
                let at = match rare.any.binary_search_by_key(&count, |(count, _)| *count) {
                    Ok(at) => {
                        agree(&mut rare.any[at].1.ahead, ahead);
                        at
                    }
                    Err(at) => {
                        rare.any.insert(at, (count, Node::with_run(&[], ahead)));
                        at
                    }
                };
                &mut rare.any[at].1
            }
            Edge::Class(set) => class_or_insert(&mut rare.classes, set, ahead),
            Edge::Run(run) | Edge::StarRun(run) => {
                rare.star.get_or_insert_default().runs.get_or_insert(run, ahead, hasher)
            }
            Edge::StarClass(set) => {
                class_or_insert(&mut rare.star.get_or_insert_default().classes, set, ahead)
            }
            Edge::Tail(run) => {
                rare.star.get_or_insert_default().tails.get_or_insert(run, ahead, hasher)
            }
        }
    }

    fn remove_child(&mut self, edge: Edge<'_>, hasher: &RandomState) {
        if let Edge::Run(run) = edge {
            self.runs.remove(run, hasher);
            return;
        }
        let Some(rare) = &mut self.rare else { return };
        match edge {
            Edge::Any(count) => {
                rare.any.retain(|(other, _)| *other != count);
                if rare.any.len() < rare.any.capacity() / 4 {
                    rare.any.shrink_to_fit();
                }
            }
            Edge::Class(set) => remove_class(&mut rare.classes, set),
            _ => {
                let Some(star) = &mut rare.star else { return };
                match edge {
                    Edge::StarRun(run) => star.runs.remove(run, hasher),
                    Edge::StarClass(set) => remove_class(&mut star.classes, set),
                    Edge::Tail(run) => star.tails.remove(run, hasher),
                    Edge::Run(_) | Edge::Any(_) | Edge::Class(_) => {}
                }
                if star.fan() == 0 {
                    rare.star = None;
                }
            }
        }
        self.drop_rare_if_empty();
    }

    fn drop_rare_if_empty(&mut self) {
        let empty = |rare: &mut Box<Rare<E>>| {
            rare.any.is_empty()
                && rare.classes.is_empty()
                && rare.globs.is_empty()
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
impl<E> Drop for Node<E> {
    fn drop(&mut self) {
        if matches!(self.runs, Runs::None) && self.rare.is_none() {
            return;
        }
        let mut doomed = Vec::new();
        self.take_children(&mut doomed);
        while let Some(mut node) = doomed.pop() {
            node.take_children(&mut doomed);
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
    fn one(node: Node<E>) -> Self {
        Self::One(node.run[0], Box::new(node))
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(many) => many.table.len(),
        }
    }

    fn get(&self, run: &[u8], hasher: &RandomState) -> Option<&Node<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (*node.run == *run).then_some(node),
            Self::Many(many) => many.find(run, hasher),
        }
    }

    fn get_mut(&mut self, run: &[u8], hasher: &RandomState) -> Option<&mut Node<E>> {
        match self {
            Self::None => None,
            Self::One(_, node) => (*node.run == *run).then_some(node),
            Self::Many(many) => many.table.find_mut(hash(hasher, run), |node| *node.run == *run),
        }
    }

    fn get_or_insert(&mut self, run: &[u8], ahead: Ahead, hasher: &RandomState) -> &mut Node<E> {
        let one_more = match self {
            Self::None => {
                *self = Self::one(Node::with_run(run, ahead));
                false
            }
            Self::One(_, node) => *node.run != *run,
            Self::Many(_) => false,
        };
        if one_more && let Self::One(_, node) = mem::replace(self, Self::None) {
            let mut many = RunTable::new(node.ahead);
            many.insert(*node, hasher);
            *self = Self::Many(Box::new(many));
        }
        let node = match self {
            Self::None => unreachable!("filled above"),
            Self::One(_, node) => node,
            Self::Many(many) => {
                agree(&mut many.ahead, ahead);
                let hash = hash(hasher, run);
                // Two look-ups where it is there: the borrow checker does not see that the first
                // one's borrow ends when it finds nothing.
                if many.table.find(hash, |node| *node.run == *run).is_none() {
                    many.insert(Node::with_run(run, ahead), hasher);
                }
                many.table
                    .find_mut(hash, |node| *node.run == *run)
                    .unwrap_or_else(|| unreachable!("inserted above"))
            }
        };
        agree(&mut node.ahead, ahead);
        node
    }

    fn remove(&mut self, run: &[u8], hasher: &RandomState) {
        match self {
            Self::None => {}
            Self::One(_, node) => {
                if *node.run == *run {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.remove(run, hasher);
                if many.table.len() == 1 {
                    let last = many.table.drain().next();
                    *self = last.map_or(Self::None, Self::one);
                }
            }
        }
    }

    fn push_all<'a>(&'a self, out: &mut Vec<&'a Node<E>>) {
        match self {
            Self::None => {}
            Self::One(_, node) => out.push(node),
            Self::Many(many) => out.extend(many.table.iter()),
        }
    }

    fn take_all(self, out: &mut Vec<Node<E>>) {
        match self {
            Self::None => {}
            Self::One(_, node) => out.push(*node),
            Self::Many(mut many) => out.extend(many.table.drain()),
        }
    }
}

impl<E> RunTable<E> {
    fn new(ahead: Ahead) -> Self {
        let first = ByteSet::default();
        Self { table: HashTable::new(), lengths: SmallVec::new(), first, ahead }
    }

    #[inline]
    fn find(&self, run: &[u8], hasher: &RandomState) -> Option<&Node<E>> {
        self.table.find(hash(hasher, run), |node| *node.run == *run)
    }

    fn insert(&mut self, node: Node<E>, hasher: &RandomState) {
        let (first, last) = (node.run[0], node.run[node.run.len() - 1]);
        self.first.insert(first);
        let (first, last) = (Length::bit(first), Length::bit(last));
        let bytes = node.run.len();
        match self.lengths.binary_search_by_key(&bytes, |length| length.bytes) {
            Ok(at) => {
                let length = &mut self.lengths[at];
                length.runs += 1;
                length.first |= first;
                length.last |= last;
            }
            Err(at) => self.lengths.insert(at, Length { bytes, runs: 1, first, last }),
        }
        self.table.insert_unique(hash(hasher, &node.run), node, |node| hash(hasher, &node.run));
    }

    fn remove(&mut self, run: &[u8], hasher: &RandomState) {
        let Ok(entry) = self.table.find_entry(hash(hasher, run), |node| *node.run == *run) else {
            return;
        };
        entry.remove();
        if let Ok(at) = self.lengths.binary_search_by_key(&run.len(), |length| length.bytes) {
            self.lengths[at].runs -= 1;
            if self.lengths[at].runs == 0 {
                self.lengths.remove(at);
                self.lengths.shrink_to_fit();
            }
        }
        if self.table.capacity() > 64 && self.table.len() < self.table.capacity() / 4 {
            // To twice what is needed, so that the next insertions do not grow it at once.
            let room = self.table.len() * 2;
            self.table.shrink_to(room, |node| hash(hasher, &node.run));
        }
    }
}

#[inline]
fn hash(hasher: &RandomState, run: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(run);
    state.finish()
}

fn take_from_ends<E>(ends: &mut Ends<E>, at: usize) -> E {
    let end = ends.swap_remove(at);
    if ends.len() < ends.capacity() / 4 {
        ends.shrink_to_fit();
    }
    end
}

fn shrink<T>(items: &mut Vec<T>) {
    if items.len() < items.capacity() / 4 {
        items.shrink_to(items.len() * 2);
    }
}

fn find_class<'a, E>(classes: &'a [(ByteSet, Node<E>)], set: &ByteSet) -> Option<&'a Node<E>> {
    classes.iter().find(|(other, _)| other == set).map(|(_, node)| node)
}

fn find_class_mut<'a, E>(
    classes: &'a mut [(ByteSet, Node<E>)],
    set: &ByteSet,
) -> Option<&'a mut Node<E>> {
    classes.iter_mut().find(|(other, _)| other == set).map(|(_, node)| node)
}

fn class_or_insert<'a, E>(
    classes: &'a mut Vec<(ByteSet, Node<E>)>,
    set: &ByteSet,
    ahead: Ahead,
) -> &'a mut Node<E> {
    let at = classes.iter().position(|(other, _)| other == set).unwrap_or_else(|| {
        classes.push((*set, Node::with_run(&[], ahead)));
        classes.len() - 1
    });
    let node = &mut classes[at].1;
    agree(&mut node.ahead, ahead);
    node
}

fn remove_class<E>(classes: &mut Vec<(ByteSet, Node<E>)>, set: &ByteSet) {
    classes.retain(|(other, _)| other != set);
    shrink(classes);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tree = PatternTree<Pattern>;

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

    /// The patterns that match, sorted, and the steps it took.
    fn matches(tree: &Tree, channel: &str) -> (Vec<String>, usize) {
        let mut found = Vec::new();
        let steps = tree.matches(channel.as_bytes(), |pattern, unconfirmed| {
            if !unconfirmed || pattern.is_match(channel) {
                found.push(pattern.as_str().to_owned());
            }
        });
        found.sort();
        (found, steps)
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
    fn patterns_that_compile_to_the_same_are_kept_apart() {
        let mut tree = tree(["a*b", "a**b", "[a]*b", "\\a*b"]);
        assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a**b", "a*b"]);
        assert!(remove(&mut tree, "a**b").is_some());
        assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a*b"]);
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

    proptest::proptest! {
        /// The trie says what each pattern says for itself, whatever came and went before.
        #[test]
        fn agrees_with_a_linear_scan(
            patterns in proptest::collection::vec("[ab*?\\[\\]^\\\\-]{0,7}", 1..40),
            removed in proptest::collection::vec(proptest::bool::ANY, 40),
            channels in proptest::collection::vec("[ab\\]^-]{0,9}", 8),
        ) {
            let mut patterns = patterns;
            patterns.sort();
            patterns.dedup();
            let mut tree = tree(&patterns);
            let mut kept = Vec::new();
            for (pattern, removed) in patterns.iter().zip(removed) {
                if removed {
                    proptest::prop_assert!(remove(&mut tree, pattern).is_some());
                } else {
                    kept.push(pattern.clone());
                }
            }
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
    }
}
