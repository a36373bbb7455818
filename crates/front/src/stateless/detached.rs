//! Detached stateless calls: the owner of a call that answers as a stream or waits for its caller. It finds the
//! consumer through the call's output; without a consumer, and without one to wait for, it cancels the call.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Sleep;

use super::call_output::{CallOutput, OwnerStep};
use crate::call::InFlightCall;

pub(crate) struct DetachedStatelessCall {
    running: Option<InFlightCall>,
    output: Arc<CallOutput>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl DetachedStatelessCall {
    pub(super) fn new(running: Option<InFlightCall>, output: Arc<CallOutput>) -> Self {
        Self { running, output, expiry: None }
    }

    /// A function that ends the output if this task panics.
    pub(crate) fn breaker(&self) -> impl FnOnce() + use<> {
        let output = Arc::clone(&self.output);
        move || output.leave()
    }

    fn poll_call(&mut self, cx: &mut Context<'_>) {
        let Some(running) = &mut self.running else { return };
        if let Poll::Ready(result) = running.poll_end(cx) {
            self.running = None;
            self.output.finish(result);
        }
    }
}

impl Future for DetachedStatelessCall {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.poll_call(cx);
        match this.output.poll_owner(cx) {
            OwnerStep::Work => {
                this.expiry = None;
                Poll::Pending
            }
            OwnerStep::WaitUntil(until) => {
                let timer = this.expiry.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if this.output.expire() {
                    return Poll::Ready(());
                }
                // The caller returned just before the expiry.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            OwnerStep::Nothing => Poll::Ready(()),
        }
    }
}
