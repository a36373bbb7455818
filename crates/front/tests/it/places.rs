//! Places for agent sessions: however many come at once, and however long their backend lets them wait, there are never
//! more than there may be.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
};

use mcpool_front::{FrontConfig, FrontLimits, Unauthenticated};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    client::{Got, Running, initialize, start_at, start_with, tool, until},
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
    assert_eq!(ask(20, "echo").await.json()["result"]["content"], json!(null));
    until("two of the links went", || front.gauges.modern_agents.load(Ordering::SeqCst) == 3).await;
}

/// An address of this machine that is not loopback: a peer that connects to it comes from there.
fn outer_address() -> Option<IpAddr> {
    // Nothing is sent: this only asks which way it would go.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn a_peer_is_counted_for_those_who_come_back() {
    let Some(at) = outer_address() else { return };
    let keys = mcpool_front::SessionKeys::new(&[mcpool_front::SessionKey::random().unwrap()]);
    let begin = async |sessions_per_peer| {
        let limits = FrontLimits { sessions_per_peer, ..FrontLimits::default() };
        let sessions = mcpool_front::SessionsConfig { keys: keys.clone(), ..Default::default() };
        let (allowed_hosts, unauthenticated) = (vec![at.to_string()], Unauthenticated::Allow);
        let config =
            FrontConfig { allowed_hosts, unauthenticated, limits, sessions, ..FrontConfig::default() };
        start_at(config, (at, 0).into()).await
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
