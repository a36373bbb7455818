//! Agents with tokens of their own: no request is sent with another's, and no refusal reaches another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::agent::{Agent, Wire, text_of};
use super::server::{Asked, Server};
use super::together::side_by_side;
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;
use crate::harness::http;

const TABLE: &str = "mode = \"shared\"\nforward_headers = [\"authorization\"]\n";
/// Requests per transport and life of the gateway.
const REQUESTS: usize = 250;

/// What became of the requests.
#[derive(Default)]
struct Counts {
    requests: u64,
    answered: u64,
    /// Requests with the session's own token that were not answered, and others that were answered with a wrong text.
    wrong: BTreeSet<String>,
}

/// B2: each request reaches the backend with the token it carries itself, or not at all.
pub(super) fn each_request_its_own() -> Result<Outcome> {
    let mixed = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&mixed);
    let server = Server::start(move |exchange| {
        let asked = exchange.asked();
        let (carried, token) = (asked.header("authorization"), asked.arguments()["token"].as_str());
        if carried != token || token.is_none() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        let nonce = asked.arguments()["nonce"].as_str().unwrap_or_default();
        exchange.text(nonce)
    })?;
    let table = format!("{}{TABLE}", server.at("mcp"));
    let mut gateway = Gateway::of_any_health("bars-b2", "", &[("b", table)])?;
    let mut counts = Counts::default();
    let mut agents = Vec::new();
    for number in 0..10_usize {
        let wire = if number.is_multiple_of(2) { Wire::Streamable } else { Wire::Sse };
        let token = format!("Bearer own-{number}");
        let headers = [("authorization", token.as_str())];
        let agent = Agent::open_with(wire, gateway.port, "b", &headers, &json!({}))?;
        agents.push((agent, token));
    }
    round(&mut agents, &mut counts, "before")?;
    gateway.kill_and_restart()?;
    for (agent, _) in &mut agents {
        if agent.events.is_some() {
            agent.come_back()?;
        }
    }
    round(&mut agents, &mut counts, "after")?;
    let Counts { requests, answered, wrong } = counts;
    let mixed = mixed.load(Ordering::SeqCst);
    let first =
        wrong.first().map(|text| format!(", {} wrong, such as {text}", wrong.len())).unwrap_or_default();
    let figure = format!("{requests} requests, {answered} answered, {mixed} mixed{first}");
    Ok(Outcome::new(mixed == 0 && wrong.is_empty() && requests >= 1000, figure))
}

fn round(agents: &mut [(Agent, String)], counts: &mut Counts, when: &str) -> Result<()> {
    for number in 0..2 * REQUESTS {
        let at = number % agents.len();
        let (agent, own) = &mut agents[at];
        // The session's own token, another one, or none, in turn; agents begin with each of them.
        let kind = (number / 10 + at) % 3;
        let token = match kind {
            0 => own.clone(),
            1 => format!("Bearer other-{}", number % 7),
            _ => String::new(),
        };
        let nonce = format!("{when}-{number}");
        let arguments = json!({ "nonce": nonce, "token": token });
        let (status, response) = agent.call_as("work", &arguments, Some(&token))?;
        counts.requests += 1;
        let is_answered = text_of(&response) == nonce;
        counts.answered += u64::from(is_answered);
        let is_right = match kind {
            0 => is_answered,
            // After a restart the gateway may insist on the token that the session was opened with.
            1 => is_answered || (status == 404 && when == "after"),
            _ => status == 404,
        };
        if !is_right {
            let what = ["its own token", "another token", "no token"][kind];
            counts
                .wrong
                .insert(format!("{what} {when} the restart over {}: {status} {response}", agent.path));
        }
    }
    Ok(())
}

/// B4: good tokens are served at once beside bad ones, and nobody reads another's refusal.
pub(super) fn bad_beside_good() -> Result<Outcome> {
    fn gate(asked: &Asked) -> Option<(u16, String)> {
        let token = asked.header("authorization").unwrap_or("nobody");
        let error = json!({ "code": -32000, "message": format!("user {token} has no licence") });
        let body = json!({ "jsonrpc": "2.0", "id": null, "error": error });
        (!token.contains("good")).then(|| (401, body.to_string()))
    }
    let server = Server::guarded(gate, |exchange| {
        let token = exchange.asked().header("authorization").unwrap_or_default().to_owned();
        exchange.text(&token)
    })?;
    let table = format!("{}{TABLE}", server.at("mcp"));
    let gateway = Gateway::of_any_health("bars-b4", "", &[("b", table)])?;
    let (port, admin) = (gateway.port, gateway.admin());
    let (done, told) = (AtomicBool::new(false), AtomicU64::new(0));
    let foreign = Mutex::new(BTreeSet::new());
    let note = |text: String| {
        foreign.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
    };
    let took = std::thread::scope(|scope| {
        for number in 0..2 {
            let (done, told, note) = (&done, &told, &note);
            scope.spawn(move || {
                let (own, other) = (format!("bad-{number}"), format!("bad-{}", 1 - number));
                while !done.load(Ordering::SeqCst) && clock::left().is_ok() {
                    let headers = [("authorization", own.as_str())];
                    match Agent::open_with(Wire::Streamable, port, "b", &headers, &json!({})) {
                        Ok(_) => note(format!("{own} was served")),
                        Err(error) => {
                            told.fetch_add(1, Ordering::SeqCst);
                            let text = format!("{error:#}");
                            if text.contains(&other) || !text.contains(&own) {
                                note(format!("{own} was told: {text}"));
                            }
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) && clock::left().is_ok() {
                for (port, page) in [(port, "/readyz"), (port, "/api/mcp/servers"), (admin, "/readyz")] {
                    let text = http::get(port, page).map(|(_, text)| text).unwrap_or_default();
                    if text.contains("licence") {
                        note(format!("{page} says: {text}"));
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // The bad ones are there first.
        let bad_first =
            clock::until("a refusal", Duration::from_secs(20), || told.load(Ordering::SeqCst) > 4);
        let good = bad_first.and_then(|()| {
            side_by_side((0..15).collect(), |_, number: usize| -> Result<Duration> {
                let began = Instant::now();
                let token = format!("good-{number}");
                let wire = if number.is_multiple_of(2) { Wire::Streamable } else { Wire::Sse };
                let mut agent =
                    Agent::open_with(wire, port, "b", &[("authorization", token.as_str())], &json!({}))?;
                let (_, response) = agent.call("work", &json!({}))?;
                if text_of(&response) != token {
                    note(format!("{token} got {response}"));
                }
                Ok(began.elapsed())
            })
        });
        std::thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::SeqCst);
        good
    })?;
    let served: Vec<Duration> = took.into_iter().collect::<Result<_>>()?;
    let slowest = served.iter().max().copied().unwrap_or(Duration::MAX);
    let foreign = foreign.into_inner().unwrap_or_else(PoisonError::into_inner);
    let refusals = told.load(Ordering::SeqCst);
    let first = foreign.first().map(|text| format!(", such as {text}")).unwrap_or_default();
    let (count, foreign) = (served.len(), foreign.len());
    let figure = format!(
        "{count} served, the last after {} ms; {refusals} refusals, {foreign} foreign texts{first}",
        slowest.as_millis()
    );
    Ok(Outcome::new(count == 15 && slowest <= Duration::from_secs(1) && foreign == 0, figure))
}
