//! A call in the shape of the session it is sent on. A backend may come back from a restart in the other era while a
//! call waits: what is written for an era without sessions is then sent, and answered, as its new session reads it.

use bytes::Bytes;
use mcpool_wire::{
    Answer, Call, Envelope, Era, Message, Method,
    modern::{Finish, ModernRequest, to_modern_result},
};

use crate::error::{Cause, Refusal, SendError};

/// A modern request on its way over a session with a handshake.
pub(super) struct Reshaped {
    pub(super) message: Message,
    is_kept: bool,
    opens_urls: bool,
}

impl Reshaped {
    /// What is sent in place of the call's message; `None` where that is in the shape of the session already.
    ///
    /// # Errors
    /// Where the request goes on with what only a server of its own era knows.
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
        // The places of id and token moved with the envelope.
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

    /// The answer as the caller reads it.
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
