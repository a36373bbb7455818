//! The room against a model of sessions, slots and callers that come, try and leave in any order. The subtle
//! property is liveness: once everybody who was woken has tried, nobody may wait for whom there is a free slot.

use std::collections::HashMap;

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

const POOL: Lane = Lane { pool: 1, session: None, write_turn: false };
const LIMIT: usize = 12;

fn lane_of(epoch: u64) -> Lane {
    Lane { pool: 1, session: Some(epoch), write_turn: false }
}

#[derive(Clone, Debug)]
enum Op {
    Enter(u8),
    /// As [`Op::Enter`], for the turn to write as well.
    Write(u8),
    /// A call of this agent was being served and must go again.
    Return(u8),
    Poll(u8),
    Leave(u8),
    Finish(u8),
    Replace(u8),
    WakeAll,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..5_u8).prop_map(Op::Enter),
        4 => (0..5_u8).prop_map(Op::Write),
        2 => (0..5_u8).prop_map(Op::Return),
        6 => any::<u8>().prop_map(Op::Poll),
        2 => any::<u8>().prop_map(Op::Leave),
        5 => any::<u8>().prop_map(Op::Finish),
        1 => any::<u8>().prop_map(Op::Replace),
        1 => Just(Op::WakeAll),
    ]
}

struct World {
    room: Arc<Room>,
    now: Instant,
    /// Epoch and free slots.
    sessions: Vec<(u64, usize)>,
    epochs: u64,
    /// The session each agent keeps to.
    bound: HashMap<u64, u64>,
    waiters: Vec<(Caller, Waiter)>,
    /// Who calls, and the epoch, of each call in flight.
    leases: Vec<(Caller, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    agent: u64,
    writes: bool,
}

impl World {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        Self {
            room: Room::new(LIMIT),
            now,
            sessions: vec![(1, 2), (2, 1)],
            epochs: 2,
            bound: HashMap::new(),
            waiters: Vec::new(),
            leases: Vec::new(),
        }
    }

    /// What a seat does: a slot on the agent's session, or on any if it keeps to none.
    fn lease(&mut self, caller: Caller) -> Result<u64, Lane> {
        let Caller { agent, writes } = caller;
        let epoch = match self.bound.get(&agent) {
            Some(epoch) => *epoch,
            // Agents prefer different sessions; a writer the one it can write on now.
            None => {
                let free = self.sessions.iter().filter(|(_, free)| *free > 0).map(|(epoch, _)| *epoch);
                let taken = |epoch: &u64| writes && self.is_writing(*epoch);
                free.max_by_key(|epoch| (!taken(epoch), (agent ^ epoch) % 3)).ok_or(POOL)?
            }
        };
        self.bound.insert(agent, epoch);
        if writes && self.is_writing(epoch) {
            return Err(lane_of(epoch).for_writes());
        }
        let slots = self.sessions.iter_mut().find(|(e, free)| *e == epoch && *free > 0);
        slots.ok_or(lane_of(epoch))?.1 -= 1;
        self.leases.push((caller, epoch));
        Ok(epoch)
    }

    fn is_writing(&self, epoch: u64) -> bool {
        self.leases.iter().any(|(caller, e)| caller.writes && *e == epoch)
    }

    fn enter(&mut self, caller: Caller) {
        let lane = self.bound.get(&caller.agent).map_or(POOL, |epoch| lane_of(*epoch));
        match self.room.enter(lane, AgentKey(caller.agent), self.now) {
            Ok(waiter) if waiter.is_first() => self.attempt(caller, waiter),
            Ok(waiter) => self.waiters.push((caller, waiter)),
            Err(full) => {
                assert_eq!(full.limit, LIMIT);
                assert!(self.waiters.len() >= LIMIT, "refused although there was room");
            }
        }
    }

    fn come_back(&mut self, caller: Caller) {
        let lane = self.bound.get(&caller.agent).map_or(POOL, |epoch| lane_of(*epoch));
        let waiter = self.room.come_back(lane, AgentKey(caller.agent), self.now);
        self.attempt(caller, waiter);
    }

    fn attempt(&mut self, caller: Caller, mut waiter: Waiter) {
        loop {
            match self.lease(caller) {
                Ok(_) => return waiter.served(),
                Err(lane) if lane == waiter.lane() => return self.waiters.push((caller, waiter)),
                Err(lane) => waiter.back_to(lane),
            }
        }
    }

    /// Lets one waiter look whether it was woken; true if it was.
    fn poll(&mut self, index: usize) -> bool {
        let (caller, mut waiter) = self.waiters.remove(index);
        if waiter.woken().now_or_never().is_none() {
            self.waiters.insert(index, (caller, waiter));
            return false;
        }
        let lane = waiter.lane();
        waiter.back_to(lane);
        self.attempt(caller, waiter);
        true
    }

    fn finish(&mut self, index: usize) {
        let (caller, epoch) = self.leases.remove(index);
        if let Some((_, free)) = self.sessions.iter_mut().find(|(e, _)| *e == epoch) {
            *free += 1;
            if caller.writes {
                self.room.write_turn_freed(lane_of(epoch));
            } else {
                self.room.slot_freed(lane_of(epoch));
            }
        }
    }

    fn replace(&mut self, index: usize) {
        let (old, _) = self.sessions.remove(index);
        self.bound.retain(|_, epoch| *epoch != old);
        self.room.session_gone(lane_of(old));
        self.epochs += 1;
        self.sessions.push((self.epochs, 2));
        self.room.session_ready(lane_of(self.epochs), 2);
    }

    fn run(&mut self, op: &Op) {
        let pick = |n: u8, len: usize| usize::from(n).checked_rem(len);
        match *op {
            Op::Enter(agent) => self.enter(Caller { agent: u64::from(agent), writes: false }),
            Op::Write(agent) => self.enter(Caller { agent: u64::from(agent), writes: true }),
            Op::Return(agent) => self.come_back(Caller { agent: u64::from(agent), writes: false }),
            Op::Poll(n) => drop(pick(n, self.waiters.len()).map(|i| self.poll(i))),
            Op::Leave(n) => drop(pick(n, self.waiters.len()).map(|i| self.waiters.remove(i))),
            Op::Finish(n) => drop(pick(n, self.leases.len()).map(|i| self.finish(i))),
            Op::Replace(n) => drop(pick(n, self.sessions.len()).map(|i| self.replace(i))),
            Op::WakeAll => self.room.wake_all(),
        }
        assert_eq!(self.room.waiting(), self.waiters.len(), "the count is exact");
    }

    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            if !(0..self.waiters.len()).any(|index| self.poll(index)) {
                return;
            }
        }
        panic!("callers wake each other for ever");
    }

    fn assert_nobody_waits_in_vain(&self) {
        for (caller, waiter) in &self.waiters {
            let usable = |epoch: u64| {
                let bound = self.bound.get(&caller.agent).is_none_or(|bound| *bound == epoch);
                bound && !(caller.writes && self.is_writing(epoch))
            };
            let free = self.sessions.iter().find(|(epoch, free)| *free > 0 && usable(*epoch));
            assert!(free.is_none(), "{caller:?} waits in {:?} although {free:?} is free", waiter.lane());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_free_slot_and_a_caller_it_would_serve_never_coexist_at_rest(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.come_to_rest();
        world.assert_nobody_waits_in_vain();
        while !world.leases.is_empty() {
            world.finish(0);
            world.come_to_rest();
            world.assert_nobody_waits_in_vain();
        }
        prop_assert_eq!(world.room.waiting(), 0);
        prop_assert!(world.room.lock().lanes.is_empty(), "nothing is kept of those who left");
    }
}

fn enter(world: &World, lane: Lane, agent: u64) -> Waiter {
    world.room.enter(lane, AgentKey(agent), world.now).expect("room")
}

fn is_woken(waiter: &mut Waiter) -> bool {
    waiter.woken().now_or_never().is_some()
}

#[test]
fn who_waits_to_write_has_the_freed_turn_before_who_waits_for_a_slot() {
    let world = World::new();
    let turn = lane_of(1).for_writes();
    let mut reading = enter(&world, lane_of(1), 1);
    let mut writing = [enter(&world, turn, 2), enter(&world, turn, 3)];
    world.room.write_turn_freed(lane_of(1));
    assert!(is_woken(&mut writing[0]) && !is_woken(&mut reading) && !is_woken(&mut writing[1]));
    let [first, mut second] = writing;
    drop(first);
    assert!(is_woken(&mut second), "the turn of one who leaves is the next one's");
    drop(second);
    assert!(is_woken(&mut reading), "the slot is still free");
}

#[test]
fn an_agent_with_many_calls_does_not_starve_one_with_a_single_call() {
    let world = World::new();
    let mut many: Vec<Waiter> = (0..10).map(|_| enter(&world, POOL, 1)).collect();
    let mut single = enter(&world, POOL, 2);
    world.room.slot_freed(lane_of(1));
    world.room.slot_freed(lane_of(1));
    assert!(is_woken(&mut many[0]) && !is_woken(&mut many[1]), "the first call of the first agent");
    assert!(is_woken(&mut single), "then the other agent's turn");
}

#[test]
fn who_was_being_served_goes_before_newcomers_and_agents_take_turns_there_as_well() {
    let world = World::new();
    let mut waiting = vec![("1 new", enter(&world, POOL, 1)), ("3 new", enter(&world, POOL, 3))];
    for (name, agent) in [("1 first", 1), ("1 second", 1), ("1 third", 1), ("2", 2)] {
        waiting.push((name, world.room.come_back(POOL, AgentKey(agent), world.now)));
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        world.room.slot_freed(lane_of(1));
        let next = waiting.iter_mut().position(|(_, waiter)| is_woken(waiter)).expect("one is woken");
        let (name, waiter) = waiting.remove(next);
        order.push(name);
        waiter.served();
        // Who is served lets the next one look, who finds nothing here.
        for (_, waiter) in &mut waiting {
            if is_woken(waiter) {
                waiter.back_to(POOL);
            }
        }
    }
    assert_eq!(order, ["1 first", "2", "1 second", "1 third", "3 new", "1 new"]);
}

#[test]
fn a_full_room_does_not_turn_away_who_was_being_served() {
    let world = World::new();
    let _full: Vec<Waiter> = (0..LIMIT as u64).map(|n| enter(&world, POOL, n)).collect();
    let mut back = world.room.come_back(POOL, AgentKey(99), world.now);
    world.room.slot_freed(lane_of(1));
    assert!(is_woken(&mut back));
}

#[test]
fn who_waits_for_a_session_and_who_waits_for_any_take_turns() {
    let world = World::new();
    let mut keeping: Vec<Waiter> = (0..4).map(|n| enter(&world, lane_of(1), n)).collect();
    let mut any: Vec<Waiter> = (10..14).map(|n| enter(&world, POOL, n)).collect();
    for _ in 0..6 {
        world.room.slot_freed(lane_of(1));
    }
    let woken =
        |waiters: &mut Vec<Waiter>| waiters.iter_mut().filter_map(|w| is_woken(w).then_some(())).count();
    assert_eq!((woken(&mut keeping), woken(&mut any)), (4, 2), "in order of arrival over both lanes");
}

#[test]
fn a_turn_that_found_nothing_is_not_lost() {
    let world = World::new();
    let mut first = enter(&world, POOL, 1);
    let mut second = enter(&world, POOL, 2);
    world.room.slot_freed(lane_of(1));
    assert!(is_woken(&mut first));
    first.back_to(POOL);
    world.room.slot_freed(lane_of(1));
    assert!(is_woken(&mut first), "it is first again, not last");
    assert!(!is_woken(&mut second));
}

#[test]
fn a_turn_of_one_who_leaves_goes_to_those_who_keep_to_the_session() {
    let world = World::new();
    let mut any = enter(&world, POOL, 1);
    let mut keeping = enter(&world, lane_of(1), 2);
    world.room.slot_freed(lane_of(1));
    assert!(is_woken(&mut any) && !is_woken(&mut keeping));
    drop(any);
    assert!(is_woken(&mut keeping), "the slot is still free");
}

#[test]
fn the_room_has_a_limit_and_leaving_makes_room() {
    let world = World::new();
    let waiters: Vec<Waiter> = (0..LIMIT as u64).map(|n| enter(&world, POOL, n)).collect();
    assert_eq!(world.room.enter(POOL, AgentKey(99), world.now).err(), Some(RoomFull { limit: LIMIT }));
    drop(waiters);
    assert!(world.room.is_empty() && world.room.oldest().is_none());
    drop(enter(&world, POOL, 99));
}

#[test]
fn a_caller_that_was_woken_still_counts_as_demand() {
    let world = World::new();
    let mut waiter = enter(&world, POOL, 1);
    world.room.wake_all();
    assert!(is_woken(&mut waiter));
    assert_eq!(world.room.waiting_in(POOL), 1);
}
