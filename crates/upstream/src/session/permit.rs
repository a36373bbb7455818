//! The right to one call in flight on one session, and how many of them an agent has.

use std::sync::{Arc, atomic::Ordering};

use mcpool_wire::Caller;

use crate::{
    pool::NoLease,
    queue::Need,
    session::{Session, exclusive::Loan},
    sync::AtomicUsize,
};

/// What a call needs of its session besides a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Nothing.
    Free,
    /// The turn to write: it may change something, and such calls run one at a time here.
    Write,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// All are taken, or the session cannot be lent now.
    Full,
    /// What is free is kept for agents that have nothing in flight here.
    Kept,
    /// Another call has the turn to write.
    OthersWrite,
}

impl NoSlot {
    /// Where to wait for it.
    pub(crate) fn at(self, session: &Session) -> NoLease {
        NoLease::Wait(session.lane.needing(match self {
            Self::Full => Need::Slot,
            Self::Kept => Need::OpenSlot,
            Self::OthersWrite => Need::WriteTurn,
        }))
    }
}

/// The slots of one session that one agent holds, those of calls it has given up included: they still burn.
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

/// The right to one call in flight on one session, for a write with the turn to write; given back by drop.
pub(crate) struct Slot {
    session: Arc<Session>,
    kind: CallKind,
    /// Whose it is, where agents share the session.
    holding: Option<Arc<Holding>>,
    /// Where the session is one agent's alone for as long as the slot is.
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
        // First of all: what the agent tries next may have one of the last slots.
        let last_of = self.holding.take().filter(|holding| holding.slots.fetch_sub(1, Ordering::SeqCst) == 1);
        if seeded!(LoanEndsAfterSlot) {
            return self.session.release_slot(self.kind, last_of.as_deref());
        }
        // The session must be nobody's before the next one can take it.
        drop(self.loan.take());
        self.session.release_slot(self.kind, last_of.as_deref());
    }
}
