//! Agents and a backend over rmcp, the official Rust SDK, for the gate: the counterparts of `tests/sdk`.
//!
//! The subtle thing: it prints what those drivers print, a JSON object per cell and check, so that whoever reads it need
//! not know which SDK spoke.

mod agent;
mod asked;
mod cell;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// A backend; says `ready PORT` once it accepts, and counts at `/stats` what it saw.
    Serve,
    /// Agents that list, call, follow progress and cancel.
    Cell(Options),
    /// Agents that are asked.
    Asked(Options),
}

/// What every driver takes.
#[derive(Debug, Args)]
struct Options {
    /// Which client; there is one.
    #[arg(long)]
    client: String,
    /// Over what; there is one.
    #[arg(long)]
    transport: String,
    #[arg(long, value_enum)]
    mode: Mode,
    /// JSON list of cells.
    #[arg(long)]
    cells: String,
    #[arg(long, default_value_t = 4)]
    agents: usize,
    /// Calls of an agent at once.
    #[arg(long, default_value_t = 4)]
    calls: usize,
    /// Seconds for any one step.
    #[arg(long, default_value_t = 25)]
    patience: u64,
    /// Only one of the checks of other SDKs is made here.
    #[arg(long, default_value = "elicitation")]
    checks: String,
}

/// How an agent finds out the era.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Auto,
    Legacy,
    Modern,
}

/// A URL, and which tools are there.
#[derive(Debug, Deserialize)]
struct Place {
    name: String,
    kind: String,
    url: String,
}

impl Options {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    fn places(&self) -> Result<Vec<Place>> {
        anyhow::ensure!(
            self.client == "rmcp" && self.transport == "http",
            "rmcp speaks Streamable HTTP only"
        );
        anyhow::ensure!(self.checks == "elicitation", "no check {}", self.checks);
        serde_json::from_str(&self.cells).context("a list of cells")
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let good = match Cli::parse().task {
        Task::Serve => {
            serve::run().await?;
            true
        }
        Task::Cell(options) => {
            let mut good = true;
            // One after another: a cell must show what its own agents do to each other.
            for place in options.places()? {
                good &= cell::run(&options, &place).await;
            }
            good
        }
        Task::Asked(options) => {
            let mut good = true;
            for place in options.places()? {
                good &= asked::run(&options, &place).await;
            }
            good
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line of the report; whether nothing failed.
fn report(place: &Place, check: &str, outcomes: &[Result<()>], more: Value) -> bool {
    let bad: Vec<String> =
        outcomes.iter().filter_map(|o| o.as_ref().err()).map(|e| format!("{e:#}")).collect();
    let mut line = json!({"cell": place.name, "check": check, "ok": bad.is_empty()});
    if !bad.is_empty() {
        let some = bad[..bad.len().min(3)].join(" | ");
        line["detail"] = json!(format!("{} of {}; {some}", bad.len(), outcomes.len()));
    }
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    println!("{line}");
    bad.is_empty()
}
