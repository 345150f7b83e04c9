//! Receiving in tasks: futures and streams, for any runtime and for event loops without one.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::future::FusedFuture;
use futures_core::stream::{FusedStream, Stream};

use super::Subscriber;
use crate::error::{RecvError, TryRecvError};
use crate::event::{Event, Message};
use crate::give_way::GiveWay;
use crate::inbox::Inbox;
use crate::wait_list::Ticket;

/// A future that resolves to the next event; see [`Subscriber::recv_async`].
///
/// If it is polled again after that, it receives the next one.
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct Recv<'a, P = Arc<str>> {
    place: Place<&'a Inbox<P>, P>,
    is_done: bool,
}

/// A future that resolves to the next message; see [`Subscriber::recv_message_async`].
///
/// If it is polled again after that, it receives the next one.
#[must_use = "futures do nothing unless they are awaited or polled"]
pub struct RecvMessage<'a, P = Arc<str>> {
    place: Place<&'a Inbox<P>, P>,
    is_done: bool,
}

/// A stream of events; see [`Subscriber::stream`] and [`Subscriber::into_stream`].
///
/// It ends when the subscriber is closed and its inbox drained, for good. Dropping it loses nothing, unless it owns the
/// last handle to its subscriber: then it unsubscribes, and what is unread is discarded.
///
/// `next` and the other adapters come from `StreamExt` of the crate `futures` or `tokio-stream`. The [guide to
/// tasks](crate::docs::tasks) has more.
#[must_use = "streams do nothing unless they are polled"]
pub struct EventStream<'a, P = Arc<str>> {
    source: StreamSource<'a, P>,
}

/// A stream of messages; see [`Subscriber::message_stream`] and [`Subscriber::into_message_stream`].
///
/// It skips all other events, `Lagged` too: [`Subscriber::missed`] tells what was lost. It ends when the subscriber is
/// closed and its inbox drained, for good. Dropping it loses nothing, unless it owns the last handle to its subscriber:
/// then it unsubscribes, and what is unread is discarded.
///
/// `next` and the other adapters come from `StreamExt` of the crate `futures` or `tokio-stream`. The [guide to
/// tasks](crate::docs::tasks) has more.
#[must_use = "streams do nothing unless they are polled"]
pub struct MessageStream<'a, P = Arc<str>> {
    source: StreamSource<'a, P>,
}

impl<P> Subscriber<P> {
    // ---- receiving in tasks --------------------------------------------------------------------

    /// Waits for the next event without blocking the thread.
    ///
    /// The future may be dropped at any time: no event is lost, and a wake-up that it has got goes to the next
    /// receiver that waits. Several tasks and threads may wait at once; the one that came first is woken first.
    ///
    /// After 32 polls that were ready at once, the next is `Pending` once, and wakes its task at once: so a task that
    /// never runs dry does not starve its neighbours.
    ///
    /// # Errors
    ///
    /// The future resolves to [`RecvError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "hello");
    /// assert!(matches!(sub.recv_async().await?, Event::Subscribe { .. }));
    /// assert_eq!(&*sub.recv_async().await?.message().unwrap().payload, "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn recv_async(&self) -> Recv<'_, P> {
        Recv { place: Place::new(&*self.member.inbox), is_done: false }
    }

    /// Waits for the next message without blocking the thread, skipping all other events.
    ///
    /// In everything else it is like [`recv_async`](Self::recv_async).
    ///
    /// # Errors
    ///
    /// The future resolves to [`RecvError::Closed`] when the subscriber is closed and its inbox drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fanout::Bus;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.subscribe("ticks")?;
    /// let patience = Duration::from_millis(5);
    /// assert!(tokio::time::timeout(patience, sub.recv_message_async()).await.is_err());
    /// bus.publish("ticks", 7_u32);
    /// assert_eq!(sub.recv_message_async().await?.payload, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn recv_message_async(&self) -> RecvMessage<'_, P> {
        RecvMessage { place: Place::new(&*self.member.inbox), is_done: false }
    }

    /// Returns a stream of events. Several streams and clones of one subscriber share its events.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Event};
    /// use futures::StreamExt;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "hello");
    /// bus.close();
    /// let events: Vec<Event> = sub.stream().collect().await;
    /// assert!(matches!(&events[..], [Event::Subscribe { .. }, Event::Message(_)]));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    pub fn stream(&self) -> EventStream<'_, P> {
        EventStream { source: StreamSource::new(Holder::Borrowed(self)) }
    }

    /// Returns a stream of messages, which skips all other events. Several streams and clones of one subscriber share
    /// its messages.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    /// use futures::StreamExt;
    ///
    /// # futures::executor::block_on(async {
    /// let bus: Bus<u32> = Bus::new();
    /// let sub = bus.psubscribe("score:*")?;
    /// (1..=3_u32).for_each(|n| _ = bus.publish(&format!("score:{n}"), n));
    /// let best = sub.message_stream().take(3).map(|message| message.payload).collect::<Vec<_>>();
    /// assert_eq!(best.await, [1, 2, 3]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// # }).unwrap();
    /// ```
    pub fn message_stream(&self) -> MessageStream<'_, P> {
        MessageStream { source: StreamSource::new(Holder::Borrowed(self)) }
    }

    /// Returns a stream of events that owns the subscriber, for a task of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    /// use futures::StreamExt;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let bus: Bus = Bus::new();
    /// let mut events = bus.subscribe("news")?.into_stream();
    /// events.subscriber().subscribe("weather")?;
    /// let reader = tokio::spawn(async move {
    ///     let mut seen = 0;
    ///     while let Some(event) = events.next().await {
    ///         seen += usize::from(event.message().is_some());
    ///     }
    ///     seen
    /// });
    /// bus.publish("weather", "rain");
    /// drop(bus);
    /// assert_eq!(reader.await?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn into_stream(self) -> EventStream<'static, P> {
        EventStream { source: StreamSource::new(Holder::Owned(self)) }
    }

    /// Returns a stream of messages that owns the subscriber, for a task of its own. It skips all other events.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    /// use futures::StreamExt;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let bus: Bus<u32> = Bus::new();
    /// let scores = bus.psubscribe("score:*")?.into_message_stream();
    /// let reader = tokio::spawn(scores.fold(0, async |sum, message| sum + message.payload));
    /// (1..=3_u32).for_each(|points| _ = bus.publish("score:ada", points));
    /// drop(bus);
    /// assert_eq!(reader.await?, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn into_message_stream(self) -> MessageStream<'static, P> {
        MessageStream { source: StreamSource::new(Holder::Owned(self)) }
    }
}

/// A receiver's place in the list of those that wait, which it leaves when this is dropped.
struct Place<I: AsRef<Inbox<P>>, P> {
    inbox: I,
    ticket: Option<Ticket>,
    give_way: GiveWay,
    _payload: PhantomData<fn() -> P>,
}

impl<I: AsRef<Inbox<P>>, P> Place<I, P> {
    fn new(inbox: I) -> Self {
        Self { inbox, ticket: None, give_way: GiveWay::default(), _payload: PhantomData }
    }

    /// Polls `try_recv`, and gives way now and then.
    #[inline]
    fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        try_recv: impl Fn(&Inbox<P>) -> Result<T, TryRecvError>,
    ) -> Poll<Result<T, RecvError>> {
        let inbox = self.inbox.as_ref();
        if self.give_way.must_give_way(context, || !inbox.seems_empty()) {
            return Poll::Pending;
        }
        let polled = inbox.poll(&mut self.ticket, context, || try_recv(inbox));
        if polled.is_ready() {
            self.give_way.was_ready(context);
        } else {
            self.give_way.was_pending();
        }
        polled
    }
}

impl<I: AsRef<Inbox<P>>, P> Drop for Place<I, P> {
    #[inline]
    fn drop(&mut self) {
        self.inbox.as_ref().leave(&mut self.ticket);
    }
}

impl<P> AsRef<Inbox<P>> for Inbox<P> {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<P> Future for Recv<'_, P> {
    type Output = Result<Event<P>, RecvError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.place.poll(context, Inbox::try_recv);
        self.is_done = polled.is_ready();
        polled
    }
}

impl<P> Future for RecvMessage<'_, P> {
    type Output = Result<Message<P>, RecvError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.place.poll(context, Inbox::try_recv_message);
        self.is_done = polled.is_ready();
        polled
    }
}

/// A subscriber, borrowed or owned.
enum Holder<'a, P> {
    Borrowed(&'a Subscriber<P>),
    Owned(Subscriber<P>),
}

/// What the two kinds of stream have in common.
struct StreamSource<'a, P> {
    /// The inbox itself: by way of the subscriber it would be one cache miss further away.
    place: Place<Arc<Inbox<P>>, P>,
    subscriber: Holder<'a, P>,
    has_ended: bool,
}

impl<'a, P> StreamSource<'a, P> {
    fn new(subscriber: Holder<'a, P>) -> Self {
        let (Holder::Borrowed(Subscriber { member }) | Holder::Owned(Subscriber { member })) =
            &subscriber;
        let place = Place::new(Arc::clone(&member.inbox));
        Self { place, subscriber, has_ended: false }
    }

    fn subscriber(&self) -> &Subscriber<P> {
        match &self.subscriber {
            Holder::Borrowed(subscriber) => subscriber,
            Holder::Owned(subscriber) => subscriber,
        }
    }

    #[inline]
    fn poll_recv<T>(
        &mut self,
        context: &mut Context<'_>,
        try_recv: impl Fn(&Inbox<P>) -> Result<T, TryRecvError>,
    ) -> Poll<Option<T>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.place.poll(context, try_recv).map(|received| {
            self.has_ended = received.is_err();
            received.ok()
        })
    }
}

impl<P> EventStream<'_, P> {
    /// Returns the subscriber, for example to subscribe to further channels, or to close it.
    pub fn subscriber(&self) -> &Subscriber<P> {
        self.source.subscriber()
    }

    /// Polls for the next event; `None` when the subscriber is closed and its inbox drained.
    ///
    /// For event loops without a runtime. Make a [`Waker`](std::task::Waker) that makes the loop come back here, as by
    /// [`std::task::Wake`], and poll until `Pending`. The waker is called when there is something to read again. After
    /// 32 polls that were ready at once, the next is `Pending` once, and calls the waker before it returns: do not poll
    /// under a lock that the waker takes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use std::task::{Context, Poll, Wake, Waker};
    ///
    /// use fanout::Bus;
    ///
    /// /// In egui this would call `Context::request_repaint`, in winit `EventLoopProxy::send_event`, with mio
    /// /// `mio::Waker::wake`.
    /// struct Repaint(AtomicBool);
    ///
    /// impl Wake for Repaint {
    ///     fn wake(self: Arc<Self>) {
    ///         self.0.store(true, Ordering::SeqCst);
    ///     }
    /// }
    ///
    /// let bus: Bus<u32> = Bus::new();
    /// let mut events = bus.subscribe("score")?.into_stream();
    /// let repaint = Arc::new(Repaint(AtomicBool::new(true)));
    /// let waker = Waker::from(Arc::clone(&repaint));
    /// let mut score = 0;
    /// for points in 1..=3_u32 {
    ///     bus.publish("score", points);
    ///     assert!(repaint.0.swap(false, Ordering::SeqCst), "the loop is told to draw a frame");
    ///     while let Poll::Ready(Some(event)) = events.poll_recv(&mut Context::from_waker(&waker)) {
    ///         score += event.into_message().map_or(0, |message| message.payload);
    ///     }
    /// }
    /// assert_eq!(score, 6);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[inline]
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event<P>>> {
        self.source.poll_recv(context, Inbox::try_recv)
    }
}

impl<P> MessageStream<'_, P> {
    /// Returns the subscriber, for example to subscribe to further channels, or to close it.
    pub fn subscriber(&self) -> &Subscriber<P> {
        self.source.subscriber()
    }

    /// Polls for the next message; `None` when the subscriber is closed and its inbox drained.
    ///
    /// For event loops without a runtime: see [`EventStream::poll_recv`].
    #[inline]
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Message<P>>> {
        self.source.poll_recv(context, Inbox::try_recv_message)
    }
}

impl<P> Stream for EventStream<'_, P> {
    type Item = Event<P>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event<P>>> {
        self.poll_recv(context)
    }
}

impl<P> Stream for MessageStream<'_, P> {
    type Item = Message<P>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message<P>>> {
        self.poll_recv(context)
    }
}

impl<P> FusedFuture for Recv<'_, P> {
    fn is_terminated(&self) -> bool {
        self.is_done
    }
}

impl<P> FusedFuture for RecvMessage<'_, P> {
    fn is_terminated(&self) -> bool {
        self.is_done
    }
}

impl<P> FusedStream for EventStream<'_, P> {
    fn is_terminated(&self) -> bool {
        self.source.has_ended
    }
}

impl<P> FusedStream for MessageStream<'_, P> {
    fn is_terminated(&self) -> bool {
        self.source.has_ended
    }
}

// As for `Subscriber`.
impl<P> UnwindSafe for Recv<'_, P> {}
impl<P> RefUnwindSafe for Recv<'_, P> {}
impl<P> UnwindSafe for RecvMessage<'_, P> {}
impl<P> RefUnwindSafe for RecvMessage<'_, P> {}
impl<P> UnwindSafe for EventStream<'_, P> {}
impl<P> RefUnwindSafe for EventStream<'_, P> {}
impl<P> UnwindSafe for MessageStream<'_, P> {}
impl<P> RefUnwindSafe for MessageStream<'_, P> {}

impl<P> fmt::Debug for Recv<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recv").finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for RecvMessage<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvMessage").finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for EventStream<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("subscriber", self.subscriber()).finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for MessageStream<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscriber = self.subscriber();
        f.debug_struct("MessageStream").field("subscriber", subscriber).finish_non_exhaustive()
    }
}
