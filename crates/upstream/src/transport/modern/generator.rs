//! What a future tells while it runs, as a stream: no task, it moves when the stream is polled and ends when it is
//! dropped.

use std::{pin::Pin, task::Poll};

use futures::{FutureExt as _, Stream, stream};
use tokio::sync::mpsc;

use super::super::Received;
use crate::error::SendError;

/// Where a running future tells.
pub(super) struct Out<T>(mpsc::Sender<Result<T, SendError>>);

impl<T> Out<T> {
    /// Tells one thing. Waits until it is taken; whoever runs this takes it, or is gone with it.
    pub(super) async fn say(&self, item: T) {
        let _ = self.0.send(Ok(item)).await;
    }

    /// Tells why there is nothing more.
    pub(super) async fn fail(&self, error: SendError) {
        let _ = self.0.send(Err(error)).await;
    }
}

impl Out<Received> {
    pub(super) async fn finish(&self, outcome: Result<bytes::Bytes, SendError>) {
        match outcome {
            Ok(answer) => self.say(Received::Message(answer)).await,
            Err(error) => self.fail(error).await,
        }
    }
}

/// The stream of what `run` tells.
pub(super) fn told<T, F>(
    run: impl FnOnce(Out<T>) -> F,
) -> Pin<Box<dyn Stream<Item = Result<T, SendError>> + Send>>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    // One at a time: what is told is taken in the same poll.
    let (tx, mut rx) = mpsc::channel(1);
    let mut running = Some(run(Out(tx)).boxed());
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
