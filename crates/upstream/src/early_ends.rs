//! Sessions that end as soon as they are ready and serve nobody: a handshake succeeds each time, so neither the circuit
//! nor the connector's own pauses see that it is of no use.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A session that lived this long did not end early.
const EARLY: Duration = Duration::from_secs(5);
/// Ends in a row that cost no pause.
const FREE: u32 = 3;
/// The first pause; it doubles.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(10);

/// The early ends of one pool's sessions.
#[derive(Default)]
pub(crate) struct EarlyEnds(Mutex<Ends>);

#[derive(Default)]
struct Ends {
    in_a_row: u32,
    last: Option<Instant>,
}

impl EarlyEnds {
    /// A session broke or was lost after this time.
    pub(crate) fn ended(&self, lived: Duration, has_served: bool, now: Instant) {
        let mut ends = self.lock();
        let is_early = lived < EARLY && !has_served;
        ends.in_a_row = if is_early { ends.in_a_row.saturating_add(1) } else { 0 };
        ends.last = Some(now);
    }

    /// When the next session may be opened, where that has to wait.
    pub(crate) fn until(&self) -> Option<Instant> {
        let ends = self.lock();
        let doubled = 2_u32.saturating_pow(ends.in_a_row.checked_sub(FREE + 1)?.min(16));
        Some(ends.last? + FIRST.saturating_mul(doubled).min(LONGEST))
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_early_end_and_are_gone_with_the_first_that_is_none() {
        let (ends, now) = (EarlyEnds::default(), crate::clock::now());
        let pauses: Vec<_> = (0..14)
            .map(|_| {
                ends.ended(Duration::from_secs(1), false, now);
                ends.until().map(|until| (until - now).as_millis())
            })
            .collect();
        assert_eq!(pauses[..6], [None, None, None, Some(100), Some(200), Some(400)]);
        assert_eq!(pauses[13], Some(10_000));
        ends.ended(Duration::from_secs(1), true, now);
        assert_eq!(ends.until(), None, "it served");
        (0..9).for_each(|_| ends.ended(Duration::ZERO, false, now));
        ends.ended(EARLY, false, now);
        assert_eq!(ends.until(), None, "it lived");
    }
}
