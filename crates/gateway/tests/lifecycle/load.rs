//! Constant reloads under load, with invalid files among them: no call fails (RELIABILITY.md 4.3, L3). `MCPOOL_LONG=1`
//! runs for ten minutes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig},
};
use serde_json::json;

use crate::{process::Process, reload::backend};

const AGENTS: usize = 24;
const PAUSE: Duration = Duration::from_millis(400);

struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    agents: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    async fn start(process: &Process) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut agents = Vec::new();
        for n in 0..AGENTS {
            let name = if n % 3 == 0 { "still" } else { "moving" };
            let config = match n % 2 {
                0 => AgentConfig::sse(process.url(&format!("{name}/sse"))),
                _ => AgentConfig::http(process.url(&format!("{name}/mcp"))),
            };
            let agent = Agent::ready(config).await.expect("an agent is served");
            agents.push(tokio::spawn(call(agent, n, stop.clone(), calls.clone())));
        }
        Self { stop, calls, agents }
    }

    /// The number of answered calls, and all errors.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for agent in self.agents {
            wrong.extend(agent.await.expect("no panic"));
        }
        (self.calls.load(Ordering::Relaxed), wrong)
    }
}

/// Sequential calls: safe ones, and ones that must not be repeated.
async fn call(agent: Agent, n: usize, stop: Arc<AtomicBool>, calls: Arc<AtomicUsize>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) && wrong.len() < 5 {
        at += 1;
        let nonce = format!("{n}-{at}");
        let asked = match at % 3 {
            0 => agent.call_tool("sleep", json!({ "ms": 20, "nonce": nonce })).await,
            1 => agent.call_tool("add", json!({ "a": 1, "b": 2, "nonce": nonce })).await,
            _ => agent.call_tool("echo", json!({ "nonce": nonce })).await,
        };
        match asked {
            Ok(_) => drop(calls.fetch_add(1, Ordering::Relaxed)),
            Err(error) => wrong.push(format!("agent {n}, call {at}: {error:?}")),
        }
    }
    let bad = agent.statuses().into_iter().filter(|(status, _)| *status >= 400);
    wrong.extend(bad.map(|(status, times)| format!("agent {n}: {times} times {status}")));
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_all_the_time_fail_no_call() {
    let long = std::env::var_os("MCPOOL_LONG").is_some();
    let (rounds, pause) = if long { (600, Duration::from_secs(1)) } else { (20, PAUSE) };
    let still = Server::start(Script::default()).await.expect("a backend");
    let one = Server::start(Script::default()).await.expect("a backend");
    let two = Server::start(Script::default()).await.expect("a backend");
    let moving = |round: usize| match round % 5 {
        0 | 2 => backend("moving", &one.url_http(), "mode = \"shared\""),
        1 => backend("moving", &two.url_sse(), "mode = \"shared\""),
        3 => backend("moving", &one.url_http(), "mode = \"shared\"\nshared_sessions = 2"),
        _ => format!("{}\nno_such_key = 1\n", backend("moving", &two.url_http(), "")),
    };
    let whole = |round: usize| {
        // A backend that comes and goes.
        let guest = backend(&format!("guest-{round}"), &two.url_http(), "");
        format!("{}{guest}{}", backend("still", &still.url_http(), "mode = \"shared\""), moving(round))
    };
    let process = Process::start("load", &whole(0)).await;
    let load = Load::start(&process).await;
    let before = process.series().await;
    let mut taken = 1;
    for round in 1..=rounds {
        let next = Instant::now() + pause;
        process.configure(&whole(round));
        // Some reloads do not wait for the watcher, so that both ways overlap.
        if round % 2 == 0 || round % 5 == 4 {
            process.signal("HUP");
        }
        if round % 5 == 4 {
            process.until_metric("mcpool_config_last_reload_successful", 0.0).await;
        } else {
            taken += 1;
            let generation = async {
                while process.metric("mcpool_config_generation").await < Some(f64::from(taken)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), generation).await.expect("taken");
        }
        tokio::time::sleep_until(next.into()).await;
    }
    let (calls, wrong) = load.end().await;
    assert!(wrong.is_empty(), "{wrong:#?} of {calls} calls");
    assert!(calls > rounds * AGENTS / 2, "only {calls} calls: nothing was shown");
    let log = process.log();
    let refused = log.lines().filter(|line| line.contains("configuration refused"));
    let with_line = refused.clone().filter(|line| line.contains("mcpool.toml:11: unknown key `no_such_key`"));
    assert!(refused.clone().count() >= rounds / 5 && with_line.count() == refused.count(), "{log}");
    // Removed backends leave no series; retiring ones may still have them.
    let left = async {
        while process.series().await > before + before / 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), left).await.expect("series of guests pile up");
    eprintln!("{calls} calls over {rounds} changes of the configuration, none failed");
}
