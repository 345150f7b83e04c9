//! Tables of literals: their memory, and literals whose hashes collide.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::super::literals::{LiteralEdges, hash_literal};
use super::{Tree, matches, remove, tree_of};
use crate::pattern::Pattern;

#[test]
fn a_table_of_literals_shrinks_when_patterns_leave() {
    let texts: Vec<String> = (0..10_000).map(|i| format!("k{i}:*")).collect();
    let mut tree = tree_of(&texts);
    let capacity = |tree: &Tree| match &tree.root.literals {
        LiteralEdges::Many(table) => table.slots.capacity(),
        _ => 0,
    };
    assert!(capacity(&tree) >= 10_000);
    texts[10..].iter().for_each(|text| assert!(remove(&mut tree, text).is_some()));
    assert!(capacity(&tree) <= 128, "{}", capacity(&tree));
}

/// A table keeps 32 bits of a hash.
#[test]
fn literals_whose_hashes_are_equal_are_told_apart() {
    let hasher = RandomState::default();
    let mut seen = HashMap::new();
    let mut pairs = Vec::new();
    for i in 100_000..500_000 {
        let literal = format!("k{i}:");
        if let Some(other) = seen.insert(hash_literal(&hasher, literal.as_bytes()), literal.clone())
        {
            pairs.push([other, literal]);
        }
    }
    assert!(!pairs.is_empty(), "among 400,000 literals, about twenty pairs are expected");
    let mut tree = Tree::new(hasher);
    // In every second pair, two patterns go on behind each literal.
    let texts = |literal: &String| [format!("{literal}*"), format!("{literal}x")];
    for (at, pair) in pairs.iter().enumerate() {
        for text in pair.iter().flat_map(|literal| texts(literal).into_iter().take(1 + at % 2)) {
            tree.insert(&Pattern::redis(&text), &Pattern::redis(&text));
        }
    }
    for (at, pair) in pairs.iter().enumerate() {
        for literal in pair {
            let expected = &texts(literal)[..1 + at % 2];
            assert_eq!(matches(&tree, &format!("{literal}x")).0, expected);
        }
        let [one, other] = pair;
        assert!(remove(&mut tree, &texts(one)[0]).is_some());
        assert!(remove(&mut tree, &texts(one)[0]).is_none());
        assert_eq!(matches(&tree, &format!("{other}x")).0, &texts(other)[..1 + at % 2]);
    }
}
