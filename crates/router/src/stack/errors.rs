//! Errors of the stack, and their one translation into agents' errors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcpool_breaker::Rejected;
use mcpool_upstream::{Cause, Lane, SendError, SendPhase};
use mcpool_wire::{CallError, ErrorKind, Executed};

/// The reason a layer returns no response.
#[derive(Clone, Debug)]
pub enum StackError {
    /// No free call permit: wait in this lane.
    Full(Lane),
    /// The circuit is not closed.
    CircuitOpen(Rejected),
    /// Calls are held: try again at this time, or when woken.
    HoldUntil(Instant, HeldBy),
    /// An attempt failed.
    Failed(SendError),
    /// The registration ended while the call waited; its successor can take the call.
    BackendRetired,
    /// The final error.
    Ended(CallError),
}

/// The reason a call is held although permits may be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// The slow start after a recovery.
    SlowStart,
    /// The backend is overloaded and asked for a pause.
    Pressure,
}

impl From<Rejected> for StackError {
    fn from(rejected: Rejected) -> Self {
        Self::CircuitOpen(rejected)
    }
}

/// The agent's error after the last failed attempt.
pub(super) fn failed(error: &SendError, backend: &Arc<str>) -> CallError {
    let kind = match &error.cause {
        // Sent before the connection failed.
        Cause::Connect(_) | Cause::Tls(_) if error.phase == SendPhase::MaybeSent => ErrorKind::Lost,
        Cause::Connect(_) | Cause::Tls(_) | Cause::Gateway(_) | Cause::NotInitialized(_) => {
            ErrorKind::Unavailable
        }
        Cause::Broken(_) | Cause::SessionLost(_) | Cause::Closed(_) => ErrorKind::Lost,
        Cause::Timeout(_) => ErrorKind::Deadline,
        Cause::Pressure(_) | Cause::Descriptors => ErrorKind::Overloaded,
        Cause::Credential(_) => ErrorKind::Denied,
        Cause::WrongVersion(_) | Cause::WrongTransport(_) | Cause::Status(_) | Cause::Protocol(_) => {
            ErrorKind::ProtocolViolation
        }
        Cause::TooLarge(_) => ErrorKind::TooLarge,
    };
    let executed = match error.phase {
        SendPhase::NotSent | SendPhase::Refused => Executed::No,
        SendPhase::MaybeSent => Executed::Maybe,
    };
    let mut failed = CallError::not_sent(kind, format!("backend {backend:?}: {error}"))
        .executed(executed)
        .of_backend(backend.clone());
    if let Cause::Pressure(refusal) = &error.cause {
        failed.retry_after = refusal.retry_after;
    }
    failed
}

/// The error that makes the agent's link look for the successor. Agents see it only if there is none.
pub(crate) fn backend_retired(backend: &Arc<str>) -> CallError {
    let message = format!("backend {backend:?} is no longer configured");
    CallError::not_sent(ErrorKind::Draining, message).of_backend(backend.clone())
}

/// The name of a failure's phase.
pub(super) fn phase_word(phase: SendPhase) -> &'static str {
    match phase {
        SendPhase::NotSent => "not_sent",
        SendPhase::Refused => "refused",
        SendPhase::MaybeSent => "maybe_sent",
    }
}

/// The error for a full queue, with the expected wait.
pub(super) fn overloaded(message: String, after: Duration) -> CallError {
    CallError::not_sent(ErrorKind::Overloaded, message).retry_after(after)
}

/// The error after the circuit breaker's `hold`.
pub(super) fn circuit_open(
    rejected: Rejected,
    backend: &Arc<str>,
    why: Option<String>,
    handshake: Duration,
) -> CallError {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!("the circuit of backend {backend:?} is open{why}");
    let probe = (handshake * 2).min(LONGEST_PROBE);
    let after = match rejected.probing {
        // A retry during the probe would be rejected again, so the wait includes the probe.
        None => rejected.retry_after + probe,
        // A slower probe than earlier handshakes may take as long again.
        Some(taken) => probe.checked_sub(taken).unwrap_or(taken).min(LONGEST_PROBE),
    };
    let after = after.max(SHORTEST) + SPREAD.mul_f64(rand::random());
    CallError::not_sent(ErrorKind::CircuitOpen, message).of_backend(backend.clone()).retry_after(after)
}

/// Minimum `retry_after`: zero would cause a busy loop.
const SHORTEST: Duration = Duration::from_millis(50);
/// Maximum time allowed for a probe. An early retry is rejected with a new wait; a late one only waits.
const LONGEST_PROBE: Duration = Duration::from_secs(5);
/// Retries after an outage are spread over this time, after the probe.
const SPREAD: Duration = Duration::from_secs(1);
