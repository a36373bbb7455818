//! Open streams of the calls of one agent session, by number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::stream::outbox::Outbox;

#[derive(Default)]
pub(crate) struct OpenStreams(Mutex<Inner>);

/// The status of a call's stream.
pub(crate) enum StreamStatus {
    /// It is open, or is still being read.
    Live(Arc<Outbox>),
    /// It is over; stored events may be left.
    Over,
    /// There was none with this number.
    Never,
}

#[derive(Default)]
struct Inner {
    /// Streams opened so far; numbers begin at 1.
    opened: u32,
    live: Vec<(u32, Weak<Outbox>)>,
}

impl OpenStreams {
    /// Inserts a stream and gives it its number.
    pub(crate) fn insert(&self, stream: impl FnOnce(u32) -> Arc<Outbox>) -> Arc<Outbox> {
        let mut inner = self.lock();
        inner.live.retain(|(_, outbox)| outbox.strong_count() > 0);
        inner.opened = inner.opened.wrapping_add(1);
        let number = inner.opened;
        let outbox = stream(number);
        inner.live.push((number, Arc::downgrade(&outbox)));
        outbox
    }

    pub(crate) fn find(&self, number: u32) -> StreamStatus {
        let (opened, live) = {
            let inner = self.lock();
            let live =
                inner.live.iter().find(|(known, _)| *known == number).map(|(_, outbox)| outbox.clone());
            (inner.opened, live)
        };
        // Upgraded outside the lock: the last handle of an outbox must not be dropped under it.
        match live.and_then(|outbox| outbox.upgrade()) {
            Some(outbox) => StreamStatus::Live(outbox),
            None if (1..=opened).contains(&number) => StreamStatus::Over,
            None => StreamStatus::Never,
        }
    }

    /// All streams that still exist.
    pub(crate) fn all(&self) -> Vec<Arc<Outbox>> {
        // Upgraded outside the lock: the last handle of an outbox must not be dropped under it.
        let live: Vec<_> = self.lock().live.iter().map(|(_, outbox)| outbox.clone()).collect();
        live.iter().filter_map(Weak::upgrade).collect()
    }

    /// Removes streams that no longer exist.
    pub(crate) fn sweep(&self) {
        let mut inner = self.lock();
        inner.live.retain(|(_, outbox)| outbox.strong_count() > 0);
        if inner.live.is_empty() {
            // An idle agent must not keep the memory of its busiest moment.
            inner.live = Vec::new();
        }
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
