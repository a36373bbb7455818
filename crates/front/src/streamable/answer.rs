//! One call of a Streamable HTTP session, from its start to the response with its answer.
//!
//! The answer is one JSON body, unless a message precedes it, the agent names event streams first, or bytes are needed
//! before there is an answer: because the call has been silent for so long that a proxy would give up, or because the
//! agent ended its side of the connection and only a write shows whether it still waits. Then the answer is an event
//! stream, if the agent's `Accept` names them, and the call becomes a detached call.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::HeaderMap;
use mcpool_wire::{ErrorKind, Link, Message, Outlet};
use tokio::time::Sleep;

use crate::{
    call::{
        CallResult, InFlightCall,
        handler::HandlerCall,
        repeated::come_again,
        response_stream::{CallStream, stream},
    },
    http::{headers::Accept, response::Response, response_body::AgentBody},
    limits::memory::Charge,
    message::Request,
    observe::Cause,
    session::agent::AgentCore,
    stream::{connection::ConnectionState, outbox::Outbox},
    streamable::as_stream,
};

/// The first thing a handler sees of its call.
enum First {
    /// A message to be read before the answer.
    Part(Arc<Outbox>),
    End(CallResult),
}

/// A handler that waits for the end of its call.
struct Wait<'a> {
    core: &'a AgentCore,
    call: HandlerCall,
    stream: Option<Arc<CallStream>>,
    /// Whether the agent accepts an event stream, so that bytes may be written just to test the connection.
    names_events: bool,
    connection: &'a ConnectionState,
    /// Remaining wait for a peer that ended its side and cannot be written to.
    patience: Option<Pin<Box<Sleep>>>,
}

pub(crate) async fn call<L: Link>(
    core: &Arc<AgentCore>,
    link: &L,
    interactive: bool,
    headers: &HeaderMap,
    request: Request,
    (message, charge): (Message, Charge),
    connection: &ConnectionState,
) -> Response {
    let accept = Accept::of(headers);
    let takes_json = accept.json || !accept.events;
    if let Some(earlier) = come_again(core, &request, message.bytes(), accept.events).await {
        return earlier.map_or_else(|response| response, |reader| stream(core, reader));
    }
    let said = accept.events.then(|| match accept.prefers_events {
        true => CallStream::open(core, interactive),
        false => CallStream::new(core, interactive),
    });
    let outlet = said.clone().map(|said| said as Arc<dyn Outlet>);
    let running = match InFlightCall::start(core, link, request, (message, charge), outlet) {
        Ok(running) => running,
        Err(refusal) => return Response::ok(Cause::Gateway, refusal),
    };
    let call = HandlerCall::new(running, said.clone());
    let mut wait = Wait {
        core,
        call,
        stream: said.clone(),
        names_events: accept.names_events,
        connection,
        patience: None,
    };
    connection.watch(accept.names_events.then(|| core.common.times().answer_as_stream));
    let result = loop {
        match poll_fn(|cx| wait.poll(cx)).await {
            First::End(result) => break result,
            First::Part(outbox) => {
                if let Some(reader) = outbox.attach()
                    && wait.call.hand_over(Some(&outbox))
                {
                    return stream(core, reader);
                }
                // No room for another detached call: the messages wait for the answer.
                wait.stream = None;
            }
        }
    };
    match said.as_ref().and_then(|said| said.opened()) {
        None if takes_json => whole(core, result),
        opened => as_stream(core, result.body, opened.cloned()),
    }
}

impl Wait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        if let Poll::Ready(result) = self.call.poll_end(cx) {
            return Poll::Ready(First::End(result));
        }
        if let Some(stream) = &self.stream {
            if self.names_events && self.connection.wants_bytes() {
                stream.begin();
            }
            if let Poll::Ready(outbox) = stream.poll_opened(cx) {
                return Poll::Ready(First::Part(Arc::clone(outbox)));
            }
        }
        if !self.connection.has_half_closed() {
            return Poll::Pending;
        }
        let orphan = self.core.common.times().orphan;
        let timer = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(orphan)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let why =
            "its connection was closed on the agent's side for longer than a call without connection may run";
        self.call.give_up(ErrorKind::Cancelled, why).map(First::End)
    }
}

/// The answer as one JSON body. A cancelled call has none: its stream ends without a message.
fn whole(core: &AgentCore, result: CallResult) -> Response {
    match result.body {
        Some(body) => Response::ok(result.cause, body),
        None => {
            core.seen();
            Response::events(AgentBody::empty())
        }
    }
}
