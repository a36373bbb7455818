//! A POST whose status is no success: its body may be the answer all the same.

use bytes::Bytes;
use futures::StreamExt as _;
use mcpool_wire::is_response;

use super::{
    classify::{Asked, Refused, classify, is_answer},
    http::{Content, Events, Reply},
    parts::{mended, parts},
    reply::DRAIN_TIME,
    sse_reader::{SseError, SseItem},
};
use crate::error::{Cause, SendError};

/// The messages in the body of a reply that is no success, where one of them is the answer.
///
/// # Errors
/// What the status means, where the body holds no answer; that it broke, where that cannot be known.
pub(super) async fn answers_in(mut reply: Reply, asked: Asked, cap: usize) -> Result<Vec<Bytes>, SendError> {
    let (status, retry_after, unfollowed) = (reply.status(), reply.retry_after(), reply.unfollowed.take());
    let (messages, body) = match reply.content() {
        // Half a body may be half an answer: then its status proves nothing.
        Content::Json => in_body(reply.body(cap).await?),
        Content::Events => (in_events(reply.events(cap)).await?, Bytes::new()),
        Content::Other => match tokio::time::timeout(DRAIN_TIME, reply.body(cap)).await {
            Ok(body) => in_body(body?),
            Err(_) => return Err(SendError::maybe_sent(Cause::Timeout("the body of a refusal"))),
        },
    };
    let is_answered = !(mutant!(StatusBeforeAnswer) && status == 404);
    if is_answered && messages.iter().any(|message| is_answer(status, message)) {
        return Ok(messages);
    }
    let body = messages.iter().find(|message| is_response(message)).unwrap_or(&body);
    let error = classify(asked, &Refused { status, body, retry_after });
    Err(match unfollowed {
        Some(unfollowed) => unfollowed.explain(error),
        None => error,
    })
}

fn in_body(body: Bytes) -> (Vec<Bytes>, Bytes) {
    (messages(body.clone()), body)
}

/// What a stream says up to its first response. One that is left open is given up.
async fn in_events(mut events: Events) -> Result<Vec<Bytes>, SendError> {
    let mut said = Vec::new();
    while let Ok(Some(item)) = tokio::time::timeout(DRAIN_TIME, events.next()).await {
        match item {
            Ok(SseItem::Event(event)) if event.name.is_none() && !event.data.is_empty() => {
                said.extend(messages(event.data));
                if said.iter().any(|message| is_response(message)) {
                    break;
                }
            }
            Ok(_) => {}
            Err(SseError::TooLarge { cap, is_answer: true, .. }) => {
                return Err(SendError::maybe_sent(Cause::TooLarge(cap)));
            }
            Err(SseError::TooLarge { .. }) => {}
            Err(SseError::Body(error)) => return Err(error),
        }
    }
    Ok(said)
}

/// The messages in the body of a success that is of another type, where one of them is a response; none, where it is
/// something else.
pub(super) fn messages_of_other_type(body: Bytes) -> Vec<Bytes> {
    let messages = messages(body);
    if messages.iter().any(|message| is_response(message)) { messages } else { Vec::new() }
}

/// The messages in a body or event; none, where it is something else.
fn messages(bytes: Bytes) -> Vec<Bytes> {
    parts(bytes).unwrap_or_default().into_iter().map(mended).collect()
}
