//! A bus that is closed in a turn, by a payload's `Clone`, is closed when that turn ends: before any payload is
//! dropped.

mod support;

use std::sync::{Arc, Mutex};

use fanout::crossbeam_channel::{Receiver, TryRecvError};
use fanout::{Bus, Message, Topic, WeakBus};

/// What payloads do: 2 closes the bus when it is cloned, 1 does something else when it is dropped.
#[derive(Default)]
struct World {
    bus: Mutex<Option<WeakBus<Payload>>>,
    topic: Mutex<Option<Topic<Payload>>>,
    queue: Mutex<Option<Receiver<Message<Payload>>>>,
    /// What `queue` said when 1 was dropped.
    seen: Mutex<Option<TryRecvError>>,
}

struct Payload(u32, Arc<World>);

impl Clone for Payload {
    fn clone(&self) -> Self {
        if self.0 == 2
            && let Some(bus) = self.1.bus.lock().unwrap().as_ref().and_then(WeakBus::upgrade)
        {
            bus.close();
        }
        Self(self.0, Arc::clone(&self.1))
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if self.0 != 1 {
            return;
        }
        drop(self.1.topic.lock().unwrap().take());
        if let Some(queue) = self.1.queue.lock().unwrap().take() {
            *self.1.seen.lock().unwrap() = Some(end_of(&queue));
        }
    }
}

/// Reads a queue, and returns how it ends.
fn end_of(queue: &Receiver<Message<Payload>>) -> TryRecvError {
    loop {
        if let Err(end) = queue.try_recv() {
            return end;
        }
    }
}

/// A bus of inboxes of one message.
fn bus(world: &Arc<World>) -> Bus<Payload> {
    let bus = Bus::builder().capacity(1).build();
    *world.bus.lock().unwrap() = Some(bus.downgrade());
    bus
}

#[test]
fn a_payload_dropped_after_the_turn_finds_the_receivers_of_a_closed_bus_disconnected() {
    let world = Arc::new(World::default());
    let bus = bus(&world);
    let _full = support::silent(&bus).subscribe("c").unwrap();
    bus.publish("c", Payload(1, Arc::clone(&world)));
    let other = support::silent(&bus).subscribe("c").unwrap();
    *world.queue.lock().unwrap() = Some(other.receiver().clone());
    // Evicts 1, and closes the bus.
    bus.publish("c", Payload(2, Arc::clone(&world)));
    assert!(bus.is_closed());
    assert_eq!(*world.seen.lock().unwrap(), Some(TryRecvError::Disconnected));
}

#[test]
fn a_topic_dropped_by_a_payload_after_the_turn_leaves_no_receiver_of_a_closed_bus_connected() {
    let world = Arc::new(World::default());
    let bus = bus(&world);
    let subs = [(); 2].map(|()| support::silent(&bus).psubscribe("c*").unwrap());
    let topic = bus.topic("c");
    topic.publish(Payload(1, Arc::clone(&world)));
    *world.topic.lock().unwrap() = Some(topic);
    bus.publish("c", Payload(2, Arc::clone(&world)));
    assert!(bus.is_closed());
    for sub in &subs {
        assert_eq!(end_of(sub.receiver()), TryRecvError::Disconnected);
    }
}
