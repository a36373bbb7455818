//! Finding out which transport is spoken, and remembering it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::transport::TransportKind;

/// Speaks HTTP+SSE or Streamable HTTP as the flag says, as a server does that is redeployed.
async fn server(speaks_sse: Arc<AtomicBool>) -> Server {
    Server::start(move |seen: Seen| {
        let speaks_sse = speaks_sse.load(Ordering::SeqCst);
        async move {
            match (speaks_sse, seen.method.as_str(), seen.path.as_str()) {
                (true, "GET", "/x") => {
                    let (tx, rx) = mpsc::channel(2);
                    tx.try_send("event: endpoint\ndata: /m\n\n".to_owned()).unwrap();
                    tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
                    Answer::streaming(rx)
                }
                (true, "POST", "/m") => Answer::status(202),
                (false, "POST", "/x") => Answer::json(INITIALIZED),
                _ => Answer::new(405, "text/plain", "Method Not Allowed"),
            }
        }
    })
    .await
}

fn methods(server: &Server) -> Vec<String> {
    server.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
}

#[tokio::test]
async fn what_worked_is_remembered_and_learned_again_when_it_changes() {
    let speaks_sse = Arc::new(AtomicBool::new(true));
    let server = server(Arc::clone(&speaks_sse)).await;
    let transport = server.transport("/x", TransportChoice::Auto);
    let connect = || async { transport.connect(initialize(INITIALIZE)).await.unwrap().kind };

    assert_eq!(connect().await, TransportKind::Sse);
    assert_eq!(methods(&server), ["POST /x", "GET /x", "POST /m"]);
    assert_eq!(connect().await, TransportKind::Sse);
    assert_eq!(methods(&server)[3..], ["GET /x", "POST /m"], "straight");

    speaks_sse.store(false, Ordering::SeqCst);
    assert_eq!(connect().await, TransportKind::Http);
    assert_eq!(methods(&server)[5..], ["GET /x", "POST /x"]);
    assert_eq!(connect().await, TransportKind::Http);
    assert_eq!(methods(&server)[7..], ["POST /x"], "straight");
}

#[tokio::test]
async fn when_neither_is_spoken_both_answers_are_told() {
    let server = Server::start(|seen: Seen| async move {
        Answer::new(404, "text/plain", if seen.is("POST") { "no post here" } else { "no get here" })
    })
    .await;
    let error = failed(server.transport("/x", TransportChoice::Auto).connect(initialize(INITIALIZE)).await);
    let Cause::WrongTransport(refusal) = &error.cause else { panic!("{error}") };
    assert!(refusal.message.contains("no post here") && refusal.message.contains("no get here"), "{error}");
}

#[tokio::test]
async fn a_refusal_that_concerns_every_transport_never_changes_it() {
    let bodies = [(429, "slowly"), (503, "Too many open sessions"), (401, "who are you")];
    for (status, body) in bodies {
        let server = Server::start(move |_| async move { Answer::new(status, "text/plain", body) }).await;
        let error =
            failed(server.transport("/x", TransportChoice::Auto).connect(initialize(INITIALIZE)).await);
        assert!(!matches!(error.cause, Cause::WrongTransport(_)), "{error}");
        assert_eq!(methods(&server), ["POST /x"]);
    }
}

#[tokio::test]
async fn a_server_that_fails_over_a_post_is_asked_for_its_stream_too() {
    for status in [500, 501] {
        let server = Server::start(move |seen: Seen| async move {
            match (seen.method.as_str(), seen.path.as_str()) {
                ("GET", "/x") => {
                    let (tx, rx) = mpsc::channel(2);
                    tx.try_send("event: endpoint\ndata: /m\n\n".to_owned()).unwrap();
                    tx.try_send(format!("data: {INITIALIZED}\n\n")).unwrap();
                    Answer::streaming(rx)
                }
                ("POST", "/m") => Answer::status(202),
                _ => Answer::new(status, "text/plain", "unhandled method"),
            }
        })
        .await;
        let opened =
            server.transport("/x", TransportChoice::Auto).connect(initialize(INITIALIZE)).await.unwrap();
        assert_eq!(opened.kind, TransportKind::Sse);
    }
    // One that fails over everything has failed, whatever its GET says.
    let server = Server::start(|seen: Seen| async move {
        Answer::new(if seen.is("POST") { 500 } else { 405 }, "text/plain", "boom")
    })
    .await;
    let error = failed(server.transport("/x", TransportChoice::Auto).connect(initialize(INITIALIZE)).await);
    assert!(matches!(&error.cause, Cause::Status(refusal) if refusal.status == 500), "{error}");
    assert_eq!(methods(&server), ["POST /x", "GET /x"]);
}

#[tokio::test]
async fn a_named_transport_is_not_replaced() {
    let server = server(Arc::new(AtomicBool::new(true))).await;
    let error = failed(server.transport("/x", TransportChoice::Http).connect(initialize(INITIALIZE)).await);
    assert!(matches!(error.cause, Cause::WrongTransport(_)), "{error}");
}

/// Speaks one era, as the flag says; refuses the other as its SDK does.
async fn of_one_era(is_modern: Arc<AtomicBool>, refusal: (u16, i32)) -> Server {
    Server::start(move |seen: Seen| {
        let is_modern = is_modern.load(Ordering::SeqCst);
        async move {
            let message: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let reply = |status, name: &str, value: serde_json::Value| {
                let body =
                    serde_json::json!({ "jsonrpc": "2.0", "id": message["id"], name: value }).to_string();
                Answer::new(status, "application/json", body)
            };
            let (status, code) = refusal;
            match (is_modern, message["method"].as_str()) {
                (true, Some("server/discover")) => reply(
                    200,
                    "result",
                    serde_json::json!({ "supportedVersions": ["2026-07-28"], "capabilities": {} }),
                ),
                (true, _) => {
                    reply(status, "error", serde_json::json!({ "code": code, "message": "no handshake" }))
                }
                (false, Some("initialize")) => reply(200, "result", serde_json::json!({})),
                (false, _) => Answer::new(405, "text/plain", "no"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_has_only_the_other_era_is_found_and_found_again() {
    for (choice, refusal) in [
        (TransportChoice::Auto, (400, -32022)),
        (TransportChoice::Http, (400, -32602)),
        (TransportChoice::Http, (404, -32601)),
        (TransportChoice::Auto, (200, -32601)),
    ] {
        let is_modern = Arc::new(AtomicBool::new(true));
        let server = of_one_era(Arc::clone(&is_modern), refusal).await;
        let transport = server.transport("/x", choice);
        let connect = || async { transport.connect(initialize(INITIALIZE)).await.unwrap().era };
        assert_eq!(connect().await, mcpool_wire::Era::Modern, "{refusal:?}");
        assert_eq!(methods(&server), ["POST /x", "POST /x"], "{refusal:?}");
        assert_eq!(connect().await, mcpool_wire::Era::Modern);
        assert_eq!(methods(&server).len(), 3, "straight");
        is_modern.store(false, Ordering::SeqCst);
        assert_eq!(connect().await, mcpool_wire::Era::Legacy, "the other server is at this address now");
        assert_eq!(methods(&server).len(), 5);
    }
}

#[tokio::test]
async fn a_handshake_that_agrees_on_the_era_without_one_leads_there() {
    let server = Server::start(|seen: Seen| async move {
        let message: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let result = match message["method"].as_str() {
            Some("initialize") => serde_json::json!({ "protocolVersion": "2026-07-28", "capabilities": {} }),
            _ => serde_json::json!({ "supportedVersions": ["2026-07-28"], "capabilities": {} }),
        };
        let answer = serde_json::json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
        Answer::new(200, "application/json", answer.to_string())
    })
    .await;
    for choice in [TransportChoice::Auto, TransportChoice::Http] {
        let opened = server.transport("/x", choice).connect(initialize(INITIALIZE)).await.unwrap();
        assert_eq!(opened.era, mcpool_wire::Era::Modern);
    }
    assert_eq!(methods(&server), ["POST /x"; 4]);
}

#[tokio::test]
async fn an_era_that_is_named_is_not_replaced() {
    let modern = of_one_era(Arc::new(AtomicBool::new(true)), (400, -32022)).await;
    let legacy = of_one_era(Arc::new(AtomicBool::new(false)), (400, -32022)).await;
    for (server, era) in [(&modern, EraChoice::Legacy), (&legacy, EraChoice::Modern)] {
        let transport = transport_of(server.url("/x"), TransportChoice::Http, era);
        let error = failed(transport.connect(initialize(INITIALIZE)).await);
        assert!(matches!(error.cause, Cause::WrongTransport(_)), "{error}");
        assert_eq!(methods(server), ["POST /x"]);
    }
}
