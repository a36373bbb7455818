//! The circuit: a state machine fed with incidents and successes, which decides what may pass.
//!
//! ```text
//!  Closed --incidents--> Open{until} --probe starts (now >= until)--> HalfOpen
//!    ^                      ^                                          |    |
//!    |                      +--- probe failed, lost or abandoned ------+    |
//!    +----------------------------- probe succeeded ------------------------+
//! ```
//!
//! An operator can close it from any state ([`Circuit::reset`]).
//!
//! The circuit has no clock, task or timer; every method takes `now`. The next call of any method notices a probe
//! without report, and dates its loss back to its deadline, so that a lost probe delays nothing. Callers read `now`
//! before they lock the circuit, so time may step back a little: it is clamped.

mod epochs;
mod slow_start;

use std::{
    fmt,
    time::{Duration, Instant},
};

pub use self::slow_start::SlowStartShown;
use self::{epochs::Epochs, slow_start::SlowStart};
use crate::{
    policy::{Policy, Settings},
    tally::{Reason, Snapshot, State, Tally, Transition},
};

/// The state of a circuit breaker, fed with incidents by epoch.
#[derive(Debug)]
pub struct Circuit<P> {
    policy: P,
    phase: Phase,
    epochs: Epochs,
    /// The last incident. Successes that started before it are ignored.
    last_incident: Option<Instant>,
    hold: Duration,
    probe_deadline: Duration,
    full_speed: u32,
    /// The number of recoveries.
    recoveries: u64,
    /// The latest `now` so far.
    latest: Instant,
    tally: Tally,
    /// Transitions of the last operation: at most a lost probe, then its own.
    changes: [Option<Transition>; 2],
}

/// A rejected call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The time to the next probe, or to the deadline of the running one.
    pub retry_after: Duration,
    /// The running probe's duration so far. It may end at any time.
    pub probing: Option<Duration>,
    /// The call may wait for recovery until here instead of failing: the trip plus `hold`. Failed probes do not extend
    /// it.
    pub hold_until: Instant,
}

/// Permission to open a connection to the guarded backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The circuit is closed: connections are unlimited.
    Free,
    /// This connection is the probe; its owner must report the outcome.
    Probe,
    /// Not before this moment, unless the state changes earlier.
    Wait(Instant),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed {
        since: Instant,
        /// The slow start after a recovery.
        slow_start: Option<SlowStart>,
    },
    Open {
        since: Instant,
        /// When the circuit left `Closed`; failed probes do not change it.
        tripped: Instant,
        /// The earliest start of the next probe.
        until: Instant,
    },
    HalfOpen {
        /// The start of the probe.
        since: Instant,
        tripped: Instant,
        /// The probe's epoch, once known.
        epoch: Option<u64>,
    },
}

impl<P: Policy> Circuit<P> {
    /// Creates a closed circuit.
    pub fn new(policy: P, settings: &Settings, now: Instant) -> Self {
        Self {
            policy,
            phase: Phase::Closed { since: now, slow_start: None },
            epochs: Epochs::default(),
            last_incident: None,
            hold: settings.hold,
            probe_deadline: settings.probe_deadline,
            full_speed: settings.full_speed,
            recoveries: 0,
            latest: now,
            tally: Tally::default(),
            changes: [None; 2],
        }
    }

    /// Reports that the session of this epoch broke or never became ready. Each epoch counts once; epochs older than
    /// the last trip or recovery do not count.
    pub fn incident(&mut self, epoch: u64, kind: &'static str, now: Instant) {
        let now = self.settle(now);
        if matches!(self.phase, Phase::HalfOpen { epoch: Some(probe), .. } if probe == epoch) {
            return self.end_failed_probe(epoch, kind, now);
        }
        if !self.epochs.break_new(epoch) {
            return;
        }
        self.tally.incident(kind);
        self.last_incident = Some(now);
        let Phase::Closed { slow_start, .. } = &mut self.phase else { return };
        if let Some(slow_start) = slow_start {
            slow_start.throw_back(now);
        }
        if let Some(delay) = self.policy.incident() {
            self.epochs.forget_older_than(self.epochs.highest);
            let until = after(now, delay);
            self.enter(Phase::Open { since: now, tripped: now, until }, Reason::Incidents, now);
        }
    }

    /// Reports a success that started at `started`. Ignored if it started before the last incident, if its session is
    /// known to be broken, or unless the circuit is closed.
    pub fn success(&mut self, epoch: u64, started: Instant, now: Instant) {
        self.settle(now);
        let is_news = self.last_incident.is_none_or(|at| started > at) && !self.epochs.is_broken(epoch);
        if is_news && self.state() == State::Closed {
            self.policy.success();
        }
    }

    /// Admits a call, or rejects and counts it.
    ///
    /// # Errors
    /// [`Rejected`] in every state but closed.
    pub fn admit(&mut self, now: Instant) -> Result<(), Rejected> {
        let verdict = self.would_admit(now);
        if verdict.is_err() {
            self.tally.rejected();
        }
        verdict
    }

    /// As [`Circuit::admit`] without counting, for calls that wait.
    ///
    /// # Errors
    /// [`Rejected`] in every state but closed.
    pub fn would_admit(&mut self, now: Instant) -> Result<(), Rejected> {
        let now = self.settle(now);
        let (tripped, next, probing) = match self.phase {
            Phase::Closed { .. } => return Ok(()),
            Phase::Open { tripped, until, .. } => (tripped, until, None),
            Phase::HalfOpen { since, tripped, .. } => {
                (tripped, after(since, self.probe_deadline), Some(now.saturating_duration_since(since)))
            }
        };
        Err(Rejected {
            retry_after: next.saturating_duration_since(now),
            probing,
            hold_until: after(tripped, self.hold),
        })
    }

    /// True if every call passes now: the circuit is closed and its slow start is over.
    pub fn is_unhindered(&mut self, now: Instant) -> bool {
        let now = self.settle(now);
        matches!(self.phase, Phase::Closed { .. }) && self.slow_start(now).is_none()
    }

    /// Checks if the slow start after a recovery allows one more call. A call that must wait does not count as
    /// rejected.
    ///
    /// # Errors
    /// The time to check again; [`Circuit::end`] may signal it earlier.
    pub fn may_begin(&mut self, now: Instant) -> Result<(), Instant> {
        let now = self.settle(now);
        self.slow_start(now).map_or(Ok(()), |slow_start| slow_start.check(now))
    }

    /// Starts a call. `Some` if the slow start counts it: pass the number to [`Circuit::end`].
    ///
    /// # Errors
    /// As [`Circuit::may_begin`].
    pub fn begin(&mut self, now: Instant) -> Result<Option<u64>, Instant> {
        let now = self.settle(now);
        self.slow_start(now).map(|slow_start| slow_start.begin(now)).transpose()
    }

    /// Ends a counted call. True if waiting calls should check again.
    pub fn end(&mut self, call: u64, succeeded: bool) -> bool {
        let now = self.settle(self.latest);
        self.slow_start(now).is_some_and(|slow_start| slow_start.end(call, succeeded))
    }

    /// Asks to open a connection. When the open state's wait is over, the first to ask becomes the probe.
    pub fn may_open(&mut self, now: Instant) -> Opening {
        let now = self.settle(now);
        match self.phase {
            Phase::Closed { .. } => Opening::Free,
            Phase::Open { until, .. } if now < until => Opening::Wait(until),
            Phase::Open { tripped, .. } => {
                self.enter(Phase::HalfOpen { since: now, tripped, epoch: None }, Reason::ProbeStarted, now);
                Opening::Probe
            }
            Phase::HalfOpen { since, .. } => Opening::Wait(after(since, self.probe_deadline)),
        }
    }

    /// Sets the epoch of the running probe. From then on only reports of this epoch end it, and its
    /// [`Circuit::incident`] counts as the probe's failure.
    pub fn probe_started(&mut self, probe: u64, now: Instant) {
        self.settle(now);
        if let Phase::HalfOpen { epoch: epoch @ None, .. } = &mut self.phase {
            *epoch = Some(probe);
        }
    }

    /// Reports the probe's success and closes the circuit. Ignored unless `epoch` is the running probe's.
    pub fn probe_succeeded(&mut self, epoch: u64, now: Instant) {
        let now = self.settle(now);
        if self.is_probe(epoch) {
            self.policy.revived();
            self.epochs.forget_older_than(epoch);
            self.recoveries += 1;
            let slow_start = SlowStart::new(self.recoveries, self.full_speed, now);
            self.enter(Phase::Closed { since: now, slow_start }, Reason::ProbeSucceeded, now);
        }
    }

    /// Reports the probe's failure as an incident of this kind. Ignored unless `epoch` is the running probe's.
    pub fn probe_failed(&mut self, epoch: u64, kind: &'static str, now: Instant) {
        let now = self.settle(now);
        if self.is_probe(epoch) {
            self.end_failed_probe(epoch, kind, now);
        }
    }

    /// Reports that something other than the guarded backend answered the probe, so its state is unknown. The wait
    /// grows as after a failed probe, but no incident is counted. Ignored unless `epoch` is the running probe's.
    pub fn probe_inconclusive(&mut self, epoch: u64, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase
            && self.is_probe(epoch)
        {
            self.reopen(tripped, Reason::ProbeFailed, now);
        }
    }

    /// Returns an unused probe, so that the next may start shortly instead of after the probe deadline.
    pub fn probe_abandoned(&mut self, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase {
            // A pause, so that an owner that returns every probe cannot spin.
            let until = after(now, ABANDONED_PAUSE);
            self.enter(Phase::Open { since: now, tripped, until }, Reason::ProbeAbandoned, now);
        }
    }

    /// Closes the circuit on the operator's order: resets all counts, and ignores later reports of earlier epochs.
    pub fn reset(&mut self, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase {
            self.enter(Phase::Open { since: now, tripped, until: now }, Reason::ProbeAbandoned, now);
        }
        self.policy.revived();
        self.epochs.forget_older_than(self.epochs.highest + 1);
        if let Phase::Open { .. } = self.phase {
            // No slow start: resuming has its own.
            self.enter(Phase::Closed { since: now, slow_start: None }, Reason::Reset, now);
        }
    }

    /// The state and all counts now.
    pub fn snapshot(&mut self, now: Instant) -> Snapshot {
        let now = self.settle(now);
        let next_probe = match self.phase {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
        };
        let slow_start = self.slow_start(now).and_then(|slow_start| slow_start.shown(now));
        let in_state = now.saturating_duration_since(self.since());
        Snapshot { slow_start, ..self.tally.snapshot(self.state(), in_state, next_probe) }
    }

    /// The transitions of the last operation, in order.
    pub fn changes(&self) -> impl Iterator<Item = Transition> + use<P> {
        self.changes.into_iter().flatten()
    }

    /// Begins an operation: clamps the time and ends a probe past its deadline.
    fn settle(&mut self, now: Instant) -> Instant {
        self.changes = [None; 2];
        self.latest = self.latest.max(now);
        if let Phase::HalfOpen { since, tripped, .. } = self.phase {
            let deadline = after(since, self.probe_deadline);
            if self.latest >= deadline {
                self.reopen(tripped, Reason::ProbeLost, deadline);
            }
        }
        self.latest
    }

    fn end_failed_probe(&mut self, epoch: u64, kind: &'static str, now: Instant) {
        if let Phase::HalfOpen { tripped, .. } = self.phase {
            self.epochs.break_new(epoch);
            self.tally.incident(kind);
            self.reopen(tripped, Reason::ProbeFailed, now);
        }
    }

    fn reopen(&mut self, tripped: Instant, reason: Reason, at: Instant) {
        let delay = self.policy.probe_failed(at.saturating_duration_since(tripped));
        self.enter(Phase::Open { since: at, tripped, until: after(at, delay) }, reason, at);
    }

    fn enter(&mut self, phase: Phase, reason: Reason, at: Instant) {
        let stayed = at.saturating_duration_since(self.since());
        self.phase = phase;
        debug_assert_eq!(self.state(), reason.edge().1, "the reason must match the state entered");
        let change = self.tally.transition(reason, stayed, at);
        let free = usize::from(self.changes[0].is_some());
        self.changes[free] = Some(change);
    }

    /// The slow start; `None` if it is over.
    fn slow_start(&mut self, now: Instant) -> Option<&mut SlowStart> {
        let Phase::Closed { slow_start, .. } = &mut self.phase else { return None };
        *slow_start = slow_start.filter(|slow_start| slow_start.limit(now).is_some());
        slow_start.as_mut()
    }

    fn is_probe(&self, reported: u64) -> bool {
        match self.phase {
            Phase::Closed { .. } | Phase::Open { .. } => false,
            Phase::HalfOpen { epoch: Some(probe), .. } => probe == reported,
            Phase::HalfOpen { epoch: None, .. } => self.epochs.is_news(reported),
        }
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    fn since(&self) -> Instant {
        match self.phase {
            Phase::Closed { since, .. } | Phase::Open { since, .. } | Phase::HalfOpen { since, .. } => since,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit open, next attempt in {:.3}s", self.retry_after.as_secs_f64())
    }
}

impl std::error::Error for Rejected {}

/// `at + wait`, or a year later if `Instant` cannot hold it.
fn after(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or_else(|| at + FAR)
}

const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
const ABANDONED_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
