//! Where a message came from, and a counted pointer to it whose counting costs a publish next to nothing.
//!
//! Every message points to its channel's name and its pattern's. With an `Arc` for that, each delivery
//! would pay an atomic increment, 5.5 of the 15 ns that a bare crossbeam channel takes for all of it. But
//! increments can be paid for in advance: the route of a channel, which one publish at a time works on,
//! takes [`BATCH`] references at once and hands them out one by one, with no atomic operation at all
//! ([`Prepaid`]). What it has not handed out it gives back when it goes. Nor does each message that is dropped pay: a
//! thread that drops one after the other of the same channel gives their pointers up together ([`Returned`]).
//!
//! But for a hint to the processor, all unsafe code is in this module. It owns the block that the pointers share,
//! and nothing else reaches it.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::abort;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::pattern::Pattern;
use crate::prefetch::prefetch;
use crate::small_str::Inline;
use crate::sync::{AtomicUsize, Ordering, fence};

/// A short text, kept in place.
#[derive(Clone, Copy)]
pub(crate) struct Label(Inline<{ Self::ROOM }>);

impl Label {
    /// The longest text, in bytes. With this, a [`Text`] takes four words.
    pub(crate) const ROOM: usize = 30;

    /// A copy of `text`, if it is short.
    #[inline]
    pub(crate) fn new(text: &str) -> Option<Self> {
        Inline::new(text.as_bytes()).map(Self)
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        // SAFETY: the bytes are all those of a `str`: `new` alone makes a label, and nothing writes to one.
        unsafe { std::str::from_utf8_unchecked(self.as_bytes()) }
    }
}

/// A channel's name.
#[derive(Clone)]
pub(crate) enum Text {
    Short(Label),
    Shared(Arc<str>),
}

impl Text {
    /// A copy of `text`; shared where it is not short.
    #[inline]
    pub(crate) fn new(text: &str) -> Self {
        match Label::new(text) {
            Some(label) => Self::Short(label),
            None => Self::Shared(Arc::from(text)),
        }
    }

    #[inline]
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Short(label) => label.as_str(),
            Self::Shared(text) => text,
        }
    }

    /// The text, shared: a copy of it where it is not yet.
    pub(crate) fn to_shared(&self) -> Arc<str> {
        match self {
            Self::Short(label) => Arc::from(label.as_str()),
            Self::Shared(text) => Arc::clone(text),
        }
    }
}

/// The channel of a message, and the pattern that it came by.
pub(crate) struct Source {
    /// In place where it is short and no subscriber has it: of names that come once and never again, each would
    /// otherwise be an allocation, and one more cache miss for who reads it.
    channel: Text,
    /// What the pattern is asked of: the pattern's entry on the bus, whose counter a route touches anyway.
    /// The pattern's own counter would be one more cache miss for each pattern that matches.
    pattern: Option<Arc<dyn Named>>,
}

/// Something that has a pattern.
pub(crate) trait Named: Send + Sync + UnwindSafe + RefUnwindSafe {
    fn pattern(&self) -> &Pattern;

    /// The pattern's text.
    fn text(&self) -> &Arc<str> {
        self.pattern().text()
    }
}

impl Named for Pattern {
    fn pattern(&self) -> &Pattern {
        self
    }
}

impl Source {
    #[inline]
    pub(crate) fn new(channel: Text, pattern: Option<Arc<dyn Named>>) -> Self {
        Self { channel, pattern }
    }

    /// The channel's name.
    #[inline]
    pub(crate) fn channel(&self) -> &Text {
        &self.channel
    }

    /// Whether the message came by a pattern.
    #[inline]
    pub(crate) fn has_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// Whether its texts are short enough to be kept a little longer than they are needed.
    fn is_small(&self) -> bool {
        let pattern = self.pattern_text().map_or(0, |text| text.len());
        self.channel.as_str().len() + pattern <= SMALL
    }

    /// The pattern.
    pub(crate) fn pattern(&self) -> Option<&Pattern> {
        self.pattern.as_ref().map(|named| named.pattern())
    }

    /// The text of the pattern.
    pub(crate) fn pattern_text(&self) -> Option<&Arc<str>> {
        self.pattern.as_ref().map(|named| named.text())
    }
}

/// The longest texts of a source that a thread keeps, in bytes.
const SMALL: usize = 512;

/// References that a route takes at once.
const BATCH: usize = 1024;

/// More references than this can only come of leaking them; one step below where the count would wrap.
const MOST: usize = isize::MAX as usize;

/// What the pointers share.
struct Block {
    /// Pointers to this block, those paid for in advance included. The last one to go frees it.
    count: AtomicUsize,
    source: Source,
    /// Whether many messages may point to it before it is gone, or given to another source; and whether that is small,
    /// so that a thread may keep it for a while.
    lasting: bool,
}

/// A counted pointer to a [`Source`]; equal and hashed by what it points to.
pub(crate) struct SourceRef {
    /// Out of a `Box`, and not null. It is valid as long as this pointer exists, which is counted in it.
    ///
    /// No `NonNull`, so that there is no value that this cannot have: see [`Message`](crate::Message).
    block: *mut Block,
}

// SAFETY: a `SourceRef` gives shared access to a `Source`, which is `Send + Sync`, and to the count, which is
// atomic. Whichever thread drops the last one drops the `Source`, which is `Send`; the orderings in `Drop`
// put that after every other thread's use.
unsafe impl Send for SourceRef {}
// SAFETY: as above; `&SourceRef` gives nothing that a clone of it would not.
unsafe impl Sync for SourceRef {}

impl SourceRef {
    pub(crate) fn new(source: Source) -> Self {
        Self::counting(1, source, false)
    }

    /// A pointer to a block that counts so many, of which the caller owns the others.
    fn counting(pointers: usize, source: Source, lasting: bool) -> Self {
        let lasting = lasting && source.is_small();
        let block = Box::new(Block { count: AtomicUsize::new(pointers), source, lasting });
        Self { block: Box::into_raw(block) }
    }

    fn block(&self) -> &Block {
        // SAFETY: `self` is counted, so the block has not been freed, and cannot be while `self` is borrowed.
        // The one place that writes to it, `Prepaid::get_mut`, has made sure that no other pointer exists.
        unsafe { &*self.block }
    }
}

impl Block {
    /// Counts so many pointers more, which the caller then owns.
    fn count_more(&self, pointers: usize) {
        // Relaxed: a new pointer comes of one that exists, so that no thread can free the block meanwhile,
        // and whatever hands the new one to another thread makes the block visible to it.
        if self.count.fetch_add(pointers, Ordering::Relaxed) > MOST {
            abort();
        }
    }
}

impl Clone for SourceRef {
    fn clone(&self) -> Self {
        self.block().count_more(1);
        Self { block: self.block }
    }
}

impl Drop for SourceRef {
    #[inline]
    fn drop(&mut self) {
        if !RETURNED.try_with(|returned| returned.take(self)).unwrap_or(false) {
            self.count_less(1);
        }
    }
}

/// Gives up so many pointers that are counted in `block`, and that the caller owns.
#[inline]
fn give_up(block: *mut Block, pointers: usize) {
    ManuallyDrop::new(SourceRef { block }).count_less(pointers);
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
        // and no other can be made. The block came out of a `Box` in `counting`.
        drop(unsafe { Box::from_raw(self.block) });
    }
}

#[cfg(not(loom))]
thread_local! {
    static RETURNED: Returned = const { Returned::new() };
    static AT_END: AtEnd = const { AtEnd };
}
#[cfg(loom)]
loom::thread_local! {
    static RETURNED: Returned = Returned::new();
    static AT_END: AtEnd = AtEnd;
}

/// Pointers to one block that a thread has dropped and not yet given up.
///
/// Whoever reads a channel drops one pointer to the same block after the other. They are counted here, with no atomic
/// operation and without the block's count going from one reader's processor to the next's, until a pointer to
/// another such block is dropped, or the thread ends. The first in a row is not kept: what comes once is freed
/// at once.
struct Returned {
    /// That of the pointer that was dropped last, of those that last. It may have been freed if `pointers` is 0.
    block: Cell<*mut Block>,
    /// How many are counted in the block.
    pointers: Cell<usize>,
}

impl Returned {
    const fn new() -> Self {
        Self { block: Cell::new(ptr::null_mut()), pointers: Cell::new(0) }
    }

    /// Takes a pointer over that is being dropped, and must not be used again; or not, and then it is to be given up.
    #[inline]
    fn take(&self, pointer: &SourceRef) -> bool {
        let block = pointer.block;
        if self.block.get() != block {
            if pointer.block().lasting {
                self.turn_to(block);
            }
            return false;
        }
        self.pointers.set(self.pointers.get() + 1);
        if self.pointers.get() == BATCH {
            give_up(block, self.pointers.take());
        }
        true
    }

    #[inline(never)]
    fn turn_to(&self, block: *mut Block) {
        // A thread that is at its end keeps nothing.
        let block = AT_END.try_with(|_| block).unwrap_or(ptr::null_mut());
        let (before, pointers) = (self.block.replace(block), self.pointers.take());
        // It may free what drops others: they find this in order.
        if pointers > 0 {
            give_up(before, pointers);
        }
    }
}

/// Dropped when a thread ends. Apart from what is kept, so that nobody asks whether that is there still.
struct AtEnd;

// A thread of loom's has none of its locals left when they are dropped: the tests there see to it themselves.
#[cfg(not(loom))]
impl Drop for AtEnd {
    fn drop(&mut self) {
        // Where it is gone already, nothing was kept since.
        _ = RETURNED.try_with(|returned| returned.turn_to(ptr::null_mut()));
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
        (self.channel.as_str(), self.pattern()) == (other.channel.as_str(), other.pattern())
    }
}

impl Eq for SourceRef {}

impl Hash for SourceRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.channel.as_str(), self.pattern()).hash(state);
    }
}

/// A source that hands out pointers paid for in advance. Its owner alone uses it: it is not `Sync`.
pub(crate) struct Prepaid {
    /// A pointer of its own, given up in `drop` together with those that nobody got.
    own: NonNull<Block>,
    /// Pointers that are counted in the block and that nobody has yet.
    left: Cell<usize>,
}

// SAFETY: it stands for pointers of type `SourceRef`, its own and those that are left, and those are `Send`.
unsafe impl Send for Prepaid {}

impl Prepaid {
    pub(crate) fn new(source: Source) -> Self {
        Self::lasting(source, true)
    }

    fn lasting(source: Source, lasting: bool) -> Self {
        Self::with(SourceRef::counting(1 + BATCH, source, lasting), BATCH)
    }

    /// Makes `own` its own pointer, in whose block so many others are counted that nobody has.
    fn with(own: SourceRef, left: usize) -> Self {
        let Some(own) = NonNull::new(ManuallyDrop::new(own).block) else {
            unreachable!("it points to a block")
        };
        Self { own, left: Cell::new(left) }
    }

    fn block(&self) -> &Block {
        // SAFETY: the block counts a pointer of this one's own until `drop`. As in `SourceRef::block`.
        unsafe { self.own.as_ref() }
    }

    /// A pointer to the source.
    #[inline]
    pub(crate) fn get(&self) -> SourceRef {
        let left = match self.left.get() {
            0 => {
                self.block().count_more(BATCH);
                BATCH
            }
            left => left,
        };
        self.left.set(left - 1);
        // One of those that are counted and that nobody had: `left` was greater than 0 and is one less now.
        SourceRef { block: self.own.as_ptr() }
    }
}

impl Prepaid {
    /// What one takes on the heap, in bytes.
    pub(crate) const BYTES: usize = size_of::<Block>() + 2 * size_of::<usize>();

    /// One that is nobody's yet, to be replaced.
    pub(crate) fn blank() -> Self {
        Self::new(Source::new(Text::new(""), None))
    }

    /// The block, to be written to; `None` where messages point to it.
    fn get_mut(&mut self) -> Option<&mut Block> {
        // Acquire: partner of the Releases in `count_less`. What others did with the block, whose pointers are
        // all gone, comes before it is written to.
        if self.block().count.load(Ordering::Acquire) != 1 + self.left.get() {
            return None;
        }
        // SAFETY: all pointers that the block counts are this one's own and those that it has not handed out,
        // so no other exists, and none can be made of one: `self` is borrowed exclusively.
        Some(unsafe { self.own.as_mut() })
    }

    /// Puts `source` in the place of the one that it has, which comes back; where messages point to that still,
    /// nothing changes and `source` comes back.
    pub(crate) fn replace(&mut self, source: Source) -> Result<Source, Source> {
        match self.get_mut() {
            Some(block) => {
                // One that was once too large is not kept any more.
                block.lasting = block.lasting && source.is_small();
                Ok(mem::replace(&mut block.source, source))
            }
            None => Err(source),
        }
    }
}

impl From<SourceRef> for Prepaid {
    fn from(own: SourceRef) -> Self {
        Self::with(own, 0)
    }
}

impl Drop for Prepaid {
    fn drop(&mut self) {
        // Its own pointer and those that nobody got, by one operation.
        give_up(self.own.as_ptr(), 1 + self.left.get());
    }
}

/// The prepaid source of messages that came by a pattern, and the way to what that pattern stands for.
///
/// The source owns the pattern: a second `Arc` of it would cost each route two more atomic operations.
pub(crate) struct PatternSource<T> {
    prepaid: Prepaid,
    /// Points into the `Arc` that the source of `prepaid` owns.
    pattern: NonNull<T>,
}

// SAFETY: what is here beside the `Prepaid` gives shared access to a `T` alone.
unsafe impl<T: Send + Sync> Send for PatternSource<T> {}

impl<T: Named + 'static> PatternSource<T> {
    pub(crate) fn new(channel: Text, pattern: Arc<T>) -> Self {
        Self::lasting(channel, pattern, true)
    }

    /// One that is to be of another channel very soon.
    pub(crate) fn passing(channel: Text, pattern: Arc<T>) -> Self {
        Self::lasting(channel, pattern, false)
    }

    fn lasting(channel: Text, pattern: Arc<T>, lasting: bool) -> Self {
        let at = NonNull::from(&*pattern);
        let prepaid = Prepaid::lasting(Source::new(channel, Some(pattern)), lasting);
        Self { prepaid, pattern: at }
    }

    /// The same, made of `blank`, with no allocation if no message points to that.
    pub(crate) fn of(mut blank: Prepaid, channel: Text, pattern: Arc<T>) -> Self {
        let at = NonNull::from(&*pattern);
        if let Err(source) = blank.replace(Source::new(channel, Some(pattern))) {
            blank = Prepaid::new(source);
        }
        Self { prepaid: blank, pattern: at }
    }

    /// Makes it the source of another channel and pattern, where possible with no allocation. What it had
    /// comes back, to be dropped.
    pub(crate) fn renew(&mut self, channel: Text, pattern: Arc<T>) -> Renewed {
        let at = NonNull::from(&*pattern);
        let before = match self.prepaid.replace(Source::new(channel, Some(pattern))) {
            Ok(before) => Renewed::InPlace(before),
            Err(source) => {
                let anew = Prepaid::lasting(source, self.prepaid.block().lasting);
                Renewed::Anew(mem::replace(&mut self.prepaid, anew))
            }
        };
        self.pattern = at;
        before
    }
}

impl<T> PatternSource<T> {
    /// Has what `renew` is going to touch brought into the cache.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.prepaid.own.as_ptr());
        // The counter of the `Arc`, in front of what it has.
        prefetch(self.pattern.as_ptr().cast::<usize>().wrapping_sub(2));
    }

    /// What the messages point to.
    #[inline]
    pub(crate) fn prepaid(&self) -> &Prepaid {
        &self.prepaid
    }

    /// What the pattern stands for.
    #[inline]
    pub(crate) fn pattern(&self) -> &T {
        // SAFETY: the source of `prepaid` owns an `Arc` of this, and is replaced together with the pointer, for
        // which `self` must be borrowed exclusively.
        unsafe { self.pattern.as_ref() }
    }
}

impl<T> PatternSource<T> {
    /// A pointer to the source for a message, and the pattern.
    #[inline]
    pub(crate) fn hand_out(&self) -> Handed<T> {
        let kept = Kept { _own: self.prepaid.get(), pattern: self.pattern };
        Handed { source: self.prepaid.get(), pattern: kept }
    }
}

/// What a publish needs that has no route.
pub(crate) struct Handed<T> {
    /// What the message points to.
    pub(crate) source: SourceRef,
    pub(crate) pattern: Kept<T>,
}

/// A pattern, kept by a pointer to a source that owns it.
pub(crate) struct Kept<T> {
    /// While this is there, the source is not replaced: see `Prepaid::get_mut`.
    _own: SourceRef,
    /// Points into the `Arc` that the source owns.
    pattern: NonNull<T>,
}

impl<T> Deref for Kept<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: when this was made, the source that `_own` points to owned an `Arc` of the pattern. It does still:
        // it is written to only where no other pointer to it exists than its owner's, and `_own` is one.
        unsafe { self.pattern.as_ref() }
    }
}

/// What a [`PatternSource`] had before, there only to be dropped.
#[expect(dead_code, reason = "dropping is all that is done with them")]
pub(crate) enum Renewed {
    InPlace(Source),
    Anew(Prepaid),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(channel: &Arc<str>) -> Source {
        Source::new(Text::Shared(Arc::clone(channel)), None)
    }

    /// Has this thread give up what it keeps.
    fn turn_to_another() {
        drop(Prepaid::new(Source::new(Text::new("another"), None)).get());
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
                assert!(copy == pointers[0] && copy.channel().as_str() == "channel");
                if owner_first {
                    drop(owner);
                    assert_eq!(Arc::strong_count(&name), 2);
                    drop(pointers);
                } else {
                    drop(pointers);
                    drop(owner);
                }
                turn_to_another();
                assert_eq!(Arc::strong_count(&name), 2, "the copy has it still");
                drop(copy);
                assert_eq!(Arc::strong_count(&name), 1);
            }
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn a_source_is_replaced_unless_someone_points_to_it() {
        let (name, other): (Arc<str>, Arc<str>) = (Arc::from("channel"), Arc::from("other"));
        let mut owner = Prepaid::new(source(&name));
        let pointer = owner.get();
        assert!(owner.replace(source(&other)).is_err());
        drop(pointer);
        let before = owner.replace(source(&other)).ok().expect("nobody points to it");
        assert_eq!(before.channel().as_str(), &*name);
        let pointers: Vec<_> = (0..2 * BATCH).map(|_| owner.get()).collect();
        assert!(pointers.iter().all(|pointer| pointer.channel().as_str() == "other"));
        drop((owner, pointers, before));
        assert_eq!((Arc::strong_count(&name), Arc::strong_count(&other)), (1, 1));
    }

    #[cfg(not(loom))]
    #[test]
    fn the_source_of_a_pattern_owns_it_and_leads_to_it() {
        let channel: Arc<str> = Arc::from("channel");
        let patterns = ["a*", "b*", "c*"].map(|text| Arc::new(Pattern::redis(text)));
        let mut source =
            PatternSource::new(Text::Shared(Arc::clone(&channel)), Arc::clone(&patterns[0]));
        let pointer = source.prepaid().get();
        assert!(matches!(
            source.renew(Text::Shared(Arc::clone(&channel)), Arc::clone(&patterns[1])),
            Renewed::Anew(_)
        ));
        assert_eq!(pointer.pattern().unwrap().as_str(), "a*");
        assert!(matches!(
            source.renew(Text::Shared(Arc::clone(&channel)), Arc::clone(&patterns[2])),
            Renewed::InPlace(_)
        ));
        assert!(std::ptr::eq(source.pattern(), &*patterns[2]));
        assert_eq!(&**source.prepaid().get().pattern_text().unwrap(), "c*");
        drop((source, pointer));
        assert!(patterns.iter().all(|pattern| Arc::strong_count(pattern) == 1));
        assert_eq!(Arc::strong_count(&channel), 1);
    }

    #[cfg(not(loom))]
    #[test]
    fn what_was_handed_out_keeps_the_pattern() {
        let patterns = ["a*", "b*", "c*"].map(|text| Arc::new(Pattern::redis(text)));
        let text = || Text::new("channel");
        let mut source = PatternSource::passing(text(), Arc::clone(&patterns[0]));
        let Handed { source: message, pattern } = source.hand_out();
        // The message may be gone long before the publish is done with the pattern.
        drop(message);
        assert!(matches!(source.renew(text(), Arc::clone(&patterns[1])), Renewed::Anew(_)));
        assert!(std::ptr::eq(&*pattern, &*patterns[0]));
        assert_eq!(Arc::strong_count(&patterns[0]), 2);
        drop(pattern);
        assert_eq!(Arc::strong_count(&patterns[0]), 1);
        let Handed { source: message, pattern } = source.hand_out();
        drop(pattern);
        assert!(matches!(source.renew(text(), Arc::clone(&patterns[2])), Renewed::Anew(_)));
        assert_eq!(message.pattern().unwrap().as_str(), "b*");
        drop((message, source));
        assert!(patterns.iter().all(|pattern| Arc::strong_count(pattern) == 1));
        let pointed_to = Prepaid::blank();
        let message = pointed_to.get();
        let source = PatternSource::of(pointed_to, text(), Arc::clone(&patterns[0]));
        assert_eq!((message.channel().as_str(), message.pattern_text()), ("", None));
        assert_eq!(source.prepaid().get().channel().as_str(), "channel");
    }

    #[cfg(not(loom))]
    #[test]
    fn a_text_is_what_it_was_made_of() {
        for text in ["", "a", "héllo", &"é".repeat(15), &"é".repeat(16), &"x".repeat(31)] {
            let made = Text::new(text);
            assert_eq!((made.as_str(), &*made.to_shared()), (text, text));
            assert_eq!(matches!(made, Text::Short(_)), text.len() <= 30, "{text}");
            assert_eq!(made.clone().as_str(), text);
        }
        assert_eq!(size_of::<Text>(), 32);
    }

    #[cfg(not(loom))]
    #[test]
    fn pointers_may_go_on_any_thread() {
        let name: Arc<str> = Arc::from("channel");
        for _ in 0..200 {
            let owner = Prepaid::new(source(&name));
            let threads = [(); 4].map(|()| {
                let pointers: Vec<_> = (0..BATCH / 2).map(|_| owner.get()).collect();
                std::thread::spawn(move || {
                    let copies: Vec<_> = pointers.iter().take(9).cloned().collect();
                    drop(pointers);
                    assert!(copies.iter().all(|copy| copy.channel().as_str() == "channel"));
                })
            });
            drop(owner);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(Arc::strong_count(&name), 1);
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn pointers_to_one_source_in_a_row_are_given_up_together() {
        let name: Arc<str> = Arc::from("channel");
        let counted = |owner: &Prepaid| owner.block().count.load(Ordering::Relaxed);
        let owner = Prepaid::new(source(&name));
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
        assert_eq!(Arc::strong_count(&name), 2, "the thread keeps some");
        turn_to_another();
        assert_eq!(Arc::strong_count(&name), 1);
        // Those of names that come once are not kept, and do not drive out the others.
        let owner = Prepaid::new(source(&name));
        let pointers: Vec<_> = (0..8).map(|_| owner.get()).collect();
        for pointer in pointers {
            let once: Arc<str> = Arc::from("once");
            let (one, other) = (SourceRef::new(source(&once)), SourceRef::new(source(&once)));
            drop((pointer, one.clone(), one, other));
            assert_eq!(Arc::strong_count(&once), 1);
        }
        // (Its block may lie where the other's lay. Then the first one is kept, too.)
        assert!(counted(&owner) >= BATCH, "all but the first");
        drop(owner);
        assert_eq!(Arc::strong_count(&name), 2);
        turn_to_another();
        assert_eq!(Arc::strong_count(&name), 1);
    }

    #[cfg(not(loom))]
    #[test]
    fn a_thread_that_ends_gives_up_what_it_keeps() {
        thread_local! {
            static LATE: Cell<Option<[SourceRef; 3]>> = const { Cell::new(None) };
        }
        let name: Arc<str> = Arc::from("channel");
        let owner = Prepaid::new(source(&name));
        let three = || [owner.get(), owner.get(), owner.get()];
        for late_first in [true, false] {
            let (early, late) = (three(), three());
            let thread = std::thread::spawn(move || {
                // What is used first is destroyed last: in one of the two cases nothing can be kept any more.
                if late_first {
                    LATE.set(Some(late));
                    drop(early);
                } else {
                    drop(early);
                    LATE.set(Some(late));
                }
            });
            thread.join().unwrap();
            assert_eq!(owner.block().count.load(Ordering::Relaxed), 1 + owner.left.get());
        }
        drop(owner);
        assert_eq!(Arc::strong_count(&name), 1);
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
                loom::thread::spawn(move || {
                    assert_eq!(one.channel().as_str(), "channel");
                    drop(one);
                    turn_to_another();
                }),
                loom::thread::spawn(move || {
                    let copy = other.clone();
                    drop(other);
                    assert_eq!(copy.channel().as_str(), "channel");
                    drop(copy);
                    turn_to_another();
                }),
            ];
            drop(owner);
            for thread in threads {
                thread.join().unwrap();
            }
            turn_to_another();
            assert_eq!(Arc::strong_count(&name), 1);
        });
    }

    /// As above.
    #[cfg(loom)]
    #[test]
    fn no_interleaving_frees_what_is_kept() {
        loom::model(|| {
            let name: Arc<str> = Arc::from("channel");
            let owner = Prepaid::new(source(&name));
            let threads = [[owner.get(), owner.get()], [owner.get(), owner.get()]].map(|pair| {
                loom::thread::spawn(move || {
                    let [first, second] = pair;
                    drop(first);
                    assert_eq!(second.channel().as_str(), "channel");
                    drop(second);
                    turn_to_another();
                })
            });
            drop(owner);
            for thread in threads {
                thread.join().unwrap();
            }
            turn_to_another();
            assert_eq!(Arc::strong_count(&name), 1);
        });
    }

    /// As above.
    #[cfg(loom)]
    #[test]
    fn no_interleaving_replaces_what_is_pointed_to() {
        loom::model(|| {
            let (name, other): (Arc<str>, Arc<str>) = (Arc::from("channel"), Arc::from("other"));
            let mut owner = Prepaid::new(source(&name));
            let pointer = owner.get();
            let reader = loom::thread::spawn(move || {
                let copy = pointer.clone();
                drop(pointer);
                assert_eq!(copy.channel().as_str(), "channel");
                drop(copy);
                turn_to_another();
            });
            let replaced = owner.replace(source(&other)).is_ok();
            assert_eq!(owner.get().channel().as_str(), if replaced { "other" } else { "channel" });
            reader.join().unwrap();
            drop(owner);
            turn_to_another();
            assert_eq!((Arc::strong_count(&name), Arc::strong_count(&other)), (1, 1));
        });
    }
}
