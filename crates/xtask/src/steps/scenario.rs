//! The user's scenario: parallel executors, a new agent session each round, a real FastMCP backend at `/sse/`.
//!
//! The subtle thing: every agent transport is tried at the URLs users have, against both servers users mount
//! at `/sse/`; directly, half of these pairs can never work, which is what the gateway is for.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::real::backends;
use crate::real::driver;

/// Agent transport and path at the gateway.
const WAYS: [(&str, &str); 4] = [("sse", "sse/"), ("http", "mcp"), ("http", "sse/"), ("sse", "mcp")];

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of each executor.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    /// Parallel executors.
    #[arg(long, default_value_t = 5)]
    executors: u32,
    /// Without the gateway: agents call the backend itself; failures are shown, not counted.
    #[arg(long)]
    direct: bool,
    /// Only this backend transport: `sse` or `http`.
    #[arg(long)]
    backend: Option<String>,
    /// Only this way of the agents, for instance `sse@sse/` or `http@mcp`.
    #[arg(long)]
    way: Option<String>,
}

impl Options {
    /// The form the gate runs.
    pub(crate) fn short() -> Self {
        Self { rounds: 20, executors: 5, direct: false, backend: None, way: None }
    }
}

/// Runs every combination asked for; one check each.
///
/// # Errors
/// When a backend or the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    println!(
        "   {:<22} {:>12} {:>5} {:>7} {:>15} {:>15} {:>7}",
        "agents -> backend", "ok", "400", "non-2xx", "round p50/p99", "call p50/p99", "round/s"
    );
    for transport in ["sse", "http"] {
        if options.backend.as_deref().is_some_and(|only| only != transport) {
            continue;
        }
        let backend = backends::fastmcp(transport).start()?;
        if options.direct {
            for agent in ["sse", "http"] {
                let line = drive(options, agent, &backend.url())?;
                show(&format!("{agent} -> {transport} (direct)"), &line);
                tally.add(Tally::one());
            }
            continue;
        }
        let gateway = Gateway::start("gateway-scenario", &[("user", backend.url())])?;
        for (agent, path) in WAYS {
            let way = format!("{agent}@{path}");
            if options.way.as_deref().is_some_and(|only| only != way) {
                continue;
            }
            let line = drive(options, agent, &format!("http://127.0.0.1:{}/{path}", gateway.port))?;
            show(&format!("{way} -> {transport}"), &line);
            let opened = gateway.opened("user")?;
            tally.add(judge(&way, transport, &line, opened));
        }
    }
    Ok(tally)
}

/// The bars: everything succeeds, nobody sees a refusal, p99 below a second, few sessions.
fn judge(way: &str, transport: &str, line: &Value, opened: u64) -> Tally {
    let number = |key: &str| line[key].as_f64().unwrap_or(f64::MAX);
    let good = line["ok"] == line["total"]
        && number("total") > 0.0
        && line["http_4xx_5xx"] == 0
        && number("round_p99_ms") < 1000.0
        && opened > 0
        && opened < 100;
    Tally::check(good, || format!("{way} -> {transport}: {opened} backend sessions, {line}"))
}

fn drive(options: &Options, transport: &str, url: &str) -> Result<Value> {
    let (rounds, executors) = (options.rounds.to_string(), options.executors.to_string());
    let job = driver::python("mcp1", "scenario.py").args(["--url", url, "--transport", transport]);
    let job = job.args(["--rounds", &rounds, "--executors", &executors]);
    let limit = Duration::from_secs(60) + Duration::from_millis(500) * options.rounds;
    let service = job.service("scenario")?;
    let line = service.line(limit)?.with_context(|| format!("no report; {}", service.last_words()))?;
    Ok(serde_json::from_str(&line)?)
}

fn show(name: &str, line: &Value) {
    let text = |key: &str| line[key].to_string();
    println!(
        "   {name:<22} {:>12} {:>5} {:>7} {:>15} {:>15} {:>7}",
        format!("{}/{}", line["ok"], line["total"]),
        text("http_400"),
        text("http_4xx_5xx"),
        format!("{}/{}", line["round_p50_ms"], line["round_p99_ms"]),
        format!("{}/{}", line["call_p50_ms"], line["call_p99_ms"]),
        text("rounds_per_second"),
    );
    if let Some(errors) = line["errors"].as_object().filter(|errors| !errors.is_empty()) {
        println!("       {errors:?}");
    }
}
