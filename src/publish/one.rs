//! A publish to one recipient, which has subscribed to the channel itself: nothing is cloned, merged or told apart,
//! and no user code runs.

use std::sync::Arc;

use super::{Interrupt, Published, deliver};
use crate::trie::{Channel, Counts, Turn};

/// Publishes if there is one recipient and its inbox has room. Otherwise the turn and the payload come back.
#[inline(always)]
pub(super) fn publish<'a, P>(
    channel: &Arc<Channel<P>>,
    turn: Turn<'a, P>,
    payload: P,
) -> Result<Published, (Turn<'a, P>, P)> {
    if turn.patterns.is_empty()
        && let [Some(recipient)] = turn.exact.slots()
        && let Some(source) = &turn.source
    {
        let (delivered, undeliverable) = match deliver(recipient, false, payload, source.get()) {
            Ok(()) => (1, None),
            Err(Interrupt::Undeliverable(message)) => (0, Some(message)),
            Err(Interrupt::Full(message)) => return Err((turn, message.payload)),
        };
        channel.counters.add(Counts::of_one(delivered));
        // A payload is dropped after the turn.
        drop(turn);
        drop(undeliverable);
        return Ok(Published { delivered, dropped: 0 });
    }
    Err((turn, payload))
}
