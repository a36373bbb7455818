//! Streamable HTTP of the legacy revisions (PROTOCOL.md 3): every message is a POST, its answer comes in the body.
//!
//! An exchange is one boxed state machine and no task: it moves when its caller polls it. A stream of events that
//! ends before the answer is resumed where it carried event ids; that re-attaches to the running call and executes
//! nothing again. The session id is taken from the answer to `initialize` alone: servers stamp dead ids on errors.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream};
use http::{HeaderValue, Method};
use mcpool_wire::{Era, Forwarded, Revision, is_response};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    Exchange, Hail, Inbound, Opened, Outbound, Received, Transport, TransportKind,
    acknowledge::acknowledgement,
    answered::{answers_in, messages_of_other_type},
    classify::Asked,
    early::{First, answer_among, first_answer},
    get_stream::Listening,
    http::{Content, Events, Headers, Http, HttpClient, LAST_EVENT_ID, Reply, SESSION_ID, Target},
    leaving::{Left, leaving},
    notes::Oddity,
    resume::Reading,
};
use crate::error::{Cause, Refusal, SendError};

/// Time for a server to notice that a stream was closed.
const GOODBYE: Duration = Duration::from_millis(100);
/// How a POST is refused that was answered as a GET would be.
pub(super) const ENDPOINT_FOR_POST: &str =
    "the POST was answered with an `endpoint` event, so the server speaks HTTP+SSE";

/// Reaches a backend over Streamable HTTP.
pub(super) struct Streamable {
    http: Arc<Http>,
    target: Arc<Target>,
}

/// One session, as all its requests see it.
pub(super) struct Session {
    http: Arc<HttpClient>,
    target: Arc<Target>,
    id: Option<HeaderValue>,
    forwarded: Forwarded,
    headers: ArcSwap<Headers>,
    /// What is said in the version header; nothing before it was agreed on, or once it was agreed on anew.
    revision: Mutex<Option<Revision>>,
    /// Whether a message of the session was taken.
    took_one: AtomicBool,
    early: Mutex<VecDeque<Bytes>>,
    own_stream: watch::Sender<OwnStream>,
}

/// What is known of the stream of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnStream {
    /// It was not asked for yet, or that was not answered.
    Unknown,
    /// It is or was open, or is not offered now: it is asked for again.
    Settled,
    /// There is none, and nobody asks again.
    Never,
}

struct Sender(Arc<Session>);

impl Streamable {
    pub(super) fn new(http: Arc<Http>, target: Arc<Target>) -> Self {
        Self { http, target }
    }
}

impl Transport for Streamable {
    fn connect(&self, hail: Hail) -> BoxFuture<'static, Result<Opened, SendError>> {
        open(self.http.client(), Arc::clone(&self.target), hail).boxed()
    }

    fn renew(&self) {
        self.http.renew();
    }
}

async fn open(http: Arc<HttpClient>, target: Arc<Target>, hail: Hail) -> Result<Opened, SendError> {
    let Hail { initialize, headers: forwarded } = hail;
    let headers = http.headers(&forwarded, None, None);
    let reply = http.send(Method::POST, &target, &headers.post, initialize).await?;
    if !reply.is_success() {
        return Err(reply.refusal(Asked::Open).await.0);
    }
    let id = session_id(&reply);
    let mut early = VecDeque::new();
    let answer = match reply.content() {
        Content::Json => {
            let status = reply.status();
            let body = reply.body(http.max_message).await?;
            let answer = answer_among(body.clone(), &mut early).unwrap_or(body);
            if !is_rpc(&answer) {
                return Err(SendError::refused(Cause::WrongTransport(Refusal::read(status, &answer))));
            }
            answer
        }
        Content::Events => {
            let mut events = reply.events(http.max_message);
            match first_answer(&mut events, &mut early).await? {
                First::Answer(answer) => answer,
                First::Endpoint => return Err(give_up(&http, events).await),
            }
        }
        Content::Other => {
            let refusal = reply.refused("initialize was answered with neither JSON nor events".to_owned());
            return Err(SendError::refused(Cause::WrongTransport(refusal)));
        }
    };
    let headers = ArcSwap::from_pointee(http.headers(&forwarded, id.as_ref(), None));
    let has_session = id.is_some();
    let session = Session {
        http,
        target,
        id,
        forwarded,
        headers,
        revision: Mutex::default(),
        took_one: false.into(),
        early: Mutex::new(early),
        own_stream: watch::Sender::new(OwnStream::Unknown),
    };
    Ok(Opened {
        kind: TransportKind::Http,
        era: Era::Legacy,
        has_session,
        answer,
        connect_took: None,
        outbound: Arc::new(Sender(Arc::new(session))),
    })
}

/// Whether a body is an answer of JSON-RPC at all: what stands at the address may answer everything with an object of its
/// own, also a server of HTTP+SSE that misses the number of its session.
fn is_rpc(body: &[u8]) -> bool {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else { return is_response(body) };
    body.contains_key("jsonrpc") || body.contains_key("result")
}

/// The id of the session as it came: it is only ever said back to whoever gave it. An empty one names no session.
fn session_id(reply: &Reply) -> Option<HeaderValue> {
    reply.header(&SESSION_ID).filter(|id| !id.is_empty()).cloned()
}

/// A server of HTTP+SSE took the POST for the GET that opens a stream. That stream is closed, and its end has to be
/// known over there before the next begins: some have room for one.
async fn give_up(http: &HttpClient, events: Events) -> SendError {
    drop(events);
    http.notes.say(
        Oddity::EndpointForPost,
        format_args!(
            "the backend answers a POST with the `endpoint` event of HTTP+SSE: `transport = \"sse\"` saves the attempt"
        ),
    );
    tokio::time::sleep(GOODBYE).await;
    let message = ENDPOINT_FOR_POST.to_owned();
    SendError::refused(Cause::WrongTransport(Refusal { status: 200, message, code: None, retry_after: None }))
}

pub(super) fn protocol(why: &str) -> SendError {
    SendError::maybe_sent(Cause::Protocol(why.to_owned()))
}

impl Outbound for Sender {
    fn agreed(&self, revision: Revision) {
        *self.0.revision.lock().unwrap_or_else(PoisonError::into_inner) = Some(revision);
        self.0.say_version(revision);
    }

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        let session = Arc::clone(&self.0);
        async move {
            let early = std::mem::take(&mut *session.early.lock().unwrap_or_else(PoisonError::into_inner));
            Ok(Listening::new(session, early).into_inbound())
        }
        .boxed()
    }

    fn listening(&self) -> BoxFuture<'static, ()> {
        let mut own = self.0.own_stream.subscribe();
        async move { drop(own.wait_for(|own| *own != OwnStream::Unknown).await) }.boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        let session = Arc::clone(&self.0);
        leaving(|left| Box::pin(stream::unfold(Step::Send(session, message, left), Step::next)))
    }

    fn tells_leaving(&self) -> bool {
        true
    }

    fn tell(&self, message: Bytes) -> Exchange {
        acknowledgement(Arc::clone(&self.0), message)
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let session = Arc::clone(&self.0);
        async move {
            if session.has_session()
                && let Ok(reply) = session.request(Method::DELETE, None, Bytes::new()).await
            {
                reply.drain().await;
            }
        }
        .boxed()
    }
}

impl Session {
    pub(super) fn has_session(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn max_message(&self) -> usize {
        self.http.max_message
    }

    /// Its own stream is open, or not offered now.
    pub(super) fn settle(&self) {
        self.own_stream.send_replace(OwnStream::Settled);
    }

    /// There is no stream of its own, and nothing will ever come on one.
    pub(super) fn hears_nothing(&self) {
        self.own_stream.send_replace(OwnStream::Never);
    }

    /// How much later than usual a sign of life may be.
    pub(super) fn patience(&self) -> Duration {
        self.http.patience
    }

    /// What later requests say in their version header.
    fn say_version(&self, revision: Revision) {
        let headers = self.http.headers(&self.forwarded, self.id.as_ref(), Some(revision));
        self.headers.store(Arc::new(headers));
    }

    /// A server that refuses in the header what it agreed on in the handshake, and lists what it takes: the newest of
    /// those is said from now on. Once for each session. Before anything was taken nothing of an agent's can be meant;
    /// afterwards it has to be a transport's own words.
    fn agree_anew(&self, answered: &Result<Vec<Bytes>, SendError>) -> bool {
        let text: Cow<'_, [u8]> = match answered {
            Err(SendError { cause: Cause::WrongVersion(refusal), .. }) => refusal.message.as_bytes().into(),
            _ if self.took_one.load(Ordering::Relaxed) => return false,
            Err(SendError { cause: Cause::Status(refusal) | Cause::WrongTransport(refusal), .. })
                if refusal.status == 400 =>
            {
                refusal.message.as_bytes().into()
            }
            Err(_) => return false,
            Ok(messages) => messages.concat().into(),
        };
        if !text.to_ascii_lowercase().windows(7).any(|word| word == b"version") {
            return false;
        }
        let mut revision = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((said, next)) = revision.and_then(|said| Some((said, said.listed_beside(&text)?))) else {
            return false;
        };
        *revision = None;
        self.say_version(next);
        self.http.notes.say(
            Oddity::Version,
            format_args!(
                "the backend agreed on {said} and refuses it in `MCP-Protocol-Version`: {next} is said there"
            ),
        );
        true
    }

    /// Posts one message.
    pub(super) async fn post(&self, message: Bytes, left: &Left) -> Result<Posted, SendError> {
        let asked = Asked::Message { has_session: self.has_session() };
        loop {
            let headers = self.headers.load_full();
            let body = message.clone();
            let reply = self.http.send_telling(Method::POST, &self.target, &headers.post, body, left).await?;
            if reply.is_success() {
                self.took_one.store(true, Ordering::Relaxed);
                return Ok(Posted::Taken(reply));
            }
            let answered = answers_in(reply, asked, self.max_message()).await;
            if !self.agree_anew(&answered) {
                return answered.map(Posted::Answered);
            }
        }
    }

    pub(super) async fn request(
        &self,
        method: Method,
        last_event: Option<&str>,
        body: Bytes,
    ) -> Result<Reply, SendError> {
        let headers = self.headers.load_full();
        let common = if method == Method::POST { &headers.post } else { &headers.get };
        match last_event.and_then(|id| HeaderValue::from_str(id).ok()) {
            None => self.http.send(method, &self.target, common, body).await,
            Some(id) => {
                let mut headers = common.clone();
                headers.insert(LAST_EVENT_ID, id);
                self.http.send(method, &self.target, &headers, body).await
            }
        }
    }
}

/// What became of a message that was posted.
pub(super) enum Posted {
    /// The backend took it.
    Taken(Reply),
    /// It refused it with these messages, one of which is an answer.
    Answered(Vec<Bytes>),
}

/// Where an exchange stands.
enum Step {
    /// Nothing was sent.
    Send(Arc<Session>, Bytes, Left),
    /// A JSON body is to be read.
    Body(Reply, usize),
    /// The messages are here already.
    Here(std::vec::IntoIter<Bytes>),
    /// There is no body, but there may be a stream of the session on which the answer comes.
    Elsewhere(Arc<Session>),
    /// The same, and that was said.
    Awaiting(Arc<Session>),
    /// A stream of events.
    Events(Box<Reading>),
    Done,
}

impl Step {
    async fn next(self) -> Option<(Result<Received, SendError>, Self)> {
        match self {
            Self::Send(session, message, left) => Some(match Self::send(session, message, left).await {
                Ok(next) => (Ok(Received::Accepted), next),
                Err(error) => (Err(error), Self::Done),
            }),
            Self::Body(reply, cap) => match reply.body(cap).await {
                Ok(body) if body.is_empty() => None,
                Ok(body) => Some((Ok(Received::Message(body)), Self::Done)),
                Err(error) => Some((Err(error), Self::Done)),
            },
            Self::Here(mut messages) => {
                let message = messages.next()?;
                Some((Ok(Received::Message(message)), Self::Here(messages)))
            }
            Self::Elsewhere(session) => Some((Ok(Received::Elsewhere), Self::Awaiting(session))),
            Self::Awaiting(session) => {
                let _ = session.own_stream.subscribe().wait_for(|own| *own == OwnStream::Never).await;
                None
            }
            Self::Events(mut reading) => match reading.next().await? {
                Ok(received) => Some((Ok(received), Self::Events(reading))),
                Err(error) => Some((Err(error), Self::Done)),
            },
            Self::Done => None,
        }
    }

    async fn send(session: Arc<Session>, message: Bytes, left: Left) -> Result<Self, SendError> {
        let cap = session.max_message();
        let reply = match session.post(message, &left).await? {
            Posted::Taken(reply) => reply,
            Posted::Answered(messages) => return Ok(Self::Here(messages.into_iter())),
        };
        match reply.content() {
            Content::Json => Ok(Self::Body(reply, cap)),
            Content::Events => Ok(Self::Events(Box::new(Reading::new(session, reply.events(cap))))),
            Content::Other => {
                // A message under another type is a message.
                let is_accepted = matches!(reply.status(), 202 | 204);
                let body = reply.body(cap).await?;
                let is_accepted = is_accepted || body.is_empty();
                let messages = messages_of_other_type(body);
                if messages.is_empty() && !is_accepted {
                    return Err(protocol("a call was answered with neither JSON nor events"));
                }
                if messages.is_empty() && *session.own_stream.borrow() != OwnStream::Never {
                    session.http.notes.say(
                        Oddity::AnswerElsewhere,
                        format_args!(
                            "the backend takes calls without answering them where they were posted: their answers are \
                             waited for on the stream of the session"
                        ),
                    );
                    return Ok(Self::Elsewhere(session));
                }
                Ok(Self::Here(messages.into_iter()))
            }
        }
    }
}
