//! The slow start after a recovery: one call in flight, twice as many after each that worked, until it is over.
//!
//! Time counts as well: a second without an incident doubles like a success. Otherwise a first call that takes an
//! hour would hold back everybody else for as long.

use std::time::{Duration, Instant};

/// How many calls may be in flight while the backend recovers.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    /// Which one it is: calls of an earlier one are no business of this one.
    number: u64,
    /// When it began, or was thrown back.
    began: Instant,
    successes: u32,
    in_flight: u32,
    /// At this many calls it is over.
    full_speed: u32,
    /// Somebody was sent away and must hear of the next change.
    turned_away: bool,
}

/// A slow start as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStartShown {
    /// Calls that may be in flight now.
    pub limit: u32,
    /// Calls in flight that began since the recovery.
    pub in_flight: u32,
}

impl SlowStart {
    /// None where it would be over before it began.
    pub(super) fn new(number: u64, full_speed: u32, now: Instant) -> Option<Self> {
        let start = Self { number, began: now, successes: 0, in_flight: 0, full_speed, turned_away: false };
        start.limit(now).map(|_| start)
    }

    /// Calls that may be in flight; none if it is over.
    pub(super) fn limit(&self, now: Instant) -> Option<u32> {
        let doublings = u64::from(self.successes) + self.steps(now);
        let limit = u32::try_from(doublings).ok().and_then(|n| 1_u32.checked_shl(n)).unwrap_or(u32::MAX);
        (limit < self.full_speed).then_some(limit)
    }

    /// Whether one more call may begin.
    ///
    /// # Errors
    /// The moment at which the limit grows by itself.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Instant> {
        if self.limit(now).is_none_or(|limit| self.in_flight < limit) {
            return Ok(());
        }
        self.turned_away = true;
        Err(self.began + STEP * u32::try_from(self.steps(now) + 1).unwrap_or(u32::MAX))
    }

    /// One more call begins; its name for [`SlowStart::end`].
    ///
    /// # Errors
    /// As [`SlowStart::check`].
    pub(super) fn begin(&mut self, now: Instant) -> Result<u64, Instant> {
        self.check(now)?;
        self.in_flight += 1;
        Ok(self.number)
    }

    /// A call ended. True if somebody was turned away who should look again.
    pub(super) fn end(&mut self, number: u64, succeeded: bool) -> bool {
        if number != self.number {
            return false;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.successes += u32::from(succeeded);
        std::mem::take(&mut self.turned_away)
    }

    /// Something broke: back to one call at a time.
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

/// How long without a success counts as one: longer than most calls, far shorter than the patience of those who wait.
const STEP: Duration = Duration::from_secs(1);
