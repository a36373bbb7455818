//! The outermost layer: answers some requests in the gateway, serves cached lists, and merges concurrent list requests.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_upstream::{Backend, ListCall, Page, Seat};
use mcpool_wire::{Answer, Call, CallError, ErrorKind, Executed};
use tower::Service;

use super::{
    Order, StackError, always_ready,
    errors::{failed, left},
    now,
};

/// Layer that answers requests which need no session, and forwards the rest.
#[derive(Clone)]
pub struct Catalog<S> {
    pub(super) inner: S,
    pub(super) backend: Arc<Backend>,
}

impl<S> Service<Order> for Catalog<S>
where
    S: Service<Order, Response = Answer, Error = StackError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Answer, CallError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        always_ready(cx)
    }

    fn call(&mut self, order: Order) -> Self::Future {
        if let Some(answer) = order.seat().answer_here(&self.backend, order.call()) {
            let name = self.backend.spec().name.clone();
            return answer.map(|answer| answer.map_err(|error| error.of_backend(name))).boxed();
        }
        if order.seat().shares_list(order.call()) {
            return self.clone().list(order).boxed();
        }
        let name = self.backend.spec().name.clone();
        let call = self.inner.call(order.clone());
        async move {
            let answer = call.await.map_err(|error| finish(error, &order, &name))?;
            Ok(order.seat().for_agent(order.call(), answer))
        }
        .boxed()
    }
}

impl<S> Catalog<S>
where
    S: Service<Order, Response = Answer, Error = StackError> + Send + 'static,
    S::Future: Send + 'static,
{
    async fn list(mut self, order: Order) -> Result<Answer, CallError> {
        let seat = order.seat().clone();
        // Converts the page to the agent's revision.
        let (reader, call) = (seat.clone(), order.call().clone());
        let read = move |page: Page| reader.for_agent(&call, page.answer);
        let named = |error: CallError| error.of_backend(self.backend.spec().name.clone());
        match seat.list_call(order.call()).map_err(named)? {
            ListCall::Next(message, epoch) => {
                let call = Call { message, ..order.call().clone() };
                let order = match epoch {
                    Some(epoch) => Order::only_for(call, seat, epoch),
                    None => Order::new(call, seat),
                };
                self.ask(order).await.map(read)
            }
            // Progress goes to one agent, so such a request is not merged.
            ListCall::First if !order.call().is_plain_list || order.call().message.has_token() => {
                self.ask(order).await.map(read)
            }
            ListCall::First => match seat.cached_list(order.call()) {
                Some(known) => Ok(known),
                None => self.share(order).await.map(read),
            },
        }
    }

    /// The first page of a list, requested once for all agents that want it now.
    async fn share(&mut self, order: Order) -> Result<Page, CallError> {
        let seat = order.seat().clone();
        let until = order.call().trace.started + self.backend.spec().times.call_idle;
        loop {
            let (flight, is_own) = seat.join_list(order.call(), || self.ask(order.clone()).boxed());
            match flight.await {
                Ok(page) if is_own || seat.can_follow(&page) => {
                    order.call().trace.mark_answered(now());
                    return Ok(page);
                }
                // The next page needs a session that this agent does not use.
                Ok(_) => return self.ask(order).await,
                Err(error) if !is_own && Seat::should_rejoin(&error) && now() < until => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn ask(&mut self, order: Order) -> impl Future<Output = Result<Page, CallError>> + Send + use<S> {
        let name = self.backend.spec().name.clone();
        let call = self.inner.call(order.clone());
        async move {
            let answer = call.await.map_err(|error| finish(error, &order, &name))?;
            let epoch = order.call().trace.session();
            order
                .seat()
                .page(order.call(), answer, epoch)
                .map_err(|error| error.executed(Executed::Yes).of_backend(name))
        }
    }
}

fn finish(error: StackError, order: &Order, backend: &Arc<str>) -> CallError {
    let mut error = match error {
        StackError::Ended(error) => error,
        StackError::Failed(error) => failed(&error, backend),
        StackError::Left => left(backend),
        // Unreachable: the queue handles these. Nothing was sent in any case.
        StackError::Full(_) | StackError::Shut(_) | StackError::Later(..) => CallError::not_sent(
            ErrorKind::Overloaded,
            format!("backend {backend:?} has no session for the call"),
        ),
    };
    // An earlier attempt may have run, whatever this error is.
    if error.executed == Executed::No && order.may_have_run() {
        error.executed = Executed::Maybe;
    }
    error.attempt = order.call().trace.attempts();
    error.of_backend(backend.clone())
}
