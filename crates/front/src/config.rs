//! Configuration of the front: limits, times and who may reach it. Plain data, checked by whoever reads the file.

use std::{path::PathBuf, time::Duration};

use http::HeaderName;
use mcpool_wire::Slot;

use crate::session_id::{age::WallClock, seal::SessionKeys};

/// Settings of one agent listener.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Host names served besides loopback, with or without port.
    pub allowed_hosts: Vec<String>,
    /// Origins served besides loopback, as browsers send them.
    pub allowed_origins: Vec<String>,
    /// Who is served without authentication.
    pub unauthenticated: Unauthenticated,
    /// Headers of agents that are forwarded to some backend.
    pub forward_headers: Vec<HeaderName>,
    /// Numbers and sizes.
    pub limits: FrontLimits,
    /// Times.
    pub times: FrontTimes,
    /// Settings that let agent sessions outlive a restart.
    pub sessions: SessionsConfig,
}

/// Settings that let agent sessions outlive a restart.
#[derive(Clone, Debug, Default)]
pub struct SessionsConfig {
    /// The keys that seal their ids; by default a key of this process, so that none outlives it.
    pub keys: SessionKeys,
    /// The file of deleted sessions.
    pub deleted: Option<PathBuf>,
    /// Where the time of day comes from.
    pub clock: WallClock,
    /// The replica this gateway is, as its ids say; read once, at the start.
    pub slot: Slot,
}

/// Who is served without authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unauthenticated {
    /// Peers on a loopback address only.
    #[default]
    Loopback,
    /// Anybody.
    Allow,
}

impl Unauthenticated {
    /// The word for it in the configuration file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Allow => "allow",
        }
    }
}

/// Numbers and sizes.
#[derive(Clone, Copy, Debug)]
pub struct FrontLimits {
    /// Open connections.
    pub connections: usize,
    /// Connections of one peer that is not on this machine.
    pub connections_per_peer: usize,
    /// Counts peers on this machine like any other, so that a machine with one interface can test the limits per peer.
    pub count_loopback: bool,
    /// Most descriptors of this process; a quarter of them is not for agents.
    pub descriptors: usize,
    /// Descriptors that neither agents nor backends take, so that operators can always connect.
    pub reserved_descriptors: usize,
    /// Agent sessions.
    pub agent_sessions: usize,
    /// Agent sessions of one peer that is not on this machine.
    pub sessions_per_peer: usize,
    /// Deleted agent sessions that are remembered one by one; ids older than the oldest of them are not restored.
    pub deleted_sessions: usize,
    /// Calls of one agent session at a time.
    pub calls_per_agent: usize,
    /// Calls of one principal at a time, over all its agent sessions; not of unauthenticated agents of this machine.
    pub calls_per_principal: usize,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes per second at which a request body must come, after it was late for `body_idle`.
    pub body_rate: usize,
    /// Bytes held for agents in all: bodies, calls, unread messages, events stored for a resume.
    pub buffered_bytes: usize,
    /// Bytes of a header block; 8 KiB is the least.
    pub header_bytes: usize,
    /// Messages waiting for one agent before droppable ones are merged or dropped.
    pub outbound_messages: usize,
    /// Bytes waiting for one agent before droppable ones are merged or dropped; at twice as many its stream is closed.
    pub outbound_bytes: usize,
    /// Events sent to one agent session that are kept for it to resume a stream; 0 keeps none.
    pub replay_events: usize,
    /// Bytes of such events of one agent session; a larger event is not kept.
    pub replay_bytes: usize,
    /// Bytes of such events of all agent sessions, at most a quarter of `buffered_bytes`; beyond, nothing more is kept.
    pub replay_total_bytes: usize,
    /// Calls that run on although their agent's connection is gone, or that answer as a stream.
    pub adopted_calls: usize,
}

/// Times.
#[derive(Clone, Copy, Debug)]
pub struct FrontTimes {
    /// A new connection must send its first byte, and a started header must be complete, within this.
    pub header: Duration,
    /// A keep-alive connection without request is closed after this.
    pub keep_alive: Duration,
    /// A request body may stand still this long.
    pub body_idle: Duration,
    /// A body or a new agent session waits this long for memory before it is refused.
    pub overload_wait: Duration,
    /// Longest time an agent may take nothing of what is written to it.
    pub write_stall: Duration,
    /// Latest end of a call.
    pub call: Duration,
    /// Longest wait for a link to a backend.
    pub open: Duration,
    /// How long an SSE agent may be away before its session ends.
    pub reconnect_grace: Duration,
    /// How long a call goes on after its agent's connection is gone, and how long a stream can be resumed.
    pub orphan: Duration,
    /// How long a call waits for its caller to come back with what its server asked (2026-07-28).
    pub parked: Duration,
    /// Idle time after which an agent session is evicted; one that can be restored returns with its next request.
    pub agent_idle: Duration,
    /// Time after its issue for which the id of an evicted session can be restored.
    pub session_lifetime: Duration,
    /// A silent stream gets a comment this often.
    pub stream_ping: Duration,
    /// A call that has been silent for this long is answered as a stream, where its agent names event streams among
    /// what it takes.
    pub answer_as_stream: Duration,
    /// Time after which an agent resumes a stream that broke (2025-11-25).
    pub retry: Duration,
    /// After shutdown began, what has not ended by then is dropped.
    pub drain: Duration,
}

impl Default for FrontConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            unauthenticated: Unauthenticated::Loopback,
            forward_headers: Vec::new(),
            limits: FrontLimits::default(),
            times: FrontTimes::default(),
            sessions: SessionsConfig::default(),
        }
    }
}

impl FrontLimits {
    /// Most connections of agents. A quarter of the descriptors is left to backends, operators, and the answers to
    /// rejected connections.
    pub(crate) fn agent_connections(&self) -> usize {
        self.connections.min(self.descriptors - self.descriptors / 4)
    }
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_peer: 64,
            count_loopback: false,
            descriptors: usize::MAX,
            reserved_descriptors: 0,
            agent_sessions: 20_000,
            sessions_per_peer: 1_000,
            deleted_sessions: 100_000,
            calls_per_agent: 64,
            calls_per_principal: 256,
            body_bytes: 4 << 20,
            body_rate: 1 << 10,
            buffered_bytes: 256 << 20,
            header_bytes: 32 << 10,
            outbound_messages: 256,
            outbound_bytes: 4 << 20,
            replay_events: 1_000,
            replay_bytes: 1 << 20,
            replay_total_bytes: 64 << 20,
            adopted_calls: 8_192,
        }
    }
}

impl Default for FrontTimes {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            body_idle: Duration::from_secs(30),
            overload_wait: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
            call: Duration::from_secs(3_600),
            open: Duration::from_secs(60),
            reconnect_grace: Duration::from_secs(10),
            orphan: Duration::from_secs(60),
            parked: Duration::from_secs(5 * 60),
            agent_idle: Duration::from_secs(30 * 60),
            session_lifetime: Duration::from_secs(7 * 24 * 3_600),
            stream_ping: Duration::from_secs(15),
            answer_as_stream: Duration::from_secs(15),
            retry: Duration::from_secs(3),
            drain: Duration::from_secs(30),
        }
    }
}
