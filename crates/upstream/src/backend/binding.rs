//! What one agent can do on its backend, whatever session it has: what it is told of the server, what it says outside
//! of calls, and the call on a leased permit.

use bytes::Bytes;
use mcpool_wire::{Answer, Call, CallTrace, Era, Forwarded, Message, Method, Revision, ServerHello};

use crate::{
    backend::lock,
    clock,
    error::SendError,
    kinds::Mode,
    pool::{Binding, Lease},
};

impl Binding {
    /// Who may use the sessions of this binding.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.pool.mode()
    }

    /// What the agent is told about the server at this revision, which holds for it from now on.
    #[must_use]
    pub fn initialize_result(&self, revision: Revision) -> Bytes {
        *lock(&self.revision) = revision;
        let Some(hello) = self.pool.catalog.hello() else {
            return ServerHello::unknown().to_agent(revision, &[]);
        };
        match self.mode() {
            Mode::Pinned => hello.to_agent(revision, &["tasks"]),
            // Experimental capabilities may imply state in the session.
            Mode::Stateless | Mode::Shared | Mode::Exclusive => {
                hello.to_agent(revision, &["tasks", "experimental", "extensions"])
            }
        }
    }

    /// The era the backend speaks.
    #[must_use]
    pub fn era(&self) -> Era {
        self.pool.catalog.hello().map_or(Era::Legacy, |hello| hello.revision.era())
    }

    /// Whether running the call twice is known to change nothing.
    #[must_use]
    pub fn is_safe(&self, call: &Call) -> bool {
        self.pool.catalog.is_safe(&call.method, call.name.as_deref())
    }

    /// Whether the headers of a call of the era without handshake say what its arguments say, as far as the tool is
    /// known.
    ///
    /// # Errors
    /// A sentence that names the header.
    pub fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String> {
        self.pool.catalog.check_params(tool, message, headers)
    }

    /// The backend's answer as this agent reads it: only lists are ever changed, results of calls never.
    #[must_use]
    pub fn for_agent(&self, call: &Call, answer: Answer) -> Answer {
        match call.method {
            Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourcesTemplatesList => {
                self.pool.catalog.for_agent(&call.method, *lock(&self.revision), answer)
            }
            _ => answer,
        }
    }

    /// Passes on a notification of the agent, on a session of its own only.
    pub fn notify(&self, notification: Bytes) {
        if self.mode() == Mode::Pinned
            && let [session] = self.own_sessions().as_slice()
        {
            session.notify(notification);
        }
    }

    /// Passes on the agent's answer to a server request.
    pub fn respond(&self, number: u64, response: &Message) {
        let sessions = self.asking_sessions();
        if !sessions.iter().any(|session| session.respond(self.caller.agent, number, response))
            && let Some(session) = sessions.first()
        {
            session.dropped_response();
        }
    }

    /// Whether the server waits for this agent to answer something: its calls wait for a human.
    #[must_use]
    pub fn awaits_agent(&self) -> bool {
        self.asking_sessions().iter().any(|session| session.awaits_agent(self.caller.agent))
    }
}

impl Lease {
    /// Runs the call on the leased permit.
    ///
    /// # Errors
    /// A [`SendError`] that says how far it got.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call upstream; the permit comes back with the answer or after `cancel_grace`.
    pub async fn call(self, call: &Call) -> Result<Answer, SendError> {
        mark(&call.trace, &self);
        // Whoever waits behind it after a pause waits for its end.
        let _resume_permit = self.resume_permit;
        self.session.call(self.permit, call).await
    }
}

fn mark(trace: &CallTrace, lease: &Lease) {
    trace.mark_leased(lease.session.epoch, clock::now());
}
