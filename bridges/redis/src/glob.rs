//! How Redis patterns relate: if one matches all that another does, or anything that another does.
//!
//! The dialect is redis-server's own, of its `stringmatchlen` (7.0): see `fanout`'s documentation of patterns.

use fanout::Pattern;

/// A Redis pattern, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Clone, PartialEq, Debug)]
enum Token {
    /// Any run of bytes.
    Star,
    /// One byte of a set.
    One(ByteSet),
}

/// A set of bytes, one bit each.
#[derive(Clone, Copy, PartialEq, Debug)]
struct ByteSet([u128; 2]);

impl ByteSet {
    const EMPTY: Self = Self([0; 2]);
    const ALL: Self = Self([u128::MAX; 2]);

    fn of(byte: u8) -> Self {
        let mut set = Self::EMPTY;
        set.insert(byte);
        set
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    fn complement(self) -> Self {
        Self(self.0.map(|bits| !bits))
    }

    fn is_subset(self, other: Self) -> bool {
        self.0[0] & !other.0[0] == 0 && self.0[1] & !other.0[1] == 0
    }

    fn meets(self, other: Self) -> bool {
        self.0[0] & other.0[0] != 0 || self.0[1] & other.0[1] != 0
    }
}

/// `true` if a pattern is of the dialect that the server knows.
pub(crate) fn is_redis(pattern: &Pattern) -> bool {
    *pattern == Pattern::redis(pattern.as_str())
}

impl Glob {
    /// Takes `text` apart. Every text is a pattern.
    pub(crate) fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let token = match first {
                b'*' => Token::Star,
                b'?' => Token::One(ByteSet::ALL),
                b'[' => {
                    let (set, after) = class(rest);
                    rest = after;
                    Token::One(set)
                }
                b'\\' if !rest.is_empty() => {
                    let byte = rest[0];
                    rest = &rest[1..];
                    Token::One(ByteSet::of(byte))
                }
                byte => Token::One(ByteSet::of(byte)),
            };
            if token != Token::Star || tokens.last() != Some(&Token::Star) {
                tokens.push(token);
            }
        }
        Self(tokens)
    }

    /// Returns what `pattern` matches; of a shell glob, which has other rules, that it may match anything.
    pub(crate) fn of(pattern: &Pattern) -> Self {
        Self::new(if is_redis(pattern) { pattern.as_str() } else { "*" })
    }

    /// `true` if this matches everything that `other` matches. It may be `false` all the same where several tokens of
    /// this together would be needed to see it, as in `?*` and `*?`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.relate(other, false, ByteSet::is_subset)
    }

    /// `true` if something may be matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.relate(other, true, ByteSet::meets)
    }

    /// Lays `other` along this, token by token: a star takes any tokens. If `both`, the other's stars do, too. The last
    /// two arguments of `one` are sets of `other` and of this.
    fn relate(&self, other: &Self, both: bool, one: impl Fn(ByteSet, ByteSet) -> bool) -> bool {
        let (own, other) = (&self.0, &other.0);
        // `reach[j]`: what is left of this relates to what is left of the other from `j`.
        let mut reach = vec![false; other.len() + 1];
        reach[other.len()] = true;
        if both {
            fill_over_trailing_stars(other, &mut reach);
        }
        for token in own.iter().rev() {
            let mut next = vec![false; other.len() + 1];
            for at in (0..=other.len()).rev() {
                next[at] = match (token, other.get(at)) {
                    (Token::Star, None) => reach[at],
                    (Token::Star, Some(_)) => reach[at] || next[at + 1],
                    (Token::One(_), None) => false,
                    (Token::One(_), Some(Token::Star)) => both && (reach[at] || next[at + 1]),
                    (Token::One(set), Some(Token::One(its))) => one(*its, *set) && reach[at + 1],
                };
            }
            reach = next;
        }
        reach[0]
    }
}

/// With nothing left of the one pattern, the other may have stars left.
fn fill_over_trailing_stars(other: &[Token], reach: &mut [bool]) {
    for at in (0..other.len()).rev() {
        reach[at] = other[at] == Token::Star && reach[at + 1];
    }
}

/// Reads a class, behind its `[`. Returns its bytes, and what follows it.
fn class(mut rest: &[u8]) -> (ByteSet, &[u8]) {
    let is_negated = rest.first() == Some(&b'^');
    if is_negated {
        rest = &rest[1..];
    }
    let mut set = ByteSet::EMPTY;
    loop {
        match rest {
            [] => break,
            [b'\\', byte, after @ ..] => {
                set.insert(*byte);
                rest = after;
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [from, b'-', to, after @ ..] => {
                // redis-server compares signed bytes.
                let (from, to) = (*from as i8, *to as i8);
                (from.min(to)..=from.max(to)).for_each(|byte| set.insert(byte as u8));
                rest = after;
            }
            [byte, after @ ..] => {
                set.insert(*byte);
                rest = after;
            }
        }
    }
    (if is_negated { set.complement() } else { set }, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(wide: &str, narrow: &str) -> bool {
        Glob::new(wide).covers(&Glob::new(narrow))
    }

    fn overlaps(one: &str, other: &str) -> bool {
        let (one, other) = (Glob::new(one), Glob::new(other));
        assert_eq!(one.overlaps(&other), other.overlaps(&one));
        one.overlaps(&other)
    }

    #[test]
    fn wide_patterns_cover_narrow_ones() {
        for (wide, narrow) in [
            ("*", "*"),
            ("*", "game:*"),
            ("game:*:events", "game:7:events"),
            ("game:*:events", "game:*:events"),
            ("game:*:events", "game:?:events"),
            ("game:*:events", "game:*:final:events"),
            ("[a-c]*", "[bc]x"),
            ("[^a]", "b"),
            ("?", "[a-z]"),
            (r"\*", "[*]"),
            ("", ""),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
            assert!(overlaps(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn narrow_patterns_do_not_cover_wide_ones() {
        for (narrow, wide) in [
            ("game:*:events", "*"),
            ("game:*:events", "game:*"),
            ("a?", "a*"),
            ("[a-c]", "[a-d]"),
            ("[a-c]", "?"),
            ("a", "b"),
            ("", "a"),
            ("a", ""),
        ] {
            assert!(!covers(narrow, wide), "{narrow} {wide}");
        }
    }

    #[test]
    fn patterns_overlap_if_something_may_match_both() {
        assert!(overlaps("game:*", "*:events"));
        assert!(overlaps("a*c", "ab*"));
        assert!(overlaps("**", ""));
        assert!(!overlaps("game:*", "user:*"));
        assert!(!overlaps("*a", "*b"));
        assert!(!overlaps("a?", "a"));
        assert!(!overlaps("[ab]", "[^ab]"));
    }

    fn text() -> impl Strategy<Value = String> {
        let piece = proptest::sample::select(vec![
            "a", "b", "c", "-", "*", "?", "[ab]", "[^a]", "[a-c]", "[", "]", r"\*", r"\", "^",
        ]);
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn verdicts_agree_with_what_is_matched(
            one in text(),
            other in text(),
            names in proptest::collection::vec("[abc*^\\]\\[\\\\-]{1,5}", 20),
        ) {
            let (globs, patterns) = (
                [Glob::new(&one), Glob::new(&other)],
                [Pattern::redis(&one), Pattern::redis(&other)],
            );
            for name in &names {
                let matched = patterns.each_ref().map(|pattern| pattern.is_match(name));
                // Every name is a pattern that matches itself alone, if it is escaped.
                let name_alone = Glob::new(&Pattern::escape(name));
                for (glob, matched) in globs.iter().zip(matched) {
                    prop_assert_eq!(glob.covers(&name_alone), matched, "{:?} {}", glob, name);
                    prop_assert_eq!(glob.overlaps(&name_alone), matched, "{:?} {}", glob, name);
                }
                if globs[0].covers(&globs[1]) {
                    prop_assert!(!matched[1] || matched[0], "{}", name);
                }
                if matched == [true, true] {
                    prop_assert!(globs[0].overlaps(&globs[1]), "{}", name);
                }
            }
        }
    }
}
