//! One connection to the backend in memory: its sending half and its stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use mcpool_wire::Revision;

use super::super::{Exchange, Heard, Inbound, Outbound, Received, TransportKind};
use super::{Backend, MemorySession, Turn, lock};
use crate::error::{Cause, SendError};

pub(super) struct Connection {
    pub(super) backend: Arc<Backend>,
    pub(super) session: MemorySession,
}

impl Connection {
    pub(super) fn handle(&self, message: Bytes) -> BoxFuture<'static, Vec<Bytes>> {
        lock(&self.session.0.state).sent.push(message.clone());
        (self.backend.handler)(Turn { session: self.session.clone(), message })
    }

    /// Takes a message, or says why not.
    fn accept(&self, message: Bytes) -> Result<BoxFuture<'static, Vec<Bytes>>, SendError> {
        {
            let mut state = lock(&self.session.0.state);
            if let Some(error) = state.refusing.pop_front() {
                return Err(error);
            }
            if state.is_closed {
                return Err(SendError::not_sent(Cause::Closed("memory session")));
            }
        }
        Ok(self.handle(message))
    }
}

impl Outbound for Connection {
    fn agreed(&self, revision: Revision) {
        lock(&self.session.0.state).agreed = Some(revision);
    }

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        let session = self.session.clone();
        async move {
            if std::mem::replace(&mut lock(&session.0.state).is_listening, true) {
                return Err(SendError::not_sent(Cause::Closed("its stream was taken already")));
            }
            let inbound: Inbound = Box::pin(Listening { session, running: FuturesUnordered::new() });
            Ok(inbound)
        }
        .boxed()
    }

    fn listening(&self) -> BoxFuture<'static, ()> {
        let delay = lock(&self.backend.script).listen_delay;
        async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
        }
        .boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        let connection = Self { backend: Arc::clone(&self.backend), session: self.session.clone() };
        let in_exchange = self.backend.kind == TransportKind::Http;
        // Lazy: nothing happens before the first poll.
        let sending = async move {
            match connection.accept(message) {
                Err(error) => stream::iter(vec![Err(error)]).boxed(),
                Ok(answers) if in_exchange => {
                    let answers =
                        answers.map(|messages| stream::iter(messages).map(Received::Message).map(Ok));
                    stream::iter([Ok(Received::Accepted)]).chain(answers.flatten_stream()).boxed()
                }
                Ok(answers) => {
                    connection.session.run(answers);
                    stream::iter(vec![Ok(Received::Accepted)]).boxed()
                }
            }
        };
        Box::pin(sending.flatten_stream())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let session = self.session.clone();
        async move { lock(&session.0.state).is_closed = true }.boxed()
    }
}

struct Listening {
    session: MemorySession,
    running: FuturesUnordered<BoxFuture<'static, Vec<Bytes>>>,
}

impl Stream for Listening {
    type Item = Result<Heard, SendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            {
                let mut state = lock(&this.session.0.state);
                if let Some(heard) = state.queue.pop_front() {
                    return Poll::Ready(Some(heard));
                }
                if state.is_ended {
                    return Poll::Ready(None);
                }
                this.running.extend(state.running.drain(..));
                state.reader = Some(cx.waker().clone());
            }
            // Not under the lock: a handler may use its session.
            match this.running.poll_next_unpin(cx) {
                Poll::Ready(Some(answers)) => answers.into_iter().for_each(|answer| this.session.say(answer)),
                Poll::Ready(None) | Poll::Pending => {
                    if lock(&this.session.0.state).queue.is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
