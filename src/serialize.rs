//! Feature `serde`, as far as it is not derived: messages and events as Redis names them, and patterns as text.

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::{Event, Message};
use crate::pattern::Pattern;

/// `{"channel": …, "payload": …}`, and `"pattern"` if one brought the message.
impl<P: Serialize> Serialize for Message<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_message(self, None, serializer)
    }
}

fn serialize_message<P: Serialize, S: Serializer>(
    message: &Message<P>,
    kind: Option<&str>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let pattern = message.matched_by();
    let count = 2 + usize::from(kind.is_some()) + usize::from(pattern.is_some());
    let mut fields = serializer.serialize_struct("Message", count)?;
    match kind {
        Some(kind) => fields.serialize_field("type", kind)?,
        None => fields.skip_field("type")?,
    }
    match pattern {
        Some(pattern) => fields.serialize_field("pattern", pattern)?,
        None => fields.skip_field("pattern")?,
    }
    fields.serialize_field("channel", message.channel())?;
    fields.serialize_field("payload", &message.payload)?;
    fields.end()
}

/// `{"type": …}` and the fields of the event. The types are redis-server's: `message`, `pmessage`, `subscribe`,
/// `unsubscribe`, `psubscribe`, `punsubscribe`; and `lagged`.
impl<P: Serialize> Serialize for Event<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Message(message) => serialize_message(message, Some("message"), serializer),
            Self::PMessage(message) => serialize_message(message, Some("pmessage"), serializer),
            Self::Subscribe { channel, count } => {
                serialize_change("subscribe", "channel", &**channel, *count, serializer)
            }
            Self::Unsubscribe { channel, count } => {
                serialize_change("unsubscribe", "channel", &**channel, *count, serializer)
            }
            Self::PSubscribe { pattern, count } => {
                serialize_change("psubscribe", "pattern", pattern, *count, serializer)
            }
            Self::PUnsubscribe { pattern, count } => {
                serialize_change("punsubscribe", "pattern", pattern, *count, serializer)
            }
            Self::Lagged { missed } => {
                let mut fields = serializer.serialize_struct("Event", 2)?;
                fields.serialize_field("type", "lagged")?;
                fields.serialize_field("missed", missed)?;
                fields.end()
            }
        }
    }
}

/// Writes a lifecycle event.
fn serialize_change<T: Serialize + ?Sized, S: Serializer>(
    kind: &str,
    field: &'static str,
    name: &T,
    count: usize,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut fields = serializer.serialize_struct("Event", 3)?;
    fields.serialize_field("type", kind)?;
    fields.serialize_field(field, name)?;
    fields.serialize_field("count", &count)?;
    fields.end()
}

/// A Redis pattern is its text, a shell glob `{"glob": …}`.
impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_redis() {
            return serializer.serialize_str(self.as_str());
        }
        let mut fields = serializer.serialize_struct("Pattern", 1)?;
        fields.serialize_field("glob", self.as_str())?;
        fields.end()
    }
}

/// Text is a Redis pattern; `{"redis": …}` and `{"glob": …}` name the dialect.
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PatternVisitor)
    }
}

struct PatternVisitor;

impl<'de> Visitor<'de> for PatternVisitor {
    type Value = Pattern;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the text of a Redis pattern, or a map with `redis` or `glob`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Pattern, E> {
        Ok(Pattern::redis(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pattern, A::Error> {
        let Some((dialect, text)) = map.next_entry::<String, String>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        let pattern = match &*dialect {
            "redis" => Pattern::redis(&text),
            #[cfg(feature = "glob")]
            "glob" => Pattern::glob(&text).map_err(A::Error::custom)?,
            other => return Err(A::Error::unknown_field(other, &["redis", "glob"])),
        };
        if let Some(another) = map.next_key::<String>()? {
            return Err(A::Error::custom(format_args!("`{another}` beside `{dialect}`")));
        }
        Ok(pattern)
    }
}
