//! The layers below the queue: retry by phase, and the pool at the bottom.

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

use crate::{events::StackObserve, settings::RetrySettings};

use super::{
    Doubt, StackError, StackFuture, StackRequest, always_ready,
    budget::Budget,
    errors::{HeldBy, phase_word},
};

/// Maximum number of attempts without a byte sent; a safety bound.
const MAX_HARMLESS: u32 = 64;

/// Retry layer: repeats a call as its failure's phase allows (SEMANTICS.md 9.1).
#[derive(Clone)]
pub struct Retry<S> {
    pub(super) inner: S,
    pub(super) settings: RetrySettings,
    /// Silence after which a call ends.
    pub(super) idle: Duration,
    pub(super) budget: Arc<Budget>,
    pub(super) observe: Arc<dyn StackObserve>,
}

/// Bottom layer: takes a call permit on the agent's session and makes the call.
#[derive(Clone)]
pub struct Pool {
    pub(super) backend: Arc<Backend>,
    pub(super) breaker: Breaker,
    pub(super) budget: Arc<Budget>,
    pub(super) observe: Arc<dyn StackObserve>,
}

/// Decision to send again.
struct Again {
    pause: Duration,
    /// True if the retry costs the backend work, so it counts against the budget.
    on_budget: bool,
}

impl Again {
    const FREE: Self = Self { pause: Duration::ZERO, on_budget: false };

    fn counted(pause: Duration) -> Self {
        Self { pause, on_budget: true }
    }
}

impl<S> Service<StackRequest> for Retry<S>
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
        let mut retry = self.clone();
        let mut attempt = self.inner.call(request.clone());
        async move {
            loop {
                let error = match attempt.await {
                    Err(StackError::Failed(error)) => doubted(&request, error),
                    settled => return settled,
                };
                request.call().trace.note_cause(error.to_string());
                let again = retry.again(&request, &error);
                if !request.may_have_run() {
                    request.call().trace.mark_refused();
                }
                let Some(again) = again else { return Err(StackError::Failed(error)) };
                if let Some(why) = retry.stopped(&request, &again) {
                    request.call().trace.note_cause(format!("{error}; not sent again: {why}"));
                    return Err(StackError::Failed(error));
                }
                retry.observe.retried(phase_word(error.phase));
                if !again.pause.is_zero() {
                    tokio::time::sleep(again.pause).await;
                }
                attempt = retry.inner.call(request.clone());
            }
        }
        .boxed()
    }
}

impl<S> Retry<S> {
    /// The retry decision; `None` = do not send again.
    fn again(&self, request: &StackRequest, error: &SendError) -> Option<Again> {
        let attempts = self.settings.attempts;
        match error.phase {
            // Descriptors are released soon, and a retry takes none.
            SendPhase::NotSent if error.cause == Cause::Descriptors => {
                let times = request.count_harmless();
                (times < MAX_HARMLESS).then(|| Again { pause: self.backoff(times), ..Again::FREE })
            }
            SendPhase::NotSent => match request.count_harmless() {
                times if times <= attempts => Some(Again::FREE),
                // Free for the backend, but do not hammer a session that accepts nothing.
                times => (times < MAX_HARMLESS).then(|| Again { pause: self.backoff(1), ..Again::FREE }),
            },
            SendPhase::Refused => {
                let times = request.count_harmless();
                match &error.cause {
                    // The lost session cannot run the call a second time.
                    Cause::SessionLost(_) => Cause::survives(request.lost()).then_some(Again::FREE),
                    // The pool pauses; the call waits in the queue with the others.
                    Cause::Pressure(Refusal { retry_after: Some(pause), .. }) => {
                        request.binding().pause_for(*pause);
                        (times < attempts).then(|| Again::counted(Duration::ZERO))
                    }
                    Cause::Pressure(_) => (times < attempts).then(|| Again::counted(self.backoff(times))),
                    // Its session is replaced by one with a new handshake.
                    Cause::WrongVersion(_) => Cause::survives(times).then(|| Again::counted(Duration::ZERO)),
                    Cause::NotInitialized(_) => {
                        (times <= attempts).then(|| Again::counted(self.backoff(times)))
                    }
                    _ => None,
                }
            }
            SendPhase::MaybeSent => {
                if let Cause::Pressure(Refusal { retry_after: Some(pause), .. }) = &error.cause {
                    request.binding().pause_for(*pause);
                }
                let again = is_passing(&error.cause)
                    && Cause::survives(request.lost())
                    && request.binding().is_safe(request.call());
                match request.count_doubtful(super::now()) {
                    Doubt::Outage(times) => {
                        let at_once = times == 1 && went_with_its_session(&error.cause);
                        let pause = if at_once { Duration::ZERO } else { self.backoff(times) };
                        (again && times < attempts).then(|| Again::counted(pause))
                    }
                    // A short pause, to notice a dying session before reuse. The outage is already counted.
                    Doubt::SameOutage => {
                        let pause = self.settings.base / 4;
                        (again && request.count_harmless() < MAX_HARMLESS)
                            .then_some(Again { pause, ..Again::FREE })
                    }
                }
            }
        }
    }

    /// The reason not to retry: it would be too late, or the retry budget is used up.
    fn stopped(&self, request: &StackRequest, again: &Again) -> Option<&'static str> {
        let now = super::now();
        let silent_until = request.call().trace.last_activity() + self.idle;
        if now + again.pause >= request.call().hard_deadline.min(silent_until) {
            return Some("the time of the call would be up before that");
        }
        if !again.on_budget || self.budget.repeat(now) {
            return None;
        }
        self.observe.rejected("retry_budget");
        Some("too many calls of this backend are sent again already")
    }

    /// Exponential backoff with full jitter, starting at `base`.
    fn backoff(&self, times: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(times.saturating_sub(1).min(16));
        self.settings.base.saturating_mul(doubled).min(self.settings.cap).mul_f64(rand::random())
    }
}

/// Counts a lost session. A bare status is trusted once. If a session opened for the call is lost the same way, the
/// status may be about the call itself, which may have run.
fn doubted(request: &StackRequest, error: SendError) -> SendError {
    let Cause::SessionLost(refusal) = &error.cause else { return error };
    if error.phase == SendPhase::NotSent
        || Cause::survives(request.count_lost())
        || refusal.names_lost_session()
    {
        return error;
    }
    SendError { phase: SendPhase::MaybeSent, ..error }
}

/// True if another attempt may succeed. A backend's own verdict will not change.
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

/// True if the call needs another session first. It waits for it in the queue, ahead of new calls, so no pause is
/// needed.
fn went_with_its_session(cause: &Cause) -> bool {
    matches!(cause, Cause::Broken(_) | Cause::SessionLost(_) | Cause::Closed(_))
}

impl Service<StackRequest> for Pool {
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, request: StackRequest) -> Self::Future {
        let now = super::now();
        if let Some(until) = request.binding().paused_until(now) {
            return held_back(until, HeldBy::Pressure);
        }
        // Checked before taking a permit: returning one wakes the next call, which would loop.
        if let Err(until) = self.breaker.may_begin(now) {
            return held_back(until, HeldBy::SlowStart);
        }
        let kind = self.backend.kind_of(request.binding(), request.call());
        let lease = match self.backend.try_lease(request.binding(), kind, request.only_on()) {
            // Another session cannot serve this call.
            Ok(lease) if request.only_on().is_some_and(|epoch| epoch != lease.epoch()) => {
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
        // Another thread may have begun a call meanwhile.
        let pass = match self.breaker.begin(now) {
            Ok(pass) => pass,
            Err(until) => return held_back(until, HeldBy::SlowStart),
        };
        if request.is_first_attempt() {
            self.budget.sent(now);
        }
        let waited = request.take_place().map_or(Duration::ZERO, |waiter| {
            let waited = now.saturating_duration_since(waiter.since());
            waiter.served(now);
            waited
        });
        self.observe.leased(waited);
        request.sent_on(lease.opened());
        async move {
            let epoch = lease.epoch();
            let answer = lease.call(request.call()).await.map_err(|error| {
                if matches!(error.cause, Cause::SessionLost(_)) {
                    request.binding().session_lost(epoch);
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
    futures::future::ready(Err(StackError::HoldUntil(until, by))).boxed()
}

fn session_gone() -> CallError {
    CallError::not_sent(ErrorKind::Lost, "the agent's own session with the backend is over; initialize again")
}
