//! Streamable HTTP: one message per POST, answered as JSON, or as a stream if a message precedes the answer or the
//! agent names streams first.
//!
//! Every stream can be resumed by a GET that names its last event (`replay`).
//!
//! A call runs in its handler's future. It becomes a detached call when its answer is a stream, so that a peer that
//! does not read delays nothing, and when its connection dies, because a disconnect is no cancellation.

pub(crate) mod answer;
pub(crate) mod batch;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use mcpool_wire::{
    Backends, CallError, ClientHello, Era, Hello, Link, Message, Method, Outlet, Revision, RpcId, Target,
    result_response,
};

use crate::{
    call::response_stream::stream,
    http::{
        headers::{SESSION_ID, VERSION, text},
        response::Response,
        response_body::AgentBody,
    },
    limits::refused::NoPlace,
    message::{Body, Incoming, Request},
    observe::{AgentEnd, Cause, Transport},
    session::{
        Front, RequestHead,
        agent::{Agent, AgentCore, Resume, Side},
        open::{self, OpenEnd},
        restore::Missing,
    },
    session_id::{AgentSessionId, seal::Binding},
    stream::{
        connection::ConnectionState,
        event::EventId,
        outbox::{Outbox, Taken, unless_taken},
    },
};

/// Serves a POST with one message of a revision with handshake.
pub(crate) async fn message<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    incoming: Incoming,
    connection: &Arc<ConnectionState>,
) -> Response {
    let headers = head.headers;
    if let Some(version) = text(headers, &VERSION).filter(|version| Revision::parse(version).is_none()) {
        return unsupported(version, &incoming);
    }
    if let Body::BadId(why) = incoming.body {
        return Response::bad_request(None, -32600, why);
    }
    if text(headers, &SESSION_ID).is_none()
        && let Body::Request(request) = &incoming.body
        && request.method == Method::Initialize
    {
        return Box::pin(initialize(front, head, request.clone(), &incoming.message)).await;
    }
    let agent = match agent_of(front, head, incoming.id()).await {
        Ok(agent) => agent,
        Err(NoAgent::Unopened(error, target)) => return not_opened(front, &error, &target, incoming.body),
        Err(NoAgent::Refused(refused)) => return *refused,
    };
    let Side::Http { link, interactive } = &agent.side else {
        return Response::unknown_session(incoming.id());
    };
    let caller = front.as_sent(&agent.core, headers);
    match incoming.body {
        // The server's words for another credential are not reused for this one.
        Body::Request(request) if request.method == Method::Initialize && agent.core.has_moved() => {
            Box::pin(initialize(front, head, request, &incoming.message)).await
        }
        Body::Request(mut request) => {
            request.caller = Some(caller);
            let message = (incoming.message, incoming.charge);
            match request.method {
                Method::Ping => Response::ok(Cause::Gateway, result_response(&request.id, b"{}")),
                Method::Initialize => again(&agent.core, link.as_ref(), headers, &request, &message.0),
                _ => {
                    answer::call(
                        &agent.core,
                        link.as_ref(),
                        *interactive,
                        headers,
                        request,
                        message,
                        connection,
                    )
                    .await
                }
            }
        }
        body => {
            take(&agent, link.as_ref(), body, incoming.message);
            Response::accepted()
        }
    }
}

/// Why a request has no agent session.
pub(crate) enum NoAgent {
    /// The request is answered with this response.
    Refused(Box<Response>),
    /// The session could be restored, but its backend gave no link.
    Unopened(Arc<CallError>, Target),
}

/// Finds or restores the agent session that a POST names; `id` is echoed in errors. A session belongs to the backend it
/// was opened for and is unknown under the URL of another.
pub(crate) async fn agent_of<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    id: Option<&RpcId>,
) -> Result<Arc<Agent<B::Link>>, NoAgent> {
    let refused = |response| NoAgent::Refused(Box::new(response));
    let session = text(head.headers, &SESSION_ID);
    let target = match front.backends.target(head.backend, head.identity) {
        Ok(target) => target,
        Err(why) => {
            let held = session.and_then(|session| front.known(Transport::Http, head, session));
            return held.ok_or_else(|| refused(front.unknown_backend(head, id, &why)));
        }
    };
    let Some(session) = session else { return Err(refused(no_session(id))) };
    match front.agent(head, session, &target).await {
        Ok(agent) => Ok(agent),
        Err(Missing::Unopened(error)) => Err(NoAgent::Unopened(error, target)),
        Err(missing) => Err(refused(front.missing(&missing, id))),
    }
}

/// Answers a message of a session whose backend is not there: a call fails like any other, everything else is dropped.
fn not_opened<B: Backends>(front: &Front<B>, error: &CallError, target: &Target, body: Body) -> Response {
    match body {
        Body::Request(request) => front.unopened(error, &request.id, &request.method, target),
        Body::Notification(..) | Body::BadId(_) => {
            front.common.dropped("notification");
            Response::accepted()
        }
        Body::Response(_) => {
            front.common.dropped("agent_response");
            Response::accepted()
        }
    }
}

/// Serves a GET that names a session: resumes a stream after its last event, or opens the session's own stream. The
/// newest connection gets the stream, and the displaced one is not let in again for a while.
pub(crate) async fn listen<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    session: &str,
) -> Response {
    let Ok(target) = front.backends.target(head.backend, head.identity) else {
        return Response::unknown_session(None);
    };
    let agent = match front.agent(head, session, &target).await {
        Ok(agent) => agent,
        Err(missing) => return front.missing(&missing, None),
    };
    let core = &agent.core;
    let last_event = text(head.headers, "last-event-id").and_then(EventId::parse);
    let resumed = unless_taken(|| last_event.map_or(Ok(Resume::Unknown), |id| core.resume(id))).await;
    let reader = match resumed {
        Ok(Resume::Stream(reader)) => return stream(core, reader),
        Ok(Resume::Over) => return Response::nothing_left(),
        // An agent that waits for nothing must not keep the gateway from shutting down.
        Ok(Resume::Unknown) if front.common.is_draining() && core.is_idle() => {
            return Response::no_place(None, &front.common.request_id().to_string(), NoPlace::Draining);
        }
        Ok(Resume::Unknown) => unless_taken(|| core.outbox.request(None)).await,
        Err(taken) => Err(taken),
    };
    match reader {
        Ok(Some(reader)) => stream(core, reader),
        Ok(None) => Response::unknown_session(None),
        Err(Taken) => Response::taken(),
    }
}

/// Serves a DELETE: ends the agent session for good, whether this gateway holds it or not. Shared backend sessions live
/// on.
pub(crate) async fn delete<B: Backends>(front: &Front<B>, head: &RequestHead<'_>) -> Response {
    let headers = head.headers;
    if Era::of_header(text(headers, &VERSION)) == Era::Modern {
        return Response::method_not_allowed("POST").over(Transport::Http);
    }
    let Some(session) = text(headers, &SESSION_ID) else {
        let message = "DELETE needs an Mcp-Session-Id header";
        return Response::bad_request(None, -32600, message).over(Transport::Http);
    };
    match AgentSessionId::parse(session).zip(front.backends.target(head.backend, head.identity).ok()) {
        Some((id, target)) => end(front, head, id, &target).await,
        None => Response::unknown_session(None),
    }
    .over(Transport::Http)
}

async fn end<B: Backends>(
    front: &Front<B>,
    head: &RequestHead<'_>,
    id: AgentSessionId,
    target: &Target,
) -> Response {
    let (transport, carried) = (Transport::Http, front.carried(target, head.headers));
    let binding = Binding { transport, identity: head.identity, target, carried: &carried };
    if front.agents.find(id, &binding).is_none() && front.verify_restorable(id, &binding).is_err() {
        return Response::unknown_session(None);
    }
    // Revoked before the look-up: a concurrent restore sees either the revocation or the missing session.
    let revoked = front.common.revoke(id, &binding);
    if let Some(agent) = front.agents.find(id, &binding) {
        front.agents.remove(id, &agent.core, AgentEnd::Deleted);
    }
    if let Some(one) = revoked {
        front.common.revocations.written(one).await;
    }
    Response::empty(Cause::Gateway)
}

async fn initialize<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    request: Request,
    message: &Message,
) -> Response {
    let target = match front.backends.target(head.backend, head.identity) {
        Ok(target) => target,
        Err(why) => return front.unknown_backend(head, Some(&request.id), &why),
    };
    let common = &front.common;
    let permit = match front.acquire_session(head.peer).await {
        Ok(permit) => permit,
        Err(why) => return Response::no_place(Some(&request.id), &common.request_id().to_string(), why),
    };
    let client = match ClientHello::parse(message.bytes()) {
        Ok(client) => client,
        Err(why) => return Response::refused_ok(Some(&request.id), -32602, why),
    };
    let core = front.new_agent(head, target, Transport::Http, permit, None);
    let (revision, interactive) = (client.revision, client.is_interactive());
    core.profile.introduced(&client.client_info);
    let end = OpenEnd::new(&core);
    let outlet: Arc<dyn Outlet> = Arc::<AgentCore>::clone(&core);
    let hello = Hello { caller: Arc::clone(&core.caller), target: core.target.clone(), client, outlet };
    match open::bounded(front.backends.open(hello), common).await {
        Ok(link) => {
            core.agreed_on(revision);
            core.profile.tied(link.as_ref());
            end.ok(&core, &request);
            let Some(id) = front.mint(&core, link.is_own(), interactive) else {
                return Response::internal_error();
            };
            if link.is_own() {
                core.becomes_own(Arc::clone(&core.caller.forwarded));
            }
            let body = result_response(&request.id, &link.initialize_result(revision));
            front.agents.insert(Agent { id, core, side: Side::Http { link, interactive } });
            with_session(Response::ok(Cause::Backend, body), &id.to_text())
        }
        Err(error) => failed(&end, &core, &request, &error),
    }
}

/// An `initialize` that failed: no session, but a body the agent's SDK shows to its user.
fn failed(end: &OpenEnd, core: &AgentCore, request: &Request, error: &CallError) -> Response {
    Response::ok(Cause::Gateway, end.refused(core, request, error))
}

/// Answers with the last events of a stream that is complete already.
pub(crate) fn as_stream(
    core: &AgentCore,
    answers: impl IntoIterator<Item = Bytes>,
    opened: Option<Arc<Outbox>>,
) -> Response {
    let outbox = opened.unwrap_or_else(|| core.call_outbox());
    // The stream is closed already if more was sent than an agent may leave unread.
    let Some(reader) = outbox.attach() else { return Response::events(AgentBody::empty()) };
    for answer in answers {
        core.send_answer_on(&outbox, answer);
    }
    outbox.close();
    stream(core, reader)
}

/// Answers a repeated `initialize` again: the only choice that never breaks an agent.
fn again<L: Link>(
    core: &AgentCore,
    link: &L,
    headers: &HeaderMap,
    request: &Request,
    message: &Message,
) -> Response {
    match ClientHello::parse(message.bytes()) {
        Ok(client) => {
            core.agreed_on(client.revision);
            let body = result_response(&request.id, &link.initialize_result(client.revision));
            let session = text(headers, &SESSION_ID).unwrap_or_default();
            with_session(Response::ok(Cause::Gateway, body), session)
        }
        Err(why) => Response::refused_ok(Some(&request.id), -32602, why),
    }
}

/// Passes on a notification or a response.
pub(crate) fn take<L: Link>(agent: &Agent<L>, link: &L, body: Body, message: Message) {
    match body {
        Body::Notification(Method::Initialized, _) | Body::Request(_) | Body::BadId(_) => {}
        Body::Notification(Method::Cancelled, target) => {
            if let Some(id) = target {
                agent.core.cancel(&id);
            }
        }
        Body::Notification(..) => link.notify(message.bytes().clone()),
        Body::Response(id) => match id.and_then(|id| agent.core.take_link_id(&id)) {
            Some(number) => link.respond(number, message),
            None => agent.core.common.dropped("agent_response"),
        },
    }
}

fn no_session(id: Option<&RpcId>) -> Response {
    let message =
        "the Mcp-Session-Id header is missing: send initialize first, then its session id with every request";
    Response::bad_request(id, -32600, message)
}

fn unsupported(version: &str, incoming: &Incoming) -> Response {
    let shown: String = version.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    let message = format!(
        "unsupported protocol version {shown:?} (supported: 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25)"
    );
    Response::bad_request(incoming.id(), -32600, &message)
}

fn with_session(response: Response, session: &str) -> Response {
    match HeaderValue::from_str(session) {
        Ok(value) => response.with(SESSION_ID.clone(), value),
        Err(_) => response,
    }
}
