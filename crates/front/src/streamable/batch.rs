//! Batches (2025-03-26 only): split, run side by side, and answered as one array, or as a stream if a message precedes
//! the last answer. A batch is owned like a call: by its handler, then as detached calls.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use mcpool_wire::{Backends, DecodeError, Era, Link, Message, Method, Outlet, result_response};

use crate::{
    call::{
        InFlightCall,
        handler::hand_over,
        response_stream::{CallStream, stream},
    },
    http::{
        headers::{Accept, VERSION, text},
        response::{Response, refusal},
        response_body::AgentBody,
    },
    limits::memory::Charge,
    message::{Body, Incoming, REPEATED, Request, Seen},
    session::{
        Front, RequestHead,
        agent::{Agent, AgentCore, Side},
        restore::Missing,
    },
    stream::{
        connection::{ConnectionState, Unwritten},
        outbox::Outbox,
    },
    streamable::{NoAgent, agent_of, as_stream, take},
};

/// One batch: the calls that still run, and the answers so far.
struct Batch {
    calls: Vec<InFlightCall>,
    answers: Answers,
    stream: Option<Arc<CallStream>>,
}

/// Answers that wait for the rest of their batch, charged as unwritten bytes of their connection.
struct Answers {
    texts: Vec<Bytes>,
    unwritten: Unwritten,
}

impl Answers {
    fn new(connection: &Arc<ConnectionState>) -> Self {
        Self { texts: Vec::new(), unwritten: connection.owing() }
    }

    fn fit(&self, bytes: usize, messages: usize) -> bool {
        self.unwritten.bytes() < bytes && self.texts.len() < messages
    }

    fn push(&mut self, text: Bytes) {
        self.unwritten.more(text.len());
        self.texts.push(text);
    }
}

/// Serves a POST of several messages.
pub(crate) async fn serve<B: Backends>(
    front: &Arc<Front<B>>,
    head: &RequestHead<'_>,
    mut messages: Vec<Result<Incoming, DecodeError>>,
    connection: &Arc<ConnectionState>,
) -> Response {
    let headers = head.headers;
    if Era::of_header(text(headers, &VERSION)) == Era::Modern {
        let why = "revision 2026-07-28 has no batches: send one message per request";
        return Response::bad_request(None, -32600, why);
    }
    let agent = match agent_of(front, head, None).await {
        Ok(agent) => agent,
        Err(NoAgent::Unopened(error, _)) => return front.missing(&Missing::Unopened(error), None),
        Err(NoAgent::Refused(refused)) => return *refused,
    };
    if let Err(why) = agent.core.may_batch() {
        return Response::bad_request(None, -32600, &why);
    }
    let Side::Http { link, interactive } = &agent.side else { return Response::unknown_session(None) };
    let caller = front.as_sent(&agent.core, headers);
    messages.iter_mut().flatten().for_each(|message| message.body.sent_by(&caller));
    let accept = Accept::of(headers);
    let takes_json = accept.json || !accept.events;
    let stream = accept.events.then(|| CallStream::new(&agent.core, *interactive));
    let mut batch = Batch { calls: Vec::new(), answers: Answers::new(connection), stream };
    let wants_answer = batch.start(&agent, link.as_ref(), messages);
    connection.watch(accept.names_events.then(|| agent.core.common.times().answer_as_stream));
    // More answers than may wait on a stream go into the array: they would close the stream.
    let limits = agent.core.common.limits();
    let said = poll_fn(|cx| {
        let said = batch.poll(cx);
        let fits = batch.answers.fit(2 * limits.outbound_bytes, 2 * limits.outbound_messages);
        if said.is_pending() && accept.names_events && fits && connection.wants_bytes() {
            return batch.poll_stream(cx);
        }
        said
    })
    .await;
    if !wants_answer {
        return Response::accepted();
    }
    batch.serve(&agent.core, said, takes_json, connection).await
}

impl Batch {
    /// Starts all messages in order. Returns whether any of them needs an answer.
    fn start<L: Link>(
        &mut self,
        agent: &Agent<L>,
        link: &L,
        messages: Vec<Result<Incoming, DecodeError>>,
    ) -> bool {
        let (mut seen, mut wants_answer) = (Seen::default(), false);
        for message in messages {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    self.refuse(&error);
                    wants_answer = true;
                    continue;
                }
            };
            let is_repeated = seen.is_repeated(&message);
            let Incoming { body, message, is_modern, charge } = message;
            match body {
                Body::Request(request) => {
                    wants_answer = true;
                    if is_repeated {
                        self.answers.push(refusal(Some(&request.id), -32600, REPEATED));
                    } else if is_modern {
                        let text = "this server speaks the revisions with a handshake";
                        self.answers.push(refusal(Some(&request.id), -32601, text));
                    } else {
                        self.call(&agent.core, link, request, (message, charge));
                    }
                }
                Body::BadId(why) => {
                    wants_answer = true;
                    self.answers.push(refusal(None, -32600, why));
                }
                body @ (Body::Notification(..) | Body::Response(_)) => take(agent, link, body, message),
            }
        }
        wants_answer
    }

    fn call<L: Link>(
        &mut self,
        core: &Arc<AgentCore>,
        link: &L,
        request: Request,
        message: (Message, Charge),
    ) {
        if request.method == Method::Ping {
            return self.answers.push(result_response(&request.id, b"{}"));
        }
        let outlet = self.stream.clone().map(|stream| stream as Arc<dyn Outlet>);
        match InFlightCall::start(core, link, request, message, outlet) {
            Ok(running) => self.calls.push(running),
            Err(refused) => self.answers.push(refused),
        }
    }

    fn refuse(&mut self, error: &DecodeError) {
        let reason = error.to_string();
        self.answers.push(refusal(error.id.as_ref(), error.kind.code(), &reason));
    }

    /// Ready with `None` when all calls have ended, or with the stream as soon as it has a message.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Outbox>>> {
        if self.poll_calls(cx).is_ready() {
            return Poll::Ready(None);
        }
        match &self.stream {
            Some(stream) => stream.poll_opened(cx).map(|outbox| Some(Arc::clone(outbox))),
            None => Poll::Pending,
        }
    }

    /// Ready with the stream once it has a message.
    fn poll_stream(&self, cx: &mut Context<'_>) -> Poll<Option<Arc<Outbox>>> {
        let Some(stream) = &self.stream else { return Poll::Pending };
        stream.begin();
        stream.poll_opened(cx).map(|outbox| Some(Arc::clone(outbox)))
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let answers = &mut self.answers;
        self.calls.retain_mut(|call| match call.poll_end(cx) {
            Poll::Ready(result) => {
                if let Some(body) = result.body {
                    answers.push(body);
                }
                false
            }
            Poll::Pending => true,
        });
        if self.calls.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    async fn serve(
        mut self,
        core: &Arc<AgentCore>,
        said: Option<Arc<Outbox>>,
        takes_json: bool,
        connection: &Arc<ConnectionState>,
    ) -> Response {
        if let Some(outbox) = said
            && let Some(reader) = outbox.attach()
        {
            for answer in self.answers.texts.drain(..) {
                core.send_answer_on(&outbox, answer);
            }
            self.answers.unwritten.less(usize::MAX);
            match hand_over(std::mem::take(&mut self.calls), Some(&outbox)) {
                Ok(()) => return stream(core, reader),
                // No room for more detached calls: the messages wait for the answers.
                Err(calls) => self.calls = calls,
            }
            poll_fn(|cx| self.poll_calls(cx)).await;
        }
        let Answers { texts, unwritten } = std::mem::replace(&mut self.answers, Answers::new(connection));
        let opened = self.stream.as_ref().and_then(|stream| stream.opened()).cloned();
        match opened {
            None if takes_json && !texts.is_empty() => Response::array(texts, unwritten),
            // Every request was cancelled: the stream ends without a message.
            None if takes_json => Response::events(AgentBody::empty()),
            opened => as_stream(core, texts, opened),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        if !calls.is_empty()
            && hand_over(calls, None).is_ok()
            && let Some(stream) = &self.stream
        {
            stream.abandon();
        }
    }
}
