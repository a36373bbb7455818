//! Why a message to a backend failed, and what is known about its execution.
//!
//! Everything a transport can say ends up here; no type of an HTTP library leaves its file.

use std::{fmt, time::Duration};

/// How far a failed message got (SEMANTICS.md 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendPhase {
    /// Not one byte was written: certainly not executed.
    NotSent,
    /// Written, and no answer: perhaps executed.
    MaybeSent,
    /// The backend refused it before running it.
    Refused,
}

/// A message that was not answered.
#[derive(Clone, Debug)]
pub struct SendError {
    /// How far it got.
    pub phase: SendPhase,
    /// Why.
    pub cause: Cause,
}

/// Why a message failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody listens, or the name does not resolve. Decisive at once.
    Connect(String),
    /// TLS failed.
    Tls(String),
    /// This process has no descriptor for a connection. Says nothing about the backend.
    Descriptors,
    /// The connection broke.
    Broken(String),
    /// Something took too long; the word names what.
    Timeout(&'static str),
    /// The backend does not know our session (any more).
    SessionLost(Refusal),
    /// The backend is at a limit of its own: 429, or 503 at a session cap.
    Pressure(Refusal),
    /// 502, 503 or 504 of something in front of the backend.
    Gateway(Refusal),
    /// 401 or 403: our credential.
    Credential(Refusal),
    /// "received before initialization": refused, the handshake is not through on its side.
    NotInitialized(Refusal),
    /// The server does not take the version that was agreed (any more): to be agreed anew.
    WrongVersion(Refusal),
    /// The server does not speak this transport here (404, 405, 406, 415 without a session).
    WrongTransport(Refusal),
    /// Any other status.
    Status(Refusal),
    /// A message or event above the limit.
    TooLarge(usize),
    /// The backend broke the protocol.
    Protocol(String),
    /// The session was closed on our side.
    Closed(&'static str),
}

/// What a backend said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Its message, cut to 200 bytes.
    pub message: String,
    /// The code of its JSON-RPC error, where it said one.
    pub code: Option<i64>,
    /// Its `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// Sessions that are lost under one call before that is its result.
const MAX_LOST: u32 = 2;

impl SendError {
    /// Nothing was written.
    #[must_use]
    pub fn not_sent(cause: Cause) -> Self {
        Self { phase: SendPhase::NotSent, cause }
    }

    /// It was written and may have run.
    #[must_use]
    pub fn maybe_sent(cause: Cause) -> Self {
        Self { phase: SendPhase::MaybeSent, cause }
    }

    /// The backend took it, and ended what it had to say without an answer.
    #[must_use]
    pub fn unanswered() -> Self {
        Self::maybe_sent(Cause::Broken(UNANSWERED.to_owned()))
    }

    /// Whether it is [`Self::unanswered`].
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(&self.cause, Cause::Broken(why) if why == UNANSWERED)
    }

    /// What the backend said, where it refused by a status.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.cause {
            Cause::SessionLost(refusal)
            | Cause::Pressure(refusal)
            | Cause::Gateway(refusal)
            | Cause::Credential(refusal)
            | Cause::NotInitialized(refusal)
            | Cause::WrongVersion(refusal)
            | Cause::WrongTransport(refusal)
            | Cause::Status(refusal) => Some(refusal),
            Cause::Connect(_)
            | Cause::Tls(_)
            | Cause::Descriptors
            | Cause::Broken(_)
            | Cause::Timeout(_)
            | Cause::TooLarge(_)
            | Cause::Protocol(_)
            | Cause::Closed(_) => None,
        }
    }

    /// The backend refused it before running it.
    #[must_use]
    pub fn refused(cause: Cause) -> Self {
        Self { phase: SendPhase::Refused, cause }
    }
}

const UNANSWERED: &str = "the answer stream ended without an answer";

impl Cause {
    /// Whether the breaker counts it (SEMANTICS.md 8), and under which name.
    #[must_use]
    pub fn incident(&self) -> Option<&'static str> {
        match self {
            Self::Connect(_) => Some("connect"),
            Self::Tls(_) => Some("tls"),
            Self::Broken(_) => Some("broken"),
            Self::Timeout(_) => Some("timeout"),
            Self::Gateway(_) => Some("gateway"),
            Self::Protocol(_) => Some("protocol"),
            // It listens, and cannot serve.
            Self::Status(refusal) if refusal.status >= 500 => Some("server_error"),
            Self::Descriptors
            | Self::SessionLost(_)
            | Self::Pressure(_)
            | Self::Credential(_)
            | Self::NotInitialized(_)
            | Self::WrongVersion(_)
            | Self::WrongTransport(_)
            | Self::Status(_)
            | Self::TooLarge(_)
            | Self::Closed(_) => None,
        }
    }

    /// Whether the backend was there and said something else than what was wanted.
    pub(crate) fn was_answered(&self) -> bool {
        !matches!(
            self,
            Self::Connect(_) | Self::Tls(_) | Self::Broken(_) | Self::Timeout(_) | Self::Closed(_)
        )
    }

    /// Whether whoever answered is there and will say the same again until somebody changes something: it takes no such
    /// request, or not from us.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.is_of_another() || matches!(self, Self::Credential(_))
    }

    /// Whether it may not be the backend that answered: what a proxy says that knows no such place.
    #[must_use]
    pub fn is_of_another(&self) -> bool {
        match self {
            Self::WrongTransport(_) => true,
            Self::Status(refusal) => refusal.status < 500,
            _ => false,
        }
    }

    /// Whether a call may be sent on another session, of which so many sessions were lost: at the second loss the
    /// backend may speak of the call.
    #[must_use]
    pub fn survives(lost: u32) -> bool {
        lost < MAX_LOST || mutant!(SecondSession) && lost < 64
    }

    /// Whether the session can carry nothing more.
    #[must_use]
    pub fn ends_session(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::Tls(_) | Self::SessionLost(_) | Self::WrongVersion(_) | Self::Closed(_)
        )
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for SendError {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {why}"),
            Self::Tls(why) => write!(f, "tls failed: {why}"),
            Self::Descriptors => {
                f.write_str("the gateway has no descriptor for a connection to it: `ulimit -n` is too low")
            }
            Self::Broken(why) => write!(f, "connection broke: {why}"),
            Self::Timeout(what) => write!(f, "{what} took too long"),
            Self::SessionLost(r) => write!(f, "session lost: {r}"),
            Self::Pressure(r) => write!(f, "backend at its limit: {r}"),
            Self::Gateway(r) => write!(f, "backend unreachable behind its proxy: {r}"),
            Self::Credential(r) => write!(f, "credential refused: {r}"),
            Self::NotInitialized(r) => write!(f, "handshake not finished on the backend's side: {r}"),
            Self::WrongVersion(r) => write!(f, "the agreed version is refused: {r}"),
            Self::WrongTransport(r) => write!(f, "not this transport: {r}"),
            Self::Status(r) => write!(f, "unexpected answer: {r}"),
            Self::TooLarge(limit) => write!(f, "message larger than {limit} bytes"),
            Self::Protocol(why) => write!(f, "protocol violation: {why}"),
            Self::Closed(why) => write!(f, "session closed: {why}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.message)
    }
}
