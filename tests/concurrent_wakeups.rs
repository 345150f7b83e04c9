//! A receive never sleeps while there is something to read, never times out early, and does not spin while it
//! waits.

mod support;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fanout::{Bus, Event, Overflow, Receipt, RecvTimeoutError, Subscriber, TryRecvError};
use support::{
    Gate, Stop, WATCHDOG, assert_ascending, assert_books, let_it_wait, payloads, scaled, silent,
    sorted, step, watched,
};

// ---- wake-ups -----------------------------------------------------------------------------------

#[test]
fn a_publish_by_name_or_topic_wakes_a_blocked_recv() {
    type Ways = [(&'static str, fn(&Bus<u64>) -> Receipt); 2];
    const WAYS: Ways = [
        ("by name", |bus| bus.publish("c", 1_u64)),
        ("by topic", |bus| bus.topic("c").publish(1_u64)),
    ];
    for others in [0, 1, 20] {
        for pattern in [false, true] {
            for (way, publish) in WAYS {
                let what = format!("{way}, pattern: {pattern}, {others} others");
                watched(move || {
                    let bus: Bus<u64> = Bus::new();
                    let subscribe = || {
                        let builder = silent(&bus);
                        if pattern { builder.psubscribe("?") } else { builder.subscribe("c") }
                            .unwrap()
                    };
                    let sub = subscribe();
                    let _others: Vec<_> = (0..others).map(|_| subscribe()).collect();
                    thread::scope(|scope| {
                        let sleeper =
                            scope.spawn(|| sub.recv_message().map(|message| message.payload));
                        let_it_wait();
                        assert_eq!(publish(&bus).delivered, others + 1, "{what}");
                        assert_eq!(sleeper.join().unwrap(), Ok(1), "{what}");
                    });
                });
            }
        }
    }
}

/// Hazard: the message is queued and the receiver stays asleep.
#[test]
fn no_wake_up_is_lost_between_two_threads_that_answer_each_other() {
    let rounds = scaled(5_000) as u64;
    type Receive = fn(&Subscriber<u64>) -> u64;
    let receives: [(&str, Receive); 4] = [
        ("recv", |sub| sub.recv().unwrap().into_message().unwrap().payload),
        ("recv_timeout", |sub| {
            sub.recv_timeout(2 * WATCHDOG).unwrap().into_message().unwrap().payload
        }),
        ("messages", |sub| sub.messages().next().unwrap().payload),
        ("receiver", |sub| sub.receiver().recv().unwrap().payload),
    ];
    for (what, receive) in receives {
        watched(move || {
            let bus: Bus<u64> = Bus::builder().capacity(1).build();
            let ping = silent(&bus).subscribe("ping").unwrap();
            let pong = silent(&bus).psubscribe("po*").unwrap();
            let other = thread::spawn({
                let bus = bus.clone();
                move || {
                    for n in 0..rounds {
                        assert_eq!(receive(&ping), n, "{what}");
                        assert_eq!(bus.publish("pong", n).delivered, 1);
                    }
                }
            });
            let topic = bus.topic("ping");
            for n in 0..rounds {
                step();
                assert_eq!(topic.publish(n).delivered, 1);
                assert_eq!(receive(&pong), n, "{what}");
            }
            other.join().unwrap();
        });
    }
}

#[test]
fn every_lifecycle_event_wakes_a_blocked_recv() {
    watched(|| {
        let rounds = scaled(2_000);
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber();
        let (tell, told) = mpsc::channel();
        let copy = sub.clone();
        let reader = thread::spawn(move || copy.iter().for_each(|event| tell.send(event).unwrap()));
        for n in 0..rounds {
            step();
            // The reader waits for the next event, or is about to.
            let name = format!("c{n}");
            match n % 4 {
                0 => _ = sub.subscribe(&name).unwrap(),
                1 => _ = sub.unsubscribe(&name),
                2 => _ = sub.psubscribe(name.as_str()).unwrap(),
                _ => _ = sub.punsubscribe(name.as_str()),
            }
            let event = told.recv_timeout(WATCHDOG).expect("the event wakes it");
            match (n % 4, event) {
                (0, Event::Subscribe { channel: at, .. })
                | (1, Event::Unsubscribe { channel: at, .. }) => assert_eq!(*at, *name),
                (2, Event::PSubscribe { pattern, .. })
                | (3, Event::PUnsubscribe { pattern, .. }) => {
                    assert_eq!(pattern.as_str(), name);
                }
                (_, event) => panic!("{n}: {event:?}"),
            }
        }
        bus.close();
        reader.join().unwrap();
    });
}

/// Hazard: subscribing waits for the receive of another thread.
#[test]
fn a_subscriber_can_subscribe_while_another_thread_waits_on_it() {
    watched(|| {
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber();
        let (tell, told) = mpsc::channel();
        let copy = sub.clone();
        let reader = thread::spawn(move || copy.iter().for_each(|event| tell.send(event).unwrap()));
        for n in 0..200u64 {
            if n % 50 == 0 {
                let_it_wait();
            }
            // None of these calls waits for a message.
            assert_eq!(sub.subscribe("c"), Ok(1));
            assert_eq!(sub.psubscribe("c*"), Ok(2));
            assert_eq!(sub.channels().len() + sub.patterns().len(), 2);
            assert_eq!(bus.publish("c", n).delivered, 2);
            assert_eq!(sub.unsubscribe("c"), 1);
            assert_eq!(sub.punsubscribe("c*"), 0);
            let names: Vec<&str> = (0..6)
                .map(|_| match told.recv_timeout(WATCHDOG).expect("it is woken") {
                    Event::Subscribe { .. } => "subscribe",
                    Event::PSubscribe { .. } => "psubscribe",
                    Event::Message(message) if message.payload == n => "message",
                    Event::PMessage(message) if message.payload == n => "pmessage",
                    Event::Unsubscribe { .. } => "unsubscribe",
                    Event::PUnsubscribe { .. } => "punsubscribe",
                    event => panic!("{event:?}"),
                })
                .collect();
            let wanted =
                ["subscribe", "psubscribe", "message", "pmessage", "unsubscribe", "punsubscribe"];
            assert_eq!(names, wanted);
        }
        bus.close();
        reader.join().unwrap();
    });
}

// ---- clones -------------------------------------------------------------------------------------

/// There are three events and messages, and three clones wait for one each. All must wake, in whatever order
/// things come.
#[test]
fn as_many_waiting_clones_wake_as_there_are_events_and_messages() {
    watched(|| {
        for round in 0..scaled(400) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = bus.subscriber_builder().capacity(1).subscribe("c").unwrap();
            sub.recv().unwrap();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_on_drop();
            let clones: Vec<_> = (0..3)
                .map(|_| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        tell.send(sub.recv().unwrap()).unwrap();
                        // Each clone receives once and does not come back for more.
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(300));
            // The second message evicts the first unless a clone has taken it; then there is no `Lagged`.
            bus.publish("c", 1u64);
            bus.publish("c", 2u64);
            sub.subscribe("d").unwrap();
            let mut got = Vec::new();
            for _ in 0..3 {
                match told.recv_timeout(WATCHDOG) {
                    Ok(event) => got.push(event),
                    Err(_) => panic!(
                        "round {round}: one clone sleeps on; others received {got:?}; {:?}",
                        sub.info()
                    ),
                }
            }
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
            assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
        }
    });
}

/// Four clones wait for one event or message each.
#[test]
fn several_events_wake_several_clones() {
    watched(|| {
        for _ in 0..scaled(300) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = bus.subscriber();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_on_drop();
            let clones: Vec<_> = (0..4)
                .map(|_| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        tell.send(sub.recv().unwrap()).unwrap();
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(300));
            sub.subscribe("a").unwrap();
            sub.psubscribe("b").unwrap();
            sub.unsubscribe("a");
            bus.publish("b", 1u64);
            for _ in 0..4 {
                told.recv_timeout(WATCHDOG).expect("every clone wakes");
            }
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
        }
    });
}

/// Each clone waits in a different way, `receiver()` included. There is a message for each, and each must get
/// one.
#[test]
fn clones_that_wait_in_different_ways_get_a_message_each() {
    watched(|| {
        for _ in 0..scaled(300) {
            step();
            let bus: Bus<u64> = Bus::new();
            let sub = silent(&bus).subscribe("c").unwrap();
            let (tell, told) = mpsc::channel();
            let gate = Gate::new();
            let open = gate.open_on_drop();
            let clones: Vec<_> = (0..4)
                .map(|way| {
                    let (sub, tell, gate) = (sub.clone(), tell.clone(), gate.clone());
                    thread::spawn(move || {
                        let message = match way {
                            0 => sub.receiver().recv().unwrap(),
                            1 => sub.recv().unwrap().into_message().unwrap(),
                            2 => sub.recv_message_timeout(2 * WATCHDOG).unwrap(),
                            _ => sub.receiver().recv_timeout(2 * WATCHDOG).unwrap(),
                        };
                        tell.send(message.payload).unwrap();
                        gate.pass();
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(200));
            (0..4u64).for_each(|n| _ = bus.publish("c", n));
            let got = (0..4).map(|_| told.recv_timeout(WATCHDOG).expect("every clone wakes"));
            assert_eq!(sorted(got), [0, 1, 2, 3]);
            drop(open);
            clones.into_iter().for_each(|clone| clone.join().unwrap());
        }
    });
}

#[test]
fn a_worker_group_gets_each_message_once() {
    watched(|| {
        let messages = scaled(8_000) as u64;
        let bus: Bus<u64> =
            Bus::builder().capacity(16).overflow(Overflow::Block { timeout: None }).build();
        let group = bus.subscribe("work").unwrap();
        let audit = silent(&bus).capacity(2 * messages as usize).psubscribe("wo*").unwrap();
        let workers: Vec<_> = (0..4)
            .map(|way| {
                let worker = group.clone();
                thread::spawn(move || {
                    let mut events = 0;
                    let mut values = Vec::new();
                    match way {
                        0 => values.extend(worker.messages().map(|message| message.payload)),
                        1 => {
                            // `receiver()` does not yield events.
                            values.extend(worker.receiver().iter().map(|message| message.payload));
                        }
                        _ => {
                            while let Ok(event) = worker.recv() {
                                match event.into_message() {
                                    Some(message) => values.push(message.payload),
                                    None => events += 1,
                                }
                            }
                        }
                    }
                    assert_ascending(&values);
                    (events, values)
                })
            })
            .collect();
        for n in 0..messages {
            step();
            assert_eq!(bus.publish("work", n).delivered, 2);
        }
        bus.close();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let all = results.iter().flat_map(|(_, values)| values.iter().copied());
        assert_eq!(sorted(all), (0..messages).collect::<Vec<_>>());
        assert!(results.iter().map(|(events, _)| events).sum::<u64>() <= 1);
        assert_eq!(group.info().received, messages);
        assert_books(&group, messages);
        assert_eq!(payloads(&audit).len() as u64, messages);
    });
}

// ---- timeouts -----------------------------------------------------------------------------------

/// Hazard: a receive is woken for a message that a clone takes, and then reports a timeout too early.
#[test]
fn a_receive_never_times_out_early() {
    watched(|| {
        let timeout = Duration::from_millis(60);
        let bus: Bus<u64> = Bus::new();
        let sub = bus.subscriber_builder().capacity(4).subscribe("c").unwrap();
        let stop = Stop::default();
        thread::scope(|scope| {
            let _stop = stop.set_on_drop();
            for way in 0..4 {
                let (sub, stop) = (sub.clone(), &stop);
                scope.spawn(move || {
                    let mut timeouts = 0;
                    while timeouts < 3 || !stop.is_set() {
                        let begun = Instant::now();
                        let deadline = begun + timeout;
                        let outcome = match way {
                            0 => sub.recv_timeout(timeout).map(drop),
                            1 => sub.recv_deadline(deadline).map(drop),
                            2 => sub.recv_message_deadline(deadline).map(drop),
                            _ => sub.recv_message_timeout(timeout).map(drop),
                        };
                        if outcome == Err(RecvTimeoutError::Timeout) {
                            assert!(begun.elapsed() >= timeout, "early: {:?}", begun.elapsed());
                            timeouts += 1;
                        }
                    }
                });
            }
            for n in 0..60 {
                match n % 6 {
                    0 => _ = sub.subscribe("d").unwrap(),
                    1 => _ = sub.unsubscribe("d"),
                    // More than fit, so that there are losses to report.
                    2 => (0..8u64).for_each(|n| _ = bus.publish("c", n)),
                    _ => _ = bus.publish("c", n),
                }
                thread::sleep(Duration::from_millis(n % 7));
            }
            stop.set();
        });
    });
}

#[test]
fn a_zero_timeout_still_takes_what_is_queued() {
    let bus: Bus<u64> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    bus.publish("c", 1u64);
    assert!(sub.recv_timeout(Duration::ZERO).is_ok());
    assert_eq!(sub.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    bus.publish("c", 2u64);
    assert!(sub.recv_deadline(Instant::now() - Duration::from_secs(1)).is_ok());
    bus.publish("c", 3u64);
    assert!(sub.recv_message_timeout(Duration::ZERO).is_ok());
    let past = Instant::now() - Duration::from_secs(1);
    bus.publish("c", 4u64);
    assert!(sub.recv_message_deadline(past).is_ok());
    assert_eq!(sub.recv_message_deadline(past), Err(RecvTimeoutError::Timeout));
}

/// Returns the time this thread has spent on a processor, if the system tells.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Hazard: a waiting receive spins.
#[test]
fn waiting_does_not_spin() {
    watched(|| {
        let bus: Bus<u64> = Bus::new();
        let plain = silent(&bus).subscribe("c").unwrap();
        // It has received an event and a `Lagged`, and nothing is subscribed any more.
        let busy = bus.subscriber_builder().capacity(1).subscribe("c").unwrap();
        bus.publish("c", 1u64);
        bus.publish("c", 2u64);
        busy.unsubscribe("c");
        while busy.try_recv().is_ok() {}
        payloads(&plain);
        let clone = busy.clone();
        let waits = [plain, busy, clone].map(|sub| {
            thread::spawn(move || {
                let before = processor_time();
                let begun = Instant::now();
                assert_eq!(
                    sub.recv_timeout(Duration::from_millis(400)),
                    Err(RecvTimeoutError::Timeout)
                );
                let waited = begun.elapsed();
                // Without a figure there is nothing to assert.
                before.zip(processor_time()).map(|(before, after)| (after - before, waited))
            })
        });
        for wait in waits {
            if let Some((used, waited)) = wait.join().unwrap() {
                assert!(used < waited / 10, "used {used:?} of {waited:?}");
            }
        }
        // A blocked publisher must not spin either.
        let block = Overflow::Block { timeout: Some(Duration::from_millis(400)) };
        let full = silent(&bus).capacity(1).overflow(block).subscribe("full").unwrap();
        bus.publish("full", 1u64);
        let before = processor_time();
        let begun = Instant::now();
        assert_eq!(bus.publish("full", 2u64).dropped, 1);
        if let Some((before, after)) = before.zip(processor_time()) {
            assert!(after - before < begun.elapsed() / 10, "a blocked publisher spins");
        }
        drop(full);
    });
}
