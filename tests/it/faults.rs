//! Backends that die, fall silent or stand behind a network that fails (RELIABILITY.md F1 to F5), over real sockets.
//!
//! The subtle thing: what is shortened are the gateway's keys, not the faults; times are compared with those keys, with
//! room for a loaded machine, and "nobody else is slower" means that nobody waits as long as the fault lasts.

mod cut;
mod killed;
mod names;
mod network;
mod silent;

use std::time::{Duration, Instant};

use mcpool_testkit::{
    FaultProxy, Server,
    agent::{Agent, AgentConfig, AgentError, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};

use crate::{
    rig::{Rig, Wanted},
    wires::{text_of, wanted},
};

/// What the gateway waits for a call without any sign of the backend.
const CALL: Duration = Duration::from_secs(3);
/// What it waits for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// What an agent waits for a backend that was never reached.
const FIRST: Duration = Duration::from_millis(1_500);
/// What anything may take longer than it should, on a machine that does other work.
const SLACK: Duration = Duration::from_secs(5);
/// Nobody who has nothing to do with a fault waits this long.
const UNHURT: Duration = Duration::from_millis(2_500);

/// A gateway's wishes with everything that takes a minute shortened.
fn hasty(mut wanted: Wanted) -> Wanted {
    wanted.times.call_idle = CALL;
    wanted.times.handshake = HANDSHAKE;
    wanted.times.connect = HANDSHAKE;
    wanted.times.first_open = FIRST;
    wanted.times.probe_interval = Duration::from_millis(500);
    wanted.times.probe_timeout = Duration::from_millis(1_000);
    wanted.times.cancel_grace = Duration::from_millis(500);
    wanted.breaker.early_probe = true;
    wanted
}

/// A gateway's wishes for this server, through a proxy.
fn through(proxy: &FaultProxy, server: &Server, back: Transport) -> Wanted {
    let direct = wanted(server, back, ModeChoice::Shared);
    let path = match back {
        Transport::Sse => "/sse",
        Transport::Http => "/mcp",
    };
    hasty(Wanted { endpoint: Wanted::shared(proxy.url(path)).endpoint, ..direct })
}

async fn agent_of(rig: &Rig, backend: &str, front: Transport) -> Agent {
    let path = match front {
        Transport::Sse => "sse",
        Transport::Http => "mcp",
    };
    Agent::ready(AgentConfig::new(rig.url_of(backend, path), front)).await.expect("an agent")
}

/// One safe call that must be answered with its own answer.
async fn is_served(agent: &Agent, nonce: &str) {
    let answer = agent.call_tool("echo", json!({ "nonce": nonce })).await;
    assert_eq!(text_of(&answer.unwrap_or_else(|error| panic!("{nonce}: {error}"))), nonce);
}

/// Calls until it is stopped; the longest any call took, and how many there were.
async fn keeps_calling(agent: &Agent, stop: &tokio_util::sync::CancellationToken) -> (Duration, usize) {
    let (mut longest, mut calls) = (Duration::ZERO, 0);
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(20))).await.is_some() {
        let began = Instant::now();
        is_served(agent, &format!("unhurt-{calls}")).await;
        longest = longest.max(began.elapsed());
        calls += 1;
    }
    (longest, calls)
}

/// The code and the data of a JSON-RPC error of the gateway.
fn refusal(outcome: Result<Value, AgentError>) -> (i64, Value) {
    match outcome {
        Err(AgentError::Rpc { code, data, .. }) => (code, data),
        other => panic!("{other:?} instead of an error of the gateway"),
    }
}
