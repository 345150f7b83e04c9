//! A publish to one recipient, by the channel itself or by a pattern: nothing is cloned or merged, and no user
//! code runs. Whatever else there is goes to [`many`].

use std::sync::Arc;

use super::after_turn::RoomWait;
use super::{Interrupt, Published, deliver, many};
use crate::engine::Engine;
use crate::reentrancy::Undelivered;
use crate::trie::{Channel, Counts, Turn};
use crate::wakeups;

/// Publishes in the turn.
#[inline(always)]
pub(super) fn publish<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    turn: Turn<'_, P>,
) -> Published {
    match (&turn.patterns[..], turn.exact.slots(), &turn.source) {
        ([], [Some(recipient)], Some(source)) => {
            // The inbox's own line comes while the queue's are waited for.
            recipient.inbox.prefetch();
            match deliver(recipient, false, payload, source.get()) {
                Ok(()) => delivered(channel, turn),
                Err(interrupt) => interrupted(engine, channel, interrupt, turn),
            }
        }
        ([_], [], _) => by_pattern(engine, channel, payload, turn),
        _ => many::publish(engine, channel, payload, RoomWait::OnThread(None), None, turn),
    }
}

#[inline(never)]
fn by_pattern<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    turn: Turn<'_, P>,
) -> Published {
    if let [known] = &turn.patterns[..] {
        let recipients = known.entry().read();
        // A pattern that nobody holds any more has no recipients: a publish to many removes it.
        if let [Some(recipient)] = recipients.slots() {
            let result = deliver(recipient, true, payload, known.source().get());
            drop(recipients);
            return match result {
                Ok(()) => delivered(channel, turn),
                Err(interrupt) => interrupted(engine, channel, interrupt, turn),
            };
        }
    }
    many::publish(engine, channel, payload, RoomWait::OnThread(None), None, turn)
}

#[inline(always)]
fn delivered<P>(channel: &Channel<P>, turn: Turn<'_, P>) -> Published {
    channel.counters.add(Counts::of_one(1));
    drop(turn);
    Published { delivered: 1, dropped: 0 }
}

/// Goes on with a message that was not delivered in the ordinary way.
#[inline(never)]
fn interrupted<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    interrupt: Interrupt<P>,
    turn: Turn<'_, P>,
) -> Published {
    match interrupt {
        // The inbox is tried once more there, and its policy applied.
        Interrupt::Full(message) => {
            many::publish(engine, channel, message.payload, RoomWait::OnThread(None), None, turn)
        }
        Interrupt::TaskWoken => {
            let published = delivered(channel, turn);
            engine.trie.detach_if_closed(channel);
            wakeups::call_pending();
            published
        }
        Interrupt::Undeliverable(message) => {
            // Dropped after the turn.
            let _message = Undelivered::new(message);
            channel.counters.add(Counts::of_one(0));
            drop(turn);
            engine.trie.detach_if_closed(channel);
            Published { delivered: 0, dropped: 0 }
        }
    }
}
