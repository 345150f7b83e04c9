//! Assertions about closed subscribers.

use std::time::{Duration, Instant};

use fanout::crossbeam_channel;
use fanout::{RecvError, RecvTimeoutError, SubscribeError, Subscriber, TryRecvError};

pub const HOUR: Duration = Duration::from_secs(3_600);

/// Asserts that `sub` is closed and drained, by every way to receive, repeatedly.
#[track_caller]
pub fn assert_ended<P: Clone + Send + 'static>(sub: &Subscriber<P>) {
    for _ in 0..2 {
        assert_eq!(sub.try_recv().err(), Some(TryRecvError::Closed));
        assert_eq!(sub.recv().err(), Some(RecvError::Closed));
        assert_eq!(sub.recv_timeout(HOUR).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_timeout(Duration::ZERO).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_deadline(Instant::now()).err(), Some(RecvTimeoutError::Closed));
        assert_eq!(sub.recv_message().err(), Some(RecvError::Closed));
        assert_eq!(sub.try_recv_message().err(), Some(TryRecvError::Closed));
        assert_eq!(sub.recv_message_timeout(HOUR).err(), Some(RecvTimeoutError::Closed));
        let deadline = Instant::now() + HOUR;
        assert_eq!(sub.recv_message_deadline(deadline).err(), Some(RecvTimeoutError::Closed));
        assert!(sub.iter().next().is_none());
        assert!(sub.try_iter().next().is_none());
        assert!(sub.messages().next().is_none());
        assert!(sub.try_messages().next().is_none());
        assert!(sub.clone().into_messages().next().is_none());
        assert!(sub.into_iter().next().is_none());
        assert!(sub.clone().into_iter().next().is_none());
    }
}

/// Asserts that `receiver()` reports the end once it is drained: no sender is left.
#[track_caller]
pub fn assert_disconnected(sub: &Subscriber<u32>, what: &str) {
    let receiver = sub.receiver();
    while receiver.try_recv().is_ok() {}
    let end = receiver.try_recv();
    assert_eq!(end, Err(crossbeam_channel::TryRecvError::Disconnected), "{what}");
}

/// Asserts that nothing is subscribed and nothing can be subscribed any more.
#[track_caller]
pub fn assert_holds_nothing<P: Clone + Send + 'static>(sub: &Subscriber<P>) {
    assert_eq!(sub.subscribe("more"), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe("more*"), Err(SubscribeError::Closed));
    assert_eq!(sub.subscribe_many(["more", "and more"]), Err(SubscribeError::Closed));
    assert_eq!(sub.psubscribe_many(["more*", "and more*"]), Err(SubscribeError::Closed));
    assert_eq!(sub.resubscribe().err(), Some(SubscribeError::Closed));
    assert_eq!(sub.unsubscribe("c"), 0);
    assert_eq!(sub.unsubscribe("never held"), 0);
    assert_eq!(sub.punsubscribe("c*"), 0);
    assert_eq!(sub.unsubscribe_all(), 0);
    assert_eq!(sub.punsubscribe_all(), 0);
    assert!(sub.channels().is_empty());
    assert!(sub.patterns().is_empty());
    assert_eq!((sub.info().channels, sub.info().patterns), (0, 0));
}
