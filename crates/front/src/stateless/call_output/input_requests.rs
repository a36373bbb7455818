//! Input requests: what a server may ask the caller of a stateless call, and what it has asked.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{Envelope, Message, Method};
use serde_json::Value;

/// The capabilities of the caller, and the way its input reaches the server.
pub(in crate::stateless) struct InputRequests {
    /// The capabilities the caller declared.
    pub(in crate::stateless) capabilities: Value,
    /// The request; the state of the parked call is bound to it.
    pub(in crate::stateless) message: Bytes,
    pub(in crate::stateless) server_info: Arc<str>,
    /// Passes the caller's input to the link, under the link's number.
    pub(in crate::stateless) respond: Box<dyn Fn(u64, Message) + Send + Sync>,
}

/// One open question of a server.
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) json: String,
}

impl InputRequests {
    /// Whether the caller declared the capability for this question.
    pub(super) fn allow(&self, message: &[u8]) -> bool {
        let method = Envelope::parse(message).ok().and_then(|envelope| envelope.method);
        let needed = match method {
            Some(Method::ElicitationCreate) => "elicitation",
            Some(Method::SamplingCreateMessage) => "sampling",
            Some(Method::RootsList) => "roots",
            _ => return false,
        };
        self.capabilities.get(needed).is_some_and(|declared| !declared.is_null())
    }
}
