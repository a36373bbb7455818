//! How many sessions are opened, for whom, and when they end.

use std::{collections::BTreeSet, time::Duration};

use mcpool_upstream::{Cause, Limits, ModeChoice, Refusal, SendError, SendPhase};
use mcpool_wire::{ErrorKind, Link as _, LinkEvent};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, broken, connect_refused, now};

fn limits(change: impl FnOnce(&mut Limits)) -> Wish {
    let mut wish = Wish::default();
    change(&mut wish.limits);
    wish
}

fn interactive() -> Value {
    json!({"sampling": {}})
}

fn opened(lab: &Lab) -> usize {
    lab.memory.sessions().len()
}

/// Which session answered a call: every session's own list of what it was sent tells.
fn sessions_with(lab: &Lab, needle: &str) -> BTreeSet<usize> {
    let has = |sent: &[u8]| sent.windows(needle.len()).any(|w| w == needle.as_bytes());
    lab.memory.sessions().iter().filter(|s| s.sent().iter().any(|m| has(m))).map(|s| s.index()).collect()
}

#[tokio::test(start_paused = true)]
async fn fifty_cold_callers_open_few_sessions_and_few_at_once() {
    let lab = Lab::scripted(limits(|l| l.calls_per_session = 4));
    lab.memory.delay_connects(Duration::from_millis(200));
    let calls = (0..50).map(|n| {
        let lab = &lab;
        async move {
            let agent = lab.agent(n).await;
            agent.run("write", &json!({"ms": 20})).await.expect("an answer");
        }
    });
    let watch = async {
        let mut most = 0;
        for _ in 0..2_000 {
            most = most.max(lab.registered.backend.status().opening);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        most
    };
    let (_, most) = tokio::join!(futures::future::join_all(calls), watch);
    assert!(most <= Limits::default().max_creating, "{most} handshakes at once");
    assert!(opened(&lab) <= Limits::default().shared_sessions, "{} sessions", opened(&lab));
    assert_eq!(lab.held().places, opened(&lab));
}

#[tokio::test(start_paused = true)]
async fn one_busy_agent_opens_no_sessions_it_could_not_use() {
    let lab = Lab::scripted(limits(|l| l.calls_per_session = 2));
    let agent = lab.agent(1).await;
    let calls = (0..40).map(|n| agent.link.call(agent.tool("write", &json!({"n": n, "ms": 100}))));
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("an answer");
    }
    assert_eq!(opened(&lab), 1, "it keeps to one session");
}

#[tokio::test(start_paused = true)]
async fn callers_without_handshake_use_every_slot_of_every_session() {
    let lab = Lab::scripted(limits(|l| (l.calls_per_session, l.shared_sessions) = (4, 3)));
    let guests = lab.guests(1).await;
    let start = now();
    let calls = (0..12).map(|n| guests.link.call(guests.tool("write", &json!({"n": n, "ms": 1_000}))));
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("an answer");
    }
    // The kept ones, too: nobody can say that two calls are of one caller.
    assert_eq!((opened(&lab), now() - start), (3, Duration::from_secs(1)));
    assert_eq!(sessions_with(&lab, "write").len(), 3);
    // One that says which agent it is has a session it keeps to.
    let client = json!({});
    let named = lab.try_agent(2, Some("anna"), client).await.expect("a link");
    let calls = (0..8).map(|n| named.link.call(named.tool("named", &json!({"n": n, "ms": 100}))));
    futures::future::join_all(calls).await.into_iter().for_each(|outcome| drop(outcome.expect("an answer")));
    assert_eq!(sessions_with(&lab, "named").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_is_repeated_soon_while_somebody_waits() {
    // No circuit in this one: only the opener's own pauses.
    let mut wish = Wish::default();
    wish.breaker.failure_threshold = u32::MAX;
    wish.limits.min_idle = 1;
    let lab = Lab::scripted(wish);
    // Nobody waits: the pauses grow.
    lab.memory.fail_connects(10_000, &connect_refused());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let alone = lab.seen.count("open_failed");
    assert!((10..80).contains(&alone), "{alone} attempts in a minute");
    let waits = tokio::time::timeout(Duration::from_millis(3_900), lab.agent(1));
    assert!(waits.await.is_err());
    let waited = lab.seen.count("open_failed") - alone;
    assert!(waited >= 7, "{waited} attempts in 3.9 s, of which the first at once");
}

#[tokio::test(start_paused = true)]
async fn a_backend_at_its_limit_is_left_alone_for_as_long_as_it_asks() {
    let lab = Lab::scripted(Wish::default());
    let refusal = Refusal {
        status: 503,
        message: "full".to_owned(),
        code: None,
        retry_after: Some(Duration::from_secs(3)),
    };
    lab.memory.fail_connects(1, &SendError { phase: SendPhase::Refused, cause: Cause::Pressure(refusal) });
    let start = now();
    lab.agent(1).await;
    let took = now() - start;
    assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn warm_sessions_are_kept_and_replaced() {
    let lab = Lab::scripted(limits(|l| l.min_idle = 2));
    lab.until("two warm sessions", |lab| lab.standings() == ["ready", "ready"]).await;
    lab.memory.last().fail(broken());
    lab.until("its successor", |lab| opened(lab) == 3 && lab.standings() == ["ready", "ready"]).await;
    assert_eq!(lab.seen.count("closed_by_incident"), 1);
    // Beyond the idle time as well.
    tokio::time::sleep(Duration::from_secs(1_300)).await;
    assert_eq!(lab.standings(), ["ready", "ready"]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_a_busy_one_does_not() {
    let mut wish = limits(|l| l.calls_per_session = 1);
    wish.times.idle = Duration::from_secs(100);
    let lab = Lab::scripted(wish);
    let agents = [lab.agent(1).await, lab.agent(2).await];
    let busy = json!({"ms": 50});
    let (a, b) = tokio::join!(agents[0].run("write", &busy), agents[1].run("write", &busy));
    a.and(b).expect("answers");
    assert_eq!(opened(&lab), 2);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        agents[0].run("write", &json!({})).await.expect("an answer");
    }
    assert_eq!(lab.standings(), ["ready"]);
    lab.until("nobody calls any more", |lab| lab.standings().is_empty()).await;
    assert_eq!((lab.held().places, lab.seen.count("closed_by_incident")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_old_session_is_replaced_without_a_failed_call() {
    let mut wish = limits(|l| l.min_idle = 1);
    wish.times.max_age = Duration::from_secs(30);
    let lab = Lab::scripted(wish);
    let agent = lab.agent(1).await;
    for n in 0..200 {
        agent.run("write", &json!({"n": n, "ms": 400})).await.expect("an answer");
    }
    assert!((2..=4).contains(&opened(&lab)), "{} sessions in 80 s", opened(&lab));
    assert_eq!(lab.held().places, 1);
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_session_that_drains_do_not_wait_for_its_end() {
    let mut wish = limits(|l| l.calls_per_session = 1);
    wish.times.max_age = Duration::from_secs(10);
    let lab = Lab::scripted(wish);
    let agent = lab.agent(1).await;
    let long = json!({"ms": 25_000});
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = now();
        agent.run("write", &json!({})).await.expect("an answer");
        now() - start
    };
    let (first, waited) = tokio::join!(agent.run("write", &long), second);
    first.expect("it ends on the old session");
    assert!(waited < Duration::from_secs(11), "{waited:?}: the old session was full for 25 s");
    assert_eq!(opened(&lab), 2);
}

#[tokio::test(start_paused = true)]
async fn agents_keep_to_their_session() {
    let lab = Lab::scripted(limits(|l| l.calls_per_session = 2));
    let mut agents = Vec::new();
    for n in 0..12 {
        agents.push(lab.agent(n).await);
    }
    let wave = async |round: u64| {
        let calls = agents.iter().enumerate().map(|(n, agent)| {
            let marked = json!({"who": format!("agent-{n}-"), "round": round, "ms": 30});
            agent.link.call(agent.tool("write", &marked))
        });
        for outcome in futures::future::join_all(calls).await {
            outcome.expect("an answer");
        }
    };
    for round in 0..5 {
        wave(round).await;
    }
    assert!(opened(&lab) > 1);
    for n in 0..12 {
        assert_eq!(sessions_with(&lab, &format!("agent-{n}-")).len(), 1, "agent {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn agents_of_one_affinity_share_one_session_and_meet_no_other() {
    let lab = Lab::scripted(limits(|l| l.calls_per_session = 2));
    let mut agents: Vec<(&str, Agent)> = Vec::new();
    for n in 0..12 {
        let affinity = ["red", "blue", ""][n % 3];
        let named = Some(affinity).filter(|a| !a.is_empty());
        agents.push((affinity, lab.try_agent(n as u64, named, json!({})).await.expect("a link")));
    }
    let calls = agents.iter().map(|(affinity, agent)| {
        agent.link.call(agent.tool("write", &json!({"who": format!("of-{affinity}."), "ms": 10})))
    });
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("an answer");
    }
    let [red, blue, none] = ["of-red.", "of-blue.", "of-."].map(|who| sessions_with(&lab, who));
    assert_eq!((red.len(), blue.len()), (1, 1));
    assert!(red.is_disjoint(&blue) && red.is_disjoint(&none) && blue.is_disjoint(&none));
}

#[tokio::test(start_paused = true)]
async fn a_starving_key_gets_the_place_of_an_idle_session_of_another_and_only_one() {
    let lab = Lab::scripted(limits(|l| l.max_sessions = 3));
    let mut agents = Vec::new();
    for affinity in ["a", "b", "c"] {
        agents.push(lab.try_agent(1, Some(affinity), json!({})).await.expect("a link"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(lab.held().places, 3);
    agents.push(lab.try_agent(2, Some("d"), json!({})).await.expect("a link"));
    agents[3].run("write", &json!({})).await.expect("an answer");
    assert_eq!((opened(&lab), lab.seen.count("closed")), (4, 1));
    assert!(lab.seen.lines().iter().any(|line| line.contains("Evicted")));
    agents[0].run("write", &json!({})).await.expect("who lost its session gets another one");
}

#[tokio::test(start_paused = true)]
async fn warmth_takes_no_place_from_anybody() {
    let lab = Lab::scripted(limits(|l| (l.max_sessions, l.min_idle) = (1, 1)));
    lab.until("a warm session", |lab| lab.standings() == ["ready"]).await;
    let agent = lab.try_agent(1, Some("a"), json!({})).await.expect("it takes the place of the warm one");
    tokio::time::sleep(Duration::from_secs(60)).await;
    agent.run("write", &json!({})).await.expect("an answer");
    assert_eq!(opened(&lab), 2, "and keeps it");
}

#[tokio::test(start_paused = true)]
async fn past_affinities_leave_nothing_behind() {
    let mut wish = Wish::default();
    wish.times.idle = Duration::from_secs(5);
    let lab = Lab::scripted(wish);
    for n in 0..20_u64 {
        let agent = lab.try_agent(n, Some(&format!("value-{n}")), json!({})).await.expect("a link");
        agent.run("write", &json!({})).await.expect("an answer");
    }
    lab.until("all are idle", |lab| lab.held().places == 0).await;
    assert_eq!(lab.registered.backend.status().agents, 0);
}

#[tokio::test(start_paused = true)]
async fn an_interactive_agent_has_its_own_session_and_its_end_closes_it() {
    let lab = Lab::scripted(Wish::default());
    let shared = lab.agent(1).await;
    shared.run("write", &json!({"who": "neutral"})).await.expect("an answer");
    let own = lab.try_agent(2, None, interactive()).await.expect("a link");
    own.run("write", &json!({"who": "interactive"})).await.expect("an answer");
    assert!(sessions_with(&lab, "neutral").is_disjoint(&sessions_with(&lab, "interactive")));
    let session = lab.memory.last();
    drop(own);
    lab.until("its session is closed", |lab| lab.held().places == 1).await;
    assert!(session.is_closed());
    assert!(lab.seen.lines().iter().any(|line| line.contains("AgentGone")));
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_own_session_breaks_is_told_and_gets_no_other() {
    let lab = Lab::scripted(Wish::default());
    let own = lab.try_agent(2, None, interactive()).await.expect("a link");
    lab.memory.last().fail(broken());
    lab.until("the agent is told", |_| {
        own.inbox
            .taken()
            .iter()
            .any(|e| matches!(e, LinkEvent::Ended(error) if error.kind == ErrorKind::Lost))
    })
    .await;
    let error = own.run("write", &json!({})).await.expect_err("its state is gone");
    assert_eq!(error.kind, ErrorKind::Lost);
    let left = lab.held().places;
    assert_eq!(
        left, 1,
        "the one that showed what the server is; its own also while the agent is still there"
    );
    lab.try_agent(2, None, interactive()).await.expect("it initialises again");
}

#[tokio::test(start_paused = true)]
async fn an_agent_over_the_budget_waits_for_a_place_and_is_told_when_none_comes() {
    let lab = Lab::scripted(Wish { mode: ModeChoice::Pinned, ..limits(|l| l.max_sessions = 2) });
    let one = lab.agent(1).await;
    let _two = lab.agent(2).await;
    let start = now();
    let error = lab.try_agent(3, None, json!({})).await.err().expect("no place");
    assert_eq!((error.kind, (now() - start).as_secs()), (ErrorKind::QueueTimeout, 30));
    let leaves = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(one);
    };
    let start = now();
    let (three, ()) = tokio::join!(lab.try_agent(3, None, json!({})), leaves);
    three.expect("the place of the one that left");
    assert!(now() - start < Duration::from_millis(5_100));
    assert_eq!(opened(&lab), 3, "nothing was opened for the agent that gave up");
}

#[tokio::test(start_paused = true)]
async fn agents_of_a_dead_session_do_not_keep_its_place() {
    let lab = Lab::scripted(limits(|l| l.max_sessions = 1));
    let mut agents = Vec::new();
    for n in 0..5 {
        agents.push(lab.agent(n).await);
        agents[n as usize].run("write", &json!({})).await.expect("an answer");
    }
    lab.memory.last().fail(broken());
    lab.until("the place is free", |lab| lab.held().places == 0).await;
    agents[4].run("write", &json!({})).await.expect("a new session");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_task() {
    let lab = Lab::scripted(limits(|l| l.min_idle = 2));
    let agent = lab.agent(1).await;
    let call = agent.link.call(agent.tool("write", &json!({"ms": 500})));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.registered.backend.shutdown(Duration::from_secs(5)).await
    };
    let (answer, left) = tokio::join!(call, stop);
    answer.expect("the call in flight ends");
    assert!(left.is_empty(), "{left:?}");
    let error = lab.try_agent(9, None, interactive()).await.err().expect("over");
    assert_eq!(error.kind, ErrorKind::Draining);
}
