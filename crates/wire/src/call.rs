//! One call as it crosses the seam: the request, its caller, and how far it got.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::{
    era::Era, error::Executed, identity::Identity, link::Outlet, method::Method, rewrite::Message, slot::Slot,
};

/// Backend index, stable for the life of the process. Never reused, and independent of the backend's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// Opaque key of one agent session, for fairness, stickiness and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey(pub u64);

/// The caller, the same for all calls of one agent session.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The verified identity.
    pub identity: Arc<Identity>,
    /// True if the agent connects from this machine.
    pub is_local: bool,
    /// The agent session.
    pub agent: AgentKey,
    /// The `Mcpool-Affinity` header: calls of one identity with equal values use one session.
    pub affinity: Option<Arc<str>>,
    /// The agent's headers that are configured to be forwarded to some backend, sorted by name.
    pub forwarded: Forwarded,
}

/// Headers sorted by name. Agents share a session only if these are equal.
pub type Forwarded = Arc<[(HeaderName, HeaderValue)]>;

/// Request name in logs and error data, unique in this process: the replica's slot in the highest 12 bits, then a
/// counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// A request on its way to a backend, which must answer it.
#[derive(Clone)]
pub struct Call {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The request's name in the log.
    pub request_id: RequestId,
    /// The method.
    pub method: Method,
    /// The message as the agent sent it.
    pub message: Message,
    /// The era in which the message is written and its answer is read. Modern only on a modern link.
    pub era: Era,
    /// Headers of a modern request that the backend reads (`Mcp-Param-*`).
    pub headers: Forwarded,
    /// `params.name` or `params.uri`.
    pub name: Option<Arc<str>>,
    /// True for the first page of a list without other parameters.
    pub is_plain_list: bool,
    /// True if the agent asks to run the call as a task (`params.task`).
    pub wants_task: bool,
    /// Receives progress and server requests of this call while it runs.
    pub outlet: Option<Arc<dyn Outlet>>,
    /// The latest useful moment for an answer.
    pub hard_deadline: Instant,
    /// The progress of this call.
    pub trace: Arc<CallTrace>,
}

/// The backend's final response, still under the upstream id.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The response; the front splices in the agent's id.
    pub message: Message,
    /// True for a JSON-RPC error.
    pub is_rpc_error: bool,
    /// True for a tool result with `isError`.
    pub is_tool_error: bool,
}

/// The progress of a call: written on the way, read at its end by log line, error data and metrics.
///
/// Times are nanoseconds since `started`; 0 = not reached.
#[derive(Debug)]
pub struct CallTrace {
    /// The moment the front accepted the call.
    pub started: Instant,
    phase: AtomicU8,
    attempts: AtomicU64,
    session: AtomicU64,
    leased: AtomicU64,
    sent: AtomicU64,
    accepted: AtomicU64,
    last_part: AtomicU64,
    served_by: OnceLock<Arc<str>>,
    past: Mutex<Past>,
}

/// The part of a trace that is written when an attempt fails.
#[derive(Debug, Default)]
struct Past {
    /// The reason of the last failed attempt, and which one that was.
    cause: Option<(u64, String)>,
    /// The attempts before the last one.
    attempts: Vec<Attempt>,
}

/// One attempt to make a call, on one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The upstream session.
    pub session: u64,
    /// The time from the start of the call to the lease of a call permit.
    pub leased: Duration,
    /// The time from the start of the call to its first byte; `None` if nothing was sent.
    pub sent: Option<Duration>,
    /// The reason of its failure; `None` if it did not fail, or not yet.
    pub cause: Option<String>,
}

/// Failed attempts that a trace keeps.
const MOST_ATTEMPTS: usize = 3;

/// The phase of a call (SEMANTICS.md 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Waiting; nothing was sent.
    Queued = 0,
    /// Bytes may have been sent.
    Sent = 1,
    /// The backend answered.
    Answered = 2,
}

impl RequestId {
    const COUNTER_BITS: u32 = 52;

    /// The first id of a process. `random` keeps the ids of two lives of one replica apart; its counter still has room
    /// for 2^51 requests.
    #[must_use]
    pub fn first(slot: Slot, random: u32) -> Self {
        let life = u64::from(random >> 13) << 32;
        Self(u64::from(slot.number()) << Self::COUNTER_BITS | life)
    }

    /// The replica that gave the id out.
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot::read(u16::try_from(self.0 >> Self::COUNTER_BITS).unwrap_or_default())
    }
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

impl fmt::Debug for Call {
    // Excludes arguments and tokens, which must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("request_id", &self.request_id)
            .field("method", &self.method)
            .field("agent", &self.caller.agent)
            .finish_non_exhaustive()
    }
}

impl CallTrace {
    /// Starts the trace of a call accepted at `started`.
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
            served_by: OnceLock::new(),
            past: Mutex::default(),
        }
    }

    /// Counts an attempt that leased a call permit on this session.
    pub fn mark_leased(&self, session: u64, now: Instant) {
        let before = self.attempts.fetch_add(1, Ordering::Relaxed);
        if before > 0 {
            self.keep_attempt(before);
        }
        self.session.store(session, Ordering::Relaxed);
        self.leased.store(self.since(now), Ordering::Relaxed);
    }

    /// Records that the first byte may have been sent.
    pub fn mark_sent(&self, now: Instant) {
        self.sent.store(self.since(now), Ordering::Relaxed);
        self.phase.store(Phase::Sent as u8, Ordering::Relaxed);
    }

    /// Records that the backend accepted the message (HTTP status received).
    pub fn mark_accepted(&self, now: Instant) {
        self.accepted.store(self.since(now), Ordering::Relaxed);
    }

    /// Records a sign of life of the backend for this call: progress, a request or the answer.
    pub fn mark_part(&self, now: Instant) {
        self.last_part.store(self.since(now), Ordering::Relaxed);
    }

    /// Records the backend's answer.
    pub fn mark_answered(&self, now: Instant) {
        self.mark_part(now);
        self.phase.store(Phase::Answered as u8, Ordering::Relaxed);
    }

    /// Resets the phase to `Queued`: the backend is known not to have run what was sent.
    pub fn mark_refused(&self) {
        self.phase.store(Phase::Queued as u8, Ordering::Relaxed);
    }

    /// Stores the reason of a failed attempt for the log line.
    pub fn note_cause(&self, cause: impl Into<String>) {
        if let Ok(mut past) = self.past.lock() {
            past.cause = Some((self.attempts.load(Ordering::Relaxed), cause.into()));
        }
    }

    /// Records the backend that serves the call, where it is not the one that was asked for. The first one stays.
    pub fn mark_served_by(&self, backend: Arc<str>) {
        let _ = self.served_by.set(backend);
    }

    /// The backend that serves the call, if it is not the one that was asked for.
    #[must_use]
    pub fn served_by(&self) -> Option<&str> {
        self.served_by.get().map(|name| &**name)
    }

    /// The attempts, oldest first: at most three that failed, and the last one.
    #[must_use]
    pub fn attempts_made(&self) -> Vec<Attempt> {
        let mut made = self.past.lock().map(|past| past.attempts.clone()).unwrap_or_default();
        made.extend(self.attempt(self.attempts.load(Ordering::Relaxed)));
        made
    }

    /// Keeps the attempt that another one follows.
    fn keep_attempt(&self, number: u64) {
        let Some(attempt) = self.attempt(number) else { return };
        if let Ok(mut past) = self.past.lock()
            && past.attempts.len() < MOST_ATTEMPTS
        {
            past.attempts.push(attempt);
        }
    }

    /// The attempt whose times these are.
    fn attempt(&self, number: u64) -> Option<Attempt> {
        let leased = self.leased.load(Ordering::Relaxed);
        // What was sent before the lease belongs to an attempt before.
        let sent = Some(self.sent.load(Ordering::Relaxed)).filter(|sent| *sent >= leased);
        (leased > 0).then(|| Attempt {
            session: self.session(),
            leased: Duration::from_nanos(leased),
            sent: sent.map(Duration::from_nanos),
            cause: self.cause_of(|of| of == number),
        })
    }

    /// The reason of the last failed attempt.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        self.cause_of(|_| true)
    }

    /// The phase reached.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Queued,
            1 => Phase::Sent,
            _ => Phase::Answered,
        }
    }

    /// Derives from the phase whether the backend may have run the call.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self.phase() {
            Phase::Queued => Executed::No,
            Phase::Sent => Executed::Maybe,
            Phase::Answered => Executed::Yes,
        }
    }

    /// The number of attempts that leased a session.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.attempts.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// The upstream session used last; 0 if none.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// Milliseconds from the start to lease, send, acceptance and last sign of life. `None` = not reached.
    #[must_use]
    pub fn rungs_ms(&self) -> [Option<f64>; 4] {
        [&self.leased, &self.sent, &self.accepted, &self.last_part].map(|rung| {
            match rung.load(Ordering::Relaxed) {
                0 => None,
                nanos => Some(Duration::from_nanos(nanos).as_secs_f64() * 1e3),
            }
        })
    }

    /// The queueing time; `None` until a session is leased.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        match self.leased.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// The backend's last sign of life for this call; the start if there was none.
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_part.load(Ordering::Relaxed))
    }

    fn cause_of(&self, is_meant: impl Fn(u64) -> bool) -> Option<String> {
        let past = self.past.lock().ok()?;
        past.cause.as_ref().filter(|(of, _)| is_meant(*of)).map(|(_, cause)| cause.clone())
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
