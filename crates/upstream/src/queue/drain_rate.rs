//! How fast the queue empties, and so when there is a place in it.

use std::time::{Duration, Instant};

/// Calls served and the time it took, while anybody waited; what is long ago counts less and less.
#[derive(Default)]
pub(super) struct DrainRate {
    served: f64,
    /// Seconds.
    busy: f64,
    /// Up to when it was counted; nothing while nobody waits.
    seen: Option<Instant>,
    /// Up to when places are promised.
    promised: Option<Instant>,
}

impl DrainRate {
    /// Somebody waits.
    pub(super) fn begin(&mut self, now: Instant) {
        self.seen = Some(now);
    }

    /// Nobody waits any more.
    pub(super) fn end(&mut self, now: Instant) {
        self.tick(now, false);
        self.seen = None;
    }

    /// Time has passed, and a call that waited may have been served.
    pub(super) fn tick(&mut self, now: Instant, served: bool) {
        let Some(seen) = &mut self.seen else { return };
        let passed = now.saturating_duration_since(*seen).as_secs_f64();
        *seen = now.max(*seen);
        let kept = (-passed / MEMORY.as_secs_f64()).exp();
        self.served = self.served * kept + f64::from(u8::from(served));
        self.busy = self.busy * kept + MEMORY.as_secs_f64() * (1.0 - kept);
    }

    /// How long `calls` take to be served.
    pub(super) fn time_for(&mut self, calls: usize, now: Instant) -> Duration {
        bounded(self.needed(calls, now))
    }

    /// Promises the next place in a queue for so many, and says when that is. No two get the same, so that those who
    /// come back do not meet at the door; but none is later than the time in which all who wait are served.
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

/// What an agent is told: neither to spin nor to give up.
fn bounded(wait: Duration) -> Duration {
    wait.clamp(SHORTEST, LONGEST)
}

/// How far back counts.
const MEMORY: Duration = Duration::from_secs(10);
/// Seconds for a call while none was served yet.
const UNKNOWN: f64 = 1.0;
/// Bounds of what is told.
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
