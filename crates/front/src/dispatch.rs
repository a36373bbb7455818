//! Streamable HTTP: one message per POST, answered as JSON, or as a stream when something comes before the answer.
//!
//! A call runs in its handler's future. It moves to the adopter when its answer becomes a stream, so that a peer that
//! does not read holds up nothing, and when the connection dies, because that is no cancellation.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mcpool_wire::{
    Backends, CallError, ClientHello, Era, Hello, Link, Message, Method, Outlet, Revision, result_response,
};

use crate::{
    agent::{Agent, AgentCore, Side},
    front::Front,
    http::{accepts, text, unknown_backend},
    incoming::{Body, Incoming, Request},
    observe::{AgentEnd, Cause, Transport},
    opening::{self, OpenEnd},
    outbox::{Outbox, Reader, Weight},
    rescue::Served,
    running::{CallOutlet, Finished, Handled, Running},
    sse_body::{AgentBody, one_line},
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A POST that is no message of an HTTP+SSE session.
pub(crate) async fn message<B: Backends>(
    front: &Arc<Front<B>>,
    headers: &HeaderMap,
    name: Option<&str>,
    incoming: Incoming,
) -> Served {
    let version = text(headers, "mcp-protocol-version");
    if incoming.is_modern || Era::of_header(version) == Era::Modern {
        return Served::not_modern(incoming.id());
    }
    if let Some(version) = version.filter(|version| Revision::parse(version).is_none()) {
        return unsupported(version, &incoming);
    }
    if let Body::BadId(why) = incoming.body {
        return Served::refused(StatusCode::BAD_REQUEST, None, -32600, why);
    }
    let Some(session) = text(headers, "mcp-session-id") else {
        return match incoming.body {
            Body::Request(request) if request.method == Method::Initialize => {
                initialize(front, headers, name, request, &incoming.message).await
            }
            _ => no_session(front, name, &incoming),
        };
    };
    let agent = front.agents.find(session, Transport::Http).filter(|agent| {
        // A session belongs to the backend it was opened for, under whichever URL.
        name.is_none_or(|name| {
            *agent.core.target.name == *name
                || front.backends.target(Some(name)).is_ok_and(|target| target == agent.core.target)
        })
    });
    let Some(agent) = agent else {
        return match front.backends.target(name) {
            Ok(_) => Served::unknown_session(incoming.id()),
            Err(why) => unknown_backend(front, incoming.id(), &why),
        };
    };
    let Side::Http { link, interactive } = &agent.side else { return Served::unknown_session(incoming.id()) };
    match incoming.body {
        Body::Request(request) => {
            answer(&agent.core, link.as_ref(), *interactive, headers, request, incoming.message).await
        }
        body => {
            take(&agent, link.as_ref(), body, incoming.message);
            Served::accepted()
        }
    }
}

/// A GET that names a session: the stream for what belongs to no call. The newest one gets it.
pub(crate) fn listen<B: Backends>(front: &Front<B>, session: &str) -> Served {
    let agent = front.agents.find(session, Transport::Http);
    let Some(reader) = agent.and_then(|agent| agent.core.outbox.attach()) else {
        return Served::unknown_session(None);
    };
    Served::stream(reader, None, front.common.config.times.stream_ping)
}

/// A DELETE ends this agent's session; what it shared lives on.
pub(crate) fn delete<B: Backends>(front: &Front<B>, headers: &HeaderMap) -> Served {
    let Some(session) = text(headers, "mcp-session-id") else {
        let message = "DELETE needs an Mcp-Session-Id header";
        return Served::refused(StatusCode::BAD_REQUEST, None, -32600, message).over(Transport::Http);
    };
    let agent = front.agents.find(session, Transport::Http);
    let removed = agent.is_some_and(|agent| front.agents.remove(agent.core.id, AgentEnd::Deleted));
    if removed { Served::status(StatusCode::OK, Cause::Gateway) } else { Served::unknown_session(None) }
        .over(Transport::Http)
}

async fn initialize<B: Backends>(
    front: &Arc<Front<B>>,
    headers: &HeaderMap,
    name: Option<&str>,
    request: Request,
    message: &Message,
) -> Served {
    let target = match front.backends.target(name) {
        Ok(target) => target,
        Err(why) => return unknown_backend(front, Some(&request.id), &why),
    };
    let common = &front.common;
    if common.is_draining() || front.agents.is_full() {
        let request_id = common.request_id().to_string();
        return Served::no_place(Some(&request.id), &request_id, common.is_draining());
    }
    let client = match ClientHello::parse(message.bytes()) {
        Ok(client) => client,
        Err(why) => return Served::refused(StatusCode::OK, Some(&request.id), -32602, why),
    };
    let Some(core) = front.new_agent(target, Transport::Http, headers) else {
        return Served::status(StatusCode::INTERNAL_SERVER_ERROR, Cause::Gateway);
    };
    let (revision, interactive) = (client.revision, client.is_interactive());
    let end = OpenEnd::new(&core);
    let outlet: Arc<dyn Outlet> = Arc::<AgentCore>::clone(&core);
    let hello = Hello { caller: Arc::clone(&core.caller), target: core.target.clone(), client, outlet };
    match opening::bounded(front.backends.open(hello), common.config.times.open).await {
        Ok(link) => {
            end.ok(&core, &request);
            let body = result_response(&request.id, &link.initialize_result(revision));
            let session = core.id.to_text();
            front.agents.insert(Agent { core, side: Side::Http { link, interactive } });
            with_session(Served::json(StatusCode::OK, Cause::Backend, body), &session)
        }
        Err(error) => failed(&end, &core, &request, &error),
    }
}

/// No session, but a body the agent's SDK shows to its user.
fn failed(end: &OpenEnd, core: &AgentCore, request: &Request, error: &CallError) -> Served {
    Served::json(StatusCode::OK, Cause::Gateway, end.refused(core, request, error))
}

async fn answer<L: Link>(
    core: &Arc<AgentCore>,
    link: &L,
    interactive: bool,
    headers: &HeaderMap,
    request: Request,
    message: Message,
) -> Served {
    match request.method {
        Method::Ping => {
            return Served::json(StatusCode::OK, Cause::Gateway, result_response(&request.id, b"{}"));
        }
        Method::Initialize => return again(core, link, &request, &message),
        _ => {}
    }
    let takes_events = accepts(headers, "text/event-stream");
    let takes_json = accepts(headers, "application/json");
    // Only a call that has a token or may be asked something can say anything before its answer.
    let parts = (takes_events && (message.has_token() || interactive)).then(|| CallParts::new(core));
    let outlet = parts.as_ref().map(|parts| Arc::clone(&parts.outlet));
    let running = match Running::start(core, link, request, message, outlet) {
        Ok(running) => running,
        Err(refusal) => return Served::json(StatusCode::OK, Cause::Gateway, refusal),
    };
    let mut call = Handled::new(running);
    let Some(CallParts { reader, .. }) = parts else {
        let finished = poll_fn(|cx| call.poll_end(cx)).await;
        return if takes_json || !takes_events {
            whole(core, finished)
        } else {
            as_stream(core, finished, None)
        };
    };
    match poll_fn(|cx| first(&mut call, &reader, cx)).await {
        First::End(finished) if takes_json && !reader.has_waiting() => whole(core, finished),
        First::End(finished) => as_stream(core, finished, Some(reader)),
        First::Part if call.hand_over(Some(reader.outbox())) => stream(core, reader),
        First::Part => {
            // The adopter is full: the parts wait for the answer.
            let finished = poll_fn(|cx| call.poll_end(cx)).await;
            as_stream(core, finished, Some(reader))
        }
    }
}

/// The stream of one call, there before the call so that nothing it says is lost.
struct CallParts {
    reader: Reader,
    outlet: Arc<dyn Outlet>,
}

enum First {
    Part,
    End(Finished),
}

impl CallParts {
    fn new(core: &Arc<AgentCore>) -> Self {
        let limits = core.common.config.limits;
        let gauges = Arc::clone(&core.common.gauges);
        let outbox = Arc::new(Outbox::new(limits.outbound_messages, limits.outbound_bytes, gauges));
        let reader = Outbox::first_reader(&outbox);
        Self { reader, outlet: Arc::new(CallOutlet { outbox, core: Arc::clone(core) }) }
    }
}

fn first(call: &mut Handled, reader: &Reader, cx: &mut Context<'_>) -> Poll<First> {
    if let Poll::Ready(finished) = call.poll_end(cx) {
        return Poll::Ready(First::End(finished));
    }
    reader.poll_waiting(cx).map(|()| First::Part)
}

/// The answer as one JSON body. A cancelled call has none: its stream ends without a message.
fn whole(core: &AgentCore, finished: Finished) -> Served {
    match finished.body {
        Some(body) => Served::json(StatusCode::OK, finished.cause, body),
        None => {
            core.seen();
            Served::events(AgentBody::empty())
        }
    }
}

/// The answer as the last event of a stream that is complete already.
fn as_stream(core: &Arc<AgentCore>, finished: Finished, reader: Option<Reader>) -> Served {
    let reader = reader.unwrap_or_else(|| CallParts::new(core).reader);
    if let Some(body) = finished.body {
        // Cannot be refused: the queue was the front's own until now, and must-messages pass its soft limit.
        let _ = reader.outbox().push(Weight::Must, one_line(body));
    }
    reader.outbox().close();
    stream(core, reader)
}

fn stream(core: &AgentCore, reader: Reader) -> Served {
    Served::stream(reader, None, core.common.config.times.stream_ping)
}

/// A repeated `initialize` is answered again: the only choice that never breaks an agent (PROTOCOL.md 11.3).
fn again<L: Link>(core: &AgentCore, link: &L, request: &Request, message: &Message) -> Served {
    match ClientHello::parse(message.bytes()) {
        Ok(client) => {
            let body = result_response(&request.id, &link.initialize_result(client.revision));
            with_session(Served::json(StatusCode::OK, Cause::Gateway, body), &core.id.to_text())
        }
        Err(why) => Served::refused(StatusCode::OK, Some(&request.id), -32602, why),
    }
}

/// A notification or a response.
fn take<L: Link>(agent: &Agent<L>, link: &L, body: Body, message: Message) {
    match body {
        Body::Notification(Method::Initialized, _) | Body::Request(_) | Body::BadId(_) => {}
        Body::Notification(Method::Cancelled, target) => {
            if let Some(id) = target {
                agent.core.cancel(&id);
            }
        }
        Body::Notification(..) => link.notify(message.bytes().clone()),
        Body::Response(id) => match id.and_then(|id| agent.core.answered(&id)) {
            Some(number) => link.respond(number, message),
            None => agent.core.common.dropped("agent_response"),
        },
    }
}

fn no_session<B: Backends>(front: &Front<B>, name: Option<&str>, incoming: &Incoming) -> Served {
    if let Err(why) = front.backends.target(name) {
        return unknown_backend(front, incoming.id(), &why);
    }
    let message =
        "the Mcp-Session-Id header is missing: send initialize first, then its session id with every request";
    Served::refused(StatusCode::BAD_REQUEST, incoming.id(), -32600, message)
}

fn unsupported(version: &str, incoming: &Incoming) -> Served {
    let shown: String = version.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
    let message = format!(
        "unsupported protocol version {shown:?} (supported: 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25)"
    );
    Served::refused(StatusCode::BAD_REQUEST, incoming.id(), -32600, &message)
}

fn with_session(served: Served, session: &str) -> Served {
    match HeaderValue::from_str(session) {
        Ok(value) => served.with(SESSION, value),
        Err(_) => served,
    }
}
