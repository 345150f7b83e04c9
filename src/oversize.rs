//! Buffers that are used again from call to call give their memory back when they have been much too large for long.
//! Not at once: calls of the same size, with smaller ones in between, must not allocate. A leaf.

/// Room, in items, that a buffer may keep for ever.
const ALWAYS_KEPT: usize = 1_024;

/// A buffer is much too large if a use takes less than one part in this many of it.
const SHARE: usize = 8;

/// For long: in this many uses in a row.
const LONG: u16 = 10_000;

/// How many uses in a row took little of a buffer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Oversize(u16);

impl Oversize {
    pub(crate) const NONE: Self = Self(0);

    /// Counts a use that took `used` of the `room` of a buffer, both in items. Returns `true` if the buffer has been
    /// much too large for long.
    pub(crate) fn is_lasting(&mut self, used: usize, room: usize) -> bool {
        if Self::may_keep(room) || used >= room / SHARE {
            self.0 = 0;
            return false;
        }
        self.0 += 1;
        if self.0 < LONG {
            return false;
        }
        self.0 = 0;
        true
    }

    /// `true` if a buffer with this room is never too large.
    pub(crate) fn may_keep(room: usize) -> bool {
        room <= ALWAYS_KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_buffer_that_is_hardly_used_for_long_is_oversized() {
        let mut oversize = Oversize::default();
        let mut uses = |used, room| (0..LONG).filter(|_| oversize.is_lasting(used, room)).count();
        assert_eq!(uses(0, ALWAYS_KEPT), 0);
        assert_eq!(uses(1_000, 8_000), 0);
        assert_eq!(uses(999, 8_000), 1);
        let almost = usize::from(LONG) - 1;
        assert_eq!((0..almost).filter(|_| oversize.is_lasting(0, 8_000)).count(), 0);
        assert!(!oversize.is_lasting(8_000, 8_000));
        assert_eq!((0..almost).filter(|_| oversize.is_lasting(0, 8_000)).count(), 0);
    }
}
