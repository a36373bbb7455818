//! Requests: what one of this era says of its sender, and how it loses or gets that.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{key, members::Members};
use crate::{Revision, handshake::ClientHello};

/// What a request of this era carries besides its method's own parameters.
#[derive(Clone, Debug)]
pub struct ModernRequest {
    /// Who sends it and what it can be asked.
    pub client: ClientHello,
    /// The least severe log message it wants on its stream; nothing: none.
    pub log_level: Option<String>,
    /// `params.requestState` as JSON text: the request goes on where an earlier one asked for input.
    pub request_state: Option<String>,
    /// `params.inputResponses` as JSON text.
    pub input_responses: Option<String>,
}

/// Why a message does not carry what a request of this era must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// -32602, HTTP 400: a required key is missing or of the wrong type; the sentence names it.
    Envelope(String),
    /// -32022, HTTP 400: written in another revision.
    Version(String),
}

/// What a request that goes to a backend of this era is given.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The sender's capabilities as JSON text.
    pub capabilities: &'a str,
    /// The sender's `clientInfo` as JSON text.
    pub client_info: &'a str,
    /// The least severe log message that is wanted.
    pub log_level: Option<&'a str>,
    /// Where the request goes on with answers: `inputResponses` and `requestState`, JSON text each.
    pub carried: Option<Carried<'a>>,
}

/// What a request is sent again with after its answer asked for input.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// `inputResponses`, an object as JSON text; nothing where nothing was asked.
    pub responses: Option<&'a str>,
    /// `requestState` byte for byte as it came, JSON text; nothing where none was given.
    pub state: Option<&'a str>,
}

/// The keys of `_meta` that only this era knows.
const ENVELOPE: [&str; 4] = [key::VERSION, key::CLIENT_INFO, key::CAPABILITIES, key::LOG_LEVEL];

impl ModernRequest {
    /// Reads the envelope of a request.
    ///
    /// # Errors
    /// [`Defect`] when a required key is missing or wrong, or the revision is another one.
    pub fn parse(message: &[u8]) -> Result<Self, Defect> {
        let missing = |what: &str| Defect::Envelope(format!("params._meta needs {what:?}"));
        let text = std::str::from_utf8(message).map_err(|_| missing(key::VERSION))?;
        let message = Members::read(text).ok_or_else(|| missing(key::VERSION))?;
        let params = message.get("params").and_then(Members::read).ok_or_else(|| missing(key::VERSION))?;
        let meta = params.get("_meta").and_then(Members::read).ok_or_else(|| missing(key::VERSION))?;
        let version = meta.text(key::VERSION).ok_or_else(|| missing(key::VERSION))?;
        if version != Revision::V2026_07_28.as_str() {
            return Err(Defect::Version(version));
        }
        let capabilities: Value = meta
            .get(key::CAPABILITIES)
            .and_then(|json| serde_json::from_str(json).ok())
            .filter(Value::is_object)
            .ok_or_else(|| missing(key::CAPABILITIES))?;
        let client_info = match meta.get(key::CLIENT_INFO) {
            None => Value::Null,
            Some(info) => serde_json::from_str(info)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| Defect::Envelope(format!("{:?} must be an object", key::CLIENT_INFO)))?,
        };
        Ok(Self {
            client: ClientHello { revision: Revision::V2026_07_28, capabilities, client_info },
            log_level: meta.text(key::LOG_LEVEL),
            request_state: params.get("requestState").map(str::to_owned),
            input_responses: params.get("inputResponses").map(str::to_owned),
        })
    }
}

/// The request as a session of the other era reads it: without envelope, and without answers to what such a session
/// never asked. As it came if it is no request with parameters.
#[must_use]
pub fn to_legacy_request(message: &Bytes) -> Bytes {
    let change = |text: &str| {
        let mut whole = Members::read(text)?;
        let mut params = Members::read(whole.get("params")?)?;
        let meta = params.get("_meta").and_then(Members::read).map(|mut meta| {
            ENVELOPE.iter().for_each(|key| meta.remove(key));
            (!meta.is_empty()).then(|| meta.to_string())
        });
        match meta {
            Some(Some(meta)) => params.set("_meta", meta),
            Some(None) => params.remove("_meta"),
            None => {}
        }
        params.remove("requestState");
        params.remove("inputResponses");
        let params = params.to_string();
        whole.set("params", params);
        Some(Bytes::from(whole.to_string()))
    };
    std::str::from_utf8(message).ok().and_then(change).unwrap_or_else(|| message.clone())
}

/// The request with the envelope of this era. As it came if it is no message.
#[must_use]
pub fn to_modern_request(message: &Bytes, stamp: &Stamp<'_>) -> Bytes {
    let change = |text: &str| {
        let mut whole = Members::read(text)?;
        let mut params = whole.get("params").and_then(Members::read).unwrap_or_default();
        let mut meta = params.get("_meta").and_then(Members::read).unwrap_or_default();
        meta.set(key::VERSION, json!(Revision::V2026_07_28.as_str()).to_string());
        meta.set(key::CAPABILITIES, stamp.capabilities);
        meta.set(key::CLIENT_INFO, stamp.client_info);
        if let Some(level) = stamp.log_level {
            meta.set(key::LOG_LEVEL, json!(level).to_string());
        }
        let meta = meta.to_string();
        params.set("_meta", meta);
        if let Some(Carried { responses, state }) = stamp.carried {
            responses.into_iter().for_each(|json| params.set("inputResponses", json));
            state.into_iter().for_each(|json| params.set("requestState", json));
        }
        let params = params.to_string();
        whole.set("params", params);
        Some(Bytes::from(whole.to_string()))
    };
    std::str::from_utf8(message).ok().and_then(change).unwrap_or_else(|| message.clone())
}
