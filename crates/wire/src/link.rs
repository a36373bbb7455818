//! The seam between the front and everything behind it (DESIGN.md 3.8).
//!
//! The front is generic over [`Backends`]; a [`Link`] is one agent's tie to what lies behind. What comes back
//! outside a call's own answer (progress, server requests, list changes) is pushed through an [`Outlet`] the front
//! hands over: a bounded hand-off that never waits, so no agent can slow down a session it shares.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderName;

use crate::{
    call::{Answer, Call, Caller, Forwarded},
    era::{Era, Revision},
    error::CallError,
    handshake::ClientHello,
    rewrite::Message,
};

/// A future of the seam: owned, so that a call can go on when its agent's connection is gone.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// Everything behind the front.
pub trait Backends: Send + Sync + 'static {
    /// The tie it gives to each agent.
    type Link: Link;

    /// Which backend a URL means: `None` is the unnamed one (`/mcp`, `/sse`).
    ///
    /// # Errors
    /// A sentence that says which names there are.
    fn target(&self, name: Option<&str>) -> Result<Target, String>;

    /// Ties an agent to its backend. Waits for the backend's first handshake, bounded.
    ///
    /// # Cancel safety
    /// Dropping the future gives everything back; a handshake others wait for goes on.
    fn open(&self, hello: Hello) -> Reply<Arc<Self::Link>>;

    /// Whether an agent without handshake had better come with one: the server keeps things in a session that an agent
    /// with handshake would have to itself. False while nobody has met the server.
    fn prefers_handshake(&self, target: &Target, caller: &Caller, client: &ClientHello) -> bool;

    /// The headers of agents this backend is given, in the order of their names; none where it is no longer configured.
    fn forwards(&self, _target: &Target) -> Arc<[HeaderName]> {
        Arc::default()
    }

    /// Every configured backend, for the discovery endpoint.
    fn servers(&self) -> Vec<ServerEntry>;
}

/// One agent's tie to a backend. Dropping the last handle tells the pool that the agent is gone.
pub trait Link: Send + Sync + 'static {
    /// The `InitializeResult` for this agent, at this revision.
    fn initialize_result(&self, revision: Revision) -> Bytes;

    /// Whether a session of the backend is this agent's alone for its whole life, so that what the agent left there would
    /// be lost if it were tied anew.
    fn is_own(&self) -> bool;

    /// Who may use the sessions of the backend this agent is served on, as one word.
    fn sharing(&self) -> &'static str {
        if self.is_own() { "pinned" } else { "shared" }
    }

    /// Whether an agent tied now would be tied in another way, because more is known of the server: who promised its
    /// callers nothing that lasts takes another link then.
    fn is_outdated(&self) -> bool;

    /// The era the backend speaks with this agent: messages of the other one have to be carried over
    /// ([`modern`](crate::modern)).
    fn era(&self) -> Era;

    /// Whether the `Mcp-Param-*` headers of a call of the modern era say what its arguments say, as far as the tool is
    /// known.
    ///
    /// # Errors
    /// A sentence that names the header.
    fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String>;

    /// Makes a call. The future ends exactly once, with the backend's answer or with why there is none.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: the backend is told, and the session's slot is given back when the
    /// backend answers or `cancel_grace` is over.
    fn call(&self, call: Call) -> Reply<Answer>;

    /// Passes on a notification of the agent, where this kind of session can carry it.
    fn notify(&self, notification: Bytes);

    /// Passes on the agent's response to a server request it was sent as [`LinkEvent::Request`] with this id.
    fn respond(&self, id: u64, response: Message);
}

/// An agent that wants a link.
#[derive(Clone)]
pub struct Hello {
    /// Who it is.
    pub caller: Arc<Caller>,
    /// Which backend it means.
    pub target: Target,
    /// What it declared. Of the modern era where its revision is: then it has no session whose state could be its own,
    /// and each of its calls that may be asked things gets a session for its length.
    pub client: ClientHello,
    /// Where events of the link go.
    pub outlet: Arc<dyn Outlet>,
}

/// A backend as a URL means it, resolved once per agent session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The configured name.
    pub name: Arc<str>,
}

/// What reaches an agent outside the answers to its calls.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// Progress of one of its calls, already under the agent's token.
    Progress(Bytes),
    /// A notification for this agent.
    Notification(Bytes),
    /// A request of the server to this agent; the answer goes to [`Link::respond`] with this id.
    Request {
        /// The link's number for it.
        id: u64,
        /// The request, under the server's id.
        message: Message,
    },
    /// The server no longer waits for the answer to the request with this number.
    Withdrawn {
        /// The link's number for it.
        id: u64,
        /// For a human.
        reason: &'static str,
    },
    /// The server ended the stream of this call before its answer, to be asked for the rest after this time.
    Paused(Duration),
    /// The agent has a session of the backend to itself from now on, opened with these values of its headers: what it
    /// leaves there is lost with it.
    Owned(Forwarded),
    /// The link is over (a pinned session broke): the agent has to initialise again.
    Ended(CallError),
}

/// A bounded hand-off to an agent that never waits.
pub trait Outlet: Send + Sync {
    /// Hands over one event.
    ///
    /// # Errors
    /// [`OutletFull`] when the agent does not keep up or is gone: the event is dropped, and counted by whoever
    /// owns the outlet.
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull>;
}

/// The agent does not keep up, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutletFull;

/// One line of `GET /api/mcp/servers`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ServerEntry {
    /// The configured name.
    pub name: String,
    /// Transport spoken with the backend: `sse`, `http`, or `auto` while it is not known yet.
    pub transport: String,
    /// Pool mode.
    pub mode: String,
    /// `ready`, `full`, `connecting`, `idle`, `down`, `paused`, `drained`.
    pub state: String,
    /// Why it is in that state, for a human.
    pub reason: String,
}
