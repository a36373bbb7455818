//! How long the next start of a process waits: not at all, unless the last ones died young.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock;

/// The first pause; it doubles.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// A process that lived this long did not die young.
const YOUNG: Duration = Duration::from_secs(5);

/// The memory of one backend's processes.
pub(super) struct Respawn {
    longest: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    last: Option<Instant>,
}

impl Respawn {
    /// `patience`: a longer pause would outlast the handshake it is part of.
    pub(super) fn new(patience: Duration) -> Self {
        Self { longest: LONGEST.min(patience), state: Mutex::default() }
    }

    /// What is left of the pause before the next start.
    pub(super) fn pause(&self) -> Duration {
        let state = self.lock();
        let Some(last) = state.last.filter(|_| state.failures > 0) else { return Duration::ZERO };
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(state.failures - 1)).min(self.longest);
        // Up to a quarter less, so that backends that fell together do not rise together.
        let pause = pause.mul_f64(rand::random_range(0.75..=1.0));
        pause.saturating_sub(clock::now().saturating_duration_since(last))
    }

    /// A process ended; `asked` if that was our wish.
    pub(super) fn ended(&self, lived: Duration, asked: bool) {
        if lived >= YOUNG {
            self.lock().failures = 0;
        } else if !asked {
            self.failed();
        }
    }

    /// A start that was of no use.
    pub(super) fn failed(&self) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.last = Some(clock::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_process_that_dies_young_doubles_the_pause_up_to_a_limit() {
        let respawn = Respawn::new(Duration::from_secs(60));
        assert_eq!(respawn.pause(), Duration::ZERO);
        for most in [100, 200, 400, 800] {
            respawn.ended(Duration::from_secs(1), false);
            let pause = respawn.pause();
            assert!(pause <= Duration::from_millis(most) && pause >= Duration::from_millis(most * 3 / 4));
        }
        for _ in 0..40 {
            respawn.failed();
        }
        assert!(respawn.pause() <= LONGEST && respawn.pause() > LONGEST / 2);
        tokio::time::advance(LONGEST).await;
        assert_eq!(respawn.pause(), Duration::ZERO, "time that has passed anyway is not waited again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_life_and_a_wished_end_are_no_failures() {
        let respawn = Respawn::new(Duration::from_secs(60));
        respawn.ended(Duration::from_secs(1), true);
        assert_eq!(respawn.pause(), Duration::ZERO);
        respawn.failed();
        respawn.ended(YOUNG, false);
        assert_eq!(respawn.pause(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_outlast_the_handshake() {
        let respawn = Respawn::new(Duration::from_secs(1));
        (0..20).for_each(|_| respawn.failed());
        assert!(respawn.pause() <= Duration::from_secs(1));
    }
}
