//! Requests: what one of this era says of its sender, and how it loses or gets that.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{envelope::Envelope, key, members::Members};
use crate::{Revision, envelope::Span, handshake::ClientHello, lenient::read_leniently, rewrite::Message};

/// What a request of this era carries besides its method's own parameters.
#[derive(Clone, Debug)]
pub struct ModernRequest {
    /// Who sends it and what it can be asked. Its name is not read.
    pub client: ClientHello,
    /// The least severe log message it wants on its stream; nothing: none.
    pub log_level: Option<String>,
    /// `params.requestState` as JSON text: the request goes on where an earlier one asked for input.
    pub request_state: Option<String>,
    /// `params.inputResponses` as JSON text.
    pub input_responses: Option<String>,
    /// What only this era knows of it.
    envelope: Vec<Span>,
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

impl ModernRequest {
    /// Reads the envelope of a request.
    ///
    /// # Errors
    /// [`Defect`] when a required key is missing or wrong, or the revision is another one.
    pub fn parse(message: &[u8]) -> Result<Self, Defect> {
        let missing = |what: &str| Defect::Envelope(format!("params._meta needs {what:?}"));
        let none = || missing(key::VERSION);
        let text = std::str::from_utf8(message).map_err(|_| none())?;
        let said = Envelope::read(text).ok_or_else(none)?;
        let version = said.version.and_then(text_of).ok_or_else(none)?;
        if version != Revision::V2026_07_28.as_str() {
            return Err(Defect::Version(version));
        }
        let capabilities = said.capabilities.and_then(object_of);
        let capabilities = Value::Object(capabilities.ok_or_else(|| missing(key::CAPABILITIES))?);
        if said.client_info.is_some_and(|info| !info.starts_with('{')) {
            return Err(Defect::Envelope(format!("{:?} must be an object", key::CLIENT_INFO)));
        }
        Ok(Self {
            client: ClientHello { revision: Revision::V2026_07_28, capabilities, client_info: Value::Null },
            log_level: said.log_level.and_then(text_of),
            request_state: said.request_state.map(str::to_owned),
            input_responses: said.input_responses.map(str::to_owned),
            envelope: said.cuts,
        })
    }

    /// The request, which this was read from, as a session of the other era reads it: without envelope, and without
    /// answers to what such a session never asked.
    #[must_use]
    pub fn to_legacy(&self, message: &Message) -> Message {
        message.without(&self.envelope)
    }
}

/// The string of a JSON text that is one.
fn text_of(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// The members of a JSON text that is an object; most senders can be asked nothing.
fn object_of(json: &str) -> Option<Map<String, Value>> {
    if json == "{}" {
        return Some(Map::new());
    }
    match read_leniently(json) {
        Value::Object(members) => Some(members),
        _ => None,
    }
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
