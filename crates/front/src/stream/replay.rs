//! Replay: the latest events of an agent session, stored so that a stream whose connection died can be resumed.
//!
//! The session has one ring for all its streams, limited in events, bytes and age, and in bytes over all sessions; it
//! costs nothing before the first event. An event id is the number of the stream in its session and that of the event
//! in its stream. It is looked up in its own session only, so the ids of one agent say nothing to another.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    config::FrontConfig,
    limits::memory::{MemoryAccount, Purpose as Held},
    stream::event::{Event, EventId},
};

/// The session's own stream, for messages that belong to no call.
pub(crate) const LISTENING: u32 = 0;

/// The stored events of one agent session.
pub(crate) struct Replay {
    inner: Mutex<Inner>,
    limits: Limits,
    memory: Arc<MemoryAccount>,
}

struct Limits {
    events: usize,
    bytes: usize,
    total: usize,
    window: Duration,
}

#[derive(Default)]
struct Inner {
    ring: VecDeque<StoredEvent>,
    bytes: usize,
    /// The session is over.
    ended: bool,
}

struct StoredEvent {
    at: Instant,
    id: EventId,
    bytes: Bytes,
}

impl Replay {
    pub(crate) fn new(config: &FrontConfig, memory: Arc<MemoryAccount>) -> Self {
        let limits = Limits {
            events: config.limits.replay_events,
            bytes: config.limits.replay_bytes,
            // Events are stored for convenience, so they must leave room for work.
            total: config.limits.replay_total_bytes.min(config.limits.buffered_bytes / 4),
            window: config.times.orphan,
        };
        Self { inner: Mutex::default(), limits, memory }
    }

    /// Time for which a stream can be resumed after its connection died.
    pub(crate) fn window(&self) -> Duration {
        self.limits.window
    }

    /// Stores an event while there is room and time.
    pub(crate) fn keep(&self, id: EventId, bytes: Bytes) {
        let size = bytes.len();
        let mut inner = self.lock();
        inner.expire(&self.limits, &self.memory);
        let total = self.memory.kept_for_resume();
        if inner.ended
            || !self.memory.is_calm()
            || size > self.limits.bytes
            || self.limits.events == 0
            || total + size > self.limits.total
        {
            return;
        }
        while inner.ring.len() >= self.limits.events || inner.bytes + size > self.limits.bytes {
            inner.drop_oldest(&self.memory);
        }
        inner.bytes += size;
        self.memory.charge(Held::Replay, size);
        inner.ring.push_back(StoredEvent { at: Instant::now(), id, bytes });
    }

    /// The stored events after this one on its stream, oldest first.
    pub(crate) fn after(&self, id: EventId) -> VecDeque<Event> {
        let mut inner = self.lock();
        inner.expire(&self.limits, &self.memory);
        let later = inner.ring.iter().filter(|kept| kept.id.stream == id.stream && kept.id.seq > id.seq);
        later.map(|kept| Event { id: Some(kept.id), bytes: kept.bytes.clone() }).collect()
    }

    /// Drops all events and stores no more.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.forget();
    }

    /// Drops all events. `false` if there were none.
    pub(crate) fn forget(&self) -> bool {
        let mut inner = self.lock();
        let had_any = !inner.ring.is_empty();
        while !inner.ring.is_empty() {
            inner.drop_oldest(&self.memory);
        }
        inner.ring = VecDeque::new();
        had_any
    }

    /// Drops expired events.
    pub(crate) fn sweep(&self) {
        self.lock().expire(&self.limits, &self.memory);
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, limits: &Limits, memory: &MemoryAccount) {
        while self.ring.front().is_some_and(|kept| kept.at.elapsed() >= limits.window) {
            self.drop_oldest(memory);
        }
        if self.ring.is_empty() {
            // An idle agent must not keep the memory of its busiest moment.
            self.ring = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self, memory: &MemoryAccount) {
        let Some(kept) = self.ring.pop_front() else { return };
        self.bytes -= kept.bytes.len();
        memory.release(Held::Replay, kept.bytes.len());
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.memory.release(Held::Replay, self.lock().bytes);
    }
}

#[cfg(test)]
mod tests;
