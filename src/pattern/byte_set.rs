//! A set of bytes: what a class such as `[a-f]` compiles to. Depends on nothing.

/// A set of byte values. A membership test is one shift and one mask.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ByteSet([u8; ByteSet::BYTES]);

impl ByteSet {
    /// The number of bytes that encode a set.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the set that `bytes` encode.
    ///
    /// # Panics
    ///
    /// Panics unless there are [`BYTES`](Self::BYTES) of them.
    #[inline]
    pub(crate) fn from_slice(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        set.0.copy_from_slice(bytes);
        set
    }

    /// Returns the set of the bytes from `first` to `last`, both included. Empty if `first` is greater.
    pub(crate) fn range(first: u8, last: u8) -> Self {
        let mut set = Self::default();
        for (lowest, bytes) in (0..).step_by(64).zip(set.0.chunks_exact_mut(8)) {
            // The bits from `byte` on, among 64 of which the lowest stands for `lowest`.
            let from = |byte: u32| u64::MAX.checked_shl(byte.saturating_sub(lowest)).unwrap_or(0);
            let bits = from(u32::from(first)) & !from(u32::from(last) + 1);
            bytes.copy_from_slice(&bits.to_le_bytes());
        }
        set
    }

    /// Returns the first and the last byte if the set holds all bytes between them. The empty set is a range whose
    /// first byte is greater than its last.
    pub(crate) fn as_range(&self) -> Option<(u8, u8)> {
        let mut ends = None;
        for (lowest, bytes) in (0..).step_by(64).zip(self.0.chunks_exact(8)) {
            let bits = bytes.iter().rfold(0, |bits, &byte| bits << 8 | u64::from(byte));
            if bits != 0 {
                let (first, last) = (lowest + bits.trailing_zeros(), lowest + bits.ilog2());
                ends = Some((ends.map_or(first, |(first, _)| first), last));
            }
        }
        let (first, last) = ends.unwrap_or((1, 0));
        let (first, last) = (first as u8, last as u8);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_bytes_and_no_others() {
        for (first, last) in
            (0..=u8::MAX).flat_map(|first| (0..=u8::MAX).map(move |last| (first, last)))
        {
            let set = ByteSet::range(first, last);
            let mut expected = ByteSet::default();
            (first..=last).for_each(|byte| expected.insert(byte));
            assert!(set == expected, "{first} {last}");
            assert_eq!(set.as_range(), Some(if first <= last { (first, last) } else { (1, 0) }));
        }
    }
}
