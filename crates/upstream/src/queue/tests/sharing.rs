//! Shares of the queue and of its turns: per identity, per agent, and the last permits.

use super::*;

fn of(principal: &str, agent: u64, bytes: usize) -> Entry {
    Entry { principal: Arc::new(Identity::new(IdentityKind::Key, principal)), agent: AgentKey(agent), bytes }
}

fn sit(queue: &Arc<Queue>, world: &World, lane: Lane, entry: Entry) -> Waiter {
    queue.enter(lane, entry, world.now).expect("there is room")
}

fn is_displaced(waiter: &mut Waiter) -> bool {
    waiter.woken().now_or_never() == Some(Err(Displaced))
}

#[test]
fn a_principal_with_a_thousand_agents_does_not_starve_one_with_one() {
    let (world, queue) = (World::new(), Queue::new(QueueLimits { calls: 2_000, bytes: 1 << 20 }));
    let mut many: Vec<Waiter> = (0..1_000).map(|n| sit(&queue, &world, POOL, of("many", n, 1))).collect();
    let mut single: Vec<Waiter> = (0..3).map(|_| sit(&queue, &world, POOL, of("one", 5_000, 1))).collect();
    let mut turns = Vec::new();
    for _ in 0..8 {
        queue.permit_freed(freed(1), None);
        let woken = |all: &mut Vec<Waiter>| {
            let at = all.iter_mut().position(is_woken);
            at.map(|at| all.remove(at).served(world.now)).is_some()
        };
        turns.push((woken(&mut many), woken(&mut single)));
        // Who was served let the next one look, for whom there is nothing.
        for waiter in many.iter_mut().chain(&mut single) {
            if is_woken(waiter) {
                waiter.back_to(POOL);
            }
        }
    }
    let served = |pick: fn(&(bool, bool)) -> bool| turns.iter().filter(|turn| pick(turn)).count();
    assert_eq!(served(|turn| turn.1), 3, "all of the one's within eight turns: {turns:?}");
    assert!(turns[..2].iter().any(|turn| turn.1), "{turns:?}");
    assert!(served(|turn| turn.0) >= 5, "{turns:?}");
}

#[test]
fn within_a_principal_the_agents_take_turns() {
    let (world, queue) = (World::new(), Queue::new(QueueLimits { calls: 100, bytes: 1 << 20 }));
    let mut greedy: Vec<Waiter> = (0..50).map(|_| sit(&queue, &world, POOL, of("a", 1, 1))).collect();
    let mut others: Vec<Waiter> = (2..6).map(|n| sit(&queue, &world, POOL, of("a", n, 1))).collect();
    for _ in 0..5 {
        queue.permit_freed(freed(1), None);
    }
    let woken = |all: &mut Vec<Waiter>| all.iter_mut().filter_map(|w| is_woken(w).then_some(())).count();
    assert_eq!((woken(&mut greedy), woken(&mut others)), (1, 4));
}

#[test]
fn a_full_room_is_shared_by_taking_the_latest_of_the_heaviest() {
    let (world, queue) = (World::new(), Queue::new(QueueLimits { calls: 4, bytes: 1 << 20 }));
    let mut greedy: Vec<Waiter> = (0..4).map(|_| sit(&queue, &world, POOL, of("a", 1, 1))).collect();
    let second = sit(&queue, &world, POOL, of("a", 2, 1));
    assert!(is_displaced(&mut greedy[3]), "the latest of the agent with the most");
    assert_eq!(queue.waiting(), 4, "counted no more, though it has not left yet");
    let other = sit(&queue, &world, POOL, of("b", 3, 1));
    assert!(is_displaced(&mut greedy[2]) && !is_woken(&mut greedy[1]));
    // The greedy agent itself takes nothing from anybody.
    assert!(queue.enter(POOL, of("a", 1, 1), world.now).is_err());
    drop((greedy, second, other));
    assert!(queue.is_empty() && queue.lock().usage.is_empty() && queue.lock().lanes.is_empty());
}

#[test]
fn the_bytes_of_calls_that_wait_are_bounded_and_shared() {
    let (world, queue) = (World::new(), Queue::new(QueueLimits { calls: 100, bytes: 1_000 }));
    let mut large: Vec<Waiter> = (0..3).map(|_| sit(&queue, &world, POOL, of("a", 1, 300))).collect();
    let full = queue.enter(POOL, of("a", 1, 300), world.now).err().map(|full| full.of);
    assert_eq!(full, Some(QueueLimit::Bytes(1_000)));
    // Larger than all that is there: it is not worth three of others.
    assert!(queue.enter(POOL, of("a", 2, 1_001), world.now).is_err());
    let small = sit(&queue, &world, POOL, of("a", 2, 200));
    assert!(is_displaced(&mut large[2]) && !is_woken(&mut large[1]));
    assert_eq!(queue.status(world.now).bytes, 800);
    drop((large, small));
    assert_eq!(queue.status(world.now).bytes, 0);
}

#[test]
fn who_is_sent_away_while_it_tries_passes_its_turn_on() {
    let (world, queue) = (World::new(), Queue::new(QueueLimits { calls: 2, bytes: 1 << 20 }));
    let mut first = sit(&queue, &world, lane_of(1), of("a", 1, 1));
    let mut latest = sit(&queue, &world, lane_of(1), of("a", 1, 1));
    queue.wake_all();
    assert!(is_woken(&mut first) && is_woken(&mut latest));
    first.back_to(lane_of(1));
    latest.back_to(lane_of(1));
    let newcomer = sit(&queue, &world, lane_of(1), of("a", 2, 1));
    drop(latest);
    assert!(is_woken(&mut first), "the permit it was called for is still free");
    drop(newcomer);
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn the_last_slots_are_for_agents_with_nothing_in_flight() {
    let world = World::new();
    let mut busy = enter(&world, open_lane(1), 2);
    let mut idle = enter(&world, lane_of(1), 4);
    let kept = Freed { open: false, ..freed(1) };
    world.queue.permit_freed(kept, None);
    assert!(!is_woken(&mut busy) && is_woken(&mut idle));
    drop(idle);
    assert!(!is_woken(&mut busy), "what is passed on is still one of the last");
    world.queue.permit_freed(kept, Some((&principal_of(2), AgentKey(2))));
    assert!(is_woken(&mut busy), "its last call has ended");
}

#[test]
fn who_is_refused_is_told_when_there_is_a_place_each_another_time() {
    let (mut world, queue) = (World::new(), Queue::new(QueueLimits { calls: 10, bytes: 1 << 20 }));
    let mut all: Vec<Waiter> = (0..10).map(|_| sit(&queue, &world, POOL, of("a", 1, 1))).collect();
    // One is served every 100 ms, and another comes at once.
    for _ in 0..100 {
        world.now += Duration::from_millis(100);
        queue.permit_freed(freed(1), None);
        let mut next = all.remove(0);
        assert!(is_woken(&mut next));
        next.back_to(POOL);
        next.served(world.now);
        for waiter in all.iter_mut().filter_map(|waiter| is_woken(waiter).then_some(waiter)) {
            waiter.back_to(POOL);
        }
        all.push(sit(&queue, &world, POOL, of("a", 1, 1)));
    }
    let told = || queue.enter(POOL, of("a", 1, 1), world.now).err().map(|full| full.retry_after);
    let told: Vec<f64> = (0..5).map(|_| told().expect("full").as_secs_f64()).collect();
    let expected = [0.1, 0.2, 0.3, 0.4, 0.5];
    assert!(told.iter().zip(expected).all(|(told, expected)| (told - expected).abs() < 0.02), "{told:?}");
    let whole = queue.turn_after(world.now).as_secs_f64();
    assert!((0.95..1.05).contains(&whole), "{whole}");
}
