//! The gateway is ended by SIGTERM while everything a call can be is there.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::agent::{Agent, Connection, Wire, call, text_of};
use super::server::{Exchange, Server};
use super::together::side_by_side;
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;

const RUNNING: usize = 200;
/// Of those that run, how many do not end.
const ENDLESS: usize = 20;
const WAITING: usize = 200;
const ASKED: usize = 20;
const GRACE: Duration = Duration::from_secs(8);

/// What an agent's call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ends,
    Endless,
    Waits,
    Asks,
}

/// How a call ended: when after the signal, and with what.
#[derive(Debug)]
struct Ended {
    kind: Kind,
    after: Duration,
    told: Result<Value>,
}

fn tool(exchange: &mut Exchange<'_>) -> std::io::Result<()> {
    if exchange.asked().arguments()["asks"] == true {
        let params = json!({
            "message": "go on?", "requestedSchema": { "type": "object", "properties": {} },
        });
        let reply = exchange.ask("elicitation/create", &params)?;
        let accepted = reply.is_some_and(|reply| reply["result"]["action"] == "accept");
        return exchange.text(if accepted { "accepted" } else { "no answer" });
    }
    exchange.wait(Duration::from_millis(exchange.asked().arguments()["ms"].as_u64().unwrap_or(0)));
    exchange.text("done")
}

/// G4: no call is left without an answer.
pub(super) fn shutdown_under_calls() -> Result<Outcome> {
    let server = Server::start(tool)?;
    let busy = format!(
        "{}mode = \"shared\"\nshared_sessions = 1\ncalls_per_session = {RUNNING}\nqueue_timeout = \"1m\"\n",
        server.at("mcp")
    );
    let asks = format!("{}mode = \"pinned\"\nmax_sessions = 64\n", server.at("mcp"));
    let head = format!("[shutdown]\ngrace = \"{}s\"\n", GRACE.as_secs());
    let mut gateway = Gateway::of_any_health("bars-g4", &head, &[("busy", busy), ("asks", asks)])?;
    let mut calls = Vec::new();
    for number in 0..RUNNING + WAITING {
        let kind = match number {
            _ if number < ENDLESS => Kind::Endless,
            _ if number < RUNNING => Kind::Ends,
            _ => Kind::Waits,
        };
        // They end well after the signal, and well within grace.
        let ms = if kind == Kind::Endless { 3_600_000 } else { 6_000 };
        let agent = Agent::open(Wire::Streamable, gateway.port, "busy")?;
        calls.push((kind, agent, json!({ "nonce": format!("{kind:?}-{number}"), "ms": ms })));
    }
    for number in 0..ASKED {
        let can = json!({ "elicitation": {} });
        let agent = Agent::open_with(Wire::Streamable, gateway.port, "asks", &[], &can)?;
        calls.push((Kind::Asks, agent, json!({ "nonce": format!("Asks-{number}"), "asks": true })));
    }
    let mut open: Vec<(Kind, Agent, Connection)> = Vec::new();
    for (at, (kind, agent, arguments)) in calls.into_iter().enumerate() {
        if at == RUNNING {
            let all_run = || server.book.ran() == RUNNING as u64;
            clock::until("200 calls run", Duration::from_secs(20), all_run)?;
        }
        let mut connection = agent.connect()?;
        connection.send(&agent.post(&call(1, "work", &arguments)))?;
        open.push((kind, agent, connection));
    }
    let waiting =
        || gateway.metric("mcpool_waiting_calls", &[]).is_ok_and(|waiting| waiting == WAITING as u64);
    clock::until("200 calls wait and 20 ask", Duration::from_secs(20), || {
        waiting() && server.book.ran() == (RUNNING + ASKED) as u64
    })?;
    let began = Instant::now();
    gateway.service().signal("TERM")?;
    let ended = side_by_side(open, |_, (kind, agent, connection)| {
        let told = if kind == Kind::Asks { answer(&agent, connection) } else { wait(connection) };
        Ended { kind, after: began.elapsed(), told }
    })?;
    let exited = gateway.service().end(GRACE + Duration::from_secs(10));
    let log = fs::read_to_string(gateway.log_file())?;
    Ok(judged(&ended, &server, &log, exited))
}

fn wait(mut connection: Connection) -> Result<Value> {
    connection.answer()?.message()
}

/// Answers the elicitation over a new connection, two seconds after the signal, and reads the result.
fn answer(agent: &Agent, connection: Connection) -> Result<Value> {
    let mut events = super::agent::Events::of(connection)?;
    loop {
        let message = events.message()?;
        if message["method"] != "elicitation/create" {
            if message.get("method").is_none() {
                return Ok(message);
            }
            continue;
        }
        std::thread::sleep(Duration::from_secs(2));
        let result = json!({ "action": "accept", "content": {} });
        let reply = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
        let mut connection = agent.connect().context("the answer to an elicitation met a closed port")?;
        connection.send(&agent.post(&reply))?;
        connection.answer().context("the answer to an elicitation")?;
    }
}

fn judged(ended: &[Ended], server: &Server, log: &str, exited: Result<bool>) -> Outcome {
    let mut faults = Vec::new();
    let mut counts = [0; 4];
    for Ended { kind, after, told } in ended {
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                faults.push(format!("{kind:?} after {:.1} s: {error:#}", after.as_secs_f64()));
                continue;
            }
        };
        let data = &told["error"]["data"];
        let (code, executed) = (&told["error"]["code"], data["executed"].as_str().unwrap_or_default());
        let is_right = match kind {
            Kind::Ends => text_of(told) == "done",
            Kind::Asks => text_of(told) == "accepted",
            Kind::Waits => *code == -31909 && executed == "no" && *after < Duration::from_secs(2),
            Kind::Endless => {
                let id = data["request_id"].as_str().unwrap_or("no request_id");
                *code == -31905 && executed == "maybe" && log.contains(id)
            }
        };
        counts[*kind as usize] += u64::from(is_right);
        if !is_right {
            faults.push(format!("{kind:?} after {:.1} s: {told}", after.as_secs_f64()));
        }
    }
    match exited {
        Ok(true) => {}
        Ok(false) => faults.push("the gateway ended with a failure".to_owned()),
        Err(error) => faults.push(format!("{error:#}")),
    }
    let ran = server.book.ran();
    if ran != (RUNNING + ASKED) as u64 {
        faults.push(format!("{ran} calls ran"));
    }
    let [ends, endless, waits, asks] = counts;
    let first =
        faults.first().map(|text| format!("; {} wrong, such as {text}", faults.len())).unwrap_or_default();
    let figure = format!(
        "{ends} of {} got their result, {endless} of {ENDLESS} cut with executed and a log line, {waits} of {WAITING} \
         waiting told at once, {asks} of {ASKED} elicitations delivered{first}",
        RUNNING - ENDLESS
    );
    Outcome::new(faults.is_empty(), figure)
}
