//! The agent that has a session for itself: for good, or for the time of an exclusive lease.

use std::sync::{Weak, atomic::Ordering};

use mcpool_wire::{AgentKey, Outlet};

use super::{Session, lock, state::Standing};

/// The owner of a session.
pub(crate) struct Holder {
    pub(crate) outlet: Weak<dyn Outlet>,
    /// Set for an exclusive lease: other agents before and after may have set another log level.
    pub(crate) borrower: Option<AgentKey>,
}

impl Session {
    /// Directs server requests to this agent from now on.
    pub(crate) fn lend_to(&self, holder: Holder) {
        *lock(&self.owner) = Some(holder);
    }

    /// Reserves it for the next agent that gets a session of its own.
    pub(crate) fn set_aside(&self) {
        self.spare.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_spare(&self) -> bool {
        self.spare.load(Ordering::SeqCst)
    }

    /// Assigns it to an agent for good. False if it is taken.
    pub(crate) fn give_to(&self, outlet: Weak<dyn Outlet>) -> bool {
        let is_free = self.spare.swap(false, Ordering::SeqCst) && self.standing() == Standing::Ready;
        if is_free {
            self.lend_to(Holder { outlet, borrower: None });
        }
        is_free
    }

    /// Clears the owner, and rejects server requests still waiting for it.
    pub(crate) fn take_back(&self) {
        *lock(&self.owner) = None;
        self.refuse_asks();
    }
}
