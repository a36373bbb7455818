//! An answer that arrives in drops and takes longer than `call_timeout`: its bytes are a sign of life, in every shape an
//! answer has and on every transport. `times.call` alone is its limit.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{Method, Request};
use mcpool_upstream::{
    EraChoice, HttpEndpoint, Limits, ModeChoice, Times, TransportChoice,
    transport::{
        memory::Memory,
        wire::{Answering, Response, http_transport_over},
    },
};
use mcpool_wire::{Call, ErrorKind, Link as _};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use crate::lab::{Lab, Wish, now};

/// The time of a call without a sign of life.
const IDLE: Duration = Duration::from_secs(2);
/// Between two drops.
const DROP: Duration = Duration::from_millis(900);

/// How the backend answers a call.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A POST is answered with this status and this type, an event stream in one event.
    Post(u16, &'static str),
    /// On the stream of HTTP+SSE.
    Sse,
    Modern,
}

const SHAPES: [Shape; 7] = [
    Shape::Post(200, "application/json"),
    Shape::Post(200, "text/event-stream"),
    Shape::Post(200, "text/plain"),
    Shape::Post(404, "application/json"),
    Shape::Post(500, "application/json"),
    Shape::Sse,
    Shape::Modern,
];

type Stream = Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>;

fn said(status: u16, content: &str, body: &Value) -> Response {
    let body = Bytes::from(body.to_string());
    let headers = vec![("content-type", content.to_owned())];
    Response { status, headers, body: stream::iter([Ok(body)]).boxed() }
}

/// What a text is cut into; each piece comes a while after the one before.
fn dropping(text: &str, drops: usize) -> impl futures::Stream<Item = Bytes> + Send + use<> {
    let text = Bytes::from(text.to_owned());
    let size = text.len().div_ceil(drops);
    let pieces: Vec<Bytes> = text.chunks(size).map(Bytes::copy_from_slice).collect();
    stream::iter(pieces).then(async |piece| {
        tokio::time::sleep(DROP).await;
        piece
    })
}

fn backend(shape: Shape, drops: usize) -> Answering {
    let open = Stream::default();
    Arc::new(move |request: Request<Bytes>| {
        let answer = answer(shape, drops, &open, &request);
        async move { Some(answer) }.boxed()
    })
}

fn answer(shape: Shape, drops: usize, open: &Stream, request: &Request<Bytes>) -> Response {
    let events = || vec![("content-type", "text/event-stream".to_owned())];
    if request.method() == Method::GET {
        let Shape::Sse = shape else { return said(405, "text/plain", &Value::Null) };
        let (tx, rx) = mpsc::unbounded_channel();
        let _ = tx.send(Bytes::from_static(b"event: endpoint\ndata: /m\n\n"));
        *open.lock().expect("not poisoned") = Some(tx);
        let body = stream::unfold(rx, async |mut rx| Some((Ok(rx.recv().await?), rx)));
        return Response { status: 200, headers: events(), body: body.boxed() };
    }
    let message: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            json!({"protocolVersion": "2025-11-25", "serverInfo": {"name": "slow", "version": "1"},
            "capabilities": {"tools": {}}})
        }
        "server/discover" => {
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
            "cacheScope": "private", "capabilities": {"tools": {}}})
        }
        "tools/list" => json!({"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}),
        "tools/call" => {
            json!({"resultType": "complete", "content": [{"type": "text", "text": "x".repeat(400)}]})
        }
        _ => json!({}),
    };
    let is_call = message["method"] == "tools/call";
    let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    if matches!(shape, Shape::Sse) {
        let tx = open.lock().expect("not poisoned").clone();
        let drops = if is_call { drops } else { 1 };
        let pieces = dropping(&format!("data: {answer}\n\n"), drops);
        if !message["id"].is_null() {
            tokio::spawn(pieces.for_each(move |piece| {
                let _ = tx.as_ref().map(|tx| tx.send(piece));
                futures::future::ready(())
            }));
        }
        return said(202, "text/plain", &json!(""));
    }
    if !is_call {
        let status = if message["id"].is_null() { 202 } else { 200 };
        return said(status, "application/json", &answer);
    }
    let (status, content) = match shape {
        Shape::Post(status, content) => (status, content),
        Shape::Sse | Shape::Modern => (200, "application/json"),
    };
    let is_events = content == "text/event-stream";
    let text = if is_events { format!("data: {answer}\n\n") } else { answer.to_string() };
    let headers = vec![("content-type", content.to_owned())];
    Response { status, headers, body: dropping(&text, drops).map(Ok).boxed() }
}

fn lab(shape: Shape, drops: usize) -> Lab {
    let times = Times { call_idle: IDLE, ..Times::default() };
    let limits = Limits { min_idle: 0, shared_sessions: 1, ..Limits::default() };
    let (era, choice) = match shape {
        Shape::Post(..) => (EraChoice::Legacy, TransportChoice::Http),
        Shape::Sse => (EraChoice::Legacy, TransportChoice::Sse),
        Shape::Modern => (EraChoice::Modern, TransportChoice::Http),
    };
    let endpoint = HttpEndpoint { era, ..HttpEndpoint::new("http://slow/".parse().expect("a URL")) };
    let transport = http_transport_over(backend(shape, drops), &endpoint, choice, &times, &limits);
    let wish = Wish { mode: ModeChoice::Shared, times, limits, ..Wish::default() };
    Lab::over(Memory::echo(), transport.expect("a transport"), wish)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_arrives_in_drops_is_no_silence() {
    for shape in SHAPES {
        let lab = lab(shape, 10);
        let agent = lab.agent(1).await;
        let began = Instant::now();
        let answer = agent.run("slow", &json!({})).await;
        let answer = answer.unwrap_or_else(|error| panic!("{shape:?}: {error:?}"));
        assert!(began.elapsed() > IDLE * 2, "{shape:?} took {:?}", began.elapsed());
        assert!(answer.message.bytes().len() > 400, "{shape:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_arrives_in_drops_without_end_is_ended_by_the_longest_time_of_a_call() {
    for shape in SHAPES {
        let hard = Duration::from_secs(10);
        let lab = lab(shape, 100);
        let agent = lab.agent(1).await;
        let began = Instant::now();
        let call = Call { hard_deadline: now() + hard, ..agent.tool("slow", &json!({})) };
        let error = agent.link.call(call).await.expect_err("it takes too long");
        assert_eq!(error.kind, ErrorKind::Deadline, "{shape:?}: {error:?}");
        assert!(began.elapsed() >= hard, "{shape:?} ended after {:?}", began.elapsed());
        assert!(error.message.contains("times.call"), "{shape:?}: {}", error.message);
    }
}
