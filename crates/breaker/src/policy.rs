//! When a circuit opens, and how long it waits before each probe.
//!
//! The only file that knows failsafe: its consecutive-failures policy counts, its backoffs give the delays. Neither
//! reads a clock. Its state machine and its windowed policy do, and let everyone through in half-open, so they are
//! not used. The dense probes right after a trip are ours: failsafe's backoffs know whole seconds only.

use std::{iter, time::Duration};

use failsafe::{FailurePolicy, backoff, failure_policy};

/// How a breaker behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive incidents that open the circuit, 5. Zero counts as 1.
    pub failure_threshold: u32,
    /// Longest wait between two probes, 60 s; with `early_probe` off it is exactly this.
    pub recovery_timeout: Duration,
    /// Probe 0.25 s after a trip, then every 0.5 s for 10 s, then at doubling intervals up to `recovery_timeout`; on.
    pub early_probe: bool,
    /// How long after a trip a call may wait for recovery instead of being refused, 10 s; 0 for not at all.
    pub hold: Duration,
    /// After this long a probe that did not report is given up, 10 s.
    pub probe_deadline: Duration,
}

/// Decides when incidents open a circuit and when to probe. Reads no clock.
pub trait Policy {
    /// Something worked: what was counted so far is forgotten.
    fn success(&mut self);

    /// Something broke while the circuit was closed. `Some(delay)` opens it, with the first probe after `delay`.
    fn incident(&mut self) -> Option<Duration>;

    /// A probe failed this long after the circuit opened: how long to wait for the next.
    fn probe_failed(&mut self, open_for: Duration) -> Duration;

    /// A probe succeeded: everything starts anew.
    fn revived(&mut self);
}

/// Opens after a number of incidents without a success between them.
#[derive(Debug)]
pub struct ConsecutiveFailures {
    counted: failure_policy::ConsecutiveFailures<Delays>,
    recovery_timeout: Duration,
    early_probe: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            early_probe: true,
            hold: Duration::from_secs(10),
            probe_deadline: Duration::from_secs(10),
        }
    }
}

impl ConsecutiveFailures {
    /// The policy these settings describe.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let Settings { failure_threshold, recovery_timeout, early_probe, .. } = *settings;
        let delays = if early_probe {
            Delays::Growing(iter::once(FIRST_PROBE).chain(doubling_to(recovery_timeout)))
        } else {
            Delays::Exact(backoff::constant(recovery_timeout))
        };
        let counted = failure_policy::consecutive_failures(failure_threshold, delays);
        Self { counted, recovery_timeout, early_probe }
    }
}

impl Policy for ConsecutiveFailures {
    fn success(&mut self) {
        self.counted.record_success();
    }

    fn incident(&mut self) -> Option<Duration> {
        // The growing delays are rounded up to whole seconds, the setting is not.
        self.counted.mark_dead_on_failure().map(|delay| delay.min(self.recovery_timeout))
    }

    fn probe_failed(&mut self, open_for: Duration) -> Duration {
        if self.early_probe && open_for < EARLY_PERIOD {
            return EARLY_INTERVAL.min(self.recovery_timeout);
        }
        // The threshold was reached when the circuit opened, so the count cannot say "not yet" here.
        self.incident().unwrap_or(self.recovery_timeout)
    }

    fn revived(&mut self) {
        self.counted.revived();
    }
}

/// failsafe's backoffs as one type, because the settings choose between them at run time.
#[derive(Clone, Debug)]
enum Delays {
    Exact(backoff::Constant),
    Growing(iter::Chain<iter::Once<Duration>, backoff::Exponential>),
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self {
            Self::Exact(delays) => delays.next(),
            Self::Growing(delays) => delays.next(),
        }
    }
}

/// 1 s, 2 s, 4 s and so on, up to `most` rounded up to a second: failsafe panics below one.
fn doubling_to(most: Duration) -> backoff::Exponential {
    let rounded_up = most.as_secs() + u64::from(most.subsec_nanos() > 0 && most.as_secs() < u64::MAX);
    backoff::exponential(Duration::from_secs(1), Duration::from_secs(rounded_up.max(1)))
}

const FIRST_PROBE: Duration = Duration::from_millis(250);
const EARLY_INTERVAL: Duration = Duration::from_millis(500);
const EARLY_PERIOD: Duration = Duration::from_secs(10);
