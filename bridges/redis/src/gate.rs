//! Reading no faster than this process can take: while too much waits to be published here, nothing is read from
//! the server, whose own buffers fill up then. It cuts the connection if it must, which is seen and told.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use redis::{PushInfo, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait to be published here, while more are read.
const LIMIT: usize = 4 << 20;

/// What a message takes beside its bytes, about.
const OVERHEAD: usize = 256;

/// Returns what a message from the server counts for, in bytes.
pub(crate) fn weight(push: &PushInfo) -> usize {
    let bytes = push.data.iter().map(|value| match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    });
    bytes.sum::<usize>() + OVERHEAD
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Gate {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Nothing is read, until half of what waits is gone.
    is_closed: AtomicBool,
    reader: AtomicWaker,
}

impl Gate {
    /// Notes that a message waits, of `bytes`. Returns the bytes that wait now.
    pub(crate) fn enter(&self, bytes: usize) -> usize {
        // SeqCst, here and below: a reader registers its waker and looks again, a message leaves and then looks for it.
        self.waiting.fetch_add(bytes, Ordering::SeqCst) + bytes
    }

    /// Notes that a message has been taken, of `bytes`. Returns `true` if the gate opens, should it have been closed.
    pub(crate) fn leave(&self, bytes: usize) -> bool {
        let before = self.waiting.fetch_sub(bytes, Ordering::SeqCst);
        // It opens when half of them are gone, so that many are read at a time.
        let opens = before > LIMIT / 2 && before - bytes <= LIMIT / 2;
        if opens {
            self.is_closed.store(false, Ordering::SeqCst);
            self.reader.wake();
        }
        opens
    }

    /// `true` if nothing is read.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// Closes the gate if too much waits. Returns `true` if it is closed; then the reader is woken when it opens.
    fn closes(&self, context: &Context<'_>) -> bool {
        if !self.is_closed() && self.waiting.load(Ordering::SeqCst) < LIMIT {
            return false;
        }
        self.reader.register(context.waker());
        self.is_closed.store(true, Ordering::SeqCst);
        // It may have been opened before that.
        let is_closed = self.waiting.load(Ordering::SeqCst) > LIMIT / 2;
        if !is_closed {
            self.is_closed.store(false, Ordering::SeqCst);
        }
        is_closed
    }
}

/// A connection that is read only while its gate is open.
pub(crate) struct Gated<S> {
    stream: S,
    gate: Arc<Gate>,
}

impl<S> Gated<S> {
    pub(crate) fn new(stream: S, gate: Arc<Gate>) -> Self {
        Self { stream, gate }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gate.closes(context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_closed_gate_is_not_read_through_until_half_of_what_waits_is_gone() {
        let gate = Arc::new(Gate::default());
        let mut stream = Gated::new(&b"bytes"[..], Arc::clone(&gate));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = || {
            let mut bytes = [0; 1];
            let mut buffer = ReadBuf::new(&mut bytes);
            Pin::new(&mut stream).poll_read(&mut Context::from_waker(&waker), &mut buffer)
        };
        assert_eq!(gate.enter(LIMIT - 1), LIMIT - 1);
        assert!(poll().is_ready());
        assert_eq!(gate.enter(1), LIMIT);
        assert!(!gate.is_closed());
        assert!(poll().is_pending());
        // Still, though less than the limit waits.
        assert!(!gate.leave(1));
        assert!(gate.is_closed() && poll().is_pending());
        assert!(!gate.leave(LIMIT / 2 - 2));
        assert!(!woken.0.load(Ordering::SeqCst));
        assert!(gate.leave(1));
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(!gate.is_closed() && poll().is_ready());
    }
}
