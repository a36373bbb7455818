//! The state of a backend, as the status page and the metrics show it.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcpool_wire::Era;

use super::{Backend, Rebuild, TrafficState};
use crate::{
    clock,
    pool::{
        Pool,
        plight::Trouble,
        sharing::{Decision, Demotion},
    },
    queue::Waiting,
    session::{Session, SessionStatus},
};

/// The status of one backend.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// Sessions by mode and state (`ready`, `draining`, ...).
    pub sessions: Vec<SessionStatus>,
    /// Handshakes in progress.
    pub opening: usize,
    /// Places of the session budget: taken, and all.
    pub places: (usize, usize),
    /// Calls in flight, and permits of the present sessions.
    pub leases: (usize, usize),
    /// Waiting calls.
    pub waiting: Waiting,
    /// Agents waiting for a session of their own, and the longest wait.
    pub applicants: (usize, Option<Duration>),
    /// Agents bound to a shared pool.
    pub agents: usize,
    /// Subscribed resources over all pools.
    pub subscriptions: usize,
    /// The reason of the last failed handshake, if none succeeded since.
    pub trouble: Option<Trouble>,
    /// Refused credentials of agents, and all known ones; 0 if agents bring none.
    pub credentials: (usize, usize),
    /// The transport, once known.
    pub transport: Option<&'static str>,
    /// The era, once known.
    pub era: Option<Era>,
    /// The mode for an agent that is not interactive, and its reason, once known.
    pub mode: Option<Decision>,
    /// The reason sharing was withdrawn, if it was.
    pub demotion: Option<Demotion>,
    /// Name and version of the server, once known.
    pub server: Option<serde_json::Value>,
    /// Optional features the server lacks, a sentence each with the consequence.
    pub missing: Vec<&'static str>,
    /// The traffic state and its age.
    pub traffic: (TrafficState, Duration),
    /// The progress of the last reconnect.
    pub rebuild: Rebuild,
    /// Background tasks by name.
    pub tasks: std::collections::BTreeMap<&'static str, usize>,
}

impl Backend {
    /// Refused credentials of agents, and all known ones.
    fn credentials(&self) -> (usize, usize) {
        if !self.has_keys() {
            return (0, 0);
        }
        let pools = self.pools();
        let keys = |is_one: fn(&Pool) -> bool| {
            let pools = pools.iter().filter(|pool| is_one(pool));
            pools.map(|pool| &pool.key.headers).collect::<HashSet<_>>()
        };
        let served = keys(|pool| pool.live() > 0);
        let refused = keys(|pool| pool.plight.is_troubled()).difference(&served).count();
        let known = keys(|pool| pool.shared.agents() > 0 || pool.plight.is_troubled() || !pool.is_empty());
        (refused, known.len())
    }

    /// Waiting calls, in the queue or for the binding of their agent.
    fn waiting(&self, now: Instant) -> Waiting {
        let (queue, (calls, longest)) = (self.queue.status(now), self.followers.waiting(now));
        Waiting { calls: queue.calls + calls, oldest: queue.oldest.max(longest), ..queue }
    }

    /// The current status.
    #[must_use]
    pub fn status(&self) -> BackendStatus {
        let now = clock::now();
        let pools = self.pools();
        let sessions: Vec<Arc<Session>> = pools.iter().flat_map(|pool| pool.sessions()).collect();
        BackendStatus {
            tasks: self.tasks.running(),
            opening: pools.iter().map(|p| p.opening.load(Ordering::Relaxed)).sum(),
            places: self.budget.usage(),
            leases: sessions.iter().fold((0, 0), |(used, all), s| (used + s.in_flight(), all + s.limit())),
            waiting: self.waiting(now),
            applicants: self.applicants.waiting(now),
            agents: pools.iter().map(|p| p.shared.agents()).sum(),
            subscriptions: pools.iter().map(|p| p.shared.subscriptions()).sum(),
            trouble: self.trouble(),
            credentials: self.credentials(),
            traffic: self.traffic_since(now),
            rebuild: self.rebuild(),
            mode: self.policy.decide(false),
            demotion: self.policy.demotion(),
            transport: sessions.first().map(|s| s.kind.as_str()),
            era: self.policy.era(),
            server: pools.iter().find_map(|p| p.catalog.hello()).map(|h| h.server_info.clone()),
            missing: self.quirks.sentences(),
            sessions: sessions.iter().map(|s| s.status(now)).collect(),
        }
    }
}
