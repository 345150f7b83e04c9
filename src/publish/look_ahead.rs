//! Publishing on many channels in one call. Their look-ups overlap: of half a million channels hardly any is in a
//! cache, and where single publishes wait for memory one after another, several wait at once here.
//!
//! Names are taken in batches, and a batch in steps. Each step brings into the cache what the next one reads:
//!
//! 1. The names are hashed; the slots of their stripes' tables are prefetched.
//! 2. The slots are read; the entries are prefetched.
//! 3. The entries are found; their inboxes are prefetched.
//! 4. The caller publishes, if anybody listens. It looks for that when the name's turn comes, as a single publish does:
//!    what came before, user code among it, may have changed who listens.
//!
//! A step collects addresses first, under one stripe's lock or one channel's turn after another, and prefetches then:
//! a locked instruction waits until all reads before it are done, the page walk of a prefetch included. No lock is held
//! from one name to the next, and none while the caller's iterator runs.

use std::iter::Fuse;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{by_name_again, match_count, publish};
use crate::engine::Engine;
use crate::prefetch::{prefetch, prefetch_all};
use crate::reentrancy::Undelivered;
use crate::stats::Receipt;
use crate::trie::Channel;

/// Names in a batch.
const BATCH: usize = 16;

/// Publishes `payload` on each channel of `names`, in this order.
pub(crate) fn by_names<P: Clone + Send + 'static, S: AsRef<str>>(
    engine: &Engine<P>,
    names: impl Iterator<Item = S>,
    payload: P,
) -> Receipt {
    let mut payload = OneForAll::new(payload);
    let look_ahead = LookAhead::new(engine, names, AsRef::as_ref);
    publish_found(look_ahead, |_, is_last| payload.get(is_last))
}

/// Publishes on each channel of `items` the payload that stands beside it, in this order.
pub(crate) fn by_names_each<P: Clone + Send + 'static, S: AsRef<str>>(
    engine: &Engine<P>,
    items: impl Iterator<Item = (S, impl Into<P>)>,
) -> Receipt {
    let look_ahead = LookAhead::new(engine, items, |(name, _)| name.as_ref());
    publish_found(look_ahead, |(_, payload), _| payload.into())
}

/// Publishes what `make_payload` makes of an item that was found; it is told whether this is the last.
fn publish_found<P: Clone + Send + 'static, I: Iterator>(
    look_ahead: LookAhead<'_, P, I>,
    mut make_payload: impl FnMut(I::Item, bool) -> P,
) -> Receipt {
    let engine = look_ahead.engine;
    engine.check_reentrancy();
    let mut sum = Receipt::default();
    let name_of = look_ahead.name_of;
    for (Found { channel, hash, item }, is_last) in look_ahead {
        engine.check_reentrancy();
        let Some(channel) = find_listened_to(engine, channel, name_of(&item), hash) else {
            continue;
        };
        let payload = make_payload(item, is_last);
        let detached = |payload| by_name_again(engine, channel.name(), channel.hash, payload);
        sum += publish(engine, &channel, payload, detached);
    }
    sum
}

/// A payload, and its clones.
pub(super) struct OneForAll<P>(Undelivered<P>);

impl<P: Clone> OneForAll<P> {
    pub(super) fn new(payload: P) -> Self {
        Self(Undelivered::new(payload))
    }

    /// Drops the payload, if it is still there.
    #[cfg(feature = "async")]
    pub(super) fn clear(&mut self) {
        *self.0 = None;
    }

    /// Returns a clone, or the payload itself if it is the last.
    pub(super) fn get(&mut self, is_last: bool) -> P {
        let payload = if is_last { self.0.take() } else { self.0.clone() };
        payload.unwrap_or_else(|| unreachable!("the last comes once"))
    }
}

/// An iterator over the channels, each with `true` if it is the last.
pub(super) struct LookAhead<'a, P, I: Iterator> {
    pub(super) engine: &'a Engine<P>,
    items: Fuse<I>,
    pub(super) name_of: fn(&I::Item) -> &str,
    is_exhausted: bool,
    batch: arrayvec::IntoIter<Found<P, I::Item>, BATCH>,
    /// The last that was looked up: of all, unless there is another.
    held: Option<Found<P, I::Item>>,
}

/// A channel that has been looked up.
pub(super) struct Found<P, T> {
    /// `None` if the bus was closed.
    pub(super) channel: Option<Arc<Channel<P>>>,
    pub(super) hash: u64,
    /// The item that named it.
    pub(super) item: T,
}

impl<'a, P: Send + 'static, I: Iterator> LookAhead<'a, P, I> {
    pub(super) fn new(engine: &'a Engine<P>, items: I, name_of: fn(&I::Item) -> &str) -> Self {
        let batch = ArrayVec::new().into_iter();
        Self { engine, items: items.fuse(), name_of, is_exhausted: false, batch, held: None }
    }

    /// Looks a batch up.
    fn look_up(&mut self) -> ArrayVec<Found<P, I::Item>, BATCH> {
        let Self { engine, name_of, .. } = *self;
        let trie = &engine.trie;
        let mut hashed = ArrayVec::<_, BATCH>::new();
        let items = self.items.by_ref().take(BATCH);
        hashed.extend(items.map(|item| (trie.hash(name_of(&item)), item)));
        self.is_exhausted = !hashed.is_full();

        let slots: ArrayVec<_, BATCH> =
            hashed.iter().map(|&(hash, _)| trie.slot_address(hash)).collect();
        slots.iter().for_each(|&slot| prefetch(slot));
        let entries: ArrayVec<_, BATCH> =
            hashed.iter().map(|&(hash, _)| trie.entry_address(hash)).collect();
        entries.iter().for_each(|&entry| prefetch_all(entry));

        let mut found = ArrayVec::new();
        let mut inboxes = ArrayVec::<_, BATCH>::new();
        for (hash, item) in hashed {
            let channel = trie.entry_for_publish(name_of(&item), hash);
            if let Some(channel) = &channel {
                inboxes.push(channel.inbox_address());
            }
            found.push(Found { channel, hash, item });
        }
        inboxes.iter().for_each(|&inbox| prefetch(inbox));
        found
    }
}

impl<P: Send + 'static, I: Iterator> Iterator for LookAhead<'_, P, I> {
    type Item = (Found<P, I::Item>, bool);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for found in self.batch.by_ref() {
                if let Some(earlier) = self.held.replace(found) {
                    return Some((earlier, false));
                }
            }
            if self.is_exhausted {
                return Some((self.held.take()?, true));
            }
            self.batch = self.look_up().into_iter();
        }
    }
}

/// Returns the entry of `name` to publish on, if anybody listens to it now: `channel`, unless that is detached.
/// Otherwise counts a publish.
pub(super) fn find_listened_to<P: Send + 'static>(
    engine: &Engine<P>,
    channel: Option<Arc<Channel<P>>>,
    name: &str,
    hash: u64,
) -> Option<Arc<Channel<P>>> {
    let mut found = channel;
    loop {
        let Some(channel) = found.or_else(|| engine.trie.entry_for_publish(name, hash)) else {
            engine.trie.count_unreached(hash);
            return None;
        };
        if channel.subscribers() > 0 {
            return Some(channel);
        }
        match match_count::probe(engine, &channel) {
            Some(0) => return None,
            Some(_) => return Some(channel),
            // The entry is detached: the name is looked up again.
            None => found = None,
        }
    }
}
