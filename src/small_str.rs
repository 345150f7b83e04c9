//! A few bytes, kept in place. A leaf.

/// A copy of bytes that are few enough to lie where this lies.
#[derive(Clone, Copy)]
pub(crate) struct Inline<const ROOM: usize> {
    /// How many of the bytes are meant.
    len: u8,
    bytes: [u8; ROOM],
}

impl<const ROOM: usize> Inline<ROOM> {
    /// A copy of `bytes`, if there is room for them.
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        const { assert!(ROOM <= u8::MAX as usize) };
        let mut inline = Self { len: bytes.len() as u8, bytes: [0; ROOM] };
        inline.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(inline)
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_kept_whole() {
        for len in [0, 1, 21, 22, 23, 255, 256, 278, 300] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let inline = Inline::<22>::new(&bytes);
            assert_eq!(inline.is_some(), len <= 22);
            assert!(inline.is_none_or(|inline| inline.as_bytes() == bytes));
        }
    }
}
