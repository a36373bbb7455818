//! The unit that crosses the seam: one call, who makes it, and what is known about how far it got.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::{era::Era, error::Executed, link::Outlet, method::Method, rewrite::Message};

/// Stable index of a backend for as long as the process lives; never reused, apart from the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// One agent session, as an opaque key: for fairness, stickiness and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey(pub u64);

/// Who the gateway knows the agent to be. `anonymous` is a principal, not an absence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody was asked to say who they are.
    Anonymous,
    /// The subject of credentials that were verified. No listener verifies any yet; what is shared, counted and
    /// queued by principal is ready for it.
    Named(Arc<str>),
}

/// Who calls: the same for all calls of one agent session.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The verified subject.
    pub principal: Principal,
    /// Whether it connects from this machine.
    pub is_local: bool,
    /// The tenant the principal belongs to, where tenants exist.
    pub tenant: Option<Arc<str>>,
    /// The agent session.
    pub agent: AgentKey,
    /// The `Mcpool-Affinity` header: equal values of one principal keep to one session.
    pub affinity: Option<Arc<str>>,
    /// What the agent sent in headers that some backend is configured to be given, in the order of their names.
    pub forwarded: Forwarded,
}

/// Headers by name, in the order of their names. Shared sessions are shared by agents with equal ones only.
pub type Forwarded = Arc<[(HeaderName, HeaderValue)]>;

/// The name of one request in logs and error data, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// A request that expects an answer, on its way to a backend.
#[derive(Clone)]
pub struct Call {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// The call's name in the log.
    pub request_id: RequestId,
    /// What is called.
    pub method: Method,
    /// The message as the agent sent it.
    pub message: Message,
    /// The era its message is written in and its answer is to be read in: modern only on a link of that era.
    pub era: Era,
    /// Headers of a modern request that are the backend's to read (`Mcp-Param-*`).
    pub headers: Forwarded,
    /// `params.name` or `params.uri`.
    pub name: Option<Arc<str>>,
    /// Whether the request is for the first page of a list without further parameters.
    pub is_plain_list: bool,
    /// Whether the agent wants it run as a task (`params.task`).
    pub wants_task: bool,
    /// Where progress and requests of this call go while it runs.
    pub outlet: Option<Arc<dyn Outlet>>,
    /// Latest moment at which an answer is of use.
    pub hard_deadline: Instant,
    /// How far it got.
    pub trace: Arc<CallTrace>,
}

/// The last part of an answer: the backend's response, under the upstream id.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The response; the agent's id is spliced in at the front.
    pub message: Message,
    /// Whether it is a JSON-RPC error.
    pub is_rpc_error: bool,
    /// Whether it is a tool result that says it failed.
    pub is_tool_error: bool,
}

/// How far a call got: written on the way, read when it ends (log line, error data, metrics).
///
/// Times are nanoseconds since `started`, 0 = not reached.
#[derive(Debug)]
pub struct CallTrace {
    /// When the front accepted it.
    pub started: Instant,
    phase: AtomicU8,
    attempts: AtomicU64,
    session: AtomicU64,
    leased: AtomicU64,
    sent: AtomicU64,
    accepted: AtomicU64,
    last_part: AtomicU64,
    cause: Mutex<Option<String>>,
}

/// How far a call got (SEMANTICS.md 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Waiting, nothing sent.
    Queued = 0,
    /// Bytes may have left.
    Sent = 1,
    /// The backend answered.
    Answered = 2,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{:x}", self.0)
    }
}

impl Principal {
    /// The name in logs and pool keys.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Named(subject) => subject,
        }
    }
}

impl fmt::Debug for Call {
    // Neither arguments nor tokens belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("request_id", &self.request_id)
            .field("method", &self.method)
            .field("agent", &self.caller.agent)
            .finish_non_exhaustive()
    }
}

impl CallTrace {
    /// A call accepted at `started`.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            phase: AtomicU8::new(Phase::Queued as u8),
            attempts: AtomicU64::new(0),
            session: AtomicU64::new(0),
            leased: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            last_part: AtomicU64::new(0),
            cause: Mutex::new(None),
        }
    }

    /// A slot on this session was leased.
    pub fn mark_leased(&self, session: u64, now: Instant) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.session.store(session, Ordering::Relaxed);
        self.leased.store(self.since(now), Ordering::Relaxed);
    }

    /// The first byte may have left.
    pub fn mark_sent(&self, now: Instant) {
        self.sent.store(self.since(now), Ordering::Relaxed);
        self.phase.store(Phase::Sent as u8, Ordering::Relaxed);
    }

    /// The backend acknowledged the message (HTTP status seen).
    pub fn mark_accepted(&self, now: Instant) {
        self.accepted.store(self.since(now), Ordering::Relaxed);
    }

    /// The backend said something about this call: it is alive.
    pub fn mark_part(&self, now: Instant) {
        self.last_part.store(self.since(now), Ordering::Relaxed);
    }

    /// The backend answered.
    pub fn mark_answered(&self, now: Instant) {
        self.mark_part(now);
        self.phase.store(Phase::Answered as u8, Ordering::Relaxed);
    }

    /// What was sent is known not to have been executed: back to the start.
    pub fn mark_refused(&self) {
        self.phase.store(Phase::Queued as u8, Ordering::Relaxed);
    }

    /// Remembers why an attempt failed, for the log line.
    pub fn note_cause(&self, cause: impl Into<String>) {
        if let Ok(mut slot) = self.cause.lock() {
            *slot = Some(cause.into());
        }
    }

    /// Why the last failed attempt failed.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        self.cause.lock().ok().and_then(|slot| slot.clone())
    }

    /// How far it got.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Queued,
            1 => Phase::Sent,
            _ => Phase::Answered,
        }
    }

    /// Whether the backend may have run it, as far as the phase says.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self.phase() {
            Phase::Queued => Executed::No,
            Phase::Sent => Executed::Maybe,
            Phase::Answered => Executed::Yes,
        }
    }

    /// How many times a session was leased for it.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.attempts.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// The upstream session it last used (0: none).
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// Milliseconds after the start at which each rung was reached: leased, sent, accepted, last part.
    #[must_use]
    pub fn rungs_ms(&self) -> [Option<f64>; 4] {
        [&self.leased, &self.sent, &self.accepted, &self.last_part].map(|rung| {
            match rung.load(Ordering::Relaxed) {
                0 => None,
                nanos => Some(Duration::from_nanos(nanos).as_secs_f64() * 1e3),
            }
        })
    }

    /// How long it waited for its session, once it has one.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        match self.leased.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// When the backend last said something about this call (the start, if never).
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_part.load(Ordering::Relaxed))
    }

    fn since(&self, now: Instant) -> u64 {
        // 0 means "not reached", so the first nanosecond counts as 1.
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

impl Answer {
    /// The response under the agent's id.
    #[must_use]
    pub fn with_id(&self, id: &[u8]) -> Bytes {
        self.message.with_id(id)
    }
}

#[cfg(test)]
mod tests;
