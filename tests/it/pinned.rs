//! Agents that a server may ask things: each has a session of its own, and is asked by nobody else's.

use mcpool_testkit::{
    Lane, Script, Server,
    agent::{Agent, AgentConfig, Transport},
};
use mcpool_upstream::{ModeChoice, TransportChoice};
use serde_json::{Value, json};

use crate::rig::{Rig, Wanted};

const WIRES: [Transport; 2] = [Transport::Sse, Transport::Http];

async fn rig_for(server: &Server, back: Transport) -> Rig {
    let (url, transport) = match back {
        Transport::Sse => (server.url_sse(), TransportChoice::Sse),
        Transport::Http => (server.url_http(), TransportChoice::Http),
    };
    Rig::start(Wanted { transport, mode: ModeChoice::Auto, ..Wanted::shared(url) }).await
}

/// An agent with every interactive capability, which answers with its own name.
async fn person(rig: &Rig, front: Transport, name: &'static str) -> Agent {
    let config = match front {
        Transport::Sse => AgentConfig::sse(rig.url_sse()),
        Transport::Http => AgentConfig::http(rig.url_http()),
    };
    let able = json!({ "elicitation": {}, "sampling": {}, "roots": {} });
    let agent = Agent::connect(config.with_capabilities(able)).await.expect("connected");
    agent.on_request(move |method, _| {
        Some(Ok(match method {
            "elicitation/create" => json!({ "action": "accept", "content": { "answer": name } }),
            "sampling/createMessage" => {
                json!({ "role": "assistant", "content": { "type": "text", "text": name }, "model": "none" })
            }
            "roots/list" => json!({ "roots": [{ "uri": format!("file:///{name}") }] }),
            other => return Some(Err((-32601, format!("not {other}")))),
        }))
    });
    agent.initialize().await.expect("initialized");
    agent
}

async fn everybody_is_asked_himself(front: Transport, back: Transport, lane: Lane) {
    let server = Server::start(Script { ask_on: lane, ..Script::default() }).await.expect("a backend");
    let rig = rig_for(&server, back).await;
    let (anna, bert) = (person(&rig, front, "anna").await, person(&rig, front, "bert").await);
    let ask = async |agent: &Agent, kind: &str| -> Value {
        agent.call_tool("ask", json!({ "kind": kind, "message": "who are you" })).await.expect("answered")
    };
    for kind in ["elicitation", "sampling", "roots"] {
        let (a, b) = tokio::join!(ask(&anna, kind), ask(&bert, kind));
        let what = format!("{kind} {front:?} -> {back:?} on {lane:?}: {a} {b}");
        assert!(a.to_string().contains("anna") && !a.to_string().contains("bert"), "{what}");
        assert!(b.to_string().contains("bert") && !b.to_string().contains("anna"), "{what}");
    }
    // Two people, two sessions, and none of them the shared one.
    let of =
        async |agent: &Agent| agent.call_tool("session", json!({})).await.expect("a session").to_string();
    let neutral = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent");
    let sessions = [of(&anna).await, of(&bert).await, of(&neutral).await];
    assert!(
        sessions[0] != sessions[1] && sessions[1] != sessions[2] && sessions[0] != sessions[2],
        "{sessions:?}"
    );
    // On the shared session the tool has nobody to ask, and asks nobody.
    let asks = server.stats().asks;
    let refused = neutral.call_tool("ask", json!({ "kind": "elicitation", "message": "?" })).await;
    assert_eq!(server.stats().asks, asks, "{refused:?}");
    for agent in [anna, bert, neutral] {
        agent.close().await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_asked_only_what_its_own_session_asks() {
    for back in WIRES {
        for front in WIRES {
            for lane in [Lane::Post, Lane::Get] {
                everybody_is_asked_himself(front, back, lane).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_own_session_broke_has_to_initialize_again() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let rig = rig_for(&server, Transport::Http).await;
    let anna = person(&rig, Transport::Http, "anna").await;
    anna.call_tool("echo", json!({ "nonce": "1" })).await.expect("served");
    server.forget_sessions(false);
    // The state of its session is gone: nothing is replaced behind its back.
    let lost = anna.call_tool("echo", json!({ "nonce": "2" })).await.expect_err("lost");
    assert!(format!("{lost:?}").contains("31905"), "{lost:?}");
    let unknown = async {
        loop {
            match anna.call_tool("echo", json!({ "nonce": "3" })).await {
                Err(mcpool_testkit::agent::AgentError::Http { status: 404, .. }) => break,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                Ok(answer) => panic!("served on another session: {answer}"),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), unknown).await.expect("the agent is told");
    anna.close().await;
    let again = person(&rig, Transport::Http, "anna").await;
    again.call_tool("echo", json!({ "nonce": "4" })).await.expect("served again");
    again.close().await;
    rig.stop().await;
}
