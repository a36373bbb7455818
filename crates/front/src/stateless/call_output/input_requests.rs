//! What a caller can be asked, and what it was.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{Envelope, Message, Method};
use serde_json::Value;

/// How a caller is asked, and how its answers get to who asked.
pub(in crate::stateless) struct InputRequests {
    /// The declared capabilities.
    pub(in crate::stateless) capabilities: Value,
    /// The request, to which what it goes on with is bound.
    pub(in crate::stateless) message: Bytes,
    pub(in crate::stateless) server_info: Arc<str>,
    /// Passes on an answer under the link's number.
    pub(in crate::stateless) respond: Box<dyn Fn(u64, Message) + Send + Sync>,
}

/// One thing a server asked, and waits for.
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) json: String,
}

impl InputRequests {
    /// Whether the caller declared that it can be asked this.
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
