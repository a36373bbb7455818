//! The waiting room of one backend: bounded, fair over agents, left by dropping.
//!
//! Callers wait in lanes: one per session for agents that keep to a session, one per pool for the others. A free
//! slot wakes one waiter of its session's lane or of the pool's lane, in turns; within a lane agents take turns, so
//! an agent with a thousand calls does not starve one with a single call. A wake-up is permission to try, not a
//! slot: who finds nothing goes back to its old place, and who leaves with an unused wake-up passes it on.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use mcpool_wire::AgentKey;
use tokio::sync::oneshot;

/// Where a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The pool, by its number.
    pub pool: u64,
    /// The session the agent keeps to, by its epoch.
    pub session: Option<u64>,
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
}

#[derive(Default)]
struct Inner {
    lanes: HashMap<Lane, Queue>,
    waiting: usize,
    next_place: u64,
    /// Which of the two lanes a freed slot serves first; alternates so that neither starves.
    pool_first: bool,
}

/// One lane: agents in turn, each with its calls in order of arrival.
#[derive(Default)]
struct Queue {
    turns: VecDeque<AgentKey>,
    agents: HashMap<AgentKey, BTreeMap<u64, Seated>>,
}

struct Seated {
    wake: oneshot::Sender<()>,
    since: Instant,
}

/// A caller's place in the room.
pub struct Waiter {
    room: Arc<Room>,
    lane: Lane,
    agent: AgentKey,
    place: u64,
    since: Instant,
    woken: Option<oneshot::Receiver<()>>,
    first: bool,
}

impl Room {
    /// A room for at most `limit` waiting calls.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner::default()), limit })
    }

    /// Takes a place behind the agent's other calls.
    ///
    /// # Errors
    /// [`RoomFull`] at the limit.
    pub fn enter(self: &Arc<Self>, lane: Lane, agent: AgentKey, now: Instant) -> Result<Waiter, RoomFull> {
        let mut inner = self.lock();
        if inner.waiting >= self.limit {
            return Err(RoomFull { limit: self.limit });
        }
        inner.waiting += 1;
        let place = inner.next_place;
        inner.next_place += 1;
        let first = !inner.lanes.contains_key(&lane);
        let woken = Some(inner.seat(lane, agent, place, now));
        drop(inner);
        Ok(Waiter { room: self.clone(), lane, agent, place, since: now, woken, first })
    }

    /// Whether nobody waits at all: then a caller may try without a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().waiting == 0
    }

    /// A slot of this session is free: one waiter may try.
    pub fn slot_freed(&self, lane: Lane) {
        let mut inner = self.lock();
        let pool_lane = Lane { session: None, ..lane };
        let order = if inner.pool_first { [pool_lane, lane] } else { [lane, pool_lane] };
        inner.pool_first = !inner.pool_first;
        for lane in order {
            if inner.wake_one(lane) {
                return;
            }
        }
    }

    /// A session with this many slots is ready: as many waiters may try, those who keep to it first.
    pub fn session_ready(&self, lane: Lane, slots: usize) {
        let mut inner = self.lock();
        let pool_lane = Lane { session: None, ..lane };
        for _ in 0..slots {
            if !inner.wake_one(lane) && !inner.wake_one(pool_lane) {
                return;
            }
        }
    }

    /// A session is over: who kept to it waits for any session of the pool, and may look around at once.
    pub fn session_gone(&self, lane: Lane) {
        let mut inner = self.lock();
        while inner.wake_one(lane) {}
        inner.lanes.remove(&lane);
    }

    /// Everyone may try: the circuit changed.
    pub fn wake_all(&self) {
        let mut inner = self.lock();
        let lanes: Vec<Lane> = inner.lanes.keys().copied().collect();
        for lane in lanes {
            while inner.wake_one(lane) {}
        }
    }

    /// How many calls wait in one lane.
    #[must_use]
    pub fn waiting_in(&self, lane: Lane) -> usize {
        self.lock().lanes.get(&lane).map_or(0, Queue::len)
    }

    /// How many calls wait in all lanes of a pool.
    #[must_use]
    pub fn waiting_for(&self, pool: u64) -> usize {
        self.lock().lanes.iter().filter(|(lane, _)| lane.pool == pool).map(|(_, queue)| queue.len()).sum()
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
        inner.lanes.values().flat_map(|q| q.agents.values()).flat_map(BTreeMap::values).map(|s| s.since).min()
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

impl Inner {
    fn seat(&mut self, lane: Lane, agent: AgentKey, place: u64, since: Instant) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let queue = self.lanes.entry(lane).or_default();
        let calls = queue.agents.entry(agent).or_insert_with(|| {
            queue.turns.push_back(agent);
            BTreeMap::new()
        });
        calls.insert(place, Seated { wake, since });
        woken
    }

    fn wake_one(&mut self, lane: Lane) -> bool {
        let Some(queue) = self.lanes.get_mut(&lane) else { return false };
        let woken = queue.wake_one();
        if queue.agents.is_empty() {
            self.lanes.remove(&lane);
        }
        woken
    }

    fn unseat(&mut self, lane: Lane, agent: AgentKey, place: u64) {
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        if let Some(calls) = queue.agents.get_mut(&agent) {
            calls.remove(&place);
            if calls.is_empty() {
                queue.agents.remove(&agent);
                queue.turns.retain(|other| *other != agent);
            }
        }
        if queue.agents.is_empty() {
            self.lanes.remove(&lane);
        }
    }
}

impl Queue {
    fn wake_one(&mut self) -> bool {
        while let Some(agent) = self.turns.pop_front() {
            let Some(calls) = self.agents.get_mut(&agent) else { continue };
            let first = calls.pop_first();
            if calls.is_empty() {
                self.agents.remove(&agent);
            } else {
                self.turns.push_back(agent);
            }
            if first.is_some_and(|(_, seated)| seated.wake.send(()).is_ok()) {
                return true;
            }
        }
        false
    }

    fn len(&self) -> usize {
        self.agents.values().map(BTreeMap::len).sum()
    }
}

impl Waiter {
    /// Resolves when the caller may try again.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place.
    pub async fn woken(&mut self) {
        if let Some(woken) = &mut self.woken {
            // An error means the sender was dropped without waking, which only happens with the room itself.
            let _ = woken.await;
            self.woken = None;
        }
    }

    /// Takes the old place again, perhaps in another lane. Do this *before* trying again, so that a slot that
    /// comes back meanwhile wakes this caller and is not lost.
    pub fn back_to(&mut self, lane: Lane) {
        let mut inner = self.room.lock();
        if self.woken.is_some() {
            if lane == self.lane {
                return;
            }
            inner.unseat(self.lane, self.agent, self.place);
        }
        self.lane = lane;
        self.first = !inner.lanes.contains_key(&lane);
        self.woken = Some(inner.seat(lane, self.agent, self.place, self.since));
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

    /// Got what it waited for: leaves, and lets the next one in the lane look, because there may be more.
    pub fn served(self) {
        let (room, lane) = (self.room.clone(), self.lane);
        drop(self);
        room.lock().wake_one(lane);
    }

    /// Since when this call waits.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut unused = false;
        {
            let mut inner = self.room.lock();
            inner.waiting -= 1;
            if let Some(woken) = &mut self.woken {
                unused = woken.try_recv().is_ok();
                inner.unseat(self.lane, self.agent, self.place);
            }
        }
        // Woken and gone before it could try: the turn is somebody else's.
        if unused {
            self.room.slot_freed(self.lane);
        }
    }
}
