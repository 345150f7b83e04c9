//! Short texts and byte strings, kept in place. A leaf.

use std::sync::Arc;

use arrayvec::ArrayString;

/// A copy of at most `N` bytes, kept in place.
#[derive(Clone, Copy)]
pub(crate) struct InlineBytes<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> InlineBytes<N> {
    /// Returns a copy of `bytes`, or `None` if there are more than `N`.
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        const { assert!(N <= u8::MAX as usize) };
        let mut inline = Self { len: bytes.len() as u8, bytes: [0; N] };
        inline.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(inline)
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A short text, kept in place. With room for 26 bytes, a [`SmallStr`] takes five words, and the names of half a
/// million `user:{id}:notifications` fit.
pub(crate) type InlineStr = ArrayString<26>;

/// An immutable text, in place if it is short and shared otherwise.
#[derive(Clone)]
pub(crate) enum SmallStr {
    Inline(InlineStr),
    Shared(Arc<str>),
}

impl Default for SmallStr {
    #[inline]
    fn default() -> Self {
        Self::Inline(InlineStr::new())
    }
}

impl SmallStr {
    #[inline]
    pub(crate) fn new(text: &str) -> Self {
        let mut small = Self::default();
        small.set(text);
        small
    }

    /// Replaces the text.
    #[inline]
    pub(crate) fn set(&mut self, text: &str) {
        *self = Self::default();
        if let Self::Inline(inline) = self
            && inline.try_push_str(text).is_err()
        {
            *self = Self::Shared(Arc::from(text));
        }
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Inline(text) => text,
            Self::Shared(text) => text,
        }
    }

    /// Returns the text, shared. Copies it if it is in place.
    pub(crate) fn to_shared(&self) -> Arc<str> {
        match self {
            Self::Inline(text) => Arc::from(text.as_str()),
            Self::Shared(text) => Arc::clone(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_fit_are_copied_whole() {
        for len in [0, 1, 21, 22, 23, 255, 256, 278, 300] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let inline = InlineBytes::<22>::new(&bytes);
            assert_eq!(inline.is_some(), len <= 22);
            assert!(inline.is_none_or(|inline| inline.as_bytes() == bytes));
        }
    }

    #[test]
    fn short_texts_lie_in_place_and_long_ones_are_shared() {
        for text in ["", "a", "héllo", &"é".repeat(13), &"é".repeat(14), &"x".repeat(27)] {
            let small = SmallStr::new(text);
            assert_eq!((small.as_str(), &*small.to_shared()), (text, text));
            assert_eq!(matches!(small, SmallStr::Inline(_)), text.len() <= 26, "{text}");
            assert_eq!(small.clone().as_str(), text);
        }
        assert_eq!(size_of::<SmallStr>(), 40);
    }
}
