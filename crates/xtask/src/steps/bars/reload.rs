//! The configuration file is cut to nothing and written back while agents call.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Outcome;
use super::agent::{Agent, Wire, text_of};
use super::clock;
use super::server::Server;
use super::together::side_by_side;
use crate::harness::gateway::Gateway;

const ROUNDS: u32 = 100;

/// G1: as editors and deployments write files: nothing for a moment, then the same text.
pub(super) fn truncated_file() -> Result<Outcome> {
    let server = Server::start(|exchange| {
        exchange.wait(Duration::from_millis(20));
        exchange.text("done")
    })?;
    let tables = ["shared", "pinned"].map(|mode| (mode, format!("{}mode = \"{mode}\"\n", server.at("mcp"))));
    let gateway = Gateway::of_any_health("bars-g1", "watch = true\n", &tables)?;
    let open = |number| {
        let wire = if number % 4 < 2 { Wire::Streamable } else { Wire::Sse };
        Agent::open(wire, gateway.port, if number % 2 == 0 { "shared" } else { "pinned" })
    };
    let agents = (0..8).map(open).collect::<Result<Vec<_>>>()?;
    let (file, done) = (gateway.config_file(), AtomicBool::new(false));
    let text = fs::read(&file)?;
    let outcomes = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            for round in 0..ROUNDS {
                fs::write(&file, "")?;
                let pause = if round % 4 == 0 { 1200 } else { u64::from(round % 3) * 40 };
                std::thread::sleep(Duration::from_millis(pause));
                fs::write(&file, &text)?;
                std::thread::sleep(Duration::from_millis(100));
            }
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        });
        let calls = scope.spawn(|| {
            side_by_side(agents, |_, mut agent| {
                let (mut calls, mut failures) = (0, Vec::new());
                while !done.load(Ordering::SeqCst) && clock::left().is_ok() {
                    calls += 1;
                    match agent.call("work", &json!({})) {
                        Ok((_, response)) if text_of(&response) == "done" => {}
                        Ok((status, response)) => failures.push(format!("{status} {response}")),
                        Err(error) => failures.push(format!("{error:#}")),
                    }
                    if failures.len() > 100 {
                        break;
                    }
                }
                (calls, failures)
            })
        });
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"));
        done.store(true, Ordering::SeqCst);
        let calls = calls.join().map_err(|_| anyhow::anyhow!("the agents panicked"));
        written?.and(calls?)
    })?;
    let calls: u64 = outcomes.iter().map(|(calls, _)| calls).sum();
    let failures: Vec<_> = outcomes.iter().flat_map(|(_, failures)| failures).collect();
    let first = failures.first().map(|text| format!(", such as {text}")).unwrap_or_default();
    let figure = format!("{} of {calls} calls failed beside {ROUNDS} rounds{first}", failures.len());
    Ok(Outcome::new(failures.is_empty() && calls > 1000, figure))
}
