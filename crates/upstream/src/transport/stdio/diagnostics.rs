//! Standard error goes to the log, line by line. It is read whatever happens, because a full pipe stops the server;
//! what is too long is cut, and what is too much is counted.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::clock;

/// Bytes of a line that are logged.
const LONGEST: usize = 1024;
/// Lines logged in each period; the rest is counted.
const LINES: u32 = 50;
const PERIOD: Duration = Duration::from_secs(1);
const CHUNK: usize = 16 * 1024;

/// Cuts and thins out what it is fed.
#[derive(Default)]
pub(super) struct Cutter {
    line: Vec<u8>,
    /// Lines logged in this period, and those that were not.
    logged: u32,
    unlogged: u64,
}

/// Reads to the end.
pub(super) async fn drain(mut from: impl AsyncRead + Unpin, backend: Arc<str>, pid: u32) {
    let log = |line: &str| tracing::info!(target: "mcpool::backend", %backend, pid, line, "stderr");
    let count = |unlogged| {
        tracing::info!(target: "mcpool::backend", %backend, pid, unlogged, "more lines on stderr, not logged");
    };
    let mut cutter = Cutter::default();
    let mut chunk = vec![0; CHUNK];
    let mut period = clock::now();
    loop {
        // An error is an end: there is nobody to tell.
        let read = from.read(&mut chunk).await.unwrap_or(0);
        let now = clock::now();
        if read == 0 || now.saturating_duration_since(period) >= PERIOD {
            period = now;
            let unlogged = cutter.renew();
            if unlogged > 0 {
                count(unlogged);
            }
        }
        if read == 0 {
            return cutter.end(log);
        }
        cutter.feed(chunk.get(..read).unwrap_or_default(), log);
    }
}

impl Cutter {
    fn feed(&mut self, bytes: &[u8], mut log: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LONGEST.saturating_sub(self.line.len());
            self.line.extend_from_slice(text.get(..room).unwrap_or(text));
            if ends {
                self.end(&mut log);
            }
        }
    }

    fn end(&mut self, mut log: impl FnMut(&str)) {
        let line = String::from_utf8_lossy(self.line.trim_ascii_end());
        if !line.is_empty() {
            if self.logged < LINES {
                self.logged += 1;
                log(&line);
            } else {
                self.unlogged += 1;
            }
        }
        self.line.clear();
    }

    /// A new period: how many lines of the last one were not logged.
    fn renew(&mut self) -> u64 {
        self.logged = 0;
        std::mem::take(&mut self.unlogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logged_whole_unless_they_are_long() {
        let (mut cutter, mut seen) = (Cutter::default(), Vec::new());
        let long = "y".repeat(5000);
        for chunk in ["one\ntw", "o\r\n\n", &long, &long, "\nlast"] {
            cutter.feed(chunk.as_bytes(), |line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["one", "two", &long[..LONGEST]]);
        cutter.end(|line| seen.push(line.to_owned()));
        assert_eq!(seen[3], "last");
    }

    #[test]
    fn a_flood_is_counted_instead_of_logged() {
        let (mut cutter, mut seen) = (Cutter::default(), 0);
        (0..1000).for_each(|_| cutter.feed(b"noise\n", |_| seen += 1));
        assert_eq!((seen, cutter.renew()), (LINES, 1000 - u64::from(LINES)));
        cutter.feed(b"again\n", |_| seen += 1);
        assert_eq!((seen, cutter.renew()), (LINES + 1, 0));
    }
}
