//! What a server keeps, and the habits of servers that nobody expects: each flag with the behaviour it stands for.

use serde_json::json;

use super::*;
use mcpool_testkit::{AgentError, IdDialect};

fn keeper() -> Script {
    Script { state_tools: true, ..Script::default() }
}

async fn said(agent: &Agent, tool: &str, args: serde_json::Value) -> String {
    text(&agent.call_tool(tool, args).await.expect("answered")).to_owned()
}

#[tokio::test]
async fn a_session_remembers_and_another_one_does_not() {
    let server = serve(keeper()).await;
    for transport in BOTH {
        let (one, two) = (ready(&server, transport).await, ready(&server, transport).await);
        said(&one, "set_state", json!({ "key": "k", "value": "v" })).await;
        assert_eq!(said(&one, "get_state", json!({ "key": "k" })).await, "v");
        assert_eq!(said(&two, "get_state", json!({ "key": "k" })).await, "");
        assert_eq!(
            (said(&one, "count", json!({})).await, said(&one, "count", json!({})).await),
            ("1".into(), "2".into())
        );
        assert_eq!(
            (said(&one, "toggle", json!({})).await, said(&one, "toggle", json!({})).await),
            ("on".into(), "off".into())
        );
        let tools = async |agent: &Agent| {
            agent.request("tools/list", json!({})).await.unwrap()["tools"].as_array().unwrap().len()
        };
        let before = tools(&one).await;
        said(&one, "reveal", json!({})).await;
        assert_eq!((tools(&one).await, tools(&two).await), (before + 1, before));
        assert!(said(&two, "hidden", json!({})).await.contains("Unknown tool"));
    }
    server.tune(|s| s.state_tools = false);
    let agent = ready(&server, Transport::Http).await;
    assert!(said(&agent, "count", json!({})).await.contains("Unknown tool"), "only when asked for");
}

#[tokio::test]
async fn the_store_loses_what_is_written_at_the_same_time() {
    let server = serve(keeper()).await;
    let agent = ready(&server, Transport::Http).await;
    let write = |n: u32| agent.call_tool("store", json!({ "value": n.to_string(), "ms": 50 }));
    let (one, two) = tokio::join!(write(1), write(2));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(server.stored().len(), 1);
    write(3).await.unwrap();
    assert_eq!(server.stored().len(), 2);
}

#[tokio::test]
async fn a_call_can_block_the_whole_server_pings_included() {
    let server = serve(keeper()).await;
    let (one, two) = (ready(&server, Transport::Http).await, ready(&server, Transport::Sse).await);
    let begun = std::time::Instant::now();
    let mut block = one.start_tool("block", json!({ "ms": 300 })).unwrap();
    until("it blocks", || server.stats().in_flight == 1).await;
    two.request("ping", json!({})).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    block.finish().await.unwrap();
}

#[tokio::test]
async fn the_level_of_a_session_is_the_one_set_last() {
    let server = serve(keeper()).await;
    let agent = ready(&server, Transport::Sse).await;
    let args = json!({ "steps": 2, "nonce": "n", "log": true });
    said(&agent, "progress", args.clone()).await;
    assert_eq!(agent.notifications().len(), 2);
    agent.request("logging/setLevel", json!({ "level": "emergency" })).await.unwrap();
    said(&agent, "progress", args).await;
    assert_eq!(agent.notifications().len(), 2);
}

#[tokio::test]
async fn roots_are_asked_for_once_and_again_when_they_changed() {
    let server = serve(keeper()).await;
    for transport in BOTH {
        let able = config(&server, transport).with_capabilities(json!({ "roots": {} }));
        let agent = Agent::connect(able).await.unwrap();
        let answer = |root: &'static str| {
            move |_: &str, _: &serde_json::Value| {
                Some(Ok(json!({ "roots": [{ "uri": format!("file://{root}") }] })))
            }
        };
        agent.on_request(answer("/a"));
        agent.initialize().await.unwrap();
        assert_eq!(said(&agent, "allowed", json!({ "key": "/a/x" })).await, "allowed");
        agent.on_request(answer("/b"));
        assert_eq!(said(&agent, "allowed", json!({ "key": "/a/x" })).await, "allowed");
        agent.notify("notifications/roots/list_changed", json!({})).await.unwrap();
        assert_ne!(said(&agent, "allowed", json!({ "key": "/a/x" })).await, "allowed");
    }
}

#[tokio::test]
async fn the_id_of_the_get_stream_takes_it_over() {
    let server = serve(Script { ids: IdDialect::Text, ..Script::default() }).await;
    let agent = Agent::ready(config(&server, Transport::Http).listening()).await.unwrap();
    let params = json!({ "name": "progress", "arguments": { "steps": 1, "nonce": "n" }, "_meta": { "progressToken": "t" } });
    let body = json!({ "jsonrpc": "2.0", "id": "_GET_stream", "method": "tools/call", "params": params });
    agent.post_bytes(body.to_string(), &[]).await.unwrap();
    until("the progress came on the other stream", || agent.unknown_progress() == 1).await;
}

#[tokio::test]
async fn a_session_belongs_to_its_credential() {
    let server = serve(Script { bind_credential: true, ..Script::default() }).await;
    for transport in BOTH {
        let mut mine = config(&server, transport);
        mine.headers.push(("authorization".into(), "Bearer mine".into()));
        let agent = Agent::ready(mine).await.unwrap();
        agent.call_tool("echo", json!({})).await.unwrap();
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        for other in ["Bearer other", ""] {
            assert_eq!(agent.post_bytes(ping, &[("authorization", other)]).await.unwrap().status, 404);
        }
    }
}

#[tokio::test]
async fn an_idle_session_expires_unless_it_is_listened_to() {
    let server = serve(Script { idle_expiry: Some(Duration::from_millis(300)), ..Script::default() }).await;
    let idle = ready(&server, Transport::Http).await;
    let listening = Agent::ready(config(&server, Transport::Http).listening()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lost = idle.call_tool("echo", json!({})).await;
    assert!(matches!(lost, Err(AgentError::Http { status: 404, .. })), "{lost:?}");
    listening.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_instance_knows_only_its_own_sessions() {
    let server = serve(Script { instances: 2, ..Script::default() }).await;
    let agent = ready(&server, Transport::Http).await;
    agent.call_tool("echo", json!({})).await.unwrap();
    let session = agent.session_id().unwrap();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let other = Agent::connect(config(&server, Transport::Http)).await.unwrap();
        statuses.push(other.post_bytes(ping, &[("mcp-session-id", &session)]).await.unwrap().status);
    }
    assert_eq!(statuses, [404, 200, 404, 200], "by connection");
}

#[tokio::test]
async fn an_acknowledgement_can_come_before_its_message() {
    let script =
        Script { strict_init: true, handover_delay: Duration::from_millis(100), ..Script::default() };
    let server = serve(script).await;
    let agent = ready(&server, Transport::Sse).await;
    let early = agent.call_tool("echo", json!({})).await;
    assert!(matches!(early, Err(AgentError::Rpc { code: -32602, .. })), "{early:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn the_first_call_can_wait_for_the_get_stream() {
    let wait = Duration::from_millis(300);
    let server = serve(Script { roots_wait: wait, ..Script::default() }).await;
    for (capabilities, waits) in [(json!({}), false), (json!({ "roots": {} }), true)] {
        let agent =
            Agent::ready(config(&server, Transport::Http).with_capabilities(capabilities)).await.unwrap();
        let begun = std::time::Instant::now();
        agent.call_tool("session", json!({})).await.unwrap();
        assert_eq!(begun.elapsed() >= wait, waits);
        let again = std::time::Instant::now();
        agent.call_tool("session", json!({})).await.unwrap();
        assert!(!waits || again.elapsed() < wait, "only the first");
    }
}

#[tokio::test]
async fn one_host_only_is_served() {
    let server = serve(Script { only_host: Some("localhost:1".into()), ..Script::default() }).await;
    let agent = Agent::connect(config(&server, Transport::Http)).await.unwrap();
    let refused = agent.initialize().await;
    assert!(matches!(refused, Err(AgentError::Http { status: 403, .. })), "{refused:?}");
    let mut right = config(&server, Transport::Http);
    right.headers.push(("host".into(), "localhost:1".into()));
    Agent::ready(right).await.unwrap();
}

/// A client that opens an HTTP+SSE session and never reads its stream; its session and the connection.
async fn deaf(server: &Server) -> (String, tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.expect("connected");
    stream
        .write_all(b"GET /sse HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
        .await
        .expect("connected");
    let mut head = Vec::new();
    let session = loop {
        let mut piece = [0; 512];
        let read = stream.read(&mut piece).await.expect("connected");
        head.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&head);
        if let Some((_, rest)) = text.split_once("session_id=")
            && rest.len() > 32
        {
            break rest[..32].to_owned();
        }
    };
    (session, stream)
}

#[tokio::test]
async fn posts_can_be_acknowledged_though_nobody_reads() {
    for (no_backpressure, all) in [(false, false), (true, true)] {
        let server = serve(Script { no_backpressure, ..Script::default() }).await;
        let (session, _stream) = deaf(&server).await;
        let agent = Agent::connect(config(&server, Transport::Http)).await.unwrap();
        let big = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"big","arguments":{"bytes":200000}}}"#;
        let path = format!("/messages/?session_id={session}");
        let posts = (0..400).map(|_| {
            let one = agent.raw(http::Method::POST, &path, &[], big.into());
            tokio::time::timeout(Duration::from_secs(3), one)
        });
        let took = futures::future::join_all(posts).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(took == 400, all, "{took} of 400 acknowledged");
    }
}
