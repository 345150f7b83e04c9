//! Interest: which names have subscribers, told to whoever watches.
//!
//! Subscribing and unsubscribing tell the [`Watchers`] of a bus when a name gets its first subscription or loses its
//! last one. They do so in the channel's turn, or under the lock of the pattern's recipients, so that what is told of
//! one name comes in order. A [`Watch`] keeps the names whose state differs from what its receiver was told last: a
//! change that undoes one not told yet removes it.
//!
//! A watch begins by looking at every name, each in its turn or under its lock. Changes that come meanwhile are newer
//! than what it finds, and win. Nothing is received before it has looked at all of them, so names without subscriptions
//! are forgotten then.
//!
//! The locks here are taken under those of the trie, like an inbox's lock: first that of the list of watches, then that
//! of a watch. No user code runs under them.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::FusedIterator;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::{RecvError, RecvTimeoutError, TryRecvError};
use crate::pattern::Pattern;
use crate::reentrancy;
use crate::sync::{AtomicUsize, Mutex, Ordering};
use crate::wait_list::{SleepingThread, WaitList, park};

#[cfg(feature = "async")]
mod tasks;

#[cfg(feature = "async")]
pub use tasks::RecvInterest;

/// A change that an [`InterestWatch`] tells: a name got its first subscription, or lost its last one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Interest {
    /// A channel.
    #[non_exhaustive]
    Channel {
        /// The channel's name.
        name: Arc<str>,
        /// `true` if somebody has subscribed to it.
        wanted: bool,
    },
    /// A pattern.
    #[non_exhaustive]
    Pattern {
        /// The pattern.
        pattern: Pattern,
        /// `true` if somebody has subscribed to it.
        wanted: bool,
    },
}

/// What can be subscribed to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Channel(Arc<str>),
    Pattern(Pattern),
}

impl Name {
    fn into_interest(self, wanted: bool) -> Interest {
        match self {
            Self::Channel(name) => Interest::Channel { name, wanted },
            Self::Pattern(pattern) => Interest::Pattern { pattern, wanted },
        }
    }
}

/// The watches of a bus.
#[derive(Default)]
pub(crate) struct Watchers {
    /// The length of `watches`, which costs less to look at.
    count: AtomicUsize,
    watches: Mutex<Vec<Arc<Watch>>>,
}

impl Watchers {
    /// Adds a watch, which is told of changes from now on.
    fn add(&self) -> Arc<Watch> {
        let watch = Arc::<Watch>::default();
        let mut watches = self.watches.lock();
        watches.push(Arc::clone(&watch));
        // Relaxed: a turn or a lock that the new watch takes after this orders it before the reads in later ones.
        self.count.store(watches.len(), Ordering::Relaxed);
        watch
    }

    fn remove(&self, watch: &Arc<Watch>) {
        let mut watches = self.watches.lock();
        watches.retain(|other| !Arc::ptr_eq(other, watch));
        // Relaxed: one that sees a greater number finds no watch.
        self.count.store(watches.len(), Ordering::Relaxed);
    }

    /// Tells all watches that a name is wanted, or no longer. To be called in the turn of the channel, or under the
    /// lock of the pattern's recipients. The caller must call the [wake-ups](crate::wakeups) that this puts off.
    #[inline]
    pub(crate) fn tell(&self, wanted: bool, name: impl FnOnce() -> Name) {
        // Relaxed: see `add`.
        if self.count.load(Ordering::Relaxed) > 0 {
            self.tell_each(wanted, &name());
        }
    }

    #[cold]
    fn tell_each(&self, wanted: bool, name: &Name) {
        self.watches.lock().iter().for_each(|watch| watch.state.lock().tell(name, wanted));
    }

    /// Ends all watches: their receivers get what is left, and then `Closed`. The caller must call the
    /// [wake-ups](crate::wakeups) that this puts off.
    pub(crate) fn close(&self) {
        self.watches.lock().iter().for_each(|watch| watch.state.lock().close());
    }
}

/// What an [`InterestWatch`] shares with the bus.
#[derive(Default)]
struct Watch {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    changes: Changes,
    /// It has looked at every name.
    is_complete: bool,
    is_closed: bool,
    waiting: WaitList,
}

/// Names whose state differs from what was told, in the order in which they began to differ.
#[derive(Default)]
struct Changes {
    /// Trees give their memory back as they get smaller.
    names: BTreeMap<Name, Change>,
    order: BTreeMap<u64, Name>,
    /// Changes so far.
    count: u64,
}

struct Change {
    order: u64,
    wanted: bool,
}

impl Changes {
    fn insert(&mut self, name: &Name, wanted: bool) {
        let order = self.count;
        self.count += 1;
        self.order.insert(order, name.clone());
        self.names.insert(name.clone(), Change { order, wanted });
    }

    fn remove(&mut self, name: &Name) {
        if let Some(change) = self.names.remove(name) {
            self.order.remove(&change.order);
        }
    }

    fn pop(&mut self) -> Option<Interest> {
        let (_, name) = self.order.pop_first()?;
        let change = self.names.remove(&name)?;
        Some(name.into_interest(change.wanted))
    }
}

impl State {
    fn tell(&mut self, name: &Name, wanted: bool) {
        match self.changes.names.get_mut(name) {
            // Nothing has been told yet: whatever comes last is what is.
            Some(change) if !self.is_complete => change.wanted = wanted,
            // The receiver was told the opposite of what it was to be told: nothing differs any more.
            Some(_) => self.changes.remove(name),
            None => {
                self.changes.insert(name, wanted);
                self.wake_one();
            }
        }
    }

    /// Adds a name that has subscriptions, unless something newer is known.
    fn found(&mut self, name: &Name) {
        if !self.changes.names.contains_key(name) {
            self.changes.insert(name, true);
        }
    }

    fn complete(&mut self) {
        let Changes { names, order, .. } = &mut self.changes;
        names.retain(|_, change| change.wanted || order.remove(&change.order).is_none());
        self.is_complete = true;
    }

    fn close(&mut self) {
        self.is_closed = true;
        while self.wake_one() {}
    }

    /// Wakes who has waited longest. Returns `false` if nobody waits.
    fn wake_one(&mut self) -> bool {
        let woken = self.waiting.pop();
        let is_woken = woken.is_some();
        if let Some(waiting) = woken {
            waiting.wake();
        }
        is_woken
    }

    /// `true` if a receive would have to wait.
    #[cfg(feature = "async")]
    fn is_empty(&self) -> bool {
        self.changes.order.is_empty() && !self.is_closed
    }

    fn try_recv(&mut self) -> Result<Interest, TryRecvError> {
        match self.changes.pop() {
            Some(interest) => Ok(interest),
            None if self.is_closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }
}

/// Tells which channels and patterns have subscriptions, and what changes about it; returned by
/// [`Bus::watch_interest`](crate::Bus::watch_interest).
///
/// First it tells what is subscribed already, in no particular order. From then on it tells each name that gets its
/// first subscription and each that loses its last one, in the order in which that happened. A change that
/// is undone before it was received is not told. So the watch holds no more than the names whose state differs from
/// what it told last, however slowly it is read, and what it told always adds up to what was subscribed at some moment.
///
/// A channel is wanted if its name is, or if a pattern that is wanted [matches](Pattern::is_match) it. Where making a
/// message is all that it costs, [`publish_with`](crate::Bus::publish_with) is enough: it makes one only if somebody
/// listens. What is told concerns this bus alone: who listens in other processes, by way of a bridge, it does not know.
///
/// A change is visible here before `subscribe` or `unsubscribe` returns. Subscriptions of a subscriber that was built
/// with [`interest(false)`](crate::SubscriberBuilder::interest) do not count.
///
/// Several threads and tasks may receive from one watch; each change goes to one of them. A watch does not keep the bus
/// open. When the bus is closed, what is left can be received, and then `Closed`; that all names have lost their
/// subscriptions by closing is not told.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Interest};
///
/// let bus: Bus = Bus::new();
/// let watch = bus.watch_interest();
/// let sub = bus.subscribe("news")?;
/// match watch.recv()? {
///     Interest::Channel { name, wanted: true, .. } => println!("fetching {name}"),
///     interest => panic!("{interest:?}"),
/// }
/// drop(sub);
/// assert!(matches!(watch.recv()?, Interest::Channel { wanted: false, .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A producer that polls what it produces for:
///
/// ```
/// use std::collections::HashSet;
///
/// use fanout::{Bus, Interest, Pattern};
///
/// let bus: Bus = Bus::new();
/// let watch = bus.watch_interest();
/// let (mut names, mut patterns) = (HashSet::new(), HashSet::<Pattern>::new());
/// # let _sub = bus.psubscribe("price:*")?;
/// while let Ok(interest) = watch.try_recv() {
///     _ = match interest {
///         Interest::Channel { name, wanted: true, .. } => names.insert(name),
///         Interest::Channel { name, .. } => names.remove(&name),
///         Interest::Pattern { pattern, wanted: true, .. } => patterns.insert(pattern),
///         Interest::Pattern { pattern, .. } => patterns.remove(&pattern),
///         _ => false,
///     };
/// }
/// let is_wanted = |channel: &str| {
///     names.contains(channel) || patterns.iter().any(|pattern| pattern.is_match(channel))
/// };
/// assert!(is_wanted("price:ACME") && !is_wanted("news"));
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
#[must_use = "a watch that is dropped tells nothing"]
pub struct InterestWatch {
    watch: Arc<Watch>,
    watchers: Arc<Watchers>,
}

impl InterestWatch {
    /// Returns a new watch. `look` calls its argument with every name that has subscriptions, in the turn of the
    /// channel or under the lock of the pattern's recipients; `is_closed` is asked after that.
    pub(crate) fn new(
        watchers: &Arc<Watchers>,
        look: impl FnOnce(&dyn Fn(&Name)),
        is_closed: impl FnOnce() -> bool,
    ) -> Self {
        let watch = watchers.add();
        let this = Self { watch, watchers: Arc::clone(watchers) };
        look(&|name| this.watch.state.lock().found(name));
        let mut state = this.watch.state.lock();
        state.complete();
        // A thread that closes the bus has found the watch, or is noticed here.
        state.is_closed |= is_closed();
        drop(state);
        this
    }

    /// Waits for a change and returns it.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError::Closed`] if the bus is closed and nothing is left.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    pub fn recv(&self) -> Result<Interest, RecvError> {
        self.recv_until(None).map_err(|_| RecvError::Closed)
    }

    /// Returns a change if there is one, without waiting.
    ///
    /// # Errors
    ///
    /// Returns [`TryRecvError::Empty`] if nothing differs from what was told, and [`TryRecvError::Closed`] if,
    /// moreover, the bus is closed.
    pub fn try_recv(&self) -> Result<Interest, TryRecvError> {
        self.watch.state.lock().try_recv()
    }

    /// Waits for a change, at most for `timeout`, and returns it.
    ///
    /// # Errors
    ///
    /// Returns [`RecvTimeoutError::Timeout`] if none came in time, and [`RecvTimeoutError::Closed`] if the bus is
    /// closed and nothing is left.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Interest, RecvTimeoutError> {
        // A deadline that cannot be represented is never reached.
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&self, deadline: Option<Instant>) -> Result<Interest, RecvTimeoutError> {
        reentrancy::assert_not_in_clone();
        loop {
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let sleeping = SleepingThread::current();
            let mut state = self.watch.state.lock();
            match state.try_recv() {
                Ok(interest) => return Ok(interest),
                Err(TryRecvError::Closed) => return Err(RecvTimeoutError::Closed),
                Err(TryRecvError::Empty) if is_late => return Err(RecvTimeoutError::Timeout),
                Err(TryRecvError::Empty) => {}
            }
            let ticket = state.waiting.push(Waker::from(Arc::clone(&sleeping)), true);
            drop(state);
            while !sleeping.is_woken() && deadline.is_none_or(|deadline| Instant::now() < deadline)
            {
                park(deadline);
            }
            // It looks again in any case, so a wake-up that it got is not lost.
            self.watch.state.lock().waiting.remove(ticket);
        }
    }

    /// Returns an iterator that waits for each change, and ends when the bus is closed.
    pub fn iter(&self) -> InterestIter<'_> {
        InterestIter { watch: self }
    }
}

impl Drop for InterestWatch {
    fn drop(&mut self) {
        self.watchers.remove(&self.watch);
    }
}

// No user code runs under its locks.
impl UnwindSafe for InterestWatch {}
impl RefUnwindSafe for InterestWatch {}

impl<'a> IntoIterator for &'a InterestWatch {
    type Item = Interest;
    type IntoIter = InterestIter<'a>;

    fn into_iter(self) -> InterestIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for InterestWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = self.watch.state.lock().changes.order.len();
        f.debug_struct("InterestWatch").field("changes", &changes).finish_non_exhaustive()
    }
}

/// A blocking iterator over the changes that an [`InterestWatch`] tells, returned by [`InterestWatch::iter`].
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct InterestIter<'a> {
    watch: &'a InterestWatch,
}

impl Iterator for InterestIter<'_> {
    type Item = Interest;

    fn next(&mut self) -> Option<Interest> {
        self.watch.recv().ok()
    }
}

impl FusedIterator for InterestIter<'_> {}

#[cfg(test)]
mod tests {
    use crate::Bus;

    #[test]
    fn a_watch_that_is_dropped_is_told_nothing_any_more() {
        let bus: Bus<u32> = Bus::new();
        let (one, other) = (bus.watch_interest(), bus.watch_interest());
        let watches = || bus.engine.trie.watchers().watches.lock().len();
        assert_eq!(watches(), 2);
        drop(one);
        assert_eq!(watches(), 1);
        drop(other);
        assert_eq!(watches(), 0);
    }
}
