//! The one place that reads the clock: tokio's, so that tests can pause it.

use std::time::Instant;

#[allow(clippy::disallowed_methods, reason = "this is the edge where time comes in")]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A point of time as tokio's timers want it.
pub(crate) fn at(instant: Instant) -> tokio::time::Instant {
    tokio::time::Instant::from_std(instant)
}
