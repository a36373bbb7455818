//! The operations of an agent on its backend that need no particular session: initialize, notifications, responses, and
//! the call on a leased permit.

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
    /// The mode of its sessions.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.pool.mode()
    }

    /// The result of `initialize` at this revision, which applies from now on.
    #[must_use]
    pub fn initialize_result(&self, revision: Revision) -> Bytes {
        *lock(&self.revision) = revision;
        let Some(hello) = self.pool.catalog.hello() else {
            return ServerHello::unknown().to_agent(revision, &[]);
        };
        match self.mode() {
            Mode::Pinned => hello.to_agent(revision, &["tasks"]),
            // Experimental capabilities may imply state per session.
            Mode::Stateless | Mode::Shared | Mode::Exclusive => {
                hello.to_agent(revision, &["tasks", "experimental", "extensions"])
            }
        }
    }

    /// The era of the backend.
    #[must_use]
    pub fn era(&self) -> Era {
        self.pool.catalog.hello().map_or(Era::Legacy, |hello| hello.revision.era())
    }

    /// True if the call is known to be safe to repeat.
    #[must_use]
    pub fn is_safe(&self, call: &Call) -> bool {
        self.pool.catalog.is_safe(&call.method, call.name.as_deref())
    }

    /// Checks that the headers of a call of the modern era agree with its arguments, if the tool is known.
    ///
    /// # Errors
    /// A sentence with the name of the header.
    pub fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String> {
        self.pool.catalog.check_params(tool, message, headers)
    }

    /// The backend's response as this agent reads it. Only lists are changed, never results of calls.
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

    /// Forwards a notification of the agent, only on a session of its own.
    pub fn notify(&self, notification: Bytes) {
        if self.mode() == Mode::Pinned
            && let [session] = self.own_sessions().as_slice()
        {
            session.notify(notification);
        }
    }

    /// Forwards the agent's response to a server request.
    pub fn respond(&self, number: u64, response: &Message) {
        let sessions = self.asking_sessions();
        if !sessions.iter().any(|session| session.respond(self.caller.agent, number, response))
            && let Some(session) = sessions.first()
        {
            session.dropped_response();
        }
    }

    /// True if the server waits for a response of this agent, so that its calls may wait for a human.
    #[must_use]
    pub fn awaits_agent(&self) -> bool {
        self.asking_sessions().iter().any(|session| session.awaits_agent(self.caller.agent))
    }
}

impl Lease {
    /// Runs the call on the leased permit.
    ///
    /// # Errors
    /// [`SendError`] with the phase it reached.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call upstream; the permit is released with the response or after `cancel_grace`.
    pub async fn call(self, call: &Call) -> Result<Answer, SendError> {
        mark(&call.trace, &self);
        // Held to the end of the call: during a slow start the next call waits for it.
        let _resume_permit = self.resume_permit;
        self.session.call(self.permit, call).await
    }
}

fn mark(trace: &CallTrace, lease: &Lease) {
    trace.mark_leased(lease.session.epoch, clock::now());
}
