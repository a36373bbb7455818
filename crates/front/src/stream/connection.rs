//! The clock of one connection: first byte, header, idle keep-alive, and a peer that does not read.
//!
//! hyper has one timer for the header and the idle time before it, so it is off and this wrapper keeps them apart.
//! It lives inside the IO: whenever a read or write would wait, the one timer of the connection is polled with the
//! limit of the moment. The timer is armed lazily and mostly fires early, to be armed again: an active connection
//! pays no timer operation per request. hyper does not read again between an answer and the next request, so the
//! timer also runs while a request is served, and the end of the request only leaves its time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

use crate::{
    config::FrontTimes,
    limits::memory::{Budget, Kept},
    stream::peer_watch::PeerWatch,
};

const FRESH: u8 = 0;
const HEADER: u8 = 1;
const BUSY: u8 = 2;
const IDLE: u8 = 3;

/// The time of what is not awaited.
const NEVER: u64 = u64::MAX;

/// What is written at once is not counted below this: it is less than the buffer of the connection.
const COUNTED: usize = 4 << 10;

/// What the connection is waiting for, shared by its IO and its service.
pub(crate) struct Pulse {
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
    budget: Arc<Budget>,
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
    pulse: Arc<Pulse>,
    bytes: usize,
}

/// A request is being served. Dropped with the response body.
pub(crate) struct Busy(Arc<Pulse>);

/// IO that gives up when the peer does.
pub(crate) struct TimedIo<T> {
    io: T,
    pulse: Arc<Pulse>,
    times: FrontTimes,
    timer: Option<Pin<Box<Sleep>>>,
    header_since: Option<Instant>,
    stalled: Option<Instant>,
    peer_watch: PeerWatch,
    on_stall: Arc<dyn Fn() + Send + Sync>,
}

impl Pulse {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            phase: AtomicU8::new(FRESH),
            begun: Instant::now(),
            idle_since: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            stuck_since: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            budget,
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
        Unwritten { pulse: Arc::clone(self), bytes: 0 }
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

    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.phase.store(BUSY, Ordering::Release);
        Busy(Arc::clone(self))
    }

    fn idle_since(&self) -> Instant {
        self.begun + Duration::from_millis(self.idle_since.load(Ordering::Acquire))
    }
}

impl Busy {
    /// Whether the connection ends because its peer does not read.
    pub(crate) fn has_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Acquire)
    }

    /// The connection it is served on.
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
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
        self.pulse.unwritten.fetch_add(bytes, Ordering::Relaxed);
        self.pulse.budget.take(Kept::Outbound, bytes);
    }

    pub(crate) fn less(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.pulse.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        self.pulse.budget.give(Kept::Outbound, bytes);
    }
}

impl Drop for Busy {
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

impl<T> TimedIo<T> {
    pub(crate) fn new(
        io: T,
        pulse: Arc<Pulse>,
        times: FrontTimes,
        on_stall: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let peer_watch = PeerWatch::default();
        Self { io, pulse, times, timer: None, header_since: None, stalled: None, peer_watch, on_stall }
    }

    fn read_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let times = self.times;
        match self.pulse.phase.load(Ordering::Acquire) {
            IDLE => {
                self.header_since = None;
                self.is_past(cx, self.pulse.idle_since() + times.keep_alive)
            }
            BUSY => {
                self.header_since = None;
                // Never over while a request is served; this only keeps the timer going for the time after it.
                self.is_past(cx, Instant::now() + times.keep_alive)
            }
            _ => {
                let since = *self.header_since.get_or_insert_with(Instant::now);
                self.is_past(cx, since + times.header)
            }
        }
    }

    fn write_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let pulse = Arc::clone(&self.pulse);
        let since = *self.stalled.get_or_insert_with(|| {
            pulse.stuck_since.store(pulse.millis() + 1, Ordering::Release);
            Instant::now()
        });
        // Registered before it is looked at, so that a cut in between is not missed.
        pulse.writer.register(cx.waker());
        if pulse.stalled.load(Ordering::Acquire) {
            return true;
        }
        let expired = self.is_past(cx, since + self.times.write_stall);
        if expired {
            self.pulse.stalled.store(true, Ordering::Release);
            (self.on_stall)();
        }
        expired
    }

    fn is_past(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            timer.as_mut().reset(deadline);
        }
        false
    }

    fn written(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if done.is_ready() {
            if self.stalled.take().is_some() {
                self.pulse.stuck_since.store(0, Ordering::Release);
            }
            return done;
        }
        if self.write_expired(cx) {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        Poll::Pending
    }
}

impl<T: Read + Unpin> TimedIo<T> {
    /// Looks at the peer of a request that is being served, in the task that serves it.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.pulse.is_watched.load(Ordering::Acquire) {
            return Ok(());
        }
        self.pulse.writer.register(cx.waker());
        if self.pulse.stalled.load(Ordering::Acquire) {
            return Err(timed_out("memory is short, and much waits for this peer"));
        }
        if self.peer_watch.finds_end(&mut self.io, cx)? {
            self.pulse.has_half_closed.store(true, Ordering::Release);
            cx.waker().wake_by_ref();
        }
        let due = self.pulse.bytes_due_at.load(Ordering::Relaxed);
        if due != NEVER && !self.pulse.is_overdue.load(Ordering::Relaxed) {
            let due = self.pulse.begun + Duration::from_millis(due);
            if self.is_past(cx, due) {
                self.pulse.is_overdue.store(true, Ordering::Release);
                cx.waker().wake_by_ref();
            }
        }
        Ok(())
    }
}

impl<T: Read + Unpin> Read for TimedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match this.peer_watch.left(&mut buf) {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut this.io).poll_read(cx, buf),
        };
        match polled {
            Poll::Ready(done) => {
                // The first bytes of a request: from here on its header has a deadline. A request whose header is
                // complete is busy before the next read; one that is busy already is reading its body.
                let phase = &this.pulse.phase;
                for before in [FRESH, IDLE] {
                    let _ = phase.compare_exchange(before, HEADER, Ordering::AcqRel, Ordering::Acquire);
                }
                Poll::Ready(done)
            }
            Poll::Pending if this.read_expired(cx) => {
                Poll::Ready(Err(timed_out("the peer sent nothing for too long")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Read + Write + Unpin> Write for TimedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.pulse.stalled.load(Ordering::Acquire) {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        let done = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        // hyper comes here in each turn of its loop, and reads nothing while a request is served.
        Poll::Ready(this.watch(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.pulse.stalled.load(Ordering::Acquire) {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, done)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
