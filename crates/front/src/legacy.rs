//! HTTP+SSE: opening its stream, finding back to it, and the POSTs that belong to it.
//!
//! Every well-formed message of a known session is 202, whatever becomes of it: one other status ends the whole
//! client (PROTOCOL.md 0.2).

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, StatusCode};
use mcpool_wire::{Backends, DecodeError, DecodeKind};
use tokio::sync::mpsc;

use crate::{
    agent::{Agent, Side},
    front::Front,
    http::{text, unknown_backend},
    incoming::Parcel,
    observe::{Cause, Transport},
    rescue::{Served, refusal},
    sse_body::endpoint_event,
    stream::AgentStream,
};

/// Messages between the POST handlers and the task of one agent; handlers wait for room.
const WORK: usize = 16;

/// A GET without session: a new agent, or one that lost its connection and comes back.
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
    if let Some(known) = text(headers, "last-event-id").and_then(|id| front.agents.find(id, Transport::Sse))
        && known.core.target == target
        && let Some(served) = attach(front, &known)
    {
        return served;
    }
    let seat = match front.place(peer).await {
        Ok(seat) => seat,
        Err(why) => return Served::no_place(None, &front.common.request_id().to_string(), why),
    };
    let Some(core) = front.new_agent(target, Transport::Sse, headers, seat) else {
        return Served::status(StatusCode::INTERNAL_SERVER_ERROR, Cause::Gateway);
    };
    let (work, inbox) = mpsc::channel(WORK);
    let agent = front.agents.insert(Agent { core: Arc::clone(&core), side: Side::Sse { work } });
    // Attached before its task runs, so that the task never sees it absent without reason.
    let served = attach(front, &agent);
    front.tasks.spawn(AgentStream::new(Arc::clone(front), core, inbox).run());
    served.unwrap_or_else(|| Served::status(StatusCode::INTERNAL_SERVER_ERROR, Cause::Gateway))
}

/// A POST that names a session.
pub(crate) async fn parcel<B: Backends>(front: &Front<B>, session: &str, parcel: Parcel) -> Served {
    let Some(agent) = front.agents.find(session, Transport::Sse) else {
        return Served::unknown_session(parcel.id());
    };
    let Side::Sse { work } = &agent.side else { return Served::unknown_session(parcel.id()) };
    match work.send(Box::new(parcel)).await {
        Ok(()) => Served::accepted(),
        Err(mpsc::error::SendError(parcel)) => Served::unknown_session(parcel.id()),
    }
}

/// A POST that names a session and is no message. A batch that is refused is well-formed: its error is on the stream.
pub(crate) fn undecodable<B: Backends>(front: &Front<B>, session: &str, error: &DecodeError) -> Served {
    match front.agents.find(session, Transport::Sse) {
        Some(agent) if error.kind == DecodeKind::Batch => {
            agent.core.answer(refusal(None, error.kind.code(), &error.reason));
            Served::accepted()
        }
        _ => Served::undecodable(error),
    }
}

fn attach<B: Backends>(front: &Front<B>, agent: &Agent<B::Link>) -> Option<Served> {
    let reader = agent.core.outbox.attach()?;
    let first = endpoint_event(&agent.core.id.to_text());
    Some(Served::stream(reader, Some(first), front.common.config.times.stream_ping))
}
