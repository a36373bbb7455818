//! The one who reads an outbox. Dropping it leaves the queue to the next.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{Outbox, Presence};
use crate::stream::{
    connection::ConnectionState,
    event::{Event, EventId},
};

pub(crate) struct Reader {
    pub(super) outbox: Arc<Outbox>,
    pub(super) generation: u64,
    /// What an earlier reader was sent and may not have seen.
    pub(super) again: VecDeque<Event>,
    /// The last event before the first this one gets.
    pub(super) after: u64,
}

/// What a reader gets.
pub(crate) enum Next {
    Event(Event),
    /// Nothing more here: the rest is for who comes back after this time.
    BackIn(Duration),
}

impl Reader {
    /// What this reader begins behind, where that can be resumed.
    pub(crate) fn begins_after(&self) -> Option<EventId> {
        let stream = self.outbox.stream.as_ref()?;
        Some(EventId { stream: stream.number, seq: self.after })
    }

    /// What it reads.
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Says over which connection it reads.
    pub(crate) fn over(&self, connection: &Arc<ConnectionState>) {
        let mut state = self.outbox.lock();
        if state.readers == self.generation {
            state.connection = Some(Arc::clone(connection));
        }
    }

    /// What comes next; `None` at the end of the stream, or when a newer reader took over.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let mut state = self.outbox.lock();
        if state.readers != self.generation {
            return Poll::Ready(None);
        }
        if let Some(event) = self.again.pop_front() {
            return Poll::Ready(Some(Next::Event(event)));
        }
        if let Some(entry) = state.queue.pop_front() {
            self.outbox.count(&mut state, 0, entry.bytes.len());
            if state.queue.is_empty() {
                // An idle agent must not keep the memory of its busiest moment.
                state.queue = VecDeque::new();
            }
            let id = self.outbox.number(&mut state, &entry.bytes);
            return Poll::Ready(Some(Next::Event(Event { id, bytes: entry.bytes })));
        }
        if state.presence == Presence::Closed {
            return Poll::Ready(None);
        }
        if let Some(wait) = state.dismissed.take() {
            state.leave();
            // From now on this one is at its end.
            state.readers += 1;
            drop(state);
            self.outbox.owner.wake();
            return Poll::Ready(Some(Next::BackIn(wait)));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The agent does not read: its stream ends, with what waits for it.
    pub(crate) fn give_up(&self) {
        let mut state = self.outbox.lock();
        if state.readers != self.generation {
            return;
        }
        let waker = self.outbox.shed(&mut state);
        drop(state);
        self.outbox.wake(waker);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        if state.readers != self.generation {
            return;
        }
        match state.presence {
            Presence::Attached(_) => {
                state.leave();
                drop(state);
                self.outbox.owner.wake();
            }
            Presence::Closed => {
                state.connection = None;
                self.outbox.retire(&mut state);
            }
            Presence::Absent => state.connection = None,
        }
    }
}
