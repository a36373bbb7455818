//! The agents: places that are always taken, by agents that arrive, call a while, and leave or vanish (F10).
//!
//! The subtle thing: the loop is open. Each place has its own times to call, and a call's latency counts from when it
//! was due, unless a new agent had to arrive first.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mcpool_testkit::{
    AgentError, Transport,
    agent::{Agent, AgentConfig},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    dice::Dice,
    ledger::{End, Ledger},
    trouble::History,
    world::PROGRAM,
};

/// Longer than the gateway lets any call here wait: who waits this long was forgotten.
const PATIENCE: Duration = Duration::from_secs(100);
/// Calls of one agent's life, at most.
const LIFE: u64 = 60;

/// What all places know.
pub(super) struct Plan {
    pub(super) gateway: SocketAddr,
    pub(super) backends: Vec<String>,
    /// Time between two calls of one place; zero: as soon as the last is answered.
    pub(super) step: Duration,
    pub(super) seed: u64,
    pub(super) ledger: Arc<Ledger>,
    pub(super) history: Arc<History>,
    pub(super) stop: CancellationToken,
}

/// What a call does, and whether it is safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Echo,
    Sleep,
    Progress,
    /// Counts its executions.
    Add,
    /// Changes something of the program.
    Write,
}

/// An agent with the calls it will still make.
struct Living {
    agent: Agent,
    left: u64,
    backend: String,
}

/// Runs one place until the plan is stopped; its last agent leaves politely.
pub(super) async fn place(plan: Arc<Plan>, number: u64) {
    let mut dice = Dice::new(plan.seed, number + 1);
    let mut due = Instant::now() + plan.step * u32::try_from(dice.below(1000)).unwrap_or(0) / 1000;
    let mut living = None;
    let mut calls = 0_u64;
    while plan.stop.run_until_cancelled(tokio::time::sleep_until(due.into())).await.is_some() {
        let (mut one, since) = match living.take() {
            Some(one) => (one, due.max(Instant::now() - PATIENCE)),
            None => match arrive(&plan, number, &mut dice).await {
                Some(one) => (one, Instant::now()),
                None => {
                    due = Instant::now() + plan.step.max(Duration::from_millis(100));
                    continue;
                }
            },
        };
        calls += 1;
        let nonce = format!("{}-{number}-{calls}", plan.seed);
        let goes_on = call(&plan, &one, &nonce, since, &mut dice).await;
        one.left -= 1;
        if goes_on && one.left > 0 {
            living = Some(one);
        } else {
            leave(&plan, one, &mut dice).await;
        }
        due = if plan.step.is_zero() { Instant::now() } else { due + plan.step };
    }
    if let Some(one) = living {
        goodbye(&plan, one.agent).await;
    }
}

async fn arrive(plan: &Plan, number: u64, dice: &mut Dice) -> Option<Living> {
    let backend = dice.one_of(&plan.backends)?.clone();
    let (transport, path) =
        if number.is_multiple_of(2) { (Transport::Sse, "sse") } else { (Transport::Http, "mcp") };
    let url = format!("http://{}/{backend}/{path}", plan.gateway);
    let mut config = AgentConfig::new(url, transport).with_timeout(PATIENCE);
    // As a client does; the stream is where notifications would come.
    config.listen = dice.percent(50);
    config.connections = 4;
    match Agent::ready(config).await {
        Ok(agent) => {
            plan.ledger.born();
            Some(Living { agent, left: 1 + dice.below(LIFE), backend })
        }
        Err(error) => {
            plan.ledger.unborn(format!("no session with {backend} over {path}: {error}"));
            None
        }
    }
}

/// Makes one call; whether the agent is of use after it.
async fn call(plan: &Plan, living: &Living, nonce: &str, since: Instant, dice: &mut Dice) -> bool {
    let work = choose(&living.backend, dice);
    let began = Instant::now();
    let outcome = perform(&living.agent, work, nonce, dice).await;
    let now = Instant::now();
    let end = judge(work, nonce, &outcome, || plan.history.touches(began, now));
    let is_up = matches!(outcome, Ok(_) | Err(AgentError::Rpc { .. }));
    let end = match end {
        End::Failed(why) => End::Failed(format!("{work:?} of {}: {why}", living.backend)),
        fine @ (End::Answered | End::Lost) => fine,
    };
    plan.ledger.ended(end, now.saturating_duration_since(since));
    is_up
}

fn choose(backend: &str, dice: &mut Dice) -> Work {
    let is_program = backend == PROGRAM;
    match dice.below(100) {
        0..60 => Work::Echo,
        60..80 if is_program => Work::Write,
        60..80 => Work::Add,
        80..93 => Work::Sleep,
        _ if is_program => Work::Sleep,
        _ => Work::Progress,
    }
}

async fn perform(agent: &Agent, work: Work, nonce: &str, dice: &mut Dice) -> Result<Value, AgentError> {
    let nap = 5 + dice.below(45);
    match work {
        Work::Echo => agent.call_tool("echo", json!({ "nonce": nonce })).await,
        Work::Add => agent.call_tool("add", json!({ "nonce": nonce })).await,
        Work::Sleep => agent.call_tool("sleep", json!({ "nonce": nonce, "ms": nap })).await,
        Work::Write => agent.call_tool("write", json!({ "n": nonce })).await,
        Work::Progress => {
            let arguments = json!({ "nonce": nonce, "steps": 3, "interval_ms": 10 });
            agent.start_tool("progress", arguments)?.finish().await
        }
    }
}

/// How a call ended; `troubled` says whether something went wrong meanwhile.
fn judge(
    work: Work,
    nonce: &str,
    outcome: &Result<Value, AgentError>,
    troubled: impl FnOnce() -> bool,
) -> End {
    match outcome {
        Ok(result) => {
            let text = result["content"][0]["text"].as_str().unwrap_or_default();
            let own = if work == Work::Write { text == "written" } else { text.contains(nonce) };
            let executions = result["structuredContent"]["executions"].as_u64();
            if !own || result["isError"] == true {
                End::Failed(format!("a wrong answer to {nonce}: {result}"))
            } else if work == Work::Add && executions != Some(1) {
                End::Failed(format!("{nonce} was executed {executions:?} times"))
            } else {
                End::Answered
            }
        }
        Err(AgentError::Rpc { code: -31905, data, .. })
            if matches!(work, Work::Add | Work::Write) && data["executed"] == "maybe" =>
        {
            if troubled() {
                End::Lost
            } else {
                End::Failed(format!("lost, although nothing went wrong: {data}"))
            }
        }
        Err(error) => End::Failed(error.to_string()),
    }
}

async fn leave(plan: &Plan, living: Living, dice: &mut Dice) {
    if dice.percent(70) {
        return goodbye(plan, living.agent).await;
    }
    let agent = living.agent;
    if dice.percent(50) {
        // In the middle of a call, which goes on without it.
        let started = agent.start_tool("sleep", json!({ "nonce": "vanished", "ms": 1 + dice.below(2000) }));
        tokio::time::sleep(dice.millis(0, 20)).await;
        drop(started);
    }
    plan.ledger.gone(false, &agent.statuses(), agent.foreign());
}

async fn goodbye(plan: &Plan, agent: Agent) {
    agent.close().await;
    plan.ledger.gone(true, &agent.statuses(), agent.foreign());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(executed: &str) -> Result<Value, AgentError> {
        let data = json!({ "executed": executed });
        Err(AgentError::Rpc { code: -31905, message: "lost".into(), data })
    }

    #[test]
    fn only_a_call_that_may_change_something_may_be_lost_and_only_in_trouble() {
        assert_eq!(judge(Work::Add, "n", &lost("maybe"), || true), End::Lost);
        for (work, executed, troubled) in
            [(Work::Add, "maybe", false), (Work::Add, "no", true), (Work::Echo, "maybe", true)]
        {
            let end = judge(work, "n", &lost(executed), || troubled);
            assert!(matches!(end, End::Failed(_)), "{work:?} {executed} {troubled}: {end:?}");
        }
    }

    #[test]
    fn a_foreign_answer_and_a_second_execution_are_failures() {
        let answer = |text: &str, executions: u64| {
            Ok(json!({ "content": [{ "text": text }], "structuredContent": { "executions": executions } }))
        };
        assert_eq!(judge(Work::Add, "n1", &answer("n1", 1), || true), End::Answered);
        assert!(matches!(judge(Work::Add, "n1", &answer("n1", 2), || true), End::Failed(_)));
        assert!(matches!(judge(Work::Echo, "n1", &answer("n2", 1), || true), End::Failed(_)));
    }
}
