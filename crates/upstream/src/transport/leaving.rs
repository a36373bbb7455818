//! Progress of an exchange before its first message. Until its message has a connection nothing was sent, so a call that
//! is given up by then was not executed. Bytes of the answer prove that the backend is alive, however slow they are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::stream;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};

use super::{Exchange, Received, interim::Interim};

/// Shared progress: whether the message may have been sent, and whether bytes of its answer arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    has_left: AtomicBool,
    has_bytes: AtomicBool,
    interim: Interim,
}

impl Left {
    /// Watches a request: counts its interim answers, and returns the handle that tells whether it has a connection.
    pub(super) fn watch<B>(&self, request: &mut http::Request<B>) -> CaptureConnection {
        let progress = Arc::clone(&self.0);
        hyper::ext::on_informational(request, move |answer| progress.interim.count(answer.headers()));
        capture_connection(request)
    }

    /// The reason to give up the request if too many interim answers came.
    pub(super) fn exceeded(&self, cx: &Context<'_>) -> Option<String> {
        self.0.interim.exceeded(cx)
    }

    /// Notes whether the request has a connection. Call it in the poll that may have given it one.
    pub(super) fn look(&self, connection: &CaptureConnection) {
        if connection.connection_metadata().is_some() {
            self.0.has_left.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that bytes of the answer arrived.
    pub(super) fn bytes_arrived(&self) {
        self.0.has_bytes.store(true, Ordering::Relaxed);
    }
}

/// Wraps an exchange: it yields [`Received::Left`] in the poll in which its message got a connection, and
/// [`Received::Alive`] in each poll in which bytes of an incomplete answer arrived. `Left` stands in place of `Pending`:
/// the task is registered, so there is no need to poll again.
pub(super) fn leaving(exchange: impl FnOnce(Left) -> Exchange) -> Exchange {
    let left = Left::default();
    let (mut exchange, mut is_told) = (exchange(left.clone()), false);
    Box::pin(stream::poll_fn(move |cx| match exchange.as_mut().poll_next(cx) {
        Poll::Pending if !is_told && left.0.has_left.load(Ordering::Relaxed) => {
            is_told = true;
            Poll::Ready(Some(Ok(Received::Left)))
        }
        Poll::Pending if left.0.has_bytes.swap(false, Ordering::Relaxed) => {
            Poll::Ready(Some(Ok(Received::Alive)))
        }
        polled => polled,
    }))
}
