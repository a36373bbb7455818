//! Meaning of an HTTP error status: whether its body is the response, and what is known otherwise (SEMANTICS.md 7 and
//! 9, PROTOCOL.md 11).
//!
//! A JSON-RPC response is the answer whatever its status, except for a transport's own messages ([`phrases`]). Without
//! a response the status decides: 404 loses a session, some statuses reject a message before it ran, and all others
//! leave open whether it ran.

mod phrases;

use std::time::Duration;

use mcpool_wire::{Envelope, Kind, is_response};

use self::phrases::{Meaning, meaning};
use crate::error::{Cause, Refusal, SendError, SendPhase};

/// The kind of the rejected request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `initialize`, or the stream of an HTTP+SSE session: no session exists yet.
    Open,
    /// A message of a session.
    Message {
        /// True if the backend gave us a session.
        has_session: bool,
    },
    /// The stream of a session.
    Listen,
}

/// A rejection as received.
#[derive(Clone, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) retry_after: Option<Duration>,
}

type Verdict = fn(Refusal) -> Cause;

struct Rule {
    statuses: &'static [u16],
    asked: fn(Asked) -> bool,
    cause: Verdict,
    phase: SendPhase,
}

/// Words of a server at its limit, beside 429 and `Retry-After`. Only used for handshakes, where nothing can have run.
const AT_LIMIT: &[&str] = &["too many", "session", "capacity", "limit", "overload", "busy", "try again"];

const RULES: &[Rule] = &[
    rule(&[401, 403], any, Cause::Credential, SendPhase::Refused),
    rule(&[429], any, Cause::Pressure, SendPhase::Refused),
    // A failed server, or a proxy without one, may have forwarded the message.
    rule(&[502, 503, 504], any, Cause::Gateway, SendPhase::MaybeSent),
    rule(&[400, 404, 405, 406, 415, 501], opening, Cause::WrongTransport, SendPhase::Refused),
    rule(&[404], of_session, Cause::SessionLost, SendPhase::Refused),
    rule(&[404], without_session, Cause::WrongTransport, SendPhase::MaybeSent),
    rule(&[405, 406, 415], without_session, Cause::WrongTransport, SendPhase::Refused),
    // By definition these reject the request for its method, headers, size or host.
    rule(&[405, 406, 411, 413, 414, 415, 417, 421, 426, 431], any, Cause::Status, SendPhase::Refused),
];

const fn rule(statuses: &'static [u16], asked: fn(Asked) -> bool, cause: Verdict, phase: SendPhase) -> Rule {
    Rule { statuses, asked, cause, phase }
}

fn any(_: Asked) -> bool {
    true
}

fn opening(asked: Asked) -> bool {
    asked == Asked::Open
}

fn of_session(asked: Asked) -> bool {
    asked == Asked::Message { has_session: true }
}

fn without_session(asked: Asked) -> bool {
    matches!(asked, Asked::Listen | Asked::Message { has_session: false })
}

/// The meaning of a rejection for the message and its session.
pub(crate) fn classify(asked: Asked, refused: &Refused<'_>) -> SendError {
    let Refused { status, body, retry_after } = *refused;
    let refusal = Refusal { retry_after, ..Refusal::read(status, body) };
    if mutant!(WordsBelieved) && speaks_of_session(&refusal.message) {
        return SendError::refused(Cause::SessionLost(refusal));
    }
    if mutant!(StatusBeforeAnswer) && status == 404 {
        return SendError::refused(Cause::SessionLost(refusal));
    }
    if mutant!(RefusedBy503) && status == 503 {
        return SendError::refused(Cause::Pressure(refusal));
    }
    // While opening there is no session to lose and no negotiated version.
    if asked != Asked::Open
        && let Some(meaning) = meaning(status, refusal.code, false, &refusal.message)
    {
        return match meaning {
            Meaning::SessionLost => SendError::refused(Cause::SessionLost(refusal)),
            Meaning::SessionHalfGone => SendError::maybe_sent(Cause::SessionLost(refusal)),
            Meaning::WrongVersion => SendError::refused(Cause::WrongVersion(refusal)),
            Meaning::NotInitialized => SendError::refused(Cause::NotInitialized(refusal)),
        };
    }
    // A server at its own limit says when to retry; a proxy without a server does not.
    if status == 503 && (retry_after.is_some() || asked == Asked::Open && is_at_limit(&refusal.message)) {
        return SendError::maybe_sent(Cause::Pressure(refusal));
    }
    match RULES.iter().find(|rule| rule.statuses.contains(&status) && (rule.asked)(asked)) {
        Some(rule) => SendError { phase: rule.phase, cause: (rule.cause)(refusal) },
        None if mutant!(RefusedWithoutProof) => SendError::refused(Cause::Status(refusal)),
        None => SendError::maybe_sent(Cause::Status(refusal)),
    }
}

/// Only for planted bugs: words prove nothing.
fn speaks_of_session(message: &str) -> bool {
    message.to_lowercase().contains("session")
}

fn is_at_limit(message: &str) -> bool {
    let message = message.to_lowercase();
    AT_LIMIT.iter().any(|words| message.contains(words))
}

impl Refusal {
    /// Parses a status and its body.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let code = serde_json::from_slice::<Body>(body).ok().map(|body| body.error.code);
        Self { status, message: message_of(body), code: code.filter(|code| *code != 0), retry_after: None }
    }

    /// True if a transport's own message says that the session is lost; otherwise only the status does.
    #[must_use]
    pub fn names_lost_session(&self) -> bool {
        meaning(self.status, self.code, false, &self.message) == Some(Meaning::SessionLost)
    }
}

/// True if a message in a rejection's body is the call's answer: a JSON-RPC response that is not a transport's own. A
/// numeric id is ours; most transports' rejections carry `null`, a word or no id, but so do some answers.
pub(crate) fn is_answer(status: u16, message: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(message) else { return is_meant_as_answer(message) };
    let is_ours = envelope.answers().is_some();
    match envelope.kind {
        Kind::Success => true,
        Kind::Failure if is_ours && !matches!(status, 400 | 404) => true,
        // Authentication fails before there is a call.
        Kind::Failure if !is_ours && matches!(status, 401 | 403) => false,
        Kind::Failure => {
            let refusal = Refusal::read(status, message);
            if mutant!(WordsBelieved) && speaks_of_session(&refusal.message) {
                return false;
            }
            meaning(status, refusal.code, is_ours, &refusal.message).is_none()
        }
        Kind::Request | Kind::Notification => false,
    }
}

/// True if a JSON-RPC error means "before initialization was complete", so the call was not run. Valid only right after
/// a handshake, because later the same text means invalid parameters.
#[must_use]
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

/// Texts of servers that say so; checked right after a handshake only.
const NOT_INITIALIZED: &[&str] = &["before initialization"];

/// True for a malformed JSON-RPC response, such as a result without id: the backend did more than reject.
fn is_meant_as_answer(message: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Claim<'a> {
        jsonrpc: Option<&'a str>,
    }
    let claim = serde_json::from_slice::<Claim<'_>>(message).ok();
    claim.is_some_and(|claim| claim.jsonrpc == Some("2.0")) && is_response(message)
}

#[derive(serde::Deserialize)]
struct Body {
    error: RpcError,
}

#[derive(serde::Deserialize)]
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
    // Normalised to one log line.
    text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=200.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
