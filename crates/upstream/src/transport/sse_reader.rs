//! Reader of server-sent events in linear time and bounded space.
//!
//! eventsource-stream interprets the fields of an event and decides whether it is dispatched. Alone it panics on a byte
//! order mark, is quadratic in the size of an event, has no bound, and loses `retry:` and ids without data. This guard
//! therefore cuts the body into blocks (between blank lines) and gives the parser a *digest* of each.
//!
//! The data never passes through the parser: the digest has one placeholder `data:` line, and the event gets its data
//! as a slice of the block, so a large result is neither scanned by character nor copied.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use eventsource_stream::EventStream;
use futures::{FutureExt, Stream, StreamExt};
use mcpool_wire::IdScanner;
use memchr::{memchr, memchr2};
use tokio::runtime::Handle;

use self::skipped::Skipped;
use crate::offload::offload;

/// Maximum reconnection time that a server can set (SEMANTICS.md 12).
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Blocks read before other tasks get a turn: one chunk may hold 100,000 comments.
const BLOCKS: u16 = 256;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// An item of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SseItem {
    /// An event.
    Event(SseEvent),
    /// A comment, or part of an event: a sign of life.
    Alive,
    /// The reconnection time set by the server, at most 60 s.
    Retry(Duration),
}

/// One event. A priming event has an id and no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` field, unless it is absent or `message`.
    pub name: Option<String>,
    /// The `data:` lines, joined; always valid UTF-8.
    pub data: Bytes,
    /// The `id:`.
    pub id: Option<String>,
}

/// The reason of a failure. After `TooLarge` reading continues with the next event, after `Body` it ends.
#[derive(Debug, PartialEq, Eq)]
pub enum SseError<E> {
    /// An event larger than the limit was skipped.
    TooLarge {
        /// The limit in bytes.
        cap: usize,
        /// The requests it answered, if it was a response or an array of them.
        answers: Vec<u64>,
        /// True if it may have been a response, and not a request or notification.
        is_answer: bool,
    },
    /// The body broke.
    Body(E),
}

/// The events of a body. An incomplete event at its end is dropped, as the standard requires.
#[derive(Debug)]
pub struct SseReader<S> {
    body: S,
    cutter: Cutter,
    /// Received bytes, not cut yet.
    chunk: Bytes,
    /// The second item of the last block.
    next: Option<SseItem>,
    /// Blocks since the body was last empty, or other tasks had a turn.
    in_a_row: u16,
    /// True if the last chunk was reported as a sign of life, by any item.
    reported: bool,
}

impl<S> SseReader<S> {
    /// Reads `body`; an event may have up to `cap` bytes.
    pub fn new(body: S, cap: usize) -> Self {
        Self { body, cutter: Cutter::new(cap), chunk: Bytes::new(), next: None, in_a_row: 0, reported: true }
    }

    /// True within an incomplete event.
    pub(super) fn is_within_event(&self) -> bool {
        !self.cutter.held.is_empty() || self.cutter.skipping.is_some()
    }
}

impl<S, E> Stream for SseReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = Result<SseItem, SseError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.next.take() {
                return Poll::Ready(Some(Ok(item)));
            }
            this.in_a_row += 1;
            if this.in_a_row > BLOCKS {
                this.in_a_row = 0;
                // Without a runtime there are no other tasks.
                if Handle::try_current().is_ok() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            match this.cutter.cut(&mut this.chunk) {
                Cut::Block(block) => {
                    let (first, second) = offload(block.len(), || digest(&block));
                    this.next = second;
                    if let Some(item) = first {
                        this.reported = true;
                        return Poll::Ready(Some(Ok(item)));
                    }
                    continue;
                }
                Cut::TooLarge(seen) => {
                    let (answers, is_answer) = (seen.answers(), !seen.has_method());
                    let cap = this.cutter.cap;
                    return Poll::Ready(Some(Err(SseError::TooLarge { cap, answers, is_answer })));
                }
                Cut::More => {}
            }
            if !std::mem::replace(&mut this.reported, true) {
                return Poll::Ready(Some(Ok(SseItem::Alive)));
            }
            let polled = this.body.poll_next_unpin(cx);
            if polled.is_pending() {
                this.in_a_row = 0;
            }
            match std::task::ready!(polled) {
                Some(Ok(chunk)) => {
                    this.reported = chunk.is_empty();
                    this.chunk = chunk;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(SseError::Body(error)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Cuts chunks into blocks. Each byte is scanned once; a block within one chunk is not copied.
#[derive(Debug)]
struct Cutter {
    /// The start of an incomplete block.
    held: BytesMut,
    cap: usize,
    /// True if the current line has a byte.
    in_line: bool,
    /// True if the last byte was a CR: a following LF, maybe in the next chunk, belongs to the same line end. The CR
    /// has already ended the line, so an event closed by lone CRs is not delayed.
    after_cr: bool,
    /// The scan of a too large block that is being skipped.
    skipping: Option<Box<Skipped>>,
    /// True before the first block, which may begin with a byte order mark.
    at_start: bool,
    /// Scanned bytes, to prove linear time.
    #[cfg(test)]
    scanned: usize,
}

enum Cut {
    Block(Bytes),
    TooLarge(IdScanner),
    /// The chunk is used up.
    More,
}

impl Cutter {
    fn new(cap: usize) -> Self {
        Self {
            held: BytesMut::new(),
            cap,
            in_line: false,
            after_cr: false,
            skipping: None,
            at_start: true,
            #[cfg(test)]
            scanned: 0,
        }
    }

    fn cut(&mut self, chunk: &mut Bytes) -> Cut {
        while !chunk.is_empty() {
            let (end, complete) = self.find_end(chunk);
            let part = chunk.split_to(end);
            if self.skipping.is_none() && self.held.len() + part.len() > self.cap {
                let mut skipped = Skipped::default();
                skipped.feed(&std::mem::take(&mut self.held));
                self.skipping = Some(Box::new(skipped));
            }
            match &mut self.skipping {
                Some(skipped) => {
                    offload(part.len(), || skipped.feed(&part));
                    if let Some(skipped) = self.skipping.take_if(|_| complete) {
                        return Cut::TooLarge(skipped.seen);
                    }
                }
                None if complete => return Cut::Block(offload(self.held.len(), || self.take(part))),
                None => self.hold(&part),
            }
        }
        Cut::More
    }

    /// Stores part of a block. A full buffer doubles, which moves its content.
    fn hold(&mut self, part: &[u8]) {
        let len = self.held.len();
        if self.held.capacity() - len < part.len() {
            offload(len, || self.held.reserve(part.len().max(len)));
        }
        self.held.extend_from_slice(part);
    }

    /// The end of the current block in the chunk, or of the chunk.
    fn find_end(&mut self, chunk: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < chunk.len() {
            if std::mem::take(&mut self.after_cr) && chunk[at] == b'\n' {
                at += 1;
                continue;
            }
            let Some(line) = memchr2(b'\n', b'\r', &chunk[at..]) else {
                self.in_line = true;
                self.count(chunk.len() - at);
                break;
            };
            self.count(line + 1);
            self.after_cr = chunk[at + line] == b'\r';
            at += line + 1;
            if !std::mem::take(&mut self.in_line) && line == 0 {
                return (at, true);
            }
        }
        (chunk.len(), false)
    }

    fn take(&mut self, last: Bytes) -> Bytes {
        let mut block = if self.held.is_empty() {
            last
        } else {
            // Taken, not split off: a rare large event must not leave its buffer to every later one.
            let mut block = std::mem::take(&mut self.held);
            block.extend_from_slice(&last);
            block.freeze()
        };
        if std::mem::take(&mut self.at_start) && block.starts_with(BOM) {
            block.advance(BOM.len());
        }
        match std::str::from_utf8(&block) {
            Ok(_) => block,
            Err(_) => Bytes::from(String::from_utf8_lossy(&block).into_owned()),
        }
    }

    #[cfg_attr(not(test), allow(clippy::unused_self, reason = "counts in tests only"))]
    fn count(&mut self, _bytes: usize) {
        #[cfg(test)]
        {
            self.scanned += _bytes;
        }
    }
}

/// The fields of a block. The last id and name win, so one of each is enough.
#[derive(Default)]
struct Fields<'a> {
    name: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    data: Data<'a>,
    retry: Option<Duration>,
    has_comment: bool,
}

#[derive(Default)]
enum Data<'a> {
    #[default]
    None,
    Line(&'a [u8]),
    Lines(BytesMut),
}

impl<'a> Fields<'a> {
    fn of(block: &'a [u8]) -> Self {
        let mut fields = Self::default();
        let mut rest = block;
        while !rest.is_empty() {
            let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            fields.add(&rest[..end]);
            rest = &rest[(end + 1).min(rest.len())..];
        }
        fields
    }

    fn add(&mut self, line: &'a [u8]) {
        // A colon beyond the longest known name cannot matter, so the data is not searched.
        let colon = memchr(b':', &line[..line.len().min(6)]);
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" => self.has_comment |= colon.is_some(),
            b"event" => self.name = Some(value),
            // The standard ignores an id with NUL.
            b"id" if memchr(0, value).is_none() => self.id = Some(value),
            b"data" => self.data = std::mem::take(&mut self.data).with(value),
            b"retry" => self.retry = retry(value).or(self.retry),
            _ => {}
        }
    }
}

impl<'a> Data<'a> {
    fn with(self, line: &'a [u8]) -> Self {
        let mut lines = match self {
            Self::None => return Self::Line(line),
            Self::Line(first) => BytesMut::from(first),
            Self::Lines(lines) => lines,
        };
        lines.extend_from_slice(b"\n");
        lines.extend_from_slice(line);
        Self::Lines(lines)
    }

    fn of(self, block: &Bytes) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Line(line) => block.slice_ref(line),
            Self::Lines(lines) => lines.freeze(),
        }
    }
}

fn retry(value: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()))?;
    if digits.is_empty() {
        return None;
    }
    // Too many digits for a number are certainly above the maximum.
    Some(digits.parse().map_or(MAX_RETRY, Duration::from_millis).min(MAX_RETRY))
}

/// The content of a block: at most a reconnection time and an event.
fn digest(block: &Bytes) -> (Option<SseItem>, Option<SseItem>) {
    let fields = Fields::of(block);
    let retry = fields.retry.map(SseItem::Retry);
    let has_comment = fields.has_comment;
    let event = interpret(block, fields).map(SseItem::Event);
    match (retry, event) {
        (Some(retry), event) => (Some(retry), event),
        (None, Some(event)) => (Some(event), None),
        (None, None) => (has_comment.then_some(SseItem::Alive), None),
    }
}

fn interpret(block: &Bytes, fields: Fields<'_>) -> Option<SseEvent> {
    let mut text = Vec::with_capacity(64);
    for (key, value) in [("event:", fields.name), ("id:", fields.id)] {
        if let Some(value) = value {
            text.extend_from_slice(key.as_bytes());
            text.extend_from_slice(b" ");
            text.extend_from_slice(value);
            text.extend_from_slice(b"\n");
        }
    }
    // By the standard an id alone dispatches nothing, but it primes a resumable stream.
    if fields.id.is_some() || !matches!(fields.data, Data::None) {
        text.extend_from_slice(b"data:\n");
    }
    text.extend_from_slice(b"\n");
    let digest = futures::stream::iter([Ok::<_, Infallible>(text)]);
    let parsed = EventStream::new(digest).next().now_or_never().flatten()?.ok()?;
    Some(SseEvent {
        name: Some(parsed.event).filter(|name| name != "message"),
        data: fields.data.of(block),
        id: Some(parsed.id).filter(|id| !id.is_empty()),
    })
}

mod skipped;
#[cfg(test)]
mod tests;
