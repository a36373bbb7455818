//! What travels up the stack, and its translation into the error an agent gets: done once, here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcpool_breaker::Rejected;
use mcpool_upstream::{Cause, Lane, SendError, SendPhase};
use mcpool_wire::{CallError, ErrorKind, Executed};

/// Why a layer has no answer.
#[derive(Clone, Debug)]
pub enum StackError {
    /// No slot now: wait in this lane.
    Full(Lane),
    /// The circuit is not closed.
    Shut(Rejected),
    /// Nothing more may be sent now: look again at this moment, or when called.
    Later(Instant, HeldBy),
    /// An attempt failed.
    Failed(SendError),
    /// The registration of the backend ended while the call waited: it can be sent to the one that follows.
    Left,
    /// It is over.
    Ended(CallError),
}

/// What holds a call back for which there may be a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// The backend has only just recovered.
    SlowStart,
    /// The backend is at its limit and asked to be left alone.
    Pressure,
}

impl From<Rejected> for StackError {
    fn from(rejected: Rejected) -> Self {
        Self::Shut(rejected)
    }
}

/// The error of a call whose last attempt failed like this.
pub(super) fn failed(error: &SendError, backend: &Arc<str>) -> CallError {
    let kind = match &error.cause {
        // It was sent; only then nobody could be reached any more.
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

/// Tells the agent's link that the call waits for nothing here. An agent sees it only if nothing follows the backend.
pub(crate) fn left(backend: &Arc<str>) -> CallError {
    let message = format!("backend {backend:?} is no longer configured");
    CallError::not_sent(ErrorKind::Draining, message).of_backend(backend.clone())
}

/// The word for what is known of a failed attempt.
pub(super) fn phase_word(phase: SendPhase) -> &'static str {
    match phase {
        SendPhase::NotSent => "not_sent",
        SendPhase::Refused => "refused",
        SendPhase::MaybeSent => "maybe_sent",
    }
}

/// The error of a call for which there is no place to wait, with when there will be one.
pub(super) fn overloaded(message: String, after: Duration) -> CallError {
    CallError::not_sent(ErrorKind::Overloaded, message).retry_after(after)
}

/// The error of a call that was held as long as the circuit allows.
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
        // Who comes back while the probe is under way is refused once more: its time counts too.
        None => rejected.retry_after + probe,
        // A probe that takes longer than the handshakes before it may take as long again.
        Some(taken) => probe.checked_sub(taken).unwrap_or(taken).min(LONGEST_PROBE),
    };
    let after = after.max(SHORTEST) + SPREAD.mul_f64(rand::random());
    CallError::not_sent(ErrorKind::CircuitOpen, message).of_backend(backend.clone()).retry_after(after)
}

/// What an agent is told to wait at least: zero would invite a busy loop.
const SHORTEST: Duration = Duration::from_millis(50);
/// What a probe is given at most: who comes back too early is refused at once and told anew, who comes late only waits.
const LONGEST_PROBE: Duration = Duration::from_secs(5);
/// Those who come back after an outage do so over this time, and after the probe rather than with it.
const SPREAD: Duration = Duration::from_secs(1);
