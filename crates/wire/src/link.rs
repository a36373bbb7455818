//! The seam between the front and the backends (DESIGN.md 3.8).
//!
//! The front is generic over [`Backends`]. A [`Link`] connects one agent to its backend. Everything outside the
//! response of a call (progress, server requests, list changes) is pushed through an [`Outlet`] that the front
//! provides. An outlet is bounded and never waits, so no agent can slow down a session it shares.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderName;

use crate::{
    call::{Answer, Call, Caller, Forwarded},
    era::{Era, Revision},
    error::CallError,
    handshake::ClientHello,
    identity::Identity,
    rewrite::Message,
};

/// An owned future, so that a call can continue after its agent's connection has closed.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// Everything behind the front.
pub trait Backends: Send + Sync + 'static {
    /// The link of one agent.
    type Link: Link;

    /// Resolves the backend named in a URL, for this caller; `None` is the unnamed one (`/mcp`, `/sse`).
    ///
    /// # Errors
    /// One sentence that lists the names this caller may use.
    fn target(&self, name: Option<&str>, caller: &Identity) -> Result<Target, String>;

    /// Links an agent to its backend. Waits a bounded time for the backend's first handshake.
    ///
    /// # Cancel safety
    /// Dropping the future releases everything it holds. A handshake that others await continues.
    fn open(&self, hello: Hello) -> Reply<Arc<Self::Link>>;

    /// True if an agent without handshake should use one: the server stores per-session state, and an agent with
    /// handshake would get its own session. False until the server is known.
    fn prefers_handshake(&self, target: &Target, caller: &Caller, client: &ClientHello) -> bool;

    /// The agent headers forwarded to this backend, sorted by name. Empty if the backend is no longer configured.
    fn forwards(&self, _target: &Target) -> Arc<[HeaderName]> {
        Arc::default()
    }

    /// Lists the backends this caller may use, for the discovery endpoint.
    fn servers(&self, caller: &Identity) -> Vec<ServerEntry>;
}

/// One agent's link to a backend. Dropping the last handle releases the agent's place in the pool.
pub trait Link: Send + Sync + 'static {
    /// The `InitializeResult` for this agent at this revision.
    fn initialize_result(&self, revision: Revision) -> Bytes;

    /// True if the agent has a backend session to itself for life. A new link would lose the state stored there.
    fn is_own(&self) -> bool;

    /// One word for who shares the agent's backend session: `pinned` or `shared`.
    fn sharing(&self) -> &'static str {
        if self.is_own() { "pinned" } else { "shared" }
    }

    /// True if a new link would share differently, because more is known about the server by now. Callers that rely on
    /// no session state then take a new link.
    fn is_outdated(&self) -> bool;

    /// The era that the backend speaks with this agent. Messages of the other era need conversion
    /// ([`modern`](crate::modern)).
    fn era(&self) -> Era;

    /// Checks the `Mcp-Param-*` headers of a modern call against its arguments, as far as the tool is known.
    ///
    /// # Errors
    /// One sentence that names the header.
    fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String>;

    /// Makes a call. The future ends exactly once, with the backend's answer or an error.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call and notifies the backend. The call permit is released when the backend
    /// answers or after `cancel_grace`.
    fn call(&self, call: Call) -> Reply<Answer>;

    /// Forwards a notification of the agent, if this kind of session can carry it.
    fn notify(&self, notification: Bytes);

    /// Forwards the agent's response to the server request sent as [`LinkEvent::Request`] with this id.
    fn respond(&self, id: u64, response: Message);
}

/// An agent's request for a link.
#[derive(Clone)]
pub struct Hello {
    /// The agent.
    pub caller: Arc<Caller>,
    /// The backend it asks for.
    pub target: Target,
    /// The agent's declaration. A modern client has no session of its own; each of its calls that may receive server
    /// requests gets a session for the duration of the call.
    pub client: ClientHello,
    /// Receives the link's events.
    pub outlet: Arc<dyn Outlet>,
}

/// A backend resolved from a URL, once per agent session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The configured name.
    pub name: Arc<str>,
    /// The id of the backend's record, which outlives restarts and is never used again: another backend that gets the
    /// name later has another one. `None` if the name is all there is, as in the configuration file.
    pub durable_id: Option<Arc<str>>,
}

impl Target {
    /// A backend without a record.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), durable_id: None }
    }
}

/// Events for an agent outside the responses to its calls.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// Progress of one call, under the agent's token.
    Progress(Bytes),
    /// A notification for this agent.
    Notification(Bytes),
    /// A server request for this agent; the agent's response goes to [`Link::respond`].
    Request {
        /// The request's number on this link.
        id: u64,
        /// The request under the server's id.
        message: Message,
    },
    /// The server withdrew the request with this number.
    Withdrawn {
        /// The request's number on this link.
        id: u64,
        /// The reason, for people.
        reason: &'static str,
    },
    /// The server ended the call's stream before its answer; it may be resumed after this time.
    Paused(Duration),
    /// The agent now has a backend session to itself, opened with these header values. State stored there is lost with
    /// it.
    Owned(Forwarded),
    /// The link ended because its pinned session broke; the agent must initialize again.
    Ended(CallError),
}

/// A bounded event queue to an agent; pushing never waits.
pub trait Outlet: Send + Sync {
    /// Pushes one event.
    ///
    /// # Errors
    /// [`OutletFull`] if the agent is too slow or gone. The event is dropped; the owner of the outlet counts it.
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull>;
}

/// The agent is too slow or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutletFull;

/// One entry of `GET /api/mcp/servers`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ServerEntry {
    /// The configured name.
    pub name: String,
    /// Backend transport: `sse`, `http`, or `auto` until it is known.
    pub transport: String,
    /// The sharing mode.
    pub mode: String,
    /// `ready`, `full`, `connecting`, `idle`, `down`, `paused`, `drained`.
    pub state: String,
    /// The reason for the state, for people.
    pub reason: String,
}
