//! The waiting layer: calls wait here and nowhere else, so waiting is bounded, fair and within the deadline.
//!
//! A caller that finds no slot takes a place *before* it tries again, so that a slot that comes back in between
//! wakes it. A circuit that is open is waited out for as long as its `hold` says. While the backend is paused neither
//! that nor the time in the queue ends the waiting: the call's own deadline does.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use mcpool_breaker::{Breaker, Rejected};
use mcpool_upstream::{Backend, Mode, Traffic, Waiter};
use mcpool_wire::{Answer, CallError, ErrorKind};
use tower::Service;

use super::{Order, StackError, StackFuture, StackObserve, always_ready, errors::circuit_open, now};

/// The waiting layer.
#[derive(Clone)]
pub struct WaitingRoom<S> {
    pub(super) inner: S,
    pub(super) desk: Desk,
}

/// Who is let in, how long they stay, and what they are told.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) observe: Arc<dyn StackObserve>,
    pub(super) queue: Duration,
}

impl<S> Service<Order> for WaitingRoom<S>
where
    S: Service<Order, Response = Answer, Error = StackError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, order: Order) -> Self::Future {
        // The common case: nobody waits and there is a slot.
        if self.desk.backend.is_quiet() && !self.desk.backend.traffic().is_shut() {
            let mut room = self.clone();
            let first = self.inner.call(order.clone());
            return async move {
                match first.await {
                    Err(refused @ (StackError::Full(_) | StackError::Shut(_))) => {
                        room.wait(order, Some(refused)).await
                    }
                    settled => settled,
                }
            }
            .boxed();
        }
        let mut room = self.clone();
        async move { room.wait(order, None).await }.boxed()
    }
}

impl<S> WaitingRoom<S>
where
    S: Service<Order, Response = Answer, Error = StackError>,
{
    async fn wait(&mut self, order: Order, refused: Option<StackError>) -> Result<Answer, StackError> {
        // Who does not try at once must know all the same how long waiting is of use.
        let mut shut = match refused {
            Some(StackError::Shut(rejected)) => Some(rejected),
            _ => self.desk.breaker.would_admit(now()).err(),
        };
        self.desk.still_here(&order)?;
        if let Some(rejected) = shut {
            self.desk.still_held(rejected)?;
        }
        let mut waiter = self.desk.enter(&order)?;
        // After entering: who drains wakes those who are in.
        self.desk.not_drained()?;
        let mut may_try = waiter.is_first() && self.desk.backend.traffic() != Traffic::Paused;
        let mut until = now() + self.desk.queue;
        loop {
            if may_try {
                order.keep_place(waiter);
                let outcome = self.inner.call(order.clone()).await;
                let lane = match &outcome {
                    Err(StackError::Full(lane)) => {
                        shut = None;
                        Some(*lane)
                    }
                    Err(StackError::Shut(rejected)) => {
                        self.desk.still_here(&order)?;
                        self.desk.still_held(*rejected)?;
                        shut = Some(*rejected);
                        None
                    }
                    _ => return outcome,
                };
                waiter = match order.take_place() {
                    Some(waiter) => waiter,
                    // It was served, tried, and is back: it waits anew.
                    None => {
                        until = now() + self.desk.queue;
                        self.desk.enter(&order)?
                    }
                };
                if let Some(lane) = lane.filter(|lane| *lane != waiter.lane()) {
                    waiter.back_to(lane);
                    continue;
                }
            }
            self.desk.still_here(&order)?;
            self.desk.rest(&mut waiter, until, shut, &order).await?;
            self.desk.still_here(&order)?;
            self.desk.not_drained()?;
            // Nobody has a say before the operator has.
            may_try = self.desk.backend.traffic() != Traffic::Paused;
        }
    }
}

impl Desk {
    /// Waits to be woken, and takes the place again before the next try.
    async fn rest(
        &self,
        waiter: &mut Waiter,
        until: Instant,
        mut shut: Option<Rejected>,
        order: &Order,
    ) -> Result<(), StackError> {
        loop {
            let (until, end) = self.end_of_rest(until, shut, order);
            let timer = tokio::time::Instant::from_std(end);
            if tokio::time::timeout_at(timer, waiter.woken()).await.is_ok() {
                break;
            }
            // Paused meanwhile, or paused and over: another end counts.
            if self.end_of_rest(until, shut, order).1 > now() {
                continue;
            }
            match shut {
                // It may be closed again, without a word to this caller yet.
                Some(_) if end < until => match self.breaker.would_admit(now()) {
                    Err(rejected) => {
                        self.still_held(rejected)?;
                        shut = Some(rejected);
                    }
                    Ok(()) => shut = None,
                },
                _ => return Err(self.timed_out(order)),
            }
        }
        let lane = waiter.lane();
        waiter.back_to(lane);
        Ok(())
    }

    /// Until when this caller may wait for a session, and when it is to look again.
    fn end_of_rest(&self, until: Instant, shut: Option<Rejected>, order: &Order) -> (Instant, Instant) {
        if self.backend.traffic().is_shut() {
            // The layer above ends it, and says why.
            let end = order.call().hard_deadline + Duration::from_secs(1);
            return (end, end);
        }
        let until = until.max(self.backend.flows_since() + self.queue);
        (until, shut.map_or(until, |rejected| rejected.hold_until.min(until)))
    }

    fn enter(&self, order: &Order) -> Result<Waiter, StackError> {
        let kind = self.backend.kind_of(order.seat(), order.call());
        self.backend.wait(order.seat(), kind).map_err(|full| {
            self.observe.rejected("full");
            let message =
                format!("{} calls already wait for backend {:?}", full.limit, self.backend.spec().name);
            StackError::Ended(
                CallError::not_sent(ErrorKind::Overloaded, message).retry_after(Duration::from_secs(1)),
            )
        })
    }

    /// Nobody waits for a registration that ended, but agents with a session of their own, which may keep it.
    fn still_here(&self, order: &Order) -> Result<(), StackError> {
        match self.backend.leaving() {
            Some(_) if order.seat().mode() != Mode::Pinned => Err(StackError::Left),
            _ => Ok(()),
        }
    }

    fn not_drained(&self) -> Result<(), StackError> {
        match self.backend.traffic() {
            Traffic::Drained => Err(StackError::Ended(self.backend.drained())),
            Traffic::Flowing | Traffic::Resuming | Traffic::Paused => Ok(()),
        }
    }

    fn still_held(&self, rejected: Rejected) -> Result<(), StackError> {
        // While the operator has the word nothing is probed, so the circuit has none.
        if self.backend.traffic().is_shut() || rejected.hold_until > now() {
            Ok(())
        } else {
            Err(self.refuse(rejected))
        }
    }

    fn refuse(&self, rejected: Rejected) -> StackError {
        self.observe.rejected("circuit_open");
        let why = self.backend.trouble().map(|trouble| trouble.why);
        StackError::Ended(circuit_open(rejected, &self.backend.spec().name, why))
    }

    fn timed_out(&self, order: &Order) -> StackError {
        self.observe.rejected("timeout");
        let why = self.backend.trouble().map(|trouble| trouble.why).or_else(|| order.call().trace.cause());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!(
            "no session of backend {:?} became free within {:?}{why}",
            self.backend.spec().name,
            self.queue
        );
        StackError::Ended(CallError::not_sent(ErrorKind::QueueTimeout, message))
    }
}
