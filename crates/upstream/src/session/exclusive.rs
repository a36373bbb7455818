//! Exclusive leases: a session that belongs to one agent for the duration of a request.
//!
//! During the lease, server requests on the session go to its holder, and to no other agent before or after. A session
//! with `reset` serves one lease only: no other call can take its permit, and the end of the lease closes it.

use std::sync::{Arc, PoisonError, Weak};

use mcpool_wire::{AgentKey, Outlet};

use crate::{
    kinds::CloseReason,
    session::{Holder, Session},
    sync::{Mutex, MutexGuard},
};

/// The exclusive leases of one agent, one per call in flight.
pub(crate) struct ExclusiveLeases {
    holder: Weak<dyn Outlet>,
    agent: AgentKey,
    lent: Mutex<Vec<Arc<Session>>>,
}

/// One exclusive lease; dropping it returns the session.
pub(crate) struct ExclusiveLease {
    leases: Arc<ExclusiveLeases>,
    session: Arc<Session>,
    reset: bool,
}

impl ExclusiveLeases {
    pub(crate) fn new(agent: AgentKey, holder: &Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self { holder: Arc::downgrade(holder), agent, lent: Mutex::default() })
    }

    /// Leases a session whose only permit the holder has just taken.
    pub(crate) fn lend(self: &Arc<Self>, session: &Arc<Session>, reset: bool) -> ExclusiveLease {
        if reset {
            session.spend();
        }
        session.lend_to(Holder { outlet: self.holder.clone(), borrower: Some(self.agent) });
        self.lock().push(session.clone());
        ExclusiveLease { leases: self.clone(), session: session.clone(), reset }
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ExclusiveLease {
    fn drop(&mut self) {
        if mutant!(LoanNeverEnds) {
            return;
        }
        self.session.take_back();
        self.leases.lock().retain(|lent| lent.epoch != self.session.epoch);
        if self.reset {
            self.session.drain(CloseReason::Reset);
        }
    }
}
