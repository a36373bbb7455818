//! The mission under load, over real sockets: a cold-start herd, and backends that forget or restart.
//!
//! Figures are printed (`--nocapture`); counts are asserted, times are not. `MCPOOL_LONG=1` runs the full size.

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcpool_testkit::{
    Script, Server, StatsSnapshot,
    agent::{Agent, AgentConfig, AgentError, Transport},
};
use mcpool_upstream::{Limits, ModeChoice, TransportChoice};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::rig::{Rig, Wanted};

const WIRES: [Transport; 2] = [Transport::Sse, Transport::Http];

fn long() -> bool {
    std::env::var_os("MCPOOL_LONG").is_some()
}

fn backend_url(server: &Server, wire: Transport) -> (String, TransportChoice) {
    match wire {
        Transport::Sse => (server.url_sse(), TransportChoice::Sse),
        Transport::Http => (server.url_http(), TransportChoice::Http),
    }
}

fn agent_config(rig: &Rig, wire: Transport) -> AgentConfig {
    match wire {
        Transport::Sse => AgentConfig::sse(rig.url_sse()),
        Transport::Http => AgentConfig::http(rig.url_http()),
    }
}

async fn rig_for(server: &Server, wire: Transport) -> Rig {
    let (url, transport) = backend_url(server, wire);
    Rig::start(Wanted { transport, ..Wanted::shared(url) }).await
}

/// What the gateway itself says at the end: no status but 2xx, and nothing that outlives it.
async fn over(rig: Rig) {
    assert!(rig.seen.non_2xx().is_empty(), "{:?}", rig.seen.non_2xx());
    rig.stop().await;
}

fn text_of(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

fn percentile(times: &mut [Duration], p: f64) -> Duration {
    times.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((times.len() as f64 * p) as usize).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

/// 1,000 agents within one second; each initialises, lists and calls once.
async fn herd(front: Transport, back: Transport) {
    let server = Server::start(Script::cold()).await.expect("a backend");
    let rig = rig_for(&server, back).await;
    let agents = 1_000_u32;
    let mut set = JoinSet::new();
    let began = Instant::now();
    for n in 0..agents {
        let config = agent_config(&rig, front);
        set.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1) * n / agents).await;
            let started = Instant::now();
            let agent = Agent::ready(config).await?;
            let nonce = format!("herd-{n}");
            let answer = agent.call_tool("echo", json!({ "nonce": nonce })).await?;
            let took = started.elapsed();
            assert_eq!(text_of(&answer), nonce, "a foreign answer");
            let refused = agent.refused();
            agent.close().await;
            Ok::<_, AgentError>((took, refused))
        });
    }
    let mut times = Vec::new();
    let (mut errors, mut refused) = (Vec::new(), 0);
    while let Some(done) = set.join_next().await {
        match done.expect("no agent panics") {
            Ok((took, non_2xx)) => {
                times.push(took);
                refused += non_2xx;
            }
            Err(error) => errors.push(error),
        }
    }
    let stats = server.stats();
    println!(
        "herd {front:?} -> {back:?}: {agents} agents in {:?}, {} errors, {refused} non-2xx, {} sessions opened, \
         {} too early, first answer p50 {:?} p99 {:?}",
        began.elapsed(),
        errors.len(),
        stats.sessions_opened,
        stats.too_early,
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99),
    );
    assert!(errors.is_empty(), "{:?} {:?}", errors.first(), rig.seen.failures());
    assert_eq!(refused, 0);
    assert!(stats.sessions_opened <= 8, "{stats:?}");
    assert_eq!((stats.too_early, stats.sessions_refused), (0, 0));
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_herd_of_sse_agents_gets_no_error_from_an_sse_backend() {
    herd(Transport::Sse, Transport::Sse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_herd_of_sse_agents_gets_no_error_from_a_streamable_backend() {
    herd(Transport::Sse, Transport::Http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_herd_of_streamable_agents_gets_no_error_from_an_sse_backend() {
    herd(Transport::Http, Transport::Sse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_herd_of_streamable_agents_gets_no_error_from_a_streamable_backend() {
    herd(Transport::Http, Transport::Http).await;
}

/// 16 agents at 200 calls a second; the backend forgets every session in the middle, several times.
async fn forgetful(back: Transport, script: Script, keep_streams: bool) {
    let server = Server::start(script).await.expect("a backend");
    let rig = rig_for(&server, back).await;
    let (agents, calls) = (16_u32, if long() { 125_u32 } else { 40 });
    let mut set = JoinSet::new();
    for who in 0..agents {
        let config = agent_config(&rig, WIRES[who as usize % 2]);
        set.spawn(async move {
            let agent = Agent::ready(config).await?;
            let mut ticks = tokio::time::interval(Duration::from_millis(80));
            for n in 0..calls {
                ticks.tick().await;
                let nonce = format!("{who}-{n}");
                let answer = agent.call_tool("echo", json!({ "nonce": nonce })).await?;
                assert_eq!(text_of(&answer), nonce, "a foreign answer");
            }
            let refused = agent.refused();
            agent.close().await;
            Ok::<_, AgentError>(refused)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.forget_sessions(keep_streams);
    }
    let (mut errors, mut refused) = (Vec::new(), 0);
    while let Some(done) = set.join_next().await {
        match done.expect("no agent panics") {
            Ok(non_2xx) => refused += non_2xx,
            Err(error) => errors.push(error),
        }
    }
    let stats: StatsSnapshot = server.stats();
    println!(
        "forgotten sessions over {back:?} (streams kept: {keep_streams}): {} calls, {} errors, {refused} non-2xx, {} \
         sessions opened",
        agents * calls,
        errors.len(),
        stats.sessions_opened
    );
    assert!(errors.is_empty() && refused == 0, "{errors:?} {refused} {:?}", rig.seen.failures());
    assert!(stats.sessions_opened >= 3, "nothing was forgotten: {stats:?}");
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_sessions_are_replaced_behind_the_callers_back() {
    forgetful(Transport::Http, Script::default(), false).await;
    forgetful(Transport::Http, Script::everything(), true).await;
    forgetful(Transport::Sse, Script::default(), false).await;
    forgetful(Transport::Sse, Script::default(), true).await;
}

/// A backend killed and restarted under load; calls that are safe to repeat must not notice.
async fn restarts(back: Transport) {
    let server = Arc::new(Server::start(Script::default()).await.expect("a backend"));
    let rig = rig_for(&server, back).await;
    let rounds = if long() { 6 } else { 2 };
    let stop = tokio_util::sync::CancellationToken::new();
    let mut set = JoinSet::new();
    for who in 0..50_u32 {
        let config = agent_config(&rig, WIRES[who as usize % 2]);
        let stop = stop.clone();
        set.spawn(async move {
            let agent = Agent::ready(config).await?;
            let mut done = 0_u64;
            while !stop.is_cancelled() {
                let nonce = format!("{who}-{done}");
                let answer = agent.call_tool("sleep", json!({ "ms": 50, "nonce": nonce })).await?;
                assert!(!answer.is_null());
                done += 1;
            }
            let refused = agent.refused();
            agent.close().await;
            Ok::<_, AgentError>((done, refused))
        });
    }
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.stop().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.restart().await.expect("the same port");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let (mut errors, mut calls, mut refused) = (Vec::new(), 0, 0);
    while let Some(done) = set.join_next().await {
        match done.expect("no agent panics") {
            Ok((done, non_2xx)) => {
                calls += done;
                refused += non_2xx;
            }
            Err(error) => errors.push(error),
        }
    }
    println!(
        "restarts over {back:?}: {calls} calls, {} errors, {refused} non-2xx, {} retries, breaker {:?}",
        errors.len(),
        rig.seen.retried.load(std::sync::atomic::Ordering::Relaxed),
        rig.seen.transitions.lock().expect("not poisoned").len(),
    );
    assert!(errors.is_empty() && refused == 0, "{errors:?} {refused} {:?}", rig.seen.failures());
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_backend_costs_no_call_that_is_safe_to_repeat() {
    for back in WIRES {
        restarts(back).await;
    }
}

/// Many agents that each need a session of their own, for few places: a place is waited for, and who gets none in time
/// is told so long before it gives up by itself (RELIABILITY.md R2).
async fn pinned_herd(front: Transport, leave: bool) {
    let server = Server::start(Script::default()).await.expect("a backend");
    let (url, transport) = backend_url(&server, Transport::Http);
    let places = 64;
    let mut wanted = Wanted { transport, mode: ModeChoice::Pinned, ..Wanted::shared(url) };
    wanted.limits = Limits { max_sessions: places, min_idle: 0, ..Limits::default() };
    // An HTTP+SSE agent that left keeps its place for so long.
    wanted.front.reconnect_grace = Duration::from_millis(200);
    wanted.times.queue = if leave { Duration::from_secs(30) } else { Duration::from_secs(2) };
    let rig = Rig::start(wanted).await;
    let agents = if long() { 1_000_u32 } else { 250 };
    let patience = Duration::from_secs(60);
    let mut set = JoinSet::new();
    for n in 0..agents {
        let config = AgentConfig { timeout: patience, ..agent_config(&rig, front) };
        set.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1) * n / agents).await;
            let started = Instant::now();
            let agent = Agent::connect(config).await.expect("a connection");
            let served = async {
                agent.initialize().await?;
                agent.call_tool("echo", json!({ "nonce": n.to_string() })).await
            };
            let served = served.await.map(|answer| assert_eq!(text_of(&answer), n.to_string()));
            let (took, refused) = (started.elapsed(), agent.refused());
            if leave {
                agent.close().await;
                return (served, took, refused, None);
            }
            (served, took, refused, Some(agent))
        });
    }
    let (mut served, mut times, mut kept) = (0, Vec::new(), Vec::new());
    while let Some(done) = set.join_next().await {
        let (outcome, took, refused, agent) = done.expect("no agent panics");
        assert_eq!(refused, 0, "a bare status");
        assert!(took < patience, "{took:?}");
        match outcome {
            Ok(()) => served += 1,
            Err(error) => assert!(error.to_string().contains("-31902"), "{error}"),
        }
        times.push(took);
        kept.push(agent);
    }
    let stats = server.stats();
    println!(
        "pinned herd over {front:?} (leaving: {leave}): {served} of {agents} served, {} sessions opened, p99 {:?}",
        stats.sessions_opened,
        percentile(&mut times, 0.99)
    );
    assert_eq!(stats.sessions_refused, 0);
    if leave {
        assert_eq!(served, agents, "a place became free for everybody");
    } else {
        assert_eq!((served as usize, server.session_ids().len()), (places, places));
    }
    drop(kept);
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_of_pinned_agents_that_leave_is_served_place_by_place() {
    for front in WIRES {
        pinned_herd(front, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_of_pinned_agents_that_stay_fills_the_places_and_the_rest_is_told_in_time() {
    for front in WIRES {
        pinned_herd(front, false).await;
    }
}
