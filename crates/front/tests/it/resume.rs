//! Streams that break and are taken up again, and what belongs to whom then.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use mcpool_wire::LinkEvent;
use serde_json::json;

use crate::client::{Event, Got, Running, Sse, cancel, start, start_with, tool, tool_with_token, until};

fn changed(list: &str) -> LinkEvent {
    LinkEvent::Notification(Bytes::from(
        json!({"jsonrpc":"2.0","method":format!("notifications/{list}/list_changed")}).to_string(),
    ))
}

async fn nobody_is_connected(front: &Running) {
    until("the connection is gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
}

async fn next(stream: &mut Sse) -> Event {
    stream.event().await.expect("the stream ended")
}

#[tokio::test]
async fn a_call_whose_connection_died_is_answered_to_whoever_resumes_its_stream() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool_with_token(1, "progress")).await;
    let seen = next(&mut stream).await.id.unwrap();
    drop(stream);
    nobody_is_connected(&front).await;
    // Taken up while it runs: the second progress again, then the answer, and its end.
    let mut stream = front.listen(&session, Some(&seen)).await;
    let second = next(&mut stream).await;
    assert_eq!(second.json()["params"]["progress"], 2);
    front.script.gate.open();
    assert_eq!(stream.json().await["id"], 1);
    assert!(stream.event().await.is_none());
    drop(stream);
    nobody_is_connected(&front).await;
    // Taken up after its end.
    let mut stream = front.listen(&session, Some(&second.id.unwrap())).await;
    let answer = next(&mut stream).await;
    assert_eq!(answer.json()["id"], 1);
    assert!(stream.event().await.is_none());
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 0);
    // Nothing came after the answer: clients must not be sent round and round.
    let got = Got::read(front.try_listen(&session, Some(&answer.id.unwrap())).await).await;
    assert_eq!((got.status.as_u16(), got.code()), (405, -32600));
}

#[tokio::test]
async fn an_answer_that_came_while_its_agent_was_away_waits_for_it() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool(7, "log-gated")).await;
    let seen = next(&mut stream).await.id.unwrap();
    drop(stream);
    nobody_is_connected(&front).await;
    front.script.gate.open();
    until("the call has ended", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
    let mut stream = front.listen(&session, Some(&seen)).await;
    assert_eq!(stream.json().await["params"]["data"], "after");
    assert_eq!(stream.json().await["id"], 7);
    assert!(stream.event().await.is_none());
}

#[tokio::test]
async fn a_call_that_nobody_resumes_is_cancelled_and_its_answer_forgotten() {
    let window = Duration::from_millis(100);
    let times = FrontTimes { orphan: window, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool_with_token(1, "progress")).await;
    let seen = next(&mut stream).await.id.unwrap();
    drop(stream);
    until("the call is dropped", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(window).await;
    assert_eq!(front.try_listen(&session, Some(&seen)).await.status(), 405);
}

#[tokio::test]
async fn the_listening_stream_is_resumed_without_loss() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let outlet = front.script.outlet();
    let mut stream = front.listen(&session, None).await;
    outlet.push(changed("tools")).unwrap();
    let seen = next(&mut stream).await.id.unwrap();
    outlet.push(changed("prompts")).unwrap();
    assert_eq!(next(&mut stream).await.json()["method"], "notifications/prompts/list_changed");
    drop(stream);
    nobody_is_connected(&front).await;
    outlet.push(changed("resources")).unwrap();
    let mut stream = front.listen(&session, Some(&seen)).await;
    for list in ["prompts", "resources"] {
        assert_eq!(next(&mut stream).await.json()["method"], format!("notifications/{list}/list_changed"));
    }
    outlet.push(changed("tools")).unwrap();
    assert_eq!(next(&mut stream).await.json()["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn an_id_that_is_not_of_this_session_opens_a_fresh_stream() {
    let front = start().await;
    let other = front.session("/mcp").await;
    let mut stream = front.streamed(&other, &tool(1, "log")).await;
    let foreign = next(&mut stream).await.id.unwrap();
    let mine = front.session("/mcp").await;
    let outlet = front.script.outlet();
    let huge = "1".repeat(9_000);
    for id in [foreign.as_str(), "0-99", "7-1", "x", "-", "1-1-1", "", huge.as_str()] {
        let mut stream = front.listen(&mine, Some(id)).await;
        outlet.push(changed("tools")).unwrap();
        assert_eq!(next(&mut stream).await.json()["method"], "notifications/tools/list_changed", "{id}");
    }
    // A second one of the header says nothing.
    let headers = [
        ("mcp-session-id", mine.as_str()),
        ("accept", "text/event-stream"),
        ("last-event-id", "0-1"),
        ("last-event-id", "0-2"),
    ];
    assert_eq!(front.send("GET", "/mcp", &headers, "").await.status(), 400);
    // The owner still has its own.
    let mut own = front.listen(&other, Some(&foreign)).await;
    assert_eq!(next(&mut own).await.json()["id"], 1);
}

#[tokio::test]
async fn a_deleted_session_has_nothing_to_resume() {
    let front = start().await;
    let (mine, other) = (front.session("/mcp").await, front.session("/mcp").await);
    let mut listening = front.listen(&mine, None).await;
    let mut stream = front.streamed(&mine, &tool_with_token(1, "progress")).await;
    let mut theirs = front.streamed(&other, &tool_with_token(1, "progress")).await;
    let seen = next(&mut stream).await.id.unwrap();
    assert_eq!(front.send("DELETE", "/mcp", &[("mcp-session-id", &mine)], "").await.status(), 200);
    assert!(listening.event().await.is_none());
    assert_eq!(next(&mut stream).await.json()["params"]["progress"], 2);
    assert!(stream.event().await.is_none());
    assert_eq!(front.try_listen(&mine, Some(&seen)).await.status(), 404);
    front.script.gate.open();
    let answer = async {
        while let Some(event) = theirs.event().await {
            if event.json()["id"] == 1 {
                return true;
            }
        }
        false
    };
    assert!(answer.await, "the other agent's call has ended without an answer");
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_to_resume() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool_with_token(1, "progress")).await;
    let _ = next(&mut stream).await;
    let seen = next(&mut stream).await.id.unwrap();
    front.call(&session, &cancel(1)).await;
    assert!(stream.event().await.is_none());
    assert_eq!(front.try_listen(&session, Some(&seen)).await.status(), 405);
}

#[tokio::test]
async fn only_agents_of_2025_11_25_are_primed() {
    let times = FrontTimes { retry: Duration::from_millis(1_500), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let session = front.session_of(revision).await;
        let mut call = front.streamed(&session, &tool_with_token(1, "progress-now")).await;
        let mut listening = front.listen(&session, None).await;
        let outlet = front.script.outlet();
        outlet.push(changed("tools")).unwrap();
        for stream in [&mut call, &mut listening] {
            let mut first = next(stream).await;
            if revision == "2025-11-25" {
                assert_eq!((first.data.as_str(), first.event.as_str()), ("", ""));
                assert_eq!(first.retry.as_deref(), Some("1500"));
                assert!(first.id.unwrap().ends_with("-0"));
                first = next(stream).await;
            }
            assert!(first.id.unwrap().ends_with("-1") && first.retry.is_none());
            assert!(first.data.contains("notifications/"), "{revision}");
        }
    }
    // Behind the priming event stands the whole stream.
    let session = front.session_of("2025-11-25").await;
    let mut stream = front.streamed(&session, &tool_with_token(1, "progress")).await;
    let primed = next(&mut stream).await.id.unwrap();
    drop(stream);
    let mut stream = front.listen(&session, Some(&primed)).await;
    assert_eq!(next(&mut stream).await.id, Some(primed));
    for step in 1..=2 {
        assert_eq!(stream.json().await["params"]["progress"], step);
    }
    // HTTP+SSE agents never are, whatever they negotiated.
    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &crate::client::initialize_as(0, "2025-11-25")).await;
    let greeted = next(&mut sse).await;
    assert_eq!((greeted.json()["id"].clone(), greeted.id), (json!(0), None));
}

#[tokio::test]
async fn an_agent_that_names_streams_first_gets_one_in_any_case() {
    let front = start().await;
    let session = front.session_of("2025-11-25").await;
    let typed = async |accept: &str| {
        let headers = [("mcp-session-id", session.as_str()), ("accept", accept)];
        let response = front.start_post("/mcp", &headers, &tool(1, "echo")).await;
        let media = response.headers()["content-type"].to_str().unwrap().to_owned();
        (media, Got::read(response).await.text)
    };
    for accept in [
        "text/event-stream, application/json",
        "text/event-stream;q=0.5 , application/json;q=0.4",
        "application/json;q=0.9, Text/Event-Stream",
        "application/json;q=0, text/event-stream",
        "text/event-stream",
    ] {
        let (media, body) = typed(accept).await;
        assert_eq!(media, "text/event-stream", "{accept}");
        assert!(body.starts_with("id: ") && body.contains("\nretry: 3000\ndata: \n\n"), "primed: {body}");
        assert!(body.contains("\"id\":1"), "{body}");
    }
    for accept in [
        "application/json, text/event-stream",
        "text/event-stream;q=0.4, application/json;q=0.5",
        "text/event-stream;q=0, application/json",
        "text/event-stream;q=high, application/json",
        "*/*",
        "application/json",
    ] {
        assert_eq!(typed(accept).await.0, "application/json", "{accept}");
    }
}

#[tokio::test]
async fn who_asked_for_a_stream_is_sent_away_when_the_server_ends_its_own() {
    let front = start().await;
    let pause = |wait_ms: u64| {
        json!({"jsonrpc":"2.0","id":1,"method":"tools/call",
               "params":{"name":"pause","arguments":{"wait_ms":wait_ms}}})
    };
    let call = async |revision: &str, accept: &str, wait_ms: u64| {
        let session = front.session_of(revision).await;
        let headers = [("mcp-session-id", session.as_str()), ("accept", accept)];
        let stream = Sse::over(front.start_post("/mcp", &headers, &pause(wait_ms)).await);
        (session, stream)
    };
    let (first, second) = ("text/event-stream, application/json", "application/json, text/event-stream");
    // Primed, told what there is to tell, then when to come back.
    let (session, mut stream) = call("2025-11-25", first, 250).await;
    assert_eq!(next(&mut stream).await.data, "");
    let seen = next(&mut stream).await;
    assert_eq!(seen.json()["params"]["data"], "before");
    let last = next(&mut stream).await;
    assert_eq!((last.retry.as_deref(), last.id, last.data.as_str()), (Some("250"), None, ""));
    assert!(stream.event().await.is_none());
    let mut again = front.listen(&session, seen.id.as_deref()).await;
    let primed = next(&mut again).await;
    assert_eq!(primed.id, seen.id);
    // Who did not ask for it, cannot come back, or would come too late, keeps its stream.
    let mut kept = Vec::new();
    for (revision, accept, wait_ms) in
        [("2025-11-25", second, 250), ("2025-06-18", first, 250), ("2025-11-25", first, 40_000)]
    {
        let (_, mut stream) = call(revision, accept, wait_ms).await;
        while next(&mut stream).await.data.is_empty() {}
        kept.push(stream);
    }
    front.script.gate.open();
    for stream in [&mut again].into_iter().chain(&mut kept) {
        assert_eq!(stream.json().await["id"], 1);
        assert!(stream.event().await.is_none());
    }
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_call_logs_reaches_its_caller_without_a_token() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool(1, "log")).await;
    assert_eq!(stream.json().await["params"]["data"], "said");
    assert_eq!(stream.json().await["id"], 1);
    assert!(stream.event().await.is_none());
    // Who takes only JSON gets only the answer.
    let headers = [("mcp-session-id", session.as_str()), ("accept", "application/json")];
    assert_eq!(front.post("/mcp", &headers, &tool(2, "log")).await.json()["id"], 2);
}

#[tokio::test]
async fn a_server_cannot_ask_an_agent_that_offered_nothing() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let (headers, hang) = ([("mcp-session-id", session.as_str())], tool(1, "gated"));
    let call = front.post("/mcp", &headers, &hang);
    let ask = async {
        until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
        let outlet = front.script.calls.lock().unwrap()[0].outlet.clone().unwrap();
        let message =
            crate::script::message_of(json!({"jsonrpc":"2.0","id":1,"method":"roots/list"}).to_string());
        assert!(outlet.push(LinkEvent::Request { id: 1, message }).is_err());
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(call, ask);
    assert_eq!(got.headers["content-type"], "application/json");
}

#[tokio::test]
async fn nothing_is_kept_for_calls_answered_at_once_and_little_for_the_rest() {
    let limits = FrontLimits { replay_bytes: 2_000, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    front.call(&session, &tool(1, "echo")).await;
    let kept = || front.gauges.replay_bytes.load(Ordering::SeqCst);
    assert_eq!(kept(), 0);
    for id in 0..40 {
        let mut stream = front.streamed(&session, &tool(id, "log")).await;
        while stream.event().await.is_some() {}
        assert!(kept() <= 2_000);
    }
    assert!(kept() > 1_000);
    front.send("DELETE", "/mcp", &[("mcp-session-id", &session)], "").await;
    until("it is given back", || kept() == 0).await;
}

#[tokio::test]
async fn every_stream_is_kept_alive_by_comments() {
    let times = FrontTimes { stream_ping: Duration::from_millis(20), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut listening = front.listen(&session, None).await;
    let mut call = front.streamed(&session, &tool(1, "log-gated")).await;
    let _ = next(&mut call).await;
    for stream in [&mut listening, &mut call] {
        for _ in 0..2 {
            assert_eq!(stream.comment().await, ": ping\n\n");
        }
    }
}
