//! Programs: the compiled form of patterns, a sequence of ops encoded in a byte string.
//!
//! Whatever follows an op is a program, too. It can be matched, compared and stored by itself: the pattern trie keeps
//! the rest of a pattern in its nodes.

use super::byte_set::ByteSet;

/// One op of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op<'a> {
    /// Literal bytes, at least one and at most [`MAX_LITERAL`].
    Literal(&'a [u8]),
    /// Exactly this many bytes, any of them.
    Any(usize),
    /// One byte of a set that is not a range.
    Class(ByteSet),
    /// One byte from the first to the last, both included. Matches nothing if the first is greater.
    Range(u8, u8),
    /// Any number of bytes, zero included.
    Star,
    /// The rest is not in the program: the matcher of a shell glob must be asked.
    Confirm,
}

/// Maximum number of bytes of a literal. A longer one is split into several ops, so that hashing and copying one, which
/// the pattern trie does under its lock, is bounded.
pub(crate) const MAX_LITERAL: usize = 256;

const LITERAL: u8 = 0;
const ANY: u8 = 1;
const CLASS: u8 = 2;
const STAR: u8 = 3;
pub(crate) const CONFIRM: u8 = 4;
const RANGE: u8 = 5;

/// Set in every byte of a number but its last.
const CONTINUED: u8 = 0x80;

/// Encodes ops.
#[derive(Default)]
pub(crate) struct ProgramBuilder(Vec<u8>);

impl ProgramBuilder {
    pub(crate) fn push(&mut self, op: Op<'_>) {
        match op {
            Op::Literal(bytes) => {
                for part in bytes.chunks(MAX_LITERAL) {
                    self.0.push(LITERAL);
                    self.number(part.len());
                    self.0.extend_from_slice(part);
                }
            }
            Op::Any(count) => {
                self.0.push(ANY);
                self.number(count);
            }
            Op::Class(set) => match set.as_range() {
                Some((first, last)) => self.push(Op::Range(first, last)),
                None => {
                    self.0.push(CLASS);
                    self.0.extend_from_slice(set.as_bytes());
                }
            },
            Op::Range(first, last) => self.0.extend([RANGE, first, last]),
            Op::Star => self.0.push(STAR),
            Op::Confirm => self.0.push(CONFIRM),
        }
    }

    pub(crate) fn finish(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }

    /// Encodes seven bits per byte, the lowest first.
    fn number(&mut self, mut number: usize) {
        while number >= usize::from(CONTINUED) {
            self.0.push(number as u8 | CONTINUED);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// Decodes a program.
#[derive(Clone, Copy)]
pub(crate) struct Ops<'a>(&'a [u8]);

impl<'a> Ops<'a> {
    pub(crate) fn new(program: &'a [u8]) -> Self {
        Self(program)
    }

    /// Returns the program of the ops to come.
    #[inline]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    #[inline]
    fn number(&mut self) -> usize {
        match self.0.split_first() {
            Some((&byte, rest)) if byte & CONTINUED == 0 => {
                self.0 = rest;
                usize::from(byte)
            }
            _ => self.long_number(),
        }
    }

    #[cold]
    fn long_number(&mut self) -> usize {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = self.take(1)[0];
            number |= usize::from(byte & !CONTINUED) << shift;
            if byte & CONTINUED == 0 {
                return number;
            }
            shift += 7;
        }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Op<'a>> {
        let (&op, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match op {
            LITERAL => {
                let bytes = self.number();
                Op::Literal(self.take(bytes))
            }
            ANY => Op::Any(self.number()),
            CLASS => Op::Class(ByteSet::from_slice(self.take(ByteSet::BYTES))),
            STAR => Op::Star,
            RANGE => {
                let ends = self.take(2);
                Op::Range(ends[0], ends[1])
            }
            op => {
                debug_assert_eq!(op, CONFIRM);
                Op::Confirm
            }
        })
    }
}

/// Returns the number of bytes that `program` matches, if all of its ops are literals.
fn literal_length(program: &[u8]) -> Option<usize> {
    let mut length = 0;
    for op in Ops::new(program) {
        let Op::Literal(literal) = op else { return None };
        length += literal.len();
    }
    Some(length)
}

/// `true` if all ops of `program` are literals and make up `bytes`.
fn is_literal(program: &[u8], mut bytes: &[u8]) -> bool {
    for op in Ops::new(program) {
        let Op::Literal(literal) = op else { return false };
        let Some(rest) = bytes.strip_prefix(literal) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// What matching takes, counted for tests and fuzz targets alone.
#[derive(Default)]
pub(crate) struct Steps {
    #[cfg(any(test, fuzzing))]
    count: usize,
}

impl Steps {
    #[inline]
    pub(crate) fn add(&mut self, count: usize) {
        #[cfg(any(test, fuzzing))]
        {
            self.count += count;
        }
        #[cfg(not(any(test, fuzzing)))]
        let _ = count;
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// `true` if `program`, which must not contain [`Op::Confirm`], matches all of `bytes`. Adds the number of ops tried
/// and of literal bytes compared to `steps`.
///
/// After a failure, the last `*` moves on by one byte and all earlier ones are forgotten. So this takes at most the
/// product of the two lengths.
pub(crate) fn matches(program: &[u8], bytes: &[u8], steps: &mut Steps) -> bool {
    let mut ops = Ops::new(program);
    let mut at = 0;
    // What follows the last `*`, and the position where to try it next.
    let mut star: Option<(Ops<'_>, usize)> = None;
    loop {
        steps.add(1);
        let advanced = match ops.next() {
            Some(Op::Star) => {
                if ops.rest().is_empty() {
                    return true;
                }
                if let Some(length) = literal_length(ops.rest()) {
                    // Only the end of `bytes` must be compared.
                    steps.add(length);
                    let from = (bytes.len() - at).checked_sub(length);
                    return from.is_some_and(|from| is_literal(ops.rest(), &bytes[at + from..]));
                }
                star = Some((ops, at));
                None
            }
            Some(Op::Literal(literal)) => {
                steps.add(literal.len());
                bytes[at..].starts_with(literal).then_some(literal.len())
            }
            Some(Op::Any(count)) => (bytes.len() - at >= count).then_some(count),
            Some(Op::Class(set)) => {
                bytes.get(at).is_some_and(|&byte| set.contains(byte)).then_some(1)
            }
            Some(Op::Range(first, last)) => {
                bytes.get(at).is_some_and(|byte| (first..=last).contains(byte)).then_some(1)
            }
            Some(Op::Confirm) => None,
            None if at == bytes.len() => return true,
            None => None,
        };
        if let Some(length) = advanced {
            at += length;
            continue;
        }
        let Some((after, from)) = &mut star else { return false };
        let Some(remaining) = bytes.get(*from..) else { return false };
        at = *from;
        if let Some(Op::Literal(literal)) = after.clone().next() {
            match remaining.iter().position(|&byte| byte == literal[0]) {
                Some(skipped) => at += skipped,
                None => return false,
            }
        }
        *from = at + 1;
        ops = *after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_are_decoded_as_they_were_encoded() {
        let long = [b'x'; MAX_LITERAL];
        let mut set = ByteSet::default();
        b"ace".iter().for_each(|&byte| set.insert(byte));
        let ops = [
            Op::Literal(b"a"),
            Op::Any(1),
            Op::Any(127),
            Op::Any(128),
            Op::Any(usize::MAX),
            Op::Literal(&long),
            Op::Class(set),
            Op::Range(b'a', b'f'),
            Op::Star,
            Op::Confirm,
        ];
        let mut builder = ProgramBuilder::default();
        ops.iter().for_each(|&op| builder.push(op));
        let program = builder.finish();
        let mut decoded = Ops::new(&program);
        for op in ops {
            assert_eq!(decoded.next(), Some(op));
        }
        assert_eq!(decoded.next(), None);
    }

    #[test]
    fn a_class_that_is_a_range_is_encoded_as_a_range() {
        for (first, last) in [(0, 0), (0, 255), (b'a', b'f'), (7, 8), (200, 255), (1, 0)] {
            let mut builder = ProgramBuilder::default();
            builder.push(Op::Class(ByteSet::range(first, last)));
            let program = builder.finish();
            assert_eq!(Ops::new(&program).next(), Some(Op::Range(first, last)));
            for byte in 0..=u8::MAX {
                assert_eq!(
                    matches(&program, &[byte], &mut Steps::default()),
                    (first..=last).contains(&byte)
                );
            }
        }
    }

    #[test]
    fn a_long_literal_is_split_into_several_ops() {
        for length in
            [1, MAX_LITERAL - 1, MAX_LITERAL, MAX_LITERAL + 1, 3 * MAX_LITERAL, 3 * MAX_LITERAL + 7]
        {
            let literal: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut builder = ProgramBuilder::default();
            builder.push(Op::Star);
            builder.push(Op::Literal(&literal));
            let program = builder.finish();
            assert_eq!(Ops::new(&program).count(), 1 + length.div_ceil(MAX_LITERAL));
            let (alone, starred) = (&program[1..], &program[..]);
            assert!(
                matches(alone, &literal, &mut Steps::default())
                    && matches(starred, &literal, &mut Steps::default())
            );
            let longer = [b"y", &literal[..]].concat();
            assert!(
                !matches(alone, &longer, &mut Steps::default())
                    && matches(starred, &longer, &mut Steps::default())
            );
            assert!(!matches(starred, &literal[1..], &mut Steps::default()));
            assert!(!matches(starred, &[&literal[..], b"y"].concat(), &mut Steps::default()));
            for at in [0, length / 2, length - 1] {
                let mut other = literal.clone();
                other[at] ^= 1;
                assert!(
                    !matches(alone, &other, &mut Steps::default())
                        && !matches(starred, &other, &mut Steps::default())
                );
            }
        }
    }

    #[test]
    fn a_long_literal_behind_a_star_is_compared_at_the_end_only() {
        let literal = vec![b'a'; 40 * MAX_LITERAL];
        let mut builder = ProgramBuilder::default();
        builder.push(Op::Star);
        builder.push(Op::Literal(&literal));
        builder.push(Op::Literal(b"b"));
        let mut steps = Steps::default();
        assert!(!matches(&builder.finish(), &vec![b'a'; 80 * MAX_LITERAL], &mut steps));
        assert!(steps.count() <= 2 * literal.len(), "{}", steps.count());
    }
}
