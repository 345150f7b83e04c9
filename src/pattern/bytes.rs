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

    /// The bytes from `first` to `last`; none, if `first` is greater.
    pub(crate) fn range(first: u8, last: u8) -> Self {
        let mut set = Self::default();
        for (at, bits) in set.0.iter_mut().enumerate() {
            let lowest = 8 * at as u32;
            let from = u32::from(first).saturating_sub(lowest).min(8);
            let to = (u32::from(last) + 1).saturating_sub(lowest).min(8);
            // The bits from `from` on, less those from `to` on.
            *bits = (0xff_u32 << from & !(0xff_u32 << to)) as u8;
        }
        set
    }

    /// The first and the last byte, if the set has all that lie between. The empty set is a range whose first byte is
    /// greater than its last.
    pub(crate) fn as_range(&self) -> Option<(u8, u8)> {
        let Some(first) = (0..=u8::MAX).find(|&byte| self.contains(byte)) else {
            return Some((1, 0));
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_bytes_and_no_others() {
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
