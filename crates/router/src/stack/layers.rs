//! The layers without waiting below the room: retry by phase, and the pool at the bottom.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use mcpool_breaker::Breaker;
use mcpool_upstream::{Backend, Cause, NoLease, Refusal, SendError, SendPhase, unknown_cursor};
use mcpool_wire::{Answer, CallError, ErrorKind};
use tower::Service;

use super::{
    Doubt, Order, RetrySettings, StackError, StackFuture, StackObserve, always_ready,
    budget::Budget,
    errors::{HeldBy, phase_word},
};

/// Attempts of which not one byte was sent: bounded only so that nothing is endless.
const MAX_HARMLESS: u32 = 64;

/// Repeats a call as far as the phase of its failure allows (SEMANTICS.md 9.1).
#[derive(Clone)]
pub struct Retry<S> {
    pub(super) inner: S,
    pub(super) settings: RetrySettings,
    /// A call without any sign of the backend ends after this.
    pub(super) idle: Duration,
    pub(super) budget: Arc<Budget>,
    pub(super) observe: Arc<dyn StackObserve>,
}

/// The bottom: a slot on the agent's session, and the call on it.
#[derive(Clone)]
pub struct Pool {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) budget: Arc<Budget>,
    pub(super) observe: Arc<dyn StackObserve>,
}

/// One more attempt.
struct Again {
    pause: Duration,
    /// Whether the backend may have to do again what it did, or to refuse again what it refused.
    on_budget: bool,
}

impl Again {
    const FREE: Self = Self { pause: Duration::ZERO, on_budget: false };

    fn counted(pause: Duration) -> Self {
        Self { pause, on_budget: true }
    }
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
                    Err(StackError::Failed(error)) => doubted(&order, error),
                    settled => return settled,
                };
                order.call().trace.note_cause(error.to_string());
                let again = retry.again(&order, &error);
                if !order.may_have_run() {
                    order.call().trace.mark_refused();
                }
                let Some(again) = again else { return Err(StackError::Failed(error)) };
                if let Some(why) = retry.stopped(&order, &again) {
                    order.call().trace.note_cause(format!("{error}; not sent again: {why}"));
                    return Err(StackError::Failed(error));
                }
                retry.observe.retried(phase_word(error.phase));
                if !again.pause.is_zero() {
                    tokio::time::sleep(again.pause).await;
                }
                attempt = retry.inner.call(order.clone());
            }
        }
        .boxed()
    }
}

impl<S> Retry<S> {
    /// Whether and when it may be sent again.
    fn again(&self, order: &Order, error: &SendError) -> Option<Again> {
        let attempts = self.settings.attempts;
        match error.phase {
            // Others give theirs back soon, and asking at once takes none from them.
            SendPhase::NotSent if error.cause == Cause::Descriptors => {
                let times = order.count_harmless();
                (times < MAX_HARMLESS).then(|| Again { pause: self.backoff(times), ..Again::FREE })
            }
            SendPhase::NotSent => match order.count_harmless() {
                times if times <= attempts => Some(Again::FREE),
                // It costs the backend nothing, but a session that takes nothing is no place to hurry to.
                times => (times < MAX_HARMLESS).then(|| Again { pause: self.backoff(1), ..Again::FREE }),
            },
            SendPhase::Refused => {
                let times = order.count_harmless();
                match &error.cause {
                    // The session that is gone does not do the work a second time.
                    Cause::SessionLost(_) => Cause::survives(order.lost()).then_some(Again::FREE),
                    // It is the pool that pauses, and the call waits in the room with the others.
                    Cause::Pressure(Refusal { retry_after: Some(pause), .. }) => {
                        order.seat().pause_for(*pause);
                        (times < attempts).then(|| Again::counted(Duration::ZERO))
                    }
                    Cause::Pressure(_) => (times < attempts).then(|| Again::counted(self.backoff(times))),
                    // Its session is given up for one that agrees anew.
                    Cause::WrongVersion(_) => Cause::survives(times).then(|| Again::counted(Duration::ZERO)),
                    Cause::NotInitialized(_) => {
                        (times <= attempts).then(|| Again::counted(self.backoff(times)))
                    }
                    _ => None,
                }
            }
            SendPhase::MaybeSent => {
                if let Cause::Pressure(Refusal { retry_after: Some(pause), .. }) = &error.cause {
                    order.seat().pause_for(*pause);
                }
                let again = is_passing(&error.cause)
                    && Cause::survives(order.lost())
                    && order.seat().is_safe(order.call());
                match order.count_doubtful(super::now()) {
                    Doubt::Outage(times) => {
                        let at_once = times == 1 && went_with_its_session(&error.cause);
                        let pause = if at_once { Duration::ZERO } else { self.backoff(times) };
                        (again && times < attempts).then(|| Again::counted(pause))
                    }
                    // A moment, so that what is dying is noticed before the call meets it. Counted once already.
                    Doubt::SameOutage => {
                        let pause = self.settings.base / 4;
                        (again && order.count_harmless() < MAX_HARMLESS)
                            .then_some(Again { pause, ..Again::FREE })
                    }
                }
            }
        }
    }

    /// Why it is not sent again although it could be: it would come too late, or too many are.
    fn stopped(&self, order: &Order, again: &Again) -> Option<&'static str> {
        let now = super::now();
        let silent_until = order.call().trace.last_activity() + self.idle;
        if now + again.pause >= order.call().hard_deadline.min(silent_until) {
            return Some("the time of the call would be up before that");
        }
        if !again.on_budget || self.budget.repeat(now) {
            return None;
        }
        self.observe.rejected("retry_budget");
        Some("too many calls of this backend are sent again already")
    }

    /// Full jitter, from nothing to the base for the first.
    fn backoff(&self, times: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(times.saturating_sub(1).min(16));
        self.settings.base.saturating_mul(doubled).min(self.settings.cap).mul_f64(rand::random())
    }
}

/// Counts a session that was lost under the call. A status alone is believed once; where a session that was opened for
/// the call is lost in the same way, the status may be a word about the call, which may have run.
fn doubted(order: &Order, error: SendError) -> SendError {
    let Cause::SessionLost(refusal) = &error.cause else { return error };
    if error.phase == SendPhase::NotSent
        || Cause::survives(order.count_lost())
        || refusal.names_lost_session()
    {
        return error;
    }
    SendError { phase: SendPhase::MaybeSent, ..error }
}

/// Whether the next attempt may fare better. What the backend says it says again.
fn is_passing(cause: &Cause) -> bool {
    match cause {
        Cause::Connect(_)
        | Cause::Tls(_)
        | Cause::Descriptors
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

/// Whether there must be another session first: waiting for that is pause enough, and it is waited for in the room, where
/// the call goes before newcomers.
fn went_with_its_session(cause: &Cause) -> bool {
    matches!(cause, Cause::Broken(_) | Cause::SessionLost(_) | Cause::Closed(_))
}

impl Service<Order> for Pool {
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, order: Order) -> Self::Future {
        let now = super::now();
        if let Some(until) = order.seat().paused_until(now) {
            return held_back(until, HeldBy::Pressure);
        }
        // Asked before a slot is taken, because one that is given back wakes the next, and so on for ever.
        if let Err(until) = self.breaker.may_begin(now) {
            return held_back(until, HeldBy::SlowStart);
        }
        let kind = self.backend.kind_of(order.seat(), order.call());
        let lease = match self.backend.try_lease(order.seat(), kind, order.only_on()) {
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
        // Another thread may have been faster.
        let pass = match self.breaker.begin(now) {
            Ok(pass) => pass,
            Err(until) => return held_back(until, HeldBy::SlowStart),
        };
        if order.is_first_attempt() {
            self.budget.sent(now);
        }
        let waited = order.take_place().map_or(Duration::ZERO, |waiter| {
            let waited = now.saturating_duration_since(waiter.since());
            waiter.served(now);
            waited
        });
        self.observe.leased(waited);
        order.sent_on(lease.opened());
        async move {
            let epoch = lease.epoch();
            let answer = lease.call(order.call()).await.map_err(|error| {
                if matches!(error.cause, Cause::SessionLost(_)) {
                    order.seat().session_lost(epoch);
                }
                StackError::Failed(error)
            })?;
            pass.succeeded();
            Ok(answer)
        }
        .boxed()
    }
}

fn held_back(until: Instant, by: HeldBy) -> StackFuture {
    futures::future::ready(Err(StackError::Later(until, by))).boxed()
}

fn session_gone() -> CallError {
    CallError::not_sent(ErrorKind::Lost, "the agent's own session with the backend is over; initialize again")
}
