//! Gauges of one front, read on demand: current counts, limits, and recent refusals because of a limit.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{config::FrontLimits, limits::pressure::PressureLevel, observe::Transport};

/// The [`REFUSALS`](crate::observe::REFUSALS) caused by a limit, and the configuration key of that limit.
const BY_LIMIT: [(&str, &str); 5] = [
    ("limit", "the limit of open files (ulimit -n)"),
    ("agent_sessions", "limits.agent_sessions"),
    ("peer_connections", "limits.connections_per_peer"),
    ("peer_sessions", "limits.sessions_per_peer"),
    ("descriptors", "the limit of open files (ulimit -n)"),
];

/// Gauges, read on demand.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Open connections.
    pub connections: AtomicUsize,
    /// HTTP+SSE agent sessions.
    pub sse_agents: AtomicUsize,
    /// Streamable HTTP agent sessions.
    pub http_agents: AtomicUsize,
    /// Links that agents without session share, and streams of `subscriptions/listen`.
    pub modern_agents: AtomicUsize,
    /// Calls in flight.
    pub calls: AtomicUsize,
    /// Parked calls.
    pub parked: AtomicUsize,
    /// Entries of detached calls.
    pub adopted: AtomicUsize,
    /// Bytes held for agents in all; the three below are its parts.
    pub buffered_bytes: AtomicUsize,
    /// Most bytes that may be held.
    pub buffered_limit: AtomicUsize,
    /// Bytes of bodies that are read, and of messages whose calls have not ended.
    pub request_bytes: AtomicUsize,
    /// Bytes waiting for agents to read them.
    pub outbound_bytes: AtomicUsize,
    /// Bytes sent and kept for agents that resume a stream.
    pub replay_bytes: AtomicUsize,
    /// The memory pressure.
    level: AtomicU8,
    /// Most agent sessions.
    agents_limit: AtomicUsize,
    /// Most connections.
    connections_limit: AtomicUsize,
    /// Most entries of detached calls.
    adopted_limit: AtomicUsize,
    refusals: Mutex<Refusals>,
}

/// Time for which a refusal is shown in `/readyz`.
const LATELY: Duration = Duration::from_secs(60);

/// The limits part of `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Strain {
    near: Vec<Value>,
    refused: Vec<Value>,
}

impl Strain {
    /// Whether there was a refusal lately.
    #[must_use]
    pub fn refuses(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Adds it to a body.
    pub fn put_into(self, body: &mut Map<String, Value>) {
        for (key, all) in [("limits", self.near), ("refused", self.refused)] {
            if !all.is_empty() {
                body.insert(key.to_owned(), all.into());
            }
        }
    }
}

/// Refusals by kind: how many, and the time of the last.
type Refusals = BTreeMap<&'static str, (u64, Instant)>;

/// A limit, and how much of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitUse {
    /// Its key in the configuration, without the section.
    pub name: &'static str,
    /// How much is taken.
    pub used: usize,
    /// How much there is.
    pub limit: usize,
}

impl LimitUse {
    /// Whether nine tenths are taken.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.limit > 0 && self.used >= self.limit - self.limit / 10
    }
}

impl Gauges {
    /// The memory pressure.
    #[must_use]
    pub fn pressure(&self) -> PressureLevel {
        let level = self.level.load(Ordering::Acquire);
        PressureLevel::ALL.into_iter().find(|known| *known as u8 == level).unwrap_or_default()
    }

    pub(crate) fn set_pressure(&self, level: PressureLevel) {
        self.level.store(level as u8, Ordering::Release);
    }

    /// The overload part of `/readyz`; `None` at the calm level.
    #[must_use]
    pub fn overload(&self) -> Option<serde_json::Value> {
        let level = self.pressure();
        (level != PressureLevel::Calm).then(|| {
            serde_json::json!({
                "state": level.as_str(),
                "reason": "what is kept for agents is near the limit `limits.buffered`",
                "buffered_bytes": self.buffered_bytes.load(Ordering::Relaxed),
                "limit_bytes": self.buffered_limit.load(Ordering::Relaxed),
            })
        })
    }

    /// The limits of the agent listener, and how much of each is taken.
    #[must_use]
    pub fn limits(&self) -> Vec<LimitUse> {
        let of = |used: &AtomicUsize| used.load(Ordering::Relaxed);
        // Agents without a session take places, too.
        let agents = of(&self.sse_agents) + of(&self.http_agents) + of(&self.modern_agents);
        let one = |name, used, limit: &AtomicUsize| LimitUse { name, used, limit: of(limit) };
        vec![
            one("agent_sessions", agents, &self.agents_limit),
            one("connections", of(&self.connections), &self.connections_limit),
            one("adopted_calls", of(&self.adopted), &self.adopted_limit),
            one("buffered", of(&self.buffered_bytes), &self.buffered_limit),
        ]
    }

    pub(crate) fn set_limits(&self, limits: &FrontLimits) {
        for (gauge, limit) in [
            (&self.agents_limit, limits.agent_sessions),
            (&self.connections_limit, limits.agent_connections()),
            (&self.adopted_limit, limits.adopted_calls),
        ] {
            gauge.store(limit, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_refusal(&self, kind: &'static str) {
        if BY_LIMIT.iter().any(|(known, _)| *known == kind) {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let (times, last) = refusals.entry(kind).or_insert_with(|| (0, Instant::now()));
            (*times, *last) = (*times + 1, Instant::now());
        }
    }

    /// The limits part of `/readyz`: limits that are nearly reached, and refusals of the last minute.
    #[must_use]
    pub fn strain(&self) -> Strain {
        let near = self.limits().into_iter().filter(LimitUse::is_near);
        let near =
            near.map(|one| json!({ "limit": one.name, "used": one.used, "most": one.limit })).collect();
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let late = refusals.iter().filter(|(_, (_, last))| last.elapsed() < LATELY);
        let refused = late.map(|(kind, (times, last))| {
            let key = BY_LIMIT.iter().find(|(known, _)| known == kind).map_or("", |(_, key)| key);
            json!({ "kind": kind, "raise": key, "times": times, "seconds_ago": last.elapsed().as_secs() })
        });
        Strain { near, refused: refused.collect() }
    }

    pub(crate) fn agents(&self, transport: Transport) -> &AtomicUsize {
        match transport {
            Transport::Sse => &self.sse_agents,
            Transport::Http | Transport::Other => &self.http_agents,
        }
    }

    pub(crate) fn up(gauge: &AtomicUsize, by: usize) {
        gauge.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn down(gauge: &AtomicUsize, by: usize) {
        gauge.fetch_sub(by, Ordering::Relaxed);
    }
}
