//! Expiry of sealed ids by the wall clock, because ids outlive the process. All timers are monotonic.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Tolerated error of the wall clock: set a day forward or back it neither ends a session nor refuses one.
const LEEWAY: u64 = 24 * 60 * 60 * 1_000;

/// The source of the time of day.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

/// Decides which ids have expired.
pub(crate) struct Expiry {
    clock: WallClock,
    /// Milliseconds.
    lifetime: u64,
}

impl WallClock {
    /// A custom clock.
    #[must_use]
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Milliseconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        let since = (self.0)().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock(..)")
    }
}

impl Expiry {
    pub(crate) fn new(clock: WallClock, lifetime: Duration) -> Self {
        Self { clock, lifetime: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX) }
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Whether an id issued at this time has not expired, and is not from further in the future than a clock may be
    /// wrong.
    pub(crate) fn is_good(&self, issued: u64) -> bool {
        issued >= self.expired() && issued <= self.now().saturating_add(LEEWAY)
    }

    /// The time of issue before which ids have expired.
    pub(crate) fn expired(&self) -> u64 {
        self.now().saturating_sub(self.lifetime.saturating_add(LEEWAY))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const HOUR: u64 = 60 * 60 * 1_000;

    #[test]
    fn a_clock_that_is_a_day_off_ends_nothing_and_one_that_is_further_off_does() {
        let now = Arc::new(AtomicU64::new(1_000 * HOUR));
        let shown = Arc::clone(&now);
        let clock = WallClock::new(move || UNIX_EPOCH + Duration::from_millis(shown.load(Ordering::Relaxed)));
        let expiry = Expiry::new(clock, Duration::from_millis(10 * HOUR));
        let issued = expiry.now();
        for (shown, good) in [
            (1_000 * HOUR, true),
            (1_000 * HOUR - 24 * HOUR, true),
            (1_000 * HOUR - 24 * HOUR - 1, false),
            (1_000 * HOUR + 34 * HOUR, true),
            (1_000 * HOUR + 34 * HOUR + 1, false),
            (0, false),
            (u64::MAX / 1_000_000, false),
        ] {
            now.store(shown, Ordering::Relaxed);
            assert_eq!(expiry.is_good(issued), good, "{shown}");
        }
    }

    #[test]
    fn a_clock_before_1970_is_1970() {
        let clock = WallClock::new(|| UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(clock.now(), 0);
    }
}
