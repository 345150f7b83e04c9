//! Inboxes of all policies that do not wait account for each loss as a model does.

mod support;

use std::collections::VecDeque;

use fanout::{Bus, Event, Overflow, Subscriber, TryRecvError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::{REFUSE, bounded, cases, receipt, text};

struct Model {
    sub: Subscriber<u32>,
    overflow: Overflow,
    capacity: usize,
    /// The beginnings of the messages of a publish: one for the channel, one for each pattern.
    by: Vec<&'static str>,
    queue: VecDeque<String>,
    closed: bool,
    ended: bool,
    unreported: u64,
    evicted: u64,
    refused: u64,
    matched: u64,
    received: u64,
    /// The largest depth, and the largest that a receive or an overflow has sampled.
    deepest: usize,
    sampled: usize,
}

impl Model {
    fn new(bus: &Bus<u32>, overflow: Overflow, capacity: usize, patterns: usize) -> Self {
        let sub = bounded(bus, capacity, overflow).subscribe("a").unwrap();
        let by = [&["message a"], &["pmessage a* a", "pmessage ? a"][..patterns]].concat();
        sub.psubscribe_many(["a*", "?"].iter().take(patterns).copied()).unwrap();
        Self {
            sub,
            overflow,
            capacity,
            by,
            queue: VecDeque::new(),
            closed: false,
            ended: false,
            unreported: 0,
            evicted: 0,
            refused: 0,
            matched: 0,
            received: 0,
            deepest: 0,
            sampled: 0,
        }
    }

    /// Returns how many messages of a publish enter the inbox and how many do not.
    fn publish(&mut self, payload: u32) -> (usize, usize) {
        if self.closed {
            return (0, 0);
        }
        let mut dropped = 0;
        for by in &self.by {
            self.matched += 1;
            let full = self.queue.len() == self.capacity;
            if full {
                self.sampled = self.capacity;
                self.unreported += 1;
            }
            if full && self.overflow == Overflow::DropOldest {
                self.queue.pop_front();
                self.evicted += 1;
            } else if full {
                self.refused += 1;
                dropped += 1;
                self.closed |= self.overflow == Overflow::Disconnect;
                continue;
            }
            self.queue.push_back(format!("{by} {payload}"));
            self.deepest = self.deepest.max(self.queue.len());
        }
        (self.by.len() - dropped, dropped)
    }

    fn recv(&mut self) -> Result<String, TryRecvError> {
        if self.unreported > 0 {
            return Ok(format!("lagged {}", std::mem::take(&mut self.unreported)));
        }
        self.sampled = self.sampled.max(self.queue.len());
        match self.queue.pop_front() {
            Some(message) => {
                self.received += 1;
                Ok(message)
            }
            None if self.closed => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let info = self.sub.info();
        prop_assert_eq!(info.missed, self.evicted + self.refused);
        prop_assert_eq!(info.received, self.received);
        prop_assert_eq!(info.depth, self.queue.len());
        prop_assert_eq!(self.matched, info.received + info.missed + info.depth as u64);
        prop_assert_eq!(self.sub.missed(), info.missed);
        prop_assert_eq!((self.sub.len(), self.sub.is_empty()), (info.depth, info.depth == 0));
        let least = self.sampled - self.sampled / 8;
        prop_assert!(info.high_water >= least && info.high_water <= self.deepest);
        prop_assert_eq!(self.sub.is_closed(), self.closed);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Publish,
    Recv(Index),
    /// By `recv_message`, which skips `Lagged`.
    Message(Index),
    /// By the queue itself, which does not yield `Lagged`.
    Queue(Index),
    Close(Index),
    CloseBus,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        12 => Just(Call::Publish),
        8 => any::<Index>().prop_map(Call::Recv),
        3 => any::<Index>().prop_map(Call::Message),
        3 => any::<Index>().prop_map(Call::Queue),
        1 => any::<Index>().prop_map(Call::Close),
        1 => Just(Call::CloseBus),
    ]
}

fn policy() -> impl Strategy<Value = Overflow> {
    let never_waiting = [Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect, REFUSE];
    select(never_waiting.to_vec())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn every_loss_is_accounted_for(
        inboxes in vec((policy(), 1..5usize, 0..3usize), 1..4),
        calls in vec(call(), 0..60),
    ) {
        let bus: Bus<u32> = Bus::new();
        let mut models: Vec<Model> = inboxes
            .into_iter()
            .map(|(overflow, capacity, patterns)| Model::new(&bus, overflow, capacity, patterns))
            .collect();
        let (mut delivered, mut dropped) = (0, 0);
        for (payload, call) in (0..).zip(calls) {
            match call {
                Call::Publish => {
                    let sums: Vec<_> = models.iter_mut().map(|model| model.publish(payload)).collect();
                    let entered: usize = sums.iter().map(|sum| sum.0).sum();
                    let refused: usize = sums.iter().map(|sum| sum.1).sum();
                    prop_assert_eq!(bus.publish("a", payload), receipt(entered, refused));
                    delivered += entered as u64;
                    dropped += refused as u64;
                }
                Call::Recv(at) => {
                    let model = at.get_mut(&mut models);
                    let seen = model.sub.try_recv().map(|event| text(&event));
                    prop_assert_eq!(&seen, &model.recv());
                    model.ended |= seen == Err(TryRecvError::Closed);
                }
                Call::Message(at) => {
                    let model = at.get_mut(&mut models);
                    model.unreported = 0;
                    let seen = model.sub.try_recv_message().map(|message| text(&message.into()));
                    prop_assert_eq!(seen, model.recv());
                }
                Call::Queue(at) => {
                    let model = at.get_mut(&mut models);
                    let seen = model.sub.receiver().try_recv().ok();
                    let expected = model.queue.pop_front();
                    model.received += u64::from(expected.is_some());
                    prop_assert_eq!(seen.map(|message| text(&Event::from(message))), expected);
                }
                Call::Close(at) => {
                    let model = at.get_mut(&mut models);
                    model.sub.close();
                    model.closed = true;
                }
                Call::CloseBus => {
                    bus.close();
                    models.iter_mut().for_each(|model| model.closed = true);
                }
            }
            for model in &models {
                model.check()?;
            }
        }
        let stats = bus.stats();
        prop_assert_eq!((stats.matched, stats.delivered, stats.dropped), (delivered + dropped, delivered, dropped));
        prop_assert_eq!(stats.evicted, models.iter().map(|model| model.evicted).sum::<u64>());
        // To the end of the stream: `Lagged` has reported every loss.
        for model in &mut models {
            loop {
                let expected = model.recv();
                prop_assert_eq!(model.sub.try_recv().map(|event| text(&event)), expected.clone());
                if expected.is_err() {
                    break;
                }
            }
            model.check()?;
        }
    }
}
