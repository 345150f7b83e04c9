//! From the server to the bus.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use fanout::{Pattern, Subscriber, WeakBus};
use lru::LruCache;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::codec::Codec;
use crate::envelope::{Envelope, Origin, Stream};
use crate::event::{BridgeEvent, Log, add};
use crate::gate::{self, Gate};
use crate::life::Life;
use crate::upstream::Accepted;

/// Streams whose last number is remembered.
const STREAMS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Messages that are published here in a row until the other parts of the session have their turn. Tokio gives a task a
/// budget; whoever uses it up leaves nothing to the others, for as long as there is always something to do.
const TURN: u32 = 32;

/// Called with the channel, the bytes and the error of a message that cannot be decoded.
pub(crate) type OnUndecodable =
    Box<dyn FnMut(&str, &[u8], &(dyn std::error::Error + Send + Sync)) + Send>;

/// See the module's documentation.
pub(crate) struct Inward<P, C> {
    bus: WeakBus<P>,
    /// The bridge's own subscriber, which does not get what the bridge publishes.
    own: Subscriber<P>,
    accepted: Vec<Accepted>,
    codec: Arc<C>,
    confirmed: Confirmed,
    /// The number of the last message of each stream. One that is sent again has one that is not greater.
    numbers: LruCache<Stream, u64>,
    origin: Origin,
    on_undecodable: Option<OnUndecodable>,
    log: Arc<Log>,
}

/// What is subscribed upstream, as the server has confirmed it, at the place that the stream has reached.
///
/// A message comes once for each subscription that matches it, of the channel itself and of patterns. All of these
/// copies lie between the same two confirmations. So it is certain which of them there are, and the first is taken.
#[derive(Default)]
struct Confirmed {
    channels: HashSet<Vec<u8>>,
    patterns: Vec<(Vec<u8>, Pattern)>,
}

impl Confirmed {
    fn confirm(&mut self, kind: &PushKind, name: Vec<u8>) {
        match kind {
            PushKind::Subscribe | PushKind::SSubscribe => _ = self.channels.insert(name),
            PushKind::Unsubscribe | PushKind::SUnsubscribe => _ = self.channels.remove(&name),
            PushKind::PSubscribe if !self.patterns.iter().any(|(text, _)| *text == name) => {
                let pattern = Pattern::redis(&String::from_utf8_lossy(&name));
                self.patterns.push((name, pattern));
            }
            PushKind::PUnsubscribe => self.patterns.retain(|(text, _)| *text != name),
            _ => {}
        }
    }

    /// `true` if a copy that came by a pattern is the first.
    fn is_first(&self, by: &[u8], channel: &str) -> bool {
        let mut earlier = self.patterns.iter().take_while(|(text, _)| text != by);
        let is_later = self.channels.contains(channel.as_bytes())
            || earlier.any(|(_, pattern)| pattern.is_match(channel));
        !is_later
    }
}

impl<P: Clone + Send + 'static, C: Codec<P>> Inward<P, C> {
    pub(crate) fn new(
        bus: WeakBus<P>,
        own: Subscriber<P>,
        accepted: Vec<Accepted>,
        codec: Arc<C>,
        origin: Origin,
        on_undecodable: Option<OnUndecodable>,
        log: Arc<Log>,
    ) -> Self {
        let (confirmed, numbers) = (Confirmed::default(), LruCache::new(STREAMS));
        Self { bus, own, accepted, codec, confirmed, numbers, origin, on_undecodable, log }
    }

    /// Begins a session: nothing is confirmed.
    pub(crate) fn begin(&mut self) {
        self.confirmed = Confirmed::default();
    }

    /// Publishes what comes, until the connection breaks.
    pub(crate) async fn run(
        &mut self,
        mut pushes: UnboundedReceiver<PushInfo>,
        gate: &Gate,
        life: &Life,
    ) {
        let mut taken = 0;
        while let Some(push) = pushes.recv().await {
            taken += 1;
            if taken == TURN {
                taken = 0;
                tokio::task::yield_now().await;
            }
            if gate.leave(gate::weight(&push)) {
                // Until now nothing was read: that was no silence of the server's.
                life.heard();
            }
            let PushInfo { kind, data } = push;
            if kind == PushKind::Disconnection {
                return;
            }
            let mut data = data.into_iter().map(|value| match value {
                Value::BulkString(bytes) => Some(bytes),
                _ => None,
            });
            let mut next = || data.next().flatten();
            match kind {
                PushKind::Message | PushKind::SMessage => {
                    if let (Some(channel), Some(body)) = (next(), next()) {
                        self.message(None, &channel, body.into()).await;
                    }
                }
                PushKind::PMessage => {
                    if let (Some(by), Some(channel), Some(body)) = (next(), next(), next()) {
                        self.message(Some(&by), &channel, body.into()).await;
                    }
                }
                // One that was left when nothing was subscribed has no name.
                _ => next().into_iter().for_each(|name| self.confirmed.confirm(&kind, name)),
            }
        }
    }

    async fn message(&mut self, by: Option<&[u8]>, channel: &[u8], body: Bytes) {
        let Ok(channel) = std::str::from_utf8(channel) else {
            let lossy = String::from_utf8_lossy(channel);
            return self.undecodable(&lossy, &body, "the channel's name is not UTF-8".into());
        };
        let counters = &self.log.counters;
        if by.is_some_and(|by| !self.confirmed.is_first(by, channel)) {
            return add(&counters.duplicates, 1);
        }
        // More is subscribed than is accepted for a while, if at all.
        if !self.accepted.iter().any(|accepted| accepted.pattern.is_match(channel)) {
            return;
        }
        let payload = match Envelope::split(body.clone()) {
            Ok((None, payload)) => payload,
            Ok((Some(Envelope { stream, .. }), _)) if stream.origin == self.origin => {
                return add(&counters.echoes, 1);
            }
            Ok((Some(Envelope { stream, number }), payload)) => {
                let last = self.numbers.get_or_insert_mut(stream, || 0);
                if number <= *last {
                    return add(&counters.duplicates, 1);
                }
                *last = number;
                payload
            }
            Err(version) => {
                let error = format!("an envelope of version {version}, which is not known here");
                return self.undecodable(channel, &body, error.into());
            }
        };
        match self.codec.decode(payload.clone()) {
            Ok(payload) => {
                // It ends when the bus is closed.
                let Some(bus) = self.bus.upgrade() else { return };
                add(&counters.received, 1);
                bus.publish_except_async(channel, payload, &self.own).await;
            }
            Err(error) => self.undecodable(channel, &payload, error),
        }
    }

    fn undecodable(&mut self, channel: &str, body: &[u8], error: crate::CodecError) {
        add(&self.log.counters.undecodable, 1);
        if let Some(on_undecodable) = &mut self.on_undecodable {
            on_undecodable(channel, body, &*error);
        }
        self.log
            .tell(BridgeEvent::Undecodable { channel: channel.into(), error: error.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_copies_of_a_message_the_first_is_taken() {
        let mut confirmed = Confirmed::default();
        let confirm = |confirmed: &mut Confirmed, kind, name: &str| {
            confirmed.confirm(&kind, name.into());
        };
        confirm(&mut confirmed, PushKind::PSubscribe, "a*");
        confirm(&mut confirmed, PushKind::PSubscribe, "*b");
        confirm(&mut confirmed, PushKind::PSubscribe, "a*");
        assert!(confirmed.is_first(b"a*", "ab"));
        assert!(!confirmed.is_first(b"*b", "ab"));
        assert!(confirmed.is_first(b"*b", "b"));
        confirm(&mut confirmed, PushKind::Subscribe, "ab");
        assert!(!confirmed.is_first(b"a*", "ab"));
        confirm(&mut confirmed, PushKind::Unsubscribe, "ab");
        confirm(&mut confirmed, PushKind::PUnsubscribe, "a*");
        assert!(confirmed.is_first(b"*b", "ab"));
    }
}
