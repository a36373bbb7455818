//! The state of a backend and its reason, for agents and operators.

use mcpool_breaker::State;
use mcpool_upstream::{BackendStatus, Mode, TrafficState};

use crate::text::count;

/// State and reason from a backend's status and circuit.
pub(crate) fn describe(status: &BackendStatus, circuit: State) -> (&'static str, String) {
    let ready = status.sessions.iter().filter(|s| s.standing == "ready").count();
    let why = status.trouble.as_ref().map(|trouble| trouble.why.clone());
    if status.traffic.0.is_shut() {
        return (status.traffic.0.as_str(), shut_reason(status));
    }
    if let Some(why) = full(status) {
        return ("full", why);
    }
    if ready > 0 {
        let (sessions, agents) = (count(ready, "session"), count(status.agents, "agent"));
        let refused = refused(status).map(|refused| format!("; {refused}")).unwrap_or_default();
        return ("ready", format!("{sessions} ready for {agents}{refused}"));
    }
    match (circuit, why) {
        (State::Open | State::HalfOpen, why) => {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            ("down", format!("circuit {}{why}", circuit.as_str()))
        }
        (State::Closed, Some(why)) => ("down", why),
        (State::Closed, None) if status.opening > 0 => {
            ("connecting", "the first handshake is under way".to_owned())
        }
        (State::Closed, None) => match refused(status) {
            Some(refused) => ("idle", format!("no session is open; {refused}")),
            None => ("idle", "no session is open; the next call opens one".to_owned()),
        },
    }
}

/// The reason for `full`: all sessions are taken, and agents wait for one or pinned agents hold all of them.
fn full(status: &BackendStatus) -> Option<String> {
    let ((taken, limit), waiting) = (status.places, status.applicants.0);
    let pinned = status.sessions.iter().filter(|session| session.mode == Mode::Pinned).count();
    let is_full = taken >= limit && (waiting > 0 || pinned >= limit);
    is_full.then(|| {
        let waiting = count(waiting, "agent");
        format!(
            "{taken} of {limit} sessions are taken, {pinned} of them by one agent each; waiting for one: {waiting}; \
             raise max_sessions"
        )
    })
}

/// The number of rejected agent credentials. The server's messages go to those agents only.
fn refused(status: &BackendStatus) -> Option<String> {
    let (refused, known) = status.credentials;
    let verb = if refused == 1 { "is" } else { "are" };
    (refused > 0).then(|| format!("{refused} of {known} credentials {verb} refused"))
}

/// The reason for a paused or drained backend.
fn shut_reason(status: &BackendStatus) -> String {
    let (traffic, since) = status.traffic;
    let calls = match traffic {
        TrafficState::Drained => "calls are refused",
        TrafficState::Paused | TrafficState::Flowing | TrafficState::Resuming => "calls wait",
    };
    let (seconds, running, waiting) = (since.as_secs(), status.leases.0, status.waiting.calls);
    format!(
        "{} by the operator for {seconds} s, until `mcpool resume`; {calls} ({waiting} waiting, {running} running)",
        traffic.as_str()
    )
}
