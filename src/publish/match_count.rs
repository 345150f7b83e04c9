//! How many messages a publish would deliver, without delivering any.

use std::sync::Arc;

use super::merge::PatternSegments;
use super::scratch::ScratchGuard;
use crate::engine::Engine;
use crate::trie::{Channel, Counts, Route};

/// Returns how many messages a publish on the channel `name` would deliver now.
pub(crate) fn match_count_by_name<P: Send + 'static>(engine: &Engine<P>, name: &str) -> usize {
    engine.check_reentrancy();
    while let Some(channel) = engine.trie.find(name) {
        // An entry that is detached is looked up again.
        if let Some(matched) = match_count(engine, &channel) {
            return matched;
        }
    }
    if engine.trie.is_closed() {
        return 0;
    }
    let route = engine.trie.derive(name);
    let matched = count(&route);
    route.patterns.iter().for_each(|known| engine.trie.release_if_closed(known.entry()));
    matched
}

/// Returns how many messages a publish on a channel that a topic holds would deliver now.
pub(crate) fn match_count_by_topic<P: Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
) -> usize {
    engine.check_reentrancy();
    match_count(engine, channel).unwrap_or(0)
}

/// Returns how many messages a publish would deliver whose payload is not made yet. Counts the publish if it would
/// deliver none. `None` if the entry is detached.
pub(super) fn probe<P: Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
) -> Option<usize> {
    if engine.trie.is_closed() {
        engine.trie.count(channel, Counts::of_one(0));
        return Some(0);
    }
    in_turn(engine, channel, |route| {
        let matched = count(route);
        if matched == 0 {
            route.count_use();
            channel.counters.add(Counts::of_one(0));
        }
        matched
    })
}

fn match_count<P: Send + 'static>(engine: &Engine<P>, channel: &Arc<Channel<P>>) -> Option<usize> {
    if engine.trie.is_closed() {
        // The turn may be taken, by a publish that has outlived the closing.
        return Some(0);
    }
    in_turn(engine, channel, |route| count(route))
}

/// Returns what `look` does with the route of a channel, brought up to date. `None` if the entry is detached.
fn in_turn<P: Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    look: impl FnOnce(&mut Route<P>) -> usize,
) -> Option<usize> {
    let entry = engine.trie.guard(channel);
    let mut turn = entry.turn();
    if turn.is_detached() {
        return None;
    }
    engine.trie.refresh(channel, &mut turn);
    Some(look(&mut turn))
}

fn count<P: 'static>(route: &Route<P>) -> usize {
    let mut scratch = ScratchGuard::borrow();
    let patterns = PatternSegments::lock_several(&route.patterns, &mut scratch);
    let mut totals = route.exact.totals();
    totals += patterns.totals();
    let mut matched = totals.len;
    if totals.deduplicating > 0 {
        let repeated = [&route.exact]
            .into_iter()
            .chain(patterns.lists())
            .flat_map(|recipients| recipients.slots())
            .flatten()
            .filter(|recipient| recipient.inbox.settings().dedupe)
            .filter(|recipient| !scratch.seen.insert(Arc::as_ptr(&recipient.inbox).addr()))
            .count();
        matched -= repeated;
    }
    if let Some(buffers) = patterns.unlock() {
        scratch.merge = buffers;
    }
    matched
}
