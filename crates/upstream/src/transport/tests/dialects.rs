//! Both transports against the scripted backend in the dialects of real servers.

use mcpool_testkit::{Answer as Shape, Fault, FaultKind, Prime, Script, Server as Backend, Stage};
use mcpool_wire::Revision;

use super::*;
use crate::transport::TransportKind;

const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn tool(id: usize, name: &str, arguments: &str) -> Bytes {
    let params = format!(r#"{{"name":"{name}","arguments":{arguments}}}"#);
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#))
}

async fn backend(script: Script) -> Backend {
    Backend::start(script).await.unwrap()
}

async fn open(url: &str, choice: TransportChoice) -> (Opened, Inbound) {
    let transport = transport(Url::parse(url).unwrap(), choice);
    let opened = within(transport.connect(initialize(HELLO))).await.unwrap();
    opened.outbound.agreed(Revision::V2025_11_25);
    messages(opened.outbound.send(READY.into())).await;
    let inbound = within(opened.outbound.listen()).await.unwrap();
    (opened, inbound)
}

/// The same, once the session's own stream is open.
async fn open_with_stream(url: &str) -> (Opened, Inbound) {
    let (opened, mut inbound) = open(url, TransportChoice::Auto).await;
    let reading = async {
        loop {
            next(&mut inbound).await.unwrap().unwrap();
        }
    };
    tokio::select! {
        () = reading => {}
        () = within(opened.outbound.listening()) => {}
    }
    (opened, inbound)
}

/// The message with this text, from the exchange or the stream.
async fn answer(opened: &Opened, inbound: &mut Inbound, call: Bytes, text: &str) -> Bytes {
    let mut found = messages(opened.outbound.send(call)).await;
    while !found.last().is_some_and(|m| String::from_utf8_lossy(m).contains(text)) {
        found.push(hear(inbound).await.unwrap().unwrap());
    }
    found.pop().unwrap()
}

#[tokio::test]
async fn every_dialect_answers_on_both_transports() {
    let scripts = [
        ("default", Script::default()),
        ("python", Script::python()),
        ("everything", Script::everything()),
        ("json", Script { answer: Shape::Json, ..Script::default() }),
        ("no get", Script { get_stream: false, ..Script::default() }),
        ("stateless", Script { no_session_id: true, ..Script::default() }),
        ("small pieces", Script { chunk: Some(3), answer: Shape::Sse, ..Script::default() }),
        ("primed", Script { prime: Some(Prime { retry_ms: 20 }), answer: Shape::Sse, ..Script::default() }),
    ];
    for (name, script) in scripts {
        let server = backend(script).await;
        // The wrong spelling of the slash on purpose: served or redirected, both work.
        let urls = [format!("{}/", server.url_sse()), format!("{}/", server.url_http())];
        for (url, kind) in urls.iter().zip([TransportKind::Sse, TransportKind::Http]) {
            let (opened, mut inbound) = open(url, TransportChoice::Auto).await;
            assert_eq!(opened.kind, kind, "{name}");
            for id in 1..=20 {
                let nonce = format!("nonce-{id}-{kind:?}");
                let call = tool(id, "echo", &format!(r#"{{"nonce":"{nonce}"}}"#));
                answer(&opened, &mut inbound, call, &nonce).await;
            }
            within(opened.outbound.close()).await;
        }
        assert_eq!(server.stats().too_early, 0, "{name}");
    }
}

#[tokio::test]
async fn a_forgotten_session_is_recognised_on_both_transports() {
    for script in [Script::python(), Script::everything()] {
        let server = backend(script).await;
        for url in [server.url_sse(), server.url_http()] {
            let (opened, _inbound) = open(&url, TransportChoice::Auto).await;
            server.forget_sessions(true);
            let items = all(opened.outbound.send(tool(1, "echo", "{}"))).await;
            let error = items[0].as_ref().unwrap_err();
            assert!(matches!(error.cause, Cause::SessionLost(_)), "{error}");
            assert_eq!(error.phase, SendPhase::Refused);
        }
    }
}

#[tokio::test]
async fn a_full_server_is_pressure_and_no_outage() {
    let server = backend(Script { session_cap: 1, ..Script::default() }).await;
    for (url, choice) in
        [(server.url_sse(), TransportChoice::Sse), (server.url_http(), TransportChoice::Http)]
    {
        let kept = open(&server.url_http(), TransportChoice::Http).await;
        let error = failed(transport(Url::parse(&url).unwrap(), choice).connect(initialize(HELLO)).await);
        assert!(matches!(error.cause, Cause::Pressure(_)) && error.cause.incident().is_none(), "{error}");
        within(kept.0.outbound.close()).await;
    }
}

#[tokio::test]
async fn a_call_whose_stream_is_cut_after_priming_is_answered_and_executed_once() {
    let script = Script { prime: Some(Prime { retry_ms: 10 }), answer: Shape::Sse, ..Script::default() };
    let server = backend(script).await;
    let (opened, _inbound) = open_with_stream(&server.url_http()).await;
    server.set_fault(Fault::once(Stage::Call, FaultKind::CutAt(5)));
    let items = all(opened.outbound.send(tool(1, "add", r#"{"nonce":"n"}"#))).await;
    // Whether this backend can replay or not: never a silent end, and never a second execution.
    match items.last().unwrap() {
        Ok(Received::Message(message)) => assert!(message.starts_with(b"{")),
        Ok(
            Received::Left
            | Received::Accepted
            | Received::Alive
            | Received::Elsewhere
            | Received::TooLarge { .. }
            | Received::Paused(_),
        ) => {
            panic!("ended without an answer or an error")
        }
        Err(error) => assert_eq!(error.phase, SendPhase::MaybeSent),
    }
    assert_eq!(server.executions("n"), 1);
}

#[tokio::test]
async fn a_restart_ends_the_streams_and_the_next_connect_works() {
    let server = backend(Script::default()).await;
    for url in [server.url_sse(), server.url_http()] {
        let (opened, mut inbound) = open_with_stream(&url).await;
        server.restart().await.unwrap();
        let error = hear(&mut inbound).await.unwrap().unwrap_err();
        assert!(matches!(error.cause, Cause::Broken(_) | Cause::SessionLost(_)), "{error}");
        assert!(all(opened.outbound.send(tool(1, "echo", "{}"))).await[0].is_err());
        drop(open(&url, TransportChoice::Auto).await);
    }
}
