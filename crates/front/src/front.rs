//! One front: the agents it holds and what lies behind them.

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use mcpool_wire::{AgentKey, Backends, Caller, Principal, Target};
use tokio_util::task::TaskTracker;

use crate::{
    agent::{Agent, AgentCore},
    agents::Agents,
    common::Common,
    door::{PeerSeat, Peers},
    modern::{Guests, Listens},
    observe::{Health, Transport},
    seal::{Facts, Presented},
    session_id::AgentSessionId,
};

/// The replica that holds every session, until there are several.
const OWNER: u16 = 0;

pub(crate) struct Front<B: Backends> {
    pub(crate) backends: Arc<B>,
    pub(crate) agents: Agents<B::Link>,
    /// The links of agents without session.
    pub(crate) guests: Guests<B::Link>,
    /// Their streams of what changes.
    pub(crate) listens: Arc<Listens>,
    pub(crate) common: Arc<Common>,
    pub(crate) health: Arc<dyn Health>,
    /// Who holds how many agent sessions.
    pub(crate) peers: Arc<Peers>,
    /// Owns connections, agent streams and the adopter.
    pub(crate) tasks: TaskTracker,
}

/// Why there is no place for another agent session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The gateway stops.
    Draining,
    /// There are as many as there may be.
    Full,
    /// Its peer has as many as it may.
    Peer,
    /// Too much is kept in memory.
    Overloaded,
}

impl<B: Backends> Front<B> {
    /// Whom a request is from.
    #[expect(clippy::unused_self, reason = "nobody is asked who they are yet")]
    pub(crate) fn principal(&self, _: &HeaderMap) -> Principal {
        Principal::Anonymous
    }

    /// The agent session of this id that is held, if it is this caller's.
    pub(crate) fn known(
        &self,
        transport: Transport,
        headers: &HeaderMap,
        name: Option<&str>,
        session: &str,
    ) -> Option<Arc<Agent<B::Link>>> {
        let id = AgentSessionId::parse(session)?;
        // A backend that is no longer configured still has agents: their calls are told so.
        let gone = || name.map(|name| Target { name: name.into() });
        let target = self.backends.target(name).ok().or_else(gone)?;
        let principal = self.principal(headers);
        self.agents.find(id, &Presented { transport, principal: &principal, target: &target })
    }

    /// A place for one more agent session; it waits a little while memory is short.
    pub(crate) async fn place(&self, peer: IpAddr) -> Result<PeerSeat, NoPlace> {
        let common = &self.common;
        if common.is_draining() {
            return Err(NoPlace::Draining);
        }
        if !common.budget.is_calm() {
            common.budget.shed("session_held");
            if !common.budget.calm_within(common.times().overload_wait).await {
                common.budget.shed("session_refused");
                return Err(NoPlace::Overloaded);
            }
        }
        if !self.agents.make_place(0) {
            common.refused("agent_sessions");
            return Err(NoPlace::Full);
        }
        self.peers.enter(peer).ok_or_else(|| {
            common.refused("peer_sessions");
            NoPlace::Peer
        })
    }

    /// An agent session that nobody knows yet. One that is restored has no seat: its peer was counted when the id was
    /// given out.
    pub(crate) fn new_agent(
        &self,
        target: Target,
        transport: Transport,
        headers: &HeaderMap,
        peer: IpAddr,
        seat: Option<PeerSeat>,
    ) -> Arc<AgentCore> {
        let caller = self.caller(headers, peer, self.common.agent_key());
        Arc::new(AgentCore::new(Arc::new(caller), target, transport, (peer, seat), Arc::clone(&self.common)))
    }

    /// Who calls, as far as the request says.
    pub(crate) fn caller(&self, headers: &HeaderMap, peer: IpAddr, agent: AgentKey) -> Caller {
        let affinity =
            headers.get("mcpool-affinity").and_then(|value| value.to_str().ok()).map(Arc::<str>::from);
        Caller {
            principal: self.principal(headers),
            is_local: peer.to_canonical().is_loopback(),
            tenant: None,
            agent,
            affinity,
            forwarded: self.common.in_force().config.forwarded(headers),
        }
    }

    /// An id for this agent session; `None` when the system has no randomness for it. `own`: a session of the backend is
    /// its alone; `interactive`: it can be asked things.
    pub(crate) fn mint(&self, core: &AgentCore, own: bool, interactive: bool) -> Option<AgentSessionId> {
        let facts = Facts { issued: self.common.age.now(), revision: core.revision(), own, interactive };
        self.common.in_force().config.sessions.keys.seal(OWNER, &facts, &core.presented())
    }
}
