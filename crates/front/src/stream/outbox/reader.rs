//! The reader of an outbox. Dropping it leaves the queue to the next.

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
    /// Events an earlier reader was sent and may not have seen.
    pub(super) again: VecDeque<Event>,
    /// The last event before the first one of this reader.
    pub(super) after: u64,
}

/// The next thing for a reader.
pub(crate) enum Next {
    Event(Event),
    /// The end of this response: the client returns after this time for the rest.
    BackIn(Duration),
}

impl Reader {
    /// The event this reader begins after, if the stream can be resumed.
    pub(crate) fn begins_after(&self) -> Option<EventId> {
        let stream = self.outbox.stream.as_ref()?;
        Some(EventId { stream: stream.number, seq: self.after })
    }

    /// The outbox it reads.
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Sets the connection it reads over.
    pub(crate) fn over(&self, connection: &Arc<ConnectionState>) {
        let mut state = self.outbox.lock();
        if state.readers == self.generation {
            state.connection = Some(Arc::clone(connection));
        }
    }

    /// Polls the next event; `None` at the end of the stream, or when a newer reader took over.
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
            // This reader ends here.
            state.readers += 1;
            drop(state);
            self.outbox.owner.wake();
            return Poll::Ready(Some(Next::BackIn(wait)));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the stream and drops its queue, because the agent does not read.
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
