//! Who waits in which lane, and whose turn it is: the room without its door.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use mcpool_wire::AgentKey;
use tokio::sync::oneshot;

use super::Lane;

pub(super) struct Inner {
    pub(super) lanes: HashMap<Lane, Queue>,
    pub(super) waiting: usize,
    newcomers: Band,
    returned: Band,
}

/// The numbers given out to one kind of call. Those that were served and must go again have their own, below all of
/// the newcomers', so that they go first; among them agents take turns as among the others.
#[derive(Clone, Copy)]
struct Band {
    next_place: u64,
    next_turn: u64,
}

/// One lane: agents in turn, each with its calls in order of arrival. Turns are numbered over all lanes, so the
/// lanes a slot serves can be compared.
#[derive(Default)]
pub(super) struct Queue {
    /// Everybody who waits here, those called up and not back yet included.
    pub(super) present: usize,
    turns: BTreeMap<u64, AgentKey>,
    pub(super) agents: HashMap<AgentKey, Line>,
}

pub(super) struct Line {
    turn: u64,
    pub(super) calls: BTreeMap<u64, Seated>,
}

pub(super) struct Seated {
    wake: oneshot::Sender<Turn>,
    pub(super) since: Instant,
}

/// Permission to try, and what to give back if it is not used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) number: u64,
    /// Whose free slot it stands for.
    pub(super) freed: Lane,
}

impl Lane {
    pub(super) fn of_pool(self) -> Self {
        Self { session: None, write_turn: false, ..self }
    }

    /// Where calls wait that may have a slot of this session, but not yet its turn to write.
    pub(crate) fn for_writes(self) -> Self {
        Self { write_turn: true, ..self }
    }
}

/// More calls than will ever return.
const FIRST_NEWCOMER: u64 = 1 << 62;

impl Default for Inner {
    fn default() -> Self {
        let from = |number| Band { next_place: number, next_turn: number };
        Self { lanes: HashMap::new(), waiting: 0, newcomers: from(FIRST_NEWCOMER), returned: from(0) }
    }
}

impl Inner {
    /// The next place, which decides who goes first among the calls of one agent.
    pub(super) fn place(&mut self, returned: bool) -> u64 {
        let band = if returned { &mut self.returned } else { &mut self.newcomers };
        band.next_place += 1;
        band.next_place - 1
    }

    /// The band of a call, by its place.
    fn band(&mut self, place: u64) -> &mut Band {
        if place < FIRST_NEWCOMER { &mut self.returned } else { &mut self.newcomers }
    }

    /// Counts a waiter in a lane; says whether it is alone there.
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

    /// Queues a call, at an earlier turn of its agent if it gives one back.
    pub(super) fn seat(
        &mut self,
        lane: Lane,
        agent: AgentKey,
        (place, since): (u64, Instant),
        back: Option<u64>,
    ) -> oneshot::Receiver<Turn> {
        let (wake, woken) = oneshot::channel();
        let fresh = self.band(place).next_turn;
        let queue = self.lanes.entry(lane).or_default();
        let line =
            queue.agents.entry(agent).or_insert_with(|| Line { turn: u64::MAX, calls: BTreeMap::new() });
        let turn = line.turn.min(back.unwrap_or(fresh));
        if turn != line.turn {
            queue.turns.remove(&line.turn);
            queue.turns.insert(turn, agent);
            line.turn = turn;
        }
        line.calls.insert(place, Seated { wake, since });
        if turn == fresh {
            self.band(place).next_turn += 1;
        }
        woken
    }

    /// Lets one waiter try whom a slot of this session can serve.
    pub(super) fn call_up(&mut self, freed: Lane) {
        if freed.write_turn && self.wake_one(freed, freed) {
            return;
        }
        let freed = Lane { write_turn: false, ..freed };
        let next = |lane| self.lanes.get(&lane).and_then(Queue::next_turn);
        let pool = freed.of_pool();
        let (first, second) = match (next(freed), next(pool)) {
            (Some(own), Some(any)) if any < own => (pool, freed),
            (None, _) => (pool, freed),
            _ => (freed, pool),
        };
        let _ = self.wake_one(first, freed) || self.wake_one(second, freed);
    }

    pub(super) fn wake_one(&mut self, lane: Lane, freed: Lane) -> bool {
        let Some(queue) = self.lanes.get_mut(&lane) else { return false };
        while let Some((number, agent)) = queue.turns.pop_first() {
            let Some(line) = queue.agents.get_mut(&agent) else { continue };
            let first = line.calls.pop_first();
            match line.calls.keys().next() {
                None => {
                    queue.agents.remove(&agent);
                }
                Some(place) => {
                    let returned = *place < FIRST_NEWCOMER;
                    let band = if returned { &mut self.returned } else { &mut self.newcomers };
                    line.turn = band.next_turn;
                    band.next_turn += 1;
                    queue.turns.insert(line.turn, agent);
                }
            }
            if first.is_some_and(|(_, seated)| seated.wake.send(Turn { number, freed }).is_ok()) {
                return true;
            }
        }
        false
    }

    pub(super) fn unseat(&mut self, lane: Lane, agent: AgentKey, place: u64) {
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        let Some(line) = queue.agents.get_mut(&agent) else { return };
        line.calls.remove(&place);
        if line.calls.is_empty() {
            queue.turns.remove(&line.turn);
            queue.agents.remove(&agent);
        }
    }
}

impl Queue {
    fn next_turn(&self) -> Option<u64> {
        self.turns.keys().next().copied()
    }
}
