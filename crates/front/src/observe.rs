//! Observation of the front: events for log and metrics, and what the front asks about the gateway's health.
//!
//! Observers are called inline on the call path: they must neither block nor call back.

use std::{net::IpAddr, time::Duration};

use mcpool_wire::{AgentKey, CallError, CallTrace, Executed, Method, RequestId};

use crate::limits::pressure::PressureLevel;

/// Name and version of an agent as it states them, shortened to one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientName {
    /// `clientInfo.name`
    pub name: String,
    /// `clientInfo.version`
    pub version: String,
}

/// Takes events.
pub trait FrontObserve: Send + Sync + 'static {
    /// Takes one event.
    fn on(&self, event: &FrontEvent<'_>);
}

/// An event of the front.
#[derive(Clone, Debug)]
pub enum FrontEvent<'a> {
    /// An agent session began.
    AgentOpened {
        /// The agent session.
        agent: AgentKey,
        /// Its transport.
        transport: Transport,
        /// The backend it uses.
        backend: &'a str,
        /// Where it comes from.
        peer: IpAddr,
        /// What it calls itself, if known: an HTTP+SSE agent says so later, and a restored one does not.
        client: Option<&'a ClientName>,
    },
    /// An HTTP+SSE agent did its handshake.
    AgentGreeted {
        /// The agent session.
        agent: AgentKey,
        /// The backend it uses.
        backend: &'a str,
        /// Where it comes from.
        peer: IpAddr,
        /// What it calls itself.
        client: Option<&'a ClientName>,
    },
    /// An agent session ended.
    AgentClosed {
        /// The agent session.
        agent: AgentKey,
        /// Its transport.
        transport: Transport,
        /// Why.
        reason: AgentEnd,
    },
    /// A call was parked, because its server asks its caller something, or a parked call ended.
    Parked {
        /// What became of it.
        outcome: Parking,
    },
    /// A valid id of a session that is not held was presented.
    Restore {
        /// What became of it.
        outcome: Restore,
    },
    /// An HTTP response began.
    Responded {
        /// The transport the request belonged to.
        transport: Transport,
        /// The HTTP status.
        code: u16,
        /// Who determined it.
        cause: Cause,
    },
    /// A request of an agent ended. Every request that was decoded ends exactly once.
    CallEnded(CallEnd<'a>),
    /// A message for or of an agent was dropped: `progress`, `log`, `notification`, `server_request`, `agent_response`,
    /// `late_answer`.
    Dropped {
        /// What kind.
        kind: &'static str,
    },
    /// A task or a call on it panicked: `call`, `connection`, `stream`, `adopter`, `sweep`, `relief`. What it owned has
    /// ended, and nothing else.
    Panicked {
        /// The task's name.
        task: &'static str,
        /// The panic message.
        why: &'a str,
    },
    /// A stream was closed because its agent does not read.
    SlowAgentClosed,
    /// An agent sent an `Authorization` header that is not forwarded.
    AuthorizationIgnored,
    /// A connection or request was refused: one of [`REFUSALS`].
    Refused {
        /// The kind of refusal.
        kind: &'static str,
    },
    /// The memory pressure changed.
    Overload {
        /// The level before.
        from: PressureLevel,
        /// The level from now on.
        to: PressureLevel,
        /// Bytes held for agents.
        held: usize,
        /// The limit of bytes.
        limit: usize,
    },
    /// Something was held back, refused or closed to save memory: one of [`SHED`].
    Shed {
        /// What was done.
        action: &'static str,
    },
}

/// The kinds of refusals.
pub const REFUSALS: [&str; 8] =
    ["limit", "peer", "host", "origin", "agent_sessions", "peer_connections", "peer_sessions", "descriptors"];

/// What is done to save memory.
pub const SHED: [&str; 7] = [
    "body_held",
    "session_held",
    "body_refused",
    "call_refused",
    "session_refused",
    "replay_forgotten",
    "agent_closed",
];

/// How a request of an agent ended.
#[derive(Clone, Debug)]
pub struct CallEnd<'a> {
    /// The agent session (0 for one that never began).
    pub agent: AgentKey,
    /// The id in `data.request_id` of its errors.
    pub request_id: RequestId,
    /// What was called.
    pub method: &'a Method,
    /// The backend that served it; the one it was meant for, if it came to none.
    pub backend: &'a str,
    /// The backend it was meant for, by the name in the URL.
    pub target: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the backend ran it.
    pub executed: Executed,
    /// How far it got.
    pub trace: &'a CallTrace,
    /// Why it failed.
    pub error: Option<&'a CallError>,
    /// How long it took.
    pub took: Duration,
}

/// How a call ended, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the label its name spells")]
pub enum Outcome {
    Ok,
    ToolError,
    RpcError,
    Rejected,
    Timeout,
    Cancelled,
    Lost,
}

/// The transport an agent uses, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP+SSE.
    Sse,
    /// Streamable HTTP.
    Http,
    /// Neither: health, discovery, unknown paths.
    Other,
}

/// Who caused the status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The agent's own message.
    Agent,
    /// The gateway.
    Gateway,
    /// The backend's answer.
    Backend,
}

/// Why an agent session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentEnd {
    /// The agent deleted it.
    Deleted,
    /// Its stream ended and its agent did not reconnect.
    Gone,
    /// It was idle for too long.
    Idle,
    /// The limit of agent sessions was reached and it was idle longest; its id restores it.
    Evicted,
    /// Its link to the backend ended.
    LinkEnded,
    /// A panic of the gateway.
    Fault,
    /// The agent does not read.
    Slow,
    /// The gateway shuts down.
    Shutdown,
}

/// The outcome of restoring a session from a valid id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restore {
    /// The session was restored.
    Restored,
    /// The session was deleted.
    Deleted,
    /// The id has expired.
    Expired,
    /// The id is older than the deletions that are remembered one by one: it may have been deleted.
    Forgotten,
    /// Its agent had, or would have now, its own backend session, and must begin again.
    Own,
    /// There is no place for another agent session.
    Full,
    /// The backend gave no link.
    Failed,
}

/// The outcome of parking a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parking {
    /// The call was parked.
    Parked,
    /// The caller returned.
    Resumed,
    /// The caller did not return in time: the call was cancelled.
    Expired,
    /// Too many calls are parked: the call was cancelled.
    Refused,
}

/// Health of the gateway as a whole, which the front does not know.
pub trait Health: Send + Sync + 'static {
    /// Whether it can serve.
    fn readiness(&self) -> Readiness;

    /// The version shown by `/health`.
    fn version(&self) -> &str;

    /// Further members of the `/readyz` body.
    fn details(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// Whether the gateway can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Everything works.
    Ok,
    /// Some backend is down; the gateway serves.
    Degraded,
    /// The gateway is starting.
    Starting,
    /// The gateway is shutting down.
    Draining,
}

impl Readiness {
    /// The word in bodies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
            Self::Draining => "draining",
        }
    }

    /// Whether `/readyz` is 200.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

impl Outcome {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::Rejected => "rejected",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::ToolError,
        Self::RpcError,
        Self::Rejected,
        Self::Timeout,
        Self::Cancelled,
        Self::Lost,
    ];
}

impl Transport {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Http => "http",
            Self::Other => "other",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sse, Self::Http, Self::Other];
}

impl Cause {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::Backend => "backend",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Gateway, Self::Backend];
}

impl AgentEnd {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Gone => "gone",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::LinkEnded => "link_ended",
            Self::Fault => "fault",
            Self::Slow => "slow",
            Self::Shutdown => "shutdown",
        }
    }
}

impl Restore {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Forgotten => "forgotten",
            Self::Own => "own",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

impl Parking {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Resumed => "resumed",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}
