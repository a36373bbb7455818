//! Real servers whose sessions are not like each other: state, visibility, and pings that want an answer.
//!
//! The subtle thing: what two agents see of each other cannot be seen from the gateway, so the agents leave secrets
//! in their sessions and look for each other's; the counts of the pinging server say that nobody was closed.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::backends::{self, Backend, Kind};
use crate::cells::{Cell, Drive};
use crate::driver::{self, Client};
use crate::gateway::{Entry, Gateway};
use crate::report::Tally;

/// Clients that leave state; the TypeScript clients add nothing here, the state is the server's.
const CLIENTS: [&str; 3] = ["py-mcp-1", "py-mcp-2", "py-fastmcp-4"];
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

/// Agents that leave values and visible tools in a session, in a mode and with what must come of it.
fn states(mode: &'static str, expect: &'static str) -> Result<Tally> {
    let running = ["sse", "http"].map(|transport| backends::fastmcp(transport).start());
    let running = running.into_iter().collect::<Result<Vec<Backend>>>()?;
    let clients = driver::ALL.iter().filter(|client| CLIENTS.contains(&client.name));
    let drives: Vec<_> = clients.flat_map(|client| [(client, "http"), (client, "sse")]).collect();
    // One entry per cell: a backend that was demoted for one client would stay so for the next.
    let name = |backend: &Backend, client: &Client, agents: &str| {
        format!("{}-{mode}-{}-{agents}", backend.spec.name, client.name)
    };
    let entry = |(backend, (client, agents)): (&Backend, &(&Client, &str))| Entry {
        name: name(backend, client, agents),
        reached: backend.reached(),
        mode,
    };
    let every = running.iter().flat_map(|backend| drives.iter().map(move |drive| (backend, drive)));
    let entries: Vec<Entry> = every.map(entry).collect();
    let gateway = Gateway::with(&format!("gateway-state-{mode}"), &entries)?;
    let mut tally = Tally::default();
    for (client, transport) in drives {
        let cell = |backend| Cell { backend: name(backend, client, transport), kind: "fastmcp", expect };
        let cells: Vec<Cell> = running.iter().map(cell).collect();
        let checks: &[&str] = if expect == "demoted" { &["demoted"] } else { &["isolated"] };
        let name = format!("state-{}/{transport}", client.name);
        let drive = Drive { name, transport, cells: &cells, checks, limit: LIMIT };
        tally.add(drive.run(client.driver("state"), gateway.port));
    }
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
