//! What a tool answers is its answer, whatever HTTP status it comes under.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Outcome;
use super::agent::{Agent, Wire, text_of};
use super::server::{Exchange, Server};
use crate::harness::gateway::Gateway;

const STATUSES: [u16; 7] = [400, 404, 409, 410, 429, 500, 503];

fn tool(exchange: &mut Exchange<'_>) -> std::io::Result<()> {
    let arguments = exchange.asked().arguments();
    let Some(status) = arguments["status"].as_u64().and_then(|status| u16::try_from(status).ok()) else {
        if arguments["nonce"] == "beside" {
            exchange.wait(Duration::from_millis(700));
        }
        return exchange.text("done");
    };
    let id = if arguments["null"] == true { Value::Null } else { exchange.asked().body["id"].clone() };
    let error = json!({ "code": -32000, "message": words(status) });
    exchange.refuse(status, &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// What tools say that sounds like a transport.
fn words(status: u16) -> &'static str {
    match status {
        400 => "no active session: tab 3 was closed",
        404 => "Issue 12 not found",
        409 => "session expired, start a new one",
        410 => "shell session not found",
        429 => "rate limit",
        503 => "database is busy, try again",
        _ => "disk full",
    }
}

/// A1: 7 statuses under our id and under null, on a shared and on a pinned session.
pub(super) fn errors_under_a_status() -> Result<Outcome> {
    let (mut cells, mut faults) = (0, Vec::new());
    for mode in ["shared", "pinned"] {
        for null in [false, true] {
            for status in STATUSES {
                cells += 1;
                let name = format!("{mode} {status} {}", if null { "null" } else { "our id" });
                faults.extend(cell(mode, status, null)?.map(|fault| format!("{name}: {fault}")));
            }
        }
    }
    let first = faults.first().map(|fault| format!(", such as {fault}")).unwrap_or_default();
    Ok(Outcome::new(faults.is_empty(), format!("{cells} cells, {} wrong{first}", faults.len())))
}

fn cell(mode: &str, status: u16, nameless: bool) -> Result<Option<String>> {
    let server = Server::start(tool)?;
    let table = format!("{}mode = \"{mode}\"\nmin_idle = 0\n", server.at("mcp"));
    let gateway = Gateway::of_any_health("bars-a1", "", &[("b", table)])?;
    let mut agent = Agent::open(Wire::Streamable, gateway.port, "b")?;
    agent.call("work", &json!({}))?;
    let before = server.book.opened();
    let mut beside = agent.connect()?;
    let id = agent.id();
    beside.send(&agent.post(&super::agent::call(id, "work", &json!({ "nonce": "beside" }))))?;
    std::thread::sleep(Duration::from_millis(50));
    let arguments = json!({ "nonce": "cell", "status": status, "null": nameless });
    let (_, told) = agent.call("work", &arguments)?;
    let other = beside.answer()?.message()?;
    let (runs, more) = (server.book.runs("cell"), server.book.opened() - before);
    let reads = told["error"]["message"].as_str().unwrap_or_default();
    let (_, later) = agent.call("work", &json!({ "nonce": "later" }))?;
    Ok(if runs != 1 {
        Some(format!("ran {runs} times"))
    } else if more > 1 {
        Some(format!("{more} sessions more"))
    } else if reads != words(status) {
        Some(format!("the agent reads {told}"))
    } else if text_of(&other) != "done" || server.book.runs("beside") != 1 {
        Some(format!("the other call ran {} times and got {other}", server.book.runs("beside")))
    } else if text_of(&later) != "done" {
        Some(format!("the next call got {later}"))
    } else {
        None
    })
}
