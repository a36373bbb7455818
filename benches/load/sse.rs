//! Cuts a response body into server-sent events, each byte looked at once.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::conn::{Conn, Framing};

/// One event: its name (empty for `message`) and its data.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field.
    pub name: String,
    /// The `data:` lines, joined.
    pub data: Bytes,
}

/// The events of one body.
#[derive(Debug)]
pub struct Events {
    framing: Framing,
    cutter: Cutter,
}

/// What was read and is not a whole event yet.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    pub(crate) buffer: BytesMut,
    scanned: usize,
}

impl Events {
    /// The events of a body framed this way.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, cutter: Cutter::default() }
    }

    /// The next event that has data, `None` at the end of the body.
    ///
    /// # Errors
    /// What the socket says, or what is wrong with the framing.
    pub async fn next(&mut self, conn: &mut Conn) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.cutter.cut() {
                return Ok(Some(event));
            }
            if !conn.body(&mut self.framing, &mut self.cutter.buffer).await? {
                return Ok(None);
            }
        }
    }

    /// Reads to the end of the body, so that the connection can be used again.
    ///
    /// # Errors
    /// See [`Events::next`].
    pub async fn finish(mut self, conn: &mut Conn) -> io::Result<()> {
        while self.next(conn).await?.is_some() {}
        Ok(())
    }
}

impl Cutter {
    /// The next whole event that has data.
    pub(crate) fn cut(&mut self) -> Option<Event> {
        while let Some(at) = memchr(b'\n', &self.buffer[self.scanned..]) {
            let line_end = self.scanned + at;
            let is_blank = match line_end {
                0 => true,
                _ => matches!(self.buffer[..line_end], [.., b'\n'] | [.., b'\n', b'\r'] | [b'\r']),
            };
            self.scanned = line_end + 1;
            if is_blank {
                let block = self.buffer.split_to(self.scanned).freeze();
                self.scanned = 0;
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            }
        }
        self.scanned = self.buffer.len();
        None
    }
}

fn parse(block: &Bytes) -> Option<Event> {
    let mut name = String::new();
    let mut data: Option<Bytes> = None;
    for line in block.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(value) = line.strip_prefix(b"event:") {
            name = String::from_utf8_lossy(value.trim_ascii()).into_owned();
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = block.slice_ref(value.strip_prefix(b" ").unwrap_or(value));
            data = Some(match data {
                None => value,
                Some(first) => first.chain(&b"\n"[..]).chain(value).copy_to_bytes_all(),
            });
        }
    }
    if name == "message" {
        name.clear();
    }
    Some(Event { name, data: data.filter(|data| !data.is_empty())? })
}

trait CopyAll: Buf + Sized {
    fn copy_to_bytes_all(mut self) -> Bytes {
        let length = self.remaining();
        self.copy_to_bytes(length)
    }
}

impl<B: Buf> CopyAll for B {}
