//! Agents that close their connection, or their side of it, with the last byte of a message.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::agent::{Agent, Connection, Events, Wire, call, text_of};
use super::server::{Exchange, Server};
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;

const POSTS: u64 = 1000;
const CANCELLED: u64 = 40;
const HALF_CLOSED: u64 = 100;
const ASKED: u64 = 10;

fn tool(exchange: &mut Exchange<'_>) -> std::io::Result<()> {
    let arguments = exchange.asked().arguments();
    if arguments["asks"] == true {
        let params =
            json!({ "message": "go on?", "requestedSchema": { "type": "object", "properties": {} } });
        let reply = exchange.ask("elicitation/create", &params)?;
        return exchange.text(if reply.is_some() { "accepted" } else { "no answer" });
    }
    exchange.wait(Duration::from_millis(arguments["ms"].as_u64().unwrap_or(50)));
    exchange.text(arguments["nonce"].as_str().unwrap_or_default())
}

/// H1: a message that came whole is acted on.
pub(super) fn closed_after_the_last_byte() -> Result<Outcome> {
    let server = Server::start(tool)?;
    let table = format!("{}mode = \"shared\"\n", server.at("mcp"));
    let head = format!("[limits]\ncalls_per_agent = {POSTS}\n");
    let gateway = Gateway::of_any_health("bars-h1", &head, &[("b", table)])?;
    let mut agent = Agent::open(Wire::Sse, gateway.port, "b")?;
    let mut events = agent.events.take().context("the agent's stream")?;
    let (posts, answers) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut answers: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            // The time of the bar ends this where answers are missing.
            while answers.len() < POSTS as usize {
                let Ok(message) = events.message() else { break };
                if let Some(id) = message["id"].as_u64() {
                    answers.entry(id).or_default().push(text_of(&message).to_owned());
                }
            }
            answers
        });
        let posts = (|| -> Result<()> {
            let mut half_closed = Vec::new();
            for id in 1..=POSTS {
                let mut connection = agent.connect()?;
                connection.send(&agent.post(&call(id, "work", &json!({ "nonce": format!("n{id}") }))))?;
                if id % 2 == 0 {
                    connection.half_close()?;
                    half_closed.push(connection);
                }
            }
            Ok(())
        })();
        clock::shorten(Duration::from_secs(40));
        (posts, reader.join())
    });
    posts?;
    let answers = answers.map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let right = |id: &u64| answers.get(id).is_some_and(|texts| *texts == [format!("n{id}")]);
    let answered = (1..=POSTS).filter(right).count();
    let once = (1..=POSTS).filter(|id| server.book.runs(&format!("n{id}")) == 1).count();
    let figure = format!("of {POSTS} messages {once} ran once, {answered} were answered once on the stream");
    Ok(Outcome::new(answered == POSTS as usize && once == POSTS as usize, figure))
}

/// H1S: the same over Streamable HTTP, and for messages that are no calls.
pub(super) fn streamable() -> Result<Outcome> {
    let server = Server::start(tool)?;
    let table = |mode: &str| format!("{}mode = \"{mode}\"\n", server.at("mcp"));
    let tables = [("b", table("shared")), ("asks", table("pinned"))];
    let gateway = Gateway::of_any_health("bars-h1s", "", &tables)?;
    let cancelled = cancelled(&server, &gateway)?;
    let half_closed = half_closed(&gateway)?;
    let replied = replied(&gateway)?;
    let figure = format!(
        "{cancelled} of {CANCELLED} cancellations arrived, {half_closed} of {HALF_CLOSED} half-closed calls read \
         their result, {replied} of {ASKED} answers to elicitations arrived"
    );
    let ok = (cancelled, half_closed, replied) == (CANCELLED, HALF_CLOSED, ASKED);
    Ok(Outcome::new(ok, figure))
}

fn cancelled(server: &Server, gateway: &Gateway) -> Result<u64> {
    let agent = Agent::open(Wire::Streamable, gateway.port, "b")?;
    let mut calls = Vec::new();
    for id in 1..=CANCELLED {
        let mut connection = agent.connect()?;
        connection.send(&agent.post(&call(id, "work", &json!({ "nonce": format!("c{id}"), "ms": 8000 }))))?;
        calls.push(connection);
    }
    // Those that do not fit on one session of this agent run on another.
    clock::until("the calls run", Duration::from_secs(10), || server.book.ran() >= CANCELLED.min(20))?;
    std::thread::sleep(Duration::from_millis(500));
    let run = server.book.ran();
    for id in 1..=CANCELLED {
        let params = json!({ "requestId": id });
        let note = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        agent.connect()?.send(&agent.post(&note))?;
    }
    let all = || server.book.cancelled() == run;
    // What is missing is in the figure.
    let _ = clock::until("the cancellations", Duration::from_secs(5), all);
    // A call that waited in the gateway is cancelled there.
    Ok(server.book.cancelled() + (CANCELLED - run))
}

fn half_closed(gateway: &Gateway) -> Result<u64> {
    let mut answered = 0;
    for id in 1..=HALF_CLOSED {
        let agent = Agent::open(Wire::Streamable, gateway.port, "b")?;
        let mut connection = agent.connect()?;
        let nonce = format!("half-{id}");
        connection.send(&agent.post(&call(1, "work", &json!({ "nonce": nonce, "ms": id % 5 * 30 }))))?;
        connection.half_close()?;
        let response = connection.answer().and_then(|answer| answer.message());
        answered += u64::from(response.is_ok_and(|response| text_of(&response) == nonce));
    }
    Ok(answered)
}

fn replied(gateway: &Gateway) -> Result<u64> {
    let mut replied = 0;
    for _ in 0..ASKED {
        let can = json!({ "elicitation": {} });
        let agent = Agent::open_with(Wire::Streamable, gateway.port, "asks", &[], &can)?;
        let mut connection = agent.connect()?;
        connection.send(&agent.post(&call(1, "work", &json!({ "asks": true }))))?;
        replied += u64::from(answer(&agent, connection).is_ok_and(|told| text_of(&told) == "accepted"));
    }
    Ok(replied)
}

/// Answers what the server asks, closes at once, and reads the result of the call.
fn answer(agent: &Agent, connection: Connection) -> Result<Value> {
    let mut events = Events::of(connection)?;
    loop {
        let message = events.message()?;
        if message["method"] == "elicitation/create" {
            let result = json!({ "action": "accept", "content": {} });
            let reply = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            agent.connect()?.send(&agent.post(&reply))?;
        } else if message.get("method").is_none() {
            return Ok(message);
        }
    }
}
