//! Every dialect flag at least once, with the behaviour it stands for.

use serde_json::{Value, json};

use super::*;
use mcpool_testkit::{AgentError, Answer, IdDialect, Prime};

#[tokio::test]
async fn both_presets_serve_a_decent_agent() {
    for script in [Script::python(), Script::everything(), Script::cold()] {
        let server = serve(script).await;
        for transport in BOTH {
            let agent = ready(&server, transport).await;
            assert_eq!(text(&agent.call_tool("echo", json!({ "text": "hi" })).await.unwrap()), "hi");
            assert_eq!(agent.refused(), 0);
        }
        assert_eq!(server.stats().too_early, 0);
    }
}

#[tokio::test]
async fn ids_that_are_one_in_python_hang_the_first_call() {
    for (ids, second, duplicates) in
        [(IdDialect::Text, "\"7\"", 1), (IdDialect::Typed, "\"7\"", 0), (IdDialect::Typed, "7", 1)]
    {
        let server = serve(Script { ids, ..Script::default() }).await;
        let (one, two) = (ready(&server, Transport::Http).await, ready(&server, Transport::Http).await);
        let session = one.session_id().unwrap();
        let call = |name: &str, id: &str, ms: u64| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}","arguments":{{"ms":{ms}}}}}}}"#
            )
        };
        let first = one.post_bytes(call("sleep", "7", 80), &[]);
        let second = async {
            until("the first is in flight", || server.stats().in_flight == 1).await;
            two.post_bytes(call("sleep", second, 1), &[("mcp-session-id", &session)]).await
        };
        let (first, second) = tokio::join!(tokio::time::timeout(4 * SILENCE, first), second);
        assert!(second.unwrap().body.starts_with(b"{\"jsonrpc\""));
        assert_eq!(
            first.is_err(),
            duplicates == 1,
            "{ids:?}: the first hangs if and only if the keys are one"
        );
        assert_eq!(server.stats().duplicate_ids, duplicates);
    }
}

#[tokio::test]
async fn odd_ids_are_refused_or_taken_for_notifications() {
    for (ids, status) in [(IdDialect::Text, 202), (IdDialect::Typed, 400)] {
        let server = serve(Script { ids, ..Script::default() }).await;
        for transport in BOTH {
            let agent = ready(&server, transport).await;
            for id in ["null", "1.5", "true", "[1]", "{}", "1e3"] {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
                let answer = agent.post_bytes(body, &[]).await.unwrap();
                assert_eq!(answer.status, status, "{id} by {ids:?} on {transport:?}");
            }
        }
    }
}

#[tokio::test]
async fn string_ids_come_back_as_nobodys() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = Agent::ready(config(&server, transport).with_timeout(SILENCE)).await.unwrap();
        server.tune(|s| s.string_ids_back = true);
        let lost = agent.call_tool("echo", json!({})).await;
        assert!(matches!(lost, Err(AgentError::Timeout | AgentError::Closed(_))), "{lost:?}");
        assert_eq!(agent.unknown_answers(), 1);
        server.tune(|s| s.string_ids_back = false);
    }
}

#[tokio::test]
async fn without_session_ids_every_request_stands_alone() {
    let server = serve(Script { no_session_id: true, ..Script::default() }).await;
    let agent = ready(&server, Transport::Http).await;
    assert_eq!(agent.session_id(), None);
    let args = json!({ "steps": 2, "interval_ms": 1, "nonce": "n" });
    let (_, seen) = agent.call_with_progress("progress", args).await.unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(agent.get("/mcp", &[]).await.unwrap().status, 405);
    let deleted = agent.raw(http::Method::DELETE, "/mcp", &[], bytes::Bytes::new()).await.unwrap();
    assert_eq!(deleted.status, 405);
    assert_eq!(server.stats().sessions_opened, 0);
}

#[tokio::test]
async fn slashes_are_redirected_only_when_asked_for() {
    for (redirect_slash, status) in [(false, 200), (true, 307)] {
        let server = serve(Script { redirect_slash, ..Script::default() }).await;
        let agent = ready(&server, Transport::Http).await;
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let answer = agent.raw(http::Method::POST, "/mcp/?a=b", &[], ping.into()).await.unwrap();
        assert_eq!(answer.status, status);
        let sse = agent.get("/sse/", &[]).await.unwrap();
        assert_eq!(sse.status, status);
        if redirect_slash {
            let expected = format!("{}?a=b", server.url_http());
            assert_eq!(answer.headers["location"].to_str().unwrap(), expected);
            assert_eq!(server.stats().refused[&307], 2);
        }
    }
}

#[tokio::test]
async fn accept_is_checked_only_when_asked_for() {
    for (require_accept, refused) in [(false, 0), (true, 3)] {
        let server = serve(Script { require_accept, ..Script::default() }).await;
        let agent = ready(&server, Transport::Http).await;
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        agent.post_bytes(ping, &[("accept", "application/json")]).await.unwrap();
        agent.get("/mcp", &[("accept", "*/*")]).await.unwrap();
        agent.get("/sse", &[("accept", "*/*")]).await.unwrap();
        assert_eq!(server.stats().refused.get(&406).copied().unwrap_or(0), refused);
    }
}

#[tokio::test]
async fn a_second_initialize_is_answered_or_refused() {
    for refuse in [false, true] {
        let server = serve(Script { refuse_second_initialize: refuse, ..Script::default() }).await;
        for transport in BOTH {
            let agent = ready(&server, transport).await;
            let session = agent.session_id();
            let again = agent.initialize_only().await;
            assert_eq!(again.is_err(), refuse, "{again:?}");
            if transport == Transport::Http && !refuse {
                assert_ne!(session, None);
            }
        }
    }
}

#[tokio::test]
async fn the_get_stream_is_one_or_none() {
    let server = serve(Script::default()).await;
    let agent = Agent::ready(config(&server, Transport::Http).listening()).await.unwrap();
    assert!(matches!(agent.listen().await, Err(AgentError::Http { status: 409, .. })));
    server.close_streams();
    until("the first is gone", || server.stats().streams_open == 0).await;
    agent.listen().await.unwrap();
    server.tune(|s| s.get_stream = false);
    let other = ready(&server, Transport::Http).await;
    assert!(matches!(other.listen().await, Err(AgentError::Http { status: 405, .. })));
}

#[tokio::test]
async fn streams_can_be_primed_chunked_and_kept_alive() {
    let script = Script { answer: Answer::Sse, prime: Some(Prime { retry_ms: 1234 }), ..Script::default() };
    let server = serve(script).await;
    let agent = ready(&server, Transport::Http).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let first = agent.post_bytes(ping, &[]).await.unwrap().body;
    let first = String::from_utf8(first.to_vec()).unwrap();
    assert!(first.starts_with("id: ") && first.contains("\nretry: 1234\ndata:\n\n"), "{first:?}");
    agent.call_tool("echo", json!({})).await.unwrap();
    assert_eq!(agent.garbage(), 0);

    agent.listen().await.unwrap();
    until("the priming event of the GET stream came", || agent.last_event_id().is_some()).await;

    server.tune(|s| (s.prime, s.chunk) = (None, Some(100)));
    let big = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"big","arguments":{"bytes":5000}}}"#;
    assert_eq!(&agent.post_bytes(big, &[]).await.unwrap().body[..15], b"event: message\n");
    let result = agent.call_tool("big", json!({ "bytes": 5000 })).await.unwrap();
    assert_eq!(text(&result).len(), 5000);

    server.tune(|s| (s.chunk, s.keep_alive) = (None, Some(Duration::from_millis(5))));
    let other = ready(&server, Transport::Http).await;
    let comment = other.get("/mcp", &[]).await.unwrap();
    assert_eq!(comment.body, ": ping\n\n");
}

#[tokio::test]
async fn a_stream_can_end_after_so_many_messages() {
    let server = serve(Script { close_stream_after: Some(3), ..Script::default() }).await;
    let agent = ready(&server, Transport::Sse).await;
    agent.request("ping", json!({})).await.unwrap();
    agent.request("ping", json!({})).await.unwrap();
    agent.wait_closed().await;
    assert_eq!(agent.closed().as_deref(), Some("the stream ended"));
}

#[tokio::test]
async fn answers_can_overtake_one_another() {
    let server = serve(Script { out_of_order: true, ..Script::default() }).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let mut first = agent.start_tool("echo", json!({ "nonce": "first" })).unwrap();
        until("the first is in flight", || server.stats().in_flight == 1).await;
        // an echo that is not held back is never in flight at all
        agent.request("ping", json!({})).await.unwrap();
        assert_eq!(server.stats().in_flight, 1);
        let second = agent.call_tool("echo", json!({ "nonce": "second" })).await;
        assert_eq!(text(&second.unwrap()), "second");
        assert_eq!(text(&first.finish().await.unwrap()), "first");
    }
}

#[tokio::test]
async fn streamable_can_be_mounted_where_sse_is_expected() {
    let script = Script { http_paths: vec!["/sse/".into()], ..Script::default() };
    let server = serve(script).await;
    let agent = ready(&server, Transport::Http).await;
    agent.call_tool("echo", json!({})).await.unwrap();
    let lost = Agent::connect(config(&server, Transport::Sse)).await;
    assert!(matches!(lost, Err(AgentError::Http { status: 400, .. })), "{lost:?}");
}

#[tokio::test]
async fn the_initialize_result_is_the_scripts() {
    let mut script = Script {
        protocol_version: Some("2024-11-05".into()),
        server_name: "mine".into(),
        instructions: Some("be kind".into()),
        ..Script::default()
    };
    script.extra_capabilities.insert("tasks".into(), json!({ "list": {} }));
    script.extra_capabilities.insert("prompts".into(), Value::Null);
    let server = serve(script).await;
    for transport in BOTH {
        let agent = Agent::connect(config(&server, transport)).await.unwrap();
        let result = agent.initialize().await.unwrap();
        assert_eq!(result["protocolVersion"], "2024-11-05");
        assert_eq!(
            (result["serverInfo"]["name"].as_str(), result["instructions"].as_str()),
            (Some("mine"), Some("be kind"))
        );
        assert!(
            result["capabilities"]["tasks"].is_object() && result["capabilities"].get("prompts").is_none()
        );
    }
}

#[tokio::test]
async fn tools_can_depend_on_what_the_client_declared() {
    let server = serve(Script { list_by_capability: true, ..Script::default() }).await;
    for transport in BOTH {
        let plain = ready(&server, transport).await;
        let able = config(&server, transport).with_capabilities(json!({ "roots": {} }));
        let able = Agent::ready(able).await.unwrap();
        let count = |list: Value| list["tools"].as_array().unwrap().len();
        let fewer = count(plain.request("tools/list", json!({})).await.unwrap());
        assert_eq!(count(able.request("tools/list", json!({})).await.unwrap()), fewer + 1);
    }
}

#[tokio::test]
async fn the_endpoint_can_name_another_origin() {
    let script = Script { endpoint_prefix: "http://elsewhere.example".into(), ..Script::default() };
    let server = serve(script).await;
    let agent = Agent::connect(config(&server, Transport::Http)).await.unwrap();
    let first = agent.get("/sse", &[]).await.unwrap().body;
    assert!(first.starts_with(b"event: endpoint\ndata: http://elsewhere.example/messages/?session_id="));
}

#[tokio::test]
async fn a_call_delay_is_waited() {
    let delay = Duration::from_millis(40);
    let server = serve(Script { call_delay: delay, ..Script::default() }).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let begun = std::time::Instant::now();
        agent.call_tool("echo", json!({})).await.unwrap();
        assert!(begun.elapsed() >= delay);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_the_agent_opens_another() {
    let server = serve(Script { connection_idle: Duration::from_millis(30), ..Script::default() }).await;
    let agent = ready(&server, Transport::Http).await;
    until("the server closed it", || server.stats().connections_open == 0).await;
    agent.call_tool("echo", json!({})).await.unwrap();
    assert_eq!(server.stats().connections_opened, 2);
}
