//! Connections that die, agents that do not read, and the end of the server.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{Drained, FrontConfig, FrontLimits, FrontTimes};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::{PATIENCE, Running, Sse, initialize, start, start_with, tool, tool_with_token, until};

async fn start_times(times: FrontTimes) -> Running {
    start_with(FrontConfig { times, ..FrontConfig::default() }).await
}

/// A call whose client only writes.
async fn post_and_leave(front: &Running, session: &str, name: &str) -> TcpStream {
    let body = tool(1, name).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-session-id: {session}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_dead_connection_does_not_cancel_its_call() {
    let front = start().await;
    let session = front.session("/mcp").await;
    let connection = post_and_leave(&front, &session, "gated").await;
    until("the call runs", || front.script.calls.lock().unwrap().len() == 1).await;
    drop(connection);
    until("the call is adopted", || front.gauges.adopted.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.gauges.calls.load(Ordering::SeqCst), 1);
    front.script.gate.open();
    until("the call has ended", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.script.finished_calls.load(Ordering::SeqCst), 1);
    assert_eq!(front.script.dropped_calls.load(Ordering::SeqCst), 0);
    assert_eq!(front.script.saw("tools/call a ok"), 1);
    assert_eq!(front.gauges.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_orphan_is_dropped_when_its_time_is_over() {
    let front = start_times(FrontTimes { orphan: Duration::from_millis(30), ..FrontTimes::default() }).await;
    let session = front.session("/mcp").await;
    drop(post_and_leave(&front, &session, "hang").await);
    until("the call is dropped", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    // One that already answered as a stream, too.
    let headers = [("mcp-session-id", session.as_str())];
    let mut stream = Sse::over(front.start_post("/mcp", &headers, &tool_with_token(2, "progress")).await);
    assert_eq!(stream.json().await["method"], "notifications/progress");
    drop(stream);
    until("the call is dropped", || front.script.dropped_calls.load(Ordering::SeqCst) == 2).await;
    until("nothing is left", || front.gauges.adopted.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn deleting_a_session_ends_its_calls_only() {
    let front = start().await;
    let (mine, other) = (front.session("/mcp").await, front.session("/mcp").await);
    let (hang, gated) = (tool(1, "hang"), tool(1, "gated"));
    let delete = async {
        until("both run", || front.script.calls.lock().unwrap().len() == 2).await;
        assert_eq!(front.send("DELETE", "/mcp", &[("mcp-session-id", &mine)], "").await.status(), 200);
        until("its call is dropped", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
        front.script.gate.open();
    };
    let (ended, answered, ()) = tokio::join!(front.call(&mine, &hang), front.call(&other, &gated), delete);
    assert_eq!((ended.status.as_u16(), ended.text.as_str()), (200, ""));
    assert_eq!(answered.json()["id"], 1);
}

#[tokio::test]
async fn a_slow_reader_is_closed_while_others_go_on() {
    let limits = FrontLimits { outbound_bytes: 256 << 10, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let slow = front.sse("/sse", &[]).await;
    let mut quick = front.sse("/sse", &[]).await;
    let mut big = tool(0, "big");
    big["params"]["arguments"] = json!({"size": 1 << 20});
    let mut sent = 0;
    // The kernel takes a few MiB before anything waits here.
    while front.script.saw("SlowAgentClosed") == 0 {
        big["id"] = sent.into();
        let got = front.say(&slow.session, &big).await;
        assert!(got.status == 202 || got.status == 404, "{got:?}");
        sent += 1;
        assert!(sent < 100, "never closed");
    }
    front.say(&quick.session, &tool("q", "echo")).await;
    assert_eq!(quick.json().await["id"], "q");
    until("the slow agent is gone", || front.gauges.sse_agents.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.say(&slow.session, &tool(1, "echo")).await.status, 404);
    assert_eq!(front.script.saw("closed slow"), 1);
    until("nothing waits", || front.gauges.buffered_bytes.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_at_all_is_cut_off() {
    let front =
        start_times(FrontTimes { write_stall: Duration::from_millis(50), ..FrontTimes::default() }).await;
    let session = front.session("/mcp").await;
    until("the first connection is gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    let mut big = tool(1, "big");
    big["params"]["arguments"] = json!({"size": 64 << 20});
    let response = front.start_post("/mcp", &[("mcp-session-id", &session)], &big).await;
    until("the connection is dropped", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.script.saw("SlowAgentClosed"), 1);
    drop(response);
}

#[tokio::test]
async fn shutdown_waits_for_calls_and_ends_streams() {
    let mut front = start().await;
    let session = front.session("/mcp").await;
    let mut idle = front.sse("/sse", &[]).await;
    let mut busy = front.sse("/sse", &[]).await;
    front.say(&busy.session, &tool(7, "gated")).await;
    let connection = post_and_leave(&front, &session, "gated").await;
    until("both run", || front.script.calls.lock().unwrap().len() == 2).await;
    front.shut_down();
    assert!(idle.event().await.is_none());
    front.script.gate.open();
    assert_eq!(busy.json().await["id"], 7);
    assert!(busy.event().await.is_none());
    let answer = read_all(connection).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"gated\""), "{answer}");
    let script = std::sync::Arc::clone(&front.script);
    assert_eq!(front.stopped().await, Drained::default());
    until("links are dropped", || script.links.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn shutdown_drops_what_does_not_end_and_says_so() {
    let mut front =
        start_times(FrontTimes { drain: Duration::from_millis(50), ..FrontTimes::default() }).await;
    let session = front.session("/mcp").await;
    until("the first connection is gone", || front.gauges.connections.load(Ordering::SeqCst) == 0).await;
    let connection = post_and_leave(&front, &session, "hang").await;
    until("it runs", || front.script.calls.lock().unwrap().len() == 1).await;
    front.shut_down();
    let script = std::sync::Arc::clone(&front.script);
    assert_eq!(front.stopped().await.calls, 1);
    assert_eq!(script.dropped_calls.load(Ordering::SeqCst), 1);
    let told = read_all(connection).await;
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("-31905"), "{told}");
    assert!(told.contains("\"executed\":\"maybe\""), "{told}");
    assert_eq!(script.saw("tools/call a lost"), 1);
}

#[tokio::test]
async fn shutdown_refuses_what_waits_at_once_and_listens_until_the_last_call_has_ended() {
    let mut front = start().await;
    let session = front.session("/mcp").await;
    let sse = &mut front.sse("/sse", &[]).await;
    front.say(&sse.session, &tool(7, "waits")).await;
    let busy = post_and_leave(&front, &session, "gated").await;
    let mut body = initialize(0);
    body["params"]["capabilities"] = json!({ "roots": {} });
    let asking = front.post("/mcp", &[], &body).await.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let call = front.start_post("/mcp", &[("mcp-session-id", &asking)], &tool(1, "ask")).await;
    let mut asked = Sse::over(call);
    let question = asked.json().await;
    let waits = front.session("/mcp").await;
    let waiting = post_and_leave(&front, &waits, "waits").await;
    until("all are there", || front.script.calls.lock().unwrap().len() == 4).await;
    front.shut_down();
    // While the others run.
    let refused = read_all(waiting).await;
    assert!(refused.contains("-31909") && refused.contains("\"executed\":\"no\""), "{refused}");
    assert_eq!(sse.json().await["error"]["code"], -31909);
    let new = front.post("/mcp", &[], &initialize(0)).await;
    assert_eq!((new.status.as_u16(), &new.headers["retry-after"]), (503, &"2".parse().unwrap()));
    assert_eq!(front.call(&session, &tool(9, "echo")).await.code(), -31909);
    let listening = front.try_listen(&waits, None).await;
    assert_eq!(listening.status(), 503, "nobody listens for nothing");
    let answer = json!({"jsonrpc":"2.0","id":question["id"],"result":{"roots":["r"]}});
    assert_eq!(front.call(&asking, &answer).await.status, 202);
    assert_eq!(asked.json().await["result"]["heard"], json!({"roots":["r"]}));
    front.script.gate.open();
    assert!(read_all(busy).await.contains("\"gated\""));
    let address = front.addr;
    assert_eq!(front.stopped().await, Drained::default());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_up_the_end() {
    let mut front = start().await;
    let session = front.session("/mcp").await;
    let busy = post_and_leave(&front, &session, "gated").await;
    until("it runs", || front.script.calls.lock().unwrap().len() == 1).await;
    front.shut_down();
    let refused = front.post("/mcp", &[], &initialize(0)).await;
    assert_eq!(refused.status, 503);
    let _silent = TcpStream::connect(front.addr).await.unwrap();
    front.script.gate.open();
    assert!(read_all(busy).await.contains("\"gated\""));
    assert_eq!(front.stopped().await, Drained::default());
}

#[tokio::test]
async fn a_connection_of_the_drain_is_answered_once_however_late_its_first_byte_comes() {
    let mut front = start().await;
    let session = front.session("/mcp").await;
    let busy = post_and_leave(&front, &session, "gated").await;
    until("it runs", || front.script.calls.lock().unwrap().len() == 1).await;
    front.shut_down();
    assert_eq!(front.post("/mcp", &[], &initialize(0)).await.status, 503);
    let mut late = TcpStream::connect(front.addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let get = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    late.write_all(format!("{get}{get}").as_bytes()).await.unwrap();
    let told = read_all(late).await;
    assert_eq!(told.matches("HTTP/1.1 200").count(), 1, "{told}");
    front.script.gate.open();
    assert!(read_all(busy).await.contains("\"gated\""));
    assert_eq!(front.stopped().await, Drained::default());
}

/// A connection that was accepted and carries nothing yet.
async fn connected(front: &Running) -> TcpStream {
    let before = front.gauges.connections.load(Ordering::SeqCst);
    let stream = TcpStream::connect(front.addr).await.unwrap();
    until("it is accepted", || front.gauges.connections.load(Ordering::SeqCst) > before).await;
    stream
}

#[tokio::test]
async fn a_connection_accepted_before_the_drain_is_answered_when_its_first_byte_comes_during_it() {
    let mut front = start().await;
    let (mut new, mut slow) = (connected(&front).await, connected(&front).await);
    front.shut_down();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let body = initialize(0).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    slow.write_all(&head.as_bytes()[..20]).await.unwrap();
    new.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let told = read_all(new).await;
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("retry-after: 2"), "{told}");
    slow.write_all(format!("{}{body}", &head[20..]).as_bytes()).await.unwrap();
    assert!(read_all(slow).await.starts_with("HTTP/1.1 503"));
    assert_eq!(front.stopped().await, Drained::default());
}

#[tokio::test]
async fn a_silent_connection_accepted_before_the_drain_holds_it_up_for_a_second_at_most() {
    for drain in [Duration::from_secs(30), Duration::from_secs(1)] {
        let mut front = start_times(FrontTimes { drain, ..FrontTimes::default() }).await;
        let silent = connected(&front).await;
        let began = std::time::Instant::now();
        front.shut_down();
        assert_eq!(front.stopped().await, Drained::default());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(read_all(silent).await, "");
    }
}

#[tokio::test]
async fn an_agent_that_waits_for_its_session_is_told_when_the_gateway_stops() {
    let mut front = start().await;
    *front.script.open_gate.lock().unwrap() = Some(std::sync::Arc::new(tokio::sync::Semaphore::new(0)));
    let mut sse = front.sse("/sse", &[]).await;
    front.say(&sse.session, &initialize(1)).await;
    let address = front.addr;
    let http = tokio::spawn(async move { post_message(address, &initialize(2)).await });
    until("both wait", || front.script.opened.load(Ordering::SeqCst) == 2).await;
    front.shut_down();
    assert_eq!(sse.json().await["error"]["code"], -31909);
    assert!(http.await.unwrap().contains("-31909"));
    assert_eq!(front.stopped().await, Drained::default());
}

/// A POST without session on a connection of its own, and all that is said to it.
async fn post_message(address: std::net::SocketAddr, message: &serde_json::Value) -> String {
    let body = message.to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    read_all(stream).await
}

async fn read_all(mut connection: TcpStream) -> String {
    let mut text = String::new();
    let read =
        tokio::time::timeout(PATIENCE, connection.read_to_string(&mut text)).await.expect("still open");
    // A reset is an end, too.
    let _ = read;
    text
}
