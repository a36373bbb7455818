//! The load generator against real servers: all ways, all drives, and servers that lie.

use std::time::Duration;

use bytes::BytesMut;
use mcpool_testkit::{Fault, FaultKind, Script, Server, Stage};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::proxy::{passthrough, splice};

const BOTH: [Front; 2] = [Front::Http, Front::Sse];

fn plan(addr: std::net::SocketAddr, front: Front, drive: Drive) -> Plan {
    let path = match front {
        Front::Http | Front::Modern => "/mcp",
        Front::Sse => "/sse",
    };
    let target = Target { addr, path: path.to_owned(), front };
    let measured = Duration::from_millis(200);
    Plan { target, agents: 8, drive, warmup: Duration::from_millis(20), measured }
}

async fn clean_run(plan: &Plan) -> Outcome {
    let outcome = run(plan, &[]).await.unwrap();
    assert_eq!((outcome.tally.wrong, outcome.tally.failed), (0, 0), "{:?}", outcome.tally.first_failure);
    assert!(outcome.tally.answered > 0);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_drive_is_answered_over_both_fronts() {
    let server = Server::start(Script::default()).await.unwrap();
    for front in BOTH {
        for drive in [Drive::Reuse, Drive::PerCall, Drive::OpenLoop { rate: 200 }] {
            clean_run(&plan(server.addr(), front, drive)).await;
        }
    }
}

#[tokio::test]
async fn a_caller_without_handshake_says_all_of_itself_with_each_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = plan(listener.local_addr().unwrap(), Front::Modern, Drive::Reuse).target;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}}}") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        let text = String::from_utf8(seen).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let message: Value = serde_json::from_str(body).unwrap();
        let result = &message["params"]["arguments"];
        let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        (head.to_owned(), message)
    });
    Agent::open(&target, 1).await.unwrap().call(Work::Echo).await.unwrap();
    let (head, message) = server.await.unwrap();
    for line in ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: echo"] {
        assert_eq!(head.lines().filter(|header| *header == line).count(), 1, "{head}");
    }
    let meta = &message["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert!(meta["io.modelcontextprotocol/clientCapabilities"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_makes_as_many_calls_as_are_due() {
    let server = Server::start(Script::default()).await.unwrap();
    let outcome = clean_run(&plan(server.addr(), Front::Http, Drive::OpenLoop { rate: 500 })).await;
    assert!((95..=105).contains(&outcome.tally.latency.len()), "{} of 100", outcome.tally.latency.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latency_of_a_late_call_counts_from_when_it_was_due() {
    let script = Script { call_delay: Duration::from_millis(50), ..Script::default() };
    let server = Server::start(script).await.unwrap();
    let mut plan = plan(server.addr(), Front::Http, Drive::OpenLoop { rate: 100 });
    plan.agents = 1;
    let outcome = clean_run(&plan).await;
    // Twenty calls are due within 200 ms, a second of work: the later ones must show their wait.
    assert!(outcome.tally.latency.quantile(0.9) > Duration::from_millis(400));
}

async fn through(start: impl FnOnce(TcpListener) -> JoinHandle<anyhow::Result<()>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    start(listener);
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_proxies_bring_every_answer_to_its_caller() {
    let server = Server::start(Script::default()).await.unwrap();
    let backend = server.addr();
    let pass = through(|listener| tokio::spawn(passthrough::serve(listener, backend))).await;
    let splice = through(|listener| tokio::spawn(splice::serve(listener, backend))).await;
    for front in BOTH {
        for addr in [pass, splice] {
            clean_run(&plan(addr, front, Drive::Reuse)).await;
            clean_run(&plan(addr, front, Drive::PerCall)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_in_small_chunks_arrives_whole() {
    let script = Script { chunk: Some(4096), answer: mcpool_testkit::Answer::Sse, ..Script::default() };
    let server = Server::start(script).await.unwrap();
    let backend = server.addr();
    let splice = through(|listener| tokio::spawn(splice::serve(listener, backend))).await;
    for front in BOTH {
        for addr in [backend, splice] {
            let mut agent = Agent::open(&plan(addr, front, Drive::Reuse).target, 1).await.unwrap();
            agent.call(Work::Big(1 << 20)).await.unwrap();
            agent.call(Work::Echo).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_agent_listens_and_calls_again() {
    let server = Server::start(Script::default()).await.unwrap();
    for front in BOTH {
        let mut agent = Agent::open(&plan(server.addr(), front, Drive::Reuse).target, 1).await.unwrap();
        agent.listen().await.unwrap();
        agent.rest();
        agent.call(Work::Echo).await.unwrap();
        agent.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_under_a_foreign_id_are_counted_as_wrong() {
    let server = Server::start(Script::default()).await.unwrap();
    server.set_fault(Fault::every(10, Stage::Call, FaultKind::ForeignId));
    for front in BOTH {
        let outcome = run(&plan(server.addr(), front, Drive::Reuse), &[]).await.unwrap();
        assert!(outcome.tally.wrong > 0);
        assert!(outcome.tally.first_failure.unwrap().contains("another id"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_calls_are_counted_as_failed_and_the_agent_goes_on() {
    let server = Server::start(Script::default()).await.unwrap();
    server.set_fault(Fault::every(50, Stage::Call, FaultKind::Status(400, "no".into())));
    for front in BOTH {
        let outcome = run(&plan(server.addr(), front, Drive::Reuse), &[]).await.unwrap();
        assert!(outcome.tally.failed > 0 && outcome.tally.answered > 0);
        assert!(outcome.tally.first_failure.unwrap().contains("400"));
    }
}

/// A connection whose other end writes these pieces, each by its own.
async fn fed(pieces: &'static [&'static str]) -> Conn {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let conn = Conn::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        for piece in pieces {
            server.write_all(piece.as_bytes()).await.unwrap();
            server.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    conn
}

#[tokio::test]
async fn a_body_is_read_to_its_end_however_it_is_framed_and_cut() {
    let mut conn = fed(&[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nMcp-Session-Id: s\r\n\r\n4\r\nab",
        "cd\r",
        "\n2;x=1\r\nef\r\n0\r\n",
        "\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 3\r\n\r\nghiHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nto the end",
    ])
    .await;
    for (status, body) in [(200, "abcdef"), (202, "ghi"), (204, ""), (200, "to the end")] {
        let mut head = conn.head().await.unwrap();
        assert_eq!(head.status, status);
        let mut out = BytesMut::new();
        while conn.body(&mut head.framing, &mut out).await.unwrap() {}
        assert_eq!(out, body);
    }
}

#[tokio::test]
async fn events_are_cut_at_blank_lines_of_either_kind() {
    let mut conn = fed(&[
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: endpoint\r\ndata: /x\r\n",
        "\r\n: ping\n\nid: 1\ndata:\n\ndata: a\ndata: b\n\nevent: message\ndata: {}\n",
        "\n",
    ])
    .await;
    let head = conn.head().await.unwrap();
    assert!(head.is_event_stream);
    let mut events = Events::new(head.framing);
    for (name, data) in [("endpoint", "/x"), ("", "a\nb"), ("", "{}")] {
        let event = events.next(&mut conn).await.unwrap().unwrap();
        assert_eq!((event.name.as_str(), &event.data[..]), (name, data.as_bytes()));
    }
    assert_eq!(events.next(&mut conn).await.unwrap(), None);
}
