//! A sequence of operations on a bus against a model of it.
#![no_main]

use std::collections::VecDeque;

use arbitrary::Arbitrary;
use fanout::{Bus, Event, Overflow, Pattern, Subscriber, TryRecvError};
use libfuzzer_sys::fuzz_target;

const CHANNELS: [&str; 4] = ["a:1", "a:2", "b:1", ""];
const PATTERNS: [&str; 6] = ["a:*", "*:1", "?:[12]", "*", "a:1", ""];
const GLOBS: [&str; 2] = ["a:*", "{a,b}:1"];

#[derive(Arbitrary, Debug)]
enum Op {
    New { capacity: u8, drop_newest: bool, dedupe: bool },
    Subscribe { sub: u8, channel: u8 },
    PSubscribe { sub: u8, pattern: u8 },
    Unsubscribe { sub: u8, channel: u8 },
    PUnsubscribe { sub: u8, pattern: u8 },
    UnsubscribeAll { sub: u8, patterns: bool },
    Publish { channel: u8, by_topic: bool },
    Recv { sub: u8 },
    Close { sub: u8 },
    Drop { sub: u8 },
}

fn channel(at: u8) -> &'static str {
    CHANNELS[usize::from(at) % CHANNELS.len()]
}

fn pattern(at: u8) -> Pattern {
    let at = usize::from(at) % (PATTERNS.len() + GLOBS.len());
    match PATTERNS.get(at) {
        Some(text) => Pattern::redis(text),
        None => Pattern::glob(GLOBS[at - PATTERNS.len()]).unwrap(),
    }
}

/// What a subscriber should hold: what is subscribed, and what waits in its inbox.
struct Model {
    capacity: usize,
    drop_newest: bool,
    dedupe: bool,
    channels: Vec<&'static str>,
    patterns: Vec<Pattern>,
    queue: VecDeque<(u32, Option<String>)>,
    lost: u64,
    missed: u64,
    received: u64,
    closed: bool,
}

impl Model {
    /// What a publish brings: by the channel, then by each pattern in its order.
    fn matching(&self, channel: &str) -> Vec<Option<String>> {
        let exact = self.channels.contains(&channel).then_some(None);
        let patterns = self.patterns.iter().filter(|pattern| pattern.is_match(channel));
        let mut all: Vec<_> =
            exact.into_iter().chain(patterns.map(|pattern| Some(pattern.to_string()))).collect();
        if self.dedupe {
            all.truncate(1);
        }
        all
    }

    fn offer(&mut self, message: (u32, Option<String>)) -> bool {
        if self.queue.len() == self.capacity {
            self.lost += 1;
            self.missed += 1;
            if self.drop_newest {
                return false;
            }
            self.queue.pop_front();
        }
        self.queue.push_back(message);
        true
    }

    fn close(&mut self) {
        self.channels.clear();
        self.patterns.clear();
        self.closed = true;
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let bus: Bus<u32> = Bus::builder().stripes(2).build();
    let mut subs: Vec<(Subscriber<u32>, Model)> = Vec::new();
    let mut serial = 0;
    for op in ops {
        let count = subs.len();
        let of = |sub: u8| usize::from(sub) % count.max(1);
        match op {
            Op::New { capacity, drop_newest, dedupe } if count < 8 => {
                let capacity = usize::from(capacity % 5) + 1;
                let overflow =
                    if drop_newest { Overflow::DropNewest } else { Overflow::DropOldest };
                let builder = bus.subscriber_builder().capacity(capacity).overflow(overflow);
                let model = Model {
                    capacity,
                    drop_newest,
                    dedupe,
                    channels: Vec::new(),
                    patterns: Vec::new(),
                    queue: VecDeque::new(),
                    lost: 0,
                    missed: 0,
                    received: 0,
                    closed: false,
                };
                subs.push((builder.dedupe(dedupe).lifecycle_events(false).build(), model));
            }
            Op::Publish { channel: at, by_topic } => {
                serial += 1;
                let name = channel(at);
                let (mut matched, mut delivered) = (0, 0);
                for (_, model) in &mut subs {
                    for source in model.matching(name) {
                        matched += 1;
                        delivered += usize::from(model.offer((serial, source)));
                    }
                }
                assert_eq!(bus.match_count(name), matched);
                let receipt =
                    if by_topic { bus.topic(name).publish(serial) } else { bus.publish(name, serial) };
                assert_eq!((receipt.matched, receipt.delivered), (matched, delivered));
                assert_eq!(receipt.dropped, matched - delivered);
            }
            _ if count == 0 => {}
            Op::New { .. } => {}
            Op::Subscribe { sub, channel: at } => {
                let (sub, model) = &mut subs[of(sub)];
                let result = sub.subscribe(channel(at));
                if !model.closed && !model.channels.contains(&channel(at)) {
                    model.channels.push(channel(at));
                }
                assert_eq!(result.ok(), (!model.closed).then_some(held(model)));
            }
            Op::PSubscribe { sub, pattern: at } => {
                let (sub, model) = &mut subs[of(sub)];
                let result = sub.psubscribe(pattern(at));
                if !model.closed && !model.patterns.contains(&pattern(at)) {
                    model.patterns.push(pattern(at));
                }
                assert_eq!(result.ok(), (!model.closed).then_some(held(model)));
            }
            Op::Unsubscribe { sub, channel: at } => {
                let (sub, model) = &mut subs[of(sub)];
                model.channels.retain(|held| *held != channel(at));
                assert_eq!(sub.unsubscribe(channel(at)), held(model));
            }
            Op::PUnsubscribe { sub, pattern: at } => {
                let (sub, model) = &mut subs[of(sub)];
                model.patterns.retain(|held| *held != pattern(at));
                assert_eq!(sub.punsubscribe(pattern(at)), held(model));
            }
            Op::UnsubscribeAll { sub, patterns } => {
                let (sub, model) = &mut subs[of(sub)];
                let left = if patterns {
                    model.patterns.clear();
                    sub.punsubscribe_all()
                } else {
                    model.channels.clear();
                    sub.unsubscribe_all()
                };
                assert_eq!(left, held(model));
            }
            Op::Recv { sub } => {
                let (sub, model) = &mut subs[of(sub)];
                recv(sub, model);
            }
            Op::Close { sub } => {
                let (sub, model) = &mut subs[of(sub)];
                sub.close();
                model.close();
            }
            Op::Drop { sub } => drop(subs.swap_remove(of(sub))),
        }
        look(&bus, &subs);
    }
    for (sub, model) in &mut subs {
        while !model.queue.is_empty() {
            recv(sub, model);
        }
    }
    drop(subs);
    let stats = bus.stats();
    assert_eq!((stats.channels, stats.patterns, stats.subscribers), (0, 0, 0));
    assert_eq!(stats.published, u64::from(serial));
});

fn held(model: &Model) -> usize {
    model.channels.len() + model.patterns.len()
}

fn recv(sub: &Subscriber<u32>, model: &mut Model) {
    match sub.try_recv() {
        Ok(Event::Lagged { missed }) => assert_eq!(missed, std::mem::take(&mut model.lost)),
        Ok(event) => {
            assert_eq!(model.lost, 0, "a loss is told of before the next message");
            let message = event.into_message().expect("no lifecycle events were asked for");
            let (payload, source) = model.queue.pop_front().expect("a message too many");
            assert_eq!((message.payload, message.pattern()), (payload, source.as_deref()));
            model.received += 1;
        }
        Err(error) => {
            assert!(model.queue.is_empty() && model.lost == 0);
            let expected = if model.closed { TryRecvError::Closed } else { TryRecvError::Empty };
            assert_eq!(error, expected);
        }
    }
}

fn look(bus: &Bus<u32>, subs: &[(Subscriber<u32>, Model)]) {
    for (sub, model) in subs {
        let info = sub.info();
        assert_eq!((info.channels, info.patterns), (model.channels.len(), model.patterns.len()));
        assert_eq!((info.depth, info.received, info.missed), (
            model.queue.len(),
            model.received,
            model.missed
        ));
        assert_eq!(sub.channels().iter().map(|name| &**name).collect::<Vec<_>>(), model.channels);
        assert_eq!(sub.patterns(), model.patterns);
        assert_eq!(sub.is_closed(), model.closed);
    }
    for name in CHANNELS {
        let holders = subs.iter().filter(|(_, model)| model.channels.contains(&name)).count();
        assert_eq!(bus.subscriber_count(name), holders);
        assert_eq!(bus.channels().iter().any(|listed| **listed == *name), holders > 0);
    }
    let mut patterns: Vec<&Pattern> = subs.iter().flat_map(|(_, model)| &model.patterns).collect();
    patterns.sort();
    patterns.dedup();
    assert_eq!(bus.pattern_count(), patterns.len());
}
