//! How far an exchange is before it says anything. Until there is a connection for its message nothing was sent, and
//! whoever gives it up by then may say so; once bytes of its answer arrive the backend is alive, however slowly they do.

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

/// Whether a message may be on its way, and whether bytes of its answer have arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    has_left: AtomicBool,
    has_bytes: AtomicBool,
    interim: Interim,
}

impl Left {
    /// Watches a request: counts its interim answers, and returns what tells whether it has a connection.
    pub(super) fn watch<B>(&self, request: &mut http::Request<B>) -> CaptureConnection {
        let progress = Arc::clone(&self.0);
        hyper::ext::on_informational(request, move |answer| progress.interim.count(answer.headers()));
        capture_connection(request)
    }

    /// The reason to give up the request if too many interim answers came.
    pub(super) fn exceeded(&self, cx: &Context<'_>) -> Option<String> {
        self.0.interim.exceeded(cx)
    }

    /// Looks whether the request has a connection. To be asked in the poll that may have given it one.
    pub(super) fn look(&self, connection: &CaptureConnection) {
        if connection.connection_metadata().is_some() {
            self.0.has_left.store(true, Ordering::Relaxed);
        }
    }

    /// Bytes of the answer have arrived.
    pub(super) fn bytes_arrived(&self) {
        self.0.has_bytes.store(true, Ordering::Relaxed);
    }
}

/// An exchange that says [`Received::Left`] in the poll in which its message got a connection, and
/// [`Received::Alive`] in each in which bytes of an answer arrived that is not complete. It says `Left` in place of
/// `Pending`: the task is registered, so that there is no need to poll again.
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
