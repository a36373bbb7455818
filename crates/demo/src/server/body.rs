//! The one response body: bytes known at once, or a bounded channel of pieces with keep-alive and chunking.
//!
//! The subtle thing: a body is also how a stream's end is noticed: it owns the guard of its session, so a
//! client that goes away (hyper drops the body) gives everything back.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// What goes down a stream.
#[derive(Debug)]
pub enum Piece {
    /// Complete SSE text.
    Event(Bytes),
    /// These bytes, then the connection is broken.
    Cut(Bytes),
    /// A clean end.
    End,
}

/// A response body.
#[derive(Default)]
pub struct Body {
    /// Bytes not yet given to hyper.
    ready: Bytes,
    abort: Abort,
    feed: Option<Box<Feed>>,
}

/// Whether the connection is broken once `ready` is out. hyper drops what it buffered when a body fails,
/// so the failure waits for a few polls in which hyper flushes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Abort {
    #[default]
    Never,
    After(u8),
}

/// Polls granted to hyper for flushing before a body fails; one is needed, the rest is margin.
const FLUSHES: u8 = 3;

struct Feed {
    rx: mpsc::Receiver<Piece>,
    chunk: usize,
    left: u64,
    beat: Option<Interval>,
    _guard: Box<dyn Any + Send>,
}

/// How a stream body behaves.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Most bytes in one write. `None`: no limit.
    pub chunk: Option<usize>,
    /// Interval of comments on an idle stream.
    pub keep_alive: Option<Duration>,
    /// Messages after which the stream ends.
    pub close_after: Option<u64>,
}

impl Body {
    /// All at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { ready: bytes.into(), ..Self::default() }
    }

    /// These bytes, then a broken connection.
    pub fn cut(bytes: Bytes) -> Self {
        Self { ready: bytes, abort: Abort::After(FLUSHES), feed: None }
    }

    /// `head`, then whatever the channel brings; `guard` is dropped with the body.
    pub fn stream(
        head: Bytes,
        rx: mpsc::Receiver<Piece>,
        options: StreamOptions,
        guard: impl Any + Send,
    ) -> Self {
        let beat = options.keep_alive.filter(|d| !d.is_zero()).map(|every| {
            let mut beat = interval_at(tokio::time::Instant::now() + every, every);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        });
        let feed = Feed {
            rx,
            chunk: options.chunk.unwrap_or(usize::MAX).max(1),
            left: options.close_after.unwrap_or(u64::MAX),
            beat,
            _guard: Box::new(guard),
        };
        Self { ready: head, abort: Abort::Never, feed: Some(Box::new(feed)) }
    }
}

impl Feed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if self.left == 0 {
            return Poll::Ready(Piece::End);
        }
        if let Poll::Ready(piece) = self.rx.poll_recv(cx) {
            self.left -= 1;
            return Poll::Ready(piece.unwrap_or(Piece::End));
        }
        if let Some(beat) = &mut self.beat {
            ready!(beat.poll_tick(cx));
            return Poll::Ready(Piece::Event(Bytes::from_static(b": ping\n\n")));
        }
        Poll::Pending
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if !self.ready.is_empty() {
                let chunk = self.feed.as_ref().map_or(usize::MAX, |f| f.chunk);
                let at = self.ready.len().min(chunk);
                let piece = self.ready.split_to(at);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match self.abort {
                Abort::Never => {}
                Abort::After(0) => return Poll::Ready(Some(Err(io::Error::other("cut by the script")))),
                Abort::After(n) => {
                    self.abort = Abort::After(n - 1);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            let Some(feed) = &mut self.feed else { return Poll::Ready(None) };
            match ready!(feed.poll_next(cx)) {
                Piece::Event(bytes) => self.ready = bytes,
                Piece::Cut(bytes) => (self.ready, self.abort) = (bytes, Abort::After(FLUSHES)),
                Piece::End => self.feed = None,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.abort == Abort::Never && self.feed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.feed.is_none() && self.abort == Abort::Never {
            return SizeHint::with_exact(self.ready.len() as u64);
        }
        SizeHint::default()
    }
}

/// The error of a service that never fails but by closing its connection.
pub type ServiceError = io::Error;

/// What closes the connection without an answer.
pub fn reset() -> ServiceError {
    io::Error::other("reset by the script")
}
