//! One scan over one JSON-RPC message: kind, id, method, and the few parameters the gateway decides on.
//!
//! The scan builds no tree and skips what the gateway does not read. Duplicate keys of what it reads are errors, so
//! every other parser sees the value that the gateway decided on. All parts are views into the original bytes: messages
//! are forwarded by splicing those bytes, never by serialising a model.

use std::{borrow::Cow, fmt, ops::Range};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    id::{IdValue, RpcId},
    lenient::raw_member,
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
    /// The part of a result that the gateway reads.
    pub result: ResultView,
    id: Option<&'a RawValue>,
    /// Ambiguity found: another parser could read the message differently.
    ambiguity: Option<String>,
    text: &'a str,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A method and an id: expects a response.
    Request,
    /// A method without an id.
    Notification,
    /// A result.
    Success,
    /// An error.
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
    /// True if `params.cursor` is present and not null.
    pub has_cursor: bool,
    /// `params.cursor` as it came; `null` counts as absent.
    pub cursor: Option<&'a RawValue>,
    /// `params.level` of `logging/setLevel` and `notifications/message`.
    pub level: Option<Cow<'a, str>>,
    /// True if `params.task` is present and not null: the call is to run as a task.
    pub has_task: bool,
    /// True if `params._meta` has the protocol version key of 2026-07-28.
    pub is_modern: bool,
    /// Ambiguity found: another parser could read the params differently.
    ambiguity: Option<String>,
    /// True if a string that the gateway reads is not valid Unicode.
    unreadable: bool,
}

/// The part of a result that the gateway reads: whether the tool reported an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultView {
    /// `result.isError`.
    pub is_error: bool,
    present: bool,
}

/// A decoding failure: the bytes are not one JSON-RPC message.
#[derive(Debug)]
pub struct DecodeError {
    /// Byte offset of the defect; approximate.
    pub offset: usize,
    /// The class of the failure, with its JSON-RPC code.
    pub kind: DecodeKind,
    /// One sentence for the sender.
    pub reason: Cow<'static, str>,
    /// The request id if it was readable; error bodies must echo it.
    pub id: Option<RpcId>,
}

/// The class of a decoding failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeKind {
    /// -32700: malformed JSON.
    Parse,
    /// -32600: JSON, but not a message.
    Invalid,
    /// -32600: a batch array.
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
        if u32::try_from(bytes.len()).is_err() {
            return Err(DecodeError::new(DecodeKind::Invalid, 0, "the message is larger than 4 GiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            DecodeError::new(DecodeKind::Parse, e.valid_up_to(), "the body is not valid UTF-8")
        })?;
        if is_batch(bytes) {
            return Err(DecodeError::new(DecodeKind::Batch, 0, "a batch where one message is expected"));
        }
        let raw: RawEnvelope<'a> = serde_json::from_str(text).map_err(|e| decode_error(text, &e))?;
        raw.check(text)
    }

    /// The validated id; `None` if the message has none.
    ///
    /// # Errors
    /// One sentence for the sender if the id's type or size is not allowed.
    pub fn id(&self) -> Option<Result<RpcId, &'static str>> {
        self.id.map(RpcId::parse)
    }

    /// The id's value without its bytes, to look up a response. `None` if absent or invalid.
    #[must_use]
    pub fn id_value(&self) -> Option<IdValue> {
        self.id.and_then(|raw| IdValue::parse(raw).ok())
    }

    /// True if the id is present and `null`.
    #[must_use]
    pub fn is_null_id(&self) -> bool {
        self.id.is_some_and(|raw| raw.get() == "null")
    }

    /// The gateway's request id that a backend's message answers. The flag is true if the backend wrote the id
    /// differently than the gateway did.
    #[must_use]
    pub fn answers(&self) -> Option<(u64, bool)> {
        self.id.and_then(IdValue::number_of)
    }

    /// The id's byte span.
    #[must_use]
    pub fn id_span(&self) -> Option<Span> {
        self.id.map(|raw| span_of(self.text, raw.get()))
    }

    /// The byte span of a request's progress token.
    #[must_use]
    pub fn meta_token_span(&self) -> Option<Span> {
        self.params.meta_progress_token.map(|raw| span_of(self.text, raw.get()))
    }

    /// The byte span of a progress notification's token.
    #[must_use]
    pub fn token_span(&self) -> Option<Span> {
        self.params.progress_token.map(|raw| span_of(self.text, raw.get()))
    }

    /// The byte span of a list request's cursor.
    #[must_use]
    pub fn cursor_span(&self) -> Option<Span> {
        self.params.cursor.map(|raw| span_of(self.text, raw.get()))
    }

    /// The byte span of a tool's or prompt's name, quotes included.
    #[must_use]
    pub fn name_span(&self) -> Option<Span> {
        self.string_span("name", self.params.name.as_ref())
    }

    /// The byte span of a resource's URI, quotes included.
    #[must_use]
    pub fn uri_span(&self) -> Option<Span> {
        self.string_span("uri", self.params.uri.as_ref())
    }

    /// The byte span of a string of the params, quotes included. One with escapes is looked for again: its value is no
    /// view into the text.
    fn string_span(&self, key: &str, value: Option<&Cow<'a, str>>) -> Option<Span> {
        match value? {
            Cow::Borrowed(value) => {
                let inside = span_of(self.text, value);
                Some(inside.start - 1..inside.end + 1)
            }
            Cow::Owned(_) => {
                let text = raw_member(raw_member(self.text, "params")?, key)?;
                Some(span_of(self.text, text))
            }
        }
    }

    /// The byte span of the id in `notifications/cancelled`.
    #[must_use]
    pub fn request_id_span(&self) -> Option<Span> {
        self.params.request_id.map(|raw| span_of(self.text, raw.get()))
    }
}

impl DecodeError {
    /// A batch refused as a whole.
    #[must_use]
    pub fn of_batch(reason: &'static str) -> Self {
        Self::new(DecodeKind::Batch, 0, reason)
    }

    /// True if the JSON ends too early.
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

/// Raw scan result, not validated yet.
#[derive(Default)]
struct RawEnvelope<'a> {
    jsonrpc: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    params: Option<Params<'a>>,
    result: Option<ResultView>,
    error: bool,
    ambiguity: Option<String>,
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
            // An error may lack the id: its sender could not read ours.
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
            ambiguity: self.ambiguity,
            text,
        })
    }
}

/// The byte span of a slice inside the text it was borrowed from.
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
    // serde_json appends line and column; for one-line bodies the offset is clearer.
    let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
    // Malformed JSON has no id to echo. Otherwise read the id alone.
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
