//! Retirement of program sessions with running calls: the process that got a call answers it despite reloads, and new
//! calls go to another process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mcpool_testkit::agent::{Agent, AgentConfig, Started};
use serde_json::json;

use crate::{
    console::ask,
    process::{PATIENCE, Process},
    shutdown::{gone, runs},
};

/// A server whose tool `slow` takes two seconds with progress and returns its process id.
const SERVER: &str = r#"
say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
number() { printf '%s' "$2" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }
slow() {
  for at in 1 2 3 4; do
    sleep 0.5
    printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%s}}\n' "$2" "$at"
  done
  say "$1" "{\"content\":[{\"type\":\"text\",\"text\":\"$$\"}]}"
}
while read -r line; do
  id=$(number id "$line")
  case "$line" in
    *'"method":"initialize"'*)
      say "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"slow","version":"1"}}' ;;
    *'"method":"tools/list"'*)
      say "$id" '{"tools":[{"name":"slow","inputSchema":{"type":"object"}},{"name":"who","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}]}' ;;
    *'"name":"slow"'*) slow "$id" "$(number progressToken "$line")" & ;;
    *'"method":"tools/call"'*) say "$id" "{\"content\":[{\"type\":\"text\",\"text\":\"$$\"}]}" ;;
    *'"method":"notifications/cancelled"'*) : > "$CANCELLED" ;;
    *'"id":'*) say "$id" '{}' ;;
  esac
done
wait
"#;

struct Slow {
    process: Process,
    script: PathBuf,
    agents: Vec<(Agent, Started, String)>,
}

impl Slow {
    /// A gateway with one running call per transport.
    async fn start(name: &str, more: &str) -> Self {
        let script = std::env::temp_dir().join(format!("mcpool-{name}-{}.sh", std::process::id()));
        fs::write(&script, SERVER).expect("a script");
        let process = Process::start(name, &config("a", &script, more)).await;
        let mut agents = Vec::new();
        for config in [AgentConfig::http(process.url("a/mcp")), AgentConfig::sse(process.url("a/sse"))] {
            let agent = Agent::ready(config).await.expect("an agent is served");
            let pid = who(&agent).await;
            let mut call = agent.start_tool("slow", json!({})).expect("started");
            call.progress().await.expect("it runs");
            agents.push((agent, call, pid));
        }
        Self { process, script, agents }
    }

    /// All calls succeed, and then their processes end.
    async fn all_answered(mut self) {
        let mut pids = Vec::new();
        for (_agent, call, pid) in &mut self.agents {
            let answer = call.finish().await.unwrap_or_else(|why| panic!("{why:?}:\n{}", self.process.log()));
            assert_eq!(answer["content"][0]["text"], pid.as_str(), "by the process that it was sent to");
            let mut last = 0;
            while let Some(progress) = call.try_progress() {
                last = progress["progress"].as_u64().expect("a number");
            }
            assert_eq!(last, 4, "its progress was passed on to the end");
            pids.push(pid.clone());
        }
        assert!(!self.script.with_extension("cancelled").exists(), "nothing was cancelled");
        drop(std::mem::take(&mut self.agents));
        gone(&pids).await;
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = (fs::remove_file(&self.script), fs::remove_file(self.script.with_extension("cancelled")));
    }
}

fn config(name: &str, script: &Path, more: &str) -> String {
    let cancelled = script.with_extension("cancelled");
    format!(
        "[backends.{name}]\ncommand = \"sh\"\nargs = [{script:?}]\nenv.CANCELLED = {cancelled:?}\n\
         drain_timeout = \"100ms\"\nserialize_writes = \"off\"\n{more}\n"
    )
}

async fn who(agent: &Agent) -> String {
    let answer = agent.call_tool("who", json!({})).await.expect("served");
    answer["content"][0]["text"].as_str().expect("text").to_owned()
}

const MODES: [&str; 2] = ["mode = \"shared\"", "mode = \"pinned\""];

#[tokio::test]
async fn an_old_program_ends_with_its_last_call() {
    let slow = Slow::start("program-age", "mode = \"shared\"\nmax_age = \"1s\"").await;
    let agent = slow.process.agent("a").await;
    let other = async {
        while slow.agents.iter().any(|(_, _, pid)| runs(pid)) {
            let pid = who(&agent).await;
            if slow.agents.iter().all(|(_, _, old)| *old != pid) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody was served by a new one while the old one had calls");
    };
    tokio::time::timeout(PATIENCE, other).await.expect("replaced");
    slow.all_answered().await;
}

#[tokio::test]
async fn reconnect_cuts_no_call_of_a_program() {
    for (mode, name) in MODES.into_iter().zip(["program-reconnect-shared", "program-reconnect-pinned"]) {
        let slow = Slow::start(name, mode).await;
        let (code, said) = ask(&slow.process, &["reconnect", "a", "--pinned"]).await;
        assert_eq!(code, Some(0), "{said}");
        slow.all_answered().await;
    }
}

#[tokio::test]
async fn a_changed_environment_cuts_no_call_of_a_program_and_the_next_one_has_it() {
    for (mode, name) in MODES.into_iter().zip(["program-env-shared", "program-env-pinned"]) {
        let slow = Slow::start(name, mode).await;
        slow.process.configure(&config("a", &slow.script, &format!("{mode}\nenv.TWO = \"2\"")));
        slow.process.until_generation(2).await;
        let pid = who(&slow.process.agent("a").await).await;
        let variables = fs::read_to_string(format!("/proc/{pid}/environ")).expect("it runs");
        assert!(variables.contains("TWO=2"), "{variables:?}");
        assert!(slow.agents.iter().all(|(_, _, old)| *old != pid && runs(old)), "both run meanwhile");
        slow.all_answered().await;
    }
}

#[tokio::test]
async fn a_renamed_program_answers_what_runs() {
    for (mode, name) in MODES.into_iter().zip(["program-name-shared", "program-name-pinned"]) {
        let slow = Slow::start(name, mode).await;
        slow.process.configure(&config("b", &slow.script, mode));
        slow.process.until_generation(2).await;
        who(&slow.process.agent("b").await).await;
        slow.all_answered().await;
    }
}
