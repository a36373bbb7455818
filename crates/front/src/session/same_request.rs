//! Comparison of two requests under one id: the new one, and the one in flight or ended.
//!
//! A client may write a repeated request anew: with other white space, its members in another order, another progress
//! token. Ids are unique in a session, so a request that asks for the same under the same id is the same.

use std::borrow::Cow;

use serde_json::Value;

/// Whether both ask for the same. They are parsed only if their bytes differ.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || asked(one).is_some_and(|one| asked(other) == Some(one))
}

/// A request in canonical form; its own bytes, if they cannot be parsed.
pub(crate) fn written_one_way(message: &[u8]) -> Cow<'_, [u8]> {
    asked(message).map_or(Cow::Borrowed(message), |asked| Cow::Owned(asked.to_string().into_bytes()))
}

/// The content of a request without its id, which is compared elsewhere, and its progress token, which clients make
/// anew.
fn asked(message: &[u8]) -> Option<Value> {
    let mut request: Value = serde_json::from_slice(message).ok()?;
    request.as_object_mut()?.remove("id");
    let params = request.get_mut("params").and_then(Value::as_object_mut);
    if let Some(params) = params
        && let Some(meta) = params.get_mut("_meta").and_then(Value::as_object_mut)
    {
        meta.remove("progressToken");
        if meta.is_empty() {
            params.remove("_meta");
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_the_same_is_the_same_however_it_is_written() {
        let one = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"b":[1,2]}}}"#;
        for again in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"b":[1,2]}}}"#,
            r#" { "id": 1, "jsonrpc": "2.0", "params": {"arguments": {"b": [1, 2], "a": 1}, "name": "\u0074"}, "method": "tools/call" }"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":7},"name":"t","arguments":{"a":1,"b":[1,2]}}}"#,
        ] {
            assert!(is_same(one, again.as_bytes()), "{again}");
            assert_eq!(written_one_way(one), written_one_way(again.as_bytes()), "{again}");
        }
        for other in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"name":"t","arguments":{"a":1,"b":[1,2]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"u","arguments":{"a":1,"b":[1,2]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":1,"b":[2,1]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":"1","b":[1,2]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"x":1},"name":"t","arguments":{"a":1,"b":[1,2]}}}"#,
            "",
        ] {
            assert!(!is_same(one, other.as_bytes()), "{other}");
            assert_ne!(written_one_way(one), written_one_way(other.as_bytes()), "{other}");
        }
        assert!(is_same(b"{", b"{") && !is_same(b"{", b"["), "what cannot be read is its bytes");
    }
}
