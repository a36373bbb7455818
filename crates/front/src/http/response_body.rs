//! Response bodies. The body of a stream only drains its outbox: it never runs a call, so a peer that does not read
//! stops only itself.
//!
//! An event is three slices handed to hyper as one buffer, so a payload of any size is written without a copy. A stream
//! that ends because its connection stalled drops what is queued for it.

use std::{
    convert::Infallible,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::stream::{
    connection::{RequestInFlight, Unwritten},
    event::{Event, EventId},
    outbox::{Next, Reader},
};

/// Room for the longest head of an event: two numbers of 10 and 20 digits and the text around them.
const HEAD: usize = 64;

/// One chunk: a payload between a short head and a fixed tail.
pub(crate) struct BodyChunk {
    head: [u8; HEAD],
    /// The part of the head that is not written yet.
    from: u8,
    to: u8,
    body: Bytes,
    tail: &'static [u8],
    /// Counts the payload until it is written.
    unwritten: Option<Unwritten>,
}

/// The body of any response; it also keeps its connection counted as busy.
pub(crate) struct AgentBody {
    source: BodySource,
    in_flight: Option<RequestInFlight>,
}

enum BodySource {
    Done,
    Full(Bytes),
    /// Several chunks, their total length, and the charge of those that wait.
    Many(std::vec::IntoIter<Bytes>, u64, Unwritten),
    Stream(Box<EventStream>),
}

struct EventStream {
    reader: Reader,
    first: Option<Bytes>,
    quiet: Duration,
    /// Time between two pings; shorter for a while if it is in doubt whether the peer is still there.
    pause: Duration,
    in_doubt: bool,
    last: Instant,
    ping: Pin<Box<Sleep>>,
}

/// Time until a peer that ended its side is written to again. A peer that has gone refuses the first ping, and that
/// shows at the next.
const DOUBT: Duration = Duration::from_millis(50);
const PING: &[u8] = b": ping\n\n";

impl AgentBody {
    pub(crate) fn empty() -> Self {
        Self { source: BodySource::Done, in_flight: None }
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self {
            source: if bytes.is_empty() { BodySource::Done } else { BodySource::Full(bytes) },
            in_flight: None,
        }
    }

    /// JSON texts as one array.
    pub(crate) fn array(texts: Vec<Bytes>, unwritten: Unwritten) -> Self {
        let mut chunks = Vec::with_capacity(2 * texts.len() + 1);
        for text in texts {
            chunks.push(Bytes::from_static(if chunks.is_empty() { b"[" } else { b"," }));
            chunks.push(text);
        }
        chunks.push(Bytes::from_static(b"]"));
        let length = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { source: BodySource::Many(chunks.into_iter(), length, unwritten), in_flight: None }
    }

    /// Events of a reader; `first` (already in SSE form) precedes them, and a comment follows each `quiet` silence.
    pub(crate) fn stream(reader: Reader, first: Option<Bytes>, quiet: Duration) -> Self {
        let last = Instant::now();
        let ping = Box::pin(tokio::time::sleep_until(last + quiet));
        let stream = EventStream { reader, first, quiet, pause: quiet, in_doubt: false, last, ping };
        Self { source: BodySource::Stream(Box::new(stream)), in_flight: None }
    }

    pub(crate) fn holding(mut self, in_flight: RequestInFlight) -> Self {
        if let BodySource::Stream(stream) = &self.source {
            stream.reader.over(in_flight.connection());
            in_flight.connection().watch(None);
        }
        self.in_flight = Some(in_flight);
        self
    }
}

impl EventStream {
    fn poll_chunk(&mut self, has_half_closed: bool, cx: &mut Context<'_>) -> Poll<Option<BodyChunk>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(BodyChunk::raw(first)));
        }
        if let Poll::Ready(next) = self.reader.poll_next(cx) {
            self.last = Instant::now();
            return Poll::Ready(next.map(|next| match next {
                Next::Event(event) => BodyChunk::event(&event),
                Next::BackIn(wait) => BodyChunk::raw(retry_field(wait)),
            }));
        }
        if has_half_closed && !self.in_doubt {
            self.in_doubt = true;
            self.pause = DOUBT.min(self.quiet);
            return Poll::Ready(Some(self.say_ping()));
        }
        loop {
            ready!(self.ping.as_mut().poll(cx));
            let due = self.last + self.pause;
            if due <= Instant::now() {
                self.pause = (self.pause * 2).min(self.quiet);
                return Poll::Ready(Some(self.say_ping()));
            }
            // Armed once per silence, not once per event.
            self.ping.as_mut().reset(due);
        }
    }

    fn say_ping(&mut self) -> BodyChunk {
        self.last = Instant::now();
        self.ping.as_mut().reset(self.last + self.pause);
        BodyChunk::raw(Bytes::from_static(PING))
    }
}

impl Drop for AgentBody {
    fn drop(&mut self) {
        if let BodySource::Stream(stream) = &self.source
            && self.in_flight.as_ref().is_some_and(RequestInFlight::has_stalled)
        {
            stream.reader.give_up();
        }
    }
}

impl Body for AgentBody {
    type Data = BodyChunk;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyChunk>, Infallible>>> {
        let this = self.get_mut();
        let has_half_closed =
            this.in_flight.as_ref().is_some_and(|in_flight| in_flight.connection().has_half_closed());
        let chunk = match std::mem::replace(&mut this.source, BodySource::Done) {
            BodySource::Done => None,
            BodySource::Full(bytes) => Some(BodyChunk::raw(bytes)),
            BodySource::Many(mut chunks, length, mut unwritten) => {
                let chunk = chunks.next();
                let size = chunk.as_ref().map_or(0, Bytes::len);
                unwritten.less(size);
                let left = length - size as u64;
                if left > 0 {
                    this.source = BodySource::Many(chunks, left, unwritten);
                }
                chunk.map(BodyChunk::raw)
            }
            BodySource::Stream(mut stream) => match stream.poll_chunk(has_half_closed, cx) {
                Poll::Ready(None) => None,
                Poll::Ready(Some(chunk)) => {
                    this.source = BodySource::Stream(stream);
                    Some(chunk)
                }
                Poll::Pending => {
                    this.source = BodySource::Stream(stream);
                    return Poll::Pending;
                }
            },
        };
        let in_flight = this.in_flight.as_ref();
        Poll::Ready(chunk.map(|mut chunk| {
            chunk.unwritten = in_flight.and_then(|in_flight| in_flight.writing(chunk.body.len()));
            Ok(Frame::data(chunk))
        }))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, BodySource::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Done => SizeHint::with_exact(0),
            BodySource::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodySource::Many(_, length, _) => SizeHint::with_exact(*length),
            BodySource::Stream(_) => SizeHint::default(),
        }
    }
}

impl BodyChunk {
    fn raw(body: Bytes) -> Self {
        Self { head: [0; HEAD], from: 0, to: 0, body, tail: b"", unwritten: None }
    }

    /// One `message` event. The payload must be one line ([`one_line`](crate::stream::event::one_line)).
    fn event(event: &Event) -> Self {
        let mut head = [0; HEAD];
        let mut rest = head.as_mut_slice();
        // Cannot fail: the head has room for the longest numbers.
        let _ = match &event.id {
            Some(id) => write!(rest, "id: {id}\nevent: message\ndata: "),
            None => rest.write_all(b"event: message\ndata: "),
        };
        let to = u8::try_from(HEAD - rest.len()).unwrap_or_default();
        Self { head, from: 0, to, body: event.bytes.clone(), tail: b"\n\n", unwritten: None }
    }

    fn parts(&self) -> [&[u8]; 3] {
        let head = self.head.get(usize::from(self.from)..usize::from(self.to)).unwrap_or_default();
        [head, &self.body, self.tail]
    }
}

impl Buf for BodyChunk {
    fn remaining(&self) -> usize {
        self.parts().into_iter().map(<[u8]>::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.parts().into_iter().find(|part| !part.is_empty()).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        let head = count.min(usize::from(self.to - self.from));
        self.from += u8::try_from(head).unwrap_or_default();
        let body = (count - head).min(self.body.len());
        self.body.advance(body);
        self.tail = &self.tail[count - head - body..];
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, part) in to.iter_mut().zip(self.parts().into_iter().filter(|part| !part.is_empty())) {
            *slot = std::io::IoSlice::new(part);
            filled += 1;
        }
        filled
    }
}

/// The first event of an HTTP+SSE stream: the URL to POST to, relative to that of the stream, so that it survives any
/// path prefix. Its id returns as `Last-Event-ID` when the agent reconnects.
pub(crate) fn endpoint_event(session: &str) -> Bytes {
    Bytes::from(format!("event: endpoint\nid: {session}\ndata: ?session_id={session}\n\n"))
}

/// The priming event (2025-11-25): where and when to resume the stream, should it break before the first message. Older
/// agents fail on its empty data.
pub(crate) fn priming_event(id: EventId, retry: Duration) -> Bytes {
    Bytes::from(format!("id: {id}\nretry: {}\ndata: \n\n", retry.as_millis()))
}

/// The `retry` field (2025-11-25): when to resume a stream that is ended early.
fn retry_field(wait: Duration) -> Bytes {
    Bytes::from(format!("retry: {}\n\n", wait.as_millis()))
}

#[cfg(test)]
mod tests;
