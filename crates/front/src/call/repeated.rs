//! Repeated requests: an agent session sends a request again because its connection died. A call that still runs is
//! taken over; one that ended without a reader is not run twice.
//!
//! A request is the same if its id is and it asks for the same (`same_request`). An id used again for something else,
//! or after its answer was read, is a new request: some clients use one id for all.

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

/// Checks whether the connection of the first request has died: it may be found dead only when it is written to.
const LOOKS: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(50);

/// What is left of an earlier copy of the request.
enum Earlier {
    Nothing,
    InFlightCall(Option<Arc<Outbox>>),
    Ended(Option<u32>),
}

/// Answers a repeated request: with the stream of its first copy, or with the error that it may have run. `None` if the
/// request is new.
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
            // The call ended while its connection was still checked.
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

/// Finds the earlier copy; `first` is the running call that was already compared.
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
    Response::ok(Cause::Gateway, body)
}
