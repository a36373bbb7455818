//! The registry of agent sessions of one front: found by id, counted, swept, ended. If it is full, the session that was
//! idle longest is evicted: its sealed id restores it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use dashmap::DashMap;
use mcpool_wire::{Link, Target};

use crate::{
    limits::{
        gauges::Gauges,
        places::{Place, Places},
    },
    observe::{AgentEnd, FrontEvent, Transport},
    session::{
        agent::{Agent, AgentCore, Side, StopReason},
        idle::{IdleSessions, Use},
        restore::SingleFlight,
    },
    session_id::{AgentSessionId, seal::Binding},
    shared::Common,
    stream::outbox::{Outbox, Presence},
};

/// All agent sessions of one front.
pub(crate) struct Agents<L> {
    table: DashMap<AgentSessionId, Arc<Agent<L>>>,
    /// HTTP+SSE agents without a stream that may reconnect, oldest first.
    away: Mutex<VecDeque<AgentSessionId>>,
    /// Sessions that may be evicted.
    idle: IdleSessions<AgentSessionId>,
    /// Sessions that are being restored.
    pub(crate) restores: SingleFlight<L>,
    /// Counts all that take a place: sessions, sessions being opened, and agents without a session.
    pub(crate) places: Arc<Places>,
    common: Arc<Common>,
}

impl<L: Link> Agents<L> {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        let (away, idle, restores) = (Mutex::default(), IdleSessions::default(), SingleFlight::default());
        Self { table: DashMap::new(), away, idle, restores, places: Arc::default(), common }
    }

    /// Takes a place for one more session, evicting an idle one if needed. `None` if none can be evicted.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let limit = self.common.limits().agent_sessions;
        loop {
            let place = self.places.take(limit);
            if place.is_some() || !self.evict() {
                return place;
            }
        }
    }

    /// Evicts the session that was idle longest, among those that can be restored.
    fn evict(&self) -> bool {
        loop {
            let found = self.idle.longest(self.common.millis(), |id| self.use_of(*id));
            let Some((id, since)) = found else { return false };
            // Checked again while it cannot be found: it may have ended or been used just now.
            let is_idle = |_: &AgentSessionId, agent: &Arc<Agent<L>>| agent.idle_since() == Some(since);
            if let Some((_, agent)) = self.table.remove_if(&id, is_idle) {
                self.ended(&agent.core, AgentEnd::Evicted);
                return true;
            }
            self.remember(&id);
        }
    }

    fn use_of(&self, id: AgentSessionId) -> Use {
        let Some(agent) = self.table.get(&id).map(|entry| Arc::clone(entry.value())) else {
            return Use::Over;
        };
        agent.idle_since().map_or(Use::Busy, Use::Idle)
    }

    /// Remembers a session that may be evicted.
    fn remember(&self, id: &AgentSessionId) {
        let Some(agent) = self.table.get(id).map(|entry| Arc::clone(entry.value())) else { return };
        let entry = (self.common.millis(), agent.core.caller.agent.0, agent.id);
        self.idle.add(entry, self.table.len(), |id| self.use_of(*id));
    }

    /// Inserts a session. Returns the one under this id, and whether it is the given one: the first stays.
    pub(crate) fn insert(&self, agent: Agent<L>) -> (Arc<Agent<L>>, bool) {
        let agent = Arc::new(agent);
        let held = Arc::clone(self.table.entry(agent.id).or_insert_with(|| Arc::clone(&agent)).value());
        if !Arc::ptr_eq(&held, &agent) {
            return (held, false);
        }
        let core = &agent.core;
        core.known_as(agent.id);
        Gauges::up(self.common.gauges.agents(core.transport), 1);
        self.common.emit(&FrontEvent::AgentOpened {
            agent: core.caller.agent,
            transport: core.transport,
            backend: &core.target.name,
            peer: core.profile.peer,
            client: core.profile.client(),
        });
        if agent.comes_back() {
            self.remember(&agent.id);
        }
        (agent, true)
    }

    /// The backend of the HTTP+SSE session with this id, if it is held. Does not check the caller.
    pub(crate) fn backend_of(&self, session: &str) -> Option<Arc<str>> {
        let agent = self.table.get(&AgentSessionId::parse(session)?)?;
        let core = &agent.value().core;
        (core.transport == Transport::Sse).then(|| Arc::clone(&core.target.name))
    }

    /// The backend the session with this id was opened for, if it is held. Does not check the caller.
    pub(crate) fn target_of(&self, id: AgentSessionId) -> Option<Target> {
        self.table.get(&id).map(|agent| agent.value().core.target.clone())
    }

    /// Finds the session of this id, if it lives and the binding is right.
    pub(crate) fn find(&self, id: AgentSessionId, binding: &Binding<'_>) -> Option<Arc<Agent<L>>> {
        // Marked as used before the entry is released, so that it is not taken for idle in between.
        let entry = self.table.get(&id)?;
        entry.value().core.seen();
        let agent = Arc::clone(entry.value());
        drop(entry);
        let core = &agent.core;
        let is_this = core.transport == binding.transport
            && core.target == *binding.target
            && core.caller.identity == *binding.identity
            && core.may_carry(binding.carried);
        if !is_this {
            return None;
        }
        if core.has_ended() {
            // An HTTP+SSE agent's own task removes it, once its calls have sent their results.
            if core.transport == Transport::Http {
                self.remove(id, core, AgentEnd::LinkEnded);
            }
            return None;
        }
        Some(agent)
    }

    /// Notes that an HTTP+SSE agent lost its stream and may reconnect. Executors that open a session per call leave
    /// thousands behind within the grace time: beyond a quarter of the limit the longest absent one is removed.
    pub(crate) fn went_away(&self, id: AgentSessionId) {
        let most = (self.common.limits().agent_sessions / 4).max(1);
        let mut given_up = Vec::new();
        {
            let mut away = lock(&self.away);
            away.push_back(id);
            // Inspect up to two old entries per insertion, so stale ids cannot accumulate.
            for _ in 0..2 {
                let Some(oldest) = away.front().copied() else { break };
                let absent = oldest != id && self.is_absent(oldest);
                if absent && away.len() <= most {
                    break;
                }
                if oldest != id || away.len() > most {
                    away.pop_front();
                }
                if absent {
                    given_up.push(oldest);
                }
            }
        }
        for oldest in given_up {
            let core = self.table.get(&oldest).map(|entry| Arc::clone(&entry.value().core));
            if let Some(core) = core {
                self.remove(oldest, &core, AgentEnd::Gone);
            }
        }
    }

    fn is_absent(&self, id: AgentSessionId) -> bool {
        let Some(agent) = self.table.get(&id).map(|entry| Arc::clone(entry.value())) else { return false };
        agent.core.outbox.presence() == Presence::Absent && agent.core.is_idle()
    }

    /// Removes an agent session and ends its stream, its calls, and with the last handle its link. A session restored
    /// under the same id is another one and stays.
    pub(crate) fn remove(&self, id: AgentSessionId, core: &Arc<AgentCore>, reason: AgentEnd) -> bool {
        let is_this = |_: &AgentSessionId, agent: &Arc<Agent<L>>| Arc::ptr_eq(&agent.core, core);
        if self.table.remove_if(&id, is_this).is_none() {
            return false;
        }
        if reason == AgentEnd::LinkEnded {
            // Its agent must begin again, so the id must not restore it.
            self.common.revoke(id, &core.binding());
        }
        self.ended(core, reason);
        true
    }

    /// Ends a session that is no longer in the table.
    fn ended(&self, core: &AgentCore, reason: AgentEnd) {
        core.end();
        Gauges::down(self.common.gauges.agents(core.transport), 1);
        self.common.emit(&FrontEvent::AgentClosed {
            agent: core.caller.agent,
            transport: core.transport,
            reason,
        });
    }

    /// Ends sessions that were idle too long or lost their link. HTTP+SSE agents are ended by their own stream.
    pub(crate) fn sweep(&self, idle: Duration) {
        let now = self.common.millis();
        let limit = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        for (id, core) in self.snapshot() {
            core.sweep();
            let since = now.saturating_sub(core.last_seen.load(Ordering::Relaxed));
            let attached = matches!(core.outbox.presence(), Presence::Attached(_));
            if core.transport == Transport::Http && core.has_ended() {
                self.remove(id, &core, AgentEnd::LinkEnded);
            } else if core.transport == Transport::Http && since >= limit && !attached && core.is_idle() {
                self.remove(id, &core, AgentEnd::Idle);
            }
        }
    }

    /// Ends the streams of agents without calls; the others' as soon as their calls have ended.
    pub(crate) fn close_idle_streams(&self) {
        for (_, core) in self.snapshot() {
            match core.transport {
                Transport::Sse => core.outbox.finish(),
                Transport::Http | Transport::Other if core.is_idle() => core.outbox.close(),
                Transport::Http | Transport::Other => {}
            }
        }
    }

    /// The cores of all sessions.
    pub(crate) fn cores(&self) -> Vec<Arc<AgentCore>> {
        self.table.iter().map(|entry| Arc::clone(&entry.value().core)).collect()
    }

    /// The streams of all sessions.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.snapshot().into_iter().flat_map(|(_, core)| core.outboxes()).collect()
    }

    /// Drops all events stored for a resume. `false` if there were none.
    pub(crate) fn forget_replays(&self) -> bool {
        self.snapshot().into_iter().filter(|(_, core)| core.forget_replay()).count() > 0
    }

    /// Stops the calls of all sessions.
    pub(crate) fn stop_calls(&self, why: StopReason) {
        for (_, core) in self.snapshot() {
            core.stop_calls(why);
        }
    }

    pub(crate) fn remove_all(&self) {
        for (id, core) in self.snapshot() {
            self.remove(id, &core, AgentEnd::Shutdown);
        }
    }

    // Copied, so that no shard is locked while sessions are visited.
    fn snapshot(&self) -> Vec<(AgentSessionId, Arc<AgentCore>)> {
        self.table.iter().map(|entry| (*entry.key(), Arc::clone(&entry.value().core))).collect()
    }
}

impl<L: Link> Agent<L> {
    /// Whether its sealed id can restore it.
    fn comes_back(&self) -> bool {
        match &self.side {
            Side::Http { link, interactive } => !interactive && !link.is_own() && !self.core.has_ended(),
            Side::Sse { .. } => false,
        }
    }

    /// The time since which it is idle, if it may be evicted. A session with a stream or a call is not idle, and one
    /// with its own backend session would lose it.
    fn idle_since(&self) -> Option<u64> {
        let listens = matches!(self.core.outbox.presence(), Presence::Attached(_));
        let is_idle = !listens && self.core.is_idle() && self.comes_back();
        is_idle.then(|| self.core.last_seen.load(Ordering::Relaxed))
    }
}

// Consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
