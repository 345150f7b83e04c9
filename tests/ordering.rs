//! Order: messages of one publisher arrive in its order, and all inboxes get the messages of one channel in the
//! same order, whichever threads published them and in whichever way.

mod support;

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use fanout::{Bus, Event, Overflow, Subscriber};
use support::{Dice, Stop, assert_ascending, is_subsequence, payloads, silent, steps, watched};

/// A publisher and the number of its message.
type Tag = (usize, u64);

/// Publishes in one of four ways, chosen by the number of the message.
fn publish_somehow(bus: &Bus<Tag>, channel: &str, tag: Tag) {
    match tag.1 % 4 {
        0 => bus.publish(channel, tag),
        1 => bus.publish_with(channel, || tag),
        2 => bus.try_publish_with(channel, || Ok::<_, ()>(tag)).unwrap(),
        _ => bus.topic(channel).publish(tag),
    };
}

fn of_publisher(tags: &[Tag], publisher: usize) -> Vec<u64> {
    tags.iter().filter(|tag| tag.0 == publisher).map(|tag| tag.1).collect()
}

/// Reads `sub` on a thread until it is closed and drained.
fn read_on(sub: Subscriber<Tag>) -> thread::JoinHandle<Vec<Tag>> {
    thread::spawn(move || sub.messages().map(|message| message.payload).collect())
}

#[test]
fn messages_of_one_publisher_arrive_in_order_across_channels_and_methods() {
    watched(|| {
        const EACH: u64 = 3_000;
        let bus: Bus<Tag> = Bus::builder().capacity(20_000).build();
        let exact = silent(&bus).build();
        exact.subscribe_many(["a", "b", "c"]).unwrap();
        let pattern = silent(&bus).psubscribe("?").unwrap();
        let mixed = silent(&bus).dedupe(true).subscribe("a").unwrap();
        mixed.psubscribe("[ab]").unwrap();
        mixed.psubscribe("[bc]").unwrap();
        let inboxes = [exact, pattern, mixed];
        thread::scope(|scope| {
            for publisher in 0..3 {
                let bus = &bus;
                let steps = steps();
                scope.spawn(move || {
                    let topic = bus.topic("b");
                    for n in 0..EACH {
                        steps.step();
                        match n % 3 {
                            0 => _ = topic.publish((publisher, n)),
                            1 => publish_somehow(bus, "a", (publisher, n)),
                            _ => publish_somehow(bus, "c", (publisher, n)),
                        }
                    }
                });
            }
        });
        for inbox in &inboxes {
            let tags = payloads(inbox);
            assert_eq!(tags.len() as u64, 3 * EACH);
            for publisher in 0..3 {
                assert_eq!(of_publisher(&tags, publisher), (0..EACH).collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn every_overflow_policy_keeps_each_publishers_order() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Block { timeout: None }]
    {
        watched(move || {
            const EACH: u64 = 3_000;
            let bus: Bus<Tag> = Bus::builder().capacity(3).overflow(overflow).build();
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let sub = silent(&bus).psubscribe("*").unwrap();
                    sub.subscribe("apart").unwrap();
                    read_on(sub)
                })
                .collect();
            thread::scope(|scope| {
                for publisher in 0..3 {
                    let bus = &bus;
                    let steps = steps();
                    scope.spawn(move || {
                        let topic = bus.topic("b");
                        for n in 0..EACH {
                            steps.step();
                            match n % 2 {
                                0 => _ = topic.publish((publisher, n)),
                                _ => publish_somehow(bus, "a", (publisher, n)),
                            }
                        }
                    });
                }
            });
            bus.close();
            for reader in readers {
                let tags = reader.join().unwrap();
                for publisher in 0..3 {
                    let numbers = of_publisher(&tags, publisher);
                    assert_ascending(&numbers);
                    if matches!(overflow, Overflow::Block { .. }) {
                        assert_eq!(numbers.len() as u64, EACH, "Block lost some");
                    }
                }
            }
        });
    }
}

#[test]
fn a_blocked_publish_delivers_the_exact_message_first_then_patterns_in_order() {
    watched(|| {
        const EACH: u64 = 500;
        let bus: Bus<Tag> = Bus::new();
        let sub = silent(&bus).capacity(1).overflow(Overflow::Block { timeout: None }).build();
        sub.psubscribe("*").unwrap();
        sub.subscribe("c").unwrap();
        sub.psubscribe("?").unwrap();
        let reader = thread::spawn({
            let sub = sub.clone();
            move || {
                sub.messages()
                    .map(|message| (message.payload.1, message.pattern().map(str::to_owned)))
                    .collect::<Vec<_>>()
            }
        });
        for n in 0..EACH {
            assert_eq!(bus.publish("c", (0, n)).delivered, 3);
        }
        bus.close();
        let wanted = (0..EACH)
            .flat_map(|n| [(n, None), (n, Some("*".to_owned())), (n, Some("?".to_owned()))])
            .collect::<Vec<_>>();
        assert_eq!(reader.join().unwrap(), wanted);
    });
}

#[test]
fn a_publish_that_happens_before_another_comes_first_in_every_inbox() {
    watched(|| {
        const ROUNDS: u64 = 2_000;
        let bus: Bus<Tag> = Bus::builder().capacity(2 * ROUNDS as usize).build();
        let inboxes =
            [silent(&bus).subscribe("c").unwrap(), silent(&bus).psubscribe("c*").unwrap()];
        let (to_other, from_one) = std::sync::mpsc::sync_channel::<u64>(0);
        thread::scope(|scope| {
            let bus = &bus;
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    bus.publish("c", (0, n));
                    to_other.send(n).unwrap();
                }
            });
            scope.spawn(move || {
                let topic = bus.topic("c");
                for n in from_one {
                    topic.publish((1, n));
                }
            });
        });
        for inbox in &inboxes {
            let tags = payloads(inbox);
            let mut told = 0;
            for (publisher, n) in tags {
                match publisher {
                    0 => told = n + 1,
                    _ => assert!(n < told, "an answer came before what it answers"),
                }
            }
        }
    });
}

#[test]
fn all_inboxes_get_the_messages_of_a_channel_in_one_order() {
    watched(|| {
        const EACH: u64 = 2_000;
        const PUBLISHERS: usize = 4;
        let bus: Bus<Tag> = Bus::builder().capacity(4 * PUBLISHERS * EACH as usize).build();
        let exact = [silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("c").unwrap()];
        let patterns =
            [silent(&bus).psubscribe("c*").unwrap(), silent(&bus).psubscribe("[abc]").unwrap()];
        let once = silent(&bus).dedupe(true).psubscribe("?").unwrap();
        once.subscribe("c").unwrap();
        let both = silent(&bus).psubscribe("?").unwrap();
        both.subscribe("c").unwrap();
        let start = Barrier::new(PUBLISHERS);
        thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let (bus, start) = (&bus, &start);
                scope.spawn(move || {
                    let topic = bus.topic("c");
                    start.wait();
                    for n in 0..EACH {
                        match publisher % 2 {
                            0 => _ = bus.publish("c", (publisher, n)),
                            _ => _ = topic.publish((publisher, n)),
                        }
                    }
                });
            }
        });
        let order = payloads(&exact[0]);
        assert_eq!(order.len() as u64, PUBLISHERS as u64 * EACH);
        assert_eq!(payloads(&exact[1]), order);
        assert_eq!(payloads(&patterns[0]), order);
        assert_eq!(payloads(&patterns[1]), order);
        assert_eq!(payloads(&once), order);
        let twice: Vec<Tag> = order.iter().flat_map(|&tag| [tag, tag]).collect();
        assert_eq!(payloads(&both), twice);
    });
}

#[test]
fn inboxes_that_lose_messages_keep_the_common_order() {
    watched(|| {
        const EACH: u64 = 3_000;
        const PUBLISHERS: usize = 3;
        let bus: Bus<Tag> = Bus::builder().capacity(PUBLISHERS * EACH as usize).build();
        let whole = silent(&bus).psubscribe("*").unwrap();
        let roomy = silent(&bus)
            .overflow(Overflow::Block { timeout: Some(Duration::ZERO) })
            .subscribe("c")
            .unwrap();
        let lossy: Vec<_> = [Overflow::DropOldest, Overflow::DropNewest]
            .into_iter()
            .flat_map(|overflow| {
                let small = || silent(&bus).capacity(2).overflow(overflow);
                [small().subscribe("c").unwrap(), small().psubscribe("c").unwrap()]
            })
            .map(read_on)
            .collect();
        thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let bus = &bus;
                let steps = steps();
                scope.spawn(move || {
                    for n in 0..EACH {
                        steps.step();
                        publish_somehow(bus, "c", (publisher, n));
                    }
                });
            }
        });
        bus.close();
        let order = payloads(&whole);
        assert_eq!(order.len() as u64, PUBLISHERS as u64 * EACH);
        assert_eq!(payloads(&roomy), order, "an inbox that is never full keeps it under Block too");
        for reader in lossy {
            let tags = reader.join().unwrap();
            assert!(!tags.is_empty());
            assert!(is_subsequence(&tags, &order));
        }
    });
}

/// Hazard: a channel's entry is pruned and recreated while a publisher still holds the old one. The channel
/// would then have two turns, and two orders.
#[test]
fn a_channel_that_is_pruned_and_recreated_keeps_one_order() {
    watched(|| {
        let publishes: u64 = if cfg!(debug_assertions) { 6_000 } else { 20_000 };
        const PUBLISHERS: usize = 3;
        let capacity = PUBLISHERS * publishes as usize;
        let bus: Bus<Tag> = Bus::builder().stripes(1).capacity(capacity).build();
        // Only patterns stay subscribed: the channel itself comes and goes.
        let steady = [
            silent(&bus).psubscribe("hot*").unwrap(),
            silent(&bus).psubscribe("*t").unwrap(),
            silent(&bus).psubscribe("h?t").unwrap(),
        ];
        let done = Stop::default();
        let visits = thread::scope(|scope| {
            let (bus, done) = (&bus, &done);
            let _done = done.set_on_drop();
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|publisher| {
                    let steps = steps();
                    scope.spawn(move || {
                        for n in 0..publishes {
                            steps.step();
                            publish_somehow(bus, "hot", (publisher, n));
                            if n % 64 == 0 {
                                // The entry must be unused for a while, too.
                                thread::yield_now();
                            }
                        }
                    })
                })
                .collect();
            // Subscribers that prune the entry when they leave.
            let visitors = scope.spawn(move || {
                let mut visits = Vec::new();
                let mut dice = Dice::new(7);
                while !done.is_set() {
                    let visit = silent(bus).capacity(64).subscribe("hot").unwrap();
                    for _ in 0..dice.roll(20) {
                        thread::yield_now();
                    }
                    visit.unsubscribe("hot");
                    visits.push(payloads(&visit));
                }
                visits
            });
            // Topics that are dropped, patterns that invalidate the route, and names so long that they displace
            // all recent names.
            scope.spawn(move || {
                let long: Vec<String> =
                    (0..20).map(|n| format!("{n}{}", "x".repeat(1 << 20))).collect();
                for n in 0.. {
                    if done.is_set() {
                        break;
                    }
                    drop(bus.topic("hot"));
                    drop(bus.psubscribe(format!("hot{}*", n % 7)).unwrap());
                    drop(bus.psubscribe(format!("h[o{}]t", n % 7)).unwrap());
                    bus.publish(&long[n % long.len()], (usize::MAX, n as u64));
                }
            });
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
            done.set();
            visitors.join().unwrap()
        });
        let order = payloads(&steady[0]);
        assert_eq!(order.len(), capacity, "none was lost");
        for inbox in &steady[1..] {
            assert_eq!(payloads(inbox), order);
        }
        for publisher in 0..PUBLISHERS {
            assert_eq!(of_publisher(&order, publisher), (0..publishes).collect::<Vec<_>>());
        }
        assert!(visits.iter().any(|visit| !visit.is_empty()), "no visitor saw anything");
        for visit in &visits {
            assert!(is_subsequence(visit, &order));
        }
    });
}

/// A payload whose `Clone` lets other threads run during the turn.
struct Slow(Tag);

impl Clone for Slow {
    fn clone(&self) -> Self {
        thread::yield_now();
        Self(self.0)
    }
}

/// Publishers wait for the turn of an entry that is pruned and recreated meanwhile.
#[test]
fn a_channel_recreated_while_publishers_wait_for_its_turn_keeps_one_order() {
    watched(|| {
        let each: u64 = if cfg!(debug_assertions) { 800 } else { 2_000 };
        const PUBLISHERS: usize = 4;
        let capacity = PUBLISHERS * each as usize;
        let bus: Bus<Slow> = Bus::builder().stripes(1).capacity(capacity).build();
        let steady = ["hot*", "*t", "h?t", "*o*"].map(|p| silent(&bus).psubscribe(p).unwrap());
        let done = Stop::default();
        thread::scope(|scope| {
            let (bus, done) = (&bus, &done);
            let _done = done.set_on_drop();
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|publisher| {
                    let steps = steps();
                    scope.spawn(move || {
                        for n in 0..each {
                            steps.step();
                            bus.publish("hot", Slow((publisher, n)));
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.is_set() {
                        drop(silent(bus).capacity(1).subscribe("hot").unwrap());
                        drop(bus.topic("hot"));
                    }
                });
            }
            publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
        });
        let [order, others @ ..] = steady
            .map(|sub| -> Vec<Tag> { payloads(&sub).iter().map(|payload| payload.0).collect() });
        assert_eq!(order.len(), capacity, "none was lost");
        for other in others {
            assert_eq!(other, order);
        }
        for publisher in 0..PUBLISHERS {
            assert_eq!(of_publisher(&order, publisher), (0..each).collect::<Vec<_>>());
        }
    });
}

/// Every single publish makes an entry and prunes it.
#[test]
fn a_channel_too_long_to_be_remembered_keeps_one_order() {
    watched(|| {
        const EACH: u64 = 30;
        let bus: Bus<Tag> = Bus::builder().stripes(1).build();
        // Larger than the memory of recent names, so it is never remembered.
        let name = "n".repeat(17 << 20);
        let steady = [
            silent(&bus).dedupe(true).psubscribe("n*").unwrap(),
            silent(&bus).psubscribe("[mn]*").unwrap(),
        ];
        thread::scope(|scope| {
            for publisher in 0..2 {
                let (bus, name) = (&bus, &name);
                let steps = steps();
                scope.spawn(move || {
                    for n in 0..EACH {
                        steps.step();
                        bus.publish(name, (publisher, n));
                    }
                });
            }
        });
        let order = payloads(&steady[0]);
        assert_eq!(order.len() as u64, 2 * EACH);
        assert_eq!(payloads(&steady[1]), order);
        for publisher in 0..2 {
            assert_eq!(of_publisher(&order, publisher), (0..EACH).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_publisher_waits_only_for_the_turn_of_its_own_channel() {
    // While one publish has the turn of `busy`, publishes of this thread to other channels go on.
    watched(|| {
        let bus: Bus<support::Hooked> = Bus::builder().stripes(1).build();
        let _first = silent(&bus).subscribe("busy").unwrap();
        let _second = silent(&bus).subscribe("busy").unwrap();
        let other = silent(&bus).subscribe("other").unwrap();
        let pattern = silent(&bus).psubscribe("o*").unwrap();
        let gate = support::Gate::new();
        let _open = gate.open_on_drop();
        let publisher = thread::spawn({
            let (bus, gate) = (bus.clone(), gate.clone());
            move || bus.publish("busy", support::Hooked::on_clone(1, move || gate.pass()))
        });
        gate.await_arrivals(1);
        assert_eq!(bus.publish("other", support::Hooked::plain(2)).delivered, 2);
        assert_eq!(bus.topic("old").publish(support::Hooked::plain(3)).delivered, 1);
        assert_eq!((other.len(), pattern.len()), (1, 2));
        gate.open();
        assert_eq!(publisher.join().unwrap().delivered, 2);
    });
}

#[test]
fn a_single_reader_sees_events_and_messages_in_the_order_of_the_calls() {
    watched(|| {
        let bus: Bus<Tag> = Bus::new();
        let sub = bus.subscriber();
        for n in 0..50 {
            sub.subscribe("c").unwrap();
            bus.publish("c", (0, n));
            bus.publish("c", (1, n));
            sub.unsubscribe("c");
            assert!(matches!(sub.recv().unwrap(), Event::Subscribe { count: 1, .. }));
            assert_eq!(sub.recv().unwrap().into_message().unwrap().payload, (0, n));
            assert_eq!(sub.recv().unwrap().into_message().unwrap().payload, (1, n));
            assert!(matches!(sub.recv().unwrap(), Event::Unsubscribe { count: 0, .. }));
        }
    });
}
