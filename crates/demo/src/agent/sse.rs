//! A tiny incremental reader of event streams: bytes in, events out, linear in the size of the stream.
//!
//! The subtle thing: the search for a line's end goes on where it stopped, and an event of one `data` line (all
//! MCP events) is handed out without a copy. Lone CR as a line end is not supported; no MCP peer sends it.

use bytes::{Bytes, BytesMut};

/// Bytes one line may have before the stream is given up.
const LINE: usize = 128 << 20;

/// One event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: Option<String>,
    pub(crate) data: Bytes,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
}

/// The reader of one stream.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    buffer: BytesMut,
    scanned: usize,
    event: Event,
    any: bool,
}

impl SseReader {
    /// Takes the next bytes. `false` when the stream must be given up.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> bool {
        self.buffer.extend_from_slice(chunk);
        self.buffer.len() <= LINE
    }

    /// The next complete event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let line = self.line()?;
            if !line.is_empty() {
                self.field(&line);
            } else if self.any {
                self.any = false;
                return Some(std::mem::take(&mut self.event));
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = self.scanned + at;
        self.scanned = 0;
        let line = self.buffer.split_to(end + 1).freeze();
        let end = if end > 0 && line[end - 1] == b'\r' { end - 1 } else { end };
        Some(line.slice(..end))
    }

    fn field(&mut self, line: &Bytes) {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let mut value = line.slice((colon + 1).min(line.len())..);
        if value.first() == Some(&b' ') {
            value = value.slice(1..);
        }
        let text = || String::from_utf8_lossy(&value).into_owned();
        match &line[..colon] {
            // a comment
            b"" => return,
            b"data" if self.event.data.is_empty() => self.event.data = value,
            b"data" => self.event.data = Bytes::from([&self.event.data[..], b"\n", &value].concat()),
            b"event" => self.event.name = Some(text()),
            b"id" => self.event.id = Some(text()),
            b"retry" => self.event.retry = text().parse().ok(),
            _ => return,
        }
        self.any = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Event> {
        let mut reader = SseReader::default();
        let mut events = Vec::new();
        for chunk in chunks {
            assert!(reader.push(chunk));
            while let Some(event) = reader.next() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_survive_any_cut() {
        let text = b": hi\r\n\r\nevent: endpoint\r\ndata: /m?x=1\r\n\r\nid: 7\nretry: 50\ndata:\n\ndata: a\ndata: b\n\n";
        let whole = all(&[text]);
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0].name.as_deref(), Some("endpoint"));
        assert_eq!(&whole[0].data[..], b"/m?x=1");
        assert_eq!((whole[1].id.as_deref(), whole[1].retry), (Some("7"), Some(50)));
        assert_eq!(&whole[2].data[..], b"a\nb");
        for cut in 1..text.len() {
            assert_eq!(all(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_its_blank_line_is_none() {
        assert!(all(&[b"data: half\n"]).is_empty());
    }
}
