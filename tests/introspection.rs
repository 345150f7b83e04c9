//! What the bus and its subscribers report is exact at rest, changes nothing, and survives pruning and closing.

mod support;

use std::sync::Arc;
use std::time::Duration;

use fanout::{Bus, CloseReason, Limits, Overflow, Pattern, Receipt, Subscriber, SubscriberInfo};
use support::{assert_books, payloads, silent, sorted};

fn names(bus: &Bus<u32>) -> Vec<String> {
    sorted(bus.channels().iter().map(|name| name.to_string()))
}

fn names_matching(bus: &Bus<u32>, pattern: impl Into<Pattern>) -> Vec<String> {
    sorted(bus.channels_matching(pattern).iter().map(|name| name.to_string()))
}

fn info_of(bus: &Bus<u32>, label: &str) -> SubscriberInfo {
    let mut found = bus.subscribers();
    found.retain(|info| info.label.as_deref() == Some(label));
    assert_eq!(found.len(), 1, "{label}");
    found.remove(0)
}

fn labelled(bus: &Bus<u32>, label: &str) -> fanout::SubscriberBuilder<u32> {
    silent(bus).label(label)
}

// ---- channels -----------------------------------------------------------------------------------

#[test]
fn channels_lists_each_channel_with_an_exact_subscriber_once() {
    let bus: Bus<u32> = Bus::new();
    assert!(bus.channels().is_empty());
    let a = bus.subscribe("a").unwrap();
    a.subscribe("a").unwrap();
    a.subscribe("b").unwrap();
    let again = bus.subscribe("a").unwrap();
    let copy = a.clone();
    let _pattern = bus.psubscribe("c*").unwrap();
    let _plain_pattern = bus.psubscribe("d").unwrap();
    let _topic = bus.topic("e");
    bus.publish("f", 1u32);
    bus.publish("cc", 1u32);
    bus.match_count("g");
    let _nothing = bus.subscriber();
    assert_eq!(names(&bus), ["a", "b"]);
    drop(a);
    assert_eq!(names(&bus), ["a", "b"], "a clone still holds them");
    copy.unsubscribe("b");
    assert_eq!(names(&bus), ["a"]);
    drop(copy);
    assert_eq!(names(&bus), ["a"]);
    drop(again);
    assert!(bus.channels().is_empty());
}

#[test]
fn channels_matching_takes_a_redis_pattern() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber();
    sub.subscribe_many(["", "a", "user:1", "user:22", "héllo", "{a,b}", "x/y"]).unwrap();
    let cases: [(&str, &[&str]); 10] = [
        ("*", &["a", "héllo", "user:1", "user:22", "x/y", "{a,b}"]),
        ("user:*", &["user:1", "user:22"]),
        ("user:?", &["user:1"]),
        ("user:1", &["user:1"]),
        ("use", &[]),
        ("h?llo", &[]),
        ("h??llo", &["héllo"]),
        ("{a,b}", &["{a,b}"]),
        ("[a-x]*y", &["x/y"]),
        ("", &[""]),
    ];
    for (pattern, wanted) in cases {
        assert_eq!(names_matching(&bus, pattern), wanted, "{pattern:?}");
    }
    assert_eq!(bus.channels().len(), 7, "the empty one included");
}

#[cfg(feature = "glob")]
#[test]
fn channels_matching_takes_a_pattern_of_either_dialect() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber();
    sub.subscribe_many(["sensors/1/temp", "sensors/1/hum", "sensors/1/2/temp"]).unwrap();
    let glob = Pattern::glob("sensors/*/{temp,hum}").unwrap();
    assert_eq!(names_matching(&bus, &glob), ["sensors/1/hum", "sensors/1/temp"]);
    assert_eq!(names_matching(&bus, glob), ["sensors/1/hum", "sensors/1/temp"]);
    // In a Redis pattern, `*` crosses levels.
    let all = ["sensors/1/2/temp", "sensors/1/temp"];
    assert_eq!(names_matching(&bus, Pattern::redis("sensors/*/temp")), all);
    assert_eq!(names_matching(&bus, String::from("sensors/*/temp")), all);
}

// ---- patterns -----------------------------------------------------------------------------------

#[cfg(feature = "glob")]
#[test]
fn patterns_lists_each_subscribed_pattern_once() {
    let bus: Bus<u32> = Bus::new();
    assert_eq!(bus.patterns(), []);
    let (redis, glob) = (Pattern::redis("a/*"), Pattern::glob("a/*").unwrap());
    let first = bus.psubscribe(&redis).unwrap();
    first.psubscribe(&glob).unwrap();
    // A pattern without a literal prefix, one without wildcards, and the empty one.
    first.psubscribe_many(["*a", "plain", ""]).unwrap();
    first.subscribe("a channel").unwrap();
    let second = bus.psubscribe(&redis).unwrap();
    let wanted = || sorted([redis.clone(), glob.clone(), "*a".into(), "plain".into(), "".into()]);
    assert_eq!(sorted(bus.patterns()), wanted());
    assert_eq!(bus.patterns().len(), bus.pattern_count());
    second.punsubscribe(&redis);
    assert_eq!(sorted(bus.patterns()), wanted(), "the first holds it still");
    first.punsubscribe(&redis);
    assert_eq!(bus.patterns().len(), 4);
    first.punsubscribe_all();
    assert_eq!(bus.patterns(), []);
}

#[test]
fn a_closed_bus_has_no_patterns() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.psubscribe("a*").unwrap();
    bus.close();
    assert_eq!(bus.patterns(), []);
    assert_eq!(sub.patterns(), []);
}

// ---- counts -------------------------------------------------------------------------------------

#[test]
fn subscriber_count_counts_inboxes_and_no_patterns() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("c");
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (0, 0));
    let one = bus.subscribe("c").unwrap();
    one.subscribe("c").unwrap();
    one.psubscribe("c").unwrap();
    one.psubscribe("*").unwrap();
    let _copy = one.clone();
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (1, 1));
    let two = one.resubscribe().unwrap();
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (2, 2));
    assert_eq!(bus.subscriber_count("never seen"), 0);
    one.unsubscribe("c");
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (1, 1));
    two.close();
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (0, 0));
}

#[cfg(feature = "glob")]
#[test]
fn match_count_is_what_a_publish_would_match() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("c");
    let check = |channel: &str, wanted: usize| {
        assert_eq!(bus.match_count(channel), wanted, "{channel}");
        if channel == "c" {
            assert_eq!(topic.match_count(), wanted);
        }
        assert_eq!(bus.publish(channel, 1u32).matched, wanted, "{channel}");
        // The name has been published to by now.
        assert_eq!(bus.match_count(channel), wanted, "{channel}");
    };
    check("c", 0);
    check("never", 0);
    let sub = silent(&bus).subscribe("c").unwrap();
    check("c", 1);
    sub.psubscribe("c*").unwrap();
    sub.psubscribe("?").unwrap();
    sub.psubscribe(Pattern::glob("{c,d}").unwrap()).unwrap();
    check("c", 4);
    check("cc", 1);
    check("d", 2);
    let once = silent(&bus).dedupe(true).subscribe("c").unwrap();
    once.psubscribe_many(["c*", "?", "*"]).unwrap();
    check("c", 5);
    check("cc", 2);
    check("e", 2);
    check("eee", 1);
    check("", 0);
    // A full inbox that refuses messages is matched nevertheless.
    let full = silent(&bus).capacity(1).overflow(Overflow::DropNewest).subscribe("c").unwrap();
    check("c", 6);
    check("c", 6);
    drop((sub, once));
    check("c", 1);
    drop(full);
    check("c", 0);
}

#[test]
fn match_count_counts_patterns_for_names_never_published() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.psubscribe("user:*").unwrap();
    for n in 0..1_000 {
        assert_eq!(bus.match_count(&format!("user:{n}")), 1);
        assert_eq!(bus.match_count(&format!("group:{n}")), 0);
    }
    drop(sub);
    assert_eq!(bus.match_count("user:1"), 0);
}

#[test]
fn introspection_changes_nothing() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber_builder().capacity(2).subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    bus.publish("c", 1u32);
    bus.publish("c", 2u32);
    let look = || {
        let topic = bus.topic("c");
        (
            (bus.stats(), bus.subscribers(), names(&bus), bus.pattern_count()),
            (bus.match_count("c"), bus.match_count("new"), bus.subscriber_count("new")),
            (topic.match_count(), topic.subscriber_count(), sub.channels(), sub.patterns()),
            (sub.info(), sub.len(), sub.missed(), sub.is_closed(), sub.close_reason()),
        )
    };
    let first = look();
    for _ in 0..3 {
        assert_eq!(look(), first);
    }
    assert_eq!(first.0.0.published, 2);
    // All events and messages are still there: a loss, two events, two messages.
    assert_eq!(sub.try_iter().count(), 5);
}

#[cfg(feature = "glob")]
#[test]
fn pattern_count_counts_distinct_patterns() {
    let bus: Bus<u32> = Bus::new();
    let one = bus.psubscribe("a*").unwrap();
    let two = bus.psubscribe("a*").unwrap();
    assert_eq!(bus.pattern_count(), 1);
    one.psubscribe("a*").unwrap();
    assert_eq!(bus.pattern_count(), 1);
    // Patterns that match the same are different ones, and so is the same text in another dialect.
    one.psubscribe("a**").unwrap();
    two.psubscribe(Pattern::glob("a*").unwrap()).unwrap();
    one.subscribe("a").unwrap();
    assert_eq!(bus.pattern_count(), 3);
    assert_eq!(bus.stats().patterns, 3);
    one.punsubscribe("a*");
    assert_eq!(bus.pattern_count(), 3);
    two.punsubscribe("a*");
    assert_eq!(bus.pattern_count(), 2);
    drop(two);
    assert_eq!(bus.pattern_count(), 1);
    one.punsubscribe_all();
    assert_eq!(bus.pattern_count(), 0);
}

// ---- stats --------------------------------------------------------------------------------------

/// Returns the counts of published, matched, delivered, dropped and evicted.
fn figures(bus: &Bus<u32>) -> [u64; 5] {
    let stats = bus.stats();
    [stats.published, stats.matched, stats.delivered, stats.dropped, stats.evicted]
}

#[test]
fn stats_count_publishes_that_match_nothing_too() {
    let bus: Bus<u32> = Bus::new();
    assert_eq!(bus.stats(), fanout::Stats::default());
    bus.publish("nobody", 1u32);
    assert_eq!(figures(&bus), [1, 0, 0, 0, 0]);
    bus.publish_with("nobody", || panic!("it ran"));
    bus.try_publish_with("nobody", || Err("it ran")).unwrap();
    let topic = bus.topic("nobody");
    topic.publish(1u32);
    topic.publish_with(|| panic!("it ran"));
    topic.try_publish_with(|| Err("it ran")).unwrap();
    assert_eq!(figures(&bus), [6, 0, 0, 0, 0]);
    let _sub = bus.subscribe("c").unwrap();
    bus.publish("c", 1u32);
    bus.publish_with("c", || 1);
    bus.try_publish_with("c", || Ok::<_, ()>(1)).unwrap();
    let topic = bus.topic("c");
    topic.publish(1u32);
    topic.publish_with(|| 1);
    topic.try_publish_with(|| Ok::<_, ()>(1)).unwrap();
    assert_eq!(figures(&bus), [12, 6, 6, 0, 0]);
}

#[test]
fn stats_are_the_sum_of_all_receipts_and_inboxes() {
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    let policies = [
        Overflow::DropOldest,
        Overflow::DropNewest,
        Overflow::Block { timeout: Some(Duration::from_millis(1)) },
        Overflow::Disconnect,
    ];
    let subs = policies.map(|overflow| silent(&bus).overflow(overflow).subscribe("c").unwrap());
    let pattern = silent(&bus).psubscribe("c*").unwrap();
    let first = bus.publish("c", 1u32);
    assert_eq!(first, Receipt { matched: 5, delivered: 5, dropped: 0 });
    let second = bus.publish("c", 2u32);
    // Two inboxes evict and three refuse.
    assert_eq!(second, Receipt { matched: 5, delivered: 2, dropped: 3 });
    assert_eq!(figures(&bus), [2, 10, 7, 3, 2]);
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (1, 1, 4));
    let missed: u64 = subs.iter().chain([&pattern]).map(Subscriber::missed).sum();
    assert_eq!(missed, stats.evicted + stats.dropped);
    for sub in subs.iter().chain([&pattern]) {
        assert_books(sub, 2);
    }
    assert_eq!(bus.publish("c", 3u32).matched, 4, "one is disconnected");
}

#[test]
fn stats_keep_the_counts_of_pruned_channels() {
    let bus: Bus<u32> = Bus::builder().capacity(1).stripes(1).build();
    for round in 1..=50u64 {
        let name = format!("c{round}");
        let sub = silent(&bus).subscribe(&name).unwrap();
        let topic = bus.topic(&name);
        bus.publish(&name, 1u32);
        topic.publish(1u32);
        topic.publish(1u32);
        drop(topic);
        drop(sub);
        assert_eq!(bus.publish(&name, 1u32), Receipt::default());
        assert_eq!(figures(&bus), [4 * round, 3 * round, 3 * round, 0, 2 * round]);
        assert_eq!(bus.stats().channels, 0);
    }
    // Names larger than the memory of recent names displace all others and each other.
    for n in 0..40 {
        bus.publish(&format!("{n}{}", "x".repeat(1 << 20)), 1u32);
    }
    assert_eq!(figures(&bus), [240, 150, 150, 0, 100]);
    // So do names that are published to once, even where a pattern matches them whose inbox is full.
    let sub = silent(&bus).psubscribe("once:*").unwrap();
    for n in 1..=5_000u64 {
        bus.publish(&format!("once:{n}"), 1u32);
        assert_eq!(bus.stats().published, 240 + n);
    }
    assert_eq!(figures(&bus), [5_240, 5_150, 5_150, 0, 5_099]);
    drop(sub);
    assert_eq!(figures(&bus), [5_240, 5_150, 5_150, 0, 5_099]);
}

#[test]
fn stats_count_subscribers_that_have_subscribed() {
    let bus: Bus<u32> = Bus::new();
    let count = || bus.stats().subscribers;
    let one = bus.subscriber();
    assert_eq!(count(), 0);
    one.subscribe("a").unwrap();
    one.psubscribe("a*").unwrap();
    let copy = one.clone();
    assert_eq!(count(), 1);
    let other = one.resubscribe().unwrap();
    assert_eq!(count(), 2);
    other.close();
    assert_eq!(count(), 1);
    drop(other);
    drop(one);
    assert_eq!(count(), 1);
    drop(copy);
    assert_eq!(count(), 0);
    // A refused subscriber does not count.
    let narrow: Bus<u32> = Bus::builder().limits(Limits::default().max_channel_len(1)).build();
    let refused = narrow.subscriber();
    refused.subscribe("too long").unwrap_err();
    narrow.subscribe("too long").unwrap_err();
    assert_eq!(narrow.stats().subscribers, 0);
    assert!(narrow.subscribers().is_empty());
}

// ---- subscribers --------------------------------------------------------------------------------

#[test]
fn subscribers_lists_each_inbox_once_with_its_figures() {
    let bus: Bus<u32> = Bus::new();
    let a = labelled(&bus, "a").capacity(3).subscribe("c").unwrap();
    a.psubscribe_many(["c*", "x*"]).unwrap();
    a.subscribe("d").unwrap();
    let b = labelled(&bus, "b").overflow(Overflow::DropNewest).capacity(1).subscribe("c").unwrap();
    let nameless = silent(&bus).psubscribe("zzz").unwrap();
    let _clones = (a.clone(), b.clone());
    let _never = labelled(&bus, "never subscribed").build();
    bus.publish("c", 1u32);
    bus.publish("c", 2u32);
    assert_eq!(a.recv_message().unwrap().payload, 1);

    assert_eq!(bus.subscribers().len(), 3);
    let info = info_of(&bus, "a");
    assert_eq!(info, a.info());
    // 4 messages: one evicted, one received, two left.
    assert_eq!((info.channels, info.patterns, info.depth, info.capacity), (2, 2, 2, 3));
    assert_eq!((info.received, info.missed, info.high_water), (1, 1, 3));
    let info = info_of(&bus, "b");
    assert_eq!((info.channels, info.patterns, info.depth, info.capacity), (1, 0, 1, 1));
    assert_eq!((info.received, info.missed, info.high_water), (0, 1, 1));
    assert_eq!(b.label(), Some("b"));
    let unlabelled = bus.subscribers().into_iter().find(|info| info.label.is_none()).unwrap();
    assert_eq!(unlabelled, nameless.info());
    assert_eq!((unlabelled.patterns, unlabelled.capacity), (1, 256));
    assert_eq!(nameless.label(), None);

    a.close();
    drop(nameless);
    assert_eq!(bus.subscribers().len(), 1);
}

#[test]
fn received_counts_messages_taken_through_receiver_and_clones() {
    let bus: Bus<u32> = Bus::new();
    let sub = labelled(&bus, "reads").subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    let copy = sub.clone();
    for n in 0..5u32 {
        bus.publish("c", n);
    }
    let takes: [(u64, &dyn Fn()); 7] = [
        (1, &|| drop(sub.receiver().recv().unwrap())),
        (2, &|| drop(copy.recv().unwrap())),
        (3, &|| drop(copy.receiver().try_recv().unwrap())),
        (4, &|| drop(sub.recv_message().unwrap())),
        (5, &|| drop(sub.try_iter().next().unwrap())),
        (6, &|| drop(sub.messages().next().unwrap())),
        (7, &|| drop(sub.receiver().iter().next().unwrap())),
    ];
    for (count, take) in takes {
        take();
        assert_eq!(sub.info().received, count);
        assert_eq!(info_of(&bus, "reads").received, count);
        assert_eq!(sub.info().depth as u64, 10 - count);
    }
    // Giving up subscriptions changes no count.
    sub.unsubscribe("c");
    sub.punsubscribe("c*");
    assert_eq!((sub.info().received, sub.info().depth), (7, 3));
    payloads(&copy);
    assert_books(&sub, 10);
    assert_eq!(info_of(&bus, "reads").received, 10);
}

#[test]
fn the_books_balance_while_subscriptions_change() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(4).build();
    let mut matched = 0;
    for round in 0..20u32 {
        sub.subscribe("c").unwrap();
        matched += bus.publish("c", round).matched;
        sub.psubscribe("c*").unwrap();
        matched += bus.publish("c", round).matched;
        assert_books(&sub, matched as u64);
        if round % 3 == 0 {
            payloads(&sub);
        }
        sub.unsubscribe("c");
        matched += bus.publish("c", round).matched;
        sub.punsubscribe_all();
        matched += bus.publish("c", round).matched;
        assert_books(&sub, matched as u64);
    }
    assert_eq!(matched, 80);
    assert_eq!(bus.stats().matched, 80);
}

#[test]
fn high_water_is_the_largest_depth_seen_at_receives_and_overflow() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(4).subscribe("c").unwrap();
    assert_eq!(sub.info().high_water, 0);
    (0..3u32).for_each(|n| _ = bus.publish("c", n));
    payloads(&sub);
    assert_eq!(sub.info().high_water, 3);
    bus.publish("c", 1u32);
    payloads(&sub);
    assert_eq!(sub.info().high_water, 3);
    (0..9u32).for_each(|n| _ = bus.publish("c", n));
    assert_eq!(sub.info().high_water, 4);
    assert_eq!(sub.info().capacity, 4);
}

#[test]
fn channels_and_patterns_are_listed_in_the_order_subscribed() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscriber();
    let many: Vec<String> = (0..40).map(|n| format!("{}", (n * 17) % 40)).collect();
    for (at, name) in many.iter().enumerate() {
        sub.subscribe(name).unwrap();
        sub.psubscribe(name.as_str()).unwrap();
        // Subscribed again, it keeps its place.
        sub.subscribe(&many[0]).unwrap();
        assert_eq!(sub.channels().len(), at + 1);
    }
    let held = |sub: &Subscriber<u32>| -> (Vec<String>, Vec<String>) {
        (
            sub.channels().iter().map(|name| name.to_string()).collect(),
            sub.patterns().iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        )
    };
    assert_eq!(held(&sub), (many.clone(), many.clone()));
    assert_eq!(held(&sub.resubscribe().unwrap()), (many.clone(), many.clone()));
    sub.unsubscribe(&many[3]);
    sub.punsubscribe(many[0].as_str());
    sub.subscribe(&many[3]).unwrap();
    let mut channels = many.clone();
    channels.remove(3);
    channels.push(many[3].clone());
    assert_eq!(held(&sub), (channels, many[1..].to_vec()));
    assert_eq!((sub.info().channels, sub.info().patterns), (40, 39));
}

// ---- closed -------------------------------------------------------------------------------------

#[test]
fn a_closed_bus_keeps_its_counters_and_lists_nothing() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("c");
    let sub = labelled(&bus, "ended").capacity(2).subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    bus.publish("c", 1u32);
    bus.publish("c", 2u32);
    sub.recv_message().unwrap();
    bus.close();

    assert!(bus.channels().is_empty());
    assert!(bus.channels_matching("*").is_empty());
    assert_eq!((bus.subscriber_count("c"), topic.subscriber_count()), (0, 0));
    assert_eq!((bus.match_count("c"), topic.match_count(), bus.match_count("cc")), (0, 0, 0));
    assert_eq!(bus.pattern_count(), 0);
    assert!(bus.subscribers().is_empty());
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    assert_eq!(figures(&bus), [2, 4, 4, 0, 2]);
    bus.publish("c", 3u32);
    topic.publish(3u32);
    assert_eq!(figures(&bus), [4, 4, 4, 0, 2], "these matched nothing, and are counted");

    let info = sub.info();
    assert_eq!(info.label.as_deref(), Some("ended"));
    assert_eq!((info.channels, info.patterns), (0, 0));
    assert_eq!((info.depth, info.capacity, info.received, info.missed), (1, 2, 1, 2));
    assert_eq!(sub.close_reason(), Some(CloseReason::Bus));
    assert!(sub.channels().is_empty() && sub.patterns().is_empty());
    payloads(&sub);
    assert_books(&sub, 4);
    assert_eq!((sub.missed(), sub.capacity(), sub.label()), (2, 2, Some("ended")));
}

#[test]
fn a_disconnected_subscriber_keeps_its_books_and_holds_nothing() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).capacity(2).overflow(Overflow::Disconnect).subscribe("c").unwrap();
    sub.psubscribe("c*").unwrap();
    bus.publish("c", 1u32);
    // The inbox is full: both messages of the second publish are refused, or the second of them no longer
    // matches.
    let receipt = bus.publish("c", 2u32);
    assert_eq!(receipt.delivered, 0);
    assert!(sub.is_closed());
    assert_eq!(sub.close_reason(), Some(CloseReason::Overflow));
    assert!(bus.subscribers().is_empty());
    assert_eq!(
        (bus.subscriber_count("c"), bus.pattern_count(), bus.stats().subscribers),
        (0, 0, 0)
    );
    assert_eq!(sub.missed(), receipt.dropped as u64);
    assert_books(&sub, 2 + receipt.matched as u64);
    assert_eq!(payloads(&sub), [1, 1]);
}

#[test]
fn debug_shows_names_and_labels_without_a_debug_payload() {
    struct Opaque;
    impl Clone for Opaque {
        fn clone(&self) -> Self {
            Self
        }
    }
    let bus: Bus<Opaque> = Bus::new();
    let sub = bus.subscriber_builder().label("visible").subscribe("c").unwrap();
    let listener = sub.spawn("listens", drop);
    let shown = [
        format!("{bus:?}"),
        format!("{:?}", bus.downgrade()),
        format!("{:?}", bus.topic("a channel")),
        format!("{sub:?}"),
        format!("{:?}", Bus::<Opaque>::builder()),
        format!("{:?}", bus.subscriber_builder()),
        format!("{listener:?}"),
    ];
    assert!(shown.iter().all(|text| !text.is_empty()));
    assert!(shown[2].contains("a channel"), "{}", shown[2]);
    assert!(shown[3].contains("visible"), "{}", shown[3]);
    bus.close();
    listener.join().unwrap();
}

#[test]
fn listed_names_share_one_allocation() {
    let bus: Bus<u32> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    let (listed, held): (Arc<str>, Arc<str>) =
        (bus.channels()[0].clone(), sub.channels()[0].clone());
    assert!(Arc::ptr_eq(&listed, &held));
}

#[test]
fn stats_distinguish_received_messages_from_discarded_ones() {
    let bus: Bus<u32> = Bus::builder().capacity(4).build();
    let figures = || {
        let stats = bus.stats();
        (stats.received, stats.evicted, stats.discarded)
    };
    // One subscriber reads three messages and leaves four unread; one reads nothing; one reads everything.
    let [leaves, reads_nothing, reads_all] = [(); 3].map(|()| silent(&bus).subscribe("c").unwrap());
    for n in 0..8u32 {
        bus.publish("c", n);
        reads_all.try_recv_message().unwrap();
        if n < 3 {
            leaves.try_recv_message().unwrap();
        }
    }
    assert_eq!(figures(), (3 + 8, 1 + 4, 0));
    drop(leaves);
    assert_eq!(figures(), (3 + 8, 1 + 4, 4));
    drop(reads_all);
    assert_eq!(figures(), (3 + 8, 1 + 4, 4));
    reads_nothing.unsubscribe("c");
    drop(reads_nothing);
    assert_eq!(figures(), (3 + 8, 1 + 4, 4 + 4));
    bus.close();
    assert_eq!(figures(), (3 + 8, 1 + 4, 4 + 4));
}

#[test]
fn the_figures_of_a_topic_are_the_sum_of_the_receipts_of_its_channel() {
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    let topic = bus.topic("a");
    let evicts = bus.psubscribe("*").unwrap();
    let refuses = bus.subscriber_builder().overflow(Overflow::DropNewest).subscribe("a").unwrap();
    let mut sum = Receipt::default();
    for n in 0..3u32 {
        let receipt = if n == 1 { bus.publish("a", n) } else { topic.publish(n) };
        sum.matched += receipt.matched;
        sum.delivered += receipt.delivered;
        sum.dropped += receipt.dropped;
    }
    bus.publish("b", 9u32);
    let stats = topic.stats();
    assert_eq!((stats.published, stats.subscribers), (3, 1));
    assert_eq!((stats.matched, stats.delivered, stats.dropped), (6, 4, 2));
    assert_eq!((sum.matched, sum.delivered, sum.dropped), (6, 4, 2));
    // The third eviction is that of `b`.
    assert_eq!((stats.evicted, evicts.missed(), refuses.missed()), (2, 3, 2));
}

#[test]
fn a_closed_bus_looks_empty_in_debug_output_too() {
    let bus: Bus<u32> = Bus::new();
    let _sub = bus.psubscribe("*").unwrap();
    assert!(format!("{bus:?}").contains("closed: false, channels: 0, patterns: 1, subscribers: 1"));
    bus.close();
    assert!(format!("{bus:?}").contains("closed: true, channels: 0, patterns: 0, subscribers: 0"));
}

#[test]
fn receipts_can_be_summed() {
    let bus: Bus<u32> = Bus::new();
    let _sub = bus.subscribe("a").unwrap();
    let sum: Receipt = ["a", "b", "a"].into_iter().map(|channel| bus.publish(channel, 1_u32)).sum();
    assert_eq!(sum, bus.publish("a", 1_u32) + bus.publish("a", 1_u32));
    assert_eq!(sum.delivered, 2);
}
