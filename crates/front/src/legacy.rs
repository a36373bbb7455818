//! HTTP+SSE: opening its stream, finding back to it, and the POSTs that belong to it.
//!
//! Every well-formed message of a known session is 202, whatever becomes of it: one other status ends the whole
//! client (PROTOCOL.md 0.2).

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, StatusCode};
use mcpool_wire::{Backends, DecodeError, DecodeKind, Target, error_response};
use tokio::sync::mpsc;

use crate::{
    agent::{Agent, Side},
    door::PeerSeat,
    front::Front,
    http::{text, unknown_backend},
    incoming::Parcel,
    observe::{AgentEnd, Cause, Restore, Transport},
    rescue::Served,
    seal::Presented,
    session_id::AgentSessionId,
    sse_body::endpoint_event,
    stream::AgentStream,
    unharmed::unharmed,
};

/// Messages between the POST handlers and the task of one agent; handlers wait for room.
const WORK: usize = 16;

/// A GET without session: a new agent, or one that lost its connection and comes back. After a restart it gets its old
/// id again, so that what it posts on its way finds it.
pub(crate) async fn open<B: Backends>(
    front: &Arc<Front<B>>,
    peer: IpAddr,
    headers: &HeaderMap,
    name: Option<&str>,
) -> Served {
    let target = match front.backends.target(name) {
        Ok(target) => target,
        Err(why) => return unknown_backend(front, None, &why),
    };
    let before = text(headers, "last-event-id").and_then(AgentSessionId::parse);
    let mut id = None;
    if let Some(known) = before {
        let principal = front.principal(headers);
        let presented = Presented { transport: Transport::Sse, principal: &principal, target: &target };
        let held = front.agents.find(known, &presented);
        if let Some(served) = held.and_then(|agent| attach(front, &agent)) {
            return served;
        }
        id = front.worth(known, &presented).is_ok().then_some(known);
    }
    loop {
        let seat = match front.place(peer).await {
            Ok(seat) => seat,
            Err(why) => return Served::no_place(None, &front.common.request_id().to_string(), why),
        };
        match begin(front, headers, target.clone(), id.take(), Some(seat), |agent| attach(front, agent)) {
            Some((_, Some(served))) => return served,
            None => return Served::status(StatusCode::INTERNAL_SERVER_ERROR, Cause::Gateway),
            // Its session of before is just ending: it gets another.
            Some((_, None)) => {}
        }
    }
}

type Begun<L, T> = Option<(Arc<Agent<L>>, T)>;

/// An agent session and its task, under a new id or the one it had; `first` happens before the task runs. `None` when
/// the system has no randomness for an id.
fn begin<B: Backends, T>(
    front: &Arc<Front<B>>,
    headers: &HeaderMap,
    target: Target,
    restored: Option<AgentSessionId>,
    seat: Option<PeerSeat>,
    first: impl FnOnce(&Agent<B::Link>) -> T,
) -> Begun<B::Link, T> {
    let core = front.new_agent(target, Transport::Sse, headers, seat);
    let id = restored.or_else(|| front.mint(&core, false, false))?;
    let (work, inbox) = mpsc::channel(WORK);
    let (agent, is_new) =
        front.agents.insert(Agent { id, core: Arc::clone(&core), side: Side::Sse { work } });
    // Attached before its task runs, so that the task never sees it absent without reason.
    let first = first(&agent);
    if is_new {
        if restored.is_some() {
            front.told(Restore::Restored);
        }
        front.tasks.spawn(run(AgentStream::new(Arc::clone(front), id, core, inbox)));
    }
    Some((agent, first))
}

/// The life of an agent's stream; the agent session ends with it, however it ends.
async fn run<B: Backends>(stream: AgentStream<B>) {
    let (front, id, core) = stream.whose();
    if unharmed(&front.common, "stream", stream.run()).await.is_none() {
        front.agents.remove(id, &core, AgentEnd::Fault);
    }
}

/// A POST that names a session.
pub(crate) async fn parcel<B: Backends>(
    front: &Arc<Front<B>>,
    headers: &HeaderMap,
    name: Option<&str>,
    session: &str,
    parcel: Parcel,
) -> Served {
    let agent = front
        .known(Transport::Sse, headers, name, session)
        .or_else(|| returning(front, headers, name, session));
    let Some(agent) = agent else { return Served::unknown_session(parcel.id()) };
    let Side::Sse { work } = &agent.side else { return Served::unknown_session(parcel.id()) };
    match work.send(Box::new(parcel)).await {
        Ok(()) => Served::accepted(),
        Err(mpsc::error::SendError(parcel)) => Served::unknown_session(parcel.id()),
    }
}

/// A POST that names a session and is no message. A batch that is refused is well-formed: its error is on the stream.
pub(crate) fn undecodable<B: Backends>(
    front: &Front<B>,
    headers: &HeaderMap,
    name: Option<&str>,
    session: &str,
    error: &DecodeError,
) -> Served {
    match front.known(Transport::Sse, headers, name, session) {
        Some(agent) if error.kind == DecodeKind::Batch => {
            agent.core.answer(error_response(None, error.kind.code(), &error.reason, None));
            Served::accepted()
        }
        _ => Served::undecodable(error),
    }
}

/// An agent of the gateway's last life whose message is here before its stream is: both were on their way when the
/// gateway came back. Its answers wait for the stream as long as those of any agent that is away.
fn returning<B: Backends>(
    front: &Arc<Front<B>>,
    headers: &HeaderMap,
    name: Option<&str>,
    session: &str,
) -> Option<Arc<Agent<B::Link>>> {
    let common = &front.common;
    if u128::from(common.millis()) > common.times().reconnect_grace.as_millis() {
        return None;
    }
    let (id, target) = AgentSessionId::parse(session).zip(front.backends.target(name).ok())?;
    let principal = front.principal(headers);
    let presented = Presented { transport: Transport::Sse, principal: &principal, target: &target };
    let facts = front.worth(id, &presented).ok()?;
    // One of this life is over for a reason.
    if facts.issued >= common.age.began {
        return None;
    }
    if common.is_draining() || front.agents.is_full() {
        return None;
    }
    let (agent, ()) = begin(front, headers, target, Some(id), None, |_| ())?;
    (!agent.core.has_ended()).then_some(agent)
}

fn attach<B: Backends>(front: &Front<B>, agent: &Agent<B::Link>) -> Option<Served> {
    let reader = agent.core.outbox.attach()?;
    let first = endpoint_event(&agent.id.to_text());
    Some(Served::stream(reader, Some(first), front.common.times().stream_ping))
}
