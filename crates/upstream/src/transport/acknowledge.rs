//! Messages that have no answer over Streamable HTTP, notifications and responses: any 2xx acknowledges them, whatever
//! its body is. Messages in a stream of events are passed on, because servers put there what belongs on the stream of
//! the session; everything else is read to its end, bounded, so that the connection can be used again.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::{
    Exchange, Received,
    http::{Content, Events, Reply},
    leaving::Left,
    sse_reader::SseItem,
    streamable::{Posted, Session},
};
use crate::error::SendError;

enum Step {
    Send(Arc<Session>, Bytes),
    Drain(Reply),
    Events(Events),
}

/// Sends it; the exchange ends with what came with the acknowledgement.
pub(super) fn acknowledgement(session: Arc<Session>, message: Bytes) -> Exchange {
    stream::unfold(Some(Step::Send(session, message)), async |step| next(step?).await).boxed()
}

async fn next(step: Step) -> Option<(Result<Received, SendError>, Option<Step>)> {
    match step {
        Step::Send(session, message) => Some(match send(&session, message).await {
            Ok(step) => (Ok(Received::Accepted), step),
            Err(error) => (Err(error), None),
        }),
        Step::Drain(reply) => {
            reply.drain().await;
            None
        }
        Step::Events(mut events) => loop {
            match events.next().await?.ok()? {
                SseItem::Event(event) if event.name.is_none() && !event.data.is_empty() => {
                    return Some((Ok(Received::Message(event.data)), Some(Step::Events(events))));
                }
                SseItem::Event(_) | SseItem::Alive | SseItem::Retry(_) => {}
            }
        },
    }
}

async fn send(session: &Session, message: Bytes) -> Result<Option<Step>, SendError> {
    let Posted::Taken(reply) = session.post(message, &Left::default()).await? else { return Ok(None) };
    Ok(Some(match reply.content() {
        Content::Events => Step::Events(reply.events(session.max_message())),
        Content::Json | Content::Other => Step::Drain(reply),
    }))
}
