//! Converts a call to its session's era. A backend may restart in the other era while a call waits: a modern call is
//! then converted for its new session, and the response back.

use bytes::Bytes;
use mcpool_wire::{
    Answer, Call, Envelope, Era, Message, Method,
    modern::{Finish, ModernRequest, to_modern_result},
};

use crate::error::{Cause, Refusal, SendError};

/// A modern request converted for a session with handshake.
pub(super) struct Reshaped {
    pub(super) message: Message,
    is_kept: bool,
    opens_urls: bool,
}

impl Reshaped {
    /// The converted call; `None` if no conversion is needed.
    ///
    /// # Errors
    /// If the request carries state that only a server of its own era knows.
    pub(super) fn of(call: &Call, session: Era) -> Result<Option<Self>, SendError> {
        if (call.era, session) != (Era::Modern, Era::Legacy) {
            return Ok(None);
        }
        let request = ModernRequest::parse(call.message.bytes())
            .map_err(|_| refused("the request cannot be read by a session of the legacy era"))?;
        if request.request_state.is_some() {
            return Err(refused(
                "the server that gave this requestState is gone: send the request without it",
            ));
        }
        let may_ask = matches!(call.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        let message = request.to_legacy(&call.message);
        // The spans of id and token moved with the cut.
        let bytes = message.bytes().clone();
        let message = match Envelope::parse(&bytes) {
            Ok(envelope) => Message::new(bytes.clone(), &envelope),
            Err(_) => message,
        };
        Ok(Some(Self {
            message,
            is_kept: !matches!(call.method, Method::ToolsCall | Method::PromptsGet),
            opens_urls: may_ask && !request.client.capabilities["elicitation"]["url"].is_null(),
        }))
    }

    /// Converts the response back for the caller.
    pub(super) fn finish(&self, answer: Answer, server_info: &str) -> Answer {
        let ttl_ms = self.is_kept.then_some(0);
        let finish = Finish { server_info, ttl_ms, opens_urls: self.opens_urls };
        let bytes: Bytes = to_modern_result(answer.message.bytes(), &finish);
        match Envelope::parse(&bytes) {
            Ok(envelope) => Answer { message: Message::new(bytes.clone(), &envelope), ..answer },
            Err(_) => answer,
        }
    }
}

fn refused(why: &str) -> SendError {
    let refusal = Refusal { status: 400, message: why.to_owned(), code: None, retry_after: None };
    SendError::refused(Cause::Status(refusal))
}
