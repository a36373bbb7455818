//! Both sides of `initialize`.

use super::*;
use crate::envelope::{Envelope, Kind};

fn hello(params: &Value) -> Result<ClientHello, &'static str> {
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    ClientHello::parse(message.to_string().as_bytes())
}

fn able(capabilities: Value) -> ClientHello {
    hello(&json!({"protocolVersion": "2025-06-18", "capabilities": capabilities})).unwrap()
}

fn server(result: &Value) -> Result<ServerHello, String> {
    ServerHello::parse(json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string().as_bytes())
}

fn to_agent(server: &ServerHello, drop: &[&str]) -> Value {
    serde_json::from_slice(&server.to_agent(Revision::V2025_03_26, drop)).unwrap()
}

#[test]
fn an_agent_says_version_capabilities_and_who_it_is() {
    let hello = hello(&json!({
        "protocolVersion": "2025-03-26",
        "capabilities": {"roots": {"listChanged": true}},
        "clientInfo": {"name": "agent", "version": "1"},
    }))
    .unwrap();
    assert_eq!(hello.revision, Revision::V2025_03_26);
    assert_eq!(hello.capabilities, json!({"roots": {"listChanged": true}}));
    assert_eq!(hello.client_info["name"], "agent");
}

#[test]
fn an_agent_may_leave_out_all_but_the_version() {
    let hello = hello(&json!({"protocolVersion": "2099-01-01"})).unwrap();
    assert_eq!(hello.revision, Revision::LATEST_LEGACY);
    assert_eq!((hello.capabilities, hello.client_info), (json!({}), Value::Null));
}

#[test]
fn an_agent_that_makes_no_sense_is_told_why() {
    for (params, reason) in [
        (json!({}), "initialize needs a protocolVersion"),
        (json!({"protocolVersion": 1}), "initialize needs a protocolVersion"),
        (json!(null), "initialize needs a protocolVersion"),
        (json!({"protocolVersion": "2025-06-18", "capabilities": []}), "capabilities must be an object"),
        (json!({"protocolVersion": "2025-06-18", "capabilities": null}), "capabilities must be an object"),
    ] {
        assert_eq!(hello(&params).unwrap_err(), reason, "{params}");
    }
    assert_eq!(ClientHello::parse(b"{}").unwrap_err(), "initialize needs params");
    assert_eq!(ClientHello::parse(b"{").unwrap_err(), "initialize is not valid JSON");
}

#[test]
fn an_agent_a_server_may_ask_is_interactive() {
    for key in ["sampling", "elicitation", "roots", "tasks"] {
        assert!(able(json!({key: {}})).is_interactive(), "{key}");
        assert!(!able(json!({key: null})).is_interactive(), "{key}");
    }
    let display = json!({"experimental": {"x": {}}, "extensions": {"io.modelcontextprotocol/ui": {}}});
    assert!(!able(display).is_interactive());
    assert!(!ClientHello::neutral().is_interactive());
}

#[test]
fn the_class_is_what_is_declared_upstream() {
    assert_eq!(able(json!({"experimental": {"x": {}}})).class(), CapabilityClass::neutral());
    assert_eq!(CapabilityClass::neutral().as_str(), "{}");
    let one = able(json!({"sampling": {}, "roots": {"listChanged": true}, "tasks": {}, "experimental": {}}));
    let other = able(json!({"roots": {"listChanged": true}, "sampling": {}}));
    assert_eq!(one.class().as_str(), r#"{"roots":{"listChanged":true},"sampling":{}}"#);
    assert_eq!(one.class(), other.class(), "the order of declaration does not matter");
    assert_ne!(one.class(), able(json!({"sampling": {}})).class());
}

#[test]
fn our_own_initialize_is_a_request_any_server_can_read() {
    let class = able(json!({"roots": {}})).class();
    let request = ServerHello::request(7, &class, "0.1.0");
    let envelope = Envelope::parse(&request).unwrap();
    assert_eq!(
        (envelope.kind, envelope.params.protocol_version.as_deref()),
        (Kind::Request, Some("2025-11-25"))
    );
    let tree: Value = serde_json::from_slice(&request).unwrap();
    assert_eq!(
        tree,
        json!({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"roots": {}},
            "clientInfo": {"name": "mcpool", "version": "0.1.0"},
        }})
    );
}

#[test]
fn a_server_is_read_and_passed_on_at_the_agents_revision() {
    let server = server(&json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {
            "tools": {"listChanged": true}, "prompts": {"listChanged": false}, "resources": {"subscribe": true},
            "logging": {}, "experimental": {"x": {}},
        },
        "serverInfo": {"name": "s", "version": "1", "title": "S"},
        "instructions": "be kind",
    }))
    .unwrap();
    assert_eq!(server.revision, Revision::V2025_06_18);
    assert!(server.has("logging") && server.has("tools") && !server.has("completions"));
    assert!(server.announces_changes("tools"));
    assert!(!server.announces_changes("prompts") && !server.announces_changes("resources"));
    assert_eq!(
        to_agent(&server, &["experimental", "tasks"]),
        json!({
            "protocolVersion": "2025-03-26",
            "capabilities": {
                "tools": {"listChanged": true}, "prompts": {"listChanged": false}, "resources": {"subscribe": true},
                "logging": {},
            },
            "serverInfo": {"name": "s", "version": "1"},
            "instructions": "be kind",
        })
    );
    let dropped = to_agent(&server, &["resources.subscribe", "logging"]);
    assert_eq!(dropped["capabilities"]["resources"], json!({}));
    assert_eq!(dropped["capabilities"].get("logging"), None);
    assert_eq!(server.capabilities["resources"], json!({"subscribe": true}), "the original stays");
}

#[test]
fn what_a_server_leaves_out_or_nulls_is_what_agents_can_read() {
    let bare = json!({"protocolVersion": "2024-11-05"});
    let nulls = json!({
        "protocolVersion": "2024-11-05", "capabilities": null, "serverInfo": null, "instructions": null,
    });
    for result in [bare, nulls] {
        let result = to_agent(&server(&result).unwrap(), &["resources.subscribe"]);
        assert_eq!(
            result,
            json!({
                "protocolVersion": "2025-03-26",
                "capabilities": {},
                "serverInfo": {"name": "unnamed", "version": "unknown"},
            })
        );
    }
    let some =
        server(&json!({"protocolVersion": "2024-11-05", "capabilities": {"logging": null, "tools": {}}}))
            .unwrap();
    assert!(!some.has("logging"));
    assert_eq!(to_agent(&some, &[])["capabilities"], json!({"tools": {}}));
}

#[test]
fn a_server_that_makes_no_sense_is_refused_with_the_reason() {
    for (answer, reason) in [
        (
            json!({"error": {"code": -32602, "message": "too early"}}),
            "the backend refused initialize: -32602 too early",
        ),
        (json!({"error": {}}), "the backend refused initialize: 0 no message"),
        (json!({}), "no result in the answer to initialize"),
        (
            json!({"result": {"protocolVersion": "1999-01-01"}}),
            "the backend negotiated an unknown protocol version \"1999-01-01\"",
        ),
        (json!({"result": {}}), "the backend negotiated an unknown protocol version \"\""),
        (json!({"result": null}), "no result in the answer to initialize"),
    ] {
        assert_eq!(ServerHello::parse(answer.to_string().as_bytes()).unwrap_err(), reason);
    }
    assert!(ServerHello::parse(b"<html>").unwrap_err().starts_with("not valid JSON: "));
}

#[test]
fn an_older_agent_is_not_told_what_its_revision_does_not_know() {
    let hello = |revision: Revision| {
        server(&json!({
            "protocolVersion": revision.as_str(),
            "capabilities": {"tools": {}, "completions": {}, "tasks": {"list": {}}, "x": {"completions": 1}},
            "serverInfo": {
                "name": "s", "version": "1", "title": "S", "icons": [], "websiteUrl": "u", "description": "d", "x": 1,
            },
        }))
        .unwrap()
    };
    let keys = |tree: &Value| tree.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    for (agent, capabilities, info) in [
        (Revision::V2024_11_05, "tools x", "name version x"),
        (Revision::V2025_03_26, "completions tools x", "name version x"),
        (Revision::V2025_06_18, "completions tools x", "name title version x"),
        (
            Revision::V2025_11_25,
            "completions tasks tools x",
            "description icons name title version websiteUrl x",
        ),
    ] {
        let result: Value =
            serde_json::from_slice(&hello(Revision::V2025_11_25).to_agent(agent, &[])).unwrap();
        assert_eq!(
            (keys(&result["capabilities"]), keys(&result["serverInfo"])),
            (capabilities.into(), info.into())
        );
        // With equal revisions, unknown members pass.
        let same: Value = serde_json::from_slice(&hello(agent).to_agent(agent, &[])).unwrap();
        assert_eq!(keys(&same["serverInfo"]), "description icons name title version websiteUrl x");
    }
}

#[test]
fn what_no_tree_holds_is_passed_on_as_it_came() {
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25",
        "capabilities":{"tools":{"listChanged":true},"logging":{},"experimental":{"x":1e400}},
        "serverInfo":{"name":"half \ud83d","version":"1","title":"t"},"instructions":"say \udc00"}}"#;
    let server = ServerHello::parse(answer.as_bytes()).unwrap();
    assert!(server.has("tools") && server.announces_changes("tools"));
    assert_eq!(server.server_info["name"], "half \u{fffd}");
    let told = server.to_agent(Revision::V2025_03_26, &["logging"]);
    let expected = r#"{"protocolVersion":"2025-03-26","capabilities":{"experimental":{"x":1e400},"tools":{"listChanged":true}},"serverInfo":{"name":"half \ud83d","version":"1"},"instructions":"say \udc00"}"#;
    assert_eq!(std::str::from_utf8(&told).unwrap(), expected);

    let agent = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",
        "capabilities":{"elicitation":{},"experimental":{"n":1e400}},"clientInfo":{"name":"\ud83d"}}}"#;
    let agent = ClientHello::parse(agent.as_bytes()).unwrap();
    assert_eq!(agent.class().as_str(), r#"{"elicitation":{}}"#);
}
