//! What the front tells the rest of the program: events for log and metrics, gauges, and what it asks for its health.
//!
//! Observers are called inline on the call path: they must neither block nor call back.

use std::{net::IpAddr, time::Duration};

use mcpool_wire::{AgentKey, CallError, CallTrace, Executed, Method, RequestId};

use crate::limits::pressure::PressureLevel;

/// Name and version of an agent, as it says, short and on one line.
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

/// What happened.
#[derive(Clone, Debug)]
pub enum FrontEvent<'a> {
    /// An agent session began.
    AgentOpened {
        /// The agent session.
        agent: AgentKey,
        /// How it speaks to us.
        transport: Transport,
        /// The backend it means.
        backend: &'a str,
        /// Where it comes from.
        peer: IpAddr,
        /// What it calls itself, where it has said so: over HTTP+SSE it does later, and one that is restored does not.
        client: Option<&'a ClientName>,
    },
    /// An HTTP+SSE agent did its handshake.
    AgentGreeted {
        /// The agent session.
        agent: AgentKey,
        /// The backend it means.
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
        /// How it spoke to us.
        transport: Transport,
        /// Why.
        reason: AgentEnd,
    },
    /// A call that waits for its caller, because its server asks something.
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
    /// A request of an agent ended; every one that got past decoding ends exactly once.
    CallEnded(CallEnd<'a>),
    /// A message for an agent, or of one, was dropped: `progress`, `log`, `notification`, `server_request`,
    /// `agent_response`, `late_answer`.
    Dropped {
        /// What kind.
        kind: &'static str,
    },
    /// A task panicked, or a call on one: `call`, `connection`, `stream`, `adopter`, `sweep`. What it looked after has ended; nothing else has.
    Panicked {
        /// The task's name.
        task: &'static str,
        /// What it said.
        why: &'a str,
    },
    /// A stream was closed because its agent does not read.
    SlowAgentClosed,
    /// An agent sent an `Authorization` header, which goes nowhere.
    AuthorizationIgnored,
    /// A connection was refused or a peer turned away: one of [`REFUSALS`].
    Refused {
        /// What was wrong.
        kind: &'static str,
    },
    /// What is kept for agents came near the ceiling, or away from it.
    Overload {
        /// The level before.
        from: PressureLevel,
        /// The level from now on.
        to: PressureLevel,
        /// Bytes that are kept.
        held: usize,
        /// The ceiling.
        limit: usize,
    },
    /// Something was held back, refused or let go for the ceiling's sake: one of [`SHED`].
    Shed {
        /// What was done.
        action: &'static str,
    },
}

/// What is turned away at the door, and why.
pub const REFUSALS: [&str; 8] =
    ["limit", "peer", "host", "origin", "agent_sessions", "peer_connections", "peer_sessions", "descriptors"];

/// What is done for the ceiling's sake.
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
    /// What its errors carry in `data.request_id`.
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

/// Who determined the status of a response.
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
    /// The agent said so.
    Deleted,
    /// Its stream ended and it did not come back.
    Gone,
    /// It did nothing for long.
    Idle,
    /// There were as many as there may be, and it was idle longest: its id brings it back.
    Evicted,
    /// What it was tied to is over.
    LinkEnded,
    /// The gateway failed on it.
    Fault,
    /// It does not read.
    Slow,
    /// The gateway stops.
    Shutdown,
}

/// What became of a valid id of a session that is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restore {
    /// Its agent is served as before.
    Restored,
    /// It was deleted.
    Deleted,
    /// It is too old.
    Expired,
    /// More was deleted since than is remembered one by one: it may have been deleted.
    Forgotten,
    /// Its agent had, or would have now, a session of the backend to itself, and has to begin again.
    Own,
    /// There is no place for another agent session.
    Full,
    /// Its backend gave it no link.
    Failed,
}

/// What becomes of a call whose caller is asked something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parking {
    /// It waits.
    Parked,
    /// Its caller came back.
    Resumed,
    /// Its caller did not come back in time: it was cancelled.
    Expired,
    /// Too many wait already: it was cancelled.
    Refused,
}

/// What only the gateway as a whole knows about its health.
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
    /// Not yet.
    Starting,
    /// No more.
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
