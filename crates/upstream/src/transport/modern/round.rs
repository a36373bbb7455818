//! One request on the wire: a POST, what its stream says before the answer, and the answer. A status with a JSON-RPC
//! body is an answer.

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderMap;
use mcpool_wire::{
    Envelope, Kind,
    modern::{code, to_modern_request},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        classify::Asked,
        http::{Content, Events, Reply},
        sse_reader::{SseError, SseItem},
        streamable::protocol,
    },
    Session,
};
use crate::error::{Cause, SendError};

/// The answer to one POST.
pub(super) enum Round {
    Body(Reply, usize),
    Events(Events),
    /// It came with its status.
    Here(Bytes),
    Done,
}

/// One thing a POST was answered with.
pub(super) enum Said {
    /// Before the answer.
    Notification(Bytes),
    Answer(Bytes),
}

/// Sends a request that has this id.
pub(super) async fn begin(
    session: &Session,
    headers: &HeaderMap,
    body: Bytes,
    id: u64,
) -> Result<Round, SendError> {
    let reply = session.post(headers, body).await?;
    if !reply.is_success() {
        let (error, body) = reply.refusal(Asked::Message { has_session: false }).await;
        return refused(error, &body, id);
    }
    let cap = session.http.max_message;
    match reply.content() {
        Content::Json => Ok(Round::Body(reply, cap)),
        Content::Events => Ok(Round::Events(reply.events(cap))),
        Content::Other => {
            reply.drain().await;
            Err(protocol("a request was answered with neither JSON nor events"))
        }
    }
}

/// What a status other than success means.
fn refused(error: SendError, body: &[u8], id: u64) -> Result<Round, SendError> {
    match error.cause {
        // It does not speak this era any more: to be found out anew.
        Cause::Status(refusal) | Cause::WrongTransport(refusal)
            if refusal.code == Some(i64::from(code::UNSUPPORTED_VERSION)) =>
        {
            Err(SendError::refused(Cause::WrongVersion(refusal)))
        }
        Cause::Status(_) | Cause::WrongTransport(_) => match answer_in(body, id) {
            Some(answer) => Ok(Round::Here(answer)),
            None => Err(error),
        },
        _ => Err(error),
    }
}

/// The JSON-RPC error in the body of a refusal, under the id of the request: servers leave it out, or write null.
fn answer_in(body: &[u8], id: u64) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Failure<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let envelope = Envelope::parse(body).ok().filter(|envelope| envelope.kind == Kind::Failure);
    envelope?;
    let error = serde_json::from_slice::<Failure<'_>>(body).ok()?.error.get();
    Some(Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}")))
}

impl Round {
    /// The next thing; after the answer, and after an error, there is none.
    pub(super) async fn next(&mut self) -> Result<Said, SendError> {
        match std::mem::replace(self, Self::Done) {
            Self::Here(answer) => Ok(Said::Answer(answer)),
            Self::Body(reply, cap) => sort(reply.body(cap).await?).ok_or_else(unanswered),
            Self::Events(mut events) => loop {
                match events.next().await {
                    Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => {
                        let Some(said) = sort(event.data) else { continue };
                        *self = Self::Events(events);
                        return Ok(said);
                    }
                    Some(Ok(SseItem::Event(_) | SseItem::Alive | SseItem::Retry(_))) => {}
                    Some(Err(SseError::TooLarge(cap))) => {
                        return Err(SendError::maybe_sent(Cause::TooLarge(cap)));
                    }
                    Some(Err(SseError::Body(error))) => return Err(error),
                    None => return Err(unanswered()),
                }
            },
            Self::Done => Err(unanswered()),
        }
    }

    /// Reads what comes after the answer, so that the connection can be used again.
    pub(super) async fn read_out(self) {
        match self {
            Self::Events(mut events) => while let Some(Ok(_)) = events.next().await {},
            Self::Body(..) | Self::Here(_) | Self::Done => {}
        }
    }
}

/// Servers ask nothing in this era but in their results, so a request is none of ours.
fn sort(message: Bytes) -> Option<Said> {
    match Envelope::parse(&message).map(|envelope| envelope.kind) {
        Ok(Kind::Success | Kind::Failure) => Some(Said::Answer(message)),
        Ok(Kind::Notification) => Some(Said::Notification(message)),
        Ok(Kind::Request) | Err(_) => {
            tracing::debug!("a message of the backend that belongs nowhere was dropped");
            None
        }
    }
}

fn unanswered() -> SendError {
    SendError::maybe_sent(Cause::Broken("the answer stream ended without an answer".to_owned()))
}

/// A request of the transport's own to its answer.
pub(super) async fn ask_own(session: &Session, method: &str, params: &str) -> Result<Bytes, SendError> {
    let id = session.next_id();
    let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}");
    let body = to_modern_request(&Bytes::from(message), &session.stamp(None));
    let mut round = begin(session, &session.headers(method, None), body, id).await?;
    loop {
        if let Said::Answer(answer) = round.next().await? {
            return Ok(answer);
        }
    }
}
