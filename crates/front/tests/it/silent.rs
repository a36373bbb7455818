//! Calls that are silent for longer than a proxy would wait, and the places of calls that answer as a stream.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use serde_json::json;

use crate::{
    client::{Got, Running, Sse, cancel, start_with, tool, until},
    modern,
};

async fn impatient() -> Running {
    let (answer_as_stream, stream_ping) = (Duration::from_millis(40), Duration::from_millis(20));
    let times = FrontTimes { answer_as_stream, stream_ping, ..FrontTimes::default() };
    start_with(FrontConfig { times, ..FrontConfig::default() }).await
}

#[tokio::test]
async fn a_silent_call_becomes_a_stream_with_pings_and_is_answered_on_it() {
    let front = impatient().await;
    let session = front.session_of("2025-03-26").await;
    let id = ("mcp-session-id", session.as_str());
    let silent = [json!(tool(1, "gated")), json!([tool(2, "gated"), tool(3, "gated")])];
    for body in &silent {
        let mut stream = Sse::over(front.start_post("/mcp", &[id], body).await);
        for _ in 0..2 {
            assert_eq!(stream.comment().await, ": ping\n\n");
        }
        front.script.gate.open();
        assert_eq!(stream.json().await["result"]["tool"], "gated");
        front.script.gate.close();
    }
    let mut stream = front.ask_streamed(&modern::call(4, "gated")).await;
    assert_eq!(stream.comment().await, ": ping\n\n");
    front.script.gate.open();
    assert_eq!(stream.json().await["result"]["tool"], "gated");
    assert!(stream.event().await.is_none());
    // One that is quick is one JSON body, as ever.
    let got = front.call(&session, &tool(5, "echo")).await;
    assert_eq!(got.headers["content-type"], "application/json");
}

#[tokio::test]
async fn who_does_not_name_event_streams_gets_json_however_late() {
    let front = impatient().await;
    let session = front.session("/mcp").await;
    for (id, accept) in ["application/json", "*/*", "application/json, */*;q=0.1"].into_iter().enumerate() {
        let headers = [("mcp-session-id", session.as_str()), ("accept", accept)];
        let body = tool(id, "gated");
        let open = async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            front.script.gate.open();
        };
        let (response, ()) = tokio::join!(front.start_post("/mcp", &headers, &body), open);
        let got = Got::read(response).await;
        assert_eq!(got.headers["content-type"], "application/json", "{accept}");
        assert_eq!(got.json()["result"]["tool"], "gated");
        front.script.gate.close();
    }
}

#[tokio::test]
async fn calls_beyond_the_places_for_streams_run_and_are_cancelled_like_others() {
    let limits = FrontLimits { adopted_calls: 1, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let events_first =
        [("mcp-session-id", session.as_str()), ("accept", "text/event-stream, application/json")];
    let first = Sse::over(front.start_post("/mcp", &events_first, &tool(1, "hang")).await);
    assert_eq!(front.gauges.adopted.load(Ordering::SeqCst), 1);
    // No place is left: the others stay with their handlers, at once.
    let (hang, gated, quick) = (tool(2, "hang"), tool(3, "gated"), tool(4, "echo"));
    let hanging = front.start_post("/mcp", &events_first, &hang);
    let waiting = front.start_post("/mcp", &events_first, &gated);
    let rest = async {
        until("all run", || front.calls() == 3).await;
        let mut stream = Sse::over(front.start_post("/mcp", &events_first, &quick).await);
        assert_eq!(stream.json().await["result"]["tool"], "echo");
        assert_eq!(front.call(&session, &cancel(2)).await.status, 202);
        until("it is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
        front.script.gate.open();
    };
    let (hanging, waiting, ()) = tokio::join!(hanging, waiting, rest);
    assert!(Sse::over(hanging).event().await.is_none());
    assert_eq!(Sse::over(waiting).json().await["result"]["tool"], "gated");
    assert_eq!(front.call(&session, &cancel(1)).await.status, 202);
    until("the place is free", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
    drop(first);
    let mut streamed = Sse::over(front.start_post("/mcp", &events_first, &tool(5, "gated")).await);
    assert_eq!(streamed.json().await["id"], 5);
}
