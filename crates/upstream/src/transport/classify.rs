//! What a refusal of a backend means: status and message patterns as data (SEMANTICS.md 7, PROTOCOL.md 11).
//!
//! The first rule that fits decides. Servers spell the same condition in many ways (a lost session is 404 in most
//! and 400 in some), so a status alone is never enough and a body alone never is either. The fixtures in the
//! tests are the bodies of real servers; a new spelling is a new line here and there.

use std::time::Duration;

use mcpool_wire::{Envelope, Kind};

use crate::error::{Cause, Refusal, SendError, SendPhase};

/// What we asked for when we were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `initialize`, or the stream of an HTTP+SSE session: there is no session yet.
    Open,
    /// A message of a session.
    Message {
        /// Whether the backend gave us a session.
        has_session: bool,
    },
    /// The stream of a session.
    Listen,
}

/// A refusal as it came.
#[derive(Clone, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) retry_after: Option<Duration>,
}

type Verdict = fn(Refusal) -> Cause;

struct Rule {
    statuses: &'static [u16],
    /// Lower case; one of them has to be in the message. Empty: any message.
    says: &'static [&'static str],
    asked: fn(Asked) -> bool,
    cause: Verdict,
    phase: SendPhase,
}

const SESSION: &[&str] = &[
    "missing session id",
    "no valid session id",
    "invalid session id",
    "session id is required",
    "session id required",
    "session-id header is required",
    "session_id is required",
    "sessionid is required",
    "session not found",
    "could not find session",
    "unknown session",
    "no active session",
    "session expired",
    "session has been terminated",
    "session terminated",
    "server not initialized",
    "sse connection not established",
    "no transport found for sessionid",
];

const NOT_INITIALIZED: &[&str] = &["before initialization"];

const VERSION: &[&str] = &["unsupported protocol version", "unsupported mcp-protocol-version"];

const AT_LIMIT: &[&str] = &["too many", "session", "capacity", "limit", "overload", "busy", "try again"];

/// The transport of a session whose streams are gone already: it may have taken the message before.
const HALF_GONE: &[&str] = &["error handling post request", "closedresourceerror"];

const RULES: &[Rule] = &[
    rule(&[401, 403], &[], any, Cause::Credential, SendPhase::Refused),
    rule(&[400], VERSION, agreed, Cause::WrongVersion, SendPhase::Refused),
    rule(&[429], &[], any, Cause::Pressure, SendPhase::Refused),
    rule(&[400, 404, 409, 410, 500], SESSION, any, Cause::SessionLost, SendPhase::Refused),
    rule(&[400], NOT_INITIALIZED, any, Cause::NotInitialized, SendPhase::Refused),
    rule(&[503], AT_LIMIT, any, Cause::Pressure, SendPhase::Refused),
    rule(&[502, 503, 504], &[], any, Cause::Gateway, SendPhase::MaybeSent),
    rule(&[400, 404, 405, 406, 415, 501], &[], opening, Cause::WrongTransport, SendPhase::Refused),
    rule(&[404], &[], of_session, Cause::SessionLost, SendPhase::Refused),
    rule(&[404, 405, 406, 415], &[], without_session, Cause::WrongTransport, SendPhase::Refused),
    rule(&[500], HALF_GONE, of_session, Cause::SessionLost, SendPhase::MaybeSent),
];

const fn rule(
    statuses: &'static [u16],
    says: &'static [&'static str],
    asked: fn(Asked) -> bool,
    cause: Verdict,
    phase: SendPhase,
) -> Rule {
    Rule { statuses, says, asked, cause, phase }
}

fn any(_: Asked) -> bool {
    true
}

fn opening(asked: Asked) -> bool {
    asked == Asked::Open
}

/// `initialize` itself names no version in its headers.
fn agreed(asked: Asked) -> bool {
    asked != Asked::Open
}

fn of_session(asked: Asked) -> bool {
    asked == Asked::Message { has_session: true }
}

fn without_session(asked: Asked) -> bool {
    matches!(asked, Asked::Listen | Asked::Message { has_session: false })
}

impl Rule {
    fn fits(&self, asked: Asked, status: u16, text: &str) -> bool {
        self.statuses.contains(&status)
            && (self.asked)(asked)
            && (self.says.is_empty() || self.says.iter().any(|pattern| text.contains(pattern)))
    }
}

/// What a refusal means for the message and its session.
pub(crate) fn classify(asked: Asked, refused: &Refused<'_>) -> SendError {
    let refusal = Refusal { retry_after: refused.retry_after, ..Refusal::read(refused.status, refused.body) };
    // A server that speaks of its own limits says so, or says when to come back; a proxy without one does neither.
    if refused.status == 503 && refused.retry_after.is_some() {
        return SendError::refused(Cause::Pressure(refusal));
    }
    let text = refusal.message.to_lowercase();
    match RULES.iter().find(|rule| rule.fits(asked, refused.status, &text)) {
        Some(rule) => SendError { phase: rule.phase, cause: (rule.cause)(refusal) },
        None if refused.status >= 500 => SendError::maybe_sent(Cause::Status(refusal)),
        None => SendError::refused(Cause::Status(refusal)),
    }
}

impl Refusal {
    /// What a status and its body say.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let code = serde_json::from_slice::<Body>(body).ok().map(|body| body.error.code);
        Self { status, message: message_of(body), code: code.filter(|code| *code != 0), retry_after: None }
    }
}

/// Whether the body of a refusal is in truth the backend's answer to this one call: a JSON-RPC error under an
/// integer id, which are ours. Refusals of the transport carry `null`, a word, or no id.
pub(crate) fn is_answer(body: &[u8]) -> bool {
    Envelope::parse(body).is_ok_and(|envelope| {
        envelope.kind == Kind::Failure && matches!(envelope.id_value(), Some(mcpool_wire::IdValue::Num(_)))
    })
}

/// Whether a JSON-RPC answer is how servers say "before initialization was complete" when their handshake is not
/// through yet: the call was not run. Only meaningful right after a handshake, as the same words stand for bad
/// parameters later.
#[must_use]
#[allow(dead_code, reason = "asked by the readiness ladder")]
pub(crate) fn says_before_initialized(answer: &[u8]) -> bool {
    let Ok(Body { error }) = serde_json::from_slice::<Body>(answer) else { return false };
    let message = error.message.to_lowercase();
    match error.code {
        -32602 if message == "invalid request parameters" => error.data.is_none_or(|data| data == ""),
        -32602 | -32600 | -32000 | -32002 => {
            NOT_INITIALIZED.iter().any(|pattern| message.contains(pattern))
                || message.contains("not initialized")
        }
        _ => false,
    }
}

#[derive(serde::Deserialize)]
struct Body {
    error: RpcError,
}

#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "asked by the readiness ladder")]
struct RpcError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Option<serde_json::Value>,
}

/// The message of a JSON-RPC error, or the text, cut to 200 bytes.
fn message_of(body: &[u8]) -> String {
    let mut text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => body.error.message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned(),
    };
    // The text goes into one log line.
    text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=200.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
