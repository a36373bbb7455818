//! `mcpool rehearse`: the race lab for users. Parallel executors share a server session in the orders that break
//! servers, first directly, then through an embedded pool; the result is a table of failures and a verdict.
//!
//! Both halves do the same work in the same orders at the same moments. Directly the executors themselves share the
//! session, as programs do that give one connection to several workers. Through the pool each executor has its own
//! session, and the pool does the sharing.

mod orders;
mod outcome;

use std::{io::Write, sync::Arc, time::Duration};

use mcpool_breaker::Transition;
use mcpool_upstream::{Event, Observe, Source};
use serde_json::{Value, json};

use self::{
    orders::{ORDERS, Order, Stage},
    outcome::Outcome,
};
use crate::{embedded::EmbeddedGateway, observe::connect, terminal};
use mcpool_router::{
    events::{GatewayObserve, StackObserve},
    gateway::Gateway,
    settings::BackendSettings,
};

/// A rehearsal.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The server.
    pub backend: BackendSettings,
    /// Its URL, for direct agents.
    pub url: String,
    /// Headers of direct agents.
    pub headers: Vec<(String, String)>,
    /// The number of executors.
    pub agents: usize,
    /// The number of rounds per order.
    pub rounds: usize,
    /// Time after which a missing answer counts as a failure.
    pub patience: Duration,
    /// The executors' call; it must be harmless.
    pub call: Errand,
    /// A shell command that restarts the server.
    pub restart: Option<String>,
}

/// A request of executors.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The method.
    pub method: String,
    /// The parameters.
    pub params: Value,
}

impl Errand {
    /// A harmless request that every server answers.
    #[must_use]
    pub fn listing() -> Self {
        Self { method: "tools/list".to_owned(), params: json!({}) }
    }

    /// A call of a tool.
    #[must_use]
    pub fn tool(name: &str, arguments: &Value) -> Self {
        Self { method: "tools/call".to_owned(), params: json!({ "name": name, "arguments": arguments }) }
    }
}

/// Results of one order, direct and pooled.
struct Row {
    order: &'static Order,
    direct: Outcome,
    pooled: Outcome,
}

/// Runs a rehearsal. True if nothing failed through the pool.
///
/// # Errors
/// One sentence if the server is not ready, or the output is closed.
pub async fn rehearse(rehearsal: &Rehearsal, json: bool, out: &mut dyn Write) -> Result<bool, String> {
    let (transport, missing) = first_the_ladder(rehearsal).await?;
    let Rehearsal { agents, rounds, call, .. } = rehearsal;
    if !json {
        let what = call.params.get("name").map_or_else(|| call.method.clone(), |name| format!("tool {name}"));
        let title = format!("{}  {agents} executors, {rounds} rounds, {what}\n", rehearsal.url);
        terminal::line(out, &title)?;
        for missing in missing {
            terminal::line(out, &format!("  optional: {missing}"))?;
        }
        terminal::line(out, &format!("  {:<34} {:>14} {:>14}", "order", "directly", "pooled"))?;
    }
    let mut rows = Vec::new();
    for order in ORDERS.iter().filter(|order| order.fits(transport, rehearsal)) {
        let row = both_ways(rehearsal, order, transport).await?;
        if !json {
            show(&row, out)?;
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(format!("there is no order to rehearse over {transport}"));
    }
    let safe = rows.iter().all(|row| row.pooled.failed() == 0);
    terminal::line(out, &if json { report(rehearsal, &rows, safe) } else { verdict(&rows, safe) })?;
    Ok(safe)
}

/// Connects to the server once; an unreachable server needs `doctor` instead. Returns the transport and the missing
/// optional features.
async fn first_the_ladder(rehearsal: &Rehearsal) -> Result<(&'static str, Vec<&'static str>), String> {
    let connected = connect(rehearsal.backend.clone(), &mut |_| {}).await?;
    let missing = connected.gateway.backends().first().map(|one| one.backend.status().missing);
    connected.gateway.shutdown(GOODBYE).await;
    let missing = missing.unwrap_or_default();
    connected.outcome.map(|transport| (transport, missing)).map_err(|failed| {
        format!("the server is not ready: {}; `mcpool doctor {}` says more", failed.why, rehearsal.url)
    })
}

async fn both_ways(
    rehearsal: &Rehearsal,
    order: &'static Order,
    transport: &'static str,
) -> Result<Row, String> {
    let (mut direct, mut pooled) = (Outcome::default(), Outcome::default());
    let stage = Stage::direct(rehearsal, transport);
    for _ in 0..rehearsal.rounds {
        (order.direct)(&stage, &mut direct).await;
    }
    let observe = Arc::new(Quiet);
    // A cold pool, as just after a start.
    let gateway = Gateway::start(vec![rehearsal.backend.clone()], None, &observe)?;
    let inside = EmbeddedGateway::serve(gateway).await?;
    let stage = Stage::pooled(rehearsal, transport, &inside);
    for _ in 0..rehearsal.rounds {
        (order.pooled)(&stage, &mut pooled).await;
    }
    inside.end(GOODBYE).await;
    Ok(Row { order, direct, pooled })
}

fn show(row: &Row, out: &mut dyn Write) -> Result<(), String> {
    let failed = |outcome: &Outcome| match outcome.failed() {
        0 => format!("0 of {}", outcome.total()),
        n => format!("{n} of {} failed", outcome.total()),
    };
    terminal::line(
        out,
        &format!("  {:<34} {:>14} {:>14}", row.order.title, failed(&row.direct), failed(&row.pooled)),
    )?;
    for (way, outcome) in [("directly", &row.direct), ("pooled", &row.pooled)] {
        for (cause, times) in outcome.causes() {
            terminal::line(out, &format!("      {way}, {times} times: {cause}"))?;
        }
    }
    Ok(())
}

fn verdict(rows: &[Row], safe: bool) -> String {
    let sum = |of: fn(&Row) -> (u64, u64)| rows.iter().map(of).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    let (direct, steps) = sum(|row| (row.direct.failed(), row.direct.total()));
    let (pooled, calls) = sum(|row| (row.pooled.failed(), row.pooled.total()));
    let races = rows.iter().filter(|row| row.direct.failed() > 0).count();
    let direct = match races {
        0 => format!("directly nothing failed in {steps} steps: this server can be shared as it is"),
        n => format!("directly {direct} of {steps} steps failed, in {n} of {} orders", rows.len()),
    };
    let pooled = if safe {
        format!("through the pool 0 of {calls} failed: safe behind mcpool")
    } else {
        format!("through the pool {pooled} of {calls} failed: NOT safe, see the causes above")
    };
    format!("\nverdict: {direct};\n         {pooled}")
}

fn report(rehearsal: &Rehearsal, rows: &[Row], safe: bool) -> String {
    let orders: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({ "order": row.order.name, "direct": row.direct.shown(), "pooled": row.pooled.shown() })
        })
        .collect();
    json!({
        "url": rehearsal.url, "agents": rehearsal.agents, "rounds": rehearsal.rounds, "orders": orders, "safe": safe,
    })
    .to_string()
}

/// Observer that ignores all events.
struct Quiet;

impl Observe for Quiet {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

impl GatewayObserve for Quiet {
    fn stack(&self, _: &Source) -> Arc<dyn StackObserve> {
        Arc::new(Self)
    }

    fn transition(&self, _: &Source, _: &Transition) {}
}

impl StackObserve for Quiet {
    fn leased(&self, _: Duration) {}

    fn retried(&self, _: &'static str) {}

    fn rejected(&self, _: &'static str) {}
}

/// Time for sessions to close.
const GOODBYE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
