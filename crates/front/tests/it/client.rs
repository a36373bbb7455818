//! A plain HTTP client and a running front: real sockets on a port of the system's choice.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mcpool_front::{AllowAll, Drained, FrontConfig, FrontSettings, Gauges, Guard, Readiness, Server};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::script::{Healthy, Script, Scripted, Watcher};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) script: Arc<Script>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) census: Arc<dyn mcpool_front::Census>,
    pub(crate) settings: FrontSettings,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<Drained>,
}

pub(crate) async fn start() -> Running {
    start_with(FrontConfig::default()).await
}

pub(crate) async fn start_with(config: FrontConfig) -> Running {
    start_ready(config, Readiness::Ok).await
}

pub(crate) async fn start_ready(config: FrontConfig, readiness: Readiness) -> Running {
    start_guarded(config, readiness, Arc::new(AllowAll)).await
}

pub(crate) async fn start_guarded(
    config: FrontConfig,
    readiness: Readiness,
    guard: Arc<dyn Guard>,
) -> Running {
    let script = Arc::new(Script::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let backends = Arc::new(Scripted(Arc::clone(&script)));
    let observe = Arc::new(Watcher(Arc::clone(&script)));
    let server = Server::new(config, backends, observe, Arc::new(Healthy(readiness)), guard);
    let (gauges, census, settings) = (server.gauges(), server.census(), server.settings());
    let (stop, stopped) = oneshot::channel::<()>();
    let done = tokio::spawn(async move {
        server
            .run(listener, async {
                let _ = stopped.await;
            })
            .await
    });
    Running { addr, script, gauges, census, settings, stop: Some(stop), done }
}

impl Running {
    /// Ends at once, as if killed.
    pub(crate) async fn killed(self) {
        self.done.abort();
        let _ = self.done.await;
    }

    pub(crate) fn shut_down(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn stopped(self) -> Drained {
        tokio::time::timeout(PATIENCE, self.done).await.unwrap().unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// The same, where the connection may end before the answer.
    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.addr.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Got {
        Got::read(self.send("GET", path, headers, "").await).await
    }

    /// POSTs a message as clients do.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Got {
        Got::read(self.start_post(path, headers, body).await).await
    }

    pub(crate) async fn start_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Response<Incoming> {
        let mut all =
            vec![("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend_from_slice(headers);
        self.send("POST", path, &all, body.to_string()).await
    }

    /// A Streamable session on `path`.
    pub(crate) async fn session(&self, path: &str) -> String {
        self.greeted(path, &initialize(0)).await
    }

    /// A Streamable session of this revision.
    pub(crate) async fn session_of(&self, revision: &str) -> String {
        self.greeted("/mcp", &initialize_as(0, revision)).await
    }

    async fn greeted(&self, path: &str, greeting: &Value) -> String {
        let got = self.post(path, &[], greeting).await;
        assert_eq!(got.status, 200, "{got:?}");
        got.headers["mcp-session-id"].to_str().unwrap().to_owned()
    }

    /// The stream of a Streamable session, taken up behind an event if one is named.
    pub(crate) async fn listen(&self, session: &str, last_event: Option<&str>) -> Sse {
        Sse::over(self.try_listen(session, last_event).await)
    }

    pub(crate) async fn try_listen(&self, session: &str, last_event: Option<&str>) -> Response<Incoming> {
        let mut headers = vec![("mcp-session-id", session), ("accept", "text/event-stream")];
        headers.extend(last_event.map(|id| ("last-event-id", id)));
        self.send("GET", "/mcp", &headers, "").await
    }

    /// A call whose answer is a stream.
    pub(crate) async fn streamed(&self, session: &str, body: &Value) -> Sse {
        Sse::over(self.start_post("/mcp", &[("mcp-session-id", session)], body).await)
    }

    pub(crate) async fn call(&self, session: &str, body: &Value) -> Got {
        self.post("/mcp", &[("mcp-session-id", session)], body).await
    }

    /// An HTTP+SSE stream, its endpoint event read.
    pub(crate) async fn sse(&self, path: &str, headers: &[(&str, &str)]) -> Sse {
        let response = self.send("GET", path, headers, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut sse = Sse { body: response.into_body(), text: String::new(), session: String::new() };
        let endpoint = sse.event().await.unwrap();
        assert_eq!(endpoint.event, "endpoint");
        sse.session = endpoint.data.strip_prefix("?session_id=").unwrap().to_owned();
        assert_eq!(endpoint.id.as_deref(), Some(sse.session.as_str()));
        sse
    }

    /// POSTs a message of an HTTP+SSE session.
    pub(crate) async fn say(&self, session: &str, body: &Value) -> Got {
        self.post(&format!("/sse?session_id={session}"), &[], body).await
    }
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Got {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("{self:?}"))
    }
}

pub(crate) struct Sse {
    pub(crate) body: Incoming,
    text: String,
    pub(crate) session: String,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) data: String,
}

impl Event {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Sse {
    pub(crate) fn over(response: Response<Incoming>) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new(), session: String::new() }
    }

    /// The next event; `None` at the end of the stream. Comments are skipped.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if block.starts_with(':') {
                    continue;
                }
                return Some(Event::parse(&block));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    pub(crate) async fn json(&mut self) -> Value {
        self.event().await.expect("the stream ended").json()
    }

    /// Reads up to and including the next comment.
    pub(crate) async fn comment(&mut self) -> String {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                return self.text.drain(..end + 2).collect();
            }
            assert!(self.read().await, "the stream ended");
        }
    }

    async fn read(&mut self) -> bool {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("silence");
        match frame {
            Some(Ok(frame)) => {
                self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
                true
            }
            Some(Err(_)) | None => false,
        }
    }
}

impl Event {
    fn parse(block: &str) -> Self {
        let field = |name: &str| {
            let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix(name)).collect();
            assert!(lines.len() <= 1, "{block}");
            lines.first().map(|line| line.trim_start().to_owned())
        };
        let event = field("event:").unwrap_or_default();
        Self { event, id: field("id:"), retry: field("retry:"), data: field("data:").unwrap_or_default() }
    }
}

pub(crate) fn initialize(id: impl Into<Value>) -> Value {
    initialize_as(id, "2025-06-18")
}

pub(crate) fn initialize_as(id: impl Into<Value>, revision: &str) -> Value {
    json!({"jsonrpc":"2.0","id":id.into(),"method":"initialize","params":{"protocolVersion":revision,
           "capabilities":{},"clientInfo":{"name":"t","version":"1"}}})
}

pub(crate) fn tool(id: impl Into<Value>, name: &str) -> Value {
    json!({"jsonrpc":"2.0","id":id.into(),"method":"tools/call","params":{"name":name,"arguments":{"n":1}}})
}

pub(crate) fn tool_with_token(id: impl Into<Value>, name: &str) -> Value {
    let mut call = tool(id, name);
    call["params"]["_meta"] = json!({"progressToken":"tok"});
    call
}

pub(crate) fn cancel(id: impl Into<Value>) -> Value {
    json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":id.into()}})
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}
