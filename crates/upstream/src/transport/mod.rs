//! Transports of a backend session (DESIGN.md 3.8): HTTP+SSE, Streamable HTTP, stdio, or memory.
//!
//! A transport knows one HTTP or pipe shape, and nothing of pools, ids, retries or breakers. Connecting returns an
//! [`Outbound`] that many callers use at once through `&self`. [`Outbound::listen`] returns the stream of the backend's
//! own messages, which only the session's driver reads.

mod acknowledge;
mod answered;
mod auto;
pub(crate) mod classify;
mod coding;
mod connect;
mod cookies;
mod dates;
pub mod dns;
mod early;
mod get_stream;
mod headers;
mod http;
mod interim;
mod keepalive;
mod leaving;
#[doc(hidden)]
pub mod memory;
mod modern;
mod notes;
pub(crate) mod parts;
mod reply;
mod resume;
mod sse;
mod sse_reader;
pub(crate) mod stdio;
mod streamable;
mod target;
#[cfg(feature = "seeded-bugs")]
#[doc(hidden)]
pub mod wire;

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};
use mcpool_wire::{Era, Forwarded, Revision};

pub(crate) use self::classify::says_before_initialized;
pub(crate) use self::stdio::FAREWELL;
pub use self::stdio::supervised;
pub use crate::kinds::TransportKind;
// Public for the benchmark of its linear time.
#[doc(hidden)]
pub use self::sse_reader::{SseError, SseEvent, SseItem, SseReader};
use crate::{
    config::{BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, Times, TransportChoice},
    credential::{Credential, CredentialKey},
    error::SendError,
};

/// Exclusive upper bound of call ids: some servers store them in 32 bits, signed or with flag bits. Ids above, up to
/// 2^30, belong to the modern transport's own requests.
pub(crate) const IDS: u64 = 1 << 29;

/// The items caused by one sent message: on Streamable HTTP the body of its POST, elsewhere none. Begins with
/// [`Received::Accepted`] unless sending failed; ends when the backend sends no more here.
pub type Exchange = Pin<Box<dyn Stream<Item = Result<Received, SendError>> + Send>>;

/// The stream of the backend's own messages. Ends or fails when the session is lost.
pub type Inbound = Pin<Box<dyn Stream<Item = Result<Heard, SendError>> + Send>>;

/// An item of an [`Exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A connection is ready and the message may be sent now. Only with [`tells_leaving`](Outbound::tells_leaving).
    Left,
    /// The backend accepted the message (2xx).
    Accepted,
    /// A message.
    Message(Bytes),
    /// A sign of life without a message.
    Alive,
    /// A message larger than the limit was skipped.
    TooLarge {
        /// The requests it answered, if it was a response or an array of them.
        answers: Vec<u64>,
        /// The limit in bytes.
        limit: usize,
    },
    /// Accepted without a body: the response may come on the session's own stream, which is open or being opened. The
    /// exchange ends when there is no such stream.
    Elsewhere,
    /// The backend ended its stream before the response; it is polled for the rest after this time (2025-11-25).
    Paused(Duration),
}

/// An item of an [`Inbound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Bytes),
    /// A sign of life without a message (a comment, a keep-alive).
    Alive,
    /// Part of an incomplete message: nothing else can come before its end.
    Part,
    /// Something that is not a message.
    Noise,
    /// The backend offers no such stream now, for this reason; it is tried again.
    NoStream(String),
    /// A message larger than the limit was skipped.
    TooLarge {
        /// The requests it answered, if it was a response or an array of them.
        answers: Vec<u64>,
        /// The limit in bytes.
        limit: usize,
    },
}

/// A transport to one backend.
pub trait Transport: Send + Sync + 'static {
    /// Connects and sends `initialize`; returns with its response.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>>;

    /// Makes new sessions resolve the backend's name again: it may have moved while the old address still answers.
    fn renew(&self) {}

    /// Keeps a process started for the next session, if a session is a process, or ends one no longer wanted.
    fn keep_started(&self, wanted: bool) {
        let _ = wanted;
    }
}

/// The request to connect a session.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The `initialize` request.
    pub initialize: Bytes,
    /// Agent headers for every request of the session, if the transport has headers.
    pub headers: Forwarded,
    /// The credential of the session, if the transport has headers.
    pub credential: CredentialKey,
}

impl From<Bytes> for ConnectRequest {
    /// Without agent headers.
    fn from(initialize: Bytes) -> Self {
        Self { initialize, headers: Arc::default(), credential: CredentialKey::default() }
    }
}

/// A session with an answered `initialize`.
pub struct Opened {
    /// The transport in use.
    pub kind: TransportKind,
    /// The era in use, which limits the possible revisions.
    pub era: Era,
    /// True if the backend has a session for us: it sent an id, or the stream is the session.
    pub has_session: bool,
    /// The response to `initialize`, as received.
    pub answer: Bytes,
    /// The duration of connecting, if separable from the handshake.
    pub connect_took: Option<Duration>,
    /// The sender.
    pub outbound: Arc<dyn Outbound>,
}

/// The sending half of one session.
pub trait Outbound: Send + Sync + 'static {
    /// Sets the negotiated revision, which later messages carry if that revision requires it.
    fn agreed(&self, revision: Revision);

    /// Returns the stream of the backend's own messages. On Streamable HTTP it opens when read, and the backend need
    /// not offer it. Called once, after `notifications/initialized`.
    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>>;

    /// Resolves when that stream is open, or known to be unavailable now.
    fn listening(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Sends one message. Nothing happens before the first poll.
    ///
    /// # Cancel safety
    /// Dropping the exchange abandons the response; the message may have been sent.
    fn send(&self, message: Bytes) -> Exchange;

    /// True if the exchange of a request reports when it is sent; nothing was sent before its first item.
    fn tells_leaving(&self) -> bool {
        false
    }

    /// Sends a notification or response. The content of its acknowledgement is ignored. Otherwise as
    /// [`send`](Self::send).
    fn tell(&self, message: Bytes) -> Exchange {
        self.send(message)
    }

    /// Sends a request already written in the modern era, with its headers. Only for a transport of that era.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    fn pass(&self, message: Bytes, headers: &Forwarded) -> Exchange {
        let _ = headers;
        self.send(message)
    }

    /// Ends the session at the backend if the transport can (DELETE). Best effort; the caller sets a timeout.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Creates the transport of a backend.
///
/// # Errors
/// One sentence for the operator if the endpoint is unusable.
pub fn transport(spec: &BackendSpec, credential: &Arc<dyn Credential>) -> Result<Arc<dyn Transport>, String> {
    match &spec.endpoint {
        Endpoint::Http(endpoint) => {
            http_transport(&spec.name, endpoint, credential, spec.transport, &spec.times, &spec.limits)
        }
        Endpoint::Stdio(endpoint) => Ok(Arc::new(stdio::Stdio::new(
            spec.name.clone(),
            endpoint.clone(),
            spec.limits.max_message,
            spec.times.handshake,
        ))),
    }
}

/// Creates the transport of an HTTP backend. There is one per backend: all sessions share its connections and what it
/// learned.
///
/// # Errors
/// One sentence for the operator if the endpoint is unusable (scheme, CA file).
pub fn http_transport(
    backend: &Arc<str>,
    endpoint: &HttpEndpoint,
    credential: &Arc<dyn Credential>,
    choice: TransportChoice,
    times: &Times,
    limits: &Limits,
) -> Result<Arc<dyn Transport>, String> {
    if !matches!(endpoint.url.scheme(), "http" | "https") || endpoint.url.host().is_none() {
        return Err(format!("not an http or https URL: {}", endpoint.url.scheme()));
    }
    of_http(
        &Arc::new(http::Http::new(backend, endpoint, Arc::clone(credential), times, limits)?),
        endpoint,
        choice,
    )
}

fn of_http(
    http: &Arc<http::Http>,
    endpoint: &HttpEndpoint,
    choice: TransportChoice,
) -> Result<Arc<dyn Transport>, String> {
    // Redirects are per transport.
    let target = || Arc::new(http::Target::new(endpoint.url.clone()));
    let streamable = || Arc::new(streamable::Streamable::new(Arc::clone(http), target()));
    let modern = || Arc::new(modern::Modern::new(Arc::clone(http), target()));
    let sse = || Arc::new(sse::Sse::new(Arc::clone(http), target()));
    let both = || vec![auto::Candidate::new(streamable()), auto::Candidate::of_other_era(modern())];
    let or_sse = |mut candidates: Vec<auto::Candidate>| {
        candidates.push(auto::Candidate::by_get(sse()));
        Arc::new(auto::Auto::new(candidates))
    };
    Ok(match (choice, endpoint.era) {
        (TransportChoice::Stdio, _) => return Err("a URL cannot be spoken to over stdio".to_owned()),
        (TransportChoice::Sse, EraChoice::Modern) => {
            return Err("HTTP+SSE is spoken in the legacy era only".to_owned());
        }
        (TransportChoice::Sse, EraChoice::Auto | EraChoice::Legacy) => sse(),
        (TransportChoice::Auto | TransportChoice::Http, EraChoice::Modern) => modern(),
        (TransportChoice::Http, EraChoice::Legacy) => streamable(),
        (TransportChoice::Http, EraChoice::Auto) => Arc::new(auto::Auto::new(both())),
        (TransportChoice::Auto, EraChoice::Legacy) => or_sse(vec![auto::Candidate::new(streamable())]),
        (TransportChoice::Auto, EraChoice::Auto) => or_sse(both()),
    })
}

#[cfg(test)]
mod tests;
