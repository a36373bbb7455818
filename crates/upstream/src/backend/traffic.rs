//! Traffic control of a backend: calls flow, wait or are refused, as the operator says, and start slowly after a pause.
//!
//! A call checks the state before it takes a permit and again when it has one; a pause sets the state and then counts the
//! permits. One of the two sees the other, so a backend reported as idle is idle.
//!
//! After a pause many calls wait and the backend has just started: few are let through at first, twice as many with each
//! step.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::OptionFuture;
use tokio::sync::watch;

use crate::clock;

/// Whether calls of a backend flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TrafficState {
    /// They flow.
    Flowing = 0,
    /// They start again: sessions are checked before use, and calls are let through step by step.
    Resuming = 1,
    /// They wait.
    Paused = 2,
    /// They are refused.
    Drained = 3,
}

impl TrafficState {
    /// The value in the API and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Resuming => "resuming",
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }

    /// True if no call is let through.
    #[must_use]
    pub fn is_shut(self) -> bool {
        matches!(self, Self::Paused | Self::Drained)
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Flowing,
            1 => Self::Resuming,
            2 => Self::Paused,
            _ => Self::Drained,
        }
    }
}

/// The last change of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrafficChange {
    pub(crate) state: TrafficState,
    /// The number of the change.
    pub(crate) number: u64,
    pub(crate) since: Instant,
    /// The time calls last began to flow; waiting before it does not count.
    pub(crate) flows_since: Instant,
}

/// The state, its watchers and the slow start.
pub(crate) struct TrafficControl {
    /// The state again, without a lock, for the path of a call.
    state: AtomicU8,
    changes: watch::Sender<TrafficChange>,
    slow_start: Arc<SlowStart>,
}

/// Number of calls allowed at a time after a pause, and of those in flight.
#[derive(Default)]
struct SlowStart {
    allowed: AtomicUsize,
    out: AtomicUsize,
    /// True if a call of this step got a permit: without one there is no reason to allow more.
    used: AtomicBool,
}

/// Permit of one call during the slow start, released on drop.
pub(crate) struct ResumePermit(Arc<SlowStart>);

impl ResumePermit {
    /// Marks it as used: the next step allows more calls.
    pub(crate) fn used(self) -> Self {
        self.0.used.store(true, Ordering::SeqCst);
        self
    }
}

/// Why a wait for the backend ended without result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The time was over.
    TooLong,
    /// The backend is drained.
    Drained,
}

/// Calls allowed at first.
const FIRST: usize = 4;
/// Calls allowed at the end; the slow start is over.
const MOST: usize = 1024;
/// Time between two steps.
pub(crate) const STEP: Duration = Duration::from_millis(25);

impl Default for TrafficControl {
    fn default() -> Self {
        let now = clock::now();
        let open = TrafficChange { state: TrafficState::Flowing, number: 0, since: now, flows_since: now };
        Self {
            state: AtomicU8::new(TrafficState::Flowing as u8),
            changes: watch::Sender::new(open),
            slow_start: Arc::default(),
        }
    }
}

impl TrafficControl {
    pub(crate) fn state(&self) -> TrafficState {
        TrafficState::from_u8(self.state.load(Ordering::SeqCst))
    }

    pub(crate) fn last_change(&self) -> TrafficChange {
        *self.changes.borrow()
    }

    /// Sets the state. False if it was the same before.
    pub(crate) fn set(&self, to: TrafficState) -> bool {
        self.set_if(to, |from| from.state != to)
    }

    /// Sets the state if the last change allows it.
    pub(crate) fn set_if(&self, to: TrafficState, allows: impl FnOnce(TrafficChange) -> bool) -> bool {
        let now = clock::now();
        self.changes.send_if_modified(|change| {
            if !allows(*change) {
                return false;
            }
            if to == TrafficState::Resuming {
                self.slow_start.begin();
            }
            self.state.store(to as u8, Ordering::SeqCst);
            // Calls flow since resuming began.
            let flows_since = if to == TrafficState::Flowing { change.flows_since } else { now };
            *change = TrafficChange { state: to, number: change.number + 1, since: now, flows_since };
            true
        })
    }

    /// Admits a call, with a permit while resuming.
    ///
    /// # Errors
    /// The state that forbids it; while resuming, that enough others are in flight.
    pub(crate) fn admit(&self) -> Result<Option<ResumePermit>, TrafficState> {
        match self.state() {
            TrafficState::Flowing => Ok(None),
            TrafficState::Resuming => self.slow_start.enter().map(Some).ok_or(TrafficState::Resuming),
            shut @ (TrafficState::Paused | TrafficState::Drained) => Err(shut),
        }
    }

    /// Takes one step of the slow start. Returns how many more may try, and whether it was the last step.
    pub(crate) fn step(&self) -> (usize, bool) {
        self.slow_start.step()
    }

    /// Waits for `what` as long as `patience`, not counting the time of a pause, and never beyond `end`.
    ///
    /// # Cancel safety
    /// That of what is waited for.
    pub(crate) async fn wait<T>(
        &self,
        patience: Duration,
        end: Option<Instant>,
        what: impl Future<Output = T>,
    ) -> Result<T, Waited> {
        let start = clock::now();
        let mut changes = self.changes.subscribe();
        tokio::pin!(what);
        loop {
            let change = *changes.borrow_and_update();
            let until = match change.state {
                TrafficState::Drained => return Err(Waited::Drained),
                TrafficState::Paused => end,
                TrafficState::Flowing | TrafficState::Resuming => {
                    Some(change.flows_since.max(start) + patience).into_iter().chain(end).min()
                }
            };
            let timer = OptionFuture::from(until.map(|at| tokio::time::sleep_until(clock::at(at))));
            tokio::select! {
                out = &mut what => return Ok(out),
                // The sender is ours, so there is always a next one to wait for.
                _ = changes.changed() => {}
                Some(()) = timer => return Err(Waited::TooLong),
            }
        }
    }
}

impl SlowStart {
    fn begin(&self) {
        // Permits of an earlier slow start are released by their calls.
        self.allowed.store(FIRST, Ordering::SeqCst);
        self.used.store(false, Ordering::SeqCst);
    }

    fn enter(self: &Arc<Self>) -> Option<ResumePermit> {
        let allowed = self.allowed.load(Ordering::SeqCst);
        let more = |out: usize| (out < allowed).then_some(out + 1);
        self.out.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(ResumePermit(self.clone()))
    }

    fn step(&self) -> (usize, bool) {
        let mut allowed = self.allowed.load(Ordering::SeqCst);
        if self.used.load(Ordering::SeqCst) {
            allowed = (allowed * 2).min(MOST);
            self.allowed.store(allowed, Ordering::SeqCst);
        }
        (allowed.saturating_sub(self.out.load(Ordering::SeqCst)), allowed == MOST)
    }
}

impl Drop for ResumePermit {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
