//! Sends that the driver of a session makes for others, and its last ones.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
};
use mcpool_wire::Era;

use super::{Session, route::Origin, state::Standing};
use crate::{
    error::{Cause, SendPhase},
    kinds::TransportKind,
    transport::{Exchange, FAREWELL, Received},
};

/// Result of a send.
pub(super) enum Sent {
    Nothing,
    Probe(bool, Instant),
}

/// Sends that the driver makes for others, in its set of futures.
pub(crate) enum Errand {
    /// Sends a message without waiting for a result.
    Send(Bytes),
    /// Reads the rest of an answered exchange, so that its connection is reusable.
    Finish(Exchange),
    /// Cancels a call: notifies the backend once it has the call, and reads the rest.
    Abandon { id: u64, exchange: Option<Exchange>, accepted: bool },
}

/// Ends a session, also after a failed driver: each waiting call fails once, and its place is released.
pub(crate) async fn end(session: &Session, cause: &Cause, farewell: Option<std::time::Duration>) {
    session.publish(Standing::Closed);
    let unanswered = session.pending.close(cause);
    session.queue.session_gone(session.lane);
    // Bounded: a dead backend must not delay the end.
    if let Some(limit) = farewell {
        let limit = if session.kind == TransportKind::Stdio { FAREWELL } else { limit };
        let _ = tokio::time::timeout(limit / 2, cancel_all(session, unanswered)).await;
        let _ = tokio::time::timeout(limit, session.outbound.close()).await;
    }
    session.leave_budget();
}

/// Cancels these calls at the backend, which may otherwise run them beyond the session.
async fn cancel_all(session: &Session, unanswered: Vec<u64>) {
    if session.era == Era::Modern {
        // In the modern era, closing the exchange cancels the call.
        return;
    }
    let cancels = unanswered.into_iter().map(|id| async move {
        let mut cancel = session.outbound.tell(cancellation(id, "the session ends"));
        // Accepted or failed: nothing more to send.
        let _ = cancel.next().await;
    });
    futures::stream::iter(cancels).buffer_unordered(CANCELS_AT_ONCE).for_each(|()| async {}).await;
}

pub(super) fn cancellation(id: u64, reason: &str) -> Bytes {
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\
         \"reason\":\"{reason}\"}}}}"
    ))
}

/// Maximum number of concurrent cancellations when a session ends.
const CANCELS_AT_ONCE: usize = 32;

/// Reads an exchange without a caller to its end, bounded, and routes its messages.
pub(super) fn read_out(
    session: Arc<Session>,
    mut exchange: Exchange,
    limit: std::time::Duration,
) -> BoxFuture<'static, Sent> {
    let read = async move {
        while let Some(item) = exchange.next().await {
            match item {
                Ok(Received::Message(bytes)) => {
                    session.route(bytes, Origin::Stream);
                }
                Ok(Received::TooLarge { answers, limit }) => session.route_too_large(&answers, limit),
                Ok(Received::Left | Received::Accepted | Received::Alive | Received::Paused(_)) => {}
                Ok(Received::Elsewhere) => break,
                Err(_) => break,
            }
        }
    };
    async move {
        let _ = tokio::time::timeout(limit, read).await;
        Sent::Nothing
    }
    .boxed()
}

/// Maximum wait of a cancellation for a sign that the backend has its call. A server that answers with one JSON body
/// gives none before its response.
const OVERTAKING: std::time::Duration = std::time::Duration::from_secs(1);

/// Finishes a call without a caller. The cancellation is sent once the backend has or should have the call: one that
/// overtakes its call has no effect.
pub(super) fn abandon(
    session: Arc<Session>,
    id: u64,
    exchange: Option<Exchange>,
    accepted: bool,
    limit: std::time::Duration,
) -> BoxFuture<'static, Sent> {
    let give_up = async move {
        let mut exchange = exchange;
        if let Some(exchange) = exchange.as_mut().filter(|_| !accepted) {
            match tokio::time::timeout(OVERTAKING.min(limit / 4), exchange.next()).await {
                Ok(Some(Ok(Received::Message(bytes)))) => drop(session.route(bytes, Origin::Stream)),
                Ok(Some(Ok(Received::TooLarge { answers, limit }))) => {
                    session.route_too_large(&answers, limit)
                }
                Ok(
                    Some(Ok(
                        Received::Left
                        | Received::Accepted
                        | Received::Alive
                        | Received::Elsewhere
                        | Received::Paused(_),
                    ))
                    | None,
                )
                | Err(_) => {}
                Ok(Some(Err(error))) => {
                    if error.phase != SendPhase::MaybeSent {
                        // The backend never got the call, so there is nothing to wait for.
                        session.pending.remove(id);
                        return;
                    }
                }
            }
        }
        let cancel = session.outbound.tell(cancellation(id, "the caller is gone"));
        let told = session.clone();
        let cancelled = read_out(session.clone(), cancel, limit).map(|_| told.pending.mark_told(id));
        let rest = exchange.map(|exchange| read_out(session, exchange, limit));
        futures::join!(cancelled, OptionFuture::from(rest));
    };
    async move {
        let _ = tokio::time::timeout(limit, give_up).await;
        Sent::Nothing
    }
    .boxed()
}
