//! The one HTTP client of a backend, and the fence around reqwest: no type of it leaves this file.
//!
//! Calls are POSTs, and to a plain `http` backend they take a shorter way, hyper-util's client: in front of a fast
//! backend reqwest costs as much as the rest of the gateway together (`cargo xtask bench`). Everything else,
//! streams and TLS above all, is reqwest's.
//!
//! The subtle thing is what an error says about execution. Only a connection that never came up, or a request the
//! client hands back unsent, is `NotSent`; a pooled connection that breaks under a request may have carried it.
//! Idle connections are therefore given up before common servers (5 s) would close them under us.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, response};
use http_body_util::{BodyExt as _, Either, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use mcpool_wire::Revision;
use url::Url;

use super::{
    classify::{Asked, Refused, classify},
    names::Names,
    sse_reader::SseReader,
};
use crate::{
    config::{HttpEndpoint, Limits, Times},
    error::{Cause, Refusal, SendError, SendPhase},
};

/// Below the 5 s after which uvicorn and Node close a silent connection.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Connections kept for the next burst of calls.
const POOL_CONNECTIONS: usize = 1024;
/// What is read of a body nobody wants, so that its connection can be used again.
const DRAIN_BYTES: usize = 64 * 1024;
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(2);

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("mcpool/", env!("CARGO_PKG_VERSION")));

type Plain = legacy::Client<HttpConnector<Names>, Full<Bytes>>;

/// The client of one backend: its connections, and what every request carries.
pub(super) struct Http {
    client: reqwest::Client,
    /// The short way of POSTs; only where there is no TLS to speak.
    plain: Option<Plain>,
    configured: Vec<(HeaderName, HeaderValue)>,
    pub(super) max_message: usize,
    /// What a sign of life may be late: `probe_timeout`.
    pub(super) patience: Duration,
}

/// Where requests go: a URL, and where a redirect within its origin led.
pub(super) struct Target(ArcSwap<Place>);

/// A URL in the forms both clients want, parsed once.
struct Place {
    url: Arc<Url>,
    uri: Option<Uri>,
}

/// The headers of one session, built once.
pub(super) struct Headers {
    pub(super) post: HeaderMap,
    pub(super) get: HeaderMap,
}

/// An answer whose body is still to come.
pub(super) struct Reply {
    head: response::Parts,
    body: Either<reqwest::Body, hyper::body::Incoming>,
}

/// What a body is, by its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    Events,
    Other,
}

/// The events of a body.
pub(super) type Events = SseReader<BoxStream<'static, Result<Bytes, SendError>>>;

impl Http {
    /// The client for this endpoint.
    ///
    /// # Errors
    /// A sentence when the roots to trust or the headers cannot be used.
    pub(super) fn new(endpoint: &HttpEndpoint, times: &Times, limits: &Limits) -> Result<Self, String> {
        let names = Names::new(endpoint.resolver.clone(), times.connect);
        let mut builder = reqwest::Client::builder()
            .connect_timeout(times.connect)
            .dns_resolver(names.clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(POOL_CONNECTIONS)
            .pool_idle_timeout(POOL_IDLE);
        if endpoint.url.scheme() == "http" {
            // Never leaves its origin, so it needs no roots: loading those of the system costs start-up and memory.
            builder = builder.tls_certs_only([]);
        } else if let Some(pem) = &endpoint.ca_pem {
            let roots = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| format!("tls.ca_file is no PEM bundle: {}", reason(&error)))?;
            if roots.is_empty() {
                return Err("tls.ca_file holds no certificate".to_owned());
            }
            builder = builder.tls_certs_merge(roots);
        }
        let client = builder.build().map_err(|error| format!("no HTTP client: {}", reason(&error)))?;
        let plain = (endpoint.url.scheme() == "http").then(|| plain_client(names, times));
        let configured = endpoint.headers.clone();
        Ok(Self { client, plain, configured, max_message: limits.max_message, patience: times.probe_timeout })
    }

    /// What the requests of a session carry.
    pub(super) fn headers(
        &self,
        forwarded: &[(HeaderName, HeaderValue)],
        session: Option<&HeaderValue>,
        revision: Option<Revision>,
    ) -> Headers {
        let mut common = HeaderMap::new();
        common.insert(header::USER_AGENT, AGENT);
        for (name, value) in forwarded.iter().chain(&self.configured) {
            common.append(name, value.clone());
        }
        if let Some(id) = session {
            common.insert(SESSION_ID, id.clone());
        }
        if let Some(revision) = revision.filter(|revision| revision.has_version_header()) {
            common.insert(VERSION, HeaderValue::from_static(revision.as_str()));
        }
        let mut get = common.clone();
        get.insert(header::ACCEPT, EVENTS);
        get.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let mut post = common;
        post.insert(header::ACCEPT, BOTH);
        post.insert(header::CONTENT_TYPE, JSON);
        Headers { post, get }
    }

    /// Sends one request; a redirect within the origin is followed once and remembered.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Reply, SendError> {
        let place = target.0.load_full();
        let reply = self.once(method.clone(), &place, headers, body.clone()).await?;
        if !matches!(reply.head.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
            return Ok(reply);
        }
        let Some(next) = reply.header(&header::LOCATION).and_then(|to| within_origin(&place.url, to)) else {
            let message = "redirect to another origin refused".to_owned();
            return Err(SendError::refused(Cause::Status(reply.refused(message))));
        };
        let next = Arc::new(Place::new(next));
        drop(reply);
        let reply = self.once(method, &next, headers, body).await?;
        if !reply.head.status.is_redirection() {
            target.0.store(next);
        }
        Ok(reply)
    }

    async fn once(
        &self,
        method: Method,
        place: &Place,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Reply, SendError> {
        if let (Some(plain), Some(uri), true) = (&self.plain, &place.uri, method == Method::POST) {
            let mut request = http::Request::new(Full::new(body));
            *request.method_mut() = method;
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            let (head, body) =
                plain.request(request).await.map_err(|error| plain_error(&error))?.into_parts();
            return Ok(Reply { head, body: Either::Right(body) });
        }
        let mut request = reqwest::Request::new(method, place.url.as_ref().clone());
        *request.headers_mut() = headers.clone();
        if !body.is_empty() {
            *request.body_mut() = Some(body.into());
        }
        let reply = self.client.execute(request).await.map_err(|error| send_error(&error))?;
        let (head, body) = http::Response::from(reply).into_parts();
        Ok(Reply { head, body: Either::Left(body) })
    }
}

fn plain_client(names: Names, times: &Times) -> Plain {
    let mut connector = HttpConnector::new_with_resolver(names);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(times.connect));
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_CONNECTIONS)
        .build(connector)
}

impl Place {
    fn new(url: Url) -> Self {
        // A URL that is no URI (it cannot be, but two parsers are two parsers) goes the long way.
        Self { uri: url.as_str().parse().ok(), url: Arc::new(url) }
    }
}

impl Target {
    pub(super) fn new(url: Url) -> Self {
        Self(ArcSwap::from_pointee(Place::new(url)))
    }

    pub(super) fn url(&self) -> Arc<Url> {
        Arc::clone(&self.0.load().url)
    }
}

/// Whether two URLs are of one scheme, host and port.
pub(super) fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// Where a `Location` leads, if that is our own origin. A server behind a TLS proxy names its own, plain scheme;
/// as only path and query are taken from it, we never leave the origin that was configured.
fn within_origin(from: &Url, location: &HeaderValue) -> Option<Url> {
    let to = from.join(location.to_str().ok()?).ok()?;
    if to.host() != from.host() || to.port() != from.port() {
        return None;
    }
    let mut next = from.clone();
    next.set_path(to.path());
    next.set_query(to.query());
    Some(next)
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        self.head.status.is_success()
    }

    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.head.headers.get(name)
    }

    pub(super) fn content(&self) -> Content {
        let value = self.header(&header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Content::Json
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            Content::Events
        } else {
            Content::Other
        }
    }

    /// A refusal of this answer in our own words.
    pub(super) fn refused(&self, message: String) -> Refusal {
        Refusal { status: self.status(), message, code: None, retry_after: self.retry_after() }
    }

    /// The whole body. One that came in one piece is not copied.
    pub(super) async fn body(mut self, cap: usize) -> Result<Bytes, SendError> {
        if self.announced().is_some_and(|length| length > cap as u64) {
            return Err(SendError::maybe_sent(Cause::TooLarge(cap)));
        }
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(first.len() + second.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while whole.len() <= cap {
            let Some(chunk) = self.chunk().await? else { return Ok(whole.freeze()) };
            whole.extend_from_slice(&chunk);
        }
        Err(SendError::maybe_sent(Cause::TooLarge(cap)))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        next_chunk(&mut self.body).await.transpose()
    }

    fn announced(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    pub(super) fn events(self, cap: usize) -> Events {
        let chunks =
            futures::stream::unfold(self.body, async |mut body| Some((next_chunk(&mut body).await?, body)));
        SseReader::new(chunks.boxed(), cap)
    }

    /// Reads a body nobody wants to its end, so that the connection can be used again. Bounded in size and time.
    pub(super) async fn drain(self) {
        self.beginning().await;
    }

    /// What a refusal means, and its body.
    pub(super) async fn refusal(self, asked: Asked) -> (SendError, Bytes) {
        let (status, retry_after) = (self.status(), self.retry_after());
        let body = self.beginning().await;
        (classify(asked, &Refused { status, body: &body, retry_after }), body)
    }

    /// The beginning of a body, as far as it comes in time.
    pub(super) async fn beginning(mut self) -> Bytes {
        let mut read = BytesMut::new();
        let all = async {
            while read.len() < DRAIN_BYTES {
                let Ok(Some(chunk)) = self.chunk().await else { break };
                read.extend_from_slice(&chunk);
            }
        };
        // What came in time is enough for a message.
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
        read.freeze()
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header(&header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

/// Why a request got no answer, and whether it can have run.
fn send_error(error: &reqwest::Error) -> SendError {
    let why = reason(error);
    if !error.is_connect() {
        // The client gives a request back with these words only while no byte of it was written.
        let unsent =
            error.is_builder() || causes(error).any(|e| e.to_string().starts_with("operation was canceled"));
        let phase = if unsent { SendPhase::NotSent } else { SendPhase::MaybeSent };
        return SendError { phase, cause: Cause::Broken(why) };
    }
    SendError::not_sent(if error.is_timeout() {
        Cause::Timeout("connect")
    } else if !error.is_dns() && is_tls(error) {
        Cause::Tls(why)
    } else {
        Cause::Connect(why)
    })
}

/// The next piece of a body; trailers are passed over.
async fn next_chunk(
    body: &mut Either<reqwest::Body, hyper::body::Incoming>,
) -> Option<Result<Bytes, SendError>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                Err(_) => continue,
            },
            Err(error) => return Some(Err(SendError::maybe_sent(Cause::Broken(innermost(error.as_ref()))))),
        }
    }
}

/// The same for the short way. A request handed back by the pool was never written.
fn plain_error(error: &legacy::Error) -> SendError {
    let why = innermost(error);
    if error.is_connect() {
        let timeout = causes(error).any(|e| {
            e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut)
        });
        return SendError::not_sent(if timeout { Cause::Timeout("connect") } else { Cause::Connect(why) });
    }
    let unsent =
        causes(error).filter_map(|e| e.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled);
    let phase = if unsent { SendPhase::NotSent } else { SendPhase::MaybeSent };
    SendError { phase, cause: Cause::Broken(why) }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&e| e.source())
}

/// rustls reports a handshake it refuses as invalid data, and one the peer broke off as an early end. Its error may
/// be wrapped in another of the same type, which a chain of sources steps over.
fn is_tls(error: &reqwest::Error) -> bool {
    fn says_tls(error: &std::io::Error) -> bool {
        matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
            || error.get_ref().and_then(|e| e.downcast_ref()).is_some_and(says_tls)
    }
    causes(error).filter_map(|e| e.downcast_ref()).any(says_tls)
}

/// The innermost reason: the outer ones repeat the URL.
fn reason(error: &reqwest::Error) -> String {
    innermost(error)
}
