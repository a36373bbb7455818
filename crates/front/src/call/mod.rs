//! Calls in flight: a call can be cancelled, moved to another owner, and reports its end exactly once.

pub(crate) mod detached;
pub(crate) mod handler;
pub(crate) mod options;
pub(crate) mod repeated;
pub(crate) mod response_stream;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use mcpool_wire::{
    Answer, Call, CallError, CallTrace, Caller, Envelope, ErrorKind, Executed, Link, Message, Method, Outlet,
    Reply, RequestId, RpcId,
};
use tokio::time::Instant;

use crate::{
    call::options::{CallOptions, IdScope, ResultAdapter},
    limits::{
        memory::Charge,
        refused::{draining, overloaded},
    },
    message::Request,
    observe::{Cause, FrontEvent, Outcome},
    panics::panic_message,
    session::{
        agent::{AgentCore, BeginError, CallRegistration, StopReason},
        census::CallNote,
    },
    shared::{Common, Ending, outcome_of},
};

/// A call in flight. Dropping it cancels it.
pub(crate) struct InFlightCall {
    reply: Reply<Answer>,
    registration: Option<CallRegistration>,
    id: RpcId,
    method: Method,
    request_id: RequestId,
    trace: Arc<CallTrace>,
    adapter: Option<ResultAdapter>,
    /// The charge of the message, held until the call ends.
    _charge: Charge,
}

/// The result of a call. Holds the request id until the answer is sent.
pub(crate) struct CallResult {
    /// The response under the agent's id. `None` if the agent cancelled the call.
    pub(crate) body: Option<Bytes>,
    pub(crate) cause: Cause,
    /// Whether the answer is an error.
    pub(crate) is_error: bool,
    pub(crate) registration: Option<CallRegistration>,
}

impl InFlightCall {
    /// Starts a call of an agent session on `link`. `Err` is the response that refuses it.
    pub(crate) fn start<L: Link>(
        core: &Arc<AgentCore>,
        link: &L,
        request: Request,
        message: (Message, Charge),
        outlet: Option<Arc<dyn Outlet>>,
    ) -> Result<Self, Bytes> {
        Self::begin(core, link, request, message, CallOptions::of_session(outlet))
    }

    /// Starts a call on `link` with these options. `Err` is the response that refuses it.
    pub(crate) fn begin<L: Link>(
        core: &Arc<AgentCore>,
        link: &L,
        request: Request,
        (message, charge): (Message, Charge),
        options: CallOptions,
    ) -> Result<Self, Bytes> {
        let request_id = core.common.request_id();
        let started = Instant::now().into_std();
        let trace = Arc::new(CallTrace::new(started));
        if let Some(why) = request.beyond {
            let error = CallError::not_sent(ErrorKind::InvalidParams, why);
            return Err(reject(core, &request.id, &request.method, request_id, &trace, &error));
        }
        if core.common.is_draining() {
            return Err(reject(core, &request.id, &request.method, request_id, &trace, &draining()));
        }
        let memory = &core.common.memory;
        if memory.refuses() {
            memory.shed("call_refused");
            let error = overloaded(memory);
            return Err(reject(core, &request.id, &request.method, request_id, &trace, &error));
        }
        let registration = match options.scope {
            IdScope::Session => core.begin(request.id.value(), message.bytes()),
            IdScope::SharedLink => core.join(),
        };
        let registration = match registration {
            Ok(registration) => registration,
            Err(error) => return Err(refuse(core, &request, request_id, &trace, &error)),
        };
        let call = Call {
            caller: request.caller.unwrap_or_else(|| Arc::<Caller>::clone(&core.caller)),
            request_id,
            method: request.method.clone(),
            message,
            era: options.era,
            headers: options.headers,
            name: request.name,
            is_plain_list: request.is_plain_list,
            wants_task: request.wants_task,
            outlet: options.outlet,
            hard_deadline: started + core.common.times().call,
            trace: Arc::clone(&trace),
        };
        let name = call.name.clone();
        let note = CallNote { request_id, method: request.method.clone(), name, trace: Arc::clone(&trace) };
        let _ = registration.flag.note.set(note);
        core.profile.calls(call.message.bytes().len());
        let reply = catch_unwind(AssertUnwindSafe(|| link.call(call))).unwrap_or_else(|payload| {
            let error = failed(Some(&core.common), payload.as_ref());
            Box::pin(std::future::ready(Err(error)))
        });
        let (id, method, adapter) = (request.id, request.method, options.adapter);
        Ok(Self {
            reply,
            registration: Some(registration),
            id,
            method,
            request_id,
            trace,
            adapter,
            _charge: charge,
        })
    }

    /// Ends the call now, with this error.
    pub(crate) fn give_up(&mut self, kind: ErrorKind, message: &'static str) -> CallResult {
        let error = CallError::not_sent(kind, message).executed(self.trace.executed());
        self.reply = Box::pin(std::future::pending());
        self.finish(Err(error))
    }

    /// The registration with the agent session; `None` once the call has ended.
    pub(crate) fn registration(&self) -> Option<&CallRegistration> {
        self.registration.as_ref()
    }

    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<CallResult> {
        let reason = self.registration.as_ref().and_then(|registration| registration.flag.reason(cx.waker()));
        if reason == Some(StopReason::Cancelled) {
            let error = CallError::not_sent(ErrorKind::Cancelled, "cancelled by the agent")
                .executed(self.trace.executed());
            self.report(Outcome::Cancelled, Some(&error));
            // Dropping the reply now tells the backend that the call is cancelled.
            self.reply = Box::pin(std::future::pending());
            let registration = self.registration.take();
            return Poll::Ready(CallResult {
                body: None,
                cause: Cause::Agent,
                is_error: false,
                registration,
            });
        }
        let polled = catch_unwind(AssertUnwindSafe(|| self.reply.as_mut().poll(cx)));
        let result = match polled {
            Ok(Poll::Pending) => match reason.and_then(|reason| self.stopped(reason)) {
                None => return Poll::Pending,
                Some(error) => {
                    // Dropping the reply tells the backend.
                    self.reply = Box::pin(std::future::pending());
                    Err(error)
                }
            },
            Ok(Poll::Ready(result)) => result,
            Err(payload) => {
                let executed = self.trace.executed();
                let common =
                    self.registration.as_ref().map(|registration| Arc::clone(&registration.core.common));
                // A future that panicked must not be polled again.
                self.reply = Box::pin(std::future::pending());
                Err(failed(common.as_deref(), payload.as_ref()).executed(executed))
            }
        };
        Poll::Ready(self.finish(result))
    }

    /// The error for a call without an answer when the gateway shuts down. `None` if it may go on.
    fn stopped(&self, reason: StopReason) -> Option<CallError> {
        match (reason, self.trace.executed()) {
            (StopReason::UnlessSent | StopReason::Now, Executed::No) => Some(draining()),
            (StopReason::Now, executed) => {
                let message = "the gateway was shut down while the call was in flight";
                Some(CallError::not_sent(ErrorKind::Lost, message).executed(executed))
            }
            (StopReason::UnlessSent | StopReason::Cancelled, _) => None,
        }
    }

    fn finish(&mut self, result: Result<Answer, CallError>) -> CallResult {
        let (body, cause, is_error) = match result {
            Ok(answer) => {
                let outcome = match (answer.is_rpc_error, answer.is_tool_error) {
                    (true, _) => Outcome::RpcError,
                    (false, true) => Outcome::ToolError,
                    (false, false) => Outcome::Ok,
                };
                self.report(outcome, None);
                let mut body = answer.with_id(self.id.raw());
                if let Some(adapter) = &self.adapter {
                    body = adapter.over(&body);
                }
                (body, Cause::Backend, answer.is_rpc_error)
            }
            Err(error) => {
                self.report(outcome_of(&error), Some(&error));
                (error.to_response(Some(&self.id), &self.request_id.to_string()), Cause::Gateway, true)
            }
        };
        if let Some(registration) = &self.registration {
            registration.core.profile.answered(body.len());
        }
        CallResult { body: Some(body), cause, is_error, registration: self.registration.take() }
    }

    fn report(&self, outcome: Outcome, error: Option<&CallError>) {
        let Some(registration) = &self.registration else { return };
        let ending = Ending {
            agent: registration.core.caller.agent,
            request_id: self.request_id,
            method: &self.method,
            target: &registration.core.target.name,
            trace: &self.trace,
        };
        registration.core.profile.ended(outcome, &self.trace);
        ending.report(&registration.core.common, outcome, error);
    }
}

impl CallResult {
    /// The same result under another id.
    pub(crate) fn under(mut self, id: &RpcId) -> Self {
        self.body = self.body.map(|body| match Envelope::parse(&body) {
            Ok(envelope) => Message::new(body.clone(), &envelope).with_id(id.raw()),
            Err(_) => body,
        });
        self
    }
}

impl Future for InFlightCall {
    type Output = CallResult;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CallResult> {
        self.get_mut().poll_end(cx)
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        // Dropped in flight: the answer has no reader any more.
        if self.registration.is_some() {
            let error = CallError::not_sent(ErrorKind::Cancelled, "nobody waits for the answer any more")
                .executed(self.trace.executed());
            self.report(Outcome::Cancelled, Some(&error));
        }
    }
}

/// Reports a panic of a call. It ends that call with an answer, and nothing else on the same task.
fn failed(common: Option<&Common>, payload: &(dyn Any + Send)) -> CallError {
    if let Some(common) = common {
        common.emit(&FrontEvent::Panicked { task: "call", why: panic_message(payload) });
    }
    CallError::not_sent(ErrorKind::Lost, "the gateway failed on this call")
}

fn refuse(
    core: &AgentCore,
    request: &Request,
    request_id: RequestId,
    trace: &CallTrace,
    error: &BeginError,
) -> Bytes {
    reject(core, &request.id, &request.method, request_id, trace, &error.error())
}

/// The error response to a request for which no call is started.
pub(crate) fn reject_as(
    core: &AgentCore,
    request: &Request,
    kind: ErrorKind,
    executed: Executed,
    message: &'static str,
) -> Bytes {
    let error = CallError::not_sent(kind, message).executed(executed);
    let trace = CallTrace::new(Instant::now().into_std());
    reject(core, &request.id, &request.method, core.common.request_id(), &trace, &error)
}

/// The error response to a refused call, which is reported like any other end.
pub(crate) fn reject(
    core: &AgentCore,
    id: &RpcId,
    method: &Method,
    request_id: RequestId,
    trace: &CallTrace,
    error: &CallError,
) -> Bytes {
    let ending = Ending { agent: core.caller.agent, request_id, method, target: &core.target.name, trace };
    ending.refused(&core.common, error);
    error.to_response(Some(id), &request_id.to_string())
}
