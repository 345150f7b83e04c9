//! Payloads as bytes.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;

/// Why a payload could not be encoded or decoded.
pub type CodecError = Box<dyn Error + Send + Sync>;

/// Turns payloads of type `P` into bytes, and bytes into payloads.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use fanout_redis::{Codec, CodecError};
///
/// /// Numbers, as text.
/// struct Decimal;
///
/// impl Codec<u64> for Decimal {
///     fn encode(&self, payload: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         out.extend_from_slice(payload.to_string().as_bytes());
///         Ok(())
///     }
///
///     fn decode(&self, bytes: Bytes) -> Result<u64, CodecError> {
///         Ok(std::str::from_utf8(&bytes)?.parse()?)
///     }
/// }
///
/// assert_eq!(Decimal.decode("17".into()).unwrap(), 17);
/// ```
pub trait Codec<P>: Send + Sync + 'static {
    /// Appends `payload` to `out`.
    ///
    /// # Errors
    ///
    /// The message is not sent, and counted as such.
    fn encode(&self, payload: &P, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Returns the payload that `bytes` stand for.
    ///
    /// # Errors
    ///
    /// The message is not published, is counted, and goes to
    /// [`on_undecodable`](crate::BridgeBuilder::on_undecodable).
    fn decode(&self, bytes: Bytes) -> Result<P, CodecError>;
}

/// The codec of payloads that are bytes or text: they go as they are.
///
/// It knows `Arc<[u8]>`, `Arc<str>`, [`Bytes`], `Vec<u8>` and `String`. Decoding [`Bytes`] copies nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Raw;

macro_rules! raw {
    ($($payload:ty, |$bytes:ident| $decode:expr;)*) => {$(
        impl Codec<$payload> for Raw {
            fn encode(&self, payload: &$payload, out: &mut Vec<u8>) -> Result<(), CodecError> {
                out.extend_from_slice(AsRef::<[u8]>::as_ref(&**payload));
                Ok(())
            }

            fn decode(&self, $bytes: Bytes) -> Result<$payload, CodecError> {
                Ok($decode)
            }
        }
    )*};
}

raw! {
    Arc<[u8]>, |bytes| Arc::from(&*bytes);
    Arc<str>, |bytes| Arc::from(std::str::from_utf8(&bytes)?);
    Bytes, |bytes| bytes;
    Vec<u8>, |bytes| bytes.into();
    String, |bytes| String::from_utf8(bytes.into())?;
}

/// The codec of payloads that serde can serialise and deserialise: as JSON.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Default, Debug)]
pub struct Json;

#[cfg(feature = "json")]
impl<P: serde::Serialize + serde::de::DeserializeOwned> Codec<P> for Json {
    fn encode(&self, payload: &P, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(out, payload)?)
    }

    fn decode(&self, bytes: Bytes) -> Result<P, CodecError> {
        Ok(serde_json::from_slice(&bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through<P: PartialEq + std::fmt::Debug>(codec: impl Codec<P>, payload: P, bytes: &[u8]) {
        let mut out = b"before".to_vec();
        codec.encode(&payload, &mut out).unwrap();
        assert_eq!(out.strip_prefix(b"before").unwrap(), bytes);
        assert_eq!(codec.decode(Bytes::copy_from_slice(bytes)).unwrap(), payload);
    }

    #[test]
    fn bytes_and_text_go_as_they_are() {
        through::<Arc<[u8]>>(Raw, Arc::from(&b"\xFF\x00"[..]), b"\xFF\x00");
        through::<Arc<str>>(Raw, "héllo".into(), "héllo".as_bytes());
        through::<Bytes>(Raw, Bytes::from_static(b"\xFF"), b"\xFF");
        through::<Vec<u8>>(Raw, vec![1, 2], b"\x01\x02");
        through::<String>(Raw, "text".to_owned(), b"text");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_decode_as_text() {
        assert!(Codec::<Arc<str>>::decode(&Raw, Bytes::from_static(b"\xFF")).is_err());
        assert!(Codec::<String>::decode(&Raw, Bytes::from_static(b"\xFF")).is_err());
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_takes_what_serde_takes() {
        through::<(u8, Option<String>)>(Json, (1, Some("a".into())), b"[1,\"a\"]");
        assert!(Codec::<u8>::decode(&Json, Bytes::from_static(b"{")).is_err());
    }
}
