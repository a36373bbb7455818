//! Finds out which transport a backend speaks: Streamable HTTP by `initialize`, then HTTP+SSE.
//!
//! Settled by the first success and remembered for the backend, so that later sessions go straight; forgotten when
//! the backend says that this is no longer its transport. A timeout or a broken connection never decides anything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::{FutureExt, future::BoxFuture};

use super::{Hail, Opened, Transport, TransportKind};
use crate::error::{Cause, Refusal, SendError};

/// Tries both HTTP transports, the one that worked last first.
pub(super) struct Auto {
    streamable: Arc<dyn Transport>,
    sse: Arc<dyn Transport>,
    /// Whether the last success was HTTP+SSE. One flag, no order with anything else.
    sse_first: Arc<AtomicBool>,
}

impl Auto {
    pub(super) fn new(streamable: Arc<dyn Transport>, sse: Arc<dyn Transport>) -> Self {
        Self { streamable, sse, sse_first: Arc::new(AtomicBool::new(false)) }
    }
}

impl Transport for Auto {
    fn connect(&self, hail: Hail) -> BoxFuture<'static, Result<Opened, SendError>> {
        let learned = Arc::clone(&self.sse_first);
        let mut order = [Arc::clone(&self.streamable), Arc::clone(&self.sse)];
        if learned.load(Ordering::Relaxed) {
            order.reverse();
        }
        async move {
            let [first, second] = order;
            let opened = match first.connect(hail.clone()).await {
                Err(SendError { cause: Cause::WrongTransport(refusal), .. }) => {
                    second.connect(hail).await.map_err(|error| neither(&refusal, error))
                }
                decided => decided,
            }?;
            learned.store(opened.kind == TransportKind::Sse, Ordering::Relaxed);
            Ok(opened)
        }
        .boxed()
    }
}

/// When both are refused, the reader needs both answers.
fn neither(first: &Refusal, second: SendError) -> SendError {
    match second.cause {
        Cause::WrongTransport(second) => {
            let message = format!("neither transport is spoken here ({first}; then {second})");
            SendError::refused(Cause::WrongTransport(Refusal { message, ..second }))
        }
        cause => SendError { cause, ..second },
    }
}
