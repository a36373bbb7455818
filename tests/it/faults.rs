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
    FaultProxy, Script, Server,
    agent::{Agent, AgentConfig, AgentError, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    rig::{Rig, Wanted},
    wires::{over, serve, text_of, wanted},
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
/// What the 99th percentile of such may move by itself, a fraction of what any fault here lasts.
const NOISE: Duration = Duration::from_millis(200);
/// A backend that is well again is reached again by then.
const RECOVERY: Duration = Duration::from_secs(20);

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

/// What the calls of an agent took.
struct Took(Vec<Duration>);

impl Took {
    fn p99(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100]
    }

    /// Nobody waited for somebody else's fault: as in quiet, but for what a busy machine does to anybody.
    fn is_like(&self, quiet: &Self, what: &str) {
        let (calls, p99, before) = (self.0.len(), self.p99(), quiet.p99());
        println_figures(&format!("{what}: p99 of {calls} calls beside it {p99:?}, in quiet {before:?}"));
        let longest = self.0.iter().max().expect("calls");
        assert!(p99 < before * 3 + NOISE, "{what}: p99 {p99:?}, in quiet {before:?}");
        assert!(*longest < UNHURT, "{what}: the longest of {calls} calls of another agent took {longest:?}");
    }
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]
fn println_figures(figures: &str) {
    println!("{figures}");
}

/// Fewest calls that say something.
const CALLS: usize = 10;

/// Calls, each of which must be served, until it is stopped, and some in any case.
async fn keeps_calling(agent: &Agent, stop: &CancellationToken) -> Took {
    let mut took = Vec::new();
    let pause = Duration::from_millis(20);
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() || took.len() < CALLS {
        let began = Instant::now();
        is_served(agent, &format!("unhurt-{}", took.len())).await;
        took.push(began.elapsed());
    }
    Took(took)
}

/// The same for a second, with nothing wrong.
async fn calls_in_quiet(agent: &Agent) -> Took {
    let stop = CancellationToken::new();
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
    };
    tokio::join!(keeps_calling(agent, &stop), second).0
}

/// A healthy backend beside the one under test, and an agent that never stops calling it and must not be hurt.
async fn beside<T>(what: &str, back: Transport, bad: Wanted, test: impl AsyncFnOnce(&Rig) -> T) -> T {
    let healthy = serve(Script::default()).await;
    let good = hasty(wanted(&healthy, back, ModeChoice::Shared));
    let rig = Rig::start_all(vec![("bad", bad), ("good", good)]).await;
    let other = agent_of(&rig, "good", Transport::Http).await;
    let quiet = calls_in_quiet(&other).await;
    let stop = CancellationToken::new();
    let run = async {
        let done = test(&rig).await;
        stop.cancel();
        done
    };
    let (done, took) = tokio::join!(run, keeps_calling(&other, &stop));
    took.is_like(&quiet, what);
    drop(other);
    over(rig).await;
    done
}

/// Comes again until it is let in and served.
async fn is_served_soon(rig: &Rig, what: &str) -> Agent {
    let patience = Instant::now();
    loop {
        match Agent::ready(AgentConfig::http(rig.url_of("bad", "mcp"))).await {
            Ok(agent) => {
                is_served(&agent, "recovered").await;
                return agent;
            }
            Err(error) => assert!(patience.elapsed() < RECOVERY, "{what}: {error}"),
        }
    }
}

/// An agent that is told that its backend is not there, and that nothing ran.
async fn is_told(rig: &Rig, backend: &str, what: &str) {
    let refused = Agent::ready(AgentConfig::http(rig.url_of(backend, "mcp"))).await;
    let refused = refused.expect_err("there is nobody");
    let AgentError::Rpc { code, data, .. } = refused else { panic!("{what}: {refused:?}") };
    assert_eq!(data["executed"], "no", "{what}: {code} {data}");
}

/// A call has its own answer, or an error of the gateway that says what is known; whether it was answered.
fn is_answered(nonce: &str, outcome: Result<Value, AgentError>) -> bool {
    match outcome {
        Ok(answer) => assert_eq!(text_of(&answer), nonce),
        Err(AgentError::Rpc { code, data, .. }) => {
            let is_ours = (-31999..=-31900).contains(&code) && data["executed"].is_string();
            assert!(is_ours, "{nonce}: {code} {data}");
            return false;
        }
        Err(other) => panic!("{nonce}: {other:?}"),
    }
    true
}

/// The code and the data of a JSON-RPC error of the gateway.
fn refusal(outcome: Result<Value, AgentError>) -> (i64, Value) {
    match outcome {
        Err(AgentError::Rpc { code, data, .. }) => (code, data),
        other => panic!("{other:?} instead of an error of the gateway"),
    }
}
