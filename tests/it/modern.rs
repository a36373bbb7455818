//! Agents with a handshake in front of a backend that has none: they notice nothing of it, and the backend sees requests
//! of its own era alone.

mod server;

use std::{sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use mcpool_testkit::{
    agent::{Agent, Transport},
    fixture::{self, Fixture, FixtureConfig},
};
use mcpool_upstream::{Mode, ModeChoice, TransportChoice};
use mcpool_wire::Era;
use serde_json::{Value, json};

use self::server::Modern;
use crate::{
    rig::{Rig, Wanted},
    wires::{WIRES, agent, config, over, said, text_of, until},
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn rig(server: &Modern) -> Rig {
    let url = server.url.clone();
    Rig::start(Wanted { mode: ModeChoice::Auto, transport: TransportChoice::Auto, ..Wanted::shared(url) })
        .await
}

/// Nothing was wrong on the wire, nothing is held, nothing is left.
async fn spotless(rig: Rig, server: &Modern) {
    let defects = server.world.defects.lock().expect("a list").clone();
    assert!(defects.is_empty(), "{defects:?}");
    assert_eq!((server.count("ping"), server.count("notifications/initialized")), (0, 0));
    over(rig).await;
    until("no stream of news stays", || server.listeners(|_| true) == 0).await;
}

/// An agent that says its name when it is asked who it is.
async fn person(rig: &Rig, front: Transport, name: String) -> Agent {
    let able = config(rig, front).with_capabilities(json!({ "elicitation": {} }));
    let agent = Agent::connect(able).await.expect("connected");
    agent.on_request(move |method, params| {
        assert_eq!(method, "elicitation/create");
        let asked = params["message"].as_str().unwrap_or_default();
        Some(Ok(match asked.starts_with(&name) {
            true => json!({ "action": "accept", "content": { "name": name } }),
            // Somebody else's question.
            false => json!({ "action": "decline" }),
        }))
    });
    agent.initialize().await.expect("initialized");
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_ask_for_goes_through_on_both_wires() {
    let server = Modern::start().await;
    let rig = rig(&server).await;
    for front in WIRES {
        let agent = agent(&rig, front).await;
        let listed = agent.request("tools/list", json!({})).await.expect("a list");
        let names: Vec<&str> = listed["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert_eq!(names, ["echo", "work", "ask", "change", "update", "slow", "region"], "{front:?}");
        assert!(listed.get("ttlMs").is_none() && listed.get("resultType").is_none(), "{listed}");
        assert_eq!(said(&agent, "echo", json!({ "a": "b" })).await, r#"{"a":"b"}"#);
        said(&agent, "region", json!({ "region": "eu" })).await;
        let read = agent.request("resources/read", json!({ "uri": "test://x" })).await.expect("contents");
        assert_eq!(read, json!({ "contents": [{ "uri": "test://x", "text": "read" }] }), "{front:?}");
        agent.request("ping", json!({})).await.expect("an answer");

        let (result, progress) = agent.call_with_progress("work", json!({})).await.expect("work");
        assert_eq!(text_of(&result), "worked");
        let steps: Vec<Value> = progress.iter().map(|one| one["progress"].clone()).collect();
        assert_eq!(steps, [json!(1), json!(2)], "{front:?}");
        assert!(agent.notifications().is_empty(), "no log unasked");

        // Nobody can be asked: the error names what is missing.
        let refused =
            agent.call_tool("ask", json!({ "nonce": "x" })).await.expect_err("nobody to ask").to_string();
        assert!(refused.contains("-32602") && refused.contains("elicitation"), "{refused}");
        let unknown = agent.call_tool("none", json!({})).await.expect_err("unknown").to_string();
        assert!(unknown.contains("-32602"), "{unknown}");
        assert!(agent.request("no/such", json!({})).await.is_err());
        agent.close().await;
    }
    let status = rig.gateway.backends()[0].backend.status();
    assert_eq!(status.era, Some(Era::Modern));
    assert!(status.sessions.iter().all(|session| session.mode == Mode::Stateless), "{:?}", status.sessions);
    spotless(rig, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_and_news_reach_those_who_want_them() {
    let server = Modern::start().await;
    let rig = rig(&server).await;
    for front in WIRES {
        let [curious, other] = [listening(&rig, front).await, listening(&rig, front).await];
        curious.request("logging/setLevel", json!({ "level": "info" })).await.expect("a level");
        // The level of those who share is told to the session in its own time.
        let line = async {
            loop {
                said(&curious, "work", json!({})).await;
                if let Ok(line) =
                    curious.next_notification("notifications/message", Duration::from_millis(50)).await
                {
                    return line;
                }
            }
        };
        let line = tokio::time::timeout(PATIENCE, line).await.expect("a line of the log");
        assert!(line.to_string().contains("wanted "), "{line}");

        let uri = format!("test://{front:?}");
        curious.request("resources/subscribe", json!({ "uri": uri })).await.expect("subscribed");
        said(&other, "update", json!({ "uri": uri })).await;
        let updated =
            curious.next_notification("notifications/resources/updated", PATIENCE).await.expect("told");
        assert_eq!(updated["uri"], uri.as_str(), "{updated}");
        assert!(!updated.to_string().contains("subscriptionId"), "{updated}");

        said(&other, "change", json!({})).await;
        for agent in [&curious, &other] {
            agent.next_notification("notifications/tools/list_changed", PATIENCE).await.expect("told");
        }
        let strays: Vec<_> = other.notifications();
        assert!(strays.iter().all(|(method, _)| method != "notifications/resources/updated"), "{strays:?}");
        curious.request("resources/unsubscribe", json!({ "uri": uri })).await.expect("unsubscribed");
        curious.close().await;
        other.close().await;
    }
    spotless(rig, &server).await;
}

async fn listening(rig: &Rig, front: Transport) -> Agent {
    Agent::ready(config(rig, front).listening()).await.expect("an agent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_called_is_who_is_asked_with_64_calls_at_a_time() {
    let server = Modern::start().await;
    let rig = rig(&server).await;
    let mut agents = Vec::new();
    for (front, number) in WIRES.into_iter().cycle().zip(0..8) {
        let name = format!("p{number}.");
        agents.push((person(&rig, front, name.clone()).await, name));
    }
    let calls = agents.iter().flat_map(|(agent, name)| {
        (0..8).map(move |number| async move {
            let nonce = format!("{name}{number}");
            let who = said(agent, "ask", json!({ "nonce": nonce })).await;
            assert_eq!(who, *name, "the one who was asked by {nonce}");
        })
    });
    join_all(calls).await;
    assert_eq!(server.count("tools/call"), 2 * 64, "one round of questions each");
    let status = rig.gateway.backends()[0].backend.status();
    assert!(status.sessions.iter().all(|session| session.mode == Mode::Stateless), "nobody is pinned");
    for (agent, _) in &agents {
        agent.close().await;
    }
    spotless(rig, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_is_closed_at_the_backend_and_gives_its_slot_back() {
    let server = Modern::start().await;
    let rig = rig(&server).await;
    for (front, number) in WIRES.into_iter().zip(1..) {
        let agent = agent(&rig, front).await;
        let slow = agent.start_tool("slow", json!({})).expect("started");
        until("the backend has it", || server.world.started.load(Ordering::SeqCst) == number).await;
        agent.cancel(slow.id()).await.expect("cancelled");
        until("the backend knows", || server.world.left.load(Ordering::SeqCst) == number).await;
        until("the slot is back", || rig.held() == (0, 0, 0)).await;
        assert_eq!(said(&agent, "echo", json!({})).await, "{}");
        agent.close().await;
    }
    spotless(rig, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rounds_of_the_fixture_are_played_by_agents_that_know_no_rounds() {
    let config = FixtureConfig { era: fixture::Era::Modern, ..FixtureConfig::default() };
    let fixture = Fixture::start(config).await.expect("a backend");
    let rig = Rig::start(Wanted { mode: ModeChoice::Auto, ..Wanted::shared(fixture.url()) }).await;
    for front in WIRES {
        let able = json!({ "elicitation": {}, "sampling": {}, "roots": { "listChanged": true } });
        let agent = Agent::connect(config_with(&rig, front, able)).await.expect("connected");
        agent.on_request(|method, params| {
            let asked = params["message"].as_str().unwrap_or_default();
            Some(Ok(match method {
                "elicitation/create" if asked.contains("color") => json!({ "action": "accept", "content": { "color": "red" } }),
                "elicitation/create" => json!({ "action": "accept", "content": { "name": "Ada", "ok": true, "context": "c" } }),
                "roots/list" => json!({ "roots": [{ "uri": "file:///a" }] }),
                _ => json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Paris" } }),
            }))
        });
        agent.initialize().await.expect("initialized");
        for (tool, says) in [
            ("elicitation", "Hello, Ada!"),
            ("sampling", "The model says: Paris"),
            ("list_roots", "file:///a"),
            ("request_state", "state-ok: true"),
            ("multiple_inputs", "Hello, Ada! Paris Roots:"),
            ("multi_round", "Hello, Ada! Your favorite color: red"),
            ("capabilities", "elicitation, sampling, roots"),
        ] {
            let text = said(&agent, &format!("test_input_required_result_{tool}"), json!({})).await;
            assert!(text.contains(says), "{front:?} {tool}: {text}");
        }
        let prompt =
            agent.request("prompts/get", json!({ "name": "test_input_required_result_prompt" })).await;
        assert!(prompt.expect("a prompt").to_string().contains("Use this context: c"));
        assert_eq!(
            said(&agent, "test_simple_text", json!({})).await,
            "This is a simple text response for testing."
        );
        agent.close().await;
    }
    assert!(fixture.listeners() > 0, "the news are listened to");
    over(rig).await;
}

fn config_with(rig: &Rig, front: Transport, capabilities: Value) -> mcpool_testkit::agent::AgentConfig {
    config(rig, front).with_capabilities(capabilities)
}
