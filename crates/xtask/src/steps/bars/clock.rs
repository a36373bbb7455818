//! The time a bar has: everything that waits asks how much of it is left.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

static END: Mutex<Option<Instant>> = Mutex::new(None);

/// Begins the time of the next bar.
pub(super) fn begin(limit: Duration) {
    *END.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now() + limit);
}

/// What is left of it.
///
/// # Errors
/// When nothing is.
pub(super) fn left() -> Result<Duration> {
    let end = *END.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let left = end.unwrap_or_else(Instant::now).checked_duration_since(Instant::now());
    left.filter(|left| !left.is_zero()).context("the time of the bar is over")
}

/// Waits until something is so.
///
/// # Errors
/// When the time is over first; the text says what was waited for.
pub(super) fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + within.min(left()?);
    while !is_so() {
        anyhow::ensure!(Instant::now() < end, "after {} s still waiting: {what}", within.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Leaves the bar at most this much.
pub(super) fn shorten(left: Duration) {
    let mut end = END.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *end = end.map(|end| end.min(Instant::now() + left));
}
