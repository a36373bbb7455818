//! What waits for one agent stream to read it: a bounded queue with one reader that may change.
//!
//! Nobody ever waits to push. In a full queue logs make room first, progress and news of changes are merged; answers
//! and server requests are kept, so a queue that grows beyond its hard limit closes the stream instead. The queue
//! outlives its reader: an agent that reconnects finds what it missed.

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

/// Which stream of a session that can resume this is.
pub(crate) struct Stream {
    pub(crate) replay: Arc<Replay>,
    pub(crate) number: u32,
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
    /// The number of the last event that was read.
    seq: u64,
    /// When the last reader left.
    left: Option<Instant>,
    /// Who reads is to go, once it has read what waits, and to come back after this.
    dismissed: Option<Duration>,
    waker: Option<Waker>,
    /// The connection of who reads.
    connection: Option<Arc<ConnectionState>>,
    /// The last event that was sent to readers before this one.
    began_after: u64,
    /// Until then who reads is not displaced by another.
    protected_until: Option<Instant>,
    /// How often one that seemed alive was displaced.
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

    /// The newest reader reads; an older one is at its end. `None` when the stream is closed.
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

    /// A reader that begins behind event `seq`. `None` when there never was one, or when the stream is closed and
    /// nothing is left of it.
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

    /// Reads what is left of a stream that is over.
    pub(crate) fn past(self: Arc<Self>, again: VecDeque<Event>, after: u64) -> Reader {
        self.close();
        Reader { outbox: self, generation: 0, again, after }
    }

    fn take_over(self: &Arc<Self>, state: &mut State, again: VecDeque<Event>, after: u64) -> Reader {
        if state.readers > 0 {
            // Meant for the one before, who has come back or was replaced.
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

    /// Queues one message. Says how many log lines had to go for it.
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

    /// Ends the stream once what is queued was read.
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

    /// Ends the reading and not the stream: who reads, or is about to, comes back to it after `wait`.
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

    /// Ends the stream with what waits in it: nobody will come for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        self.clear(&mut state);
        state.presence = Presence::Closed;
        let waker = state.waker.take();
        drop(state);
        self.wake(waker);
    }

    /// Forgets what waits for an agent that has been away for longer than it may resume.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        if state.presence == Presence::Absent && state.left.is_some() {
            self.waits_for_reader(&mut state, DropPolicy::Note);
        }
    }

    /// Bytes that wait.
    pub(crate) fn owes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether what waits is read by nobody, or by somebody who has taken in nothing for this long.
    pub(crate) fn is_stuck(&self, since: Duration) -> bool {
        self.lock().connection.as_ref().is_none_or(|connection| connection.is_stuck(since))
    }

    /// Ends the stream with what waits in it, and the connection of who reads it: memory is short.
    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        let waker = self.shed(&mut state);
        drop(state);
        self.wake(waker);
    }

    /// Its number among the streams of its session, where it can be resumed.
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

    /// Waits until something changed since `seen`; for the one task that owns the stream.
    pub(crate) fn poll_watch(&self, cx: &mut Context<'_>, seen: Watch) -> Poll<Watch> {
        self.owner.register(cx.waker());
        let now = self.watch();
        if now == seen { Poll::Pending } else { Poll::Ready(now) }
    }

    /// Whether somebody reads; the owner is woken when that changes.
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

    // A panic while holding it leaves a queue that is still a queue.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Nobody reads from now on.
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
