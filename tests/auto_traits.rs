//! Properties of the types themselves: auto traits, which depend on the payload only where they must, no bounds
//! on structs, and no destructors in the way.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::{Arc, MutexGuard};

use fanout::{
    Bus, BusBuilder, CloseReason, Event, Interest, InterestIter, InterestWatch, IntoIter,
    IntoMessages, Iter, Limits, Listener, Message, Messages, Overflow, Pattern, PatternError,
    Receipt, RecvError, RecvTimeoutError, Router, RouterHandle, Stats, SubscribeError, Subscriber,
    SubscriberBuilder, SubscriberInfo, Topic, TopicStats, TryIter, TryMessages, TryRecvError,
    WeakBus,
};

/// Evaluates to `true` if a type implements a trait. The inherent constant exists only if it does, and then
/// takes precedence over the one of the trait `Else`, which all types have.
macro_rules! implements {
    ($type:ty, $($bound:tt)+) => {{
        struct Probe<T: ?Sized>(PhantomData<T>);
        #[allow(dead_code)]
        trait Else {
            const IT_DOES: bool = false;
        }
        impl<T: ?Sized> Else for Probe<T> {}
        #[allow(dead_code)]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const IT_DOES: bool = true;
        }
        <Probe<$type>>::IT_DOES
    }};
}

macro_rules! auto_traits {
    ($type:ty) => {
        [
            implements!($type, Send),
            implements!($type, Sync),
            implements!($type, UnwindSafe),
            implements!($type, RefUnwindSafe),
            implements!($type, Unpin),
        ]
    };
}

/// Checks rows of `type: Send Sync UnwindSafe RefUnwindSafe Unpin`, 1 for each that it is, 0 for each
/// that it is not; `_` where neither is promised.
macro_rules! table {
    ($($type:ty: $send:tt $sync:tt $unwind:tt $ref_unwind:tt $unpin:tt,)+) => {
        $({
            let wanted = [stringify!($send), stringify!($sync), stringify!($unwind), stringify!($ref_unwind), stringify!($unpin)];
            let names = ["Send", "Sync", "UnwindSafe", "RefUnwindSafe", "Unpin"];
            for ((wanted, found), name) in wanted.into_iter().zip(auto_traits!($type)).zip(names) {
                match wanted {
                    "1" => assert!(found, "{} is not {name}", stringify!($type)),
                    "0" => assert!(!found, "{} is {name}", stringify!($type)),
                    _ => assert_eq!(wanted, "_"),
                }
            }
        })+
    };
}

/// Sent, not shared, and unsafe to unwind past by reference.
type SendOnly = Cell<u32>;

/// Shared, not sent.
type SyncOnly = MutexGuard<'static, u32>;

#[test]
fn the_probe_detects_each_auto_trait() {
    assert_eq!(auto_traits!(u32), [true; 5]);
    assert_eq!(auto_traits!(Rc<u32>), [false, false, true, true, true]);
    assert_eq!(auto_traits!(SendOnly), [true, false, true, false, true]);
    assert_eq!(auto_traits!(SyncOnly)[..2], [false, true]);
    assert_eq!(auto_traits!(&'static mut u32)[2..4], [false, true]);
    assert!(!implements!(std::marker::PhantomPinned, Unpin));
}

/// Both for a payload with all auto traits and for one that is only `Send`, as a payload must be.
#[test]
fn handles_have_all_auto_traits_for_every_payload_that_is_send() {
    table! {
        //                             Send Sync UnwindSafe RefUnwindSafe Unpin
        Bus:                              1 1 1 1 1,
        WeakBus:                          1 1 1 1 1,
        Topic:                            1 1 1 1 1,
        Subscriber:                       1 1 1 1 1,
        BusBuilder:                       1 1 _ _ 1,
        SubscriberBuilder:                1 1 1 1 1,
        Router:                           1 0 0 0 1,
        RouterHandle:                     1 1 1 1 1,
        IntoIter:                         1 1 1 1 1,
        Iter<'static>:                    1 1 1 1 1,
        TryIter<'static>:                 1 1 1 1 1,
        Messages<'static>:                1 1 1 1 1,
        TryMessages<'static>:             1 1 1 1 1,
        IntoMessages:                     1 1 1 1 1,
        Message:                          1 1 1 1 1,
        Event:                            1 1 1 1 1,

        Bus<SendOnly>:                    1 1 1 1 1,
        WeakBus<SendOnly>:                1 1 1 1 1,
        Topic<SendOnly>:                  1 1 1 1 1,
        Subscriber<SendOnly>:             1 1 1 1 1,
        BusBuilder<SendOnly>:             1 _ _ _ 1,
        SubscriberBuilder<SendOnly>:      1 1 1 1 1,
        Router<SendOnly>:                 1 0 0 0 1,
        RouterHandle<SendOnly>:           1 1 1 1 1,
        IntoIter<SendOnly>:               1 1 1 1 1,
        Iter<'static, SendOnly>:          1 1 1 1 1,
        TryIter<'static, SendOnly>:       1 1 1 1 1,
        Messages<'static, SendOnly>:      1 1 1 1 1,
        TryMessages<'static, SendOnly>:   1 1 1 1 1,
        IntoMessages<SendOnly>:           1 1 1 1 1,
        // These hold the payload itself and have its auto traits.
        Message<SendOnly>:                1 0 1 0 1,
        Event<SendOnly>:                  1 0 1 0 1,

        // The payload does not matter for unwinding.
        Bus<&'static mut u32>:            1 1 1 1 1,
        WeakBus<Box<dyn FnMut() + Send>>: 1 1 1 1 1,
        Topic<Box<dyn FnMut() + Send>>:   1 1 1 1 1,
        Subscriber<Box<dyn FnMut() + Send>>: 1 1 1 1 1,
        Bus<std::marker::PhantomPinned>:  1 1 1 1 1,
    }
}

/// Futures and streams move from thread to thread with their tasks.
#[cfg(feature = "async")]
#[test]
fn futures_and_streams_are_send_for_every_payload_that_is_send() {
    use fanout::{
        EventStream, MessageStream, Publish, PublishMany, Recv, RecvInterest, RecvMessage,
    };

    type Names = std::iter::Empty<&'static str>;
    table! {
        //                             Send Sync UnwindSafe RefUnwindSafe Unpin
        Recv<'static>:                    1 1 1 1 1,
        RecvMessage<'static>:             1 1 1 1 1,
        EventStream<'static>:             1 1 1 1 1,
        MessageStream<'static>:           1 1 1 1 1,
        RecvInterest<'static>:            1 1 1 1 1,
        Publish<'static>:                 1 1 _ _ 1,
        PublishMany<'static, Arc<str>, Names>: 1 1 _ _ 1,

        Recv<'static, SendOnly>:          1 1 1 1 1,
        RecvMessage<'static, SendOnly>:   1 1 1 1 1,
        EventStream<'static, SendOnly>:   1 1 1 1 1,
        MessageStream<'static, SendOnly>: 1 1 1 1 1,
        Publish<'static, SendOnly>:       1 _ _ _ 1,
        PublishMany<'static, SendOnly, Names>: 1 _ _ _ 1,
    }
}

/// Hazard: a handle that is `Send` or `Sync` when its payload is not.
#[test]
fn handles_of_a_payload_that_is_not_send_are_not_send() {
    table! {
        //                             Send Sync UnwindSafe RefUnwindSafe Unpin
        Bus<Rc<u32>>:                     0 0 _ _ 1,
        WeakBus<Rc<u32>>:                 0 0 _ _ 1,
        Topic<Rc<u32>>:                   0 0 _ _ 1,
        Subscriber<Rc<u32>>:              0 0 _ _ 1,
        SubscriberBuilder<Rc<u32>>:       0 0 _ _ 1,
        IntoIter<Rc<u32>>:                0 0 _ _ 1,
        Iter<'static, Rc<u32>>:           0 0 _ _ 1,
        TryIter<'static, Rc<u32>>:        0 0 _ _ 1,
        Messages<'static, Rc<u32>>:       0 0 _ _ 1,
        TryMessages<'static, Rc<u32>>:    0 0 _ _ 1,
        IntoMessages<Rc<u32>>:            0 0 _ _ 1,
        Message<Rc<u32>>:                 0 0 _ _ 1,
        Event<Rc<u32>>:                   0 0 _ _ 1,
        // A payload that is `Sync` but not `Send` would be sent.
        Bus<SyncOnly>:                    0 0 _ _ 1,
        WeakBus<SyncOnly>:                0 0 _ _ 1,
        Topic<SyncOnly>:                  0 0 _ _ 1,
        Subscriber<SyncOnly>:             0 0 _ _ 1,
        SubscriberBuilder<SyncOnly>:      0 0 _ _ 1,
        Message<SyncOnly>:                0 1 _ _ 1,
        Event<SyncOnly>:                  0 1 _ _ 1,
        Bus<*const u32>:                  0 0 _ _ 1,
        Subscriber<*const u32>:           0 0 _ _ 1,
    }
}

#[test]
fn types_without_a_payload_are_send_and_sync() {
    table! {
        //                             Send Sync UnwindSafe RefUnwindSafe Unpin
        Listener:                         1 1 1 1 1,
        Interest:                         1 1 1 1 1,
        InterestWatch:                    1 1 1 1 1,
        InterestIter<'static>:            1 1 1 1 1,
        TopicStats:                       1 1 1 1 1,
        Pattern:                          1 1 1 1 1,
        PatternError:                     1 1 1 1 1,
        RecvError:                        1 1 1 1 1,
        TryRecvError:                     1 1 1 1 1,
        RecvTimeoutError:                 1 1 1 1 1,
        SubscribeError:                   1 1 1 1 1,
        Receipt:                          1 1 1 1 1,
        Stats:                            1 1 1 1 1,
        SubscriberInfo:                   1 1 1 1 1,
        CloseReason:                      1 1 1 1 1,
        Overflow:                         1 1 1 1 1,
        Limits:                           1 1 1 1 1,
    }
}

/// A payload with the required traits and no others.
struct Bare;

impl Clone for Bare {
    fn clone(&self) -> Self {
        Self
    }
}

#[test]
fn debug_requires_nothing_of_a_payload_that_it_does_not_show() {
    assert!(implements!(Bus<Bare>, Debug));
    assert!(implements!(WeakBus<Bare>, Debug));
    assert!(implements!(Topic<Bare>, Debug));
    assert!(implements!(Subscriber<Bare>, Debug));
    assert!(implements!(BusBuilder<Bare>, Debug));
    assert!(implements!(SubscriberBuilder<Bare>, Debug));
    assert!(implements!(IntoIter<Bare>, Debug));
    assert!(implements!(Iter<'static, Bare>, Debug));
    assert!(implements!(TryIter<'static, Bare>, Debug));
    assert!(implements!(Messages<'static, Bare>, Debug));
    assert!(implements!(TryMessages<'static, Bare>, Debug));
    assert!(implements!(IntoMessages<Bare>, Debug));
    assert!(implements!(Listener, Debug));
    // `Send` and `Clone` are not required either.
    struct Nothing(#[expect(dead_code)] Rc<u32>);
    assert!(implements!(Bus<Nothing>, Debug));
    assert!(implements!(Subscriber<Nothing>, Debug));
    assert!(implements!(TryMessages<'static, Nothing>, Debug));
    assert!(implements!(IntoMessages<Nothing>, Debug));
    // These show the payload.
    assert!(!implements!(Message<Bare>, Debug));
    assert!(!implements!(Event<Bare>, Debug));
    assert!(implements!(Message<u32>, Debug));
    assert!(implements!(Event<u32>, Debug));
}

#[test]
fn handles_and_builders_are_clone_whatever_the_payload() {
    struct Uncloned;
    assert!(implements!(Bus<Uncloned>, Clone));
    assert!(implements!(WeakBus<Uncloned>, Clone));
    assert!(implements!(Topic<Uncloned>, Clone));
    assert!(implements!(Subscriber<Uncloned>, Clone));
    assert!(implements!(BusBuilder<Uncloned>, Clone));
    assert!(implements!(SubscriberBuilder<Uncloned>, Clone));
}

/// An iterator that ends because the inbox is empty can continue later, so it is not fused.
#[test]
fn iterators_that_end_for_good_are_fused() {
    assert!(implements!(Iter<'static, Bare>, FusedIterator));
    assert!(implements!(Messages<'static, Bare>, FusedIterator));
    assert!(implements!(IntoIter<Bare>, FusedIterator));
    assert!(implements!(IntoMessages<Bare>, FusedIterator));
    assert!(!implements!(TryIter<'static, Bare>, FusedIterator));
    assert!(!implements!(TryMessages<'static, Bare>, FusedIterator));
}

#[test]
fn messages_and_events_implement_what_their_payload_does() {
    assert!(implements!(Message<String>, Clone + PartialEq + Eq + Hash));
    assert!(implements!(Event<String>, Clone + PartialEq + Eq + Hash));
    assert!(implements!(Message<f32>, PartialEq) && !implements!(Message<f32>, Eq));
    assert!(implements!(Event<f32>, PartialEq) && !implements!(Event<f32>, Eq));
    assert!(!implements!(Message<f32>, Hash) && !implements!(Event<f32>, Hash));
    assert!(!implements!(Message<Bare>, PartialEq) && !implements!(Event<Bare>, PartialEq));
    struct Uncloned;
    let _: Message<Uncloned> = Message::new("c", Uncloned);
    assert!(!implements!(Message<Uncloned>, Clone) && !implements!(Event<Uncloned>, Clone));
}

#[test]
fn receipts_settings_and_errors_implement_the_common_traits() {
    assert!(implements!(Receipt, Copy + Default + Debug + PartialEq + Eq));
    assert!(implements!(Limits, Copy + Default + Debug + PartialEq + Eq + Hash));
    assert!(implements!(Overflow, Copy + Default + Debug + Eq + Hash));
    assert!(implements!(RecvError, Copy + Clone + Hash + Eq + Error + Display + 'static));
    assert!(implements!(TryRecvError, Copy + Clone + Hash + Eq + Error + Display + 'static));
    assert!(implements!(RecvTimeoutError, Copy + Clone + Hash + Eq + Error + Display + 'static));
    assert!(implements!(
        SubscribeError,
        Clone + Hash + Eq + Error + Display + Send + Sync + 'static
    ));
    assert!(implements!(PatternError, Clone + Hash + Eq + Error + Display + Send + Sync + 'static));
    assert!(implements!(SubscriberInfo, Clone + Debug));
    assert!(implements!(Stats, Clone + Debug));
    assert!(implements!(CloseReason, Clone + Debug + PartialEq));
    assert!(implements!(Pattern, Clone + Debug + Display + Eq + Ord + Hash + AsRef<str>));
}

#[test]
fn a_recv_error_converts_into_the_other_receive_errors() {
    assert_eq!(TryRecvError::from(RecvError::Closed), TryRecvError::Closed);
    assert_eq!(RecvTimeoutError::from(RecvError::Closed), RecvTimeoutError::Closed);
    assert_eq!(RecvError::from(fanout::crossbeam_channel::RecvError), RecvError::Closed);
    // The errors are exhaustive: no arm is missing here.
    let tell = |error: RecvTimeoutError| match error {
        RecvTimeoutError::Timeout => "timeout",
        RecvTimeoutError::Closed => "closed",
    };
    assert_eq!(tell(RecvTimeoutError::Timeout), "timeout");
    let RecvError::Closed = RecvError::Closed;
}

/// The types can be named, held, passed and dropped without any bound on the payload.
struct Holder<P> {
    _bus: Option<Bus<P>>,
    _weak: Option<WeakBus<P>>,
    _topic: Option<Topic<P>>,
    _subscriber: Option<Subscriber<P>>,
    _builders: Option<(BusBuilder<P>, SubscriberBuilder<P>)>,
    _message: Option<Message<P>>,
    _event: Option<Event<P>>,
    _iterators: Option<(IntoIter<P>, IntoMessages<P>)>,
}

/// And so can futures and streams.
#[cfg(feature = "async")]
struct AsyncHolder<'a, P> {
    _receives: Option<(fanout::Recv<'a, P>, fanout::RecvMessage<'a, P>)>,
    _streams: Option<(fanout::EventStream<'a, P>, fanout::MessageStream<'a, P>)>,
    _publish: Option<fanout::Publish<'a, P>>,
    _publish_many: Option<fanout::PublishMany<'a, P, std::iter::Empty<&'a str>>>,
}

fn take_by_reference<P>(_: &Bus<P>, _: &Subscriber<P>, _: &Topic<P>) {}

fn take_by_value<P>(_: Bus<P>, _: WeakBus<P>, _: Topic<P>, _: Subscriber<P>) {}

#[test]
fn no_struct_has_bounds_on_its_payload() {
    // The payload is neither `Clone` nor `Send` nor `'static`.
    fn holder<'a>() -> Holder<(Rc<str>, &'a str)> {
        Holder {
            _bus: None,
            _weak: None,
            _topic: None,
            _subscriber: None,
            _builders: None,
            _message: None,
            _event: None,
            _iterators: None,
        }
    }
    drop(holder());
    #[cfg(feature = "async")]
    {
        fn holder<'a>() -> AsyncHolder<'a, (Rc<str>, &'a str)> {
            AsyncHolder { _receives: None, _streams: None, _publish: None, _publish_many: None }
        }
        drop(holder());
    }
    let bus: Bus<Bare> = Bus::new();
    let (weak, topic, sub) = (bus.downgrade(), bus.topic("c"), bus.subscribe("c").unwrap());
    take_by_reference(&bus, &sub, &topic);
    take_by_value(bus, weak, topic, sub);
    let message = Message::new("c", Rc::new("never sent"));
    assert_eq!(message.channel(), "c");
}

#[test]
fn the_default_payload_is_an_arc_of_text() {
    fn default_of(bus: Bus, _: WeakBus, topic: Topic, sub: Subscriber) -> (Bus, Event, Message) {
        topic.publish("text");
        let event: Event = sub.recv().unwrap();
        let message = sub.recv_message().unwrap();
        let _: &Arc<str> = &message.payload;
        (bus, event, message)
    }
    let bus = Bus::new();
    let (weak, topic, sub) = (bus.downgrade(), bus.topic("c"), bus.subscribe("c").unwrap());
    let (bus, event, message) = default_of(bus, weak, topic, sub);
    assert!(event.message().is_none());
    assert_eq!(message, Message::new("c", Arc::from("text")));
    bus.publish("c", String::from("owned"));
    bus.publish("c", Arc::<str>::from("shared"));
}

#[test]
fn a_message_can_be_taken_apart() {
    struct Unclonable(u32);
    let message = Message::new("c", Unclonable(7));
    // This must compile: a message has no `Drop` and can be moved out of.
    let Message { payload, .. } = message;
    assert_eq!(payload.0, 7);
    let (channel, pattern, payload) =
        Message::new("c", Unclonable(8)).with_pattern("c*").into_parts();
    assert_eq!((&*channel, pattern.as_deref(), payload.0), ("c", Some("c*"), 8));
    let event = Event::PMessage(Message::new("c", Unclonable(9)).with_pattern("c*"));
    let Some(Message { payload, .. }) = event.into_message() else { panic!("a message") };
    assert_eq!(payload.0, 9);
}

#[test]
fn a_receipt_can_be_destructured_exhaustively() {
    let bus: Bus<u32> = Bus::new();
    let Receipt { matched, delivered, dropped } = bus.publish("c", 1u32);
    assert_eq!(Receipt { matched, delivered, dropped }, Receipt::default());
}

#[test]
fn a_payload_needs_no_more_than_clone_and_send() {
    let bus: Bus<SendOnly> = Bus::new();
    let sub = bus.subscribe("c").unwrap();
    let thread = std::thread::spawn(move || sub.recv_message().unwrap().payload.get());
    bus.publish("c", Cell::new(7));
    assert_eq!(thread.join().unwrap(), 7);
    let bus: Bus<Bare> = Bus::default();
    let sub = bus.psubscribe("*").unwrap();
    bus.publish("c", Bare);
    assert!(matches!(sub.recv_message(), Ok(Message { payload: Bare, .. })));
}
