//! Response check that stops at the first deciding member, so that a result of megabytes is not parsed.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// True for a response. The bytes after the deciding member may still be malformed.
#[must_use]
pub fn is_response(message: &[u8]) -> bool {
    let told = Cell::new(false);
    // The parse error is expected: it stops the reader early, or the message has no such member.
    let _ = serde_json::Deserializer::from_slice(message).deserialize_map(Look(&told));
    told.get()
}

struct Look<'c>(&'c Cell<bool>);

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                // A `null` member counts as absent; any other value ends the scan.
                "result" | "error" | "method" => {
                    let seed = NullOr(self.0, key != "method");
                    map.next_value_seed(seed)?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Accepts null. Any other value sets the cell and ends the scan with an error.
struct NullOr<'c>(&'c Cell<bool>, bool);

impl NullOr<'_> {
    fn told<E: serde::de::Error>(&self) -> E {
        self.0.set(self.1);
        E::custom("told")
    }
}

impl<'de> DeserializeSeed<'de> for NullOr<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NullOr<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.told())
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.told())
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.told())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.told())
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.told())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.told())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.told())
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::is_response;

    #[test]
    fn the_first_member_that_tells_decides_and_the_rest_is_not_read() {
        for (message, told) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"#, true),
            (r#"{"error":{},"id":1}"#, true),
            (r#" {"id":{"result":1},"method":"result"}"#, false),
            (r#"{"jsonrpc":"2.0","resul"#, false),
            (r#"{"r\u0065sult":1}"#, true),
            (r#"{"method":null,"result":"#, false),
            (r#"{"error":null,"method":null,"id":1,"result":{"#, true),
            (r#"{"result":null,"error":[1"#, true),
            (r#"{"result":null,"method":"x","id":1}"#, false),
            (r#"{"id":1}"#, false),
            (r#"["result"]"#, false),
            ("", false),
        ] {
            assert_eq!(is_response(message.as_bytes()), told, "{message}");
        }
    }
}
