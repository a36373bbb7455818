//! Effects of a reload on existing and new agents.

use std::time::Duration;

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig, AgentError},
};
use serde_json::{Value, json};

use crate::process::{PATIENCE, Process};

async fn server() -> Server {
    Server::start(Script::default()).await.expect("a backend")
}

pub(crate) fn backend(name: &str, url: &str, more: &str) -> String {
    format!("[backends.{name}]\nurl = \"{url}\"\n{more}\n")
}

fn text(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// The backend session that serves the agent.
async fn session(agent: &Agent) -> String {
    text(&agent.call_tool("session", json!({})).await.expect("served"))
}

fn code_of(error: &AgentError) -> i64 {
    match error {
        AgentError::Rpc { code, .. } => *code,
        other => panic!("not a JSON-RPC error: {other:?}"),
    }
}

#[tokio::test]
async fn a_broken_file_is_refused_with_its_line_and_a_good_one_is_taken() {
    let one = server().await;
    let process = Process::start("broken", &backend("a", &one.url_http(), "")).await;
    let agent = process.agent("a").await;
    let before = session(&agent).await;

    process.configure(&format!("{}\n\nqueu = 7\n", backend("a", &one.url_http(), "").trim_end()));
    process.until_metric("mcpool_config_last_reload_successful", 0.0).await;
    let log = process.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("configuration refused")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("mcpool.toml:4: unknown key `queu`"), "{}", lines[0]);
    assert_eq!(session(&agent).await, before, "the one before stays in force");

    // A valid file: the command line keeps precedence, and keys that need a restart are named.
    let good = format!(
        "listen = \"127.0.0.1:1\"\nlog.level = \"debug\"\n{}{}",
        backend("a", &one.url_http(), ""),
        backend("b", &one.url_sse(), "")
    );
    process.configure(&good);
    process.until_generation(2).await;
    assert_eq!(process.metric("mcpool_config_last_reload_successful").await, Some(1.0));
    assert!(process.metric("mcpool_config_last_reload_success_timestamp_seconds").await > Some(1e9));
    assert_eq!(session(&agent).await, before, "an unchanged backend keeps its sessions");
    process.agent("b").await.call_tool("echo", json!({ "nonce": "n" })).await.expect("a new backend serves");
    let shown = process.json("/api/v1/config").await;
    assert_eq!((&shown["generation"], &shown["config"]["log"]["level"]), (&2.into(), &"info".into()));
    assert!(shown["config"]["backends"]["b"].is_object() && shown["config"]["listen"] != "127.0.0.1:1");
    let log = process.log();
    let warned = log.lines().find(|line| line.contains("needs a restart")).expect("a warning");
    assert!(warned.contains("\"keys\":\"log.level\""), "{warned}");
}

#[tokio::test]
async fn without_watching_a_hangup_is_what_takes_the_file() {
    let one = server().await;
    let with = |more: &str| format!("watch = false\n{}{more}", backend("a", &one.url_http(), ""));
    let process = Process::start("hangup", &with("")).await;
    process.configure(&with(&backend("b", &one.url_http(), "")));
    // Longer than the watcher takes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(process.metric("mcpool_config_generation").await, Some(1.0));
    process.signal("HUP");
    process.until_generation(2).await;
    process.agent("b").await;
}

#[tokio::test]
async fn agents_of_a_changed_backend_move_over_and_those_with_a_session_of_their_own_keep_it() {
    let (old, new) = (server().await, server().await);
    let process = Process::start("changed", &backend("a", &old.url_http(), "drain_timeout = \"5s\"")).await;
    let shared = process.agent("a").await;
    let interactive = json!({ "roots": {}, "sampling": {} });
    let config = AgentConfig::http(process.url("a/mcp")).with_capabilities(interactive);
    let pinned = Agent::ready(config).await.expect("an agent is served");
    let (of_shared, of_pinned) = (session(&shared).await, session(&pinned).await);
    assert!(old.session_ids().contains(&of_pinned) && of_shared != of_pinned);
    // A call in flight during the reload is answered by the backend it was sent to.
    let mut call = shared.start_tool("sleep", json!({ "ms": 2_000, "nonce": "slept" })).expect("started");
    while old.executions("slept") == 0 && old.stats().requests_of("tools/call") < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    process.configure(&backend("a", &new.url_http(), ""));
    process.until_generation(2).await;
    let moved = session(&shared).await;
    assert!(new.session_ids().contains(&moved), "{moved}");
    assert_eq!(session(&pinned).await, of_pinned, "an agent keeps the session that is its own");
    call.finish().await.expect("what was sent is answered");
    process.agent("a").await;
    assert!(!shared.statuses().keys().any(|status| *status >= 400), "{:?}", shared.statuses());
    // ...until the drain is over; then the session ends, and the agent must initialize again.
    let ended = async {
        while pinned.call_tool("session", json!({})).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while !old.session_ids().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("nothing is left of the old one");
}

#[tokio::test]
async fn a_removed_backend_finishes_its_calls_and_then_says_so() {
    let (one, other) = (server().await, server().await);
    let rest = backend("b", &other.url_http(), "");
    let process = Process::start("removed", &format!("{}{rest}", backend("a", &one.url_http(), ""))).await;
    let (agent, bystander) = (process.agent("a").await, process.agent("b").await);
    let before = session(&bystander).await;
    let mut call = agent.start_tool("sleep", json!({ "ms": 1_500, "nonce": "n" })).expect("started");
    while one.stats().requests_of("tools/call") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.configure(&rest);
    process.until_generation(2).await;
    let error = agent.call_tool("echo", json!({ "nonce": "late" })).await.expect_err("it is gone");
    assert_eq!(code_of(&error), -31909, "{error:?}");
    assert_eq!(one.executions("late"), 0);
    call.finish().await.expect("what was sent is answered");
    let refused = Agent::ready(AgentConfig::http(process.url("a/mcp"))).await.map(|_| ()).expect_err("404");
    assert!(format!("{refused:?}").contains("404"), "{refused:?}");
    assert_eq!(session(&bystander).await, before);
    // The last backend needs no name, and the other one's series disappear.
    Agent::ready(AgentConfig::sse(process.url("sse"))).await.expect("the only one there is");
    let gone = async {
        while process.page("/metrics").await.1.contains("backend=\"a\"") || !one.session_ids().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nothing is left of it");
}

#[tokio::test]
async fn calls_that_wait_for_a_dead_server_go_to_the_one_that_is_named_instead() {
    let (dead, new) = (server().await, server().await);
    let process = Process::start("dead", &backend("a", &dead.url_http(), "breaker.hold = \"25s\"")).await;
    let agent = process.agent("a").await;
    dead.stop().await;
    let calls: Vec<_> = (0..8)
        .map(|n| {
            agent.start_tool("add", json!({ "nonce": format!("n{n}"), "a": 1, "b": n })).expect("started")
        })
        .collect();
    process.until_metric("mcpool_waiting_calls{backend=\"a\"}", 8.0).await;
    process.configure(&backend("a", &new.url_http(), ""));
    for (n, mut call) in calls.into_iter().enumerate() {
        call.finish().await.expect("answered by the new one");
        assert_eq!(new.executions(&format!("n{n}")), 1);
    }
}

#[tokio::test]
async fn subscriptions_go_on_at_the_new_server_and_changed_lists_are_told() {
    let (old, new) = (server().await, server().await);
    let process = Process::start("subscribed", &backend("a", &old.url_http(), "mode = \"shared\"")).await;
    let agent = Agent::ready(AgentConfig::sse(process.url("a/sse"))).await.expect("an agent is served");
    let uri = "test://static/1";
    agent.request("resources/subscribe", json!({ "uri": uri })).await.expect("subscribed");
    process.configure(&backend("a", &new.url_http(), "mode = \"shared\""));
    // An idle agent moves too.
    agent.next_notification("notifications/tools/list_changed", PATIENCE).await.expect("other lists");
    let subscribed = async {
        while !new.subscriptions().contains(uri) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, subscribed).await.expect("subscribed at the new one");
    // First a notification for changes missed meanwhile, then one for a real change.
    agent.next_notification("notifications/resources/updated", PATIENCE).await.expect("in doubt");
    new.resource_updated(uri);
    agent.next_notification("notifications/resources/updated", PATIENCE).await.expect("updated");
}
