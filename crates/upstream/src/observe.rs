//! One typed stream of what happens, for metrics, the log and the breaker.
//!
//! Observers are called inline and must neither block nor call back.

use std::{sync::Arc, time::Duration, time::Instant};

use mcpool_wire::BackendId;

use crate::{
    error::Cause,
    kinds::{CloseReason, Evidence, Mode, ModeReason, OpenReason},
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
