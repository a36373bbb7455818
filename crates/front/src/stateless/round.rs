//! The owner of a call whose POST does not run it any more: because it answers as a stream, or because it waits for its
//! caller. Whoever listens is found through its voice; where nobody does and nobody is waited for, the call is cancelled.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Sleep;

use super::call_output::{Owed, Voice};
use crate::call::InFlightCall;

pub(crate) struct Round {
    running: Option<InFlightCall>,
    voice: Arc<Voice>,
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Round {
    pub(super) fn new(running: Option<InFlightCall>, voice: Arc<Voice>) -> Self {
        Self { running, voice, expiry: None }
    }

    /// What ends it where it cannot end itself any more.
    pub(crate) fn breaker(&self) -> impl FnOnce() + use<> {
        let voice = Arc::clone(&self.voice);
        move || voice.leave()
    }

    fn poll_call(&mut self, cx: &mut Context<'_>) {
        let Some(running) = &mut self.running else { return };
        if let Poll::Ready(result) = running.poll_end(cx) {
            self.running = None;
            self.voice.finish(result);
        }
    }
}

impl Future for Round {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.poll_call(cx);
        match this.voice.poll_owed(cx) {
            Owed::Work => {
                this.expiry = None;
                Poll::Pending
            }
            Owed::Patience(until) => {
                let timer = this.expiry.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if this.voice.expire() {
                    return Poll::Ready(());
                }
                // Its caller was faster.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Owed::Nothing => Poll::Ready(()),
        }
    }
}
