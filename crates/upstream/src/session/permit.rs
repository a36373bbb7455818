//! The call permit of a session, and the number of permits per agent.

use std::sync::{Arc, atomic::Ordering};

use mcpool_wire::Caller;

use crate::{
    session::{Session, exclusive::ExclusiveLease},
    sync::AtomicUsize,
};

/// What a call needs beside a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Nothing.
    Free,
    /// The write turn: the call may change something, and such calls run one at a time here.
    Write,
}

/// The reason for no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPermit {
    /// All are taken, or the session is not available.
    Full,
    /// The free ones are reserved for agents with nothing in flight here.
    Kept,
    /// Another call has the write turn.
    OthersWrite,
}

/// The permits of one agent on one session, including cancelled calls that still run.
pub(crate) struct AgentPermits {
    caller: Arc<Caller>,
    permits: AtomicUsize,
}

impl AgentPermits {
    pub(crate) fn new(caller: Arc<Caller>) -> Arc<Self> {
        Arc::new(Self { caller, permits: AtomicUsize::new(0) })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.permits.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// Permit of one call on one session, with the write turn for a write; released on drop.
pub(crate) struct CallPermit {
    session: Arc<Session>,
    kind: CallKind,
    /// The agent, on a shared session.
    agent_permits: Option<Arc<AgentPermits>>,
    /// The exclusive lease, if any.
    lease: Option<ExclusiveLease>,
}

impl CallPermit {
    pub(crate) fn new(
        session: Arc<Session>,
        kind: CallKind,
        agent_permits: Option<Arc<AgentPermits>>,
    ) -> Self {
        if let Some(agent_permits) = &agent_permits {
            agent_permits.permits.fetch_add(1, Ordering::SeqCst);
        }
        Self { session, kind, agent_permits, lease: None }
    }

    pub(crate) fn with_lease(mut self, lease: ExclusiveLease) -> Self {
        self.lease = Some(lease);
        self
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        // First: the agent's next call may use a reserved permit.
        let last_of = self
            .agent_permits
            .take()
            .filter(|agent_permits| agent_permits.permits.fetch_sub(1, Ordering::SeqCst) == 1);
        if mutant!(LoanEndsAfterSlot) {
            return self.session.release_permit(self.kind, last_of.as_deref());
        }
        // The lease ends before the next call can take the permit.
        drop(self.lease.take());
        self.session.release_permit(self.kind, last_of.as_deref());
    }
}
