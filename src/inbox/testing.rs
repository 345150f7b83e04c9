//! Inboxes for the tests of this folder, and means to act at a given point of another thread's work.

use std::cell::RefCell;
use std::sync::Arc;

use super::{BlockedSend, Change, Inbox, Overflowed, Settings};
use crate::event::Message;
use crate::limits::Overflow;
use crate::sync::{AtomicU64, Mutex, Ordering};

#[path = "../../tests/support/waiting.rs"]
#[allow(unreachable_pub)]
pub(super) mod waiting;

type Code = Box<dyn FnOnce()>;

thread_local! {
    /// The code to run at the next sync point of that kind on this thread, in place of another thread.
    static AT_SYNC_POINT: RefCell<Option<(SyncPoint, Code)>> = const { RefCell::new(None) };
}

/// A point at which another thread can take a message.
#[derive(PartialEq, Eq)]
pub(super) enum SyncPoint {
    /// The queued messages are about to be counted.
    BeforeCount,
    /// They have been counted, and the oldest is about to be evicted.
    BeforeEvict,
}

pub(super) fn sync_point(reached: SyncPoint) {
    let due = AT_SYNC_POINT.with_borrow_mut(|set| set.take_if(|(point, _)| *point == reached));
    if let Some((_, code)) = due {
        code();
    }
}

/// Takes a message at `point`, by a receive that looked before there was an event. The test calls `reconcile` with the
/// message to go on with that receive.
pub(super) fn take_at(
    point: SyncPoint,
    inbox: &Arc<Inbox<u32>>,
) -> Arc<Mutex<Option<Message<u32>>>> {
    let taken = Arc::new(Mutex::new(None));
    let (inbox, takes) = (Arc::clone(inbox), Arc::clone(&taken));
    let code = move || {
        mark_take(&inbox);
        *takes.lock() = inbox.pop();
        inbox.end_take();
    };
    AT_SYNC_POINT.set(Some((point, Box::new(code))));
    taken
}

/// Returns an empty inbox of four messages with lifecycle events, and its counter of discarded messages.
pub(super) fn inbox_of_four() -> (Arc<Inbox<u32>>, Arc<AtomicU64>) {
    let settings = Settings {
        label: None,
        capacity: 4,
        overflow: Overflow::DropOldest,
        lifecycle_events: true,
        dedupe: false,
        interest: true,
    };
    let discarded = Arc::default();
    (Arc::new(Inbox::new(0, settings, Arc::clone(&discarded))), discarded)
}

/// Returns an inbox of one message, which is queued, and a send by this thread that waits for its room.
pub(super) fn blocked_send(lifecycle_events: bool) -> (Arc<Inbox<u32>>, BlockedSend<u32>) {
    let overflow = Overflow::Block { timeout: None };
    let settings = Settings {
        label: None,
        capacity: 1,
        overflow,
        lifecycle_events,
        dedupe: false,
        interest: true,
    };
    let inbox = Arc::new(Inbox::new(0, settings, Arc::default()));
    inbox.sender().unwrap().try_send(Message::new("c", 1)).unwrap();
    let Overflowed::Blocked(blocked) = inbox.overflow(Message::new("c", 2), 0, 0) else {
        panic!("it does not wait")
    };
    (inbox, blocked)
}

pub(super) fn push_event(inbox: &Inbox<u32>) {
    inbox.push_event(|| Change::Unsubscribed(Arc::from("c")), 0);
}

/// Marks a take, as a receive does that looked before there was an event.
pub(super) fn mark_take(inbox: &Inbox<u32>) {
    inbox.take_seq.fetch_add(1, Ordering::Relaxed);
}

/// Takes a message, as a receive does that looked before there was an event. Returns `None` if the event comes first.
pub(super) fn take_unlocked(inbox: &Inbox<u32>) -> Option<Message<u32>> {
    mark_take(inbox);
    inbox.finish_take(inbox.pop().unwrap())
}

impl<P> Inbox<P> {
    /// Returns the number of receivers that wait.
    pub(super) fn parked(&self) -> usize {
        self.inner.lock().waiting.len()
    }
}
