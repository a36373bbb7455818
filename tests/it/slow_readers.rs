//! Agents that stop reading among many that read (RELIABILITY.md F11), and giant bodies beside an agent that behaves
//! (S15): the others are served, those are closed, memory stays bounded. `MCPOOL_LONG=1` runs the full size.

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use http::Method;
use mcpool_front::{FrontLimits, Gauges, PressureLevel};
use mcpool_testkit::{
    Script, Server,
    agent::{Agent, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    rig::{Rig, Wanted},
    wires::{agent, echoes, serve, until, wanted},
};

/// How many read, how many do not, for how long, and how large and frequent what they are told is.
struct Size {
    reading: usize,
    deaf: usize,
    rounds: usize,
    bytes: usize,
    pause: Duration,
}

impl Size {
    fn wanted() -> Self {
        // Each deaf one is told more than the kernel keeps for it.
        if std::env::var_os("MCPOOL_LONG").is_some() {
            Self { reading: 950, deaf: 50, rounds: 60, bytes: 64 << 10, pause: Duration::from_secs(2) }
        } else {
            Self { reading: 40, deaf: 4, rounds: 100, bytes: 32 << 10, pause: Duration::from_millis(100) }
        }
    }
}

/// An HTTP+SSE agent that has done its handshake and reads nothing more by itself, with its session; the kernel takes in
/// so much for it.
pub(crate) async fn deaf(rig: &Rig, kernel: u32) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(kernel).expect("a buffer of that size");
    let mut stream = socket.connect(rig.addr).await.expect("connected");
    let head = "GET /sse HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut text = String::new();
    let session = loop {
        let mut some = [0; 1_024];
        let read = stream.read(&mut some).await.expect("an endpoint");
        text.push_str(&String::from_utf8_lossy(&some[..read]));
        if let Some((_, rest)) = text.split_once("data: ?session_id=")
            && let Some((session, _)) = rest.split_once('\n')
        {
            break session.trim().to_owned();
        }
    };
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
                        "clientInfo": { "name": "deaf", "version": "1" } });
    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello });
    post(rig, &session, &hello).await;
    (stream, session)
}

/// Says something for an agent whose answers come over its stream.
pub(crate) async fn post(rig: &Rig, session: &str, message: &Value) {
    let message = message.to_string();
    let mut post = TcpStream::connect(rig.addr).await.expect("connected");
    let head = format!(
        "POST /sse?session_id={session} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{message}",
        message.len()
    );
    post.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    post.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

/// Calls until told to stop; how long each took.
async fn calls(agent: &Agent, number: usize, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        echoes(agent, &format!("agent {number} call {}", took.len())).await;
        took.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    took
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Tells everybody something, round by round, while agents call; how long the calls took, and the most that was kept.
async fn told(server: &Server, gauges: &Gauges, agents: &[Agent], size: &Size) -> (Vec<Duration>, usize) {
    let stop = AtomicBool::new(false);
    let params = json!({ "level": "error", "data": "x".repeat(size.bytes) });
    let telling = async {
        let mut most = 0;
        for _ in 0..size.rounds {
            assert!(server.notify("notifications/message", &params) > 0, "a session listens");
            tokio::time::sleep(size.pause).await;
            most = most.max(gauges.outbound_bytes.load(Ordering::Relaxed));
        }
        stop.store(true, Ordering::Relaxed);
        most
    };
    // Some of those who read also call.
    let calling = join_all(agents.iter().take(20).enumerate().map(|(n, agent)| calls(agent, n, &stop)));
    let (took, most) = tokio::join!(calling, telling);
    (took.into_iter().flatten().collect(), most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_stop_reading_are_closed_and_those_that_read_miss_nothing() {
    let size = Size::wanted();
    let server = serve(Script::default()).await;
    let mut want = Wanted { fan_out_logs: true, ..wanted(&server, Transport::Sse, ModeChoice::Shared) };
    want.front.write_stall = Duration::from_secs(2);
    want.limits.shared_sessions = 1;
    let rig = Rig::start(want).await;
    let (mut reading, heard) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    let mut listening = tokio::task::JoinSet::new();
    for _ in 0..size.reading {
        let agent = agent(&rig, Transport::Sse).await;
        listening.spawn(listen(agent.clone(), heard.clone()));
        reading.push(agent);
    }
    let (mut quiet, _) =
        told(&server, &rig.gauges, &reading, &Size { rounds: size.rounds / 4, ..size }).await;
    let mut silent = Vec::new();
    for _ in 0..size.deaf {
        silent.push(deaf(&rig, 4 << 10).await);
    }
    let in_all = |rounds: usize| reading.len() * rounds;
    until("everybody has heard everything", || heard.load(Ordering::Relaxed) == in_all(size.rounds / 4))
        .await;
    let (mut loud, most) = told(&server, &rig.gauges, &reading, &size).await;
    until("the deaf ones are closed", || rig.seen.slow.load(Ordering::Relaxed) >= size.deaf).await;
    assert_eq!(rig.seen.slow.load(Ordering::Relaxed), size.deaf, "and nobody else");
    let rounds = size.rounds / 4 + size.rounds;
    until("everybody who reads has heard everything", || heard.load(Ordering::Relaxed) == in_all(rounds))
        .await;
    let (quiet, loud) = (median(&mut quiet), median(&mut loud));
    println!(
        "{} deaf of {}: calls {quiet:?} before and {loud:?} meanwhile (median), {} KiB kept at most",
        size.deaf,
        size.deaf + size.reading,
        most / 1024
    );
    assert!(most < size.deaf * (8 << 20), "{most} bytes were kept");
    assert!(loud < quiet * 10 + Duration::from_millis(50), "{quiet:?} became {loud:?}");
    assert_eq!(rig.seen.failures(), Vec::<String>::new());
    drop((silent, listening));
    for agent in &reading {
        agent.close().await;
    }
    until("nothing is kept", || rig.gauges.outbound_bytes.load(Ordering::Relaxed) == 0).await;
    rig.stop().await;
}

/// Counts what an agent is told, and keeps none of it.
async fn listen(agent: Agent, heard: Arc<AtomicUsize>) {
    while agent.closed().is_none() {
        if agent.next_notification("notifications/message", Duration::from_secs(1)).await.is_ok() {
            heard.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Bodies of nearly 4 MiB from many connections that stop before the end, far more than the ceiling in all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giant_bodies_that_never_end_cost_an_agent_that_behaves_no_call() {
    let giants = if std::env::var_os("MCPOOL_LONG").is_some() { 400 } else { 40 };
    let server = serve(Script::default()).await;
    let limits = FrontLimits { buffered_bytes: 32 << 20, ..FrontLimits::default() };
    let mut want = Wanted { front_limits: limits, ..wanted(&server, Transport::Http, ModeChoice::Shared) };
    want.front.body_idle = Duration::from_secs(4);
    want.front.overload_wait = Duration::from_millis(200);
    let rig = Rig::start(want).await;
    let behaved = agent(&rig, Transport::Http).await;
    let most = Arc::new(AtomicUsize::new(0));
    let mut sending = tokio::task::JoinSet::new();
    let body: Arc<Vec<u8>> = Arc::new(vec![b' '; (4 << 20) - 1_024]);
    for _ in 0..giants {
        let (addr, body) = (rig.addr, body.clone());
        sending.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.expect("connected");
            let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                        content-length: 4194304\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("sent");
            // It may be cut off on the way.
            let _ = stream.write_all(&body).await;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        });
    }
    let (mut served, mut refused) = (0, 0);
    while !sending.is_empty() {
        match behaved.call_tool("echo", json!({ "nonce": "n" })).await {
            Ok(_) => served += 1,
            Err(error) => {
                assert!(format!("{error}").contains("-31903"), "{error}");
                refused += 1;
            }
        }
        most.fetch_max(rig.gauges.buffered_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        while let Some(done) = sending.try_join_next() {
            done.expect("no giant panics");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let most = most.load(Ordering::Relaxed);
    println!("{giants} giants: {served} calls served, {refused} refused, {} KiB kept at most", most / 1024);
    assert!(most < 34 << 20, "{most} bytes were kept");
    assert!(served > 0 && refused * 20 <= served, "{served} served, {refused} refused");
    until("it is calm again", || rig.gauges.pressure() == PressureLevel::Calm).await;
    until("nothing is kept", || rig.gauges.request_bytes.load(Ordering::Relaxed) == 0).await;
    echoes(&behaved, "as before").await;
    behaved.close().await;
    rig.idle().await;
    rig.stop().await;
}

/// What is said about a refusal is enough to wait and try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_ceiling_refuses_new_work_keeps_what_runs_and_recovers_alone() {
    let server = serve(Script::default()).await;
    let limits = FrontLimits { buffered_bytes: 4 << 20, ..FrontLimits::default() };
    let mut want = Wanted { front_limits: limits, ..wanted(&server, Transport::Http, ModeChoice::Shared) };
    want.front.overload_wait = Duration::from_millis(100);
    let rig = Rig::start(want).await;
    let agent = agent(&rig, Transport::Http).await;
    let start = |bytes: usize| {
        let arguments = json!({ "ms": 8_000, "nonce": "n", "pad": "x".repeat(bytes) });
        agent.start_tool("sleep", arguments).expect("started")
    };
    let kept = || rig.gauges.request_bytes.load(Ordering::Relaxed);
    // A large one, which may not reach the first level, and as many small ones as it takes.
    let mut running = vec![start(45 << 16)];
    until("it is kept", || kept() > 45 << 16).await;
    while rig.gauges.pressure() < PressureLevel::Refusing {
        let before = kept();
        running.push(start(15 << 10));
        until("it is kept", || kept() > before || rig.gauges.pressure() >= PressureLevel::Refusing).await;
    }
    // The one that reaches the level of refusal is the first to be refused.
    let mut last = running.pop().expect("one");
    assert!(last.finish().await.is_err_and(|error| error.to_string().contains("-31903")));
    let refused = agent.call_tool("echo", json!({ "nonce": "n" })).await.expect_err("too much is kept");
    assert!(format!("{refused}").contains("-31903"), "{refused}");
    let raw = agent.raw(Method::POST, "/mcp", &[("mcp-session-id", "")], hello().into()).await;
    let raw = raw.expect("an answer");
    assert_eq!((raw.status, raw.headers.contains_key("retry-after")), (503, true));
    for mut one in running {
        assert!(one.finish().await.is_ok(), "what ran was not touched");
    }
    until("it is calm again", || rig.gauges.pressure() == PressureLevel::Calm).await;
    echoes(&agent, "as before").await;
    agent.close().await;
    rig.stop().await;
}

fn hello() -> Vec<u8> {
    let params: Value = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
                                "clientInfo": { "name": "new", "version": "1" } });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string().into_bytes()
}
