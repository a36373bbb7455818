//! Every failed call is in the log under its `request_id`, with agent, backend, duration, reason and execution state;
//! and `/metrics` shows the circuit while a backend is down. The real binary over real sockets.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mcpool_testkit::{
    Fault, FaultKind, Script, Server, Stage,
    agent::{Agent, AgentConfig, AgentError},
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

/// A gateway process, ended with the test.
struct Process {
    child: Child,
    folder: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

impl Process {
    async fn start(name: &str, backends: &str) -> Self {
        Self::limited(name, backends, None).await
    }

    /// A process with this descriptor limit.
    async fn limited(name: &str, backends: &str, descriptors: Option<usize>) -> Self {
        let folder = std::env::temp_dir().join(format!("mcpool-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (listen, admin) = (free(), free());
        fs::write(folder.join("mcpool.toml"), backends).expect("a file");
        let log = fs::File::create(folder.join("log")).expect("a log");
        let mut command = match descriptors {
            Some(most) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script, env!("CARGO_BIN_EXE_mcpool")]);
                shell
            }
            None => Command::new(env!("CARGO_BIN_EXE_mcpool")),
        };
        command.args(["serve", "--log-format", "json", "--config"]).arg(folder.join("mcpool.toml"));
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
        command.env("XDG_STATE_HOME", &folder);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let process = Self { child, folder, listen, admin };
        let ready = async {
            while tokio::net::TcpStream::connect(listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.expect("the gateway listens");
        process
    }

    fn url(&self, backend: &str) -> String {
        format!("http://{}/{backend}/mcp", self.listen)
    }

    async fn agent(&self, backend: &str) -> Agent {
        Agent::ready(AgentConfig::http(self.url(backend))).await.expect("an agent is served")
    }

    /// Waits for the log line of this request.
    async fn line(&self, request_id: &str) -> Value {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let log = fs::read_to_string(self.folder.join("log")).expect("a log");
            if let Some(line) = log.lines().find(|line| line.contains(request_id)) {
                return serde_json::from_str(line).expect("a JSON line");
            }
            assert!(Instant::now() < until, "no line for {request_id} in:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn metrics(&self) -> String {
        let agent = Agent::connect(AgentConfig::http(format!("http://{}/mcp", self.admin)))
            .await
            .expect("no dial yet");
        let got = agent.get("/metrics", &[("accept", "*/*")]).await.expect("metrics");
        String::from_utf8_lossy(&got.body).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A field of the JSON log line, at any level.
fn field(line: &Value, name: &str) -> Value {
    line.get(name).or_else(|| line.get("fields").and_then(|f| f.get(name))).cloned().unwrap_or_default()
}

fn data_of(error: &AgentError) -> (i64, Value) {
    match error {
        AgentError::Rpc { code, data, .. } => (*code, data.clone()),
        other => panic!("not a JSON-RPC error: {other:?}"),
    }
}

/// Checks that the agent's error and the log line agree.
async fn told(process: &Process, error: &AgentError, code: i64, executed: &str) {
    let (got, data) = data_of(error);
    assert_eq!((got, data["executed"].as_str()), (code, Some(executed)), "{error:?}");
    let line = process.line(data["request_id"].as_str().expect("a request_id")).await;
    for name in ["agent", "backend", "session", "method", "outcome", "executed", "cause", "attempts"] {
        assert!(!field(&line, name).is_null(), "no {name} in {line}");
    }
    assert_eq!(field(&line, "executed"), executed, "{line}");
    assert_eq!(field(&line, "backend"), data["backend"], "{line}");
    assert!(
        ["total_ms", "took_ms", "leased_ms", "sent_ms"].iter().any(|rung| field(&line, rung).is_number()),
        "{line}"
    );
}

fn config(name: &str, url: &str, more: &str) -> String {
    format!("[backends.{name}]\nurl = \"{url}\"\nmode = \"shared\"\n{more}\n")
}

#[tokio::test]
async fn every_kind_of_failing_call_is_found_in_the_log_by_its_request_id() {
    let lost = Server::start(Script::default()).await.expect("a backend");
    let silent = Server::start(Script::default()).await.expect("a backend");
    let full = Server::start(Script::default()).await.expect("a backend");
    let refused = Server::start(Script::default()).await.expect("a backend");
    let backends = [
        config("lost", &lost.url_http(), ""),
        config("silent", &silent.url_http(), "call_timeout = \"300ms\"\n"),
        config(
            "full",
            &full.url_http(),
            "calls_per_session = 1\nshared_sessions = 1\nqueue_timeout = \"200ms\"\n",
        ),
        config("refused", &refused.url_http(), "breaker.hold = \"0s\"\nbreaker.early_probe = false\n"),
    ];
    let process = Process::start("failures", &backends.concat()).await;

    // Lost in flight: the backend ran the call, then its connection broke; not safe to repeat.
    let agent = process.agent("lost").await;
    lost.set_fault(Fault::always(Stage::Call, FaultKind::CutAt(0)));
    let error = agent.call_tool("add", json!({ "nonce": "n" })).await.expect_err("cut");
    told(&process, &error, -31905, "maybe").await;

    // Timed out: accepted, never answered.
    let agent = process.agent("silent").await;
    silent.set_fault(Fault::always(Stage::Call, FaultKind::Silent));
    let error = agent.call_tool("echo", json!({ "nonce": "n" })).await.expect_err("silent");
    told(&process, &error, -31906, "maybe").await;

    // Rejected: no permit within the queue time.
    let agent = process.agent("full").await;
    let mut first = agent.start_tool("sleep", json!({ "ms": 2000 })).expect("started");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = agent.call_tool("echo", json!({ "nonce": "n" })).await.expect_err("full");
    told(&process, &error, -31902, "no").await;
    first.finish().await.expect("the first one is served");

    // Unreachable: after five failed handshakes the circuit opens.
    let agent = process.agent("refused").await;
    refused.stop().await;
    let error = agent.call_tool("echo", json!({ "nonce": "n" })).await.expect_err("refused");
    told(&process, &error, -31904, "no").await;
}

#[tokio::test]
async fn an_outage_is_seen_in_the_series_of_the_three_states() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let process = Process::start("outage", &config("b", &server.url_http(), "")).await;
    let agent = process.agent("b").await;
    let state = |metrics: &str, state: &str| {
        metrics.contains(&format!("mcpool_breaker_state{{backend=\"b\",state=\"{state}\"}} 1"))
    };
    assert!(state(&process.metrics().await, "closed"));
    server.stop().await;
    let call = tokio::spawn({
        let agent = agent.clone();
        async move { agent.call_tool("echo", json!({ "nonce": "held" })).await }
    });
    let until = Instant::now() + Duration::from_secs(10);
    while !state(&process.metrics().await, "open") {
        assert!(Instant::now() < until, "the circuit never opened");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.restart().await.expect("the same port");
    // The call held during the outage is answered, and the probe closes the circuit.
    call.await.expect("no panic").expect("a trip costs no call");
    let metrics = process.metrics().await;
    assert!(state(&metrics, "closed"), "{metrics}");
    assert!(
        metrics.contains("mcpool_breaker_probes_total{backend=\"b\",outcome=\"success\"} 1"),
        "{metrics}"
    );
}

/// Silent connections use up the descriptors for agents: new ones get 503, existing ones are served, and it recovers by
/// itself (RELIABILITY.md F17).
#[tokio::test]
async fn without_descriptors_new_connections_are_told_503_and_known_agents_go_on() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let process = Process::limited("descriptors", &config("b", &server.url_http(), ""), Some(256)).await;
    let agent = process.agent("b").await;
    agent.call_tool("echo", json!({ "nonce": "before" })).await.expect("served");
    let mut idle = Vec::new();
    for _ in 0..220 {
        idle.push(tokio::net::TcpStream::connect(process.listen).await.expect("the system accepts"));
    }
    let refused = async {
        loop {
            let mut one = tokio::net::TcpStream::connect(process.listen).await.expect("the system accepts");
            let mut start = [0; 12];
            let told = tokio::time::timeout(Duration::from_secs(1), one.read_exact(&mut start)).await;
            match told {
                Ok(Ok(_)) => break String::from_utf8_lossy(&start).into_owned(),
                // Closed for its silence; expected.
                Ok(Err(_)) => {}
                Err(_) => idle.push(one),
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(30), refused).await.expect("the descriptors end");
    assert_eq!(refused, "HTTP/1.1 503");
    for n in 0..20 {
        agent.call_tool("echo", json!({ "nonce": n.to_string() })).await.expect("known agents are served");
    }
    let metrics = process.metrics().await;
    let count = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{metrics}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    assert!(count("mcpool_agent_refused_total{kind=\"descriptors\"}") >= 1.0);
    drop(idle);
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = Agent::ready(AgentConfig::http(process.url("b"))).await {
        assert!(Instant::now() < until, "it never passed: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
