//! The queue against a model of sessions, permits and callers that come, try and leave in any order. The subtle
//! property is liveness: once everybody who was woken has tried, nobody may wait for whom there is a free permit. The
//! last permit of a session that has several is for agents with nothing in flight on it.

mod sharing;

use std::collections::HashMap;

use futures::FutureExt as _;
use mcpool_wire::IdentityKind;
use proptest::prelude::*;

use super::*;

const POOL: Lane = Lane { pool: 1, session: None, need: Need::Permit };
const LIMIT: usize = 12;
const LIMITS: QueueLimits = QueueLimits { calls: LIMIT, bytes: 1 << 20 };

fn lane_of(epoch: u64) -> Lane {
    Lane { pool: 1, session: Some(epoch), need: Need::Permit }
}

fn open_lane(epoch: u64) -> Lane {
    lane_of(epoch).needing(Need::OpenPermit)
}

fn write_lane(epoch: u64) -> Lane {
    lane_of(epoch).needing(Need::WriteTurn)
}

/// Two principals, each with every other agent.
fn principal_of(agent: u64) -> Arc<Identity> {
    if agent.is_multiple_of(2) {
        Identity::anonymous()
    } else {
        Arc::new(Identity::new(IdentityKind::Key, "ada"))
    }
}

fn entry(agent: u64) -> Entry {
    Entry { principal: principal_of(agent), agent: AgentKey(agent), bytes: 100 }
}

/// A permit of this session, where more are free than are kept.
fn freed(epoch: u64) -> Freed {
    Freed { lane: lane_of(epoch), turn: false, open: true }
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
    queue: Arc<Queue>,
    now: Instant,
    sessions: Vec<Slots>,
    epochs: u64,
    /// The session each agent keeps to.
    bound: HashMap<u64, u64>,
    waiters: Vec<(Caller, Waiter)>,
    /// Who calls, and the epoch, of each call in flight.
    leases: Vec<(Caller, u64)>,
    /// How many were sent away.
    displaced: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slots {
    epoch: u64,
    free: usize,
    limit: usize,
}

impl Slots {
    fn new(epoch: u64, limit: usize) -> Self {
        Self { epoch, free: limit, limit }
    }

    fn kept(self) -> usize {
        usize::from(self.limit > 1)
    }
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
            queue: Queue::new(LIMITS),
            now,
            sessions: vec![Slots::new(1, 3), Slots::new(2, 1)],
            epochs: 2,
            bound: HashMap::new(),
            waiters: Vec::new(),
            leases: Vec::new(),
            displaced: 0,
        }
    }

    /// What a binding does: a permit on the agent's session, or on any if it keeps to none.
    fn lease(&mut self, caller: Caller) -> Result<u64, Lane> {
        let Caller { agent, writes } = caller;
        let epoch = match self.bound.get(&agent) {
            Some(epoch) => *epoch,
            // Agents prefer different sessions; a writer the one it can write on now.
            None => {
                let free =
                    self.sessions.iter().filter(|permits| permits.free > 0).map(|permits| permits.epoch);
                let taken = |epoch: &u64| writes && self.is_writing(*epoch);
                free.max_by_key(|epoch| (!taken(epoch), (agent ^ epoch) % 3)).ok_or(POOL)?
            }
        };
        self.bound.insert(agent, epoch);
        let is_busy = self.is_busy(agent, epoch);
        if writes && self.is_writing(epoch) {
            return Err(write_lane(epoch));
        }
        let permits = self.sessions.iter_mut().find(|permits| permits.epoch == epoch);
        let permits = permits.filter(|permits| permits.free > if is_busy { permits.kept() } else { 0 });
        let Some(permits) = permits else {
            let is_kept =
                is_busy && self.sessions.iter().any(|permits| permits.epoch == epoch && permits.kept() > 0);
            return Err(if is_kept { open_lane(epoch) } else { lane_of(epoch) });
        };
        permits.free -= 1;
        self.leases.push((caller, epoch));
        Ok(epoch)
    }

    /// Whether the agent has a call in flight on this session.
    fn is_busy(&self, agent: u64, epoch: u64) -> bool {
        self.leases.iter().any(|(caller, on)| caller.agent == agent && *on == epoch)
    }

    fn is_writing(&self, epoch: u64) -> bool {
        self.leases.iter().any(|(caller, e)| caller.writes && *e == epoch)
    }

    fn enter(&mut self, caller: Caller) {
        let kept =
            |epoch: u64| self.sessions.iter().any(|permits| permits.epoch == epoch && permits.kept() > 0);
        let lane = self.bound.get(&caller.agent).map_or(POOL, |epoch| {
            if self.is_busy(caller.agent, *epoch) && kept(*epoch) {
                open_lane(*epoch)
            } else {
                lane_of(*epoch)
            }
        });
        let before = self.queue.waiting();
        match self.queue.enter(lane, entry(caller.agent), self.now) {
            Ok(waiter) if waiter.is_first() => self.attempt(caller, waiter),
            Ok(waiter) => self.waiters.push((caller, waiter)),
            Err(full) => {
                assert_eq!(full.of, QueueLimit::Calls(LIMIT));
                assert!(before >= LIMIT, "refused although there was room");
            }
        }
        // Those who were served before may be more; newcomers do not make it more.
        assert!(self.queue.waiting() <= before.max(LIMIT), "the bound holds");
    }

    fn come_back(&mut self, caller: Caller) {
        let lane = self.bound.get(&caller.agent).map_or(POOL, |epoch| lane_of(*epoch));
        let waiter = self.queue.come_back(lane, entry(caller.agent), self.now);
        self.attempt(caller, waiter);
    }

    fn attempt(&mut self, caller: Caller, mut waiter: Waiter) {
        loop {
            match self.lease(caller) {
                Ok(_) => return waiter.served(self.now),
                Err(lane) if lane == waiter.lane() => return self.waiters.push((caller, waiter)),
                Err(lane) => waiter.back_to(lane),
            }
        }
    }

    /// Lets one waiter look whether it was woken; true if it was.
    fn poll(&mut self, index: usize) -> bool {
        let (caller, mut waiter) = self.waiters.remove(index);
        match waiter.woken().now_or_never() {
            None => {
                self.waiters.insert(index, (caller, waiter));
                return false;
            }
            Some(Err(Displaced)) => {
                self.displaced += 1;
                return true;
            }
            Some(Ok(())) => {}
        }
        let lane = waiter.lane();
        waiter.back_to(lane);
        self.attempt(caller, waiter);
        true
    }

    fn finish(&mut self, index: usize) {
        let (caller, epoch) = self.leases.remove(index);
        let is_idle = !self.is_busy(caller.agent, epoch);
        if let Some(permits) = self.sessions.iter_mut().find(|permits| permits.epoch == epoch) {
            permits.free += 1;
            let freed =
                Freed { lane: lane_of(epoch), turn: caller.writes, open: permits.free > permits.kept() };
            let Entry { principal, agent, .. } = entry(caller.agent);
            self.queue.permit_freed(freed, (is_idle && permits.kept() > 0).then_some((&principal, agent)));
        }
    }

    fn replace(&mut self, index: usize) {
        let old = self.sessions.remove(index).epoch;
        self.bound.retain(|_, epoch| *epoch != old);
        self.queue.session_gone(lane_of(old));
        self.epochs += 1;
        self.sessions.push(Slots::new(self.epochs, 2));
        self.queue.session_ready(lane_of(self.epochs), 2);
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
            Op::WakeAll => self.queue.wake_all(),
        }
        assert!(self.queue.waiting() <= self.waiters.len(), "the count includes only entries that wait");
    }

    fn come_to_rest(&mut self) {
        let mut quiet = 0;
        for _ in 0..10_000 {
            let somebody_was_woken = (0..self.waiters.len()).any(|index| self.poll(index));
            quiet = if somebody_was_woken { 0 } else { quiet + 1 };
            // Who goes on waiting after a turn for nothing may wake one who was asked before it.
            if quiet == 2 {
                assert_eq!(self.queue.waiting(), self.waiters.len(), "the count is exact");
                return;
            }
        }
        panic!("callers wake each other for ever");
    }

    fn assert_nobody_waits_in_vain(&self) {
        for (caller, waiter) in &self.waiters {
            let usable = |permits: &&Slots| {
                let bound = self.bound.get(&caller.agent).is_none_or(|bound| *bound == permits.epoch);
                let kept = if self.is_busy(caller.agent, permits.epoch) { permits.kept() } else { 0 };
                bound && permits.free > kept && !(caller.writes && self.is_writing(permits.epoch))
            };
            let free = self.sessions.iter().find(usable);
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
        prop_assert_eq!(world.queue.waiting(), 0);
        let inner = world.queue.lock();
        prop_assert!(inner.lanes.is_empty() && inner.usage.is_empty(), "nothing is kept of those who left");
    }
}

fn enter(world: &World, lane: Lane, agent: u64) -> Waiter {
    world.queue.enter(lane, entry(agent), world.now).expect("there is room")
}

fn is_woken(waiter: &mut Waiter) -> bool {
    waiter.woken().now_or_never().is_some_and(|woken| woken.is_ok())
}

#[test]
fn who_waits_to_write_has_the_freed_turn_before_who_waits_for_a_slot() {
    let world = World::new();
    let turn = write_lane(1);
    let mut reading = enter(&world, lane_of(1), 1);
    let mut writing = [enter(&world, turn, 2), enter(&world, turn, 3)];
    world.queue.permit_freed(Freed { turn: true, ..freed(1) }, None);
    assert!(is_woken(&mut writing[0]) && !is_woken(&mut reading) && !is_woken(&mut writing[1]));
    let [first, mut second] = writing;
    drop(first);
    assert!(is_woken(&mut second), "the turn of one who leaves is the next one's");
    drop(second);
    assert!(is_woken(&mut reading), "the permit is still free");
}

#[test]
fn who_leaves_with_a_turn_for_what_is_gone_lets_those_behind_look() {
    let world = World::new();
    let mut bound = enter(&world, lane_of(2), 1);
    let first = enter(&world, POOL, 2);
    let mut behind = enter(&world, POOL, 4);
    // The agent that keeps to the session is called up for the first permit, the one of the pool for the second.
    world.queue.permit_freed(freed(2), None);
    assert!(is_woken(&mut bound));
    world.queue.permit_freed(freed(2), None);
    bound.back_to(lane_of(2));
    drop(first);
    assert!(is_woken(&mut behind), "another session may have a permit");
}

#[test]
fn an_agent_with_many_calls_does_not_starve_one_with_a_single_call() {
    let world = World::new();
    let mut many: Vec<Waiter> = (0..10).map(|_| enter(&world, POOL, 1)).collect();
    let mut single = enter(&world, POOL, 2);
    world.queue.permit_freed(freed(1), None);
    world.queue.permit_freed(freed(1), None);
    assert!(is_woken(&mut many[0]) && !is_woken(&mut many[1]), "the first call of the first agent");
    assert!(is_woken(&mut single), "then the other agent's turn");
}

#[test]
fn who_was_being_served_goes_before_newcomers_and_agents_take_turns_there_as_well() {
    let world = World::new();
    let mut waiting = vec![("1 new", enter(&world, POOL, 1)), ("3 new", enter(&world, POOL, 3))];
    for (name, agent) in [("1 first", 1), ("1 second", 1), ("1 third", 1), ("2", 2)] {
        waiting.push((name, world.queue.come_back(POOL, entry(agent), world.now)));
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        world.queue.permit_freed(freed(1), None);
        let next = waiting.iter_mut().position(|(_, waiter)| is_woken(waiter)).expect("one is woken");
        let (name, waiter) = waiting.remove(next);
        order.push(name);
        waiter.served(world.now);
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
    let mut back = world.queue.come_back(POOL, entry(99), world.now);
    world.queue.permit_freed(freed(1), None);
    assert!(is_woken(&mut back));
}

#[test]
fn who_waits_for_a_session_and_who_waits_for_any_take_turns() {
    let world = World::new();
    // Of one principal, as all are that share a session.
    let mut keeping: Vec<Waiter> = (0..4).map(|n| enter(&world, lane_of(1), 2 * n)).collect();
    let mut any: Vec<Waiter> = (10..14).map(|n| enter(&world, POOL, 2 * n)).collect();
    for _ in 0..6 {
        world.queue.permit_freed(freed(1), None);
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
    world.queue.permit_freed(freed(1), None);
    assert!(is_woken(&mut first));
    first.back_to(POOL);
    world.queue.permit_freed(freed(1), None);
    assert!(is_woken(&mut first), "it is first again, not last");
    assert!(!is_woken(&mut second));
}

#[test]
fn a_turn_of_one_who_leaves_goes_to_those_who_keep_to_the_session() {
    let world = World::new();
    let mut any = enter(&world, POOL, 1);
    let mut keeping = enter(&world, lane_of(1), 2);
    world.queue.permit_freed(freed(1), None);
    assert!(is_woken(&mut any) && !is_woken(&mut keeping));
    drop(any);
    assert!(is_woken(&mut keeping), "the permit is still free");
}

#[test]
fn the_room_has_a_limit_and_leaving_makes_room() {
    let world = World::new();
    let waiters: Vec<Waiter> = (0..LIMIT as u64).map(|n| enter(&world, POOL, n)).collect();
    let full = world.queue.enter(POOL, entry(99), world.now).err().map(|full| full.of);
    assert_eq!(full, Some(QueueLimit::Calls(LIMIT)), "nobody has more than it would have");
    assert_eq!(world.queue.status(world.now).bytes, 100 * LIMIT);
    drop(waiters);
    assert!(world.queue.is_empty() && world.queue.status(world.now).oldest.is_none());
    drop(enter(&world, POOL, 99));
}

#[test]
fn a_caller_that_was_woken_still_counts_as_demand() {
    let world = World::new();
    let mut waiter = enter(&world, POOL, 1);
    world.queue.wake_all();
    assert!(is_woken(&mut waiter));
    assert_eq!(world.queue.waiting_in(POOL), 1);
}

#[test]
fn a_call_does_not_wait_behind_one_that_was_rejected_and_has_not_left_yet() {
    let world = World::new();
    // Agent 1 fills the queue; its latest call waits alone for session 2.
    let waiting: Vec<Waiter> = (1..LIMIT).map(|_| enter(&world, POOL, 1)).collect();
    let mut rejected = enter(&world, lane_of(2), 1);
    let other = enter(&world, POOL, 2);
    let next = enter(&world, lane_of(2), 3);
    assert!(next.is_first(), "session 2 may have a free permit, and no call waits for it");
    assert_eq!(rejected.woken().now_or_never(), Some(Err(Displaced)));
    drop((waiting, rejected, other, next));
    assert_eq!(world.queue.waiting(), 0);
    assert!(world.queue.lock().lanes.is_empty());
}
