//! Agent sessions of one front, and what the front holds to serve them.

pub(crate) mod agent;
pub(crate) mod census;
pub(crate) mod idle;
pub(crate) mod open;
pub(crate) mod registry;
pub(crate) mod restore;
pub(crate) mod same_request;
pub(crate) mod unclaimed;

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use mcpool_wire::{AgentKey, Backends, Caller, Identity, Target};
use tokio_util::task::TaskTracker;

use crate::{
    forwarded_headers::Carried,
    guard::Guard,
    limits::{per_peer::PerPeerLimit, places::SessionPermit, refused::NoPlace},
    observe::{Health, Transport},
    session::{
        agent::{Agent, AgentCore},
        registry::Agents,
    },
    session_id::{
        AgentSessionId,
        seal::{Binding, Claims},
    },
    shared::Common,
};

/// Links and streams of agents without a session, which take places of agent sessions.
pub(crate) trait Sessionless: Send + Sync {
    /// Closes an idle shared link. `false` if there is none.
    fn give_way(&self) -> bool;

    /// The cores of all of them.
    fn cores(&self) -> Vec<Arc<AgentCore>>;
}

/// The head of one request, with what was found out about its sender.
#[derive(Clone, Copy)]
pub(crate) struct RequestHead<'a> {
    /// The sender's address.
    pub(crate) peer: IpAddr,
    pub(crate) headers: &'a HeaderMap,
    /// The backend named in the URL.
    pub(crate) backend: Option<&'a str>,
    /// The identity for which the guard admitted the request.
    pub(crate) identity: &'a Arc<Identity>,
}

pub(crate) struct Front<B: Backends> {
    pub(crate) backends: Arc<B>,
    /// Decides about each request once.
    pub(crate) guard: Arc<dyn Guard>,
    pub(crate) agents: Agents<B::Link>,
    /// Links and streams that also take places of agent sessions.
    pub(crate) sessionless: Arc<dyn Sessionless>,
    pub(crate) common: Arc<Common>,
    pub(crate) health: Arc<dyn Health>,
    /// Counts agent sessions per peer.
    pub(crate) peers: Arc<PerPeerLimit>,
    /// Owns the tasks of connections, agent streams and detached calls.
    pub(crate) tasks: TaskTracker,
}

impl<B: Backends> Front<B> {
    /// Finds the agent session of this id, if the gateway holds it and it belongs to this caller.
    pub(crate) fn known(
        &self,
        transport: Transport,
        head: &RequestHead<'_>,
        session: &str,
    ) -> Option<Arc<Agent<B::Link>>> {
        let id = AgentSessionId::parse(session)?;
        // A backend that is no longer configured still has agents: their calls get an error that says so.
        let gone = || self.agents.target_of(id).filter(|held| head.backend == Some(&*held.name));
        let target = self.backends.target(head.backend, head.identity).ok().or_else(gone)?;
        let carried = self.carried(&target, head.headers);
        let binding = Binding { transport, identity: head.identity, target: &target, carried: &carried };
        self.agents.find(id, &binding)
    }

    /// The values of the headers that are forwarded to this backend.
    pub(crate) fn carried(&self, target: &Target, headers: &HeaderMap) -> Carried {
        Carried::of(self.backends.forwards(target), headers)
    }

    /// The caller of this session, with the forwarded headers of this request.
    pub(crate) fn as_sent(&self, core: &AgentCore, headers: &HeaderMap) -> Arc<Caller> {
        core.as_sent(&self.carried(&core.target, headers))
    }

    /// Acquires a permit for one more agent session, before its backend is asked; waits a little while memory is short.
    pub(crate) async fn acquire_session(&self, peer: IpAddr) -> Result<SessionPermit, NoPlace> {
        let common = &self.common;
        if common.is_draining() {
            return Err(NoPlace::Draining);
        }
        if !common.memory.is_calm() {
            common.memory.shed("session_held");
            if !common.memory.calm_within(common.times().overload_wait).await {
                common.memory.shed("session_refused");
                return Err(NoPlace::Overloaded);
            }
        }
        self.try_acquire_session(peer)
    }

    /// Acquires a permit without waiting, also for restored sessions.
    pub(crate) fn try_acquire_session(&self, peer: IpAddr) -> Result<SessionPermit, NoPlace> {
        let mut place = self.agents.take_place();
        // An idle shared link gives way, too.
        if place.is_none() && self.sessionless.give_way() {
            place = self.agents.take_place();
        }
        let place = place.ok_or_else(|| {
            self.common.refused("agent_sessions");
            NoPlace::Full
        })?;
        let peer = self.peers.acquire(peer).ok_or_else(|| {
            self.common.refused("peer_sessions");
            NoPlace::Peer
        })?;
        Ok(SessionPermit { _place: place, _peer: peer })
    }

    /// Makes the core of an agent session; `opened_with` are the header bits of its id, if it has one already.
    pub(crate) fn new_agent(
        &self,
        head: &RequestHead<'_>,
        target: Target,
        transport: Transport,
        permit: SessionPermit,
        opened_with: Option<u32>,
    ) -> Arc<AgentCore> {
        let carried = self.carried(&target, head.headers);
        let caller = Arc::new(head.caller(self.common.agent_key(), &carried));
        let opened_with = opened_with.unwrap_or_else(|| carried.bits());
        let from = (head.peer, Some(permit));
        let (opened, common) = ((carried, opened_with), Arc::clone(&self.common));
        Arc::new(AgentCore::new(caller, target, transport, from, opened, common))
    }

    /// Seals an id for this agent session; `None` when the system has no randomness. `own`: it has a backend session of
    /// its own; `interactive`: servers can ask its agent.
    pub(crate) fn mint(&self, core: &AgentCore, own: bool, interactive: bool) -> Option<AgentSessionId> {
        let (issued, revision, carried) = (self.common.expiry.now(), core.revision(), core.opened_with());
        let claims = Claims { issued, revision, own, interactive, carried };
        self.common.in_force().config.sessions.keys.seal(self.common.slot, &claims, &core.binding())
    }
}

impl RequestHead<'_> {
    /// The caller, from what the request carries.
    pub(crate) fn caller(&self, agent: AgentKey, carried: &Carried) -> Caller {
        let affinity = self.headers.get("mcpool-affinity").and_then(|value| value.to_str().ok());
        Caller {
            identity: Arc::clone(self.identity),
            is_local: self.peer.to_canonical().is_loopback(),
            agent,
            affinity: affinity.map(Arc::from),
            forwarded: Arc::clone(&carried.values),
        }
    }
}
