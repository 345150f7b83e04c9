//! A publish makes no heap allocation in the steady state, whatever the fan-out, overflow included (4.9).
//!
//! A global allocator counts what the publishing thread allocates. Payloads are `Arc`s made beforehand. Every
//! publish is repeated before it is counted, so that buffers have reached their size. The first publish to a
//! name may allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use fanout::{Bus, Overflow, Receipt, Subscriber};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // The thread's own storage may be gone while it ends.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed on to the system's allocator as it came; counting touches no memory that it
// manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the number of allocations of this thread while `work` runs.
fn allocations<T>(work: impl FnOnce() -> T) -> u64 {
    let before = COUNT.get();
    std::hint::black_box(work());
    COUNT.get() - before
}

type Payload = Arc<[u8]>;

/// A bus with a number of subscribers of one policy, all with the same subscriptions.
struct Scene {
    bus: Bus<Payload>,
    subs: Vec<Subscriber<Payload>>,
    payload: Payload,
}

impl Scene {
    fn new(
        inboxes: usize,
        overflow: Overflow,
        dedupe: bool,
        subscribe: impl Fn(&Subscriber<Payload>),
    ) -> Self {
        let bus: Bus<Payload> = Bus::new();
        let subs = (0..inboxes)
            .map(|_| {
                let builder = bus.subscriber_builder().capacity(8).overflow(overflow);
                let sub = builder.lifecycle_events(false).dedupe(dedupe).build();
                subscribe(&sub);
                sub
            })
            .collect();
        Self { bus, subs, payload: Arc::from(&b"payload"[..]) }
    }

    fn drain(&self) {
        for sub in &self.subs {
            while sub.try_recv().is_ok() {}
        }
    }

    /// Returns the allocations of 100 publishes by name and of 100 through a topic. Inboxes are drained after
    /// each if `drained`.
    fn publishes(&self, drained: bool) -> [u64; 2] {
        let topic = self.bus.topic("game:7:events");
        let by_name = || self.bus.publish("game:7:events", Arc::clone(&self.payload));
        let by_topic = || topic.publish(Arc::clone(&self.payload));
        [&by_name as &dyn Fn() -> Receipt, &by_topic].map(|publish| {
            let round = || {
                let count = allocations(publish);
                if drained {
                    self.drain();
                }
                count
            };
            (0..20).for_each(|_| _ = round());
            (0..100).map(|_| round()).sum()
        })
    }
}

type Subscribe = fn(&Subscriber<Payload>);

const EXACT: Subscribe = |sub| _ = sub.subscribe("game:7:events").unwrap();
const PATTERN: Subscribe = |sub| _ = sub.psubscribe("game:*:events").unwrap();
const PATTERNS: Subscribe = |sub| {
    sub.psubscribe_many(["game:*", "*:events", "game:[0-9]:*", "*"]).unwrap();
    #[cfg(feature = "glob")]
    sub.psubscribe(fanout::Pattern::glob("{game,user}*").unwrap()).unwrap();
};
const MIXED: Subscribe = |sub| {
    EXACT(sub);
    PATTERN(sub);
    PATTERNS(sub);
};

const WAYS: [(&str, Subscribe); 4] =
    [("exact", EXACT), ("pattern", PATTERN), ("patterns", PATTERNS), ("mixed", MIXED)];

#[test]
fn the_counter_counts_allocations() {
    assert_eq!(allocations(|| Box::new(1)), 1);
    let mut grown = Vec::with_capacity(1);
    assert_eq!(allocations(|| grown.extend([1, 2, 3])), 1);
    assert_eq!(allocations(|| ()), 0);
    // The engine's allocations are counted, too: a name never published to gets an entry.
    let scene = Scene::new(1, Overflow::DropOldest, false, PATTERN);
    let publish = || scene.bus.publish("game:1:events", Arc::clone(&scene.payload));
    assert!(allocations(publish) > 0);
    // A name that was published to recently has one.
    assert_eq!(allocations(publish), 0);
}

#[test]
fn publishing_to_inboxes_with_room_does_not_allocate() {
    for (what, subscribe) in WAYS {
        for inboxes in [1, 1_000] {
            for dedupe in [false, true] {
                let scene = Scene::new(inboxes, Overflow::DropOldest, dedupe, subscribe);
                let counts = scene.publishes(true);
                assert_eq!(counts, [0, 0], "{what}, {inboxes} inboxes, dedupe {dedupe}");
            }
        }
    }
}

#[test]
fn publishing_to_full_inboxes_does_not_allocate() {
    let at_once = Overflow::Block { timeout: Some(std::time::Duration::ZERO) };
    for (what, subscribe) in WAYS {
        for inboxes in [1, 1_000] {
            for overflow in [Overflow::DropOldest, Overflow::DropNewest, Overflow::Conflate] {
                let scene = Scene::new(inboxes, overflow, false, subscribe);
                let counts = scene.publishes(false);
                let info = scene.subs[0].info();
                assert!(info.missed + info.conflated > 0);
                assert_eq!(counts, [0, 0], "{what}, {inboxes} inboxes, {overflow:?}");
            }
            // Waiting may allocate; publishing to an inbox with room may not.
            let scene = Scene::new(inboxes, at_once, false, subscribe);
            assert_eq!(scene.publishes(true), [0, 0], "{what}, {inboxes} inboxes, {at_once:?}");
        }
    }
}

/// Channels come and go in the inbox, more than it holds: each publish evicts one.
#[test]
fn publishing_to_conflating_inboxes_of_many_channels_does_not_allocate() {
    for capacity in [1, 28, 56, 300] {
        let bus: Bus<Payload> = Bus::new();
        let builder = bus.subscriber_builder().capacity(capacity).overflow(Overflow::Conflate);
        let sub = builder.lifecycle_events(false).psubscribe("*").unwrap();
        let payload: Payload = Arc::from(&b"payload"[..]);
        let topics: Vec<_> =
            (0..3 * capacity + 10).map(|n| bus.topic(&format!("game:{n}"))).collect();
        topics.iter().for_each(|topic| _ = topic.publish(Arc::clone(&payload)));
        let before = sub.missed();
        for round in 0..40 {
            for topic in &topics {
                let count = allocations(|| topic.publish(Arc::clone(&payload)));
                assert_eq!(count, 0, "capacity {capacity}, round {round}");
            }
            sub.try_messages().take(round * capacity / 40).for_each(drop);
        }
        assert!(sub.missed() > before);
    }
}

/// Unsubscribing everywhere may allocate for a glob, whose trie it changes, but not for a channel or a Redis
/// pattern.
#[test]
fn disconnecting_a_full_inbox_seldom_allocates() {
    for (what, subscribe) in [WAYS[0], WAYS[1]] {
        let scene = Scene::new(40, Overflow::Disconnect, false, subscribe);
        let publish = || scene.bus.publish("game:7:events", Arc::clone(&scene.payload));
        // One subscriber after another is not drained until it is disconnected; the others are.
        let mut counts = Vec::new();
        for (at, slow) in scene.subs.iter().enumerate() {
            while !slow.is_closed() {
                counts.push(allocations(publish));
                scene.subs[at + 1..].iter().for_each(|sub| while sub.try_recv().is_ok() {});
            }
        }
        // A list that many have left is shrunk now and then, which allocates.
        let warm = &counts[counts.len() / 4..];
        let some = warm.iter().filter(|&&count| count > 0).count();
        assert!(some <= 8 && warm.iter().sum::<u64>() <= 80, "{what}: {counts:?}");
    }
}

#[test]
fn publishing_where_nobody_listens_does_not_allocate() {
    let scene = Scene::new(1, Overflow::DropOldest, false, |sub| {
        sub.subscribe("elsewhere").unwrap();
    });
    assert_eq!(scene.publishes(true), [0, 0]);
    // Subscriptions of other names come and go.
    let other = scene.bus.subscriber_builder().lifecycle_events(false).build();
    let publish = || scene.bus.publish("game:7:events", Arc::clone(&scene.payload));
    publish();
    for i in 0..100 {
        other.subscribe(format!("user:{i}")).unwrap();
        other.psubscribe(format!("zz:{i}:*")).unwrap();
        other.unsubscribe(format!("user:{i}"));
        assert_eq!(allocations(publish), 0);
    }
}

/// A new pattern that begins like the channel, but does not match it, must not invalidate the channel's route.
#[test]
fn subscribing_a_similar_pattern_that_does_not_match_costs_no_allocation() {
    for (what, subscribe) in WAYS {
        let scene = Scene::new(2, Overflow::DropOldest, false, subscribe);
        let other = scene.bus.subscriber_builder().lifecycle_events(false).build();
        let topic = scene.bus.topic("game:7:events");
        let publish = || topic.publish(Arc::clone(&scene.payload));
        scene.publishes(true);
        for i in 0..100 {
            other.psubscribe(format!("game:*:x{i}")).unwrap();
            assert_eq!(allocations(publish), 0, "{what}");
            scene.drain();
        }
    }
}

/// A name that was published to once keeps its route, even where finding that takes a walk through many stars.
#[test]
fn subscribing_an_unrelated_pattern_costs_no_allocation_where_many_may_match() {
    let scene = Scene::new(1, Overflow::DropOldest, false, |sub| {
        sub.psubscribe_many(('a'..='z').map(|letter| format!("*{letter}*1"))).unwrap();
        sub.psubscribe_many(('a'..='z').map(|letter| format!("*{letter}*2*"))).unwrap();
    });
    let other = scene.bus.subscriber_builder().lifecycle_events(false).build();
    let name = "abcdefghijklmnopqrstuvwxyz";
    let topic = scene.bus.topic("zyxwvutsrqponmlkjihgfedcba");
    let publish = || scene.bus.publish(name, Arc::clone(&scene.payload));
    let by_topic = || topic.publish(Arc::clone(&scene.payload));
    // Not 4 and 7: patterns that begin with these share a row of counters with one of the names, and in one of
    // some dozens of runs the counter itself.
    for i in [0, 1, 2, 3, 5, 6, 8, 9] {
        publish();
        by_topic();
        other.psubscribe(format!("{i}unrelated:*")).unwrap();
        assert_eq!((allocations(publish), allocations(by_topic)), (0, 0));
    }
}

/// Names in use keep their entries, however many other names are published to once, and however many patterns
/// match those.
#[test]
fn names_in_use_stay_remembered_amid_names_published_once() {
    for patterns in [1, 10, 16, 64] {
        let bus: Bus<Payload> = Bus::new();
        let sub = bus.subscriber_builder().capacity(1_000).lifecycle_events(false).build();
        sub.psubscribe("game:*").unwrap();
        sub.psubscribe_many((0..patterns).map(|i| format!("once*{}", "*".repeat(i)))).unwrap();
        let payload: Payload = Arc::from(&b"payload"[..]);
        let names: Vec<String> = (0..1_000).map(|i| format!("game:{i}:events")).collect();
        // Each name twice in a row: some thousand names in use fit into the memory of recent names.
        for name in names.iter().flat_map(|name| [name, name]) {
            bus.publish(name, Arc::clone(&payload));
            sub.try_iter().for_each(drop);
        }
        for i in 0..50_000 {
            bus.publish(&format!("once:{i}"), Arc::clone(&payload));
        }
        let publish = || names.iter().for_each(|name| _ = bus.publish(name, Arc::clone(&payload)));
        assert_eq!(allocations(publish), 0, "{patterns} patterns");
    }
}

/// A name that is published to again displaces others without an allocation.
#[test]
fn the_second_publish_to_a_name_does_not_allocate() {
    let bus: Bus<Payload> = Bus::builder().stripes(1).build();
    let payload: Payload = Arc::from(&b"payload"[..]);
    let mut second = 0;
    for round in 0..200 {
        // A name that takes all of the memory displaces the others at once.
        let long = "n".repeat(if round % 20 == 19 { 1_400_000 } else { 1 });
        bus.publish(&format!("{round}{long}"), Arc::clone(&payload));
        for i in 0..50 {
            let name = format!("name:{round}:{i}");
            bus.publish(&name, Arc::clone(&payload));
            second += allocations(|| bus.publish(&name, Arc::clone(&payload)));
        }
    }
    assert_eq!(second, 0);
}

/// One pattern matches each name, and nobody reads meanwhile.
#[test]
fn the_second_publish_to_a_name_that_a_pattern_matches_does_not_allocate() {
    for stripes in [1, 4, 64] {
        let bus: Bus<Payload> = Bus::builder().stripes(stripes).build();
        let sub = bus.subscriber_builder().capacity(100_000).lifecycle_events(false).build();
        sub.psubscribe("name:*").unwrap();
        let payload: Payload = Arc::from(&b"payload"[..]);
        let publish = |name: &String| _ = bus.publish(name, Arc::clone(&payload));
        let mut second = 0;
        for round in 0..2_000 {
            // As many names as are remembered for any number of stripes, in varying order.
            let mut names: Vec<_> = (0..8).map(|i| format!("name:{round}:{i}")).collect();
            names.iter().for_each(publish);
            names.rotate_left(round % 8);
            second += names.iter().map(|name| allocations(|| publish(name))).sum::<u64>();
            // Names published once displace those that were remembered.
            (0..round % 30).for_each(|i| publish(&format!("name:{round}:once{i}")));
        }
        assert_eq!(second, 0, "{stripes} stripes");
        assert!(sub.len() > 30_000);
    }
}

/// Subscribers of other names share the stripe and its memory of recent names.
#[test]
fn names_stay_remembered_while_subscribers_come_and_go() {
    // Names that were published to earlier and never again must not push the recent ones out.
    for recipients in [1, 2] {
        let bus: Bus<u64> = Bus::builder().stripes(1).build();
        let monitor = || bus.subscriber_builder().capacity(4_096).lifecycle_events(false);
        let _monitors: Vec<_> =
            (0..recipients).map(|_| monitor().psubscribe("user:*").unwrap()).collect();
        (0..2_000_u64).for_each(|i| _ = bus.publish(&format!("user:early:{i}"), i));
        let names: Vec<String> = (0..30).map(|i| format!("user:{i}")).collect();
        names.iter().for_each(|name| _ = bus.publish(name, 1_u64));
        (0..12).for_each(|i| drop(bus.subscribe(format!("other:{i}")).unwrap()));
        for name in &names {
            assert_eq!(allocations(|| bus.publish(name, 2_u64)), 0, "{recipients} {name}");
        }
    }
}

#[test]
fn publishing_to_many_channels_does_not_allocate() {
    let bus: Bus<Payload> = Bus::new();
    let builder = bus.subscriber_builder().capacity(4).lifecycle_events(false);
    let mut names: Vec<String> = (0..100).map(|n| format!("user:{n}:notifications")).collect();
    let _subs: Vec<_> = names.iter().map(|name| builder.clone().subscribe(name).unwrap()).collect();
    let _monitor = builder.psubscribe("user:*").unwrap();
    // Some that only a pattern matches, and some that nobody listens to.
    names.extend((100..110).map(|n| format!("user:{n}:notifications")));
    names.extend((0..10).map(|n| format!("nobody:{n}")));
    let payload: Payload = Arc::from(&b"payload"[..]);
    // Until all inboxes are full, and then again.
    for round in 0..10 {
        let many = allocations(|| bus.publish_many(&names, Arc::clone(&payload)));
        let messages = names.iter().map(|name| (name, Arc::clone(&payload)));
        let each = allocations(|| bus.publish_each(messages));
        assert!(round < 2 || (many, each) == (0, 0), "{round}: {many}, {each}");
    }
}

/// Of users that are offline, to whom posts go again and again.
#[test]
fn names_that_nobody_listens_to_stay_remembered_while_publish_many_uses_them() {
    let bus: Bus<u64> = Bus::builder().stripes(1).build();
    let offline: Vec<String> = (0..50).map(|n| format!("user:{n}:notifications")).collect();
    (0..2).for_each(|_| _ = bus.publish_many(&offline, 1_u64));
    let mut forgotten = 0;
    for round in 0..200 {
        // Others come into use, and fill the memory several times.
        for name in (0..100).map(|n| format!("other:{round}:{n}")) {
            (0..2).for_each(|_| _ = bus.publish(&name, 1_u64));
        }
        forgotten += allocations(|| bus.publish_many(&offline, 1_u64));
    }
    // Once, when the memory is full for the first time, all names are equally in use.
    assert!(forgotten <= 2 * offline.len() as u64, "{forgotten}");
}

#[test]
fn names_are_remembered_with_any_number_of_stripes() {
    for stripes in [1, 64, 4_096, 1 << 20, usize::MAX] {
        let bus: Bus<Payload> = Bus::builder().stripes(stripes).build();
        let _sub = bus.psubscribe("*").unwrap();
        let payload: Payload = Arc::from(&b"payload"[..]);
        let publish = || bus.publish("game:7:events", Arc::clone(&payload));
        publish();
        assert_eq!(allocations(publish), 0, "{stripes} stripes");
    }
}

/// A task that waits for its message, gets it and waits again allocates nothing, and neither does who wakes it.
#[cfg(feature = "async")]
#[test]
fn a_delivery_to_a_waiting_task_does_not_allocate() {
    use std::task::{Context, Poll, Waker};

    for inboxes in [1, 10, 5_000] {
        let scene = Scene::new(inboxes, Overflow::DropOldest, false, |sub| {
            sub.subscribe("c").unwrap();
        });
        scene.subs.iter().for_each(|sub| sub.try_iter().for_each(drop));
        let mut streams: Vec<_> = scene.subs.iter().map(Subscriber::message_stream).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut deliver = || {
            for stream in &mut streams {
                while stream.poll_recv(&mut context).is_ready() {}
            }
            scene.bus.publish("c", Arc::clone(&scene.payload));
            for stream in &mut streams {
                // Twice: it may give way once.
                let mut is_ready =
                    || matches!(stream.poll_recv(&mut context), Poll::Ready(Some(_)));
                assert!(is_ready() || is_ready());
            }
        };
        (0..3).for_each(|_| deliver());
        assert_eq!(allocations(|| (0..10).for_each(|_| deliver())), 0, "{inboxes} inboxes");
    }
}
