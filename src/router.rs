//! Handlers by channel and pattern.
//!
//! A router owns its handlers, and calls and drops them under no lock. What a [`RouterHandle`] adds or removes is left
//! in a map that the router looks at before each event. That is done together with the subscription, under the lock of
//! the subscriber's subscriptions, so that nothing comes between. A handler that the router has not taken yet is
//! dropped by whoever removes or replaces it, so the map has no more than the router's channels and patterns.
//!
//! A message is told to belong to a handler by the address of what its subscription shares: the name of the channel, or
//! the entry of the pattern. An address that is new is looked up by name once, and what lies there is kept alive as
//! long as the address is, so that nothing else can come to lie there.

use std::any::Any;
use std::borrow::Borrow;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::slice;
use std::sync::{Arc, Weak};

use hashbrown::HashMap;

use crate::error::SubscribeError;
use crate::event::{Event, Message};
use crate::listener::Listener;
use crate::member::{Kind, Member};
use crate::pattern::Pattern;
use crate::reentrancy::{self, Panics, for_each_then_resume};
use crate::source::Origin;
use crate::subscriber::Subscriber;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::trie::{Channel, PatternEntry};

type Handler<P> = Box<dyn FnMut(Message<P>) + Send>;

/// What a handler is for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Route {
    Channel(Arc<str>),
    Pattern(Pattern),
}

type ByRoute<T> = HashMap<Route, T, foldhash::fast::RandomState>;

/// What a router shares with its handles.
struct Shared<P> {
    state: Mutex<State<P>>,
    /// `State::changes` is not empty.
    is_changed: AtomicBool,
    /// Handlers that panicked and were kept.
    panics: AtomicU64,
}

struct State<P> {
    /// What the router takes up before the next event: new handlers, or `None` for those that were removed.
    changes: ByRoute<Option<Handler<P>>>,
    /// The slots of the handlers that the router has.
    slots: ByRoute<usize>,
    has_ended: bool,
}

impl<P> Default for Shared<P> {
    fn default() -> Self {
        let (changes, slots) = (HashMap::default(), HashMap::default());
        Self {
            state: Mutex::new(State { changes, slots, has_ended: false }),
            is_changed: AtomicBool::new(false),
            panics: AtomicU64::new(0),
        }
    }
}

impl<P> Shared<P> {
    fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// Tells the router to set the handler of `route`, or to remove it. Returns the handler that the caller must drop
    /// under no lock: the one that this replaces, or `handler` itself if the router has ended.
    fn change(&self, route: Route, handler: Option<Handler<P>>) -> Option<Handler<P>> {
        let mut state = self.state.lock();
        if state.has_ended {
            return handler;
        }
        if handler.is_none() && !state.slots.contains_key(&route) {
            // The router has none: at most one that it has not taken up.
            return state.changes.remove(&route).flatten();
        }
        let replaced = state.changes.insert(route, handler);
        // Release: partner of the Acquire in `Table::dispatch`. A message that comes by a subscription which follows
        // this is received after it.
        self.is_changed.store(true, Ordering::Release);
        replaced.flatten()
    }
}

impl<P: Clone + Send + 'static> Shared<P> {
    /// Subscribes to `key` and sets its handler in one step.
    fn subscribe<T: Kind<Payload = P>>(
        &self,
        member: &Member<P>,
        key: &impl Borrow<T::Key>,
        route: Route,
        handler: Handler<P>,
    ) -> Result<usize, SubscribeError> {
        if self.has_ended() {
            return Err(SubscribeError::Closed);
        }
        let mut new = Some((route, handler));
        let mut replaced = None;
        let count = member.subscribe_with::<T>(slice::from_ref(key), || {
            if let Some((route, handler)) = new.take() {
                replaced = self.change(route, Some(handler));
            }
        })?;
        // User code, which may change the router: everything is done.
        drop(replaced);
        // The router may have ended meanwhile: then the subscription is its subscriber's, as long as that has clones.
        if self.has_ended() { Err(SubscribeError::Closed) } else { Ok(count) }
    }

    /// Unsubscribes from `key` and removes its handler.
    fn unsubscribe<T: Kind<Payload = P>>(
        &self,
        member: &Weak<Member<P>>,
        key: &T::Key,
        route: Route,
    ) -> usize {
        let Some(member) = member.upgrade() else { return 0 };
        let mut removed = None;
        let count = member.unsubscribe_with::<T>(key, || removed = self.change(route, None));
        // User code, which may change the router: everything is done.
        drop(removed);
        count
    }
}

/// A subscriber's handlers, one for each channel or pattern; returned by [`Subscriber::router`].
///
/// This is redis-py's `subscribe(**{channel: handler})`. [`on`](Self::on) and [`on_pattern`](Self::on_pattern)
/// subscribe, too. [`spawn`](Self::spawn), [`run`](Self::run) or [`run_async`](Self::run_async) hand each message to
/// the handler of the subscription that brought it; all other events, and messages without a handler, go to
/// [`otherwise`](Self::otherwise).
///
/// Which handler gets a message takes one look-up by an address, however long the names are and however many handlers
/// there are.
///
/// # Examples
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus = Bus::new();
/// let (seen, log) = std::sync::mpsc::channel();
/// let (moves, chat) = (seen.clone(), seen);
/// let listener = bus
///     .subscriber()
///     .router()
///     .on("game:7:chat", move |message| chat.send(format!("chat: {}", message.payload)).unwrap())?
///     .on_pattern("game:*:moves", move |message| {
///         moves.send(format!("{}: {}", message.channel(), message.payload)).unwrap();
///     })?
///     .spawn("game");
/// bus.publish("game:7:moves", "e4");
/// bus.publish("game:7:chat", "good luck");
/// drop(bus);
/// listener.join().unwrap();
/// assert!(log.iter().eq(["game:7:moves: e4", "chat: good luck"]));
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
#[must_use = "handlers are called by `spawn`, `run` or `run_async`"]
pub struct Router<P = Arc<str>> {
    // In the order in which they are dropped.
    table: Table<P>,
    subscriber: Subscriber<P>,
}

/// The router's own part. Dropped when it ends, whatever ends it.
struct Table<P> {
    shared: Arc<Shared<P>>,
    handlers: Vec<Option<Handler<P>>>,
    /// Places in it without a handler, to be used again.
    free: Vec<usize>,
    /// By address, the slots of handlers, or `None` for what has none.
    by_address: HashMap<usize, (Origin, Option<usize>), foldhash::fast::RandomState>,
    otherwise: Option<Box<dyn FnMut(Event<P>) + Send>>,
    keeps_going: bool,
}

impl<P: Clone + Send + 'static> Router<P> {
    pub(crate) fn new(subscriber: Subscriber<P>) -> Self {
        let table = Table {
            shared: Arc::default(),
            handlers: Vec::new(),
            free: Vec::new(),
            by_address: HashMap::default(),
            otherwise: None,
            keeps_going: false,
        };
        Self { table, subscriber }
    }

    /// Subscribes to `channel`, and has `handler` called with each message of that subscription.
    ///
    /// A handler that the channel had before is dropped. Messages that a pattern brought are not for this handler,
    /// even if they are of the same channel.
    ///
    /// # Errors
    ///
    /// Like [`Subscriber::subscribe`]. The router is dropped then, with its handlers; its subscriptions end, unless
    /// the subscriber has other clones.
    ///
    /// # Panics
    ///
    /// Like [`Subscriber::subscribe`].
    pub fn on(
        self,
        channel: impl AsRef<str>,
        handler: impl FnMut(Message<P>) + Send + 'static,
    ) -> Result<Self, SubscribeError> {
        let (channel, member) = (channel.as_ref(), self.subscriber.member());
        let (route, handler) = (Route::Channel(channel.into()), Box::new(handler));
        self.table.shared.subscribe::<Channel<P>>(member, &channel, route, handler)?;
        Ok(self)
    }

    /// Subscribes to `pattern`, and has `handler` called with each message of that subscription.
    ///
    /// A handler that the pattern had before is dropped.
    ///
    /// # Errors
    ///
    /// Like [`Subscriber::psubscribe`]. The router is dropped then, as by [`on`](Self::on).
    ///
    /// # Panics
    ///
    /// Like [`Subscriber::psubscribe`].
    pub fn on_pattern(
        self,
        pattern: impl Into<Pattern>,
        handler: impl FnMut(Message<P>) + Send + 'static,
    ) -> Result<Self, SubscribeError> {
        let (pattern, member) = (pattern.into(), self.subscriber.member());
        let (route, handler) = (Route::Pattern(pattern.clone()), Box::new(handler));
        self.table.shared.subscribe::<PatternEntry<P>>(member, &pattern, route, handler)?;
        Ok(self)
    }

    /// Has `handler` called with every event that has no handler of its own: lifecycle events,
    /// [`Event::Lagged`], and messages of subscriptions without a handler.
    ///
    /// By default, they are dropped: then nobody hears of losses. With [`keep_going`](Self::keep_going), messages whose
    /// handler panicked come here, too. What the panic said is not passed on: the panic hook has it.
    pub fn otherwise(mut self, handler: impl FnMut(Event<P>) + Send + 'static) -> Self {
        self.table.otherwise = Some(Box::new(handler));
        self
    }

    /// Sets whether the router goes on when a handler panics.
    ///
    /// By default, the panic ends the router: [`Listener::join`] returns it, [`run`](Self::run) passes it on. With
    /// `true`, the message goes to [`otherwise`](Self::otherwise), [`RouterHandle::panics`] counts it, and the handler
    /// is called for later messages, too. A handler that panics in the middle of a change must cope with that itself.
    /// Each payload is cloned before its handler is called. A panic of that `Clone`, or of `otherwise` itself, ends the
    /// router in any case.
    pub fn keep_going(mut self, yes: bool) -> Self {
        self.table.keeps_going = yes;
        self
    }

    /// Returns a handle that adds and removes handlers while the router runs.
    pub fn handle(&self) -> RouterHandle<P> {
        let shared = Arc::clone(&self.table.shared);
        RouterHandle { subscriber: self.subscriber.downgrade(), shared }
    }

    /// Runs the router on a thread called `name`; see [`Subscriber::spawn`].
    ///
    /// # Panics
    ///
    /// Like [`Subscriber::spawn`].
    pub fn spawn(self, name: impl Into<String>) -> Listener {
        let Self { subscriber, mut table } = self;
        subscriber.spawn(name, move |event| table.dispatch(event))
    }

    /// Runs the router on this thread, until the subscriber is closed and drained.
    ///
    /// # Panics
    ///
    /// Panics with a handler, and if it is called from a payload's `Clone`.
    pub fn run(self) {
        let Self { subscriber, mut table } = self;
        for event in &subscriber {
            table.dispatch(event);
        }
    }

    /// Runs the router in a task, until the subscriber is closed and drained.
    ///
    /// The handlers are those of a thread: they cannot await, and must not block. What takes long they hand on, for
    /// instance to a task that they spawn.
    ///
    /// The future may be dropped at any point, and the router with it; messages that it has not handled are still in
    /// the inbox. It gives way to other tasks now and then.
    ///
    /// # Panics
    ///
    /// Polling panics with a handler.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus<u32> = Bus::new();
    /// let mut sum = 0;
    /// let (seen, total) = std::sync::mpsc::channel();
    /// let router = bus.subscriber().router().on("scores", move |message| {
    ///     sum += message.payload;
    ///     seen.send(sum).unwrap();
    /// })?;
    /// (1..=3_u32).for_each(|points| _ = bus.publish("scores", points));
    /// drop(bus);
    /// router.run_async().await;
    /// assert_eq!(total.iter().last(), Some(6));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "async")]
    pub async fn run_async(self) {
        let Self { subscriber, mut table } = self;
        while let Ok(event) = subscriber.recv_async().await {
            table.dispatch(event);
        }
    }
}

impl<P: Clone + Send + 'static> Table<P> {
    #[inline]
    fn dispatch(&mut self, event: Event<P>) {
        // Acquire: partner of the Release in `Shared::change`.
        if self.shared.is_changed.load(Ordering::Acquire) {
            self.apply_changes();
        }
        match event {
            Event::Message(message) | Event::PMessage(message) => match self.slot(&message) {
                Some(slot) => self.call(slot, message),
                None => self.pass_by(message.into()),
            },
            event => self.pass_by(event),
        }
    }

    #[cold]
    fn apply_changes(&mut self) {
        let mut state = self.shared.state.lock();
        self.shared.is_changed.store(false, Ordering::Release);
        let State { changes, slots, .. } = &mut *state;
        let mut replaced = Vec::new();
        for (route, handler) in mem::take(changes) {
            let slot = match handler {
                Some(_) => *slots.entry(route).or_insert_with(|| {
                    self.free.pop().unwrap_or_else(|| {
                        self.handlers.push(None);
                        self.handlers.len() - 1
                    })
                }),
                None => {
                    let Some(slot) = slots.remove(&route) else { continue };
                    self.free.push(slot);
                    slot
                }
            };
            replaced.push(mem::replace(&mut self.handlers[slot], handler));
        }
        drop(state);
        // What was found to have no handler may have one now.
        self.by_address.clear();
        let drop_all = || for_each_then_resume(replaced, drop);
        if !self.keeps_going {
            drop_all();
        } else if let Err(panic) = catch_unwind(AssertUnwindSafe(drop_all)) {
            self.count_panic(panic);
        }
    }

    /// Counts a panic that does not end the router.
    fn count_panic(&self, panic: Box<dyn Any + Send>) {
        reentrancy::discard(panic);
        // Relaxed: a count orders nothing.
        self.shared.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the slot of the handler for a message.
    #[inline]
    fn slot(&mut self, message: &Message<P>) -> Option<usize> {
        match message.source.address().and_then(|address| self.by_address.get(&address)) {
            Some((_, slot)) => *slot,
            None => self.find(message),
        }
    }

    #[cold]
    fn find(&mut self, message: &Message<P>) -> Option<usize> {
        let route = match message.matched_by() {
            Some(pattern) => Route::Pattern(pattern.clone()),
            None => Route::Channel(message.channel().into()),
        };
        let state = self.shared.state.lock();
        let (slot, handlers) = (state.slots.get(&route).copied(), state.slots.len());
        drop(state);
        if let Some(origin) = message.source.origin() {
            // Names that come and go have a new address each time.
            if self.by_address.len() >= 2 * handlers + 64 {
                self.by_address.clear();
            }
            self.by_address.insert(origin.address(), (origin, slot));
        }
        slot
    }

    #[inline]
    fn call(&mut self, slot: usize, message: Message<P>) {
        let Some(handler) = &mut self.handlers[slot] else { return self.pass_by(message.into()) };
        if !self.keeps_going {
            return handler(message);
        }
        let again = message.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler(message))) {
            self.count_panic(panic);
            self.pass_by(again.into());
        }
    }

    fn pass_by(&mut self, event: Event<P>) {
        if let Some(otherwise) = &mut self.otherwise {
            otherwise(event);
        }
    }
}

impl<P> Drop for Table<P> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.has_ended = true;
        let changes = mem::take(&mut state.changes);
        drop(state);
        let never_taken = changes.into_values().flatten();
        let mut panics = Panics::default();
        panics.for_each(never_taken.chain(self.handlers.drain(..).flatten()), drop);
        panics.for_each(self.otherwise.take(), drop);
        panics.resume();
    }
}

/// Adds and removes the handlers of a [`Router`] while it runs; returned by [`Router::handle`].
///
/// It keeps neither the router nor the subscriber: when the router ends, as its [`Listener`] is stopped, a handler
/// panics or the bus is closed, the subscriptions end, unless the subscriber has other clones. Handlers may own a
/// handle, and change what the router does.
///
/// A change holds for every message that the router takes up after it, also for those that were queued before. A
/// handler that was removed or replaced is dropped by then; at once, if the router has not taken it up yet.
///
/// # Examples
///
/// ```
/// use fanout::Bus;
///
/// let bus: Bus = Bus::new();
/// let router = bus.subscriber().router();
/// let handle = router.handle();
/// let listener = router.spawn("late");
/// let (seen, log) = std::sync::mpsc::channel();
/// handle.on("news", move |message| seen.send(message.payload).unwrap())?;
/// bus.publish("news", "hello");
/// assert_eq!(log.recv().as_deref(), Ok("hello"));
/// handle.remove("news");
/// assert_eq!(bus.publish("news", "anybody?").matched, 0);
/// # listener.stop();
/// # Ok::<(), fanout::SubscribeError>(())
/// ```
pub struct RouterHandle<P = Arc<str>> {
    subscriber: Weak<Member<P>>,
    shared: Arc<Shared<P>>,
}

impl<P: Clone + Send + 'static> RouterHandle<P> {
    /// Subscribes to `channel`, and has `handler` called with its messages; see [`Router::on`]. Returns the number of
    /// channels and patterns now held.
    ///
    /// # Errors
    ///
    /// Like [`Subscriber::subscribe`], and [`SubscribeError::Closed`] if the router has ended.
    pub fn on(
        &self,
        channel: impl AsRef<str>,
        handler: impl FnMut(Message<P>) + Send + 'static,
    ) -> Result<usize, SubscribeError> {
        let (channel, member) = (channel.as_ref(), self.member()?);
        let (route, handler) = (Route::Channel(channel.into()), Box::new(handler));
        self.shared.subscribe::<Channel<P>>(&member, &channel, route, handler)
    }

    /// Subscribes to `pattern`, and has `handler` called with its messages; see [`Router::on_pattern`]. Returns the
    /// number of channels and patterns now held.
    ///
    /// # Errors
    ///
    /// Like [`Subscriber::psubscribe`], and [`SubscribeError::Closed`] if the router has ended.
    pub fn on_pattern(
        &self,
        pattern: impl Into<Pattern>,
        handler: impl FnMut(Message<P>) + Send + 'static,
    ) -> Result<usize, SubscribeError> {
        let (pattern, member) = (pattern.into(), self.member()?);
        let (route, handler) = (Route::Pattern(pattern.clone()), Box::new(handler));
        self.shared.subscribe::<PatternEntry<P>>(&member, &pattern, route, handler)
    }

    /// Unsubscribes from `channel`, and drops its handler. Returns the number of channels and patterns still held.
    ///
    /// Messages of it that are still queued go to [`otherwise`](Router::otherwise).
    pub fn remove(&self, channel: impl AsRef<str>) -> usize {
        let channel = channel.as_ref();
        let route = Route::Channel(channel.into());
        self.shared.unsubscribe::<Channel<P>>(&self.subscriber, channel, route)
    }

    /// Unsubscribes from `pattern`, and drops its handler. Returns the number of channels and patterns still held.
    ///
    /// Messages of it that are still queued go to [`otherwise`](Router::otherwise).
    pub fn remove_pattern(&self, pattern: impl Into<Pattern>) -> usize {
        let pattern = pattern.into();
        let route = Route::Pattern(pattern.clone());
        self.shared.unsubscribe::<PatternEntry<P>>(&self.subscriber, &pattern, route)
    }

    /// Returns how often a handler has panicked and the router gone on: see [`Router::keep_going`].
    pub fn panics(&self) -> u64 {
        // Relaxed: see `Table::call`.
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// `true` if the router has ended.
    pub fn is_finished(&self) -> bool {
        self.shared.has_ended()
    }

    fn member(&self) -> Result<Arc<Member<P>>, SubscribeError> {
        self.subscriber.upgrade().ok_or(SubscribeError::Closed)
    }

    /// Returns a clone of the subscriber, or `None` if it has been dropped.
    ///
    /// The subscriber has been dropped when the router has ended, unless it has other clones.
    pub fn subscriber(&self) -> Option<Subscriber<P>> {
        Subscriber::upgrade(&self.subscriber)
    }
}

impl<P> Clone for RouterHandle<P> {
    fn clone(&self) -> Self {
        Self { subscriber: Weak::clone(&self.subscriber), shared: Arc::clone(&self.shared) }
    }
}

impl<P> fmt::Debug for Router<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It has not run, so it has taken none yet. Unlocked before the formatter is called, which is user code.
        let handlers = self.table.shared.state.lock().changes.len();
        f.debug_struct("Router")
            .field("subscriber", &self.subscriber)
            .field("handlers", &handlers)
            .finish_non_exhaustive()
    }
}

// As for `Subscriber`.
impl<P> UnwindSafe for RouterHandle<P> {}
impl<P> RefUnwindSafe for RouterHandle<P> {}

impl<P> fmt::Debug for RouterHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterHandle")
            .field("subscriber", &Subscriber::upgrade(&self.subscriber))
            .finish_non_exhaustive()
    }
}
