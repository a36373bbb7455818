//! What came back for a call and is not plainly its answer: where nothing better comes, it is all there is.

use bytes::Bytes;
use mcpool_wire::{Answer, DecodeError, Envelope, Kind, Message, readdressed};

use super::pending::Outcome;
use crate::error::{Cause, SendError};

/// What may be meant as a call's answer.
#[derive(Clone, Debug)]
pub(crate) enum Stray {
    /// An error without an id, or under none of ours.
    Error(Bytes),
    /// Nothing that can be passed on, and why.
    Unusable(Cause),
}

impl Stray {
    /// A response that bears no id of a call that waits.
    pub(crate) fn unaddressed(message: &Bytes, kind: Kind) -> Self {
        match kind {
            Kind::Failure => Self::Error(message.clone()),
            Kind::Success | Kind::Request | Kind::Notification => Self::Unusable(Cause::Protocol(
                "the backend answered with a result under an id that is not the call's".to_owned(),
            )),
        }
    }

    /// What cannot be read. What ends too early was cut on its way.
    pub(crate) fn malformed(why: &DecodeError) -> Self {
        Self::Unusable(if why.is_cut() {
            Cause::Broken("the answer is cut off".to_owned())
        } else {
            Cause::Protocol(format!("the backend's answer is no JSON-RPC message: {why}"))
        })
    }

    /// An error says more than what cannot be used; of two alike the first counts.
    pub(crate) fn or(self, later: Self) -> Self {
        match (self, later) {
            (Self::Unusable(_), later @ Self::Error(_)) => later,
            (first, _) => first,
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// As the answer to this call, of which nobody knows whether it ran.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(crate) fn answer_to(self, id: u64) -> Outcome {
        let message = match self {
            Self::Error(message) => message,
            Self::Unusable(cause) => return Err(SendError::maybe_sent(cause)),
        };
        let answer = readdressed(&message, id).and_then(|bytes| {
            let envelope = Envelope::parse(&bytes).ok()?;
            let message = Message::new(bytes.clone(), &envelope);
            Some(Answer { message, is_rpc_error: true, is_tool_error: false })
        });
        let unread = || Cause::Protocol("the backend answered with an error that cannot be read".to_owned());
        answer.ok_or_else(|| SendError::maybe_sent(unread()))
    }
}
