//! Publishing in tasks: what must wait for room waits in a future, not on the thread.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::after_turn::{RoomWait, Waits};
use super::{Published, deliver, publish_when_free};
use crate::engine::Engine;
use crate::event::Message;
use crate::inbox::Unsent;
use crate::publish::Interrupt;
use crate::reentrancy::for_each_then_resume;
use crate::stats::Receipt;
use crate::trie::{Channel, Counts};
use crate::wakeups;

/// A future that publishes a message, and waits for room in full inboxes that are
/// [`Overflow::Block`](crate::Overflow::Block); see [`Topic::publish_async`](crate::Topic::publish_async).
///
/// It publishes when it is first polled. If it is dropped while it waits, the messages that have not entered count as
/// dropped.
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct Publish<'a, P: 'static = Arc<str>> {
    engine: &'a Engine<P>,
    state: State<'a, P>,
    waits: Waits<P>,
    published: Published,
}

enum State<'a, P> {
    /// Not polled yet.
    Unpublished(Target<'a, P>, P),
    /// Messages wait for room.
    Waiting(Arc<Channel<P>>),
    Done,
}

/// Where to publish.
pub(crate) enum Target<'a, P> {
    Topic(&'a Arc<Channel<P>>),
    Name(&'a str),
}

// Nothing in it is pinned.
impl<P> Unpin for Publish<'_, P> {}

impl<'a, P> Publish<'a, P> {
    pub(crate) fn new(engine: &'a Engine<P>, target: Target<'a, P>, payload: P) -> Self {
        let published = Published { delivered: 0, dropped: 0 };
        let state = State::Unpublished(target, payload);
        Self { engine, state, waits: Waits::new(), published }
    }

    /// Polls the messages that wait, one inbox after another. Returns the messages that did not enter.
    fn poll_waits(
        &mut self,
        channel: &Arc<Channel<P>>,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Message<P>>> {
        let (mut counts, mut unsent) = (Counts::default(), Vec::new());
        let mut is_pending = false;
        while let Some((recipient, wait)) = self.waits.front_mut() {
            let send = |Message { payload, source }| {
                match deliver(recipient, false, payload, source) {
                    Ok(()) | Err(Interrupt::TaskWoken) => counts.delivered += 1,
                    Err(Interrupt::Full(message)) => return Some(message),
                    Err(Interrupt::Undeliverable(message)) => unsent.push(message),
                }
                None
            };
            let Poll::Ready(refused) = wait.poll(context, send) else {
                is_pending = true;
                break;
            };
            match refused {
                None => recipient.hand_over_count(),
                Some(Unsent { message, is_lost }) => {
                    unsent.push(message);
                    counts.dropped += u64::from(is_lost);
                }
            }
            self.waits.pop_front();
        }
        self.count(channel, counts);
        // Those who were woken, and whoever waits for room behind this.
        wakeups::call_pending();
        if is_pending && unsent.is_empty() {
            return Poll::Pending;
        }
        if is_pending {
            for_each_then_resume(unsent, drop);
            return Poll::Pending;
        }
        Poll::Ready(unsent)
    }

    /// Counts what became of messages that waited.
    fn count(&mut self, channel: &Arc<Channel<P>>, counts: Counts) {
        if counts.delivered + counts.dropped > 0 {
            self.published.delivered += counts.delivered as usize;
            self.published.dropped += counts.dropped as usize;
            self.engine.trie.count(channel, counts);
        }
    }
}

impl<P: Clone + Send + 'static> Publish<'_, P> {
    /// Publishes, and leaves what must wait in `waits`. Returns the channel's entry, if there is one.
    fn publish(&mut self, target: Target<'_, P>, payload: P) -> Option<Arc<Channel<P>>> {
        let engine = self.engine;
        let (mut payload, mut hash) = (payload, 0);
        loop {
            let channel = match target {
                Target::Topic(channel) => Some(Arc::clone(channel)),
                Target::Name(name) => {
                    hash = engine.trie.hash(name);
                    engine.trie.entry_for_publish(name, hash)
                }
            };
            let Some(channel) = channel else {
                engine.trie.count_unreached(hash);
                return None;
            };
            match publish_when_free(engine, &channel, payload, RoomWait::InTask(&mut self.waits)) {
                Ok(published) => {
                    self.published = published;
                    return Some(channel);
                }
                // Only closing detaches the entry that a topic holds. Any other is looked up again.
                Err(_) if matches!(target, Target::Topic(_)) => {
                    engine.trie.count_unreached(channel.hash);
                    return None;
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
        let channel = match mem::replace(&mut this.state, State::Done) {
            State::Done => panic!("a future was polled after it had completed"),
            State::Waiting(channel) => channel,
            State::Unpublished(target, payload) => match this.publish(target, payload) {
                Some(channel) => channel,
                None => return Poll::Ready(this.published.into()),
            },
        };
        this.state = State::Waiting(Arc::clone(&channel));
        let unsent = ready!(this.poll_waits(&channel, context));
        this.state = State::Done;
        for_each_then_resume(unsent, drop);
        Poll::Ready(this.published.into())
    }
}

impl<P> Drop for Publish<'_, P> {
    fn drop(&mut self) {
        let State::Waiting(channel) = mem::replace(&mut self.state, State::Done) else { return };
        let mut counts = Counts::default();
        let mut unsent = Vec::new();
        while let Some((_, wait)) = self.waits.pop_front() {
            if let Some(Unsent { message, is_lost }) = wait.give_up() {
                unsent.push(message);
                counts.dropped += u64::from(is_lost);
            }
        }
        if counts.dropped > 0 {
            self.engine.trie.count_late(&channel, counts);
        }
        wakeups::call_pending();
        for_each_then_resume(unsent, drop);
    }
}

impl<P> fmt::Debug for Publish<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("waits", &self.waits.len()).finish_non_exhaustive()
    }
}
