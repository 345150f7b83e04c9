//! Patterns: two dialects behind one type. Knows nothing of the engine.

mod byte_set;
#[cfg(feature = "glob")]
mod glob;
pub(crate) mod program;
mod redis;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::convert::Infallible;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

pub(crate) use byte_set::ByteSet;

#[cfg(feature = "glob")]
use crate::error::PatternError;
#[cfg(feature = "glob")]
use glob::Glob;
#[cfg(feature = "glob")]
use program::ProgramBuilder;
use program::{Op, Ops, Steps};

/// A compiled wildcard that channels are matched against, in one of two dialects.
///
/// | | *Redis glob*, by [`Pattern::redis`] | *shell glob*, by [`Pattern::glob`] |
/// | --- | --- | --- |
/// | any run of bytes | `*` | `*` within a level; `**` as a whole level: any number of levels |
/// | one byte | `?` | `?`, never `/` |
/// | one byte of a class | `[abc]`, `[a-f]` | `[abc]`, `[a-f]`, never `/` |
/// | one byte outside a class | `[^abc]` | `[!abc]`, `[^abc]`, never `/` |
/// | a choice | | `{temp,hum}` |
/// | the character itself | `\*` | `\*` |
/// | separator of levels | none | `/` |
/// | the empty channel | only the empty pattern matches it | `*` and `**` match it |
///
/// A string is a Redis glob wherever a pattern is expected, as in [`Bus::psubscribe`](crate::Bus::psubscribe).
///
/// Two patterns are equal if their dialects and their texts are equal. The same text in both dialects is two patterns.
///
/// Cloning copies a pointer.
///
/// # Examples
///
/// ```
/// use fanout::Pattern;
///
/// let pattern = Pattern::redis("sensors/*/temp");
/// assert!(pattern.is_match("sensors/a/temp"));
/// assert!(pattern.is_match("sensors/a/b/temp"));
/// assert_eq!(pattern, Pattern::from("sensors/*/temp"));
/// ```
#[derive(Clone)]
pub struct Pattern(Arc<Inner>);

struct Inner {
    text: Arc<str>,
    compiled: Compiled,
}

/// What the text compiled to, by dialect.
enum Compiled {
    Redis {
        program: Box<[u8]>,
        /// The length of the shortest channel that can match, in bytes. A longer pattern costs a channel nothing.
        min_len: usize,
    },
    #[cfg(feature = "glob")]
    Glob(Glob),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Dialect {
    Redis,
    #[cfg(feature = "glob")]
    Glob,
}

impl Pattern {
    /// Compiles a Redis glob. Every string is one.
    ///
    /// A pattern is matched against all bytes of a channel's name, exactly as redis-server 7.0.15 does on x86-64. No
    /// byte is a separator. See the [table](Self) for the syntax; its corners are:
    ///
    /// - `[]` matches nothing, `[^]` matches any byte, and a class that is not closed ends with the pattern.
    /// - The ends of a range may stand in either order. Bytes are compared as signed numbers, on every target.
    /// - A `\` at the end matches itself.
    /// - The empty channel is matched by the empty pattern only, not by `*`.
    ///
    /// # Complexity
    ///
    /// Linear in the length of `text`.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// assert!(Pattern::redis("user:[0-9]*").is_match("user:42:notifications"));
    /// assert!(!Pattern::redis("h?llo").is_match("héllo")); // é is two bytes
    /// assert!(Pattern::redis("h??llo").is_match("héllo"));
    /// ```
    pub fn redis(text: &str) -> Self {
        Self::from_redis(Arc::from(text))
    }

    /// Compiles a shell glob, as the crate [`globset`](https://docs.rs/globset) reads it, with `/` between levels.
    ///
    /// A pattern is matched against all bytes of a channel's name. See the [table](Self) for the syntax; its corners
    /// are:
    ///
    /// - `**` stands for any number of levels, for at least one at the end of a glob: `a/**` matches `a/b`, but not
    ///   `a`.
    /// - An empty alternative, as in `{a,}`, matches nothing.
    ///
    /// # Errors
    ///
    /// Returns [`PatternError`] if `text` is not a glob, or is one whose compiled form could grow too large. The error
    /// tells the reason and, if known, the byte where it lies.
    ///
    /// # Complexity
    ///
    /// As for `globset`, which compiles a regular expression. `text` is limited to 8 KiB, and its braces to a depth of
    /// 32.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// let pattern = Pattern::glob("sensors/**/{temp,hum}")?;
    /// assert!(pattern.is_match("sensors/eu/attic/hum"));
    /// assert!(pattern.is_match("sensors/temp"));
    /// assert!(!Pattern::glob("sensors/*/temp")?.is_match("sensors/eu/attic/temp"));
    ///
    /// let error = Pattern::glob("sensors/{temp").unwrap_err();
    /// assert_eq!(error.offset(), Some(8));
    /// # Ok::<(), fanout::PatternError>(())
    /// ```
    #[cfg(feature = "glob")]
    #[cfg_attr(docsrs, doc(cfg(feature = "glob")))]
    pub fn glob(text: &str) -> Result<Self, PatternError> {
        let glob = Glob::parse(text)?;
        Ok(Self(Arc::new(Inner { text: Arc::from(text), compiled: Compiled::Glob(glob) })))
    }

    /// Returns the text of a Redis glob that matches `literal` and nothing else.
    ///
    /// # Complexity
    ///
    /// Linear in the length of `literal`.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// let user = "what*a[name]";
    /// let pattern = format!("user:{}:*", Pattern::escape(user));
    /// assert_eq!(pattern, r"user:what\*a\[name\]:*");
    /// assert!(Pattern::redis(&pattern).is_match("user:what*a[name]:posts"));
    /// ```
    pub fn escape(literal: &str) -> String {
        let mut text = String::with_capacity(literal.len());
        for c in literal.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text
    }

    /// Returns the text of the pattern, as written.
    ///
    /// # Complexity
    ///
    /// O(1).
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// assert_eq!(Pattern::redis("user:*").as_str(), "user:*");
    /// ```
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Returns `true` if the pattern matches `channel`.
    ///
    /// # Complexity
    ///
    /// A Redis glob takes at most the product of the two lengths, and O(1) if `channel` is shorter than everything that
    /// the glob can match. A shell glob takes what `globset` does: linear in the length of `channel`. No pattern is
    /// exponential, and none recurses.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// let pattern = Pattern::redis("user:*:posts");
    /// assert!(pattern.is_match("user:42:posts"));
    /// assert!(!pattern.is_match("user:42:posts:new"));
    /// ```
    pub fn is_match(&self, channel: &str) -> bool {
        self.is_match_counting(channel, &mut Steps::default())
    }

    /// `true` if the pattern matches `channel`. Adds the number of ops tried and of literal bytes compared to `steps`;
    /// a shell glob adds nothing.
    pub(crate) fn is_match_counting(&self, channel: &str, steps: &mut Steps) -> bool {
        match &self.0.compiled {
            // redis-server matches the empty channel only by the empty pattern.
            Compiled::Redis { .. } if channel.is_empty() => self.0.text.is_empty(),
            Compiled::Redis { min_len, .. } if channel.len() < *min_len => false,
            Compiled::Redis { program, .. } => program::matches(program, channel.as_bytes(), steps),
            #[cfg(feature = "glob")]
            Compiled::Glob(glob) => glob.is_match(channel),
        }
    }

    pub(crate) fn text(&self) -> &Arc<str> {
        &self.0.text
    }

    /// Returns the programs by which the trie finds the pattern. A shell glob has one for each of its literal
    /// prefixes: at most one literal, then [`Op::Confirm`].
    pub(crate) fn programs(&self) -> SmallVec<[Cow<'_, [u8]>; 1]> {
        match &self.0.compiled {
            Compiled::Redis { program, .. } => smallvec![Cow::Borrowed(&program[..])],
            #[cfg(feature = "glob")]
            Compiled::Glob(glob) => {
                let program = |prefix: &Vec<u8>| {
                    let mut program = ProgramBuilder::default();
                    program.push(Op::Literal(prefix));
                    program.push(Op::Confirm);
                    Cow::Owned(program.finish().into())
                };
                glob.prefixes().iter().map(program).collect()
            }
        }
    }

    /// Returns the program of a Redis glob; empty for a shell glob, whose programs are made when they are needed.
    pub(crate) fn program(&self) -> &[u8] {
        match &self.0.compiled {
            Compiled::Redis { program, .. } => program,
            #[cfg(feature = "glob")]
            Compiled::Glob(_) => &[],
        }
    }

    /// Returns the literal prefixes of the pattern, cut to a maximum length. Every matching channel begins with
    /// exactly one of them.
    pub(crate) fn prefixes(&self) -> SmallVec<[&[u8]; 1]> {
        match &self.0.compiled {
            Compiled::Redis { program, .. } => smallvec![match Ops::new(program).next() {
                Some(Op::Literal(literal)) => literal,
                _ => &[],
            }],
            #[cfg(feature = "glob")]
            Compiled::Glob(glob) => glob.prefixes().iter().map(|prefix| &prefix[..]).collect(),
        }
    }

    fn from_redis(text: Arc<str>) -> Self {
        let (program, min_len) = redis::compile(text.as_bytes());
        let compiled = Compiled::Redis { program, min_len };
        Self(Arc::new(Inner { text, compiled }))
    }

    #[cfg(feature = "serde")]
    pub(crate) fn is_redis(&self) -> bool {
        self.identity().0 == Dialect::Redis
    }

    fn identity(&self) -> (Dialect, &str) {
        let dialect = match self.0.compiled {
            Compiled::Redis { .. } => Dialect::Redis,
            #[cfg(feature = "glob")]
            Compiled::Glob(_) => Dialect::Glob,
        };
        (dialect, &self.0.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dialect, text) = self.identity();
        write!(f, "Pattern::{}({text:?})", if dialect == Dialect::Redis { "redis" } else { "glob" })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.identity() == other.identity()
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl AsRef<str> for Pattern {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for Pattern {
    type Err = Infallible;

    /// Compiles a Redis glob.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::redis(text))
    }
}

impl From<&Pattern> for Pattern {
    fn from(pattern: &Pattern) -> Self {
        pattern.clone()
    }
}

macro_rules! from_redis_text {
    ($($text:ty),*) => {$(
        impl From<$text> for Pattern {
            /// Compiles a Redis glob.
            fn from(text: $text) -> Self {
                Self::from_redis(Arc::from(text))
            }
        }
    )*};
}

from_redis_text!(&str, String, Box<str>, Arc<str>, Cow<'_, str>);

macro_rules! from_redis_text_by_reference {
    ($($text:ty),*) => {$(
        impl From<&$text> for Pattern {
            /// Compiles a Redis glob.
            fn from(text: &$text) -> Self {
                Self::redis(text)
            }
        }
    )*};
}

from_redis_text_by_reference!(&str, String, Box<str>, Cow<'_, str>);

impl From<&Arc<str>> for Pattern {
    /// Compiles a Redis glob.
    fn from(text: &Arc<str>) -> Self {
        Self::from_redis(Arc::clone(text))
    }
}
