//! Feature `tracing`: what is told to the crate of that name. Without the feature, nothing, at no cost.
//!
//! A tracing subscriber is user code. What happens under a lock or in a turn is put off, like the wake-ups of tasks,
//! and told with them: see [`wakeups`](crate::wakeups).

#[cfg(feature = "tracing")]
mod on {
    use std::cell::RefCell;
    use std::fmt;
    use std::sync::Arc;

    use tracing::level_filters::LevelFilter;
    use tracing::{debug, warn};

    use crate::inbox::Settings;
    use crate::limits::Overflow;
    use crate::reentrancy;
    use crate::stats::CloseReason;
    use crate::wakeups::{self, contain_panic};

    /// The first loss of an inbox since the last that its reader was told of.
    struct Loss {
        id: u64,
        label: Option<Arc<str>>,
        policy: Overflow,
        channel: Option<Arc<str>>,
    }

    thread_local! {
        static LOSSES: RefCell<Vec<Loss>> = const { RefCell::new(Vec::new()) };
    }

    fn label(settings: &Settings) -> &str {
        settings.label.as_deref().unwrap_or_default()
    }

    /// Puts off to tell that an inbox has lost a message of `channel`.
    #[cold]
    pub(crate) fn first_loss(id: u64, settings: &Settings, channel: Option<&str>) {
        // To ask the subscriber would run its code.
        if is_off(LevelFilter::WARN) {
            return;
        }
        let (label, policy) = (settings.label.clone(), settings.overflow);
        let loss = Loss { id, label, policy, channel: channel.map(Arc::from) };
        // The thread may be ending.
        if LOSSES.try_with(|losses| losses.borrow_mut().push(loss)).is_ok() {
            wakeups::put_off_losses();
        }
    }

    /// Tells what was put off by this thread.
    pub(crate) fn tell_losses() {
        let losses = LOSSES.try_with(RefCell::take).unwrap_or_default();
        for Loss { id, label, policy, channel } in losses {
            let (label, channel) = (label.unwrap_or_default(), channel.unwrap_or_default());
            contain_panic(|| {
                warn!(target: "fanout", id, label = &*label, channel = &*channel, ?policy, "messages are lost");
            });
        }
    }

    pub(crate) fn disconnected(id: u64, settings: &Settings, channel: &str) {
        let (label, policy) = (label(settings), settings.overflow);
        // This and what follows can be told while something is dropped, which must not panic.
        contain_panic(|| {
            warn!(target: "fanout", id, label, channel, ?policy, "disconnected: the inbox was full");
        });
    }

    /// `true` if nobody listens at this level. A static, read in place of a call.
    #[inline(always)]
    fn is_off(level: LevelFilter) -> bool {
        LevelFilter::current() < level
    }

    #[inline(always)]
    pub(crate) fn subscribed(id: u64, settings: &Settings, to: &dyn fmt::Debug, count: usize) {
        if !is_off(LevelFilter::DEBUG) {
            tell_subscribed(id, settings, to, count);
        }
    }

    #[cold]
    fn tell_subscribed(id: u64, settings: &Settings, to: &dyn fmt::Debug, count: usize) {
        debug!(target: "fanout", id, label = label(settings), ?to, count, "subscribed");
    }

    #[inline(always)]
    pub(crate) fn unsubscribed(id: u64, settings: &Settings, from: &dyn fmt::Debug, count: usize) {
        if !is_off(LevelFilter::DEBUG) {
            tell_unsubscribed(id, settings, from, count);
        }
    }

    #[cold]
    fn tell_unsubscribed(id: u64, settings: &Settings, from: &dyn fmt::Debug, count: usize) {
        debug!(target: "fanout", id, label = label(settings), ?from, count, "unsubscribed");
    }

    pub(crate) fn closed(id: u64, settings: &Settings, reason: CloseReason) {
        contain_panic(|| {
            debug!(target: "fanout", id, label = label(settings), ?reason, "subscriber closed");
        });
    }

    pub(crate) fn bus_closed() {
        // A payload's `Clone` can drop the last handle of a bus, and runs in a turn.
        if !reentrancy::is_in_clone() {
            contain_panic(|| debug!(target: "fanout", "bus closed"));
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::fmt;

    use crate::inbox::Settings;
    use crate::stats::CloseReason;

    #[inline(always)]
    pub(crate) fn first_loss(_: u64, _: &Settings, _: Option<&str>) {}

    #[inline(always)]
    pub(crate) fn disconnected(_: u64, _: &Settings, _: &str) {}

    #[inline(always)]
    pub(crate) fn subscribed(_: u64, _: &Settings, _: &dyn fmt::Debug, _: usize) {}

    #[inline(always)]
    pub(crate) fn unsubscribed(_: u64, _: &Settings, _: &dyn fmt::Debug, _: usize) {}

    #[inline(always)]
    pub(crate) fn closed(_: u64, _: &Settings, _: CloseReason) {}

    #[inline(always)]
    pub(crate) fn bus_closed() {}
}

#[cfg(not(feature = "tracing"))]
pub(crate) use off::*;
#[cfg(feature = "tracing")]
pub(crate) use on::*;
