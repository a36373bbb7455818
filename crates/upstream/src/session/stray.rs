//! Messages that may be meant as a call's response, used if nothing better comes.

use bytes::Bytes;
use mcpool_wire::{Answer, DecodeError, Envelope, Kind, Message, readdressed};

use super::pending::Outcome;
use crate::error::{Cause, SendError};

/// A possible response.
#[derive(Clone, Debug)]
pub(crate) enum Stray {
    /// An error without an id, or with a foreign one.
    Error(Bytes),
    /// Unusable, with the reason.
    Unusable(Cause),
}

impl Stray {
    /// A response whose id matches no waiting call.
    pub(crate) fn unaddressed(message: &Bytes, kind: Kind) -> Self {
        match kind {
            Kind::Failure => Self::Error(message.clone()),
            Kind::Success | Kind::Request | Kind::Notification => Self::Unusable(Cause::Protocol(
                "the backend answered with a result under an id that is not the call's".to_owned(),
            )),
        }
    }

    /// A malformed message; one that ends too early was cut in transit.
    pub(crate) fn malformed(why: &DecodeError) -> Self {
        Self::Unusable(if why.is_cut() {
            Cause::Broken("the answer is cut off".to_owned())
        } else {
            Cause::Protocol(format!("the backend's answer is no JSON-RPC message: {why}"))
        })
    }

    /// Prefers an error over an unusable message, then the first.
    pub(crate) fn or(self, later: Self) -> Self {
        match (self, later) {
            (Self::Unusable(_), later @ Self::Error(_)) => later,
            (first, _) => first,
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// The response to this call, with unknown execution state.
    ///
    /// # Errors
    /// The reason it cannot be one.
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
