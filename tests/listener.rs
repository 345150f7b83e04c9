//! Listeners: a handler on its own thread gets every event in order until it is stopped, its subscriber is
//! closed and drained, or it panics. Stopping a listener does not disturb others.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Event, Listener, Message, Overflow, Receipt, Subscriber};
use support::{
    Gate, Stop, WATCHDOG, assert_ascending, assert_books, eventually, let_it_wait, panic_text,
    payloads, silent, sorted, step, watched,
};

/// Spawns a listener that sends every event to the returned receiver.
fn relay(sub: &Subscriber<u32>) -> (Listener, mpsc::Receiver<Event<u32>>) {
    let (tell, told) = mpsc::channel();
    (sub.spawn("relay", move |event| tell.send(event).unwrap()), told)
}

#[test]
fn a_handler_gets_every_event_in_order_and_ends_when_closed_and_drained() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscriber_builder().capacity(2).subscribe("c").unwrap();
        for n in 1..=3u32 {
            bus.publish("c", n);
        }
        sub.unsubscribe("c");
        sub.psubscribe("c*").unwrap();
        bus.close();
        let (listener, told) = relay(&sub);
        listener.join().unwrap();
        assert_eq!(
            told.iter().collect::<Vec<_>>(),
            [
                Event::Lagged { missed: 1 },
                Event::Subscribe { channel: "c".into(), count: 1 },
                Event::Message(Message::new("c", 2)),
                Event::Message(Message::new("c", 3)),
                Event::Unsubscribe { channel: "c".into(), count: 0 },
                Event::PSubscribe { pattern: "c*".into(), count: 1 },
            ]
        );
        assert!(sub.is_empty());
        assert_books(&sub, 3);
    });
}

#[test]
fn a_listener_runs_on_a_thread_of_the_given_name() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (tell, told) = mpsc::channel();
        let sub = silent(&bus).subscribe("c").unwrap();
        let listener = sub.spawn(String::from("the name"), move |_| {
            let thread = thread::current();
            tell.send((thread.name().map(str::to_owned), thread.id())).unwrap();
        });
        bus.publish("c", 1u32);
        let (name, id) = told.recv().unwrap();
        assert_eq!(name.as_deref(), Some("the name"));
        assert_ne!(id, thread::current().id());
        assert!(format!("{listener:?}").contains("the name"));
        bus.close();
        listener.join().unwrap();
    });
}

#[test]
fn a_listener_outlives_its_subscriber_and_unsubscribes_at_its_end() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (listener, told) = relay(&silent(&bus).subscribe("c").unwrap());
        assert_eq!(bus.subscriber_count("c"), 1);
        for n in 0..10u32 {
            assert_eq!(bus.publish("c", n).delivered, 1);
            assert_eq!(told.recv().unwrap().into_message().unwrap().payload, n);
        }
        assert!(!listener.is_finished());
        listener.stop();
        listener.join().unwrap();
        assert_eq!(bus.subscriber_count("c"), 0);
        assert_eq!(bus.publish("c", 11u32).matched, 0);
        assert!(told.recv().is_err());
    });
}

#[test]
fn stop_ends_a_listener_after_the_current_event_and_leaves_the_queue() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_on_drop();
        let (tell, told) = mpsc::channel();
        let passing = gate.clone();
        let listener = sub.spawn("stopped", move |event: Event<u32>| {
            passing.pass();
            tell.send(event.into_message().unwrap().payload).unwrap();
        });
        for n in 1..=4u32 {
            bus.publish("c", n);
        }
        gate.await_arrivals(1);
        // `stop` does not wait for the handler, and may be called twice.
        listener.stop();
        listener.stop();
        assert!(!listener.is_finished());
        gate.open();
        listener.join().unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(sub.len(), 3);
        assert!(!sub.is_closed());
        assert_eq!(payloads(&sub), [2, 3, 4]);
        assert_eq!(bus.publish("c", 5u32).delivered, 1);
        assert_eq!(payloads(&sub), [5]);
        assert_books(&sub, 5);
    });
}

#[test]
fn stop_wakes_a_waiting_listener() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let nothing_subscribed = bus.subscriber();
        let sub = silent(&bus).subscribe("c").unwrap();
        for sub in [&nothing_subscribed, &sub] {
            for wait in [true, false] {
                let (listener, told) = relay(sub);
                if wait {
                    let_it_wait();
                    assert!(!listener.is_finished());
                }
                listener.stop();
                listener.join().unwrap();
                assert!(told.recv().is_err());
            }
        }
    });
}

#[test]
fn stop_leaves_other_listeners_and_receives_alone() {
    watched(|| {
        let bus: Bus<u32> = Bus::builder().overflow(Overflow::Block { timeout: None }).build();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (stopped, told_stopped) = relay(&sub);
        let (other, told) = relay(&sub);
        let copy = sub.clone();
        let blocked = thread::spawn(move || copy.recv().map(|event| event.into_message().unwrap()));
        let_it_wait();
        stopped.stop();
        stopped.join().unwrap();
        assert!(told_stopped.recv().is_err());
        assert!(!other.is_finished());
        assert!(!blocked.is_finished());
        // Each receives some messages, until the blocked `recv` has got one.
        let mut sent = 0;
        while !blocked.is_finished() {
            bus.publish("c", sent);
            sent += 1;
            thread::yield_now();
        }
        let one = blocked.join().unwrap().unwrap().payload;
        bus.close();
        other.join().unwrap();
        let rest = told.iter().map(|event| event.into_message().unwrap().payload);
        let rest: Vec<u32> = rest.collect();
        assert_ascending(&rest);
        assert_eq!(sorted(rest.into_iter().chain([one])), (0..sent).collect::<Vec<_>>());
    });
}

/// Hazard: a lost wake-up. A listener may be stopped just when it is woken for an event; then another waiting
/// receive must get it.
#[test]
fn a_stopped_listener_loses_no_wake_up() {
    type Cause = fn(&Bus<u32>, &Subscriber<u32>);
    let causes: [(&str, Cause); 3] = [
        ("an event", |_, sub| _ = sub.subscribe("d")),
        ("a message", |bus, _| _ = bus.publish("c", 1u32)),
        ("a message by a pattern", |bus, _| _ = bus.publish("cc", 1u32)),
    ];
    for (what, cause) in causes {
        watched(move || {
            for round in 0..300 {
                step();
                let bus: Bus<u32> = Bus::new();
                let sub = bus.subscriber();
                sub.subscribe("c").unwrap();
                sub.psubscribe("cc*").unwrap();
                sub.recv().unwrap();
                sub.recv().unwrap();
                let taken = Arc::new(AtomicUsize::new(0));
                // The longest waiter is woken first, which is most likely the listener.
                let listener = sub.spawn("stopped", {
                    let taken = Arc::clone(&taken);
                    move |_| _ = taken.fetch_add(1, Ordering::SeqCst)
                });
                thread::sleep(Duration::from_micros(200));
                let waiting = thread::spawn({
                    let (sub, taken) = (sub.clone(), Arc::clone(&taken));
                    move || {
                        if sub.recv().is_ok() {
                            taken.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
                thread::sleep(Duration::from_micros(200));
                cause(&bus, &sub);
                if round % 3 == 0 {
                    thread::yield_now();
                }
                listener.stop();
                listener.join().unwrap();
                // A waiting receive gets it, though nothing else happens.
                let deadline = std::time::Instant::now() + WATCHDOG;
                while taken.load(Ordering::SeqCst) == 0 {
                    assert!(
                        std::time::Instant::now() < deadline,
                        "round {round}: {what} is there, a recv waits, and nobody wakes it"
                    );
                    thread::yield_now();
                }
                bus.close();
                waiting.join().unwrap();
            }
        });
    }
}

#[test]
fn dropping_a_listener_stops_it_without_waiting() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_on_drop();
        let (tell, told) = mpsc::channel();
        let passing = gate.clone();
        let listener = sub.spawn("dropped", move |event: Event<u32>| {
            passing.pass();
            tell.send(event.into_message().unwrap().payload).unwrap();
        });
        bus.publish("c", 1u32);
        bus.publish("c", 2u32);
        gate.await_arrivals(1);
        // The gate is shut, so waiting would never end.
        drop(listener);
        gate.open();
        assert_eq!(told.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(payloads(&sub), [2]);
        // A waiting listener is stopped, too.
        let (listener, told) = relay(&sub);
        let_it_wait();
        drop(listener);
        assert!(told.recv().is_err());
    });
}

#[test]
fn dropping_a_listener_that_alone_holds_its_subscriber_unsubscribes() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (listener, told) = relay(&silent(&bus).subscribe("c").unwrap());
        drop(listener);
        assert!(told.recv().is_err());
        eventually("unsubscribed", || bus.subscriber_count("c") == 0);
    });
}

#[test]
fn a_detached_listener_runs_until_closed_and_drained() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (listener, told) = relay(&sub);
        listener.detach();
        drop(sub);
        for n in 0..100u32 {
            assert_eq!(bus.publish("c", n).delivered, 1);
        }
        drop(bus);
        let told: Vec<u32> =
            told.iter().map(|event| event.into_message().unwrap().payload).collect();
        assert_eq!(told, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn is_finished_reports_stopping_closing_and_panicking() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (stopped, _told) = relay(&sub);
        let (closed, _told) = relay(&sub);
        let panicking =
            silent(&bus).subscribe("p").unwrap().spawn("panics", |_| panic!("a handler"));
        assert!(!stopped.is_finished() && !closed.is_finished() && !panicking.is_finished());
        stopped.stop();
        eventually("stopped", || stopped.is_finished());
        assert!(!closed.is_finished() && !panicking.is_finished());
        bus.publish("p", 1u32);
        eventually("panicked", || panicking.is_finished());
        assert!(!closed.is_finished());
        sub.close();
        eventually("closed", || closed.is_finished());
        stopped.join().unwrap();
        closed.join().unwrap();
        assert!(panic_text(&*panicking.join().unwrap_err()).contains("a handler"));
    });
}

/// Spawns a listener whose handler owns it and passes it to `act` at the first event.
fn spawn_owning_itself(
    bus: &Bus<u32>,
    mut act: impl FnMut(Listener) + Send + 'static,
) -> (Subscriber<u32>, mpsc::Receiver<u32>) {
    let sub = silent(bus).subscribe("c").unwrap();
    let own = Arc::new(Mutex::new(None::<Listener>));
    let (tell, told) = mpsc::channel();
    let taken = Arc::clone(&own);
    let listener = sub.spawn("itself", move |event: Event<u32>| {
        let listener = taken.lock().unwrap().take();
        if let Some(listener) = listener {
            act(listener);
        }
        tell.send(event.into_message().unwrap().payload).unwrap();
    });
    *own.lock().unwrap() = Some(listener);
    (sub, told)
}

/// Hazard: a handler that joins its own thread waits for itself.
#[test]
fn join_in_its_own_handler_is_an_error_at_once() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (tell, outcome) = mpsc::channel();
        let (sub, told) =
            spawn_owning_itself(&bus, move |listener| tell.send(listener.join().is_err()).unwrap());
        bus.publish("c", 1u32);
        assert!(outcome.recv().unwrap());
        assert_eq!(told.recv(), Ok(1));
        bus.publish("c", 2u32);
        // The thread ends by itself or with the bus.
        bus.close();
        told.iter().for_each(drop);
        payloads(&sub);
        assert_books(&sub, 2);
    });
}

#[test]
fn a_handler_may_stop_drop_or_detach_its_own_listener() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (sub, told) = spawn_owning_itself(&bus, drop);
        bus.publish("c", 1u32);
        assert_eq!(told.recv(), Ok(1));
        assert!(told.recv().is_err(), "dropped is stopped");
        bus.publish("c", 2u32);
        assert_eq!(payloads(&sub), [2]);

        let (keep, kept) = mpsc::channel();
        let (sub, told) = spawn_owning_itself(&bus, move |listener| {
            listener.stop();
            assert!(!listener.is_finished());
            keep.send(listener).unwrap();
        });
        bus.publish("c", 3u32);
        kept.recv().unwrap().join().unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [3]);
        assert!(sub.is_empty());

        let (sub, told) = spawn_owning_itself(&bus, Listener::detach);
        bus.publish("c", 4u32);
        bus.publish("c", 5u32);
        sub.close();
        assert_eq!(told.iter().collect::<Vec<_>>(), [4, 5]);
    });
}

#[test]
fn a_handler_may_join_another_listener() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let (first, _told) = relay(&silent(&bus).subscribe("d").unwrap());
        let mut first = Some(first);
        let second = sub.spawn("joins", move |_| {
            if let Some(first) = first.take() {
                first.stop();
                first.join().unwrap();
            }
        });
        bus.publish("c", 1u32);
        sub.close();
        second.join().unwrap();
        assert_eq!(bus.subscriber_count("d"), 0);
    });
}

#[test]
fn listeners_on_clones_share_the_work() {
    watched(|| {
        const MESSAGES: u32 = 5_000;
        let bus: Bus<u32> = Bus::builder().overflow(Overflow::Block { timeout: None }).build();
        let sub = bus.subscribe("c").unwrap();
        let (listeners, told): (Vec<_>, Vec<_>) = (0..3).map(|_| relay(&sub)).unzip();
        for n in 0..MESSAGES {
            assert_eq!(bus.publish("c", n).delivered, 1);
        }
        bus.close();
        listeners.into_iter().for_each(|listener| listener.join().unwrap());
        let mut events = 0;
        let mut all = Vec::new();
        for told in told {
            let mut own = Vec::new();
            for event in told.iter() {
                match event.into_message() {
                    Some(message) => own.push(message.payload),
                    None => events += 1,
                }
            }
            assert_ascending(&own);
            all.append(&mut own);
        }
        assert_eq!(sorted(all), (0..MESSAGES).collect::<Vec<_>>());
        assert_eq!(events, 1, "one Subscribe, to one of them");
        assert_books(&sub, u64::from(MESSAGES));
    });
}

#[test]
fn a_busy_handler_does_not_hold_up_another() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let _open = gate.open_on_drop();
        let (tell, told) = mpsc::channel();
        let listeners: Vec<_> = (0..2)
            .map(|_| {
                let (tell, passing) = (tell.clone(), gate.clone());
                sub.spawn("shares", move |event: Event<u32>| {
                    let value = event.into_message().unwrap().payload;
                    if value == 0 {
                        passing.pass();
                    }
                    tell.send(value).unwrap();
                })
            })
            .collect();
        for n in 0..50u32 {
            bus.publish("c", n);
        }
        // One handler is held up by 0, and the other handles the rest.
        for n in 1..50 {
            assert_eq!(told.recv(), Ok(n));
        }
        gate.open();
        assert_eq!(told.recv(), Ok(0));
        bus.close();
        listeners.into_iter().for_each(|listener| listener.join().unwrap());
    });
}

#[test]
fn starting_and_stopping_listeners_repeatedly_loses_nothing() {
    watched(|| {
        const MESSAGES: u64 = 2_000;
        let bus: Bus<u64> = Bus::builder().capacity(MESSAGES as usize).build();
        let sub = silent(&bus).subscribe("c").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..MESSAGES {
                    bus.publish("c", n);
                    if n % 20 == 0 {
                        thread::yield_now();
                    }
                }
            });
            for round in 0..100 {
                step();
                let seen = Arc::clone(&seen);
                let listener = sub.spawn("comes and goes", move |event: Event<u64>| {
                    seen.lock().unwrap().push(event.into_message().unwrap().payload);
                });
                if round % 2 == 0 {
                    thread::yield_now();
                }
                listener.stop();
                listener.join().unwrap();
            }
        });
        let mut all = std::mem::take(&mut *seen.lock().unwrap());
        all.extend(payloads(&sub));
        assert_eq!(all, (0..MESSAGES).collect::<Vec<_>>());
        assert_books(&sub, MESSAGES);
    });
}

#[test]
fn a_listener_on_a_closed_subscriber_drains_and_ends() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        bus.publish("c", 1u32);
        sub.close();
        let (listener, told) = relay(&sub);
        listener.join().unwrap();
        assert_eq!(told.iter().count(), 1);
        let (listener, told) = relay(&sub);
        listener.join().unwrap();
        assert_eq!(told.iter().count(), 0);
    });
}

#[test]
fn a_handler_may_subscribe_and_unsubscribe_its_own_subscriber() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("0").unwrap();
        let (tell, told) = mpsc::channel();
        let own = sub.clone();
        let listener = sub.spawn("moves on", move |event: Event<u32>| {
            let message = event.into_message().unwrap();
            own.unsubscribe(message.channel());
            own.subscribe(message.payload.to_string()).unwrap();
            tell.send(message.payload).unwrap();
        });
        for n in 0..200u32 {
            assert_eq!(bus.publish(&n.to_string(), n + 1).delivered, 1);
            assert_eq!(told.recv(), Ok(n + 1));
        }
        sub.close();
        listener.join().unwrap();
        assert!(bus.channels().is_empty());
    });
}

// ---- drain and join_timeout -----------------------------------------------------------------

#[test]
fn drain_handles_what_is_queued_and_emits_every_unsubscribe() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscribe("c").unwrap();
        sub.psubscribe("c*").unwrap();
        let gate = Gate::new();
        let (tell, told) = mpsc::channel();
        let listener = sub.spawn("slow", {
            let gate = gate.clone();
            move |event| {
                gate.pass();
                tell.send(event).unwrap();
            }
        });
        (1..=2u32).for_each(|n| _ = bus.publish("c", n));
        listener.drain();
        assert_eq!(
            bus.publish("c", 3u32),
            Receipt::default(),
            "it is unsubscribed when this returns"
        );
        assert!(!listener.is_finished());
        gate.open();
        listener.join().unwrap();
        assert_eq!(
            told.iter().collect::<Vec<_>>(),
            [
                Event::Subscribe { channel: "c".into(), count: 1 },
                Event::PSubscribe { pattern: "c*".into(), count: 2 },
                Event::Message(Message::new("c", 1)),
                Event::PMessage(Message::new("c", 1).with_pattern("c*")),
                Event::Message(Message::new("c", 2)),
                Event::PMessage(Message::new("c", 2).with_pattern("c*")),
                Event::Unsubscribe { channel: "c".into(), count: 1 },
                Event::PUnsubscribe { pattern: "c*".into(), count: 0 },
            ]
        );
        // Clones share its subscriptions and stay open.
        assert!(!sub.is_closed() && sub.is_empty());
        assert_eq!(sub.subscribe("c"), Ok(1));
        assert_eq!(bus.publish("c", 4u32).delivered, 1);
        assert_books(&sub, 5);
    });
}

#[test]
fn drain_loses_nothing_that_was_delivered_while_publishers_go_on() {
    watched(|| {
        for _ in 0..200 {
            step();
            let bus: Bus<u32> = Bus::new();
            let block = Overflow::Block { timeout: None };
            let sub = silent(&bus).capacity(4).overflow(block).subscribe("c").unwrap();
            let (tell, told) = mpsc::channel();
            let listener = sub.spawn("drained", move |event| tell.send(event).unwrap());
            let stop = Stop::default();
            let delivered: usize = thread::scope(|scope| {
                let _stop = stop.set_on_drop();
                let publishers = [1, 2].map(|n| {
                    let (bus, stop) = (&bus, &stop);
                    scope.spawn(move || {
                        let mut delivered = 0;
                        while !stop.is_set() {
                            delivered += bus.publish("c", n as u32).delivered;
                        }
                        delivered
                    })
                });
                told.recv().unwrap();
                listener.drain();
                listener.join().unwrap();
                stop.set();
                publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum()
            });
            // A publish that overlapped the call may have delivered after the listener ended. What waited for
            // room is refused and reported.
            let handled =
                told.iter().filter(|event: &Event<u32>| event.message().is_some()).count();
            assert_eq!(handled + 1 + sub.try_messages().count(), delivered);
        }
    });
}

#[test]
fn drain_may_be_called_repeatedly_by_the_handler_itself() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        (1..=3u32).for_each(|n| _ = bus.publish("c", n));
        let own: Arc<Mutex<Option<Listener>>> = Arc::default();
        let (tell, told) = mpsc::channel();
        let gate = Gate::new();
        let listener = sub.spawn("itself", {
            let (own, gate) = (Arc::clone(&own), gate.clone());
            move |event| {
                gate.pass();
                own.lock().unwrap().as_ref().unwrap().drain();
                tell.send(event).unwrap();
            }
        });
        *own.lock().unwrap() = Some(listener);
        gate.open();
        assert_eq!(told.iter().count(), 3);
        let listener = own.lock().unwrap().take().unwrap();
        listener.join().unwrap();
    });
}

#[test]
fn drain_on_an_ended_listener_does_nothing() {
    watched(|| {
        for close in [true, false] {
            let bus: Bus<u32> = Bus::new();
            let (listener, told) = relay(&silent(&bus).subscribe("c").unwrap());
            bus.publish("c", 1u32);
            if close {
                bus.close()
            } else {
                listener.stop()
            }
            eventually("it ends", || listener.is_finished());
            listener.drain();
            listener.join().unwrap();
            drop(told);
            assert_eq!(bus.publish("c", 2u32), Receipt::default());
        }
    });
}

#[test]
fn stop_while_draining_leaves_the_queue() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("c").unwrap();
        let gate = Gate::new();
        let (tell, told) = mpsc::channel();
        let listener = sub.spawn("slow", {
            let gate = gate.clone();
            move |event| {
                tell.send(event).unwrap();
                gate.pass();
            }
        });
        (1..=3u32).for_each(|n| _ = bus.publish("c", n));
        told.recv().unwrap();
        listener.drain();
        listener.stop();
        gate.open();
        listener.join().unwrap();
        assert_eq!((told.iter().count(), sub.len()), (0, 2));
    });
}

#[test]
fn join_timeout_returns_the_listener_or_its_result() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (listener, _told) = relay(&silent(&bus).subscribe("c").unwrap());
        let started = Instant::now();
        let timeout = Duration::from_millis(20);
        let listener = listener.join_timeout(timeout).expect_err("it runs still");
        assert!(started.elapsed() >= timeout);
        // That did not stop it.
        assert_eq!(bus.publish("c", 1u32).delivered, 1);
        listener.stop();
        listener.join_timeout(WATCHDOG).expect("it has been stopped").unwrap();

        let listener = silent(&bus).subscribe("d").unwrap().spawn("brittle", |_| panic!("brittle"));
        bus.publish("d", 1u32);
        let panic = listener.join_timeout(WATCHDOG).expect("it has panicked").unwrap_err();
        assert_eq!(panic_text(&*panic), "brittle");
    });
}

#[test]
fn join_timeout_in_its_own_handler_is_an_error_at_once() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let own: Arc<Mutex<Option<Listener>>> = Arc::default();
        let (tell, told) = mpsc::channel();
        let sub = silent(&bus).subscribe("c").unwrap();
        let listener = sub.spawn("itself", {
            let own = Arc::clone(&own);
            move |_| {
                let listener = own.lock().unwrap().take().unwrap();
                tell.send(listener.join_timeout(WATCHDOG).map(|own| own.is_err())).unwrap();
            }
        });
        *own.lock().unwrap() = Some(listener);
        bus.publish("c", 1u32);
        assert!(matches!(told.recv().unwrap(), Ok(true)));
        // That stops it.
        assert!(told.recv().is_err());
    });
}

#[test]
fn join_timeout_does_not_wait_until_the_handler_is_dropped() {
    watched(|| {
        /// Waits at a gate when it is dropped.
        struct Slow(Gate);
        impl Drop for Slow {
            fn drop(&mut self) {
                self.0.pass();
            }
        }
        let bus: Bus<u32> = Bus::new();
        let gate = Gate::new();
        let slow = Slow(gate.clone());
        let listener = silent(&bus).subscribe("c").unwrap().spawn("slow", move |_| {
            let _ = &slow;
        });
        listener.stop();
        gate.await_arrivals(1);
        let listener =
            listener.join_timeout(Duration::from_millis(20)).expect_err("it drops still");
        gate.open();
        listener.join().unwrap();
    });
}

#[test]
fn drain_emits_every_unsubscribe_to_a_listener_that_waits() {
    watched(|| {
        for _ in 0..20 {
            step();
            let bus: Bus<u32> = Bus::new();
            let sub = bus.subscribe("c").unwrap();
            let (listener, told) = relay(&sub);
            drop(sub);
            assert_eq!(told.recv(), Ok(Event::Subscribe { channel: "c".into(), count: 1 }));
            listener.drain();
            listener.join().unwrap();
            let rest: Vec<_> = told.iter().collect();
            assert_eq!(rest, [Event::Unsubscribe { channel: "c".into(), count: 0 }]);
        }
    });
}
