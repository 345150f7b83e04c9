//! Where a message came from: the value that all messages of a channel's subscriptions, or of one pattern on that
//! channel, point to.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::batch_arc::{BatchArc, BatchArcWithPart, BatchRef, DeferredDecrements, Shared};
use crate::pattern::Pattern;
use crate::small_str::SmallStr;

/// The longest names of a source that a thread may keep, in bytes.
const MAX_LINGERING: usize = 512;

/// The channel of a message, and the pattern that matched it.
pub(crate) struct Source {
    /// In place if it is short and no subscriber has it: for names that come once and never again, an `Arc` would be an
    /// allocation more, and one more cache miss for who reads it.
    channel: SmallStr,
    /// The pattern's entry on the bus, whose counter a route writes to anyway. The pattern's own counter would be one
    /// more cache miss for each pattern that matches.
    pattern: Option<Arc<dyn HasPattern>>,
}

/// What the messages of one subscription have in common, kept alive.
pub(crate) enum Origin {
    Channel(Arc<str>),
    Pattern(Arc<dyn HasPattern>),
}

impl Origin {
    pub(crate) fn address(&self) -> usize {
        match self {
            Self::Channel(name) => Arc::as_ptr(name).addr(),
            Self::Pattern(pattern) => Arc::as_ptr(pattern).addr(),
        }
    }
}

/// Something that has a pattern.
pub(crate) trait HasPattern: Any + Send + Sync + UnwindSafe + RefUnwindSafe {
    fn pattern(&self) -> &Pattern;

    /// Returns the pattern's text.
    fn text(&self) -> &Arc<str> {
        self.pattern().text()
    }
}

impl HasPattern for Pattern {
    fn pattern(&self) -> &Pattern {
        self
    }
}

impl Source {
    #[inline]
    pub(crate) fn new(channel: SmallStr, pattern: Option<Arc<dyn HasPattern>>) -> Self {
        Self { channel, pattern }
    }

    /// Returns the channel's name.
    #[inline]
    pub(crate) fn channel(&self) -> &SmallStr {
        &self.channel
    }

    /// `true` if a pattern matched the message.
    #[inline]
    pub(crate) fn has_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// Returns an address that the messages of one subscription have in common, as long as its name is not subscribed
    /// anew; `None` if they have none.
    #[inline]
    pub(crate) fn address(&self) -> Option<usize> {
        match (&self.pattern, &self.channel) {
            (Some(pattern), _) => Some(Arc::as_ptr(pattern).addr()),
            (None, SmallStr::Shared(name)) => Some(Arc::as_ptr(name).addr()),
            (None, SmallStr::Inline(_)) => None,
        }
    }

    /// Returns what lies at [`address`](Self::address).
    pub(crate) fn origin(&self) -> Option<Origin> {
        match (&self.pattern, &self.channel) {
            (Some(pattern), _) => Some(Origin::Pattern(Arc::clone(pattern))),
            (None, SmallStr::Shared(name)) => Some(Origin::Channel(Arc::clone(name))),
            (None, SmallStr::Inline(_)) => None,
        }
    }

    /// Returns the pattern.
    pub(crate) fn pattern(&self) -> Option<&Pattern> {
        self.pattern.as_ref().map(|named| named.pattern())
    }

    /// Returns the text of the pattern.
    pub(crate) fn pattern_text(&self) -> Option<&Arc<str>> {
        self.pattern.as_ref().map(|named| named.text())
    }
}

#[cfg(not(loom))]
thread_local! {
    static DEFERRED: DeferredDecrements<Source> = const { DeferredDecrements::new() };
    static FLUSH_AT_END: FlushAtEnd = const { FlushAtEnd };
}
#[cfg(loom)]
loom::thread_local! {
    static DEFERRED: DeferredDecrements<Source> = DeferredDecrements::new();
    static FLUSH_AT_END: FlushAtEnd = FlushAtEnd;
}

/// Dropped when a thread ends.
struct FlushAtEnd;

// A thread of loom's has none of its locals left when they are dropped.
#[cfg(not(loom))]
impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        // If they are gone already, nothing was deferred since.
        _ = DEFERRED.try_with(DeferredDecrements::flush);
    }
}

impl Shared for Source {
    fn may_linger(&self) -> bool {
        let pattern = self.pattern_text().map_or(0, |text| text.len());
        self.channel.as_str().len() + pattern <= MAX_LINGERING
    }

    #[inline]
    fn with_deferred<R>(f: impl FnOnce(&DeferredDecrements<Self>) -> R) -> Option<R> {
        DEFERRED.try_with(f).ok()
    }

    fn flush_at_thread_end() -> bool {
        FLUSH_AT_END.try_with(|_| ()).is_ok()
    }
}

/// A message's pointer to its source; equal and hashed by what it points to.
pub(crate) type SourceRef = BatchRef<Source>;

impl PartialEq for SourceRef {
    fn eq(&self, other: &Self) -> bool {
        (self.channel.as_str(), self.pattern()) == (other.channel.as_str(), other.pattern())
    }
}

impl Eq for SourceRef {}

impl Hash for SourceRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.channel.as_str(), self.pattern()).hash(state);
    }
}

/// A pattern that matches a channel, and what its messages on that channel point to.
pub(crate) struct PatternSource<T>(BatchArcWithPart<Source, T>);

impl<T: HasPattern> PatternSource<T> {
    pub(crate) fn new(channel: SmallStr, entry: Arc<T>) -> Self {
        let source = BatchArc::new(Source::new(channel, Some(entry)));
        Self(BatchArcWithPart::new(source, |source| {
            let named = source.pattern.as_deref().map(|named| named as &dyn Any);
            let Some(entry) = named.and_then(<dyn Any>::downcast_ref) else {
                unreachable!("it is the entry that the source was made of")
            };
            entry
        }))
    }
}

impl<T> PatternSource<T> {
    /// Returns what the messages point to.
    #[inline]
    pub(crate) fn source(&self) -> &BatchArc<Source> {
        self.0.whole()
    }

    /// Returns the pattern's entry.
    #[inline]
    pub(crate) fn entry(&self) -> &T {
        self.0.part()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(channel: &str) -> Source {
        Source::new(SmallStr::new(channel), None)
    }

    #[test]
    fn long_names_do_not_linger() {
        assert!(source("channel").may_linger());
        assert!(!source(&"c".repeat(MAX_LINGERING + 1)).may_linger());
        let pattern = Pattern::redis(&"p".repeat(MAX_LINGERING));
        let source = Source::new(SmallStr::new("c"), Some(Arc::new(pattern)));
        assert!(!source.may_linger());
    }

    #[test]
    fn pointers_are_equal_by_what_they_point_to() {
        let pointer = |channel| SourceRef::new(source(channel));
        assert!(pointer("a") == pointer("a") && pointer("a") != pointer("b"));
    }
}
