//! Streamable HTTP: sessions, answers, streams, cancellation.

use std::sync::{Arc, atomic::Ordering};

use mcpool_front::{FrontConfig, FrontTimes};
use mcpool_wire::{CallError, ErrorKind};
use serde_json::json;

use crate::client::{Sse, cancel, initialize, start, start_with, tool, tool_with_token, until};

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete() {
    let front = start().await;
    let got = front.post("/mcp", &[], &initialize("i")).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.json()["id"], "i");
    assert_eq!(got.json()["result"]["protocolVersion"], "2025-06-18");
    let session = got.headers["mcp-session-id"].to_str().unwrap().to_owned();

    let got = front.call(&session, &json!({"jsonrpc":"2.0","method":"notifications/initialized"})).await;
    assert_eq!((got.status.as_u16(), got.text.as_str()), (202, ""));
    let got = front.call(&session, &tool(5, "echo")).await;
    assert_eq!(got.headers["content-length"], got.text.len().to_string());
    assert_eq!(got.json()["id"], 5);
    assert_eq!(got.json()["result"]["backend"], "a");
    assert_eq!(
        front.call(&session, &json!({"jsonrpc":"2.0","id":1,"method":"ping"})).await.json()["result"],
        json!({})
    );
    // Said again, answered again, same session.
    let again = front.call(&session, &initialize(9)).await;
    assert_eq!(again.json()["result"]["serverInfo"]["name"], "a");
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);

    let gone = front.send("DELETE", "/mcp", &[("mcp-session-id", &session)], "").await;
    assert_eq!(gone.status(), 200);
    until("the link is dropped", || front.script.links.load(Ordering::SeqCst) == 0).await;
    let got = front.call(&session, &tool(6, "echo")).await;
    assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (404, -32600, json!(6)));
    let gone = front.send("DELETE", "/mcp", &[("mcp-session-id", &session)], "").await;
    assert_eq!(gone.status(), 404);
    assert_eq!(front.script.saw("closed deleted"), 1);
}

#[tokio::test]
async fn progress_turns_the_answer_into_a_stream() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let response =
        front.start_post("/mcp", &[("mcp-session-id", &session)], &tool_with_token(1, "progress")).await;
    assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut stream = Sse::over(response);
    for step in 1..=2 {
        let note = stream.json().await;
        assert_eq!(note["params"], json!({"progressToken":"tok","progress":step}));
    }
    front.script.gate.open();
    assert_eq!(stream.json().await["id"], 1);
    assert!(stream.event().await.is_none());
}

#[tokio::test]
async fn a_cancelled_call_ends_without_a_message() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let (headers, message) = ([("mcp-session-id", session.as_str())], tool("x", "hang"));
    let call = front.start_post("/mcp", &headers, &message);
    let stop = async {
        until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
        assert_eq!(front.call(&session, &cancel("x")).await.status, 202);
    };
    let (response, ()) = tokio::join!(call, stop);
    assert_eq!(response.status(), 200);
    let mut stream = Sse::over(response);
    assert!(stream.event().await.is_none());
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
    assert_eq!(front.script.saw("tools/call a cancelled"), 1);
}

#[tokio::test]
async fn what_fails_behind_the_gateway_is_200_with_an_error() {
    let front = start().await;
    *front.script.open_error.lock().unwrap() = Some(CallError::not_sent(ErrorKind::Unavailable, "down"));
    let got = front.post("/mcp", &[], &initialize(1)).await;
    assert_eq!((got.status.as_u16(), got.code()), (200, -31901));
    assert!(!got.headers.contains_key("mcp-session-id"));
    let request_id = got.json()["error"]["data"]["request_id"].as_str().unwrap().to_owned();
    assert_eq!(front.script.saw(&request_id), 1);
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 0);
    *front.script.open_error.lock().unwrap() = None;

    let session = front.session("/mcp").await;
    for (name, code, outcome) in
        [("fail", -31901, "rejected executed=no"), ("lost", -31905, "lost executed=maybe")]
    {
        let got = front.call(&session, &tool(2, name)).await;
        assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (200, code, json!(2)));
        let request_id = got.json()["error"]["data"]["request_id"].as_str().unwrap().to_owned();
        assert_eq!(front.script.saw(&format!("tools/call a {outcome} {request_id}")), 1);
    }
    assert_eq!(front.script.saw("responded http 200 gateway"), 3);
    assert_eq!(front.script.saw("responded http 200 backend"), 1);
}

#[tokio::test]
async fn an_open_that_never_ends_is_bounded() {
    let times = FrontTimes { open: std::time::Duration::from_millis(30), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    *front.script.open_gate.lock().unwrap() = Some(Arc::new(tokio::sync::Semaphore::new(0)));
    let got = front.post("/mcp", &[], &initialize(1)).await;
    assert_eq!((got.status.as_u16(), got.code()), (200, -31906));
}

#[tokio::test]
async fn a_call_carries_what_the_backend_needs() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let list =
        |params: serde_json::Value| json!({"jsonrpc":"2.0","id":1,"method":"tools/list","params":params});
    front.call(&session, &list(json!({}))).await;
    front.call(&session, &list(json!({"cursor":"c"}))).await;
    front
        .call(
            &session,
            &json!({"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"u:1","name":"n"}}),
        )
        .await;
    let calls = front.script.calls.lock().unwrap();
    assert_eq!(calls.iter().map(|call| call.is_plain_list).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(calls[2].name.as_deref(), Some("u:1"));
    assert!(calls.windows(2).all(|pair| pair[0].request_id != pair[1].request_id));
    assert!(calls.iter().all(|call| call.caller.agent == calls[0].caller.agent));
}
