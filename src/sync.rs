//! The locks and atomics that the engine uses, in one place.

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

// What the model checker must see. (The engine's other counts are none the worse for it.)
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicUsize, fence};

/// Adds to a counter that one thread at a time writes, the holder of a lock, and any thread reads:
/// without the bus lock that a read-modify-write costs.
#[inline]
pub(crate) fn add_exclusively(counter: &AtomicU64, count: u64) {
    // Relaxed: the lock orders the writers, and readers want only some recent value.
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
