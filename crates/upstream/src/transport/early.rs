//! What a server says until it has answered `initialize`: the answer, alone or in an array, and what comes before it.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt as _;
use mcpool_wire::is_response;

use super::{
    http::Events,
    parts::parts,
    sse_reader::{SseError, SseItem},
};
use crate::error::{Cause, SendError};

/// Messages before the answer to `initialize` that are kept.
pub(super) const MAX_EARLY: usize = 64;

/// What a stream that answers `initialize` says first.
pub(super) enum First {
    /// The answer.
    Answer(Bytes),
    /// Where messages are to be sent: this is a stream of HTTP+SSE.
    Endpoint,
}

/// The first response in a stream, or that it is another kind of stream; messages before it are kept.
pub(super) async fn first_answer(
    events: &mut Events,
    early: &mut VecDeque<Bytes>,
) -> Result<First, SendError> {
    while let Some(item) = events.next().await {
        match item {
            Ok(SseItem::Event(event)) if event.name.as_deref() == Some("endpoint") => {
                return Ok(First::Endpoint);
            }
            Ok(SseItem::Event(event)) if event.name.is_none() && !event.data.is_empty() => {
                if let Some(answer) = answer_among(event.data, early) {
                    return Ok(First::Answer(answer));
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
    Err(SendError::maybe_sent(Cause::Broken("the stream ended before initialize was answered".to_owned())))
}

/// Keeps what a server says before its answer to `initialize`; of very much, the latest.
pub(super) fn keep_early(early: &mut VecDeque<Bytes>, message: Bytes) {
    if early.len() == MAX_EARLY {
        early.pop_front();
    }
    early.push_back(message);
}

/// The answer to `initialize` in a body or event, which may be an array of several messages; the others are kept.
pub(super) fn answer_among(bytes: Bytes, early: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let mut answer = None;
    for message in parts(bytes).unwrap_or_default() {
        if answer.is_none() && is_response(&message) {
            answer = Some(message);
        } else {
            keep_early(early, message);
        }
    }
    answer
}
