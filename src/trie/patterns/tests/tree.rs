//! Adding and removing: what is found afterwards, and what memory it takes.

use foldhash::fast::RandomState;

use super::super::literals::{Length, LiteralEdges, LiteralSlot, LiteralTable};
use super::super::tree::{Branch, Entries, Node, RareEdges, Subtree, max_depth};
use super::{Tree, matches, remove, scan, tree_of};
use crate::pattern::{ByteSet, Pattern};

#[test]
fn every_shape_is_found_once() {
    let patterns = [
        "", "*", "a*", "*a", "*a*", "a", "?", "??", "a?", "?a*", "[ab]*", "*[ab]", "a*b*", "*a*b",
        "*a*a*", "a*[ab]*b", "*?a", "\\a", "[a]", "**", "*ab", "*ab*", "ab*",
    ];
    let tree = tree_of(patterns);
    for channel in ["", "a", "b", "ab", "ba", "aa", "aab", "abab", "xaxbx", "bbb", "aaaa"] {
        assert_eq!(matches(&tree, channel).0, scan(&patterns, channel), "{channel:?}");
    }
}

#[test]
fn removing_all_patterns_leaves_an_empty_tree() {
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
    let mut tree = tree_of(&patterns);
    assert_eq!(matches(&tree, "user:7:s12").0, ["*:s12", "user:*:s12", "user:7:*"]);
    // In two rounds, so that tables shrink and single edges remain in between.
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
fn patterns_with_equal_programs_are_told_apart() {
    let mut tree = tree_of(["a*b", "a**b", "[a]*b", "\\a*b"]);
    assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a**b", "a*b"]);
    assert!(remove(&mut tree, "a**b").is_some());
    assert_eq!(matches(&tree, "ab").0, ["[a]*b", "\\a*b", "a*b"]);
}

#[test]
fn a_node_is_one_cache_line() {
    assert_eq!(size_of::<Node<Pattern>>(), 64);
    assert_eq!(size_of::<Option<LiteralSlot<Pattern>>>(), 16);
}

#[test]
fn patterns_that_share_a_beginning_are_told_apart_however_many_remain() {
    // Longer than what a node keeps of a single pattern, shorter, and with an early or a late star.
    let beginnings = ["[ab]".repeat(40), "a?".repeat(200), "?*a".into(), "a[b]c".into()];
    for beginning in beginnings {
        let patterns: Vec<String> = ["", "x", "?", "*", "[xy]", "x*", "x*y", "*x", "*[xy]z"]
            .iter()
            .map(|end| format!("{beginning}{end}"))
            .collect();
        let literal: String = beginning.replace(['[', ']', '*'], "").replace("ab", "a");
        let literal = literal.replace('?', "b");
        for kept in 1..patterns.len() {
            let mut tree = tree_of(&patterns);
            for pattern in &patterns[kept..] {
                assert!(remove(&mut tree, pattern).is_some());
                assert!(remove(&mut tree, pattern).is_none());
            }
            for end in ["", "x", "y", "xy", "xz", "yyz", "zx", "xzzy"] {
                let channel = format!("{literal}{end}");
                let expected = scan(&patterns[..kept], &channel);
                assert_eq!(matches(&tree, &channel).0, expected, "{channel} {kept}");
            }
            for pattern in &patterns[..kept] {
                assert!(remove(&mut tree, pattern).is_some());
            }
            assert!(tree.is_empty() && tree.root.rare.is_none());
        }
    }
}

#[test]
fn deep_patterns_do_not_overflow_a_small_stack() {
    let deep = || {
        let texts = [
            "?*".repeat(30_000),
            "[a]*".repeat(16_000),
            "[ab]".repeat(16_000),
            "*a?".repeat(20_000),
            "a*".repeat(32_000),
            "[".repeat(65_536),
        ];
        let mut tree = tree_of(&texts);
        let channel = "ab".repeat(1_000);
        matches(&tree, &channel);
        assert!(remove(&mut tree, &texts[3]).is_some());
        drop(tree);
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(deep).unwrap().join().unwrap();
}

/// Returns the number of nodes and branches of a tree, and the bytes that they take without the patterns themselves and
/// the allocator's own.
fn weight(tree: &Tree) -> (usize, usize) {
    type PatternNode = Node<Pattern>;
    fn heap(node: &PatternNode) -> usize {
        if node.bytes.spilled() { node.bytes.capacity() } else { 0 }
    }
    fn entries(entries: &Entries<Pattern>) -> usize {
        if entries.spilled() { entries.capacity() * size_of::<Pattern>() } else { 0 }
    }
    fn literals<'a>(
        literals: &'a LiteralEdges<Pattern>,
        nodes: &mut Vec<&'a PatternNode>,
    ) -> usize {
        match literals {
            LiteralEdges::None => 0,
            LiteralEdges::One(_, node) => {
                nodes.push(node);
                size_of::<PatternNode>()
            }
            LiteralEdges::Many(table) => {
                let boxed = table.slots.iter().filter_map(|slot| match slot {
                    LiteralSlot::SinglePattern(..) => None,
                    LiteralSlot::Node(_, node) => Some(&**node),
                });
                let before = nodes.len();
                nodes.extend(boxed);
                size_of::<LiteralTable<Pattern>>()
                    + table.slots.capacity() * size_of::<Option<LiteralSlot<Pattern>>>()
                    + table.lengths.capacity() * size_of::<Length>()
                    + (nodes.len() - before) * size_of::<PatternNode>()
            }
        }
    }
    let (mut count, mut bytes) = (0, 0);
    let mut branches = vec![&tree.root];
    while let Some(branch) = branches.pop() {
        let mut nodes = Vec::new();
        count += 1;
        bytes +=
            size_of::<Branch<Pattern>>() + entries(&branch.entries) + entries(&branch.star_entries);
        bytes += literals(&branch.literals, &mut nodes);
        if let Some(rare) = &branch.rare {
            bytes += size_of::<RareEdges<Pattern>>() + entries(&rare.unconfirmed);
            bytes += rare.any.capacity() * size_of::<(usize, PatternNode)>();
            bytes += rare.classes.capacity() * size_of::<(ByteSet, PatternNode)>();
            nodes.extend(rare.any.iter().map(|(_, node)| node));
            nodes.extend(rare.classes.iter().map(|(_, node)| node));
            if let Some(star) = &rare.star {
                bytes += star.classes.capacity() * size_of::<(ByteSet, PatternNode)>();
                nodes.extend(star.classes.iter().map(|(_, node)| node));
                bytes +=
                    literals(&star.literals, &mut nodes) + literals(&star.suffixes, &mut nodes);
            }
        }
        count += nodes.len();
        for node in nodes {
            bytes += heap(node);
            if let Subtree::Branch(subtree) = &node.subtree {
                branches.push(subtree);
            }
        }
    }
    (count, bytes)
}

#[test]
fn a_pattern_of_any_shape_costs_a_bounded_number_of_nodes() {
    let shapes =
        ["?", "a?", "[ac]", "[^a]", "[]", "[]?", "*a", "*[ac]", "a?*", "\\a", "a", "[^a]?*b"];
    let (_, empty) = weight(&tree_of([""; 0]));
    for (shape, length) in shapes.iter().flat_map(|shape| [(shape, 1 << 10), (shape, 1 << 16)]) {
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
            let program: usize = patterns.iter().map(|pattern| pattern.program().len()).sum();
            let each = (text + program + bytes) as f64 / text as f64;
            assert!(each <= 16.0, "{shape} of {length}, {}: {each} bytes", texts.len());
            // The maximum depth of the path that all share, and the nodes where they part.
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
fn a_single_pattern_is_one_node_however_long_it_is() {
    let kinds = ["?*", "a?", "*a", "[^a]*", "[ac]"];
    for text in kinds.iter().map(|kind| kind.repeat(1 << 14)) {
        // One more for the root.
        assert_eq!(weight(&tree_of([&text])).0, 2, "{}", &text[..4]);
    }
}

#[test]
fn patterns_that_part_beyond_the_maximum_depth_are_told_apart() {
    // Each unit with a text that it matches.
    for (unit, literal) in
        [("a?", "ab"), ("*a", "a"), ("[ac]", "c"), ("?*b", "ab"), ("[^a]?", "bb")]
    {
        for units in [1, 5, 6, 7, 8, 31, 32, 33, 200] {
            let beginning = unit.repeat(units);
            let ends = ["", "x", "y", "?", "*", "x*y", "[xy]", "*x"];
            let texts: Vec<String> = ends.iter().map(|end| format!("{beginning}{end}")).collect();
            let mut tree = tree_of(&texts);
            for kept in (0..=texts.len()).rev() {
                for end in ["", "x", "y", "xy", "xzy"] {
                    let channel = literal.repeat(units) + end;
                    let expected = scan(&texts[..kept], &channel);
                    assert_eq!(matches(&tree, &channel).0, expected, "{unit} {units} {end}");
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
