//! The lanes of the queue and the turns in them. The limits are checked elsewhere.

use std::{collections::BTreeMap, hash::Hash, sync::Arc, time::Instant};

use mcpool_wire::{AgentKey, Identity};
use tokio::sync::oneshot;

use super::{Entry, Freed, Lane, Need, drain_rate::DrainRate, usage::Usage};
use crate::sync::HashMap;

pub(super) struct Inner {
    pub(super) lanes: HashMap<Lane, LaneQueue>,
    pub(super) usage: Usage,
    pub(super) drain_rate: DrainRate,
    newcomers: Band,
    returned: Band,
}

/// The next numbers for one kind of call. Calls that must be sent again have numbers below those of all new calls, so
/// they go first; principals and agents take turns among them as among new calls.
#[derive(Clone, Copy)]
struct Band {
    next_place: u64,
    next_turn: u64,
}

/// First number of new calls: more calls than will ever be sent again.
const FIRST_NEWCOMER: u64 = 1 << 62;

/// A new last turn of each band.
#[derive(Clone, Copy)]
struct Fresh {
    newcomer: u64,
    returned: u64,
}

/// One lane: principals take turns, then their agents, then an agent's calls in order of arrival. Turns are numbered over
/// all lanes, so that the lanes a permit serves can be compared.
#[derive(Default)]
pub(super) struct LaneQueue {
    /// The number of waiting calls, including those woken and not back yet.
    pub(super) present: usize,
    principals: RoundRobin<Arc<Identity>, Agents>,
}

type Agents = RoundRobin<AgentKey, Line>;
/// The calls of one agent, by number.
type Line = BTreeMap<u64, QueuedCall>;

/// Members that take turns.
struct RoundRobin<K, V> {
    turns: BTreeMap<u64, K>,
    members: HashMap<K, (u64, V)>,
}

struct QueuedCall {
    wake: oneshot::Sender<Wake>,
    since: Instant,
    bytes: usize,
}

/// A wake-up and its reason.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wake {
    /// A permit may be free: try.
    Try(WakeToken),
    /// The call was displaced: leave.
    Leave,
}

/// Permission to try, passed on if unused.
#[derive(Clone, Copy, Debug)]
pub(super) struct WakeToken {
    /// The turns that the principal and the agent had.
    pub(super) number: (u64, u64),
    /// The free permit it stands for.
    pub(super) freed: Freed,
}

impl Freed {
    /// The permit that the next call of a lane may still find after one of the lane was served.
    pub(super) fn looked_for(lane: Lane) -> Self {
        Self { lane: lane.needing(Need::Permit), turn: lane.need == Need::WriteTurn, open: true }
    }
}

impl Default for Inner {
    fn default() -> Self {
        let from = |number| Band { next_place: number, next_turn: number };
        Self {
            lanes: HashMap::default(),
            usage: Usage::default(),
            drain_rate: DrainRate::default(),
            newcomers: from(FIRST_NEWCOMER),
            returned: from(0),
        }
    }
}

impl Inner {
    /// The next number; it orders the calls of one agent.
    pub(super) fn place(&mut self, returned: bool) -> u64 {
        let band = if returned { &mut self.returned } else { &mut self.newcomers };
        band.next_place += 1;
        band.next_place - 1
    }

    /// Counts a call in a lane. True if it is alone there.
    pub(super) fn arrive(&mut self, lane: Lane) -> bool {
        let queue = self.lanes.entry(lane).or_default();
        queue.present += 1;
        queue.present == 1
    }

    pub(super) fn depart(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        queue.present -= 1;
        if queue.present == 0 {
            self.lanes.remove(&lane);
        }
    }

    /// Removes a call from the usage.
    pub(super) fn uncount(&mut self, entry: &Entry, now: Instant) {
        self.usage.remove(entry);
        if self.usage.all().calls == 0 {
            self.drain_rate.end(now);
        }
    }

    /// Queues a call, with the earlier turn `back` of its principal and agent if it had one.
    pub(super) fn enqueue(
        &mut self,
        lane: Lane,
        entry: &Entry,
        (place, since): (u64, Instant),
        back: Option<(u64, u64)>,
    ) -> oneshot::Receiver<Wake> {
        let (wake, woken) = oneshot::channel();
        let fresh = self.fresh();
        let fresh = if place < FIRST_NEWCOMER { fresh.returned } else { fresh.newcomer };
        let (principal, agent) = back.unwrap_or((fresh, fresh));
        let queue = self.lanes.entry(lane).or_default();
        let agents = queue.principals.join(&entry.principal, principal);
        agents.join(&entry.agent, agent).insert(place, QueuedCall { wake, since, bytes: entry.bytes });
        woken
    }

    /// Wakes one call that the permit can serve.
    pub(super) fn call_up(&mut self, freed: Freed) {
        if freed.turn && self.wake_one(freed.lane.needing(Need::WriteTurn), freed) {
            return;
        }
        let freed = Freed { turn: false, ..freed };
        let open = freed.open.then_some(freed.lane.needing(Need::OpenPermit));
        let next = |lane: Lane| Some((self.lanes.get(&lane)?.next_turn()?, lane));
        let mut waiting =
            [Some(freed.lane), Some(freed.lane.of_pool()), open].map(|lane| lane.and_then(next));
        waiting.sort_unstable_by_key(|waiting| waiting.map_or(u64::MAX, |(turn, _)| turn));
        let _ = waiting.into_iter().flatten().any(|(_, lane)| self.wake_one(lane, freed));
    }

    pub(super) fn wake_one(&mut self, lane: Lane, freed: Freed) -> bool {
        loop {
            let fresh = self.fresh();
            let next = self.lanes.get_mut(&lane).and_then(|queue| queue.take_next(fresh));
            let Some((number, seated)) = next else { return false };
            if seated.wake.send(Wake::Try(WakeToken { number, freed })).is_ok() {
                return true;
            }
        }
    }

    pub(super) fn wake_all_in(&mut self, lane: Lane) {
        while self.wake_one(lane, Freed::looked_for(lane)) {}
    }

    /// Wakes a call of an agent that may use a reserved permit now that the agent has nothing in flight.
    pub(super) fn wake_agent(&mut self, freed: Freed, principal: &Arc<Identity>, agent: AgentKey) {
        let fresh = self.fresh();
        let lane = freed.lane.needing(Need::OpenPermit);
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        if let Some((number, seated)) = queue.take_of(principal, agent, fresh) {
            let _ = seated.wake.send(Wake::Try(WakeToken { number, freed }));
        }
    }

    pub(super) fn dequeue(&mut self, lane: Lane, entry: &Entry, place: u64) {
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        let _ = queue.take(&entry.principal, entry.agent, place);
    }

    /// Rejects the latest call of an agent; false if none of them waits for a wake-up.
    pub(super) fn dismiss(&mut self, principal: &Arc<Identity>, agent: AgentKey) -> bool {
        let latest = |queue: &LaneQueue| queue.line(principal, agent)?.keys().next_back().copied();
        let all = self.lanes.iter().filter_map(|(lane, queue)| Some((latest(queue)?, *lane)));
        let Some((place, lane)) = all.max_by_key(|(place, _)| *place) else { return false };
        let queue = self.lanes.get_mut(&lane);
        let Some(seated) = queue.and_then(|queue| queue.take(principal, agent, place)) else { return false };
        self.usage.remove(&Entry { principal: principal.clone(), agent, bytes: seated.bytes });
        // It leaves the lane at once: a later call would otherwise wait behind it although a permit is free.
        self.depart(lane);
        // Without a receiver the call is leaving anyway.
        let _ = seated.wake.send(Wake::Leave);
        true
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        let agents = self.lanes.values().flat_map(|queue| queue.principals.all());
        agents.flat_map(RoundRobin::all).flat_map(BTreeMap::values).map(|seated| seated.since).min()
    }

    fn fresh(&mut self) -> Fresh {
        self.newcomers.next_turn += 1;
        self.returned.next_turn += 1;
        Fresh { newcomer: self.newcomers.next_turn - 1, returned: self.returned.next_turn - 1 }
    }
}

impl LaneQueue {
    /// The turn of the next agent.
    fn next_turn(&self) -> Option<u64> {
        let (_, principal) = self.principals.next()?;
        self.principals.get(principal)?.next().map(|(turn, _)| turn)
    }

    fn line(&self, principal: &Arc<Identity>, agent: AgentKey) -> Option<&Line> {
        self.principals.get(principal)?.get(&agent)
    }

    /// Takes out the next call.
    fn take_next(&mut self, fresh: Fresh) -> Option<((u64, u64), QueuedCall)> {
        let principal = self.principals.next()?.1.clone();
        let agent = *self.principals.get(&principal)?.next()?.1;
        self.take_of(&principal, agent, fresh)
    }

    /// Takes out the first call of an agent and moves the agent and its principal to the end.
    fn take_of(
        &mut self,
        principal: &Arc<Identity>,
        agent: AgentKey,
        fresh: Fresh,
    ) -> Option<((u64, u64), QueuedCall)> {
        let first = |line: &mut Line| line.pop_first().map(|(_, seated)| seated);
        let (outer, taken) = self
            .principals
            .take_of(principal, Some(fresh), |agents| agents.take_of(&agent, Some(fresh), first))?;
        let (inner, seated) = taken?;
        Some(((outer, inner), seated?))
    }

    /// Takes out one call.
    fn take(&mut self, principal: &Arc<Identity>, agent: AgentKey, place: u64) -> Option<QueuedCall> {
        let taken = self.principals.take_of(principal, None, |agents| {
            agents.take_of(&agent, None, |line: &mut Line| line.remove(&place))
        });
        taken?.1?.1
    }
}

impl<K: Clone + Eq + Hash, V: Default + Emptied> RoundRobin<K, V> {
    /// The member of this key, with this turn if it has none or a later one.
    fn join(&mut self, key: &K, turn: u64) -> &mut V {
        let (had, value) = self.members.entry(key.clone()).or_insert_with(|| (u64::MAX, V::default()));
        if turn < *had {
            self.turns.remove(had);
            self.turns.insert(turn, key.clone());
            *had = turn;
        }
        value
    }

    /// Takes something out of a member and returns the turn it had. The member gets a fresh turn, if any, or is removed
    /// when empty.
    fn take_of<T>(
        &mut self,
        key: &K,
        fresh: Option<Fresh>,
        take: impl FnOnce(&mut V) -> T,
    ) -> Option<(u64, T)> {
        let (turn, value) = self.members.get_mut(key)?;
        let (had, taken) = (*turn, take(value));
        if value.is_empty() {
            self.turns.remove(&had);
            self.members.remove(key);
        } else if let Some(fresh) = fresh {
            let fresh = if value.has_returned() { fresh.returned } else { fresh.newcomer };
            *turn = fresh;
            self.turns.remove(&had);
            self.turns.insert(fresh, key.clone());
        }
        Some((had, taken))
    }

    fn next(&self) -> Option<(u64, &K)> {
        self.turns.first_key_value().map(|(turn, key)| (*turn, key))
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.members.get(key).map(|(_, value)| value)
    }

    fn all(&self) -> impl Iterator<Item = &V> {
        self.members.values().map(|(_, value)| value)
    }
}

impl<K, V> Default for RoundRobin<K, V> {
    fn default() -> Self {
        Self { turns: BTreeMap::new(), members: HashMap::default() }
    }
}

/// A member that is removed when empty.
trait Emptied {
    fn is_empty(&self) -> bool;
    /// True if its next call was sent before.
    fn has_returned(&self) -> bool;
}

impl Emptied for Line {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn has_returned(&self) -> bool {
        self.keys().next().is_some_and(|place| *place < FIRST_NEWCOMER)
    }
}

impl Emptied for Agents {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn has_returned(&self) -> bool {
        self.next().is_some_and(|(turn, _)| turn < FIRST_NEWCOMER)
    }
}
