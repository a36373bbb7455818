//! The memory account: the bytes this process holds for agents, under one limit, and the pressure levels near it.
//!
//! Everything whose size an agent decides is charged here while it is held: bodies being read, the messages of calls
//! that run or wait, messages that wait for agents to read them, and messages stored for a resume. Charging is one
//! addition; only crossing a threshold takes a lock. A level is left an eighth of the limit below where it is entered, so
//! that the gateway does not switch back and forth at a threshold.
//!
//! | level | from | what is done, besides what the levels above in this table do |
//! | --- | --- | --- |
//! | `calm` | | nothing |
//! | `holding` | 6/8 | bodies above 16 KiB are not read on, new agent sessions wait, nothing new is stored for a resume |
//! | `refusing` | 7/8 | no new calls, no new agent sessions; what was stored for a resume is dropped, then agents that do not read are closed |
//! | `shedding` | 8/8 | the same, after shorter times |

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    limits::{gauges::Gauges, pressure::PressureLevel},
    observe::{FrontEvent, FrontObserve},
};

/// The memory account of the whole process.
pub(crate) struct MemoryAccount {
    limit: usize,
    gauges: Arc<Gauges>,
    observe: Arc<dyn FrontObserve>,
    level: Mutex<PressureLevel>,
    /// The bytes from which on the next level is entered.
    up: AtomicUsize,
    /// The bytes below which this level is left.
    down: AtomicUsize,
    changed: Notify,
}

/// The purpose bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A body being read, or a message whose call has not ended.
    Request,
    /// A message that waits for an agent to read it.
    Outbound,
    /// An event that was sent and is stored for an agent that resumes.
    Replay,
}

/// Charged bytes of a request; released on drop.
pub(crate) struct Charge {
    memory: Arc<MemoryAccount>,
    bytes: usize,
}

/// Charged bytes of an answer that is on no stream yet; released on drop.
pub(crate) struct AnswerCharge {
    memory: Arc<MemoryAccount>,
    bytes: usize,
}

impl MemoryAccount {
    pub(crate) fn new(limit: usize, gauges: Arc<Gauges>, observe: Arc<dyn FrontObserve>) -> Arc<Self> {
        gauges.buffered_limit.store(limit, Ordering::Relaxed);
        Arc::new(Self {
            up: AtomicUsize::new(PressureLevel::Holding.entered_at(limit)),
            down: AtomicUsize::new(0),
            limit,
            gauges,
            observe,
            level: Mutex::new(PressureLevel::Calm),
            changed: Notify::new(),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn held(&self) -> usize {
        self.gauges.buffered_bytes.load(Ordering::Relaxed)
    }

    /// Bytes stored for agents that resume.
    pub(crate) fn kept_for_resume(&self) -> usize {
        self.gauges.replay_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn charge(&self, purpose: Purpose, bytes: usize) {
        if bytes == 0 {
            return;
        }
        Gauges::up(self.gauge(purpose), bytes);
        let held = self.gauges.buffered_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if held >= self.up.load(Ordering::Relaxed) {
            self.settle();
        }
    }

    pub(crate) fn release(&self, purpose: Purpose, bytes: usize) {
        if bytes == 0 {
            return;
        }
        Gauges::down(self.gauge(purpose), bytes);
        let held = self.gauges.buffered_bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        if held < self.down.load(Ordering::Relaxed) {
            self.settle();
        }
    }

    /// Sets the level that the bytes require, and reports a change.
    pub(crate) fn settle(&self) {
        // Code under this lock does not panic halfway.
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, held) = (*level, self.held());
        let to = from.asked_by(held, self.limit);
        if from == to {
            return;
        }
        *level = to;
        self.up.store(to.above().map_or(usize::MAX, |above| above.entered_at(self.limit)), Ordering::Relaxed);
        self.down.store(to.left_at(self.limit), Ordering::Relaxed);
        self.gauges.set_pressure(to);
        self.observe.on(&FrontEvent::Overload { from, to, held, limit: self.limit });
        drop(level);
        self.changed.notify_waiters();
    }

    pub(crate) fn pressure(&self) -> PressureLevel {
        self.gauges.pressure()
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.pressure() == PressureLevel::Calm
    }

    /// Whether new work is refused.
    pub(crate) fn refuses(&self) -> bool {
        self.pressure() >= PressureLevel::Refusing
    }

    /// Waits for the calm level. `false` after `patience`, or as soon as work is refused.
    ///
    /// # Cancel safety
    /// It holds nothing.
    pub(crate) async fn calm_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            match self.pressure() {
                PressureLevel::Calm => return true,
                PressureLevel::Refusing | PressureLevel::Shedding => return false,
                PressureLevel::Holding => {}
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                return self.is_calm();
            }
        }
    }

    /// Waits until the level is no longer calm.
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

    /// Reports that something was held back, refused or closed to save memory.
    pub(crate) fn shed(&self, action: &'static str) {
        self.observe.on(&FrontEvent::Shed { action });
    }

    fn gauge(&self, purpose: Purpose) -> &AtomicUsize {
        match purpose {
            Purpose::Request => &self.gauges.request_bytes,
            Purpose::Outbound => &self.gauges.outbound_bytes,
            Purpose::Replay => &self.gauges.replay_bytes,
        }
    }
}

impl Charge {
    pub(crate) fn nothing(memory: &Arc<MemoryAccount>) -> Self {
        Self { memory: Arc::clone(memory), bytes: 0 }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.memory.charge(Purpose::Request, bytes);
        self.bytes += bytes;
    }

    /// Splits off a part, which is released on its own.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { memory: Arc::clone(&self.memory), bytes }
    }
}

impl AnswerCharge {
    pub(crate) fn new(memory: &Arc<MemoryAccount>, bytes: usize) -> Self {
        memory.charge(Purpose::Outbound, bytes);
        Self { memory: Arc::clone(memory), bytes }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for AnswerCharge {
    fn drop(&mut self) {
        self.memory.release(Purpose::Outbound, self.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.release(Purpose::Request, self.bytes);
    }
}

#[cfg(test)]
pub(crate) mod tests;
