//! `mcpool rehearse` and `mcpool doctor` against real servers: the races are reproduced directly, and none is left
//! through the pool.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::harness::paths;
use crate::harness::report::Tally;
use crate::harness::run::Job;
use crate::real::backends::{self, Spec};

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each order is gone through.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Parallel executors.
    #[arg(long, default_value_t = 8)]
    agents: u32,
}

impl Options {
    /// The form the gate runs.
    pub(crate) fn short() -> Self {
        Self { rounds: 2, agents: 8 }
    }
}

/// A server, a tool of it that takes a while, and how many orders must fail directly.
const SERVERS: [(Spec, &str, &str, usize); 3] = [
    (backends::ALL[1], "trigger-long-running-operation", r#"{"duration":1,"steps":2}"#, 3),
    (backends::ALL[4], "slow", r#"{"ms":300}"#, 3),
    // Over HTTP+SSE there are fewer ways to share one session, and so fewer to break it.
    (backends::ALL[3], "slow", r#"{"ms":300}"#, 2),
];

/// Rehearses with each server; two checks each, and one by the doctor.
///
/// # Errors
/// When a server does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    for (spec, tool, arguments, least) in SERVERS {
        let backend = spec.start()?;
        let doctor = mcpool(&["doctor", &backend.url()]).logged(&format!("doctor-{}", spec.name))?;
        let said = &doctor.output;
        let examined = doctor.success
            && ["initialize", "ping", "list", "ready after", "agents"].iter().all(|w| said.contains(w));
        tally.add(Tally::check(examined, || format!("{}: the doctor says {said}", spec.name)));
        let (rounds, agents) = (options.rounds.to_string(), options.agents.to_string());
        let url = backend.url();
        let words = ["rehearse", &url, "--tool", tool, "--arguments", arguments, "--rounds", &rounds];
        let job = mcpool(&words).args(["--agents", &agents, "--json"]).within(Duration::from_secs(600));
        let ended = job.logged(&format!("rehearse-{}", spec.name))?;
        let line = ended.output.lines().rev().find(|line| line.starts_with('{'));
        let report: Value =
            serde_json::from_str(line.with_context(|| format!("no report: {}", ended.output))?)?;
        tally.add(judge(spec.name, &report, least, ended.success));
    }
    Ok(tally)
}

fn judge(name: &str, report: &Value, least: usize, success: bool) -> Tally {
    let orders = report["orders"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = |order: &Value, way: &str| order[way]["failed"].as_u64().unwrap_or(u64::MAX);
    println!("   {name}");
    for order in orders {
        let [direct, pooled] =
            ["direct", "pooled"].map(|way| format!("{}/{}", failed(order, way), order[way]["steps"]));
        println!(
            "     {:<22} directly {direct:>9}   pooled {pooled:>9}   {}",
            text(order),
            order["direct"]["causes"]
        );
    }
    let races = orders.iter().filter(|order| failed(order, "direct") > 0).count();
    let mut tally =
        Tally::check(races >= least, || format!("{name}: {races} orders failed directly, not {least}"));
    let safe = success && !orders.is_empty() && orders.iter().all(|order| failed(order, "pooled") == 0);
    tally.add(Tally::check(safe, || format!("{name}: failures through the pool: {report}")));
    tally
}

fn text(order: &Value) -> &str {
    order["order"].as_str().unwrap_or_default()
}

fn mcpool(words: &[&str]) -> Job {
    Job::new(paths::built("mcpool")).args(words)
}
