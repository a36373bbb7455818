//! Shutdown: graceful if possible, always in time, with nothing left behind.

use std::{fs, path::Path, time::Duration};

use mcpool_testkit::{
    Fault, FaultKind, Script, Server, Stage,
    agent::{Agent, AgentConfig, AgentError, Started},
};
use serde_json::json;

use crate::process::{PATIENCE, Process};

/// A server with a child that ends only by SIGKILL and answers no call.
const STUBBORN: &str = r#"
trap '' TERM INT HUP
sleep 1000 &
echo "$$ $!" > "$PIDS"
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"method":"initialize"'*)
      say "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"stubborn","version":"1"}}' ;;
    *'"method":"ping"'*) say "$id" '{}' ;;
    *'"method":"tools/list"'*) say "$id" '{"tools":[{"name":"stuck","inputSchema":{"type":"object"}}]}' ;;
    *'"method":"tools/call"'*) : > "$PIDS.called" ;;
  esac
done
while :; do sleep 1; done
"#;

struct Stubborn {
    process: Process,
    _agent: Agent,
    _call: Started,
}

impl Stubborn {
    /// A gateway with a call that its program never answers.
    async fn start(name: &str, grace: &str) -> Self {
        let pids = std::env::temp_dir().join(format!("mcpool-pids-{name}-{}", std::process::id()));
        let called = pids.with_extension("called");
        let _ = (fs::remove_file(&pids), fs::remove_file(&called));
        let script = pids.with_extension("sh");
        fs::write(&script, STUBBORN).expect("a script");
        let config = format!(
            "[shutdown]\ngrace = \"{grace}\"\n[backends.p]\ncommand = \"sh\"\nargs = [{:?}]\nenv = {{ PIDS = {:?} }}\n",
            script, pids
        );
        let process = Process::start(name, &config).await;
        fs::write(process.folder.join("pids"), pids.as_os_str().as_encoded_bytes()).expect("a note");
        let agent = Agent::ready(AgentConfig::sse(process.url("p/sse"))).await.expect("an agent is served");
        let call = agent.start_tool("stuck", json!({})).expect("started");
        let sent = async {
            while !Path::new(&format!("{}.called", pids.display())).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, sent).await.expect("the call is with the program");
        Self { process, _agent: agent, _call: call }
    }

    /// The program and its child.
    fn pids(&self) -> Vec<String> {
        let file = fs::read_to_string(self.process.folder.join("pids")).expect("a note");
        let pids = fs::read_to_string(file).expect("the program wrote them");
        pids.split_whitespace().map(str::to_owned).collect()
    }
}

/// True if a process runs; a zombie does not.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) async fn gone(pids: &[String]) {
    let all = async {
        while pids.iter().any(|pid| runs(pid)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.unwrap_or_else(|_| panic!("{pids:?} still run"));
}

#[tokio::test]
async fn a_program_that_ignores_every_signal_does_not_hold_up_the_end_and_is_not_left_behind() {
    let mut stubborn = Stubborn::start("stubborn", "2s").await;
    let pids = stubborn.pids();
    assert!(pids.len() == 2 && pids.iter().all(|pid| runs(pid)), "{pids:?}");
    stubborn.process.signal("TERM");
    let (status, took) = stubborn.process.ended(PATIENCE).await;
    let log = stubborn.process.log();
    assert!(status.success(), "{status}:\n{log}");
    assert!(took <= Duration::from_secs(3), "{took:?}:\n{log}");
    assert!(took >= Duration::from_millis(1_900), "the call had its grace: {took:?}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("mcpool: stopped; not finished in time: 1 calls"), "{last}");
    gone(&pids).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_leaves_no_process_behind() {
    let mut stubborn = Stubborn::start("twice", "30s").await;
    let pids = stubborn.pids();
    stubborn.process.signal("TERM");
    while stubborn.process.page("/readyz").await.0 != 503 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stubborn.process.signal("INT");
    let (status, took) = stubborn.process.ended(PATIENCE).await;
    assert_eq!(status.code(), Some(130));
    assert!(took < Duration::from_secs(10), "{took:?}");
    gone(&pids).await;
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_does_not_hold_up_the_end() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let config = format!("[shutdown]\ngrace = \"2s\"\n[backends.b]\nurl = \"{}\"\n", server.url_http());
    let mut process = Process::start("stuck", &config).await;
    let agents = [
        process.agent("b").await,
        Agent::ready(AgentConfig::sse(process.url("b/sse"))).await.expect("an agent is served"),
    ];
    server.set_fault(Fault::always(Stage::Call, FaultKind::Silent));
    let before = server.stats().requests_of("tools/call");
    let _calls: Vec<_> = agents
        .iter()
        .map(|agent| agent.start_tool("echo", json!({ "nonce": "n" })).expect("started"))
        .collect();
    while server.stats().requests_of("tools/call") < before + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.signal("TERM");
    let (status, took) = process.ended(PATIENCE).await;
    assert!(
        status.success() && took <= Duration::from_secs(3),
        "{status} after {took:?}:\n{}",
        process.log()
    );
    assert!(process.log().contains("not finished in time: 2 calls"), "{}", process.log());
}

#[tokio::test]
async fn calls_that_are_cut_are_answered_and_those_that_wait_at_once_and_every_session_says_good_bye() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let limits = "calls_per_session = 4\nshared_sessions = 1";
    let config =
        format!("[shutdown]\ngrace = \"3s\"\n[backends.b]\nurl = \"{}\"\n{limits}\n", server.url_http());
    let mut process = Process::start("cut", &config).await;
    let agents = [
        process.agent("b").await,
        Agent::ready(AgentConfig::sse(process.url("b/sse"))).await.expect("an agent"),
    ];
    server.set_fault(Fault::always(Stage::Call, FaultKind::Silent));
    let start = |n: usize| agents[n % 2].start_tool("echo", json!({ "nonce": "n" })).expect("started");
    let calls: Vec<_> = (0..12).map(start).collect();
    // One permit is reserved for agents with nothing in flight; these have calls.
    process.until_metric("mcpool_waiting_calls{backend=\"b\"}", 9.0).await;
    let since = std::time::Instant::now();
    process.signal("TERM");
    let mut told = Vec::new();
    for mut call in calls {
        let error = call.finish().await.expect_err("nobody answers");
        let AgentError::Rpc { code, data, .. } = error else { panic!("not answered: {error:?}") };
        let executed = data["executed"].as_str().unwrap_or_default().to_owned();
        told.push((code, executed, since.elapsed()));
    }
    let of = |code: i64, executed: &str| {
        told.iter()
            .filter(|(c, e, _)| *c == code && e == executed)
            .map(|(.., took)| *took)
            .collect::<Vec<_>>()
    };
    assert_eq!((of(-31909, "no").len(), of(-31905, "maybe").len()), (9, 3), "{told:?}");
    let (status, took) = process.ended(PATIENCE).await;
    let log = process.log();
    assert!(status.success() && took < Duration::from_secs(3), "{took:?}:\n{log}");
    assert_eq!(log.lines().filter(|line| line.contains("shut down while the call was in flight")).count(), 3);
    assert_eq!(server.session_ids(), Vec::<String>::new(), "every session was ended with a DELETE:\n{log}");
    assert!(server.stats().cancels >= 3, "the backend knows that nobody waits");
}

#[tokio::test]
async fn readiness_goes_first_then_new_agents_then_calls_finish_and_sessions_say_good_bye() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let config = format!(
        "[shutdown]\ndelay = \"3s\"\ngrace = \"20s\"\n[backends.b]\nurl = \"{}\"\n",
        server.url_http()
    );
    let mut process = Process::start("orderly", &config).await;
    let agent = process.agent("b").await;
    let mut call = agent.start_tool("sleep", json!({ "ms": 5_000, "nonce": "n" })).expect("started");
    while server.stats().requests_of("tools/call") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.signal("TERM");
    let unready = async {
        while process.page("/readyz").await.0 != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unready).await.expect("readiness is off");
    // Load balancers have not noticed yet: new agents are served.
    process.agent("b").await.call_tool("echo", json!({ "nonce": "m" })).await.expect("served");
    assert!(!server.session_ids().is_empty());
    call.finish().await.expect("a call in flight finishes");
    let (status, _) = process.ended(PATIENCE).await;
    let log = process.log();
    assert!(status.success() && log.ends_with("mcpool: stopped; everything finished\n"), "{status}:\n{log}");
    assert_eq!(server.session_ids(), Vec::<String>::new(), "every session was ended with a DELETE");
}
