//! The front door: [`Bus`], its builder, and [`WeakBus`].

mod builder;
mod introspection;

use std::convert::Infallible;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};

pub use builder::BusBuilder;

use crate::engine::{Engine, OpenGuard};
use crate::error::SubscribeError;
use crate::interest::InterestWatch;
#[cfg(doc)]
use crate::limits::{Limits, Overflow};
use crate::pattern::Pattern;
use crate::publish;
use crate::stats::Receipt;
#[cfg(doc)]
use crate::stats::Stats;
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::topic::Topic;

/// A handle to a publish/subscribe engine, cheap to clone and to share between threads.
///
/// `P` is the payload. A publish clones it for every message but the last, so cloning should be
/// cheap: use `Arc<str>` (the default), `Arc<[u8]>`, or an event type of your own. Name the type
/// once: `let bus: Bus<MyEvent> = Bus::new();`
///
/// The bus closes when [`close`](Self::close) is called, or when the last `Bus` and [`Topic`] have
/// been dropped. Subscribers and [`WeakBus`] handles do not keep it open.
///
/// Every method can be called from any thread, and from any user code that the bus runs: handlers,
/// closures, conversions, and the `Drop` of payloads. Only a payload's `Clone` must not call
/// methods that can wait; they panic there (see [Re-entrancy](crate#re-entrancy)).
///
/// # Examples
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus = Bus::new();
/// let inbox = bus.subscribe("user:42:notifications")?;
/// let monitor = bus.psubscribe("user:*:notifications")?;
///
/// let receipt = bus.publish("user:42:notifications", "ada follows you");
/// assert_eq!(receipt.delivered, 2);
/// assert_eq!(&*inbox.recv_message()?.payload, "ada follows you");
/// assert_eq!(monitor.recv_message()?.channel(), "user:42:notifications");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Bus<P = Arc<str>> {
    pub(crate) engine: Arc<Engine<P>>,
    open: Arc<OpenGuard<P>>,
}

impl<P: Clone + Send + 'static> Bus<P> {
    /// Creates a bus whose inboxes hold 256 messages each and drop the oldest message when full.
    ///
    /// [`builder`](Self::builder) creates a bus with other settings.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder for a bus with settings of your choice.
    pub fn builder() -> BusBuilder<P> {
        BusBuilder::new()
    }

    /// Publishes `payload` to `channel` and returns how many messages were delivered and dropped.
    ///
    /// Every matching subscription gets a message: those to `channel` itself, and those to a
    /// pattern that matches it. A subscriber with several matching subscriptions gets as many
    /// messages, as with Redis, or a single one if it was built with
    /// [`dedupe`](SubscriberBuilder::dedupe). If nobody listens, or the bus is closed, the payload
    /// is dropped and the receipt is all zeros.
    ///
    /// `payload` is converted into `P` first, outside every lock and even if nothing matches;
    /// [`publish_with`](Self::publish_with) avoids that. A literal must have the very type: `7_u64`
    /// for a `Bus<u64>`, `&b"abc"[..]` for a `Bus<Arc<[u8]>>`. When `publish` returns, the messages that
    /// it delivered can be received. It may wait for other calls that work on the same channel, but
    /// it never waits for a subscriber to read, unless an inbox is full and its policy is
    /// [`Overflow::Block`]. In an async task that would block the thread of the runtime, and could
    /// hang it: use [`publish_async`](Self::publish_async) where there are such inboxes.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in the conversion, or in
    /// a payload's `Clone` or `Drop`, reaches the caller; the bus remains usable.
    ///
    /// # Complexity
    ///
    /// Linear in the number of messages and in the length of the name. The other subscriptions on
    /// the bus do not matter, and nothing is allocated, if `channel` has a subscriber or a
    /// [`Topic`] or was published to recently, and no subscription that concerns it has changed
    /// since its last publish. Otherwise `channel` is matched against the patterns first: see
    /// [Complexity](crate#complexity). The conversion and the clones of the payload, and waiting
    /// for room, come on top.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Receipt};
    ///
    /// let bus: Bus = Bus::new();
    /// assert_eq!(bus.publish("nobody:listens", "gone"), Receipt::default());
    ///
    /// let user = 42;
    /// bus.publish(&format!("user:{user}:notifications"), "ada follows you");
    /// ```
    ///
    /// The payload can be a trait object, for events of many types on one bus. `Arc<T>` does not
    /// implement `Into<Arc<dyn Any + Send + Sync>>`: convert it with `as`.
    ///
    /// ```
    /// use std::any::Any;
    /// use std::sync::Arc;
    ///
    /// use fanout::Bus;
    ///
    /// type Payload = Arc<dyn Any + Send + Sync>;
    ///
    /// let bus: Bus<Payload> = Bus::new();
    /// let sub = bus.subscribe("lobby")?;
    /// bus.publish("lobby", Arc::new(42_u64) as Payload);
    /// assert_eq!(*sub.recv_message()?.payload.downcast::<u64>().unwrap(), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PUBLISH")]
    #[doc(alias = "SPUBLISH")]
    #[doc(alias = "send")]
    pub fn publish(&self, channel: &str, payload: impl Into<P>) -> Receipt {
        publish::by_name(&self.engine, channel, payload.into())
    }

    /// Publishes one payload to many channels, and returns the sum of the receipts.
    ///
    /// It does what as many [`publish`](Self::publish) calls do in the order of `channels`, a
    /// channel that is named twice included, but the look-ups of several channels overlap. On a
    /// bus with half a million channels that takes about 0.6 of the time. Who listens to a channel is
    /// found when its turn comes: whoever has subscribed by then, while the call waits for room for
    /// example, gets the message.
    ///
    /// Each recipient gets a clone of the payload, and the last recipient of the last name the payload
    /// itself. If nobody listens to the last name, the payload itself is dropped. Nothing is cloned for
    /// a channel that nobody listens to.
    ///
    /// Names are taken from the iterator ahead of their publishes, at most 17 at a time. If the iterator
    /// panics, nothing is published to those. `AsRef` is called several times for each, and must return
    /// the same name each time; otherwise it is unspecified who gets the message.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in the iterator, or in a
    /// payload's `Clone` or `Drop`, reaches the caller; the bus remains usable, and what has been
    /// published before remains so.
    ///
    /// # Complexity
    ///
    /// That of as many [`publish`](Self::publish) calls. It allocates where they would.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let bob = bus.subscribe("user:2:notifications")?;
    /// let cleo = bus.subscribe("user:3:notifications")?;
    ///
    /// let followers = [2, 3, 4].map(|user| format!("user:{user}:notifications"));
    /// let receipt = bus.publish_many(&followers, "ada has posted");
    /// assert_eq!(receipt.delivered, 2); // user 4 is offline
    /// assert_eq!(&*bob.recv_message()?.payload, "ada has posted");
    /// assert_eq!(&*cleo.recv_message()?.payload, "ada has posted");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish_many(
        &self,
        channels: impl IntoIterator<Item = impl AsRef<str>>,
        payload: impl Into<P>,
    ) -> Receipt {
        publish::by_names(&self.engine, channels.into_iter(), payload.into())
    }

    /// Publishes to many channels, a payload to each, and returns the sum of the receipts.
    ///
    /// Apart from the payloads it does what [`publish_many`](Self::publish_many) does. When the turn of
    /// a channel comes, its payload is converted into `P`, or dropped as it is if nobody listens. The
    /// last recipient of each channel gets the payload itself. At most 17 messages are taken from the
    /// iterator ahead of their publishes.
    ///
    /// # Panics
    ///
    /// As [`publish_many`](Self::publish_many). A panic in a conversion reaches the caller, too.
    ///
    /// # Complexity
    ///
    /// That of as many [`publish`](Self::publish) calls. It allocates where they would.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let scores = bus.psubscribe("score:*")?;
    /// let receipt = bus.publish_each([("score:ada", 3_u32), ("score:bob", 5), ("misses:bob", 1)]);
    /// assert_eq!(receipt.delivered, 2);
    /// let read: Vec<u32> = scores.try_messages().map(|message| message.payload).collect();
    /// assert_eq!(read, [3, 5]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn publish_each(
        &self,
        messages: impl IntoIterator<Item = (impl AsRef<str>, impl Into<P>)>,
    ) -> Receipt {
        publish::by_names_each(&self.engine, messages.into_iter())
    }

    /// Publishes `payload` to `channel` in a task, and waits for room in full inboxes that are
    /// [`Overflow::Block`] without blocking the thread.
    ///
    /// See [`Topic::publish_async`].
    ///
    /// # Panics
    ///
    /// Polling panics where [`publish`](Self::publish) does, and after the future has completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// assert_eq!(bus.publish_async("news", "hello").await.delivered, 1);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "async")]
    pub fn publish_async<'a>(
        &'a self,
        channel: &'a str,
        payload: impl Into<P>,
    ) -> publish::Publish<'a, P> {
        let target = publish::Target::Name(channel);
        publish::Publish::new(&self.engine, target, payload.into())
    }

    /// Publishes one payload to many channels in a task, and waits for room in full inboxes that
    /// are [`Overflow::Block`] without blocking the thread.
    ///
    /// It is to [`publish_many`](Self::publish_many) as [`publish_async`](Self::publish_async) is
    /// to [`publish`](Self::publish): it waits for the full inboxes of one channel before it goes
    /// on to the next, and finds only then who listens to that. If the future is dropped while it
    /// waits, the messages that have not entered count as dropped, and nothing is published to the
    /// channels that follow. At most 17 of their names have been taken from the iterator.
    ///
    /// # Panics
    ///
    /// Polling panics where [`publish_many`](Self::publish_many) does, and after the future has
    /// completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus = Bus::new();
    /// let _sub = bus.subscriber_builder().subscribe_many(["a", "b"])?;
    /// assert_eq!(bus.publish_many_async(["a", "b", "c"], "hello").await.delivered, 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "async")]
    pub fn publish_many_async<C>(
        &self,
        channels: C,
        payload: impl Into<P>,
    ) -> publish::PublishMany<'_, P, C::IntoIter>
    where
        C: IntoIterator,
        C::Item: AsRef<str>,
    {
        publish::PublishMany::new(&self.engine, channels.into_iter(), payload.into())
    }

    /// Publishes `payload` to `channel`, to all subscribers but `subscriber`.
    ///
    /// It is like [`publish`](Self::publish), as if `subscriber` and its clones had not subscribed to anything; the
    /// receipt does not count them either. So whoever passes messages on between the bus and something else does not
    /// get back what it has brought in itself, and a chat does not echo a line to its author.
    ///
    /// # Panics
    ///
    /// Like [`publish`](Self::publish).
    ///
    /// # Complexity
    ///
    /// Like [`publish`](Self::publish), and a comparison for each recipient.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let (ada, bob) = (bus.subscribe("room")?, bus.subscribe("room")?);
    /// assert_eq!(bus.publish_except("room", "hello, I am Ada", &ada).delivered, 1);
    /// assert_eq!((ada.len(), bob.len()), (0, 1));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn publish_except(
        &self,
        channel: &str,
        payload: impl Into<P>,
        subscriber: &Subscriber<P>,
    ) -> Receipt {
        publish::by_name_except(&self.engine, channel, payload.into(), subscriber.inbox())
    }

    /// Publishes `payload` to `channel` in a task, to all subscribers but `subscriber`.
    ///
    /// It is to [`publish_except`](Self::publish_except) as [`publish_async`](Self::publish_async) is to
    /// [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Polling panics where [`publish_async`](Self::publish_async) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("room")?;
    /// assert_eq!(bus.publish_except_async("room", "hello", &sub).await.matched, 0);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "async")]
    pub fn publish_except_async<'a>(
        &'a self,
        channel: &'a str,
        payload: impl Into<P>,
        subscriber: &'a Subscriber<P>,
    ) -> publish::Publish<'a, P> {
        let target = publish::Target::Name(channel);
        let publish = publish::Publish::new(&self.engine, target, payload.into());
        publish.except(subscriber.inbox())
    }

    /// Publishes the payload that `f` returns to `channel`, and calls `f` only if something
    /// matches.
    ///
    /// `f` runs after the lookup, outside every lock. If it changes who is subscribed, the publish
    /// goes to those who are subscribed after it has run. If nothing matches, the publish is still
    /// counted in [`Stats::published`].
    ///
    /// It can wait as [`publish`](Self::publish) does: in a task, use `publish_async` if a full
    /// [`Overflow::Block`] inbox may match.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish. A panic in `f`, or in a
    /// payload's `Clone` or `Drop`, reaches the caller.
    ///
    /// # Complexity
    ///
    /// Like [`publish`](Self::publish), with a second look at the matching patterns. If a matching
    /// subscriber uses [`dedupe`](SubscriberBuilder::dedupe), the recipients are counted one by one
    /// before `f` is called.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// bus.publish_with("debug:trace", || unreachable!("nobody listens"));
    /// ```
    pub fn publish_with(&self, channel: &str, f: impl FnOnce() -> P) -> Receipt {
        let made: Result<Receipt, Infallible> =
            publish::by_name_with(&self.engine, channel, || Ok(f()));
        match made {
            Ok(receipt) => receipt,
        }
    }

    /// Publishes the payload that `f` returns to `channel`, unless `f` fails.
    ///
    /// This is [`publish_with`](Self::publish_with) for an `f` that can fail. `f` is called only if
    /// something matches; otherwise the result is a receipt of zeros.
    ///
    /// # Errors
    ///
    /// Returns the error of `f`. Nothing has been published or counted in that case.
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
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("answers")?;
    /// assert!(bus.try_publish_with("answers", || "no number".parse()).is_err());
    /// assert_eq!(bus.try_publish_with("answers", || "42".parse())?.delivered, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_publish_with<E>(
        &self,
        channel: &str,
        f: impl FnOnce() -> Result<P, E>,
    ) -> Result<Receipt, E> {
        publish::by_name_with(&self.engine, channel, f)
    }

    /// Returns a handle to `channel` that publishes without looking up its name.
    ///
    /// The handle keeps the channel's entry in memory and the bus open until the last clone of it
    /// is dropped. It is no subscriber: it counts towards no limit, and
    /// [`channels`](Self::channels) does not list the channel because of it.
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
    /// let player = bus.subscribe("game:7:moves")?;
    /// moves.publish("e2e4");
    /// assert_eq!(&*player.recv_message()?.payload, "e2e4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self, channel: &str) -> Topic<P> {
        Topic::new(&self.engine, &self.open, channel)
    }

    /// Returns a subscriber that has subscribed to nothing yet, with the bus's settings.
    ///
    /// This never fails: a closed bus or an exceeded limit is reported by the subscriber's first
    /// subscribe. The memory for all messages that its inbox can hold is allocated now, unless its policy is
    /// [`Overflow::Conflate`](crate::Overflow::Conflate).
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// assert_eq!(sub.subscribe("news")?, 1);
    /// assert_eq!(sub.psubscribe("game:*")?, 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn subscriber(&self) -> Subscriber<P> {
        self.subscriber_builder().build()
    }

    /// Returns a builder for subscribers with settings other than the bus's.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Overflow};
    ///
    /// let bus: Bus = Bus::new();
    /// let audit = bus
    ///     .subscriber_builder()
    ///     .capacity(10_000)
    ///     .overflow(Overflow::DropNewest)
    ///     .label("audit")
    ///     .psubscribe("*")?;
    /// assert_eq!((audit.capacity(), audit.label()), (10_000, Some("audit")));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn subscriber_builder(&self) -> SubscriberBuilder<P> {
        SubscriberBuilder::new(&self.engine)
    }

    /// Returns a new subscriber of `channel`, with the bus's settings.
    ///
    /// The subscription is live when this returns. Further channels and patterns can be added to
    /// the subscriber later.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the [`Limits`] that
    /// would be exceeded.
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
    /// let user = 42;
    /// let inbox = bus.subscribe(format!("user:{user}:notifications"))?;
    /// assert_eq!(bus.publish("user:42:notifications", "hello").delivered, 1);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "SUBSCRIBE")]
    #[doc(alias = "SSUBSCRIBE")]
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<Subscriber<P>, SubscribeError> {
        self.subscriber_builder().subscribe(channel.as_ref())
    }

    /// Returns a new subscriber of every channel that `pattern` matches, with the bus's settings.
    ///
    /// A string is a Redis glob and matches as in redis-server. For a shell glob, pass
    /// [`Pattern::glob`]. The subscription is live when this returns.
    ///
    /// # Errors
    ///
    /// Returns [`SubscribeError::Closed`] if the bus is closed, or the error of the [`Limits`] that
    /// would be exceeded.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let games = bus.psubscribe("game:*:events")?;
    /// let sensors = bus.psubscribe(Pattern::glob("sensors/**/{temp,hum}")?)?;
    /// assert_eq!(bus.publish("game:7:events", "start").delivered, 1);
    /// assert_eq!(bus.publish("sensors/roof/temp", "21").delivered, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(&self, pattern: impl Into<Pattern>) -> Result<Subscriber<P>, SubscribeError> {
        self.subscriber_builder().psubscribe(pattern)
    }

    /// Returns a watch that tells which channels and patterns have subscriptions, and what changes about it.
    ///
    /// It is for producers: whoever makes or fetches messages only for names that somebody wants.
    /// See [`InterestWatch`]. On a closed bus, it is closed.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of channels and patterns on the bus; it waits for each channel's turn. While there is a
    /// watch, a name's first subscription and the end of its last one take a look-up each, in O(log n) for the n
    /// changes that were not received. Where there is none, subscribing costs nothing more; publishing never does.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Interest};
    ///
    /// let bus: Bus = Bus::new();
    /// let watch = bus.watch_interest();
    /// let sub = bus.subscribe("news")?;
    /// assert!(matches!(watch.recv()?, Interest::Channel { name, wanted: true, .. } if &*name == "news"));
    /// drop(sub);
    /// assert!(matches!(watch.recv()?, Interest::Channel { wanted: false, .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch_interest(&self) -> InterestWatch {
        let trie = &self.engine.trie;
        self.engine.check_reentrancy();
        InterestWatch::new(
            trie.watchers(),
            |found| trie.for_each_wanted(found),
            || trie.is_closed(),
        )
    }

    /// Closes the bus for all its handles.
    ///
    /// From now on a publish matches nothing and a subscribe returns [`SubscribeError::Closed`].
    /// Every subscriber can read what its inbox holds and then gets `Closed`; no lifecycle events
    /// are sent. Publishers that wait for room in an inbox give up, and their messages count as
    /// dropped.
    ///
    /// This does not wait for publishes under way. Closing a closed bus has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, RecvError};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "last words");
    /// bus.close();
    /// assert_eq!(bus.publish("news", "too late").matched, 0);
    /// assert_eq!(&*sub.recv_message()?.payload, "last words");
    /// assert_eq!(sub.recv_message(), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.engine.close();
    }

    /// `true` if the bus is closed.
    pub fn is_closed(&self) -> bool {
        self.engine.trie.is_closed()
    }

    /// Returns a handle that does not keep the bus open.
    ///
    /// A handler that publishes should own such a handle: one that owns a `Bus` keeps the bus open,
    /// and so itself running.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let weak = bus.downgrade();
    /// assert!(weak.upgrade().is_some());
    /// drop(bus);
    /// assert!(weak.upgrade().is_none());
    /// ```
    pub fn downgrade(&self) -> WeakBus<P> {
        WeakBus(Arc::downgrade(&self.open))
    }
}

impl<P: Clone + Send + 'static> Default for Bus<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> Clone for Bus<P> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), open: Arc::clone(&self.open) }
    }
}

impl<P> fmt::Debug for Bus<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_closed = self.engine.trie.is_closed();
        let if_open = |count: usize| if is_closed { 0 } else { count };
        f.debug_struct("Bus")
            .field("closed", &is_closed)
            .field("channels", &if_open(self.engine.trie.channel_count()))
            .field("patterns", &if_open(self.engine.trie.pattern_count()))
            .field("subscribers", &if_open(self.engine.registry.subscribers()))
            .finish_non_exhaustive()
    }
}

// A panic in user code leaves turns, locks and books in order: the crate's docs promise it, and tests check it.
impl<P> UnwindSafe for Bus<P> {}
impl<P> RefUnwindSafe for Bus<P> {}

/// A handle to a bus that does not keep it open; see [`Bus::downgrade`].
pub struct WeakBus<P = Arc<str>>(Weak<OpenGuard<P>>);

impl<P> WeakBus<P> {
    /// Returns the bus, or `None` if its last `Bus` and `Topic` have been dropped.
    ///
    /// A bus that was closed by [`Bus::close`] and still has a handle is returned, closed.
    pub fn upgrade(&self) -> Option<Bus<P>> {
        let open = self.0.upgrade()?;
        Some(Bus { engine: Arc::clone(open.engine()), open })
    }
}

impl<P> Clone for WeakBus<P> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<P> fmt::Debug for WeakBus<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakBus")
    }
}

impl<P> UnwindSafe for WeakBus<P> {}
impl<P> RefUnwindSafe for WeakBus<P> {}
