//! The call permit of a session, and the number of permits per agent.

use std::sync::{Arc, atomic::Ordering};

use mcpool_wire::Caller;

use crate::{
    session::{Session, exclusive::Loan},
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
pub(crate) enum NoSlot {
    /// All are taken, or the session is not available.
    Full,
    /// The free ones are reserved for agents with nothing in flight here.
    Kept,
    /// Another call has the write turn.
    OthersWrite,
}

/// The permits of one agent on one session, including cancelled calls that still run.
pub(crate) struct Holding {
    caller: Arc<Caller>,
    slots: AtomicUsize,
}

impl Holding {
    pub(crate) fn new(caller: Arc<Caller>) -> Arc<Self> {
        Arc::new(Self { caller, slots: AtomicUsize::new(0) })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// Permit of one call on one session, with the write turn for a write; released on drop.
pub(crate) struct Slot {
    session: Arc<Session>,
    kind: CallKind,
    /// The agent, on a shared session.
    holding: Option<Arc<Holding>>,
    /// The exclusive lease, if any.
    loan: Option<Loan>,
}

impl Slot {
    pub(crate) fn new(session: Arc<Session>, kind: CallKind, holding: Option<Arc<Holding>>) -> Self {
        if let Some(holding) = &holding {
            holding.slots.fetch_add(1, Ordering::SeqCst);
        }
        Self { session, kind, holding, loan: None }
    }

    pub(crate) fn with_loan(mut self, loan: Loan) -> Self {
        self.loan = Some(loan);
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // First: the agent's next call may use a reserved permit.
        let last_of = self.holding.take().filter(|holding| holding.slots.fetch_sub(1, Ordering::SeqCst) == 1);
        if seeded!(LoanEndsAfterSlot) {
            return self.session.release_slot(self.kind, last_of.as_deref());
        }
        // The lease ends before the next call can take the permit.
        drop(self.loan.take());
        self.session.release_slot(self.kind, last_of.as_deref());
    }
}
