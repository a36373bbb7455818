//! Sessions that are one agent's alone for the length of a request.
//!
//! While the loan lasts, what the server asks on the session goes to its holder, and to nobody before or after. A
//! session that is to be reset serves one loan only: nobody else can take its slot, and its end closes it.

use std::sync::{Arc, PoisonError, Weak};

use mcpool_wire::{AgentKey, Outlet};

use crate::{
    observe::CloseReason,
    session::{Holder, Session},
    sync::{Mutex, MutexGuard},
};

/// The sessions lent to one agent now: as many as it has calls in flight.
pub(crate) struct Loans {
    holder: Weak<dyn Outlet>,
    agent: AgentKey,
    lent: Mutex<Vec<Arc<Session>>>,
}

/// One session lent for one request; dropping it gives the session back.
pub(crate) struct Loan {
    loans: Arc<Loans>,
    session: Arc<Session>,
    reset: bool,
}

impl Loans {
    pub(crate) fn new(agent: AgentKey, holder: &Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self { holder: Arc::downgrade(holder), agent, lent: Mutex::default() })
    }

    /// Lends a session of which the holder has just taken the only slot.
    pub(crate) fn lend(self: &Arc<Self>, session: &Arc<Session>, reset: bool) -> Loan {
        if reset {
            session.spend();
        }
        session.lend_to(Holder { outlet: self.holder.clone(), borrower: Some(self.agent) });
        self.lock().push(session.clone());
        Loan { loans: self.clone(), session: session.clone(), reset }
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if seeded!(LoanNeverEnds) {
            return;
        }
        self.session.take_back();
        self.loans.lock().retain(|lent| lent.epoch != self.session.epoch);
        if self.reset {
            self.session.drain(CloseReason::Reset);
        }
    }
}
