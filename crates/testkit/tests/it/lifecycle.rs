//! Cold starts, caps, forgotten sessions, restarts, goodbyes.

use serde_json::json;

use super::*;
use mcpool_testkit::{AgentError, Lost};

#[tokio::test]
async fn a_strict_server_refuses_what_comes_before_initialized() {
    let server = serve(Script { strict_init: true, ..Script::default() }).await;
    for transport in BOTH {
        let agent = Agent::connect(config(&server, transport)).await.unwrap();
        agent.initialize_only().await.unwrap();
        let early = agent.request("tools/list", json!({})).await;
        match (transport, early) {
            (Transport::Sse, Err(AgentError::Rpc { code: -32602, data, .. })) => assert_eq!(data, ""),
            (Transport::Http, Err(AgentError::Http { status: 400, body })) => {
                assert!(body.contains("-32602"))
            }
            (_, other) => panic!("{other:?}"),
        }
        agent.request("ping", json!({})).await.unwrap();
        agent.initialized().await.unwrap();
        agent.request("tools/list", json!({})).await.unwrap();
    }
    let stats = server.stats();
    assert_eq!((stats.too_early, stats.refused_total()), (2, 1));
}

#[tokio::test]
async fn a_slow_handshake_is_a_window_for_early_requests() {
    let delay = Duration::from_millis(60);
    let server = serve(Script { handshake_delay: delay, strict_init: true, ..Script::default() }).await;
    let agent = Agent::connect(config(&server, Transport::Sse)).await.unwrap();
    let begun = std::time::Instant::now();
    let (handshake, early) = tokio::join!(agent.initialize_only(), agent.request("tools/list", json!({})));
    assert!(begun.elapsed() >= delay);
    handshake.unwrap();
    assert!(matches!(early, Err(AgentError::Rpc { code: -32602, .. })), "{early:?}");
    assert_eq!(server.stats().too_early, 1);
}

#[tokio::test]
async fn a_request_without_a_session_is_too_early_too() {
    let server = serve(Script::default()).await;
    let agent = Agent::connect(config(&server, Transport::Http)).await.unwrap();
    let early = agent.request("tools/list", json!({})).await;
    assert!(matches!(early, Err(AgentError::Http { status: 400, .. })), "{early:?}");
    assert_eq!(server.stats().too_early, 1);
}

#[tokio::test]
async fn above_the_session_cap_is_503_and_a_goodbye_makes_room() {
    let server = serve(Script { session_cap: 1, ..Script::default() }).await;
    for transport in BOTH {
        let first = ready(&server, transport).await;
        let second = Agent::ready(config(&server, transport)).await;
        assert!(matches!(second, Err(AgentError::Http { status: 503, .. })), "{second:?}");
        first.close().await;
        until("the session is gone", || server.stats().sessions_open == 0).await;
        ready(&server, transport).await.close().await;
        until("that one too", || server.stats().sessions_open == 0).await;
    }
    let stats = server.stats();
    assert_eq!((stats.sessions_peak, stats.sessions_refused, stats.deletes), (1, 2, 2));
}

#[tokio::test]
async fn a_dropped_agent_ends_its_sse_session() {
    let server = serve(Script::default()).await;
    drop(ready(&server, Transport::Sse).await);
    until("stream, session and connections are gone", || {
        let stats = server.stats();
        stats.sessions_open + stats.streams_open + stats.connections_open == 0
    })
    .await;
}

#[tokio::test]
async fn forgotten_sessions_are_lost_in_the_words_of_the_dialect() {
    for (lost, status) in [(Lost::NotFound, 404), (Lost::BadRequest, 400)] {
        let server = serve(Script { lost, ..Script::default() }).await;
        let agent = ready(&server, Transport::Http).await;
        server.forget_sessions(false);
        let answer = agent.call_tool("echo", json!({})).await;
        assert!(matches!(&answer, Err(AgentError::Http { status: s, .. }) if *s == status), "{answer:?}");
        assert_eq!(server.stats().sessions_open, 0);
        let again = ready(&server, Transport::Http).await;
        again.call_tool("echo", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn forgotten_sse_sessions_lose_their_stream_or_keep_it_deaf() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Sse).await;
    server.forget_sessions(true);
    let answer = agent.call_tool("echo", json!({})).await;
    assert!(matches!(answer, Err(AgentError::Http { status: 404, .. })), "{answer:?}");
    assert_eq!(agent.closed(), None);
    let agent = ready(&server, Transport::Sse).await;
    server.forget_sessions(false);
    agent.wait_closed().await;
}

#[tokio::test]
async fn a_restart_takes_the_same_port_with_no_memory() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let call = agent.start_tool("sleep", json!({ "ms": 60_000 })).unwrap();
        until("the call is in flight", || server.stats().in_flight == 1).await;
        let addr = server.addr();
        server.stop().await;
        let mut call = call;
        let cut = call.finish().await;
        assert!(matches!(cut, Err(AgentError::Closed(_))), "{cut:?}");
        let refused = Agent::ready(config(&server, transport)).await;
        assert!(matches!(refused, Err(AgentError::Closed(_))), "{refused:?}");
        let stats = server.stats();
        assert_eq!(stats.in_flight + stats.connections_open + stats.sessions_open + stats.streams_open, 0);
        server.restart().await.unwrap();
        assert_eq!(server.addr(), addr);
        if transport == Transport::Http {
            let lost = agent.call_tool("echo", json!({})).await;
            assert!(matches!(lost, Err(AgentError::Http { status: 404, .. })), "{lost:?}");
        }
        ready(&server, transport).await.call_tool("echo", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_runs_on_when_its_caller_goes_away() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Http).await;
    let call = agent.start_tool("sleep", json!({ "ms": 60_000 })).unwrap();
    until("the call is in flight", || server.stats().in_flight == 1).await;
    let open = server.stats().connections_open;
    drop(call);
    until("its connection is gone", || server.stats().connections_open < open).await;
    assert_eq!((server.stats().in_flight, server.stats().cancels), (1, 0));
    agent.call_tool("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn delete_ends_calls_in_flight_without_an_answer() {
    let server = serve(Script::default()).await;
    let agent = ready(&server, Transport::Http).await;
    let mut call = agent.start_tool("sleep", json!({ "ms": 60_000 })).unwrap();
    until("the call is in flight", || server.stats().in_flight == 1).await;
    let id = agent.session_id().unwrap();
    let deleted = agent
        .raw(http::Method::DELETE, "/mcp", &[("mcp-session-id", &id)], bytes::Bytes::new())
        .await
        .unwrap();
    assert_eq!(deleted.status, 200);
    let empty = call.finish().await;
    assert!(matches!(empty, Err(AgentError::Closed(_))), "{empty:?}");
    assert_eq!(agent.refused(), 0);
    assert_eq!(server.stats().deletes, 1);
}
