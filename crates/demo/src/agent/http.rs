//! The agent's HTTP: a small pool of keep-alive connections over hyper's client.
//!
//! The subtle thing: a kept connection may be dead already. hyper gives back a request it never wrote, so only
//! such a request is sent again, on a fresh connection; nothing is ever sent twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AgentError;
use crate::server::lock;

/// Largest body read whole.
const BODY: usize = 128 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// Connections to one authority.
#[derive(Debug)]
pub(crate) struct Pool {
    host: String,
    idle: Mutex<Vec<Sender>>,
    permits: Arc<Semaphore>,
    statuses: Mutex<BTreeMap<u16, u64>>,
    pub(crate) token: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

/// An answer whose body is still to be read.
pub(crate) struct Exchange {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    sender: Option<Sender>,
    pool: Arc<Pool>,
    /// Held until the connection is free again.
    permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(crate) fn new(uri: &Uri, connections: usize) -> Result<Self, AgentError> {
        let host = uri.host().ok_or_else(|| AgentError::Closed(format!("no host in {uri}")))?;
        Ok(Self {
            host: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            statuses: Mutex::default(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
        })
    }

    /// Sends one request and waits for the head of its answer. A `long` one (a stream) counts against nothing.
    pub(crate) async fn send(
        self: &Arc<Self>,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Bytes,
        long: bool,
    ) -> Result<Exchange, AgentError> {
        let permit = if long { None } else { Some(self.permit().await?) };
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_str(&self.host).map_err(closed)?);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(closed)?;
        *request.headers_mut() = headers;
        let (sender, response) = self.exchange(request, long).await?;
        let (head, body) = response.into_parts();
        *lock(&self.statuses).entry(head.status.as_u16()).or_default() += 1;
        Ok(Exchange {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            sender: (!long).then_some(sender),
            pool: Arc::clone(self),
            permit,
        })
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        long: bool,
    ) -> Result<(Sender, http::Response<Incoming>), AgentError> {
        while let Some(mut sender) = if long { None } else { self.take() } {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut e) => match e.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(closed(e.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(closed)?;
        Ok((sender, response))
    }

    async fn connect(&self) -> Result<Sender, AgentError> {
        let stream = TcpStream::connect(&self.host).await.map_err(closed)?;
        stream.set_nodelay(true).map_err(closed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(closed)?;
        let token = self.token.clone();
        self.tracker.spawn(async move {
            // its error reaches whoever reads from it
            let _ = token.run_until_cancelled(connection).await;
        });
        Ok(sender)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, AgentError> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(closed)
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = lock(&self.idle);
        loop {
            let sender = idle.pop()?;
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    pub(crate) fn statuses(&self) -> BTreeMap<u16, u64> {
        lock(&self.statuses).clone()
    }

    /// Closes the idle connections.
    pub(crate) fn drop_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Ends every connection and task.
    pub(crate) fn shut(&self) {
        self.token.cancel();
        self.permits.close();
        self.drop_idle();
    }
}

impl Exchange {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn is_event_stream(&self) -> bool {
        let value = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        value.is_some_and(|v| v.trim_start().starts_with("text/event-stream"))
    }

    /// The next piece of the body; `None` at its end, where the connection goes back to the pool.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, AgentError>> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    return Some(Ok(data));
                }
                Some(Err(e)) => {
                    self.sender = None;
                    return Some(Err(closed(e)));
                }
                None => {
                    self.give_back();
                    return None;
                }
            }
        }
    }

    /// Whether the body is known to be over.
    pub(crate) fn is_over(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The whole body.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, AgentError> {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(data) = self.next().await {
            let data = data?;
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
            if rest.len() > BODY {
                return Err(AgentError::Closed("the answer is too large".into()));
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }

    /// The error for an answer that is no success.
    pub(crate) async fn into_error(mut self) -> AgentError {
        let body = self.bytes().await.unwrap_or_default();
        AgentError::Http { status: self.status, body: String::from_utf8_lossy(&body).into_owned() }
    }

    fn give_back(&mut self) {
        if let Some(sender) = self.sender.take()
            && !sender.is_closed()
            && !self.pool.token.is_cancelled()
        {
            lock(&self.pool.idle).push(sender);
        }
        self.permit = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // an exact body is over before its end was asked for
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

fn closed(e: impl std::error::Error) -> AgentError {
    use std::error::Error;
    let cause = Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
    AgentError::Closed(format!("{e}{cause}"))
}
