//! The circuit: three states, told what broke and what worked, asked what may pass.
//!
//! ```text
//!  Closed --incidents--> Open{until} --probe starts (now >= until)--> HalfOpen
//!    ^                      ^                                          |    |
//!    |                      +--- probe failed, lost or given back -----+    |
//!    +----------------------------- probe succeeded ------------------------+
//! ```
//!
//! Besides, an operator may say that what was broken is mended ([`Circuit::reset`]): from any state to closed.
//!
//! Passive: no clock, no task, no timer; every method takes `now`. A probe that never reports is therefore noticed
//! by the next caller of any method, and dated back to its deadline, so that a lost probe delays nothing.
//! Callers read `now` before they get hold of the circuit, so it may run backwards by a little: it is clamped.

mod slow_start;

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use self::slow_start::SlowStart;
pub use self::slow_start::SlowStartShown;
use crate::{
    policy::{Policy, Settings},
    tally::{Reason, Snapshot, State, Tally, Transition},
};

/// A circuit breaker's state, fed with incidents keyed by epoch.
#[derive(Debug)]
pub struct Circuit<P> {
    policy: P,
    phase: Phase,
    epochs: Epochs,
    /// When something last broke: a success that started before says nothing.
    last_incident: Option<Instant>,
    hold: Duration,
    probe_deadline: Duration,
    full_speed: u32,
    /// How often it recovered.
    recoveries: u64,
    /// The latest `now` seen.
    latest: Instant,
    tally: Tally,
    /// What the last operation changed: at most a lost probe, then the operation's own transition.
    changes: [Option<Transition>; 2],
}

/// A caller that was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The time to the next probe, or to the latest end of the one under way.
    pub retry_after: Duration,
    /// How long the probe under way has taken, if there is one: it may end at any time.
    pub probing: Option<Duration>,
    /// Until when this caller may wait for recovery instead of failing: the trip plus `hold`. Failed probes do not
    /// extend it.
    pub hold_until: Instant,
}

/// Whether a connection to what is guarded may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The circuit is closed: open as many as you like.
    Free,
    /// This one is the probe, and whoever got this answer owes the report.
    Probe,
    /// Not before this moment (earlier only if the state changes).
    Wait(Instant),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed {
        since: Instant,
        /// While it has only just recovered.
        slow_start: Option<SlowStart>,
    },
    Open {
        since: Instant,
        /// When it left `Closed`, across failed probes.
        tripped: Instant,
        /// When the next probe may start.
        until: Instant,
    },
    HalfOpen {
        /// When the probe started.
        since: Instant,
        tripped: Instant,
        /// The probe's epoch, once known.
        epoch: Option<u64>,
    },
}

impl<P: Policy> Circuit<P> {
    /// A closed circuit.
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

    /// The session of this epoch broke, or was never ready. One epoch counts once; what is older than the last trip
    /// or recovery does not count at all.
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

    /// Something that started at `started` worked. It says nothing if it started before the last incident, or if its
    /// session is known to be broken; while the circuit is not closed only the probe counts.
    pub fn success(&mut self, epoch: u64, started: Instant, now: Instant) {
        self.settle(now);
        let is_news = self.last_incident.is_none_or(|at| started > at) && !self.epochs.is_broken(epoch);
        if is_news && self.state() == State::Closed {
            self.policy.success();
        }
    }

    /// Lets a caller through, or refuses and counts it.
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

    /// What [`Circuit::admit`] would say, without counting: for callers that wait.
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

    /// Whether every call is let through now: closed, and no slow start any more.
    pub fn is_unhindered(&mut self, now: Instant) -> bool {
        let now = self.settle(now);
        matches!(self.phase, Phase::Closed { .. }) && self.slow_start(now).is_none()
    }

    /// Whether the slow start after a recovery lets one more call begin. What it does not let begin is not rejected,
    /// but told when to look again; [`Circuit::end`] may say so earlier.
    ///
    /// # Errors
    /// The moment at which more may begin even if nothing happens.
    pub fn may_begin(&mut self, now: Instant) -> Result<(), Instant> {
        let now = self.settle(now);
        self.slow_start(now).map_or(Ok(()), |slow_start| slow_start.check(now))
    }

    /// One more call begins; `Some` if it counts, to be ended with [`Circuit::end`] by this name.
    ///
    /// # Errors
    /// As [`Circuit::may_begin`].
    pub fn begin(&mut self, now: Instant) -> Result<Option<u64>, Instant> {
        let now = self.settle(now);
        self.slow_start(now).map(|slow_start| slow_start.begin(now)).transpose()
    }

    /// A call that counted ended. True if some were told to wait who should look again.
    pub fn end(&mut self, call: u64, succeeded: bool) -> bool {
        let now = self.settle(self.latest);
        self.slow_start(now).is_some_and(|slow_start| slow_start.end(call, succeeded))
    }

    /// Asks to open a connection. In open, the first to ask once the wait is over becomes the probe.
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

    /// Says which epoch the probe under way has. From then on only reports of that epoch end it, and
    /// [`Circuit::incident`] of it counts as its failure.
    pub fn probe_started(&mut self, probe: u64, now: Instant) {
        self.settle(now);
        if let Phase::HalfOpen { epoch: epoch @ None, .. } = &mut self.phase {
            *epoch = Some(probe);
        }
    }

    /// The probe succeeded: traffic flows again. Ignored unless it is the probe under way.
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

    /// The probe failed, which is an incident of this kind. Ignored unless it is the probe under way.
    pub fn probe_failed(&mut self, epoch: u64, kind: &'static str, now: Instant) {
        let now = self.settle(now);
        if self.is_probe(epoch) {
            self.end_failed_probe(epoch, kind, now);
        }
    }

    /// The probe was answered by somebody who is not what is guarded: it is neither up nor known to be broken. The wait
    /// grows as after a failed probe, and nothing is counted. Ignored unless it is the probe under way.
    pub fn probe_inconclusive(&mut self, epoch: u64, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase
            && self.is_probe(epoch)
        {
            self.reopen(tripped, Reason::ProbeFailed, now);
        }
    }

    /// Whoever was to probe did not try: the next may, shortly. Without this the probe deadline would have to pass.
    pub fn probe_abandoned(&mut self, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase {
            // Not at once: an owner that gives back every probe must not spin.
            let until = after(now, ABANDONED_PAUSE);
            self.enter(Phase::Open { since: now, tripped, until }, Reason::ProbeAbandoned, now);
        }
    }

    /// The operator says that what was broken is mended: traffic flows, nothing counts against it, and reports about
    /// what there was until now say nothing.
    pub fn reset(&mut self, now: Instant) {
        let now = self.settle(now);
        if let Phase::HalfOpen { tripped, .. } = self.phase {
            self.enter(Phase::Open { since: now, tripped, until: now }, Reason::ProbeAbandoned, now);
        }
        self.policy.revived();
        self.epochs.forget_older_than(self.epochs.highest + 1);
        if let Phase::Open { .. } = self.phase {
            // Whoever mended it resumes by steps of his own.
            self.enter(Phase::Closed { since: now, slow_start: None }, Reason::Reset, now);
        }
    }

    /// The state and all counts at this moment.
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

    /// What the last operation changed, in order.
    pub fn changes(&self) -> impl Iterator<Item = Transition> + use<P> {
        self.changes.into_iter().flatten()
    }

    /// Starts an operation: makes time monotonic and gives up a probe that is over its deadline.
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

    /// The slow start, unless it is over.
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

/// Which epochs are known to be broken.
#[derive(Debug, Default)]
struct Epochs {
    /// Everything older is of no interest.
    oldest: u64,
    highest: u64,
    /// The last ones reported, in order of report. A second report that comes after so many others counts again,
    /// which harms nobody: reports of one break come together.
    broken: VecDeque<u64>,
}

impl Epochs {
    /// Notes a broken epoch; false if it is known already or too old.
    fn break_new(&mut self, epoch: u64) -> bool {
        if !self.is_news(epoch) {
            return false;
        }
        if self.broken.len() == REMEMBERED_EPOCHS {
            self.broken.pop_front();
        }
        self.broken.push_back(epoch);
        self.highest = self.highest.max(epoch);
        true
    }

    fn is_news(&self, epoch: u64) -> bool {
        epoch >= self.oldest && !self.is_broken(epoch)
    }

    fn is_broken(&self, epoch: u64) -> bool {
        self.broken.contains(&epoch)
    }

    fn forget_older_than(&mut self, epoch: u64) {
        self.oldest = self.oldest.max(epoch);
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit open, next attempt in {:.3}s", self.retry_after.as_secs_f64())
    }
}

impl std::error::Error for Rejected {}

/// `at + wait`, or a moment nobody lives to see where that is beyond what an `Instant` holds.
fn after(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or_else(|| at + FAR)
}

const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
const REMEMBERED_EPOCHS: usize = 256;
const ABANDONED_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
