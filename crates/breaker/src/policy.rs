//! When a circuit opens, and how long it waits before each probe.
//!
//! The only file that knows failsafe: its consecutive-failures policy counts, and hands out our delays. It reads no
//! clock. Its state machine and its windowed policy do, and let everyone through in half-open, so they are not used;
//! nor are its backoffs, which know whole seconds only.

use std::time::Duration;

use failsafe::{FailurePolicy, failure_policy};

/// How a breaker behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive incidents that open the circuit, 5. Zero counts as 1.
    pub failure_threshold: u32,
    /// Wait between two probes, 60 s; with `early_probe` off it is exactly this.
    pub recovery_timeout: Duration,
    /// The waits double up to this many times `recovery_timeout`, 1: not beyond it. Zero counts as 1.
    pub recovery_growth: u32,
    /// Probe 0.25 s after a trip, then every 0.5 s for 10 s, then at doubling intervals up to `recovery_timeout`; on.
    pub early_probe: bool,
    /// How long after a trip a call may wait for recovery instead of being refused, 10 s; 0 for not at all.
    pub hold: Duration,
    /// After this long a probe that did not report is given up, 10 s.
    pub probe_deadline: Duration,
    /// Calls in flight at which the slow start after a recovery is over, 256; up to 1: there is none.
    pub full_speed: u32,
    /// With a number, different for each gateway, late probes of `early_probe` are spread by 10 %; none.
    pub jitter: Option<u64>,
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
    /// The policy these settings describe.
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
        // Who turned early probes off was promised the exact time.
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
        // The threshold was reached when the circuit opened, so the count cannot say "not yet" here.
        let wait = self.incident().unwrap_or(self.recovery_timeout);
        self.jitter.as_mut().map_or(wait, |jitter| jitter.spread(wait))
    }

    fn revived(&mut self) {
        self.counted.revived();
    }
}

/// The first wait, where it is not the first of the doubling ones, then doubling ones up to the most.
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

/// Keeps the probes of several gateways apart: a small generator, because nothing here needs good numbers.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// The wait, give or take 10 %.
    fn spread(&mut self, wait: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        Duration::try_from_secs_f64(wait.as_secs_f64() * (0.9 + 0.2 * unit)).unwrap_or(wait)
    }
}

const FIRST_PROBE: Duration = Duration::from_millis(250);
const EARLY_INTERVAL: Duration = Duration::from_millis(500);
const EARLY_PERIOD: Duration = Duration::from_secs(10);
