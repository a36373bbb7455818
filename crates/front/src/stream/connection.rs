//! The state of one connection, shared by its IO, the request served on it, and load shedding: its phase, its unwritten
//! bytes, and whether its peer is still there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::limits::memory::{MemoryAccount, Purpose};

const FRESH: u8 = 0;
const HEADER: u8 = 1;
pub(crate) const BUSY: u8 = 2;
pub(crate) const IDLE: u8 = 3;

/// Stands for no deadline.
const NEVER: u64 = u64::MAX;

/// Smaller writes are not counted: they fit the buffer of the connection.
const COUNTED: usize = 4 << 10;

/// The state of one connection.
pub(crate) struct ConnectionState {
    phase: AtomicU8,
    begun: Instant,
    /// Milliseconds after `begun` at which the last request ended.
    idle_since: AtomicU64,
    /// The peer was cut off because it does not read.
    stalled: AtomicBool,
    /// Milliseconds after `begun`, plus one, since which a write waits; 0 if none does.
    stuck_since: AtomicU64,
    /// Bytes handed over for writing that the peer has not taken.
    unwritten: AtomicUsize,
    memory: Arc<MemoryAccount>,
    /// Wakes the writer that waits for the peer.
    writer: AtomicWaker,
    /// Whether the peer is watched, because the served request takes its time.
    is_watched: AtomicBool,
    /// Milliseconds after `begun` at which the request has been silent for too long, or `NEVER`.
    bytes_due_at: AtomicU64,
    /// The request has been silent for too long.
    is_overdue: AtomicBool,
    /// The peer has ended its sending side: it is gone, or it only waits for its answer.
    has_half_closed: AtomicBool,
}

/// Bytes on their way into the socket, counted until they are written.
pub(crate) struct Unwritten {
    connection: Arc<ConnectionState>,
    bytes: usize,
}

/// One request being served; released with the response body.
pub(crate) struct RequestInFlight(Arc<ConnectionState>);

impl ConnectionState {
    pub(crate) fn new(memory: Arc<MemoryAccount>) -> Self {
        Self {
            phase: AtomicU8::new(FRESH),
            begun: Instant::now(),
            idle_since: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            stuck_since: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            memory,
            writer: AtomicWaker::new(),
            is_watched: AtomicBool::new(false),
            bytes_due_at: AtomicU64::new(NEVER),
            is_overdue: AtomicBool::new(false),
            has_half_closed: AtomicBool::new(false),
        }
    }

    /// Watches the peer while the current request is served. The request must be polled by the task of the connection,
    /// which is woken when the peer ends its side or `silence` is over.
    pub(crate) fn watch(&self, silence: Option<Duration>) {
        let due = silence.map_or(NEVER, |silence| self.millis().saturating_add(millis(silence)));
        self.bytes_due_at.store(due, Ordering::Relaxed);
        self.is_watched.store(true, Ordering::Release);
    }

    /// Whether the request should write bytes now: to test whether its peer is still there, or because a proxy would
    /// give up.
    pub(crate) fn wants_bytes(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire) || self.has_half_closed()
    }

    /// Whether the peer has ended its sending side. Only a write tells a peer that has gone from one that waits.
    pub(crate) fn has_half_closed(&self) -> bool {
        self.has_half_closed.load(Ordering::Acquire)
    }

    /// Bytes the peer has not taken.
    pub(crate) fn owes(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// A counter for bytes that are written later: answers that wait for others.
    pub(crate) fn owing(self: &Arc<Self>) -> Unwritten {
        Unwritten { connection: Arc::clone(self), bytes: 0 }
    }

    /// Whether the peer has taken nothing for this long although bytes were waiting.
    pub(crate) fn is_stuck(&self, since: Duration) -> bool {
        let stuck = self.stuck_since.load(Ordering::Acquire);
        stuck > 0 && self.millis().saturating_sub(stuck - 1) >= millis(since)
    }

    /// Cuts the connection at its next or waiting write. `false` if it was cut already.
    pub(crate) fn cut(&self) -> bool {
        let is_first = !self.stalled.swap(true, Ordering::AcqRel);
        self.writer.wake();
        is_first
    }

    /// Whether no byte of a request has arrived yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.phase.load(Ordering::Acquire) == FRESH
    }

    fn millis(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    pub(crate) fn request_in_flight(self: &Arc<Self>) -> RequestInFlight {
        self.phase.store(BUSY, Ordering::Release);
        RequestInFlight(Arc::clone(self))
    }

    /// Whether the peer was cut off because it does not read.
    pub(crate) fn is_cut(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(crate) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    /// Starts the header phase, unless a request is in progress.
    pub(crate) fn start_header(&self) {
        for before in [FRESH, IDLE] {
            let _ = self.phase.compare_exchange(before, HEADER, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Notes that a write waits.
    pub(crate) fn set_stuck(&self) {
        self.stuck_since.store(self.millis() + 1, Ordering::Release);
    }

    /// Notes that the peer has taken bytes.
    pub(crate) fn clear_stuck(&self) {
        self.stuck_since.store(0, Ordering::Release);
    }

    /// Notes that the peer took nothing for too long.
    pub(crate) fn set_stalled(&self) {
        self.stalled.store(true, Ordering::Release);
    }

    /// Registers the task of the writer, to wake it when the connection is cut.
    pub(crate) fn register_writer(&self, writer: &Waker) {
        self.writer.register(writer);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Acquire)
    }

    /// The peer has ended its sending side.
    pub(crate) fn set_half_closed(&self) {
        self.has_half_closed.store(true, Ordering::Release);
    }

    /// The time at which the request will have been silent for too long. `None` if there is no such time or it has
    /// passed.
    pub(crate) fn bytes_due_at(&self) -> Option<Instant> {
        let due = self.bytes_due_at.load(Ordering::Relaxed);
        let awaited = due != NEVER && !self.is_overdue.load(Ordering::Relaxed);
        awaited.then(|| self.begun + Duration::from_millis(due))
    }

    /// The request has been silent for too long.
    pub(crate) fn set_overdue(&self) {
        self.is_overdue.store(true, Ordering::Release);
    }

    pub(crate) fn idle_since(&self) -> Instant {
        self.begun + Duration::from_millis(self.idle_since.load(Ordering::Acquire))
    }
}

impl RequestInFlight {
    /// Whether the connection is cut because its peer does not read.
    pub(crate) fn has_stalled(&self) -> bool {
        self.0.is_cut()
    }

    /// The connection it is served on.
    pub(crate) fn connection(&self) -> &Arc<ConnectionState> {
        &self.0
    }

    /// Counts bytes until they are written.
    pub(crate) fn writing(&self, bytes: usize) -> Option<Unwritten> {
        if bytes < COUNTED {
            return None;
        }
        let mut unwritten = self.0.owing();
        unwritten.more(bytes);
        Some(unwritten)
    }
}

impl Unwritten {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn more(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.connection.unwritten.fetch_add(bytes, Ordering::Relaxed);
        self.connection.memory.charge(Purpose::Outbound, bytes);
    }

    pub(crate) fn less(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.connection.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        self.connection.memory.release(Purpose::Outbound, bytes);
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.is_watched.store(false, Ordering::Relaxed);
        self.0.is_overdue.store(false, Ordering::Relaxed);
        self.0.idle_since.store(self.0.millis(), Ordering::Release);
        self.0.phase.store(IDLE, Ordering::Release);
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.less(self.bytes);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
