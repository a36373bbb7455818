//! The waiting room of one backend: bounded, fair over agents, left by dropping.
//!
//! Callers wait in lanes: one per session for agents that keep to a session, one per pool for the others, and, where
//! writes run one at a time, one per session for the turn to write. A free slot wakes one waiter of its session's lane
//! or of the pool's lane, whoever's turn is earlier; agents take turns, so an agent with a thousand calls does not
//! starve one with a single call. A wake-up is permission to try, not a slot: who finds nothing goes back to its old
//! turn, and who leaves (the room or the lane) with an unused wake-up passes it on, because the slot it stands for is
//! still free.

mod lanes;

use std::{sync::Arc, time::Instant};

use mcpool_wire::AgentKey;
use tokio::sync::{Notify, oneshot};

use self::lanes::{Inner, Turn};
use crate::sync::{Mutex, MutexGuard};

/// Where a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The pool, by its number.
    pub pool: u64,
    /// The session the agent keeps to, by its epoch.
    pub session: Option<u64>,
    /// For the turn to write on that session, where writes run one at a time.
    pub write_turn: bool,
}

/// The room is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomFull {
    /// How many wait.
    pub limit: usize,
}

/// The waiting room.
pub struct Room {
    inner: Mutex<Inner>,
    limit: usize,
    /// Somebody waits who did not wait there before: a session may have to be opened.
    pub(crate) demand: Notify,
}

/// A caller's place in the room.
pub struct Waiter {
    room: Arc<Room>,
    lane: Lane,
    agent: AgentKey,
    place: u64,
    since: Instant,
    seat: Seat,
    first: bool,
}

/// Where a waiter stands.
enum Seat {
    /// In the queue of its lane.
    Queued(oneshot::Receiver<Turn>),
    /// Called up.
    Called(Turn),
    /// In the queue again after it was called up, about to try.
    Trying(oneshot::Receiver<Turn>, Turn),
    /// The room took it out without a turn, which does not happen while it lives.
    Out,
}

impl Room {
    /// A room for at most `limit` waiting calls.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner::default()), limit, demand: Notify::new() })
    }

    /// Takes a place behind the agent's other calls.
    ///
    /// # Errors
    /// [`RoomFull`] at the limit.
    pub fn enter(self: &Arc<Self>, lane: Lane, agent: AgentKey, now: Instant) -> Result<Waiter, RoomFull> {
        let inner = self.lock();
        if inner.waiting >= self.limit {
            return Err(RoomFull { limit: self.limit });
        }
        Ok(self.admit(inner, lane, agent, false, now))
    }

    /// Takes a place before all newcomers, for a call that was being served and must go again. The slots they had are
    /// the bound on them, so the limit does not turn them away.
    pub fn come_back(self: &Arc<Self>, lane: Lane, agent: AgentKey, now: Instant) -> Waiter {
        self.admit(self.lock(), lane, agent, true, now)
    }

    fn admit(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        lane: Lane,
        agent: AgentKey,
        returned: bool,
        now: Instant,
    ) -> Waiter {
        inner.waiting += 1;
        let place = inner.place(returned);
        let first = inner.arrive(lane);
        let seat = Seat::Queued(inner.seat(lane, agent, (place, now), None));
        drop(inner);
        self.demand.notify_one();
        Waiter { room: self.clone(), lane, agent, place, since: now, seat, first }
    }

    /// Whether nobody waits at all: then a caller may try without a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().waiting == 0
    }

    /// A slot of this session is free: one waiter may try.
    pub fn slot_freed(&self, lane: Lane) {
        if seeded!(FreedSlotWakesNobody) {
            return;
        }
        self.lock().call_up(lane);
    }

    /// The turn to write on this session is free, and the slot its holder had: whoever waits for the turn is first,
    /// because it can use both.
    pub fn write_turn_freed(&self, lane: Lane) {
        if seeded!(FreedSlotWakesNobody) {
            return;
        }
        self.lock().call_up(lane.for_writes());
    }

    /// A session with this many slots is ready: as many waiters may try, those who keep to it first.
    pub fn session_ready(&self, lane: Lane, slots: usize) {
        let mut inner = self.lock();
        let _ = inner.wake_one(lane.for_writes(), lane.for_writes());
        for _ in 0..slots {
            if !inner.wake_one(lane, lane) && !inner.wake_one(lane.of_pool(), lane) {
                return;
            }
        }
    }

    /// A session takes no more calls: who kept to it waits for any session of the pool, and may look around at once.
    pub fn session_gone(&self, lane: Lane) {
        let mut inner = self.lock();
        for lane in [lane, lane.for_writes()] {
            while inner.wake_one(lane, lane) {}
        }
    }

    /// Everyone may try: the circuit changed.
    pub fn wake_all(&self) {
        let mut inner = self.lock();
        let lanes: Vec<Lane> = inner.lanes.keys().copied().collect();
        for lane in lanes {
            while inner.wake_one(lane, lane) {}
        }
    }

    /// How many calls wait in one lane.
    #[must_use]
    pub fn waiting_in(&self, lane: Lane) -> usize {
        self.lock().lanes.get(&lane).map_or(0, |queue| queue.present)
    }

    /// How many calls wait, those just woken included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Since when the longest waiting call waits.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        let inner = self.lock();
        let lines = inner.lanes.values().flat_map(|q| q.agents.values());
        lines.flat_map(|line| line.calls.values()).map(|s| s.since).min()
    }

    /// The most that may wait.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics while it holds the lock; a poisoned room would only mean lost fairness.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Waiter {
    /// Resolves when the caller may try again. Waiting once more means that the last turn found nothing.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place.
    pub async fn woken(&mut self) {
        if matches!(self.seat, Seat::Trying(..)) {
            // What it was woken for is gone: it is in demand again.
            self.room.demand.notify_one();
        }
        if let Seat::Queued(woken) | Seat::Trying(woken, _) = &mut self.seat {
            // An error means the sender was dropped without waking, which only happens with the room itself.
            self.seat = woken.await.map_or(Seat::Out, Seat::Called);
        }
    }

    /// Takes the old place again, perhaps in another lane. Do this *before* trying again, so that a slot that
    /// comes back meanwhile wakes this caller and is not lost.
    pub fn back_to(&mut self, lane: Lane) {
        let room = self.room.clone();
        let mut inner = room.lock();
        let held = self.leave_queue(&mut inner);
        let moved = lane != self.lane;
        if moved {
            inner.depart(self.lane);
            // What woke it does not serve the lane it goes to, and those behind it have not looked.
            if let Some(turn) = held {
                inner.call_up(turn.freed);
            }
            inner.wake_one(self.lane, self.lane);
            self.first = inner.arrive(lane);
            self.lane = lane;
        }
        let back = held.filter(|_| !moved).map(|turn| turn.number);
        let woken = inner.seat(lane, self.agent, (self.place, self.since), back);
        self.seat = match held.filter(|_| !moved) {
            Some(turn) => Seat::Trying(woken, turn),
            None => Seat::Queued(woken),
        };
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
    pub fn served(mut self) {
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
        drop(self);
        let mut inner = room.lock();
        inner.wake_one(lane, lane);
        if let Some(freed) = used.filter(|freed| *freed != lane) {
            inner.wake_one(freed, freed);
        }
    }

    /// Since when this call waits.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Leaves the queue; gives back a turn that was not used.
    fn leave_queue(&mut self, inner: &mut Inner) -> Option<Turn> {
        let (mut woken, held) = match std::mem::replace(&mut self.seat, Seat::Out) {
            Seat::Queued(woken) => (woken, None),
            Seat::Trying(woken, turn) => (woken, Some(turn)),
            Seat::Called(turn) => return Some(turn),
            Seat::Out => return None,
        };
        inner.unseat(self.lane, self.agent, self.place);
        // At most one of the two is owed: both were sent because of slots this waiter could not use.
        let again = woken.try_recv().ok();
        if let (Some(one), Some(other)) = (held, again) {
            inner.call_up(one.freed);
            return Some(other);
        }
        again.or(held)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let room = self.room.clone();
        let mut inner = room.lock();
        inner.waiting -= 1;
        let unused = self.leave_queue(&mut inner);
        inner.depart(self.lane);
        // Woken and gone before it could try: the turn is somebody else's.
        if let Some(turn) = unused.filter(|_| !seeded!(TurnNotPassedOn)) {
            inner.call_up(turn.freed);
        }
    }
}

#[cfg(test)]
mod tests;
