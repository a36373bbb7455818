//! One typed stream of what happens, for metrics, the log and the breaker.
//!
//! Observers are called inline and must neither block nor call back.

use std::{sync::Arc, time::Duration, time::Instant};

use mcpool_wire::BackendId;

use crate::{
    error::Cause,
    pool::sharing::{Evidence, ModeReason},
};

/// Takes events. Called from the call path: cheap, never blocking.
pub trait Observe: Send + Sync + 'static {
    /// Takes one event of a backend.
    fn on(&self, backend: &Source, event: Event<'_>);
}

/// An observer bound to one backend.
#[derive(Clone)]
pub struct Reporter {
    source: Source,
    observe: Arc<dyn Observe>,
}

impl Reporter {
    /// Reports events of this backend to this observer.
    #[must_use]
    pub fn new(source: Source, observe: Arc<dyn Observe>) -> Self {
        Self { source, observe }
    }

    /// Which backend it reports for.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn on(&self, event: Event<'_>) {
        self.observe.on(&self.source, event);
    }
}

/// Which backend an event is about.
#[derive(Clone, Debug)]
pub struct Source {
    /// Stable index.
    pub id: BackendId,
    /// Configured name.
    pub name: Arc<str>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A handshake begins.
    Opening {
        /// The epoch the session will have.
        epoch: u64,
        /// Why it is opened.
        reason: OpenReason,
    },
    /// A rung of the readiness ladder was reached or not.
    Rung {
        /// `connect`, `initialize`, `initialized`, `listen`, `ping`, `list`.
        step: &'static str,
        /// Whether it was reached.
        ok: bool,
        /// How long it took.
        took: Duration,
    },
    /// A session is ready to be lent.
    Opened {
        /// Its epoch.
        epoch: u64,
        /// Who may use it.
        mode: Mode,
        /// Why it was opened.
        reason: OpenReason,
        /// When the handshake began.
        started: Instant,
        /// `sse`, `http`, `stdio`.
        transport: &'static str,
    },
    /// A handshake failed.
    OpenFailed {
        /// The epoch it would have had.
        epoch: u64,
        /// Why it was tried.
        reason: OpenReason,
        /// `Some(kind)` where the breaker counts it.
        incident: Option<&'static str>,
        /// What happened.
        cause: &'a Cause,
        /// The same for a human.
        why: &'a str,
    },
    /// A session is over.
    Closed {
        /// Its epoch.
        epoch: u64,
        /// Who used it.
        mode: Mode,
        /// Why.
        reason: CloseReason,
        /// `Some(kind)` where the breaker counts it.
        incident: Option<&'static str>,
        /// Details, for a human.
        why: &'a str,
    },
    /// A backend answered a call that began at this time: it works.
    Answered {
        /// The session's epoch.
        epoch: u64,
        /// When the call was sent.
        started: Instant,
        /// How long the backend took.
        took: Duration,
        /// Metric label of the method.
        method: &'static str,
    },
    /// A probe of a silent session ended.
    Probed {
        /// Whether it was answered.
        ok: bool,
        /// How long it took.
        took: Duration,
    },
    /// What agents that cannot be asked things get from now on.
    ModeChosen {
        /// The mode.
        mode: Mode,
        /// The rule that chose it.
        reason: ModeReason,
    },
    /// Sharing was withdrawn: the server keeps state per session.
    Demoted {
        /// The sign.
        evidence: Evidence,
        /// Details, for a human.
        why: &'a str,
    },
    /// A message that could be delivered to nobody.
    Dropped {
        /// One of [`DROPPED_KINDS`].
        kind: &'static str,
    },
    /// A task panicked. What it looked after has ended; nothing else has.
    Panicked {
        /// The task's name.
        task: &'static str,
        /// What it said, for the log.
        why: &'a str,
    },
    /// A backend answered with a status outside 2xx; the class is `4xx`, `429`, `5xx`, `lost`.
    Status {
        /// The class.
        class: &'static str,
    },
}

/// Why a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// Kept warm.
    Warm,
    /// Calls wait for it.
    Demand,
    /// An interactive agent has it for itself.
    Pinned,
    /// The breaker's probe.
    Probe,
    /// It replaces one, because the operator wants that.
    Reconnect,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Its stream or connection broke.
    Broken,
    /// The backend forgot it.
    Lost,
    /// It did not answer probes.
    Unresponsive,
    /// Nobody used it.
    Idle,
    /// It was old.
    MaxAge,
    /// Its agent left.
    AgentGone,
    /// Another key needed its place.
    Evicted,
    /// It served its request, and the next agent is to find nothing of it.
    Reset,
    /// The gateway or the backend's registration ends.
    Shutdown,
    /// The operator wants it replaced, or its backend drained.
    Operator,
    /// The backend broke the protocol, or too many cancelled calls burn on it.
    Violation,
    /// The configuration of its backend changed: calls go to sessions of the new one.
    Replaced,
    /// The gateway failed on it: its task panicked.
    Fault,
}

/// Who may use a session at a time (SEMANTICS.md 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// There is no session: each request stands alone. Used like a shared one.
    Stateless,
    /// Many agents at once.
    Shared,
    /// One agent at a time, for one request.
    Exclusive,
    /// One agent for its whole life.
    Pinned,
}

impl OpenReason {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Demand => "demand",
            Self::Pinned => "pinned",
            Self::Probe => "probe",
            Self::Reconnect => "reconnect",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Warm, Self::Demand, Self::Pinned, Self::Probe, Self::Reconnect];
}

impl CloseReason {
    /// Whether the backend is believed to know it no more.
    pub(crate) fn is_gone(self) -> bool {
        matches!(self, Self::Broken | Self::Lost)
    }

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Lost => "lost",
            Self::Unresponsive => "unresponsive",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::AgentGone => "agent_gone",
            Self::Evicted => "evicted",
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
            Self::Operator => "operator",
            Self::Violation => "violation",
            Self::Replaced => "replaced",
            Self::Fault => "fault",
        }
    }

    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Broken,
        Self::Lost,
        Self::Unresponsive,
        Self::Idle,
        Self::MaxAge,
        Self::AgentGone,
        Self::Evicted,
        Self::Reset,
        Self::Shutdown,
        Self::Operator,
        Self::Violation,
        Self::Replaced,
        Self::Fault,
    ];
}

impl Mode {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::Pinned => "pinned",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stateless, Self::Shared, Self::Exclusive, Self::Pinned];

    /// Whether a session of this mode knows at any moment whose it is.
    #[must_use]
    pub fn is_private(self) -> bool {
        matches!(self, Self::Exclusive | Self::Pinned)
    }
}

/// Every kind of [`Event::Dropped`].
pub const DROPPED_KINDS: [&str; 11] = [
    "progress",
    "log",
    "unknown_id",
    "late_answer",
    "server_request",
    "notification",
    "updated",
    "mangled_id",
    "malformed",
    "too_large",
    "abandoned",
];
