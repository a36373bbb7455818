//! A caller's place in the room, from entering to leaving.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::{
    Freed, Guest, Lane, Need, Room,
    round_robin::{Inner, Summons, Turn},
};
use crate::clock;

/// A caller's place in the room.
pub struct Waiter {
    room: Arc<Room>,
    lane: Lane,
    guest: Guest,
    place: u64,
    since: Instant,
    seat: Seat,
    first: bool,
}

/// The place went to an agent that had less in a full room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced;

/// Where a waiter stands.
enum Seat {
    /// In the queue of its lane.
    Queued(oneshot::Receiver<Summons>),
    /// Called up.
    Called(Turn),
    /// In the queue again after it was called up, about to try.
    Trying(oneshot::Receiver<Summons>, Turn),
    /// Rejected to make room for another call: it is in no lane and not counted.
    Dismissed,
    /// It has left the room.
    Out,
}

/// What a waiter that leaves its queue leaves behind.
#[derive(Default)]
struct Left {
    unused: Option<Turn>,
    dismissed: bool,
}

impl Waiter {
    pub(super) fn seated(
        room: Arc<Room>,
        inner: &mut Inner,
        lane: Lane,
        guest: Guest,
        (place, since): (u64, Instant),
    ) -> Self {
        let first = inner.arrive(lane);
        let seat = Seat::Queued(inner.seat(lane, &guest, (place, since), None));
        Self { room, lane, guest, place, since, seat, first }
    }

    /// Resolves when the caller may try again. Waiting once more means that the last turn found nothing.
    ///
    /// # Errors
    /// [`Displaced`]: there is no place to wait at any more.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place.
    pub async fn woken(&mut self) -> Result<(), Displaced> {
        self.found_nothing();
        if let Seat::Queued(woken) | Seat::Trying(woken, _) = &mut self.seat {
            self.seat = match woken.await {
                Ok(Summons::Try(turn)) => Seat::Called(turn),
                // An error means the sender was dropped without a word, which only happens with the room itself.
                Ok(Summons::Leave) | Err(_) => Seat::Dismissed,
            };
        }
        match self.seat {
            Seat::Dismissed | Seat::Out => Err(Displaced),
            Seat::Queued(_) | Seat::Called(_) | Seat::Trying(..) => Ok(()),
        }
    }

    /// What it was called for is gone: it is in demand again. Or it is there and kept for agents with nothing in
    /// flight, whom nobody may have told.
    fn found_nothing(&mut self) {
        let (woken, turn) = match std::mem::replace(&mut self.seat, Seat::Out) {
            Seat::Trying(woken, turn) => (woken, turn),
            other => return self.seat = other,
        };
        // The turn is over: said twice, it would wake the same ones again and again.
        self.seat = Seat::Queued(woken);
        if self.lane.need == Need::OpenSlot {
            let mut inner = self.room.lock();
            let lane = self.lane.needing(Need::Slot);
            let _ = inner.wake_one(lane, turn.freed) || inner.wake_one(lane.of_pool(), turn.freed);
        }
        self.room.demand.notify_one();
    }

    /// Takes the old place again, perhaps in another lane. Do this *before* trying again, so that a slot that
    /// comes back meanwhile wakes this caller and is not lost.
    pub fn back_to(&mut self, lane: Lane) {
        let room = self.room.clone();
        let mut inner = room.lock();
        let left = self.leave_queue(&mut inner);
        let (from, moved) = (self.lane, lane != self.lane);
        self.lane = lane;
        if moved && !left.dismissed {
            inner.depart(from);
            self.first = inner.arrive(lane);
        }
        if left.dismissed {
            self.seat = Seat::Dismissed;
        } else {
            let back = left.unused.filter(|_| !moved).map(|turn| turn.number);
            let woken = inner.seat(lane, &self.guest, (self.place, self.since), back);
            self.seat = match left.unused.filter(|_| !moved) {
                Some(turn) => Seat::Trying(woken, turn),
                None => Seat::Queued(woken),
            };
        }
        if moved || left.dismissed {
            // What woke it does not serve the lane it goes to, and those behind it have not looked.
            if let Some(turn) = left.unused {
                inner.call_up(turn.freed);
                inner.wake_one(from, Freed::looked_for(from));
            }
            if lane.need != Need::Slot {
                self.let_another_look(&mut inner, from);
            }
        }
        drop(inner);
        if moved {
            room.demand.notify_one();
        }
    }

    /// Where it waits.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Whether nobody else waited in the lane when it took its place: then nobody is overtaken by trying.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Got what it waited for: leaves, and lets the next one in the lane look, because there may be more. So may
    /// those who keep to the session whose slot woke it: it may have taken another one.
    pub fn served(mut self, now: Instant) {
        let room = self.room.clone();
        let used = match std::mem::replace(&mut self.seat, Seat::Out) {
            Seat::Trying(woken, turn) => {
                self.seat = Seat::Queued(woken);
                Some(turn.freed)
            }
            other => {
                self.seat = other;
                None
            }
        };
        let lane = self.lane;
        let mut inner = room.lock();
        // Who did not have to wait says nothing of how fast the room empties.
        inner.pace.tick(now, used.is_some());
        if let Some(again) = self.leave(&mut inner, now) {
            inner.call_up(again.freed);
        }
        inner.wake_one(lane, Freed::looked_for(lane));
        if let Some(freed) = used.filter(|freed| freed.lane != lane) {
            inner.wake_one(freed.lane, freed);
        }
    }

    /// Since when this call waits.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Another call of the agent may look for the last slots in place of this one.
    fn let_another_look(&self, inner: &mut Inner, lane: Lane) {
        if lane.session.is_some() {
            let freed = Freed { lane: lane.needing(Need::Slot), turn: false, open: false };
            inner.wake_agent(freed, &self.guest.principal, self.guest.agent);
        }
    }

    /// Leaves the room; gives back a turn that was not used.
    fn leave(&mut self, inner: &mut Inner, now: Instant) -> Option<Turn> {
        let left = self.leave_queue(inner);
        self.seat = Seat::Out;
        if !left.dismissed {
            inner.depart(self.lane);
            inner.uncount(&self.guest, now);
        }
        left.unused
    }

    /// Leaves the queue; gives back a turn that was not used.
    fn leave_queue(&mut self, inner: &mut Inner) -> Left {
        let (mut woken, held) = match std::mem::replace(&mut self.seat, Seat::Dismissed) {
            Seat::Queued(woken) => (woken, None),
            Seat::Trying(woken, turn) => (woken, Some(turn)),
            Seat::Called(turn) => return Left { unused: Some(turn), dismissed: false },
            Seat::Dismissed | Seat::Out => return Left { unused: None, dismissed: true },
        };
        inner.unseat(self.lane, &self.guest, self.place);
        // At most one of the two is owed: both were sent because of slots this waiter could not use.
        match (held, woken.try_recv()) {
            (held, Ok(Summons::Leave)) => Left { unused: held, dismissed: true },
            (held, Ok(Summons::Try(other))) => {
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
        if matches!(self.seat, Seat::Out) {
            return;
        }
        let room = self.room.clone();
        let mut inner = room.lock();
        // Woken and gone before it could try: the turn is somebody else's.
        if let Some(turn) = self.leave(&mut inner, clock::now()).filter(|_| !seeded!(TurnNotPassedOn)) {
            inner.call_up(turn.freed);
            // What woke it may be gone, and those behind it have not looked for anything else because it would.
            inner.wake_one(self.lane, Freed::looked_for(self.lane));
        }
        self.let_another_look(&mut inner, self.lane);
    }
}
