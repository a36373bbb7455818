//! Interim answers (1xx) to one request: hints and signs of life, bounded in number and bytes, because a peer can send
//! them for ever without answering.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Context,
};

use futures::task::AtomicWaker;

/// Interim answers to one request: one in ten seconds for the longest of calls, and more.
const MAX_NUMBER: usize = 1000;
const MAX_BYTES: usize = 256 * 1024;

/// Count of the interim answers to one request.
#[derive(Debug, Default)]
pub(super) struct Interim {
    number: AtomicUsize,
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Interim {
    /// Counts one answer.
    pub(super) fn count(&self, answer: &http::HeaderMap) {
        let bytes = answer.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        self.number.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.are_too_many() {
            self.waker.wake();
        }
    }

    fn are_too_many(&self) -> bool {
        self.number.load(Ordering::Relaxed) > MAX_NUMBER || self.bytes.load(Ordering::Relaxed) > MAX_BYTES
    }

    /// The reason to give up the request once there were too many. Wakes this task when there are.
    pub(super) fn exceeded(&self, cx: &Context<'_>) -> Option<String> {
        self.waker.register(cx.waker());
        self.are_too_many().then(|| {
            format!(
                "more than {MAX_NUMBER} interim (1xx) answers or {} KiB of them came instead of an answer",
                MAX_BYTES / 1024
            )
        })
    }
}
