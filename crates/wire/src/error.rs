//! The gateway's own errors, with the codes of SEMANTICS.md 9.3.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// Whether the backend ran the call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// Nothing was sent, or the backend refused it before running it.
    No,
    /// It was sent and the answer was lost: it may have run.
    Maybe,
    /// The backend answered.
    Yes,
}

/// What went wrong, as a caller can act on it. Each kind has one JSON-RPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// -31901: the backend cannot be reached or does not complete its handshake.
    Unavailable,
    /// -31902: no session became free within the queue time.
    QueueTimeout,
    /// -31903: a limit of the gateway or the backend is reached.
    Overloaded,
    /// -31904: the circuit breaker of the backend is open.
    CircuitOpen,
    /// -31905: the session broke while the call was in flight.
    Lost,
    /// -31906: the call's deadline passed.
    Deadline,
    /// -31907: a server request has no agent it could be asked of.
    NotRoutable,
    /// -31908: the backend's answer is larger than the limit.
    TooLarge,
    /// -31909: the gateway or the backend is draining.
    Draining,
    /// -31910: refused by policy (credentials, hosts).
    Denied,
    /// -31911: the backend broke the protocol.
    ProtocolViolation,
    /// -32601: not a method this session can carry.
    MethodNotFound,
    /// -32602: parameters the gateway itself must refuse.
    InvalidParams,
    /// -32600: a message the gateway itself must refuse.
    InvalidRequest,
    /// The agent cancelled the call: nobody waits for an answer.
    Cancelled,
}

/// A call that ended without an answer of the backend.
#[derive(Clone, Debug)]
pub struct CallError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Whether the backend may have run it.
    pub executed: Executed,
    /// One sentence: what, which, how long. No hosts, paths or tokens.
    pub message: Cow<'static, str>,
    /// The backend's configured name.
    pub backend: Option<Arc<str>>,
    /// When a retry makes sense.
    pub retry_after: Option<Duration>,
    /// How many times the gateway tried.
    pub attempt: u32,
}

impl Executed {
    /// `no`, `maybe` or `yes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Maybe => "maybe",
            Self::Yes => "yes",
        }
    }
}

impl ErrorKind {
    /// The JSON-RPC code.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Unavailable => -31901,
            Self::QueueTimeout => -31902,
            Self::Overloaded => -31903,
            Self::CircuitOpen => -31904,
            Self::Lost => -31905,
            Self::Deadline => -31906,
            Self::NotRoutable => -31907,
            Self::TooLarge => -31908,
            Self::Draining => -31909,
            Self::Denied => -31910,
            Self::ProtocolViolation => -31911,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::InvalidRequest => -32600,
            Self::Cancelled => -32800,
        }
    }

    /// The word used in logs and `data.kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "backend_unavailable",
            Self::QueueTimeout => "queue_timeout",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::Lost => "lost_in_flight",
            Self::Deadline => "deadline",
            Self::NotRoutable => "not_routable",
            Self::TooLarge => "answer_too_large",
            Self::Draining => "draining",
            Self::Denied => "denied",
            Self::ProtocolViolation => "backend_protocol_violation",
            Self::MethodNotFound => "method_not_found",
            Self::InvalidParams => "invalid_params",
            Self::InvalidRequest => "invalid_request",
            Self::Cancelled => "cancelled",
        }
    }
}

impl CallError {
    /// An error of this kind of which nothing was sent.
    #[must_use]
    pub fn not_sent(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            executed: Executed::No,
            message: message.into(),
            backend: None,
            retry_after: None,
            attempt: 0,
        }
    }

    /// The same with what is known about execution.
    #[must_use]
    pub fn executed(mut self, executed: Executed) -> Self {
        self.executed = executed;
        self
    }

    /// The same with the backend's name.
    #[must_use]
    pub fn of_backend(mut self, backend: Arc<str>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The same with the time after which a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Whether the caller may simply send it again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // What may have run must not be repeated blindly; what is wrong with the message stays wrong.
        self.executed == Executed::No
            && matches!(
                self.kind,
                ErrorKind::Unavailable
                    | ErrorKind::QueueTimeout
                    | ErrorKind::Overloaded
                    | ErrorKind::CircuitOpen
                    | ErrorKind::Lost
                    | ErrorKind::Deadline
                    | ErrorKind::Draining
            )
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests;
