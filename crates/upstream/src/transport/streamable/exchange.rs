//! The exchange of one message: its POST, and what comes back in the body.

use std::sync::Arc;

use bytes::Bytes;

use super::super::{
    Received,
    answered::messages_of_other_type,
    http::{Content, Reply},
    leaving::Left,
    notes::Oddity,
    resume::Reading,
};
use super::{OwnStream, Posted, Session, protocol};
use crate::error::SendError;

/// State of an exchange.
pub(super) enum Step {
    /// Not sent.
    Send(Arc<Session>, Bytes, Left),
    /// Reading a JSON body.
    Body(Reply, usize),
    /// All messages received.
    Here(std::vec::IntoIter<Bytes>),
    /// No body; the response may come on the session's own stream.
    Elsewhere(Arc<Session>),
    /// The same, already reported.
    Awaiting(Arc<Session>),
    /// Reading an event stream.
    Events(Box<Reading>),
    Done,
}

impl Step {
    pub(super) async fn next(self) -> Option<(Result<Received, SendError>, Self)> {
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

    pub(super) async fn send(session: Arc<Session>, message: Bytes, left: Left) -> Result<Self, SendError> {
        let cap = session.max_message();
        let reply = match session.post(message, &left).await? {
            Posted::Taken(reply) => reply,
            Posted::Answered(messages) => return Ok(Self::Here(messages.into_iter())),
        };
        match reply.content() {
            Content::Json => Ok(Self::Body(reply, cap)),
            Content::Events => Ok(Self::Events(Box::new(Reading::new(session, reply.events(cap))))),
            Content::Other => {
                // A message counts under any content type.
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
