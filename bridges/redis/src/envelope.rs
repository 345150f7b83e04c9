//! What stands before a payload on the wire: who sent it, and as which message.
//!
//! ```text
//! 0xFF 'f' 'o'   so that no text can be taken for an envelope: 0xFF occurs in no UTF-8
//! version        1
//! origin         12 bytes, random for each process (or each bus that wants one of its own)
//! bridge         4 bytes, big-endian: which bridge of the process
//! number         8 bytes, big-endian: counts the messages of that bridge, from 1
//! payload        the rest
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

const MAGIC: [u8; 3] = [0xFF, b'f', b'o'];
const VERSION: u8 = 1;
const LEN: usize = 28;

/// Who published a message, and by which bridge. The messages of one stream are numbered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Stream {
    pub(crate) origin: Origin,
    bridge: u32,
}

/// Whose messages are one's own, so that they are dropped when they come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Origin([u8; 12]);

impl Origin {
    /// Returns a new one.
    ///
    /// # Panics
    ///
    /// If the operating system has no random bytes.
    pub(crate) fn new() -> Self {
        let mut origin = [0; 12];
        if let Err(error) = getrandom::fill(&mut origin) {
            panic!("the operating system has no random bytes: {error}");
        }
        Self(origin)
    }

    /// Returns that of the process.
    pub(crate) fn of_process() -> Self {
        static ORIGIN: OnceLock<Origin> = OnceLock::new();
        *ORIGIN.get_or_init(Self::new)
    }
}

impl Stream {
    /// Returns that of a new bridge.
    pub(crate) fn new(origin: Origin) -> Self {
        static BRIDGES: AtomicU32 = AtomicU32::new(0);
        // Relaxed: the numbers only have to be different.
        Self { origin, bridge: BRIDGES.fetch_add(1, Ordering::Relaxed) }
    }
}

/// Who sent a message, and as which one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Envelope {
    pub(crate) stream: Stream,
    pub(crate) number: u64,
}

impl Envelope {
    /// Writes the envelope; the payload follows it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.stream.origin.0);
        out.extend_from_slice(&self.stream.bridge.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
    }

    /// Takes the envelope off, if there is one.
    ///
    /// # Errors
    ///
    /// Returns the version of an envelope that is not known here.
    pub(crate) fn split(body: Bytes) -> Result<(Option<Self>, Bytes), u8> {
        let Some((&MAGIC, rest)) = body.split_first_chunk() else { return Ok((None, body)) };
        let Some((&[version], rest)) = rest.split_first_chunk() else { return Ok((None, body)) };
        if version != VERSION {
            return Err(version);
        }
        let parts = rest.split_first_chunk().and_then(|(&origin, rest)| {
            let (&bridge, rest) = rest.split_first_chunk()?;
            let (&number, _) = rest.split_first_chunk()?;
            Some((origin, u32::from_be_bytes(bridge), u64::from_be_bytes(number)))
        });
        let Some((origin, bridge, number)) = parts else { return Ok((None, body)) };
        let envelope = Self { stream: Stream { origin: Origin(origin), bridge }, number };
        Ok((Some(envelope), body.slice(LEN..)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let envelope = Envelope { stream: Stream::new(Origin::new()), number: u64::MAX - 1 };
        let mut body = Vec::new();
        envelope.write(&mut body);
        assert_eq!(body.len(), LEN);
        body.extend_from_slice(b"payload");
        let (read, payload) = Envelope::split(body.into()).unwrap();
        assert_eq!((read, &*payload), (Some(envelope), &b"payload"[..]));
    }

    #[test]
    fn anything_else_is_a_payload() {
        for body in [&b""[..], b"\xFF", b"\xFFfo", b"text", b"\xFFfo\x01 too short for an envelope"]
        {
            let body = &body[..body.len().min(LEN - 1)];
            let (read, payload) = Envelope::split(Bytes::copy_from_slice(body)).unwrap();
            assert_eq!((read, &*payload), (None, body));
        }
    }

    #[test]
    fn a_later_version_is_an_error() {
        assert_eq!(Envelope::split(Bytes::from_static(b"\xFFfo\x02anything")), Err(2));
    }

    #[test]
    fn bridges_of_a_process_are_told_apart_and_known_as_its_own() {
        let (first, second) =
            (Stream::new(Origin::of_process()), Stream::new(Origin::of_process()));
        assert_ne!(first, second);
        assert_eq!(first.origin, second.origin);
        assert_ne!(Origin::new(), Origin::new());
    }
}
