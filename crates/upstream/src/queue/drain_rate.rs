//! The rate at which the queue drains, and the expected waits that follow from it.

use std::time::{Duration, Instant};

/// Calls served and the time it took while calls waited, with exponentially decaying weight.
#[derive(Default)]
pub(super) struct DrainRate {
    served: f64,
    /// Seconds.
    busy: f64,
    /// The time of the last count. `None` while no call waits.
    seen: Option<Instant>,
    /// The latest time given to a rejected call.
    promised: Option<Instant>,
}

impl DrainRate {
    /// Starts counting: a call waits.
    pub(super) fn begin(&mut self, now: Instant) {
        self.seen = Some(now);
    }

    /// Stops counting: no call waits.
    pub(super) fn end(&mut self, now: Instant) {
        self.tick(now, false);
        self.seen = None;
    }

    /// Counts the time passed and, if `served`, one call.
    pub(super) fn tick(&mut self, now: Instant, served: bool) {
        let Some(seen) = &mut self.seen else { return };
        let passed = now.saturating_duration_since(*seen).as_secs_f64();
        *seen = now.max(*seen);
        let kept = (-passed / MEMORY.as_secs_f64()).exp();
        self.served = self.served * kept + f64::from(u8::from(served));
        self.busy = self.busy * kept + MEMORY.as_secs_f64() * (1.0 - kept);
    }

    /// The time to serve this many calls.
    pub(super) fn time_for(&mut self, calls: usize, now: Instant) -> Duration {
        bounded(self.needed(calls, now))
    }

    /// Returns the wait after which a rejected call should retry. Each gets a later one, so that they do not return at
    /// once, but none later than the time to serve a full queue.
    pub(super) fn book(&mut self, now: Instant, places: usize) -> Duration {
        let per_call = self.needed(1, now);
        let latest = now + bounded(self.needed(places, now));
        let after = self.promised.map_or(now, |promised| promised.max(now));
        let at = (after + per_call).max(now + SHORTEST).min(latest);
        self.promised = Some(at);
        bounded(at.saturating_duration_since(now))
    }

    fn needed(&mut self, calls: usize, now: Instant) -> Duration {
        self.tick(now, false);
        let per_call = if self.served < 1.0 { self.busy.max(UNKNOWN) } else { self.busy / self.served };
        #[expect(clippy::cast_precision_loss, reason = "no queue has 2^52 places")]
        let seconds = per_call * calls as f64;
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
    }
}

/// Keeps a wait within the bounds.
fn bounded(wait: Duration) -> Duration {
    wait.clamp(SHORTEST, LONGEST)
}

/// Time constant of the decay.
const MEMORY: Duration = Duration::from_secs(10);
/// Assumed seconds per call before one was served.
const UNKNOWN: f64 = 1.0;
/// Bounds of the waits given to agents: neither to spin nor to give up.
pub(super) const SHORTEST: Duration = Duration::from_millis(50);
pub(super) const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls served one after the other, this many milliseconds apart.
    fn served(drain_rate: &mut DrainRate, from: Instant, calls: u32, apart: u64) -> Instant {
        drain_rate.begin(from);
        let at = |n: u32| from + Duration::from_millis(apart) * n;
        (1..=calls).for_each(|n| drain_rate.tick(at(n), true));
        at(calls)
    }

    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_time_for_a_depth_is_that_of_the_calls_before() {
        let (mut drain_rate, start) = (DrainRate::default(), start());
        let now = served(&mut drain_rate, start, 200, 100);
        let ten = drain_rate.time_for(10, now).as_secs_f64();
        assert!((0.95..1.05).contains(&ten), "{ten}");
        // Nobody waits for an hour: that says nothing of how fast it is.
        drain_rate.end(now);
        let now = now + Duration::from_secs(3_600);
        drain_rate.begin(now);
        let ten = drain_rate.time_for(10, now).as_secs_f64();
        assert!((0.95..1.05).contains(&ten), "{ten}");
    }

    #[test]
    fn it_follows_a_backend_that_becomes_slower() {
        let (mut drain_rate, start) = (DrainRate::default(), start());
        let now = served(&mut drain_rate, start, 500, 10);
        let now = served(&mut drain_rate, now, 60, 1_000);
        let one = drain_rate.time_for(1, now).as_secs_f64();
        assert!((0.5..1.1).contains(&one), "{one}");
    }

    #[test]
    fn promises_lie_apart_and_within_bounds() {
        let (mut drain_rate, start) = (DrainRate::default(), start());
        let now = served(&mut drain_rate, start, 200, 100);
        let told: Vec<f64> = (0..30).map(|_| drain_rate.book(now, 20).as_secs_f64()).collect();
        assert!(told[..19].windows(2).all(|two| (0.09..0.11).contains(&(two[1] - two[0]))), "{told:?}");
        assert!(told.iter().all(|wait| *wait <= 2.1), "not beyond the time the queue takes: {told:?}");
        let now = served(&mut drain_rate, now, 2_000, 1);
        let (fast, mut cold) = (drain_rate.time_for(1, now), DrainRate::default());
        assert_eq!((fast, cold.time_for(1, now)), (SHORTEST, Duration::from_secs(1)));
        assert_eq!(cold.time_for(1_000, now), LONGEST);
    }
}
