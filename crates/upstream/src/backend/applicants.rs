//! Waits outside the queue: agents that wait for a session of their own, and calls that wait for their agent's binding.
//! This module counts them and knows how long the oldest has waited.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock;

/// Those who wait, in the order in which they came.
#[derive(Default)]
pub(crate) struct Applicants(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    since: BTreeMap<u64, Instant>,
}

/// One of them, for as long as it waits.
#[must_use = "dropping it ends the wait"]
pub struct Applicant {
    of: Arc<Applicants>,
    number: u64,
}

impl Applicants {
    pub(super) fn enter(self: &Arc<Self>) -> Applicant {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.since.insert(number, clock::now());
        Applicant { of: self.clone(), number }
    }

    /// How many wait, and how long the one that came first has waited.
    pub(super) fn waiting(&self, now: Instant) -> (usize, Option<Duration>) {
        let state = self.lock();
        let first = state.since.values().next();
        (state.since.len(), first.map(|since| now.saturating_duration_since(*since)))
    }

    // Consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Applicant {
    fn drop(&mut self) {
        self.of.lock().since.remove(&self.number);
    }
}
