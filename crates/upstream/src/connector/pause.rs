//! The pause after a failed handshake: how long, and for which pools.

use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;

use super::Connector;
use crate::{
    backend::lock,
    clock,
    error::{Cause, SendError},
    pool::{
        Pool,
        plight::{self, Pause, REFUSALS, Trouble, for_everybody, is_final},
    },
};

/// Longest pause between handshakes with and without waiting calls.
const PAUSE_WAITED: Duration = Duration::from_millis(500);
pub(super) const PAUSE_IDLE: Duration = Duration::from_secs(5);
/// Longest pause after a refusal that recurs until the configuration or a credential changes.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// Failures in a row after which every kind of failure has growing pauses.
const PATIENT: u32 = 16;
/// Pause for a backend at its limit that names none.
const PAUSE_PRESSURE: Duration = Duration::from_secs(1);
/// Bounds of the pause that a backend at its limit names.
const MIN_PRESSURE: Duration = Duration::from_millis(100);
const MAX_PRESSURE: Duration = Duration::from_secs(60);

impl Connector {
    pub(super) fn pause_after(&mut self, pool: &Pool, error: &SendError) {
        let now = clock::now();
        let one_more = |before: Option<Trouble>| before.map_or(1, |trouble| trouble.times.saturating_add(1));
        let is_refusal = error.cause.is_refusal();
        if !self.backend.has_keys() {
            let mut trouble = lock(&self.backend.trouble);
            let times = one_more(trouble.take());
            *trouble = Some(Trouble { why: error.to_string(), since: now, times, is_refusal });
            drop(trouble);
            self.pause = Some(pause(error, times, now, false));
            if times == REFUSALS && is_refusal {
                // The waits of the waiting calls are shortened now.
                self.backend.queue.wake_all();
            }
            return;
        }
        let times = one_more(pool.plight.trouble());
        pool.plight.failed(
            error,
            Trouble { why: error.to_string(), since: now, times, is_refusal },
            pause(error, times, now, is_final(&error.cause)),
        );
        // A server that refuses is up; so is one that hangs for one credential while it serves others.
        if !plight::is_refusal(&error.cause) && !self.backend.serves_anybody() {
            let mut trouble = lock(&self.backend.trouble);
            let times = one_more(trouble.take());
            *trouble = Some(Trouble { why: for_everybody(&error.cause), since: now, times, is_refusal });
        }
    }
}

/// The pause after this failure, the `times`-th in a row. With `is_told` waiting agents got the error and wait no
/// longer.
fn pause(error: &SendError, times: u32, now: Instant, is_told: bool) -> Pause {
    match &error.cause {
        Cause::Pressure(refusal) => Pause::Pressure(
            now + refusal.retry_after.unwrap_or(PAUSE_PRESSURE).clamp(MIN_PRESSURE, MAX_PRESSURE),
        ),
        cause if cause.is_refusal() && !is_told => {
            let at = now + backoff(times, PAUSE_REFUSED);
            Pause::Failed { waited: at, idle: at }
        }
        // Failures that the circuit does not count and that may pass, but have not for long.
        cause if cause.incident().is_none() && times > PATIENT && !is_told => {
            let at = now + backoff(times, PAUSE_REFUSED);
            Pause::Failed { waited: at, idle: at }
        }
        _ => Pause::Failed {
            waited: now + backoff(times, PAUSE_WAITED),
            idle: now + backoff(times, PAUSE_IDLE),
        },
    }
}

/// Exponential backoff with full jitter, from 50 ms.
fn backoff(times: u32, cap: Duration) -> Duration {
    let steps = usize::try_from(times.min(16)).unwrap_or(16);
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(cap / 2)
        .with_max_times(steps)
        .with_jitter()
        .build()
        .nth(steps - 1)
        .unwrap_or(cap)
        .min(cap)
}
