//! What an agent's clones and tasks share: the wire itself.
//!
//! The subtle thing: tasks hold the core, clones hold the core and its life; so a reader task never keeps a
//! dropped agent alive.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::book::{Book, Place, Question};
use super::http::{Exchange, Pool};
use super::sse::SseReader;
use super::{AgentConfig, AgentError, Ids, RawAnswer, Transport};
use crate::server::lock;

/// Time the rest of an event stream may take after its answer before its connection is given up.
const DRAIN: Duration = Duration::from_secs(5);

/// Time a raw request waits for the first piece of an event stream.
const FIRST: Duration = Duration::from_millis(500);

type Handler = Arc<dyn Fn(&str, &Value) -> Option<Result<Value, (i64, String)>> + Send + Sync>;

/// The shared half of an agent.
pub(crate) struct Core {
    pub(crate) config: AgentConfig,
    pub(crate) pool: Arc<Pool>,
    pub(crate) book: Arc<Book>,
    pub(crate) ids: Mutex<Ids>,
    /// Cancelled when nothing more can arrive.
    pub(crate) over: CancellationToken,
    path: String,
    endpoint: OnceLock<String>,
    session: Mutex<Option<HeaderValue>>,
    version: Mutex<Option<HeaderValue>>,
    handler: Mutex<Option<Handler>>,
    last_event_id: Mutex<Option<String>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(config: AgentConfig) -> Result<Arc<Self>, AgentError> {
        let uri: Uri = config.url.parse().map_err(|e| AgentError::Closed(format!("{}: {e}", config.url)))?;
        let pool = Arc::new(Pool::new(&uri, config.connections)?);
        Ok(Arc::new(Self {
            path: uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
            config,
            pool,
            book: Arc::default(),
            ids: Mutex::new(Ids::Number(0)),
            over: CancellationToken::new(),
            endpoint: OnceLock::new(),
            session: Mutex::default(),
            version: Mutex::default(),
            handler: Mutex::default(),
            last_event_id: Mutex::default(),
        }))
    }

    /// The agent's own patience around anything.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        tokio::time::timeout(self.config.timeout, work).await.unwrap_or(Err(AgentError::Timeout))
    }

    /// One request; the whole answer message.
    pub(crate) async fn request(
        self: &Arc<Self>,
        id: &str,
        method: &str,
        params: &str,
        progress: Option<mpsc::Sender<Value>>,
    ) -> Result<Bytes, AgentError> {
        let place = self.book.enter(id, progress)?;
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}");
        self.in_time(async {
            match self.config.transport {
                Transport::Sse => self.request_sse(place, body).await,
                Transport::Http => self.request_http(place, body, method == "initialize").await,
            }
        })
        .await
    }

    async fn request_sse(&self, mut place: Place, body: String) -> Result<Bytes, AgentError> {
        self.post_only(body).await?;
        (&mut place.rx).await.map_err(|_| self.gone())
    }

    async fn request_http(
        self: &Arc<Self>,
        mut place: Place,
        body: String,
        opens: bool,
    ) -> Result<Bytes, AgentError> {
        let mut exchange = self.post(body).await?;
        if !exchange.is_success() {
            return Err(exchange.into_error().await);
        }
        if opens {
            *lock(&self.session) = exchange.headers.get("mcp-session-id").cloned();
        }
        if !exchange.is_event_stream() {
            let body = exchange.bytes().await?;
            if !body.is_empty() {
                self.deliver(&body);
            }
            return place.rx.try_recv().map_err(|_| unanswered());
        }
        let mut reader = SseReader::default();
        while let Some(chunk) = exchange.next().await {
            self.feed(&mut reader, &chunk?)?;
            if let Ok(answer) = place.rx.try_recv() {
                self.drain(exchange, reader);
                return Ok(answer);
            }
        }
        Err(unanswered())
    }

    /// Reads what follows the answer, so that a second answer is seen and the connection can be kept.
    fn drain(self: &Arc<Self>, mut exchange: Exchange, mut reader: SseReader) {
        if exchange.is_over() {
            return;
        }
        let core = Arc::clone(self);
        self.spawn(async move {
            let rest = async {
                while let Some(Ok(chunk)) = exchange.next().await {
                    if core.feed(&mut reader, &chunk).is_err() {
                        return;
                    }
                }
            };
            // a stream that stays open after its answer loses its connection
            let _ = tokio::time::timeout(DRAIN, rest).await;
        });
    }

    /// A message that has no answer.
    pub(crate) async fn post_only(&self, body: String) -> Result<(), AgentError> {
        let mut exchange = self.post(body).await?;
        if !exchange.is_success() {
            return Err(exchange.into_error().await);
        }
        exchange.bytes().await.map(drop)
    }

    async fn post(&self, body: String) -> Result<Exchange, AgentError> {
        let headers = self.headers(&Method::POST);
        self.pool.send(Method::POST, &self.post_path(), headers, body.into(), false).await
    }

    pub(crate) async fn delete(&self) -> Result<(), AgentError> {
        let headers = self.headers(&Method::DELETE);
        let mut exchange = self.pool.send(Method::DELETE, &self.path, headers, Bytes::new(), false).await?;
        if exchange.is_success() {
            exchange.bytes().await.map(drop)
        } else {
            Err(exchange.into_error().await)
        }
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<RawAnswer, AgentError> {
        let mut exchange = self.pool.send(method, path, headers, body, false).await?;
        let body = if exchange.is_event_stream() && exchange.is_success() {
            // a stream may have nothing to say yet; its head is answer enough
            let first = tokio::time::timeout(FIRST, exchange.next()).await;
            first.ok().flatten().transpose()?.unwrap_or_default()
        } else {
            exchange.bytes().await?
        };
        Ok(RawAnswer { status: exchange.status, headers: exchange.headers.clone(), body })
    }

    /// Opens the HTTP+SSE stream and waits for its `endpoint` event.
    pub(crate) async fn open_sse(self: &Arc<Self>) -> Result<(), AgentError> {
        let exchange = self.open().await?;
        let (tx, rx) = oneshot::channel();
        let core = Arc::clone(self);
        self.spawn(async move {
            let why = core.read(exchange, Some(tx)).await;
            core.end(&why);
        });
        rx.await.map_err(|_| self.gone())
    }

    /// Opens the GET stream of Streamable HTTP; its end ends nothing else.
    pub(crate) async fn open_get(self: &Arc<Self>) -> Result<(), AgentError> {
        let exchange = self.open().await?;
        let core = Arc::clone(self);
        self.spawn(async move { drop(core.read(exchange, None).await) });
        Ok(())
    }

    async fn open(&self) -> Result<Exchange, AgentError> {
        let headers = self.headers(&Method::GET);
        let exchange = self.pool.send(Method::GET, &self.path, headers, Bytes::new(), true).await?;
        if exchange.status == 200 && exchange.is_event_stream() {
            return Ok(exchange);
        }
        Err(exchange.into_error().await)
    }

    /// Reads a stream to its end; says why it ended.
    async fn read(
        self: &Arc<Self>,
        mut exchange: Exchange,
        mut ready: Option<oneshot::Sender<()>>,
    ) -> String {
        let mut reader = SseReader::default();
        while let Some(chunk) = exchange.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(e) => return e.to_string(),
            };
            if !reader.push(&chunk) {
                return "an event is too large".into();
            }
            while let Some(mut event) = reader.next() {
                if event.id.is_some() {
                    *lock(&self.last_event_id) = event.id.take();
                }
                if event.name.as_deref() != Some("endpoint") {
                    self.event(&event.data);
                } else if let Some(path) = endpoint(&event.data, &self.path) {
                    // a second endpoint on one stream changes nothing
                    let _ = self.endpoint.set(path);
                    ready.take().map(|tx| tx.send(()));
                }
            }
        }
        "the stream ended".into()
    }

    fn feed(self: &Arc<Self>, reader: &mut SseReader, chunk: &[u8]) -> Result<(), AgentError> {
        if !reader.push(chunk) {
            return Err(AgentError::Closed("an event is too large".into()));
        }
        while let Some(event) = reader.next() {
            self.event(&event.data);
        }
        Ok(())
    }

    fn event(self: &Arc<Self>, data: &Bytes) {
        // empty data is a priming event or a keep-alive
        if !data.is_empty() {
            self.deliver(data);
        }
    }

    fn deliver(self: &Arc<Self>, message: &Bytes) {
        let Some(question) = self.book.deliver(message) else { return };
        if !self.config.answers {
            return;
        }
        let core = Arc::clone(self);
        self.spawn(async move {
            if let Some(body) = core.reply(&question) {
                // a server that refuses its own answer will say so on the call
                let _ = core.in_time(core.post_only(body)).await;
            }
        });
    }

    fn reply(&self, question: &Question) -> Option<String> {
        let handler = lock(&self.handler).clone();
        let answer = match (handler, question.method.as_str()) {
            (_, "ping") => Ok(json!({})),
            (Some(handler), method) => handler(method, &question.params)?,
            (None, _) => Err((-32601, "Method not found".to_owned())),
        };
        let id: Value = serde_json::from_str(&question.id).unwrap_or_default();
        let message = match answer {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err((code, message)) => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
            }
        };
        Some(message.to_string())
    }

    /// The headers of any request of this agent.
    pub(crate) fn headers(&self, method: &Method) -> HeaderMap {
        let mut all = HeaderMap::with_capacity(8);
        let accept =
            if *method == Method::GET { "text/event-stream" } else { "application/json, text/event-stream" };
        all.insert(ACCEPT, HeaderValue::from_static(accept));
        if *method == Method::POST {
            all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if self.config.transport == Transport::Http {
            lock(&self.session).clone().map(|id| all.insert("mcp-session-id", id));
            lock(&self.version).clone().map(|v| all.insert("mcp-protocol-version", v));
        }
        for (name, value) in &self.config.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                all.insert(name, value);
            }
        }
        all
    }

    /// Where messages are posted.
    pub(crate) fn post_path(&self) -> String {
        self.endpoint.get().unwrap_or(&self.path).clone()
    }

    pub(crate) fn session_id(&self) -> Option<String> {
        lock(&self.session).as_ref().and_then(|id| id.to_str().ok()).map(str::to_owned)
    }

    pub(crate) fn last_event_id(&self) -> Option<String> {
        lock(&self.last_event_id).clone()
    }

    pub(crate) fn negotiated(&self, result: &Value) {
        let version = result["protocolVersion"].as_str().and_then(|v| HeaderValue::from_str(v).ok());
        *lock(&self.version) = version;
    }

    pub(crate) fn set_handler(&self, handler: Handler) {
        *lock(&self.handler) = Some(handler);
    }

    /// Ends everything at once.
    pub(crate) fn shut(&self, why: &str) {
        self.end(why);
        self.pool.shut();
    }

    fn end(&self, why: &str) {
        self.book.close(why);
        self.over.cancel();
    }

    fn gone(&self) -> AgentError {
        AgentError::Closed(self.book.closed().unwrap_or_else(|| "no answer will come".into()))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.pool.token.clone();
        self.pool.tracker.spawn(async move {
            token.run_until_cancelled(task).await;
        });
    }
}

fn unanswered() -> AgentError {
    AgentError::Closed("the answer's stream ended without an answer".into())
}

/// The path an `endpoint` event names, against the stream's own path.
fn endpoint(data: &[u8], base: &str) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim();
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
    if text.contains("://") {
        let uri: Uri = text.parse().ok()?;
        return Some(uri.path_and_query()?.to_string());
    }
    let path = base.split('?').next().unwrap_or(base);
    if text.starts_with('?') {
        return Some(format!("{path}{text}"));
    }
    let folder = &path[..=path.rfind('/')?];
    Some(format!("{folder}{text}"))
}
