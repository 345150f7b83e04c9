//! Looking into a [`Bus`]: names, counts, figures.

use std::sync::Arc;

use super::Bus;
use crate::pattern::Pattern;
use crate::publish;
#[cfg(doc)]
use crate::stats::Receipt;
use crate::stats::{Stats, SubscriberInfo};
#[cfg(doc)]
use crate::subscriber::{Subscriber, SubscriberBuilder};
#[cfg(doc)]
use crate::topic::Topic;

impl<P: Clone + Send + 'static> Bus<P> {
    /// Returns the names of all channels that have a subscriber of their own, in no particular
    /// order.
    ///
    /// This is Redis's `PUBSUB CHANNELS`: a channel that only patterns match, or that only a
    /// [`Topic`] holds, is not listed. A closed bus has no channels.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of channels on the bus.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// sub.psubscribe("game:*")?;
    /// bus.publish("game:7", "start");
    /// assert_eq!(bus.channels(), ["news".into()]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "PUBSUB CHANNELS")]
    #[doc(alias = "PUBSUB SHARDCHANNELS")]
    pub fn channels(&self) -> Vec<Arc<str>> {
        self.engine.check_reentrancy();
        self.engine.trie.channels(None)
    }

    /// Returns the names of the channels that have a subscriber of their own and match `pattern`.
    ///
    /// The names come in no particular order. A string is a Redis glob, as in Redis's `PUBSUB
    /// CHANNELS pattern`. A closed bus has no channels.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of channels on the bus, each of which is matched once.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscriber();
    /// sub.subscribe_many(["sensors/roof/temp", "sensors/hall/hum", "news"])?;
    /// assert_eq!(bus.channels_matching("sensors/*").len(), 2);
    /// # #[cfg(feature = "glob")] {
    /// let temps = bus.channels_matching(Pattern::glob("sensors/*/temp")?);
    /// assert_eq!(temps, ["sensors/roof/temp".into()]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PUBSUB CHANNELS")]
    pub fn channels_matching(&self, pattern: impl Into<Pattern>) -> Vec<Arc<str>> {
        let pattern = pattern.into();
        self.engine.check_reentrancy();
        self.engine.trie.channels(Some(&pattern))
    }

    /// Returns the distinct patterns that are subscribed, in no particular order.
    ///
    /// A text that is subscribed in both dialects is two patterns. A closed bus has no patterns.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// O(n log n) in the number of distinct patterns.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::{Bus, Pattern};
    ///
    /// let bus: Bus = Bus::new();
    /// let first = bus.psubscribe("user:*")?;
    /// let second = bus.psubscribe("user:*")?;
    /// assert_eq!(bus.patterns(), [Pattern::redis("user:*")]);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn patterns(&self) -> Vec<Pattern> {
        self.engine.check_reentrancy();
        self.engine.trie.patterns()
    }

    /// Returns the number of subscribers of `channel` itself.
    ///
    /// This is Redis's `PUBSUB NUMSUB`: patterns that match the channel are not counted. Clones of
    /// a subscriber count as one. On a closed bus the number is 0.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let player = bus.subscribe("game:7")?;
    /// let spectator = bus.psubscribe("game:*")?;
    /// assert_eq!(bus.subscriber_count("game:7"), 1);
    /// assert_eq!(bus.match_count("game:7"), 2);
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "PUBSUB NUMSUB")]
    #[doc(alias = "PUBSUB SHARDNUMSUB")]
    pub fn subscriber_count(&self, channel: &str) -> usize {
        self.engine.check_reentrancy();
        let trie = &self.engine.trie;
        trie.find(channel).map_or(0, |channel| trie.subscriber_count(&channel))
    }

    /// Returns the number of messages that a publish to `channel` would have to deliver now.
    ///
    /// This is what [`Receipt::matched`] would be: patterns are counted too, and a subscriber with
    /// [`dedupe`](SubscriberBuilder::dedupe) counts once. On a closed bus the number is 0.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Like the lookup of a [`publish`](Self::publish), and linear in the number of matching
    /// patterns. If a matching subscriber uses `dedupe`, linear in the number of recipients.
    pub fn match_count(&self, channel: &str) -> usize {
        publish::match_count_by_name(&self.engine, channel)
    }

    /// Returns the number of distinct patterns that are subscribed.
    ///
    /// This is Redis's `PUBSUB NUMPAT`. On a closed bus the number is 0.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    #[doc(alias = "PUBSUB NUMPAT")]
    pub fn pattern_count(&self) -> usize {
        self.engine.check_reentrancy();
        if self.is_closed() { 0 } else { self.engine.trie.pattern_count() }
    }

    /// Writes the figures of the bus to the recorder of the crate `metrics`.
    ///
    /// Call it when they are asked for; nothing is written by publishing and receiving. With the crate
    /// `metrics-exporter-prometheus`, that is before its handle `render`s the page, in the program's own HTTP handler
    /// (see `examples/metrics.rs`); with its own HTTP listener, from a timer. The exporter must be of a version that
    /// uses `metrics` 0.24. Without a recorder it does nothing. The figures are:
    ///
    /// | name | kind | what |
    /// | --- | --- | --- |
    /// | `fanout_published_total` | counter | [`Stats::published`] |
    /// | `fanout_matched_total`, `fanout_delivered_total`, `fanout_dropped_total` | counter | [`Stats::matched`], … |
    /// | `fanout_evicted_total`, `fanout_conflated_total` | counter | [`Stats::evicted`], … |
    /// | `fanout_received_total`, `fanout_discarded_total` | counter | [`Stats::received`], … |
    /// | `fanout_disconnected_total` | counter | [`Stats::disconnected`] |
    /// | `fanout_channels`, `fanout_patterns`, `fanout_subscribers` | gauge | [`Stats::channels`], … |
    /// | `fanout_inbox_depth`, `fanout_inbox_capacity`, `fanout_inbox_high_water` | gauge | [`SubscriberInfo::depth`], … |
    /// | `fanout_inbox_subscriptions` | gauge | channels and patterns held |
    /// | `fanout_inbox_received_total`, `fanout_inbox_missed_total` | counter | [`SubscriberInfo::received`], [`missed`](SubscriberInfo::missed) |
    /// | `fanout_inbox_conflated_total` | counter | [`SubscriberInfo::conflated`] |
    ///
    /// Those of inboxes have the labels `subscriber`, which is the [label](SubscriberBuilder::label), and `id`. Only
    /// subscribers with a label have them: half a million series would help nobody. When a subscriber is gone, its
    /// series stay as they were until the recorder forgets them (an exporter's *idle timeout*): what it lost after the
    /// last call is in the bus's totals alone. One that was disconnected counts as gone at once. The figures of two
    /// buses in one process need recorders of their own, such as `metrics::with_local_recorder`.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of channels and subscribers, like [`stats`](Self::stats) and
    /// [`subscribers`](Self::subscribers).
    #[cfg(feature = "metrics")]
    pub fn record_metrics(&self) {
        crate::metrics::record(&self.engine);
    }

    /// Returns the counters of the whole bus.
    ///
    /// They are exact while nothing is published or received. Otherwise they are read one after
    /// another and may not add up.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of channels and subscribers on the bus.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let sub = bus.subscribe("news")?;
    /// bus.publish("news", "hello");
    /// bus.publish("nobody:listens", "gone");
    /// let stats = bus.stats();
    /// assert_eq!((stats.published, stats.delivered, stats.received), (2, 1, 0));
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Returns a description of each subscriber, in no particular order.
    ///
    /// A subscriber is listed from its first subscription until it is closed or dropped, even if it
    /// has unsubscribed from everything since. On a closed bus the list is empty.
    ///
    /// # Panics
    ///
    /// Panics if called from a payload's `Clone` during a publish.
    ///
    /// # Complexity
    ///
    /// Linear in the number of subscribers and subscriptions on the bus.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanout::Bus;
    ///
    /// let bus: Bus = Bus::new();
    /// let slow = bus.subscriber_builder().label("slow").subscribe("news")?;
    /// bus.publish("news", "hello");
    /// for info in bus.subscribers() {
    ///     assert_eq!((info.label.as_deref(), info.depth), (Some("slow"), 1));
    /// }
    /// # Ok::<(), fanout::SubscribeError>(())
    /// ```
    #[doc(alias = "CLIENT LIST")]
    pub fn subscribers(&self) -> Vec<SubscriberInfo> {
        self.engine.infos()
    }
}
