//! Events as text, so that a whole stream can be compared with a list of lines.

use std::fmt::Display;

use fanout::{Event, Subscriber, TryRecvError};

/// Returns an event the way `redis-cli` would print it, on one line.
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

/// Receives everything that can be read now, as text. The last line is `closed` if the stream has ended.
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
