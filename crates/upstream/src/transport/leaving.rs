//! Whether a message has left. Until there is a connection for it nothing was sent, and whoever gives it up by then may
//! say so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures::stream;
use hyper_util::client::legacy::connect::CaptureConnection;

use super::{Exchange, Received};

/// Whether a message may be on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Left(Arc<AtomicBool>);

impl Left {
    /// Looks whether the request has a connection. To be asked in the poll that may have given it one.
    pub(super) fn look(&self, connection: &CaptureConnection) {
        if connection.connection_metadata().is_some() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn has(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An exchange that says [`Received::Left`] in the poll in which its message got a connection.
pub(super) fn leaving(exchange: impl FnOnce(Left) -> Exchange) -> Exchange {
    let left = Left::default();
    let (mut exchange, mut is_told) = (exchange(left.clone()), false);
    Box::pin(stream::poll_fn(move |cx| match exchange.as_mut().poll_next(cx) {
        Poll::Pending if !is_told && left.has() => {
            is_told = true;
            Poll::Ready(Some(Ok(Received::Left)))
        }
        polled => polled,
    }))
}
