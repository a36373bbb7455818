//! Large results over one HTTP+SSE stream beside the calls of many others, and agents that do not read.
//!
//! A large result stands before the small ones on the same stream, so the others wait for its bytes, and for nothing
//! else: not for the agent that asked for it, and not for one that reads nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use mcpool_testkit::{
    Script,
    agent::{Agent, Transport},
};
use mcpool_upstream::{Limits, ModeChoice};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    raw::{Reply, Server, ordinary},
    rig::{Rig, Wanted},
    wires::{WIRES, agent, echoes, serve, text_of, wanted},
};

/// Agents that call small things all the time.
const OTHERS: usize = 100;
/// Far beyond what the bytes of the large results take on a slow machine, far below any time limit of a call.
const TOLERABLE: Duration = Duration::from_secs(10);
/// The largest message is 16 MiB with its envelope.
const LARGE: [usize; 2] = [1 << 20, (16 << 20) - 4096];

async fn fetch(agent: &Agent, bytes: usize) {
    let result = agent.call_tool("big", json!({ "bytes": bytes })).await.expect("a large result");
    assert_eq!(text_of(&result).len(), bytes);
}

/// Calls until told to stop; how many, and the longest wait.
async fn chatter(agent: &Agent, number: usize, stop: &AtomicBool) -> (usize, Duration) {
    let (mut calls, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        echoes(agent, &format!("agent {number} call {calls}")).await;
        longest = longest.max(begin.elapsed());
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (calls, longest)
}

/// An agent that opens its stream, asks for a large result, and never reads again.
async fn deaf(rig: &Rig) -> TcpStream {
    let mut stream = TcpStream::connect(rig.addr).await.expect("connected");
    stream
        .write_all(b"GET /sse HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
        .await
        .expect("sent");
    let mut heard = vec![0; 4096];
    let mut text = String::new();
    // The event ends with an empty line; what follows belongs to the transfer.
    while !text.split("session_id=").nth(1).is_some_and(|rest| rest.contains("\n\n")) {
        let read = stream.read(&mut heard).await.expect("an endpoint");
        text.push_str(&String::from_utf8_lossy(&heard[..read]));
    }
    let session = text.split("data: ?session_id=").nth(1).and_then(|rest| rest.split_whitespace().next());
    let session = session.expect("its session").to_owned();
    let say = async |body: serde_json::Value| {
        let body = body.to_string();
        let mut post = TcpStream::connect(rig.addr).await.expect("connected");
        let head = format!(
            "POST /sse?session_id={session} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        post.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        post.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    };
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "deaf", "version": "1" } });
    say(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello })).await;
    for id in 1..4 {
        let params = json!({ "name": "big", "arguments": { "bytes": LARGE[1] } });
        say(json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })).await;
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_costs_the_others_its_bytes_and_a_deaf_agent_costs_them_nothing() {
    let server = serve(Script { chunk: Some(16 << 10), ..Script::default() }).await;
    // One session, so that everything comes through one stream.
    let limits = Limits { shared_sessions: 1, calls_per_session: 128, ..Limits::default() };
    let mut want = Wanted { limits, ..wanted(&server, Transport::Sse, ModeChoice::Shared) };
    want.front.write_stall = Duration::from_secs(2);
    let rig = Rig::start(want).await;
    let others = join_all((0..OTHERS).map(|n| agent(&rig, WIRES[n % 2]))).await;
    let readers = [agent(&rig, Transport::Sse).await, agent(&rig, Transport::Http).await];
    let silent = [deaf(&rig).await, deaf(&rig).await];
    let stop = AtomicBool::new(false);
    let work = async {
        for bytes in LARGE {
            for reader in &readers {
                fetch(reader, bytes).await;
                fetch(reader, bytes).await;
            }
        }
        // Until the deaf ones were given up.
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let chatting = join_all(others.iter().enumerate().map(|(n, agent)| chatter(agent, n, &stop)));
    let (seen, ()) = tokio::join!(chatting, work);
    let longest = seen.iter().map(|(_, longest)| *longest).max().expect("some");
    assert!(longest < TOLERABLE, "one call waited {longest:?}");
    assert!(seen.iter().all(|(calls, _)| *calls > 2), "everybody was served: {seen:?}");
    assert_eq!(rig.seen.failures(), Vec::<String>::new());
    assert!(rig.seen.slow.load(Ordering::Relaxed) >= silent.len(), "the deaf ones were closed");
    drop(silent);
    for agent in others.iter().chain(&readers) {
        agent.close().await;
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_beyond_the_limit_fails_its_own_call_and_no_other() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let limits = Limits { max_message: 1 << 20, ..Limits::default() };
        let rig = Rig::start(Wanted { limits, ..wanted(&server, back, ModeChoice::Shared) }).await;
        let (one, other) = (agent(&rig, Transport::Http).await, agent(&rig, Transport::Sse).await);
        // Its answer is still to come on the same session when the large one does.
        let slow = other.call_tool("sleep", json!({ "ms": 700, "nonce": "slow" }));
        let large = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            one.call_tool("big", json!({ "bytes": 2 << 20 })).await
        };
        let (slow, refused) = tokio::join!(slow, large);
        let refused = refused.expect_err("beyond the limit");
        assert!(format!("{refused}").contains("-31908"), "{back:?}: {refused}");
        assert!(slow.expect("the other call is answered").to_string().contains("slow"), "{back:?}");
        assert_eq!(
            rig.gateway.backends()[0].backend.status().sessions.len(),
            1,
            "on the session it began on"
        );
        echoes(&one, "the same agent goes on").await;
        echoes(&other, "and so does another").await;
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_beyond_the_limit_fails_its_own_call_at_once_and_no_other() {
    for kind in ["application/json", "text/event-stream"] {
        let server = Server::start(move |method, message| match message["params"]["name"].as_str() {
            Some("big") => {
                let text = json!([{ "type": "text", "text": "x".repeat(100_000) }]);
                let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": text } });
                let array = json!([{ "jsonrpc": "2.0", "method": "notifications/x" }, answer]).to_string();
                let is_json = kind == "application/json";
                let body = if is_json { array } else { format!("data: {array}\n\n") };
                Some(Reply::new(200, kind, &body))
            }
            Some("slow") => {
                Some(Reply::After(Duration::from_millis(500), Box::new(ordinary(method, message))))
            }
            _ => None,
        })
        .await;
        let limits = Limits { max_message: 64 << 10, ..Limits::default() };
        let rig = Rig::start(Wanted { limits, ..Wanted::shared(server.url.clone()) }).await;
        let (one, other) = (agent(&rig, Transport::Http).await, agent(&rig, Transport::Http).await);
        let begin = Instant::now();
        let (slow, refused) =
            tokio::join!(other.call_tool("slow", json!({})), one.call_tool("big", json!({})));
        assert!(begin.elapsed() < TOLERABLE, "{kind}: {:?}", begin.elapsed());
        let refused = refused.expect_err("beyond the limit");
        assert!(format!("{refused}").contains("-31908"), "{kind}: {refused}");
        slow.expect("the other call is answered");
        one.call_tool("echo", json!({})).await.expect("the same agent goes on");
        assert_eq!((server.count("initialize"), server.count("tools/call")), (1, 3), "{kind}");
        rig.stop().await;
    }
}
