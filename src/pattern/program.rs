//! The compiled form of patterns: steps, one behind the other in a string of bytes.
//!
//! So what is left of a pattern behind any of its steps is a piece of that string, which can be matched for
//! itself, compared and kept wherever there is room: the pattern trie keeps it in its nodes.

use super::byte_set::ByteSet;

/// One step of a compiled pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step<'a> {
    /// Literal bytes, one at least and [`MAX_RUN`] at most.
    Run(&'a [u8]),
    /// Exactly so many bytes, any.
    Any(usize),
    /// One byte of a set, which is not a range.
    Class(ByteSet),
    /// One byte from the first to the last, both included; no byte, if the first is greater.
    Range(u8, u8),
    /// Any run of bytes, the empty one included.
    Star,
    /// Whether the rest matches is not for this code to say, but for the matcher of a shell glob.
    Ask,
}

/// Maximum number of bytes of a run. Longer literals are several runs, so that hashing and copying one, as the pattern
/// trie does under its lock, is bounded.
pub(crate) const MAX_RUN: usize = 256;

const RUN: u8 = 0;
const ANY: u8 = 1;
const CLASS: u8 = 2;
const STAR: u8 = 3;
pub(crate) const ASK: u8 = 4;
const RANGE: u8 = 5;

/// Set in the bytes of a number that are not its last.
const MORE: u8 = 0x80;

/// Writes steps.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn push(&mut self, step: Step<'_>) {
        match step {
            Step::Run(bytes) => {
                for part in bytes.chunks(MAX_RUN) {
                    self.0.push(RUN);
                    self.number(part.len());
                    self.0.extend_from_slice(part);
                }
            }
            Step::Any(count) => {
                self.0.push(ANY);
                self.number(count);
            }
            Step::Class(set) => match set.as_range() {
                Some((first, last)) => self.push(Step::Range(first, last)),
                None => {
                    self.0.push(CLASS);
                    self.0.extend_from_slice(set.as_bytes());
                }
            },
            Step::Range(first, last) => self.0.extend([RANGE, first, last]),
            Step::Star => self.0.push(STAR),
            Step::Ask => self.0.push(ASK),
        }
    }

    pub(crate) fn finish(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self, mut number: usize) {
        while number >= usize::from(MORE) {
            self.0.push(number as u8 | MORE);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// Reads steps.
#[derive(Clone, Copy)]
pub(crate) struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    pub(crate) fn new(code: &'a [u8]) -> Self {
        Self(code)
    }

    /// The code of the steps to come.
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
            Some((&byte, rest)) if byte & MORE == 0 => {
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
            number |= usize::from(byte & !MORE) << shift;
            if byte & MORE == 0 {
                return number;
            }
            shift += 7;
        }
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Step<'a>> {
        let (&op, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match op {
            RUN => {
                let bytes = self.number();
                Step::Run(self.take(bytes))
            }
            ANY => Step::Any(self.number()),
            CLASS => Step::Class(ByteSet::from_slice(self.take(ByteSet::BYTES))),
            STAR => Step::Star,
            RANGE => {
                let ends = self.take(2);
                Step::Range(ends[0], ends[1])
            }
            _ => Step::Ask,
        })
    }
}

/// Returns the number of bytes of the literal that `code` is, if it is nothing else.
fn literal_length(code: &[u8]) -> Option<usize> {
    let mut length = 0;
    for step in Steps::new(code) {
        let Step::Run(run) = step else { return None };
        length += run.len();
    }
    Some(length)
}

/// `true` if `bytes` are the literal that `code` is.
fn is_literal(code: &[u8], mut bytes: &[u8]) -> bool {
    for step in Steps::new(code) {
        let Step::Run(run) = step else { return false };
        let Some(behind) = bytes.strip_prefix(run) else { return false };
        bytes = behind;
    }
    bytes.is_empty()
}

/// Whether all of `bytes` match `code`, in which there is nothing to ask. The steps that took, in steps of the
/// code and bytes of literals looked at, are added to `taken`.
///
/// A failed attempt after a `*` moves that `*` on by one byte and forgets all earlier ones, so the time is at
/// most the product of the two lengths.
pub(crate) fn matches(code: &[u8], bytes: &[u8], taken: &mut usize) -> bool {
    let mut steps = Steps::new(code);
    let mut at = 0;
    // What follows the last `*`, and from where on it is to be tried next.
    let mut star: Option<(Steps<'_>, usize)> = None;
    loop {
        *taken += 1;
        let advanced = match steps.next() {
            Some(Step::Star) => {
                if steps.rest().is_empty() {
                    return true;
                }
                if let Some(length) = literal_length(steps.rest()) {
                    // The end alone tells.
                    *taken += length;
                    let from = (bytes.len() - at).checked_sub(length);
                    return from.is_some_and(|from| is_literal(steps.rest(), &bytes[at + from..]));
                }
                star = Some((steps, at));
                None
            }
            Some(Step::Run(run)) => {
                *taken += run.len();
                bytes[at..].starts_with(run).then_some(run.len())
            }
            Some(Step::Any(count)) => (bytes.len() - at >= count).then_some(count),
            Some(Step::Class(set)) => {
                bytes.get(at).is_some_and(|&byte| set.contains(byte)).then_some(1)
            }
            Some(Step::Range(first, last)) => {
                bytes.get(at).is_some_and(|byte| (first..=last).contains(byte)).then_some(1)
            }
            Some(Step::Ask) => None,
            None if at == bytes.len() => return true,
            None => None,
        };
        if let Some(length) = advanced {
            at += length;
            continue;
        }
        let Some((after, from)) = &mut star else { return false };
        let Some(behind) = bytes.get(*from..) else { return false };
        at = *from;
        if let Some(Step::Run(run)) = after.clone().next() {
            match behind.iter().position(|&byte| byte == run[0]) {
                Some(skipped) => at += skipped,
                None => return false,
            }
        }
        *from = at + 1;
        steps = *after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_were_written() {
        let long = [b'x'; MAX_RUN];
        let mut set = ByteSet::default();
        b"ace".iter().for_each(|&byte| set.insert(byte));
        let steps = [
            Step::Run(b"a"),
            Step::Any(1),
            Step::Any(127),
            Step::Any(128),
            Step::Any(usize::MAX),
            Step::Run(&long),
            Step::Class(set),
            Step::Range(b'a', b'f'),
            Step::Star,
            Step::Ask,
        ];
        let mut writer = Writer::default();
        steps.iter().for_each(|&step| writer.push(step));
        let code = writer.finish();
        let mut reader = Steps::new(&code);
        for step in steps {
            assert_eq!(reader.next(), Some(step));
        }
        assert_eq!(reader.next(), None);
    }

    #[test]
    fn a_class_that_is_a_range_is_written_as_one() {
        for (first, last) in [(0, 0), (0, 255), (b'a', b'f'), (7, 8), (200, 255), (1, 0)] {
            let mut writer = Writer::default();
            writer.push(Step::Class(ByteSet::range(first, last)));
            let code = writer.finish();
            assert_eq!(Steps::new(&code).next(), Some(Step::Range(first, last)));
            for byte in 0..=u8::MAX {
                assert_eq!(matches(&code, &[byte], &mut 0), (first..=last).contains(&byte));
            }
        }
    }

    #[test]
    fn a_long_literal_is_several_runs() {
        for length in [1, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 3 * MAX_RUN, 3 * MAX_RUN + 7] {
            let literal: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut writer = Writer::default();
            writer.push(Step::Star);
            writer.push(Step::Run(&literal));
            let code = writer.finish();
            assert_eq!(Steps::new(&code).count(), 1 + length.div_ceil(MAX_RUN));
            let (alone, starred) = (&code[1..], &code[..]);
            assert!(matches(alone, &literal, &mut 0) && matches(starred, &literal, &mut 0));
            let longer = [b"y", &literal[..]].concat();
            assert!(!matches(alone, &longer, &mut 0) && matches(starred, &longer, &mut 0));
            assert!(!matches(starred, &literal[1..], &mut 0));
            assert!(!matches(starred, &[&literal[..], b"y"].concat(), &mut 0));
            for at in [0, length / 2, length - 1] {
                let mut other = literal.clone();
                other[at] ^= 1;
                assert!(!matches(alone, &other, &mut 0) && !matches(starred, &other, &mut 0));
            }
        }
    }

    #[test]
    fn a_long_literal_behind_a_star_is_looked_for_at_the_end_alone() {
        let literal = vec![b'a'; 40 * MAX_RUN];
        let mut writer = Writer::default();
        writer.push(Step::Star);
        writer.push(Step::Run(&literal));
        writer.push(Step::Run(b"b"));
        let mut taken = 0;
        assert!(!matches(&writer.finish(), &vec![b'a'; 80 * MAX_RUN], &mut taken));
        assert!(taken <= 2 * literal.len(), "{taken}");
    }
}
