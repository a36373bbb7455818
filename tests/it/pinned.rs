//! Agents that a server may ask things: each has a session of its own, and is asked by nobody else's.

use mcpool_testkit::{
    Lane, Script, Server,
    agent::{Agent, AgentConfig, Transport},
};
use mcpool_upstream::{ModeChoice, TransportChoice};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Wish, connect_refused},
    rig::{Rig, Wanted},
};

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

fn crowded(server: &Server, places: usize) -> Wanted {
    let mut wanted = Wanted { mode: ModeChoice::Pinned, ..Wanted::shared(server.url_http()) };
    wanted.transport = TransportChoice::Http;
    wanted.limits.max_sessions = places;
    wanted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_nobody_used_for_long_gives_way_and_its_agent_initializes_again() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let mut wanted = crowded(&server, 2);
    wanted.times.pinned_idle = std::time::Duration::from_millis(300);
    let rig = Rig::start(wanted).await;
    let anna = person(&rig, Transport::Http, "anna").await;
    let bert = person(&rig, Transport::Http, "bert").await;
    let busy = async {
        loop {
            bert.call_tool("echo", json!({ "nonce": "b" })).await.expect("its session is its own");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let coming = async {
        tokio::select! {
            carl = person(&rig, Transport::Http, "carl") => carl,
            () = busy => unreachable!("it goes on"),
        }
    };
    let carl = tokio::time::timeout(std::time::Duration::from_secs(20), coming).await.expect("a place");
    carl.call_tool("echo", json!({ "nonce": "c" })).await.expect("served");
    let gone = anna.call_tool("echo", json!({ "nonce": "a" })).await.expect_err("it gave way");
    assert!(matches!(gone, mcpool_testkit::agent::AgentError::Http { status: 404, .. }), "{gone:?}");
    for agent in [anna, bert, carl] {
        agent.close().await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_wait_for_a_session_are_seen_and_told_what_to_raise() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let mut wanted = crowded(&server, 1);
    wanted.times.queue = std::time::Duration::from_secs(2);
    let rig = Rig::start(wanted).await;
    let anna = person(&rig, Transport::Http, "anna").await;
    let bert = Agent::connect(AgentConfig::http(rig.url_http())).await.expect("connected");
    let backend = rig.gateway.backends().remove(0);
    let seen = async {
        while backend.backend.status().applicants.0 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        backend.state()
    };
    let (told, (state, why)) = tokio::join!(bert.initialize(), seen);
    let told = format!("{:?}", told.expect_err("there is one session only"));
    assert!(told.contains(".max_sessions") && told.contains("1 of 1 are taken"), "{told}");
    assert!(state == "full" && why.contains("waiting for one: 1 agent;"), "{state}: {why}");
    assert_eq!(backend.backend.status().applicants, (0, None), "it does not wait any more");
    // Who is there is served, so a resume is through at once.
    let resumed =
        backend.perform(mcpool_router::verbs::Verb::Resume, std::time::Duration::from_secs(10)).await;
    assert!(resumed.is_done, "{}", resumed.sentence);
    anna.close().await;
    bert.close().await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_gets_no_session_of_its_own_is_told_in_plain_words() {
    let lab = Lab::scripted(Wish { mode: ModeChoice::Pinned, ..Wish::default() });
    lab.memory.goes_down(&connect_refused());
    let error = lab.try_agent(1, None, json!({})).await.err().expect("nobody is there");
    let told = "backend \"lab\" has not given the agent a session within ";
    assert!(error.message.starts_with(told), "{}", error.message);
}
