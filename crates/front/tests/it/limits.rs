//! Times and numbers: headers, bodies, idle connections and agents.

use std::{sync::atomic::Ordering, time::Duration};

use mcpool_front::{FrontConfig, FrontLimits, FrontTimes};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::client::{PATIENCE, Running, Sse, initialize, start_with, tool, until};

const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_millis(400);

async fn connection_that_says(front: &Running, text: &str) -> (String, Duration) {
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let (begun, mut heard) = (Instant::now(), String::new());
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut heard)).await.expect("never closed").unwrap();
    (heard, begun.elapsed())
}

#[tokio::test]
async fn each_kind_of_silence_has_its_own_limit() {
    let times = FrontTimes { header: SHORT, keep_alive: LONG, body_idle: SHORT, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    // No byte at all, and a header that does not end.
    for text in ["", "GET /livez HTTP/1.1\r\nhost: local"] {
        let (heard, took) = connection_that_says(&front, text).await;
        assert!(heard.is_empty() && took >= SHORT, "{text:?} {took:?} {heard}");
    }
    // Idle after an answer: longer than a header may take.
    let (heard, took) = connection_that_says(&front, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(heard.starts_with("HTTP/1.1 200") && took >= LONG, "{took:?}");
    // A body that stands still.
    let body = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    let (heard, _) = connection_that_says(&front, body).await;
    assert!(heard.starts_with("HTTP/1.1 408"), "{heard}");
}

#[tokio::test]
async fn a_header_begun_after_an_answer_has_the_limit_of_a_header() {
    let times = FrontTimes { header: SHORT, keep_alive: PATIENCE * 2, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut heard = vec![0; 4096];
    let got = stream.read(&mut heard).await.unwrap();
    assert!(heard[..got].ends_with(b"}"));
    stream.write_all(b"GET /li").await.unwrap();
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut heard)).await.expect("never closed");
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_header_block_that_is_too_large_is_431() {
    let front = start_with(FrontConfig::default()).await;
    let head = "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ";
    // Exactly the limit: nothing stays unread, so the connection is not reset before the answer is seen.
    let text = format!("{head}{}", "y".repeat((32 << 10) - head.len()));
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_long_call_and_an_open_stream_are_no_silence() {
    let times = FrontTimes { header: SHORT, keep_alive: SHORT, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let mut stream = front.sse("/sse", &[]).await;
    let message = tool(1, "gated");
    let release = async {
        // Longer than any limit above: a third, silent connection is closed meanwhile, twice.
        for _ in 0..2 {
            connection_that_says(&front, "").await;
        }
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(front.call(&session, &message), release);
    assert_eq!(got.json()["id"], 1);
    front.say(&stream.session, &tool(2, "echo")).await;
    assert_eq!(stream.json().await["id"], 2);
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let limits = FrontLimits { connections: 1, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let first = front.sse("/sse", &[]).await;
    let waiting = front.get("/livez", &[]);
    let release = async {
        assert_eq!(front.gauges.connections.load(Ordering::SeqCst), 1);
        drop(first);
    };
    let (got, ()) = tokio::join!(waiting, release);
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn agent_sessions_above_the_limit_are_503_with_retry_after() {
    let limits = FrontLimits { agent_sessions: 1, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    // What it keeps at its backend would be lost: it does not give way.
    front.script.own.store(true, Ordering::SeqCst);
    let session = front.session("/mcp").await;
    let got = front.post("/mcp", &[], &initialize("i")).await;
    assert_eq!((got.status.as_u16(), got.code(), got.json()["id"].clone()), (503, -31903, json!("i")));
    assert_eq!(front.script.saw("Refused { kind: \"agent_sessions\" }"), 1);
    let ready = front.get("/readyz", &[]).await.json();
    assert_eq!(
        (&ready["status"], &ready["refused"][0]["raise"]),
        (&json!("degraded"), &json!("limits.agent_sessions"))
    );
    assert_eq!(ready["limits"][0], json!({"limit": "agent_sessions", "used": 1, "most": 1}));
    assert!(got.headers.contains_key("retry-after"));
    assert_eq!(front.get("/sse", &[]).await.status, 503);
    assert_eq!(front.call(&session, &tool(1, "echo")).await.status, 200);
    assert_eq!(front.script.saw("responded http 503 gateway"), 1);
}

#[tokio::test]
async fn the_session_idle_longest_gives_way_and_its_id_brings_it_back() {
    let limits = FrontLimits { agent_sessions: 3, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let [one, two, three] =
        [front.session("/mcp").await, front.session("/mcp").await, front.session("/mcp").await];
    let listens = [("mcp-session-id", three.as_str()), ("accept", "text/event-stream")];
    let stream = Sse::over(front.send("GET", "/mcp", &listens, "").await);
    tokio::time::sleep(SHORT).await;
    assert_eq!(front.call(&one, &tool(1, "echo")).await.status, 200);
    front.session("/mcp").await;
    assert_eq!((front.script.saw("closed evicted"), front.script.links.load(Ordering::SeqCst)), (1, 3));
    let opened = || front.script.opened.load(Ordering::SeqCst);
    assert_eq!((front.call(&one, &tool(2, "echo")).await.status.as_u16(), opened()), (200, 4), "it was held");
    assert_eq!(
        (front.call(&two, &tool(3, "echo")).await.status.as_u16(), opened()),
        (200, 5),
        "it came back"
    );
    assert_eq!(front.gauges.http_agents.load(Ordering::SeqCst), 3);
    assert_eq!((front.script.saw("Refused"), front.script.saw("503")), (0, 0));
    drop(stream);
}

#[tokio::test]
async fn more_agents_than_there_is_place_for_are_served_in_turn_and_none_is_refused() {
    let limits = FrontLimits { agent_sessions: 20, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    for n in 0..100 {
        assert_eq!(front.post("/mcp", &[], &initialize(n)).await.status, 200, "{n}");
        assert!(front.gauges.http_agents.load(Ordering::SeqCst) <= 20);
    }
    assert_eq!((front.script.saw("closed evicted"), front.script.saw("Refused")), (80, 0));
}

#[tokio::test]
async fn agents_that_left_give_way_to_those_that_come() {
    let limits = FrontLimits { agent_sessions: 8, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    // Each stays known for the reconnect grace, which is far longer than this takes.
    for round in 0..40 {
        drop(front.sse("/sse", &[]).await);
        until("at most a quarter of the limit is waited for", || {
            front.gauges.sse_agents.load(Ordering::Relaxed) <= 2
        })
        .await;
        assert_eq!(front.script.saw("responded sse 503 gateway"), 0, "round {round}");
    }
}

#[tokio::test]
async fn calls_above_the_limit_of_an_agent_are_refused_with_200() {
    let limits = FrontLimits { calls_per_agent: 1, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let session = front.session("/mcp").await;
    let first = tool(1, "gated");
    let second = async {
        until("it runs", || front.script.calls.lock().unwrap().len() == 1).await;
        let got = front.call(&session, &tool(2, "echo")).await;
        assert_eq!((got.status.as_u16(), got.code()), (200, -31903));
        let after = &got.json()["error"]["data"]["retry_after_ms"];
        assert!((50..=60_000).contains(&after.as_u64().unwrap_or_default()), "{after}");
        front.script.gate.open();
    };
    let (got, ()) = tokio::join!(front.call(&session, &first), second);
    assert_eq!(got.json()["id"], 1);
}

#[tokio::test]
async fn an_idle_agent_is_put_away_unless_it_listens() {
    let times = FrontTimes { agent_idle: LONG, ..FrontTimes::default() };
    let front = start_with(FrontConfig { times, ..FrontConfig::default() }).await;
    let (idle, listening) = (front.session("/mcp").await, front.session("/mcp").await);
    let headers = [("mcp-session-id", listening.as_str()), ("accept", "text/event-stream")];
    let stream = Sse::over(front.send("GET", "/mcp", &headers, "").await);
    until("the idle one is gone", || front.gauges.http_agents.load(Ordering::SeqCst) == 1).await;
    assert_eq!(front.script.links.load(Ordering::SeqCst), 1);
    // It shares, so it comes back with its next call.
    assert_eq!(front.call(&idle, &tool(1, "echo")).await.status, 200);
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 3);
    assert_eq!(front.call(&listening, &tool(1, "echo")).await.status, 200);
    assert_eq!(front.script.saw("closed idle"), 1);
    drop(stream);
}

#[tokio::test]
async fn what_is_allowed_can_change_while_agents_are_served() {
    let front = start_with(FrontConfig::default()).await;
    front.script.own.store(true, Ordering::SeqCst);
    let session = front.session("/mcp").await;
    let from = |host: &'static str| [("host", host)];
    assert_eq!(front.get("/api/mcp/servers", &from("gateway.example")).await.status, 421);
    let limits = FrontLimits { body_bytes: 1 << 10, agent_sessions: 1, ..FrontLimits::default() };
    let times = FrontTimes { agent_idle: SHORT, ..FrontTimes::default() };
    let hosts = vec!["gateway.example".to_owned()];
    let changed = FrontConfig { allowed_hosts: hosts, limits, times, ..FrontConfig::default() };
    front.settings.apply(changed);
    assert_eq!(front.get("/api/mcp/servers", &from("gateway.example")).await.status, 200);
    assert_eq!(front.post("/mcp", &[], &initialize(1)).await.status, 503, "there is an agent already");
    let large = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x".repeat(2 << 10)}});
    assert_eq!(front.post("/mcp", &[("mcp-session-id", &session)], &large).await.status, 413);
    assert_eq!(front.call(&session, &tool(2, "echo")).await.json()["id"], 2, "who is there goes on");
    // The look for idle agents keeps the pace it had until its next round; the limit holds by then.
    front.settings.apply(FrontConfig::default());
    assert_eq!(front.get("/api/mcp/servers", &from("gateway.example")).await.status, 421);
    assert_eq!(front.post("/mcp", &[("mcp-session-id", &session)], &large).await.status, 200);
}

#[tokio::test]
async fn who_is_served_and_what_runs_is_told_and_no_id_of_a_session() {
    let front = start_with(FrontConfig::default()).await;
    let mut hello = initialize(1);
    hello["params"]["clientInfo"] = json!({ "name": "cursor\u{1b}[2J", "version": "9" });
    let got = front.post("/mcp", &[], &hello).await;
    let session = got.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let stream = front.sse("/b/sse", &[]).await;
    let asked = async {
        until("it runs", || front.script.calls.lock().unwrap().len() == 1).await;
        let query = |backend: Option<&str>| mcpool_front::CensusQuery {
            backend: backend.map(str::to_owned),
            after: 0,
            limit: 10,
        };
        let (agents, calls) = (front.census.agents(&query(None)), front.census.calls(&query(Some("a"))));
        front.script.gate.open();
        assert_eq!(front.census.agents(&query(Some("b")))["total"], 1);
        let first = front.census.agents(&mcpool_front::CensusQuery { limit: 1, ..query(None) });
        assert_eq!((first["agents"].as_array().unwrap().len(), &first["total"]), (1, &json!(2)));
        let rest = mcpool_front::CensusQuery { after: first["next"].as_u64().unwrap(), ..query(None) };
        assert_eq!(front.census.agents(&rest)["agents"].as_array().unwrap().len(), 1);
        (agents, calls)
    };
    let message = tool(2, "gated");
    let (_, (agents, calls)) = tokio::join!(front.call(&session, &message), asked);
    let agent = &agents["agents"][0];
    assert_eq!((&agent["client"]["name"], &agent["client"]["version"]), (&json!("cursor[2J"), &json!("9")));
    assert_eq!(
        (&agent["backend"], &agent["transport"], &agent["mode"]),
        (&json!("a"), &json!("http"), &json!("shared"))
    );
    assert_eq!(
        (&agent["peer"], &agent["calls"], &agent["calls_in_flight"]),
        (&json!("127.0.0.1"), &json!(1), &json!(1))
    );
    assert_eq!(
        (&agents["agents"][1]["transport"], &agents["agents"][1]["listens"]),
        (&json!("sse"), &json!(true))
    );
    let call = &calls["calls"][0];
    assert_eq!(
        (&call["method"], &call["name"], &call["agent"]),
        (&json!("tools/call"), &json!("gated"), &agent["agent"])
    );
    assert!(!format!("{agents}{calls}").contains(&session));
    assert_eq!(
        front.census.calls(&mcpool_front::CensusQuery { limit: 10, ..Default::default() })["total"],
        0
    );
    drop(stream);
}

#[tokio::test]
async fn a_call_that_another_backend_serves_is_told_as_that_ones() {
    let front = start_with(FrontConfig::default()).await;
    let session = front.session("/a/mcp").await;
    let asked = async {
        let query = || mcpool_front::CensusQuery { limit: 10, ..Default::default() };
        until("it runs", || front.census.calls(&query())["calls"][0]["backend"] == "b").await;
        front.script.gate.open();
    };
    let message = tool(2, "other");
    tokio::join!(front.call(&session, &message), asked);
    assert_eq!(front.script.saw("call tools/call b ok executed="), 1);
    front.call(&session, &tool(3, "echo")).await;
    assert_eq!(front.script.saw("call tools/call a ok executed="), 1);
}
