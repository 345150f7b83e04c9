//! A channel resolved once.

use std::convert::Infallible;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

#[cfg(doc)]
use crate::bus::Bus;
use crate::engine::{Engine, OpenGuard};
use crate::error::SubscribeError;
use crate::publish;
use crate::stats::Receipt;
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::trie::Channel;

/// A publisher's handle to one channel; see [`Bus::topic`].
///
/// Publishing through it skips the look-up of the name. It keeps the bus open.
pub struct Topic<P = Arc<str>> {
    engine: Arc<Engine<P>>,
    /// The same as the pin has, a pointer nearer.
    entry: Arc<Channel<P>>,
    pin: Arc<Pin<P>>,
    _open: Arc<OpenGuard<P>>,
}

/// Keeps the channel's entry in the trie; shared by clones.
struct Pin<P> {
    engine: Arc<Engine<P>>,
    channel: Arc<Channel<P>>,
}

impl<P> Drop for Pin<P> {
    fn drop(&mut self) {
        self.engine.trie.unpin(&self.channel);
    }
}

impl<P: Clone + Send + 'static> Topic<P> {
    pub(crate) fn new(engine: &Arc<Engine<P>>, open: &Arc<OpenGuard<P>>, name: &str) -> Self {
        let engine = Arc::clone(engine);
        let channel = engine.trie.pin(name);
        let entry = Arc::clone(&channel);
        let pin = Arc::new(Pin { engine: Arc::clone(&engine), channel });
        Self { engine, entry, pin, _open: Arc::clone(open) }
    }

    /// Delivers `payload` to every subscription that matches the channel; see [`Bus::publish`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PUBLISH")]
    pub fn publish(&self, payload: impl Into<P>) -> Receipt {
        publish::by_topic(&self.engine, &self.entry, payload.into())
    }

    /// Like [`publish`](Self::publish), with a payload that is made only if something matches; see
    /// [`Bus::publish_with`].
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish; and as `f` does.
    pub fn publish_with(&self, f: impl FnOnce() -> P) -> Receipt {
        let made: Result<Receipt, Infallible> =
            publish::by_topic_with(&self.engine, &self.entry, || Ok(f()));
        match made {
            Ok(receipt) => receipt,
        }
    }

    /// Like [`publish_with`](Self::publish_with), with a payload whose making can fail.
    ///
    /// # Errors
    ///
    /// What `f` returned; nothing was published then.
    ///
    /// # Panics
    ///
    /// As [`publish_with`](Self::publish_with).
    pub fn try_publish_with<E>(&self, f: impl FnOnce() -> Result<P, E>) -> Result<Receipt, E> {
        publish::by_topic_with(&self.engine, &self.entry, f)
    }

    /// Returns a new subscriber of the topic's channel, with the bus's settings; see [`Bus::subscribe`].
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] on a closed bus or past a limit.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let moves = bus.topic("game:7:moves");
    /// let player = moves.subscribe()?;
    /// moves.publish("e2e4");
    /// assert_eq!(player.recv_message()?.channel(), "game:7:moves");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "SUBSCRIBE")]
    pub fn subscribe(&self) -> Result<Subscriber<P>, SubscribeError> {
        SubscriberBuilder::new(&self.engine).subscribe(self.channel())
    }

    /// How many inboxes have subscribed to the channel itself; patterns are not counted.
    #[doc(alias = "PUBSUB NUMSUB")]
    pub fn subscriber_count(&self) -> usize {
        self.engine.check_reentrancy();
        self.engine.trie.subscriber_count(&self.entry)
    }

    /// What [`Receipt::matched`] of a publish would be now: patterns counted.
    pub fn match_count(&self) -> usize {
        publish::match_count_by_topic(&self.engine, &self.entry)
    }
}

impl<P> Topic<P> {
    /// The channel's name.
    pub fn channel(&self) -> &str {
        self.entry.name()
    }
}

impl<P> Clone for Topic<P> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            entry: Arc::clone(&self.entry),
            pin: Arc::clone(&self.pin),
            _open: Arc::clone(&self._open),
        }
    }
}

impl<P> fmt::Debug for Topic<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("channel", &self.channel()).finish_non_exhaustive()
    }
}

// A panic in user code leaves turns, locks and books in order: that is the contract, and tested.
impl<P> UnwindSafe for Topic<P> {}
impl<P> RefUnwindSafe for Topic<P> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::error::TryRecvError;

    #[test]
    fn a_publish_that_begins_when_the_bus_is_closed_reaches_nobody() {
        let bus: Bus<u32> = Bus::new();
        let inbox = bus.subscriber_builder().lifecycle_events(false).subscribe("channel").unwrap();
        let topic = bus.topic("channel");
        // Another publish has had the turn since before the closing, and has yet to take the entry apart.
        let turn = topic.entry.turn();
        bus.close();
        drop(turn);
        assert_eq!(topic.publish(1_u32), Receipt::default());
        assert_eq!(topic.match_count(), 0);
        assert_eq!(inbox.try_recv_message(), Err(TryRecvError::Closed));
    }
}
