//! Requests of an agent session that come again because their connection died: the call that runs is taken over, and
//! one that has ended unheard is not run twice.
//!
//! A request is the same if its id is and it asks for the same (`same_request`). An id that is used again for something
//! else, or after its answer was read, is a new request: some clients use one id for all.

use std::{sync::Arc, time::Duration};

use mcpool_wire::{ErrorKind, Executed, IdValue};

use crate::{
    call::reject_as,
    http::response::Response,
    message::Request,
    observe::Cause,
    session::{
        agent::{AgentCore, CancelFlag, Resume},
        same_request::is_same,
    },
    stream::{
        event::EventId,
        outbox::{Outbox, Presence, Reader},
    },
};

/// The connection of the first request may be found dead only when it is written to.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(50);

/// What there is of the same request.
enum Earlier {
    Nothing,
    InFlightCall(Option<Arc<Outbox>>),
    Ended(Option<u32>),
}

/// What answers a request that has come before: the stream of its first copy, or the word that it may have run.
/// Nothing if it is new.
pub(crate) async fn come_again(
    core: &AgentCore,
    request: &Request,
    message: &bytes::Bytes,
    takes_events: bool,
) -> Option<Result<Reader, Response>> {
    let mut first = None;
    for look in 0..LOOKS {
        match earlier(core, request.id.value(), message, &mut first) {
            Earlier::Nothing if look == 0 => return None,
            // It ended while its connection was still looked for.
            Earlier::Nothing => break,
            Earlier::Ended(stream) => {
                let left =
                    stream.filter(|_| takes_events).map(|stream| core.resume(EventId { stream, seq: 0 }));
                let Some(Ok(Resume::Stream(reader))) = left else { break };
                return Some(Ok(reader));
            }
            Earlier::InFlightCall(outbox) => {
                let deserted = |outbox: &Arc<Outbox>| !matches!(outbox.presence(), Presence::Attached(_));
                let outbox = outbox.filter(|outbox| takes_events && deserted(outbox));
                if let Some(reader) = outbox.and_then(|outbox| outbox.attach_after(0)) {
                    return Some(Ok(reader));
                }
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Some(Err(may_have_run(core, request)))
}

/// `first` is the call that was found to run for the same request, compared once.
fn earlier(
    core: &AgentCore,
    id: &IdValue,
    message: &bytes::Bytes,
    first: &mut Option<Arc<CancelFlag>>,
) -> Earlier {
    let is_known = |flag: &Arc<CancelFlag>| first.as_ref().is_some_and(|first| Arc::ptr_eq(first, flag));
    let running = core.running(id).filter(|flag| is_known(flag) || is_same(&flag.message, message));
    if let Some(flag) = running {
        let stream = flag.stream.get().and_then(std::sync::Weak::upgrade);
        *first = Some(flag);
        return Earlier::InFlightCall(stream);
    }
    let within = core.common.times().orphan;
    core.unclaimed.claim(id, message, within).map_or(Earlier::Nothing, Earlier::Ended)
}

fn may_have_run(core: &AgentCore, request: &Request) -> Response {
    let message = "this request came before, under the same id, and may have run: its answer went to the connection \
                   that sent it first";
    let body = reject_as(core, request, ErrorKind::InvalidRequest, Executed::Maybe, message);
    Response::json(http::StatusCode::OK, Cause::Gateway, body)
}
