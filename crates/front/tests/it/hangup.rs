//! Agents that close their connection, or their side of it, as soon as their message is out.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    client::{PATIENCE, Running, cancel, start, start_with, tool, until},
    modern,
};

const BOTH: &str = "application/json, text/event-stream";

/// A connection over which a whole POST was written.
pub(crate) async fn posted(front: &Running, path: &str, headers: &[(&str, &str)], body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
    stream
}

/// What comes back after the sending side is closed.
async fn rest_of(mut stream: TcpStream) -> String {
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn each_message_with_an_immediate_close_is_run_once_and_answered_on_its_stream() {
    const MESSAGES: usize = 300;
    let limits = FrontLimits { calls_per_agent: MESSAGES, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let mut agent = front.sse("/sse", &[]).await;
    let path = format!("/sse?session_id={}", agent.session);
    for id in 0..MESSAGES {
        let stream = posted(&front, &path, &[], &tool(id, "echo")).await;
        match id % 3 {
            0 => drop(stream),
            1 => stream.set_zero_linger().unwrap(),
            _ => drop(rest_of(stream).await),
        }
    }
    let mut answered = Vec::new();
    for _ in 0..MESSAGES {
        let message = agent.json().await;
        assert!(message["result"].is_object(), "{message}");
        answered.push(message["id"].as_u64().unwrap());
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..MESSAGES as u64).collect::<Vec<_>>());
    assert_eq!(front.script.finished_calls.load(Ordering::SeqCst), MESSAGES);
}

#[tokio::test]
async fn cancellations_and_answers_are_taken_from_who_closes_at_once() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", BOTH)];
    for round in 0..20 {
        let calling = posted(&front, "/mcp", &headers, &tool(round, "hang")).await;
        until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
        drop(posted(&front, "/mcp", &headers, &cancel(round)).await);
        until("it is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == round + 1).await;
        drop(calling);
    }
    let note = json!({"jsonrpc":"2.0","method":"notifications/roots/list_changed"});
    for _ in 0..20 {
        drop(posted(&front, "/mcp", &headers, &note).await);
        drop(posted(&front, "/mcp", &headers, &json!({"jsonrpc":"2.0","id":4711,"result":{}})).await);
    }
    until("all are passed on", || front.script.notified.lock().unwrap().len() == 20).await;
    until("all are counted", || front.script.saw("agent_response") == 20).await;
}

#[tokio::test]
async fn an_agent_that_closes_its_side_is_answered() {
    let front = start().await;
    let session = front.session_of("2025-03-26").await;
    let id = ("mcp-session-id", session.as_str());
    let accepts = [
        vec![id, ("accept", BOTH)],
        vec![id, ("accept", "application/json")],
        vec![id, ("accept", "text/event-stream, application/json")],
        vec![id],
    ];
    for (at, headers) in accepts.iter().enumerate() {
        let text = rest_of(posted(&front, "/mcp", headers, &tool(1, "echo")).await).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"backend\":\"a\""), "{headers:?} {text}");
        // One that takes its time; what is read first is that the gateway knows of the close.
        let waiting = posted(&front, "/mcp", headers, &tool(at + 10, "gated")).await;
        let calls = front.calls();
        until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
        let open = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            front.script.gate.open();
        };
        let (text, ()) = tokio::join!(rest_of(waiting), open);
        assert!(text.contains("\"tool\":\"gated\""), "{headers:?} {text}");
        assert!(front.calls() <= calls + 1);
        front.script.gate.close();
    }
    let batch = json!([tool(1, "echo"), tool(2, "echo")]);
    let text = rest_of(posted(&front, "/mcp", &accepts[0], &batch).await).await;
    assert_eq!(text.matches("\"backend\":\"a\"").count(), 2, "{text}");
}

#[tokio::test]
async fn without_a_session_a_half_closed_connection_is_answered_and_a_closed_one_cancels() {
    let front = start().await;
    let body = modern::call(1, "gated");
    let own = modern::headers(&body);
    let mut headers: Vec<(&str, &str)> =
        own.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.push(("accept", BOTH));
    let waiting = posted(&front, "/mcp", &headers, &body).await;
    until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
    let open = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        front.script.gate.open();
    };
    let (text, ()) = tokio::join!(rest_of(waiting), open);
    assert!(text.contains("\"tool\":\"gated\"") && text.contains(": ping"), "{text}");

    front.script.gate.close();
    let leaving = posted(&front, "/mcp", &headers, &body).await;
    until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
    drop(leaving);
    until("it is cancelled", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    until("nothing is left", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn an_agent_that_reads_only_json_and_has_gone_is_not_waited_for_for_ever() {
    let times = FrontTimes { orphan: Duration::from_millis(40), ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", "application/json")];
    let text = rest_of(posted(&front, "/mcp", &headers, &tool(1, "hang")).await).await;
    assert!(text.contains("-32800") && text.contains("\"id\":1"), "{text}");
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 1);
    assert_eq!(front.gauges.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_sent_behind_one_that_is_served_is_served_next() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let headers = [("mcp-session-id", session.as_str()), ("accept", BOTH)];
    let mut stream = posted(&front, "/mcp", &headers, &tool(1, "gated")).await;
    until("the call runs", || front.gauges.calls.load(Ordering::SeqCst) == 1).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    front.script.gate.open();
    let text = rest_of(stream).await;
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{text}");
    assert!(text.contains("\"id\":1") && text.contains("\"status\":\"ok\""), "{text}");
}
