//! Panic boundary: a panic ends the task it happened in and nothing else, and is reported with the name of that task.

use std::{any::Any, future::Future, ops::Deref, panic::AssertUnwindSafe};

use futures::FutureExt as _;

use crate::{observe::FrontEvent, shared::Common};

/// Runs a task to its end. `None` if it panicked; what the task held is dropped then. No `async fn`, which would have
/// room for the task twice: every connection and every stream has one of these.
pub(crate) fn catch_panic<T>(
    common: impl Deref<Target = Common>,
    task: &'static str,
    run: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    AssertUnwindSafe(run).catch_unwind().map(move |end| match end {
        Ok(end) => Some(end),
        Err(payload) => {
            common.emit(&FrontEvent::Panicked { task, why: panic_message(payload.as_ref()) });
            None
        }
    })
}

/// The text of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
