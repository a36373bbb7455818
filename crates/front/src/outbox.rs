//! What waits for one agent stream to read it: a bounded queue with one reader that may change.
//!
//! Nobody ever waits to push. Progress is merged and notifications are dropped when the queue is full; answers and
//! server requests are not, so a queue that grows beyond twice its size closes the stream instead. The queue outlives
//! its reader: an agent that reconnects finds what it missed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::task::AtomicWaker;

use crate::observe::Gauges;

pub(crate) struct Outbox {
    state: Mutex<State>,
    owner: AtomicWaker,
    gauges: Arc<Gauges>,
    messages: usize,
    bytes: usize,
}

/// The one who reads. Dropping it leaves the queue to the next.
pub(crate) struct Reader {
    outbox: Arc<Outbox>,
    generation: u64,
}

/// Whether somebody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Attached(u64),
    Absent,
    Closed,
}

/// What the owner of a stream has to know: who reads, and whether the stream is to end when its calls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) presence: Presence,
    pub(crate) finishing: bool,
}

/// How a message may be treated when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Only the latest of this token matters.
    Progress(u64),
    /// May be dropped.
    Droppable,
    /// Must arrive.
    Must,
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Full, or nobody reads.
    Dropped,
    /// The stream is closed.
    Closed,
    /// This message made the stream close.
    Overflowed,
}

struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    presence: Presence,
    finishing: bool,
    readers: u64,
    waker: Option<Waker>,
}

struct Entry {
    weight: Weight,
    bytes: Bytes,
}

impl Outbox {
    pub(crate) fn new(messages: usize, bytes: usize, gauges: Arc<Gauges>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            presence: Presence::Absent,
            finishing: false,
            readers: 0,
            waker: None,
        };
        Self { state: Mutex::new(state), owner: AtomicWaker::new(), gauges, messages, bytes }
    }

    /// The newest reader reads; an older one is at its end. `None` when the stream is closed.
    pub(crate) fn attach(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        if state.presence == Presence::Closed {
            return None;
        }
        state.readers += 1;
        state.presence = Presence::Attached(state.readers);
        let (generation, waker) = (state.readers, state.waker.take());
        drop(state);
        self.wake(waker);
        Some(Reader { outbox: Arc::clone(self), generation })
    }

    /// The reader of an outbox that was just made, and so is open.
    pub(crate) fn first_reader(outbox: &Arc<Self>) -> Reader {
        let mut state = outbox.lock();
        state.readers += 1;
        state.presence = Presence::Attached(state.readers);
        Reader { outbox: Arc::clone(outbox), generation: state.readers }
    }

    /// Queues one message.
    pub(crate) fn push(&self, weight: Weight, bytes: Bytes) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.presence == Presence::Closed {
            return Err(Refused::Closed);
        }
        if state.queue.len() >= self.messages || state.bytes >= self.bytes {
            match weight {
                Weight::Progress(token) => return self.merge(&mut state, token, bytes),
                Weight::Droppable => return Err(Refused::Dropped),
                Weight::Must if state.queue.len() >= 2 * self.messages || state.bytes >= 2 * self.bytes => {
                    let waker = self.shut(&mut state, true);
                    drop(state);
                    self.wake(waker);
                    return Err(Refused::Overflowed);
                }
                Weight::Must => {}
            }
        }
        self.count(&mut state, bytes.len(), 0);
        state.queue.push_back(Entry { weight, bytes });
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Ends the stream once what is queued was read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let waker = self.shut(&mut state, false);
        drop(state);
        self.wake(waker);
    }

    pub(crate) fn presence(&self) -> Presence {
        self.lock().presence
    }

    /// Asks the owner to close the stream as soon as its last call has ended.
    pub(crate) fn finish(&self) {
        self.lock().finishing = true;
        self.owner.wake();
    }

    pub(crate) fn watch(&self) -> Watch {
        let state = self.lock();
        Watch { presence: state.presence, finishing: state.finishing }
    }

    /// Waits until something changed since `seen`; for the one task that owns the stream.
    pub(crate) fn poll_watch(&self, cx: &mut Context<'_>, seen: Watch) -> Poll<Watch> {
        self.owner.register(cx.waker());
        let now = self.watch();
        if now == seen { Poll::Pending } else { Poll::Ready(now) }
    }

    /// Whether somebody reads; if so, the owner is woken when that ends.
    pub(crate) fn is_read(&self, cx: &mut Context<'_>) -> bool {
        self.owner.register(cx.waker());
        matches!(self.presence(), Presence::Attached(_))
    }

    fn merge(&self, state: &mut State, token: u64, bytes: Bytes) -> Result<(), Refused> {
        let twin = state.queue.iter_mut().rev().find(|entry| entry.weight == Weight::Progress(token));
        let Some(twin) = twin else { return Err(Refused::Dropped) };
        let old = std::mem::replace(&mut twin.bytes, bytes);
        let new = twin.bytes.len();
        self.count(state, new, old.len());
        Ok(())
    }

    fn shut(&self, state: &mut State, clear: bool) -> Option<Waker> {
        state.presence = Presence::Closed;
        if clear {
            let gone = state.bytes;
            self.count(state, 0, gone);
            state.queue = VecDeque::new();
        }
        state.waker.take()
    }

    fn count(&self, state: &mut State, more: usize, less: usize) {
        state.bytes = state.bytes + more - less;
        Gauges::up(&self.gauges.buffered_bytes, more);
        Gauges::down(&self.gauges.buffered_bytes, less);
    }

    fn wake(&self, reader: Option<Waker>) {
        if let Some(waker) = reader {
            waker.wake();
        }
        self.owner.wake();
    }

    // A panic while holding it leaves a queue that is still a queue.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        Gauges::down(&self.gauges.buffered_bytes, self.lock().bytes);
    }
}

impl Reader {
    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// The next message; `None` at the end of the stream, or when a newer reader took over.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.outbox.lock();
        if state.readers != self.generation {
            return Poll::Ready(None);
        }
        if let Some(entry) = state.queue.pop_front() {
            self.outbox.count(&mut state, 0, entry.bytes.len());
            if state.queue.is_empty() {
                // An idle agent must not keep the memory of its busiest moment.
                state.queue = VecDeque::new();
            }
            return Poll::Ready(Some(entry.bytes));
        }
        if state.presence == Presence::Closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready as soon as something waits.
    pub(crate) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.outbox.lock();
        if !state.queue.is_empty() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.outbox.lock().queue.is_empty()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        if state.presence == Presence::Attached(self.generation) {
            state.presence = Presence::Absent;
            state.waker = None;
            drop(state);
            self.outbox.owner.wake();
        }
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
