//! The layers without waiting below the room: retry by phase, and the pool at the bottom.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt as _;
use mcpool_upstream::{Backend, Cause, NoLease, SendError, SendPhase, unknown_cursor};
use mcpool_wire::{Answer, CallError, ErrorKind};
use tower::Service;

use super::{
    Doubt, Order, RetrySettings, StackError, StackFuture, StackObserve, always_ready, errors::phase_word,
};

/// Attempts of which it is certain that nothing was executed: bounded only so that nothing is endless.
const MAX_HARMLESS: u32 = 64;

/// Repeats a call as far as the phase of its failure allows (SEMANTICS.md 9.1).
#[derive(Clone)]
pub struct Retry<S> {
    pub(super) inner: S,
    pub(super) settings: RetrySettings,
    pub(super) observe: Arc<dyn StackObserve>,
}

/// The bottom: a slot on the agent's session, and the call on it.
#[derive(Clone)]
pub struct Pool {
    pub(super) backend: Arc<Backend>,
    pub(super) observe: Arc<dyn StackObserve>,
}

impl<S> Service<Order> for Retry<S>
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
        let mut retry = self.clone();
        let mut attempt = self.inner.call(order.clone());
        async move {
            loop {
                let error = match attempt.await {
                    Err(StackError::Failed(error)) => error,
                    settled => return settled,
                };
                order.call().trace.note_cause(error.to_string());
                let pause = retry.pause_before_next(&order, &error);
                if !order.may_have_run() {
                    order.call().trace.mark_refused();
                }
                let Some(pause) = pause else { return Err(StackError::Failed(error)) };
                retry.observe.retried(phase_word(error.phase));
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                attempt = retry.inner.call(order.clone());
            }
        }
        .boxed()
    }
}

impl<S> Retry<S> {
    /// Whether and when it may be sent again.
    fn pause_before_next(&self, order: &Order, error: &SendError) -> Option<Duration> {
        match error.phase {
            SendPhase::NotSent => (order.count_harmless() < MAX_HARMLESS).then_some(Duration::ZERO),
            SendPhase::Refused => {
                let times = order.count_harmless();
                match &error.cause {
                    Cause::SessionLost(_) => (times < MAX_HARMLESS).then_some(Duration::ZERO),
                    Cause::Pressure(refusal) | Cause::Gateway(refusal) => (times < MAX_HARMLESS).then(|| {
                        refusal.retry_after.unwrap_or_else(|| self.backoff(times)).min(self.settings.cap)
                    }),
                    // Its session is given up for one that agrees anew.
                    Cause::WrongVersion(_) => (times <= self.settings.attempts).then_some(Duration::ZERO),
                    Cause::NotInitialized(_) => {
                        (times <= self.settings.attempts).then(|| self.backoff(times))
                    }
                    _ => None,
                }
            }
            SendPhase::MaybeSent => {
                let again = is_passing(&error.cause) && order.seat().is_safe(order.call());
                match order.count_doubtful(super::now()) {
                    Doubt::Outage(times) => {
                        (again && times < self.settings.attempts).then_some(Duration::ZERO)
                    }
                    // A moment, so that what is dying is noticed before the call meets it.
                    Doubt::SameOutage => {
                        (again && order.count_harmless() < MAX_HARMLESS).then(|| self.settings.base / 4)
                    }
                }
            }
        }
    }

    /// Full jitter.
    fn backoff(&self, times: u32) -> Duration {
        let most =
            self.settings.base.saturating_mul(2_u32.saturating_pow(times.min(16))).min(self.settings.cap);
        most.mul_f64(rand::random())
    }
}

/// Whether the next attempt may fare better. What the backend says it says again.
fn is_passing(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_)
        | Cause::Tls(_)
        | Cause::Broken(_)
        | Cause::Timeout(_)
        | Cause::SessionLost(_)
        | Cause::Pressure(_)
        | Cause::Gateway(_)
        | Cause::NotInitialized(_)
        | Cause::Closed(_) => true,
        Cause::Credential(_)
        | Cause::WrongVersion(_)
        | Cause::WrongTransport(_)
        | Cause::Status(_)
        | Cause::TooLarge(_)
        | Cause::Protocol(_) => false,
    }
}

impl Service<Order> for Pool {
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, order: Order) -> Self::Future {
        let kind = self.backend.kind_of(order.seat(), order.call());
        let lease = match self.backend.try_lease(order.seat(), kind) {
            // What only one session knows is of no use on another.
            Ok(lease) if order.only_on().is_some_and(|epoch| epoch != lease.epoch()) => {
                return futures::future::ready(Err(StackError::Ended(unknown_cursor()))).boxed();
            }
            Ok(lease) => lease,
            Err(NoLease::Wait(lane)) => return futures::future::ready(Err(StackError::Full(lane))).boxed(),
            Err(NoLease::Drained) => {
                return futures::future::ready(Err(StackError::Ended(self.backend.drained()))).boxed();
            }
            Err(NoLease::Gone) => {
                return futures::future::ready(Err(StackError::Ended(session_gone()))).boxed();
            }
        };
        let waited = order.take_place().map_or(Duration::ZERO, |waiter| {
            let waited = super::now().saturating_duration_since(waiter.since());
            waiter.served();
            waited
        });
        self.observe.leased(waited);
        async move { lease.call(order.call()).await.map_err(StackError::Failed) }.boxed()
    }
}

fn session_gone() -> CallError {
    CallError::not_sent(ErrorKind::Lost, "the agent's own session with the backend is over; initialize again")
}
