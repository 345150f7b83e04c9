//! Publishing to many channels in one call: what as many single publishes do, and what becomes of the payload.

mod support;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "async")]
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
#[cfg(feature = "async")]
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use fanout::{Bus, Overflow, Receipt, Stats, Subscriber};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::{Hooked, cases, drain, eventually, panic_of, payloads, receipt, silent};

const CHANNELS: [&str; 6] = ["a", "b", "ab", "abc", "user:1:notifications:long:enough", "z"];
const PATTERNS: [&str; 5] = ["a*", "*", "?", "user:*", "[yz]"];

/// The ways to publish one payload to several channels.
#[derive(Clone, Copy)]
enum Way {
    Singly,
    Many,
    Each,
    #[cfg(feature = "async")]
    Async,
}

impl Way {
    fn publish(self, bus: &Bus<u32>, channels: &[&str], payload: u32) -> Receipt {
        match self {
            Self::Singly => {
                let mut sum = Receipt::default();
                channels.iter().for_each(|channel| sum += bus.publish(channel, payload));
                sum
            }
            Self::Many => bus.publish_many(channels, payload),
            Self::Each => bus.publish_each(channels.iter().map(|channel| (channel, payload))),
            #[cfg(feature = "async")]
            Self::Async => futures::executor::block_on(bus.publish_many_async(channels, payload)),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Subscribe(usize, &'static str),
    Unsubscribe(usize, &'static str),
    PSubscribe(usize, &'static str),
    PUnsubscribe(usize, &'static str),
    Publish(Vec<&'static str>),
    Read(usize),
    Close(usize),
}

/// Policies of the subscribers, of which there is one with `dedupe` and one without for each.
const POLICIES: [Overflow; 5] = [
    Overflow::DropOldest,
    Overflow::DropNewest,
    Overflow::Conflate,
    Overflow::Disconnect,
    // The last: a future would wait without end.
    Overflow::Block { timeout: Some(Duration::ZERO) },
];

fn op() -> impl Strategy<Value = Op> {
    let sub = 0..2 * POLICIES.len();
    prop_oneof![
        4 => (sub.clone(), select(&CHANNELS[..])).prop_map(|(sub, name)| Op::Subscribe(sub, name)),
        1 => (sub.clone(), select(&CHANNELS[..])).prop_map(|(sub, name)| Op::Unsubscribe(sub, name)),
        3 => (sub.clone(), select(&PATTERNS[..])).prop_map(|(sub, name)| Op::PSubscribe(sub, name)),
        1 => (sub.clone(), select(&PATTERNS[..])).prop_map(|(sub, name)| Op::PUnsubscribe(sub, name)),
        8 => vec(select(&CHANNELS[..]), 0..40).prop_map(Op::Publish),
        4 => sub.clone().prop_map(Op::Read),
        1 => sub.prop_map(Op::Close),
    ]
}

/// A bus with a subscriber for each policy, and all that has been seen on it.
struct World {
    way: Way,
    bus: Bus<u32>,
    subs: Vec<Subscriber<u32>>,
    published: u32,
    seen: Vec<String>,
}

impl World {
    fn new(way: Way, policies: usize) -> Self {
        let bus: Bus<u32> = Bus::new();
        let policies = POLICIES.iter().take(policies).cycle();
        let sub = |(at, &policy)| {
            let builder = bus.subscriber_builder().capacity(8).overflow(policy);
            builder.dedupe(at >= POLICIES.len()).build()
        };
        let subs = policies.take(2 * POLICIES.len()).enumerate().map(sub).collect();
        Self { way, bus, subs, published: 0, seen: Vec::new() }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Subscribe(sub, name) => _ = self.subs[*sub].subscribe(name),
            Op::Unsubscribe(sub, name) => _ = self.subs[*sub].unsubscribe(name),
            Op::PSubscribe(sub, name) => _ = self.subs[*sub].psubscribe(*name),
            Op::PUnsubscribe(sub, name) => _ = self.subs[*sub].punsubscribe(*name),
            Op::Publish(channels) => {
                self.published += 1;
                let receipt = self.way.publish(&self.bus, channels, self.published);
                self.seen.push(format!("{receipt:?}"));
            }
            Op::Read(sub) => {
                let events = drain(&self.subs[*sub]);
                self.seen.push(format!("{sub}: {events:?}"));
            }
            Op::Close(sub) => self.subs[*sub].close(),
        }
    }

    fn end(mut self) -> (Vec<String>, Stats) {
        (0..self.subs.len()).for_each(|sub| self.run(&Op::Read(sub)));
        (self.seen, self.bus.stats())
    }
}

fn history(way: Way, policies: usize, ops: &[Op]) -> (Vec<String>, Stats) {
    let mut world = World::new(way, policies);
    ops.iter().for_each(|op| world.run(op));
    world.end()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn one_call_does_what_as_many_single_publishes_do(ops in vec(op(), 0..60)) {
        let expected = history(Way::Singly, POLICIES.len(), &ops);
        prop_assert_eq!(&history(Way::Many, POLICIES.len(), &ops), &expected);
        prop_assert_eq!(&history(Way::Each, POLICIES.len(), &ops), &expected);
        #[cfg(feature = "async")]
        {
            let expected = history(Way::Singly, POLICIES.len() - 1, &ops);
            prop_assert_eq!(&history(Way::Async, POLICIES.len() - 1, &ops), &expected);
        }
    }
}

#[test]
fn names_never_seen_are_published_like_others() {
    for count in [0, 1, 15, 16, 17, 32, 33, 5_000] {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).capacity(2 * 5_000).build();
        sub.psubscribe("odd:*").unwrap();
        let names: Vec<String> = (0..count)
            .map(|n| format!("{}:{n}", if n % 2 == 0 { "even" } else { "odd" }))
            .collect();
        for round in 1..=2 {
            assert_eq!(bus.publish_many(&names, 7_u32), receipt(count / 2, 0));
            assert_eq!(bus.stats().published, (round * count) as u64);
        }
        let channels: Vec<_> =
            sub.try_messages().map(|message| message.channel().to_owned()).collect();
        let odd: Vec<_> = names.iter().filter(|name| name.starts_with("odd")).cloned().collect();
        assert_eq!(channels, [&odd[..], &odd[..]].concat());
    }
}

// ---- the payload --------------------------------------------------------------------------------

/// A payload that counts its clones.
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

#[test]
fn the_last_recipient_of_the_last_name_gets_the_payload_itself() {
    let bus: Bus<Counted> = Bus::new();
    let _subs: Vec<_> =
        (0..6).map(|n| bus.subscribe(format!("heard:{}", n / 2)).unwrap()).collect();
    let _monitor = bus.psubscribe("heard:*").unwrap();
    let heard = ["heard:0", "heard:1", "heard:2"];
    let unheard: Vec<String> = (0..100).map(|n| format!("unheard:{n}")).collect();
    let unheard: Vec<&str> = unheard.iter().map(String::as_str).collect();
    // Where nobody listens to the last name, the payload is kept until then: that costs one clone more.
    for (names, delivered, expected) in [
        (vec![], 0, 0),
        (unheard.clone(), 0, 0),
        (heard.to_vec(), 9, 8),
        ([&unheard[..], &heard].concat(), 9, 8),
        ([&heard[..], &unheard, &heard].concat(), 18, 17),
        ([&heard[..], &unheard].concat(), 9, 9),
        ([&heard[..1], &unheard].concat(), 3, 3),
    ] {
        let clones = Arc::new(AtomicUsize::new(0));
        let receipt = bus.publish_many(&names, Counted(Arc::clone(&clones)));
        assert_eq!(receipt.delivered, delivered);
        assert_eq!(clones.load(Ordering::SeqCst), expected, "{names:?}");
        #[cfg(feature = "async")]
        {
            use futures::future::FusedFuture;

            let clones = Arc::new(AtomicUsize::new(0));
            let publish = bus.publish_many_async(&names, Counted(Arc::clone(&clones)));
            let mut publish = std::pin::pin!(publish);
            assert!(!publish.is_terminated());
            assert_eq!(futures::executor::block_on(&mut publish).delivered, delivered);
            assert!(publish.is_terminated());
            assert_eq!(clones.load(Ordering::SeqCst), expected);
        }
    }
}

#[cfg(feature = "async")]
#[test]
fn a_future_that_has_completed_holds_no_payload() {
    let bus: Bus<Arc<()>> = Bus::new();
    let _sub = bus.subscribe("heard").unwrap();
    for (names, delivered) in [(vec![], 0), (vec!["unheard"], 0), (vec!["heard", "unheard"], 1)] {
        let payload = Arc::new(());
        let mut publish = pin!(bus.publish_many_async(names, Arc::clone(&payload)));
        assert_eq!(futures::executor::block_on(&mut publish).delivered, delivered);
        assert_eq!(Arc::strong_count(&payload), 1 + delivered);
    }
}

/// A number that counts its conversions into a payload.
struct Converting<'a>(u32, &'a Cell<u32>);

impl From<Converting<'_>> for u32 {
    fn from(Converting(number, converted): Converting<'_>) -> Self {
        converted.set(converted.get() + 1);
        number
    }
}

#[test]
fn a_payload_of_its_own_is_converted_only_if_somebody_listens() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("heard").unwrap();
    let converted = Cell::new(0);
    let names = ["heard", "unheard", "heard"];
    let messages = (0..90).map(|n| (names[n as usize % 3], Converting(n, &converted)));
    assert_eq!(bus.publish_each(messages), receipt(60, 0));
    assert_eq!(converted.get(), 60);
    let expected: Vec<u32> = (0..90).filter(|n| n % 3 != 1).collect();
    assert_eq!(payloads(&sub), expected);
}

// ---- when a name's turn comes -------------------------------------------------------------------

#[test]
fn at_most_17_names_are_taken_before_the_first_of_them_is_published() {
    type Publish = fn(&Bus<u32>, &mut dyn Iterator<Item = String>) -> Receipt;
    let ways: [Publish; 2] = [
        |bus, names| bus.publish_many(names, 1_u32),
        |bus, names| bus.publish_each(names.map(|name| (name, 1_u32))),
    ];
    #[cfg(feature = "async")]
    let ways = [ways[0], ways[1], |bus, names| {
        futures::executor::block_on(bus.publish_many_async(names, 1_u32))
    }];
    for (publish, heard) in ways.iter().flat_map(|way| (0..40).map(move |heard| (way, heard))) {
        let bus: Bus<u32> = Bus::new();
        let sub = silent(&bus).subscribe("heard").unwrap();
        let mut is_late = false;
        let mut names = (0..100).map(|n| {
            is_late |= n >= heard + 17 && sub.is_empty();
            if n == heard { "heard".to_owned() } else { format!("unheard:{n}") }
        });
        assert_eq!(publish(&bus, &mut names), receipt(1, 0));
        drop(names);
        assert!(!is_late, "number {heard}");
        assert_eq!(bus.stats().published, 100);
    }
}

/// A payload that subscribes to a channel when it is converted.
struct Subscribing<'a>(&'a Bus<u32>, &'a RefCell<Vec<Subscriber<u32>>>, u32);

impl From<Subscribing<'_>> for u32 {
    fn from(Subscribing(bus, subs, number): Subscribing<'_>) -> Self {
        subs.borrow_mut().push(silent(bus).subscribe(format!("c{}", number + 1)).unwrap());
        number
    }
}

#[test]
fn a_conversion_may_subscribe_to_the_next_channel() {
    let bus: Bus<u32> = Bus::new();
    let subs = RefCell::new(vec![silent(&bus).subscribe("c0").unwrap()]);
    let messages = (0..40).map(|n| (format!("c{n}"), Subscribing(&bus, &subs, n)));
    assert_eq!(bus.publish_each(messages), receipt(40, 0));
    for (n, sub) in (0..40).zip(&subs.take()) {
        assert_eq!(payloads(sub), [n]);
    }
}

/// The message that the publish to `a` evicts subscribes to `b` when it is dropped.
#[test]
fn a_payload_s_drop_may_subscribe_to_the_next_channel() {
    for names in [&["a", "b"][..], &["a", "b", "c"]] {
        let bus: Bus<Hooked> = Bus::new();
        let _full = silent(&bus).capacity(1).subscribe("a").unwrap();
        let late: Arc<Mutex<Option<Subscriber<Hooked>>>> = Arc::default();
        let (its_bus, its_late) = (bus.clone(), Arc::clone(&late));
        let subscribe = move || {
            *its_late.lock().unwrap() = Some(silent(&its_bus).subscribe("b").unwrap());
        };
        bus.publish("a", Hooked::on_drop(0, subscribe));
        assert_eq!(bus.publish_many(names, Hooked::plain(1)), receipt(2, 0));
        assert_eq!(payloads(late.lock().unwrap().as_ref().unwrap()).len(), 1);
    }
}

#[test]
fn a_payload_is_not_converted_for_a_subscriber_that_an_earlier_one_has_disconnected() {
    let bus: Bus<u32> = Bus::new();
    let full = silent(&bus).capacity(1).overflow(Overflow::Disconnect);
    let _sub = full.subscribe_many(["a", "b"]).unwrap();
    bus.publish("a", 0_u32);
    let converted = Cell::new(0);
    let messages = [("a", Converting(1, &converted)), ("b", Converting(2, &converted))];
    assert_eq!(bus.publish_each(messages), receipt(0, 1));
    assert_eq!(converted.get(), 1);
}

/// Returns a subscriber of `full` whose inbox is full, and for whose room publishers wait.
fn full(bus: &Bus<u32>) -> Subscriber<u32> {
    let builder = silent(bus).capacity(1).overflow(Overflow::Block { timeout: None });
    let sub = builder.subscribe("full").unwrap();
    bus.publish("full", 0_u32);
    sub
}

#[test]
fn who_subscribes_while_a_call_waits_for_room_gets_what_comes_after_that() {
    for way in [Way::Many, Way::Each] {
        support::watched(move || {
            let bus: Bus<u32> = Bus::new();
            let full = full(&bus);
            // It gets its message before the call waits.
            let witness = silent(&bus).subscribe("full").unwrap();
            let publisher = {
                let bus = bus.clone();
                thread::spawn(move || way.publish(&bus, &["full", "late", "never"], 1))
            };
            eventually("the first is published", || !witness.is_empty());
            let late = silent(&bus).subscribe("late").unwrap();
            assert_eq!(full.recv_message().unwrap().payload, 0);
            assert_eq!(publisher.join().unwrap(), receipt(3, 0));
            assert_eq!(payloads(&late), [1]);
        });
    }
}

#[cfg(feature = "async")]
#[test]
fn who_subscribes_while_a_future_waits_for_room_gets_what_comes_after_that() {
    let bus: Bus<u32> = Bus::new();
    let full = full(&bus);
    let mut publish = pin!(bus.publish_many_async(["full", "late", "never"], 1_u32));
    let mut context = Context::from_waker(Waker::noop());
    assert!(publish.as_mut().poll(&mut context).is_pending());
    let late = silent(&bus).subscribe("late").unwrap();
    assert_eq!(payloads(&full), [0]);
    assert_eq!(publish.as_mut().poll(&mut context), Poll::Ready(receipt(2, 0)));
    assert_eq!(payloads(&late), [1]);
}

#[cfg(feature = "async")]
#[test]
fn names_behind_the_one_at_which_a_future_is_dropped_are_not_counted() {
    let bus: Bus<u32> = Bus::new();
    let _full = full(&bus);
    let unheard: Vec<String> = (0..100).map(|n| format!("unheard:{n}")).collect();
    let names = unheard[..3].iter().map(String::as_str).chain(["full"]);
    let names = names.chain(unheard.iter().map(String::as_str));
    {
        let mut publish = pin!(bus.publish_many_async(names, 1_u32));
        assert!(publish.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // The first one, three, and the one that waited.
    assert_eq!(bus.stats().published, 5);
}

#[cfg(feature = "async")]
#[test]
fn a_future_that_is_polled_after_it_has_completed_panics_and_says_so() {
    let bus: Bus<u32> = Bus::new();
    let _sub = bus.subscribe("c").unwrap();
    for names in [&[][..], &["c"], &["c", "unheard"]] {
        let mut publish = pin!(bus.publish_many_async(names, 1_u32));
        futures::executor::block_on(&mut publish);
        let published = bus.stats().published;
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let text = panic_of(|| publish.as_mut().poll(&mut context));
            assert_eq!(text, "a future was polled after it had completed");
        }
        assert_eq!(bus.stats().published, published);
    }
}

// ---- user code ----------------------------------------------------------------------------------

#[test]
fn the_iterator_may_use_the_bus() {
    let bus: Bus<u32> = Bus::new();
    let subs = RefCell::new(Vec::new());
    let names = (0..100).map(|n| {
        let name = format!("user:{n}");
        // Whoever subscribes before the name is returned gets the message.
        subs.borrow_mut().push(silent(&bus).subscribe(&name).unwrap());
        bus.publish("elsewhere", 0_u32);
        name
    });
    assert_eq!(bus.publish_many(names, 7_u32), receipt(100, 0));
    assert!(subs.take().iter().all(|sub| payloads(sub) == [7]));
    // One that closes the bus ends the publishing; all the names are counted.
    let published = bus.stats().published;
    let _sub = bus.psubscribe("*").unwrap();
    let names = (0..100).map(|n| {
        if n == 50 {
            bus.close();
        }
        format!("user:{n}")
    });
    let delivered = bus.publish_many(names, 7_u32).delivered;
    assert!((32..=50).contains(&delivered), "{delivered}");
    assert_eq!(bus.stats().published, published + 100);
}

#[test]
fn a_panic_of_the_iterator_leaves_what_was_published() {
    let bus: Bus<u32> = Bus::new();
    let sub = silent(&bus).subscribe("c").unwrap();
    let names = (0..100).map(|n| if n < 50 { "c" } else { panic!("no more names") });
    let text = panic_of(|| bus.publish_many(names, 7_u32));
    assert_eq!(text, "no more names");
    let read = payloads(&sub).len();
    assert!((50 - 17..=50).contains(&read), "{read}");
    assert_eq!(bus.publish_many(["c", "c"], 8_u32), receipt(2, 0));
    assert_eq!(payloads(&sub), [8, 8]);
    // Many names later, what came first is long delivered.
    let names = (0..1_000).map(|n| if n == 999 { panic!("no more names") } else { "unheard" });
    let text = panic_of(|| bus.publish_each(["c"].into_iter().chain(names).map(|c| (c, 9_u32))));
    assert_eq!((text.as_str(), payloads(&sub)), ("no more names", vec![9]));
}

#[test]
fn names_behind_a_panic_of_a_clone_are_not_counted() {
    let bus: Bus<Brittle> = Bus::new();
    let _sub = silent(&bus).subscribe_many(["a", "z"]).unwrap();
    let mut names = vec!["a"; 3];
    names.extend(["unheard"; 20]);
    names.push("z");
    panic_of(|| bus.publish_many(names, Brittle(Arc::default())));
    assert_eq!(bus.stats().published, 2);
}

/// A payload whose clone panics at the third time.
#[derive(Debug)]
struct Brittle(Arc<AtomicUsize>);

impl Clone for Brittle {
    fn clone(&self) -> Self {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) != 2, "the third clone");
        Self(Arc::clone(&self.0))
    }
}

#[test]
fn a_panic_of_a_clone_leaves_what_was_published() {
    let bus: Bus<Brittle> = Bus::new();
    let sub = silent(&bus).subscribe_many(["a", "b", "c", "d", "e"]).unwrap();
    let brittle = Brittle(Arc::default());
    let publish = || bus.publish_many(["a", "b", "c", "d", "e"], brittle.clone());
    // The call itself makes the first clone.
    assert!(catch_unwind(AssertUnwindSafe(publish)).is_err());
    assert_eq!(payloads(&sub).len(), 1);
    assert_eq!(bus.publish_many(["a", "e"], Brittle(Arc::default())), receipt(2, 0));
    assert_eq!(bus.stats().matched, 3);
}

#[test]
fn a_call_from_a_payload_s_clone_panics_and_says_so() {
    struct Calling(Bus<Calling>);
    impl Clone for Calling {
        fn clone(&self) -> Self {
            let names: [&str; 0] = [];
            self.0.publish_many(names, Self(self.0.clone()));
            unreachable!("it panics")
        }
    }
    let bus: Bus<Calling> = Bus::new();
    let _subs = [bus.subscribe("c").unwrap(), bus.subscribe("c").unwrap()];
    let text = panic_of(|| bus.publish("c", Calling(bus.clone())));
    assert!(text.contains("Clone"), "{text}");
}

// ---- waiting for room ---------------------------------------------------------------------------

#[cfg(feature = "async")]
#[test]
fn a_task_that_publishes_to_many_full_inboxes_loses_nothing() {
    support::watched(|| {
        const ROUNDS: u32 = 200;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bus: Bus<u32> = Bus::builder().capacity(2).build();
        let lossless = Overflow::Block { timeout: None };
        let names: Vec<String> = (0..40).map(|n| format!("user:{n}")).collect();
        runtime.block_on(async {
            let readers: Vec<_> = names
                .iter()
                .map(|name| {
                    let sub = silent(&bus).overflow(lossless).subscribe(name).unwrap();
                    tokio::spawn(async move {
                        let mut next = 0;
                        while let Ok(message) = sub.recv_message_async().await {
                            assert_eq!(message.payload, next);
                            next += 1;
                        }
                        next
                    })
                })
                .collect();
            for round in 0..ROUNDS {
                assert_eq!(bus.publish_many_async(&names, round).await, receipt(40, 0));
            }
            bus.close();
            for reader in readers {
                assert_eq!(reader.await.unwrap(), ROUNDS);
            }
        });
    });
}

#[cfg(feature = "async")]
#[test]
fn a_dropped_wait_publishes_nothing_to_the_channels_that_follow() {
    let bus: Bus<u32> = Bus::new();
    let full = full(&bus);
    let roomy = silent(&bus).subscribe_many(["first", "last"]).unwrap();
    {
        let mut publish = pin!(bus.publish_many_async(["first", "full", "last"], 7_u32));
        let mut context = Context::from_waker(Waker::noop());
        assert!(publish.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(payloads(&roomy), [7]);
    assert_eq!(payloads(&full), [0]);
    assert_eq!(full.missed(), 1);
}
