//! Waits outside the queue: agents that wait for a session of their own, and calls that wait for their agent's binding.
//! This module counts them and knows how long the oldest has waited.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::clock;

/// The waiting agents or calls, in order of arrival.
#[derive(Default)]
pub(crate) struct Applicants(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    since: BTreeMap<u64, Instant>,
}

/// One wait, counted until it is dropped.
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

    /// The number of waits, and the age of the oldest.
    pub(super) fn waiting(&self, now: Instant) -> (usize, Option<Duration>) {
        let state = self.lock();
        let first = state.since.values().next();
        (state.since.len(), first.map(|since| now.saturating_duration_since(*since)))
    }

    // The state is consistent between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Applicant {
    fn drop(&mut self) {
        self.of.lock().since.remove(&self.number);
    }
}
