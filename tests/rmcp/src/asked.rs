//! Agents that are asked: every question must reach the agent whose call it is of, which its own secret shows.

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::agent::{self, Agent, Said};
use crate::cell::{nonce, settle};
use crate::{Options, Place, report};

/// Runs a cell; whether all of it passed.
pub(crate) async fn run(options: &Options, place: &Place) -> bool {
    let connected = (0..options.agents).map(|number| {
        let secret = Some(format!("secret-{number}-{}", nonce()));
        agent::connect(options, place, Said { secret, ..Said::default() })
    });
    let (mut agents, outcomes) = settle(connected).await;
    let mut spoken: Vec<String> = agents.iter().filter_map(agent::spoken).collect();
    spoken.sort();
    spoken.dedup();
    let mut good = report(place, "handshake", &outcomes, json!({ "spoken": spoken }));
    let asked = agents.iter().map(async |agent| {
        agent::in_time(options.patience(), elicitation(agent, place, options.calls)).await?
    });
    good &= report(place, "elicitation", &join_all(asked).await, Value::Null);
    let mut outcomes = Vec::new();
    for agent in &mut agents {
        let closed = agent::in_time(options.patience(), agent.close()).await;
        outcomes.push(closed.and_then(|ended| ended.context("its task").map(drop)));
    }
    good & report(place, "close", &outcomes, Value::Null)
}

/// Several at once, so that answers could also be mixed up within one agent.
async fn elicitation(agent: &Agent, place: &Place, count: usize) -> Result<()> {
    let nonces: Vec<String> = (0..count).map(|_| nonce()).collect();
    // The form of server-everything carries no nonce.
    let is_named = place.kind != "everything";
    let secret = agent.service().secret.as_deref().unwrap_or_default();
    let calls = nonces.iter().map(async |nonce| -> Result<()> {
        let (tool, arguments) = if is_named {
            ("ask", json!({"kind": "elicitation", "text": nonce}))
        } else {
            ("trigger-elicitation-request", json!({}))
        };
        let answer = agent::call(agent, tool, arguments).await?;
        let is_own = answer.contains(secret) && (!is_named || answer.contains(nonce.as_str()));
        ensure!(is_own, "not its own answer: {answer:?}");
        Ok(())
    });
    for outcome in join_all(calls).await {
        outcome?;
    }
    let asked = agent.service().asked.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
    ensure!(asked.len() == count, "asked {} times for {count} calls", asked.len());
    let foreign = asked.iter().find(|text| is_named && !nonces.iter().any(|nonce| text.contains(nonce)));
    ensure!(foreign.is_none(), "asked what was never caused here: {foreign:?}");
    Ok(())
}
