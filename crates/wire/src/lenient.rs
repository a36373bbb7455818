//! Lenient JSON reader for text that a serde_json tree cannot hold: lone surrogates in strings, numbers beyond a
//! double. The tree has replacements for these; the gateway forwards the original text.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Map, Value, value::RawValue};

/// Maximum nesting at which values are replaced; deeper ones become `null`.
const MAX_DEPTH: usize = 64;

/// Parses JSON into a tree, exactly if possible. Otherwise a lone surrogate becomes U+FFFD, and a number beyond a
/// double `null`. Malformed JSON is `null`.
#[must_use]
pub fn read_leniently(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| read_at(json.trim(), MAX_DEPTH))
}

/// The members of an object as raw text; `None` if it is not an object. The last of equal keys wins.
#[must_use]
pub fn raw_members(json: &str) -> Option<BTreeMap<String, Box<RawValue>>> {
    let members: BTreeMap<RawKey<'_>, &RawValue> = serde_json::from_str(json).ok()?;
    Some(members.into_iter().map(|(key, value)| (text_of(key.0.get()), value.to_owned())).collect())
}

/// The text of one member of an object.
pub(crate) fn raw_member<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let members: BTreeMap<RawKey<'a>, &'a RawValue> = serde_json::from_str(json).ok()?;
    members.into_iter().find(|(key, _)| text_of(key.0.get()) == name).map(|(_, value)| value.get())
}

/// An object key as raw JSON text, so that lone surrogates survive.
#[derive(serde::Deserialize)]
struct RawKey<'a>(#[serde(borrow)] &'a RawValue);

impl PartialEq for RawKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RawKey<'_> {}

impl PartialOrd for RawKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RawKey<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.get().cmp(other.0.get())
    }
}

fn read_at(json: &str, depth: usize) -> Value {
    if let Ok(value) = serde_json::from_str(json) {
        return value;
    }
    match json.bytes().next() {
        _ if depth == 0 => Value::Null,
        Some(b'{') => raw_members(json).map_or(Value::Null, |members| {
            let read = |(key, value): (String, Box<RawValue>)| (key, read_at(value.get(), depth - 1));
            Value::Object(members.into_iter().map(read).collect::<Map<_, _>>())
        }),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(json).map_or(Value::Null, |items| {
            Value::Array(items.into_iter().map(|item| read_at(item.get(), depth - 1)).collect())
        }),
        Some(b'"') => Value::String(text_of(json)),
        _ => Value::Null,
    }
}

/// Decodes a JSON string with its quotes.
fn text_of(json: &str) -> String {
    let whole = paired(json);
    serde_json::from_str(&whole).unwrap_or_default()
}

/// Replaces each lone-surrogate escape by `\ufffd`.
fn paired(json: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = json.get(at..).and_then(|rest| rest.find('\\')) {
        let escape = at + found;
        match unit(json, escape) {
            None => at = escape + 2,
            Some(0xd800..=0xdbff) if matches!(unit(json, escape + 6), Some(0xdc00..=0xdfff)) => {
                at = escape + 12
            }
            Some(0xd800..=0xdfff) => {
                out.push_str(json.get(from..escape).unwrap_or_default());
                out.push_str("\\ufffd");
                at = escape + 6;
                from = at;
            }
            Some(_) => at = escape + 6,
        }
    }
    if from == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(json.get(from..).unwrap_or_default());
    Cow::Owned(out)
}

/// The code unit of an escape `\uXXXX` at this byte offset.
fn unit(json: &str, at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_tree_holds_is_read_exactly() {
        let text = r#"{"a":[1,"\ud83d\ude00",null,1.5e300],"b":{"c":true}}"#;
        assert_eq!(read_leniently(text), json!({ "a": [1, "😀", null, 1.5e300], "b": { "c": true } }));
    }

    #[test]
    fn what_it_does_not_hold_is_replaced_and_the_rest_is_kept() {
        let text = r#"{"a\ud800":1, "b":["x\ud83d", "\\ud83d", "\udc00\ud83d\ude00"], "c":{"d":1e400,"e":-1E999}, "f":2}"#;
        let expected = json!({
            "a\u{fffd}": 1, "b": ["x\u{fffd}", "\\ud83d", "\u{fffd}😀"], "c": { "d": null, "e": null }, "f": 2,
        });
        assert_eq!(read_leniently(text), expected);
        assert_eq!(read_leniently("no json"), Value::Null);
        assert_eq!(read_leniently(&"[".repeat(100_000)), Value::Null);
    }

    #[test]
    fn members_are_kept_as_they_came() {
        let members = raw_members(r#"{"a":"\ud83d","b":1e400,"a":{ "x": 0.10 }}"#).unwrap();
        assert_eq!(members["b"].get(), "1e400");
        assert!(members.contains_key("a"));
        assert!(raw_members("[]").is_none());
    }
}
