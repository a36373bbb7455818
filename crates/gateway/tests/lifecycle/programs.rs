//! Program backends and their children: none survives the end of its session or of the gateway, however that ends.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use mcpool_testkit::agent::{Agent, AgentConfig};
use serde_json::json;

use crate::{
    process::{PATIENCE, Process},
    shutdown::{gone, runs},
};

/// A server whose child leaves its process group and ignores all signals it can. `$1` is what the server does at the
/// end of its input.
const SERVER: &str = r#"
trap '' TERM INT HUP
setsid sh -c 'while :; do sleep 1; done' &
child=$!
echo "$$ $child" >> "$PIDS"
sleep "${BOOT:-0}"
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"method":"initialize"'*)
      say "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"escaping","version":"1"}}' ;;
    *'"method":"tools/list"'*) say "$id" '{"tools":[]}' ;;
    *'"method":"tools/call"'*) say "$id" "{\"content\":[{\"type\":\"text\",\"text\":\"$$ $child\"}]}" ;;
    *'"id":'*) say "$id" '{}' ;;
  esac
done
[ "$1" = deaf ] && while :; do sleep 1; done
exit 0
"#;

struct Escaping {
    process: Process,
    file: PathBuf,
}

impl Escaping {
    async fn start(name: &str, at_end: &str) -> Self {
        Self::start_with(name, at_end, "").await
    }

    /// Also sets this variable.
    async fn start_with(name: &str, at_end: &str, variable: &str) -> Self {
        let file = std::env::temp_dir().join(format!("mcpool-escaping-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let script = file.with_extension("sh");
        fs::write(&script, SERVER).expect("a script");
        let config = format!(
            "[shutdown]\ngrace = \"1s\"\n[backends.p]\ncommand = \"sh\"\nargs = [{script:?}, {at_end:?}]\n\
             env = {{ PIDS = {file:?}, {variable} }}\n"
        );
        Self { process: Process::start(name, &config).await, file }
    }

    /// An agent, and the processes of its session.
    async fn agent(&self) -> (Agent, Vec<String>) {
        let agent = Agent::ready(AgentConfig::http(self.process.url("p/mcp"))).await.expect("an agent");
        let answer = agent.call_tool("who", json!({})).await.expect("an answer");
        let pids = split(answer["content"][0]["text"].as_str().expect("text"));
        assert!(pids.len() == 2 && pids.iter().all(|pid| runs(pid)), "{pids:?}");
        (agent, pids)
    }
}

fn split(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl Drop for Escaping {
    fn drop(&mut self) {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let _ = fs::remove_file(self.file.with_extension("sh"));
        // A failed test must not leave any either.
        for pid in text.split_whitespace().filter(|pid| runs(pid)) {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        let _ = fs::remove_file(&self.file);
    }
}

fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    fields.split(' ').nth(1).expect("its parent").to_owned()
}

#[tokio::test]
async fn a_gateway_that_is_killed_leaves_no_program_behind_and_nothing_that_left_its_group() {
    let escaping = Escaping::start("killed", "deaf").await;
    let (_agent, pids) = escaping.agent().await;
    // Longer than a runtime keeps an idle thread: a thread's end is not the gateway's.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
    escaping.process.signal("KILL");
    tokio::time::timeout(Duration::from_secs(2), gone(&pids)).await.expect("gone within 2 s");
}

#[tokio::test]
async fn what_left_the_group_of_its_program_ends_with_the_gateway() {
    let mut escaping = Escaping::start("stopped", "deaf").await;
    let (_agent, pids) = escaping.agent().await;
    escaping.process.signal("TERM");
    let (status, _) = escaping.process.ended(PATIENCE).await;
    assert!(status.success(), "{}", escaping.process.log());
    gone(&pids).await;
}

#[tokio::test]
async fn what_left_the_group_of_its_program_ends_with_the_session_and_no_other_session_does() {
    for at_end in ["polite", "deaf"] {
        let escaping = Escaping::start(at_end, at_end).await;
        let (agent, pids) = escaping.agent().await;
        let (_other, others) = escaping.agent().await;
        agent.close().await;
        tokio::time::timeout(PATIENCE, async {
            while pids.iter().any(|pid| runs(pid)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("they end");
        assert!(others.iter().all(|pid| runs(pid)), "{others:?}");
    }
}

/// All processes started so far, each with its child.
fn started(escaping: &Escaping) -> Vec<Vec<String>> {
    fs::read_to_string(&escaping.file).unwrap_or_default().lines().map(split).collect()
}

#[tokio::test]
async fn an_agent_that_can_be_asked_finds_a_process_that_has_booted_while_another_such_agent_is_there() {
    let mut escaping = Escaping::start_with("booted", "polite", "BOOT = \"2\"").await;
    let ready = async || {
        let config = AgentConfig::http(escaping.process.url("p/mcp"));
        let config = config.with_capabilities(json!({ "sampling": {} }));
        let (since, agent) = (Instant::now(), Agent::ready(config).await.expect("an agent"));
        let answer = agent.call_tool("who", json!({})).await.expect("an answer");
        (agent, split(answer["content"][0]["text"].as_str().expect("text")), since.elapsed())
    };
    let (first, of_first, _) = ready().await;
    // The next process starts at once and is up two seconds later.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (_second, of_second, took) = ready().await;
    assert!(took < Duration::from_millis(1_500), "it waited for a start: {took:?}");
    assert_ne!(of_first, of_second, "each has its own");
    first.close().await;
    escaping.process.signal("TERM");
    escaping.process.ended(PATIENCE).await;
    gone(&started(&escaping).concat()).await;
}

#[tokio::test]
async fn a_program_ends_with_a_supervisor_that_is_killed() {
    let escaping = Escaping::start("supervisor", "deaf").await;
    let (_agent, pids) = escaping.agent().await;
    let supervisor = parent(&pids[0]);
    assert_eq!(parent(&supervisor), escaping.process.pid().to_string());
    assert!(Command::new("kill").args(["-9", &supervisor]).status().expect("kill").success());
    gone(&pids[..1]).await;
}

/// Output of `check --connect` for a program.
fn verdict(command: &str, args: &[&str]) -> String {
    let file = std::env::temp_dir().join(format!("mcpool-verdict-{}.toml", std::process::id()));
    fs::write(&file, format!("[backends.p]\ncommand = {command:?}\nargs = {args:?}\n")).expect("a file");
    let checked = Command::new(env!("CARGO_BIN_EXE_mcpool"))
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .expect("the binary starts");
    let _ = fs::remove_file(&file);
    String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned()
}

#[test]
fn why_a_program_ended_or_did_not_start_is_told_as_if_nothing_stood_between() {
    let folder = std::env::temp_dir();
    let folder = folder.to_str().expect("text");
    for (command, args, why) in [
        (
            "no-such-program",
            &[][..],
            "its program \"no-such-program\" does not start: it is in no folder of PATH",
        ),
        ("/no/such/program", &[], "its program \"program\" does not start: there is no such file"),
        (folder, &[], "does not start: Permission denied"),
        ("sh", &["-c", "exit 7"], "the process ended (exit status: 7)"),
        ("sh", &["-c", "kill -TERM $$"], "the process ended (signal: 15 (SIGTERM))"),
        ("sh", &["-c", "kill -KILL $$"], "the process ended (signal: 9 (SIGKILL))"),
        ("sh", &["-c", "kill -TERM 0"], "the process ended (signal: 15 (SIGTERM))"),
    ] {
        let told = verdict(command, args);
        assert!(told.contains(why), "{command} {args:?}: {told}");
    }
}
