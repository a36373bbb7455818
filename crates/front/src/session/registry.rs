//! The table of all agent sessions of one front: found by id, counted, swept, ended. Where it is full, the session that
//! was idle longest gives way: its sealed id brings it back.

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
    /// HTTP+SSE agents whose stream is gone and who may come back, oldest first.
    away: Mutex<VecDeque<AgentSessionId>>,
    /// Those that may give way to others.
    idle: IdleSessions<AgentSessionId>,
    /// Sessions that are on their way back into the table.
    pub(crate) restores: SingleFlight<L>,
    /// Of all that are served, those without session and those on their way included.
    pub(crate) places: Arc<Places>,
    common: Arc<Common>,
}

impl<L: Link> Agents<L> {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        let (away, idle, restores) = (Mutex::default(), IdleSessions::default(), SingleFlight::default());
        Self { table: DashMap::new(), away, idle, restores, places: Arc::default(), common }
    }

    /// A place for one more, those on their way counted too; none where nobody can give way.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let limit = self.common.limits().agent_sessions;
        loop {
            let place = self.places.take(limit);
            if place.is_some() || !self.evict() {
                return place;
            }
        }
    }

    /// Ends the session that was idle longest, of those that their ids bring back.
    fn evict(&self) -> bool {
        loop {
            let found = self.idle.longest(self.common.millis(), |id| self.use_of(*id));
            let Some((id, since)) = found else { return false };
            // Looked at again while nobody can find it: it may have ended or be used just now.
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

    /// A session that may give way from now on.
    fn remember(&self, id: &AgentSessionId) {
        let Some(agent) = self.table.get(id).map(|entry| Arc::clone(entry.value())) else { return };
        let entry = (self.common.millis(), agent.core.caller.agent.0, agent.id);
        self.idle.add(entry, self.table.len(), |id| self.use_of(*id));
    }

    /// The agent session of this id from now on, and whether it is this one: the first stays.
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

    /// The backend of the HTTP+SSE session with this id, if it is held. Says nothing about whose it is.
    pub(crate) fn backend_of(&self, session: &str) -> Option<Arc<str>> {
        let agent = self.table.get(&AgentSessionId::parse(session)?)?;
        let core = &agent.value().core;
        (core.transport == Transport::Sse).then(|| Arc::clone(&core.target.name))
    }

    /// The backend for which the session with this id was opened, if it is held. Says nothing about whose it is.
    pub(crate) fn target_of(&self, id: AgentSessionId) -> Option<Target> {
        self.table.get(&id).map(|agent| agent.value().core.target.clone())
    }

    /// The agent session of this id, if it lives and is presented as what it is.
    pub(crate) fn find(&self, id: AgentSessionId, binding: &Binding<'_>) -> Option<Arc<Agent<L>>> {
        // Seen before it is let go of: nobody takes it for idle in between.
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
            // An SSE agent's own task removes it, once its calls have told their end.
            if core.transport == Transport::Http {
                self.remove(id, core, AgentEnd::LinkEnded);
            }
            return None;
        }
        Some(agent)
    }

    /// An HTTP+SSE agent lost its stream and may come back. Executors that open a session per call leave thousands
    /// behind within the grace: beyond a quarter of the limit the longest absent one is not waited for.
    pub(crate) fn went_away(&self, id: AgentSessionId) {
        let most = (self.common.limits().agent_sessions / 4).max(1);
        let mut given_up = Vec::new();
        {
            let mut away = lock(&self.away);
            away.push_back(id);
            // Two out for one in: those that came back or ended do not pile up.
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

    /// Ends an agent session: its stream, its calls, and with the last handle its link. One that was restored under the
    /// same id is another.
    pub(crate) fn remove(&self, id: AgentSessionId, core: &Arc<AgentCore>, reason: AgentEnd) -> bool {
        let is_this = |_: &AgentSessionId, agent: &Arc<Agent<L>>| Arc::ptr_eq(&agent.core, core);
        if self.table.remove_if(&id, is_this).is_none() {
            return false;
        }
        if reason == AgentEnd::LinkEnded {
            // It is told to begin again, so it must not come back. Nothing of it outlives this life.
            self.common.revoke(id, &core.binding());
        }
        self.ended(core, reason);
        true
    }

    /// One that is no longer in the table ends.
    fn ended(&self, core: &AgentCore, reason: AgentEnd) {
        core.end();
        Gauges::down(self.common.gauges.agents(core.transport), 1);
        self.common.emit(&FrontEvent::AgentClosed {
            agent: core.caller.agent,
            transport: core.transport,
            reason,
        });
    }

    /// Ends what was idle too long or lost its link. SSE agents are ended by their own stream.
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

    /// Ends the streams of agents that wait for nothing; the others' as soon as their calls have ended.
    pub(crate) fn close_idle_streams(&self) {
        for (_, core) in self.snapshot() {
            match core.transport {
                Transport::Sse => core.outbox.finish(),
                Transport::Http | Transport::Other if core.is_idle() => core.outbox.close(),
                Transport::Http | Transport::Other => {}
            }
        }
    }

    /// Everybody.
    pub(crate) fn cores(&self) -> Vec<Arc<AgentCore>> {
        self.table.iter().map(|entry| Arc::clone(&entry.value().core)).collect()
    }

    /// The streams of everybody.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.snapshot().into_iter().flat_map(|(_, core)| core.outboxes()).collect()
    }

    /// Gives up what is kept for a resume; whether there was anything.
    pub(crate) fn forget_replays(&self) -> bool {
        self.snapshot().into_iter().filter(|(_, core)| core.forget_replay()).count() > 0
    }

    /// Tells the calls of everybody that they are to end.
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

    // Copied out, so that no shard is locked while sessions are looked at.
    fn snapshot(&self) -> Vec<(AgentSessionId, Arc<AgentCore>)> {
        self.table.iter().map(|entry| (*entry.key(), Arc::clone(&entry.value().core))).collect()
    }
}

impl<L: Link> Agent<L> {
    /// Whether its sealed id brings it back once it is no longer held.
    fn comes_back(&self) -> bool {
        match &self.side {
            Side::Http { link, interactive } => !interactive && !link.is_own() && !self.core.has_ended(),
            Side::Sse { .. } => false,
        }
    }

    /// Since when nobody has used it, where it may give way: who listens is not idle, nor who waits for an answer, and
    /// who has a session of the backend to itself would lose it.
    fn idle_since(&self) -> Option<u64> {
        let listens = matches!(self.core.outbox.presence(), Presence::Attached(_));
        let is_idle = !listens && self.core.is_idle() && self.comes_back();
        is_idle.then(|| self.core.last_seen.load(Ordering::Relaxed))
    }
}

// What this lock guards is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
