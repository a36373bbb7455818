//! The owner of calls that outlive their handler: those that answer as a stream, and those whose agent's connection
//! died. A legacy disconnect is no cancellation (SEMANTICS.md 6.2), so they run on for as long as their stream can be
//! resumed. The calls of one POST are one entry here: they share a stream.

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
    modern::Round,
    observe::Gauges,
    outbox::{Outbox, Presence},
    running::Running,
    unharmed::unharmed,
};

/// The calls of one POST without handler.
pub(crate) struct Adopted {
    running: Vec<Running>,
    sink: Option<Arc<Outbox>>,
    orphaned: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

/// What the adopter owns.
pub(crate) enum Adoptee {
    Calls(Adopted),
    /// A call of an agent without session.
    Round(Round),
}

enum Woken {
    New(Option<Box<Adoptee>>),
    Ended,
    Kill,
}

impl Adopted {
    pub(crate) fn new(running: Vec<Running>, sink: Option<Arc<Outbox>>, patience: Duration) -> Self {
        Self { running, sink, orphaned: None, patience }
    }

    /// Whether all calls have ended; their answers are on the stream then.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let sink = &self.sink;
        self.running.retain_mut(|call| match call.poll_end(cx) {
            Poll::Ready(finished) => {
                if let (Some(sink), Some(slot), Some(body)) = (sink, &finished.slot, finished.body) {
                    slot.core.answer_on(sink, body);
                }
                false
            }
            Poll::Pending => true,
        });
        self.running.is_empty()
    }
}

impl Future for Adopted {
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
                this.orphaned = None;
                Poll::Pending
            }
            Presence::Absent => {
                let patience = this.patience;
                let timer = this.orphaned.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if let Some(sink) = &this.sink {
                    sink.abandon();
                }
                Poll::Ready(())
            }
            // Closed over their heads: the agent does not read. Its calls end with its stream.
            Presence::Closed => Poll::Ready(()),
        }
    }
}

impl Future for Adoptee {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Calls(calls) => Pin::new(calls).poll(cx),
            Self::Round(round) => Pin::new(round).poll(cx),
        }
    }
}

/// Runs adopted calls until the front ends. A panic ends the calls of one POST: their stream is closed, and the others
/// go on.
pub(crate) async fn run(common: Arc<Common>, mut calls: mpsc::Receiver<Box<Adoptee>>) {
    let mut running = FuturesUnordered::new();
    loop {
        let room = running.len() < common.limits().adopted_calls;
        let woken = tokio::select! {
            biased;
            () = common.kill.cancelled() => Woken::Kill,
            Some(()) = running.next(), if !running.is_empty() => Woken::Ended,
            call = calls.recv(), if room => Woken::New(call),
        };
        match woken {
            Woken::New(Some(call)) => {
                Gauges::up(&common.gauges.adopted, 1);
                running.push(to_its_end(&common, call));
            }
            Woken::Ended => Gauges::down(&common.gauges.adopted, 1),
            Woken::New(None) | Woken::Kill => break,
        }
    }
    Gauges::down(&common.gauges.adopted, running.len());
}

async fn to_its_end(common: &Common, call: Box<Adoptee>) {
    let end: Box<dyn FnOnce() + Send> = match call.as_ref() {
        Adoptee::Calls(calls) => {
            let sink = calls.sink.clone();
            Box::new(move || sink.iter().for_each(|sink| sink.close()))
        }
        Adoptee::Round(round) => Box::new(round.breaker()),
    };
    if unharmed(common, "adopter", call).await.is_none() {
        end();
    }
}
