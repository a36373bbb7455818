//! What becomes a log line. A failing call is one line that says who, where, how far and why; never a token or an
//! argument.
//!
//! The subtle things: a backend that is down is tried twice a second, so the same failed handshake is one warning a
//! minute; in between it is a debug line. And what an agent can cause at will is thinned by agent and cause: the lines
//! left out are counted, and are debug lines. What is an agent's own mistake is no warning.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mcpool_breaker::{State, Transition};
use mcpool_front::{AgentEnd, CallEnd, ClientName, FrontEvent, Outcome, Rung};
use mcpool_upstream::{CloseReason, Event, Mode, ModeReason, Source};
use mcpool_wire::{AgentKey, ErrorKind};
use tracing::{debug, error, info, warn};

use super::thin::Thinned;
use mcpool_router::stack::now;

/// Writes the log.
pub(super) struct Log {
    troubles: Mutex<HashMap<Arc<str>, Trouble>>,
    /// Failed calls, by agent and cause.
    calls: Thinned<(AgentKey, &'static str)>,
    /// What was turned away, by kind.
    refusals: Thinned<&'static str>,
    /// Agents that came, by where they come from and what they call themselves.
    arrivals: Thinned<(IpAddr, Option<ClientName>)>,
    /// Sessions that were opened, by backend.
    sessions: Thinned<Arc<str>>,
}

impl Default for Log {
    fn default() -> Self {
        let (calls, refusals) = (Thinned::new(CALLS_OF_AGENT, CALLS_A_SECOND), Thinned::new(1, 10));
        let arrivals = Thinned::new(ARRIVALS_OF_CLIENT, ARRIVALS_A_SECOND);
        let sessions = Thinned::new(SESSIONS_OF_BACKEND, ARRIVALS_A_SECOND);
        Self { troubles: Mutex::default(), calls, refusals, arrivals, sessions }
    }
}

/// The last failed handshake that was said aloud.
struct Trouble {
    why: String,
    said: Instant,
    /// How often it came again since, without a line.
    repeats: u64,
}

impl Log {
    pub(super) fn front(&self, event: &FrontEvent<'_>) {
        match event {
            FrontEvent::CallEnded(end) => self.call(end),
            FrontEvent::AgentOpened { agent, transport, backend, peer, client } => {
                self.came(*agent, backend, transport.as_str(), *peer, *client);
            }
            FrontEvent::AgentGreeted { agent, backend, peer, client } => {
                self.came(*agent, backend, "sse", *peer, *client);
            }
            FrontEvent::AgentClosed { reason: AgentEnd::Evicted, .. } => self.gave_way(),
            FrontEvent::AgentClosed { agent, transport, reason } => {
                debug!(target: AGENT, %agent, transport = transport.as_str(), reason = reason.as_str(), "agent session closed");
            }
            FrontEvent::Panicked { task, why } => {
                error!(target: PANIC, task, why, "a task panicked; what it looked after has ended")
            }
            FrontEvent::SlowAgentClosed => {
                warn!(target: AGENT, "stream of an agent closed: it does not read")
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
            // Something happens all the time: what is left of earlier lines is said then.
            FrontEvent::Responded { .. } => self.leftovers(),
            FrontEvent::Dropped { .. } | FrontEvent::AuthorizationIgnored => {}
        }
    }

    /// An agent came, or introduced itself: some of each kind are said, so that one can tell which client an agent is.
    fn came(
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

    /// Nobody is harmed, but the limit is reached.
    fn gave_way(&self) {
        if let Some(unsaid) = self.refusals.admit("evicted", "evicted", now()) {
            info!(target: AGENT, left_out = left_out(unsaid), "limits.agent_sessions is reached: the session idle longest gave way; its id brings it back");
        }
    }

    fn refused(&self, kind: &'static str) {
        match self.refusals.admit(kind, kind, now()) {
            Some(unsaid) => {
                warn!(target: AGENT, kind, left_out = left_out(unsaid), "agent turned away: {}", turned_away(kind));
            }
            None => debug!(target: AGENT, kind, "connection or request of an agent refused"),
        }
    }

    /// One line per call: loud if the gateway has no answer for the agent, quiet if the backend gave one.
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
        for ((agent, cause), count) in self.calls.left_over(now) {
            info!(target: CALL, %agent, cause, left_out = count, "more calls failed like those before");
        }
        for (backend, count) in self.sessions.left_over(now) {
            info!(target: BACKEND, backend = backend.as_ref(), left_out = count, "more sessions were opened");
        }
        for ((peer, client), count) in self.arrivals.left_over(now) {
            let client = client.map_or_else(String::new, |client| client.name);
            info!(target: AGENT, %peer, client, left_out = count, "more agent sessions were opened");
        }
        for (kind, count) in self.refusals.left_over(now) {
            info!(target: AGENT, kind, left_out = count, "the same went on");
        }
    }

    pub(super) fn backend(&self, source: &Source, event: &Event<'_>) {
        let backend = source.name.as_ref();
        match event {
            Event::Opened { epoch, mode, reason, started, transport } => {
                self.troubles().remove(&source.name);
                let took_ms = millis(now().saturating_duration_since(*started));
                let (name, mode, reason) = (&source.name, mode.as_str(), reason.as_str());
                // Those of one agent each come and go with agents, and those of one call each with calls.
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
                        // A field without a value is left out.
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
                error!(target: PANIC, backend, task, why, "a task panicked; what it looked after has ended")
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
            // Back and forth between open and half-open, twice a second while the backend is down.
            (State::Open | State::HalfOpen, State::Open | State::HalfOpen) => {
                debug!(target: BACKEND, backend, from, to, reason, "circuit breaker probes");
            }
        }
    }

    /// Whether this failure is to be said aloud, and how many were not since the last that was.
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

    /// There is no backend of this name any more.
    pub(super) fn forget(&self, backend: &str) {
        self.troubles().remove(backend);
    }

    fn troubles(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rung means, for whoever reads the line.
fn advice(rung: Rung) -> &'static str {
    match rung {
        Rung::Calm => "everything is taken again",
        Rung::Holding => "large bodies and new agent sessions wait; limits.buffered says how much there is",
        Rung::Refusing => "new work is refused, and agents that do not read are closed",
        Rung::Shedding => "the limit is reached: the most expensive agents are closed",
    }
}

/// What is wrong, and the key that says how many there may be.
fn turned_away(kind: &str) -> &'static str {
    match kind {
        "agent_sessions" => {
            "there are as many agent sessions as limits.agent_sessions allows, and none is idle"
        }
        "peer_sessions" => "its address has as many agent sessions as limits.sessions_per_peer allows",
        "peer_connections" => "its address has as many connections as limits.connections_per_peer allows",
        "descriptors" | "limit" => {
            "there is no descriptor for another connection; `ulimit -n` says how many there are"
        }
        "peer" => {
            "without authentication only this machine is served; unauthenticated = \"allow\" serves others"
        }
        "host" => "the Host it names is not in allowed_hosts",
        "origin" => "its page's origin is not in allowed_origins",
        _ => "the gateway does not serve it",
    }
}

/// Whether the agent asked for what cannot be.
fn is_agents_own(end: &CallEnd<'_>) -> bool {
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

/// A count that is worth saying.
fn left_out(unsaid: u64) -> Option<u64> {
    (unsaid > 0).then_some(unsaid)
}

const QUIET: u8 = 0;
const OWN: u8 = 1;
const FAILED: u8 = 2;

fn line<const HOW: u8>(end: &CallEnd<'_>, unsaid: u64) {
    if HOW == QUIET && !tracing::enabled!(target: CALL, tracing::Level::DEBUG) {
        return;
    }
    let left_out = left_out(unsaid);
    let trace = end.trace;
    let [leased_ms, sent_ms, accepted_ms, last_part_ms] = trace.rungs_ms().map(|ms| ms.map(rounded));
    let cause = end.error.map(|error| error.kind.as_str());
    let why = end.error.map(|error| error.message.as_ref());
    // The reason of the last attempt, where the error speaks of something else (a deadline, the queue).
    let attempt = trace.cause().filter(|cause| !why.is_some_and(|why| why.contains(cause.as_str())));
    let (outcome, executed, attempts) = (end.outcome.as_str(), end.executed.as_str(), trace.attempts());
    // An agent may call anything a method; the log need not hold all of it.
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

fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// Microseconds are as fine as anybody reads.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

const CALL: &str = "mcpool::call";
const AGENT: &str = "mcpool::agent";
const BACKEND: &str = "mcpool::backend";
const PANIC: &str = "mcpool::panic";
const AGAIN: Duration = Duration::from_secs(60);
const MAX_METHOD: usize = 64;
/// Failed calls of one agent and one cause that are said within a minute.
const CALLS_OF_AGENT: u32 = 10;
/// Sessions of one backend whose opening is said within a minute.
const SESSIONS_OF_BACKEND: u32 = 30;
/// Agent sessions of one client at one address that are said within a minute, and of all within a second.
const ARRIVALS_OF_CLIENT: u32 = 5;
const ARRIVALS_A_SECOND: u32 = 20;
/// Failed calls that are said within a second: each is some 400 bytes.
const CALLS_A_SECOND: u32 = 50;

#[cfg(test)]
mod tests;
