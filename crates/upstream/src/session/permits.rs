//! The slots of a session: how many calls it carries at a time, which of them are kept for agents that have none, and,
//! where writes run one at a time, whose turn it is.

use std::sync::{Arc, atomic::Ordering};

use super::{Session, state::Standing};
use crate::{
    observe::Mode,
    queue::Freed,
    session::permit::{CallKind, Holding, NoSlot, Slot},
};

/// Of a session's slots, those for agents with nothing in flight on it: a tenth, at least one of several. Calls that
/// wait for other calls to the same backend (nested agents) then end, and an agent with many calls delays nobody by
/// them. A session that is one agent's keeps none.
pub(super) fn kept(mode: Mode, limit: usize) -> usize {
    match mode {
        Mode::Stateless | Mode::Shared if limit > 1 => (limit / 10).max(1),
        Mode::Stateless | Mode::Shared | Mode::Exclusive | Mode::Pinned => 0,
    }
}

impl Session {
    /// Takes a slot if the session may be lent and has one free for this agent; for a write the turn to write with it.
    pub(crate) fn try_slot(
        self: &Arc<Self>,
        kind: CallKind,
        holding: Option<&Arc<Holding>>,
    ) -> Result<Slot, NoSlot> {
        let (limit, full) = match self.is_kept_from(holding) {
            true => (self.limit - self.kept, NoSlot::Kept),
            false => (self.limit, NoSlot::Full),
        };
        if self.standing() != Standing::Ready || self.spent.load(Ordering::SeqCst) || self.is_parked() {
            return Err(full);
        }
        if kind == CallKind::Write && self.is_writing() {
            return Err(NoSlot::OthersWrite);
        }
        if seeded!(SlotsCountedInTwoSteps) {
            let taken = self.in_flight();
            (taken < limit).then(|| self.in_flight.store(taken + 1, Ordering::SeqCst)).ok_or(full)?;
            return Ok(Slot::new(self.clone(), kind, holding.cloned()));
        }
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < limit).then_some(n + 1))
            .map_err(|_| full)?;
        self.touch();
        if kind == CallKind::Write && self.is_writing.swap(true, Ordering::SeqCst) {
            // Somebody may have found the session full meanwhile: the slot goes back like any other.
            drop(Slot::new(self.clone(), CallKind::Free, None));
            return Err(NoSlot::OthersWrite);
        }
        if kind == CallKind::Write && self.standing() != Standing::Ready {
            // It was retired meanwhile, and whoever did so may have seen that nobody writes.
            drop(Slot::new(self.clone(), kind, None));
            return Err(full);
        }
        Ok(Slot::new(self.clone(), kind, holding.cloned()))
    }

    /// Whether the last slots are not for this agent: it has calls in flight here.
    pub(crate) fn is_kept_from(&self, holding: Option<&Arc<Holding>>) -> bool {
        self.kept > 0 && holding.is_some_and(|holding| !holding.is_empty())
    }

    /// Whether a call has the turn to write.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::SeqCst)
    }

    /// Gives a slot back, and the turn to write: somebody may be waiting for it. `last_of` is the agent that has none
    /// here any more.
    pub(crate) fn release_slot(&self, kind: CallKind, last_of: Option<&Holding>) {
        self.touch();
        if kind == CallKind::Write {
            self.is_writing.store(false, Ordering::SeqCst);
        }
        let early = self.seen_too_early();
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if seeded!(SlotReturnedTwice) {
            self.in_flight.fetch_max(1, Ordering::SeqCst);
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        match early.unwrap_or_else(|| self.standing()) {
            Standing::Ready => {
                let open = before <= self.limit - self.kept;
                let freed = Freed { lane: self.lane, turn: kind == CallKind::Write, open };
                let idle = last_of.filter(|_| self.kept > 0).map(Holding::caller);
                self.room.slot_freed(freed, idle.map(|idle| (&idle.principal, idle.agent)));
            }
            // The driver waits for the last call.
            _ if before == 1 => self.nudge.notify_one(),
            _ => {}
        }
    }

    fn seen_too_early(&self) -> Option<Standing> {
        if seeded!(StandingReadTooEarly) { Some(self.standing()) } else { None }
    }

    /// Slots that could be taken now, were it ready.
    pub(crate) fn free_slots(&self) -> usize {
        if self.spent.load(Ordering::SeqCst) || self.is_parked() {
            0
        } else {
            self.limit.saturating_sub(self.in_flight())
        }
    }

    /// The backend rests: it is neither lent nor asked whether it is there, and if it ends that says nothing about the
    /// backend.
    pub(crate) fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
    }

    /// It was seen to be there.
    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Nobody but the holder of the slot that was just taken uses it any more.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::SeqCst);
    }
}
