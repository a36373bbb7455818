//! HTTP+SSE: every well-formed message of a known session is 202, and its answer is on the stream.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mcpool_front::{FrontConfig, FrontTimes};
use mcpool_wire::{CallError, ErrorKind};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::client::{Running, cancel, initialize, start, start_with, tool, until};

async fn start_times(times: FrontTimes) -> Running {
    start_with(FrontConfig { times, ..FrontConfig::default() }).await
}

#[tokio::test]
async fn every_url_and_spelling_speaks_sse() {
    let front = start().await;
    for (path, backend) in [("/sse", "a"), ("/sse/", "a"), ("/mcp", "a"), ("/b/sse", "b"), ("/b/mcp/", "b")] {
        let mut stream = front.sse(path, &[]).await;
        let url = format!("{path}?session_id={}", stream.session);
        let got = front.post(&url, &[], &initialize("i")).await;
        assert_eq!((got.status.as_u16(), got.text.as_str()), (202, ""), "{path}");
        let answer = stream.json().await;
        assert_eq!(
            (answer["id"].clone(), answer["result"]["serverInfo"]["name"].clone()),
            (json!("i"), json!(backend))
        );
        assert_eq!(
            front
                .post(&url, &[], &json!({"jsonrpc":"2.0","method":"notifications/initialized"}))
                .await
                .status,
            202
        );
        front.post(&url, &[], &tool(0, "echo")).await;
        assert_eq!(stream.json().await["id"], 0);
        front.post(&url, &[], &json!({"jsonrpc":"2.0","id":-1,"method":"ping"})).await;
        assert_eq!(stream.json().await, json!({"jsonrpc":"2.0","id":-1,"result":{}}));
        front.post(&url, &[], &initialize(9)).await;
        assert_eq!(stream.json().await["result"]["protocolVersion"], "2025-06-18");
    }
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_request_that_overtakes_the_handshake_waits_for_it() {
    let front = start().await;
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    let mut stream = front.sse("/sse", &[]).await;
    for message in [
        initialize(1),
        tool(2, "echo"),
        tool(3, "echo"),
        cancel(3),
        json!({"jsonrpc":"2.0","id":4,"method":"ping"}),
    ] {
        assert_eq!(front.say(&stream.session, &message).await.status, 202);
    }
    // `ping` is about the gateway and waits for nothing.
    assert_eq!(stream.json().await["id"], 4);
    gate.add_permits(1);
    assert_eq!(stream.json().await["id"], 1);
    assert_eq!(stream.json().await["result"]["tool"], "echo");
    front.say(&stream.session, &tool(5, "echo")).await;
    assert_eq!(stream.json().await["id"], 5);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_agent_without_handshake_is_served_and_may_greet_later() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[("mcpool-affinity", "blue")]).await;
    front.say(&stream.session, &tool(1, "echo")).await;
    assert_eq!(stream.json().await["id"], 1);
    {
        let hellos = front.script.hellos.lock().unwrap();
        assert_eq!(hellos[0].client.capabilities, json!({}));
        assert_eq!(hellos[0].caller.affinity.as_deref(), Some("blue"));
    }
    let mut greeting = initialize(2);
    greeting["params"]["capabilities"] = json!({"sampling":{}});
    front.say(&stream.session, &greeting).await;
    assert_eq!(stream.json().await["id"], 2);
    assert!(front.script.hellos.lock().unwrap()[1].client.is_interactive());
    until("the neutral link is dropped", || front.script.links.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn failures_behind_the_gateway_are_errors_on_the_stream() {
    let front = start().await;
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    *front.script.open_error.lock().unwrap() = Some(CallError::not_sent(ErrorKind::Unavailable, "down"));
    let mut stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, &initialize(1)).await;
    front.say(&stream.session, &tool(2, "echo")).await;
    gate.add_permits(100);
    for id in [1, 2] {
        let answer = stream.json().await;
        assert_eq!((answer["id"].clone(), answer["error"]["code"].clone()), (json!(id), json!(-31901)));
        let request_id = answer["error"]["data"]["request_id"].as_str().unwrap();
        assert_eq!(front.script.saw(request_id), 1);
    }
    *front.script.open_error.lock().unwrap() = None;
    front.say(&stream.session, &initialize(3)).await;
    assert_eq!(stream.json().await["result"]["serverInfo"]["name"], "a");
    front.say(&stream.session, &tool(4, "lost")).await;
    let data = stream.json().await["error"]["data"].clone();
    assert_eq!((data["kind"].clone(), data["executed"].clone()), (json!("lost_in_flight"), json!("maybe")));
}

#[tokio::test]
async fn odd_but_well_formed_messages_are_202_with_an_error_on_the_stream() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[]).await;
    let discover = json!({"jsonrpc":"2.0","id":"d","method":"server/discover","params":{}});
    assert_eq!(front.say(&stream.session, &discover).await.status, 202);
    let answer = stream.json().await;
    assert_eq!((answer["id"].clone(), answer["error"]["code"].clone()), (json!("d"), json!(-32601)));
    let bad_id = json!({"jsonrpc":"2.0","id":1.5,"method":"tools/list"});
    assert_eq!(front.say(&stream.session, &bad_id).await.status, 202);
    assert_eq!(stream.json().await["error"]["code"], -32600);
    let url = format!("/sse?session_id={}", stream.session);
    let broken = front.send("POST", &url, &[("content-type", "application/json")], "{").await;
    assert_eq!(broken.status(), 400);
    // Two with one id: the second is refused, the first answered.
    front.say(&stream.session, &tool(1, "gated")).await;
    front.say(&stream.session, &tool(1, "echo")).await;
    assert_eq!(stream.json().await["error"]["code"], -32600);
    front.script.gate.open();
    assert_eq!(stream.json().await["result"]["tool"], "gated");
}

#[tokio::test]
async fn a_cancelled_call_has_no_answer_and_disturbs_nobody() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, &tool("x", "hang")).await;
    front.say(&stream.session, &tool("y", "gated")).await;
    until("both run", || front.script.calls.lock().unwrap().len() == 2).await;
    assert_eq!(front.say(&stream.session, &cancel("x")).await.status, 202);
    until("the call is dropped", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    front.script.gate.open();
    assert_eq!(stream.json().await["id"], "y");
    assert_eq!(front.script.saw("tools/call a cancelled"), 1);
}

#[tokio::test]
async fn a_call_whose_server_is_polled_keeps_the_stream_of_its_session() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[]).await;
    let pause = json!({"jsonrpc":"2.0","id":1,"method":"tools/call",
                       "params":{"name":"pause","arguments":{"wait_ms":250}}});
    front.say(&stream.session, &pause).await;
    assert_eq!(stream.json().await["params"]["data"], "before");
    front.script.gate.open();
    assert_eq!(stream.json().await["id"], 1);
    front.say(&stream.session, &tool(2, "echo")).await;
    assert_eq!(stream.json().await["id"], 2);
}

#[tokio::test]
async fn an_agent_that_comes_back_gets_what_it_missed() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[]).await;
    let session = stream.session.clone();
    front.say(&session, &initialize(1)).await;
    assert_eq!(stream.json().await["id"], 1);
    front.say(&session, &tool(2, "gated")).await;
    until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
    drop(stream);
    until("the connection is gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    front.script.gate.open();
    until("the call has ended", || front.script.finished_calls.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.say(&session, &tool(3, "echo")).await.status, 202);

    let mut back = front.sse("/sse", &[("last-event-id", &session)]).await;
    assert_eq!(back.session, session);
    assert_eq!((back.json().await["id"].clone(), back.json().await["id"].clone()), (json!(2), json!(3)));
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 1);
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 0);
    // Another backend's URL is another agent, and so is an id nobody knows.
    for (path, id) in [("/b/sse", session.as_str()), ("/sse", "unknown"), ("/sse", &"A".repeat(32))] {
        let mut other = front.sse(path, &[("last-event-id", id)]).await;
        assert_ne!(other.session, session);
        // Where the `endpoint` event leads: a session belongs to its backend.
        let endpoint = format!("{path}?session_id={}", other.session);
        assert_eq!(front.post(&endpoint, &[], &tool(1, "echo")).await.status, 202);
        assert_eq!(other.json().await["id"], 1);
    }
}

#[tokio::test]
async fn a_second_stream_of_one_agent_takes_over() {
    let front = start().await;
    let mut half_open = front.sse("/sse", &[]).await;
    let session = half_open.session.clone();
    let mut stream = front.sse("/sse", &[("last-event-id", &session)]).await;
    assert!(half_open.event().await.is_none());
    drop(half_open);
    front.say(&session, &tool(1, "echo")).await;
    assert_eq!(stream.json().await["id"], 1);
}

#[tokio::test]
async fn an_agent_that_stays_away_is_over() {
    let grace = Duration::from_millis(50);
    let front = start_times(FrontTimes { reconnect_grace: grace, ..FrontTimes::default() }).await;
    let stream = front.sse("/sse", &[]).await;
    let session = stream.session.clone();
    front.say(&session, &tool(2, "hang")).await;
    until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
    drop(stream);
    until("the link is dropped", || front.script.links.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
    assert_eq!(front.say(&session, &tool(3, "echo")).await.status, 404);
    until("its end is told", || front.script.saw("closed gone") == 1).await;
    assert_eq!(front.gauges.sse_agents.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_silent_stream_gets_comments() {
    let ping = Duration::from_millis(20);
    let front = start_times(FrontTimes { stream_ping: ping, ..FrontTimes::default() }).await;
    let mut stream = front.sse("/sse", &[]).await;
    for _ in 0..3 {
        assert_eq!(stream.comment().await, ": ping\n\n");
    }
}

#[tokio::test]
async fn line_breaks_between_tokens_do_not_break_the_event() {
    let front = start().await;
    let mut stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, &tool("n", "lines")).await;
    assert_eq!(stream.json().await, json!({"jsonrpc":"2.0","id":"n","result":{}}));
}
