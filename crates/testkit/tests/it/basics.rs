//! Handshake, lists, calls and progress on both transports.

use serde_json::json;

use super::*;
use mcpool_testkit::{Answer, Ids};

#[tokio::test]
async fn a_handshake_echoes_a_known_version_and_replaces_an_unknown_one() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let mut config = config(&server, transport);
        config.revision = "2025-03-26".into();
        let agent = Agent::connect(config.clone()).await.unwrap();
        let result = agent.initialize().await.unwrap();
        assert_eq!(result["protocolVersion"], "2025-03-26");
        assert_eq!(result["capabilities"]["resources"]["subscribe"], true);
        config.revision = "2026-07-28".into();
        let agent = Agent::connect(config).await.unwrap();
        assert_eq!(agent.initialize().await.unwrap()["protocolVersion"], "2025-11-25");
        assert_eq!(agent.refused(), 0);
    }
    assert_eq!(server.stats().initializes, 4);
    assert_eq!(server.stats().too_early, 0);
}

#[tokio::test]
async fn every_list_and_read_answers() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let tools = agent.request("tools/list", json!({})).await.unwrap();
        let names: Vec<_> =
            tools["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["echo", "sleep", "progress", "add", "big", "fail", "rpc_error", "session", "ask"]);
        for tool in tools["tools"].as_array().unwrap() {
            assert_eq!(tool["inputSchema"]["type"], "object");
            assert!(tool["annotations"]["readOnlyHint"].is_boolean());
        }
        let resources = agent.request("resources/list", json!({})).await.unwrap();
        let uri = &resources["resources"][0]["uri"];
        let read = agent.request("resources/read", json!({ "uri": uri })).await.unwrap();
        assert!(read["contents"][0]["text"].as_str().unwrap().contains("MCP"));
        let item = agent.request("resources/read", json!({ "uri": "demo://item/7" })).await.unwrap();
        assert_eq!(item["contents"][0]["text"], "item 7");
        let prompt =
            agent.request("prompts/get", json!({ "name": "greet", "arguments": { "who": "you" } })).await;
        assert_eq!(prompt.unwrap()["messages"][0]["content"]["text"], "Hello, you!");
        for method in ["resources/templates/list", "prompts/list", "completion/complete", "ping"] {
            agent.request(method, json!({})).await.unwrap_or_else(|e| panic!("{method}: {e}"));
        }
        agent.request("logging/setLevel", json!({ "level": "debug" })).await.unwrap();
        let unknown = agent.request("no/such", json!({})).await;
        assert!(matches!(unknown, Err(mcpool_testkit::AgentError::Rpc { code: -32601, .. })), "{unknown:?}");
    }
}

#[tokio::test]
async fn calls_answer_in_each_form_of_answer() {
    for (transport, answer) in [
        (Transport::Sse, Answer::Auto),
        (Transport::Http, Answer::Auto),
        (Transport::Http, Answer::Json),
        (Transport::Http, Answer::Sse),
    ] {
        let server = serve(Script { answer, ..Script::default() }).await;
        let agent = ready(&server, transport).await;
        let echo = agent.call_tool("echo", json!({ "nonce": "a\n\"b\"" })).await.unwrap();
        assert_eq!(text(&echo), "a\n\"b\"");
        assert_eq!(echo["structuredContent"]["nonce"], "a\n\"b\"");
        assert_eq!(text(&agent.call_tool("sleep", json!({ "ms": 5, "nonce": "n" })).await.unwrap()), "n");
        let big = agent.call_tool("big", json!({ "bytes": 300_000 })).await.unwrap();
        assert_eq!(text(&big).len(), 300_000);
        let failed = agent.call_tool("fail", json!({ "text": "no" })).await.unwrap();
        assert_eq!((failed["isError"].as_bool(), text(&failed)), (Some(true), "no"));
        let error = agent.call_tool("rpc_error", json!({ "code": -31000 })).await;
        assert!(matches!(error, Err(mcpool_testkit::AgentError::Rpc { code: -31000, .. })), "{error:?}");
        assert_eq!(agent.foreign() + agent.garbage() + agent.refused(), 0);
    }
}

#[tokio::test]
async fn add_counts_its_executions_per_nonce() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        for n in 1..=3 {
            let nonce = format!("{transport:?}");
            let result = agent.call_tool("add", json!({ "nonce": nonce })).await.unwrap();
            assert_eq!(result["structuredContent"]["executions"], n);
            assert_eq!(server.executions(&nonce), n);
        }
    }
    let stats = server.stats();
    assert_eq!((stats.executions, stats.executions_peak, stats.nonces), (6, 3, 2));
}

#[tokio::test]
async fn progress_reaches_the_call_it_belongs_to() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        let calls = (0..8).map(|n| {
            let agent = agent.clone();
            async move {
                let nonce = format!("call-{n}");
                let args = json!({ "steps": 5, "interval_ms": 1, "nonce": nonce });
                let (result, seen) = agent.call_with_progress("progress", args).await.unwrap();
                assert_eq!(text(&result), nonce);
                assert_eq!(seen.len(), 5);
                for (at, params) in seen.iter().enumerate() {
                    assert_eq!(params["progress"], at + 1);
                    assert!(params["message"].as_str().unwrap().starts_with(&nonce));
                }
            }
        });
        futures::future::join_all(calls).await;
        assert_eq!(agent.foreign(), 0);
    }
}

#[tokio::test]
async fn a_thousand_calls_in_parallel_all_get_their_own_answer() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let agent = ready(&server, transport).await;
        agent.set_ids(Ids::Mixed(0));
        let calls = (0..1000).map(|n| {
            let agent = agent.clone();
            async move {
                let nonce = format!("n{n}");
                let result = agent.call_tool("echo", json!({ "nonce": nonce })).await.unwrap();
                assert_eq!(text(&result), nonce);
            }
        });
        futures::future::join_all(calls).await;
        assert_eq!(agent.foreign() + agent.refused(), 0);
    }
    let stats = server.stats();
    assert_eq!(stats.requests_of("tools/call"), 2000);
    assert_eq!(stats.duplicate_ids, 0);
    assert!(stats.connections_opened <= 2 * 64 + 1, "connections are reused: {stats:?}");
}

#[tokio::test]
async fn the_session_tool_tells_sessions_apart() {
    let server = serve(Script::default()).await;
    for transport in BOTH {
        let (one, two) = (ready(&server, transport).await, ready(&server, transport).await);
        let id = |r: serde_json::Value| text(&r).to_owned();
        let first = id(one.call_tool("session", json!({})).await.unwrap());
        assert_eq!(first, id(one.call_tool("session", json!({})).await.unwrap()));
        assert_ne!(first, id(two.call_tool("session", json!({})).await.unwrap()));
        if transport == Transport::Http {
            assert_eq!(one.session_id(), Some(first));
        }
    }
}
