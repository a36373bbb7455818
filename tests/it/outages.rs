//! A backend that goes away and comes back, on a paused clock: when it is probed, how soon calls flow again, and how
//! those who waited come back (RELIABILITY.md F1, F6, F7, F8). `sockets` has the same over real ones.

mod sockets;
mod told;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use mcpool_breaker::Settings;
use mcpool_upstream::{
    Cause, Limits,
    transport::memory::{Memory, Turn},
};
use mcpool_wire::{ErrorKind, Executed, Link as _, Method};
use serde_json::json;

use crate::lab::{Agent, Lab, Wish, broken, connect_refused, now, refused};

/// A backend whose every call takes this long, and that remembers when each began.
fn steady(takes: Duration) -> (Memory, Arc<Mutex<Vec<Instant>>>) {
    let begun: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = begun.clone();
    let memory = Memory::new(move |turn: Turn| {
        let is_call = turn.method() == Some(Method::ToolsCall);
        if is_call {
            noted.lock().expect("not poisoned").push(now());
        }
        async move {
            if is_call {
                tokio::time::sleep(takes).await;
            }
            turn.reply().into_iter().collect::<Vec<Bytes>>()
        }
    });
    (memory, begun)
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits { min_idle: 1, ..Limits::default() };
    change(&mut limits);
    limits
}

fn state(lab: &Lab) -> &'static str {
    lab.registered.breaker.snapshot(now()).state.as_str()
}

fn attempts(lab: &Lab) -> usize {
    lab.seen.count("opening")
}

fn goes_down(lab: &Lab) {
    lab.memory.goes_down(&connect_refused());
    lab.memory.sessions().iter().for_each(|session| session.fail(broken()));
}

async fn agents(lab: &Lab, count: u64) -> Vec<Agent> {
    join_all((0..count).map(|number| lab.agent(number))).await
}

#[tokio::test(start_paused = true)]
async fn one_crash_with_a_hundred_calls_in_flight_is_one_incident() {
    for (sessions, calls) in [(1, 100), (4, 25)] {
        let limits =
            limits(|l| (l.shared_sessions, l.calls_per_session, l.min_idle) = (sessions, calls, sessions));
        let lab = Lab::scripted(Wish { limits, ..Wish::default() });
        let agents = agents(&lab, 100).await;
        lab.until("its sessions", |lab| lab.standings().len() == sessions).await;
        let arguments = json!({"ms": 200});
        let calls = agents.iter().enumerate().map(|(n, agent)| {
            let tool = if n % 2 == 0 { "echo" } else { "write" };
            agent.run(tool, &arguments).map(move |outcome| (tool, outcome))
        });
        let crash = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(lab.held().in_flight, 100);
            let at = now();
            for session in lab.memory.sessions() {
                session.fail(broken());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            at
        };
        let lost = async { join_all(calls).await };
        let (outcomes, _) = tokio::join!(lost, crash);
        for (tool, outcome) in outcomes {
            match (tool, outcome) {
                ("echo", outcome) => drop(outcome.expect("it is safe, and runs again")),
                (_, outcome) => {
                    let error = outcome.expect_err("it may have run");
                    assert_eq!((error.kind, error.executed), (ErrorKind::Lost, Executed::Maybe));
                }
            }
        }
        let snapshot = lab.registered.breaker.snapshot(now());
        assert_eq!(snapshot.incidents, [("broken", 1)], "over {sessions} sessions");
        assert_eq!(snapshot.state.as_str(), "closed");
        assert_eq!(lab.seen.count("closed_by_incident"), sessions, "and each is told in the log");
    }
}

/// Over Streamable HTTP a crash is seen as connections that break and a backend that knows nobody any more.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_once_its_connections_broke_is_one_incident() {
    let (break_one, forget) = (broken(), refused(Cause::SessionLost));
    let none = json!({});
    for (errors, is_heard_between, incidents) in [
        (vec![&break_one, &forget], false, 1),
        // A connection that breaks by itself, and a session that ends by itself, are none.
        (vec![&forget], false, 0),
        (vec![&break_one, &forget], true, 0),
    ] {
        let limits = limits(|l| (l.shared_sessions, l.min_idle) = (1, 0));
        let lab = Lab::scripted_in_exchange(Wish { limits, ..Wish::default() });
        let agent = lab.agent(1).await;
        agent.run("echo", &none).await.expect("served");
        for error in errors {
            lab.memory.last().refuse(1, error);
            if is_heard_between {
                agent.run("echo", &none).await.expect("it is safe, and runs again");
            }
        }
        agent.run("echo", &none).await.expect("it is safe, and runs again");
        lab.until("the next session", |lab| lab.memory.sessions().len() == 2).await;
        let counted: u64 =
            lab.registered.breaker.snapshot(now()).incidents.iter().map(|(_, times)| *times).sum();
        assert_eq!(counted, incidents, "{:?}", lab.seen.lines());
        assert_eq!(lab.seen.count("closed_by_incident"), usize::from(incidents > 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_at_the_edge_give_one_probe_and_none_before_its_time() {
    let breaker = Settings { early_probe: false, hold: Duration::ZERO, ..Settings::default() };
    let lab = Lab::scripted(Wish { breaker, limits: limits(|_| ()), ..Wish::default() });
    let agents = agents(&lab, 1000).await;
    goes_down(&lab);
    lab.until("the trip", |lab| state(lab) == "open").await;
    let tripped = now();
    let before = attempts(&lab);
    let ask = async |at: Duration, what: &str, probes: usize| {
        tokio::time::sleep_until((tripped + at).into()).await;
        let none = json!({});
        let asked = now();
        for outcome in join_all(agents.iter().map(|agent| agent.run("write", &none))).await {
            assert_eq!(outcome.expect_err(what).kind, ErrorKind::CircuitOpen, "{what}");
        }
        assert!(now() - asked < Duration::from_millis(1), "{what}: nobody waited");
        // The opener has its turn.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(attempts(&lab) - before, probes, "{what}");
    };
    ask(Duration::from_millis(59_900), "just before", 0).await;
    ask(Duration::from_secs(60), "at the edge", 1).await;
    assert_eq!(state(&lab), "open", "the probe failed");
    ask(Duration::from_millis(119_900), "before the second", 1).await;
    lab.memory.is_back();
    tokio::time::sleep_until((tripped + Duration::from_millis(120_100)).into()).await;
    assert_eq!((state(&lab), attempts(&lab) - before), ("closed", 2));
    let none = json!({});
    let all = join_all(agents.iter().map(|agent| agent.run("write", &none))).await;
    assert!(all.into_iter().all(|outcome| outcome.is_ok()), "closed");
}

#[tokio::test(start_paused = true)]
async fn a_backend_down_for_three_seconds_is_back_in_full_within_one_and_few_connects() {
    let (memory, begun) = steady(Duration::from_millis(10));
    let limits = limits(|l| l.queue = 4096);
    let lab = Lab::start(memory, Wish { limits, ..Wish::default() });
    let agents = agents(&lab, 50).await;
    let (down, back) = (Duration::from_secs(1), Duration::from_secs(4));
    let start = now();
    let mut connects = 0;
    let arguments = json!({});
    let mut calls = FuturesUnordered::new();
    // 500 calls a second for seven seconds.
    for n in 0..3_500_u32 {
        let at = Duration::from_millis(2) * n;
        let agent = &agents[n as usize % agents.len()];
        let arguments = &arguments;
        calls.push(async move {
            tokio::time::sleep_until((start + at).into()).await;
            let outcome = agent.run("echo", arguments).await;
            (at, now() - start, outcome)
        });
    }
    let outage = async {
        tokio::time::sleep_until((start + down).into()).await;
        let before = attempts(&lab);
        goes_down(&lab);
        tokio::time::sleep_until((start + back).into()).await;
        connects = attempts(&lab) - before;
        lab.memory.is_back();
    };
    let all = async { (&mut calls).collect::<Vec<_>>().await };
    let (outcomes, ()) = tokio::join!(all, outage);
    let full = back + Duration::from_secs(1);
    for (called, ended, outcome) in outcomes {
        outcome.unwrap_or_else(|error| panic!("called at {called:?}: {error}"));
        let by = full.max(called + Duration::from_millis(20));
        assert!(ended <= by, "called at {called:?}, answered at {ended:?}");
    }
    assert!((2..=10).contains(&connects), "{connects} connects while it was down");
    assert_eq!(
        begun
            .lock()
            .expect("not poisoned")
            .iter()
            .filter(|at| {
                let at = **at - start;
                at > down && at < back
            })
            .count(),
        0,
        "nobody reaches what is down"
    );
}

/// Most moments within any such window.
fn densest(moments: &[Instant], window: Duration) -> usize {
    let within = |from: &Instant| moments.iter().filter(|at| **at >= *from && **at < *from + window).count();
    moments.iter().map(within).max().unwrap_or_default()
}

/// Calls until it is answered, coming back when told to.
async fn insists(agent: &Agent) -> Instant {
    loop {
        match agent.run("echo", &json!({})).await {
            Ok(_) => return now(),
            Err(error) => {
                assert_eq!(error.executed, Executed::No, "{error}");
                tokio::time::sleep(error.retry_after.unwrap_or(Duration::from_secs(1))).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_come_back_after_two_minutes_without_a_herd() {
    let takes = Duration::from_millis(50);
    let (memory, begun) = steady(takes);
    let (sessions, calls) = (2, 16);
    let limit = sessions * calls;
    let limits = limits(|l| (l.shared_sessions, l.calls_per_session) = (sessions, calls));
    let breaker = Settings { full_speed: 32, ..Settings::default() };
    let lab = Lab::start(memory, Wish { limits, breaker, ..Wish::default() });
    let agents = agents(&lab, 1000).await;
    goes_down(&lab);
    lab.until("the end of its session", |lab| lab.standings().is_empty()).await;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        lab.memory.is_back();
        let back = now();
        lab.until("the recovery", |lab| state(lab) == "closed").await;
        (back, now())
    };
    let (served, (back, recovered)) = tokio::join!(join_all(agents.iter().map(insists)), outage);
    let last = served.into_iter().max().expect("served") - recovered;
    assert!(last < Duration::from_secs(10), "the last was served {last:?} after the recovery");
    let begun: Vec<Instant> =
        begun.lock().expect("not poisoned").iter().copied().filter(|at| *at >= back).collect();
    assert_eq!(begun.len(), 1000, "and nothing ran twice");
    let (arrived, capacity) = (densest(&begun, takes), limit);
    assert!(arrived <= 2 * capacity, "{arrived} calls within the time of one, {capacity} are the limit");
    // Slow start: one call, then two, then eight; each round takes as long as a call.
    let first = begun[0];
    let by = |rounds: u32| begun.iter().filter(|at| **at < first + takes * rounds).count();
    assert!(by(1) == 1 && by(2) <= 3 && by(3) <= 11, "{} {} {}", by(1), by(2), by(3));
    println_figures(last, arrived, capacity);
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]
fn println_figures(last: Duration, arrived: usize, capacity: usize) {
    println!(
        "the last of 1,000 after {last:?}; at most {arrived} calls begun in the time of one, limit {capacity}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_call_that_hangs_after_a_recovery_does_not_hold_back_the_others() {
    let lab = Lab::scripted(Wish { limits: limits(|_| ()), ..Wish::default() });
    let agents = agents(&lab, 40).await;
    goes_down(&lab);
    lab.until("the trip", |lab| state(lab) == "open").await;
    lab.memory.is_back();
    lab.until("the recovery", |lab| state(lab) == "closed").await;
    let hangs = agents[0].link.call(agents[0].tool("hang", &json!({})));
    let others = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = now();
        let none = json!({});
        for outcome in join_all(agents[1..].iter().map(|agent| agent.run("write", &none))).await {
            outcome.expect("answered");
        }
        now() - start
    };
    tokio::pin!(hangs);
    let took = tokio::select! {
        _ = &mut hangs => panic!("it does not end"),
        took = others => took,
    };
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(lab.registered.breaker.snapshot(now()).rejected, 0, "nobody was rejected");
}
