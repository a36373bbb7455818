//! The queue layer, the only place where calls wait: bounded, fair, and within the deadline.
//!
//! A call that finds no free permit joins the queue *before* it tries again, so that a permit released in between wakes
//! it. Calls wait for an open circuit up to its `hold`, and for a slow start or a backend that asked for a pause up to
//! the queue timeout. While the backend is paused only the call's own deadline ends the wait. A call that was already
//! sent goes ahead of new calls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use mcpool_breaker::{Breaker, Rejected};
use mcpool_upstream::{Backend, Mode, QueueFull, QueueLimit, SendError, TrafficState, Waiter};
use mcpool_wire::{Answer, CallError, ErrorKind};
use tower::Service;

use crate::events::StackObserve;

use super::{
    HeldBy, StackError, StackFuture, StackRequest, always_ready,
    errors::{circuit_open, overloaded},
    now,
};

/// The queue layer.
#[derive(Clone)]
pub struct WaitingQueue<S> {
    pub(super) inner: S,
    pub(super) admission: Admission,
}

/// Maximum wait while the server rejects handshakes.
const HOLD_REFUSED: Duration = Duration::from_secs(10);

/// Admission to the queue, timeouts and errors.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) observe: Arc<dyn StackObserve>,
    pub(super) queue: Duration,
}

/// The cause of a call's wait.
#[derive(Clone, Copy)]
enum Held {
    /// A call permit, or its turn.
    Permit,
    /// The circuit breaker.
    CircuitOpen(Rejected),
    /// This time, even if permits are free.
    HoldUntil(Instant, HeldBy),
}

impl<S> Service<StackRequest> for WaitingQueue<S>
where
    S: Service<StackRequest, Response = Answer, Error = StackError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, request: StackRequest) -> Self::Future {
        // Fast path: the queue is empty and a permit is free.
        if self.admission.is_open(&request) {
            let mut layer = self.clone();
            let first = self.inner.call(request.clone());
            return async move {
                match first.await {
                    Err(
                        refused @ (StackError::Full(_)
                        | StackError::CircuitOpen(_)
                        | StackError::HoldUntil(..)),
                    ) => layer.wait(request, Some(refused)).await,
                    settled => settled,
                }
            }
            .boxed();
        }
        let mut layer = self.clone();
        async move { layer.wait(request, None).await }.boxed()
    }
}

impl<S> WaitingQueue<S>
where
    S: Service<StackRequest, Response = Answer, Error = StackError>,
{
    async fn wait(
        &mut self,
        request: StackRequest,
        refused: Option<StackError>,
    ) -> Result<Answer, StackError> {
        // A call that skips the first try still needs the cause of its wait.
        let mut held = match refused {
            Some(StackError::CircuitOpen(rejected)) => Held::CircuitOpen(rejected),
            Some(StackError::HoldUntil(at, by)) => Held::HoldUntil(at, by),
            _ => self.admission.breaker.would_admit(now()).err().map_or(Held::Permit, Held::CircuitOpen),
        };
        self.admission.not_retired(&request)?;
        if let Held::CircuitOpen(rejected) = held {
            self.admission.still_held(rejected, &request)?;
        }
        // A call already sent re-enters even if the queue was empty.
        let returns = !request.is_first_attempt();
        let mut waiter =
            if returns { self.admission.enter_again(&request) } else { self.admission.enter(&request)? };
        // Checked after entering, because draining wakes only queued calls.
        self.admission.not_drained()?;
        let mut may_try =
            (returns || waiter.is_first()) && self.admission.backend.traffic() != TrafficState::Paused;
        let mut until = now() + self.admission.queue;
        let mut refused = std::pin::pin!(request.binding().next_refusal());
        loop {
            if may_try {
                request.keep_place(waiter);
                let outcome = self.inner.call(request.clone()).await;
                let lane;
                (held, lane) = match &outcome {
                    Err(StackError::Full(lane)) => (Held::Permit, Some(*lane)),
                    Err(StackError::HoldUntil(at, by)) => (Held::HoldUntil(*at, *by), None),
                    Err(StackError::CircuitOpen(rejected)) => {
                        self.admission.not_retired(&request)?;
                        self.admission.still_held(*rejected, &request)?;
                        (Held::CircuitOpen(*rejected), None)
                    }
                    _ => return outcome,
                };
                waiter = match request.take_place() {
                    Some(waiter) => waiter,
                    // The attempt took its permit and failed: the call queues again and tries at once.
                    None => {
                        until = now() + self.admission.queue;
                        waiter = self.admission.enter_again(&request);
                        continue;
                    }
                };
                if let Some(lane) = lane.filter(|lane| *lane != waiter.lane()) {
                    waiter.back_to(lane);
                    continue;
                }
            }
            self.admission.not_retired(&request)?;
            self.admission.rest(&mut waiter, until, held, &request, refused.as_mut()).await?;
            self.admission.not_retired(&request)?;
            self.admission.not_drained()?;
            // A pause stops every try.
            may_try = self.admission.backend.traffic() != TrafficState::Paused;
        }
    }
}

impl Admission {
    /// Waits for a wake-up and takes the place again before the next try. Ends early if the server rejects this
    /// caller's credentials.
    async fn rest(
        &self,
        waiter: &mut Waiter,
        until: Instant,
        mut held: Held,
        request: &StackRequest,
        mut refused: Pin<&mut impl Future<Output = SendError>>,
    ) -> Result<(), StackError> {
        loop {
            held = self.what_holds(held, request);
            let (until, end) = self.end_of_rest(until, held, request);
            let timer = tokio::time::Instant::from_std(end);
            let woken = async {
                tokio::select! {
                    biased;
                    woken = waiter.woken() => Ok(woken),
                    why = refused.as_mut() => Err(why),
                }
            };
            match tokio::time::timeout_at(timer, woken).await {
                Ok(Err(why)) => return Err(StackError::Failed(why)),
                Ok(Ok(Ok(()))) => {
                    let lane = waiter.lane();
                    waiter.back_to(lane);
                    return Ok(());
                }
                Ok(Ok(Err(_displaced))) => return Err(self.displaced()),
                Err(_) => {}
            }
            // A pause that began or ended meanwhile moves the end.
            if self.end_of_rest(until, held, request).1 > now() {
                continue;
            }
            match held {
                // The call still has its place.
                Held::HoldUntil(..) if end < until => return Ok(()),
                // The circuit may have closed without waking this call yet.
                Held::CircuitOpen(_) if end < until => match self.breaker.would_admit(now()) {
                    Err(rejected) => {
                        self.still_held(rejected, request)?;
                        held = Held::CircuitOpen(rejected);
                    }
                    Ok(()) => held = Held::Permit,
                },
                _ => return Err(self.timed_out(held, request)),
            }
        }
    }

    /// A call behind others did not try, so it checks holds itself.
    fn what_holds(&self, held: Held, request: &StackRequest) -> Held {
        let now = now();
        match held {
            Held::Permit => match (request.binding().paused_until(now), self.breaker.may_begin(now)) {
                (Some(at), _) => Held::HoldUntil(at, HeldBy::Pressure),
                (None, Err(at)) => Held::HoldUntil(at, HeldBy::SlowStart),
                (None, Ok(())) => Held::Permit,
            },
            Held::CircuitOpen(_) | Held::HoldUntil(..) => held,
        }
    }

    /// The end of this call's wait, and the time of its next check.
    fn end_of_rest(&self, until: Instant, held: Held, request: &StackRequest) -> (Instant, Instant) {
        if self.backend.traffic().is_shut() {
            // The deadline layer ends the call and explains why.
            let end = request.call().hard_deadline + Duration::from_secs(1);
            return (end, end);
        }
        let until = until.max(self.backend.flows_since() + self.queue);
        let end = match held {
            Held::CircuitOpen(rejected) => rejected.hold_until.min(until),
            Held::HoldUntil(at, _) => at.min(until),
            Held::Permit if self.backend.is_refused(request.binding()) => {
                until.checked_sub(self.queue.saturating_sub(HOLD_REFUSED)).unwrap_or(until)
            }
            Held::Permit => until,
        };
        (until, end)
    }

    /// True if the call may try without queueing: nothing waits, or there is a permit for every waiting call too.
    /// Queueing would then only prolong the queue.
    fn is_open(&self, request: &StackRequest) -> bool {
        if self.backend.is_quiet() {
            return !self.backend.traffic().is_shut();
        }
        let kind = self.backend.kind_of(request.binding(), request.call());
        self.backend.has_permits_for_all(request.binding(), kind)
            && request.binding().paused_until(now()).is_none()
            && self.breaker.is_unhindered(now())
    }

    fn enter(&self, request: &StackRequest) -> Result<Waiter, StackError> {
        let kind = self.backend.kind_of(request.binding(), request.call());
        let bytes = request.call().message.bytes().len();
        self.backend.wait(request.binding(), kind, bytes).map_err(|full| self.full(full))
    }

    fn full(&self, full: QueueFull) -> StackError {
        let name = &self.backend.spec().name;
        let (reason, message) = match full.of {
            QueueLimit::Calls(limit) => {
                ("full", format!("{limit} calls wait for backend {name:?}, and no more may"))
            }
            QueueLimit::Bytes(limit) => (
                "bytes",
                format!("the calls that wait for backend {name:?} hold {limit} bytes, and no more may wait"),
            ),
        };
        self.observe.rejected(reason);
        StackError::Ended(overloaded(message, full.retry_after))
    }

    fn displaced(&self) -> StackError {
        self.observe.rejected("displaced");
        let name = &self.backend.spec().name;
        let message = format!(
            "too many calls wait for backend {name:?}; this agent had the most, and its latest gave its place to \
             another agent's"
        );
        StackError::Ended(overloaded(message, self.backend.wait_expected()))
    }

    /// Ends the wait at a retired registration, except for pinned agents, which may stay.
    fn not_retired(&self, request: &StackRequest) -> Result<(), StackError> {
        match self.backend.leaving() {
            Some(_) if request.binding().mode() != Mode::Pinned => Err(StackError::BackendRetired),
            _ => Ok(()),
        }
    }

    fn enter_again(&self, request: &StackRequest) -> Waiter {
        let kind = self.backend.kind_of(request.binding(), request.call());
        self.backend.wait_again(request.binding(), kind, request.call().message.bytes().len())
    }

    fn not_drained(&self) -> Result<(), StackError> {
        match self.backend.traffic() {
            TrafficState::Drained => Err(StackError::Ended(self.backend.drained())),
            TrafficState::Flowing | TrafficState::Resuming | TrafficState::Paused => Ok(()),
        }
    }

    fn still_held(&self, rejected: Rejected, request: &StackRequest) -> Result<(), StackError> {
        // During a pause nothing is probed, so the circuit does not end the wait.
        if self.backend.traffic().is_shut() || rejected.hold_until > now() {
            Ok(())
        } else {
            Err(self.refuse(rejected, request))
        }
    }

    fn refuse(&self, rejected: Rejected, request: &StackRequest) -> StackError {
        self.observe.rejected("circuit_open");
        let why = self.backend.trouble_of(request.binding()).map(|trouble| trouble.why);
        StackError::Ended(circuit_open(
            rejected,
            &self.backend.spec().name,
            why,
            self.backend.handshake_expected(),
        ))
    }

    fn timed_out(&self, held: Held, request: &StackRequest) -> StackError {
        self.observe.rejected("timeout");
        let name = &self.backend.spec().name;
        if let Held::HoldUntil(at, HeldBy::Pressure) = held {
            let message = format!("backend {name:?} is at its limit and asked to be left alone");
            let after = at.saturating_duration_since(now()).max(Duration::from_secs(1));
            return StackError::Ended(CallError::not_sent(ErrorKind::Overloaded, message).retry_after(after));
        }
        let why = self
            .backend
            .trouble_of(request.binding())
            .map(|trouble| trouble.why)
            .or_else(|| request.call().trace.cause());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        if self.backend.is_refused(request.binding()) {
            let message = format!("no session of backend {name:?} can be opened{why}");
            let error = CallError::not_sent(ErrorKind::Unavailable, message);
            return StackError::Ended(error.retry_after(self.backend.wait_expected()));
        }
        let message = format!("no session of backend {name:?} became free within {:?}{why}", self.queue);
        let error = CallError::not_sent(ErrorKind::QueueTimeout, message);
        StackError::Ended(error.retry_after(self.backend.wait_expected()))
    }
}
