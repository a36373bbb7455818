//! The operator's word on a backend: whether calls flow, wait or are refused, and how they begin to flow again.
//!
//! A call asks before it takes a slot and once more when it has one; whoever shuts the valve looks at the slots
//! afterwards. So one of the two sees the other, and a backend that is said to be at rest is.
//!
//! After a pause many wait and the backend has just started: they are let through few at first, twice as many with
//! every step.

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
pub enum Traffic {
    /// They do.
    Flowing = 0,
    /// They begin to: sessions are looked at before they are lent, and calls are let through step by step.
    Resuming = 1,
    /// They wait.
    Paused = 2,
    /// They are refused.
    Drained = 3,
}

impl Traffic {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Resuming => "resuming",
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }

    /// Whether no call is let through.
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

/// The last change of a valve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    pub(crate) traffic: Traffic,
    /// Grows with every change.
    pub(crate) number: u64,
    pub(crate) since: Instant,
    /// When calls last began to flow: waiting before counts against nobody.
    pub(crate) flows_since: Instant,
}

pub(crate) struct Valve {
    /// What [`Shift`] says, for the path of a call.
    word: AtomicU8,
    shifts: watch::Sender<Shift>,
    ramp: Arc<Ramp>,
}

/// How many calls are let through at a time, and how many there are.
#[derive(Default)]
struct Ramp {
    allowed: AtomicUsize,
    out: AtomicUsize,
    /// Somebody who was let through had a slot: until then there is nothing to learn from.
    used: AtomicBool,
}

/// One of the calls let through after a pause; counts for as long as it lives.
pub(crate) struct Passage(Arc<Ramp>);

impl Passage {
    /// It was of use: the next step lets more through.
    pub(crate) fn used(self) -> Self {
        self.0.used.store(true, Ordering::SeqCst);
        self
    }
}

/// Why somebody who waited for something of the backend has it not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// In the time it had.
    TooLong,
    /// The backend is drained.
    Drained,
}

/// Calls let through at first.
const FIRST: usize = 4;
/// The ramp has no more to hold back.
const MOST: usize = 1024;
/// Time between two steps.
pub(crate) const STEP: Duration = Duration::from_millis(25);

impl Default for Valve {
    fn default() -> Self {
        let now = clock::now();
        let open = Shift { traffic: Traffic::Flowing, number: 0, since: now, flows_since: now };
        Self {
            word: AtomicU8::new(Traffic::Flowing as u8),
            shifts: watch::Sender::new(open),
            ramp: Arc::default(),
        }
    }
}

impl Valve {
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::from_u8(self.word.load(Ordering::SeqCst))
    }

    pub(crate) fn shift(&self) -> Shift {
        *self.shifts.borrow()
    }

    /// Changes it; whether it was anything else before.
    pub(crate) fn turn(&self, to: Traffic) -> bool {
        self.turn_if(to, |from| from.traffic != to)
    }

    /// Changes it if what it is now allows that.
    pub(crate) fn turn_if(&self, to: Traffic, allows: impl FnOnce(Shift) -> bool) -> bool {
        let now = clock::now();
        self.shifts.send_if_modified(|shift| {
            if !allows(*shift) {
                return false;
            }
            if to == Traffic::Resuming {
                self.ramp.begin();
            }
            self.word.store(to as u8, Ordering::SeqCst);
            // Flowing goes on where resuming began.
            let flows_since = if to == Traffic::Flowing { shift.flows_since } else { now };
            *shift = Shift { traffic: to, number: shift.number + 1, since: now, flows_since };
            true
        })
    }

    /// Whether a call may take a slot now.
    ///
    /// # Errors
    /// What keeps it from that; while resuming, that others were let through first.
    pub(crate) fn admit(&self) -> Result<Option<Passage>, Traffic> {
        match self.traffic() {
            Traffic::Flowing => Ok(None),
            Traffic::Resuming => self.ramp.enter().map(Some).ok_or(Traffic::Resuming),
            shut @ (Traffic::Paused | Traffic::Drained) => Err(shut),
        }
    }

    /// One step of the ramp: how many more may try, and whether it was the last one.
    pub(crate) fn step(&self) -> (usize, bool) {
        self.ramp.step()
    }

    /// Waits for something of the backend: as long as `patience` says, not counting the time in which the valve was
    /// shut, and in no case beyond `end`.
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
        let mut shifts = self.shifts.subscribe();
        tokio::pin!(what);
        loop {
            let shift = *shifts.borrow_and_update();
            let until = match shift.traffic {
                Traffic::Drained => return Err(Waited::Drained),
                Traffic::Paused => end,
                Traffic::Flowing | Traffic::Resuming => {
                    Some(shift.flows_since.max(start) + patience).into_iter().chain(end).min()
                }
            };
            let timer = OptionFuture::from(until.map(|at| tokio::time::sleep_until(clock::at(at))));
            tokio::select! {
                out = &mut what => return Ok(out),
                // The sender is ours, so there is always a next one to wait for.
                _ = shifts.changed() => {}
                Some(()) = timer => return Err(Waited::TooLong),
            }
        }
    }
}

impl Ramp {
    fn begin(&self) {
        // What is still out from before gives itself back.
        self.allowed.store(FIRST, Ordering::SeqCst);
        self.used.store(false, Ordering::SeqCst);
    }

    fn enter(self: &Arc<Self>) -> Option<Passage> {
        let allowed = self.allowed.load(Ordering::SeqCst);
        let more = |out: usize| (out < allowed).then_some(out + 1);
        self.out.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Passage(self.clone()))
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

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
