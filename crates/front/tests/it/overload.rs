//! Near the ceiling of what is kept in memory: what waits, what is refused and how, who is closed, and that all of it
//! passes by itself.

use std::{sync::atomic::Ordering, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use mcpool_front::{FrontConfig, FrontLimits, FrontTimes, PressureLevel};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::{Got, PATIENCE, Running, Sse, initialize, start_with, tool, until};

const LIMIT: usize = 4 << 20;
const MIB: usize = 1 << 20;
const REFUSING: usize = LIMIT / 8 * 7;

/// A front with a low ceiling, and nothing kept for a resume but what a test wants.
async fn low(overload_wait: Duration) -> Running {
    let limits = FrontLimits { buffered_bytes: LIMIT, replay_events: 0, ..FrontLimits::default() };
    let times = FrontTimes { overload_wait, ..FrontTimes::default() };
    start_with(FrontConfig { limits, times, ..FrontConfig::default() }).await
}

/// A call whose message is this large.
fn padded(id: impl Into<Value>, name: &str, bytes: usize) -> Value {
    let mut call = tool(id, name);
    call["params"]["arguments"] = json!({ "pad": "x".repeat(bytes) });
    call
}

/// Calls that do not end until the gate opens, until so many bytes are kept: a large one, which may not reach the first
/// level, and then as many small ones as it takes.
async fn fill<'f>(front: &'f Running, session: &str, bytes: usize) -> impl Future<Output = Vec<Got>> + 'f {
    let held = || front.gauges.buffered_bytes.load(Ordering::SeqCst);
    let mut running = FuturesUnordered::new();
    let mut size = bytes.min(LIMIT / 8 * 6).saturating_sub(held() + (64 << 10));
    while held() < bytes && front.gauges.pressure() < PressureLevel::Refusing {
        let before = front.gauges.calls.load(Ordering::SeqCst);
        let (session, call) = (session.to_owned(), padded(format!("fill-{before}"), "gated", size));
        running.push(Box::pin(async move { front.call(&session, &call).await }));
        tokio::select! {
            // The one that reaches the level of refusal is the first to be refused.
            answer = running.next() => {
                assert_eq!((answer.unwrap().code(), bytes), (-31903, REFUSING));
                break;
            }
            () = until("it runs", || front.gauges.calls.load(Ordering::SeqCst) > before) => {}
        }
        size = 15 << 10;
    }
    running.collect()
}

#[tokio::test]
async fn what_calls_hold_is_counted_until_they_end() {
    let front = low(Duration::from_secs(5)).await;
    let session = front.session("/mcp").await;
    until("nothing is kept", || front.gauges.buffered_bytes.load(Ordering::SeqCst) == 0).await;
    let one = fill(&front, &session, MIB).await;
    let held = front.gauges.request_bytes.load(Ordering::SeqCst);
    assert!((MIB..MIB + (32 << 10)).contains(&held), "{held}");
    front.script.gate.open();
    one.await;
    until("nothing is kept", || front.gauges.buffered_bytes.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn near_the_ceiling_large_bodies_wait_small_ones_do_not_and_sessions_wait() {
    let front = low(PATIENCE).await;
    let session = front.session("/mcp").await;
    let filling = fill(&front, &session, 25 * MIB / 8).await;
    assert_eq!(front.gauges.pressure(), PressureLevel::Holding);
    // Small ones pass.
    assert_eq!(front.call(&session, &tool(1, "echo")).await.json()["id"], 1);
    // Large ones and new agents wait, and are served.
    let large = padded(2, "echo", 64 << 10);
    let greeting = initialize(3);
    let waiting = async {
        tokio::join!(front.call(&session, &large), front.post("/mcp", &[], &greeting), front.sse("/sse", &[]),)
    };
    let release = async {
        until("all three wait", || {
            front.script.saw("body_held") == 1 && front.script.saw("session_held") == 2
        })
        .await;
        let page = front.get("/readyz", &[]).await;
        assert_eq!((page.status.as_u16(), &page.json()["status"]), (200, &json!("degraded")));
        assert_eq!(page.json()["overload"]["state"], "holding", "{page:?}");
        front.script.gate.open();
        filling.await;
    };
    let ((called, greeted, stream), ()) = tokio::join!(waiting, release);
    assert_eq!((called.json()["id"].clone(), greeted.status.as_u16()), (json!(2), 200));
    drop(stream);
    until("calm again", || front.gauges.pressure() == PressureLevel::Calm).await;
    assert_eq!(front.get("/readyz", &[]).await.json()["status"], "ok");
    assert_eq!((front.script.saw("refused"), front.script.saw("agent_closed")), (0, 0));
}

#[tokio::test]
async fn beyond_that_known_agents_get_an_error_they_survive_and_new_ones_503() {
    let front = low(Duration::from_millis(50)).await;
    let session = front.session("/mcp").await;
    let mut stream = front.sse("/sse", &[]).await;
    let filling = fill(&front, &session, REFUSING).await;
    assert_eq!(front.gauges.pressure(), PressureLevel::Refusing);
    // Small and large, over both transports, with the ids they have; a client that sends the id last is no worse off.
    for (id, bytes) in [(json!("small"), 0), (json!("large"), 256 << 10), (json!(7), 256 << 10)] {
        let call = padded(id.clone(), "echo", bytes);
        let got = front.call(&session, &call).await;
        assert_eq!((got.status.as_u16(), got.code(), &got.json()["id"]), (200, -31903, &id));
        assert_eq!(got.json()["error"]["data"]["executed"], "no");
        assert_eq!(front.say(&stream.session, &call).await.status, 202);
        let said = stream.json().await;
        assert_eq!((said["error"]["code"].as_i64(), &said["id"]), (Some(-31903), &id));
    }
    let got = front.post("/mcp", &[], &initialize("new")).await;
    assert_eq!((got.status.as_u16(), got.code(), &got.json()["id"]), (503, -31903, &json!("new")));
    assert!(got.headers.contains_key("retry-after"));
    assert_eq!(front.get("/sse", &[]).await.status, 503);
    // What ends calls is taken: this is the way out.
    let cancel = json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"fill-0"}});
    assert_eq!(front.call(&session, &cancel).await.status, 202);
    until("the first call is gone", || front.script.dropped_calls.load(Ordering::SeqCst) == 1).await;
    until("calm again", || front.gauges.pressure() == PressureLevel::Calm).await;
    assert_eq!(front.call(&session, &tool(8, "echo")).await.json()["id"], 8);
    assert_eq!(front.post("/mcp", &[], &initialize(9)).await.status, 200);
    front.script.gate.open();
    filling.await;
    assert_eq!(front.script.saw("Overload {"), 3, "{:?}", front.script.events.lock().unwrap());
}

#[tokio::test]
async fn an_unfinished_giant_gives_way_and_its_call_is_refused_by_its_id() {
    let front = low(Duration::from_millis(50)).await;
    let session = front.session("/mcp").await;
    // Its id comes last, after the ceiling was reached.
    let body = format!(
        r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"echo","arguments":"{}"}},"id":"late"}}"#,
        "x".repeat(7 * MIB / 2)
    );
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nmcp-session-id: {session}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut giant = TcpStream::connect(front.addr).await.unwrap();
    giant.write_all(head.as_bytes()).await.unwrap();
    let (begin, end) = body.split_at(body.len() - 100);
    giant.write_all(begin.as_bytes()).await.unwrap();
    until("it gave way", || {
        front.gauges.pressure() == PressureLevel::Calm && front.script.saw("body_held") == 1
    })
    .await;
    assert_eq!(front.call(&session, &tool(1, "echo")).await.json()["id"], 1);
    giant.write_all(end.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, giant.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("-31903"), "{answer}");
    assert!(answer.contains(r#""id":"late""#), "{answer}");
    assert_eq!(front.gauges.buffered_bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn whoever_does_not_read_is_closed_the_most_expensive_first_and_others_go_on() {
    let front = low(Duration::from_millis(50)).await;
    let session = front.session("/mcp").await;
    let mut quick = front.sse("/sse", &[]).await;
    // Far less than any limit of their own; the answers of one are larger.
    let (cheap, dear) = (front.sse("/sse", &[]).await, front.sse("/sse", &[]).await);
    let mut big = tool(0, "big");
    let mut number = 0;
    while front.script.saw("agent_closed") == 0 {
        for (stream, size) in [(&cheap, MIB / 8), (&dear, MIB / 2)] {
            big["id"] = number.into();
            big["params"]["arguments"] = json!({ "size": size });
            let status = front.say(&stream.session, &big).await.status;
            assert!(status == 202 || status == 404, "{status}");
            number += 1;
        }
        // Those who are served meanwhile are served, or told in words.
        let got = front.call(&session, &tool(number, "echo")).await;
        assert_eq!((got.status.as_u16(), got.json()["id"].as_u64()), (200, Some(number)));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(number < 20_000, "nobody was closed");
    }
    until("it is calm", || front.gauges.pressure() == PressureLevel::Calm).await;
    until("the dear one is over", || front.script.saw("closed slow") >= 1).await;
    assert_eq!(front.say(&dear.session, &tool(1, "echo")).await.status, 404);
    assert_eq!(front.say(&cheap.session, &tool("c", "echo")).await.status, 202);
    front.say(&quick.session, &tool("q", "echo")).await;
    assert_eq!(quick.json().await["id"], "q");
    assert!(front.gauges.buffered_bytes.load(Ordering::SeqCst) < LIMIT);
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_cut_off_like_a_stream() {
    let front = low(Duration::from_millis(50)).await;
    let session = front.session("/mcp").await;
    let mut big = tool(1, "big");
    big["params"]["arguments"] = json!({ "size": 12 * MIB });
    let big = big.to_string();
    let mut deaf = TcpStream::connect(front.addr).await.unwrap();
    let post = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nmcp-session-id: {session}\r\n\
         accept: application/json\r\ncontent-length: {}\r\n\r\n{big}",
        big.len()
    );
    deaf.write_all(post.as_bytes()).await.unwrap();
    until("it is cut off", || front.script.saw("agent_closed") == 1).await;
    until("nothing is kept", || front.gauges.buffered_bytes.load(Ordering::SeqCst) == 0).await;
    assert_eq!(front.call(&session, &tool(2, "echo")).await.json()["id"], 2);
    drop(deaf);
}

#[tokio::test]
async fn what_is_kept_for_a_resume_goes_before_anybody_is_closed() {
    let limits = FrontLimits {
        buffered_bytes: LIMIT,
        replay_bytes: MIB,
        replay_total_bytes: 64 << 20,
        ..FrontLimits::default()
    };
    let times = FrontTimes { overload_wait: Duration::from_millis(50), ..FrontTimes::default() };
    let front = start_with(FrontConfig { limits, times, ..FrontConfig::default() }).await;
    let headers = [("accept", "text/event-stream")];
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = front.session("/mcp").await;
        let mut big = tool(1, "big");
        big["params"]["arguments"] = json!({ "size": 600 << 10 });
        let with_session = [headers[0], ("mcp-session-id", session.as_str())];
        let mut stream = Sse::over(front.start_post("/mcp", &with_session, &big).await);
        assert_eq!(stream.json().await["id"], 1);
        sessions.push(session);
    }
    // At most a quarter of the ceiling, whatever is configured.
    let kept = front.gauges.replay_bytes.load(Ordering::SeqCst);
    assert!((1..=LIMIT / 4).contains(&kept), "{kept}");
    let filling = fill(&front, &sessions[0], REFUSING).await;
    until("it is forgotten", || front.script.saw("replay_forgotten") == 1).await;
    assert_eq!(front.gauges.replay_bytes.load(Ordering::SeqCst), 0);
    front.script.gate.open();
    filling.await;
    assert_eq!(front.script.saw("agent_closed"), 0);
}
