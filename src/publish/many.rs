//! A publish to any number of recipients, by the channel itself and by patterns.

use std::mem;
use std::sync::Arc;

use super::after_turn::{Admission, AfterTurn, RoomWait};
use super::merge::{PatternSegments, Segment};
use super::{Interrupt, Published, deliver};
use crate::engine::Engine;
use crate::event::Message;
use crate::inbox::Inbox;
use crate::reentrancy::{Mark, Undelivered};
use crate::trie::{Channel, Counters, Counts, Recipient, Route, Totals, Turn};
use crate::wakeups;

/// How many recipients ahead an inbox is prefetched.
const PREFETCH: usize = 4;

/// Publishes in the turn, to all but the inbox `except`, and does what is left to do after it.
#[inline(never)]
pub(super) fn publish<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    room_wait: RoomWait<'_, P>,
    except: Option<&Inbox<P>>,
    turn: Turn<'_, P>,
) -> Published {
    // Locals are dropped from the last to the first, also during unwinding. What `after` holds runs user code when it
    // is dropped, and so does the payload: after the turn.
    let mut payload = Undelivered::new(payload);
    let mut after = AfterTurn::new(engine, channel, room_wait, except);
    let mut turn = turn;
    let mut delivery = Delivery::new(turn.exact.totals(), &channel.counters);
    delivery.checks_admission |= except.is_some();
    let has_patterns = !turn.patterns.is_empty();
    let mark = Mark::set();
    if has_patterns {
        delivery.serve_with_patterns(&turn, &mut payload, &mut after);
    } else {
        delivery.serve_exact(&turn, &mut payload, &mut after);
    }
    drop(mark);
    let counts = delivery.counts();
    drop(delivery);
    if has_patterns {
        turn.remove_dead(channel);
    }
    drop(turn);
    engine.trie.detach_if_closed(channel);
    // Before it waits for room: who is woken may be the one who makes it.
    wakeups::call_pending();
    drop(payload);
    if after.is_idle() {
        engine.release_deferred();
        // It holds nothing, and would do this once more.
        mem::forget(after);
        return counts.into();
    }
    after.finish(counts)
}

/// A publish on its way through its recipients. Counts what it did when dropped, also during unwinding.
struct Delivery<'a> {
    /// Recipients that the publish has not reached yet.
    remaining: usize,
    /// `AfterTurn::admit` must be asked for each inbox: some take a publish once, are barred for the rest of this turn,
    /// or are excepted from the publish.
    checks_admission: bool,
    /// All recipients but those skipped: what has been delivered so far is `expected - remaining`.
    expected: u64,
    /// What became of the messages for those skipped.
    counts: Counts,
    counters: &'a Counters,
}

/// Where the delivery loop stops. With a word of its own for the variant, which is cheaper to read than a niche.
#[repr(usize)]
enum Stop<'a, P> {
    /// Behind the last slot.
    End,
    /// At the last recipient of the publish, in this slot, which gets the payload itself.
    Last(usize, &'a Recipient<P>),
    /// At the recipient in this slot, which gets nothing more in this turn.
    Barred(usize),
    /// At the recipient in this slot, whose message did not go in the ordinary way.
    Interrupt(usize, Interrupt<P>),
}

impl<'a> Delivery<'a> {
    #[inline]
    fn new(exact: Totals, counters: &'a Counters) -> Self {
        let counts = Counts::of_one(0);
        let mut delivery =
            Self { remaining: 0, checks_admission: false, expected: 0, counts, counters };
        delivery.add(exact);
        delivery
    }

    /// Adds recipients to be served.
    #[inline]
    fn add(&mut self, recipients: Totals) {
        self.remaining += recipients.len;
        self.expected += recipients.len as u64;
        self.checks_admission |= recipients.deduplicating > 0;
    }

    /// Returns what the publish has done so far.
    #[inline]
    fn counts(&self) -> Counts {
        let delivered = self.counts.delivered + self.expected - self.remaining as u64;
        Counts { delivered, ..self.counts }
    }

    /// Delivers to those who have subscribed to the channel itself.
    #[inline(always)]
    fn serve_exact<P: Clone + 'static>(
        &mut self,
        route: &Route<P>,
        payload: &mut Option<P>,
        after: &mut AfterTurn<'_, P>,
    ) {
        if route.exact.totals().blocking > 0 {
            after.start_clock();
        }
        if let Some(source) = &route.source {
            self.serve(&Segment::new(&route.exact, source, false), payload, after);
        }
    }

    /// Delivers to all, by the channel itself and by patterns.
    #[inline(never)]
    fn serve_with_patterns<P: Clone + 'static>(
        &mut self,
        route: &Route<P>,
        payload: &mut Option<P>,
        after: &mut AfterTurn<'_, P>,
    ) {
        let mut patterns = PatternSegments::lock(&route.patterns, after);
        let totals = patterns.totals();
        self.add(totals);
        if totals.blocking > 0 {
            after.start_clock();
        }
        self.serve_exact(route, payload, after);
        patterns.for_each_segment(|segment| self.serve(segment, payload, after));
        if let Some(buffers) = patterns.unlock() {
            after.scratch().merge = buffers;
        }
    }

    /// Delivers to the recipients of `segment`.
    #[inline(always)]
    fn serve<P: Clone>(
        &mut self,
        segment: &Segment<'_, P>,
        payload: &mut Option<P>,
        after: &mut AfterTurn<'_, P>,
    ) {
        let mut from = 0;
        while let Some(original) = &*payload {
            let stop = if self.checks_admission || segment.is_shared {
                self.deliver_clones::<P, false>(segment, from, original, after)
            } else {
                self.deliver_clones::<P, true>(segment, from, original, after)
            };
            let (at, interrupt) = match stop {
                Stop::End => return,
                Stop::Last(at, recipient) => {
                    let Some(payload) = payload.take() else { return };
                    let source = segment.source.get();
                    match deliver(recipient, segment.is_shared, payload, source) {
                        Ok(()) | Err(Interrupt::TaskWoken) => {
                            self.remaining = 0;
                            return;
                        }
                        Err(interrupt) => (at, interrupt),
                    }
                }
                Stop::Barred(at) => {
                    let is_last = self.remaining == 1;
                    let payload = if is_last { payload.take() } else { payload.clone() };
                    let Some(payload) = payload else { return };
                    let message = Message { payload, source: segment.source.get() };
                    (at, Interrupt::Full(message))
                }
                Stop::Interrupt(at, interrupt) => (at, interrupt),
            };
            self.skip();
            self.counts += after.resolve(segment, at, interrupt);
            self.checks_admission |= after.has_barred();
            from = at + 1;
        }
    }

    /// Skips a recipient that does not get the message in the ordinary way.
    fn skip(&mut self) {
        self.remaining -= 1;
        self.expected -= 1;
    }

    /// The delivery loop: delivers clones of `payload` from slot `from` on, to all but the last recipient of the
    /// publish. The caller deals with whatever stops it, and resumes behind that slot.
    ///
    /// `PLAIN` is `true` if no recipient is checked and none is shared, so that the compiler leaves out what that
    /// takes. The loop is a function of its own because in its caller it would have no registers left.
    #[inline(never)]
    fn deliver_clones<'s, P: Clone, const PLAIN: bool>(
        &mut self,
        segment: &'s Segment<'_, P>,
        from: usize,
        payload: &P,
        after: &mut AfterTurn<'_, P>,
    ) -> Stop<'s, P> {
        let slots = segment.slots;
        let mut at = from;
        while let Some(slot) = slots.get(at) {
            if let Some(Some(later)) = slots.get(at + PREFETCH) {
                later.inbox.prefetch();
            }
            if let Some(recipient) = slot {
                let admission = if PLAIN || !self.checks_admission {
                    Admission::Send
                } else {
                    after.admit(&recipient.inbox)
                };
                match admission {
                    Admission::Send if self.remaining == 1 => return Stop::Last(at, recipient),
                    Admission::Send => {
                        let is_shared = !PLAIN && segment.is_shared;
                        let (payload, source) = (payload.clone(), segment.source.get());
                        match deliver(recipient, is_shared, payload, source) {
                            Ok(()) | Err(Interrupt::TaskWoken) => self.remaining -= 1,
                            Err(interrupt) => return Stop::Interrupt(at, interrupt),
                        }
                    }
                    Admission::Bar => return Stop::Barred(at),
                    Admission::Skip => self.skip(),
                }
            }
            at += 1;
        }
        Stop::End
    }
}

impl Drop for Delivery<'_> {
    #[inline]
    fn drop(&mut self) {
        self.counters.add(self.counts());
    }
}
