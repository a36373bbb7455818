//! What a backend is configured to be: plain, checked values. Reading files is the gateway's business.

mod endpoint;
mod profile;

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use mcpool_wire::BackendId;

pub(crate) use self::profile::matches;
pub use self::{
    endpoint::{Endpoint, HttpEndpoint, Resolve, Resolver, StdioEndpoint},
    profile::Profile,
};

/// One registered backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSpec {
    /// Stable index, apart from the name.
    pub id: BackendId,
    /// The configured name.
    pub name: Arc<str>,
    /// The id of its record, if it comes from one ([`Target`](mcpool_wire::Target)).
    pub durable_id: Option<Arc<str>>,
    /// Where this registration comes from.
    pub origin: Origin,
    /// Grows with every change of this backend's configuration.
    pub generation: u64,
    /// Where and how it is reached.
    pub endpoint: Endpoint,
    /// Which transport it speaks; a process speaks stdio whatever stands here.
    pub transport: TransportChoice,
    /// Who may use one of its sessions at a time.
    pub mode: ModeChoice,
    /// What else decides on who shares what.
    pub sharing: Sharing,
    /// Whether log lines of a shared session that belong to no call go to every agent, false: one agent's calls may
    /// show in them.
    pub fan_out_logs: bool,
    /// How long things may take.
    pub times: Times,
    /// How many of each there may be.
    pub limits: Limits,
}

/// Where a registration comes from, in order of precedence. The file wins and is read-only through the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The configuration file.
    File,
    /// `--backend NAME=URL`.
    Cli,
    /// The bundled demo backend.
    Demo,
}

impl Origin {
    /// The word for it on the admin pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Cli => "cli",
            Self::Demo => "demo",
        }
    }
}

/// Which era to speak with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraChoice {
    /// The one with a handshake, unless the server has only the other one. A server that has both is asked for what
    /// only the first can do: it may ask its client in the middle of a call, and keep state per session.
    #[default]
    Auto,
    /// With handshake and session: up to 2025-11-25.
    Legacy,
    /// Without: 2026-07-28.
    Modern,
}

impl EraChoice {
    /// The word for it in the configuration file and on the admin pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// Which transport to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportChoice {
    /// Streamable HTTP by `initialize`, then HTTP+SSE; settled once per backend and configuration.
    Auto,
    /// HTTP+SSE of 2024-11-05.
    Sse,
    /// Streamable HTTP.
    Http,
    /// Lines over the standard input and output of a process.
    Stdio,
}

impl TransportChoice {
    /// The word for it in the configuration file and on the admin pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sse => "sse",
            Self::Http => "http",
            Self::Stdio => "stdio",
        }
    }
}

/// Who may use one session at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeChoice {
    /// By what the server turns out to be and what the agent can do (SEMANTICS.md 4).
    Auto,
    /// Shared for every agent; interactive capabilities are not offered.
    Shared,
    /// One agent at a time, for one request.
    Exclusive,
    /// One session per agent.
    Pinned,
}

impl ModeChoice {
    /// The word for it in the configuration file and on the admin pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::Pinned => "pinned",
        }
    }
}

/// What the operator knows of a server's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateChoice {
    /// Nothing: sharing is on probation.
    #[default]
    Unknown,
    /// It keeps none per session.
    None,
}

impl StateChoice {
    /// The word for it in the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
        }
    }
}

/// Who shares what, beside the mode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sharing {
    /// What the operator knows of the server's state.
    pub state: StateChoice,
    /// An exclusive session is closed after each request instead of lent to the next agent.
    pub reset_on_release: bool,
    /// Patterns of tools whose agents need sessions of their own; `*` stands for anything.
    pub pinned_tools: Vec<String>,
    /// Servers that are known, the first match counts.
    pub profiles: Arc<[Profile]>,
    /// Headers of agents that are passed on; only agents that send equal ones share.
    pub forward_headers: Vec<HeaderName>,
}

/// How long things may take. Defaults are those of SEMANTICS.md 7, 8 and 10.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// TCP and TLS connect, 5 s.
    pub connect: Duration,
    /// The whole readiness ladder, 10 s.
    pub handshake: Duration,
    /// A call without any sign of the backend, 5 min, as long as the patient ones of the usual clients wait; progress
    /// resets it.
    pub call_idle: Duration,
    /// Wait for a session, 30 s.
    pub queue: Duration,
    /// A session without calls, 10 min.
    pub idle: Duration,
    /// A session of one agent's own without calls, 5 min; then it gives way to whoever waits for a session.
    pub pinned_idle: Duration,
    /// A session's life, 1 h; jittered by 10 %.
    pub max_age: Duration,
    /// Silence after which a session is probed, 30 s.
    pub probe_interval: Duration,
    /// Wait for the answer to a probe, 5 s.
    pub probe_timeout: Duration,
    /// Wait for the answer to a cancelled call before its permit is given back, 10 s.
    pub cancel_grace: Duration,
    /// Wait for calls in flight when a session drains, 30 s.
    pub drain: Duration,
    /// `initialize` of an agent whose backend was never reached, 4 s.
    pub first_open: Duration,
}

/// How many of each there may be. Defaults are those of SEMANTICS.md 10.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Sessions over all keys, 64.
    pub max_sessions: usize,
    /// Sessions of one shared pool, 8.
    pub shared_sessions: usize,
    /// Calls in flight on one session, 32.
    pub calls_per_session: usize,
    /// Warm sessions kept in the shared pool, 1.
    pub min_idle: usize,
    /// Handshakes at the same time, 2.
    pub max_creating: usize,
    /// Calls waiting for a session, 1,024.
    pub queue: usize,
    /// Bytes of their messages, 32 MiB.
    pub queue_bytes: usize,
    /// Largest message of a backend, bytes, 16 MiB.
    pub max_message: usize,
    /// Whether calls that may change something run one at a time on a shared session, in order of arrival.
    pub serial_writes: SerialWrites,
}

/// Whether calls that may change something run one at a time on a shared session. Meant for servers written for one
/// caller (SEMANTICS.md 2, E15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerialWrites {
    /// As the profile of the server says; without one, on for a process, off over the network.
    #[default]
    Auto,
    /// They do.
    On,
    /// They do not.
    Off,
}

impl SerialWrites {
    /// The word for it in the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            call_idle: Duration::from_secs(300),
            queue: Duration::from_secs(30),
            idle: Duration::from_secs(600),
            pinned_idle: Duration::from_secs(300),
            max_age: Duration::from_secs(3600),
            probe_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(5),
            cancel_grace: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            first_open: Duration::from_secs(4),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 64,
            shared_sessions: 8,
            calls_per_session: 32,
            min_idle: 1,
            max_creating: 2,
            queue: 1024,
            queue_bytes: 32 * 1024 * 1024,
            max_message: 16 * 1024 * 1024,
            serial_writes: SerialWrites::Auto,
        }
    }
}

impl Times {
    /// The defaults for a process: its first start may have to fetch a package, so the handshake has 60 s; and it is
    /// not replaced for its age, because it may be its own state, and two at once could work on one file.
    #[must_use]
    pub fn of_process() -> Self {
        let max_age = Duration::from_secs(365 * 24 * 3600);
        Self { handshake: Duration::from_secs(60), max_age, ..Self::default() }
    }
}

impl Limits {
    /// The defaults for a process: one, 8 calls at a time. Such servers keep their state in files, and were written
    /// for a single caller.
    #[must_use]
    pub fn of_process() -> Self {
        Self { shared_sessions: 1, calls_per_session: 8, ..Self::default() }
    }
}
