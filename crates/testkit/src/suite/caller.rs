//! The agent of a scenario, in either era, by the same few verbs.
//!
//! The subtle thing: an agent without handshake is an HTTP client of its own, so it says marked arguments in headers
//! and leaves tools alone that are marked senselessly; one with a handshake knows nothing of that, and then it is the
//! gateway's business.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::marks;
use mcpool_demo::agent::{Agent, AgentConfig, Ask, End, ModernAgent};

/// Rounds of one request before the agent gives up, as in the SDKs.
const ROUNDS: usize = 10;

/// How an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// With a handshake, 2025-11-25.
    Handshake,
    /// 2026-07-28.
    Modern,
}

/// An agent that is ready to call.
pub(super) enum Caller {
    Handshake(Agent),
    Modern(ModernAgent),
}

impl Caller {
    pub(super) async fn open(url: &str, speech: Speech, capabilities: Value) -> Result<Self, String> {
        let config = AgentConfig::http(url).with_capabilities(capabilities);
        match speech {
            Speech::Handshake => {
                let agent = Agent::ready(config).await.map_err(|e| format!("handshake: {e}"))?;
                agent.on_request(|method, params| answer(method, params).map(Ok));
                Ok(Self::Handshake(agent))
            }
            Speech::Modern => {
                let agent = ModernAgent::new(config).map_err(|e| e.to_string())?;
                agent.discover().await.map_err(|e| format!("server/discover: {e}"))?;
                Ok(Self::Modern(agent))
            }
        }
    }

    /// One request to its result; what is asked in between is answered.
    pub(super) async fn request(&self, method: &str, params: Value) -> Result<Value, String> {
        let result = match self {
            Self::Handshake(agent) => agent.request(method, params).await.map_err(|e| e.to_string()),
            Self::Modern(agent) => in_rounds(agent, Ask::of(method, params)).await,
        };
        result.map_err(|why| format!("{method}: {why}"))
    }

    /// Whether the agent may call this tool at all.
    pub(super) fn may_call(&self, tool: &Value) -> bool {
        match self {
            Self::Handshake(_) => true,
            Self::Modern(_) => marks::headers(&tool["inputSchema"], &Map::new()).is_ok(),
        }
    }

    /// A call of a tool as it was listed; the text of its result.
    pub(super) async fn call(&self, tool: &Value, arguments: Value) -> Result<String, String> {
        let name = tool["name"].as_str().ok_or("a tool without a name")?;
        let result = match self {
            Self::Handshake(agent) => agent.call_tool(name, arguments).await.map_err(|e| e.to_string()),
            Self::Modern(agent) => {
                let given = arguments.as_object().cloned().unwrap_or_default();
                let headers = marks::headers(&tool["inputSchema"], &given)?;
                in_rounds(agent, Ask { headers, ..Ask::tool(name, arguments) }).await
            }
        };
        let result = result.map_err(|why| format!("{name}: {why}"))?;
        if result["isError"] == true {
            return Err(format!("{name}: {result}"));
        }
        Ok(result["content"][0]["text"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) async fn close(&self) {
        if let Self::Handshake(agent) = self {
            agent.close().await;
        }
    }
}

async fn in_rounds(agent: &ModernAgent, first: Ask) -> Result<Value, String> {
    let mut ask = first.clone();
    for _ in 0..ROUNDS {
        match agent.ask(&ask).await.map_err(|e| e.to_string())?.end {
            End::Complete(result) | End::Untyped(result) => return Ok(result),
            End::InputRequired { requests, state } => {
                let mut answers = BTreeMap::new();
                for (key, request) in requests {
                    let method = request["method"].as_str().unwrap_or_default();
                    let said = answer(method, &request["params"]);
                    answers.insert(key, said.ok_or_else(|| format!("it is asked for {method}"))?);
                }
                ask = first.again(answers, state);
            }
        }
    }
    Err(format!("no result in {ROUNDS} rounds"))
}

/// What the agent's user says: yes to every form, with its defaults.
fn answer(method: &str, params: &Value) -> Option<Value> {
    if method != "elicitation/create" {
        return None;
    }
    let fields = params["requestedSchema"]["properties"].as_object().cloned().unwrap_or_default();
    let value = |(name, field): (String, Value)| match (&field["default"], field["type"].as_str()) {
        (Value::Null, Some("boolean")) => Some((name, json!(true))),
        (Value::Null, _) => None,
        (default, _) => Some((name, default.clone())),
    };
    let content: Map<String, Value> = fields.into_iter().filter_map(value).collect();
    Some(json!({ "action": "accept", "content": content }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_answered_with_its_defaults() {
        let form = json!({ "requestedSchema": { "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "sure": { "type": "boolean" },
            "note": { "type": "string" },
        } } });
        let said = answer("elicitation/create", &form).expect("an answer");
        assert_eq!(said, json!({ "action": "accept", "content": { "name": "John Doe", "sure": true } }));
        assert_eq!(answer("roots/list", &json!({})), None);
    }
}
