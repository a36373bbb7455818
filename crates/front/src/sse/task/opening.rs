//! Opening the link of an HTTP+SSE agent: by its handshake, or by its first call without one.

use std::sync::Arc;

use mcpool_wire::{
    Backends, CallError, Caller, ClientHello, ErrorKind, Hello, Link as _, Message, Method, Outlet, Reply,
    result_response,
};

use super::{AgentStream, LinkState, OpenFor, Origin, PendingInitialize};
use crate::{
    http::response::refusal,
    message::{Body, Request},
    observe::FrontEvent,
    session::{
        agent::AgentCore,
        open::{self, OpenEnd},
    },
};

impl<B: Backends> AgentStream<B> {
    pub(super) fn greet(&mut self, request: Request, message: &Message) {
        let client = match ClientHello::parse(message.bytes()) {
            Ok(client) => client,
            Err(why) => return self.core.send_answer(refusal(Some(&request.id), -32602, why)),
        };
        let (revision, interactive) = (client.revision, client.is_interactive());
        // The server's words for another credential are not reused for this one.
        if let LinkState::Greeted(link) = &self.link_state
            && !self.core.has_moved()
        {
            self.core.agreed_on(revision);
            let result = link.initialize_result(revision);
            return self.core.send_answer(result_response(&request.id, &result));
        }
        self.core.profile.introduced(&client.client_info);
        let end = OpenEnd::new(&self.core);
        let registration = match self.core.begin(request.id.value(), message.bytes()) {
            Ok(registration) => registration,
            Err(error) => return self.core.send_answer(end.refused(&self.core, &request, &error.error())),
        };
        let caller = self.caller_of(&request);
        let reply = self.open(client, &caller);
        let greeting =
            PendingInitialize { request, revision, interactive, caller, end, _registration: registration };
        self.link_state = LinkState::Opening(reply, OpenFor::PendingInitialize(Box::new(greeting)));
    }

    pub(super) fn open(&self, client: ClientHello, caller: &Arc<Caller>) -> Reply<Arc<B::Link>> {
        let outlet: Arc<dyn Outlet> = Arc::<AgentCore>::clone(&self.core);
        let (caller, target) = (Arc::clone(caller), self.core.target.clone());
        let hello = Hello { caller, target, client, outlet };
        open::bounded(self.front.backends.open(hello), self.common())
    }

    pub(super) fn opened(&mut self, opened: Result<Arc<B::Link>, CallError>) {
        let LinkState::Opening(_, why) = std::mem::replace(&mut self.link_state, LinkState::None) else {
            return;
        };
        match (opened, why) {
            (Ok(link), OpenFor::PendingInitialize(greeting)) => {
                self.core.agreed_on(greeting.revision);
                let result = link.initialize_result(greeting.revision);
                self.core.send_answer(result_response(&greeting.request.id, &result));
                greeting.end.ok(&self.core, &greeting.request);
                self.core.profile.tied(link.as_ref());
                self.common().emit(&FrontEvent::AgentGreeted {
                    agent: self.core.caller.agent,
                    backend: &self.core.target.name,
                    peer: self.core.profile.peer,
                    client: self.core.profile.client(),
                });
                self.owns(&link, &greeting.caller);
                if greeting.interactive {
                    // A restored session could not ask the agent anything, though the server was told it can.
                    self.core.revoke();
                }
                self.origin = Origin::New;
                self.link_state = LinkState::Greeted(link);
            }
            (Ok(link), OpenFor::Early(_)) if self.origin == Origin::Restored && link.is_own() => {
                // The backend changed: the agent would get an empty session without knowing.
                self.core.revoke();
                self.origin = Origin::Lost;
                return self.refuse_early(&session_ended());
            }
            (Ok(link), OpenFor::Early(caller)) => {
                self.owns(&link, &caller);
                self.link_state = LinkState::Neutral(link);
            }
            (Err(error), why) => {
                if let OpenFor::PendingInitialize(greeting) = why {
                    self.core.send_answer(greeting.end.refused(&self.core, &greeting.request, &error));
                }
                return self.refuse_early(&error);
            }
        }
        let mut early = std::mem::take(&mut self.early);
        while let Some(message) = early.pop_front() {
            self.take(message);
        }
    }

    /// Marks the id as not restorable if this link leads to a backend session of the agent's own: a restore would lead
    /// to another one.
    pub(super) fn owns(&self, link: &Arc<B::Link>, caller: &Caller) {
        if link.is_own() {
            self.core.becomes_own(Arc::clone(&caller.forwarded));
        }
    }

    /// Refuses the messages that waited for a link that failed; an `initialize` among them gets a try of its own.
    pub(super) fn refuse_early(&mut self, error: &CallError) {
        for message in std::mem::take(&mut self.early) {
            let greets =
                matches!(&message.body, Body::Request(request) if request.method == Method::Initialize);
            if greets || matches!(self.link_state, LinkState::Opening(..)) {
                self.take(message);
            } else {
                self.refuse(&message, error);
            }
        }
    }
}

/// The error for an agent that returns to a session that is over.
pub(super) fn session_ended() -> CallError {
    let message = "this agent's session ended: send initialize";
    CallError::not_sent(ErrorKind::InvalidRequest, message)
}
