//! Batches (2025-03-26 only): splits an array of messages into views of its bytes.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{DecodeError, DecodeKind, decode_error, span_of};

/// Maximum number of messages in an agent's batch (SEMANTICS.md 6.1).
pub const MAX_BATCH: usize = 50;

/// True if the first non-space byte opens an array.
#[must_use]
pub fn is_batch(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// Splits a batch into messages without copying or parsing them.
///
/// # Errors
/// [`DecodeError`] if the bytes are not a well-formed array, or it is empty, longer than [`MAX_BATCH`] or nested.
pub fn split_batch(bytes: &Bytes) -> Result<Vec<Bytes>, DecodeError> {
    split(bytes, MAX_BATCH, "a batch has at most 50 messages")
}

/// Splits a backend's batch of at most `limit` messages.
///
/// # Errors
/// As [`split_batch`].
pub fn split_batch_of(bytes: &Bytes, limit: usize) -> Result<Vec<Bytes>, DecodeError> {
    split(bytes, limit, "the batch has more messages than the gateway takes at once")
}

fn split(bytes: &Bytes, limit: usize, longer: &'static str) -> Result<Vec<Bytes>, DecodeError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| DecodeError::new(DecodeKind::Parse, e.valid_up_to(), "the body is not valid UTF-8"))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = AtMost(limit).deserialize(&mut reader).and_then(|parts| reader.end().map(|()| parts));
    let Parts { parts, too_many } = read.map_err(|e| decode_error(text, &e))?;
    if too_many {
        return Err(DecodeError::of_batch(longer));
    }
    if parts.is_empty() {
        return Err(DecodeError::of_batch("a batch needs at least one message"));
    }
    if parts.iter().any(|part| part.get().starts_with('[')) {
        return Err(DecodeError::of_batch("a batch holds messages, not batches"));
    }
    Ok(parts.into_iter().map(|part| bytes.slice(span_of(text, part.get()))).collect())
}

/// Array reader that stores at most this many elements, so a body of a million brackets costs no memory.
struct AtMost(usize);

struct Parts<'a> {
    parts: Vec<&'a RawValue>,
    too_many: bool,
}

impl<'de> DeserializeSeed<'de> for AtMost {
    type Value = Parts<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct V(usize);
        impl<'de> Visitor<'de> for V {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of JSON-RPC messages")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while parts.len() < self.0 {
                    let Some(part) = seq.next_element()? else { return Ok(Parts { parts, too_many: false }) };
                    parts.push(part);
                }
                let mut too_many = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    too_many = true;
                }
                Ok(Parts { parts, too_many })
            }
        }
        deserializer.deserialize_seq(V(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<Vec<Bytes>, String> {
        split_batch(&Bytes::copy_from_slice(text.as_bytes())).map_err(|e| format!("{} {e}", e.kind.code()))
    }

    #[test]
    fn a_batch_is_cut_into_views_of_its_own_bytes() {
        let bytes = Bytes::from_static(b" [ {\"a\": [1]} ,\n{\"b\":1e400} ] ");
        let parts = split_batch(&bytes).unwrap();
        assert_eq!(parts, ["{\"a\": [1]}", "{\"b\":1e400}"]);
        assert_eq!(parts[0].as_ptr(), bytes[3..].as_ptr());
        assert!(is_batch(&bytes) && !is_batch(b" {\"a\":[]}") && !is_batch(b""));
    }

    #[test]
    fn what_is_no_batch_is_refused_with_its_code() {
        for (text, expected) in [
            ("[]", "-32600 a batch needs at least one message"),
            ("[[{}]]", "-32600 a batch holds messages, not batches"),
            ("[{},[]]", "-32600 a batch holds messages, not batches"),
            ("[{}", "-32700 "),
            ("[{}]x", "-32700 "),
            ("[{},]", "-32700 "),
        ] {
            let why = split(text).unwrap_err();
            assert!(why.starts_with(expected), "{text}: {why}");
        }
        let not_utf8 = split_batch(&Bytes::from_static(b"[\"\xff\"]")).unwrap_err();
        assert_eq!(not_utf8.kind, DecodeKind::Parse);
    }

    #[test]
    fn fifty_messages_are_a_batch_and_one_more_is_not() {
        let of = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(split(&of(MAX_BATCH)).map(|parts| parts.len()), Ok(MAX_BATCH));
        assert!(split(&of(MAX_BATCH + 1)).unwrap_err().contains("at most 50"));
        assert!(split(&of(100_000)).unwrap_err().contains("at most 50"));
    }
}
