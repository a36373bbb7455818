//! Retirement of sessions with running calls, by age, by an admin action or by a reload: no call is cut.

use std::time::Duration;

use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig, Started},
};
use serde_json::json;

use crate::{
    process::{PATIENCE, Process},
    reload::backend,
};

/// Far shorter than the calls here.
const DRAIN: &str = "drain_timeout = \"100ms\"";

async fn server() -> Server {
    Server::start(Script::default()).await.expect("a backend")
}

/// A call of 2 s that has reached its backend.
async fn long_call(agent: &Agent, server: &Server) -> Started {
    let before = server.stats().requests_of("tools/call");
    let call = agent.start_tool("sleep", json!({ "ms": 2_000, "nonce": "long" })).expect("started");
    while server.stats().requests_of("tools/call") == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    call
}

/// Agents of both transports, with shared and with own sessions.
async fn agents(process: &Process, server: &Server) -> Vec<(Agent, Started)> {
    let own = json!({ "roots": {}, "sampling": {} });
    let configs = [
        AgentConfig::http(process.url("a/mcp")),
        AgentConfig::sse(process.url("a/sse")),
        AgentConfig::http(process.url("a/mcp")).with_capabilities(own),
    ];
    let mut all = Vec::new();
    for config in configs {
        let agent = Agent::ready(config).await.expect("an agent is served");
        let call = long_call(&agent, server).await;
        all.push((agent, call));
    }
    all
}

#[tokio::test]
async fn a_changed_header_cuts_no_call_however_short_the_drain_is() {
    for url in [Server::url_http, Server::url_sse] {
        let server = server().await;
        let process = Process::start("header", &backend("a", &url(&server), DRAIN)).await;
        let calls = agents(&process, &server).await;
        process.configure(&backend("a", &url(&server), &format!("{DRAIN}\nheaders = {{ x-two = \"2\" }}")));
        process.until_generation(2).await;
        process
            .agent("a")
            .await
            .call_tool("echo", json!({ "nonce": "new" }))
            .await
            .expect("served meanwhile");
        for (_agent, mut call) in calls {
            call.finish().await.expect("a call that runs ends");
        }
        assert_eq!(server.stats().cancels, 0);
    }
}

#[tokio::test]
async fn a_renamed_backend_answers_what_runs() {
    let server = server().await;
    let process = Process::start("renamed", &backend("a", &server.url_http(), DRAIN)).await;
    let calls = agents(&process, &server).await;
    process.configure(&backend("b", &server.url_http(), DRAIN));
    process.until_generation(2).await;
    for (_agent, mut call) in calls {
        call.finish().await.expect("a call that runs ends");
    }
    process.agent("b").await;
}

#[tokio::test]
async fn a_truncated_file_takes_nothing_away_and_one_that_is_written_in_two_steps_neither() {
    let (one, two) = (server().await, server().await);
    let (first, second) = (backend("a", &one.url_http(), ""), backend("b", &two.url_http(), ""));
    let process = Process::start("truncated", &format!("{first}{second}")).await;
    let agent = process.agent("b").await;
    let file = process.folder.join("mcpool.toml");
    // Written in place, as by an editor on a slow disk, with pauses longer than the watcher's quiet time.
    for half in ["", "# nothing yet\n", first.as_str()] {
        std::fs::write(&file, half).expect("truncated");
        tokio::time::sleep(Duration::from_millis(900)).await;
        agent.call_tool("echo", json!({ "nonce": "n" })).await.expect("served");
        std::fs::write(&file, format!("{first}{second}")).expect("written");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(process.metric("mcpool_config_generation").await, Some(1.0));
    // A file that stays empty is rejected and reported.
    std::fs::write(&file, "# gone\n").expect("truncated");
    process.until_metric("mcpool_config_last_reload_successful", 0.0).await;
    assert!(process.log().contains("no backend is configured"), "{}", process.log());
    agent.call_tool("echo", json!({ "nonce": "m" })).await.expect("served");
    std::fs::remove_file(&file).expect("removed");
    let said = async {
        while !process.log().contains("the configuration file is gone") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.expect("it is said");
    agent.call_tool("echo", json!({ "nonce": "o" })).await.expect("served");
}

#[tokio::test]
async fn calls_that_follow_to_a_dead_backend_share_one_attempt() {
    let (old, dead) = (server().await, server().await);
    let url = dead.url_http();
    dead.stop().await;
    let process = Process::start("shared", &backend("a", &old.url_http(), "")).await;
    let agent = process.agent("a").await;
    process.configure(&backend("a", &url, "queue_timeout = \"1s\"\nfirst_open_timeout = \"1s\""));
    process.until_generation(2).await;
    let since = std::time::Instant::now();
    let calls: Vec<_> =
        (0..10).map(|_| agent.start_tool("echo", json!({ "nonce": "n" })).expect("started")).collect();
    for mut call in calls {
        call.finish().await.expect_err("it is dead");
    }
    assert!(since.elapsed() < Duration::from_secs(5), "one after the other: {:?}", since.elapsed());
    let since = std::time::Instant::now();
    Agent::ready(AgentConfig::http(process.url("a/mcp"))).await.map(|_| ()).expect_err("it is dead");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_call_waits_through_many_changes_for_a_backend_that_is_still_there() {
    let old = server().await;
    let slow = Server::start(Script { handshake_delay: Duration::from_millis(700), ..Script::default() });
    let slow = slow.await.expect("a backend");
    let process =
        Process::start("again", &format!("watch = false\n{}", backend("a", &old.url_http(), ""))).await;
    let agent = process.agent("a").await;
    let mut waiting = None;
    for round in 0..12 {
        let header = format!("headers = {{ x-round = \"{round}\" }}");
        process.configure(&format!("watch = false\n{}", backend("a", &slow.url_http(), &header)));
        process.signal("HUP");
        process.until_generation(round + 2).await;
        waiting.get_or_insert_with(|| {
            agent.start_tool("add", json!({ "nonce": "n", "a": 1, "b": 2 })).expect("started")
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    waiting.expect("started").finish().await.expect("it is served in the end");
    assert_eq!(old.executions("n") + slow.executions("n"), 1);
}
