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

/// What one backend looks like from outside.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// Sessions by mode and standing (`ready`, `draining`, ...).
    pub sessions: Vec<SessionStatus>,
    /// Handshakes under way.
    pub opening: usize,
    /// Budget places taken and there.
    pub places: (usize, usize),
    /// Calls in flight, and the most there could be on the sessions there are.
    pub leases: (usize, usize),
    /// Calls that wait.
    pub waiting: Waiting,
    /// Agents that wait for a session of their own, and how long the first of them has waited.
    pub applicants: (usize, Option<Duration>),
    /// Agents that share a pool.
    pub agents: usize,
    /// Resources that are subscribed to for agents, over all pools.
    pub subscriptions: usize,
    /// Why the last handshake failed, while none has succeeded since.
    pub trouble: Option<Trouble>,
    /// Credentials of agents that are refused, and all that are known; none where agents bring none.
    pub credentials: (usize, usize),
    /// The transport in use, once known.
    pub transport: Option<&'static str>,
    /// The era that is spoken with it, once known.
    pub era: Option<Era>,
    /// Who may use a session of an agent that cannot be asked things, and why, once known.
    pub mode: Option<Decision>,
    /// Why agents are no longer put on shared sessions, if so.
    pub demotion: Option<Demotion>,
    /// Name and version the server gave, once known.
    pub server: Option<serde_json::Value>,
    /// What it need not offer and does not, with what that costs; a sentence each.
    pub missing: Vec<&'static str>,
    /// Whether calls flow, and since when.
    pub traffic: (TrafficState, Duration),
    /// What became of the last wish to have its sessions rebuilt.
    pub rebuild: Rebuild,
    /// Background tasks by name.
    pub tasks: std::collections::BTreeMap<&'static str, usize>,
}

impl Backend {
    /// Credentials of agents whose last handshake was refused, and all that are known.
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

    /// The calls that wait, in the queue or for the binding of their agent.
    fn waiting(&self, now: Instant) -> Waiting {
        let (queue, (calls, longest)) = (self.queue.status(now), self.followers.waiting(now));
        Waiting { calls: queue.calls + calls, oldest: queue.oldest.max(longest), ..queue }
    }

    /// What it looks like now.
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
