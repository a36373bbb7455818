//! Real stdio servers: fifty agents write at once into server-memory, and read at once from server-filesystem.
//!
//! The subtle thing: written at once to the server itself, most of it is lost, because its author thought of one
//! caller; what is counted is what the gateway's serial writes are for. `--unsafe` shows it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::paths;
use crate::harness::report::Tally;
use crate::real::backends;
use crate::real::driver;

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Agents at once.
    #[arg(long, default_value_t = 50)]
    agents: u32,
    /// Without serial writes; what is lost is shown, not counted.
    #[arg(long = "unsafe")]
    without: bool,
}

impl Options {
    /// The form the gate runs.
    pub(crate) fn short() -> Self {
        Self { agents: 50, without: false }
    }
}

/// Agent transports; one check each and server.
const WAYS: [&str; 2] = ["http", "sse"];

/// Runs both servers.
///
/// # Errors
/// When the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    for transport in WAYS {
        // New files each time: what is counted must be of this run.
        let folder = paths::logs().join(format!("stdio-{transport}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let folder = fs::canonicalize(folder)?.display().to_string();
        let writes =
            if options.without { "serialize_writes = \"off\"\ncalls_per_session = 64\n" } else { "" };
        let store = format!("env = {{ MEMORY_FILE_PATH = \"{folder}/memory.jsonl\" }}\n");
        let shared = "mode = \"shared\"\n";
        let memory = format!("{}{shared}{store}{writes}", backends::program("server-memory", &[]));
        let files = format!("{}{shared}", backends::program("server-filesystem", &[&folder]));
        let gateway = Gateway::tables(
            &format!("gateway-stdio-{transport}"),
            &[("memory", memory), ("filesystem", files)],
        )?;
        for kind in ["memory", "filesystem"] {
            let line = drive(options, &gateway, transport, kind, &folder)?;
            println!(
                "   {kind:<12} {transport:<5} {} of {} in {} s",
                line["kept"], line["total"], line["seconds"]
            );
            let opened = gateway.opened(kind)?;
            let good = options.without || (line["kept"] == line["total"] && opened == 1);
            tally.add(Tally::check(good, || format!("{kind} {transport}: {opened} processes, {line}")));
        }
    }
    Ok(tally)
}

fn drive(options: &Options, gateway: &Gateway, transport: &str, kind: &str, folder: &str) -> Result<Value> {
    let url = gateway.url(kind, if transport == "sse" { "sse" } else { "mcp" });
    let agents = options.agents.to_string();
    let job = driver::python("mcp1", "stdio.py").args(["--url", &url, "--transport", transport]);
    let job = job.args(["--kind", kind, "--agents", &agents, "--folder", folder]);
    let service = job.service(&format!("stdio-{kind}-{transport}"))?;
    let line = service
        .line(Duration::from_secs(180))?
        .with_context(|| format!("no report; {}", service.last_words()))?;
    Ok(serde_json::from_str(&line)?)
}
