//! The front door: [`Bus`], its builder, and [`WeakBus`].

use std::convert::Infallible;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};
use std::thread;

use crate::engine::{Engine, OpenGuard, check_capacity};
use crate::error::SubscribeError;
use crate::limits::{Limits, Overflow};
use crate::pattern::Pattern;
use crate::publish;
use crate::stats::{Receipt, Stats, SubscriberInfo};
use crate::subscriber::{Subscriber, SubscriberBuilder};
use crate::topic::Topic;

/// The capacity of an inbox where nothing else is asked for, in messages.
const CAPACITY: usize = 256;

/// A publish/subscribe engine; this is a cheap handle to it, to be cloned and shared between threads.
///
/// `P` is the payload, cloned for each receiver but the last: `Arc<str>`, `Arc<[u8]>`, or any event type
/// of yours that is cheap to clone. Name it once: `let bus: Bus<MyEvent> = Bus::new();`
///
/// The bus closes when [`close`](Self::close) is called, or when its last `Bus` and [`Topic`] are
/// dropped.
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
    /// A bus with inboxes of 256 messages that drop the oldest ones.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A builder, to choose otherwise.
    pub fn builder() -> BusBuilder<P> {
        BusBuilder::new()
    }

    /// Delivers `payload` to every subscription that matches `channel`, and tells how many did.
    ///
    /// The conversion into `P` runs first, under no lock, even if nothing matches. When this returns,
    /// what was delivered can be read. On a closed bus nothing matches.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the messages delivered, and independent of all other subscriptions, where the channel
    /// has a subscriber, a [`Topic`], or was published to recently, and no new pattern could match it.
    /// Then it does not allocate either. Otherwise the patterns are matched first: see the crate's
    /// documentation.
    ///
    /// # Examples
    ///
    /// ```
    /// use publish::{Bus, Receipt};
    ///
    /// let bus: Bus = Bus::new();
    /// assert_eq!(bus.publish("nobody:listens", "gone"), Receipt::default());
    /// ```
    ///
    /// The payload may be a trait object, for events of many types on one bus. An `Arc<T>` does not
    /// convert into an `Arc<dyn Any + Send + Sync>` by `Into`: name the type, and it is coerced.
    ///
    /// ```
    /// use std::any::Any;
    /// use std::sync::Arc;
    ///
    /// use fanout::Bus;
    ///
    /// type Payload = Arc<dyn Any + Send + Sync>;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct Joined {
    ///     user: u64,
    /// }
    ///
    /// let bus: Bus<Payload> = Bus::new();
    /// let sub = bus.subscribe("lobby")?;
    /// let event: Arc<Joined> = Arc::new(Joined { user: 42 });
    /// bus.publish("lobby", event as Payload);
    ///
    /// let received = sub.recv_message()?.payload.downcast::<Joined>();
    /// assert_eq!(*received.unwrap(), Joined { user: 42 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PUBLISH")]
    #[doc(alias = "send")]
    pub fn publish(&self, channel: &str, payload: impl Into<P>) -> Receipt {
        publish::by_name(&self.engine, channel, payload.into())
    }

    /// Like [`publish`](Self::publish), with a payload that is made only if something matches.
    ///
    /// `f` runs after the look-up and outside every turn. What it does may change who matches: the
    /// receipt tells what the publish then did.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish; and as `f` does.
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

    /// Like [`publish_with`](Self::publish_with), with a payload whose making can fail.
    ///
    /// # Errors
    ///
    /// What `f` returned; nothing was published then.
    ///
    /// # Panics
    ///
    /// As [`publish_with`](Self::publish_with).
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

    /// A handle to one channel, resolved once: publishing through it skips the look-up.
    ///
    /// It keeps the channel's entry, and the bus open, as long as it lives.
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
    /// let player = bus.subscribe("game:7:moves")?;
    /// moves.publish("e2e4");
    /// assert_eq!(&*player.recv_message()?.payload, "e2e4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self, channel: &str) -> Topic<P> {
        Topic::new(&self.engine, &self.open, channel)
    }

    /// A subscriber with the bus's settings that has subscribed to nothing yet.
    ///
    /// It never fails: limits and a closed bus speak at the first subscribe. The memory of its inbox,
    /// capacity × message, is taken now.
    pub fn subscriber(&self) -> Subscriber<P> {
        self.subscriber_builder().build()
    }

    /// A builder of subscribers, for settings other than the bus's.
    ///
    /// # Examples
    ///
    /// ```
    /// use publish::{Bus, Overflow};
    ///
    /// let bus: Bus = Bus::new();
    /// let audit = bus
    ///     .subscriber_builder()
    ///     .capacity(10_000)
    ///     .overflow(Overflow::Block { timeout: None })
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

    /// A new subscriber of all channels that match `pattern`; a string is a Redis glob.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] on a closed bus or past a limit.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    #[doc(alias = "PSUBSCRIBE")]
    pub fn psubscribe(&self, pattern: impl Into<Pattern>) -> Result<Subscriber<P>, SubscribeError> {
        self.subscriber_builder().psubscribe(pattern)
    }

    /// Returns the names of all channels that have a subscriber of their own, in no particular order.
    ///
    /// A channel that only patterns match, or that only a [`Topic`] holds, is not listed. On a closed
    /// bus there are none.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the channels of the bus.
    #[doc(alias = "PUBSUB CHANNELS")]
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.engine.check_reentrancy();
        self.engine.trie.channels(None)
    }

    /// Returns the names of the channels that have a subscriber of their own and that `pattern` matches,
    /// in no particular order; a string is a Redis glob.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the channels of the bus, each of which is matched once.
    ///
    /// # Examples
    ///
    /// ```
    /// use publish::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// sub.subscribe_many(["sensors/roof/temp", "sensors/hall/hum", "news"])?;
    /// assert_eq!(bus.channels_matching("sensors/*").len(), 2);
    /// # #[cfg(feature = "glob")] {
    /// let temps = bus.channels_matching(Pattern::glob("sensors/*/temp")?);
    /// assert_eq!(temps, ["sensors/roof/temp".into()]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PUBSUB CHANNELS")]
    pub fn channels_matching(&self, pattern: impl Into<Pattern>) -> Vec<Arc<str>> {
        let pattern = pattern.into();
        self.engine.check_reentrancy();
        self.engine.trie.channels(Some(&pattern))
    }

    /// Returns the distinct patterns that are subscribed, in no particular order.
    ///
    /// The same text in both dialects is two patterns. On a closed bus there are none.
    ///
    /// # Panics
    ///
    /// When called by a payload's `Clone` from within a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the patterns of the bus.
    ///
    /// # Examples
    ///
    /// ```
    /// use publish::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let first = bus.psubscribe("user:*")?;
    /// let second = bus.psubscribe("user:*")?;
    /// assert_eq!(bus.patterns(), [Pattern::redis("user:*")]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn patterns(&self) -> Vec<Pattern> {
        self.engine.check_reentrancy();
        self.engine.trie.patterns()
    }

    /// How many inboxes have subscribed to `channel` itself; patterns are not counted.
    #[doc(alias = "PUBSUB NUMSUB")]
    pub fn subscriber_count(&self, channel: &str) -> usize {
        self.engine.check_reentrancy();
        let trie = &self.engine.trie;
        trie.find(channel).map_or(0, |channel| trie.subscriber_count(&channel))
    }

    /// What [`Receipt::matched`] of a publish on `channel` would be now: patterns counted.
    ///
    /// # Complexity
    ///
    /// As a publish without its deliveries.
    pub fn match_count(&self, channel: &str) -> usize {
        publish::match_count_by_name(&self.engine, channel)
    }

    /// How many distinct patterns are subscribed.
    #[doc(alias = "PUBSUB NUMPAT")]
    pub fn pattern_count(&self) -> usize {
        self.engine.check_reentrancy();
        if self.is_closed() { 0 } else { self.engine.trie.pattern_count() }
    }

    /// Counters of the whole bus. Exact at rest.
    ///
    /// # Complexity
    ///
    /// Linear in the channels and the subscribers of the bus.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// What each subscriber looks like, of those that have subscribed to something and are not closed,
    /// in no particular order.
    ///
    /// # Complexity
    ///
    /// Linear in the subscriptions of the bus.
    #[doc(alias = "CLIENT LIST")]
    pub fn subscribers(&self) -> Vec<SubscriberInfo> {
        self.engine.infos()
    }

    /// Closes the bus, for all its handles: publishing matches nothing any more, and every subscriber
    /// drains what it has and then gets `Closed`.
    ///
    /// It waits for no publish under way. Closing again does nothing.
    pub fn close(&self) {
        self.engine.close();
    }

    /// Whether the bus is closed.
    pub fn is_closed(&self) -> bool {
        self.engine.trie.is_closed()
    }

    /// A handle that does not keep the bus open: for handlers that publish.
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
        f.debug_struct("Bus")
            .field("closed", &self.engine.trie.is_closed())
            .field("channels", &self.engine.trie.channel_count())
            .field("patterns", &self.engine.trie.pattern_count())
            .field("subscribers", &self.engine.registry.subscribers())
            .finish_non_exhaustive()
    }
}

// A panic in user code leaves turns, locks and books in order: that is the contract, and tested.
impl<P> UnwindSafe for Bus<P> {}
impl<P> RefUnwindSafe for Bus<P> {}

/// A handle to a bus that does not keep it open; see [`Bus::downgrade`].
pub struct WeakBus<P = Arc<str>>(Weak<OpenGuard<P>>);

impl<P> WeakBus<P> {
    /// The bus, unless its last `Bus` and `Topic` have been dropped.
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

/// Chooses the settings of a [`Bus`]. A clone of it builds another bus with the same settings.
///
/// # Examples
///
/// ```
/// use publish::{Bus, Limits, Overflow};
///
/// let bus: Bus = Bus::builder()
///     .capacity(1_024)
///     .overflow(Overflow::DropNewest)
///     .limits(Limits::default().max_subscriptions(1_000))
///     .build();
/// assert_eq!(bus.subscriber().capacity(), 1_024);
/// ```
#[must_use]
pub struct BusBuilder<P = Arc<str>> {
    capacity: usize,
    overflow: Overflow,
    stripes: Option<usize>,
    limits: Limits,
    // As a function's return type, so that the builder is `Send` and `Sync` whatever `P` is.
    payload: std::marker::PhantomData<fn() -> P>,
}

impl<P: Clone + Send + 'static> BusBuilder<P> {
    fn new() -> Self {
        Self {
            capacity: CAPACITY,
            overflow: Overflow::default(),
            stripes: None,
            limits: Limits::default(),
            payload: std::marker::PhantomData,
        }
    }

    /// How many messages an inbox holds where its subscriber does not choose; 256 by default.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = check_capacity(messages);
        self
    }

    /// What a full inbox does where its subscriber does not choose; [`Overflow::DropOldest`] by default.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Into how many parts, each under its own lock, the channels are divided by their names: rounded
    /// up to a power of two, 4,096 at most; by default eight for each processor, 64 at least. 0 is 1.
    ///
    /// More stripes mean less contention between threads that look channels up by name. The memory of
    /// names recently published to is 2 MiB, or 32 KiB a stripe where that is more: up to two fifths of it are
    /// for those that were published to once.
    pub fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = Some(stripes.max(1));
        self
    }

    /// What can be subscribed; nothing is bounded by default.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The bus.
    pub fn build(self) -> Bus<P> {
        let stripes = self.stripes.unwrap_or_else(|| {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            (8 * processors).max(64)
        });
        let engine = Arc::new(Engine::new(stripes, self.limits, self.capacity, self.overflow));
        Bus { open: Arc::new(OpenGuard::new(&engine)), engine }
    }
}

impl<P> Clone for BusBuilder<P> {
    fn clone(&self) -> Self {
        Self {
            capacity: self.capacity,
            overflow: self.overflow,
            stripes: self.stripes,
            limits: self.limits,
            payload: std::marker::PhantomData,
        }
    }
}

impl<P> fmt::Debug for BusBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder")
            .field("capacity", &self.capacity)
            .field("overflow", &self.overflow)
            .field("stripes", &self.stripes)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
