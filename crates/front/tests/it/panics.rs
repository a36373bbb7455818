//! A panic ends the call, the stream or the connection it happened in, is told by name, and the others go on.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::client::{Sse, initialize, start, tool, tool_with_token, until};

#[tokio::test]
async fn a_call_that_panics_is_answered_and_its_agent_and_the_others_go_on() {
    let front = start().await;
    let (http, other) = (front.session("/mcp").await, front.session("/mcp").await);
    let mut sse = front.sse("/sse", &[]).await;
    let waits = tool(1, "gated");
    let bystander = front.call(&other, &waits);
    let rest = async {
        until("the other one runs", || front.script.calls.lock().unwrap().len() == 1).await;
        // Answered on its own POST.
        let got = front.call(&http, &tool(2, "boom")).await;
        assert_eq!((got.status.as_u16(), got.code()), (200, -31905), "{}", got.text);
        assert_eq!(got.json()["error"]["data"]["executed"], "no");
        assert_eq!(
            front.call(&http, &tool(2, "echo")).await.json()["id"],
            2,
            "its id and its session are free"
        );
        // On an agent's stream, beside another call of it.
        front.say(&sse.session, &tool(3, "gated")).await;
        front.say(&sse.session, &tool(4, "boom")).await;
        let answer = sse.json().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(4), &json!(-31905)));
        // On a stream of its own, after a part of it was sent.
        let headers = [("mcp-session-id", http.as_str())];
        let mut stream =
            Sse::over(front.start_post("/mcp", &headers, &tool_with_token(5, "boom-later")).await);
        assert_eq!(stream.json().await["method"], "notifications/progress");
        front.script.gate.open();
        assert_eq!(stream.json().await["error"]["code"], -31905);
        assert_eq!(sse.json().await["id"], 3);
    };
    let (answered, ()) = tokio::join!(bystander, rest);
    assert_eq!(answered.json()["result"]["tool"], "gated");
    assert_eq!(front.script.saw("Panicked { task: \"call\""), 3);
    until("nothing is left", || front.gauges.calls.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.gauges.adopted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_stream_or_a_connection_that_panics_ends_alone() {
    let front = start().await;
    let (mut mine, mut other) = (front.sse("/sse", &[]).await, front.sse("/sse", &[]).await);
    front.say(&other.session, &initialize(1)).await;
    assert_eq!(other.json().await["id"], 1);
    front.script.open_panics.store(true, Ordering::SeqCst);
    front.say(&mine.session, &initialize(1)).await;
    assert!(mine.event().await.is_none(), "its stream has ended");
    assert_eq!(front.script.saw("Panicked { task: \"stream\""), 1);
    until("its session has ended", || front.script.saw("closed fault") == 1).await;
    assert_eq!(front.say(&mine.session, &tool(2, "echo")).await.status, 404);

    front.script.open_panics.store(true, Ordering::SeqCst);
    let body = initialize(1).to_string();
    let broken = front.try_send("POST", "/mcp", &[("content-type", "application/json")], body).await;
    assert!(broken.is_err(), "its connection has ended");
    until("it is told", || front.script.saw("Panicked { task: \"connection\"") == 1).await;

    front.say(&other.session, &tool(2, "echo")).await;
    assert_eq!(other.json().await["id"], 2, "the others go on");
    front.session("/mcp").await;
    until("the connection is given back", || {
        front.gauges.sse_agents.load(Ordering::SeqCst) == 1
            && front.gauges.http_agents.load(Ordering::SeqCst) == 1
    })
    .await;
}
