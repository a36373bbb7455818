//! Request envelopes of this era: reading, adding and removing them.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{envelope::Envelope, key, members::Members};
use crate::{Revision, envelope::Span, handshake::ClientHello, lenient::read_leniently, rewrite::Message};

/// The envelope of a modern request: everything beside its method's own parameters.
#[derive(Clone, Debug)]
pub struct ModernRequest {
    /// The sender and its capabilities. Its name is not read.
    pub client: ClientHello,
    /// Minimum severity of log messages on its stream; `None` = no messages.
    pub log_level: Option<String>,
    /// `params.requestState` as JSON text: the request continues one whose result asked for input.
    pub request_state: Option<String>,
    /// `params.inputResponses` as JSON text.
    pub input_responses: Option<String>,
    /// Spans of the members that only this era has.
    envelope: Vec<Span>,
}

/// A defect in the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// -32602, HTTP 400: a required key is missing or has the wrong type; the text names it.
    Envelope(String),
    /// -32022, HTTP 400: another revision.
    Version(String),
}

/// The envelope for a request to a backend of this era.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The sender's capabilities as JSON text.
    pub capabilities: &'a str,
    /// The sender's `clientInfo` as JSON text.
    pub client_info: &'a str,
    /// Minimum severity of log messages.
    pub log_level: Option<&'a str>,
    /// The input that a repeated request carries.
    pub carried: Option<Carried<'a>>,
}

/// Input of a request that is sent again after an `input_required` result.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// `inputResponses`, an object as JSON text; `None` if nothing was asked.
    pub responses: Option<&'a str>,
    /// `requestState` as received, JSON text; `None` if there was none.
    pub state: Option<&'a str>,
}

impl ModernRequest {
    /// Parses the envelope of a request.
    ///
    /// # Errors
    /// [`Defect`] if a required key is missing or invalid, or the revision is another one.
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

    /// Converts the request, from which `self` was parsed, to the legacy era: cuts the envelope and the input
    /// responses, which a legacy session never asked for.
    #[must_use]
    pub fn to_legacy(&self, message: &Message) -> Message {
        message.without(&self.envelope)
    }
}

/// Decodes a JSON string; `None` for another type.
fn text_of(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// Parses a JSON object. Most are `{}`: senders without capabilities.
fn object_of(json: &str) -> Option<Map<String, Value>> {
    if json == "{}" {
        return Some(Map::new());
    }
    match read_leniently(json) {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Adds the envelope of this era to a request. Unchanged if it is not a message.
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
