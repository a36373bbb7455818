//! HTTP+SSE of 2024-11-05 (PROTOCOL.md 2): one GET stream is the session; messages are POSTed to the endpoint it names,
//! and responses come on the stream.
//!
//! The endpoint must have the stream's origin, because credentials are sent there. The body of a 202 is read to its
//! end, so that its connection stays reusable. There is no resuming: the session ends with the stream.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::Method;
use mcpool_wire::{Era, Revision};
use tokio::time::Instant;
use url::Url;

use super::{
    ConnectRequest, Exchange, Heard, Inbound, Opened, Outbound, Received, Transport, TransportKind,
    answered::answers_in,
    classify::Asked,
    early::{First, MAX_EARLY, first_answer},
    headers::Headers,
    http::{Content, Events, Http, HttpClient, Reply, Target, is_same_origin},
    leaving::{Left, leaving},
    notes::{Notes, Oddity},
    sse_reader::{SseError, SseEvent, SseItem},
    streamable::protocol,
};
use crate::error::{Cause, SendError};

/// The HTTP+SSE transport of a backend.
pub(super) struct Sse {
    http: Arc<Http>,
    target: Arc<Target>,
}

struct Session {
    http: Arc<HttpClient>,
    endpoint: Target,
    headers: Headers,
}

struct Sender {
    session: Arc<Session>,
    /// The stream, until `listen` takes it.
    stream: Mutex<Option<Streaming>>,
}

struct Streaming {
    notes: Arc<Notes>,
    early: VecDeque<Bytes>,
    events: Events,
    over: bool,
}

impl Sse {
    pub(super) fn new(http: Arc<Http>, target: Arc<Target>) -> Self {
        Self { http, target }
    }
}

impl Transport for Sse {
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
    let started = Instant::now();
    let headers = Headers::new(&http, forwarded, None, None);
    let reply = http.send(Method::GET, &target, &headers.next(&http).get, Bytes::new()).await?;
    if !reply.is_success() {
        return Err(reply.refusal(Asked::Open).await.0);
    }
    if reply.content() != Content::Events {
        let refusal = reply.refused("GET was not answered with a stream of events".to_owned());
        return Err(SendError::refused(Cause::WrongTransport(refusal)));
    }
    let (stream, notes) = (Arc::clone(&reply.url), Arc::clone(&reply.notes));
    let mut events = reply.events(http.max_message);
    let mut early = VecDeque::new();
    let endpoint = tokio::time::timeout(http.opening, endpoint(&http, &stream, &mut events, &mut early))
        .await
        .map_err(|_| {
            SendError::not_sent(Cause::Timeout("waiting for the `endpoint` event of the stream"))
        })??;
    let connect_took = Some(started.elapsed());
    let session = Arc::new(Session { http, endpoint, headers });
    let hello = async {
        match first_answer(&mut events, &mut early).await? {
            First::Answer(answer) => Ok(answer),
            First::Endpoint => {
                Err(protocol("a second `endpoint` event came before the answer to initialize"))
            }
        }
    };
    // Concurrently: some servers respond on the stream before they acknowledge the POST, some after.
    let ((), answer) = futures::try_join!(session.open(initialize), hello)?;
    let stream = Mutex::new(Some(Streaming { notes, early, events, over: false }));
    Ok(Opened {
        kind: TransportKind::Sse,
        era: Era::Legacy,
        has_session: true,
        answer,
        connect_took,
        outbound: Arc::new(Sender { session, stream }),
    })
}

/// Waits for the event that names the endpoint, and stores messages that come before it.
async fn endpoint(
    http: &HttpClient,
    stream: &Url,
    events: &mut Events,
    early: &mut VecDeque<Bytes>,
) -> Result<Target, SendError> {
    while let Some(item) = events.next().await {
        match item {
            Ok(SseItem::Event(event)) if event.name.as_deref() == Some("endpoint") => {
                return named(stream, &event);
            }
            Ok(SseItem::Event(event)) => {
                http.notes.say(
                    Oddity::EventsBeforeEndpoint,
                    format_args!("the backend sends other events before `endpoint`, which are passed over"),
                );
                if event.name.is_none() && !event.data.is_empty() && early.len() < MAX_EARLY {
                    early.push_back(event.data);
                }
            }
            Ok(SseItem::Alive | SseItem::Retry(_)) | Err(SseError::TooLarge { .. }) => {}
            Err(SseError::Body(error)) => return Err(SendError::not_sent(error.cause)),
        }
        // Yields, so that a server with endless other events cannot block the thread.
        tokio::task::coop::consume_budget().await;
    }
    Err(SendError::not_sent(Cause::Broken("the stream ended before it named its endpoint".to_owned())))
}

/// Resolves the endpoint against the stream's URL.
fn named(stream: &Url, event: &SseEvent) -> Result<Target, SendError> {
    let url = std::str::from_utf8(&event.data)
        .ok()
        .and_then(|data| stream.join(data.trim()).ok())
        .ok_or_else(|| not_sent("the endpoint is not a URL"))?;
    if !is_same_origin(&url, stream) {
        return Err(not_sent("the endpoint is of another origin than the stream"));
    }
    Ok(Target::new(url))
}

fn not_sent(why: &str) -> SendError {
    SendError::not_sent(protocol(why).cause)
}

impl Session {
    /// Sends `initialize`. Whatever the response, the stream has proven the transport.
    async fn open(&self, initialize: Bytes) -> Result<(), SendError> {
        let reply = self.post(initialize, &Left::default()).await?;
        if !reply.is_success() {
            let (error, _) = reply.refusal(Asked::Open).await;
            return Err(match error.cause {
                Cause::WrongTransport(refusal) => SendError { cause: Cause::Status(refusal), ..error },
                cause => SendError { cause, ..error },
            });
        }
        reply.drain().await;
        Ok(())
    }

    /// Sends one message. The body of a success is ignored; a rejection may contain the response.
    async fn send(&self, message: Bytes, left: &Left) -> Result<Vec<Bytes>, SendError> {
        let reply = self.post(message, left).await?;
        if !reply.is_success() {
            return answers_in(reply, Asked::Message { has_session: true }, self.http.max_message).await;
        }
        reply.drain().await;
        Ok(Vec::new())
    }

    async fn post(&self, message: Bytes, left: &Left) -> Result<Reply, SendError> {
        let headers = self.headers.next(&self.http);
        self.http.send_telling(Method::POST, &self.endpoint, &headers.post, message, left).await
    }
}

impl Outbound for Sender {
    fn agreed(&self, revision: Revision) {
        self.session.headers.agree(&self.session.http, revision);
    }

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let Some(stream) = stream else {
                return Err(SendError::not_sent(Cause::Closed("its stream was taken already")));
            };
            Ok(stream.into_inbound())
        }
        .boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        leaving(|left| exchange(Arc::clone(&self.session), message, left))
    }

    fn tell(&self, message: Bytes) -> Exchange {
        exchange(Arc::clone(&self.session), message, Left::default())
    }

    fn tells_leaving(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        // Closing the stream is all there is; the listener has it.
        drop(self.stream.lock().unwrap_or_else(PoisonError::into_inner).take());
        futures::future::ready(()).boxed()
    }
}

fn exchange(session: Arc<Session>, message: Bytes, left: Left) -> Exchange {
    let sending = async move {
        match session.send(message, &left).await {
            Err(error) => stream::iter(vec![Err(error)]),
            Ok(messages) => {
                let said = messages.into_iter().map(|message| Ok(Received::Message(message)));
                stream::iter(std::iter::once(Ok(Received::Accepted)).chain(said).collect::<Vec<_>>())
            }
        }
    };
    Box::pin(sending.flatten_stream())
}

impl Streaming {
    fn into_inbound(self) -> Inbound {
        Box::pin(stream::unfold(self, |mut streaming| async move {
            if streaming.over {
                return None;
            }
            let heard = streaming.next().await;
            streaming.over = heard.is_err();
            Some((heard, streaming))
        }))
    }

    async fn next(&mut self) -> Result<Heard, SendError> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Heard::Message(message));
        }
        loop {
            match self.events.next().await {
                Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => {
                    return Ok(Heard::Message(event.data));
                }
                Some(Ok(SseItem::Alive)) if self.events.is_within_event() => return Ok(Heard::Part),
                Some(Ok(SseItem::Event(_) | SseItem::Alive)) => return Ok(Heard::Alive),
                Some(Ok(SseItem::Retry(_))) => {}
                Some(Err(SseError::TooLarge { cap, answers, .. })) => {
                    self.notes.too_large(cap);
                    return Ok(Heard::TooLarge { answers, limit: cap });
                }
                Some(Err(SseError::Body(error))) => return Err(error),
                None => {
                    let why = "the backend ended its stream".to_owned();
                    return Err(SendError::maybe_sent(Cause::Broken(why)));
                }
            }
        }
    }
}
