//! An agent of the era without handshake (2026-07-28): every request says all there is to know of its sender.
//!
//! The subtle thing: it has no conversation, only connections. What ends with a connection is the one request on it, so
//! a dropped [`ModernStream`] is a cancelled request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use bytes::Bytes;
use serde_json::{Value, json};

use super::config::{AgentConfig, AgentError};
use super::http::{Exchange, Pool};
use super::sse::SseReader;

/// The revision it speaks.
pub const MODERN: &str = "2026-07-28";

/// One agent; clones share its connections.
#[derive(Debug, Clone)]
pub struct ModernAgent {
    config: Arc<AgentConfig>,
    pool: Arc<Pool>,
    path: Arc<str>,
    ids: Arc<AtomicU64>,
    /// Its drop, with the last clone, ends the connections.
    _life: Arc<Life>,
}

#[derive(Debug)]
struct Life(Arc<Pool>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// One request, as far as it differs from any other.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Its id; the next number by default.
    pub id: Option<Value>,
    /// What is called.
    pub method: String,
    /// Its parameters, without `_meta`.
    pub params: Value,
    /// Wanted under this token.
    pub progress: Option<Value>,
    /// The least severe log message that is wanted.
    pub log_level: Option<String>,
    /// Answers to what an earlier answer asked, by their keys.
    pub answers: BTreeMap<String, Value>,
    /// The `requestState` of that answer.
    pub state: Option<Value>,
    /// What is said in headers besides (`Mcp-Param-*`).
    pub headers: Vec<(String, String)>,
}

/// How a request ended, and what was said before.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// Notifications, in their order.
    pub notes: Vec<Value>,
    /// The answer.
    pub end: End,
}

/// An answer that is no error.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The result.
    Complete(Value),
    /// A result that does not say what it is. No server of this era may give one, but it is to be taken for complete.
    Untyped(Value),
    /// The agent is asked for something first.
    InputRequired {
        /// What is asked, by key: method and params.
        requests: BTreeMap<String, Value>,
        /// To be sent along.
        state: Option<Value>,
    },
}

/// The answer to one request as it comes. Dropped before its end, its connection closes.
pub struct ModernStream {
    exchange: Exchange,
    reader: SseReader,
    timeout: Duration,
    /// Whether the body is one message instead of events.
    is_whole: bool,
    id: Value,
}

impl Ask {
    /// A call of a tool.
    #[must_use]
    pub fn tool(name: &str, arguments: Value) -> Self {
        Self::of("tools/call", json!({ "name": name, "arguments": arguments }))
    }

    /// Any other request.
    #[must_use]
    pub fn of(method: &str, params: Value) -> Self {
        Self { method: method.to_owned(), params, ..Self::default() }
    }

    /// The same with answers to what was asked.
    #[must_use]
    pub fn again(&self, answers: BTreeMap<String, Value>, state: Option<Value>) -> Self {
        Self { id: None, answers, state, ..self.clone() }
    }
}

impl ModernAgent {
    /// An agent; nothing is connected yet. Wire, revision and GET stream of the configuration mean nothing here.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: AgentConfig) -> Result<Self, AgentError> {
        let uri: Uri = config.url.parse().map_err(|e| AgentError::Closed(format!("{e}")))?;
        let pool = Arc::new(Pool::new(&uri, config.connections)?);
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).into();
        let life = Arc::new(Life(Arc::clone(&pool)));
        Ok(Self { config: Arc::new(config), pool, path, ids: Arc::new(AtomicU64::new(0)), _life: life })
    }

    /// `server/discover`.
    ///
    /// # Errors
    /// As [`AgentError`] says.
    pub async fn discover(&self) -> Result<Value, AgentError> {
        self.complete(&Ask::of("server/discover", json!({}))).await
    }

    /// A call of a tool that asks for nothing.
    ///
    /// # Errors
    /// As [`AgentError`] says.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<Value, AgentError> {
        self.complete(&Ask::tool(name, arguments)).await
    }

    /// A request that is answered with a result.
    ///
    /// # Errors
    /// As [`AgentError`] says; also when the agent is asked for something.
    pub async fn complete(&self, ask: &Ask) -> Result<Value, AgentError> {
        match self.ask(ask).await?.end {
            End::Complete(result) => Ok(result),
            End::Untyped(_) => Err(AgentError::Closed("a result without a type".into())),
            End::InputRequired { .. } => Err(AgentError::Closed("input is required".into())),
        }
    }

    /// One request to its answer.
    ///
    /// # Errors
    /// As [`AgentError`] says.
    ///
    /// # Cancel safety
    /// Dropped, its connection closes.
    pub async fn ask(&self, ask: &Ask) -> Result<Answered, AgentError> {
        let mut stream = self.open(ask).await?;
        let mut notes = Vec::new();
        while let Some(message) = stream.next().await? {
            if message.get("method").is_some() {
                notes.push(message);
                continue;
            }
            return Ok(Answered { status: stream.exchange.status, notes, end: end_of(message)? });
        }
        Err(AgentError::Closed("the stream ended without an answer".into()))
    }

    /// Sends a request and gives back its answer as it comes.
    ///
    /// # Errors
    /// As [`AgentError`] says; an HTTP error whose body is a JSON-RPC error of this request is a stream of that error.
    pub async fn open(&self, ask: &Ask) -> Result<ModernStream, AgentError> {
        let id = ask.id.clone().unwrap_or_else(|| self.ids.fetch_add(1, Relaxed).into());
        let body = Bytes::from(self.body(&id, ask).to_string());
        let headers = self.headers(ask)?;
        let sending = self.pool.send(Method::POST, &self.path, headers, body, false);
        let exchange = tokio::time::timeout(self.config.timeout, sending).await;
        let exchange = exchange.map_err(|_| AgentError::Timeout)??;
        let is_whole = !exchange.is_event_stream();
        let timeout = self.config.timeout;
        Ok(ModernStream { exchange, reader: SseReader::default(), timeout, is_whole, id })
    }

    /// Requests by status.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        self.pool.statuses()
    }

    fn body(&self, id: &Value, ask: &Ask) -> Value {
        let mut params = ask.params.clone();
        let mut meta = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": self.config.capabilities,
            "io.modelcontextprotocol/clientInfo": {
                "name": self.config.name, "version": env!("CARGO_PKG_VERSION"),
            },
        });
        if let Some(token) = &ask.progress {
            meta["progressToken"] = token.clone();
        }
        if let Some(level) = &ask.log_level {
            meta["io.modelcontextprotocol/logLevel"] = level.as_str().into();
        }
        params["_meta"] = meta;
        if !ask.answers.is_empty() {
            params["inputResponses"] = json!(ask.answers);
        }
        if let Some(state) = &ask.state {
            params["requestState"] = state.clone();
        }
        json!({ "jsonrpc": "2.0", "id": id, "method": ask.method, "params": params })
    }

    fn headers(&self, ask: &Ask) -> Result<HeaderMap, AgentError> {
        let mut headers = HeaderMap::new();
        let own = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", MODERN),
            ("mcp-method", &ask.method),
        ];
        let more = self.config.headers.iter().chain(&ask.headers);
        let more = more.map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in own.into_iter().chain(name_of(ask).map(|name| ("mcp-name", name))).chain(more) {
            let key: HeaderName = key.parse().map_err(odd)?;
            headers.insert(key, HeaderValue::from_str(value).map_err(odd)?);
        }
        Ok(headers)
    }
}

impl ModernStream {
    /// The id of its request.
    #[must_use]
    pub fn id(&self) -> &Value {
        &self.id
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.exchange.status
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, says something that is no message, or stays silent for longer than the agent's
    /// timeout (comments are no silence).
    pub async fn next(&mut self) -> Result<Option<Value>, AgentError> {
        if self.is_whole {
            let body = tokio::time::timeout(self.timeout, self.exchange.bytes()).await;
            let body = body.map_err(|_| AgentError::Timeout)??;
            if body.is_empty() {
                return Ok(None);
            }
            let whole = serde_json::from_slice(&body);
            let (status, text) = (self.exchange.status, String::from_utf8_lossy(&body).into_owned());
            return whole.map(Some).map_err(|_| AgentError::Http { status, body: text });
        }
        loop {
            if let Some(event) = self.reader.next() {
                return serde_json::from_slice(&event.data).map(Some).map_err(odd);
            }
            match tokio::time::timeout(self.timeout, self.exchange.next()).await {
                Err(_) => return Err(AgentError::Timeout),
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    if !self.reader.push(&chunk?) {
                        return Err(AgentError::Closed("an event is too large".into()));
                    }
                }
            }
        }
    }
}

fn name_of(ask: &Ask) -> Option<&str> {
    match ask.method.as_str() {
        "tools/call" | "prompts/get" => ask.params.get("name")?.as_str(),
        "resources/read" => ask.params.get("uri")?.as_str(),
        _ => None,
    }
}

fn end_of(mut message: Value) -> Result<End, AgentError> {
    if let Some(error) = message.get("error") {
        return Err(AgentError::Rpc {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            data: error["data"].clone(),
        });
    }
    let mut result = message["result"].take();
    match result["resultType"].as_str() {
        Some("complete") => Ok(End::Complete(result)),
        Some("input_required") => {
            let requests = result["inputRequests"].as_object().cloned().unwrap_or_default();
            let state = result.get_mut("requestState").map(Value::take);
            Ok(End::InputRequired { requests: requests.into_iter().collect(), state })
        }
        None if result.get("resultType").is_none() => Ok(End::Untyped(result)),
        other => Err(AgentError::Closed(format!("a result of an unknown type: {other:?}"))),
    }
}

fn odd(e: impl std::fmt::Display) -> AgentError {
    AgentError::Closed(e.to_string())
}
