//! Where a message came from, and a counted pointer to it whose counting costs a publish next to nothing.
//!
//! Every message points to its channel's name and its pattern's. With an `Arc` for that, each delivery
//! would pay an atomic increment, 5.5 of the 15 ns that a bare crossbeam channel takes for all of it. But
//! increments can be paid for in advance: the route of a channel, which one publish at a time works on,
//! takes [`BATCH`] references at once and hands them out one by one, with no atomic operation at all
//! ([`Prepaid`]). What it has not handed out it gives back when it goes.
//!
//! This is the one module with unsafe code. It owns the block that the pointers share, and nothing else
//! reaches it.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::abort;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::sync::{AtomicUsize, Ordering, fence};

/// The channel of a message, and the pattern that it came by.
pub(crate) struct Source {
    pub(crate) channel: Arc<str>,
    /// What the text of the pattern is asked of: the pattern's entry on the bus, whose counter a route
    /// touches anyway. The text's own counter would be one more cache miss for each pattern that matches.
    pub(crate) pattern: Option<Arc<dyn Named>>,
}

/// Something that has a pattern's text.
pub(crate) trait Named: Send + Sync + UnwindSafe + RefUnwindSafe {
    fn text(&self) -> &Arc<str>;
}

impl Named for Arc<str> {
    fn text(&self) -> &Arc<str> {
        self
    }
}

impl Source {
    /// The text of the pattern.
    pub(crate) fn pattern(&self) -> Option<&Arc<str>> {
        self.pattern.as_ref().map(|pattern| pattern.text())
    }
}

/// References that a route takes at once.
const BATCH: usize = 1024;

/// More references than this can only come of leaking them; one step below where the count would wrap.
const MOST: usize = isize::MAX as usize;

/// What the pointers share.
struct Block {
    /// Pointers to this block, those paid for in advance included. The last one to go frees it.
    count: AtomicUsize,
    source: Source,
}

/// A counted pointer to a [`Source`]; equal and hashed by what it points to.
pub(crate) struct SourceRef {
    /// Made by `Box::into_raw`. It is valid as long as this pointer exists, which is counted in it.
    block: NonNull<Block>,
}

// SAFETY: a `SourceRef` gives shared access to a `Source`, which is `Send + Sync`, and to the count, which is
// atomic. Whichever thread drops the last one drops the `Source`, which is `Send`; the orderings in `Drop`
// put that after every other thread's use.
unsafe impl Send for SourceRef {}
// SAFETY: as above; `&SourceRef` gives nothing that a clone of it would not.
unsafe impl Sync for SourceRef {}

impl SourceRef {
    pub(crate) fn new(source: Source) -> Self {
        Self::counting(1, source)
    }

    /// A pointer to a block that counts so many, of which the caller owns the others.
    fn counting(pointers: usize, source: Source) -> Self {
        let block = Box::new(Block { count: AtomicUsize::new(pointers), source });
        Self { block: NonNull::from(Box::leak(block)) }
    }

    fn block(&self) -> &Block {
        // SAFETY: `self` is counted, so the block has not been freed, and cannot be while `self` is borrowed.
        // Nobody has a mutable reference to it: it is only ever reached through here, until it is freed.
        unsafe { self.block.as_ref() }
    }

    /// Counts so many pointers more, which the caller then owns.
    fn count_more(&self, pointers: usize) {
        // Relaxed: a new pointer comes of one that exists, so that no thread can free the block meanwhile,
        // and whatever hands the new one to another thread makes the block visible to it.
        if self.block().count.fetch_add(pointers, Ordering::Relaxed) > MOST {
            abort();
        }
    }
}

impl Clone for SourceRef {
    fn clone(&self) -> Self {
        self.count_more(1);
        Self { block: self.block }
    }
}

impl Drop for SourceRef {
    #[inline]
    fn drop(&mut self) {
        self.count_less(1);
    }
}

impl SourceRef {
    /// Gives up so many pointers, this one among them: it must not be used again.
    #[inline]
    fn count_less(&mut self, pointers: usize) {
        // Release: partner of the fence in `free`. What this thread did with the block comes before it is
        // freed.
        if self.block().count.fetch_sub(pointers, Ordering::Release) == pointers {
            self.free();
        }
    }

    #[cold]
    fn free(&mut self) {
        // Acquire: partner of the Releases in `count_less`, of whose decrements this thread's was the last.
        fence(Ordering::Acquire);
        // SAFETY: the count has come to 0, so that `self`, which is being dropped, is the only pointer left,
        // and no other can be made. The block came out of a `Box` in `new`.
        drop(unsafe { Box::from_raw(self.block.as_ptr()) });
    }
}

impl Deref for SourceRef {
    type Target = Source;

    #[inline]
    fn deref(&self) -> &Source {
        &self.block().source
    }
}

impl PartialEq for SourceRef {
    fn eq(&self, other: &Self) -> bool {
        (&self.channel, self.pattern()) == (&other.channel, other.pattern())
    }
}

impl Eq for SourceRef {}

impl Hash for SourceRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.channel, self.pattern()).hash(state);
    }
}

/// A source that hands out pointers paid for in advance. Its owner alone uses it: it is not `Sync`.
pub(crate) struct Prepaid {
    /// Given up in `drop`, together with those that nobody got.
    own: ManuallyDrop<SourceRef>,
    /// Pointers that are counted in the block and that nobody has yet.
    left: Cell<usize>,
}

impl Prepaid {
    pub(crate) fn new(source: Source) -> Self {
        let own = ManuallyDrop::new(SourceRef::counting(1 + BATCH, source));
        Self { own, left: Cell::new(BATCH) }
    }

    /// A pointer to the source.
    #[inline]
    pub(crate) fn get(&self) -> SourceRef {
        let left = match self.left.get() {
            0 => {
                self.own.count_more(BATCH);
                BATCH
            }
            left => left,
        };
        self.left.set(left - 1);
        // One of those that are counted and that nobody had: `left` was greater than 0 and is one less now.
        SourceRef { block: self.own.block }
    }
}

impl From<SourceRef> for Prepaid {
    fn from(own: SourceRef) -> Self {
        Self { own: ManuallyDrop::new(own), left: Cell::new(0) }
    }
}

impl Drop for Prepaid {
    fn drop(&mut self) {
        // Its own pointer and those that nobody got, by one operation; `own` is not dropped after this.
        let pointers = 1 + self.left.get();
        self.own.count_less(pointers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(channel: &Arc<str>) -> Source {
        Source { channel: Arc::clone(channel), pattern: None }
    }

    #[cfg(not(loom))]
    #[test]
    fn the_last_pointer_frees_the_source_whichever_it_is() {
        let name: Arc<str> = Arc::from("channel");
        for batches in 0..3 {
            for owner_first in [false, true] {
                let owner = Prepaid::new(source(&name));
                let pointers: Vec<_> = (0..batches * BATCH + 3).map(|_| owner.get()).collect();
                assert_eq!(Arc::strong_count(&name), 2);
                let copy = pointers[1].clone();
                assert!(copy == pointers[0] && *copy.channel == *"channel");
                if owner_first {
                    drop(owner);
                    assert_eq!(Arc::strong_count(&name), 2);
                    drop(pointers);
                } else {
                    drop(pointers);
                    drop(owner);
                }
                assert_eq!(Arc::strong_count(&name), 2, "the copy has it still");
                drop(copy);
                assert_eq!(Arc::strong_count(&name), 1);
            }
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn pointers_may_go_on_any_thread() {
        let name: Arc<str> = Arc::from("channel");
        for _ in 0..200 {
            let owner = Prepaid::new(source(&name));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let pointers: Vec<_> = (0..BATCH / 2).map(|_| owner.get()).collect();
                    scope.spawn(move || {
                        let copies: Vec<_> = pointers.iter().take(9).cloned().collect();
                        drop(pointers);
                        assert!(copies.iter().all(|copy| *copy.channel == *"channel"));
                    });
                }
                drop(owner);
            });
            assert_eq!(Arc::strong_count(&name), 1);
        }
    }

    /// `RUSTFLAGS="--cfg loom" cargo test --release --lib source`
    #[cfg(loom)]
    #[test]
    fn no_interleaving_frees_twice_or_leaks() {
        loom::model(|| {
            let name: Arc<str> = Arc::from("channel");
            let owner = Prepaid::new(source(&name));
            let (one, other) = (owner.get(), owner.get());
            let threads = [
                loom::thread::spawn(move || assert_eq!(&*one.channel, "channel")),
                loom::thread::spawn(move || {
                    let copy = other.clone();
                    drop(other);
                    assert_eq!(&*copy.channel, "channel");
                }),
            ];
            drop(owner);
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(Arc::strong_count(&name), 1);
        });
    }
}
