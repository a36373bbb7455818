//! A stream of the items that a running future emits: no task; it runs when the stream is polled, and ends when it is
//! dropped.

use std::{pin::Pin, task::Poll};

use futures::{FutureExt as _, Stream, stream};
use tokio::sync::mpsc;

use super::super::Received;
use crate::error::SendError;

/// The emitter of a running future.
pub(super) struct Emitter<T>(mpsc::Sender<Result<T, SendError>>);

impl<T> Emitter<T> {
    /// Emits one item and waits until it is taken.
    pub(super) async fn say(&self, item: T) {
        let _ = self.0.send(Ok(item)).await;
    }

    /// Emits the error that ends the stream.
    pub(super) async fn fail(&self, error: SendError) {
        let _ = self.0.send(Err(error)).await;
    }
}

impl Emitter<Received> {
    pub(super) async fn finish(&self, outcome: Result<bytes::Bytes, SendError>) {
        match outcome {
            Ok(answer) => self.say(Received::Message(answer)).await,
            Err(error) => self.fail(error).await,
        }
    }
}

/// The stream of the items that `run` emits.
pub(super) fn told<T, F>(
    run: impl FnOnce(Emitter<T>) -> F,
) -> Pin<Box<dyn Stream<Item = Result<T, SendError>> + Send>>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // Capacity one: an item is taken in the same poll.
    let (tx, mut rx) = mpsc::channel(1);
    let mut running = Some(run(Emitter(tx)).boxed());
    Box::pin(stream::poll_fn(move |cx| {
        loop {
            if let Poll::Ready(item) = rx.poll_recv(cx) {
                return Poll::Ready(item);
            }
            let Some(future) = &mut running else { return Poll::Pending };
            if future.poll_unpin(cx).is_ready() {
                running = None;
            } else if rx.is_empty() {
                return Poll::Pending;
            }
        }
    }))
}
