//! Feature `metrics`: the figures of a bus, written to the recorder of the crate `metrics`.

use metrics::{Label, Unit};

use crate::engine::Engine;
use crate::stats::{Stats, SubscriberInfo};

/// A name, a description, and where the figure is.
type Figure<T, N> = (&'static str, &'static str, fn(&T) -> N);

/// Counters of the whole bus.
const COUNTERS: [Figure<Stats, u64>; 9] = [
    ("fanout_published_total", "Publishes", |stats| stats.published),
    ("fanout_matched_total", "Messages to deliver", |stats| stats.matched),
    ("fanout_delivered_total", "Messages that entered an inbox", |stats| stats.delivered),
    ("fanout_dropped_total", "Messages that did not enter an inbox", |stats| stats.dropped),
    ("fanout_evicted_total", "Messages removed unread to make room", |stats| stats.evicted),
    (
        "fanout_conflated_total",
        "Messages replaced unread by a newer one of their channel",
        |stats| stats.conflated,
    ),
    ("fanout_received_total", "Messages taken from inboxes", |stats| stats.received),
    ("fanout_discarded_total", "Messages unread when their inbox was dropped", |stats| {
        stats.discarded
    }),
    ("fanout_disconnected_total", "Subscribers closed because their inbox was full", |stats| {
        stats.disconnected
    }),
];

/// Gauges of the whole bus.
const GAUGES: [Figure<Stats, usize>; 3] = [
    ("fanout_channels", "Channels that have a subscriber of their own", |stats| stats.channels),
    ("fanout_patterns", "Distinct patterns that are subscribed", |stats| stats.patterns),
    ("fanout_subscribers", "Subscribers", |stats| stats.subscribers),
];

/// Counters of each subscriber that has a label.
const INBOX_COUNTERS: [Figure<SubscriberInfo, u64>; 3] = [
    ("fanout_inbox_received_total", "Messages taken from the inbox", |info| info.received),
    ("fanout_inbox_missed_total", "Messages lost, evicted or refused", |info| info.missed),
    ("fanout_inbox_conflated_total", "Messages replaced by a newer one of their channel", |info| {
        info.conflated
    }),
];

/// Gauges of each subscriber that has a label.
const INBOX_GAUGES: [Figure<SubscriberInfo, usize>; 4] = [
    ("fanout_inbox_depth", "Messages in the inbox", |info| info.depth),
    ("fanout_inbox_capacity", "Messages that the inbox can hold", |info| info.capacity),
    ("fanout_inbox_high_water", "The largest depth that was sampled", |info| info.high_water),
    ("fanout_inbox_subscriptions", "Channels and patterns held", |info| {
        info.channels + info.patterns
    }),
];

/// Writes the figures of now.
pub(crate) fn record<P>(engine: &Engine<P>) {
    describe();
    let stats = engine.stats();
    for (name, _, figure) in COUNTERS {
        metrics::counter!(name).absolute(figure(&stats));
    }
    for (name, _, figure) in GAUGES {
        metrics::gauge!(name).set(figure(&stats) as f64);
    }
    for info in engine.infos() {
        let Some(label) = &info.label else { continue };
        let labels = vec![
            Label::new("subscriber", label.to_string()),
            Label::new("id", info.id.to_string()),
        ];
        for (name, _, figure) in INBOX_COUNTERS {
            metrics::counter!(name, labels.clone()).absolute(figure(&info));
        }
        for (name, _, figure) in INBOX_GAUGES {
            metrics::gauge!(name, labels.clone()).set(figure(&info) as f64);
        }
    }
}

/// Describes all of them, each time: the recorder may have been installed since.
fn describe() {
    let bus = COUNTERS.iter().map(|&(name, text, _)| (name, text));
    for (name, text) in bus.chain(INBOX_COUNTERS.iter().map(|&(name, text, _)| (name, text))) {
        metrics::describe_counter!(name, Unit::Count, text);
    }
    let bus = GAUGES.iter().map(|&(name, text, _)| (name, text));
    for (name, text) in bus.chain(INBOX_GAUGES.iter().map(|&(name, text, _)| (name, text))) {
        metrics::describe_gauge!(name, Unit::Count, text);
    }
}
