//! The binding of an agent to a backend: to one shared session, to a session of its own, to a leased one per call, or
//! to none.

use std::sync::Arc;

use mcpool_wire::{Caller, Era, Hello, Outlet, Revision};

use super::{Lease, NoLease, Pool};
use crate::{
    queue::{Lane, Need, Queue},
    session::{
        Session,
        exclusive::ExclusiveLeases,
        permit::{AgentPermits, CallKind},
        state::Standing,
    },
    sync::Mutex,
};

/// Epoch that stands for any session of the pool; no session has it.
pub(crate) const ANY_SESSION: u64 = 0;

/// The binding of one agent to a backend: its pool, and the session it uses.
pub struct Binding {
    pub(crate) caller: Arc<Caller>,
    pub(crate) pool: Arc<Pool>,
    kind: BindingKind,
    /// The revision last agreed with the agent, which may initialise again.
    pub(crate) revision: std::sync::Mutex<Revision>,
    /// Its number among the agents of the pool.
    pub(crate) number: u64,
    /// The agent's outlet, held for messages of the pool.
    pub(crate) outlet: Arc<dyn Outlet>,
}

enum BindingKind {
    Sticky {
        bound: Mutex<Option<Bound>>,
    },
    /// No session: its calls come from callers that cannot be told apart, each as if it were the only one.
    Unbound,
    Exclusive {
        leases: Arc<ExclusiveLeases>,
        reset: bool,
    },
    Pinned {
        session: Arc<Session>,
    },
}

/// The shared session of an agent, and its permits there.
struct Bound {
    session: Arc<Session>,
    agent_permits: Arc<AgentPermits>,
}

impl Binding {
    pub(crate) fn shared(hello: &Hello, pool: Arc<Pool>) -> Self {
        // A caller without handshake that does not name its agent is bound to no session.
        let is_anybody = hello.client.revision.era() == Era::Modern && hello.caller.affinity.is_none();
        let kind =
            if is_anybody { BindingKind::Unbound } else { BindingKind::Sticky { bound: Mutex::new(None) } };
        Self::new(hello, pool, kind)
    }

    /// A binding whose calls lease a session each; with `reset` a fresh one.
    pub(crate) fn exclusive(hello: &Hello, pool: Arc<Pool>, reset: bool) -> Self {
        let leases = ExclusiveLeases::new(hello.caller.agent, &hello.outlet);
        Self::new(hello, pool, BindingKind::Exclusive { leases, reset })
    }

    pub(crate) fn pinned(hello: &Hello, pool: Arc<Pool>, session: Arc<Session>) -> Self {
        Self::new(hello, pool, BindingKind::Pinned { session })
    }

    fn new(hello: &Hello, pool: Arc<Pool>, kind: BindingKind) -> Self {
        let outlet = hello.outlet.clone();
        let number = pool.shared.add_agent(hello.caller.agent, &outlet);
        let revision = std::sync::Mutex::new(hello.client.revision);
        Self { caller: hello.caller.clone(), pool, kind, revision, number, outlet }
    }

    /// The agent's caller.
    #[must_use]
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Takes a permit on the agent's session, and binds the agent to one if it has none. `only`: no other session is
    /// useful, for an agent bound to none.
    pub(crate) fn try_lease(&self, kind: CallKind, only: Option<u64>) -> Result<Lease, NoLease> {
        let bound = match &self.kind {
            BindingKind::Pinned { session } => return Self::lease_pinned(session),
            BindingKind::Exclusive { leases, reset } => return self.lease_exclusive(leases, *reset),
            BindingKind::Unbound => return self.lease_any(kind, only),
            BindingKind::Sticky { bound } => bound,
        };
        let mut bound = bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(Bound { session, agent_permits }) = bound.as_ref() {
            match session.standing() {
                Standing::Draining | Standing::Closed => {}
                Standing::Initializing | Standing::Ready | Standing::Suspect => {
                    let permit =
                        session.try_permit(kind, Some(agent_permits)).map_err(|none| none.at(session))?;
                    return Ok(Lease::new(session.clone(), permit));
                }
            }
        }
        let agent_permits = AgentPermits::new(self.caller.clone());
        let chosen = self.pool.choose(&self.caller, kind, Some(&agent_permits));
        *bound = chosen.as_ref().map(|(session, _)| Bound { session: session.clone(), agent_permits });
        let (session, permit) = chosen.ok_or(NoLease::Wait(self.pool.lane()))?;
        let permit = permit.map_err(|none| none.at(&session))?;
        Ok(Lease::new(session, permit))
    }

    /// True if its calls come from callers that cannot be told apart.
    pub(crate) fn keeps_to_none(&self) -> bool {
        matches!(self.kind, BindingKind::Unbound)
    }

    fn lease_any(&self, kind: CallKind, only: Option<u64>) -> Result<Lease, NoLease> {
        let known = only.and_then(|epoch| self.pool.live_session(epoch));
        let (session, permit) = match known {
            Some(session) => {
                let permit = session.try_permit(kind, None);
                (session, permit)
            }
            None => self.pool.choose(&self.caller, kind, None).ok_or(NoLease::Wait(self.pool.lane()))?,
        };
        let permit = permit.map_err(|none| none.at(&session))?;
        Ok(Lease::new(session, permit))
    }

    fn lease_exclusive(&self, leases: &Arc<ExclusiveLeases>, reset: bool) -> Result<Lease, NoLease> {
        // The session belongs to the call alone, so there is no write turn.
        let chosen =
            self.pool.choose(&self.caller, CallKind::Free, None).ok_or(NoLease::Wait(self.pool.lane()))?;
        let (session, permit) = (chosen.0, chosen.1.map_err(|_| NoLease::Wait(self.pool.lane()))?);
        let permit = permit.with_lease(leases.lend(&session, reset));
        Ok(Lease::new(session, permit))
    }

    fn lease_pinned(session: &Arc<Session>) -> Result<Lease, NoLease> {
        match session.standing() {
            Standing::Draining | Standing::Closed => Err(NoLease::Gone),
            Standing::Initializing | Standing::Ready | Standing::Suspect => {
                // Its one agent orders its writes itself.
                let permit = session.try_permit(CallKind::Free, None).map_err(|none| none.at(session))?;
                Ok(Lease::new(session.clone(), permit))
            }
        }
    }

    /// The lane of this agent: of its session, or of the pool. A write queues behind the others that wait for the write
    /// turn.
    pub(crate) fn lane(&self, kind: CallKind, queue: &Queue) -> Lane {
        let bound = match &self.kind {
            BindingKind::Pinned { session } => return session.lane,
            BindingKind::Exclusive { .. } | BindingKind::Unbound => return self.pool.lane(),
            BindingKind::Sticky { bound } => bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        };
        match bound.as_ref() {
            Some(Bound { session, agent_permits })
                if !matches!(session.standing(), Standing::Draining | Standing::Closed) =>
            {
                let turn = session.lane.needing(Need::WriteTurn);
                let in_line = || session.is_writing() || queue.waiting_in(turn) > 0;
                if kind == CallKind::Write && in_line() {
                    turn
                } else if session.is_kept_from(Some(agent_permits)) {
                    session.lane.needing(Need::OpenPermit)
                } else {
                    session.lane
                }
            }
            _ => self.pool.lane(),
        }
    }

    /// True if the agent is bound to this session, or is now. An agent that leases one per call matches [`ANY_SESSION`]
    /// only.
    pub(crate) fn keeps_to(&self, epoch: u64) -> bool {
        let mut bound = match &self.kind {
            BindingKind::Pinned { session } => return session.epoch == epoch,
            BindingKind::Exclusive { .. } => return epoch == ANY_SESSION,
            BindingKind::Unbound => return self.pool.live_session(epoch).is_some(),
            BindingKind::Sticky { bound } => bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        };
        if let Some(Bound { session, .. }) = bound.as_ref().filter(|bound| bound.session.is_live()) {
            return session.epoch == epoch;
        }
        let found = self.pool.live_session(epoch);
        let is_there = found.is_some();
        let agent_permits = || AgentPermits::new(self.caller.clone());
        *bound = found.map(|session| Bound { session, agent_permits: agent_permits() }).or(bound.take());
        is_there
    }

    /// The sessions that may send this agent requests: its own, or any it may have used if each call declares its
    /// capabilities.
    pub(crate) fn asking_sessions(&self) -> Vec<Arc<Session>> {
        match &self.kind {
            BindingKind::Pinned { .. } | BindingKind::Exclusive { .. } => self.own_sessions(),
            BindingKind::Sticky { .. } | BindingKind::Unbound => {
                let mut sessions = self.pool.sessions();
                sessions.retain(|session| session.era == Era::Modern);
                sessions
            }
        }
    }

    /// The sessions that belong to the agent alone now.
    pub(crate) fn own_sessions(&self) -> Vec<Arc<Session>> {
        match &self.kind {
            BindingKind::Pinned { session } => vec![session.clone()],
            BindingKind::Exclusive { leases, .. } => leases.sessions(),
            BindingKind::Sticky { .. } | BindingKind::Unbound => Vec::new(),
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.pool.shared.remove_agent(self.number);
        if let BindingKind::Pinned { session } = &self.kind {
            session.drain(crate::kinds::CloseReason::AgentGone);
        }
    }
}
