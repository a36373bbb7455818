//! Sessions that are replaced while calls go on.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use mcpool_router::verbs::{Done, Verb};
use mcpool_upstream::{Limits, ModeChoice, SerialWrites};
use serde_json::json;

use super::wish;
use crate::lab::{Agent, Lab, Wish, connect_refused};

const RECONNECT: Verb = Verb::Reconnect { pinned: false };

fn epochs(lab: &Lab) -> BTreeSet<u64> {
    let sessions = lab.registered.backend.status().sessions;
    sessions.iter().filter(|s| s.standing == "ready").map(|s| s.epoch).collect()
}

/// Agents that call until told to stop; what the verb said, how many calls there were, and how many sessions before.
async fn under_load(lab: &Lab, agents: &[Agent], verb: Verb) -> (Done, usize, usize) {
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = join_all(agents.iter().map(async |agent| {
        while !stop.load(Ordering::Relaxed) {
            agent.run("write", &json!({"ms": 20})).await.expect("an answer");
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let operator = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = epochs(lab);
        let done = lab.perform(verb).await;
        if done.is_done {
            assert!(before.is_disjoint(&epochs(lab)), "every session is another one");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Relaxed);
        (done, before.len())
    };
    let (_, (done, before)) = futures::join!(load, operator);
    (done, calls.into_inner(), before)
}

async fn agents(lab: &Lab, many: u64) -> Vec<Agent> {
    join_all((1..=many).map(|number| lab.agent(number))).await
}

#[tokio::test(start_paused = true)]
async fn new_sessions_are_ready_before_old_ones_go() {
    let lab = Lab::scripted(wish(4, 4));
    lab.memory.delay_connects(Duration::from_millis(300));
    let (done, calls, before) = under_load(&lab, &agents(&lab, 16).await, RECONNECT).await;
    assert!(done.is_done && calls > 1_000, "{} {calls}", done.sentence);
    assert!(before > 1 && done.details["reconnect"]["done"] == before, "{before}: {}", done.details);
    assert_eq!((lab.memory.sessions().len(), lab.seen.count("closed_by_incident")), (2 * before, 0));
    // Never fewer than before: whoever opens the next one sees four that are ready.
    let lines = lab.seen.lines();
    let (mut ready, mut least) = (0_i32, i32::MAX);
    for line in lines.iter().skip_while(|line| !line.contains("reason: Reconnect")) {
        ready += i32::from(line.starts_with("Opened")) - i32::from(line.starts_with("Closed"));
        least = least.min(ready);
    }
    assert_eq!((least, ready), (0, 0), "a session went before its successor came: {lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_budget_is_not_exceeded() {
    let limits = Limits { max_sessions: 2, ..wish(2, 4).limits };
    let lab = Lab::scripted(Wish { limits, ..wish(2, 4) });
    lab.memory.delay_connects(Duration::from_millis(300));
    let (done, _, before) = under_load(&lab, &agents(&lab, 8).await, RECONNECT).await;
    assert!(done.is_done, "{}", done.sentence);
    assert_eq!((before, lab.memory.sessions().len()), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn where_writes_run_one_at_a_time_there_are_never_two_sessions() {
    let limits = Limits { serial_writes: SerialWrites::On, ..wish(1, 4).limits };
    let lab = Lab::scripted(Wish { limits, ..wish(1, 4) });
    let (done, ..) = under_load(&lab, &agents(&lab, 8).await, RECONNECT).await;
    assert!(done.is_done, "{}", done.sentence);
    let order: Vec<_> =
        lab.seen.lines().iter().filter_map(|l| l.split(' ').next().map(str::to_owned)).collect();
    let life = order.iter().filter(|word| *word == "Opening" || *word == "Closed" || *word == "Opened");
    assert_eq!(life.collect::<Vec<_>>(), ["Opening", "Opened", "Closed", "Opening", "Opened"]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_takes_no_new_session_keeps_its_old_ones() {
    let lab = Lab::scripted(wish(2, 4));
    let agents = agents(&lab, 8).await;
    agents[0].run("write", &json!({})).await.expect("an answer");
    lab.until("two sessions", |lab| !epochs(lab).is_empty()).await;
    let before = epochs(&lab);
    lab.memory.fail_connects(usize::from(u16::MAX), &connect_refused());
    let done = lab.perform(RECONNECT).await;
    assert!(!done.is_done && done.sentence.contains("connection refused"), "{}", done.sentence);
    assert_eq!(epochs(&lab), before);
    agents[0].run("write", &json!({})).await.expect("an answer");
}

#[tokio::test(start_paused = true)]
async fn an_agents_own_session_is_left_alone_unless_that_is_wanted() {
    let lab = Lab::scripted(Wish { mode: ModeChoice::Auto, ..wish(2, 4) });
    let neutral = agents(&lab, 4).await;
    let own = lab.try_agent(99, None, json!({"roots": {}})).await.expect("a link");
    own.run("write", &json!({})).await.expect("an answer");
    let pinned = |lab: &Lab| {
        let sessions = lab.registered.backend.status().sessions;
        sessions.iter().filter(|s| s.mode.as_str() == "pinned").map(|s| s.epoch).collect::<Vec<_>>()
    };
    join_all(neutral.iter().map(async |agent| agent.run("write", &json!({})).await)).await;
    let (before, shared) = (pinned(&lab), epochs(&lab));
    assert_eq!(before.len(), 1);
    assert!(lab.perform(RECONNECT).await.is_done);
    lab.until("the old ones are gone", |lab| epochs(lab).intersection(&shared).count() == 1).await;
    assert_eq!(pinned(&lab), before);
    own.run("write", &json!({})).await.expect("its session is still there");

    assert!(lab.perform(Verb::Reconnect { pinned: true }).await.is_done);
    assert_eq!(pinned(&lab), Vec::<u64>::new());
    own.run("write", &json!({})).await.expect_err("its session is over");
    assert_eq!(lab.seen.count("closed_by_incident"), 0);
}

#[tokio::test(start_paused = true)]
async fn in_a_pause_the_sessions_just_end() {
    let lab = Lab::scripted(wish(2, 4));
    let agents = agents(&lab, 4).await;
    agents[0].run("write", &json!({})).await.expect("an answer");
    lab.perform(Verb::Pause).await;
    let done = lab.perform(RECONNECT).await;
    assert!(done.is_done, "{}", done.sentence);
    lab.until("none is left", |lab| lab.standings().is_empty()).await;
    assert_eq!(lab.memory.sessions().len(), 1, "and none is opened");
    lab.perform(Verb::Resume).await;
    agents[0].run("write", &json!({})).await.expect("an answer");
}
