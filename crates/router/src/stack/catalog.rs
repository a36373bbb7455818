//! The outermost layer: answers some requests in the gateway, serves cached lists, and merges concurrent list requests.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_upstream::{Backend, Binding, ListCall, Page};
use mcpool_wire::{Answer, Call, CallError, ErrorKind, Executed};
use tower::Service;

use super::{
    StackError, StackRequest, always_ready,
    errors::{backend_retired, failed},
    now,
};

/// Layer that answers requests which need no session, and forwards the rest.
#[derive(Clone)]
pub struct Catalog<S> {
    pub(super) inner: S,
    pub(super) backend: Arc<Backend>,
}

impl<S> Service<StackRequest> for Catalog<S>
where
    S: Service<StackRequest, Response = Answer, Error = StackError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Answer, CallError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        always_ready(cx)
    }

    fn call(&mut self, request: StackRequest) -> Self::Future {
        if let Some(answer) = request.binding().answer_here(&self.backend, request.call()) {
            let name = self.backend.spec().name.clone();
            return answer.map(|answer| answer.map_err(|error| error.of_backend(name))).boxed();
        }
        if request.binding().shares_list(request.call()) {
            return self.clone().list(request).boxed();
        }
        let name = self.backend.spec().name.clone();
        let call = self.inner.call(request.clone());
        async move {
            let answer = call.await.map_err(|error| finish(error, &request, &name))?;
            Ok(request.binding().for_agent(request.call(), answer))
        }
        .boxed()
    }
}

impl<S> Catalog<S>
where
    S: Service<StackRequest, Response = Answer, Error = StackError> + Send + 'static,
    S::Future: Send + 'static,
{
    async fn list(mut self, request: StackRequest) -> Result<Answer, CallError> {
        let binding = request.binding().clone();
        // Converts the page to the agent's revision.
        let (reader, call) = (binding.clone(), request.call().clone());
        let read = move |page: Page| reader.for_agent(&call, page.answer);
        let named = |error: CallError| error.of_backend(self.backend.spec().name.clone());
        match binding.list_call(request.call()).map_err(named)? {
            ListCall::Next(message, epoch) => {
                let call = Call { message, ..request.call().clone() };
                let request = match epoch {
                    Some(epoch) => StackRequest::only_for(call, binding, epoch),
                    None => StackRequest::new(call, binding),
                };
                self.ask(request).await.map(read)
            }
            // Progress goes to one agent, so such a request is not merged.
            ListCall::First if !request.call().is_plain_list || request.call().message.has_token() => {
                self.ask(request).await.map(read)
            }
            ListCall::First => match binding.cached_list(request.call()) {
                Some(known) => Ok(known),
                None => self.share(request).await.map(read),
            },
        }
    }

    /// The first page of a list, requested once for all agents that want it now.
    async fn share(&mut self, request: StackRequest) -> Result<Page, CallError> {
        let binding = request.binding().clone();
        let until = request.call().trace.started + self.backend.spec().times.call_idle;
        loop {
            let (flight, is_own) = binding.join_list(request.call(), || self.ask(request.clone()).boxed());
            match flight.await {
                Ok(page) if is_own || binding.can_follow(&page) => {
                    request.call().trace.mark_answered(now());
                    return Ok(page);
                }
                // The next page needs a session that this agent does not use.
                Ok(_) => return self.ask(request).await,
                Err(error) if !is_own && Binding::should_rejoin(&error) && now() < until => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn ask(
        &mut self,
        request: StackRequest,
    ) -> impl Future<Output = Result<Page, CallError>> + Send + use<S> {
        let name = self.backend.spec().name.clone();
        let call = self.inner.call(request.clone());
        async move {
            let answer = call.await.map_err(|error| finish(error, &request, &name))?;
            let epoch = request.call().trace.session();
            request
                .binding()
                .page(request.call(), answer, epoch)
                .map_err(|error| error.executed(Executed::Yes).of_backend(name))
        }
    }
}

fn finish(error: StackError, request: &StackRequest, backend: &Arc<str>) -> CallError {
    let mut error = match error {
        StackError::Ended(error) => error,
        StackError::Failed(error) => failed(&error, backend),
        StackError::BackendRetired => backend_retired(backend),
        // Unreachable: the queue handles these. Nothing was sent in any case.
        StackError::Full(_) | StackError::CircuitOpen(_) | StackError::HoldUntil(..) => CallError::not_sent(
            ErrorKind::Overloaded,
            format!("backend {backend:?} has no session for the call"),
        ),
    };
    // An earlier attempt may have run, whatever this error is.
    if error.executed == Executed::No && request.may_have_run() {
        error.executed = Executed::Maybe;
    }
    error.attempt = request.call().trace.attempts();
    error.of_backend(backend.clone())
}
