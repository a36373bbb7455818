//! The `initialize` handshake: what the agent declares, what the backend answers, and what the gateway passes on.
//!
//! The handshake is not on the call path, so a JSON tree is fine. The backend's description of itself is passed on as
//! raw text, because it may contain JSON that a tree cannot hold.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    downgrade::{SERVER_CAPABILITIES, SERVER_INFO, knows},
    era::Revision,
    lenient::{raw_members, read_leniently},
};

/// An agent's declaration in `initialize`.
#[derive(Clone, Debug)]
pub struct ClientHello {
    /// The revision negotiated with the agent.
    pub revision: Revision,
    /// The agent's capabilities as declared (an object).
    pub capabilities: Value,
    /// The agent's `clientInfo`, for display only.
    pub client_info: Value,
}

/// Client capabilities declared upstream, in canonical form: part of the pool key (SEMANTICS.md 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CapabilityClass(Cow<'static, str>);

/// A backend's answer to the gateway's `initialize`.
#[derive(Clone, Debug)]
pub struct ServerHello {
    /// The revision negotiated with the backend.
    pub revision: Revision,
    /// The backend's capabilities (an object).
    pub capabilities: Value,
    /// The backend's `serverInfo`.
    pub server_info: Value,
    /// The backend's instructions for agents.
    pub instructions: Option<Value>,
    /// These three as raw JSON.
    raw: Raw,
}

/// Members of an `initialize` result that are passed on to agents, as JSON text.
#[derive(Clone, Debug)]
struct Raw {
    capabilities: String,
    server_info: String,
    instructions: Option<String>,
}

/// Client capabilities that let a server send requests; agents that declare one get a session of their own.
const INTERACTIVE: [&str; 4] = ["sampling", "elicitation", "roots", "tasks"];

impl ClientHello {
    /// The declaration of an agent without capabilities; also used for an SSE agent that reconnects without a
    /// handshake.
    #[must_use]
    pub fn neutral() -> Self {
        Self { revision: Revision::LATEST_LEGACY, capabilities: json!({}), client_info: Value::Null }
    }

    /// Parses an agent's `initialize`.
    ///
    /// # Errors
    /// One sentence for the agent if the params have no usable version or capabilities.
    pub fn parse(message: &[u8]) -> Result<Self, &'static str> {
        let message = std::str::from_utf8(message).ok().and_then(raw_members);
        let message = message.ok_or("initialize is not valid JSON")?;
        let params = message.get("params").ok_or("initialize needs params")?;
        let mut params = read_leniently(params.get());
        let requested = params
            .get("protocolVersion")
            .and_then(Value::as_str)
            .ok_or("initialize needs a protocolVersion")?;
        let revision = Revision::negotiate(requested);
        let capabilities = params.get_mut("capabilities").map_or_else(|| json!({}), Value::take);
        if !capabilities.is_object() {
            return Err("capabilities must be an object");
        }
        let client_info = params.get_mut("clientInfo").map_or(Value::Null, Value::take);
        Ok(Self { revision, capabilities, client_info })
    }

    /// True if a server may send requests to this agent (sampling, elicitation, roots, tasks).
    #[must_use]
    pub fn is_interactive(&self) -> bool {
        INTERACTIVE.iter().any(|key| self.capabilities.get(key).is_some_and(|v| !v.is_null()))
    }

    /// The capabilities to declare upstream: none on a shared session, the agent's own on its exclusive one.
    #[must_use]
    pub fn class(&self) -> CapabilityClass {
        if !self.is_interactive() {
            return CapabilityClass::neutral();
        }
        let mut kept = Map::new();
        // `tasks` stays out until the gateway supports it.
        for key in ["elicitation", "roots", "sampling"] {
            if let Some(value) = self.capabilities.get(key).filter(|v| !v.is_null()) {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        CapabilityClass(Value::Object(kept).to_string().into())
    }
}

impl CapabilityClass {
    /// No capabilities; every shared session declares this.
    #[must_use]
    pub fn neutral() -> Self {
        Self(Cow::Borrowed("{}"))
    }

    /// The capabilities as JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServerHello {
    /// A placeholder for a server that has not answered yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            revision: Revision::LATEST_LEGACY,
            capabilities: json!({}),
            server_info: json!({ "name": "mcpool", "version": "0" }),
            instructions: None,
            raw: Raw {
                capabilities: "{}".to_owned(),
                server_info: r#"{"name":"mcpool","version":"0"}"#.to_owned(),
                instructions: None,
            },
        }
    }

    /// Builds the gateway's own `initialize` request.
    #[must_use]
    pub fn request(id: u64, class: &CapabilityClass, version: &str) -> Bytes {
        let capabilities = class.as_str();
        let revision = Revision::LATEST_LEGACY;
        Bytes::from(format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"initialize\",\"params\":{{\"protocolVersion\":\"{revision}\",\
             \"capabilities\":{capabilities},\"clientInfo\":{{\"name\":\"mcpool\",\"version\":\"{version}\"}}}}}}"
        ))
    }

    /// Parses a backend's answer to `initialize`.
    ///
    /// # Errors
    /// One sentence for the operator if it is an error, malformed, or of an unknown version.
    pub fn parse(message: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Whole<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
            #[serde(borrow)]
            result: Option<&'a RawValue>,
        }
        let message: Whole<'_> =
            serde_json::from_slice(message).map_err(|e| format!("not valid JSON: {e}"))?;
        if let Some(error) = message.error.map(|raw| read_leniently(raw.get())) {
            let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
            let text = error.get("message").and_then(Value::as_str).unwrap_or("no message");
            return Err(format!("the backend refused initialize: {code} {text}"));
        }
        let result = message.result.ok_or("no result in the answer to initialize")?;
        let members = raw_members(result.get()).unwrap_or_default();
        let read = |key: &str| members.get(key).map(|raw| (read_leniently(raw.get()), raw.get().to_owned()));
        let version = read("protocolVersion").map(|(version, _)| version);
        let version = version.as_ref().and_then(Value::as_str).unwrap_or_default();
        let revision = Revision::parse(version)
            .ok_or_else(|| format!("the backend negotiated an unknown protocol version {version:?}"))?;
        // Some servers send `null` for absent members. Agents get values the schema allows, or nothing.
        let object = |key| read(key).filter(|(value, _)| value.is_object());
        let plain = |value: Value| (value.clone(), value.to_string());
        let (capabilities, raw_capabilities) = object("capabilities").unwrap_or_else(|| plain(json!({})));
        let (server_info, raw_info) = object("serverInfo").unwrap_or_else(|| plain(unnamed()));
        let (instructions, raw_instructions) =
            read("instructions").filter(|(value, _)| value.is_string()).unzip();
        let raw =
            Raw { capabilities: raw_capabilities, server_info: raw_info, instructions: raw_instructions };
        Ok(Self { revision, capabilities, server_info, instructions, raw })
    }

    /// True if the backend declared this capability.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.get(capability).is_some_and(|v| !v.is_null())
    }

    /// True if the backend declared `listChanged` for this list (`tools`, `prompts`, `resources`).
    #[must_use]
    pub fn announces_changes(&self, capability: &str) -> bool {
        self.capabilities.get(capability).and_then(|c| c.get("listChanged")) == Some(&Value::Bool(true))
    }

    /// The `InitializeResult` for an agent: the backend's, at the agent's revision. It leaves out members that an older
    /// revision lacks and capabilities named in `drop`, which the sharing mode cannot honour.
    #[must_use]
    pub fn to_agent(&self, revision: Revision, drop: &[&str]) -> Bytes {
        // Members unknown to the agent's revision are dropped only if the backend's revision is newer.
        let knows = |fields, key: &str| revision >= self.revision || knows(revision, fields, key);
        let mut capabilities = raw_members(&self.raw.capabilities).unwrap_or_default();
        capabilities.retain(|key, value| {
            value.get() != "null" && !drop.contains(&key.as_str()) && knows(SERVER_CAPABILITIES, key)
        });
        if drop.contains(&"resources.subscribe")
            && let Some(resources) = capabilities.get_mut("resources")
            && let Some(mut without) = raw_members(resources.get())
        {
            without.remove("subscribe");
            *resources = raw(&without).unwrap_or_else(|| resources.clone());
        }
        let mut server_info = raw_members(&self.raw.server_info).unwrap_or_default();
        server_info.retain(|key, _| knows(SERVER_INFO, key));
        let text = |members| raw(members).map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned());
        let instructions = self.raw.instructions.as_deref();
        let instructions = instructions.map(|text| format!(",\"instructions\":{text}")).unwrap_or_default();
        Bytes::from(format!(
            "{{\"protocolVersion\":\"{revision}\",\"capabilities\":{},\"serverInfo\":{}{instructions}}}",
            text(&capabilities),
            text(&server_info)
        ))
    }
}

/// Serialises an object.
fn raw(members: &BTreeMap<String, Box<RawValue>>) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(members).ok()
}

/// The `serverInfo` for a server that sends none; the schema requires both keys.
fn unnamed() -> Value {
    json!({ "name": "unnamed", "version": "unknown" })
}

#[cfg(test)]
mod tests;
