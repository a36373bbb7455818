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
    /// An agent session that nobody knows yet; `None` when the system has no randomness for its id.
    pub(crate) fn new_agent(
        &self,
        target: Target,
        transport: Transport,
        headers: &HeaderMap,
        is_local: bool,
    ) -> Option<Arc<AgentCore>> {
        let affinity =
            headers.get("mcpool-affinity").and_then(|value| value.to_str().ok()).map(Arc::<str>::from);
        let caller = Caller {
            principal: Principal::Anonymous,
            is_local,
            tenant: None,
            agent: self.common.agent_key(),
            affinity,
            forwarded: self.common.config.forwarded(headers),
        };
        let id = AgentSessionId::mint(OWNER)?;
        Some(Arc::new(AgentCore::new(id, Arc::new(caller), target, transport, Arc::clone(&self.common))))
    }
}
