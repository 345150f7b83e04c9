//! Wakers that tell how often they were called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

/// A waker that counts its calls, and then runs some code.
pub struct Counting {
    calls: AtomicUsize,
    code: Box<dyn Fn() + Send + Sync>,
}

impl Counting {
    pub fn new(code: impl Fn() + Send + Sync + 'static) -> (Arc<Self>, Waker) {
        let counting = Arc::new(Self { calls: AtomicUsize::new(0), code: Box::new(code) });
        (Arc::clone(&counting), Waker::from(counting))
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.code)();
    }
}
