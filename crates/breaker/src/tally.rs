//! What a circuit did, as numbers: read for metrics, never for decisions.
//!
//! Every label is an enum or bounded, and exists at zero from the start. The reason of a transition fixes its two
//! states, so the legal transitions are one table and an illegal one cannot be counted.

use std::time::{Duration, Instant};

use crate::circuit::SlowStartShown;

/// The three states. Closed means that traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Traffic flows.
    Closed,
    /// Nothing passes; the next probe is awaited.
    Open,
    /// One probe is under way; nothing else passes.
    HalfOpen,
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Too many incidents in a row: closed to open.
    Incidents,
    /// A probe started: open to half-open.
    ProbeStarted,
    /// The probe succeeded: half-open to closed.
    ProbeSucceeded,
    /// The probe failed: half-open to open.
    ProbeFailed,
    /// The probe did not report in time: half-open to open.
    ProbeLost,
    /// The probe's owner gave it back unused: half-open to open.
    ProbeAbandoned,
    /// The operator says that the backend is mended: open to closed.
    Reset,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeOutcome {
    /// The backend works again.
    Success,
    /// It does not.
    Failure,
    /// No report before the probe deadline.
    Lost,
    /// Given back before anything was tried.
    Abandoned,
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Position in the order of this circuit's transitions, from 1: listeners run outside the lock and may be
    /// called out of order.
    pub seq: u64,
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// When.
    pub at: Instant,
}

/// The state and everything counted so far, consistent with one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The state now.
    pub state: State,
    /// For how long it has been in this state.
    pub in_state: Duration,
    /// When the next probe may start; only while open.
    pub next_probe: Option<Instant>,
    /// How many calls may be in flight; only while it has just recovered.
    pub slow_start: Option<SlowStartShown>,
    /// Time spent in each state, the current one up to now.
    pub time_in: [(State, Duration); 3],
    /// Transitions by reason (which fixes the states, see [`Reason::edge`]).
    pub transitions: [(Reason, u64); 7],
    /// Incidents by kind, failed probes included, in order of first appearance.
    pub incidents: Vec<(&'static str, u64)>,
    /// Callers refused.
    pub rejected: u64,
    /// Probes by how they ended.
    pub probes: [(ProbeOutcome, u64); 4],
}

/// The running counts behind a [`Snapshot`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    time_in: [Duration; 3],
    transitions: [u64; 7],
    incidents: Vec<(&'static str, u64)>,
    rejected: u64,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The metric label: `closed`, `open` or `half_open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Incidents,
        Self::ProbeStarted,
        Self::ProbeSucceeded,
        Self::ProbeFailed,
        Self::ProbeLost,
        Self::ProbeAbandoned,
        Self::Reset,
    ];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incidents => "incidents",
            Self::ProbeStarted => "probe_started",
            Self::ProbeSucceeded => "probe_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeLost => "probe_lost",
            Self::ProbeAbandoned => "probe_abandoned",
            Self::Reset => "reset",
        }
    }

    /// The state left and the state entered: the table of legal transitions.
    #[must_use]
    pub fn edge(self) -> (State, State) {
        match self {
            Self::Incidents => (State::Closed, State::Open),
            Self::ProbeStarted => (State::Open, State::HalfOpen),
            Self::ProbeSucceeded => (State::HalfOpen, State::Closed),
            Self::ProbeFailed | Self::ProbeLost | Self::ProbeAbandoned => (State::HalfOpen, State::Open),
            Self::Reset => (State::Open, State::Closed),
        }
    }
}

impl ProbeOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Lost, Self::Abandoned];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Lost => "lost",
            Self::Abandoned => "abandoned",
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Success => Reason::ProbeSucceeded,
            Self::Failure => Reason::ProbeFailed,
            Self::Lost => Reason::ProbeLost,
            Self::Abandoned => Reason::ProbeAbandoned,
        }
    }
}

impl Tally {
    /// Counts a transition that ends a stay of this length, and numbers it.
    pub(crate) fn transition(&mut self, reason: Reason, stayed: Duration, at: Instant) -> Transition {
        let (from, to) = reason.edge();
        self.time_in[from as usize] += stayed;
        self.transitions[reason as usize] += 1;
        Transition { seq: self.transitions.iter().sum(), from, to, reason, at }
    }

    pub(crate) fn incident(&mut self, kind: &'static str) {
        // Kinds are string constants of the callers; the bound only guards against one that is not.
        let kind = if self.incidents.len() < MAX_KINDS || self.knows(kind) { kind } else { "other" };
        match self.incidents.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => self.incidents.push((kind, 1)),
        }
    }

    pub(crate) fn rejected(&mut self) {
        self.rejected += 1;
    }

    pub(crate) fn snapshot(&self, state: State, in_state: Duration, next_probe: Option<Instant>) -> Snapshot {
        let stay = |of: State| if of == state { in_state } else { Duration::ZERO };
        Snapshot {
            state,
            in_state,
            next_probe,
            slow_start: None,
            time_in: State::ALL.map(|of| (of, self.time_in[of as usize] + stay(of))),
            transitions: Reason::ALL.map(|of| (of, self.transitions[of as usize])),
            incidents: self.incidents.clone(),
            rejected: self.rejected,
            // A probe ends exactly when half-open is left.
            probes: ProbeOutcome::ALL.map(|of| (of, self.transitions[of.reason() as usize])),
        }
    }

    fn knows(&self, kind: &str) -> bool {
        self.incidents.iter().any(|(known, _)| *known == kind)
    }
}

/// Kinds counted apart; one more place is for `other`.
const MAX_KINDS: usize = 32;
