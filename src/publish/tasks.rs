//! Publishing in tasks: what must wait for room waits in a future, not on the thread.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::future::FusedFuture;

use super::after_turn::{RoomWait, Waits};
use super::look_ahead::{Found, LookAhead, OneForAll, find_listened_to};
use super::{Published, deliver, publish_when_free};
use crate::engine::Engine;
use crate::event::Message;
use crate::give_way::GiveWay;
use crate::inbox::Inbox;
use crate::publish::Interrupt;
use crate::reentrancy::{Panics, for_each_then_resume};
use crate::stats::Receipt;
use crate::trie::{Channel, Counts};
use crate::wakeups;

/// What a poll panics with after the future has completed.
const POLLED_AGAIN: &str = "a future was polled after it had completed";

/// A future that publishes a message, and waits for room in full inboxes that are
/// [`Overflow::Block`](crate::Overflow::Block); see [`Topic::publish_async`](crate::Topic::publish_async).
///
/// It publishes when it is first polled. If it is dropped while it waits, the messages that have not entered count as
/// dropped, and their readers get [`Lagged`](crate::Event::Lagged). After 32 polls of a task that were ready, the next
/// is `Pending` once, for the sake of other tasks; what has room has then been delivered.
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct Publish<'a, P = Arc<str>> {
    engine: &'a Engine<P>,
    state: State<'a, P>,
    /// The inbox that gets nothing.
    except: Option<&'a Inbox<P>>,
    /// The messages that wait, with their recipients.
    waits: Waits<P>,
    /// Messages that did not enter, to be dropped.
    unsent: Vec<Message<P>>,
    /// What became of messages that waited, as far as it is not counted yet. It lies here, like the rest, so that a
    /// panic in user code leaves it in order.
    waited: Counts,
    published: Published,
    give_way: GiveWay,
}

enum State<'a, P> {
    /// Not polled yet.
    Unpublished(Target<'a, P>, P),
    /// Published, on a channel unless the bus is closed. Messages may wait for room.
    Published(Option<Arc<Channel<P>>>),
    Done,
}

/// Where to publish.
pub(crate) enum Target<'a, P> {
    Topic(&'a Arc<Channel<P>>),
    Name(&'a str),
    /// The entry of a name that has been looked up.
    Found(Arc<Channel<P>>),
}

// Nothing in it is pinned.
impl<P> Unpin for Publish<'_, P> {}

impl<'a, P> Publish<'a, P> {
    pub(crate) fn new(engine: &'a Engine<P>, target: Target<'a, P>, payload: P) -> Self {
        Self::in_state(engine, State::Unpublished(target, payload))
    }

    /// One that reached nobody, and is counted.
    fn of_nothing(engine: &'a Engine<P>) -> Self {
        Self::in_state(engine, State::Published(None))
    }

    fn in_state(engine: &'a Engine<P>, state: State<'a, P>) -> Self {
        Self {
            engine,
            state,
            except: None,
            waits: Waits::new(),
            unsent: Vec::new(),
            waited: Counts::default(),
            published: Published { delivered: 0, dropped: 0 },
            give_way: GiveWay::default(),
        }
    }

    /// Excepts an inbox from the publish.
    pub(crate) fn except(mut self, inbox: &'a Inbox<P>) -> Self {
        self.except = Some(inbox);
        self
    }

    /// Polls the messages that wait, one inbox after another.
    fn poll_waits(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { waits, unsent, waited, .. } = self;
        while let Some((recipient, wait)) = waits.front_mut() {
            let send = |Message { payload, source }| {
                match deliver(recipient, false, payload, source) {
                    Ok(()) | Err(Interrupt::TaskWoken) => waited.delivered += 1,
                    Err(Interrupt::Full(message)) => return Some(message),
                    Err(Interrupt::Undeliverable(message)) => unsent.push(message),
                }
                None
            };
            match ready!(wait.poll(context, send)) {
                None => recipient.hand_over_count(),
                Some(refused) => {
                    unsent.push(refused.message);
                    waited.dropped += u64::from(refused.is_lost);
                }
            }
            waits.pop_front();
        }
        Poll::Ready(())
    }

    /// Counts what became of messages that waited.
    fn count_waited(&mut self) {
        let waited = mem::take(&mut self.waited);
        if let State::Published(Some(channel)) = &self.state
            && waited.delivered + waited.dropped > 0
        {
            self.published.delivered += waited.delivered as usize;
            self.published.dropped += waited.dropped as usize;
            self.engine.trie.count_late(channel, waited);
        }
    }
}

impl<P: Clone + Send + 'static> Publish<'_, P> {
    /// Publishes, and leaves what must wait in `waits`.
    fn publish(&mut self, target: Target<'_, P>, payload: P) {
        let engine = self.engine;
        let (mut payload, mut hash) = (payload, 0);
        let mut found = None;
        if let Target::Found(channel) = &target {
            hash = channel.hash;
            found = Some(Arc::clone(channel));
        }
        loop {
            let channel = found.take().or_else(|| match &target {
                Target::Topic(channel) => Some(Arc::clone(channel)),
                Target::Name(name) => {
                    hash = engine.trie.hash(name);
                    engine.trie.entry_for_publish(name, hash)
                }
                Target::Found(channel) => engine.trie.entry_for_publish(channel.name(), hash),
            });
            // Before it publishes, which can panic when messages wait already.
            self.state = State::Published(channel.clone());
            let Some(channel) = channel else { return engine.trie.count_unreached(hash) };
            let room_wait = RoomWait::InTask(&mut self.waits);
            match publish_when_free(engine, &channel, payload, room_wait, self.except) {
                Ok(published) => {
                    self.published = published;
                    self.waits.iter().for_each(|(_, wait)| wait.turn_over_to_task());
                    return;
                }
                // Only closing detaches the entry that a topic holds. Any other is looked up again.
                Err(_) if matches!(target, Target::Topic(_)) => {
                    return engine.trie.count_unreached(channel.hash);
                }
                Err(back) => payload = back,
            }
        }
    }
}

impl<P: Clone + Send + 'static> Future for Publish<'_, P> {
    type Output = Receipt;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Receipt> {
        let this = &mut *self;
        this.engine.check_reentrancy();
        let _wakeups = wakeups::CallOnDrop;
        match mem::replace(&mut this.state, State::Done) {
            State::Done => panic!("{POLLED_AGAIN}"),
            State::Unpublished(target, payload) => this.publish(target, payload),
            published @ State::Published(_) => this.state = published,
        }
        let polled = this.poll_waits(context);
        this.count_waited();
        // Before user code runs: who is woken may be who makes room.
        wakeups::call_pending();
        if !this.unsent.is_empty() {
            for_each_then_resume(mem::take(&mut this.unsent), drop);
        }
        if polled.is_pending() {
            this.give_way.was_pending();
            return Poll::Pending;
        }
        // Only now: what has room is delivered at the first poll.
        if this.give_way.must_give_way(context, || true) {
            return Poll::Pending;
        }
        this.give_way.was_ready(context);
        this.state = State::Done;
        Poll::Ready(this.published.into())
    }
}

/// A future that publishes one payload to many channels, and waits for room in full inboxes that are
/// [`Overflow::Block`](crate::Overflow::Block); see [`Bus::publish_many_async`](crate::Bus::publish_many_async).
///
/// It resolves to the sum of the receipts.
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct PublishMany<'a, P, I: Iterator> {
    look_ahead: LookAhead<'a, P, I>,
    payload: OneForAll<P>,
    current: Option<Publish<'a, P>>,
    sum: Receipt,
    is_done: bool,
}

// Nothing in it is pinned.
impl<P, I: Iterator> Unpin for PublishMany<'_, P, I> {}

impl<'a, P, I> PublishMany<'a, P, I>
where
    P: Clone + Send + 'static,
    I: Iterator<Item: AsRef<str>>,
{
    pub(crate) fn new(engine: &'a Engine<P>, names: I, payload: P) -> Self {
        let look_ahead = LookAhead::new(engine, names, AsRef::as_ref);
        let payload = OneForAll::new(payload);
        Self { look_ahead, payload, current: None, sum: Receipt::default(), is_done: false }
    }
}

impl<P, I> Future for PublishMany<'_, P, I>
where
    P: Clone + Send + 'static,
    I: Iterator<Item: AsRef<str>>,
{
    type Output = Receipt;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Receipt> {
        let Self { look_ahead, payload, current, sum, is_done } = &mut *self;
        let engine = look_ahead.engine;
        assert!(!*is_done, "{POLLED_AGAIN}");
        loop {
            if let Some(publish) = current {
                *sum += ready!(Pin::new(publish).poll(context));
                *current = None;
            }
            engine.check_reentrancy();
            let Some((Found { channel, hash, item }, is_last)) = look_ahead.next() else {
                *is_done = true;
                payload.clear();
                return Poll::Ready(*sum);
            };
            let name = (look_ahead.name_of)(&item);
            *current = Some(match find_listened_to(engine, channel, name, hash) {
                Some(channel) => Publish::new(engine, Target::Found(channel), payload.get(is_last)),
                None => Publish::of_nothing(engine),
            });
        }
    }
}

impl<P, I> FusedFuture for PublishMany<'_, P, I>
where
    P: Clone + Send + 'static,
    I: Iterator<Item: AsRef<str>>,
{
    fn is_terminated(&self) -> bool {
        self.is_done
    }
}

impl<P, I: Iterator> fmt::Debug for PublishMany<'_, P, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishMany").field("sum", &self.sum).finish_non_exhaustive()
    }
}

impl<P: Clone + Send + 'static> FusedFuture for Publish<'_, P> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

impl<P> Drop for Publish<'_, P> {
    fn drop(&mut self) {
        if self.waits.is_empty() && self.unsent.is_empty() {
            return self.count_waited();
        }
        let _wakeups = wakeups::CallOnDrop;
        let Self { waits, unsent, waited, .. } = self;
        let mut panics = Panics::default();
        // With a recipient, an inbox may go, and its messages with it.
        panics.for_each(waits.drain(..), |(_recipient, wait)| {
            if let Some(refused) = wait.give_up() {
                unsent.push(refused.message);
                waited.dropped += u64::from(refused.is_lost);
            }
        });
        self.count_waited();
        wakeups::call_pending();
        panics.for_each(self.unsent.drain(..), drop);
        panics.resume();
    }
}

impl<P> fmt::Debug for Publish<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("waits", &self.waits.len()).finish_non_exhaustive()
    }
}
