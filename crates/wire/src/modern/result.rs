//! Results: conversion between this era and the legacy one.

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{json, value::RawValue};

use super::{asking::input_required, key, members::Members, span_cutter::Level};
use crate::envelope::span_of;

/// Members that a legacy result gets in this era.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// `serverInfo` as JSON text.
    pub server_info: &'a str,
    /// Cache lifetime in milliseconds, for the caller alone (`cacheScope: private`); `None` = not cacheable.
    pub ttl_ms: Option<u64>,
    /// True if the caller can open URLs that the server requires first (-32042).
    pub opens_urls: bool,
}

/// A modern result in the form a legacy caller can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyResult {
    /// A final response without this era's members. Errors are final.
    Complete(Bytes),
    /// A request for input: the caller answers these and sends the request again.
    InputRequired {
        /// The input requests in order; if empty, the request is just sent again.
        requests: Vec<InputRequest>,
        /// Opaque state to send back unchanged, JSON text.
        state: Option<String>,
    },
    /// An unknown `resultType`, which only the caller could interpret.
    Unknown(String),
}

/// One input request of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRequest {
    /// The key of its response.
    pub key: String,
    /// The method.
    pub method: String,
    /// The parameters, JSON text.
    pub params: Option<String>,
}

/// Converts a response to this era. Errors (except the codes this era dropped) and non-responses stay unchanged.
#[must_use]
pub fn to_modern_result(message: &Bytes, finish: &Finish<'_>) -> Bytes {
    let change = |text: &str| {
        if let Some(opened) = opened(text, finish) {
            return Some(opened);
        }
        let mut whole = Members::read(text)?;
        if let Some(mut error) = whole.get("error").and_then(Members::read) {
            match error.get("code")? {
                NO_RESOURCE => error.set("code", "-32602"),
                URLS_FIRST if finish.opens_urls => {
                    let urls = urls_of(&error)?;
                    return Some(input_required(whole.get("id")?, urls, None, finish.server_info));
                }
                _ => return None,
            }
            let error = error.to_string();
            whole.set("error", error);
            return Some(Bytes::from(whole.to_string()));
        }
        let mut result = Members::read(whole.get("result")?)?;
        if result.get("resultType").is_none() {
            result.set("resultType", "\"complete\"");
        }
        let mut meta = result.get("_meta").and_then(Members::read).unwrap_or_default();
        if meta.get(key::SERVER_INFO).is_none() {
            meta.set(key::SERVER_INFO, finish.server_info);
        }
        let meta = meta.to_string();
        result.set("_meta", meta);
        if let Some(ttl) = finish.ttl_ms {
            result.set("ttlMs", ttl.to_string());
            result.set("cacheScope", "\"private\"");
        }
        let result = result.to_string();
        whole.set("result", result);
        Some(Bytes::from(whole.to_string()))
    };
    std::str::from_utf8(message).ok().and_then(change).unwrap_or_else(|| message.clone())
}

/// Fast path for a result without members of this era: inserts them at its start with one copy.
fn opened(text: &str, finish: &Finish<'_>) -> Option<Bytes> {
    let result = Level::read(text)?.get("result")?;
    let members = Level::read(result)?;
    if members.has_one_of(&OF_THIS_ERA) {
        return None;
    }
    let (key, server_info) = (key::SERVER_INFO, finish.server_info);
    let mut said = String::with_capacity(128 + server_info.len());
    let kept = |ttl: u64| write!(said, "\"ttlMs\":{ttl},\"cacheScope\":\"private\",");
    // Writing to a string cannot fail.
    let _ = finish.ttl_ms.map_or(Ok(()), kept);
    let _ = write!(said, "\"resultType\":\"complete\",\"_meta\":{{\"{key}\":{server_info}}}");
    let (before, after) = text.split_at(span_of(text, result).start + 1);
    let comma = if members.is_empty() { "" } else { "," };
    let mut out = BytesMut::with_capacity(text.len() + said.len() + 1);
    [before, &said, comma, after].iter().for_each(|part| out.put_slice(part.as_bytes()));
    Some(out.freeze())
}

/// Result members of this era.
const OF_THIS_ERA: [&str; 4] = ["resultType", "_meta", "ttlMs", "cacheScope"];

/// Legacy error code: the resource does not exist.
const NO_RESOURCE: &str = "-32002";

/// Legacy error code: the caller must visit URLs before it repeats the request.
const URLS_FIRST: &str = "-32042";

/// The URLs to visit as input requests; `None` if there are none.
fn urls_of(error: &Members<'_>) -> Option<Vec<(String, String)>> {
    let data = Members::read(error.get("data")?)?;
    let all: Vec<&RawValue> = serde_json::from_str(data.get("elicitations")?).ok()?;
    let one = |(place, params): (usize, &&RawValue)| {
        let mut params = Members::read(params.get())?;
        // In this era the key of the input request identifies it.
        params.remove("elicitationId");
        let question = format!("{{\"method\":\"elicitation/create\",\"params\":{params}}}");
        Some((format!("url-{place}"), question))
    };
    let all: Option<Vec<_>> = all.iter().enumerate().map(one).collect();
    all.filter(|all| !all.is_empty())
}

/// The error code of a response; `None` if it is not an error.
#[must_use]
pub fn error_code(message: &[u8]) -> Option<i32> {
    let whole = Members::read(std::str::from_utf8(message).ok()?)?;
    Members::read(whole.get("error")?)?.get("code")?.parse().ok()
}

/// Converts a modern response for a legacy caller.
#[must_use]
pub fn to_legacy_result(message: &Bytes) -> LegacyResult {
    let read = |text: &str| {
        let mut whole = Members::read(text)?;
        let mut result = Members::read(whole.get("result")?)?;
        match result.text("resultType").as_deref() {
            None | Some("complete") => {}
            Some("input_required") => return Some(asked(&result)),
            Some(other) => return Some(LegacyResult::Unknown(other.to_owned())),
        }
        for key in ["resultType", "ttlMs", "cacheScope"] {
            result.remove(key);
        }
        let meta = result.get("_meta").and_then(Members::read).map(|mut meta| {
            meta.remove(key::SERVER_INFO);
            (!meta.is_empty()).then(|| meta.to_string())
        });
        match meta {
            Some(Some(meta)) => result.set("_meta", meta),
            Some(None) => result.remove("_meta"),
            None => {}
        }
        // Legacy revisions allow objects only; the text content repeats the value.
        if result.get("structuredContent").is_some_and(|value| !value.starts_with('{')) {
            result.remove("structuredContent");
        }
        let result = result.to_string();
        whole.set("result", result);
        Some(LegacyResult::Complete(Bytes::from(whole.to_string())))
    };
    let read = std::str::from_utf8(message).ok().and_then(read);
    read.unwrap_or_else(|| LegacyResult::Complete(message.clone()))
}

/// Removes the subscription id, which the legacy era does not have, from a notification.
#[must_use]
pub fn to_legacy_notification(message: &Bytes) -> Bytes {
    let change = |text: &str| {
        let mut whole = Members::read(text)?;
        let mut params = Members::read(whole.get("params")?)?;
        let mut meta = Members::read(params.get("_meta")?)?;
        meta.get(key::SUBSCRIPTION_ID)?;
        meta.remove(key::SUBSCRIPTION_ID);
        match meta.is_empty() {
            true => params.remove("_meta"),
            false => {
                let meta = meta.to_string();
                params.set("_meta", meta);
            }
        }
        match params.is_empty() {
            true => whole.remove("params"),
            false => {
                let params = params.to_string();
                whole.set("params", params);
            }
        }
        Some(Bytes::from(whole.to_string()))
    };
    std::str::from_utf8(message).ok().and_then(change).unwrap_or_else(|| message.clone())
}

fn asked(result: &Members<'_>) -> LegacyResult {
    let requests = result.get("inputRequests").and_then(Members::read).unwrap_or_default();
    let one = |(name, json): (&str, &str)| {
        let request = Members::read(json)?;
        Some(InputRequest {
            key: name.to_owned(),
            method: request.text("method")?,
            params: request.get("params").map(str::to_owned),
        })
    };
    LegacyResult::InputRequired {
        requests: requests.iter().filter_map(one).collect(),
        state: result.get("requestState").map(str::to_owned),
    }
}

/// The `inputResponses` of a repeated request: keys and results, JSON text each.
#[must_use]
pub fn input_responses<'a>(answers: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let one = |(name, result): (&str, &str)| format!("{}:{result}", json!(name));
    let all: Vec<String> = answers.into_iter().map(one).collect();
    format!("{{{}}}", all.join(","))
}
