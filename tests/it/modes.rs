//! Who gets which session: exclusive for a request, none at all, and sharing that is withdrawn at the first sign.

use std::{collections::BTreeSet, time::Duration};

use mcpool_testkit::{
    Lane, Script, Server,
    agent::{Agent, AgentConfig, AgentError, Transport},
};
use mcpool_upstream::{Limits, ModeChoice, Sharing, StateChoice, TransportChoice, transport::memory::Memory};
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Wish},
    rig::{Rig, Wanted},
};

const WIRES: [Transport; 2] = [Transport::Sse, Transport::Http];

fn wanted(server: &Server, back: Transport, mode: ModeChoice) -> Wanted {
    let (url, transport) = match back {
        Transport::Sse => (server.url_sse(), TransportChoice::Sse),
        Transport::Http => (server.url_http(), TransportChoice::Http),
    };
    Wanted { transport, mode, ..Wanted::shared(url) }
}

/// An agent that answers what it is asked with its own name.
async fn person(rig: &Rig, front: Transport, name: String) -> Agent {
    let config = match front {
        Transport::Sse => AgentConfig::sse(rig.url_sse()),
        Transport::Http => AgentConfig::http(rig.url_http()),
    };
    let agent = Agent::connect(config.with_capabilities(json!({ "elicitation": {}, "sampling": {} })))
        .await
        .expect("connected");
    agent.on_request(move |_, _| Some(Ok(json!({ "action": "accept", "content": { "answer": name } }))));
    agent.initialize().await.expect("initialized");
    agent
}

async fn ask(agent: &Agent) -> Result<Value, AgentError> {
    agent.call_tool("ask", json!({ "kind": "elicitation" })).await
}

async fn session_of(agent: &Agent) -> String {
    agent.call_tool("session", json!({})).await.expect("answered").to_string()
}

fn mode_of(rig: &Rig) -> (&'static str, &'static str) {
    let decision = rig.gateway.backends()[0].backend.status().mode.expect("decided");
    (decision.mode.as_str(), decision.reason.as_str())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_exclusive_session_the_one_is_asked_whose_call_it_serves() {
    const PEOPLE: usize = 6;
    for back in WIRES {
        for (front, lane) in
            [(Transport::Http, Lane::Post), (Transport::Http, Lane::Get), (Transport::Sse, Lane::Post)]
        {
            let server =
                Server::start(Script { ask_on: lane, ..Script::default() }).await.expect("a backend");
            let limits = Limits { max_sessions: 2, ..Limits::default() };
            let rig = Rig::start(Wanted { limits, ..wanted(&server, back, ModeChoice::Exclusive) }).await;
            let mut people = Vec::new();
            for n in 0..PEOPLE {
                people.push(person(&rig, front, format!("person-{n}.")).await);
            }
            // More at once than there are sessions, several of each.
            let asks = people.iter().flat_map(|agent| [ask(agent), ask(agent), ask(agent)]);
            let answers = futures::future::join_all(asks).await;
            for (n, answer) in answers.into_iter().enumerate() {
                let own = format!("person-{}.", n / 3);
                let text =
                    answer.unwrap_or_else(|why| panic!("{front:?} {back:?} {lane:?}: {why}")).to_string();
                assert!(text.contains(&own), "{front:?} {back:?} {lane:?}: {own} got {text}");
            }
            // A server notices a moment later that an HTTP+SSE stream has ended, which makes room for another.
            let most = if back == Transport::Sse { 3 } else { 2 };
            assert!(server.stats().sessions_peak <= most, "{back:?}: {}", server.stats().sessions_peak);
            for agent in people {
                agent.close().await;
            }
            rig.idle().await;
            rig.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_session_serves_one_request_and_is_deleted() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let sharing = Sharing { reset_on_release: true, ..Sharing::default() };
    let limits = Limits { max_sessions: 3, min_idle: 1, ..Limits::default() };
    let want = wanted(&server, Transport::Http, ModeChoice::Exclusive);
    let rig = Rig::start(Wanted { limits, sharing, ..want }).await;
    let agents = [
        Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
        Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
    ];
    let calls = (0..20).map(|n| session_of(&agents[n % 2]));
    let seen = futures::future::join_all(calls).await;
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 20, "each call found a fresh session: {seen:?}");
    // One that a caller leaves in the middle is not lent on either.
    let config = AgentConfig::http(rig.url_http()).with_timeout(Duration::from_millis(200));
    let leaver = Agent::ready(config).await.expect("an agent");
    let _ = leaver.call_tool("sleep", json!({ "ms": 1_000 })).await;
    leaver.close().await;
    until("every used session is deleted", || server.stats().deletes >= 21).await;
    assert!(server.stats().sessions_peak <= 3);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_reset_an_exclusive_session_is_used_again() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let rig = Rig::start(wanted(&server, Transport::Http, ModeChoice::Exclusive)).await;
    let agent = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent");
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        seen.insert(session_of(&agent).await);
    }
    assert_eq!(seen.len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_session_ids_is_used_without_sessions() {
    let script = Script { no_session_id: true, ..Script::default() };
    let server = Server::start(script).await.expect("a backend");
    let rig = Rig::start(wanted(&server, Transport::Http, ModeChoice::Auto)).await;
    let neutral = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent");
    let interactive = person(&rig, Transport::Http, "x".to_owned()).await;
    for agent in [&neutral, &interactive] {
        agent.call_tool("echo", json!({ "nonce": "1" })).await.expect("answered");
    }
    assert_eq!(mode_of(&rig), ("stateless", "no_session"));
    let status = rig.gateway.backends()[0].backend.status();
    assert!(status.sessions.iter().all(|session| session.mode.as_str() == "stateless"), "{status:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_declares_that_a_server_keeps_nothing_lends_its_sessions_to_one_after_the_other() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let sharing = Sharing { state: StateChoice::None, ..Sharing::default() };
    let rig = Rig::start(Wanted { sharing, ..wanted(&server, Transport::Http, ModeChoice::Auto) }).await;
    let people = [
        person(&rig, Transport::Http, "anna".to_owned()).await,
        person(&rig, Transport::Http, "bert".to_owned()).await,
    ];
    for (agent, name) in people.iter().zip(["anna", "bert"]) {
        assert!(ask(agent).await.expect("answered").to_string().contains(name));
    }
    // One after the other they were served by one session: nothing is pinned.
    let sessions = [session_of(&people[0]).await, session_of(&people[1]).await];
    assert_eq!(sessions[0], sessions[1]);
    assert_eq!(mode_of(&rig), ("shared", "state_none"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_changes_for_one_session_only_ends_sharing_for_new_agents() {
    for back in WIRES {
        let server = Server::start(Script::default()).await.expect("a backend");
        let rig = Rig::start(wanted(&server, back, ModeChoice::Auto)).await;
        let before = Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent");
        let shared = session_of(&before).await;
        assert_eq!(mode_of(&rig), ("shared", "probation"));
        let id =
            server.session_ids().into_iter().find(|id| shared.contains(id.as_str())).expect("its session");
        assert!(server.notify_session(&id, "notifications/tools/list_changed", &json!({})));
        until("sharing ends", || mode_of(&rig) == ("pinned", "demoted")).await;
        let after = [
            Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
            Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
        ];
        let own = [session_of(&after[0]).await, session_of(&after[1]).await];
        assert!(own[0] != own[1] && own[0] != shared && own[1] != shared, "{own:?} {shared}");
        // Who was there before keeps what it had.
        assert_eq!(session_of(&before).await, shared);
        let events = rig.seen.events.lock().expect("not poisoned").clone();
        assert_eq!(events.iter().filter(|event| event.starts_with("Demoted")).count(), 1, "{events:?}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_every_session_announces_is_no_sign() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let limits = Limits { calls_per_session: 1, shared_sessions: 2, ..Limits::default() };
    let rig = Rig::start(Wanted { limits, ..wanted(&server, Transport::Http, ModeChoice::Auto) }).await;
    let agents = [
        Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
        Agent::ready(AgentConfig::http(rig.url_http())).await.expect("an agent"),
    ];
    // Two sessions, because the calls of the two agents overlap.
    let long = || json!({ "ms": 300 });
    let _ = tokio::join!(agents[0].call_tool("sleep", long()), agents[1].call_tool("sleep", long()));
    until("two sessions", || server.session_ids().len() == 2).await;
    session_of(&agents[0]).await;
    assert_eq!(server.notify("notifications/tools/list_changed", &json!({})), 2);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(mode_of(&rig), ("shared", "probation"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_question_nobody_may_be_asked_ends_sharing() {
    let lab = Lab::scripted(Wish::default());
    let agent = lab.agent(1).await;
    agent.run("echo", &json!({})).await.expect("answered");
    let question = r#"{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}"#;
    lab.memory.last().say(question);
    lab.until("it is refused", |lab| {
        lab.memory
            .sessions()
            .iter()
            .any(|s| s.sent().iter().any(|m| m.starts_with(br#"{"jsonrpc":"2.0","id":"q""#)))
    })
    .await;
    assert_eq!(lab.seen.lines().iter().filter(|line| line.starts_with("Demoted")).count(), 1);
    assert!(agent.inbox.taken().is_empty(), "and nobody was asked");
    let (one, two) = (lab.agent(2).await, lab.agent(3).await);
    assert_eq!((one.link_mode(), two.link_mode()), ("pinned", "pinned"));
    assert_eq!(agent.link_mode(), "shared");
}

#[tokio::test(start_paused = true)]
async fn two_sessions_that_list_different_tools_end_sharing() {
    // The second session has a tool the first has not.
    let memory = Memory::new(|turn| async move {
        let reply = turn.reply().map(|reply| String::from_utf8_lossy(&reply).into_owned());
        let extra = r#"{"name":"admin","inputSchema":{"type":"object"}},"#;
        if turn.method() == Some(mcpool_wire::Method::ToolsCall) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let tools = format!("\"tools\":[{}", if turn.session.index() == 1 { extra } else { "" });
        reply.map(|reply| reply.replace("\"tools\":[", &tools).into()).into_iter().collect()
    });
    let limits = Limits { calls_per_session: 1, min_idle: 0, ..Limits::default() };
    let lab = Lab::start(memory, Wish { limits, ..Wish::default() });
    let agents = [lab.agent(1).await, lab.agent(2).await];
    let nothing = json!({});
    let _ = tokio::join!(agents[0].run("echo", &nothing), agents[1].run("echo", &nothing));
    lab.until("the difference is noticed", |lab| lab.seen.count("demoted") == 1).await;
    let why = lab.registered.backend.status().demotion.expect("demoted").why;
    assert!(why.contains("admin"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_with_different_forwarded_headers_never_meet() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let forward_headers = vec!["x-tenant".parse().expect("a name")];
    let sharing = Sharing { forward_headers, ..Sharing::default() };
    let rig = Rig::start(Wanted { sharing, ..wanted(&server, Transport::Http, ModeChoice::Shared) }).await;
    let mut of = std::collections::BTreeMap::<&str, BTreeSet<String>>::new();
    for tenant in ["red", "blue", "red", "blue", "red"] {
        let mut config = AgentConfig::http(rig.url_http());
        config.headers.push(("X-Tenant".to_owned(), tenant.to_owned()));
        let agent = Agent::ready(config).await.expect("an agent");
        of.entry(tenant).or_default().insert(session_of(&agent).await);
    }
    assert!(of["red"].is_disjoint(&of["blue"]), "{of:?}");
    assert_eq!((of["red"].len(), of["blue"].len()), (1, 1), "equal ones share");
    rig.stop().await;
}
