//! The gateway is killed under two hundred agents on shared sessions, and restarted: their sessions work at once, and
//! only calls in flight are lost. The real binary over real sockets.

#![allow(clippy::print_stdout, reason = "figures for whoever asks for them with --nocapture")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::future::join_all;
use mcpool_testkit::{
    Script, Server,
    agent::{Agent, AgentConfig, AgentError},
};
use serde_json::json;

/// A gateway that can be killed and restarted at one address with its state.
struct Lives {
    folder: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

impl Lives {
    async fn begin(name: &str, backend: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let table = format!("[sessions]\nstate_dir = \"state\"\n\n[backends.demo]\nurl = \"{backend}\"\n");
        fs::write(folder.join("mcpool.toml"), format!("{table}mode = \"shared\"\n")).expect("a file");
        let (listen, admin) = (free(), free());
        let child = start(&folder, listen, admin);
        let lives = Self { folder, listen, admin, child };
        lives.listens().await;
        lives
    }

    /// SIGKILL: no drain and no last write.
    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    async fn again(&mut self) {
        self.child = start(&self.folder, self.listen, self.admin);
        self.listens().await;
    }

    async fn listens(&self) {
        let ready = async {
            while tokio::net::TcpStream::connect(self.listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the gateway listens");
    }

    fn url(&self) -> String {
        format!("http://{}/demo/mcp", self.listen)
    }

    /// The sum of all series with this prefix; 0 if there is none.
    async fn metric(&self, series: &str) -> u64 {
        let page =
            Agent::connect(AgentConfig::http(format!("http://{}/x", self.admin))).await.expect("a page");
        let got = page.get("/metrics", &[("accept", "*/*")]).await.expect("metrics");
        let text = String::from_utf8_lossy(&got.body).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(series)).collect();
        let family = series.split('{').next().unwrap_or(series);
        assert!(text.lines().any(|line| line.starts_with(family)), "no {family}");
        let value = |line: &&str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok());
        lines.iter().map(|line| value(line).unwrap_or_else(|| panic!("{line}"))).sum()
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start(folder: &Path, listen: SocketAddr, admin: SocketAddr) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_mcpool"))
        .args(["serve", "--config"])
        .arg(folder.join("mcpool.toml"))
        .args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary starts")
}

async fn echo(agent: &Agent, text: &str) -> Result<(), AgentError> {
    let answer = agent.call_tool("echo", json!({ "text": text })).await?;
    assert!(answer.to_string().contains(text), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_go_on_after_kill_9_and_only_calls_in_flight_are_lost() {
    const AGENTS: usize = 200;
    const IN_FLIGHT: usize = 20;
    let backend = Server::start(Script::default()).await.expect("a backend");
    let mut gateway = Lives::begin("restart", &backend.url_http()).await;
    let url = gateway.url();
    let config = || AgentConfig::http(url.clone()).with_timeout(Duration::from_secs(60));
    let ready = (0..AGENTS).map(|n| Agent::ready(if n % 4 == 0 { config().listening() } else { config() }));
    let agents: Vec<Agent> =
        join_all(ready).await.into_iter().map(|agent| agent.expect("it is served")).collect();
    let ended = Agent::ready(config()).await.expect("an agent is served");
    let session = ended.session_id().expect("a session id");
    ended.close().await;

    for round in 0..2 {
        // Some calls run; no other agent has one.
        let running: Vec<_> = agents[..IN_FLIGHT]
            .iter()
            .map(|agent| agent.start_tool("sleep", json!({ "ms": 60_000 })).expect("an open agent"))
            .collect();
        let in_flight = async {
            while gateway.metric("mcpool_leases_in_use{backend=\"demo\"}").await < IN_FLIGHT as u64 {}
        };
        tokio::time::timeout(Duration::from_secs(30), in_flight).await.expect("all calls run");
        gateway.kill();
        let ends = join_all(running.into_iter().map(async |mut call| call.finish().await)).await;
        let lost = ends.iter().filter(|end| matches!(end, Err(AgentError::Closed(_)))).count();
        assert_eq!(lost, IN_FLIGHT, "{ends:?}");
        let before = Instant::now();
        gateway.again().await;
        let started = before.elapsed();
        let results = join_all(agents.iter().enumerate().map(async |(n, agent)| {
            let began = Instant::now();
            echo(agent, &format!("r{round}a{n}")).await.map(|()| began.elapsed())
        }))
        .await;
        let slowest = results.iter().flatten().max().copied();
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {AGENTS} failed: {:?}", failed.len(), failed[0]);
        let restored = gateway.metric("mcpool_agent_restores_total{outcome=\"restored\"}").await;
        assert_eq!(restored, AGENTS as u64);
        println!(
            "round {round}: {lost} in flight lost, {AGENTS} restored; listening after {started:?}, slowest call {slowest:?}"
        );
        // The agent's event stream resumes too.
        for agent in agents.iter().step_by(4) {
            agent.listen().await.expect("its stream");
        }
        // The deleted session stays deleted.
        let ghost = Agent::connect(config()).await.expect("no dial yet");
        let body = json!({"jsonrpc":"2.0","id":1,"method":"tools/list"}).to_string();
        let got = ghost.post_bytes(body, &[("mcp-session-id", &session)]).await.expect("an answer");
        assert_eq!(got.status, 404);
        // No new handshake took place, with the gateway or the backend.
        let greeted = gateway.metric("mcpool_requests_total{backend=\"demo\",method=\"initialize\"").await;
        assert_eq!(greeted, 0);
    }
}
