//! Deadline layer: ends a call when its backend has been silent for `call_timeout`, or at the hard deadline. Progress
//! restarts the silence, waiting for an agent's answer to a server request does not count, and a call that waits out a
//! pause counts from the pause's end.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt as _;
use mcpool_upstream::{Backend, TrafficState};
use mcpool_wire::{Answer, CallError, ErrorKind, Executed, Phase};
use tower::Service;

use super::{StackError, StackFuture, StackRequest, always_ready, now};

/// The deadline layer.
#[derive(Clone)]
pub struct Deadline<S> {
    pub(super) inner: S,
    pub(super) idle: Duration,
    pub(super) backend: Arc<Backend>,
}

impl<S> Service<StackRequest> for Deadline<S>
where
    S: Service<StackRequest, Response = Answer, Error = StackError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = StackError;
    type Future = StackFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StackError>> {
        always_ready(cx)
    }

    fn call(&mut self, request: StackRequest) -> Self::Future {
        let (idle, backend) = (self.idle, self.backend.clone());
        let call = self.inner.call(request.clone());
        async move {
            tokio::pin!(call);
            let mut until = request.call().trace.started + idle;
            loop {
                until = until.min(request.call().hard_deadline);
                let timer = tokio::time::Instant::from_std(until);
                if let Ok(answer) = tokio::time::timeout_at(timer, &mut call).await {
                    return answer;
                }
                until = match next(&request, idle, &backend) {
                    Some(later) => later,
                    None => return Err(StackError::Ended(passed(&request, idle))),
                };
            }
        }
        .boxed()
    }
}

/// The next time to check; `None` if the call has timed out.
fn next(request: &StackRequest, idle: Duration, backend: &Backend) -> Option<std::time::Instant> {
    let now = now();
    if now >= request.call().hard_deadline {
        return None;
    }
    if request.binding().awaits_agent() {
        return Some(now + idle);
    }
    let trace = &request.call().trace;
    let flows_since = backend.flows_since();
    let is_in_flight = trace.phase() != Phase::Queued;
    let ran_before =
        is_in_flight && trace.waited().is_some_and(|waited| trace.started + waited < flows_since);
    if backend.traffic() == TrafficState::Paused && !is_in_flight {
        return Some(now + idle);
    }
    let since = if ran_before { trace.last_activity() } else { trace.last_activity().max(flows_since) };
    let until = since + idle;
    (until > now).then_some(until)
}

fn passed(request: &StackRequest, idle: Duration) -> CallError {
    let trace = &request.call().trace;
    let executed = trace.executed();
    let hard = request.call().hard_deadline;
    if now() >= hard {
        let whole = hard.saturating_duration_since(trace.started);
        let message = format!("the call has taken {whole:?}, the longest a call may take (times.call)");
        return CallError::not_sent(ErrorKind::Deadline, message).executed(executed);
    }
    let message = match (executed, trace.cause()) {
        (Executed::No, cause) => {
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("no session and connection could take the call within {idle:?}{cause}")
        }
        _ => format!("the backend sent neither an answer nor progress for {idle:?} (call_timeout)"),
    };
    CallError::not_sent(ErrorKind::Deadline, message).executed(executed)
}
