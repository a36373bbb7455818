//! Long calls across everything that replaces sessions.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use super::agent::{Agent, Connection, Wire, call, request, text_of};
use super::program::long_call;
use super::server::Server;
use super::together::side_by_side;
use crate::harness::gateway::Gateway;

/// How long the calls take.
const LONG: u64 = 60_000;
/// What happens beside them.
const CAUSES: [&str; 4] = ["age", "reconnect", "table", "rename"];

/// G2: 60 s of work while its session is too old, is to be replaced, or belongs to a table that changed.
pub(super) fn long_calls() -> Result<Outcome> {
    let server = Server::start(|exchange| {
        let ms = exchange.asked().arguments()["ms"].as_u64().unwrap_or(0);
        long_call(ms, |done| exchange.progress(done))?;
        exchange.text("done")
    })?;
    let program = std::env::current_exe()?.display().to_string();
    let reached = |transport: &str| match transport {
        "stdio" => format!("command = {program:?}\nargs = [\"bars\", \"--stdio-server\"]\n"),
        other => server.at(if other == "sse" { "sse" } else { "mcp" }),
    };
    let mut tables = Vec::new();
    for cause in CAUSES {
        for transport in ["http", "sse", "stdio"] {
            let age = if cause == "age" { "max_age = \"5s\"\n" } else { "" };
            let table = format!("{}mode = \"shared\"\n{age}", reached(transport));
            tables.push((format!("{cause}-{transport}"), table));
        }
    }
    let named: Vec<_> = tables.iter().map(|(name, table)| (name.as_str(), table.clone())).collect();
    let gateway = Gateway::of_any_health("bars-g2", "watch = true\n", &named)?;
    let (port, admin, file) = (gateway.port, gateway.admin(), gateway.config_file());
    let names: Vec<_> = tables.into_iter().map(|(name, _)| name).collect();
    let outcomes = std::thread::scope(|scope| {
        let changes = scope.spawn(|| -> Result<()> {
            std::thread::sleep(Duration::from_secs(8));
            for transport in ["http", "sse", "stdio"] {
                let path = format!("/api/v1/backends/reconnect-{transport}/reconnect");
                let mut connection = Connection::open(admin)?;
                connection.send(&request("POST", &path, &[("mcpool-admin", "1")], ""))?;
                let status = connection.answer()?.status;
                ensure!(status == 200 || status == 202, "reconnect was answered with {status}");
            }
            fs::write(&file, changed(&fs::read_to_string(&file)?))?;
            Ok(())
        });
        let calls = side_by_side(names, |number, name| -> Result<String> {
            let wire = if number % 2 == 0 { Wire::Streamable } else { Wire::Sse };
            let outcome = Agent::open(wire, port, &name).and_then(|mut agent| {
                let arguments = json!({ "nonce": name, "ms": LONG });
                if wire == Wire::Sse {
                    return Ok(agent.call("work", &arguments)?.1);
                }
                let mut connection = agent.connect()?;
                connection.send(&agent.post(&call(1, "work", &arguments)))?;
                connection.answer()?.message()
            });
            Ok(match outcome {
                Ok(response) if text_of(&response) == "done" => String::new(),
                Ok(response) => format!("{name} got {response}"),
                Err(error) => format!("{name} failed: {error:#}"),
            })
        });
        changes.join().map_err(|_| anyhow::anyhow!("the operator panicked"))??;
        calls
    })?;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    let failures: Vec<_> = outcomes.iter().filter(|text| !text.is_empty()).collect();
    let generation = gateway.metric("mcpool_config_generation", &[])?;
    let aged = gateway.opened("age-http")?;
    let first = failures.first().map(|text| format!(", such as: {text}")).unwrap_or_default();
    let figure = format!(
        "{} of {} calls answered; {generation} configurations, {aged} sessions of the backend with max_age 5s{first}",
        outcomes.len() - failures.len(),
        outcomes.len()
    );
    Ok(Outcome::new(failures.is_empty() && generation == 2 && aged > 4, figure))
}

/// The file with a header more in three tables, and three tables under other names.
fn changed(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = line.replace("[backends.rename-", "[backends.renamed-");
        out = out + &line + "\n";
        if line.starts_with("[backends.table-") {
            let program = line.contains("stdio");
            out +=
                if program { "env = { CHANGED = \"yes\" }\n" } else { "headers = { x-changed = \"yes\" }\n" };
        }
    }
    out
}
