//! Limits: a subscribe past a limit is an error that carries the limit, and changes nothing. At exactly the
//! limit it succeeds. What is given up makes room, however many threads race for the last place.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fanout::{Bus, Event, Limits, Overflow, Pattern, SubscribeError, Subscriber, TryRecvError};
use support::{payloads, silent, step, steps, watched};

fn limited(limits: Limits) -> Bus<u32> {
    Bus::builder().limits(limits).build()
}

/// Asserts that a refused subscribe changes nothing, and returns its error.
#[track_caller]
fn assert_refused_without_a_trace(
    bus: &Bus<u32>,
    sub: &Subscriber<u32>,
    subscribe: impl FnOnce(&Subscriber<u32>) -> Result<usize, SubscribeError>,
) -> SubscribeError {
    while sub.try_recv().is_ok() {}
    let look = || {
        let mut channels = bus.channels();
        channels.sort();
        let mut infos = bus.subscribers();
        infos.sort_by(|a, b| a.label.cmp(&b.label));
        let counts =
            ["c", "d", "e", "longer"].map(|c| (bus.subscriber_count(c), bus.match_count(c)));
        (
            (bus.stats(), bus.pattern_count()),
            channels,
            infos,
            counts,
            (sub.channels(), sub.patterns()),
        )
    };
    let before = look();
    let error = subscribe(sub).expect_err("past the limit");
    assert_eq!(look(), before);
    assert_eq!(sub.try_recv(), Err(TryRecvError::Empty), "an event of what was refused");
    // No message comes of it either.
    let matched: usize = before.3.iter().map(|(_, matched)| matched).sum();
    let published: usize =
        ["c", "d", "e", "longer"].iter().map(|c| bus.publish(c, 1u32).matched).sum();
    assert_eq!(published, matched);
    while sub.try_recv().is_ok() {}
    error
}

#[track_caller]
fn assert_says(error: &SubscribeError, name: &str, limit: usize) {
    let text = error.to_string();
    assert!(text.contains(name), "{text:?} does not name {name}");
    assert!(text.contains(&limit.to_string()), "{text:?} does not tell {limit}");
}

// ---- lengths ------------------------------------------------------------------------------------

#[test]
fn max_channel_len_counts_bytes_of_subscribed_names() {
    let bus = limited(Limits::default().max_channel_len(5));
    let sub = bus.subscribe("12345").unwrap();
    assert_eq!(sub.subscribe("ééa"), Ok(2), "five bytes");
    assert_eq!(sub.subscribe(""), Ok(3));
    for name in ["123456", "ééé", &"x".repeat(10_000)] {
        let error = assert_refused_without_a_trace(&bus, &sub, |sub| sub.subscribe(name));
        assert!(matches!(error, SubscribeError::ChannelTooLong { limit: 5, .. }), "{error:?}");
        assert_says(&error, "max_channel_len", 5);
        assert_eq!(bus.subscribe(name).unwrap_err(), error);
        assert_eq!(bus.subscriber_builder().subscribe(name).unwrap_err(), error);
    }
    // All names or none.
    let error = assert_refused_without_a_trace(&bus, &sub, |sub| {
        sub.subscribe_many(["c", "d", "longer", "e"])
    });
    assert!(matches!(error, SubscribeError::ChannelTooLong { limit: 5, .. }));
    // The limit does not apply to patterns, publishes, topics or counts.
    assert_eq!(sub.psubscribe("a longer pattern*"), Ok(4));
    assert_eq!(bus.publish("a longer pattern", 1u32).matched, 1);
    assert_eq!(bus.topic("a longer pattern").publish(1u32).matched, 1);
    assert_eq!(bus.match_count("a longer pattern"), 1);
    assert_eq!(sub.unsubscribe("a name never held"), 4);
}

#[cfg(feature = "glob")]
#[test]
fn max_pattern_len_counts_bytes_of_either_dialect() {
    let bus = limited(Limits::default().max_pattern_len(4));
    let sub = bus.psubscribe("abc*").unwrap();
    assert_eq!(sub.psubscribe("éé"), Ok(2));
    assert_eq!(sub.psubscribe(Pattern::glob("a/**").unwrap()), Ok(3));
    for pattern in [Pattern::redis("abcd*"), Pattern::redis("ééa"), Pattern::glob("ab/**").unwrap()]
    {
        let error = assert_refused_without_a_trace(&bus, &sub, |sub| sub.psubscribe(&pattern));
        assert!(matches!(error, SubscribeError::PatternTooLong { limit: 4, .. }), "{error:?}");
        assert_says(&error, "max_pattern_len", 4);
        assert_eq!(bus.psubscribe(&pattern).unwrap_err(), error);
        assert_eq!(bus.subscriber_builder().psubscribe(&pattern).unwrap_err(), error);
    }
    let error = assert_refused_without_a_trace(&bus, &sub, |sub| {
        sub.psubscribe_many(["c*", "d*", "longer*"])
    });
    assert!(matches!(error, SubscribeError::PatternTooLong { limit: 4, .. }));
    assert_eq!(sub.subscribe("a longer channel"), Ok(4));
    assert_eq!(sub.punsubscribe("a pattern never held"), 4);
}

// ---- subscriptions ------------------------------------------------------------------------------

#[cfg(feature = "glob")]
#[test]
fn max_subscriptions_counts_channels_and_patterns_of_one_subscriber() {
    let bus = limited(Limits::default().max_subscriptions(3));
    let sub = bus.subscribe("c").unwrap();
    assert_eq!(sub.psubscribe("c*"), Ok(2));
    // Only one of the two would fit, so none is subscribed.
    let error = assert_refused_without_a_trace(&bus, &sub, |sub| sub.subscribe_many(["d", "e"]));
    assert!(matches!(error, SubscribeError::TooManySubscriptions { limit: 3, .. }), "{error:?}");
    assert_says(&error, "max_subscriptions", 3);
    assert_refused_without_a_trace(&bus, &sub, |sub| sub.psubscribe_many(["d*", "e*"]));
    assert_eq!(sub.subscribe("d"), Ok(3));
    for refused in [
        assert_refused_without_a_trace(&bus, &sub, |sub| sub.subscribe("e")),
        assert_refused_without_a_trace(&bus, &sub, |sub| sub.psubscribe("e*")),
        assert_refused_without_a_trace(&bus, &sub, |sub| {
            sub.psubscribe(Pattern::glob("c*").unwrap())
        }),
        assert_refused_without_a_trace(&bus, &sub, |sub| sub.subscribe_many(["c", "d", "e"])),
        assert_refused_without_a_trace(&bus, &sub, |sub| sub.psubscribe_many(["c*", "e*"])),
    ] {
        assert_eq!(refused, error);
    }
    // Subscribing again to a held name only repeats its event.
    assert_eq!(sub.subscribe("c"), Ok(3));
    assert_eq!(sub.psubscribe("c*"), Ok(3));
    assert_eq!(sub.subscribe_many(["c", "d", "c"]), Ok(3));
    assert_eq!(sub.try_iter().count(), 5);
    // A clone is the same subscriber; another subscriber has its own count.
    sub.clone().subscribe("e").unwrap_err();
    let other = bus.subscribe("e").unwrap();
    assert_eq!(other.subscribe_many(["c", "d"]), Ok(3));
    assert_eq!(other.resubscribe().unwrap().channels().len(), 3);
    // Each subscription that is given up makes room for one.
    assert_eq!(sub.unsubscribe("c"), 2);
    assert_eq!(sub.psubscribe("e*"), Ok(3));
    sub.subscribe("c").unwrap_err();
    assert_eq!(sub.punsubscribe_all(), 1);
    assert_eq!(sub.subscribe_many(["c", "e"]), Ok(3));
}

#[test]
fn names_repeated_within_one_call_count_once() {
    let limits =
        Limits::default().max_subscriptions(2).max_channels(2).max_patterns(2).max_subscribers(1);
    let bus = limited(limits);
    let sub = bus.subscriber();
    assert_eq!(sub.subscribe_many(["c", "c", "d", "c", "d"]), Ok(2));
    let counts: Vec<usize> = sub
        .try_iter()
        .map(|event| match event {
            Event::Subscribe { count, .. } => count,
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(counts, [1, 1, 2, 2, 2]);
    sub.unsubscribe_all();
    assert_eq!(sub.psubscribe_many(["c*", "c*", "d*", "c*"]), Ok(2));
    assert_eq!((bus.pattern_count(), bus.stats().channels), (2, 0));
    sub.punsubscribe_all();
    let three = sub.subscribe_many(["c", "c", "d", "e", "e"]);
    assert!(matches!(three, Err(SubscribeError::TooManySubscriptions { limit: 2, .. })));
    assert!(sub.channels().is_empty());
}

// ---- limits of the bus ------------------------------------------------------------------------------

#[test]
fn max_subscribers_counts_from_the_first_subscription_to_the_end() {
    let bus = limited(Limits::default().max_subscribers(2));
    // A subscriber without subscriptions does not count yet.
    let idle: Vec<_> = (0..10).map(|_| bus.subscriber()).collect();
    let one = bus.subscribe("c").unwrap();
    let two = silent(&bus).psubscribe("c*").unwrap();
    let error = bus.subscribe("d").unwrap_err();
    assert!(matches!(error, SubscribeError::TooManySubscribers { limit: 2, .. }), "{error:?}");
    assert_says(&error, "max_subscribers", 2);
    assert_eq!(bus.psubscribe("d*").unwrap_err(), error);
    assert_eq!(one.resubscribe().unwrap_err(), error);
    for refused in [
        assert_refused_without_a_trace(&bus, &idle[0], |sub| sub.subscribe("c")),
        assert_refused_without_a_trace(&bus, &idle[0], |sub| sub.psubscribe("e*")),
        assert_refused_without_a_trace(&bus, &idle[0], |sub| sub.subscribe_many(["c", "d"])),
        assert_refused_without_a_trace(&bus, &idle[0], |sub| sub.psubscribe_many(["c*", "d*"])),
    ] {
        assert_eq!(refused, error);
    }
    // Subscribers that count already may subscribe more.
    assert_eq!(one.subscribe("d"), Ok(2));
    assert_eq!(two.clone().subscribe("e"), Ok(2));
    // The refused one was not counted, so the freed place is free.
    drop(two);
    assert_eq!(idle[1].subscribe("c"), Ok(1));
    assert_eq!(idle[0].subscribe("c").unwrap_err(), error);
    one.close();
    assert_eq!(idle[0].psubscribe("c*"), Ok(1));
    assert_eq!(idle[2].subscribe("c").unwrap_err(), error);
    assert_eq!(bus.stats().subscribers, 2);
}

#[test]
fn a_subscriber_refused_by_another_limit_is_not_counted() {
    let bus = limited(
        Limits::default().max_subscribers(1).max_channels(1).max_patterns(1).max_channel_len(3),
    );
    let refused = bus.subscriber();
    refused.subscribe("longer").unwrap_err();
    refused.subscribe_many(["a", "b"]).unwrap_err();
    refused.psubscribe_many(["a*", "b*"]).unwrap_err();
    assert_eq!(bus.stats().subscribers, 0);
    let one = bus.subscribe("a").unwrap();
    assert!(matches!(
        refused.subscribe("a"),
        Err(SubscribeError::TooManySubscribers { limit: 1, .. })
    ));
    drop(one);
    assert_eq!(refused.subscribe("a"), Ok(1));
}

#[test]
fn max_channels_counts_channels_with_a_subscriber_of_their_own() {
    let bus = limited(Limits::default().max_channels(2));
    let topics = ["t1", "t2", "t3"].map(|channel| bus.topic(channel));
    for n in 0..100 {
        bus.publish(&format!("published {n}"), 1u32);
    }
    let sub = bus.subscribe("c").unwrap();
    assert_eq!(sub.subscribe("d"), Ok(2));
    let error = assert_refused_without_a_trace(&bus, &sub, |sub| sub.subscribe("e"));
    assert!(matches!(error, SubscribeError::TooManyChannels { limit: 2, .. }), "{error:?}");
    assert_says(&error, "max_channels", 2);
    assert_eq!(bus.subscribe("e").unwrap_err(), error);
    // A name that a topic holds, or that was published to, does not count as a channel yet.
    assert_eq!(sub.subscribe("t1").unwrap_err(), error);
    assert_eq!(sub.subscribe("published 1").unwrap_err(), error);
    // All names or none.
    let other = bus.subscriber();
    let refused =
        assert_refused_without_a_trace(&bus, &other, |sub| sub.subscribe_many(["c", "e", "d"]));
    assert_eq!(refused, error);
    // More subscribers of the same channels do not count as channels, and neither do patterns.
    assert_eq!(other.subscribe_many(["d", "c"]), Ok(2));
    assert_eq!(other.psubscribe("e"), Ok(3));
    sub.unsubscribe("d");
    other.subscribe("e").unwrap_err();
    other.unsubscribe("d");
    assert_eq!(other.subscribe("e"), Ok(3));
    assert_eq!(sub.subscribe("d").unwrap_err(), error);
    drop(other);
    assert_eq!(sub.subscribe("t1"), Ok(2));
    assert_eq!(topics[0].publish(1u32).delivered, 1);
    assert_eq!(bus.stats().channels, 2);
}

#[cfg(feature = "glob")]
#[test]
fn max_patterns_counts_distinct_patterns() {
    let bus = limited(Limits::default().max_patterns(2));
    let sub = bus.psubscribe("c*").unwrap();
    assert_eq!(sub.psubscribe("d*"), Ok(2));
    let error = assert_refused_without_a_trace(&bus, &sub, |sub| sub.psubscribe("e*"));
    assert!(matches!(error, SubscribeError::TooManyPatterns { limit: 2, .. }), "{error:?}");
    assert_says(&error, "max_patterns", 2);
    assert_eq!(bus.psubscribe("e*").unwrap_err(), error);
    // One text in another dialect is another pattern.
    assert_eq!(sub.psubscribe(Pattern::glob("c*").unwrap()).unwrap_err(), error);
    let other = bus.subscriber();
    let refused =
        assert_refused_without_a_trace(&bus, &other, |sub| sub.psubscribe_many(["c*", "e*"]));
    assert_eq!(refused, error);
    assert_eq!(other.psubscribe_many(["d*", "c*"]), Ok(2));
    assert_eq!(other.subscribe("e"), Ok(3));
    sub.punsubscribe("c*");
    other.psubscribe("e*").unwrap_err();
    other.punsubscribe("c*");
    assert_eq!(other.psubscribe("e*"), Ok(3));
    drop(other);
    assert_eq!(sub.psubscribe(Pattern::glob("d*").unwrap()), Ok(2));
    assert_eq!(bus.pattern_count(), 2);
}

#[test]
fn there_are_no_limits_by_default() {
    let bus: Bus<u32> = Bus::new();
    assert_eq!(Limits::default(), Limits::default().max_channels(usize::MAX));
    let sub = silent(&bus).subscribe("long".repeat(10_000)).unwrap();
    sub.psubscribe("*".repeat(10_000)).unwrap();
    sub.subscribe_many((0..5_000).map(|n| n.to_string())).unwrap();
    sub.psubscribe_many((0..1_000).map(|n| format!("{n}*"))).unwrap();
    assert_eq!(sub.channels().len() + sub.patterns().len(), 6_002);
}

#[test]
fn a_limit_of_zero_refuses_everything() {
    let none = Limits::default();
    let cases: [(Limits, &str); 4] = [
        (none.max_subscriptions(0), "max_subscriptions"),
        (none.max_subscribers(0), "max_subscribers"),
        (none.max_channels(0), "max_channels"),
        (none.max_channel_len(0), "max_channel_len"),
    ];
    for (limits, name) in cases {
        let bus = limited(limits);
        assert_says(&bus.subscribe("c").unwrap_err(), name, 0);
        assert_eq!(bus.publish("c", 1u32).matched, 0);
    }
    assert_says(&limited(none.max_patterns(0)).psubscribe("c").unwrap_err(), "max_patterns", 0);
    assert_says(
        &limited(none.max_pattern_len(0)).psubscribe("c").unwrap_err(),
        "max_pattern_len",
        0,
    );
    assert!(limited(none.max_channel_len(0)).subscribe("").is_ok());
    assert!(limited(none.max_pattern_len(0)).psubscribe("").is_ok());
    assert!(limited(none.max_patterns(0)).subscribe("c").is_ok());
    assert!(limited(none.max_channels(0)).psubscribe("c").is_ok());
}

#[test]
fn limit_errors_compare_equal_and_closed_comes_first() {
    let bus = limited(Limits::default().max_channels(1));
    let _one = bus.subscribe("c").unwrap();
    let error = bus.subscribe("d").unwrap_err();
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error.clone());
    assert_eq!(boxed.to_string(), error.to_string());
    assert_eq!(error, bus.subscribe("e").unwrap_err());
    assert_ne!(error, SubscribeError::Closed);
    bus.close();
    assert_eq!(bus.subscribe("d").unwrap_err(), SubscribeError::Closed);
}

// ---- races --------------------------------------------------------------------------------------

/// A way to ask for a place under one of the limits. Every call asks for a different one.
type Ask = fn(&Bus<u32>, usize) -> Result<Subscriber<u32>, SubscribeError>;

const PLACES: usize = 5;

fn bounded() -> [(&'static str, Limits, Ask); 4] {
    let none = Limits::default();
    [
        ("subscribers", none.max_subscribers(PLACES), |bus, n| match n % 2 {
            0 => bus.subscribe("c"),
            _ => bus.psubscribe("c*"),
        }),
        ("channels", none.max_channels(PLACES), |bus, n| bus.subscribe(format!("c{n}"))),
        ("patterns", none.max_patterns(PLACES), |bus, n| bus.psubscribe(format!("c{n}*"))),
        ("all", none.max_subscribers(PLACES).max_channels(100).max_patterns(PLACES), |bus, n| {
            bus.psubscribe(format!("c{n}*"))
        }),
    ]
}

#[test]
fn threads_that_race_for_the_last_places_get_exactly_those() {
    for (what, limits, ask) in bounded() {
        watched(move || {
            for _ in 0..100 {
                step();
                let bus = limited(limits);
                let start = Barrier::new(4);
                let got: Vec<_> = thread::scope(|scope| {
                    (0..4)
                        .map(|thread| {
                            let (bus, start) = (&bus, &start);
                            scope.spawn(move || {
                                start.wait();
                                (0..4)
                                    .filter_map(|n| ask(bus, 4 * thread + n).ok())
                                    .collect::<Vec<_>>()
                            })
                        })
                        .collect::<Vec<_>>()
                        .into_iter()
                        .flat_map(|thread| thread.join().unwrap())
                        .collect()
                });
                assert_eq!(got.len(), PLACES, "{what}");
                let stats = bus.stats();
                assert_eq!(stats.subscribers, PLACES, "{what}");
                assert!(stats.channels <= PLACES && stats.patterns <= PLACES, "{what}");
                drop(got);
                assert_eq!(bus.stats().subscribers, 0, "{what}");
                let again: Vec<_> = (0..PLACES).map(|n| ask(&bus, n)).collect();
                assert!(again.iter().all(Result::is_ok), "{what}: freed places are free");
            }
        });
    }
}

#[test]
fn the_limit_is_never_exceeded_while_places_come_free() {
    for (what, limits, ask) in bounded() {
        watched(move || {
            let bus = limited(limits);
            let held = AtomicUsize::new(0);
            let admitted = AtomicUsize::new(0);
            thread::scope(|scope| {
                for thread in 0..4 {
                    let (bus, held, admitted) = (&bus, &held, &admitted);
                    let steps = steps();
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        for n in 0..2_000 {
                            steps.step();
                            if let Ok(sub) = ask(bus, 2_000 * thread + n) {
                                // Counted after the place is taken and until it is given up, so the count never
                                // exceeds the truth.
                                let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(now <= PLACES, "{what}: {now} of {PLACES}");
                                admitted.fetch_add(1, Ordering::SeqCst);
                                own.push(sub);
                            }
                            if n % 3 == 0
                                && own
                                    .pop()
                                    .map(|sub| (held.fetch_sub(1, Ordering::SeqCst), sub))
                                    .is_some()
                            {
                                thread::yield_now();
                            }
                        }
                        held.fetch_sub(own.len(), Ordering::SeqCst);
                    });
                }
            });
            assert!(admitted.load(Ordering::SeqCst) > PLACES, "{what}: nobody ever made room");
            let stats = bus.stats();
            assert_eq!((stats.subscribers, stats.channels, stats.patterns), (0, 0, 0), "{what}");
            let all: Vec<_> = (0..PLACES).map(|n| ask(&bus, n).unwrap()).collect();
            ask(&bus, PLACES).unwrap_err();
            drop(all);
        });
    }
}

/// The last of several threads to leave a shared channel frees its place, while others subscribe to it.
#[test]
fn shared_names_are_counted_once_while_threads_come_and_go() {
    for patterns in [false, true] {
        watched(move || {
            let bus = limited(Limits::default().max_channels(2).max_patterns(2));
            thread::scope(|scope| {
                for thread in 0..4 {
                    let bus = &bus;
                    scope.spawn(move || {
                        let sub = silent(bus).build();
                        for n in 0..10_000 {
                            let name = ["a", "b"][(thread + n) % 2];
                            // There are two names and two places, so none is refused in any order.
                            if patterns {
                                sub.psubscribe(name).unwrap();
                                sub.punsubscribe(name);
                            } else {
                                sub.subscribe(name).unwrap();
                                sub.unsubscribe(name);
                            }
                        }
                    });
                }
            });
            let stats = bus.stats();
            assert_eq!((stats.channels, stats.patterns), (0, 0));
            let sub = bus.subscriber();
            assert_eq!(sub.subscribe_many(["x", "y"]), Ok(2));
            assert_eq!(sub.psubscribe_many(["x", "y"]), Ok(4));
        });
    }
}

// ---- builders -----------------------------------------------------------------------------------

#[test]
fn a_builder_subscribes_to_all_names_or_to_none() {
    let bus = limited(Limits::default().max_subscriptions(2).max_pattern_len(2));
    let build = || bus.subscriber_builder().capacity(3).lifecycle_events(false);
    let channels = build().subscribe_many(["a", "b"]).unwrap();
    assert_eq!((channels.capacity(), channels.channels().len()), (3, 2));
    let patterns = build().psubscribe_many([Pattern::redis("a*"), "b*".into()]).unwrap();
    assert_eq!(patterns.patterns(), ["a*".into(), "b*".into()]);
    assert_eq!(bus.publish("a", 1u32).delivered, 2);

    let error = build().subscribe_many(["c", "d", "e"].map(String::from)).unwrap_err();
    assert!(matches!(error, SubscribeError::TooManySubscriptions { limit: 2, .. }));
    let error = build().psubscribe_many(["c*", "cc*"]).unwrap_err();
    assert!(matches!(error, SubscribeError::PatternTooLong { limit: 2, .. }));
    assert_eq!((bus.channels().len(), bus.pattern_count(), bus.stats().subscribers), (2, 2, 2));

    // Subscribing to no names makes a subscriber without subscriptions.
    assert_eq!(build().subscribe_many([""; 0]).unwrap().channels(), []);
    bus.close();
    assert_eq!(build().subscribe_many(["a"]).unwrap_err(), SubscribeError::Closed);
    assert_eq!(build().psubscribe_many(["a*"]).unwrap_err(), SubscribeError::Closed);
}

#[test]
fn a_cloned_builder_has_the_same_settings() {
    let limits = Limits::default().max_channels(1);
    let builder = Bus::<u32>::builder().capacity(7).overflow(Overflow::DropNewest).limits(limits);
    let (one, other) = (builder.clone().build(), builder.clone().capacity(8).build());
    assert_eq!((one.subscriber().capacity(), other.subscriber().capacity()), (7, 8));
    let builder = one.subscriber_builder().label("worker").lifecycle_events(false).dedupe(true);
    let first = builder.clone().subscribe("a").unwrap();
    let second = builder.label("other").subscribe("a").unwrap();
    assert_eq!((first.label(), second.label()), (Some("worker"), Some("other")));
    first.psubscribe("a*").unwrap();
    second.psubscribe("a*").unwrap();
    (0..8u32).for_each(|n| _ = one.publish("a", n));
    for sub in [first, second] {
        // There are neither events nor duplicates, and the newest message is refused.
        assert_eq!((sub.capacity(), sub.missed(), payloads(&sub)), (7, 1, Vec::from_iter(0..7)));
        assert_eq!(sub.try_recv(), Err(TryRecvError::Empty));
    }
    let _kept = other.subscribe("a").unwrap();
    assert!(matches!(
        other.subscribe("b").unwrap_err(),
        SubscribeError::TooManyChannels { limit: 1, .. }
    ));
}
