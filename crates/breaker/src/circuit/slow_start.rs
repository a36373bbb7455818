//! The slow start after a recovery: one call in flight, doubled by each success, until `full_speed`.
//!
//! A second without an incident doubles the limit too. Otherwise a first call that takes an hour would block all others
//! as long.

use std::time::{Duration, Instant};

/// Limit of calls in flight while the backend recovers.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    /// The slow start's number, so that calls of an earlier one are ignored.
    number: u64,
    /// The time it began or was reset.
    began: Instant,
    successes: u32,
    in_flight: u32,
    /// The limit at which it ends.
    full_speed: u32,
    /// True if a call was made to wait and needs a signal.
    turned_away: bool,
}

/// The slow start's state, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStartShown {
    /// Calls that may be in flight now.
    pub limit: u32,
    /// Calls in flight that began since the recovery.
    pub in_flight: u32,
}

impl SlowStart {
    /// `None` if one call already reaches `full_speed`.
    pub(super) fn new(number: u64, full_speed: u32, now: Instant) -> Option<Self> {
        let start = Self { number, began: now, successes: 0, in_flight: 0, full_speed, turned_away: false };
        start.limit(now).map(|_| start)
    }

    /// The limit of calls in flight; `None` when the slow start is over.
    pub(super) fn limit(&self, now: Instant) -> Option<u32> {
        let doublings = u64::from(self.successes) + self.steps(now);
        let limit = u32::try_from(doublings).ok().and_then(|n| 1_u32.checked_shl(n)).unwrap_or(u32::MAX);
        (limit < self.full_speed).then_some(limit)
    }

    /// Checks if one more call may begin.
    ///
    /// # Errors
    /// The time at which the limit grows by itself.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Instant> {
        if self.limit(now).is_none_or(|limit| self.in_flight < limit) {
            return Ok(());
        }
        self.turned_away = true;
        Err(self.began + STEP * u32::try_from(self.steps(now) + 1).unwrap_or(u32::MAX))
    }

    /// Starts a call; returns the number for [`SlowStart::end`].
    ///
    /// # Errors
    /// As [`SlowStart::check`].
    pub(super) fn begin(&mut self, now: Instant) -> Result<u64, Instant> {
        self.check(now)?;
        self.in_flight += 1;
        Ok(self.number)
    }

    /// Ends a call. True if a waiting call should check again.
    pub(super) fn end(&mut self, number: u64, succeeded: bool) -> bool {
        if number != self.number {
            return false;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.successes += u32::from(succeeded);
        std::mem::take(&mut self.turned_away)
    }

    /// Resets the limit to one call, after an incident.
    pub(super) fn throw_back(&mut self, now: Instant) {
        self.began = now;
        self.successes = 0;
    }

    pub(super) fn shown(&self, now: Instant) -> Option<SlowStartShown> {
        self.limit(now).map(|limit| SlowStartShown { limit, in_flight: self.in_flight })
    }

    fn steps(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / STEP.as_secs()
    }
}

/// The time without incident that counts like a success: longer than most calls, far shorter than `hold`.
const STEP: Duration = Duration::from_secs(1);
