//! HTTP+SSE: the GET that opens or resumes a stream, and the POSTs of its session.
//!
//! Every well-formed message of a known session gets 202, whatever becomes of it: one other status makes the client
//! give up (PROTOCOL.md 0.2).

pub(crate) mod task;

use std::{future::Future, sync::Arc};

use futures::FutureExt as _;
use mcpool_wire::{Backends, DecodeError, DecodeKind, Target};
use tokio::sync::mpsc;

use crate::{
    http::{
        headers::text,
        response::{Response, refusal},
        response_body::endpoint_event,
    },
    limits::places::SessionPermit,
    message::Parcel,
    observe::{AgentEnd, Restore, Transport},
    panics::catch_panic,
    session::{
        Front, RequestHead,
        agent::{Agent, Side},
    },
    session_id::{
        AgentSessionId,
        seal::{Binding, Claims},
    },
    sse::task::{AgentStream, Origin},
    stream::outbox::{Taken, unless_taken},
};

/// Messages queued between the POST handlers and the task of one agent; a handler waits for room.
const WORK: usize = 16;

/// Serves a GET without a session: a new agent, or one that lost its connection and reconnects, even after a restart.
pub(crate) async fn connect<B: Backends>(front: &Arc<Front<B>>, head: &RequestHead<'_>) -> Response {
    let target = match front.backends.target(head.backend, head.identity) {
        Ok(target) => target,
        Err(why) => return front.unknown_backend(head, None, &why),
    };
    let before = text(head.headers, "last-event-id").and_then(AgentSessionId::parse);
    let mut returning = before.map(|_| Returning::Lost);
    if let Some(known) = before {
        let (transport, carried) = (Transport::Sse, front.carried(&target, head.headers));
        let binding = Binding { transport, identity: head.identity, target: &target, carried: &carried };
        let held = front.agents.find(known, &binding);
        if let Some(agent) = held {
            match unless_taken(|| attach(front, &agent)).await {
                Ok(Some(response)) => return response,
                Ok(None) => {}
                Err(Taken) => return Response::taken(),
            }
        }
        if let Ok(claims) = front.verify_restorable(known, &binding) {
            returning = Some(Returning::Restored(known, claims));
        }
    }
    loop {
        let permit = match front.acquire_session(head.peer).await {
            Ok(permit) => permit,
            Err(why) => return Response::no_place(None, &front.common.request_id().to_string(), why),
        };
        match begin(front, head, target.clone(), returning, permit) {
            Ok(Some(response)) => return response,
            Err(refused) => return *refused,
            // Its earlier session is just ending, so it gets a new one.
            Ok(None) => returning = Some(Returning::Lost),
        }
    }
}

/// An agent that returns to an earlier stream.
#[derive(Clone, Copy)]
enum Returning {
    /// Its session goes on.
    Restored(AgentSessionId, Claims),
    /// Its session is over, and what it had there is gone.
    Lost,
}

/// Opens the stream of an agent session under a new or an earlier id, and starts its task if it is new.
fn begin<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    target: Target,
    returning: Option<Returning>,
    permit: SessionPermit,
) -> Result<Option<Response>, Box<Response>> {
    let (restored, origin) = match returning {
        Some(Returning::Restored(id, claims)) => (Some((id, claims)), Origin::Restored),
        Some(Returning::Lost) => (None, Origin::Lost),
        None => (None, Origin::New),
    };
    let opened_with = restored.map(|(_, claims)| claims.carried);
    let core = front.new_agent(head, target, Transport::Sse, permit, opened_with);
    let Some(id) = restored.map(|(id, _)| id).or_else(|| front.mint(&core, false, false)) else {
        return Err(Box::new(Response::internal_error()));
    };
    let (work, inbox) = mpsc::channel(WORK);
    let (agent, is_new) =
        front.agents.insert(Agent { id, core: Arc::clone(&core), side: Side::Sse { work } });
    // Attached before its task runs, so that the task never sees it absent without reason.
    let response = attach(front, &agent).unwrap_or_else(|Taken| Some(Response::taken()));
    if is_new {
        if restored.is_some() {
            front.count_restore(Restore::Restored);
        }
        front.tasks.spawn(run(AgentStream::new(Arc::clone(front), id, core, inbox, origin)));
    }
    Ok(response)
}

/// Runs the task of an agent's stream; the agent session ends with it, even by a panic.
fn run<B: Backends>(stream: AgentStream<B>) -> impl Future<Output = ()> {
    let (front, id, core) = stream.whose();
    catch_panic(Arc::clone(&front.common), "stream", stream.run()).map(move |end| {
        if end.is_none() {
            front.agents.remove(id, &core, AgentEnd::Fault);
        }
    })
}

/// Serves a POST that names a session.
pub(crate) async fn parcel<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    session: &str,
    mut parcel: Parcel,
) -> Response {
    // A session from before a restart gets 404 until its stream is back: not every client returns, and an answer that
    // nobody fetches would be kept.
    let Some(agent) = front.known(Transport::Sse, head, session) else {
        return Response::unknown_session(parcel.id());
    };
    let Side::Sse { work } = &agent.side else { return Response::unknown_session(parcel.id()) };
    parcel.sent_by(&front.as_sent(&agent.core, head.headers));
    match work.send(Box::new(parcel)).await {
        Ok(()) => Response::accepted(),
        Err(mpsc::error::SendError(parcel)) => Response::unknown_session(parcel.id()),
    }
}

/// Answers a POST that names a session and is no message. A refused batch is well-formed: its error goes to the stream.
pub(crate) fn undecodable<B: Backends>(
    front: &Front<B>,
    head: &RequestHead<'_>,
    session: &str,
    error: &DecodeError,
) -> Response {
    match front.known(Transport::Sse, head, session) {
        Some(agent) if error.kind == DecodeKind::Batch => {
            agent.core.send_answer(refusal(None, error.kind.code(), &error.reason));
            Response::accepted()
        }
        _ => Response::undecodable(error),
    }
}

fn attach<B: Backends>(front: &Front<B>, agent: &Agent<B::Link>) -> Result<Option<Response>, Taken> {
    let Some(reader) = agent.core.outbox.request(None)? else { return Ok(None) };
    let first = endpoint_event(&agent.id.to_text());
    Ok(Some(Response::stream(reader, Some(first), front.common.times().stream_ping)))
}
