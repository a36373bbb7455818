//! `kill -9` and restart of the gateway under real clients that share: they must go on without a new handshake.
//!
//! The subtle thing: a client that shakes hands again by itself would look as good, so the second life of the gateway is
//! asked how many handshakes it saw: none, and as many sessions restored as there are Streamable agents. An EventSource
//! would come back with its old id as well, but for the TypeScript SDK, which drops the `Last-Event-ID` header: its agents
//! get a new id with their stream, and go on.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backends;
use crate::driver;
use crate::gateway::Gateway;
use crate::report::Tally;
use crate::run::Service;

/// Client and transport. HTTP+SSE only where the client comes back to its stream by itself.
const CLIENTS: [(&str, &str); 5] = [
    ("py-mcp-1", "http"),
    ("py-mcp-2", "http"),
    ("ts-sdk-1", "http"),
    ("ts-client-2", "http"),
    ("ts-sdk-1", "sse"),
];
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
    for (name, transport) in CLIENTS {
        drivers.push(start(&gateway, name, transport, agents)?);
    }
    for (name, driver) in &drivers {
        let line = driver.line(LIMIT)?.with_context(|| format!("{name}: {}", driver.last_words()))?;
        anyhow::ensure!(line == format!("ready {agents}"), "{name}: {line}; {}", driver.last_words());
    }
    gateway.kill_and_restart()?;
    let mut tally = Tally::default();
    for (name, mut driver) in drivers {
        let verdict = go_on(&mut driver);
        let good = matches!(&verdict, Ok(line) if line["ok"] == u64::from(agents));
        println!("   {name:<16} {}", verdict.as_ref().map_or_else(ToString::to_string, ToString::to_string));
        tally.add(Tally::check(good, || format!("{name}: {verdict:?}; {}", driver.last_words())));
    }
    let handshakes = gateway.metric("mcpool_requests_total", &[("method", "initialize")])?;
    let restored = gateway.metric("mcpool_agent_restores_total", &[("outcome", "restored")])?;
    let streamable = CLIENTS.iter().filter(|(_, transport)| *transport == "http").count();
    let expected = u64::from(agents) * streamable as u64;
    println!("   {restored} of {expected} sessions restored, {handshakes} handshakes");
    tally.add(Tally::check(handshakes == 0 && restored == expected, || {
        format!("{restored} of {expected} sessions restored, {handshakes} handshakes")
    }));
    Ok(tally)
}

fn start(gateway: &Gateway, client: &str, transport: &str, agents: u32) -> Result<(String, Service)> {
    let known = driver::ALL.iter().find(|known| known.name == client).context("a client of the matrix")?;
    let url = gateway.url("user", if transport == "sse" { "sse" } else { "mcp" });
    let words = ["--url", &url, "--transport", transport, "--agents", &agents.to_string()].map(str::to_owned);
    let name = format!("{client}/{transport}");
    let service = known.driver("reborn").args(words).service(&format!("reborn-{client}-{transport}"))?;
    Ok((name, service))
}

/// Lets the agents of a driver call again.
fn go_on(driver: &mut Service) -> Result<Value> {
    driver.stdin.as_mut().context("an open standard input")?.write_all(b"go\n")?;
    let line = driver.line(LIMIT)?.context("the driver ended")?;
    Ok(serde_json::from_str(&line)?)
}
