//! The scriptable agent against the scriptable backend, over real sockets on loopback.
//!
//! The subtle thing: most tests run once per transport through [`both`], because a knob that works on one wire
//! only is worse than none.

#![allow(missing_docs, unreachable_pub)]

mod basics;
mod dialects;
mod faults;
mod fixture;
mod hostile;
mod lifecycle;
mod network;
mod residue;
mod talk;

use std::time::Duration;

use mcpool_testkit::{Agent, AgentConfig, Script, Server, Transport};

/// Patience of a test that expects success; never waited out when things work.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Patience of a test that expects silence.
pub const SILENCE: Duration = Duration::from_millis(150);

/// Both wires.
pub const BOTH: [Transport; 2] = [Transport::Sse, Transport::Http];

pub async fn serve(script: Script) -> Server {
    Server::start(script).await.expect("binds")
}

pub fn config(server: &Server, transport: Transport) -> AgentConfig {
    let url = match transport {
        Transport::Sse => server.url_sse(),
        Transport::Http => server.url_http(),
    };
    AgentConfig::new(url, transport)
}

pub async fn ready(server: &Server, transport: Transport) -> Agent {
    Agent::ready(config(server, transport)).await.expect("a handshake")
}

/// Polls a condition of the other side until it holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The text of a tool result.
pub fn text(result: &serde_json::Value) -> &str {
    result["content"][0]["text"].as_str().expect("a text")
}
