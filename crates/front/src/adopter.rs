//! The owner of calls that outlive their handler: those that answer as a stream, and those whose agent's connection
//! died. A legacy disconnect is no cancellation (SEMANTICS.md 6.2), so they run on, for a while.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Sleep};

use crate::{
    common::Common,
    observe::{FrontEvent, Gauges},
    outbox::{Outbox, Refused, Weight},
    running::{Finished, Running},
    sse_body::one_line,
};

/// A call without handler.
pub(crate) struct Adopted {
    running: Running,
    sink: Option<Arc<Outbox>>,
    orphaned: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

enum Woken {
    New(Option<Box<Adopted>>),
    Ended,
    Kill,
}

impl Adopted {
    pub(crate) fn new(running: Running, sink: Option<Arc<Outbox>>) -> Self {
        let patience = running.orphan_patience();
        Self { running, sink, orphaned: None, patience }
    }

    fn is_orphan(&self, cx: &mut Context<'_>) -> bool {
        self.sink.as_ref().is_none_or(|sink| !sink.is_read(cx))
    }

    fn settle(&self, finished: Finished) {
        let Some(sink) = &self.sink else { return };
        if let Some(body) = finished.body
            && sink.push(Weight::Must, one_line(body)) == Err(Refused::Overflowed)
            && let Some(slot) = &finished.slot
        {
            slot.core.common.emit(&FrontEvent::SlowAgentClosed);
        }
        sink.close();
    }
}

impl Future for Adopted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Poll::Ready(finished) = this.running.poll_end(cx) {
            this.settle(finished);
            return Poll::Ready(());
        }
        if this.is_orphan(cx) {
            let patience = this.patience;
            let timer = this.orphaned.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            return timer.as_mut().poll(cx);
        }
        Poll::Pending
    }
}

/// Runs adopted calls until the front ends. Ends early, once draining, when nothing is left.
pub(crate) async fn run(common: Arc<Common>, mut calls: mpsc::Receiver<Box<Adopted>>) {
    let mut running = FuturesUnordered::new();
    loop {
        let room = running.len() < common.config.limits.adopted_calls;
        let woken = tokio::select! {
            biased;
            () = common.kill.cancelled() => Woken::Kill,
            Some(()) = running.next(), if !running.is_empty() => Woken::Ended,
            call = calls.recv(), if room => Woken::New(call),
        };
        match woken {
            Woken::New(Some(call)) => {
                Gauges::up(&common.gauges.adopted, 1);
                running.push(call);
            }
            Woken::Ended => Gauges::down(&common.gauges.adopted, 1),
            Woken::New(None) | Woken::Kill => break,
        }
    }
    Gauges::down(&common.gauges.adopted, running.len());
}
