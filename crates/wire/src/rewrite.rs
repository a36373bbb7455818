//! Message rewriting by splicing: replaces ids, names and URIs, and cuts members out of lists.
//!
//! All other bytes are forwarded unchanged.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    envelope::{Envelope, Kind, Span},
    error::CallError,
    id::RpcId,
    method::Method,
};

/// One message and the spans of what the gateway rewrites.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    id: Option<Place>,
    token: Option<Place>,
    /// What a request is about: its `params.name` or `params.uri`.
    name: Option<Place>,
}

/// A span in half the room: a message moves through many futures, and an envelope has at most 4 GiB.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    end: u32,
}

impl Place {
    fn of(span: &Span) -> Self {
        let [start, end] = [span.start, span.end].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        Self { start, end }
    }

    fn span(self) -> Span {
        self.start as usize..self.end as usize
    }
}

impl Message {
    /// A parsed message with the spans of its id, progress token and name. A request has the token in `_meta`, a
    /// progress notification in `params`.
    #[must_use]
    pub fn new(bytes: Bytes, envelope: &Envelope<'_>) -> Self {
        // Any other `progressToken` belongs to the backend.
        let token = match (envelope.kind, &envelope.method) {
            (Kind::Request, _) => envelope.meta_token_span(),
            (Kind::Notification, Some(Method::Progress)) => envelope.token_span(),
            (Kind::Notification | Kind::Success | Kind::Failure, _) => None,
        };
        let name = match (envelope.kind, &envelope.method) {
            (Kind::Request, Some(Method::ToolsCall | Method::PromptsGet)) => envelope.name_span(),
            (Kind::Request, _) => envelope.uri_span(),
            (Kind::Notification | Kind::Success | Kind::Failure, _) => None,
        };
        let [id, token, name] = [envelope.id_span(), token, name].map(|span| span.as_ref().map(Place::of));
        Self { id, token, name, bytes }
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
        self.token.map(|place| self.bytes.slice(place.span()))
    }

    /// The upstream form: this number replaces both id and progress token.
    #[must_use]
    pub fn with_id_and_token(&self, id: u64) -> Bytes {
        let id = id.to_string();
        self.splice([(self.id, id.as_bytes()), (self.token, id.as_bytes())])
    }

    /// The upstream form of a request to a backend that calls its name or URI otherwise. The message is copied once.
    #[must_use]
    pub fn with_id_token_and_name(&self, id: u64, name: &str) -> Bytes {
        let (id, name) = (id.to_string(), serde_json::Value::from(name).to_string());
        self.splice([(self.id, id.as_bytes()), (self.token, id.as_bytes()), (self.name, name.as_bytes())])
    }

    /// The same request about another name or URI; unchanged if it has none.
    #[must_use]
    pub fn with_name(&self, name: &str) -> Self {
        let Some(old) = self.name.map(Place::span) else { return self.clone() };
        let name = serde_json::Value::from(name).to_string();
        let bytes = self.splice([(self.name, name.as_bytes())]);
        let moved = |place: Place| match place.span() {
            before if before.start < old.start => place,
            after => {
                let start = after.start - old.len() + name.len();
                Place::of(&(start..start + after.len()))
            }
        };
        let name = Some(Place::of(&(old.start..old.start + name.len())));
        Self { id: self.id.map(moved), token: self.token.map(moved), name, bytes }
    }

    /// The agent's form: `id` replaces the id.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Bytes {
        self.splice([(self.id, id)])
    }

    /// A progress notification under another token.
    #[must_use]
    pub fn with_token(&self, token: &[u8]) -> Bytes {
        self.splice([(self.token, token)])
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
        let moved = |place: Place| {
            let span = place.span();
            let before = cuts.iter().take_while(|cut| cut.end <= span.start);
            let by: usize = before.map(Span::len).sum();
            Place::of(&(span.start - by..span.end - by))
        };
        let [id, token, name] = [self.id, self.token, self.name].map(|place| place.map(moved));
        Self { id, token, name, bytes: out.freeze() }
    }

    /// A copy in which these places, as far as they are there, hold other bytes.
    fn splice<const N: usize>(&self, mut cuts: [(Option<Place>, &[u8]); N]) -> Bytes {
        cuts.sort_by_key(|(place, _)| place.map_or(u32::MAX, |place| place.start));
        let grown: usize = cuts.iter().map(|(_, with)| with.len()).sum();
        let mut out = BytesMut::with_capacity(self.bytes.len() + grown);
        let mut at = 0;
        for (place, with) in cuts {
            let Some(span) = place.map(Place::span) else { continue };
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
