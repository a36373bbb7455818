//! One front: the agents it holds and what lies behind them.

use std::sync::Arc;

use http::HeaderMap;
use mcpool_wire::{Backends, Caller, Principal, Target};
use tokio_util::task::TaskTracker;

use crate::{
    agent::AgentCore,
    agents::Agents,
    common::Common,
    hosts::HostPolicy,
    observe::{Health, Transport},
    seal::Facts,
    session_id::AgentSessionId,
};

/// The replica that holds every session, until there are several.
const OWNER: u16 = 0;

pub(crate) struct Front<B: Backends> {
    pub(crate) backends: Arc<B>,
    pub(crate) agents: Agents<B::Link>,
    pub(crate) common: Arc<Common>,
    pub(crate) hosts: HostPolicy,
    pub(crate) health: Arc<dyn Health>,
    /// Owns connections, agent streams and the adopter.
    pub(crate) tasks: TaskTracker,
}

impl<B: Backends> Front<B> {
    /// Whom a request is from.
    #[expect(clippy::unused_self, reason = "nobody is asked who they are yet")]
    pub(crate) fn principal(&self, _: &HeaderMap) -> Principal {
        Principal::Anonymous
    }

    /// An agent session that nobody knows yet.
    pub(crate) fn new_agent(
        &self,
        target: Target,
        transport: Transport,
        headers: &HeaderMap,
    ) -> Arc<AgentCore> {
        let affinity =
            headers.get("mcpool-affinity").and_then(|value| value.to_str().ok()).map(Arc::<str>::from);
        let caller = Caller {
            principal: self.principal(headers),
            tenant: None,
            agent: self.common.agent_key(),
            affinity,
            forwarded: self.common.config.forwarded(headers),
        };
        Arc::new(AgentCore::new(Arc::new(caller), target, transport, Arc::clone(&self.common)))
    }

    /// An id for this agent session; `None` when the system has no randomness for it. `own`: a session of the backend is
    /// its alone; `interactive`: it can be asked things.
    pub(crate) fn mint(&self, core: &AgentCore, own: bool, interactive: bool) -> Option<AgentSessionId> {
        let facts = Facts { issued: self.common.age.now(), revision: core.revision(), own, interactive };
        self.common.config.sessions.keys.seal(OWNER, &facts, &core.presented())
    }
}
