//! The retry budget: a share of the calls first sent in the last seconds, plus a constant, so that a failing backend is
//! not hit several times as hard.
//!
//! Only retries of calls that reached the backend count. Unsent calls and lost sessions are free, and all sessions lost
//! in one crash cost a call one retry.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The retry budget of one backend.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u64,
    window: Mutex<Window>,
}

/// A ring of the last seconds.
#[derive(Debug)]
struct Window {
    started: Instant,
    /// The current second since `started`.
    second: u64,
    seconds: [Second; SECONDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    sent: u64,
    repeated: u64,
}

impl Budget {
    pub(super) fn new(percent: u32, now: Instant) -> Self {
        let window = Window { started: now, second: 0, seconds: [Second::default(); SECONDS] };
        Self { percent: u64::from(percent), window: Mutex::new(window) }
    }

    /// Counts a first attempt.
    pub(super) fn sent(&self, now: Instant) {
        self.with(now, |window| window.current().sent += 1);
    }

    /// True if a call may be sent again; counts it.
    pub(super) fn repeat(&self, now: Instant) -> bool {
        self.with(now, |window| {
            let allowed = window.sum(|second| second.sent) * self.percent / 100 + ALWAYS;
            let may = window.sum(|second| second.repeated) < allowed;
            window.current().repeated += u64::from(may);
            may
        })
    }

    fn with<T>(&self, now: Instant, act: impl FnOnce(&mut Window) -> T) -> T {
        // Counters stay usable after a panic elsewhere.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.move_to(now);
        act(&mut window)
    }
}

impl Window {
    /// Drops seconds older than the window. Callers read the time before the lock, so it may step back a little: then
    /// the window stays.
    fn move_to(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.started).as_secs().max(self.second);
        let passed = (second - self.second).min(SECONDS as u64);
        for n in 0..passed {
            let at = self.place(second - n);
            self.seconds[at] = Second::default();
        }
        self.second = second;
    }

    fn current(&mut self) -> &mut Second {
        let at = self.place(self.second);
        &mut self.seconds[at]
    }

    fn sum(&self, of: impl Fn(&Second) -> u64) -> u64 {
        self.seconds.iter().map(of).sum()
    }

    #[expect(clippy::cast_possible_truncation, reason = "smaller than the ring")]
    fn place(&self, second: u64) -> usize {
        (second % SECONDS as u64) as usize
    }
}

/// The window in seconds: a burst of losses is measured against the calls before it.
const SECONDS: usize = 10;
/// Retries always allowed in the window: 3 per second.
const ALWAYS: u64 = 3 * SECONDS as u64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        super::super::now()
    }

    fn repeats(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.repeat(now)).count()
    }

    #[test]
    fn a_fifth_of_what_was_sent_and_three_a_second() {
        let now = start();
        let budget = Budget::new(20, now);
        assert_eq!(repeats(&budget, now), 30);
        (0..1_000).for_each(|_| budget.sent(now));
        assert_eq!(repeats(&budget, now), 200);
        assert_eq!(repeats(&budget, now + 9 * SECOND), 0, "still within the window");
        assert_eq!(repeats(&budget, now + 10 * SECOND), 30, "all forgotten");
    }

    #[test]
    fn a_backend_that_fails_everything_gets_no_more_than_its_share() {
        let now = start();
        let budget = Budget::new(20, now);
        let mut repeated = 0;
        for ms in 0..60_000 {
            let now = now + Duration::from_millis(ms);
            budget.sent(now);
            repeated += u32::from(budget.repeat(now));
        }
        // 60,000 calls, each of which wants to be repeated.
        assert!((12_000..=12_000 + 60 * 3 + 30).contains(&repeated), "{repeated}");
    }

    #[test]
    fn nothing_but_the_few_where_the_share_is_zero() {
        let now = start();
        let budget = Budget::new(0, now);
        (0..1_000).for_each(|_| budget.sent(now));
        assert_eq!(repeats(&budget, now), 30);
    }

    #[test]
    fn a_long_silence_and_a_clock_that_is_read_late_do_no_harm() {
        let now = start();
        let budget = Budget::new(100, now);
        (0..100).for_each(|_| budget.sent(now));
        assert_eq!(repeats(&budget, now + 100_000 * SECOND), 30);
        (0..100).for_each(|_| budget.sent(now + 5 * SECOND));
        assert_eq!(repeats(&budget, now + 100_000 * SECOND), 100, "counted as now");
    }
}
