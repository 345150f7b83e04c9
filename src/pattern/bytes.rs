//! A set of bytes, as a class such as `[a-f]` compiles to. A leaf.

/// A set of byte values: membership is one shift and one mask.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ByteSet([u8; ByteSet::BYTES]);

impl ByteSet {
    /// How long it is as bytes.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The set that these are the bytes of.
    ///
    /// # Panics
    ///
    /// Where there are not [`BYTES`](Self::BYTES) of them.
    #[inline]
    pub(crate) fn from_slice(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        set.0.copy_from_slice(bytes);
        set
    }

    /// The bytes from `first` to `last`.
    pub(crate) fn range(first: u8, last: u8) -> Self {
        let mut set = Self::default();
        (first..=last).for_each(|byte| set.insert(byte));
        set
    }

    /// The first and the last byte, if it has all that lie between.
    pub(crate) fn as_range(&self) -> Option<(u8, u8)> {
        let first = (0..=u8::MAX).find(|&byte| self.contains(byte))?;
        let last = (0..=u8::MAX).rfind(|&byte| self.contains(byte))?;
        (*self == Self::range(first, last)).then_some((first, last))
    }

    pub(crate) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 3)] |= 1 << (byte & 7);
    }

    pub(crate) fn negate(&mut self) {
        for bits in &mut self.0 {
            *bits = !*bits;
        }
    }

    #[inline]
    pub(crate) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 3)] >> (byte & 7) & 1 != 0
    }
}
