//! What a bus is built with.

use std::fmt;
use std::sync::Arc;
use std::thread;

use super::Bus;
use crate::engine::{Engine, OpenGuard, check_capacity};
use crate::limits::{Limits, Overflow};

/// The default capacity of an inbox, in messages.
const CAPACITY: usize = 256;

/// A builder for a [`Bus`], returned by [`Bus::builder`].
///
/// A clone of the builder builds another bus with the same settings.
///
/// # Examples
///
/// ```
/// use fanout::{Bus, Limits, Overflow};
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
    pub(super) fn new() -> Self {
        Self {
            capacity: CAPACITY,
            overflow: Overflow::default(),
            stripes: None,
            limits: Limits::default(),
            payload: std::marker::PhantomData,
        }
    }

    /// Sets the number of messages that an inbox holds, unless its subscriber is built with
    /// another.
    ///
    /// The default is 256 messages. An inbox allocates the memory for all of them when it is
    /// created, or as it is needed under [`Overflow::Conflate`], whose capacity bounds the channels.
    ///
    /// # Panics
    ///
    /// Panics if `messages` is 0.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = check_capacity(messages);
        self
    }

    /// Sets what a full inbox does, unless its subscriber is built with another policy.
    ///
    /// The default is [`Overflow::DropOldest`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Sets the number of stripes: parts into which the channels are divided by name, each with its
    /// own lock.
    ///
    /// The number is rounded up to a power of two, from 1 to 4,096. By default there are eight
    /// stripes for each processor, and at least 64. More stripes mean less contention between
    /// threads that publish by name, subscribe or unsubscribe.
    ///
    /// Names that were published to recently and have no subscriber are remembered within 2 MiB for
    /// the whole bus, or 32 KiB for each stripe if that is more.
    pub fn stripes(mut self, stripes: usize) -> Self {
        self.stripes = Some(stripes.max(1));
        self
    }

    /// Sets the limits on what can be subscribed.
    ///
    /// By default nothing is limited.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Creates the bus.
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
