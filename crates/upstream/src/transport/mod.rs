//! How one backend session talks over the wire (DESIGN.md 3.8): HTTP+SSE, Streamable HTTP, stdio, or memory.
//!
//! A transport knows one HTTP or pipe shape and nothing of pools, ids, retries or breakers. Connecting gives an
//! [`Outbound`] that many callers use at once through `&self`; [`Outbound::listen`] gives the one stream of what
//! the backend says by itself, which only the session's driver reads.

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
// For the benchmark that guards its linear time.
#[doc(hidden)]
pub use self::sse_reader::{SseError, SseEvent, SseItem, SseReader};
use crate::{
    config::{BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, Times, TransportChoice},
    error::SendError,
};

/// Messages caused by one sent message: on Streamable HTTP the body of its POST, elsewhere nothing.
/// Begins with [`Received::Accepted`] unless sending failed; ends when the backend has no more to say here.
pub type Exchange = Pin<Box<dyn Stream<Item = Result<Received, SendError>> + Send>>;

/// What the backend says by itself. Ends or fails when the session is lost.
pub type Inbound = Pin<Box<dyn Stream<Item = Result<Heard, SendError>> + Send>>;

/// An item of an [`Exchange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// There is a connection for the message, which may be on its way. Only where
    /// [`tells_leaving`](Outbound::tells_leaving).
    Left,
    /// The backend took the message (2xx).
    Accepted,
    /// It said this.
    Message(Bytes),
    /// It is alive: something came that is no message.
    Alive,
    /// A message larger than the limit was skipped.
    TooLarge {
        /// The requests it answered, if it was an answer or an array of them.
        answers: Vec<u64>,
        /// The limit, bytes.
        limit: usize,
    },
    /// It took the message without a body: the answer may come on the session's own stream, which is open or is still
    /// asked for. The exchange ends when it is known that there is none.
    Elsewhere,
    /// It ended its stream before the answer, and is asked for the rest after this time (2025-11-25 polling).
    Paused(Duration),
}

/// An item of an [`Inbound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Bytes),
    /// A sign of life without a message (a comment, a keep-alive).
    Alive,
    /// Bytes of a message that is not complete: nothing else can come before its end.
    Part,
    /// Something that is no message, where only messages belong.
    Noise,
    /// The backend offers no such stream now, for this reason; it is asked again.
    NoStream(String),
    /// A message larger than the limit was skipped.
    TooLarge {
        /// The requests it answered, if it was an answer or an array of them.
        answers: Vec<u64>,
        /// The limit, bytes.
        limit: usize,
    },
}

/// The shape of a connected transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// HTTP+SSE: every answer comes through the one stream.
    Sse,
    /// Streamable HTTP: the answer comes in the body of its own POST.
    Http,
    /// A process: every answer comes over its standard output.
    Stdio,
    /// In memory, for tests: answers come through the one stream.
    Memory,
}

impl TransportKind {
    /// The word in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Http => "http",
            Self::Stdio => "stdio",
            Self::Memory => "memory",
        }
    }
}

/// A way to reach one backend.
pub trait Transport: Send + Sync + 'static {
    /// Connects and sends the `initialize` request; done when its answer is there.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    fn connect(&self, hail: Hail) -> BoxFuture<'static, Result<Opened, SendError>>;

    /// Sessions opened from now on look for the backend anew, where there is something to look for: its name may have
    /// moved to another address while the old one still answers.
    fn renew(&self) {}

    /// Whether a process is to be kept started for the next session, where a session is a process. One that is not
    /// wanted any more ends.
    fn keep_started(&self, wanted: bool) {
        let _ = wanted;
    }
}

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct Hail {
    /// The `initialize` request.
    pub initialize: Bytes,
    /// Headers of agents to be sent with every request of the session, where the transport has headers.
    pub headers: Forwarded,
}

impl From<Bytes> for Hail {
    /// Without headers of agents.
    fn from(initialize: Bytes) -> Self {
        Self { initialize, headers: Arc::default() }
    }
}

/// A session whose `initialize` was answered.
pub struct Opened {
    /// Which shape it turned out to be.
    pub kind: TransportKind,
    /// The era that is spoken: its revisions are the ones that may have been agreed.
    pub era: Era,
    /// Whether the backend keeps a session for us (it gave an id, or a stream is the session).
    pub has_session: bool,
    /// The answer to `initialize`, as it came.
    pub answer: Bytes,
    /// How long the connection took, where that can be told apart from the handshake.
    pub connect_took: Option<Duration>,
    /// The sender.
    pub outbound: Arc<dyn Outbound>,
}

/// The sending half of one session.
pub trait Outbound: Send + Sync + 'static {
    /// Tells the transport which revision was agreed: later messages carry it where that revision says so.
    fn agreed(&self, revision: Revision);

    /// Hands over the stream of what the backend says by itself. Over Streamable HTTP it opens itself when it is read:
    /// a backend need not offer it. Called once, after `notifications/initialized`.
    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>>;

    /// Resolves when that stream is open, or it is known that there is none now.
    fn listening(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Sends one message. Nothing happens before the first poll.
    ///
    /// # Cancel safety
    /// Dropping the exchange abandons the answer; the message may have been sent.
    fn send(&self, message: Bytes) -> Exchange;

    /// Whether the exchange of a request says when that leaves: then nothing was sent before its first item.
    fn tells_leaving(&self) -> bool {
        false
    }

    /// Sends one message that has no answer, a notification or a response: whatever comes with its acknowledgement is
    /// not judged. As [`send`](Self::send) otherwise.
    fn tell(&self, message: Bytes) -> Exchange {
        self.send(message)
    }

    /// Sends one request that is written in the modern era already, with these headers of it. Only for a transport of
    /// that era.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    fn pass(&self, message: Bytes, headers: &Forwarded) -> Exchange {
        let _ = headers;
        self.send(message)
    }

    /// Says good-bye where the transport has a way to (DELETE). Best effort; the caller bounds it in time.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// The transport of a backend.
///
/// # Errors
/// A sentence for the operator when the endpoint cannot be used.
pub fn transport(spec: &BackendSpec) -> Result<Arc<dyn Transport>, String> {
    match &spec.endpoint {
        Endpoint::Http(endpoint) => {
            http_transport(&spec.name, endpoint, spec.transport, &spec.times, &spec.limits)
        }
        Endpoint::Stdio(endpoint) => Ok(Arc::new(stdio::Stdio::new(
            spec.name.clone(),
            endpoint.clone(),
            spec.limits.max_message,
            spec.times.handshake,
        ))),
    }
}

/// The transport of an HTTP backend. One per backend: its connections and what it learned are shared by all sessions.
///
/// # Errors
/// A sentence for the operator when the endpoint cannot be used (scheme, roots to trust).
pub fn http_transport(
    backend: &Arc<str>,
    endpoint: &HttpEndpoint,
    choice: TransportChoice,
    times: &Times,
    limits: &Limits,
) -> Result<Arc<dyn Transport>, String> {
    if !matches!(endpoint.url.scheme(), "http" | "https") || endpoint.url.host().is_none() {
        return Err(format!("not an http or https URL: {}", endpoint.url.scheme()));
    }
    of_http(&Arc::new(http::Http::new(backend, endpoint, times, limits)?), endpoint, choice)
}

fn of_http(
    http: &Arc<http::Http>,
    endpoint: &HttpEndpoint,
    choice: TransportChoice,
) -> Result<Arc<dyn Transport>, String> {
    // A redirect learned by one transport says nothing about the other.
    let target = || Arc::new(http::Target::new(endpoint.url.clone()));
    let streamable = || Arc::new(streamable::Streamable::new(Arc::clone(http), target()));
    let modern = || Arc::new(modern::Modern::new(Arc::clone(http), target()));
    let sse = || Arc::new(sse::Sse::new(Arc::clone(http), target()));
    let both = || vec![auto::Way::new(streamable()), auto::Way::of_other_era(modern())];
    let or_sse = |mut ways: Vec<auto::Way>| {
        ways.push(auto::Way::by_get(sse()));
        Arc::new(auto::Auto::new(ways))
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
        (TransportChoice::Auto, EraChoice::Legacy) => or_sse(vec![auto::Way::new(streamable())]),
        (TransportChoice::Auto, EraChoice::Auto) => or_sse(both()),
    })
}

#[cfg(test)]
mod tests;
