//! Interim answers (1xx) to one request: hints and signs of life, bounded in number and bytes, because a peer can send
//! them for ever without answering.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Interim answers to one request: one in ten seconds for the longest of calls, and more.
const MAX_NUMBER: usize = 1000;
const MAX_BYTES: usize = 256 * 1024;

/// What came so far.
#[derive(Default)]
pub(super) struct Interim {
    number: AtomicUsize,
    bytes: AtomicUsize,
    exceeded: Notify,
}

impl Interim {
    /// Counts the interim answers to this request.
    pub(super) fn watch<B>(request: &mut http::Request<B>) -> Arc<Self> {
        let interim = Arc::new(Self::default());
        let counted = Arc::clone(&interim);
        hyper::ext::on_informational(request, move |answer| {
            let bytes =
                answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
            counted.count(bytes);
        });
        interim
    }

    fn count(&self, bytes: usize) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if number > MAX_NUMBER || bytes > MAX_BYTES {
            self.exceeded.notify_one();
        }
    }

    /// Resolves when there were too many.
    pub(super) async fn exceeded(&self) -> String {
        self.exceeded.notified().await;
        format!(
            "more than {MAX_NUMBER} interim (1xx) answers or {} KiB of them came instead of an answer",
            MAX_BYTES / 1024
        )
    }
}
