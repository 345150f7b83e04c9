//! One publish: from the look-up of its channel to what is left to do after the channel's turn.
//!
//! In the turn, each recipient gets a clone of the payload and the last one the payload itself ([`many`]); where
//! there is one recipient, nothing is cloned and no user code runs ([`one`]). Whatever runs user code or takes time
//! comes after the turn ([`after_turn`]): dropping evicted payloads, closing disconnected subscribers, waiting for
//! room.
//!
//! Every message that enters an inbox's queue is sent, looked after and counted by [`deliver`].

mod after_turn;
mod look_ahead;
mod many;
mod match_count;
mod merge;
mod one;
mod scratch;
#[cfg(feature = "async")]
mod tasks;

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};

use crate::engine::Engine;
use crate::event::Message;
use crate::inbox::{Attention, Inbox};
use crate::reentrancy::Undelivered;
use crate::source::SourceRef;
use crate::stats::Receipt;
use crate::sync::{Ordering, add_exclusively};
use crate::trie::{Channel, Counts, EntryGuard, Recipient, Turn};

use after_turn::RoomWait;
pub(crate) use look_ahead::{by_names, by_names_each};
pub(crate) use match_count::{match_count_by_name, match_count_by_topic};
#[cfg(feature = "async")]
pub(crate) use tasks::Target;
#[cfg(feature = "async")]
pub use tasks::{Publish, PublishMany};

/// What a publish did: messages. Two words, returned in registers.
#[derive(Clone, Copy)]
pub(crate) struct Published {
    delivered: usize,
    dropped: usize,
}

impl From<Counts> for Published {
    #[inline]
    fn from(counts: Counts) -> Self {
        Self { delivered: counts.delivered as usize, dropped: counts.dropped as usize }
    }
}

impl From<Published> for Receipt {
    #[inline]
    fn from(Published { delivered, dropped }: Published) -> Self {
        Self { matched: delivered + dropped, delivered, dropped }
    }
}

/// Publishes `payload` on the channel `name`.
#[inline]
pub(crate) fn by_name<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    name: &str,
    payload: P,
) -> Receipt {
    engine.check_reentrancy();
    let hash = engine.trie.hash(name);
    let Some(channel) = engine.trie.entry_for_publish(name, hash) else {
        return reach_nobody(engine, hash);
    };
    publish(engine, &channel, payload, |payload| by_name_again(engine, name, hash, payload))
}

/// Publishes `payload` on the channel `name` to all but the inbox `except`.
pub(crate) fn by_name_except<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    name: &str,
    payload: P,
    except: &Inbox<P>,
) -> Receipt {
    engine.check_reentrancy();
    publish_until_found(engine, name, engine.trie.hash(name), payload, Some(except))
}

/// Publishes after the entry was removed before its turn came.
#[cold]
#[inline(never)]
fn by_name_again<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    name: &str,
    hash: u64,
    payload: P,
) -> Receipt {
    publish_until_found(engine, name, hash, payload, None)
}

/// Publishes to all but the inbox `except`: looks the name up until an entry is found that stays.
fn publish_until_found<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    name: &str,
    hash: u64,
    mut payload: P,
    except: Option<&Inbox<P>>,
) -> Receipt {
    while let Some(channel) = engine.trie.entry_for_publish(name, hash) {
        match publish_when_free(engine, &channel, payload, RoomWait::OnThread(None), except) {
            Ok(published) => return published.into(),
            Err(back) => payload = back,
        }
    }
    reach_nobody(engine, hash)
}

/// Publishes on the channel `name` what `make` returns, which is called only if something matches.
pub(crate) fn by_name_with<P: Clone + Send + 'static, E>(
    engine: &Engine<P>,
    name: &str,
    make: impl FnOnce() -> Result<P, E>,
) -> Result<Receipt, E> {
    engine.check_reentrancy();
    let hash = engine.trie.hash(name);
    while let Some(channel) = engine.trie.entry_for_publish(name, hash) {
        // An entry that is detached is looked up again.
        let Some(matched) = match_count::probe(engine, &channel) else { continue };
        if matched == 0 {
            return Ok(Receipt::default());
        }
        let payload = make()?;
        engine.check_reentrancy();
        let detached = |payload| by_name_again(engine, name, hash, payload);
        return Ok(publish(engine, &channel, payload, detached));
    }
    Ok(reach_nobody(engine, hash))
}

/// Publishes `payload` on a channel that a topic holds.
///
/// Not inlined, so that it has all registers to itself, wherever it is called: else some of what it works with lies in
/// memory.
#[inline(never)]
pub(crate) fn by_topic<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
) -> Receipt {
    // Only closing detaches the entry that a topic holds.
    let detached = |_| reach_nobody(engine, channel.hash);
    // Not `check_reentrancy`, which can panic: the payload would have to lie in memory, to be dropped then. The call
    // below owns it.
    if engine.must_check_reentrancy() {
        return publish_contended(engine, channel, payload, detached);
    }
    publish(engine, channel, payload, detached)
}

/// Publishes on a channel that a topic holds what `make` returns, which is called only if something matches.
pub(crate) fn by_topic_with<P: Clone + Send + 'static, E>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    make: impl FnOnce() -> Result<P, E>,
) -> Result<Receipt, E> {
    engine.check_reentrancy();
    match match_count::probe(engine, channel) {
        Some(0) => Ok(Receipt::default()),
        Some(_) => Ok(by_topic(engine, channel, make()?)),
        None => Ok(reach_nobody(engine, channel.hash)),
    }
}

/// Ends a publish on a closed bus.
#[cold]
fn reach_nobody<P>(engine: &Engine<P>, hash: u64) -> Receipt {
    engine.trie.count_unreached(hash);
    Receipt::default()
}

/// Publishes to all that match, or calls `detached` if the entry is detached or the bus closed.
///
/// The payload does not come back by a `Result`, which would put it into memory: see "Store forwarding" in the
/// internals.
#[inline]
fn publish<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    detached: impl FnOnce(P) -> Receipt,
) -> Receipt {
    let guard = engine.trie.guard(channel);
    let Some(mut turn) = guard.try_turn() else {
        drop(guard);
        return publish_contended(engine, channel, payload, detached);
    };
    if must_not_publish(engine, &turn) {
        drop(turn);
        return detached(give_back(payload, guard));
    }
    turn.count_use();
    engine.trie.refresh(channel, &mut turn);
    one::publish(engine, channel, payload, turn).into()
}

/// Publishes where the turn was taken, or a check of re-entrancy is due.
#[cold]
#[inline(never)]
fn publish_contended<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    detached: impl FnOnce(P) -> Receipt,
) -> Receipt {
    engine.check_reentrancy();
    match publish_when_free(engine, channel, payload, RoomWait::OnThread(None), None) {
        Ok(published) => published.into(),
        Err(payload) => detached(payload),
    }
}

/// Waits for the turn, and publishes to all but the inbox `except`. The payload comes back if the entry is detached or
/// the bus closed.
#[inline(never)]
fn publish_when_free<P: Clone + Send + 'static>(
    engine: &Engine<P>,
    channel: &Arc<Channel<P>>,
    payload: P,
    room_wait: RoomWait<'_, P>,
    except: Option<&Inbox<P>>,
) -> Result<Published, P> {
    if engine.trie.is_closed() {
        // The turn may be taken by a publish that has outlived the closing.
        return Err(payload);
    }
    let room_wait = match room_wait {
        // Timeouts run from here.
        RoomWait::OnThread(_) => RoomWait::OnThread(Some(Instant::now())),
        in_task => in_task,
    };
    #[cfg(test)]
    before_waiting::run();
    let guard = engine.trie.guard(channel);
    let mut turn = guard.turn();
    if must_not_publish(engine, &turn) {
        drop(turn);
        return Err(give_back(payload, guard));
    }
    turn.count_use();
    engine.trie.refresh(channel, &mut turn);
    Ok(many::publish(engine, channel, payload, room_wait, except, turn))
}

/// `true` if the entry is detached, or the bus closed. If closing finds a turn taken, whoever has the turn detaches the
/// entry later; until then, another publish can get the turn.
#[inline(always)]
fn must_not_publish<P>(engine: &Engine<P>, turn: &Turn<'_, P>) -> bool {
    turn.is_detached() || engine.trie.is_closed()
}

/// Drops the guard of an entry that `payload` cannot be published on. On a closed bus, inboxes may go with it, and the
/// messages in them.
#[cold]
#[inline(never)]
fn give_back<P>(payload: P, guard: EntryGuard<'_, P>) -> P {
    let mut payload = Undelivered::new(payload);
    drop(guard);
    payload.take().unwrap_or_else(|| unreachable!("nobody took it"))
}

/// What keeps the delivery of a message from being the ordinary one.
enum Interrupt<P> {
    /// The inbox is full: its overflow policy decides.
    Full(Message<P>),
    /// The end of the inbox has been read: the message concerns nobody.
    Undeliverable(Message<P>),
    /// The message was delivered, and counted. But it woke a task, whose waker is to be called after the turn.
    TaskWoken,
}

/// Sends a message to a recipient, wakes who waits for it, and counts it.
///
/// `is_shared` says that publishes on other channels deliver by the same subscription at the same time.
#[inline(always)]
fn deliver<P>(
    recipient: &Recipient<P>,
    is_shared: bool,
    payload: P,
    source: SourceRef,
) -> Result<(), Interrupt<P>> {
    recipient.to.send_message(payload, source).map_err(Interrupt::Full)?;
    if recipient.inbox.needs_attention() {
        return attend(recipient, is_shared);
    }
    count_entered(recipient, is_shared);
    Ok(())
}

/// Wakes who waits for a message that has just been sent, and counts the message.
///
/// Not cold: where tasks receive, nearly every message comes by here.
#[inline(never)]
fn attend<P>(recipient: &Recipient<P>, is_shared: bool) -> Result<(), Interrupt<P>> {
    let result = match recipient.inbox.after_send() {
        Attention::Nothing => Ok(()),
        Attention::TaskWoken => Err(Interrupt::TaskWoken),
        Attention::Undeliverable(message) => return Err(Interrupt::Undeliverable(message)),
    };
    count_entered(recipient, is_shared);
    result
}

/// Counts a message that has entered by the subscription of `recipient`.
#[inline(always)]
fn count_entered<P>(recipient: &Recipient<P>, is_shared: bool) {
    if is_shared {
        // Relaxed: a sum, exact at rest.
        recipient.entered.fetch_add(1, Ordering::Relaxed);
    } else {
        add_exclusively(&recipient.entered, 1);
    }
}

trait SendMessage<P> {
    /// Sends a message of these parts. It comes back if there is no room.
    fn send_message(&self, payload: P, source: SourceRef) -> Result<(), Message<P>>;
}

/// The one call of `try_send`, so that crossbeam's code is inlined here. The parts of a message come in registers and
/// are put together where they are written into the queue: a message passed through memory would cost a
/// store-forwarding stall.
///
/// It is a method of crossbeam's own type because the compiler divides a program into units by the modules that types
/// are defined in, and inlines nothing large across units: so it is compiled together with `try_send`.
impl<P> SendMessage<P> for Sender<Message<P>> {
    #[inline(never)]
    fn send_message(&self, payload: P, source: SourceRef) -> Result<(), Message<P>> {
        self.try_send(Message { payload, source }).map_err(TrySendError::into_inner)
    }
}

/// What a test does right before a publish waits for a turn that is taken.
#[cfg(test)]
pub(crate) mod before_waiting {
    use std::cell::RefCell;

    type Code = Box<dyn FnOnce()>;

    thread_local! {
        static CODE: RefCell<Option<Code>> = const { RefCell::new(None) };
    }

    /// Has `code` run by the next publish of this thread that finds the turn taken.
    pub(crate) fn set(code: impl FnOnce() + 'static) {
        CODE.set(Some(Box::new(code)));
    }

    pub(super) fn run() {
        if let Some(code) = CODE.take() {
            code();
        }
    }

    /// `true` if what was set has been run.
    pub(crate) fn has_run() -> bool {
        CODE.with_borrow(Option::is_none)
    }
}
