//! Who is served when there is more to do than a backend can take: agents beside one that floods the gateway (F13),
//! agents that call from inside a call (F14), callers that are refused and come back when they were told to, and
//! cancelled calls that still burn (F12). All under a paused clock, so that times are exact.

mod nested;
mod retrying;

use std::time::Duration;

use mcpool_upstream::{Limits, ModeChoice, Times};
use mcpool_wire::{Answer, CallError, ErrorKind};
use serde_json::json;

use crate::lab::{Agent, Lab, Wish, now};

/// One session with so many slots.
fn one_session(calls_per_session: usize) -> Wish {
    let limits = Limits { min_idle: 1, shared_sessions: 1, calls_per_session, ..Limits::default() };
    Wish { mode: ModeChoice::Shared, limits, ..Wish::default() }
}

async fn agents(lab: &Lab, numbers: std::ops::Range<u64>) -> Vec<Agent> {
    let mut agents = Vec::new();
    for number in numbers {
        agents.push(lab.agent(number).await);
    }
    agents
}

fn is_overload(outcome: &Result<Answer, CallError>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind == ErrorKind::Overloaded && error.retry_after.is_some())
}

const OTHERS: u64 = 99;
const ROUNDS: usize = 5;

/// The 99th percentile of agents that call once a second, a hundredth of a second apart.
async fn p99_of_others(others: &[Agent]) -> Duration {
    let runs = others.iter().zip(0_u32..).map(|(agent, n)| async move {
        tokio::time::sleep(Duration::from_millis(10) * n).await;
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let start = now();
            agent.run("echo", &json!({"ms": 20})).await.expect("an answer");
            took.push(now() - start);
            tokio::time::sleep_until((start + Duration::from_secs(1)).into()).await;
        }
        took
    });
    let mut took: Vec<Duration> = futures::future::join_all(runs).await.into_iter().flatten().collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// F13 with a room for so many: what the flood got, answered and refused.
async fn flooded(queue: usize) -> (usize, usize) {
    let mut wish = one_session(32);
    wish.limits.queue = queue;
    let lab = Lab::scripted(wish);
    let others = agents(&lab, 1..1 + OTHERS).await;
    let greedy = lab.agent(1_000).await;
    let quiet = p99_of_others(&others).await;
    let arguments = json!({"ms": 20});
    let flood = (0..5_000).map(|_| greedy.run("echo", &arguments));
    let (loaded, flood) = tokio::join!(p99_of_others(&others), futures::future::join_all(flood));
    assert!(loaded < 2 * quiet, "{loaded:?} beside the flood, {quiet:?} without it");
    let answered = flood.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = flood.iter().filter(|outcome| is_overload(outcome)).count();
    assert_eq!(answered + refused, 5_000, "nothing else becomes of a call");
    assert_eq!(refused, lab.seen.count("rejected_full") + lab.seen.count("rejected_displaced"));
    // Calls that did not wait are in the histogram of waits too.
    assert_eq!(lab.seen.count("leased"), answered + 2 * others.len() * ROUNDS);
    lab.until("rest", |lab| (lab.held().in_flight, lab.held().waiting) == (0, 0)).await;
    (answered, refused)
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_fills_the_room_delays_nobody_else() {
    let (answered, refused) = flooded(1_024).await;
    assert!((900..1_100).contains(&answered), "{answered} answered, {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn a_flood_for_which_there_is_room_delays_nobody_else() {
    assert_eq!(flooded(8_192).await, (5_000, 0));
}

#[tokio::test(start_paused = true)]
async fn the_bytes_that_wait_are_bounded_and_shown() {
    let mut wish = one_session(1);
    wish.limits.queue_bytes = 4 << 10;
    let lab = Lab::scripted(wish);
    let [large, small] = [lab.agent(1).await, lab.agent(2).await];
    let arguments = json!({"ms": 50, "text": "x".repeat(1_000)});
    let calls = futures::future::join_all((0..8).map(|_| large.run("echo", &arguments)));
    let looks = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let waiting = lab.registered.backend.status().waiting;
        assert!(waiting.calls == 3 && (3_000..4_096).contains(&waiting.bytes), "{waiting:?}");
        assert_eq!(waiting.oldest, Some(Duration::from_millis(10)));
        small.run("echo", &json!({"text": "y".repeat(1_000)})).await
    };
    let (outcomes, small) = tokio::join!(calls, looks);
    small.expect("an agent with nothing there has its part of the room");
    let refused = outcomes.iter().filter(|outcome| is_overload(outcome)).count();
    assert_eq!((refused, lab.seen.count("rejected_bytes"), lab.seen.count("rejected_displaced")), (5, 4, 1));
    assert_eq!(lab.registered.backend.status().waiting.bytes, 0);
}

/// Starts a call and drops it once it was sent.
async fn cancelled(agent: &Agent, ms: u64) {
    let arguments = json!({"ms": ms});
    let call = agent.run("echo", &arguments);
    assert!(tokio::time::timeout(Duration::ZERO, call).await.is_err(), "it is not answered at once");
}

#[tokio::test(start_paused = true)]
async fn more_than_a_quarter_of_zombies_puts_a_session_out_of_use() {
    for (cancels, is_replaced) in [(8, false), (9, true)] {
        let lab = Lab::scripted(one_session(32));
        let agents = agents(&lab, 1..10).await;
        for agent in agents.iter().take(cancels) {
            cancelled(agent, 300).await;
        }
        assert_eq!(lab.held().in_flight, cancels, "a cancelled call keeps its slot");
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(lab.standings().contains(&"draining"), is_replaced, "{cancels} zombies");
        agents[0].run("echo", &json!({})).await.expect("served all the same");
        lab.until("the late answers free the slots", |lab| lab.held().in_flight == 0).await;
        assert_eq!(lab.memory.sessions().len(), 1 + usize::from(is_replaced));
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cancels_a_second_leave_no_slot_stuck() {
    let mut wish = one_session(32);
    wish.limits.shared_sessions = 4;
    wish.times = Times { cancel_grace: Duration::from_secs(2), ..Times::default() };
    let lab = Lab::scripted(wish);
    let agents = agents(&lab, 0..50).await;
    let (late, soon) = (json!({"ms": 300}), json!({"ms": 10}));
    for n in 0..10_000_usize {
        // One in ten is never answered; the others late.
        let tool = if n % 10 == 0 { "hang" } else { "echo" };
        let call = agents[n % 50].run(tool, &late);
        let _ = tokio::time::timeout(Duration::ZERO, call).await;
        if n % 10 == 9 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let start = now();
    agents[0].run("echo", &json!({})).await.expect("served after it");
    assert!(now() - start < Duration::from_secs(3), "{:?}", now() - start);
    lab.until("rest", |lab| {
        let held = lab.held();
        (held.in_flight, held.waiting) == (0, 0)
    })
    .await;
    let violations = lab.seen.lines().iter().filter(|line| line.contains("Violation")).count();
    assert!(violations > 0, "none was put out of use");
    // Every slot of the sessions that are left can be had.
    let all = futures::future::join_all(agents.iter().map(|agent| agent.run("echo", &soon)));
    assert!(all.await.iter().all(Result::is_ok));
}
