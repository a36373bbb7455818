//! Policy of a circuit: when it opens, and the wait before each probe.
//!
//! This is the only file that uses failsafe, for its consecutive-failures policy: it counts, and returns our delays.
//! failsafe's state machine and windowed policy read a clock and admit all calls in half-open, and its backoffs know
//! whole seconds only, so they are not used.

use std::time::Duration;

use failsafe::{FailurePolicy, failure_policy};

/// Settings of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive incidents that open the circuit. Default 5; 0 counts as 1.
    pub failure_threshold: u32,
    /// Wait between probes; exact if `early_probe` is off. Default 60 s.
    pub recovery_timeout: Duration,
    /// Waits double up to this multiple of `recovery_timeout`. Default 1, no growth; 0 counts as 1.
    pub recovery_growth: u32,
    /// Probe 0.25 s after a trip, then every 0.5 s for 10 s, then at doubling intervals up to `recovery_timeout`.
    /// Default on.
    pub early_probe: bool,
    /// Time after a trip during which calls wait for recovery instead of failing. Default 10 s; 0 = no wait.
    pub hold: Duration,
    /// Time after which a probe without report counts as lost. Default 10 s.
    pub probe_deadline: Duration,
    /// Calls in flight at which the slow start ends. Default 256; 0 and 1 = no slow start.
    pub full_speed: u32,
    /// Seed, different per gateway, that spreads late probes of `early_probe` by ±10 %. Default none.
    pub jitter: Option<u64>,
}

/// Decides when incidents open a circuit and when to probe. Reads no clock.
pub trait Policy {
    /// Counts a success: resets the count of incidents.
    fn success(&mut self);

    /// Counts an incident in the closed state. `Some(delay)` opens the circuit, with the first probe after `delay`.
    fn incident(&mut self) -> Option<Duration>;

    /// The wait before the next probe, after one failed `open_for` after the trip.
    fn probe_failed(&mut self, open_for: Duration) -> Duration;

    /// Resets the policy after a successful probe.
    fn revived(&mut self);
}

/// Opens after a number of incidents with no success between them.
#[derive(Debug)]
pub struct ConsecutiveFailures {
    counted: failure_policy::ConsecutiveFailures<Delays>,
    recovery_timeout: Duration,
    early_probe: bool,
    jitter: Option<Jitter>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            recovery_growth: 1,
            early_probe: true,
            hold: Duration::from_secs(10),
            probe_deadline: Duration::from_secs(10),
            full_speed: 256,
            jitter: None,
        }
    }
}

impl ConsecutiveFailures {
    /// Creates the policy from settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let Settings { failure_threshold, recovery_timeout, early_probe, .. } = *settings;
        let most = recovery_timeout.saturating_mul(settings.recovery_growth.max(1));
        let delays = if early_probe {
            Delays { first: Some(FIRST_PROBE.min(recovery_timeout)), next: Duration::from_secs(1), most }
        } else {
            Delays { first: None, next: recovery_timeout, most }
        };
        let counted = failure_policy::consecutive_failures(failure_threshold, delays);
        // With early probes off, the documented wait is exact.
        let jitter = settings.jitter.filter(|_| early_probe).map(Jitter);
        Self { counted, recovery_timeout, early_probe, jitter }
    }
}

impl Policy for ConsecutiveFailures {
    fn success(&mut self) {
        self.counted.record_success();
    }

    fn incident(&mut self) -> Option<Duration> {
        self.counted.mark_dead_on_failure()
    }

    fn probe_failed(&mut self, open_for: Duration) -> Duration {
        if self.early_probe && open_for < EARLY_PERIOD {
            return EARLY_INTERVAL.min(self.recovery_timeout);
        }
        // The threshold was reached at the trip, so the count always returns a delay here.
        let wait = self.incident().unwrap_or(self.recovery_timeout);
        self.jitter.as_mut().map_or(wait, |jitter| jitter.spread(wait))
    }

    fn revived(&mut self) {
        self.counted.revived();
    }
}

/// An optional first delay, then delays that double up to `most`.
#[derive(Clone, Debug)]
struct Delays {
    first: Option<Duration>,
    next: Duration,
    most: Duration,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.first.take().unwrap_or_else(|| {
            let doubled = self.next.saturating_mul(2);
            std::mem::replace(&mut self.next, doubled)
        });
        Some(delay.min(self.most))
    }
}

/// Spreads the probes of several gateways. A simple generator is enough.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// The wait ±10 %.
    fn spread(&mut self, wait: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        Duration::try_from_secs_f64(wait.as_secs_f64() * (0.9 + 0.2 * unit)).unwrap_or(wait)
    }
}

const FIRST_PROBE: Duration = Duration::from_millis(250);
const EARLY_INTERVAL: Duration = Duration::from_millis(500);
const EARLY_PERIOD: Duration = Duration::from_secs(10);
