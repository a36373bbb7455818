//! `kill -9` and restart of a real FastMCP backend under many agents, over both backend transports.
//!
//! The subtle thing: the driver owns the backend, so "in flight at the kill" and "first success after the port
//! was open" are taken in one process on one clock.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::http;
use crate::harness::report::Tally;
use crate::real::backends;
use crate::real::driver;
use crate::steps::reborn;

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of load per combination.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Seconds between kills.
    #[arg(long, default_value_t = 10)]
    every: u32,
    /// Agents, each calling in a loop.
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// Only this pair of agent and backend transport, for instance `http-sse`.
    #[arg(long)]
    pair: Option<String>,
    /// Kill the gateway instead of the backend, under this many agents of each real client.
    #[arg(long, value_name = "AGENTS", num_args = 0..=1, default_missing_value = "40")]
    gateway: Option<u32>,
    /// Pairs of agent and backend transport that are run.
    #[arg(skip = PAIRS.as_slice())]
    pairs: &'static [(&'static str, &'static str)],
}

/// Agent and backend transport.
const PAIRS: [(&str, &str); 4] = [("http", "http"), ("sse", "sse"), ("http", "sse"), ("sse", "http")];

impl Options {
    /// The form the gate runs: one kill on each wire.
    pub(crate) fn short() -> Self {
        Self { seconds: 10, every: 8, agents: 100, pair: None, gateway: None, pairs: &PAIRS[..2] }
    }
}

/// Runs every combination asked for; one check each.
///
/// # Errors
/// When the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    if let Some(agents) = options.gateway {
        return reborn::run(agents);
    }
    let mut tally = Tally::default();
    for (agent, transport) in options.pairs {
        let pair = format!("{agent}-{transport}");
        if options.pair.as_deref().is_some_and(|only| only != pair) {
            continue;
        }
        let (line, good) = one(options, agent, transport)?;
        show(&pair, &line);
        tally.add(Tally::check(good, || format!("{pair}: {line}")));
    }
    Ok(tally)
}

fn one(options: &Options, agent: &str, transport: &str) -> Result<(Value, bool)> {
    let port = http::free_port()?;
    // The backend is not up yet: the gateway must start all the same.
    let gateway = Gateway::start(
        &format!("gateway-restarts-{agent}-{transport}"),
        &[("user", format!("http://127.0.0.1:{port}/sse/"))],
    )?;
    let url = gateway.url("user", if agent == "sse" { "sse" } else { "mcp" });
    let words = [
        port.to_string(),
        options.agents.to_string(),
        options.seconds.to_string(),
        options.every.to_string(),
    ];
    let job = driver::python("mcp1", "restarts.py").args(["--url", &url, "--transport", agent]);
    let job =
        job.args(["--port", &words[0], "--agents", &words[1], "--seconds", &words[2], "--every", &words[3]]);
    let job = job.args(["--"]).args(backends::fastmcp_command("fastmcp4", transport));
    let mut driver = job.service(&format!("restarts-{agent}-{transport}"))?;
    let limit = Duration::from_secs(u64::from(options.seconds) * 3 + 120);
    let line = driver.line(limit)?.with_context(|| format!("no report; {}", driver.last_words()))?;
    let good = driver.end(Duration::from_secs(30))?;
    Ok((serde_json::from_str(&line)?, good))
}

fn show(pair: &str, line: &Value) {
    let of = |key: &str| line[key].to_string();
    println!(
        "   {pair:<10} {} agents, {} calls, {} failed, 400: {}, 404: {}, call p50/p99 {}/{} ms",
        of("ready"),
        of("calls"),
        of("failed"),
        of("http_400"),
        of("http_404"),
        of("call_p50_ms"),
        of("call_p99_ms"),
    );
    for kill in line["kills"].as_array().into_iter().flatten() {
        println!(
            "       killed with {} in flight; first success {} ms after the port was open",
            kill["in_flight"], kill["first_success_ms"]
        );
    }
    if let Some(errors) = line["errors"].as_object().filter(|errors| !errors.is_empty()) {
        println!("       {errors:?}");
    }
}
