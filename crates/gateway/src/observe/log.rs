//! Log lines for events. A failed call is one line with agent, backend, progress and reason, without tokens or
//! arguments.
//!
//! A backend that is down is probed twice a second, so a repeated handshake failure is one warning a minute; the others
//! are debug lines. Lines that an agent can cause at will are rate-limited by agent and cause: suppressed lines are
//! counted, and logged at debug. An agent's own mistake is not a warning.

mod call_line;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mcpool_breaker::{State, Transition};
use mcpool_front::{AgentEnd, CallEnd, ClientName, FrontEvent, Outcome, PressureLevel};
use mcpool_upstream::{CloseReason, Event, Mode, ModeReason, Source};
use mcpool_wire::AgentKey;
use tracing::{debug, error, info, warn};

use self::call_line::{CALL, FAILED, OWN, QUIET, is_agents_own, left_out, line, millis};
use super::thin::Thinned;
use mcpool_router::stack::now;

/// The log writer.
pub(super) struct Log {
    troubles: Mutex<HashMap<Arc<str>, Trouble>>,
    /// Failed calls by agent and cause.
    calls: Thinned<(AgentKey, &'static str)>,
    /// Rejections by kind.
    refusals: Thinned<&'static str>,
    /// New agents by address and client name.
    arrivals: Thinned<(IpAddr, Option<ClientName>)>,
    /// Opened sessions by backend.
    sessions: Thinned<Arc<str>>,
    /// When suppressed counts were last reported.
    looked: Mutex<Option<Instant>>,
}

/// Interval at which suppressed counts are reported.
const LOOK: Duration = Duration::from_secs(5);

impl Default for Log {
    fn default() -> Self {
        let (calls, refusals) = (Thinned::new(CALLS_OF_AGENT, CALLS_A_SECOND), Thinned::new(1, 10));
        let arrivals = Thinned::new(ARRIVALS_OF_CLIENT, ARRIVALS_A_SECOND);
        let sessions = Thinned::new(SESSIONS_OF_BACKEND, ARRIVALS_A_SECOND);
        Self { troubles: Mutex::default(), calls, refusals, arrivals, sessions, looked: Mutex::default() }
    }
}

/// The last logged handshake failure.
struct Trouble {
    why: String,
    said: Instant,
    /// Repetitions since then that were not logged.
    repeats: u64,
}

impl Log {
    pub(super) fn front(&self, event: &FrontEvent<'_>) {
        match event {
            FrontEvent::CallEnded(end) => self.call(end),
            FrontEvent::AgentOpened { agent, transport, backend, peer, client } => {
                self.agent_opened(*agent, backend, transport.as_str(), *peer, *client);
            }
            FrontEvent::AgentGreeted { agent, backend, peer, client } => {
                self.agent_opened(*agent, backend, "sse", *peer, *client);
            }
            FrontEvent::AgentClosed { reason: AgentEnd::Evicted, .. } => self.agent_evicted(),
            FrontEvent::AgentClosed { agent, transport, reason } => {
                debug!(target: AGENT, %agent, transport = transport.as_str(), reason = reason.as_str(), "agent session closed");
            }
            FrontEvent::Panicked { task, why } => {
                error!(target: PANIC, task, why, "a task panicked; what it served has ended, everything else continues")
            }
            FrontEvent::SlowAgentClosed => {
                warn!(target: AGENT, "agent stream closed: the agent does not read")
            }
            FrontEvent::Refused { kind } => self.refused(kind),
            FrontEvent::Overload { from, to, held, limit } => {
                warn!(target: AGENT, from = from.as_str(), state = to.as_str(), buffered_bytes = held, limit_bytes = limit, "memory for agents: {}", advice(*to));
            }
            FrontEvent::Shed { action } => debug!(target: AGENT, action, "memory is short"),
            FrontEvent::Restore { outcome } => {
                debug!(target: AGENT, outcome = outcome.as_str(), "agent session that is not held");
            }
            FrontEvent::Parked { outcome } => {
                debug!(target: AGENT, outcome = outcome.as_str(), "call that waits for its caller");
            }
            // Responses are frequent, so this also logs the counts of suppressed lines.
            FrontEvent::Responded { .. } => self.leftovers(),
            FrontEvent::Dropped { .. } | FrontEvent::AuthorizationIgnored => {}
        }
    }

    /// Logs new agents and their client names, rate-limited per client.
    fn agent_opened(
        &self,
        agent: AgentKey,
        backend: &str,
        transport: &str,
        peer: IpAddr,
        client: Option<&ClientName>,
    ) {
        let words = client.map(|client| (client.name.as_str(), client.version.as_str()));
        let (name, version) = words.unwrap_or_default();
        let kind = client.map(|client| (peer, Some(client.clone())));
        let said = kind.and_then(|kind| self.arrivals.admit(kind, (peer, None), now()));
        match said {
            Some(unsaid) => {
                info!(target: AGENT, %agent, backend, transport, %peer, client = name, version, left_out = left_out(unsaid), "agent session opened");
            }
            None => {
                debug!(target: AGENT, %agent, backend, transport, %peer, client = name, version, "agent session opened");
            }
        }
    }

    /// Logs that the session limit was reached and an idle session was dropped, which is harmless.
    fn agent_evicted(&self) {
        if let Some(unsaid) = self.refusals.admit("evicted", "evicted", now()) {
            info!(target: AGENT, left_out = left_out(unsaid), "limits.agent_sessions is reached: the longest idle session was evicted; its id restores it");
        }
    }

    fn refused(&self, kind: &'static str) {
        match self.refusals.admit(kind, kind, now()) {
            Some(unsaid) => {
                warn!(target: AGENT, kind, left_out = left_out(unsaid), "agent rejected: {}", rejection_reason(kind));
            }
            None => debug!(target: AGENT, kind, "connection or request of an agent refused"),
        }
    }

    /// One line per call: a warning if the gateway has no answer for the agent, quiet if the backend gave one.
    fn call(&self, end: &CallEnd<'_>) {
        match end.outcome {
            Outcome::Rejected | Outcome::Timeout | Outcome::Lost => {}
            Outcome::Ok | Outcome::ToolError | Outcome::RpcError | Outcome::Cancelled => {
                return line::<QUIET>(end, 0);
            }
        }
        let cause = end.error.map_or("none", |error| error.kind.as_str());
        match self.calls.admit((end.agent, cause), (AgentKey(0), cause), now()) {
            Some(unsaid) if is_agents_own(end) => line::<OWN>(end, unsaid),
            Some(unsaid) => line::<FAILED>(end, unsaid),
            None => line::<QUIET>(end, 0),
        }
    }

    fn leftovers(&self) {
        let now = now();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        *looked = Some(now);
        drop(looked);
        for ((agent, cause), count) in self.calls.left_over(now) {
            info!(target: CALL, %agent, cause, left_out = count, "more calls of this agent failed for this cause");
        }
        for (backend, count) in self.sessions.left_over(now) {
            info!(target: BACKEND, backend = backend.as_ref(), left_out = count, "more sessions were opened");
        }
        for ((peer, client), count) in self.arrivals.left_over(now) {
            let client = client.map_or_else(String::new, |client| client.name);
            info!(target: AGENT, %peer, client, left_out = count, "more agent sessions were opened");
        }
        for (kind, count) in self.refusals.left_over(now) {
            info!(target: AGENT, kind, left_out = count, "more agents were rejected for this reason");
        }
    }

    pub(super) fn backend(&self, source: &Source, event: &Event<'_>) {
        let backend = source.name.as_ref();
        match event {
            Event::Opened { epoch, mode, reason, started, transport } => {
                self.troubles().remove(&source.name);
                let took_ms = millis(now().saturating_duration_since(*started));
                let (name, mode, reason) = (&source.name, mode.as_str(), reason.as_str());
                // Pinned sessions come and go with agents, or with single modern calls: debug only.
                let said = match mode == Mode::Pinned.as_str() {
                    true => None,
                    false => self.sessions.admit(name.clone(), name.clone(), now()),
                };
                match said {
                    Some(unsaid) => {
                        info!(target: BACKEND, backend, session = epoch, mode, reason, transport, took_ms, left_out = left_out(unsaid), "session opened");
                    }
                    None => {
                        debug!(target: BACKEND, backend, session = epoch, mode, reason, transport, took_ms, "session opened");
                    }
                }
            }
            Event::ModeChosen { mode, reason: reason @ ModeReason::Program } => {
                warn!(target: BACKEND, backend, mode = mode.as_str(), reason = reason.as_str(), because = reason.sentence(), "mode of new agents");
            }
            Event::ModeChosen { mode, reason } => {
                info!(target: BACKEND, backend, mode = mode.as_str(), reason = reason.as_str(), because = reason.sentence(), "mode of new agents");
            }
            Event::Demoted { evidence, why } => {
                warn!(target: BACKEND, backend, evidence = evidence.as_str(), why, "sharing withdrawn: new agents get sessions of their own");
            }
            Event::OpenFailed { epoch, reason, incident, why, .. } => {
                let (reason, incident) = (reason.as_str(), *incident);
                match self.trouble(&source.name, why) {
                    Some(repeats) => {
                        // `None` omits the field.
                        let repeats = (repeats > 0).then_some(repeats);
                        warn!(target: BACKEND, backend, session = epoch, reason, incident, why, repeats, "session not opened");
                    }
                    None => {
                        debug!(target: BACKEND, backend, session = epoch, reason, incident, why, "session not opened")
                    }
                }
            }
            Event::Closed { epoch, mode, reason, incident, why } => {
                let (mode, incident) = (mode.as_str(), *incident);
                let word = reason.as_str();
                match reason {
                    CloseReason::Broken
                    | CloseReason::Lost
                    | CloseReason::Unresponsive
                    | CloseReason::Violation
                    | CloseReason::Fault => {
                        warn!(target: BACKEND, backend, session = epoch, mode, reason = word, incident, why, "session closed");
                    }
                    CloseReason::AgentGone | CloseReason::Reset => {
                        debug!(target: BACKEND, backend, session = epoch, mode, reason = word, why, "session closed");
                    }
                    CloseReason::Idle
                    | CloseReason::MaxAge
                    | CloseReason::Evicted
                    | CloseReason::Replaced
                    | CloseReason::Operator
                    | CloseReason::Shutdown => {
                        info!(target: BACKEND, backend, session = epoch, mode, reason = word, why, "session closed");
                    }
                }
            }
            Event::Probed { ok: false, took } => {
                info!(target: BACKEND, backend, took_ms = millis(*took), "health check failed: a silent session did not answer a probe");
            }
            Event::Panicked { task, why } => {
                error!(target: PANIC, backend, task, why, "a task panicked; what it served has ended, everything else continues")
            }
            Event::Dropped { kind } => debug!(target: BACKEND, backend, kind, "message of a backend dropped"),
            Event::Opening { .. }
            | Event::Rung { .. }
            | Event::Answered { .. }
            | Event::Probed { ok: true, .. }
            | Event::Status { .. } => {}
        }
    }

    pub(super) fn transition(source: &Source, transition: &Transition) {
        let backend = source.name.as_ref();
        let (from, to) = (transition.from.as_str(), transition.to.as_str());
        let reason = transition.reason.as_str();
        match (transition.from, transition.to) {
            (State::Closed, _) => {
                warn!(target: BACKEND, backend, from, to, reason, "circuit breaker opened: calls are held for breaker.hold, then fail")
            }
            (_, State::Closed) => {
                info!(target: BACKEND, backend, from, to, reason, "circuit breaker closed: calls flow again")
            }
            // Toggles twice a second while the backend is down.
            (State::Open | State::HalfOpen, State::Open | State::HalfOpen) => {
                debug!(target: BACKEND, backend, from, to, reason, "circuit breaker probes");
            }
        }
    }

    /// `Some(repetitions)` if this failure is to be logged as a warning.
    fn trouble(&self, backend: &Arc<str>, why: &str) -> Option<u64> {
        let now = now();
        let mut troubles = self.troubles();
        match troubles.get_mut(backend) {
            Some(last) if last.why == why && now.saturating_duration_since(last.said) < AGAIN => {
                last.repeats += 1;
                None
            }
            last => {
                let repeats = last.map_or(0, |last| last.repeats);
                let trouble = Trouble { why: why.to_owned(), said: now, repeats: 0 };
                troubles.insert(backend.clone(), trouble);
                Some(repeats)
            }
        }
    }

    /// Forgets a removed backend.
    pub(super) fn forget(&self, backend: &str) {
        self.troubles().remove(backend);
    }

    fn troubles(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The meaning of a memory pressure level, for the log.
fn advice(level: PressureLevel) -> &'static str {
    match level {
        PressureLevel::Calm => "everything is taken again",
        PressureLevel::Holding => "large bodies and new agent sessions wait; limits.buffered sets the limit",
        PressureLevel::Refusing => {
            "new requests are refused, and streams of agents that do not read are closed"
        }
        PressureLevel::Shedding => "the limit is reached: the most expensive agents are closed",
    }
}

/// The exceeded limit and its configuration key.
fn rejection_reason(kind: &str) -> &'static str {
    match kind {
        "agent_sessions" => {
            "there are as many agent sessions as limits.agent_sessions allows, and none is idle"
        }
        "peer_sessions" => "its address has as many agent sessions as limits.sessions_per_peer allows",
        "peer_connections" => "its address has as many connections as limits.connections_per_peer allows",
        "descriptors" | "limit" => "the open-file limit (`ulimit -n`) is reached",
        "peer" => {
            "without authentication only this machine is served; unauthenticated = \"allow\" serves others"
        }
        "host" => "its Host header is not in allowed_hosts",
        "origin" => "its Origin header is not in allowed_origins",
        _ => "the gateway does not serve it",
    }
}

const AGENT: &str = "mcpool::agent";
const BACKEND: &str = "mcpool::backend";
const PANIC: &str = "mcpool::panic";
const AGAIN: Duration = Duration::from_secs(60);
/// Failed calls logged per agent and cause in a minute.
const CALLS_OF_AGENT: u32 = 10;
/// Opened sessions logged per backend in a minute.
const SESSIONS_OF_BACKEND: u32 = 30;
/// New agents logged per client and address in a minute, and in total in a second.
const ARRIVALS_OF_CLIENT: u32 = 5;
const ARRIVALS_A_SECOND: u32 = 20;
/// Failed calls logged in a second; a line is some 400 bytes.
const CALLS_A_SECOND: u32 = 50;

#[cfg(test)]
mod tests;
