//! One call of a modern agent, to a backend of either era.
//!
//! It is answered as one JSON body, or as a stream where something is said before. Its connection is all that holds it:
//! where that ends, the call is cancelled.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mcpool_wire::{
    Envelope, Era, Forwarded, Link, Message, Outlet,
    modern::{code, error_code, to_legacy_request},
};

use super::{Asking, guests::Guest, voice::Voice};
use crate::{
    budget::Charge,
    dispatch::{as_stream, stream},
    outbox::Outbox,
    rescue::Served,
    running::{Carry, Finished, Manner, Running, hand_over},
};

enum First {
    End(Finished),
    Part(Arc<Outbox>),
}

pub(super) async fn answer<L: Link>(
    guest: &Arc<Guest<L>>,
    asking: Asking<'_>,
    is_kept: bool,
    (message, charge): (Message, Charge),
) -> Served {
    let core = &guest.core;
    let voice = Voice::new(core, asking.modern.log_level.as_deref());
    let outlet: Arc<dyn Outlet> = Arc::<Voice>::clone(&voice);
    let (message, manner) = match guest.link.era() {
        Era::Modern => (message, Manner::modern(outlet, parameters(asking.headers))),
        Era::Legacy => {
            let carry = Carry { server_info: Arc::clone(&guest.server_info), ttl_ms: is_kept.then_some(0) };
            (legacy(message), Manner::carried(outlet, carry))
        }
    };
    let running = match Running::begin(core, guest.link.as_ref(), asking.request, (message, charge), manner) {
        Ok(running) => running,
        Err(refusal) => return Served::json(StatusCode::OK, crate::observe::Cause::Gateway, refusal),
    };
    let mut running = Some(running);
    let finished = match poll_fn(|cx| first(running.as_mut(), &voice, cx)).await {
        First::End(finished) => finished,
        First::Part(outbox) => {
            let Some(reader) = outbox.attach() else {
                return Served::events(crate::sse_body::AgentBody::empty());
            };
            // Nobody comes back for it, so it is waited for by nobody who left.
            match hand_over(running.take().into_iter().collect(), Some(&outbox), Some(Duration::ZERO)) {
                Ok(()) => return stream(core, reader),
                Err(back) => {
                    // The adopter is full: the parts wait for the answer.
                    drop(reader);
                    running = back.into_iter().next();
                    poll_fn(|cx| poll_end(running.as_mut(), cx)).await
                }
            }
        }
    };
    match voice.opened() {
        None => whole(finished),
        opened => as_stream(core, finished.body, opened.cloned()),
    }
}

fn poll_end(running: Option<&mut Running>, cx: &mut Context<'_>) -> Poll<Finished> {
    running.map_or(Poll::Pending, |running| running.poll_end(cx))
}

fn first(running: Option<&mut Running>, voice: &Voice, cx: &mut Context<'_>) -> Poll<First> {
    match poll_end(running, cx) {
        Poll::Ready(finished) => Poll::Ready(First::End(finished)),
        Poll::Pending => voice.poll_opened(cx).map(First::Part),
    }
}

/// The answer as one JSON body, with the status this era gives its errors.
fn whole(finished: Finished) -> Served {
    let Some(body) = finished.body else { return Served::status(StatusCode::OK, finished.cause) };
    let status = if finished.is_error { status_of(&body) } else { StatusCode::OK };
    Served::json(status, finished.cause, body)
}

/// The status of an error that came from behind: by its code, the same for backends of both eras.
fn status_of(body: &Bytes) -> StatusCode {
    match error_code(body) {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(
            -32700 | -32600 | code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION,
        ) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// The message without its envelope. It was a message, so what is left of it is one.
fn legacy(message: Message) -> Message {
    let bytes = to_legacy_request(message.bytes());
    match Envelope::parse(&bytes) {
        Ok(envelope) => Message::new(bytes.clone(), &envelope),
        Err(_) => message,
    }
}

/// The headers that are the backend's to read. One that came twice was refused at the door.
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
