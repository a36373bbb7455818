//! A message that arrives slowly on a stream all calls of a session share (HTTP+SSE, stdio). Whose answer it is shows at
//! its end; until then no other answer can come, so its bytes are a sign of life for every call that waits.

use std::time::{Duration, Instant};

use super::pending::Pending;
use crate::{clock, transport::Heard};

/// Messages that arrive within this time are no sign of life for calls they do not answer: else one call would never be
/// given up while others of its session are served.
const SLOW: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct Arriving {
    /// When the first part of a message arrived that is not complete.
    since: Option<Instant>,
}

impl Arriving {
    pub(super) fn heard(&mut self, heard: &Heard, pending: &Pending) {
        if *heard != Heard::Part {
            self.since = None;
            return;
        }
        let now = clock::now();
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= SLOW {
            pending.mark_part(now);
        }
    }
}
