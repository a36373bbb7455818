//! Kinds and reasons that events, the configuration and the pools name alike.

/// Who may use a session at a time (SEMANTICS.md 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// There is no session: each request stands alone. Used like a shared one.
    Stateless,
    /// Many agents at once.
    Shared,
    /// One agent at a time, for one request.
    Exclusive,
    /// One agent for its whole life.
    Pinned,
}

impl Mode {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::Pinned => "pinned",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stateless, Self::Shared, Self::Exclusive, Self::Pinned];

    /// Whether a session of this mode knows at any moment whose it is.
    #[must_use]
    pub fn is_private(self) -> bool {
        matches!(self, Self::Exclusive | Self::Pinned)
    }
}

/// The rule that chose a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModeReason {
    /// The operator named a tool whose agents need sessions of their own, and the server has it.
    Tool,
    /// The operator set the mode.
    Configured,
    /// The server gave no session id: it keeps nothing.
    NoSession,
    /// The server is known by its name and version.
    Profile,
    /// The operator declared that the server keeps no state.
    StateNone,
    /// The agent can be asked things.
    Interactive,
    /// The server is a program, which was written for one client, and nobody knows it.
    Program,
    /// Nothing speaks against sharing yet.
    Probation,
    /// The server was seen to keep state per session.
    Demoted,
}

impl ModeReason {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Configured => "configured",
            Self::NoSession => "no_session",
            Self::Profile => "profile",
            Self::StateNone => "state_none",
            Self::Interactive => "interactive",
            Self::Program => "program",
            Self::Probation => "probation",
            Self::Demoted => "demoted",
        }
    }

    /// The reason as a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Tool => "the configuration pins agents because of one of its tools",
            Self::Configured => "set in the configuration",
            Self::NoSession => "the server gives out no session id, so it keeps nothing between requests",
            Self::Profile => "the server is known by its name and version",
            Self::StateNone => "the configuration says that the server keeps no state",
            Self::Interactive => "the agent can be asked things by the server",
            Self::Program => {
                "the server is a program, which was written for one client, and no profile knows it; mode = \"shared\" \
                 or state = \"none\" in its table shares it"
            }
            Self::Probation => {
                "nothing was seen that speaks against sharing; a first sign that the server keeps state per session \
                 ends it"
            }
            Self::Demoted => "the server was seen to keep state per session",
        }
    }
}

/// What showed that a server keeps state per session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Two sessions of one pool list different things.
    ListsDiffer,
    /// A list of one session changed right after a tool call on it, and of no other session.
    ListChanged,
    /// The server asked its client for something although nothing was declared.
    ServerRequest,
}

impl Evidence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ListsDiffer, Self::ListChanged, Self::ServerRequest];

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ListsDiffer => "lists_differ",
            Self::ListChanged => "list_changed",
            Self::ServerRequest => "server_request",
        }
    }
}

/// Why a session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// Kept warm.
    Warm,
    /// Calls wait for it.
    Demand,
    /// An interactive agent has it for itself.
    Pinned,
    /// The breaker's probe.
    Probe,
    /// It replaces one, because the operator wants that.
    Reconnect,
}

impl OpenReason {
    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Demand => "demand",
            Self::Pinned => "pinned",
            Self::Probe => "probe",
            Self::Reconnect => "reconnect",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Warm, Self::Demand, Self::Pinned, Self::Probe, Self::Reconnect];
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Its stream or connection broke.
    Broken,
    /// The backend forgot it.
    Lost,
    /// It did not answer probes.
    Unresponsive,
    /// Nobody used it.
    Idle,
    /// It was old.
    MaxAge,
    /// Its agent left.
    AgentGone,
    /// Another key needed its place.
    Evicted,
    /// It served its request, and the next agent is to find nothing of it.
    Reset,
    /// The gateway or the backend's registration ends.
    Shutdown,
    /// The operator wants it replaced, or its backend drained.
    Operator,
    /// The backend broke the protocol, or too many cancelled calls burn on it.
    Violation,
    /// The configuration of its backend changed: calls go to sessions of the new one.
    Replaced,
    /// The gateway failed on it: its task panicked.
    Fault,
}

impl CloseReason {
    /// Whether the backend is believed to know it no more.
    pub(crate) fn is_gone(self) -> bool {
        matches!(self, Self::Broken | Self::Lost)
    }

    /// The metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Lost => "lost",
            Self::Unresponsive => "unresponsive",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::AgentGone => "agent_gone",
            Self::Evicted => "evicted",
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
            Self::Operator => "operator",
            Self::Violation => "violation",
            Self::Replaced => "replaced",
            Self::Fault => "fault",
        }
    }

    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Broken,
        Self::Lost,
        Self::Unresponsive,
        Self::Idle,
        Self::MaxAge,
        Self::AgentGone,
        Self::Evicted,
        Self::Reset,
        Self::Shutdown,
        Self::Operator,
        Self::Violation,
        Self::Replaced,
        Self::Fault,
    ];
}

/// The shape of a connected transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// HTTP+SSE: all responses come on the one stream.
    Sse,
    /// Streamable HTTP: a response comes in the body of its own POST.
    Http,
    /// A process: all responses come on its standard output.
    Stdio,
    /// In memory, for tests: responses come on the one stream.
    Memory,
}

impl TransportKind {
    /// The value in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Http => "http",
            Self::Stdio => "stdio",
            Self::Memory => "memory",
        }
    }
}
