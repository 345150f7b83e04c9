//! Nothing stays that nobody holds: channels, names, topics, patterns, subscribers and whole buses come and go
//! by the million without growth, and their memory is freed.
//!
//! Counts are asserted exactly. Memory is the process's resident set, if the system reports it: each test
//! repeats its round until that has settled, and then asserts that it grows no further.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use fanout::{Bus, Overflow, Pattern, Receipt};
use support::{Census, Tracked, payloads, silent};

/// A million, or a fifth of that in a build without optimisation, which takes a few seconds.
const MILLION: usize = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };

const MIB: usize = 1 << 20;

/// Growth that is not a leak: the allocator keeps some memory.
const SLACK: usize = 6 * MIB;

/// Runs one test at a time, because they measure the memory of the process that they share.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the resident memory of this process in bytes, if the system reports it.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

/// Returns by how many bytes the resident memory has grown since `before`.
fn growth(before: Option<usize>) -> usize {
    before.zip(resident()).map_or(0, |(before, now)| now.saturating_sub(before))
}

/// Runs `round` eight times with parts of `total`, and asserts that the last five need no more memory than the
/// first three have left behind.
#[track_caller]
fn assert_no_growth(total: usize, mut round: impl FnMut(std::ops::Range<usize>)) {
    const ROUNDS: usize = 8;
    let size = total.div_ceil(ROUNDS);
    let mut settled = None;
    for n in 0..ROUNDS {
        if n == 3 {
            settled = resident();
        }
        round(n * size..(n + 1) * size);
    }
    let growth = growth(settled);
    assert!(growth < SLACK, "{} KiB more after {} more", growth >> 10, 5 * size);
}

#[track_caller]
fn assert_empty<P: Clone + Send + 'static>(bus: &Bus<P>) {
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    assert!(bus.channels().is_empty());
    assert_eq!(bus.pattern_count(), 0);
    assert!(bus.subscribers().is_empty());
}

/// A measurement that misses growth would pass every test below.
#[test]
fn the_measurement_detects_growth() {
    let _alone = alone();
    let before = resident();
    let held: Vec<String> = (0..MILLION).map(|n| format!("channel number {n} of many")).collect();
    if before.is_some() {
        assert!(growth(before) > SLACK, "held memory was not seen");
    }
    assert_eq!(held.len(), MILLION);
}

#[test]
fn a_million_channels_come_and_go_without_growth() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    assert_no_growth(MILLION, |numbers| {
        for n in numbers {
            let name = format!("user:{n}:notifications");
            let sub = silent(&bus).subscribe(&name).unwrap();
            if n % 8 == 0 {
                assert_eq!(bus.publish(&name, 1u32).delivered, 1);
            }
            drop(sub);
            if n % 1_024 == 0 {
                assert_eq!(bus.publish(&name, 1u32), Receipt::default());
            }
        }
        assert_empty(&bus);
    });
    let published = bus.stats().published as usize;
    assert_eq!(
        published,
        MILLION / 8 + MILLION.div_ceil(1_024),
        "what pruned channels had counted is kept"
    );
}

#[test]
fn channels_of_many_subscribers_come_and_go_without_growth() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    assert_no_growth(MILLION / 2, |numbers| {
        for batch in numbers.collect::<Vec<_>>().chunks(5_000) {
            let mut subs: Vec<_> = batch
                .iter()
                .map(|n| {
                    let sub = silent(&bus).subscribe(format!("c{n}")).unwrap();
                    sub.subscribe("shared").unwrap();
                    sub
                })
                .collect();
            assert_eq!(bus.subscriber_count("shared"), batch.len());
            assert_eq!(bus.stats().channels, batch.len() + 1);
            // In another order than they were made.
            let mut step = 0;
            while !subs.is_empty() {
                step += 7_919;
                let at = step % subs.len();
                drop(subs.swap_remove(at));
            }
        }
        assert_empty(&bus);
    });
}

#[test]
fn channels_of_one_lasting_subscriber_come_and_go_without_growth() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::new();
    // With lifecycle events, which are read.
    let sub = bus.subscriber();
    assert_no_growth(MILLION, |numbers| {
        for n in numbers {
            let name = format!("c{n}");
            sub.subscribe(&name).unwrap();
            if n % 2 == 0 {
                sub.unsubscribe(&name);
            }
            if n % 1_000 == 999 {
                assert_eq!(sub.channels().len(), 500);
                sub.unsubscribe_all();
                assert_eq!(sub.try_iter().count(), 2_000);
            }
        }
        sub.unsubscribe_all();
        sub.try_iter().for_each(drop);
        assert_eq!((bus.stats().channels, sub.info().channels), (0, 0));
    });
}

/// Names published to recently are remembered, up to 2 MiB of them.
#[test]
fn a_million_names_published_once_each_take_bounded_memory() {
    let _alone = alone();
    for (what, names, with_patterns) in
        [("no patterns", MILLION, false), ("patterns that match", MILLION / 2, true)]
    {
        let before = resident();
        let bus: Bus<u32> = Bus::builder().capacity(1).build();
        let subs: Vec<_> = (0..if with_patterns { 4 } else { 0 })
            .map(|n| silent(&bus).psubscribe(format!("session*{}", "*".repeat(n))).unwrap())
            .collect();
        // Without a bound, they would take several times as much.
        let tail = "x".repeat(400);
        for n in 0..names {
            assert_eq!(bus.publish(&format!("session:{n}:{tail}"), 1u32).matched, subs.len());
        }
        assert_empty_but_for(&bus, subs.len());
        assert_eq!(bus.stats().published as usize, names);
        let bound = 2 * MIB + 6 * MIB;
        let grown = growth(before);
        assert!(grown < bound, "{what}: {} KiB for names that nobody holds", grown >> 10);
        // Twice as many names take no more.
        let before = resident();
        for n in 0..names {
            bus.publish(&format!("other:{n}:{tail}"), 1u32);
        }
        let grown = growth(before);
        assert!(grown < SLACK, "{what}: {} KiB more for as many again", grown >> 10);
        // Long names, of which hardly any fit.
        let before = resident();
        for n in 0..100 {
            bus.publish(&format!("long:{n}:{}", "x".repeat(MIB)), 1u32);
        }
        let grown = growth(before);
        assert!(grown < 2 * SLACK, "{what}: {} KiB more for long ones", grown >> 10);
        assert_eq!(bus.stats().published as usize, 2 * names + 100);
    }
}

#[track_caller]
fn assert_empty_but_for(bus: &Bus<u32>, patterns: usize) {
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, patterns, patterns));
}

#[test]
fn counting_matches_of_a_million_names_remembers_none() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::new();
    let _sub = silent(&bus).psubscribe("c*").unwrap();
    let before = resident();
    let tail = "x".repeat(200);
    for n in 0..MILLION {
        let name = format!("c{n}:{tail}");
        assert_eq!((bus.match_count(&name), bus.subscriber_count(&name)), (1, 0));
    }
    let grown = growth(before);
    assert!(grown < SLACK, "{} KiB more", grown >> 10);
}

#[test]
fn a_million_topics_come_and_go_without_growth() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::new();
    assert_no_growth(MILLION, |numbers| {
        for batch in numbers.collect::<Vec<_>>().chunks(1_000) {
            let topics: Vec<_> = batch.iter().map(|n| bus.topic(&format!("t{n}"))).collect();
            for topic in &topics {
                assert_eq!(topic.publish(1u32), Receipt::default());
            }
            let copies = topics.clone();
            drop(topics);
            drop(copies);
        }
        assert_empty(&bus);
    });
    assert_eq!(bus.stats().published as usize, MILLION);
}

#[test]
fn a_hundred_thousand_patterns_come_and_go_without_growth() {
    let _alone = alone();
    let total = if cfg!(debug_assertions) { 32_000 } else { 100_000 };
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    let shapes: &[fn(usize) -> Pattern] = &[
        |n| Pattern::redis(&format!("user:{n}:*")),
        |n| Pattern::redis(&format!("*:s{n}")),
        |n| Pattern::redis(&format!("*k{n}k*")),
        |n| Pattern::redis(&format!("[a-f]{n}?:*")),
        |n| Pattern::redis(&format!("plain{n}")),
        #[cfg(feature = "glob")]
        |n| Pattern::glob(&format!("{{a,b}}/{n}/**")).unwrap(),
    ];
    assert_no_growth(total, |numbers| {
        for batch in numbers.collect::<Vec<_>>().chunks(2_000) {
            let subs: Vec<_> = batch
                .iter()
                .map(|&n| silent(&bus).psubscribe(shapes[n % shapes.len()](n)).unwrap())
                .collect();
            assert_eq!(bus.pattern_count(), batch.len());
            assert!(bus.publish(&format!("user:{}:x", batch[0]), 1u32).matched <= 1);
            drop(subs);
            assert_empty(&bus);
        }
    });
    assert_eq!(bus.match_count("user:1:x"), 0);
}

#[test]
fn patterns_of_one_lasting_subscriber_come_and_go_without_growth_under_hot_channels() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    let topics: Vec<_> = (0..50).map(|n| bus.topic(&format!("hot:{n}"))).collect();
    let sub = silent(&bus).build();
    assert_no_growth(40_000, |numbers| {
        for n in numbers {
            let pattern = format!("hot:*{}", "*".repeat(1 + n % 50));
            sub.psubscribe(pattern.as_str()).unwrap();
            assert_eq!(topics[n % 50].publish(1u32).matched, 1);
            assert_eq!(topics[(n + 1) % 50].match_count(), 1);
            sub.punsubscribe(pattern);
        }
        assert_eq!(bus.pattern_count(), 0);
    });
}

/// A hot channel caches its route, which must not keep the inboxes of former subscribers.
#[test]
fn cached_routes_do_not_keep_the_inboxes_of_former_subscribers() {
    let _alone = alone();
    let census = Census::new();
    let bus: Bus<Tracked> = Bus::new();
    let hot: Vec<_> = (0..4).map(|n| bus.topic(&format!("hot:{n}"))).collect();
    let stays = silent(&bus).capacity(1).psubscribe("hot:*").unwrap();
    // An inbox of a megabyte, of which every byte is touched when it is made.
    let capacity = MIB / 32;
    assert_no_growth(800, |numbers| {
        for n in numbers {
            let big = || silent(&bus).capacity(capacity);
            let leaving = match n % 4 {
                0 => big().psubscribe("hot:*").unwrap(),
                1 => big().psubscribe(format!("hot:*{}", "*".repeat(n))).unwrap(),
                2 => big().subscribe("hot:1").unwrap(),
                _ => {
                    let sub = big().psubscribe("h*").unwrap();
                    sub.psubscribe("*:1").unwrap();
                    sub.subscribe("hot:1").unwrap();
                    sub
                }
            };
            for topic in &hot {
                topic.publish(census.payload(n as u64));
                bus.publish("hot:named", census.payload(n as u64));
            }
            assert!(!leaving.is_empty());
            assert!(census.live() > 1);
            match n % 3 {
                0 => drop(leaving),
                1 => {
                    leaving.close();
                    drop(leaving);
                }
                _ => {
                    leaving.punsubscribe_all();
                    leaving.unsubscribe_all();
                    drop(leaving);
                }
            }
            // At once, without a further publish, only the message that `stays` holds is left.
            assert_eq!(census.live(), 1);
        }
    });
    payloads(&stays);
    assert_eq!(census.live(), 0);
}

#[test]
fn clones_closed_subscribers_and_listeners_leave_nothing_behind() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::builder().capacity(64).build();
    assert_no_growth(8_000, |numbers| {
        for n in numbers {
            let sub = bus.subscribe("c").unwrap();
            sub.psubscribe("c*").unwrap();
            let copy = sub.clone();
            bus.publish("c", 1u32);
            match n % 4 {
                0 => sub.close(),
                1 => drop(sub.resubscribe().unwrap()),
                2 => {
                    let listener = sub.spawn("short", drop);
                    listener.stop();
                    listener.join().unwrap();
                }
                _ => {
                    let full = Overflow::Disconnect;
                    let ends = bus.subscriber_builder().capacity(1).overflow(full);
                    let ends = ends.subscribe("c").unwrap();
                    bus.publish("c", 1u32);
                    bus.publish("c", 1u32);
                    assert!(ends.is_closed());
                }
            }
            drop(copy);
        }
        assert_empty(&bus);
    });
}

#[test]
fn threads_that_publish_once_leave_nothing_behind() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::builder().capacity(1).build();
    let _subs = [silent(&bus).psubscribe("c*").unwrap(), silent(&bus).subscribe("c").unwrap()];
    assert_no_growth(2_400, |numbers| {
        for _ in numbers {
            // Full inboxes and patterns make the thread use all of its buffers.
            thread::scope(|scope| {
                _ = scope.spawn(|| assert_eq!(bus.publish("c", 1u32).delivered, 2))
            });
        }
    });
}

/// A thread keeps the memory of the wakers that it has put off, some 64 bytes, until it ends.
#[cfg(feature = "async")]
#[test]
fn threads_that_wake_one_task_leave_nothing_behind() {
    let _alone = alone();
    let bus: Bus<u32> = Bus::new();
    let mut stream = silent(&bus).subscribe("c").unwrap().into_message_stream();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert_no_growth(200_000, |numbers| {
        for _ in numbers {
            assert!(stream.poll_recv(&mut context).is_pending());
            thread::scope(|scope| {
                _ = scope.spawn(|| assert_eq!(bus.publish("c", 1_u32).delivered, 1))
            });
            assert!(stream.poll_recv(&mut context).is_ready());
        }
    });
}

/// Whole buses end in every possible way; no reference cycle keeps one alive.
#[test]
fn buses_come_and_go_without_growth() {
    let _alone = alone();
    let census = Census::new();
    assert_no_growth(if cfg!(debug_assertions) { 4_000 } else { 16_000 }, |numbers| {
        for n in numbers {
            let bus: Bus<Tracked> = Bus::builder().stripes(8).build();
            let sub = bus.subscribe("c").unwrap();
            sub.psubscribe("c*").unwrap();
            let other = bus.subscribe("other").unwrap();
            let topic = bus.topic("c");
            let weak = bus.downgrade();
            topic.publish(census.payload(1));
            bus.publish("name", census.payload(2));
            bus.publish("cc", census.payload(3));
            match n % 5 {
                0 => drop(bus),
                1 => bus.close(),
                2 => {
                    drop((sub, other));
                    drop(bus);
                    drop(topic);
                    assert!(weak.upgrade().is_none());
                    continue;
                }
                3 => {
                    drop(topic);
                    bus.close();
                    drop(bus);
                    drop(sub);
                    drop(other.clone());
                    continue;
                }
                _ => {
                    let held = weak.upgrade().unwrap();
                    let listener = sub.spawn("last", move |_| _ = held.stats());
                    listener.stop();
                    drop(bus);
                    drop(topic);
                    listener.join().unwrap();
                }
            }
        }
        assert_eq!(census.live(), 0);
    });
}

/// Names larger than a stripe's memory of recent names do not stay, in whichever way they were published to.
#[test]
fn names_too_long_to_be_remembered_leave_nothing_behind() {
    let _alone = alone();
    let tail = "x".repeat(20_000);
    let names = |round: usize| (0..2_000).map(move |n| (round, n));
    type Publish = fn(&Bus<u32>, &str);
    let ways: [(&str, Publish); 4] = [
        ("publish", |bus, name| _ = bus.publish(name, 1u32)),
        ("publish_with", |bus, name| _ = bus.publish_with(name, || 1)),
        ("try_publish_with", |bus, name| _ = bus.try_publish_with(name, || Err(()))),
        ("a closure that panics", |bus, name| {
            let quietly = std::panic::AssertUnwindSafe(|| {
                bus.publish_with(name, || std::panic::resume_unwind(Box::new(())));
            });
            _ = std::panic::catch_unwind(quietly);
        }),
    ];
    for with_pattern in [false, true] {
        for (what, publish) in ways {
            let bus: Bus<u32> = Bus::builder().capacity(1).build();
            let _sub = with_pattern.then(|| silent(&bus).psubscribe("*").unwrap());
            let mut before = None;
            for round in 0..3 {
                for (round, n) in names(round) {
                    publish(&bus, &format!("{round}:{n}:{tail}"));
                }
                // The first round lets the allocator reach its size.
                before = before.or_else(|| Some(resident()));
            }
            let grown = growth(before.unwrap());
            assert!(grown < 8 * MIB, "{what}: {} KiB for names that nobody holds", grown >> 10);
        }
    }
}
