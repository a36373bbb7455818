//! The owner of calls that outlive their handler: those that answer as a stream, and those whose agent's connection
//! died. A legacy disconnect is no cancellation (SEMANTICS.md 6.2), so they run on for as long as their stream can be
//! resumed. The calls of one POST are one entry here: they share a stream.
//!
//! There are places for `limits.adopted_calls` entries, and a place is taken before a call is handed over. What is
//! handed over therefore runs at once: nothing waits on its way here, unseen by deadlines and cancellations.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Sleep};

use crate::{
    call::Running,
    limits::gauges::Gauges,
    panics::unharmed,
    shared::Common,
    stateless::Round,
    stream::outbox::{Outbox, Presence},
};

/// The calls of one POST without handler.
pub(crate) struct Adopted {
    running: Vec<Running>,
    sink: Option<Arc<Outbox>>,
    /// Whether it is one call, whose stream is its own.
    is_one: bool,
    orphaned: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

/// What the adopter owns.
pub(crate) enum Adoptee {
    Calls(Adopted),
    /// A call of an agent without session.
    Round(Round),
}

/// An entry on its way to the adopter, with its place.
pub(crate) type Entry = (Box<Adoptee>, Occupied);

/// A place at the adopter that nobody has yet.
pub(crate) struct Place<'c> {
    permit: mpsc::Permit<'c, Entry>,
    occupied: Occupied,
}

/// One of the places; given back when it is dropped.
pub(crate) struct Occupied(Arc<Gauges>);

impl<'c> Place<'c> {
    /// Takes a place, if one is free now.
    pub(crate) fn take(common: &'c Common) -> Option<Self> {
        let limit = common.limits().adopted_calls;
        let more = |held: usize| (held < limit).then_some(held + 1);
        let gauges = &common.gauges;
        gauges.adopted.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        let occupied = Occupied(Arc::clone(gauges));
        Some(Self { permit: common.adopt.try_reserve().ok()?, occupied })
    }

    /// Hands over.
    pub(crate) fn give(self, adoptee: Adoptee) {
        self.permit.send((Box::new(adoptee), self.occupied));
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        Gauges::down(&self.0.adopted, 1);
    }
}

enum Woken {
    New(Option<Entry>),
    Ended,
    Kill,
}

impl Adopted {
    pub(crate) fn new(running: Vec<Running>, sink: Option<Arc<Outbox>>, patience: Duration) -> Self {
        Self { is_one: running.len() == 1, running, sink, orphaned: None, patience }
    }

    /// Whether all calls have ended; their answers are on the stream then.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        let sink = &self.sink;
        let is_heard = sink.as_ref().is_some_and(|sink| matches!(sink.presence(), Presence::Attached(_)));
        self.running.retain_mut(|call| match call.poll_end(cx) {
            Poll::Ready(finished) => {
                if let (Some(slot), Some(body)) = (&finished.slot, finished.body) {
                    if let Some(sink) = sink {
                        slot.core.answer_on(sink, body);
                    }
                    if !is_heard {
                        slot.core.unclaimed.add(slot, sink.as_ref().filter(|_| self.is_one));
                    }
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
                for slot in this.running.iter().filter_map(Running::slot) {
                    slot.core.unclaimed.add(slot, None);
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
pub(crate) async fn run(common: Arc<Common>, mut calls: mpsc::Receiver<Entry>) {
    let mut running = FuturesUnordered::new();
    loop {
        let woken = tokio::select! {
            biased;
            () = common.kill.cancelled() => Woken::Kill,
            Some(()) = running.next(), if !running.is_empty() => Woken::Ended,
            call = calls.recv() => Woken::New(call),
        };
        match woken {
            Woken::New(Some(entry)) => running.push(to_its_end(&common, entry)),
            Woken::Ended => {}
            Woken::New(None) | Woken::Kill => break,
        }
    }
}

async fn to_its_end(common: &Common, (call, _occupied): Entry) {
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
