//! Streamable HTTP of the legacy revisions (PROTOCOL.md 3): each message is a POST with the response in its body.
//!
//! An exchange is one boxed state machine without a task: it advances when its caller polls it. An event stream that
//! ends before the response is resumed if it had event ids; this attaches to the running call and runs nothing twice.
//! The session id comes only from the `initialize` response, because servers put dead ids on errors.

mod exchange;

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream};
use http::{HeaderValue, Method};
use mcpool_wire::{Era, Revision, is_response};
use serde_json::Value;
use tokio::sync::watch;

use self::exchange::Step;
use super::{
    ConnectRequest, Exchange, Inbound, Opened, Outbound, Transport, TransportKind,
    acknowledge::acknowledgement,
    answered::answers_in,
    classify::Asked,
    early::{First, answer_among, first_answer},
    get_stream::Listening,
    headers::{Headers, SESSION_ID},
    http::{Content, Events, Http, HttpClient, LAST_EVENT_ID, Reply, Target},
    leaving::{Left, leaving},
    notes::Oddity,
};
use crate::error::{Cause, Refusal, SendError};

/// Time for a server to notice a closed stream.
const GOODBYE: Duration = Duration::from_millis(100);
/// The error when a POST is answered like a GET.
pub(super) const ENDPOINT_FOR_POST: &str =
    "the POST was answered with an `endpoint` event, so the server speaks HTTP+SSE";

/// The Streamable HTTP transport of a backend.
pub(super) struct Streamable {
    http: Arc<Http>,
    target: Arc<Target>,
}

/// One session, shared by its requests.
pub(super) struct Session {
    http: Arc<HttpClient>,
    target: Arc<Target>,
    id: Option<HeaderValue>,
    headers: Headers,
    /// The version header: `None` before negotiation, or after it was negotiated again.
    revision: Mutex<Option<Revision>>,
    /// True once a message of the session was accepted.
    took_one: AtomicBool,
    early: Mutex<VecDeque<Bytes>>,
    own_stream: watch::Sender<OwnStream>,
}

/// State of the session's own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnStream {
    /// Not requested, or not answered yet.
    Unknown,
    /// Open, or unavailable for now and tried again.
    Settled,
    /// Unavailable for good.
    Never,
}

struct Sender(Arc<Session>);

impl Streamable {
    pub(super) fn new(http: Arc<Http>, target: Arc<Target>) -> Self {
        Self { http, target }
    }
}

impl Transport for Streamable {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        open(self.http.client(&request.credential), Arc::clone(&self.target), request).boxed()
    }

    fn renew(&self) {
        self.http.renew();
    }
}

async fn open(
    http: Arc<HttpClient>,
    target: Arc<Target>,
    request: ConnectRequest,
) -> Result<Opened, SendError> {
    let ConnectRequest { initialize, headers: forwarded, .. } = request;
    let headers = Headers::new(&http, forwarded, None, None);
    let reply = http.send(Method::POST, &target, &headers.next(&http).post, initialize).await?;
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
    let headers = headers.in_session(&http, id.clone());
    let has_session = id.is_some();
    let session = Session {
        http,
        target,
        id,
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

/// True if a body is a JSON-RPC response: a foreign server may answer anything with its own JSON object, and so may an
/// HTTP+SSE server that misses its session number.
fn is_rpc(body: &[u8]) -> bool {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else { return is_response(body) };
    body.contains_key("jsonrpc") || body.contains_key("result")
}

/// The session id as received; it is only sent back to its issuer. An empty one means no session.
fn session_id(reply: &Reply) -> Option<HeaderValue> {
    reply.header(&SESSION_ID).filter(|id| !id.is_empty()).cloned()
}

/// Handles an HTTP+SSE server that took the POST for its GET. The stream is closed, and the server must notice that
/// before the next one: some allow only one.
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

    /// Marks the own stream as open or unavailable for now.
    pub(super) fn settle(&self) {
        self.own_stream.send_replace(OwnStream::Settled);
    }

    /// Marks the own stream as unavailable for good.
    pub(super) fn hears_nothing(&self) {
        self.own_stream.send_replace(OwnStream::Never);
    }

    /// Tolerance for a late sign of life.
    pub(super) fn patience(&self) -> Duration {
        self.http.patience
    }

    /// Sets the version header of later requests.
    fn say_version(&self, revision: Revision) {
        self.headers.agree(&self.http, revision);
    }

    /// Handles a server that rejects its negotiated version in the header and lists others: the newest of them is used
    /// from then on, once per session. Before a message was accepted any such response counts; later only a transport's
    /// own words do.
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
            let headers = self.headers.next(&self.http);
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
        let headers = self.headers.next(&self.http);
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

/// Result of a POST.
pub(super) enum Posted {
    /// Accepted.
    Taken(Reply),
    /// Rejected with these messages, one of which is a response.
    Answered(Vec<Bytes>),
}
