//! The boundary of a panic: it ends the task it happened in, is told with the task's name, and ends nothing else.

use std::{any::Any, future::Future, panic::AssertUnwindSafe};

use futures::FutureExt as _;

use crate::{observe::FrontEvent, shared::Common};

/// Runs a task to its end, or to its panic: then nothing is given back, and what the task held was dropped.
pub(crate) async fn unharmed<T>(
    common: &Common,
    task: &'static str,
    run: impl Future<Output = T>,
) -> Option<T> {
    match AssertUnwindSafe(run).catch_unwind().await {
        Ok(end) => Some(end),
        Err(payload) => {
            common.emit(&FrontEvent::Panicked { task, why: said(payload.as_ref()) });
            None
        }
    }
}

/// What a panic said.
pub(crate) fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
