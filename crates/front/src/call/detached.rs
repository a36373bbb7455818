//! Detached calls: calls that outlive their handler, because they answer as a stream or their agent's connection died.
//! A disconnect of an agent with handshake is no cancellation (SEMANTICS.md 6.2), so they run on for as long as their
//! stream can be resumed. The calls of one POST are one entry here: they share a stream.
//!
//! There is room for `limits.adopted_calls` entries, reserved before a call is handed over. A handed-over call is
//! therefore polled at once: it never waits here unseen by deadlines and cancellations.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Sleep};

use crate::{
    call::InFlightCall,
    limits::places::DetachedPermit,
    panics::catch_panic,
    shared::{Common, DetachedCall},
    stream::outbox::{Outbox, Presence},
};

/// The detached calls of one POST.
pub(crate) struct DetachedCalls {
    calls: Vec<InFlightCall>,
    sink: Option<Arc<Outbox>>,
    /// Whether this is a single call with a stream of its own.
    is_one: bool,
    without_reader: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

/// Reserved room for one entry.
pub(crate) struct Reservation<'c> {
    mailbox: mpsc::Permit<'c, DetachedCall>,
    permit: DetachedPermit,
}

impl<'c> Reservation<'c> {
    /// Reserves room. `None` if there is none.
    pub(crate) fn take(common: &'c Common) -> Option<Self> {
        let permit = DetachedPermit::take(&common.gauges, common.limits().adopted_calls)?;
        Some(Self { mailbox: common.detached.try_reserve().ok()?, permit })
    }

    /// Hands calls over; `on_panic` cleans up if their task panics.
    pub(crate) fn give(
        self,
        run: impl Future<Output = ()> + Send + 'static,
        on_panic: impl FnOnce() + Send + 'static,
    ) {
        let (run, on_panic) = (Box::pin(run), Box::new(on_panic));
        self.mailbox.send(DetachedCall { run, on_panic, permit: self.permit });
    }
}

enum Woken {
    New(Option<DetachedCall>),
    Ended,
    Kill,
}

impl DetachedCalls {
    pub(crate) fn new(calls: Vec<InFlightCall>, sink: Option<Arc<Outbox>>, patience: Duration) -> Self {
        Self { is_one: calls.len() == 1, calls, sink, without_reader: None, patience }
    }

    /// A function that closes the stream of these calls if their task panics.
    pub(crate) fn breaker(&self) -> impl FnOnce() + use<> {
        let sink = self.sink.clone();
        move || sink.iter().for_each(|sink| sink.close())
    }

    /// Polls the calls. `true` if all have ended and their answers are on the stream.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let sink = &self.sink;
        let is_heard = sink.as_ref().is_some_and(|sink| matches!(sink.presence(), Presence::Attached(_)));
        self.calls.retain_mut(|call| match call.poll_end(cx) {
            Poll::Ready(result) => {
                if let (Some(registration), Some(body)) = (&result.registration, result.body) {
                    if let Some(sink) = sink {
                        registration.core.send_answer_on(sink, body);
                    }
                    if !is_heard {
                        registration.core.unclaimed.add(registration, sink.as_ref().filter(|_| self.is_one));
                    }
                }
                false
            }
            Poll::Pending => true,
        });
        self.calls.is_empty()
    }
}

impl Future for DetachedCalls {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.poll_calls(cx) {
            if let Some(sink) = &this.sink {
                sink.close();
            }
            return Poll::Ready(());
        }
        match this.sink.as_ref().map_or(Presence::Absent, |sink| sink.poll_presence(cx)) {
            Presence::Attached(_) => {
                this.without_reader = None;
                Poll::Pending
            }
            Presence::Absent => {
                let patience = this.patience;
                let timer = this.without_reader.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                for registration in this.calls.iter().filter_map(InFlightCall::registration) {
                    registration.core.unclaimed.add(registration, None);
                }
                if let Some(sink) = &this.sink {
                    sink.abandon();
                }
                Poll::Ready(())
            }
            // The stream was closed because the agent does not read. Its calls end with it.
            Presence::Closed => Poll::Ready(()),
        }
    }
}

/// Runs detached calls until the front ends. A panic ends the calls of one POST: their stream is closed, and the others
/// go on.
pub(crate) async fn run(common: Arc<Common>, mut calls: mpsc::Receiver<DetachedCall>) {
    let mut running = FuturesUnordered::new();
    loop {
        let woken = tokio::select! {
            biased;
            () = common.kill.cancelled() => Woken::Kill,
            Some(()) = running.next(), if !running.is_empty() => Woken::Ended,
            call = calls.recv() => Woken::New(call),
        };
        match woken {
            Woken::New(Some(call)) => running.push(to_its_end(&common, call)),
            Woken::Ended => {}
            Woken::New(None) | Woken::Kill => break,
        }
    }
}

async fn to_its_end(common: &Common, call: DetachedCall) {
    let DetachedCall { run, on_panic, permit: _permit } = call;
    if catch_panic(common, "adopter", run).await.is_none() {
        on_panic();
    }
}
