//! Hints to the processor. A leaf.

#![allow(unsafe_code)]

/// Starts to bring the cache line that `at` begins in into the cache, without waiting for it.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86_64 has the instruction; nothing is read as far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Starts to bring all cache lines of a value at `at` into the cache, without waiting for them.
#[inline(always)]
pub(crate) fn prefetch_all<T>(at: *const T) {
    const LINE: usize = 64;
    let first = at.cast::<u8>();
    // The last byte may lie on a line of its own.
    for offset in (0..size_of::<T>()).step_by(LINE).chain([size_of::<T>().saturating_sub(1)]) {
        prefetch(first.wrapping_add(offset));
    }
}
