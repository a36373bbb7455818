//! One request on the wire: a POST, what its stream says before the answer, and the answer. A status with a JSON-RPC
//! body is an answer.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderMap;
use mcpool_wire::{
    Envelope, Kind,
    modern::{code, error_code, to_modern_request},
    readdressed,
};

use super::{
    super::{
        answered::{answers_in, messages_of_other_type},
        classify::Asked,
        http::{Content, Events, Reply},
        leaving::Left,
        parts::{mended, parts},
        sse_reader::{SseError, SseItem},
        streamable::protocol,
    },
    Session,
};
use crate::error::{Cause, Refusal, SendError};

/// The answer to one POST.
pub(super) struct Round {
    /// The id of the request.
    id: u64,
    from: From,
    /// What was read and not said yet.
    read: VecDeque<Bytes>,
    /// What came in place of an answer: it counts if no better one comes.
    stray: Option<Stray>,
}

enum From {
    Body(Reply, usize),
    Events(Events),
    Done,
}

enum Stray {
    /// An error without an id, or under none of ours.
    Error(Bytes),
    Unusable(String),
}

/// One thing a POST was answered with.
pub(super) enum Said {
    /// Before the answer.
    Notification(Bytes),
    /// No message, but the backend is there.
    Alive,
    Answer(Bytes),
}

/// Sends a request that has this id.
pub(super) async fn begin(
    session: &Session,
    headers: &HeaderMap,
    body: Bytes,
    id: u64,
    left: &Left,
) -> Result<Round, SendError> {
    let reply = session.post(headers, body, left).await?;
    let cap = session.http.max_message;
    let new = |from, read| Round { id, from, read, stray: None };
    if !reply.is_success() {
        let status = reply.status();
        let messages = answers_in(reply, Asked::Message { has_session: false }, cap).await?;
        // It does not speak this era any more: to be found out anew.
        let unsupported = messages
            .iter()
            .find(|message| status == 400 && error_code(message.as_ref()) == Some(code::UNSUPPORTED_VERSION));
        if let Some(message) = unsupported {
            return Err(SendError::refused(Cause::WrongVersion(Refusal::read(status, message))));
        }
        return Ok(new(From::Done, messages.into()));
    }
    match reply.content() {
        Content::Json => Ok(new(From::Body(reply, cap), VecDeque::new())),
        Content::Events => Ok(new(From::Events(reply.events(cap)), VecDeque::new())),
        Content::Other => {
            let body = reply.body(cap).await?;
            let is_empty = body.is_empty();
            let messages = messages_of_other_type(body);
            if messages.is_empty() && !is_empty {
                return Err(protocol("a request was answered with neither JSON nor events"));
            }
            Ok(new(From::Done, messages.into()))
        }
    }
}

impl Round {
    /// The next thing; after the answer, and after an error, there is none.
    pub(super) async fn next(&mut self) -> Result<Said, SendError> {
        loop {
            while let Some(message) = self.read.pop_front() {
                if let Some(said) = self.sort(mended(message)) {
                    return Ok(said);
                }
            }
            match self.more().await {
                Ok(Some(bytes)) if bytes.is_empty() => return Ok(Said::Alive),
                Ok(Some(bytes)) => match parts(bytes) {
                    Ok(parts) => self.read.extend(parts),
                    Err(why) => self.unusable(&why),
                },
                Ok(None) => return self.end(),
                Err(error) => match self.stray.take() {
                    Some(Stray::Error(message)) => return self.amended(&message),
                    _ => return Err(error),
                },
            }
        }
    }

    /// What came next: bytes of a message, or none of them as a mere sign of life.
    async fn more(&mut self) -> Result<Option<Bytes>, SendError> {
        match std::mem::replace(&mut self.from, From::Done) {
            From::Body(reply, cap) => Ok(Some(reply.body(cap).await?).filter(|body| !body.is_empty())),
            From::Events(mut events) => loop {
                match events.next().await {
                    Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => {
                        self.from = From::Events(events);
                        return Ok(Some(event.data));
                    }
                    Some(Ok(SseItem::Retry(_))) => {}
                    Some(Ok(SseItem::Event(_) | SseItem::Alive)) => {
                        self.from = From::Events(events);
                        return Ok(Some(Bytes::new()));
                    }
                    Some(Err(SseError::TooLarge { cap, is_answer: true, .. })) => {
                        return Err(SendError::maybe_sent(Cause::TooLarge(cap)));
                    }
                    Some(Err(SseError::TooLarge { .. })) => {}
                    Some(Err(SseError::Body(error))) => return Err(error),
                    None => return Ok(None),
                }
            },
            From::Done => Ok(None),
        }
    }

    /// Servers ask nothing in this era but in their results, so a request is none of ours.
    fn sort(&mut self, message: Bytes) -> Option<Said> {
        let envelope = match Envelope::parse(&message) {
            Ok(envelope) => envelope,
            Err(why) => {
                self.unusable(&why);
                return None;
            }
        };
        let is_ours = envelope.answers().is_some_and(|(id, _)| id == self.id);
        match envelope.kind {
            Kind::Success | Kind::Failure if is_ours => return Some(Said::Answer(message)),
            Kind::Notification => return Some(Said::Notification(message)),
            Kind::Failure if !matches!(self.stray, Some(Stray::Error(_))) => {
                self.stray = Some(Stray::Error(message));
            }
            Kind::Success => {
                let why = "the backend answered with a result under an id that is not the call's";
                self.stray.get_or_insert_with(|| Stray::Unusable(why.to_owned()));
            }
            Kind::Failure | Kind::Request => {
                tracing::debug!("a message of the backend that belongs nowhere was dropped");
            }
        }
        None
    }

    fn unusable(&mut self, why: &mcpool_wire::DecodeError) {
        if !why.is_cut() {
            let why = format!("the backend's answer is no JSON-RPC message: {why}");
            self.stray.get_or_insert(Stray::Unusable(why));
        }
    }

    /// What is known where nothing came that is plainly the answer.
    fn end(&mut self) -> Result<Said, SendError> {
        match self.stray.take() {
            Some(Stray::Error(message)) => self.amended(&message),
            Some(Stray::Unusable(why)) => Err(protocol(&why)),
            None => Err(unanswered()),
        }
    }

    fn amended(&self, message: &[u8]) -> Result<Said, SendError> {
        readdressed(message, self.id).map(Said::Answer).ok_or_else(unanswered)
    }

    /// Reads what comes after the answer, so that the connection can be used again.
    pub(super) async fn read_out(self) {
        if let From::Events(mut events) = self.from {
            while let Some(Ok(_)) = events.next().await {}
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
    let mut round = begin(session, &session.headers(method, None), body, id, &Left::default()).await?;
    loop {
        if let Said::Answer(answer) = round.next().await? {
            return Ok(answer);
        }
    }
}
