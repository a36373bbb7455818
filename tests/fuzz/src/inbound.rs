//! The whole inbound stack over connections in memory, on paused time: whatever bytes come, nothing panics, nothing is
//! the gateway's fault, every request is answered or its connection closed, and when all agents are gone nothing of
//! them is left.
//!
//! An input is what an agent writes, as text. The byte 0xFF ends a write, and two of them end the connection, behind
//! which the next one begins. `$S` stands for the id of a Streamable HTTP session, `$E` for that of an HTTP+SSE
//! session, `$L` for the number of bytes of the write behind its first empty line.

mod client;
mod reply;
mod script;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mcpool_front::{AllowAll, FrontConfig, FrontLimits, FrontTimes, Gauges, Server, fuzzing};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};

use self::{
    client::{Client, Sessions},
    script::{Healthy, Script, Scripted},
};

/// Longer than any time of [`times`] but those of sessions: whatever is open afterwards stays open.
const SETTLED: Duration = Duration::from_secs(100);
/// An agent session without anything ends within this.
const FORGOTTEN: Duration = Duration::from_secs(400);
/// More connections than that are one agent's no more.
const CONNECTIONS: usize = 8;

/// What agents write.
pub fn inbound(data: &[u8]) {
    script::watch_for_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(talk(data));
    assert!(!script::has_panicked(), "a task of the front panicked");
}

async fn talk(data: &[u8]) {
    let script = Arc::new(Script::default());
    let backends = Arc::new(Scripted(Arc::clone(&script)));
    let server =
        Server::new(config(), backends, Arc::clone(&script) as _, Arc::new(Healthy), Arc::new(AllowAll));
    let gauges = server.gauges();
    let (connect, connections) = mpsc::channel(CONNECTIONS + 2);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let running = tokio::spawn(fuzzing::run(server, connections, stopped));

    let sessions = Sessions::open(data, &connect).await;
    let mut clients = Vec::new();
    for writes in conversations(data).into_iter().take(CONNECTIONS) {
        clients.push(Client::write(&connect, &writes, &sessions).await);
    }
    tokio::time::sleep(SETTLED).await;
    clients.iter().for_each(Client::judge);
    drop((clients, sessions));
    tokio::time::sleep(FORGOTTEN).await;
    nothing_is_left(&gauges, &script);
    let _ = stop.send(());
    let left = running.await.expect("the server does not panic");
    assert_eq!((left.connections, left.calls), (0, 0));
}

/// The writes of each connection.
fn conversations(data: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all = vec![Vec::new()];
    for write in data.split(|byte| *byte == 0xff) {
        match all.last_mut() {
            Some(writes) if !write.is_empty() => writes.push(write),
            _ => all.push(Vec::new()),
        }
    }
    all.retain(|writes| !writes.is_empty());
    all
}

fn config() -> FrontConfig {
    let limits = FrontLimits {
        body_bytes: 16 << 10,
        header_bytes: 8 << 10,
        calls_per_agent: 4,
        outbound_messages: 16,
        outbound_bytes: 64 << 10,
        replay_events: 8,
        replay_bytes: 16 << 10,
        ..FrontLimits::default()
    };
    FrontConfig { limits, times: times(), ..FrontConfig::default() }
}

fn times() -> FrontTimes {
    FrontTimes {
        header: Duration::from_secs(5),
        keep_alive: Duration::from_secs(20),
        body_idle: Duration::from_secs(5),
        write_stall: Duration::from_secs(10),
        call: Duration::from_secs(30),
        open: Duration::from_secs(10),
        reconnect_grace: Duration::from_secs(10),
        orphan: Duration::from_secs(40),
        agent_idle: Duration::from_secs(200),
        ..FrontTimes::default()
    }
}

fn nothing_is_left(gauges: &Gauges, script: &Script) {
    for (name, gauge) in [
        ("connections", &gauges.connections),
        ("sse_agents", &gauges.sse_agents),
        ("http_agents", &gauges.http_agents),
        ("modern_agents", &gauges.modern_agents),
        ("calls", &gauges.calls),
        ("parked", &gauges.parked),
        ("adopted", &gauges.adopted),
        ("buffered_bytes", &gauges.buffered_bytes),
        ("replay_bytes", &gauges.replay_bytes),
    ] {
        assert_eq!(gauge.load(Ordering::Relaxed), 0, "{name} are left");
    }
    assert_eq!(script.links.load(Ordering::Relaxed), 0, "links are left");
    assert_eq!(script.running.load(Ordering::Relaxed), 0, "calls are left");
}

/// A connection to the server.
async fn connect(to: &mpsc::Sender<DuplexStream>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(32 << 10);
    to.send(theirs).await.expect("the server accepts");
    ours
}
