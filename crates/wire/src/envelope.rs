//! One scan over one JSON-RPC message: kind, id, method, and the few parameters the gateway decides on.
//!
//! No tree is built. What the gateway does not read is skipped, what it reads refuses duplicate keys (so that the
//! value it decided on is the value any other parser sees), and everything is a view into the original bytes:
//! messages are forwarded by splicing those bytes, never by serialising a model.

use std::{borrow::Cow, fmt, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    id::{IdValue, RpcId},
    method::Method,
};

mod batch;
mod peek;
mod scan;
mod strict;

pub use batch::{MAX_BATCH, is_batch, split_batch, split_batch_of};
pub use peek::is_response;

/// Byte offsets of a value inside a message.
pub type Span = Range<usize>;

/// A borrowed view of one JSON-RPC message.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// The method; absent in responses.
    pub method: Option<Method>,
    /// The parameters the gateway reads.
    pub params: Params<'a>,
    /// What the gateway reads of a result.
    pub result: ResultView,
    id: Option<&'a RawValue>,
    /// What another parser could read differently.
    doubt: Option<String>,
    text: &'a str,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has a method and an id: wants an answer.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has a result.
    Success,
    /// Has an error.
    Failure,
}

/// The parameters the gateway reads for a decision. Everything else passes unread.
#[derive(Debug, Default)]
pub struct Params<'a> {
    /// `params.name`: the tool or prompt.
    pub name: Option<Cow<'a, str>>,
    /// `params.uri`: the resource.
    pub uri: Option<Cow<'a, str>>,
    /// `params.protocolVersion` of `initialize`.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `params.requestId` of `notifications/cancelled`.
    pub request_id: Option<&'a RawValue>,
    /// `params.progressToken` of `notifications/progress`; `null` counts as absent.
    pub progress_token: Option<&'a RawValue>,
    /// `params._meta.progressToken` of a request; `null` counts as absent.
    pub meta_progress_token: Option<&'a RawValue>,
    /// Whether `params.cursor` is there and not null.
    pub has_cursor: bool,
    /// `params.cursor` as it came; `null` counts as absent.
    pub cursor: Option<&'a RawValue>,
    /// `params.level` of `logging/setLevel` and `notifications/message`.
    pub level: Option<Cow<'a, str>>,
    /// Whether `params.task` is there and not null: the call is to be run as a task.
    pub has_task: bool,
    /// Whether `params._meta` carries the 2026-07-28 protocol version key.
    pub is_modern: bool,
    /// What another parser could read differently.
    doubt: Option<String>,
    /// A string that is read here is none that Unicode knows.
    unreadable: bool,
}

/// What the gateway reads of a result: only whether a tool said it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultView {
    /// `result.isError`.
    pub is_error: bool,
    present: bool,
}

/// Why bytes are not a message.
#[derive(Debug)]
pub struct DecodeError {
    /// Byte offset of the defect, as near as it is known.
    pub offset: usize,
    /// Which of the two JSON-RPC codes it is.
    pub kind: DecodeKind,
    /// One sentence for the sender.
    pub reason: Cow<'static, str>,
    /// The id, where the message was readable enough to have one: error bodies must echo it.
    pub id: Option<RpcId>,
}

/// Malformed JSON, or JSON that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeKind {
    /// -32700.
    Parse,
    /// -32600.
    Invalid,
    /// -32600, a batch array.
    Batch,
}

impl DecodeKind {
    /// The JSON-RPC code.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::Invalid | Self::Batch => -32600,
        }
    }
}

impl<'a> Envelope<'a> {
    /// Reads one message in one scan.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but exactly one well-formed JSON-RPC 2.0 message in strict UTF-8.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            DecodeError::new(DecodeKind::Parse, e.valid_up_to(), "the body is not valid UTF-8")
        })?;
        if is_batch(bytes) {
            return Err(DecodeError::new(DecodeKind::Batch, 0, "a batch where one message is expected"));
        }
        let raw: RawEnvelope<'a> = serde_json::from_str(text).map_err(|e| decode_error(text, &e))?;
        raw.check(text)
    }

    /// The id, checked.
    ///
    /// # Errors
    /// A sentence for the sender when the id is of a kind that is refused.
    pub fn id(&self) -> Option<Result<RpcId, &'static str>> {
        self.id.map(RpcId::parse)
    }

    /// The value of the id without keeping its bytes: for looking up an answer.
    #[must_use]
    pub fn id_value(&self) -> Option<IdValue> {
        self.id.and_then(|raw| IdValue::parse(raw).ok())
    }

    /// Whether the id is there and `null`.
    #[must_use]
    pub fn is_null_id(&self) -> bool {
        self.id.is_some_and(|raw| raw.get() == "null")
    }

    /// The request of ours a backend's message answers, and whether its id is not written as we wrote it.
    #[must_use]
    pub fn answers(&self) -> Option<(u64, bool)> {
        self.id.and_then(IdValue::number_of)
    }

    /// Where the id stands in the bytes.
    #[must_use]
    pub fn id_span(&self) -> Option<Span> {
        self.id.map(|raw| span_of(self.text, raw.get()))
    }

    /// Where the request's progress token stands.
    #[must_use]
    pub fn meta_token_span(&self) -> Option<Span> {
        self.params.meta_progress_token.map(|raw| span_of(self.text, raw.get()))
    }

    /// Where the token of a progress notification stands.
    #[must_use]
    pub fn token_span(&self) -> Option<Span> {
        self.params.progress_token.map(|raw| span_of(self.text, raw.get()))
    }

    /// Where the cursor of a list request stands.
    #[must_use]
    pub fn cursor_span(&self) -> Option<Span> {
        self.params.cursor.map(|raw| span_of(self.text, raw.get()))
    }

    /// Where the id of a cancelled request stands.
    #[must_use]
    pub fn request_id_span(&self) -> Option<Span> {
        self.params.request_id.map(|raw| span_of(self.text, raw.get()))
    }
}

impl DecodeError {
    /// A batch that is refused as a whole.
    #[must_use]
    pub fn of_batch(reason: &'static str) -> Self {
        Self::new(DecodeKind::Batch, 0, reason)
    }

    /// Whether it is JSON that ends too early.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.kind == DecodeKind::Parse && self.reason.starts_with("EOF while parsing")
    }

    fn new(kind: DecodeKind, offset: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { offset, kind, reason: reason.into(), id: None }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.reason, self.offset)
    }
}

impl std::error::Error for DecodeError {}

/// What the scan finds, before it is known to be a message.
#[derive(Default)]
struct RawEnvelope<'a> {
    jsonrpc: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    params: Option<Params<'a>>,
    result: Option<ResultView>,
    error: bool,
    doubt: Option<String>,
}

impl<'a> RawEnvelope<'a> {
    fn check(self, text: &'a str) -> Result<Envelope<'a>, DecodeError> {
        let invalid = |reason: &'static str| DecodeError {
            id: self.id.and_then(|raw| RpcId::parse(raw).ok()),
            ..DecodeError::new(DecodeKind::Invalid, 0, reason)
        };
        if self.jsonrpc.as_deref() != Some("2.0") {
            return Err(invalid("\"jsonrpc\" must be exactly \"2.0\""));
        }
        let kind = match (&self.method, self.id, self.result.is_some(), self.error) {
            (Some(_), Some(_), false, false) => Kind::Request,
            (Some(_), None, false, false) => Kind::Notification,
            (None, Some(_), true, false) => Kind::Success,
            // An error may come without id: the sender could not read ours.
            (None, _, false, true) => Kind::Failure,
            (None, None, true, false) => return Err(invalid("a result needs an id")),
            (None, _, false, false) => return Err(invalid("neither a method nor a result nor an error")),
            _ => return Err(invalid("a message is a request, a notification or a response, not several")),
        };
        Ok(Envelope {
            kind,
            method: self.method.as_deref().map(Method::parse),
            params: self.params.unwrap_or_default(),
            result: self.result.unwrap_or_default(),
            id: self.id,
            doubt: self.doubt,
            text,
        })
    }
}

/// The offset of a borrowed slice inside the text it was borrowed from.
pub(crate) fn span_of(text: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

fn decode_error(text: &str, error: &serde_json::Error) -> DecodeError {
    let line_start: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column()).min(text.len());
    let kind = match error.classify() {
        serde_json::error::Category::Data => DecodeKind::Invalid,
        _ => DecodeKind::Parse,
    };
    let message = error.to_string();
    // serde_json appends its own line and column; the offset says it better for one-line bodies.
    let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
    // Only malformed JSON has no id to echo; for the rest a second, lenient look is worth it.
    let id = (kind == DecodeKind::Invalid).then(|| lenient_id(text)).flatten();
    DecodeError { id, ..DecodeError::new(kind, offset, reason) }
}

fn lenient_id(text: &str) -> Option<RpcId> {
    #[derive(Deserialize)]
    struct OnlyId<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    serde_json::from_str::<OnlyId<'_>>(text).ok()?.id.and_then(|raw| RpcId::parse(raw).ok())
}

#[cfg(test)]
mod tests;
