//! `server/discover`: what a backend can do, said in this era's way.

use bytes::Bytes;
use http::StatusCode;
use mcpool_wire::{Link, Revision, modern::key, result_response};
use serde_json::{Map, Value, json};

use super::guests::Guest;
use crate::{incoming::Request, observe::Cause, opening::OpenEnd, rescue::Served};

pub(super) fn answer<L: Link>(guest: &Guest<L>, request: &Request) -> Served {
    let end = OpenEnd::new(&guest.core);
    let result = result_of(&greeting(guest.link.as_ref()));
    end.ok(&guest.core, request);
    Served::json(StatusCode::OK, Cause::Gateway, result_response(&request.id, &result))
}

/// What the link says of its server.
pub(super) fn greeting<L: Link>(link: &L) -> Map<String, Value> {
    serde_json::from_slice(&link.initialize_result(Revision::V2026_07_28)).unwrap_or_default()
}

/// The server's name and version as JSON text.
pub(super) fn server_info(greeting: &Map<String, Value>) -> String {
    greeting.get("serverInfo").cloned().unwrap_or_else(|| json!({})).to_string()
}

/// Nobody is told to keep it: it says what the server was at its last handshake.
fn result_of(greeting: &Map<String, Value>) -> Bytes {
    let said = |key: &str| greeting.get(key).cloned().unwrap_or_else(|| json!({}));
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::V2026_07_28.as_str()],
        "capabilities": said("capabilities"),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": { key::SERVER_INFO: said("serverInfo") },
    });
    if let (Some(text), Some(result)) = (greeting.get("instructions"), result.as_object_mut()) {
        result.insert("instructions".to_owned(), text.clone());
    }
    Bytes::from(result.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_told_without_its_version() {
        let greeting = json!({
            "protocolVersion": "2026-07-28",
            "capabilities": { "tools": { "listChanged": true } },
            "serverInfo": { "name": "s", "version": "1" },
            "instructions": "ask",
        });
        let result: Value =
            serde_json::from_slice(&result_of(greeting.as_object().unwrap())).expect("a result");
        let expected = json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
            "capabilities": { "tools": { "listChanged": true } }, "instructions": "ask",
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "s", "version": "1" } },
        });
        assert_eq!(result, expected);
    }
}
