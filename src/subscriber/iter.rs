//! The iterators over what a subscriber receives.

use std::fmt;
use std::sync::Arc;

use super::Subscriber;
use crate::event::{Event, Message};

/// An iterator over events that waits for each of them; see [`Subscriber::iter`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Iter<'a, P = Arc<str>> {
    pub(super) subscriber: &'a Subscriber<P>,
}

/// An iterator over the events that can be read without waiting; see [`Subscriber::try_iter`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct TryIter<'a, P = Arc<str>> {
    pub(super) subscriber: &'a Subscriber<P>,
}

/// An iterator over messages that waits for each of them; see [`Subscriber::messages`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Messages<'a, P = Arc<str>> {
    pub(super) subscriber: &'a Subscriber<P>,
}

/// An iterator over the messages that can be read without waiting; see
/// [`Subscriber::try_messages`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct TryMessages<'a, P = Arc<str>> {
    pub(super) subscriber: &'a Subscriber<P>,
}

/// An iterator over messages that owns the subscriber and waits for each message; see
/// [`Subscriber::into_messages`].
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct IntoMessages<P = Arc<str>> {
    pub(super) subscriber: Subscriber<P>,
}

/// An iterator over events that owns the subscriber and waits for each event.
///
/// Returned by `into_iter` of a [`Subscriber`]. It ends when the subscriber is closed and its inbox
/// drained.
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct IntoIter<P = Arc<str>> {
    pub(super) subscriber: Subscriber<P>,
}

impl<P> Iterator for Iter<'_, P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.recv().ok()
    }
}

impl<P> Iterator for TryIter<'_, P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.try_recv().ok()
    }
}

impl<P> Iterator for Messages<'_, P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.recv_message().ok()
    }
}

impl<P> Iterator for TryMessages<'_, P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.try_recv_message().ok()
    }
}

impl<P> Iterator for IntoMessages<P> {
    type Item = Message<P>;

    #[inline]
    fn next(&mut self) -> Option<Message<P>> {
        self.subscriber.recv_message().ok()
    }
}

impl<P> Iterator for IntoIter<P> {
    type Item = Event<P>;

    #[inline]
    fn next(&mut self) -> Option<Event<P>> {
        self.subscriber.recv().ok()
    }
}

macro_rules! debug_without_payload {
    ($($name:ident $(<$lifetime:lifetime>)?),*) => {$(
        impl<P> fmt::Debug for $name<$($lifetime,)? P> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("subscriber", &self.subscriber).finish()
            }
        }
    )*};
}

debug_without_payload!(
    Iter<'_>,
    TryIter<'_>,
    Messages<'_>,
    TryMessages<'_>,
    IntoMessages,
    IntoIter
);

// Closed is for good. (`TryIter` and `TryMessages` end at an inbox that is empty, and go on when it is not.)
impl<P> std::iter::FusedIterator for Iter<'_, P> {}
impl<P> std::iter::FusedIterator for Messages<'_, P> {}
impl<P> std::iter::FusedIterator for IntoMessages<P> {}
impl<P> std::iter::FusedIterator for IntoIter<P> {}

impl<'a, P> IntoIterator for &'a Subscriber<P> {
    type Item = Event<P>;
    type IntoIter = Iter<'a, P>;

    fn into_iter(self) -> Iter<'a, P> {
        self.iter()
    }
}

impl<P> IntoIterator for Subscriber<P> {
    type Item = Event<P>;
    type IntoIter = IntoIter<P>;

    fn into_iter(self) -> IntoIter<P> {
        IntoIter { subscriber: self }
    }
}
