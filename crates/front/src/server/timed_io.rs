//! Timeouts of one connection: first byte, header, idle keep-alive, and a peer that does not read.
//!
//! hyper has one timer for the header and the idle time before it, so it is off and this wrapper tells them apart.
//! Whenever a read or write would wait, the one timer of the connection is polled with the deadline of the moment. The
//! timer is armed lazily and mostly fires early, to be armed again, so an active connection pays no timer operation per
//! request. hyper does not read again between an answer and the next request, so the timer also runs while a request is
//! served; the end of the request only records its time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

use crate::{
    config::FrontTimes,
    server::peer_watch::PeerWatch,
    stream::connection::{BUSY, ConnectionState, IDLE},
};

/// An IO wrapper that fails when the peer exceeds a timeout.
pub(crate) struct TimeoutIo<T> {
    io: T,
    connection: Arc<ConnectionState>,
    times: IoTimes,
    timer: Option<Pin<Box<Sleep>>>,
    header_since: Option<Instant>,
    stalled: Option<Instant>,
    peer_watch: PeerWatch,
    on_stall: Arc<dyn Fn() + Send + Sync>,
}

/// The timeouts of a connection. A copy, and small: every idle connection has one.
#[derive(Clone, Copy)]
struct IoTimes {
    header: Duration,
    keep_alive: Duration,
    write_stall: Duration,
}

impl<T> TimeoutIo<T> {
    pub(crate) fn new(
        io: T,
        connection: Arc<ConnectionState>,
        times: FrontTimes,
        on_stall: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let FrontTimes { header, keep_alive, write_stall, .. } = times;
        let (times, peer_watch) = (IoTimes { header, keep_alive, write_stall }, PeerWatch::default());
        Self { io, connection, times, timer: None, header_since: None, stalled: None, peer_watch, on_stall }
    }

    fn read_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let times = self.times;
        match self.connection.phase() {
            IDLE => {
                self.header_since = None;
                self.is_past(cx, self.connection.idle_since() + times.keep_alive)
            }
            BUSY => {
                self.header_since = None;
                // A served request has no deadline here; this keeps the timer going for the idle time after it.
                self.is_past(cx, Instant::now() + times.keep_alive)
            }
            _ => {
                let since = *self.header_since.get_or_insert_with(Instant::now);
                self.is_past(cx, since + times.header)
            }
        }
    }

    fn write_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let connection = Arc::clone(&self.connection);
        let since = *self.stalled.get_or_insert_with(|| {
            connection.set_stuck();
            Instant::now()
        });
        // Registered before the check, so that a cut in between is not missed.
        connection.register_writer(cx.waker());
        if connection.is_cut() {
            return true;
        }
        let expired = self.is_past(cx, since + self.times.write_stall);
        if expired {
            self.connection.set_stalled();
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
                self.connection.clear_stuck();
            }
            return done;
        }
        if self.write_expired(cx) {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        Poll::Pending
    }
}

impl<T: Read + Unpin> TimeoutIo<T> {
    /// Watches the peer while its request is served, from the task that serves it.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.connection.is_watched() {
            return Ok(());
        }
        self.connection.register_writer(cx.waker());
        if self.connection.is_cut() {
            return Err(timed_out("memory is short, and much waits for this peer"));
        }
        if self.peer_watch.finds_end(&mut self.io, cx)? {
            self.connection.set_half_closed();
            cx.waker().wake_by_ref();
        }
        if let Some(due) = self.connection.bytes_due_at()
            && self.is_past(cx, due)
        {
            self.connection.set_overdue();
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

impl<T: Read + Unpin> Read for TimeoutIo<T> {
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
                this.connection.start_header();
                Poll::Ready(done)
            }
            Poll::Pending if this.read_expired(cx) => {
                Poll::Ready(Err(timed_out("the peer sent nothing for too long")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Read + Write + Unpin> Write for TimeoutIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.connection.is_cut() {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        let done = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        // hyper flushes in each turn of its loop, and reads nothing while a request is served.
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
        if this.connection.is_cut() {
            return Poll::Ready(Err(timed_out("the peer does not read")));
        }
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, done)
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
