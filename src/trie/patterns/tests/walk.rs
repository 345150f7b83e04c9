//! Walks: their bounds, and that each pattern is reported once.

use std::collections::HashMap;

use super::{bound, matches, scan, tree_of};

#[test]
fn candidates_beyond_the_maximum_are_found_too() {
    let channel = "1234567890123456";
    // All in one table: single patterns and one node, before and after a `*`.
    for (stars, node) in [("", 100), ("", 3), ("", 12), ("*", 100), ("*", 2), ("x*", 9)] {
        let mut patterns: Vec<String> =
            (1..=channel.len()).map(|end| format!("{stars}{}*", &channel[..end])).collect();
        if let Some(literal) = channel.get(..node) {
            patterns.push(format!("{stars}{literal}?"));
            patterns.push(format!("{stars}{literal}[0-9]*6"));
        }
        let channel = stars.replace('*', "yy") + channel;
        let expected = scan(&patterns, &channel);
        assert!(expected.len() >= 16);
        assert_eq!(matches(&tree_of(&patterns), &channel).0, expected, "{stars} {node}");
    }
}

#[test]
fn many_stars_take_polynomial_steps() {
    let channel = "a".repeat(3_000);
    let patterns: Vec<String> = (1..200).map(|stars| format!("{}b", "*a".repeat(stars))).collect();
    let (found, steps) = matches(&tree_of(&patterns), &channel);
    assert_eq!(found, [""; 0]);
    assert!(steps <= bound(&patterns, &channel), "{steps}");

    let text = format!("{}*b", "*a".repeat(1_000));
    let (found, steps) = matches(&tree_of([&text]), &channel);
    assert_eq!(found, [""; 0]);
    assert!(steps <= bound(&[text], &channel), "{steps}");
}

#[test]
fn many_question_marks_are_one_edge() {
    let patterns: Vec<String> =
        (0..10_000).map(|i| format!("{}{}", "?".repeat(200 + i % 100), i)).collect();
    let channel = "x".repeat(290) + "77";
    let (_, steps) = matches(&tree_of(&patterns), &channel);
    assert!(steps <= 10_000, "{steps}");
    let starred: Vec<String> = patterns.iter().map(|text| format!("*{text}*")).collect();
    let (_, steps) = matches(&tree_of(&starred), &channel);
    assert!(steps <= bound(&starred, &channel), "{steps}");
}

#[test]
fn classes_after_a_star_take_polynomial_steps() {
    let patterns: Vec<String> = (1..100)
        .map(|n| "*[ab]".repeat(n) + "c")
        .chain((1..100).map(|n| "*".to_owned() + &"[a-c]".repeat(n) + "d"))
        .collect();
    let channel = "ab".repeat(500);
    let (found, steps) = matches(&tree_of(&patterns), &channel);
    assert_eq!(found, [""; 0]);
    assert!(steps <= bound(&patterns, &channel), "{steps}");
}

#[test]
fn a_literal_that_ends_a_pattern_is_compared_at_the_end_only() {
    let end = format!("{}b", "a".repeat(200));
    let patterns: Vec<String> = (0..500).map(|i| format!("a{i}*{end}")).collect();
    let channel = format!("a1{}", "a".repeat(2_000));
    let (found, steps) = matches(&tree_of(&patterns), &channel);
    assert_eq!(found, [""; 0]);
    assert!(steps < 1_000, "{steps}");
    let found = matches(&tree_of(&patterns), &format!("{channel}b")).0;
    assert_eq!(found, [&*patterns[1]]);
}

#[test]
fn literals_behind_a_star_are_tried_only_where_they_can_begin() {
    let patterns: Vec<String> = (0..10_000).map(|i| format!("*k{i}k*")).collect();
    let tree = tree_of(&patterns);
    let channel = format!("{}k77k{}", "x".repeat(1_000), "x".repeat(1_000));
    let (found, steps) = matches(&tree, &channel);
    assert_eq!(found, ["*k77k*"]);
    assert!(steps < 100, "{steps}");
}

#[test]
fn an_unconfirmed_pattern_is_reported_once_however_often_it_is_reached() {
    let long = "?".repeat(300) + &"a?".repeat(300);
    let patterns = [format!("*a*b*{long}"), "*a*b".repeat(40) + "x", "*a*b".repeat(40) + "y"];
    for count in 1..=patterns.len() {
        let tree = tree_of(&patterns[..count]);
        let mut reports = HashMap::new();
        tree.matches("ab".repeat(1_000).as_bytes(), |pattern, unconfirmed| {
            assert!(unconfirmed);
            *reports.entry(pattern.as_str().to_owned()).or_insert(0) += 1;
        });
        assert_eq!(reports.len(), count);
        assert!(reports.values().all(|&times| times == 1), "{count}");
    }
}
