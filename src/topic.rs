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
use crate::stats::{Receipt, TopicStats};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::trie::{Channel, Counts};

/// A publisher's handle to one channel, returned by [`Bus::topic`].
///
/// Publishing through it skips the lookup of the channel's name. A topic keeps the bus open, and
/// its channel's entry in memory; it is no subscriber. Clones are cheap and refer to the same
/// channel.
///
/// # Examples
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus<u32> = Bus::new();
/// let ticks = bus.topic("ticks");
/// let clock = ticks.subscribe()?;
/// for n in 1..=3_u32 {
///     ticks.publish(n);
/// }
/// assert_eq!(clock.try_messages().map(|message| message.payload).sum::<u32>(), 6);
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
pub struct Topic<P = Arc<str>> {
    engine: Arc<Engine<P>>,
    /// The channel that `pin` holds, one pointer nearer.
    entry: Arc<Channel<P>>,
    pin: Arc<EntryPin<P>>,
    _open: Arc<OpenGuard<P>>,
}

/// Keeps the channel's entry in the trie; shared by clones.
struct EntryPin<P> {
    engine: Arc<Engine<P>>,
    channel: Arc<Channel<P>>,
}

impl<P> Drop for EntryPin<P> {
    fn drop(&mut self) {
        self.engine.trie.unpin(&self.channel);
    }
}

impl<P: Clone + Send + 'static> Topic<P> {
    pub(crate) fn new(engine: &Arc<Engine<P>>, open: &Arc<OpenGuard<P>>, name: &str) -> Self {
        let engine = Arc::clone(engine);
        let channel = engine.trie.pin(name);
        let entry = Arc::clone(&channel);
        let pin = Arc::new(EntryPin { engine: Arc::clone(&engine), channel });
        Self { engine, entry, pin, _open: Arc::clone(open) }
    }

    /// Publishes `payload` to the channel and returns how many messages were delivered and dropped.
    ///
    /// Apart from the lookup this does what [`Bus::publish`] does.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in the conversion, or in
    /// a payload's `Clone` or `Drop`, reaches the caller; the bus remains usable.
    ///
    /// # Complexity
    ///
    /// Linear in the number of messages. Nothing is allocated if no subscription that concerns the
    /// channel has changed since its last publish. The conversion and the clones of the payload,
    /// and waiting for room, come on top.
    #[doc(alias = "PUBLISH")]
    #[doc(alias = "SPUBLISH")]
    pub fn publish(&self, payload: impl Into<P>) -> Receipt {
        publish::by_topic(&self.engine, &self.entry, payload.into())
    }

    /// Publishes the payload that `f` returns to the channel, and calls `f` only if something
    /// matches.
    ///
    /// Apart from the lookup this does what [`Bus::publish_with`] does.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in `f`, or in a
    /// payload's `Clone` or `Drop`, reaches the caller.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let topic = bus.topic("debug:trace");
    /// topic.publish_with(|| unreachable!("nobody listens"));
    /// ```
    pub fn publish_with(&self, f: impl FnOnce() -> P) -> Receipt {
        let made: Result<Receipt, Infallible> =
            publish::by_topic_with(&self.engine, &self.entry, || Ok(f()));
        match made {
            Ok(receipt) => receipt,
        }
    }

    /// Publishes the payload that `f` returns to the channel, unless `f` fails.
    ///
    /// Apart from the lookup this does what [`Bus::try_publish_with`] does.
    ///
    /// # Errors
    ///
    /// Returns the error of `f`. Nothing has been published or counted in that case.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in `f`, or in a
    /// payload's `Clone` or `Drop`, reaches the caller.
    pub fn try_publish_with<E>(&self, f: impl FnOnce() -> Result<P, E>) -> Result<Receipt, E> {
        publish::by_topic_with(&self.engine, &self.entry, f)
    }

    /// Returns a new subscriber of the channel, with the bus's settings.
    ///
    /// This is [`Bus::subscribe`] with the channel's name.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the
    /// [`Limits`](crate::Limits) that would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
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

    /// Returns the number of subscribers of the channel itself.
    ///
    /// This is Redis's `PUBSUB NUMSUB`: patterns that match the channel are not counted. Clones of
    /// a subscriber count as one. On a closed bus the number is 0.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "PUBSUB NUMSUB")]
    pub fn subscriber_count(&self) -> usize {
        self.engine.check_reentrancy();
        self.engine.trie.subscriber_count(&self.entry)
    }

    /// Returns the counters of the channel.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let news = bus.topic("news");
    /// let _sub = bus.psubscribe("*")?;
    /// news.publish("hello");
    /// let stats = news.stats();
    /// assert_eq!((stats.published, stats.delivered, stats.subscribers), (1, 1, 0));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn stats(&self) -> TopicStats {
        let subscribers = self.subscriber_count();
        let Counts { published, delivered, dropped, evicted, conflated } =
            self.entry.counters.read();
        let matched = delivered + dropped;
        TopicStats { published, matched, delivered, dropped, evicted, conflated, subscribers }
    }

    /// Returns the number of messages that a publish would have to deliver now.
    ///
    /// This is what [`Receipt::matched`] would be: patterns are counted too, and a subscriber with
    /// [`dedupe`](SubscriberBuilder::dedupe) counts once. On a closed bus the number is 0.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of matching patterns. If a matching subscriber uses `dedupe`, linear in
    /// the number of recipients.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let topic = bus.topic("game:7");
    /// let player = bus.subscribe("game:7")?;
    /// let spectator = bus.psubscribe("game:*")?;
    /// assert_eq!((topic.subscriber_count(), topic.match_count()), (1, 2));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn match_count(&self) -> usize {
        publish::match_count_by_topic(&self.engine, &self.entry)
    }
}

#[cfg(feature = "async")]
impl<P: Clone + Send + 'static> Topic<P> {
    /// Publishes `payload` to the channel in a task, and waits for room in full inboxes that are
    /// [`Overflow::Block`](crate::Overflow::Block) without blocking the thread.
    ///
    /// The future publishes when it is first polled, as [`publish`](Self::publish) does, and then waits for the full
    /// inboxes with that policy, one after another. It does not observe the policy's timeout. If the future is dropped
    /// while it waits, the messages that have not entered count as dropped, and their readers get
    /// [`Lagged`](crate::Event::Lagged).
    ///
    /// A receive through [`Subscriber::receiver`](crate::Subscriber::receiver) does not wake it. A publish that begins
    /// while the future waits, by the same task, too, may enter a full inbox before it.
    ///
    /// # Panics
    ///
    /// Polling panics where [`publish`](Self::publish) does, and after the future has completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Overflow};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let bus: Bus<u32> = Bus::new();
    /// let lossless = Overflow::Block { timeout: None };
    /// let jobs = bus.subscriber_builder().capacity(1).overflow(lossless).subscribe("jobs")?;
    /// let topic = bus.topic("jobs");
    /// let publisher = tokio::spawn(async move {
    ///     for n in 1..=100_u32 {
    ///         topic.publish_async(n).await;
    ///     }
    /// });
    /// for n in 1..=100 {
    ///     assert_eq!(jobs.recv_message_async().await?.payload, n);
    /// }
    /// publisher.await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn publish_async(&self, payload: impl Into<P>) -> publish::Publish<'_, P> {
        let target = publish::Target::Topic(&self.entry);
        publish::Publish::new(&self.engine, target, payload.into())
    }
}

impl<P> Topic<P> {
    /// Returns the channel's name.
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

// A panic in user code leaves turns, locks and books in order: the crate's docs promise it, and tests check it.
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
        // Another publish has had the turn since before the closing, and has yet to detach the entry.
        let turn = topic.entry.turn();
        bus.close();
        drop(turn);
        assert_eq!(topic.publish(1_u32), Receipt::default());
        assert_eq!(topic.match_count(), 0);
        assert_eq!(inbox.try_recv_message(), Err(TryRecvError::Closed));
    }
}
