//! Agents that do not read: they end, at a limit, and nobody else is later for it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use mcpool_wire::LinkEvent;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::{Running, Sse, start, start_with, tool, tool_with_token, until};

/// More than the kernel takes in for a peer that does not read.
const PIECE: usize = 1 << 20;

fn progress(step: usize, size: usize) -> LinkEvent {
    let pad = "x".repeat(size);
    LinkEvent::Progress(Bytes::from(
        json!({"jsonrpc":"2.0","method":"notifications/progress",
               "params":{"progressToken":"tok","progress":step,"message":pad}})
        .to_string(),
    ))
}

async fn stalling() -> Running {
    let times = FrontTimes { write_stall: Duration::from_millis(100), ..FrontTimes::default() };
    start_with(FrontConfig { times, ..FrontConfig::default() }).await
}

#[tokio::test]
async fn the_stream_of_a_call_that_is_not_read_is_closed_and_its_call_cancelled() {
    let front = stalling().await;
    let (slow, quick) = (front.session("/mcp").await, front.session("/mcp").await);
    let stream = front.streamed(&slow, &tool_with_token(1, "progress")).await;
    let outlet = front.script.calls.lock().unwrap()[0].outlet.clone().unwrap();
    let mut step = 3;
    while front.script.dropped_calls.load(Ordering::SeqCst) == 0 {
        // Never more than waits anyway: progress is merged.
        let _ = outlet.push(progress(step, PIECE));
        step += 1;
        let begun = Instant::now();
        assert_eq!(front.call(&quick, &tool(step, "echo")).await.json()["id"], step);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(front.gauges.outbound_bytes.load(Ordering::SeqCst) <= 9 << 20);
        assert!(step < 2_000, "never closed");
    }
    assert!(front.script.saw("SlowAgentClosed") >= 1);
    // Only that stream: the session goes on.
    assert_eq!(front.call(&slow, &tool("s", "echo")).await.json()["id"], "s");
    until("nothing waits", || front.gauges.outbound_bytes.load(Ordering::SeqCst) == 0).await;
    drop(stream);
}

#[tokio::test]
async fn an_sse_agent_that_takes_in_nothing_is_over_at_once_not_after_its_grace() {
    let front = stalling().await;
    let stream = front.sse("/sse", &[]).await;
    front.say(&stream.session, &tool(1, "hang")).await;
    let mut big = tool(2, "big");
    big["params"]["arguments"] = json!({"size": 32 << 20});
    front.say(&stream.session, &big).await;
    until("the agent is over", || front.script.saw("closed slow") == 1).await;
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
    assert_eq!(front.say(&stream.session, &tool(3, "echo")).await.status, 404);
}

#[tokio::test]
async fn logs_for_an_agent_that_does_not_read_are_dropped_and_its_answer_is_not() {
    let limits = FrontLimits { outbound_messages: 8, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut stream = front.streamed(&session, &tool(1, "log-gated")).await;
    assert_eq!(stream.json().await["params"]["data"], "before");
    let outlet = front.script.calls.lock().unwrap()[0].outlet.clone().unwrap();
    let pad = "x".repeat(PIECE);
    let log = json!({"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":pad}});
    let log = Bytes::from(log.to_string());
    while front.script.saw("Dropped { kind: \"log\" }") < 3 {
        let _ = outlet.push(LinkEvent::Notification(log.clone()));
        tokio::task::yield_now().await;
    }
    front.script.gate.open();
    until("the call has ended", || front.script.finished_calls.load(Ordering::SeqCst) == 1).await;
    let mut last = json!(null);
    while let Some(event) = stream.event().await {
        last = event.json();
    }
    assert_eq!(last["id"], 1);
}

#[tokio::test]
async fn an_answer_larger_than_every_limit_reaches_an_agent_that_reads() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let mut big = tool(1, "big");
    big["params"]["arguments"] = json!({"size": 16 << 20});
    assert!(front.call(&session, &big).await.text.len() > 16 << 20);
    let headers = [("mcp-session-id", session.as_str()), ("accept", "text/event-stream")];
    let mut stream = Sse::over(front.start_post("/mcp", &headers, &big).await);
    assert!(stream.event().await.unwrap().data.len() > 16 << 20);
    // And one that reads slowly, over HTTP+SSE, beside one that is in a hurry.
    let slow = front.sse("/sse", &[]).await;
    let mut quick = front.sse("/sse", &[]).await;
    front.say(&slow.session, &big).await;
    front.say(&quick.session, &tool("q", "echo")).await;
    assert_eq!(quick.json().await["id"], "q");
    let mut slow = slow;
    assert_eq!(slow.json().await["id"], 1);
    assert_eq!(front.script.saw("SlowAgentClosed"), 0);
}

#[tokio::test]
async fn many_that_do_not_read_hold_up_none_that_does() {
    let limits = FrontLimits { outbound_bytes: 64 << 10, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(deaf(&front).await);
    }
    let mut quick = front.sse("/sse", &[]).await;
    let mut big = tool(0, "big");
    big["params"]["arguments"] = json!({"size": PIECE});
    for round in 0..40 {
        for (_, session) in &silent {
            big["id"] = round.into();
            let status = front.say(session, &big).await.status;
            assert!(status == 202 || status == 404, "{status}");
        }
        let begun = Instant::now();
        front.say(&quick.session, &tool(round, "echo")).await;
        assert_eq!(quick.json().await["id"], round);
        assert!(begun.elapsed() < Duration::from_secs(5));
        if front.gauges.sse_agents.load(Ordering::SeqCst) == 1 {
            break;
        }
    }
    until("all slow ones are gone", || front.gauges.sse_agents.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.script.saw("closed slow"), 10);
    until("nothing waits", || front.gauges.outbound_bytes.load(Ordering::SeqCst) == 0).await;
}

/// An HTTP+SSE agent that reads its endpoint and then nothing more.
async fn deaf(front: &Running) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let head = "GET /sse HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let session = loop {
        let mut some = [0; 1_024];
        let read = stream.read(&mut some).await.unwrap();
        text.push_str(std::str::from_utf8(&some[..read]).unwrap());
        if let Some((_, rest)) = text.split_once("session_id=")
            && let Some((session, _)) = rest.split_once('\n')
        {
            break session.to_owned();
        }
    };
    (stream, session)
}
