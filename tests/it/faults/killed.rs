//! `kill -9` of an HTTP backend with a hundred calls in flight (F1). That of a program is in `stdio`.

use super::*;

use futures::future::join_all;
use mcpool_upstream::Limits;

use crate::wires::{PAIRS, config, until};

const SAFE: usize = 50;
const ALL: usize = 100;

/// What becomes of its port.
#[derive(Clone, Copy, Debug)]
enum Port {
    /// It closes, and opens again.
    Closed,
    /// It stays open; who connects waits for the next process.
    Kept,
}

/// What ended or did not begin.
fn ends(rig: &Rig) -> Vec<String> {
    let events = rig.seen.events.lock().expect("not poisoned");
    let is_end = |event: &&String| event.starts_with("Closed") || event.starts_with("OpenFailed");
    events.iter().filter(is_end).cloned().collect()
}

async fn kill(front: Transport, back: Transport, port: Port) {
    let script = Script { state_tools: true, record: 2_000, ..Script::default() };
    let server = serve(script).await;
    // One session, so that there is one connection to break.
    let limits = Limits { shared_sessions: 1, calls_per_session: 128, ..Limits::default() };
    let rig = Rig::start(Wanted { limits, ..wanted(&server, back, ModeChoice::Shared) }).await;
    let agents = join_all((0..ALL).map(|_| Agent::ready(config(&rig, front)))).await;
    let agents: Vec<Agent> = agents.into_iter().map(|agent| agent.expect("an agent")).collect();
    let subscriber = Agent::ready(config(&rig, front).listening()).await.expect("an agent");
    let subscribed = subscriber.request("resources/subscribe", json!({ "uri": "demo://readme" })).await;
    subscribed.expect("subscribed");
    subscriber.request("logging/setLevel", json!({ "level": "debug" })).await.expect("set");
    let opened = server.stats().sessions_opened;

    let calls = agents.iter().enumerate().map(async |(n, agent)| {
        let outcome = if n < SAFE {
            agent.call_tool("sleep", json!({ "ms": 1_500, "nonce": n.to_string() })).await
        } else {
            agent.call_tool("store", json!({ "ms": 60_000, "value": n.to_string() })).await
        };
        (outcome, Instant::now())
    });
    let killed = async {
        until("all are in flight", || server.stats().in_flight == ALL as u64).await;
        let _ = server.take_recorded();
        match port {
            Port::Closed => server.restart().await.expect("the same port"),
            Port::Kept => server.replace().await,
        }
        Instant::now()
    };
    let (outcomes, killed) = tokio::join!(join_all(calls), killed);
    let what = format!("{front:?} -> {back:?}, {port:?}");
    for (n, (outcome, ended)) in outcomes.into_iter().enumerate() {
        if n < SAFE {
            assert_eq!(text_of(&outcome.unwrap_or_else(|e| panic!("{what} {n}: {e}"))), n.to_string());
        } else {
            let (code, data) = refusal(outcome);
            assert_eq!((code, &data["executed"]), (-31905, &json!("maybe")), "{what} {n}: {data}");
            let took = ended.saturating_duration_since(killed);
            assert!(took < SLACK, "{what}: told after {took:?}");
        }
    }
    assert!(server.stored().is_empty(), "{what}: an unsafe call ran again: {:?}", server.stored());
    let now = tokio::time::Instant::now().into_std();
    let incidents = rig.gateway.backends()[0].breaker.snapshot(now).incidents;
    // What broke is one incident. Each connection that is refused while the port is closed is one of its own.
    let total: u64 = incidents.iter().map(|(_, times)| *times).sum();
    let broken: u64 = incidents.iter().filter(|(kind, _)| *kind != "connect").map(|(_, times)| *times).sum();
    match port {
        Port::Closed => {
            assert!(broken <= 1 && (1..=3).contains(&total), "{what}: {incidents:?} {:?}", ends(&rig));
        }
        Port::Kept => assert_eq!(incidents, [("broken", 1)], "{what}: {:?}", ends(&rig)),
    }
    let fresh = server.stats().sessions_opened - opened;
    assert!((1..=2).contains(&fresh), "{what}: {fresh} sessions were opened for all of them");
    until("subscribed again", || server.subscriptions().contains("demo://readme")).await;
    until("told of it", || {
        subscriber.notifications().iter().any(|(method, _)| method == "notifications/resources/updated")
    })
    .await;
    let mut sent = Vec::new();
    until("the level is set again", || {
        sent.extend(
            server.take_recorded().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()),
        );
        sent.iter().any(|body| body.contains("logging/setLevel") && body.contains("debug"))
    })
    .await;
    is_served(&subscriber, "afterwards").await;
    drop((agents, subscriber));
    over(rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_costs_the_calls_that_may_have_changed_something_and_nothing_else() {
    for (front, back) in PAIRS {
        kill(front, back, Port::Closed).await;
        kill(front, back, Port::Kept).await;
    }
}
