//! Inboxes without lifecycle events, their payloads and their books.

use fanout::{Bus, Overflow, Subscriber, SubscriberBuilder};

/// Returns a builder of subscribers without lifecycle events.
pub fn silent<P: Clone + Send + 'static>(bus: &Bus<P>) -> SubscriberBuilder<P> {
    bus.subscriber_builder().lifecycle_events(false)
}

/// Receives the payloads of all messages that can be read now, and skips other events.
pub fn payloads<P>(sub: &Subscriber<P>) -> Vec<P> {
    std::iter::from_fn(|| sub.try_recv_message().ok()).map(|message| message.payload).collect()
}

/// Asserts that an inbox at rest accounts for the `matched` messages that were published to it.
#[track_caller]
pub fn assert_books<P: Clone + Send + 'static>(sub: &Subscriber<P>, matched: u64) {
    let info = sub.info();
    assert_eq!(
        matched,
        info.received + info.missed + info.conflated + info.depth as u64,
        "matched == received + missed + conflated + depth: {info:?}"
    );
    assert_eq!((info.depth, info.missed), (sub.len(), sub.missed()), "{info:?}");
    let queued = if info.overflow == Overflow::Conflate { 0 } else { info.depth };
    assert_eq!(queued, sub.receiver().len(), "at rest all that waits is in the queue");
    assert!(info.depth <= info.high_water && info.depth <= info.capacity, "{info:?}");
}
