//! What this process keeps in memory for agents, under one ceiling, and the ladder of what is given up near it.
//!
//! Everything of a size an agent decides is charged here for as long as it is kept: bodies being read, the messages of
//! calls that run or wait, what waits for agents to read, what is kept for a resume. Charging is one addition; only
//! crossing a threshold takes the lock of the ladder. A rung is left an eighth below where it is entered, so that the
//! gateway does not tremble at a threshold.
//!
//! | rung | from | what is done, besides what the rungs below do |
//! | --- | --- | --- |
//! | `calm` | | nothing |
//! | `holding` | 6/8 | bodies above 16 KiB are not read on, new agent sessions wait, nothing new is kept for a resume |
//! | `refusing` | 7/8 | no new calls, no new agent sessions; what was kept for a resume goes, then agents that do not read |
//! | `shedding` | 8/8 | the same, with less patience |

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    limits::{gauges::Gauges, pressure::Rung},
    observe::{FrontEvent, FrontObserve},
};

/// The account of the whole process.
pub(crate) struct Budget {
    limit: usize,
    gauges: Arc<Gauges>,
    observe: Arc<dyn FrontObserve>,
    ladder: Mutex<Rung>,
    /// At so many bytes the next rung is entered.
    up: AtomicUsize,
    /// Below so many this rung is left.
    down: AtomicUsize,
    changed: Notify,
}

/// What bytes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A body that is read, a message whose call has not ended.
    Request,
    /// Waits for an agent to read it.
    Outbound,
    /// Was sent, for an agent that resumes.
    Replay,
}

/// Bytes of requests; given back when it is dropped.
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

/// Bytes of an answer that is on no stream yet; given back when it is dropped.
pub(crate) struct Awaited {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize, gauges: Arc<Gauges>, observe: Arc<dyn FrontObserve>) -> Arc<Self> {
        gauges.buffered_limit.store(limit, Ordering::Relaxed);
        Arc::new(Self {
            up: AtomicUsize::new(Rung::Holding.entered_at(limit)),
            down: AtomicUsize::new(0),
            limit,
            gauges,
            observe,
            ladder: Mutex::new(Rung::Calm),
            changed: Notify::new(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn held(&self) -> usize {
        self.gauges.buffered_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of what was sent and is kept.
    pub(crate) fn kept_for_resume(&self) -> usize {
        self.gauges.replay_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self, kept: Kept, bytes: usize) {
        if bytes == 0 {
            return;
        }
        Gauges::up(self.gauge(kept), bytes);
        let held = self.gauges.buffered_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if held >= self.up.load(Ordering::Relaxed) {
            self.settle();
        }
    }

    pub(crate) fn give(&self, kept: Kept, bytes: usize) {
        if bytes == 0 {
            return;
        }
        Gauges::down(self.gauge(kept), bytes);
        let held = self.gauges.buffered_bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        if held < self.down.load(Ordering::Relaxed) {
            self.settle();
        }
    }

    /// Steps to the rung the bytes ask for.
    pub(crate) fn settle(&self) {
        // Nothing under this lock can panic halfway.
        let mut ladder = self.ladder.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, held) = (*ladder, self.held());
        let to = from.asked_by(held, self.limit);
        if from == to {
            return;
        }
        *ladder = to;
        self.up.store(to.above().map_or(usize::MAX, |above| above.entered_at(self.limit)), Ordering::Relaxed);
        self.down.store(to.left_at(self.limit), Ordering::Relaxed);
        self.gauges.set_rung(to);
        self.observe.on(&FrontEvent::Overload { from, to, held, limit: self.limit });
        drop(ladder);
        self.changed.notify_waiters();
    }

    pub(crate) fn rung(&self) -> Rung {
        self.gauges.rung()
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.rung() == Rung::Calm
    }

    /// Whether no new work is taken.
    pub(crate) fn refuses(&self) -> bool {
        self.rung() >= Rung::Refusing
    }

    /// Waits until nothing has to be held back; false when that takes longer, or when work is refused meanwhile.
    ///
    /// # Cancel safety
    /// It holds nothing.
    pub(crate) async fn calm_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            match self.rung() {
                Rung::Calm => return true,
                Rung::Refusing | Rung::Shedding => return false,
                Rung::Holding => {}
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                return self.is_calm();
            }
        }
    }

    /// Waits until something has to be held back.
    ///
    /// # Cancel safety
    /// It holds nothing.
    pub(crate) async fn left_calm(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.is_calm() {
                return;
            }
            changed.await;
        }
    }

    /// Something was held back, refused or closed for the ceiling's sake.
    pub(crate) fn shed(&self, action: &'static str) {
        self.observe.on(&FrontEvent::Shed { action });
    }

    fn gauge(&self, kept: Kept) -> &AtomicUsize {
        match kept {
            Kept::Request => &self.gauges.request_bytes,
            Kept::Outbound => &self.gauges.outbound_bytes,
            Kept::Replay => &self.gauges.replay_bytes,
        }
    }
}

impl Charge {
    pub(crate) fn nothing(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.budget.take(Kept::Request, bytes);
        self.bytes += bytes;
    }

    /// A part of it, which is given back apart from the rest.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Awaited {
    pub(crate) fn new(budget: &Arc<Budget>, bytes: usize) -> Self {
        budget.take(Kept::Outbound, bytes);
        Self { budget: Arc::clone(budget), bytes }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.budget.give(Kept::Outbound, self.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(Kept::Request, self.bytes);
    }
}

#[cfg(test)]
pub(crate) mod tests;
