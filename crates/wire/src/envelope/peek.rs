//! Whether a message answers a request, told from its first member that says so: a result of megabytes is not read for
//! that.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer as _,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

/// Whether this is a response. What comes behind the member that says so may still be no JSON.
#[must_use]
pub fn is_response(message: &[u8]) -> bool {
    let told = Cell::new(false);
    // The end of a message without such a member, or the error that ends the reading early.
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
                "result" | "error" => {
                    self.0.set(true);
                    return Err(A::Error::custom("told"));
                }
                "method" => return Err(A::Error::custom("told")),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
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
            (r#"{"id":1}"#, false),
            (r#"["result"]"#, false),
            ("", false),
        ] {
            assert_eq!(is_response(message.as_bytes()), told, "{message}");
        }
    }
}
