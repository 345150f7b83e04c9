//! Redis globs: from text to program.
//!
//! The rules are those of redis-server 7.0.15 (`stringmatchlen` in its `src/util.c`), found out by asking a server. Its
//! answers are kept in `tests/data/redis_glob_vectors.tsv`.

use super::byte_set::ByteSet;
use super::program::{Op, ProgramBuilder};

/// Compiles `text`. Every text is a pattern. Returns the program, and the length of the shortest channel that it can
/// match, in bytes.
///
/// The program is in normal form, on which the trie relies. Literals are as long as possible (up to `MAX_LITERAL`). No
/// two `Any`s or `Star`s are neighbours. An `Any` stands before a `Star`, never right after one: `*?` and `?*` match
/// the same channels.
pub(super) fn compile(text: &[u8]) -> (Box<[u8]>, usize) {
    let mut normalizer = Normalizer::default();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'*' => {
                normalizer.star();
                at += 1;
            }
            b'?' => {
                normalizer.any();
                at += 1;
            }
            b'[' => {
                let (class, after) = parse_class(text, at + 1);
                normalizer.class(class);
                at = after;
            }
            b'\\' if at + 1 < text.len() => {
                normalizer.literal(text[at + 1]);
                at += 2;
            }
            _ => {
                normalizer.literal(byte);
                at += 1;
            }
        }
    }
    let min_len = normalizer.min_len;
    (normalizer.finish(), min_len)
}

/// Parses a class whose `[` stands right before `at`. Returns the class and the position after it.
fn parse_class(text: &[u8], mut at: usize) -> (ByteSet, usize) {
    let mut set = ByteSet::default();
    let negated = text.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    loop {
        match text[at..] {
            [b'\\', byte, ..] => {
                set.insert(byte);
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [from, b'-', to, ..] => {
                insert_range(&mut set, from, to);
                at += 3;
            }
            [byte, ..] => {
                set.insert(byte);
                at += 1;
            }
        }
    }
    if negated {
        set.negate();
    }
    (set, at)
}

/// Adds the range between `from` and `to`, which may stand in either order.
///
/// redis-server compares bytes as C's `char`, which is signed on x86-64: there `[é-]` holds the byte 0xAC, because the
/// range goes from 0xA9 up through 0xFF and 0x00 to `]`. A pattern must mean the same on every target, so bytes are
/// compared as `i8` here.
fn insert_range(set: &mut ByteSet, from: u8, to: u8) {
    let (from, to) = (from as i8, to as i8);
    for byte in from.min(to)..=from.max(to) {
        set.insert(byte as u8);
    }
}

/// Brings ops into normal form.
#[derive(Default)]
struct Normalizer {
    program: ProgramBuilder,
    /// What is not encoded yet: literal bytes or wildcards, never both.
    literal: Vec<u8>,
    any: usize,
    star: bool,
    /// The number of bytes that all ops so far match at least.
    min_len: usize,
}

impl Normalizer {
    fn star(&mut self) {
        self.end_literal();
        self.star = true;
    }

    fn any(&mut self) {
        self.end_literal();
        self.any += 1;
        self.min_len += 1;
    }

    fn class(&mut self, set: ByteSet) {
        self.end_literal();
        self.end_wildcards();
        self.program.push(Op::Class(set));
        self.min_len += 1;
    }

    /// Adds a byte that stands for itself.
    fn literal(&mut self, byte: u8) {
        self.end_wildcards();
        self.literal.push(byte);
        self.min_len += 1;
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.program.push(Op::Literal(&self.literal));
            self.literal.clear();
        }
    }

    fn end_wildcards(&mut self) {
        if self.any > 0 {
            self.program.push(Op::Any(self.any));
            self.any = 0;
        }
        if self.star {
            self.program.push(Op::Star);
            self.star = false;
        }
    }

    fn finish(mut self) -> Box<[u8]> {
        self.end_literal();
        self.end_wildcards();
        self.program.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::Ops;
    use super::*;

    fn assert_compiles(text: &str, ops: &[Op<'_>]) {
        assert_eq!(Ops::new(&compile(text.as_bytes()).0).collect::<Vec<_>>(), ops, "{text}");
    }

    #[test]
    fn stars_and_question_marks_are_brought_into_one_order() {
        assert_compiles("*?**?*", &[Op::Any(2), Op::Star]);
        assert_eq!(compile(b"?*?"), compile(b"**??"));
        assert_compiles("a?*b", &[Op::Literal(b"a"), Op::Any(1), Op::Star, Op::Literal(b"b")]);
    }

    #[test]
    fn ranges_compare_bytes_as_signed_on_every_target() {
        // As signed bytes, é (0xC3 0xA9) lies below ASCII: `\xA9-]` goes up through 0xFF and 0x00 to 0x5D.
        let (set, _) = parse_class("é-]".as_bytes(), 0);
        for byte in 0..=u8::MAX {
            assert_eq!(set.contains(byte), byte >= 0xa9 || byte <= b']', "{byte:#x}");
        }
        // The ends may stand in either order, and both are included.
        assert!(parse_class(&[b'Z', b'-', 0xa9], 0) == parse_class(&[0xa9, b'-', b'Z'], 0));
        let (set, _) = parse_class(&[0x80, b'-', 0x7f], 0);
        assert!((0..=u8::MAX).all(|byte| set.contains(byte)));
        let (set, _) = parse_class(&[0xff, b'-', 0x00], 0);
        assert!((0..=u8::MAX).all(|byte| set.contains(byte) == matches!(byte, 0 | 0xff)));
    }

    #[test]
    fn the_minimum_length_is_that_of_the_shortest_match() {
        for (text, min_len) in
            [("", 0), ("*", 0), ("a*??*[bc]\\d", 5), ("[]", 1), ("*?*[^x", 2), ("\\", 1)]
        {
            assert_eq!(compile(text.as_bytes()).1, min_len, "{text}");
        }
    }

    #[test]
    fn escaped_bytes_join_the_literals_beside_them() {
        for (text, literals) in [("ab\\*cd", "ab*cd"), ("\\a\\b", "ab"), ("a\\", "a\\")] {
            assert_compiles(text, &[Op::Literal(literals.as_bytes())]);
        }
        let ops =
            [Op::Literal(b"x"), Op::Any(1), Op::Literal(b"y[z"), Op::Star, Op::Literal(b"\\w")];
        assert_compiles("x?y\\[z*\\\\w", &ops);
    }
}
