//! Serde visitors of the scan: which keys are read at which level.
//!
//! Keys are compared unescaped (`"\u0069d"` is `id`) and case-sensitively, as every other parser does. All other values
//! are skipped without recursion, so depth and odd numbers in arguments cost nothing.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Params, RawEnvelope, ResultView, strict::Unread};

const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: &[&str] = &[
    "name",
    "uri",
    "protocolVersion",
    "requestId",
    "progressToken",
    "cursor",
    "level",
    "task",
    "_meta",
    "arguments",
];
const META: &[&str] = &["progressToken", "io.modelcontextprotocol/protocolVersion"];

/// An object key, borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn once<'de, A, T>(slot: &mut Option<T>, key: &'static str, map: &mut A) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    if slot.is_some() {
        return Err(A::Error::duplicate_field(key));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

fn once_str<'de, A>(slot: &mut Option<Cow<'de, str>>, key: &'static str, map: &mut A) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
{
    let mut read = slot.take().map(Key);
    once(&mut read, key, map)?;
    *slot = read.map(|k| k.0);
    Ok(())
}

impl<'de> Deserialize<'de> for RawEnvelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = RawEnvelope<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON-RPC message object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = RawEnvelope::default();
                let mut error: Option<IgnoredAny> = None;
                let mut unread = Unread::new("the message", ENVELOPE);
                while let Some(Key(key)) = map.next_key()? {
                    match key.as_ref() {
                        "jsonrpc" => once_str(&mut out.jsonrpc, "jsonrpc", &mut map)?,
                        "id" => once(&mut out.id, "id", &mut map)?,
                        "method" => once_str(&mut out.method, "method", &mut map)?,
                        "params" => {
                            let mut read: Option<Option<Params<'de>>> = out.params.take().map(Some);
                            once(&mut read, "params", &mut map)?;
                            out.params = read.map(Option::unwrap_or_default);
                        }
                        "result" => once(&mut out.result, "result", &mut map)?,
                        "error" => once(&mut error, "error", &mut map)?,
                        _ => {
                            unread.see(key);
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                out.error = error.is_some();
                out.ambiguity = unread.ambiguity;
                Ok(out)
            }
        }
        deserializer.deserialize_map(V)
    }
}

impl<'de> Deserialize<'de> for Params<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Params<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a params object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Params::default();
                let mut meta: Option<Meta<'de>> = None;
                let mut task: Option<Option<IgnoredAny>> = None;
                let (mut name, mut uri, mut version) = (Text::Absent, Text::Absent, Text::Absent);
                let mut level = Text::Absent;
                let mut arguments: Option<IgnoredAny> = None;
                let mut unread = Unread::new("params", PARAMS);
                while let Some(Key(key)) = map.next_key()? {
                    match key.as_ref() {
                        "name" => lenient_str(&mut name, "name", &mut map)?,
                        "uri" => lenient_str(&mut uri, "uri", &mut map)?,
                        "protocolVersion" => {
                            lenient_str(&mut version, "protocolVersion", &mut map)?;
                        }
                        "requestId" => once(&mut out.request_id, "requestId", &mut map)?,
                        "progressToken" => once(&mut out.progress_token, "progressToken", &mut map)?,
                        "cursor" => once(&mut out.cursor, "cursor", &mut map)?,
                        "level" => lenient_str(&mut level, "level", &mut map)?,
                        "task" => once(&mut task, "task", &mut map)?,
                        "_meta" => once(&mut meta, "_meta", &mut map)?,
                        // Not read, but checked for duplicates: the call was authorised for these arguments.
                        "arguments" if arguments.is_none() => arguments = Some(map.next_value()?),
                        _ => {
                            unread.see(key);
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                out.unreadable = [&name, &uri, &version].into_iter().any(|text| *text == Text::Unreadable);
                (out.name, out.uri, out.protocol_version) = (name.read(), uri.read(), version.read());
                out.level = level.read();
                out.ambiguity = unread.ambiguity;
                out.progress_token = token(out.progress_token);
                out.cursor = out.cursor.filter(|raw| raw.get() != "null");
                out.has_cursor = out.cursor.is_some();
                out.has_task = matches!(task, Some(Some(_)));
                if let Some(meta) = meta {
                    out.meta_progress_token = token(meta.progress_token);
                    out.is_modern = meta.is_modern;
                    out.ambiguity = out.ambiguity.or(meta.ambiguity);
                }
                Ok(out)
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// A parameter that should be a string. Other types pass; the backend rejects them. Duplicates are errors.
#[derive(PartialEq)]
enum Text<'a> {
    Absent,
    Read(Cow<'a, str>),
    Other,
    /// A string with a lone surrogate.
    Unreadable,
}

impl<'a> Text<'a> {
    fn read(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Read(text) => Some(text),
            Self::Absent | Self::Other | Self::Unreadable => None,
        }
    }
}

fn lenient_str<'de, A>(slot: &mut Text<'de>, key: &'static str, map: &mut A) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
{
    if *slot != Text::Absent {
        return Err(A::Error::duplicate_field(key));
    }
    let raw: &'de RawValue = map.next_value()?;
    *slot = match serde_json::from_str(raw.get()) {
        Ok(Key(text)) => Text::Read(text),
        Err(_) if raw.get().starts_with('"') => Text::Unreadable,
        Err(_) => Text::Other,
    };
    Ok(())
}

/// Treats a `null` progress token as absent: it requests no progress and must not be replaced by a token that does.
fn token(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

#[derive(Default)]
struct Meta<'a> {
    progress_token: Option<&'a RawValue>,
    is_modern: bool,
    ambiguity: Option<String>,
}

impl<'de> Deserialize<'de> for Meta<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Meta<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a _meta object")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Meta::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Meta::default();
                let mut unread = Unread::new("_meta", META);
                while let Some(Key(key)) = map.next_key()? {
                    match key.as_ref() {
                        "progressToken" => once(&mut out.progress_token, "progressToken", &mut map)?,
                        "io.modelcontextprotocol/protocolVersion" if !out.is_modern => {
                            map.next_value::<IgnoredAny>()?;
                            out.is_modern = true;
                        }
                        _ => {
                            unread.see(key);
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                out.ambiguity = unread.ambiguity;
                Ok(out)
            }
        }
        // Not `deserialize_map`: null counts as absent.
        deserializer.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for ResultView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        macro_rules! present {
            ($($name:ident($type:ty)),*) => { $(
                fn $name<E>(self, _: $type) -> Result<Self::Value, E> { Ok(PRESENT) }
            )* };
        }
        const PRESENT: ResultView = ResultView { is_error: false, present: true };
        impl<'de> Visitor<'de> for V {
            type Value = ResultView;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any result")
            }
            present!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(PRESENT)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(PRESENT)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = PRESENT;
                while let Some(Key(key)) = map.next_key()? {
                    if key == "isError" {
                        let raw: &'de RawValue = map.next_value()?;
                        out.is_error = raw.get() == "true";
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(out)
            }
        }
        deserializer.deserialize_any(V)
    }
}
