//! Requests of the gateway's own, on behalf of callers without a session.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{Call, CallTrace, Envelope, Era, Forwarded, Message, Method};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::session::agent::AgentCore;

/// Makes such a request, in the form of the era with handshake: links of both eras understand it.
pub(super) fn own(core: &AgentCore, method: Method, params: &Value, name: Option<&str>) -> Option<Call> {
    let message = json!({ "jsonrpc": "2.0", "id": 0, "method": method.as_str(), "params": params });
    let bytes = Bytes::from(message.to_string());
    let message = Message::new(bytes.clone(), &Envelope::parse(&bytes).ok()?);
    let started = Instant::now().into_std();
    Some(Call {
        caller: Arc::clone(&core.caller),
        request_id: core.common.request_id(),
        method,
        message,
        era: Era::Legacy,
        headers: Forwarded::default(),
        name: name.map(Into::into),
        is_plain_list: false,
        wants_task: false,
        outlet: None,
        hard_deadline: started + core.common.times().open,
        trace: Arc::new(CallTrace::new(started)),
    })
}
