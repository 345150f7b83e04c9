//! Shell globs. `globset` parses and matches them; this module finds the literal prefixes by which the trie finds
//! them, and tells where an error lies.

use globset::{Candidate, ErrorKind, GlobBuilder, GlobMatcher};

use super::program::MAX_LITERAL;
use crate::error::PatternError;

/// Maximum length of a glob, in bytes. The regex engine behind `globset` refuses to compile what is too large, and
/// `globset` then panics. No glob of this length is too large.
const MAX_LEN: usize = 8 * 1024;

/// Maximum depth of nested `{`. `globset` recurses for each level.
const MAX_DEPTH: usize = 32;

/// Maximum number of literal prefixes of a glob. If it has more, shorter ones are used.
const MAX_PREFIXES: usize = 64;

/// Maximum length of a literal prefix, in bytes: that of one op.
const MAX_PREFIX_LEN: usize = MAX_LITERAL;

/// A compiled shell glob.
pub(crate) struct Glob {
    matcher: GlobMatcher,
    /// Every matching channel begins with exactly one of these. None is a prefix of another.
    prefixes: Vec<Vec<u8>>,
}

impl Glob {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternError> {
        let refuse =
            |offset, reason: String| PatternError { glob: text.to_owned(), reason, offset };
        if text.len() > MAX_LEN {
            return Err(refuse(Some(MAX_LEN), format!("longer than {MAX_LEN} bytes")));
        }
        let scan = Scan::new(text);
        if let Some(at) = scan.too_deep {
            return Err(refuse(Some(at), format!("'{{' nested deeper than {MAX_DEPTH}")));
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| refuse(scan.locate(error.kind()), error.kind().to_string()))?;
        Ok(Self { matcher: glob.compile_matcher(), prefixes: prefixes(text.as_bytes()) })
    }

    pub(crate) fn is_match(&self, channel: &str) -> bool {
        self.matcher.is_match_candidate(&Candidate::from_bytes(channel))
    }

    pub(crate) fn prefixes(&self) -> &[Vec<u8>] {
        &self.prefixes
    }
}

/// The positions in a glob's text that an error can be about, in bytes.
#[derive(Default)]
struct Scan {
    unclosed_class: Option<usize>,
    /// The first character of a range whose last one lies before it.
    reversed_range: Option<usize>,
    unclosed_brace: Option<usize>,
    unopened_brace: Option<usize>,
    dangling_escape: Option<usize>,
    too_deep: Option<usize>,
}

impl Scan {
    /// Scans `text` as `globset` does. Every byte that has a meaning is ASCII.
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut scan = Self::default();
        let mut open = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => {
                    if at + 1 == bytes.len() {
                        scan.dangling_escape = Some(at);
                    }
                    at += 1;
                }
                b'[' => {
                    let Some(len) = class_len(&bytes[at + 1..]) else {
                        scan.unclosed_class = Some(at);
                        break;
                    };
                    let reversed = reversed_range(&text[at + 1..at + 1 + len]);
                    scan.reversed_range = scan.reversed_range.or(reversed.map(|i| at + 1 + i));
                    at += len;
                }
                b'{' => {
                    open.push(at);
                    if open.len() > MAX_DEPTH {
                        scan.too_deep = Some(at);
                        break;
                    }
                }
                b'}' if open.pop().is_none() => {
                    scan.unopened_brace = scan.unopened_brace.or(Some(at));
                }
                _ => {}
            }
            at += 1;
        }
        scan.unclosed_brace = open.last().copied();
        scan
    }

    /// Returns the position of an error of this kind.
    fn locate(&self, kind: &ErrorKind) -> Option<usize> {
        match kind {
            ErrorKind::UnclosedClass => self.unclosed_class,
            ErrorKind::InvalidRange(..) => self.reversed_range,
            ErrorKind::UnopenedAlternates => self.unopened_brace,
            ErrorKind::UnclosedAlternates => self.unclosed_brace,
            ErrorKind::DanglingEscape => self.dangling_escape,
            _ => None,
        }
    }
}

/// Returns the length of a class, given from after its `[`, with its `]`. A `]` that stands first is a member.
fn class_len(class: &[u8]) -> Option<usize> {
    let first = usize::from(matches!(class.first(), Some(b'!' | b'^')));
    let close = class.iter().skip(first + 1).position(|&byte| byte == b']')?;
    Some(first + 1 + close + 1)
}

/// Returns the position of the first reversed range in a class, given from after its `[` through its `]`.
fn reversed_range(class: &str) -> Option<usize> {
    let body = class.strip_suffix(']')?;
    let negation = usize::from(body.starts_with(['!', '^']));
    let members: Vec<(usize, char)> = body[negation..].char_indices().collect();
    let mut at = 0;
    while at < members.len() {
        match members[at..] {
            [(from_at, from), (_, '-'), (_, to), ..] => {
                if to < from {
                    return Some(negation + from_at);
                }
                at += 3;
            }
            _ => at += 1,
        }
    }
    None
}

/// Returns the literal prefixes of the glob `text`, which must parse.
fn prefixes(text: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> =
        expand(text, MAX_PREFIXES).into_iter().map(|prefix| prefix.bytes).collect();
    found.iter_mut().for_each(|prefix| prefix.truncate(MAX_PREFIX_LEN));
    // A channel that begins with the longer of two nested ones begins with the shorter, too. Keep the shorter.
    found.sort_unstable();
    found.dedup_by(|longer, kept| longer.starts_with(kept));
    found
}

/// A literal prefix of a glob.
struct Prefix {
    bytes: Vec<u8>,
    /// `true` if all of the glob so far is literal: what follows can be appended.
    is_open: bool,
}

/// Returns the literal prefixes of one branch (a text without a comma outside braces), `limit` of them at most.
/// Recurses into braces, whose depth [`Glob::parse`] has bounded.
fn expand(text: &[u8], limit: usize) -> Vec<Prefix> {
    let mut all = vec![Prefix { bytes: Vec::new(), is_open: true }];
    let mut at = 0;
    while at < text.len() && all.iter().any(|prefix| prefix.is_open) {
        match text[at] {
            b'*' | b'?' | b'[' => close(&mut all),
            b'{' => {
                let len = group_len(&text[at..]);
                let group = &text[at + 1..at + len - 1];
                let open = all.iter().filter(|prefix| prefix.is_open).count();
                let choices: Vec<Prefix> = split_branches(group)
                    .into_iter()
                    // `globset` drops an empty choice, and a group that has only empty ones.
                    .flat_map(|branch| match branch {
                        [] => vec![Prefix { bytes: Vec::new(), is_open: false }],
                        _ => expand(branch, limit),
                    })
                    .collect();
                if all.len() - open + open * choices.len() > limit {
                    close(&mut all);
                } else {
                    all = extend(all, &choices);
                }
                at += len - 1;
            }
            byte => {
                // A byte follows a backslash: otherwise the glob would not have parsed.
                let escaped = byte == b'\\';
                at += usize::from(escaped);
                for prefix in all.iter_mut().filter(|prefix| prefix.is_open) {
                    prefix.bytes.push(text[at]);
                }
            }
        }
        at += 1;
    }
    all
}

/// Marks the end of what is literal.
fn close(all: &mut [Prefix]) {
    for prefix in all {
        prefix.is_open = false;
    }
}

/// Appends each of `choices` to each open prefix.
fn extend(all: Vec<Prefix>, choices: &[Prefix]) -> Vec<Prefix> {
    let mut extended = Vec::new();
    for prefix in all {
        if prefix.is_open {
            extended.extend(choices.iter().map(|choice| Prefix {
                bytes: [&prefix.bytes[..], &choice.bytes].concat(),
                is_open: choice.is_open,
            }));
        } else {
            extended.push(prefix);
        }
    }
    extended
}

/// Returns the length of the group that `text` begins with, both braces included.
fn group_len(text: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    loop {
        match text[at] {
            b'\\' => at += 1,
            b'[' => at += class_len(&text[at + 1..]).unwrap_or(0),
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
}

/// Returns the choices of a group, given without its braces.
fn split_branches(group: &[u8]) -> Vec<&[u8]> {
    let mut branches = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < group.len() {
        match group[at] {
            b'\\' => at += 1,
            b'[' => at += class_len(&group[at + 1..]).unwrap_or(0),
            b'{' => at += group_len(&group[at..]) - 1,
            b',' => {
                branches.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    branches.push(&group[start..]);
    branches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_under(text: &str) -> Vec<String> {
        let glob = Glob::parse(text).unwrap();
        glob.prefixes.iter().map(|prefix| String::from_utf8_lossy(prefix).into_owned()).collect()
    }

    #[test]
    fn a_glob_is_found_under_each_of_its_literal_prefixes() {
        for (text, expected) in [
            ("sensors/*/temp", &["sensors/"][..]),
            ("sensors/**", &["sensors/"]),
            ("**/temp", &[""]),
            ("{a,b}/x", &["a/x", "b/x"]),
            ("{a,b}/*", &["a/", "b/"]),
            ("x{a,b{c,d}}y?", &["xay", "xbcy", "xbdy"]),
            ("{a*,b}c", &["a", "bc"]),
            ("{a,ab}*", &["a"]),
            ("{,a}b", &[""]),
            ("\\{a\\,\\*[x]", &["{a,*"]),
            ("a,b", &["a,b"]),
            ("{[,}],z}k", &["", "zk"]),
            ("", &[""]),
        ] {
            let expected: Vec<&str> =
                if expected.contains(&"") { vec![""] } else { expected.to_vec() };
            assert_eq!(found_under(text), expected, "{text}");
        }
    }

    #[test]
    fn long_literal_prefixes_are_cut() {
        let beginning = "a".repeat(MAX_PREFIX_LEN);
        assert_eq!(found_under(&format!("{beginning}{{b,c}}*")), [&*beginning]);
        assert_eq!(found_under(&format!("{{x,{beginning}b}}{beginning}c"))[1][..1], *"x");
    }

    #[test]
    fn many_choices_do_not_multiply() {
        let text = format!("pre{}", "{a,b}".repeat(100));
        assert!(found_under(&text).len() <= MAX_PREFIXES);
    }

    #[test]
    fn an_error_tells_its_position() {
        for (text, offset) in [
            ("ab[c", 2),
            ("a{b{c}", 1),
            ("ab}", 2),
            ("[é-é]a}", 8),
            ("abc\\", 3),
            ("x[d-a]", 2),
            ("x[!a-ce-b]", 6),
        ] {
            let error = Glob::parse(text).err().unwrap_or_else(|| panic!("{text} parsed"));
            assert_eq!(error.offset(), Some(offset), "{text}: {error}");
        }
    }

    #[test]
    fn huge_globs_are_refused_or_compiled() {
        let deep = |n: usize| "{".repeat(n) + &"}".repeat(n);
        assert!(Glob::parse(&deep(MAX_DEPTH)).is_ok());
        assert!(Glob::parse(&deep(MAX_DEPTH + 1)).is_err());
        assert!(Glob::parse(&deep(100_000)).is_err());
        assert!(Glob::parse(&"a".repeat(MAX_LEN + 1)).is_err());
        for unit in ["a", "?", "*a", "**/", "[!a-y]", "{a,b}", "{[a-c]*,?d}"] {
            let text = unit.repeat(MAX_LEN / unit.len());
            assert!(Glob::parse(&text).is_ok(), "{unit}");
        }
    }
}
