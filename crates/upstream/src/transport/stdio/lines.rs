//! Standard output, cut into messages: one line each, strict UTF-8, under a limit.
//!
//! The subtle thing: a line above the limit is not kept. Its bytes pass by up to the next line break, where reading
//! starts anew, so that memory stays bounded however long it is, and one giant does not cost the session.

use std::io;

use bytes::{Bytes, BytesMut};
use mcpool_wire::IdScanner;
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Room made for each read, bytes.
const CHUNK: usize = 64 * 1024;
/// Lines up to this size are checked to be JSON here, because what prints other things prints short ones. A longer
/// one that only looks like a message is noticed when it is routed.
const CHECKED: usize = 64 * 1024;
/// Characters of a line that is no message that are kept for the log.
const SHOWN: usize = 200;

/// A line.
pub(crate) enum Line {
    /// Looks like a message.
    Message(Bytes),
    /// Is none: this is what it begins with.
    Noise(String),
    /// Was above the limit.
    TooLarge(IdScanner),
    /// Is not complete: more of it was read.
    Part,
}

/// Cuts what it reads.
pub(crate) struct Lines<R> {
    from: R,
    limit: usize,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line break.
    scanned: usize,
    skipping: Option<IdScanner>,
    /// Whether bytes were read that are not reported yet.
    is_fresh: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(from: R, limit: usize) -> Self {
        Self { from, limit, buffer: BytesMut::new(), scanned: 0, skipping: None, is_fresh: false }
    }

    /// The most bytes of a line.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The next line, or the news that more of it was read. `None` at the end; what came after the last line break is
    /// not a line.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(line) = self.cut() {
                if let Some(line) = line {
                    return Ok(Some(line));
                }
            }
            let is_partial = !self.buffer.is_empty() || self.skipping.is_some();
            if std::mem::take(&mut self.is_fresh) && is_partial {
                return Ok(Some(Line::Part));
            }
            self.buffer.reserve(CHUNK);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            self.is_fresh = true;
        }
    }

    /// Takes one line out of the buffer; `Some(None)` if it was blank.
    fn cut(&mut self) -> Option<Option<Line>> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', fresh) else {
            self.scanned = self.buffer.len();
            self.shed();
            return None;
        };
        let line = self.buffer.split_to(self.scanned + at + 1).freeze();
        self.scanned = 0;
        if self.skipping.is_none() && line.len() > self.limit {
            self.skipping = Some(IdScanner::default());
        }
        Some(match self.skipping.take() {
            Some(mut seen) => {
                seen.feed(&line);
                Some(Line::TooLarge(seen))
            }
            None => judge(&line),
        })
    }

    /// Lets an unfinished line go that is above the limit already.
    fn shed(&mut self) {
        if self.skipping.is_none() && self.buffer.len() <= self.limit {
            return;
        }
        self.skipping.get_or_insert_default().feed(&self.buffer);
        // Not merely emptied: it has grown to the size of the limit.
        self.buffer = BytesMut::new();
        self.scanned = 0;
    }

    /// Bytes it holds, for tests of its bound.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        self.buffer.capacity()
    }
}

fn judge(line: &Bytes) -> Option<Line> {
    // Some write a byte order mark at the beginning of what they say.
    let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if text.is_empty() {
        return None;
    }
    let looks = matches!(text.first(), Some(b'{' | b'[')) && std::str::from_utf8(text).is_ok();
    let is_json = || text.len() > CHECKED || serde_json::from_slice::<IgnoredAny>(text).is_ok();
    if looks && is_json() {
        return Some(Line::Message(line.slice_ref(text)));
    }
    let begin = text.get(..SHOWN).unwrap_or(text);
    Some(Line::Noise(String::from_utf8_lossy(begin).escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(limit: usize, chunks: &[&[u8]]) -> Vec<String> {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        for chunk in chunks {
            theirs.write_all(chunk).await.unwrap();
        }
        drop(theirs);
        let mut lines = Lines::new(ours, limit);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            seen.push(match line {
                Line::Message(message) => String::from_utf8(message.to_vec()).unwrap(),
                Line::Noise(text) => format!("noise {text}"),
                Line::TooLarge(seen) => format!("too large {:?}", seen.answers()),
                Line::Part => continue,
            });
        }
        seen
    }

    #[tokio::test]
    async fn a_line_is_a_message_whatever_the_chunks() {
        let seen = read(100, &[b"{\"a\":", b"1}\r\n\n  {\"b\":\"\xc3", b"\xa4\"}\n{\"cut\":1}"]).await;
        assert_eq!(seen, ["{\"a\":1}", "{\"b\":\"ä\"}"]);
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_passed_over() {
        assert_eq!(read(100, &[b"\xef\xbb\xbf{\"a\":1}\n{}\n"]).await, ["{\"a\":1}", "{}"]);
    }

    #[tokio::test]
    async fn what_is_no_message_is_noise() {
        let seen = read(100, &[b"Server running\n{not json}\n{\"a\":\"\xff\"}\n\"text\"\n{}\n"]).await;
        let noise = ["noise Server running", "noise {not json}", "noise {\\\"a\\\":\\\"\u{fffd}\\\"}"];
        assert_eq!(seen[..3], noise);
        assert_eq!(seen[3..], ["noise \\\"text\\\"", "{}"]);
    }

    #[tokio::test]
    async fn a_line_above_the_limit_is_skipped_and_reading_goes_on_behind_it() {
        let large = format!("{{\"result\":\"{}\",\"id\":7}}\n", "x".repeat(200_000));
        let seen = read(100_000, &[b"{\"a\":1}\n", large.as_bytes(), b"{\"b\":1}\n"]).await;
        assert_eq!(seen, ["{\"a\":1}", "too large [7]", "{\"b\":1}"]);
        // Also one that lies in one piece in the buffer.
        assert_eq!(read(9, &[b"{\"id\":7,\"result\":1}\n{}\n"]).await, ["too large [7]", "{}"]);
    }

    #[tokio::test]
    async fn what_is_read_of_a_line_is_reported_before_its_end() {
        let (mut theirs, ours) = tokio::io::duplex(CHUNK);
        let mut lines = Lines::new(ours, 100);
        for (written, is_part) in [("\n\n", false), ("{}\n{\"a\"", true), (":1", true), ("}\n", false)] {
            theirs.write_all(written.as_bytes()).await.unwrap();
            let mut parts = 0;
            while let Some(line) = lines.next().now_or_never() {
                parts += usize::from(matches!(line, Ok(Some(Line::Part))));
            }
            assert_eq!(parts, usize::from(is_part), "{written:?}");
        }
        // Also of one that is skipped.
        theirs.write_all(&[b'x'; 200]).await.unwrap();
        assert!(matches!(lines.next().await, Ok(Some(Line::Part))));
    }

    #[tokio::test]
    async fn memory_stays_bounded_while_a_line_does_not_end() {
        let (mut theirs, ours) = tokio::io::duplex(CHUNK);
        let mut lines = Lines::new(ours, 1 << 20);
        let flood = async {
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..256 {
                theirs.write_all(&chunk).await.unwrap();
            }
        };
        let reading = async { while let Ok(Some(Line::Part)) = lines.next().await {} };
        tokio::select! {
            () = reading => panic!("there is no line"),
            () = flood => {}
        }
        assert!(lines.held() <= 4 << 20, "{}", lines.held());
    }
}
