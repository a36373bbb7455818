//! Real servers whose sessions are not like each other: state, visibility, and pings that want an answer.
//!
//! The subtle thing: what two agents see of each other cannot be seen from the gateway, so the agents leave secrets
//! in their sessions and look for each other's; the counts of the pinging server say that nobody was closed.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::harness::gateway::{Entry, Gateway};
use crate::harness::report::Tally;
use crate::real::backends::{self, Backend, Kind};
use crate::real::cells::{Cell, Drive};
use crate::real::driver::{self, Client};

/// Clients that leave state, with mode of finding out the era and transport; the TypeScript clients add nothing here, the
/// state is the server's. In the mode `auto` an agent must come to a session by itself, as there is nothing without one.
const CLIENTS: [(&str, &str, &str); 8] = [
    ("py-mcp-1", "legacy", "http"),
    ("py-mcp-1", "legacy", "sse"),
    ("py-mcp-2", "legacy", "http"),
    ("py-mcp-2", "legacy", "sse"),
    ("py-mcp-2", "auto", "http"),
    ("py-fastmcp-4", "legacy", "http"),
    ("py-fastmcp-4", "legacy", "sse"),
    ("py-fastmcp-4", "auto", "http"),
];
/// Clients that insist on having no session: where each agent has its own, they find and leave nothing.
const SESSIONLESS: [(&str, &str, &str); 2] =
    [("py-mcp-2", "modern", "http"), ("py-fastmcp-4", "modern", "http")];
/// One driver with all its cells.
const LIMIT: Duration = Duration::from_secs(180);
/// Pings that a session has answered within the silence, at one every 3 s.
const PINGS: u64 = 4;

/// Which of it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Only this part: `state`, `pings` or `demotion`.
    #[arg(long)]
    part: Option<String>,
}

/// Runs the parts.
///
/// # Errors
/// When a backend or the gateway does not start.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    let wants = |part| options.part.as_deref().is_none_or(|only| only == part);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        // The pings are twenty seconds of waiting, which the other part fills.
        let pings = wants("pings").then(|| scope.spawn(pings));
        for (part, mode, expect) in [("state", "pinned", "isolated"), ("demotion", "auto", "demoted")] {
            if wants(part) {
                let ended = states(mode, expect);
                tally.add(ended.unwrap_or_else(|error| Tally::fault(format!("{part}: {error:#}"))));
            }
        }
        if let Some(pings) = pings {
            let ended = pings.join().unwrap_or_else(|_| Ok(Tally::fault("the thread of the pings panicked")));
            tally.add(ended.unwrap_or_else(|error| Tally::fault(format!("pings: {error:#}"))));
        }
    });
    Ok(tally)
}

/// One run of a driver: its client, mode and transport, and what must come of it.
#[derive(Debug, Clone, Copy)]
struct Row {
    client: &'static Client,
    way: &'static str,
    transport: &'static str,
    expect: &'static str,
}

impl Row {
    fn all(expect: &'static str) -> Vec<Self> {
        let fresh = SESSIONLESS.into_iter().map(|row| (row, "fresh")).filter(|_| expect == "isolated");
        let rows = CLIENTS.into_iter().map(|row| (row, expect)).chain(fresh);
        let row = |((name, way, transport), expect)| {
            let client = driver::ALL.iter().find(|client| client.name == name)?;
            Some(Self { client, way, transport, expect })
        };
        rows.filter_map(row).collect()
    }

    /// One entry per cell: a backend that was demoted for one client would stay so for the next.
    fn entry(&self, backend: &Backend, mode: &str) -> String {
        format!("{}-{mode}-{}-{}-{}", backend.spec.name, self.client.name, self.way, self.transport)
    }

    fn run(&self, running: &[Backend], mode: &str, port: u16) -> Tally {
        let cell =
            |backend| Cell { backend: self.entry(backend, mode), kind: "fastmcp", expect: self.expect };
        let cells: Vec<Cell> = running.iter().map(cell).collect();
        let checks: &[&str] = match self.expect {
            "demoted" => &["demoted"],
            "fresh" => &["fresh"],
            _ => &["isolated"],
        };
        let name = format!("state-{}/{} {}", self.client.name, self.way, self.transport);
        let drive = Drive { name, transport: self.transport, cells: &cells, checks, limit: LIMIT };
        drive.run(self.client.driver("state").args(["--mode", self.way]), port)
    }
}

/// Agents that leave values and visible tools in a session, in a mode and with what must come of it.
fn states(mode: &'static str, expect: &'static str) -> Result<Tally> {
    let running = ["sse", "http"].map(|transport| backends::fastmcp(transport).start());
    let running = running.into_iter().collect::<Result<Vec<Backend>>>()?;
    let rows = Row::all(expect);
    let every = running.iter().flat_map(|backend| rows.iter().map(move |row| (backend, row)));
    let entries: Vec<Entry> = every
        .map(|(backend, row)| Entry { name: row.entry(backend, mode), reached: backend.reached(), mode })
        .collect();
    let gateway = Gateway::with(&format!("gateway-state-{mode}"), &entries)?;
    let mut tally = Tally::default();
    rows.iter().for_each(|row| tally.add(row.run(&running, mode, gateway.port)));
    if expect == "demoted" {
        entries.iter().for_each(|entry| tally.add(demoted(&gateway, &entry.name)));
    }
    Ok(tally)
}

/// That the gateway says so, too.
fn demoted(gateway: &Gateway, backend: &str) -> Tally {
    match gateway.metric("mcpool_sessions_demoted_total", &[("backend", backend)]) {
        Ok(count) => Tally::check(count > 0, || format!("{backend}: no demotion counted")),
        Err(error) => Tally::fault(format!("{backend}: {error:#}")),
    }
}

/// Agents that are silent in front of a server that pings and closes.
fn pings() -> Result<Tally> {
    let backend = backends::PINGING.start()?;
    let mut entries = Vec::new();
    let mut cells = Vec::new();
    for agents in ["http", "sse"] {
        for (transport, path) in [("http", "/mcp"), ("sse", "/sse")] {
            for mode in ["pinned", "shared"] {
                // One entry per agent: a shared session would be kept awake by the other agent's calls.
                let name = format!("pinging-{agents}-{transport}-{mode}");
                entries.push(Entry {
                    name: name.clone(),
                    reached: backends::reached_at(&backend.at(path)),
                    mode,
                });
                cells.push((agents, Cell { backend: name, kind: Kind::Pinging.name(), expect: "awake" }));
            }
        }
    }
    let gateway = Gateway::with("gateway-pings", &entries)?;
    let client =
        driver::ALL.iter().find(|client| client.name == "py-mcp-1").context("a client of mcp 1.x")?;
    let port = gateway.port;
    let idle = |transport: &'static str| {
        let cells: Vec<Cell> =
            cells.iter().filter(|(agents, _)| *agents == transport).map(|(_, cell)| cell.clone()).collect();
        let name = format!("idle-{}/{transport}", client.name);
        let drive = Drive { name, transport, cells: &cells, checks: &["idle"], limit: LIMIT };
        drive.run(client.driver("idle"), port)
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let sse = scope.spawn(|| idle("sse"));
        tally.add(idle("http"));
        tally.add(sse.join().unwrap_or_else(|_| Tally::fault("the thread of the silent agents panicked")));
    });
    tally.add(at_backend(&backend, cells.len() as u64)?);
    Ok(tally)
}

/// What the pinging server has seen: answers, and nobody silent.
fn at_backend(backend: &Backend, agents: u64) -> Result<Tally> {
    let seen = |what| Ok::<u64, anyhow::Error>(backend.seen(what)?.unwrap_or(0));
    let (answered, silent) = (seen("answered")?, seen("silent")?);
    println!("   pinging: {answered} pings answered, {silent} sessions closed for silence, {agents} agents");
    Ok(Tally::check(silent == 0 && answered >= PINGS * agents, || {
        format!("pinging: {answered} pings answered, {silent} sessions closed for silence, {agents} agents")
    }))
}
