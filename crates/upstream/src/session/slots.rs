//! The slots of a session: how many calls it carries at a time, and, where writes run one at a time, whose turn it is.

use std::sync::{Arc, atomic::Ordering};

use super::{Session, state::Standing};
use crate::pool::{CallKind, NoSlot, Slot};

impl Session {
    /// Takes a slot if the session may be lent and has one free; for a write the turn to write with it.
    pub(crate) fn try_slot(self: &Arc<Self>, kind: CallKind) -> Result<Slot, NoSlot> {
        if self.standing() != Standing::Ready || self.spent.load(Ordering::SeqCst) || self.is_parked() {
            return Err(NoSlot::Full);
        }
        if kind == CallKind::Write && self.is_writing() {
            return Err(NoSlot::OthersWrite);
        }
        if seeded!(SlotsCountedInTwoSteps) {
            let taken = self.in_flight();
            (taken < self.limit)
                .then(|| self.in_flight.store(taken + 1, Ordering::SeqCst))
                .ok_or(NoSlot::Full)?;
            return Ok(Slot::new(self.clone(), kind));
        }
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < self.limit).then_some(n + 1))
            .map_err(|_| NoSlot::Full)?;
        self.touch();
        if kind == CallKind::Write && self.is_writing.swap(true, Ordering::SeqCst) {
            // Somebody may have found the session full meanwhile: the slot goes back like any other.
            drop(Slot::new(self.clone(), CallKind::Free));
            return Err(NoSlot::OthersWrite);
        }
        Ok(Slot::new(self.clone(), kind))
    }

    /// Whether a call has the turn to write.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::SeqCst)
    }

    /// Gives a slot back, and the turn to write: somebody may be waiting for it.
    pub(crate) fn release_slot(&self, kind: CallKind) {
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
        match (early.unwrap_or_else(|| self.standing()), kind) {
            (Standing::Ready, CallKind::Free) => self.room.slot_freed(self.lane),
            (Standing::Ready, CallKind::Write) => self.room.write_turn_freed(self.lane),
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
