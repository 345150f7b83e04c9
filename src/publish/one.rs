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
        return match deliver(recipient, false, payload, source.get()) {
            Ok(()) => {
                channel.counters.add(Counts::of_one(1));
                drop(turn);
                Ok(Published { delivered: 1, dropped: 0 })
            }
            Err(interrupt) => interrupted(channel, turn, interrupt),
        };
    }
    Err((turn, payload))
}

/// Ends a publish whose message did not go in the ordinary way, or gives it back.
#[cold]
#[inline(never)]
fn interrupted<'a, P>(
    channel: &Arc<Channel<P>>,
    turn: Turn<'a, P>,
    interrupt: Interrupt<P>,
) -> Result<Published, (Turn<'a, P>, P)> {
    match interrupt {
        Interrupt::Full(message) => Err((turn, message.payload)),
        Interrupt::Undeliverable(message) => {
            channel.counters.add(Counts::of_one(0));
            // A payload is dropped after the turn.
            drop(turn);
            drop(message);
            Ok(Published { delivered: 0, dropped: 0 })
        }
    }
}
