//! Both wires on both sides: who connects to whom, and what the tests ask of them.

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig, Transport},
};
use mcpool_upstream::{ModeChoice, TransportChoice};
use serde_json::{Value, json};

use crate::rig::{Rig, Wanted};

pub(crate) const WIRES: [Transport; 2] = [Transport::Sse, Transport::Http];

/// Every pair of wires, the agents' first.
pub(crate) const PAIRS: [(Transport, Transport); 4] = [
    (Transport::Sse, Transport::Sse),
    (Transport::Sse, Transport::Http),
    (Transport::Http, Transport::Sse),
    (Transport::Http, Transport::Http),
];

pub(crate) async fn serve(script: Script) -> Server {
    Server::start(script).await.expect("a backend")
}

/// What a gateway in front of this server is asked to be.
pub(crate) fn wanted(server: &Server, back: Transport, mode: ModeChoice) -> Wanted {
    let (url, transport) = match back {
        Transport::Sse => (server.url_sse(), TransportChoice::Sse),
        Transport::Http => (server.url_http(), TransportChoice::Http),
    };
    Wanted { transport, mode, ..Wanted::shared(url) }
}

pub(crate) async fn rig(server: &Server, back: Transport, mode: ModeChoice) -> Rig {
    Rig::start(wanted(server, back, mode)).await
}

pub(crate) fn config(rig: &Rig, front: Transport) -> AgentConfig {
    match front {
        Transport::Sse => AgentConfig::sse(rig.url_sse()),
        Transport::Http => AgentConfig::http(rig.url_http()),
    }
}

pub(crate) async fn agent(rig: &Rig, front: Transport) -> Agent {
    Agent::ready(config(rig, front)).await.expect("an agent")
}

/// What a tool said.
pub(crate) async fn said(agent: &Agent, tool: &str, arguments: Value) -> String {
    let answer = agent.call_tool(tool, arguments).await;
    text_of(&answer.unwrap_or_else(|error| panic!("{tool}: {error}"))).to_owned()
}

pub(crate) async fn echoes(agent: &Agent, nonce: &str) {
    assert_eq!(said(agent, "echo", json!({ "nonce": nonce })).await, nonce, "a foreign answer");
}

pub(crate) fn text_of(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

/// Waits, in real time, for the other side.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// No status but 2xx to any agent, nothing held, nothing left.
pub(crate) async fn over(rig: Rig) {
    rig.idle().await;
    assert!(rig.seen.non_2xx().is_empty(), "{:?}", rig.seen.non_2xx());
    rig.stop().await;
}

/// The same, but for one answer of this status that was meant.
pub(crate) async fn over_but(rig: Rig, meant: u16) {
    rig.idle().await;
    assert_eq!(rig.seen.non_2xx().into_iter().collect::<Vec<_>>(), [(meant, 1)]);
    rig.stop().await;
}
