//! The log line of a call that ended.

use std::time::Duration;

use mcpool_front::CallEnd;
use mcpool_wire::ErrorKind;
use tracing::{debug, info, warn};

pub(super) const QUIET: u8 = 0;
pub(super) const OWN: u8 = 1;
pub(super) const FAILED: u8 = 2;

/// Logs the end of a call; `HOW` is one of the constants above.
pub(super) fn line<const HOW: u8>(end: &CallEnd<'_>, unsaid: u64) {
    if HOW == QUIET && !tracing::enabled!(target: CALL, tracing::Level::DEBUG) {
        return;
    }
    let left_out = left_out(unsaid);
    let trace = end.trace;
    let [leased_ms, sent_ms, accepted_ms, last_part_ms] = trace.rungs_ms().map(|ms| ms.map(rounded));
    let cause = end.error.map(|error| error.kind.as_str());
    let why = end.error.map(|error| error.message.as_ref());
    // The last attempt's error, if the final one is about something else (deadline, queue).
    let attempt = trace.cause().filter(|cause| !why.is_some_and(|why| why.contains(cause.as_str())));
    let (outcome, executed, attempts) = (end.outcome.as_str(), end.executed.as_str(), trace.attempts());
    // Methods are chosen by agents, so long ones are cut.
    let method: String = end.method.as_str().chars().take(MAX_METHOD).collect();
    let (request_id, agent, backend, session) = (end.request_id, end.agent, end.backend, trace.session());
    let took_ms = millis(end.took);
    if HOW == FAILED {
        warn!(
            target: CALL, %request_id, %agent, backend, session, method, outcome, executed, cause, why, attempt,
            attempts, leased_ms, sent_ms, accepted_ms, last_part_ms, took_ms, left_out, "call failed"
        );
    } else if HOW == OWN {
        info!(
            target: CALL, %request_id, %agent, backend, method, outcome, executed, cause, why, took_ms, left_out,
            "call refused"
        );
    } else {
        debug!(
            target: CALL, %request_id, %agent, backend, session, method, outcome, executed, cause, attempts,
            leased_ms, sent_ms, accepted_ms, last_part_ms, took_ms, "call ended"
        );
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// Rounds to microseconds.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

/// True if the error is the agent's own mistake.
pub(super) fn is_agents_own(end: &CallEnd<'_>) -> bool {
    end.error.is_some_and(|error| match error.kind {
        ErrorKind::MethodNotFound
        | ErrorKind::InvalidParams
        | ErrorKind::InvalidRequest
        | ErrorKind::Denied => true,
        ErrorKind::Deadline
        | ErrorKind::QueueTimeout
        | ErrorKind::Cancelled
        | ErrorKind::Lost
        | ErrorKind::ProtocolViolation
        | ErrorKind::TooLarge
        | ErrorKind::Unavailable
        | ErrorKind::Overloaded
        | ErrorKind::CircuitOpen
        | ErrorKind::NotRoutable
        | ErrorKind::Draining => false,
    })
}

/// The count, unless it is zero.
pub(super) fn left_out(unsaid: u64) -> Option<u64> {
    (unsaid > 0).then_some(unsaid)
}

pub(super) const CALL: &str = "mcpool::call";
/// Maximum length of a method in the log.
pub(super) const MAX_METHOD: usize = 64;
