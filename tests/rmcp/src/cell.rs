//! A cell: some agents at once against one URL, in step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::agent::{self, Agent, Said};
use crate::{Options, Place, report};

/// What the checks call, by the kind of the server.
#[derive(Debug, Clone, Copy)]
struct Tools {
    progress: &'static str,
    slow: &'static str,
    everything: bool,
}

impl Tools {
    fn of(kind: &str) -> Self {
        if kind == "everything" {
            let long = "trigger-long-running-operation";
            return Self { progress: long, slow: long, everything: true };
        }
        Self { progress: "progress", slow: "slow", everything: false }
    }

    fn nonce(self, nonce: &str) -> Value {
        if self.everything { json!({ "message": nonce }) } else { json!({ "nonce": nonce }) }
    }

    fn steps(self) -> Value {
        if self.everything { json!({"duration": 0.2, "steps": 5}) } else { json!({"steps": 5}) }
    }

    fn long(self) -> Value {
        if self.everything { json!({"duration": 20, "steps": 1}) } else { json!({"ms": 20_000}) }
    }
}

const CHECKS: [&str; 5] = ["list", "calls", "progress", "cancel", "after-cancel"];

/// Runs it; whether all of it passed.
pub(crate) async fn run(options: &Options, place: &Place) -> bool {
    let connected = (0..options.agents).map(|_| agent::connect(options, place, Said::default()));
    let (mut agents, outcomes) = settle(connected).await;
    let mut spoken: Vec<String> = agents.iter().filter_map(agent::spoken).collect();
    spoken.sort();
    spoken.dedup();
    let mut good = report(place, "handshake", &outcomes, json!({ "spoken": spoken }));
    let tools = Tools::of(&place.kind);
    for check in CHECKS {
        let steps = agents.iter().map(async |agent| {
            agent::in_time(options.patience(), step(agent, check, tools, options.calls)).await?
        });
        good &= report(place, check, &join_all(steps).await, Value::Null);
    }
    let mut outcomes = Vec::new();
    for agent in &mut agents {
        let closed = agent::in_time(options.patience(), agent.close()).await;
        outcomes.push(closed.and_then(|ended| ended.context("its task").map(drop)));
    }
    good & report(place, "close", &outcomes, Value::Null)
}

async fn step(agent: &Agent, check: &str, tools: Tools, count: usize) -> Result<()> {
    match check {
        "list" => {
            let tools_there = agent.list_all_tools().await?;
            ensure!(tools_there.iter().any(|tool| tool.name == tools.slow), "no tool {}", tools.slow);
            Ok(())
        }
        "calls" | "after-cancel" => {
            for outcome in join_all((0..count).map(|_| echo(agent, tools))).await {
                outcome?;
            }
            Ok(())
        }
        "progress" => progress(agent, tools).await,
        _ => cancel(agent, tools).await,
    }
}

async fn echo(agent: &Agent, tools: Tools) -> Result<()> {
    let nonce = nonce();
    let answer = agent::call(agent, "echo", tools.nonce(&nonce)).await?;
    ensure!(answer.contains(&nonce), "asked with {nonce}, answered {answer:?}");
    Ok(())
}

async fn progress(agent: &Agent, tools: Tools) -> Result<()> {
    agent::call(agent, tools.progress, tools.steps()).await?;
    // The last ones may be handled just after the answer.
    for _ in 0..20 {
        if seen(agent).len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // This SDK handles each notification in a task of its own, so in which order they came cannot be seen.
    let mut seen = seen(agent);
    seen.sort_by(f64::total_cmp);
    let sane = seen.last().is_some_and(|last| *last <= 5.0);
    ensure!(sane && seen.windows(2).all(|pair| pair[0] < pair[1]), "progress seen: {seen:?}");
    Ok(())
}

fn seen(agent: &Agent) -> Vec<f64> {
    agent.service().progress.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
}

/// Dropping a call is how this SDK cancels it.
async fn cancel(agent: &Agent, tools: Tools) -> Result<()> {
    let call = agent::call(agent, tools.slow, tools.long());
    match tokio::time::timeout(Duration::from_millis(300), call).await {
        Err(_) => Ok(()),
        Ok(Ok(answer)) => bail!("a cancelled call was answered: {answer}"),
        Ok(Err(error)) => Err(error).context("before it was cancelled"),
    }
}

/// Something no other call of this run has.
pub(crate) fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("nonce-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What succeeded, and how each ended.
pub(crate) async fn settle<T, F: Future<Output = Result<T>>>(
    all: impl Iterator<Item = F>,
) -> (Vec<T>, Vec<Result<()>>) {
    let mut there = Vec::new();
    let outcomes = join_all(all).await.into_iter().map(|outcome| outcome.map(|one| there.push(one)));
    let outcomes = outcomes.collect();
    (there, outcomes)
}
