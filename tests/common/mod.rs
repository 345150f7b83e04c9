//! What several test files share: events as text, the books, and waiting with a bound.
#![allow(dead_code)]

use std::fmt::Display;

use fanout::{Event, Subscriber, TryRecvError};
use proptest::test_runner::Config;

#[path = "../support/waiting.rs"]
mod waiting;

#[allow(unused_imports)]
pub use waiting::{WATCHDOG, linger, step, steps, watched};

/// Settings for so many cases of a property. A failure prints its smallest input; no file is written.
pub fn cases(cases: u32) -> Config {
    Config { failure_persistence: None, ..Config::with_cases(cases) }
}

/// An event the way `redis-cli` would print it, on one line.
pub fn text<P: Display>(event: &Event<P>) -> String {
    match event {
        Event::Subscribe { channel, count } => format!("subscribe {channel} {count}"),
        Event::Unsubscribe { channel, count } => format!("unsubscribe {channel} {count}"),
        Event::PSubscribe { pattern, count } => format!("psubscribe {pattern} {count}"),
        Event::PUnsubscribe { pattern, count } => format!("punsubscribe {pattern} {count}"),
        Event::Message(message) => {
            assert_eq!(message.pattern(), None, "a Message that came by a pattern");
            format!("message {} {}", message.channel(), message.payload)
        }
        Event::PMessage(message) => {
            let pattern = message.pattern().expect("a PMessage without a pattern");
            format!("pmessage {pattern} {} {}", message.channel(), message.payload)
        }
        Event::Lagged { missed } => format!("lagged {missed}"),
        other => panic!("an event that no contract names: {}", kind(other)),
    }
}

fn kind<P>(event: &Event<P>) -> &'static str {
    if event.message().is_some() { "a message" } else { "no message" }
}

/// All that can be read now, with a last `closed` where the stream has ended.
pub fn drain<P: Display>(sub: &Subscriber<P>) -> Vec<String> {
    let mut stream = Vec::new();
    loop {
        match sub.try_recv() {
            Ok(event) => stream.push(text(&event)),
            Err(TryRecvError::Empty) => return stream,
            Err(TryRecvError::Closed) => {
                stream.push("closed".to_owned());
                return stream;
            }
        }
    }
}

/// The payloads of all messages that can be read now; other events are skipped.
pub fn payloads<P>(sub: &Subscriber<P>) -> Vec<P> {
    let mut all = Vec::new();
    while let Ok(message) = sub.try_recv_message() {
        all.push(message.payload);
    }
    all
}

/// Asserts that an inbox accounts for all that matched.
#[track_caller]
pub fn assert_books<P: Clone + Send + 'static>(sub: &Subscriber<P>, matched: u64) {
    let info = sub.info();
    assert_eq!(
        matched,
        info.received + info.missed + info.depth as u64,
        "matched == received + missed + depth: {info:?}"
    );
    assert_eq!(info.missed, sub.missed());
    assert_eq!(info.depth, sub.len());
    assert_eq!(info.depth, sub.receiver().len(), "at rest all that waits is in the queue");
    assert!(info.depth <= info.high_water, "{info:?}");
}
