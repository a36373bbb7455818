//! One call of a stateless agent, to a backend of either era.
//!
//! The answer is one JSON body, or a stream if a message precedes it. The call belongs to its connection: where that
//! ends, the call is cancelled. If a backend session with handshake asks something during the call, the question is
//! sent to the caller as an answer, and the call goes on with the request that brings the caller's input.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mcpool_wire::{
    CallError, Era, ErrorKind, Executed, Forwarded, Link, Message, Method, Outlet, RpcId, error_response,
    modern::{answers, code, error_code},
};
use tokio::time::{Sleep, sleep_until};

use super::{
    StatelessRequest,
    call_output::{CallOutput, InputRequests, LogLevel, PostStep},
    detached::DetachedStatelessCall,
    links::SharedLink,
    parked::StateBinding,
    validate::Unfit,
};
use crate::{
    call::{
        CallResult, InFlightCall,
        detached::Reservation,
        options::{CallOptions, ResultAdapter},
        response_stream::stream,
    },
    http::{
        response::{Response, refused_here},
        response_body::AgentBody,
    },
    limits::memory::Charge,
    observe::Cause,
    session::agent::AgentCore,
    stream::{
        connection::ConnectionState,
        outbox::{Presence, Reader},
    },
};

/// A POST attached to a call. Dropped before its first step, it ends the call: it was the last consumer.
struct AttachedPost(Arc<CallOutput>);

impl Drop for AttachedPost {
    fn drop(&mut self) {
        self.0.left();
    }
}

pub(super) async fn serve<L: Link>(
    shared: &Arc<SharedLink<L>>,
    post: StatelessRequest<'_>,
    is_kept: bool,
    (message, charge): (Message, Charge),
) -> Response {
    let era = shared.link.era();
    if era == Era::Legacy && post.modern.request_state.is_some() {
        return Box::pin(again(shared, &post, &message)).await;
    }
    let (core, id) = (&shared.core, post.request.id.clone());
    let parameters = parameters(post.head.headers);
    if era == Era::Legacy
        && let Some(tool) = post.request.name.as_deref().filter(|_| post.request.method == Method::ToolsCall)
        && let Err(why) = shared.link.check_params(tool, message.bytes(), &parameters)
    {
        return Unfit::Mismatch(why).to_response(&id);
    }
    if era == Era::Legacy
        && let Some(level) = post.modern.log_level.as_deref().and_then(LogLevel::parse)
    {
        Box::pin(shared.hear(level)).await;
    }
    let inputs = if era == Era::Legacy { input_requests_of(shared, &post, &message) } else { None };
    let output =
        CallOutput::new(core, &shared.parked, &id, message.token(), post.modern.log_level.as_deref(), inputs);
    let outlet: Arc<dyn Outlet> = Arc::<CallOutput>::clone(&output);
    let (message, manner) = match era {
        Era::Modern => (message, CallOptions::modern(outlet, parameters)),
        Era::Legacy => {
            let opens_urls = asks_for_input(&post.request.method)
                && !post.modern.client.capabilities["elicitation"]["url"].is_null();
            let ttl_ms = is_kept.then_some(0);
            let adapter = ResultAdapter { server_info: Arc::clone(&shared.server_info), ttl_ms, opens_urls };
            (post.modern.to_legacy(&message), CallOptions::carried(outlet, adapter))
        }
    };
    match InFlightCall::begin(core, shared.link.as_ref(), post.request, (message, charge), manner) {
        Ok(running) => attend(core, &id, &output, Some(running), post.connection).await,
        Err(refusal) => Response::json(StatusCode::OK, Cause::Gateway, refusal),
    }
}

/// Resumes a parked call with the input of its caller.
async fn again<L: Link>(
    shared: &Arc<SharedLink<L>>,
    post: &StatelessRequest<'_>,
    message: &Message,
) -> Response {
    let (core, id) = (&shared.core, &post.request.id);
    let bad = |why| Response::refused(StatusCode::BAD_REQUEST, Some(id), -32602, why);
    let Some(given) = answers(post.modern.input_responses.as_deref().unwrap_or("{}")) else {
        return bad("inputResponses must be an object");
    };
    let taken = post.modern.request_state.as_deref().and_then(|state| {
        let state: String = serde_json::from_str(state).ok()?;
        let binding = StateBinding::to(&core.caller, &core.target.name, message.bytes())?;
        shared.parked.take(&state, &binding, &core.common)
    });
    let level = post.modern.log_level.as_deref();
    match taken {
        Some(output) if output.resume(id, message.token(), level, given) => {
            attend(core, id, &output, None, post.connection).await
        }
        _ => gone(id),
    }
}

/// Answers a `requestState` of no parked call: it was resumed before, expired, or is from before a restart. Its server
/// had begun with the call in any case.
fn gone(id: &RpcId) -> Response {
    let message = "this requestState stands for no call that waits: the call it was given for went on, ended or was \
                   cancelled, and may have run";
    let mut data = refused_here();
    data["executed"] = Executed::Maybe.as_str().into();
    let body = error_response(Some(id), -32602, message, Some(&data));
    Response::json(StatusCode::BAD_REQUEST, Cause::Agent, body)
}

/// Whether an answer to this method may ask for input.
fn asks_for_input(method: &Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
}

/// The input requests this call may make. `None`: the server must not ask anything.
fn input_requests_of<L: Link>(
    shared: &Arc<SharedLink<L>>,
    post: &StatelessRequest<'_>,
    message: &Message,
) -> Option<InputRequests> {
    if !asks_for_input(&post.request.method) || !post.modern.client.is_interactive() {
        return None;
    }
    let tied = Arc::clone(shared);
    Some(InputRequests {
        capabilities: post.modern.client.capabilities.clone(),
        message: message.bytes().clone(),
        server_info: Arc::clone(&shared.server_info),
        respond: Box::new(move |number, answer| tied.link.respond(number, answer)),
    })
}

/// Attends a call with one POST: the first POST owns the call, later ones attend a detached call.
async fn attend(
    core: &Arc<AgentCore>,
    id: &RpcId,
    output: &Arc<CallOutput>,
    running: Option<InFlightCall>,
    connection: &ConnectionState,
) -> Response {
    let _attached = AttachedPost(Arc::clone(output));
    let is_first = running.is_some();
    let mut running = running;
    let mut look = None;
    connection.watch(Some(core.common.times().answer_as_stream));
    let step = poll_fn(|cx| {
        let step = first(&mut running, output, &mut look, cx);
        if step.is_pending() && connection.wants_bytes() && output.begin() {
            return output.poll_post(cx);
        }
        step
    })
    .await;
    let detached = is_first.then(|| DetachedStatelessCall::new(running, Arc::clone(output)));
    match step {
        PostStep::End(result) => whole(result),
        PostStep::Stream(reader) => streamed(core, reader, detached).await,
        PostStep::InputRequired(body) => match detached.map_or(Ok(()), |detached| detach(core, detached)) {
            Ok(()) => Response::json(StatusCode::OK, Cause::Gateway, body),
            Err(_) => {
                output.abandon();
                let message = "the gateway owns as many calls as it may for callers that are not there";
                let error = CallError::not_sent(ErrorKind::Overloaded, message).executed(Executed::Maybe);
                failed(core, id, &error)
            }
        },
        PostStep::Refused(error) => failed(core, id, &error),
        PostStep::Nothing => Response::events(AgentBody::empty()),
    }
}

fn first(
    running: &mut Option<InFlightCall>,
    output: &Arc<CallOutput>,
    look: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<PostStep> {
    if let Some(call) = running
        && let Poll::Ready(result) = call.poll_end(cx)
    {
        *running = None;
        output.finish(result);
    }
    loop {
        let step = output.poll_post(cx);
        let Some(until) = output.gathers().filter(|_| step.is_pending()) else { return step };
        let timer = look.get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().reset(until);
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
    }
}

async fn streamed(
    core: &Arc<AgentCore>,
    reader: Reader,
    detached: Option<DetachedStatelessCall>,
) -> Response {
    if let Some(mut detached) = detached.and_then(|detached| detach(core, detached).err()) {
        // No room for another detached call: the messages wait for the answer.
        let outbox = reader.outbox();
        let end = poll_fn(|cx| {
            let is_over = std::pin::Pin::new(&mut *detached).poll(cx).is_ready();
            if is_over || outbox.poll_presence(cx) == Presence::Closed {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        end.await;
    }
    stream(core, reader)
}

/// Detaches a call, or gives it back if there is no room.
fn detach(core: &AgentCore, detached: DetachedStatelessCall) -> Result<(), Box<DetachedStatelessCall>> {
    match Reservation::take(&core.common) {
        Some(place) => {
            let breaker = detached.breaker();
            place.give(detached, breaker);
            Ok(())
        }
        None => Err(Box::new(detached)),
    }
}

fn failed(core: &AgentCore, id: &RpcId, error: &CallError) -> Response {
    let body = error.to_response(Some(id), &core.common.request_id().to_string());
    Response::json(StatusCode::OK, Cause::Gateway, body)
}

/// The answer as one JSON body, with the status this era gives its errors.
fn whole(result: CallResult) -> Response {
    let Some(body) = result.body else { return Response::status(StatusCode::OK, result.cause) };
    let status = if result.is_error { status_of(&body) } else { StatusCode::OK };
    Response::json(status, result.cause, body)
}

/// The HTTP status of an error from the backend: by its code, the same for backends of both eras.
fn status_of(body: &Bytes) -> StatusCode {
    match error_code(body) {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(
            -32700 | -32600 | code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION,
        ) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// The `Mcp-Param-*` headers, for the backend to read. Doubled headers were refused by the endpoint.
fn parameters(headers: &HeaderMap) -> Forwarded {
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("mcp-param-"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_decides_on_its_status() {
        for (code, status) in [
            (-32601, 404),
            (-32700, 400),
            (-32600, 400),
            (-32020, 400),
            (-32021, 400),
            (-32022, 400),
            (-32602, 200),
            (-32603, 200),
            (-31901, 200),
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#);
            assert_eq!(status_of(&Bytes::from(body)).as_u16(), status, "{code}");
        }
    }
}
