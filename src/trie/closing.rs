//! Closing the trie. It waits for no publish: an entry whose turn is taken is detached by whoever has the turn, when
//! that one is done.

use std::mem;
use std::sync::Arc;

use super::{Channel, PatternEntry, Recipient, Recipients, Route, Trie};
use crate::reentrancy::for_each_then_resume;
use crate::sync::{Ordering, fence};

impl<P> Trie<P> {
    /// Closes the trie to publishing and subscribing.
    pub(crate) fn begin_closing(&self) {
        // SeqCst: see `is_closed`.
        self.closed.store(true, Ordering::SeqCst);
        // A lock that is then tried and found taken is no SeqCst operation: the fence keeps that look behind
        // the store.
        fence(Ordering::SeqCst);
    }

    /// Lets go of all that a closed trie held, and of what publishes hold as soon as they are done. Waits
    /// for none of them. The recipients come back, to be dropped when everything is closed.
    pub(crate) fn finish_closing(&self) -> Vec<Recipients<P>> {
        let mut taken = Vec::new();
        self.stripes.close(|route| self.take_recipients(route, &mut taken));
        self.patterns.for_each(|entry| taken.extend(self.take_pattern_recipients(entry)));
        taken
    }

    /// Takes the entry out of the trie if the bus was closed while its turn was taken. To be called when the turn is
    /// free, before any user code runs.
    #[inline]
    pub(crate) fn detach_if_closed(&self, channel: &Arc<Channel<P>>) {
        if self.is_closed() {
            self.detach(channel);
        }
    }

    pub(super) fn detach(&self, channel: &Arc<Channel<P>>) {
        if let Some(route) = self.stripes.detach(channel) {
            let mut taken = Vec::new();
            self.take_recipients(route, &mut taken);
            for_each_then_resume(taken, drop);
        }
    }

    /// Takes the recipients of a route that is out of the trie, to `taken`.
    fn take_recipients(&self, mut route: Route<P>, taken: &mut Vec<Recipients<P>>) {
        if route.exact.len() > 0 {
            // Relaxed: a mere count.
            self.subscribing.channels.fetch_sub(1, Ordering::Relaxed);
        }
        route.exact.slots().iter().flatten().for_each(Recipient::hand_over_count);
        taken.push(mem::take(&mut route.exact));
        taken.extend(
            route.patterns.iter().filter_map(|known| self.take_pattern_recipients(known.entry())),
        );
    }

    /// Takes a pattern's recipients and drops them, if the trie has been closed.
    ///
    /// Whoever has held the lock of the recipients outside of a turn must call this after unlocking it: a thread that
    /// closed the trie meanwhile has found the lock taken. (For the locks that were held in a turn, whoever detaches
    /// the entry does it.)
    #[inline]
    pub(crate) fn release_if_closed(&self, entry: &PatternEntry<P>) {
        if self.is_closed() {
            drop(self.take_pattern_recipients(entry));
        }
    }

    /// Takes a pattern's recipients, unless someone holds them: then they do this at their end.
    fn take_pattern_recipients(&self, entry: &PatternEntry<P>) -> Option<Recipients<P>> {
        let taken = mem::take(&mut *entry.try_write()?);
        taken.slots().iter().flatten().for_each(Recipient::hand_over_count);
        Some(taken)
    }
}
