//! What is odd about a backend and bridged all the same: said once in the log, so that whoever runs it can mend it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// What was said of one backend.
pub(super) struct Notes {
    backend: Arc<str>,
    /// A bit for each oddity.
    said: AtomicU32,
}

/// What can be odd.
#[derive(Clone, Copy, Debug)]
pub(super) enum Oddity {
    /// Answers are compressed although that was not asked for.
    Coded,
    /// Cookies are set.
    Cookies,
    /// Requests are redirected.
    Redirected,
    /// A byte order mark stands before JSON.
    ByteOrderMark,
    /// Other events come before the one that names the endpoint.
    EventsBeforeEndpoint,
    /// A POST is answered as a GET would be.
    EndpointForPost,
    /// The version that was agreed on is refused in the header.
    Version,
    /// A message was above the limit.
    TooLarge,
    /// A call is taken without a body, and answered on the session's own stream.
    AnswerElsewhere,
}

impl Notes {
    pub(super) fn new(backend: Arc<str>) -> Self {
        Self { backend, said: AtomicU32::new(0) }
    }

    /// A message was not kept because of its size.
    pub(super) fn too_large(&self, limit: usize) {
        self.say(
            Oddity::TooLarge,
            format_args!("a message of the backend above `max_message` ({limit} bytes) was skipped"),
        );
    }

    /// Says it, the first time.
    pub(super) fn say(&self, oddity: Oddity, text: fmt::Arguments<'_>) {
        let bit = 1 << oddity as u32;
        if self.said.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            tracing::info!(target: "mcpool::backend", backend = %self.backend, "{text} (said once)");
        }
    }
}
