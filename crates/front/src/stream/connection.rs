//! The state of one connection, shared by its IO, the request that is served on it and whoever looks for slow peers:
//! what it waits for, what is still to be written, and whether its peer is still there.

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

/// The time of what is not awaited.
const NEVER: u64 = u64::MAX;

/// What is written at once is not counted below this: it is less than the buffer of the connection.
const COUNTED: usize = 4 << 10;

/// What the connection is waiting for, shared by its IO and its service.
pub(crate) struct ConnectionState {
    phase: AtomicU8,
    begun: Instant,
    /// Milliseconds after `begun` at which the last request ended.
    idle_since: AtomicU64,
    /// The peer was cut off because it does not read.
    stalled: AtomicBool,
    /// Milliseconds after `begun`, and one, at which a write had to wait; 0 while none does.
    stuck_since: AtomicU64,
    /// Bytes handed over to be written and not taken in yet.
    unwritten: AtomicUsize,
    memory: Arc<MemoryAccount>,
    /// Waits for the peer to read.
    writer: AtomicWaker,
    /// The request that is served waits for something that takes its time: the peer is watched meanwhile.
    is_watched: AtomicBool,
    /// Milliseconds after `begun` at which the request has been silent for too long; `NEVER` where it may be.
    bytes_due_at: AtomicU64,
    /// The request has been silent for too long.
    is_overdue: AtomicBool,
    /// The peer has ended its sending side: it has gone, or it only waits for its answer.
    has_half_closed: AtomicBool,
}

/// Bytes on their way into the socket. Small ones are not worth the counting.
pub(crate) struct Unwritten {
    connection: Arc<ConnectionState>,
    bytes: usize,
}

/// A request is being served. Dropped with the response body.
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

    /// Watches the peer for as long as the request of this moment is served. Whoever serves it must be polled by the
    /// task of the connection, which is woken when the peer ends its side or `silence` is over.
    pub(crate) fn watch(&self, silence: Option<Duration>) {
        let due = silence.map_or(NEVER, |silence| self.millis().saturating_add(millis(silence)));
        self.bytes_due_at.store(due, Ordering::Relaxed);
        self.is_watched.store(true, Ordering::Release);
    }

    /// Whether the request needs bytes of its answer now: to find out whether its peer is still there, or because a
    /// proxy between them would give up.
    pub(crate) fn wants_bytes(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire) || self.has_half_closed()
    }

    /// Whether the peer has ended its sending side. Only writing tells a peer that has gone from one that waits.
    pub(crate) fn has_half_closed(&self) -> bool {
        self.has_half_closed.load(Ordering::Acquire)
    }

    /// Bytes its peer has not taken in.
    pub(crate) fn owes(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Counts what is to be written later: answers that wait for others.
    pub(crate) fn owing(self: &Arc<Self>) -> Unwritten {
        Unwritten { connection: Arc::clone(self), bytes: 0 }
    }

    /// Whether its peer has taken in nothing for this long although there was something.
    pub(crate) fn is_stuck(&self, since: Duration) -> bool {
        let stuck = self.stuck_since.load(Ordering::Acquire);
        stuck > 0 && self.millis().saturating_sub(stuck - 1) >= millis(since)
    }

    /// Ends the connection at its next write, or the one that waits; whether it was not ending already.
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

    /// The first bytes of a request are there, unless it is known already.
    pub(crate) fn start_header(&self) {
        for before in [FRESH, IDLE] {
            let _ = self.phase.compare_exchange(before, HEADER, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// A write has to wait from now on.
    pub(crate) fn set_stuck(&self) {
        self.stuck_since.store(self.millis() + 1, Ordering::Release);
    }

    /// The peer has taken in something.
    pub(crate) fn clear_stuck(&self) {
        self.stuck_since.store(0, Ordering::Release);
    }

    /// The peer took in nothing for too long.
    pub(crate) fn set_stalled(&self) {
        self.stalled.store(true, Ordering::Release);
    }

    /// Registers the writer's task, to be woken when the connection is cut.
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

    /// When the request will have been silent for too long, if that may be and is not so yet.
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
    /// Whether the connection ends because its peer does not read.
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
