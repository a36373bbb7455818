//! The outbox of one stream: a bounded queue of messages with one reader, which may change.
//!
//! A push never waits. In a full queue logs are dropped first, and progress and change notices are merged; answers and
//! server requests are kept, so a queue beyond its hard limit closes the stream. The queue outlives its reader: an
//! agent that reconnects reads what it missed.

mod displace;
mod queue;
mod reader;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::{
    config::FrontLimits,
    limits::memory::{MemoryAccount, Purpose},
    stream::{
        connection::ConnectionState,
        drop_policy::DropPolicy,
        event::{Event, EventId},
        replay::Replay,
    },
};

pub(crate) use displace::{Taken, unless_taken};
pub(crate) use reader::{Next, Reader};

pub(crate) struct Outbox {
    state: Mutex<State>,
    owner: AtomicWaker,
    memory: Arc<MemoryAccount>,
    messages: usize,
    bytes: usize,
    stream: Option<Stream>,
}

/// The number of a resumable stream in its session, and the store of its events.
pub(crate) struct Stream {
    pub(crate) replay: Arc<Replay>,
    pub(crate) number: u32,
}

/// Whether a stream has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Attached(u64),
    Absent,
    Closed,
}

/// A snapshot for the owner of a stream: its reader, and whether it must end with its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) presence: Presence,
    pub(crate) finishing: bool,
}

/// The reason a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The queue is full, or the stream has no reader.
    Dropped,
    /// The stream is closed.
    Closed,
    /// The message closed the stream.
    Overflowed,
}

struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    presence: Presence,
    finishing: bool,
    readers: u64,
    /// The number of the last event that was read.
    seq: u64,
    /// The time at which the last reader left.
    left: Option<Instant>,
    /// The reader must leave once it has read the queue, and return after this time.
    dismissed: Option<Duration>,
    waker: Option<Waker>,
    /// The connection of the reader.
    connection: Option<Arc<ConnectionState>>,
    /// The last event sent before this reader attached.
    began_after: u64,
    /// The time until which the reader is not displaced.
    protected_until: Option<Instant>,
    /// How often a reader that seemed alive was displaced.
    displaced: u32,
}

struct Entry {
    policy: DropPolicy,
    bytes: Bytes,
}

impl Outbox {
    pub(crate) fn new(limits: &FrontLimits, memory: Arc<MemoryAccount>, stream: Option<Stream>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            presence: Presence::Absent,
            finishing: false,
            readers: 0,
            seq: 0,
            left: None,
            dismissed: None,
            waker: None,
            connection: None,
            began_after: 0,
            protected_until: None,
            displaced: 0,
        };
        let (messages, bytes) = (limits.outbound_messages, limits.outbound_bytes);
        Self { state: Mutex::new(state), owner: AtomicWaker::new(), memory, messages, bytes, stream }
    }

    /// Attaches a reader; an older one ends. `None` when the stream is closed.
    pub(crate) fn attach(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        if state.presence == Presence::Closed {
            return None;
        }
        let after = state.seq;
        let reader = self.take_over(&mut state, VecDeque::new(), after);
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
        Some(reader)
    }

    /// Attaches a reader that begins after event `seq`. `None` when there was no such event, or when the stream is
    /// closed and nothing of it is left.
    pub(crate) fn attach_after(self: &Arc<Self>, seq: u64) -> Option<Reader> {
        let stream = self.stream.as_ref()?;
        let mut state = self.lock();
        if seq > state.seq {
            return None;
        }
        let again = stream.replay.after(EventId { stream: stream.number, seq });
        if state.presence == Presence::Closed && again.is_empty() && state.queue.is_empty() {
            return None;
        }
        let reader = self.take_over(&mut state, again, seq);
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
        Some(reader)
    }

    /// A reader of stored events of a stream that is over.
    pub(crate) fn past(self: Arc<Self>, again: VecDeque<Event>, after: u64) -> Reader {
        self.close();
        Reader { outbox: self, generation: 0, again, after }
    }

    fn take_over(self: &Arc<Self>, state: &mut State, again: VecDeque<Event>, after: u64) -> Reader {
        if state.readers > 0 {
            // The dismissal was for the previous reader, which has returned or was replaced.
            state.dismissed = None;
        }
        state.readers += 1;
        state.connection = None;
        state.began_after = state.seq;
        if state.presence != Presence::Closed {
            state.presence = Presence::Attached(state.readers);
        }
        Reader { outbox: Arc::clone(self), generation: state.readers, again, after }
    }

    /// Queues one message. Returns how many log lines were dropped for it.
    pub(crate) fn push(&self, policy: DropPolicy, bytes: Bytes) -> Result<usize, Refused> {
        let mut state = self.lock();
        let presence = state.presence;
        match presence {
            Presence::Closed => return Err(Refused::Closed),
            Presence::Absent if !self.waits_for_reader(&mut state, policy) => return Err(Refused::Dropped),
            Presence::Absent | Presence::Attached(_) => {}
        }
        let mut gone = 0;
        if self.is_full(&state, 1) {
            if policy.is_merged() && self.merge(&mut state, policy, &bytes) {
                return Ok(0);
            }
            if policy != DropPolicy::Log {
                gone = self.make_room(&mut state);
            }
        }
        if self.is_full(&state, 1) {
            match policy {
                DropPolicy::Log | DropPolicy::Progress(_) => return Err(Refused::Dropped),
                DropPolicy::Change(_) | DropPolicy::Note if self.is_full(&state, 2) => {
                    return Err(Refused::Dropped);
                }
                DropPolicy::Required if self.is_full(&state, 2) => {
                    let waker = self.shed(&mut state);
                    drop(state);
                    self.wake(waker);
                    return Err(Refused::Overflowed);
                }
                DropPolicy::Change(_) | DropPolicy::Note | DropPolicy::Required => {}
            }
        }
        self.count(&mut state, bytes.len(), 0);
        state.queue.push_back(Entry { policy, bytes });
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(gone)
    }

    /// Closes the stream behind the queued messages.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if state.presence == Presence::Absent {
            self.retire(&mut state);
        }
        state.presence = Presence::Closed;
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
    }

    /// Dismisses the reader, but not the stream: the present or next reader returns after `wait`.
    pub(crate) fn dismiss(&self, wait: Duration) {
        let mut state = self.lock();
        let is_awaited = state.readers == 0 && state.presence == Presence::Absent;
        if is_awaited || matches!(state.presence, Presence::Attached(_)) {
            state.dismissed = Some(wait);
        }
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
    }

    /// Closes the stream and drops its queue: no reader will come.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        self.clear(&mut state);
        state.presence = Presence::Closed;
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
    }

    /// Drops the queue of an agent that has been away for longer than it may resume.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        if state.presence == Presence::Absent && state.left.is_some() {
            self.waits_for_reader(&mut state, DropPolicy::Note);
        }
    }

    /// Bytes in the queue.
    pub(crate) fn owes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether the queue has no reader, or one that has taken nothing for this long.
    pub(crate) fn is_stuck(&self, since: Duration) -> bool {
        self.lock().connection.as_ref().is_none_or(|connection| connection.is_stuck(since))
    }

    /// Closes the stream, drops its queue and cuts the connection of its reader, because memory is short.
    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        let waker = self.shed(&mut state);
        drop(state);
        self.wake(waker);
    }

    /// The number of the stream in its session, if it can be resumed.
    pub(crate) fn stream_number(&self) -> Option<u32> {
        self.stream.as_ref().map(|stream| stream.number)
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

    /// Polls for a change since `seen`; for the one task that owns the stream.
    pub(crate) fn poll_watch(&self, cx: &mut Context<'_>, seen: Watch) -> Poll<Watch> {
        self.owner.register(cx.waker());
        let now = self.watch();
        if now == seen { Poll::Pending } else { Poll::Ready(now) }
    }

    /// The present reader; the owner is woken when that changes.
    pub(crate) fn poll_presence(&self, cx: &mut Context<'_>) -> Presence {
        self.owner.register(cx.waker());
        self.presence()
    }

    fn wake(&self, reader: Option<Waker>) {
        if let Some(waker) = reader {
            waker.wake();
        }
        self.owner.wake();
    }

    // A panic under the lock leaves a consistent queue.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes that the reader has left.
    fn leave(&mut self) {
        self.presence = Presence::Absent;
        self.left = Some(Instant::now());
        self.waker = None;
        self.connection = None;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.memory.release(Purpose::Outbound, self.lock().bytes);
    }
}

#[cfg(test)]
mod tests;
