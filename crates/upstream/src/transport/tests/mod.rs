//! The transports against small scripted servers on real sockets.
//!
//! A server is a closure from what it saw to what it answers; bodies are given at once or fed by the test.

mod auto;
mod coded;
mod cookies;
mod credential;
mod dialects;
mod http;
mod interim;
mod listening;
mod memory;
mod modern;
mod opening;
mod sse;
mod stdio;
mod streamable;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};
use url::Url;

use super::{ConnectRequest, Exchange, Heard, Inbound, Opened, Received, Transport, http_transport};
use crate::{
    config::{EraChoice, HttpEndpoint, Limits, Times, TransportChoice},
    credential::{Credential, StaticHeaders},
    error::{Cause, SendError, SendPhase},
};

pub(super) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
pub(super) const INITIALIZED: &str = r#"{"jsonrpc":"2.0","id":0,"result":{}}"#;
pub(super) const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;
pub(super) const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"n":1}}"#;
pub(super) const PROGRESS: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;

/// The credential of its configured headers.
fn configured(endpoint: &HttpEndpoint) -> Arc<dyn Credential> {
    StaticHeaders::holding(&endpoint.headers)
}

/// An `initialize` request of an agent without headers.
pub(super) fn initialize(initialize: &'static str) -> ConnectRequest {
    Bytes::from_static(initialize.as_bytes()).into()
}

/// One request as a server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Which connection it came on.
    pub(super) connection: usize,
    /// How many requests came before.
    pub(super) number: usize,
}

/// What a server answers.
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: UnsyncBoxBody<Bytes, Infallible>,
}

pub(super) struct Server {
    pub(super) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: AbortHandle,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn is(&self, method: &str) -> bool {
        self.method.as_str() == method
    }

    pub(super) fn is_initialize(&self) -> bool {
        self.is("POST") && self.body == INITIALIZE
    }
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let body = Full::new(body.into()).boxed_unsync();
        Self { status, headers: Vec::new(), body }.with("content-type", content_type)
    }

    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Full::default().boxed_unsync() }
    }

    pub(super) fn json(body: &'static str) -> Self {
        Self::new(200, "application/json", body)
    }

    /// Events, then the end.
    pub(super) fn events(text: &'static str) -> Self {
        Self::new(200, "text/event-stream", text)
    }

    /// Events fed by the test; the body ends when the sender is dropped.
    pub(super) fn streaming(events: mpsc::Receiver<String>) -> Self {
        let frames = futures::stream::unfold(events, |mut events| async {
            let text = events.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), events))
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        Self { status: 200, headers: Vec::new(), body }
            .with("content-type", "text/event-stream; charset=utf-8")
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Server {
    pub(super) async fn start<F>(answer: impl Fn(Seen) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(Vec::<AbortHandle>::new()));
        let answer: Arc<Script> = Arc::new(move |seen| answer(seen).boxed());
        let (log, open) = (Arc::clone(&seen), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                let service =
                    service_fn(move |request| respond(number, request, Arc::clone(&answer), log.clone()));
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                open.lock().unwrap().push(tokio::spawn(serving).abort_handle());
            }
        });
        Self { addr, seen, accepting: accepting.abort_handle(), connections }
    }

    pub(super) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.addr)).unwrap()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Nobody listens any more, and every connection is cut.
    pub(super) fn kill(&self) {
        self.accepting.abort();
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    pub(super) fn transport(&self, path: &str, choice: TransportChoice) -> Arc<dyn Transport> {
        transport(self.url(path), choice)
    }

    pub(super) async fn connect(&self, path: &str, choice: TransportChoice) -> Opened {
        self.transport(path, choice).connect(initialize(INITIALIZE)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

type Script = dyn Fn(Seen) -> BoxFuture<'static, Answer> + Send + Sync;
type Response = hyper::Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn respond(
    connection: usize,
    request: hyper::Request<Incoming>,
    answer: Arc<Script>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen = {
        let mut log = log.lock().unwrap();
        let number = log.len();
        log.push(Seen { method: head.method, path, headers: head.headers, body, connection, number });
        log[number].clone()
    };
    let answer = answer(seen).await;
    let mut response = hyper::Response::new(answer.body);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    for (name, value) in answer.headers {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    Ok(response)
}

pub(super) fn transport(url: Url, choice: TransportChoice) -> Arc<dyn Transport> {
    transport_of(url, choice, EraChoice::Auto)
}

pub(super) fn transport_of(url: Url, choice: TransportChoice, era: EraChoice) -> Arc<dyn Transport> {
    let limits = Limits { max_message: 64 * 1024, ..Limits::default() };
    let times = Times { connect: Duration::from_secs(2), ..Times::default() };
    let headers = vec![(::http::header::AUTHORIZATION, "Bearer t".parse().unwrap())];
    let endpoint = HttpEndpoint { headers, era, ..HttpEndpoint::new(url) };
    http_transport(&"b".into(), &endpoint, &configured(&endpoint), choice, &times, &limits).unwrap()
}

/// All of it but that the message left, and mere signs of life; up to the news that the rest comes elsewhere.
pub(super) async fn all(mut exchange: Exchange) -> Vec<Result<Received, SendError>> {
    let mut said = Vec::new();
    while !matches!(said.last(), Some(Ok(Received::Elsewhere)))
        && let Some(item) = next(&mut exchange).await
    {
        if !matches!(item, Ok(Received::Left | Received::Alive)) {
            said.push(item);
        }
    }
    said
}

/// The messages of an exchange that has to succeed.
pub(super) async fn messages(exchange: Exchange) -> Vec<Bytes> {
    let mut items = all(exchange).await.into_iter().map(Result::unwrap);
    assert_eq!(items.next(), Some(Received::Accepted));
    items
        .filter_map(|item| match item {
            Received::Message(message) => Some(message),
            Received::Left
            | Received::Paused(_)
            | Received::Alive
            | Received::Elsewhere
            | Received::TooLarge { .. } => None,
            Received::Accepted => panic!("accepted twice"),
        })
        .collect()
}

/// The message was taken.
pub(super) async fn accepted(exchange: &mut Exchange) {
    let mut item = next(exchange).await.expect("it is taken").unwrap();
    if item == Received::Left {
        item = next(exchange).await.expect("it is taken").unwrap();
    }
    assert_eq!(item, Received::Accepted);
}

/// The next thing that is no mere sign of life.
pub(super) async fn said(inbound: &mut Inbound) -> Heard {
    loop {
        match inbound.next().await.unwrap().unwrap() {
            Heard::Alive | Heard::Part => {}
            heard => return heard,
        }
    }
}

/// The next message, past signs of life.
pub(super) async fn hear(inbound: &mut Inbound) -> Option<Result<Bytes, SendError>> {
    loop {
        match within(inbound.next()).await {
            Some(Ok(
                Heard::Alive | Heard::Part | Heard::Noise | Heard::NoStream(_) | Heard::TooLarge { .. },
            )) => {}
            Some(Ok(Heard::Message(message))) => return Some(Ok(message)),
            Some(Err(error)) => return Some(Err(error)),
            None => return None,
        }
    }
}

/// No test waits for ever.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

pub(super) fn failed(result: Result<Opened, SendError>) -> SendError {
    match result {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

pub(super) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    within(stream.next()).await
}
