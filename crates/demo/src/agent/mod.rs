//! The scriptable agent: an MCP client of both legacy transports, light enough to run by the thousand.
//!
//! The subtle thing: an `Agent` is a cheap clone of one conversation. When the last clone is dropped, all its
//! connections close at once, as when an agent's process dies; [`Agent::close`] says goodbye properly.

mod book;
mod call;
mod config;
mod core;
mod http;
mod modern;
mod sse;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use serde_json::{Value, json};

pub use self::call::Started;
pub use self::config::{AgentConfig, AgentError, Ids, Transport};
use self::core::Core;
pub use self::modern::{Answered, Ask, End, MODERN, ModernAgent, ModernStream};
use crate::server::lock;

/// One agent's conversation.
#[derive(Debug, Clone)]
pub struct Agent {
    core: Arc<Core>,
    /// Its drop, with the last clone, ends the agent's tasks.
    _life: Arc<Life>,
}

#[derive(Debug)]
struct Life(Arc<Core>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.shut("the agent was dropped");
    }
}

/// An HTTP answer, unjudged.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; of an event stream only the first piece, if one came within 500 ms.
    pub body: Bytes,
}

impl Agent {
    /// Opens the conversation: on HTTP+SSE the stream up to its `endpoint` event, on Streamable HTTP nothing yet.
    ///
    /// # Errors
    /// When the stream is refused, ends or stays silent.
    pub async fn connect(config: AgentConfig) -> Result<Self, AgentError> {
        let core = Core::new(config)?;
        let agent = Self { _life: Arc::new(Life(Arc::clone(&core))), core };
        if agent.core.config.transport == Transport::Sse {
            agent.core.in_time(agent.core.open_sse()).await?;
        }
        Ok(agent)
    }

    /// [`Self::connect`] and [`Self::initialize`].
    ///
    /// # Errors
    /// When either fails.
    pub async fn ready(config: AgentConfig) -> Result<Self, AgentError> {
        let agent = Self::connect(config).await?;
        agent.initialize().await?;
        Ok(agent)
    }

    /// The whole handshake; gives the `initialize` result. Opens the GET stream when configured.
    ///
    /// # Errors
    /// When any step of it is refused.
    pub async fn initialize(&self) -> Result<Value, AgentError> {
        let result = self.initialize_only().await?;
        self.initialized().await?;
        if self.core.config.listen && self.core.config.transport == Transport::Http {
            self.listen().await?;
        }
        Ok(result)
    }

    /// The `initialize` request alone.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn initialize_only(&self) -> Result<Value, AgentError> {
        let config = &self.core.config;
        let params = json!({
            "protocolVersion": config.revision,
            "capabilities": config.capabilities,
            "clientInfo": { "name": config.name, "version": env!("CARGO_PKG_VERSION") },
        });
        let result = self.request("initialize", params).await?;
        self.core.negotiated(&result);
        Ok(result)
    }

    /// The `notifications/initialized` message alone.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn initialized(&self) -> Result<(), AgentError> {
        self.notify("notifications/initialized", json!({})).await
    }

    /// Opens the GET stream of Streamable HTTP.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn listen(&self) -> Result<(), AgentError> {
        self.core.in_time(self.core.open_get()).await
    }

    /// One request, its result.
    ///
    /// # Errors
    /// As [`AgentError`] says.
    ///
    /// # Cancel safety
    /// Dropped, it leaves no trace at the agent; on Streamable HTTP its connection closes.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, AgentError> {
        let id = self.next_id();
        self.request_as(&id, method, params).await
    }

    /// One request under an id of the caller's choice (raw JSON).
    ///
    /// # Errors
    /// As [`AgentError`] says.
    pub async fn request_as(&self, id: &str, method: &str, params: Value) -> Result<Value, AgentError> {
        let answer = self.core.request(id, method, &params.to_string(), None).await?;
        call::result_of(&answer)
    }

    /// One request of prepared params, its answer as it came: the path for load generators.
    ///
    /// # Errors
    /// All but [`AgentError::Rpc`], which is not looked for.
    pub async fn request_raw(&self, method: &str, params: &str) -> Result<Bytes, AgentError> {
        let id = self.next_id();
        self.core.request(&id, method, params, None).await
    }

    /// One tool call, its result.
    ///
    /// # Errors
    /// As [`AgentError`] says; a result with `isError` is no error here.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<Value, AgentError> {
        self.request("tools/call", json!({ "name": name, "arguments": arguments })).await
    }

    /// One tool call with a progress token; its result and all progress seen for it.
    ///
    /// # Errors
    /// As [`AgentError`] says.
    pub async fn call_with_progress(
        &self,
        name: &str,
        arguments: Value,
    ) -> Result<(Value, Vec<Value>), AgentError> {
        let mut started = self.start_tool(name, arguments)?;
        let result = started.finish().await?;
        let mut seen = Vec::new();
        while let Some(progress) = started.try_progress() {
            seen.push(progress);
        }
        Ok((result, seen))
    }

    /// Starts a tool call (with its id as progress token) in a task of its own.
    ///
    /// # Errors
    /// When the agent is closed.
    pub fn start_tool(&self, name: &str, arguments: Value) -> Result<Started, AgentError> {
        self.start("tools/call", json!({ "name": name, "arguments": arguments }))
    }

    /// Starts any request (with its id as progress token) in a task of its own.
    ///
    /// # Errors
    /// When the agent is closed.
    pub fn start(&self, method: &str, params: Value) -> Result<Started, AgentError> {
        call::start(&self.core, self.next_id(), method, params)
    }

    /// Starts any request under an id of the caller's choice (raw JSON), which is its progress token too.
    ///
    /// # Errors
    /// When the agent is closed.
    pub fn start_as(&self, id: &str, method: &str, params: Value) -> Result<Started, AgentError> {
        call::start(&self.core, id.to_owned(), method, params)
    }

    /// One notification.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn notify(&self, method: &str, params: Value) -> Result<(), AgentError> {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        self.core.in_time(self.core.post_only(body.to_string())).await
    }

    /// Tells the server to stop the request with this id (raw JSON, see [`Started::id`]).
    ///
    /// # Errors
    /// When the notification is refused.
    pub async fn cancel(&self, id: &str) -> Result<(), AgentError> {
        let id: Value = serde_json::from_str(id).unwrap_or_else(|_| Value::from(id));
        self.notify("notifications/cancelled", json!({ "requestId": id })).await
    }

    /// Ends the conversation: DELETE on Streamable HTTP, then every connection closes and every task ends.
    pub async fn close(&self) {
        if self.core.config.transport == Transport::Http && self.session_id().is_some() {
            // the server may be gone, and so may the session
            let _ = self.core.in_time(self.core.delete()).await;
        }
        self.core.shut("the agent was closed");
        self.core.pool.tracker.close();
        self.core.pool.tracker.wait().await;
    }

    /// Numbers the next requests like this.
    pub fn set_ids(&self, ids: Ids) {
        *lock(&self.core.ids) = ids;
    }

    /// Answers requests of the server with this function; `None` from it means silence.
    pub fn on_request(
        &self,
        answer: impl Fn(&str, &Value) -> Option<Result<Value, (i64, String)>> + Send + Sync + 'static,
    ) {
        self.core.set_handler(Arc::new(answer));
    }

    /// Posts these bytes to the message endpoint, with these headers over the usual ones.
    ///
    /// # Errors
    /// Only when no HTTP answer came.
    pub async fn post_bytes(
        &self,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Result<RawAnswer, AgentError> {
        let path = self.core.post_path();
        self.raw(Method::POST, &path, headers, body.into()).await
    }

    /// Gets a path of the server, with these headers over the usual ones.
    ///
    /// # Errors
    /// Only when no HTTP answer came.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<RawAnswer, AgentError> {
        self.raw(Method::GET, path, headers, Bytes::new()).await
    }

    /// Any HTTP request, with these headers over the usual ones; an empty value removes a header.
    ///
    /// # Errors
    /// Only when no HTTP answer came.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<RawAnswer, AgentError> {
        let mut all = self.core.headers(&method);
        for (name, value) in headers {
            let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
            else {
                return Err(AgentError::Closed(format!("not a header: {name}")));
            };
            if value.is_empty() { drop(all.remove(name)) } else { drop(all.insert(name, value)) }
        }
        self.core.in_time(self.core.raw(method, path, all, body)).await
    }

    /// The id the server gave this session, on Streamable HTTP.
    #[must_use]
    pub fn session_id(&self) -> Option<String> {
        self.core.session_id()
    }

    /// The last event id seen on the agent's own stream: what an EventSource sends back as `Last-Event-ID`.
    #[must_use]
    pub fn last_event_id(&self) -> Option<String> {
        self.core.last_event_id()
    }

    /// Why the conversation is over, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.core.book.closed()
    }

    /// Waits until the conversation is over (the HTTP+SSE stream ended, or the agent was closed).
    pub async fn wait_closed(&self) {
        self.core.over.cancelled().await;
    }

    /// Every HTTP status seen, with its count.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        self.core.pool.statuses()
    }

    /// How many HTTP answers were not 2xx.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.statuses().iter().filter(|(s, _)| !(200..300).contains(*s)).map(|(_, n)| n).sum()
    }

    /// Answers and progress for ids nobody waited for: what belonged to another agent, or came twice.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.unknown_answers() + self.unknown_progress()
    }

    /// Answers for ids nobody waited for.
    #[must_use]
    pub fn unknown_answers(&self) -> u64 {
        self.core.book.unknown_answers.load(Relaxed)
    }

    /// Progress for tokens nobody waited for.
    #[must_use]
    pub fn unknown_progress(&self) -> u64 {
        self.core.book.unknown_progress.load(Relaxed)
    }

    /// Events that were no message.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.core.book.garbage.load(Relaxed)
    }

    /// The notifications received and not yet taken (progress excepted); the newest 4,096.
    #[must_use]
    pub fn notifications(&self) -> Vec<(String, Value)> {
        self.core.book.notifications()
    }

    /// Takes the oldest notification of this method, waiting for it.
    ///
    /// # Errors
    /// [`AgentError::Timeout`] when none came in time.
    pub async fn next_notification(&self, method: &str, within: Duration) -> Result<Value, AgentError> {
        let next = self.core.book.next_note(method);
        tokio::time::timeout(within, next).await.map_err(|_| AgentError::Timeout)
    }

    fn next_id(&self) -> String {
        lock(&self.core.ids).next()
    }
}
