//! The objects that user code acts on in tests of reentrancy.

use std::sync::{Arc, Mutex};

use fanout::{Bus, Listener, Overflow, Receipt, Subscriber, Topic};

use super::inboxes::{assert_books, payloads, silent};
use super::payloads::Hooked;

/// Handles for user code to call.
pub struct World {
    pub bus: Bus<Hooked>,
    /// Subscribed to `c` and `c*`.
    pub sub: Subscriber<Hooked>,
    /// Subscribed to `c` and `c*`, with messages queued, to be dropped.
    pub spare: Mutex<Option<Subscriber<Hooked>>>,
    pub topic: Topic<Hooked>,
    pub other_bus: Bus<Hooked>,
    pub other_sub: Subscriber<Hooked>,
    /// A subscriber of the other bus with nothing to read.
    pub idle: Subscriber<Hooked>,
    /// A full inbox of the other bus: publishers of `full` wait for room.
    _full: Subscriber<Hooked>,
    pub listener: Mutex<Option<Listener>>,
}

impl World {
    pub fn new() -> Arc<Self> {
        let bus: Bus<Hooked> = Bus::builder().capacity(4).build();
        let sub = bus.subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        let spare = bus.subscribe("c").unwrap();
        spare.psubscribe("c*").unwrap();
        bus.publish("c", Hooked::plain(0));
        let other_bus: Bus<Hooked> = Bus::new();
        let other_sub = other_bus.subscribe("c").unwrap();
        let topic = bus.topic("c");
        let spare = Mutex::new(Some(spare));
        let idle = silent(&other_bus).subscribe("idle").unwrap();
        let listener = Mutex::new(Some(idle.spawn("idle", |_| ())));
        let blocking = silent(&other_bus).capacity(1).overflow(Overflow::Block { timeout: None });
        let full = blocking.subscribe("full").unwrap();
        other_bus.publish("full", Hooked::plain(0));
        Arc::new(Self { bus, sub, spare, topic, other_bus, other_sub, idle, _full: full, listener })
    }

    pub fn take_listener(&self) -> Listener {
        self.listener.lock().unwrap().take().unwrap()
    }

    pub fn take_spare(&self) -> Option<Subscriber<Hooked>> {
        self.spare.lock().unwrap().take()
    }

    /// Asserts that the bus works, unless it was closed.
    #[track_caller]
    pub fn assert_goes_on(&self, what: &str) {
        if self.bus.is_closed() {
            return;
        }
        let probe = silent(&self.bus).subscribe("c").unwrap();
        probe.psubscribe("c*").unwrap();
        assert!(self.bus.publish("c", Hooked::plain(7)).delivered >= 2, "{what}");
        assert!(self.topic.publish(Hooked::plain(8)).delivered >= 2, "{what}");
        let values: Vec<u64> = payloads(&probe).iter().map(|payload| payload.value).collect();
        assert_eq!(values, [7, 7, 8, 8], "{what}");
        assert_books(&probe, 4);
        drop(probe);
        let stats = self.bus.stats();
        assert_eq!(stats.matched, stats.delivered + stats.dropped, "{what}");
    }
}

/// A call made by user code.
pub type Act = fn(&World);

pub fn full_inbox(bus: &Bus<Hooked>, overflow: Overflow, payload: Hooked) -> Subscriber<Hooked> {
    let full = silent(bus).capacity(1).overflow(overflow).subscribe("full").unwrap();
    bus.publish("full", payload);
    full
}

/// Publishes on `bus` a payload whose first clone drops `what`.
pub fn drop_in_clone<T: Send + 'static>(bus: &Bus<Hooked>, channel: &str, what: T) -> Receipt {
    bus.publish(channel, Hooked::on_clone(1, move || drop(what)))
}
