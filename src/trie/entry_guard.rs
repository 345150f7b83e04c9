//! What whoever takes a channel's turn must do afterwards.

use std::sync::Arc;

use super::{Channel, Trie, Turn};
use crate::reentrancy;

/// An entry in use: whoever takes its turn has one of these, and drops it after the turn.
///
/// It does what the turn's holder must do afterwards, also during unwinding: on a bus that was closed meanwhile, it
/// detaches the entry, since closing does not wait for turns; and it has the stripe account for a recent name whose
/// cost has changed. A publish that runs user code before its guard is dropped calls
/// [`detach_if_closed`](Trie::detach_if_closed) first.
pub(crate) struct EntryGuard<'a, P> {
    trie: &'a Trie<P>,
    channel: &'a Arc<Channel<P>>,
}

impl<P> EntryGuard<'_, P> {
    /// Waits for the channel's turn. Its route may be detached.
    pub(crate) fn turn(&self) -> Turn<'_, P> {
        reentrancy::assert_not_in_clone();
        self.channel.turn()
    }

    /// Returns the channel's turn, unless it is taken.
    #[inline(always)]
    pub(crate) fn try_turn(&self) -> Option<Turn<'_, P>> {
        self.channel.try_turn()
    }
}

impl<P> Drop for EntryGuard<'_, P> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.channel.needs_reaccount() || self.trie.is_closed() {
            self.trie.after_turn(self.channel);
        }
    }
}

impl<P> Trie<P> {
    /// Begins to use an entry.
    #[inline(always)]
    pub(crate) fn guard<'a>(&'a self, channel: &'a Arc<Channel<P>>) -> EntryGuard<'a, P> {
        EntryGuard { trie: self, channel }
    }

    #[cold]
    fn after_turn(&self, channel: &Arc<Channel<P>>) {
        if self.is_closed() {
            self.detach(channel);
        } else {
            self.stripes.reaccount(channel);
        }
    }
}
