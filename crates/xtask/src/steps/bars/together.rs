//! Many agents at once, and what is read from their times.

use std::time::Duration;

use anyhow::{Context, Result};

/// Runs each of many in a thread of its own with a small stack, and gives back what they return, in order.
pub(super) fn side_by_side<I: Send, T: Send>(
    many: Vec<I>,
    body: impl Fn(usize, I) -> T + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let body = &body;
        let spawn = |(number, one)| {
            let builder = std::thread::Builder::new().stack_size(256 << 10);
            builder.spawn_scoped(scope, move || body(number, one))
        };
        let running = many.into_iter().enumerate().map(spawn).collect::<std::io::Result<Vec<_>>>()?;
        let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.map(|one| one.ok().context("a thread of the bar panicked")).collect()
    })
}

/// The duration that 99 of 100 do not exceed.
pub(super) fn percentile_99(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(Duration::MAX)
}
