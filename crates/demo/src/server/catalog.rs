//! What the demo server offers, as prebuilt JSON: tools with schemas and annotations, one resource, one
//! template, one prompt.
//!
//! The subtle thing: every text is one line of JSON (a stream event cannot hold a line break); a test parses
//! them all.

use serde_json::{Map, Value, json};

use crate::script::Script;

/// One entry of `tools/list` without its separators.
const TOOLS: [&str; 9] = [
    r#"{"name":"echo","title":"Echo","description":"Gives back the nonce, or the text.","inputSchema":{"type":"object","properties":{"nonce":{"type":"string"},"text":{"type":"string"}}},"outputSchema":{"type":"object","properties":{"nonce":{"type":"string"},"text":{"type":"string"}}},"annotations":{"readOnlyHint":true,"idempotentHint":true,"openWorldHint":false}}"#,
    r#"{"name":"sleep","title":"Sleep","description":"Answers after a while.","inputSchema":{"type":"object","properties":{"ms":{"type":"integer","minimum":0,"maximum":600000},"nonce":{"type":"string"}},"required":["ms"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    r#"{"name":"progress","title":"Progress","description":"Reports its progress, then answers.","inputSchema":{"type":"object","properties":{"steps":{"type":"integer","minimum":0,"maximum":10000},"interval_ms":{"type":"integer","minimum":0,"maximum":60000},"nonce":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    r#"{"name":"add","title":"Add","description":"Counts its own executions by nonce; not safe to repeat.","inputSchema":{"type":"object","properties":{"nonce":{"type":"string"}},"required":["nonce"]},"annotations":{"readOnlyHint":false,"destructiveHint":false,"idempotentHint":false,"openWorldHint":false}}"#,
    r#"{"name":"big","title":"Big","description":"Answers a text of so many bytes.","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer","minimum":0,"maximum":16777216}},"required":["bytes"]},"annotations":{"readOnlyHint":true,"idempotentHint":true,"openWorldHint":false}}"#,
    r#"{"name":"fail","title":"Fail","description":"Answers a tool error.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    r#"{"name":"rpc_error","title":"Protocol error","description":"Answers a JSON-RPC error.","inputSchema":{"type":"object","properties":{"code":{"type":"integer"},"text":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    r#"{"name":"session","title":"Session","description":"Names the session of the server that answers.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    ASK,
];

/// Listed last, because [`Script::list_by_capability`] may hide it.
const ASK: &str = r#"{"name":"ask","title":"Ask","description":"Asks the client (elicitation, sampling or roots) and gives back its answer.","inputSchema":{"type":"object","properties":{"kind":{"type":"string","enum":["elicitation","sampling","roots"]},"text":{"type":"string"},"timeout_ms":{"type":"integer","minimum":1,"maximum":600000}},"required":["kind"]},"annotations":{"readOnlyHint":false,"openWorldHint":true}}"#;

/// Offered by [`Script::state_tools`].
const STATE_TOOLS: [&str; 8] = [
    r#"{"name":"set_state","description":"Keeps a value in the session.","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"value":{"type":"string"}},"required":["key","value"]},"annotations":{"readOnlyHint":false}}"#,
    r#"{"name":"get_state","description":"Gives back a value kept in the session.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]},"annotations":{"readOnlyHint":true}}"#,
    r#"{"name":"count","description":"Counts its calls in the session.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":false}}"#,
    r#"{"name":"reveal","description":"Makes the tool hidden visible in the session.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":false}}"#,
    r#"{"name":"toggle","description":"Switches something of the session on, or off again.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":false}}"#,
    r#"{"name":"allowed","description":"Whether the roots of the client hold a path.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]},"annotations":{"readOnlyHint":true}}"#,
    r#"{"name":"store","description":"Reads all items, waits, and writes them back with one more.","inputSchema":{"type":"object","properties":{"value":{"type":"string"},"ms":{"type":"integer"}},"required":["value"]},"annotations":{"readOnlyHint":false}}"#,
    r#"{"name":"block","description":"Holds up the whole server.","inputSchema":{"type":"object","properties":{"ms":{"type":"integer"}},"required":["ms"]},"annotations":{"readOnlyHint":true}}"#,
];

/// Listed in the sessions that called `reveal`.
const HIDDEN: &str = r#"{"name":"hidden","description":"For those who may see it.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":true}}"#;

/// Result of `resources/list`.
pub(crate) const RESOURCES: &str = r#"{"resources":[{"uri":"demo://readme","name":"readme","title":"Read me","description":"A short text.","mimeType":"text/plain"}]}"#;
/// Result of `resources/templates/list`.
pub(crate) const TEMPLATES: &str = r#"{"resourceTemplates":[{"uriTemplate":"demo://item/{id}","name":"item","title":"Item","description":"An item by its id.","mimeType":"text/plain"}]}"#;
/// Result of `prompts/list`.
pub(crate) const PROMPTS: &str = r#"{"prompts":[{"name":"greet","title":"Greet","description":"Greets somebody.","arguments":[{"name":"who","description":"Whom to greet.","required":false}]}]}"#;
/// Result of `completion/complete`.
pub(crate) const COMPLETION: &str = r#"{"completion":{"values":["world","you"],"total":2,"hasMore":false}}"#;
/// Text of the one resource.
pub(crate) const README: &str = "A scriptable MCP server.";

const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// Whether a version is one of the four revisions with a handshake.
pub(crate) fn is_known_version(version: &str) -> bool {
    VERSIONS.contains(&version)
}

/// Result of `tools/list`.
pub(crate) fn tools(with_ask: bool, with_state: bool, revealed: bool) -> String {
    let mut shown = if with_ask { TOOLS.to_vec() } else { TOOLS[..TOOLS.len() - 1].to_vec() };
    if with_state {
        shown.extend(STATE_TOOLS);
    }
    if revealed {
        shown.push(HIDDEN);
    }
    format!("{{\"tools\":[{}]}}", shown.join(","))
}

/// Result of `initialize`.
pub(crate) fn initialize(script: &Script, asked: Option<&str>) -> String {
    let version = match (&script.protocol_version, asked) {
        (Some(fixed), _) => fixed.as_str(),
        (None, Some(asked)) if is_known_version(asked) => asked,
        (None, _) => "2025-11-25",
    };
    let mut result = json!({
        "protocolVersion": version,
        "capabilities": capabilities(script),
        "serverInfo": { "name": script.server_name, "version": script.server_version },
    });
    if let Some(text) = &script.instructions {
        result["instructions"] = Value::from(text.as_str());
    }
    result.to_string()
}

fn capabilities(script: &Script) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("tools".into(), json!({ "listChanged": true }));
    all.insert("resources".into(), json!({ "subscribe": true, "listChanged": true }));
    all.insert("prompts".into(), json!({ "listChanged": true }));
    all.insert("logging".into(), json!({}));
    all.insert("completions".into(), json!({}));
    for (name, value) in &script.extra_capabilities {
        if value.is_null() {
            all.remove(name);
        } else {
            all.insert(name.clone(), value.clone());
        }
    }
    all
}
