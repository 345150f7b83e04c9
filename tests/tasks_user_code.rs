//! User code that misbehaves around tasks: wakers and payloads that panic, and publishes while a thread ends.
#![cfg(feature = "async")]

mod support;

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;

use fanout::{Bus, Overflow, Subscriber};
use support::{eventually, receipt, silent, spawn_until_asleep, watched};

const LOSSLESS: Overflow = Overflow::Block { timeout: None };

/// A waker that counts its calls, and then runs some code.
struct Counting<F>(AtomicUsize, F);

impl<F: Fn() + Send + Sync + 'static> Counting<F> {
    fn new(code: F) -> (Arc<Self>, Waker) {
        let counting = Arc::new(Self(AtomicUsize::new(0), code));
        (Arc::clone(&counting), Waker::from(counting))
    }

    fn take_calls(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl<F: Fn() + Send + Sync + 'static> Wake for Counting<F> {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        (self.1)();
    }
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

fn panics<T>(code: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(code)).is_err()
}

/// Returns an inbox for `capacity` messages whose publishers wait.
fn lossless<P: Clone + Send + 'static>(bus: &Bus<P>, capacity: usize) -> Subscriber<P> {
    silent(bus).capacity(capacity).overflow(LOSSLESS).subscribe("c").unwrap()
}

/// A waker whose clone and drop panic when told to.
struct Fragile {
    clone_panics: AtomicBool,
    drop_panics: AtomicBool,
}

impl Fragile {
    const fn new() -> Self {
        Self { clone_panics: AtomicBool::new(false), drop_panics: AtomicBool::new(false) }
    }

    fn waker(&'static self) -> Waker {
        const VTABLE: RawWakerVTable = RawWakerVTable::new(clone, drop, |_| (), drop);
        fn fragile(data: *const ()) -> &'static Fragile {
            // SAFETY: `waker` made it of such a reference.
            unsafe { &*data.cast() }
        }
        fn clone(data: *const ()) -> RawWaker {
            assert!(!fragile(data).clone_panics.load(Ordering::SeqCst), "a waker's clone");
            RawWaker::new(data, &VTABLE)
        }
        fn drop(data: *const ()) {
            assert!(!fragile(data).drop_panics.swap(false, Ordering::SeqCst), "a waker's drop");
        }
        // SAFETY: it has nothing to free, and may be used from any thread.
        unsafe { Waker::from_raw(RawWaker::new((&raw const *self).cast(), &VTABLE)) }
    }
}

/// A thread waits for room in one inbox and then in another. When it has entered the first, tasks wait there still.
#[test]
fn a_publisher_thread_that_sleeps_for_its_next_inbox_has_woken_the_task_behind_it() {
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (one, two) = (lossless(&bus, 3), lossless(&bus, 1));
        one.subscribe("d").unwrap();
        bus.publish("c", 0_u32);
        (0..2).for_each(|_| _ = bus.publish("d", 0_u32));
        let publisher = {
            let bus = bus.clone();
            spawn_until_asleep(move || bus.publish("c", 1_u32))
        };
        let tasks: Vec<_> = (0..3).map(|_| Counting::new(|| ())).collect();
        let mut publishes: Vec<_> = (0..3_u32).map(|n| Some(bus.publish_async("d", n))).collect();
        for (publish, (_, waker)) in publishes.iter_mut().zip(&tasks) {
            assert!(poll(publish.as_mut().unwrap(), waker).is_pending());
        }
        (0..2).for_each(|_| _ = one.try_recv_message().unwrap());
        eventually("all tasks have published", || {
            for (publish, (woken, waker)) in publishes.iter_mut().zip(&tasks) {
                if woken.take_calls() > 0
                    && publish.as_mut().is_some_and(|publish| poll(publish, waker).is_ready())
                {
                    *publish = None;
                }
            }
            one.try_messages().for_each(drop);
            publishes.iter().all(Option::is_none)
        });
        assert!(!publisher.is_finished());
        two.try_recv_message().unwrap();
        assert_eq!(publisher.join().unwrap(), receipt(2, 0));
    });
}

#[test]
fn a_publish_while_the_thread_ends_calls_wakers_after_its_turn() {
    struct PublishAtEnd(Bus<u32>);
    impl Drop for PublishAtEnd {
        fn drop(&mut self) {
            self.0.publish("c", 1_u32);
        }
    }
    thread_local! {
        static AT_END: Cell<Option<PublishAtEnd>> = const { Cell::new(None) };
    }
    watched(|| {
        let bus: Bus<u32> = Bus::new();
        let (sub, other) =
            (silent(&bus).subscribe("c").unwrap(), silent(&bus).subscribe("d").unwrap());
        let (its_bus, its_sub) = (bus.clone(), sub.clone());
        let (woken, waker) = Counting::new(move || {
            its_bus.publish("c", 2_u32);
            _ = its_sub.subscribe("e");
        });
        let (mut first, mut second) = (sub.recv_async(), other.recv_async());
        assert!(poll(&mut first, &waker).is_pending());
        assert!(poll(&mut second, Waker::noop()).is_pending());
        let bus_of_thread = bus.clone();
        let thread = thread::spawn(move || {
            // Before the engine's own thread-locals are first used: they are gone when this is dropped.
            AT_END.set(Some(PublishAtEnd(bus_of_thread.clone())));
            bus_of_thread.publish("d", 0_u32);
        });
        thread.join().unwrap();
        assert_eq!((woken.take_calls(), sub.len()), (1, 2));
        assert_eq!(bus.publish("c", 3_u32), receipt(1, 0));
    });
}

#[test]
fn a_waker_whose_clone_panics_costs_neither_a_count_nor_a_wake_up() {
    static FRAGILE: Fragile = Fragile::new();
    let bus: Bus<u32> = Bus::new();
    let (one, two) = (lossless(&bus, 1), lossless(&bus, 1));
    bus.publish("c", 0_u32);
    let mut publish = bus.publish_async("c", 1_u32);
    assert!(poll(&mut publish, Waker::noop()).is_pending());
    one.try_recv_message().unwrap();
    let (woken, waker) = Counting::new(|| ());
    let mut reader = one.recv_async();
    assert!(poll(&mut reader, &waker).is_pending());
    // It enters the first inbox, and clones the waker to wait for the second.
    let fragile = FRAGILE.waker();
    FRAGILE.clone_panics.store(true, Ordering::SeqCst);
    assert!(panics(|| poll(&mut publish, &fragile)));
    FRAGILE.clone_panics.store(false, Ordering::SeqCst);
    assert_eq!(woken.take_calls(), 1);
    two.try_recv_message().unwrap();
    assert_eq!(poll(&mut publish, Waker::noop()), Poll::Ready(receipt(2, 0)));
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.dropped), (2, 4, 0));
}

#[test]
fn a_waker_whose_drop_panics_costs_neither_a_count_nor_a_message() {
    static FRAGILE: Fragile = Fragile::new();
    let bus: Bus<u32> = Bus::new();
    let (one, two) = (lossless(&bus, 1), lossless(&bus, 1));
    bus.publish("c", 0_u32);
    let fragile = FRAGILE.waker();
    let mut publish = bus.publish_async("c", 1_u32);
    assert!(poll(&mut publish, &fragile).is_pending());
    FRAGILE.drop_panics.store(true, Ordering::SeqCst);
    drop(publish);
    assert!(!FRAGILE.drop_panics.load(Ordering::SeqCst), "it was dropped");
    assert_eq!((one.missed(), two.missed(), bus.stats().dropped), (1, 1, 2));
    // And a reader's.
    drop(two);
    one.try_recv_message().unwrap();
    let mut reader = one.recv_message_async();
    assert!(poll(&mut reader, &fragile).is_pending());
    let mut other = one.recv_message_async();
    assert!(poll(&mut other, Waker::noop()).is_pending());
    FRAGILE.drop_panics.store(true, Ordering::SeqCst);
    drop(reader);
    bus.publish("c", 2_u32);
    assert!(
        matches!(poll(&mut other, Waker::noop()), Poll::Ready(Ok(message)) if message.payload == 2)
    );
}

/// A payload that panics once when it is dropped, if it is armed.
#[derive(Clone)]
struct Bomb(Arc<AtomicBool>);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.0.swap(false, Ordering::SeqCst) || thread::panicking(), "a payload's drop");
    }
}

#[test]
fn a_payload_whose_drop_panics_in_the_inbox_that_a_wait_keeps_costs_no_count() {
    let armed = Arc::new(AtomicBool::new(false));
    let bus: Bus<Bomb> = Bus::new();
    let (one, two) = (lossless(&bus, 1), lossless(&bus, 1));
    bus.publish("c", Bomb(Arc::clone(&armed)));
    let mut publish = bus.publish_async("c", Bomb(Arc::clone(&armed)));
    assert!(poll(&mut publish, Waker::noop()).is_pending());
    drop(one);
    armed.store(true, Ordering::SeqCst);
    assert!(panics(|| poll(&mut publish, Waker::noop())));
    drop(two.try_recv_message().unwrap());
    assert!(poll(&mut publish, Waker::noop()).is_ready());
    let stats = bus.stats();
    assert_eq!((stats.published, stats.delivered, stats.dropped), (2, 3, 1));
}

static HELD: Mutex<Option<Subscriber<Tricky>>> = Mutex::new(None);
static ARMED: AtomicBool = AtomicBool::new(false);

/// A payload whose clone drops a subscriber, or whose drop panics.
enum Tricky {
    Plain,
    DropsSubscriber,
    Panics,
}

impl Clone for Tricky {
    fn clone(&self) -> Self {
        if matches!(self, Self::DropsSubscriber) {
            drop(HELD.lock().unwrap().take());
        }
        match self {
            Self::Panics => Self::Panics,
            Self::Plain | Self::DropsSubscriber => Self::Plain,
        }
    }
}

impl Drop for Tricky {
    fn drop(&mut self) {
        let panics = matches!(self, Self::Panics) && ARMED.swap(false, Ordering::SeqCst);
        assert!(!panics, "a payload's drop");
    }
}

/// What a payload's clone leaves behind is dropped at the end of the first poll, when messages wait already.
#[test]
fn a_first_poll_that_panics_counts_what_waits_as_dropped() {
    let bus: Bus<Tricky> = Bus::new();
    let (one, two) = (lossless(&bus, 1), lossless(&bus, 1));
    let held = silent(&bus).subscribe("x").unwrap();
    bus.publish("x", Tricky::Panics);
    *HELD.lock().unwrap() = Some(held);
    bus.publish("c", Tricky::Plain);
    ARMED.store(true, Ordering::SeqCst);
    let mut publish = bus.publish_async("c", Tricky::DropsSubscriber);
    assert!(panics(|| poll(&mut publish, Waker::noop())));
    drop(publish);
    assert_eq!((one.missed(), two.missed(), bus.stats().dropped), (1, 1, 2));
}
