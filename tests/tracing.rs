//! Feature `tracing`: what is told, and that a tracing subscriber may do anything.
#![cfg(feature = "tracing")]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanout::{Bus, Overflow};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps each event as a line, and calls `then` with it.
struct Log<F> {
    lines: Arc<Mutex<Vec<String>>>,
    level: Level,
    then: F,
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}:")),
            // It differs from test to test.
            "id" => {}
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl<F: Fn(&str) + 'static> Subscriber for Log<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "fanout" && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let line = format!("{} {}", event.metadata().level(), line.0);
        self.lines.lock().unwrap().push(line.clone());
        (self.then)(&line);
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Returns what `code` has told at `level` and above.
fn told(
    level: Level,
    then: impl Fn(&str) + Send + Sync + 'static,
    code: impl FnOnce(),
) -> Vec<String> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let log = Log { lines: Arc::clone(&lines), level, then };
    tracing::subscriber::with_default(log, code);
    std::mem::take(&mut *lines.lock().unwrap())
}

fn bus(overflow: Overflow) -> Bus<u32> {
    Bus::builder().capacity(1).overflow(overflow).build()
}

#[test]
fn subscribing_unsubscribing_and_closing_are_told() {
    let lines = told(
        Level::DEBUG,
        |_| (),
        || {
            let bus = bus(Overflow::DropOldest);
            let sub = bus.subscriber_builder().label("reader").subscribe("a").unwrap();
            sub.psubscribe("b*").unwrap();
            sub.unsubscribe("a");
            sub.punsubscribe_all();
            drop(sub);
            bus.close();
        },
    );
    assert_eq!(
        lines,
        [
            r#"DEBUG subscribed: label="reader" to="a" count=1"#,
            r#"DEBUG subscribed: label="reader" to=Pattern::redis("b*") count=2"#,
            r#"DEBUG unsubscribed: label="reader" from="a" count=1"#,
            r#"DEBUG unsubscribed: label="reader" from=Pattern::redis("b*") count=0"#,
            r#"DEBUG subscriber closed: label="reader" reason=Subscriber"#,
            "DEBUG bus closed:",
        ]
    );
}

#[test]
fn the_first_loss_since_the_last_lagged_is_told() {
    for (overflow, policy) in [
        (Overflow::DropOldest, "DropOldest"),
        (Overflow::DropNewest, "DropNewest"),
        (Overflow::Block { timeout: Some(Duration::ZERO) }, "Block { timeout: Some(0ns) }"),
    ] {
        let lines = told(
            Level::WARN,
            |_| (),
            || {
                let bus = bus(overflow);
                let sub = bus.subscriber_builder().label("slow").subscribe("a").unwrap();
                for _ in 0..2 {
                    (0..5_u32).for_each(|n| _ = bus.publish("a", n));
                    // `Subscribe` the first time, then `Lagged` and the message.
                    while sub.try_recv().is_ok() {}
                }
            },
        );
        let line = format!(r#"WARN messages are lost: label="slow" channel="a" policy={policy}"#);
        assert_eq!(lines, [line.clone(), line]);
    }
}

/// The channel that lost a message, not the one whose message took its place.
#[test]
fn a_loss_is_told_with_the_channel_of_the_lost_message() {
    for overflow in [Overflow::DropOldest, Overflow::Conflate, Overflow::DropNewest] {
        let lines = told(
            Level::WARN,
            |_| (),
            || {
                let bus = bus(overflow);
                let _sub = bus.psubscribe("*").unwrap();
                bus.publish("old", 1_u32);
                bus.publish("new", 2_u32);
            },
        );
        let lost = if overflow == Overflow::DropNewest { "new" } else { "old" };
        assert!(lines.len() == 1 && lines[0].contains(&format!("channel={lost:?}")), "{lines:?}");
    }
}

#[test]
fn a_disconnect_is_told_with_its_channel() {
    let lines = told(
        Level::WARN,
        |_| (),
        || {
            let bus = bus(Overflow::Disconnect);
            let _sub = bus.subscriber_builder().label("slow").psubscribe("*").unwrap();
            (0..3_u32).for_each(|n| _ = bus.publish("a", n));
        },
    );
    assert_eq!(
        lines,
        [
            r#"WARN messages are lost: label="slow" channel="a" policy=Disconnect"#,
            r#"WARN disconnected: the inbox was full: label="slow" channel="a" policy=Disconnect"#,
        ]
    );
}

#[test]
fn who_hears_of_a_loss_may_use_the_bus() {
    let bus = bus(Overflow::DropNewest);
    let (weak, log) = (bus.downgrade(), bus.subscribe("log").unwrap());
    let lines = told(
        Level::WARN,
        move |line| {
            if line.contains(r#"channel="a""#) {
                let bus = weak.upgrade().unwrap();
                // The channel's own turn is free, too.
                bus.publish("a", 7_u32);
                bus.publish("log", 8_u32);
                drop(bus.subscribe("a").unwrap());
            }
        },
        || {
            let sub = bus.subscribe("a").unwrap();
            (0..2_u32).for_each(|n| _ = bus.publish("a", n));
            drop(sub);
        },
    );
    assert_eq!(lines.len(), 1);
    assert_eq!(log.recv_message().unwrap().payload, 8);
}

#[test]
fn who_panics_while_a_subscriber_or_a_bus_is_dropped_harms_nobody() {
    let bus = bus(Overflow::Disconnect);
    let full = bus.subscribe("a").unwrap();
    let dropped = bus.subscribe("b").unwrap();
    told(
        Level::DEBUG,
        |_| panic!("in a tracing subscriber"),
        || {
            assert_eq!(bus.publish("a", 1_u32).delivered, 1);
            assert_eq!(bus.publish("a", 2_u32).dropped, 1);
            drop(dropped);
            drop(bus);
        },
    );
    assert!(full.is_closed());
}

#[test]
fn closing_in_a_turn_is_not_told_in_that_turn() {
    struct Closing(fanout::WeakBus<Closing>);

    impl Clone for Closing {
        fn clone(&self) -> Self {
            if let Some(bus) = self.0.upgrade() {
                bus.close();
            }
            Self(self.0.clone())
        }
    }

    let bus: Bus<Closing> = Bus::new();
    let _subs = [bus.subscribe("a").unwrap(), bus.subscribe("a").unwrap()];
    let lines = told(Level::DEBUG, |_| (), || _ = bus.publish("a", Closing(bus.downgrade())));
    assert!(bus.is_closed());
    assert_eq!(lines, [""; 0]);
}

#[test]
fn who_panics_at_a_loss_harms_no_publish() {
    let bus = bus(Overflow::DropOldest);
    let sub = bus.subscribe("a").unwrap();
    told(
        Level::WARN,
        |_| panic!("in a tracing subscriber"),
        || {
            assert_eq!(bus.publish("a", 1_u32).delivered, 1);
            assert_eq!(bus.publish("a", 2_u32).delivered, 1);
        },
    );
    assert_eq!(sub.recv_message().unwrap().payload, 2);
}

#[test]
fn who_panics_at_a_loss_hears_of_the_others() {
    let lines = told(
        Level::WARN,
        |_| panic!("told"),
        || {
            let bus = bus(Overflow::DropNewest);
            let _subs = [(); 3].map(|()| bus.subscribe("c").unwrap());
            (0..2_u32).for_each(|n| _ = bus.publish("c", n));
        },
    );
    assert_eq!(lines.len(), 3, "{lines:?}");
}
