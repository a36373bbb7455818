//! Message rewriting by splicing: replaces ids and cuts members out of lists.
//!
//! All other bytes are forwarded unchanged.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    envelope::{Envelope, Kind, Span},
    error::CallError,
    id::RpcId,
    method::Method,
};

/// One message and the spans of the ids that the gateway rewrites.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    id: Option<Span>,
    token: Option<Span>,
}

impl Message {
    /// A parsed message with the spans of its id and progress token: a request has it in `_meta`, a progress
    /// notification in `params`.
    #[must_use]
    pub fn new(bytes: Bytes, envelope: &Envelope<'_>) -> Self {
        // Any other `progressToken` belongs to the backend.
        let token = match (envelope.kind, &envelope.method) {
            (Kind::Request, _) => envelope.meta_token_span(),
            (Kind::Notification, Some(Method::Progress)) => envelope.token_span(),
            (Kind::Notification | Kind::Success | Kind::Failure, _) => None,
        };
        Self { id: envelope.id_span(), token, bytes }
    }

    /// The bytes as received.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// True if the message has a progress token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The progress token as received.
    #[must_use]
    pub fn token(&self) -> Option<Bytes> {
        self.token.clone().map(|span| self.bytes.slice(span))
    }

    /// The upstream form: this number replaces both id and progress token.
    #[must_use]
    pub fn with_id_and_token(&self, id: u64) -> Bytes {
        let id = id.to_string();
        self.splice(Some(id.as_bytes()), Some(id.as_bytes()))
    }

    /// The agent's form: `id` replaces the id.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Bytes {
        self.splice(Some(id), None)
    }

    /// A progress notification under another token.
    #[must_use]
    pub fn with_token(&self, token: &[u8]) -> Bytes {
        self.splice(None, Some(token))
    }

    /// The bytes as text; always valid UTF-8, because they were parsed as an envelope.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// Cuts these spans, sorted and disjoint, out of the message.
    pub(crate) fn without(&self, cuts: &[Span]) -> Self {
        let gone: usize = cuts.iter().map(Span::len).sum();
        let mut out = BytesMut::with_capacity(self.bytes.len().saturating_sub(gone));
        let mut at = 0;
        for cut in cuts {
            out.put_slice(&self.bytes[at..cut.start]);
            at = cut.end;
        }
        out.put_slice(&self.bytes[at..]);
        let moved = |span: &Span| {
            let before = cuts.iter().take_while(|cut| cut.end <= span.start);
            let by: usize = before.map(Span::len).sum();
            span.start - by..span.end - by
        };
        Self { id: self.id.as_ref().map(moved), token: self.token.as_ref().map(moved), bytes: out.freeze() }
    }

    fn splice(&self, id: Option<&[u8]>, token: Option<&[u8]>) -> Bytes {
        let mut cuts: [Option<(&Span, &[u8])>; 2] =
            [self.id.as_ref().zip(id), self.token.as_ref().zip(token)];
        cuts.sort_by_key(|cut| cut.map_or(usize::MAX, |(span, _)| span.start));
        let grown = id.map_or(0, <[u8]>::len) + token.map_or(0, <[u8]>::len);
        let mut out = BytesMut::with_capacity(self.bytes.len() + grown);
        let mut at = 0;
        for (span, with) in cuts.into_iter().flatten() {
            out.put_slice(&self.bytes[at..span.start]);
            out.put_slice(with);
            at = span.end;
        }
        out.put_slice(&self.bytes[at..]);
        out.freeze()
    }
}

/// A JSON-RPC error body for this id; `null` if there is no id to echo.
#[must_use]
pub fn error_response(
    id: Option<&RpcId>,
    code: i32,
    message: &str,
    data: Option<&serde_json::Value>,
) -> Bytes {
    let mut error = serde_json::json!({ "code": code, "message": message });
    if let (Some(data), Some(map)) = (data, error.as_object_mut()) {
        map.insert("data".to_owned(), data.clone());
    }
    body(id, "error", error.to_string().as_bytes())
}

/// A JSON-RPC result body for this id.
#[must_use]
pub fn result_response(id: &RpcId, result: &[u8]) -> Bytes {
    body(Some(id), "result", result)
}

fn body(id: Option<&RpcId>, key: &str, value: &[u8]) -> Bytes {
    let id = id.map_or(b"null".as_slice(), RpcId::raw);
    let mut out = BytesMut::with_capacity(value.len() + id.len() + 40);
    out.put_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.put_slice(id);
    out.put_slice(b",\"");
    out.put_slice(key.as_bytes());
    out.put_slice(b"\":");
    out.put_slice(value);
    out.put_slice(b"}");
    out.freeze()
}

impl CallError {
    /// The caller's JSON-RPC error body (SEMANTICS.md 9.3). `request_id` finds the call in the log.
    #[must_use]
    pub fn to_response(&self, id: Option<&RpcId>, request_id: &str) -> Bytes {
        let mut data = serde_json::json!({
            "source": "gateway",
            "kind": self.kind.as_str(),
            "executed": self.executed.as_str(),
            "retryable": self.is_retryable(),
            "attempt": self.attempt,
            "request_id": request_id,
        });
        if let Some(map) = data.as_object_mut() {
            if let Some(backend) = &self.backend {
                map.insert("backend".to_owned(), backend.as_ref().into());
            }
            if let Some(after) = self.retry_after {
                let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                map.insert("retry_after_ms".to_owned(), ms.into());
            }
        }
        error_response(id, self.kind.code(), &self.message, Some(&data))
    }
}

#[cfg(test)]
mod tests;
