//! Backends that are programs, through the whole gateway: one process for many agents, writes that are not lost, a
//! process that is killed, a giant answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use futures::future::join_all;
use mcpool_testkit::agent::{Agent, AgentConfig, AgentError};
use mcpool_upstream::{Limits, ModeChoice, SerialWrites, StdioEndpoint};
use serde_json::{Value, json};

use crate::rig::{Rig, Wanted};

/// A folder that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-it-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn server(scratch: &Scratch) -> Wanted {
    let env = [("STORE", "store"), ("LOG", "log")].map(|(name, file)| (name.to_owned(), scratch.path(file)));
    Wanted::program(StdioEndpoint {
        command: env!("CARGO_BIN_EXE_stdio-server").into(),
        args: Vec::new(),
        env: BTreeMap::from(env),
        cwd: None,
    })
}

async fn agents(rig: &Rig, count: usize) -> Vec<Agent> {
    let url = rig.url_http();
    let ready = join_all((0..count).map(|_| Agent::ready(AgentConfig::http(url.clone())))).await;
    ready.into_iter().map(|agent| agent.expect("an agent")).collect()
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn many_agents_share_one_process_and_each_gets_its_own_answers() {
    let scratch = Scratch::new("share");
    let rig = Rig::start(server(&scratch)).await;
    let agents = agents(&rig, 20).await;
    let pids = join_all(agents.iter().enumerate().map(async |(n, agent)| {
        for round in 0..10 {
            let nonce = format!("{n}-{round}");
            let answer = agent.call_tool("echo", json!({ "nonce": nonce, "ms": (n + round) % 5 })).await;
            assert!(text(&answer.expect("an answer")).contains(&nonce));
        }
        text(&agent.call_tool("pid", json!({})).await.expect("an answer")).to_owned()
    }))
    .await;
    assert!(pids.iter().all(|pid| *pid == pids[0]), "one process: {pids:?}");
    drop(agents);
    rig.stop().await;
    let pid = pids[0].as_str();
    assert!(
        !Command::new("kill").args(["-0", pid]).status().expect("kill").success(),
        "{pid} is still there"
    );
}

#[tokio::test]
async fn fifty_agents_write_at_once_and_nothing_is_lost() {
    let scratch = Scratch::new("writes");
    let rig = Rig::start(server(&scratch)).await;
    let agents = agents(&rig, 50).await;
    let writes = agents.iter().enumerate().map(|(n, agent)| agent.call_tool("write", json!({ "n": n })));
    for written in join_all(writes).await {
        assert_eq!(text(&written.expect("an answer")), "written");
    }
    let mut stored: Vec<usize> =
        scratch.lines("store").iter().map(|line| line.parse().expect("a number")).collect();
    stored.sort_unstable();
    assert_eq!(stored, (0..50).collect::<Vec<_>>());
    drop(agents);
    rig.stop().await;
}

#[tokio::test]
async fn a_killed_process_is_one_incident_and_only_safe_calls_run_again() {
    let scratch = Scratch::new("killed");
    let mut wanted = server(&scratch);
    wanted.limits =
        Limits { calls_per_session: 32, serial_writes: SerialWrites::Off, ..Limits::of_process() };
    let rig = Rig::start(wanted).await;
    let agents = agents(&rig, 20).await;
    let pid = text(&agents[0].call_tool("pid", json!({})).await.expect("an answer")).to_owned();
    let calls = join_all(agents.iter().enumerate().map(|(n, agent)| {
        let (tool, ms) = if n < 10 { ("sleep", 1500) } else { ("write", 60_000) };
        agent.call_tool(tool, json!({ "n": n, "ms": ms }))
    }));
    let kill = async {
        // All of them have begun.
        while scratch.lines("log").len() < 21 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    };
    let (outcomes, ()) = tokio::join!(calls, kill);
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(answer) => assert!(n < 10 && text(&answer).contains(&format!("\"n\":{n}}}")), "{n}: {answer}"),
            Err(AgentError::Rpc { code, data, .. }) => {
                assert!(n >= 10 && code == -31905, "{n}: {code} {data:?}");
                assert!(data.to_string().contains("\"executed\":\"maybe\""), "{data}");
            }
            Err(other) => panic!("{n}: {other:?}"),
        }
    }
    let begun = scratch.lines("log");
    let times = |tool: &str, n: usize| begun.iter().filter(|line| **line == format!("{tool} {n}")).count();
    for n in 0..20 {
        let expect = if n < 10 { ("sleep", 2) } else { ("write", 1) };
        assert_eq!(times(expect.0, n), expect.1, "{n}: {begun:?}");
    }
    let now = tokio::time::Instant::now().into_std();
    let incidents = rig.gateway.backends()[0].breaker.snapshot(now).incidents;
    assert_eq!(incidents.iter().map(|(_, times)| *times).sum::<u64>(), 1, "{incidents:?}");
    drop(agents);
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_above_the_limit_fails_its_call_and_nobody_elses() {
    let scratch = Scratch::new("large");
    let mut wanted = server(&scratch);
    wanted.limits.max_message = 100_000;
    let rig = Rig::start(wanted).await;
    let agents = agents(&rig, 2).await;
    for array in [false, true] {
        let (large, small) = tokio::join!(
            agents[0].call_tool("large", json!({ "bytes": 3_000_000, "ms": 50, "array": array })),
            agents[1].call_tool("echo", json!({ "nonce": "small", "ms": 200 })),
        );
        match large {
            Err(AgentError::Rpc { code: -31908, .. }) => {}
            other => panic!("{array}: {other:?}"),
        }
        assert!(text(&small.expect("an answer")).contains("small"));
    }
    assert_eq!(
        text(&agents[0].call_tool("large", json!({ "bytes": 9 })).await.expect("an answer")),
        "xxxxxxxxx"
    );
    drop(agents);
    rig.stop().await;
}

#[tokio::test]
async fn a_program_nobody_knows_is_one_agents_own_and_the_next_one_is_kept_warm() {
    let scratch = Scratch::new("unknown");
    let rig = Rig::start(Wanted { mode: ModeChoice::Auto, ..server(&scratch) }).await;
    let (mut pids, mut there) = (BTreeSet::new(), Vec::new());
    for n in 1..=3 {
        // The processes of the agents there are, and one more.
        let warm = async {
            while rig.gateway.backends()[0].backend.status().sessions.len() != n {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), warm).await.expect("one waits for the next agent");
        let agent = agents(&rig, 1).await.remove(0);
        pids.insert(text(&agent.call_tool("pid", json!({})).await.expect("an answer")).to_owned());
        there.push(agent);
    }
    assert_eq!(pids.len(), 3, "each has its own");
    let decision = rig.gateway.backends()[0].backend.mode_of(false).expect("met");
    assert_eq!((decision.mode.as_str(), decision.reason.as_str()), ("pinned", "program"));
    drop(there);
    rig.stop().await;
}
