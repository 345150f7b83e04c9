//! A single reader sees the same stream as a model: messages, lifecycle events and losses, each in its place.

mod support;

use std::collections::VecDeque;

use fanout::{Bus, Overflow, Pattern};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::{assert_books, cases, drain, text};

/// The stream that a single reader must see. Each event is kept with the number of messages that still precede
/// it.
#[derive(Default)]
struct Model {
    /// The messages, each with its channel.
    queue: VecDeque<(String, String)>,
    events: VecDeque<(String, usize)>,
    channels: Vec<&'static str>,
    patterns: Vec<&'static str>,
    unreported: u64,
    matched: u64,
}

impl Model {
    fn held(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn told(&mut self, kind: &str, name: &str) {
        let event = format!("{kind} {name} {}", self.held());
        self.events.push_back((event, self.queue.len()));
    }

    fn left(&mut self) -> Option<String> {
        let message = self.queue.pop_front();
        self.events.iter_mut().for_each(|event| event.1 = event.1.saturating_sub(1));
        message.map(|message| message.1)
    }

    /// Removes the message at `at` if a later one of its channel replaces it. Returns where that goes, or `None` if it
    /// goes to the end.
    fn replaced(&mut self, at: usize) -> Option<usize> {
        if self.events.iter().all(|event| event.1 <= at) {
            return Some(at);
        }
        // An event that has not been read stands behind it.
        self.queue.remove(at);
        self.events.iter_mut().filter(|event| event.1 > at).for_each(|event| event.1 -= 1);
        None
    }

    fn publish(&mut self, channel: &str, payload: u32, capacity: usize, overflow: Overflow) {
        let exact = self.channels.iter().filter(|held| **held == channel);
        let exact = exact.map(|held| format!("message {held} {payload}"));
        let patterns = self.patterns.iter().filter(|held| Pattern::redis(held).is_match(channel));
        let patterns = patterns.map(|held| format!("pmessage {held} {channel} {payload}"));
        let all: Vec<String> = exact.chain(patterns).collect();
        for message in all {
            self.matched += 1;
            let message = (channel.to_owned(), message);
            let held = self.queue.iter().position(|queued| queued.0 == channel);
            if let Some(held) = held.filter(|_| overflow == Overflow::Conflate) {
                match self.replaced(held) {
                    Some(at) => self.queue[at] = message,
                    None => self.queue.push_back(message),
                }
                continue;
            }
            if self.queue.len() == capacity {
                self.unreported += 1;
                if overflow == Overflow::DropNewest {
                    continue;
                }
                self.left();
            }
            self.queue.push_back(message);
        }
    }

    fn recv(&mut self) -> Option<String> {
        if self.unreported > 0 {
            return Some(format!("lagged {}", std::mem::take(&mut self.unreported)));
        }
        match self.events.front() {
            Some((_, before)) if *before == 0 || self.queue.is_empty() => {
                self.events.pop_front().map(|event| event.0)
            }
            _ => self.left(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    PSubscribe(&'static str),
    PUnsubscribe(&'static str),
    UnsubscribeAll,
    PUnsubscribeAll,
    Publish(&'static str),
    Recv,
}

fn call() -> impl Strategy<Value = Call> {
    let channel = || select(vec!["a", "b", "ab"]);
    let pattern = || select(vec!["a*", "*b", "*"]);
    prop_oneof![
        3 => channel().prop_map(Call::Subscribe),
        3 => channel().prop_map(Call::Unsubscribe),
        2 => pattern().prop_map(Call::PSubscribe),
        2 => pattern().prop_map(Call::PUnsubscribe),
        1 => Just(Call::UnsubscribeAll),
        1 => Just(Call::PUnsubscribeAll),
        8 => channel().prop_map(Call::Publish),
        8 => Just(Call::Recv),
    ]
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn the_stream_equals_the_models(
        capacity in 1..5usize,
        overflow in select(vec![Overflow::DropOldest, Overflow::DropNewest, Overflow::Conflate]),
        calls in vec(call(), 0..80),
    ) {
        let bus: Bus<u32> = Bus::new();
        let sub = bus.subscriber_builder().capacity(capacity).overflow(overflow).build();
        let mut model = Model::default();
        for (payload, call) in (0..).zip(calls) {
            match call {
                Call::Subscribe(name) => {
                    if !model.channels.contains(&name) {
                        model.channels.push(name);
                    }
                    model.told("subscribe", name);
                    prop_assert_eq!(sub.subscribe(name), Ok(model.held()));
                }
                Call::PSubscribe(name) => {
                    if !model.patterns.contains(&name) {
                        model.patterns.push(name);
                    }
                    model.told("psubscribe", name);
                    prop_assert_eq!(sub.psubscribe(name), Ok(model.held()));
                }
                Call::Unsubscribe(name) => {
                    model.channels.retain(|held| *held != name);
                    model.told("unsubscribe", name);
                    prop_assert_eq!(sub.unsubscribe(name), model.held());
                }
                Call::PUnsubscribe(name) => {
                    model.patterns.retain(|held| *held != name);
                    model.told("punsubscribe", name);
                    prop_assert_eq!(sub.punsubscribe(name), model.held());
                }
                Call::UnsubscribeAll => {
                    while !model.channels.is_empty() {
                        let name = model.channels.remove(0);
                        model.told("unsubscribe", name);
                    }
                    prop_assert_eq!(sub.unsubscribe_all(), model.held());
                }
                Call::PUnsubscribeAll => {
                    while !model.patterns.is_empty() {
                        let name = model.patterns.remove(0);
                        model.told("punsubscribe", name);
                    }
                    prop_assert_eq!(sub.punsubscribe_all(), model.held());
                }
                Call::Publish(name) => {
                    model.publish(name, payload, capacity, overflow);
                    bus.publish(name, payload);
                }
                Call::Recv => {
                    prop_assert_eq!(sub.try_recv().ok().map(|event| text(&event)), model.recv());
                }
            }
            prop_assert_eq!(sub.len(), model.queue.len());
        }
        let rest: Vec<String> = std::iter::from_fn(|| model.recv()).collect();
        prop_assert_eq!(drain(&sub), rest);
        assert_books(&sub, model.matched);
    }
}
