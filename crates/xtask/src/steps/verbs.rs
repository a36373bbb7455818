//! The operator's verbs under load, with real clients and backends: `pause`, kill and restart of the backend, `resume`;
//! and `reconnect`, with agents that have a session of their own beside those that share.
//!
//! The subtle thing: the words are given with the `mcpool` program, over the admin listener, as an operator gives them.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::harness::{gateway::Gateway, http, paths, report::Tally};
use crate::real::{backends, driver};

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Executors, each calling in a loop.
    #[arg(long, default_value_t = 200)]
    executors: u32,
    /// Only the case of this name, for instance `fastmcp-http`.
    #[arg(long)]
    case: Option<String>,
    /// Cases that are run.
    #[arg(skip = CASES.as_slice())]
    cases: &'static [Case],
}

/// One backend, and what is done to it.
#[derive(Debug)]
struct Case {
    name: &'static str,
    kind: &'static str,
    /// Of the agents and of the backend.
    agents: &'static str,
    backend: &'static str,
    /// Lines of its table.
    mode: &'static str,
    restart: bool,
    /// Agents with a session of their own.
    own: u32,
}

const SHARED: &str = "mode = \"shared\"\n";
/// Those who can be asked things are pinned, the others share.
const BOTH: &str = "mode = \"auto\"\n";

const CASES: [Case; 5] = [
    Case {
        name: "fastmcp-http",
        kind: "fastmcp",
        agents: "http",
        backend: "http",
        mode: SHARED,
        restart: true,
        own: 0,
    },
    Case {
        name: "fastmcp-own",
        kind: "fastmcp",
        agents: "http",
        backend: "http",
        mode: BOTH,
        restart: false,
        own: 10,
    },
    Case {
        name: "everything-sse",
        kind: "everything",
        agents: "sse",
        backend: "sse",
        mode: SHARED,
        restart: true,
        own: 0,
    },
    Case {
        name: "everything-http",
        kind: "everything",
        agents: "http",
        backend: "http",
        mode: SHARED,
        restart: true,
        own: 0,
    },
    Case {
        name: "fastmcp-sse",
        kind: "fastmcp",
        agents: "sse",
        backend: "sse",
        mode: SHARED,
        restart: true,
        own: 0,
    },
];

impl Options {
    /// The form the gate runs: one restart of each real server, and one reconnect beside agents with their own.
    pub(crate) fn short() -> Self {
        Self { executors: 200, case: None, cases: &CASES[..3] }
    }
}

/// Runs every case asked for; one check each.
///
/// # Errors
/// When the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    for case in
        options.cases.iter().filter(|case| options.case.as_deref().is_none_or(|only| only == case.name))
    {
        let (line, good) = one(options, case)?;
        println!("   {:<16} {line}", case.name);
        tally.add(Tally::check(good, || format!("{}: {line}", case.name)));
    }
    Ok(tally)
}

fn one(options: &Options, case: &Case) -> Result<(Value, bool)> {
    let port = http::free_port()?;
    let path = match (case.kind, case.backend) {
        ("everything", "http") => "/mcp",
        ("everything", _) => "/sse",
        _ => "/sse/",
    };
    let table = format!("{}{}", backends::reached_at(&format!("http://127.0.0.1:{port}{path}")), case.mode);
    // The backend is not up yet: the gateway must start all the same.
    let gateway = Gateway::tables(&format!("gateway-verbs-{}", case.name), &[("user", table)])?;
    let url = gateway.url("user", if case.agents == "sse" { "sse" } else { "mcp" });
    let program = paths::built("mcpool").display().to_string();
    let numbers = [port.to_string(), options.executors.to_string(), case.own.to_string()];
    let job = driver::python("mcp1", "verbs.py").args(["--url", &url, "--transport", case.agents]);
    let job = job.args(["--mcpool", &program, "--admin", &gateway.admin_url(), "--name", "user"]);
    let job = job.args([
        "--kind",
        case.kind,
        "--port",
        &numbers[0],
        "--executors",
        &numbers[1],
        "--own",
        &numbers[2],
    ]);
    let job = if case.restart { job.args(["--restart"]) } else { job };
    let job = job.args(["--"]).args(match case.kind {
        "everything" => backends::everything_command(case.backend),
        _ => [backends::fastmcp_command("fastmcp4", case.backend), vec!["--port".into(), "{port}".into()]]
            .concat(),
    });
    let mut driver = job.service(&format!("verbs-{}", case.name))?;
    let line = driver.line(Duration::from_secs(300))?;
    let line = line.with_context(|| format!("no report; {}", driver.last_words()))?;
    let good = driver.end(Duration::from_secs(30))?;
    Ok((serde_json::from_str(&line)?, good))
}
