//! Patterns: two dialects behind one type. Knows nothing of the engine.

mod byte_set;
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

use crate::error::PatternError;
use glob::Glob;
use program::{Step, Steps, Writer};

/// A compiled wildcard that channels are matched against.
///
/// There are two dialects. Every `&str` becomes a *Redis glob*, which is what
/// [`psubscribe`](crate::Bus::psubscribe) takes as it stands; [`Pattern::glob`] makes a *shell glob*.
/// Two patterns are equal when dialect and text are: the same text in both dialects is two patterns.
///
/// Cloning copies a pointer.
///
/// # Examples
///
/// ```
/// use fanout::Pattern;
///
/// let redis = Pattern::redis("sensors/*/temp");
/// assert!(redis.is_match("sensors/a/b/temp"));
///
/// let shell = Pattern::glob("sensors/*/temp")?;
/// assert!(!shell.is_match("sensors/a/b/temp"));
/// assert_ne!(redis, shell);
/// # Ok::<(), fanout::PatternError>(())
/// ```
#[derive(Clone)]
pub struct Pattern(Arc<Inner>);

struct Inner {
    text: Arc<str>,
    program: Program,
}

/// What the text compiled to, by dialect.
enum Program {
    Redis {
        code: Box<[u8]>,
        /// The bytes that a channel must have at least in order to match, so that a pattern that is longer than the
        /// channel costs nothing.
        least: usize,
    },
    Glob(Glob),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Dialect {
    Redis,
    Glob,
}

impl Pattern {
    /// Compiles a Redis glob. Every string is one.
    ///
    /// Matching is over bytes, anchored at both ends, and knows no separator: `*` is any run of bytes,
    /// `?` one byte, `[...]` one byte of a class (`[^...]` one byte outside it, `a-z` a range), and
    /// `\x` the byte `x`. The corners are redis-server's own: `[]` matches nothing and `[^]` any byte,
    /// an unclosed class closes at the pattern's end, a range's ends may stand in either order, a last
    /// lone `\` is itself, and the empty channel is matched by the empty pattern alone. A range compares
    /// bytes as signed, on every target, as redis-server does on x86-64.
    ///
    /// # Complexity
    ///
    /// Linear in the text.
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

    /// Compiles a shell glob, as the crate `globset` reads it, with `/` separating levels.
    ///
    /// `*` and `?` stay within a level; `**` is any number of levels, at the end of a glob one at least (`a/**` matches
    /// `a/b`, not `a`); `{a,b}` is a choice, in which an empty alternative matches nothing,
    /// `[!a]` a negated class and `\` escapes. Matching is over bytes.
    ///
    /// # Errors
    ///
    /// [`PatternError`] where the text is no glob: it tells what is wrong and, where that can be told,
    /// at which byte.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Pattern;
    ///
    /// let pattern = Pattern::glob("sensors/**/{temp,hum}")?;
    /// assert!(pattern.is_match("sensors/eu/attic/hum"));
    /// assert!(pattern.is_match("sensors/temp"));
    /// assert!(Pattern::glob("sensors/{temp").is_err());
    /// # Ok::<(), fanout::PatternError>(())
    /// ```
    pub fn glob(text: &str) -> Result<Self, PatternError> {
        let glob = Glob::parse(text)?;
        Ok(Self(Arc::new(Inner { text: Arc::from(text), program: Program::Glob(glob) })))
    }

    /// The Redis glob that matches `literal` and nothing else.
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

    /// The text, as written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether `channel` matches.
    ///
    /// # Complexity
    ///
    /// At most the product of the two lengths, for a Redis glob; O(1), if the channel is shorter than all that the
    /// glob can match; never exponential, no recursion. A shell glob takes what `globset` does: linear in the channel.
    pub fn is_match(&self, channel: &str) -> bool {
        self.is_match_counting(channel, &mut 0)
    }

    /// `true` if `channel` matches; what a Redis glob took, in steps and bytes looked at, is added to `taken`.
    pub(crate) fn is_match_counting(&self, channel: &str, taken: &mut usize) -> bool {
        match &self.0.program {
            // redis-server matches the empty channel by nothing but the empty pattern.
            Program::Redis { .. } if channel.is_empty() => self.0.text.is_empty(),
            Program::Redis { least, .. } if channel.len() < *least => false,
            Program::Redis { code, .. } => program::matches(code, channel.as_bytes(), taken),
            Program::Glob(glob) => glob.is_match(channel),
        }
    }

    pub(crate) fn text(&self) -> &Arc<str> {
        &self.0.text
    }

    /// What it compiled to: for a shell glob one code for each literal beginning, which find it, and then leave
    /// it to be asked. There is one run in each at most.
    pub(crate) fn codes(&self) -> SmallVec<[Cow<'_, [u8]>; 1]> {
        match &self.0.program {
            Program::Redis { code, .. } => smallvec![Cow::Borrowed(&code[..])],
            Program::Glob(glob) => {
                let code = |prefix: &Vec<u8>| {
                    let mut code = Writer::default();
                    code.push(Step::Run(prefix));
                    code.push(Step::Ask);
                    Cow::Owned(code.finish().into())
                };
                glob.prefixes().iter().map(code).collect()
            }
        }
    }

    /// What a Redis glob compiled to; nothing for a shell glob, which has no code of its own.
    pub(crate) fn code(&self) -> &[u8] {
        match &self.0.program {
            Program::Redis { code, .. } => code,
            Program::Glob(_) => &[],
        }
    }

    pub(crate) fn is_shell_glob(&self) -> bool {
        matches!(self.0.program, Program::Glob(_))
    }

    /// The literal beginnings that matching channels can have: exactly one of them each. Long ones are cut short.
    pub(crate) fn prefixes(&self) -> SmallVec<[&[u8]; 1]> {
        match &self.0.program {
            Program::Redis { code, .. } => smallvec![match Steps::new(code).next() {
                Some(Step::Run(run)) => run,
                _ => &[],
            }],
            Program::Glob(glob) => glob.prefixes().iter().map(|prefix| &prefix[..]).collect(),
        }
    }

    fn from_redis(text: Arc<str>) -> Self {
        let (code, least) = redis::compile(text.as_bytes());
        let program = Program::Redis { code, least };
        Self(Arc::new(Inner { text, program }))
    }

    fn identity(&self) -> (Dialect, &str) {
        let dialect = match self.0.program {
            Program::Redis { .. } => Dialect::Redis,
            Program::Glob(_) => Dialect::Glob,
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

    /// Reads a Redis glob.
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
            /// Reads a Redis glob.
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
            /// Reads a Redis glob.
            fn from(text: &$text) -> Self {
                Self::redis(text)
            }
        }
    )*};
}

from_redis_text_by_reference!(&str, String, Box<str>, Cow<'_, str>);

impl From<&Arc<str>> for Pattern {
    /// Reads a Redis glob.
    fn from(text: &Arc<str>) -> Self {
        Self::from_redis(Arc::clone(text))
    }
}
