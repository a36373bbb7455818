//! Errors of the gateway itself, with the codes of SEMANTICS.md 9.3.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// Execution state of a failed call: whether the backend ran it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// Not run: nothing was sent, or the backend rejected the call before running it.
    No,
    /// Possibly run: the call was sent and the answer lost.
    Maybe,
    /// Run: the backend answered.
    Yes,
}

/// The error kind, as far as a caller can act on it. Each kind has one JSON-RPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// -31901: the backend cannot be reached or does not complete its handshake.
    Unavailable,
    /// -31902: the queue timeout passed before a session became free.
    QueueTimeout,
    /// -31903: a limit of the gateway or the backend is reached.
    Overloaded,
    /// -31904: the circuit breaker of the backend is open.
    CircuitOpen,
    /// -31905: the session broke while the call was in flight.
    Lost,
    /// -31906: the call's deadline passed.
    Deadline,
    /// -31907: no agent can answer this server request.
    NotRoutable,
    /// -31908: the backend's answer is larger than the limit.
    TooLarge,
    /// -31909: the gateway or the backend is draining.
    Draining,
    /// -31910: policy forbids the call (credentials, hosts).
    Denied,
    /// -31911: the backend broke the protocol.
    ProtocolViolation,
    /// -32601: this session cannot carry the method.
    MethodNotFound,
    /// -32602: the gateway rejects the parameters.
    InvalidParams,
    /// -32600: the gateway rejects the message.
    InvalidRequest,
    /// -32800: the agent cancelled the call and expects no answer.
    Cancelled,
}

/// A failed call: the backend gave no answer.
#[derive(Clone, Debug)]
pub struct CallError {
    /// The error kind.
    pub kind: ErrorKind,
    /// Whether the backend may have run the call.
    pub executed: Executed,
    /// One sentence for the caller: what failed, which limit, how long. No hosts, paths or tokens.
    pub message: Cow<'static, str>,
    /// The backend's configured name.
    pub backend: Option<Arc<str>>,
    /// The time to wait before a retry makes sense.
    pub retry_after: Option<Duration>,
    /// The number of attempts.
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

    /// The value of `data.kind`, also used in logs.
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
    /// An error before anything was sent.
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

    /// Sets the execution state.
    #[must_use]
    pub fn executed(mut self, executed: Executed) -> Self {
        self.executed = executed;
        self
    }

    /// Sets the backend's name.
    #[must_use]
    pub fn of_backend(mut self, backend: Arc<str>) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Sets the time to wait before a retry.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// True if the caller may safely send the call again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        // A call that may have run must not be repeated blindly; an invalid message stays invalid.
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
