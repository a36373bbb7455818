//! What one agent leaves in a session or a server, and who meets it there (E9, E11 to E13, E15). Toggles, state and
//! revealed tools are in `isolation`, mode by mode.

use std::time::Duration;

use mcpool_testkit::{
    Script,
    agent::{Agent, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::{Value, json};

use crate::{
    rig::Rig,
    wires::{PAIRS, WIRES, agent, config, over, rig, said, serve, until, wanted},
};

const PATIENCE: Duration = Duration::from_secs(10);

async fn tools(agent: &Agent) -> Vec<String> {
    let list = agent.request("tools/list", json!({})).await.expect("a list");
    let names = list["tools"].as_array().expect("tools").iter().map(|tool| tool["name"].as_str());
    names.map(|name| name.unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_sees_the_tools_of_its_own_capabilities() {
    for (front, back) in PAIRS {
        let server = serve(Script { list_by_capability: true, ..Script::default() }).await;
        let rig = rig(&server, back, ModeChoice::Auto).await;
        let able = config(&rig, front).with_capabilities(json!({ "roots": {} }));
        // Neither the one that comes first nor a list that is kept decides for the other.
        for _ in 0..2 {
            let neutral = agent(&rig, front).await;
            let able = Agent::ready(able.clone()).await.expect("an agent");
            for _ in 0..2 {
                assert!(!tools(&neutral).await.contains(&"ask".to_owned()), "{front:?} {back:?}");
                assert!(tools(&able).await.contains(&"ask".to_owned()), "{front:?} {back:?}");
            }
        }
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsubscription_silences_nobody_else() {
    const URI: &str = "demo://readme";
    for mode in [ModeChoice::Pinned, ModeChoice::Shared] {
        for back in WIRES {
            let server = serve(Script::default()).await;
            let rig = rig(&server, back, mode).await;
            let (one, two) = (agent(&rig, Transport::Http).await, agent(&rig, Transport::Sse).await);
            one.listen().await.expect("a stream");
            let uri = || json!({ "uri": URI });
            one.request("resources/subscribe", uri()).await.expect("subscribed");
            two.request("resources/subscribe", uri()).await.expect("subscribed");
            two.request("resources/unsubscribe", uri()).await.expect("unsubscribed");
            until("the subscription is known", || server.resource_updated(URI) > 0).await;
            let updated = one.next_notification("notifications/resources/updated", PATIENCE).await;
            assert_eq!(updated.expect("told")["uri"], URI, "{mode:?} {back:?}");
            over(rig).await;
        }
    }
}

/// The log lines of a call that came to its agent.
async fn lines(agent: &Agent) -> usize {
    let arguments = json!({ "steps": 3, "nonce": "mine", "log": true });
    let before = agent.notifications().len();
    agent.call_with_progress("progress", arguments).await.expect("answered");
    agent.notifications().len() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_silences_nobody_else() {
    let server = serve(Script::default()).await;
    for mode in [ModeChoice::Pinned, ModeChoice::Shared] {
        for front in WIRES {
            let rig = rig(&server, Transport::Http, mode).await;
            let (one, two) = (agent(&rig, front).await, agent(&rig, front).await);
            one.request("logging/setLevel", json!({ "level": "debug" })).await.expect("taken");
            two.request("logging/setLevel", json!({ "level": "emergency" })).await.expect("taken");
            assert_eq!(lines(&one).await, 3, "{mode:?} {front:?}");
            assert!(one.notifications().iter().all(|(_, line)| line["data"] == "mine"));
            over(rig).await;
        }
    }
}

/// An agent whose user opened one folder.
async fn owner(rig: &Rig, front: Transport, root: &'static str) -> Agent {
    let able = config(rig, front).with_capabilities(json!({ "roots": { "listChanged": true } }));
    let agent = Agent::connect(able).await.expect("connected");
    agent.on_request(move |_, _: &Value| Some(Ok(json!({ "roots": [{ "uri": format!("file://{root}") }] }))));
    agent.initialize().await.expect("initialized");
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_open_the_files_of_their_owner_only() {
    for (front, back) in PAIRS {
        let server = serve(Script { state_tools: true, ..Script::default() }).await;
        let rig = rig(&server, back, ModeChoice::Auto).await;
        let (anna, bert) = (owner(&rig, front, "/anna").await, owner(&rig, front, "/bert").await);
        let may = async |agent: &Agent, path: &str| {
            said(agent, "allowed", json!({ "key": path })).await == "allowed"
        };
        for _ in 0..2 {
            assert!(may(&anna, "/anna/x").await && may(&bert, "/bert/x").await, "{front:?} {back:?}");
            assert!(!may(&anna, "/bert/x").await && !may(&bert, "/anna/x").await, "{front:?} {back:?}");
            let told = server.stats().requests_of("notifications/roots/list_changed");
            bert.notify("notifications/roots/list_changed", json!({})).await.expect("taken");
            until("the server knows", || {
                server.stats().requests_of("notifications/roots/list_changed") > told
            })
            .await;
        }
        // On a shared session there are no roots, and nobody's change is passed on.
        let told = server.stats().requests_of("notifications/roots/list_changed");
        let neutral = agent(&rig, front).await;
        neutral.notify("notifications/roots/list_changed", json!({})).await.expect("taken");
        assert!(!may(&neutral, "/anna/x").await && !may(&neutral, "/bert/x").await);
        assert_eq!(server.stats().requests_of("notifications/roots/list_changed"), told);
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_at_a_time_loses_no_write() {
    const WRITES: usize = 30;
    for back in WIRES {
        let server = serve(Script { state_tools: true, ..Script::default() }).await;
        let mut wanted = wanted(&server, back, ModeChoice::Shared);
        (wanted.limits.shared_sessions, wanted.limits.calls_per_session) = (1, 1);
        let rig = Rig::start(wanted).await;
        let mut agents = Vec::new();
        for _ in 0..5 {
            agents.push(agent(&rig, Transport::Http).await);
        }
        let write = |n: usize| agents[n % 5].call_tool("store", json!({ "value": n.to_string(), "ms": 5 }));
        let written = futures::future::join_all((0..WRITES).map(write)).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(server.stored().len(), WRITES, "over {back:?}");
        over(rig).await;
    }
}
