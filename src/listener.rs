//! A handler on a thread of its own.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::event::Event;
use crate::subscriber::Subscriber;
use crate::sync::{AtomicBool, Ordering};

/// A thread that hands a subscriber's events to a handler; see
/// [`Subscriber::spawn`](crate::Subscriber::spawn).
///
/// Dropping it stops it without waiting. [`detach`](Self::detach) lets it run on, and
/// [`join`](Self::join) waits for its end.
#[must_use = "a listener is stopped when it is dropped"]
pub struct Listener {
    /// Set when the thread is to stop; then it is unparked.
    stop: Arc<AtomicBool>,
    /// Gone when detached or joined.
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn spawn<P: Send + 'static>(
        subscriber: Subscriber<P>,
        name: String,
        mut handler: impl FnMut(Event<P>) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let listen = move || {
            while let Some(event) = subscriber.recv_until(&stopped) {
                handler(event);
            }
        };
        let thread = thread::Builder::new()
            .name(name)
            .spawn(listen)
            .unwrap_or_else(|error| panic!("no thread for a listener: {error}"));
        Self { stop, thread: Some(thread) }
    }

    /// Ends the thread after the event that its handler is busy with; what is queued stays queued.
    ///
    /// It wakes this listener alone, and does not wait for it.
    #[doc(alias = "stop_thread")]
    pub fn stop(&self) {
        // Release: what was done before is seen by the thread when it sees this.
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Whether the thread has ended: stopped, panicked, or its subscriber closed and drained.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the thread has ended: when it is stopped, or its subscriber closed and drained.
    ///
    /// # Errors
    ///
    /// What the handler panicked with, if it did. When called by the listener's own handler, which could
    /// only wait for itself, an error at once; the listener is stopped then.
    pub fn join(mut self) -> thread::Result<()> {
        match self.thread.take() {
            Some(thread) if thread.thread().id() == thread::current().id() => {
                // Relaxed: it is this thread that will see it.
                self.stop.store(true, Ordering::Relaxed);
                Err(Box::new("a listener cannot be joined by its own handler"))
            }
            Some(thread) => thread.join(),
            None => Ok(()),
        }
    }

    /// Lets the thread run on without a handle, until its subscriber is closed and drained.
    pub fn detach(mut self) {
        self.thread = None;
    }
}

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
