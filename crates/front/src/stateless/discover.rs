//! `server/discover`: the capabilities of a backend, in the form of this era.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use mcpool_wire::{Link, Revision, modern::key, raw_members, result_response};
use serde_json::value::RawValue;

use super::links::SharedLink;
use crate::{http::response::Response, message::Request, observe::Cause, session::open::OpenEnd};

pub(super) fn respond<L: Link>(shared: &SharedLink<L>, request: &Request) -> Response {
    let end = OpenEnd::new(&shared.core);
    let result = result_of(&greeting(shared.link.as_ref()));
    end.ok(&shared.core, request);
    Response::json(StatusCode::OK, Cause::Gateway, result_response(&request.id, &result))
}

/// The members of the link's `initialize` result.
pub(super) type Greeting = BTreeMap<String, Box<RawValue>>;

/// Reads the link's `initialize` result.
pub(super) fn greeting<L: Link>(link: &L) -> Greeting {
    let said = link.initialize_result(Revision::V2026_07_28);
    std::str::from_utf8(&said).ok().and_then(raw_members).unwrap_or_default()
}

/// The server's name and version as JSON text.
pub(super) fn server_info(greeting: &Greeting) -> String {
    member(greeting, "serverInfo").to_owned()
}

fn member<'a>(greeting: &'a Greeting, key: &str) -> &'a str {
    greeting.get(key).map_or("{}", |raw| raw.get())
}

/// The result must not be cached: it is from the last handshake of the server.
fn result_of(greeting: &Greeting) -> Bytes {
    let (version, key) = (Revision::V2026_07_28, key::SERVER_INFO);
    let (capabilities, info) = (member(greeting, "capabilities"), member(greeting, "serverInfo"));
    let instructions = greeting.get("instructions").map(|text| format!(",\"instructions\":{text}"));
    Bytes::from(format!(
        "{{\"resultType\":\"complete\",\"supportedVersions\":[\"{version}\"],\"capabilities\":{capabilities},\
         \"ttlMs\":0,\"cacheScope\":\"private\",\"_meta\":{{\"{key}\":{info}}}{}}}",
        instructions.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_handshake_is_told_without_its_version() {
        let greeting = json!({
            "protocolVersion": "2026-07-28",
            "capabilities": { "tools": { "listChanged": true } },
            "serverInfo": { "name": "s", "version": "1" },
            "instructions": "ask",
        });
        let greeting = raw_members(&greeting.to_string()).expect("an object");
        let result: Value = serde_json::from_slice(&result_of(&greeting)).expect("a result");
        let expected = json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
            "capabilities": { "tools": { "listChanged": true } }, "instructions": "ask",
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "s", "version": "1" } },
        });
        assert_eq!(result, expected);
    }
}
