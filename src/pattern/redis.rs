//! Redis globs: from text to code.
//!
//! The rules are those of redis-server 7.0.15 (`stringmatchlen` in its `src/util.c`), found out by
//! asking it; `tests/data/redis_glob_vectors.tsv` keeps its answers.

use super::byte_set::ByteSet;
use super::program::{Step, Writer};

/// Compiles `text`. Every text is a pattern. Returns the code, and the number of bytes of the shortest channel that it
/// can match.
///
/// The code is in normal form, on which the trie relies: runs are as long as they can be (up to `MAX_RUN`), no two
/// `Any`s or `Star`s are neighbours, and an `Any` stands before a `Star`, never right after one (`*?` and `?*` match
/// the same channels).
pub(super) fn compile(text: &[u8]) -> (Box<[u8]>, usize) {
    let mut builder = Builder::default();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'*' => {
                builder.star();
                at += 1;
            }
            b'?' => {
                builder.any();
                at += 1;
            }
            b'[' => {
                let (class, after) = parse_class(text, at + 1);
                builder.class(class);
                at = after;
            }
            b'\\' if at + 1 < text.len() => {
                builder.literal(text[at + 1]);
                at += 2;
            }
            _ => {
                builder.literal(byte);
                at += 1;
            }
        }
    }
    let least = builder.least;
    (builder.finish(), least)
}

/// Reads a class whose `[` ends right before `at`; returns it and where the pattern goes on.
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

/// Adds a range, whose ends may stand in either order.
///
/// redis-server compares bytes as C's `char`, which is signed on x86-64: there `[é-]` holds the byte 0xAC, between
/// 0xA9 and `]`, going up through 0xFF and 0x00. A pattern means the same on every target, so bytes are compared as
/// `i8` here, not as the target's `char`.
fn insert_range(set: &mut ByteSet, from: u8, to: u8) {
    let (from, to) = (from as i8, to as i8);
    for byte in from.min(to)..=from.max(to) {
        set.insert(byte as u8);
    }
}

/// Collects steps into normal form.
#[derive(Default)]
struct Builder {
    code: Writer,
    /// What is not written yet: literal bytes, or wildcards, never both.
    run: Vec<u8>,
    any: usize,
    star: bool,
    /// The number of bytes that what there is so far matches at least.
    least: usize,
}

impl Builder {
    fn star(&mut self) {
        self.end_run();
        self.star = true;
    }

    fn any(&mut self) {
        self.end_run();
        self.any += 1;
        self.least += 1;
    }

    fn class(&mut self, set: ByteSet) {
        self.end_run();
        self.end_wildcards();
        self.code.push(Step::Class(set));
        self.least += 1;
    }

    /// A byte that stands for itself.
    fn literal(&mut self, byte: u8) {
        self.end_wildcards();
        self.run.push(byte);
        self.least += 1;
    }

    fn end_run(&mut self) {
        if !self.run.is_empty() {
            self.code.push(Step::Run(&self.run));
            self.run.clear();
        }
    }

    fn end_wildcards(&mut self) {
        if self.any > 0 {
            self.code.push(Step::Any(self.any));
            self.any = 0;
        }
        if self.star {
            self.code.push(Step::Star);
            self.star = false;
        }
    }

    fn finish(mut self) -> Box<[u8]> {
        self.end_run();
        self.end_wildcards();
        self.code.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::Steps;
    use super::*;

    fn assert_compiles(text: &str, steps: &[Step<'_>]) {
        assert_eq!(Steps::new(&compile(text.as_bytes()).0).collect::<Vec<_>>(), steps, "{text}");
    }

    #[test]
    fn stars_and_question_marks_are_put_in_one_order() {
        assert_compiles("*?**?*", &[Step::Any(2), Step::Star]);
        assert_eq!(compile(b"?*?"), compile(b"**??"));
        assert_compiles("a?*b", &[Step::Run(b"a"), Step::Any(1), Step::Star, Step::Run(b"b")]);
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
    fn the_least_length_is_that_of_the_shortest_match() {
        for (text, least) in
            [("", 0), ("*", 0), ("a*??*[bc]\\d", 5), ("[]", 1), ("*?*[^x", 2), ("\\", 1)]
        {
            assert_eq!(compile(text.as_bytes()).1, least, "{text}");
        }
    }

    #[test]
    fn runs_are_maximal_across_escapes() {
        for (text, literals) in [("ab\\*cd", "ab*cd"), ("\\a\\b", "ab"), ("a\\", "a\\")] {
            assert_compiles(text, &[Step::Run(literals.as_bytes())]);
        }
        let runs =
            [Step::Run(b"x"), Step::Any(1), Step::Run(b"y[z"), Step::Star, Step::Run(b"\\w")];
        assert_compiles("x?y\\[z*\\\\w", &runs);
    }
}
