//! One JSON-RPC message in and out: a borrowed one-pass reader and a writer that splices prebuilt parts.
//!
//! The subtle thing: the fast path reads envelope and params in one scan into one struct; only when that
//! fails does [`read`] scan again to learn whether the text was no JSON or merely a bad request.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A message of the client, borrowed from its body.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "object")]
    pub(crate) params: Option<Params<'a>>,
    #[serde(borrow, default)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) error: Option<&'a RawValue>,
}

/// The params any served method reads; one flat struct, because one scan is cheaper than two.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Params<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) uri: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) level: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "requestId")]
    pub(crate) request_id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "protocolVersion")]
    pub(crate) protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta", deserialize_with = "object")]
    pub(crate) meta: Option<Meta<'a>>,
}

/// The only `_meta` key that concerns a legacy server.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    pub(crate) progress_token: Option<&'a RawValue>,
}

/// `null` is a value that was sent, unlike an absent key.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

/// An object or null, where serde would also take an array of the fields in order.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    d.deserialize_any(Object(PhantomData))
}

/// Why a body is no message.
#[derive(Debug)]
pub(crate) enum BadMessage {
    /// No JSON at all.
    Json,
    /// JSON, but no message; the id when one could be read.
    Shape(Option<String>),
}

/// Reads one message.
pub(crate) fn read(body: &[u8]) -> Result<Message<'_>, BadMessage> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(explain(body));
    }
    serde_json::from_slice(body).map_err(|_| explain(body))
}

#[derive(Deserialize)]
struct IdOnly<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

#[cold]
fn explain(body: &[u8]) -> BadMessage {
    if serde_json::from_slice::<&RawValue>(body).is_err() {
        return BadMessage::Json;
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return BadMessage::Shape(None);
    }
    let id = serde_json::from_slice::<IdOnly<'_>>(body).ok().and_then(|m| m.id);
    BadMessage::Shape(id.filter(|id| is_plain_id(id.get())).map(|id| id.get().to_owned()))
}

/// Whether raw JSON text is a string or an integer, the only ids and tokens MCP allows.
pub(crate) fn is_plain_id(raw: &str) -> bool {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    raw.starts_with('"') || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// How a message is wrapped for the stream or body it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As it is, for a JSON body.
    Json,
    /// As one `message` event.
    Sse,
}

/// What a request ends with.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A result, as JSON text.
    Result(Cow<'static, str>),
    /// A result that may hold line breaks between its tokens; a stream gets spaces in their place.
    Lines(String),
    /// An error, with `data` as JSON text.
    Error { code: i64, message: Cow<'static, str>, data: Option<&'static str> },
}

impl Reply {
    /// An error without data.
    pub(crate) fn error(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Error { code, message: message.into(), data: None }
    }

    /// The answer of Python to any request it cannot take.
    pub(crate) fn invalid_params() -> Self {
        Self::Error { code: -32602, message: "Invalid request parameters".into(), data: Some("\"\"") }
    }

    /// Writes the answer to request `id` (raw JSON text).
    pub(crate) fn frame(&self, id: &str, framing: Framing) -> Bytes {
        match self {
            Self::Result(result) => {
                frame(framing, &["{\"jsonrpc\":\"2.0\",\"id\":", id, ",\"result\":", result, "}"])
            }
            Self::Lines(result) => {
                let flat = match framing {
                    Framing::Json => Cow::Borrowed(result.as_str()),
                    Framing::Sse => Cow::Owned(result.replace(['\n', '\r'], " ")),
                };
                Self::Result(Cow::Owned(flat.into_owned())).frame(id, framing)
            }
            Self::Error { code, message, data } => {
                let message = quote(message);
                let code = code.to_string();
                let (comma, data) = data.map_or(("", ""), |d| (",\"data\":", d));
                frame(
                    framing,
                    &[
                        "{\"jsonrpc\":\"2.0\",\"id\":",
                        id,
                        ",\"error\":{\"code\":",
                        &code,
                        ",\"message\":",
                        &message,
                        comma,
                        data,
                        "}}",
                    ],
                )
            }
        }
    }
}

/// Writes a request or notification of the server; `params` is JSON text on one line.
pub(crate) fn outgoing(id: Option<u64>, method: &str, params: &str, framing: Framing) -> Bytes {
    let method = quote(method);
    let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
    frame(framing, &["{\"jsonrpc\":\"2.0\",", &id, "\"method\":", &method, ",\"params\":", params, "}"])
}

/// Joins the parts under one framing; no part may hold a raw line break when the framing is SSE.
fn frame(framing: Framing, parts: &[&str]) -> Bytes {
    let (head, tail) = match framing {
        Framing::Json => ("", ""),
        Framing::Sse => ("event: message\ndata: ", "\n\n"),
    };
    let len = parts.iter().map(|p| p.len()).sum::<usize>() + head.len() + tail.len();
    let mut out = String::with_capacity(len);
    out.push_str(head);
    parts.iter().for_each(|p| out.push_str(p));
    out.push_str(tail);
    Bytes::from(out)
}

/// A string as JSON text.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A raw JSON scalar as the text a person would read: strings lose their quotes.
pub(crate) fn plain(raw: &str) -> Cow<'_, str> {
    if raw.starts_with('"') {
        return serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned);
    }
    Cow::Borrowed(raw)
}
