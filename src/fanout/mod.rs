//! One publish to many inboxes.
//!
//! In the channel's turn: for each recipient a clone of the payload and a `try_send`, nothing more as
//! long as inboxes have room. After the turn: whatever runs user code or takes time, that is dropping
//! evicted payloads, ending disconnected subscribers, and waiting for room.

mod merge;
mod scratch;

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::core::Core;
use crate::event::Message;
use crate::inbox::{Inbox, Overflowed, Wait};
use crate::stats::Receipt;
use crate::sync::{Ordering, add_exclusively};
use crate::trie::{Channel, Counters, Recipient, Recipients, Route, Tally};
use crate::turn::Mark;
use merge::Segment;
use scratch::Lease;

/// The channel's entry was taken out of the trie before the publish had its turn. The payload comes
/// back.
pub(crate) struct Detached<P>(pub(crate) P);

/// How many messages a publish would make now: one for each subscription of `route` that matches.
///
/// # Complexity
///
/// Linear in the patterns that match, and in the recipients where one of them takes each message once.
pub(crate) fn match_count<P: 'static>(route: &Route<P>) -> usize {
    let mut lease = Lease::take();
    let scratch = &mut *lease;
    scratch.merge.lock(&route.patterns);
    let lists = || [&route.exact].into_iter().chain(scratch.merge.lists());
    let live = lists().map(Recipients::len).sum::<usize>();
    if lists().all(|recipients| recipients.deduplicating() == 0) {
        return live;
    }
    let repeated = lists()
        .flat_map(Recipients::places)
        .flatten()
        .filter(|recipient| recipient.inbox.settings().dedupe)
        .filter(|recipient| !scratch.seen.insert(address(&recipient.inbox)))
        .count();
    live - repeated
}

/// How many messages a publish on `channel` would make; `None` where its entry is out of the trie.
pub(crate) fn would_match<P: 'static>(core: &Core<P>, channel: &Arc<Channel<P>>) -> Option<usize> {
    let mut turn = core.trie.turn(channel);
    if turn.is_detached() {
        return None;
    }
    core.trie.refresh(channel, &mut turn);
    Some(match_count(&turn))
}

/// The look-up of a publish whose payload is made only if something matches: how many messages it would
/// make. One that would make none is counted as published.
pub(crate) fn probe<P: 'static>(core: &Core<P>, channel: &Arc<Channel<P>>) -> Option<usize> {
    let matched = would_match(core, channel)?;
    if matched == 0 {
        core.trie.count(channel, Tally { published: 1, ..Tally::default() });
    }
    Some(matched)
}

fn address<P>(inbox: &Arc<Inbox<P>>) -> usize {
    Arc::as_ptr(inbox).addr()
}

/// Publishes `payload` on `channel` to all that match. How many patterns do comes with the receipt.
pub(crate) fn publish<P: Clone + 'static>(
    core: &Core<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
) -> Result<(Receipt, usize), Detached<P>> {
    // Locals are dropped from the last to the first, by unwinding too: the payload and what `after`
    // holds run user code then, and must do so when the turn is over.
    let mut slot = None;
    let mut after = After::new(core);
    let mut turn = core.trie.try_turn(channel).unwrap_or_else(|| {
        // Timeouts run from here.
        after.started = Some(Instant::now());
        core.trie.turn(channel)
    });
    if turn.is_detached() {
        return Err(Detached(payload));
    }
    slot.replace(payload);
    core.trie.refresh(channel, &mut turn);
    let patterns = &turn.patterns[..];
    let mut commit = Commit { counters: &channel.counters, tally: Tally::default() };
    commit.tally.published = 1;
    let mut remaining = turn.exact.len();
    let mut lease = (!patterns.is_empty()).then(Lease::<P>::take);
    let mut merge = None;
    // Where some inboxes take a message once, whichever subscription it comes by: those served.
    let mut seen = None;
    if let Some(lease) = &mut lease {
        let scratch = &mut **lease;
        scratch.merge.lock(patterns);
        remaining += scratch.merge.lists().map(Recipients::len).sum::<usize>();
        let takes_once = |recipients: &Recipients<P>| recipients.deduplicating() > 0;
        if takes_once(&turn.exact) || scratch.merge.lists().any(takes_once) {
            seen = Some(&mut scratch.seen);
        }
        merge = Some(&mut scratch.merge);
    }
    let mut exact = Some(Segment {
        places: turn.exact.places(),
        numbers: turn.exact.numbers(),
        source: &channel.source,
        shared: false,
    });
    let mark = Mark::set();
    loop {
        let segment = if let Some(segment) = exact.take() {
            segment
        } else if let Some(merge) = merge.as_deref_mut()
            && let Some(segment) = merge.next(patterns)
        {
            segment
        } else {
            break;
        };
        for (at, place) in segment.places.iter().enumerate() {
            let Some(recipient) = place else { continue };
            remaining -= 1;
            if let Some(seen) = &mut seen
                && recipient.inbox.settings().dedupe
                && !seen.insert(address(&recipient.inbox))
            {
                continue;
            }
            // The last one gets the payload itself.
            let payload = if remaining == 0 { slot.take() } else { slot.clone() };
            let Some(payload) = payload else { break };
            let message = Message { payload, source: Arc::clone(segment.source) };
            // The one call site of `try_send`: with a second one the compiler would not inline it.
            let entered = match recipient.to.try_send(message) {
                Ok(()) => {
                    commit.tally.delivered += 1;
                    true
                }
                Err(error) => {
                    let number = segment.numbers[at];
                    after.overflow(recipient, number, error.into_inner(), &mut commit.tally)
                }
            };
            if entered {
                count_entered(recipient, segment.shared);
            }
        }
    }
    drop(mark);
    let tally = commit.tally;
    drop(commit);
    let matching = patterns.len();
    if matching > 0 && patterns.iter().any(|(entry, _)| entry.is_dead()) {
        turn.sweep();
    }
    drop(lease);
    drop(turn);
    let mut receipt = Receipt {
        matched: 0,
        delivered: tally.delivered as usize,
        dropped: tally.dropped as usize,
    };
    after.settle(channel, &mut receipt);
    receipt.matched = receipt.delivered + receipt.dropped;
    core.catch_up();
    Ok((receipt, matching))
}

/// Counts a message that entered an inbox by the subscription `recipient`.
#[inline]
fn count_entered<P>(recipient: &Recipient<P>, shared: bool) {
    if shared {
        // Relaxed: a sum, exact at rest.
        recipient.entered.fetch_add(1, Ordering::Relaxed);
    } else {
        add_exclusively(&recipient.entered, 1);
    }
}

/// Counts what a publish did, at the end of its turn or when it unwinds.
struct Commit<'a> {
    counters: &'a Counters,
    tally: Tally,
}

impl Drop for Commit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.counters.add(self.tally);
    }
}

/// What is left to do when the turn is over. Empty for a publish that met no full inbox.
struct After<'a, P: 'static> {
    core: &'a Core<P>,
    /// When the publish began, where that matters.
    started: Option<Instant>,
    /// Holds the messages to be dropped.
    scratch: Option<Lease<P>>,
    /// Subscribers that were full and are to be ended, by number.
    disconnected: SmallVec<[u64; 1]>,
    waits: Vec<Wait<P>>,
}

impl<'a, P> After<'a, P> {
    #[inline]
    fn new(core: &'a Core<P>) -> Self {
        let disconnected = SmallVec::new();
        Self { core, started: None, scratch: None, disconnected, waits: Vec::new() }
    }

    /// Does with a message what the policy of a full inbox says; whether it entered.
    #[cold]
    fn overflow(
        &mut self,
        recipient: &Recipient<P>,
        number: u64,
        message: Message<P>,
        tally: &mut Tally,
    ) -> bool {
        let inbox = &recipient.inbox;
        let dead = &mut self.scratch.get_or_insert_with(Lease::take).dead;
        let refused = match inbox.overflow(&recipient.to, message, number, dead) {
            Overflowed::Entered { evicted } => {
                tally.delivered += 1;
                tally.evicted += evicted;
                return true;
            }
            Overflowed::Wait(wait) => {
                self.started.get_or_insert_with(Instant::now);
                self.waits.push(wait);
                return false;
            }
            Overflowed::Disconnected(message) => {
                self.disconnected.push(inbox.member());
                message
            }
            Overflowed::Refused(message) => message,
        };
        tally.dropped += 1;
        dead.push(refused);
        false
    }

    #[inline]
    fn settle(&mut self, channel: &Arc<Channel<P>>, receipt: &mut Receipt) {
        if self.scratch.is_some() {
            self.settle_overflow(channel, receipt);
        }
    }

    #[cold]
    fn settle_overflow(&mut self, channel: &Arc<Channel<P>>, receipt: &mut Receipt) {
        self.disconnect();
        // Before waiting, so that the payloads are not held while it lasts.
        self.scratch = None;
        if self.waits.is_empty() {
            return;
        }
        let started = self.started.unwrap_or_else(Instant::now);
        let mut tally = Tally::default();
        for wait in self.waits.drain(..) {
            // A deadline beyond what the clock can say is none.
            let deadline = wait.timeout().and_then(|timeout| started.checked_add(timeout));
            if wait.finish(deadline) {
                tally.delivered += 1;
            } else {
                tally.dropped += 1;
            }
        }
        receipt.delivered += tally.delivered as usize;
        receipt.dropped += tally.dropped as usize;
        self.core.trie.count(channel, tally);
    }

    fn disconnect(&mut self) {
        for member in self.disconnected.drain(..) {
            self.core.disconnect(member);
        }
    }
}

impl<P> Drop for After<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // Some are left where the publish unwinds.
        if !self.disconnected.is_empty() {
            self.disconnect();
        }
    }
}
