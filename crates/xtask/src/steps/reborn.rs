//! `kill -9` and restart of the gateway under real clients that share: they must go on without a new handshake.
//!
//! The subtle thing: a client that shakes hands again by itself would look as good, so the second life of the gateway is
//! asked how many handshakes it saw: none, and as many sessions restored as there are Streamable agents with one. An
//! EventSource would come back with its old id as well, but for the TypeScript SDK, which drops the `Last-Event-ID` header:
//! its agents get a new id with their stream, and go on. An agent of 2026-07-28 has nothing that could be restored: it
//! simply calls again, and does not even look anew for what is there.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::harness::gateway::Gateway;
use crate::harness::report::Tally;
use crate::harness::run::Service;
use crate::real::backends;
use crate::real::driver;

/// Client, its mode of finding out the era, and transport. HTTP+SSE only where the client comes back to its stream by
/// itself. The mode is named, because who has a session depends on it.
const CLIENTS: [(&str, &str, &str); 8] = [
    ("py-mcp-1", "legacy", "http"),
    ("py-mcp-2", "legacy", "http"),
    ("ts-sdk-1", "legacy", "http"),
    ("ts-client-2", "legacy", "http"),
    ("ts-sdk-1", "legacy", "sse"),
    ("py-mcp-2", "auto", "http"),
    ("py-fastmcp-4", "auto", "http"),
    ("ts-client-2", "modern", "http"),
];
/// The revision of an agent without session.
const MODERN: &str = "2026-07-28";
/// One step of a driver, with other work on the machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Kills the gateway once under so many agents of each client; one check per client, and one for the gateway.
///
/// # Errors
/// When the backend or the gateway does not start.
pub(crate) fn run(agents: u32) -> Result<Tally> {
    let backend = backends::fastmcp("http").start()?;
    let mut gateway = Gateway::start("gateway-reborn", &[("user", backend.url())])?;
    let mut drivers = Vec::new();
    for client in CLIENTS {
        drivers.push(start(&gateway, client, agents)?);
    }
    for (name, _, driver) in &drivers {
        let line = driver.line(LIMIT)?.with_context(|| format!("{name}: {}", driver.last_words()))?;
        anyhow::ensure!(line == format!("ready {agents}"), "{name}: {line}; {}", driver.last_words());
    }
    gateway.kill_and_restart()?;
    let mut tally = Tally::default();
    for (name, is_modern, mut driver) in drivers {
        let verdict = go_on(&mut driver);
        let good = matches!(&verdict, Ok(line) if line["ok"] == u64::from(agents) && spoke(line, is_modern));
        println!("   {name:<24} {}", verdict.as_ref().map_or_else(ToString::to_string, ToString::to_string));
        tally.add(Tally::check(good, || format!("{name}: {verdict:?}; {}", driver.last_words())));
    }
    let asked = |method| gateway.metric("mcpool_requests_total", &[("method", method)]);
    let (handshakes, looks) = (asked("initialize")?, asked("server/discover")?);
    let restored = gateway.metric("mcpool_agent_restores_total", &[("outcome", "restored")])?;
    let with_one = CLIENTS.iter().filter(|(_, mode, transport)| *mode == "legacy" && *transport == "http");
    let expected = u64::from(agents) * with_one.count() as u64;
    let seen = format!(
        "{restored} of {expected} sessions restored, {handshakes} handshakes, {looks} looks for what is there"
    );
    println!("   {seen}");
    tally.add(Tally::check(handshakes == 0 && looks == 0 && restored == expected, || seen));
    Ok(tally)
}

/// A driver that runs, with its name and whether its agents are without session.
fn start(
    gateway: &Gateway,
    (client, mode, transport): (&str, &str, &str),
    agents: u32,
) -> Result<(String, bool, Service)> {
    let known = driver::ALL.iter().find(|known| known.name == client).context("a client of the matrix")?;
    let url = gateway.url("user", if transport == "sse" { "sse" } else { "mcp" });
    let agents = agents.to_string();
    let words = ["--url", &url, "--transport", transport, "--mode", mode, "--agents", &agents];
    let service = known.driver("reborn").args(words);
    let service = service.service(&format!("reborn-{client}-{mode}-{transport}"))?;
    Ok((format!("{client} {mode} {transport}"), mode != "legacy", service))
}

/// Whether all agents of a driver spoke the era they should.
fn spoke(line: &Value, is_modern: bool) -> bool {
    let revisions = line["spoken"].as_array().map(Vec::as_slice).unwrap_or_default();
    !revisions.is_empty() && revisions.iter().all(|revision| (revision == MODERN) == is_modern)
}

/// Lets the agents of a driver call again.
fn go_on(driver: &mut Service) -> Result<Value> {
    driver.stdin.as_mut().context("an open standard input")?.write_all(b"go\n")?;
    let line = driver.line(LIMIT)?.context("the driver ended")?;
    Ok(serde_json::from_str(&line)?)
}
