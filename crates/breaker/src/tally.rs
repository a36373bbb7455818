//! Counts of a circuit, for metrics only.
//!
//! Every label is an enum or bounded, and starts at zero. The reason of a transition determines both states, so one
//! table lists the legal transitions and no illegal one can be counted.

use std::time::{Duration, Instant};

use crate::circuit::SlowStartShown;

/// The three states. Closed means that calls pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls pass.
    Closed,
    /// No calls pass until a probe.
    Open,
    /// One probe is running; no calls pass.
    HalfOpen,
}

/// The reason of a transition.
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
    /// The probe sent no report in time: half-open to open.
    ProbeLost,
    /// The probe was returned unused: half-open to open.
    ProbeAbandoned,
    /// The operator reset the circuit: open to closed.
    Reset,
}

/// The outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeOutcome {
    /// The backend works.
    Success,
    /// The backend does not work.
    Failure,
    /// No report within the probe deadline.
    Lost,
    /// Returned unused.
    Abandoned,
}

/// One transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Sequence number of the circuit's transitions, from 1. Listeners run outside the lock, maybe out of order.
    pub seq: u64,
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// The reason.
    pub reason: Reason,
    /// The time.
    pub at: Instant,
}

/// A consistent view of the state and all counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The current state.
    pub state: State,
    /// The time in this state so far.
    pub in_state: Duration,
    /// The earliest next probe; only while open.
    pub next_probe: Option<Instant>,
    /// The limit of calls in flight; only during a slow start.
    pub slow_start: Option<SlowStartShown>,
    /// Time in each state, up to now.
    pub time_in: [(State, Duration); 3],
    /// Transitions by reason, which determines the states ([`Reason::edge`]).
    pub transitions: [(Reason, u64); 7],
    /// Incidents by kind in order of first occurrence, with failed probes.
    pub incidents: Vec<(&'static str, u64)>,
    /// Rejected calls.
    pub rejected: u64,
    /// Probes by outcome.
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
    /// All states.
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
    /// All reasons.
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

    /// The states left and entered: the table of legal transitions.
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
    /// All outcomes.
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
    /// Counts and numbers a transition that ends a stay of this duration.
    pub(crate) fn transition(&mut self, reason: Reason, stayed: Duration, at: Instant) -> Transition {
        let (from, to) = reason.edge();
        self.time_in[from as usize] += stayed;
        self.transitions[reason as usize] += 1;
        Transition { seq: self.transitions.iter().sum(), from, to, reason, at }
    }

    pub(crate) fn incident(&mut self, kind: &'static str) {
        // Callers use constant kinds; the bound is a safeguard.
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
            // A probe ends exactly when the circuit leaves half-open.
            probes: ProbeOutcome::ALL.map(|of| (of, self.transitions[of.reason() as usize])),
        }
    }

    fn knows(&self, kind: &str) -> bool {
        self.incidents.iter().any(|(known, _)| *known == kind)
    }
}

/// Maximum number of kinds, plus `other`.
const MAX_KINDS: usize = 32;
