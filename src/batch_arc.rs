//! A counted pointer whose counts are taken in batches.
//!
//! With an `Arc`, each message would pay an atomic increment when it is sent, 5.5 of the 15 ns that a bare crossbeam
//! channel takes for all of it, and an atomic decrement when it is dropped. A [`BatchArc`] takes [`BATCH`] counts at
//! once and hands out pointers with no atomic operation; what it has not handed out it gives back when it is dropped.
//! A thread that drops pointers to one value in a row collects them in its [`DeferredDecrements`], and gives them
//! back together.
//!
//! All unsafe code of the crate is here, except for a prefetch hint. Nothing else reaches the block that the pointers
//! share.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::process::abort;
use std::ptr::{self, NonNull};

use crate::sync::{AtomicUsize, Ordering, fence};

/// Counts that are taken, or given back, at once.
pub(crate) const BATCH: usize = 1024;

/// More pointers than this can only come of leaking them. It is half of what the count holds, so that increments that
/// race cannot make it wrap, as in `Arc`.
const MAX_POINTERS: usize = isize::MAX as usize;

/// What a [`BatchArc`] can hold.
pub(crate) trait Shared: Sized + 'static {
    /// `true` if a thread may keep the value a little longer than its last pointer is used.
    fn may_linger(&self) -> bool;

    /// Calls `f` with the calling thread's deferred decrements; `None` if they are gone, as the thread is ending.
    fn with_deferred<R>(f: impl FnOnce(&DeferredDecrements<Self>) -> R) -> Option<R>;

    /// Has the calling thread [flush](DeferredDecrements::flush) its deferred decrements when it ends. Returns
    /// `false` if it is ending already.
    fn flush_at_thread_end() -> bool;
}

/// What the pointers share.
struct Block<T> {
    /// Pointers to this block, those included that a `BatchArc` has yet to hand out. The last one to go frees it.
    count: AtomicUsize,
    may_linger: bool,
    value: T,
}

impl<T> Block<T> {
    /// Counts `pointers` pointers more, which the caller then owns.
    fn increment(&self, pointers: usize) {
        // Relaxed: a new pointer comes of one that exists, so that no thread can free the block meanwhile, and
        // whatever hands the new one to another thread makes the block visible to it.
        if self.count.fetch_add(pointers, Ordering::Relaxed) > MAX_POINTERS {
            abort();
        }
    }
}

/// A pointer to a shared value.
pub(crate) struct BatchRef<T: Shared> {
    /// Out of a `Box`, and not null. It is valid as long as this pointer exists, which is counted in it.
    ///
    /// No `NonNull`, so that there is no value that this cannot have: see [`Message`](crate::Message).
    block: *mut Block<T>,
}

// SAFETY: a `BatchRef` gives shared access to a `T`, which is `Sync`, and to the count, which is atomic. Whichever
// thread drops the last one drops the `T`, which is `Send`; the orderings in `decrement` and `free` put that after
// every other thread's use.
unsafe impl<T: Shared + Send + Sync> Send for BatchRef<T> {}
// SAFETY: as above; `&BatchRef` gives nothing that a clone of it would not.
unsafe impl<T: Shared + Send + Sync> Sync for BatchRef<T> {}

impl<T: Shared> BatchRef<T> {
    pub(crate) fn new(value: T) -> Self {
        Self::with_count(1, value, false)
    }

    /// A pointer to a block that counts `pointers`, of which the caller owns the others.
    fn with_count(pointers: usize, value: T, may_linger: bool) -> Self {
        let block = Block { count: AtomicUsize::new(pointers), may_linger, value };
        Self { block: Box::into_raw(Box::new(block)) }
    }

    fn block(&self) -> &Block<T> {
        // SAFETY: `self` is counted, so the block has not been freed, and cannot be while `self` is borrowed. Nothing
        // writes to it but its atomic count.
        unsafe { &*self.block }
    }

    /// Gives back `pointers` pointers to `block`.
    ///
    /// # Safety
    ///
    /// The block must count these pointers, and the caller own them. None of them may be used again.
    unsafe fn decrement(block: *mut Block<T>, pointers: usize) {
        // SAFETY: the pointers are counted, so the block has not been freed.
        let count = unsafe { &(*block).count };
        // Release: partner of the fence below. What this thread did with the block comes before it is freed.
        if count.fetch_sub(pointers, Ordering::Release) == pointers {
            // SAFETY: the count has come to 0, by pointers that the caller owned.
            unsafe { Self::free(block) };
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    ///
    /// The block's count must have come to 0 just now.
    #[cold]
    unsafe fn free(block: *mut Block<T>) {
        // Acquire: partner of the Releases in `decrement`, of which this thread's was the last.
        fence(Ordering::Acquire);
        // SAFETY: no pointer is left, and no other can be made. The block came out of a `Box` in `with_count`.
        drop(unsafe { Box::from_raw(block) });
    }
}

impl<T: Shared> Clone for BatchRef<T> {
    fn clone(&self) -> Self {
        self.block().increment(1);
        Self { block: self.block }
    }
}

impl<T: Shared> Drop for BatchRef<T> {
    #[inline]
    fn drop(&mut self) {
        let is_deferred = T::with_deferred(|deferred| deferred.take(self)).unwrap_or(false);
        if !is_deferred {
            // SAFETY: this pointer is counted and is not used again.
            unsafe { Self::decrement(self.block, 1) };
        }
    }
}

impl<T: Shared> Deref for BatchRef<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.block().value
    }
}

/// A shared value that hands out pointers whose counts it has taken in advance. Not `Sync`: its owner alone uses it.
pub(crate) struct BatchArc<T: Shared> {
    /// The block counts a pointer of this one's own, given back in `drop` together with those that nobody got.
    block: NonNull<Block<T>>,
    /// Pointers that the block counts and that nobody has yet.
    left: Cell<usize>,
}

// SAFETY: it stands for pointers of type `BatchRef`, its own and those that are left, and those are `Send`.
unsafe impl<T: Shared + Send + Sync> Send for BatchArc<T> {}

impl<T: Shared> BatchArc<T> {
    /// What one takes on the heap beside the value's own memory, in bytes.
    pub(crate) const BYTES: usize = size_of::<Block<T>>() + 2 * size_of::<usize>();

    pub(crate) fn new(value: T) -> Self {
        let may_linger = value.may_linger();
        let own = ManuallyDrop::new(BatchRef::with_count(1 + BATCH, value, may_linger));
        let Some(block) = NonNull::new(own.block) else { unreachable!("out of a `Box`") };
        Self { block, left: Cell::new(BATCH) }
    }

    /// Returns a pointer to the value.
    #[inline]
    pub(crate) fn get(&self) -> BatchRef<T> {
        let left = match self.left.get() {
            0 => self.take_batch(),
            left => left,
        };
        self.left.set(left - 1);
        // One of those that are counted and that nobody had: `left` was greater than 0 and is one less now.
        BatchRef { block: self.block.as_ptr() }
    }

    /// Takes [`BATCH`] counts.
    #[cold]
    #[inline(never)]
    fn take_batch(&self) -> usize {
        // SAFETY: the block counts a pointer of this one's own until `drop`.
        unsafe { self.block.as_ref() }.increment(BATCH);
        BATCH
    }

    /// Returns how many pointers the block counts, and how many nobody has yet.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn counts(&self) -> (usize, usize) {
        // SAFETY: as in `take_batch`.
        (unsafe { self.block.as_ref() }.count.load(Ordering::Relaxed), self.left.get())
    }
}

impl<T: Shared> Drop for BatchArc<T> {
    fn drop(&mut self) {
        // SAFETY: the block counts this one's own pointer and those that nobody got; none of them is used again.
        unsafe { BatchRef::decrement(self.block.as_ptr(), 1 + self.left.get()) };
    }
}

/// A [`BatchArc`] and a part of its value, found once. A second counted pointer to the part would cost a publish to a
/// name never seen 6 % more.
pub(crate) struct BatchArcWithPart<T: Shared, U> {
    /// In the value, or kept by it. Valid as long as `whole`.
    part: NonNull<U>,
    whole: BatchArc<T>,
}

// SAFETY: it stands for a `BatchArc`, which is `Send`, and for a reference to a `U`, which is `Sync`.
unsafe impl<T: Shared + Send + Sync, U: Sync> Send for BatchArcWithPart<T, U> {}

impl<T: Shared, U> BatchArcWithPart<T, U> {
    #[inline]
    pub(crate) fn new(whole: BatchArc<T>, part: impl FnOnce(&T) -> &U) -> Self {
        // SAFETY: the block counts this one's own pointer until `whole` is dropped.
        let value = unsafe { &whole.block.as_ref().value };
        Self { part: NonNull::from(part(value)), whole }
    }

    #[inline]
    pub(crate) fn whole(&self) -> &BatchArc<T> {
        &self.whole
    }

    #[inline]
    pub(crate) fn part(&self) -> &U {
        // SAFETY: `new` got it out of a reference to the value, whatever the lifetime of that. The value stays where it
        // is, and nobody has it exclusively, until its last pointer is gone: not before `whole`.
        unsafe { self.part.as_ref() }
    }
}

/// Pointers to one block that a thread has dropped and not given back yet.
///
/// Whoever reads a channel drops one pointer to the same block after the other. They are counted here, with no atomic
/// operation and without the block's count going from one reader's processor to the next's, until a pointer to
/// another such block is dropped, or the thread ends. The first in a row is given back at once: what comes once is
/// freed at once.
///
/// It has no `Drop` of its own, so that whoever drops a pointer need not ask whether this has been dropped.
pub(crate) struct DeferredDecrements<T> {
    /// The block of the pointer dropped last. It may have been freed if `pointers` is 0.
    block: Cell<*mut Block<T>>,
    /// Pointers that the block counts and that this owns.
    pointers: Cell<usize>,
}

impl<T: Shared> DeferredDecrements<T> {
    pub(crate) const fn new() -> Self {
        Self { block: Cell::new(ptr::null_mut()), pointers: Cell::new(0) }
    }

    /// Takes over a pointer that is being dropped and must not be used again. Returns `false` if it does not, and the
    /// pointer must be given back.
    #[inline]
    fn take(&self, pointer: &BatchRef<T>) -> bool {
        let block = pointer.block;
        if self.block.get() != block {
            if pointer.block().may_linger && T::flush_at_thread_end() {
                self.turn_to(block);
            }
            return false;
        }
        self.pointers.set(self.pointers.get() + 1);
        if self.pointers.get() == BATCH {
            // SAFETY: the block counts the pointers taken over, this one included, and they are not used again.
            unsafe { BatchRef::decrement(block, self.pointers.take()) };
        }
        true
    }

    /// Gives back the pointers, and takes over those to `block` from now on.
    #[inline(never)]
    fn turn_to(&self, block: *mut Block<T>) {
        let (before, pointers) = (self.block.replace(block), self.pointers.take());
        // This may free what drops other pointers: they find `self` in order.
        if pointers > 0 {
            // SAFETY: the block counts the pointers taken over, and they are not used again.
            unsafe { BatchRef::decrement(before, pointers) };
        }
    }

    /// Gives back the pointers, and takes over none until another is dropped.
    pub(crate) fn flush(&self) {
        self.turn_to(ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A value that tells whether it has been dropped, by the count of its `Arc`.
    struct Probe(Arc<()>);

    #[cfg(not(loom))]
    thread_local! {
        static DEFERRED: DeferredDecrements<Probe> = const { DeferredDecrements::new() };
    }
    #[cfg(loom)]
    loom::thread_local! {
        static DEFERRED: DeferredDecrements<Probe> = DeferredDecrements::new();
    }

    impl Shared for Probe {
        fn may_linger(&self) -> bool {
            true
        }

        fn with_deferred<R>(f: impl FnOnce(&DeferredDecrements<Self>) -> R) -> Option<R> {
            DEFERRED.try_with(f).ok()
        }

        #[cfg(not(loom))]
        fn flush_at_thread_end() -> bool {
            struct FlushAtEnd;

            impl Drop for FlushAtEnd {
                fn drop(&mut self) {
                    DEFERRED.with(DeferredDecrements::flush);
                }
            }

            thread_local! {
                static FLUSH_AT_END: FlushAtEnd = const { FlushAtEnd };
            }
            FLUSH_AT_END.try_with(|_| ()).is_ok()
        }

        /// The tests flush by themselves.
        #[cfg(loom)]
        fn flush_at_thread_end() -> bool {
            true
        }
    }

    fn probe(value: &Arc<()>) -> Probe {
        Probe(Arc::clone(value))
    }

    /// Has this thread give back what it has deferred.
    fn flush() {
        DEFERRED.with(DeferredDecrements::flush);
    }

    #[cfg(not(loom))]
    #[test]
    fn a_part_lives_as_long_as_the_whole() {
        let value = Arc::new(());
        let whole = BatchArc::new(probe(&value));
        let pointer = whole.get();
        let with_part = Box::new(BatchArcWithPart::new(whole, |probe| &probe.0));
        drop(pointer);
        assert!(Arc::ptr_eq(with_part.part(), &value) && Arc::strong_count(&value) == 2);
        assert!(Arc::ptr_eq(&with_part.whole().get().0, &value));
        drop(with_part);
        flush();
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[cfg(not(loom))]
    #[test]
    fn the_last_pointer_frees_the_value_whichever_it_is() {
        let value = Arc::new(());
        for batches in 0..3 {
            for owner_first in [false, true] {
                let owner = BatchArc::new(probe(&value));
                let pointers: Vec<_> = (0..batches * BATCH + 3).map(|_| owner.get()).collect();
                assert_eq!(Arc::strong_count(&value), 2);
                let copy = pointers[1].clone();
                assert!(Arc::ptr_eq(&copy.0, &value));
                if owner_first {
                    drop(owner);
                    assert_eq!(Arc::strong_count(&value), 2);
                    drop(pointers);
                } else {
                    drop(pointers);
                    drop(owner);
                }
                flush();
                assert_eq!(Arc::strong_count(&value), 2, "the copy has it still");
                drop(copy);
                assert_eq!(Arc::strong_count(&value), 1);
            }
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn pointers_may_go_on_any_thread() {
        let value = Arc::new(());
        for _ in 0..200 {
            let owner = BatchArc::new(probe(&value));
            let threads = [(); 4].map(|()| {
                let pointers: Vec<_> = (0..BATCH / 2).map(|_| owner.get()).collect();
                std::thread::spawn(move || {
                    let copies: Vec<_> = pointers.iter().take(9).cloned().collect();
                    drop(pointers);
                    assert!(copies.iter().all(|copy| Arc::strong_count(&copy.0) == 2));
                })
            });
            drop(owner);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn pointers_to_one_value_in_a_row_are_given_back_together() {
        let value = Arc::new(());
        let counted = |owner: &BatchArc<Probe>| owner.counts().0;
        let owner = BatchArc::new(probe(&value));
        let mut pointers: Vec<_> = (0..2 * BATCH).map(|_| owner.get()).collect();
        assert_eq!(counted(&owner), 1 + 2 * BATCH);
        pointers.pop();
        assert_eq!(counted(&owner), 2 * BATCH, "the first one at once");
        pointers.truncate(BATCH);
        assert_eq!(counted(&owner), 2 * BATCH, "the others not yet");
        pointers.pop();
        assert_eq!(counted(&owner), BATCH, "as many as are taken at once");
        pointers.truncate(7);
        drop(owner);
        drop(pointers);
        assert_eq!(Arc::strong_count(&value), 2, "the thread has deferred some");
        flush();
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[cfg(not(loom))]
    #[test]
    fn a_value_without_a_batch_does_not_linger_nor_displace_what_does() {
        let value = Arc::new(());
        let owner = BatchArc::new(probe(&value));
        let pointers: Vec<_> = (0..8).map(|_| owner.get()).collect();
        for pointer in pointers {
            let once = Arc::new(());
            let (one, other) = (BatchRef::new(probe(&once)), BatchRef::new(probe(&once)));
            drop((pointer, one.clone(), one, other));
            assert_eq!(Arc::strong_count(&once), 1);
        }
        assert!(owner.counts().0 >= BATCH, "all but the first are deferred");
        drop(owner);
        assert_eq!(Arc::strong_count(&value), 2);
        flush();
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[cfg(not(loom))]
    #[test]
    fn a_thread_that_ends_gives_back_what_it_has_deferred() {
        thread_local! {
            static LATE: Cell<Option<[BatchRef<Probe>; 3]>> = const { Cell::new(None) };
        }
        let value = Arc::new(());
        let owner = BatchArc::new(probe(&value));
        let three = || [owner.get(), owner.get(), owner.get()];
        for late_first in [true, false] {
            let (early, late) = (three(), three());
            let thread = std::thread::spawn(move || {
                // What is used first is destroyed last: in one of the two cases nothing can be deferred any more.
                if late_first {
                    LATE.set(Some(late));
                    drop(early);
                } else {
                    drop(early);
                    LATE.set(Some(late));
                }
            });
            thread.join().unwrap();
            let (counted, left) = owner.counts();
            assert_eq!(counted, 1 + left);
        }
        drop(owner);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    /// `RUSTFLAGS="--cfg loom" cargo test --release --lib batch_arc`
    #[cfg(loom)]
    #[test]
    fn no_interleaving_frees_twice_or_leaks() {
        loom::model(|| {
            let value = Arc::new(());
            let owner = BatchArc::new(probe(&value));
            let (one, other) = (owner.get(), owner.get());
            let threads = [
                loom::thread::spawn(move || {
                    assert!(Arc::strong_count(&one.0) >= 2);
                    drop(one);
                    flush();
                }),
                loom::thread::spawn(move || {
                    let copy = other.clone();
                    drop(other);
                    assert!(Arc::strong_count(&copy.0) >= 2);
                    drop(copy);
                    flush();
                }),
            ];
            drop(owner);
            for thread in threads {
                thread.join().unwrap();
            }
            flush();
            assert_eq!(Arc::strong_count(&value), 1);
        });
    }

    /// As above.
    #[cfg(loom)]
    #[test]
    fn no_interleaving_frees_what_is_deferred() {
        loom::model(|| {
            let value = Arc::new(());
            let owner = BatchArc::new(probe(&value));
            let threads = [[owner.get(), owner.get()], [owner.get(), owner.get()]].map(|pair| {
                loom::thread::spawn(move || {
                    let [first, second] = pair;
                    drop(first);
                    assert!(Arc::strong_count(&second.0) >= 2);
                    drop(second);
                    flush();
                })
            });
            drop(owner);
            for thread in threads {
                thread.join().unwrap();
            }
            flush();
            assert_eq!(Arc::strong_count(&value), 1);
        });
    }
}
