//! Shell globs: `globset` parses and matches them; here is only what finds them in the trie.

use globset::{Candidate, ErrorKind, GlobBuilder, GlobMatcher};

use super::program::MAX_RUN;
use crate::error::PatternError;

/// The longest glob, in bytes. Within it no glob can exceed what the regex engine behind `globset`
/// is willing to compile, which it would answer with a panic.
const MAX_LEN: usize = 8 * 1024;

/// How deep `{` may nest. `globset` recurses for each level.
const MAX_DEPTH: usize = 32;

/// How many literal beginnings a glob is filed under; one with more is filed under shorter ones.
const MAX_PREFIXES: usize = 64;

/// Maximum number of bytes of a literal beginning that a glob is filed under: one run of its code.
const MAX_PREFIX: usize = MAX_RUN;

/// A compiled shell glob.
pub(crate) struct Glob {
    matcher: GlobMatcher,
    /// Every matching channel begins with exactly one of these: none is a beginning of another.
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

/// Where in a glob's text things stand that an error may be about, in bytes.
#[derive(Default)]
struct Scan {
    unclosed_class: Option<usize>,
    /// Where the first character of a range stands whose last one lies before it.
    reversed_range: Option<usize>,
    unclosed_brace: Option<usize>,
    unopened_brace: Option<usize>,
    dangling_escape: Option<usize>,
    too_deep: Option<usize>,
}

impl Scan {
    /// Reads `text` as `globset` does. Every byte that means something is ASCII.
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

/// The length of a class from behind its `[` to behind its `]`: a `]` that stands first is a member.
fn class_len(class: &[u8]) -> Option<usize> {
    let first = usize::from(matches!(class.first(), Some(b'!' | b'^')));
    let close = class.iter().skip(first + 1).position(|&byte| byte == b']')?;
    Some(first + 1 + close + 1)
}

/// Where in a class, given from behind its `[` to behind its `]`, a reversed range begins.
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

/// The literal beginnings under which the glob `text`, which parses, is found.
fn prefixes(text: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> =
        beginnings(text, MAX_PREFIXES).into_iter().map(|beginning| beginning.bytes).collect();
    found.iter_mut().for_each(|prefix| prefix.truncate(MAX_PREFIX));
    // Whoever begins with the longer of two nested ones begins with the shorter: keep that one.
    found.sort_unstable();
    found.dedup_by(|longer, kept| longer.starts_with(kept));
    found
}

/// A literal beginning of a glob, and whether it is the whole of it.
struct Beginning {
    bytes: Vec<u8>,
    whole: bool,
}

/// The beginnings of one branch (no comma outside braces), `limit` of them at most. It recurses into
/// braces, whose depth [`Glob::parse`] has bounded.
fn beginnings(text: &[u8], limit: usize) -> Vec<Beginning> {
    let mut all = vec![Beginning { bytes: Vec::new(), whole: true }];
    let mut at = 0;
    while at < text.len() && all.iter().any(|beginning| beginning.whole) {
        match text[at] {
            b'*' | b'?' | b'[' => close(&mut all),
            b'{' => {
                let len = group_len(&text[at..]);
                let group = &text[at + 1..at + len - 1];
                let open = all.iter().filter(|beginning| beginning.whole).count();
                let choices: Vec<Beginning> = split_branches(group)
                    .into_iter()
                    // `globset` drops an empty choice, and a group of none but empty ones.
                    .flat_map(|branch| match branch {
                        [] => vec![Beginning { bytes: Vec::new(), whole: false }],
                        _ => beginnings(branch, limit),
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
                // A last lone backslash does not parse.
                let escaped = byte == b'\\';
                at += usize::from(escaped);
                for beginning in all.iter_mut().filter(|beginning| beginning.whole) {
                    beginning.bytes.push(text[at]);
                }
            }
        }
        at += 1;
    }
    all
}

fn close(all: &mut [Beginning]) {
    for beginning in all {
        beginning.whole = false;
    }
}

fn extend(all: Vec<Beginning>, choices: &[Beginning]) -> Vec<Beginning> {
    let mut extended = Vec::new();
    for beginning in all {
        if beginning.whole {
            extended.extend(choices.iter().map(|choice| Beginning {
                bytes: [&beginning.bytes[..], &choice.bytes].concat(),
                whole: choice.whole,
            }));
        } else {
            extended.push(beginning);
        }
    }
    extended
}

/// The length of the group that `text` begins with, both braces counted.
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

/// The choices of a group, given without its braces.
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
    fn literal_beginnings() {
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
    fn long_beginnings_are_cut_short() {
        let beginning = "a".repeat(MAX_PREFIX);
        assert_eq!(found_under(&format!("{beginning}{{b,c}}*")), [&*beginning]);
        assert_eq!(found_under(&format!("{{x,{beginning}b}}{beginning}c"))[1][..1], *"x");
    }

    #[test]
    fn many_choices_are_cut_short_not_multiplied() {
        let text = format!("pre{}", "{a,b}".repeat(100));
        assert!(found_under(&text).len() <= MAX_PREFIXES);
    }

    #[test]
    fn errors_tell_where() {
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
    fn hostile_globs_are_refused_or_compiled() {
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
