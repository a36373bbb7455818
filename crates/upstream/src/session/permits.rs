//! The permits of a session: concurrent calls, the reserve for agents without calls, and the write turn.

use std::sync::{Arc, atomic::Ordering};

use super::{Session, state::Standing};
use crate::{
    kinds::Mode,
    queue::Freed,
    session::permit::{AgentPermits, CallKind, CallPermit, NoPermit},
};

/// The number of reserved permits: a tenth of a shared session's, at least one of several, for agents with nothing in
/// flight on it. This lets nested calls (an agent behind the backend) finish, and no agent with many calls blocks
/// others.
pub(super) fn kept(mode: Mode, limit: usize) -> usize {
    match mode {
        Mode::Stateless | Mode::Shared if limit > 1 => (limit / 10).max(1),
        Mode::Stateless | Mode::Shared | Mode::Exclusive | Mode::Pinned => 0,
    }
}

impl Session {
    /// Takes a permit if the session is available and has one for this agent; for a write with the write turn.
    pub(crate) fn try_permit(
        self: &Arc<Self>,
        kind: CallKind,
        agent_permits: Option<&Arc<AgentPermits>>,
    ) -> Result<CallPermit, NoPermit> {
        let (limit, full) = match self.is_kept_from(agent_permits) {
            true => (self.limit - self.kept, NoPermit::Kept),
            false => (self.limit, NoPermit::Full),
        };
        if self.standing() != Standing::Ready || self.spent.load(Ordering::SeqCst) || self.is_parked() {
            return Err(full);
        }
        if kind == CallKind::Write && self.is_writing() {
            return Err(NoPermit::OthersWrite);
        }
        if mutant!(SlotsCountedInTwoSteps) {
            let taken = self.in_flight();
            (taken < limit).then(|| self.in_flight.store(taken + 1, Ordering::SeqCst)).ok_or(full)?;
            return Ok(CallPermit::new(self.clone(), kind, agent_permits.cloned()));
        }
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < limit).then_some(n + 1))
            .map_err(|_| full)?;
        self.touch();
        if kind == CallKind::Write && self.is_writing.swap(true, Ordering::SeqCst) {
            // Another call may have found the session full meanwhile, so the permit is returned normally.
            drop(CallPermit::new(self.clone(), CallKind::Free, None));
            return Err(NoPermit::OthersWrite);
        }
        if kind == CallKind::Write && self.standing() != Standing::Ready {
            // The session was retired meanwhile, and the retirement may have seen no write in progress.
            drop(CallPermit::new(self.clone(), kind, None));
            return Err(full);
        }
        Ok(CallPermit::new(self.clone(), kind, agent_permits.cloned()))
    }

    /// True if the reserved permits are not for this agent, because it has calls in flight here.
    pub(crate) fn is_kept_from(&self, agent_permits: Option<&Arc<AgentPermits>>) -> bool {
        self.kept > 0 && agent_permits.is_some_and(|agent_permits| !agent_permits.is_empty())
    }

    /// True while a call has the write turn.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::SeqCst)
    }

    /// Releases a permit and its write turn, and wakes waiting calls. `last_of` is the agent that has none left here.
    pub(crate) fn release_permit(&self, kind: CallKind, last_of: Option<&AgentPermits>) {
        self.touch();
        if kind == CallKind::Write {
            self.is_writing.store(false, Ordering::SeqCst);
        }
        let early = self.seen_too_early();
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if mutant!(SlotReturnedTwice) {
            self.in_flight.fetch_max(1, Ordering::SeqCst);
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        match early.unwrap_or_else(|| self.standing()) {
            Standing::Ready => {
                let open = before <= self.limit - self.kept;
                let freed = Freed { lane: self.lane, turn: kind == CallKind::Write, open };
                let idle = last_of.filter(|_| self.kept > 0).map(AgentPermits::caller);
                self.queue.permit_freed(freed, idle.map(|idle| (&idle.identity, idle.agent)));
            }
            // The driver waits for the last call.
            _ if before == 1 => self.nudge.notify_one(),
            _ => {}
        }
    }

    fn seen_too_early(&self) -> Option<Standing> {
        if mutant!(StandingReadTooEarly) { Some(self.standing()) } else { None }
    }

    /// The number of free permits, if the session were ready.
    pub(crate) fn free_permits(&self) -> usize {
        if self.spent.load(Ordering::SeqCst) || self.is_parked() {
            0
        } else {
            self.limit.saturating_sub(self.in_flight())
        }
    }

    /// Suspends the session while its backend is paused: no calls, no probes, and its end does not count against the
    /// backend.
    pub(crate) fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
    }

    /// Resumes the session after a check.
    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Gives out no further permit; only the holder of the last one continues.
    pub(crate) fn spend(&self) {
        self.spent.store(true, Ordering::SeqCst);
    }
}
