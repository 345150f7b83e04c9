//! Redis globs: from text to tokens, and one pattern against one channel.
//!
//! The rules are those of redis-server 7.0.15 (`stringmatchlen` in its `src/util.c`), found out by
//! asking it; `tests/data/redis_glob_vectors.tsv` keeps its answers.

use std::ffi::c_char;

use smallvec::SmallVec;

use super::bytes::ByteSet;

/// One step of a compiled pattern. Offsets are bytes into [`Tokens::literals`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A maximal run of literal bytes.
    Run { start: usize, end: usize },
    /// Exactly so many bytes, any.
    Any(usize),
    /// One byte of a set.
    Class(Box<ByteSet>),
    /// Any run of bytes, the empty one included.
    Star,
}

/// A compiled pattern.
///
/// Normal form, on which the trie relies: no two `Run`s, `Any`s or `Star`s are neighbours, and an
/// `Any` stands before a `Star`, never right after one (`*?` and `?*` match the same channels).
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    tokens: SmallVec<[Token; 4]>,
    /// The literal bytes of all runs, where an escape makes them differ from the pattern's text;
    /// else empty, and the runs' offsets are into the text itself.
    unescaped: Option<Box<[u8]>>,
}

impl Tokens {
    /// Compiles `text`. Every text is a pattern.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut builder = Builder::new(text);
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
                    builder.escaped(at);
                    at += 2;
                }
                _ => {
                    builder.literal(at);
                    at += 1;
                }
            }
        }
        builder.finish()
    }

    pub(crate) fn as_slice(&self) -> &[Token] {
        &self.tokens
    }

    /// What the offsets of the runs refer to; `text` is what was parsed.
    pub(crate) fn literals<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        self.unescaped.as_deref().unwrap_or(text)
    }

    /// The literal bytes that every matching channel begins with.
    pub(crate) fn prefix<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        match self.tokens.first() {
            Some(&Token::Run { start, end }) => &self.literals(text)[start..end],
            _ => &[],
        }
    }

    /// Whether the pattern parsed from `text` matches `channel`.
    ///
    /// A failed attempt after a `*` moves that `*` on by one byte and forgets all earlier ones, so
    /// the time is at most the product of the two lengths.
    pub(crate) fn is_match(&self, text: &[u8], channel: &[u8]) -> bool {
        // redis-server matches the empty channel by nothing but the empty pattern.
        if channel.is_empty() {
            return text.is_empty();
        }
        let literals = self.literals(text);
        let (mut token, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            let advanced = match self.tokens.get(token) {
                Some(Token::Star) => {
                    if token + 1 == self.tokens.len() {
                        return true;
                    }
                    star = Some((token + 1, at));
                    Some(0)
                }
                Some(&Token::Run { start, end }) => {
                    channel[at..].starts_with(&literals[start..end]).then_some(end - start)
                }
                Some(&Token::Any(count)) => (channel.len() - at >= count).then_some(count),
                Some(Token::Class(set)) => {
                    channel.get(at).is_some_and(|&byte| set.contains(byte)).then_some(1)
                }
                None if at == channel.len() => return true,
                None => None,
            };
            if let Some(length) = advanced {
                token += 1;
                at += length;
                continue;
            }
            let Some((after, from)) = star else { return false };
            if from == channel.len() {
                return false;
            }
            star = Some((after, from + 1));
            (token, at) = (after, from + 1);
        }
    }
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
/// redis-server compares the bytes as C's `char`, which is signed on x86-64 and not on most others: there
/// `[é-]` holds the byte 0xAC, between 0xA9 and `]`, going up through 0xFF and 0x00. So does this, for the
/// target it is built for.
fn insert_range(set: &mut ByteSet, from: u8, to: u8) {
    let (from, to) = (from as c_char, to as c_char);
    for byte in from.min(to)..=from.max(to) {
        set.insert(byte as u8);
    }
}

/// Collects tokens into normal form.
struct Builder<'a> {
    text: &'a [u8],
    tokens: SmallVec<[Token; 4]>,
    /// Filled from the first escape on; until then runs lie in the text.
    unescaped: Option<Vec<u8>>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, tokens: SmallVec::new(), unescaped: None }
    }

    fn star(&mut self) {
        if self.tokens.last() != Some(&Token::Star) {
            self.tokens.push(Token::Star);
        }
    }

    fn any(&mut self) {
        let starred = self.tokens.last() == Some(&Token::Star);
        if starred {
            self.tokens.pop();
        }
        if let Some(Token::Any(count)) = self.tokens.last_mut() {
            *count += 1;
        } else {
            self.tokens.push(Token::Any(1));
        }
        if starred {
            self.tokens.push(Token::Star);
        }
    }

    fn class(&mut self, set: ByteSet) {
        self.tokens.push(Token::Class(Box::new(set)));
    }

    /// The byte at `at` stands for itself.
    fn literal(&mut self, at: usize) {
        let start = match &mut self.unescaped {
            Some(bytes) => {
                bytes.push(self.text[at]);
                bytes.len() - 1
            }
            None => at,
        };
        match self.tokens.last_mut() {
            Some(Token::Run { end, .. }) => *end = start + 1,
            _ => self.tokens.push(Token::Run { start, end: start + 1 }),
        }
    }

    /// The byte after the backslash at `at` stands for itself.
    fn escaped(&mut self, at: usize) {
        // The runs so far keep their offsets: what precedes the first escape is copied as it is.
        let text = self.text;
        self.unescaped.get_or_insert_with(|| text[..at].to_vec());
        self.literal(at + 1);
    }

    fn finish(self) -> Tokens {
        Tokens { tokens: self.tokens, unescaped: self.unescaped.map(Vec::into_boxed_slice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        Tokens::parse(text.as_bytes()).tokens.to_vec()
    }

    #[test]
    fn stars_and_question_marks_are_put_in_one_order() {
        assert_eq!(tokens("*?**?*"), [Token::Any(2), Token::Star]);
        assert_eq!(tokens("?*?"), tokens("**??"));
    }

    #[test]
    fn runs_are_maximal_across_escapes() {
        for (text, literals) in [("ab\\*cd", "ab*cd"), ("\\a\\b", "ab"), ("a\\", "a\\")] {
            let parsed = Tokens::parse(text.as_bytes());
            assert_eq!(parsed.as_slice().len(), 1, "{text}");
            assert_eq!(parsed.prefix(text.as_bytes()), literals.as_bytes());
        }
        let text = b"x?y\\[z*\\\\w";
        let parsed = Tokens::parse(text);
        let runs: Vec<&[u8]> = parsed
            .as_slice()
            .iter()
            .filter_map(|token| match *token {
                Token::Run { start, end } => Some(&parsed.literals(text)[start..end]),
                _ => None,
            })
            .collect();
        assert_eq!(runs, [&b"x"[..], b"y[z", b"\\w"]);
    }

    #[test]
    fn a_text_without_escapes_is_not_copied() {
        assert!(Tokens::parse(b"user:[0-9]?:*").unescaped.is_none());
    }
}
