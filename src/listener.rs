//! A handler on a thread of its own.
//!
//! The thread owns the handler and what it receives with, and calls both under no lock. Nothing is known here of who
//! feeds it: a listener is made of functions.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::event::Event;
use crate::inbox::StopSignal;
use crate::reentrancy;

/// A thread that hands the events of a subscriber to a handler, started by
/// [`Subscriber::spawn`](crate::Subscriber::spawn).
///
/// Dropping a listener stops it without waiting: see [`stop`](Self::stop). [`drain`](Self::drain)
/// lets it handle what is queued first, [`join`](Self::join) waits for its end, and
/// [`detach`](Self::detach) lets it run on.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Event};
///
/// let bus: Bus = Bus::new();
/// let (seen, log) = std::sync::mpsc::channel();
/// let listener = bus.subscribe("orders")?.spawn("orders", move |event| match event {
///     Event::Message(message) => seen.send(message.payload).unwrap(),
///     Event::Lagged { missed } => eprintln!("{missed} orders were lost"),
///     _ => {}
/// });
/// bus.publish("orders", "buy");
/// listener.drain();
/// listener.join().expect("the handler does not panic");
/// assert_eq!(&*log.recv()?, "buy");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a listener is stopped when it is dropped"]
pub struct Listener {
    /// Says when the thread must end. It is unparked after this is set.
    stop_signal: Arc<StopSignal>,
    /// Unsubscribes the listener's subscriber from everything, if there is a handle to it.
    unsubscribe: Box<dyn Fn() + Send + Sync>,
    /// Disconnected when the handler has ended.
    ended: Receiver<()>,
    /// `None` once detached or joined.
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Hands to `handler` what `receive` returns, on a thread called `name`, until that is `None`.
    ///
    /// `receive` is called with what ends the thread, and must return `None` once that is set and the thread unparked.
    /// `unsubscribe` is what [`drain`](Self::drain) calls; it must not keep a subscriber alive.
    pub(crate) fn spawn<P: Send + 'static>(
        name: String,
        receive: impl Fn(&StopSignal) -> Option<Event<P>> + Send + 'static,
        handler: impl FnMut(Event<P>) + Send + 'static,
        unsubscribe: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let stop_signal = Arc::new(StopSignal::default());
        let asked = Arc::clone(&stop_signal);
        let (end, ended) = bounded::<()>(0);
        let listen = move || {
            // Declared first, so that it is dropped last, also during unwinding.
            let _end = end;
            let (receive, mut handler) = (receive, handler);
            while let Some(event) = receive(&asked) {
                handler(event);
            }
        };
        let thread = thread::Builder::new()
            .name(name)
            .spawn(listen)
            .unwrap_or_else(|error| panic!("no thread for a listener: {error}"));
        Self { stop_signal, unsubscribe: Box::new(unsubscribe), ended, thread: Some(thread) }
    }

    /// Ends the thread after the event that its handler is working on.
    ///
    /// What is queued stays queued for other clones of the subscriber. If there are none, it is
    /// dropped with the subscriber; [`drain`](Self::drain) has it handled first. This does not wait
    /// for the thread, and does not affect other listeners of the same subscriber.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("orders")?;
    /// let listener = sub.spawn("orders", |_| ());
    /// listener.stop();
    /// listener.join().unwrap();
    /// assert!(!sub.is_closed());
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "stop_thread")]
    pub fn stop(&self) {
        self.stop_signal.stop();
        self.unpark();
    }

    /// Unsubscribes the subscriber from everything and ends the thread when all that is queued has
    /// been handled.
    ///
    /// A publish that begins after this has returned does not reach the handler. The handler still
    /// gets the queued messages, and then the [`Event::Unsubscribe`] or [`Event::PUnsubscribe`] of
    /// each subscription. This does not wait for the thread: [`join`](Self::join) does.
    ///
    /// Clones of the subscriber share its subscriptions, so they are unsubscribed too; they stay
    /// open. If the handler or a clone subscribes to something afterwards, the thread goes on for
    /// as long as there is something to read.
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
    /// let bus: Bus<u32> = Bus::new();
    /// let (seen, log) = std::sync::mpsc::channel();
    /// let listener = bus.subscribe("numbers")?.spawn("numbers", move |event| {
    ///     if let Some(message) = event.into_message() {
    ///         seen.send(message.payload).unwrap();
    ///     }
    /// });
    /// (1..=100_u32).for_each(|n| _ = bus.publish("numbers", n));
    /// listener.drain();
    /// listener.join().unwrap();
    /// assert_eq!(log.iter().sum::<u32>(), 5050);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn drain(&self) {
        (self.unsubscribe)();
        self.stop_signal.drain();
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// `true` if the thread has ended.
    ///
    /// It ends when it is stopped, when it is drained, when its handler panics, or when its
    /// subscriber is closed and the inbox drained.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the thread has ended.
    ///
    /// This does not end the thread: call [`stop`](Self::stop) or [`drain`](Self::drain) first, or
    /// close the subscriber or the bus.
    ///
    /// # Errors
    ///
    /// Returns the value that the handler panicked with, if it did. If called by the listener's own
    /// handler, which would wait for itself, this stops the listener and returns an error at once.
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
    /// let sub = bus.subscriber_builder().lifecycle_events(false).subscribe("orders")?;
    /// let listener = sub.spawn("orders", |_| panic!("out of stock"));
    /// bus.publish("orders", "buy");
    /// let panic = listener.join().unwrap_err();
    /// assert_eq!(panic.downcast_ref(), Some(&"out of stock"));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn join(mut self) -> thread::Result<()> {
        reentrancy::assert_not_in_clone();
        match self.thread.take() {
            Some(thread) if thread.thread().id() == thread::current().id() => {
                self.stop_signal.stop();
                Err(Box::new("a listener cannot be joined by its own handler"))
            }
            Some(thread) => thread.join(),
            None => Ok(()),
        }
    }

    /// Waits until the thread has ended, for `timeout` at most.
    ///
    /// The inner result is that of [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// Returns the listener, which is still running, when `timeout` has passed.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let listener = bus.subscribe("orders")?.spawn("orders", |_| ());
    /// listener.drain(); // nothing new: it handles what is queued
    /// match listener.join_timeout(Duration::from_secs(5)) {
    ///     Ok(Ok(())) => {}
    ///     Ok(Err(panic)) => eprintln!("the handler panicked: {panic:?}"),
    ///     Err(listener) => listener.stop(), // too slow: it gives up the rest
    /// }
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn join_timeout(self, timeout: Duration) -> Result<thread::Result<()>, Self> {
        reentrancy::assert_not_in_clone();
        let own = self.thread.as_ref().map(|thread| thread.thread().id());
        if own != Some(thread::current().id())
            && self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout)
        {
            return Err(self);
        }
        Ok(self.join())
    }

    /// Lets the thread run on without a handle.
    ///
    /// It ends when its subscriber is closed and the inbox drained, which closing the bus brings
    /// about, or when its handler panics.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let (seen, log) = std::sync::mpsc::channel();
    /// bus.subscribe("orders")?
    ///     .spawn("orders", move |event| seen.send(event).unwrap())
    ///     .detach();
    /// bus.close();
    /// assert_eq!(log.iter().count(), 1); // the `Subscribe` event; then the thread ended
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn detach(mut self) {
        self.thread = None;
    }
}

// A panic in user code leaves the subscriber usable; tests hold this.
impl UnwindSafe for Listener {}
impl RefUnwindSafe for Listener {}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("name", &self.thread.as_ref().and_then(|thread| thread.thread().name()))
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
