//! The bodies of responses. A stream's body only drains its outbox: it never runs a call, so a peer that does not
//! read stops nothing but itself.
//!
//! An event is three slices handed to hyper as one buffer, so a payload of any size is written from where it lies.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::{outbox::Reader, pulse::Busy};

/// Bytes between a fixed head and a fixed tail.
#[derive(Debug)]
pub(crate) struct Piece {
    head: &'static [u8],
    body: Bytes,
    tail: &'static [u8],
}

/// The body of any response, which also keeps its connection counted as busy.
pub(crate) struct AgentBody {
    kind: Kind,
    busy: Option<Busy>,
}

enum Kind {
    Done,
    Full(Bytes),
    Stream(Box<EventStream>),
}

struct EventStream {
    reader: Reader,
    first: Option<Bytes>,
    quiet: Duration,
    last: Instant,
    ping: Pin<Box<Sleep>>,
}

impl AgentBody {
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Done, busy: None }
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self { kind: if bytes.is_empty() { Kind::Done } else { Kind::Full(bytes) }, busy: None }
    }

    /// Events as they come, `first` (already in SSE form) before all of them, a comment after each `quiet` silence.
    pub(crate) fn stream(reader: Reader, first: Option<Bytes>, quiet: Duration) -> Self {
        let last = Instant::now();
        let ping = Box::pin(tokio::time::sleep_until(last + quiet));
        Self { kind: Kind::Stream(Box::new(EventStream { reader, first, quiet, last, ping })), busy: None }
    }

    pub(crate) fn holding(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }
}

impl EventStream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Piece::raw(first)));
        }
        if let Poll::Ready(next) = self.reader.poll_next(cx) {
            self.last = Instant::now();
            return Poll::Ready(next.map(Piece::event));
        }
        loop {
            ready!(self.ping.as_mut().poll(cx));
            let due = self.last + self.quiet;
            let now = Instant::now();
            if due <= now {
                self.last = now;
                self.ping.as_mut().reset(now + self.quiet);
                return Poll::Ready(Some(Piece::raw(Bytes::from_static(b": ping\n\n"))));
            }
            // Armed once per silence, not once per event.
            self.ping.as_mut().reset(due);
        }
    }
}

impl Body for AgentBody {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let this = self.get_mut();
        let piece = match std::mem::replace(&mut this.kind, Kind::Done) {
            Kind::Done => None,
            Kind::Full(bytes) => Some(Piece::raw(bytes)),
            Kind::Stream(mut stream) => match stream.poll_piece(cx) {
                Poll::Ready(None) => None,
                Poll::Ready(Some(piece)) => {
                    this.kind = Kind::Stream(stream);
                    Some(piece)
                }
                Poll::Pending => {
                    this.kind = Kind::Stream(stream);
                    return Poll::Pending;
                }
            },
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

impl Piece {
    fn raw(body: Bytes) -> Self {
        Self { head: b"", body, tail: b"" }
    }

    /// One `message` event. The payload must be one line ([`one_line`]).
    fn event(body: Bytes) -> Self {
        Self { head: b"event: message\ndata: ", body, tail: b"\n\n" }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.head.len() + self.body.len() + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        [self.head, &self.body, self.tail].into_iter().find(|part| !part.is_empty()).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        let head = count.min(self.head.len());
        self.head = &self.head[head..];
        let body = (count - head).min(self.body.len());
        self.body.advance(body);
        self.tail = &self.tail[count - head - body..];
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [std::io::IoSlice<'a>]) -> usize {
        let parts = [self.head, &self.body, self.tail];
        let mut filled = 0;
        for (slot, part) in to.iter_mut().zip(parts.into_iter().filter(|part| !part.is_empty())) {
            *slot = std::io::IoSlice::new(part);
            filled += 1;
        }
        filled
    }
}

/// The same JSON without raw line breaks, which would end the event. Between tokens they are only space, and inside
/// strings JSON has none.
pub(crate) fn one_line(json: Bytes) -> Bytes {
    if !json.contains(&b'\n') && !json.contains(&b'\r') {
        return json;
    }
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

/// The first event of an HTTP+SSE stream: where to POST, relative to the URL of the stream, so that it survives any
/// path prefix. Its id comes back as `Last-Event-ID` when the agent reconnects.
pub(crate) fn endpoint_event(session: &str) -> Bytes {
    Bytes::from(format!("event: endpoint\nid: {session}\ndata: ?session_id={session}\n\n"))
}

#[cfg(test)]
#[path = "sse_body_tests.rs"]
mod tests;
