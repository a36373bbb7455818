//! Servers that ask: real agents with handlers for sampling, elicitation and roots, against real backends.
//!
//! The subtle thing: every backend stands in the gateway once per mode, so that the same agents and the same server
//! show both that a question reaches its agent and no other, and that on a shared session nobody is ever asked.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::harness::gateway::{Entry, Gateway};
use crate::harness::report::Tally;
use crate::real::backends::{self, Backend, Kind};
use crate::real::cells::{Cell, Drive};
use crate::real::driver::{self, Client};

/// A mode of the gateway, and what an agent that can be asked finds there.
const MODES: [(&str, &str); 3] = [("auto", "answered"), ("exclusive", "answered"), ("shared", "refused")];
/// What the drivers report of a cell.
const CHECKS: [&str; 6] = ["handshake", "sampling", "elicitation", "url", "roots", "close"];
/// One driver with all its cells; a step of a cell has its own, shorter limit there.
const LIMIT: Duration = Duration::from_secs(300);

/// Which of it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only clients whose name contains this.
    #[arg(long)]
    client: Option<String>,
    /// Only backends whose name (with the mode) contains this.
    #[arg(long)]
    backend: Option<String>,
}

/// Runs every combination asked for; one check per client, transport, backend and mode.
///
/// # Errors
/// When a backend or the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let asking = backends::ALL.into_iter().filter(|spec| spec.asks());
    let running = asking.map(backends::Spec::start).collect::<Result<Vec<Backend>>>()?;
    let mut entries = Vec::new();
    let mut cells = Vec::new();
    for backend in &running {
        // A fresh process for each request takes longer than the clients wait.
        let is_process = backend.spec.transport == "stdio";
        for (mode, expect) in MODES.into_iter().filter(|(mode, _)| !is_process || *mode != "exclusive") {
            let name = format!("{}-{mode}", backend.spec.name);
            entries.push(Entry { name: name.clone(), reached: backend.reached(), mode });
            cells.push(Cell { backend: name, kind: backend.spec.kind.name(), expect });
        }
    }
    cells.retain(|cell| options.backend.as_deref().is_none_or(|part| cell.backend.contains(part)));
    let gateway = Gateway::with("gateway-asked", &entries)?;
    let mut tally = Tally::default();
    for transport in ["http", "sse"] {
        tally.add(side_by_side(options, transport, &cells, gateway.port));
    }
    Ok(tally)
}

/// All clients at once over one transport: their agents share the backends, but no session.
fn side_by_side(options: &Options, transport: &'static str, cells: &[Cell], port: u16) -> Tally {
    let wanted = driver::ALL
        .iter()
        .filter(|client| options.client.as_deref().is_none_or(|part| client.name.contains(part)));
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let started: Vec<_> =
            wanted.map(|client| scope.spawn(move || drive(client, transport, cells, port))).collect();
        for thread in started {
            tally.add(thread.join().unwrap_or_else(|_| Tally::fault("a driver's thread panicked")));
        }
    });
    tally
}

fn drive(client: &Client, transport: &'static str, cells: &[Cell], port: u16) -> Tally {
    let name = format!("asked-{}/{transport}", client.name);
    Drive { name, transport, cells, checks: &CHECKS, limit: LIMIT }.run(client.driver("asked"), port)
}

impl backends::Spec {
    /// Whether it has tools that make it ask, which FastMCP 2 has only in part.
    fn asks(&self) -> bool {
        self.name != "fastmcp2-sse" && matches!(self.kind, Kind::Everything | Kind::FastMcp)
    }
}
