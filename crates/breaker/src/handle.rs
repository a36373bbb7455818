//! The shared handle of a circuit.
//!
//! Every operation is one short critical section. Listeners are called after it, outside the lock, and may use the
//! breaker. Time is an argument here too.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{
    circuit::{Circuit, Opening, Rejected},
    policy::{ConsecutiveFailures, Settings},
    tally::{Snapshot, Transition},
};

/// A cheap, cloneable handle to one circuit.
#[derive(Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

struct Shared {
    circuit: Mutex<Circuit<ConsecutiveFailures>>,
    listener: Box<dyn Fn(Transition) + Send + Sync>,
    relieved: Box<dyn Fn() + Send + Sync>,
}

/// One call in flight. It counts only during the slow start; dropping it ends the call as unsuccessful.
#[derive(Debug)]
#[must_use = "dropping it ends the call"]
pub struct Pass {
    counts: Option<(Breaker, u64)>,
    succeeded: bool,
}

impl Breaker {
    /// Creates a closed breaker without a listener.
    #[must_use]
    pub fn new(settings: &Settings, now: Instant) -> Self {
        Self::with_listener(settings, now, |_| {})
    }

    /// Creates a closed breaker. `listener` is called once per transition, outside the lock, by the thread that caused
    /// it. It must not block and may use the breaker. Threads may call it out of order ([`Transition::seq`]).
    pub fn with_listener<F>(settings: &Settings, now: Instant, listener: F) -> Self
    where
        F: Fn(Transition) + Send + Sync + 'static,
    {
        Self::with_listeners(settings, now, listener, || {})
    }

    /// As [`Self::with_listener`]; `relieved` is called the same way when calls that [`Breaker::begin`] made wait
    /// should check again.
    pub fn with_listeners<F, G>(settings: &Settings, now: Instant, listener: F, relieved: G) -> Self
    where
        F: Fn(Transition) + Send + Sync + 'static,
        G: Fn() + Send + Sync + 'static,
    {
        let circuit = Mutex::new(Circuit::new(ConsecutiveFailures::new(settings), settings, now));
        let (listener, relieved) = (Box::new(listener), Box::new(relieved));
        Self { shared: Arc::new(Shared { circuit, listener, relieved }) }
    }

    /// See [`Circuit::incident`].
    pub fn incident(&self, epoch: u64, kind: &'static str, now: Instant) {
        self.with(|circuit| circuit.incident(epoch, kind, now));
    }

    /// See [`Circuit::success`].
    pub fn success(&self, epoch: u64, started: Instant, now: Instant) {
        self.with(|circuit| circuit.success(epoch, started, now));
    }

    /// See [`Circuit::admit`].
    ///
    /// # Errors
    /// [`Rejected`] in every state but closed.
    pub fn admit(&self, now: Instant) -> Result<(), Rejected> {
        self.with(|circuit| circuit.admit(now))
    }

    /// See [`Circuit::would_admit`].
    ///
    /// # Errors
    /// [`Rejected`] in every state but closed.
    pub fn would_admit(&self, now: Instant) -> Result<(), Rejected> {
        self.with(|circuit| circuit.would_admit(now))
    }

    /// See [`Circuit::is_unhindered`].
    #[must_use]
    pub fn is_unhindered(&self, now: Instant) -> bool {
        self.with(|circuit| circuit.is_unhindered(now))
    }

    /// See [`Circuit::may_begin`].
    ///
    /// # Errors
    /// The time to check again.
    pub fn may_begin(&self, now: Instant) -> Result<(), Instant> {
        self.with(|circuit| circuit.may_begin(now))
    }

    /// See [`Circuit::begin`].
    ///
    /// # Errors
    /// The time to check again.
    pub fn begin(&self, now: Instant) -> Result<Pass, Instant> {
        let counts = self.with(|circuit| circuit.begin(now))?;
        Ok(Pass { counts: counts.map(|call| (self.clone(), call)), succeeded: false })
    }

    /// See [`Circuit::may_open`].
    #[must_use]
    pub fn may_open(&self, now: Instant) -> Opening {
        self.with(|circuit| circuit.may_open(now))
    }

    /// See [`Circuit::probe_started`].
    pub fn probe_started(&self, epoch: u64, now: Instant) {
        self.with(|circuit| circuit.probe_started(epoch, now));
    }

    /// See [`Circuit::probe_succeeded`].
    pub fn probe_succeeded(&self, epoch: u64, now: Instant) {
        self.with(|circuit| circuit.probe_succeeded(epoch, now));
    }

    /// See [`Circuit::probe_failed`].
    pub fn probe_failed(&self, epoch: u64, kind: &'static str, now: Instant) {
        self.with(|circuit| circuit.probe_failed(epoch, kind, now));
    }

    /// See [`Circuit::probe_inconclusive`].
    pub fn probe_inconclusive(&self, epoch: u64, now: Instant) {
        self.with(|circuit| circuit.probe_inconclusive(epoch, now));
    }

    /// See [`Circuit::probe_abandoned`].
    pub fn probe_abandoned(&self, now: Instant) {
        self.with(|circuit| circuit.probe_abandoned(now));
    }

    /// See [`Circuit::reset`].
    pub fn reset(&self, now: Instant) {
        self.with(|circuit| circuit.reset(now));
    }

    /// See [`Circuit::snapshot`].
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.with(|circuit| circuit.snapshot(now))
    }

    fn with<T>(&self, operate: impl FnOnce(&mut Circuit<ConsecutiveFailures>) -> T) -> T {
        // No critical section panics, so even a poisoned lock guards a valid circuit.
        let mut circuit = self.shared.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        let out = operate(&mut circuit);
        let changes = circuit.changes();
        drop(circuit);
        changes.for_each(|change| (self.shared.listener)(change));
        out
    }
}

impl Pass {
    /// Ends the call as successful.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some((breaker, call)) = self.counts.take() else { return };
        if breaker.with(|circuit| circuit.end(call, self.succeeded)) {
            (breaker.shared.relieved)();
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("circuit", &self.shared.circuit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
