//! The locks and atomics of the engine, from parking_lot and std, or from loom where a model watches them. A leaf.

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

// The atomics that a loom model watches. Other counters that use `AtomicUsize` are watched too, which does no harm.
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicUsize, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicUsize, fence};

/// Adds `count` to a counter that is written under a lock, which the caller holds, and read by any thread.
///
/// A load and a store cost less than an atomic addition, which locks the cache line.
#[inline]
pub(crate) fn add_exclusively(counter: &AtomicU64, count: u64) {
    // Relaxed: the lock orders the writers, and a reader needs no more than some recent value.
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
