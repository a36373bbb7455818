//! The HTTP client of a backend, and each session's view of it: connections and cookies.
//!
//! An error must say whether the request can have run. `NotSent` requires that no connection was made, or that the
//! client returned the request unsent; a reused connection that breaks may have carried it. Idle connections are
//! therefore closed before common servers close them (5 s).
//!
//! Sessions opened after [`Http::renew`] use new connections and resolve the name again, so that a backend that moved
//! is followed even while its old address still answers.

use std::{ops::Deref, sync::Arc, task::Poll, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use url::Url;

use super::{
    coding::Body,
    connect::{Connector, NoConnection, Tls, causes, innermost},
    cookies::Cookies,
    dns::DnsResolver,
    leaving::Left,
    notes::{Notes, Oddity},
    reply::Unfollowed,
    target::{MAX_REDIRECTS, Place, follow, is_lasting, is_redirect},
};
pub(super) use super::{
    reply::{Content, Events, Reply},
    target::{Target, is_same_origin},
};
use crate::{
    config::{HttpEndpoint, Limits, Times},
    credential::{Credential, CredentialKey, Presented},
    error::{Cause, SendError, SendPhase},
};

/// Less than the 5 s after which uvicorn and Node close idle connections.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Maximum number of idle connections.
const POOL_CONNECTIONS: usize = 1024;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

type Connections = legacy::Client<Connector, Full<Bytes>>;

/// State shared by all sessions of a backend.
pub(super) struct Http {
    connector: Connector,
    /// Used by the next session.
    connections: ArcSwap<Connections>,
    credential: Arc<dyn Credential>,
    /// `Host` of a plain origin, so that it is not written for every request. TLS may choose HTTP/2, which has none.
    pub(super) host: Option<HeaderValue>,
    /// Replaces all connections in tests.
    #[cfg(feature = "seeded-bugs")]
    answering: Option<super::wire::Answering>,
    pub(super) max_message: usize,
    /// Tolerance for a late sign of life: `probe_timeout`.
    pub(super) patience: Duration,
    /// Timeout of the first event of an HTTP+SSE stream: most of the handshake timeout.
    pub(super) opening: Duration,
    pub(super) notes: Arc<Notes>,
}

/// The client of one session.
pub(super) struct HttpClient {
    http: Arc<Http>,
    connections: Connections,
    /// `None` without sessions: requests are independent.
    cookies: Option<Cookies>,
    /// The credential of the session.
    key: CredentialKey,
}

impl Http {
    /// Creates the client of this endpoint.
    ///
    /// # Errors
    /// One sentence if the CA file is unusable.
    pub(super) fn new(
        backend: &Arc<str>,
        endpoint: &HttpEndpoint,
        credential: Arc<dyn Credential>,
        times: &Times,
        limits: &Limits,
    ) -> Result<Self, String> {
        let dns = DnsResolver::new(endpoint.resolver.clone(), times.connect);
        let tls = Tls::new(endpoint.ca_pem.as_deref(), endpoint.url.scheme() == "https")?;
        let connector = Connector::new(&endpoint.url, dns, tls, times.connect);
        Ok(Self {
            connections: ArcSwap::from_pointee(connections(&connector)),
            connector,
            credential,
            host: host(&endpoint.url),
            #[cfg(feature = "seeded-bugs")]
            answering: None,
            max_message: limits.max_message,
            patience: times.probe_timeout,
            opening: times.handshake.mul_f64(0.8),
            notes: Arc::new(Notes::new(backend.clone())),
        })
    }

    /// Uses a function instead of connections.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn over(mut self, answering: super::wire::Answering) -> Self {
        self.answering = Some(answering);
        self
    }

    /// Makes new sessions use new connections.
    pub(super) fn renew(&self) {
        self.connections.store(Arc::new(connections(&self.connector)));
    }

    /// The client of a new session, with this credential.
    pub(super) fn client(self: &Arc<Self>, key: &CredentialKey) -> Arc<HttpClient> {
        self.client_with(Some(Cookies::default()), key)
    }

    /// A client for requests outside sessions.
    pub(super) fn client_without_cookies(self: &Arc<Self>, key: &CredentialKey) -> Arc<HttpClient> {
        self.client_with(None, key)
    }

    fn client_with(self: &Arc<Self>, cookies: Option<Cookies>, key: &CredentialKey) -> Arc<HttpClient> {
        let connections = Connections::clone(&self.connections.load());
        Arc::new(HttpClient { http: Arc::clone(self), connections, cookies, key: key.clone() })
    }
}

/// `Host` as the client would write it: the usual port is left out.
fn host(url: &Url) -> Option<HeaderValue> {
    let name = url.host_str().filter(|_| url.scheme() == "http")?;
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    HeaderValue::try_from(host).ok()
}

fn connections(connector: &Connector) -> Connections {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_CONNECTIONS)
        .build(connector.clone())
}

impl Deref for HttpClient {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

impl HttpClient {
    /// The credential as the next request presents it.
    pub(super) fn presented(&self) -> Presented {
        self.http.credential.headers(&self.key)
    }

    /// Sends one request. Redirects within the origin are followed, and permanent ones remembered.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Reply, SendError> {
        self.send_telling(method, target, headers, body, &Left::default()).await
    }

    /// As `send`, reporting when the message is sent.
    pub(super) async fn send_telling(
        &self,
        method: Method,
        target: &Target,
        headers: &HeaderMap,
        body: Bytes,
        left: &Left,
    ) -> Result<Reply, SendError> {
        let mut place = target.place();
        let (mut hops, mut lasts) = (0, true);
        loop {
            let reply = self.once(method.clone(), &place, headers, body.clone(), left).await?;
            let status = reply.head.status;
            if !is_redirect(status) {
                if hops > 0 && lasts {
                    target.moved(place);
                }
                return Ok(reply);
            }
            let next = match follow(&method, status, &place.url, reply.header(&header::LOCATION)) {
                Ok(next) if next == *place.url => Err("redirected to itself".to_owned()),
                Ok(_) if hops == MAX_REDIRECTS => Err(format!("redirected more than {MAX_REDIRECTS} times")),
                followed => followed,
            };
            let next = match next {
                Ok(next) => next,
                Err(why) => return Ok(Reply { unfollowed: Some(Unfollowed(why)), ..reply }),
            };
            self.notes.say(
                Oddity::Redirected,
                format_args!(
                    "the backend redirects {method} to {}: that URL in `url` saves the detour",
                    next.path()
                ),
            );
            place = Arc::new(Place::new(next));
            lasts &= is_lasting(&method, status);
            hops += 1;
        }
    }

    async fn once(
        &self,
        method: Method,
        place: &Place,
        headers: &HeaderMap,
        body: Bytes,
        left: &Left,
    ) -> Result<Reply, SendError> {
        let Some(uri) = &place.uri else {
            return Err(SendError::not_sent(Cause::Protocol(
                "its URL cannot be asked for by HTTP".to_owned(),
            )));
        };
        let length = body.len();
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        if let Some(place) = request.headers_mut().get_mut(header::CONTENT_LENGTH) {
            *place = HeaderValue::from(length);
        }
        if let Some(cookies) = &self.cookies {
            cookies.add_to(&place.url, request.headers_mut());
        }
        #[cfg(feature = "seeded-bugs")]
        if let Some(answering) = &self.answering {
            let said = super::wire::said(answering, request).await?;
            let (url, notes) = (Arc::clone(&place.url), Arc::clone(&self.notes));
            return Ok(Reply {
                head: said.0,
                body: said.1,
                url,
                notes,
                unfollowed: None,
                left: left.clone(),
            });
        }
        let connection = left.watch(&mut request);
        let mut sending = self.connections.request(request);
        let sending = std::future::poll_fn(|cx| {
            if let Some(why) = left.exceeded(cx) {
                return Poll::Ready(Err(SendError::maybe_sent(Cause::Protocol(why))));
            }
            let polled = sending.poll_unpin(cx).map_err(|error| send_error(&error));
            left.look(&connection);
            polled
        });
        let (head, body) = sending.await?.into_parts();
        if self.cookies.as_ref().is_some_and(|cookies| cookies.learn(&place.url, &head.headers)) {
            self.notes.say(
                Oddity::Cookies,
                format_args!(
                    "the backend sets cookies: each of its sessions keeps its own and sends them back"
                ),
            );
        }
        let body = Body::new(body, &head.headers);
        if !body.is_plain() {
            self.notes.say(
                Oddity::Coded,
                format_args!(
                    "the backend compresses its answers although `Accept-Encoding: identity` was sent"
                ),
            );
        }
        let (url, notes) = (Arc::clone(&place.url), Arc::clone(&self.notes));
        Ok(Reply { head, body, url, notes, unfollowed: None, left: left.clone() })
    }
}

/// The error of a request, and whether it can have run. A request returned by the pool was never written.
fn send_error(error: &legacy::Error) -> SendError {
    let why = innermost(error);
    if error.is_connect() {
        let known = causes(error).find_map(|error| error.downcast_ref::<NoConnection>());
        return SendError::not_sent(match known {
            Some(NoConnection::Late) => Cause::Timeout("connect"),
            Some(NoConnection::Tcp(why)) => Cause::Connect(why.clone()),
            Some(NoConnection::Tls(why)) => Cause::Tls(why.clone()),
            Some(NoConnection::Descriptors) => Cause::Descriptors,
            None => Cause::Connect(why),
        });
    }
    let unsent =
        causes(error).filter_map(|error| error.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled);
    let phase = if unsent { SendPhase::NotSent } else { SendPhase::MaybeSent };
    SendError { phase, cause: Cause::Broken(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_that_of_the_url_and_left_to_the_client_under_tls() {
        for (url, expected) in [
            ("http://search:9000/mcp", Some("search:9000")),
            ("http://search:80/mcp", Some("search")),
            ("http://[::1]:9000/", Some("[::1]:9000")),
            ("http://user:secret@search/mcp", Some("search")),
            ("https://search:9000/mcp", None),
        ] {
            let host = host(&url.parse().unwrap());
            assert_eq!(host.as_ref().map(|host| host.to_str().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_plain_request_names_no_address_and_keeps_its_path() {
        let uri = |url: &str| Place::new(url.parse().unwrap()).uri.unwrap().to_string();
        assert_eq!(uri("http://search:9000/a/mcp?x=1"), "http://b/a/mcp?x=1");
        assert_eq!(uri("https://search:9000/a/mcp"), "https://search:9000/a/mcp");
    }
}
