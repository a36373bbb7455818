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
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

use crate::config::FrontTimes;

const FRESH: u8 = 0;
const HEADER: u8 = 1;
const BUSY: u8 = 2;
const IDLE: u8 = 3;

/// What the connection is waiting for, shared by its IO and its service.
#[derive(Debug)]
pub(crate) struct Pulse {
    phase: AtomicU8,
    begun: Instant,
    /// Milliseconds after `begun` at which the last request ended.
    idle_since: AtomicU64,
    /// The peer was cut off because it does not read.
    stalled: AtomicBool,
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
    on_stall: Arc<dyn Fn() + Send + Sync>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(FRESH),
            begun: Instant::now(),
            idle_since: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        }
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
}

impl Drop for Busy {
    fn drop(&mut self) {
        let at = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since.store(at, Ordering::Release);
        self.0.phase.store(IDLE, Ordering::Release);
    }
}

impl<T> TimedIo<T> {
    pub(crate) fn new(
        io: T,
        pulse: Arc<Pulse>,
        times: FrontTimes,
        on_stall: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { io, pulse, times, timer: None, header_since: None, stalled: None, on_stall }
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
        let since = *self.stalled.get_or_insert_with(Instant::now);
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
            self.stalled = None;
            return done;
        }
        if self.write_expired(cx) {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        Poll::Pending
    }
}

impl<T: Read + Unpin> Read for TimedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(done) => {
                // The first bytes of a request: from here on its header has a deadline. A request whose header is
                // complete is busy before the next read; one that is busy already is reading its body.
                for before in [FRESH, IDLE] {
                    let _ = this.pulse.phase.compare_exchange(
                        before,
                        HEADER,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
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

impl<T: Write + Unpin> Write for TimedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
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
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, done)
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
