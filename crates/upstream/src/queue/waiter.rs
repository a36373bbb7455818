//! The place of one call in the queue, from joining to leaving.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::{
    Entry, Freed, Lane, Need, Queue,
    round_robin::{Inner, Wake, WakeToken},
};
use crate::clock;

/// The place of one call in the queue; dropping it leaves.
pub struct Waiter {
    queue: Arc<Queue>,
    lane: Lane,
    entry: Entry,
    place: u64,
    since: Instant,
    state: WaiterState,
    first: bool,
}

/// The place was given to an agent that held less of a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced;

/// The state of a waiter.
enum WaiterState {
    /// In the queue of its lane.
    Queued(oneshot::Receiver<Wake>),
    /// Woken.
    Called(WakeToken),
    /// Queued again after a wake-up, about to try.
    Trying(oneshot::Receiver<Wake>, WakeToken),
    /// Rejected to make room for another call: it is in no lane and not counted.
    Dismissed,
    /// It has left the queue.
    Out,
}

/// The result of leaving a lane.
#[derive(Default)]
struct Left {
    unused: Option<WakeToken>,
    dismissed: bool,
}

impl Waiter {
    pub(super) fn enqueue(
        queue: Arc<Queue>,
        inner: &mut Inner,
        lane: Lane,
        entry: Entry,
        (place, since): (u64, Instant),
    ) -> Self {
        let first = inner.arrive(lane);
        let state = WaiterState::Queued(inner.enqueue(lane, &entry, (place, since), None));
        Self { queue, lane, entry, place, since, state, first }
    }

    /// Resolves when the call may try. Waiting again means that the last try found nothing.
    ///
    /// # Errors
    /// [`Displaced`]: the call lost its place.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place.
    pub async fn woken(&mut self) -> Result<(), Displaced> {
        self.found_nothing();
        if let WaiterState::Queued(woken) | WaiterState::Trying(woken, _) = &mut self.state {
            self.state = match woken.await {
                Ok(Wake::Try(turn)) => WaiterState::Called(turn),
                // An error means the sender was dropped without a word, which only happens with the queue itself.
                Ok(Wake::Leave) | Err(_) => WaiterState::Dismissed,
            };
        }
        match self.state {
            WaiterState::Dismissed | WaiterState::Out => Err(Displaced),
            WaiterState::Queued(_) | WaiterState::Called(_) | WaiterState::Trying(..) => Ok(()),
        }
    }

    /// Handles a try without result: the permit is gone, so there is demand; or it is reserved for agents with nothing in
    /// flight, so one of their calls is woken.
    fn found_nothing(&mut self) {
        let (woken, turn) = match std::mem::replace(&mut self.state, WaiterState::Out) {
            WaiterState::Trying(woken, turn) => (woken, turn),
            other => return self.state = other,
        };
        // The token is used up: passed on twice, it would wake the same calls again and again.
        self.state = WaiterState::Queued(woken);
        if self.lane.need == Need::OpenPermit {
            let mut inner = self.queue.lock();
            let lane = self.lane.needing(Need::Permit);
            let _ = inner.wake_one(lane, turn.freed) || inner.wake_one(lane.of_pool(), turn.freed);
        }
        self.queue.demand.notify_one();
    }

    /// Queues the call again at its old turn, perhaps in another lane. Call it *before* trying, so that a permit released
    /// meanwhile wakes this call.
    pub fn back_to(&mut self, lane: Lane) {
        let queue = self.queue.clone();
        let mut inner = queue.lock();
        let left = self.leave_queue(&mut inner);
        let (from, moved) = (self.lane, lane != self.lane);
        self.lane = lane;
        if moved && !left.dismissed {
            inner.depart(from);
            self.first = inner.arrive(lane);
        }
        if left.dismissed {
            self.state = WaiterState::Dismissed;
        } else {
            let back = left.unused.filter(|_| !moved).map(|turn| turn.number);
            let woken = inner.enqueue(lane, &self.entry, (self.place, self.since), back);
            self.state = match left.unused.filter(|_| !moved) {
                Some(turn) => WaiterState::Trying(woken, turn),
                None => WaiterState::Queued(woken),
            };
        }
        if moved || left.dismissed {
            // The free permit does not serve the new lane, and the calls behind it have not tried.
            if let Some(turn) = left.unused {
                inner.call_up(turn.freed);
                inner.wake_one(from, Freed::looked_for(from));
            }
            if lane.need != Need::Permit {
                self.let_another_look(&mut inner, from);
            }
        }
        drop(inner);
        if moved {
            queue.demand.notify_one();
        }
    }

    /// The lane it waits in.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// True if its lane was empty when it joined; then a try overtakes no call.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Leaves with a permit and wakes the next call of the lane, because there may be more. A call bound to the session
    /// whose permit woke this one is woken too: this one may have taken another.
    pub fn served(mut self, now: Instant) {
        let queue = self.queue.clone();
        let used = match std::mem::replace(&mut self.state, WaiterState::Out) {
            WaiterState::Trying(woken, turn) => {
                self.state = WaiterState::Queued(woken);
                Some(turn.freed)
            }
            other => {
                self.state = other;
                None
            }
        };
        let lane = self.lane;
        let mut inner = queue.lock();
        // A call that did not wait says nothing about the drain rate.
        inner.drain_rate.tick(now, used.is_some());
        if let Some(again) = self.leave(&mut inner, now) {
            inner.call_up(again.freed);
        }
        inner.wake_one(lane, Freed::looked_for(lane));
        if let Some(freed) = used.filter(|freed| freed.lane != lane) {
            inner.wake_one(freed.lane, freed);
        }
    }

    /// The time it joined.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Lets another call of the agent try for the reserved permits in its place.
    fn let_another_look(&self, inner: &mut Inner, lane: Lane) {
        if lane.session.is_some() {
            let freed = Freed { lane: lane.needing(Need::Permit), turn: false, open: false };
            inner.wake_agent(freed, &self.entry.principal, self.entry.agent);
        }
    }

    /// Leaves the queue; returns an unused wake-up.
    fn leave(&mut self, inner: &mut Inner, now: Instant) -> Option<WakeToken> {
        let left = self.leave_queue(inner);
        self.state = WaiterState::Out;
        if !left.dismissed {
            inner.depart(self.lane);
            inner.uncount(&self.entry, now);
        }
        left.unused
    }

    /// Leaves the lane; returns an unused wake-up.
    fn leave_queue(&mut self, inner: &mut Inner) -> Left {
        let (mut woken, held) = match std::mem::replace(&mut self.state, WaiterState::Dismissed) {
            WaiterState::Queued(woken) => (woken, None),
            WaiterState::Trying(woken, turn) => (woken, Some(turn)),
            WaiterState::Called(turn) => return Left { unused: Some(turn), dismissed: false },
            WaiterState::Dismissed | WaiterState::Out => return Left { unused: None, dismissed: true },
        };
        inner.dequeue(self.lane, &self.entry, self.place);
        // At most one of the two is returned: both stand for permits this call did not use.
        match (held, woken.try_recv()) {
            (held, Ok(Wake::Leave)) => Left { unused: held, dismissed: true },
            (held, Ok(Wake::Try(other))) => {
                if let Some(one) = held {
                    inner.call_up(one.freed);
                }
                Left { unused: Some(other), dismissed: false }
            }
            (held, Err(_)) => Left { unused: held, dismissed: false },
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if matches!(self.state, WaiterState::Out) {
            return;
        }
        let queue = self.queue.clone();
        let mut inner = queue.lock();
        // Dropped after a wake-up and before a try: the next call gets it.
        if let Some(turn) = self.leave(&mut inner, clock::now()).filter(|_| !mutant!(TurnNotPassedOn)) {
            inner.call_up(turn.freed);
            // That permit may be gone, and the calls behind this one have not tried for others.
            inner.wake_one(self.lane, Freed::looked_for(self.lane));
        }
        self.let_another_look(&mut inner, self.lane);
    }
}
