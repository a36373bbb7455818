//! Agents and backends of different revisions, and what of an agent's request a backend gets to see.

use mcpool_testkit::{
    Agent, AgentConfig, Recorded, Script, Server,
    agent::{AgentError, Transport},
};
use mcpool_upstream::{ModeChoice, TransportChoice};
use serde_json::{Value, json};

use crate::rig::{Rig, Wanted};

const REVISIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

async fn rig_for(server: &Server, mode: ModeChoice) -> Rig {
    let wanted = Wanted { transport: TransportChoice::Http, mode, ..Wanted::shared(server.url_http()) };
    Rig::start(wanted).await
}

async fn agent(rig: &Rig, transport: Transport, revision: &str) -> (Agent, Value) {
    let url = if transport == Transport::Sse { rig.url_sse() } else { rig.url_http() };
    let config = AgentConfig { revision: revision.to_owned(), ..AgentConfig::new(url, transport) };
    let agent = Agent::connect(config).await.expect("connected");
    let hello = agent.initialize().await.expect("initialized");
    (agent, hello)
}

fn keys(item: &Value) -> String {
    let mut keys: Vec<_> = item.as_object().expect("an item").keys().cloned().collect();
    keys.sort();
    keys.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_lists_its_revision_knows_and_results_as_they_are() {
    for mode in [ModeChoice::Shared, ModeChoice::Pinned] {
        let mut capabilities = serde_json::Map::new();
        // Announced changes are what lets a list be kept.
        capabilities.insert("tools".into(), json!({ "listChanged": true }));
        let script = Script { extra_capabilities: capabilities, ..Script::default() };
        let server = Server::start(script).await.expect("a backend");
        let rig = rig_for(&server, mode).await;
        // Newest first and again, so that what is kept for one is not served to another.
        for revision in REVISIONS.iter().rev().chain(&REVISIONS) {
            for transport in [Transport::Http, Transport::Sse] {
                let (agent, hello) = agent(&rig, transport, revision).await;
                assert_eq!(hello["protocolVersion"], *revision);
                let tools = agent.request("tools/list", json!({})).await.expect("a list");
                let echo = match *revision {
                    "2024-11-05" => "description inputSchema name",
                    "2025-03-26" => "annotations description inputSchema name",
                    _ => "annotations description inputSchema name outputSchema title",
                };
                assert_eq!(keys(&tools["tools"][0]), echo, "{revision} {transport:?} {mode:?}");
                let prompts = agent.request("prompts/list", json!({})).await.expect("a list");
                assert_eq!(prompts["prompts"][0].get("title").is_some(), *revision >= "2025-06-18");
                let result = agent.call_tool("echo", json!({ "nonce": "n" })).await.expect("a result");
                assert_eq!(keys(&result), "content structuredContent", "results are nobody's to change");
                agent.close().await;
            }
        }
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_agrees_again_gets_lists_of_what_it_agreed_last() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let rig = rig_for(&server, ModeChoice::Shared).await;
    let (agent, _) = agent(&rig, Transport::Http, "2025-11-25").await;
    let older = json!({ "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": { "name": "a", "version": "1" } });
    let hello = agent.request("initialize", older).await.expect("answered again");
    assert_eq!(hello["protocolVersion"], "2024-11-05");
    let tools = agent.request("tools/list", json!({})).await.expect("a list");
    assert_eq!(keys(&tools["tools"][0]), "description inputSchema name");
    rig.stop().await;
}

fn header<'a>(request: &'a Recorded, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|value| value.to_str().expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_is_told_exactly_the_version_it_answered() {
    for revision in REVISIONS {
        let script = Script {
            protocol_version: Some(revision.to_owned()),
            strict_version: true,
            record: 1000,
            ..Script::default()
        };
        let server = Server::start(script).await.expect("a backend");
        let rig = rig_for(&server, ModeChoice::Shared).await;
        let (agent, _) = agent(&rig, Transport::Http, "2025-11-25").await;
        agent.call_tool("echo", json!({ "nonce": "n" })).await.expect("a result");
        rig.stop().await;
        let requests = server.take_recorded();
        assert!(requests.len() >= 4, "a handshake, a list and a call");
        for request in requests {
            let opens = request.body.windows(12).any(|w| w == b"\"initialize\"");
            let expected = (!opens && revision >= "2025-06-18").then_some(revision);
            assert_eq!(header(&request, "mcp-protocol-version"), expected, "{request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_no_longer_takes_the_version_is_agreed_with_again() {
    let script = Script { protocol_version: Some("2025-11-25".to_owned()), ..Script::default() };
    let server = Server::start(script).await.expect("a backend");
    let rig = rig_for(&server, ModeChoice::Shared).await;
    let (agent, _) = agent(&rig, Transport::Http, "2025-06-18").await;
    agent.call_tool("add", json!({ "nonce": "1" })).await.expect("a result");
    let before = server.stats().initializes;
    server.tune(|script| {
        script.protocol_version = Some("2025-06-18".to_owned());
        script.strict_version = true;
    });
    // Refused before it ran, so even a call that must not be repeated goes on.
    agent.call_tool("add", json!({ "nonce": "2" })).await.expect("served on a session agreed anew");
    assert_eq!(server.executions("2"), 1);
    assert!(server.stats().initializes > before);
    assert!(rig.seen.non_2xx().is_empty(), "{:?}", rig.seen.non_2xx());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_of_an_agent_reaches_a_backend() {
    let server = Server::start(Script { record: 1000, ..Script::default() }).await.expect("a backend");
    for (back, mode) in [
        (TransportChoice::Http, ModeChoice::Shared),
        (TransportChoice::Http, ModeChoice::Pinned),
        (TransportChoice::Sse, ModeChoice::Shared),
    ] {
        let url = if back == TransportChoice::Sse { server.url_sse() } else { server.url_http() };
        let rig = Rig::start(Wanted { transport: back, mode, ..Wanted::shared(url) }).await;
        let own: Vec<(String, String)> = [
            ("cookie", "canary=1"),
            ("authorization", "Bearer canary"),
            ("proxy-authorization", "Basic canary"),
            ("x-forwarded-for", "canary"),
            ("x-forwarded-host", "canary.example"),
            ("forwarded", "for=canary"),
            ("x-real-ip", "canary"),
            ("mcp-name", "canary"),
            ("mcp-method", "canary"),
            ("mcp-param-x", "canary"),
            ("mcp-init-host", "canary.example"),
            ("last-event-id", "canary"),
            ("user-agent", "canary/1"),
            ("x-custom", "canary"),
            ("traceparent", "canary"),
            ("accept-language", "canary"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let config = AgentConfig { headers: own, ..AgentConfig::http(rig.url_http()) };
        let agent = Agent::ready(config).await.expect("an agent");
        agent.call_with_progress("echo", json!({ "nonce": "n" })).await.expect("a result");
        let session = agent.session_id().expect("a session of the gateway");
        rig.stop().await;
        let requests = server.take_recorded();
        assert!(requests.len() >= 4);
        for request in requests {
            let shown = format!("{request:?}");
            let allowed = [
                "accept",
                "accept-encoding",
                "cache-control",
                "content-length",
                "content-type",
                "host",
                "mcp-protocol-version",
                "mcp-session-id",
                "user-agent",
            ];
            assert!(request.headers.keys().all(|name| allowed.contains(&name.as_str())), "{shown}");
            let values = request.headers.values().map(|value| String::from_utf8_lossy(value.as_bytes()));
            assert!(values.into_iter().all(|value| !value.contains("canary")), "{shown}");
            assert_eq!(header(&request, "host"), Some(server.addr().to_string().as_str()));
            assert_ne!(header(&request, "mcp-session-id"), Some(session.as_str()), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_beyond_the_limits_is_refused_on_both_fronts_and_nothing_else_is() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let rig = rig_for(&server, ModeChoice::Shared).await;
    for transport in [Transport::Http, Transport::Sse] {
        let (agent, _) = agent(&rig, transport, "2025-11-25").await;
        let refused = agent.call_tool(&"x".repeat(129), json!({})).await.expect_err("too long a name");
        assert!(matches!(refused, AgentError::Rpc { code: -32602, .. }), "{refused:?}");
        agent.call_tool("echo", json!({ "nonce": "n" })).await.expect("its session lives on");
        assert_eq!(agent.refused(), 0);
        agent.close().await;
    }
    rig.stop().await;
}
