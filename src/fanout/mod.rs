//! One publish to many inboxes.
//!
//! In the channel's turn: for each recipient a clone of the payload and a `try_send`, nothing more as
//! long as inboxes have room. After the turn: whatever runs user code or takes time, that is dropping
//! evicted payloads, ending disconnected subscribers, and waiting for room.

mod merge;
mod scratch;

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashSet;
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

/// How many messages a publish on `channel` would make now: one for each subscription that matches.
/// `None` where its entry is out of the trie.
///
/// # Complexity
///
/// Linear in the patterns that match, and in the recipients where one of them takes each message once.
pub(crate) fn match_count<P: 'static>(core: &Core<P>, channel: &Arc<Channel<P>>) -> Option<usize> {
    if core.trie.is_closed() {
        // The turn may be taken, by a publish that has outlived the closing.
        return Some(0);
    }
    let mut turn = core.trie.turn(channel);
    if turn.is_detached() {
        return None;
    }
    core.trie.refresh(channel, &mut turn);
    Some(count(&turn))
}

/// The same for a name that has no entry.
pub(crate) fn match_count_unlisted<P: 'static>(core: &Core<P>, name: &str) -> usize {
    if core.trie.is_closed() {
        return 0;
    }
    let route = core.trie.derive(name);
    let matched = count(&route);
    route.patterns.iter().for_each(|(entry, _)| core.trie.released(entry));
    matched
}

fn count<P: 'static>(route: &Route<P>) -> usize {
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

/// The look-up of a publish whose payload is made only if something matches: how many messages it would
/// make. One that would make none is counted as published.
pub(crate) fn probe<P: 'static>(core: &Core<P>, channel: &Arc<Channel<P>>) -> Option<usize> {
    let matched = match_count(core, channel)?;
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
    let mut turn = match core.trie.try_turn(channel) {
        Some(turn) => turn,
        // The turn may be taken by a publish that has outlived the closing.
        None if core.trie.is_closed() => return Err(Detached(payload)),
        None => {
            // Timeouts run from here.
            after.started = Some(Instant::now());
            core.trie.turn(channel)
        }
    };
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
    let mark = Mark::set();
    let mut serving = Serving { slot: &mut slot, remaining, seen, tally: &mut commit.tally };
    if let Some(source) = &turn.source {
        let (places, numbers) = (turn.exact.places(), turn.exact.numbers());
        let exact = Segment { places, numbers, source, shared: false };
        serving.serve(exact, &mut |full| after.overflow(full));
    }
    if let Some(merge) = merge {
        while let Some(segment) = merge.next(patterns) {
            serving.serve(segment, &mut |full| after.overflow(full));
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

/// A publish on its way through the recipients.
struct Serving<'a, P> {
    /// The payload, until the last recipient gets it.
    slot: &'a mut Option<P>,
    /// Recipients to come.
    remaining: usize,
    /// Inboxes served, by address, where some take a message once.
    seen: Option<&'a mut HashSet<usize, foldhash::fast::RandomState>>,
    tally: &'a mut Tally,
}

/// A message that found an inbox full.
struct Full<'a, P> {
    recipient: &'a Recipient<P>,
    /// The number of the subscription.
    number: u64,
    message: Message<P>,
    tally: &'a mut Tally,
}

impl<P: Clone> Serving<'_, P> {
    /// Sends to the recipients of `segment`. `full` is asked what to do where there is no room: it
    /// returns the message to have it sent again.
    ///
    /// One function for all, not inlined, for the sake of one call site of `try_send`: with a second one
    /// the compiler would not inline that, and every delivery would pay.
    #[inline(never)]
    fn serve(
        &mut self,
        segment: Segment<'_, P>,
        full: &mut dyn FnMut(Full<'_, P>) -> Option<Message<P>>,
    ) {
        'recipients: for (at, place) in segment.places.iter().enumerate() {
            let Some(recipient) = place else { continue };
            self.remaining -= 1;
            if let Some(seen) = &mut self.seen
                && recipient.inbox.settings().dedupe
                && !seen.insert(address(&recipient.inbox))
            {
                continue;
            }
            // The last one gets the payload itself.
            let payload = if self.remaining == 0 { self.slot.take() } else { self.slot.clone() };
            let Some(payload) = payload else { return };
            let mut message = Message { payload, source: Arc::clone(segment.source) };
            while let Err(error) = recipient.to.try_send(message) {
                let number = segment.numbers[at];
                let message_back = error.into_inner();
                let tally = &mut *self.tally;
                match full(Full { recipient, number, message: message_back, tally }) {
                    Some(again) => message = again,
                    None => continue 'recipients,
                }
            }
            if recipient.inbox.has_parked() {
                recipient.inbox.wake_one();
            }
            count_entered(recipient, segment.shared);
            self.tally.delivered += 1;
        }
    }
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
    /// Messages that wait for room, each with whom it is for.
    waits: Vec<(Recipient<P>, Wait<P>)>,
}

impl<'a, P: Clone> After<'a, P> {
    #[inline]
    fn new(core: &'a Core<P>) -> Self {
        let disconnected = SmallVec::new();
        Self { core, started: None, scratch: None, disconnected, waits: Vec::new() }
    }

    /// Does with a message what the policy of a full inbox says; returns it to have it sent again.
    #[cold]
    fn overflow(&mut self, full: Full<'_, P>) -> Option<Message<P>> {
        let Full { recipient, number, message, tally } = full;
        let inbox = &recipient.inbox;
        let dead = &mut self.scratch.get_or_insert_with(Lease::take).dead;
        let refused = match inbox.overflow(message, number) {
            Overflowed::Retry { message, evicted } => {
                tally.evicted += u64::from(evicted.is_some());
                dead.extend(evicted);
                return Some(message);
            }
            Overflowed::Wait(wait) => {
                self.started.get_or_insert_with(Instant::now);
                let recipient = Recipient::new(recipient.to.clone(), Arc::clone(inbox));
                self.waits.push((recipient, wait));
                return None;
            }
            Overflowed::Disconnected(message) => {
                self.disconnected.push(inbox.member());
                message
            }
            Overflowed::Refused(message) => message,
        };
        tally.dropped += 1;
        dead.push(refused);
        None
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
        for (recipient, wait) in self.waits.drain(..) {
            // A deadline beyond what the clock can say is none.
            let deadline = wait.timeout().and_then(|timeout| started.checked_add(timeout));
            let place = Some(recipient);
            if wait.finish(deadline, |message| send_again(&place, message, &mut tally)) {
                place.iter().for_each(Recipient::settle);
            } else {
                tally.dropped += 1;
            }
        }
        receipt.delivered += tally.delivered as usize;
        receipt.dropped += tally.dropped as usize;
        self.core.trie.count(channel, tally);
    }
}

impl<P> After<'_, P> {
    fn disconnect(&mut self) {
        for member in self.disconnected.drain(..) {
            self.core.disconnect(member);
        }
    }
}

/// Sends a message to the one recipient in `place`; it comes back where there is still no room.
fn send_again<P: Clone>(
    place: &Option<Recipient<P>>,
    message: Message<P>,
    tally: &mut Tally,
) -> Option<Message<P>> {
    let Message { payload, source } = message;
    let mut back = None;
    let mut slot = Some(payload);
    let segment = Segment {
        places: std::slice::from_ref(place),
        numbers: &[0],
        source: &source,
        shared: false,
    };
    Serving { slot: &mut slot, remaining: 1, seen: None, tally }.serve(segment, &mut |full| {
        back = Some(full.message);
        None
    });
    back
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
