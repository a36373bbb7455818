//! What is sent again, when, how often, and before whom (SEMANTICS.md 7 and 9).

use std::time::Duration;

use futures::future::join_all;
use mcpool_router::settings::RetrySettings;
use mcpool_upstream::{Cause, Limits, Refusal, SendError, SendPhase, transport::memory::Memory};
use mcpool_wire::{ErrorKind, Executed, Link as _, Method};
use serde_json::{Value, json};

use crate::lab::{Agent, Lab, Wish, broken, now};

fn one_slot() -> Wish {
    let limits = Limits { min_idle: 1, shared_sessions: 1, calls_per_session: 1, ..Limits::default() };
    Wish { limits, ..Wish::default() }
}

async fn ready(wish: Wish) -> (Lab, Agent) {
    let lab = Lab::scripted(wish);
    let agent = lab.agent(1).await;
    lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    (lab, agent)
}

fn at_limit(retry_after: Option<Duration>) -> SendError {
    let refusal = Refusal { status: 429, message: "too many".to_owned(), code: None, retry_after };
    SendError { phase: SendPhase::Refused, cause: Cause::Pressure(refusal) }
}

/// Who called, in the order in which the last session was called.
fn order(lab: &Lab) -> Vec<u64> {
    let parsed = |sent: &[u8]| serde_json::from_slice::<Value>(sent).expect("JSON");
    let sent = lab.memory.last().sent();
    let calls = sent.iter().map(|m| parsed(m)).filter(|m| m["method"] == "tools/call");
    calls.filter_map(|m| m["params"]["arguments"]["who"].as_u64()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_safe_call_whose_session_dies_goes_before_those_who_came_later() {
    let (lab, agent) = ready(one_slot()).await;
    let others = join_all((2..=5).map(|number| lab.agent(number))).await;
    let call = agent.link.call(agent.tool("echo", &json!({"who": 1, "ms": 50})));
    let waiting = others
        .iter()
        .zip(2..)
        .map(|(other, who)| other.link.call(other.tool("write", &json!({"who": who, "ms": 5}))));
    let later = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        join_all(waiting).await
    };
    let crash = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(lab.held().waiting, 4);
        lab.memory.delay_connects(Duration::from_millis(20));
        lab.memory.last().fail(broken());
    };
    let (first, later, ()) = tokio::join!(call, later, crash);
    first.expect("it is safe");
    assert!(later.into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!(order(&lab), [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_repeated_than_the_budget_allows_and_the_others_say_what_is_known() {
    for (budget, allowed) in [(0, 30..=30), (50, 31..=60)] {
        let silent = Memory::new(|turn| async move {
            let is_call = turn.method() == Some(Method::ToolsCall);
            turn.reply().into_iter().filter(|_| !is_call).collect()
        });
        let limits = Limits { min_idle: 1, calls_per_session: 64, ..Limits::default() };
        let retry = RetrySettings { budget, ..RetrySettings::default() };
        let lab = Lab::start(silent.answering_in_exchange(), Wish { limits, retry, ..Wish::default() });
        let agents = join_all((0..60).map(|number| lab.agent(number))).await;
        let none = json!({});
        let outcomes = join_all(agents.iter().map(|agent| agent.run("echo", &none))).await;
        for outcome in outcomes {
            let error = outcome.expect_err("never answered");
            assert_eq!((error.kind, error.executed), (ErrorKind::Lost, Executed::Maybe));
        }
        let (repeated, refused) =
            (lab.seen.count("retried_maybe_sent"), lab.seen.count("rejected_retry_budget"));
        assert!(allowed.contains(&repeated), "{repeated} of 120 with {budget} %");
        assert!(refused > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_costs_no_budget() {
    let retry = RetrySettings { budget: 0, ..RetrySettings::default() };
    let (lab, agent) = ready(Wish { retry, ..one_slot() }).await;
    for n in 0..100 {
        let refused = SendError::not_sent(Cause::Closed("the lab"));
        lab.memory.last().refuse(1, &refused);
        agent.run("write", &json!({"n": n})).await.expect("sent again");
        lab.until("a session", |lab| lab.standings().contains(&"ready")).await;
    }
    assert_eq!(lab.seen.count("retried_not_sent"), 100);
    assert_eq!(lab.seen.count("rejected_retry_budget"), 0);
}

#[tokio::test(start_paused = true)]
async fn no_pause_goes_beyond_the_time_of_the_call() {
    // So long that even a very small part of it is too long.
    let endless = Duration::from_secs(30_000_000);
    let retry = RetrySettings { base: endless, cap: endless, ..RetrySettings::default() };
    let (lab, agent) = ready(Wish { retry, ..one_slot() }).await;
    lab.memory.last().refuse(1, &at_limit(None));
    let start = now();
    let error = agent.run("write", &json!({})).await.expect_err("no time to repeat it");
    assert_eq!((error.kind, error.executed), (ErrorKind::Overloaded, Executed::No));
    assert_eq!((now() - start, lab.seen.count("retried_refused")), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn pauses_are_spread_up_to_the_base_and_then_double() {
    let retry = RetrySettings { attempts: 100, ..RetrySettings::default() };
    let (lab, agent) = ready(Wish { retry, ..one_slot() }).await;
    let mut took = Vec::new();
    for _ in 0..20 {
        lab.memory.last().refuse(1, &at_limit(None));
        let start = now();
        agent.run("write", &json!({})).await.expect("sent again");
        took.push(now() - start);
    }
    assert!(took.iter().all(|took| *took <= Duration::from_millis(101)), "{took:?}");
    took.sort_unstable();
    took.dedup();
    assert!(took.len() > 3, "all the same: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_says_when_to_come_back_is_left_alone_and_the_queue_is_kept() {
    let wish = Wish { limits: Limits { min_idle: 1, ..Limits::default() }, ..Wish::default() };
    let (lab, agent) = ready(wish).await;
    let others = join_all((2..=20).map(|number| lab.agent(number))).await;
    let before = lab.memory.last().sent().len();
    lab.memory.last().refuse(1, &at_limit(Some(Duration::from_secs(3))));
    let start = now();
    let none = json!({});
    let first = agent.run("write", &none);
    let rest = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls = join_all(others.iter().map(|other| other.run("write", &none)));
        let watch = async {
            tokio::time::sleep(Duration::from_millis(2_400)).await;
            assert_eq!(lab.memory.last().sent().len(), before, "nothing is sent meanwhile");
            assert_eq!(lab.held().waiting, 20);
        };
        tokio::join!(calls, watch).0
    };
    let (first, rest) = tokio::join!(first, rest);
    first.expect("sent again");
    assert!(rest.into_iter().all(|outcome| outcome.is_ok()));
    let took = now() - start;
    assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_100), "{took:?}");
    assert_eq!(lab.seen.count("retried_refused"), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_backend_at_its_limit_as_long_as_the_queue_allows_is_told_so() {
    let (lab, agent) = ready(one_slot()).await;
    lab.memory.last().refuse(1, &at_limit(Some(Duration::from_secs(3600))));
    let start = now();
    let error = agent.run("write", &json!({})).await.expect_err("too long");
    assert_eq!((error.kind.code(), error.executed, error.is_retryable()), (-31903, Executed::No, true));
    assert_eq!((now() - start).as_secs(), 30);
    // A minute is the most it can ask for.
    let left = error.retry_after.expect("when to come back");
    assert!(left > Duration::from_secs(29) && left <= Duration::from_secs(30), "{left:?}");
    tokio::time::sleep(left).await;
    agent.run("write", &json!({})).await.expect("the pause is over");
}
