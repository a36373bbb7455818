//! Places for agent sessions: however many come at once, and however long their backend lets them wait, there are never
//! more than there may be.

use std::sync::{Arc, atomic::Ordering};

use mcpool_front::{FrontConfig, FrontLimits};
use tokio::sync::Semaphore;

use crate::{
    client::{Got, Running, initialize, start_with, tool, until},
    lives::Lives,
    modern,
};

fn statuses(all: &[Got], status: u16) -> usize {
    all.iter().filter(|got| got.status == status).count()
}

/// Nothing of the backend is ready before this has permits.
fn gated(front: &Running) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    *front.script.open_gate.lock().unwrap() = Some(Arc::clone(&gate));
    gate
}

#[tokio::test]
async fn a_hundred_at_once_are_ten_where_there_is_place_for_ten() {
    let limits = FrontLimits { agent_sessions: 10, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    // What they keep at their backend would be lost: nobody gives way.
    front.script.own.store(true, Ordering::SeqCst);
    let gate = gated(&front);
    let bodies: Vec<_> = (0..100).map(initialize).collect();
    let all = futures::future::join_all(bodies.iter().map(|body| front.post("/mcp", &[], body)));
    let release = async {
        until("the others are refused", || front.script.saw("responded http 503 gateway") == 90).await;
        assert_eq!(front.script.opened.load(Ordering::SeqCst), 10);
        gate.add_permits(100);
    };
    let (all, ()) = tokio::join!(all, release);
    assert_eq!((statuses(&all, 200), statuses(&all, 503)), (10, 90));
    assert_eq!(front.get("/sse", &[]).await.status, 503);
    // Who leaves, and who was never ready, leaves its place to the next.
    let leaver = all.iter().find(|got| got.status == 200).unwrap();
    let headers = [("mcp-session-id", leaver.headers["mcp-session-id"].to_str().unwrap())];
    assert_eq!(front.send("DELETE", "/mcp", &headers, "").await.status(), 200);
    front.session("/mcp").await;
}

#[tokio::test]
async fn who_comes_back_takes_its_place_before_it_waits() {
    let mut lives = Lives::new();
    let mut front = lives.begin().await;
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(front.session("/mcp").await);
    }
    lives.limits.agent_sessions = 5;
    front = lives.again(front).await;
    let gate = gated(&front);
    let body = tool(1, "echo");
    let all = futures::future::join_all(sessions.iter().map(|id| front.call(id, &body)));
    let release = async {
        until("the others are refused", || front.script.saw("Full") == 7).await;
        // Whoever is new finds none either.
        assert_eq!(front.post("/mcp", &[], &initialize(1)).await.status, 503);
        gate.add_permits(100);
    };
    let (all, ()) = tokio::join!(all, release);
    assert_eq!((statuses(&all, 200), statuses(&all, 503)), (5, 7));
    assert_eq!(front.script.opened.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn callers_without_session_take_places_too_and_give_way_when_idle() {
    let limits = FrontLimits { agent_sessions: 4, ..FrontLimits::default() };
    let front = start_with(FrontConfig { limits, ..FrontConfig::default() }).await;
    let ask = async |name: usize, tool: &str| {
        let body = modern::call(name, tool);
        let mut headers = modern::headers(&body);
        headers.push(("mcpool-affinity".to_owned(), name.to_string()));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        front.post("/mcp", &headers, &body).await
    };
    let all = futures::future::join_all((0..12).map(|name| ask(name, "gated")));
    let release = async {
        until("the others are refused", || front.script.saw("responded http 503 gateway") == 8).await;
        assert_eq!((front.calls(), front.script.opened.load(Ordering::SeqCst)), (4, 4));
        front.script.gate.open();
    };
    let (all, ()) = tokio::join!(all, release);
    assert_eq!((statuses(&all, 200), statuses(&all, 503)), (4, 8));
    until("their calls are over", || front.gauges.calls.load(Ordering::SeqCst) == 0).await;
    // Links that nobody needs now keep nobody out.
    front.session("/mcp").await;
    let held = || {
        let gauges = &front.gauges;
        (gauges.modern_agents.load(Ordering::SeqCst), gauges.http_agents.load(Ordering::SeqCst))
    };
    until("one of the links went", || held() == (3, 1)).await;
    assert_eq!(ask(20, "echo").await.status, 200);
    assert_eq!(held(), (4, 0), "nor does a session its id brings back");
}

#[tokio::test]
async fn a_peer_is_counted_for_those_who_come_back() {
    let keys = mcpool_front::SessionKeys::new(&[mcpool_front::SessionKey::random().unwrap()]);
    let begin = async |sessions_per_peer| {
        let limits = FrontLimits { sessions_per_peer, count_loopback: true, ..FrontLimits::default() };
        let sessions = mcpool_front::SessionsConfig { keys: keys.clone(), ..Default::default() };
        start_with(FrontConfig { limits, sessions, ..FrontConfig::default() }).await
    };
    let front = begin(9).await;
    let sessions = [front.session("/mcp").await, front.session("/mcp").await, front.session("/mcp").await];
    front.killed().await;
    let front = begin(2).await;
    let mut all = Vec::new();
    for id in &sessions {
        all.push(front.call(id, &tool(1, "echo")).await.status.as_u16());
    }
    assert_eq!(all, [200, 200, 429]);
    assert_eq!(front.post("/mcp", &[], &initialize(1)).await.status, 429);
}
