//! What a publish puts off until its channel's turn is over, and the overflow policies as far as the publisher
//! carries them out. A publish to exact recipients that meets no full inbox leaves nothing.

use std::collections::VecDeque;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use super::merge::Segment;
use super::scratch::{Scratch, ScratchGuard};
use super::{Interrupt, Published, count_entered, deliver};
use crate::engine::Engine;
use crate::event::Message;
use crate::inbox::{BlockedSend, Inbox, Overflowed};
use crate::reentrancy::for_each_then_resume;
use crate::trie::{Channel, Counts, Recipient};
use crate::wakeups;

/// Messages that wait for room, with their recipients.
pub(super) type Waits<P> = VecDeque<(Recipient<P>, BlockedSend<P>)>;

/// How a publish waits for room in [`Overflow::Block`](crate::Overflow::Block) inboxes.
pub(super) enum RoomWait<'a, P: 'static> {
    /// On the calling thread, for each inbox until its timeout, which counts from when the publish began: from here, if
    /// that is known.
    OnThread(Option<Instant>),
    /// In a task: what waits is left here.
    #[cfg_attr(not(feature = "async"), expect(dead_code))]
    InTask(&'a mut Waits<P>),
}

/// See the module's documentation. Dropped after the turn, also during unwinding.
pub(super) struct AfterTurn<'a, P: 'static> {
    engine: &'a Engine<P>,
    channel: &'a Arc<Channel<P>>,
    room_wait: RoomWait<'a, P>,
    /// The inbox that gets nothing of this publish.
    except: Option<&'a Inbox<P>>,
    /// Borrowed when first needed.
    scratch: Option<ScratchGuard<P>>,
}

/// What an inbox gets of a publish that has another message for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Send,
    /// Nothing: it takes each publish once and has got this one, or is excepted from it.
    Skip,
    /// It is treated as full for the rest of this turn: it has a message that waits for room, or has been disconnected,
    /// and room that was made since must not let a later message overtake.
    Bar,
}

impl<'a, P> AfterTurn<'a, P> {
    #[inline]
    pub(super) fn new(
        engine: &'a Engine<P>,
        channel: &'a Arc<Channel<P>>,
        room_wait: RoomWait<'a, P>,
        except: Option<&'a Inbox<P>>,
    ) -> Self {
        Self { engine, channel, room_wait, except, scratch: None }
    }

    /// Takes the present as the time when the publish began, unless that is known.
    pub(super) fn start_clock(&mut self) {
        if let RoomWait::OnThread(started) = &mut self.room_wait {
            started.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn scratch(&mut self) -> &mut Scratch<P> {
        self.scratch.get_or_insert_with(ScratchGuard::borrow)
    }

    /// Decides what `inbox` gets, in the turn.
    #[inline(never)]
    pub(super) fn admit(&mut self, inbox: &Arc<Inbox<P>>) -> Admission {
        if self.except.is_some_and(|except| ptr::eq(except, &**inbox)) {
            return Admission::Skip;
        }
        let address = Arc::as_ptr(inbox).addr();
        let scratch = self.scratch();
        if inbox.settings().dedupe && !scratch.seen.insert(address) {
            return Admission::Skip;
        }
        if scratch.barred.contains(&address) { Admission::Bar } else { Admission::Send }
    }

    /// `true` if some inbox gets nothing more in this turn.
    pub(super) fn has_barred(&self) -> bool {
        self.scratch.as_ref().is_some_and(|scratch| !scratch.barred.is_empty())
    }

    /// Deals with a message for the recipient in slot `at` that did not go in the ordinary way, in the turn.
    #[cold]
    pub(super) fn resolve(
        &mut self,
        segment: &Segment<'_, P>,
        at: usize,
        mut interrupt: Interrupt<P>,
    ) -> Counts {
        let mut counts = Counts::default();
        let Some(recipient) = &segment.slots[at] else { return counts };
        let inbox = &recipient.inbox;
        let hash = self.channel.hash;
        let scratch = self.scratch();
        loop {
            let message = match interrupt {
                Interrupt::Full(message) => message,
                Interrupt::Undeliverable(message) => break scratch.dead.push(message),
                Interrupt::TaskWoken => {
                    counts.delivered += 1;
                    break;
                }
            };
            match inbox.overflow(message, segment.ids[at], hash) {
                Overflowed::Retry { message: Message { payload, source }, evicted } => {
                    counts.evicted += u64::from(evicted.is_some());
                    scratch.dead.extend(evicted);
                    if let Err(again) = deliver(recipient, segment.is_shared, payload, source) {
                        interrupt = again;
                        continue;
                    }
                    counts.delivered += 1;
                }
                Overflowed::Conflated { replaced, evicted } => {
                    counts.evicted += u64::from(evicted.is_some());
                    counts.conflated += u64::from(replaced.is_some());
                    scratch.dead.extend(replaced.or(evicted));
                    count_entered(recipient, segment.is_shared);
                    counts.delivered += 1;
                }
                Overflowed::Undeliverable(message) => scratch.dead.push(message),
                Overflowed::Refused(message) => {
                    scratch.dead.push(message);
                    counts.dropped += 1;
                }
                Overflowed::Disconnected(message) => {
                    scratch.dead.push(message);
                    counts.dropped += 1;
                    scratch.disconnected.push(inbox.member_id());
                    scratch.barred.insert(Arc::as_ptr(inbox).addr());
                }
                Overflowed::Blocked(wait) => {
                    let recipient = Recipient::new(recipient.to.clone(), Arc::clone(inbox));
                    scratch.waits.push_back((recipient, wait));
                    scratch.barred.insert(Arc::as_ptr(inbox).addr());
                }
            }
            break;
        }
        counts
    }

    /// `true` if nothing is left to do, and nothing held.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.scratch.is_none()
    }

    /// Does what is left to do, after the turn, for a publish that did `counts` in it. Returns what it did in all.
    #[inline(never)]
    pub(super) fn finish(mut self, counts: Counts) -> Published {
        let waited = self.carry_out();
        let mut published = Published::from(counts);
        published.delivered += waited.delivered as usize;
        published.dropped += waited.dropped as usize;
        published
    }

    fn carry_out(&mut self) -> Counts {
        let Some(scratch) = &mut self.scratch else { return Counts::default() };
        disconnect(self.engine, self.channel, &mut scratch.disconnected);
        // Before waiting, so that payloads are not held while it lasts.
        scratch.drop_dead();
        if scratch.waits.is_empty() {
            return Counts::default();
        }
        let started = match &mut self.room_wait {
            RoomWait::OnThread(started) => started.unwrap_or_else(Instant::now),
            RoomWait::InTask(waits) => {
                waits.append(&mut scratch.waits);
                return Counts::default();
            }
        };
        while let Some((recipient, wait)) = scratch.waits.pop_front() {
            let Scratch { waited, dead, .. } = &mut **scratch;
            // A deadline beyond what the clock can say is none.
            let deadline = wait.timeout().and_then(|timeout| started.checked_add(timeout));
            let send = |Message { payload, source }| {
                match deliver(&recipient, false, payload, source) {
                    Ok(()) | Err(Interrupt::TaskWoken) => waited.delivered += 1,
                    Err(Interrupt::Full(message)) => return Some(message),
                    Err(Interrupt::Undeliverable(message)) => drop(message),
                }
                None
            };
            match wait.finish(deadline, send) {
                None => recipient.hand_over_count(),
                Some(unsent) => {
                    dead.push(unsent.message);
                    waited.dropped += u64::from(unsent.is_lost);
                }
            }
            // Before it sleeps for the next inbox, or takes the turn: all who were woken, and the next to send.
            wakeups::call_pending();
        }
        let waited = mem::take(&mut scratch.waited);
        self.engine.trie.count(self.channel, waited);
        scratch.drop_dead();
        waited
    }

    /// Gives up what is left to do, where the publish unwinds.
    #[cold]
    fn give_up(&mut self) {
        let Some(scratch) = &mut self.scratch else { return };
        disconnect(self.engine, self.channel, &mut scratch.disconnected);
        let mut waited = mem::take(&mut scratch.waited);
        while let Some((_, wait)) = scratch.waits.pop_front() {
            if let Some(unsent) = wait.give_up() {
                scratch.dead.push(unsent.message);
                waited.dropped += u64::from(unsent.is_lost);
            }
        }
        if waited.delivered + waited.dropped > 0 {
            self.engine.trie.count(self.channel, waited);
        }
    }
}

impl<P> Drop for AfterTurn<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.scratch.is_some() {
            self.engine.trie.detach_if_closed(self.channel);
            self.give_up();
        }
        self.engine.release_deferred();
        wakeups::call_pending();
    }
}

fn disconnect<P>(engine: &Engine<P>, channel: &Channel<P>, members: &mut Vec<u64>) {
    if !members.is_empty() {
        let disconnect = |member| engine.disconnect(member, channel.name());
        for_each_then_resume(members.drain(..), disconnect);
    }
}
